"""The weights of a model, one block at a time, read by transformers' own loader.

`from_pretrained` works as always, with quantisers, renamed and fused keys, buffers and tied weights, but its step that
reads the weights is given only the keys outside the blocks. A block's weights are read later by that same step, and
dropped when they have been used. Tensors that need no conversion stay mapped from their file, at the alignment that
an ordinary load gives them, so that products with them have the same bits.
"""

from __future__ import annotations

import ctypes
import platform
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel, modeling_utils
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    convert_and_load_state_dict_in_model,
    rename_source_key,
)

from itda.errors import ModelError
from itda.sources.models.blocks import find_blocks, text_config
from itda.sources.models.named import without_bars
from itda.sources.streamed.memory_use import weights_in_use

BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8, "BOOL": 8}
BITS |= {"F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "U16": 16, "U32": 32, "U64": 64}

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""The numbers of two options of `mallopt`, from glibc's malloc.h."""
LARGE = 2**22
"""Bytes from which on glibc gives an allocation memory of its own, which it gives back at once."""

_patching = threading.Lock()
"""Held while transformers' loader is replaced."""


@dataclass(frozen=True)
class Stored:
    """A tensor in a file of the model: its place, and the parameter that it becomes."""

    file: str
    key: str
    target: str
    """The parameter that it becomes, or the first of those that it is converted to."""
    bytes: int
    """Size in the file."""


@dataclass(eq=False)
class Weights:
    """The blocks' weights of a model, on disk but for those that were loaded."""

    model: PreTrainedModel
    blocks: nn.ModuleList
    of_block: Sequence[Sequence[Stored]]
    resident: Sequence[Stored]
    """The tensors outside the blocks, which are in memory all the time."""
    config: Any
    """The settings of transformers' loader."""
    device: torch.device
    bytes_read: int = 0
    """Bytes of the blocks' weights that were read so far."""
    read_s: float = 0.0
    """Seconds that reading the block took that `stream` yielded last."""
    waited_s: float = 0.0
    """Seconds of it in which `stream` had nothing else to do."""
    read_ahead: bool = True
    """False if `stream` reads a block only when the one before has been dropped: half the memory, no overlap."""
    _empty: list[dict[tuple[nn.Module, str], Tensor | None]] = field(default_factory=list)

    @property
    def bytes_in_use(self) -> int:
        """Bytes of memory for the largest blocks that are there together, and for all that is outside the blocks."""
        block = max(sum(_bytes(value) for value in empty.values() if value is not None) for empty in self._empty)
        outside = sum(_bytes(value) for value in self.model.parameters() if not value.is_meta)
        return weights_in_use(block, outside, self.read_ahead)

    def load(self, layer: int) -> None:
        """Read the weights of one block. Raises `ModelError` if they are damaged or not all there."""
        on_gpu = self.device.type != "cpu"
        _load(self.model, self.of_block[layer], replace(self.config, device_map={"": self.device}), ahead=on_gpu)
        lacking = [name for name, value in self.blocks[layer].named_parameters() if value.is_meta]
        if lacking:
            raise ModelError(f"the checkpoint lacks {lacking[0]} of block {layer}: download it again")
        for module in self.blocks[layer].modules():
            for parameter in module._parameters.values():
                if parameter is not None:
                    _touch(parameter.data)
        self.bytes_read += sum(each.bytes for each in self.of_block[layer])

    def drop(self, layer: int) -> None:
        """Forget the weights of one block."""
        for (module, name), value in self._empty[layer].items():
            module._parameters[name] = value  # pyright: ignore[reportArgumentType]

    @contextmanager
    def only(self, layer: int) -> Iterator[None]:
        """Have the weights of one block in memory within this."""
        self.load(layer)
        try:
            yield
        finally:
            self.drop(layer)

    def stream(self, layers: int) -> Iterator[int]:
        """Yield the numbers of the first blocks, each while its weights are there.

        The next one is read meanwhile, unless `read_ahead` is False.
        """
        if not self.read_ahead:
            yield from self._one_by_one(layers)
            return

        def read(layer: int) -> float:
            started = time.perf_counter()
            self.load(layer)
            return time.perf_counter() - started

        with ThreadPoolExecutor(1, thread_name_prefix="itda-weights") as thread:
            following = thread.submit(read, 0)
            layer = -1
            try:
                for layer in range(layers):
                    started = time.perf_counter()
                    self.read_s = following.result()
                    self.waited_s = time.perf_counter() - started
                    if layer + 1 < layers:
                        following = thread.submit(read, layer + 1)
                    yield layer
                    self.drop(layer)
            finally:
                if following.exception() is None and layer + 1 < layers:
                    self.drop(layer + 1)
                if layer >= 0:
                    self.drop(layer)

    def _one_by_one(self, layers: int) -> Iterator[int]:
        for layer in range(layers):
            started = time.perf_counter()
            with self.only(layer):
                self.read_s = self.waited_s = time.perf_counter() - started
                yield layer


def open_weights(
    build: Callable[[], PreTrainedModel], device: torch.device, *, head: bool
) -> tuple[PreTrainedModel, Weights]:
    """Load a model that `build` makes by `from_pretrained`, without its blocks' weights; return it with these.

    Without `head`, the unembedding is left out too, unless it is the embedding. Raises `ModelError` for a model that is
    not in safetensors.
    """
    made: list[Weights] = []

    def load(model: PreTrainedModel, _state: Any, files: list[str] | None, config: Any, *_args: Any) -> Any:
        if not files or not all(str(name).endswith(".safetensors") for name in files):
            raise ModelError(
                "only models in safetensors are read block by block: save the model anew with save_pretrained"
            )
        blocks = find_blocks(model)
        path = next(name for name, module in model.named_modules() if module is blocks)
        prefixes = [f"{path}.{layer}." for layer in range(len(blocks))]
        stored = _stored(model, files, config)
        tied = _is_tied(model)
        of_block, outside = _by_block(stored, prefixes)
        base = f"{model.base_model_prefix}." if hasattr(model, model.base_model_prefix) else ""
        resident = [each for each in outside if head or tied or each.target.startswith(base)]
        info = _load(model, resident, config)
        absent = tuple(prefixes) if head or tied else (*prefixes, *(f"{n}." for n in _outside(model)))
        info.missing_keys -= {name for name in info.missing_keys if name.startswith(absent)}
        for name, value in model.named_parameters():
            if name.startswith(absent):
                # Else transformers would fill it with random numbers.
                value._is_hf_initialized = True  # pyright: ignore[reportAttributeAccessIssue]
        made.append(Weights(model, blocks, [of_block[prefix] for prefix in prefixes], resident, config, device))
        return info, None

    with _patching, without_bars():
        original = modeling_utils.PreTrainedModel._load_pretrained_model
        modeling_utils.PreTrainedModel._load_pretrained_model = staticmethod(load)  # pyright: ignore
        try:
            model = build()
        finally:
            modeling_utils.PreTrainedModel._load_pretrained_model = original
    weights = made[0]
    weights._empty = [
        {(module, name): value for module in block.modules() for name, value in module._parameters.items()}
        for block in weights.blocks
    ]
    _to_device(model, device)
    return model, weights


def _is_tied(model: PreTrainedModel) -> bool:
    """Return True if the unembedding is the embedding."""
    # Qwen3-VL has it in the configuration of the whole model alone.
    return any(getattr(config, "tie_word_embeddings", False) for config in (model.config, text_config(model)))


def _by_block(stored: Sequence[Stored], prefixes: Sequence[str]) -> tuple[dict[str, list[Stored]], list[Stored]]:
    """Sort tensors by the prefix of the block that they belong to; those of no block come second."""
    of_block: dict[str, list[Stored]] = {prefix: [] for prefix in prefixes}
    outside = []
    for each in stored:
        prefix = next((prefix for prefix in prefixes if each.target.startswith(prefix)), None)
        (outside if prefix is None else of_block[prefix]).append(each)
    return of_block, outside


def _bytes(value: Tensor) -> int:
    return value.numel() * value.dtype.itemsize


def _outside(model: PreTrainedModel) -> list[str]:
    """List the names of the children besides the base model: the head."""
    return [name for name, _ in model.named_children() if name != model.base_model_prefix]


def _to_device(model: PreTrainedModel, device: torch.device) -> None:
    """Move the weights and buffers that are in memory to a device."""
    if device.type == "cpu":
        return
    for module in model.modules():
        for values in (module._parameters, module._buffers):
            for name, value in values.items():
                if value is not None and not value.is_meta:
                    moved = value.data.to(device)
                    moved = nn.Parameter(moved, False) if isinstance(value, nn.Parameter) else moved
                    values[name] = moved  # pyright: ignore[reportArgumentType]


def _stored(model: PreTrainedModel, files: Sequence[str], config: Any) -> list[Stored]:
    """List the tensors in a model's files."""
    mapping = config.weight_mapping or []
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    known, prefix = model.state_dict(), model.base_model_prefix
    found = []
    for file in files:
        try:
            with safe_open(file, "pt") as pointer:
                for key in pointer.keys():  # noqa: SIM118
                    target = rename_source_key(key, renamings, converters, prefix, known)[0]
                    if target not in known:
                        plain = rename_source_key(key, [], [], prefix, known)[0]
                        target = plain if plain in known else target
                    part = pointer.get_slice(key)
                    size = BITS.get(part.get_dtype(), 8)
                    for length in part.get_shape():
                        size *= length
                    found.append(Stored(str(file), key, target, size // 8))
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{file} is damaged or cut short ({error}): download it again") from error
    return found


def _load(model: PreTrainedModel, stored: Sequence[Stored], config: Any, *, ahead: bool = False) -> Any:
    """Have transformers load some tensors. Raises `ModelError` if one cannot be read or does not fit.

    With `ahead` their pages are read from disk first. The copy of a tensor to a GPU takes turns with what the GPU
    computes: if it had to wait for the disk, the block before would wait too.
    """
    files: Mapping[str, list[str]] = defaultdict(list)
    for each in stored:
        files[each.file].append(each.key)
    with ExitStack() as stack:
        state = {}
        try:
            for file, keys in files.items():
                pointer = stack.enter_context(safe_open(file, "pt"))
                state.update({key: pointer.get_slice(key) for key in keys})
            for part in state.values() if ahead else ():
                _touch(part[...])
            with without_bars():
                info, _ = convert_and_load_state_dict_in_model(model, state, config)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{next(iter(files))} is damaged or gone ({error}): download it again") from error
        wrong = [str(each) for each in (*info.conversion_errors, *info.mismatched_keys)]
        if wrong:
            raise ModelError(f"the checkpoint does not fit the model at {wrong[0]}: download it again")
        return info


def _touch(values: Tensor) -> None:
    """Read the pages of a mapped tensor from disk now, so that no product has to wait for them later."""
    if values.device.type == "cpu" and values.is_contiguous() and values.numel():
        flat = values.view(-1).view(torch.uint8)
        flat[::4096].sum()


def give_back_freed() -> None:
    """Make glibc give the memory of freed tensors back to the system at once, for the rest of the process.

    By default it keeps blocks of up to 32 MB in a fragmented heap: measured, as much again as it takes to run a group.
    Does nothing on systems without glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    library.mallopt(M_MMAP_THRESHOLD, LARGE)
    library.mallopt(M_TRIM_THRESHOLD, 8 * LARGE)
