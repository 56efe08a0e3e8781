"""Trials of a model on a few tokens, before anything else runs: how its blocks are chained, and what they add.

Two things are tried, each once for a model and a block:

- That the residual stream goes through the blocks: each runs once, returns [windows, tokens, d_model], its output is
  the next one's input, and the model goes on with the last one's alone.
- That attn_out and mlp_out are what a block adds: input + attn_out + mlp_out = output, or where a norm follows each
  sum, as in BERT, what is summed before it. Which modules hand these on, and which multiple of them is added (Granite's
  `residual_multiplier`), is found by trying the modules of the block on a state of noise, the outermost first:
  `itda.sources.models.added`. A block that adds up otherwise is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from itda.core.site import Site, Stream
from itda.errors import ItdaError, ModelError
from itda.sources.models.added import Added, Found, Passed, added
from itda.sources.models.blocks import Place, activations_in, find_blocks, tensor_of, text_config, with_tensor
from itda.sources.models.hooks import Before, Hook, aside, hooked
from itda.sources.models.limits import rows_of
from itda.sources.models.replay import split, with_state
from itda.sources.models.streams import IN_BLOCK
from itda.sources.tokenizing.windows import Group

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TEXT = "one two three four five six seven eight nine ten"
TOKENS = 7
"""Number of tokens of each of the two windows: no other axis is as long."""
NOISE = 0.1
"""Size of the entries of the state that blocks are tried on: small beside what a block adds, whatever its input."""

Forward = Callable[[Group], object]
"""Runs the base model on a group of windows."""


@dataclass(eq=False)
class Tried:
    """The findings of the trials of one model."""

    stream: bool = False
    """True if it was found that the residual stream can be read from its blocks."""
    added: dict[int, Added] = field(default_factory=dict)
    """The modules that each tried block adds to its input."""
    streams: dict[int, dict[Stream, Found | None]] = field(default_factory=dict)
    """The place of each stream inside each tried block; None for a stream that the block does not have."""

    def learn(self, layer: int, passed: Passed | None) -> None:
        """Note what a block adds and where its streams are, from what went through it once (None: it did not run)."""
        self.added[layer] = each = added(passed) if passed is not None else Added()
        self.streams[layer] = {
            stream: row.by_trial(passed, each) if passed is not None else None for stream, row in IN_BLOCK.items()
        }


_known: WeakKeyDictionary[nn.Module, Tried] = WeakKeyDictionary()


def tried(model: nn.Module) -> Tried:
    """Return the findings on a model so far, which later trials add to."""
    return _known.setdefault(model, Tried())


def places(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sites: Sequence[Site], forward: Forward
) -> dict[Site, Place]:
    """Return where the activations of some sites are. `forward` runs the base model.

    Makes the trials that were not made yet. Raises `ModelError` for a site that the model does not have, or that cannot
    be read.
    """
    blocks, known = find_blocks(model), tried(model)
    check_layers(blocks, sites)
    wanted = sorted({site.layer for site in sites if site.stream != "resid_post"} - set(known.added))
    if not known.stream or wanted:
        group = trial_group(model, tokenizer)
        with aside():  # a model that is steered now is tried as it is otherwise
            if not known.stream:
                if why := why_no_stream(model, group, forward):
                    raise ModelError(why)
                known.stream = True
            if wanted:
                with recorded(model, wanted, group) as seen:
                    forward(group)
                for layer, each in seen.items():
                    known.learn(layer, each.passed())
    return {site: place_of(model, site) for site in sites}


def check_layers(blocks: nn.ModuleList, sites: Sequence[Site]) -> None:
    """Raises `ModelError` for a layer that is not there."""
    for site in sites:
        if not 0 <= site.layer < len(blocks):
            raise ModelError(f"no layer {site.layer}: the model has layers 0 to {len(blocks) - 1}")


def place_of(model: PreTrainedModel, site: Site) -> Place:
    """Return where a site's activation is, in a block that was tried. Raises `ModelError` if the block lacks it."""
    block: nn.Module = find_blocks(model)[site.layer]
    if site.stream == "resid_post":
        return Place(block)
    known = tried(model)
    found = known.streams[site.layer][site.stream]
    if found is not None:
        return Place(block.get_submodule(found[0]), found[1])
    if known.added[site.layer] == Added():
        why = "no attention and MLP of it, nor one of them alone, are what it adds to its input"
    else:
        why = f"it has no {IN_BLOCK[site.stream].part}"
    raise ModelError(f"no {site.stream} in block {site.layer} of {type(model).__name__}: {why}; use resid_post")


def trial_group(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Group:
    """Make a group of two windows of ordinary tokens, the second one padded."""
    ids: Any = tokenizer(TEXT, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    rows = rows_of(model)
    known = [token for token in ids if token < rows] or [0]
    both = torch.tensor([known[i % len(known)] for i in range(2 * TOKENS)]).view(2, TOKENS)
    mask = torch.ones_like(both)
    mask[1, TOKENS - 2 :] = 0
    return Group([], both, mask, mask.bool(), 0)


def why_no_stream(model: PreTrainedModel, group: Group, forward: Forward) -> str | None:
    """Say in one line why the residual stream cannot be read from a model's blocks; None if it can."""
    blocks, width, name = find_blocks(model), text_config(model).hidden_size, type(model).__name__
    mask = group.attention_mask.bool()
    inputs: list[Tensor | None] = [None] * len(blocks)
    outputs: list[Tensor | None] = [None] * len(blocks)
    runs: Counter[int] = Counter()

    def before(layer: int) -> Before:
        def read(args: tuple, kwargs: dict[str, Any]) -> None:
            runs[layer] += 1
            with suppress(KeyError, ModelError):
                inputs[layer] = activations_in(split(args, kwargs)[0], mask.shape, width).clone()

        return read

    def after(layer: int) -> Hook:
        def read(output: Any) -> Any:
            outputs[layer] = activations_in(output, mask.shape, width).clone()
            more = output[1:] if isinstance(output, tuple | list) else ()
            if any(isinstance(each, Tensor) and each.shape == output[0].shape for each in more):
                raise ModelError("its blocks return two states: use a model with one residual stream")
            # The last block's output is set to zero: the model's output must not depend on the tokens then.
            return with_tensor(output, torch.zeros_like(tensor_of(output))) if layer == len(blocks) - 1 else None

        return read

    try:
        with hooked(
            [(block, after(i)) for i, block in enumerate(blocks)],
            [(block, before(i)) for i, block in enumerate(blocks)],
        ):
            made = forward(group)
    except ItdaError as error:
        return f"{name} cannot be read: {error}"
    except Exception as error:  # a model that needs more than text may raise anything
        reason = (str(error).strip().splitlines() or [""])[0][:150] or type(error).__name__
        return f"{name} does not run on text alone ({reason}): use a model that does"
    return _why_not_chained(name, runs, inputs, outputs, mask) or _why_more_than_blocks(name, made, mask)


def _why_not_chained(
    name: str, runs: Counter[int], inputs: Sequence[Tensor | None], outputs: Sequence[Tensor | None], mask: Tensor
) -> str | None:
    """Say in one line how blocks failed to run once each, on the output of the one before; None if they did not."""
    for layer, output in enumerate(outputs):
        if not runs[layer]:
            return f"{name} does not call its block {layer} as torch's modules are called: use another model"
        if runs[layer] != 1:
            return f"{name} runs its block {layer} {runs[layer]} times: use a model that runs each block once"
        following = inputs[layer + 1] if layer + 1 < len(inputs) else output
        if output is None or following is None or not _same(output.cpu()[mask], following.cpu()[mask]):
            return (
                f"{name} does not hand what its block {layer} returns to the next one: use a model with one residual "
                "stream"
            )
    return None


def _why_more_than_blocks(name: str, made: object, mask: Tensor) -> str | None:
    """Say in one line that the model's output depends on more than its last block's; None if it does not."""
    rest = getattr(made, "last_hidden_state", None)
    if isinstance(rest, Tensor) and rest.shape[:2] == mask.shape:
        rest = rest.cpu()[mask]
        if _same(rest, rest[:1]):
            return None
        return f"{name} goes on with more than its last block returns: use a model with one residual stream"
    return None


def _same(one: Tensor, two: Tensor) -> bool:
    return bool(((one == two) | (one.isnan() & two.isnan())).all())


@dataclass(eq=False)
class Recording:
    """The inputs and outputs of a block and its modules while it is recorded."""

    block: nn.Module
    model: PreTrainedModel
    mask: Tensor
    before: Tensor | None = None
    after: Tensor | None = None
    runs: Counter[str] = field(default_factory=Counter)
    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)

    def passed(self) -> Passed | None:
        """Return the recorded pass; None if the block's input or output was not recorded."""
        if self.before is None or self.after is None:
            return None
        modules = dict(self.block.named_modules())
        order = {name: place for place, name in enumerate(self.outputs)}
        once = [name for name in self.outputs if self.runs[name] == 1]
        once.sort(key=lambda name: (isinstance(modules[name], nn.Dropout), name.count("."), -order[name]))
        return Passed(
            self.before,
            self.after,
            {name: self.outputs[name] for name in once},
            {name: self.inputs[name] for name in once if name in self.inputs},
            {name: _kind(modules, name) for name in once},
            named_numbers(self.block, self.model),
            torch.finfo(self.model.dtype).eps,
        )

    def flat(self, value: Any) -> Tensor | None:
        """Return activations as [tokens of the text, d_model] in float64; None for a value of another shape."""
        with suppress(ModelError):
            found = activations_in(value, self.mask.shape, text_config(self.model).hidden_size)
            return found[self.mask.to(found.device)].double().cpu()
        return None


def _kind(modules: dict[str, nn.Module], name: str) -> str:
    """Return the name of a module in its block, and the classes of it and of those that it is in."""
    parts = name.split(".")
    inside = [modules[".".join(parts[:end])] for end in range(1, len(parts) + 1)]
    return " ".join([name, *(type(module).__name__ for module in inside)])


def named_numbers(block: nn.Module, model: PreTrainedModel) -> list[float]:
    """List the floats among the attributes of a block, of its children and of the configuration."""
    places = [vars(block), *(vars(child) for child in block.children()), vars(text_config(model))]
    return sorted({float(value) for place in places for value in place.values() if isinstance(value, float) and value})


@contextmanager
def recorded(model: PreTrainedModel, layers: Sequence[int], group: Group) -> Iterator[dict[int, Recording]]:
    """Give blocks noise for a state within this, and record their inputs and outputs."""
    blocks, mask = find_blocks(model), group.attention_mask.bool()
    found = {layer: Recording(blocks[layer], model, mask) for layer in layers}
    hooks: list[tuple[nn.Module, Hook]] = []
    before: list[tuple[nn.Module, Before]] = []
    for layer, seen in found.items():
        before.append((blocks[layer], _start(seen, layer)))
        hooks.append((blocks[layer], _end(seen)))
        for name, module in blocks[layer].named_modules():
            if name:
                before.append((module, _input(seen, name)))
                hooks.append((module, _output(seen, name)))
    with hooked(hooks, before):
        yield found


def _start(seen: Recording, layer: int) -> Before:
    def read(args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        state = split(args, kwargs)[0]
        generator = torch.Generator().manual_seed(layer)
        noise = NOISE * torch.randn(state.shape, generator=generator)
        noise = noise.to(state)
        seen.before = seen.flat(noise)
        return with_state(noise, args, kwargs)

    return read


def _end(seen: Recording) -> Hook:
    def read(output: Any) -> None:
        seen.after = seen.flat(output)

    return read


def _input(seen: Recording, name: str) -> Before:
    def read(args: tuple, kwargs: dict[str, Any]) -> None:
        seen.runs[name] += 1
        given = args[0] if args else kwargs.get("hidden_states")
        flat = seen.flat(given)
        if flat is not None:
            seen.inputs[name] = flat

    return read


def _output(seen: Recording, name: str) -> Hook:
    def read(output: Any) -> None:
        flat = seen.flat(output)
        if flat is not None:
            seen.outputs[name] = flat

    return read
