"""The overlap of labels: every index against a slow computation on Python sets, and what must hold for all inputs."""

import numpy as np
import pytest
import torch
from core.helpers import normal, unit_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from itda import ITDA, ActivationBatch, Label, Labels, Trainer
from itda.core.similarity.overlap import (
    OVERLAPS,
    TOKENS,
    Members,
    Universe,
    adjusted_of,
    index_interval,
    index_matrices,
    matched,
    sums_of,
)
from itda.core.tokens import TokenLog, Tokens
from itda.errors import SettingError

DOCUMENTS, LENGTH = 5, 20
THRESHOLD = 0.125


def place(i: int) -> tuple[str, int, int]:
    return f"d{i // LENGTH}", i % LENGTH, 3 * (i % LENGTH) + 2


def labels_at(places: list[int]) -> Labels:
    return Labels.of(*(Label(d, p, end - 2, end, 0, "", "xx", "") for d, p, end in map(place, places)))


def all_tokens(number: int = DOCUMENTS * LENGTH) -> Tokens:
    log = TokenLog()
    log.add(labels_at(list(range(number))))
    return log.table()


def dictionary(places: list[int], novelty: list[float] | None = None) -> ITDA:
    known = torch.tensor(novelty, dtype=torch.float32) if novelty is not None else None
    return ITDA(unit_rows(len(places), 4), labels_at(places), k=1, threshold=THRESHOLD, novelty=known)


def universe() -> Universe:
    return Universe.of([all_tokens()], by_end=False)


def slow(a: dict[int, float], b: dict[int, float], tokens: int) -> dict[str, float]:
    """From dictionaries of place to excess."""
    both, either = set(a) & set(b), set(a) | set(b)
    jaccard = len(both) / len(either) if either else 1.0
    expected = len(a) * len(b) / tokens
    chance = expected / (len(a) + len(b) - expected) if either else 1.0
    least = sum(min(a.get(i, 0), b.get(i, 0)) for i in either)
    most = sum(max(a.get(i, 0), b.get(i, 0)) for i in either)
    few, many = sorted((len(a), len(b)))
    return {
        "jaccard": jaccard,
        "overlap_coefficient": len(both) / few if few else 1.0,
        "adjusted": (jaccard - chance) / (1 - chance) if chance < 1 else 1.0,
        "weighted": least / most if most else jaccard,
        "size_only": few / many if many else 1.0,
    }


some = st.dictionaries(st.integers(0, DOCUMENTS * LENGTH - 1), st.floats(THRESHOLD, 1.0, width=32), max_size=60)


@settings(deadline=None, max_examples=60)
@given(some, some)
def test_every_index_is_what_sets_say(a: dict[int, float], b: dict[int, float]):
    left, right = (Members.of(dictionary(list(x), list(x.values())), universe()) for x in (a, b))
    excess = [{i: float(np.float32(v)) - THRESHOLD for i, v in x.items()} for x in (a, b)]
    total = sums_of(left, right, universe()).sum(axis=0)
    wanted = slow(*({i: max(v, 0.0) for i, v in x.items()} for x in excess), DOCUMENTS * LENGTH)
    assert {name: float(index(total)) for name, index in OVERLAPS.items()} == pytest.approx(wanted, abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(some, some)
def test_indices_are_symmetric_within_their_ranges_and_1_on_equal(a: dict[int, float], b: dict[int, float]):
    left, right = (Members.of(dictionary(list(x), list(x.values())), universe()) for x in (a, b))
    forward, back = (sums_of(*pair, universe()).sum(axis=0) for pair in ((left, right), (right, left)))
    own = sums_of(left, left, universe()).sum(axis=0)
    for name, index in OVERLAPS.items():
        assert index(forward) == pytest.approx(index(back), abs=1e-12)
        assert -1 <= index(forward) <= 1 + 1e-12
        assert name == "adjusted" or index(forward) >= 0
        assert index(own) == 1
    assert matched(left, left, universe()) == 1
    assert matched(left, right, universe()) == matched(right, left, universe())


def test_sums_are_those_of_a_loop_over_documents():
    a, b = {0: 0.5, 21: 0.3, 22: 0.9, 70: 0.2}, {0: 0.4, 22: 0.95, 71: 0.6}
    left, right = (Members.of(dictionary(list(x), list(x.values())), universe()) for x in (a, b))
    sums = sums_of(left, right, universe())
    for number in range(DOCUMENTS):
        inside = [{i: v - THRESHOLD for i, v in x.items() if i // LENGTH == number} for x in (a, b)]
        either = inside[0].keys() | inside[1].keys()
        wanted = [len(inside[0].keys() & inside[1].keys()), len(inside[0]), len(inside[1]), LENGTH]
        wanted += [sum(f(x.get(i, 0) for x in inside) for i in either) for f in (min, max)]
        assert sums[number].tolist() == pytest.approx(wanted, abs=1e-6)


def test_adjusted_is_0_on_average_for_sets_that_have_only_their_sizes():
    random, values = np.random.default_rng(0), []
    for _ in range(300):
        a, b = (Members.of(dictionary(random.choice(100, n, replace=False).tolist()), universe()) for n in (40, 25))
        values.append(float(adjusted_of(sums_of(a, b, universe()).sum(axis=0))))
    assert abs(np.mean(values)) < 0.01
    assert np.std(values) > 0.02


def test_what_is_at_the_threshold_does_not_count_in_the_weighted_index():
    a = dictionary([1, 2, 3, 4], [0.9, 0.5, THRESHOLD, THRESHOLD])
    b = dictionary([1, 2, 50, 60], [0.9, 0.5, THRESHOLD, THRESHOLD])
    total = sums_of(Members.of(a, universe()), Members.of(b, universe()), universe()).sum(axis=0)
    assert OVERLAPS["weighted"](total) == pytest.approx(1, abs=1e-6)
    assert OVERLAPS["jaccard"](total) == 2 / 6


def test_without_novelty_the_weighted_index_is_jaccard():
    a, b = Members.of(dictionary([1, 2, 3]), universe()), Members.of(dictionary([2, 3, 4], [0.9] * 3), universe())
    total = sums_of(a, b, universe()).sum(axis=0)
    assert OVERLAPS["weighted"](total) == OVERLAPS["jaccard"](total) == 0.5


def test_equal_sizes_are_those_of_the_atoms_that_were_needed_most():
    a = Members.of(dictionary([1, 2, 3, 4], [0.2, 0.9, 0.8, 0.3]), universe())
    b = Members.of(dictionary([2, 3], [0.5, 0.6]), universe())
    assert matched(a, b, universe()) == 1
    assert a.strongest(2).keys.tolist() == b.keys.tolist()


def test_pieces_of_one_character_end_at_one_place_and_count_once():
    pieces = Labels.of(*(Label("d0", p, 0, 1, 0, "", "é", "") for p in range(3)))
    log = TokenLog()
    log.add(pieces)
    by_end, by_position = (Universe.of([log.table()], by_end=flag) for flag in (True, False))
    model = ITDA(unit_rows(3, 4), pieces, k=1)
    assert (len(by_end.keys), len(Members.of(model, by_end))) == (1, 1)
    assert (len(by_position.keys), len(Members.of(model, by_position))) == (3, 3)


def test_labels_that_the_other_run_did_not_read_are_left_out():
    half = all_tokens(50)
    found = Universe.of([all_tokens(), half], by_end=False)
    assert len(found.keys) == 50
    assert (found.share(all_tokens()), found.share(half)) == (0.5, 1)
    assert len(Members.of(dictionary([10, 49, 50, 99]), found)) == 2
    with pytest.raises(SettingError, match="no token in common"):
        Universe.of([all_tokens(), TokenLog().table()], by_end=False)


def test_a_shorter_run_is_the_beginning_of_a_longer_one():
    x, every = normal(100, 6), labels_at(list(range(100)))
    made = []
    for number in (60, 100):
        trainer = Trainer(6, k=2, threshold=0.2)
        trainer.offer(ActivationBatch(x[:number], every[:number]))
        made.append(trainer.finish())
    common = Universe.of([all_tokens(60), all_tokens()], by_end=False)
    short, long = (Members.of(model, common) for model in made)
    assert len(made[1]) > len(made[0])
    assert all(float(index(sums_of(short, long, common).sum(axis=0))) == 1 for index in OVERLAPS.values())


def test_block_sizes_make_no_difference_to_any_index():
    x, every = normal(100, 6), labels_at(list(range(100)))
    made = []
    for size in (1, 7, 64):
        trainer = Trainer(6, k=2, threshold=0.2, block_size=size)
        trainer.offer(ActivationBatch(x, every))
        made.append(Members.of(trainer.finish(), universe()))
    for name, matrix in index_matrices(made[:1], made, universe()).items():
        assert matrix.tolist() == [[1.0] * 3], name


def test_novelty_is_the_error_before_the_atom_was_there():
    x = normal(60, 6)
    trainer = Trainer(6, k=2, threshold=0.2)
    trainer.offer(ActivationBatch(x, labels_at(list(range(60)))))
    model = trainer.finish()
    assert model.novelty is not None
    assert model.novelty[0] == 1
    for number in range(1, len(model)):
        before = ITDA(model.atoms[:number], model.labels[:number], k=2)
        row = int(model.labels.document[number][1:]) * LENGTH + int(model.labels.position[number])
        assert before.decompose(x[row : row + 1])[1].item() == pytest.approx(model.novelty[number].item(), rel=1e-6)
    assert model.novelty.min() > 0.2


def test_an_interval_is_over_documents_that_were_read():
    a, b = (Members.of(dictionary(p, [0.9] * len(p)), universe()) for p in ([1, 21, 41, 61], [1, 22, 41, 99]))
    sums = sums_of(a, b, universe())
    found = index_interval("jaccard", np.vstack([sums, np.zeros((4, sums.shape[1]))]))
    alone = index_interval("jaccard", sums)
    assert (float(found.low), float(found.high)) == (float(alone.low), float(alone.high))
    assert found.low < found.value < found.high
    assert (sums[:, TOKENS] == LENGTH).all()


@given(st.lists(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=8), max_size=4))
def test_a_log_of_batches_is_the_columns_of_all(batches: list[list[tuple[str, int]]]):
    log = TokenLog()
    for batch in batches:
        log.add(Labels.of(*(Label(d, p, p, p + 1, 0, "", "x", "") for d, p in batch)))
    table, rows = log.table(), [row for batch in batches for row in batch]
    assert [(table.documents[d], p) for d, p in zip(table.document, table.position, strict=True)] == rows
    assert table.documents == list(dict.fromkeys(d for d, _ in rows))
    assert table.per_document.sum() == len(table) == len(rows)
