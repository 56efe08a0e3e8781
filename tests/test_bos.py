"""`--bos` from training to every command that reads text with a run, with comparisons and folders of activations."""

import json

import pytest
import torch
from sources.models.families import end_of_text
from test_cli import printed, refused
from transformers import LlamaConfig, LlamaForCausalLM

from itda import ITDA
from itda.cli import main
from itda.sources.models.transformers import LanguageModel

FRONT = "<|endoftext|>"
SETTINGS = ["--layers", "1", "--k", "4", "--mode", "paper", "--threshold", "0.2", "--tokens", "600", "--window", "32"]
QUIET = ["--quiet", "--order", "corpus"]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A model whose tokenizer puts nothing in front, a corpus, and runs of it with and without a BOS."""
    folder = tmp_path_factory.mktemp("bos")
    (folder / "corpus").mkdir()
    for i in range(60):
        text = f"def f_{i}(path):\n    # the name of {i}\n    return path + '{i}.txt'\n" * 3
        (folder / "corpus" / f"{i:02}.py").write_text(text)
    tokenizer = end_of_text(eos_token=FRONT)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    for name, more in (("auto", []), ("never", ["--bos", "never"]), ("always", ["--bos", "always"])):
        main(train(folder, name, *more))
    return folder


def train(here, name, *more):
    source = [str(here / "model"), "--corpus", str(here / "corpus")]
    return ["train", *source, "--out", str(here / name), *SETTINGS, *QUIET, *more]


def record(here, name):
    return json.loads((here / name / "run.json").read_text())


@pytest.mark.parametrize(("name", "front"), [("auto", []), ("never", []), ("always", [FRONT])])
def test_a_run_says_what_was_asked_for_and_what_stood_in_front_of_its_windows(here, capsys, name, front):
    found = record(here, name)
    assert (found["settings"]["bos"], found["bos"], found["prefix"]) == (name, name, front)
    said = "that begin with <|endoftext|>" if front else "without a BOS"
    assert f"600 tokens in windows of 32 {said}" in printed(capsys, "info", str(here / name))
    card = (here / name / "layer_1" / "README.md").read_text()
    assert ("each begins with <|endoftext|>" if front else "32, without a BOS") in card


def test_a_bos_changes_the_activations_and_not_the_tokens(here):
    left, right = (ITDA.from_pretrained(here / name / "layer_1") for name in ("auto", "always"))
    assert left.labels.keys()[0] == right.labels.keys()[0] == ("00.py", 0, 1)
    assert (left.atoms[0] @ right.atoms[0]).item() < 0.999


@pytest.mark.parametrize("name", ["auto", "always"])
def test_every_command_reads_text_as_the_run_did(here, capsys, name, monkeypatch):
    asked, windower = [], LanguageModel.windower
    monkeypatch.setattr(
        LanguageModel, "windower", lambda self, window, bos="auto": asked.append(bos) or windower(self, window, bos)
    )
    run = str(here / name)
    commands = (
        ["decompose", run, "def f_1(path):"],
        ["evaluate", run, "--tokens", "100", "--quiet"],
        ["index", run, "--tokens", "200", "--quiet"],
        ["probe", run, "--tokens", "2k", "--quiet"],
        ["explore", run, "--export", str(here / f"{name}.html"), "--prompts", "def f_1", "--quiet", "--atoms", "0"],
    )
    for command in commands:
        asked.clear()
        printed(capsys, *command)
        # The explorer's logits of an atom depend on no text.
        assert set(asked) - ({"auto"} if command[0] == "explore" else set()) == {name} - (
            {"auto"} if command[0] == "explore" else set()
        ), command[0]
        assert asked, command[0]


@pytest.mark.parametrize("name", ["auto", "always"])
def test_a_prompt_of_the_corpus_gives_the_very_activation_that_was_an_atom(here, capsys, name):
    text = (here / "corpus" / "00.py").read_text()[:20]
    found = json.loads(printed(capsys, "decompose", str(here / name), text, "--token", "0", "--json"))["tokens"][0]
    assert found["explained"] == pytest.approx(1, abs=1e-9)
    assert [use["atom"] for use in found["atoms"]] == [0]


def test_compare_says_where_two_runs_differ_in_it_and_only_there(here, capsys):
    def differences(a, b):
        (pair,) = json.loads(printed(capsys, "compare", str(here / a), str(here / b), "--json"))["pairs"]
        return pair["kind"], pair["differences"]

    assert differences("auto", "always") == ("models", ["bos: none and <|endoftext|>"])
    assert differences("auto", "never") == ("repetition", [])


def test_a_run_from_before_the_setting_is_one_with_auto(here, capsys, tmp_path):
    import shutil

    old = shutil.copytree(here / "auto", tmp_path / "old")
    made = record(here, "auto")
    del made["bos"], made["prefix"], made["settings"]["bos"]
    (old / "run.json").write_text(json.dumps(made))
    assert "tokens in windows of 32, mode" in printed(capsys, "info", str(old))
    both = printed(capsys, "decompose", str(old), "def f"), printed(capsys, "decompose", str(here / "auto"), "def f")
    assert both[0].replace(str(old), "").splitlines()[:-1] == both[1].replace(str(here / "auto"), "").splitlines()[:-1]
    (pair,) = json.loads(printed(capsys, "compare", str(old), str(here / "auto"), "--json"))["pairs"]
    assert (pair["kind"], pair["differences"]) == ("repetition", [])


def test_harvested_activations_know_it(here, capsys):
    command = ["harvest", str(here / "model"), "--corpus", str(here / "corpus"), "--layers", "1", "--tokens", "600"]
    command += ["--window", "32", "--out", str(here / "kept"), "--quiet"]
    command += ["--order", "corpus"]
    printed(capsys, *command, "--bos", "always")
    assert "made with other settings (bos always, not auto" in refused(capsys, *command)
    printed(capsys, "train", "--activations", str(here / "kept"), "--out", str(here / "from"), *SETTINGS, *QUIET[:1])
    found = record(here, "from")
    assert (found["settings"]["bos"], found["prefix"]) == ("always", [FRONT])
    left, right = (ITDA.from_pretrained(here / name / "layer_1") for name in ("from", "always"))
    assert torch.equal(left.atoms, right.atoms)
    assert "leave out --bos" in refused(
        capsys, "train", "--activations", str(here / "kept"), "--bos", "never", "--out", str(here / "no")
    )


def test_a_folder_of_activations_from_before_the_setting_goes_on(here, capsys):
    command = ["harvest", str(here / "model"), "--corpus", str(here / "corpus"), "--layers", "1", "--tokens", "300"]
    command += ["--window", "32", "--out", str(here / "older"), "--quiet"]
    printed(capsys, *command)
    file = here / "older" / "manifest.json"
    made = json.loads(file.read_text())
    for each in (made["about"], made["about"]["settings"]):
        each.pop("prefix", None)
        del each["bos"]
    file.write_text(json.dumps(made))
    assert "nothing to do" in printed(capsys, *command)
    assert "made with other settings (bos auto, not never" in refused(capsys, *command, "--bos", "never")


def test_always_without_a_bos_token_is_one_line_before_anything_is_written(here, capsys, tmp_path):
    from sources.models.families import byte_tokenizer

    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((here / "model" / name).read_bytes())
    byte_tokenizer(bos=False).save_pretrained(tmp_path)
    command = ["train", str(tmp_path), "--corpus", str(here / "corpus"), "--out", str(tmp_path / "run"), *SETTINGS]
    assert "has no BOS token" in refused(capsys, *command, "--bos", "always")
    assert not (tmp_path / "run").exists()


def test_a_text_of_special_tokens_alone_is_one_line(here, capsys):
    for more in ([], ["--token", "0"]):
        said = refused(capsys, "decompose", str(here / "auto"), FRONT, *more)
        assert "the text has only special tokens" in said
