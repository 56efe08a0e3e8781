"""`fixed_order` and the least squares of `plain`, compiled, for one row: the same operations in the same order.

No function here may be compiled with fast-math flags: a contracted or reordered operation would change the last bit.
"""

# pyright: reportCallIssue=false
# The compiler passes the context that functions of `lanes` ask for.

from typing import Any

import numpy as np

from itda.core.pursuit.compiled import as_written, inlined
from itda.core.pursuit.lanes import GROUP, dot_of_lanes, pointer_to, sum_of_lanes

DEPENDENT = 1e-10  # `subtraction.DEPENDENT`; a test compares them
LANES = 256  # `fixed_order.LANES`, likewise


@as_written
def scratch(width: int) -> np.ndarray:
    """Return room for the sums on the way of `fixed_dot`, for vectors of that width."""
    return np.empty(max(LANES, width // 2), np.float64)


@inlined
def fixed_dot(a: np.ndarray, b: np.ndarray, terms: np.ndarray) -> float:
    """Return <a, b> in the order of `fixed_order.fixed_sum`. `terms` is scratch, made by `scratch(len(a))`."""
    return _dot(pointer_to(a), pointer_to(b), len(a), pointer_to(terms))


@as_written
def _dot(a: Any, b: Any, width: int, terms: Any) -> float:
    if width <= LANES:
        return _narrow_dot(a, b, width, terms)
    quarter = _quarter(width)
    _first_folds(a, b, width, quarter, terms, 0)
    return _last_folds(quarter, terms)


@as_written
def _last_folds(quarter: int, terms: Any) -> float:
    """Return the sum of what the first folds have left: 256 numbers, or a power of two times as many."""
    while quarter > LANES:
        # Two folds at a time, without a way through memory between them.
        half, quarter = quarter // 2, quarter // 4
        if half > LANES:
            for i in range(quarter):
                first = terms[i] + terms[half + i]
                terms[i] = first + (terms[quarter + i] + terms[half + quarter + i])
        else:
            quarter = half
            for i in range(half):
                terms[i] += terms[half + i]
    s0 = sum_of_lanes(terms, 0) + sum_of_lanes(terms, 128)
    s1 = sum_of_lanes(terms, 32) + sum_of_lanes(terms, 160)
    s2 = sum_of_lanes(terms, 64) + sum_of_lanes(terms, 192)
    s3 = sum_of_lanes(terms, 96) + sum_of_lanes(terms, 224)
    return ((s0 + s2) + (s1 + s3)) + 0.0


@as_written
def _quarter(width: int) -> int:
    """Return a quarter of the next power of two, but 256 at least."""
    quarter = LANES
    while 4 * quarter < width:
        quarter *= 2
    return quarter


@as_written
def _narrow_dot(a: Any, b: Any, width: int, terms: Any) -> float:
    """Return <a, b> for at most 256 numbers: lanes that have none hold 0."""
    groups = width // GROUP
    for group in range(groups):
        terms[group] = dot_of_lanes(a, b, GROUP * group)
    if GROUP * groups < width:
        for i in range(8, 8 + GROUP):
            terms[i] = 0.0
        for i in range(GROUP * groups, width):
            terms[8 + i - GROUP * groups] = np.float64(a[i]) * np.float64(b[i])
        terms[groups] = sum_of_lanes(terms, 8)
        groups += 1
    for group in range(groups, 8):
        terms[group] = 0.0
    first = (terms[0] + terms[4]) + (terms[2] + terms[6])
    return (first + ((terms[1] + terms[5]) + (terms[3] + terms[7]))) + 0.0


@as_written
def _first_folds(a: Any, b: Any, width: int, quarter: int, terms: Any, done: int) -> None:
    """Fold the products of more than 256 numbers to `quarter` of them, all but the first `done`: two folds, or one."""
    # How many lanes get four numbers, three at least, and two.
    four = max(0, width - 3 * quarter)
    three = max(0, min(quarter, width - 2 * quarter))
    two = min(quarter, width - quarter)
    half = 2 * quarter
    for i in range(done, four):
        first = np.float64(a[i]) * np.float64(b[i]) + np.float64(a[half + i]) * np.float64(b[half + i])
        j = quarter + i
        terms[i] = first + (np.float64(a[j]) * np.float64(b[j]) + np.float64(a[half + j]) * np.float64(b[half + j]))
    for i in range(four, three):
        first = np.float64(a[i]) * np.float64(b[i]) + np.float64(a[half + i]) * np.float64(b[half + i])
        terms[i] = first + np.float64(a[quarter + i]) * np.float64(b[quarter + i])
    for i in range(three, two):
        terms[i] = np.float64(a[i]) * np.float64(b[i]) + np.float64(a[quarter + i]) * np.float64(b[quarter + i])
    for i in range(two, quarter):
        terms[i] = np.float64(a[i]) * np.float64(b[i])


@inlined
def subtract_atom(residual: np.ndarray, coefficient: float, atom: np.ndarray) -> None:
    """Subtract coefficient * atom from the residual, in place."""
    _subtract(pointer_to(residual), coefficient, pointer_to(atom), 0, len(residual))


@as_written
def _subtract(residual: Any, coefficient: float, atom: Any, start: int, stop: int) -> None:
    for i in range(start, stop):
        residual[i] -= coefficient * np.float64(atom[i])


@inlined
def subtract_atom_and_square(residual: np.ndarray, coefficient: float, atom: np.ndarray, terms: np.ndarray) -> float:
    """Subtract coefficient * atom from the residual, in place, and return <r, r> of what is left, as `fixed_dot`."""
    return _subtract_and_square(pointer_to(residual), coefficient, pointer_to(atom), len(residual), pointer_to(terms))


@as_written
def _subtract_and_square(residual: Any, coefficient: float, atom: Any, width: int, terms: Any) -> float:
    quarter = _quarter(width)
    four = max(0, width - 3 * quarter)
    if four == 0:
        _subtract(residual, coefficient, atom, 0, width)
        return _dot(residual, residual, width, terms)
    # A wide residual is not in the first cache: what has just been computed is squared at once.
    for i in range(four):
        j, m, n = quarter + i, 2 * quarter + i, 3 * quarter + i
        r0 = residual[i] - coefficient * np.float64(atom[i])
        r1 = residual[j] - coefficient * np.float64(atom[j])
        r2 = residual[m] - coefficient * np.float64(atom[m])
        r3 = residual[n] - coefficient * np.float64(atom[n])
        residual[i], residual[j], residual[m], residual[n] = r0, r1, r2, r3
        terms[i] = (r0 * r0 + r2 * r2) + (r1 * r1 + r3 * r3)
    for start in (0, quarter, 2 * quarter):
        _subtract(residual, coefficient, atom, start + four, start + quarter)
    _first_folds(residual, residual, width, quarter, terms, four)
    return _last_folds(quarter, terms)


@as_written
def residual_of(
    z: np.ndarray, coefficients: np.ndarray, atoms: np.ndarray, indices: np.ndarray, number: int, residual: np.ndarray
) -> None:
    """Compute r = z - sum_t coefficients[t] * atoms[indices[t]], the sum first, one term after the other."""
    for i in range(len(z)):
        residual[i] = 0.0
    for t in range(number):
        atom, coefficient = atoms[indices[t]], coefficients[t]
        for i in range(len(z)):
            residual[i] += coefficient * np.float64(atom[i])
    for i in range(len(z)):
        residual[i] = z[i] - residual[i]


@as_written
def sums_of_atoms(
    rows: np.ndarray, coefficients: np.ndarray, atoms: np.ndarray, indices: np.ndarray, sums: np.ndarray
) -> None:
    """Compute sum_t coefficients[:, t] * atoms[indices[:, t]] of some rows, as `fixed_order.weighted_atoms`."""
    for i in rows:
        total = sums[i]
        for j in range(len(total)):
            total[j] = 0.0
        for t in range(indices.shape[1]):
            atom, coefficient = atoms[indices[i, t]], coefficients[i, t]
            for j in range(len(total)):
                total[j] += coefficient * np.float64(atom[j])


@as_written
def add_column(
    z: np.ndarray,
    atoms: np.ndarray,
    indices: np.ndarray,
    place: int,
    new: int,
    factor: np.ndarray,
    projected: np.ndarray,
    gram: np.ndarray,
    terms: np.ndarray,
) -> bool:
    """Extend the Cholesky factor of the atoms `indices[:place]` by the atom `new`; False if it depends on them."""
    atom = atoms[new]
    for s in range(place):
        gram[s] = fixed_dot(atoms[indices[s]], atom, terms)
    pivot = fixed_dot(atom, atom, terms)
    value = fixed_dot(atom, z, terms)
    for s in range(place):
        w = gram[s] / factor[s, s]
        for below in range(s + 1, place):
            gram[below] -= factor[below, s] * w
        pivot -= w * w
        value -= w * projected[s]
        gram[s] = w
    if not pivot > DEPENDENT:
        return False
    root = np.sqrt(pivot)
    for s in range(place):
        factor[place, s] = gram[s]
    factor[place, place] = root
    projected[place] = value / root
    return True


@as_written
def solve(factor: np.ndarray, projected: np.ndarray, length: int, solution: np.ndarray) -> None:
    """Solve L^T a = y by back substitution."""
    for s in range(length):
        solution[s] = projected[s]
    for s in range(length - 1, -1, -1):
        solution[s] /= factor[s, s]
        for before in range(s):
            solution[before] -= factor[s, before] * solution[s]
