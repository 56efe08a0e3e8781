"""The pass of a diff: what both models make of the tokens goes to the site's forms of a diff, and is forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, Int64

from itda.core.diffing.site import SiteDiff, SitePass, across_sites
from itda.core.labels import Labels
from itda.core.massive import norms
from itda.core.site import Site
from itda.diffing.batches import Paired, PairedBatch, PairedPredictions
from itda.diffing.massive_pairs import MassiveTokens
from itda.diffing.pairs import PairedSource


@dataclass(frozen=True, eq=False)
class SiteFound:
    """What was found at a site, and the tokens that it was found at: rows are those of `found`."""

    site: Site
    found: SiteDiff
    tokens: Int64[np.ndarray, " rows"]
    """The number of each row's token in the stream."""
    relative: Float32[np.ndarray, " rows"] | None
    """The norm of each row's difference over that of the base's activation; None for models of two widths."""
    massive: MassiveTokens


@dataclass(frozen=True, eq=False)
class PredictionsFound:
    """KL divergences in nats of what comes after each token of the stream, NaN where there is none to compare."""

    kl: Float32[np.ndarray, " tokens"]
    controls: Sequence[Float32[np.ndarray, " tokens"]]


class DiffPass:
    """Takes what a `PairedSource` yields, in its order."""

    def __init__(self, source: PairedSource) -> None:
        self._source = source
        self._sites = {site: _SiteTokens(source) for site in source.sites}
        self._predictions: list[PairedPredictions] = []

    @property
    def mean_seen(self) -> int:
        """Number of tokens that all sites have had, on average."""
        return sum(site.seen for site in self._sites.values()) // len(self._sites)

    def offer(self, found: Paired) -> None:
        """Take some activations or predictions."""
        if isinstance(found, PairedBatch):
            self._sites[found.site].add(found)
        else:
            self._predictions.append(found)

    def labels(self) -> Labels:
        """Return the labels of all tokens that were read, in reading order."""
        return Labels.concatenate(self._source.labels)

    def predictions(self) -> PredictionsFound | None:
        """Return the divergences of all tokens that were read; None if predictions were not compared."""
        if not self._source.predictions:
            return None
        parts = self._predictions
        controls = [np.concatenate([each.control_kl[i] for each in parts]) for i in range(len(self._source.controls))]
        return PredictionsFound(np.concatenate([each.kl for each in parts]), controls)

    def finish(self) -> dict[Site, SiteFound]:
        """Return what was found at each site. Raises `SettingError` if no token came."""
        predictions = self.predictions()
        found = {site: each.finish(site, predictions, self._source.massive[site]) for site, each in self._sites.items()}
        judged = across_sites({site: each.found for site, each in found.items()})
        return {site: replace(each, found=judged[site]) for site, each in found.items()}


class _SiteTokens:
    """The forms of a diff at one site, and the tokens that they were given."""

    def __init__(self, source: PairedSource) -> None:
        widths = source.base.d_model, source.changed.d_model
        self._same_width = len(set(widths)) == 1
        shared = source.shared_basis
        self._controls = len(source.controls) if shared else 0
        self._pass = SitePass(*widths, shared_basis=shared, controls=self._controls)
        self._tokens: list[np.ndarray] = []
        self._relative: list[np.ndarray] = []

    @property
    def seen(self) -> int:
        return sum(map(len, self._tokens))

    def add(self, batch: PairedBatch) -> None:
        self._tokens.append(batch.tokens)
        if self._same_width:
            ratio = norms(batch.changed - batch.base) / norms(batch.base).clamp(min=1e-30)
            self._relative.append(ratio.float().cpu().numpy())
        controls = batch.controls[: self._controls]
        self._pass.offer(batch.base, batch.changed, batch.labels.document, controls)

    def finish(self, site: Site, predictions: PredictionsFound | None, massive: MassiveTokens) -> SiteFound:
        tokens = np.concatenate(self._tokens) if self._tokens else np.zeros(0, np.int64)
        kl = predictions.kl[tokens] if predictions is not None else None
        control_kl = [each[tokens] for each in predictions.controls] if predictions is not None else []
        found = self._pass.finish(kl, control_kl[: self._controls])
        relative = np.concatenate(self._relative) if self._same_width and self._relative else None
        return SiteFound(site, found, tokens, relative, massive)
