"""Baselines of diffing: what others rank the places and directions of a difference by, each from dense activations.

Each takes an organism's readings at one layer and gives a score to every token and a ranked list of findings: a token
in its context, a direction, or both. All of them are given four findings. Documents are scored by one rule for all
methods: the mean of the largest 5% of a document's token scores (of at least one).

- `mean`: the mean of changed less base over all tokens, and over the tokens at the first, second and third place of a
  document (the core of the Activation Difference Lens, arXiv 2510.13900). A token's score is its projection on the
  first; a direction's label is the token with the largest projection.
- `norm`: the length of the difference; the four tokens with the largest, of four documents. `norm less control` takes
  away the length of the control's difference.
- `kl`: KL of the next token's distributions, likewise; the direction is the difference there. `kl less control`.
- `pca`: the four first principal components of the differences; the label is the token with the largest projection. A
  token's score is the length of its projection on the four.
- `sae`: a TopK SAE of the differences by SAELens' trainer; latents ranked by the energy that they explain, the label
  is the token at which they are strongest. A token's score is the length of what its four first latents have.
- `random`: differences of random tokens as atoms, each token read by the one of the largest cosine; ranked by the
  energy that they explain, as `sae`, and scored alike.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from diffing_readings import Readings
from torch import Tensor

TOP = 4
"""Findings that count."""
TOP_SHARE = 0.05
"""Share of a document's tokens, the highest scored, whose mean score is the document's."""
ATOMS, ACTIVE = 1024, 20
"""Latents of the SAE and random atoms; latents active at a token."""


@dataclass(frozen=True, eq=False)
class Finding:
    """One thing that a method shows."""

    row: int | None
    """The token that labels it, as a row of the readings."""
    direction: Tensor | None = None
    """[d]: read by the changed model's unembedding, unless the method says itself what is promoted."""
    promoted: Sequence[str] | None = None
    suppressed: Sequence[str] | None = None
    called: bool = True
    """False if the method lists it but says that it is within the noise."""


@dataclass(frozen=True, eq=False)
class Found:
    """What a method makes of an organism."""

    findings: Sequence[Finding]
    """The best first."""
    scores: Tensor | None = None
    """A score of each token [n]; None if the method scores documents itself."""
    documents: Tensor | None = None
    """A score of each document [documents]."""
    times: float | None = None
    """How many times as much the atom that stands out most has beyond the control as the control's, if it says so."""
    called: int | None = None
    """Number of those that the method calls more than noise, of all that it has, if these are more than are listed."""


def document_scores(scores: Tensor, document: Tensor, documents: int) -> Tensor:
    """Return the mean of the largest 5% of each document's token scores; minus infinity for one without tokens.

    >>> document_scores(torch.tensor([1.0, 5.0, 2.0]), torch.tensor([0, 0, 2]), 3).tolist()
    [5.0, -inf, 2.0]
    """
    found = scores.new_full((documents,), -math.inf)
    for number in document.unique().tolist():
        mine = scores[document == number]
        found[number] = mine.topk(math.ceil(TOP_SHARE * len(mine))).values.mean()
    return found


def of_different_documents(scores: Tensor, document: Tensor, most: int = TOP) -> list[int]:
    """Return the rows with the largest scores, one a document, the largest first.

    >>> of_different_documents(torch.tensor([1.0, 3.0, 2.0, 0.0]), torch.tensor([0, 1, 1, 2]), 2)
    [1, 0]
    """
    rows, seen = [], set()
    for row in scores.argsort(descending=True, stable=True).tolist():
        if (number := int(document[row])) not in seen:
            seen.add(number)
            rows.append(row)
            if len(rows) == most:
                break
    return rows


def mean(r: Readings, layer: int) -> Found:
    difference = r.difference(layer)
    groups = [torch.ones_like(r.position, dtype=torch.bool), *(r.position == place for place in range(1, TOP))]
    findings, scores = [], []
    for group in groups:
        direction = _unit(difference[group].mean(dim=0))
        scores.append(difference @ direction)
        findings.append(Finding(int(scores[-1].argmax()), direction))
    return Found(findings, scores[0])


def norm(r: Readings, layer: int) -> Found:
    return _by_token(r, layer, r.difference(layer).norm(dim=1))


def norm_less_control(r: Readings, layer: int) -> Found:
    return _by_token(r, layer, r.difference(layer).norm(dim=1) - (r.control[layer] - r.base[layer]).norm(dim=1))


def kl(r: Readings, layer: int) -> Found:
    return _by_token(r, layer, r.kl)


def kl_less_control(r: Readings, layer: int) -> Found:
    return _by_token(r, layer, r.kl - r.control_kl)


def _by_token(r: Readings, layer: int, scores: Tensor) -> Found:
    difference = r.difference(layer)
    rows = of_different_documents(scores, r.document)
    return Found([Finding(row, _unit(difference[row])) for row in rows], scores)


def pca(r: Readings, layer: int) -> Found:
    difference = r.difference(layer)
    centred = (difference - difference.mean(dim=0)).double()
    components = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, :TOP].float()
    projections = centred.float() @ components
    findings = []
    for number in range(TOP):
        row = int(projections[:, number].abs().argmax())
        findings.append(Finding(row, components[:, number] * projections[row, number].sign()))
    return Found(findings, projections.norm(dim=1))


def random(r: Readings, layer: int, *, atoms: int = ATOMS, seed: int = 0) -> Found:
    difference = r.difference(layer)
    rows = torch.randperm(len(difference), generator=torch.Generator().manual_seed(seed))[:atoms]
    units = _unit(difference[rows])
    codes = torch.zeros(len(difference), len(rows))
    for at in torch.arange(len(difference)).split(4096):
        coefficients, best = (difference[at] @ units.T).abs().max(dim=1)
        codes[at, best] = coefficients
    order = codes.square().sum(dim=0).argsort(descending=True, stable=True)[:TOP]
    # An atom's label is the token that it was.
    return Found([Finding(int(rows[i]), units[i]) for i in order], codes[:, order].norm(dim=1))


def sae(r: Readings, layer: int, *, seconds: float, seed: int = 0) -> Found:
    from meaning_sae import Wanted
    from meaning_saelens import trained

    difference = r.difference(layer)
    made = trained("topk", difference, Wanted(ATOMS, ACTIVE, seed, seconds))
    return of_latents(torch.cat([made.latents(part) for part in difference.split(4096)]), made.W_dec)


def of_latents(latents: Tensor, decoder: Tensor) -> Found:
    """Rank latents [n, m] by the energy that they explain: of each, its squares times those of its decoder [m, d]."""
    lengths = decoder.norm(dim=1)
    parts = latents * lengths
    order = parts.square().sum(dim=0).argsort(descending=True, stable=True)[:TOP]
    findings = [Finding(int(latents[:, i].argmax()), decoder[i] / lengths[i]) for i in order.tolist()]
    return Found(findings, parts[:, order].norm(dim=1))


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True).clamp(min=1e-12)


BASELINES: dict[str, Callable[..., Found]] = {
    "mean": mean,
    "norm": norm,
    "norm less control": norm_less_control,
    "kl": kl,
    "kl less control": kl_less_control,
    "pca": pca,
    "sae": sae,
    "random": random,
}
