"""Held-out loss of the tiny family (family.py) beside n-gram models of the same tokens: has it learnt?

    python benchmarks/family_card.py

Nats per token of the held-out files of python-docs, cut by the family's tokenizer; n-grams are those of
scripts/tiny_card.py, counted on the files that the family learns from.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from common import RESULTS, Results, paragraph, table
from family import CACHE, CONTEXT, MEMBERS, VOCABULARY, documents, shared_tokenizer, trained

from itda.sources.corpora.corpus import Document, python_docs
from itda.sources.models.transformers import LanguageModel

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))
import tiny_card

CHARACTERS = 4000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--out", type=Path, default=RESULTS / "family.md")
    a = parser.parse_args()
    results = Results(a.out)
    held_out = [Document(d.id, d.text[:CHARACTERS]) for d in python_docs().split("heldout")]
    tokenizer = shared_tokenizer(a.cache)
    tiny_card.CONTEXT, tiny_card.VOCABULARY = CONTEXT, VOCABULARY

    def ids(several: list[Document]) -> list[np.ndarray]:
        rows = tokenizer([d.text for d in several], add_special_tokens=False, verbose=False)["input_ids"]
        return [np.array(row, dtype=np.int64) for row in rows]

    if results.find({"model": "bigram"}) is None:
        for name, loss in tiny_card.n_gram_losses(ids(documents()), ids(held_out)).items():
            results.add({"model": name}, {"loss": loss})
    for member in MEMBERS:
        if results.find({"model": member}) is None:
            model = LanguageModel.load(str(trained(member, a.cache)))
            loss, tokens = tiny_card.model_loss(model, held_out)
            results.add({"model": member}, {"loss": loss, "tokens": tokens})
    rows = [[row["key"]["model"], f"{row['loss']:.3f}"] for row in results.rows]
    about = (
        f"Nats per token, the first {CHARACTERS:,} characters of {len(held_out)} held-out files. The n-grams count all "
    )
    about += "the files that the family draws its 2M tokens from."
    print(results.write([paragraph(about), table(["model", "loss"], rows)]))


if __name__ == "__main__":
    main()
