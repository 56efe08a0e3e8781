"""What settings of a dictionary may be. Numbers alone, so that a slip is told before anything is loaded."""

from itda.errors import SettingError

LOWEST_THRESHOLD = 1e-6
"""Below this, the rounding of float32 atoms would count as unexplained, and an activation could be added twice."""


def check_k(k: int) -> None:
    """Raises `SettingError` unless an activation may have an atom."""
    if k < 1:
        raise SettingError(f"k is {k}: it must be at least 1, the number of atoms per activation")


def check_threshold(threshold: float) -> None:
    """Raises `SettingError` unless the threshold is a share that float32 atoms can reach."""
    if not LOWEST_THRESHOLD <= threshold < 1:
        raise SettingError(
            f"the threshold is {threshold}: it must be at least {LOWEST_THRESHOLD} and below 1, the share of an "
            "activation's energy that may stay unexplained"
        )


def check_number(atoms: int, tokens: int) -> None:
    """Raises `SettingError` unless a stream of so many tokens can give so many atoms."""
    if atoms < 1 or atoms > tokens:
        raise SettingError(f"{atoms:,} atoms of {tokens:,} tokens: each atom is a token, so ask for fewer or read more")


def check_refinement(passes: int, min_fidelity: float) -> None:
    """Raises `SettingError` unless passes and fidelity make sense."""
    if passes < 0:
        raise SettingError(f"{passes} passes of refinement: it must be at least 0")
    if not 0 <= min_fidelity <= 1:
        raise SettingError(
            f"a fidelity of at least {min_fidelity}: it must be from 0 to 1, the cosine to the label's own"
        )


def check_offset_tokens(offset_tokens: int) -> None:
    """Raises `SettingError` for a negative number."""
    if offset_tokens < 0:
        raise SettingError(f"offset_tokens is {offset_tokens}: it must be at least 0, for no offset")
