"""Which tokens of a forward pass are steered: all, the prompt's, the reply's, or those with chosen numbers.

While a model writes, it runs over the whole prompt first, and then over one token at a time, with what it keeps of the
earlier ones (the KV cache). A hook sees the activations of one pass alone. So the model's own arguments are noted in
front of each pass: `PassTokens` says which tokens of the text it runs on.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from itda.errors import SettingError

At = str | int | Sequence[str | int]
"""The tokens to steer: "all", "prompt", "reply", the number of a token of the prompt, or several of these."""
PLACES = ("all", "prompt", "reply")

_noted: ContextVar[PassTokens | None] = ContextVar("itda_pass_tokens", default=None)
"""The tokens of the pass that this thread is in, or was in last."""


@dataclass(frozen=True)
class Tokens:
    """The choice of the tokens to steer.

    >>> Tokens.of(["reply", -1])
    Tokens(names=('reply',), numbers=(-1,))
    """

    names: tuple[str, ...] = ("all",)
    numbers: tuple[int, ...] = ()
    """Numbers of tokens of the prompt: 0 is the first one after the special tokens in front, -1 the last."""

    @staticmethod
    def of(at: At) -> Tokens:
        """Return the choice that a user gives. Raises `SettingError` for what is none."""
        several = [at] if isinstance(at, str | int) else list(at)
        for each in several:
            known = each in PLACES if isinstance(each, str) else isinstance(each, int) and not isinstance(each, bool)
            if not known:
                raise SettingError(f"no tokens {each!r} to steer at: use {', '.join(PLACES)}, or numbers of tokens")
        if not several:
            raise SettingError("no token to steer at: use all, prompt, reply, or numbers of tokens")
        names = tuple(each for each in several if isinstance(each, str))
        return Tokens(names, tuple(int(each) for each in several if not isinstance(each, str)))


ALL = Tokens()
"""Every token of a text."""


@dataclass(frozen=True, eq=False)
class PassTokens:
    """The tokens that a model runs on in one pass."""

    number: Int64[Tensor, "texts tokens"]
    """The number of each token in its text, from 0; padding, and special tokens in front, have less than 0."""
    of_prompt: Bool[Tensor, "texts tokens"]
    length: Int64[Tensor, " texts"]
    """Number of tokens of each prompt, without the special ones in front."""
    front: Int64[Tensor, " texts"]
    """Number of special tokens in front of each text."""

    @staticmethod
    def of_pass(given: dict[str, Any], fronts: Sequence[Sequence[int]], prompt: int | None) -> PassTokens | None:
        """Return the tokens of a pass with the arguments `given`; None if they hold no tokens.

        `fronts` are the special tokens that may stand in front of a text, the longest first; `prompt` is the number of
        tokens of the prompt, if it is known. If not, the first pass is taken to be over the prompt, and no later one.
        """
        ids = given.get("input_ids")
        width = ids if isinstance(ids, Tensor) else given.get("inputs_embeds")
        if not isinstance(width, Tensor) or width.ndim < 2:
            return None
        shape, mask = width.shape[:2], given.get("attention_mask")
        earlier = _earlier(given, mask, shape[1])
        real = torch.ones(shape[0], earlier + shape[1], dtype=torch.bool, device=width.device)
        if isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] == real.shape[1]:
            real = mask.to(width.device).bool()
        before = _noted.get()
        if earlier == 0 and isinstance(ids, Tensor):
            front = _front(ids, real, fronts)
        elif earlier and before is not None and len(before.front) == shape[0]:
            front = before.front.to(width.device)
        else:
            front = torch.zeros(shape[0], dtype=torch.long, device=width.device)
        number = torch.where(real, real.cumsum(dim=1) - 1 - front[:, None], -1)
        end = prompt if prompt is not None else earlier or shape[1]
        column = torch.arange(real.shape[1], device=width.device) < end
        unread = max(0, end - real.shape[1])  # a long prompt may be read in parts
        length = (real & column).sum(dim=1) + unread - front
        of_prompt = column[earlier:].expand(shape)
        return PassTokens(number[:, earlier:], of_prompt, length, front)

    def chosen(self, tokens: Tokens) -> Bool[Tensor, "texts tokens"]:
        """Return True for the tokens to steer. Raises `SettingError` for a number that the prompt does not have."""
        text = self.number >= 0
        mask = torch.zeros_like(text)
        for name in tokens.names:
            mask |= text if name == "all" else text & (self.of_prompt if name == "prompt" else ~self.of_prompt)
        for wanted in tokens.numbers:
            if bool(self.of_prompt.any()):
                self._check(wanted)
                place = torch.full_like(self.length, wanted) if wanted >= 0 else self.length + wanted
                mask |= text & self.of_prompt & (self.number == place[:, None])
        return mask

    def _check(self, wanted: int) -> None:
        shortest = int(self.length.min())
        if not -shortest <= wanted < shortest:
            raise SettingError(f"no token {wanted}: the prompt has {shortest}, use 0 to {shortest - 1} or -1")


def note(given: dict[str, Any], fronts: Sequence[Sequence[int]], prompt: int | None) -> None:
    """Note the tokens of the pass that begins with these arguments; those without tokens are of a pass noted before."""
    found = PassTokens.of_pass(given, fronts, prompt)
    if found is not None:
        _noted.set(found)


def noted() -> PassTokens | None:
    """Return the tokens of the pass that this thread is in."""
    return _noted.get()


def forget() -> None:
    """Forget the last pass."""
    _noted.set(None)


def _earlier(given: dict[str, Any], mask: Any, width: int) -> int:
    """Return how many tokens the model has read before this pass, and keeps in its cache."""
    cache = given.get("past_key_values")
    if cache is not None and hasattr(cache, "get_seq_length"):
        return int(cache.get_seq_length())
    if isinstance(mask, Tensor) and mask.ndim == 2 and given.get("use_cache") is not False:
        return max(0, mask.shape[1] - width)
    return 0


def _front(ids: Tensor, real: Tensor, fronts: Sequence[Sequence[int]]) -> Int64[Tensor, " texts"]:
    """Return how many tokens at the start of each text are the special ones that a tokenizer puts there."""
    found = torch.zeros(len(ids), dtype=torch.long, device=ids.device)
    longest = max(map(len, fronts), default=0)
    if longest == 0:
        return found
    for row, (own, mask) in enumerate(zip(ids, real, strict=True)):
        start = own[mask][:longest].tolist()
        found[row] = next((len(front) for front in fronts if start[: len(front)] == list(front)), 0)
    return found
