"""Which bits a dictionary has: the version of the order in which its float64 sums were added.

Addition rounds, so another order gives other last bits: of atoms after refinement, of coefficients, of errors, and so,
seldom, of which activations become atoms. Within a version all bits are the same for any device, thread count or batch.

1. Folds by half the width, `terms[i] + terms[ceil(width / 2) + i]`, down to one number.
2. Folds by powers of two: to 256 numbers, 32 neighbours to one, then these to one: `pursuit.fixed_order.fixed_sum`.
"""

from collections.abc import Iterable

ARITHMETIC = 2
"""The version of this itda. It goes up by one whenever `fixed_sum` adds in another order."""

FIRST = 1
"""The version of what does not say its own: it is from before they were counted."""


def combined(*made: Iterable[int]) -> tuple[int, ...]:
    """Return the versions that something was made with, from those of what it was made of: each once, oldest first.

    >>> combined([2], (1, 2))
    (1, 2)
    """
    return tuple(sorted({version for each in made for version in each}))


def on_other_bits(made: Iterable[int]) -> str | None:
    """Tell a user what it means that something was made with other versions than this itda's; None if it was not.

    >>> print(on_other_bits([1]))
    made with sums in order 1; this itda's are in order 2, so codes may differ in their last bits from those of then
    >>> on_other_bits([2]) is None
    True
    """
    made = list(made)
    if made == [ARITHMETIC]:
        return None
    orders = " and ".join(str(version) for version in made)
    said = f"made with sums in order {orders}; this itda's are in order {ARITHMETIC}"
    return f"{said}, so codes may differ in their last bits from those of then"
