"""What does a fingerprint cost beside the model's pass, and how does it grow with tokens, segments and width?

    python benchmarks/fingerprints.py [--quick] [--fresh]

- `tiny`, 12 sites (resid_post and mlp_out of its 6 layers), 10,000 tokens of python-docs: the pass that reads the
  activations alone, and the pass with fingerprints, in turn; the quotient is that of the medians.
- Made-up activations (rotated latents with noise, so that some tokens are atoms and some are not), in segments of
  several lengths: seconds for all tokens and sites, and what float32 products alone would take.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from common import Results, arguments_for, most_resident, number, paragraph, results_for, table

import itda
from itda import Site
from itda.core.similarity.fingerprint import DEFAULT, SEGMENT, fingerprint_of_segment
from itda.core.site import STREAMS
from itda.recipes.fingerprint_pass import FingerprintPass
from itda.sources.corpora.corpus import open_corpus
from itda.sources.models.transformers import LanguageModel
from itda.sources.source import ModelSource

LATENTS, REPEATS = 60, 5
SEGMENTS = (1024, 2048, 4096, SEGMENT)


def beside_the_model(results: Results, tokens: int, segment: int, repeats: int) -> None:
    key = {"of": "tiny", "tokens": tokens, "segment": segment}
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

    taken: dict[str, list[float]] = {"alone": [], "with": []}
    alone()
    with_fingerprints()
    for _ in range(repeats):
        for name, call in (("alone", alone), ("with", with_fingerprints)):
            started = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - started)
    results.add(key, taken)


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


def on_made_up(results: Results, tokens: int, sites: int, width: int, segment: int) -> None:
    key = {"of": "made up", "tokens": tokens, "sites": sites, "width": width, "segment": segment}
    if results.find(key) is not None:
        return
    settings, spent, atoms = replace(DEFAULT, segment=segment), 0.0, 0
    fingerprint_of_segment(torch.randn(100, width), settings)  # compiles
    for site in range(sites):
        for x in made_up(tokens, width, segment, site):
            started = time.perf_counter()
            found = fingerprint_of_segment(x, settings)
            spent += time.perf_counter() - started
            atoms += int(found.is_atom(1).sum())
    x = next(made_up(min(tokens, segment), width, segment, 0))
    started = time.perf_counter()
    for start in range(0, len(x), 512):
        torch.mm(x[start : start + 512], x[: start + 512].T)
    products = (time.perf_counter() - started) * sites * tokens / len(x)
    values = {"seconds": spent, "products": products, "atoms": atoms / sites / tokens, "peak": most_resident()}
    results.add(key, values)


def report(results: Results) -> str:
    rows = {"tiny": [], "made up": []}
    for row in results.rows:
        rows[row["key"]["of"]].append(row)
    return results.write(
        [
            paragraph("tiny, 12 sites: medians of seconds, the model's pass alone and with fingerprints, in turn."),
            table(
                ["tokens", "segment", "pass", "with fingerprints", "quotient"],
                [_of_tiny(row) for row in sorted(rows["tiny"], key=lambda row: row["key"]["segment"])],
            ),
            paragraph(
                "Made-up activations: seconds for all sites; products: float32 products of each token with the earlier "
                "ones of its segment alone, estimated from one segment; atoms: share of the tokens at rung 0.1."
            ),
            table(
                ["tokens", "sites", "d_model", "segment", "seconds", "products", "atoms"],
                [_of_made_up(row) for row in sorted(rows["made up"], key=lambda row: row["key"]["segment"])],
            ),
        ]
    )


def _of_tiny(row: dict[str, Any]) -> list[str]:
    alone, beside = (sorted(row[name])[len(row[name]) // 2] for name in ("alone", "with"))
    key = row["key"]
    return [f"{key['tokens']:,}", f"{key['segment']:,}", number(alone), number(beside), f"{beside / alone:.2f}"]


def _of_made_up(row: dict[str, Any]) -> list[str]:
    key = row["key"]
    sizes = [f"{key[name]:,}" for name in ("tokens", "sites", "width", "segment")]
    return [*sizes, number(row["seconds"]), number(row["products"]), f"{row['atoms']:.0%}"]


def main() -> None:
    arguments = arguments_for(__doc__, "fingerprints").parse_args()
    results = results_for(arguments, "fingerprints")
    quick = arguments.quick
    for segment in SEGMENTS:
        beside_the_model(results, 2000 if quick else 10_000, segment, 1 if quick else REPEATS)
    for segment in SEGMENTS:
        on_made_up(results, 5000 if quick else 100_000, 2 if quick else 12, 128 if quick else 768, segment)
    print(report(results))


if __name__ == "__main__":
    assert itda.__version__
    main()
