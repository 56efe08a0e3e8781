"""`itda compare` through the command line: real runs of tiny models, what is refused, and what is shown."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sources.models.families import save_small_llama
from test_cli import printed, refused

from itda import ITDA
from itda.cli import main
from itda.core.batch import Site
from itda.core.similarity.overlap import OVERLAPS
from itda.recipes.compare import match
from itda.sources.models.transformers import LanguageModel
from itda.store.dictionaries import read_tokens

SETTINGS = ["--layers", "1-3", "--k", "4", "--threshold", "0.2", "--tokens", "1500", "--window", "64", "--quiet"]
SETTINGS += ["--mode", "paper", "--order", "corpus"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for i in range(30):
        body = f'def f_{i}(path, n={i}):\n    """Return the näme of {i}."""\n    return path + "{i}.txt" * n\n'
        (folder / f"{i:02}.py").write_text("import os\n\n\n" + body * 3, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory) -> Path:
    """a; again: the same; batch: at another batch size; longer: more tokens; layers: fewer layers; other: another
    model with another tokenizer."""
    folder = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)
    save_small_llama(folder / "model")
    for name, model, more in (
        ("a", "tiny", []),
        ("again", "tiny", []),
        ("batch", "tiny", ["--batch-size", "3"]),
        ("longer", "tiny", ["--tokens", "2500"]),
        ("layers", "tiny", ["--layers", "2"]),
        ("other", str(folder / "model"), []),
    ):
        main(["train", model, "--corpus", str(corpus), "--out", str(folder / name), *SETTINGS, *more])
    return folder


def values(capsys, *arguments: object) -> dict:
    return json.loads(printed(capsys, "compare", *map(str, arguments), "--json"))


def test_a_run_with_itself_and_made_again_is_exactly_1_in_every_layer(runs, capsys):
    for pair in (("a", "again"), ("a", "a")):
        (found,) = values(capsys, *(runs / name for name in pair))["pairs"]
        assert (found["kind"], found["differences"]) == ("repetition", [])
        assert set(found["same_site"]) == {"layer_1", "layer_2", "layer_3"}
        for site in found["same_site"].values():
            assert [site[name] for name in (*OVERLAPS, "matched")] == [1.0] * 6
        assert [each["accuracy"] for each in found["best_match"].values()] == [1.0] * 5


def test_another_batch_size_is_the_noise_floor_shown_beside_the_index(runs, capsys):
    found = values(capsys, runs / "a", runs / "batch")["pairs"][0]
    assert (found["kind"], found["differences"]) == ("noise floor", ["batch_size: 8 and 3"])
    assert all(site["jaccard"] >= 0.99 and site["weighted"] >= 0.99 for site in found["same_site"].values())
    shown = printed(capsys, "compare", *(str(runs / name) for name in ("a", "other", "batch")))
    assert "floor: weighted, of a run with itself" in shown
    rows = [line for line in shown.splitlines() if line.startswith("layer_1")]
    assert any(line.split()[-1] == "1.000" for line in rows)


def test_the_noise_floor_can_be_made_by_compare_itself(runs, capsys):
    first, made = values(capsys, runs / "a", runs / "other", "--noise-floor", "--quiet")["pairs"]
    assert (first["kind"], made["kind"]) == ("models", "noise floor")
    assert made["b"].endswith("at --batch-size 7")
    assert all(site["jaccard"] >= 0.99 for site in made["same_site"].values())


def test_a_longer_run_agrees_where_both_have_read(runs, capsys):
    (found,) = values(capsys, runs / "a", runs / "longer")["pairs"]
    assert found["tokens"] == 1500
    assert found["shares"] == [1.0, pytest.approx(0.6)]
    assert all(site["jaccard"] == site["weighted"] == 1 for site in found["same_site"].values())


def test_different_tokenizers_are_matched_by_end_offset_with_the_share_that_can_match(runs, capsys):
    (found,) = values(capsys, runs / "a", runs / "other")["pairs"]
    assert found["matched_by"] == "end offset"
    a, b = (read_tokens(runs / name) for name in ("a", "other"))
    left, right = ({(t.documents[d], int(e)) for d, e in zip(t.document, t.char_end, strict=True)} for t in (a, b))
    assert found["tokens"] == len(left & right)
    # Pieces of one character end at one place.
    inside = [(a.documents[d], int(e)) in right for d, e in zip(a.document, a.char_end, strict=True)]
    assert found["shares"][0] == pytest.approx(np.mean(inside))
    labels = [ITDA.from_pretrained(runs / name / "layer_2").labels for name in ("a", "other")]
    sets = [{(d, e) for d, _, e in each.keys()} & left & right for each in labels]  # noqa: SIM118
    wanted = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
    assert found["same_site"]["layer_2"]["jaccard"] == pytest.approx(wanted)
    shown = printed(capsys, "compare", str(runs / "a"), str(runs / "other"))
    assert f"{found['shares'][0]:.1%} of those of a" in " ".join(shown.split())
    assert "as tokenizers differ" in " ".join(shown.split())


def test_jaccard_is_that_of_the_labels_as_they_are(runs, capsys):
    (found,) = values(capsys, runs / "a")["pairs"]
    models = [ITDA.from_pretrained(runs / "a" / f"layer_{i}") for i in (1, 2, 3)]
    sets = [set(model.labels.keys()) for model in models]
    wanted = [[len(x & y) / len(x | y) for y in sets] for x in sets]
    assert np.allclose(found["matrices"]["jaccard"], wanted)
    union = set().union(*sets)
    assert found["union"]["atoms"] == [len(union)] * 2


def test_one_run_alone_prints_the_matrix_of_its_sites_and_the_nearest_other_one_of_each(runs, capsys):
    (found,) = values(capsys, runs / "a")["pairs"]
    matrix = np.array(found["matrices"]["weighted"])
    shown = printed(capsys, "compare", str(runs / "a"))
    rows = [line.split() for line in shown.splitlines() if line[:2] in ("1 ", "2 ", "3 ")]
    assert rows[:3] == [[str(n + 1), *(f"{value:.3f}" for value in matrix[n])] for n in range(3)]
    np.fill_diagonal(matrix, -1)
    assert rows[3:] == [[str(n + 1), str(matrix[n].argmax() + 1), f"{matrix[n].max():.3f}"] for n in range(3)]
    assert "adjusted" not in shown


def test_only_layers_that_both_have_stand_side_by_side_and_all_are_matched(runs, capsys):
    (found,) = values(capsys, runs / "a", runs / "layers")["pairs"]
    assert list(found["same_site"]) == ["layer_2"]
    assert found["best_match"]["weighted"]["of"] == {f"layer_{i}": ["layer_2"] for i in (1, 2, 3)}


def test_runs_without_a_layer_in_common_have_a_dash_for_what_is_not_known(runs, corpus, capsys, tmp_path):
    main(["train", "tiny", "--corpus", str(corpus), "--out", str(tmp_path / "top"), *SETTINGS, "--layers", "4"])
    names = [str(folder) for folder in (runs / "layers", tmp_path / "top", runs / "a")]
    assert values(capsys, *names)["pairs"][0]["best_match"]["weighted"]["accuracy"] is None
    shown = printed(capsys, "compare", *names)
    assert "nan" not in shown
    rows = [line.split() for line in shown.splitlines() if line.endswith(" -")]
    assert [row[-5:-2] for row in rows] == [["-"] * 3] * 2


def test_of_several_best_matches_each_gets_its_share():
    sites = [Site(0), Site(1)]
    found = match(sites, sites, np.array([[0.5, 0.5], [0.1, 0.2]]))
    assert found.best[Site(0)] == sites
    assert found.accuracy == 0.75


def test_the_table_is_80_columns_wide(runs, capsys, monkeypatch):
    monkeypatch.chdir(runs)
    shown = printed(capsys, "compare", "a", "other", "batch", "again")
    assert max(map(len, shown.splitlines())) <= 80
    shown = printed(capsys, "compare", "a", "other")
    assert max(map(len, shown.splitlines())) <= 80


def test_a_heat_map_is_written_as_png_and_svg_the_same_each_time(runs, capsys, tmp_path):
    for name in ("one", "two"):
        printed(capsys, "compare", str(runs / "a"), str(runs / "other"), "--out", str(tmp_path / name))
    one, two = tmp_path / "one", tmp_path / "two"
    assert (one / "overlap.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (one / "overlap.svg").read_bytes()
    assert (one / "overlap.svg").read_bytes() == (two / "overlap.svg").read_bytes()
    assert json.loads((one / "compare.json").read_text())["pairs"][0]["tokens"] > 0
    assert "exists already" in refused(capsys, "compare", str(runs / "a"), "--out", str(one))


def test_pictures_without_matplotlib_name_the_extra(runs, capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    assert "itda[plots]" in refused(capsys, "compare", str(runs / "a"), "--out", str(tmp_path / "pictures"))
    assert not (tmp_path / "pictures").exists()


def test_what_cannot_be_compared_is_refused_with_the_reason(runs, corpus, capsys, tmp_path):
    a = str(runs / "a")
    assert "name one or more run folders" in refused(capsys, "compare")
    assert "no run folder" in refused(capsys, "compare", a, str(tmp_path / "nothing"))
    other = tmp_path / "corpus"
    shutil.copytree(corpus, other)
    (other / "00.py").write_text("x = 1\n")
    for name, where, more in (("text", other, []), ("window", corpus, ["--window", "32"])):
        main(["train", "tiny", "--corpus", str(where), "--out", str(tmp_path / name), *SETTINGS, *more])
    assert "on different corpora" in refused(capsys, "compare", a, str(tmp_path / "text"))
    assert "different windows (64; 32)" in refused(capsys, "compare", a, str(tmp_path / "window"))
    for name, change in (("old", Path.unlink), ("cut", lambda path: path.write_bytes(path.read_bytes()[:50]))):
        shutil.copytree(a, tmp_path / name)
        change(tmp_path / name / "tokens.parquet")
        assert "train" in refused(capsys, "compare", a, str(tmp_path / name))


def test_modes_best_and_reference_can_be_compared_with_their_differences_told(runs, corpus, capsys, tmp_path):
    best = ["--mode", "best", "--atoms", "60", "--layers", "2", "--k", "4", "--tokens", "1500", "--window", "64"]
    reference = ["--mode", "reference", "--threshold", "0.001", "--layers", "2", "--k", "4", "--window", "64"]
    for name, more in (("best", best), ("reference", reference)):
        main(["train", "tiny", "--corpus", str(corpus), "--out", str(tmp_path / name), "--quiet", *more])
    found = values(capsys, runs / "a", tmp_path / "best")["pairs"][0]
    assert "mode: paper and best" in found["differences"]
    # Its documents are in another order, so that the two have not read the same.
    read = read_tokens(runs / "a")
    keys = {(read.documents[d], int(p)) for d, p in zip(read.document, read.position, strict=True)}
    labels = ITDA.from_pretrained(tmp_path / "best" / "layer_2").labels
    assert found["same_site"]["layer_2"]["atoms"][1] == sum(label.key[:2] in keys for label in labels) > 5
    site = values(capsys, runs / "a", tmp_path / "reference")["pairs"][0]["same_site"]["layer_2"]
    assert site["weighted"] == site["jaccard"] > 0


def test_the_tokenizer_is_known_by_what_it_does(runs):
    tiny, other = LanguageModel.load("tiny"), LanguageModel.load(str(runs / "model"))
    before = tiny.tokenizer_hash
    tiny.tokenizer(["a", "b c d"], padding=True, truncation=True, max_length=4)
    assert tiny.tokenizer_hash == before == json.loads((runs / "a" / "run.json").read_text())["tokenizer"]
    assert other.tokenizer_hash != before


def test_the_tokens_of_a_run_are_all_that_it_read(runs):
    tokens = read_tokens(runs / "a")
    assert len(tokens) == 1500
    labels = ITDA.from_pretrained(runs / "a" / "layer_2").labels
    columns = tokens.document.tolist(), tokens.position.tolist(), tokens.char_end.tolist()
    read = {(tokens.documents[d], p, e) for d, p, e in zip(*columns, strict=True)}
    assert set(labels.keys()) <= read
    assert len(read) == 1500


def test_of_centres_it_says_that_nothing_tells_how_much_an_atom_was_needed(runs, capsys):
    centres = str(Path(__file__).parent / "runs_made_before" / "centres")
    said = " ".join(printed(capsys, "compare", centres).split())
    assert "weighted is the plain Jaccard index" in said
    assert "`itda fingerprint` is better" in said
    assert "plain Jaccard" not in printed(capsys, "compare", str(runs / "a"))
