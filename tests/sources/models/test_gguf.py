"""Models in GGUF files: the same activations as those of the weights that the file holds, in every command."""

import json
from pathlib import Path

import pytest
import torch
from sources.models.families import byte_tokenizer
from sources.models.gguf_files import write
from test_cli import printed, refused

from itda.cli import main
from itda.core.batch import Site
from itda.errors import ModelError
from itda.sources.corpora.corpus import Document
from itda.sources.models import names
from itda.sources.models.gguf_header import GgufHeader
from itda.sources.models.named import NamedModel
from itda.sources.models.names import gguf_of
from itda.sources.models.transformers import LanguageModel
from itda.sources.prompt import read_prompt

SITES = [Site(0), Site(1, "mlp_out"), Site(1)]
TEXT = "the cat sat on the mat"
TRAIN = ["--layers", "1", "--k", "4", "--tokens", "200", "--threshold", "0.3", "--window", "32", "--quiet"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for i in range(30):
        (folder / f"{i:02}.txt").write_text(f"The cat sat on mat {i}, and so did dog {i}. " * 3)
    return folder


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_1", "Q5_0"])
def test_activations_and_predictions_are_those_of_the_weights_in_the_file(tmp_path, kind):
    expected = LanguageModel(write(tmp_path / "model.gguf", kind), byte_tokenizer())
    model = LanguageModel.load(str(tmp_path / "model.gguf"), device="cpu")
    assert (model.is_causal, model.layers, model.d_model, model.dtype) == (True, 2, 32, "float32")
    assert model.context == 64
    for value in model.model.parameters():
        assert value.dtype == torch.float32
    labels, found = read_prompt(model, TEXT, SITES, 32)
    expected_labels, wanted = read_prompt(expected, TEXT, SITES, 32)
    assert labels.keys() == expected_labels.keys()
    for site in SITES:
        torch.testing.assert_close(found[site], wanted[site], rtol=1e-5, atol=1e-5)
    group = next(model.windower(32).groups([Document("d", TEXT)], 1))
    torch.testing.assert_close(model.logits(group), expected.logits(group), rtol=1e-5, atol=1e-4)


def test_a_file_in_half_precision_is_read_in_bfloat16_where_that_is_asked_for(tmp_path):
    write(tmp_path / "model.gguf", "Q8_0")
    assert LanguageModel.load(str(tmp_path / "model.gguf"), device="cpu", dtype="bfloat16").dtype == "bfloat16"


def test_the_tokenizer_is_that_of_the_file(tmp_path):
    write(tmp_path / "model.gguf")
    tokenizer = NamedModel.named(str(tmp_path / "model.gguf")).tokenizer()
    for text in (TEXT, "Ein Bär, 12 Äpfel.\n\n  x", "🦜"):
        assert tokenizer(text).input_ids == byte_tokenizer()(text).input_ids


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write(folder / "small.Q8_0.gguf", "Q8_0")
    main(["train", str(folder / "small.Q8_0.gguf"), "--corpus", str(corpus), "--out", str(folder / "run"), *TRAIN])
    return folder / "run"


def test_every_command_works_from_a_file(run, tmp_path, capsys):
    said = "Q8_0 (99% of the weights; a GGUF file of type Q8_0)"
    record = json.loads((run / "run.json").read_text())
    assert record["quantisation"] == said
    assert record["model"] == str(run.parent / "small.Q8_0.gguf")
    assert record["model_fingerprint"].startswith("all:")
    assert f"the model is stored as {said}" in printed(capsys, "info", str(run))
    assert f"| the model is stored as | {said} |" in (run / "layer_1" / "README.md").read_text()
    assert "explained" in printed(capsys, "decompose", str(run), TEXT)
    assert "fvu" in printed(capsys, "evaluate", str(run), "--tokens", "50", "--quiet")
    assert "50 tokens" in printed(capsys, "index", str(run), "--tokens", "50", "--quiet")
    page = tmp_path / "page.html"
    printed(capsys, "explore", str(run), "--export", str(page), "--prompts", TEXT, "--quiet")
    assert page.stat().st_size > 0
    harvest = ["harvest", record["model"], "--layers", "1", "--corpus", record["corpus"], "--tokens", "100"]
    printed(capsys, *harvest, "--window", "32", "--out", str(tmp_path / "kept"), "--quiet")
    assert json.loads((tmp_path / "kept" / "manifest.json").read_text())


def test_another_file_in_its_place_is_refused(run, capsys):
    file = run.parent / "small.Q8_0.gguf"
    content = file.read_bytes()
    try:
        write(file, "Q8_0", seed=1)
        assert "--changed-model" in refused(capsys, "decompose", str(run), TEXT)
    finally:
        file.write_bytes(content)


def test_nothing_but_the_answer_is_shown(run, capfd):
    main(["decompose", str(run), TEXT, "--json"])
    output, error = capfd.readouterr()
    assert json.loads(output)
    assert error == ""


def test_without_out_the_run_is_named_after_the_file(run, corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["train", str(run.parent / "small.Q8_0.gguf"), "--corpus", str(corpus), *TRAIN])
    assert (tmp_path / "runs" / "small.Q8_0-1").is_dir()


# Which file is meant.


def test_a_folder_with_one_file_means_that_file(tmp_path):
    (tmp_path / "a.GGUF").touch()
    (tmp_path / "mmproj-a.gguf").touch()
    (tmp_path / "README.md").touch()
    assert gguf_of(str(tmp_path)) == gguf_of(str(tmp_path / "a.GGUF")) == (str(tmp_path), "a.GGUF")
    (tmp_path / "config.json").touch()
    assert gguf_of(str(tmp_path)) == (str(tmp_path), "a.GGUF")
    (tmp_path / "model.safetensors").touch()
    assert gguf_of(str(tmp_path)) is None


def test_a_folder_with_several_files_asks_for_one(tmp_path, corpus, capsys):
    for name in ("b.gguf", "a.gguf"):
        (tmp_path / name).touch()
    said = refused(capsys, "train", str(tmp_path), "--corpus", str(corpus), "--out", str(tmp_path / "run"), *TRAIN)
    assert "holds 2 GGUF files (a.gguf, b.gguf): name one of them" in said


def test_a_file_of_the_hub_is_a_repository_and_a_file():
    assert gguf_of("me/m-GGUF:sub/m.Q4_1.gguf") == ("me/m-GGUF", "sub/m.Q4_1.gguf")
    assert gguf_of("me/m") is None
    assert gguf_of("tiny") is None


def test_a_file_of_the_hub_is_loaded_at_its_commit(tmp_path, monkeypatch):
    commit = "c" * 40
    folder = tmp_path / "models--me--m" / "snapshots" / commit
    folder.mkdir(parents=True)
    (tmp_path / "models--me--m" / "refs").mkdir()
    (tmp_path / "models--me--m" / "refs" / "main").write_text(commit)
    write(folder / "m.gguf")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    model = LanguageModel.load("me/m:m.gguf", device="cpu")
    assert (model.revision, model.layers) == (commit, 2)
    assert NamedModel.named("me/m:m.gguf").quantisation() == "F32 (100% of the weights; a GGUF file of type F32)"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing.gguf", "no file 'missing.gguf': check the path; a file of a Hub repository is owner/name:file.gguf"),
        ("me/missing.gguf", "owner/name:file.gguf"),
        ("m-00001-of-00003.gguf", "is one part of several"),
    ],
)
def test_what_is_no_one_file_is_refused_in_one_line(tmp_path, monkeypatch, name, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m-00001-of-00003.gguf").touch()
    with pytest.raises(ModelError, match=said.replace("(", ".")) as error:
        LanguageModel.load(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("package", ["gguf", "accelerate"])
def test_without_the_extra_the_command_to_install_it_is_said(run, capsys, monkeypatch, package):
    plain = names.find_spec
    monkeypatch.setattr(names, "find_spec", lambda name: None if name == package else plain(name))
    assert "pip install 'itda[gguf]'" in refused(capsys, "decompose", str(run), TEXT)


@pytest.mark.parametrize("length", [0, 3, 4, 20, 300, 5000, -40])
def test_a_file_that_is_cut_short_is_said_to_be(run, tmp_path, length):
    content = (run.parent / "small.Q8_0.gguf").read_bytes()
    file = tmp_path / "cut.gguf"
    file.write_bytes(content[:length])
    with pytest.raises(ModelError, match=r"damaged, or no GGUF file .*: download it again") as error:
        LanguageModel.load(str(file))
    assert "\n" not in str(error.value)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"<html>not found</html>" * 10)
    with pytest.raises(ModelError, match="it does not begin with GGUF"):
        LanguageModel.load(str(tmp_path / "model.gguf"))
    (tmp_path / "model.txt").write_text("x")
    with pytest.raises(ModelError, match="is a file: name the folder that holds the model, or a file in GGUF"):
        LanguageModel.load(str(tmp_path / "model.txt"))


def test_streaming_and_planning_are_refused_in_one_line(run, corpus, tmp_path, capsys):
    file = str(run.parent / "small.Q8_0.gguf")
    out = ["--corpus", str(corpus), "--out", str(tmp_path / "run")]
    assert "not block by block: leave out --stream" in refused(capsys, "train", file, "--stream", *out, *TRAIN)
    assert not (tmp_path / "run").exists()
    assert "there is nothing to plan" in refused(capsys, "plan", file, "--layers", "1")


def test_the_header_says_what_there_is(run):
    header = GgufHeader.read(Path(run.parent / "small.Q8_0.gguf"))
    assert header.architecture == "llama"
    assert header.weights == sum(value.numel() for value in write(run.parent / "other.gguf").parameters())
