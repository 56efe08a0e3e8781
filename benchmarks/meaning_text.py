"""Running text and AxBench's answers as activations: what dictionaries are made from, where concepts are looked for.

Text: the validation split of WikiText-2, cut at its headings, sections in the order of a hash: `heldout` takes the
first 12,000 tokens, then `a` to `e` take 40,000 each, all of different documents, read in windows of 128 tokens.
Concepts: all of AxBench's folders that are given are read at each layer, whichever layer of its authors' model they
were made for. To save time, and said in the tables, an instruction is cut to its last `BEFORE` tokens and an answer to
its first `ANSWER` tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from real_model import MASSIVE, sections
from torch import Tensor

from itda import Labels, Site

if TYPE_CHECKING:
    from itda.sources.models.transformers import LanguageModel
    from itda.sources.source import ModelSource

LAYERS = (10, 20)
SIZES = {"heldout": 12_000, **dict.fromkeys("abcde", 40_000)}
WINDOW = 128
BEFORE, ANSWER = 32, 64


@dataclass(frozen=True, eq=False)
class Text:
    """The activations of some documents at one layer, the massive ones left out."""

    x: Tensor  # tokens d_model
    document: np.ndarray  # tokens
    token: np.ndarray  # tokens

    def in_order(self, seed: int) -> "Text":
        """The same documents in the order of a seed; 0 is the one they came in."""
        if seed == 0:
            return self
        names = np.unique(self.document)
        place = np.random.default_rng(seed).permutation(len(names))[np.searchsorted(names, self.document)]
        order = np.argsort(place, kind="stable")
        return Text(self.x[torch.from_numpy(order)], self.document[order], self.token[order])


def joined(parts: Sequence[Text]) -> Text:
    """Groups of documents, one after the other; a document keeps its number if there is but one group."""
    if len(parts) == 1:
        return parts[0]
    most = 1 + max(int(part.document.max()) for part in parts)
    document = np.concatenate([part.document + number * most for number, part in enumerate(parts)])
    return Text(torch.cat([part.x for part in parts]), document, np.concatenate([part.token for part in parts]))


def make_text(folder: Path, text: Path, model: LanguageModel) -> None:
    """Write the activations of each group of sections that is not there yet: FOLDER/NAME.pt."""
    from itda.sources.corpora.corpus import Corpus
    from itda.sources.source import ModelSource

    folder.mkdir(parents=True, exist_ok=True)
    for name, taken in groups_of(text, model):
        if not (folder / f"{name}.pt").exists():
            sites = [Site(layer) for layer in LAYERS]
            source = ModelSource(model, Corpus.from_texts(taken), sites, window=WINDOW, tokens=SIZES[name])
            save(folder / f"{name}.pt", _read(source))
            print(name, len(taken), "documents", flush=True)


def groups_of(text: Path, model: LanguageModel) -> Iterator[tuple[str, list[str]]]:
    """The name and the sections of each group, one after the other."""
    parts = iter(sections(text.read_text(encoding="utf-8")))
    for name, size in SIZES.items():
        taken, seen = [], 0
        while seen < size:
            taken.append(next(parts))
            seen += len(model.tokenizer(taken[-1], add_special_tokens=False)["input_ids"])
        yield name, taken


def _read(source: ModelSource) -> dict[str, Any]:
    x: dict[int, list[Tensor]] = {layer: [] for layer in LAYERS}
    labels = []
    for batch in source:
        for layer, rows in x.items():
            rows.append(batch[Site(layer)].activations.clone())
        labels.append(batch[Site(LAYERS[0])].labels)
    return {f"x{layer}": torch.cat(rows) for layer, rows in x.items()} | places(Labels.concatenate(labels))


def places(labels: Labels) -> dict[str, Tensor]:
    """By token: the number of its document and its id."""
    document = np.array([int(name.rpartition(":")[2]) for name in labels.document])
    return {"document": torch.from_numpy(document), "token": torch.from_numpy(np.asarray(labels.token_id))}


def load_text(folder: Path, name: str, layer: int) -> Text:
    """A group of sections at a layer."""
    kept = torch.load(folder / f"{name}.pt", mmap=True)
    x = kept[f"x{layer}"]
    norms = x.norm(dim=1)
    rows = norms <= MASSIVE * norms.median()
    return Text(x[rows].clone(), kept["document"][rows].numpy(), kept["token"][rows].numpy())


@dataclass(frozen=True, eq=False)
class Concepts:
    """The answers of AxBench's folders: which text each token is from, and what each text is an example of."""

    x: Tensor  # tokens d_model, in the order of texts
    text: np.ndarray  # tokens
    concept: np.ndarray  # texts; -1 where it is a negative of all concepts of its folder
    positive: np.ndarray  # texts
    train: np.ndarray  # texts
    folder: np.ndarray  # texts

    def rows(self, concept: int, *, train: bool) -> np.ndarray:
        """The texts to choose a detector of a concept by, or to test it on."""
        own = self.concept == concept
        shared = self.train & (self.concept == -1) & (self.folder == self.folder[own][0])
        return np.flatnonzero((self.train == train) & (own | shared))


def make_concepts(target: Path, folders: list[Path], model: LanguageModel) -> None:
    """Write the activations of the answers in AxBench's folders: TARGET/all_LAYER.pt for each layer."""
    from meaning_model import read

    both = _answers(folders)
    texts, answers = [], []
    for asked, answered in zip(both["input"], both["output"], strict=True):
        before, answer = (
            model.tokenizer(part, add_special_tokens=False)["input_ids"] for part in (asked, " " + answered)
        )
        texts.append(before[-BEFORE:] + answer[:ANSWER])
        answers.append(len(answer[:ANSWER]))
    found: dict[int, dict[int, Tensor]] = {layer: {} for layer in LAYERS}
    for row, x in read(model, texts):
        for layer, kept in found.items():
            kept[row] = x[layer][-answers[row] :].half()
    of_texts = {name: torch.tensor(both[name].to_numpy()) for name in ("concept", "positive", "train", "folder")}
    of_texts["text"] = torch.repeat_interleave(torch.tensor(answers))
    for layer, kept in found.items():
        save(target / f"all_{layer}.pt", of_texts | {"x": torch.cat([kept[row] for row in range(len(texts))])})
    print(len(folders), "folders", len(texts), "texts", sum(map(len, texts)), "tokens", flush=True)


def _answers(folders: list[Path]) -> Any:
    """All rows of the folders; the concepts are numbered on from folder to folder."""
    import pandas as pd

    tables, so_far = [], 0
    for number, folder in enumerate(folders):
        for part in ("train", "latent_eval"):
            table = pd.read_parquet(folder / f"{part}_data.parquet")
            own = table["concept_id"]
            facts = {"concept": own.where(own < 0, own + so_far), "folder": number, "train": part == "train"}
            tables.append(table.assign(**facts, positive=table["category"] == "positive"))
        so_far += 1 + max(int(table["concept_id"].max()) for table in tables[-2:])
    return pd.concat(tables, ignore_index=True)


def load_concepts(file: Path) -> Concepts:
    """What `make_concepts` has written."""
    kept = torch.load(file)
    names = ("text", "concept", "positive", "train", "folder")
    return Concepts(kept["x"].float(), *(kept[name].numpy() for name in names))


def save(target: Path, kept: dict[str, Any]) -> None:
    """Write a file whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    torch.save(kept, target.with_suffix(".new"))
    target.with_suffix(".new").replace(target)
