"""Inference-time decomposition of activations: a language model's activations as sparse sums of labelled ones.

A name is imported when it is first asked for, so that commands which need no tensors start at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from itda.version import __version__ as __version__

if TYPE_CHECKING:
    from itda import similarity, steering
    from itda.api.commands import effects, explore, export, features, index, plan, probe, push, replicate
    from itda.api.diffs import diff
    from itda.api.fingerprints import fingerprint
    from itda.api.models import load_model
    from itda.api.runs import compare, decompose, evaluate, harvest, open_run, train, uses
    from itda.api.steering import attribute, steer, steered
    from itda.core.batch import ActivationBatch, ActivationSource, Site
    from itda.core.code import SparseCode
    from itda.core.dictionary import ITDA
    from itda.core.labels import Label, Labels, jaccard
    from itda.core.memory import set_fast, set_memory
    from itda.core.metrics import Unexplained, atom_uses, ce_loss_score, l0
    from itda.core.pursuit import pursue
    from itda.core.readout_features_fit import fit_features
    from itda.core.training.fit import fit
    from itda.core.training.reference import ReferenceTrainer
    from itda.core.training.refine import refine
    from itda.core.training.trainer import Trainer
    from itda.errors import ItdaError
    from itda.store.diffs import Diff
    from itda.store.fingerprints import Fingerprint

__all__ = [
    "ActivationBatch",
    "ActivationSource",
    "Diff",
    "Fingerprint",
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
    "attribute",
    "ce_loss_score",
    "compare",
    "decompose",
    "diff",
    "effects",
    "evaluate",
    "explore",
    "export",
    "features",
    "fingerprint",
    "fit",
    "fit_features",
    "harvest",
    "index",
    "jaccard",
    "l0",
    "load_model",
    "open_run",
    "plan",
    "probe",
    "pursue",
    "push",
    "refine",
    "replicate",
    "set_fast",
    "set_memory",
    "similarity",
    "steer",
    "steered",
    "steering",
    "train",
    "uses",
]

_HOMES = {
    "itda.api.commands": ("effects", "explore", "export", "features", "index", "plan", "probe", "push", "replicate"),
    "itda.api.diffs": ("diff",),
    "itda.api.fingerprints": ("fingerprint",),
    "itda.api.models": ("load_model",),
    "itda.api.runs": ("compare", "decompose", "evaluate", "harvest", "open_run", "train", "uses"),
    "itda.api.steering": ("attribute", "steer", "steered"),
    "itda.core.batch": ("ActivationBatch", "ActivationSource"),
    "itda.core.code": ("SparseCode",),
    "itda.core.labels": ("Label", "Labels", "jaccard"),
    "itda.core.memory": ("set_fast", "set_memory"),
    "itda.core.metrics": ("Unexplained", "atom_uses", "ce_loss_score", "l0"),
    "itda.core.dictionary": ("ITDA",),
    "itda.core.pursuit": ("pursue",),
    "itda.core.readout_features_fit": ("fit_features",),
    "itda.core.training.fit": ("fit",),
    "itda.core.training.reference": ("ReferenceTrainer",),
    "itda.core.training.refine": ("refine",),
    "itda.core.site": ("Site",),
    "itda.core.training.trainer": ("Trainer",),
    "itda.errors": ("ItdaError",),
    "itda.store.diffs": ("Diff",),
    "itda.store.fingerprints": ("Fingerprint",),
}
"""Where each public name is made."""
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in ("similarity", "steering"):
        return import_module(f"itda.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'itda' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
