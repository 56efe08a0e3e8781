"""Labels of two models: against the index of fingerprints, and where nothing changed."""

import numpy as np
import pytest
import torch

from itda.core.diffing.labels import RUNG, LabelsPass, label_difference
from itda.core.similarity.fingerprint import LEFT_OUT, STEPS, FingerprintSettings, fingerprint_of
from itda.errors import SettingError


def activations(tokens, seed, width=12):
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed))


def documents(tokens):
    return np.array([f"document {i // 7}" for i in range(tokens)], dtype=object)


@pytest.mark.parametrize("cuts", [(), (1, 99, 100), (64, 128, 250)])
def test_a_pass_is_the_comparison_of_two_fingerprints_however_it_is_cut(cuts):
    x, y, names = activations(300, 0), activations(300, 1), documents(300)
    both = LabelsPass(segment=64)
    parts = zip(x.tensor_split(list(cuts)), y.tensor_split(list(cuts)), np.split(names, list(cuts)), strict=True)
    for part in parts:
        both.offer(*part)
    found, how = both.finish(), FingerprintSettings(segment=64)
    a, b = fingerprint_of(x, how), fingerprint_of(y, how)
    smaller, larger = np.minimum(a.novelty, b.novelty).sum(), np.maximum(a.novelty, b.novelty).sum()
    assert found.index == pytest.approx(smaller / larger)
    assert found.low < found.index < found.high
    assert found.shared == (a.is_atom(RUNG) & b.is_atom(RUNG)).sum()
    assert set(found.only_changed) == set((b.is_atom(RUNG) & ~a.is_atom(RUNG)).nonzero()[0])
    assert (np.diff(found.margin[found.only_changed]) <= 0).all()
    assert (np.diff(found.margin[found.only_base]) >= 0).all()


def test_labels_of_unrelated_models_agree_as_chance_does_and_equal_ones_wholly():
    x, y, names = activations(2000, 2, 3), activations(2000, 3, 3), documents(2000)
    unrelated = label_difference(fingerprint_of(x), fingerprint_of(y), names)
    equal = label_difference(fingerprint_of(x), fingerprint_of(x), names)
    assert unrelated.adjusted < 0.3  # early tokens are newer to both
    assert (equal.index, equal.adjusted, len(equal.only_base), len(equal.only_changed)) == (1.0, 1.0, 0, 0)
    assert not equal.margin.any()


def test_a_token_that_is_massive_in_one_model_counts_in_neither():
    x = activations(100, 4)
    y = x.clone()
    y[50] *= 1000
    a, b = fingerprint_of(x), fingerprint_of(y)
    assert b.novelty[50] == LEFT_OUT
    found = label_difference(a, b, documents(100))
    assert found.tokens == 99
    assert found.margin[50] == 0
    assert found.margin.min() >= -1
    assert STEPS > 0


def test_no_token_is_refused():
    with pytest.raises(SettingError, match="no token"):
        LabelsPass().finish()
