"""Refinement: with codes fixed, every atom moves to where its residuals want it, in closed form; labels stay.

Dictionary learning by alternation (MOD, Engan et al. 1999; K-SVD, Aharon et al. 2006), with one step for all atoms at
once instead of a solve or an SVD for each: for min ||Z - S D||^2 over D, codes S fixed, the step of block Jacobi is
(S^T R)_j / (S^T S)_jj for atom j, R = Z - S D; as atoms are used together it overshoots, so it is damped by the exact
line search along it, <R, S P> / ||S P||^2, after which the residual is never larger. Each pass has new tokens.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from itda.core.arithmetic import ARITHMETIC, combined
from itda.core.checks import check_refinement
from itda.core.dictionary import ITDA, UNKNOWN, check_width, target_of
from itda.core.intake import Rows, check_finite, rows_of
from itda.core.pursuit import encoder
from itda.core.pursuit.fixed_order import fixed_dot, scaled
from itda.core.training.refine_step import ROWS, improved, norm, unit
from itda.errors import SettingError

log = logging.getLogger(__name__)

PASS_TOKENS = 20_000
"""The most tokens of one pass."""

USES = 64
"""Uses per atom in a pass. Fewer fit an atom too closely to them; more give fewer passes in the same time."""

LEAST_TOKENS = 5_000
"""The fewest tokens of one pass, however few atoms there are."""

GUARD_TOKENS = 8_000
"""Most tokens, of those fitted, on which the refined dictionary is compared with the one before."""

MOMENTUM = 0.6
"""Share of the last step that is taken again: atoms that move the same way in each pass go faster."""


def pass_size(atoms: int, k: int) -> int:
    """Return the default number of tokens in a pass."""
    return min(PASS_TOKENS, max(LEAST_TOKENS, USES * atoms // k))


@torch.no_grad()
def refine(
    dictionary: ITDA,
    activations: Rows,
    *,
    passes: int,
    min_fidelity: float = 0.0,
    pass_tokens: int | None = None,
    progress: Callable[[int], object] = lambda _tokens: None,
) -> ITDA:
    """Improve the atoms on some activations, `passes` times over `pass_tokens` of them; the labels are kept.

    The default is as many tokens as use each atom `USES` times, from `LEAST_TOKENS` to `PASS_TOKENS`.

    Each pass takes activations spread evenly over all of them, and as long as there are some, other ones than the
    passes before. The *fidelity* of an atom is its cosine to the activation that its label names (after the offset); no
    atom goes below `min_fidelity`. On the activations it was fitted on (or `GUARD_TOKENS` of them, evenly spread) the
    error of the result is never larger than before: if it were, the atoms would be returned as they came, with fidelity
    1.

    It is computed on the device of the dictionary, to which a pass's activations are copied if they are elsewhere. The
    same arguments give the same bits, on any device and with any number of threads. Raises `SettingError` for
    settings out of range or a dictionary that is refined already, `ActivationError` for activations that do not fit.

    >>> import itda, torch
    >>> labels = itda.Labels.of(*(itda.Label("essay", i, i, i + 1, i, "", "x", "") for i in range(2)))
    >>> dictionary = itda.ITDA(torch.eye(2), labels, k=1)
    >>> refined = itda.refine(dictionary, torch.tensor([[2.0, 1.0], [0.0, 3.0]]), passes=1)
    >>> [round(x, 3) for x in refined.atoms[0].tolist()], refined.fidelity.tolist()[1]
    ([0.894, 0.447], 1.0)
    """
    check_refinement(passes, min_fidelity)
    if pass_tokens is None:
        pass_tokens = pass_size(len(dictionary), dictionary.k)
    if pass_tokens < 1:
        raise SettingError(f"pass_tokens is {pass_tokens}: it must be at least 1")
    if dictionary.fidelity is not None:
        raise SettingError("the dictionary is refined already: refine the one that it was made from")
    activations = _checked(activations, dictionary)
    if passes == 0 or len(activations) == 0 or len(dictionary) == 0:
        return replace(dictionary, fidelity=torch.ones(len(dictionary)))
    order = _spread(len(activations), pass_tokens)
    part = torch.arange(min(pass_tokens, len(order)))
    parts = [order[(number * pass_tokens + part) % len(order)] for number in range(passes)]
    atoms = _fitted(dictionary, activations, parts, min_fidelity, progress)
    made_with = combined(dictionary.arithmetic, [ARITHMETIC])
    fidelity = _fidelity(atoms, dictionary.atoms)
    known = UNKNOWN | {"fidelity": fidelity, "novelty": dictionary.novelty}
    result = replace(dictionary, atoms=atoms, arithmetic=made_with, **known)
    fitted = order[: passes * pass_tokens]
    guard = activations[fitted[:: math.ceil(len(fitted) / GUARD_TOKENS)].to(activations.device)]
    if _error(result, guard) > _error(dictionary, guard):
        return replace(dictionary, fidelity=torch.ones(len(dictionary)))
    return result


def near(
    kept: Float[Tensor, "tokens d_model"],
    dictionary: ITDA,
    make: Callable[[ITDA, Callable[[int], object]], ITDA],
    progress: Callable[[int], object],
) -> ITDA:
    """Make a dictionary of another on the device of the activations if it is a GPU with room for it, else on the CPU.

    `make` takes the dictionary, and what tells its progress. The bits are the same.
    """
    if kept.device.type != "cpu":
        dictionary = dictionary.to(kept.device)
    told = 0

    def tell(tokens: int) -> None:
        nonlocal told
        told += tokens
        progress(tokens)

    try:
        return make(dictionary, tell)
    except torch.OutOfMemoryError:
        log.info("refinement: on the CPU, since the GPU's memory is short")
    progress(-told)
    return make(dictionary.to("cpu"), progress)


def _checked(activations: Rows, dictionary: ITDA) -> Float[Tensor, "tokens d_model"]:
    """Take activations as a tensor. Raises `ActivationError` for those that do not fit or are not finite."""
    rows = rows_of(activations)
    check_width(rows, dictionary.d_model)
    check_finite(rows)
    return rows


def _spread(tokens: int, pass_tokens: int) -> Int64[Tensor, " tokens"]:
    """Return all token numbers in an order of which each `pass_tokens` are spread over the whole stream."""
    # Every s-th, then those after them, and so on.
    stride = math.ceil(tokens / pass_tokens)
    return torch.cat([torch.arange(start, tokens, stride) for start in range(stride)])


def _fitted(
    dictionary: ITDA,
    activations: Float[Tensor, "tokens d_model"],
    parts: list[Int64[Tensor, " part"]],
    min_fidelity: float,
    progress: Callable[[int], object],
) -> Float32[Tensor, "atoms d_model"]:
    """Return the atoms after one pass over each part of the activations."""
    start, limit = dictionary.atoms, dictionary.limits.memory
    atoms, velocity = start, torch.zeros_like(start)
    for part in parts:
        targets = scaled_targets(dictionary, activations[part.to(activations.device)])
        # Plain matching pursuit: its codes cost less than those of a final fit, and atoms fitted to them do no worse.
        # In one expression, so that the encoder's Gram rows are let go of before the next ones are made.
        code = encoder(atoms, dictionary.k, "mp", memory=limit)(targets)[0]
        velocity = MOMENTUM * velocity + (improved(atoms, targets, code) - atoms)
        atoms = _within(unit(atoms + velocity, atoms), start, min_fidelity)
        progress(len(targets))
    return atoms


def _fidelity(
    atoms: Float32[Tensor, "atoms d_model"], start: Float32[Tensor, "atoms d_model"]
) -> Float32[Tensor, " atoms"]:
    """Return the cosine of each atom to what it was at the start, on the CPU."""
    parts = []
    for moved, first in zip(atoms.split(ROWS), start.split(ROWS), strict=True):
        new, old = moved.double(), first.double()
        parts.append((fixed_dot(new, old) / (norm(new) * norm(old))[:, 0]).clamp(-1, 1).float())
    return torch.cat(parts).cpu()


def _within(
    atoms: Float32[Tensor, "atoms d_model"], start: Float32[Tensor, "atoms d_model"], least: float
) -> Float32[Tensor, "atoms d_model"]:
    """Turn atoms whose cosine to their start is below `least` (or negative) back to it along the shortest way."""
    if least >= 1:
        return start
    parts = zip(atoms.split(ROWS), start.split(ROWS), strict=True)  # in float64 they are twice as large
    return torch.cat([_turned_back(moved.double(), first.double(), least).float() for moved, first in parts])


def _turned_back(
    a: Float64[Tensor, "atoms d_model"], o: Float64[Tensor, "atoms d_model"], least: float
) -> Float64[Tensor, "atoms d_model"]:
    o = o / norm(o)
    cosine = fixed_dot(a, o)[:, None]
    across = a - cosine * o
    across = across / norm(across).clamp(min=1e-300)
    bound = min(1.0, least + 1e-6)  # atoms are float32: its rounding must not go below
    # An atom opposite to its start has no shortest way back.
    turned = torch.where(norm(across) > 0.5, bound * o + math.sqrt(1 - bound * bound) * across, o)
    return torch.where(cosine < bound, turned, a)


def scaled_targets(dictionary: ITDA, activations: Tensor) -> Float64[Tensor, "tokens d_model"]:
    """Return x - offset, divided by one power of two that brings the largest near 1: no energy overflows.

    They are on the device of the dictionary.
    """
    targets = target_of(activations, dictionary.d_model, dictionary.offset).to(dictionary.atoms.device).double()
    exponent = torch.frexp(targets.abs().amax()).exponent
    return scaled(targets, -exponent)


def _error(dictionary: ITDA, activations: Tensor) -> float:
    """Return the sum of ||x - x_hat||^2 over some activations, in the units of `scaled_targets`."""
    shares: Float64[Tensor, " tokens"] = dictionary.decompose(activations)[1].to(dictionary.atoms.device)
    energy = torch.cat([fixed_dot(part, part) for part in scaled_targets(dictionary, activations).split(ROWS)])
    return math.fsum((shares * energy).tolist())
