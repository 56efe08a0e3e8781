"""What was tried for recipe 2 of mode best: how low the fvu gets, and how many atoms are found again, way by way.

    python benchmarks/atoms_tried.py acts/first acts/second acts/held-out [--layers 20] [--ways split] [--more DIR DIR]

The folders are those of `atoms.py`. Each way makes a dictionary of the first and one of the second, which have other
documents. Most begin with another, so that what is shown is the worth of one change. The columns:

- fvu on the third folder, of the dictionary of the first;
- for each atom of one the largest |cosine| to an atom of the other, both ways: mean, shares above .8 and .9;
- the median of the largest cosine of an activation of an atom's group to the atom, and the atoms without a group;
- processor seconds of this change alone, for one dictionary.

The rounds are in float32 and not reproducible to the bit, as those of `itda` are. `--more` names more documents, for
the first and the second in turn: folders, or files that `meaning.py text` keeps. `--decoders` names two SAEs that
`meaning.py saes` keeps, of the first and the second, for the ways that start from a decoder.
"""

import argparse
import re
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch
from atoms import AT_ONCE, MASSIVE, fvu, match, read
from common import BEST, RESULTS, Results, labels_for, table
from torch import Tensor

import itda
from itda.core.pursuit import decoded, encoder
from itda.core.training.refine_step import improved, unit

Codes = tuple[Tensor, Tensor, Tensor]
"""Targets, and the atoms and coefficients of their codes."""


class Stream:
    """Activations of a layer, centred and as directions, and what is made of them, each way once."""

    def __init__(self, x: Tensor, atoms: int, k: int, keep: Path | None = None, decoder: Path | None = None) -> None:
        self.keep, self.offset, self.decoder = keep, x[: BEST["offset_tokens"]].mean(dim=0), decoder
        self.z, self.number, self.k = x - self.offset, atoms, k
        self.made: dict[str, tuple[Tensor, float]] = {}

    @cached_property
    def units(self) -> Tensor:
        return torch.nn.functional.normalize(self.z, dim=1)

    @cached_property
    def targets(self) -> Tensor:
        return self.z / self.z.abs().max()

    def even(self, rows: Tensor, number: int, turn: float = 0.0) -> Tensor:
        place = (torch.arange(number) + (0.618 * turn) % 1) * (len(rows) / max(1, number))
        return rows[place.long().clamp(max=len(rows) - 1)]

    def way(self, name: str) -> Tensor:
        kept = self.keep / (re.sub(r"\W+", "_", name) + ".pt") if self.keep else None
        if kept and kept.exists():
            self.made[name] = torch.load(kept)
        elif name not in self.made:
            parent, make = WAYS[name]
            before = self.way(parent) if parent else torch.empty(0)
            started = time.process_time()
            atoms = make(self, before)
            self.made[name] = atoms, time.process_time() - started
            if kept:
                kept.parent.mkdir(parents=True, exist_ok=True)
                torch.save(self.made[name], kept)
        return self.made[name][0]

    def codes(self, atoms: Tensor, k: int | None = None) -> Codes:
        encode, targets = encoder(atoms, k or self.k, "mp"), self.targets.double()
        found = [encode(part)[0] for part in targets.split(8192)]
        return targets, torch.cat([c.indices for c in found]), torch.cat([c.coefficients.double() for c in found])

    def dictionary(self, atoms: Tensor) -> itda.ITDA:
        return itda.ITDA(atoms, labels_for(len(atoms)), k=self.k, pursuit=BEST["pursuit"], offset=self.offset)


def nearest(units: Tensor, atoms: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine to and number of the nearest atom."""
    found = [(part @ atoms.T).max(dim=1) for part in units.split(AT_ONCE)]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def moved(units: Tensor, atoms: Tensor) -> tuple[Tensor, Tensor]:
    """One round of k-means: the atoms, and the group of each row."""
    group = nearest(units, atoms)[1]
    return unit(torch.zeros_like(atoms).index_add_(0, group, units), atoms), group


def rounds(s: Stream, units: Tensor, number: int, least: int = 5) -> Tensor:
    """12 rounds from evenly spread rows; atoms of small groups start anew three times."""
    atoms = s.even(units, number).clone()
    for turn in range(1, 13):
        atoms, group = moved(units, atoms)
        if turn in (3, 6, 9):
            small = (torch.bincount(group, minlength=number) < least).nonzero()[:, 0]
            atoms[small] = s.even(units, len(small), turn)
    return atoms


def overlap(near: int, power: int) -> Callable[[Stream, Tensor], Tensor]:
    def make(s: Stream, atoms: Tensor) -> Tensor:
        total = torch.zeros_like(atoms)
        for part in s.units.split(AT_ONCE):
            cosine, atom = (part @ atoms.T).topk(near, dim=1)
            weight = (cosine.clamp(min=0) / cosine[:, :1].clamp(min=1e-9)) ** power
            for j in range(near):
                total.index_add_(0, atom[:, j], part * weight[:, j : j + 1])
        return unit(total, atoms)

    return make


def step(k: int | None = None, damping: float = 0.0) -> Callable[[Stream, Tensor], Tensor]:
    """The step of refinement over all activations, in two parts."""

    def make(s: Stream, atoms: Tensor) -> Tensor:
        encode, total = encoder(atoms, k or s.k, "mp"), torch.zeros_like(atoms).double()
        for part in (s.targets[0::2].double(), s.targets[1::2].double()):
            total += improved(atoms, part, encode(part)[0], damping=damping).double() - atoms.double()
        return unit((atoms + total / 2).float(), atoms)

    return make


def gradient(codes: Codes, atoms: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over the uses of each atom of coefficient * residual and of coefficient^2, for the rows that count."""
    total, energy = torch.zeros_like(atoms).double(), torch.zeros(len(atoms), dtype=torch.float64)
    for z, atom, weight in zip(*(part[counted].split(AT_ONCE) for part in codes), strict=True):
        residual = z - decoded(weight, atoms, atom)
        for j in range(atom.shape[1]):
            total.index_add_(0, atom[:, j], residual * weight[:, j : j + 1])
            energy.index_add_(0, atom[:, j], weight[:, j].square())
    return total, energy


def along(codes: Codes, atoms: Tensor, change: Tensor) -> Tensor:
    """The atoms moved as far along a change as is best for the residual."""
    cross = square = 0.0
    for z, atom, weight in zip(*(part.split(AT_ONCE) for part in codes), strict=True):
        change_of_row = decoded(weight, change.float(), atom)
        cross += float(((z - decoded(weight, atoms, atom)) * change_of_row).sum())
        square += float(change_of_row.square().sum())
    return unit((atoms + cross / square * change).float(), atoms)


def shared(damping: float) -> Callable[[Stream, Tensor], Tensor]:
    """A step of which each atom takes the share that two halves of the documents agree on."""

    def make(s: Stream, atoms: Tensor) -> Tensor:
        codes = s.codes(atoms)
        half = (torch.arange(len(s.z)) // 512) % 2
        (one, energy), (other, also) = (gradient(codes, atoms, half == h) for h in (0, 1))
        mean = (one + other) / (energy + also).clamp(min=1e-300)[:, None]
        agreed = (one * other).sum(dim=1) / (energy * also).clamp(min=1e-300)
        share = (agreed / mean.square().sum(dim=1).clamp(min=1e-300)).clamp(0, 1)
        all_uses = energy + also
        change = (one + other) / (all_uses + damping * all_uses.mean()).clamp(min=1e-300)[:, None] * share[:, None]
        print(f"    shared by the halves, of the step of an atom: median {float(share.median()):.2f}", flush=True)
        return along(codes, atoms, change)

    return make


def least_squares(ridge: float) -> Callable[[Stream, Tensor], Tensor]:
    """All atoms at once by least squares, held to where they are by a ridge, in the mean energy of an atom."""

    def make(s: Stream, atoms: Tensor) -> Tensor:
        codes, gram = s.codes(atoms), torch.zeros(len(atoms), len(atoms))
        for atom, weight in zip(codes[1].split(2048), codes[2].split(2048), strict=True):
            dense = torch.zeros(len(atom), len(atoms)).scatter_add_(1, atom, weight.float())
            gram.addmm_(dense.T, dense)
        total, energy = gradient(codes, atoms, torch.ones(len(s.z), dtype=torch.bool))
        gram = gram.double()
        gram.diagonal().add_(ridge * energy.mean())
        return unit((atoms + torch.linalg.solve(gram, total)).float(), atoms)

    return make


def half_whitened(s: Stream, _: Tensor) -> Tensor:
    """k-means in the half-whitened space; the centres are those of the groups in the plain one."""
    values, vectors = torch.linalg.eigh((s.z.T @ s.z / len(s.z)).double())
    whitening = (vectors * (values + 1e-3 * values.mean()).pow(-0.25)) @ vectors.T
    units = torch.nn.functional.normalize(s.z @ whitening.float(), dim=1)
    group = nearest(units, rounds(s, units, s.number))[1]
    return unit(torch.zeros(s.number, s.z.shape[1]).index_add_(0, group, s.units), s.even(s.units, s.number))


def soft(s: Stream, _: Tensor) -> Tensor:
    """Groups overlap in each of 12 rounds, less and less."""
    atoms = s.even(s.units, s.number).clone()
    for power in (4, 4, 4, 6, 6, 6, 8, 8, 8, 8, 8, 8):
        atoms = overlap(3, power)(s, atoms)
    return atoms


def with_residual(s: Stream, share: float, picks: int) -> tuple[Tensor, Tensor]:
    """Overlapping centres for a share of the atoms, and what some picks of them leave over."""
    atoms = overlap(3, 8)(s, rounds(s, s.units, round(share * s.number)))
    z, atom, weight = s.codes(atoms, picks)
    parts = [decoded(w, atoms, i) for w, i in zip(weight.split(AT_ONCE), atom.split(AT_ONCE), strict=True)]
    return atoms, (z - torch.cat(parts)).float()


def residual_centres(s: Stream, _: Tensor) -> Tensor:
    """Nine atoms in ten are centres, one in ten a centre, up to its sign, of what three picks leave over."""
    atoms, left = with_residual(s, 0.9, 3)
    units = torch.nn.functional.normalize(left, dim=1)
    more = s.even(units, s.number - len(atoms)).clone()
    for _turn in range(10):
        cosines = torch.cat([part @ more.T for part in units.split(AT_ONCE)])
        group = cosines.abs().argmax(dim=1)
        sign = cosines.gather(1, group[:, None]).sign()
        more = unit(torch.zeros_like(more).index_add_(0, group, left * sign), more)
    return torch.cat([atoms, more])


def residual_components(s: Stream, _: Tensor) -> Tensor:
    """Nine atoms in ten are centres, the others the principal components of what five picks leave over."""
    atoms, left = with_residual(s, 0.9, 5)
    vectors = torch.linalg.eigh(left.double().T @ left.double())[1]
    return torch.cat([atoms, vectors[:, len(atoms) - s.number :].T.float()])


def widest(units: Tensor, group: Tensor, atoms: Tensor) -> tuple[Tensor, Tensor]:
    """Of each group the direction in which it is widest, by power iteration, and the sum of squares along it."""
    direction = torch.randn(atoms.shape[1], generator=torch.Generator().manual_seed(0)).expand(len(atoms), -1)
    aside = units - (units * atoms[group]).sum(dim=1, keepdim=True) * atoms[group]
    for _ in range(4):
        weight = (aside * direction[group]).sum(dim=1, keepdim=True)
        direction = unit(torch.zeros_like(atoms).index_add_(0, group, aside * weight), atoms)
    square = (aside * direction[group]).sum(dim=1).square()
    return direction, torch.zeros(len(atoms)).index_add_(0, group, square)


def split(s: Stream, _: Tensor) -> Tensor:
    """Start from one group, cut groups in two across the direction in which they are widest; 8 rounds at the end."""
    atoms = torch.nn.functional.normalize(s.units.mean(dim=0, keepdim=True), dim=1)
    group = torch.zeros(len(s.units), dtype=torch.long)
    while len(atoms) < s.number:
        direction, spread = widest(s.units, group, atoms)
        sizes = torch.bincount(group, minlength=len(atoms))
        order = spread.argsort(descending=True, stable=True)
        cut = order[(sizes[order] >= 10) | (len(atoms) < 64)][: s.number - len(atoms)]
        if not len(cut):
            break
        apart = (spread[cut] / sizes[cut]).sqrt()[:, None] * direction[cut]
        atoms = torch.cat([atoms.index_copy(0, cut, atoms[cut] + apart), atoms[cut] - apart])
        atoms = torch.nn.functional.normalize(atoms, dim=1)
        for _turn in range(2):
            atoms, group = moved(s.units, atoms)
        if len(atoms) < s.number:
            atoms = atoms[torch.bincount(group, minlength=len(atoms)) > 0]
            group = nearest(s.units, atoms)[1]
    for _turn in range(8):
        atoms = moved(s.units, atoms)[0]
    return atoms


def recurring(s: Stream, _: Tensor) -> Tensor:
    """Of the centres of two halves of the stream, those that the other half has too, merged; then 4 rounds over all."""
    halves = [rounds(s, s.units[h * len(s.units) // 2 : (h + 1) * len(s.units) // 2], s.number) for h in (0, 1)]
    cosine, other = nearest(halves[0], halves[1])
    back = nearest(halves[1], halves[0])[1]
    mutual = (back[other] == torch.arange(s.number)).nonzero()[:, 0]
    kept = torch.nn.functional.normalize(halves[0][mutual] + halves[1][other[mutual]], dim=1)
    rest = torch.ones(s.number, dtype=torch.bool).index_fill_(0, mutual, value=False).nonzero()[:, 0]
    rest = rest[cosine[rest].argsort(descending=True)][: s.number - len(kept)]
    atoms = torch.cat([kept, halves[0][rest]])
    for _turn in range(4):
        atoms = moved(s.units, atoms)[0]
    return atoms


def held_at(bound: float, passes: int) -> Callable[[Stream, Tensor], Tensor]:
    """Refined as recipe 1 refines: each atom stays within a cosine of where it began."""

    def make(s: Stream, atoms: Tensor) -> Tensor:
        return itda.refine(s.dictionary(atoms), s.z + s.offset, passes=passes, min_fidelity=bound).atoms

    return make


def decoded_by_sae(s: Stream, _: Tensor) -> Tensor:
    """The decoder of an SAE that was trained on these activations."""
    assert s.decoder, "name the SAEs by --decoders"
    return torch.nn.functional.normalize(torch.load(s.decoder)["W_dec"].float(), dim=1)


def several(made: Callable[[Stream, Tensor], Tensor], times: int) -> Callable[[Stream, Tensor], Tensor]:
    def make(s: Stream, atoms: Tensor) -> Tensor:
        for _ in range(times):
            atoms = made(s, atoms)
        return atoms

    return make


def random_rows(s: Stream, _: Tensor) -> Tensor:
    return s.units[torch.randperm(len(s.units), generator=torch.Generator().manual_seed(0))[: s.number]]


OVERLAP, WIDE, SPLIT = "overlap of 3, power 8", "overlap of 5, power 4", "start by splitting"
Way = tuple[str | None, Callable[[Stream, Tensor], Tensor]]
WAYS: dict[str, Way] = {
    "k-means": (None, lambda s, _: rounds(s, s.units, s.number)),
    OVERLAP: ("k-means", overlap(3, 8)),
    f"{OVERLAP}; 1 step": (OVERLAP, step()),
    f"{OVERLAP}; 2 steps": (f"{OVERLAP}; 1 step", step()),
    f"{OVERLAP}; 1 step, overlap, 1 step": (f"{OVERLAP}; 1 step", lambda s, a: step()(s, overlap(3, 8)(s, a))),
    f"{OVERLAP}; 1 damped step": (OVERLAP, step(damping=1)),
    f"{OVERLAP}; 2 damped steps": (f"{OVERLAP}; 1 damped step", step(damping=1)),
    f"{OVERLAP}; 2 steps damped by 3": (OVERLAP, lambda s, a: step(damping=3)(s, step(damping=3)(s, a))),
    WIDE: ("k-means", overlap(5, 4)),
    f"{WIDE}; 2 damped steps": (WIDE, lambda s, a: step(damping=1)(s, step(damping=1)(s, a))),
    f"{WIDE}; 3 damped steps (recipe 2)": (f"{WIDE}; 2 damped steps", step(damping=1)),
    f"{WIDE}; 4 damped steps": (f"{WIDE}; 3 damped steps (recipe 2)", step(damping=1)),
    f"{WIDE}; 8 damped steps": (f"{WIDE}; 4 damped steps", several(step(damping=1), 4)),
    f"{WIDE}; 16 damped steps": (f"{WIDE}; 8 damped steps", several(step(damping=1), 8)),
    f"{OVERLAP}; 1 step of 4 picks": (OVERLAP, step(k=4)),
    f"{OVERLAP}; 1 shared step": (OVERLAP, shared(0)),
    f"{OVERLAP}; 2 shared steps": (f"{OVERLAP}; 1 shared step", shared(0)),
    f"{OVERLAP}; 2 shared, damped steps": (OVERLAP, lambda s, a: shared(1)(s, shared(1)(s, a))),
    f"{OVERLAP}; least squares, ridge 1": (OVERLAP, least_squares(1)),
    f"{OVERLAP}; the same twice": (f"{OVERLAP}; least squares, ridge 1", least_squares(1)),
    "half-whitened k-means, overlap, 1 step": (None, lambda s, a: step()(s, overlap(3, 8)(s, half_whitened(s, a)))),
    "soft k-means": (None, soft),
    "soft k-means; 1 damped step": ("soft k-means", step(damping=1)),
    "soft k-means; 2 damped steps": ("soft k-means; 1 damped step", step(damping=1)),
    "soft k-means; 4 damped steps": ("soft k-means; 2 damped steps", several(step(damping=1), 2)),
    "soft k-means; 8 damped steps": ("soft k-means; 4 damped steps", several(step(damping=1), 4)),
    "soft k-means; 16 damped steps": ("soft k-means; 8 damped steps", several(step(damping=1), 8)),
    "centres that recur in two halves": (None, recurring),
    "centres that recur; overlap, 2 damped steps": (
        "centres that recur in two halves",
        lambda s, a: step(damping=1)(s, step(damping=1)(s, overlap(3, 8)(s, a))),
    ),
    "centres and centres of residuals": (None, residual_centres),
    "centres and components of residuals": (None, residual_components),
    SPLIT: (None, split),
    f"{SPLIT}; overlap": (SPLIT, overlap(3, 8)),
    f"{SPLIT}; overlap, 1 damped step": (f"{SPLIT}; overlap", step(damping=1)),
    f"{SPLIT}; overlap, 2 damped steps": (f"{SPLIT}; overlap, 1 damped step", step(damping=1)),
    f"{SPLIT}; overlap, 3 damped steps": (f"{SPLIT}; overlap, 2 damped steps", step(damping=1)),
}


def floor(start: str, first: int) -> None:
    """Add ways of many plain steps without any bound: what fvu there is to be had."""
    before, made = start, first
    for number in (4, 8, 16):
        name = f"{start}; {number} steps, nothing held"

        def make(s: Stream, atoms: Tensor, more: int = number - made) -> Tensor:
            for _ in range(more):
                atoms = step()(s, atoms)
            return atoms

        WAYS[name] = before, make
        before, made = name, number


WAYS["random activations"] = None, random_rows
WAYS["random activations; 8 passes at .9"] = "random activations", held_at(0.9, 8)
WAYS["an SAE's decoder"] = None, decoded_by_sae
WAYS["an SAE's decoder; 1 damped step"] = "an SAE's decoder", step(damping=1)
WAYS["an SAE's decoder; overlap, 1 damped step"] = (
    "an SAE's decoder",
    lambda s, a: step(damping=1)(s, overlap(3, 8)(s, a)),
)
floor("random activations", 0)
floor(OVERLAP, 0)


def activations(place: Path, layer: int) -> Tensor:
    """Activations of a folder of `itda harvest`, or of a file of `meaning.py text`, without massive ones."""
    if place.is_dir():
        return read(place, layer)[0]
    x = torch.load(place)[f"x{layer}"].float()
    norms = x.norm(dim=1)
    return x[norms <= MASSIVE * norms.median()]


def measured(name: str, streams: list[Stream], held: Tensor) -> dict[str, object]:
    first, second = (s.dictionary(s.way(name)) for s in streams)
    cosines = torch.cat([match(first, second)[0], match(second, first)[0]])
    cosine, group = nearest(streams[0].units, first.atoms)
    best = torch.zeros(len(first)).scatter_reduce_(0, group, cosine, "amax")
    return {
        "fvu": fvu(first, held),
        "other": [float(cosines.mean()), *(float((cosines > bound).double().mean()) for bound in (0.8, 0.9))],
        "fidelity": float(best.median()),
        "empty": int((best == 0).sum()),
        "seconds": sum(s.made[name][1] for s in streams) / 2,
    }


def shown(row: dict) -> list[str]:
    dotted = lambda values, digits=2: ", ".join(f"{value:.{digits}f}".removeprefix("0") for value in values)  # noqa: E731
    cells = [str(row["key"]["layer"]), row["key"]["way"], str(row["key"]["tokens"]), dotted([row["fvu"]], 4)]
    return [*cells, dotted(row["other"], 3), dotted([row["fidelity"]], 3), str(row["empty"]), f"{row['seconds']:.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs=3, type=Path)
    parser.add_argument("--layers", nargs="+", type=int, default=[20])
    parser.add_argument("--ways", nargs="+", help="only ways with one of these words in their names")
    parser.add_argument("--more", nargs="+", type=Path, default=[], help="more for the first and second in turn")
    parser.add_argument("--decoders", nargs=2, help="SAEs of the first and the second, {} in the place of the layer")
    parser.add_argument("--keep", type=Path, help="folder for the dictionaries, to go on from")
    parser.add_argument("--atoms", type=int, default=2048)
    parser.add_argument("--k", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    results = Results(RESULTS / "atoms_tried.md")
    for layer in options.layers:
        xs = [activations(folder, layer) for folder in options.folders]
        for n, place in enumerate(options.more):
            xs[n % 2] = torch.cat([xs[n % 2], activations(place, layer)])
        keeps = [options.keep and options.keep / f"{layer}_{len(x)}_{n}" for n, x in enumerate(xs[:2])]
        saes = [Path(sae.format(layer)) for sae in options.decoders] if options.decoders else [None, None]
        streams = [Stream(xs[n], options.atoms, options.k, keeps[n], saes[n]) for n in (0, 1)]
        key = {"layer": layer, "tokens": len(xs[0]), "atoms": options.atoms, "k": options.k}
        for name in WAYS:
            wanted = not options.ways or any(word in name for word in options.ways)
            wanted = wanted and (options.decoders or "decoder" not in name)
            if wanted and not results.find({**key, "way": name}):
                print(*shown(results.add({**key, "way": name}, measured(name, streams, xs[2]))), sep="  ", flush=True)
    rows = sorted(
        results.rows, key=lambda r: (r["key"]["layer"], r["key"]["tokens"], list(WAYS).index(r["key"]["way"]))
    )
    header = ["layer", "way", "tokens", "fvu", "other documents: mean, > .8, > .9", "fidelity", "no group", "seconds"]
    print(results.write([table(header, [shown(row) for row in rows])]))


if __name__ == "__main__":
    main()
