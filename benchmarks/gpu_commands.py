"""Do the commands run on a GPU, and what differs from a CPU there?

    python benchmarks/gpu_commands.py [--model tiny] [--layers 2,4] [--tokens 20000] [--devices cpu,cuda]

Each command runs in a process of its own, as a user types it, in float32: train, the same streamed block by block,
evaluate, decompose, index. A table says what they gave and took. Streamed and in memory must be the same labels on the
same device; a GPU and a CPU round activations differently, so their labels may differ: the overlap is shown.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import arguments_for, number, paragraph, results_for, table

from itda import ITDA, jaccard

HERE = Path(__file__).parent.parent


def command(*arguments: str) -> tuple[dict[str, Any], float]:
    """The JSON object that a command prints, and its seconds."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "itda.cli", *arguments, "--json", "--quiet"], env=env, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise SystemExit(f"itda {' '.join(arguments)}: exit status {done.returncode}")
    return json.loads(done.stdout), time.monotonic() - started


def main() -> None:
    parser = arguments_for(__doc__, "gpu_commands")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--layers", default="2,4")
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--devices", default="cpu,cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    results = results_for(arguments, "gpu_commands")
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    layers = [f"layer_{layer}" for layer in arguments.layers.split(",")]
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as place:
        runs = {}
        for device in arguments.devices.split(","):
            on = ["--device", device, "--dtype", "float32"]
            training = ["train", arguments.model, "--layers", arguments.layers, "--corpus", "python-docs", *on]
            training += ["--tokens", str(arguments.tokens), "--k", "16"]
            seconds: dict[str, float] = {}
            for name, more in {"train": [], "train --stream": ["--stream"]}.items():
                out = f"{place}/{device}{'_streamed' if more else ''}"
                _, seconds[name] = command(*training, *more, "--out", out)
                runs[device, name] = {layer: ITDA.from_pretrained(f"{out}/{layer}") for layer in layers}
            out = f"{place}/{device}"
            found, seconds["evaluate"] = command("evaluate", out, "--tokens", "3000", *on)
            _, seconds["decompose"] = command("decompose", out, "for line in open(path):", *on)
            index, seconds["index"] = command("index", out, "--tokens", "5000", *on)
            for layer in layers:
                one, streamed = runs[device, "train"][layer], runs[device, "train --stream"][layer]
                first = runs[arguments.devices.split(",")[0], "train"][layer]
                same = one.labels.keys() == streamed.labels.keys() and torch.equal(one.atoms, streamed.atoms)
                measured = found["sites"][layer]
                row = {
                    "atoms": len(one),
                    "streamed is the same": same,
                    "jaccard": jaccard(one.labels, first.labels),
                    "fvu": measured["fvu"],
                    "ce_loss_score": measured["ce_loss_score"],
                    "explained": index["sites"][layer]["explained"],
                    "seconds": seconds,
                }
                kept = results.add({"device": device, "card": card, "layer": layer}, row)
                rows.append(
                    [
                        device if device == "cpu" else f"{device} ({card})",
                        layer,
                        f"{len(one):,}",
                        "yes" if same else "no",
                        *(number(kept[name], 5) for name in ("jaccard", "fvu", "ce_loss_score", "explained")),
                    ]
                )
            rows.append([device, "seconds", *[""] * 6])
            rows[-1][2] = ", ".join(f"{name} {number(spent)}" for name, spent in seconds.items())
    about = paragraph(
        f"{arguments.model}, {arguments.tokens:,} tokens of python-docs, mode best, k 16, float32. Jaccard: with the "
        "labels of the first device. Seconds of whole commands, start and compiling included."
    )
    header = ["device", "site", "atoms", "streamed is the same", "Jaccard", "fvu", "CE loss score", "index: explained"]
    print(results.write([about, table(header, rows)]))


if __name__ == "__main__":
    main()
