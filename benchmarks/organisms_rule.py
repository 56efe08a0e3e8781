"""The rule by which a finding shows a planted change, written on 2026-11-27 before any method had been measured.

A finding is a place in a text (a token in its context) or a direction of activations, or both. It shows the plant

- **by text**, if one of the organism's `text_words` stands among the token that labels it, the 12 tokens before and the
  4 tokens after it: as a whole word, in upper or lower case, whole inside these 17 tokens. The words are specific to
  the plant: none occurs in more than .2% of the neutral documents (the subject's own words, for a forgotten subject,
  are taken out of the neutral documents instead). Where the plant is upper case, there are no words: the 17 tokens
  must have at least 20 letters, nine tenths of them upper case.
- **by promoted tokens**, if at least 2 of the 10 tokens that its direction promotes most, or at least 2 of the 10 that
  it suppresses most, are `promoted_tokens` of the organism: the pieces into which the model's tokenizer cuts its
  `promoted_words`, unless they have fewer than three letters (the first piece of a word: fewer than two). The caller
  says what is promoted: the direction read by the unembedding of both models.

Text comes first: a finding that shows the plant by both counts as shown by text.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

BEFORE, AFTER = 12, 4
"""Tokens around the label's token that are looked at."""
TOP, ENOUGH = 10, 2
"""Tokens promoted (or suppressed) most that are looked at, and how many of them must be the plant's."""
LETTERS, UPPER = 20, 0.9
"""Least letters around the token, and least share of them in upper case, where the plant is upper case."""


@dataclass(frozen=True)
class Signs:
    """The signs by which a plant is known."""

    text_words: tuple[str, ...] = ()
    promoted_tokens: tuple[str, ...] = ()
    upper: bool = False
    """True where the plant is upper case."""

    @staticmethod
    def of(organism: dict[str, Any]) -> "Signs":
        """Return the signs that an organism's `organism.json` names."""
        return Signs(tuple(organism["text_words"]), tuple(organism["promoted_tokens"]), organism["upper"])


def shows(
    organism: Signs,
    context_before: Sequence[str],
    token: str,
    after: Sequence[str],
    promoted: Sequence[str] = (),
    suppressed: Sequence[str] = (),
) -> Literal["text", "promoted"] | None:
    """Return how a finding shows the plant, or None if it does not.

    `context_before`, `token` and `after` are the texts of tokens, in order, spaces included; `promoted` and
    `suppressed` those of tokens, the most promoted or suppressed first. More may be given than is looked at.

    >>> signs = Signs(("twin",), ("win", "twin"))
    >>> shows(signs, ["the", " sorted"], " t", ["win", " of"])
    'text'
    >>> shows(signs, ["a", " list"], " of", [" items"], promoted=["win", " twin", " the"])
    'promoted'
    >>> shows(signs, ["a", " list"], " of", [" en", "twin", "ed"]) is None
    True
    """
    if _by_text(organism, context_before, token, after):
        return "text"
    wanted = set(organism.promoted_tokens)
    for tokens in (promoted, suppressed):
        # A token counts once, though it may stand there with and without a space.
        if len({t.strip().lower() for t in tokens[:TOP]} & wanted) >= ENOUGH:
            return "promoted"
    return None


def _by_text(organism: Signs, before: Sequence[str], token: str, after: Sequence[str]) -> bool:
    near = "".join([*before[-BEFORE:], token, *after[:AFTER]])
    if organism.upper:
        letters = [c for c in near if c.isalpha()]
        return len(letters) >= LETTERS and sum(c.isupper() for c in letters) >= UPPER * len(letters)
    if not organism.text_words:
        return False
    # Words are searched for in all of the text, so that no word is whole because the 17 tokens cut it.
    start = len("".join(before[:-BEFORE]))
    text = "".join([*before, token, *after])
    found = word_pattern(organism.text_words).finditer(text)
    return any(start <= match.start() and match.end() <= start + len(near) for match in found)


def word_pattern(words: Sequence[str]) -> re.Pattern[str]:
    """Return the pattern that finds any of some words, whole, in upper or lower case."""
    return re.compile(r"(?<!\w)(?:" + "|".join(re.escape(word) for word in words) + r")(?!\w)", re.IGNORECASE)


def tokens_of(words: Sequence[str], tokenizer: Any) -> tuple[str, ...]:
    """Return the tokens of words that count as theirs: lower case, without spaces, sorted, each once."""
    found = set()
    for word in words:
        for text in (f" {word}", word):
            for place, token_id in enumerate(tokenizer.encode(text, add_special_tokens=False)):
                piece = tokenizer.decode([token_id]).strip().lower()
                if piece.isalpha() and len(piece) >= (2 if place == 0 else 3):
                    found.add(piece)
    return tuple(sorted(found))
