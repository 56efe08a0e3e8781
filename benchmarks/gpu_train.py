"""Training on a GPU, for benchmarks/gpu.py: beside the textbook's batches on the same card.

Activations are those of `activations.structured` less their mean (centred), or with a mean direction added that makes
the mean cosine .8 (raw). The trainer goes through all of them in batches. The textbook takes batches of 2,048 in a
float32 loop and appends all misses of a batch, until it has as many atoms as the trainer found; then it goes on to the
end without appending. Its tokens per second are taken at both points. The atoms that the trainer finds on the CPU in
the first part of the stream are compared with the first atoms of the whole run, bit by bit.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from unittest.mock import patch

import torch
from activations import structured
from baselines import textbook_batches
from common import batches
from gpu_clock import Emit, forget_memory, log_lines, most_memory, seconds, wait_for
from gpu_tasks import CENTRED
from torch import Tensor

import itda
from itda.core.pursuit.fixed_order import full_precision_products
from itda.core.training import growth

OFFERED = 4096
"""Activations per call of the trainer: what a growth takes at once, at most."""
BATCH, LEAST_BATCHES = 2048, 8
"""Activations per batch of the textbook; of a short stream at least so many batches are made."""


def measure(task: dict[str, Any], device: torch.device, emit: Emit) -> None:
    """Ours, its bits, and the textbook's batches."""
    x = activations(task["data"], task["tokens"], task["d"])
    there = x.to(device)
    with growth_as_on_a_gpu(device):
        first, trainer = _trained(task, there)  # kernels are compiled as the dictionary grows
        tokens, atoms = task["tokens"], len(trainer)
        emit(first_s=first, atoms=atoms)
        forget_memory(device)
        with log_lines() as lines:
            spent, trainer = _trained(task, there)
    emit(seconds=spent, tokens_per_s=tokens / spent, peak=most_memory(device), log=lines)
    dictionary = trainer.finish()
    few = task["on_cpu"]
    _trained(task, x[:256], grow_on="cpu")  # compiles
    on_cpu, plain = _trained(task, x[:few], grow_on="cpu")
    emit(cpu_tokens_per_s=few / on_cpu, bits=compared(dictionary, plain.finish(), whole=few == tokens))
    emit(**textbook(task, there, atoms))


@contextmanager
def growth_as_on_a_gpu(device: torch.device) -> Iterator[None]:
    """Within this, a dictionary whose activations are on a CPU grows as it would on a GPU."""
    growths = growth.GROWTHS if device.type == "cuda" else {**growth.GROWTHS, "cpu": growth.GROWTHS["cuda"]}
    with patch.object(growth, "GROWTHS", growths):
        yield


def activations(data: str, tokens: int, d: int) -> Tensor:
    """Structured activations without a mean, or with one that makes the mean cosine .8."""
    x = _centred(tokens, d)
    if data == CENTRED:
        return x
    mean = torch.randn(d, generator=torch.Generator().manual_seed(1))
    return x + mean * (2 * x.square().sum(dim=1).mean().sqrt() / mean.norm())


@lru_cache(maxsize=1)
def _centred(tokens: int, d: int) -> Tensor:
    x = structured(tokens, d)
    return x.sub_(x.mean(dim=0))


def _trained(task: dict[str, Any], x: Tensor, **settings: Any) -> tuple[float, itda.Trainer]:
    """Seconds of a pass over some activations, and the trainer after it."""
    offered = list(batches(x, OFFERED))
    trainer = itda.Trainer(task["d"], k=task["k"], threshold=task["threshold"], pursuit=task["pursuit"], **settings)

    def all_of_it() -> None:
        for batch in offered:
            trainer.offer(batch)

    return seconds(all_of_it, x.device), trainer


def compared(found: itda.ITDA, on_cpu: itda.ITDA, *, whole: bool) -> str:
    """Say whether a dictionary begins with the atoms that the CPU finds, or is that very dictionary."""
    number = len(on_cpu)
    same = number == len(found) if whole else number <= len(found)
    same = same and torch.equal(found.atoms[:number], on_cpu.atoms)
    same = same and found.labels[:number].keys() == on_cpu.labels.keys()
    return f"every bit of {number:,} atoms" if same else "NOT TO THE BIT"


def textbook(task: dict[str, Any], x: Tensor, atoms: int) -> dict[str, Any]:
    """Its tokens per second until it has so many atoms, and over all activations."""
    found: dict[str, Any] = {}
    batch = min(BATCH, len(x) // LEAST_BATCHES)
    with full_precision_products(x.device):
        list(textbook_batches(x[: 2 * batch], task["k"], task["threshold"], batch))  # a first product takes longer
        wait_for(x.device)
        started = time.perf_counter()
        for seen, dictionary in textbook_batches(x, task["k"], task["threshold"], batch, atoms):
            if "textbook_size_tokens" not in found and (len(dictionary) >= atoms or seen == len(x)):
                wait_for(x.device)
                spent = time.perf_counter() - started
                found |= {"textbook_size_tokens": seen, "textbook_size_tokens_per_s": seen / spent}
                found["textbook_atoms"] = len(dictionary)
    wait_for(x.device)
    return found | {"textbook_tokens_per_s": len(x) / (time.perf_counter() - started)}
