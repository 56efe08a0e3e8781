"""What makes the dictionaries of a run: one trainer per site, in this process or in Ray workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, runtime_checkable

from jaxtyping import Float64
from torch import Tensor

from itda import config as settings
from itda.core.batch import ActivationBatch, Site
from itda.core.dictionary import ITDA
from itda.core.massive import massive
from itda.core.training.reference import ReferenceTrainer
from itda.core.training.state import TrainingState
from itda.core.training.trainer import Builder
from itda.recipes.activation_source import tokens_of
from itda.recipes.runs import Progress


@runtime_checkable
class Trainers(Protocol):
    """One trainer per site. `itda.workers.trainers.RayTrainers` is another."""

    def offer(self, batches: Mapping[Site, ActivationBatch]) -> None:
        """Hand on a batch of some of the sites."""
        ...

    def sizes(self) -> dict[Site, int]:
        """Atoms so far."""
        ...

    def errors(self, activations: Mapping[Site, Tensor]) -> dict[Site, Float64[Tensor, " batch"]]:
        """What the dictionaries so far leave unexplained of activations [batch, d_model], massive ones left out."""
        ...

    def states(self) -> Mapping[Site, TrainingState]:
        """What it takes to go on."""
        ...

    def restore(self, states: Mapping[Site, TrainingState]) -> None:
        """Go on from there."""
        ...

    def finish(self, parts: Mapping[Site, Mapping[str, Any]] | None = None) -> dict[Site, ITDA]:
        """The dictionaries, refined."""
        ...

    def found(self) -> dict[Site, int]:
        """After `finish`: atoms before the crop to a number."""
        ...

    def gram_rows(self) -> dict[Site, int | Literal["all"]]:
        """Rows of Gram matrices that memory has room for."""
        ...

    def close(self) -> None:
        """No more will be asked of it."""
        ...


class LocalTrainers:
    """Trainers in this process, one after the other."""

    def __init__(self, trainers: Mapping[Site, Builder | ReferenceTrainer]) -> None:
        self.trainers = dict(trainers)
        self.progress: Progress | None = None
        """Shows the passes of refinement."""

    def offer(self, batches: Mapping[Site, ActivationBatch]) -> None:
        """Go through a batch of some of the sites."""
        for site, batch in batches.items():
            self.trainers[site].offer(batch)

    def sizes(self) -> dict[Site, int]:
        """Atoms so far."""
        return {site: len(trainer) for site, trainer in self.trainers.items()}

    def errors(self, activations: Mapping[Site, Tensor]) -> dict[Site, Tensor]:
        """What the dictionaries so far leave unexplained of activations [batch, d_model], massive ones left out."""
        found = {}
        for site, x in activations.items():
            trainer = self.trainers[site]
            if isinstance(trainer, Builder):
                found[site] = trainer.error(x[~massive(x, trainer.massive_norm)])
            else:
                found[site] = trainer.finish().decompose(x)[1]
        return found

    def states(self) -> dict[Site, TrainingState]:
        """What it takes to go on."""
        return {site: trainer.state() for site, trainer in self.trainers.items()}

    def restore(self, states: Mapping[Site, TrainingState]) -> None:
        """Go on from there."""
        for site, state in states.items():
            self.trainers[site].restore(state)

    def finish(self, parts: Mapping[Site, Mapping[str, Any]] | None = None) -> dict[Site, ITDA]:
        """The dictionaries, refined."""
        made = {}
        for site, trainer in self.trainers.items():
            given = (parts or {}).get(site, {})
            if isinstance(trainer, Builder) and self.progress is not None:
                made[site] = trainer.finish(self.progress.update, **given)
            else:
                made[site] = trainer.finish(**given)
        return made

    def found(self) -> dict[Site, int]:
        """After `finish`: atoms before the crop to a number."""
        builders = {site: t for site, t in self.trainers.items() if isinstance(t, Builder)}
        return {site: builder.found for site, builder in builders.items() if builder.found is not None}

    def gram_rows(self) -> dict[Site, int | Literal["all"]]:
        """Rows of Gram matrices that memory has room for."""
        return {site: t.gram_rows for site, t in self.trainers.items() if isinstance(t, Builder)}

    def close(self) -> None:
        """Nothing to do."""


def trainer_of(options: settings.Train, d_model: int, memory: int | None) -> Builder | ReferenceTrainer:
    """What makes a dictionary of one site, from resolved settings."""
    if options.mode == "reference":
        assert options.threshold is not None
        return ReferenceTrainer(d_model, k=options.k, threshold=options.threshold)
    return Builder(
        d_model,
        tokens=tokens_of(options),
        k=options.k,
        threshold=options.threshold,
        atoms=options.atoms,
        pursuit=options.pursuit or "mp",
        offset_tokens=options.offset or 0,
        passes=options.refine or 0,
        min_fidelity=options.min_fidelity or 0.0,
        massive=None if options.massive in (None, "off") else options.massive,
        memory=memory,
    )
