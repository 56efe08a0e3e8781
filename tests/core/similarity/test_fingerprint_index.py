"""Indices of fingerprints: equal to loops over sets, 1 for equal ones, chance for shuffled ones, and planted truth."""

import numpy as np
import pytest
import torch
from core.similarity.cases import rotation
from hypothesis import given
from hypothesis import strategies as st

from itda.core.similarity.fingerprint import LEFT_OUT, STEPS, FingerprintSettings, TokenNovelty, fingerprint_of
from itda.core.similarity.fingerprint_index import (
    NAMES,
    OF_SUMS,
    SHARES,
    THE_INDEX,
    Aligned,
    correlation,
    groups_of,
    matrices_of,
    overlap_sums,
    sureness,
)
from itda.core.similarity.overlap import Universe
from itda.core.site import Site
from itda.core.tokens import Tokens

RUNGS = 5


def tokens_of(number: int, documents: int = 25, *, backwards: bool = False) -> Tokens:
    """Tokens of some documents of equal length, in order or with the documents the other way round."""
    each = -(-number // documents)
    document = np.arange(number, dtype=np.int32) // each
    position = np.arange(number, dtype=np.int32) % each
    names = [f"document {i}" for i in range(documents)]
    if backwards:
        order = np.argsort(-document, kind="stable")
        document, position = document[order].max() - document[order], position[order]
        names = names[document.max() :: -1]
    return Tokens(names, document, position, 3 * position + 2)


def aligned(several: list[TokenNovelty], tokens: Tokens | None = None, universe: Universe | None = None) -> Aligned:
    tokens = tokens if tokens is not None else tokens_of(len(several[0]))
    universe = universe if universe is not None else Universe.of([tokens], by_end=False)
    return Aligned.of({Site(i): found for i, found in enumerate(several)}, tokens, universe, RUNGS)


@st.composite
def some(draw, tokens: int) -> list[TokenNovelty]:
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    found = []
    for _ in range(draw(st.integers(1, 3))):
        novelty = random.integers(0, draw(st.sampled_from([1, 5, STEPS])), tokens).astype(np.uint16)
        bits = random.integers(0, 32, tokens).astype(np.uint8)
        massive = random.random(tokens) < draw(st.sampled_from([0, 0.3]))
        novelty[massive], bits[massive] = LEFT_OUT, 0
        found.append(TokenNovelty(novelty, bits, random.integers(0, 256, tokens).astype(np.uint8)))
    return found


def slow_sets(found: TokenNovelty, sets: str) -> list[set[int]]:
    there = [i for i in range(len(found)) if found.novelty[i] != LEFT_OUT]
    if sets == "atoms":
        return [{i for i in there if found.bits[i] >> rung & 1} for rung in range(RUNGS)]
    by_novelty = sorted(there, key=lambda i: (-int(found.novelty[i]), i))
    return [set(by_novelty[: round(share * len(found))]) for share in SHARES]


def slow_index(name: str, a: TokenNovelty, b: TokenNovelty) -> float:
    there = {i for i in range(len(a)) if LEFT_OUT not in (a.novelty[i], b.novelty[i])}
    if OF_SUMS[name][0] == "new":
        return slow_shares(name, [(int(a.novelty[i]), int(b.novelty[i])) for i in there])
    if name == "equal sums":
        one, other = (_by_mean(each) for each in (a, b))
        smaller, larger = (sum(of(one[i], other[i]) for i in there) for of in (min, max))
        return smaller / larger if larger else 1.0
    values = []
    for x, y in zip(*(slow_sets(each, OF_SUMS[name][0]) for each in (a, b)), strict=True):
        x, y = x & there, y & there
        if name == "ladder sizes":
            values.append(min(len(x), len(y)) / max(len(x), len(y)) if x or y else 1.0)
            continue
        jaccard = len(x & y) / len(x | y) if x or y else 1.0
        if name == "adjusted":
            both = len(x) * len(y) / len(there) if there else 0
            expected = both / (len(x) + len(y) - both) if x or y else 1.0
            jaccard = (jaccard - expected) / (1 - expected) if expected < 1 else 1.0
        values.append(jaccard)
    return float(np.mean(values))


def _by_mean(found: TokenNovelty) -> dict[int, int]:
    """Novelty by its mean over the tokens that are not massive, in 65,536ths."""
    there = {i: int(found.novelty[i]) for i in range(len(found)) if found.novelty[i] != LEFT_OUT}
    mean = sum(there.values()) / max(1, len(there)) or 1
    return {i: round(value * (65_536 / mean)) for i, value in there.items()}


def slow_shares(name: str, pairs: list[tuple[int, int]]) -> float:
    if name == THE_INDEX:
        smaller, larger = (sum(of(x, y) for x, y in pairs) for of in (min, max))
    else:
        smaller, larger = sorted(sum(values) for values in zip(*pairs, strict=True)) if pairs else (0, 0)
    return smaller / larger if larger else 1.0


@given(st.data(), st.integers(1, 30))
def test_every_index_of_sets_is_that_of_a_slow_loop(data, tokens):
    a, b = data.draw(some(tokens)), data.draw(some(tokens))
    found = matrices_of(aligned(a), aligned(b))
    assert tuple(found) == NAMES
    for name in OF_SUMS:
        wanted = [[slow_index(name, x, y) for y in b] for x in a]
        assert found[name] == pytest.approx(np.array(wanted), abs=1e-12), name


@given(st.data(), st.integers(2, 30))
def test_correlations_are_numpys_at_the_tokens_that_are_there_in_both(data, tokens):
    a, b = data.draw(some(tokens)), data.draw(some(tokens))
    left, right = aligned(a), aligned(b)
    found = correlation(left.novelty, right.novelty, (left.there, right.there))
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            there = ~x.massive & ~y.massive
            one, other = (each.novelty[there].astype(float) for each in (x, y))
            varies = len(one) > 1 and one.std() > 0 and other.std() > 0
            assert found[i, j] == pytest.approx(np.corrcoef(one, other)[0, 1] if varies else 0, abs=1e-9)


@given(st.data(), st.integers(1, 60))
def test_a_fingerprint_is_exactly_1_with_itself_and_sums_add_up_over_documents(data, tokens):
    a = aligned(data.draw(some(tokens)))
    found = matrices_of(a, a)
    for name in OF_SUMS:
        assert (found[name].diagonal() == 1).all(), name
    group = np.arange(tokens) % 7
    for what in (a.atoms, a.new):
        parts = overlap_sums(what, what, (a.there, a.there), group)
        assert np.array_equal(parts.sum(axis=0), overlap_sums(what, what, (a.there, a.there), 0 * group)[0])


def drifting(sites: int, tokens: int, seed: int, basis: int) -> list[torch.Tensor]:
    """Sites of a model that drift from one set of latents to another; `basis` is how it turns them."""
    random = torch.Generator().manual_seed(seed)
    centres = torch.randn(2, 150, 12, generator=random)
    which = torch.randint(150, (2, tokens), generator=random)
    own = torch.Generator().manual_seed(basis)
    found = []
    for site in range(sites):
        angle = torch.tensor(site / sites * np.pi / 2)
        latents = angle.cos() * centres[0, which[0]] + angle.sin() * centres[1, which[1]]
        found.append(latents.double() @ rotation(12, basis) + 0.25 * torch.randn(tokens, 12, generator=own).double())
    return found


SETTINGS = FingerprintSettings(segment=1000)


def index_of(a: list[torch.Tensor], b: list[torch.Tensor], name: str = THE_INDEX) -> np.ndarray:
    left, right = ([fingerprint_of(x, SETTINGS) for x in sites] for sites in (a, b))
    return matrices_of(aligned(left), aligned(right))[name]


def test_planted_sites_are_found_through_rotation_scale_mean_and_noise():
    a = drifting(5, 2000, 0, basis=1)
    b = [(3 + i) * x + 10 for i, x in enumerate(drifting(5, 2000, 0, basis=2))]
    for name in (THE_INDEX, "equal sizes", "ladder", "correlation"):
        found = index_of(a, b, name)
        assert found.argmax(axis=1).tolist() == [0, 1, 2, 3, 4], name
    left, right = ([fingerprint_of(x, SETTINGS) for x in sites] for sites in (a, b))
    one, other = aligned(left), aligned(right)
    assert sureness(one, other, groups_of(Universe.of([tokens_of(2000)], by_end=False))).sure[:4].all()


def test_massive_tokens_and_an_outlier_dimension_do_not_decide():
    a, b = drifting(4, 2000, 0, basis=1), drifting(4, 2000, 0, basis=2)
    before = index_of(a, b)
    random = torch.Generator().manual_seed(9)
    for x in b:
        x[::100] = 1e4 * torch.randn(20, 12, generator=random).double()
    spoiled = index_of(a, b)
    assert np.abs(spoiled - before).max() < 0.03
    wide = [torch.cat([x, torch.full((2000, 1), 500.0).double()], dim=1) for x in b]
    assert np.array_equal(index_of(a, wide), spoiled)


def test_a_shuffled_pairing_is_what_chance_gives():
    a, b = drifting(3, 2000, 0, basis=1), drifting(3, 2000, 0, basis=2)
    left, right = (aligned([fingerprint_of(x, SETTINGS) for x in sites]) for sites in (a, b))
    found = matrices_of(left, right)
    adjusted = matrices_of(left, right.shifted())["adjusted"]
    assert np.abs(adjusted).max() < 0.2  # the first tokens of a segment are new in any case
    assert (found["shuffled"].diagonal() < found[THE_INDEX].diagonal() - 0.02).all()
    assert np.array_equal(found["shuffled"], matrices_of(left, right.shifted())[THE_INDEX])


def test_tokens_in_another_order_of_the_documents_are_matched():
    x = drifting(2, 1000, 0, basis=1)
    forth, back = tokens_of(1000), tokens_of(1000, backwards=True)
    order = np.argsort(-(np.arange(1000) // 40), kind="stable")
    universe = Universe.of([forth, back], by_end=False)
    one = aligned([fingerprint_of(each, SETTINGS) for each in x], forth, universe)
    same = aligned([_reordered(fingerprint_of(each, SETTINGS), order) for each in x], back, universe)
    assert np.array_equal(one.bits, same.bits)
    other = aligned([fingerprint_of(each[order.copy()], SETTINGS) for each in x], back, universe)
    found = matrices_of(one, other)[THE_INDEX]
    assert found.max() < 1  # what is new depends on what came before


def _reordered(found: TokenNovelty, order: np.ndarray) -> TokenNovelty:
    return TokenNovelty(found.novelty[order], found.bits[order], found.norm[order])


def test_intervals_hold_the_value_and_a_lead_that_is_sure_needs_no_more_tokens():
    a, b = drifting(4, 1500, 0, basis=1), drifting(4, 1500, 0, basis=2)
    one, other = (aligned([fingerprint_of(x, SETTINGS) for x in sites]) for sites in (a, b))
    sure = sureness(one, other, groups_of(Universe.of([tokens_of(1500)], by_end=False)))
    value = matrices_of(one, other)[THE_INDEX]
    assert ((sure.low <= value) & (value <= sure.high)).all()
    assert np.allclose(sure.lead, [row[i] - np.delete(row, i).max() for i, row in enumerate(value)])
    assert (sure.times_as_many()[sure.sure] == 1).all()
    few = sureness(one, other, np.zeros(1500, np.int64))
    assert np.isnan(few.least_lead).all()
    assert not few.sure.any()


@pytest.mark.parametrize(("documents", "groups"), [(1, 50), (19, 50), (20, 20), (300, 200)])
def test_documents_are_resampled_and_where_they_are_few_stretches_of_the_text(documents, groups):
    group = groups_of(Universe.of([tokens_of(3000, documents)], by_end=False))
    assert len(np.unique(group)) == groups == group.max() + 1
