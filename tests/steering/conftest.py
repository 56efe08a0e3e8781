"""The bundled model and a small dictionary of it, made once for all tests of steering."""

import pytest

import itda

TEXTS = ["def read(path):\n    return open(path)", "import os, sys", "for i in range(9): print(i)", "x = [1, 2, 3]"]


@pytest.fixture(scope="session")
def lm():
    return itda.load_model("tiny")


@pytest.fixture(scope="session")
def dictionary(lm):
    run = itda.train(lm, TEXTS * 6, layers=3, k=4, atoms=24, window=64, mode="paper", progress=False)
    return run["layer_3"]
