"""Centres: atoms that come out again in other text, as the middles of groups of activations.

An atom that is one activation, or is refined from one, depends on which activation came first. The middle of a group of
similar activations hardly does. So the second recipe of mode `best` keeps only the number of the atoms that grew:

1. It starts from activations spread evenly over the stream, so that what is frequent gets many atoms.
2. In each round every activation z, as u = z / ||z||, joins the atom d with the largest cosine <u, d>; then each atom
   moves to the direction of the sum of its group. This is spherical k-means (Dhillon and Modha 2001). In the first
   rounds an atom whose group is small starts anew from another activation: a group of one or two has no middle.
3. Each atom moves to the weighted sum of all activations that have it among their five nearest atoms. The weight is
   (c / c_1)^4, where c is the activation's cosine to this atom and c_1 that to its nearest. Groups that overlap are
   larger, so their middles depend less on the sample.
4. Steps of refinement (`itda.core.training.refine`) over all activations at once: many more than a pass there has, so
   that a step depends less on them too. It is damped: atoms that few activations use move less. There are three steps,
   or eight where each atom has many activations (`usual_steps`).
5. The activation of a group that is nearest to its atom, the *medoid*, gives the label; their cosine is the fidelity.

The result is exact, and the same to the bit for any number of threads and on any device: float32 products only propose
the nearest atom, float64 sums in a fixed order decide, and a group is summed in reading order.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from itda.core.arithmetic import ARITHMETIC, combined
from itda.core.dictionary import ITDA, target_of
from itda.core.labels import Labels
from itda.core.pursuit import encoder
from itda.core.pursuit.fixed_order import fixed_dot, scaled
from itda.core.pursuit.products import correlations, product_error
from itda.core.readout import best_cosines
from itda.core.training.refine import PASS_TOKENS, scaled_targets
from itda.core.training.refine_step import Uses, add_uses, improved, norm, unit

ROUNDS = 12
"""Rounds of k-means where nobody says otherwise: later ones change next to nothing."""

EVERY, EARLY = 3, 9
"""Atoms of small groups start anew after every third round, up to the ninth; those that did need rounds to settle."""

SMALL = 5
"""An atom with fewer activations in its group starts anew; fewer are enough where there are few activations."""

NEAR = 5
"""Atoms nearest to an activation that it counts for, when groups overlap."""

STEPS, MORE_STEPS = 3, 8
"""Steps of refinement at the end: usually, and where each atom has many activations."""

MANY = 35
"""Activations for each atom from which more steps still leave atoms that come out again (benchmarks/atoms_tried.py)."""

DAMPING = 1.0
"""How much a step is damped, in the mean energy of an atom: atoms that few activations use move less."""

GOLDEN = 0.6180339887498949
"""Activations of one new start lie between those of the others: each is moved on by this share of their distance."""

PRODUCTS = 2**23
"""Most cosines in memory at once. Sums go on from part to part, so no bit depends on it."""

Progress = Callable[[int], object]


def usual_steps(activations: int, atoms: int) -> int:
    """Return the number of steps at the end where nobody says otherwise, for so many activations that are kept.

    Each step lowers the error, and atoms come out again in other text less often. With many activations for each atom
    they come out often enough to afford more steps.

    >>> usual_steps(40_000, 2048), usual_steps(160_000, 2048)
    (3, 8)
    """
    return MORE_STEPS if activations >= MANY * atoms else STEPS


def readings(rounds: int, steps: int) -> int:
    """Return how often all activations are gone through: in rounds, for groups that overlap, in steps, for medoids."""
    return rounds + 1 + steps + 1


def record_of_centres(rounds: int, steps: int) -> dict[str, int]:
    """Say how centres were made, as provenance has it; three steps are not said, as in older files."""
    return {"recipe": 2, "rounds": rounds} | ({} if steps == STEPS else {"steps": steps})


@torch.no_grad()
def centres(
    dictionary: ITDA,
    activations: Float[Tensor, "tokens d_model"],
    labels: Labels,
    *,
    number: int | None = None,
    rounds: int = ROUNDS,
    near: int = NEAR,
    steps: int | None = None,
    progress: Progress = lambda _tokens: None,
) -> ITDA:
    """Replace a dictionary's atoms by as many centres of groups of activations, each labelled by its medoid.

    Of the dictionary only the offset, the settings and the number of atoms matter, and that not if a `number` is given.
    `labels` are those of the activations; an activation counts for its `near` nearest atoms where groups overlap (0:
    they do not); there are `steps` of refinement at the end, by default as many as `usual_steps` says. An atom whose
    group ends empty has no medoid and is left out, so there may be fewer atoms than before. They did not grow, so there
    is no `novelty`. `progress` is told how many activations were gone through. A function of its arguments to the bit,
    whatever the device and the number of threads.

    >>> import itda, torch
    >>> labels = itda.Labels.of(*(itda.Label("essay", i, i, i + 1, i, "", "x", "") for i in range(4)))
    >>> x = torch.tensor([[5.0, 0.0], [4.0, 2.0], [0.0, 1.0], [2.4, 0.7]])
    >>> found = centres(itda.ITDA(torch.eye(2), labels[:2], k=1), x, labels)
    >>> found.labels.position.tolist(), [round(value, 3) for value in found.fidelity.tolist()]
    ([3, 2], [0.998, 0.999])
    """
    units, number = _Units(dictionary, activations), len(dictionary) if number is None else number
    if number == 0 or not len(units):
        return replace(dictionary, fidelity=torch.ones(len(dictionary)))
    atoms = units.at(_spread(len(units), number, turn=0))
    few = min(SMALL, max(1, len(units) // (3 * number)))
    for turn in range(1, rounds + 1):
        sums, sizes = _groups(units, atoms, progress)
        atoms = unit(sums.float(), atoms)
        if turn % EVERY == 0 and turn <= EARLY and turn < rounds:
            small = (sizes < few).nonzero()[:, 0]
            atoms[small.to(atoms.device)] = units.at(_spread(len(units), len(small), turn=turn))
    if near:
        atoms = _overlapping(units, atoms, near, progress)
    for _ in range(usual_steps(len(activations), number) if steps is None else steps):
        atoms = _stepped(dictionary, activations, atoms, progress)
    medoid, cosine = _medoids(units, atoms, progress)
    there = medoid >= 0
    return replace(
        dictionary,
        atoms=atoms[there.to(atoms.device)],
        labels=labels[units.rows[medoid[there]].numpy()],
        fidelity=cosine[there].float(),
        novelty=None,
        arithmetic=combined(dictionary.arithmetic, [ARITHMETIC]),
    )


def nearest(
    units: Float32[Tensor, "rows d_model"], atoms: Float32[Tensor, "atoms d_model"]
) -> tuple[Int64[Tensor, " rows"], Float64[Tensor, " rows"]]:
    """Return the atom with the largest cosine to each row, the first of equals, and that cosine. Lengths are one or 0.

    >>> nearest(torch.tensor([[0.6, 0.8]]), torch.eye(2))[0].tolist()
    [1]
    """
    proposed = correlations(units, atoms)
    # Each product is within the error of its cosine, and so is the largest: what is below twice the error loses.
    least = proposed.amax(dim=1, keepdim=True) - (2 * product_error(units.shape[1]) + 1e-6)
    rows, open_to = (proposed >= least).nonzero(as_tuple=True)
    cosine = fixed_dot(units[rows].double(), atoms[open_to].double())
    best = cosine.new_full((len(units),), -torch.inf).scatter_reduce_(0, rows, cosine, "amax")
    is_best = cosine == best[rows]
    first = open_to.new_full((len(units),), len(atoms)).scatter_reduce_(0, rows[is_best], open_to[is_best], "amin")
    return first, best


class _Units:
    """z / ||z|| of activations, z = x - offset, on a device: made again whenever they are read, to hold no copy of all.

    Those that are the offset have no direction, and are left out.
    """

    def __init__(self, dictionary: ITDA, activations: Float[Tensor, "tokens d_model"]) -> None:
        self._activations, self._offset = activations, dictionary.offset
        self.device, self.width = dictionary.atoms.device, dictionary.d_model
        parts = [self._of(part).any(dim=1).cpu() for part in activations.split(max(1, PRODUCTS // self.width))]
        directed = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.bool)
        self.rows: Int64[Tensor, " units"] = directed.nonzero()[:, 0]
        """The activations that have a direction."""

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, places: Int64[Tensor, " some"]) -> Float32[Tensor, "some d_model"]:
        """Return some of them."""
        return self._of(self._activations[self.rows[places].to(self._activations.device)])

    def parts(self, atoms: int) -> Iterator[Float32[Tensor, "rows d_model"]]:
        """Give all of them in parts whose products with so many atoms fit into memory."""
        size = max(1, PRODUCTS // max(1, atoms, self.width))
        for start in range(0, len(self), size):
            yield self.at(torch.arange(start, min(len(self), start + size)))

    def _of(self, rows: Float[Tensor, "rows d_model"]) -> Float32[Tensor, "rows d_model"]:
        z = target_of(rows, self.width, self._offset).to(self.device).double()
        exponent = torch.frexp(z.abs().amax(dim=1, keepdim=True)).exponent
        z = scaled(z, -exponent)  # no square over- or underflows
        length = norm(z)
        return torch.where(length > 0, z / length, 0.0).float()


def _spread(rows: int, number: int, *, turn: int) -> Int64[Tensor, " number"]:
    """Return row numbers evenly over all rows, others on each turn."""
    place = (torch.arange(number, dtype=torch.float64) + (turn * GOLDEN) % 1) * (rows / max(1, number))
    return place.long().clamp(max=rows - 1)


def _groups(
    units: _Units, atoms: Float32[Tensor, "atoms d_model"], progress: Progress
) -> tuple[Float64[Tensor, "atoms d_model"], Int64[Tensor, " atoms"]]:
    """Return the sum of each atom's group, its rows one after the other, and on the CPU its number of rows."""
    sums = torch.zeros(atoms.shape, dtype=torch.float64, device=atoms.device)
    sizes = torch.zeros(len(atoms), dtype=torch.long)
    for rows in units.parts(len(atoms)):
        atom, cosine = nearest(rows, atoms)
        member = (cosine > 0).double()[:, None]
        add_uses(Uses.of(atom[:, None], member, len(atoms)), rows.double(), sums)
        sizes += torch.bincount(atom[cosine > 0], minlength=len(atoms)).cpu()
        progress(len(rows))
    return sums, sizes


def _overlapping(
    units: _Units, atoms: Float32[Tensor, "atoms d_model"], near: int, progress: Progress
) -> Float32[Tensor, "atoms d_model"]:
    """Move each atom to the weighted sum of the rows that have it among their `near` nearest atoms."""
    sums = torch.zeros(atoms.shape, dtype=torch.float64, device=atoms.device)
    for rows in units.parts(len(atoms)):
        found = best_cosines(rows, atoms, top=min(near, len(atoms)))
        cosine = found.coefficients.double().clamp(min=0)
        weight = cosine / torch.where(cosine[:, :1] > 0, cosine[:, :1], 1.0)
        for _ in range(2):  # to the fourth power, by products alone, which round the same way everywhere
            weight = weight * weight
        add_uses(Uses.of(found.indices, weight, len(atoms)), rows.double(), sums)
        progress(len(rows))
    return unit(sums.float(), atoms)


def _stepped(
    dictionary: ITDA,
    activations: Float[Tensor, "tokens d_model"],
    atoms: Float32[Tensor, "atoms d_model"],
    progress: Progress,
) -> Float32[Tensor, "atoms d_model"]:
    """Move the atoms by the mean of the steps of refinement over parts of the activations, each part evenly spread."""
    parts = max(1, math.ceil(len(activations) / PASS_TOKENS))
    encode = encoder(atoms, dictionary.k, "mp", memory=dictionary.limits.memory)
    total = torch.zeros(atoms.shape, dtype=torch.float64, device=atoms.device)
    for part in range(parts):
        targets = scaled_targets(dictionary, activations[part::parts])
        total += improved(atoms, targets, encode(targets)[0], damping=DAMPING).double() - atoms.double()
        progress(len(targets))
    return unit((atoms.double() + total / parts).float(), atoms)


def _medoids(
    units: _Units, atoms: Float32[Tensor, "atoms d_model"], progress: Progress
) -> tuple[Int64[Tensor, " atoms"], Float64[Tensor, " atoms"]]:
    """Return the row of each atom's group that is nearest to it, the first of equals, and its cosine; -1 for none."""
    medoid = torch.full((len(atoms),), -1)
    largest = torch.zeros(len(atoms), dtype=torch.float64)
    start = 0
    for rows in units.parts(len(atoms)):
        atom, cosine = (found.cpu() for found in nearest(rows, atoms))
        best = largest.scatter_reduce(0, atom, cosine, "amax")
        is_best = (cosine == best[atom]) & (cosine > largest[atom])
        place = torch.arange(start, start + len(rows))[is_best]
        first = torch.full((len(atoms),), len(units)).scatter_reduce_(0, atom[is_best], place, "amin")
        medoid = torch.where(first < len(units), first, medoid)
        largest, start = best, start + len(rows)
        progress(len(rows))
    return medoid, largest.clamp(max=1)
