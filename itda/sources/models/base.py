"""The interface of a language model that can be read, wherever it runs: in memory, streamed, at NDIF, by workers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor

from itda.core.batch import Site
from itda.errors import ModelError
from itda.sources.models.blocks import Place
from itda.sources.tokenizing.special import Bos
from itda.sources.tokenizing.windows import Group, Windower

IN_MEMORY = "load it here without --stream, --workers and --remote"
"""The remedy where a model must be in memory."""


class ActivationModel(ABC):
    """A language model whose activations can be read, many groups of windows at a time.

    To train, harvest and index from a new kind of model, implement this: its activations are those of the model's
    ordinary forward pass over each group alone, to the bit. To evaluate it too: `itda.sources.models.splicing`.

    >>> from itda.sources.models.transformers import LanguageModel
    >>> model: ActivationModel = LanguageModel.load("tiny")
    >>> model.layers, model.d_model, model.dtype
    (6, 192, 'float32')
    """

    name: str
    """The name that the user gave: a Hub id, a folder, or tiny."""

    watch: Callable[[str], object] = staticmethod(lambda _place: None)
    """Called often while nothing is yielded, with a few words on the work in progress, which an error from it ends."""

    runs_ahead: bool = False
    """True if `harvest` may run in a thread of its own while what it yielded before is used elsewhere: it writes to
    nothing that it has yielded."""

    def __repr__(self) -> str:
        # A dataclass's own would have every module, and the tokenizer's vocabulary.
        where = f" on {self.device}" if self.device else ""
        return f"<{type(self).__name__} {self.name}: {self.layers} layers of width {self.d_model}, {self.dtype}{where}>"

    @contextmanager
    def watched(self, watch: Callable[[str], object]) -> Iterator[None]:
        """Call `watch` instead of the one before, within this context."""
        before, self.watch = self.watch, watch
        try:
            yield
        finally:
            self.watch = before

    @property
    @abstractmethod
    def layers(self) -> int:
        """Number of blocks."""

    @property
    @abstractmethod
    def d_model(self) -> int:
        """Width of the residual stream."""

    @property
    def context(self) -> int | None:
        """The most tokens that the model reads, where that is known."""
        return None

    @property
    @abstractmethod
    def revision(self) -> str | None:
        """The commit of a model from the Hub."""

    @property
    @abstractmethod
    def tokenizer_hash(self) -> str | None:
        """SHA-256 of the tokenizer's definition: models with the same one cut text into the same tokens."""

    @property
    @abstractmethod
    def dtype(self) -> str:
        """The dtype of its weights: float32, bfloat16, ..."""

    @property
    @abstractmethod
    def device(self) -> str:
        """The device that it runs on: cpu, cuda:0, ..."""

    @abstractmethod
    def windower(self, window: int, bos: Bos = "auto") -> Windower:
        """Return what cuts documents into windows for this model. Raises `SettingError` for more tokens than it reads.

        `bos` says which token each begins with: `itda.sources.tokenizing.special`.
        """

    @abstractmethod
    def check(self, sites: Sequence[Site]) -> None:
        """Raises `ModelError` for a site that the model does not have."""

    @abstractmethod
    def flight(self, tokens: int) -> int:
        """Return how many groups of `tokens` tokens each, padding included, are best given to `harvest` together."""

    @abstractmethod
    def harvest(
        self, groups: Sequence[Group], sites: Sequence[Site]
    ) -> Iterator[tuple[int, Mapping[Site, Float[Tensor, "activations d_model"]]]]:
        """Yield the activations of some groups at the places where their `is_activation` is true, row by row.

        Each item is the number of a group, and activations of some of the sites, [activations, d_model], in the model's
        dtype and on its device. Each site comes once for each group, the groups of a site in order; nothing else is
        promised: all sites of a group may come at once, or one site of all groups first.
        """

    def generate(self, prompt: Any, **options: Any) -> str:  # noqa: ARG002
        """Return what the model writes after a prompt. Raises `ModelError`: only a model in memory can, see there."""
        raise ModelError(
            f"{self.name} is not in this process's memory as a whole, so it cannot write text: {IN_MEMORY}"
        )

    def without(
        self,
        dictionary: Any,  # noqa: ARG002
        atoms: Any,  # noqa: ARG002
        *,
        site: Any = None,  # noqa: ARG002
        residual: bool = True,  # noqa: ARG002
    ) -> ActivationModel:
        """Return the model with atoms removed. Raises `ModelError`: only a model in memory can be edited, see there."""
        raise ModelError(
            f"{self.name} is not in this process's memory as a whole, so no model without atoms can be made of it: "
            f"{IN_MEMORY}"
        )


class PlacedModel(ActivationModel):
    """A model whose activations are read from the outputs of its own modules."""

    @abstractmethod
    def places(self, sites: Sequence[Site]) -> dict[Site, Place]:
        """Return the module of each site, and how its activations are read and written there.

        Raises `ModelError` for a site that the model does not have, or that cannot be read.
        """

    def check(self, sites: Sequence[Site]) -> None:
        """Raises `ModelError` for a site that the model does not have, or that cannot be read."""
        self.places(sites)
