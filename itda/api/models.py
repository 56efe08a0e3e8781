"""Language models for Python: loaded by name, or a transformers model that is in memory already."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from itda.errors import ModelError, SettingError
from itda.sources.models.base import ActivationModel
from itda.sources.models.named import without_bars
from itda.sources.models.transformers import LanguageModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_model(
    model: str | Path | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
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
    `tokenizer` and a `name` for the records: it stays on its device, in its dtype. `device` auto is a GPU where there
    is one; `dtype` auto is float32 on a CPU and the checkpoint's own elsewhere. With `stream`, or if the weights need
    more than `model_memory` bytes, the model is read block by block. Raises `ModelError`, `SettingError`.

    >>> import itda
    >>> lm = itda.load_model("tiny")
    >>> lm.layers, lm.d_model
    (6, 192)
    """
    if not isinstance(model, str | Path):
        if tokenizer is None:
            raise SettingError("a model of your own needs its tokenizer: load_model(model, tokenizer)")
        if stream or model_memory is not None:
            raise SettingError("a model that is in memory cannot be streamed: give its name or folder")
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


def any_model(model: str | Path | ActivationModel) -> ActivationModel:
    """Return a model as it is, or load it by its name."""
    return model if isinstance(model, ActivationModel) else load_model(model)
