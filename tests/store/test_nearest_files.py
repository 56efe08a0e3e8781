"""The nearest activations of atoms on disk: what was written is read, and nothing else is taken for it."""

import json

import numpy as np
import pyarrow.parquet
import pytest
import torch

from itda import ITDA, Label, Labels, refine
from itda.core.nearest import Nearest
from itda.errors import SettingError, StoreError
from itda.store.dictionaries import load_dictionary, save_dictionary
from itda.store.nearest import AFTER, BEFORE, FILE, KEY, read_nearest, write_nearest

OWN = Labels.of(*(Label("essay", i, i, i + 1, i, "", "x", "") for i in range(3)))


def found() -> Nearest:
    """Of three atoms: two activations, none, and one, the last in a long text."""
    rows = [
        Label("a", 3, 9, 12, 7, "so we ", "see", " it"),
        Label("日本", 0, 5, 6, 8, "", "🙂", ""),
        Label("c", 400, 2000, 2004, 9, "b" * 1000, "long", "a" * 1000),
        Label("", 0, 0, 0, -1, "", "", ""),
    ]
    labels = Labels.of(*rows)[np.array([[0, 1], [3, 3], [2, 3]])]
    return Nearest(labels, np.array([[0.9, 0.5], [0, 0], [0.75, 0]], np.float32), np.array([2, 0, 1]))


def listed(nearest: Nearest | None) -> list[list[tuple[Label, float]]]:
    assert nearest is not None
    return [nearest.of(atom) for atom in range(len(nearest))]


def test_a_dictionary_carries_them_to_the_disk_and_back(tmp_path):
    save_dictionary(ITDA(torch.eye(3), OWN, k=2, nearest=found()), tmp_path / "d")
    again = load_dictionary(tmp_path / "d")
    expected = listed(found())
    label = expected[2][0][0]
    short = Label(label.document, 400, 2000, 2004, 9, "b" * BEFORE, "long", "a" * AFTER)
    expected[2] = [(short, expected[2][0][1])]
    assert listed(again.nearest) == expected
    # What was read is written to the same bytes.
    assert again.nearest is not None
    write_nearest(again.nearest, tmp_path)
    assert (tmp_path / FILE).read_bytes() == (tmp_path / "d" / FILE).read_bytes()


def test_there_are_none_until_they_were_found_and_none_of_refined_atoms(tmp_path):
    save_dictionary(ITDA(torch.eye(3), OWN, k=1), tmp_path / "d")
    assert load_dictionary(tmp_path / "d").nearest is None
    assert not (tmp_path / "d" / FILE).exists()
    x = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 0.5], [0.2, 0.0, 1.0]])
    assert refine(ITDA(torch.eye(3), OWN, k=1, nearest=found()), x, passes=1).nearest is None
    with pytest.raises(SettingError, match="nearest activations of 3 atoms"):
        ITDA(torch.eye(2, 3), OWN[:2], k=1, nearest=found())


def test_a_dictionary_whose_atoms_have_none_is_read(tmp_path):
    empty = Labels.of(Label("", 0, 0, 0, -1, "", "", ""))[np.zeros((2, 8), np.int64)]
    write_nearest(Nearest(empty, np.zeros((2, 8), np.float32), np.zeros(2, np.int64)), tmp_path)
    assert listed(read_nearest(tmp_path, 2)) == [[], []]


def test_what_is_damaged_foreign_or_of_another_dictionary_is_one_line(tmp_path):
    write_nearest(found(), tmp_path)
    path = tmp_path / FILE
    whole, table = path.read_bytes(), pyarrow.parquet.read_table(path)
    with pytest.raises(StoreError, match="is of 3 atoms, and the dictionary has 4: remove it, and run"):
        read_nearest(tmp_path, 4)
    header = json.loads(table.schema.metadata[KEY])
    cases = [
        (table.replace_schema_metadata({}), "is not an itda-nearest file"),
        (table.replace_schema_metadata({KEY: json.dumps({**header, "format_version": 9})}), "has format version 9"),
        (table.replace_schema_metadata({KEY: json.dumps({**header, "most": 1})}), "is damaged"),
        (table.drop_columns(["window"]), "is damaged"),
    ]
    for changed, message in cases:
        pyarrow.parquet.write_table(changed, path)
        with pytest.raises(StoreError, match=message) as error:
            read_nearest(tmp_path, 3)
        assert "\n" not in str(error.value)
    path.write_bytes(whole[:-9])
    with pytest.raises(StoreError, match=r"is damaged .*: remove it, and run `itda index` again"):
        read_nearest(tmp_path, 3)
