"""The table of pursuits: a name for each set of rules. A new pursuit is a file beside this one and a row here."""

from itda.core.pursuit.rules.base import PursuitRules
from itda.core.pursuit.rules.mp import MP
from itda.core.pursuit.rules.mp_refit import MP_REFIT
from itda.core.pursuit.rules.nonnegative import NONNEGATIVE
from itda.core.pursuit.rules.omp import OMP
from itda.errors import SettingError

Pursuit = str
"""The name of a pursuit: a key of `RULES`."""

RULES: dict[Pursuit, PursuitRules] = {"mp": MP, "mp_refit": MP_REFIT, "omp": OMP, "nn_mp": NONNEGATIVE}
"""The rules of each pursuit. `itda train --pursuit` offers the first three."""

PURSUITS: tuple[Pursuit, ...] = tuple(RULES)
"""The names of all pursuits."""

__all__ = ["PURSUITS", "RULES", "Pursuit", "PursuitRules", "rules_of"]


def rules_of(pursuit: Pursuit) -> PursuitRules:
    """Look up the rules of a pursuit. Raises `SettingError` if there is none of that name.

    >>> rules_of("mp_refit").refit
    True
    """
    if pursuit not in RULES:
        raise SettingError(f"no pursuit {pursuit!r}: use {', '.join(RULES)}")
    return RULES[pursuit]
