"""What it costs a model to be without some atoms, beside what it costs to be without others as strong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from itda.core.dictionary import ITDA
from itda.core.metrics import cross_entropy, kl_divergence
from itda.core.steering import check_atom
from itda.errors import CorpusError, SettingError
from itda.sources.corpora.any_corpus import AnyCorpus, any_corpus
from itda.sources.models.base import ActivationModel
from itda.sources.models.transformers import LanguageModel
from itda.sources.tokenizing.windows import Group, within_budget
from itda.steering.controls import nearest_in
from itda.steering.steering import site_to_steer, steerable
from itda.steering.units import BATCH, WINDOW


@dataclass(frozen=True)
class Removed:
    """The cross-entropy of a model without some atoms, and its distance from the whole model, in nats per token."""

    atoms: tuple[int, ...]
    ce: float
    kl: float
    """KL(whole || without) of the next token, the mean over predictions."""


@dataclass(frozen=True)
class Removal:
    """What removing atoms costs, beside controls: the same number of other atoms, about as strong in the text."""

    tokens: int
    """Number of activations."""
    predicted: int
    """Number of predictions."""
    ce_whole: float
    """Cross-entropy of the whole model."""
    kept: Removed
    """With no atom removed: the whole model, or without the residual the reconstruction."""
    removed: Removed
    controls: tuple[Removed, ...]

    @property
    def beyond(self) -> int:
        """Number of controls whose removal changes predictions less (in KL) than that of the atoms."""
        return sum(each.kl < self.removed.kl for each in self.controls)


def cost_of_removal(
    model: ActivationModel,
    dictionary: ITDA,
    atoms: int | Sequence[int],
    corpus: AnyCorpus,
    *,
    tokens: int = 5_000,
    controls: int = 4,
    residual: bool = True,
    seed: int = 0,
) -> Removal:
    """Measure CE and KL of `lm.without(dictionary, atoms)` on the first `tokens` tokens of a corpus, and of controls.

    A control lacks as many atoms, each drawn among the 64 whose sum of squared coefficients in the text is nearest to
    that of one of the atoms. Raises an `ItdaError`.

    >>> import itda
    >>> lm, texts = itda.load_model("tiny"), ["import os", "def f(x): return x"] * 8
    >>> run = itda.train(lm, texts, layers=3, k=2, atoms=8, progress=False)
    >>> found = itda.steering.cost_of_removal(lm, run["layer_3"], [0], texts, controls=2)
    >>> found.kept.kl, found.removed.kl >= 0, len(found.controls)
    (0.0, True, 2)
    """
    lm = steerable(model)
    numbers = [check_atom(each, len(dictionary)) for each in ([atoms] if isinstance(atoms, int) else atoms)]
    if not numbers:
        raise SettingError("there is no atom to remove: name one")
    about, site = dictionary.provenance, site_to_steer(dictionary, None)
    windower = lm.windower(about.get("window") or WINDOW, about.get("bos", "auto"))
    documents = any_corpus(corpus)

    def groups() -> Iterator[Group]:
        return within_budget(windower.groups(documents, BATCH), tokens)

    energy = np.zeros(len(dictionary))
    for group in groups():
        for _, found in lm.harvest([group], [site]):
            x = found[site].to(dictionary.atoms.device)
            code = dictionary.encode(x[~dictionary.is_massive(x)])
            energy += code.dense(len(dictionary)).double().square().sum(dim=0).cpu().numpy()
    columns: list[list[int]] = []
    for number in numbers:
        without = {*numbers, *(each for column in columns for each in column)}
        columns.append(nearest_in(np.sqrt(energy), number, controls, seed, without))
    asked = [[], numbers, *(list(row) for row in zip(*columns, strict=True))]
    models = [lm.without(dictionary, each, residual=residual) for each in asked]
    return _measured(lm, models, asked, list(groups()))


@torch.inference_mode()
def _measured(
    lm: LanguageModel, models: Sequence[LanguageModel], asked: Sequence[Sequence[int]], groups: Sequence[Group]
) -> Removal:
    ce, kl, clean, predicted, tokens = [0.0] * len(models), [0.0] * len(models), 0.0, 0, 0
    for group in groups:
        predicts = group.predicts
        tokens += int(group.is_activation.sum())
        predicted += int(predicts.sum())
        if not predicts.any():
            continue
        targets = group.targets.to(lm.model.device)
        whole = lm.logits(group)[predicts.to(lm.model.device)]
        clean += cross_entropy(whole, targets).sum().item()
        for place, each in enumerate(models):
            logits = each.logits(group)[predicts.to(lm.model.device)]
            ce[place] += cross_entropy(logits, targets).sum().item()
            kl[place] += kl_divergence(whole, logits).sum().item()
    if not predicted:
        raise CorpusError("there is no token to predict: name another corpus")
    made = [Removed(tuple(each), ce[i] / predicted, kl[i] / predicted) for i, each in enumerate(asked)]
    return Removal(tokens, predicted, clean / predicted, made[0], made[1], tuple(made[2:]))
