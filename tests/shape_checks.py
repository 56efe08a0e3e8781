"""How the test run checks types and shapes: what jaxtyping checks, in a third of its time, which was half of all.

jaxtyping checks every argument twice, before the call and after it, binds arguments by name, and copies what it knows
of the axes at each array. Here each is checked once, the result too, and a usual array takes a few steps. What is
unusual, and what is wrong, goes on to jaxtyping.

A function's checks are made at its first call: most of the package's functions are not called in most processes, and
what only a type checker imports (`if TYPE_CHECKING:`) can be looked up by then.
"""

import ast
import builtins
import functools
import inspect
import sys
import typing
from collections.abc import Callable
from importlib import import_module
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
    if not inspect.isfunction(function) or typechecker is None:
        return by_jaxtyping(function, typechecker=typechecker)
    if not function.__annotations__:
        return function
    return ready_of(function, typechecker) if _is_async(function) else checked_later(function, typechecker)


def _is_async(function: Any) -> bool:
    """Whether it must stay what it is: a server asks this of a handler."""
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def checked_later(function: Callable, typechecker: Any) -> Callable:
    """A function whose checks are made when it is called first."""
    ready = None

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        __tracebackhide__ = True
        nonlocal ready
        if ready is None:
            ready = ready_of(function, typechecker)
        return ready(*args, **kwargs)

    return wrapped


def ready_of(function: Any, typechecker: Any) -> Callable:
    """A function that checks each call."""
    try:
        if "<locals>" in function.__qualname__ and not _is_async(function):
            return shape_checked(function, *checks_of_inner(function))
        hints = typing.get_type_hints(function, localns=(names := Names(function)))
    except Exception:  # a hint that cannot be read here: jaxtyping leaves it out and checks the others
        return by_jaxtyping(function, typechecker=typechecker)
    if any(map(has_shapes, hints.values())):
        return shape_checked(function, *checks_of(function, hints))
    if names.type_only:
        function.__annotations__ = hints  # where beartype reads them
    return type_checked(function)


class Names(dict):
    """The names in a function's hints: its module's, and those that only a type checker imports there.

    Of the latter, those of this package stand for anything: tests put fakes there.
    """

    def __init__(self, function: Callable) -> None:
        self.function = function
        self.type_only = False
        """Whether one of those that only a type checker imports was asked for."""

    def __missing__(self, name: str) -> Any:
        for known in (self.function.__globals__, vars(builtins)):
            if name in known:
                return known[name]
        self.type_only = True
        module = type_only(self.function.__module__)[name]
        return Any if module.startswith("itda") else getattr(import_module(module), name)


@functools.cache
def type_only(module: str) -> dict[str, str]:
    """The names that only a type checker imports in a module, and where each is from."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name: str(node.module) for node in imports for alias in node.names}


of_inner: dict[Any, tuple[Callable, Callable]] = {}


def checks_of_inner(function: Any) -> tuple[Callable, Callable]:
    """The checks of a function that is made anew at each call of another one: they are made once."""
    same = (function.__code__, function.__module__, tuple(function.__annotations__.items()))
    if same not in of_inner:
        of_inner[same] = checks_of(function, typing.get_type_hints(function, localns=Names(function)))
    return of_inner[same]


def checks_of(function: Callable, hints: dict[str, Any]) -> tuple[Callable, Callable]:
    """What takes a function's arguments and what takes its result: each checks the types of these."""
    signature = inspect.signature(function)
    typed = [p.replace(annotation=hints.get(p.name, p.empty)) for p in signature.parameters.values()]
    names = (function.__name__, function.__qualname__, function.__module__)
    arguments = signature.replace(parameters=typed, return_annotation=inspect.Signature.empty)
    takes = type_checked(decorator._make_fn_with_signature(*names, arguments, output=False))

    def result(value):
        return value

    result.__name__, result.__qualname__, result.__module__ = names
    result.__annotations__ = {"return": hints.get("return", Any)}
    return takes, type_checked(result)


def shape_checked(function: Callable, takes: Callable, gives: Callable) -> Callable:
    """A function that checks its arguments, and then its result, with the same sizes of axes."""

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
