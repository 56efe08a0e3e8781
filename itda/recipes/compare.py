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
"""Indices by which layers are matched."""

# What changes the last bits of activations at most, and what changes nothing.
BITS = ("batch_size", "dtype", "device")
SHOWN = ("out", "quiet", "json", "memory", "fast", "trust_remote_code", "layers", "streams")
# Where a corpus comes from; its fingerprint says what it is.
CORPUS = ("corpus", *(field.name for field in fields(settings.CorpusOptions)))


@dataclass(frozen=True)
class Overlap:
    """Two dictionaries compared by their labels, at tokens that both could have."""

    atoms: tuple[int, int]
    both: int
    """Labels in both."""
    values: dict[str, float]
    """By index: jaccard, overlap_coefficient, adjusted, weighted, size_only, matched."""
    intervals: dict[str, tuple[float, float]]
    """95%, by resampling documents; NaN where there is one document."""


@dataclass(frozen=True)
class Match:
    """Which layers of the other run are most similar to each of this one's, by one index."""

    best: dict[Site, list[Site]]
    """More than one where they are equally similar."""
    accuracy: float
    """Share of the layers that both runs have whose best match is the same layer; of several best ones, its share."""


@dataclass(frozen=True)
class Pair:
    """Two runs compared."""

    a: str
    b: str
    kind: Kind
    """noise floor: alike but for batch size, dtype, device or versions. repetition: not even for those."""
    tokens: int
    """Read in both runs."""
    shares: tuple[float, float]
    """The share of each run's tokens that the other read too: labels elsewhere can match nothing and are left out."""
    by_end: bool
    """Whether tokens were matched by their end in the document, as tokenizers differ."""
    sites: tuple[list[Site], list[Site]]
    matrices: dict[str, np.ndarray]
    """By index, [sites of a, sites of b]."""
    same: dict[Site, Overlap]
    """The sites that both have."""
    matches: dict[str, Match]
    """By index."""
    union: Overlap
    """Of the two runs' dictionaries, all layers together (the paper's Eq. 10)."""
    notes: list[str]
    """Settings in which the runs differ."""


@dataclass(frozen=True)
class Side:
    """One of the runs that are compared, with all that this takes of it."""

    name: str
    run: Run
    tokens: Tokens
    dictionaries: Mapping[Site, ITDA]

    @staticmethod
    def of(run: Run, name: str) -> Side:
        """Read the dictionaries and tokens of a run. Raises `StoreError`."""
        return Side(name, run, run.tokens(), {site: run.dictionary(site) for site in run.sites})


def compare_runs(options: settings.Compare, bar: Bar = no_bar) -> list[Pair]:
    """Every pair of the runs in turn; one run alone is compared with itself, layer with layer.

    With `--noise-floor`, the first run is made again at another batch size and that pair comes last.
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
    """Compare every two of some runs, wherever they are; one alone with itself.

    Raises `SettingError` for runs that cannot be compared, before any is.
    """
    chosen = list(combinations(sides, 2)) or [(sides[0], sides[0])]
    for a, b in chosen:
        _check(a, b)
    return [_pair(a, b) for a, b in chosen]


def noise_floors(pairs: Sequence[Pair], names: tuple[str, str]) -> dict[Site, Overlap]:
    """For each site, the lowest overlap of a run with itself made anew, of the runs named, where that is known."""
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
    left, right = ({site: Members.of(m, universe) for site, m in each.dictionaries.items()} for each in (a, b))
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
        matches={name: _match(list(left), list(right), matrices[name]) for name in MATCHED_BY},
        union=_overlap(Members.union(list(left.values())), Members.union(list(right.values())), universe),
        notes=list(_differences(a, b)),
    )


def _overlap(a: Members, b: Members, universe: Universe) -> Overlap:
    sums = sums_of(a, b, universe)
    total = sums.sum(axis=0)
    values = {name: float(index(total)) for name, index in OVERLAPS.items()} | {"matched": matched(a, b, universe)}
    found = {name: index_interval(name, sums) for name in WITH_INTERVALS}
    intervals = {name: (float(each.low), float(each.high)) for name, each in found.items()}
    return Overlap((len(a), len(b)), int(total[0]), values, intervals)


def _match(rows: list[Site], columns: list[Site], matrix: np.ndarray) -> Match:
    best = {
        site: [columns[i] for i in np.flatnonzero(values == values.max())]
        for site, values in zip(rows, matrix, strict=True)
    }
    shared = [site for site in rows if site in columns]
    credit = [1 / len(best[site]) if site in best[site] else 0.0 for site in shared]
    return Match(best, sum(credit) / len(credit) if credit else float("nan"))


def _tokenizer(side: Side) -> object:
    # Where a run does not say, its model stands for its tokenizer.
    return side.run.record.get("tokenizer") or (side.run.record["model"], side.run.record["revision"])


def _settings_of(side: Side) -> dict[str, Any]:
    """The settings of a run that this itda knows."""
    known = {field.name for field in fields(settings.Train)}
    made = {name: value for name, value in side.run.record["settings"].items() if name in known}
    # What is absent was not there yet: all activations were alike.
    return to_record(from_record({"bos": side.run.bos, "massive": "off", **made}))


def _told(side: Side) -> dict[str, Any]:
    """What made a run: settings, model and versions, by name."""
    record = side.run.record
    made = {name: value for name, value in _settings_of(side).items() if name not in (*SHOWN, *CORPUS)}
    made |= {"model": record["model"], "revision": record["revision"], "dtype": record["dtype"]}
    return made | {"device": record["device"]} | {f"{n} version": v for n, v in record["versions"].items()}


def _both_told(a: Side, b: Side) -> tuple[dict[str, Any], dict[str, Any]]:
    """What made each of two runs; of BOS, what stood in front of the windows counts and not how it was asked for.

    Of models on this machine their files count, and not where they are.
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
    """The run with the model in another batch size, which may change the last bits of its activations."""
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
    """The comparison as JSON values."""
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
