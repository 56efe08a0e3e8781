"""Results of the Python API: they show themselves in a terminal and a notebook, and become tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from itda.core.atom import Atom
from itda.core.display.markup import escaped
from itda.core.effects import FIELDS, AtomEffects
from itda.core.replication import Replication
from itda.core.similarity.fingerprint_index import THE_INDEX
from itda.core.site import Site
from itda.errors import SettingError
from itda.evaluation.measures import Evaluation
from itda.evaluation.probing import ProbeResult
from itda.recipes.compare import Pair
from itda.recipes.compare_fingerprints import FingerprintPair
from itda.recipes.decompose import AtomUse
from itda.recipes.effects import Measured
from itda.recipes.replicate import Replicated

if TYPE_CHECKING:
    from pandas import DataFrame


def preformatted(text: str) -> str:
    """Show text in a notebook as it is in a terminal."""
    lines = "\n".join(escaped(line) for line in text.split("\n"))
    return f"<pre>{lines}</pre>"


class Evaluations(dict[Site, Evaluation]):
    """The evaluation of each site of a run; also by name, as in `found["layer_4"].fvu`."""

    def __getitem__(self, site: Site | str | int) -> Evaluation:
        """Return the evaluation of a site, by its name or layer too."""
        wanted = Site.of(site)
        if wanted not in self:
            raise SettingError(f"no layer {wanted.short}: use one of {', '.join(each.short for each in self)}")
        return super().__getitem__(wanted)

    def __repr__(self) -> str:
        from itda.report import evaluation

        return evaluation(self)

    def _repr_html_(self) -> str:
        return preformatted(repr(self))

    def to_pandas(self) -> DataFrame:
        """One row for each site, one column for each measure."""
        from pandas import DataFrame

        return DataFrame([asdict(found) for found in self.values()], index=[str(site) for site in self])


class Probes(dict[Site, dict[str, list[ProbeResult]]]):
    """For each site and readout, the probes of 1, 2, 5, 20 and all latents. `classes` has the names of the classes."""

    def __init__(self, classes: Sequence[str], found: Mapping[Site, dict[str, list[ProbeResult]]]) -> None:
        super().__init__(found)
        self.classes = list(classes)

    def __repr__(self) -> str:
        from itda.recipes.probe import LATENT_COUNTS
        from itda.report import probes

        return probes(self.classes, LATENT_COUNTS, self)

    def _repr_html_(self) -> str:
        return preformatted(repr(self))


class Replications(dict[Site, Replication]):
    """The replication of each dictionary of a run; also by name, as in `found["layer_4"].share`."""

    def __init__(self, made: Replicated) -> None:
        super().__init__(made.sites)
        self.made = made

    def __getitem__(self, site: Site | str | int) -> Replication:
        """Return the replication at a site, by its name or layer too."""
        wanted = Site.of(site)
        if wanted not in self:
            raise SettingError(f"no layer {wanted.short}: use one of {', '.join(each.short for each in self)}")
        return super().__getitem__(wanted)

    def __repr__(self) -> str:
        from itda.report import replication_summary

        return replication_summary(self.made)

    def _repr_html_(self) -> str:
        return preformatted(repr(self))

    def to_pandas(self) -> DataFrame:
        """One row for each atom of each site: its replication, mean cosine, readout, and label."""
        from pandas import DataFrame

        rows = []
        for site, found in self.items():
            columns = zip(
                found.share.tolist(),
                found.cosines.mean(axis=1).tolist(),
                found.readout.tolist(),
                self.made.labels[site],
                strict=True,
            )
            for atom, (share, cosine, readout, label) in enumerate(columns):
                row = {"site": str(site), "atom": atom, "replication": share, "cosine": cosine, "readout": readout}
                rows.append(row | asdict(label))
        return DataFrame(rows)


class Effects(dict[Site, AtomEffects]):
    """The effects of the atoms of each dictionary; also by name, as in `found["layer_4"].share("added_promoted")`."""

    def __init__(self, made: Measured) -> None:
        super().__init__(made.sites)
        self.made = made

    def __getitem__(self, site: Site | str | int) -> AtomEffects:
        """Return the effects at a site, by its name or layer too."""
        wanted = Site.of(site)
        if wanted not in self:
            raise SettingError(f"no layer {wanted.short}: use one of {', '.join(each.short for each in self)}")
        return super().__getitem__(wanted)

    def __repr__(self) -> str:
        from itda.report import effects_summary

        return effects_summary(self.made)

    def _repr_html_(self) -> str:
        return preformatted(repr(self))

    def to_pandas(self) -> DataFrame:
        """One row for each atom of each site: its effects and controls, how often it is used, its targets and label."""
        from pandas import DataFrame

        rows = []
        for site, found in self.items():
            for atom, label in enumerate(self.made.labels[site]):
                row = {"site": str(site), "atom": atom, "uses": int(found.uses[atom])}
                row |= {"continuation": found.continuation[atom], "promoted": list(found.promoted[atom])}
                for name, each in found.measures.items():
                    row |= {f"{name}_{field}": float(getattr(each, field)[atom]) for field in FIELDS}
                rows.append(row | asdict(label))
        return DataFrame(rows)


class Uses(list[AtomUse]):
    """The tokens that use an atom most, the most first."""

    def __init__(self, found: Sequence[AtomUse], atom: Atom) -> None:
        super().__init__(found)
        self.atom = atom

    def __repr__(self) -> str:
        from itda.report import uses

        return uses(self.atom.index, self.atom.label, self, self.atom.replication)

    def _repr_html_(self) -> str:
        return preformatted(repr(self))

    def to_pandas(self) -> DataFrame:
        """One row for each use: coefficient, document, position, and the text around the token."""
        from pandas import DataFrame

        return DataFrame([{"coefficient": use.coefficient, **asdict(use.label)} for use in self])


class Comparison:
    """How similar two runs or fingerprints are, layer with layer, by one index: a matrix with names."""

    def __init__(self, pair: Pair | FingerprintPair, index: str | None = None) -> None:
        if index is None:
            index = "weighted" if isinstance(pair, Pair) else THE_INDEX
        if index not in pair.matrices:
            raise SettingError(f"no similarity index {index!r}: use one of {', '.join(pair.matrices)}")
        self.pair, self.index = pair, index
        self.rows, self.columns = ([str(site) for site in sites] for sites in pair.sites)

    @property
    def matrix(self) -> np.ndarray:
        """[sites of the first run, sites of the second], 1 for equal dictionaries."""
        return self.pair.matrices[self.index]

    @property
    def indices(self) -> Mapping[str, np.ndarray]:
        """The matrix of every index, by name."""
        return self.pair.matrices

    def with_index(self, index: str) -> Comparison:
        """The same comparison by another index. Raises `SettingError` if there is no such index."""
        return Comparison(self.pair, index)

    def __getitem__(self, sites: tuple[Any, Any]) -> float:
        """Return the similarity of two sites: `found["layer_2", "layer_4"]`."""
        places = []
        for site, names in zip(sites, (self.rows, self.columns), strict=True):
            name = str(Site.of(site))
            if name not in names:
                raise SettingError(f"no {name}: use one of {', '.join(names)}")
            places.append(names.index(name))
        return float(self.matrix[places[0], places[1]])

    def __repr__(self) -> str:
        from itda.report import table

        rows = [[name, *(f"{value:.3f}" for value in row)] for name, row in zip(self.rows, self.matrix, strict=True)]
        return f"{self.index}: {self.pair.a} (rows) and {self.pair.b}\n\n" + table(["", *self.columns], rows)

    def _repr_html_(self) -> str:
        return preformatted(repr(self))

    def to_pandas(self) -> DataFrame:
        """The matrix, with its labels."""
        from pandas import DataFrame

        return DataFrame(self.matrix, index=self.rows, columns=self.columns)
