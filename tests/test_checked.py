"""The test run checks the types and shapes of every call, in whatever process a test runs."""

import jaxtyping
import pytest
import torch
from beartype.roar import BeartypeCallHintViolation

from itda import Site
from itda.config import parse_count
from itda.core.metrics import Unexplained

WRONG = {
    "a shape": (lambda: Unexplained(4).update(torch.ones(3, 4), torch.ones(2, 4)), jaxtyping.TypeCheckError),
    "a type beside shapes": (lambda: Unexplained(4).update(torch.ones(3, 4), None), jaxtyping.TypeCheckError),
    "the type of a function without shapes": (lambda: parse_count(5), BeartypeCallHintViolation),
    "the type of a dataclass without shapes": (lambda: Site("three"), BeartypeCallHintViolation),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_found(what):
    call, error = WRONG[what]
    with pytest.raises(error):
        call()
