"""Evaluation: how much of a model's behaviour a dictionary keeps when it stands in for the activations at its site."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from itda.core.batch import Site
from itda.core.bootstrap import by_document, interval
from itda.core.metrics import Unexplained, atom_uses, ce_loss_score
from itda.core.model import ITDA
from itda.errors import CorpusError, ModelError
from itda.sources.huggingface import LanguageModel
from itda.sources.windows import Group

LOGITS_AT_ONCE = 2**24


@dataclass(frozen=True)
class Evaluation:
    """What was measured for one dictionary. Cross-entropies and KL are in nats per predicted token.

    They are None for a model that does not predict the next token.
    """

    tokens: int
    """Activations decomposed."""
    predicted: int
    """Tokens whose prediction was scored: those that follow a replaced activation."""
    fvu: float
    l0: float
    atoms: int
    unused_atoms: int
    ce_clean: float | None = None
    ce_spliced: float | None = None
    ce_zero: float | None = None
    ce_mean: float | None = None
    ce_loss_score: float | None = None
    kl: float | None = None
    """KL(clean || spliced)."""
    encode_per_second: float = field(default=0.0, compare=False)
    """Activations encoded per second, after the first group of windows."""
    documents: int = 0
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    """95% intervals of fvu, l0, ce_loss_score and kl by bootstrap over documents; none where there is one document."""


_COLUMNS = ("tokens", "picks", "residual", "variance", "predicted", "gained", "lost", "kl")
"""Sums per document: `gained` is CE_zero - CE_spliced, `lost` is CE_zero - CE_clean."""
_RATIOS = {"l0": ("picks", "tokens"), "fvu": ("residual", "variance")}
_CAUSAL_RATIOS = {"ce_loss_score": ("gained", "lost"), "kl": ("kl", "predicted")}


@dataclass
class _Sums:
    unexplained: Unexplained
    uses: Tensor
    picks: int = 0
    ce: dict[str, float] = field(default_factory=lambda: {"spliced": 0.0, "zero": 0.0, "mean": 0.0})
    kl: float = 0.0
    seconds: float = 0.0
    timed: int = 0
    documents: list[np.ndarray] = field(default_factory=list)
    columns: list[np.ndarray] = field(default_factory=list)

    def of_tokens(self, documents: np.ndarray, **columns: Tensor) -> None:
        """Keep some columns of tokens, and which document each is from."""
        values = np.zeros((len(documents), len(_COLUMNS)))
        for name, column in columns.items():
            values[:, _COLUMNS.index(name)] = column.double().cpu().numpy()
        self.documents.append(documents.astype(str))
        self.columns.append(values)

    @property
    def by_document(self) -> np.ndarray:
        """Sums [documents, columns], in the order of the documents' ids."""
        return by_document(np.concatenate(self.columns), np.concatenate(self.documents))


def evaluate(
    model: LanguageModel,
    groups: Callable[[], Iterable[Group]],
    dictionaries: Mapping[Site, ITDA],
    *,
    progress: Callable[[int], None] = lambda _tokens: None,
) -> dict[Site, Evaluation]:
    """Measure each dictionary on the tokens of `groups`, which is called twice: for the mean activation, and for all.

    Every dictionary, and every ablation, sees the same tokens. CE and KL are over the tokens that follow a replaced
    activation in its window. Raises `CorpusError` if there is no token, `ModelError` if the model's loss is not a
    number.
    """
    sites = list(dictionaries)
    means = {site: Unexplained(dictionaries[site].d_model) for site in sites}
    for group in groups():
        for site, activations in model.activations(group, sites).items():
            flat = activations[group.is_activation.to(activations.device)].float()
            means[site].update(flat, flat)
    if not sites or means[sites[0]].tokens == 0:
        raise CorpusError("there is no token to evaluate on: name another corpus with --corpus")

    sums = {
        site: _Sums(Unexplained(dictionary.d_model), torch.zeros(len(dictionary), dtype=torch.long))
        for site, dictionary in dictionaries.items()
    }
    ce_clean, predicted = 0.0, 0
    for group in groups():
        count = int(group.predicts.sum())
        clean = _predictions(model, group) if model.is_causal and count else None
        clean_ce = None
        if clean is not None:
            clean_ce = _cross_entropy(clean, group)
            ce_clean += clean_ce.sum().item()
            predicted += count
        documents, predicting = group.labels().document, group.labels(group.predicts).document
        # The clean activations: the spliced run's are the same up to its site, and encoding them once will do.
        found = model.activations(group, sites)
        for site, dictionary in dictionaries.items():
            x = found[site][group.is_activation.to(found[site].device)]
            total = sums[site]
            started = time.perf_counter()
            code = dictionary.encode(x)
            if total.unexplained.tokens:  # the first one compiles, and computes what later ones find ready
                total.seconds += time.perf_counter() - started
                total.timed += len(x)
            reconstruction = dictionary.decode(code)
            exact = x.double()
            total.of_tokens(
                documents,
                tokens=torch.ones(len(x)),
                picks=code.count,
                residual=(exact - reconstruction.double()).square().sum(dim=1),
                variance=(exact - means[site].mean.to(exact)).square().sum(dim=1),
            )
            total.unexplained.update(x, reconstruction)
            total.uses += atom_uses(code, len(dictionary)).cpu()
            total.picks += int(code.count.sum())
            if clean is None or clean_ce is None:
                continue
            mean = means[site].mean.to(reconstruction)
            replacements = {"spliced": reconstruction, "zero": torch.zeros_like(reconstruction)}
            replacements["mean"] = mean.expand_as(reconstruction)
            found_ce: dict[str, Tensor] = {}
            kl = clean_ce
            for name, values in replacements.items():
                spliced = _predictions(model, group, site, values)
                found_ce[name] = _cross_entropy(spliced, group)
                total.ce[name] += found_ce[name].sum().item()
                if name == "spliced":
                    kl = _kl(clean, spliced)
                    total.kl += kl.sum().item()
            total.of_tokens(
                predicting,
                predicted=torch.ones(count),
                gained=found_ce["zero"] - found_ce["spliced"],
                lost=found_ce["zero"] - clean_ce.to(found_ce["zero"].device),
                kl=kl,
            )
        progress(int(group.is_activation.sum()))
    return {site: _result(sums[site], ce_clean, predicted, len(dictionaries[site])) for site in sites}


def _result(total: _Sums, ce_clean: float, predicted: int, atoms: int) -> Evaluation:
    tokens, sums = total.unexplained.tokens, total.by_document
    common = {
        "tokens": tokens,
        "predicted": predicted,
        "fvu": total.unexplained.value(),
        "l0": total.picks / tokens,
        "atoms": atoms,
        "unused_atoms": int((total.uses == 0).sum()),
        "encode_per_second": total.timed / total.seconds if total.seconds else 0.0,
        "documents": len(sums),
        "intervals": _intervals(sums, _RATIOS | (_CAUSAL_RATIOS if predicted else {})),
    }
    if predicted == 0:
        return Evaluation(**common)
    clean = ce_clean / predicted
    ce = {name: value / predicted for name, value in total.ce.items()}
    if not all(value == value for value in (clean, *ce.values(), total.kl)):
        raise ModelError("the model's loss is not a number: run it in float32 with --dtype float32")
    return Evaluation(
        **common,
        ce_clean=clean,
        ce_spliced=ce["spliced"],
        ce_zero=ce["zero"],
        ce_mean=ce["mean"],
        ce_loss_score=ce_loss_score(clean=clean, spliced=ce["spliced"], zero=ce["zero"]),
        kl=total.kl / predicted,
    )


def _intervals(sums: np.ndarray, ratios: Mapping[str, tuple[str, str]]) -> dict[str, tuple[float, float]]:
    if len(sums) < 2:
        return {}
    places = {name: [_COLUMNS.index(column) for column in columns] for name, columns in ratios.items()}
    found = {name: interval(sums[:, columns]) for name, columns in places.items()}
    return {name: (float(each.low), float(each.high)) for name, each in found.items()}


def _predictions(model: LanguageModel, group: Group, site: Site | None = None, values: Tensor | None = None) -> Tensor:
    """Logits [predicted, vocabulary] at the places that predict a token, with `values` spliced in at `site`."""
    replace = None if values is None else lambda _activations: values
    logits = model.logits(group, site, replace)
    return logits[group.predicts.to(logits.device)]


def _chunks(logits: Tensor) -> int:
    return max(1, LOGITS_AT_ONCE // logits.shape[-1])


def _cross_entropy(logits: Tensor, group: Group) -> Float64[Tensor, " predicted"]:
    size, targets = _chunks(logits), group.targets.to(logits.device)
    parts = [
        torch.nn.functional.cross_entropy(part.double(), target, reduction="none")
        for part, target in zip(logits.split(size), targets.split(size), strict=True)
    ]
    return torch.cat(parts)


def _kl(clean: Tensor, spliced: Tensor) -> Float64[Tensor, " predicted"]:
    """KL(clean || spliced) of each place, from log-probabilities."""
    parts = []
    for p, q in zip(clean.split(_chunks(clean)), spliced.split(_chunks(clean)), strict=True):
        log_p, log_q = p.double().log_softmax(-1), q.double().log_softmax(-1)
        parts.append(torch.nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1))
    return torch.cat(parts)
