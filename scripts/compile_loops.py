"""Compile the package's loops once, before the tests: else each of their first processes does it, all at the same time.

    python scripts/compile_loops.py

It uses, on very little, what has loops: dictionaries of all pursuits and recipes, fingerprints, and an index.
"""

import os
import tempfile
from pathlib import Path

os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import torch

import itda
from itda import config as settings
from itda.recipes.index import index_run


def main() -> None:
    x = torch.randn(300, 32, generator=torch.Generator().manual_seed(0))
    for pursuit in ("mp", "mp_refit", "omp"):
        itda.fit(x, atoms=40, k=4, pursuit=pursuit, mode="paper").encode(x.double())
        for recipe in (1, 2):
            itda.fit(x, atoms=40, k=4, pursuit=pursuit, recipe=recipe).encode(x)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        itda.train("tiny", "python-docs", layers=[1], k=4, atoms=32, tokens=1500, progress=False, out=run)
        index_run(settings.Index(run=run, tokens=500, quiet=True))
        itda.fingerprint("tiny", "python-docs", layers=[1], tokens=1000, progress=False)


if __name__ == "__main__":
    main()
