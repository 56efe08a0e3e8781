"""Trains all members of a family together: Muon for the matrices inside of blocks, AdamW for the rest.

Progress is the larger of the share of steps and the share of seconds that have gone by, and the learning rate follows
progress: so a run that is short of time still ends with a rate of zero, having seen less. A member of length 0.5 ends
there at half of the family's progress. A run that is ended goes on from its last state.
"""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from families_model import Shape, losses, new_parameters
from families_text import CONTEXT
from torch import Tensor

BATCH = 32
"""Windows of each member per step."""
PEAK, DECAY, CLIP = {"muon": 0.01, "adam": 0.004}, 0.01, 1.0
LOOK_EVERY, SAVE_EVERY = 10, 60.0
"""Steps between looks at the clock, and seconds between states."""
CHUNK = 200
"""Steps whose windows are drawn together."""


@dataclass(frozen=True)
class Family:
    """What is trained: members differ in their seed, which sets weights and data, and in their length."""

    name: str
    shape: Shape
    kind: str
    """What it reads: code or prose."""
    steps: int
    seeds: tuple[int, ...]
    lengths: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0)
    """Share of the steps after which each member stops to learn."""
    muon: bool = True
    """False: AdamW for all parameters."""


class Optimizer:
    """Muon (Jordan et al. 2024) and AdamW over stacked parameters, with a rate for each member."""

    def __init__(self, parameters: dict[str, Tensor], matrices: set[str]) -> None:
        self.parameters, self.matrices = parameters, matrices
        self.first = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self.second = {name: torch.zeros_like(p) for name, p in parameters.items() if name not in matrices}

    @torch.no_grad()
    def step(self, number: int, factors: Tensor) -> None:
        """Take step `number` (from 1) with the peaks times `factors` [member]."""
        gradients = {name: p.grad for name, p in self.parameters.items() if p.grad is not None}
        total = torch.stack([g.flatten(1).square().sum(1) for g in gradients.values()]).sum(0).sqrt()
        clip = (CLIP / (total + 1e-6)).clamp(max=1.0)
        for name, gradient in gradients.items():
            parameter, first = self.parameters[name], self.first[name]
            per_member = (-1, *[1] * (parameter.ndim - 1))
            gradient = gradient * clip.view(per_member)
            if name in self.matrices:
                first.lerp_(gradient, 0.05)
                change = orthogonal(gradient.lerp(first, 0.95))
                rate = factors.view(per_member) * PEAK["muon"]
                parameter.mul_(1 - rate * DECAY)
            else:
                second = self.second[name]
                first.lerp_(gradient, 0.1)
                second.lerp_(gradient.square(), 0.05)
                change = (first / (1 - 0.9**number)) / ((second / (1 - 0.95**number)).sqrt() + 1e-8)
                rate = factors.view(per_member) * PEAK["adam"]
            parameter.sub_(rate * change)
        for parameter in self.parameters.values():
            parameter.grad = None

    def save(self, path: Path, step: int, seconds: float) -> None:
        """Keep everything that training needs to go on after `step` steps."""
        parts = {"parameters": {name: p.detach() for name, p in self.parameters.items()}, "first": self.first}
        torch.save(parts | {"second": self.second, "step": step, "seconds": seconds}, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)

    def restore(self, path: Path, device: str) -> tuple[int, float]:
        """Steps and seconds of the state that is kept; none is kept at first."""
        if not path.exists():
            return 0, 0.0
        state = torch.load(path, weights_only=True, map_location=device)
        for kept, values in ((self.parameters, "parameters"), (self.first, "first"), (self.second, "second")):
            kept.update(state[values])
        return state["step"], state["seconds"]


def orthogonal(gradient: Tensor) -> Tensor:
    """Newton-Schulz: singular values near 1, scaled to the size of a step of AdamW."""
    x = gradient.bfloat16() if gradient.is_cuda else gradient
    tall = x.shape[-2] > x.shape[-1]
    x = x.transpose(-2, -1) if tall else x
    shape = x.shape
    x = x.flatten(0, -3)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = torch.bmm(x, x.transpose(1, 2))
        x = 3.4445 * x + torch.bmm(-4.7750 * gram + 2.0315 * torch.bmm(gram, gram), x)
    x = x.view(shape)
    x = x.transpose(-2, -1) if tall else x
    return x.to(gradient.dtype) * 0.2 * max(gradient.shape[-2:]) ** 0.5


class Stream:
    """The windows that members read: each in an order of its own seed, whoever reads beside it."""

    def __init__(self, family: Family, cache: Path, device: str) -> None:
        self._seeds, self._chunk, self._starts = family.seeds, -1, torch.empty(0)
        self._tokens = torch.from_numpy(np.load(cache / f"{family.kind}.npy").astype(np.int32)).to(device)
        self._inner = torch.arange(CONTEXT, device=device)

    def batch(self, step: int) -> Tensor:
        """Tokens [member, window, token] of a step, which begin with the BOS token."""
        if step // CHUNK != self._chunk:
            self._chunk = step // CHUNK
            parts = [self._drawn(seed) for seed in self._seeds]
            self._starts = torch.stack(parts, dim=1).to(self._tokens.device)
        found = self._tokens[self._starts[step % CHUNK].unsqueeze(-1) + self._inner].long()
        found[:, :, 0] = 0
        return found

    def _drawn(self, seed: int) -> Tensor:
        random = torch.Generator().manual_seed(1_000_003 * seed + self._chunk)
        return torch.randint(len(self._tokens) - CONTEXT, (CHUNK, BATCH), generator=random)


def factor(progress: float) -> float:
    """Rate over peak: up in the first tenth, down in the last half."""
    return max(0.0, min(1.0, progress / 0.1 + 0.01, (1 - progress) / 0.5))


def train(family: Family, cache: Path, device: str, deadline: float) -> dict[str, Any]:
    """Train a family until its steps or `deadline` (of time.monotonic) are reached; keeps NAME.pt in the cache.

    Returns the steps, the seconds and the last losses. A run that goes on counts the seconds before it as well.
    """
    torch.set_float32_matmul_precision("high")
    parameters = {name: p.to(device) for name, p in new_parameters(family.shape, list(family.seeds)).items()}
    inside = {name for name in parameters if "{}" in name and parameters[name].ndim == 4 and family.muon}
    optimizer = Optimizer(parameters, inside)
    state_file, finished = cache / f"{family.name}.state", cache / f"{family.name}.pt"
    step, before = optimizer.restore(state_file, device)
    for parameter in parameters.values():
        parameter.requires_grad_()
    stream = Stream(family, cache, device)
    began = saved = time.monotonic()
    progress, last = 0.0, torch.empty(0)
    while True:
        # Time is looked at now and then only: between looks the processor runs ahead of the device.
        if step % LOOK_EVERY == 0:
            if device == "cuda":
                torch.cuda.synchronize()
            now = time.monotonic()
            progress = max(progress, (before + now - began) / max(before + deadline - began, 1e-6))
            if now - saved > SAVE_EVERY and progress < 1:
                optimizer.save(state_file, step, before + now - began)
                saved = now
        progress = max(progress, step / family.steps)
        if progress >= 1:
            break
        with torch.autocast("cuda", torch.bfloat16) if device == "cuda" else contextlib.nullcontext():
            last = losses(family.shape, parameters, stream.batch(step))
        last.sum().backward()
        factors = torch.tensor([factor(progress / length) for length in family.lengths[: len(family.seeds)]])
        step += 1
        optimizer.step(step, factors.to(device, non_blocking=True))
    losses_now = [round(value, 3) for value in last.detach().float().cpu().tolist()]
    about = {"steps": step, "seconds": round(before + time.monotonic() - began, 1), "losses": losses_now}
    half = {name: p.detach().half().cpu() for name, p in parameters.items()}
    torch.save({"parameters": half, "about": about}, finished.with_suffix(".part"))
    finished.with_suffix(".part").replace(finished)
    state_file.unlink(missing_ok=True)
    return about
