"""The compiled loops of `fingerprint`: unit rows, the nearest earlier row, and the dictionaries of the rungs.

Products in 32 or 16 bits only propose. What they leave open within their proven error is decided by `fixed_dot`, so
every result here is a function of the unit rows alone.
"""

# pyright: reportCallIssue=false
# The compiler passes the context that functions of `lanes` ask for.

import numpy as np

from itda.core.pursuit.compiled import as_written, may_reorder
from itda.core.pursuit.fixed_order_kernel import fixed_dot, scratch

PART = 64
"""Columns that are looked at together: of most parts, the largest entry tells that none matters."""


@as_written
def norms(rows: np.ndarray, x: np.ndarray, found: np.ndarray) -> None:
    """Compute the norms of some rows, as `massive.norms`."""
    terms = scratch(x.shape[1])
    for i in rows:
        found[i] = np.sqrt(fixed_dot(x[i], x[i], terms))


@as_written
def partial_sums(x: np.ndarray, taken: np.ndarray, sums: np.ndarray) -> None:
    """Add row i of x, if it is taken, to row i % len(sums) of the sums, one after the other."""
    for i in range(len(x)):
        if taken[i]:
            total = sums[i % len(sums)]
            for j in range(len(total)):
                total[j] += np.float64(x[i, j])


@as_written
def unit_rows(rows: np.ndarray, x: np.ndarray, offset: np.ndarray, taken: np.ndarray, units: np.ndarray) -> None:
    """Compute (x - offset) / ||x - offset|| of some rows; zeros where that is 0 / 0, or the row is not taken."""
    z, terms = np.empty(x.shape[1], np.float64), scratch(x.shape[1])
    for i in rows:
        norm = 0.0
        if taken[i]:
            for j in range(len(z)):
                z[j] = np.float64(x[i, j]) - offset[j]
            norm = np.sqrt(fixed_dot(z, z, terms))
        for j in range(len(z)):
            units[i, j] = np.float32(z[j] / norm) if norm > 0 else np.float32(0)


@may_reorder
def _largest(values: np.ndarray, start: int, stop: int) -> float:
    largest = np.float32(0)
    for j in range(start, stop):
        largest = max(largest, abs(values[j]))
    return float(largest)


@as_written
def in_steps(cosine: float, steps: int) -> int:
    """Return the novelty 1 - cosine^2, not below 0, as the nearest of the numbers 0, 1 ... `steps`."""
    return int(np.floor(max(0.0, 1 - cosine * cosine) * steps + 0.5))


@as_written
def nearest(
    rows: np.ndarray,
    products: np.ndarray,
    start: int,
    units: np.ndarray,
    error: float,
    steps: int,
    largest: np.ndarray,
    novelty: np.ndarray,
    decided: np.ndarray,
) -> None:
    """Find, for rows `start + b` of the units, the largest cosine, signs aside, to an earlier row.

    `products[b]` are the cosines of row `start + b`, each within `error`. `largest[b]` becomes the largest of them, and
    `novelty[start + b]` the novelty in steps, which is exact. `decided[b]` counts the cosines that products left open.
    """
    terms = scratch(units.shape[1])
    for b in rows:
        i, values = start + b, products[b]
        most = np.float64(_largest(values, 0, i))
        largest[b] = most
        high, low = in_steps(max(0.0, most - error), steps), in_steps(most + error, steps)
        if high == low:
            novelty[i] = low
            continue
        best = 0.0
        for part in range(0, i, PART):
            end = min(i, part + PART)
            if _largest(values, part, end) < most - 2 * error:
                continue
            for j in range(part, end):
                value = np.float64(abs(values[j]))
                if value >= most - 2 * error and value + error > best:
                    decided[b] += 1
                    best = max(best, abs(fixed_dot(units[j], units[i], terms)))
            if in_steps(best, steps) == 0:
                break
        novelty[i] = in_steps(best, steps)


@as_written
def walk(
    products: np.ndarray,
    start: int,
    stop: int,
    units: np.ndarray,
    error: float,
    rungs: np.ndarray,
    largest: np.ndarray,
    taken: np.ndarray,
    bits: np.ndarray,
) -> int:
    """Go through the rows from `start` to `stop` in order: bit r of `bits[i]` is set if row i is an atom of rung r.

    It is, if no earlier atom of that rung has 1 - cosine^2 <= rungs[r]. The rungs ascend. `largest` is by `nearest`.
    Returns how many cosines the products left open.
    """
    terms, decided = scratch(units.shape[1]), 0
    cosines = np.sqrt(1 - rungs)
    for i in range(start, stop):
        if not taken[i]:
            continue
        values = products[i - start]
        # `few` rungs may have an atom that is near enough; those after them have it nearer still, or none.
        few = 0
        while few < len(rungs) and largest[i - start] < cosines[few] - error:
            few += 1
        unknown = (1 << len(rungs)) - (1 << few)
        bits[i] = (1 << len(rungs)) - 1
        part = 0
        while unknown and part < i:
            end = min(i, part + PART)
            least = _least(unknown, cosines) - error
            if _largest(values, part, end) >= least:
                for j in range(part, end):
                    if bits[j] & unknown and np.float64(abs(values[j])) >= least:
                        near = _covered(bits[j] & unknown, np.float64(abs(values[j])), error, rungs, cosines)
                        if near < 0:
                            decided += 1
                            cosine = abs(fixed_dot(units[j], units[i], terms))
                            near = _covered(bits[j] & unknown, cosine, 0.0, rungs, cosines)
                        bits[i] &= ~np.uint8(near)
                        unknown &= ~near
            part = end
    return decided


@as_written
def _least(unknown: int, cosines: np.ndarray) -> float:
    """Return the smallest cosine that decides any of the unknown rungs: that of the last of them."""
    last = len(cosines) - 1
    while not (unknown >> last) & 1:
        last -= 1
    return cosines[last]


@as_written
def _covered(asked: int, cosine: float, error: float, rungs: np.ndarray, cosines: np.ndarray) -> int:
    """Return the rungs, of those asked for, that an atom at this cosine covers; -1 if the error leaves that open."""
    near = 0
    for r in range(len(rungs)):
        if (asked >> r) & 1:
            if error > 0 and abs(cosine - cosines[r]) <= error:
                return -1
            if (cosine > cosines[r]) if error > 0 else not 1 - cosine * cosine > rungs[r]:
                near |= 1 << r
    return near
