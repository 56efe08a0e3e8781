"""Blocks of Llama-3.1-405B's shape, streamed on a card of 24 GB: what each part takes, beside what `itda plan` says.

`benchmarks/streaming.py --shape` calls this. Blocks of random weights are written one after the other. Then, each in a
process of its own: this machine is measured (`itda plan --measure`); dictionaries of two sites are made from the
streamed model, on a CUDA card limited to 24 GB; and from the model in memory, if it fits there, to compare every bit.
"""

import argparse
import gc
import hashlib
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import child, number, paragraph, table
from process import disk_reads, forget_files, watched
from safetensors.torch import save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from itda import Site, Trainer
from itda import config as settings
from itda.machine import free_memory
from itda.recipes.plan import GPU, LAPTOP, plan
from itda.recipes.rates_kept import Measured
from itda.sources.corpora.corpus import python_docs
from itda.sources.models.names import TINY
from itda.sources.models.transformers import LanguageModel
from itda.sources.source import ModelSource
from itda.sources.streamed.model import StreamedModel
from itda.sources.streamed.model_shape import ModelShape
from itda.sources.streamed.planning import PROCESS_BYTES, Estimate, Work, estimate
from itda.sources.streamed.weights import give_back_freed

SHAPES = {
    "405B": {"width": 16384, "heads": 128, "kv_heads": 8, "inner": 53248},
    "small": {"width": 1024, "heads": 16, "kv_heads": 1, "inner": 3328},
}
"""Llama-3.1-405B, and a model with the same ratios."""
USUAL = {"405B": {"tokens": 8192, "atoms": 2000}, "small": {"tokens": 2048, "atoms": 500}}
"""By shape, the defaults of --tokens, and the number of atoms at which growth is measured."""
BLOCKS, K, WINDOW, BATCH = 4, 40, 128, 8
CARD = 24 * 2**30
"""Bytes of the card that the streamed model may use."""
NOISE = 33_554_467
"""Random numbers that all weights are made of, a prime: no two rows of a matrix begin at the same one."""


def sites_of(blocks: int) -> list[Site]:
    """The block before the middle, and the last."""
    return [Site(layer) for layer in sorted({max(0, blocks // 2 - 1), blocks - 1})]


def make_blocks(folder: Path, shape: dict[str, int], blocks: int) -> None:
    """Write a bfloat16 Llama of random weights, a file for each block, with the tokenizer of the bundled model."""
    tiny = LlamaConfig.from_pretrained(TINY)
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=tiny.vocab_size,
        hidden_size=shape["width"],
        intermediate_size=shape["inner"],
        num_hidden_layers=blocks,
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"],
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=tiny.bos_token_id,
        eos_token_id=tiny.eos_token_id,
        pad_token_id=tiny.pad_token_id,
        dtype="bfloat16",
    )
    with torch.device("meta"):
        names = {name: value.shape for name, value in LlamaForCausalLM(config).state_dict().items()}
    noise = torch.randn(NOISE, generator=torch.Generator().manual_seed(0)).bfloat16()
    parts: dict[str, dict[str, torch.Size]] = {}
    for name, size in names.items():
        part = name.split(".")[2] if ".layers." in name else "outside"
        parts.setdefault(part, {})[name] = size
    placed, total = {}, 0
    for part, inside in parts.items():
        file = f"model-{part}.safetensors"
        tensors = {name: random_weights(size, noise, seed) for seed, (name, size) in enumerate(inside.items())}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        with (folder / file).open("rb") as written:
            os.fsync(written.fileno())
        placed |= dict.fromkeys(inside, file)
        total += sum(2 * value.numel() for value in tensors.values())
        del tensors
    index = {"metadata": {"total_size": total}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
    config.save_pretrained(folder)  # last: a folder that has it is whole


def random_weights(size: torch.Size, noise: torch.Tensor, seed: int) -> torch.Tensor:
    """Random numbers whose products keep the length of what they multiply; ones for a norm."""
    if len(size) == 1:
        return torch.ones(size, dtype=torch.bfloat16)
    flat, at = torch.empty(size.numel(), dtype=torch.bfloat16), 0
    start = 1_000_003 * seed % len(noise)
    while at < len(flat):
        count = min(len(flat) - at, len(noise) - start)
        torch.mul(noise[start : start + count], size[1] ** -0.5, out=flat[at : at + count])
        at, start = at + count, 0
    return flat.view(size)


def run_child(task: dict[str, Any]) -> dict[str, Any]:
    """One part of the benchmark, in a process of its own."""
    folder = Path(task["model"])
    if task["part"] == "make":
        started = time.perf_counter()
        make_blocks(folder, SHAPES[task["shape"]], task["blocks"])
        return {"seconds": time.perf_counter() - started}
    if task["part"] == "measure":
        with tempfile.TemporaryDirectory() as cache:  # not among the user's
            os.environ["XDG_CACHE_HOME"] = cache
            made = plan(plan_options(folder, task["blocks"], task["tokens"], task["atoms"], measure=True))
        assert made.measured is not None
        return made.measured.values()
    give_back_freed()
    return make_dictionaries(folder, task)


def plan_options(folder: Path, blocks: int, tokens: int, atoms: int, **given: Any) -> settings.Plan:
    usual = {"window": WINDOW, "batch_size": BATCH, "k": K, "dtype": "bfloat16", "refine": 0, "gpu_memory": CARD}
    layers = tuple(site.layer for site in sites_of(blocks))
    return settings.Plan(model=str(folder), layers=layers, tokens=tokens, atoms=atoms, **{**usual, **given})


def make_dictionaries(folder: Path, task: dict[str, Any]) -> dict[str, Any]:
    """Dictionaries of some sites, and the seconds of each part, in the streamed model or in the one in memory."""
    cuda, sites = torch.cuda.is_available(), sites_of(task["blocks"])
    device = torch.device("cuda" if cuda else "cpu")
    if cuda and task["part"] == "streamed":
        torch.cuda.set_per_process_memory_fraction(min(1.0, CARD / torch.cuda.mem_get_info()[1]))
    warm = trainers_for(sites[:1], 192, task["threshold"])
    grow(
        ModelSource(LanguageModel.load("tiny", device=device.type), docs(), sites[:1], window=WINDOW, tokens=2000), warm
    )
    del warm
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    dropped, read = forget_files(folder), disk_reads()
    started = time.perf_counter()
    with watched() as memory:
        model: Any
        if task["part"] == "streamed":
            model = StreamedModel.load(str(folder), device=device.type, dtype="bfloat16", budget=task["budget"])
        else:
            model = LanguageModel.load(str(folder), device=device.type, dtype="bfloat16")
        loaded = time.perf_counter() - started
        source = ModelSource(model, docs(), sites, window=WINDOW, batch_size=BATCH, tokens=task["tokens"])
        trainers = trainers_for(sites, model.d_model, task["threshold"])
        growing = grow(source, trainers)
        made = {site: trainer.finish() for site, trainer in trainers.items()}
    seconds = time.perf_counter() - started
    now, digest = disk_reads(), hashlib.sha256()
    for dictionary in made.values():
        digest.update(dictionary.atoms.cpu().contiguous().numpy().tobytes())
        digest.update(repr([label.key for label in dictionary.labels]).encode())
    streamed = isinstance(model, StreamedModel)
    return {
        "seconds": seconds,
        "loading": loaded,
        "blocks": [vars(each) for each in model.times] if streamed else [],
        "growth": {str(site): spent for site, spent in growing.items()},
        "atoms": {str(site): len(dictionary) for site, dictionary in made.items()},
        "sha256": digest.hexdigest(),
        "memory": dict(memory),
        "card": torch.cuda.max_memory_reserved() if cuda else 0,
        "from_disk": now - read if dropped and now is not None and read is not None else None,
        "weights_read": model.weights.bytes_read if streamed else None,
        "gpu": torch.cuda.get_device_name() if cuda else None,
    }


def docs() -> Any:
    return python_docs().split("train")


def trainers_for(sites: list[Site], width: int, threshold: float) -> dict[Site, Trainer]:
    return {site: Trainer(width, k=K, threshold=threshold, pursuit="mp_refit") for site in sites}


def grow(source: ModelSource, trainers: dict[Site, Trainer]) -> dict[Site, float]:
    """Offer all activations to the trainers; return the seconds that each took."""
    taken = dict.fromkeys(trainers, 0.0)
    for batches in source:
        for site, batch in batches.items():
            started = time.perf_counter()
            trainers[site].offer(batch)
            if batch.activations.device.type == "cuda":
                torch.cuda.synchronize()
            taken[site] += time.perf_counter() - started
    return taken


def measure(arguments: argparse.Namespace, results: Any, script: str) -> None:
    """Run what has no row yet; every row is saved as it comes."""
    usual = USUAL[arguments.shape]
    blocks, tokens = arguments.blocks or BLOCKS, arguments.tokens or usual["tokens"]
    about = {"shape": arguments.shape, "blocks": blocks, "tokens": tokens, "threshold": arguments.threshold}
    keys = [{"part": part, **about} for part in ("measure", "streamed", "memory")]
    if all(results.find(key) for key in keys):
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.folder or Path(temporary) / "model")
        task = {"model": str(folder), "large": True, "atoms": usual["atoms"], **about}
        made_here = not (folder / "config.json").exists()
        if made_here:
            check_room(folder, SHAPES[arguments.shape], blocks)
            folder.mkdir(parents=True, exist_ok=True)
            took = child(script, {**task, "part": "make"})["seconds"]
            print(f"{blocks} blocks written in {took:.0f} s", flush=True)
        shape = ModelShape.of(str(folder))
        task["budget"] = arguments.model_memory or free_memory() // 2
        for key in keys:
            if results.find(key):
                continue
            if key["part"] == "memory" and not fits_in_memory(shape):
                results.add(key, {"skipped": f"{shape.bytes / 1e9:.1f} GB do not fit into memory"})
                continue
            found = child(script, {**task, "part": key["part"]})
            results.add(key, {**found, "block": max(shape.blocks) * 2, "said": predicted(folder, key, found, results)})
            print(key["part"], f"{found['seconds']:.0f} s", flush=True)


def check_room(folder: Path, shape: dict[str, int], blocks: int) -> None:
    width, heads = shape["width"], shape["heads"]
    one = 2 * width * (2 * width + 2 * width * shape["kv_heads"] // heads + 3 * shape["inner"])
    there = folder.parent
    while not there.exists():
        there = there.parent
    needed, free = blocks * one, shutil.disk_usage(there).free
    if needed + 2**31 > free:
        fit = max(0, free - 2**31) // one
        raise SystemExit(f"{blocks} blocks take {needed / 1e9:.0f} GB, {there} has {free / 1e9:.0f}: --blocks {fit}")


def fits_in_memory(shape: ModelShape) -> bool:
    """True if the whole model has room: on the card if there is one, else in RAM."""
    if torch.cuda.is_available():
        return shape.bytes < 0.8 * torch.cuda.mem_get_info()[0] and shape.bytes < 0.8 * free_memory()
    return shape.bytes < 0.6 * free_memory()


def predicted(folder: Path, key: dict[str, Any], found: dict[str, Any], results: Any) -> dict[str, Any] | None:
    """What `itda plan` says of a streamed run, by the rates that were measured and the atoms that were found."""
    measured = results.find({**key, "part": "measure"})
    if key["part"] != "streamed" or measured is None:
        return None
    atoms = list(found["atoms"].values())
    rates = Measured.of({name: measured[name] for name in Measured.__dataclass_fields__})
    made = plan(plan_options(folder, key["blocks"], key["tokens"], max(atoms)), rates=rates)
    name = GPU if found["gpu"] is not None else LAPTOP
    machine = made.machines[name]
    work = Work(made.sites, key["tokens"], WINDOW, BATCH, max(atoms), K)
    said: Estimate = estimate(made.shape, work, machine)
    costs = machine.rates.on_gpu if said.on_gpu else machine.rates.on_cpu
    assert costs is not None
    return {
        "read": max(made.shape.blocks) * 2 / machine.rates.disk,
        "ran": (said.computing_s + said.moving_s) / key["blocks"],
        "growth": {site: costs.training(key["tokens"], count) for site, count in found["atoms"].items()},
        "card": said.gpu,
        "memory": said.ram - PROCESS_BYTES,
        "bytes_read": said.bytes_read - 2 * made.shape.embeddings,
        "on_gpu": said.on_gpu,
    }


def report(rows: list[dict[str, Any]]) -> list[str]:
    """A paragraph and a table for each shape and size."""
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        if "part" in row["key"]:
            about = {name: value for name, value in row["key"].items() if name != "part"}
            groups.setdefault(json.dumps(about), {})[row["key"]["part"]] = row
    return [part for found in groups.values() if "streamed" in found for part in report_of(found)]


def report_of(found: dict[str, dict[str, Any]]) -> list[str]:
    row, said = found["streamed"], found["streamed"]["said"]
    key, shape, times = row["key"], SHAPES[row["key"]["shape"]], row["blocks"]
    where = f"on {row['gpu']}, limited to {CARD >> 30} GiB" if row["gpu"] else "on the CPU, without a GPU"
    about = paragraph(
        f"{key['blocks']} blocks of shape {key['shape']}: width {shape['width']:,}, {shape['heads']} heads, "
        f"{shape['kv_heads']} of keys and values, MLP {shape['inner']:,}; random weights in bfloat16, "
        f"{row['block'] / 1e9:.3g} GB a block; {key['tokens']:,} tokens, k = {K}, threshold {key['threshold']}, "
        f"{' and '.join(f'{count:,}' for count in row['atoms'].values())} atoms; {where}; dictionaries grew on the "
        f"{'GPU' if said['on_gpu'] else 'CPU'}; page cache emptied before."
    )
    mean = {name: sum(each[name] for each in times) / len(times) for name in ("read", "waited", "ran")}
    growth = sum(row["growth"].values())
    planned = max(said["read"], said["ran"]) * len(times) + sum(said["growth"].values())
    lines = [
        ["reading a block, s", mean["read"], said["read"]],
        ["  of which nothing else was done, s", mean["waited"], None],
        ["model, s a block", mean["ran"], said["ran"]],
        *([f"growth, {site}, s", spent, said["growth"][site]] for site, spent in row["growth"].items()),
        ["all blocks and growth, s", sum(each["waited"] + each["ran"] for each in times) + growth, planned],
        ["loading what is outside the blocks, s", row["loading"], None],
        ["weights of blocks read, GB", row["weights_read"] / 1e9, said["bytes_read"] / 1e9],
        ["peak of card memory, GB", row["card"] / 1e9 or None, said["card"] / 1e9 or None],
        ["peak of RAM, above libraries, GB", row["memory"]["peak"] / 1e9, said["memory"] / 1e9],
        ["  pages of mapped files at their peak, GB", row["memory"].get("RssFile", 0) / 1e9 or None, None],
        ["  all else at its peak, GB", row["memory"].get("RssAnon", 0) / 1e9 or None, None],
    ]
    cells = [[name, number(a), number(b), number(b / a) if a and b else "-"] for name, a, b in lines]
    return [about, table(["", "measured", "itda plan", "plan / measured"], cells), paragraph(equality(found))]


def equality(found: dict[str, dict[str, Any]]) -> str:
    memory = found.get("memory")
    if memory is None or "skipped" in memory:
        return f"Not compared with the model in memory: {memory['skipped'] if memory else 'it has not run'}."
    same = memory["sha256"] == found["streamed"]["sha256"]
    peak = number(memory["memory"]["peak"] / 1e9)
    took = " s, streamed ".join(number(found[side]["seconds"]) for side in ("memory", "streamed"))
    return (
        f"The same model in memory took {took} s; "
        f"{peak} GB of RAM; its dictionaries and labels are {'equal to the bit' if same else 'NOT EQUAL'}."
    )
