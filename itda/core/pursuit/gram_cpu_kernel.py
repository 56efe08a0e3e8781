"""The compiled loops of the Gram pursuit: what runs k times per activation, and touches every atom each time.

Two kinds of arithmetic meet here and are kept apart. *Fast*: the correlations c of all atoms with the residual, in
float32 with contraction and reordering allowed, wrong by at most a bound that is carried along. *Exact*: residuals,
coefficients and errors in float64, operation for operation those of `plain` (`fixed_order_kernel`): the same bits.
The fast correlations only propose: all atoms within twice the bound of the largest are correlated again exactly, and
the largest of these wins, the lowest index among equals. So the picks are `plain`'s, whatever the fast part rounds.
"""

import math
from typing import NamedTuple

import numpy as np

from itda.core.pursuit import products
from itda.core.pursuit.compiled import as_written, inlined, may_reorder, prefetch
from itda.core.pursuit.fixed_order_kernel import (
    add_column,
    fixed_dot,
    residual_of,
    scratch,
    solve,
    subtract_atom_and_square,
)
from itda.core.pursuit.products import UNIT

TILE = 512
"""Atoms per tile. The largest |c| of a tile is kept, so that only tiles that can hold a candidate are searched."""

NARROW = 64
"""Atoms per tile where a matrix is transposed: one of these by some hundred activations stays in the first cache."""

SCALE = 32700.0
"""The Gram matrix is kept as round(SCALE * <d_i, d_j>) in 16 bits: half the memory traffic of float32, and as precise
as a float32 product is in the worst case. |<d_i, d_j>| <= 1.00002, so nothing overflows."""

RESOLUTION = 2.0**-20  # `plain.RESOLUTION`: the kernels are compiled, so the value is fixed here; a test compares them

DONE, NEEDS_ROW, NEEDS_PRODUCT, NEEDS_FINE_PRODUCT = 0, 1, 2, 3
"""Reasons why a row stopped: finished; an atom's Gram row is missing; its correlations are too coarse to choose by,
and should come from a new product in float32, or from one in float64."""

WORTH = 8
"""A new product costs a row about as much as exact correlations with one in so many atoms."""

FEW = 32
"""So many more exact correlations than steps are no reason for a new product, however few atoms there are."""

COARSE = 4.0
"""A new product pays if it makes the bound so many times smaller."""

MP, MP_REFIT, OMP = 0, 1, 2


class Block(NamedTuple):
    """Some activations on their way through a pursuit, one per row of each array."""

    z: np.ndarray  # [batch, d_model] float64: the targets, scaled by a power of two to a largest entry in [1/2, 1)
    narrow: np.ndarray  # z in float32
    first: np.ndarray  # [batch, room] float32: correlations of all atoms with z
    c: np.ndarray  # [batch, room] float32: correlations with the residual. May be `first` itself if that can go
    bits: np.ndarray  # c as int32
    residual: np.ndarray  # [batch, d_model] float64
    energy: np.ndarray  # [batch] ||z||^2
    left: np.ndarray  # [batch] ||r||^2
    least: np.ndarray  # [batch] stop at this ||r||^2
    bound: np.ndarray  # [batch] worst error of an entry of c
    extra: np.ndarray  # [batch] exact correlations since the last product, besides one a step
    exact: np.ndarray  # [batch] exact correlations of all the steps taken, and of those taken back
    chosen: np.ndarray  # [batch] the atom that a product in float64 chose for the next step, or -1
    step: np.ndarray  # [batch] atoms picked
    applied: np.ndarray  # [batch] picks that c accounts for; -1 before the first look
    picks: np.ndarray  # [batch, k] int64
    correlations: np.ndarray  # [batch, k] of each pick, when it was picked
    coefficients: np.ndarray  # [batch, k] of the picks so far
    solutions: np.ndarray  # [batch, k, k] omp: the coefficients after each step
    factor: np.ndarray  # [batch, k, k] omp: Cholesky factor
    projected: np.ndarray  # [batch, k] omp: y of L y = D_S z
    status: np.ndarray  # [batch]
    wanted: np.ndarray  # [batch] the atom whose Gram row is needed


class Gram(NamedTuple):
    """Rows of the Gram matrix, in fixed point."""

    rows: np.ndarray  # [slots, room] int16
    slots: np.ndarray  # [room] where the row of an atom is, or -1
    used: np.ndarray  # [slots] the block that last used it
    settled: int  # atoms whose columns are in `rows`
    fresh: np.ndarray  # [some, room] int16: the rows of the atoms from `settled` on


product_error = as_written(products.product_error)


@may_reorder
def _largest(bits: np.ndarray, start: int, stop: int) -> np.int32:
    # |c| is ordered as its bits are, and an integer maximum is vectorised where one of floats is not.
    tile = bits[start:stop]
    top = np.int32(0)
    for j in range(len(tile)):
        size = tile[j] & np.int32(0x7FFFFFFF)
        top = size if size > top else top
    return top


@may_reorder
def _subtract(c: np.ndarray, row: np.ndarray, weight: np.float32, start: int, stop: int) -> None:
    tile, part = c[start:stop], row[start:stop]
    for j in range(len(tile)):
        tile[j] -= weight * np.float32(part[j])


@as_written
def _main_part(gram: Gram, atom: int) -> tuple[np.ndarray, int]:
    """Return the contiguous part of an atom's Gram row, and its length; an empty slot has length -1."""
    if atom >= gram.settled:
        return gram.fresh[atom - gram.settled], atom + 1
    slot = gram.slots[atom]
    if slot < 0:
        return gram.rows[0], -1
    return gram.rows[slot], gram.settled


@as_written
def _subtract_rest(c: np.ndarray, gram: Gram, atom: int, weight: np.float32, start: int, number: int) -> None:
    # Columns that are not yet in the matrix: the matrix is symmetric, so they are in the rows of the fresh atoms.
    for j in range(start, number):
        c[j] -= weight * np.float32(gram.fresh[j - gram.settled, atom])


@as_written
def _ahead(start: int, stop: int, row: np.ndarray) -> None:
    for j in range(start, stop, 32):  # a cache line has 32 entries
        prefetch(row, j)  # pyright: ignore[reportCallIssue] - the compiler passes the context


@as_written
def _apply(
    c: np.ndarray, bits: np.ndarray, gram: Gram, atom: int, weight: float, number: int, maxima: np.ndarray, after: int
) -> bool:
    """c -= weight * (Gram row of the atom), with the largest |c| of each tile; False if the row is not there.

    Gram rows are scattered over memory, so waiting for them would take longer than using them: that of the atom
    `after`, which comes next, is fetched meanwhile.
    """
    row, length = _main_part(gram, atom)
    if length < 0:
        return False
    scaled = np.float32(weight / SCALE)
    if length < number:
        _subtract_rest(c, gram, atom, scaled, length, number)
    following, ahead = _main_part(gram, after) if after >= 0 else (row, 0)
    for tile in range((number + TILE - 1) // TILE):
        start, stop = tile * TILE, min(number, (tile + 1) * TILE)
        _ahead(start, min(ahead, stop), following)
        _subtract(c, row, scaled, start, max(start, min(length, stop)))
        maxima[tile] = _largest(bits, start, stop)
    return True


@as_written
def _apply_all(
    first: np.ndarray,
    c: np.ndarray,
    bits: np.ndarray,
    gram: Gram,
    picks: np.ndarray,
    weights: np.ndarray,
    step: int,
    number: int,
    maxima: np.ndarray,
) -> int:
    """c = first - sum_s weights[s] * (Gram row of pick s); the first atom whose row is not there, or -1."""
    for s in range(step):
        if _main_part(gram, picks[s])[1] < 0:
            return picks[s]
    for tile in range((number + TILE - 1) // TILE):
        start, stop = tile * TILE, min(number, (tile + 1) * TILE)
        c[start:stop] = first[start:stop]
        for s in range(step):
            row, length = _main_part(gram, picks[s])
            _subtract(c, row, np.float32(weights[s] / SCALE), start, max(start, min(length, stop)))
            if length < stop:
                _subtract_rest(c, gram, picks[s], np.float32(weights[s] / SCALE), max(start, length), stop)
        maxima[tile] = _largest(bits, start, stop)
    return -1


@as_written
def _candidates(c: np.ndarray, maxima: np.ndarray, tiles: int, number: int, cut: np.float32, found: np.ndarray) -> int:
    count = 0
    for tile in range(tiles):
        if maxima[tile] >= cut:
            part = c[tile * TILE : min(number, (tile + 1) * TILE)]
            for j in range(len(part)):
                if abs(part[j]) >= cut:
                    found[count] = tile * TILE + j
                    count += 1
    return count


@as_written
def _top(largest: np.ndarray, tiles: int) -> np.float32:
    top = largest[0]
    for tile in range(1, tiles):
        top = max(top, largest[tile])
    return top


@inlined
def _catch_up(
    i: int,
    block: Block,
    gram: Gram,
    number: int,
    entry_error: float,
    stamp: int,
    omp: bool,
    maxima: np.ndarray,
    after: int,
) -> bool:
    """Bring c up to date with the picks, and its bound, and the maxima of its tiles. False if a row is not there."""
    norm = np.sqrt(block.energy[i])
    c, bits, step = block.c[i], block.bits[i], block.step[i]
    if omp and step > 0 and block.applied[i] < step:
        weights = block.coefficients[i]
        missing = _apply_all(block.first[i], c, bits, gram, block.picks[i], weights, step, number, maxima)
        if missing >= 0:
            block.wanted[i] = missing
            return False
        size = 0.0
        for s in range(step):
            size += abs(weights[s])
            if block.picks[i, s] < gram.settled:
                gram.used[gram.slots[block.picks[i, s]]] = stamp
        fresh = product_error(block.z.shape[1]) * norm
        block.bound[i] = fresh + size * (entry_error + 3 * UNIT) + 2 * UNIT * step * (norm + size)
        block.applied[i] = step
        return True
    if block.applied[i] < 0:
        if block.c.ctypes.data != block.first.ctypes.data:
            c[:number] = block.first[i, :number]
        block.applied[i] = 0
    known = False
    while block.applied[i] < step:
        at = block.applied[i]
        atom, weight = block.picks[i, at], block.coefficients[i, at]
        if not _apply(c, bits, gram, atom, weight, number, maxima, after):
            block.wanted[i] = atom
            return False
        if atom < gram.settled:
            gram.used[gram.slots[atom]] = stamp
        top = np.float64(_top(maxima.view(np.float32), (number + TILE - 1) // TILE))  # of what is rounded last
        block.bound[i] += abs(weight) * (entry_error + 3 * UNIT) + 2 * UNIT * min(norm, top)
        block.applied[i] = at + 1
        known = True
    if not known:
        for tile in range((number + TILE - 1) // TILE):
            maxima[tile] = _largest(bits, tile * TILE, min(number, (tile + 1) * TILE))
    return True


@inlined
def _pick(
    i: int, block: Block, atoms: np.ndarray, number: int, maxima: np.ndarray, found: np.ndarray, terms: np.ndarray
) -> tuple[int, float]:
    """Return the atom with the largest float64 |<r, d>|, and that <r, d>.

    Where c is too coarse to choose by, the atom is -NEEDS_PRODUCT or -NEEDS_FINE_PRODUCT: a row pays for exact
    correlations until they have cost as much as a product that would have saved most of them, so never more than
    twice what would have been best.
    """
    if block.chosen[i] >= 0:
        best = int(block.chosen[i])
        block.chosen[i] = -1
        block.exact[i] += 1
        return best, fixed_dot(block.residual[i], atoms[best], terms)
    c, tiles = block.c[i], (number + TILE - 1) // TILE
    largest = maxima.view(np.float32)
    # The extra 0.1 covers the rounding of `cut` itself.
    cut = np.float32(_top(largest, tiles) - 2.1 * block.bound[i])
    count = _candidates(c, largest, tiles, number, cut, found)
    if block.extra[i] + count - 1 > max(FEW, number // WORTH):
        if block.bound[i] > COARSE * product_error(block.z.shape[1]) * np.sqrt(block.left[i]):
            return -NEEDS_PRODUCT, 0.0
        return -NEEDS_FINE_PRODUCT, 0.0
    block.extra[i] += count - 1
    block.exact[i] += count
    best, correlation, size = -1, 0.0, -1.0
    for f in range(count):
        value = fixed_dot(block.residual[i], atoms[found[f]], terms)
        if abs(value) > size:  # a later equal one does not win
            best, correlation, size = int(found[f]), value, abs(value)
    return best, correlation


@as_written
def begin(rows: np.ndarray, targets: np.ndarray, block: Block, exponent: np.ndarray, enough: float) -> None:
    """Scale targets to a largest entry in [1/2, 1), exactly, and set up the start of their pursuit."""
    d_model = targets.shape[1]
    terms = scratch(d_model)
    for i in rows:
        top = 0.0
        for j in range(d_model):
            top = max(top, abs(np.float64(targets[i, j])))
        power = -int(math.frexp(top)[1])
        exponent[i] = -power
        # In two halves, as in `fixed_order.scaled`: each is a normal number.
        half = power // 2
        first, second = math.ldexp(1.0, half), math.ldexp(1.0, power - half)
        z = block.z[i]
        for j in range(d_model):
            z[j] = np.float64(targets[i, j]) * first * second
        block.narrow[i] = z.astype(np.float32)
        block.residual[i] = z
        energy = fixed_dot(z, z, terms)
        block.energy[i], block.left[i] = energy, energy
        block.least[i] = energy * max(enough, RESOLUTION * RESOLUTION)
        block.bound[i] = product_error(d_model) * np.sqrt(energy)
        block.step[i], block.applied[i] = 0, -1
        block.extra[i], block.exact[i], block.chosen[i] = 0, 0, -1


@inlined
def _turn(
    i: int,
    other: int,
    block: Block,
    gram: Gram,
    atoms: np.ndarray,
    number: int,
    k: int,
    pursuit: int,
    entry_error: float,
    stamp: int,
    maxima: np.ndarray,
    found: np.ndarray,
    terms: np.ndarray,
    column: np.ndarray,
) -> bool:
    """Take one step of a row; return False if it stopped. `other` is the row whose turn is next, or -1."""
    step, residual = int(block.step[i]), block.residual[i]
    if number == 0 or step == k or not block.left[i] > block.least[i]:
        return False
    after = -1
    if other >= 0 and block.applied[other] < block.step[other]:
        after = int(block.picks[other, max(0, block.applied[other])])
    if not _catch_up(i, block, gram, number, entry_error, stamp, pursuit == OMP, maxima, after):
        block.status[i] = NEEDS_ROW
        return False
    atom, correlation = _pick(i, block, atoms, number, maxima, found, terms)
    if atom < 0:
        block.status[i] = -atom
        return False
    if not abs(correlation) > RESOLUTION * np.sqrt(block.energy[i]):
        return False
    if pursuit == OMP:
        factor, projected = block.factor[i], block.projected[i]
        if not add_column(block.z[i], atoms, block.picks[i], step, atom, factor, projected, column, terms):
            return False
        solve(factor, projected, step + 1, block.coefficients[i])
        block.picks[i, step] = atom
        block.solutions[i, step, : step + 1] = block.coefficients[i, : step + 1]
        residual_of(block.z[i], block.coefficients[i], atoms, block.picks[i], step + 1, residual)
        block.left[i] = fixed_dot(residual, residual, terms)
    else:
        block.picks[i, step] = atom
        block.coefficients[i, step] = correlation
        block.left[i] = subtract_atom_and_square(residual, correlation, atoms[atom], terms)
    block.correlations[i, step] = correlation
    block.step[i] = step + 1
    return True


@as_written
def advance(
    rows: np.ndarray,
    block: Block,
    gram: Gram,
    atoms: np.ndarray,
    number: int,
    k: int,
    pursuit: int,
    entry_error: float,
    stamp: int,
) -> None:
    """Take each of some rows as far as it goes. Its `status` says why it stopped.

    Two rows take turns, so that the Gram row that one needs next comes from memory while the other computes.
    """
    d_model = atoms.shape[1]
    maxima = np.empty((number + TILE - 1) // TILE, np.int32)
    found = np.empty(number, np.int64)
    terms = scratch(d_model)
    column = np.empty(k, np.float64)
    one, other, place = -1, -1, 0
    while True:
        if one < 0 and place < len(rows):
            one = int(rows[place])
            block.status[one] = DONE
            place += 1
        if one < 0 and other < 0:
            return
        if one >= 0 and not _turn(
            one, other, block, gram, atoms, number, k, pursuit, entry_error, stamp, maxima, found, terms, column
        ):
            one = -1
        one, other = other, one


@as_written
def choose(
    places: np.ndarray,
    rows: np.ndarray,
    starts: np.ndarray,
    candidates: np.ndarray,
    block: Block,
    atoms: np.ndarray,
) -> None:
    """Choose the best of each row's candidates exactly: those of rows[p] are candidates[starts[p] : starts[p + 1]]."""
    terms = scratch(atoms.shape[1])
    for place in places:
        i, size = rows[place], -1.0
        for f in range(starts[place], starts[place + 1]):
            value = abs(fixed_dot(block.residual[i], atoms[candidates[f]], terms))
            if value > size:  # a later equal one does not win
                block.chosen[i], size = candidates[f], value
        block.exact[i] += starts[place + 1] - starts[place]


@as_written
def finish(
    rows: np.ndarray,
    block: Block,
    atoms: np.ndarray,
    k: int,
    pursuit: int,
    indices: np.ndarray,
    coefficients: np.ndarray,
    count: np.ndarray,
    share: np.ndarray,
) -> None:
    """Merge repeated picks, refit if asked; `share` is ||r||^2 / ||z||^2. What lies past `count` is 0."""
    d_model = atoms.shape[1]
    terms = scratch(d_model)
    residual = np.empty(d_model, np.float64)
    factor, projected, column = np.zeros((k, k)), np.zeros(k), np.zeros(k)
    merged = np.empty(k, np.int64)
    for i in rows:
        number = 0
        for t in range(block.step[i]):
            atom, weight, at = block.picks[i, t], block.coefficients[i, t], 0
            while at < number and merged[at] != atom:
                at += 1
            if at == number:
                merged[at], coefficients[i, at] = atom, 0.0
                number += 1
            coefficients[i, at] += weight
        left = block.left[i]
        if pursuit == MP_REFIT:
            kept = 0
            for t in range(number):
                if add_column(block.z[i], atoms, merged, kept, merged[t], factor, projected, column, terms):
                    merged[kept] = merged[t]
                    kept += 1
            number = kept
            solve(factor, projected, number, coefficients[i])
            residual_of(block.z[i], coefficients[i], atoms, merged, number, residual)
            left = fixed_dot(residual, residual, terms)
        for t in range(number):
            indices[i, t] = merged[t]
        for t in range(number, k):
            indices[i, t], coefficients[i, t] = 0, 0.0
        count[i] = number
        share[i] = left / block.energy[i] if block.energy[i] > 0 else 0.0


@as_written
def keep_rows(tiles: np.ndarray, products: np.ndarray, slots: np.ndarray, rows: np.ndarray) -> None:
    """Put some rows of D D^T, which are the columns of `products`, into their slots, in fixed point; tile by tile."""
    for tile in tiles:
        start, stop = tile * NARROW, min(len(products), (tile + 1) * NARROW)
        for place in range(len(slots)):
            row = rows[slots[place]]
            for j in range(start, stop):
                row[j] = np.int16(np.rint(products[j, place] * np.float32(SCALE)))


@as_written
def add_columns(
    slots: np.ndarray, rows: np.ndarray, holder: np.ndarray, fresh: np.ndarray, before: int, number: int
) -> None:
    """Write the columns of the atoms before..number into the Gram rows held in some slots: the matrix is symmetric."""
    for slot in slots:
        atom = holder[slot]
        for j in range(before, number):
            if j > atom:
                rows[slot, j] = fresh[j - before, atom]
