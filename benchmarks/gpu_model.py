"""`itda train` on a model of GPT-2 small's shape, for benchmarks/gpu.py: a dictionary for each of its 12 layers.

Random weights, the bundled model's tokenizer, `python-docs` in windows of 128 tokens, 64 at a time. Before the run the
model alone goes through some of the tokens. What has been done so far is kept every few seconds: a run that is cut off
shows how far it came.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from gpu_clock import Emit, forget_memory, log_lines, most_memory, wait_for
from gpu_train import growth_as_on_a_gpu
from model_sizes import random_model

from itda import config as settings
from itda.core.site import Site
from itda.recipes.train import train_in_memory
from itda.sources.corpora.corpus import python_docs
from itda.sources.models.transformers import LanguageModel
from itda.sources.source import ModelSource

WINDOW = 128
EVERY_S = 3.0
"""Seconds between reports of progress."""


def measure(task: dict[str, Any], device: torch.device, emit: Emit) -> None:
    """Seconds of one pass for all layers, from the first text to the finished dictionaries."""
    model = random_model(task["shape"], str(device))
    emit(layers=model.layers, d_model=model.d_model)
    if task["alone"]:
        emit(model_tokens_per_s=_alone(model, task, device))
    forget_memory(device)
    started = time.perf_counter()

    @contextmanager
    def bar(name: str, _tokens: int) -> Iterator[_Progress]:
        shown = _Progress(name, started, emit)
        yield shown
        shown.tell()

    with log_lines() as lines, growth_as_on_a_gpu(device):
        run = train_in_memory(_options(task, model), bar, model=model, corpus=python_docs())
    wait_for(device)
    spent = time.perf_counter() - started
    found = {str(site): len(run[str(site)]) for site in run.sites}
    done = run.record["tokens"]
    emit(seconds=spent, tokens_done=done, atoms_found=list(found.values()), peak=most_memory(device), log=lines[:4])
    emit(tokens_per_s=done / spent)


class _Progress:
    """A progress bar that keeps what is done in the row of results."""

    def __init__(self, name: str, started: float, emit: Emit) -> None:
        self._name, self._started, self._emit = name, started, emit
        self._tokens, self._at, self._said = 0, "", 0.0

    def update(self, n: int, /) -> None:
        self._tokens += n
        if time.perf_counter() - self._said > EVERY_S:
            self.tell()

    def set_postfix_str(self, s: str, /) -> None:
        self._at = s

    def tell(self) -> None:
        self._said = time.perf_counter()
        if self._name == "train":
            self._emit(seconds=self._said - self._started, tokens_done=self._tokens, at=self._at)
        else:
            self._emit(seconds=self._said - self._started, at=f"{self._name}: {self._tokens:,} tokens")


def _options(task: dict[str, Any], model: LanguageModel) -> settings.Train:
    return settings.Train(
        model=model.name,
        corpus="python-docs",
        layers=tuple(range(model.layers)),
        k=task["k"],
        atoms=task["atoms"],
        tokens=task["tokens"],
        mode=task["mode"],
        window=WINDOW,
        batch_size=task["batch"],
        quiet=True,
    )


def _alone(model: LanguageModel, task: dict[str, Any], device: torch.device) -> float:
    """Tokens per second of the model alone, all layers read, text and labels included; after some to warm up."""
    corpus, sites = python_docs().shuffled(0).split("train"), [Site(layer) for layer in range(model.layers)]
    spent, seen = 0.0, 0
    for tokens in (task["alone"] // 4, task["alone"]):
        wait_for(device)
        started, seen = time.perf_counter(), 0
        for batches in ModelSource(model, corpus, sites, window=WINDOW, batch_size=task["batch"], tokens=tokens):
            seen += len(batches[sites[0]])
        wait_for(device)
        spent = time.perf_counter() - started
    return seen / spent
