"""Fingerprints of activations: equal to slow loops to the bit, whatever the data, and functions of the data alone."""

import numpy as np
import pytest
import torch
from core.other_device import other_device, there
from core.similarity.slow_fingerprint import slow_fingerprint, slow_units
from hypothesis import given
from hypothesis import strategies as st

from itda.core.pursuit.fixed_order import fixed_dot
from itda.core.similarity import fingerprint
from itda.core.similarity.fingerprint import (
    LEFT_OUT,
    STEPS,
    FingerprintSettings,
    TokenNovelty,
    fingerprint_of,
    fingerprint_of_segment,
)
from itda.errors import ActivationError, SettingError

PLAIN = FingerprintSettings(centred=False, massive=False)


def values(found: TokenNovelty) -> tuple[list[int], list[int]]:
    return found.novelty.tolist(), found.bits.tolist()


@st.composite
def streams(draw) -> torch.Tensor:
    """Clusters with copies, opposites, rows of zeros, long rows and near copies, in a random order."""
    random = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    tokens, width, clusters = draw(st.integers(1, 40)), draw(st.integers(1, 9)), draw(st.integers(1, 6))
    spread = draw(st.sampled_from([0.0, 1e-7, 1e-4, 0.1, 0.5, 2.0]))
    centres = torch.randn(clusters, width, generator=random) + draw(st.sampled_from([0, 3]))
    rows = centres[torch.randint(clusters, (tokens,), generator=random)]
    rows = rows + spread * torch.randn(rows.shape, generator=random)
    kinds = torch.tensor([1.0, 1.0, 1.0, -1.0, 0.0, 2.0, 300.0])
    scales = kinds[torch.randint(draw(st.sampled_from([1, 7])), (tokens,), generator=random)]
    return rows * scales[:, None]


@given(
    streams(),
    st.booleans(),
    st.booleans(),
    st.sampled_from([2, 3, 7, 30, 100]),
    st.sampled_from(
        [(0.05, 0.1, 0.15, 0.2, 0.3), (0.5,), (1e-9, 1e-7, 1e-3, 0.9), (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)]
    ),
    st.sampled_from([1, 4, 512]),
    st.sampled_from([None, 0, 1, 64, 10**9]),
)
def test_fingerprints_have_the_bits_of_the_slow_loop(x, centred, massive, segment, rungs, block, left_open):
    settings = FingerprintSettings(rungs=rungs, segment=segment, centred=centred, massive=massive)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fingerprint, "BLOCK", block)
        patch.setattr(fingerprint, "in_16_bits_fast", lambda _device: left_open is not None)
        patch.setattr(fingerprint, "OPEN", left_open or 0)
        assert values(fingerprint_of(x, settings)) == slow_fingerprint(x, settings)


def test_cosines_at_a_rung_exactly_and_a_hair_beside_it_are_decided_as_by_the_slow_loop():
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    _, units = slow_units(x.double(), PLAIN)
    cosines = torch.stack([fixed_dot(units.double(), unit.double().expand(40, 5)) for unit in units]).numpy()
    met = np.sort(1 - cosines[np.tril_indices(40, -1)] ** 2)
    met = met[(met > 0.01) & (met < 0.9)]
    for exact in met[:: len(met) // 20]:
        for rung in (np.nextafter(exact, 0), exact, np.nextafter(exact, 1)):
            settings = FingerprintSettings(rungs=(float(rung),), centred=False, massive=False)
            assert values(fingerprint_of(x, settings)) == slow_fingerprint(x, settings)


def test_products_that_are_wrong_by_the_whole_of_their_bound_change_nothing(monkeypatch):
    random = torch.Generator().manual_seed(1)
    x = torch.randn(12, 6, generator=random)[torch.randint(12, (300,), generator=random)]
    x = x + 0.2 * torch.randn(300, 6, generator=random)
    x[250:] = x[100:150]
    wanted = values(fingerprint_of(x))
    exact, bound = fingerprint.correlations, 3e-3
    monkeypatch.setattr(fingerprint, "in_16_bits_fast", lambda _device: False)
    monkeypatch.setattr(fingerprint, "product_error", lambda _width: bound)

    def wrong(a, b, out):
        return exact(a, b, out=out).add_(0.99 * bound * (2 * torch.rand(out.shape, generator=random) - 1).sign())

    monkeypatch.setattr(fingerprint, "correlations", wrong)
    assert values(fingerprint_of(x)) == wanted


@pytest.mark.parametrize("crowded", [False, True])
def test_products_in_16_bits_change_nothing_and_give_way_where_they_leave_much_open(monkeypatch, crowded):
    random = torch.Generator().manual_seed(6)
    x = torch.randn(600, 200, generator=random) / torch.arange(1, 201)
    if crowded:
        x = torch.randn(3, 200, generator=random)[torch.randint(3, (600,), generator=random)] + 0.02 * x
    monkeypatch.setattr(fingerprint, "BLOCK", 100)
    monkeypatch.setattr(fingerprint, "OPEN", 8)
    monkeypatch.setattr(fingerprint, "in_16_bits_fast", lambda _device: False)
    wanted = values(fingerprint_of(x))
    exact, in_float32 = fingerprint.correlations, []

    def counted(a, b, out):
        in_float32.append(len(a))
        return exact(a, b, out=out)

    monkeypatch.setattr(fingerprint, "in_16_bits_fast", lambda _device: True)
    monkeypatch.setattr(fingerprint, "correlations", counted)
    assert values(fingerprint_of(x)) == wanted
    assert len(in_float32) == (5 if crowded else 0)  # of six blocks; the first tells


def test_the_number_of_threads_and_the_block_change_nothing(monkeypatch):
    random = torch.Generator().manual_seed(2)
    x = torch.randn(1500, 300, generator=random) @ (torch.randn(300, 300, generator=random) / torch.arange(1, 301))
    wanted, threads = values(fingerprint_of(x, FingerprintSettings(segment=700))), torch.get_num_threads()
    assert len(set(wanted[1])) > 3  # some tokens are atoms at some rungs alone
    monkeypatch.setattr(fingerprint, "BLOCK", 37)
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        assert values(fingerprint_of(x, FingerprintSettings(segment=700))) == wanted
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("centred", [True, False])
def test_another_device_has_the_same_bits_and_gives_no_activations_back_but_unit_rows(centred):
    x = torch.randn(150, 5, generator=torch.Generator().manual_seed(7))
    x[::40] *= 1000
    settings = FingerprintSettings(segment=100, centred=centred)
    with other_device() as device:
        found = fingerprint_of(there(x), settings)
        assert device.copied_rows(5) == 150
    assert values(found) == values(fingerprint_of(x, settings))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_are_taken_for_the_numbers_that_they_hold(dtype):
    x = torch.randn(80, 6, generator=torch.Generator().manual_seed(3)).to(dtype)
    assert values(fingerprint_of(x)) == slow_fingerprint(x, FingerprintSettings())
    assert values(fingerprint_of(x.T.contiguous().T)) == values(fingerprint_of(x))


def test_a_segment_does_not_know_of_the_others():
    x = torch.randn(100, 4, generator=torch.Generator().manual_seed(4))
    settings = FingerprintSettings(segment=30)
    whole = values(fingerprint_of(x, settings))
    for start in (30, 60, 90):
        part = values(fingerprint_of_segment(x[start : start + 30], settings))
        assert (whole[0][start : start + 30], whole[1][start : start + 30]) == part


def test_rotations_scalings_and_translations_leave_a_fingerprint_as_it_is():
    random = torch.Generator().manual_seed(5)
    x = torch.randn(400, 8, generator=random, dtype=torch.float64)
    turned = x @ torch.linalg.qr(torch.randn(8, 8, generator=random, dtype=torch.float64))[0]
    found = fingerprint_of(x)
    for other in (turned, 7 * x, x + 5):
        again = fingerprint_of(other)
        assert (again.bits == found.bits).mean() > 0.99  # rounding may decide a token or two
        assert np.abs(again.novelty.astype(int) - found.novelty).max() <= 1


def test_novelty_is_none_for_what_was_there_and_whole_for_what_is_orthogonal():
    x = torch.tensor([[2.0, 0, 0], [0, 1, 0], [-5, 0, 0], [0, 3, 0], [0, 0, 0], [0, 0, 1]])
    found = fingerprint_of(x, PLAIN)
    assert found.novelty.tolist() == [STEPS, STEPS, 0, 0, 0, STEPS]
    assert [found.is_atom(r).tolist() for r in (0, 4)] == [[True, True, False, False, False, True]] * 2


def test_massive_activations_are_left_out_and_decide_nothing():
    random = torch.Generator().manual_seed(6)
    x = torch.randn(200, 6, generator=random)
    x[::20] = 1000 * torch.randn(10, 6, generator=random)
    found = fingerprint_of(x)
    assert np.flatnonzero(found.massive).tolist() == list(range(0, 200, 20))
    assert not found.bits[found.massive].any()
    x[::20] = torch.full((10, 6), -5e5)
    assert values(fingerprint_of(x)) == values(found)
    assert not fingerprint_of(x, FingerprintSettings(massive=False)).massive.any()
    assert LEFT_OUT > STEPS


def test_norms_are_kept_in_eighths_of_an_octave_about_the_median():
    lengths = torch.tensor([1.0, 1.0, 1.0, 1.9999, 2.0, 3.0, 0.5, 0.0, 1e30, 1e-30])
    found = fingerprint_of(lengths[:, None] * torch.tensor([[0.6, 0.8]]), PLAIN)
    assert found.norm.tolist() == [136, 136, 136, 143, 144, 148, 128, 0, 255, 0]
    scaled = fingerprint_of(7 * lengths[:, None] * torch.tensor([[0.6, 0.8]]), PLAIN)
    assert np.abs(scaled.norm.astype(int) - found.norm).max() <= 1


def test_no_tokens_and_no_width_have_empty_fingerprints():
    assert len(fingerprint_of(torch.zeros(0, 4))) == 0
    assert values(fingerprint_of(torch.zeros(3, 0))) == ([0, 0, 0], [0, 0, 0])


@pytest.mark.parametrize("massive", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_that_are_not_finite_are_refused(massive, dtype):
    x = torch.ones(3, 2, dtype=dtype)
    x[1, 0] = torch.nan
    with pytest.raises(ActivationError, match="activation 1 is not finite: leave it out"):
        fingerprint_of(x, FingerprintSettings(massive=massive))


@pytest.mark.parametrize(
    "rungs", [(), (0.2, 0.1), (0.1, 0.1), (0.0, 0.1), (0.5, 1.0), (float("nan"),), tuple(np.arange(1, 10) / 20)]
)
def test_rungs_out_of_range_are_refused(rungs):
    with pytest.raises(SettingError, match="give 1 to 8 ascending numbers"):
        FingerprintSettings(rungs=rungs)


def test_a_segment_of_one_token_is_refused():
    with pytest.raises(SettingError, match="give at least 2"):
        FingerprintSettings(segment=1)
