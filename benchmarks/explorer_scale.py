"""Does the explorer bear 100,000 atoms and 10 million indexed tokens? Made up, so that it takes minutes.

    python benchmarks/explorer_scale.py [--quick] [--run FOLDER]

The run is that of benchmarks/made_up_run.py: random directions of the width of `tiny`, 16 atoms a token. `--run` keeps
it in a folder, or takes the one that is there. `itda explore` starts in a process of its own, without the model; then
each thing is asked for several times: the first page and the list of atoms in headless Chromium until they are painted,
pages of atoms, searches among the atoms and in the corpus. Beside the seconds that one waits stand the processor
seconds that the server took, which say more on a machine that is shared.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from common import RESULTS, Results, arguments_for, paragraph, table
from explorer_speed import Explorer, browser_path, painted
from made_up_run import make_run

from itda.core.batch import Site

SITE = Site(3)
WIDTH, K, WINDOW = 192, 16, 127
TIMES, PAGES = 5, 30
SEARCHES = {
    "atoms, a text": ("search", {"q": "ab"}),
    "atoms, a text that there is not": ("search", {"q": "nowhere to be found"}),
    "atoms, a whole token": ("search", {"q": "abc", "in": "exact"}),
    "atoms, an expression": ("search", {"q": "a[bc]+d", "regex": "1"}),
    "atoms, a hostile expression": ("search", {"q": "(a+)+$", "regex": "1"}),
    "corpus, a text": ("corpus", {"q": "ab"}),
    "corpus, a text that there is not": ("corpus", {"q": "nowhere to be found"}),
    "corpus, an expression": ("corpus", {"q": "a[bc]+d", "regex": "1"}),
}


class Measured:
    """Seconds waited and processor seconds of the server, by what was asked for."""

    def __init__(self, explorer: Explorer) -> None:
        self._process = psutil.Process(explorer.process.pid)
        self.rows: dict[str, list[tuple[float, float]]] = {}

    def time(self, name: str, ask: Callable[[], float]) -> None:
        """Ask once; `ask` returns the seconds that were waited."""
        before = self._used()
        waited = ask()
        self.rows.setdefault(name, []).append((waited, self._used() - before))

    def _used(self) -> float:
        times = self._process.cpu_times()
        return times.user + times.system


def measured(run: Path, atoms: int) -> dict[str, Any]:
    """Start the explorer and ask for everything."""
    from playwright.sync_api import sync_playwright

    random = np.random.default_rng(0)
    explorer = Explorer(run, "--no-model")
    try:
        found = Measured(explorer)
        where = {"run": run.name, "site": str(SITE)}
        time.sleep(2)  # what is read ahead after the start
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=browser_path(), args=["--no-sandbox"])
            painted(browser, explorer.address, ".best > ol > li")  # a browser's first page is its slowest
            for _ in range(TIMES):
                found.time("first view", lambda: painted(browser, explorer.address, ".best > ol > li"))
            for _ in range(TIMES):
                found.time("list of atoms", lambda: painted(browser, f"{explorer.address}#/atoms", ".rows .row mark"))
            browser.close()
        for atom in random.choice(atoms, PAGES, replace=False).tolist():
            found.time("page of an atom", lambda atom=atom: explorer.ask("atom", **where, atom=str(atom))[0])
        for name, (answer, query) in SEARCHES.items():
            for _ in range(TIMES):
                found.time(name, lambda a=answer, q=query: explorer.ask(a, **where, **q)[0])
        return {"start_s": explorer.start_s, "rows": found.rows, **explorer.memory()}
    finally:
        explorer.stop()


def report(found: dict[str, Any], atoms: int, tokens: int) -> list[str]:
    """Return the parts of the results' page."""

    def cells(rows: list[tuple[float, float]]) -> list[str]:
        waited, used = ([1000 * each[i] for each in rows] for i in (0, 1))
        return [f"{statistics.median(waited):,.0f}", f"{max(waited):,.0f}", f"{statistics.median(used):,.0f}"]

    anonymous = found["memory"] - found["mapped"]
    return [
        paragraph(
            f"{atoms:,} atoms of width {WIDTH}, {tokens:,} indexed tokens of up to {K} atoms. Milliseconds: the median "
            f"and the worst of {TIMES} ({PAGES} pages of atoms), and the median of the server's processor time. "
            f"`itda explore` says its address after {found['start_s']:.1f} s."
        ),
        table(
            ["", "waited, median", "worst", "processor"], [[name, *cells(rows)] for name, rows in found["rows"].items()]
        ),
        paragraph(
            f"Most memory of the server's process: {found['memory'] / 1e9:.2f} GB, {found['mapped'] / 1e9:.2f} GB "
            f"of it pages of mapped files, which give way; {anonymous / 1e9:.2f} GB beyond them."
        ),
    ]


def main() -> None:
    parser = arguments_for(__doc__, "explorer_scale")
    parser.add_argument("--run", type=Path, help="keep the made-up run in this folder, or take the one that is there")
    a = parser.parse_args()
    atoms, tokens = (2_000, 50_000) if a.quick else (100_000, 10_000_000)
    results = Results(a.out or RESULTS / ("explorer_scale_quick.md" if a.quick else "explorer_scale.md"), fresh=a.fresh)
    key = {"atoms": atoms, "tokens": tokens}
    with tempfile.TemporaryDirectory() as temporary:
        run = a.run or Path(temporary) / "large"
        if results.find(key) is None:
            if not run.exists():
                make_run(run, sites=(SITE,), atoms=atoms, tokens=tokens, d_model=WIDTH, k=K, window=WINDOW)
            results.add(key, measured(run, atoms))
    print(results.write(report(results.find(key) or {}, atoms, tokens)))


if __name__ == "__main__":
    main()
