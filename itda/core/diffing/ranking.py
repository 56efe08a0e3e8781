"""The ranking of the atoms of a difference dictionary, and which of them are findings.

Nearly all tokens differ after any training, most of them in ways that change no prediction. So atoms are ranked by
what the models *say* otherwise where they are used: the KL divergence of a token's prediction, KL(changed || base), is
divided over the atoms of its code by their shares of the energy of the difference there, and an atom's *effect* is the
mean of its part over tokens, in nats per token. The effects of all atoms, and what codes leave over, add up to the mean
KL of the tokens. Without predictions the rank is by energy alone.

A *control* is a model that was trained likewise, on text without what is looked for. With one, only the *excess* of a
token's KL divergence counts, what it is above that of the control: indents of program text, say, are told otherwise
after any training. This ranking was fixed on twelve fine-tunes made for development (`benchmarks/diffing.py`).

An atom is shown if tokens of several documents use it. It is a *finding* by a stricter measure, of which it must have
more than `FACTOR` times as much as any atom of any control's own difference dictionaries, over all sites:

1. The controls are brought to the *level* of the changed model: their divergences are scaled to the same median, up or
   down by `MOST_SCALED` at most. So a control that was trained a little less, or more, says as much.
2. Of a token's divergence only what is *beyond* counts: above `TIMES` times that of every control. All training drifts
   at the same tokens, but not equally far.
3. It is divided over atoms as above, and its mean is over all tokens: an atom that was met late is held to as much.

Controls are measured in the same way against the changed model and each other, so that all would change places by lot
if the changed model had nothing of its own. `FACTOR` is set by how far the logarithms of such ratios scatter between
neutral fine-tunes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, Shaped

from itda.core.diffing.difference import Differences
from itda.errors import SettingError

FACTOR = 3.0
"""A finding has more than this many times what the control's strongest atom has beyond, at whatever site.

Of 91 pairs of 32 neutral fine-tunes that were looked at, one the control of the other, none reaches 2.5; the logarithms
of their ratios have a standard deviation of .37, so that 1 in 20 passes 1.8 (`benchmarks/diffing_calibration.py`). 3
leaves room for a scatter that is half as large again, and for controls that were trained otherwise, if not by far. What
pairs that nothing was chosen on say: docs/diffing.md.
"""

TIMES = 2.0
"""What of a token's divergence is beyond: what is above this many times that of every control, at one level."""

MOST_SCALED = 2.0
"""A control's divergences are scaled up or down by this at most.

One that moved less than half as far, or more than twice, was not trained likewise, or the change is nearly everywhere.
"""

DOCUMENTS = 2
"""Documents, at least, whose tokens use an atom that is shown."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """What each atom of a difference dictionary accounts for. All columns are [atoms].

    An atom is measured on the tokens whose codes could have used it (`Differences.since`).
    """

    effect: Float64[np.ndarray, " atoms"] | None
    """Its part of the KL divergence (with controls: of the excess), in nats per token; None where predictions are not
    compared."""
    beyond: Float64[np.ndarray, " atoms"] | None
    """Its part of what is beyond the controls, as a mean over all tokens, in nats per token; None without controls."""
    energy: Float64[np.ndarray, " atoms"]
    """The energy that it explains, as a share of that of all differences."""
    users: Int64[np.ndarray, " atoms"]
    """Number of tokens that use it."""
    documents: Int64[np.ndarray, " atoms"]
    """Number of documents that these are of."""
    places: Int64[np.ndarray, " atoms"]
    """The token at which it accounts for most: the text to show for it. That where it was new (`Differences.rows`) may
    say less: a habit that was trained into one context is often new first where it spills into another."""
    order: Int64[np.ndarray, " shown"]
    """The atoms that are shown, the first first."""
    total: float
    """The mean of what is divided over atoms, in nats per token; NaN where predictions are not compared."""

    @property
    def strongest(self) -> float:
        """The most that an atom that is shown has beyond; 0 if none is shown, and without controls."""
        return float(self.beyond[self.order].max()) if self.beyond is not None and len(self.order) else 0.0


def ranked(
    found: Differences,
    documents: Shaped[np.ndarray, " tokens"],
    kl: Float[np.ndarray, " tokens"] | None = None,
    beyond_controls: Float[np.ndarray, " tokens"] | None = None,
) -> Ranking:
    """Rank the atoms of a difference dictionary; `kl` is NaN where there is no prediction to compare.

    `kl` is what of the KL divergence decides the rank (`excess`), `beyond_controls` what decides findings (`beyond`).

    Raises `SettingError` for another number of documents or predictions than of tokens.

    >>> import torch
    >>> from itda.core.diffing.difference import DifferencePass
    >>> base = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
    >>> changed, kl = base.clone(), np.zeros(400)
    >>> changed[::40, 0], kl[::40] = -base[::40, 0], 1.0
    >>> both = DifferencePass(8)
    >>> both.offer(base, changed)
    >>> ranking = ranked(both.finish(), np.arange(400) // 40, kl)
    >>> int(ranking.order[0]), round(float(ranking.effect[0]), 3), ranking.total
    (0, 0.017, 0.025)
    """
    tokens, atoms = len(found.energy), len(found.atoms)
    for name, given in (("documents", documents), ("predictions", kl), ("predictions beyond", beyond_controls)):
        if given is not None and len(given) != tokens:
            raise SettingError(f"{len(given)} {name} for {tokens} tokens: give one for each")
    used = found.coefficients != 0
    at = found.indices[used]

    def in_all(weight: np.ndarray) -> Float64[np.ndarray, " atoms"]:
        return np.bincount(at, weight[used], atoms).astype(np.float64)

    def per_token(weight: np.ndarray) -> Float64[np.ndarray, " atoms"]:
        return in_all(weight) / np.maximum(tokens - found.since, 1)

    mean_energy = float(found.energy.mean()) if tokens else 0.0
    energy = per_token(found.explained) / mean_energy if mean_energy > 0 else np.zeros(atoms)
    parts = found.explained if kl is None else explained_kl(found, kl)
    effect = per_token(parts) if kl is not None else None
    beyond = in_all(explained_kl(found, beyond_controls)) / max(tokens, 1) if beyond_controls is not None else None
    users = np.bincount(at, minlength=atoms)
    _, number = np.unique(documents, return_inverse=True)
    pairs = np.unique(np.stack([at, number[used.nonzero()[0]]]), axis=1)[0]
    in_documents = np.bincount(pairs, minlength=atoms)
    order = np.argsort(-(energy if effect is None else effect), kind="stable")
    order = order[in_documents[order] >= DOCUMENTS]
    total = float(np.nan_to_num(kl).mean()) if kl is not None and tokens else float("nan")
    return Ranking(effect, beyond, energy, users, in_documents, _places(found, parts), order, total)


def _places(found: Differences, parts: Float64[np.ndarray, "tokens k"]) -> Int64[np.ndarray, " atoms"]:
    """Return the token at which each atom accounts for most, the first of equals; its own where no code has it."""
    places = found.rows.copy()
    token, place = (found.coefficients != 0).nonzero()
    atom, part = found.indices[token, place], parts[token, place]
    order = np.lexsort((token, -part, atom))
    first = np.unique(atom[order], return_index=True)[1]
    places[atom[order][first]] = token[order][first]
    return places


def excess(divergences: Sequence[Float[np.ndarray, " tokens"]]) -> list[Float64[np.ndarray, " tokens"]]:
    """Return of the KL divergence of each model from the base what is above those of all others; of one alone, all.

    NaN where there is no prediction, in any of them.

    >>> [each.tolist() for each in excess([np.array([3.0, 1.0]), np.array([2.0, 1.5])])]
    [[1.0, 0.0], [0.0, 0.5]]
    """
    whole = np.stack([np.asarray(each, dtype=np.float64) for each in divergences])
    if len(whole) == 1:
        return [whole[0]]
    others = [np.delete(whole, i, axis=0).max(axis=0) for i in range(len(whole))]
    return [np.maximum(own - other, 0.0) for own, other in zip(whole, others, strict=True)]


def beyond(
    divergences: Sequence[Float[np.ndarray, " tokens"]], times: float = TIMES
) -> list[Float64[np.ndarray, " tokens"]]:
    """Return of the KL divergence of each model from the base what is above `times` those of all others, at one level.

    The first model is the changed one: the divergences of the others, controls, are scaled to its median over tokens,
    by a factor of `MOST_SCALED` at most. NaN where there is no prediction, in any of them.

    >>> [each.tolist() for each in beyond([np.array([9.0, 2.0, 2.0]), np.array([1.0, 1.0, 4.0])])]
    [[5.0, 0.0, 0.0], [0.0, 0.0, 4.0]]
    """
    whole = [np.asarray(each, dtype=np.float64) for each in divergences]
    levels = [float(np.median(each[~np.isnan(each)])) if not np.isnan(each).all() else 0.0 for each in whole]
    scaled = np.stack([each * _scale(levels[0], level) for each, level in zip(whole, levels, strict=True)])
    others = [np.delete(scaled, i, axis=0).max(axis=0, initial=0.0) for i in range(len(scaled))]
    return [np.maximum(own - times * other, 0.0) for own, other in zip(scaled, others, strict=True)]


def _scale(wanted: float, level: float) -> float:
    """Return what brings a level to another, as far as may be; 1 where both are 0."""
    if wanted == level:
        return 1.0
    return float(np.clip(wanted / level if level > 0 else np.inf, 1 / MOST_SCALED, MOST_SCALED))


def explained_kl(found: Differences, kl: Float[np.ndarray, " tokens"]) -> Float64[np.ndarray, "tokens k"]:
    """Divide the KL divergence of each token over the atoms of its code, by their shares of its energy.

    What the code leaves over of the energy keeps its share.
    """
    energy = np.where(found.energy > 0, found.energy, 1.0)
    return found.explained / energy[:, None] * np.nan_to_num(kl.astype(np.float64))[:, None]


def stand_out(ranking: Ranking, controls: Sequence[Ranking], factor: float = FACTOR) -> Bool[np.ndarray, " atoms"]:
    """Return which atoms are findings: shown, and with more beyond than what the controls show.

    `controls` are the rankings of all controls at all sites. None is a finding without a control, nor where the
    controls have nothing beyond the changed model: then they differ too little from the base to say what is much.
    """
    found = np.zeros(len(ranking.energy), dtype=bool)
    most = max((each.strongest for each in controls), default=0.0)
    if ranking.beyond is not None and most > 0:
        shown = ranking.order
        found[shown] = ranking.beyond[shown] > factor * most
    return found
