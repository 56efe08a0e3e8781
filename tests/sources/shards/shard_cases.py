"""Activations of tiny, written to disk and read, for the tests of shards."""

import shutil
from dataclasses import fields

import numpy as np
import pytest
import torch

from itda import Labels, Site
from itda.errors import StoreError
from itda.sources.corpora.corpus import Corpus
from itda.sources.models.transformers import LanguageModel
from itda.sources.shards.source import ShardSource
from itda.sources.shards.writer import ShardWriter
from itda.sources.source import ModelSource

SITES = [Site(1), Site(2, "mlp_out")]
ABOUT = {"model": "tiny", "versions": {"torch": "2"}, "window": 32}
TEXTS = [
    f"import os\n\ndef naïve_{i}(path):\n    return os.path.join(path, '🙂 {i} 日本<|bos|>')\n" * 2 for i in range(12)
]
TOKENS = 700


def direct(skip=0, tokens=TOKENS, sites=SITES, dtype="float32"):
    model = LanguageModel.load("tiny", dtype=dtype)
    return ModelSource(model, Corpus.from_texts(TEXTS), sites, window=32, batch_size=2, tokens=tokens, skip=skip)


def write(folder, stream, dtype="float32", finish=True, about=ABOUT, sites=SITES, **options):
    with ShardWriter(folder, about, sites, 192, dtype, **{"shard_tokens": 96, **options}) as writer:
        for batches in stream:
            writer.add(batches)
        if finish:
            writer.finish()
    return folder


def joined(stream, site):
    parts = [batches[site] for batches in stream if site in batches]
    return torch.cat([part.activations for part in parts]), Labels.concatenate([part.labels for part in parts])


def same_labels(a, b):
    for column in fields(Labels):
        first, second = getattr(a, column.name), getattr(b, column.name)
        assert first.dtype == second.dtype
        assert np.array_equal(first, second), column.name


def same_stream(a, b, sites=SITES):
    a, b = list(a), list(b)
    for site in sites:
        (x, labels), (y, others) = joined(a, site), joined(b, site)
        assert x.dtype == y.dtype
        assert torch.equal(x, y)
        same_labels(labels, others)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def copied(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy"


def refused(kind=StoreError, **options):
    with pytest.raises(kind) as error:
        list(ShardSource(**options))
    assert "\n" not in str(error.value)
    return str(error.value)
