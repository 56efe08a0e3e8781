"""`fixed_order` and the least squares of `plain`, compiled, for one row: the same operations in the same order.

No function here may be compiled with fast-math flags: a contracted or reordered operation would change the last bit.
"""

import numpy as np

from itda.core.pursuit.compiled import as_written

DEPENDENT = 1e-10  # `subtraction.DEPENDENT`; a test compares them


@as_written
def fixed_dot(a: np.ndarray, b: np.ndarray, terms: np.ndarray) -> float:
    """Return <a, b> in the order of `fixed_order.fixed_sum`. `terms` is scratch of at least half the width."""
    # Slices, for an index that may be negative keeps a loop from being vectorised.
    width = len(a)
    half = (width + 1) // 2
    a_low, a_high, b_low, b_high = a[:half], a[half:], b[:half], b[half:]
    for i in range(len(a_high)):
        terms[i] = np.float64(a_low[i]) * np.float64(b_low[i]) + np.float64(a_high[i]) * np.float64(b_high[i])
    if width - half < half:
        terms[half - 1] = np.float64(a[half - 1]) * np.float64(b[half - 1])
    width = half
    while width > 1:
        half = (width + 1) // 2
        low, high = terms[:half], terms[half:width]
        for i in range(len(high)):
            low[i] += high[i]
        width = half
    return terms[0]


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
