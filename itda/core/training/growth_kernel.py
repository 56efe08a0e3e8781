"""The compiled loops of training: append in stream order, and find out whose pursuit a new atom changes."""

import numpy as np

from itda.core.pursuit.compiled import as_written
from itda.core.pursuit.fixed_order_kernel import fixed_dot, residual_of, scratch, subtract_atom
from itda.core.pursuit.gram_cpu_kernel import OMP, SCALE, Block, Gram, product_error
from itda.core.pursuit.products import UNIT


@as_written
def settle(
    start: int,
    block: Block,
    share: np.ndarray,
    dirty: np.ndarray,
    threshold: float,
    first: np.ndarray,
    products: np.ndarray,
    offset: int,
    atoms: np.ndarray,
    number: int,
    most: int,
    gram: Gram,
    entry_error: float,
    pursuit: int,
    taken: np.ndarray,
) -> tuple[int, int]:
    """Go through the rows of a block in order, appending those with an error above the threshold.

    `first` has the correlations with the dictionary of the block and of rows past it; `products` those with each other,
    for the block from `offset` on. A new atom's correlations are filled in for all later rows.
    Stops at a row whose pursuit has to be done again, or at the end. `taken[a]` is the row of the a-th new atom.
    Returns that row and the number of atoms.
    """
    batch, k = block.picks.shape
    for i in range(start, batch):
        if number == most:
            return batch, number
        if dirty[i] >= 0:
            return i, number
        if share[i] > threshold:
            _append(i, block, first, products, offset, atoms, number, gram)
            taken[number - gram.settled] = i
            row = gram.fresh[number - gram.settled]
            for later in range(i + 1, batch):
                at = _first_change(later, block, number, row, k, entry_error, pursuit)
                if at >= 0 and (dirty[later] < 0 or at < dirty[later]):
                    dirty[later] = at
            number += 1
    return batch, number


@as_written
def _append(
    i: int,
    block: Block,
    first: np.ndarray,
    products: np.ndarray,
    offset: int,
    atoms: np.ndarray,
    number: int,
    gram: Gram,
) -> None:
    # `plain` in float64 and rounded once: the atom has the same bits.
    norm = np.sqrt(block.energy[i])
    for j in range(atoms.shape[1]):
        atoms[number, j] = np.float32(block.z[i, j] / norm)
    # What the row correlates with is what its atom does: the Gram row is there already, but for the norm.
    row, correlations, scale = gram.fresh[number - gram.settled], first[i], SCALE / norm
    for j in range(number):
        row[j] = np.int16(np.rint(correlations[j] * scale))
    row[number] = np.int16(SCALE)
    for later in range(i + 1, len(products) - offset):
        first[later, number] = np.float32(products[offset + i, offset + later] / norm)


@as_written
def _first_change(i: int, block: Block, new: int, row: np.ndarray, k: int, entry_error: float, pursuit: int) -> int:
    """Return the first step at which the new atom may be picked, or -1. `row` is its Gram row.

    q_t = <r_t, d_new> = q_{t-1} - a_t G[new, j_t], and a pick stays if |q_t| <= |<r_t, d_j>|: the older of equals
    stays.
    What rounding leaves open counts as a change: the pursuit is then resumed there, and decides exactly.
    """
    start = np.float64(block.first[i, new])
    # `row` has an error; so has `start`. The last term is for the rounding of this function.
    start_error = (product_error(block.z.shape[1]) + 4 * UNIT) * np.sqrt(block.energy[i])
    q, error = start, start_error
    for t in range(block.step[i]):
        if pursuit == OMP and t > 0:
            q, error = start, start_error
            for s in range(t):
                weight = block.solutions[i, t - 1, s]
                q -= weight * row[block.picks[i, s]] / SCALE
                error += abs(weight) * entry_error
        if abs(q) + error >= abs(block.correlations[i, t]):
            return t
        if pursuit != OMP:
            weight = block.coefficients[i, t]
            q -= weight * row[block.picks[i, t]] / SCALE
            error += abs(weight) * entry_error
    if block.step[i] < k and block.left[i] > block.least[i]:
        return block.step[i]  # it had run out of atoms worth picking
    return -1


@as_written
def rewind(rows: np.ndarray, block: Block, atoms: np.ndarray, dirty: np.ndarray, pursuit: int) -> None:
    """Put rows back to the step `dirty` of their pursuit, and call them clean."""
    terms = scratch(atoms.shape[1])
    for i in rows:
        step, residual = int(dirty[i]), block.residual[i]
        dirty[i] = -1
        if pursuit == OMP and step > 0:
            block.coefficients[i, :step] = block.solutions[i, step - 1, :step]
            residual_of(block.z[i], block.coefficients[i], atoms, block.picks[i], step, residual)
        else:
            residual[:] = block.z[i]
            for t in range(step):
                subtract_atom(residual, block.coefficients[i, t], atoms[block.picks[i, t]])
        block.left[i] = fixed_dot(residual, residual, terms) if step > 0 else block.energy[i]
        block.bound[i] = product_error(atoms.shape[1]) * np.sqrt(block.energy[i])
        block.step[i] = step
        block.applied[i], block.extra[i], block.chosen[i] = -1, 0, -1
