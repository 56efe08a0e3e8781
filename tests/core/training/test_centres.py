"""Centres of groups against a slow k-means in float64, and that no cut, thread or device changes a bit of them."""

import hashlib

import numpy as np
import pytest
import torch
from core.helpers import batch, labels, normal, same_bits, unit_rows
from core.other_device import DEVICE, here, other_device, there
from hypothesis import given
from hypothesis import strategies as st

from itda import ITDA, Trainer, fit
from itda.core.pursuit import encoder
from itda.core.pursuit.fixed_order import fixed_dot
from itda.core.training import centres as module
from itda.core.training.centres import centres, nearest
from itda.core.training.refine_step import improved
from itda.core.training.settings import TrainerSettings
from itda.errors import SettingError
from itda.store.checkpoints import latest_checkpoint, write_checkpoint

WIDTH = 16


def clustered(tokens: int, *, groups: int = 12, noise: float = 0.3, seed: int = 0) -> torch.Tensor:
    """Activations of different lengths around some directions, and around a mean."""
    random = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(groups, WIDTH, generator=random), dim=1)
    x = directions[torch.randint(groups, (tokens,), generator=random)]
    x = x + noise * torch.randn(tokens, WIDTH, generator=random) / WIDTH**0.5
    return x * (0.5 + torch.rand(tokens, 1, generator=random)) + 0.2


def begun(x: torch.Tensor, atoms: int, **parts) -> ITDA:
    """A dictionary whose atoms do not matter."""
    return ITDA(unit_rows(atoms, x.shape[1]), labels(atoms), **{"k": 3, "offset": x.mean(dim=0), **parts})


def assert_same(a: ITDA, b: ITDA) -> None:
    assert same_bits(a.atoms, b.atoms)
    assert same_bits(a.fidelity, b.fidelity)
    assert a.labels.keys() == b.labels.keys()


def slow_rounds(x: torch.Tensor, dictionary: ITDA, rounds: int) -> np.ndarray:
    """Spherical k-means, one activation after the other, in float64; small groups start anew."""
    z = (x.double() - dictionary.offset.double()).numpy()
    u, number = z / np.linalg.norm(z, axis=1, keepdims=True), len(dictionary)
    atoms = np.array([u[min(len(u) - 1, int(j * (len(u) / number)))] for j in range(number)])
    for turn in range(1, rounds + 1):
        sums, sizes = np.zeros_like(atoms), np.zeros(number, dtype=int)
        for row in u:
            best = int((atoms @ row).argmax())
            sums[best] += row
            sizes[best] += 1
        for j in range(number):
            atoms[j] = sums[j] / np.linalg.norm(sums[j]) if sizes[j] else atoms[j]
        if turn in (3, 6, 9) and turn < rounds:
            small = [j for j in range(number) if sizes[j] < min(5, max(1, len(u) // (3 * number)))]
            for place, j in enumerate(small):
                at = (place + (turn * module.GOLDEN) % 1) * (len(u) / len(small))
                atoms[j] = u[min(len(u) - 1, int(at))]
    return atoms


@pytest.mark.parametrize(("rounds", "atoms"), [(1, 10), (4, 12), (12, 12), (12, 60)])
def test_the_rounds_are_those_of_a_slow_k_means(rounds, atoms):
    x = clustered(500)
    dictionary = begun(x, atoms)
    wanted = slow_rounds(x, dictionary, rounds)
    found = centres(dictionary, x, labels(500), rounds=rounds, near=0, steps=0)
    assert len(found) == atoms
    np.testing.assert_allclose(found.atoms.double().numpy(), wanted, rtol=0, atol=2e-6)


def test_a_round_of_large_clusters_is_that_of_scikit_learn():
    """On unit rows the nearest by distance is the nearest by cosine; a mean has the direction of the sum."""
    cluster = pytest.importorskip("sklearn.cluster")
    x = clustered(400)
    dictionary = begun(x, 8)
    z = (x - dictionary.offset).double().numpy()
    u = z / np.linalg.norm(z, axis=1, keepdims=True)
    start = u[[int(j * 50) for j in range(8)]]
    means = cluster.KMeans(8, init=start, n_init=1, max_iter=1, tol=0, algorithm="lloyd").fit(u).cluster_centers_
    wanted = means / np.linalg.norm(means, axis=1, keepdims=True)
    found = centres(dictionary, x, labels(400), rounds=1, near=0, steps=0)
    np.testing.assert_allclose(found.atoms.double().numpy(), wanted, rtol=0, atol=1e-6)


def test_overlapping_groups_are_the_weighted_sums_of_dense_algebra():
    x = clustered(300, noise=1.0)
    dictionary = begun(x, 20)
    before = centres(dictionary, x, labels(300), rounds=3, near=0, steps=0).atoms
    found = centres(dictionary, x, labels(300), rounds=3, steps=0).atoms
    u = torch.nn.functional.normalize((x - dictionary.offset).double(), dim=1)
    cosine = u @ before.double().T
    weight = (cosine.clamp(min=0) / cosine.amax(dim=1, keepdim=True)) ** 4
    weight = torch.where(cosine >= cosine.topk(module.NEAR, dim=1).values[:, -1:], weight, 0.0)
    wanted = torch.nn.functional.normalize(weight.T @ u, dim=1)
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("parts", [1, 3])
def test_the_steps_at_the_end_are_the_means_of_damped_steps_over_parts(parts, monkeypatch):
    x = clustered(300)
    monkeypatch.setattr(module, "PASS_TOKENS", 300 // parts)
    dictionary = begun(x, 20)
    wanted = centres(dictionary, x, labels(300), steps=0).atoms
    for _ in range(module.STEPS):
        before, total = wanted, torch.zeros(wanted.shape, dtype=torch.float64)
        for part in range(parts):
            z = x[part::parts].double() - dictionary.offset.double()
            code = encoder(before, 3, "mp")(z)[0]
            total += improved(before, z, code, damping=module.DAMPING).double() - before.double()
        assert float(total.abs().max()) > 1e-3
        wanted = torch.nn.functional.normalize(before.double() + total / parts, dim=1).float()
    torch.testing.assert_close(centres(dictionary, x, labels(300)).atoms, wanted, rtol=0, atol=1e-6)


@given(st.integers(1, 60), st.integers(1, 30), st.integers(1, 40), st.integers(0, 999))
def test_the_nearest_atom_is_that_of_float64_in_a_fixed_order_and_of_equals_the_first(rows, atoms, width, seed):
    units, these = unit_rows(rows, width, seed), unit_rows(atoms, width, seed + 1)
    these[atoms // 2] = these[0]  # equal
    units[rows // 2] = torch.nn.functional.normalize(these[0] + these[-1] + 1e-9, dim=0)  # nearly as near to both
    exact = torch.stack([fixed_dot(units.double(), atom.double().expand(rows, -1)) for atom in these], dim=1)
    found, cosine = nearest(units, these)
    assert found.tolist() == [row.index(max(row)) for row in exact.tolist()]
    assert same_bits(cosine, exact.amax(dim=1))


@given(st.integers(1, 200), st.integers(1, 40), st.integers(1, 3000), st.integers(1, 3), st.integers(0, 999))
def test_neither_parts_nor_threads_change_a_bit(tokens, atoms, products, threads, seed):
    x = clustered(tokens, seed=seed)
    x[3::17] = x[0]
    x[5::29] = x.mean(dim=0)
    before = torch.get_num_threads()
    whole = centres(begun(x, atoms), x, labels(tokens))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PRODUCTS", products)
        torch.set_num_threads(threads)
        try:
            assert_same(whole, centres(begun(x, atoms), x, labels(tokens)))
        finally:
            torch.set_num_threads(before)


def test_on_a_device_they_have_the_bits_of_the_cpu():
    x = clustered(300)
    wanted = centres(begun(x, 20), x, labels(300))
    with other_device() as device:
        found = centres(begun(x, 20).to(DEVICE), there(x), labels(300))
        assert not [shape for shape in device.copied if shape == x.shape]
        assert same_bits(here(found.atoms), wanted.atoms)
    assert same_bits(found.fidelity, wanted.fidelity)
    assert found.labels.keys() == wanted.labels.keys()


def test_a_trainer_ends_with_the_steps_that_are_asked_for_and_fewer_leave_more_unexplained():
    x = clustered(400)
    errors = []
    for steps in (0, 3, 8):
        trainer = Trainer(WIDTH, k=3, atoms=20, tokens=400, offset_tokens=400, passes=3, recipe=2, steps=steps)
        trainer.offer(batch(x))
        made = trainer.finish()
        assert_same(made, centres(begun(x, 20, offset=made.offset), x, labels(400), rounds=3, steps=steps))
        errors.append(float((x - made(x)).square().sum()))
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize(("atoms", "steps"), [(11, 8), (12, 3)])
def test_a_trainer_takes_more_steps_where_each_atom_has_many_activations_and_says_so(atoms, steps):
    x = clustered(400)
    made = {}
    for asked in (None, steps):
        trainer = Trainer(WIDTH, k=3, atoms=atoms, tokens=400, offset_tokens=400, passes=3, recipe=2, steps=asked)
        trainer.offer(batch(x))
        made[asked] = trainer.finish(provenance={"model": "x"})
    assert_same(made[None], made[steps])
    said = {"recipe": 2, "rounds": 3} | ({"steps": 8} if steps == 8 else {})
    assert [each.provenance for each in made.values()] == [{"model": "x", "refinement": said}] * 2


@pytest.mark.parametrize("rounds", [0, 3, 12])
def test_progress_adds_up_to_what_a_bar_is_told_beforehand(rounds):
    told: list[int] = []
    for activations, steps in ((200, 3), (400, 8)):
        told.clear()
        x = clustered(activations)
        centres(begun(x, 9), x, labels(activations), rounds=rounds, progress=told.append)
        assert sum(told) == module.readings(rounds, steps) * activations


def test_a_label_is_the_activation_of_the_group_nearest_to_the_atom_and_fidelity_their_cosine():
    x = clustered(500)
    found = centres(begun(x, 40), x, labels(500))
    u = torch.nn.functional.normalize((x - found.offset).double(), dim=1)
    cosine = u @ found.atoms.double().T
    medoid = torch.from_numpy(found.labels.position)
    assert len(set(medoid.tolist())) == 40
    for atom, row in enumerate(medoid.tolist()):
        group = (cosine.argmax(dim=1) == atom).nonzero()[:, 0]
        assert row in group
        assert cosine[row, atom] >= cosine[group, atom].max() - 1e-7
    torch.testing.assert_close(found.fidelity.double(), cosine[medoid, torch.arange(40)], rtol=0, atol=1e-6)
    assert found.novelty is None


def test_where_fewer_activations_differ_there_are_fewer_atoms():
    x = clustered(3)[[0, 1, 2] * 20]
    found = centres(begun(x, 10, offset=None), x, labels(60))
    assert len(found) == 3
    assert float(found.fidelity.min()) > 0.999


@pytest.mark.parametrize(("tokens", "atoms"), [(0, 0), (5, 0), (0, 4), (1, 1)])
def test_nothing_and_next_to_nothing_give_what_there_is(tokens, atoms):
    x = normal(tokens, WIDTH)
    found = centres(ITDA(unit_rows(atoms, WIDTH), labels(atoms), k=2), x, labels(tokens))
    assert len(found) == len(found.fidelity) == atoms


def test_activations_that_are_all_the_offset_leave_the_atoms_as_they_are():
    x = torch.ones(5, WIDTH)
    dictionary = begun(x, 4)
    assert same_bits(centres(dictionary, x, labels(5)).atoms, dictionary.atoms)


def trained(x: torch.Tensor, **parts) -> Trainer:
    trainer = Trainer(x.shape[1], **{"k": 3, "tokens": len(x), "atoms": 40, "passes": 12, "recipe": 2, **parts})
    for start in range(0, len(x), 70):
        trainer.offer(batch(x, start, min(len(x), start + 70)))
    return trainer


def test_the_trainer_gives_the_centres_of_what_it_kept_and_goes_on_from_a_checkpoint(tmp_path):
    x = clustered(700, noise=0.8)
    trainer = trained(x, tokens=2000)
    write_checkpoint(tmp_path, {}, {"layer_3": trainer.state()})
    read = latest_checkpoint(tmp_path)
    other = Trainer(WIDTH, k=3, tokens=2000, atoms=40, passes=12, recipe=2)
    other.restore(read.training_states["layer_3"])
    for each in (trainer, other):
        each.offer(batch(clustered(300, noise=0.8, seed=1)))
    found = trainer.finish()
    assert_same(found, other.finish())
    kept = torch.cat([x, clustered(300, noise=0.8, seed=1)])
    assert_same(found, centres(ITDA(unit_rows(40, WIDTH), labels(40), k=3), kept, trainer._kept.labels()))


def test_with_a_number_of_atoms_nothing_grows_and_nothing_is_said_of_growth(monkeypatch):
    def grown(*_arguments):
        raise AssertionError

    monkeypatch.setattr("itda.core.training.greedy.growth_for", grown)
    monkeypatch.setattr("itda.core.training.schedule.growth_for", grown)
    x = clustered(700, noise=0.8)
    trainer = trained(x)
    assert (len(trainer), trainer.grows, trainer.threshold, trainer.gram_rows) == (0, False, None, None)
    assert trainer.error(x[:5]).tolist() == [1.0] * 5
    found = trainer.finish()
    assert len(found) == 40
    assert (found.threshold, found.novelty, trainer.found) == (None, None, None)


def test_with_a_threshold_growth_says_how_many_atoms_there_are():
    x = clustered(700, noise=0.8)
    grown = Trainer(WIDTH, k=3, threshold=0.3, tokens=700)
    grown.offer(batch(x))
    trainer = trained(x, atoms=None, threshold=0.3)
    assert trainer.grows
    assert len(trainer) == len(grown) > 20
    found = trainer.finish()
    assert 0.9 * len(grown) <= len(found) <= len(grown) == trainer.found
    assert (found.threshold, found.novelty) == (0.3, None)


@pytest.mark.parametrize("tokens", [0, 1, 25])
def test_a_stream_that_ends_early_gives_no_more_atoms_than_it_had_activations(tokens):
    found = trained(clustered(tokens), tokens=2000).finish()
    assert len(found) == min(tokens, len(found)) >= min(tokens, 1)


def test_of_a_long_stream_every_s_th_activation_and_its_label_are_kept(monkeypatch):
    for name, value in (("CENTRE_TOKENS", 100), ("PER_ATOM", 5)):
        monkeypatch.setattr(f"itda.core.training.settings.{name}", value)
    x = clustered(700, noise=0.8)
    trainer = trained(x, atoms=20)
    assert trainer._kept.labels().position.tolist() == list(range(0, 700, 7))
    assert set(trainer.finish().labels.position) <= set(range(0, 700, 7))


@given(st.integers(1, 10**7), st.integers(1, 20_000), st.integers(1, 10**5))
def test_what_is_kept_is_bounded_but_for_some_activations_of_each_atom(tokens, width, atoms):
    atoms = min(atoms, tokens)
    settings = TrainerSettings(d_model=width, k=3, atoms=atoms, tokens=tokens, passes=12, recipe=2)
    kept = settings.most_kept
    assert kept <= max(160_000, 20 * atoms)
    assert kept <= max(2**31 // (4 * width), 8 * atoms)
    # No fewer than that either, but that only every n-th can be kept.
    assert kept >= min(tokens, max(160_000, 20 * atoms), max(2**31 // (4 * width), 8 * atoms)) // 2


def test_a_recipe_that_is_none_or_has_a_least_fidelity_is_refused():
    with pytest.raises(SettingError, match="recipe 3: it must be 1"):
        Trainer(4, k=1, threshold=0.3, recipe=3)
    with pytest.raises(SettingError, match=r"a fidelity of at least 0.9 is only for recipe 1: leave it out"):
        Trainer(4, k=1, threshold=0.3, tokens=9, passes=2, min_fidelity=0.9, recipe=2)
    with pytest.raises(SettingError, match="recipe 2 makes its atoms in rounds: ask for 12, or for recipe 1"):
        Trainer(4, k=1, threshold=0.3, tokens=9, recipe=2)
    with pytest.raises(SettingError, match="massive activations as atoms are only for recipe 1"):
        Trainer(4, k=1, threshold=0.3, tokens=9, passes=2, massive="atoms", recipe=2)
    with pytest.raises(SettingError, match="state to be restored"):
        trained(clustered(100)).restore(trained(clustered(100), recipe=1).state())
    with pytest.raises(SettingError, match="recipe 2 is only for mode best"):
        fit(clustered(100), atoms=5, mode="paper", recipe=2)


def test_fit_takes_the_recipe():
    x = clustered(300)
    found = fit(x, atoms=12, k=3, recipe=2)
    assert len(found) == 12
    assert found.novelty is None
    assert float(found.fidelity.median()) > 0.9
    assert_same(found, fit(x, atoms=12, k=3, recipe=2, passes=12))


def test_recipe_1_has_the_bits_that_it_had_before_there_was_another():
    n = torch.arange(600 * WIDTH, dtype=torch.int64)
    x = ((n * n * n * 7919 + n * n * 104729 + 13 * n) % 2003).reshape(600, WIDTH).float() - 1001
    made = fit(x, atoms=40, k=4)
    assert same_bits(made.atoms, fit(x, atoms=40, k=4, recipe=1).atoms)
    assert hashlib.sha256(made.atoms.numpy().tobytes()).hexdigest()[:16] == "c4d4779891e2d04b"
