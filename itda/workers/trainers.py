"""The making of dictionaries for many sites at once, each in a Ray worker of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from itda.core.batch import ActivationBatch, Site
from itda.core.dictionary import ITDA
from itda.core.massive import massive
from itda.core.training.trainer import Builder
from itda.errors import ModelError
from itda.workers.cluster import PATIENCE_S, LostError, Packed, RayCluster, no_room


class RayTrainers:
    """Builders of dictionaries, one per site, each of which has a Ray worker's process of its own.

    Each sees its site's batches in the order they are offered in, so the dictionaries are those of one process. At
    most `ahead` batches per site wait; `offer` blocks then. `builders` must be new ones; `restore` brings them to a
    state of an earlier run. A process that dies is not replaced: what it held is gone, and the next call raises
    `ModelError`; resume from the last checkpoint. By default no CPU is set aside for them, since a model's workers may
    have taken all. Raises `SettingError` if they cannot all start in `patience` seconds.
    """

    def __init__(
        self,
        cluster: RayCluster,
        builders: Mapping[Site, Builder],
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
            site: cluster.actor(_BuilderActor, needs, builder, threads) for site, builder in builders.items()
        }
        self._offered: dict[Site, deque[Any]] = {site: deque() for site in builders}
        started = [actor.ready.remote() for actor in self._actors.values()]
        if len(cluster.ray.wait(started, num_returns=len(started), timeout=patience)[0]) < len(started):
            self.close()
            raise no_room(cluster, needs, patience, len(started))

    @property
    def sites(self) -> list[Site]:
        """Those that dictionaries are built for."""
        return list(self._actors)

    def offer(self, batches: Mapping[Site, ActivationBatch]) -> None:
        """Send each site's batch to its builder.

        Raises at this call or a later one, `finish` at the latest, what the builder raises, as `ActivationError`.
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

    def sizes(self) -> dict[Site, int]:
        """Atoms so far, once all that was offered is gone through."""
        return self._all("size", dict.fromkeys(self._actors, ()))

    def errors(self, activations: Mapping[Site, Tensor]) -> dict[Site, Float64[Tensor, " batch"]]:
        """||z - z_hat||^2 / ||z||^2 of activations [batch, d_model] of some sites in their dictionaries so far.

        Massive ones are left out.
        """
        return self._all("error", {site: (Packed.of(x),) for site, x in activations.items()})

    def states(self) -> dict[Site, Any]:
        """What each builder has learned from all that was offered: see `Builder.state`."""
        return self._all("state", dict.fromkeys(self._actors, ()))

    def restore(self, states: Mapping[Site, Any]) -> None:
        """Go on from what `states` gave."""
        self._all("restore", {site: (state,) for site, state in states.items()})

    def finish(self, parts: Mapping[Site, Mapping[str, Any]] | None = None) -> dict[Site, ITDA]:
        """The dictionaries, refined, all sites at once; `parts` of a site go to `Builder.finish`."""
        return self._all("finish", {site: ((parts or {}).get(site, {}),) for site in self._actors})

    def found(self) -> dict[Site, int]:
        """After `finish`: atoms before the crop to a number."""
        return {site: number for site, number in self._all("found", dict.fromkeys(self._actors, ())).items() if number}

    def gram_rows(self) -> dict[Site, Any]:
        """Rows of Gram matrices that memory has room for, or `all`."""
        return self._all("gram_rows", dict.fromkeys(self._actors, ()))

    def close(self) -> None:
        """End the processes."""
        for actor in self._actors.values():
            self._cluster.kill(actor)

    def __enter__(self) -> RayTrainers:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

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
                f"the Ray worker that builds {site} died ({error}): resume the run from its last checkpoint"
            ) from error


class _BuilderActor:
    """What runs in a trainer's process: one builder."""

    def __init__(self, builder: Builder, threads: int) -> None:
        torch.set_num_threads(threads)
        self._builder: Any = builder

    def ready(self) -> None:
        pass

    def offer(self, activations: Packed, labels: Any) -> None:
        self._builder.offer(ActivationBatch(activations.tensor(), labels))

    def size(self) -> int:
        return len(self._builder)

    def found(self) -> int | None:
        return self._builder.found

    def gram_rows(self) -> Any:
        return self._builder.gram_rows

    def error(self, activations: Packed) -> Tensor:
        x = activations.tensor()
        return self._builder.error(x[~massive(x, self._builder.massive_norm)])

    def state(self) -> Any:
        return self._builder.state()

    def restore(self, state: Any) -> None:
        self._builder.restore(state)

    def finish(self, parts: Mapping[str, Any]) -> ITDA:
        return self._builder.finish(**parts)
