"""The next tokens that an atom promotes: its direction, put through the model's final norm and unembedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from itda.core.dictionary import ITDA
from itda.explorer.contexts import rounded
from itda.sources.models.transformers import LanguageModel
from itda.sources.unembedding import direct_logits

SHOWN = 10
"""Tokens shown at each end: those promoted most and those suppressed most."""
SAMPLE, CHUNK = 256, 64
"""Atoms that the average is over, and atoms whose logits are in memory at once."""


def average_logits(model: LanguageModel, dictionary: ITDA) -> Float[Tensor, " vocabulary"]:
    """Return the mean of the centred logits of up to `SAMPLE` atoms, evenly spread over the dictionary."""
    some = torch.linspace(0, len(dictionary) - 1, min(SAMPLE, len(dictionary))).long()
    parts = [_centred(direct_logits(model, dictionary.atoms[part].float())) for part in some.split(CHUNK)]
    return torch.cat(parts).mean(dim=0)


def promoted(
    model: LanguageModel,
    dictionary: ITDA,
    atoms: Sequence[int],
    average: Float[Tensor, " vocabulary"],
    byte_strings: Mapping[int, str],
) -> list[dict[str, Any]]:
    """Return for each atom the next tokens that it promotes and suppresses most, in two ways.

    "plain" has log probabilities, in nats. Most atoms suppress the same rare tokens and promote the same common ones;
    "relative" has the atom's logits less the `average` of many atoms, which shows what is the atom's own.
    `byte_strings` has, by token id, the bytes of tokens that are not whole characters.
    """
    found = []
    for part in torch.tensor(list(atoms)).split(CHUNK):
        for logits in direct_logits(model, dictionary.atoms[part].float()):
            relative = _both_ends(model, _centred(logits[None])[0] - average, byte_strings)
            found.append({"relative": relative, "plain": _both_ends(model, logits.log_softmax(dim=0), byte_strings)})
    return found


def _centred(logits: Float[Tensor, "rows vocabulary"]) -> Float[Tensor, "rows vocabulary"]:
    # A constant added to all logits changes no probability.
    return logits - logits.mean(dim=1, keepdim=True)


def _both_ends(
    model: LanguageModel, values: Float[Tensor, " vocabulary"], byte_strings: Mapping[int, str]
) -> dict[str, list[list[Any]]]:
    known = min(len(model.tokenizer), len(values))  # an unembedding may be padded to more rows than there are tokens
    ends = values[:known].topk(min(SHOWN, known)), values[:known].topk(min(SHOWN, known), largest=False)
    return {
        name: [
            [model.tokenizer.decode([token]), rounded(value), byte_strings.get(token)]
            for token, value in zip(end.indices.tolist(), end.values.tolist(), strict=True)
        ]
        for name, end in zip(("promoted", "suppressed"), ends, strict=True)
    }
