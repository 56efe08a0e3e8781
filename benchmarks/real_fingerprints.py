"""Fingerprints of real models, compared: two sentence encoders, and SmolLM2-135M with itself at another precision.

    python scripts/fetch_encoders.py models && python scripts/fetch_smollm2.py models/smollm2
    python benchmarks/real_fingerprints.py [--models models] [--tokens 10000]

MiniLM of 6 layers and of 3 are trained from different teachers for different ends, 384 wide, and share BERT's WordPiece
vocabulary. SmolLM2's weights are 4 bits each, computed with in float32, in bfloat16, and in float32 with other batches.
Fingerprints are kept in the folder of models; what is there is not made again.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments_for, paragraph, results_for, table

import itda

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
PAIRS = [
    ("all-MiniLM-L6-v2", "paraphrase-MiniLM-L3-v2"),
    ("smollm2 float32", "smollm2 bfloat16"),
    ("smollm2 float32", "smollm2 batch 16"),
]
SHOWN = ("shared novelty", "equal sizes", "sizes alone", "ladder", "adjusted", "correlation", "norms", "shuffled")


def made(name: str, models: Path, tokens: int) -> itda.Fingerprint:
    """The fingerprint of a model by its name in `PAIRS`, from its file if that is there."""
    out = models / f"{name.replace(' ', '_')}_{tokens}.itda"
    if out.exists():
        return itda.Fingerprint.load(out)
    model, _, how = name.partition(" ")
    given = {"batch 16": {"batch_size": 16, "dtype": "float32"}}.get(how, {"dtype": how or "float32"})
    path = models / model / FILE if model == "smollm2" else models / model
    return itda.fingerprint(str(path), "python-docs", tokens=tokens, out=out, **given)


def row_of(a: str, b: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Every index of a pair, layer with layer."""
    pair: Any = itda.compare(*(made(name, arguments.models, arguments.tokens) for name in (a, b))).pair
    return {
        "matrices": {name: np.round(pair.matrices[name], 6).tolist() for name in SHOWN},
        "sure": pair.sureness.sure.tolist(),
        "tokens_in_both": pair.tokens,
        "least": float(pair.index.diagonal().min()) if pair.index.shape[0] == pair.index.shape[1] else None,
    }


def report(rows: list[dict[str, Any]]) -> list[str]:
    parts = []
    for row in rows:
        key, matrices = row["key"], row["matrices"]
        index = np.array(matrices[SHOWN[0]])
        parts.append(paragraph(f"{key['a']} (down) and {key['b']} (across), {row['tokens_in_both']:,} tokens in both."))
        if index.shape[0] == index.shape[1] and index.shape[0] > 8:  # one model: the diagonal says it
            diagonal = index.diagonal()
            found = (index.argmax(axis=1) == np.arange(len(index))).mean()
            parts.append(
                paragraph(
                    f"Same layer: {diagonal.min():.4f} to {diagonal.max():.4f}, median {np.median(diagonal):.4f}; "
                    f"most like the same layer: {found:.0%} of {len(index)}; sure: {sum(row['sure'])}."
                )
            )
            continue
        cells = [[i, *(f"{value:.3f}" for value in line), index[i].argmax()] for i, line in enumerate(index)]
        parts.append(table(["layer", *map(str, range(index.shape[1])), "most like"], cells))
        by = [[name, *(int(np.argmax(line)) for line in matrices[name])] for name in SHOWN]
        parts.append(table(["most like, by", *(f"layer {i}" for i in range(len(index)))], by))
    return parts


def main() -> None:
    parser = arguments_for(__doc__, "real_fingerprints")
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--tokens", type=int, default=10_000)
    arguments = parser.parse_args()
    results = results_for(arguments, "real_fingerprints")
    for a, b in PAIRS:
        key = {"a": a, "b": b, "tokens": arguments.tokens}
        if results.find(key) is None:
            results.add(key, row_of(a, b, arguments))
            print(results.write(report(results.rows)), flush=True)
    print(results.write(report(results.rows)))


if __name__ == "__main__":
    main()
