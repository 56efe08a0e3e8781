"""Transported dictionaries: the labels of one model's dictionary, read in another model.

A label names a token of a document, so any model that has read the document has an activation there. The labels of A's
atoms, with B's activations, are a dictionary of B whose atoms stand opposite to A's one by one, with no alignment of
the two spaces. It costs what reading those activations costs, and more than comparing labels does.
"""

from dataclasses import replace

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from itda.core.dictionary import ITDA, UNKNOWN, check_width, target_of
from itda.errors import SettingError


def transported(
    dictionary: ITDA, activations: Float[Tensor, "atoms width"], offset: Float[Tensor, " width"] | None = None
) -> ITDA:
    """Return a dictionary with the labels of another one and the `activations` [atoms, width] of a site there.

    `offset` is that of the other site. Raises `SettingError` for other numbers of atoms, and where an activation is
    the offset itself, which makes no atom.

    >>> import itda, torch
    >>> labels = itda.Labels.of(*(itda.Label("essay", i, i, i + 1, i, "", "x", "") for i in range(2)))
    >>> dictionary = itda.ITDA(torch.eye(2), labels, k=1)
    >>> transported(dictionary, torch.tensor([[0.0, 0.0, 5.0], [3.0, 4.0, 0.0]])).atoms.shape
    torch.Size([2, 3])
    """
    if len(activations) != len(dictionary):
        raise SettingError(f"{len(activations)} activations for {len(dictionary)} atoms: give one at each label")
    z = target_of(activations, activations.shape[1], offset).double()
    norms = z.norm(dim=1, keepdim=True)
    if not bool((norms > 0).all()):
        raise SettingError("an activation is zero after the offset: leave out its label")
    return replace(
        dictionary,
        atoms=(z / norms).float(),
        offset=offset,
        site=None,
        **UNKNOWN,
    )


def agreement(a: Float64[Tensor, " tokens"], b: Float64[Tensor, " tokens"]) -> float:
    """Return Pearson's correlation of the errors that two dictionaries make on the same tokens.

    High where the two find the same tokens hard, dictionaries of different widths and models included.
    Raises `SettingError` where an error does not vary.
    """
    left, right = a - a.mean(), b - b.mean()
    norm = (left.square().sum() * right.square().sum()).sqrt()
    if not norm > 0:
        raise SettingError("the errors do not vary: compare more tokens")
    return float((left * right).sum() / norm)


def soft_overlap(a: ITDA, activations: Float[Tensor, "labels width"]) -> float:
    """Average, over labels of another dictionary, the largest |cosine| of `a`'s own activation there to its atoms.

    A label that `a` has counts 1; one that it has not counts by how near its nearest atom is.
    """
    check_width(activations, a.d_model)
    z = torch.nn.functional.normalize(target_of(activations, a.d_model, a.offset).double(), dim=1)
    nearest = [(part @ a.atoms.double().T).abs().amax(dim=1) for part in z.split(1024)]
    return float(torch.cat(nearest).mean())
