"""Diffs in the explorer: read from their folders, and their models loaded when a text is typed."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from itda.core.pursuit import encoder
from itda.core.site import Site
from itda.diffing.batches import PairedBatch, PairedPredictions
from itda.diffing.models import Models, Opening, open_models
from itda.diffing.pairs import PairedSource
from itda.diffing.summary import summary
from itda.errors import CorpusError, MissingError, ModelError
from itda.explorer.diff_texts import Shades, explained_by, shaded
from itda.explorer.diffs import DiffPages
from itda.recipes.runs import finite
from itda.sources.corpora.corpus import Corpus
from itda.store.diffs import Diff, read_diff


def diff_pages(folders: Sequence[Path], *, models: bool = True) -> DiffPages:
    """Read diffs for the explorer; `models` False for one that reads no texts. Raises `StoreError`."""
    return pages_of(dict(zip(_names(folders), map(read_diff, folders), strict=True)), models=models)


def pages_of(diffs: Mapping[str, Diff], *, models: bool) -> DiffPages:
    """Return the pages of some diffs that have names."""
    summaries = {name: finite(summary(diff.values)) for name, diff in diffs.items()}
    return DiffPages(diffs, summaries, _Reader(diffs) if models else None)


def _names(folders: Sequence[Path]) -> list[str]:
    """Return a name for each folder: its own, with a number behind it where two have the same."""
    names: list[str] = []
    for folder in folders:
        plain = folder.resolve().name
        name = next(
            each for i in range(1, len(folders) + 1) if (each := plain if i == 1 else f"{plain}-{i}") not in names
        )
        names.append(name)
    return names


class _Reader:
    """Lets both models of a diff read a text. They are loaded for the first one; one text is read at a time."""

    def __init__(self, diffs: Mapping[str, Diff]) -> None:
        self._diffs = diffs
        self._models: dict[str, Models] = {}
        self._lock = threading.Lock()

    def __call__(self, name: str, site: Site, text: str) -> dict[str, Any]:
        """Return a text with what both models make of it, as `shaded`. Raises an `ItdaError` for models not at hand."""
        with self._lock:
            diff = self._diffs[name]
            if name not in self._models:
                self._models[name] = _opened(diff)
            return read_text(diff, self._models[name], site, text)


def _opened(diff: Diff) -> Models:
    """Load both models of a diff. Raises `ModelError` for one that is not what it was."""
    base, changed = diff.values["base"], diff.values["changed"]
    opening = Opening(
        dtype=base["dtype"] or "auto",
        revision=base["revision"],
        changed_revision=changed["revision"],
        merge=diff.values["merge"],
    )
    models = open_models(base["name"], changed["name"], opening=opening)
    for model, made in ((models.base, base), (models.changed, changed)):
        if (model.d_model, model.layers) != (made["d_model"], made["layers"]):
            raise ModelError(f"{made['name']} has changed since the diff was made: make the diff anew")
    return models


def read_text(diff: Diff, models: Models, site: Site, text: str) -> dict[str, Any]:
    """Let two models read a text, and return it shaded by what differs at a site, as `shaded`."""
    values = diff.values
    try:
        source = PairedSource(
            models.base,
            models.changed,
            Corpus.from_texts([text]),
            [site],
            window=values["window"],
            batch_size=1,
            bos=values["bos"],
            predictions=True,
            first_tokens=values["first_tokens"],
        )
        found = list(source)
    except CorpusError:
        found = []
    batches = [each for each in found if isinstance(each, PairedBatch)]
    kl = {}
    for each in found:
        if isinstance(each, PairedPredictions):
            kl |= dict(zip(each.tokens.tolist(), each.kl.tolist(), strict=True))
    return shaded(text, _shades(diff, site, batches, kl))


def _shades(diff: Diff, site: Site, batches: Sequence[PairedBatch], kl: Mapping[int, float]) -> Shades:
    """Return what differs at each token that was read."""
    if site not in diff.dictionaries:
        raise MissingError(f"nothing differs at {site}, so there is nothing to shade: choose another layer")
    dictionary, scales = diff.dictionaries[site], diff.values["sites"][str(site)]["difference"]["scales"]
    k = dictionary.k
    starts, ends, divergences, energies, atoms, explained = [], [], [], [], [np.zeros((0, k))], [np.zeros((0, k))]
    for batch in batches:
        x, y = (each.double().cpu() for each in (batch.base, batch.changed))
        offset = dictionary.offset.double() if dictionary.offset is not None else 0.0
        z = (y / scales[1] - x / scales[0] - offset).float()
        energy = z.double().square().sum(dim=1).numpy()
        code, error = encoder(dictionary.atoms, min(k, len(dictionary.atoms)), "mp")(z)
        starts.append(batch.labels.char_start)
        ends.append(batch.labels.char_end)
        divergences.append([kl.get(token, np.nan) for token in batch.tokens.tolist()])
        energies.append(energy)
        atoms.append(code.indices.numpy())
        explained.append(explained_by(code.coefficients.double().numpy(), energy, energy * error.double().numpy()))
    joined = [np.concatenate([np.zeros(0), *each]) for each in (starts, ends, divergences, energies)]
    return Shades(
        joined[0].astype(np.int64),
        joined[1].astype(np.int64),
        joined[2],
        joined[3],
        np.concatenate(atoms).astype(np.int64),
        np.concatenate(explained),
    )
