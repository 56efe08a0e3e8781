"""Labels."""

import numpy as np
import pytest
import torch

from itda import Label, Labels

LABELS = [
    Label("a.py", 0, 0, 6, 17, "", "import", " os\n"),
    Label("a.py", 1, 6, 9, 4, "import", " os", "\n"),
    Label("b.txt", 41, 200, 201, 9, "…naï", "ve", " 漢字"),
]


def test_rows_come_back_as_they_went_in():
    labels = Labels.of(*LABELS[:2])
    assert list(labels) == LABELS[:2]
    assert len(labels) == 2


def test_before_token_and_after_make_up_the_window():
    label = Labels.of(LABELS[1])[0]
    assert (label.before, label.token, label.after) == ("import", " os", "\n")
    assert Labels.of(LABELS[1]).window[0] == "import os\n"


def test_index_by_integer_array_tensor_list_slice_and_mask():
    labels = Labels.of(*LABELS[:2])
    assert labels[-1] == LABELS[1]
    assert labels[torch.tensor(1)] == LABELS[1]
    for index in ([1, 0], np.array([1, 0]), torch.tensor([1, 0]), slice(None, None, -1)):
        assert labels[index].keys() == [("a.py", 1, 9), ("a.py", 0, 6)]
    assert labels[np.array([False, True])].keys() == [("a.py", 1, 9)]
    assert labels[torch.tensor([[0, 1], [1, 1]])].char_end.tolist() == [[6, 9], [9, 9]]


def test_concatenation_keeps_order_and_takes_nothing():
    labels = Labels.of(*LABELS)
    assert Labels.concatenate([labels[:1], labels[1:]]).keys() == labels.keys()
    assert len(Labels.concatenate([])) == 0


def test_columns_of_different_lengths_are_refused():
    labels = Labels.of(*LABELS)
    with pytest.raises(ValueError, match="differ in shape"):
        Labels(labels.document, labels.position[:1], *[np.zeros(3, int)] * 3, labels.window, labels.position)
