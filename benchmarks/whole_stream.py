"""Does `--atoms N` use the whole stream? The number found, where the atoms come from, and what the threshold did.

    itda harvest tiny --layers 2,4 --corpus python-docs --tokens 100k --out acts
    python benchmarks/whole_stream.py acts [--name after] [--layers 4] [--atoms 1536 4096] [--k 20] [--modes best paper]

Documents of a folder of activations are read in several orders; one in eight is held out, for the fvu. For each size
and order: atoms before the crop, the shares that come from the first 7% and the last tenth of the tokens, the threshold
at the beginning, its least and largest, and at the end. And the Jaccard index of the labels of the first two orders,
which read the same tokens. Modes are without refinement, which changes no label, unless `--passes 8` is said.

`--name` says what `itda` is measured: to compare with another version, run this script again under another name with a
checkout of that version in PYTHONPATH. Results are kept in benchmarks/results and not measured again.
"""

import argparse
import hashlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import BEST, RESULTS, Results, table
from torch import Tensor

import itda
from itda.core.metrics import Unexplained
from itda.sources.shards.source import ShardSource

HELD_OUT_ONE_IN, AT_ONCE = 8, 512
MODES: dict[str, dict[str, Any]] = {"best": BEST, "paper": {"massive": "skip"}}


def number_of(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def read(folder: Path, layer: int) -> tuple[Tensor, itda.Labels]:
    """Activations and labels, without massive ones."""
    site = itda.Site(layer)
    parts = [batches[site] for batches in ShardSource(folder, [site], verify=False)]
    x, labels = torch.cat([p.activations.float() for p in parts]), itda.Labels.concatenate([p.labels for p in parts])
    norms = x.norm(dim=1)
    kept = norms <= 10 * norms.median()
    return x[kept], labels[kept.numpy()]


def in_order(labels: itda.Labels, order: int) -> tuple[Tensor, Tensor]:
    """Which activations to train on, document by document in some order, and which to measure on."""
    names, ids = np.unique(np.asarray([str(name) for name in labels.document]), return_inverse=True)
    ranks = np.argsort(np.argsort([number_of(f"{order}:{name}") for name in names]))
    held = np.array([number_of(f"held out:{name}") % HELD_OUT_ONE_IN == 0 for name in names])[ids]
    sequence = np.argsort(ranks[ids], kind="stable")
    return torch.from_numpy(sequence[~held[sequence]]), torch.from_numpy(np.flatnonzero(held))


def measure(
    x: Tensor, labels: itda.Labels, order: int, mode: str, atoms: int, k: int, passes: int = 0
) -> tuple[dict[str, Any], Any]:
    train, held = in_order(labels, order)
    z, chosen = x[train], labels[train.numpy()]
    refinement = {"passes": passes, "min_fidelity": 0.9 if passes else 0.0}
    trainer = itda.Trainer(z.shape[1], tokens=len(z), k=k, atoms=atoms, **MODES[mode], **refinement)
    thresholds, started = [], time.process_time()
    for start in range(0, len(z), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        trainer.offer(itda.ActivationBatch(z[part], chosen[part]))
        thresholds += [trainer.threshold] if trainer.threshold is not None else []
    model = trainer.finish()
    taken = time.process_time() - started
    place = {key: i for i, key in enumerate(chosen.keys())}
    places = np.array([place[key] for key in model.labels.keys()]) / len(z)  # noqa: SIM118
    unexplained = Unexplained(z.shape[1])
    unexplained.update(x[held], model(x[held]))
    values = {
        "tokens": len(z),
        "found": trainer.found,
        "atoms": len(model),
        "fvu": unexplained.value(),
        "seconds": taken,
    }
    values |= {"first": float((places < 0.07).mean()), "last": float((places >= 0.9).mean())}
    values |= {"begun": thresholds[0], "least": min(thresholds), "most": max(thresholds), "ended": thresholds[-1]}
    return values, model.labels


def shown(row: dict[str, Any]) -> list[str]:
    key, orders = row["key"], row["orders"]
    cells = [
        f"{key['data']}, {key['layer']}",
        key["mode"] + (", refined" if "passes" in key else ""),
        f"{key['atoms']:,}, {key['k']}",
        key["name"],
    ]
    cells.append(" / ".join(f"{each['found'] / key['atoms'] - 1:+.1%}" for each in orders))
    cells += [" / ".join(f"{each[part]:.1%}" for each in orders) for part in ("first", "last")]
    cells.append(" / ".join(f"{e['begun']:.3f} {e['least']:.3f}-{e['most']:.3f} {e['ended']:.3f}" for e in orders))
    return [*cells, f"{row['jaccard']:.3f}", " / ".join(f"{each['fvu']:.4f}" for each in orders)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--name", default="after")
    parser.add_argument("--layers", nargs="+", type=int)
    parser.add_argument("--atoms", nargs="+", type=int, default=[1536, 4096])
    parser.add_argument("--k", nargs="+", type=int, default=[20])
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=list(MODES))
    parser.add_argument("--orders", type=int, default=2)
    parser.add_argument("--passes", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(RESULTS / "whole_stream.md")
    for folder in options.folders:
        for layer in options.layers or sorted(site.layer for site in ShardSource(folder, verify=False).sites):
            x, labels = read(folder, layer)
            for mode, atoms, k in [(m, a, k) for m in options.modes for a in options.atoms for k in options.k]:
                key = {"data": folder.name, "activations": len(x), "layer": layer, "mode": mode, "atoms": atoms, "k": k}
                key |= {"orders": options.orders, "name": options.name}
                key |= {"passes": options.passes} if options.passes else {}
                if results.find(key) is not None:
                    continue
                made = [measure(x, labels, order, mode, atoms, k, options.passes) for order in range(options.orders)]
                jaccard = float(itda.jaccard(made[0][1], made[1][1]))
                row = results.add(key, {"orders": [values for values, _ in made], "jaccard": jaccard})
                print(*shown(row), sep="  ", flush=True)
    header = ["data, layer", "mode", "N, k", "", "found", "of the first 7%", "of the last tenth"]
    header += ["threshold: first, range, last", "Jaccard of two orders", "fvu"]
    rows = sorted(
        results.rows,
        key=lambda row: (
            [str(row["key"][n]) for n in ("data", "layer", "mode", "atoms", "k")] + ["passes" in row["key"]]
        ),
    )
    print(results.write([table(header, [shown(row) for row in rows])]))


if __name__ == "__main__":
    main()
