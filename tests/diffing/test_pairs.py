"""Two models side by side: the same tokens, each model's own activations and predictions, in one pass."""

from collections import deque
from itertools import pairwise

import numpy as np
import pytest
import torch
from changed_models import CORPUS, SITES, Found, another_width, changed, of, pair, saved
from hypothesis import given, settings
from hypothesis import strategies as st
from sources.models.families import language_model, shared

from itda.core.batch import Site
from itda.diffing import lockstep, massive_pairs
from itda.diffing.batches import PairedBatch
from itda.diffing.divergence import divergence
from itda.errors import ActivationError, ModelError, SettingError
from itda.sources.corpora.corpus import Corpus
from itda.sources.models.splicing import Spliced
from itda.sources.models.transformers import LanguageModel
from itda.sources.source import ModelSource
from itda.sources.streamed.model import StreamedModel


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A base and a changed model on disk, by family."""
    made = {}

    def of_family(family):
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            made[family] = [saved(model, folder / name) for model, name in zip(pair(family), "bc", strict=True)]
        return made[family]

    return of_family


@pytest.mark.parametrize("family", ["gpt2", "gemma-3"])
def test_each_model_gives_what_it_gives_alone(family):
    base, other = pair(family)
    found = Found(of(base, other, first_tokens=True))
    for number, model in enumerate((base, other)):
        for site in SITES:
            batches = [batch[site] for batch in ModelSource(model, CORPUS, [site], window=12, batch_size=4)]
            alone = torch.cat([batch.activations for batch in batches])
            assert torch.equal(found.rows(site, number), alone)
            assert found.keys(site) == [key for batch in batches for key in batch.labels.keys()]  # noqa: SIM118
            assert found.tokens(site) == list(range(len(alone)))


@pytest.mark.parametrize("family", ["llama", "gpt-j"])
def test_a_streamed_pair_is_the_pair_in_memory_to_the_bit(family, folders):
    names = folders(family)
    whole = Found(of(*map(LanguageModel.load, names)))
    streamed = [StreamedModel.load(name, head=True) for name in names]
    for models in (streamed, [LanguageModel.load(names[0]), streamed[1]]):
        found = Found(of(*models))
        for site in SITES:
            assert torch.equal(found.difference(site), whole.difference(site))
            assert found.tokens(site) == whole.tokens(site)
        assert np.array_equal(found.kl, whole.kl, equal_nan=True)
    assert [model.replayable for model in streamed] == [family != "gpt-j"] * 2


def test_weights_of_a_streamed_pair_are_read_once(folders):
    streamed = [StreamedModel.load(name, head=True) for name in folders("llama")]
    list(of(*streamed, sites=[Site(0), Site(2)]))
    for model in streamed:
        assert model.weights.bytes_read == sum(each.bytes for block in model.weights.of_block for each in block)


def test_a_streamed_pair_has_one_block_of_each_in_memory(folders):
    """As many as one model that reads ahead: most of the memory of a pair is theirs."""
    models = [StreamedModel.load(name, head=True, device="cpu", read_ahead=False) for name in folders("llama")]
    ahead = StreamedModel.load(folders("llama")[0], head=True, device="cpu").weights
    most = [0, 0]

    def watch(_place):
        for number, model in enumerate(models):
            there = [any(not p.is_meta for p in block.parameters()) for block in model.weights.blocks]
            most[number] = max(most[number], sum(there))

    for model in models:
        model.watch = watch
    found, whole = Found(of(*models)), Found(of(*map(LanguageModel.load, folders("llama"))))
    assert most == [1, 1]
    assert torch.equal(found.difference(SITES[0]), whole.difference(SITES[0]))
    assert models[0].weights.bytes_in_use < ahead.bytes_in_use


def test_kl_is_that_of_the_models_own_logits():
    base, other = pair()
    source = of(base, other)
    found, groups = Found(source), list(source._groups())
    for group, each in zip(groups, found.predictions, strict=True):
        logits = [model.logits(group)[group.is_activation].double().log_softmax(-1) for model in (other, base)]
        slow = torch.nn.functional.kl_div(logits[1], logits[0], log_target=True, reduction="none").sum(-1)
        predicts = group.predicts[group.is_activation].numpy()
        assert np.array_equal(np.isnan(each.kl), ~predicts)
        np.testing.assert_allclose(each.kl[predicts], slow.numpy()[predicts], rtol=1e-4, atol=1e-6)
    assert 0.01 < np.nanmean(found.kl) < 10


def test_first_tokens_of_windows_count_only_when_asked_for():
    base, other = pair()
    source, with_first = of(base, other), of(base, other, first_tokens=True)
    found, everything = Found(source), Found(with_first)
    site = SITES[0]
    starts = {(window.document, window.position) for d in CORPUS for window in source.windower.windows(d)}
    assert {key[:2] for key in everything.keys(site)} - {key[:2] for key in found.keys(site)} == starts
    assert source.first_left_out == len(starts)
    assert with_first.first_left_out == 0


@settings(max_examples=4)
@given(tokens=st.integers(1, 100), size=st.integers(1, 5))
def test_tokens_end_the_stream_whatever_the_groups(tokens, size):
    model = shared("llama")
    source = of(model, model, tokens=tokens, batch_size=size, predictions=False)
    found, everything = Found(source), [key for group in of(model, model)._groups() for key in group.labels().keys()]  # noqa: SIM118
    assert found.tokens(SITES[0]) == list(range(tokens))
    assert found.keys(SITES[0]) == everything[:tokens]
    assert source.read == tokens


def test_a_model_against_itself_differs_by_nothing():
    source = of(shared("llama"), shared("llama"))
    found = Found(source)
    assert source.same
    assert all(not found.difference(site).any() for site in SITES)
    assert np.nanmax(found.kl) == 0


def test_controls_are_read_at_the_same_tokens():
    base, other = pair()
    control = changed(base, 0.5, "control")
    found, alone = Found(of(base, other, controls=[control, base])), Found(of(base, control))
    assert torch.equal(found.rows(SITES[0], 2), alone.rows(SITES[0], 1))
    assert torch.equal(found.rows(SITES[0], 3), found.rows(SITES[0], 0))
    kl = np.concatenate([each.control_kl[0] for each in found.predictions])
    assert np.array_equal(kl, alone.kl, equal_nan=True)
    assert np.nanmax(np.concatenate([each.control_kl[1] for each in found.predictions])) == 0


def test_massive_tokens_of_either_model_are_left_out_and_counted(monkeypatch):
    monkeypatch.setattr(massive_pairs, "MEDIAN_TOKENS", 40)
    base, other = pair()

    def spiked(model, rows):
        def keep_pass(group, sites, keep, **options):
            found, output = type(model)._pass(model, group, sites, keep, **options)
            for row in rows:
                found[SITES[0]][row] *= 1000
            return found, output

        return keep_pass

    monkeypatch.setattr(base, "_pass", spiked(base, [3]), raising=False)
    monkeypatch.setattr(other, "_pass", spiked(other, [3, 5]), raising=False)
    source = of(base, other, tokens=100)
    found = Found(source)
    groups = len(list(source._groups()))
    counts = source.massive[SITES[0]]
    assert (counts.seen, counts.left_out, counts.in_model) == (100, 2 * groups, [groups, 2 * groups])
    assert len(found.tokens(SITES[0])) == 100 - 2 * groups
    assert 3 not in found.tokens(SITES[0])
    assert found.tokens(SITES[1]) == list(range(100))
    assert sum(len(each) for each in found.predictions) == 100


def test_a_model_that_is_not_finite_is_named_with_the_token():
    base = shared("llama")
    broken = changed(base)
    with torch.no_grad():
        next(iter(broken.model.parameters()))[:] = torch.nan
    with pytest.raises(ActivationError, match=r"changed has a number that is not finite at layer_.*token"):
        list(of(base, broken))


def test_other_widths_and_depths_have_no_shared_basis_and_are_read():
    base, wide = shared("llama"), another_width("llama", layers=4)
    source = of(base, wide)
    found = Found(source)
    assert not source.shared_basis
    assert source.why_no_shared_basis == "llama is 32 wide, and wide 48"
    assert found.rows(SITES[0], 0).shape[1] == 32
    assert found.rows(SITES[0], 1).shape[1] == 48
    assert np.isfinite(np.nanmean(found.kl))


def test_a_fine_tune_shares_the_basis_and_another_seed_does_not():
    base, other = pair()
    assert of(base, other).shared_basis
    assert of(base, base).shared_basis
    seed = changed(language_model("llama"), 1.0, "seed")
    assert "neither was trained from the other" in of(base, seed).why_no_shared_basis
    assert "3 layers, and wide 4" in of(base, another_width(width=32, layers=4)).why_no_shared_basis


def test_models_that_predict_nothing_are_compared_by_activations_alone():
    base, other = pair("bert")
    source = of(base, other)
    found = Found(source)
    assert not source.predictions
    assert found.predictions == []
    assert found.difference(SITES[0]).any()


@pytest.mark.parametrize(("number", "error"), [(0, RuntimeError("broken")), (1, KeyboardInterrupt())])
def test_an_error_in_either_model_ends_both(monkeypatch, number, error, folders):
    models = [StreamedModel.load(name, head=True) for name in folders("llama")]
    seen = []

    def fail(place):
        seen.append(place)
        if len(seen) == 7:
            raise error

    models[number].watch = fail
    with pytest.raises(type(error)):
        list(of(*models))
    assert all(model.turns._owner is None for model in models)
    models[number].watch = lambda _place: None
    assert len(Found(of(*models)).at(SITES[0])) > 0


def test_who_stops_early_leaves_both_models_free(folders):
    models = [StreamedModel.load(name, head=True) for name in folders("llama")]
    batches = iter(of(*models, most_in_flight=1))
    next(batches)
    batches.close()
    assert all(model.turns._owner is None for model in models)


def test_no_more_than_a_flight_waits(monkeypatch, folders):
    """Models in memory run one group after the other, streamed ones a flight."""
    most = []
    real = lockstep.read_together

    def read_together(models, groups, *args, **options):
        most.append(len(groups))
        return real(models, groups, *args, **options)

    monkeypatch.setattr("itda.diffing.pairs.read_together", read_together)
    list(of(*pair()))
    assert set(most) == {1}
    most.clear()
    streamed = [StreamedModel.load(name, head=True) for name in folders("llama")]
    list(of(*streamed, most_in_flight=3 * 48))
    assert max(most) == 3


def test_predictions_in_parts_of_any_size_are_brought_together():
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(10, 5, generator=draw)

    def cut(sizes):
        starts = np.cumsum([0, *sizes])
        return deque(Spliced(0, None, torch.arange(a, b), logits[a:b]) for a, b in pairwise(starts))

    waiting = [cut([10]), cut([3, 4, 3]), cut([5, 5])]
    found = []
    while all(waiting):
        found.append(lockstep._next_logits(waiting, [0, 1, 2, 0]).logits)
    assert [len(each[0]) for each in found] == [3, 2, 2, 3]
    assert all(torch.equal(torch.cat([each[i] for each in found]), logits) for i in range(4))


@settings(max_examples=10)
@given(st.integers(1, 30), st.integers(2, 40), st.integers(0, 3))
def test_divergence_is_the_sum_over_the_vocabulary(tokens, vocabulary, padding):
    draw = torch.Generator().manual_seed(tokens * vocabulary)
    p, q = (5 * torch.randn(tokens, vocabulary, generator=draw) for _ in range(2))
    slow = (p.double().softmax(-1) * (p.double().log_softmax(-1) - q.double().log_softmax(-1))).sum(-1)
    padded = torch.cat([q, torch.full((tokens, padding), 9.0)], dim=1)
    np.testing.assert_allclose(divergence(p, padded), slow, rtol=1e-4, atol=1e-5)
    assert not divergence(p, p).any()


def test_divergence_of_ruled_out_tokens_is_finite():
    inf = torch.inf
    assert divergence(torch.tensor([[0.0, -inf, 0.0]]), torch.tensor([[0.0, -inf, 0.0]])).tolist() == [0.0]
    assert divergence(torch.tensor([[0.0, -inf]]), torch.tensor([[0.0, 0.0]])).tolist() == pytest.approx([np.log(2)])


def test_a_layer_or_a_window_that_one_model_lacks_is_refused():
    base = shared("llama")
    with pytest.raises(ModelError, match="no layer 3: the model has layers 0 to 2"):
        of(another_width("llama", layers=4), base, sites=[Site(3)])
    with pytest.raises(SettingError, match="use --window"):
        of(base, changed(base), window=65)


def test_batches_are_masked_like_arrays():
    batch = next(each for each in of(*pair()) if isinstance(each, PairedBatch))
    mask = torch.zeros(len(batch), dtype=torch.bool)
    mask[2] = True
    one = batch[mask]
    assert one.tokens.tolist() == [2]
    assert torch.equal(one.changed, batch.changed[2:3])
    assert one.labels.keys() == batch.labels[[2]].keys()


def test_a_corpus_of_nothing_yields_nothing():
    assert list(of(*pair(), corpus=Corpus.from_texts([]))) == []
