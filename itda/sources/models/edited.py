"""Edits of activations by hooks: where they are set, on which tokens they act, and models with an edit of their own."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from itda.core.dictionary import ITDA
from itda.core.steering import Edit
from itda.errors import ModelError
from itda.sources.models.blocks import Place
from itda.sources.models.generation import prompt_length
from itda.sources.models.hooks import Before, Hook, permanent
from itda.sources.models.pass_tokens import ALL, Tokens, note, noted
from itda.sources.tokenizing.special import beginning, dressing

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Editing:
    """The hooks that edit a model's activations: one that notes a pass's tokens, one that changes what a site hands on.

    Padding and special tokens in front of a text stay as they are.
    """

    def __init__(
        self, name: str, tokenizer: PreTrainedTokenizerBase, d_model: int, edit: Edit, tokens: Tokens = ALL
    ) -> None:
        self.name, self.d_model, self.edit, self.tokens = name, d_model, edit, tokens
        self._fronts = fronts_of(tokenizer)
        self._edits: dict[torch.device, Edit] = {}

    def hooks(self, model: PreTrainedModel, place: Place) -> tuple[list[tuple[nn.Module, Hook]], list]:
        """Return the hooks after and before modules of a model; none if the edit changes nothing."""
        if self.edit.changes_nothing:  # the bits are those of the model
            return [], []
        # Most models call their base model, which is called by itself too; OPT calls only the decoder in it.
        whole: list[nn.Module] = [model] if model.base_model is model else [model, model.base_model]
        before: list[tuple[nn.Module, Before]] = [(module, self._note) for module in whole]
        return [(place.module, self._change(place))], before

    def _note(self, args: tuple, kwargs: dict[str, Any]) -> None:
        given = {"input_ids": args[0], **kwargs} if args else kwargs
        note(given, self._fronts, prompt_length())

    def _change(self, place: Place) -> Hook:
        def change(output: Any) -> Any:
            here = noted()
            if here is None:
                raise ModelError(
                    f"{self.name} was called without token ids, so no token can be chosen to steer: "
                    "call it with input_ids"
                )
            mask = here.chosen(self.tokens)
            if not bool(mask.any()):
                return None
            x = place.read(output, mask.shape, self.d_model)
            mask = mask.to(x.device)
            return place.write(output, self._on(x.device)(x[mask]), mask)

        return change

    def _on(self, device: torch.device) -> Edit:
        if device not in self._edits:
            self._edits[device] = self.edit.to(device)
        return self._edits[device]


def twin(model: PreTrainedModel) -> PreTrainedModel:
    """Return a model of the same weights, not copied, whose modules are its own: hooks of one are not the other's."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def edited_twin(model: PreTrainedModel, place: Place, editing: Editing) -> PreTrainedModel:
    """Return a twin of a model whose activations at a place are always edited. The model itself stays as it is."""
    path = next(path for path, module in model.named_modules() if module is place.module)
    made = twin(model)
    after, before = editing.hooks(made, Place(made.get_submodule(path), place.scale))
    permanent(made, after, before)
    return made


def check_fits(name: str, d_model: int, tokenizer_hash: str | None, dictionary: ITDA) -> None:
    """Raises `ModelError` for a dictionary of another width than a model's, or made with another vocabulary."""
    if dictionary.d_model != d_model:
        raise ModelError(
            f"atoms of width {dictionary.d_model} for {name}, which is {d_model} wide: use the model that "
            "the dictionary was made from"
        )
    made = dictionary.provenance.get("tokenizer")
    if made is not None and tokenizer_hash is not None and made != tokenizer_hash:
        raise ModelError(
            f"the dictionary was made with another vocabulary than that of {name}: use its own model, or give "
            "vectors, as direction=dictionary.atoms[17]"
        )


def fronts_of(tokenizer: PreTrainedTokenizerBase) -> Sequence[Sequence[int]]:
    """Return the special tokens that may stand in front of a text, the longest first."""
    own, start = dressing(tokenizer)[0], beginning(tokenizer)
    return sorted({tuple(each) for each in (own, [start] if start is not None else []) if each}, key=len, reverse=True)
