"""A model beside itself: untouched, steered, and steered by random atoms instead, at several strengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from itda.core.dictionary import ITDA
from itda.core.labels import Label
from itda.core.massive import norms
from itda.core.site import Site
from itda.core.steering import Edit
from itda.core.typical import Typical
from itda.errors import SettingError
from itda.sources.models.generation import Prompt, prompt_ids
from itda.sources.models.hooks import evaluating, hooked
from itda.sources.models.transformers import LanguageModel
from itda.sources.tokenizing.special import Bos
from itda.steering.asking import Asked
from itda.steering.controls import matched_atoms, nearest_in
from itda.steering.next_token import NextToken, kl_of
from itda.steering.steering import Steering


@dataclass(frozen=True)
class Continuation:
    """What a model makes of a prompt."""

    text: str
    """What it writes."""
    next_token: NextToken
    """The change of the next token after the prompt, from the untouched model."""


@dataclass(frozen=True)
class Way:
    """One way to steer, beside its control."""

    strength: float | None
    """In typical coefficients; None if nothing is added."""
    push: float
    """The length of the vector that is added."""
    steered: Continuation
    control: Continuation
    """The first of the controls."""
    control_atoms: tuple[tuple[int, ...], ...]
    """The atoms of each control, one for each that is added, then one for each that is ablated."""
    control_kl: tuple[float, ...]
    """KL(untouched || control) of the next token, for each control."""

    @property
    def beyond(self) -> int:
        """Number of controls that change the next token less than steering does."""
        return sum(kl < self.steered.next_token.kl for kl in self.control_kl)


@dataclass(frozen=True)
class Steered:
    """A prompt that a model goes on with: untouched, steered, and steered by random atoms instead."""

    site: Site
    prompt: str
    atoms: tuple[int, ...]
    ablate: tuple[int, ...]
    labels: tuple[Label, ...]
    """The labels of the atoms, those that are added first."""
    unit: tuple[float, ...]
    """The typical coefficient of each atom that is added: strength 1."""
    source: str
    """What typical coefficients and uses were found in."""
    norm: float
    """The median norm of the prompt's activations at the site."""
    untouched: str
    """What the model writes by itself."""
    ways: tuple[Way, ...]


@dataclass(frozen=True)
class Settings:
    """How a prompt is gone on with: see `LanguageModel.generate`."""

    tokens: int = 40
    seed: int | None = None
    chat: bool = False
    bos: Bos = "auto"
    options: dict[str, Any] = field(default_factory=dict)
    controls: int = 8
    """Number of controls; the text of the first one is shown."""
    control_seed: int = 0
    top: int = 5
    """Tokens promoted and suppressed to list."""


def steer_beside(
    lm: LanguageModel,
    dictionary: ITDA,
    site: Site,
    prompt: Prompt,
    asked: Asked,
    strengths: Sequence[float],
    typical: Typical,
    settings: Settings,
) -> Steered:
    """Go on with a prompt untouched, steered at each strength, and by controls; atoms and ablation are `asked` for.

    Raises an `ItdaError` for what cannot be steered.
    """
    if not asked.atoms and not asked.ablate:
        raise SettingError("there is nothing to steer by: name an atom to add, or one to ablate")
    if settings.controls < 1:
        raise SettingError(f"{settings.controls} controls: compare with at least 1")
    if asked.atoms and not strengths:
        raise SettingError("there is no strength to add the atom with: give one, such as 4")
    untouched = written(lm, prompt, settings)
    writer = Writer(lm, site, prompt, settings, typical)
    energy = writer.energies(dictionary)
    ways = []
    for strength in strengths if asked.atoms else (None,):
        own = replace(asked, strengths=(strength,) * len(asked.atoms) if strength is not None else ())
        steering = own.steering(lm, dictionary, site, lambda: typical)
        ways.append(writer.way(steering, dictionary, own, strength, energy))
    numbers = [number % len(dictionary) for number in (*asked.atoms, *asked.ablate)]
    return Steered(
        site=site,
        prompt=prompt if isinstance(prompt, str) else "\n".join(f"{m['role']}: {m['content']}" for m in prompt),
        atoms=tuple(numbers[: len(asked.atoms)]),
        ablate=tuple(numbers[len(asked.atoms) :]),
        labels=tuple(dictionary.labels[number] for number in numbers),
        unit=tuple(typical.of(number) for number in numbers[: len(asked.atoms)]),
        source=typical.source,
        norm=writer.norm,
        untouched=untouched,
        ways=tuple(ways),
    )


def written(lm: LanguageModel, prompt: Prompt, settings: Settings, **more: Any) -> str:
    """Return what a model writes after a prompt, as it is now; `more` are options of `generate`. Raises `ItdaError`."""
    s = settings
    options = {**s.options, **more}
    return lm.generate(prompt, max_new_tokens=s.tokens, seed=s.seed, chat=s.chat, bos=s.bos, **options)


class Writer:
    """A prompt at a site of a model: the next token as it is, and how steering and its controls change it.

    >>> from itda.core.typical import Typical
    >>> none = Typical(np.zeros(0, dtype=np.int64), lambda atom: np.zeros(0))
    >>> writer = Writer(LanguageModel.load("tiny"), Site(3), "import os", Settings(), none)
    >>> writer.activations.shape
    torch.Size([3, 192])
    """

    def __init__(self, lm: LanguageModel, site: Site, prompt: Prompt, settings: Settings, typical: Typical) -> None:
        self.lm, self.site, self.prompt, self.settings, self.typical = lm, site, prompt, settings, typical
        ids = prompt_ids(lm, prompt, chat=settings.chat, bos=settings.bos)
        self.ids = torch.tensor([ids], device=lm.model.device)
        seen: list[Tensor] = []
        place = lm.places([site])[site]
        read = lambda output: seen.append(place.read(output, self.ids.shape, lm.d_model))  # noqa: E731
        with hooked([(place.module, read)]):
            self.clean = self.logits()
        self.activations = seen[0][0]
        self.norm = norms(self.activations).median().item()

    @torch.inference_mode()
    def logits(self) -> Float[Tensor, " vocabulary"]:
        """Return the logits of the token after the prompt, as the model is now."""
        with evaluating(self.lm.model):
            made = self.lm.model(input_ids=self.ids, attention_mask=torch.ones_like(self.ids), use_cache=False)
        return made.logits[0, -1].float().cpu()

    def energies(self, dictionary: ITDA) -> np.ndarray:
        """Return, for each atom, the sum of its squared coefficients in the prompt's codes, massive ones left out."""
        x = self.activations.to(dictionary.atoms.device)
        code = dictionary.encode(x[~dictionary.is_massive(x)])
        return code.dense(len(dictionary)).double().square().sum(dim=0).cpu().numpy()

    def way(
        self, steering: Steering, dictionary: ITDA, asked: Asked, strength: float | None, energy: np.ndarray
    ) -> Way:
        """Go on with the prompt steered, and by the controls."""
        controls = self.controls(dictionary, asked, energy)
        others = [self.control(steering, dictionary, asked, each) for each in controls]
        kls = tuple(self.kl(other) for other in others)
        own, other = self._gone_on(steering), self._gone_on(others[0])
        return Way(strength, length_of(steering), own, other, tuple(map(tuple, controls)), kls)

    def _gone_on(self, steering: Steering) -> Continuation:
        with steering:
            text = written(self.lm, self.prompt, self.settings)
        return Continuation(text, self.change(steering, lambda token: str(self.lm.tokenizer.decode([token]))))

    def change(self, steering: Steering, show: Callable[[int], str]) -> NextToken:
        """Return how steering changes the next token; `show` returns what a token is called."""
        with steering:
            return NextToken.between(self.clean, self.logits(), show, self.settings.top)

    def kl(self, steering: Steering) -> float:
        """Return KL(untouched || steered) of the next token, in nats."""
        with steering:
            return kl_of(self.clean, self.logits())

    def controls(self, dictionary: ITDA, asked: Asked, energy: np.ndarray | None = None) -> list[list[int]]:
        """Draw controls: as often used as an atom that is added, as strong in the prompt as one that is ablated.

        `energy` is that of `energies`, which is only needed where atoms are ablated. Raises `SettingError` for fewer
        other atoms than controls.
        """
        number, seed = self.settings.controls, self.settings.control_seed
        own = [atom % len(dictionary) for atom in (*asked.atoms, *asked.ablate)]
        columns: list[list[int]] = []
        for place, atom in enumerate(own):
            without = {*own, *(each for column in columns for each in column)}
            if place < len(asked.atoms):
                columns.append(matched_atoms(self.typical.uses, atom, number, seed, without))
            else:
                energy = self.energies(dictionary) if energy is None else energy
                used = np.flatnonzero(energy == 0)  # an atom that the prompt's codes lack is no control
                without |= set(used.tolist()) if np.count_nonzero(energy) > number + len(without) else set()
                columns.append(nearest_in(energy, atom, number, seed, without))
        return [list(row) for row in zip(*columns, strict=True)]

    def control(self, steering: Steering, dictionary: ITDA, asked: Asked, atoms: Sequence[int]) -> Steering:
        """Return the steering by a control's atoms, which goes as far as the one that it is the control of."""
        length = length_of(steering)
        added, ablated = atoms[: len(asked.atoms)], atoms[len(asked.atoms) :]
        vector = None
        if length:
            weights = [steering.unit[atom % len(dictionary)] for atom in asked.atoms]
            parts = [w * dictionary.atoms[a].double() for w, a in zip(weights, added, strict=True)]
            vector = torch.stack(parts).sum(dim=0)
            vector = vector * (length / vector.norm())  # as far as the steered activations are pushed
        edit = Edit.of(dictionary, direction=vector, ablate=list(ablated))
        return Steering(self.lm, self.site, edit, steering.tokens)


def length_of(steering: Steering) -> float:
    """Return the length of the vector that steering adds; 0 if it adds none."""
    push = steering.edit.push
    return push.norm().item() if push is not None else 0.0
