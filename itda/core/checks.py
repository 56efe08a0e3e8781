"""Checks of a dictionary's settings. They need only numbers, so a mistake is reported before anything is loaded."""

from itda.errors import SettingError

LOWEST_THRESHOLD = 1e-6
"""The lowest threshold. Below it, rounding of float32 atoms counts as unexplained: an activation may be added twice."""


def check_k(k: int) -> None:
    """Raises `SettingError` unless k, the number of atoms per activation, is at least 1."""
    if k < 1:
        raise SettingError(f"k is {k}: it must be at least 1, the number of atoms per activation")


def check_threshold(threshold: float) -> None:
    """Raises `SettingError` unless the threshold is at least `LOWEST_THRESHOLD` and below 1."""
    if not LOWEST_THRESHOLD <= threshold < 1:
        raise SettingError(
            f"the threshold is {threshold}: it must be at least {LOWEST_THRESHOLD} and below 1, the share of an "
            "activation's energy that may stay unexplained"
        )


def check_number(atoms: int, tokens: int) -> None:
    """Raises `SettingError` unless there is at least one atom, and no more atoms than tokens."""
    if atoms < 1 or atoms > tokens:
        raise SettingError(f"{atoms:,} atoms of {tokens:,} tokens: each atom is a token, so ask for fewer or read more")


def check_refinement(passes: int, min_fidelity: float) -> None:
    """Raises `SettingError` unless `passes` is at least 0 and `min_fidelity` from 0 to 1."""
    if passes < 0:
        raise SettingError(f"{passes} passes of refinement: it must be at least 0")
    if not 0 <= min_fidelity <= 1:
        raise SettingError(
            f"a fidelity of at least {min_fidelity}: it must be from 0 to 1, the cosine to the label's own"
        )


def check_recipe(recipe: int, passes: int, min_fidelity: float, massive: str | None) -> None:
    """Raises `SettingError` unless the recipe of mode best is 1, or 2 with settings that it has."""
    if recipe not in (1, 2):
        raise SettingError(f"recipe {recipe}: it must be 1, to refine the atoms that grew, or 2, for centres of groups")
    if recipe == 1:
        return
    if passes == 0:
        raise SettingError(
            "recipe 2 makes its atoms in rounds: ask for 12, or for recipe 1, where atoms may stay as grown"
        )
    if min_fidelity:
        raise SettingError(
            f"a fidelity of at least {min_fidelity} is only for recipe 1: "
            "leave it out, as the atoms of recipe 2 are centres"
        )
    if massive == "atoms":
        raise SettingError("massive activations as atoms are only for recipe 1: skip them, or use recipe 1")


def check_steps(steps: int | None, recipe: int) -> None:
    """Raises `SettingError` unless `steps` of recipe 2 is at least 0, or None for as many as it usually has."""
    if steps is not None and steps < 0:
        raise SettingError(f"{steps} steps: it must be at least 0")
    if recipe != 2 and steps is not None:
        raise SettingError(f"{steps} steps are only for recipe 2: leave the number out, or use recipe 2")


def check_offset_tokens(offset_tokens: int) -> None:
    """Raises `SettingError` if `offset_tokens` is negative."""
    if offset_tokens < 0:
        raise SettingError(f"offset_tokens is {offset_tokens}: it must be at least 0, for no offset")
