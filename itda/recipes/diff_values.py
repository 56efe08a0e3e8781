"""What a diff found, as JSON values: atoms with their text, what they promote, and where else they are used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from itda.core.diffing.difference import Differences
from itda.core.diffing.ranking import Ranking, explained_kl
from itda.core.diffing.site import SiteDiff
from itda.core.labels import Label, Labels
from itda.recipes.diff_pass import PredictionsFound, SiteFound

ATOMS, TOKENS, EXAMPLES = 40, 20, 5
"""Atoms of each form that are told, tokens of each list, and other tokens at which an atom is used."""
BEFORE, AFTER = 240, 120
"""Characters of text that are kept on either side of a token."""
QUANTILES = (0.5, 0.9, 0.99, 1.0)

Promoted = Callable[[Tensor], Sequence[Mapping[str, Any]]]
"""Returns what some atoms [atoms, d_model] promote and suppress, as JSON values, one for each."""


@dataclass(frozen=True, eq=False)
class TokensRead:
    """The tokens of the stream: their labels, divergences and roles."""

    labels: Labels
    predictions: PredictionsFound | None
    roles: np.ndarray | None
    """The role of each token in a conversation: template, prompt or reply; None for other text."""

    def at(self, token: int) -> dict[str, Any]:
        """Return a token as JSON values."""
        found = label_values(self.labels.at(token))
        if self.predictions is not None:
            found["kl"] = float(self.predictions.kl[token])
        if self.roles is not None:
            found["role"] = str(self.roles[token])
        return found


def label_values(label: Label) -> dict[str, Any]:
    """Return a label as JSON values, with some text around its token."""
    return {
        "document": label.document,
        "position": label.position,
        "char_start": label.char_start,
        "char_end": label.char_end,
        "before": label.before[-BEFORE:],
        "token": label.token,
        "after": label.after[:AFTER],
    }


def site_values(of: SiteFound, read: TokensRead, promoted: Promoted | None) -> dict[str, Any]:
    """Return what was found at a site, as JSON values."""
    found = of.found
    return {
        "tokens": found.tokens,
        "massive": of.massive.record(),
        "unchanged": found.unchanged,
        "relative_norm": quantiles(of.relative),
        "difference": _difference(of, read, promoted),
        "transported": _transported(found, of.tokens, read),
        "usage": _usage(found, of.tokens, read),
        "labels": _labels(found, of.tokens, read),
        "roles": _roles_at(of, read),
    }


def quantiles(values: np.ndarray | None) -> dict[str, float] | None:
    """Return some quantiles of values, by their share; None without values."""
    if values is None or not len(values):
        return None
    return {f"{share:g}": float(np.quantile(values, share)) for share in QUANTILES}


def _difference(of: SiteFound, read: TokensRead, promoted: Promoted | None) -> dict[str, Any] | None:
    """Return the atoms of the difference dictionary, in the order of their rank."""
    differences, ranking = of.found.differences, of.found.ranking
    if differences is None or ranking is None:
        return None
    shown = _told(ranking, of.found.findings)
    told = promoted(differences.atoms[torch.from_numpy(shown)]) if promoted is not None and len(shown) else None
    atoms = []
    for rank, atom in enumerate(shown.tolist()):
        values = _atom(atom, of, differences, ranking, read)
        atoms.append({**values, **(told[rank] if told is not None else {})})
    strongest = [each.strongest for each in of.found.controls]
    findings = of.found.findings
    return {
        "atoms_in_all": len(differences.atoms),
        "mean_share": differences.mean_share,
        "mean": _of_mean(differences, promoted),
        "scales": list(differences.scales),
        "ranked_by": "energy" if ranking.effect is None else "kl",
        "total_kl": ranking.total,
        "strongest_of_controls": strongest,
        "findings": int(findings.sum()) if findings is not None else 0,
        "atoms": atoms,
    }


def _told(ranking: Ranking, findings: np.ndarray | None) -> Int64[np.ndarray, " told"]:
    """Return the atoms that are told: the first, and of the others those that are findings, in the order of rank."""
    later = ranking.order[ATOMS:]
    more = later[findings[later]][:ATOMS] if findings is not None else later[:0]
    return np.concatenate([ranking.order[:ATOMS], more])


def _of_mean(differences: Differences, promoted: Promoted | None) -> Mapping[str, Any] | None:
    """Return what the mean difference, which all tokens share, promotes; None if there is none."""
    if promoted is None or not differences.mean.any():
        return None
    return promoted(differences.mean.float()[None])[0]


def _atom(atom: int, of: SiteFound, differences: Differences, ranking: Ranking, read: TokensRead) -> dict[str, Any]:
    users, place = ((differences.indices == atom) & (differences.coefficients != 0)).nonzero()
    own = int(ranking.places[atom])
    findings = of.found.findings
    return {
        "atom": atom,
        **read.at(int(of.tokens[own])),
        "effect": float(ranking.effect[atom]) if ranking.effect is not None else None,
        "beyond": float(ranking.beyond[atom]) if ranking.beyond is not None else None,
        "energy": float(ranking.energy[atom]),
        "novelty": float(differences.novelty[atom]),
        "users": int(ranking.users[atom]),
        "documents": int(ranking.documents[atom]),
        "finding": bool(findings[atom]) if findings is not None else False,
        "by_role": _shares(read.roles[of.tokens[users]]) if read.roles is not None else None,
        "examples": _examples(own, users, place, of, read),
    }


def _examples(
    own: int, users: Int64[np.ndarray, " users"], place: np.ndarray, of: SiteFound, read: TokensRead
) -> list[dict[str, Any]]:
    """Return the tokens at which an atom accounts for most, one of each document, without that of row `own`."""
    differences = of.found.differences
    assert differences is not None
    kl = read.predictions.kl[of.tokens] if read.predictions is not None else None
    parts = (differences.explained if kl is None else explained_kl(differences, kl))[users, place]
    names = read.labels.document
    seen, found = {str(names[of.tokens[own]])}, []
    for user in np.argsort(-parts, kind="stable").tolist():
        token = int(of.tokens[users[user]])
        if str(names[token]) in seen:
            continue
        seen.add(str(names[token]))
        coefficient = float(differences.coefficients[users[user], place[user]])
        found.append({**read.at(token), "coefficient": coefficient})
        if len(found) == EXAMPLES:
            break
    return found


def _transported(found: SiteDiff, tokens: np.ndarray, read: TokensRead) -> dict[str, Any]:
    """Return the atoms that only the changed model needs, those first that explain most of later tokens."""
    made = found.transported
    order = np.argsort(-made.explained, kind="stable")[:ATOMS]
    return {
        "threshold": made.threshold,
        "atoms_of_base": len(made.rows),
        "only_changed": len(made.changed_rows),
        "base_error": float(made.base_error.mean()),
        "changed_error": float(made.changed_error.mean()),
        "atoms": [
            {
                **read.at(int(tokens[made.changed_rows[atom]])),
                "explained": float(made.explained[atom]),
                "users": int(made.users[atom]),
            }
            for atom in order.tolist()
        ],
    }


def _usage(found: SiteDiff, tokens: np.ndarray, read: TokensRead) -> dict[str, Any] | None:
    """Return the base's atoms that one model uses more than the other, those first that stand out most."""
    use = found.usage
    if use is None:
        return None
    order = [atom for atom in np.argsort(-np.abs(use.score), kind="stable").tolist() if use.found[atom]][:ATOMS]
    return {
        "tested": int(use.tested.sum()),
        "found": int(use.found.sum()),
        "atoms": [
            {
                **read.at(int(tokens[found.transported.rows[atom]])),
                "frequency": use.frequency[:, atom].tolist(),
                "strength": use.strength[:, atom].tolist(),
                "change": [float(each[atom]) for each in (use.change.value, use.change.low, use.change.high)],
                "score": float(use.score[atom]),
            }
            for atom in order
        ],
    }


def _labels(found: SiteDiff, tokens: np.ndarray, read: TokensRead) -> dict[str, Any]:
    """Return how far both models' labels agree, and the tokens that are new to one alone."""
    made = found.labels

    def listed(rows: np.ndarray) -> list[dict[str, Any]]:
        return [{**read.at(int(tokens[row])), "margin": float(made.margin[row])} for row in rows[:TOKENS].tolist()]

    return {
        "index": made.index,
        "interval": [made.low, made.high],
        "adjusted_jaccard": made.adjusted,
        "shared": made.shared,
        "only_base": len(made.only_base),
        "only_changed": len(made.only_changed),
        "new_to_base": listed(made.only_base),
        "new_to_changed": listed(made.only_changed),
    }


def predictions_values(read: TokensRead) -> dict[str, Any] | None:
    """Return how far the predictions of all tokens are apart, and those that are furthest."""
    if read.predictions is None:
        return None
    kl = read.predictions.kl
    known = kl[~np.isnan(kl)]
    order = np.argsort(-np.nan_to_num(kl), kind="stable")[:TOKENS]
    return {
        "tokens": len(known),
        "mean": float(known.mean()) if len(known) else None,
        "quantiles": quantiles(known),
        "controls": [float(np.nanmean(each)) if len(known) else None for each in read.predictions.controls],
        "control_medians": [float(np.nanmedian(each)) if len(known) else None for each in read.predictions.controls],
        "largest": [read.at(int(token)) for token in order if kl[token] > 0],
    }


def _shares(roles: np.ndarray) -> dict[str, float]:
    names, counts = np.unique(roles, return_counts=True)
    return {str(name): float(count / len(roles)) for name, count in zip(names, counts, strict=True)}


def roles_values(read: TokensRead) -> dict[str, Any] | None:
    """Return for each role in conversations how many tokens have it, and their mean divergence."""
    if read.roles is None:
        return None
    found = {}
    for role in np.unique(read.roles):
        here = read.roles == role
        kl = read.predictions.kl[here] if read.predictions is not None else np.zeros(0, np.float32)
        known = kl[~np.isnan(kl)]
        found[str(role)] = {"tokens": int(here.sum()), "kl": float(known.mean()) if len(known) else None}
    return found


def _roles_at(of: SiteFound, read: TokensRead) -> dict[str, Any] | None:
    """Return for each role the quantiles of the size of the difference at a site."""
    if read.roles is None or of.relative is None:
        return None
    roles = read.roles[of.tokens]
    return {str(role): quantiles(of.relative[roles == role]) for role in np.unique(roles)}


def site_columns(of: SiteFound) -> dict[str, np.ndarray]:
    """Return the table of a site's tokens."""
    found = of.found
    columns: dict[str, np.ndarray] = {"token": of.tokens}
    if of.relative is not None:
        columns["relative_norm"] = of.relative
    if (made := found.differences) is not None:
        columns["energy"] = made.energy.astype(np.float32)
        columns["left"] = made.left.astype(np.float32)
        for place in range(made.indices.shape[1]):
            columns[f"atom_{place}"] = made.indices[:, place].astype(np.int32)
            columns[f"coefficient_{place}"] = made.coefficients[:, place].astype(np.float32)
    columns["base_error"] = found.transported.base_error.astype(np.float32)
    columns["changed_error"] = found.transported.changed_error.astype(np.float32)
    columns["margin"] = found.labels.margin.astype(np.float32)
    return columns


def token_columns(read: TokensRead) -> dict[str, np.ndarray]:
    """Return the table of the stream's tokens."""
    labels = read.labels
    names = ("document", "position", "char_start", "char_end", "token_id")
    columns = {name: getattr(labels, name) for name in names}
    if read.roles is not None:
        columns["role"] = read.roles
    if read.predictions is not None:
        columns["kl"] = read.predictions.kl
        columns |= {f"control_kl_{i}": kl for i, kl in enumerate(read.predictions.controls)}
    return columns
