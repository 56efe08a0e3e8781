"""One atom, and its markup: whatever is in a label, the HTML is whole, harmless, small, and says what the label says."""  # noqa: E501

import pickle
from html.parser import HTMLParser

import pytest
import torch
from core.helpers import labels, unit_rows
from hypothesis import given
from hypothesis import strategies as st

from itda import ITDA, Label
from itda.core.atom import Atom
from itda.core.batch import Site
from itda.core.display import markup
from itda.errors import SettingError

HOSTILE = {
    "script": "<script>alert(1)</script>",
    "attribute": '"><img src=x onerror=alert(1)>',
    "quotes": "' onmouseover='alert(1)' \"",
    "entities": "&lt;b&gt; &amp;amp; &#x3c;",
    "closing": "</mark></bdi></td></table></details></div><!-- ",
    "hebrew": "שלום עולם",
    "override": "user\u202egnp.exe\u2066",
    "cjk": "推理時分解　活性",
    "lines": "a\r\n\n\tb\u2028c",
    "controls": "\x00\x01\x1b[31m\x7f\x85\ufffe",
    "surrogate": "\ud800 half",
    "signs": "⏎·⇥⟨0000⟩␍",
    "spaces": "    ",
    "nothing": "",
    "emoji": "👩\u200d👩\u200d👧 e\u0301",
}
TEXTS = st.text(st.characters(codec=None), max_size=60)  # lone surrogates too
TAGS = {"div", "b", "bdi", "mark", "span", "br", "table", "caption", "thead", "tbody", "tr", "th", "td"}
TAGS |= {"details", "summary"}
ATTRIBUTES = {"style", "title", "dir", "scope", "colspan", "open"}


class Read(HTMLParser):
    """Checks that markup is balanced and inert; `raw` is its text with signs read back as what they stand for."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.signs: list[str | None] = []
        self.raw = ""
        self.marks: list[str] = []
        page.encode()  # a notebook is a file of UTF-8
        assert page.replace("\n", "").isprintable()
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert tag in TAGS
        assert {name for name, _ in attrs} <= ATTRIBUTES
        values = dict(attrs)
        assert "url" not in (values.get("style") or "")
        self.found.append((tag, values))
        if tag != "br":
            self.open.append(tag)
            self.signs.append(values.get("title") if tag == "span" else None)
        if tag == "mark":
            self.marks.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.signs.pop()

    def handle_data(self, data):
        name = self.signs[-1]
        if name == "space":
            assert set(data) == {"·"}
            data = " " * len(data)
        elif name in ("a token without text", "more of the same character"):
            data = ""
        elif name is not None and name.startswith("U+"):
            code = int(name[2:], 16)
            assert set(data.split("⟩")) == {"", f"⟨{code:04X}"}
            data = chr(code) * data.count("⟨")
        elif name is not None:
            (character,) = (c for c, (_, known) in markup.SIGNS.items() if known == name)
            data = character * len(data)
        self.raw += data
        if "mark" in self.open:
            self.marks[-1] += data

    def handle_comment(self, data):
        raise AssertionError("a comment")

    handle_decl = handle_pi = unknown_decl = handle_comment  # pyright: ignore[reportAssignmentType]

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.found)


def hostile_label(text: str) -> Label:
    return Label(text, 3, len(text), 2 * len(text), 7, before=text, token=text, after=text)


def an_atom(label: Label, site: str | None = "layer_4") -> Atom:
    return Atom(2, label, torch.eye(3)[0], 0.93, 0.4, 1443, site)


def model(**parts) -> ITDA:
    return ITDA(**{"atoms": unit_rows(50, 12), "labels": labels(50), "k": 5, **parts})


def test_an_atom_has_what_its_dictionary_knows():
    numbers = torch.linspace(0, 1, 50)
    dictionary = model(fidelity=numbers, novelty=1 - numbers, site=Site(3, "mlp_out"))
    atom = dictionary.atom(7)
    assert torch.equal(atom.vector, dictionary.atoms[7])
    assert atom.label == dictionary.labels[7]
    assert (atom.fidelity, atom.novelty) == (numbers[7].item(), (1 - numbers)[7].item())
    assert (atom.index, atom.of, atom.site) == (7, 50, "layer_3.mlp_out")
    bare = model().atom(7)
    assert (bare.fidelity, bare.novelty, bare.site) == (None, None, None)
    assert "layer" not in bare._repr_html_()


def test_negative_indices_count_from_the_end_and_others_are_refused_in_one_line():
    assert [model().atom(i).index for i in (-1, -50, 49, 0)] == [49, 0, 49, 0]
    for index in (50, -51):
        with pytest.raises(SettingError, match=f"^no atom {index}: the dictionary has 50, use 0 to 49 or -1$"):
            model().atom(index)
    with pytest.raises(SettingError, match="the dictionary has 0, train it"):
        model(atoms=torch.zeros(0, 12), labels=labels(0)).atom(0)


def test_an_atom_does_not_hold_on_to_its_dictionary():
    large = model(atoms=unit_rows(5000, 12), labels=labels(5000))
    assert len(pickle.dumps(large.atom(3))) < 4000
    large.atom(3).vector.zero_()
    assert large.atoms[3].norm() > 0.9


def test_the_representation_is_one_line_with_the_token_marked():
    atom = an_atom(Label("essay", 1, 2, 5, 9, before="line\nTo", token=" be", after=" or\x00\u202e"))
    assert str(atom) == repr(atom) == "atom 2 of 1443 at layer_4: line⏎To« be» or⟨0000⟩⟨202E⟩"
    long = an_atom(Label("essay", 1, 900, 1800, 9, "b" * 900, "t" * 900, "a" * 900), None)
    assert len(str(long)) < 120
    assert "b«t" in str(long)
    assert "…»a" in str(long)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_labels_are_shown_exactly_and_do_nothing(text):
    read = Read(an_atom(hostile_label(text), site=text)._repr_html_())
    assert text * 3 in read.raw
    assert read.marks == [text]
    assert len(str(an_atom(hostile_label(text))).splitlines()) == 1


@given(TEXTS, TEXTS, TEXTS, TEXTS)
def test_any_label_is_shown_exactly(document, before, token, after):
    label = Label(document, 0, len(before), len(before) + len(token), 0, before, token, after)
    read = Read(an_atom(label)._repr_html_())
    assert before + token + after in read.raw
    assert document in read.raw
    assert read.marks == [token]


def test_a_long_prompt_is_cut_around_its_token():
    label = Label("d" * 9999, 3, 9000, 9002, 7, before="b" * 9000, token="to", after="\x00" * 9000)
    page = an_atom(label)._repr_html_()
    assert len(page) < 8000
    assert "b" * 399 + "to" + "\x00" * 199 + "…" in Read(page).raw


def test_scripts_are_told_apart_by_direction_and_whitespace_is_visible():
    assert 'dir="rtl"' in an_atom(hostile_label("שלום"))._repr_html_()
    assert 'dir="ltr"' in an_atom(hostile_label("123 (latin"))._repr_html_()
    page = an_atom(Label("d", 0, 0, 4, 0, "", "  \n\t", ""))._repr_html_()
    assert all(shown in page for shown in (">··<", "⏎<br>", ">⇥<"))
    assert Read(page).count("bdi") == 5


def test_rows_of_facts_have_headers_and_numbers_beside_bars():
    read = Read(an_atom(hostile_label("x"))._repr_html_())
    scopes = [values["scope"] for tag, values in read.found if tag == "th"]
    assert scopes == ["row"] * 5
    assert read.count("caption") == read.count("table") == 1
    assert "40.0%" in read.raw
    assert "0.930" in read.raw


@pytest.mark.parametrize("background", [255, 17])
@pytest.mark.parametrize("colour", [markup.SHARE, markup.POSITIVE, markup.NEGATIVE])
def test_bars_stand_out_from_light_and_dark_pages(colour, background):
    def luminance(rgb):
        linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05

    a, b = luminance(bytes.fromhex(colour[1:])), luminance([background] * 3)
    assert max(a, b) / min(a, b) > 3.5  # WCAG 1.4.11 asks for 3
