"""Evaluation: how much of a model's behaviour a dictionary keeps when it stands in for the activations at its site."""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from itda.core.batch import Site
from itda.core.bootstrap import by_document, interval
from itda.core.code import SparseCode
from itda.core.dictionary import ITDA
from itda.core.headroom import SAMPLE_TOKENS, Headroom, headroom
from itda.core.metrics import Unexplained, atom_uses, ce_loss_score, cross_entropy, kl_divergence, log_normalizer
from itda.errors import CorpusError, ModelError
from itda.evaluation.resumption import splicer_of
from itda.sources.models.splicing import REPLACEMENTS, SPLICED, Key, Spliced, branches
from itda.sources.models.transformers import LanguageModel
from itda.sources.passes import Passes, Steps, passes
from itda.sources.streamed.model import StreamedModel
from itda.sources.tokenizing.windows import Group

Massive = Literal["clean", "splice"]
"""What becomes of massive activations in a splice, and in ablations: they stay, or are replaced like the others."""


@dataclass(frozen=True)
class Evaluation:
    """What was measured for one dictionary. Cross-entropies and KL are in nats per predicted token.

    They are None for a model that does not predict the next token. `fvu`, `l0` and `unused_atoms` are of the tokens
    that are not massive (`ITDA.is_massive`).
    """

    tokens: int
    """Activations decomposed, massive ones too."""
    predicted: int
    """Tokens whose prediction was scored: those that follow an activation, be it replaced or massive."""
    fvu: float
    l0: float
    atoms: int
    unused_atoms: int
    massive_tokens: int = 0
    massive_energy: float = 0.0
    """Their share of sum ||x||^2."""
    fvu_all: float = math.nan
    """fvu of all tokens, massive ones too: where there are some, it is about them."""
    massive: Massive = "clean"
    """What became of them in the splice."""
    ce_clean: float | None = None
    ce_spliced: float | None = None
    ce_zero: float | None = None
    ce_mean: float | None = None
    ce_loss_score: float | None = None
    kl: float | None = None
    """KL(clean || spliced)."""
    encode_per_second: float = field(default=0.0, compare=False)
    """Activations encoded per second, after the first group of windows."""
    k: int = 0
    threshold: float | None = None
    """Of the dictionary."""
    full: float | None = None
    """Share of the tokens that are not massive whose code has k atoms."""
    error_median: float | None = None
    error_tenth: float | None = None
    """Of the errors of these tokens: the median, and what one in ten is above."""
    over_threshold: float | None = None
    """Share of them above the threshold."""
    headroom: Headroom | None = None
    """What longer codes, and half of the atoms, do to the first of them."""
    verdict: tuple[str, ...] = ()
    """What the figures say, in words (`itda.evaluation.verdict`)."""
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
    everything: Unexplained
    """Massive tokens too."""
    uses: Tensor
    picks: int = 0
    massive: int = 0
    energy: float = 0.0
    massive_energy: float = 0.0
    ce: dict[str, float] = field(default_factory=lambda: dict.fromkeys(REPLACEMENTS, 0.0))
    kl: float = 0.0
    seconds: float = 0.0
    timed: int = 0
    full: int = 0
    errors: list[Float64[Tensor, " tokens"]] = field(default_factory=list)
    sample: list[Tensor] = field(default_factory=list)
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
    model: LanguageModel | StreamedModel,
    groups: Callable[[], Iterable[Group]],
    dictionaries: Mapping[Site, ITDA],
    *,
    massive: Massive = "clean",
    progress: Callable[[int], None] = lambda _tokens: None,
) -> dict[Site, Evaluation]:
    """Measure each dictionary on the tokens of `groups`, which is called twice: for the mean activation, and for all.

    Every dictionary, and every ablation, sees the same tokens. CE and KL are over the tokens that follow an activation
    in its window. Activations that the dictionary calls massive have no part in fvu, l0 and the mean; in the splice,
    and in ablations, they stay what they are ("clean") or are replaced too ("splice"). Raises `CorpusError` if there
    is no token, `ModelError` if the model's loss is not a number.
    """
    sites = list(dictionaries)
    if not sites:
        return {}
    splicer = splicer_of(model, sites, (SPLICED,))
    cost = cost_of(model, sites)
    reading = cost.reading / (cost.reading + cost.scoring)
    steps = Steps(progress)
    means, seen = {site: Unexplained(dictionaries[site].d_model) for site in sites}, 0
    for flight in _flights(model, groups(), 1):
        with steps.flight(model, reading * _tokens(flight), len(flight) * int(cost.reading)):
            for _, found in splicer.harvest(flight):
                for site, x in found.items():
                    seen += len(x)
                    ordinary = x[~dictionaries[site].is_massive(x)].float()
                    means[site].update(ordinary, ordinary)
    if seen == 0:
        raise CorpusError("there is no token to evaluate on: name another corpus with --corpus")

    sums = {
        site: _Sums(Unexplained(d.d_model), Unexplained(d.d_model), torch.zeros(len(d), dtype=torch.long))
        for site, d in dictionaries.items()
    }
    ce_clean, predicted = 0.0, 0
    for flight in _flights(model, groups(), branches(len(sites))):
        scores = [_Scores(group) for group in flight]
        documents = [group.labels().document for group in flight]

        def splice(place: int, site: Site, x: Tensor, documents: list[np.ndarray] = documents) -> dict[str, Tensor]:
            # The clean activations: the spliced run's are the same up to its site, and encoding them once will do.
            return _replacements(x, dictionaries[site], means[site], sums[site], documents[place], massive)

        with steps.flight(model, (1 - reading) * _tokens(flight), len(flight) * model.layers):
            for predictions in splicer.spliced(flight, splice):
                scores[predictions.place].add(predictions)
        for group, score in zip(flight, scores, strict=True):
            if None in score.ce:
                ce_clean += score.ce[None].sum().item()
                predicted += len(score.ce[None])
                for site in sites:
                    _add_scores(sums[site], score, site, group.labels(group.predicts).document)
    return {
        site: _result(sums[site], ce_clean, predicted, dictionaries[site], means[site].mean, massive) for site in sites
    }


def cost_of(model: LanguageModel | StreamedModel, sites: Sequence[Site]) -> Passes:
    """What evaluating a model at some sites costs, for each token."""
    inner = model.inner if isinstance(model, StreamedModel) else model
    vocabulary = inner.model.config.get_text_config().vocab_size if model.is_causal else 0
    return passes(sites, model.layers, vocabulary, model.d_model)


def _tokens(flight: Iterable[Group]) -> int:
    return sum(int(group.is_activation.sum()) for group in flight)


def _flights(model: LanguageModel | StreamedModel, groups: Iterable[Group], states: int) -> Iterator[list[Group]]:
    """Groups that are best run together, with so many hidden states for each token; empty ones are left out."""
    wanted = (group for group in groups if group.is_activation.any())
    first = next(wanted, None)
    if first is None:
        return
    size = model.flight(first.input_ids.numel(), states)
    wanted = itertools.chain([first], wanted)
    while flight := list(itertools.islice(wanted, size)):
        yield flight


def _replacements(
    x: Tensor, dictionary: ITDA, mean: Unexplained, total: _Sums, documents: np.ndarray, massive: Massive
) -> dict[str, Tensor]:
    """What stands in for the activations [tokens, d_model] of a group, by `REPLACEMENTS`; counted in `total`."""
    started = time.perf_counter()
    code = dictionary.encode(x)
    if total.everything.tokens:  # the first one compiles, and computes what later ones find ready
        total.seconds += time.perf_counter() - started
        total.timed += len(x)
    reconstruction = dictionary.decode(code)
    exact, apart = x.double(), dictionary.is_massive(x)
    ordinary = ~apart
    total.of_tokens(
        documents,
        tokens=ordinary,
        picks=code.count * ordinary.to(code.count.device),
        residual=(exact - reconstruction.double()).square().sum(dim=1) * ordinary,
        variance=(exact - mean.mean.to(exact)).square().sum(dim=1) * ordinary,
    )
    total.unexplained.update(x[ordinary], reconstruction[ordinary])
    total.everything.update(x, reconstruction)
    of_others = SparseCode(code.indices[ordinary], code.coefficients[ordinary], code.count[ordinary])
    total.uses += atom_uses(of_others, len(dictionary)).cpu()
    total.picks += int(of_others.count.sum())
    total.full += int((of_others.count == dictionary.k).sum())
    total.errors.append(dictionary.error(x, code)[ordinary].cpu())
    if (room := SAMPLE_TOKENS - sum(map(len, total.sample))) > 0:
        total.sample.append(x[ordinary][:room].clone())
    total.massive += int(apart.sum())
    energy = exact.square().sum(dim=1)
    total.energy += energy.sum().item()
    total.massive_energy += energy[apart].sum().item()
    average = mean.mean.to(reconstruction).expand_as(reconstruction)
    made = {SPLICED: reconstruction, "zero": torch.zeros_like(reconstruction), "mean": average}
    if massive == "splice" or not bool(apart.any()):
        return made
    return {name: torch.where(apart[:, None], x.to(values), values) for name, values in made.items()}


class _Scores:
    """Cross-entropies and KL of one group's predictions, filled some rows at a time."""

    def __init__(self, group: Group) -> None:
        self.targets, self.count = group.targets, int(group.predicts.sum())
        self.ce: dict[Key, Float64[Tensor, " predicted"]] = {}
        self.kl: dict[Site, Float64[Tensor, " predicted"]] = {}
        self._clean: tuple[Tensor, Tensor] | None = None

    def add(self, predictions: Spliced) -> None:
        """Score some predictions; the clean ones of the same rows come before those that are compared with them."""
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


def _add_scores(total: _Sums, score: _Scores, site: Site, documents: np.ndarray) -> None:
    for name in REPLACEMENTS:
        total.ce[name] += score.ce[site, name].sum().item()
    total.kl += score.kl[site].sum().item()
    zero = score.ce[site, "zero"]
    total.of_tokens(
        documents,
        predicted=torch.ones(score.count),
        gained=zero - score.ce[site, SPLICED],
        lost=zero - score.ce[None],
        kl=score.kl[site],
    )


def _result(
    total: _Sums, ce_clean: float, predicted: int, dictionary: ITDA, mean: Tensor, massive: Massive
) -> Evaluation:
    ordinary, sums = total.unexplained.tokens, total.by_document
    errors = torch.cat(total.errors).sort().values
    common = {
        "tokens": total.everything.tokens,
        "predicted": predicted,
        "fvu": total.unexplained.value(),
        "l0": total.picks / ordinary if ordinary else math.nan,
        "massive_tokens": total.massive,
        "massive_energy": total.massive_energy / total.energy if total.energy else 0.0,
        "fvu_all": total.everything.value(),
        "massive": massive,
        "atoms": len(dictionary),
        "k": dictionary.k,
        "threshold": dictionary.threshold,
        "unused_atoms": int((total.uses == 0).sum()),
        "encode_per_second": total.timed / total.seconds if total.seconds else 0.0,
        "headroom": headroom(dictionary, torch.cat(total.sample).float(), mean),
        "documents": len(sums),
        "intervals": _intervals(sums, _RATIOS | (_CAUSAL_RATIOS if predicted else {})),
    }
    if ordinary:
        common |= {
            "full": total.full / ordinary,
            "error_median": errors[(ordinary - 1) // 2].item(),
            "error_tenth": errors[math.ceil(0.9 * ordinary) - 1].item(),
        }
        if dictionary.threshold is not None:
            common["over_threshold"] = (errors > dictionary.threshold).double().mean().item()
    if predicted == 0:
        return Evaluation(**common)
    clean = ce_clean / predicted
    ce = {name: value / predicted for name, value in total.ce.items()}
    if not all(map(math.isfinite, (clean, *ce.values(), total.kl))):
        raise ModelError("the model's loss is not a number: run it in float32 with --dtype float32")
    return Evaluation(
        **common,
        ce_clean=clean,
        ce_spliced=ce[SPLICED],
        ce_zero=ce["zero"],
        ce_mean=ce["mean"],
        ce_loss_score=ce_loss_score(clean=clean, spliced=ce[SPLICED], zero=ce["zero"]),
        kl=total.kl / predicted,
    )


def _intervals(sums: np.ndarray, ratios: Mapping[str, tuple[str, str]]) -> dict[str, tuple[float, float]]:
    if len(sums) < 2:
        return {}
    places = {name: [_COLUMNS.index(column) for column in columns] for name, columns in ratios.items()}
    found = {name: interval(sums[:, columns]) for name, columns in places.items()}
    return {name: (float(each.low), float(each.high)) for name, each in found.items()}
