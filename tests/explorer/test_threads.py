"""The explorer's answers do not depend on what it answers at the same time."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest

from itda import config as settings

ASKED = [
    ("decompose", {"site": "layer_1", "text": "the cat sat"}),
    ("decompose", {"site": "layer_3", "text": "import os"}),
    ("logits", {"site": "layer_1", "atom": "3"}),
    ("decompose", {"site": "layer_1", "text": "def f(x): return x"}),
]


@pytest.mark.parametrize("turns", [True, False], ids=["as it is", "without its lock"])
def test_four_threads_get_the_answers_that_each_gets_alone(runs, monkeypatch, turns):
    from itda.recipes.explore import explorer_of

    explorer = explorer_of(settings.Explore(runs=runs))
    if not turns:
        monkeypatch.setattr(explorer, "_running", nullcontext())
    ask = lambda i: explorer.answer(ASKED[i % 4][0], {"run": "plain", **ASKED[i % 4][1]})  # noqa: E731
    alone = [ask(i) for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for i, answer in enumerate(pool.map(ask, range(24))):
            assert answer == alone[i % 4]
