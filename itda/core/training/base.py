"""One interface for whatever makes a dictionary from a stream of activations."""

from collections.abc import Callable
from typing import Any, Literal, Protocol, runtime_checkable

from jaxtyping import Float, Float64
from torch import Tensor

from itda.core.batch import ActivationBatch
from itda.core.dictionary import ITDA
from itda.core.training.state import TrainingState


def ignored(_tokens: int) -> None:
    """Progress that nobody looks at."""


@runtime_checkable
class DictionaryTrainer(Protocol):
    """Makes one dictionary. `Trainer` and `ReferenceTrainer` are the two there are."""

    def __len__(self) -> int: ...

    def offer(self, batch: ActivationBatch) -> int:
        """Go through a batch in order; return the number of atoms added. Raises `ActivationError`."""
        ...

    def error(self, activations: Float[Tensor, "batch d_model"]) -> Float64[Tensor, " batch"]:
        """||z - z_hat||^2 / ||z||^2 of each activation in the dictionary so far. Raises `ActivationError`."""
        ...

    def finish(self, progress: Callable[[int], object] = ignored, **parts: Any) -> ITDA:
        """The finished dictionary; `parts` are its `mode`, `site` and `provenance`."""
        ...

    def state(self) -> TrainingState:
        """All that `restore` needs to go on from here."""
        ...

    def restore(self, state: TrainingState) -> None:
        """Go on from a state to the same bits. Raises `SettingError` unless this is new and has the same settings."""
        ...

    @property
    def massive_norm(self) -> float | None:
        """The norm above which an activation is massive; None while it is unknown or where there is no such rule."""
        ...

    @property
    def found(self) -> int | None:
        """After `finish`: atoms before the crop to the number asked for; None where nothing is counted."""
        ...

    @property
    def gram_rows(self) -> int | Literal["all"] | None:
        """How many rows of the Gram matrix memory has room for; None where there is no such matrix."""
        ...
