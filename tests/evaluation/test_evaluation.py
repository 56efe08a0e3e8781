"""What evaluation measures, against direct computations."""

import math
from dataclasses import fields

import pytest
import torch
import transformers
from torch import nn

from itda.core.batch import Site
from itda.core.code import SparseCode
from itda.core.dictionary import ITDA
from itda.core.labels import Label, Labels
from itda.errors import CorpusError, ModelError
from itda.evaluation.evaluate import evaluate_groups
from itda.sources.corpora.corpus import Corpus, python_docs
from itda.sources.models.transformers import LanguageModel

WIDTH, WINDOW, SITE = 192, 24, Site(2)
OTHER = Site(4, "mlp_out")


def labels(count):
    return Labels.of(*(Label("d", i, i, i + 1, i, "", "x", "") for i in range(count)))


class Scaled(ITDA):
    """Stands in for a dictionary: reconstructs an activation as `factor` times itself, and picks the first atom."""

    def encode(self, activations):
        object.__setattr__(self, "x", activations)
        rows = len(activations)
        first, one = torch.zeros(rows, 1, dtype=torch.long), torch.ones(rows, dtype=torch.long)
        return SparseCode(first, torch.ones(rows, 1), one)

    def decode(self, code):
        return getattr(self, "factor", 1.0) * self.x  # a copy with another k has no factor  # pyright: ignore[reportAttributeAccessIssue]


def scaled(factor):
    dictionary = Scaled(torch.eye(WIDTH)[:3], labels(3), k=1)
    object.__setattr__(dictionary, "factor", factor)
    return dictionary


@pytest.fixture(scope="module")
def tiny():
    return LanguageModel.load("tiny", device="cpu")


@pytest.fixture(scope="module")
def docs():
    documents = [document for document, _ in zip(python_docs(), range(3), strict=False)]
    return Corpus.from_texts([document.text[:250] for document in documents])


def groups_of(model, corpus, size=4):
    groups = list(model.windower(WINDOW).groups(corpus, size))
    return lambda: groups


@pytest.fixture(scope="module")
def basis():
    return ITDA(torch.eye(WIDTH), labels(WIDTH), k=WIDTH)


@pytest.fixture(scope="module")
def by_basis(tiny, docs, basis):
    return evaluate_groups(tiny, groups_of(tiny, docs), {SITE: basis})[SITE]


@pytest.fixture(scope="module")
def few():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ITDA(nn.functional.normalize(torch.randn(40, WIDTH), dim=1), labels(40), k=4)


@pytest.fixture(scope="module")
def by_few(tiny, docs, few):
    return evaluate_groups(tiny, groups_of(tiny, docs), {SITE: few})[SITE]


def test_an_orthonormal_basis_scores_one_and_leaves_nothing_unexplained(by_basis):
    assert by_basis.ce_loss_score == pytest.approx(1, abs=1e-6)
    assert by_basis.fvu == pytest.approx(0, abs=1e-9)
    assert by_basis.kl == pytest.approx(0, abs=1e-6)
    assert by_basis.l0 == pytest.approx(WIDTH, abs=1)


@pytest.mark.parametrize("site", [SITE, OTHER, Site(5), Site(0, "attn_out")], ids=str)
def test_splicing_in_the_activations_themselves_changes_no_bit_of_the_loss(tiny, docs, site):
    result = evaluate_groups(tiny, groups_of(tiny, docs), {site: scaled(1.0)})[site]
    assert result.ce_spliced == result.ce_clean
    assert (result.kl, result.fvu, result.ce_loss_score) == (0.0, 0.0, 1.0)


def test_a_zero_reconstruction_scores_exactly_zero(tiny, docs):
    result = evaluate_groups(tiny, groups_of(tiny, docs), {SITE: scaled(0.0)})[SITE]
    assert result.ce_spliced == result.ce_zero
    assert result.ce_loss_score == 0.0
    assert result.fvu > 1  # about the mean, zero is worse than nothing
    assert result.kl > 0


def test_a_few_random_atoms_are_between_nothing_and_everything(by_few):
    assert by_few.kl > 0
    assert by_few.ce_clean < by_few.ce_spliced
    assert by_few.ce_clean < by_few.ce_mean
    assert by_few.fvu > 0
    assert 1 <= by_few.l0 <= 4
    assert by_few.ce_loss_score == pytest.approx(
        (by_few.ce_zero - by_few.ce_spliced) / (by_few.ce_zero - by_few.ce_clean), abs=1e-12
    )


def test_a_better_reconstruction_scores_higher(tiny, docs):
    scores = [evaluate_groups(tiny, groups_of(tiny, docs), {SITE: scaled(f)})[SITE].kl for f in (0.9, 0.5, 0.1)]
    assert 0 < scores[0] < scores[1] < scores[2]


def test_tokens_and_predicted_tokens_are_counted(tiny, docs, by_few):
    groups = groups_of(tiny, docs)()
    windows = [window for group in groups for window in group.windows]
    assert by_few.tokens == sum(len(window.token_ids) for window in windows)
    assert by_few.predicted == sum(len(window.token_ids) - 1 for window in windows)


def test_clean_cross_entropy_is_that_of_transformers_own_loss(tiny, docs):
    (group,) = groups_of(tiny, Corpus.from_texts([next(iter(docs)).text[:60]]), 1)()[:1]
    result = evaluate_groups(tiny, lambda: [group], {SITE: scaled(1.0)})[SITE]
    targets = group.input_ids.masked_fill(~group.is_activation, -100)
    targets[:, group.prefix] = -100  # what follows the special token follows no activation
    with torch.inference_mode():
        own = tiny.model(group.input_ids, attention_mask=group.attention_mask, labels=targets).loss
    assert result.ce_clean == pytest.approx(own.item(), abs=1e-5)


def test_zero_and_mean_ablation_are_direct_splices(tiny, docs, by_few):
    groups = groups_of(tiny, docs)()
    x = torch.cat([tiny.activations(g, [SITE])[SITE][g.is_activation] for g in groups])
    mean = x.double().mean(0).float()
    for expected, value in ((by_few.ce_zero, torch.zeros(WIDTH)), (by_few.ce_mean, mean)):
        total, count = 0.0, 0
        for g in groups:
            logits = tiny.logits(g, SITE, lambda a, value=value: value.expand_as(a))[g.predicts]
            total += nn.functional.cross_entropy(logits.double(), g.targets, reduction="sum").item()
            count += len(g.targets)
        assert expected == pytest.approx(total / count, abs=1e-6)


def test_fvu_is_residual_over_variance_about_the_mean(tiny, docs, few, by_few):
    x = torch.cat([tiny.activations(g, [SITE])[SITE][g.is_activation] for g in groups_of(tiny, docs)()]).double()
    residual = (x - few(x.float()).double()).square().sum()
    assert by_few.fvu == pytest.approx((residual / (x - x.mean(0)).square().sum()).item(), rel=1e-9)


@pytest.mark.parametrize("size", [1, 3])
def test_measures_do_not_depend_on_how_windows_are_grouped(tiny, docs, few, by_few, size):
    other = evaluate_groups(tiny, groups_of(tiny, docs, size), {SITE: few})[SITE]
    for name in ("tokens", "predicted", "atoms"):
        assert getattr(other, name) == getattr(by_few, name)
    # The model's own float32 sums depend on the shape of the batch, and nothing else does.
    for name in ("fvu", "l0", "ce_clean", "ce_spliced", "ce_zero", "ce_mean", "ce_loss_score", "kl"):
        assert getattr(other, name) == pytest.approx(getattr(by_few, name), rel=1e-4), name


def test_groups_in_another_order_give_the_same_measures_within_rounding(tiny, docs, few, by_few):
    groups = groups_of(tiny, docs)()
    other = evaluate_groups(tiny, lambda: groups[::-1], {SITE: few})[SITE]
    for field in fields(other):
        if field.name not in ("encode_per_second", "intervals", "massive", "headroom", "threshold", "over_threshold"):
            assert getattr(other, field.name) == pytest.approx(getattr(by_few, field.name), rel=1e-9), field.name
    for name, ends in other.intervals.items():
        assert ends == pytest.approx(by_few.intervals[name], rel=1e-9), name


def test_two_dictionaries_at_once_are_measured_as_each_alone(tiny, docs, few, by_few):
    both = evaluate_groups(tiny, groups_of(tiny, docs), {OTHER: scaled(0.5), SITE: few})
    assert list(both) == [OTHER, SITE]
    assert both[SITE] == by_few
    assert both[OTHER] == evaluate_groups(tiny, groups_of(tiny, docs), {OTHER: scaled(0.5)})[OTHER]


def test_atoms_that_are_never_picked_are_counted(tiny, docs):
    assert evaluate_groups(tiny, groups_of(tiny, docs), {SITE: scaled(1.0)})[SITE].unused_atoms == 2


def test_the_atoms_of_a_basis_that_k_is_enough_for_are_all_used(by_basis):
    assert (by_basis.atoms, by_basis.unused_atoms) == (WIDTH, 0)


def test_progress_adds_up_to_the_tokens(tiny, docs, by_few, few):
    steps = []
    evaluate_groups(tiny, groups_of(tiny, docs), {SITE: few}, progress=steps.append)
    assert sum(steps) == by_few.tokens


def test_windows_of_one_token_predict_nothing_and_have_no_loss(tiny, few):
    result = evaluate_groups(tiny, groups_of(tiny, Corpus.from_texts(["a"])), {SITE: few})[SITE]
    assert (result.tokens, result.predicted, result.ce_clean, result.kl) == (1, 0, None, None)


def test_a_group_that_predicts_nothing_adds_nothing_to_the_loss(tiny, docs, few, by_few):
    groups = [*groups_of(tiny, docs)(), *groups_of(tiny, Corpus.from_texts(["a"]))()]
    result = evaluate_groups(tiny, lambda: groups, {SITE: few})[SITE]
    assert (result.ce_clean, result.predicted) == (by_few.ce_clean, by_few.predicted)
    assert result.tokens == by_few.tokens + 1


@pytest.mark.parametrize("texts", [[], [""], ["<|bos|><|pad|>"]])
def test_no_token_to_evaluate_on_raises_with_a_remedy(tiny, few, texts):
    with pytest.raises(CorpusError, match="no token to evaluate on: name another corpus with --corpus"):
        evaluate_groups(tiny, groups_of(tiny, Corpus.from_texts(texts)), {SITE: few})


def test_logits_that_are_not_a_number_raise_with_a_remedy(docs, few):
    model = LanguageModel.load("tiny", device="cpu")
    with torch.no_grad():
        model.model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="not a number: run it in float32") as error:
        evaluate_groups(model, groups_of(model, docs), {SITE: few})
    assert "\n" not in str(error.value)


def test_an_encoder_has_fvu_and_l0_only(tiny, docs):
    config = transformers.BertConfig(
        vocab_size=4096, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        bert = LanguageModel(transformers.BertModel(config).eval(), tiny.tokenizer, "bert")
    result = evaluate_groups(bert, groups_of(bert, docs), {Site(1): ITDA(torch.eye(32), labels(32), k=2)})[Site(1)]
    assert 0 < result.fvu < math.inf
    assert result.l0 == 2
    assert (result.predicted, result.ce_clean, result.ce_loss_score, result.kl) == (0, None, None, None)


def test_bfloat16_models_are_evaluated(docs, few):
    model = LanguageModel.load("tiny", device="cpu", dtype="bfloat16")
    result = evaluate_groups(model, groups_of(model, docs), {SITE: few, OTHER: scaled(1.0)})
    assert result[OTHER].ce_spliced == result[OTHER].ce_clean
    assert math.isfinite(result[SITE].ce_loss_score)


def test_a_dictionary_with_an_offset_is_evaluated(tiny, docs):
    offset = torch.full((WIDTH,), 0.25)
    dictionary = ITDA(torch.eye(WIDTH), labels(WIDTH), k=WIDTH, offset=offset)
    assert evaluate_groups(tiny, groups_of(tiny, docs), {SITE: dictionary})[SITE].fvu == pytest.approx(0, abs=1e-9)
