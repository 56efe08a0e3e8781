"""A model run from its sites on gives the logits of whole passes, and one that cannot be is run whole."""

import threading

import pytest
import torch
from sources.models.families import CAUSAL, FAMILIES, SITES, language_model, ragged_group, shared

from itda.core.batch import Site
from itda.errors import ModelError
from itda.evaluation import repeats
from itda.evaluation import resumption as resumption_module
from itda.evaluation.resumption import Resumption, resumption, splicer_of
from itda.sources.models.splicing import WholePasses

RUN_WHOLE = ("gpt-j",)
"""Families whose blocks return more than their state."""
TEXTS = ("the cat sat on a dog and ran to the mat", "a dog", "to be or it", "the cat sat on a dog", "not")
WAYS = {
    "other": lambda x: x.flip(0),
    "zero": torch.zeros_like,
    "mean": lambda x: x.mean(dim=0).expand_as(x),
}


def splice(_place, _site, x):
    return {name: way(x) for name, way in WAYS.items()}


def predictions(splicer, groups, splice=splice):
    """Logits of each group's predictions by key, put together."""
    found = {}
    for place, key, rows, logits, at in splicer.spliced(groups, splice):
        part = logits if at is None else logits[at]
        room = found.setdefault((place, key), torch.full((int(groups[place].predicts.sum()), part.shape[1]), torch.nan))
        assert room[rows].isnan().all(), "a prediction came twice"
        room[rows] = part
    return found


def same(found, expected):
    assert found.keys() == expected.keys()
    for key, logits in expected.items():
        torch.testing.assert_close(found[key], logits, rtol=0, atol=1e-6 * logits.abs().max().item())


def groups_of(model):
    return [ragged_group(model, texts=TEXTS[:3]), ragged_group(model, texts=TEXTS[2:])]


@pytest.mark.parametrize("name", CAUSAL)
def test_logits_are_those_of_whole_passes_in_every_family(name):
    model = shared(name)
    groups = groups_of(model)
    splicer = splicer_of(model, SITES, ("other",))
    assert isinstance(splicer, WholePasses if name in RUN_WHOLE else Resumption)
    for _ in splicer.harvest(groups):
        pass
    same(predictions(splicer, groups), predictions(WholePasses(model, SITES), groups))


@pytest.mark.parametrize("name", FAMILIES)
def test_activations_are_the_models_to_the_bit(name):
    model = shared(name)
    groups = groups_of(model)
    expected = {(place, site): x for place, found in model.harvest(groups, SITES) for site, x in found.items()}
    for place, found in splicer_of(model, SITES).harvest(groups):
        for site, x in found.items():
            assert torch.equal(x, expected[place, site]), site


def test_what_the_splice_is_given_is_the_same_to_the_bit_with_and_without_room_for_states(monkeypatch):
    model = shared("llama")
    groups, seen = groups_of(model), {}

    def watched(place, site, x):
        before = seen.setdefault((place, site), x)
        assert torch.equal(before, x)
        return splice(place, site, x)

    kept = splicer_of(model, SITES)
    list(kept.harvest(groups))
    with_room = predictions(kept, groups, watched)
    monkeypatch.setattr(resumption_module, "KEPT_BYTES", 0)
    emptied = splicer_of(model, SITES)
    list(emptied.harvest(groups))
    without = predictions(emptied, groups, watched)
    assert with_room.keys() == without.keys()
    assert all(torch.equal(with_room[key], logits) for key, logits in without.items())
    for (place, site), x in seen.items():
        whole = model.activations(groups[place], [site])[site]
        assert torch.equal(x, whole[groups[place].is_activation])


def test_logits_of_few_places_at_once_are_the_same(monkeypatch):
    model = shared("gemma-2")
    expected = predictions(splicer_of(model, SITES, ("other",)), groups_of(model))
    monkeypatch.setattr(resumption_module, "LOGITS", 3 * model.model.config.vocab_size)
    same(predictions(splicer_of(model, SITES, ("other",)), groups_of(model)), expected)


def test_blocks_before_a_site_run_once_and_ablated_windows_once_for_all():
    model = language_model("llama")
    groups, ran = groups_of(model), dict.fromkeys(range(3), 0)
    splicer = splicer_of(model, [Site(1)])
    for layer, block in enumerate(model.model.base_model.layers):

        def count(_module, args, layer=layer):
            ran[layer] += len(args[0])

        block.mlp.register_forward_pre_hook(count)  # the block itself is called in each pass, and hands on its state
    list(splicer.harvest(groups))
    predictions(splicer, groups)
    windows = sum(len(group.input_ids) for group in groups)
    assert (ran[0], ran[1]) == (windows, windows)
    # The groups' own pass, the other activations; the zeros once for both groups, the mean of each group once.
    assert ran[2] == 2 * windows + 1 + len(groups)


def test_no_room_for_repeated_windows_changes_no_prediction(monkeypatch):
    monkeypatch.setattr(repeats, "REPEATED_BYTES", 1)
    # As a massive token that stays what it is, the first one differs between windows.
    kept = lambda x: torch.cat([x[:1], torch.zeros_like(x[1:-9]), x[-9:-8], torch.zeros_like(x[-8:])])  # noqa: E731
    model = shared("qwen2")
    groups = [*groups_of(model), *groups_of(model)]

    def one(_place, _site, x):
        return {"zero": kept(x)}

    splicer = splicer_of(model, [Site(0)])
    assert isinstance(splicer, Resumption)
    assert splicer.repeats
    same(predictions(splicer, groups, one), predictions(WholePasses(model, [Site(0)]), groups, one))


def test_a_site_that_is_not_there_is_an_error():
    with pytest.raises(ModelError, match="no layer 7"):
        splicer_of(shared("llama"), [Site(7)])


def test_a_model_whose_blocks_share_more_than_their_state_is_run_whole():
    model = language_model("llama")
    inner = model.model.base_model
    memory = []
    before = inner.layers[0].forward  # pyright: ignore[reportAttributeAccessIssue]
    inner.layers[0].forward = lambda state, *args, **kwargs: memory.append(state) or before(state, *args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
    after = inner.layers[2].forward  # pyright: ignore[reportAttributeAccessIssue]
    inner.layers[2].forward = lambda state, *args, **kwargs: after(state + memory.pop(), *args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
    assert resumption(model, [Site(1)]) is None
    memory.clear()
    groups = groups_of(model)
    splicer = splicer_of(model, [Site(1)])
    assert isinstance(splicer, WholePasses)
    same(predictions(splicer, groups), predictions(WholePasses(model, [Site(1)]), groups))


def test_a_model_that_looks_at_tokens_in_later_blocks_shares_no_windows():
    model = language_model("llama")
    inner, given = model.model.base_model, {}
    inner.embed_tokens.register_forward_hook(lambda _module, args, _output: given.update(ids=args[0]))  # pyright: ignore[reportAttributeAccessIssue]
    real = inner.layers[2].forward  # pyright: ignore[reportAttributeAccessIssue]
    inner.layers[2].forward = lambda state, *args, **kwargs: real(  # pyright: ignore[reportAttributeAccessIssue]
        state + 0.1 * given["ids"][..., None].to(state) / 100, *args, **kwargs
    )
    splicer = splicer_of(model, [Site(1)])
    assert isinstance(splicer, Resumption)
    assert not splicer.repeats
    groups = groups_of(model)
    same(predictions(splicer, groups), predictions(WholePasses(model, [Site(1)]), groups))


def test_other_threads_go_through_the_blocks_as_they_are():
    model, wrong = shared("llama"), []
    group = ragged_group(model)
    expected, stop = model.activations(group, SITES), threading.Event()

    def reads():
        while not stop.is_set():
            found = model.activations(group, SITES)
            wrong.extend(site for site in SITES if not torch.equal(found[site], expected[site]))

    def evaluates():
        found = predictions(splicer_of(model, [Site(0)]), [group])
        wrong.extend(key for key, logits in whole.items() if not torch.allclose(found[key], logits, atol=1e-4))

    whole = predictions(WholePasses(model, [Site(0)]), [group])
    reader = threading.Thread(target=reads)
    reader.start()
    try:
        evaluators = [threading.Thread(target=evaluates) for _ in range(3)]
        for thread in evaluators:
            thread.start()
        for thread in evaluators:
            thread.join()
    finally:
        stop.set()
        reader.join()
    assert not wrong
    assert "forward" not in vars(model.model.base_model.layers[0])
