"""Models without some atoms: models of their own on the same weights, and what the removal costs beside controls."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

import itda
from itda.core.metrics import cross_entropy, kl_divergence
from itda.core.site import Site
from itda.errors import ModelError, SettingError
from itda.evaluation.evaluate import evaluate
from itda.sources.corpora.corpus import Corpus, Document
from itda.steering import cost_of_removal

SITE = Site(3)
TEXTS = ["def read(path):\n    return open(path)", "import os, sys", "for i in range(9): print(i)", "x = [1, 2, 3]"] * 3


def group_of(lm):
    windower = lm.windower(32)
    windows = [window for i, text in enumerate(TEXTS[:4]) for window in windower.windows(Document(str(i), text))]
    return windower.group(windows, 4)


def test_it_is_the_model_with_atoms_ablated(lm, dictionary):
    group, hooks = group_of(lm), [len(module._forward_hooks) for module in lm.model.modules()]
    clean = lm.logits(group)
    made = lm.without(dictionary, [2, 5])
    with itda.steer(lm, dictionary, ablate=[2, 5]):
        steered, text = lm.logits(group), lm.generate("import os", max_new_tokens=5)
    assert torch.equal(made.logits(group), steered)
    assert not torch.equal(steered, clean)
    assert made.generate("import os", max_new_tokens=5) == text
    assert torch.equal(lm.logits(group), clean)
    assert [len(module._forward_hooks) for module in lm.model.modules()] == hooks


def test_weights_are_shared_and_modules_are_not(lm, dictionary):
    made = lm.without(dictionary, 2)
    ours, its = dict(lm.model.named_parameters()), dict(made.model.named_parameters())
    assert ours.keys() == its.keys()
    assert all(ours[name] is its[name] for name in ours)
    assert not {id(module) for module in lm.model.modules()} & {id(module) for module in made.model.modules()}
    assert made.model.lm_head.weight is made.model.model.embed_tokens.weight  # they are tied in this model


def test_removing_nothing_changes_no_bit_and_removing_the_residual_too_is_the_splice(lm, dictionary):
    group = group_of(lm)
    assert torch.equal(lm.without(dictionary, []).logits(group), lm.logits(group))
    made = lm.without(dictionary, [], residual=False)
    assert f"with {SITE} rebuilt" in repr(made)
    spliced = lm.logits(group, SITE, lambda x: torch.where(dictionary.is_massive(x)[:, None], x, dictionary(x)))
    torch.testing.assert_close(made.logits(group), spliced, atol=1e-3, rtol=1e-4)


def test_it_can_be_steered_edited_again_and_used_by_threads(lm, dictionary):
    group, made = group_of(lm), lm.without(dictionary, 2)
    expected, clean = made.logits(group), lm.logits(group)
    both = made.without(dictionary, 5)
    with itda.steer(lm, dictionary, ablate=[2]), itda.steer(lm, dictionary, ablate=[5]):
        torch.testing.assert_close(both.logits(group), lm.logits(group))
    with itda.steer(made, dictionary, atom=1, strength=8):
        assert not torch.equal(made.logits(group), expected)
        assert torch.equal(lm.logits(group), clean)
    found = []
    threads = [threading.Thread(target=lambda: found.append(made.logits(group))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(each, expected) for each in found)


def test_evaluation_takes_it_as_any_model(lm, dictionary):
    made = lm.without(dictionary, [2, 5])
    corpus, site = Corpus.from_texts(TEXTS[:4]), Site(4)
    found = evaluate(made, corpus, {site: dictionary}, window=32)[site]
    cost = cost_of_removal(lm, dictionary, [2, 5], corpus, controls=1)
    assert found.ce_clean == pytest.approx(cost.removed.ce)
    assert found.ce_clean != pytest.approx(cost.ce_whole, abs=1e-4)
    streams = [Site(3, "mlp_out"), Site(3, "attn_out")]  # found by a trial of the block that is edited
    assert set(made.places(streams)) == set(streams)


def test_the_cost_of_removal_is_that_of_each_model(lm, dictionary):
    cost = cost_of_removal(lm, dictionary, [2, 5], TEXTS, controls=2, tokens=60)
    assert cost.tokens == 60
    assert (cost.kept.kl, cost.kept.ce) == (0.0, cost.ce_whole)
    windower, seen = lm.windower(32), 0
    windows = [window for i, text in enumerate(TEXTS) for window in windower.windows(Document(str(i), text))]
    sums = np.zeros((3, 2))
    models = [lm.without(dictionary, list(each.atoms)) for each in (cost.removed, *cost.controls)]
    left = 60
    for window in windows:
        group = windower.group([window], 1)
        group.is_activation[0, 1 + max(0, left) :] = False
        left -= len(window.token_ids)
        if not group.predicts.any():
            continue
        seen += int(group.predicts.sum())
        whole = lm.logits(group)[group.predicts]
        for row, each in enumerate(models):
            logits = each.logits(group)[group.predicts]
            sums[row] += cross_entropy(logits, group.targets).sum(), kl_divergence(whole, logits).sum()
    assert seen == cost.predicted
    for row, each in enumerate((cost.removed, *cost.controls)):
        np.testing.assert_allclose(sums[row] / seen, [each.ce, each.kl], rtol=1e-3)
    atoms = [atom for each in (cost.removed, *cost.controls) for atom in each.atoms]
    assert len(set(atoms)) == len(atoms) == 6
    assert cost.beyond == sum(each.kl < cost.removed.kl for each in cost.controls)


def test_without_the_residual_removals_are_beside_the_reconstruction(lm, dictionary):
    cost = cost_of_removal(lm, dictionary, 2, TEXTS[:4], controls=1, residual=False)
    assert cost.kept.kl > 0
    assert cost.kept.atoms == ()


def test_what_cannot_be_removed_is_refused(lm, dictionary):
    with pytest.raises(SettingError, match="no atom 24: the dictionary has 24"):
        lm.without(dictionary, [24])
    with pytest.raises(SettingError, match="does not say of which site it is"):
        lm.without(replace(dictionary, site=None), [1])
    with pytest.raises(ModelError, match="atoms of width 24 for tiny"):
        lm.without(replace(dictionary, atoms=torch.eye(24), offset=None), [1])
    with pytest.raises(ModelError, match="no model without atoms can be made of it: load it here without --stream"):
        itda.load_model("tiny", stream=True).without(dictionary, [1])
    with pytest.raises(SettingError, match="there is no atom to remove"):
        cost_of_removal(lm, dictionary, [], TEXTS)
