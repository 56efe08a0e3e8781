"""Do the commands run on a GPU, and what differs from a CPU there?

    python benchmarks/gpu_commands.py [--model tiny] [--layers 2,4] [--tokens 8000] [--devices cpu,cuda]

Each command runs in a process of its own, as a user types it, in float32: train, the same streamed block by block, then
evaluate, decompose and index. Those that need not wait for each other run together, on all devices, so that all of it
takes a minute; the seconds are those of commands that share the machine. A table says what they gave and took. Streamed
and in memory must be the same labels and atoms on the same device; a GPU and a CPU round activations differently, so
their labels may differ: the overlap is shown. benchmarks/gpu.py has it as one of its parts.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from common import arguments_for, number, paragraph, results_for, table

from itda import ITDA, jaccard

HERE = Path(__file__).parent.parent
AT_ONCE = min(6, max(1, (os.cpu_count() or 1) // 2))
"""Commands that run at the same time; they share the cores."""
HEADER = ["device", "site", "atoms", "streamed is the same", "Jaccard", "fvu", "CE loss score", "index: explained"]

Commands = Mapping[tuple[str, str], Sequence[str]]
"""The arguments of commands, by device and name."""
Found = dict[tuple[str, str], tuple[dict[str, Any], float]]
"""What each printed, and its seconds."""


def command(arguments: Sequence[str]) -> tuple[dict[str, Any], float]:
    """The JSON object that a command prints, and its seconds. Raises `RuntimeError` if it fails."""
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // AT_ONCE))}
    env = {**threads, **os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "itda.cli", *arguments, "--json", "--quiet"], env=env, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise RuntimeError(f"itda {' '.join(arguments)}: exit status {done.returncode}")
    return json.loads(done.stdout), time.monotonic() - started


def together(commands: Commands) -> Found:
    """Run some commands at the same time, as far as there are cores for it."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(commands, pool.map(command, commands.values()), strict=True))


def run_all(model: str, layers: str, tokens: int, devices: Sequence[str], place: str) -> dict[str, Any]:
    """All commands on all devices, with runs in the folder `place`: a row for each device and site, and seconds."""
    training, reading = {}, {}
    for device in devices:
        on, out = ["--device", device, "--dtype", "float32"], f"{place}/{device}"
        train = ["train", model, "--layers", layers, "--corpus", "python-docs", "--tokens", str(tokens), "--k", "16"]
        training[device, "train"] = [*train, *on, "--out", out]
        training[device, "train --stream"] = [*train, *on, "--stream", "--out", f"{out}_streamed"]
        reading[device, "evaluate"] = ["evaluate", out, "--tokens", str(min(3000, tokens // 4)), *on]
        reading[device, "decompose"] = ["decompose", out, "for line in open(path):", *on]
        reading[device, "index"] = ["index", out, "--tokens", str(min(5000, tokens // 2)), *on]
    found = together(training) | together(reading)
    sites = [f"layer_{layer}" for layer in layers.split(",")]
    rows = [_row(found, device, site, devices[0], place) for device in devices for site in sites]
    return {"sites": rows, "seconds": {" ".join(name): round(spent, 1) for name, (_, spent) in found.items()}}


def _row(found: Found, device: str, site: str, first: str, place: str) -> dict[str, Any]:
    one, streamed, other = (
        ITDA.from_pretrained(f"{place}/{run}/{site}") for run in (device, f"{device}_streamed", first)
    )
    measured = found[device, "evaluate"][0]["sites"][site]
    return {
        "device": device,
        "site": site,
        "atoms": len(one),
        "streamed is the same": one.labels.keys() == streamed.labels.keys() and torch.equal(one.atoms, streamed.atoms),
        "jaccard": jaccard(one.labels, other.labels),
        "fvu": measured["fvu"],
        "ce_loss_score": measured["ce_loss_score"],
        "explained": found[device, "index"][0]["sites"][site]["explained"],
    }


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row of the table."""
    same = "yes" if row["streamed is the same"] else "NO"
    shown = (number(row[name], 5) for name in ("jaccard", "fvu", "ce_loss_score", "explained"))
    return [row["device"], row["site"], f"{row['atoms']:,}", same, *shown]


def main() -> None:
    parser = arguments_for(__doc__, "gpu_commands")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--layers", default="2,4")
    parser.add_argument("--tokens", type=int, default=8000)
    parser.add_argument("--devices", default="cpu,cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    results = results_for(arguments, "gpu_commands")
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    with tempfile.TemporaryDirectory() as place:
        found = run_all(arguments.model, arguments.layers, arguments.tokens, arguments.devices.split(","), place)
    row = results.add({"card": card, "devices": arguments.devices, "tokens": arguments.tokens}, found)
    about = paragraph(
        f"{card}. {arguments.model}, {arguments.tokens:,} tokens of python-docs, mode best, k 16, float32. Jaccard: "
        "with the labels of the first device. Seconds of whole commands that run at the same time, start and compiling "
        "included: " + ", ".join(f"{name} {number(spent)}" for name, spent in row["seconds"].items()) + "."
    )
    print(results.write([about, table(HEADER, map(cells, row["sites"]))]))


if __name__ == "__main__":
    main()
