"""Commands in processes of their own that can be killed, without the seconds that each would take to import."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# A small run first: what it imports, and the loops that it loads, are then there for all: most of a run's time.
# It forks while nothing runs in parallel: torch has one thread, and the tokenizer makes none.
SCRIPT = """
import contextlib, io, json, os, pathlib, resource, signal, sys, tempfile
import itda.cli, itda.recipes, itda.recipes.train, itda.sources.shards.writer
with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
    pathlib.Path(folder, "a.py").write_text("import os" + 200 * "\\nprint(os.getcwd())")
    first = ["tiny", "--layers", "1", "--corpus", folder, "--tokens", "200", "--threshold", "0.3", "--part", "all"]
    itda.cli.main(["train", *first, "--mode", "paper", "--order", "corpus", "--quiet", "--out", folder + "/run"])
for line in sys.stdin:
    asked = json.loads(line)
    process = os.fork()
    if process == 0:
        null = os.open(os.devnull, os.O_RDWR)
        errors = os.open(asked["errors"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number, stream in ((null, 0), (null, 1), (errors, 2)):
            os.dup2(number, stream)
        if asked["limit"]:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (asked["limit"], asked["limit"]))
        code = 0
        try:
            itda.cli.main(asked["arguments"])
        except SystemExit as error:
            code = error.code or 0
        os._exit(code)
    print(process, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""

ALONE = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


class Command:
    """A command that runs."""

    def __init__(self, parent: "Forking", process: int) -> None:
        self._parent, self.process = parent, process

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        with suppress(ProcessLookupError):
            os.kill(self.process, number)

    def wait(self) -> tuple[int, str]:
        """Its exit status, negative for a signal, and what it wrote to standard error."""
        assert self._parent.parent.stdout is not None
        code = int(self._parent.parent.stdout.readline())
        return code, self._parent.errors.read_text()


class Forking:
    """Runs `itda` commands, one at a time."""

    def __init__(self, parent: subprocess.Popen[str], errors: Path) -> None:
        self.parent, self.errors = parent, errors

    def start(self, *arguments: str, limit: int = 0) -> Command:
        """Start a command; no file of it may have more than `limit` bytes."""
        assert self.parent.stdin is not None
        assert self.parent.stdout is not None
        asked = {"arguments": list(arguments), "limit": limit, "errors": str(self.errors)}
        self.parent.stdin.write(json.dumps(asked) + "\n")
        self.parent.stdin.flush()
        return Command(self, int(self.parent.stdout.readline()))

    def run(self, *arguments: str, limit: int = 0) -> tuple[int, str]:
        """Run a command to its end."""
        return self.start(*arguments, limit=limit).wait()

    def kill_after(self, seconds: float, *arguments: str) -> tuple[int, str]:
        """Run a command and kill it with SIGKILL after some time, if it has not ended."""
        command = self.start(*arguments)
        time.sleep(seconds)
        command.send(signal.SIGKILL)
        return command.wait()


@contextmanager
def forking(folder: Path) -> Iterator[Forking]:
    """What runs commands, with its files in a folder."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    # One thread: threads that wait for each other are slow where other tests run beside these.
    parent = subprocess.Popen([sys.executable, "-c", SCRIPT], env={**os.environ, **ALONE}, **pipes)
    try:
        yield Forking(parent, folder / "errors.txt")
    finally:
        assert parent.stdin is not None
        assert parent.stdout is not None
        parent.stdin.close()
        parent.wait(60)
        parent.stdout.close()
