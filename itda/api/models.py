"""Language models for Python: loaded by name, or a transformers model that is in memory already."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itda.errors import ModelError, SettingError
from itda.sources.models.base import ActivationModel
from itda.sources.models.named import without_bars
from itda.sources.models.transformers import LanguageModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_model(
    model: str | Path | PreTrainedModel | Any,  # Any: a model of nnsight, which need not be installed
    tokenizer: PreTrainedTokenizerBase | Any | None = None,  # Any: another object is refused in one clear line
    *,
    name: str = "model",
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    trust_remote_code: bool = False,
    stream: bool = False,
    model_memory: int | None = None,
) -> ActivationModel:
    """Load a language model whose activations can be read and replaced.

    `model` is a Hub id, a folder, a GGUF file, or `tiny` (bundled); or a transformers model of your own, with its
    `tokenizer` and a `name` for the records: it stays on its device, in its dtype. Of an nnsight model, the model that
    it wraps is taken, with its tokenizer. `device` auto is a GPU if there is one; `dtype` auto is float32 on a CPU and
    the checkpoint's own elsewhere. With `stream`, or if the weights need more than `model_memory` bytes, the model is
    read block by block. Raises `ModelError`, `SettingError`.

    >>> import itda
    >>> lm = itda.load_model("tiny")
    >>> lm.layers, lm.d_model
    (6, 192)
    """
    if not isinstance(model, str | Path):
        model, tokenizer, name = without_nnsight(model, tokenizer, name)
        if tokenizer is None:
            raise SettingError("a model of your own needs its tokenizer: load_model(model, tokenizer)")
        if stream or model_memory is not None:
            raise SettingError("a model that is in memory cannot be read block by block: give its name or folder")
        return own_model(model, tokenizer, name)
    if tokenizer is not None:
        raise SettingError("a model that is found by name brings its tokenizer: leave out yours")
    from itda import config as settings
    from itda.recipes.activation_source import model_loader

    options = settings.Harvest(
        model=str(model),
        layers=(),
        corpus="",
        out=Path(),
        device=device,
        dtype=dtype,  # pyright: ignore[reportArgumentType] - checked where it is loaded
        trust_remote_code=trust_remote_code,
        stream=stream,
        model_memory=model_memory,
    )
    with without_bars():
        return model_loader(str(model), options, revision, head=True)()


def own_model(model: Any, tokenizer: Any, name: str) -> LanguageModel:
    """Wrap a transformers model that is in memory. Raises `ModelError` for what is not one."""
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    if not isinstance(model, PreTrainedModel) or not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ModelError(
            f"a {type(model).__name__} with a {type(tokenizer).__name__}: give a transformers model and its tokenizer"
        )
    return LanguageModel(model, tokenizer, name)


def without_nnsight(model: Any, tokenizer: Any, name: str) -> tuple[Any, Any, str]:
    """Return the model that nnsight wraps, its tokenizer and its name unless one is given; another model as it is.

    Weights that nnsight has not loaded yet are loaded. The model itself stays as it is; its tokenizer is copied.
    """
    nnsight = sys.modules.get("nnsight")  # whoever has such a model has imported it
    if nnsight is None or not isinstance(model, nnsight.Envoy):
        return model, tokenizer, name
    if not getattr(model, "dispatched", True):
        model.dispatch()
    own, repository = getattr(model, "tokenizer", None), getattr(model, "repo_id", None)
    if tokenizer is None and own is not None:
        tokenizer = copy.deepcopy(own)
        tokenizer.padding_side = "right"  # nnsight's is the left
    return model._module, tokenizer, str(repository) if repository and name == "model" else name


def any_model(model: str | Path | ActivationModel) -> ActivationModel:
    """Return a model as it is, or load it by its name."""
    return model if isinstance(model, ActivationModel) else load_model(model)
