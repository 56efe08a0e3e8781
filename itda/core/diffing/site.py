"""All forms of a diff at one site, in one pass: differences, transported dictionary, use, labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from itda.core.diffing.difference import DifferencePass, Differences
from itda.core.diffing.labels import LabelDifference, LabelsPass
from itda.core.diffing.ranking import FACTOR, Ranking, beyond, excess, ranked, stand_out
from itda.core.diffing.transported import Transported, TransportedPass
from itda.core.diffing.usage import Usage
from itda.errors import SettingError

AnySite = TypeVar("AnySite")

K = 8
"""Atoms in a code of activations (the codes of differences have fewer: `itda.core.diffing.difference.K`)."""


@dataclass(frozen=True, eq=False)
class SiteDiff:
    """What changed at one site. Rows of all parts are numbers of tokens, from 0, as they were offered.

    `differences`, `ranking`, `findings` and `usage` ask for a shared basis, and are None without one.
    """

    tokens: int
    differences: Differences | None
    ranking: Ranking | None
    controls: tuple[Ranking, ...]
    """The ranking of each control's own difference from the base."""
    findings: Bool[np.ndarray, " atoms"] | None
    """True for atoms that stand out from the controls at this site, or at all sites (`across_sites`); all False
    without a control."""
    transported: Transported
    usage: Usage | None
    labels: LabelDifference

    @property
    def unchanged(self) -> bool:
        """True if nothing differs at all: every difference is zero, or without a shared basis every label is shared."""
        if self.differences is not None:
            return not self.differences.energy.any() and not self.differences.mean.any()
        return not self.labels.margin.any() and not len(self.transported.changed_rows)


def across_sites(found: Mapping[AnySite, SiteDiff], factor: float = FACTOR) -> dict[AnySite, SiteDiff]:
    """Return the diffs of all sites with the findings that stand out from the controls at every site.

    >>> across_sites({})
    {}
    """
    controls = [each for one in found.values() for each in one.controls]
    return {
        site: replace(one, findings=stand_out(one.ranking, controls, factor)) if one.ranking is not None else one
        for site, one in found.items()
    }


class SitePass:
    """Takes the activations of a base, a changed model and controls at the same tokens, in order, in any pieces.

    >>> import torch
    >>> x = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    >>> both = SitePass(8, 8, shared_basis=True)
    >>> both.offer(x, x, np.arange(100) // 10)
    >>> both.finish().unchanged
    True
    """

    def __init__(self, base_width: int, changed_width: int, *, shared_basis: bool, controls: int = 0) -> None:
        if shared_basis and base_width != changed_width:
            raise SettingError(f"widths {base_width} and {changed_width} have no shared basis: say so")
        self.shared_basis = shared_basis
        passes = 1 + controls if shared_basis else 0
        self._differences = [DifferencePass(base_width) for _ in range(passes)]
        self._transported = TransportedPass(base_width, changed_width, k=K, usage=shared_basis)
        self._labels = LabelsPass()
        self._documents: list[np.ndarray] = []

    def offer(
        self,
        base: Float[Tensor, "batch base_width"],
        changed: Float[Tensor, "batch changed_width"],
        documents: Shaped[np.ndarray, " batch"],
        controls: Sequence[Tensor] = (),
    ) -> None:
        """Take some tokens, each with its document; `controls` are their activations in each control."""
        self._documents.append(np.asarray(documents))
        for differences, other in zip(self._differences, [changed, *controls], strict=self.shared_basis):
            differences.offer(base, other)
        self._transported.offer(base, changed, documents)
        self._labels.offer(base, changed, documents)

    def finish(
        self,
        kl: Float[np.ndarray, " tokens"] | None = None,
        control_kl: Sequence[Float[np.ndarray, " tokens"]] = (),
        *,
        factor: float = FACTOR,
    ) -> SiteDiff:
        """Return what changed; `kl` are the KL divergences of the predictions of all tokens offered, NaN for none.

        Raises `SettingError` if no token came, and for predictions of other controls than those offered.
        """
        if kl is not None and self._differences and len(control_kl) != len(self._differences) - 1:
            raise SettingError(f"predictions of {len(control_kl)} controls of {len(self._differences) - 1}: give all")
        if not self._documents:
            raise SettingError("there are no tokens: give at least one")
        documents = np.concatenate(self._documents)
        found = [each.finish() for each in self._differences]
        rankings = self._rankings(found, documents, [kl, *control_kl] if kl is not None else None)
        transported = self._transported.finish()
        return SiteDiff(
            len(documents),
            found[0] if found else None,
            rankings[0] if rankings else None,
            tuple(rankings[1:]),
            stand_out(rankings[0], rankings[1:], factor) if rankings else None,
            transported,
            self._transported.usage(),
            self._labels.finish(),
        )

    @staticmethod
    def _rankings(
        found: Sequence[Differences], documents: np.ndarray, divergences: Sequence[np.ndarray] | None
    ) -> list[Ranking]:
        """Rank the atoms of the changed model and of each control, all against each other."""
        if divergences is None or not found:
            return [ranked(one, documents) for one in found]
        above = excess(divergences)
        far = beyond(divergences) if len(found) > 1 else [None]
        return [ranked(one, documents, *each) for one, *each in zip(found, above, far, strict=True)]
