"""How the test run checks types and shapes: what jaxtyping checks, in a third of its time, which was half of all.

jaxtyping checks every argument twice, before the call and after it, binds arguments by name, and copies what it knows
of the axes at each array. Here each is checked once, the result too, and a usual array takes a few steps. What is
unusual, and what is wrong, goes on to jaxtyping.
"""

import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any

import jaxtyping
import numpy as np
import torch
from beartype import BeartypeConf, beartype
from jaxtyping import _array_types as array_types
from jaxtyping import _decorator as decorator
from jaxtyping import _storage as storage

by_jaxtyping = jaxtyping.jaxtyped
is_by_jaxtyping = array_types._MetaAbstractArray.__instancecheck__
type_checked = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))


class Plain:
    """The axes of an array type, each a name, a number or anything, and one may stand for several: for a quick look."""

    def __init__(self, dims: tuple) -> None:
        many = [place for place, dim in enumerate(dims) if _is_many(dim)]
        self.before = many[0] if many else None
        """How many axes come before the one that stands for several, if there is one."""
        self.several = getattr(dims[many[0]], "name", None) if many else None
        self.axes = [_axis(dim) for dim in dims if not _is_many(dim)]
        self.dtypes: set = set()
        """Those that jaxtyping has found to be right."""

    def agrees(self, shape: tuple[int, ...]) -> bool:
        """Whether a shape agrees with the axes known so far, to which it adds its own."""
        stack = getattr(storage._shape_storage, "memo_stack", None)
        sizes, shapes = stack[-1][:2] if stack else ({}, {})
        added, middle = [], None
        if self.before is not None:
            after = len(shape) - (len(self.axes) - self.before)
            if after < self.before:
                return False
            middle = (False, shape[self.before : after])
            if self.several is not None and shapes.get(self.several, middle) != middle:
                return False
            shape = shape[: self.before] + shape[after:]
        elif len(shape) != len(self.axes):
            return False
        for axis, size in zip(self.axes, shape, strict=True):
            expected = sizes.get(axis) if type(axis) is str else size if axis is None else axis
            if expected is None:
                sizes[axis] = size
                added.append(axis)
            elif expected != size:
                for name in added:
                    del sizes[name]
                return False
        if self.several is not None:
            shapes[self.several] = middle
        return True


@functools.cache
def plain_of(hint: Any) -> Plain | None:
    """The axes of an array type, unless there is something unusual about it."""
    usual = getattr(hint, "array_type", None) in (torch.Tensor, np.ndarray) and all(map(_is_plain, hint.dims))
    return Plain(hint.dims) if usual else None


def _is_plain(dim: Any) -> bool:
    kinds = (array_types._NamedDim, array_types._FixedDim, array_types._NamedVariadicDim)
    anything = dim is array_types._anonymous_dim or dim is array_types._anonymous_variadic_dim
    return anything or (isinstance(dim, kinds) and not dim.broadcastable and not getattr(dim, "treepath", False))


def _is_many(dim: Any) -> bool:
    return dim is array_types._anonymous_variadic_dim or isinstance(dim, array_types._NamedVariadicDim)


def _axis(dim: Any) -> str | int | None:
    return None if dim is array_types._anonymous_dim else getattr(dim, "name", None) or dim.size


def is_instance(cls: Any, obj: Any) -> bool:
    """Whether a value is of an array type, in its place of `isinstance`."""
    plain = plain_of(cls)
    if plain is None or not isinstance(obj, cls.array_type):
        return is_by_jaxtyping(cls, obj)
    if obj.dtype in plain.dtypes and plain.agrees(obj.shape):
        return True
    right = is_by_jaxtyping(cls, obj)
    if right:
        plain.dtypes.add(obj.dtype)
    return right


def has_shapes(hint: Any) -> bool:
    """Whether there is an array type in a hint."""
    return (inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray)) or any(
        has_shapes(part) for part in typing.get_args(hint)
    )


def checked(function: Any = None, *, typechecker: Any = None) -> Any:
    """As jaxtyping's import hook checks a function, but in less time; errors are of the same kind."""
    if function is None:
        return lambda given: checked(given, typechecker=typechecker)
    if inspect.isfunction(function) and typechecker is not None:
        try:
            hints = typing.get_type_hints(function)
        except Exception:  # a hint that cannot be read here: jaxtyping leaves it out and checks the others
            return by_jaxtyping(function, typechecker=typechecker)
        return shape_checked(function, hints) if any(map(has_shapes, hints.values())) else type_checked(function)
    return by_jaxtyping(function, typechecker=typechecker)


def shape_checked(function: Callable, hints: dict[str, Any]) -> Callable:
    """A function that checks its arguments, and then its result, with the same sizes of axes."""
    signature = inspect.signature(function)
    typed = [p.replace(annotation=hints.get(p.name, p.empty)) for p in signature.parameters.values()]
    names = (function.__name__, function.__qualname__, function.__module__)
    arguments = signature.replace(parameters=typed, return_annotation=inspect.Signature.empty)
    takes = type_checked(decorator._make_fn_with_signature(*names, arguments, output=False))

    def result(value):
        return value

    result.__name__, result.__qualname__, result.__module__ = names
    result.__annotations__ = {"return": hints.get("return", Any)}
    gives = type_checked(result)

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        __tracebackhide__ = True
        storage.push_shape_memo({})
        try:
            takes(*args, **kwargs)
            return gives(function(*args, **kwargs))
        finally:
            storage.pop_shape_memo()

    return wrapped


def check_everything() -> None:
    """Take this place in jaxtyping; before the package is imported."""
    # `decorator` is where jaxtyping takes methods, properties and dataclasses apart.
    jaxtyping.jaxtyped = decorator.jaxtyped = checked
    array_types._MetaAbstractArray.__instancecheck__ = is_instance
