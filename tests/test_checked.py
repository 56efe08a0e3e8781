"""The test run checks the types and shapes of every call, in whatever process a test runs."""

import inspect
from collections.abc import Iterator
from decimal import Decimal

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


TYPED = """
from __future__ import annotations
from typing import TYPE_CHECKING
import torch
from jaxtyping import Float
if TYPE_CHECKING:
    from decimal import Decimal
    from itda.core.metrics import Unexplained

class Pair:
    def with_me(self, other: Pair, amount: Decimal | None = None) -> Pair:
        return other

    def without_me(self, gone: Unexplained, rows: Float[torch.Tensor, " n"]) -> int:
        return len(rows)

def made(width):
    def inner(x: Float[torch.Tensor, "n d"], y: Float[torch.Tensor, " n"] | None = None) -> Float[torch.Tensor, " n"]:
        return x[:width, 0]
    return inner
"""


def test_checks_are_made_at_the_first_call_with_names_that_only_a_type_checker_imports(tmp_path, monkeypatch):
    (tmp_path / "typed_only.py").write_text(TYPED)
    monkeypatch.syspath_prepend(tmp_path)
    import typed_only  # pyright: ignore[reportMissingImports]

    with_me, without_me = (
        shape_checks.checked(method, typechecker=beartype)
        for method in (typed_only.Pair.with_me, typed_only.Pair.without_me)
    )
    pair = typed_only.Pair()
    assert with_me(pair, pair, Decimal(1)) is pair
    assert without_me(pair, "anything: it is of this package", torch.ones(2)) == 2
    for call in (
        lambda: with_me(pair, 3),
        lambda: with_me(pair, pair, 1.0),
        lambda: without_me(pair, None, torch.ones(2, 3)),
    ):
        with pytest.raises(jaxtyping.TypeCheckError):
            call()


def test_functions_made_by_one_line_have_their_checks_in_common(tmp_path, monkeypatch):
    (tmp_path / "typed_within.py").write_text(TYPED)
    monkeypatch.syspath_prepend(tmp_path)
    import typed_within  # pyright: ignore[reportMissingImports]

    before = len(shape_checks.of_inner)
    for width in (1, 2, 3):
        inner = shape_checks.checked(typed_within.made(width), typechecker=beartype)
        assert len(inner(torch.ones(width, 4))) == width
        for wrong in (lambda: inner(torch.ones(width + 1, 4)), lambda: inner(torch.ones(2, 4), torch.ones(3))):  # noqa: B023
            with pytest.raises(jaxtyping.TypeCheckError):
                wrong()
    assert len(shape_checks.of_inner) == before + 1


def test_a_coroutine_stays_one():
    async def handler(x: int) -> int:
        return x

    assert inspect.iscoroutinefunction(shape_checks.checked(handler, typechecker=beartype))
