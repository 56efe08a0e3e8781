"""How fast a machine reads, computes and makes dictionaries: assumed, or measured on it (`itda.recipes.measuring`).

The time of a dictionary is a straight line in its size: a token costs `fixed + per_atom x atoms` seconds, whether it
is encoded, gone through by growth, or appended by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

TFLOPS, CPU_TFLOPS, DISK_GBPS = 50.0, 0.5, 3.0
"""Assumed where nothing was measured: 10^12 operations a second on a GPU and on a CPU, 10^9 bytes a second read."""

LINK_GBPS = 6.0
"""Assumed: 10^9 bytes a second of hidden states to a GPU and back; they are in memory that is not pinned."""

SHARE = 0.1
"""Assumed: making dictionaries gets this share of the operations that a model's products get."""


@dataclass(frozen=True)
class Cost:
    """Seconds that a token costs: `fixed`, and `per_atom` for each atom of the dictionary.

    >>> Cost(1.0, 0.5).of(10)
    6.0
    """

    fixed: float
    per_atom: float

    def of(self, atoms: int | float) -> float:
        """Return the seconds of a token in a dictionary of so many atoms."""
        return self.fixed + self.per_atom * atoms

    @staticmethod
    def fitted(atoms: Sequence[int | float], seconds: Sequence[int | float], least: float = 0.0) -> Cost:
        """Fit the line to what tokens cost at some sizes, by least squares: an atom costs `least` or more.

        Neither part falls below 0.

        >>> Cost.fitted([1000, 3000], [2e-3, 4e-3])
        Cost(fixed=0.001, per_atom=1e-06)
        """
        mean, middle = sum(atoms) / len(atoms), sum(seconds) / len(seconds)
        spread = sum((each - mean) ** 2 for each in atoms)
        slope = sum((a - mean) * (s - middle) for a, s in zip(atoms, seconds, strict=True)) / spread if spread else 0.0
        if middle < slope * mean:  # a line through 0 is the nearest with no negative part
            slope = sum(a * s for a, s in zip(atoms, seconds, strict=True)) / sum(a * a for a in atoms)
            return Cost(0.0, max(least, slope))
        slope = max(least, slope)
        return Cost(max(0.0, middle - slope * mean), slope)


@dataclass(frozen=True)
class DictionaryCosts:
    """What a token costs one dictionary, on one device, at one width and k."""

    encode: Cost
    """Encoding it in a finished dictionary."""
    grow: Cost
    """Going through it in training, if it becomes no atom."""
    append: Cost
    """Going through it in training, if it becomes an atom."""

    def training(self, tokens: int, atoms: int) -> float:
        """Return the seconds in which a dictionary grows to `atoms` over so many tokens.

        The dictionary is taken to grow as tokens^p, where p is 0.5 if few tokens become atoms, and 1 if all do. Its
        size on the way is then atoms / (1 + p) on average.

        >>> same = Cost(0.0, 1e-6)
        >>> DictionaryCosts(same, same, same).training(1000, 1000)
        0.5
        """
        appended = min(tokens, atoms)
        middle = appended / (1.5 + 0.5 * appended / max(1, tokens))
        return appended * self.append.of(middle) + (tokens - appended) * self.grow.of(middle)

    @staticmethod
    def assumed(flops: float, d_model: int, k: int) -> DictionaryCosts:
        """Return the costs on a device that does so many operations a second in a model's products: `SHARE` of them."""
        cost = Cost(0.0, 2.0 * (d_model + k) / (SHARE * flops))
        return DictionaryCosts(cost, cost, cost)


@dataclass(frozen=True)
class Rates:
    """The rates of a machine, for one model and k."""

    disk: float
    """Bytes per second that are read from disk."""
    flops: float
    """Operations per second of the model's products, where the model runs."""
    link: float
    """Bytes per second that hidden states are copied to a GPU and back."""
    on_cpu: DictionaryCosts
    """What dictionaries cost on the CPU."""
    on_gpu: DictionaryCosts | None = None
    """What they cost on the GPU; None without one."""
