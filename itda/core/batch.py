"""Activations with their labels, as sources yield them and trainers take them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from itda.core.intake import check_finite, rows_of, tensor_of
from itda.core.labels import Labels
from itda.core.site import Site as Site
from itda.core.token_strings import (
    activations_of_cache,
    check_finite_tokens,
    kept_of,
    labels_of_prompts,
    read_token_ids,
)
from itda.errors import ActivationError, SettingError


@dataclass(frozen=True, eq=False, init=False)
class ActivationBatch:
    """Activations [batch, d_model] in the order of their text, each with its label. `ActivationBatch.of` labels them.

    An array of activations becomes a tensor. Raises `ActivationError` for what `itda.core.intake` refuses, and if there
    are not as many labels as activations. Whether rows are finite is checked when they are used.

    >>> import torch
    >>> from itda.core.labels import Label, Labels
    >>> batch = ActivationBatch(torch.ones(1, 8), Labels.of(Label("essay", 0, 0, 2, 17, "", "To", " be")))
    >>> len(batch)
    1
    """

    activations: Float[Tensor, "batch d_model"]
    labels: Labels

    def __init__(self, activations: Tensor | np.ndarray, labels: Labels) -> None:
        object.__setattr__(self, "activations", rows_of(activations))
        object.__setattr__(self, "labels", labels)
        if len(self.activations) != len(self.labels):
            raise ActivationError(
                f"{len(self.activations)} activations with {len(self.labels)} labels: give one label per activation"
            )

    @staticmethod
    def of(
        activations: Tensor | np.ndarray,
        labels: Labels | Iterable[str] | None = None,
        *,
        tokens: Sequence[Any] | None = None,
        mask: Any = None,
        documents: Sequence[str] | None = None,
        token_ids: Any = None,
    ) -> ActivationBatch:
        """Label activations from anywhere: a matrix, or what a hook, TransformerLens or nnsight gives.

        - A matrix [n, d_model]: `labels` are n strings (`Labels.of_texts`), `Labels`, or None for the row numbers.
        - Tokens [batch, positions, d_model]: `tokens` are their strings, a list for each prompt. `mask`
          [batch, positions] is True for the tokens of the text and False for padding and special tokens; None keeps
          all. A prompt has one string for each position, or one for each kept token. `documents` names the prompts,
          and `token_ids` [batch, positions] may be given to be kept. One prompt may come without its first axis.

        Positions count kept tokens. A prompt's text is its kept strings joined, and character offsets are counted in
        it. Without `documents` a prompt is called by its text, so equal prompts have equal labels.

        Raises `ActivationError` for values that are not activations, or kept ones that are not finite; `SettingError`
        for strings, masks and names that do not fit.

        >>> import torch
        >>> x = torch.randn(1, 3, 8)
        >>> ActivationBatch.of(x, tokens=[["<bos>", "To", " be"]], mask=[[0, 1, 1]]).labels
        <Labels of 2 tokens: «To» be, To« be»>
        >>> ActivationBatch.of(torch.ones(2, 8), ["a red fox", "a grey owl"]).labels
        <Labels of 2 texts: «a red fox», «a grey owl»>
        """
        if tokens is not None and labels is not None:
            raise SettingError("both labels and tokens are given: give labels for rows, or tokens for prompts")
        x = tensor_of(activations)
        if tokens is not None:
            return _of_prompts(x, tokens, mask, documents, token_ids)
        if mask is not None or documents is not None or token_ids is not None:
            raise SettingError("mask, documents and token_ids go with tokens: give the token strings as tokens=")
        if x.ndim == 3:
            raise SettingError(f"activations are of shape {list(x.shape)}: give the token strings too, as tokens=")
        rows = rows_of(x)
        check_finite(rows)
        return ActivationBatch(rows, labels_of(labels, len(rows)))

    @staticmethod
    def from_cache(
        cache: Mapping[str, Any],
        tokens: Any,
        site: Site | str | int,
        *,
        tokenizer: Any = None,
        mask: Any = None,
        documents: Sequence[str] | None = None,
    ) -> ActivationBatch:
        """Label what TransformerLens' `run_with_cache` kept at a site, or what any mapping has under a hook's name.

        `tokens` are the strings of the tokens, a list for each prompt; or, with the model's `tokenizer`, the token ids
        [batch, positions] that the model ran on: special tokens are then left out unless a `mask` says which to keep.
        `site` is a layer, a site or the name of a hook. `mask` and `documents` are those of `of`.

        Raises `SettingError` for a cache that lacks the hook, and as `of` does.

        >>> import torch
        >>> cache = {"blocks.3.hook_resid_post": torch.randn(1, 3, 8)}
        >>> ActivationBatch.from_cache(cache, [["To", " be", " or"]], "blocks.3.hook_resid_post").labels
        <Labels of 3 tokens: «To» be or, To« be» or, To be« or»>
        """
        x = tensor_of(activations_of_cache(cache, Site.of(site)))
        if tokenizer is None:
            return ActivationBatch.of(x, tokens=tokens, mask=mask, documents=documents)
        ids, strings, special = read_token_ids(tokens, tokenizer)
        kept = ~special if mask is None else mask
        return ActivationBatch.of(x, tokens=strings, mask=kept, documents=documents, token_ids=ids)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Any) -> ActivationBatch:
        """Return some rows with their labels, selected by a slice, a list, a mask or an array of row numbers.

        >>> import torch
        >>> batch = ActivationBatch.of(torch.eye(3), ["one", "two", "three"])
        >>> batch[torch.tensor([True, False, True])].labels
        <Labels of 2 texts: «one», «three»>
        """
        if isinstance(rows, int | np.integer):
            raise SettingError(f"row {rows} alone is no batch: take batch[[{rows}]]")
        at = rows.to(self.activations.device) if isinstance(rows, Tensor) else rows
        return ActivationBatch(self.activations[at], self.labels[rows])

    def __repr__(self) -> str:
        kind = str(self.activations.dtype).removeprefix("torch.")
        return f"<ActivationBatch of {len(self):,} activations of width {self.activations.shape[-1]}, {kind}>"


def labels_of(given: Labels | Iterable[str] | None, rows: int) -> Labels:
    """Return one label for each row: those given, texts, or row numbers. Raises `SettingError` for another number."""
    if given is None:
        return Labels.of_rows(rows)
    labels = given if isinstance(given, Labels) else Labels.of_texts(given)
    if len(labels) != rows:
        raise SettingError(f"{len(labels)} labels for {rows} rows: give one string per row")
    return labels


def _of_prompts(
    x: Tensor, tokens: Sequence[Any], mask: Any, documents: Sequence[str] | None, ids: Any
) -> ActivationBatch:
    """Return the kept tokens of prompts [batch, positions, d_model], or of one prompt [positions, d_model]."""
    if x.ndim == 2:
        x, tokens = x[None], [tokens]
        mask, ids = (each if each is None else _one_more_axis(each) for each in (mask, ids))
    if x.ndim != 3:
        raise ActivationError(f"activations are of shape {list(x.shape)}: give [batch, positions, d_model]")
    kept = kept_of(mask, (x.shape[0], x.shape[1]))
    labels = labels_of_prompts(tokens, kept, documents, ids)
    rows = x[torch.from_numpy(kept).to(x.device)]
    check_finite_tokens(rows, kept, labels)
    return ActivationBatch(rows, labels)


def _one_more_axis(values: Any) -> np.ndarray:
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)[None]


@runtime_checkable
class ActivationSource(Protocol):
    """Yields, in corpus order, one batch [batch, d_model] per site for the same tokens.

    >>> import torch
    >>> from itda.core.labels import Label, Labels
    >>> batch = ActivationBatch(torch.ones(1, 8), Labels.of(Label("essay", 0, 0, 2, 17, "", "To", " be")))
    >>> class OneToken:
    ...     sites = (Site(3),)
    ...     def __iter__(self):
    ...         yield {Site(3): batch}
    >>> source: ActivationSource = OneToken()
    >>> sum(len(batches[Site(3)]) for batches in source)
    1
    """

    @property
    def sites(self) -> Sequence[Site]:
        """The sites whose activations each step yields."""
        ...

    def __iter__(self) -> Iterator[Mapping[Site, ActivationBatch]]: ...
