"""`itda harvest` on the bundled model: its files are those of one pass, whatever was killed on the way."""

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from itda import Labels, Site, Trainer
from itda import config as settings
from itda.cli import main
from itda.recipes.harvest import harvest
from itda.sources.corpora.corpus import open_corpus
from itda.sources.models.transformers import LanguageModel
from itda.sources.shards import writer as shard_writer
from itda.sources.shards.source import ShardSource
from itda.sources.shards.writer import ShardWriter
from itda.sources.source import ModelSource

SITES = [Site(1), Site(1, "mlp_out"), Site(2), Site(2, "mlp_out")]
RANGE = 2**18 // (192 * 4)
"""Tokens of a shard of 256 kiB."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for i in range(24):
        text = f"import os\n\n\ndef naïve_{i}(path):\n    return os.path.join(path, '🙂 {i} 日本<|bos|>')\n" * 4
        (folder / f"{i:02}.py").write_text(text)
    return folder


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(shard_writer, "SHARD_BYTES", 2**18)


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("activations") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_writer, "SHARD_BYTES", 2**18)
        made = harvest(options(corpus, folder))
    assert (made.tokens, made.new, list(made.sites)) == (2000, 2000, SITES)
    return folder


def options(corpus, folder, **given):
    usual = {"model": "tiny", "layers": (1, 2), "streams": ("resid_post", "mlp_out"), "tokens": 2000, "window": 48}
    usual |= {"batch_size": 4, "order": "shuffled", "seed": 3, "quiet": True}
    return settings.Harvest(corpus=str(corpus), out=folder, **{**usual, **given})


def direct(corpus, dtype="float32", **given):
    model, documents = LanguageModel.load("tiny", dtype=dtype), open_corpus(str(corpus)).split("train").shuffled(3)
    return ModelSource(model, documents, SITES, **{"window": 48, "batch_size": 4, "tokens": 2000, **given})


def joined(source, site):
    parts = [batches[site] for batches in source]
    return torch.cat([part.activations for part in parts]), Labels.concatenate([part.labels for part in parts])


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def command(corpus, folder, *more):
    arguments = ["harvest", "tiny", "--layers", "1,2", "--streams", "resid_post,mlp_out", "--corpus", str(corpus)]
    arguments += ["--tokens", "2k", "--window", "48", "--batch-size", "4", "--order", "shuffled", "--seed", "3"]
    return [*arguments, "--out", str(folder), *more]


def printed(capsys, *arguments):
    capsys.readouterr()
    main(list(arguments))
    return capsys.readouterr().out


def refused(capsys, *arguments):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    output, error = capsys.readouterr()
    assert (stop.value.code, output, error.count("\n")) == (2, "", 1)
    return error


def test_activations_and_labels_are_those_of_the_model_to_the_bit(whole, corpus):
    stream = list(direct(corpus))
    for site in SITES:
        (x, labels), (y, others) = joined(ShardSource(whole), site), joined(stream, site)
        assert torch.equal(x, y)
        assert list(labels) == list(others)


def test_a_dictionary_is_that_of_the_model_to_the_bit(whole, corpus):
    made = []
    for source in (ShardSource(whole, [SITES[2]]), direct(corpus)):
        trainer = Trainer(192, tokens=2000, k=6, threshold=0.4, offset_tokens=100, passes=1)
        for batches in source:
            trainer.offer(batches[SITES[2]])
        made.append(trainer.finish())
    assert torch.equal(made[0].atoms, made[1].atoms)
    assert list(made[0].labels) == list(made[1].labels)
    assert len(made[0]) > 30


def test_bfloat16_stays_bfloat16(corpus, tmp_path):
    made = harvest(options(corpus, tmp_path / "new", dtype="bfloat16", tokens=500))
    assert made.dtype == "bfloat16"
    x, _ = joined(ShardSource(made.folder), SITES[0])
    assert x.dtype == torch.bfloat16
    assert torch.equal(x, joined(direct(corpus, "bfloat16", tokens=500), SITES[0])[0])


def test_the_manifest_says_what_made_it(whole, corpus):
    about = ShardSource(whole).about
    assert about["fingerprint"] == open_corpus(str(corpus)).fingerprint
    assert [about[name] for name in ("model", "window", "batch_size", "dtype", "device")] == [
        "tiny",
        48,
        4,
        "float32",
        "cpu",
    ]
    assert (about["corpus_part"], about["order"], about["tokens_asked"]) == ("train", "shuffled, seed 3", 2000)
    assert about["tokenizer"] == LanguageModel.load("tiny").tokenizer_hash
    assert set(about["versions"]) == {"torch", "transformers", "tokenizers"}
    assert (about["settings"]["seed"], about["settings"]["text_field"]) == (3, "text")


def test_started_again_it_says_that_all_is_there_without_the_model(whole, corpus, capsys, monkeypatch):
    monkeypatch.setattr(LanguageModel, "load", None)
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    assert "It was there already: nothing to do." in printed(capsys, *command(corpus, whole))
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def test_the_table_and_the_json(corpus, tmp_path, capsys):
    text = printed(capsys, *command(corpus, tmp_path / "new", "--quiet"))
    assert "2,000 tokens, float32 of width 192" in text
    assert "2,000 in " in text
    assert "\nlayer_2.mlp_out " in text
    assert all(len(line) <= 80 for line in text.splitlines() if str(tmp_path) not in line)
    values = json.loads(printed(capsys, *command(corpus, tmp_path / "new", "--json")))
    assert (values["tokens"], values["new"], values["model"], values["d_model"]) == (2000, 0, "tiny", 192)
    assert values["sites"]["layer_1"]["bytes"] == 2000 * 192 * 4 + 512 * 6
    assert values["bytes"] == sum(path.stat().st_size for path in (tmp_path / "new").rglob("0*"))


def test_a_corpus_that_ends_early_is_whole(tmp_path):
    (tmp_path / "one.txt").write_text("The cat sat on the mat.\n" * 40)
    made = harvest(options(tmp_path / "one.txt", tmp_path / "new", part="all"))
    assert 200 < made.tokens == made.new < 2000
    assert harvest(options(tmp_path / "one.txt", tmp_path / "new", part="all")).new == 0


class Stop(Exception):  # noqa: N818
    pass


def interrupted(corpus, folder, patch, after):
    """Harvest until `after` groups are written."""
    left, real = iter(range(after)), ShardWriter.add

    def add(self, batches):
        if next(left, None) is None:
            raise Stop
        real(self, batches)

    with patch.context() as inner:
        inner.setattr(ShardWriter, "add", add)
        with pytest.raises(Stop):
            harvest(options(corpus, folder))


class Counted:
    def __init__(self):
        self.counts = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def update(self, n, /):
        self.counts.append(n)

    def set_postfix_str(self, s, /):
        pass


def test_it_goes_on_without_the_model_for_what_is_done(whole, corpus, tmp_path, monkeypatch):
    interrupted(corpus, tmp_path / "new", monkeypatch, 6)
    assert not list((tmp_path / "new").rglob(".*"))
    asked, counted, real = [], Counted(), LanguageModel.activations
    with monkeypatch.context() as patch:
        patch.setattr(LanguageModel, "activations", lambda *a: asked.append(1) or real(*a))
        made = harvest(options(corpus, tmp_path / "new"), lambda name, tokens: counted)
    assert files(tmp_path / "new") == files(whole)
    assert (2000 - made.new) % RANGE == 0
    assert 2000 - made.new >= RANGE
    assert len(asked) == len(list(direct(corpus, skip=2000 - made.new))) < len(list(direct(corpus)))
    assert sum(counted.counts) == 2000


def test_a_file_that_is_removed_is_made_anew(whole, corpus, tmp_path, capsys):
    shutil.copytree(whole, tmp_path / "copy")
    (tmp_path / "copy" / "layer_2" / "000002.safetensors").unlink()
    text = printed(capsys, *command(corpus, tmp_path / "copy", "--quiet"))
    assert f"\n{RANGE} in " in text
    assert f"; {2000 - RANGE:,} from before" in text
    assert files(tmp_path / "copy") == files(whole)


KILLED = """
import sys
from itda.sources.shards import writer as shard_writer
shard_writer.SHARD_BYTES = 2**18
from itda.cli import main
main(sys.argv[1:])
"""


def test_killed_it_goes_on_to_the_same_files(whole, corpus, tmp_path):
    """Once, since a process takes its time to begin; sources/test_shards_damage.py kills its writers everywhere."""
    folder = tmp_path / "new"
    process = subprocess.Popen([sys.executable, "-c", KILLED, *command(corpus, folder, "--quiet")])
    waited = time.monotonic()
    while len(list(folder.glob("labels/0*"))) < 2 and process.poll() is None:  # of 6 ranges
        assert time.monotonic() - waited < 120
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (folder / "manifest.json").exists()
    harvest(options(corpus, folder))
    assert files(folder) == files(whole)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (["--layers", "1"], "sites layer_1, layer_1.mlp_out"),
        (["--tokens", "3k"], "tokens_asked 2000, not 3000"),
        (["--window", "47"], "window 48, not 47"),
        (["--seed", "4"], "order shuffled, seed 3, not shuffled, seed 4"),
        (["--dtype", "bfloat16"], "settings.dtype auto, not bfloat16"),
        (["--corpus", "python-docs"], "not python-docs"),
    ],
)
def test_other_settings_are_refused_before_the_model_is_loaded(whole, corpus, capsys, monkeypatch, changed, named):
    monkeypatch.setattr(LanguageModel, "load", None)
    before = files(whole)
    error = refused(capsys, *command(corpus, whole, *changed))
    assert "was made with other settings (" in error
    assert named in error
    assert error.endswith("use those, or name another folder\n")
    assert files(whole) == before


def test_another_tokenizer_or_library_is_refused(whole, corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(LanguageModel, "tokenizer_hash", "another")
    monkeypatch.setattr("itda.recipes.run_in_progress.version", lambda name: "0.1")
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    (copy / "layer_1" / "000000.safetensors").unlink()
    error = refused(capsys, *command(corpus, copy, "--quiet"))
    assert "tokenizer" in error
    assert "versions.torch" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layers", "7"], "the model has layers 0 to 5"),
        (["--streams", "resid"], "no stream 'resid'"),
        (["--tokens", "none"], "is not a number of tokens"),
        (["--batch-size", "0"], "must be at least 1"),
        (["--corpus", "./nothing.txt"], "no file or folder"),
        (["--order", "corpus"], "--seed chooses a shuffled order: leave out --order corpus, or the seed"),
        (["--window", "300"], "the model reads at most 256"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(corpus, tmp_path, capsys, arguments, message):
    assert message in refused(capsys, *command(corpus, tmp_path / "new", *arguments, "--quiet"))
    assert list(tmp_path.iterdir()) == []


def test_a_corpus_without_a_token_is_one_line_and_nothing_is_written(tmp_path, capsys):
    (tmp_path / "empty.txt").write_text("")
    assert "has no token to read" in refused(capsys, *command(tmp_path / "empty.txt", tmp_path / "new", "--quiet"))
    assert [path.name for path in tmp_path.iterdir()] == ["empty.txt"]


def test_a_folder_of_something_else_is_refused(corpus, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert "holds something else than activations" in refused(capsys, *command(corpus, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_stopped_by_the_keyboard_it_says_how_to_go_on(corpus, tmp_path, capsys, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(LanguageModel, "activations", stop)
    with pytest.raises(SystemExit) as stopped:
        main(command(corpus, tmp_path / "new", "--quiet"))
    assert stopped.value.code == 130
    assert "stopped; the same command goes on from here" in capsys.readouterr().err


def test_the_held_out_part_is_harvested_and_its_dictionary_measured_on_the_rest(tmp_path):
    from itda.recipes.runs import corpus_of, open_run
    from itda.sources.corpora.corpus import is_held_out

    corpus = tmp_path / "texts"
    corpus.mkdir()
    for i in range(30):
        (corpus / f"{i:02}.py").write_text(f"import os\n\n\ndef f_{i}(path):\n    return os.path.join(path)\n")
    main(command(corpus, tmp_path / "acts", "--part", "heldout", "--quiet"))
    documents = {name for batches in ShardSource(tmp_path / "acts") for name in batches[SITES[0]].labels.document}
    assert documents
    assert all(is_held_out(name) for name in documents)
    train = ["train", "--activations", str(tmp_path / "acts"), "--layer", "1", "--k", "4", "--threshold", "0.4"]
    main([*train, "--mode", "paper", "--out", str(tmp_path / "run"), "--quiet"])
    run = open_run(tmp_path / "run")
    assert run.record["corpus_part"] == "heldout"
    rest = [document.id for document in corpus_of(run, None, settings.Evaluate(run=run.folder), "unread")]
    assert rest
    assert not any(is_held_out(name) for name in rest)
