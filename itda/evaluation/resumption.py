"""Evaluation of a model in memory from a site on: the blocks before the site are run once for all replacements.

One pass over a group keeps the hidden states that go into the blocks after its sites. Each replacement is put into one
of them, or into the block of its site, and only what follows is run, by the model's own forward pass
(`itda.sources.models.replay`). `resumption` tries on a small group whether that gives the model's own logits; where
it does not, the whole model runs for each replacement.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from itda.core.batch import Site
from itda.evaluation.repeats import Repeats, are_repeated, needed
from itda.machine import free_device_memory
from itda.sources.models.blocks import Place, activations_in, find_blocks
from itda.sources.models.hooks import Hook, changed, hooked
from itda.sources.models.replay import Form, NotReplayableError, form_of, real_forward, replaced, run_blocks, run_head
from itda.sources.models.splicing import Key, ResumableModel, Splice, SpliceableModel, Spliced, Splicer, WholePasses
from itda.sources.tokenizing.windows import Group

LOGITS, LOGITS_ON_A_GPU = 2**23, 2**26
"""Logits computed at once, on a CPU and on a GPU: with more than that, a CPU would allocate memory each time."""

KEPT_BYTES = 2**30
"""Memory in bytes for the hidden states that are kept from one pass to the next."""

ROOMY = 8
"""They stay on the GPU if it has so many times `KEPT_BYTES` free."""

ROUNDINGS = 8
"""Roundings by which the logits of a trial may differ: products of other shapes are summed in another order."""


@dataclass(eq=False)
class _Clean:
    """Hidden states of a group in a pass with nothing replaced, from which passes go on."""

    group: Group
    hidden: dict[int, Tensor] = field(default_factory=dict)
    """The hidden state before each block, by the block's number; after the last block, by one more."""
    inside: dict[Site, Tensor] = field(default_factory=dict)
    """The activations [windows, tokens, d_model] at sites within blocks."""

    def at(self, site: Site) -> Tensor:
        """Return the activations [windows, tokens, d_model] of a site."""
        if site.stream != "resid_post":
            return self.inside[site]
        state = self.hidden[site.layer + 1]
        return activations_in(state, self.group.input_ids.shape, state.shape[-1])

    def to(self, device: str | torch.device) -> _Clean:
        """Return a copy on another device."""
        hidden = {layer: state.to(device) for layer, state in self.hidden.items()}
        return _Clean(self.group, hidden, {site: x.to(device) for site, x in self.inside.items()})

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in (*self.hidden.values(), *self.inside.values()))


@dataclass(eq=False)
class Resumption:
    """A `Splicer` that runs only the blocks after a site for each replacement there.

    `harvest` and `spliced` must be given the same groups in the same order.
    """

    model: ResumableModel
    sites: Sequence[Site]
    form: Form
    beside: Collection[str] = ()
    """Replacements whose logits must come together with the clean ones."""
    gathers: bool = True
    """True if the model's head may be run on the places that predict alone."""
    repeats: bool = True
    """True if windows that begin alike may share hidden states."""
    _kept: dict[int, _Clean] = field(default_factory=dict)
    _bytes: int = 0
    _harvested: int = 0
    _spliced: int = 0
    _repeats: dict[Key, Repeats] = field(default_factory=dict)

    @cached_property
    def blocks(self) -> nn.ModuleList:
        """The blocks of the model, first to last."""
        return find_blocks(self.model.model)

    def harvest(
        self, groups: Sequence[Group]
    ) -> Iterator[tuple[int, dict[Site, Float[Tensor, "activations d_model"]]]]:
        """Yield the same as the model's own `harvest`, to the bit, and keep hidden states while there is room."""
        for place, group in enumerate(groups):
            clean = self._clean(group, self._deepest)
            if self._bytes + clean.bytes <= KEPT_BYTES:
                self._bytes += clean.bytes
                self._kept[self._harvested] = clean.to(self._kept_on)
            self._harvested += 1
            yield place, {site: clean.at(site)[group.is_activation.to(clean.at(site).device)] for site in self.sites}

    def spliced(self, groups: Sequence[Group], splice: Splice) -> Iterator[Spliced]:
        """Yield the same as the model's own `spliced`, to within rounding."""
        for place, group in enumerate(groups):
            kept = self._kept.pop(self._spliced, None)
            self._spliced += 1
            if kept is not None and not torch.equal(kept.group.input_ids, group.input_ids):
                kept = None
            scored = self.model.is_causal and bool(group.predicts.any())
            clean = self._clean(group, len(self.blocks) if scored else self._deepest, kept)
            # By key: the last hidden states of all windows together, or of each window apart.
            hidden: dict[Key, Tensor] = {None: clean.hidden[max(clean.hidden)]}
            apart: dict[Key, list[Tensor | None]] = {}
            for site in self.sites:
                x = clean.at(site)
                for name, values in splice(place, site, x[group.is_activation.to(x.device)]).items():
                    if not scored:
                        continue
                    windows = self._repeated(clean, (site, name), values)
                    if windows is None:
                        hidden[site, name] = self._after(clean, site, values)
                    elif name in self.beside:
                        hidden[site, name] = _together(windows, hidden[None])
                    else:
                        apart[site, name] = windows
            if scored:
                yield from self._logits(place, group, hidden)
                for key, windows in apart.items():
                    yield from self._logits_apart(place, group, key, windows)

    @cached_property
    def _kept_on(self) -> torch.device:
        """The device on which hidden states are kept: the model's, if its memory is far from short."""
        device = torch.device(self.model.device)
        return device if free_device_memory(device) >= ROOMY * KEPT_BYTES else torch.device("cpu")

    @property
    def _deepest(self) -> int:
        """The number of blocks that have to run so that all sites can be read."""
        return max(site.layer for site in self.sites) + 1

    @torch.inference_mode()
    def _clean(self, group: Group, last: int, kept: _Clean | None = None) -> _Clean:
        """Run a group through the first `last` blocks, from the kept hidden states on if there are any."""
        kept = (kept or _Clean(group)).to(self.model.device)
        hidden, inside = dict(kept.hidden), dict(kept.inside)
        wanted = {_resumed(site) for site in self.sites}
        start = max(hidden, default=0)

        def watch(layer: int, state: Tensor) -> None:
            if layer in wanted and layer not in hidden:
                hidden[layer] = state.clone()  # the block may overwrite it

        def reader(site: Site, there: Place) -> Hook:
            def read(output: Any) -> None:
                inside[site] = there.read(output, group.input_ids.shape, self.model.d_model)

            return read

        hooks = [
            (there.module, reader(site, there))
            for site, there in self.model.places(self.sites).items()
            if site.stream != "resid_post" and site not in inside
        ]
        state = hidden[start].clone() if start else None
        with hooked(hooks):
            hidden[last] = self._run(group, range(start, last), state, watch)
        return _Clean(group, hidden, inside)

    @torch.inference_mode()
    def _after(self, clean: _Clean, site: Site, values: Tensor) -> Tensor:
        """Return the last hidden states of a group with other activations at a site."""
        state, layers = clean.hidden[_resumed(site)], range(_resumed(site), len(self.blocks))
        there, mask = self.model.places([site])[site], clean.group.is_activation.to(state.device)
        if site.stream == "resid_post":
            return self._run(clean.group, layers, there.write(state, values, mask))
        with hooked([(there.module, lambda output: there.write(output, values, mask))]):
            return self._run(clean.group, layers, state.clone())

    def _run(self, group: Group, layers: range, state: Tensor | None, *watch: Any) -> Tensor:
        forward = lambda: self.model.forward(self.model.model.base_model, group)  # noqa: E731
        return run_blocks(self.blocks, layers, self.form, state, forward, *watch)

    @torch.inference_mode()
    def _repeated(self, clean: _Clean, key: tuple[Site, str], values: Tensor) -> list[Tensor | None] | None:
        """Return the last hidden states [tokens, d_model] of windows that predict; None unless all are repeated."""
        site = key[0]
        if not self.repeats or site.stream != "resid_post":
            return None
        group, windows, tokens = clean.group, *clean.group.input_ids.shape
        mask, state = group.is_activation.to(values.device), clean.hidden[site.layer + 1]
        written = self.model.places([site])[site].write(state, values, mask)
        hidden = activations_in(written, (windows, tokens), values.shape[-1])
        length = needed(group.predicts).to(hidden.device)
        if not are_repeated(hidden, length):
            return None
        held = self._repeats.setdefault(key, Repeats())
        begins = [hidden[window, :number] for window, number in enumerate(length.tolist())]
        found = [held.find(some) if len(some) else None for some in begins]
        new: list[tuple[int, Tensor]] = []
        of: dict[int, int] = {}  # which of the new windows each one is like
        for window, some in enumerate(begins):
            if len(some) and found[window] is None:
                like = next((i for i, (_, whole) in enumerate(new) if torch.equal(whole[: len(some)], some)), len(new))
                of[window] = like
                if like == len(new):
                    # Nothing sees what comes later: repeat the last state, so that longer windows begin alike.
                    new.append((window, torch.cat([some, some[-1:].expand(tokens - len(some), -1)])))
        if new:
            layers = range(site.layer + 1, len(self.blocks))
            state = torch.stack([whole for _, whole in new])
            made = [after.clone() for after in self._run(_full(group, [window for window, _ in new]), layers, state)]
            for (_, whole), after in zip(new, made, strict=True):
                held.keep(whole, after)
            for window, like in of.items():
                found[window] = made[like]
        return found

    def _logits(self, place: int, group: Group, hidden: dict[Key, Tensor]) -> Iterator[Spliced]:
        """Yield the logits of all replacements for the first predictions, then of all for the next, and so on."""
        places = group.predicts.flatten().nonzero()[:, 0]
        for rows in torch.arange(len(places)).split(self._at_once(len(places))):
            for key, state in hidden.items():
                yield Spliced(place, key, rows, self._head(group, state, places[rows]))

    def _logits_apart(self, place: int, group: Group, key: Key, windows: Sequence[Tensor | None]) -> Iterator[Spliced]:
        """Yield the logits of windows; those that share hidden states share the computation."""
        predicts = group.predicts
        number = (predicts.flatten().cumsum(0) - 1).view_as(predicts)
        for after in {id(after): after for after in windows if after is not None}.values():
            same = torch.tensor([window for window, hidden in enumerate(windows) if hidden is after])
            places = predicts[same].any(dim=0).nonzero()[:, 0]
            for part in places.split(self._at_once(len(places))):
                window, at = predicts[same][:, part].nonzero(as_tuple=True)
                rows = number[same][:, part][window, at]
                yield Spliced(place, key, rows, self._head(_full(group, [int(same[0])]), after[None], part), at)

    def _at_once(self, places: int) -> int:
        """Return the number of predictions whose logits are computed together."""
        if not self.gathers:
            return max(1, places)
        logits = LOGITS if torch.device(self.model.device).type == "cpu" else LOGITS_ON_A_GPU
        return max(1, logits // self.model.vocabulary)

    @torch.inference_mode()
    def _head(self, group: Group, state: Tensor, places: Int64[Tensor, " places"]) -> Tensor:
        """Return the logits [places, vocabulary] at places of a group, counted row by row."""
        places = places.to(state.device)
        forward = lambda: self.model.forward(self.model.model, group).logits  # noqa: E731
        head = self.model.model.get_output_embeddings()
        if head is None or not self.gathers:
            return run_head(self.blocks, self.form, state, forward).flatten(0, 1)[places]
        real = real_forward(head)
        with replaced([head], [lambda hidden: real(hidden.flatten(0, 1)[places][None])]):
            return run_head(self.blocks, self.form, state, forward)[0]


def _resumed(site: Site) -> int:
    """Return the first block to run for a replacement at a site."""
    return site.layer + (site.stream == "resid_post")


def _full(group: Group, windows: Sequence[int]) -> Group:
    """Return windows of a group as if they were full: what follows their tokens changes nothing for them."""
    ids = group.input_ids[list(windows)]
    return Group([], ids, torch.ones_like(ids), group.is_activation[list(windows)], group.prefix)


def _together(windows: Sequence[Tensor | None], like: Tensor) -> Tensor:
    """Join the hidden states of repeated windows into those of one group; zeros for windows that predict nothing."""
    found = torch.zeros_like(like).view(len(windows), -1, like.shape[-1])
    for window, hidden in enumerate(windows):
        if hidden is not None:
            found[window] = hidden
    return found.view_as(like)


def splicer_of(model: SpliceableModel, sites: Sequence[Site], beside: Collection[str] = ()) -> Splicer:
    """Choose how to evaluate a model at some sites: from each site on where it can, else by whole passes.

    A `ResumableModel` can run from a site on if a trial shows that it gives the same logits. `beside` names the
    replacements whose logits have to come together with the clean ones. Raises `ModelError` for a site that the model
    does not have.
    """
    model.check(sites)
    made = resumption(model, sites, beside) if isinstance(model, ResumableModel) else None
    return made or WholePasses(model, sites)


def resumption(model: ResumableModel, sites: Sequence[Site], beside: Collection[str] = ()) -> Resumption | None:
    """Make a splicer that runs a model from its sites on, or None if a trial shows other logits than the model's.

    A model that is steered now, or edited (`itda.sources.models.hooks.changed`), is not run in parts.
    """
    if changed(model.model):
        return None
    group = _trial(model)
    with suppress(NotReplayableError, RuntimeError, ValueError, TypeError, IndexError, AttributeError, KeyError):
        form = form_of(find_blocks(model.model), lambda: model.forward(model.model.base_model, group))
        if form is None:
            return None
        if not model.is_causal:
            return Resumption(model, sites, form)
        ways = [(True, True), (True, False), (False, True), (False, False)]
        for gathers, repeats in ways:
            if all(_is_right(Resumption(model, [site], form, (), gathers, repeats), group) for site in sites):
                return Resumption(model, sites, form, beside, gathers, repeats)
    return None


def _is_right(made: Resumption, group: Group) -> bool:
    """Return True if the logits equal those of whole passes, with two replacements: shuffled activations, and zeros."""
    model, (site,) = made.model, made.sites
    ways = {"other": lambda x: x.flip(0), "zeros": torch.zeros_like}
    count = int(group.predicts.sum())
    found: dict[Key, Tensor] = {}
    for _, key, rows, logits, at in made.spliced([group], lambda _, __, x: {n: way(x) for n, way in ways.items()}):
        part = logits if at is None else logits[at]
        found.setdefault(key, part.new_zeros(count, part.shape[1]))[rows.to(part.device)] = part
    predicts = group.predicts.to(model.device)
    whole: dict[Key, Tensor] = {None: model.logits(group)[predicts]}
    whole |= {(site, name): model.logits(group, site, way)[predicts] for name, way in ways.items()}
    return all(_alike(found[key], logits) for key, logits in whole.items())


def _alike(a: Tensor, b: Tensor) -> bool:
    largest = b[b.isfinite()].abs().max().item() if bool(b.isfinite().any()) else 0.0
    return torch.allclose(a, b, rtol=0, atol=ROUNDINGS * torch.finfo(b.dtype).eps * largest, equal_nan=True)


def _trial(model: ResumableModel) -> Group:
    """Make a small group of windows of unequal length and with different tokens."""
    windows, tokens = 3, 8
    ids = (7 * torch.arange(windows * tokens) % model.vocabulary).view(windows, tokens)
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    mask[2, 7:] = 0
    return Group([], ids, mask, mask.bool(), 0)
