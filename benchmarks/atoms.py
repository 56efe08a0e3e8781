"""Are atoms found again in other text? Recipes 1 and 2 of mode best beside random activations.

    itda harvest MODEL --layers 10,20 --corpus first.txt --tokens 40k --out acts/first      (and second, held-out)
    python benchmarks/atoms.py acts/first acts/second acts/held-out [--layers 10] [--atoms 2048] [--k 20] [--fresh]

Each way makes three dictionaries: of the first folder, of the same documents in another order, and of the second
folder, which should have other documents. For each way:

- the fvu on the third folder, of the dictionaries of the first and the second;
- *other documents*: for each atom of one the largest |cosine| to an atom of the other, both ways: the mean, and the
  shares above .8 and .9; *other order*: the same of the two orders, one way;
- the median cosine of an atom to the activation that its label names;
- the share of tokens of the third folder whose nearest atom, and whose first pick, is in one order the atom that
  matches the one in the other order;
- processor seconds of training on the first folder, as a share of those of recipe 1 in the same run of the script.

Tokens of more than 5 median norms are left out. What was tried on the way to recipe 2 is in `atoms_tried.py`.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import BEST, RESULTS, Results, batches, labels_for, table
from torch import Tensor

import itda
from itda.core.metrics import Unexplained
from itda.core.training.centres import centres
from itda.sources.shards.source import ShardSource

AT_ONCE = 4096
MASSIVE = 5  # median norms


def read(folder: Path, layer: int) -> tuple[Tensor, np.ndarray]:
    """Activations without massive ones, and the document of each."""
    site = itda.Site(layer)
    parts = [found[site] for found in ShardSource(folder, [site], verify=False)]
    x = torch.cat([part.activations.float() for part in parts])
    documents = np.concatenate([part.labels.document for part in parts])
    norms = x.norm(dim=1)
    kept = norms <= MASSIVE * norms.median()
    return x[kept].contiguous(), documents[kept.numpy()]


def in_other_order(x: Tensor, documents: np.ndarray) -> Tensor:
    """The same documents, one after the other in an order drawn by lot."""
    names, ids = np.unique(documents, return_inverse=True)
    rank = np.random.default_rng(1).permutation(len(names))
    return x[torch.from_numpy(np.argsort(rank[ids], kind="stable"))]


def trained(x: Tensor, options: argparse.Namespace, **recipe: Any) -> itda.ITDA:
    trainer = itda.Trainer(x.shape[1], tokens=len(x), k=options.k, atoms=options.atoms, **BEST, **recipe)
    for batch in batches(x, AT_ONCE):
        trainer.offer(batch)
    return trainer.finish()


def random_atoms(dictionary: itda.ITDA, x: Tensor) -> itda.ITDA:
    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[: len(dictionary)].sort().values
    z = x[chosen] - (dictionary.offset if dictionary.offset is not None else 0)
    atoms = torch.nn.functional.normalize(z.double(), dim=1).float()
    return replace(dictionary, atoms=atoms, novelty=None)


class Stream:
    """Activations, and the dictionary that grew from them, which several ways begin with; made when first asked for."""

    def __init__(self, x: Tensor, options: argparse.Namespace) -> None:
        self.x, self.options = x, options

    @cached_property
    def grown(self) -> itda.ITDA:
        return trained(self.x, self.options, recipe=1)


def refined(dictionary: itda.ITDA, x: Tensor) -> itda.ITDA:
    return itda.refine(dictionary, x, passes=8, min_fidelity=0.9)


WAYS: dict[str, Callable[[Stream], itda.ITDA]] = {
    "random activations": lambda s: random_atoms(s.grown, s.x),
    "random, 8 refinements at .9": lambda s: refined(random_atoms(s.grown, s.x), s.x),
    "as grown": lambda s: s.grown,
    "recipe 1: 8 refinements at .9": lambda s: refined(s.grown, s.x),
    "12 rounds of k-means": lambda s: centres(s.grown, s.x, labels_for(len(s.x)), near=0, steps=0),
    "recipe 2": lambda s: trained(s.x, s.options, passes=12, recipe=2),
}
FIRST = "recipe 1: 8 refinements at .9"
ALONE = ("as grown", FIRST, "recipe 2")


def match(a: itda.ITDA, b: itda.ITDA) -> tuple[Tensor, Tensor]:
    """The largest |cosine| of each atom of a to an atom of b, and which."""
    found = (a.atoms @ b.atoms.T).abs().max(dim=1)
    return found.values, found.indices


def unit_rows(dictionary: itda.ITDA, x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x - dictionary.offset if dictionary.offset is not None else x, dim=1)


def strongest(dictionary: itda.ITDA, x: Tensor, *, signs_aside: bool) -> Tensor:
    cosines = torch.cat([part @ dictionary.atoms.T for part in unit_rows(dictionary, x).split(AT_ONCE)])
    return (cosines.abs_() if signs_aside else cosines).argmax(dim=1)


def fvu(dictionary: itda.ITDA, held: Tensor) -> float:
    unexplained = Unexplained(dictionary.d_model)
    for part in held.split(AT_ONCE):
        unexplained.update(part, dictionary(part))
    return unexplained.value()


def measured(made: dict[str, itda.ITDA], held: Tensor) -> dict[str, Any]:
    first, order, second = (made[name] for name in ("first", "order", "second"))
    other = torch.cat([match(first, second)[0], match(second, first)[0]])
    same, partner = match(first, order)
    values: dict[str, Any] = {"fvu": [fvu(first, held), fvu(second, held)]}
    for name, cosines in (("other", other), ("same", same)):
        values[name] = [float(cosines.mean()), *(float((cosines > bound).double().mean()) for bound in (0.8, 0.9))]
    values["fidelity"] = float(first.fidelity.median()) if first.fidelity is not None else 1.0
    values["kept"] = [
        float(
            (partner[strongest(first, held, signs_aside=aside)] == strongest(order, held, signs_aside=aside))
            .double()
            .mean()
        )
        for aside in (False, True)
    ]
    return values


def timed(way: str, stream: Stream) -> tuple[itda.ITDA, float]:
    """What a way makes, and its processor seconds: without growth where that is of use for the size alone."""
    if way in ALONE:
        stream = Stream(stream.x, stream.options)
    else:
        _ = stream.grown
    started = time.process_time()
    return WAYS[way](stream), time.process_time() - started


def measure_layer(results: Results, folders: list[Path], layer: int, options: argparse.Namespace) -> None:
    (a, documents), (b, _), (held, _) = (read(folder, layer) for folder in folders)
    key = {"data": folders[0].parent.name, "layer": layer, "tokens": len(a), "atoms": options.atoms, "k": options.k}
    missing = [way for way in WAYS if not results.find({**key, "way": way})]
    if not missing:
        return
    small = argparse.Namespace(**{**vars(options), "atoms": 64, "k": 4})
    for way in (FIRST, "recipe 2"):
        WAYS[way](Stream(a[:6000], small))  # compiles
    streams = {"first": a, "order": in_other_order(a, documents), "second": b}
    begun = {name: Stream(x, options) for name, x in streams.items()}
    of_first = timed(FIRST, begun["first"])[1]
    for way in missing:
        first, seconds = timed(way, begun["first"])
        made = {"first": first, **{name: WAYS[way](begun[name]) for name in ("order", "second")}}
        row = results.add({**key, "way": way}, {**measured(made, held), "share": seconds / of_first})
        print(*shown(row), sep="  ", flush=True)


def shown(row: dict[str, Any]) -> list[str]:
    dotted = lambda values, digits=2: ", ".join(f"{value:.{digits}f}".removeprefix("0") for value in values)  # noqa: E731
    cells = [
        f"{row['key']['layer']}",
        row["key"]["way"],
        dotted(row["fvu"], 4),
        dotted(row["other"]),
        dotted(row["same"]),
    ]
    return [*cells, dotted([row["fidelity"]]), dotted(row["kept"]), f"{row['share']:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs=3, type=Path)
    parser.add_argument("--layers", nargs="+", type=int)
    parser.add_argument("--atoms", type=int, default=2048)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--fresh", action="store_true", help="measure again what is in benchmarks/results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(RESULTS / "atoms.md", fresh=options.fresh)
    for layer in options.layers or sorted(site.layer for site in ShardSource(options.folders[0], verify=False).sites):
        measure_layer(results, options.folders, layer, options)
    header = ["layer", "way", "fvu", "other documents: mean, > .8, > .9", "other order: the same", "fidelity"]
    header += ["same strongest: nearest, first pick", "seconds / recipe 1"]
    rows = sorted(results.rows, key=lambda row: (row["key"]["layer"], list(WAYS).index(row["key"]["way"])))
    print(results.write([table(header, [shown(row) for row in rows])]))


if __name__ == "__main__":
    main()
