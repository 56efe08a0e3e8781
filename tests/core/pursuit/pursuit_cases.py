"""One table of inputs for every fast pursuit: each must give the bits of `plain.pursue` on all of them."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from core.helpers import normal, same_bits, unit_rows

from itda.core.code import SparseCode


class Case(NamedTuple):
    """Activations, atoms and the number of steps."""

    targets: torch.Tensor
    atoms: torch.Tensor
    k: int


def unit(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows.double(), dim=1).float()


def random(atoms: int, width: int, k: int, rows: int = 3) -> Case:
    return Case(normal(rows, width), unit_rows(atoms, width), k)


def duplicates_and_negatives_far_apart() -> Case:
    d = unit_rows(180, 20)
    d[100:140], d[140:180] = d[:40].flip(0), -d[20:60]
    return Case(torch.cat([normal(2, 20), 2 * d[[5, 30]] + 0.1 * normal(2, 20, 1)]), d, 4)


def whole_number_ties() -> Case:
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    d = torch.cat([torch.eye(8), -torch.eye(8)])[order]
    x = torch.tensor([[2, -2, 2, 1, 0, 0, -1, 0], [1] * 8, [-3, 3, 0, 0, 3, 0, 0, -3], [0, 1, 0, 1, 0, 1, 0, -1]])
    return Case(x.float(), d, 6)


def unlike_atoms_that_tie() -> Case:
    """<x, d> = 1 for all of x's coordinate pairs: whatever order they are looked at in, the lowest index is right."""
    d = unit(torch.tensor([[0, 0, 3, 4], [0, 0, 4, 3], [3, 4, 0, 0], [4, 3, 0, 0], [0, 3, 4, 0], [3, 0, 0, 4]]))
    return Case(torch.tensor([[7.0, 7, 7, 7], [-1, -1, -1, -1], [7, 7, -7, -7]]), d, 3)


def atoms_a_last_bit_apart() -> Case:
    """What float32 cannot tell apart: only the float64 decision finds the best."""
    d = unit_rows(1, 256).repeat(40, 1)
    chance = torch.rand(d.shape, generator=torch.Generator().manual_seed(2))
    d = torch.where(chance < 0.1, d.nextafter(torch.full_like(d, 2.0)), d)
    d = torch.where(chance > 0.9, d.nextafter(torch.full_like(d, -2.0)), d)
    return Case((d[:1] + 0.2 * normal(3, 256)).double(), torch.cat([unit_rows(20, 256, 5), d]), 2)


def coherent_like_raw_activations() -> Case:
    mean = 4 * unit_rows(1, 24, 7)
    return Case(mean + 0.5 * normal(3, 24, 8), unit(mean + 0.5 * normal(200, 24, 9)), 5)


def nearly_collinear() -> Case:
    """Least squares on these has large coefficients of both signs."""
    return Case(normal(3, 24, 8), unit(4 * unit_rows(1, 24, 7) + 0.03 * normal(40, 24, 9)), 4)


def scales() -> Case:
    x = normal(4, 16)
    return Case(x * torch.tensor([1e-30, 1.0, 1e30, 1e-42])[:, None], unit_rows(40, 16), 3)


def exact_fits() -> Case:
    d = unit_rows(90, 24, 3)
    return Case(torch.stack([d[7], -3 * d[80], d[7] + d[50], 2 * d[3] - d[4], torch.zeros(24)]), d, 6)


def zero_rows() -> Case:
    x = normal(5, 12)
    x[[0, 2, 4]] = 0
    return Case(x, unit_rows(20, 12), 4)


def norms_off_by_what_a_dictionary_allows() -> Case:
    d = unit_rows(1, 48, 4).repeat(20, 1) + 1e-7 * normal(20, 48, 5)
    d = unit(d).double() * (1 + 9e-6 * torch.linspace(-1, 1, 20).double()[:, None])
    return Case(d[:1].float() + 0.1 * normal(2, 48, 6), d.float(), 3)


def misled_by_its_gram_matrix() -> tuple[Case, torch.Tensor]:
    """The ninth pick is the last atom; but a Gram matrix as wrong as float32 allows puts the one before it ahead.

    Eight steps of 1 each move their c apart by more than the bound on the first product: it must have grown.
    """
    best, other = unit_rows(2, 8, 11).double()
    near = unit(torch.stack([best + 1e-3 * other, best]))
    d = torch.block_diag(torch.eye(8), near)
    x = torch.cat([torch.ones(8), 0.5 * near[1]])[None]
    gram = d @ d.T
    gram[:8, 8:] += torch.tensor([-1.0, 1.0]) * (16 + 6) * 2.0**-24
    return Case(x, d, 9), gram


def misled_by_16_bits() -> Case:
    """The ninth pick is the last atom; but a Gram matrix in 16 bits takes entries for 0 that put the one before ahead.

    Eight steps of 1 each move their c apart by more than the bound on the first product: it must have grown.
    """
    best, other = unit_rows(2, 8, 11).double()
    near = unit(torch.stack([best + 1e-3 * other, best])).double()
    small = 0.49 / 32700 * torch.tensor([[1.0], [-1.0]]).double().expand(2, 8)
    last = unit(torch.cat([small, near], dim=1))
    d = torch.cat([torch.eye(8, 16), last])
    return Case(torch.cat([torch.ones(8), 0.5 * near[1].float()])[None], d, 9)


CASES: dict[str, Callable[[], Case]] = {
    "random": lambda: random(100, 24, 5),
    "one atom": lambda: random(1, 5, 3),
    "31 atoms of odd width": lambda: random(31, 33, 5),
    "33 atoms": lambda: random(33, 8, 5),
    "500 atoms of width 7": lambda: random(500, 7, 4),
    "width one": lambda: random(4, 1, 3),
    "more steps than atoms": lambda: random(3, 16, 8),
    "float64 activations": lambda: random(60, 24, 4)._replace(targets=normal(3, 24, 3).double()),
    "float64 atoms": lambda: random(60, 24, 4)._replace(atoms=unit_rows(60, 24, 9).double() * (1 + 2.0**-30)),
    **{
        case.__name__.replace("_", " "): case
        for case in (
            duplicates_and_negatives_far_apart,
            whole_number_ties,
            unlike_atoms_that_tie,
            atoms_a_last_bit_apart,
            coherent_like_raw_activations,
            nearly_collinear,
            scales,
            exact_fits,
            zero_rows,
            norms_off_by_what_a_dictionary_allows,
        )
    },
}


def differences(found: tuple[SparseCode, torch.Tensor], expected: tuple[SparseCode, torch.Tensor]) -> list[str]:
    """Which of indices, count, coefficients and share left have other bits."""
    (code, left), (wanted, wanted_left) = found, expected
    pairs = {
        "indices": (code.indices, wanted.indices),
        "count": (code.count, wanted.count),
        "coefficients": (code.coefficients, wanted.coefficients),
        "left": (left, wanted_left),
    }
    return [name for name, (a, b) in pairs.items() if not same_bits(a.cpu(), b.cpu())]
