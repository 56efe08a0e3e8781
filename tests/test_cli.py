"""The command line, run in this process on the bundled model; bad input ends in one line and status 2."""

import io
import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from itda import ITDA
from itda.cli import main
from itda.config import Train
from itda.files import FULL, RUN_FORMAT
from itda.parsing import parse_bytes
from itda.recipes import train
from itda.recipes.trainers import LocalTrainers
from itda.sources import passes

TRAIN = ["--mode", "paper", "--order", "corpus", "--k", "8", "--threshold", "0.4", "--tokens", "2k", "--window", "64"]
TRAIN += ["--quiet"]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """Thirty short documents, some of them held out."""
    folder = tmp_path_factory.mktemp("corpus")
    for i in range(30):
        (folder / f"{i:02}.py").write_text(
            f"import os\n\n\ndef f_{i}(path):\n    return os.path.join(path, '{i}')\n" * 5
        )
    return folder


@pytest.fixture(scope="session")
def run(corpus, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    main(["train", "tiny", "--layers", "2,4", "--corpus", str(corpus), "--out", str(folder), *TRAIN])
    return folder


def refused(capsys, *arguments: str) -> str:
    """Run a command that must fail; returns its one line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    output, error = capsys.readouterr()
    assert stop.value.code == 2
    assert output == ""
    assert error.startswith("itda: ")
    assert error.count("\n") == 1
    return error


def printed(capsys, *arguments: str) -> str:
    capsys.readouterr()
    main(list(arguments))
    return capsys.readouterr().out


def test_training_twice_gives_the_same_labels_and_atoms_to_the_bit(run, corpus, tmp_path):
    main(["train", "tiny", "--layers", "2,4", "--corpus", str(corpus), "--out", str(tmp_path / "again"), *TRAIN])
    for layer in ("layer_2", "layer_4"):
        first, second = ITDA.from_pretrained(run / layer), ITDA.from_pretrained(tmp_path / "again" / layer)
        assert first.labels.keys() == second.labels.keys()
        assert torch.equal(first.atoms, second.atoms)
        assert len(first) > 5


def test_without_out_each_run_gets_the_next_free_folder(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        text = printed(capsys, "train", "tiny", "--layers", "0", "--corpus", str(corpus), *TRAIN)
        assert text.startswith(f"runs/tiny-{number}: ")
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["tiny-1", "tiny-2"]


def test_a_run_folder_says_what_made_it(run):
    record = json.loads((run / "run.json").read_text())
    assert record["format"] == RUN_FORMAT
    assert record["tokens"] == 2000
    assert record["settings"]["threshold"] == 0.4
    assert set(record["versions"]) >= {"itda", "torch", "transformers", "python"}
    assert len(record["fingerprint"]) == 64
    dictionary = ITDA.from_pretrained(run / "layer_4")
    assert dictionary.provenance["fingerprint"] == record["fingerprint"]
    assert (dictionary.k, dictionary.threshold, str(dictionary.site)) == (8, 0.4, "layer_4")


def test_no_atom_comes_from_a_held_out_document(run, corpus):
    from itda.sources.corpora.corpus import is_held_out

    held_out = {file.name for file in corpus.iterdir() if is_held_out(file.name)}
    assert held_out
    assert not held_out & set(ITDA.from_pretrained(run / "layer_4").labels.document)


def test_several_streams_make_one_dictionary_each(corpus, tmp_path):
    streams = ["--streams", "mlp_out,attn_out"]
    main(["train", "tiny", "--layers", "1", "--corpus", str(corpus), "--out", str(tmp_path / "r"), *streams, *TRAIN])
    assert len(ITDA.from_pretrained(tmp_path / "r" / "layer_1.mlp_out")) > 0
    assert len(ITDA.from_pretrained(tmp_path / "r" / "layer_1.attn_out")) > 0


def test_mode_reference_follows_the_batch_size_and_keeps_every_position(corpus, tmp_path):
    arguments = ["train", "tiny", "--layers", "2", "--corpus", str(corpus), "--mode", "reference", "--quiet"]
    arguments += ["--threshold", "0.001", "--k", "8", "--window", "64", "--tokens", "1k"]
    for size in ("2", "8"):
        main([*arguments, "--batch-size", size, "--out", str(tmp_path / size)])
    first, second = (ITDA.from_pretrained(tmp_path / size / "layer_2") for size in ("2", "8"))
    assert first.mode == "reference"
    assert -1 in first.labels.position  # the special token before the text, which the released script takes too
    assert first.labels.keys() != second.labels.keys()


def test_a_dictionary_named_as_a_run_is_called_what_it_is(run, capsys):
    assert "is one dictionary, not a run: open it in Python, itda.ITDA" in refused(capsys, "info", str(run / "layer_4"))


def test_info_shows_the_dictionaries(run, capsys):
    text = printed(capsys, "info", str(run))
    assert "layer_2" in text
    assert "layer_4" in text
    assert all(len(line) <= 80 for line in text.splitlines() if str(run) not in line)
    values = json.loads(printed(capsys, "info", str(run), "--json"))
    assert values["dictionaries"]["layer_4"]["atoms"] == len(ITDA.from_pretrained(run / "layer_4"))


def test_decompose_shows_each_token_with_its_atoms(run, capsys):
    text = printed(capsys, "decompose", str(run), "import os\nprint(os", "--layer", "4")
    assert "explained" in text
    assert "«import»" in text
    values = json.loads(printed(capsys, "decompose", str(run), "import os", "--layer", "4", "--json"))
    assert [token["label"]["token"] for token in values["tokens"]] == ["import", " os"]
    for token in values["tokens"]:
        assert 0 <= token["explained"] <= 1
        assert 1 <= len(token["atoms"]) <= 8
    last = json.loads(printed(capsys, "decompose", str(run), "import os", "--layer", "4", "--token", "-1", "--json"))
    assert last["tokens"] == values["tokens"][-1:]


def test_decompose_shows_the_largest_atoms_first_in_three_digits_and_keeps_the_order_of_picking_in_json(run, capsys):
    given = ["decompose", str(run), "import os\nprint(os", "--layer", "4", "--token", "2", "--top", "8"]
    text = printed(capsys, *given)
    assert "the largest first" in text
    rows = [line.split() for line in text.splitlines() if re.match(r"^ +[+-]\d", line)]
    (token,) = json.loads(printed(capsys, *given, "--json"))["tokens"]
    picked = [(use["atom"], use["coefficient"]) for use in token["atoms"]]
    assert [int(row[1]) for row in rows] == [atom for atom, _ in sorted(picked, key=lambda use: -abs(use[1]))]
    assert len(rows) > 2
    for shown, *_ in rows:
        assert len(shown.lstrip("+-0.").replace(".", "")) >= 3
        assert any(float(shown) == pytest.approx(value, rel=0.006) for _, value in picked)


def test_a_prompt_of_the_training_corpus_is_its_own_atom(run, corpus, capsys):
    dictionary = ITDA.from_pretrained(run / "layer_4")
    label = next(label for label in dictionary.labels if label.before == "")
    values = json.loads(printed(capsys, "decompose", str(run), label.token + label.after, "--layer", "4", "--json"))
    first = values["tokens"][0]
    assert first["explained"] == pytest.approx(1.0, abs=1e-6)
    assert first["atoms"][0]["label"]["document"] == label.document
    assert len(first["atoms"]) == 1


def test_evaluate_measures_held_out_tokens_and_keeps_the_figures(run, capsys):
    values = json.loads(printed(capsys, "evaluate", str(run), "--tokens", "100", "--json", "--quiet"))
    for site, measured in values["sites"].items():
        assert measured["tokens"] == 100
        assert measured["ce_clean"] < measured["ce_spliced"] < measured["ce_zero"]
        assert 0 < measured["ce_loss_score"] < 1
        assert measured["kl"] > 0
        assert 0 < measured["fvu"] < 1
        kept = json.loads((run / site / "metrics.json").read_text())
        assert kept["fvu"] == measured["fvu"]
        assert kept["verdict"] == measured["verdict"]
        assert 3 <= len(measured["verdict"]) <= 4
        assert "of the variance unexplained" in " ".join(measured["verdict"])
        assert set(kept["headroom"]) == {"tokens", "fvu", "fvu_double_k", "fvu_half_atoms"}
    shown = printed(capsys, "evaluate", str(run), "--tokens", "100", "--quiet")
    assert "fvu" in shown
    for site in values["sites"]:
        assert f"\n\n{site}\n" in shown
    assert all(len(line) <= 80 for line in shown.splitlines())


def test_evaluate_takes_about_as_long_as_training_unless_told_otherwise(run, capsys, monkeypatch):
    monkeypatch.setattr(passes, "LEAST", 90)
    monkeypatch.setattr(passes, "MOST", 110)
    capsys.readouterr()
    main(["evaluate", str(run), "--json"])
    output, errors = capsys.readouterr()
    tokens = {measured["tokens"] for measured in json.loads(output)["sites"].values()}
    assert len(tokens) == 1
    (number,) = tokens
    assert 90 <= number <= 110
    assert f"evaluating on {number} tokens, about as much work as training was (--tokens sets" in errors


APART = """
import runpy, sys
run = sys.argv[1]
for sys.argv in (["itda", "info", run, "--quiet"], ["itda", "evaluate", run, "--tokens", "100", "--json"]):
    runpy.run_module("itda", run_name="__main__")  # python -m itda
    for stream in (sys.stdout, sys.stderr):
        print("\\f", end="", file=stream, flush=True)
"""


def test_json_is_the_only_thing_on_standard_output_and_quiet_shows_no_progress(run):
    """In a process of its own, whose imports take most of the time: one for both."""
    result = subprocess.run([sys.executable, "-c", APART, str(run)], capture_output=True, text=True, check=True)
    output, errors = result.stdout.split("\f"), result.stderr.split("\f")
    assert "layer_4" in output[0]
    assert errors[0] == ""
    assert json.loads(output[1])["sites"]


def test_with_little_memory_or_fast_on_a_cpu_the_atoms_are_the_same_and_the_log_says_what_fits(run, tmp_path):
    folder = tmp_path / "small"
    limit = str(2**20)
    limits = ["--memory", limit, "--fast", "--threshold", "0.001"]
    arguments = ["train", "tiny", "--layers", "2", "--corpus", "python-docs", "--quiet", "--tokens", "1500", "--k", "4"]
    arguments += ["--mode", "paper", "--order", "corpus"]
    main([*arguments, "--out", str(folder), *limits])
    main([*arguments, "--out", str(tmp_path / "large"), "--threshold", "0.001"])
    records = [json.loads((path / "run.json").read_text()) for path in (folder, tmp_path / "large")]
    atoms = [ITDA.from_pretrained(path / "layer_2").atoms for path in (folder, tmp_path / "large")]
    assert torch.equal(*atoms)
    assert records[1]["gram_rows"] == {"layer_2": "all"}
    assert 0 < records[0]["gram_rows"]["layer_2"] < len(atoms[0])
    assert (records[0]["settings"]["memory"], records[0]["settings"]["fast"]) == (limit, True)
    assert not (run / "log.jsonl").read_text() or "gram_rows" in json.loads(
        (run / "log.jsonl").read_text().splitlines()[0]
    )


@pytest.mark.parametrize("number", FULL)
def test_a_full_disk_anywhere_is_one_line(monkeypatch, capsys, number):
    def full(_options):
        raise OSError(number, os.strerror(number), "/data/x")

    monkeypatch.setattr("itda.cli._dispatch", full)
    with pytest.raises(SystemExit) as stop:
        main(["info", "run"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("itda: no space (")
    assert error.endswith(f"{os.strerror(number)}: '/data/x'): free some, and run the command again\n")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "size"),
    [("8G", 8 * 2**30), ("512M", 2**29), ("1.5g", 3 * 2**29), ("8GB", 2**33), ("4GiB", 2**32), ("8000000", 8000000)],
)
def test_sizes_of_memory_are_read(text, size):
    assert parse_bytes(text) == size


BAD_TRAINING = {
    "an unknown model": (["nobody/nothing"], {}, "the Hub cannot be reached"),
    "a missing model folder": (["./nothing"], {}, "no folder './nothing'"),
    "a layer out of range": (["tiny"], {"--layers": "2,9"}, "the model has layers 0 to 5"),
    "layers that are none": (["tiny"], {"--layers": "two"}, "write it as 3,4-6"),
    "an unknown stream": (["tiny"], {"--streams": "resid"}, "use resid_post, mlp_out, attn_out"),
    "a missing corpus": (["tiny"], {"--corpus": "./nothing.txt"}, "no file or folder"),
    "a corpus that is nowhere": (["tiny"], {"--corpus": "nobody/nothing"}, "the Hub cannot be reached"),
    "a threshold of 1": (["tiny"], {"--threshold": "1.0"}, "below 1"),
    "a threshold of 0": (["tiny"], {"--threshold": "0"}, "below 1"),
    "a threshold in another unit": (["tiny"], {"--mode": "reference"}, "2 (1 - cos) / d_model"),
    "k of 0": (["tiny"], {"--k": "0"}, "at least 1"),
    "no tokens": (["tiny"], {"--tokens": "0"}, "write it as 50000, 50k or 1.5M"),
    "tokens that are no number": (["tiny"], {"--tokens": "many"}, "write it as 50000, 50k or 1.5M"),
    "a window beyond the context": (["tiny"], {"--window": "300"}, "the model reads at most 256"),
    "a window without room": (["tiny"], {"--window": "1"}, "use at least 2"),
    "memory that is no size": (["tiny"], {"--memory": "much"}, "write it as 8G or 512M"),
    "too little memory": (["tiny"], {"--memory": "100k"}, "at least 1M"),
    "an empty batch": (["tiny"], {"--batch-size": "0"}, "at least 1"),
}


@pytest.mark.parametrize("case", BAD_TRAINING)
def test_bad_input_to_train_is_one_line_status_2_and_nothing_written(case, corpus, tmp_path, capsys):
    model, changed, remedy = BAD_TRAINING[case]
    settings = {"--layers": "2", "--corpus": str(corpus), "--tokens": "1k", "--out": str(tmp_path / "run"), **changed}
    error = refused(capsys, "train", *model, *(word for pair in settings.items() for word in pair))
    assert remedy in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_growth_on_a_gpu_that_is_not_there_is_refused_and_nothing_is_written(corpus, tmp_path, capsys):
    out = tmp_path / "run"
    asked = ["train", "tiny", "--layers", "2", "--corpus", str(corpus), "--out", str(out), *TRAIN]
    assert "leave it at auto" in refused(capsys, *asked, "--grow-on", "gpu")
    assert not (out / "run.json").exists()


def test_an_unreadable_or_empty_corpus_is_refused(tmp_path, capsys):
    (tmp_path / "bad.txt").write_bytes(b"caf\xe9")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "folder").mkdir()
    for name, remedy in [("bad.txt", "mend it or leave it out"), ("empty.txt", "no token"), ("folder", "name one")]:
        arguments = ["train", "tiny", "--layers", "2", "--corpus", str(tmp_path / name), "--out", str(tmp_path / "run")]
        error = refused(capsys, *arguments, "--quiet")
        assert remedy in error
        assert name in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.txt", "empty.txt", "folder"]


def test_a_run_folder_that_exists_is_refused_and_kept(run, corpus, capsys):
    before = (run / "run.json").read_bytes()
    error = refused(capsys, "train", "tiny", "--layers", "2", "--corpus", str(corpus), "--out", str(run))
    assert "exists already" in error
    assert (run / "run.json").read_bytes() == before


def test_a_missing_foreign_or_truncated_run_folder_is_refused(tmp_path, capsys):
    assert "no run folder" in refused(capsys, "info", str(tmp_path / "nowhere"))
    assert "no run.json" in refused(capsys, "info", str(tmp_path))
    (tmp_path / "run.json").write_text('{"format": "some')
    assert "cut short" in refused(capsys, "evaluate", str(tmp_path))
    (tmp_path / "run.json").write_text('{"format": "another"}')
    assert "not an itda-run file" in refused(capsys, "decompose", str(tmp_path), "text")
    (tmp_path / "run.json").write_text('{"format": "itda-run", "format_version": 1, "sites": ["layer_2"]}')
    assert "lacks its layer_2" in refused(capsys, "info", str(tmp_path))


def test_bad_input_to_decompose_is_refused(run, capsys):
    assert "use one of 2, 4" in refused(capsys, "decompose", str(run), "text", "--layer", "3")
    assert "no site" in refused(capsys, "decompose", str(run), "text", "--layer", "x")
    assert "no token 9" in refused(capsys, "decompose", str(run), "import os", "--token", "9")
    assert "no text" in refused(capsys, "decompose", str(run), "  ")
    assert "at least 1 atom" in refused(capsys, "decompose", str(run), "text", "--top", "0")


def test_a_text_longer_than_the_window_is_decomposed_and_longer_than_the_context_refused(run, capsys):
    values = json.loads(printed(capsys, "decompose", str(run), "x = 1\n" * 30, "--json"))
    assert 63 < len(values["tokens"]) <= 255
    error = refused(capsys, "decompose", str(run), "x = 1\n" * 200)
    assert "the model reads at most 255: shorten it" in error


def test_evaluating_on_a_changed_corpus_is_refused(corpus, tmp_path, capsys):
    import shutil

    copy = tmp_path / "corpus"
    shutil.copytree(corpus, copy)
    main(["train", "tiny", "--layers", "2", "--corpus", str(copy), "--out", str(tmp_path / "run"), *TRAIN])
    (copy / "00.py").write_text("changed")
    assert "has changed since the run was made" in refused(capsys, "evaluate", str(tmp_path / "run"), "--quiet")
    assert json.loads(
        printed(capsys, "evaluate", str(tmp_path / "run"), "--corpus", str(copy), "--tokens", "50", "--json")
    )


def test_the_demo_never_removes_a_run_that_is_not_its_own(run, capsys):
    before = (run / "run.json").read_bytes()
    assert "not a run of the demo" in refused(capsys, "demo", "--out", str(run))
    assert (run / "run.json").read_bytes() == before


def test_the_demo_tells_the_whole_story_and_takes_its_own_folder_again(tmp_path, capsys, monkeypatch):
    for name in ("DEMO_TOKENS", "DEMO_HELD_OUT", "DEMO_USES", "DEMO_INDEXED"):
        monkeypatch.setattr(f"itda.demo.{name}", 500)
    text = printed(capsys, "demo", "--out", str(tmp_path / "demo"), "--quiet")
    for part in ("1. Train", "2. Evaluate", "CE loss score", "3. Decompose", "4. Atoms", "Next:"):
        assert part in text
    assert all(len(line) <= 80 for line in text.splitlines() if str(tmp_path) not in line)
    values = json.loads(printed(capsys, "demo", "--out", str(tmp_path / "demo"), "--quiet", "--json"))
    assert len(values["prompts"]) == len(values["uses"]) == 3
    assert values["tokens"] == 500


def test_usage_errors_have_status_2(capsys):
    for arguments in ([], ["fly"], ["train"], ["train", "tiny", "--layers", "2", "--k", "x"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1", "utf-8"])
def test_signs_that_a_terminal_lacks_are_replaced_and_json_stays_whole(run, monkeypatch, encoding):
    """As with PYTHONIOENCODING: cp1252 has no sign for a newline, ASCII none of the quotation marks either."""
    written = {}
    for more in ([], ["--json"]):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        main(["decompose", str(run), "a\nb", "--layers", "4", *more])
        stream.flush()
        written[len(more)] = stream.buffer.getvalue().decode(encoding)
    monkeypatch.undo()
    tokens = json.loads(written[1])["tokens"]
    assert "".join(token["label"]["token"] for token in tokens) == "a\nb"
    marks = {"ascii": "</>", "cp1252": "«/»", "latin-1": "«/»", "utf-8": "«⏎»"}
    assert marks[encoding] in written[0]
    assert "explained" in written[0]
    lines = written[0].splitlines()
    assert max(len(line) for line in lines if str(run) not in line and "http" not in line) <= 80


def test_seconds_of_a_run_count_its_refinement_once(corpus, tmp_path, monkeypatch):
    """Time passes in refinement alone."""

    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

    clock, finish = Clock(), LocalTrainers.finish

    def slow(self, *given):
        clock.now += 100.0
        return finish(self, *given)

    monkeypatch.setattr(sys.modules["itda.recipes.training_pass"], "time", clock)
    monkeypatch.setattr(LocalTrainers, "finish", slow)
    arguments = ["train", "tiny", "--layers", "2", "--corpus", str(corpus), "--out", str(tmp_path / "run"), *TRAIN]
    main(arguments)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["seconds"] == 100.0


def test_what_was_logged_can_be_read_while_the_run_goes_on(tmp_path):
    from itda.config import Train
    from itda.recipes.run_in_progress import RunInProgress

    with RunInProgress.begun(tmp_path / "run", Train()) as unfinished, unfinished.log(0) as log:
        for tokens in (1, 2):
            log(json.dumps({"tokens": tokens}) + "\n")
            lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
            assert json.loads(lines[-1]) == {"tokens": tokens}


def test_train_says_every_ten_seconds_how_far_it_is_where_there_is_no_terminal(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("itda.progress.EVERY_S", 0.0)
    train = ["train", "tiny", "--layers", "2", "--corpus", str(corpus), *TRAIN]
    main([*train[:-1], "--out", str(tmp_path / "run")])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("itda: train ")]
    assert re.fullmatch(r"itda: train [\d.k]+ of 2.0k tokens, [\d,.]+/s, 2:\d+ atoms(, \w+ left)?", lines[-2])
    assert re.fullmatch(r"itda: train 2.0k tokens in \d+s", lines[-1])
    main([*train, "--out", str(tmp_path / "quiet")])
    assert capsys.readouterr().err == ""


def test_a_reader_that_goes_away_is_no_error_in_help_either(tmp_path):
    command = f"{sys.executable} -m itda.cli train --help | head -1"
    made = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    assert (made.stdout.count("\n"), made.stderr) == (1, "")


def test_the_bar_of_refinement_ends_where_refinement_does(corpus, tmp_path):
    counted = {}

    @contextmanager
    def bar(name, tokens):
        counted[name] = [tokens, 0]

        class Counter:
            def update(self, n):
                counted[name][1] += n

            def set_postfix_str(self, s):
                pass

        yield Counter()

    options = Train(model="tiny", layers=(2, 4), corpus=str(corpus), out=tmp_path / "run", tokens=1_000, k=8, window=64)
    train(replace(options, threshold=0.4, mode="best", recipe=1, offset=100, refine=2), bar)
    assert counted["refine"] == [4000, 4000]
    assert counted["train"] == [1000, 1000]
