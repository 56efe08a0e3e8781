"""`Trainer`: one dictionary from a stream of activations, in the order opening, growth, crop, refinement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from itda.core.batch import ActivationBatch
from itda.core.checks import check_threshold
from itda.core.dictionary import ITDA, check_width, target_of
from itda.core.intake import Rows, rows_of
from itda.core.massive import Tally, Use
from itda.core.memory import NO_LIMITS, PursuitLimits
from itda.core.pursuit import Pursuit
from itda.core.training.base import ignored
from itda.core.training.centres import centres, record_of_centres, usual_steps
from itda.core.training.first import FirstActivations
from itda.core.training.greedy import GreedyPass
from itda.core.training.growth import GrowOn
from itda.core.training.kept import KeptActivations
from itda.core.training.opening import opening_of
from itda.core.training.refine import near, refine
from itda.core.training.schedule import Schedule
from itda.core.training.settings import TrainerSettings
from itda.core.training.state import TRAINER, TrainingState
from itda.core.training.ungrown import UngrownPass
from itda.errors import SettingError


class Trainer:
    """Builds a dictionary from activations that are offered one after the other.

    For x_1, x_2, ... in the order in which they are offered: encode x_i with the dictionary so far; if its error
    ||z - z_hat||^2 / ||z||^2 exceeds `threshold`, append z_i / ||z_i|| with its label, where z = x - offset. The
    dictionary depends on the activations, their order and the settings alone: not on how they are cut into batches, nor
    on the device, `block_size` or `memory`. Activations may be on any device. With `d_model`, `k` and `threshold` this
    is the paper's pass. All else is off until asked for:

    - `atoms`, instead of a threshold: the threshold is found from the first half of the activations, or fewer, and
      corrected on the way, so that the dictionary has about that many atoms when `tokens` activations are seen
      (`itda.core.training.schedule`). If there are a few too many, those that were explained best when they came are
      dropped.
    - `tokens`: how many activations will be offered. `atoms` and `passes` need it.
    - `offset` [d_model]: subtracted from all activations. Or `offset_tokens`: subtract the mean of that many first
      ones.
    - `passes` of refinement (`itda.refine`), over activations kept evenly from all; no atom's cosine to its label's own
      activation falls below `min_fidelity`.
    - `recipe` 2, instead of that refinement: `passes` rounds of k-means over the activations kept. The atoms are
      centres of groups, labelled by their medoids, and are found again in other text (`itda.core.training.centres`).
      With `atoms` nothing grows then; with a threshold, growth finds how many atoms there will be. At the end come
      `steps` of refinement: 3 by default, 8 where 35 activations or more are kept for each atom. More steps lower the
      error, and atoms are found again less often.
    - `massive`: what to do with activations whose norm is above 10 times the median of the first 4,096
      (`itda.core.massive`). "skip": leave them out of all of this. "atoms": let them become atoms, and leave them out
      of the rest. None: no such rule. The dictionary's `massive_norm` is the limit.
    - `most`: growth stops at that many atoms.
    - `block_size`: how many activations are encoded together; by default it follows the rate at which atoms are found.
    - `memory`: bytes that the Gram matrix may take; by default as many as `set_memory` allows.
    - `grow_on`: "cpu", "gpu", or "auto" for the GPU if the activations are there and the dictionary fits beside them.

    Raises `SettingError` for settings out of range.

    >>> import itda, torch
    >>> from itda import ActivationBatch, Label, Labels
    >>> trainer = itda.Trainer(d_model=2, k=1, threshold=0.5)
    >>> labels = Labels.of(*(Label("essay", i, i, i + 1, i, "", "x", "") for i in range(3)))
    >>> trainer.offer(ActivationBatch(torch.tensor([[3.0, 0.0], [2.0, 1.0], [0.0, -5.0]]), labels))
    2
    >>> trainer.finish().atoms.tolist()
    [[1.0, 0.0], [0.0, -1.0]]

    Three atoms, fitted in two passes:

    >>> trainer = itda.Trainer(d_model=2, k=1, atoms=3, tokens=100, passes=2)
    >>> labels = Labels.of(*(Label("essay", i, i, i + 1, i, "", "x", "") for i in range(100)))
    >>> x = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    >>> added = trainer.offer(ActivationBatch(x, labels))
    >>> trainer.finish().atoms.shape
    torch.Size([3, 2])
    """

    def __init__(
        self,
        d_model: int,
        *,
        k: int,
        threshold: float | None = None,
        atoms: int | None = None,
        tokens: int | None = None,
        pursuit: Pursuit = "mp",
        offset: Float[Tensor, " width"] | None = None,
        offset_tokens: int = 0,
        passes: int = 0,
        min_fidelity: float = 0.0,
        recipe: int = 1,
        steps: int | None = None,
        massive: Use | None = None,
        most: int | None = None,
        block_size: int | None = None,
        memory: int | None = None,
        grow_on: GrowOn = "auto",
    ) -> None:
        self.settings = TrainerSettings(
            d_model=d_model,
            k=k,
            threshold=threshold,
            atoms=atoms,
            tokens=tokens,
            pursuit=pursuit,
            offset=offset,
            offset_tokens=offset_tokens,
            passes=passes,
            min_fidelity=min_fidelity,
            recipe=recipe,
            steps=steps,
            massive=massive,
            most=most,
            block_size=block_size,
            memory=memory,
            grow_on=grow_on,
        )
        self.seen = 0
        """Number of activations offered so far, massive ones too."""
        self.tally: Tally | None = None
        """The count of massive activations, once there is a limit."""
        self.found: int | None = None
        """After `finish`, the number of atoms before the crop to `atoms`; None where nothing grows."""
        self._first = FirstActivations()
        self._pass: GreedyPass | UngrownPass | None = None
        self._schedule: Schedule | None = None
        self._kept = KeptActivations(
            self.settings.stride, expected=self.settings.most_kept, on_cpu=self.settings.grow_on == "cpu"
        )

    def __len__(self) -> int:
        return len(self._pass) if self._pass is not None else 0

    @torch.no_grad()
    def offer(self, batch: ActivationBatch) -> int:
        """Go through a batch in order; return the number of atoms added.

        The first activations wait, and add nothing, until there are as many as `offset_tokens`, `atoms` and `massive`
        need. Raises `ActivationError` for a wrong width or a row that is not finite; the batch is left out then.
        """
        target_of(batch.activations, self.settings.d_model, None)
        before = len(self)
        self.seen += len(batch)
        if self._pass is not None:
            self._take(batch)
        else:
            self._first.add(batch)
            if self.seen >= self.settings.wait:
                self._begin(batch.activations.device)
        return len(self) - before

    @torch.no_grad()
    def error(self, activations: Rows) -> Float64[Tensor, " batch"]:
        """Return ||z - z_hat||^2 / ||z||^2 of each activation in the dictionary so far. Raises `ActivationError`."""
        activations = rows_of(activations)
        check_width(activations, self.settings.d_model)
        if self._pass is None:
            return torch.ones(len(activations), dtype=torch.float64)
        return self._pass.error(activations)

    @property
    def threshold(self) -> float | None:
        """The error above which an activation is appended now; None before it has been found from a number of atoms.

        None where nothing grows too. May be set between batches, once the first have been gone through and unless
        `atoms` sets it.
        """
        return self._pass.threshold if self._pass is not None else self.settings.threshold

    @threshold.setter
    def threshold(self, value: float) -> None:
        check_threshold(value)
        if self.settings.atoms is not None:
            raise SettingError("the threshold follows from the number of atoms: make the Trainer with a threshold")
        if not isinstance(self._pass, GreedyPass):
            raise SettingError("no activation has been gone through: make the Trainer with this threshold")
        self._pass.threshold = value

    @property
    def massive_norm(self) -> float | None:
        """The norm above which an activation is massive; None before it is known, and where the rule is off."""
        return self.tally.limit if self.tally is not None else None

    @property
    def gram_rows(self) -> int | Literal["all"] | None:
        """Number of Gram matrix rows that fit into memory; None where nothing grows."""
        if not self.settings.grows:
            return None
        return self._pass.gram_rows if self._pass is not None else "all"

    @property
    def grows(self) -> bool:
        """True if atoms are found on the way; with a number of atoms, recipe 2 makes all of them in the end."""
        return self.settings.grows

    def finish(self, progress: Callable[[int], object] = ignored, **parts: Any) -> ITDA:
        """Return the dictionary, refined, on the CPU; `parts` are its `mode`, `site` and `provenance`.

        `progress` is told the tokens that refinement has gone through. The provenance says under `massive` what was
        found of massive activations, unless the rule is off.
        """
        if self._pass is None:
            self._begin(torch.device("cpu"), ended=True)
        assert self._pass is not None
        settings = self.settings
        if self.tally is not None:
            parts["massive_norm"] = self.tally.limit
            found = {"use": settings.massive, **self.tally.record()}
            parts["provenance"] = {**parts.get("provenance", {}), "massive": found}
        dictionary = self._pass.finish(**parts)
        if settings.grows:
            self.found = len(dictionary)
            dictionary = _cropped(dictionary, settings.atoms)
        if settings.passes:
            kept = self._kept.joined(settings.d_model)
            dictionary = replace(dictionary, limits=PursuitLimits(settings.memory))
            dictionary = near(kept, dictionary, lambda grown, tell: self._refined(grown, kept, tell), progress)
        return replace(dictionary, limits=NO_LIMITS).to("cpu")

    def _refined(self, grown: ITDA, kept: Float[Tensor, "tokens d_model"], tell: Callable[[int], object]) -> ITDA:
        """Do what the recipe says with the dictionary that grew."""
        settings = self.settings
        if settings.recipe == 2:
            number = len(grown) if settings.atoms is None else min(settings.atoms, len(kept))
            rounds, steps = settings.passes, settings.steps
            steps = usual_steps(len(kept), number) if steps is None else steps
            labels = self._kept.labels()
            made = centres(grown, kept, labels, number=number, rounds=rounds, steps=steps, progress=tell)
            return replace(made, provenance={**made.provenance, "refinement": record_of_centres(rounds, steps)})
        return refine(grown, kept, passes=settings.passes, min_fidelity=settings.min_fidelity, progress=tell)

    def state(self) -> TrainingState:
        """Return a snapshot, from which `restore` goes on."""
        first, schedule = self._first.state(), self._schedule
        tensors, labels = dict(first.tensors), dict(first.labels)
        if self._kept and self.settings.recipe == 2:
            labels["kept"] = self._kept.labels()
        if self._kept:
            tensors["kept"] = self._kept.joined(self.settings.d_model).to("cpu", copy=True)
        if self.settings.offset is not None:
            tensors["offset"] = self.settings.offset.cpu().clone()
        values = {
            "of": TRAINER,
            "settings": self.settings.saved(),
            "tokens": self.seen,
            "ordinary": self._kept.seen,
            "tally": self.tally.state() if self.tally is not None else None,
            "schedule": {**schedule.state(), "tokens": schedule.tokens} if schedule is not None else None,
            "trainer": None,
        }
        state = TrainingState(values, tensors, labels)
        return state if self._pass is None else state.holding("trainer", self._pass.state())

    def restore(self, state: TrainingState) -> None:
        """Go on from a snapshot: the dictionary becomes what it would have been without the interruption, to the bit.

        Raises `SettingError` if this trainer is not new or has other settings than the one the state was taken from;
        `block_size`, `memory` and `grow_on` may differ.
        """
        state.check(TRAINER, self.settings.saved(), self.seen)
        had, has = state.tensors.get("offset"), self.settings.offset
        if (had is None) != (has is None) or (had is not None and has is not None and not torch.equal(had, has.cpu())):
            raise SettingError("the offset is not that of the state to be restored: give the Trainer the one it had")
        values = state.values
        if values["schedule"] is not None:
            assert self.settings.atoms is not None
            tokens = values["schedule"]["tokens"]
            self._schedule = Schedule.restored(values["schedule"], atoms=self.settings.atoms, tokens=tokens)
        if values["trainer"] is not None:
            kind = GreedyPass if self.settings.grows else UngrownPass
            self._pass = kind.restored(self.settings, state.part("trainer"))
        self._first.restore(state)
        self._kept.restore(state.tensors.get("kept"), values["ordinary"], state.labels.get("kept"))
        self.seen = values["tokens"]
        self.tally = Tally(**values["tally"]) if values["tally"] is not None else None

    def _begin(self, device: torch.device, *, ended: bool = False) -> None:
        """Open the pass with the first activations, and go through them."""
        first = self._first.joined(self.settings.wait, self.settings.d_model, device)  # no more, whatever the batches
        opening = opening_of(first, self.settings, ended=ended)
        self.tally, self._schedule = opening.tally, opening.schedule
        if opening.threshold is None:
            self._pass = UngrownPass(self.settings, opening.offset, device)
        else:
            self._pass = GreedyPass(self.settings, opening.threshold, opening.offset, device)
        for batch in self._first.batches:
            self._take(batch)
        self._first = FirstActivations()

    def _take(self, batch: ActivationBatch) -> None:
        """Go through a batch, without those that are massive unless they may be atoms."""
        ordinary = batch
        if self.tally is not None:
            massive = self.tally.update(batch.activations, batch.labels.first)
            if bool(massive.any()):
                kept = ~massive
                ordinary = ActivationBatch(batch.activations[kept.to(batch.activations.device)], batch.labels[kept])
        self._kept.add(ordinary.activations, ordinary.labels if self.settings.recipe == 2 else None)
        self._grow(batch if self.settings.massive == "atoms" else ordinary)

    def _grow(self, batch: ActivationBatch) -> None:
        """Offer a batch to the pass, in parts that end where the schedule may move the threshold."""
        grown, schedule = self._pass, self._schedule
        assert grown is not None
        if schedule is None:
            grown.offer(batch)
            return
        start = 0
        while start < len(batch):
            stop = min(len(batch), start + schedule.until_next(grown.seen))
            grown.offer(ActivationBatch(batch.activations[start:stop], batch.labels[start:stop]))
            start = stop
            grown.threshold = schedule.correct(grown.seen, len(grown))


def _cropped(dictionary: ITDA, atoms: int | None) -> ITDA:
    """Keep `atoms` atoms, the most novel ones: dropping the last instead would leave out the stream's end."""
    if atoms is None or len(dictionary) <= atoms:
        return dictionary
    assert dictionary.novelty is not None
    best = dictionary.novelty.argsort(descending=True, stable=True)[:atoms].sort().values
    own = best.to(dictionary.atoms.device)
    return replace(
        dictionary,
        atoms=dictionary.atoms[own],
        labels=dictionary.labels[best.numpy()],
        novelty=dictionary.novelty[best],
    )
