"""The commands' work, one module each: the only room where sources, core and store meet. Nothing here prints."""

from itda.recipes.decompose import AtomUse, TokenDecomposition, decompose, decompose_text, top_uses
from itda.recipes.evaluate import evaluate_on, evaluate_run
from itda.recipes.runs import Bar, Progress, Run, finite, no_bar, open_run
from itda.recipes.train import make_room, train

__all__ = [
    "AtomUse",
    "Bar",
    "Progress",
    "Run",
    "TokenDecomposition",
    "decompose",
    "decompose_text",
    "evaluate_on",
    "evaluate_run",
    "finite",
    "make_room",
    "no_bar",
    "open_run",
    "top_uses",
    "train",
]
