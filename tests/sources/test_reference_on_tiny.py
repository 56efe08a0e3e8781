"""Mode `reference` on the bundled model's activations, against the transcription of the released procedure."""

import pytest
from core.training.test_reference import Transcript

from itda import ReferenceTrainer, Site, Trainer
from itda.sources.corpora.corpus import Corpus, python_docs
from itda.sources.models.transformers import LanguageModel
from itda.sources.source import ModelSource

SITE, WINDOW, K, THRESHOLD = Site(4), 48, 16, 0.0017


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return LanguageModel.load("tiny")


def source(model: LanguageModel, batch_size: int, *, every_position: bool) -> ModelSource:
    """Forty documents; with every position, a window of each, padded where it is short, as the script reads them."""
    documents = [document.text for document, _ in zip(python_docs(), range(40), strict=False)]
    corpus = Corpus.from_texts([*documents, "short", "import os"])
    return ModelSource(
        model, corpus, [SITE], window=WINDOW, batch_size=batch_size, tokens=42 * WINDOW, every_position=every_position
    )


@pytest.mark.parametrize("batch_size", [2, 7])
def test_its_labels_are_those_of_the_released_procedure(model, batch_size):
    transcript, trainer = Transcript(K, THRESHOLD), ReferenceTrainer(192, k=K, threshold=THRESHOLD)
    for step, batches in enumerate(source(model, batch_size, every_position=True)):
        batch = batches[SITE]
        transcript.step(step, batch.activations.view(-1, WINDOW, 192))
        trainer.offer(batch)
    keys = trainer.finish().labels.keys()
    places = [(int(d.removeprefix("text:")), p + 1) for d, p, _ in keys]  # the window starts with BOS
    assert places == transcript.places
    assert len(places) > 250


def test_its_labels_change_with_the_cut_into_batches_and_the_sequential_trainers_do_not(model):
    found = {}
    for name, new in (("released", ReferenceTrainer), ("ours", Trainer)):
        for size in (2, 7):
            trainer = new(192, k=K, threshold=THRESHOLD if name == "released" else 0.3)
            for batches in source(model, size, every_position=False):
                trainer.offer(batches[SITE])
            found[name, size] = set(trainer.finish().labels.keys())
    assert found["released", 2] != found["released", 7]
    assert found["ours", 2] == found["ours", 7]
