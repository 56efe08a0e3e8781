"""Inference-time decomposition of activations: a language model's activations as sparse sums of labelled ones."""

from itda.core.batch import ActivationBatch, ActivationSource, Site
from itda.core.build import Builder
from itda.core.code import SparseCode
from itda.core.labels import Label, Labels, jaccard
from itda.core.memory import set_fast, set_memory
from itda.core.metrics import Unexplained, atom_uses, ce_loss_score, l0
from itda.core.model import ITDA
from itda.core.pursuit import pursue
from itda.core.reference import ReferenceTrainer
from itda.core.refine import refine
from itda.core.training import Trainer
from itda.errors import ItdaError

__version__ = "0.1.0"

__all__ = [
    "ActivationBatch",
    "ActivationSource",
    "Builder",
    "ITDA",
    "ItdaError",
    "Label",
    "Labels",
    "ReferenceTrainer",
    "Site",
    "SparseCode",
    "Trainer",
    "Unexplained",
    "atom_uses",
    "ce_loss_score",
    "jaccard",
    "l0",
    "pursue",
    "refine",
    "set_fast",
    "set_memory",
]
