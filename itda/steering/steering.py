"""A model that is steered within a block: hooks that change the activations of one site, and are gone afterwards."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch

from itda.core.dictionary import ITDA
from itda.core.site import Site
from itda.core.steering import Edit
from itda.errors import ModelError, SettingError
from itda.sources.models.base import IN_MEMORY, ActivationModel
from itda.sources.models.blocks import Place
from itda.sources.models.generation import prompt_length
from itda.sources.models.hooks import Before, Hook, standing
from itda.sources.models.transformers import LanguageModel
from itda.sources.tokenizing.special import beginning, dressing
from itda.steering.tokens import ALL, Tokens, forget, note, noted


@dataclass(eq=False)
class Steering:
    """An edit of a model's activations at one site, in force for the passes of this thread within a `with` block.

    All threads may steer the same model at once, each in its own way. A thread that is started within the block is not
    steered, unless it runs in a copy of the context (`contextvars.copy_context().run`). Blocks within blocks act
    together, the outer one first. May be used again.

    >>> import itda
    >>> lm = itda.load_model("tiny")
    >>> with Steering(lm, itda.Site(3), Edit.of(None, direction=100 * torch.ones(192))):
    ...     steered = lm.generate("import os", max_new_tokens=1)
    >>> steered == lm.generate("import os", max_new_tokens=1)
    False
    """

    model: LanguageModel
    site: Site
    edit: Edit
    tokens: Tokens = ALL
    unit: dict[int, float] = field(default_factory=dict)
    """The typical coefficient of each atom that is added or set: strength 1."""
    _open: dict[int, list[AbstractContextManager[None]]] = field(default_factory=dict, repr=False)
    """The blocks that are open, by thread."""

    def __post_init__(self) -> None:
        self._place = self.model.places([self.site])[self.site]
        self._fronts = fronts_of(self.model)
        self._edits: dict[torch.device, Edit] = {}

    def __repr__(self) -> str:
        return f"<Steering of {self.model.name} at {self.site}>"

    def __enter__(self) -> Steering:
        if self.edit.changes_nothing:  # no hook: the bits are those of the model
            block = standing([])
        else:
            before: list[tuple[torch.nn.Module, Before]] = [(self.model.model.base_model, self._note)]
            block = standing([(self._place.module, self._hook(self._place))], before)
        block.__enter__()
        self._open.setdefault(threading.get_ident(), []).append(block)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        own = self._open[threading.get_ident()]
        block = own.pop()
        if not own:
            del self._open[threading.get_ident()]
        forget()
        block.__exit__(kind, error, traceback)

    def _note(self, args: tuple, kwargs: dict[str, Any]) -> None:
        given = {"input_ids": args[0], **kwargs} if args else kwargs
        note(given, self._fronts, prompt_length())

    def _hook(self, place: Place) -> Hook:
        def change(output: Any) -> Any:
            here = noted()
            if here is None:
                raise ModelError(
                    f"{self.model.name} runs without its tokens, so none can be steered: give it input_ids"
                )
            mask = here.chosen(self.tokens)
            if not bool(mask.any()):
                return None
            x = place.read(output, mask.shape, self.model.d_model)
            mask = mask.to(x.device)
            return place.write(output, self._on(x.device)(x[mask]), mask)

        return change

    def _on(self, device: torch.device) -> Edit:
        if device not in self._edits:
            self._edits[device] = self.edit.to(device)
        return self._edits[device]


def steerable(model: ActivationModel) -> LanguageModel:
    """Return the same model, typed as one that can be steered. Raises `ModelError` if it is not in memory."""
    if isinstance(model, LanguageModel):
        return model
    raise ModelError(
        f"{model.name} runs where hooks of this process do not reach, so it cannot be steered: {IN_MEMORY}"
    )


def check_fits(model: LanguageModel, dictionary: ITDA) -> None:
    """Raises `ModelError` for a dictionary of another width than the model's, or made with another vocabulary."""
    if dictionary.d_model != model.d_model:
        raise ModelError(
            f"atoms of width {dictionary.d_model} for {model.name}, which is {model.d_model} wide: use the model that "
            "the dictionary was made from"
        )
    made, here = dictionary.provenance.get("tokenizer"), model.tokenizer_hash
    if made is not None and here is not None and made != here:
        raise ModelError(
            f"the dictionary was made with another vocabulary than that of {model.name}: use its own model, or give "
            "vectors, as direction=dictionary.atoms[17]"
        )


def site_to_steer(dictionary: ITDA | None, site: Site | str | int | None) -> Site:
    """Return the site that is named, by default the dictionary's. Raises `SettingError` if there is none."""
    if site is not None:
        return Site.of(site)
    if dictionary is None or dictionary.site is None:
        raise SettingError("there is no site to steer at: give one, as site=3 or site='3.mlp_out'")
    return dictionary.site


def fronts_of(model: LanguageModel) -> Sequence[Sequence[int]]:
    """Return the special tokens that may stand in front of a text, the longest first."""
    own, start = dressing(model.tokenizer)[0], beginning(model.tokenizer)
    return sorted({tuple(each) for each in (own, [start] if start is not None else []) if each}, key=len, reverse=True)
