"""What an atom says about the next token: its direction through the final norm and the unembedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from itda.core.batch import Site
from itda.core.dictionary import ITDA
from itda.explorer.contexts import rounded
from itda.sources.models.transformers import LanguageModel
from itda.sources.tokenizing.windows import Window

SHOWN = 10
SAMPLE, CHUNK = 256, 64
"""Atoms that make the average, and those whose logits are in memory at once."""
ROOM = 8
"""Tokens of the window that is run: any tokenizer's special ones and one more."""


@torch.inference_mode()
def direct_logits(model: LanguageModel, directions: Float[Tensor, "rows d_model"]) -> Float[Tensor, "rows vocabulary"]:
    """Next-token logits if the residual stream ended in these directions: the model's own final norm and unembedding.

    The directions stand in for the output of the last block, so whatever a family does after it (norm, scaling,
    capping) is done. They are scaled to entries of size 1 in the mean square, as what a norm gives: a norm does not
    see it but for its epsilon. Raises `ModelError` for a model without logits.
    """
    bare = model.windower(ROOM)
    ordinary = next(i for i in range(len(bare.special) + 1) if i not in bare.special)
    one = Window("", "", 0, 0, np.array([ordinary]), np.zeros((1, 2), np.int64))
    group = bare.group([one] * len(directions), len(directions))
    scale = directions.shape[1] ** 0.5 / directions.norm(dim=1, keepdim=True).clamp(min=1e-30)
    logits = model.logits(group, Site(model.layers - 1), lambda _: (directions * scale).to(model.model.device))
    return logits[group.is_activation.to(logits.device)].float().cpu()


def average_logits(model: LanguageModel, dictionary: ITDA) -> Float[Tensor, " vocabulary"]:
    """The mean of the centred logits of up to `SAMPLE` atoms, evenly spread over the dictionary."""
    some = torch.linspace(0, len(dictionary) - 1, min(SAMPLE, len(dictionary))).long()
    parts = [_centred(direct_logits(model, dictionary.atoms[part].float())) for part in some.split(CHUNK)]
    return torch.cat(parts).mean(dim=0)


def promoted(
    model: LanguageModel,
    dictionary: ITDA,
    atoms: Sequence[int],
    average: Float[Tensor, " vocabulary"],
    pieces: Mapping[int, str],
) -> list[dict[str, Any]]:
    """For each of some atoms, the next tokens that it promotes and suppresses: alone, and beside the average atom.

    Alone in log probability, in nats. Most atoms suppress the same rare tokens and promote the same common ones;
    beside the average of the atoms' logits stands what is an atom's own. `pieces` names the bytes of tokens that
    are not whole characters.
    """
    found = []
    for part in torch.tensor(list(atoms)).split(CHUNK):
        for logits in direct_logits(model, dictionary.atoms[part].float()):
            relative = _both_ends(model, _centred(logits[None])[0] - average, pieces)
            found.append({"relative": relative, "plain": _both_ends(model, logits.log_softmax(dim=0), pieces)})
    return found


def _centred(logits: Float[Tensor, "rows vocabulary"]) -> Float[Tensor, "rows vocabulary"]:
    # A constant added to all logits changes no probability.
    return logits - logits.mean(dim=1, keepdim=True)


def _both_ends(
    model: LanguageModel, values: Float[Tensor, " vocabulary"], pieces: Mapping[int, str]
) -> dict[str, list[list[Any]]]:
    known = min(len(model.tokenizer), len(values))  # an unembedding may be padded to more rows than there are tokens
    ends = values[:known].topk(min(SHOWN, known)), values[:known].topk(min(SHOWN, known), largest=False)
    return {
        name: [
            [model.tokenizer.decode([token]), rounded(value), pieces.get(token)]
            for token, value in zip(end.indices.tolist(), end.values.tolist(), strict=True)
        ]
        for name, end in zip(("promoted", "suppressed"), ends, strict=True)
    }
