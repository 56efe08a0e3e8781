"""`itda probe --sets sae-probes` on data sets of the same form, a few prompts each."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import torch

import itda
from itda import Site
from itda.bridges.sae_probes import last_activations
from itda.cli import main
from itda.sources.prompt import read_prompt

WORDS = ("import", "return", "class", "while", "print", "value", "path", "name", "list", "dict")
SETS = ("1_first_word", "2_other")


@pytest.fixture(autouse=True)
def one_penalty(monkeypatch):
    """A tenth of the regressions: how penalties are chosen is compared with sae-probes itself, in bridges_tests."""
    monkeypatch.setattr("itda.bridges.sae_probes_scores.PENALTIES", [1e3])


def packed(text: str) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(text.encode())
    return sink.getvalue().to_pybytes()


def prompts(number: int) -> list[tuple[str, str]]:
    """Prompts that end with a word of class "a" or "b", and a comma, a quote and a line break in some of them."""
    rows = []
    for i in range(number):
        kind = "ab"[i % 2]
        word = WORDS[i % 2 * 5 + i // 2 % 5]
        rows.append((f'x{i}, "y"\n = {WORDS[i % 10]} {i % 7} {word}', kind))
    return rows


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A folder as sae-probes has in its wheel."""
    folder = tmp_path_factory.mktemp("sets")
    (folder / "cleaned_data").mkdir()
    index = "Data type,Dataset save name\n"
    for name in SETS:
        index += f"Binary Classification,cleaned_data/{name}.csv\n"
        quoted = "".join(f'"{text.replace(chr(34), 2 * chr(34))}",{kind}\n' for text, kind in prompts(140))
        (folder / "cleaned_data" / f"{name}.csv.zst").write_bytes(packed("prompt,target\n" + quoted))
    index += "Multiclass,cleaned_data/3_many.csv\n"
    (folder / "probing_datasets_MASTER.csv.zst").write_bytes(packed(index))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    texts = ["import os\nclass A:\n    def f(self): return 1\n", "for line in open(path): print(line)\n"] * 4
    given = {"k": 4, "atoms": 24, "window": 32, "refine": 0, "progress": False}
    itda.train("tiny", texts, layers=[1, 3], out=folder, **given)
    return folder


def probed(run: Path, data: Path, *more: str) -> list[str]:
    return ["probe", str(run), "--sets", "sae-probes", "--data", str(data), "--latents", "1,4", *more]


def test_each_readout_is_scored_and_the_same_command_goes_on(run, data, capsys, monkeypatch):
    main([*probed(run, data), "--json", "--quiet"])
    found = json.loads(capsys.readouterr().out)["sites"]
    assert list(found) == ["layer_1", "layer_3"]
    assert list(found["layer_1"]) == ["code", "code, two levels", "similarity", "neurons"]
    assert [each["k"] for each in found["layer_3"]["code"]["2_other"]] == [1, 4]
    assert [each["k"] for each in found["layer_3"]["neurons"]["2_other"]] == [1, 4, None]
    assert found["layer_3"]["neurons"]["1_first_word"][-1]["test_auc"] > 0.95  # the last word tells the class
    x = torch.load(run / "sae-probes" / "model_activations_tiny" / "1_first_word_blocks.1.hook_resid_post.pt")
    assert x.shape == (140, 192)
    gone = run / "sae-probes" / "results" / "layer_3" / "code" / "sae_probes_tiny" / "normal_setting"
    [path] = gone.glob("2_other*")
    before = path.read_text()
    path.unlink()
    monkeypatch.setattr("itda.bridges.sae_probes.last_activations", None)  # what is there is not read again
    main([*probed(run, data), "--quiet"])
    table = capsys.readouterr().out
    assert path.read_text() == before
    assert "the mean over 2 sets of sae-probes" in table
    assert [line.split()[:1] for line in table.splitlines()].count(["similarity"]) == 2


def test_activations_are_those_of_the_last_token_alone():
    lm: Any = itda.load_model("tiny")
    texts = [text for text, _ in prompts(9)] + ["print " * 40]
    found = last_activations(lm, texts, [Site(1), Site(3)], "auto", 20)
    for row, text in enumerate(texts[:-1]):
        alone = read_prompt(lm, text, [Site(3)], window=64)[1][Site(3)][-1]
        torch.testing.assert_close(found[Site(3)][row], alone.float(), atol=2e-4, rtol=1e-4)
    # A long prompt loses its beginning: 20 tokens of it with the BOS are what a prompt of its last 19 has.
    ids = lm.tokenizer(texts[-1], add_special_tokens=False)["input_ids"][-19:]
    cut = last_activations(lm, [lm.tokenizer.decode(ids)], [Site(3)], "auto", 20)
    torch.testing.assert_close(found[Site(3)][-1], cut[Site(3)][0], atol=2e-4, rtol=1e-4)


def test_another_dictionary_or_number_of_rows_is_scored_anew(run, data, capsys, tmp_path):
    import shutil

    copy = shutil.copytree(run, tmp_path / "copy")
    main([*probed(copy, data, "--rows", "120", "--only", "2_other"), "--json", "--quiet"])
    first = json.loads(capsys.readouterr().out)["sites"]
    assert (copy / "sae-probes" / "rows_120" / "model_activations_tiny").is_dir()
    shutil.copytree(copy / "layer_1", tmp_path / "kept")
    for name in ("atoms.safetensors", "labels.parquet"):
        shutil.copy(copy / "layer_3" / name, copy / "layer_1" / name)
    main([*probed(copy, data, "--rows", "120", "--only", "2_other"), "--json", "--quiet"])
    second = json.loads(capsys.readouterr().out)["sites"]
    assert first["layer_1"]["neurons"] == second["layer_1"]["neurons"]
    assert first["layer_1"]["similarity"] != second["layer_1"]["similarity"]
    assert first["layer_3"] == second["layer_3"]


def refused(capsys, arguments: list[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    output, error = capsys.readouterr()
    assert (stop.value.code, output, error.count("\n"), error[:6]) == (2, "", 1, "itda: ")
    return error


def test_slips_are_one_line_with_a_remedy(run, data, capsys, tmp_path):
    assert "sae-probes is not installed: pip install sae-probes" in refused(
        capsys, ["probe", str(run), "--sets", "sae-probes"]
    )
    assert "has no probing_datasets_MASTER.csv.zst" in refused(capsys, probed(run, tmp_path))
    (tmp_path / "x.whl").write_bytes(b"no wheel")
    assert "is no wheel of sae-probes" in refused(capsys, probed(run, tmp_path / "x.whl"))
    assert "no set '9_x'" in refused(capsys, probed(run, data, "--only", "9_x"))
    assert "write it as 50000" in refused(capsys, probed(run, data, "--rows", "0"))
    assert "--prompt-tokens is 0" in refused(capsys, probed(run, data, "--prompt-tokens", "0"))
    assert "--latents are (0,)" in refused(capsys, probed(run, data, "--latents", "0"))
    assert "--corpus is for --sets python" in refused(capsys, probed(run, data, "--corpus", "x"))
    with zipfile.ZipFile(tmp_path / "y.whl", "w") as wheel:
        wheel.writestr("sae_probes/data/probing_datasets_MASTER.csv.zst", b"damaged")
    assert "is damaged" in refused(capsys, probed(run, tmp_path / "y.whl"))
