"""A connection to Ray, its failures in one line each, and how tensors travel over it."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from itda.errors import ItdaError, ModelError, SettingError

PATIENCE_S = 120.0
CONNECT_S = 10.0


@dataclass(frozen=True)
class RayCluster:
    """A connection to Ray. What it started ends with it; a cluster that was there before stays.

    >>> with RayCluster.connect() as cluster:  # doctest: +SKIP
    ...     cluster.resources()
    '2 CPUs (2 free), 0 GPUs (0 free)'
    """

    ray: Any
    """The package itself: it is imported when it is wanted."""
    started: bool
    """Whether the cluster was started here, for this process alone."""
    owned: bool
    """Whether the connection is to be closed here."""

    @staticmethod
    def connect(address: str | None = None, *, cpus: int | None = None) -> RayCluster:
        """Connect to `address`: auto, the cluster on this machine, or host:port.

        None is what the environment variable RAY_ADDRESS says; without it, a cluster is started on this machine, which
        listens on 127.0.0.1 alone and says that it has `cpus` CPUs (default: as many as there are). A process that is
        connected already keeps its connection. Raises `SettingError` without Ray, or where no cluster answers.
        """
        address = address or os.environ.get("RAY_ADDRESS") or "local"
        options: dict[str, Any] = {}
        if address == "local":
            # Read by Ray as it is imported: without it, it listens on every network that the machine has.
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is to be reported to Ray's makers
            options = {"include_dashboard": False, "_node_ip_address": "127.0.0.1", "num_cpus": cpus}
        try:
            import ray
        except ImportError as error:
            raise SettingError("running on Ray needs a package that is not here: pip install 'itda[ray]'") from error
        if ray.is_initialized():
            return RayCluster(ray, started=False, owned=False)
        _check_address(address)
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
        except (Exception, SystemExit) as error:  # Ray ends the process where its cluster does not answer
            raise SettingError(f"no Ray cluster at {address} ({first_line(error)}): {_START}") from error
        _hear(ray, False)
        return RayCluster(ray, started=address == "local", owned=True)

    def resources(self) -> str:
        """What the cluster has and what of it is free, for a message."""
        total, free = self.ray.cluster_resources(), self.ray.available_resources()
        return ", ".join(f"{total.get(name, 0):g} {name}s ({free.get(name, 0):g} free)" for name in ("CPU", "GPU"))

    def fits(self, needs: Mapping[str, int]) -> bool:
        """Whether one of its machines, with nothing else to do, has all that is needed."""
        machines = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        return any(all(machine.get(name, 0) >= amount for name, amount in needs.items()) for machine in machines)

    def actor(self, kind: type, needs: Mapping[str, int], *arguments: object) -> Any:
        """Start one on the machine that has fewest. Ray is not to restart it: whoever uses it knows what it had."""
        needed = {"num_cpus": needs["CPU"], "num_gpus": needs["GPU"]}
        options = {**needed, "max_restarts": 0, "max_task_retries": 0, "scheduling_strategy": "SPREAD"}
        return self.ray.remote(kind).options(**options).remote(*arguments)

    def wait(self, refs: Sequence[Any], timeout: float | None) -> list[Any]:
        """Those that are done, one at least unless time is out."""
        return self.ray.wait(list(refs), num_returns=1, timeout=timeout, fetch_local=False)[0]

    def get(self, ref: Any) -> Any:
        """The result of a task.

        Raises the `ItdaError` that the task raised, `ModelError` for any other error of the task, and `LostError`
        where the worker or its result is gone.
        """
        errors = self.ray.exceptions
        try:
            return self.ray.get(ref)
        except errors.RayTaskError as error:
            if isinstance(error.cause, ItdaError):
                raise error.cause from None
            reason = first_line(error.cause)
            raise ModelError(
                f"a Ray worker failed ({type(error.cause).__name__}: {reason}): try the same without Ray"
            ) from error
        except errors.RayError as error:
            raise LostError(first_line(error)) from error

    def kill(self, actor: Any) -> None:
        """End one, if there still is a cluster."""
        with suppress(Exception):
            self.ray.kill(actor, no_restart=True)

    def close(self) -> None:
        """End what was started here."""
        if self.owned:
            self.ray.shutdown()
            _hear(self.ray, True)

    def __enter__(self) -> RayCluster:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


@dataclass(frozen=True, eq=False)
class Packed:
    """A tensor as Ray moves it without a copy: a numpy array, with integers for bfloat16, which numpy has not."""

    data: np.ndarray
    dtype: torch.dtype

    @staticmethod
    def of(x: Tensor) -> Packed:
        """Pack a tensor of any shape."""
        x = x.detach().cpu()
        return Packed((x.view(torch.int16) if x.dtype == torch.bfloat16 else x).numpy(), x.dtype)

    def tensor(self) -> Tensor:
        """The tensor again, on the CPU."""
        # A copy: Ray's is read-only, and its place in the store is free again once nobody looks at it.
        return torch.from_numpy(self.data.copy()).view(self.dtype)


class LostError(Exception):
    """A worker died, or the machine that had its result."""


_START = "check the address, start a cluster with `ray start --head`, or name none to use this machine alone"


def _hear(ray: Any, allowed: bool) -> None:
    """Whether Ray may tell of dead workers: it does so on standard output, where a command's JSON goes."""
    ray._private.worker._worker_logs_enabled = allowed


def _check_address(address: str) -> None:
    """Raises `SettingError` where nothing listens: Ray itself would try for minutes, then end the process."""
    host, colon, port = address.rpartition(":")
    if address in ("auto", "local") or "://" in address:
        return
    if not colon or not port.isdecimal():
        raise SettingError(f"no Ray address {address!r}: write auto or host:port, such as 10.0.0.1:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise SettingError(f"no Ray cluster at {address} ({first_line(error)}): {_START}") from error


def no_room(cluster: RayCluster, needs: Mapping[str, int], waited: float, number: int = 1) -> SettingError:
    """The error where `number` workers did not start in `waited` seconds."""
    each = "each" if number > 1 else "it"
    what = f"{number} Ray workers" if number > 1 else "a Ray worker"
    asked = " and ".join(f"{amount:g} {name}s" for name, amount in needs.items() if amount)
    late = f" in {waited:g} s" if waited else ""
    return SettingError(
        f"no room for {what}{late}: {each} asks for {asked or 'nothing'}, and the cluster has {cluster.resources()}: "
        "ask for less, or add machines"
    )


def first_line(error: BaseException) -> str:
    """What an error says, without the trace that Ray puts into it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    # Where an actor cannot be made (its machine has no itda, for one), the reason stands below the trace.
    line = lines[-1] if "creation task" in lines[0] else lines[0]
    return line.rstrip(".:")[:200]
