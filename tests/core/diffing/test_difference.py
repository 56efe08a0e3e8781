"""The difference dictionary: what must hold of it, and that it is a function of the stream alone."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from itda.core.diffing.difference import BLOCK, FIRST_ATOMS, OPENING, DifferencePass
from itda.core.diffing.ranking import FACTOR, MOST_SCALED, TIMES, beyond, excess, explained_kl, ranked, stand_out
from itda.core.pursuit import pursue
from itda.errors import SettingError

WIDTH = 12


def activations(tokens, seed, width=WIDTH):
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed))


def planted(tokens=OPENING + 3000, every=50, size=4.0):
    """A model that drifts everywhere by a little, and by much at some tokens, in one direction."""
    base = activations(tokens, 0)
    changed = base + 0.05 * activations(tokens, 1)
    changed[::every, 3] += size
    return base, changed


def passed(base, changed, cuts=(), **settings):
    both = DifferencePass(base.shape[1], **settings)
    for x, y in zip(base.tensor_split(list(cuts)), changed.tensor_split(list(cuts)), strict=True):
        both.offer(x, y)
    return both.finish()


@functools.cache
def of_planted():
    """The pass over `planted()`, which takes a second."""
    return passed(*planted())


def test_a_model_against_itself_has_no_atom_and_no_energy():
    x = activations(OPENING + 100, 2)
    found = passed(x, x)
    assert len(found.atoms) == 0
    assert not found.energy.any()
    assert not found.mean.any()


def test_a_model_of_another_scale_has_none_either():
    x = activations(2000, 3)
    found = passed(x, 4 * x)
    assert found.energy.max() < 1e-10
    assert ranked(found, np.arange(2000)).order.size <= len(found.atoms)


def test_a_difference_of_all_tokens_is_the_mean_and_no_atom():
    x = activations(2000, 4)
    found = passed(x, x + 3.0)
    assert found.mean_share > 0.999


def test_a_planted_direction_is_the_first_atom_at_a_token_that_has_it():
    found = of_planted()
    assert abs(float(found.atoms[0, 3])) > 0.99
    assert found.rows[0] % 50 == 0
    assert len(found.atoms) >= FIRST_ATOMS


@pytest.mark.parametrize("cuts", [(1, 7, OPENING - 1), (OPENING, OPENING + BLOCK)])
def test_how_the_stream_is_cut_changes_nothing(cuts):
    whole, cut = of_planted(), passed(*planted(), cuts)
    assert torch.equal(whole.atoms, cut.atoms)
    assert np.array_equal(whole.coefficients, cut.coefficients)
    assert np.array_equal(whole.rows, cut.rows)


def test_codes_are_those_of_the_plain_pursuit():
    base, changed = planted(1500)
    found = passed(base, changed)
    z = (changed.double() / found.scales[1] - base.double() / found.scales[0] - found.mean).float()
    code, _ = pursue(z, atoms=found.atoms, k=3, pursuit="mp")
    assert np.array_equal(code.indices.numpy(), found.indices)
    np.testing.assert_allclose(code.coefficients.double().numpy(), found.coefficients)
    np.testing.assert_allclose(z.double().square().sum(dim=1).numpy(), found.energy, rtol=1e-12)
    rebuilt = (torch.from_numpy(found.coefficients)[..., None] * found.atoms.double()[found.indices]).sum(dim=1)
    np.testing.assert_allclose((z.double() - rebuilt).square().sum(dim=1).numpy(), found.left, rtol=1e-5, atol=1e-9)


def test_no_more_atoms_than_asked_for():
    assert len(passed(*planted(), most=10).atoms) == 10


@pytest.mark.parametrize(("seed", "tokens"), [(0, 1), (1, 2), (2, 30), (245, 220)])
def test_effects_and_what_is_left_over_add_up_to_the_divergence(seed, tokens):
    found = passed(activations(tokens, seed), activations(tokens, seed + 1))
    kl = np.random.default_rng(seed).exponential(size=tokens)
    ranking = ranked(found, np.arange(tokens) % 9, kl)
    parts = explained_kl(found, kl)
    assert (parts.sum(axis=1) <= kl * (1 + 1e-12) + 1e-12).all()
    assert ranking.effect.sum() <= ranking.total * (1 + 1e-12) + 1e-12
    assert ranking.energy.sum() <= 1 + 1e-12
    for atom, place in enumerate(ranking.places):
        own = (found.indices == atom) & (found.coefficients != 0)
        assert not own.any() or (parts * own).sum(axis=1)[place] == (parts * own).sum(axis=1).max()
    shown = ranking.effect[ranking.order]
    assert (np.diff(shown) <= 0).all()


def test_an_atom_of_one_document_is_not_shown():
    found = of_planted()
    of_one = np.full(len(found.energy), "one", dtype=object)
    assert len(ranked(found, of_one).order) == 0
    of_one[found.indices[:, 0] != 0] = "others"
    of_one[found.indices[:, 0] == 0] = "another"
    ranking = ranked(found, of_one)
    assert set(ranking.order) == set((ranking.documents > 1).nonzero()[0])


def test_only_what_has_more_beyond_than_a_control_is_a_finding():
    base, _ = planted()
    drift = base + 0.05 * activations(len(base), 5)
    documents, row = np.arange(len(base)) // 40, np.arange(len(base))
    divergences = [np.where(row % 50 == place, size, 0.01) for place, size in ((0, 3.0), (1, 0.05))]
    ranking, control = (
        ranked(found, documents, *each)
        for found, *each in zip(
            (of_planted(), passed(base, drift)), excess(divergences), beyond(divergences), strict=True
        )
    )
    found = stand_out(ranking, [control])
    assert found[0]
    assert not found.all()
    assert np.array_equal(found[ranking.order], ranking.beyond[ranking.order] > FACTOR * control.strongest)
    assert not stand_out(control, [ranking]).any()
    assert not stand_out(control, [control]).any()
    assert not stand_out(ranking, []).any()


def test_a_control_that_predicts_as_the_base_says_nothing_of_what_is_much():
    base, _ = planted()
    documents = np.arange(len(base)) // 40
    own, nothing = beyond([np.full(len(base), 0.5), np.zeros(len(base))])
    assert (own > 0).all()
    ranking, control = (
        ranked(of_planted(), documents, own, own),
        ranked(passed(base, base), documents, nothing, nothing),
    )
    assert (ranking.strongest > 0, control.strongest) == (True, 0.0)
    assert not stand_out(ranking, [control]).any()


@given(seed=st.integers(0, 1000), models=st.integers(2, 4), scale=st.floats(1 / 64, 64))
def test_what_is_beyond_is_one_models_alone_and_a_control_is_scaled_to_the_changed_models_level(seed, models, scale):
    kl = np.random.default_rng(seed).exponential(size=(models, 51)) ** 3
    kl *= np.median(kl[0]) / np.median(kl, axis=1, keepdims=True)
    reached = kl.copy()
    reached[1] *= scale * np.clip(1 / scale, 1 / MOST_SCALED, MOST_SCALED)
    kl[1] *= scale
    found = np.stack(beyond(list(kl)))
    assert ((found > 0).sum(axis=0) <= 1).all()
    for i in range(models):
        others = np.delete(reached, i, axis=0).max(axis=0)
        np.testing.assert_allclose(found[i], np.maximum(reached[i] - TIMES * others, 0), rtol=1e-9, atol=1e-9)


def test_the_excess_is_what_no_other_model_has():
    kl = np.random.default_rng(0).exponential(size=(3, 50))
    found = excess(list(kl))
    for i, own in enumerate(found):
        others = [kl[j] for j in range(3) if j != i]
        assert np.array_equal(own, np.maximum(kl[i] - np.max(others, axis=0), 0))
    assert (np.stack([each > 0 for each in found]).sum(axis=0) <= 1).all()
    assert np.array_equal(excess([kl[0]])[0], kl[0])


def test_bad_settings_and_an_empty_stream_are_refused():
    with pytest.raises(SettingError, match="at least 1"):
        DifferencePass(4, k=0)
    with pytest.raises(SettingError, match="no token"):
        DifferencePass(4).finish()
    with pytest.raises(SettingError, match="give one for each"):
        ranked(passed(activations(50, 6), activations(50, 7)), np.arange(49))
