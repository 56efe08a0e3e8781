"""Names of models: which are folders, GGUF files or Hub ids, found out without loading anything."""

import re
from importlib.util import find_spec
from pathlib import Path

from itda.errors import ModelError

TINY = Path(__file__).parents[2] / "assets" / "tiny"

GGUF = ".gguf"
PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)
WEIGHTS = ("*.safetensors", "*.bin")
HUB_FILE = re.compile(r"[\w.-]+/[\w.-]+:.+\.gguf", re.IGNORECASE)


def folder_of(name: str) -> Path | None:
    """Return the path that a model's name stands for (`tiny` is the bundled one); None for a Hub id.

    Raises `ModelError` for what can only be a path and is not there.
    """
    path = TINY if name == "tiny" else Path(name).expanduser()
    if path.exists():
        return path
    if HUB_FILE.fullmatch(name):
        return None
    if name.lower().endswith(GGUF):
        raise ModelError(f"no file {name!r}: check the path; a file of a Hub repository is owner/name:file{GGUF}")
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ModelError(f"no folder {name!r}: check the path, or name a Hub model or tiny")
    return None


def gguf_of(name: str) -> tuple[str, str] | None:
    """Return the folder or Hub id of a model in GGUF, and the file in it; None for the name of another model.

    Such a name is that of a GGUF file, owner/name:file.gguf, or a folder whose weights are in one GGUF file alone.
    Raises `ModelError` for a folder with several, for a file that is one part of several, and where the packages that
    read GGUF are missing.
    """
    path = folder_of(name)
    if path is None:
        if not HUB_FILE.fullmatch(name):
            return None
        found = tuple(name.split(":", 1))
    elif path.is_dir():
        files = _files_in(path)
        if not files:
            return None
        if len(files) > 1:
            names = ", ".join(file.name for file in files[:5]) + ", …" * (len(files) > 5)
            raise ModelError(f"{name} holds {len(files)} GGUF files ({names}): name one of them")
        found = str(path), files[0].name
    elif path.suffix.lower() == GGUF:
        found = str(path.parent), path.name
    else:
        return None
    if PART.search(found[1]):
        raise ModelError(
            f"{found[1]} is one part of several, which transformers does not read: join them with "
            "`llama-gguf-split --merge`, or name the model's own folder"
        )
    for package in ("gguf", "accelerate"):
        if find_spec(package) is None:
            raise ModelError(f"reading {found[1]} needs {package}: pip install 'itda[gguf]'")
    return found[0], found[1]


def _files_in(folder: Path) -> list[Path]:
    """List the GGUF files of a folder without other weights; those of vision towers, mmproj, are no models."""
    if any(True for pattern in WEIGHTS for _ in folder.glob(pattern)):
        return []
    files = [file for file in folder.iterdir() if file.suffix.lower() == GGUF and not file.name.startswith("mmproj")]
    return sorted(files)
