"""Steering of the bundled model: exact where nothing is changed, gone after the block, and apart in each thread."""

import contextvars
import threading
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import itda
from itda.core.site import Site
from itda.errors import ModelError, SettingError
from itda.evaluation.evaluate import evaluate
from itda.sources.corpora.corpus import Corpus, Document
from itda.sources.models.pass_tokens import PassTokens, Tokens
from itda.sources.models.transformers import LanguageModel
from itda.steering.units import typical_of_activations

SITE = Site(3)
TEXTS = ["import os, sys", "for i in range(9): print(i)"] * 3
PROMPT = "def read(path):\n    with open("
BLOCK, BOS = 3, 1


def hooks_of(lm):
    modules = list(lm.model.modules())
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)


def group_of(lm, text=PROMPT, rows=1):
    windower = lm.windower(32)
    return windower.group(windower.windows(Document("text", text)), rows)


def read(lm, text=PROMPT):
    """The activations of a text at layer 3, special tokens first."""
    return lm.activations(group_of(lm, text), [SITE])[SITE][0]


def direction(lm, seed=0, size=300.0):
    return size * torch.nn.functional.normalize(
        torch.randn(lm.d_model, generator=torch.Generator().manual_seed(seed)), dim=0
    )


def test_strength_0_and_keeping_all_atoms_change_no_bit(lm, dictionary):
    logits, text = lm.logits(group_of(lm)), lm.generate(PROMPT, max_new_tokens=3)
    for asked in (
        {"atom": 3, "strength": 0},
        {"atom": [3, 4], "strength": [0, 0.0]},
        {"keep": list(range(len(dictionary)))},
        {"ablate": []},
        {"direction": direction(lm), "strength": 0},
    ):
        with itda.steer(lm, dictionary, **asked):
            assert torch.equal(lm.logits(group_of(lm)), logits)
            assert lm.generate(PROMPT, max_new_tokens=3) == text


def test_an_atom_is_added_in_typical_coefficients(lm, dictionary):
    before, sample = read(lm), read(lm)[BOS:]
    steering = itda.steer(lm, dictionary, atom=[3, 5], strength=[4.0, -2.0], sample=sample)
    typical = typical_of_activations(dictionary, sample)
    assert steering.unit == {3: typical.of(3), 5: typical.of(5)}
    with steering:
        after = read(lm)
    expected = 4 * typical.of(3) * dictionary.atoms[3] - 2 * typical.of(5) * dictionary.atoms[5]
    real = int(group_of(lm).attention_mask.sum())
    torch.testing.assert_close(
        after[BOS:real] - before[BOS:real], expected.expand(real - BOS, -1), atol=2e-3, rtol=1e-5
    )
    assert torch.equal(after[:BOS], before[:BOS])
    assert torch.equal(after[real:], before[real:])


def test_a_held_atom_has_its_coefficient_and_others_are_as_they_were(lm, dictionary):
    before = read(lm)[BOS : int(group_of(lm).attention_mask.sum())]
    atom = int(dictionary.encode(before).indices[4, 0])
    with itda.steer(lm, dictionary, set={atom: 2.0}, sample=TEXTS) as steering:
        after = read(lm)[BOS : len(before) + BOS]
    own = dictionary.encode(before).dense(len(dictionary))[:, atom]
    expected = (2 * steering.unit[atom] - own)[:, None] * dictionary.atoms[atom]
    torch.testing.assert_close(after - before, expected, atol=2e-3, rtol=1e-5)


def test_ablating_and_adding_back_gives_the_models_own_predictions(lm, dictionary):
    clean = lm.logits(group_of(lm))
    before = read(lm)
    place = 6
    code = dictionary.encode(before[BOS + place][None])
    atom, own = int(code.indices[0, 0]), float(code.coefficients[0, 0])
    with itda.steer(lm, dictionary, ablate=[atom], at=place):
        removed = lm.logits(group_of(lm))
        with itda.steer(lm, direction=own * dictionary.atoms[atom], site=SITE, at=place):
            back = lm.logits(group_of(lm))
    assert (removed - clean).abs().max() > 1e-2
    assert (back - clean).norm() <= 1e-5 * clean.norm()


@pytest.mark.parametrize("stream", ["mlp_out", "attn_out"])
def test_other_streams_are_steered_where_they_are_read(lm, stream):
    site, v = Site(2, stream), direction(lm, size=3.0)
    before = lm.activations(group_of(lm), [site])[site][0, BOS:9]
    with itda.steer(lm, direction=v, site=site, strength=2):
        after = lm.activations(group_of(lm), [site])[site][0, BOS:9]
    torch.testing.assert_close(after - before, (2 * v).expand_as(before), atol=1e-4, rtol=1e-4)


def test_hooks_are_gone_after_the_block_and_after_errors(lm, dictionary):
    clean, hooks = lm.logits(group_of(lm)), hooks_of(lm)
    for error in (None, ValueError, KeyboardInterrupt):
        expected = pytest.raises(error) if error is not None else nullcontext()
        with expected, itda.steer(lm, dictionary, atom=3, strength=4), itda.steer(lm, dictionary, ablate=[1]):
            assert hooks_of(lm) > hooks
            if error is not None:
                raise error
        assert hooks_of(lm) == hooks
        assert torch.equal(lm.logits(group_of(lm)), clean)


def test_an_interrupt_within_generation_leaves_no_hook(lm, dictionary):
    hooks = hooks_of(lm)

    class Interrupts:
        seen = 0

        def put(self, _value):
            self.seen += 1
            if self.seen == 3:
                raise KeyboardInterrupt

        def end(self):
            pass

    with pytest.raises(KeyboardInterrupt), itda.steer(lm, dictionary, atom=3, strength=4):
        lm.generate(PROMPT, streamer=Interrupts())
    assert hooks_of(lm) == hooks
    assert not any(module.training for module in lm.model.modules())


def test_threads_steer_the_same_model_differently_at_once(lm):
    ways = [{"direction": direction(lm, seed), "strength": seed} for seed in range(5)]  # the first is not steered
    alone = []
    for asked in ways:
        with itda.steer(lm, site=SITE, **asked):
            alone.append((lm.logits(group_of(lm)), lm.generate(PROMPT, max_new_tokens=6)))
    assert len({text for _, text in alone}) > 1
    inside, found = threading.Barrier(len(ways)), {}

    def steered(number):
        with itda.steer(lm, site=SITE, **ways[number]):
            inside.wait()  # all blocks are open now, and stay so till all have run
            found[number] = lm.logits(group_of(lm)), lm.generate(PROMPT, max_new_tokens=6)
            inside.wait()

    threads = [threading.Thread(target=steered, args=(number,)) for number in range(len(ways))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, (logits, text) in enumerate(alone):
        assert torch.equal(found[number][0], logits)
        assert found[number][1] == text


def test_one_steering_serves_many_threads(lm):
    steering = itda.steer(lm, direction=direction(lm), site=SITE)
    with steering:
        expected = lm.logits(group_of(lm))
    found = []

    def steered():
        with steering:
            found.append(lm.logits(group_of(lm)))

    threads = [threading.Thread(target=steered) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert all(torch.equal(each, expected) for each in found)


def test_a_thread_from_within_is_steered_only_in_a_copy_of_the_context(lm):
    clean = lm.logits(group_of(lm))
    found = {}
    with itda.steer(lm, direction=direction(lm), site=SITE):
        steered = lm.logits(group_of(lm))
        plain = threading.Thread(target=lambda: found.update(plain=lm.logits(group_of(lm))))
        context = contextvars.copy_context()
        copied = threading.Thread(target=lambda: context.run(lambda: found.update(copied=lm.logits(group_of(lm)))))
        for thread in (plain, copied):
            thread.start()
            thread.join()
    assert torch.equal(found["plain"], clean)
    assert torch.equal(found["copied"], steered)


def recorded(lm, **options):
    """The change at layer 3 of each token of prompt and reply, as seen by the next block, when a direction is added."""
    seen = []
    with itda.steer(lm, direction=direction(lm), site=SITE, **options):
        handle = lm.model.model.layers[4].register_forward_pre_hook(lambda _m, args: seen.append(args[0].clone()))
        try:
            text = lm.generate(PROMPT, max_new_tokens=5)
        finally:
            handle.remove()
    return torch.cat(seen, dim=1)[0], text


@pytest.mark.parametrize(
    ("at", "steered"),
    [
        ("all", range(1, 99)),
        ("prompt", range(1, 10)),
        ("reply", range(10, 99)),
        (-1, [9]),
        ([0, -2], [1, 8]),
        (["reply", -1], range(9, 99)),
    ],
)
def test_prompt_and_reply_are_steered_as_asked_with_a_cache(lm, at, steered):
    ids = lm.tokenizer(PROMPT)["input_ids"]
    assert len(ids) == 10
    found, text = recorded(lm, at=at)
    # Without a cache: the whole text at once, with the direction added to the tokens that were asked for.
    whole = torch.tensor([[*ids, *lm.tokenizer(text, add_special_tokens=False)["input_ids"]]])[:, : len(found)]
    mask = torch.zeros(1, whole.shape[1], dtype=torch.bool)
    mask[0, [place for place in steered if place < whole.shape[1]]] = True
    with torch.inference_mode():
        states = lm.model.model(input_ids=whole, output_hidden_states=True, use_cache=False).hidden_states
    expected = states[4][0] + mask[0][:, None] * direction(lm)
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-4)


def test_generation_without_a_cache_is_steered_alike(lm):
    for at in ("reply", "prompt", [2, -1]):
        with itda.steer(lm, direction=direction(lm), site=SITE, at=at):
            assert lm.generate(PROMPT, max_new_tokens=6, use_cache=False) == lm.generate(PROMPT, max_new_tokens=6)


def test_tokens_of_padded_texts_and_of_parts_of_a_prompt():
    ids = torch.tensor([[9, 9, 0, 5, 6], [0, 5, 6, 7, 8]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    here = PassTokens.of_pass({"input_ids": ids, "attention_mask": mask}, [(0,)], None)
    assert here.number.tolist() == [[-1, -1, -1, 0, 1], [-1, 0, 1, 2, 3]]
    assert here.chosen(Tokens.of("all")).tolist() == [
        [False, False, False, True, True],
        [False, True, True, True, True],
    ]
    assert here.chosen(Tokens.of(-1)).nonzero().tolist() == [[0, 4], [1, 4]]
    assert not here.chosen(Tokens.of("reply")).any()
    with pytest.raises(SettingError, match="no token 2: the prompt has 2, use 0 to 1 or -1"):
        here.chosen(Tokens.of(2))
    cache = SimpleNamespace(get_seq_length=lambda: 3)
    part = PassTokens.of_pass({"input_ids": ids[:1, 3:], "past_key_values": cache}, [(0,)], 7)
    assert part.of_prompt.all()
    assert part.chosen(Tokens.of(-1)).sum() == 0  # the last token of seven is still to come


def evaluated(lm, dictionary):
    return evaluate(lm, Corpus.from_texts(TEXTS[:4]), {Site(1): dictionary}, window=32)[Site(1)]


def test_steering_acts_in_blocks_within_and_in_an_evaluation(lm, dictionary):
    with itda.steer(lm, direction=direction(lm), site=SITE):
        one = lm.logits(group_of(lm))
        measured = evaluated(lm, dictionary)
        with itda.steer(lm, direction=-direction(lm), site=SITE):
            neither = lm.logits(group_of(lm))
    assert abs(measured.ce_clean - evaluated(lm, dictionary).ce_clean) > 0.1
    clean = lm.logits(group_of(lm))
    torch.testing.assert_close(neither, clean, atol=1e-3, rtol=1e-4)
    assert (one - clean).abs().max() > 0.1


def test_a_site_that_is_first_tried_while_steered_is_found_as_ever():
    lm = itda.load_model("tiny")
    with itda.steer(lm, direction=direction(lm), site=2):
        assert isinstance(lm, LanguageModel)
        found = lm.places([Site(2, "mlp_out"), Site(2, "attn_out")])
    assert [place.scale for place in found.values()] == [1.0, 1.0]


def test_sampling_has_seeds(lm):
    drawn = [lm.generate(PROMPT, max_new_tokens=8, seed=seed, temperature=1.5) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    state = torch.get_rng_state()
    lm.generate(PROMPT, max_new_tokens=2, seed=5)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_difference_of_means_is_that(lm):
    first, second = ["import os", "import sys, re"], ["x = 1"]
    found = itda.steering.difference_of_means(lm, 3, first, second)
    means = [
        torch.cat([read(lm, text)[BOS : BOS + n] for text, n in each]).mean(dim=0)
        for each in (
            [(text, len(lm.tokenizer(text, add_special_tokens=False)["input_ids"])) for text in texts]
            for texts in (first, second)
        )
    ]
    torch.testing.assert_close(found, means[0] - means[1], atol=1e-3, rtol=1e-4)


def chat_model(lm):
    tokenizer = lm.tokenizer.__class__.from_pretrained(lm.tokenizer.name_or_path)
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}>>"
    )
    return itda.load_model(lm.model, tokenizer, name="chatty")


def test_chat_templates_are_used(lm):
    chatty = chat_model(lm)
    said = [{"role": "user", "content": "import os"}]
    assert chatty.generate(said, max_new_tokens=4) == lm.generate("user: import os\n>>", max_new_tokens=4)
    assert chatty.generate("import os", chat=True, max_new_tokens=4) == chatty.generate(said, max_new_tokens=4)
    with itda.steer(chatty, direction=direction(lm), site=SITE), itda.steer(lm, direction=direction(lm), site=SITE):
        pass


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"atom": 24}, "no atom 24: the dictionary has 24, use 0 to 23 or -1"),
        ({"atom": 1, "strength": float("nan")}, "strength is nan: give a finite number"),
        ({"atom": [1, 2], "strength": [1.0]}, "1 strengths for 2 atoms: give one for all, or one for each"),
        ({"atom": 1, "at": "middle"}, "no tokens 'middle' to steer at: use all, prompt, reply"),
        ({"atom": 1, "at": []}, "no token to steer at"),
        ({"atom": 1, "sample": []}, "the sample has no token"),
        ({"direction": torch.ones(5)}, r"a direction of shape \[5\] for tiny: give \[192\]"),
        ({"ablate": [1], "keep": [1]}, "give one of the two lists"),
        ({"atom": 1, "site": 9}, "no layer 9: the model has layers 0 to 5"),
    ],
)
def test_what_cannot_be_steered_is_refused_in_a_line(lm, dictionary, asked, message):
    with pytest.raises(itda.ItdaError, match=message) as refusal:
        itda.steer(lm, dictionary, **asked)
    assert "\n" not in str(refusal.value)


def test_models_that_do_not_fit_are_refused(lm, dictionary):
    streamed = itda.load_model("tiny", stream=True)
    with pytest.raises(ModelError, match="cannot be steered: load it here without --stream, --workers and --remote"):
        itda.steer(streamed, dictionary, atom=1)
    with pytest.raises(ModelError, match="cannot write text: load it here"):
        streamed.generate("x")
    narrow = replace(dictionary, atoms=torch.eye(24), offset=None)
    with pytest.raises(ModelError, match="atoms of width 24 for tiny, which is 192 wide"):
        itda.steer(lm, narrow, atom=1)
    foreign = replace(dictionary, provenance={**dictionary.provenance, "tokenizer": "another"})
    with pytest.raises(ModelError, match="made with another vocabulary than that of tiny"):
        itda.steer(lm, foreign, atom=1)
    with pytest.raises(SettingError, match="there is no site to steer at"):
        itda.steer(lm, direction=torch.ones(192))
    with pytest.raises(SettingError, match="there is nothing to steer by"):
        itda.steer(lm, site=3)
    numbered = replace(dictionary, labels=itda.Labels.of_rows(24), nearest=None)
    with pytest.raises(SettingError, match=r"labels have no texts .* give sample=\[texts\]"):
        itda.steer(lm, numbered, atom=1)


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        (" ", {}, "there is no text"),
        ("x " * 300, {}, "but tiny reads at most 256: shorten one"),
        ("x", {"max_new_tokens": 256}, "but tiny reads at most 256: shorten one"),
        ("x", {"max_new_tokens": 0}, "max_new_tokens is 0: give a number from 1"),
        ("x", {"seed": -1}, "the seed is -1"),
        ("x", {"chat": True}, "tiny has no chat template"),
        ("x", {"nonsense": 3}, "transformers does not generate with these options"),
        ("x", {"num_return_sequences": 2}, "takes no num_return_sequences"),
    ],
)
def test_prompts_and_options_that_cannot_be_are_refused_in_a_line(lm, prompt, options, message):
    with pytest.raises(SettingError, match=message) as refusal:
        lm.generate(prompt, **options)
    assert "\n" not in str(refusal.value)


def test_a_token_that_the_prompt_has_not_is_refused(lm, dictionary):
    refusal = pytest.raises(SettingError, match="no token 9: the prompt has 9, use 0 to 8 or -1")
    with refusal, itda.steer(lm, dictionary, ablate=[1], at=9):
        lm.generate(PROMPT)
