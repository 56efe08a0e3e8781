"""What steering makes of an activation: atoms added, taken away, or held at a coefficient.

With c the code of an activation x, and atoms a_i, an `Edit` makes

    x' = x + sum_i (c'_i - c_i) a_i + push

where c'_i is the coefficient that atom i is held at, 0 for an atom that is removed, and c_i for the others; `push` is a
vector that is added as it is. What the code leaves over of x, its residual, stays. Without the residual it is

    x' = offset + sum_i c'_i a_i + push

An activation that nothing is changed of keeps its bits. Massive activations (`itda.core.massive`) are never changed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from itda.core.code import SparseCode
from itda.core.dictionary import ITDA, check_width
from itda.core.intake import check_finite, tensor_of
from itda.core.pursuit import decoded
from itda.errors import SettingError

Number = float | int


@dataclass(frozen=True, eq=False)
class Edit:
    """A change of the activations at one site. Immutable; call it with activations. Make one with `Edit.of`.

    >>> import torch, itda
    >>> labels = itda.Labels.of(*(itda.Label("essay", i, i, i + 1, i, "", "x", "") for i in range(3)))
    >>> dictionary = itda.ITDA(torch.eye(3), labels, k=2)
    >>> Edit.of(dictionary, add={0: 5.0}, ablate=[2])(torch.tensor([[1.0, 3.0, -4.0]])).tolist()
    [[6.0, 3.0, 0.0]]
    """

    dictionary: ITDA | None = None
    """The atoms; None where only a vector is added."""
    push: Float64[Tensor, " d_model"] | None = None
    """The vector that is added to every activation, held atoms included; None for no vector."""
    removed: Bool[Tensor, " atoms"] | None = None
    """True for the atoms whose share of the code is taken away, held ones among them; None for none."""
    residual: bool = True
    """False if what the code leaves over is dropped."""

    @staticmethod
    def of(
        dictionary: ITDA | None,
        *,
        add: Mapping[int, Number] | None = None,
        ablate: Collection[int] = (),
        keep: Collection[int] | None = None,
        hold: Mapping[int, Number] | None = None,
        direction: Tensor | None = None,
        residual: bool = True,
    ) -> Edit:
        """Make an edit that adds atoms by given amounts, removes or keeps some, and holds coefficients at values.

        `keep` removes all atoms but these and those held. `direction` is a vector that is added as it is. Amounts and
        values are coefficients of unit atoms, in the unit of the activations. Raises `SettingError` for an atom that is
        not there, what is not a finite number, and atoms that two things are asked of.
        """
        add, hold = dict(add or {}), dict(hold or {})
        _check_asked(dictionary, add, ablate, keep, hold, residual)
        for atom, amount in {**add, **hold}.items():
            check_number(f"the coefficient of atom {atom}", amount)
        push = _pushed(dictionary, {atom: amount for atom, amount in add.items() if amount != 0}, hold)
        if direction is not None:
            vector = _vector(direction, dictionary)
            if bool((vector != 0).any()):
                push = vector if push is None else push + vector
        return Edit(dictionary, push, _removed(dictionary, ablate, keep, hold), residual)

    @property
    def changes_nothing(self) -> bool:
        """True if every activation stays what it is, to the bit."""
        return self.push is None and self.removed is None and self.residual

    @property
    def reads_codes(self) -> bool:
        """True if activations must be encoded: what is added to one depends on its code."""
        return self.removed is not None or not self.residual

    def to(self, device: torch.device | str) -> Edit:
        """Return the edit with its tensors on a device."""
        return replace(
            self,
            dictionary=self.dictionary.to(device) if self.dictionary is not None else None,
            push=self.push.to(device) if self.push is not None else None,
            removed=self.removed.to(device) if self.removed is not None else None,
        )

    @torch.no_grad()
    def __call__(self, activations: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Return what becomes of activations [..., d_model], in their dtype: the same object if nothing is changed.

        Raises `ActivationError` for another width, and for activations to encode that are not finite.
        """
        if self.changes_nothing or activations.numel() == 0:
            return activations
        width = self.dictionary.d_model if self.dictionary is not None else len(self.push)  # pyright: ignore[reportArgumentType]
        check_width(activations, width)
        flat = activations.reshape(-1, width)
        made, changed = self._made(flat)
        if self.dictionary is not None and self.dictionary.massive_norm is not None:
            # What is not finite has no norm to compare, and a model that computes it goes its own way.
            changed = changed & ~self.dictionary.is_massive(torch.nan_to_num(flat))
        return torch.where(changed[:, None], made.to(flat.dtype), flat).reshape(activations.shape)

    def _made(
        self, x: Float[Tensor, "batch d_model"]
    ) -> tuple[Float64[Tensor, "batch d_model"], Bool[Tensor, " batch"]]:
        """Return edited activations, and True for those that differ by more than rounding."""
        code = self.dictionary.encode(x) if self.dictionary is not None and self.reads_codes else None
        every = torch.full((len(x),), self.push is not None or not self.residual, device=x.device)
        made = x.double()
        if code is not None and not self.residual:
            assert self.dictionary is not None
            made = self.dictionary.decode(self._kept(code)).double()
        elif code is not None:
            taken = self._taken(code)
            made = made - share(self._atoms, taken)
            every = every | (taken.coefficients != 0).any(dim=1)
        return (made + self.push.to(made) if self.push is not None else made), every

    @property
    def _atoms(self) -> Tensor:
        assert self.dictionary is not None
        return self.dictionary.atoms

    def _kept(self, code: SparseCode) -> SparseCode:
        gone = _marked(code, self.removed)
        return replace(code, coefficients=code.coefficients.masked_fill(gone, 0))

    def _taken(self, code: SparseCode) -> SparseCode:
        gone = _marked(code, self.removed)
        return replace(code, coefficients=code.coefficients.masked_fill(~gone, 0))


def share(atoms: Float[Tensor, "atoms d_model"], code: SparseCode) -> Float64[Tensor, "batch d_model"]:
    """Return the weighted sum of atoms of each code [batch, k], without an offset.

    >>> code = SparseCode(torch.tensor([[1, 0]]), torch.tensor([[2.0, 3.0]]), torch.tensor([2]))
    >>> share(torch.eye(2), code).tolist()
    [[3.0, 2.0]]
    """
    return decoded(code.coefficients.double(), atoms, code.indices)


def check_number(name: str, value: object) -> None:
    """Raises `SettingError` unless a value is a finite number.

    >>> check_number("strength", "much")
    Traceback (most recent call last):
    itda.errors.SettingError: strength is 'much': give a finite number
    """
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if not known or value != value or value in (float("inf"), float("-inf")):
        raise SettingError(f"{name} is {value!r}: give a finite number")


def check_atom(atom: object, atoms: int) -> int:
    """Return the number of an atom, -1 for the last. Raises `SettingError` if there is no such atom.

    >>> check_atom(-1, 8)
    7
    """
    if not isinstance(atom, int) or isinstance(atom, bool) or not -atoms <= atom < atoms:
        raise SettingError(f"no atom {atom!r}: the dictionary has {atoms}, use 0 to {atoms - 1} or -1")
    return atom % atoms


def _check_asked(
    dictionary: ITDA | None,
    add: Mapping[int, Number],
    ablate: Collection[int],
    keep: Collection[int] | None,
    hold: Mapping[int, Number],
    residual: bool,
) -> None:
    """Raises `SettingError` for atoms that are not there, or that two things are asked of."""
    asked = [*add, *ablate, *(keep or ()), *hold]
    if dictionary is None:
        if asked or keep is not None or not residual:
            raise SettingError("there are atoms to steer by and no dictionary: give the dictionary that has them")
        return
    if keep is not None and ablate:
        raise SettingError("atoms to keep and atoms to ablate: give one of the two lists")
    for atom in asked:
        check_atom(atom, len(dictionary))
    size = len(dictionary)
    both = {atom % size for atom in hold} & {atom % size for atom in (*ablate, *add)}
    if both:
        raise SettingError(f"atom {min(both)} is both set and added or ablated: choose one of the two")


def _pushed(dictionary: ITDA | None, *amounts: Mapping[int, Number]) -> Float64[Tensor, " d_model"] | None:
    """Return the sum of multiples of atoms; None if there is none to add."""
    pairs = [(atom, amount) for each in amounts for atom, amount in each.items() if amount != 0]
    if dictionary is None or not pairs:
        return None
    total = torch.zeros(dictionary.d_model, dtype=torch.float64, device=dictionary.atoms.device)
    for atom, amount in pairs:
        total += amount * dictionary.atoms[atom].double()
    return total


def _removed(
    dictionary: ITDA | None, ablate: Collection[int], keep: Collection[int] | None, hold: Mapping[int, Number]
) -> Bool[Tensor, " atoms"] | None:
    if dictionary is None:
        return None
    gone = torch.full((len(dictionary),), keep is not None, device=dictionary.atoms.device)
    for atom in keep or ():
        gone[atom] = False
    for atom in (*ablate, *hold):
        gone[atom] = True
    return gone if bool(gone.any()) else None


def _vector(direction: object, dictionary: ITDA | None) -> Float64[Tensor, " d_model"]:
    vector = tensor_of(direction, "a direction")
    if vector.ndim != 1:
        raise SettingError(f"a direction of shape {list(vector.shape)}: give one vector [d_model]")
    check_finite(vector[None], "direction")
    if dictionary is not None:
        check_width(vector, dictionary.d_model)
        vector = vector.to(dictionary.atoms.device)
    return vector.double()


def _marked(code: SparseCode, marks: Bool[Tensor, " atoms"] | None) -> Bool[Tensor, "batch k"]:
    """Return True for the entries of codes whose atoms are marked."""
    if marks is None:
        return torch.zeros_like(code.indices, dtype=torch.bool)
    within = torch.arange(code.k, device=code.indices.device) < code.count[:, None]
    return marks[code.indices.to(marks.device)].to(code.indices.device) & within
