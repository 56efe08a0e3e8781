"""On the bundled model's activations the fast trainer makes the plain one's dictionary: labels, order and atoms."""

import pytest
import torch
from core.helpers import COMPILED, same_bits
from core.training.plain_growth import PlainGrowth

from itda import ActivationBatch, Labels, Site, Trainer
from itda.core.pursuit.plain import pursue
from itda.sources.corpora.corpus import python_docs
from itda.sources.models.transformers import LanguageModel
from itda.sources.source import ModelSource

SITES = [Site(2), Site(4)]
K, THRESHOLD, TOKENS = 12, 0.3, 300


@pytest.fixture(scope="module")
def streams():
    corpus = python_docs().split("train")
    parts = list(ModelSource(LanguageModel.load("tiny"), corpus, SITES, window=128, tokens=TOKENS))
    return {
        site: ActivationBatch(
            torch.cat([part[site].activations for part in parts]),
            Labels.concatenate([part[site].labels for part in parts]),
        )
        for site in SITES
    }


@pytest.fixture(scope="module")
def plain(streams):
    grown = {}
    for pursuit in COMPILED:
        for site, batch in streams.items():
            if pursuit != "mp" and site != SITES[1]:
                continue  # the plain one takes its time
            growth = PlainGrowth(192, K, THRESHOLD, pursuit)
            grown[pursuit, site] = growth.offer(batch.activations), growth.atoms
    return grown


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", [1, 8, 100, 512, 4096, None])
@pytest.mark.parametrize("pursuit", COMPILED)
def test_the_fast_trainer_makes_the_dictionary_of_the_plain_one(streams, plain, pursuit, size, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for site, batch in streams.items():
            if (pursuit, site) not in plain:
                continue
            trainer = Trainer(192, k=K, threshold=THRESHOLD, pursuit=pursuit, block_size=size)
            trainer.offer(batch)
            model = trainer.finish()
            rows, atoms = plain[pursuit, site]
            assert 50 < len(rows) < TOKENS * 0.7
            assert model.labels.keys() == batch.labels[rows].keys()
            assert same_bits(model.atoms, atoms)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("pursuit", COMPILED)
def test_codes_in_it_are_those_of_the_plain_pursuit(streams, plain, pursuit):
    batch = streams[SITES[1]]
    trainer = Trainer(192, k=K, threshold=THRESHOLD, pursuit=pursuit)
    trainer.offer(batch)
    model, x = trainer.finish(), batch.activations[:200]
    code, error = model.decompose(x)
    wanted, left = pursue(x, model.atoms, K, pursuit)
    assert same_bits(code.indices, wanted.indices)
    assert same_bits(code.coefficients, wanted.coefficients)
    assert same_bits(error, left)
