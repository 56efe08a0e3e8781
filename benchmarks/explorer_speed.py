"""How long does one wait in the explorer? A run of 16,384 atoms and an index of a million tokens of 40 codes each.

    python benchmarks/explorer_speed.py [--quick]

The dictionary is trained on `tiny`, so low a threshold that nearly each activation is an atom. The tokens and their
text are those of python-docs; their codes are made up: atoms by Zipf's law, coefficients from an exponential law. Then,
each time from a cold start in a process of its own: `itda explore` until it says its address; the first view in
headless Chromium, until its atoms are painted; pages of atoms from the server, of which none was asked for before; a
text of 100 tokens taken apart; the memory of the server after all of it. Last, the size of an exported page.
"""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, Results, arguments_for, number, paragraph, table

from itda import config as settings
from itda.core.batch import Site
from itda.core.labels import Labels
from itda.explorer.code_index import INDEX_FORMAT, sample
from itda.explorer.code_index_writer import PARTIAL, CodePart, TextPart, merge, parts_of, publish, write_part
from itda.files import write_json
from itda.recipes import train
from itda.recipes.runs import open_run
from itda.sources.corpora.corpus import open_corpus
from itda.sources.models.transformers import LanguageModel
from itda.sources.tokenizing.windows import within_budget

SITE, K, WINDOW, BATCH = Site(3), 40, 128, 8
GROUPS_PER_PART = 64
STARTS, PAGES, TEXTS = 5, 50, 10
TEXT = (
    "def read(path):\n    with open(path) as file:\n        return [line.strip() for line in file if line]\n" * 3
    + "print(read(__file__))\n"
)


def make_run(folder: Path, atoms: int, tokens: int) -> None:
    """A run whose dictionary has at least so many atoms, with a made-up index of so many tokens."""
    options = settings.Train(
        mode="paper",
        order="corpus",
        model="tiny",
        layers=(SITE.layer,),
        corpus="python-docs",
        out=folder,
        tokens=atoms * 5 // 4,
        k=K,
        threshold=1e-4,
    )
    run = train(options)
    number_of = len(run.dictionary(SITE))
    if number_of < atoms:
        raise SystemExit(f"only {number_of} atoms: read more tokens")
    random = np.random.default_rng(0)
    weights = 1 / np.arange(1, number_of + 1)
    partial = folder / PARTIAL
    partial.mkdir()
    groups = within_budget(
        LanguageModel.load("tiny").windower(WINDOW).groups(open_corpus("python-docs"), BATCH), tokens
    )
    found = 0
    for part in itertools.count():
        labels = Labels.concatenate([group.labels() for group in itertools.islice(groups, GROUPS_PER_PART)])
        if len(labels) == 0:
            break
        found += len(labels)
        write_part(partial, part, 0.0, TextPart.of(labels), {SITE: codes(random, len(labels), weights)})
    if found < tokens:
        raise SystemExit(f"the corpus has {found:,} tokens only")
    whole = partial / "whole"
    merge(parts_of(partial), whole, {SITE: (number_of, K)})
    about = {"atoms": number_of, "k": K, "sample": sample(folder / str(SITE) / "atoms.safetensors")}
    record = {"format": INDEX_FORMAT, "format_version": 1, "corpus": "python-docs", "corpus_part": "all"}
    write_json(whole / "index.json", {**record, "tokens": tokens, "pieces": {}, "sites": {str(SITE): about}})
    publish(folder, whole)


def codes(random: np.random.Generator, tokens: int, weights: np.ndarray) -> CodePart:
    """K atoms for each token, without an atom twice: a start by Zipf's law, and steps of a stride from there."""
    first = random.choice(len(weights), size=tokens, p=weights / weights.sum())
    strides = np.cumsum(random.geometric(K / len(weights) * 4, size=(tokens, K)), axis=1)
    atoms = ((first[:, None] + strides) % len(weights)).astype(np.int32)
    atoms[:, 0] = first
    size = np.sort(random.exponential(100, size=(tokens, K)))[:, ::-1] * random.choice([1, 1, 1, -1], size=(tokens, K))
    error = random.beta(2, 8, size=tokens).astype(np.float32)
    count = np.full(tokens, K, np.int32)
    return CodePart(count, atoms.ravel(), size.astype(np.float32).ravel(), error, np.zeros_like(error))


class Explorer:
    """`itda explore` in a process of its own."""

    def __init__(self, run: Path, *more: str) -> None:
        started = time.perf_counter()
        command = [sys.executable, "-m", "itda.cli", "explore", str(run), "--port", "0", "--json", "--quiet", *more]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.address = json.loads(self.process.stdout.readline())["address"]
        self.start_s = time.perf_counter() - started

    def ask(self, name: str, **query: str) -> tuple[float, bytes]:
        """Seconds and the answer."""
        started = time.perf_counter()
        with urllib.request.urlopen(f"{self.address}api/{name}?{urllib.parse.urlencode(query)}") as response:
            content = response.read()
        return time.perf_counter() - started, content

    def decompose(self, run: str, text: str) -> tuple[float, int]:
        """Seconds and the number of tokens."""
        body = json.dumps({"run": run, "site": str(SITE), "text": text}).encode()
        request = urllib.request.Request(f"{self.address}api/decompose", body, {"Content-Type": "application/json"})
        started = time.perf_counter()
        with urllib.request.urlopen(request) as response:
            tokens = len(json.load(response)["tokens"])
        return time.perf_counter() - started, tokens

    def memory(self) -> dict[str, int]:
        """The most bytes that the process has had, and what of the present ones are pages of mapped files."""
        status = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        found = {line.split(":")[0]: line.split()[1] for line in status if line.startswith(("VmHWM", "RssFile"))}
        return {"memory": 1024 * int(found["VmHWM"]), "mapped": 1024 * int(found["RssFile"])}

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()


PAINTED = """
new MutationObserver(() => {
  if (window.painted === undefined && document.querySelector(WANTED)) {
    window.painted = null;
    requestAnimationFrame(() => setTimeout(() => { window.painted = performance.now(); }, 0));
  }
}).observe(document, { subtree: true, childList: true });
"""
"""Notes the milliseconds from the start of the navigation until a frame with what is wanted was painted."""


def painted(browser: Any, address: str, wanted: str) -> float:
    """Seconds from asking for a page until what is wanted is painted, in a new context."""
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    page = context.new_page()
    page.add_init_script(PAINTED.replace("WANTED", repr(wanted)))
    page.goto(address)
    while not page.evaluate("window.painted"):
        page.wait_for_timeout(20)
    taken = page.evaluate("window.painted") / 1000
    context.close()
    return taken


def cold_start(run: Path, atoms: int, seed: int, browser: Any) -> dict[str, Any]:
    """One start of the explorer, and everything asked of it once."""
    explorer = Explorer(run)
    try:
        view = painted(browser, explorer.address, ".best > ol > li")
        random = np.random.default_rng(seed)
        some = random.choice(atoms, PAGES, replace=False).tolist()
        # The most used atom is the slowest: its million uses are ranked.
        pages = [explorer.ask("atom", run=run.name, site=str(SITE), atom=str(atom))[0] for atom in [0, *some]]
        texts = [explorer.decompose(run.name, f"# {i}\n{TEXT}") for i in range(TEXTS)]
        logits = [explorer.ask("logits", run=run.name, site=str(SITE), atom=str(atom))[0] for atom in some[:10]]
        return {
            "start_s": explorer.start_s,
            "first_view_s": view,
            "atom_s": pages,
            "decompose_s": [seconds for seconds, _ in texts],
            "decompose_tokens": min(tokens for _, tokens in texts),
            "logits_s": logits,
            **explorer.memory(),
        }
    finally:
        explorer.stop()


def exported(run: Path, atoms: int) -> dict[str, Any]:
    page = run.parent / "page.html"
    command = [sys.executable, "-m", "itda.cli", "explore", str(run), "--export", str(page), "--top", str(atoms)]
    started = time.perf_counter()
    subprocess.run([*command, "--quiet"], check=True, stdout=subprocess.DEVNULL)
    return {"export_s": time.perf_counter() - started, "bytes": page.stat().st_size}


def browser_path() -> str:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        raise SystemExit("no Chromium here: apt-get install chromium")
    return found


def main() -> None:
    parser = arguments_for(__doc__, "explorer_speed")
    a = parser.parse_args()
    atoms, tokens, starts = (2048, 20_000, 1) if a.quick else (16_384, 1_000_000, STARTS)
    out = a.out or RESULTS / ("explorer_speed_quick.md" if a.quick else "explorer_speed.md")
    results = Results(out, fresh=a.fresh)
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary) / "large"
        if any(results.find({"start": i, "tokens": tokens}) is None for i in range(starts)):
            make_run(run, atoms, tokens)
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=browser_path(), args=["--no-sandbox"])
                size = len(open_run(run).dictionary(SITE))
                for i in range(starts):
                    key = {"start": i, "tokens": tokens}
                    if not results.find(key):
                        results.add(key, {"atoms": size, **cold_start(run, size, i, browser)})
                browser.close()
            results.add({"export": 200, "tokens": tokens}, exported(run, 200))
    found = [row for i in range(starts) if (row := results.find({"start": i, "tokens": tokens}))]
    export = results.find({"export": 200, "tokens": tokens})

    def line(title: str, name: str) -> list[str]:
        each = [row[name] if isinstance(row[name], list) else [row[name]] for row in found]
        every = [1000 * value for values in each for value in values]
        return [title, f"{statistics.median(every):,.0f}", f"{max(every):,.0f}"]

    rows = [
        line("`itda explore` until it says its address", "start_s"),
        line("first view in the browser", "first_view_s"),
        line("page of an atom, from the server", "atom_s"),
        line("its next tokens (runs the model)", "logits_s"),
        line(f"{found[0]['decompose_tokens']} tokens taken apart", "decompose_s"),
    ]
    parts = [
        paragraph(
            f"{found[0]['atoms']:,} atoms of tiny's {SITE}, {tokens:,} tokens of {K} codes. {len(found)} cold starts, "
            f"{PAGES + 1} pages of atoms and {TEXTS} texts in each; milliseconds, medians and worst of all."
        ),
        table(["", "median, ms", "worst, ms"], rows),
        paragraph(
            f"Most memory of the server's process: {max(row['memory'] for row in found) / 1e9:.2f} GB, "
            f"{max(row['mapped'] for row in found) / 1e9:.2f} GB of them pages of mapped files, which give way. "
            + (
                f"An exported page of 200 atoms: {export['bytes'] / 1e6:.1f} MB, in {number(export['export_s'])} s."
                if export
                else ""
            )
        ),
    ]
    print(results.write(parts))


if __name__ == "__main__":
    main()
