"""A text that somebody types, read by the model and taken apart: its codes, and what else is known of its tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from itda.core.code import SparseCode
from itda.core.dictionary import ITDA, target_of
from itda.core.labels import Labels
from itda.core.massive import massive_medians
from itda.explorer.contexts import rounded, text_window
from itda.explorer.run_cache import IndexedDictionary

BESIDE = 8
"""Nearest atoms and strongest features that are shown beside the code of a token, at most."""


def prompt_values(
    dictionary: IndexedDictionary,
    labels: Labels,
    x: Float[Tensor, "tokens d_model"],
    code: SparseCode,
    error: Sequence[float],
    byte_strings: Mapping[int, str],
) -> dict[str, Any]:
    """Return a text as a page shows it, given the activations of its tokens and their codes."""
    ids = labels.token_id.tolist()
    partial = {place: byte_strings[token] for place, token in enumerate(ids) if token in byte_strings}
    medians = massive_medians(x, dictionary.itda.massive_norm)
    massive = {place: each for place, each in enumerate(medians) if each is not None}
    return text_window(dictionary, [label.token for label in labels], partial, code, error, massive)


def beside(dictionary: IndexedDictionary, x: Float[Tensor, "tokens d_model"]) -> dict[str, Any]:
    """Return for each token the nearest atoms by the cosine and, where they are fitted, the features that fire.

    Each as `[atoms, numbers]`, with the texts of the atoms under `labels`.
    """
    itda = dictionary.itda
    top = min(BESIDE, itda.k, len(itda))
    found = itda.similarity(x, top=top)
    assert isinstance(found, SparseCode)
    codes = {"similarity": found}
    if itda.feature_encoder is not None:
        codes["features"] = itda.features(x, top=top)
    values = {name: _rows(code) for name, code in codes.items()}
    atoms = sorted({atom for rows in values.values() for ids, _ in rows for atom in ids})
    return {
        **values,
        "labels": {str(atom): dictionary.shown_of(atom) for atom in atoms},
        "unreplicated": [atom for atom in atoms if dictionary.no_finding(atom)],
    }


def _rows(code: SparseCode) -> list[list[list[Any]]]:
    return [
        [code.indices[row, :count].tolist(), [rounded(value) for value in code.coefficients[row, :count].tolist()]]
        for row, count in enumerate(code.count.tolist())
    ]


def one_atom(dictionary: IndexedDictionary, x: Float[Tensor, "tokens d_model"], atom: int) -> dict[str, Any]:
    """Return the cosine of every token to one atom and, where features are fitted, the score of its detector."""
    itda = dictionary.itda
    return {
        "atom": atom,
        "text": dictionary.shown_of(atom),
        "cosine": [rounded(value) for value in cosines_to(itda, x, atom).tolist()],
        "score": None
        if itda.feature_encoder is None
        else [rounded(value) for value in scores_of(itda, x, atom).tolist()],
    }


def cosines_to(itda: ITDA, x: Float[Tensor, "tokens d_model"], atom: int) -> Float[Tensor, " tokens"]:
    """Return the cosine of each activation, after the offset, to one atom."""
    targets = target_of(x, itda.d_model, itda.offset).float()
    return torch.nn.functional.cosine_similarity(targets, itda.atoms[atom][None], dim=1)


def scores_of(itda: ITDA, x: Float[Tensor, "tokens d_model"], atom: int) -> Float[Tensor, " tokens"]:
    """Return the score of one atom's detector at each activation, in standard deviations."""
    assert itda.feature_encoder is not None
    encoder = itda.feature_encoder
    return encoder.scale * ((x.float() - encoder.mean) @ encoder.detectors[atom])
