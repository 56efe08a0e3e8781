"""The trainers of a run: one per site, in this process or in Ray workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, runtime_checkable

from jaxtyping import Float64
from torch import Tensor

from itda import config as settings
from itda.core.batch import ActivationBatch, Site
from itda.core.dictionary import ITDA
from itda.core.massive import massive
from itda.core.training.base import DictionaryTrainer, ignored
from itda.core.training.reference import ReferenceTrainer
from itda.core.training.state import TrainingState
from itda.core.training.trainer import Trainer
from itda.recipes.activation_source import tokens_of


@runtime_checkable
class Trainers(Protocol):
    """One trainer per site. `LocalTrainers` and `itda.workers.trainers.RayTrainers` are the two there are."""

    def offer(self, batches: Mapping[Site, ActivationBatch]) -> None:
        """Hand on a batch of some of the sites."""
        ...

    def atom_counts(self) -> dict[Site, int]:
        """Count the atoms so far, of the sites where atoms are found on the way."""
        ...

    def errors(self, activations: Mapping[Site, Tensor]) -> dict[Site, Float64[Tensor, " batch"]]:
        """Measure what the dictionaries so far leave unexplained of activations [batch, d_model]: see `Trainer.error`.

        Massive activations are left out, and sites where no atoms are found on the way.
        """
        ...

    def training_states(self) -> Mapping[Site, TrainingState]:
        """Give each trainer's state, from which `restore` goes on."""
        ...

    def restore(self, training_states: Mapping[Site, TrainingState]) -> None:
        """Go on from what `training_states` gave."""
        ...

    def finish(
        self, parts: Mapping[Site, Mapping[str, Any]] | None = None, progress: Callable[[int], object] = ignored
    ) -> dict[Site, ITDA]:
        """Refine the dictionaries and return them; `parts` of a site go to `Trainer.finish`.

        `progress` is told the tokens that refinement has gone through, where it takes place in this process.
        """
        ...

    def found(self) -> dict[Site, int]:
        """After `finish`: count the atoms before the crop to a number, of the sites that may have one."""
        ...

    def gram_rows(self) -> dict[Site, int | Literal["all"]]:
        """Say how many rows of its Gram matrix each site has memory for, of the sites that have one."""
        ...

    def close(self) -> None:
        """End what the trainers run in; nothing more is asked of them."""
        ...


class LocalTrainers:
    """Trainers in this process, one after the other. `Trainers` says what each method does."""

    def __init__(self, trainers: Mapping[Site, DictionaryTrainer]) -> None:
        self.trainers = dict(trainers)

    def offer(self, batches: Mapping[Site, ActivationBatch]) -> None:
        """Go through a batch of some of the sites."""
        for site, batch in batches.items():
            self.trainers[site].offer(batch)

    def atom_counts(self) -> dict[Site, int]:
        """Count the atoms so far, of the sites where atoms are found on the way."""
        return {site: len(trainer) for site, trainer in self.trainers.items() if trainer.grows}

    def errors(self, activations: Mapping[Site, Tensor]) -> dict[Site, Float64[Tensor, " batch"]]:
        """Measure what the dictionaries so far leave unexplained, massive activations left out."""
        found = {}
        for site, x in activations.items():
            trainer = self.trainers[site]
            if trainer.grows:
                found[site] = trainer.error(x[~massive(x, trainer.massive_norm)])
        return found

    def training_states(self) -> dict[Site, TrainingState]:
        """Give each trainer's state, from which `restore` goes on."""
        return {site: trainer.state() for site, trainer in self.trainers.items()}

    def restore(self, training_states: Mapping[Site, TrainingState]) -> None:
        """Go on from what `training_states` gave."""
        for site, state in training_states.items():
            self.trainers[site].restore(state)

    def finish(
        self, parts: Mapping[Site, Mapping[str, Any]] | None = None, progress: Callable[[int], object] = ignored
    ) -> dict[Site, ITDA]:
        """Refine the dictionaries and return them."""
        given = parts or {}
        return {site: trainer.finish(progress, **given.get(site, {})) for site, trainer in self.trainers.items()}

    def found(self) -> dict[Site, int]:
        """After `finish`: count the atoms before the crop to a number."""
        return {site: trainer.found for site, trainer in self.trainers.items() if trainer.found is not None}

    def gram_rows(self) -> dict[Site, int | Literal["all"]]:
        """Say how many rows of its Gram matrix each site has memory for."""
        return {site: rows for site, trainer in self.trainers.items() if (rows := trainer.gram_rows) is not None}

    def close(self) -> None:
        """Do nothing: there is no process to end."""


def trainer_of(options: settings.Train, d_model: int, memory: int | None) -> DictionaryTrainer:
    """Make the trainer of one site from resolved settings. Raises `SettingError`."""
    if options.mode == "reference":
        assert options.threshold is not None
        return ReferenceTrainer(d_model, k=options.k, threshold=options.threshold)
    return Trainer(
        d_model,
        tokens=tokens_of(options),
        k=options.k,
        threshold=options.threshold,
        atoms=options.atoms,
        pursuit=options.pursuit or "mp",
        offset_tokens=options.offset or 0,
        passes=options.refine or 0,
        min_fidelity=options.min_fidelity or 0.0,
        recipe=options.recipe or 1,
        steps=options.steps,
        massive=None if options.massive in (None, "off") else options.massive,
        memory=memory,
        grow_on=options.grow_on,
    )
