"""Models by name: a Hub id, a local folder, or the bundled one; transformers loads them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.hub import cached_file

from itda.errors import ItdaError, ModelError, SettingError
from itda.sources.identity import COMMIT, commit_of, files_of, fingerprint
from itda.sources.names import folder_of

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

    @staticmethod
    def named(
        name: str,
        *,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        trust_remote_code: bool = False,
    ) -> Checkpoint:
        """A Hub id, a local folder, or `tiny`, the bundled model.

        `device` auto is a GPU where there is one; `dtype` auto is float32 on a CPU and the checkpoint's own elsewhere.
        Raises `ModelError` for a folder that is not there, `SettingError` for an unknown dtype.
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
        return Checkpoint(
            name, str(path) if path is not None and path.is_dir() else name, device, chosen, revision, trust_remote_code
        )

    @cached_property
    def commit(self) -> str | None:
        """The commit of a model from the Hub: the one of now, if none was asked for. None for a local folder.

        Raises `ModelError` where it cannot be known, and what transformers raises for a model that is not there.
        """
        if Path(self.source).exists():
            return None
        file = cached_file(self.source, "config.json", revision=self.revision)
        commit = commit_of(file) if file is not None else None
        if commit is None:
            raise ModelError(
                f"cannot tell which commit of {self.name} this is ({file}): download it into a folder and name that"
            )
        return commit

    @property
    def _options(self) -> dict[str, Any]:
        # All parts of one commit, even if the branch moves meanwhile.
        return {"revision": self.commit, "trust_remote_code": self.trust_remote_code}

    def config(self) -> Any:
        """Its configuration."""
        return AutoConfig.from_pretrained(self.source, **self._options)

    def model(self) -> PreTrainedModel:
        """The model, on the CPU; with its head if it predicts the next token."""
        causal = any("CausalLM" in a or "LMHead" in a for a in self.config().architectures or [])
        loader = AutoModelForCausalLM if causal else AutoModel
        return loader.from_pretrained(self.source, dtype=self.dtype, **self._options)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer."""
        return AutoTokenizer.from_pretrained(self.source, **self._options)

    def fingerprint(self) -> str | None:
        """Tells other files of a local model from these: `itda.sources.identity`. None for a Hub id.

        A Hub id is told by its commit.
        """
        folder = Path(self.source)
        return fingerprint(files_of(folder)) if folder.is_dir() else None

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
