"""`itda compare` for fingerprints: every pair, site with site, by THE index, with its parts, controls and intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from itda import config as settings
from itda.core.similarity.fingerprint_index import (
    THE_INDEX,
    Aligned,
    Sureness,
    groups_of,
    matrices_of,
    sureness,
)
from itda.core.similarity.overlap import Universe
from itda.core.site import Site
from itda.errors import SettingError
from itda.files import FORMAT_VERSION
from itda.recipes.compare import BITS, COMPARISON_FORMAT, Kind, Match, match
from itda.recipes.fingerprint import fingerprint, made_by
from itda.recipes.run_in_progress import THREADS
from itda.recipes.runs import Bar, no_bar
from itda.store.fingerprints import Fingerprint, load_fingerprint

NOT_SHOWN = ("tokens_asked", "corpus", "corpus_part", "corpus_rules", "fingerprint", "tokenizer", "settings", "bos")
NOT_SHOWN += ("d_model", "activations", "model", "revision", "quantisation")
"""What made a fingerprint that is no difference to tell, or is told otherwise."""


@dataclass(frozen=True)
class FingerprintPair:
    """Two fingerprints compared: the first, `a`, and the second, `b`."""

    a: str
    b: str
    kind: Kind
    """repetition: nothing differs. noise floor: only batch size, dtype, device or versions do. models: other things
    differ."""
    tokens: int
    """Number of tokens that both read."""
    shares: tuple[float, float]
    """Share of each one's tokens that the other read too."""
    by_end: bool
    """True if tokens were matched by where they end in the document, as tokenizers differ."""
    sites: tuple[list[Site], list[Site]]
    matrices: dict[str, np.ndarray]
    """Values [sites of a, sites of b] by index."""
    sureness: Sureness
    """How sure THE index is."""
    documents: int
    """Number of documents that the tokens are of."""
    matches: dict[str, Match]
    """The most similar sites, by index."""
    union: float
    """THE index of the tokens that are atoms at any site."""
    massive: tuple[float, float]
    """The largest share of tokens that were left out at a site of each."""
    notes: list[str]
    """What made them, where they differ."""

    @property
    def index(self) -> np.ndarray:
        """THE index [sites of a, sites of b]."""
        return self.matrices[THE_INDEX]

    @property
    def alone(self) -> bool:
        """True for one that is compared with itself."""
        return self.a == self.b


def compare_fingerprints(options: settings.Compare, bar: Bar = no_bar) -> list[FingerprintPair]:
    """Compare every pair of some files; one alone with itself. With `noise_floor` the first is made again.

    Raises an `ItdaError` for what cannot be compared.
    """
    several = [(str(path), load_fingerprint(path)) for path in options.runs]
    pairs = compare_several(several)
    if options.noise_floor:
        name, first = several[0]
        again, size = _made_again(first, bar)
        pairs.append(pair_of((name, first), (f"{name} at --batch-size {size}", again)))
    return pairs


def compare_several(several: Sequence[tuple[str, Fingerprint]]) -> list[FingerprintPair]:
    """Compare every pair of some fingerprints with their names; one alone with itself. Raises `SettingError`."""
    chosen = list(combinations(several, 2)) or [(several[0], several[0])]
    for a, b in chosen:
        _check(a, b)
    return [pair_of(a, b) for a, b in chosen]


def _check(a: tuple[str, Fingerprint], b: tuple[str, Fingerprint]) -> None:
    """Raises `SettingError` if the tokens of the two mean different things."""
    names = f"{a[0]} and {b[0]}"
    for name, what, remedy in (
        ("fingerprint", "of different corpora", "make both of one corpus"),
        ("window", "with different windows", "make both with one --window"),
    ):
        left, right = (each.about.get(name) for _, each in (a, b))
        if left != right:
            if name == "fingerprint":
                left, right = (f"{each.about.get('corpus')} {str(each.about.get(name))[:8]}" for _, each in (a, b))
            raise SettingError(f"{names} are {what} ({left}; {right}): {remedy}")
    for name in ("rungs", "segment", "centred", "massive"):
        left, right = (getattr(each.settings, name) for _, each in (a, b))
        if left != right:
            raise SettingError(f"{names} were taken with different {name} ({left}; {right}): take both alike")


def pair_of(a: tuple[str, Fingerprint], b: tuple[str, Fingerprint]) -> FingerprintPair:
    """Compare two fingerprints, each with its name."""
    by_end = a[1].about.get("tokenizer") != b[1].about.get("tokenizer")
    try:
        universe = Universe.of([each.tokens for _, each in (a, b)], by_end=by_end)
    except SettingError as error:
        raise SettingError(f"{a[0]} and {b[0]} cannot be compared: {error}") from error
    rungs = len(a[1].settings.rungs)
    left, right = (Aligned.of(each.sites, each.tokens, universe, rungs) for _, each in (a, b))
    matrices = matrices_of(left, right)
    return FingerprintPair(
        a=a[0],
        b=b[0],
        kind=_kind(a[1], b[1]),
        tokens=len(universe.keys),
        shares=(universe.share(a[1].tokens), universe.share(b[1].tokens)),
        by_end=by_end,
        sites=(left.sites, right.sites),
        matrices=matrices,
        sureness=sureness(left, right, groups_of(universe)),
        documents=int((universe.per_document > 0).sum()),
        matches={name: match(left.sites, right.sites, matrix) for name, matrix in matrices.items()},
        union=_union(left, right),
        massive=(_most_massive(left), _most_massive(right)),
        notes=list(_differences(a[1], b[1])),
    )


def _union(a: Aligned, b: Aligned) -> float:
    """Return THE index of the tokens that are atoms at any site (the paper's Eq. 10)."""
    return float(matrices_of(a.union, b.union)[THE_INDEX][0, 0])


def _most_massive(aligned: Aligned) -> float:
    return float((~aligned.there).mean(axis=1).max())


def _told(made: Fingerprint) -> dict[str, Any]:
    """Return by name what made a fingerprint, so that equal values mean equal activations."""
    about = dict(made.about)
    model = about.get("model_fingerprint") or (about.get("model"), about.get("revision"))
    told = {name: value for name, value in about.items() if name not in (*NOT_SHOWN, "model_fingerprint", "versions")}
    told |= {f"{name} version": value for name, value in about.get("versions", {}).items()}
    return {"model": model, **told, "arithmetic": made.arithmetic}


def _differing(a: Fingerprint, b: Fingerprint) -> dict[str, tuple[Any, Any]]:
    left, right = _told(a), _told(b)
    return {name: (left.get(name), right.get(name)) for name in {**left, **right} if left.get(name) != right.get(name)}


def _kind(a: Fingerprint, b: Fingerprint) -> Kind:
    different = _differing(a, b)
    if any(name not in (*BITS, THREADS) and not name.endswith(" version") for name in different):
        return "models"
    return "noise floor" if different else "repetition"


def _differences(a: Fingerprint, b: Fingerprint) -> Iterator[str]:
    for name, (left, right) in _differing(a, b).items():
        if name != "model":
            yield f"{name}: {_shown(left)} and {_shown(right)}"


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _made_again(made: Fingerprint, bar: Bar) -> tuple[Fingerprint, int]:
    """Make a fingerprint again at another batch size, which may change the last bits of its activations."""
    options = made_by(made)
    size = options.batch_size - 1 if options.batch_size > 1 else 2
    again = fingerprint(replace(options, batch_size=size), bar, how=made.settings)
    if again.about["fingerprint"] != made.about["fingerprint"]:
        raise SettingError(
            f"{made.about['corpus']} has changed since the fingerprint was made: leave out --noise-floor"
        )
    return again, size


def noise_floor(pairs: Sequence[FingerprintPair], pair: FingerprintPair) -> dict[Site, float]:
    """Return for each site THE index of a model with itself made again, the lowest, where the pair's two have one."""
    found: dict[Site, float] = {}
    for other in pairs:
        if other.kind == "noise floor" and {other.a, other.b} & {pair.a, pair.b}:
            for site, values in zip(other.sites[0], other.index, strict=True):
                if site in other.sites[1]:
                    found[site] = min(found.get(site, 1.0), float(values[other.sites[1].index(site)]))
    return found


def fingerprint_comparison_values(pairs: Sequence[FingerprintPair]) -> dict[str, Any]:
    """Return a comparison as JSON values."""
    values = {"format": COMPARISON_FORMAT, "format_version": FORMAT_VERSION, "index": THE_INDEX}
    return {**values, "pairs": [_pair_values(pair) for pair in pairs]}


def _pair_values(pair: FingerprintPair) -> dict[str, Any]:
    sure = pair.sureness
    return {
        "a": pair.a,
        "b": pair.b,
        "kind": pair.kind,
        "tokens": pair.tokens,
        "documents": pair.documents,
        "shares": list(pair.shares),
        "matched_by": "end offset" if pair.by_end else "position",
        "sites": [[str(site) for site in sites] for sites in pair.sites],
        "matrices": {name: matrix.tolist() for name, matrix in pair.matrices.items()},
        "intervals": [sure.low.tolist(), sure.high.tolist()],
        "lead": {"of": sure.lead.tolist(), "at_least": sure.least_lead.tolist(), "sure": sure.sure.tolist()},
        "best_match": {name: _match_values(found) for name, found in pair.matches.items()},
        "union": pair.union,
        "massive": list(pair.massive),
        "differences": pair.notes,
    }


def _match_values(found: Match) -> Mapping[str, Any]:
    best = {str(site): [str(other) for other in others] for site, others in found.best.items()}
    return {"accuracy": found.accuracy, "of": best}
