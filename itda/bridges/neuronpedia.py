"""Neuronpedia shows features to everybody: what it wants to know of each atom, and the files that it imports.

    OUT/gpt2-small/3-itda-res-4096/release.jsonl, model.jsonl, sourceset.jsonl, source.jsonl
                                   features/batch-0.jsonl.gz       a line for each atom, with its vector to steer by
                                   activations/batch-0.jsonl.gz    examples of their uses
                                   explanations/batch-0.jsonl.gz   the labels

The fields are those of the tables of its database, as its own converter writes them (August 2026). Neuronpedia's
people import such files; `neuronpedia_push` sends the same by its public interface. A feature is the positive part of
an atom: tokens that use it with a negative coefficient do not count.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
from jaxtyping import Float32, Float64, Int64

from itda.bridges.examples import NO_BAND, Chooser, Examples, Passages, passages
from itda.bridges.indexed import Done, Indexed, Say
from itda.bridges.json_lines import json_lines
from itda.bridges.tables import lists
from itda.core.display.markup import clipped
from itda.core.labels import Label
from itda.core.site import Site
from itda.files import write_whole
from itda.store.records import RunRecord

BATCH = 128
"""Atoms that are sent together, at most."""
FILE_ATOMS = 1024
"""Atoms in one file."""
BARS = 40
"""Bars of the histogram of an atom's coefficients."""
MOST_STRENGTH = 100.0
"""The largest strength at which a vector may steer if nobody says another."""
CREATOR = "clkht01d40000jv08hvalcvly"
"""The user to whom imported rows belong until an admin says otherwise: the default of Neuronpedia's converter."""
STREAM_NAMES = {"resid_post": "res", "mlp_out": "mlp", "attn_out": "att"}
HOOKS = {"resid_post": "hook_resid_post", "mlp_out": "hook_mlp_out", "attn_out": "hook_attn_out"}


@dataclass(frozen=True)
class Place:
    """Where the atoms of a site are on Neuronpedia: its model's id, and the name of a set of sources, one a layer."""

    model: str
    set: str
    site: Site

    @property
    def source(self) -> str:
        """The id of the source.

        >>> Place("gpt2-small", "itda-res-4096", Site(3)).source
        '3-itda-res-4096'
        """
        return f"{self.site.layer}-{self.set}"

    @property
    def hook(self) -> str:
        """The name of the place in the model, as TransformerLens calls it.

        >>> Place("gpt2-small", "itda-res-4096", Site(3)).hook
        'blocks.3.hook_resid_post'
        """
        return f"blocks.{self.site.layer}.{HOOKS[self.site.stream]}"


def set_name(site: Site, atoms: int) -> str:
    """Return a name for the set that a site's dictionary goes to.

    >>> set_name(Site(3, "mlp_out"), 4096)
    'itda-mlp-4096'
    """
    return f"itda-{STREAM_NAMES[site.stream]}-{atoms}"


def places(run: RunRecord, sites: Sequence[Site], model: str, name: str | None = None) -> list[Place]:
    """Return where each dictionary of a run goes; without a name, the sets are called after stream and atoms."""
    atoms: dict[str, int] = {}
    for site, record in run.summaries().items():
        atoms[site.stream] = max(atoms.get(site.stream, 0), record.atoms)
    return [Place(model, name or set_name(site, atoms[site.stream]), site) for site in sites]


def explanation(label: Label, most: int = 400) -> str:
    """Return a label as the text of an explanation: the prompt around the token, which is marked.

    >>> explanation(Label("essay", 1, 2, 5, 9, before="To", token=" be", after=" or"))
    'To« be» or'
    """
    before, token, after = clipped(label, most // 2, most // 4, most // 4)
    return f"{before}«{token}»{after}".replace("\0", "␀")


@dataclass(frozen=True, eq=False)
class Features:
    """What Neuronpedia is told of some atoms that follow each other."""

    atoms: Int64[np.ndarray, " atoms"]
    uses: Int64[np.ndarray, " atoms"]
    """Tokens that use the atom with a positive coefficient."""
    density: Float64[np.ndarray, " atoms"]
    """The same as a share of all tokens that are not massive."""
    strongest: Float32[np.ndarray, " atoms"]
    """The largest coefficient; 0 where there is no positive one."""
    explanations: Sequence[str]
    examples: Examples
    passages: Passages

    def rows(self, atom: int) -> range:
        """Return the rows of `examples` that are of an atom."""
        first, last = np.searchsorted(self.examples.atom, [atom, atom + 1]).tolist()
        return range(first, last)


class FeatureReader:
    """Reads from an index what Neuronpedia is told of atoms."""

    def __init__(self, source: Indexed) -> None:
        self._source, self._chooser = source, Chooser(source.index)

    def read(self, first: int, last: int) -> Features:
        """Return the features of the atoms from `first` up to `last`."""
        index, labels = self._source.index, self._source.dictionary.labels
        starts, _, coefficients = index.uses_between(first, last)
        rows = np.repeat(np.arange(last - first), np.diff(starts))
        uses = np.bincount(rows[coefficients > 0], minlength=last - first)
        examples = self._chooser.of(range(first, last))
        return Features(
            atoms=np.arange(first, last),
            uses=uses,
            density=uses / max(1, index.ordinary),
            strongest=np.maximum(index.strongest[first:last], 0),
            explanations=[explanation(labels[atom]) for atom in range(first, last)],
            examples=examples,
            passages=passages(index, examples),
        )

    def histograms(self, features: Features) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield for each atom the heights and the middles of the bars of its positive coefficients."""
        for atom, uses, strongest in zip(features.atoms, features.uses, features.strongest, strict=True):
            own = self._source.index.uses(int(atom))[1][:uses]  # the largest come first
            edges = np.linspace(0, float(strongest), BARS + 1)
            # They are sorted, so a search for each edge is enough.
            heights = np.diff(np.searchsorted(own[::-1], [*edges[:-1], np.inf])) if uses else np.zeros(0, int)
            yield heights, (edges[:-1] + edges[1:]) / 2 if uses else np.zeros(0)


def export(sources: Sequence[Indexed], folder: Path, places: Sequence[Place], done: Done, say: Say) -> None:
    """Write the files of each dictionary into a folder. `say` is told of atoms without an example. Raises `OSError`."""
    for source, place in zip(sources, places, strict=True):
        own = folder / place.model / place.source
        for name in _KINDS:
            (own / name).mkdir(parents=True)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        for name, value in _about(source, place, now).items():
            write_whole(own / f"{name}.jsonl", json_lines(pyarrow.RecordBatch.from_pylist([value])))
        unused, reader, number = 0, FeatureReader(source), len(source.dictionary)
        for batch, first in enumerate(range(0, number, FILE_ATOMS)):
            with ExitStack() as files:
                opened = [_gzip(files, own / kind / f"batch-{batch}.jsonl.gz") for kind in _KINDS]
                for start in range(first, min(first + FILE_ATOMS, number), BATCH):
                    features = reader.read(start, min(start + BATCH, first + FILE_ATOMS, number))
                    for file, kind in zip(opened, _KINDS.values(), strict=True):
                        rows = kind(source, place, reader, features, now)
                        file.write(json_lines(rows) if len(rows) else b"")
                    unused += int((features.uses == 0).sum())
                    done(len(features.atoms))
        if unused:
            say(f"{unused:,} of {number:,} atoms of {place.source} have no example: no indexed token uses them")


def _gzip(files: ExitStack, path: Path) -> gzip.GzipFile:
    return files.enter_context(gzip.open(path, "wb", compresslevel=1))


def _about(source: Indexed, place: Place, now: str) -> dict[str, dict[str, Any]]:
    """Return the rows of the release, the model, the set and the source."""
    record, made = source.index.record, source.dictionary
    what = f"ITDA, {len(made):,} atoms, {place.site.stream}"
    common = {"creatorId": CREATOR, "createdAt": now}
    return {
        "release": {
            **common,
            "name": place.set,
            "description": what,
            "descriptionShort": what,
            "creatorName": "itda",
            "creatorNameShort": "itda",
            "visibility": "PUBLIC",
            "urls": [],
        },
        "model": {
            **common,
            "id": place.model,
            "instruct": False,
            "displayName": source.model or place.model,
            "displayNameShort": place.model,
            "dimension": made.d_model,
            "layers": max(Site.parse(name).layer for name in source.record["sites"]) + 1,
            "neuronsPerLayer": 0,
            "owner": "",
            "visibility": "PUBLIC",
            "updatedAt": now,
        },
        "sourceset": {
            **common,
            "modelId": place.model,
            "name": place.set,
            "description": what,
            "type": "",
            "creatorName": "itda",
            "releaseName": place.set,
            "visibility": "PUBLIC",
            "urls": [],
        },
        "source": {
            **common,
            "modelId": place.model,
            "id": place.source,
            "setName": place.set,
            "visibility": "PUBLIC",
            "dataset": source.corpus,
            "num_prompts": len(source.index.text.window_starts) - 1,
            "num_tokens_in_prompt": int(record["window"]),
            "hasDashboards": True,
        },
    }


def _same(value: Any, number: int, kind: pyarrow.DataType | None = None) -> pyarrow.Array:
    return pyarrow.repeat(pyarrow.scalar(value, kind), number)


def _where(place: Place, atoms: np.ndarray) -> dict[str, pyarrow.Array]:
    """Return the columns that say which feature a row is of."""
    number = len(atoms)
    index = pyarrow.compute.cast(pyarrow.array(atoms), pyarrow.string())
    return {"modelId": _same(place.model, number), "layer": _same(place.source, number), "index": index}


def _feature_rows(
    source: Indexed, place: Place, reader: FeatureReader, features: Features, now: str
) -> pyarrow.RecordBatch:
    number, first = len(features.atoms), int(features.atoms[0])
    heights, middles = zip(*reader.histograms(features), strict=True)
    ends = np.concatenate([[0], np.cumsum([len(each) for each in heights])])
    vectors = source.dictionary.atoms[first : first + number].numpy()
    own = {
        "creatorId": _same(CREATOR, number),
        "createdAt": _same(now, number),
        "sourceSetName": _same(place.set, number),
        "maxActApprox": pyarrow.array(features.strongest),
        "frac_nonzero": pyarrow.array(features.density),
        "freq_hist_data_bar_heights": lists(ends, np.concatenate(heights).astype(np.int64)),
        "freq_hist_data_bar_values": lists(ends, np.concatenate(middles).astype(np.float32)),
        "hasVector": _same(True, number),
        "vector": lists(np.arange(number + 1) * vectors.shape[1], vectors.ravel()),
        "vectorLabel": pyarrow.array(features.explanations, pyarrow.string()),
        "vectorDefaultSteerStrength": pyarrow.array(steering_strength(features.strongest)),
        "hookName": _same(place.hook, number),
    }
    return pyarrow.RecordBatch.from_pydict({**_where(place, features.atoms), **own})


def steering_strength(strongest: np.ndarray) -> np.ndarray:
    """Return the strength at which an atom's vector steers if nobody says another: the largest that the corpus has.

    >>> steering_strength(np.array([0.0, 7.5, 300.0], np.float32)).tolist()
    [10.0, 7.5, 100.0]
    """
    return np.where(strongest > 0, np.minimum(strongest, MOST_STRENGTH), 10).astype(np.float32)


def bands_of(examples: Examples) -> dict[str, pyarrow.Array]:
    """Return the columns of an example's interval: its ends, and the share of uses in it; null for the largest uses."""
    top = examples.band == NO_BAND
    return {
        name: pyarrow.array(values, mask=top)
        for name, values in (("binMin", examples.low), ("binMax", examples.high), ("binContains", examples.share))
    }


def _activation_rows(
    _source: Indexed, place: Place, _reader: FeatureReader, features: Features, now: str
) -> pyarrow.RecordBatch:
    examples, found = features.examples, features.passages
    number = len(examples.atom)
    flat = found.values.flatten().to_numpy()
    begins = found.starts[:-1]
    largest = np.maximum.reduceat(flat, begins) if number else flat
    least = np.minimum.reduceat(flat, begins) if number else flat
    places = np.arange(len(flat)) - np.repeat(begins, np.diff(found.starts))
    is_largest = np.where(flat == np.repeat(largest, np.diff(found.starts)), places, np.iinfo(np.int64).max)
    at = np.minimum.reduceat(is_largest, begins) if number else places
    own = {
        "id": pyarrow.array(list(_ids(place, examples)), pyarrow.string()),
        "creatorId": _same(CREATOR, number),
        "createdAt": _same(now, number),
        "tokens": found.tokens,
        "values": found.values,
        "maxValue": pyarrow.array(largest),
        "maxValueTokenIndex": pyarrow.array(at),
        "minValue": pyarrow.array(least),
        **bands_of(examples),
        "qualifyingTokenIndex": pyarrow.array(found.at),
    }
    return pyarrow.RecordBatch.from_pydict({**_where(place, examples.atom), **own})


def _ids(place: Place, examples: Examples) -> Iterator[str]:
    """Yield an id for each example, the same in each export: importing the files again changes nothing."""
    of = hashlib.sha256(f"{place.model}/{place.source}".encode()).hexdigest()[:8]
    for atom, token in zip(examples.atom.tolist(), examples.token.tolist(), strict=True):
        yield f"c{of}{atom:07x}{token:09x}"


def _explanation_rows(
    _source: Indexed, place: Place, _reader: FeatureReader, features: Features, now: str
) -> pyarrow.RecordBatch:
    number = len(features.atoms)
    of = hashlib.sha256(f"{place.model}/{place.source}/labels".encode()).hexdigest()[:8]
    own = {
        "id": pyarrow.array([f"c{of}{atom:016x}" for atom in features.atoms.tolist()], pyarrow.string()),
        "description": pyarrow.array(features.explanations, pyarrow.string()),
        "authorId": _same(CREATOR, number),
        "createdAt": _same(now, number),
        "notes": _same("The label of the atom: the token of the corpus whose activation it comes from.", number),
    }
    return pyarrow.RecordBatch.from_pydict({**_where(place, features.atoms), **own})


_KINDS: Mapping[str, Any] = {
    "features": _feature_rows,
    "activations": _activation_rows,
    "explanations": _explanation_rows,
}
