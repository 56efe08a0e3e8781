"""What does a fingerprint cost beside the model's pass, and how does it grow with tokens, segments and width?

    python benchmarks/fingerprints.py [--quick] [--fresh]

- `tiny`, 12 sites (resid_post and mlp_out of its 6 layers), 10,000 tokens of python-docs: the pass that reads the
  activations alone, and the pass with fingerprints, in turn: medians of wall seconds and of CPU seconds (of all
  threads: on a machine that others use too, these say more, if threads sleep while they wait). The quotients are of
  the medians.
- Made-up activations (rotated latents with noise, so that some tokens are atoms and some are not), in segments of
  two lengths: seconds for all tokens and sites, and what float32 products alone would take.

Each with products that propose in 16 bits, if this CPU is fast at those, and in float32: the result is the same.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: a thread that waits takes no CPU time

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from common import Results, arguments_for, most_resident, number, paragraph, results_for, table

import itda
from itda import Site
from itda.core.pursuit.products import in_16_bits_fast
from itda.core.similarity import fingerprint
from itda.core.similarity.fingerprint import DEFAULT, SEGMENT, FingerprintSettings, TokenNovelty, fingerprint_of_segment
from itda.core.site import STREAMS
from itda.recipes.fingerprint_pass import FingerprintPass
from itda.sources.corpora.corpus import open_corpus
from itda.sources.models.transformers import LanguageModel
from itda.sources.source import ModelSource

LATENTS, REPEATS = 60, 3
SEGMENTS = (2048, SEGMENT)


def beside_the_model(results: Results, tokens: int, segment: int, bits: int, repeats: int) -> None:
    key = {"of": "tiny", "tokens": tokens, "segment": segment, "bits": bits}
    if results.find(key) is not None:
        return
    model = LanguageModel.load("tiny")
    sites = [Site(layer, stream) for layer in range(model.layers) for stream in STREAMS[:2]]
    source = ModelSource(model, open_corpus("python-docs").shuffled(0), sites, window=128, tokens=tokens)
    settings = replace(DEFAULT, segment=segment)

    def alone() -> None:
        for _ in source:
            pass

    def with_fingerprints() -> None:
        made = FingerprintPass(sites, settings, tokens=tokens)
        for batches in source:
            made.offer(batches)
        made.finish({})

    taken: dict[str, list[tuple[float, float]]] = {"alone": [], "with": []}
    alone()
    with_fingerprints()
    for _ in range(repeats):
        for name, call in (("alone", alone), ("with", with_fingerprints)):
            taken[name].append(_timed(call))
    results.add(key, taken)


def _timed(call: Callable[[], object]) -> tuple[float, float]:
    """Wall seconds and CPU seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def made_up(tokens: int, width: int, segment: int, seed: int) -> Iterator[torch.Tensor]:
    """Yield activations [segment, width], some of which are near earlier ones."""
    random = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(width, LATENTS, generator=random))[0]
    centres = torch.randn(2000, LATENTS, generator=random) ** 3
    for start in range(0, tokens, segment):
        number = min(segment, tokens - start)
        latents = centres[torch.randint(2000, (number,), generator=random)]
        x = (latents + 0.7 * torch.randn(number, LATENTS, generator=random)) @ basis.T
        yield x + 0.05 * torch.randn(number, width, generator=random) + 1


def on_made_up(results: Results, tokens: int, sites: int, width: int, segment: int, bits: int) -> None:
    key = {"of": "made up", "tokens": tokens, "sites": sites, "width": width, "segment": segment, "bits": bits}
    if results.find(key) is not None:
        return
    settings, wall, cpu, atoms = replace(DEFAULT, segment=segment), 0.0, 0.0, 0
    fingerprint_of_segment(torch.randn(100, width), settings)  # compiles
    for site in range(sites):
        for x in made_up(tokens, width, segment, site):
            found: list[TokenNovelty] = []
            seconds = _timed(partial(_take, x, settings, found))
            wall, cpu = wall + seconds[0], cpu + seconds[1]
            atoms += int(found[0].is_atom(1).sum())
    x = next(made_up(min(tokens, segment), width, segment, 0))
    products = _timed(partial(_products, x))[1] * sites * tokens / len(x)
    values = {
        "seconds": wall,
        "cpu": cpu,
        "products": products,
        "atoms": atoms / sites / tokens,
        "peak": most_resident(),
    }
    results.add(key, values)


def _take(x: torch.Tensor, settings: FingerprintSettings, found: list[TokenNovelty]) -> None:
    found.append(fingerprint_of_segment(x, settings))


def _products(x: torch.Tensor) -> None:
    for start in range(0, len(x), 512):
        torch.mm(x[start : start + 512], x[: start + 512].T)


def report(results: Results) -> str:
    rows = {"tiny": [], "made up": []}
    for row in results.rows:
        rows[row["key"]["of"]].append(row)
    return results.write(
        [
            paragraph(
                "tiny, 12 sites: medians of seconds, the model's pass alone and with fingerprints, in turn; beyond: "
                "the seconds beyond the pass, as a multiple of it. bits: of the products that propose."
            ),
            table(
                ["tokens", "segment", "bits", "pass", "with", "beyond", "pass, CPU", "with, CPU", "beyond, CPU"],
                [_of_tiny(row) for row in sorted(rows["tiny"], key=_order)],
            ),
            paragraph(
                "Made-up activations: wall and CPU seconds for all sites; products: CPU seconds of float32 products of "
                "each token with the earlier ones of its segment alone, estimated from one segment; atoms: share of "
                "the tokens at rung 0.1."
            ),
            table(
                ["tokens", "sites", "d_model", "segment", "bits", "seconds", "CPU", "products", "atoms"],
                [_of_made_up(row) for row in sorted(rows["made up"], key=_order)],
            ),
        ]
    )


def _order(row: dict[str, Any]) -> tuple[int, int]:
    return row["key"]["segment"], row["key"]["bits"]


def _of_tiny(row: dict[str, Any]) -> list[str]:
    cells = [f"{row['key'][name]:,}" for name in ("tokens", "segment", "bits")]
    for clock in (0, 1):
        alone, beside = (statistics.median(each[clock] for each in row[name]) for name in ("alone", "with"))
        cells += [number(alone), number(beside), f"{beside / alone - 1:.2f}"]
    return cells


def _of_made_up(row: dict[str, Any]) -> list[str]:
    key = row["key"]
    sizes = [f"{key[name]:,}" for name in ("tokens", "sites", "width", "segment", "bits")]
    return [*sizes, number(row["seconds"]), number(row["cpu"]), number(row["products"]), f"{row['atoms']:.0%}"]


def main() -> None:
    arguments = arguments_for(__doc__, "fingerprints").parse_args()
    results = results_for(arguments, "fingerprints")
    quick = arguments.quick
    fast = fingerprint.in_16_bits_fast
    for bits in (16, 32) if in_16_bits_fast(torch.device("cpu")) else (32,):
        fingerprint.in_16_bits_fast = fast if bits == 16 else lambda _device: False
        for segment in SEGMENTS:
            beside_the_model(results, 2000 if quick else 10_000, segment, bits, 1 if quick else REPEATS)
        for segment in SEGMENTS:
            on_made_up(results, 5000 if quick else 100_000, 2 if quick else 12, 128 if quick else 768, segment, bits)
    print(report(results))


if __name__ == "__main__":
    assert itda.__version__
    main()
