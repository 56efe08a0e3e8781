"""Fingerprints in the explorer: what its answers say, what it refuses, and the views in a real browser."""

import os
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import until  # pyright: ignore[reportAttributeAccessIssue]
from serving import get, port_of
from strange_corpus import DOCUMENTS, write_to
from test_accessible import PICTURES, compressed, faults, rest
from test_cli import refused

from itda import config as settings
from itda.core.similarity.fingerprint import LEFT_OUT, STEPS
from itda.core.similarity.fingerprint_index import THE_INDEX
from itda.errors import ItdaError, MissingError, SettingError
from itda.explorer import novel_tokens
from itda.explorer.novel_tokens import PASSAGE_AFTER, starts_of, texts_of
from itda.explorer.server import running
from itda.recipes import train
from itda.recipes.compare_fingerprints import compare_several
from itda.recipes.explore import explorer_of
from itda.recipes.fingerprint import fingerprint
from itda.sources.corpora.corpus import Corpus
from itda.sources.corpora.document import LongDocument
from itda.sources.models.transformers import LanguageModel
from itda.store.fingerprints import Fingerprint, load_fingerprint, write_fingerprint

A_B = {"a": "one", "b": "two"}
CELL = {**A_B, "site_a": "layer_3", "site_b": "layer_2", "rung": "1"}
VIEWS_OF_A_RUN = ["Start", "Atoms", "Prompt", "Corpus", "Compare", "Overview"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """one.itda of tiny, two.itda of a noisy tiny and fewer layers, both of the strange corpus."""
    root = tmp_path_factory.mktemp("fingerprints")
    (root / "corpus").mkdir()
    write_to(root / "corpus")
    write_fingerprints(root, str(root / "corpus"), 1500, (1, 2, 3))
    return root


def write_fingerprints(root: Path, corpus: str, tokens: int, layers: tuple[int, ...]) -> None:
    """Write one.itda, of tiny, and two.itda, of some layers of a noisy tiny."""
    torch.manual_seed(0)
    noisy = LanguageModel.load("tiny")
    with torch.no_grad():
        for parameter in noisy.model.parameters():
            parameter += 0.1 * parameter.std() * torch.randn_like(parameter)
    noisy.model.save_pretrained(root / "noisy")
    noisy.tokenizer.save_pretrained(root / "noisy")
    common = {"corpus": corpus, "tokens": tokens, "window": 64, "part": "all", "quiet": True}
    fingerprint(settings.Fingerprint(model="tiny", out=root / "one.itda", **common))
    fingerprint(settings.Fingerprint(model=str(root / "noisy"), layers=layers, out=root / "two.itda", **common))


@pytest.fixture(scope="module")
def explorer(folder):
    return explorer_of(settings.Explore(runs=(folder / "one.itda", folder / "two.itda")))


@pytest.fixture(scope="module")
def address(explorer):
    with running(explorer) as found:
        yield found


@pytest.fixture(scope="module")
def made(folder):
    return load_fingerprint(folder / "one.itda"), load_fingerprint(folder / "two.itda")


def test_the_map_has_the_index_of_compare(explorer, made):
    found = explorer.answer("alike", A_B)
    (pair,) = compare_several([("one", made[0]), ("two", made[1])])
    assert found["index"] == THE_INDEX
    assert found["matrix"] == pair.matrices[THE_INDEX].tolist()
    assert found["sites"] == [[f"layer_{i}" for i in range(6)], ["layer_1", "layer_2", "layer_3"]]
    mirrored = explorer.answer("alike", {"a": "two", "b": "one"})
    assert np.array_equal(mirrored["matrix"], np.transpose(found["matrix"]))
    alone = explorer.answer("alike", {"a": "one", "b": "one"})["matrix"]
    assert np.array_equal(np.diagonal(alone), np.ones(6))


def test_lists_are_the_atoms_of_one_site_alone_by_difference_of_novelty(explorer, made):
    """Both have read the same tokens here, so rows of the tables are tokens; the order is that of documents."""
    found = explorer.answer("novel", CELL)
    left, right = made[0]["layer_3"], made[1]["layer_2"]
    there = (left.novelty != LEFT_OUT) & (right.novelty != LEFT_OUT)
    in_a, in_b = left.is_atom(1) & there, right.is_atom(1) & there
    both = int((in_a & in_b).sum())
    expected = {"both": both, "only_a": int((in_a & ~in_b).sum()), "only_b": int((in_b & ~in_a).sum())}
    assert found["counts"] == {**expected, "tokens": int(there.sum())}
    assert min(expected.values()) > 3
    assert found["threshold"] == 0.1
    place = {(d, p): i for i, (d, p) in enumerate(zip(_names(made[0]), made[0].tokens.position.tolist(), strict=True))}
    for name, chosen, way in (("only_a", in_a & ~in_b, 1), ("only_b", in_b & ~in_a, -1)):
        entries = found[name]
        keys = zip((entries["documents"][i] for i in entries["document"]), entries["position"], strict=True)
        rows = [place[key] for key in keys]
        assert sorted(rows) == np.flatnonzero(chosen).tolist()
        more = way * (left.novelty[rows].astype(int) - right.novelty[rows])
        assert (np.diff(more) <= 0).all()
        assert entries["more"] == (more / STEPS).round(4).tolist()
        assert entries["novelty"][0] == (left.novelty[rows] / STEPS).round(4).tolist()
    swapped = {"a": "two", "b": "one", "site_a": "layer_2", "site_b": "layer_3", "rung": "1"}
    mirrored = explorer.answer("novel", swapped)
    assert mirrored["only_a"]["token"] == found["only_b"]["token"]


def test_without_a_threshold_differences_add_up_to_what_the_index_lacks(explorer, made):
    """Each token takes the difference of its novelties from the index: the smaller summed, over the larger."""
    found = explorer.answer("novel", {**CELL, "rung": "all"})
    assert found["threshold"] is None
    counts = found["counts"]
    assert counts["both"] + counts["only_a"] + counts["only_b"] == counts["tokens"]
    left, right = made[0]["layer_3"], made[1]["layer_2"]
    there = (left.novelty != LEFT_OUT) & (right.novelty != LEFT_OUT)
    larger = np.maximum(left.novelty, right.novelty)[there].sum() / STEPS
    lacking = [*found["only_a"]["more"], *found["only_b"]["more"]]
    assert min(lacking) >= 0
    index = explorer.answer("alike", A_B)["matrix"][3][1]
    assert sum(lacking) / larger == pytest.approx(1 - index, abs=1e-4)


def test_a_long_list_is_cut_and_says_how_long_it_is(explorer, monkeypatch):
    whole = explorer.answer("novel", {**CELL, "rung": "all"})
    monkeypatch.setattr(novel_tokens, "MOST", 5)
    cut = explorer.answer("novel", {**CELL, "rung": "all"})
    assert cut["only_a"]["token"] == whole["only_a"]["token"][:5]
    assert cut["counts"] == whole["counts"]
    assert cut["most"] == 5


def _names(made: Fingerprint) -> list[str]:
    return [made.tokens.documents[i] for i in made.tokens.document.tolist()]


def test_each_token_has_its_text_in_its_document(explorer):
    found = explorer.answer("novel", CELL)
    assert found["trouble"] is None
    for entries in (found["only_a"], found["only_b"]):
        for i, (before, token, after) in enumerate(entries["text"]):
            text = DOCUMENTS[entries["documents"][entries["document"][i]].removeprefix("corpus/")].replace("\r\n", "\n")
            end = entries["end"][i]
            assert token
            assert before + token == text[:end][-len(before + token) :]
            assert after == text[end : end + len(after)]


def test_a_token_is_shown_at_every_site_of_both(explorer, made):
    token = explorer.answer("novel", CELL)["only_a"]["token"][0]
    found = explorer.answer("novelty", {**A_B, "token": str(token)})
    at = {each["site"]: each for each in found["a"]["sites"]}
    assert at["layer_3"]["is_atom"][1]
    assert not next(each for each in found["b"]["sites"] if each["site"] == "layer_2")["is_atom"][1]
    row = _names(made[0]).index(found["document"]) + found["position"]
    assert at["layer_5"]["novelty"] == pytest.approx(made[0]["layer_5"].novelty[row] / STEPS, abs=1e-4)
    assert found["a"]["passage"] == found["b"]["passage"]


def test_without_the_corpus_there_are_documents_offsets_and_the_reason(folder, made, tmp_path):
    found = _with_corpus_at(made, str(tmp_path / "gone")).answer("novel", {**CELL, "a": "one", "b": "two"})
    assert found["only_a"]["text"] is None
    assert found["only_a"]["documents"]
    assert found["only_a"]["end"][0] > 0
    assert re.fullmatch(r"the corpus of .*one.itda was in .*, and is not there now: .*--corpus-path", found["trouble"])
    changed = tmp_path / "changed"
    shutil.copytree(folder / "corpus", changed)
    (changed / "01 script.txt").write_text("something else")
    found = _with_corpus_at(made, str(changed)).answer("novelty", {**A_B, "rung": "1", "token": "3"})
    assert found["a"]["passage"] is None
    assert "has changed since" in found["trouble"]
    moved = _with_corpus_at(made, str(tmp_path / "gone"), corpus_path=str(folder / "corpus"))
    assert moved.answer("novel", CELL)["trouble"] is None


def _with_corpus_at(made, corpus, corpus_path=None):
    """The explorer of the same fingerprints, whose corpus is said to be elsewhere."""
    root = Path(tempfile.mkdtemp(dir=Path(corpus).parent))
    for name, each in zip(("one", "two"), made, strict=True):
        about = {**each.about, "corpus": corpus}
        write_fingerprint(Fingerprint(each.tokens, each.sites, each.settings, about), root / f"{name}.itda")
    paths = (root / "one.itda", root / "two.itda")
    return explorer_of(settings.Explore(runs=paths, corpus_path=corpus_path))


def test_a_token_begins_where_the_one_before_it_ends(made):
    tokens = made[0].tokens
    start, names = starts_of(tokens), _names(made[0])
    for i in range(1, len(tokens)):
        if names[i] != names[i - 1]:
            assert start[i] == 0
        elif tokens.char_end[i] > tokens.char_end[i - 1]:
            assert start[i] == tokens.char_end[i - 1]
        else:  # a part of a character
            assert start[i] == tokens.char_end[i] - 1


def test_no_more_is_read_of_a_corpus_than_its_tokens_need(made):
    needed = made[0].tokens.documents
    read = []

    def documents():
        for name in [*needed, "beyond"]:
            read.append(name)
            yield LongDocument(name, lambda: (part for part in ["x" * 50_000] * 2))

    found = texts_of(Corpus("c", documents).read(), [made[0]])
    assert read == needed
    assert max(map(len, found.values())) == int(made[0].tokens.char_end.max()) + PASSAGE_AFTER


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("alike", {"b": "three"}, "no fingerprint 'three' here: use one of one, two"),
        ("alike", {"b": ""}, "the question lacks b"),
        ("novel", {"site_b": "layer_5"}, "two has no layer_5: use one of layer_1, layer_2, layer_3"),
        ("novel", {"site_a": "everywhere"}, "everywhere"),
        ("novel", {"rung": "5"}, "no rung 5: there are 5 rungs, use 0 to 4"),
        ("novel", {"rung": "x"}, "rung is 'x': give a number from 0 to 4"),
        ("novelty", {"token": "1500"}, "no token 1,500"),
        ("novelty", {}, "the question lacks token"),
    ],
)
def test_a_bad_question_is_refused_in_a_sentence(explorer, address, name, change, sentence):
    query = {**CELL, **change}
    with pytest.raises(ItdaError, match=re.escape(sentence)) as error:
        explorer.answer(name, query)
    path = f"/api/{name}?" + "&".join(f"{key}={value}" for key, value in query.items())
    reply = get(port_of(address), path)
    assert reply.status == (404 if isinstance(error.value, MissingError) else 400)
    assert reply.json == {"error": str(error.value)}


def test_bad_files_are_one_line_and_status_2(folder, made, tmp_path, capsys):
    def changed(name, **about):
        path = tmp_path / name
        told = Fingerprint(made[0].tokens, made[0].sites, made[0].settings, {**made[0].about, **about})
        write_fingerprint(told, path)
        return str(path)

    one = str(folder / "one.itda")
    (tmp_path / "cut.itda").write_bytes((folder / "one.itda").read_bytes()[:-100])
    (tmp_path / "foreign.itda").write_text("no parquet")
    assert "cut short" in refused(capsys, "explore", str(tmp_path / "cut.itda"))
    assert "is no fingerprint" in refused(capsys, "explore", str(tmp_path / "foreign.itda"))
    assert "no fingerprint" in refused(capsys, "explore", str(tmp_path / "none.itda"))
    other = changed("other.itda", fingerprint="0" * 64)
    assert "of different corpora" in refused(capsys, "explore", one, other)
    assert "different windows" in refused(capsys, "explore", one, changed("window.itda", window=32))
    assert "--export" in refused(capsys, "explore", one, "--export", str(tmp_path / "page.html"))
    assert not (tmp_path / "page.html").exists()
    with pytest.raises(SettingError, match="name one or more run folders, fingerprints or diffs"):
        explorer_of(settings.Explore(runs=()))


@pytest.fixture
def look(tabs, address):
    """Open a view of the two fingerprints; all that it asks for must come from that server."""

    def opened(hash_="", **options):
        return tabs.open(address + hash_, **options)

    yield opened
    assert [url for url in tabs.requests if not url.startswith((address, "data:"))] == []


def listed(page) -> list[float]:
    page.wait_for_selector(".lists .rows .row")
    texts = page.locator(".rows .row .open").all_inner_texts()
    return [float(text.replace("−", "-")) for text in texts]


def test_two_fingerprints_open_with_their_map_and_a_cell_lists_both_ways(look, explorer):
    page = look()
    matrix = explorer.answer("alike", A_B)["matrix"]
    cells = [float(text) for text in page.locator(".heat-cell").all_inner_texts()]
    assert cells == [round(value, 2) for row in matrix for value in row]
    assert page.locator("nav a").all_inner_texts() == ["Fingerprints"]
    table = page.get_by_role("table", name=re.compile("layers of one, in rows, and of two, in columns"))
    assert table.get_by_role("rowheader").all_inner_texts() == [str(i) for i in range(6)]
    page.get_by_role("button", name=re.compile("layer_3 of a and layer_2 of b")).click()
    page.get_by_label("Threshold of the lists").select_option("0.1")
    found = explorer.answer("novel", CELL)
    for part in ("only_b", "only_a"):
        page.wait_for_selector(f'[data-part="{part}"]:has-text("({found["counts"][part]:,})")')
        page.locator(f'[data-part="{part}"]').click()
        shown = listed(page)
        assert shown == [round(value, 3) for value in found[part]["more"][: len(shown)]]
    assert re.search(r"a=one&b=two&site_a=layer_3&site_b=layer_2&rung=1&part=only_a$", page.url)
    assert found["only_a"]["text"][0][1].strip() in page.locator(".rows .row mark").first.text_content()


def test_a_row_opens_its_token_and_back_returns_to_the_list(look, explorer):
    state = "a=one&b=two&site_a=layer_3&site_b=layer_2&rung=1&part=only_b"
    page = look(f"#/fingerprints?{state}")
    token = explorer.answer("novel", CELL)["only_b"]["token"][1]
    page.locator(".rows .open").nth(1).click()
    page.wait_for_selector(".novelties")
    assert page.url.endswith(f"#/token?{state}&t={token}")
    assert page.locator(".novelties").count() == 2
    assert page.locator(".novelties").nth(1).locator("tr.chosen").inner_text().startswith("2")
    assert page.locator(".passage mark").count() == 1
    page.get_by_role("link", name="the layers compared").click()
    page.wait_for_selector('[data-part="only_b"][aria-pressed="true"]')
    assert page.url.endswith(f"#/fingerprints?{state}")


def test_the_map_is_walked_through_by_keys(look):
    page = look("#/fingerprints?a=one&b=two&site_a=layer_0&site_b=layer_1")
    page.wait_for_selector(".lists .rows .row")
    assert page.locator('.heat-cell[tabindex="0"]').count() == 1
    page.locator('.heat-cell[tabindex="0"]').focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowUp", "End", "ArrowRight"):
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    until(page, "location.hash.includes('site_a=layer_1&site_b=layer_3')")
    pressed = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert pressed.startswith("layer_1 of a and layer_3 of b: ")
    assert "with other documents" in pressed


def test_one_alone_is_compared_with_itself(tabs, folder):
    with running(explorer_of(settings.Explore(runs=(folder / "two.itda",)))) as address:
        page = tabs.open(address)
        rows = [row.split() for row in page.locator(".heat tbody tr").all_inner_texts()]
        assert [row[i + 1] for i, row in enumerate(rows)] == ["1.00"] * 3
        assert page.locator(".heat-cell b").count() == 3
        assert page.locator('.heat-cell[aria-pressed="true"] b').inner_text() != "1.00"
        listed(page)


def test_without_the_corpus_the_page_says_why_and_lists_offsets(tabs, made, tmp_path):
    with running(_with_corpus_at(made, str(tmp_path / "gone"))) as address:
        page = tabs.open(f"{address}#/fingerprints?site_a=layer_3&site_b=layer_2")
        listed(page)
        assert page.locator(".lists .note").inner_text().startswith("No text: the corpus of ")
        assert re.search(r"token \d+, to character \d+", page.locator(".rows .row").first.inner_text())
        page.locator(".rows .open").first.click()
        page.wait_for_selector(".novelties")
        assert "No text: " in page.locator(".note").inner_text()


def test_runs_and_fingerprints_are_shown_side_by_side(tabs, folder, tmp_path):
    run, corpus = tmp_path / "run", str(folder / "corpus")
    train(settings.Train(model="tiny", layers=(1,), corpus=corpus, tokens=200, k=4, out=run, quiet=True))
    with running(explorer_of(settings.Explore(runs=(run, folder / "one.itda"), model=False))) as address:
        page = tabs.open(address)
        assert page.locator("nav a").all_inner_texts() == [*VIEWS_OF_A_RUN, "Fingerprints"]
        page.get_by_role("link", name="Fingerprints").click()
        page.wait_for_selector(".heat-cell")
        assert page.locator(".pick").count() == 0
        page.get_by_role("link", name="Atoms").click()
        page.wait_for_selector(".status")
        assert page.locator(".pick").count() == 2


VIEWS = {"map": "#/fingerprints", "token": "#/token?a=one&b=two&site_a=layer_3&site_b=layer_2&rung=1&t=40"}


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390)])
@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_no_serious_fault_and_nothing_is_wider_than_the_screen(look, view, scheme, width):
    page = look(VIEWS[view], color_scheme=scheme, width=width, bypass_csp=True)
    rest(page)
    assert faults(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.fixture(scope="module")
def worth_showing(request, tmp_path_factory):
    """An address and a folder for pictures: of Python's library if pictures are wanted, else of what the tests have."""
    folder = tmp_path_factory.mktemp("pictures")
    if not os.environ.get("ITDA_SCREENSHOTS"):
        yield request.getfixturevalue("address"), folder
        return
    write_fingerprints(folder, "python-docs", 10_000, ())
    (folder / "one.itda").rename(folder / "tiny.itda")
    (folder / "two.itda").rename(folder / "noisy.itda")
    with running(explorer_of(settings.Explore(runs=(folder / "tiny.itda", folder / "noisy.itda")))) as address:
        yield address, PICTURES


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_map_has_its_picture(tabs, worth_showing, scheme):
    address, folder = worth_showing
    page = tabs.open(f"{address}#/fingerprints?site_a=layer_3&site_b=layer_2", color_scheme=scheme)
    listed(page)
    rest(page)
    picture = folder / f"fingerprints-{scheme}.png"
    page.screenshot(path=picture)
    compressed(picture)
    assert 5_000 < picture.stat().st_size < 250_000
