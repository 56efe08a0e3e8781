"""What a prompt or a notebook shows first of a model, a run or labels is short, and without markup of a corpus."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from core.helpers import unit_rows

from itda import ITDA, ActivationBatch, Label, Labels, SparseCode
from itda.core.site import Site
from itda.recipes.decompose import AtomUse, TokenDecomposition
from itda.recipes.runs import Run
from itda.sources.corpora.corpus import Corpus
from itda.sources.models.transformers import LanguageModel
from itda.sources.streamed.model import StreamedModel

EVIL = "<script>alert(1)</script>\n"


def label(i, text=EVIL):
    return Label(f"essay {text}", i, 4000, 4003, i, text * 200, "tok", text * 200)


def labels(number=50):
    return Labels.of(*(label(i) for i in range(number)))


def model(number=50):
    made = {"model": "tiny", "corpus": EVIL, "tokens": 1000}
    return ITDA(unit_rows(number, 16), labels(number), k=4, site=Site(3), provenance=made)


def run():
    record = {"model": "tiny", "corpus": EVIL * 50, "tokens": 1000, "settings": {"mode": "best"}, "versions": {}}
    return Run(Path("runs/tiny"), record, {Site(2): Path("a"), Site(4): Path("b")})


def shown():
    code = model().encode(torch.ones(2, 3, 16))
    decomposed = TokenDecomposition(label(1), 0.5, [AtomUse(i, 1.0, label(i)) for i in range(40)])
    return {
        "a model": model(),
        "a run": run(),
        "labels": labels(),
        "labels of two axes": labels()[np.zeros((5, 7), int)],
        "no labels": Labels.of(),
        "a label": label(0),
        "a code": code,
        "no code": SparseCode(code.indices[:0], code.coefficients[:0], code.count[:0]),
        "a batch": ActivationBatch(torch.ones(50, 16), labels()),
        "a token taken apart": decomposed,
    }


def test_no_repr_is_a_wall():
    for name, value in shown().items():
        text = repr(value)
        assert len(text) < 400, name
        assert "\n" not in text, name
        assert "object at 0x" not in text, name


def test_the_lines_say_what_it_is():
    plain = Labels.of(*(Label("essay", i, 3, 5, i, "To ", "be", " or") for i in range(5)))
    assert repr(plain) == "<Labels of 5 tokens: To «be» or, To «be» or, To «be» or, …>"
    assert repr(plain[1]) == "<Label essay, token 1: To «be» or>"
    assert repr(plain[[[0, 1], [2, 3]]]).startswith("<Labels of shape [2, 2]: To «be» or,")
    assert repr(Labels.of()) == "<Labels of 0 tokens>"
    assert repr(model()) == "<ITDA of 50 atoms of width 16 at layer_3, k 4, pursuit mp, mode paper>"
    code = SparseCode(torch.tensor([[1, 0], [2, 3]]), torch.ones(2, 2), torch.tensor([1, 2]))
    assert repr(code) == "<SparseCode of 2 activations: at most 2 atoms each, 1.5 on average>"
    assert repr(ActivationBatch(torch.ones(5, 16), plain)) == "<ActivationBatch of 5 activations of width 16, float32>"
    assert repr(Corpus.from_texts(["a"] * 1000)) == "<Corpus text, all of it>"
    assert repr(Corpus.from_texts(["a"] * 1000).split("train")) == "<Corpus text, train part>"
    short = Run(Path("runs/tiny"), {"model": "tiny", "corpus": "essays", "tokens": 1000, "settings": {}}, {})
    assert repr(short).startswith("<Run runs/tiny: tiny on essays; 1,000 tokens; ")


def test_a_language_model_is_a_line():
    assert (
        repr(LanguageModel.load("tiny", device="cpu")) == "<LanguageModel tiny: 6 layers of width 192, float32 on cpu>"
    )
    assert repr(StreamedModel.load("tiny", device="cpu")).startswith("<StreamedModel tiny: 6 layers of width 192")


@pytest.mark.parametrize("name", ["a model", "a run", "labels", "labels of two axes", "no labels", "a label"])
def test_a_notebook_shows_a_small_table_with_nothing_of_a_corpus_for_markup(name):
    page = shown()[name]._repr_html_()
    assert len(page) < 20_000
    assert "<script" not in page
    assert page.startswith("<div>")
    assert page.endswith("</div>")


def test_labels_of_a_code_are_read_and_walked_as_an_array():
    """The README's own example: `labels[code.indices]`."""
    model = ITDA(unit_rows(8, 4), Labels.of(*(Label("e", i, i, i + 1, i, "", str(i), "") for i in range(8))), k=3)
    code = model.encode(torch.randn(5, 4, generator=torch.Generator().manual_seed(0)))
    found: Any = model.labels[code.indices]
    assert found.position.shape == (5, 3)
    assert [[each.position for each in row] for row in found] == code.indices.tolist()
    assert isinstance(found[0], Labels)
    assert found[0].position.tolist() == code.indices[0].tolist()
    assert found[1, 2] == model.labels[int(code.indices[1, 2])]
    assert found[-1][-1].token == str(code.indices[-1, -1].item())
    assert found[:, 0].position.tolist() == code.indices[:, 0].tolist()
    assert found[code.count > 0].position.shape == (5, 3)
    assert found[torch.tensor(2)].position.tolist() == code.indices[2].tolist()
    assert model.labels[[]].keys() == []
    assert model.labels[torch.tensor(3)].position == model.labels[np.int64(3)].position == 3
    three = model.labels[code.indices[None]]
    assert three[0, 1, 2] == found[1, 2]
    assert [row.position.shape for row in three] == [(5, 3)]  # pyright: ignore[reportAttributeAccessIssue]
    assert "3" in str(found[code.indices == 3]) or not bool((code.indices == 3).any())


def test_the_first_look_at_a_million_labels_is_quick():
    many = labels(10)[np.zeros(1_000_000, int)]
    started = time.thread_time()  # whatever else the machine does
    assert "1,000,000 tokens" in repr(many)
    assert "1,000,000 tokens, the first 10" in many._repr_html_()
    assert time.thread_time() - started < 0.5
