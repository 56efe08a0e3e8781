"""The transported dictionary: exact where nothing changed, and what only the changed model needs."""

import numpy as np
import pytest
import torch

from itda.core.diffing.transported import BLOCK, OPENING, TransportedPass
from itda.core.pursuit import encoder
from itda.errors import SettingError

WIDTH = 16


def clusters(tokens, seed, width=WIDTH, number=30):
    """Activations that a dictionary can explain: noisy copies of a few directions."""
    generator = torch.Generator().manual_seed(seed)
    middle = torch.randn(number, width, generator=torch.Generator().manual_seed(99))
    group = torch.randint(number, (tokens,), generator=generator)
    return middle[group] + 0.1 * torch.randn(tokens, width, generator=generator)


def passed(base, changed, cuts=(), **settings):
    both = TransportedPass(base.shape[1], changed.shape[1], k=3, **settings)
    for x, y in zip(base.tensor_split(list(cuts)), changed.tensor_split(list(cuts)), strict=True):
        both.offer(x, y)
    return both.finish()


def test_a_model_against_itself_has_no_atom_of_its_own_and_no_margin():
    x = torch.randn(OPENING + 700, WIDTH, generator=torch.Generator().manual_seed(0))
    found = passed(x, x)
    assert len(found.rows) > 50
    assert len(found.changed_rows) == 0
    assert torch.equal(found.base_atoms, found.changed_atoms)
    assert np.array_equal(found.base_error, found.changed_error)


def test_a_rotated_model_of_another_width_has_none_either():
    x = clusters(OPENING + 1000, 1)
    rotation = torch.linalg.qr(torch.randn(WIDTH + 8, WIDTH, generator=torch.Generator().manual_seed(5)))[0]
    found = passed(x, x @ rotation.T)
    assert found.changed_atoms.shape == (len(found.rows), WIDTH + 8)
    np.testing.assert_allclose(found.base_error, found.changed_error, atol=1e-5)


def test_a_direction_that_only_the_changed_model_has_is_its_own_atom_at_its_first_token():
    x = clusters(OPENING + 2000, 2)
    y = x.clone()
    own = torch.arange(OPENING + 600, len(x), 50)
    y[own] = 6 * torch.nn.functional.normalize(torch.arange(WIDTH, dtype=torch.float32) - 7, dim=0)
    found = passed(x, y)
    assert found.changed_rows.tolist() == [OPENING + 600]
    assert found.users[0] >= 0.9 * (len(own) - len(own[own < OPENING + 600 + BLOCK]))
    assert found.explained[0] > 0
    assert (found.changed_error[own] - found.base_error[own])[0] > 0


@pytest.mark.parametrize("cuts", [(1, 2, 2900), (OPENING - 1, OPENING + 1), (700, 701, 2048, 2560)])
def test_how_the_stream_is_cut_changes_nothing(cuts):
    x, y = clusters(3000, 3), clusters(3000, 4)
    whole, cut = passed(x, y), passed(x, y, cuts)
    assert torch.equal(whole.changed_atoms, cut.changed_atoms)
    assert np.array_equal(whole.changed_error, cut.changed_error)


def test_every_own_atom_was_needed_when_it_came():
    x, y = clusters(3000, 5), clusters(3000, 5) + 0.5 * clusters(3000, 6)
    found = passed(x, y, threshold=0.3)
    assert len(found.changed_rows)
    mean = y[:OPENING].mean(dim=0)
    for row in found.changed_rows.tolist():
        before = found.changed_atoms[: len(found.rows)]
        error = encoder(before, 3, "mp")(y[row : row + 1] - mean)[1]
        assert found.base_error[row] <= 0.3 or row < BLOCK
        assert float(error) > 0 or len(before) == 0


def test_bad_settings_and_an_empty_stream_are_refused():
    with pytest.raises(SettingError, match="k is 0"):
        TransportedPass(4, 4, k=0)
    with pytest.raises(SettingError, match="no token"):
        TransportedPass(4, 4, k=1).finish()
