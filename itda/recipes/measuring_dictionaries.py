"""What a token costs a dictionary on this machine: `Trainer` and `ITDA.encode`, timed on made-up activations."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from itda.core.batch import ActivationBatch
from itda.core.checks import LOWEST_THRESHOLD
from itda.core.dictionary import ITDA
from itda.core.labels import Labels, strings
from itda.core.pursuit.fixed_order import full_precision_products
from itda.core.training.trainer import Trainer
from itda.sources.streamed.rates import Cost, DictionaryCosts

SIZES = {"cpu": (512, 1024, 2048), "cuda": (2048, 4096, 8192)}
"""Numbers of atoms at which tokens are timed, by type of device."""
ENOUGH_S = 3.0
"""Seconds after which no larger dictionary is grown, once there are two sizes."""
TIMED = {"cpu": 256, "cuda": 1024}
"""Tokens that are timed at a size, after as many that are not; and that are offered at once. By type of device."""
REPEATS, LONG_S = 3, 0.5
"""Times that tokens are timed at a size, unless they take long: the least counts, as other work only makes it more."""
MOST, FEW = 0.8, 0.02
"""Shares of the tokens that become atoms: while a dictionary grows to a size, and at that size."""
FIRST_THRESHOLD = 0.2
"""The threshold of the first tokens."""
DIRECTIONS, WORDS, ACTIVE = 4096, 1024, 12
"""The make of the activations: directions, vectors of words, and the directions of a token besides its word's."""


def dictionary_costs(d_model: int, k: int, atoms: int, device: torch.device) -> tuple[DictionaryCosts, tuple[int, ...]]:
    """Return what a token costs dictionaries of this width and k on a device, and the sizes that were timed.

    A dictionary grows to each size under a threshold that most tokens exceed: that times tokens that become atoms. Then
    the threshold is set so that few do.
    """
    sizes = tuple(size for size in SIZES[device.type] if size <= atoms) or (max(2, atoms),)
    stream = _Stream(d_model, 2 * sizes[-1] + (3 + REPEATS) * TIMED[device.type] * len(sizes), device)
    stream.offer(_trainer(d_model, k), min(stream.timed, sizes[0]))  # compiles
    trainer, started = _trainer(d_model, k), time.perf_counter()
    middles: list[float] = []
    appending: list[float] = []
    timed: list[int] = []
    growing: list[float] = []
    for size in sizes:
        before = len(trainer)
        appending.append(_grown(trainer, stream, size))
        middles.append((before + len(trainer)) / 2)
        trainer.threshold = _threshold(trainer, stream.next(stream.timed), FEW)
        stream.offer(trainer, stream.timed)
        growing.append(_least(lambda: stream.offer(trainer, stream.timed)) / stream.timed)
        timed.append(len(trainer))
        if len(timed) > 1 and time.perf_counter() - started > ENOUGH_S:
            break
        trainer.threshold = _threshold(trainer, stream.next(stream.timed), MOST)
    dictionary = trainer.finish()
    least = _product(dictionary, stream)
    grow, append = Cost.fitted(timed, growing, least), Cost.fitted(middles, appending, least)
    return DictionaryCosts(_encoding(dictionary, stream, least), grow, append), tuple(timed)


def _trainer(d_model: int, k: int) -> Trainer:
    return Trainer(d_model, k=k, threshold=FIRST_THRESHOLD, pursuit="mp_refit")


def _grown(trainer: Trainer, stream: _Stream, size: int) -> float:
    """Offer tokens until there are `size` atoms, or twice as many tokens were; return the seconds of a token."""
    seconds, tokens, most = 0.0, 0, 2 * max(stream.timed, size - len(trainer))
    while len(trainer) < size and tokens < most:
        seconds += stream.offer(trainer, stream.timed)
        tokens += stream.timed
    return seconds / max(1, tokens)


def _threshold(trainer: Trainer, activations: Tensor, share: float) -> float:
    """Return the threshold that this share of some activations exceeds."""
    error = trainer.error(activations).quantile(1 - share).item()
    return min(0.99, max(LOWEST_THRESHOLD, error))


def _product(dictionary: ITDA, stream: _Stream) -> float:
    """Return what each atom costs a token at least: its share of one product of activations with the dictionary.

    Times at sizes that are close together, on a machine that is busy, may say less.
    """
    x = stream.next(stream.timed)
    atoms = dictionary.atoms.to(x.device)
    with full_precision_products(x.device):
        call = partial(torch.nn.functional.linear, x, atoms)
        call()
        return _least(partial(_seconds, call, x.device)) / (len(x) * len(atoms))


def _encoding(dictionary: ITDA, stream: _Stream, least: float) -> Cost:
    """Time `ITDA.encode` in a quarter of a dictionary's atoms, and in all."""
    sizes = sorted({max(1, len(dictionary) // 4), len(dictionary)})
    x = stream.next(stream.timed)
    seconds = []
    for size in sizes:
        part = ITDA(
            atoms=dictionary.atoms[:size].to(x.device),
            labels=dictionary.labels[np.arange(size)],
            k=dictionary.k,
            pursuit=dictionary.pursuit,
        )
        part.encode(x)  # so that the Gram matrix is there
        call = partial(part.encode, x)
        seconds.append(_least(partial(_seconds, call, x.device)) / len(x))
    return Cost.fitted(sizes, seconds, least)


def _least(seconds: Callable[[], float]) -> float:
    """Return the least of a few times; one that takes long is not taken again."""
    taken = [seconds()]
    while len(taken) < REPEATS and sum(taken) < LONG_S:
        taken.append(seconds())
    return min(taken)


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


class _Stream:
    """Made-up activations on a device, with what a language model's have: a mean, words, and a few directions each."""

    def __init__(self, d_model: int, number: int, device: torch.device) -> None:
        draw = torch.Generator().manual_seed(0)
        self._x = _activations(number, d_model, draw).to(device)
        self._at, self.timed = 0, TIMED[device.type]

    def next(self, number: int) -> Float[Tensor, "batch d_model"]:
        """Return the next activations; from the beginning again where there are no more."""
        if self._at + number > len(self._x):
            self._at = 0
        self._at += number
        return self._x[self._at - number : self._at]

    def offer(self, trainer: Trainer, number: int) -> float:
        """Offer the next activations to a trainer; return how many seconds that took."""
        batch = ActivationBatch(self.next(number), _labels(number))
        return _seconds(lambda: trainer.offer(batch), batch.activations.device)


def _activations(number: int, d_model: int, draw: torch.Generator) -> Float[Tensor, "batch d_model"]:
    directions = torch.randn(DIRECTIONS, d_model, generator=draw).div_(d_model**0.5)
    x = torch.randn(number, d_model, generator=draw).mul_((1.2 / d_model) ** 0.5)
    x += torch.randn(d_model, generator=draw) * (14 / d_model) ** 0.5
    x += 2 * directions[_zipf(number, WORDS, draw)]
    chosen = _zipf(number * ACTIVE, DIRECTIONS, draw).view(number, ACTIVE)
    strength = torch.empty(number, ACTIVE).exponential_(generator=draw)
    return x.add_(torch.nn.functional.embedding_bag(chosen, directions, mode="sum", per_sample_weights=strength))


def _zipf(number: int, kinds: int, draw: torch.Generator) -> Tensor:
    """Draw from p(i) in proportion to 1 / (i + 3), by inverting the integral of it."""
    u = torch.rand(number, generator=draw, dtype=torch.float64)
    return ((3 * ((kinds + 3) / 3) ** u) - 3).long().clamp_(0, kinds - 1)


def _labels(number: int) -> Labels:
    place = np.arange(number)
    text = strings([""] * number)
    return Labels(
        document=text, position=place, char_start=place, char_end=place, token_id=place, window=text, window_start=place
    )
