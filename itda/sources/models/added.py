"""Find the modules whose outputs a block adds to the residual stream, from one recorded pass through the block."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

Flat = Float64[Tensor, "tokens d_model"]
"""Hidden states of the tokens of the text, in float64."""
Found = tuple[str, float]
"""The name of a module in its block, and the multiple of its output that is added."""

KINDS = {
    "attention": re.compile(r"attn|attention", re.IGNORECASE),
    "mlp": re.compile(r"mlp|ffn|feed_?forward|experts|moe|fc2", re.IGNORECASE),
    "other": re.compile(r"[Mm]amba|[Cc]onv|[Rr]ecurrent|[Mm]ixer|[Ll]STM|SSM|ssm_"),
}
"""The kinds of modules, told by their own names, their classes, and those that they are in; the first match counts."""

ROUNDINGS = 16
"""Rounding errors of the model's dtype by which two ways to add up the same numbers may differ."""
SLOPE = 1e-3
"""Relative distance, at most, of a fitted multiple from a number that the block or its configuration names."""


@dataclass(frozen=True)
class Passed:
    """One recorded pass through a block, at the tokens of the text: inputs and outputs of it and of its modules.

    Only of modules that ran once, and whose output has the shape of the block's; the outermost and the last come first.
    """

    before: Flat
    after: Flat
    outputs: Mapping[str, Flat]
    inputs: Mapping[str, Flat]
    kinds: Mapping[str, str]
    """For each module, its name, its class, and the classes of the modules that it is in."""
    multiples: Sequence[float]
    """Numbers that the block or its configuration names."""
    rounding: float
    """The rounding error of the model's dtype (its eps)."""


@dataclass(frozen=True)
class Added:
    """The modules whose outputs a block adds to the residual stream; None for one that was not found."""

    attn_out: Found | None = None
    mlp_out: Found | None = None
    norm_follows: bool = False
    """True if each sum is normed before it becomes the stream, as in BERT."""


def added(passed: Passed) -> Added:
    """Find the modules that a block adds to its input; both are None if no two of them, nor one alone, make the sum."""
    kinds = {name: _kind(passed, name) for name in passed.outputs}
    attention, others = ([name for name, kind in kinds.items() if kind == each] for each in ("attention", "other"))
    rest = [name for name, kind in kinds.items() if kind in ("mlp", None)]
    fit = _Fit(passed)
    for one, two in _pairs(attention, rest):
        if multiples := fit.both(one, two):
            return Added((one, multiples[0]), (two, multiples[1]))
    if found := _before_norms(passed, attention, rest):
        return found
    for one, two in _pairs(others, rest):
        if multiples := fit.both(one, two):
            return Added(mlp_out=(two, multiples[1]))
    for one, two in _pairs(attention, others):
        if multiples := fit.both(one, two):
            return Added(attn_out=(one, multiples[0]))
    for one in attention:
        if multiple := fit.alone(one):
            return Added(attn_out=(one, multiple))
    for one in rest:
        if multiple := fit.alone(one):
            return Added(mlp_out=(one, multiple))
    return Added()


def _kind(passed: Passed, name: str) -> str | None:
    """Return the kind of a module; if its names tell none, that of the module its input comes from (a norm's, say)."""
    found = _named(passed.kinds[name])
    for other, output in passed.outputs.items():
        if found is None and name in passed.inputs and other != name and torch.equal(output, passed.inputs[name]):
            found = _named(passed.kinds[other])
    return found


def _named(words: str) -> str | None:
    return next((kind for kind, pattern in KINDS.items() if pattern.search(words)), None)


def _pairs(first: Sequence[str], second: Sequence[str]) -> Iterator[tuple[str, str]]:
    return ((one, two) for one in first for two in second)


class _Fit:
    """Compares sums of multiples of outputs with the change that a block makes, by their inner products."""

    def __init__(self, passed: Passed) -> None:
        self.places = {name: i for i, name in enumerate(passed.outputs)}
        change = passed.after - passed.before
        rows = torch.stack([*passed.outputs.values(), change]).flatten(1)
        self.products = rows @ rows.T
        self.size = passed.before.norm() + passed.after.norm()
        self.multiples, self.rounding = passed.multiples, ROUNDINGS * passed.rounding

    def both(self, one: str, two: str) -> tuple[float, float] | None:
        """Return the multiples of two outputs whose sum is the change that the block makes, or None."""
        places = [self.places[one], self.places[two]]
        if self._fits(places, [1.0, 1.0]):
            return 1.0, 1.0
        found = self._named(places)
        return (found[0], found[1]) if found else None

    def alone(self, one: str) -> float | None:
        """Return the multiple of one output that is the change that the block makes, or None."""
        places = [self.places[one]]
        if self._fits(places, [1.0]):
            return 1.0
        found = self._named(places)
        return found[0] if found else None

    def _named(self, places: list[int]) -> list[float] | None:
        """Return the multiples that fit, if each is 1 or a number that the block or its configuration names."""
        part, to = self.products[places][:, places], self.products[places, -1]
        if torch.linalg.cond(part) > 1e8:
            return None
        found = []
        for value in torch.linalg.solve(part, to).tolist():
            near = min((1.0, *self.multiples), key=lambda named: abs(named - value))
            found.append(near)
            if near == 0 or abs(near - value) > max(SLOPE, self.rounding) * abs(near):
                return None
        return found if self._fits(places, found) else None

    def _fits(self, places: list[int], multiples: list[float]) -> bool:
        weights = torch.zeros(len(self.products), dtype=torch.float64)
        weights[places] = torch.tensor(multiples, dtype=torch.float64)
        weights[-1] = -1
        left = (weights @ self.products @ weights).clamp(min=0).sqrt()
        parts = weights.abs() @ self.products.diagonal().clamp(min=0).sqrt()
        return bool(left <= self.rounding * (parts + self.size))


def _before_norms(passed: Passed, attention: Sequence[str], rest: Sequence[str]) -> Added | None:
    """Find the modules of a block like BERT's: it norms input plus attention, and then that plus the MLP's output."""

    def same(found: Flat, wanted: Flat) -> bool:
        return bool((found - wanted).norm() <= ROUNDINGS * passed.rounding * (found.norm() + wanted.norm()))

    def summand(names: Sequence[str], before: Flat, after: Flat) -> str | None:
        return next((name for name in names if same(before + passed.outputs[name], after)), None)

    for last in passed.inputs:
        if not same(passed.outputs[last], passed.after):
            continue
        for first in passed.inputs:
            one = summand(attention, passed.before, passed.inputs[first])
            two = one and summand(rest, passed.outputs[first], passed.inputs[last])
            if one and two:
                return Added((one, 1.0), (two, 1.0), norm_follows=True)
    return None
