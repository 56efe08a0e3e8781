"""The order of `fixed_sum`, once more, in plain Python: the oracle."""


def slow_sum(terms: list[float]) -> float:
    """Add float64 numbers in that order: lanes of 256, warps of 32, and the warps' sums."""
    places = 1
    while places < len(terms):
        places *= 2
    terms = terms + [0.0] * (places - len(terms))
    while len(terms) > 256:
        terms = _folded(terms)
    warps = [terms[at : at + 32] for at in range(0, len(terms), 32)]
    return _sum([_sum(warp) for warp in warps]) + 0.0


def _sum(terms: list[float]) -> float:
    while len(terms) > 1:
        terms = _folded(terms)
    return terms[0]


def _folded(terms: list[float]) -> list[float]:
    half = len(terms) // 2
    return [a + b for a, b in zip(terms[:half], terms[half:], strict=True)]
