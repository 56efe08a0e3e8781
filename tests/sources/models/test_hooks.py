"""Threads that read and splice one model at once each get what they would get alone; modes are as they were."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import transformers
from sources.models.families import COMMON, SITES, TOKENIZERS, build, byte_tokenizer, language_model, ragged_group
from torch import nn

from itda.core.batch import Site
from itda.sources.models.hooks import Turns, evaluating, hooked
from itda.sources.models.transformers import LanguageModel
from itda.sources.prompt import read_prompt
from itda.sources.streamed.model import StreamedModel
from itda.sources.unembedding import direct_logits

TEXTS = ["the cat sat on the mat", "import os", "a dog ran", "for x in y to be or not"]
THREE = [Site(0), Site(1, "mlp_out"), Site(2)]
TIMES = 12


def jobs(model):
    """What four threads do, each another text: read three sites, splice at one, and an atom's logits."""

    def job(number):
        labels, found = read_prompt(model, TEXTS[number], THREE, 32)
        group = ragged_group(model, texts=(TEXTS[number],), size=1)
        site = THREE[number % 3]
        spliced = model.logits(group, site, lambda x: x * (2 + number))
        atom = direct_logits(model, torch.eye(model.d_model)[number : number + 2])
        return [labels.token_id, *found.values(), spliced, model.logits(group), atom]

    return job


def together(job, threads=4, times=TIMES):
    """What each thread found at each of some times; all begin at once."""
    start = threading.Barrier(threads)

    def work(number):
        start.wait()
        return [job(number) for _ in range(times)]

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, range(threads)))


def same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.as_tensor(one), torch.as_tensor(other), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_four_threads_that_read_and_splice_get_what_each_gets_alone(name):
    model = language_model(name)
    job = jobs(model)
    alone = [job(number) for number in range(4)]
    for number, times in enumerate(together(job)):
        for found in times:
            same(found, alone[number])


def test_four_threads_with_a_model_in_train_mode_get_no_dropout_and_leave_it_in_train_mode():
    torch.manual_seed(0)
    model = LanguageModel(transformers.GPT2LMHeadModel(transformers.GPT2Config(**COMMON)), byte_tokenizer())
    job = jobs(model)
    model.model.eval()
    alone = [job(number) for number in range(4)]
    model.model.train()
    for number, times in enumerate(together(job)):
        for found in times:
            same(found, alone[number])
    assert all(module.training for module in model.model.modules())


def test_each_module_is_set_back_to_its_own_mode_even_after_an_error():
    model = language_model("gpt2")
    model.model.transformer.h[1].train()  # pyright: ignore[reportAttributeAccessIssue]
    before = [module.training for module in model.model.modules()]
    assert 0 < sum(before) < len(before)
    model.activations(ragged_group(model), SITES)
    assert [module.training for module in model.model.modules()] == before
    with pytest.raises(ZeroDivisionError):
        model.logits(ragged_group(model), Site(1), lambda x: x / (1 // 0))
    assert [module.training for module in model.model.modules()] == before


def test_a_model_stays_in_evaluation_mode_until_the_last_pass_is_done():
    model = nn.Sequential(nn.Dropout())
    with evaluating(model):
        with evaluating(model[0]):
            assert not model[0].training
        assert not model[0].training
        assert not model.training
    assert model.training
    assert model[0].training


def test_a_pass_that_somebody_else_makes_over_the_model_meanwhile_is_left_alone():
    model = language_model("llama")
    group = ragged_group(model)
    with torch.inference_mode():
        own = model.model(group.input_ids, attention_mask=group.attention_mask).logits
    seen = []

    def replace(x):
        with ThreadPoolExecutor(1) as pool:  # in another thread, and in this one
            plain = torch.inference_mode()(model.model)
            seen.append(pool.submit(plain, group.input_ids, attention_mask=group.attention_mask).result().logits)
        seen.append(model.model(group.input_ids, attention_mask=group.attention_mask).logits)
        seen.append(model.logits(group, Site(0), lambda y: y))
        return torch.zeros_like(x)

    assert not torch.allclose(model.logits(group, Site(1), replace), own)
    for logits in seen:
        assert torch.equal(logits, own)


def test_a_hook_runs_in_its_own_call_alone_and_is_taken_away():
    module, calls = nn.Linear(2, 2), []
    with hooked([(module, lambda _: calls.append("outer"))]):
        module(torch.zeros(2))
        with hooked([(module, lambda _: calls.append("inner"))]):
            module(torch.zeros(2))
        module(torch.zeros(2))
    module(torch.zeros(2))
    assert calls == ["outer", "inner", "outer"]
    assert not module._forward_hooks


def test_threads_take_turns_with_a_streamed_model(tmp_path):
    build("llama").save_pretrained(tmp_path)
    TOKENIZERS["bos"]().save_pretrained(tmp_path)
    model = StreamedModel.load(str(tmp_path))
    groups = [ragged_group(language_model("llama"), texts=(text,), size=1) for text in TEXTS]

    def job(number):
        found = model.harvest([groups[number]], THREE)
        return [x for _, sites in found for x in sites.values()]

    alone = [job(number) for number in range(4)]
    for number, times in enumerate(together(job, times=3)):
        for found in times:
            same(found, alone[number])


def test_a_turn_is_given_back_though_another_thread_ends_it():
    turns = Turns()
    turn = turns.turn()
    turn.__enter__()
    with turns.turn():  # the same thread may come in again
        pass
    with ThreadPoolExecutor(1) as pool:
        pool.submit(turn.__exit__, None, None, None).result()
        pool.submit(turns.turn().__enter__).result(timeout=10)
