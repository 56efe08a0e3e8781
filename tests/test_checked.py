"""The test run checks the types and shapes of every call, in whatever process a test runs."""

import jaxtyping
import pytest
import torch

from itda import Site
from itda.core.metrics import Unexplained
from itda.parsing import parse_count

WRONG = {
    "a shape": lambda: Unexplained(4).update(torch.ones(3, 4), torch.ones(2, 4)),
    "a type beside shapes": lambda: Unexplained(4).update(torch.ones(3, 4), None),
    "the type of a function without shapes": lambda: parse_count(5),
    "the type of a dataclass without shapes": lambda: Site("three"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_found(what):
    with pytest.raises(jaxtyping.TypeCheckError):
        WRONG[what]()
