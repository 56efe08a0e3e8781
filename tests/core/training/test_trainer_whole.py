"""The trainer with all its steps: a dictionary of the stream and the settings alone, with the atoms asked for."""

import itertools
import json

import numpy as np
import pytest
import torch
from core.helpers import COMPILED, batch, labels, normal, same_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from itda import ITDA, ActivationBatch, Labels, Site, Trainer, refine
from itda.errors import ActivationError, SettingError, StoreError
from itda.sources.corpora.corpus import python_docs
from itda.sources.models.transformers import LanguageModel
from itda.sources.source import ModelSource

USUAL = {"k": 3, "pursuit": "mp_refit", "offset_tokens": 4096, "massive": "skip"}
"""Settings of the trainers here, where a test has no others."""


def planted(tokens: int, *, hidden: int = 64, width: int = 24, active: int = 3, noise: float = 0.1, seed: int = 0):
    """Sparse sums of hidden atoms, around a mean, with some noise."""
    random = torch.Generator().manual_seed(seed)
    atoms = torch.nn.functional.normalize(torch.randn(hidden, width, generator=random), dim=1)
    picks = torch.rand(tokens, hidden, generator=random).argsort(dim=1)[:, :active]
    weights = 0.5 + torch.rand(tokens, active, generator=random)
    x = (weights[:, :, None] * atoms[picks]).sum(dim=1) + noise * torch.randn(tokens, width, generator=random)
    return x + 0.3 * torch.randn(width, generator=random)


def offered(x: torch.Tensor, cuts: list[int] | None = None, **parts) -> Trainer:
    trainer = Trainer(x.shape[1], **{"tokens": len(x), **USUAL, **parts})
    names = labels(len(x))
    for start, stop in itertools.pairwise([0, *(cuts or []), len(x)]):
        trainer.offer(ActivationBatch(x[start:stop], names[start:stop]))
    return trainer


def built(x: torch.Tensor, cuts: list[int] | None = None, **parts) -> ITDA:
    return offered(x, cuts, **parts).finish()


def assert_same(a: ITDA, b: ITDA) -> None:
    assert a.labels.keys() == b.labels.keys()
    assert same_bits(a.atoms, b.atoms)
    assert a.threshold == b.threshold
    for left, right in ((a.offset, b.offset), (a.fidelity, b.fidelity)):
        assert (left is None) == (right is None)
        assert left is None or same_bits(left, right)


@pytest.fixture
def short_waits(monkeypatch):
    """A sample and a pass of few tokens, so that a short stream goes through all of the procedure."""
    for name in ("settings.FIRST_TOKENS", "schedule.LEAST_SAMPLE"):
        monkeypatch.setattr(f"itda.core.training.{name}", 90)
    for module in ("settings", "refine"):
        monkeypatch.setattr(f"itda.core.training.{module}.PASS_TOKENS", 70)


SETTINGS = [
    {"threshold": 0.3},
    {"threshold": 0.3, "offset_tokens": 0},
    {"threshold": 0.3, "offset_tokens": 50, "passes": 2},
    {"threshold": 0.2, "pursuit": "omp", "offset_tokens": 300, "passes": 3, "min_fidelity": 0.9},
    {"atoms": 60},
    {"atoms": 60, "offset_tokens": 0},
    {"atoms": 60, "offset_tokens": 50, "passes": 2},
    {"atoms": 90, "pursuit": "mp", "offset_tokens": 130, "passes": 3, "min_fidelity": 0.9},
    {"atoms": 60, "offset_tokens": 50, "passes": 4, "recipe": 2},
]


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize("parts", SETTINGS)
def test_batches_of_1_and_uneven_ones_give_the_bits_of_one_batch(parts):
    x = planted(300)
    whole = built(x, **parts)
    assert 20 < len(whole) < 280
    for cuts in (range(1, 300), [49, 50, 51, 89, 90, 91, 299], [0, 0, 140, 140, 300]):
        assert_same(whole, built(x, list(cuts), **parts))


@pytest.mark.usefixtures("short_waits")
@settings(max_examples=2)
@given(st.integers(0, 10**6), st.data())
def test_no_cut_into_batches_changes_a_bit(seed, data):
    tokens = data.draw(st.integers(1, 250))
    x = planted(tokens, seed=seed)
    cuts = sorted(data.draw(st.lists(st.integers(0, tokens), max_size=12)))
    for parts in SETTINGS:
        parts = {**parts, "tokens": 250}
        assert_same(built(x, **parts), built(x, cuts, **parts))


def test_no_cut_changes_a_bit_with_the_real_sample_and_offset():
    x = planted(6000)
    parts = {"atoms": 300, "passes": 1}
    whole = built(x, **parts)
    assert len(whole) == 300
    for cuts in (range(250, 6000, 250), [1, 4095, 4096, 4097, 5999]):
        assert_same(whole, built(x, list(cuts), **parts))


@pytest.mark.parametrize("parts", [{"threshold": 0.3}, {"atoms": 40, "offset_tokens": 0}])
def test_no_cut_changes_a_bit_on_a_stream_longer_than_it_was_said_to_be(parts):
    x = planted(400)
    assert_same(built(x, tokens=200, **parts), built(x, list(range(1, 400)), tokens=200, **parts))


@pytest.mark.parametrize("pursuit", COMPILED)
def test_steps_that_are_off_wait_for_nothing_and_change_no_bit(pursuit):
    x, plain = planted(500), Trainer(24, k=3, threshold=0.15, pursuit=pursuit)
    assert plain.offer(batch(x)) == len(plain)
    model = built(x, [3, 77], threshold=0.15, pursuit=pursuit, offset_tokens=0)
    assert 50 < len(model) < 400
    assert_same(model, plain.finish())


def test_an_offset_from_the_first_tokens_gives_the_dictionary_of_the_same_offset_given():
    x = planted(500)
    mean = x[:200].double().mean(dim=0).float()
    model = built(x, [3, 77], threshold=0.15, pursuit="mp", offset_tokens=200)
    for parts in ({}, {"massive": "skip"}, {"massive": "skip", "tokens": 500}):
        given = Trainer(24, k=3, threshold=0.15, offset=model.offset, **parts)
        given.offer(batch(x))
        assert_same(model, given.finish())
    torch.testing.assert_close(model.offset, mean, rtol=1e-6, atol=1e-7)


def test_offer_returns_the_atoms_added_and_none_while_activations_wait():
    x = planted(300)
    trainer = Trainer(24, k=3, threshold=0.3, offset_tokens=100)
    assert trainer.offer(batch(x, 0, 60)) == len(trainer) == 0
    added = trainer.offer(batch(x, 60, 130))
    assert 10 < added == len(trainer)
    assert trainer.offer(batch(x, 130, 300)) == len(trainer) - added
    assert len(trainer.finish()) == len(trainer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("tokens", [1, 100, 350, 5000])
def test_the_offset_is_the_float64_mean_of_the_first_tokens(dtype, tokens):
    x = (planted(350) + 100).to(dtype)
    model = built(x, [30, 31], threshold=0.3, offset_tokens=tokens)
    expected = x[:tokens].double().numpy().mean(axis=0)
    torch.testing.assert_close(model.offset.double(), torch.from_numpy(expected), rtol=6.1e-8, atol=0)


def test_refinement_is_refine_of_the_crop_on_the_whole_of_a_stream_that_is_kept():
    x = planted(900)
    plain, refined = built(x, atoms=60), built(x, [10, 500], atoms=60, passes=2, min_fidelity=0.7)
    assert plain.fidelity is None
    assert_same(refined, refine(plain, x, passes=2, min_fidelity=0.7))
    assert refined.labels.keys() == plain.labels.keys()
    assert not same_bits(refined.atoms, plain.atoms)
    assert 0.7 <= float(refined.fidelity.min()) < 0.99


@pytest.mark.usefixtures("short_waits")
def test_of_a_long_stream_every_s_th_activation_is_kept_for_refinement():
    x = planted(700)
    plain, refined = built(x, atoms=60), built(x, [1, 3, 333], atoms=60, passes=2)  # 140 of 700: every fifth
    assert_same(refined, refine(plain, x[::5], passes=2, pass_tokens=70))


@pytest.mark.parametrize("pursuit", COMPILED)
@pytest.mark.parametrize(
    ("atoms", "k", "noise", "offset_tokens"),
    [(150, 3, 0.1, 4096), (600, 3, 0.1, 0), (1200, 2, 0.02, 4096), (400, 6, 0.3, 1000), (300, 1, 0.1, 0)],
)
def test_a_number_of_atoms_is_hit_to_5_percent_or_10_and_cropped_to(pursuit, atoms, k, noise, offset_tokens):
    x = planted(9000, hidden=200, width=32, noise=noise)
    trainer = offered(x, [5000], atoms=atoms, k=k, pursuit=pursuit, offset_tokens=offset_tokens)
    model = trainer.finish()
    assert abs(trainer.found - atoms) <= max(10, 0.05 * atoms)
    assert len(model) == min(atoms, trainer.found)
    assert len(trainer) == trainer.found
    assert trainer.seen == 9000


def test_the_crop_leaves_out_those_nearest_to_the_threshold_and_not_the_last():
    trainer = offered(planted(6000), atoms=200)
    model = trainer.finish()
    grown = trainer._pass.finish()
    assert len(grown) == trainer.found > len(model) == 200
    kept = [i for i, key in enumerate(grown.labels.keys()) if key in set(model.labels.keys())]
    assert same_bits(model.atoms, grown.atoms[kept])
    assert model.labels.keys() == grown.labels[np.array(kept)].keys()  # in reading order
    left_out = [i for i in range(len(grown)) if i not in kept]
    assert grown.novelty[left_out].max() <= model.novelty.min()
    assert model.atoms.untyped_storage().nbytes() == 200 * 24 * 4, "and not the memory of the others"


@pytest.mark.parametrize(("atoms", "k"), [(200, 3), (1200, 2)])
def test_the_whole_stream_gives_atoms_at_nearly_one_threshold(atoms, k):
    """As many of the last tenth as the growth curve has there, and no tide of them in the beginning."""
    x = planted(24_000, hidden=400, width=32)
    trainer = Trainer(32, **{**USUAL, "k": k}, tokens=len(x), atoms=atoms)
    used = []
    for start in range(0, len(x), 400):
        trainer.offer(batch(x, start, start + 400))
        used += [trainer.threshold] if trainer.threshold is not None else []
    model = trainer.finish()
    assert abs(trainer.found - atoms) <= 0.05 * atoms
    place = np.array([position for _, position, _ in model.labels.keys()])  # noqa: SIM118
    assert (place >= 0.9 * len(x)).mean() >= 0.01
    assert max(used) < 1.15 * min(used)
    assert model.threshold == pytest.approx(used[0], rel=0.15)


@pytest.fixture(scope="module")
def tiny():
    source = ModelSource(
        LanguageModel.load("tiny"), python_docs().split("train"), [Site(2), Site(4)], window=128, tokens=6000
    )
    parts = list(source)
    return {
        site: ActivationBatch(
            torch.cat([part[site].activations for part in parts]),
            Labels.concatenate([part[site].labels for part in parts]),
        )
        for site in source.sites
    }


@pytest.mark.parametrize("atoms", [150, 1000])
@pytest.mark.parametrize("site", [Site(2), Site(4)])
def test_on_the_bundled_model_a_number_of_atoms_is_hit_to_5_percent_or_10_and_labels_are_the_streams(tiny, site, atoms):
    stream = tiny[site]
    trainer = Trainer(192, **{**USUAL, "k": 12}, tokens=len(stream), atoms=atoms, passes=1, min_fidelity=0.8)
    for start in range(0, len(stream), 1024):
        part = slice(start, start + 1024)
        trainer.offer(ActivationBatch(stream.activations[part], stream.labels[part]))
    model = trainer.finish(site=site)
    assert abs(trainer.found - atoms) <= max(10, 0.05 * atoms)
    assert len(model) == min(atoms, trainer.found)
    assert model.site == site
    keys = stream.labels.keys()
    rows = [keys.index(key) for key in model.labels.keys()]  # noqa: SIM118
    assert rows == sorted(rows)
    z = stream.activations[rows].double() - model.offset.double()
    cosine = torch.nn.functional.cosine_similarity(model.atoms.double(), z, dim=1)
    torch.testing.assert_close(model.fidelity.double(), cosine, rtol=0, atol=1e-6)
    assert float(model.fidelity.min()) >= 0.8


def test_a_stream_that_ends_before_the_sample_is_built_from_what_came():
    x = planted(300)
    trainer = offered(x, [100], atoms=2000, tokens=100_000, passes=1)
    assert len(trainer) == 0
    model = trainer.finish()
    assert 0 < len(model) == trainer.found <= 300
    torch.testing.assert_close(model.offset, x.mean(dim=0), rtol=0, atol=1e-6)
    assert len(model.fidelity) == len(model)


def test_a_stream_that_ends_within_the_sample_gives_the_atoms_asked_for_all_the_same():
    """A corpus smaller than --tokens: the sample is then all there is, and nothing is to be projected."""
    x = planted(2000)
    told, not_told = built(x, atoms=200), built(x, [700], atoms=200, tokens=1_000_000)
    assert len(told) == len(not_told) == 200
    assert_same(told, not_told)


@pytest.mark.parametrize("passes", [0, 2])
def test_an_empty_stream_gives_an_empty_dictionary(passes):
    trainer = Trainer(8, **USUAL, tokens=100, threshold=0.3, passes=passes)
    assert len(trainer.finish()) == trainer.found == 0


def test_an_empty_stream_gives_an_empty_dictionary_when_atoms_were_asked_for():
    assert len(Trainer(8, **USUAL, tokens=100, atoms=5).finish()) == 0


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize("parts", SETTINGS)
def test_empty_batches_anywhere_change_nothing(parts):
    x = planted(200)
    trainer = Trainer(24, **{**USUAL, **parts}, tokens=200)
    for start in range(0, 200, 10):
        trainer.offer(batch(x, start, start))
        trainer.offer(batch(x, start, start + 10))
    trainer.offer(batch(x, 0, 0))
    assert trainer.seen == 200
    assert_same(trainer.finish(), built(x, **parts))


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize("at", [0, 40, 120, 200])
@pytest.mark.parametrize("parts", SETTINGS)
def test_a_bad_batch_is_left_out_and_nothing_is_lost(parts, at):
    x = planted(200)
    trainer, broken = Trainer(24, **{**USUAL, **parts}, tokens=200), 5 * planted(20, seed=3)
    broken[6, 3] = float("nan")
    for start in range(0, 240, 40):
        if start == at:
            tokens, number = trainer.seen, len(trainer)
            with pytest.raises(ActivationError, match="activation 6 is not finite: leave it out"):
                trainer.offer(batch(broken))
            with pytest.raises(ActivationError, match="width 5 for atoms of width 24"):
                trainer.offer(batch(normal(4, 5)))
            assert (trainer.seen, len(trainer)) == (tokens, number)
        if start < 200:
            trainer.offer(batch(x, start, start + 40))
    assert_same(trainer.finish(), built(x, **parts))


def test_a_source_may_use_its_buffer_again():
    x, buffer = planted(300), torch.empty(50, 24)
    trainer = Trainer(24, **USUAL, tokens=300, threshold=0.3)
    for start in range(0, 300, 50):
        buffer.copy_(x[start : start + 50])
        trainer.offer(ActivationBatch(buffer, labels(300)[start : start + 50]))
    assert_same(trainer.finish(), built(x, threshold=0.3))


def test_the_error_is_all_of_it_before_the_start_and_then_the_trainers():
    x = planted(300)
    trainer = Trainer(24, **{**USUAL, "offset_tokens": 100}, tokens=300, threshold=0.3)
    trainer.offer(batch(x, 0, 99))
    assert trainer.error(x[:5]).tolist() == [1.0] * 5
    trainer.offer(batch(x, 99, 300))
    assert same_bits(trainer.error(x[:5]), trainer.finish().decompose(x[:5])[1])
    assert float(trainer.error(x).max()) < 1
    with pytest.raises(ActivationError, match="width 7"):
        trainer.error(normal(3, 7))


@pytest.mark.parametrize("memory", [3_000, 40_000, None])
def test_memory_changes_no_bit(memory):
    x = planted(400)
    assert_same(built(x, atoms=120, memory=memory), built(x, atoms=120, memory=10**8))


@pytest.mark.parametrize(
    ("parts", "remedy"),
    [
        ({}, "give a threshold or a number of atoms, one of the two"),
        ({"threshold": 0.2, "atoms": 5}, "give a threshold or a number of atoms, one of the two"),
        ({"threshold": 1.0}, "it must be at least 1e-06 and below 1"),
        ({"threshold": 0.0}, "it must be at least 1e-06 and below 1"),
        ({"threshold": float("nan")}, "it must be at least 1e-06 and below 1"),
        ({"atoms": 101}, "ask for fewer or read more"),
        ({"atoms": 0}, "it must be at least 1"),
        ({"atoms": -3}, "it must be at least 1"),
        ({"threshold": 0.2, "tokens": 0}, "it must be at least 1"),
        ({"threshold": 0.2, "offset_tokens": -1}, "it must be at least 0, for no offset"),
        ({"threshold": 0.2, "passes": -1}, "it must be at least 0"),
        ({"threshold": 0.2, "min_fidelity": 1.01}, "it must be from 0 to 1"),
        ({"threshold": 0.2, "min_fidelity": float("nan")}, "it must be from 0 to 1"),
        ({"threshold": 0.2, "k": 0}, "it must be at least 1"),
        ({"threshold": 0.2, "memory": 0}, "it must be at least 1"),
        ({"atoms": 5, "tokens": None}, "a number of atoms needs the number of activations"),
        ({"threshold": 0.2, "passes": 1, "tokens": None}, "passes of refinement need the number of activations"),
        ({"threshold": 0.2, "offset": torch.ones(8), "offset_tokens": 5}, "give one of the two"),
        ({"threshold": 0.2, "offset": torch.ones(7)}, "7"),
    ],
)
def test_settings_out_of_range_are_refused_before_the_first_batch_with_what_would_do(parts, remedy):
    with pytest.raises(SettingError, match=remedy) as error:
        Trainer(8, **{"tokens": 100, "k": 2, **parts})
    assert "\n" not in str(error.value)


def test_the_threshold_cannot_be_set_where_atoms_set_it_or_before_it_is_used():
    with pytest.raises(SettingError, match="follows from the number of atoms: make the Trainer with a threshold"):
        Trainer(8, k=2, atoms=5, tokens=100).threshold = 0.2
    with pytest.raises(SettingError, match="make the Trainer with this threshold"):
        Trainer(8, k=2, threshold=0.1).threshold = 0.2
    with pytest.raises(SettingError, match="below 1"):
        Trainer(8, k=2, threshold=0.1).threshold = 1.0


def refined() -> ITDA:
    return built(planted(400), atoms=60, passes=2, min_fidelity=0.8)


def test_a_refined_dictionary_comes_back_to_the_bit(tmp_path):
    before = refined()
    before.save_pretrained(tmp_path / "d")
    after = ITDA.from_pretrained(tmp_path / "d")
    assert_same(before, after)
    assert float(after.fidelity.min()) < 0.99
    assert json.loads((tmp_path / "d" / "config.json").read_text())["refined"] is True
    assert f"{before.fidelity.median():.3f} in the median" in (tmp_path / "d" / "README.md").read_text()


def test_a_folder_from_before_there_was_refinement_still_loads(tmp_path):
    before = built(planted(400), threshold=0.3)
    before.save_pretrained(tmp_path / "d")
    path = tmp_path / "d" / "config.json"
    config = json.loads(path.read_text())
    assert config.pop("refined") is False
    path.write_text(json.dumps(config))
    after = ITDA.from_pretrained(tmp_path / "d")
    assert_same(before, after)
    assert after.fidelity is None


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_a_refined_folder_without_its_fidelity_is_refused(tmp_path, damage):
    refined().save_pretrained(tmp_path / "d")
    path = tmp_path / "d" / "atoms.safetensors"
    tensors = load_file(path)
    fidelity = tensors.pop("fidelity")
    if damage == "short":
        tensors["fidelity"] = fidelity[:-1].clone()
    save_file(tensors, path)
    with pytest.raises(StoreError, match=r"damaged or incomplete .*again"):
        ITDA.from_pretrained(tmp_path / "d")
