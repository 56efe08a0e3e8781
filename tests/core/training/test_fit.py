"""A dictionary of any matrix."""

from typing import Any

import numpy as np
import pytest
import torch
from core.helpers import normal, same_bits, slow_training
from hypothesis import given
from hypothesis import strategies as st

import itda
from itda import ITDA, ActivationBatch, Labels
from itda.errors import ActivationError, ItdaError, SettingError

TEXTS = [f"sentence {i}" for i in range(120)]
X = normal(120, 8)


@pytest.mark.parametrize("chunk", [17, 4096])
def test_it_is_what_a_trainer_of_the_same_settings_gives_to_the_bit(chunk: int):
    settings = {"pursuit": "mp_refit", "offset_tokens": 120, "passes": 8, "min_fidelity": 0.9, "massive": None}
    trainer = itda.Trainer(8, tokens=120, k=3, atoms=20, **settings)
    for start in range(0, 120, chunk):
        trainer.offer(ActivationBatch.of(X[start : start + chunk], TEXTS[start : start + chunk]))
    wanted, found = trainer.finish(mode="best"), itda.fit(X, atoms=20, k=3, labels=TEXTS)
    assert same_bits(found.atoms, wanted.atoms)
    assert found.labels.keys() == wanted.labels.keys()
    assert len(found) == 20
    assert torch.allclose(found.offset, X.mean(dim=0), atol=1e-6)


@given(st.integers(1, 40), st.integers(1, 5), st.floats(0.01, 0.9), st.integers(0, 99))
def test_in_mode_paper_atoms_are_the_rows_that_a_slow_pass_in_float64_chooses(rows, k, threshold, seed):
    x = normal(rows, 6, seed)
    model = itda.fit(x, threshold=threshold, k=k, mode="paper")
    wanted = slow_training(x.numpy(), k, threshold, "mp")
    assert model.labels.document.tolist() == [f"row {i}" for i in wanted]
    assert torch.allclose(model.atoms, torch.nn.functional.normalize(x[wanted], dim=1), atol=1e-6)
    assert model.offset is None
    assert (model.mode, model.pursuit, model.massive_norm) == ("paper", "mp", None)


def test_what_is_said_overrules_the_mode():
    model = itda.fit(X, threshold=0.3, k=2, pursuit="omp", centred=False, passes=0)
    assert (model.pursuit, model.offset, model.fidelity, model.mode) == ("omp", None, None, "best")
    assert itda.fit(X, threshold=0.3, k=2, mode="paper", centred=True).offset is not None


def test_fits_of_the_same_texts_are_compared_by_text_in_whatever_order():
    order = np.random.default_rng(0).permutation(120)
    first = itda.fit(X, atoms=40, k=3, labels=TEXTS)
    again = itda.fit(X[order], atoms=40, k=3, labels=[TEXTS[i] for i in order])
    other = itda.fit(X, atoms=40, k=3, labels=[f"word {i}" for i in range(120)])
    assert itda.jaccard(first.labels, first.labels) == 1
    both = len(set(first.labels.document) & set(again.labels.document))
    assert 0 < itda.jaccard(first.labels, again.labels) == both / (80 - both) < 1
    assert itda.jaccard(first.labels, other.labels) == 0


def test_a_fit_is_read_back_as_it_was_written(tmp_path):
    texts = ["", "a", "a", "naïve 漢字\n\t", "nul \0", "👩‍👩‍👧", " a ", *TEXTS[7:]]
    model = itda.fit(X, threshold=0.01, k=1, labels=texts)
    model.save_pretrained(tmp_path / "fit")
    back = ITDA.from_pretrained(tmp_path / "fit")
    assert list(back.labels) == list(model.labels)
    assert {"", "a", "naïve 漢字\n\t"} <= set(back.labels.document)
    assert same_bits(back.atoms, model.atoms)
    assert repr(back) == repr(model)


@given(st.lists(st.text(max_size=3) | st.sampled_from(["a", ""]), max_size=20))
def test_labels_of_texts_are_distinct_and_show_their_texts(texts: list[str]):
    try:
        labels = Labels.of_texts(texts)
    except SettingError:  # half a surrogate pair
        assert any("\ud800" <= character <= "\udfff" for text in texts for character in text)
        return
    assert [label.token for label in labels] == texts
    assert all(label.whole for label in labels)
    assert len(set(labels.keys())) == len(texts)
    ends = list(zip(labels.document, labels.char_end, strict=True))
    assert len(set(ends)) == len(texts)  # also where tokens are told apart by their ends alone


def test_atoms_and_labels_show_the_text():
    model = itda.fit(X, atoms=40, k=3, labels=["<b>one</b>", *TEXTS[1:]])
    assert repr(model.atom(0)) == "atom 0 of 40: «<b>one</b>»"
    assert repr(model.labels[0]) == "<Label «<b>one</b>»>"
    shown = model.atom(0)._repr_html_()
    assert "of 40: named by the activation of this text" in shown
    plain = itda.fit(X, atoms=40, k=3, mode="paper", labels=["<b>one</b>", *TEXTS[1:]])
    assert "of 40: the activation of this text" in plain.atom(0)._repr_html_()
    assert "&lt;b&gt;one" in shown
    assert "document" not in shown
    assert repr(model.labels).startswith("<Labels of 40 texts: «<b>one</b>», «sent")
    assert '<th scope="col">text</th>' in model.labels._repr_html_()
    assert repr(Labels.of_texts(["an owl"] * 2)[1]) == "<Label «an owl», copy 1>"
    assert "an owl" in Labels.of_texts(["an owl"])[0]._repr_html_()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give atoms= or threshold=, one of the two"),
        ({"atoms": 3, "threshold": 0.1}, "give atoms= or threshold="),
        ({"atoms": 121}, "121 atoms of 120 rows: each atom is a row, so ask for 1 to 120"),
        ({"atoms": 0}, "ask for 1 to 120"),
        ({"threshold": 1.5}, "the threshold is 1.5: it must be"),
        ({"atoms": 3, "k": 0}, "k is 0: it must be at least 1"),
        ({"atoms": 3, "labels": TEXTS[:3]}, "3 labels for 120 rows: give one string per row"),
        ({"atoms": 3, "labels": "abc"}, "labels are one string: give a list of strings"),
        ({"atoms": 3, "passes": -1}, "passes of refinement: it must be at least 0"),
        ({"atoms": 3, "mode": "worst"}, "no mode 'worst': use best or paper"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_one_line(settings, message):
    fit: Any = itda.fit  # without the check of types, which a mode that is none does not pass
    while hasattr(fit, "__wrapped__"):
        fit = fit.__wrapped__
    with pytest.raises(SettingError, match=message) as error:
        fit(X, **settings)
    assert "\n" not in str(error.value)


def test_labels_that_are_no_strings_are_refused():
    with pytest.raises(SettingError, match=r"label 1 is a int: give strings, as \[str\(v\) for v in labels\]"):
        Labels.of_texts.__wrapped__(["a", 1])
    with pytest.raises(SettingError, match=r"label 0 has a broken character .half a surrogate pair.: give text"):
        Labels.of_texts(["\ud83d"])


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_an_empty_matrix_is_refused(shape):
    with pytest.raises(ActivationError, match="give at least one row and one column"):
        itda.fit(torch.ones(shape), threshold=0.1)


def test_one_row_and_rows_that_are_all_the_same_make_one_atom_or_none():
    assert len(itda.fit(torch.ones(1, 4), atoms=1, k=2, mode="paper")) == 1
    assert len(itda.fit(torch.ones(9, 4), atoms=3, k=2, mode="paper")) == 1
    assert len(itda.fit(torch.ones(9, 4), threshold=0.1, k=2)) == 0  # nothing is left after the mean
    assert issubclass(ActivationError, ItdaError)
