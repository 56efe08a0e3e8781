"""The activations of a text that somebody types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from itda.core.batch import Site
from itda.core.labels import Labels
from itda.errors import SettingError
from itda.sources.corpora.corpus import Document
from itda.sources.models.base import ActivationModel
from itda.sources.tokenizing.special import Bos


def read_prompt(
    model: ActivationModel, text: str, sites: Sequence[Site], window: int, batch_size: int = 1, bos: Bos = "auto"
) -> tuple[Labels, Mapping[Site, Float[Tensor, "tokens d_model"]]]:
    """Read a text that fits into one window; return its tokens, as labels of a document `prompt`, and activations.

    The model runs in the shape it was trained in where the text fits, so that a prompt of the training corpus gives
    the very activations that were its atoms. Raises `SettingError` for no text, one of special tokens
    alone, or more than the model reads.
    """
    if not text.strip():
        raise SettingError("there is no text: give one in quotes")
    document = Document("prompt", text)
    windower = model.windower(window, bos)
    windows = windower.windows(document)
    if len(windows) > 1:
        length, room = sum(len(w.token_ids) for w in windows), (model.context or window) - windower.window
        if length > windower.content + room:
            raise SettingError(
                f"the text has {length} tokens and the model reads at most {windower.content + room}: shorten it"
            )
        windower = model.windower(windower.window - windower.content + length, bos)
        windows = windower.windows(document)
    group = windower.group(windows, batch_size)
    if not group.is_activation.any():
        raise SettingError("the text has only special tokens, which have no activations here: add some words")
    found = {site: x.cpu() for _, part in model.harvest([group], sites) for site, x in part.items()}
    return group.labels(), {site: found[site] for site in sites}


def read_windows(
    model: ActivationModel, text: str, sites: Sequence[Site], window: int, batch_size: int = 1, bos: Bos = "auto"
) -> tuple[Labels, Mapping[Site, Float[Tensor, "tokens d_model"]], list[int]]:
    """Read a text of any length: in one window where it fits, as `read_prompt`, else in windows as a corpus is read.

    Returns also the numbers of the tokens at which windows begin. Raises `SettingError` for no text, or one of special
    tokens alone.
    """
    windower = model.windower(window, bos)
    windows = windower.windows(Document("prompt", text)) if text.strip() else []
    if sum(len(each.token_ids) for each in windows) <= windower.content + (model.context or window) - windower.window:
        return *read_prompt(model, text, sites, window, batch_size, bos), [0]
    groups = list(windower.groups([Document("prompt", text)], batch_size))
    labels = [group.labels() for group in groups]
    found: dict[Site, list[Tensor]] = {site: [] for site in sites}
    for _, part in model.harvest(groups, sites):
        for site, x in part.items():
            found[site].append(x.cpu())
    every = Labels.concatenate(labels)
    if not len(every):
        raise SettingError("the text has only special tokens, which have no activations here: add some words")
    starts = [0, *(row for row in range(1, len(every)) if every.window_start[row] != every.window_start[row - 1])]
    return every, {site: torch.cat(parts) for site, parts in found.items()}, starts
