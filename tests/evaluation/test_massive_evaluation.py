"""What evaluation measures of a model with sinks: the other tokens, by direct computation, and all of them, apart."""

import numpy as np
import pytest
import torch
from sinks import LAYERS, WIDTH, save, sink_model, texts, word_id
from torch import nn

from itda import ITDA, Label, Labels, Site
from itda.core.massive import limit_of, median_norm
from itda.evaluation.evaluate import evaluate_groups
from itda.report import evaluation
from itda.sources.corpora.corpus import Corpus

SITE = Site(1)


def labels(count):
    return Labels.of(*(Label("d", i, i, i + 1, i, "", "x", "") for i in range(count)))


@pytest.fixture(scope="module")
def model():
    return sink_model()


@pytest.fixture(scope="module")
def groups(model):
    return list(model.windower(24).groups(Corpus.from_texts(texts(6)), 4))


def read(model, groups, site=SITE):
    return torch.cat([model.activations(g, [site])[site][g.is_activation] for g in groups])


@pytest.fixture(scope="module")
def planted(model, groups):
    """True where a sink was planted."""
    names = Labels.concatenate([group.labels() for group in groups])
    return torch.from_numpy(names.first | (names.token_id == word_id(model.tokenizer)))


@pytest.fixture(scope="module")
def few(model, groups):
    limit = limit_of(median_norm(read(model, groups)))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        atoms = nn.functional.normalize(torch.randn(40, WIDTH), dim=1)
    return ITDA(atoms, labels(40), k=4, massive_norm=limit)


@pytest.fixture(scope="module")
def clean(model, groups, few):
    return evaluate_groups(model, lambda: groups, {SITE: few})[SITE]


@pytest.fixture(scope="module")
def spliced(model, groups, few):
    return evaluate_groups(model, lambda: groups, {SITE: few}, massive="splice")[SITE]


def fvu(x, reconstruction):
    x, reconstruction = x.double(), reconstruction.double()
    return ((x - reconstruction).square().sum() / (x - x.mean(dim=0)).square().sum()).item()


def test_the_sinks_that_were_planted_are_the_massive_tokens(model, groups, few, planted, clean):
    assert few.is_massive(read(model, groups)).tolist() == planted.tolist()
    assert 20 < clean.massive_tokens == int(planted.sum()) < clean.tokens / 5
    assert clean.tokens == len(planted)


def test_fvu_and_l0_are_of_the_others_and_fvu_of_all_stands_apart(model, groups, few, planted, clean):
    x = read(model, groups)
    rest = x[~planted]
    assert clean.fvu == pytest.approx(fvu(rest, few(rest)), rel=1e-9)
    assert clean.l0 == pytest.approx(few.encode(rest).count.double().mean().item())
    assert clean.fvu_all == pytest.approx(fvu(x, few(x)), rel=1e-9)
    square = x.double().square().sum(dim=1)
    assert clean.massive_energy == pytest.approx((square[planted].sum() / square.sum()).item(), rel=1e-9)
    assert clean.massive_energy > 0.99
    assert clean.unused_atoms == 40 - len(np.unique(few.encode(rest).indices.numpy()))


def by_hand(model, groups, replace):
    """The cross-entropy with `replace(activations)` spliced in, over all predictions."""
    total, count = 0.0, 0
    for g in groups:
        logits = model.logits(g, SITE, replace)[g.predicts]
        total += nn.functional.cross_entropy(logits.double(), g.targets, reduction="sum").item()
        count += len(g.targets)
    return total / count


@pytest.mark.parametrize("massive", ["clean", "splice"])
def test_massive_tokens_stay_what_they_are_in_the_splice_or_are_replaced_too(
    model, groups, few, planted, clean, spliced, massive
):
    mean = read(model, groups)[~planted].double().mean(dim=0).float()
    found = {"clean": clean, "splice": spliced}[massive]
    assert found.massive == massive
    stand_in = {"ce_spliced": few, "ce_zero": torch.zeros_like, "ce_mean": lambda x: mean.expand_as(x)}
    for name, made in stand_in.items():

        def replace(x, made=made):
            apart = few.is_massive(x) if massive == "clean" else torch.zeros(len(x), dtype=torch.bool)
            return torch.where(apart[:, None], x, made(x))

        assert getattr(found, name) == pytest.approx(by_hand(model, groups, replace), abs=1e-6), name
    assert found.ce_loss_score == pytest.approx(
        (found.ce_zero - found.ce_spliced) / (found.ce_zero - found.ce_clean), abs=1e-9
    )


def test_the_splice_decides_nothing_but_the_losses(clean, spliced):
    for name in ("tokens", "predicted", "massive_tokens", "massive_energy", "fvu", "fvu_all", "l0", "ce_clean"):
        assert getattr(clean, name) == getattr(spliced, name), name
    assert clean.ce_zero != spliced.ce_zero
    assert {name: clean.intervals[name] for name in ("fvu", "l0")} == {
        name: spliced.intervals[name] for name in ("fvu", "l0")
    }


def test_intervals_are_of_the_others_too(clean):
    low, high = clean.intervals["fvu"]
    assert low < clean.fvu < high
    assert clean.fvu_all < low


def test_the_table_says_how_many_what_they_hold_and_what_became_of_them(clean, spliced):
    text = " ".join(evaluation({SITE: clean}).split())
    assert f"of them massive {clean.massive_tokens} their share of all energy {clean.massive_energy:.1%} atoms" in text
    assert f"of all tokens, massive too {clean.fvu_all:.4f}" in text
    assert "they stay (--massive splice" in text
    assert "they are replaced too (--massive splice)" in " ".join(evaluation({SITE: spliced}).split())


@pytest.mark.parametrize("limit", [None, 1e9])
def test_without_massive_tokens_there_is_one_fvu_and_nothing_is_said(model, groups, few, limit):
    plain = ITDA(few.atoms, few.labels, k=4, massive_norm=limit)
    found = evaluate_groups(model, lambda: groups, {SITE: plain})[SITE]
    assert (found.massive_tokens, found.massive_energy) == (0, 0.0)
    assert found.fvu_all == found.fvu
    assert "massive" not in evaluation({SITE: found})


def test_where_all_tokens_are_massive_there_is_no_fvu_and_no_loss_from_the_splice(model, groups, few):
    found = evaluate_groups(model, lambda: groups, {SITE: ITDA(few.atoms, few.labels, k=4, massive_norm=1e-9)})[SITE]
    assert found.massive_tokens == found.tokens
    assert np.isnan(found.fvu)
    assert np.isnan(found.l0)
    assert found.ce_spliced == found.ce_zero == found.ce_clean
    assert "nan" in evaluation({SITE: found}) or "-" in evaluation({SITE: found})


def test_an_outlier_dimension_makes_nobody_massive():
    model = sink_model("dimension")
    groups = list(model.windower(24).groups(Corpus.from_texts(texts(6)), 4))
    for layer in range(LAYERS):
        x = read(model, groups, Site(layer))
        limit = limit_of(median_norm(x))
        assert float(x.abs().amax(dim=0).max()) > 100 * float(x.abs().amax(dim=0).median())
        assert not ITDA(torch.eye(WIDTH), labels(WIDTH), k=1, massive_norm=limit).is_massive(x).any()


def test_a_streamed_model_is_measured_in_the_same_way(model, groups, few, clean, tmp_path):
    from itda.sources.streamed.model import StreamedModel

    streamed = StreamedModel.load(str(save(tmp_path / "m")), device="cpu", head=True, budget=2**30)
    found = evaluate_groups(streamed, lambda: groups, {SITE: few})[SITE]
    for name in ("massive_tokens", "fvu", "fvu_all", "ce_spliced", "ce_zero", "ce_mean", "kl"):
        assert getattr(found, name) == pytest.approx(getattr(clean, name), rel=1e-5), name
