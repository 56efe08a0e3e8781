"""Evaluation knows a model by its interface alone: one that is new to it, and ones that can only be read."""

import ast
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import torch

import itda.evaluation
from itda.core.batch import Site
from itda.core.dictionary import ITDA
from itda.core.labels import Label, Labels
from itda.errors import ModelError
from itda.evaluation.evaluate import evaluate
from itda.evaluation.resumption import Resumption, splicer_of
from itda.sources.corpora.corpus import Corpus
from itda.sources.models.base import ActivationModel
from itda.sources.models.splicing import SpliceableModel, WholePasses
from itda.sources.models.transformers import LanguageModel

SITES = [Site(1), Site(3, "mlp_out")]
CORPUS = Corpus.from_texts(["import os\n\ndef read(path):\n    return open(path)\n" * 3, "x = 1", "class A: pass"])


@pytest.fixture(scope="module")
def tiny():
    return LanguageModel.load("tiny", device="cpu")


@dataclass(eq=False, repr=False)
class Elsewhere(ActivationModel):
    """A model that is read through another one, and no more."""

    inner: LanguageModel
    name: str = "elsewhere"

    layers = property(lambda self: self.inner.layers)
    d_model = property(lambda self: self.inner.d_model)
    revision = property(lambda self: self.inner.revision)
    tokenizer_hash = property(lambda self: self.inner.tokenizer_hash)
    dtype = property(lambda self: self.inner.dtype)
    device = property(lambda self: self.inner.device)

    def windower(self, window, bos="auto"):
        return self.inner.windower(window, bos)

    def check(self, sites):
        self.inner.check(sites)

    def flight(self, tokens, branches=1):
        return 2

    def harvest(self, groups, sites):
        """One site of all groups after the other."""
        for site in sites:
            yield from self.inner.harvest(groups, [site])


class New(Elsewhere, SpliceableModel):
    """A kind of model that evaluation has never seen."""

    is_causal = property(lambda self: self.inner.is_causal)
    vocabulary = property(lambda self: self.inner.vocabulary)

    def spliced(self, groups, sites, splice):
        return self.inner.spliced(groups, sites, splice)


def dictionaries():
    labels = Labels.of(*(Label("d", i, i, i + 1, i, "", "x", "") for i in range(50)))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {site: ITDA(torch.nn.functional.normalize(torch.randn(50, 192), dim=1), labels, k=5) for site in SITES}


def test_a_new_kind_of_model_has_the_measures_of_the_one_behind_it(tiny):
    given = {"window": 16, "batch_size": 2, "tokens": 40}
    expected = evaluate(tiny, CORPUS, dictionaries(), **given)
    found = evaluate(New(tiny), CORPUS, dictionaries(), **given)
    for site in SITES:
        assert found[site].tokens == 40
        figures, others = asdict(found[site]), asdict(expected[site])
        for name, value in figures.items():
            if isinstance(value, float) and name != "encode_per_second":
                assert value == pytest.approx(others[name], rel=1e-5, abs=1e-7), name


def test_only_a_model_that_offers_it_is_run_from_the_site_on(tiny):
    assert isinstance(splicer_of(tiny, SITES), Resumption)
    assert isinstance(splicer_of(New(tiny), SITES), WholePasses)


def test_a_model_that_can_only_be_read_is_refused_in_one_line(tiny):
    with pytest.raises(
        ModelError, match=r"^elsewhere runs where .* not replaced: evaluate it in this process"
    ) as error:
        evaluate(Elsewhere(tiny), CORPUS, dictionaries(), window=16)
    assert "\n" not in str(error.value)


def test_evaluation_imports_no_kind_of_model():
    known = {"transformers", "ndif"}
    for module in Path(itda.evaluation.__file__).parent.glob("*.py"):
        names = {node.module for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.ImportFrom)}
        assert not names & {f"itda.sources.models.{name}" for name in known}, module
        assert not any((name or "").startswith(("itda.sources.streamed", "itda.workers")) for name in names), module
