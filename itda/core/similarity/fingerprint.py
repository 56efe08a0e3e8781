"""Fingerprints: which tokens are new to a site, at a ladder of thresholds, without a dictionary to keep.

A dictionary with k = 1 gains an atom where no atom is near the activation. Which tokens those are is what two models
are compared by (`itda compare`). Neither their codes nor the atoms are needed for that, so this is a pass of its own:

1. The stream is cut into segments of `segment` tokens each. A segment starts with empty dictionaries, so segments do
   not depend on each other, and time grows with the number of tokens, not with its square.
2. Massive activations of a segment (`itda.core.massive`, by the median norm of the segment) are left out of all else.
3. The mean of the others is taken away: z = x - mean, u = z / ||z||.
4. The *novelty* of a token is 1 - max cos^2(u, u') over the earlier tokens of the segment: 0 for one that was there
   already, 1 for one that is orthogonal to all. A token equal to the mean has none.
5. At each *rung* t, a threshold of the ladder, a greedy dictionary: the token is an atom if 1 - max cos^2 over the
   atoms of this rung so far is above t.

All of it is exact: a function of the activations, not of the device, the number of threads or the library that
multiplies. Products propose, in 16 bits where the CPU is fast at those, else in float32; what is within their proven
error is decided by `fixed_order`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Shaped, UInt8, UInt16
from torch import Tensor
from torch.nn import functional

from itda.core.intake import check_finite, rows_of
from itda.core.massive import limit_of
from itda.core.massive import norms as norms_on_any_device
from itda.core.pursuit.fixed_order import fixed_dot, root
from itda.core.pursuit.products import (
    correlations,
    correlations_in_16_bits,
    error_in_16_bits,
    in_16_bits_fast,
    product_error,
)
from itda.core.pursuit.threads import over_rows
from itda.core.similarity.fingerprint_kernel import nearest, norms, partial_sums, unit_rows, walk
from itda.errors import SettingError

RUNGS = (0.05, 0.1, 0.15, 0.2, 0.3)
"""The ladder: the thresholds at which a token is an atom or not."""

SEGMENT = 8192
"""Tokens that share dictionaries and a mean."""

STEPS = 65_534
"""Novelty is kept as a whole number from 0 to this."""

LEFT_OUT = 65_535
"""What is kept in place of the novelty of a massive activation."""

MEDIAN = 16
"""Octaves below the median at which the scale of norms begins; it ends as many above."""

PARTS = 64
"""Partial sums of a mean: row i goes to sum i % 64."""

BLOCK = 512
"""Rows whose products with all earlier ones are in memory at once."""

OPEN = 64
"""Where products in 16 bits leave more than one of so many cosines open, the segment goes on in float32."""


@dataclass(frozen=True)
class FingerprintSettings:
    """How fingerprints are taken. Raises `SettingError` for what is out of range.

    >>> FingerprintSettings(rungs=(0.1, 0.3)).segment
    8192
    """

    rungs: tuple[float, ...] = RUNGS
    """1 to 8 thresholds, ascending, above 0 and below 1."""
    segment: int = SEGMENT
    """Tokens of a segment, 2 at least; the last segment of a stream has as many as are left."""
    centred: bool = True
    """True to take the segment's mean away; False to leave activations as they are."""
    massive: bool = True
    """True to leave massive activations out; False to treat them as the others."""

    def __post_init__(self) -> None:
        rungs = tuple(self.rungs)
        if not 1 <= len(rungs) <= 8 or list(rungs) != sorted(set(rungs)) or not 0 < rungs[0] <= rungs[-1] < 1:
            raise SettingError(f"rungs are {list(rungs)}: give 1 to 8 ascending numbers between 0 and 1")
        if self.segment < 2:
            raise SettingError(f"a segment of {self.segment} tokens: give at least 2")


@dataclass(frozen=True, eq=False)
class TokenNovelty:
    """What a fingerprint keeps of the tokens of one site, in reading order: 4 bytes a token.

    >>> found = fingerprint_of(torch.tensor([[3.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), FingerprintSettings(centred=False))
    >>> found.novelty.tolist(), found.is_atom(0).tolist()
    ([65534, 65534, 0], [True, True, False])
    """

    novelty: UInt16[np.ndarray, " tokens"]
    """Novelty in steps, from 0 to `STEPS`; `LEFT_OUT` for massive activations."""
    bits: UInt8[np.ndarray, " tokens"]
    """Bit r is 1 if the token is an atom at rung r."""
    norm: UInt8[np.ndarray, " tokens"]
    """Norm of the activation in eighths of an octave; 136 to 143 are those of 1 to 2 medians of the segment."""

    def __len__(self) -> int:
        return len(self.novelty)

    @property
    def massive(self) -> Bool[np.ndarray, " tokens"]:
        """Mask of the tokens that were left out."""
        return self.novelty == LEFT_OUT

    def is_atom(self, rung: int) -> Bool[np.ndarray, " tokens"]:
        """Return a mask of the tokens that are atoms at a rung, given by its place in the ladder."""
        return (self.bits >> rung & 1).astype(bool)

    def __getitem__(self, tokens: slice) -> TokenNovelty:
        """Return some tokens that follow each other."""
        return TokenNovelty(self.novelty[tokens], self.bits[tokens], self.norm[tokens])

    @staticmethod
    def joined(parts: Sequence[TokenNovelty]) -> TokenNovelty:
        """Return the tokens of several segments, one after the other."""
        parts = [NOTHING, *parts]
        columns = ([getattr(part, name) for part in parts] for name in ("novelty", "bits", "norm"))
        return TokenNovelty(*(np.concatenate(column) for column in columns))


NOTHING = TokenNovelty(np.empty(0, np.uint16), np.empty(0, np.uint8), np.empty(0, np.uint8))
DEFAULT = FingerprintSettings()


def fingerprint_of(
    activations: Shaped[Tensor, "tokens d_model"], settings: FingerprintSettings = DEFAULT
) -> TokenNovelty:
    """Take the fingerprint of a whole stream that is in memory, on any device, segment by segment.

    Raises `ActivationError` for what is no matrix of finite numbers.

    >>> x = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    >>> found = fingerprint_of(x)
    >>> [int(found.is_atom(rung).sum()) for rung in range(5)]
    [90, 63, 50, 33, 19]
    """
    rows = rows_of(activations)
    return TokenNovelty.joined([fingerprint_of_segment(part, settings) for part in rows.split(settings.segment)])


@torch.no_grad()
def fingerprint_of_segment(
    activations: Shaped[Tensor, "tokens d_model"], settings: FingerprintSettings = DEFAULT
) -> TokenNovelty:
    """Take the fingerprint of the tokens of one segment, in reading order, however many they are.

    Raises `ActivationError` for what is no matrix of finite numbers.
    """
    x = rows_of(activations)
    x = x.cpu() if x.device.type == "mps" else x  # which has no float64
    x = x.to(torch.promote_types(x.dtype, torch.float32)).contiguous()
    length = _norms(x)
    middle = length.median().item() if len(x) else 0.0
    limit = limit_of(middle) if settings.massive else None
    taken = length <= limit if limit is not None else torch.ones(len(x), dtype=torch.bool, device=x.device)
    units = _units(x, _mean(x, taken) if settings.centred else None, taken)
    taken = taken.cpu().numpy()
    novelty, bits = np.zeros(len(x), np.uint16), np.zeros(len(x), np.uint8)
    if x.shape[1]:
        _compare(units, np.asarray(settings.rungs), novelty, bits)
    novelty[~taken] = LEFT_OUT
    return TokenNovelty(novelty, bits, _in_octaves(length.cpu().numpy(), middle))


def _norms(x: Float[Tensor, "tokens d_model"]) -> Float64[Tensor, " tokens"]:
    """Return the norms of activations, as `massive.norms`. Raises `ActivationError` for a row that is not finite."""
    if x.device.type == "cpu":
        found = torch.empty(len(x), dtype=torch.float64)
        over_rows(norms, np.arange(len(x)), x.numpy(), found.numpy())
    else:
        found = norms_on_any_device(x)
    if not bool(found.isfinite().all()):  # squares of float64 may overflow; a row that is not finite is refused here
        check_finite(x)
    return found


def _in_octaves(length: Float64[np.ndarray, " tokens"], middle: float) -> UInt8[np.ndarray, " tokens"]:
    """Return norms in eighths of an octave, by the bits of their quotient with the median alone."""
    if not 0 < middle < np.inf:
        return np.zeros(len(length), np.uint8)
    with np.errstate(over="ignore"):
        part, octave = np.frexp(np.minimum(length / middle, 2.0**MEDIAN))
    found = 8 * (octave + MEDIAN) + np.floor((part - 0.5) * 16).astype(np.int64)
    return np.where(part > 0, found.clip(0, 255), 0).astype(np.uint8)


def _mean(x: Float[Tensor, "tokens d_model"], taken: Bool[Tensor, " tokens"]) -> Float64[Tensor, " d_model"]:
    """Return the mean of the rows that are taken, in float64: the same bits on any device."""
    sums = x.new_zeros(PARTS, x.shape[1], dtype=torch.float64)
    if x.device.type == "cpu":
        partial_sums(x.numpy(), taken.numpy(), sums.numpy())
    else:
        for rows, some in zip(x.split(PARTS), taken.split(PARTS), strict=True):
            sums += functional.pad(torch.where(some[:, None], rows.double(), 0.0), (0, 0, 0, PARTS - len(rows)))
    while len(sums) > 1:
        sums = sums[: len(sums) // 2] + sums[len(sums) // 2 :]
    return sums[0] / max(1, int(taken.sum()))


def _units(
    x: Float[Tensor, "tokens d_model"], mean: Float64[Tensor, " d_model"] | None, taken: Bool[Tensor, " tokens"]
) -> Float32[Tensor, "tokens d_model"]:
    """Return the unit rows of x - mean; zeros for rows that have no direction or are not taken."""
    mean = mean if mean is not None else x.new_zeros(x.shape[1], dtype=torch.float64)
    units = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    if x.device.type == "cpu":
        over_rows(unit_rows, np.arange(len(x)), x.numpy(), mean.numpy(), taken.numpy(), units.numpy())
        return units
    for part, some, found in zip(x.split(BLOCK), taken.split(BLOCK), units.split(BLOCK), strict=True):
        z = part.double() - mean
        norm = root(fixed_dot(z, z))
        found.copy_(torch.where((some & (norm > 0))[:, None], z / norm[:, None], 0.0))
    return units


def _compare(
    units: Float32[Tensor, "tokens d_model"],
    rungs: Float64[np.ndarray, " rungs"],
    novelty: UInt16[np.ndarray, " tokens"],
    bits: UInt8[np.ndarray, " tokens"],
) -> None:
    """Fill in novelty and bits, block by block."""
    there = units.any(dim=1).cpu().numpy()
    rows, products = units.cpu().numpy(), _Products(units)
    for start in range(0, len(units), BLOCK):
        stop = min(len(units), start + BLOCK)
        cosines, error = products.of(start, stop)
        largest, decided = np.empty(stop - start, np.float64), np.zeros(stop - start, np.int64)
        over_rows(nearest, np.arange(stop - start), cosines, start, rows, error, STEPS, largest, novelty, decided)
        more = walk(cosines, start, stop, rows, error, rungs, largest, there, bits)
        if (int(decided.sum()) + more) * OPEN > cosines.size:
            products.in_float32()
    novelty[~there] = 0


class _Products:
    """The cosines of a segment's rows, each with those before it in the segment and in its block."""

    def __init__(self, units: Float32[Tensor, "tokens d_model"]) -> None:
        self._units, self._width = units, units.shape[1]
        self._short = units.bfloat16() if in_16_bits_fast(units.device) else None
        self._buffer = torch.empty(min(BLOCK, len(units)) * len(units), dtype=torch.float32, device=units.device)

    def of(self, start: int, stop: int) -> tuple[Float32[np.ndarray, "rows earlier"], float]:
        """Return the cosines of rows `start` to `stop` with rows 0 to `stop`, and the largest error of any of them."""
        out = self._buffer[: (stop - start) * stop].view(stop - start, stop)
        if self._short is not None:
            correlations_in_16_bits(self._short[start:stop], self._short[:stop], out)
            return out.numpy(), error_in_16_bits(self._width)
        correlations(self._units[start:stop], self._units[:stop], out=out)
        return out.cpu().numpy(), product_error(self._width)

    def in_float32(self) -> None:
        """Compute what follows in float32."""
        self._short = None
