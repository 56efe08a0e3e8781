"""Use of atoms by two models: counts against a plain loop, and what is found."""

import numpy as np
import pytest
import torch

from itda.core.code import SparseCode
from itda.core.diffing.usage import UsageTally
from itda.errors import SettingError

ATOMS, K = 40, 3


def codes(tokens, seed, more=None):
    """Random codes; `more` is an atom that half of the tokens use besides."""
    generator = torch.Generator().manual_seed(seed)
    indices = torch.stack([torch.randperm(ATOMS, generator=generator)[:K] for _ in range(tokens)])
    if more is not None:
        indices[::2, 0] = more
    return SparseCode.from_picks(indices, torch.randn(tokens, K, generator=generator), torch.full((tokens,), K))


def documents(tokens):
    return np.array([f"document {i // 10}" for i in range(tokens)], dtype=object)


def test_frequencies_and_strengths_are_those_of_a_plain_loop():
    base, changed, names = codes(60, 0), codes(60, 1), documents(60)
    tally = UsageTally(ATOMS)
    for part in (slice(0, 25), slice(25, 60)):
        both = (SparseCode(c.indices[part], c.coefficients[part], c.count[part]) for c in (base, changed))
        tally.add(names[part], *both)
    usage = tally.usage()
    for model, code in enumerate((base, changed)):
        dense = code.dense(ATOMS).double().numpy()
        used = dense != 0
        np.testing.assert_allclose(usage.frequency[model], used.mean(axis=0))
        expected = np.abs(dense).sum(axis=0) / np.maximum(used.sum(axis=0), 1)
        np.testing.assert_allclose(usage.strength[model], expected, rtol=1e-6)
    change = (changed.dense(ATOMS).double().abs().mean(0) - base.dense(ATOMS).double().abs().mean(0)).numpy()
    np.testing.assert_allclose(usage.change.value, change, atol=1e-7)


def test_an_atom_that_only_the_changed_model_uses_more_is_the_one_found():
    tally = UsageTally(ATOMS)
    tally.add(documents(2000), codes(2000, 2), codes(2000, 3, more=7))
    usage = tally.usage()
    assert usage.found.nonzero()[0].tolist() == [7]
    assert usage.change.low[7] > 0


def test_two_readings_of_the_same_use_have_no_finding_and_no_change():
    tally, code = UsageTally(ATOMS), codes(500, 4)
    tally.add(documents(500), code, code)
    usage = tally.usage()
    assert not usage.found.any()
    assert not usage.change.value.any()


def test_no_token_is_refused():
    with pytest.raises(SettingError, match="read some first"):
        UsageTally(3).usage()
