"""A model spread over the workers of a Ray cluster.

A group of windows is the unit of work, so it does not matter which worker runs it: the stream is that of one process,
to the bit, on machines of one kind. `itda` must be installed on every machine of the cluster, in one version.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from itda.core.batch import Site
from itda.errors import ModelError, SettingError
from itda.sources.models.base import ActivationModel
from itda.sources.tokenizing.special import Bos
from itda.sources.tokenizing.windows import Group, Windower
from itda.workers.cluster import PATIENCE_S, Closing, LostError, Packed, RayCluster, no_room

Loader = Callable[[], ActivationModel]
"""Loads the model, in the process that calls it."""

TASKS = 2
"""Number of tasks that a worker has at once: one that it runs, and the next."""

FLIGHT = 4
"""Number of tasks per worker in a flight: workers are idle only while its last ones finish."""

WATCH_S = 1.0
"""Seconds between two calls of `watch`, at most."""

TRIES = 3
"""Number of workers that may die over the same task, or in a row before they have loaded the model."""


@dataclass(frozen=True)
class _Card:
    """The properties of the model that a worker has loaded."""

    name: str
    layers: int
    d_model: int
    revision: str | None
    tokenizer_hash: str | None
    dtype: str
    device: str


class RayModel(Closing, ActivationModel):
    """A model of which each of several Ray workers has a copy; groups go to whichever is free.

    `loader` makes the model in a worker; it is pickled, so it may be `functools.partial(LanguageModel.load, "tiny")`.
    Every worker is given `cpus` CPUs, `gpus` GPUs (default: 1 where the cluster has any) and `threads` threads, by
    default as many as torch has here: their number can change the last bits of an activation. This process loads no
    weights. Activations arrive on the CPU.

    A worker that dies is replaced, and what it had goes to others: nothing is lost or doubled. Work starts with the
    first worker that is ready; others join when they are. Raises `SettingError` if none can start in `patience`
    seconds, at once if the cluster was started here and is too small, and `ModelError` as the loader does.

    It is no `SpliceableModel`: what `spliced` would call lies in this process, and logits are too large to send.

    >>> from functools import partial
    >>> from itda.sources.models.transformers import LanguageModel
    >>> from itda.workers.cluster import RayCluster
    >>> loader = partial(LanguageModel.load, "tiny")
    >>> with RayCluster.connect(cpus=2) as cluster, RayModel(cluster, loader, workers=2) as model:  # doctest: +SKIP
    ...     model.layers
    6
    """

    def __init__(
        self,
        cluster: RayCluster,
        loader: Loader,
        *,
        workers: int = 1,
        cpus: int = 1,
        gpus: int | None = None,
        threads: int | None = None,
        patience: float = PATIENCE_S,
    ) -> None:
        if workers < 1:
            raise SettingError(f"{workers} Ray workers: there must be at least 1")
        if gpus is None:
            gpus = 1 if cluster.ray.cluster_resources().get("GPU", 0) else 0
        self._cluster, self._loader, self._patience = cluster, loader, patience
        self._needs = {"CPU": cpus, "GPU": gpus}
        self._threads = torch.get_num_threads() if threads is None else threads
        self._flights: dict[int, int] = {}
        self._deaths = 0
        """Number of workers that died in a row before they had loaded the model."""
        self._workers = [_Worker(self, i) for i in range(workers)]
        try:
            self._card: _Card = cluster.get(self._first_ready().card)
        except BaseException:
            self.close()
            raise
        self.name = self._card.name

    @property
    def layers(self) -> int:
        """Number of blocks."""
        return self._card.layers

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self._card.d_model

    @property
    def revision(self) -> str | None:
        """The commit of a model from the Hub."""
        return self._card.revision

    @property
    def tokenizer_hash(self) -> str | None:
        """SHA-256 of the tokenizer's definition: models with the same one cut text into the same tokens."""
        return self._card.tokenizer_hash

    @property
    def dtype(self) -> str:
        """The dtype of its weights: float32, bfloat16, ..."""
        return self._card.dtype

    @property
    def device(self) -> str:
        """The device that a worker runs it on: cpu, cuda:0, ..."""
        return self._card.device

    @property
    def processes(self) -> list[int]:
        """The id of each started worker's process, on the machine that it runs on."""
        return [self._cluster.get(worker.started) for worker in self._workers if worker.has_started]

    def windower(self, window: int, bos: Bos = "auto") -> Windower:
        """Return what cuts documents into windows for this model. Raises `SettingError` for more tokens than it reads.

        `bos` says which token each begins with: `itda.sources.tokenizing.special`.
        """
        return self._ask("windower", window, bos)

    def check(self, sites: Sequence[Site]) -> None:
        """Raises `ModelError` for a site that the model does not have."""
        self._ask("check", list(sites))

    def flight(self, tokens: int) -> int:
        """Return how many groups make `FLIGHT` tasks for each worker; a task is a flight of the worker's own model."""
        return self._inner_flight(tokens) * len(self._workers) * FLIGHT

    def harvest(
        self, groups: Sequence[Group], sites: Sequence[Site]
    ) -> Iterator[tuple[int, dict[Site, Float[Tensor, "activations d_model"]]]]:
        """Yield the activations of each group, in the order in which one model would: see `ActivationModel`.

        The results of at most `TASKS` tasks per worker are held at once. Raises what a worker's model raises, and
        `ModelError` if several workers die over the same groups.
        """
        if not groups:
            return
        size = min(self._inner_flight(groups[0].input_ids.numel()), math.ceil(len(groups) / len(self._workers)))
        starts = range(0, len(groups), size)
        waiting, tries = deque(range(len(starts))), [0] * len(starts)
        running: dict[Any, tuple[_Worker, int]] = {}
        done: dict[int, list[tuple[int, dict[Site, Packed]]]] = {}
        turn = 0
        while turn < len(starts):
            if turn in done:
                for place, found in done.pop(turn):
                    yield starts[turn] + place, {site: packed.tensor() for site, packed in found.items()}
                turn += 1
                continue
            if not running:
                self._first_ready()
            for worker in self._ready():
                busy = sum(owner is worker for owner, _ in running.values())
                # No further ahead of the next result: the others would pile up behind one slow task.
                while waiting and waiting[0] < turn + TASKS * len(self._workers) and busy < TASKS:
                    task = waiting.popleft()
                    ref = worker.harvest(groups[starts[task] : starts[task] + size], sites)
                    running[ref] = worker, task
                    busy += 1
            joining = [worker.card for worker in self._workers if not worker.is_ready]
            self.watch(f"{sum(worker.is_ready for worker in self._workers)}/{len(self._workers)} workers")
            for ref in self._cluster.wait([*running, *joining], WATCH_S):
                if ref not in running:
                    continue  # a worker that has loaded its model: `_ready` takes note of it
                worker, task = running[ref]
                try:
                    done[task] = self._cluster.get(ref)
                    del running[ref]
                except LostError as error:
                    tries[task] += 1
                    if tries[task] == TRIES:
                        raise _too_many_deaths(error) from error
                    lost = [other for other, (owner, _) in running.items() if owner is worker]
                    waiting = deque(sorted([*waiting, *(running.pop(other)[1] for other in lost)]))
                    self._replace(worker)

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            self._cluster.kill(worker.actor)

    def _inner_flight(self, tokens: int) -> int:
        if tokens not in self._flights:
            self._flights[tokens] = self._ask("flight", tokens)
        return self._flights[tokens]

    def _ask(self, method: str, *arguments: object) -> Any:
        """Ask a worker for an answer, and another one if it dies."""
        for _ in range(TRIES):
            worker = self._first_ready()
            try:
                return self._cluster.get(getattr(worker.actor, method).remote(*arguments))
            except LostError:
                self._replace(worker)
        raise ModelError(f"{TRIES} Ray workers died one after the other: look at the machines' memory and Ray's logs")

    def _ready(self) -> list[_Worker]:
        """Return the workers that have loaded their model. Raises the error of a worker that could not."""
        for worker in self._workers:
            if not worker.is_ready and self._cluster.wait([worker.card], 0.0):
                try:
                    self._cluster.get(worker.card)
                    worker.is_ready, self._deaths = True, 0
                except LostError as error:
                    self._deaths += 1
                    if self._deaths == TRIES * len(self._workers):
                        raise ModelError(
                            f"{self._deaths} Ray workers died while they loaded the model ({error}): "
                            "use machines with more memory"
                        ) from error
                    self._replace(worker)
        return [worker for worker in self._workers if worker.is_ready]

    def _first_ready(self) -> _Worker:
        """Wait for a worker that has loaded its model, and return it. Raises `SettingError` if none can start."""
        until = time.monotonic() + self._patience
        while not (ready := self._ready()):
            if self._cluster.wait([worker.card for worker in self._workers], 0.2):
                continue
            if not any(worker.has_started for worker in self._workers):
                hopeless = self._cluster.started and not self._cluster.fits(self._needs)
                if hopeless or time.monotonic() > until:
                    raise no_room(self._cluster, self._needs, 0 if hopeless else self._patience)
        return ready[0]

    def _replace(self, worker: _Worker) -> None:
        # Two harvests may find the same worker dead.
        if self._workers[worker.place] is worker:
            self._cluster.kill(worker.actor)
            self._workers[worker.place] = _Worker(self, worker.place)


class _Worker:
    """A handle on a worker, in this process."""

    def __init__(self, model: RayModel, place: int) -> None:
        self.place = place
        self._cluster = model._cluster
        self.actor = self._cluster.actor(_ModelActor, model._needs, model._loader, model._threads)
        self.started = self.actor.process.remote()
        self.card = self.actor.card.remote()
        self.is_ready = False

    @property
    def has_started(self) -> bool:
        """True if its process runs, whether or not it has loaded the model."""
        return bool(self._cluster.wait([self.started], 0.0))

    def harvest(self, groups: Sequence[Group], sites: Sequence[Site]) -> Any:
        """Send the worker a task; return Ray's reference to the result."""
        return self.actor.harvest.remote([_PackedGroup.of(group) for group in groups], list(sites))


def _too_many_deaths(error: LostError) -> ModelError:
    return ModelError(
        f"{TRIES} Ray workers died over the same groups ({error}): "
        "use a smaller --batch-size, or machines with more memory"
    )


class _ModelActor:
    """The Ray actor in a worker's process, which holds one model."""

    def __init__(self, loader: Loader, threads: int) -> None:
        torch.set_num_threads(threads)
        self._loader = loader
        self._loaded: ActivationModel | None = None

    @property
    def _model(self) -> ActivationModel:
        # Loaded here, not as the actor is made: Ray would hide an error there, and a user is to see it.
        if self._loaded is None:
            self._loaded = self._loader()
        return self._loaded

    def process(self) -> int:
        return os.getpid()

    def card(self) -> _Card:
        m = self._model
        return _Card(m.name, m.layers, m.d_model, m.revision, m.tokenizer_hash, m.dtype, m.device)

    def windower(self, window: int, bos: Bos) -> Windower:
        return self._model.windower(window, bos)

    def check(self, sites: list[Site]) -> None:
        self._model.check(sites)

    def flight(self, tokens: int) -> int:
        return self._model.flight(tokens)

    def harvest(self, groups: list[_PackedGroup], sites: list[Site]) -> list[tuple[int, dict[Site, Packed]]]:
        found = self._model.harvest([group.group() for group in groups], sites)
        return [(place, {site: Packed.of(x) for site, x in parts.items()}) for place, parts in found]


@dataclass(frozen=True, eq=False)
class _PackedGroup:
    """A group of windows as NumPy arrays, without its text, which a model has no use for."""

    input_ids: np.ndarray
    attention_mask: np.ndarray
    is_activation: np.ndarray
    prefix: int

    @staticmethod
    def of(group: Group) -> _PackedGroup:
        ids, mask, wanted = group.input_ids, group.attention_mask, group.is_activation
        return _PackedGroup(ids.cpu().numpy(), mask.cpu().numpy(), wanted.cpu().numpy(), group.prefix)

    def group(self) -> Group:
        # Copies: Ray's arrays are read-only, and torch has no read-only tensors.
        ids, mask, wanted = (
            torch.from_numpy(x.copy()) for x in (self.input_ids, self.attention_mask, self.is_activation)
        )
        return Group((), ids, mask, wanted, self.prefix)
