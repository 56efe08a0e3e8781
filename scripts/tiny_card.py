"""Measure the bundled model on held-out files beside n-gram models of the same tokens, and write its card.

    python scripts/tiny_card.py [--model itda/assets/tiny]

The n-gram models (unigram; bigram and trigram with interpolated Kneser-Ney smoothing, discount 0.75) count the files
that `train_tiny.py` trained on, and are scored on the same held-out tokens, with the context of the whole document.
"""

import argparse
import platform
import sys
from datetime import date
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from train_tiny import CONTEXT, VOCABULARY, training_documents

from itda.sources.corpora.corpus import python_docs
from itda.sources.models.transformers import LanguageModel

DISCOUNT = 0.75


class Counts:
    """Counts of n-grams coded as integers: an n-gram's code is its last token plus VOCABULARY times its context's."""

    def __init__(self, codes: np.ndarray, counts: np.ndarray) -> None:
        self.codes, inverse = np.unique(codes, return_inverse=True)
        self.counts = np.bincount(inverse, weights=counts)
        contexts = self.codes // VOCABULARY
        self.contexts, inverse = np.unique(contexts, return_inverse=True)
        self.totals = np.bincount(inverse, weights=self.counts)
        self.kinds = np.bincount(inverse)

    def probability(self, codes: np.ndarray, lower: np.ndarray) -> np.ndarray:
        """Interpolated Kneser-Ney: the discounted count, and the rest of the mass by the lower order."""
        count = lookup(self.codes, self.counts, codes)
        total = lookup(self.contexts, self.totals, codes // VOCABULARY)
        kinds = lookup(self.contexts, self.kinds, codes // VOCABULARY)
        known = np.maximum(total, 1)
        return np.where(total > 0, (np.maximum(count - DISCOUNT, 0) + DISCOUNT * kinds * lower) / known, lower)


def lookup(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)


def grams(rows: list[np.ndarray], n: int) -> np.ndarray:
    """Codes of the n-grams that end at each token, BOS (0) before the first."""
    codes = []
    for row in rows:
        padded = np.concatenate([np.zeros(n - 1, dtype=np.int64), row])
        codes.append(sum(padded[i : len(row) + i] * VOCABULARY ** (n - 1 - i) for i in range(n)))
    return np.concatenate(codes)


def n_gram_losses(train: list[np.ndarray], test: list[np.ndarray]) -> dict[str, float]:
    """Nats per token of each model on the test tokens."""
    ones = {n: grams(train, n) for n in (1, 2, 3)}
    wanted = {n: grams(test, n) for n in (1, 2, 3)}
    unigram = (np.bincount(ones[1], minlength=VOCABULARY) + 1) / (len(ones[1]) + VOCABULARY)
    # Lower orders count the distinct contexts that an n-gram continues, not its occurrences (Kneser & Ney 1995).
    pairs, triples = np.unique(ones[2]), np.unique(ones[3])
    continuation = (np.bincount(pairs % VOCABULARY, minlength=VOCABULARY) + 1) / (len(pairs) + VOCABULARY)
    lowest = continuation[wanted[1]]
    bigram = Counts(ones[2], np.ones(len(ones[2]))).probability(wanted[2], lowest)
    lower = Counts(triples % VOCABULARY**2, np.ones(len(triples))).probability(wanted[2], lowest)
    trigram = Counts(ones[3], np.ones(len(ones[3]))).probability(wanted[3], lower)
    return {
        "unigram": -np.log(unigram[wanted[1]]).mean(),
        "bigram": -np.log(bigram).mean(),
        "trigram": -np.log(trigram).mean(),
    }


def model_loss(model: LanguageModel, documents: list) -> tuple[float, int]:
    """Nats per token of all tokens of the documents, each window read on its own after a BOS."""
    total, number = 0.0, 0
    for group in model.windower(CONTEXT).groups(documents, 16):
        logits = model.logits(group)[:, :-1]
        wanted = group.is_activation[:, 1:]
        loss = torch.nn.functional.cross_entropy(
            logits[wanted].double(), group.input_ids[:, 1:][wanted], reduction="sum"
        )
        total, number = total + loss.item(), number + int(wanted.sum())
    return total / number, number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path(__file__).parent.parent / "itda" / "assets" / "tiny")
    folder: Path = parser.parse_args().model
    model = LanguageModel.load(str(folder))
    held_out = list(python_docs().split("heldout"))
    train = list({document.id: document for document in training_documents()}.values())
    assert not {d.id for d in held_out} & {d.id for d in train}

    def ids(documents: list) -> list[np.ndarray]:
        texts = [document.text for document in documents]
        rows = model.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return [np.array(row, dtype=np.int64) for row in rows]

    rows, test_rows = ids(train), ids(held_out)
    losses = n_gram_losses(rows, test_rows)
    loss, tokens = model_loss(model, held_out)
    assert tokens == sum(map(len, test_rows))
    lines = "\n".join(f"| {name} | {value:.3f} |" for name, value in [*losses.items(), ("**tiny**", loss)])
    parameters = sum(p.numel() for p in model.model.parameters())
    size = (folder / "model.safetensors").stat().st_size
    card = f"""# tiny

A causal language model of Llama's form for demonstrations and tests, bundled with `itda`: {parameters:,} parameters
(6 layers, d_model 192, 6 heads, SwiGLU of 512, tied embeddings), a byte-level BPE of 4,096 tokens, a context of 256,
weights in half precision ({size / 1e6:.1f} MB). Licence: MIT. Made by `scripts/train_tiny.py`.

- **Data**: source and test suite of CPython {platform.python_version()}'s standard library and the topics of
  `pydoc_data`: {len(train):,} files, {sum(map(len, rows)) / 1e6:.1f}M tokens. One file in ten, by a hash of its name,
  is held out.
- **Training**: 21M tokens in batches of 8,192 (files of the corpus `python-docs` count twice), Muon and AdamW, on two
  CPU cores.

Held-out loss, nats per token, on the {len(held_out)} held-out files of `python-docs` ({tokens:,} tokens); all models
use the same tokens and the same training files. The n-gram models are interpolated Kneser-Ney and see the whole
document; tiny sees at most the 255 tokens before. `scripts/tiny_card.py`, {date.today().isoformat()}.

| model | loss |
|---|---|
{lines}

It knows Python's library, and nothing else.
"""
    (folder / "README.md").write_text(card, encoding="utf-8")
    print(card)


if __name__ == "__main__":
    main()
