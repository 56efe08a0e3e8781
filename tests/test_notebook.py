"""What a notebook shows of a decomposition, and the example of docs/notebooks.md."""

import copy
import json
import pickle
import re
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from core.test_atom import HOSTILE, TEXTS, Read, hostile_label
from hypothesis import given

from itda import Label, report
from itda.cli import main
from itda.core.display import decomposition
from itda.recipes.decompose import AtomUse, Decomposition, TokenDecomposition

SMALL = 300_000


def use(label: Label, coefficient: float = 2.0, atom: int = 5, fidelity: float | None = None) -> AtomUse:
    return AtomUse(atom, coefficient, label, fidelity)


def tokens_of(texts: list[str], uses: int = 3, explained: float = 0.75) -> Decomposition:
    """A text cut into these tokens, each with atoms whose labels say the same."""
    text, found, start = "".join(texts), [], 0
    for place, token in enumerate(texts):
        end = start + len(token)
        label = Label("prompt", place, start, end, 0, text[:start], token, text[end:])
        atoms = [use(Label("essay", 0, 0, len(token), 0, "", token, ""), 3.0 - i, i) for i in range(uses)]
        found.append(TokenDecomposition(label, explained, atoms))
        start = end
    return Decomposition(found, site="layer_4")


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_is_shown_exactly_and_does_nothing(text):
    short = text[:30]  # what a cell has room for
    alone = TokenDecomposition(hostile_label(short), 0.5, [use(hostile_label(short[:20])), use(hostile_label(short))])
    read = Read(alone._repr_html_())
    assert short * 3 in read.raw
    assert short[:20] * 3 in read.raw
    assert read.marks == [short, short[:20], short]
    whole = Decomposition([alone, alone], site=text)
    read = Read(whole._repr_html_())
    assert read.marks == [short[:20], short] * 2
    assert f"0 {short}" in read.raw
    assert f"1 {short}" in read.raw


@given(TEXTS, TEXTS, TEXTS)
def test_any_text_is_shown_whole_and_in_order(a, b, c):
    found = tokens_of([a, b, c])
    read = Read(found._repr_html_())
    assert a + b + c in read.raw
    assert read.count("details") == 3
    assert read.marks == [t if len(t) <= 30 else t[:29] + "…" for t in (a, b, c) for _ in range(3)]


def test_a_table_has_a_caption_headers_and_signed_numbers_beside_its_bars():
    uses = [use(hostile_label("x"), 610.685, 15), use(hostile_label("y"), -84.6, 99), use(hostile_label("z"), 0.0, 7)]
    read = Read(TokenDecomposition(hostile_label("t"), 0.839, uses)._repr_html_())
    scopes = [values["scope"] for tag, values in read.found if tag == "th"]
    assert scopes == ["col", "colgroup", "colgroup", "row", "row", "row"]
    assert read.count("caption") == 1
    for shown in ("15+610.7", "99-84.6", "83.9%"):
        assert shown in read.raw
    assert [values["title"] for tag, values in read.found if tag == "tr" and "title" in values] == ["x", "y", "z"]


def test_the_nearest_tokens_of_other_documents_are_a_column_where_they_are_known():
    plain = TokenDecomposition(hostile_label("t"), 0.8, [use(hostile_label("x"))])
    near = AtomUse(5, 2.0, hostile_label("x"), None, ("<b>", "with"))
    known = TokenDecomposition(hostile_label("t"), 0.8, [near, use(hostile_label("y"))])
    assert "nearest in other documents" not in plain._repr_html_()
    shown = known._repr_html_()
    assert "nearest in other documents" in shown
    assert "<b></bdi>" not in shown
    assert shown.index("&lt;b&gt;") < shown.index(">with<")


def test_an_atom_that_does_not_replicate_has_a_question_mark_and_a_line_says_what_it_means():
    sure, unsure = (AtomUse(atom, 2.0, hostile_label("x"), replication=share) for atom, share in ((5, 0.5), (6, 0.4)))
    token = TokenDecomposition(hostile_label("t"), 0.8, [sure, unsure])
    for shown in (token._repr_html_(), repr(Decomposition([token])), report.decomposition([token], 5)):
        assert "?6" in shown
        assert "?5" not in shown
        assert shown.count("? came back in fewer than half of the draws: no finding") == 1
    only = TokenDecomposition(hostile_label("t"), 0.8, [sure, use(hostile_label("y"))])
    for shown in (only._repr_html_(), repr(Decomposition([only])), report.decomposition([only], 5)):
        assert "no finding" not in shown
    assert Decomposition([token]).to_pandas()["replication"].tolist() == [0.5, 0.4]
    assert "no finding" in report.uses(6, hostile_label("x"), [], 0.4)
    assert "no finding" not in report.uses(6, hostile_label("x"), [], 0.5)


def test_fidelity_is_a_column_where_atoms_were_refined():
    plain = TokenDecomposition(hostile_label("t"), 0.8, [use(hostile_label("x"))])
    refined = TokenDecomposition(hostile_label("t"), 0.8, [use(hostile_label("x"), fidelity=0.91)])
    assert "fidelity" not in plain._repr_html_()
    assert "0.91" in Read(refined._repr_html_()).raw


@pytest.mark.parametrize("largest", [0.0, 1e-30, 1e-4, 0.5, 1.0, 1e4, 1e30])
@pytest.mark.parametrize("explained", [-0.5, 0.0, 1.0])
def test_numbers_of_any_size_have_bars_within_their_frames(largest, explained):
    uses = [use(hostile_label("x"), largest), use(hostile_label("x"), -largest / 3)]
    html = Decomposition([TokenDecomposition(hostile_label("t"), explained, uses)])._repr_html_()
    Read(html)
    assert all(0 <= int(number) <= 100 for number in re.findall(r"(-?\d+)%[,)/]", html))


def test_nothing_to_show_is_said():
    assert Read(Decomposition()._repr_html_()).raw == "A decomposition of no tokens"
    empty = TokenDecomposition(hostile_label("t"), 1.0, [])
    Read(empty._repr_html_())
    assert "1 token" in Read(Decomposition([empty])._repr_html_()).raw


def test_a_long_text_is_cut_with_a_line_that_says_so():
    found = tokens_of([f" {i}" for i in range(1234)], uses=20)
    html = found._repr_html_()
    read = Read(html)
    assert "… and 1,034 more tokens, left out here: look at a part, such as [200:]" in read.raw
    assert 150 < read.count("details") <= decomposition.MOST_TOKENS
    assert len(html.encode()) < SMALL
    assert "[200:]" not in Read(found[200:300]._repr_html_()).raw


@pytest.mark.parametrize("text", ["\x00\x01" * 500, "字" * 999, "&" * 999, "'\n" * 500], ids=["0", "cjk", "&", "lines"])
def test_the_worst_labels_make_no_large_page(text):
    one = TokenDecomposition(hostile_label(text), 0.5, [use(hostile_label(text))] * 99)
    for html in (one._repr_html_(), Decomposition([one] * 500, site="layer_4")._repr_html_()):
        Read(html)
        assert len(html.encode()) < SMALL


def test_spaces_between_tokens_are_kept_and_bytes_of_one_character_shown_once():
    def token(place, start, end):
        text = "two words é"
        return TokenDecomposition(Label("d", place, start, end, 0, text[:start], text[start:end], text[end:]), 0.5, [])

    found = Decomposition([token(0, 0, 3), token(1, 4, 9), token(2, 10, 11), token(3, 10, 11)])
    html = found._repr_html_()
    assert "two words é" in Read(html).raw
    assert "″" in html
    Read(Decomposition(found[::-1])._repr_html_())


def test_a_decomposition_is_a_list_whose_slices_are_shown_too():
    found = tokens_of(["a", " b", " c"])
    assert found == list(found)
    assert isinstance(found, list)
    assert isinstance(found[1], TokenDecomposition)
    part = found[-2:]
    assert (type(part), part.site, part) == (Decomposition, "layer_4", list(found)[1:])
    assert repr(part).splitlines()[0] == "2 tokens at layer_4"
    assert len(repr(part).splitlines()) == 4
    for other in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert (other, other.site, other.readout) == (found, "layer_4", "code")
    assert set(asdict(found[0])) == {"label", "explained", "atoms", "massive"}
    cosines = Decomposition(found, readout="similarity")
    assert "cosine" in Read(cosines[:1]._repr_html_()).raw
    assert "coefficient" in Read(found._repr_html_()).raw


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where `itda train` has made the run of the README, from a few files."""
    folder = tmp_path_factory.mktemp("notebook")
    (folder / "corpus").mkdir()
    for i in range(10):
        (folder / "corpus" / f"{i}.py").write_text(f"import os\n\n\ndef f_{i}(path):\n    return os.open(path)\n" * 3)
    settings = ["--k", "4", "--threshold", "0.3", "--tokens", "500", "--window", "64", "--quiet"]
    settings += ["--mode", "paper", "--order", "corpus"]
    main(
        [
            "train",
            "tiny",
            "--layers",
            "2,4",
            "--corpus",
            str(folder / "corpus"),
            "--out",
            str(folder / "runs/tiny"),
            *settings,
        ]
    )
    return folder


def test_the_example_of_the_docs_runs_and_each_cell_shows_something(folder, monkeypatch):
    text = (Path(__file__).parents[1] / "docs" / "notebooks.md").read_text()
    monkeypatch.chdir(folder)
    names: dict = {}
    shown = []
    for cell in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        *body, last = cell.strip().splitlines()
        exec("\n".join(body), names)
        shown.append(eval(last, names)._repr_html_())
    whole, part, token, atom = map(Read, shown)
    assert "for line in open(path):" in whole.raw
    assert part.count("details") == 3
    assert token.count("table") == 1
    assert "Atom" in atom.raw
    assert torch.isfinite(names["dictionary"].atom(0).vector).all()
    json.dumps([asdict(each) for each in names["tokens"]])
