"""What a user asks of steering, in multiples of typical coefficients, turned into an edit of activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from itda.core.dictionary import ITDA
from itda.core.intake import tensor_of
from itda.core.site import Site
from itda.core.steering import Edit, Number, check_atom, check_number
from itda.core.typical import Typical
from itda.errors import SettingError
from itda.sources.models.pass_tokens import ALL, At, Tokens
from itda.sources.models.transformers import LanguageModel
from itda.steering.steering import Steering, check_steerable

Atoms = int | Sequence[int] | None


@dataclass(frozen=True)
class Asked:
    """What is asked of steering: the arguments of `itda.steer` say what each means.

    >>> Asked.of(atom=[17, 40], strength=4).strengths
    (4.0, 4.0)
    """

    atoms: tuple[int, ...] = ()
    strengths: tuple[float, ...] = ()
    """One for each atom, and one for the direction, if there is one."""
    ablate: tuple[int, ...] = ()
    keep: tuple[int, ...] | None = None
    held: Mapping[int, Number] = field(default_factory=dict)
    direction: Any = None
    residual: bool = True
    tokens: Tokens = ALL

    @staticmethod
    def of(
        *,
        atom: Atoms = None,
        strength: Number | Sequence[Number] = 1.0,
        ablate: Atoms = None,
        keep: Atoms = None,
        held: Mapping[int, Number] | None = None,
        direction: Any = None,
        residual: bool = True,
        at: At = "all",
    ) -> Asked:
        """Take the arguments of a user. Raises `SettingError` for strengths that are no numbers, or not as many."""
        atoms = _several(atom)
        number = len(atoms) + (direction is not None)
        strengths = _strengths(strength, number)
        for each, value in (held or {}).items():
            check_number(f"the value of atom {each}", value)
        kept = _several(keep) if keep is not None else None
        return Asked(atoms, strengths, _several(ablate), kept, held or {}, direction, residual, Tokens.of(at))

    def steering(
        self, model: LanguageModel, dictionary: ITDA | None, site: Site, typical: Callable[[], Typical]
    ) -> Steering:
        """Return the steering that is asked for; `typical` is called if a strength needs a unit. Raises `ItdaError`."""
        if dictionary is not None:
            check_steerable(model, dictionary)
        elif self.direction is None:
            raise SettingError("there is nothing to steer by: give a dictionary with an atom, or a direction")
        pairs, held = self._of_atoms(dictionary)
        used = [atom for atom, value in (*pairs, *held.items()) if value]
        found = typical() if used else None
        unit = {atom: found.of(atom) for atom in used} if found is not None else {}
        add: dict[int, float] = {}
        for atom, value in pairs:
            add[atom] = add.get(atom, 0.0) + value * unit.get(atom, 0.0)
        hold = {atom: value * unit.get(atom, 0.0) for atom, value in held.items()}
        edit = Edit.of(
            dictionary,
            add=add,
            ablate=self.ablate,
            keep=self.keep,
            hold=hold,
            direction=self._vector(model),
            residual=self.residual,
        )
        return Steering(model, site, edit, self.tokens, unit)

    def _of_atoms(self, dictionary: ITDA | None) -> tuple[list[tuple[int, float]], dict[int, Number]]:
        """Return atoms to add with their strengths, and those to hold with their values, by their true numbers."""
        if dictionary is None:  # `Edit.of` says that there must be one
            return list(zip(self.atoms, self.strengths, strict=False)), dict(self.held)
        own = [check_atom(atom, len(dictionary)) for atom in self.atoms]
        held = {check_atom(atom, len(dictionary)): value for atom, value in self.held.items()}
        return list(zip(own, self.strengths, strict=False)), held

    def _vector(self, model: LanguageModel) -> Any:
        if self.direction is None:
            return None
        vector = tensor_of(self.direction, "a direction").double()
        if vector.shape != (model.d_model,):
            raise SettingError(f"a direction of shape {list(vector.shape)} for {model.name}: give [{model.d_model}]")
        return self.strengths[-1] * vector


def _several(given: Atoms) -> tuple[int, ...]:
    if given is None:
        return ()
    return (given,) if isinstance(given, int) else tuple(given)


def _strengths(given: Number | Sequence[Number], number: int) -> tuple[float, ...]:
    """Return a strength for each of so many atoms and directions. Raises `SettingError`."""
    if isinstance(given, Sequence):
        several = list(given)
    else:
        check_number("strength", given)  # also where nothing is added
        several = [given] * number
    for each in several:
        check_number("strength", each)
    if len(several) != number:
        raise SettingError(f"{len(several)} strengths for {number} atoms: give one for all, or one for each")
    return tuple(float(each) for each in several)
