"""Effects of atoms on the next token: against steering by hand, and against small steps along each atom."""

from dataclasses import replace

import pytest
import torch

import itda
from itda.core.site import Site
from itda.errors import SettingError
from itda.steering.attribution import attribution

TEXT, SITE = "def read(path):", Site(3)


@pytest.fixture(scope="module")
def exact(lm, dictionary):
    return attribution(lm, dictionary, SITE, TEXT, way="ablation")


@pytest.fixture(scope="module")
def fast(lm, dictionary):
    return attribution(lm, dictionary, SITE, TEXT)


def log_p(lm, target):
    ids = torch.tensor([lm.tokenizer(TEXT)["input_ids"]])
    with torch.inference_mode():
        return lm.model(input_ids=ids, use_cache=False).logits[0, -1].double().log_softmax(dim=0)[target].item()


def test_ablation_is_that_of_steering_by_hand(lm, dictionary, exact):
    target = lm.tokenizer(exact.next_token, add_special_tokens=False)["input_ids"][0]
    whole = log_p(lm, target)
    assert exact.log_probability == pytest.approx(whole, abs=1e-5)
    for token in (1, len(exact.tokens) - 1):
        for place in range(int(exact.code.count[token])):
            with itda.steer(lm, dictionary, ablate=int(exact.code.indices[token, place]), at=token):
                without = log_p(lm, target)
            assert exact.effects[token, place].item() == pytest.approx(whole - without, rel=0.01, abs=1e-4)


def test_the_gradient_is_the_slope_along_each_atom(lm, dictionary, fast):
    target = lm.tokenizer(fast.next_token, add_special_tokens=False)["input_ids"][0]
    token, step = len(fast.tokens) - 1, 0.02
    for place in range(int(fast.code.count[token])):
        share = fast.code.coefficients[token, place] * dictionary.atoms[fast.code.indices[token, place]]
        ends = []
        for side in (step, -step):
            with itda.steer(lm, direction=side * share, site=SITE, at=token):
                ends.append(log_p(lm, target))
        slope = (ends[0] - ends[1]) / (2 * step)
        assert fast.effects[token, place].item() == pytest.approx(slope, rel=0.05, abs=2e-3)


def test_entries_beyond_a_code_and_massive_ones_have_no_effect(lm, dictionary, fast):
    within = torch.arange(fast.code.k) < fast.code.count[:, None]
    assert (fast.effects[~within] == 0).all()
    everything = attribution(lm, replace(dictionary, massive_norm=1e-3), SITE, TEXT)
    assert (everything.effects == 0).all()
    assert everything.top() == []


def test_the_largest_come_first_and_sum_up_by_atom(dictionary, exact):
    found = exact.top(5)
    assert [abs(each.effect) for each in found] == sorted((abs(each.effect) for each in found), reverse=True)
    assert abs(found[0].effect) == exact.effects.abs().max()
    assert found[0].label == dictionary.labels[found[0].atom]
    for atom, effect in exact.by_atom().items():
        assert effect == pytest.approx(exact.effects[exact.code.indices == atom].sum().item())


def test_another_next_token_can_be_explained(lm, dictionary):
    found = itda.attribute(lm, dictionary, TEXT, next_token=" return")
    assert found.next_token == " return"
    assert found.log_probability < attribution(lm, dictionary, SITE, TEXT).log_probability
    assert repr(found).startswith("next token: « return», probability 0.")
    assert [line for line in repr(found).splitlines() if len(line) > 80] == []


def test_no_weight_gets_a_gradient_and_no_hook_stays(lm, fast):
    assert all(parameter.grad is None for parameter in lm.model.parameters())
    assert not any(module._forward_hooks for module in lm.model.modules())


def test_what_cannot_be_explained_is_refused(lm, dictionary):
    with pytest.raises(SettingError, match="there is no text"):
        itda.attribute(lm, dictionary, " ")
    with pytest.raises(SettingError, match="tiny reads at most 256: shorten it"):
        itda.attribute(lm, dictionary, "x " * 300)
    with pytest.raises(SettingError, match="the next token is no text"):
        itda.attribute(lm, dictionary, TEXT, next_token="")
