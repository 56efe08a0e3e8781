"""The interface of all trainers, which make a dictionary from a stream of activations."""

from collections.abc import Callable
from typing import Any, Literal, Protocol, runtime_checkable

from jaxtyping import Float, Float64
from torch import Tensor

from itda.core.batch import ActivationBatch
from itda.core.dictionary import ITDA
from itda.core.training.state import TrainingState


def ignored(_tokens: int) -> None:
    """Take a report of progress and do nothing."""


@runtime_checkable
class DictionaryTrainer(Protocol):
    """A trainer of one dictionary: `Trainer` or `ReferenceTrainer`."""

    def __len__(self) -> int: ...

    def offer(self, batch: ActivationBatch) -> int:
        """Go through a batch in order; return the number of atoms added. Raises `ActivationError`."""
        ...

    def error(self, activations: Float[Tensor, "batch d_model"]) -> Float64[Tensor, " batch"]:
        """Return ||z - z_hat||^2 / ||z||^2 of each activation in the dictionary so far. Raises `ActivationError`."""
        ...

    def finish(self, progress: Callable[[int], object] = ignored, **parts: Any) -> ITDA:
        """Return the finished dictionary; `parts` are its `mode`, `site` and `provenance`."""
        ...

    def state(self) -> TrainingState:
        """Return a snapshot, from which `restore` goes on."""
        ...

    def restore(self, state: TrainingState) -> None:
        """Go on from a snapshot to the same bits. Raises `SettingError` unless this is new, with the same settings."""
        ...

    @property
    def grows(self) -> bool:
        """True if atoms are found on the way; False if all are made in the end."""
        ...

    @property
    def massive_norm(self) -> float | None:
        """The norm above which an activation is massive; None while it is unknown or where there is no such rule."""
        ...

    @property
    def found(self) -> int | None:
        """After `finish`, the number of atoms before the crop to `atoms`; None where there is no crop."""
        ...

    @property
    def gram_rows(self) -> int | Literal["all"] | None:
        """Number of Gram matrix rows that fit into memory; None where there is no such matrix."""
        ...
