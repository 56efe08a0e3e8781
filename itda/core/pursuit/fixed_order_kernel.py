"""`fixed_order` and the least squares of `plain`, compiled, for one row: the same operations in the same order.

No function here may be compiled with fast-math flags: a contracted or reordered operation would change the last bit.
"""

# pyright: reportCallIssue=false
# The compiler passes the context that functions of `lanes` ask for.

import numpy as np

from itda.core.pursuit.compiled import as_written
from itda.core.pursuit.lanes import GROUP, dot_of_lanes, sum_of_lanes

DEPENDENT = 1e-10  # `subtraction.DEPENDENT`; a test compares them
LANES = 256  # `fixed_order.LANES`, likewise


@as_written
def scratch(width: int) -> np.ndarray:
    """Return room for the sums on the way of `fixed_dot`, for vectors of that width."""
    return np.empty(max(LANES, width // 2), np.float64)


@as_written
def fixed_dot(a: np.ndarray, b: np.ndarray, terms: np.ndarray) -> float:
    """Return <a, b> in the order of `fixed_order.fixed_sum`. `terms` is scratch, made by `scratch(len(a))`."""
    if len(a) <= LANES:
        return _narrow_dot(a, b, terms)
    _first_folds(a, b, terms)
    width = LANES
    while 4 * width < len(a):
        width *= 2
    while width > LANES:
        # Two folds at a time, without a way through memory between them.
        half, quarter = width // 2, max(LANES, width // 4)
        if quarter < half:
            t0, t1, t2, t3 = terms[:quarter], terms[quarter:half], terms[half : 3 * quarter], terms[3 * quarter : width]
            for i in range(quarter):
                t0[i] = (t0[i] + t2[i]) + (t1[i] + t3[i])
        else:
            t0, t1 = terms[:half], terms[half:width]
            for i in range(half):
                t0[i] += t1[i]
        width = quarter
    s0 = sum_of_lanes(terms, 0) + sum_of_lanes(terms, 128)
    s1 = sum_of_lanes(terms, 32) + sum_of_lanes(terms, 160)
    s2 = sum_of_lanes(terms, 64) + sum_of_lanes(terms, 192)
    s3 = sum_of_lanes(terms, 96) + sum_of_lanes(terms, 224)
    return ((s0 + s2) + (s1 + s3)) + 0.0


@as_written
def _narrow_dot(a: np.ndarray, b: np.ndarray, terms: np.ndarray) -> float:
    """Return <a, b> for at most 256 numbers: lanes that have none hold 0."""
    groups = len(a) // GROUP
    for group in range(groups):
        terms[group] = dot_of_lanes(a, b, GROUP * group)
    if GROUP * groups < len(a):
        for i in range(8, 8 + GROUP):
            terms[i] = 0.0
        for i in range(GROUP * groups, len(a)):
            terms[8 + i - GROUP * groups] = np.float64(a[i]) * np.float64(b[i])
        terms[groups] = sum_of_lanes(terms, 8)
        groups += 1
    for group in range(groups, 8):
        terms[group] = 0.0
    first = (terms[0] + terms[4]) + (terms[2] + terms[6])
    return (first + ((terms[1] + terms[5]) + (terms[3] + terms[7]))) + 0.0


@as_written
def _first_folds(a: np.ndarray, b: np.ndarray, terms: np.ndarray) -> None:
    """Fold the products of more than 256 numbers to a quarter of the next power of two, but to 256 at least."""
    # Slices, for an index that may be negative keeps a loop from being vectorised.
    width = LANES
    while 4 * width < len(a):
        width *= 2
    a0, a1, a2, a3 = a[:width], a[width : 2 * width], a[2 * width : 3 * width], a[3 * width :]
    b0, b1, b2, b3 = b[:width], b[width : 2 * width], b[2 * width : 3 * width], b[3 * width :]
    four, three, two = len(a3), len(a2), len(a1)
    for i in range(four):
        first = np.float64(a0[i]) * np.float64(b0[i]) + np.float64(a2[i]) * np.float64(b2[i])
        second = np.float64(a1[i]) * np.float64(b1[i]) + np.float64(a3[i]) * np.float64(b3[i])
        terms[i] = first + second
    a0, a1, a2, b0, b1, b2 = a0[four:], a1[four:], a2[four:], b0[four:], b1[four:], b2[four:]
    part = terms[four:three]
    for i in range(len(part)):
        first = np.float64(a0[i]) * np.float64(b0[i]) + np.float64(a2[i]) * np.float64(b2[i])
        part[i] = first + np.float64(a1[i]) * np.float64(b1[i])
    a0, a1, b0, b1 = a0[three - four :], a1[three - four :], b0[three - four :], b1[three - four :]
    part = terms[three:two]
    for i in range(len(part)):
        part[i] = np.float64(a0[i]) * np.float64(b0[i]) + np.float64(a1[i]) * np.float64(b1[i])
    a0, b0, part = a0[two - three :], b0[two - three :], terms[two:width]
    for i in range(len(part)):
        part[i] = np.float64(a0[i]) * np.float64(b0[i])


@as_written
def subtract_atom(residual: np.ndarray, coefficient: float, atom: np.ndarray) -> None:
    """Subtract coefficient * atom from the residual, in place."""
    for i in range(len(residual)):
        residual[i] -= coefficient * np.float64(atom[i])


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
