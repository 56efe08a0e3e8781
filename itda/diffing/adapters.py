"""PEFT adapters, such as LoRA's: on a copy of their base model that nothing else uses."""

from __future__ import annotations

import json
import sys
import warnings
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from transformers.utils.hub import cached_file

from itda.errors import ModelError
from itda.sources.models.names import folder_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG = "adapter_config.json"
"""The file that an adapter has, and a model has not."""


def adapter_folder(name: str, revision: str | None = None) -> Path | None:
    """Return the folder of an adapter, given its path or Hub id; None for the name of a model.

    Raises `ModelError` for a path that is not there.
    """
    path = folder_of(name)
    if path is not None:
        return path if path.is_dir() and (path / CONFIG).exists() else None
    if not _may_be_on_the_hub(name, revision):
        return None
    flags = ("gated_repo", "missing_entries", "connection_errors")
    quiet: dict[str, Any] = {f"_raise_exceptions_for_{flag}": False for flag in flags}
    with suppress(Exception):  # what is wrong is told when it is loaded as a model
        found = cached_file(name, CONFIG, revision=revision, **quiet)
        return Path(found).parent if found is not None else None
    return None


def _may_be_on_the_hub(name: str, revision: str | None) -> bool:
    """Return False if the Hub need not be asked: the repository is here, and it is a model's."""
    with suppress(Exception):
        return cached_file(name, "config.json", revision=revision, local_files_only=True) is None
    return True


def base_of(folder: Path) -> str | None:
    """Return the name of the model that an adapter was made for, as it says itself."""
    with suppress(OSError, ValueError, AttributeError):
        found = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")
        return str(found) if found else None
    return None


def check_peft() -> None:
    """Raises `ModelError` without the package that reads adapters."""
    if find_spec("peft") is None:
        raise ModelError("reading an adapter needs peft: pip install 'itda[peft]'")


def with_adapter(model: PreTrainedModel, name: str, folder: Path, *, base: str, merge: bool = True) -> PreTrainedModel:
    """Return a model with an adapter in it. The model itself is changed: give one that nothing else uses.

    With `merge` the adapter's product is added to the weights; else its modules run beside them. `name` is the
    adapter's name for messages, and `base` the model's. Raises `ModelError` for an adapter of another base.
    """
    check_peft()
    import peft

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = peft.PeftConfig.from_pretrained(str(folder))
            if config.is_prompt_learning or config.peft_type is None:
                raise ModelError(f"{name} is no adapter of weights but a learned prompt: name one of LoRA's kind")
            config.inference_mode = True
            adapted = peft.get_peft_model(model, config)
            weights = peft.load_peft_weights(str(folder), device="cpu")
            found: Any = peft.set_peft_model_state_dict(adapted, weights)
            missing = [key for key in found.missing_keys if ".default" in key]
            if wrong := [*found.unexpected_keys, *missing]:
                _refuse(name, folder, base, f"no place for {wrong[0]}" if found.unexpected_keys else f"no {wrong[0]}")
            adapted.eval()
            inner: Any = adapted.merge_and_unload() if merge else adapted.get_base_model()
    except ModelError:
        raise
    except Exception as error:  # peft raises whatever its kinds of adapters raise
        reason = str(error).strip().splitlines() or [type(error).__name__]
        _refuse(name, folder, base, reason[-1].strip())
    return inner.eval()


def _refuse(name: str, folder: Path, base: str, why: str) -> NoReturn:
    made_for = base_of(folder)
    remedy = f"name its own base, {made_for}" if made_for not in (None, base) else "name the base it was made for"
    raise ModelError(f"the adapter {name} does not fit {base} ({why[:160]}): {remedy}")


def own_module(model: Any) -> PreTrainedModel | None:
    """Return the transformers model that a PEFT model in memory wraps; None for anything else.

    Raises `ModelError` for a learned prompt, which is not in the model itself.
    """
    peft = sys.modules.get("peft")  # whoever has such a model has imported it
    if peft is None or not isinstance(model, peft.PeftModel):
        return None
    if model.active_peft_config.is_prompt_learning:
        raise ModelError("the PEFT model is a learned prompt, which changes no weights: give one of LoRA's kind")
    return model.get_base_model()  # pyright: ignore[reportReturnType]


def has_adapter(module: Any) -> bool:
    """Return True if a model in memory has the modules of an adapter in it."""
    peft = sys.modules.get("peft")
    if peft is None:
        return False
    from peft.tuners.tuners_utils import BaseTunerLayer

    return any(isinstance(each, BaseTunerLayer) for each in module.modules())
