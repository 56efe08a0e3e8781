"""Several models that read the same groups in lockstep: what each computes comes together, and nothing else waits.

Each model is a generator and runs only when it is asked for its next result, one model at a time. So an error or a
Ctrl-C ends all of them at once, and none runs ahead of the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor

from itda.core.site import Site
from itda.sources.models.base import ActivationModel
from itda.sources.models.splicing import Read, SpliceableModel, Spliced
from itda.sources.tokenizing.windows import Group


class SiteOfAll(NamedTuple):
    """The activations of all models for one group at one site."""

    place: int
    """The number of the group."""
    site: Site
    activations: list[Tensor]


class LogitsOfAll(NamedTuple):
    """The logits of all models for some predictions of a group, in their order."""

    place: int
    logits: list[Tensor]


def read_together(
    models: Sequence[ActivationModel], groups: Sequence[Group], sites: Sequence[Site], *, predictions: bool
) -> Iterator[SiteOfAll | LogitsOfAll]:
    """Yield what all models make of some groups; a model that is given more than once is read once.

    The groups of a site come in order, and the predictions of a group come in order. Models in memory yield one group
    after the other, streamed ones a site of all groups first. If models differ in this, what one of them computes waits
    for the others.
    """
    once = list({id(model): model for model in models}.values())
    at = [next(place for place, each in enumerate(once) if each is model) for model in models]
    waiting: list[dict[tuple[int, Site], Tensor]] = [{} for _ in once]
    logits: list[deque[Spliced]] = [deque() for _ in once]
    with ExitStack() as stack:
        streams = [_read(model, groups, sites, predictions) for model in once]
        for stream in streams:
            stack.callback(stream.close)
        while True:
            arrived = [next(stream, None) for stream in streams]
            if all(each is None for each in arrived):
                return
            for number, each in enumerate(arrived):
                if isinstance(each, Read):
                    waiting[number][each.place, each.site] = each.activations
                elif each is not None:
                    logits[number].append(each)
            for key in [key for key in waiting[0] if all(key in others for others in waiting)]:
                found = [others.pop(key) for others in waiting]
                yield SiteOfAll(*key, [found[number] for number in at])
            while all(logits):
                yield _next_logits(logits, at)


def _read(
    model: ActivationModel, groups: Sequence[Group], sites: Sequence[Site], predictions: bool
) -> Generator[Read | Spliced, None, None]:
    if predictions and isinstance(model, SpliceableModel):
        yield from model.read(groups, sites)
        return
    for place, found in model.harvest(groups, sites):
        yield from (Read(place, site, found[site]) for site in sites if site in found)


def _next_logits(waiting: Sequence[deque[Spliced]], at: Sequence[int]) -> LogitsOfAll:
    """Take as many predictions as all models have: they may come in parts of other sizes."""
    firsts = [each.popleft() for each in waiting]
    number = min(len(each.rows) for each in firsts)
    for queue, each in zip(waiting, firsts, strict=True):
        assert (each.place, int(each.rows[0])) == (firsts[0].place, int(firsts[0].rows[0]))
        if len(each.rows) > number:
            queue.appendleft(each._replace(rows=each.rows[number:], logits=each.logits[number:]))
    taken: list[Tensor] = [each.logits[:number] for each in firsts]
    return LogitsOfAll(firsts[0].place, [taken[place] for place in at])


def on_one_device(activations: Sequence[Tensor]) -> list[Tensor]:
    """Return activations in float32, on the device of the first."""
    return [x.to(activations[0].device, torch.float32) for x in activations]
