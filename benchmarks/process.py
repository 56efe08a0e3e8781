"""What a benchmark measures of its own process: memory by part, and what is read from disk."""

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common import forget_peak, most_resident, resident


def forget_files(folder: Path) -> bool:
    """Put the files of a folder out of the page cache, where the system can."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def disk_reads() -> int | None:
    """Bytes that this process has had read from disk; pages of mapped files count."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def parts_of_memory() -> dict[str, int]:
    """Resident bytes of this process: its own, and of files that are mapped."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return {}
    found = dict(line.split(":", 1) for line in lines)
    return {name: int(found[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile")}


@contextmanager
def watched() -> Iterator[dict[str, int]]:
    """What a block of code takes above what there is when it begins: the peak, and those of its parts."""
    gc.collect()
    forget_peak()
    before, parts, most, ended = resident(), parts_of_memory(), {}, threading.Event()

    def look() -> None:
        while not ended.wait(0.02):
            for name, size in parts_of_memory().items():
                most[name] = max(most.get(name, 0), size - parts[name])

    thread, found = threading.Thread(target=look, daemon=True), {}
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()
        found |= {"peak": most_resident() - before, **most}
