"""Hash what the commands make: to see that a change of the code changed no bit of a dictionary.

    python scripts/bits.py before.json           (in one checkout)
    python scripts/bits.py after.json            (in another, on the same machine)
    python scripts/bits.py --compare before.json after.json

Each hash is of all tensors of `atoms.safetensors` and all rows of `labels.parquet` of each site of a run; of `index`,
of all its arrays. The bits depend on the machine and the versions of its libraries: compare on one machine only.
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet
import torch
from safetensors.torch import load_file

CORPUS = ("--corpus", "python-docs")
SMALL = ("--tokens", "6k", "--k", "8")
TRAIN = {
    "paper, mp, threshold": (*SMALL, "--mode", "paper", "--threshold", "0.35"),
    "best, mp_refit, atoms": (*SMALL, "--atoms", "256"),
    "reference": (*SMALL, "--mode", "reference", "--tokens", "3k", "--threshold", "0.004"),
    "omp": (*SMALL, "--mode", "paper", "--pursuit", "omp", "--threshold", "0.4"),
    "paper, atoms": (*SMALL, "--mode", "paper", "--atoms", "200"),
    "streamed": (*SMALL, "--atoms", "256", "--stream"),
    "by workers": (*SMALL, "--atoms", "256", "--workers", "2"),
    "of mlp_out and attn_out": (*SMALL, "--atoms", "128", "--streams", "mlp_out,attn_out"),
}


def itda(*arguments: str | Path) -> None:
    """Run a command, quietly."""
    done = subprocess.run([sys.executable, "-m", "itda.cli", *map(str, arguments), "--quiet"], capture_output=True)
    if done.returncode:
        raise SystemExit(f"{arguments}: {done.stderr.decode()}")


def hash_of_tensors(hasher: "hashlib._Hash", path: Path) -> None:
    for name, tensor in sorted(load_file(path).items()):
        flat = tensor.contiguous().reshape(-1).view(torch.uint8)
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + flat.numpy().tobytes())


def hash_of(run: Path) -> dict[str, str]:
    """The hash of each site of a run."""
    found = {}
    for folder in sorted(run.glob("layer_*")):
        hasher = hashlib.sha256()
        hash_of_tensors(hasher, folder / "atoms.safetensors")
        for row in pyarrow.parquet.read_table(folder / "labels.parquet").to_pylist():
            hasher.update(json.dumps(row, sort_keys=True).encode())
        found[folder.name] = hasher.hexdigest()
    for path in sorted((run / "index").glob("*.safetensors")):
        hasher = hashlib.sha256()
        hash_of_tensors(hasher, path)
        found[f"index/{path.name}"] = hasher.hexdigest()
    return found


def killed_and_resumed(run: Path) -> None:
    """Stop a training in its middle, once a checkpoint is there, and go on with it."""
    command = [sys.executable, "-m", "itda.cli", "train", "tiny", "--layers", "2,4", *CORPUS, *SMALL]
    command += ["--tokens", "20k", "--atoms", "256", "--checkpoint-every", "0", "--out", str(run), "--quiet"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(run.rglob("*checkpoint*/*")):
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    if (run / "run.json").exists():
        raise SystemExit("the training ended before it could be stopped")
    itda("train", "--resume", run)


def encoder_model(folder: Path) -> None:
    """A small BERT of random weights, with the tokenizer of the bundled model."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    import itda as package

    tiny = Path(package.__file__).parent / "assets" / "tiny"
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def record() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)

        def note(what: str, run: Path) -> None:
            found[what] = hash_of(run)
            print(what, *(f"{site} {digest[:12]}" for site, digest in found[what].items()), flush=True)

        for number, (what, flags) in enumerate(TRAIN.items()):
            run = place / f"run_{number}"
            itda("train", "tiny", "--layers", "2,4", *CORPUS, *flags, "--out", run)
            note(what, run)
        itda("index", place / "run_1", "--tokens", "5k")
        note("index", place / "run_1")
        itda("harvest", "tiny", "--layers", "2,4", *CORPUS, "--tokens", "6k", "--out", place / "shards")
        itda("train", "--activations", place / "shards", "--k", "8", "--atoms", "256", "--out", place / "harvested")
        note("harvested", place / "harvested")
        killed_and_resumed(place / "resumed")
        note("killed and resumed", place / "resumed")
        encoder_model(place / "bert")
        itda("train", place / "bert", "--layers", "1", *CORPUS, *SMALL, "--atoms", "128", "--out", place / "encoder")
        note("encoder model", place / "encoder")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--compare", nargs=2, type=Path)
    options = parser.parse_args()
    if options.compare:
        before, after = (json.loads(path.read_text()) for path in options.compare)
        different = [what for what in before if before[what] != after.get(what)]
        print(f"{len(before) - len(different)} of {len(before)} the same", *different, sep="\n  ")
        raise SystemExit(bool(different))
    options.out.write_text(json.dumps(record(), indent=1) + "\n")


if __name__ == "__main__":
    main()
