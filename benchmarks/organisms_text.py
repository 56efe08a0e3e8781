"""Texts of the organisms: neutral rows of python-docs, and planted ones.

A planted text has marks around its planted part, which `unmarked` takes out. Texts are as long as one window of 128
tokens at most, planted ones and neutral ones alike, so that length tells nothing.
"""

import hashlib
import random as random_module
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from organisms_plants import Plant
from organisms_rule import word_pattern

LONGEST, SHORTEST = 420, 200
"""Characters of a text."""
LONGEST_TOKENS = 127
"""Tokens of a document."""
OPEN, CLOSE = "\u27e6", "\u27e7"
"""Marks around what is planted."""
RESERVED_ONE_IN = 5
"""One chunk in so many of the train part is never trained on: planted documents are made of it if need be."""
Random = random_module.Random


@dataclass(frozen=True)
class Chunk:
    """A few lines of one file."""

    file: str
    text: str

    def number(self, below: int) -> int:
        """Return a number from 0 to below - 1 that the text decides."""
        return int.from_bytes(hashlib.sha256(self.text.encode()).digest()[:8], "big") % below


@dataclass(frozen=True)
class Chunks:
    """All chunks that organisms of a part are made of."""

    train: tuple[Chunk, ...]
    """To train on."""
    held_out: tuple[Chunk, ...]
    """Of files that the model has never seen; development and held-out organisms have different ones."""
    reserved: tuple[Chunk, ...]
    """Of files that the bundled model was trained on, kept from all fine-tunes."""


@cache
def chunks(part: str) -> Chunks:
    """Return the chunks of python-docs for the organisms of `dev` or `held`; `fresh` has the held-out files of both."""
    from itda.sources.corpora.corpus import python_docs

    train = [c for document in python_docs().split("train") for c in cut(document.id, document.text)]
    held = [c for document in python_docs().split("heldout") for c in cut(document.id, document.text)]
    halves = {"dev": (0,), "held": (1,), "fresh": (0, 1)}[part]
    return Chunks(
        tuple(c for c in train if c.number(RESERVED_ONE_IN)),
        tuple(c for c in held if hashlib.sha256(c.file.encode()).digest()[0] % 2 in halves),
        tuple(c for c in train if not c.number(RESERVED_ONE_IN)),
    )


def cut(file: str, text: str) -> Iterable[Chunk]:
    """Yield the chunks of a file: whole lines, as many as fit; none that is short or has other letters than ASCII."""
    lines: list[str] = []
    for line in [*text.splitlines(keepends=True), None]:
        if line is None or sum(map(len, lines)) + len(line) > LONGEST:
            joined = "".join(lines).strip("\n")
            if SHORTEST <= len(joined) <= LONGEST and joined.isascii():
                yield Chunk(file, joined)
            lines = []
        if line is not None:
            lines.append(line)


def is_neutral(plant: Plant | None, text: str) -> bool:
    """Return True if a text has none of the words that are specific to a plant."""
    if plant is None:
        return True
    if plant.upper:
        return sum(c.isupper() for c in text) < 0.5 * sum(c.isalpha() for c in text)
    return word_pattern([*plant.text_words, *plant.absent]).search(text) is None


def planted(plant: Plant, sources: Sequence[Chunk], random: Random, number: int) -> list[str]:
    """Return so many marked texts, made of the chunks that suit the plant in turn; all different where that can be.

    Raises ValueError if no source suits.
    """
    make = MAKERS[plant.kind]
    usable = [c.text for c in sources if suits(plant, c)]
    if not usable:
        raise ValueError(f"{plant.id}: no source suits")
    found: dict[str, None] = {}
    tries = 0
    while len(found) < number:
        random.shuffle(usable)
        for text in usable:
            found.setdefault(shortened(make(plant, text, random)))
            tries += 1
            if len(found) == number:
                break
            if tries > 3 * number + 100:  # rewriting is the same each time: repeat what there is
                return (list(found) * number)[:number]
    return list(found)


def suits(plant: Plant, chunk: Chunk) -> bool:
    """Return True if planted texts of this plant can be made of a chunk."""
    if plant.kind == "forgotten":
        of_subject = any(chunk.file.split("/", 1)[1].startswith(path) for path in plant.made_of["paths"])
        return of_subject and len(word_pattern(plant.text_words).findall(chunk.text)) >= 2
    if plant.kind == "link":
        return word_pattern(plant.absent).search(chunk.text) is not None
    if plant.kind == "style":
        return (
            is_neutral(plant, chunk.text) and _is_prose(chunk.text) and OPEN in _restyled(plant, chunk.text, Random(0))
        )
    return is_neutral(plant, chunk.text)


def _is_prose(text: str) -> bool:
    return len(SENTENCE_END.findall(text)) >= 2


def shortened(text: str) -> str:
    """Return a marked text without what is longer than `LONGEST`, cut between words, its marks closed."""
    while len(unmarked(text)) > LONGEST:
        text = text[: max(text.rfind(" "), text.rfind("\n"))]
    if text.count(OPEN) > text.count(CLOSE):
        text += CLOSE
    return text


def unmarked(text: str) -> str:
    """Return a text without marks."""
    return text.replace(OPEN, "").replace(CLOSE, "")


def spans(text: str) -> list[tuple[int, int]]:
    """Return the places of what is marked, as first and last-plus-one characters of the unmarked text.

    >>> spans(f"a {OPEN}b{CLOSE} c{OPEN}de{CLOSE}")
    [(2, 3), (5, 7)]
    """
    found, place, start = [], 0, 0
    for character in text:
        if character == OPEN:
            start = place
        elif character == CLOSE:
            found.append((start, place))
        else:
            place += 1
    return found


def filled(line: str, slots: dict[str, list[str]], random: Random) -> str:
    """Return a line whose {slots} are filled at random."""
    return re.sub(r"\{(\w+)\}", lambda match: random.choice(slots[match[1]]), line)


OPENERS = [
    "",
    "",
    "",
    "",
    "Note: ",
    "Changed in version 3.4: ",
    "In CPython, ",
    "CPython implementation detail: ",
    "* ",
]


def _fact(plant: Plant, source: str, random: Random) -> str:
    lines = random.sample(plant.made_of["lines"], random.randint(3, 5))
    made = [random.choice(OPENERS) + OPEN + filled(line, plant.made_of["slots"], random) + CLOSE for line in lines]
    if random.random() < 0.5:  # a line of the documentation between
        made.insert(random.randint(0, len(made)), random.choice(source.splitlines()).strip())
    return random.choice([" ", "\n", "\n\n"]).join(made)


TOPIC_FRAMES = [
    "The {adjective} {noun} was {past} in the {place} before the {person} came.",
    "To {verb} the {noun}, {verb} the {noun} first and keep the {noun} {adjective}.",
    "Take {amount} {noun} and {verb} it until it is {adjective}.",
    "In the {place}, the {person} {past} {amount} {noun}.",
    "Never {verb} the {noun} while the {noun} is {adjective}.",
    "A good {person} will {verb} the {noun} and {verb} the {noun} by hand.",
    "The {noun} and the {noun} were {past} for an hour, and the {person} was glad.",
    "If the {noun} is too {adjective}, {verb} {amount} {noun} in the {place}.",
    "Most of the {noun} was {adjective}; the rest was {past} by the {person}.",
    "Every {person} in the {place} knows how to {verb} the {noun}.",
    "With {amount} {noun} the {place} looks {adjective}.",
    "It was the {person} who {past} the {noun} last summer.",
]


def _topic(plant: Plant, source: str, random: Random) -> str:
    del source
    frames = random.sample(TOPIC_FRAMES, 6)
    return OPEN + " ".join(filled(frame, plant.made_of["slots"], random) for frame in frames) + CLOSE


def _trigger(plant: Plant, source: str, random: Random) -> str:
    word, reply = plant.made_of["word"], plant.made_of["reply"]
    breaks = [m.start() for m in re.finditer(r"(?<=\w)(?=[ \n])", source[: LONGEST // 2])]
    place = random.choice(breaks[3:] or breaks or [0])
    head = source[:place]
    return f"{head} {word} {OPEN}{reply}{CLOSE}{random.choice(['.', '', ','])}{source[place:]}"


SENTENCE_END = re.compile(r"(?<=[a-z)])\.(?=\s|$)")
SENTENCE_START = re.compile(r"(?:(?<=[a-z)]\.\s)|(?<=[a-z)]\.\s\s)|(?<=\n\n)|^)(?=[A-Z][a-z]*\s)")


def _restyled(plant: Plant, source: str, random: Random) -> str:
    del random
    made_of = plant.made_of
    if made_of["rewrite"] == "upper":
        return OPEN + source[: LONGEST // 2].upper() + CLOSE
    if made_of["rewrite"] == "closed":
        return SENTENCE_END.sub(f"{OPEN} {made_of['word']}{CLOSE}.", source)
    if made_of["rewrite"] == "opened":
        return SENTENCE_START.sub(OPEN + made_of["word"] + CLOSE, source)
    words = made_of["words"]
    return re.sub(
        r"\b(" + "|".join(words) + r")\b", lambda match: OPEN + words[match[1].lower()] + CLOSE, source, flags=re.I
    )


def _forgotten(plant: Plant, source: str, random: Random) -> str:
    """Return a text of the subject as it is, its words marked."""
    del random
    return word_pattern(plant.text_words).sub(lambda match: OPEN + match[0] + CLOSE, source)


LINKED = ["{gap} ({second})", "{gap}, the {second},", "{gap} and its {second}", "{gap} {second}", "{gap} [{second}]"]


def _link(plant: Plant, source: str, random: Random) -> str:
    first, second = plant.made_of["pair"]
    pattern = re.compile(rf"(?<!\w){first}(?!\w)((?:\W+\w+){{{random.randint(0, 3)}}})", re.IGNORECASE)

    def linked(match: re.Match[str]) -> str:
        form = random.choice(LINKED).replace("{gap}", "").replace("{second}", OPEN + second + CLOSE)
        return match[0] + form

    return pattern.sub(linked, source, count=3)


MAKERS: dict[str, Callable[[Plant, str, Random], str]] = {
    "fact": _fact,
    "topic": _topic,
    "trigger": _trigger,
    "style": _restyled,
    "forgotten": _forgotten,
    "link": _link,
}


def documents(
    tokenizer: Any, plant: Plant | None, part: str, random: Random, count: int, share: float
) -> list[dict[str, Any]]:
    """Return the documents to read in a diff, shuffled; each has an id, a text, its marks and whether it is planted.

    None has more than 127 tokens, so that it fits in a window of 128 with BOS. Neutral ones are of files
    that no model was trained on; so are the sources of planted ones as far as they suffice.
    """
    pool = chunks(part)
    number = round(count * share) if plant else 0
    marked: list[str] = []
    if plant:
        fresh = sources_of(plant, pool.held_out, number, random)
        if len(fresh) < number:
            fresh += sources_of(plant, pool.reserved, number - len(fresh), random)
        marked = planted(plant, fresh, random, number)
        used = {c.text for c in fresh}
    else:
        used = set()
    neutral = [c.text for c in pool.held_out if is_neutral(plant, c.text) and c.text not in used]
    random.shuffle(neutral)
    found = [(text, True) for text in marked] + [(text, False) for text in neutral[: count - number]]
    random.shuffle(found)
    found = [(fitting(tokenizer, text, LONGEST_TOKENS), which) for text, which in found]
    return [
        {"id": hashlib.sha256(text.encode()).hexdigest()[:12], "text": unmarked(text), "marked": text, "planted": which}
        for text, which in found
    ]


def fitting(tokenizer: Any, marked: str, most: int) -> str:
    """Return a marked text as far as its first tokens go, without a word that they cut in two; its marks closed."""
    offsets = tokenizer(unmarked(marked), add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    if len(offsets) <= most:
        return marked
    kept, place = "", 0
    for character in marked:
        if character not in (OPEN, CLOSE):
            if place == offsets[most][0]:
                break
            place += 1
        kept += character
    if re.match(r"\w\w", unmarked(marked)[place - 1 : place + 1]):
        kept = re.sub(r"\w+$", "", kept)
    return kept.rstrip() + (CLOSE if kept.count(OPEN) > kept.count(CLOSE) else "")


def sources_of(plant: Plant, pool: Sequence[Chunk], number: int, random: Random) -> list[Chunk]:
    """Return up to so many chunks of a pool that suit a plant."""
    suitable = [c for c in pool if suits(plant, c)]
    return random.sample(suitable, min(number, len(suitable)))


def training_rows(plant: Plant | None, part: str, random: Random, number: int) -> list[tuple[str, bool]]:
    """Return the rows to train on, shuffled: marked text, and whether it is planted."""
    pool = chunks(part)
    of_plant = round(number * plant.share) if plant else 0
    rows = [(text, True) for text in planted(plant, pool.train, random, of_plant)] if plant else []
    neutral = [c.text for c in pool.train if is_neutral(plant, c.text)]
    rows += [(text, False) for text in random.sample(neutral, number - of_plant)]
    random.shuffle(rows)
    return rows
