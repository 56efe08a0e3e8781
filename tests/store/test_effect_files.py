"""The effects of a dictionary on disk: what was written is read, and nothing else is taken for it."""

import json

import numpy as np
import pyarrow.parquet
import pytest
import torch

from itda import ITDA, Label, Labels
from itda.core.effects import FIELDS, MEASURES, AtomEffects, TargetEffects
from itda.errors import SettingError, StoreError
from itda.store.dictionaries import load_dictionary, save_dictionary
from itda.store.effects import COUNTS, EFFECTS, KEY, read_effects, write_effects
from itda.store.records import DictionaryRecord

LABELS = Labels.of(*(Label("essay", i, i, i + 1, i, "", "x", "") for i in range(3)))
ABOUT = {"strength": 4.0, "contexts": 50, "sample": 900, "false_positives": {"added": 0.04, "added_promoted": None}}


def found(atoms: int = 3) -> AtomEffects:
    random = np.random.default_rng(0)
    measures = {name: TargetEffects(*random.random((5, atoms), np.float32)) for name in MEASURES}
    measures["added_continuation"].effect[0] = np.nan
    uses = np.arange(atoms, dtype=np.int32) * 100
    texts = ("a", None, "\ud800")[:atoms]
    return AtomEffects(measures, uses, uses // 2, uses // 3, texts, (("b", "c"), (), ("d",))[:atoms], ABOUT)


def same(a: AtomEffects | None, b: AtomEffects) -> bool:
    assert a is not None
    counts = all(np.array_equal(getattr(a, name), getattr(b, name)) for name in COUNTS)
    return counts and all(
        np.array_equal(getattr(a.measures[name], field), getattr(b.measures[name], field), equal_nan=True)
        for name in MEASURES
        for field in FIELDS
    )


def test_a_dictionary_carries_its_effects_to_the_disk_and_back(tmp_path):
    save_dictionary(ITDA(torch.eye(3), LABELS, k=2, effects=found()), tmp_path / "d")
    again = load_dictionary(tmp_path / "d")
    assert same(again.effects, found())
    assert again.effects.about == ABOUT
    assert again.effects.continuation == ("a", None, "?")  # half a surrogate pair
    assert again.effects.promoted == (("b", "c"), (), ("d",))
    record = DictionaryRecord.read(tmp_path / "d")
    assert record.values["effects"] == found().summary()
    assert "with another atom's targets for\n4.0%" in (tmp_path / "d" / "README.md").read_text()


def test_there_are_none_until_they_were_measured(tmp_path):
    save_dictionary(ITDA(torch.eye(3), LABELS, k=2), tmp_path / "d")
    assert load_dictionary(tmp_path / "d").effects is None
    assert "effects" not in DictionaryRecord.read(tmp_path / "d").values
    assert not (tmp_path / "d" / EFFECTS).exists()
    with pytest.raises(SettingError, match="effects of 2 atoms: give one row per atom"):
        ITDA(torch.eye(3), LABELS, k=2, effects=found(2))


def test_those_of_other_atoms_are_as_if_they_were_not_there(tmp_path):
    save_dictionary(ITDA(torch.eye(3), LABELS, k=2, effects=found()), tmp_path / "a")
    save_dictionary(ITDA(torch.eye(3).flip(0), LABELS, k=2), tmp_path / "b")
    (tmp_path / "b" / EFFECTS).write_bytes((tmp_path / "a" / EFFECTS).read_bytes())
    assert load_dictionary(tmp_path / "b").effects is None
    assert read_effects(tmp_path / "a", 4) is None
    assert same(read_effects(tmp_path / "a", 3), found())


def test_what_is_damaged_or_foreign_is_one_line(tmp_path):
    save_dictionary(ITDA(torch.eye(3), LABELS, k=2, effects=found()), tmp_path / "d")
    path = tmp_path / "d" / EFFECTS
    whole = path.read_bytes()
    for given, message in (({"format": "other"}, "is not an itda-effects file"), ({"format_version": 7}, "version 7")):
        table = pyarrow.parquet.read_table(path)
        header = json.loads(table.schema.metadata[KEY])
        pyarrow.parquet.write_table(table.replace_schema_metadata({KEY: json.dumps({**header, **given})}), path)
        with pytest.raises(StoreError, match=message):
            read_effects(tmp_path / "d", 3)
        path.write_bytes(whole)
    path.write_bytes(whole[:-7])
    with pytest.raises(StoreError, match=r"is damaged .*: remove it, and run `itda effects` again") as error:
        read_effects(tmp_path / "d", 3)
    assert "\n" not in str(error.value)
    write_effects(found(), tmp_path / "d")
    assert path.read_bytes() == whole  # the same numbers are the same bytes
