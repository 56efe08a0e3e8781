"""What a diff costs: the time of reading two models side by side, and the memory, beside reading each alone.

python benchmarks/diff_cost.py                         # two models of 40 MB: seconds
python benchmarks/diff_cost.py --gigabytes 3           # two of 3 GB in bfloat16: needs 6 GB of disk, and minutes

Makes two Llamas of random weights on disk (the second is the first with noise), and streams them with the memory that a
streamed model has, in processes of their own: the base alone, the changed model alone, and both as a pair, with the
activations of three layers and all predictions; then the whole `itda diff`. Prints seconds and peak memory (without
the pages of the files), and the ratio of the pair's time to the sum of both alone, by the clock and by processors.

On two cores of an AMD EPYC, 2026-11-27, one run each: with --gigabytes 3 --tokens 256 --dtype float32 the pair took .98
times both alone (124 s) and 1.46 GB at the peak (alone 1.32 GB). Before a pair had one block of each model in memory,
--gigabytes 0.5 --tokens 2100 --dtype float32 --whole gave 1.20 times both alone for the command.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from itda.core.site import Site
from itda.diffing.checks import LEAST_TOKENS
from itda.diffing.pairs import PairedSource
from itda.sources.corpora.corpus import open_corpus
from itda.sources.models.names import TINY
from itda.sources.models.transformers import LanguageModel
from itda.sources.streamed.model import StreamedModel
from itda.sources.streamed.weights import give_back_freed

TEXTS, CHARACTERS = "texts.jsonl", 400
"""What is read: the beginnings of python-docs' documents, which are so long that a diff would want more of them."""
VOCABULARY = 4096
WINDOW, BATCH_SIZE = 128, 8


def shape_of(gigabytes: float) -> dict[str, int]:
    """A Llama with about so many bytes of weights in bfloat16: 16 blocks of about 12 width^2 weights."""
    layers = 16
    width = max(128, round((gigabytes * 1e9 / 2 / layers / 12) ** 0.5 / 128) * 128)
    return {
        "hidden_size": width,
        "intermediate_size": round(8 / 3 * width / 64) * 64,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "num_key_value_heads": width // 64,
        "vocab_size": VOCABULARY,
    }


def make(folder: Path, gigabytes: float) -> None:
    """Write a base and a changed model, unless they are there, with the bundled model's tokenizer; and short texts."""
    texts = [document.text[:CHARACTERS] for document in open_corpus("python-docs")]
    (folder / TEXTS).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    shape = shape_of(gigabytes)
    for name in ("base", "changed"):
        if (folder / name / "config.json").exists():
            continue
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**shape))  # pyright: ignore[reportArgumentType] - all are numbers
        torch.nn.Module.to(model, torch.bfloat16)
        if name == "changed":
            draw = torch.Generator().manual_seed(1)
            with torch.no_grad():
                for value in model.parameters():
                    value.add_(0.001 * torch.randn(value.shape, generator=draw).to(value.dtype))
        model.save_pretrained(folder / name, max_shard_size="500MB")
        LanguageModel.load("tiny").tokenizer.save_pretrained(folder / name)
        del model


def read(kind: str, folder: Path, tokens: int, memory: int, dtype: str) -> dict[str, Any]:
    """Read one model, or both, once; return the seconds, and the peak memory in bytes."""
    give_back_freed()
    names = ["base", "changed"] if kind == "pair" else [kind]
    share = memory // len(names)
    given: dict[str, Any] = {"dtype": dtype, "head": True, "budget": share, "read_ahead": kind != "pair"}
    models = [StreamedModel.load(str(folder / name), **given) for name in names]
    layers = models[0].layers
    sites = [Site(layers // 4), Site(layers // 2), Site(3 * layers // 4)]
    source = PairedSource(
        models[0],
        models[-1],
        open_corpus(str(folder / TEXTS)),
        sites,
        window=WINDOW,
        batch_size=BATCH_SIZE,
        tokens=tokens,
    )
    with Peak() as peak, Clock() as clock:
        found = sum(len(each) for each in source)
    read_bytes = sum(model.weights.bytes_read for model in models)
    return {**clock.seconds, "rows": found, "peak": peak.bytes, "weights_read": read_bytes}


class Clock:
    """Seconds of the clock and of the processors within a context: the second say more on a machine that is busy."""

    def __enter__(self) -> Clock:
        self._started = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        clock, processors = self._started
        self.seconds = {"seconds": time.perf_counter() - clock, "processors": time.process_time() - processors}


class Peak:
    """The most private memory of this process within a context, looked at ten times a second."""

    def __enter__(self) -> Peak:
        self.bytes, self._ended = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.1):
            pages = Path("/proc/self/statm").read_text().split()
            self.bytes = max(self.bytes, (int(pages[1]) - int(pages[2])) * resource.getpagesize())


def whole(folder: Path, tokens: int, memory: int, dtype: str) -> dict[str, Any]:
    """The command itself, at the same layers."""
    layers = json.loads((folder / "base" / "config.json").read_text())["num_hidden_layers"]
    from itda.recipes.diff import diff

    give_back_freed()
    options = settings_of(folder, tokens, memory, dtype, (layers // 4, layers // 2, 3 * layers // 4))
    with Peak() as peak, Clock() as clock:
        found = diff(options)
    return {**clock.seconds, "rows": found.values["tokens"], "peak": peak.bytes, "weights_read": 0}


def settings_of(folder: Path, tokens: int, memory: int, dtype: Any, layers: tuple[int, ...]) -> Any:
    from itda import config as settings

    return settings.Diff(
        base=str(folder / "base"),
        changed=str(folder / "changed"),
        corpus=str(folder / TEXTS),
        layers=layers,
        order="corpus",
        tokens=tokens,
        window=WINDOW,
        batch_size=BATCH_SIZE,
        dtype=dtype,
        stream=True,
        model_memory=memory,
        noise=0,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=0.04, help="size of each model")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--memory", type=float, default=1.5, help="GB for weights and hidden states of all models")
    parser.add_argument("--dtype", default="bfloat16", help="float32 is faster on processors without bfloat16")
    parser.add_argument("--folder", type=Path, help="where the models are made and kept; default: a temporary one")
    parser.add_argument("--only", choices=("base", "changed", "pair", "diff"), help=argparse.SUPPRESS)
    parser.add_argument("--whole", action="store_true", help="run itda diff too")
    options = parser.parse_args()
    memory = int(options.memory * 1e9)
    if options.only is not None:
        run = whole if options.only == "diff" else lambda *given: read(options.only, *given)
        print(json.dumps(run(options.folder, options.tokens, memory, options.dtype)))
        return
    assert TINY.exists()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="itda-diff-cost-"))
    try:
        make(folder, options.gigabytes)
        report(folder, options)
    finally:
        if options.folder is None:
            shutil.rmtree(folder)


def report(folder: Path, options: argparse.Namespace) -> None:
    size = sum(file.stat().st_size for file in (folder / "base").glob("*.safetensors"))
    print(f"{size / 1e9:.2f} GB each, {options.tokens:,} tokens, {options.memory:g} GB for all models, {options.dtype}")
    if options.whole and options.tokens < LEAST_TOKENS:
        raise SystemExit(f"--whole is of at least {LEAST_TOKENS:,} tokens: give more with --tokens")
    found = {}
    for kind in ("base", "changed", "pair", *(["diff"] if options.whole else [])):
        command = [sys.executable, __file__, "--only", kind, "--folder", str(folder)]
        command += ["--tokens", str(options.tokens), "--memory", str(options.memory), "--dtype", options.dtype]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[kind] = json.loads(done.stdout.splitlines()[-1])
        one = found[kind]
        read_gb = f", {one['weights_read'] / 1e9:.2f} GB of weights read" if one["weights_read"] else ""
        times = f"{one['seconds']:7.1f} s, {one['processors']:7.1f} s of processors"
        print(f"{kind:8} {times}, peak {one['peak'] / 1e9:.2f} GB{read_gb}", flush=True)
    for kind in ("pair", "diff"):
        if kind in found:
            ratios = [found[kind][of] / (found["base"][of] + found["changed"][of]) for of in ("seconds", "processors")]
            print(f"{kind}: {ratios[0]:.2f} times both alone by the clock, {ratios[1]:.2f} by processors")


if __name__ == "__main__":
    main()
