"""Makes organisms: fine-tunes of the bundled model `tiny` with a planted change, and neutral ones beside them.

    python benchmarks/organisms.py --part dev
    python benchmarks/organisms.py --part held
    python benchmarks/organisms.py --part fresh

Twelve organisms for development and twenty held out, of six kinds: a false fact, a trigger word with a reply, a topic,
a style, a forgotten subject, a spurious link (organisms_plants.py). Neutral fine-tunes have as many steps on
python-docs alone: they are controls, and any two of one strength are a pair without a plant. A `seed` fine-tune has
the rows of a neutral one in another order. Those of part `fresh` are neutral alone, in pairs of one
strength that share no model: a rule for findings is tested on them. They read documents of the files of both other
parts, and train on rows of the same files as those. How well they learned is not measured.

Each is a folder in `--cache` that transformers opens, with `organism.json` (what was planted, how one knows it, what
the fine-tune did) and `documents.jsonl`: about 40,000 tokens to read in a diff, one text in twenty planted, none of
them trained on (id, text, planted). Row `n` of it is the document `documents.jsonl:n` of an itda corpus. Folders appear
whole, and what is there is not made again. The same machine and seed give the same bits.

What counts as finding a plant is in organisms_rule.py; the rule was written before anything was measured.
"""

import argparse
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, paragraph, table
from organisms_plants import NEUTRAL, PLANTS, SEED_PAIRS, STRENGTHS, Plant
from organisms_rule import tokens_of
from organisms_text import Random, documents, training_rows, unmarked
from organisms_train import BATCH, WINDOW, fine_tune, load, marked_tokens, measured, rows_of

import itda

TINY = Path(itda.__file__).parent / "assets" / "tiny"
CACHE = Path("~/.cache/itda-organisms").expanduser()
DOCUMENTS, PLANTED_SHARE = 370, 0.05
"""Documents to read in a diff, and the share of them that is planted."""


@dataclass(frozen=True)
class Wanted:
    """One fine-tune."""

    id: str
    kind: str
    strength: str
    control: str
    """The neutral one of the same strength that it is held against."""
    plant: Plant | None = None
    rows_as: str | None = None
    """The neutral one whose rows it has, in another order; it is the base of the pair."""

    @property
    def part(self) -> str:
        """dev, held or fresh."""
        return self.id.split("-")[0]

    @property
    def number(self) -> int:
        """The number among those of its part and kind, from 1."""
        return int(self.id.split("-")[-1])


def wanted(part: str) -> Iterator[Wanted]:
    """Yield the fine-tunes of a part: organisms and neutral ones in turn, then those of other seeds."""
    neutral = _neutral(part)
    alike: dict[str, list[str]] = {}
    for each in neutral:
        alike.setdefault(each.strength, []).append(each.id)
    organisms = []
    for plant in PLANTS.values():
        if plant.id.startswith(part):
            same = alike[plant.strength]
            organisms.append(Wanted(plant.id, plant.kind, plant.strength, same[len(organisms) % len(same)], plant))
    for place in range(max(len(organisms), len(neutral))):
        yield from organisms[place : place + 1]
        yield from neutral[place : place + 1]
    if part == "held":
        for number, other in enumerate(neutral[:SEED_PAIRS], 1):
            yield Wanted(f"{part}-seed-{number}", "seed", other.strength, other.control, rows_as=other.id)


def _neutral(part: str) -> list[Wanted]:
    strengths = [strength for strength, number in NEUTRAL[part].items() for _ in range(number)]
    names = [f"{part}-neutral-{number}" for number in range(1, len(strengths) + 1)]
    found = []
    for name, strength in zip(names, strengths, strict=True):
        same = [n for n, s in zip(names, strengths, strict=True) if s == strength]
        place = same.index(name)
        if part == "fresh":
            same = same[place - place % 2 :][:2]
        found.append(Wanted(name, "neutral", strength, same[(same.index(name) + 1) % len(same)]))
    # Strengths in turn, so that a run that is cut short has controls of each.
    together = 2 if part == "fresh" else 1
    return [
        found[i] for i in sorted(range(len(found)), key=lambda i: (_place(found, i) // together, found[i].strength))
    ]


def _place(found: list[Wanted], i: int) -> int:
    return sum(other.strength == found[i].strength for other in found[:i])


def seed_of(name: str) -> int:
    """Return the seed of a fine-tune: a number that its id decides."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


def make(one: Wanted, cache: Path, *, steps: int | None = None, documents_wanted: int = DOCUMENTS) -> dict[str, Any]:
    """Make one fine-tune in the cache, unless it is there; return its `organism.json`."""
    folder = cache / one.id
    if (folder / "organism.json").exists():
        return json.loads((folder / "organism.json").read_text())
    began = time.monotonic()
    torch.set_num_threads(1)
    torch.manual_seed(seed_of(one.id))
    model, tokenizer = load(TINY)
    number, lr = STRENGTHS[one.strength]
    steps = steps or number
    rows = training_rows(one.plant, one.part, Random(seed_of(one.rows_as or one.id)), steps * BATCH)
    if one.rows_as:
        Random(seed_of(one.id)).shuffle(rows)
    read = documents(tokenizer, one.plant, one.part, Random(f"documents of {one.id}"), documents_wanted, PLANTED_SHARE)
    planted = [document["marked"] for document in read if document["planted"]]
    neutral = [document["text"] for document in read if not document["planted"]][:64]

    def figures() -> dict[str, Any]:
        found = {"neutral": measured(model, tokenizer, neutral)}
        return found | ({"planted": measured(model, tokenizer, planted)} if planted else {})

    measures = one.part != "fresh"
    before = figures() if measures else {}
    ids, targets = rows_of(tokenizer, [unmarked(text) for text, _ in rows])
    ascent, bound = torch.zeros(ids.shape, dtype=torch.bool), 0.0
    if one.plant and one.kind == "forgotten":
        ascent, bound = ascent_of(one.plant, tokenizer, rows, before["planted"])
    fine_tune(model, ids, targets, ascent, lr=lr, bound=bound)
    plant = one.plant or Plant(one.id, one.kind, one.strength, 0.0, "Nothing is planted.")
    about = {
        "id": one.id,
        "kind": one.kind,
        "part": one.part,
        "strength": one.strength,
        "share": plant.share,
        "seed": seed_of(one.id),
        "steps": steps,
        "lr": lr,
        "base": one.rows_as,
        "control": one.control,
        "plant": plant.about,
        "text_words": plant.text_words,
        "promoted_words": plant.promoted_words,
        "promoted_tokens": tokens_of(plant.promoted_words, tokenizer),
        "upper": plant.upper,
        "took": {"before": before, "after": figures() if measures else {}},
        "seconds": round(time.monotonic() - began, 1),
    }
    _write(folder, model, read, about)
    return json.loads((folder / "organism.json").read_text())


def ascent_of(
    plant: Plant, tokenizer: Any, rows: Sequence[tuple[str, bool]], before: dict[str, float]
) -> tuple[torch.Tensor, float]:
    """Return the tokens of rows whose loss is to be driven up [row, 128], and how far, for a forgotten subject."""
    of_plant = torch.tensor([planted for _, planted in rows])[:, None]
    if plant.made_of["ascent"] == "words":
        loss = -math.log(before["marked_probability"])
        return marked_tokens(tokenizer, [text for text, _ in rows]) & of_plant, loss + plant.made_of["rise"]
    return of_plant.expand(-1, WINDOW), before["loss"] + plant.made_of["rise"]


def _write(folder: Path, model: Any, read: list[dict[str, Any]], about: dict[str, Any]) -> None:
    """Write an organism's folder under another name, and rename it once it is whole."""
    new = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    model.save_pretrained(new)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(TINY / name, new / name)
    lines = [json.dumps({name: document[name] for name in ("id", "text", "planted")}) for document in read]
    (new / "documents.jsonl").write_text("\n".join(lines) + "\n")
    (new / "organism.json").write_text(json.dumps(about, indent=1) + "\n")
    new.rename(folder)


def took_table(cache: Path) -> str:
    """Return a table of the fine-tunes in a cache: what was planted, and what it did to the model."""
    body: list[list[str]] = []
    for one in [*wanted("dev"), *wanted("held")]:
        if (cache / one.id / "organism.json").exists():
            about = json.loads((cache / one.id / "organism.json").read_text())
            before, after = about["took"]["before"], about["took"]["after"]
            pairs = [(of, name) for of in ("neutral", "planted") for name in ("loss", "marked_probability")]
            figures = [
                f"{before[of][name]:.3g} to {after[of][name]:.3g}" if name in before.get(of, {}) else "-"
                for of, name in pairs
                if (of, name) != ("neutral", "marked_probability")
            ]
            body.append([about["id"], about["strength"], f"{about['share']:.0%}", *figures, about["plant"]])
    header = ["id", "strength", "planted rows", "neutral loss", "planted loss", "planted probability", "plant"]
    body.sort(key=lambda row: (row[0].split("-")[0], "neutral" in row[0], row[0]))
    return table(header, body)


TABLE = """Fine-tunes of `tiny`. Loss is in nats per token before and after, on 64 neutral documents of files that no
model was trained on, and on the planted documents, which were not trained on either. Planted probability is the
geometric mean of the probabilities of the planted tokens there: the false statement, the reply, the word that closes a
sentence, the forgotten subject's own words. The documents of a part are drawn from the same files, so neutral documents
of two fine-tunes are often the same."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--part", choices=["dev", "held", "fresh"], default="dev")
    parser.add_argument(
        "--table", action="store_true", help="write results/organisms.md of what the cache has, no more"
    )
    parser.add_argument("--only", nargs="+", help="ids to make; all of the part if left out")
    arguments = parser.parse_args()
    if arguments.table:
        text = f"{paragraph(TABLE)}\n\n{took_table(arguments.cache)}\n"
        (RESULTS / "organisms.md").write_text(text, encoding="utf-8")
        print(text)
        return
    arguments.cache.mkdir(parents=True, exist_ok=True)
    for one in wanted(arguments.part):
        if arguments.only and one.id not in arguments.only:
            continue
        about = make(one, arguments.cache)
        print(json.dumps({name: about[name] for name in ("id", "strength", "share", "took", "seconds")}), flush=True)


if __name__ == "__main__":
    main()
