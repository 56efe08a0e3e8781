"""Trainers of many sites at once, each in a Ray worker of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from itda.core.batch import ActivationBatch, Site
from itda.core.dictionary import ITDA
from itda.core.massive import massive
from itda.core.training.base import DictionaryTrainer, ignored
from itda.core.training.state import TrainingState
from itda.errors import ModelError
from itda.workers.cluster import PATIENCE_S, Closing, LostError, Packed, RayCluster, no_room


class RayTrainers(Closing):
    """One trainer per site, each in a Ray worker's process of its own.

    Each sees its site's batches in the order they are offered in, so the dictionaries are those of one process. At
    most `ahead` batches per site wait; `offer` blocks then. `trainers` must be new ones; `restore` brings them to a
    state of an earlier run. A process that dies is not replaced: what it held is gone, and the next call raises
    `ModelError`; resume from the last checkpoint. By default no CPU is set aside for them, since a model's workers may
    have taken all. Raises `SettingError` if they cannot all start in `patience` seconds.
    """

    def __init__(
        self,
        cluster: RayCluster,
        trainers: Mapping[Site, DictionaryTrainer],
        *,
        cpus: int = 0,
        threads: int | None = None,
        ahead: int = 4,
        patience: float = PATIENCE_S,
    ) -> None:
        self._cluster, self._ahead = cluster, ahead
        needs = {"CPU": cpus, "GPU": 0}
        threads = torch.get_num_threads() if threads is None else threads
        self._actors = {
            site: cluster.actor(_TrainerActor, needs, trainer, threads) for site, trainer in trainers.items()
        }
        self._offered: dict[Site, deque[Any]] = {site: deque() for site in trainers}
        started = [actor.ready.remote() for actor in self._actors.values()]
        if len(cluster.ray.wait(started, num_returns=len(started), timeout=patience)[0]) < len(started):
            self.close()
            raise no_room(cluster, needs, patience, len(started))

    @property
    def sites(self) -> list[Site]:
        """The sites that dictionaries are made for."""
        return list(self._actors)

    def offer(self, batches: Mapping[Site, ActivationBatch]) -> None:
        """Send each site's batch to its trainer.

        Raises at this call or a later one, `finish` at the latest, what the trainer raises, as `ActivationError`.
        """
        labels: dict[int, Any] = {}
        for site, batch in batches.items():
            if id(batch.labels) not in labels:  # sites share them, and they weigh more than the activations
                labels[id(batch.labels)] = self._cluster.ray.put(batch.labels)
            waiting = self._offered[site]
            while len(waiting) >= self._ahead:
                self._get(site, waiting.popleft())
            packed = Packed.of(batch.activations)
            waiting.append(self._actors[site].offer.remote(packed, labels[id(batch.labels)]))

    def atom_counts(self) -> dict[Site, int]:
        """Return the number of atoms after all that was offered was read, of sites where atoms are found on the way."""
        sizes = self._all("size", dict.fromkeys(self._actors, ()))
        return {site: size for site, size in sizes.items() if size is not None}

    def errors(self, activations: Mapping[Site, Tensor]) -> dict[Site, Float64[Tensor, " batch"]]:
        """Return ||z - z_hat||^2 / ||z||^2 of activations [batch, d_model] of some sites, by their dictionaries so far.

        Massive ones are left out, and sites where no atoms are found on the way.
        """
        errors = self._all("error", {site: (Packed.of(x),) for site, x in activations.items()})
        return {site: error for site, error in errors.items() if error is not None}

    def training_states(self) -> dict[Site, TrainingState]:
        """Return each trainer's state after all that was offered: see `Trainer.state`."""
        return self._all("state", dict.fromkeys(self._actors, ()))

    def restore(self, training_states: Mapping[Site, TrainingState]) -> None:
        """Go on from the states that `training_states` returned."""
        self._all("restore", {site: (state,) for site, state in training_states.items()})

    def finish(
        self, parts: Mapping[Site, Mapping[str, Any]] | None = None, progress: Callable[[int], object] = ignored
    ) -> dict[Site, ITDA]:
        """Refine the dictionaries, all sites at once, and return them; `parts` of a site go to `Trainer.finish`.

        `progress` is told nothing: refinement takes place in other processes.
        """
        del progress
        return self._all("finish", {site: ((parts or {}).get(site, {}),) for site in self._actors})

    def found(self) -> dict[Site, int]:
        """Return, after `finish`, how many atoms each site had before the crop to a number of atoms."""
        found = self._all("found", dict.fromkeys(self._actors, ()))
        return {site: number for site, number in found.items() if number is not None}

    def gram_rows(self) -> dict[Site, Any]:
        """Return how many rows of its Gram matrix each site has memory for, or `all`."""
        rows = self._all("gram_rows", dict.fromkeys(self._actors, ()))
        return {site: number for site, number in rows.items() if number is not None}

    def close(self) -> None:
        """End the trainers' processes."""
        for actor in self._actors.values():
            self._cluster.kill(actor)

    def _all(self, method: str, arguments: Mapping[Site, tuple[Any, ...]]) -> dict[Site, Any]:
        refs = {site: getattr(self._actors[site], method).remote(*given) for site, given in arguments.items()}
        for site, waiting in self._offered.items():
            while waiting:
                self._get(site, waiting.popleft())
        return {site: self._get(site, ref) for site, ref in refs.items()}

    def _get(self, site: Site, ref: Any) -> Any:
        try:
            return self._cluster.get(ref)
        except LostError as error:
            raise ModelError(
                f"the Ray worker that trains {site} died ({error}): resume the run from its last checkpoint"
            ) from error


class _TrainerActor:
    """One trainer and the calls for it, in a process of its own."""

    def __init__(self, trainer: DictionaryTrainer, threads: int) -> None:
        torch.set_num_threads(threads)
        self._trainer = trainer

    def ready(self) -> None:
        pass

    def offer(self, activations: Packed, labels: Any) -> None:
        self._trainer.offer(ActivationBatch(activations.tensor(), labels))

    def size(self) -> int | None:
        return len(self._trainer) if self._trainer.grows else None

    def found(self) -> int | None:
        return self._trainer.found

    def gram_rows(self) -> Any:
        return self._trainer.gram_rows

    def error(self, activations: Packed) -> Tensor | None:
        if not self._trainer.grows:
            return None
        x = activations.tensor()
        return self._trainer.error(x[~massive(x, self._trainer.massive_norm)])

    def state(self) -> TrainingState:
        return self._trainer.state()

    def restore(self, state: TrainingState) -> None:
        self._trainer.restore(state)

    def finish(self, parts: Mapping[str, Any]) -> ITDA:
        return self._trainer.finish(**parts)
