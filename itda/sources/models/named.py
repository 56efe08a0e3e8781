"""Models by name: a Hub id, a local folder, or the bundled one; transformers loads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers.utils import logging
from transformers.utils.hub import cached_file

from itda.errors import ItdaError, ModelError, SettingError
from itda.sources.models.blocks import find_blocks
from itda.sources.models.devices import usable_device
from itda.sources.models.gguf_header import GgufHeader
from itda.sources.models.identity import COMMIT, commit_of, files_of, fingerprint
from itda.sources.models.limits import loader_of
from itda.sources.models.names import GGUF, folder_of, gguf_of
from itda.sources.models.refusals import Part, check_adapter, check_run, why_not

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class NamedModel:
    """A language model that was found by its name, and how it is to be loaded: see `named`."""

    name: str
    """The name that the user gave."""
    source: str
    """The name that transformers is given: a folder or a Hub id."""
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
    ) -> NamedModel:
        """Find a Hub id, a local folder, a GGUF file (owner/name:file.gguf on the Hub), or `tiny`, the bundled model.

        `device` auto is a GPU where there is one; `dtype` auto is float32 on a CPU and the model's own elsewhere.
        Raises `ModelError` for a folder or a file that is not there, or holds several models, `SettingError` for an
        unknown dtype or a device that is not there.
        """
        path = folder_of(name)
        if path is not None and not path.is_absolute() and name != "tiny" and COMMIT.fullmatch(revision or ""):
            raise ModelError(
                f"{name} at {revision} is a model of the Hub, but {path.absolute()} is a folder of that name: "
                "rename the folder, or run itda in another one"
            )
        device = usable_device(device)
        if dtype not in ("auto", *DTYPES):
            raise SettingError(f"no dtype {dtype!r}: use auto, {', '.join(DTYPES)}")
        chosen = DTYPES.get(dtype, torch.float32 if device == "cpu" else "auto")
        if path is not None and path.is_file() and path.suffix.lower() != GGUF:
            raise ModelError(f"{name} is a file: name the folder that holds the model, or a file in GGUF")
        source, gguf = gguf_of(name) or (str(path) if path is not None else name, None)
        return NamedModel(name, source, device, chosen, revision, trust_remote_code, gguf)

    @cached_property
    def commit(self) -> str | None:
        """The commit of a model from the Hub: the newest, if none was asked for. None for a local folder.

        Raises `ModelError` where it cannot be known, and transformers' own error for a model that is not there.
        """
        if Path(self.source).exists():
            return None
        with self.explained("config"):
            try:
                file = cached_file(self.source, self.gguf or "config.json", revision=self.revision)
            except OSError as error:
                for other, refuse in (("adapter_config.json", check_adapter), ("run.json", check_run)):
                    if self.gguf is None and (there := self._on_the_hub(other)) is not None:
                        refuse(self.name, there.parent)
                raise error
        commit = commit_of(file) if file is not None else None
        if commit is None:
            raise ModelError(
                f"cannot tell which commit of {self.name} this is ({file}): download it into a folder and name that"
            )
        return commit

    def _on_the_hub(self, file: str) -> Path | None:
        flags = ("gated_repo", "missing_entries", "connection_errors")
        quiet: dict[str, Any] = {f"_raise_exceptions_for_{flag}": False for flag in flags}
        with suppress(Exception):
            found = cached_file(self.source, file, revision=self.revision, **quiet)
            return Path(found) if found is not None else None
        return None

    @property
    def _options(self) -> dict[str, Any]:
        # All parts of one commit, even if the branch moves meanwhile.
        named = {"revision": self.commit, "trust_remote_code": self.trust_remote_code}
        return {**named, "gguf_file": self.gguf} if self.gguf is not None else named

    @cached_property
    def file(self) -> Path | None:
        """The path of the GGUF file on this machine; None for a model in another form."""
        if self.gguf is None:
            return None
        found = cached_file(self.source, self.gguf, revision=self.commit)
        return Path(found) if found is not None else None

    def config(self) -> Any:
        """Load its configuration. Raises `ModelError`."""
        if self.gguf is None and Path(self.source).is_dir():
            check_adapter(self.name, Path(self.source))
            if not (Path(self.source) / "config.json").exists():
                check_run(self.name, Path(self.source))
        if self.file is not None:
            GgufHeader.read(self.file)  # so that a file that is cut short is refused now, with a message of ours
        with self.explained("config"):
            return transformers.AutoConfig.from_pretrained(self.source, **self._options)

    def model(self) -> PreTrainedModel:
        """Load the model, on the CPU; with its head if it predicts the next token.

        Raises `ModelError`, also where weights are missing that transformers would fill in at random.
        """
        config = self.config()
        loader, options = loader_of(config), self._options
        if self.file is not None:
            is_causal = type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
            loader = transformers.AutoModelForCausalLM if is_causal else transformers.AutoModel
            options = {**self._options, "config": config, **_dequantised()}
        with _quiet(), self.explained("model"):
            given: Any = loader.from_pretrained(self.source, dtype=self.dtype, output_loading_info=True, **options)
            model, info = given
        _check_whole(self.name, model, info["missing_keys"])
        return model

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Load its tokenizer. Raises `ModelError`."""
        with self.explained("tokenizer"):
            return transformers.AutoTokenizer.from_pretrained(self.source, **self._options)

    def fingerprint(self) -> str | None:
        """Return a hash of a local model's files (`itda.sources.models.identity`); None for a Hub id."""
        folder = Path(self.source)
        if self.gguf is not None and folder.is_dir():
            return fingerprint([folder / self.gguf])
        return fingerprint(files_of(folder)) if folder.is_dir() else None

    def quantisation(self) -> str | None:
        """Return how the weights are quantised, in words; None if they are not, as far as the model's files say."""
        if self.file is not None:
            return GgufHeader.read(self.file).quantisation
        made = getattr(self.config(), "quantization_config", None)
        if made is None:
            return None
        values = made if isinstance(made, dict) else made.to_dict()
        bits = values.get("bits") or (4 if values.get("load_in_4bit") else 8 if values.get("load_in_8bit") else None)
        return f"{values.get('quant_method', 'quantised')}{f', {bits} bits' if bits else ''}"

    def bytes(self) -> int:
        """Return the bytes that its weights need in memory, from its configuration alone."""
        with torch.device("meta"):
            empty = transformers.AutoModel.from_config(self.config(), trust_remote_code=self.trust_remote_code)
        dtype = self.dtype if isinstance(self.dtype, torch.dtype) else empty.config.dtype or torch.float32
        return sum(value.numel() for value in empty.parameters()) * dtype.itemsize

    @contextmanager
    def explained(self, part: Part | None = None) -> Iterator[None]:
        """Turn any error in loading a part of the model into a `ModelError` of one line that names its own remedy."""
        try:
            yield
        except ItdaError:
            raise
        except Exception as error:  # transformers raises whatever its parts raise
            raise why_not(self.name, self.source, part, error, self.gguf) from error


def _check_whole(name: str, model: PreTrainedModel, missing: Iterable[str]) -> None:
    """Raises `ModelError` if weights are missing of modules that text goes through: an unused head may lack some."""
    try:
        blocks = find_blocks(model)
    except ModelError:  # it is refused later, when its blocks are needed
        return
    names = {id(module): path for path, module in model.named_modules()}
    within = names[id(blocks)].rpartition(".")[0]
    beside = {names.get(id(each)) for each in (model.get_input_embeddings(), model.get_output_embeddings())}
    lost = [
        each
        for each in sorted(set(missing) & {each for each, _ in model.named_parameters()})
        if each.rpartition(".")[0] in beside
        or (each.startswith(f"{within}." if within else "") and "pooler" not in each)
    ]
    if lost:
        method = getattr(model.config, "quantization_config", None)
        kept = ", quantised in a way that this transformers does not read" if method is not None else ""
        raise ModelError(
            f"the weights of {name} lack {lost[0]}{f' and {len(lost) - 1} more' * (len(lost) > 1)}{kept}: "
            "get all of them anew"
        )


def _dequantised() -> dict[str, Any]:
    """Return the options to unpack all weights of a GGUF file, for a transformers that might leave them packed."""
    made = getattr(transformers, "GgufConfig", None)
    return {"quantization_config": made(dequantize=True)} if made is not None else {}


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the progress bar of a GGUF file's tensors, which transformers' own setting does not hide."""
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


@contextmanager
def without_bars() -> Iterator[None]:
    """Hide transformers' own progress bars, of which there would be one for each file or block that is loaded."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
