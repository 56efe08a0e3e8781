"""A connection to Ray, its failures in one line each, and how tensors travel over it."""

from __future__ import annotations

import logging
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from itda.errors import ItdaError, ModelError, SettingError

PATIENCE_S = 120.0
"""Seconds that workers have to start, by default."""
CONNECT_S = 10.0
"""Seconds to wait for a machine to accept a connection."""


Closed = TypeVar("Closed", bound="Closing")


class Closing(ABC):
    """An object that is closed when its `with` block ends."""

    @abstractmethod
    def close(self) -> None:
        """End the processes or connections that the object started."""

    def __enter__(self: Closed) -> Closed:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


@dataclass(frozen=True)
class RayCluster(Closing):
    """A connection to Ray. What it started ends with it; a cluster that was there before stays.

    >>> with RayCluster.connect() as cluster:  # doctest: +SKIP
    ...     cluster.resources()
    '2 CPUs (2 free), 0 GPUs (0 free)'
    """

    ray: Any
    """The package `ray`, which is imported only when it is used."""
    started: bool
    """True if the cluster was started by this process, for itself alone."""
    owned: bool
    """True if this process made the connection, and is to close it."""

    @staticmethod
    def connect(address: str | None = None, *, cpus: int | None = None) -> RayCluster:
        """Connect to `address`: auto, the cluster on this machine, or host:port.

        None stands for the address in the environment variable RAY_ADDRESS; without it, a cluster is started on this
        machine, which listens on 127.0.0.1 alone and has `cpus` CPUs to give away (default: as many as there are). A
        process that is connected already keeps its connection. Raises `SettingError` without Ray, or where no cluster
        answers.
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
        """Describe the CPUs and GPUs of the cluster, and how many are free, for a message."""
        total, free = self.ray.cluster_resources(), self.ray.available_resources()
        return ", ".join(f"{total.get(name, 0):g} {name}s ({free.get(name, 0):g} free)" for name in ("CPU", "GPU"))

    def fits(self, needs: Mapping[str, int]) -> bool:
        """Return True if one of the machines, with nothing else to do, has the CPUs and GPUs that are needed."""
        machines = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        return any(all(machine.get(name, 0) >= amount for name, amount in needs.items()) for machine in machines)

    def actor(self, kind: type, needs: Mapping[str, int], *arguments: object) -> Any:
        """Start an actor on the machine with the fewest. Ray does not restart it: its user knows what it was doing."""
        needed = {"num_cpus": needs["CPU"], "num_gpus": needs["GPU"]}
        options = {**needed, "max_restarts": 0, "max_task_retries": 0, "scheduling_strategy": "SPREAD"}
        return self.ray.remote(kind).options(**options).remote(*arguments)

    def wait(self, refs: Sequence[Any], timeout: float | None) -> list[Any]:
        """Wait for results; return those that are there: at least one, unless `timeout` seconds have passed."""
        return self.ray.wait(list(refs), num_returns=1, timeout=timeout, fetch_local=False)[0]

    def get(self, ref: Any) -> Any:
        """Return the result of a task.

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
        """End an actor, if there still is a cluster."""
        with suppress(Exception):
            self.ray.kill(actor, no_restart=True)

    def close(self) -> None:
        """Close the connection, and end a cluster that was started here."""
        if self.owned:
            self.ray.shutdown()
            _hear(self.ray, True)


@dataclass(frozen=True, eq=False)
class Packed:
    """A tensor as a NumPy array, which Ray moves without a copy; int16 stands for bfloat16, which NumPy lacks."""

    data: np.ndarray
    dtype: torch.dtype

    @staticmethod
    def of(x: Tensor) -> Packed:
        """Pack a tensor of any shape."""
        x = x.detach().cpu()
        return Packed((x.view(torch.int16) if x.dtype == torch.bfloat16 else x).numpy(), x.dtype)

    def tensor(self) -> Tensor:
        """Return the tensor again, on the CPU."""
        # A copy, as Ray's array is read-only, and takes room in Ray's store for as long as anything refers to it.
        return torch.from_numpy(self.data.copy()).view(self.dtype)


class LostError(Exception):
    """Raised if a worker died, or the machine that had its result."""


_START = "check the address, start a cluster with `ray start --head`, or name none to use this machine alone"


def _hear(ray: Any, allowed: bool) -> None:
    """Let Ray report dead workers, or not: it prints to standard output, where a command's JSON goes."""
    ray._private.worker._worker_logs_enabled = allowed


def _check_address(address: str) -> None:
    """Raises `SettingError` if nothing listens at an address: Ray would try for minutes, then end the process."""
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
    """Return the error for `number` workers that did not start in `waited` seconds."""
    each = "each" if number > 1 else "it"
    what = f"{number} Ray workers" if number > 1 else "a Ray worker"
    asked = " and ".join(f"{amount:g} {name}s" for name, amount in needs.items() if amount)
    late = f" in {waited:g} s" if waited else ""
    return SettingError(
        f"no room for {what}{late}: {each} asks for {asked or 'nothing'}, and the cluster has {cluster.resources()}: "
        "ask for less, or add machines"
    )


def first_line(error: BaseException) -> str:
    """Return the line of an error's message that says what went wrong, without Ray's traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    # Where an actor cannot be made (say, its machine has no itda), the reason stands below the traceback.
    line = lines[-1] if "creation task" in lines[0] else lines[0]
    return line.rstrip(".:")[:200]
