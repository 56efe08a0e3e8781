"""Names of models, told apart without loading anything."""

from pathlib import Path

from itda.errors import ModelError

TINY = Path(__file__).parent.parent / "assets" / "tiny"


def folder_of(name: str) -> Path | None:
    """The path that a model's name means, or that of `tiny`, the bundled one; None for a Hub id.

    Raises `ModelError` for what can only be a path and is not there.
    """
    path = TINY if name == "tiny" else Path(name).expanduser()
    if path.exists():
        return path
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ModelError(f"no folder {name!r}: check the path, or name a Hub model or tiny")
    return None
