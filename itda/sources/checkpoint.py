"""Models by name: a Hub id, a local folder, or the bundled one; transformers loads them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.hub import cached_file

from itda.errors import ItdaError, ModelError, SettingError
from itda.sources.gguf_header import GgufHeader
from itda.sources.identity import COMMIT, commit_of, files_of, fingerprint
from itda.sources.names import GGUF, folder_of, gguf_of

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Checkpoint:
    """Where a model comes from, and how it is to be loaded."""

    name: str
    source: str
    """What transformers calls it: a folder or a Hub id."""
    device: str
    dtype: torch.dtype | str
    revision: str | None
    trust_remote_code: bool
    gguf: str | None = None
    """The file in it that holds the model, if it is in GGUF."""

    @staticmethod
    def named(
        name: str,
        *,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        trust_remote_code: bool = False,
    ) -> Checkpoint:
        """A Hub id, a local folder, a file in GGUF (owner/name:file.gguf on the Hub), or `tiny`, the bundled model.

        `device` auto is a GPU where there is one; `dtype` auto is float32 on a CPU and the checkpoint's own elsewhere.
        Raises `ModelError` for a folder or a file that is not there, or holds several models, `SettingError` for an
        unknown dtype.
        """
        path = folder_of(name)
        if path is not None and not path.is_absolute() and name != "tiny" and COMMIT.fullmatch(revision or ""):
            raise ModelError(
                f"{name} at {revision} is a model of the Hub, and the folder {path.absolute()} is in its way: "
                "rename that, or run itda elsewhere"
            )
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if dtype not in ("auto", *DTYPES):
            raise SettingError(f"no dtype {dtype!r}: use auto, {', '.join(DTYPES)}")
        chosen = DTYPES.get(dtype, torch.float32 if device == "cpu" else "auto")
        if path is not None and path.is_file() and path.suffix.lower() != GGUF:
            raise ModelError(f"{name} is a file: name the folder that holds the model, or a file in GGUF")
        source, gguf = gguf_of(name) or (str(path) if path is not None else name, None)
        return Checkpoint(name, source, device, chosen, revision, trust_remote_code, gguf)

    @cached_property
    def commit(self) -> str | None:
        """The commit of a model from the Hub: the one of now, if none was asked for. None for a local folder.

        Raises `ModelError` where it cannot be known, and what transformers raises for a model that is not there.
        """
        if Path(self.source).exists():
            return None
        file = cached_file(self.source, self.gguf or "config.json", revision=self.revision)
        commit = commit_of(file) if file is not None else None
        if commit is None:
            raise ModelError(
                f"cannot tell which commit of {self.name} this is ({file}): download it into a folder and name that"
            )
        return commit

    @property
    def _options(self) -> dict[str, Any]:
        # All parts of one commit, even if the branch moves meanwhile.
        named = {"revision": self.commit, "trust_remote_code": self.trust_remote_code}
        return {**named, "gguf_file": self.gguf} if self.gguf is not None else named

    @cached_property
    def file(self) -> Path | None:
        """The file in GGUF, on this machine; None for another form."""
        if self.gguf is None:
            return None
        found = cached_file(self.source, self.gguf, revision=self.commit)
        return Path(found) if found is not None else None

    def config(self) -> Any:
        """Its configuration."""
        if self.file is not None:
            GgufHeader.read(self.file)  # one that is cut short is to be known now, and said in our words
        return AutoConfig.from_pretrained(self.source, **self._options)

    def model(self) -> PreTrainedModel:
        """The model, on the CPU; with its head if it predicts the next token."""
        config = self.config()
        if self.file is not None:
            causal = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
            options = {**self._options, "config": config, **_dequantised()}
        else:
            causal = any("CausalLM" in a or "LMHead" in a for a in config.architectures or [])
            options = self._options
        loader = AutoModelForCausalLM if causal else AutoModel
        with _quiet():
            return loader.from_pretrained(self.source, dtype=self.dtype, **options)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer."""
        return AutoTokenizer.from_pretrained(self.source, **self._options)

    def fingerprint(self) -> str | None:
        """Tells other files of a local model from these: `itda.sources.identity`. None for a Hub id.

        A Hub id is told by its commit.
        """
        folder = Path(self.source)
        if self.gguf is not None and folder.is_dir():
            return fingerprint([folder / self.gguf])
        return fingerprint(files_of(folder)) if folder.is_dir() else None

    def quantisation(self) -> str | None:
        """How the weights were made smaller, in words; None if they were not, as far as the checkpoint says."""
        if self.file is not None:
            return GgufHeader.read(self.file).quantisation
        made = getattr(self.config(), "quantization_config", None)
        if made is None:
            return None
        values = made if isinstance(made, dict) else made.to_dict()
        bits = values.get("bits") or (4 if values.get("load_in_4bit") else 8 if values.get("load_in_8bit") else None)
        return f"{values.get('quant_method', 'quantised')}{f', {bits} bits' if bits else ''}"

    def bytes(self) -> int:
        """What its weights need in memory, from its configuration alone."""
        with torch.device("meta"):
            empty = AutoModel.from_config(self.config(), trust_remote_code=self.trust_remote_code)
        dtype = self.dtype if isinstance(self.dtype, torch.dtype) else empty.config.dtype or torch.float32
        return sum(value.numel() for value in empty.parameters()) * dtype.itemsize

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Whatever goes wrong in loading is a `ModelError` of one line that names a remedy."""
        try:
            yield
        except ItdaError:
            raise
        except Exception as error:  # transformers raises whatever its parts raise
            raise ModelError(_why_not_loaded(self.name, error)) from error


def _dequantised() -> dict[str, Any]:
    """What has transformers unpack all weights of a GGUF file, where it could leave them packed: hooks see floats."""
    made = getattr(transformers, "GgufConfig", None)
    return {"quantization_config": made(dequantize=True)} if made is not None else {}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the bar of a GGUF file's tensors, which transformers' own setting does not reach."""
    reading: Any = None
    with suppress(ImportError):  # in a later transformers it is elsewhere, or gone
        reading = import_module("transformers.modeling_gguf_pytorch_utils")
    shown = getattr(reading, "tqdm", None)
    if shown is None:
        yield
        return
    reading.tqdm = lambda values, **_options: values
    try:
        yield
    finally:
        reading.tqdm = shown


def _why_not_loaded(name: str, error: Exception) -> str:
    text = f"{error} {error.__cause__}".lower()
    remedy = "check the spelling, or `hf auth login` for a private or gated one"
    if "trust_remote_code" in text:
        return f"{name} needs code from its repository: read that code, then add --trust-remote-code"
    if isinstance(error, OSError) and any(word in text for word in ("connect", "offline", "resolve", "timed out")):
        return f"{name} is not on this machine, and the Hub cannot be reached: check the network, or use tiny"
    if isinstance(error, OSError) and ("not a valid model identifier" in text or "404" in text):
        return f"no model {name!r} on this machine or the Hub: {remedy}"
    reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    return f"cannot load {name} ({reason}): {remedy}"
