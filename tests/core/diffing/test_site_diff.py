"""All forms of a diff at one site: together what each is alone, and nothing where nothing changed."""

import numpy as np
import pytest
import torch

from itda.core.diffing.difference import DifferencePass
from itda.core.diffing.labels import LabelsPass
from itda.core.diffing.ranking import FACTOR, beyond, excess, ranked
from itda.core.diffing.site import K, SitePass, across_sites
from itda.core.diffing.transported import TransportedPass
from itda.errors import SettingError

TOKENS, WIDTH = 2600, 8
DOCUMENTS = np.array([f"document {i // 20}" for i in range(TOKENS)], dtype=object)


def activations(seed, width=WIDTH):
    return torch.randn(TOKENS, width, generator=torch.Generator().manual_seed(seed))


def test_each_form_is_what_it_is_alone():
    base, drift = activations(0), 0.1 * activations(1)
    changed, control = base + drift, base + 0.1 * activations(2)
    kl = [np.random.default_rng(seed).exponential(size=TOKENS) for seed in (3, 4)]
    both = SitePass(WIDTH, WIDTH, shared_basis=True, controls=1)
    for start in range(0, TOKENS, 700):
        rows = slice(start, start + 700)
        both.offer(base[rows], changed[rows], DOCUMENTS[rows], [control[rows]])
    found = both.finish(kl[0], [kl[1]])
    rankings = found.ranking, *found.controls
    for other, above, far, ranking in zip((changed, control), excess(kl), beyond(kl), rankings, strict=True):
        alone = DifferencePass(WIDTH)
        alone.offer(base, other)
        made = ranked(alone.finish(), DOCUMENTS, above, far)
        assert np.array_equal(made.effect, ranking.effect)
        assert np.array_equal(made.beyond, ranking.beyond)
    transported, labels = TransportedPass(WIDTH, WIDTH, k=K), LabelsPass()
    transported.offer(base, changed)
    labels.offer(base, changed, DOCUMENTS)
    assert torch.equal(found.transported.changed_atoms, transported.finish().changed_atoms)
    assert found.labels.index == labels.finish().index
    assert found.usage.frequency.shape == (2, len(found.transported.rows))
    assert not found.unchanged


def test_a_model_against_itself_is_unchanged_in_every_form():
    x = activations(5)
    both = SitePass(WIDTH, WIDTH, shared_basis=True)
    both.offer(x, x, DOCUMENTS)
    found = both.finish(np.zeros(TOKENS))
    assert found.unchanged
    assert found.ranking.order.size == 0
    assert not found.usage.found.any()
    assert found.labels.index == 1.0
    assert len(found.transported.changed_rows) == 0


def test_a_finding_stands_out_from_the_controls_of_all_sites():
    x = activations(9)
    sites = {}
    for site, size in (("quiet", 0.0), ("loud", 1.0)):
        changed, control = x + 0.2 * activations(10), x + 0.2 * activations(11)
        both = SitePass(WIDTH, WIDTH, shared_basis=True, controls=1)
        both.offer(x, changed, DOCUMENTS, [control])
        own = np.where(np.isin(DOCUMENTS, ["document 3", "document 4"]), 30.0, 1.0)
        sites[site] = both.finish(own, [np.where(DOCUMENTS == "document 1", 3 + 50 * size, 1.0)])
    apart, together = sites, across_sites(sites)
    assert apart["quiet"].findings.any()
    strongest = max(one.controls[0].strongest for one in sites.values())
    for one in together.values():
        assert (one.ranking.beyond[one.findings] > FACTOR * strongest).all()
        assert one.findings.sum() == (one.ranking.beyond[one.ranking.order] > FACTOR * strongest).sum()


def test_without_a_shared_basis_the_other_forms_are_there():
    both = SitePass(WIDTH, WIDTH + 4, shared_basis=False)
    both.offer(activations(6), activations(7, WIDTH + 4), DOCUMENTS)
    found = both.finish(np.zeros(TOKENS))
    assert (found.differences, found.ranking, found.findings, found.usage) == (None, None, None, None)
    assert len(found.transported.changed_rows) > 0
    assert found.labels.index < 1
    assert not found.unchanged


def test_two_null_models_change_places_by_lot():
    """Neither of two models that drift alike has a finding over the other."""
    base = activations(8)
    for seed in range(4):
        one, other = (base + 0.1 * activations(20 + 2 * seed + i) for i in range(2))
        kl = [np.random.default_rng(40 + 2 * seed + i).exponential(size=TOKENS) for i in range(2)]
        both = SitePass(WIDTH, WIDTH, shared_basis=True, controls=1)
        both.offer(base, one, DOCUMENTS, [other])
        assert not both.finish(kl[0], [kl[1]]).findings.any()


def test_what_does_not_fit_is_refused():
    with pytest.raises(SettingError, match="no shared basis"):
        SitePass(4, 5, shared_basis=True)
    with pytest.raises(SettingError, match="no token"):
        SitePass(4, 4, shared_basis=True).finish()
    with pytest.raises(SettingError, match="give all"):
        SitePass(4, 4, shared_basis=True, controls=1).finish(np.zeros(3))
