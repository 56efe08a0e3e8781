"""Labels for tokens that are known only as strings, as TransformerLens, nnsight or a hook of one's own give them.

There is no text then, so the text of a prompt is taken to be its token strings joined, and a token's offsets are
counted in that. They are right where the strings are parts of the text with their spaces (" be"), as
`tokenizer.decode([id])` and TransformerLens' `to_str_tokens` give them, and off where a tokenizer writes its own
signs for spaces ("Ġbe", "▁be").
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from itda.core.labels import NO_TOKEN_ID, Label, Labels
from itda.core.site import HOOKS, Site
from itda.errors import ActivationError, SettingError


def kept_of(mask: Any, shape: tuple[int, int]) -> np.ndarray:
    """Read a mask [batch, positions] of booleans, zeros and ones, or all True for None. Raises `SettingError`.

    >>> kept_of(torch.tensor([[1, 0]]), (1, 2)).tolist()
    [[True, False]]
    """
    if mask is None:
        return np.ones(shape, dtype=bool)
    values = np.asarray(mask.detach().cpu() if isinstance(mask, Tensor) else mask)
    if values.shape != shape:
        raise SettingError(f"the mask has shape {list(values.shape)}: give {list(shape)}, one value per token")
    if values.dtype.kind not in "biu" or not np.isin(values, (0, 1)).all():
        raise SettingError("the mask has values besides 0 and 1: give True for a token and False for padding")
    return values.astype(bool)


def labels_of_prompts(
    tokens: Sequence[Any],
    kept: np.ndarray,
    documents: Sequence[str] | None = None,
    token_ids: Any = None,
) -> Labels:
    """Label the tokens that `kept` [batch, positions] keeps, prompt by prompt.

    Each prompt is a list of strings, one for each position, or one for each kept token. A prompt is a document,
    called by its joined text unless `documents` has names. Raises `SettingError` where the numbers differ.

    >>> labels_of_prompts([["<pad>", "To", " be"]], np.array([[False, True, True]]))
    <Labels of 2 tokens: «To» be, To« be»>
    """
    if isinstance(tokens, str) or len(tokens) != len(kept) or any(isinstance(strings, str) for strings in tokens):
        raise SettingError(f"tokens are no lists of strings for {len(kept)} prompts: give one list per prompt")
    if documents is not None and (isinstance(documents, str) or len(documents) != len(kept)):
        raise SettingError(f"documents are not {len(kept)} names: give one string per prompt")
    ids = _ids(token_ids, kept.shape)
    found: list[Label] = []
    for prompt, strings in enumerate(tokens):
        own = _own(strings, kept[prompt], prompt)
        text = "".join(own)
        document = text if documents is None else str(documents[prompt])
        start = 0
        for position, (place, string) in enumerate(zip(np.flatnonzero(kept[prompt]), own, strict=True)):
            end = start + len(string)
            label = Label(document, position, start, end, int(ids[prompt, place]), text[:start], string, text[end:])
            found.append(label)
            start = end
    return Labels.of(*found)


def activations_of_cache(cache: Mapping[str, Any], site: Site) -> Any:
    """Return what a cache has at a site, under any name of its hook. Raises `SettingError` if it has nothing there."""
    names = {*cache.keys()}  # TransformerLens' cache tells keys, but is no mapping otherwise
    own = [f"blocks.{site.layer}.{hook}" for hook, stream in HOOKS.items() if stream == site.stream]
    found = next((cache[name] for name in own if name in names), None)
    if found is None:
        has = ", ".join(sorted(names)[:4]) or "nothing"
        raise SettingError(f"the cache has no {site.hook_name} (it has {has}, ...): cache that hook, or name another")
    return found


def read_token_ids(tokens: Any, tokenizer: Any) -> tuple[np.ndarray, list[Any], np.ndarray]:
    """Read token ids [batch, positions], or those of one prompt [positions], for `ActivationBatch.of`.

    Returns the ids, the string of each, and a mask that is True for the tokenizer's special tokens. Raises
    `SettingError` for what are no integers.
    """
    ids = np.asarray(tokens.detach().cpu() if isinstance(tokens, Tensor) else tokens)
    if ids.dtype.kind not in "iu" or ids.ndim not in (1, 2):
        raise SettingError("with a tokenizer, tokens are ids [batch, positions]: give integers, or leave it out")
    strings = {int(number): tokenizer.decode([int(number)]) for number in np.unique(ids)}
    special = np.isin(ids, list(tokenizer.all_special_ids))
    named = [[strings[int(number)] for number in row] for row in np.atleast_2d(ids)]
    return ids, named if ids.ndim == 2 else named[0], special


def check_finite_tokens(rows: Tensor, kept: np.ndarray, labels: Labels) -> None:
    """Refuse kept activations [rows, d_model] with a NaN or an infinity. Raises `ActivationError` naming the token."""
    finite = torch.isfinite(rows).all(dim=-1)
    if not bool(finite.all()):
        row = int(finite.logical_not().nonzero()[0])
        prompt, place = np.argwhere(kept)[row].tolist()
        raise ActivationError(
            f"the activation of token {place} of prompt {prompt}, {labels[row].token[:40]!r}, is not finite: mask it "
            "out, or run the model in float32"
        )


def _own(strings: Sequence[Any], kept: np.ndarray, prompt: int) -> list[str]:
    """Return the strings of a prompt's kept tokens."""
    number = int(kept.sum())
    if len(strings) == len(kept):
        own = [string for string, keep in zip(strings, kept, strict=True) if keep]
    elif len(strings) == number:
        own = list(strings)
    else:
        raise SettingError(
            f"prompt {prompt} has {len(strings)} token strings: give {len(kept)}, one per position, or {number}, one "
            "per token that the mask keeps"
        )
    if not all(isinstance(string, str) for string in own):
        raise SettingError(f"prompt {prompt} has tokens that are no strings: give [tokenizer.decode([i]) for i in ids]")
    return own


def _ids(token_ids: Any, shape: tuple[int, ...]) -> np.ndarray:
    if token_ids is None:
        return np.full(shape, NO_TOKEN_ID, dtype=np.int64)
    ids = np.asarray(token_ids.detach().cpu() if isinstance(token_ids, Tensor) else token_ids)
    if ids.shape != shape or ids.dtype.kind not in "iu":
        raise SettingError(f"token_ids are of shape {list(ids.shape)}, {ids.dtype}: give integers {list(shape)}")
    return ids
