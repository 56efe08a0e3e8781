"""The whole procedure of a dictionary: offset and threshold from the first tokens, growth, then refinement."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from itda.core.batch import ActivationBatch
from itda.core.checks import check_number, check_offset_tokens, check_refinement, check_threshold
from itda.core.dictionary import ITDA, check_pursuit, check_width, target_of
from itda.core.labels import Labels
from itda.core.massive import FIRST_TOKENS, Tally, Use, median_norm
from itda.core.massive import massive as massive_of
from itda.core.pursuit import Pursuit
from itda.core.training.greedy import Trainer
from itda.core.training.refine import PASS_TOKENS, refine
from itda.core.training.schedule import Schedule, calibrated, sample_of
from itda.core.training.state import TrainingState
from itda.errors import SettingError

OFFSET_TOKENS = 4096
"""First tokens whose mean is the offset."""

KEPT_BYTES = 2**31
"""What the activations kept for refinement may take."""


class Builder:
    """Builds a dictionary from a stream of activations of known length, by all that `Trainer` leaves out.

    - `offset_tokens`: the mean of so many first activations becomes the offset; 0 for none.
    - `atoms`: instead of a threshold. One is found from the first half of the stream, or less, so that the
      dictionary has about that many when `tokens` are seen (`itda.core.training.schedule`); of a few too many, those
      that were explained best when they came are cropped.
    - `passes` of refinement (`itda.refine`), over activations kept evenly from the whole stream, with `min_fidelity`.
    - `massive`: activations whose norm is above 10 times the median of the first 4,096 (`itda.core.massive`) are left
      out of all of this ("skip"), or become atoms like the others and are left out of the rest ("atoms"); None for a
      rule that is off: then they are like the others in everything. The dictionary's `massive_norm` is the limit.

    Nothing depends on how the stream is cut into batches. Raises `SettingError` for settings out of range.

    >>> import itda, torch
    >>> builder = itda.Builder(d_model=2, tokens=100, k=1, atoms=3, passes=2)
    >>> labels = itda.Labels.of(*(itda.Label("essay", i, i, i + 1, i, "", "x", "") for i in range(100)))
    >>> x = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    >>> builder.offer(itda.ActivationBatch(x, labels))
    >>> builder.finish().atoms.shape
    torch.Size([3, 2])
    """

    def __init__(
        self,
        d_model: int,
        *,
        tokens: int,
        k: int,
        threshold: float | None = None,
        atoms: int | None = None,
        pursuit: Pursuit = "mp_refit",
        offset_tokens: int = OFFSET_TOKENS,
        passes: int = 0,
        min_fidelity: float = 0.0,
        massive: Use | None = "skip",
        memory: int | None = None,
    ) -> None:
        check_pursuit(k, pursuit)
        check_refinement(passes, min_fidelity)
        if (threshold is None) == (atoms is None):
            raise SettingError("give a threshold or a number of atoms, one of the two")
        if threshold is not None:
            check_threshold(threshold)
        for name, value in (("d_model", d_model), ("tokens", tokens), ("atoms", atoms), ("memory", memory)):
            if value is not None and value < 1:
                raise SettingError(f"{name} is {value}: it must be at least 1")
        check_offset_tokens(offset_tokens)
        if massive not in ("skip", "atoms", None):
            raise SettingError(f"massive is {massive!r}: it must be skip, atoms, or None for no rule")
        if atoms is not None:
            check_number(atoms, tokens)
        self.d_model, self.k, self.memory = d_model, k, memory
        self.pursuit: Pursuit = pursuit
        self.budget, self.threshold, self.atoms = tokens, threshold, atoms
        self.offset_tokens, self.passes, self.min_fidelity = offset_tokens, passes, min_fidelity
        self.massive: Use | None = massive
        self.tokens = 0
        """Activations seen, massive ones too."""
        self.tally: Tally | None = None
        """The count of massive activations, once there is a limit."""
        self.found: int | None = None
        """Atoms before the crop to `atoms`."""
        self._first: list[ActivationBatch] = []
        self._trainer: Trainer | None = None
        self._schedule: Schedule | None = None
        self._kept: list[Tensor] = []
        self._ordinary = 0
        wanted = min(passes * PASS_TOKENS, max(1, KEPT_BYTES // (4 * d_model)))
        self._stride = math.ceil(tokens / wanted) if passes else 0

    def __len__(self) -> int:
        return len(self._trainer) if self._trainer is not None else 0

    @torch.no_grad()
    def offer(self, batch: ActivationBatch) -> None:
        """Go through a batch in order.

        Raises `ActivationError` for a wrong width or a row that is not finite; the batch is left out then.
        """
        target_of(batch.activations, self.d_model, None)
        self.tokens += len(batch)
        if self._trainer is not None:
            self._take(batch)
            return
        # A copy: a source may use its tensor again. On the CPU: that is where those of a state are.
        self._first.append(ActivationBatch(batch.activations.to("cpu", copy=True), batch.labels))
        if self.tokens >= min(self.budget, self._wait):
            self._begin()

    @torch.no_grad()
    def error(self, activations: Float[Tensor, "batch d_model"]) -> Float64[Tensor, " batch"]:
        """||z - z_hat||^2 / ||z||^2 of each activation in the dictionary so far. Raises `ActivationError`."""
        check_width(activations, self.d_model)
        if self._trainer is None:
            return torch.ones(len(activations), dtype=torch.float64)
        return self._trainer.error(activations)

    @property
    def massive_norm(self) -> float | None:
        """The norm above which an activation is massive; None before it is known, and where the rule is off."""
        return self.tally.limit if self.tally is not None else None

    def finish(self, progress: Callable[[int], object] = lambda _tokens: None, **parts: Any) -> ITDA:
        """The dictionary, refined; `parts` are its `mode`, `site` and `provenance`. `progress` counts its tokens.

        Its provenance says under `massive` what was found of massive activations, unless the rule is off.
        """
        if self._trainer is None:
            self._begin(ended=True)
        assert self._trainer is not None
        if self.tally is not None:
            parts["massive_norm"] = self.tally.limit
            found = {"use": self.massive, **self.tally.record()}
            parts["provenance"] = {**parts.get("provenance", {}), "massive": found}
        model = self._trainer.finish(**parts)
        self.found = len(model)
        if self.atoms is not None and len(model) > self.atoms:
            assert model.novelty is not None
            # Not the last ones, which would be those of the end of the stream: the ones nearest to the threshold.
            best = model.novelty.argsort(descending=True, stable=True)[: self.atoms].sort().values
            labels = model.labels[best.numpy()]
            model = replace(model, atoms=model.atoms[best], labels=labels, novelty=model.novelty[best])
        if self.passes == 0:
            return model
        kept = torch.cat(self._kept) if self._kept else torch.empty(0, self.d_model)
        return refine(model, kept, passes=self.passes, min_fidelity=self.min_fidelity, progress=progress)

    def state(self) -> TrainingState:
        """All that `restore` needs to go on from here."""
        # A group of one dtype each: a cut into batches changes nothing, a dtype would.
        schedule = self._schedule
        first = [list(group) for _, group in itertools.groupby(self._first, lambda batch: batch.activations.dtype)]
        tensors = {f"first.{i}": torch.cat([b.activations for b in group]) for i, group in enumerate(first)}
        if self._kept:
            tensors["kept"] = torch.cat(self._kept)
        values = {
            "of": "Builder",
            "settings": self._settings,
            "tokens": self.tokens,
            "ordinary": self._ordinary,
            "tally": self.tally.state() if self.tally is not None else None,
            "schedule": {**schedule.state(), "tokens": schedule.tokens} if schedule is not None else None,
            "trainer": None,
        }
        state = TrainingState(values, tensors, {"first": Labels.concatenate([batch.labels for batch in self._first])})
        return state if self._trainer is None else state.holding("trainer", self._trainer.state())

    def restore(self, state: TrainingState) -> None:
        """Go on from a state: the dictionary becomes what it would have been without the interruption, to the bit.

        Raises `SettingError` if this builder is not new or has other settings than the one the state was taken from;
        `memory` may differ.
        """
        state.check("Builder", self._settings, self.tokens)
        if state.values["schedule"] is not None:
            assert self.atoms is not None
            values = state.values["schedule"]
            self._schedule = Schedule.restored(values, atoms=self.atoms, tokens=values["tokens"])
        if state.values["trainer"] is not None:
            part = state.part("trainer")
            offset = part.tensors["offset"].clone() if "offset" in part.tensors else None
            self._trainer = self._new_trainer(part.values["settings"]["threshold"], offset)
            self._trainer.restore(part)
        start = 0
        for i in itertools.count():
            if (activations := state.tensors.get(f"first.{i}")) is None:
                break
            stop = start + len(activations)
            self._first.append(ActivationBatch(activations.clone(), state.labels["first"][start:stop]))
            start = stop
        self._kept = [state.tensors["kept"].clone()] if "kept" in state.tensors else []
        self.tokens, self._ordinary = state.values["tokens"], state.values["ordinary"]
        self.tally = Tally(**state.values["tally"]) if state.values["tally"] is not None else None

    @property
    def gram_rows(self) -> int | Literal["all"]:
        """How many rows of the Gram matrix memory has room for."""
        return self._trainer.gram_rows if self._trainer is not None else "all"

    @property
    def _wait(self) -> int:
        """Activations to have before the first can be gone through."""
        limit = FIRST_TOKENS if self.massive is not None else 0
        return max(self.offset_tokens, self._sample, limit, 1)

    @property
    def _sample(self) -> int:
        """First activations on which a number of atoms is turned into a threshold."""
        return sample_of(self.budget, self.d_model) if self.atoms is not None else 0

    def _begin(self, *, ended: bool = False) -> None:
        first = torch.cat([batch.activations for batch in self._first] or [torch.empty(0, self.d_model)])
        first = first[: min(self._wait, self.budget)]  # not what the last batch happens to bring besides
        ordinary = torch.ones(len(first), dtype=torch.bool)
        if self.massive is not None:
            self.tally = Tally(median_norm(first[:FIRST_TOKENS]))
            ordinary = ~massive_of(first, self.tally.limit)
        offset = None
        if self.offset_tokens and len(first):
            # The mean in float64 of rows added in a fixed order: the same for any number of threads.
            begun = first[: self.offset_tokens][ordinary[: self.offset_tokens]]
            if len(begun):
                offset = (begun.double().cumsum(dim=0)[-1] / len(begun)).float()
        threshold = self.threshold
        if self.atoms is not None:
            sample = target_of(first[: self._sample][ordinary[: self._sample]], self.d_model, offset)
            budget = max(1, len(first)) if ended else self.budget
            atoms = min(self.atoms, budget)
            if self.massive == "skip" and len(first):  # of those that are gone through
                budget = max(atoms, round(budget * int(ordinary.sum()) / len(first)))
            settings = {"atoms": atoms, "tokens": budget, "k": self.k, "pursuit": self.pursuit}
            self._schedule = calibrated(sample, memory=self.memory, **settings)
            threshold = self._schedule.threshold
        assert threshold is not None
        self._trainer = self._new_trainer(threshold, offset)
        for batch in self._first:
            self._take(batch)
        self._first.clear()

    def _new_trainer(self, threshold: float, offset: Tensor | None) -> Trainer:
        return Trainer(
            self.d_model, k=self.k, threshold=threshold, pursuit=self.pursuit, offset=offset, memory=self.memory
        )

    @property
    def _settings(self) -> dict[str, Any]:
        # What the dictionary depends on, besides the stream.
        return {
            "d_model": self.d_model,
            "tokens": self.budget,
            "k": self.k,
            "threshold": self.threshold,
            "atoms": self.atoms,
            "pursuit": self.pursuit,
            "offset_tokens": self.offset_tokens,
            "passes": self.passes,
            "min_fidelity": self.min_fidelity,
            "massive": self.massive,
        }

    def _take(self, batch: ActivationBatch) -> None:
        """Go through a batch, without those that are massive unless they may be atoms."""
        ordinary = batch
        if self.tally is not None:
            massive = self.tally.update(batch.activations, batch.labels.first)
            if bool(massive.any()):
                kept = ~massive
                ordinary = ActivationBatch(batch.activations[kept.to(batch.activations.device)], batch.labels[kept])
        if self._stride:
            self._kept.append(ordinary.activations[-self._ordinary % self._stride :: self._stride].cpu().clone())
            self._ordinary += len(ordinary)
        self._grow(batch if self.massive == "atoms" else ordinary)

    def _grow(self, batch: ActivationBatch) -> None:
        trainer, schedule = self._trainer, self._schedule
        assert trainer is not None
        if schedule is None:
            trainer.offer(batch)
            return
        start = 0
        while start < len(batch):
            stop = min(len(batch), start + schedule.until_next(trainer.tokens))
            trainer.offer(ActivationBatch(batch.activations[start:stop], batch.labels[start:stop]))
            start = stop
            trainer.threshold = schedule.correct(trainer.tokens, len(trainer))
