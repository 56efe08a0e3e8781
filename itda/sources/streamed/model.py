"""Models larger than memory: every block's weights are read once for many groups of windows.

The loop over blocks goes outside, the loop over groups inside: a block is loaded, run over all groups in flight, and
dropped, while the next one is being read. Only the hidden states of the groups are kept. Where blocks hand each other
more than these (`itda.sources.models.replay`), the model runs as usual, and each block's weights are there while it
runs.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from itda.core.batch import Site
from itda.core.memory import available
from itda.errors import ModelError
from itda.sources.models.base import PlacedModel
from itda.sources.models.blocks import Place, activations_in, find_blocks
from itda.sources.models.hooks import Hook, Turns, hooked
from itda.sources.models.named import NamedModel
from itda.sources.models.replay import Form, NotReplayableError, form_of, passing, replaced, run_block, run_head
from itda.sources.models.splicing import Read, Splice, SpliceableModel, Spliced, branches
from itda.sources.models.transformers import LanguageModel
from itda.sources.models.trial import check_layers, place_of, recorded, trial_group, tried, why_no_stream
from itda.sources.streamed.block_times import BlockTime
from itda.sources.streamed.hidden_states import HiddenStates
from itda.sources.streamed.memory_use import groups_in_flight, left_for_hidden_states
from itda.sources.tokenizing.special import Bos
from itda.sources.tokenizing.windows import Group, Windower

if TYPE_CHECKING:
    from itda.sources.streamed.weights import Weights

LOGITS = 2**26
"""Number of logits that are computed at once."""


@dataclass(eq=False, repr=False)
class StreamedModel(SpliceableModel, PlacedModel):
    """A transformers model whose weights are read from its files block by block.

    `memory` is for the hidden states, in bytes; where they need more they are in a file in `scratch`.

    >>> model = StreamedModel.load("tiny")
    >>> model.layers, model.d_model, model.replayable
    (6, 192, True)
    """

    inner: LanguageModel
    weights: Weights
    name: str
    form: Form | None
    memory: int
    scratch: Path | None = None
    head: bool = True
    """False if its predictions were not wanted when it was opened, so that the weights of its head are not there."""
    turns: Turns = field(default_factory=Turns)
    times: list[BlockTime] = field(default_factory=list)
    """Seconds of each block that `harvest` has gone through, in order."""
    runs_ahead = True

    @staticmethod
    def load(
        name: str,
        *,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        trust_remote_code: bool = False,
        head: bool = False,
        memory: int | None = None,
        budget: int | None = None,
        scratch: Path | None = None,
        read_ahead: bool = True,
    ) -> StreamedModel:
        """Open a model as `LanguageModel.load` does; `head` if its predictions are wanted too. Raises `ModelError`.

        `budget` instead of `memory` is for the weights in use too, where they are in the same memory: on a CPU. Without
        `read_ahead` a CPU has one block in memory instead of two, for models that are read beside others. A GPU reads
        ahead in any case: it would wait for its weights most of the time.
        """
        named = NamedModel.named(
            name, revision=revision, device=device, dtype=dtype, trust_remote_code=trust_remote_code
        )
        if named.gguf is not None:
            raise ModelError(
                f"{name} is in GGUF, which is unpacked as a whole, not block by block: leave out --stream, allow "
                "more --model-memory or take --dtype bfloat16, or name the folder of the model it was made from"
            )
        with named.explained():
            from itda.sources.streamed.weights import open_weights

            model, weights = open_weights(named.model, torch.device(named.device), head=head)
            weights.read_ahead = read_ahead or weights.device.type != "cpu"
            inner = LanguageModel(model.eval(), named.tokenizer(), name, named.commit)
        blocks = find_blocks(model)
        form = form_of(blocks, lambda: inner.forward(model.base_model, _trial()))
        if memory is None and budget is not None:
            memory = left_for_hidden_states(budget, weights.bytes_in_use, named.device)
        memory = available() if memory is None else memory
        found = StreamedModel(inner, weights, name, form, memory, scratch, head)
        if form is None:
            found.load_around_each_block()
        return found

    @property
    def replayable(self) -> bool:
        """True if each block can be run alone."""
        return self.form is not None

    @property
    def blocks(self) -> nn.ModuleList:
        """The blocks of the model; only those in use have weights."""
        return self.weights.blocks

    @property
    def layers(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.inner.d_model

    @property
    def revision(self) -> str | None:
        """The commit of a model from the Hub."""
        return self.inner.revision

    @property
    def tokenizer_hash(self) -> str | None:
        """SHA-256 of the tokenizer's definition: models with the same one cut text into the same tokens."""
        return self.inner.tokenizer_hash

    @property
    def dtype(self) -> str:
        """The dtype of its weights: float32, bfloat16, ..."""
        return self.inner.dtype

    @property
    def device(self) -> str:
        """The device that its blocks run on: cpu, cuda:0, ..."""
        return str(self.weights.device)

    @property
    def is_causal(self) -> bool:
        """True if it predicts the next token."""
        return self.inner.is_causal

    @property
    def vocabulary(self) -> int:
        """Number of tokens that it chooses the next one from."""
        return self.inner.vocabulary

    def windower(self, window: int, bos: Bos = "auto") -> Windower:
        """Return what cuts documents into windows for this model. Raises `SettingError` for more tokens than it reads.

        `bos` says which token each begins with: `itda.sources.tokenizing.special`.
        """
        return self.inner.windower(window, bos)

    @torch.inference_mode()
    def places(self, sites: Sequence[Site]) -> dict[Site, Place]:
        """Return where the activations of some sites are, as `LanguageModel.places` does.

        For attn_out and mlp_out the blocks are read once more, alone. Raises `ModelError`.
        """
        if self.form is None:
            return self.inner.places(sites)
        model, known = self.inner.model, tried(self.inner.model)
        check_layers(self.blocks, sites)
        group = trial_group(model, self.inner.tokenizer)
        forward = lambda: self.inner.forward(model.base_model, group)  # noqa: E731
        if not known.stream:
            with replaced(self.blocks, [passing(self.form)] * self.layers):
                why = why_no_stream(model, group, lambda _: forward())
            if why:
                raise ModelError(why)
            known.stream = True
        for layer in sorted({site.layer for site in sites if site.stream != "resid_post"} - set(known.added)):
            try:
                with self.turns.turn(), self.weights.only(layer), recorded(model, [layer], group) as seen:
                    seen[layer].after = seen[layer].flat(run_block(self.blocks, layer, self.form, None, forward))
            except NotReplayableError:
                self.load_around_each_block()
                return self.inner.places(sites)
            known.learn(layer, seen[layer].passed())
        return {site: place_of(model, site) for site in sites}

    def flight(self, tokens: int, branches: int = 1) -> int:
        """Return how many groups of so many tokens fit in memory, or on disk, with `branches` states of each token."""
        state = tokens * self.d_model * self.inner.model.dtype.itemsize * branches
        if self.form is None:
            return 1
        scratch = self.scratch
        return groups_in_flight(
            tokens, state, self.memory, lambda: shutil.disk_usage(scratch).free if scratch is not None else 0
        )

    def harvest(
        self, groups: Sequence[Group], sites: Sequence[Site]
    ) -> Iterator[tuple[int, Mapping[Site, Float[Tensor, "activations d_model"]]]]:
        """Yield one layer of all groups, then the next: see `ActivationModel`. Other threads wait until it is done."""
        with self.turns.turn():
            self.places(sites)
            yield from self._harvested(groups, sites)

    def _harvested(
        self, groups: Sequence[Group], sites: Sequence[Site]
    ) -> Iterator[tuple[int, Mapping[Site, Float[Tensor, "activations d_model"]]]]:
        given: set[tuple[int, Site]] = set()
        if self.form is not None:
            last = max(site.layer for site in sites)
            hidden = self._hidden_states(len(groups), groups[0].input_ids.numel())
            try:
                for place, found in self._replayed(groups, sites, hidden, last):
                    given |= {(place, site) for site in found}
                    yield place, found
                return
            except NotReplayableError:
                self.load_around_each_block()
        for place, found in self.inner.harvest(groups, sites):
            left = {site: x for site, x in found.items() if (place, site) not in given}
            if left:
                yield place, left

    def read(self, groups: Sequence[Group], sites: Sequence[Site]) -> Iterator[Read | Spliced]:
        """Yield one layer of all groups, then the next, and at last all predictions: see `SpliceableModel`.

        Each block is read once. Other threads wait until all is done.
        """
        assert self.head or not self.is_causal, "a streamed model was opened without its head"
        with self.turns.turn():
            self.places(sites)
            yield from self._all_read(groups, sites)

    def _all_read(self, groups: Sequence[Group], sites: Sequence[Site]) -> Iterator[Read | Spliced]:
        if not self.is_causal:
            for place, found in self._harvested(groups, sites):
                yield from (Read(place, site, found[site]) for site in sites if site in found)
            return
        if self.form is None:
            yield from self.inner.read(groups, sites)
            return
        given: set[tuple[int, Site]] = set()
        hidden = self._hidden_states(len(groups), groups[0].input_ids.numel())
        try:
            for place, found in self._replayed(groups, sites, hidden, self.layers):
                given |= {(place, site) for site in found}
                yield from (Read(place, site, found[site]) for site in sites if site in found)
        except NotReplayableError:
            self.load_around_each_block()
            for each in self.inner.read(groups, sites):
                if not isinstance(each, Read) or (each.place, each.site) not in given:
                    yield each
            return
        for place, group in enumerate(groups):
            for rows, part in _parts(group, self.vocabulary):
                yield Spliced(place, None, rows, self._logits(group, part, hidden.get(place)))
            hidden.drop(place)

    def _replayed(
        self, groups: Sequence[Group], sites: Sequence[Site], hidden: HiddenStates, last: int
    ) -> Iterator[tuple[int, dict[Site, Tensor]]]:
        """Yield the activations of a block of all groups, then of the next, up to block `last` or the end.

        What each block before that one returns is kept in `hidden`, by the number of the group.
        """
        blocks = min(last + 1, self.layers)
        for layer in self.weights.stream(blocks):
            here = [site for site in sites if site.layer == layer]
            took = BlockTime(layer, self.weights.read_s, self.weights.waited_s)
            self.times.append(took)
            for place, group in enumerate(groups):
                self.watch(f"block {layer + 1}/{blocks}")
                started = time.perf_counter()
                state = hidden.get(place) if layer else None
                output, found = self._step(layer, group, state, here)
                if layer < last:
                    hidden.put(place, output)
                mask = group.is_activation.to(output.device) if found else None
                wanted = {site: x[mask] for site, x in found.items()}  # a GPU is waited for here
                ended = time.perf_counter()
                took.ran += ended - started
                if wanted:
                    yield place, wanted
                    took.used += time.perf_counter() - ended

    def spliced(self, groups: Sequence[Group], sites: Sequence[Site], splice: Splice) -> Iterator[Spliced]:
        """Yield predictions like `LanguageModel.spliced`, by clean and spliced hidden states that go together.

        Other threads wait until it is done. Raises `ModelError` if a block hands on more than its state and that is
        seen too late to begin anew.
        """
        with self.turns.turn():
            self.places(sites)
            yield from self._all_spliced(groups, sites, splice)

    def _all_spliced(self, groups: Sequence[Group], sites: Sequence[Site], splice: Splice) -> Iterator[Spliced]:
        if self.form is None:
            yield from self.inner.spliced(groups, sites, splice)
            return
        begun: list[Site] = []

        def watched(place: int, site: Site, x: Tensor) -> Mapping[str, Tensor]:
            begun.append(site)
            return splice(place, site, x)

        try:
            hidden = self._carried(groups, sites, watched)
        except NotReplayableError as error:
            if begun:
                raise ModelError(
                    f"a block of {self.name} hands on more than its state: give it the memory to run whole, with "
                    "--model-memory"
                ) from error
            self.load_around_each_block()
            yield from self.inner.spliced(groups, sites, splice)
            return
        if not self.is_causal:
            return
        for place, group in enumerate(groups):
            found = [key for key in hidden.keys() if key[0] == place]  # noqa: SIM118
            keys = sorted(found, key=lambda key: key[1] is not None)  # the clean one first
            for rows, part in _parts(group, self.vocabulary):
                for _, key in keys:
                    yield Spliced(place, key, rows, self._logits(group, part, hidden.get((place, key))))
            for key in keys:
                hidden.drop(key)

    def _carried(self, groups: Sequence[Group], sites: Sequence[Site], splice: Splice) -> HiddenStates:
        """Return the last block's hidden states, by the number of the group and the key of the pass."""
        hidden = self._hidden_states(len(groups) * branches(len(sites)), groups[0].input_ids.numel())
        last = self.layers if self.is_causal else max(site.layer for site in sites) + 1
        for layer in self.weights.stream(last):
            here = [site for site in sites if site.layer == layer]
            for place, group in enumerate(groups):
                self.watch(f"block {layer + 1}/{last}")
                spliced: list[tuple[Site, str]] = [key for at, key in hidden.keys() if at == place and key is not None]  # noqa: SIM118
                for key in spliced:
                    hidden.put((place, key), self._step(layer, group, hidden.get((place, key)), [])[0])
                state = hidden.get((place, None)) if layer else None
                # A copy if the state is needed once more: a block may write to it.
                again = state is not None and any(site.stream != "resid_post" for site in here)
                output, found = self._step(layer, group, state.clone() if again and state is not None else state, here)
                mask = group.is_activation.to(output.device)
                scored = self.is_causal and bool(group.predicts.any())
                for site in here:
                    for name, values in splice(place, site, found[site][mask]).items():
                        if scored:
                            hidden.put((place, (site, name)), self._spliced(layer, group, state, site, output, values))
                hidden.put((place, None), output)
        return hidden

    @torch.inference_mode()
    def _spliced(
        self, layer: int, group: Group, state: Tensor | None, site: Site, output: Tensor, values: Tensor
    ) -> Tensor:
        """Return the state of a group after a block at whose site other activations were put in."""
        mask, there = group.is_activation.to(output.device), self.places([site])[site]
        if site.stream == "resid_post":
            return there.write(output, values, mask)
        hook = (there.module, lambda given: there.write(given, values, mask))
        return self._step(layer, group, state.clone() if state is not None else None, [], [hook])[0]

    @torch.inference_mode()
    def _logits(self, group: Group, part: _Part, state: Tensor) -> Tensor:
        """Return the logits of some windows, from the last block's hidden states, where `predicts` is true."""
        assert self.form is not None
        first = part.first
        windows = state.view(*group.input_ids.shape, -1)[first : first + len(part.group.input_ids)]
        forward = lambda: self.inner.forward(self.inner.model, part.group)  # noqa: E731
        logits = run_head(self.blocks, self.form, windows.to(self.weights.device), forward).logits
        return logits[part.group.predicts.to(logits.device)]

    @torch.inference_mode()
    def unembedded(
        self, group: Group, states: Float[Tensor, "activations d_model"]
    ) -> Float[Tensor, "activations vocabulary"]:
        """Return the logits of a group with these states after the last block, at its activations. No block runs.

        Raises `ModelError` for a model that predicts nothing, or whose blocks cannot be run alone.
        """
        if not self.is_causal or self.form is None:
            raise ModelError(
                f"{self.name} is read block by block, so its unembedding is not in memory: give it more --model-memory"
            )
        mask = group.is_activation.to(states.device)
        windows = torch.zeros(*mask.shape, self.d_model, dtype=self.inner.model.dtype, device=states.device)
        windows[mask] = states.to(windows.dtype)
        logits = run_head(self.blocks, self.form, windows, lambda: self.inner.forward(self.inner.model, group)).logits
        return logits[mask.to(logits.device)]

    def _hidden_states(self, number: int, tokens: int) -> HiddenStates:
        size = number * tokens * self.d_model * self.inner.model.dtype.itemsize
        return HiddenStates(self.scratch if size > self.memory and self.scratch is not None else None, number)

    @torch.inference_mode()
    def _step(
        self,
        layer: int,
        group: Group,
        state: Tensor | None,
        sites: Sequence[Site],
        hooks: Sequence[tuple[nn.Module, Hook]] = (),
    ) -> tuple[Tensor, dict[Site, Tensor]]:
        """Return the state of a group after a block, and the activations at some of its sites.

        All are [windows, tokens, d_model].
        """
        assert self.form is not None
        found: dict[Site, Tensor] = {}
        shape, width = group.input_ids.shape, self.d_model

        def reader(site: Site, there: Place) -> Hook:
            def read(output: Any) -> None:
                found[site] = there.read(output, shape, width)

            return read

        places = self.places(sites) if sites else {}
        inside = [(there.module, reader(site, there)) for site, there in places.items() if site != Site(layer)]
        state = state.to(self.weights.device) if state is not None else None
        forward = lambda: self.inner.forward(self.inner.model.base_model, group)  # noqa: E731
        with hooked([*inside, *hooks]):
            output = run_block(self.blocks, layer, self.form, state, forward)
        if Site(layer) in sites:
            found[Site(layer)] = activations_in(output, shape, width)
        missing = [str(site) for site in sites if site not in found]
        if missing:
            raise ModelError(f"{self.name} ran without reaching {missing[0]}: choose another layer")
        return output, found

    def load_around_each_block(self) -> None:
        """Make each block load its weights when it runs, from now on: right for any model, slow for many groups."""
        self.form = None
        for layer, block in enumerate(self.blocks):
            block.forward = _loading(self.weights, layer, block.forward)


def _loading(weights: Weights, layer: int, forward: Callable) -> Callable:
    def run(*args: Any, **kwargs: Any) -> Any:
        with weights.only(layer):
            return forward(*args, **kwargs)

    return run


@dataclass(frozen=True, eq=False)
class _Part:
    """Consecutive windows of a group, and the number of the first."""

    first: int
    group: Group


def _parts(group: Group, vocabulary: int) -> Iterator[tuple[Tensor, _Part]]:
    """Cut a group into parts whose logits are computed at once; yields the numbers of each part's predictions too."""
    windows, tokens = group.input_ids.shape
    size, before = max(1, LOGITS // (tokens * vocabulary)), 0
    for first in range(0, windows, size):
        here = slice(first, first + size)
        part = Group([], group.input_ids[here], group.attention_mask[here], group.is_activation[here], group.prefix)
        count = int(part.predicts.sum())
        if count:
            yield torch.arange(before, before + count), _Part(first, part)
        before += count


def _trial() -> Group:
    """Make a small group with padding, to see what the model passes to its blocks."""
    ids = torch.zeros(2, 4, dtype=torch.long)
    mask = torch.ones_like(ids)
    mask[1, 2:] = 0
    return Group([], ids, mask, mask.bool(), 0)
