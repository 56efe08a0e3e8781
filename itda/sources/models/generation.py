"""Text that a model writes after a prompt, by transformers' own `generate`."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch

from itda.errors import ItdaError, ModelError, SettingError
from itda.sources.models.hooks import evaluating
from itda.sources.models.limits import rows_of
from itda.sources.tokenizing.special import Bos, dressing

if TYPE_CHECKING:
    from itda.sources.models.transformers import LanguageModel

Message = Mapping[str, str]
Prompt = str | Sequence[Message]
"""A text to go on with, or the messages of a chat: [{"role": "user", "content": "Hello"}]."""

SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
"""Options of `generate` that only mean something where the next token is drawn."""
OTHERS = ("num_return_sequences", "return_dict_in_generate", "output_scores", "output_logits")
"""Options that make `generate` return something else than one text."""

_prompt: ContextVar[int | None] = ContextVar("itda_prompt", default=None)
"""Number of tokens of the prompt that this thread generates from, special ones included; None outside `generate`."""
_drawing = threading.Lock()
"""Held while tokens are drawn with a seed: torch has one generator for all threads."""


def prompt_length() -> int | None:
    """Return the number of tokens of the prompt that this thread generates from; None if it does not.

    >>> prompt_length() is None
    True
    """
    return _prompt.get()


def generate(
    lm: LanguageModel,
    prompt: Prompt,
    *,
    max_new_tokens: int,
    seed: int | None,
    chat: bool,
    bos: Bos,
    **options: Any,
) -> str:
    """Return what a model writes after a prompt: `LanguageModel.generate` says what the arguments are."""
    if not lm.is_causal:
        raise ModelError(f"{lm.name} does not predict the next token: generate with a causal language model")
    _check_options(max_new_tokens, seed, options)
    ids = prompt_ids(lm, prompt, chat=chat, bos=bos)
    _check_length(lm, len(ids), max_new_tokens)
    given = torch.tensor([ids], device=lm.model.device)
    options = {**_defaults(lm, seed, options), **options, "max_new_tokens": max_new_tokens}
    token = _prompt.set(len(ids))
    try:
        with evaluating(lm.model), _seeded(seed, lm.model.device):
            made: Any = lm.model.generate(  # pyright: ignore[reportCallIssue] - transformers' own type is a mixin's
                input_ids=given, attention_mask=torch.ones_like(given), **options
            )
    except ItdaError:  # of a hook; some are `ValueError`s
        raise
    except (ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SettingError(f"transformers does not generate with these options ({reason}): change them") from error
    finally:
        _prompt.reset(token)
    return str(lm.tokenizer.decode(made[0, len(ids) :], skip_special_tokens=True))


def prompt_ids(lm: LanguageModel, prompt: Prompt, *, chat: bool = False, bos: Bos = "auto") -> list[int]:
    """Return the tokens of a prompt, with the special ones in front. Raises `SettingError` for no text, or no template.

    >>> from itda.sources.models.transformers import LanguageModel
    >>> len(prompt_ids(LanguageModel.load("tiny"), "import os"))
    3
    """
    if not isinstance(prompt, str) or chat:
        return _chat_ids(lm, [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt))
    if not prompt.strip():
        raise SettingError("there is no text: give a prompt in quotes")
    return _checked(lm, [*dressing(lm.tokenizer, bos)[0], *_ids(lm, prompt)])


def _chat_ids(lm: LanguageModel, messages: Sequence[Message]) -> list[int]:
    if not lm.tokenizer.chat_template:
        raise SettingError(f"{lm.name} has no chat template: give the prompt as one text")
    try:
        text = lm.tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # whatever the template's own program raises
        reason = " ".join(str(error).split())[:150]
        raise SettingError(
            f'the chat template of {lm.name} refuses this ({reason}): give [{{"role": "user", "content": ...}}]'
        ) from error
    return _checked(lm, _ids(lm, str(text)))


def _ids(lm: LanguageModel, text: str) -> list[int]:
    """Return the tokens of a text alone. Raises `SettingError` for what no tokenizer reads."""
    try:
        found: Any = lm.tokenizer(text, add_special_tokens=False, return_attention_mask=False, verbose=False)
    except (TypeError, UnicodeEncodeError) as error:
        raise SettingError(
            "the prompt holds a broken character (half a surrogate pair): mend it or leave it out"
        ) from error
    return list(found["input_ids"])


def _checked(lm: LanguageModel, ids: list[int]) -> list[int]:
    rows = rows_of(lm.model)
    if ids and max(ids) >= rows:
        raise ModelError(
            f"the text has token {max(ids)}, and {lm.name} has embeddings for {rows} tokens: use the tokenizer that it "
            "was trained with"
        )
    return ids


def _check_options(max_new_tokens: int, seed: int | None, options: Mapping[str, Any]) -> None:
    if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or max_new_tokens < 1:
        raise SettingError(f"max_new_tokens is {max_new_tokens!r}: give a number from 1")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63):
        raise SettingError(f"the seed is {seed!r}: give a whole number from 0")
    for name in (*OTHERS, "input_ids", "inputs_embeds", "attention_mask"):
        if name in options:
            raise SettingError(f"generate returns one text and takes no {name}: use lm.model.generate for that")


def _check_length(lm: LanguageModel, prompt: int, reply: int) -> None:
    if lm.context is not None and prompt + reply > lm.context:
        raise SettingError(
            f"a prompt of {prompt} tokens and {reply} new ones, but {lm.name} reads at most {lm.context}: shorten one"
        )


def _defaults(lm: LanguageModel, seed: int | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options that are not given: greedy unless sampling is asked for, whatever the model's own settings."""
    draws = options.get("do_sample", seed is not None or any(options.get(name) is not None for name in SAMPLING))
    made: dict[str, Any] = {"do_sample": draws}
    if not draws:
        made |= dict.fromkeys(SAMPLING)  # else transformers warns of those of the model that it does not use
    settings = getattr(lm.model, "generation_config", None)
    if getattr(settings, "pad_token_id", None) is None:
        pad = lm.tokenizer.pad_token_id
        made["pad_token_id"] = pad if pad is not None else lm.tokenizer.eos_token_id
    return made


@contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Draw by a seed within this, and go on with the generator's own state afterwards."""
    if seed is None:
        yield
        return
    devices = [device] if device.type == "cuda" else []
    with _drawing, torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
