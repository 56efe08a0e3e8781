"""What `itda replicate` costs beside `itda train`, in processor seconds, which a busy machine does not change much.

    python benchmarks/replication_cost.py --tokens 50000 --atoms 1024 --draws 3

One site of `tiny` on its own documentation. Of each recipe of mode best a run is made, then replicated.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from itda import config as settings
from itda.recipes import replicate as recipe
from itda.recipes import replication_draws, train
from itda.sources.models.transformers import LanguageModel


def processor_seconds(call: Callable[[], Any]) -> float:
    """Return the seconds of all cores together that a call takes."""
    started = time.process_time()
    call()
    return time.process_time() - started


def timed(owner: Any, name: str, into: dict[str, float], part: str) -> None:
    """Add up what a function costs, under the name of a part."""
    real = getattr(owner, name)

    def counted(*given: Any, **named: Any) -> Any:
        started = time.process_time()
        try:
            return real(*given, **named)
        finally:
            into[part] = into.get(part, 0.0) + time.process_time() - started

    setattr(owner, name, counted)


def main() -> None:
    """Print a row for each recipe: training, replication, their ratio, and the parts of replication."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=50_000)
    parser.add_argument("--atoms", type=int, default=1024)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--layer", type=int, default=4)
    parser.add_argument("--recipes", default="1,2")
    given = parser.parse_args()
    LanguageModel.load("tiny")  # imports and compiles what both need
    parts: dict[str, float] = {}
    timed(recipe, "_activations", parts, "model")
    timed(replication_draws.SiteDraws, "_halves", parts, "halves")
    timed(replication_draws.SiteDraws, "nearest", parts, "nearest")
    print(f"{given.tokens:,} tokens, {given.atoms:,} atoms, {given.draws} draws; processor seconds")
    for number in map(int, given.recipes.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            out, common = Path(folder) / "run", {"k": 16, "atoms": given.atoms, "recipe": number, "quiet": True}
            made = settings.Train(
                model="tiny", layers=(given.layer,), corpus="python-docs", tokens=given.tokens, out=out, **common
            )
            training = processor_seconds(lambda made=made: train(made))
            parts.clear()
            asked = settings.Replicate(run=out, draws=given.draws, quiet=True)
            whole = processor_seconds(lambda asked=asked: recipe.replicate(asked))
        rest = whole - sum(parts.values())
        shown = ", ".join(f"{name} {value:.1f}" for name, value in [*parts.items(), ("the rest", rest)])
        print(
            f"recipe {number}: training {training:.1f}, replication {whole:.1f} = {whole / training:.1f} times: {shown}"
        )


if __name__ == "__main__":
    main()
