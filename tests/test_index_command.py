"""`itda index` on the bundled model: the codes are those of a plain loop, whatever was killed on the way."""

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from itda import Labels, Site
from itda import config as settings
from itda.cli import main
from itda.explorer import indexing
from itda.explorer.code_index import FOLDER, CodeIndex
from itda.explorer.code_index_writer import PARTIAL, parts_of
from itda.recipes import open_run
from itda.recipes.index import index_run
from itda.sources.corpora.corpus import open_corpus
from itda.sources.models.transformers import LanguageModel
from itda.sources.source import ModelSource
from itda.sources.streamed.model import StreamedModel
from itda.store.dictionaries import read_tokens
from itda.store.nearest import AFTER, BEFORE
from itda.store.nearest import FILE as NEAREST

SITES = [Site(1), Site(2, "mlp_out")]
TRAIN = ["--k", "6", "--threshold", "0.4", "--tokens", "2k", "--window", "48", "--batch-size", "4", "--quiet"]
TRAIN += ["--mode", "paper"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for i in range(24):
        text = f"import os\n\n\ndef naïve_{i}(path):\n    return os.path.join(path, '🙂 {i} 日本<|bos|>')\n" * 4
        (folder / f"{i:02}.py").write_text(text)
    return folder


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    order = ["--order", "shuffled", "--seed", "3", "--streams", "resid_post,mlp_out"]
    main(["train", "tiny", "--layers", "1,2", "--corpus", str(corpus), "--out", str(folder), *order, *TRAIN])
    return folder


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory):
    """The run with an index of two of its four sites, made in blocks of 300 tokens."""
    folder = tmp_path_factory.mktemp("indexed") / "run"
    shutil.copytree(trained, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(indexing, "BLOCK", 300)
        made = index_run(options(folder))
    assert made.new
    assert list(made.sites) == SITES
    return folder


def options(folder, **given):
    return settings.Index(**{"run": folder, "layer": (Site(2, "mlp_out"), Site(1)), "quiet": True, **given})


def stream(run, corpus):
    """What training read: activations of each site, and the labels."""
    model, documents = LanguageModel.load("tiny"), open_corpus(str(corpus)).split("train").shuffled(3)
    batches = list(ModelSource(model, documents, SITES, window=48, batch_size=4, tokens=2000))
    found = {site: torch.cat([batch[site].activations for batch in batches]) for site in SITES}
    return found, Labels.concatenate([batch[SITES[0]].labels for batch in batches])


def files(run):
    return {file.name: file.read_bytes() for file in sorted((run / FOLDER).iterdir())}


def same_index(a, b) -> None:
    """Every byte, but for the seconds; and of the nearest activations of each atom."""
    assert len({tuple((folder / str(site) / NEAREST).read_bytes() for site in SITES) for folder in (a, b)}) == 1
    first, second = files(a), files(b)
    records = [json.loads(each.pop("index.json")) for each in (first, second)]
    assert first == second
    assert {**records[0], "seconds": 0} == {**records[1], "seconds": 0}


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


def test_the_index_is_that_of_a_plain_loop(run, corpus):
    activations, labels = stream(run, corpus)
    for site in SITES:
        index, dictionary = CodeIndex.open(run, site), open_run(run).dictionary(site)
        code, error = dictionary.decompose(activations[site])
        starts, atoms, coefficients = index.codes_between(0, index.tokens)
        own = torch.arange(code.k) < code.count[:, None]
        assert np.array_equal(np.diff(starts), code.count.numpy())
        assert np.array_equal(atoms, code.indices[own].numpy())
        assert np.array_equal(coefficients, code.coefficients[own].numpy())
        assert np.array_equal(index.errors(0, index.tokens), error.float().numpy())
        assert (index.atoms, index.k) == (len(dictionary), dictionary.k)
        assert index.text.token_strings(0, index.tokens) == [label.token for label in labels]


def test_the_nearest_activations_of_each_atom_are_those_of_a_plain_loop(run, corpus):
    activations, labels = stream(run, corpus)
    names = {label.document for label in labels}
    for site in SITES:
        dictionary, x = open_run(run).dictionary(site), activations[site].double()
        cosines = dictionary.atoms.double() @ (x / x.norm(dim=1, keepdim=True)).T
        assert dictionary.nearest is not None
        assert not dictionary.is_massive(activations[site]).any()
        for atom, own in enumerate(dictionary.labels.document.tolist()):
            best = {
                name: max(cosines[atom, torch.from_numpy(labels.document == name)].tolist()) for name in names - {own}
            }
            expected = sorted((cosine for cosine in best.values() if cosine > 0), reverse=True)[:8]
            found = dictionary.nearest.of(atom)
            assert [cosine for _, cosine in found] == pytest.approx(expected, abs=1e-6)
            assert len({label.document for label, _ in found}) == len(found)
            for label, cosine in found:
                row = next(i for i, key in enumerate(labels.keys()) if key == label.key)
                assert cosine == pytest.approx(cosines[atom, row].item(), abs=1e-6)
                whole = labels[row]
                assert (label.token, label.token_id, label.char_start) == (
                    whole.token,
                    whole.token_id,
                    whole.char_start,
                )
                assert (label.before, label.after) == (whole.before[-BEFORE:], whole.after[:AFTER])


def test_an_index_without_the_nearest_activations_is_made_anew(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "layer_1" / NEAREST).unlink()
    assert index_run(options(tmp_path / "run")).new
    same_index(tmp_path / "run", run)


def test_the_index_of_an_older_itda_is_used_and_says_what_it_lacks(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    file = tmp_path / "run" / FOLDER / "index.json"
    record = json.loads(file.read_text())
    assert record.pop("nearest") == 8
    file.write_text(json.dumps(record))
    for site in SITES:
        (tmp_path / "run" / str(site) / NEAREST).unlink()
    text = " ".join(printed(capsys, "index", str(tmp_path / "run"), "--layer", "1", "--quiet").split())
    assert "It was there already" in text
    assert "without the nearest activations of each atom: to have them, remove" in text
    assert "older itda" not in printed(capsys, "index", str(run), "--layer", "1", "--quiet")


def test_the_tokens_are_those_that_the_run_read_in_its_order(run):
    text, read = CodeIndex.open(run, SITES[0]).text, read_tokens(run)
    assert text.tokens == len(read) == 2000
    assert [text.document(t) for t in range(0, 2000, 7)] == [read.documents[i] for i in read.document[::7]]
    assert [text.position(t) for t in range(2000)] == read.position.tolist()


def test_a_special_token_in_the_text_leaves_a_gap_in_the_positions(run):
    text = CodeIndex.open(run, SITES[0]).text
    together = [t for t in range(300) if text.window(t) == text.window(t + 1)]
    assert {text.position(t + 1) - text.position(t) for t in together} == {1, 2}


def test_bytes_of_an_emoji_spell_it(run):
    text = CodeIndex.open(run, SITES[0]).text
    pieces = text.token_strings(0, text.tokens)
    first = pieces.index("🙂")
    assert " ".join(str(text.partial(first + i)) for i in range(4)) == "F0 9F 99 82"
    assert text.partial(pieces.index("import")) is None


def test_an_atoms_own_token_is_the_atom_alone(run, corpus):
    activations, labels = stream(run, corpus)
    place = {key: i for i, key in enumerate(labels.keys())}
    for site in SITES:
        index, dictionary = CodeIndex.open(run, site), open_run(run).dictionary(site)
        assert len(dictionary) > 10
        for atom, key in enumerate(dictionary.labels.keys()):
            token = place[key]
            atoms, coefficients = index.codes(token)
            assert atoms[0] == atom
            assert coefficients[0] == pytest.approx(activations[site][token].norm().item(), rel=1e-5)
            assert index.errors(token, token + 1)[0] < 1e-6
            assert token in index.uses(atom)[0]


def test_started_again_it_says_that_the_index_is_there(run, capsys):
    before = {file: file.stat().st_mtime_ns for file in (run / FOLDER).iterdir()}
    text = printed(capsys, "index", str(run), "--layer", "1", "--quiet")
    assert "It was there already" in text
    assert {file: file.stat().st_mtime_ns for file in (run / FOLDER).iterdir()} == before


def test_the_table_and_the_json(trained, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "run")
    text = printed(capsys, "index", str(tmp_path / "run"), "--tokens", "500", "--quiet")
    assert "500 tokens in " in text
    assert all(f"\n{site} " in text for site in open_run(trained).sites)
    assert all(len(line) <= 80 for line in text.splitlines() if str(tmp_path) not in line)
    assert sorted(path.name for path in (tmp_path / "run").iterdir() if "index" in path.name) == [FOLDER]
    values = json.loads(printed(capsys, "index", str(tmp_path / "run"), "--tokens", "500", "--json"))
    assert (values["tokens"], values["new"], values["batch_size"], values["corpus_part"]) == (500, False, 4, "train")
    assert 0.3 < values["sites"]["layer_1"]["explained"] < 1
    assert values["sites"]["layer_1"]["codes"] == CodeIndex.open(tmp_path / "run", Site(1)).counts.sum()


def test_another_index_is_replaced_by_a_whole_one(run, corpus, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    other = tmp_path / "other.txt"
    other.write_text("The cat sat on the mat.\n" * 40)
    made = index_run(options(tmp_path / "run", corpus=str(other), layer=(Site(1),)))
    assert (made.new, made.record["corpus"], made.record["corpus_part"]) == (True, str(other), "all")
    index = CodeIndex.open(tmp_path / "run", Site(1))
    assert index.tokens == made.record["tokens"] < 2000  # all that there is
    assert "".join(index.text.token_strings(0, index.tokens)).startswith("The cat sat on the mat.\nThe")
    assert sorted(file.name for file in (tmp_path / "run" / FOLDER).iterdir()) == [
        "index.json",
        "layer_1.safetensors",
        "text.safetensors",
    ]


def test_the_index_of_a_dictionary_that_was_made_anew_is_made_anew(run, trained, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    for name in ("config.json", "atoms.safetensors", "labels.parquet"):
        shutil.copy(trained / "layer_2" / name, tmp_path / "run" / "layer_1" / name)
    (tmp_path / "run" / "layer_1" / NEAREST).unlink()
    made = index_run(options(tmp_path / "run", layer=(Site(1),)))
    assert made.new
    assert made.sites[Site(1)].atoms == len(open_run(trained).dictionary(Site(2)))


KILLED = """
import sys
from itda.explorer import indexing
indexing.BLOCK = 300
from itda.cli import main
main(["index", sys.argv[1], "--layer", "1,2.mlp_out", "--quiet"])
"""


def test_killed_again_and_again_it_gives_the_same_index(run, trained, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(folder)])
    waited = time.monotonic()
    while len(list((folder / PARTIAL).glob("part-*"))) < 2 and process.poll() is None:  # of 7; 192 tokens are a group
        assert time.monotonic() - waited < 120
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (folder / FOLDER).exists() or len(parts_of(folder / PARTIAL)) >= 2
    if not (folder / FOLDER).exists():  # it may have been faster than the signal
        if len(parts_of(folder / PARTIAL)) < 6:
            # Again, but in this process: another takes seconds to begin.
            with pytest.MonkeyPatch.context() as patch:
                interrupted(folder, 1, patch)
        (folder / PARTIAL / "whole").mkdir(exist_ok=True)
        (folder / PARTIAL / "whole" / "text.safetensors").write_bytes(b"cut short")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(indexing, "BLOCK", 300)
            index_run(options(folder))
    same_index(folder, run)
    assert not (folder / PARTIAL).exists()


class Stop(Exception):  # noqa: N818
    pass


def interrupted(folder, after, patch, **given):
    """Index until `after` parts are written."""
    number = iter(range(after + 1))
    real = indexing.write_part

    def write_part(*arguments):
        if next(number) == after:
            raise Stop
        return real(*arguments)

    patch.setattr(indexing, "BLOCK", 300)
    patch.setattr(indexing, "write_part", write_part)
    with pytest.raises(Stop):
        index_run(options(folder, **given))
    patch.setattr(indexing, "write_part", real)


def test_it_goes_on_without_the_model_for_what_is_done(run, trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path / "run")
    interrupted(tmp_path / "run", 4, monkeypatch)
    assert len(parts_of(tmp_path / "run" / PARTIAL)) == 4
    asked = []
    real = LanguageModel.activations
    monkeypatch.setattr(LanguageModel, "activations", lambda *a: asked.append(1) or real(*a))
    index_run(options(tmp_path / "run"))
    assert 0 < len(asked) <= 2000 / 170 - 4  # a group is up to 4 * 47 tokens
    same_index(tmp_path / "run", run)


def test_streamed_it_is_the_same_index(run, trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path / "run")
    monkeypatch.setattr(indexing, "BLOCK", 300)
    asked = []
    real = StreamedModel.harvest
    monkeypatch.setattr(StreamedModel, "harvest", lambda *a: asked.append(len(a[1])) or real(*a))
    index_run(options(tmp_path / "run", stream=True))
    assert len(asked) == 1  # all groups in one flight: sites came one after the other
    assert asked[0] > 10
    same_index(tmp_path / "run", run)


def test_streamed_it_goes_on_with_the_parts_of_a_model_in_memory(run, trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path / "run")
    interrupted(tmp_path / "run", 3, monkeypatch)
    monkeypatch.setattr(indexing, "HELD_BYTES", 400 * (2 * (8 * 6 + 12)))  # flights of two groups
    index_run(options(tmp_path / "run", stream=True, model_memory=2**30))
    same_index(tmp_path / "run", run)


def test_parts_that_were_made_otherwise_are_not_used(run, trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path / "run")
    interrupted(tmp_path / "run", 2, monkeypatch, batch_size=3)
    index_run(options(tmp_path / "run"))
    same_index(tmp_path / "run", run)


def test_a_corpus_that_has_changed_is_refused(trained, corpus, capsys, tmp_path):
    folder, texts = tmp_path / "run", tmp_path / "corpus"
    shutil.copytree(trained, folder)
    shutil.copytree(corpus, texts)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "corpus": str(texts)}))
    (texts / "00.py").write_text("changed")
    assert "has changed since the run was made" in refused(capsys, "index", str(folder), "--quiet")
    assert not (folder / FOLDER).exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layer", "5"], "the run has no layer 5: use one of"),
        (["--layer", "1,x"], "no site 'x'"),
        (["--tokens", "none"], "is not a number of tokens"),
        (["--batch-size", "-1"], "at least 1, or 0"),
        (["--workers", "-1"], "it must be at least 0"),
        (["--remote", "--stream"], "leave out --stream, --workers and --ray"),
        (["--corpus", "./nothing.txt"], "no file or folder"),
    ],
)
def test_bad_input_is_one_line(trained, capsys, arguments, message):
    assert message in refused(capsys, "index", str(trained), *arguments)
    assert not (trained / FOLDER).exists()


def test_a_run_without_its_atoms_is_one_line(trained, capsys, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "layer_1" / "atoms.safetensors").unlink()
    assert "damaged or incomplete" in refused(capsys, "index", str(tmp_path / "run"))


def test_the_bar_counts_every_token_once(trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path / "run")
    counted = []

    class Progress:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def update(self, n, /):
            counted.append(n)

        def set_postfix_str(self, s, /):
            pass

    interrupted(tmp_path / "run", 3, monkeypatch)
    index_run(options(tmp_path / "run"), lambda name, tokens: Progress())
    assert sum(counted) == 2000
