"""What does it take to stream a model, beside having it in memory?

    python benchmarks/streaming.py [--quick] [--fresh] [--tokens 20000] [--repeats 3]

A Llama of random weights, 28 blocks, 3.2 GB in float32, is made in a temporary folder. `itda train` makes dictionaries
of some of its layers, streamed and with the model in memory, each in a process of its own, in turn, several times: to a
seventh of the depth over half of the tokens, and to the last block but one over all of them. Once activations are
read and thrown away, for the memory of streaming alone.

Before each run the files are put out of the page cache. Memory is what a process takes above what it had after a run on
the bundled model: with all libraries, compiled loops and threads.

    python benchmarks/streaming.py --shape 405B|small [--blocks 4] [--tokens 8192] [--folder BLOCKS] [--fresh]

Instead, blocks of Llama-3.1-405B's shape (d 16,384; 6.4 GB each), or of the same ratios at d 1,024, of random weights:
seconds a block for reading, model and growth, and the peaks of the card (limited to 24 GB) and of RAM, each beside what
`itda plan` says by rates measured here; and whether the dictionaries are those of the model in memory.
`benchmarks/large_blocks.py` has the rest. With the blocks on the disk already, name their folder.
"""

import argparse
import hashlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import large_blocks
import torch
from common import (
    arguments_for,
    child,
    number,
    paragraph,
    parse_bytes,
    resident,
    results_for,
    share,
    table,
)
from process import disk_reads, forget_files, watched
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from itda import config as settings
from itda.parsing import parse_layers
from itda.recipes import open_run, train
from itda.recipes.activation_source import open_source
from itda.recipes.plan import plan
from itda.resolving import resolved
from itda.sources.models.names import TINY
from itda.sources.streamed.model import StreamedModel
from itda.sources.streamed.model_shape import ModelShape
from itda.sources.streamed.planning import PROCESS_BYTES, Work, estimate

CONFIGS = Path(__file__).parent.parent / "tests" / "configs"
FULL = {"blocks": 28, "width": 1536, "inner": 4096, "heads": 12, "shard": "500MB"}
QUICK = {"blocks": 24, "width": 192, "inner": 512, "heads": 6, "shard": "5MB"}
K, THRESHOLD, WINDOW, BATCH = 8, 0.2, 128, 8


def make_model(folder: Path, shape: dict[str, Any]) -> None:
    """A checkpoint of random weights, in shards, with the tokenizer of the bundled model; on disk when this ends."""
    torch.manual_seed(0)
    tiny = LlamaConfig.from_pretrained(TINY)
    config = LlamaConfig(
        vocab_size=tiny.vocab_size,
        hidden_size=shape["width"],
        intermediate_size=shape["inner"],
        num_hidden_layers=shape["blocks"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["heads"],
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=tiny.bos_token_id,
        eos_token_id=tiny.eos_token_id,
        pad_token_id=tiny.pad_token_id,
        dtype="float32",
    )
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size=shape["shard"])
    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def options_for(task: dict[str, Any], out: Path, **given: Any) -> settings.Train:
    usual = {"k": K, "threshold": THRESHOLD, "window": WINDOW, "batch_size": BATCH, "quiet": True, "device": "cpu"}
    usual |= {"mode": "paper", "order": "corpus"}
    usual |= {
        "model": task["model"],
        "corpus": "python-docs",
        "tokens": task["tokens"],
        "layers": parse_layers(task["layers"]),
    }
    return settings.Train(out=out, stream=task["side"] != "memory", **{**usual, **given})


def run_child(task: dict[str, Any]) -> dict[str, Any]:
    model = Path(task["model"])
    loaded: list[StreamedModel] = []
    load = StreamedModel.load

    def kept(*args: Any, **options: Any) -> StreamedModel:
        loaded.append(load(*args, **options))
        return loaded[-1]

    StreamedModel.load = staticmethod(kept)
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        train(options_for(task, out / "warm", model="tiny", layers=(1, 2), tokens=3000))
        loaded.clear()
        after_imports = resident()
        dropped, read = forget_files(model), disk_reads()
        started = time.perf_counter()
        with watched() as memory:
            if task["side"] == "read":
                recorded = open_source(resolved(options_for(task, out / "none")))
                for _ in recorded.source(0):
                    pass
            else:
                train(options_for(task, out / "run"))
        seconds = time.perf_counter() - started
        now = disk_reads()
        read = now - read if now is not None and read is not None and dropped else None
        atoms, digest = {}, hashlib.sha256()
        if task["side"] != "read":
            run = open_run(out / "run")
            for site, folder in run.sites.items():
                atoms[str(site)] = len(run.dictionary(site))
                for name in ("atoms.safetensors", "labels.parquet"):
                    digest.update((folder / name).read_bytes())
    counted = sum(each.bytes for each in loaded[0].weights.resident) + loaded[0].weights.bytes_read if loaded else None
    return {
        "seconds": seconds,
        "memory": dict(memory),
        "after_imports": after_imports,
        "from_disk": read,
        "weights_read": counted,
        "atoms": atoms,
        "sha256": digest.hexdigest(),
    }


def predicted(model: str, layers: str, tokens: int, atoms: Sequence[int]) -> dict[str, Any]:
    """What `itda plan` says of a run on this machine's CPU, beside what libraries take."""
    made = plan(
        settings.Plan(model=model, layers=parse_layers(layers), tokens=tokens, window=WINDOW, batch_size=BATCH, k=K)
    )
    work = Work(made.sites, tokens, WINDOW, BATCH, max(atoms, default=0), K)
    found = estimate(made.shape, work, made.machines["laptop"])
    return {"memory": found.ram - PROCESS_BYTES, "bytes_read": found.bytes_read, "flights": found.flights}


def bound(shape: ModelShape, tokens: int) -> int:
    """Three blocks, what is outside the blocks, and the hidden states of the tokens in flight."""
    work = Work([], tokens, WINDOW, BATCH, 0, K)
    groups = -(-tokens // work.group)
    return 4 * (3 * max(shape.blocks) + shape.embeddings + groups * work.group * shape.d_model)


def measure(arguments: argparse.Namespace, results: Any) -> None:
    sizes = QUICK if arguments.quick else FULL
    depth = sizes["blocks"]
    deep, short = f"3,{depth // 2},{depth - 2}", f"1,{depth // 7}"
    wanted = [("read", short, 0, arguments.tokens)]
    for layers, tokens in ((short, arguments.tokens // 2), (deep, arguments.tokens)):
        for repeat in range(arguments.repeats):
            both = [("streamed", layers, repeat, tokens), ("memory", layers, repeat, tokens)]
            wanted += both[:: -1 if repeat % 2 else 1]
    keys = [
        {"side": side, "layers": layers, "repeat": repeat, "tokens": tokens, **sizes}
        for side, layers, repeat, tokens in wanted
    ]
    if all(results.find(key) for key in keys):
        return
    with tempfile.TemporaryDirectory() as temporary:
        model = str(Path(temporary) / "model")
        child(__file__, {"make": model, "shape": sizes})
        shape = ModelShape.of(model)
        disk = sum(path.stat().st_size for path in Path(model).glob("*.safetensors"))
        for key in keys:
            if results.find(key):
                continue
            task = {name: key[name] for name in ("side", "layers", "tokens")}
            found = child(__file__, {**task, "model": model})
            said = predicted(model, key["layers"], key["tokens"], list(found["atoms"].values()))
            about = {"parameters": shape.parameters, "disk": disk, "block": 4 * max(shape.blocks)}
            made = {"embeddings": 4 * shape.embeddings, "bound": bound(shape, key["tokens"]), "plan": said}
            results.add(key, {**found, **about, **made})
            print(key["side"], key["layers"], f"{found['seconds']:.0f} s", found["memory"], flush=True)


def report(rows: list[dict[str, Any]]) -> list[str]:
    by: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        by.setdefault((row["key"]["side"], row["key"]["layers"]), []).append(row)
    first, key = rows[0], rows[0]["key"]
    parts = [
        paragraph(
            f"A Llama of random weights: {key['blocks']} blocks of width {key['width']}, "
            f"{first['parameters'] / 1e6:,.0f} million parameters in float32, {first['disk'] / 1e9:.2f} GB on disk, "
            f"{first['block'] / 1e6:.0f} MB a block, {first['embeddings'] / 1e6:.0f} MB embeddings. "
            f"Tokens of python-docs, k = {K}, threshold {THRESHOLD}. MB are 10^6 bytes. Memory: the "
            "peak above what the process had after a run on the bundled model; own and mapped are the peaks of the two "
            "parts of it. Read: what /proc/self/io counts as read from disk, the page cache being emptied before."
        )
    ]
    lines = []
    for (side, layers), some in by.items():
        middle = {
            name: statistics.median(row["memory"].get(name, 0) for row in some)
            for name in ("peak", "RssAnon", "RssFile")
        }
        read, counted = some[0]["from_disk"], some[0]["weights_read"]
        lines.append(
            [
                {"read": "streamed, no dictionaries", "streamed": "streamed", "memory": "in memory"}[side],
                layers,
                f"{some[0]['key']['tokens']:,}",
                "/".join(f"{size:,}" for size in some[0]["atoms"].values()) or "-",
                *(f"{value / 1e6:,.0f}" for value in middle.values()),
                "-" if read is None else f"{read / 1e6:,.0f}",
                "-" if counted is None else f"{counted / 1e6:,.0f}",
                number(statistics.median(row["seconds"] for row in some)),
            ]
        )
    header = ["", "layers", "tokens", "atoms", "peak, MB", "own", "mapped", "read, MB", "of weights", "seconds"]
    parts.append(table(header, lines))
    checks = []
    for side, layers in by:
        some = by[side, layers][0]
        if side == "read":
            peak = some["memory"]["peak"]
            checks.append(
                ["peak / (3 blocks + embeddings + states)", layers, number(peak / some["bound"]), "at most 1"]
            )
        if side != "memory":
            peak = statistics.median(row["memory"]["peak"] for row in by[side, layers])
            kind = "no dictionaries" if side == "read" else "with dictionaries"
            said = f"plan / measured, memory, {kind}"
            checks.append([said, layers, number(some["plan"]["memory"] / peak), "0.75 to 1.25"])
            checks.append(
                [
                    f"plan / counted, weights read, {kind}",
                    layers,
                    number(some["plan"]["bytes_read"] / some["weights_read"]),
                    "0.75 to 1.25",
                ]
            )
            if some["from_disk"] is not None:
                ratio = some["from_disk"] / some["weights_read"]
                checks.append([f"read from disk / weights, {kind}", layers, number(ratio), "1: each byte once"])
        if side == "streamed" and ("memory", layers) in by:
            other = {row["key"]["repeat"]: row for row in by["memory", layers]}
            pairs = [(row, other[row["key"]["repeat"]]) for row in by[side, layers] if row["key"]["repeat"] in other]
            if pairs:
                taken = sorted(a["seconds"] / b["seconds"] for a, b in pairs)
                shown = f"{statistics.median(taken):.3f} ({taken[0]:.3f} to {taken[-1]:.3f}, {len(taken)})"
                checks.append(["seconds, streamed / in memory", layers, shown, "at most 1.3"])
                same = statistics.mean(a["sha256"] == b["sha256"] for a, b in pairs)
                checks.append(["dictionaries equal to the bit", layers, share(same), "100%"])
                less = statistics.median(b["memory"]["peak"] / a["memory"]["peak"] for a, b in pairs)
                checks.append(["peak, in memory / streamed", layers, number(less), "-"])
    parts.append(table(["", "layers", "measured", "aim"], checks))
    return parts


def plans() -> list[str]:
    """What `itda plan` says of three published models, by arithmetic alone."""
    titles = ["8B, GPU", "8B, laptop", "70B, GPU", "70B, laptop", "405B, GPU", "405B, laptop"]
    cells: dict[str, list[str]] = {}
    for size, layers in (("8B", "8,16,24"), ("70B", "20,40,60"), ("405B", "30,63,94")):
        made = plan(
            settings.Plan(model=str(CONFIGS / f"Llama-3.1-{size}.json"), layers=parse_layers(layers), assumed=True)
        )
        for name, found in made.training.items():
            checked, shape = made.evaluation[name], made.shape
            rows = {
                "checkpoint, GB": shape.bytes / 1e9,
                "one block, GB": shape.dtype.itemsize * max(shape.blocks) / 1e9,
                "two blocks and embeddings, GB": found.weights / 1e9,
                "hidden states in flight, GB": found.states / 1e9,
                "dictionaries, GB": found.dictionaries / 1e9,
                "activations kept for the end, GB": found.kept / 1e9,
                "peak of GPU memory, GB": found.gpu / 1e9 if found.gpu else None,
                "peak of RAM, GB": found.ram / 1e9,
                "read from disk, GB": found.bytes_read / 1e9,
                "reading, minutes, assumed": found.reading_s / 60,
                "model, minutes, assumed": found.computing_s / 60,
                "dictionaries, minutes, assumed": found.pursuit_s / 60,
                "evaluation: peak of GPU memory, GB": checked.gpu / 1e9 if checked.gpu else None,
                "evaluation: peak of RAM, GB": checked.ram / 1e9,
            }
            for title, value in rows.items():
                cells.setdefault(title, []).append(number(value))
            cells.setdefault("dictionaries are made on", []).append("GPU" if found.on_gpu else "CPU")
            cells.setdefault("times the blocks are read", []).append(f"{found.flights:,}")
            cells.setdefault("fits", []).append("yes" if found.fits else "no")
            cells.setdefault("evaluation fits", []).append("yes" if checked.fits else "no")
    about = (
        "By arithmetic, `itda plan` with its defaults: a million tokens, three layers at a quarter, half and three "
        "quarters of the depth, 16,000 atoms each; a GPU of 24 GiB in a machine of 64, and a laptop of 16 without one, "
        "which computes in float32. Assumed: 50 TFLOP/s on the GPU, 0.5 on a CPU, a tenth of that for dictionaries, "
        "3 GB/s from disk. Evaluation is on 50,000 tokens."
    )
    return [paragraph(about), table(["", *titles], [[title, *row] for title, row in cells.items()])]


def main() -> None:
    parser = arguments_for(__doc__, "streaming")
    parser.add_argument("--tokens", type=int, help="default: 20000, quick 4000; 405B 8192, small 2048")
    parser.add_argument("--repeats", type=int, help="pairs of runs; default: 3, quick 1")
    parser.add_argument("--shape", choices=list(large_blocks.SHAPES), help="blocks of this shape instead; see above")
    parser.add_argument("--blocks", type=int, help=f"of --shape; default: {large_blocks.BLOCKS}")
    parser.add_argument("--threshold", type=float, default=0.3, help="of --shape; default: %(default)s")
    parser.add_argument("--model-memory", type=parse_bytes, help="of --shape; default: half of the free RAM")
    parser.add_argument("--folder", type=Path, help="of --shape: where the blocks are, or are made and left")
    arguments = parser.parse_args()
    if arguments.child is not None:
        task = arguments.child
        if "large" in task:
            print(json.dumps(large_blocks.run_child(task)))
        elif "make" in task:
            make_model(Path(task["make"]), task["shape"])
            print("{}")
        else:
            print(json.dumps(run_child(task)))
        return
    if arguments.shape:
        results = results_for(arguments, "large_blocks")
        large_blocks.measure(arguments, results, __file__)
        print(results.write(large_blocks.report(results.rows)))
        return
    arguments.tokens = arguments.tokens or (4000 if arguments.quick else 20_000)
    arguments.repeats = arguments.repeats or (1 if arguments.quick else 3)
    results = results_for(arguments, "streaming")
    measure(arguments, results)
    print(results.write([*report(results.rows), *plans()]))


if __name__ == "__main__":
    main()
