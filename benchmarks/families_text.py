"""What the families of model_families.py read: code or prose of python-docs, cut by one tokenizer of 1,024 pieces.

Code is the standard library's source, its tests included; prose is the reference's topics and the docstrings of the
same source. One document in ten is held out of training, by its id, and so is never read by a model or the tokenizer.
"""

import ast
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

VOCABULARY, CONTEXT = 1024, 128
BOS, PAD = "<|bos|>", "<|pad|>"
KINDS = ("code", "prose")
LEAST = 200
"""Characters of docstrings that a module must have to be a document of prose."""


def documents(kind: str, part: str) -> list[Any]:
    """The `itda` documents of a kind in the part `train` or `heldout`, in the corpus's order."""
    from itda.sources.corpora.corpus import Document, python_docs

    found = []
    for document in python_docs(tests=True).split("train" if part == "train" else "heldout"):
        topic = "/topics/" in document.id
        if sum(not c.isascii() for c in document.text) > 0.02 * len(document.text) or (topic and kind == "code"):
            continue
        text = "\n\n".join(docstrings(document.text)) if kind == "prose" and not topic else document.text
        if kind == "code" or len(text) >= LEAST:
            found.append(Document(document.id, text))
    return found


def docstrings(source: str) -> Iterator[str]:
    """The docstrings of a module, its classes and functions; none where the source cannot be parsed."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text


def tokenizer(cache: Path) -> Any:
    """The byte-level BPE that all families share, trained once on the train parts."""
    return trained_tokenizer(cache / "tokenizer", (d.text for kind in KINDS for d in documents(kind, "train")))


def trained_tokenizer(folder: Path, texts: Iterable[str]) -> Any:
    """A byte-level BPE of `VOCABULARY` pieces with BOS in front, trained on some texts unless the folder has it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    if not (folder / "tokenizer.json").exists():
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[BOS, PAD], initial_alphabet=alphabet)
        made.train_from_iterator(texts, trainer)
        start = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, made.token_to_id(BOS))])
        made.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), start])
        PreTrainedTokenizerFast(
            tokenizer_object=made, bos_token=BOS, eos_token=BOS, pad_token=PAD, model_max_length=CONTEXT
        ).save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def prepare(cache: Path) -> None:
    """Leave the tokenizer and the tokens of both kinds in the cache: all that training needs."""
    for kind in KINDS:
        path = cache / f"{kind}.npy"
        if not path.exists():
            texts = [d.text for d in documents(kind, "train")]
            rows = tokenizer(cache)(texts, add_special_tokens=False, verbose=False)["input_ids"]
            temporary = cache / f"{kind}.{os.getpid()}.npy"
            np.save(temporary, np.concatenate([np.array(row, dtype=np.int16) for row in rows]))
            temporary.replace(path)
