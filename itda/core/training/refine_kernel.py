"""Compiled sums of refinement: each in one fixed order, whatever the number of threads."""

import numpy as np

from itda.core.pursuit.compiled import as_written
from itda.core.pursuit.fixed_order_kernel import fixed_dot, scratch


@as_written
def gather(
    atoms: np.ndarray,
    starts: np.ndarray,
    rows: np.ndarray,
    coefficients: np.ndarray,
    residual: np.ndarray,
    gradient: np.ndarray,
) -> None:
    """For each of some atoms: sum over its uses of coefficient * residual[row], added to its row of `gradient`."""
    for j in atoms:
        total = gradient[j]
        for u in range(starts[j], starts[j + 1]):
            use, left = coefficients[u], residual[rows[u]]
            for i in range(len(total)):
                total[i] += use * left[i]


@as_written
def along(rows: np.ndarray, residual: np.ndarray, change: np.ndarray, products: np.ndarray) -> None:
    """<residual, change> and <change, change> of some rows, into `products` [rows, 2]."""
    terms = scratch(residual.shape[1])
    for row in rows:
        left, step = residual[row], change[row]
        products[row, 0], products[row, 1] = fixed_dot(left, step, terms), fixed_dot(step, step, terms)
