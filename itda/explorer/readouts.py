"""The readouts that the page of a prompt offers: ways to say which atoms a token has, and how much of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from itda.core.code import SparseCode
from itda.core.dictionary import ITDA
from itda.core.levels import TwoLevels
from itda.errors import MissingError, SettingError
from itda.files import FEATURES_FILE

READOUTS = ("code", "levels", "similarity", "features")
"""Their names, as `itda decompose --readout` has them; the first is the one that is shown unless another is chosen."""


def readout_of(query: Mapping[str, str]) -> str:
    """Return the readout that a query asks for. Raises `SettingError` for one that there is not."""
    name = query.get("readout", READOUTS[0])
    if name not in READOUTS:
        raise SettingError(f"no readout {name!r}: use one of {', '.join(READOUTS)}")
    return name


def readouts_of(folder: Path) -> list[str]:
    """Return the readouts of the dictionary in a folder: features only once they have been fitted."""
    return [name for name in READOUTS if name != "features" or (folder / FEATURES_FILE).exists()]


def read(
    dictionary: ITDA, levels: TwoLevels | None, x: Tensor, readout: str, run: Path
) -> tuple[SparseCode, Sequence[float]]:
    """Return what a readout says of activations [tokens, d_model], and the error of each one's code.

    Of levels the error is that of their own code, of the others that of the pursuit's. As many atoms of each as a code
    has at most. `levels` are needed for that readout alone. Raises `MissingError` where no features have been fitted.
    """
    if readout == "features" and dictionary.feature_encoder is None:
        raise MissingError(f"features are not fitted here: fit them with `itda features {run}`")
    if readout == "levels":
        assert levels is not None
        code = levels.encode(x)
        return code, dictionary.error(x, code).tolist()
    code, error = dictionary.decompose(x)
    if readout == "features":
        code = dictionary.features(x)
    if readout == "similarity":
        found = dictionary.similarity(x, top=min(dictionary.k, len(dictionary)))
        assert isinstance(found, SparseCode)
        code = found
    return code, error.tolist()
