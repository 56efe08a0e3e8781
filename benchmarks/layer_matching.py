"""Layer matching (Kornblith et al. 2019): for each site of a model, is the most similar site of another model, trained
from another seed, the same one? ITDA's label indices against classical ones, on the same tokens.

    python benchmarks/layer_matching.py                 the tiny family (benchmarks/family.py), trained if need be
    python benchmarks/layer_matching.py --models stanford-crfm/alias-gpt2-small-x21 ... --sites post --tokens 100000
    python benchmarks/layer_matching.py --curve         accuracy against the number of tokens

Every index sees the same tokens and sites. ITDA's settings are chosen by `--choose` on the development models alone, by
the rule: the largest accuracy of the weighted index, then its margin. Rows are kept in results/layer_matching.jsonl.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from classical import TITLES, classical_matrices
from common import RESULTS, Results, paragraph, table
from family import CACHE, MEMBERS, new_model, shared_tokenizer, trained
from family_data import Read, beginnings, read
from matching import difference, jackknife, score, self_similarity

from itda import ITDA, Trainer
from itda.core.similarity.overlap import Members, Universe, index_matrices
from itda.core.similarity.transport import agreement, soft_overlap, transported
from itda.sources.models.transformers import LanguageModel

TESTED = tuple(f"gpt2-{seed}" for seed in range(6))
DEVELOPMENT = (("gpt2-6", "gpt2-7"), ("llama-0", "llama-1"))
DEVELOPMENT_TOKENS = 5000
GRID = [(k, threshold, offset) for k in (2, 4, 8, 16) for threshold in (0.05, 0.1, 0.2) for offset in (0, 4096)]
SETTINGS = (4, 0.05, 4096)
"""k, threshold and tokens of the offset; what `--choose` chose."""
EVALUATED = 400
"""Tokens on which transported dictionaries are compared, evenly spread."""
OURS = ("weighted", "jaccard", "adjusted", "overlap_coefficient", "matched")
WITH_ACTIVATIONS = ("transported", "soft")
CONTROLS = ("size_only", "norms")
NAMES = {
    "weighted": "**ITDA, weighted**",
    "jaccard": "ITDA, Jaccard",
    "adjusted": "ITDA, Jaccard adjusted for chance",
    "overlap_coefficient": "ITDA, overlap coefficient",
    "matched": "ITDA, Jaccard at equal sizes",
    "transported": "ITDA, errors of transported dictionaries",
    "soft": "ITDA, soft overlap (nearest atom)",
    "size_only": "control: dictionary sizes alone",
    **TITLES,
}


def dictionaries(several: list[Read], settings: tuple[int, float, int]) -> list[list[ITDA]]:
    k, threshold, offset = settings
    found = []
    for one in several:
        found.append([])
        for site in range(len(one.sites)):
            x = one.activations[site]
            trainer = Trainer(
                x.shape[1],
                tokens=len(x),
                k=k,
                threshold=threshold,
                offset_tokens=min(offset, len(x)),
                massive="skip",
            )
            for batch in one.batches(site):
                trainer.offer(batch)
            found[-1].append(trainer.finish())
    return found


def label_matrices(several: list[Read], models: list[list[ITDA]]) -> dict[str, np.ndarray]:
    universe = Universe.of([one.tokens for one in several], by_end=False)
    members = [Members.of(model, universe) for row in models for model in row]
    return index_matrices(members, members, universe)


def transported_matrices(several: list[Read], models: list[list[ITDA]]) -> dict[str, np.ndarray]:
    """Each dictionary's labels read at every site of every model; the mean of both directions."""
    sites, number = len(several[0].sites), len(several)
    place = {key: row for row, key in enumerate(several[0].labels.keys())}
    chosen = torch.linspace(0, len(place) - 1, min(EVALUATED, len(place))).long()
    rows = [[torch.tensor([place[label.key] for label in m.labels]) for m in row] for row in models]
    size = number * sites
    found = {name: np.ones((size, size)) for name in WITH_ACTIVATIONS}
    for m in range(number):
        for i in range(sites):
            own = models[m][i]
            error = own.decompose(several[m].activations[i][chosen])[1]
            for n in range(number):
                for j in range(sites):
                    if (m, i) == (n, j):
                        continue
                    there, other = several[n].activations[j], models[n][j]
                    moved = transported(own, there[rows[m][i]], other.offset)
                    at = m * sites + i, n * sites + j
                    found["transported"][at] = agreement(error, moved.decompose(there[chosen])[1])
                    found["soft"][at] = soft_overlap(other, there[rows[m][i]])
    return {name: (matrix + matrix.T) / 2 for name, matrix in found.items()}


def shuffled(several: list[Read]) -> list[Read]:
    """The control: tokens paired at random between models. Labels stay, so activations move to others' labels."""
    moved = []
    for number, one in enumerate(several):
        order = torch.randperm(one.activations.shape[1], generator=torch.Generator().manual_seed(100 + number))
        moved.append(Read(one.sites, one.activations[:, order], one.labels))
    return moved


def measured(
    several: list[Read], settings: tuple[int, float, int], parts: tuple[str, ...]
) -> tuple[dict[str, np.ndarray], dict[str, float], list[int]]:
    """Matrices by index, seconds by part, and sizes of dictionaries."""
    matrices: dict[str, np.ndarray] = {}
    seconds: dict[str, float] = {}
    started = time.process_time()
    models = dictionaries(several, settings)
    matrices |= label_matrices(several, models)
    seconds["labels"] = time.process_time() - started
    if "transported" in parts:
        started = time.process_time()
        matrices |= transported_matrices(several, models)
        seconds["transported"] = time.process_time() - started
    if "classical" in parts:
        started = time.process_time()
        sites = [x for one in several for x in one.activations]
        matrices |= classical_matrices(sites, several[0].documents)
        seconds["classical"] = time.process_time() - started
    return matrices, seconds, [len(model) for row in models for model in row]


def scored(several: list[Read], matrices: dict[str, np.ndarray]) -> dict[str, dict]:
    rows = {}
    for name, matrix in matrices.items():
        found = score(matrix, len(several), len(several[0].sites))
        rows[name] = {
            kind: {f"{m} {n}": value for (m, n), value in getattr(found, kind).items()}
            for kind in ("accuracy", "within_one", "margin")
        } | {"self": self_similarity(matrix)}
    return rows


def pairs_of(values: dict[str, float]) -> dict[tuple[int, int], float]:
    return {(int(pair.split()[0]), int(pair.split()[1])): value for pair, value in values.items()}


class Bench:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.middle = arguments.sites == "both"
        self.results = Results(arguments.out or RESULTS / "layer_matching.md", fresh=arguments.fresh)
        self.corpus = beginnings(arguments.corpus, arguments.characters)
        self._read: dict[str, Read] = {}

    def read(self, name: str) -> Read:
        if name not in self._read:
            self._read[name] = self._found(name)
        return self._read[name]

    def _found(self, name: str) -> Read:
        a = self.arguments
        if name.startswith("untrained "):
            member = name.removeprefix("untrained ")
            model = LanguageModel(new_model(member).eval(), shared_tokenizer(a.cache), name)
            return read(name.replace(" ", "-"), self.corpus, a.tokens, self.middle, a.cache, model)
        path = str(trained(name, a.cache)) if name in MEMBERS else name
        return read(path, self.corpus, a.tokens, self.middle, a.cache)

    def key(self, kind: str, names: tuple[str, ...], tokens: int, settings: tuple[int, float, int]) -> dict:
        a = self.arguments
        where = {"corpus": a.corpus, "characters": a.characters, "sites": a.sites, "tokens": tokens}
        return {"kind": kind, "models": list(names), **where, "settings": list(settings)}

    def row(
        self, kind: str, names: tuple[str, ...], tokens: int, settings: tuple[int, float, int], parts: tuple[str, ...]
    ) -> dict:
        key = self.key(kind, names, tokens, settings)
        if (row := self.results.find(key)) is None:
            print(f"{kind}: {', '.join(names)}; {tokens:,} tokens, {settings}", flush=True)
            several = [self.read(name).first(tokens) for name in names]
            several = shuffled(several) if kind == "shuffled" else several
            matrices, seconds, sizes = measured(several, settings, parts)
            values = {"scores": scored(several, matrices), "seconds": seconds, "sizes": [min(sizes), max(sizes)]}
            values |= {"bytes": sum(sizes) * 12 / len(sizes), "width": several[0].activations.shape[2]}
            row = self.results.add(key, values)
        return row


def chosen(bench: Bench) -> tuple[tuple[int, float, int], str]:
    """The settings with the best weighted index on the development models, and all that were tried."""
    rows, tokens = [], min(DEVELOPMENT_TOKENS, bench.arguments.tokens)
    for settings in GRID:
        line = {}
        for name in ("weighted", "jaccard", "adjusted", "size_only"):
            values: list[tuple[float, float]] = []
            for names in DEVELOPMENT:
                scores = bench.row("development", names, tokens, settings, ())["scores"][name]
                values += list(zip(scores["accuracy"].values(), scores["margin"].values(), strict=True))
            line[name] = tuple(np.mean(values, axis=0))
        sizes = bench.row("development", DEVELOPMENT[0], tokens, settings, ())["sizes"]
        rows.append((settings, line, sizes))
    best = max(rows, key=lambda row: row[1]["weighted"])[0]
    header = ["k", "threshold", "offset", "atoms (GPT-2)", *(f"{name}" for name in rows[0][1])]
    cells = [
        [k, threshold, "mean" if offset else "none", f"{sizes[0]:,}-{sizes[1]:,}"]
        + [
            f"{accuracy:.3f}" + (" **chosen**" if name == "weighted" and (k, threshold, offset) == best else "")
            for name, (accuracy, _) in line.items()
        ]
        for (k, threshold, offset), line, sizes in rows
    ]
    return best, table(header, cells)


def main_table(row: dict) -> str:
    scores = row["scores"]
    accuracy = {name: pairs_of(scores[name]["accuracy"]) for name in scores}
    reference = "weighted"
    order = sorted((n for n in scores if n in NAMES), key=lambda n: -jackknife(accuracy[n])[0])
    rows = []
    for name in order:
        mean, half = jackknife(accuracy[name])
        less, around = difference(accuracy[name], accuracy[reference])
        near = jackknife(pairs_of(scores[name]["within_one"]))[0]
        margin = jackknife(pairs_of(scores[name]["margin"]))[0]
        paired = "-" if name == reference else f"{less:+.3f} ± {around:.3f}"
        rows.append(
            [
                NAMES[name],
                f"{mean:.3f} ± {half:.3f}",
                paired,
                f"{near:.3f}",
                f"{margin:+.2f}",
                f"{scores[name]['self']:.4f}",
            ]
        )
    return table(["index", "accuracy", "less the weighted", "within one", "margin", "least self"], rows)


def report(bench: Bench) -> str:
    a = bench.arguments
    settings, tried = (SETTINGS, None) if a.models else chosen(bench)
    names = tuple(a.models or TESTED)
    row = bench.row("tested", names, a.tokens, settings, ("classical",))
    several = bench.read(names[0])
    sites = len(several.sites)
    k, threshold, offset = settings
    parts = [
        paragraph(
            f"{len(names)} models, {len(names) * (len(names) - 1)} ordered pairs of different models, {sites} sites "
            f"({a.sites}), chance {1 / sites:.3f}. {a.tokens:,} tokens of the first {a.characters:,} characters of "
            f"{len(set(several.first(a.tokens).labels.document))} held-out documents, window 128. ITDA: k = {k}, "
            f"threshold {threshold}, {'offset' if offset else 'no offset'}, {row['sizes'][0]:,} to {row['sizes'][1]:,} "
            "atoms. ± is half a 95% interval by the jackknife over models; differences are paired."
        ),
        main_table(row),
        paragraph(
            "Processor seconds: "
            + ", ".join(f"{name} {value:.0f}" for name, value in row["seconds"].items())
            + f". Kept per site: labels {row['bytes'] / 1000:.0f} kB (12 bytes an atom, its token and its novelty), "
            "activations "
            f"{4 * row['width'] * a.tokens / 1000:,.0f} kB in float32."
        ),
    ]
    if not a.models:
        parts += [
            "## Controls",
            paragraph(
                f"Accuracy where there is nothing to find but what the control leaves; chance is {1 / sites:.3f}. "
                f"Shuffled and untrained: {len(names[:4])} models, {min(a.tokens, 5000):,} tokens."
            ),
            controls(bench, names, settings),
            "## Settings tried on the development models",
            paragraph(
                "Accuracy on "
                + " and ".join(", ".join(group) for group in DEVELOPMENT)
                + ", matched within each architecture; none of them is in the table above."
            ),
            tried or "",
        ]
    parts += ["## Accuracy against tokens", curve(bench, names, settings)] if a.curve else []
    parts += ["## With the activations at the labels", *with_activations(bench, names, settings)]
    return bench.results.write(parts)


def with_activations(bench: Bench, names: tuple[str, ...], settings: tuple[int, float, int]) -> list[str]:
    """What reading A's labels in B adds: a pursuit for each pair of sites, so three models and fewer tokens."""
    tokens = min(bench.arguments.tokens, 5000)
    row = bench.row("transported", names[:3], tokens, settings, ("transported", "classical"))
    shown = ("weighted", "jaccard", *WITH_ACTIVATIONS, "relative_centred", "cka")
    cells = []
    for name in shown:
        found = [np.mean(list(row["scores"][name][kind].values())) for kind in ("accuracy", "within_one", "margin")]
        cells.append([NAMES[name], *(f"{value:.3f}" for value in found[:2]), f"{found[2]:+.2f}"])
    seconds = ", ".join(f"{name} {value:.0f}" for name, value in row["seconds"].items())
    return [
        paragraph(f"The first {len(names[:3])} models, {tokens:,} tokens. Processor seconds: {seconds}."),
        table(["index", "accuracy", "within one", "margin"], cells),
    ]


def controls(bench: Bench, names: tuple[str, ...], settings: tuple[int, float, int]) -> str:
    a = bench.arguments
    untrained = tuple(f"untrained {name}" for name in names[:4])
    columns = {
        "trained": bench.row("tested", names, a.tokens, settings, ("classical",)),
        "tokens shuffled": bench.row("shuffled", names[:4], min(a.tokens, 5000), settings, ("classical",)),
        "untrained models": bench.row("untrained", untrained, min(a.tokens, 5000), settings, ("classical",)),
    }
    rows = []
    for name in NAMES:
        cells = []
        for row in columns.values():
            found = row["scores"].get(name)
            cells.append("-" if found is None else f"{np.mean(list(found['accuracy'].values())):.3f}")
        rows.append([NAMES[name], *cells])
    return table(["index", *columns], rows)


def curve(bench: Bench, names: tuple[str, ...], settings: tuple[int, float, int]) -> str:
    a = bench.arguments
    points = [n for n in (1000, 2000, 5000, 10000, 20000, 50000) if n < a.tokens] + [a.tokens]
    rows = {n: bench.row("tested", names, n, settings, ("classical",)) for n in points[:-1]}
    rows[a.tokens] = bench.row("tested", names, a.tokens, settings, ("classical",))
    shown = [n for n in NAMES if n not in WITH_ACTIVATIONS]
    return table(
        ["index", *(f"{n:,}" for n in points)],
        [
            [NAMES[name], *(f"{np.mean(list(rows[n]['scores'][name]['accuracy'].values())):.3f}" for n in points)]
            for name in shown
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", help="Hub ids or folders of one architecture, instead of the family")
    parser.add_argument("--sites", choices=("both", "post"), default="both", help="both: mid-block too (serial blocks)")
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--corpus", default="python-docs")
    parser.add_argument("--characters", type=int, default=1500, help="of the beginning of each document")
    parser.add_argument("--curve", action="store_true", help="also with fewer tokens")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--fresh", action="store_true", help="forget the rows that were measured before")
    parser.add_argument("--out", type=Path)
    print(report(Bench(parser.parse_args())))


if __name__ == "__main__":
    main()
