"""How fast is `itda index`, and how fast does a large index open and answer?

    python benchmarks/index_speed.py [--quick] [--fresh] [--layers 0-5] [--tokens 60000]

First part: for each layer of the bundled model, dictionaries of k = 20 are trained on the tokens that are then indexed,
one layer at a time. Tokens per second of the whole command without loading the model; of the model alone up to that
layer, tokenising included; and of the pursuit alone in the same blocks. The three are taken in turn.

Second part: an index of made-up codes, a million tokens of 40 over 16,384 atoms, written in parts and merged as the
command does. It is opened and asked in a process of its own, whose memory is watched.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import (
    arguments_for,
    child,
    forget_peak,
    most_resident,
    number,
    paragraph,
    resident,
    results_for,
    seconds,
    share,
    table,
)

from itda import Site
from itda import config as settings
from itda.explorer.code_index import INDEX_FORMAT, CodeIndex, sample
from itda.explorer.code_index_writer import PARTIAL, CodePart, TextPart, emptied, merge, parts_of, publish, write_part
from itda.explorer.indexing import BLOCK
from itda.files import FORMAT_VERSION, write_json
from itda.parsing import parse_layers
from itda.recipes import open_run, train
from itda.recipes.index import index_run
from itda.sources.corpora.corpus import open_corpus
from itda.sources.models.transformers import LanguageModel
from itda.sources.source import ModelSource

K, THRESHOLD, REPEATS = 20, 0.3, 3
SITE = Site(0)


def layer_speed(layer: int, tokens: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary:
        folder, site = Path(temporary) / "run", Site(layer)
        given = {"model": "tiny", "corpus": "python-docs", "tokens": tokens, "k": K, "threshold": THRESHOLD}
        given |= {"mode": "paper", "order": "corpus"}
        train(settings.Train(layers=(layer,), out=folder, **given))
        run, model = open_run(folder), LanguageModel.load("tiny")
        dictionary, window, size = run.dictionary(site), run.record["window"], run.record["batch_size"]
        corpus = open_corpus("python-docs").split("train")

        def blocks() -> list[torch.Tensor]:
            source = ModelSource(model, corpus, [site], window=window, batch_size=size, tokens=tokens)
            return list(torch.cat([batch[site].activations for batch in source]).split(BLOCK))

        several = blocks()
        dictionary.encode(several[0])
        taken: dict[str, list[float]] = {"index": [], "model": [], "pursuit": []}
        for _ in range(REPEATS):
            shutil.rmtree(folder / "index", ignore_errors=True)
            taken["index"].append(float(index_run(settings.Index(run=folder)).record["seconds"]))
            taken["model"].append(seconds(blocks))
            taken["pursuit"].append(seconds(lambda: [dictionary.encode(x) for x in several]))
        return {"atoms": len(dictionary), "seconds": taken}


def make_index(run: Path, tokens: int, k: int, atoms: int, window: int = 127, part: int = 50_000) -> float:
    """An index of made-up codes; returns the seconds that merging took."""
    rng = np.random.default_rng(0)
    (run / str(SITE)).mkdir(parents=True)
    (run / str(SITE) / "atoms.safetensors").write_bytes(rng.bytes(atoms * 768 * 4))
    emptied(run / PARTIAL)
    chance = 1 / np.arange(1, atoms + 1)  # some atoms are used often, most seldom
    chance /= chance.sum()
    for i in range(tokens // part):
        lengths = np.diff(np.append(np.arange(0, part, window), part))
        place = np.arange(part) - np.repeat(np.arange(0, part, window), lengths)
        text = TextPart(
            [f"document {i}"],
            np.full(4 * part, ord("x"), np.uint8),
            4 * lengths,
            lengths,
            np.zeros(len(lengths), np.int32),
            np.zeros(len(lengths), np.int64),
            *(column.astype(np.int32) for column in (np.arange(part), 4 * place, 4 * place + 4, place)),
        )
        # Twice as many as needed, of which the first distinct ones are kept; what is lacking is filled with rare atoms.
        picked = rng.choice(atoms, (part, 2 * k), p=chance)
        codes = np.stack([_distinct(row, k, atoms) for row in picked]).astype(np.int32)
        weights = rng.standard_exponential((part, k)).astype(np.float32)
        count, error = np.full(part, k, np.int32), rng.random(part, np.float32)
        write_part(
            run / PARTIAL,
            i,
            1.0,
            text,
            {SITE: CodePart(count, codes.ravel(), weights.ravel(), error, np.zeros_like(error))},
        )
    whole, started = run / PARTIAL / "whole", time.perf_counter()
    merge(parts_of(run / PARTIAL), whole, {SITE: (atoms, k)})
    taken = time.perf_counter() - started
    made = {"atoms": atoms, "k": k, "sample": sample(run / str(SITE) / "atoms.safetensors")}
    kind = {"format": INDEX_FORMAT, "format_version": FORMAT_VERSION}
    write_json(whole / "index.json", {**kind, "tokens": tokens, "sites": {str(SITE): made}, "pieces": {}})
    publish(run, whole)
    return taken


def _distinct(row: np.ndarray, k: int, atoms: int) -> np.ndarray:
    kept = row[np.sort(np.unique(row, return_index=True)[1])][:k]
    spare = atoms - 1 - np.arange(2 * k)
    return np.concatenate([kept, spare[~np.isin(spare, kept)][: k - len(kept)]])


def ask(run: Path, calls: int) -> dict[str, Any]:
    """Milliseconds to open an index and to ask it, medians and slowest, and by how much memory grew."""
    CodeIndex.open(run, SITE)  # what is imported at the first use
    forget_peak()
    before, started = resident(), time.perf_counter()
    index = CodeIndex.open(run, SITE)
    opened, rng = time.perf_counter() - started, np.random.default_rng(1)
    grown = {"opened": most_resident() - before}
    atoms, tokens = rng.integers(0, index.atoms, calls).tolist(), rng.integers(0, index.tokens, calls).tolist()
    busiest = index.counts.argsort()[::-1][:20].tolist()
    questions: dict[str, tuple[Callable[[int], Any], list[int]]] = {
        "uses of an atom": (index.uses, atoms),
        "uses of the 20 most used": (index.uses, busiest),
        "code of a token": (index.codes, tokens),
        "codes of a window": (lambda token: index.codes_between(*index.text.window(token)), tokens),
        "text of a window": (lambda token: index.text.token_strings(*index.text.window(token)), tokens),
    }
    found = {}
    for name, (question, about) in questions.items():
        taken = [seconds(lambda one=one, question=question: question(one)) for one in about]
        found[name] = [1e3 * statistics.median(taken), 1e3 * max(taken)]
    grown["asked"] = most_resident() - before
    return {
        "open": 1e3 * opened,
        "questions": found,
        "grown": grown,
        "uses": [int(index.counts.min()), int(np.median(index.counts)), int(index.counts.max())],
    }


def large_index(tokens: int, k: int, atoms: int, calls: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary) / "run"
        made = child(__file__, {"make": [tokens, k, atoms], "run": str(run)})
        found = child(__file__, {"ask": calls, "run": str(run)})
        found["bytes"] = sum(file.stat().st_size for file in (run / "index").iterdir())
    return {**found, "merge": made["merge"], "merge_memory": made["memory"]}


def run_child(task: dict[str, Any]) -> None:
    run = Path(task["run"])
    if "make" in task:
        taken = make_index(run, *task["make"])
        print(json.dumps({"merge": taken, "memory": most_resident()}))
    else:
        print(json.dumps(ask(run, task["ask"])))


def report(rows: list[dict[str, Any]]) -> list[str]:
    layers = sorted((row for row in rows if "layer" in row["key"]), key=lambda row: row["key"]["layer"])
    parts = []
    if layers:
        tokens = layers[0]["key"]["tokens"]
        parts.append(
            paragraph(
                f"tiny, k = {K}, threshold {THRESHOLD}, {tokens:,} tokens of python-docs, one layer at a time; tokens "
                f"per second, medians of {REPEATS}. Model: up to that layer, tokenising included. Pursuit: alone, in "
                f"blocks of {BLOCK}. Share: the model's seconds over the index's."
            )
        )
        lines = []
        for row in layers:
            middle = {name: statistics.median(taken) for name, taken in row["seconds"].items()}
            speed = [number(tokens / middle[name]) for name in ("index", "model", "pursuit")]
            lines.append(
                [row["key"]["layer"], f"{row['atoms']:,}", *speed, share(min(1, middle["model"] / middle["index"]))]
            )
        parts.append(table(["layer", "atoms", "index", "model", "pursuit", "share of the model"], lines))
    for row in (row for row in rows if "codes" in row["key"]):
        key, uses, grown = row["key"], row["uses"], row["grown"]
        parts.append(
            paragraph(
                f"{key['tokens']:,} tokens, {key['codes']} codes each, {key['atoms']:,} atoms with {uses[0]:,} to "
                f"{uses[2]:,} uses, {uses[1]:,} in the median: {row['bytes'] / 1e6:,.0f} MB on disk, in the page cache "
                f"when it is asked. Merging took {row['merge']:.1f} s, and {row['merge_memory'] / 2**30:.2f} GiB with "
                f"all libraries. Opening makes the process {grown['opened'] / 2**20:.1f} MiB larger, and all questions "
                f"together {grown['asked'] / 2**20:.0f} MiB: pages of the files, which it can give back."
            )
        )
        lines = [["open", number(row["open"]), "-"]]
        lines += [[name, *(number(value) for value in values)] for name, values in row["questions"].items()]
        parts.append(table(["", "median, ms", "slowest, ms"], lines))
    return parts


def main() -> None:
    parser = arguments_for(__doc__, "index_speed")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--layers", default="0-5")
    parser.add_argument("--tokens", type=int, default=60_000)
    a = parser.parse_args()
    if a.child:
        run_child(a.child)
        return
    results = results_for(a, "index_speed")
    tokens, layers = (6_000, [2]) if a.quick else (a.tokens, parse_layers(a.layers))
    for layer in layers:
        key = {"layer": layer, "tokens": tokens}
        if results.find(key) is None:
            results.add(key, layer_speed(layer, tokens))
            results.write(report(results.rows))
    key = {"tokens": 100_000 if a.quick else 1_000_000, "codes": 40, "atoms": 16_384}
    if results.find(key) is None:
        results.add(key, large_index(key["tokens"], key["codes"], key["atoms"], 200 if a.quick else 2_000))
    print(results.write(report(results.rows)))


if __name__ == "__main__":
    main()
