"""`itda import` reads what the paper's released scripts wrote, and runs nothing that is in it."""

import json
import pickle
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from hub_server import point_to, serving
from page_blocks import blocks, run_blocks
from torch import nn

import itda
from itda import ITDA
from itda.cli import main

TEXTS = ["import os\n", "", "def f(x): return x"]
ABOUT = {"layer": 3, "lm_name": "tiny", "k": 2, "seq_len": 8, "batch_size": 2, "steps": 2, "loss_threshold": 0.3}


@pytest.fixture
def written(tmp_path) -> Path:
    """A folder as the scripts write it: rows of the third text, a special token, padding, and a row that was lost."""
    folder = tmp_path / "abc123"
    write(folder, torch.eye(4, 192), torch.tensor([[2, 1], [2, 0], [0, 7], [-1, -1]]), ABOUT)
    return folder


def write(folder: Path, atoms, indices, about) -> None:
    folder.mkdir(exist_ok=True)
    torch.save(atoms, folder / "atoms.pt")
    torch.save(indices, folder / "atom_indices.pt")
    (folder / "metadata.yaml").write_text(yaml.dump(about))


def corpus(folder: Path) -> Path:
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


def test_indices_become_labels_with_the_corpus(written, tmp_path, capsys):
    main(["import", str(written), "--corpus", str(corpus(tmp_path)), "--out", str(tmp_path / "run"), "--quiet"])
    assert "layer_3" in capsys.readouterr().out
    model = ITDA.from_pretrained(tmp_path / "run" / "layer_3")
    assert (model.k, model.pursuit, model.mode, model.threshold) == (2, "mp", "reference", 0.3)
    first = model.labels[0]
    assert (first.position, first.char_start, first.token) == (0, 0, "def")
    assert TEXTS[2].startswith(first.token + first.after)
    assert first.document.endswith("texts.jsonl:2") or "2" in first.document
    assert [label.token for label in model.labels][1:] == ["[special]", "[padding]", ""]
    assert model.labels[3].document == "lost"
    # The label is that of the same token in a harvest of ours.
    with itda.harvest("tiny", itda_corpus(tmp_path), layers=3, window=8) as batches:
        keys = {label.key for batch in batches for label in batch[itda.Site(3)].labels}
    assert first.key in keys


def itda_corpus(tmp_path: Path) -> str:
    return str(corpus(tmp_path))


def test_without_the_corpus_the_numbers_are_kept(written, tmp_path, capsys):
    main(["import", str(written), "--out", str(tmp_path / "run"), "--json"])
    output, error = capsys.readouterr()
    assert json.loads(output)["dictionaries"]["layer_3"]["atoms"] == 4
    assert "the labels are numbers" in error
    labels = ITDA.from_pretrained(tmp_path / "run" / "layer_3").labels
    assert [(label.document, label.position) for label in labels][:3] == [
        ("sequence 2", 1),
        ("sequence 2", 0),
        ("sequence 0", 7),
    ]
    main(["decompose", str(tmp_path / "run"), "import os", "--quiet"])
    main(["info", str(tmp_path / "run")])


def test_several_layers_become_one_run(written, tmp_path):
    write(tmp_path / "def456", torch.eye(3, 192), torch.zeros(3, 2, dtype=torch.int64), {**ABOUT, "layer": 1})
    main(["import", str(tmp_path), "--out", str(tmp_path / "run"), "--quiet"])
    assert sorted(map(str, itda.open_run(tmp_path / "run").sites)) == ["layer_1", "layer_3"]


def test_atoms_that_are_nearly_of_unit_norm_are_made_so(written, tmp_path):
    write(written, torch.eye(4, 192).half() * 0.9, torch.zeros(4, 2, dtype=torch.int64), ABOUT)
    main(["import", str(written), "--out", str(tmp_path / "run"), "--quiet"])
    assert torch.equal(ITDA.from_pretrained(tmp_path / "run" / "layer_3").atoms, torch.eye(4, 192))


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "boom")


@pytest.mark.parametrize("how", ["pickle", "torch", "module"])
def test_a_pickle_that_is_a_program_is_refused_and_not_run(written, tmp_path, capsys, how):
    fuse = tmp_path / "fuse"
    if how == "pickle":
        (written / "atoms.pt").write_bytes(pickle.dumps(Bomb(fuse)))
    else:
        torch.save(Bomb(fuse) if how == "torch" else nn.Linear(2, 2), written / "atoms.pt")
    error = refused(capsys, ["import", str(written), "--out", str(tmp_path / "run")])
    assert "atoms.pt is damaged, or holds more than a tensor, which might be a program" in error
    assert not fuse.exists()
    assert not (tmp_path / "run").exists()


def refused(capsys, arguments: list[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--quiet"])
    output, error = capsys.readouterr()
    assert (stop.value.code, output, error.count("\n"), error[:6]) == (2, "", 1, "itda: ")
    return error


def test_what_is_damaged_or_missing_is_one_line(written, tmp_path, capsys):
    run = ["--out", str(tmp_path / "run")]
    assert "no folder" in refused(capsys, ["import", str(tmp_path / "none"), *run])
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no atoms.pt" in refused(capsys, ["import", str(empty), *run])
    few = tmp_path / "few.jsonl"
    few.write_text(json.dumps({"text": "import os"}) + "\n")
    assert "has no document 2" in refused(capsys, ["import", str(written), "--corpus", str(few), *run])
    (written / "metadata.yaml").write_text("k: 40\n")
    assert "names no layer" in refused(capsys, ["import", str(written), *run])
    (written / "metadata.yaml").write_text("!!python/object/apply:os.system ['true']\n")
    assert "cannot be read" in refused(capsys, ["import", str(written), *run])
    write(written, torch.eye(4), torch.zeros(3, 2, dtype=torch.int64), ABOUT)
    assert "not of one dictionary" in refused(capsys, ["import", str(written), *run])
    write(written, torch.zeros(4, 4), torch.zeros(4, 2, dtype=torch.int64), ABOUT)
    assert "zero or not finite" in refused(capsys, ["import", str(written), *run])
    write(written, {"atoms": torch.eye(4)}, torch.zeros(4, 2, dtype=torch.int64), ABOUT)
    assert "holds a dict, not a tensor" in refused(capsys, ["import", str(written), *run])
    (written / "atom_indices.pt").unlink()
    write_only = torch.eye(4)
    torch.save(write_only, written / "atoms.pt")
    assert "atom_indices.pt: name a folder" in refused(capsys, ["import", str(written), *run])
    assert not (tmp_path / "run").exists()


# The client sends commits in a way that its HTTP library calls old.
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_the_blocks_of_the_page_on_released_files_and_on_the_hub_run(written, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("itda.bridges.hub.has_matplotlib", lambda: False)
    written.rename(tmp_path / "released")
    corpus(tmp_path)
    with serving() as hub:
        point_to(hub, tmp_path / "cache", monkeypatch)
        for heading in ("Files of the released scripts", "Hugging Face Hub"):
            for line in "".join(blocks("bridges.md", heading, "sh")).splitlines():
                main(shlex.split(line)[1:])
        assert list(hub.commits) == ["user/name"]
        found = run_blocks("bridges.md", "Hugging Face Hub", {"itda": itda})
    assert len(found["model"]) == 4
    assert list(map(str, found["run"].sites)) == ["layer_3"]
    output = capsys.readouterr().out
    assert "Nothing was sent" in output
    assert "«import» os" in output
