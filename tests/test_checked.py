"""The test run checks the types and shapes of every call, in whatever process a test runs."""

from collections.abc import Iterator

import jaxtyping
import numpy as np
import pytest
import shape_checks
import torch
from beartype import beartype
from jaxtyping import Bool, Float, Float32, Int, Shaped
from jaxtyping import _storage as storage

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


SHAPES = [(), (2,), (3,), (2, 3), (3, 3), (3, 0), (1, 3), (2, 3, 3)]


def by_both(hint, value, known):
    """Whether a value is of an array type, and the sizes of axes known then: as here, and as jaxtyping finds."""
    found = []
    for is_instance in (shape_checks.is_instance, shape_checks.is_by_jaxtyping):
        sizes, shapes, *_ = storage.push_shape_memo({})
        for name, size in known.items():
            (shapes if name.startswith("*") else sizes)[name.removeprefix("*")] = size
        try:
            found.append((is_instance(hint, value), *map(dict, storage.get_shape_memo()[:2])))
        finally:
            storage.pop_shape_memo()
    return found


VALUES = [
    *(torch.zeros(shape, dtype=dtype) for shape in SHAPES for dtype in (torch.float32, torch.float64, torch.int64)),
    *(np.zeros(shape, dtype) for shape in SHAPES for dtype in (np.float32, np.int64, bool)),
    None,
    3,
]


@pytest.mark.parametrize(
    "axes", ["", "a", "a b", "a a", "_ b", "3 b", "a 0", "*c b", "a *c a", "*c", "a ...", "#a b", "*#c b"]
)
@pytest.mark.parametrize("kind", [Float, Float32, Int, Bool, Shaped])
@pytest.mark.parametrize("array", [torch.Tensor, np.ndarray])
def test_an_array_is_what_jaxtyping_finds_it_to_be(array, kind, axes):
    for value in [*VALUES, *reversed(VALUES)]:
        for known in ({}, {"a": 3}, {"b": 3}, {"a": 2, "b": 0}, {"*c": (False, (2,)), "b": 3}, {"*c": (True, (1,))}):
            here, jaxtypings = by_both(kind[array, axes], value, known)
            assert here == jaxtypings


def test_axes_are_the_same_in_all_arguments_and_the_result_and_forgotten_after_a_call():
    def function(x: Float[torch.Tensor, "a b"], y: Float[torch.Tensor, " b"], rows=2) -> Float[torch.Tensor, " a"]:
        return torch.zeros(rows)

    def generator(x: Float[torch.Tensor, " a"]) -> Iterator[Float[torch.Tensor, " a"]]:
        yield x

    def takes_more(x: Float[torch.Tensor, " a"], *more: int, name: str = "", **others: int) -> int:
        return len(x) + sum(more) + len(name) + sum(others.values())

    function, generator, takes_more = (
        shape_checks.checked(given, typechecker=beartype) for given in (function, generator, takes_more)
    )
    for b in (3, 4):
        assert len(function(torch.ones(2, b), y=torch.ones(b))) == 2
    wrong = [
        lambda: function(torch.ones(2, 3), torch.ones(4)),
        lambda: function(torch.ones(2, 3), torch.ones(3), 5),
        lambda: function(torch.ones(2), torch.ones(3)),
        lambda: function(torch.ones(2, 3), None),
        lambda: generator(3),
        lambda: takes_more(torch.ones(2), 1, "two"),
        lambda: takes_more(torch.ones(2), one="two"),
        lambda: takes_more(torch.ones(2), name=3),
    ]
    for call in wrong:
        with pytest.raises(jaxtyping.TypeCheckError):
            call()
    with pytest.raises(TypeError, match="missing"):
        function(torch.ones(2, 3))
    assert [len(x) for x in generator(torch.ones(2))] == [2]
    assert takes_more(torch.ones(2), 1, 2, name="ab", one=1) == 8
    assert not storage._has_shape_memo()
