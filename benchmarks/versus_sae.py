"""Does itda reconstruct better than SAEs trained as long on the same activations? A grid of cells, and its tables.

    python benchmarks/versus_sae.py --preset tiny --corpus wikitext=FILE.txt [--workers 2] [--skip topk_10x]
    python benchmarks/versus_sae.py --preset tiny --report
    python benchmarks/versus_sae.py --preset tiny --curves

A cell is a model, corpus, layer, number of atoms, k and order of documents. In it `best` is built first, and each SAE
is trained for no less than its seconds (`topk_10x`: ten times) of processor time, one thread each. Every result is kept
at once in results/versus_sae.jsonl: run it again to go on. A text file with WikiText's headings is cut into articles.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from itertools import groupby, product
from multiprocessing import get_context
from pathlib import Path

from common import RESULTS
from versus_cells import METHODS, Cell, Job, Log, missing, prepare, run_job
from versus_data import Data, extract, language_model

FIELDS = ("corpus", "layer", "size", "k", "order", "method")


@dataclass(frozen=True)
class Preset:
    model: str
    layers: tuple[int, ...]
    development: int
    sizes: tuple[int, ...]
    ks: tuple[int, ...]
    corpora: tuple[tuple[str, str], ...]
    tokens: int = 1_000_000
    heldout: int = 10_000
    orders: tuple[int, ...] = (0, 1, 2)


PILE = (("pile", "NeelNanda/pile-10k"),)
KS = (20, 40, 80)
PRESETS = {
    "tiny": Preset("tiny", (3, 4), 2, (2048, 8192), (10, 20, 40), (("python-docs", "python-docs"),), 50_000),
    "pythia-70m": Preset("EleutherAI/pythia-70m-deduped", (3, 4), 2, (4096, 16384), KS, PILE),
    "pythia-160m": Preset("EleutherAI/pythia-160m-deduped", (8,), 7, (4096, 16384), KS, PILE),
    "gemma-2-2b": Preset("google/gemma-2-2b", (12,), 11, (4096, 16384, 65536), KS, PILE),
}


def cells_of(preset: Preset, cache: Path, only: dict[str, set[str]]) -> Iterator[Cell]:
    """Cells that differ by layer alone are neighbours."""
    for order, (name, source) in product(preset.orders, preset.corpora):
        data = Data(preset.model, name, source, str(cache), preset.tokens, preset.heldout)
        for size, k, layer in product(preset.sizes, preset.ks, preset.layers):
            cell = Cell(data, layer, preset.development, size, k, order)
            if all(str(cell.key("")[field]) in values for field, values in only.items() if field != "method"):
                yield cell


def jobs_of(cells: list[Cell], methods: tuple[str, ...], log: Log) -> list[Job]:
    """Order by order; within one, what takes ten times as long comes last."""
    jobs = []
    for _, several in groupby(cells, lambda cell: cell.order):
        several = list(several)
        for part in (tuple(m for m in methods if m != "topk_10x"), tuple(m for m in methods if m == "topk_10x")):
            for _, alike in groupby(several, lambda cell: replace(cell, layer=0)):
                todo = tuple(cell for cell in alike if missing(log, cell, part))
                if todo:
                    jobs.append(Job(todo, part))
    return jobs


def run(cells: list[Cell], methods: tuple[str, ...], workers: int) -> int:
    log = Log()
    jobs = jobs_of(cells, methods, log)
    print(f"{len(cells)} cells, {len(jobs)} jobs to do", flush=True)
    if not jobs:
        return 0
    needed = [cell for job in jobs for cell in job.cells]
    for data in dict.fromkeys(cell.data for cell in needed):
        here = [cell for cell in needed if cell.data == data]
        layers = {cell.layer for cell in here} | ({here[0].development} if "relu" in methods else set())
        extract(data, sorted({cell.order for cell in here}), sorted(layers))
    language_model.cache_clear()
    # Read when the libraries of a child are loaded.
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    failed = 0
    with ProcessPoolExecutor(workers, get_context("spawn"), prepare) as pool:
        for done in as_completed([pool.submit(run_job, job) for job in jobs]):
            for text in done.result():
                failed += 1
                print(text, file=sys.stderr, flush=True)
    return failed


def pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--corpus", nargs="+", type=pair, default=[], metavar="NAME=SPEC", help="besides the preset's")
    parser.add_argument("--model", help="instead of the preset's, as the next ones")
    for name, what in (("layers", "layers"), ("sizes", "numbers of atoms"), ("ks", "k"), ("orders", "document orders")):
        parser.add_argument(f"--{name}", nargs="+", type=int, help=what)
    parser.add_argument("--tokens", type=int, help="to train on")
    parser.add_argument("--heldout", type=int, help="tokens to measure on")
    parser.add_argument("--development", type=int, help="the layer on which ReLU's L1 coefficient is found")
    parser.add_argument("--only", nargs="+", type=pair, default=[], metavar="FIELD=A,B", help=", ".join(FIELDS))
    parser.add_argument("--skip", nargs="+", choices=METHODS, default=[])
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "itda-versus"
    parser.add_argument("--cache", type=Path, default=default, help="folder for activations")
    parser.add_argument("--report", action="store_true", help="print the tables and save them to --out")
    parser.add_argument("--curves", action="store_true", help="quality by training time and tokens, and their plots")
    parser.add_argument("--out", type=Path, default=RESULTS / "versus_sae.md")
    arguments = parser.parse_args()

    preset = PRESETS[arguments.preset]
    changes = {
        name: tuple(value) if isinstance(value, list) else value
        for name in ("model", "layers", "sizes", "ks", "orders", "tokens", "heldout", "development")
        if (value := getattr(arguments, name)) is not None
    }
    corpora = tuple((dict(preset.corpora) | dict(arguments.corpus)).items())
    preset = replace(preset, corpora=corpora, **changes)
    only = {field: set(values.split(",")) for field, values in arguments.only}
    if unknown := set(only) - set(FIELDS):
        parser.error(f"--only knows {', '.join(FIELDS)}, not {', '.join(unknown)}")
    methods = tuple(m for m in METHODS if m in only.get("method", METHODS) and m not in arguments.skip)
    if arguments.report:
        from versus_report import report

        print(report(preset.model, preset.tokens, preset.heldout, only, methods, arguments.out))
    elif arguments.curves:
        from versus_report import curves

        curves(preset, arguments.cache, arguments.workers)
    else:
        sys.exit(run(list(cells_of(preset, arguments.cache, only)), methods, arguments.workers) > 0)


if __name__ == "__main__":
    main()
