"""Do atoms mean something, and do they come out again? On a real model, beside random atoms and the field's methods.

    python scripts/fetch_smollm2.py models/smollm2
    MODEL=models/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
    python benchmarks/meaning.py text --model $MODEL --wikitext wikitext2-valid.txt
    python benchmarks/meaning.py prompts --model $MODEL           # of sae-probes, from its wheel
    python benchmarks/meaning.py concepts --model $MODEL --axbench axbench/*
    python benchmarks/meaning.py dictionaries
    python benchmarks/meaning.py saes                             # by SAELens: needs sae-lens, see requirements.txt
    python benchmarks/meaning.py probes
    python benchmarks/meaning.py axbench
    python benchmarks/meaning.py reconstruction
    python benchmarks/meaning.py ce --model $MODEL --wikitext wikitext2-valid.txt
    python benchmarks/meaning.py replication
    python benchmarks/meaning.py report                           # the tables of docs/meaning.md

Each part goes on where it was stopped; what is slow is in `--cache`. A method whose dictionary is not in the cache is
left out, and so is a set of prompts that has not been read. Tables: benchmarks/results/meaning.md, after each part.
"""

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import meaning_docs
from common import RESULTS, Results
from meaning_bench import DECODED, Bench, concepts, probes, rebuilt, with_labels
from meaning_methods import BY_SAELENS, DICTIONARIES, METHODS
from meaning_report import report

CACHE = Path("~/.cache/itda-meaning").expanduser()
K = 20
PAIRS = {
    "orders": [((0, "a"), (seed, "a")) for seed in range(1, 5)],
    "documents": [((0, "a"), (0, group)) for group in "bcde"],
}
"""Dictionaries that are compared: the seed and the documents of each."""
USUAL = "a"
TWICE = {"documents": [((0, "ac"), (0, "bd"))]}
"""Those of twice as many documents."""


def read(arguments: argparse.Namespace) -> None:
    """The parts that read the model."""
    import meaning_model
    import meaning_prompts
    import meaning_text

    model = meaning_model.load(arguments.model, half=arguments.part != "text")
    match arguments.part:
        case "text":
            meaning_text.make_text(arguments.cache / "text", arguments.wikitext, model)
        case "prompts":
            meaning_prompts.make(arguments.cache / "prompts", meaning_prompts.fetch(arguments.cache), model)
        case _:
            folders = sorted(each for folder in arguments.axbench for each in folder.glob("prod_*"))
            meaning_text.make_concepts(arguments.cache / "concepts", folders, model)


class Parts:
    """The parts that measure: a row for each method, written as it is made."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.given = arguments
        self.results = Results(arguments.out)
        self.benches = [Bench(arguments.cache, layer, m, K) for m in arguments.sizes for layer in arguments.layers]

    @property
    def documents(self) -> str:
        """The groups of documents that the measured dictionaries are of."""
        return self.given.documents

    @property
    def wheel(self) -> Path:
        """sae-probes' wheel."""
        from meaning_prompts import fetch

        return fetch(self.given.cache)

    def methods(self) -> Iterator[tuple[Bench, int, str, str, dict[str, Any]]]:
        """Bench, seed, dictionary, readout and the key of a row, of what is in the cache."""
        every = [("neurons", "dense"), ("whitened", "dense"), *METHODS]
        for bench, seed, (name, readout) in itertools.product(self.benches, range(self.given.seeds), every):
            chosen = (self.given.only, name), (self.given.readouts, readout)
            wanted = all(those is None or each in those for those, each in chosen)
            if wanted and bench.has(name, seed, self.documents) and (seed == 0 or readout != "dense"):
                key = {"part": self.given.part, "layer": bench.layer, "m": bench.m, "k": bench.k, "seed": seed}
                key |= {} if self.documents == USUAL else {"documents": self.documents}
                yield bench, seed, name, readout, key | {"dictionary": name, "readout": readout}

    def show(self, key: dict[str, Any], values: dict[str, Any]) -> None:
        """Keep a row and write the tables."""
        self.results.add(key, values)
        self.results.write(report(self.results.rows))
        print(key["part"], key["layer"], key["seed"], key["dictionary"], key["readout"], flush=True)

    def dictionaries(self) -> None:
        """Make the dictionaries that are not in the cache."""
        every = [name for name in DICTIONARIES if (name in BY_SAELENS) == (self.given.part == "saes")]
        for seed, bench, name in itertools.product(range(self.given.seeds), self.benches, self.given.only or every):
            for group in self.given.groups if seed == 0 else ["a"]:
                made = bench.made(name, seed, group)
                print(bench.layer, bench.m, seed, group, name, len(made.model), f"{made.seconds:.1f} s", flush=True)

    def saes(self) -> None:
        """Train the autoencoders by SAELens that are not in the cache."""
        self.dictionaries()

    def probes(self) -> None:
        """sae-probes."""
        for bench, seed, name, readout, key in self.methods():
            for whole in [False, True] if name == "neurons" else [False]:
                own = key | {"readout": "all" if whole else readout}
                row = self.results.find(own)
                known = row["sets"] if row else {}
                found = probes(bench, self.wheel, bench.features(name, readout, seed), known, whole=whole)
                if len(found) > len(known):
                    self.show(own, {"sets": found})

    def axbench(self) -> None:
        """AxBench's concepts."""
        for bench in self.benches:
            key = {"part": "axbench", "folders": "all", "layer": bench.layer, "m": bench.m, "k": bench.k, "seed": 0}
            key |= {"dictionary": "difference of means", "readout": "with labels"}
            if self.results.find(key) is None:
                self.show(key, {"concepts": with_labels(bench)})
        for bench, seed, name, readout, of_method in self.methods():
            key = of_method | {"folders": "all"}
            if self.results.find(key) is None:
                self.show(key, {"concepts": concepts(bench, bench.features(name, readout, seed))})

    def reconstruction(self) -> None:
        """Held-out text."""
        for bench, seed, name, readout, key in self.methods():
            if readout in DECODED and self.results.find(key) is None:
                self.show(key, rebuilt(bench, name, readout, seed, self.documents))

    def ce(self) -> None:
        """What the model predicts with reconstructions: the methods of a layer that have no row yet, together."""
        import meaning_ce
        import meaning_model

        model, methods = None, list(self.methods())
        for bench in self.benches:
            wanted = {
                f"{name} {readout} {seed}": (key, bench.rebuilder(name, readout, seed, self.documents))
                for one, seed, name, readout, key in methods
                if one == bench and readout in DECODED and self.results.find(key) is None
            }
            if not wanted:
                continue
            model = model or meaning_model.load(self.given.model, half=False)
            rebuild = {name: each for name, (_, each) in wanted.items()}
            found = meaning_ce.spliced(model, self.given.wikitext, bench.layer, rebuild, bench.massive_norm())
            for name, (key, _) in wanted.items():
                self.show(key, found[name])

    def replication(self) -> None:
        """Two orders of the same documents, and other documents."""
        from meaning_pairs import Reading, replicated

        self.given.seeds = 1
        for bench, _, name, readout, key in self.methods():
            if readout == "dense":
                continue
            first = Reading(bench, self.wheel, name, readout, 0, self.documents)
            for kind, pairs in (PAIRS if self.documents == USUAL else TWICE).items():
                for number, ((_, _), (seed, group)) in enumerate(pairs[: self.given.pairs]):
                    own = key | {"kind": kind, "seed": number}
                    if self.results.find(own) is None and bench.has(name, seed, group):
                        self.show(own, replicated(first, Reading(bench, self.wheel, name, readout, seed, group)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    readers, measurers = ["text", "prompts", "concepts"], [name for name in vars(Parts) if name in PARTS]
    parser.add_argument("part", choices=[*readers, *measurers, "report"])
    parser.add_argument("--model", type=Path, help="the GGUF file of SmolLM2, for text, prompts, concepts and ce")
    parser.add_argument("--wikitext", type=Path, help="the validation split of WikiText-2, for text and ce")
    parser.add_argument("--axbench", type=Path, nargs="+", help="AxBench's folders concept10 and conceptFD")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--layers", type=int, nargs="+", default=[20, 10])
    parser.add_argument("--sizes", type=int, nargs="+", default=[2048], help="atoms")
    parser.add_argument("--seeds", type=int, default=1, help="orders of the documents, each with a seed")
    parser.add_argument("--groups", nargs="+", default=["a"], help="documents to make dictionaries of: a to e, or ac")
    parser.add_argument("--documents", choices=[USUAL, "ac"], default=USUAL, help="of the dictionaries to measure")
    parser.add_argument("--pairs", type=int, help="of dictionaries of each kind, for replication; default: all made")
    parser.add_argument("--only", nargs="+", help="dictionaries")
    parser.add_argument("--readouts", nargs="+", help="of them")
    parser.add_argument("--out", type=Path, default=RESULTS / "meaning.md")
    arguments = parser.parse_args()
    if arguments.part in readers:
        read(arguments)
        return
    parts = Parts(arguments)
    if arguments.part != "report":
        getattr(parts, arguments.part)()
    if arguments.part not in ("dictionaries", "saes"):
        parts.results.compact()
        parts.results.write(report(parts.results.rows))
    if arguments.part == "report":
        meaning_docs.write(parts.results.rows)


PARTS = ("dictionaries", "saes", "probes", "axbench", "reconstruction", "ce", "replication")


if __name__ == "__main__":
    main()
