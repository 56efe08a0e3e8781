"""The draws of `itda replicate` at one site: dictionaries of halves of the documents, and what comes back in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from itda import config as settings
from itda.core.batch import ActivationSource
from itda.core.dictionary import ITDA, target_of
from itda.core.labels import Labels
from itda.core.massive import norms
from itda.core.matching import largest_cosines, same_readout, strongest_atoms
from itda.core.memory import available
from itda.core.nearest import Nearest
from itda.core.nearest_search import NearestSearch
from itda.core.replication import Replication, half_of
from itda.core.site import Site
from itda.core.tokens import Tokens
from itda.core.training.centres import STEPS
from itda.files import whole_file
from itda.recipes.runs import Progress
from itda.recipes.trainers import trainer_of

SAMPLE = 20_000
"""Most tokens whose strongest atoms are compared, spread evenly over those that the run read."""
DRAW_FORMAT = "itda-replication-draw"


@dataclass(frozen=True, eq=False)
class _Sample:
    """Tokens spread evenly over those that the run read, without massive ones, and what the run's dictionary says."""

    activations: Tensor
    directions: Tensor
    """The activations after the offset, divided by their norms."""
    document: np.ndarray
    """The number of each token's document."""
    strongest: Tensor
    """The strongest atom of each token."""

    @staticmethod
    def of(dictionary: ITDA, site: Site, source: ActivationSource, tokens: Tokens) -> _Sample:
        """Gather the sample from the stream, and encode it."""
        step = max(1, math.ceil(len(tokens) / SAMPLE))
        parts, at = [], 0
        for batches in source:
            x = batches[site].activations
            parts.append(x[-at % step :: step].clone())
            at += len(x)
        x = torch.cat(parts)
        ordinary = ~dictionary.is_massive(x)
        x, document = x[ordinary], tokens.document[::step][ordinary.numpy()]
        z = target_of(x, dictionary.d_model, dictionary.offset).double()
        norm = norms(z)[:, None]
        directions = z / torch.where(norm > 0, norm, torch.ones_like(norm))
        return _Sample(x, directions, document, strongest_atoms(dictionary.encode(x)))


class SiteDraws:
    """The draws of one site. Each is a function of the run, the seed and its number, to the bit."""

    def __init__(
        self,
        site: Site,
        dictionary: ITDA,
        training: settings.Train,
        source: ActivationSource,
        tokens: Tokens,
        cosine: float,
        seed: int,
    ) -> None:
        self.site, self.dictionary, self.training, self.source = site, dictionary, training, source
        self.tokens, self.cosine, self.seed = tokens, cosine, seed

    def replication(self, draws: int, folder: Path, progress: Progress) -> Replication:
        """Return the replication over so many draws; those that a killed process left in `folder` are kept."""
        parts: list[dict[str, np.ndarray]] = []
        for draw in range(draws):
            progress.set_postfix_str(f"{self.site.short}: draw {draw + 1} of {draws}")
            file = folder / f"{self.site}.draw-{draw}.safetensors"
            part = _read(file)
            if part is None:
                part = self.draw(draw, progress)
                with whole_file(file, alone=True) as partial:
                    save_file(part, partial, {"format": DRAW_FORMAT})
            else:
                progress.update(len(self.tokens))
            parts.append(part)
        of, found = (sum(int(part["chance"][i]) for part in parts) for i in (1, 0))
        return Replication(
            cosines=np.stack([part["cosines"] for part in parts], axis=1),
            kept=np.stack([part["kept"] for part in parts]).sum(axis=0, dtype=np.int32),
            tokens=np.stack([part["tokens"] for part in parts]).sum(axis=0, dtype=np.int32),
            halves=np.stack([part["halves"] for part in parts]),
            chance=found / of if of else 0.0,
            cosine=self.cosine,
            seed=self.seed,
        )

    def nearest(self, progress: Progress) -> Nearest:
        """Return the nearest activations of each atom, in one pass over the stream, and one more for their labels."""
        progress.set_postfix_str(f"{self.site.short}: nearest activations")
        search = NearestSearch(self.dictionary)
        for batches in self.source:
            batch = batches[self.site]
            search.add(batch.activations, batch.labels.document.tolist())
            progress.update(len(batch))
        return search.result(self._labels_at)

    def _labels_at(self, places: np.ndarray) -> Labels:
        """Return the labels at some places of the stream, in ascending order."""
        parts, at = [], 0
        for batches in self.source:
            labels = batches[self.site].labels
            parts.append(labels[places[(places >= at) & (places < at + len(labels))] - at])
            at += len(labels)
        return Labels.concatenate(parts)

    def draw(self, draw: int, progress: Progress) -> dict[str, np.ndarray]:
        """Make dictionaries of the two halves of a draw, and look in each for what it was not made from."""
        first = half_of(self.tokens.documents, self.tokens.per_document, seed=self.seed, draw=draw)
        halves = self._halves(first[self.tokens.document], progress)
        own = first[self._document_of_atom]
        cosines = torch.zeros(len(self.dictionary), dtype=torch.float64)
        kept, tokens = (torch.zeros(len(self.dictionary), dtype=torch.long) for _ in range(2))
        chance = np.zeros(2, np.int64)
        # What is of the first half is looked for in the second, and the other way round.
        for is_first, other in ((True, halves[1]), (False, halves[0])):
            mask = torch.from_numpy(own == is_first)
            cosines[mask] = largest_cosines(self.dictionary.atoms[mask], other.atoms)[0]
            rows = torch.from_numpy(first[self._sample.document] == is_first)
            strongest, same = self._readouts(rows, other)
            some = strongest >= 0
            tokens += torch.bincount(strongest[some], minlength=len(self.dictionary))
            kept += torch.bincount(strongest[some & same], minlength=len(self.dictionary))
            near = largest_cosines(self._sample.directions[rows], other.atoms)[0] >= self.cosine
            chance += np.array([int(near.sum()), len(near)])
        between = torch.cat([largest_cosines(a.atoms, b.atoms)[0] for a, b in (halves, halves[::-1])])
        mean = float(between.mean()) if len(between) else 0.0
        within = float((between >= self.cosine).double().mean()) if len(between) else 0.0
        return {
            "cosines": cosines.numpy().astype(np.float32),
            "kept": kept.numpy().astype(np.int32),
            "tokens": tokens.numpy().astype(np.int32),
            "halves": np.array([mean, within], np.float32),
            "chance": chance,
        }

    def _halves(self, in_first: np.ndarray, progress: Progress) -> Sequence[ITDA]:
        """Make a dictionary of the tokens where `in_first` is True, and one of the others, in reading order."""
        masks = (in_first, ~in_first)
        memory = (self.training.memory or available()) // 2
        trainers = []
        for mask in masks:
            options = replace(self.training, tokens=int(mask.sum()), **_steps_of(self.dictionary))
            trainers.append(trainer_of(options, self.dictionary.d_model, memory))
        at = 0
        for batches in self.source:
            batch = batches[self.site]
            for trainer, mask in zip(trainers, masks, strict=True):
                trainer.offer(batch[mask[at : at + len(batch)]])
            at += len(batch)
            progress.update(len(batch))
        return [trainer.finish() for trainer in trainers]

    def _readouts(self, rows: Tensor, other: ITDA) -> tuple[Tensor, Tensor]:
        """Return the strongest atoms of some sampled tokens, and a mask of those that keep theirs in `other`."""
        strongest, others = self._sample.strongest[rows], strongest_atoms(other.encode(self._sample.activations[rows]))
        return strongest, same_readout(strongest, others, self.dictionary.atoms, other.atoms, self.cosine)

    @cached_property
    def _document_of_atom(self) -> np.ndarray:
        number = {name: place for place, name in enumerate(self.tokens.documents)}
        return np.array([number[name] for name in self.dictionary.labels.document.tolist()], dtype=np.int64)

    @cached_property
    def _sample(self) -> _Sample:
        return _Sample.of(self.dictionary, self.site, self.source, self.tokens)


def _read(file: Path) -> dict[str, np.ndarray] | None:
    """Return what an earlier process found in a draw; None if it did not come so far."""
    try:
        with safe_open(file, "numpy") as found:
            return {name: found.get_tensor(name) for name in found.keys()}  # noqa: SIM118 - it is no mapping
    except (OSError, SafetensorError):
        return None


def _steps_of(dictionary: ITDA) -> dict[str, int]:
    """Return the steps at the end that a dictionary of recipe 2 had, as settings: fewer tokens must not change them."""
    made = dictionary.provenance.get("refinement", {})
    return {"steps": made.get("steps", STEPS)} if made.get("recipe") == 2 else {}
