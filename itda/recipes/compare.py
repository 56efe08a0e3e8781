"""`itda compare`: how much the dictionaries of two or more runs overlap, layer by layer, with controls."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np

from itda import config as settings
from itda.checks import check_some
from itda.core.arithmetic import FIRST
from itda.core.batch import Site
from itda.core.dictionary import ITDA
from itda.core.similarity.overlap import OVERLAPS, Members, Universe, index_interval, index_matrices, matched, sums_of
from itda.core.tokens import Tokens
from itda.errors import SettingError
from itda.files import FORMAT_VERSION
from itda.recipes.run_model import MODEL
from itda.recipes.runs import Bar, Run, check_unchanged, no_bar, open_run, open_spec
from itda.recipes.train import train
from itda.resolving import from_record, to_record

COMPARISON_FORMAT = "itda-comparison"
Kind = Literal["models", "noise floor", "repetition"]
WITH_INTERVALS = ("jaccard", "adjusted", "weighted")
MATCHED_BY = ("weighted", "adjusted", "jaccard", "matched", "size_only")
"""Similarity indices by which sites are matched."""

# Settings that change at most the last bits of activations, and settings that change nothing.
BITS = ("batch_size", "dtype", "device", "arithmetic")
SHOWN = ("out", "quiet", "json", "memory", "fast", "trust_remote_code", "layers", "streams")
# Settings of where a corpus comes from: runs may differ in them, as the fingerprint tells if the text is the same.
CORPUS = ("corpus", *(field.name for field in fields(settings.CorpusOptions)))


@dataclass(frozen=True)
class Overlap:
    """Two dictionaries compared by their labels, at tokens that both runs have read."""

    atoms: tuple[int, int]
    """Number of atoms of each."""
    both: int
    """Number of labels that both have."""
    values: dict[str, float]
    """Values by similarity index: jaccard, overlap_coefficient, adjusted, weighted, size_only, matched."""
    intervals: dict[str, tuple[float, float]]
    """95% intervals by similarity index, from resampled documents; NaN if there is one document."""


@dataclass(frozen=True)
class Match:
    """The sites of the second run that are most similar to each site of the first, by one similarity index."""

    best: dict[Site, list[Site]]
    """By site of the first run; several sites where they are equally similar."""
    accuracy: float
    """Share of the sites of both runs whose best match is the same site; one of n equal best ones counts 1/n."""


@dataclass(frozen=True)
class Pair:
    """Two runs compared: the first, `a`, and the second, `b`."""

    a: str
    b: str
    kind: Kind
    """repetition: nothing differs. noise floor: only batch size, dtype, device or versions do. models: other things
    differ."""
    tokens: int
    """Number of tokens that both runs read."""
    shares: tuple[float, float]
    """Share of each run's tokens that the other run read too; labels at other tokens are left out."""
    by_end: bool
    """True if tokens were matched by where they end in the document, as tokenizers differ."""
    sites: tuple[list[Site], list[Site]]
    """The sites of each run."""
    matrices: dict[str, np.ndarray]
    """Values [sites of a, sites of b] by similarity index."""
    same: dict[Site, Overlap]
    """Overlaps at the sites that both runs have."""
    matches: dict[str, Match]
    """Matches by similarity index."""
    union: Overlap
    """Overlap of the labels of all sites together (the paper's Eq. 10)."""
    notes: list[str]
    """Settings, and what else made the runs, in which they differ."""
    centres: bool = False
    """True if atoms of either are centres of groups, so that nothing tells how much each was needed."""


@dataclass(frozen=True)
class Side:
    """One of two compared runs: its record, its tokens and its dictionaries."""

    name: str
    run: Run
    tokens: Tokens
    dictionaries: Mapping[Site, ITDA]

    @staticmethod
    def of(run: Run, name: str) -> Side:
        """Read the dictionaries and tokens of a run. Raises `StoreError`."""
        return Side(name, run, run.tokens(), {site: run.dictionary(site) for site in run.sites})


def compare_runs(options: settings.Compare, bar: Bar = no_bar) -> list[Pair]:
    """`itda compare`: compare every pair of the runs; one run alone is compared with itself, site with site.

    With `noise_floor`, the first run is made again at another batch size and that pair comes last.
    Raises an `ItdaError` for runs that cannot be compared, with the reason.
    """
    check_some(options.runs, "compare")
    sides = [Side.of(open_run(folder), str(folder)) for folder in options.runs]
    pairs = compare_sides(sides)
    if options.noise_floor:
        with tempfile.TemporaryDirectory() as folder:
            pairs.append(_pair(sides[0], _made_again(sides[0], Path(folder), bar)))
    return pairs


def compare_sides(sides: Sequence[Side]) -> list[Pair]:
    """Compare every pair of some runs, which may be in memory; one alone with itself.

    Raises `SettingError` for runs that cannot be compared, before any is compared.
    """
    chosen = list(combinations(sides, 2)) or [(sides[0], sides[0])]
    for a, b in chosen:
        _check(a, b)
    return [_pair(a, b) for a, b in chosen]


def noise_floors(pairs: Sequence[Pair], names: tuple[str, str]) -> dict[Site, Overlap]:
    """Return for each site the lowest overlap of a run with itself made again, over the named runs that have one."""
    found: dict[Site, Overlap] = {}
    for pair in pairs:
        if pair.kind == "noise floor" and {pair.a, pair.b} & set(names):
            for site, overlap in pair.same.items():
                if site not in found or overlap.values["jaccard"] < found[site].values["jaccard"]:
                    found[site] = overlap
    return found


def _check(a: Side, b: Side) -> None:
    """Raises `SettingError` if labels of the two mean different things."""
    for name, what, remedy in (
        ("fingerprint", "on different corpora", "train both on one corpus"),
        ("window", "with different windows", "train both with one --window"),
    ):
        left, right = a.run.record[name], b.run.record[name]
        if left != right:
            if name == "fingerprint":
                left, right = (f"{x.run.record['corpus']} {str(x.run.record[name])[:8]}" for x in (a, b))
            raise SettingError(f"{a.name} and {b.name} were made {what} ({left}; {right}): {remedy}")


def _pair(a: Side, b: Side) -> Pair:
    by_end = _tokenizer(a) != _tokenizer(b)
    universe = Universe.of([a.tokens, b.tokens], by_end=by_end)
    left, right = (
        {site: Members.of(dictionary, universe) for site, dictionary in side.dictionaries.items()} for side in (a, b)
    )
    matrices = index_matrices(list(left.values()), list(right.values()), universe)
    return Pair(
        a=a.name,
        b=b.name,
        kind=_kind(a, b),
        tokens=len(universe.keys),
        shares=(universe.share(a.tokens), universe.share(b.tokens)),
        by_end=by_end,
        sites=(list(left), list(right)),
        matrices=matrices,
        same={site: _overlap(left[site], right[site], universe) for site in left if site in right},
        matches={name: match(list(left), list(right), matrices[name]) for name in MATCHED_BY},
        union=_overlap(Members.union(list(left.values())), Members.union(list(right.values())), universe),
        notes=list(_differences(a, b)),
        centres=any(_of_centres(each) for each in (a, b)),
    )


def _of_centres(side: Side) -> bool:
    return any(each.provenance.get("refinement", {}).get("recipe") == 2 for each in side.dictionaries.values())


def _overlap(a: Members, b: Members, universe: Universe) -> Overlap:
    sums = sums_of(a, b, universe)
    total = sums.sum(axis=0)
    values = {name: float(similarity_index(total)) for name, similarity_index in OVERLAPS.items()} | {
        "matched": matched(a, b, universe)
    }
    found = {name: index_interval(name, sums) for name in WITH_INTERVALS}
    intervals = {name: (float(each.low), float(each.high)) for name, each in found.items()}
    return Overlap((len(a), len(b)), int(total[0]), values, intervals)


def match(rows: list[Site], columns: list[Site], matrix: np.ndarray) -> Match:
    """Find the most similar column of each row."""
    best = {
        site: [columns[i] for i in np.flatnonzero(values == values.max())]
        for site, values in zip(rows, matrix, strict=True)
    }
    shared = [site for site in rows if site in columns]
    credit = [1 / len(best[site]) if site in best[site] else 0.0 for site in shared]
    return Match(best, sum(credit) / len(credit) if credit else float("nan"))


def _tokenizer(side: Side) -> object:
    # Older runs do not record their tokenizer: model and revision stand for it.
    return side.run.record.get("tokenizer") or (side.run.record["model"], side.run.record["revision"])


def _settings_of(side: Side) -> dict[str, Any]:
    """Return the settings of a run that this version of itda has."""
    known = {field.name for field in fields(settings.Train)}
    made = {name: value for name, value in side.run.record["settings"].items() if name in known}
    # A run without the setting `massive` is older than it, and treated all activations alike.
    return to_record(from_record({"bos": side.run.bos, "massive": "off", **made}))


def _told(side: Side) -> dict[str, Any]:
    """Return by name what made a run: settings, model and versions."""
    record = side.run.record
    made = {name: value for name, value in _settings_of(side).items() if name not in (*SHOWN, *CORPUS)}
    made |= {"model": record["model"], "revision": record["revision"], "dtype": record["dtype"]}
    made |= {"device": record["device"], "arithmetic": " and ".join(map(str, record.get("arithmetic", [FIRST])))}
    return made | {f"{n} version": v for n, v in record["versions"].items()}


def _both_told(a: Side, b: Side) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what made each of two runs, so that equal values mean equal activations.

    For models on this machine that is a fingerprint of their files, not their path; for BOS it is the tokens in front
    of the windows, not the setting.
    """
    left, right = _told(a), _told(b)
    if all(each.run.record.get(MODEL) is not None for each in (a, b)):
        for told, each in ((left, a), (right, b)):
            told["model"] = each.run.record[MODEL]
    if all("prefix" in each.run.record for each in (a, b)):
        for told, each in ((left, a), (right, b)):
            told["bos"] = " ".join(each.run.record["prefix"]) or "none"
    return left, right


def _kind(a: Side, b: Side) -> Kind:
    left, right = _both_told(a, b)
    different = {name for name in left.keys() | right.keys() if left.get(name) != right.get(name)}
    if any(name not in BITS and not name.endswith(" version") for name in different):
        return "models"
    return "noise floor" if different else "repetition"


def _differences(a: Side, b: Side) -> Iterator[str]:
    left, right = _both_told(a, b)
    for name in [*left, *(name for name in right if name not in left)]:
        if left.get(name) != right.get(name) and name not in ("model", "revision"):
            yield f"{name}: {left.get(name)} and {right.get(name)}"


def _made_again(side: Side, folder: Path, bar: Bar) -> Side:
    """Make a run again at another batch size, which may change the last bits of its activations."""
    made = _settings_of(side)
    size = made["batch_size"]
    again = replace(from_record(made), out=folder / "again", quiet=True, json=False)
    again = replace(again, batch_size=size - 1 if size > 1 else 2)
    record = side.run.record
    again = replace(again, dataset_revision=record["corpus_revision"] or again.dataset_revision)
    again = replace(again, revision=record["revision"] or again.revision)
    check_unchanged(open_spec(again.corpus, again), side.run, "leave out --noise-floor")
    train(again, bar)
    return Side.of(open_run(folder / "again"), f"{side.name} at --batch-size {again.batch_size}")


def comparison_values(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return a comparison as JSON values."""
    return {"format": COMPARISON_FORMAT, "format_version": FORMAT_VERSION, "pairs": [_pair_values(p) for p in pairs]}


def _pair_values(pair: Pair) -> dict[str, Any]:
    return {
        "a": pair.a,
        "b": pair.b,
        "kind": pair.kind,
        "tokens": pair.tokens,
        "shares": list(pair.shares),
        "matched_by": "end offset" if pair.by_end else "position",
        "sites": [[str(site) for site in sites] for sites in pair.sites],
        "matrices": {name: matrix.tolist() for name, matrix in pair.matrices.items()},
        "same_site": {str(site): _overlap_values(overlap) for site, overlap in pair.same.items()},
        "best_match": {
            name: {
                "accuracy": match.accuracy,
                "of": {str(site): [str(other) for other in best] for site, best in match.best.items()},
            }
            for name, match in pair.matches.items()
        },
        "union": _overlap_values(pair.union),
        "differences": pair.notes,
    }


def _overlap_values(overlap: Overlap) -> dict[str, Any]:
    return {"atoms": list(overlap.atoms), "both": overlap.both, **overlap.values, "intervals": overlap.intervals}
