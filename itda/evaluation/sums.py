"""The sums of an evaluation over activations and over predictions, added up group by group."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from itda.core.batch import Site
from itda.core.bootstrap import by_document, interval
from itda.core.code import SparseCode
from itda.core.dictionary import ITDA
from itda.core.headroom import SAMPLE_TOKENS, headroom
from itda.core.metrics import (
    Unexplained,
    atom_uses,
    ce_loss_score,
    cross_entropy,
    energies,
    kl_divergence,
    log_normalizer,
)
from itda.errors import ModelError
from itda.evaluation.measures import Evaluation, Massive
from itda.sources.models.splicing import REPLACEMENTS, SPLICED, Key, Spliced
from itda.sources.tokenizing.windows import Group

COLUMNS = ("tokens", "picks", "residual", "variance", "predicted", "gained", "lost", "kl")
"""Columns summed for each document: `gained` is CE_zero - CE_spliced, `lost` is CE_zero - CE_clean."""

RATIOS = {"l0": ("picks", "tokens"), "fvu": ("residual", "variance")}
CAUSAL_RATIOS = {"ce_loss_score": ("gained", "lost"), "kl": ("kl", "predicted")}
"""Measures with intervals: each is the sum of one column over the sum of another."""


@dataclass
class SiteSums:
    """The sums over the activations and predictions of one site, from which its dictionary's measures are made."""

    dictionary: ITDA
    mean: Float64[Tensor, " d_model"]
    """The mean of the activations that are not massive; variance is measured from it."""
    massive: Massive
    ordinary: Unexplained = field(init=False)
    """The variance left unexplained in tokens that are not massive."""
    everything: Unexplained = field(init=False)
    """The variance left unexplained in all tokens."""
    uses: Tensor = field(init=False)
    """Uses of each atom [atoms]."""
    picks: int = 0
    """Entries of all codes together, massive tokens left out."""
    massive_tokens: int = 0
    energy: float = 0.0
    massive_energy: float = 0.0
    ce: dict[str, float] = field(default_factory=lambda: dict.fromkeys(REPLACEMENTS, 0.0))
    kl: float = 0.0
    seconds: float = 0.0
    timed: int = 0
    """Number of activations that `seconds` were spent on encoding."""
    full: int = 0
    """Number of codes with all k atoms."""
    errors: list[Float64[Tensor, " tokens"]] = field(default_factory=list)
    sample: list[Tensor] = field(default_factory=list)
    documents: list[np.ndarray] = field(default_factory=list)
    columns: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        width = self.dictionary.d_model
        self.ordinary, self.everything = Unexplained(width), Unexplained(width)
        self.uses = torch.zeros(len(self.dictionary), dtype=torch.long)

    def replacements(self, x: Float[Tensor, "tokens d_model"], documents: np.ndarray) -> dict[str, Tensor]:
        """Count the activations of a group; return what is put in their place, for each of `REPLACEMENTS`."""
        started = time.perf_counter()
        code = self.dictionary.encode(x)
        if self.everything.tokens:  # the first one compiles, and computes what later ones find ready
            self.seconds += time.perf_counter() - started
            self.timed += len(x)
        reconstruction, apart = self.dictionary.decode(code), self.dictionary.is_massive(x)
        self._count(x, code, reconstruction, apart, documents)
        average = self.mean.to(reconstruction).expand_as(reconstruction)
        made = {SPLICED: reconstruction, "zero": torch.zeros_like(reconstruction), "mean": average}
        if self.massive == "splice" or not bool(apart.any()):
            return made
        return {name: torch.where(apart[:, None], x.to(values), values) for name, values in made.items()}

    def _count(self, x: Tensor, code: SparseCode, reconstruction: Tensor, apart: Tensor, documents: np.ndarray) -> None:
        in_double, ordinary = x.double(), ~apart
        self._add_columns(
            documents,
            tokens=ordinary,
            picks=code.count * ordinary.to(code.count.device),
            residual=energies(in_double - reconstruction.double()) * ordinary,
            variance=energies(in_double - self.mean.to(in_double)) * ordinary,
        )
        self.ordinary.update(x[ordinary], reconstruction[ordinary])
        self.everything.update(x, reconstruction)
        of_others = SparseCode(code.indices[ordinary], code.coefficients[ordinary], code.count[ordinary])
        self.uses += atom_uses(of_others, len(self.dictionary)).cpu()
        self.picks += int(of_others.count.sum())
        self.full += int((of_others.count == self.dictionary.k).sum())
        self.errors.append(self.dictionary.error(x, code)[ordinary].cpu())
        if (room := SAMPLE_TOKENS - sum(map(len, self.sample))) > 0:
            self.sample.append(x[ordinary][:room].clone())
        self.massive_tokens += int(apart.sum())
        energy = energies(in_double)
        self.energy += math.fsum(energy.tolist())
        self.massive_energy += math.fsum(energy[apart].tolist())

    def add_scores(self, site: Site, score: GroupScores, documents: np.ndarray) -> None:
        """Count the predictions of a group; `documents` has the document of each."""
        for name in REPLACEMENTS:
            self.ce[name] += score.ce[site, name].sum().item()
        self.kl += score.kl[site].sum().item()
        zero = score.ce[site, "zero"]
        self._add_columns(
            documents,
            predicted=torch.ones(score.count),
            gained=zero - score.ce[site, SPLICED],
            lost=zero - score.ce[None],
            kl=score.kl[site],
        )

    def _add_columns(self, documents: np.ndarray, **columns: Tensor) -> None:
        """Keep columns of some tokens [tokens], together with the document of each token."""
        values = np.zeros((len(documents), len(COLUMNS)))
        for name, column in columns.items():
            values[:, COLUMNS.index(name)] = column.double().cpu().numpy()
        self.documents.append(documents.astype(str))
        self.columns.append(values)

    def evaluation(self, ce_clean: float, predicted: int) -> Evaluation:
        """Return the measures; `ce_clean` is the clean model's cross-entropy, summed over `predicted` predictions.

        Raises `ModelError` if the model's loss is not a number.
        """
        # One row per document, in the order of their ids.
        sums = by_document(np.concatenate(self.columns), np.concatenate(self.documents))
        common = {
            "tokens": self.everything.tokens,
            "predicted": predicted,
            "fvu": self.ordinary.value(),
            "massive_tokens": self.massive_tokens,
            "massive_energy": self.massive_energy / self.energy if self.energy else 0.0,
            "fvu_all": self.everything.value(),
            "massive": self.massive,
            "atoms": len(self.dictionary),
            "k": self.dictionary.k,
            "threshold": self.dictionary.threshold,
            "unused_atoms": int((self.uses == 0).sum()),
            "encode_per_second": self.timed / self.seconds if self.seconds else 0.0,
            "headroom": headroom(self.dictionary, torch.cat(self.sample).float(), self.mean),
            "documents": len(sums),
            "intervals": _intervals(sums, RATIOS | (CAUSAL_RATIOS if predicted else {})),
            **self._code_lengths_and_errors(),
        }
        return Evaluation(**common, **self._losses(ce_clean, predicted))

    def _code_lengths_and_errors(self) -> dict[str, Any]:
        """Return the measures of codes and errors, over the tokens that are not massive."""
        ordinary = self.ordinary.tokens
        if not ordinary:
            return {"l0": math.nan}
        errors = torch.cat(self.errors).sort().values
        found = {
            "l0": self.picks / ordinary,
            "full": self.full / ordinary,
            "error_median": errors[(ordinary - 1) // 2].item(),
            "error_tenth": errors[math.ceil(0.9 * ordinary) - 1].item(),
        }
        if self.dictionary.threshold is not None:
            found["over_threshold"] = (errors > self.dictionary.threshold).double().mean().item()
        return found

    def _losses(self, ce_clean: float, predicted: int) -> dict[str, Any]:
        """Return the measures of predictions; none if there was no prediction."""
        if predicted == 0:
            return {}
        clean = ce_clean / predicted
        ce = {name: value / predicted for name, value in self.ce.items()}
        if not all(map(math.isfinite, (clean, *ce.values(), self.kl))):
            raise ModelError("the model's loss is not a number: run it in float32 with --dtype float32")
        return {
            "ce_clean": clean,
            "ce_spliced": ce[SPLICED],
            "ce_zero": ce["zero"],
            "ce_mean": ce["mean"],
            "ce_loss_score": ce_loss_score(clean=clean, spliced=ce[SPLICED], zero=ce["zero"]),
            "kl": self.kl / predicted,
        }


class GroupScores:
    """Cross-entropies and KL of one group's predictions, filled some rows at a time."""

    def __init__(self, group: Group) -> None:
        self.targets, self.count = group.targets, int(group.predicts.sum())
        self.ce: dict[Key, Float64[Tensor, " predicted"]] = {}
        self.kl: dict[Site, Float64[Tensor, " predicted"]] = {}
        self._clean: tuple[Tensor, Tensor] | None = None

    def add(self, predictions: Spliced) -> None:
        """Score some predictions; the clean ones of the same rows must come before those that KL compares with them."""
        _, key, rows, logits, at = predictions
        normalizer = log_normalizer(logits)
        if key is None:
            self._clean = logits, normalizer
        if key is not None and key[1] == SPLICED:
            assert self._clean is not None
            kl = self.kl.setdefault(key[0], torch.empty(self.count, dtype=torch.float64))
            kl[rows] = kl_divergence(self._clean[0], logits, self._clean[1], normalizer).cpu()
        found = self.ce.setdefault(key, torch.empty(self.count, dtype=torch.float64))
        at = torch.arange(len(logits)) if at is None else at
        targets = self.targets[rows].to(logits.device)
        found[rows] = cross_entropy(logits, targets, at.to(logits.device), normalizer).cpu()


def _intervals(sums: np.ndarray, ratios: Mapping[str, tuple[str, str]]) -> dict[str, tuple[float, float]]:
    if len(sums) < 2:
        return {}
    places = {name: [COLUMNS.index(column) for column in columns] for name, columns in ratios.items()}
    found = {name: interval(sums[:, columns]) for name, columns in places.items()}
    return {name: (float(each.low), float(each.high)) for name, each in found.items()}
