"""The forms of `itda diff` as methods of the benchmark: by itda.core.diffing, with its settings as they are.

- `itda`: atoms of the difference dictionaries of all layers of the set, by the KL in excess of the control's that they
  account for; called if by what is beyond it they stand out from the control's own atoms.
- `itda, no control`: the same by all of the KL; it calls nothing noise.
- `itda, energy`: by the energy that they explain, without predictions.
- `itda, random atoms`: random differences in the place of atoms, ranked as `itda` ranks.
- `itda, transported`: atoms that only the changed model needs, by the energy that they explain.
- `itda, use`: atoms of the base's dictionary whose use changed, the largest change in standard errors first; called
  if it stands out from the bulk of the atoms.

A finding is labelled by the token at which it accounts for most; there is one finding for each document. A token's
score is what the strongest atoms of each layer account for there, 32 at most.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from diffing_baselines import TOP, Finding, Found
from diffing_readings import LAYERS, Readings
from torch import Tensor

from itda.core.diffing.difference import DifferencePass, Differences
from itda.core.diffing.ranking import Ranking, beyond, excess, explained_kl, ranked, stand_out
from itda.core.diffing.transported import TransportedPass
from itda.core.diffing.units import unit_rows
from itda.core.pursuit import encoder

Layers = tuple[int, ...]
SETS: Sequence[Layers] = (LAYERS, *((layer,) for layer in LAYERS))
"""The layers that our methods look at: all together, and each alone."""
Row = tuple[float, int, Tensor, bool, np.ndarray]
"""Score, label, direction, called or not, and what it accounts for at each token."""


def differences(base: Tensor, changed: Tensor) -> Differences:
    """The difference dictionary of all tokens."""
    both = DifferencePass(base.shape[1])
    both.offer(base, changed)
    return both.finish()


def at_random(found: Differences, base: Tensor, changed: Tensor) -> Differences:
    """The same with as many differences of random tokens for atoms."""
    z = (changed.double() / found.scales[1] - base.double() / found.scales[0] - found.mean).float()
    rows = torch.randperm(len(z), generator=torch.Generator().manual_seed(0))[: len(found.atoms)]
    atoms = unit_rows(z[rows])
    code, error = encoder(atoms, found.indices.shape[1], "mp")(z)
    indices, coefficients = code.indices.numpy(), code.coefficients.double().numpy()
    left, since = found.energy * error.numpy(), np.zeros_like(found.since)
    changes = {"atoms": atoms, "rows": rows.numpy(), "since": since, "left": left}
    return replace(found, indices=indices, coefficients=coefficients, **changes)


def by_effect(r: Readings, layers: Layers, *, control: bool, random: bool = False) -> Found:
    """Rank by what atoms account for of the KL divergence, in excess of the control's if there is to be one."""
    models = [r.changed, r.control] if control else [r.changed]
    divergences = [each.double().numpy() for each in ([r.kl, r.control_kl] if control else [r.kl])]
    above, far = excess(divergences), beyond(divergences) if control else [None]
    documents = r.document.numpy()

    def rankings(model: int) -> list[tuple[Differences, Ranking]]:
        made = []
        for layer in layers:
            found = differences(r.base[layer], models[model][layer])
            found = at_random(found, r.base[layer], models[model][layer]) if random else found
            made.append((found, ranked(found, documents, above[model], far[model])))
        return made

    own = [ranking for _, ranking in rankings(1)] if control else []
    rows: list[Row] = []
    mine, number = rankings(0), 0
    for found, ranking in mine:
        called = stand_out(ranking, own) if control else _all(found)
        number += int(called.sum())
        rows += _rows(found, ranking, explained_kl(found, above[0]), called)
    first, times = _first(r, rows), _times([ranking for _, ranking in mine], own)
    return replace(first, times=times, called=number) if control else first


def _times(rankings: Sequence[Ranking], controls: Sequence[Ranking]) -> float | None:
    """Return how many times as much the strongest atom has beyond as the controls'; None if these have nothing."""
    most = max((each.strongest for each in controls), default=0.0)
    return max(each.strongest for each in rankings) / most if most > 0 else None


def by_energy(r: Readings, layers: Layers) -> Found:
    """Rank by the energy that atoms explain."""
    rows: list[Row] = []
    for layer in layers:
        found = differences(r.base[layer], r.changed[layer])
        whole = found.energy.mean()
        rows += _rows(found, ranked(found, r.document.numpy()), found.explained / whole, _all(found))
    return _first(r, rows)


def _all(found: Differences) -> np.ndarray:
    return np.ones(len(found.atoms), dtype=bool)


def _rows(found: Differences, ranking: Ranking, parts: np.ndarray, called: np.ndarray) -> list[Row]:
    scores = ranking.energy if ranking.effect is None else ranking.effect
    rows = []
    for atom in ranking.order[: 8 * TOP].tolist():
        mine = np.where((found.indices == atom) & (found.coefficients != 0), parts, 0.0).sum(axis=1)
        rows.append((float(scores[atom]), int(ranking.places[atom]), found.atoms[atom], bool(called[atom]), mine))
    return rows


def _first(r: Readings, rows: list[Row]) -> Found:
    """The first rows, one for each document of their labels."""
    seen: set[int] = set()
    findings = []
    for _, label, direction, called, _ in sorted(rows, key=lambda row: -row[0]):
        if (document := int(r.document[label])) not in seen and len(findings) < TOP:
            seen.add(document)
            findings.append(Finding(label, direction, called=called))
    scores = np.sum([row[-1] for row in rows], axis=0) if rows else np.zeros(len(r.token))
    return Found(findings, torch.from_numpy(scores))


def transported(r: Readings, layers: Layers) -> Found:
    """Rank the atoms that only the changed model needs; a token's score is how much worse it is explained there."""
    rows: list[Row] = []
    scores = torch.zeros(len(r.token), dtype=torch.float64)
    for layer in layers:
        both = TransportedPass(r.base[layer].shape[1], r.changed[layer].shape[1], k=8)
        both.offer(r.base[layer], r.changed[layer])
        found = both.finish()
        own = found.changed_atoms[len(found.rows) :]
        nothing = np.zeros(len(r.token))
        for place in np.argsort(-found.explained, kind="stable")[: 8 * TOP].tolist():
            rows.append((float(found.explained[place]), int(found.changed_rows[place]), own[place], True, nothing))
        scores += torch.from_numpy(found.changed_error - found.base_error)
    return replace(_first(r, rows), scores=scores)


def use(r: Readings, layers: Layers) -> Found:
    """Rank the base's atoms by the change of their use; a token has no score of its own: that of the difference."""
    rows: list[Row] = []
    for layer in layers:
        both = TransportedPass(r.base[layer].shape[1], r.changed[layer].shape[1], k=8, usage=True)
        both.offer(r.base[layer], r.changed[layer], r.document.numpy())
        found = both.finish()
        usage = both.usage()
        assert usage is not None
        nothing = np.zeros(len(r.token))
        for atom in np.argsort(-np.abs(usage.score), kind="stable")[: 8 * TOP].tolist():
            label, called = int(found.rows[atom]), bool(usage.found[atom])
            rows.append((abs(float(usage.score[atom])), label, found.base_atoms[atom], called, nothing))
    scores = sum(r.difference(layer).norm(dim=1).double() for layer in layers)
    return replace(_first(r, rows), scores=scores)


def with_control(r: Readings, layers: Layers) -> Found:
    """The ranking of `itda diff --control`."""
    return by_effect(r, layers, control=True)


def without_control(r: Readings, layers: Layers) -> Found:
    """The ranking of `itda diff`."""
    return by_effect(r, layers, control=False)


def random_atoms(r: Readings, layers: Layers) -> Found:
    """The ranking of `itda diff --control`, of random atoms."""
    return by_effect(r, layers, control=True, random=True)


METHODS: dict[str, Callable[[Readings, Layers], Found]] = {
    "itda": with_control,
    "itda, no control": without_control,
    "itda, energy": by_energy,
    "itda, random atoms": random_atoms,
    "itda, transported": transported,
    "itda, use": use,
}
