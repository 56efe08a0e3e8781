"""The replication of a dictionary on disk: what was written is read, and nothing else is taken for it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from itda import ITDA, Label, Labels
from itda.core.replication import Replication
from itda.errors import SettingError, StoreError
from itda.store.dictionaries import load_dictionary, save_dictionary
from itda.store.records import DictionaryRecord
from itda.store.replication import REPLICATION, read_replication, write_replication

LABELS = Labels.of(*(Label("essay", i, i, i + 1, i, "", "x", "") for i in range(3)))


def found(atoms: int = 3) -> Replication:
    random = np.random.default_rng(0)
    cosines = random.random((atoms, 4), np.float32)
    tokens = random.integers(0, 9, atoms, np.int32)
    halves = random.random((4, 2), np.float32)
    return Replication(cosines, tokens // 2, tokens, halves, chance=1 / 3, cosine=0.7, seed=5)


def same(a: Replication | None, b: Replication) -> bool:
    assert a is not None
    columns = all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name in ("cosines", "kept", "tokens", "halves")
    )
    return columns and (a.chance, a.cosine, a.seed) == (b.chance, b.cosine, b.seed)


def test_a_dictionary_carries_its_replication_to_the_disk_and_back(tmp_path):
    dictionary = ITDA(torch.eye(3), LABELS, k=2, replication=found())
    save_dictionary(dictionary, tmp_path / "d")
    again = load_dictionary(tmp_path / "d")
    assert same(again.replication, found())
    assert again.atom(1).replication == found().share[1]
    assert same(DictionaryRecord.read(tmp_path / "d").replication, found())
    card = (tmp_path / "d" / "README.md").read_text()
    assert "split into two halves at random 4 times" in card
    assert "within a cosine of 0.7" in card
    assert "Of activations as they come 33% have one" in card


def test_there_is_none_until_it_was_found(tmp_path):
    save_dictionary(ITDA(torch.eye(3), LABELS, k=2), tmp_path / "d")
    again = load_dictionary(tmp_path / "d")
    assert again.replication is None
    assert again.atom(0).replication is None
    assert "replication" not in DictionaryRecord.read(tmp_path / "d").values
    assert "Replication" not in (tmp_path / "d" / "README.md").read_text()
    assert not (tmp_path / "d" / REPLICATION).exists()


def test_refined_atoms_have_none_of_their_own():
    from itda import refine

    dictionary = ITDA(torch.eye(3), LABELS, k=1, replication=found())
    x = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 0.5], [0.2, 0.0, 1.0]])
    refined = refine(dictionary, x, passes=1)
    assert not torch.equal(refined.atoms, dictionary.atoms)
    assert refined.replication is None


def test_another_number_of_atoms_is_refused():
    with pytest.raises(SettingError, match="a replication of 2 atoms: give one row per atom"):
        ITDA(torch.eye(3), LABELS, k=2, replication=found(2))


def changed(path: Path, **given: object) -> None:
    """Write the file anew with other metadata."""
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        about = json.loads(file.metadata()["about"])
    save_file(load_file(path), path, {"about": json.dumps({**about, **given})})


def test_what_is_damaged_foreign_or_of_another_dictionary_is_one_line(tmp_path):
    write_replication(found(), tmp_path)
    path = tmp_path / REPLICATION
    with pytest.raises(StoreError, match=r"is of 3 atoms, and the dictionary has 4: remove it, and run"):
        read_replication(tmp_path, 4)
    whole = path.read_bytes()
    cases = [
        ({"format": "other"}, "is not an itda-replication file: remove it"),
        ({"format_version": 7}, "has format version 7, this itda reads 1: install the itda that wrote it"),
        ({"cosine": 3.0}, "is damaged"),
        ({"cosine": None}, "is damaged"),
    ]
    for given, message in cases:
        changed(path, **given)
        with pytest.raises(StoreError, match=message) as error:
            read_replication(tmp_path, 3)
        assert "\n" not in str(error.value)
        path.write_bytes(whole)
    path.write_bytes(whole[:-7])
    with pytest.raises(StoreError, match=r"is damaged .*: remove it, and run `itda replicate` again"):
        read_replication(tmp_path, 3)
    path.write_bytes(whole)
    assert same(read_replication(tmp_path, 3), found())


def test_the_same_numbers_are_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_replication(found(), tmp_path / name)
    assert (tmp_path / "a" / REPLICATION).read_bytes() == (tmp_path / "b" / REPLICATION).read_bytes()
