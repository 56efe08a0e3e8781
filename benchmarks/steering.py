"""Does turning a direction do what its label says? Shares of atoms with an effect beyond control, on `tiny`.

    python benchmarks/steering.py                   # results/steering.jsonl, one line a method; run it again to go on
    python benchmarks/steering.py --report          # results/steering.md

All directions are of the same activations: layer 3 of `tiny`, 50,000 tokens of python-docs, 2,048 directions, k 40.
What is measured is what `itda effects` measures when it adds atoms (docs/steering.md): the change in log-probability of
the label's continuation and of the promoted tokens, beside the 79 directions that are used most nearly as often, pushed
as far. Methods:

- `best` and `paper`: dictionaries of `itda.fit`, recipe 2 and mode paper, labels their own;
- `random activations`: evenly drawn ones, labels their own;
- `TopK SAE`: the decoder of a TopK autoencoder that was trained for as many processor seconds as `best` took;
- `difference of means`: for each atom of `best`, the mean of the activations whose code has it as the strongest atom,
  less the mean of all others;
- `random directions`: of a normal distribution;
- `best, recipe 1`: atoms that grew, refined within a cosine of 0.9; `0.98` and `1` within that, so as grown;
- the first three with 512 and 4,096 atoms.

The label of a direction of the last three is that of the activation with the largest cosine to it, the mean taken off.
Uses are counted by pursuit for all. Intervals are bootstraps over directions.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS
from meaning_sae import RATES, Wanted
from meaning_sae import train as train_sae
from torch import Tensor

import itda
from itda.core.effects import EffectSettings
from itda.sources.corpora.corpus import open_corpus
from itda.steering.atom_effects import Measuring

FILE = RESULTS / "steering.jsonl"
SITE, ATOMS, K, TOKENS = itda.Site(3), 2048, 40, 50_000
ASKED = EffectSettings(tokens=10_000)
LEAST_USES = 50
"""Of 10,000 tokens: as often as 100 of 20,000."""


def activations(lm) -> tuple[Tensor, itda.Labels]:
    parts, labels = [], []
    with itda.harvest(lm, "python-docs", layers=[SITE.layer], tokens=TOKENS, part="train", seed=0) as batches:
        for batch in batches:
            parts.append(batch[SITE].activations.float())
            labels.append(batch[SITE].labels)
    return torch.cat(parts), itda.Labels.concatenate(labels)


SIZED = [(kind, size) for size in ("", "512 atoms", "4,096 atoms") for kind in ("best", "paper", "random activations")]
FIDELITIES = {"best, recipe 1": 0.9, "best, recipe 1, 0.98": 0.98, "best, recipe 1, 1": 1.0}
METHODS = ("best", "paper", "random activations", "TopK SAE", "difference of means", "random directions", *FIDELITIES)
METHODS += tuple(f"{kind}, {size}" for kind, size in SIZED if size)


class Methods:
    """Dictionaries of the same activations."""

    def __init__(self, lm) -> None:
        self.x, self.labels = activations(lm)
        self.mean = self.x.mean(dim=0)
        self.kept: dict[str, itda.ITDA] = {}
        self.seconds: dict[str, float] = {}

    def of(self, name: str) -> itda.ITDA:
        if name not in self.kept:
            started = time.process_time()
            made = {
                **{
                    f"{kind}{', ' * bool(size)}{size}": lambda k=kind, s=size: self._sized(k, s) for kind, size in SIZED
                },
                **{name: lambda least=least: self._refined(least) for name, least in FIDELITIES.items()},
                "TopK SAE": self._sae,
                "difference of means": self._means,
                "random directions": self._random_directions,
            }[name]()
            self.kept[name] = replace(made, site=SITE)
            self.seconds[name] = time.process_time() - started
        return self.kept[name]

    def _sized(self, kind: str, size: str) -> itda.ITDA:
        atoms = int(size.split()[0].replace(",", "")) if size else ATOMS
        if kind == "random activations":
            return self._random_activations(atoms)
        recipe = {"recipe": 2, "steps": 3} if kind == "best" else {}  # as many steps for any number of atoms
        return self._fit(atoms, mode=kind, **recipe)

    def _refined(self, least: float) -> itda.ITDA:
        return self._fit(ATOMS, mode="best", **({"passes": 0} if least == 1 else {"min_fidelity": least}))

    def _fit(self, atoms: int, **settings: Any) -> itda.ITDA:
        return itda.fit(self.x, atoms=atoms, k=K, labels=self.labels, massive="skip", **settings)

    def _random_activations(self, atoms: int) -> itda.ITDA:
        rows = torch.linspace(0, len(self.x) - 1, atoms).long()
        return self._dictionary(self.x[rows] - self.mean, self.labels[rows.numpy()])

    def _sae(self) -> itda.ITDA:
        self.of("best")
        sae = train_sae(self.x, Wanted(ATOMS, K, 0, self.seconds["best"]), RATES[0])
        return self._nearest(sae.W_dec)

    def _means(self) -> itda.ITDA:
        code = self.of("best").encode(self.x)
        strongest = code.indices.gather(1, code.coefficients.abs().argmax(dim=1, keepdim=True))[:, 0]
        sums = torch.zeros(ATOMS, self.x.shape[1]).index_add_(0, strongest, self.x)
        number = torch.bincount(strongest, minlength=ATOMS)[:, None]
        others = (self.x.sum(dim=0) - sums) / (len(self.x) - number)
        return self._nearest((sums / number.clamp(min=1) - others)[number[:, 0] > 0])

    def _random_directions(self) -> itda.ITDA:
        generator = torch.Generator().manual_seed(0)
        return self._nearest(torch.randn(ATOMS, self.x.shape[1], generator=generator))

    def _nearest(self, directions: Tensor) -> itda.ITDA:
        """Label each direction by the activation with the largest cosine to it."""
        unit = torch.nn.functional.normalize(self.x - self.mean)
        rows = torch.cat([(part @ unit.T).argmax(dim=1) for part in directions.split(256)])
        return self._dictionary(directions, self.labels[rows.numpy()])

    def _dictionary(self, directions: Tensor, labels: itda.Labels) -> itda.ITDA:
        atoms = torch.nn.functional.normalize(directions.float())
        best = self.of("best")
        return itda.ITDA(atoms, labels, K, best.pursuit, self.mean, massive_norm=best.massive_norm)


def measured(lm, dictionary: itda.ITDA) -> dict[str, Any]:
    """Add all atoms; ablation is left out."""
    started = time.process_time()
    made = Measuring(lm, dictionary, SITE, open_corpus("python-docs").split("train"), ASKED)
    for _ in made.run():
        if made.done == len(made.tokens):
            break
    found = made.found()
    often = found.uses >= LEAST_USES
    p = {name: found.p(name)[often].tolist() for name in ("added_continuation", "added_promoted", "added")}
    middle = {name: found.summary(LEAST_USES)["measures"][name] for name in p}
    return {"p": p, "measures": middle, "often": int(often.sum()), "took": time.process_time() - started}


def share(p: list[float]) -> str:
    """The share of p up to 5%, with a bootstrap interval over directions."""
    known = np.array(p, dtype=np.float32)
    beyond = (known[~np.isnan(known)] <= 0.05).astype(float)
    draws = np.random.default_rng(0).choice(beyond, (1000, len(beyond))).mean(axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return f"{beyond.mean():.1%} [{low:.1%}, {high:.1%}]"


def rows(file: Path) -> Iterator[dict[str, Any]]:
    if file.exists():
        yield from map(json.loads, file.read_text().splitlines())


def report(file: Path) -> str:
    lines = [
        "| directions | used often | continuation | promoted | one of the two | false positives | effect, control |",
        "|---|---|---|---|---|---|---|",
    ]
    found = {row["method"]: row for row in rows(file)}
    for name in (each for each in METHODS if each in found):
        row = found[name]
        own = row["measures"]["added_continuation"]
        wrong = [row["measures"][each]["false_positives"] for each in row["p"]]
        cells = [name, f"{row['often']:,}", *(share(each) for each in row["p"].values())]
        cells += [", ".join(f"{each:.1%}" for each in wrong)]
        cells += [f"{own['median_effect']:+.2f}, {own['median_control']:+.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true", help="only write the table")
    given = parser.parse_args()
    if not given.report:
        torch.set_num_threads(1)
        make_rows()
    text = f"# Steering: shares of directions with an effect beyond control\n\n{report(FILE)}\n"
    FILE.with_suffix(".md").write_text(text)
    print(text)


def make_rows(lm: Any = None, methods: Callable[[Any], Methods] = Methods) -> None:
    """Measure what is not measured yet; each result is kept at once."""
    done = {row["method"] for row in rows(FILE)}
    if done >= set(METHODS):
        return
    lm = lm or itda.load_model("tiny")
    made = methods(lm)
    for name in (each for each in METHODS if each not in done):
        row = {"method": name, **measured(lm, made.of(name)), "seconds": made.seconds[name]}
        with FILE.open("a") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
