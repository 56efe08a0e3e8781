"""Snapshots of training: all it has to remember to stop here and go on elsewhere, to the same bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from itda.core.arithmetic import FIRST
from itda.core.labels import Labels
from itda.errors import SettingError

TRAINER, PASS = "Builder", "Trainer"
"""The names of a `Trainer`, and of the greedy pass within it, in snapshots and so in the files of checkpoints."""

CLASSES = {TRAINER: "Trainer"}
"""The class that each kind of snapshot is of, where its name is another."""


@dataclass(frozen=True, eq=False)
class TrainingState:
    """A snapshot of a `Trainer`, `ReferenceTrainer` or `TokenLog`: `state()` gives it, `restore` takes it.

    What follows from the rest is left out, and so is what changes no result (Gram rows, block sizes). Tensors are on
    the CPU and keep their dtype; those who give or take a state share no tensor with it.

    >>> import itda, torch
    >>> labels = itda.Labels.of(*(itda.Label("essay", i, i, i + 1, i, "", "x", "") for i in range(2)))
    >>> trainer = itda.Trainer(d_model=2, k=1, threshold=0.5)
    >>> trainer.offer(itda.ActivationBatch(torch.eye(2), labels))
    2
    >>> other = itda.Trainer(d_model=2, k=1, threshold=0.5)
    >>> other.restore(trainer.state())
    >>> other.seen, other.finish().atoms.tolist()
    (2, [[1.0, 0.0], [0.0, 1.0]])
    """

    values: dict[str, Any]
    """JSON values: `of`, the kind of object; `settings`; counts, and floats that are finite, which JSON in
    Python keeps to the bit."""
    tensors: dict[str, Tensor]
    labels: dict[str, Labels]

    @property
    def arithmetic(self) -> tuple[int, ...]:
        """The versions of the order of summation that it was made with; none where nothing was added up yet."""
        grown = self.values.get("trainer")
        return tuple(grown.get("arithmetic", [FIRST])) if grown is not None else ()

    def holding(self, name: str, part: TrainingState) -> TrainingState:
        """Return this snapshot with that of a part of the object in it, under a name."""
        return TrainingState(
            {**self.values, name: part.values},
            {**self.tensors, **{f"{name}.{key}": tensor for key, tensor in part.tensors.items()}},
            {**self.labels, **{f"{name}.{key}": labels for key, labels in part.labels.items()}},
        )

    def part(self, name: str) -> TrainingState:
        """Return the snapshot of a part, which `holding` put in under a name."""
        start = f"{name}."
        return TrainingState(
            self.values[name],
            {key.removeprefix(start): tensor for key, tensor in self.tensors.items() if key.startswith(start)},
            {key.removeprefix(start): labels for key, labels in self.labels.items() if key.startswith(start)},
        )

    def check(self, kind: str, settings: Mapping[str, Any], seen: int) -> None:
        """Raises `SettingError` unless the taker of this state is new, of the same kind and with the same settings.

        `seen` counts the tokens that the taker has had.
        """
        own, its = CLASSES.get(kind, kind), CLASSES.get(self.values.get("of", ""), self.values.get("of"))
        if self.values.get("of") != kind:
            raise SettingError(f"this is the state of a {its}: it cannot be restored to a {own}")
        made = self.values["settings"]
        for name in {**settings, **made}:
            if made.get(name) != settings.get(name):
                raise SettingError(
                    f"{name} is {settings.get(name)}, and {made.get(name)} in the state to be restored: "
                    f"give the {own} the settings that it had"
                )
        if seen:
            raise SettingError(f"this {own} has seen {seen:,} tokens already: restore the state to a new one")
