"""How far neutral fine-tunes stand out from each other: what the rule for findings of `itda diff` was set by.

    python benchmarks/diffing_calibration.py            # 32 neutral fine-tunes of organisms.py, 8 s each and 3 minutes
    python benchmarks/diffing_calibration.py --report

The neutral fine-tunes of the parts dev and held read the documents of one of them. A group is a changed model and its
controls, two to four models of one strength and part, each of them in turn the changed one: for each model there is
what its strongest atom has beyond the others, at layers 1, 3 and 5. A ratio is that of the changed model over the
largest of its controls; it makes a finding if it is above `FACTOR`. For comparison there are ratios by effect, the rule
of before. Controls of another strength show what comes of a control that was not trained likewise.

All of these models had been looked at before. What the rule does to others is in diffing.md.
"""

import argparse
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, Results, number, paragraph, table
from diffing_ours import differences
from diffing_readings import LAYERS, passed
from organisms import CACHE, TINY, Wanted, wanted
from organisms_train import load, rows_of

from itda.core.diffing.difference import Differences
from itda.core.diffing.ranking import FACTOR, Ranking, beyond, excess, ranked

READ = "held-neutral-1"
"""The fine-tune whose documents all read."""
KEPT = ("rows", "since", "energy", "left")
"""Columns of the difference dictionary of a layer that are kept as they are."""
GROUPS = 8
"""Groups of three or more models of each strength and part, at most; of two there are all."""


class Neutral:
    """What the neutral fine-tunes make of the documents, each read once: kept in the cache, 20 MB each."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        base, tokenizer = load(TINY)
        lines = [json.loads(line) for line in (cache / READ / "documents.jsonl").read_text().splitlines()]
        self.ids, targets = rows_of(tokenizer, [line["text"] for line in lines])
        self.there = targets >= 0
        self.there[:, 0] = False  # BOS
        self.documents = self.there.nonzero()[:, 0].numpy()
        self.base = base
        self._read: dict[str, tuple[np.ndarray, list[Differences]]] = {}

    def of(self, name: str) -> tuple[np.ndarray, list[Differences]]:
        """Return KL(model || base) of all tokens, and the codes of the difference at each layer."""
        if name not in self._read:
            kept = self.cache / "calibration" / f"{name}.npz"
            if not kept.exists():
                kept.parent.mkdir(exist_ok=True)
                new = kept.with_suffix(".new.npz")
                np.savez(new, **self._passed(name))
                new.replace(kept)
            table = dict(np.load(kept))
            self._read[name] = table["kl"], [_codes(table, layer) for layer in LAYERS]
        return self._read[name]

    def _passed(self, name: str) -> dict[str, Any]:
        model = load(self.cache / name)[0]
        (base, changed), (kl,) = passed(self.base, [model], self.ids, self.there)
        table: dict[str, Any] = {"kl": kl.double().numpy()}
        for layer in LAYERS:
            made = differences(base[layer], changed[layer])
            table |= {f"{column}_{layer}": getattr(made, column) for column in KEPT}
            table[f"indices_{layer}"] = made.indices.astype(np.int16)
            table[f"coefficients_{layer}"] = made.coefficients.astype(np.float32)
        return table

    def strongest(self, names: Sequence[str]) -> dict[str, list[float]]:
        """Return for each model of a group what its strongest atom has beyond the others, and its largest effect."""
        read = [self.of(name) for name in names]
        divergences = [kl for kl, _ in read]
        found: dict[str, list[float]] = {"beyond": [], "effect": []}
        for (_, layers), above, far in zip(read, excess(divergences), beyond(divergences), strict=True):
            rankings = [ranked(each, self.documents, above, far) for each in layers]
            found["beyond"].append(max(each.strongest for each in rankings))
            found["effect"].append(max(_largest(each) for each in rankings))
        return found


def _codes(table: dict[str, np.ndarray], layer: int) -> Differences:
    """Return the codes that are kept as differences, without the directions of their atoms, which no rank asks for."""
    kept = {column: table[f"{column}_{layer}"] for column in KEPT}
    nowhere, one = torch.zeros(len(kept["rows"]), 1), torch.zeros(1, dtype=torch.float64)
    return Differences(
        atoms=nowhere,
        novelty=np.zeros(len(nowhere)),
        indices=table[f"indices_{layer}"].astype(np.int64),
        coefficients=table[f"coefficients_{layer}"].astype(np.float64),
        mean=one,
        scales=(1.0, 1.0),
        **kept,
    )


def _largest(ranking: Ranking) -> float:
    assert ranking.effect is not None
    return float(ranking.effect[ranking.order].max(initial=0.0))


def groups() -> Iterator[tuple[str, list[str]]]:
    """Yield groups of models: what they are, and the ids."""
    alike: dict[tuple[str, str], list[str]] = {}
    for one in (each for part in ("dev", "held") for each in wanted(part) if each.kind == "neutral"):
        alike.setdefault((one.part, one.strength), []).append(one.id)
    for size in (2, 3, 4):
        for names in alike.values():
            names.sort(key=lambda name: Wanted(name, "", "", "").number)
            several = list(itertools.combinations(names, size))
            step = 1 if size == 2 else max(1, len(several) // GROUPS)
            yield from ((f"{size - 1} of its strength", list(each)) for each in several[::step])
    for (first, one), (second, other) in itertools.permutations(alike, 2):
        if first == second == "held":
            pairs = zip(alike[first, one], alike[second, other], strict=True)
            yield from ((f"{one}, control {other}", list(pair)) for pair in pairs)


def run(cache: Path, results: Results) -> None:
    """Measure the groups that are not measured yet."""
    missing = [(kind, names) for kind, names in groups() if results.find({"kind": kind, "models": names}) is None]
    if missing:
        neutral = Neutral(cache)
        for kind, names in missing:
            results.add({"kind": kind, "models": names}, neutral.strongest(names))
        results.compact()


def report(rows: list[dict[str, Any]]) -> list[str]:
    """Return what is said of the groups, and the table of their ratios."""
    body = []
    for kind in dict.fromkeys(row["key"]["kind"] for row in rows):
        mine = [row for row in rows if row["key"]["kind"] == kind]
        for measure in ("beyond", "effect"):
            body.append([kind, measure, len(mine), *_columns(mine, measure, one_way=", control" in kind)])
    header = [
        "control",
        "measure",
        "groups",
        "ratios",
        "sd of log",
        "95%",
        "97.5%",
        "99%",
        "largest",
        f"over {FACTOR:g}",
    ]
    return [paragraph(ABOUT), table(header, body)]


ABOUT = f"""Ratios of what the strongest atom of a neutral fine-tune has to what that of its controls has, where each
model of a group is the changed one in turn (controls of another strength: the first alone). Measures: beyond decides
findings, at a factor of {FACTOR:g}; effect decided them before. Standard deviation of the logarithms (about 0 for one
control of the same strength, where every ratio is there with its inverse), percentiles, the largest, and how many are
over the factor. Groups share models: 32 models are in all of them."""


def _columns(rows: list[dict[str, Any]], measure: str, *, one_way: bool) -> list[str]:
    ratios = []
    for row in rows:
        values = row[measure]
        for place in range(1 if one_way else len(values)):
            most = max(values[:place] + values[place + 1 :])
            ratios.append(values[place] / most if most > 0 else math.inf)
    logs = np.log(ratios)
    spread = math.sqrt(float(np.square(logs).mean())) if len(rows[0][measure]) == 2 and not one_way else logs.std()
    high = [number(float(np.quantile(ratios, share))) for share in (0.95, 0.975, 0.99, 1.0)]
    return [str(len(ratios)), number(float(spread)), *high, str(sum(ratio > FACTOR for ratio in ratios))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=CACHE, help="where organisms.py has put its fine-tunes")
    parser.add_argument("--out", type=Path, default=RESULTS / "diffing_calibration.md")
    parser.add_argument("--report", action="store_true", help="write the table of the rows that there are, no more")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(arguments.out)
    if not arguments.report:
        run(arguments.cache, results)
    print(results.write(report(results.rows)))


if __name__ == "__main__":
    main()
