"""Two indexed runs on a strange corpus, served, and a real browser that fails a test for anything it complains of."""

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from strange_corpus import write_to

from itda import config as settings
from itda.explorer.pages import Explorer

pytest.register_assert_rewrite("serving")

from serving import SECONDS, own, port, shared, static  # noqa: E402, F401 - fixtures, for all files here


@dataclass(frozen=True)
class Served:
    address: str
    explorer: Explorer
    runs: tuple[Path, Path]

    def ask(self, name: str, **query: str) -> dict:
        return self.explorer.answer(name, query)


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> tuple[Path, Path]:
    """`plain`, of mode paper, evaluated; and `refined`, of mode best, with all that can be measured: layers 1 and 3."""
    from itda.recipes import evaluate_run, train
    from itda.recipes.effects import measure_run
    from itda.recipes.features import fit_run
    from itda.recipes.index import index_run
    from itda.recipes.replicate import replicate

    root = tmp_path_factory.mktemp("explorer")
    corpus = root / "corpus"
    corpus.mkdir()
    write_to(corpus)
    common = {"model": "tiny", "layers": (1, 3), "corpus": str(corpus), "tokens": 4000, "k": 8, "part": "all"}
    plain = {"mode": "paper", "order": "corpus", "threshold": 0.3}
    refined = {"threshold": 0.4, "mode": "best", "recipe": 1, "refine": 2}
    for name, more in {"plain": plain, "refined": refined}.items():
        train(settings.Train(**common, **more, out=root / name, quiet=True))
        index_run(settings.Index(run=root / name, quiet=True))
    replicate(settings.Replicate(run=root / "refined", draws=2, quiet=True))
    fit_run(settings.Features(run=root / "refined", quiet=True))
    measure_run(settings.Effects(run=root / "refined", contexts=8, tokens=500, quiet=True))
    evaluate_run(settings.Evaluate(run=root / "plain", corpus=str(corpus), tokens=1_000, quiet=True))
    return root / "plain", root / "refined"


@pytest.fixture(scope="session")
def served(runs) -> Iterator[Served]:
    from itda.explorer.server import running
    from itda.recipes.explore import explorer_of

    explorer = explorer_of(settings.Explore(runs=runs))
    with running(explorer) as address:
        yield Served(address, explorer, runs)


@pytest.fixture(scope="session")
def browser():
    found = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium here, and CI installs it: look at .ci/run")
        pytest.skip("no Chromium here: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", *FEW_PROCESSES])
        yield opened
        opened.close()


FEW_PROCESSES = ("--disable-features=IsolateOrigins,site-per-process", "--disable-site-isolation-trials")
FEW_PROCESSES += ("--renderer-process-limit=1", "--process-per-site")
"""Else each page begins a process of its own, which takes longer than all that the page does."""


class Contexts:
    """Contexts of the browser: as good as new for each test, which gives them back for the next.

    A blank page stays in each, and keeps its process: a page in a new process takes three times as long.
    """

    def __init__(self, browser) -> None:
        self.browser = browser
        self.free: dict[tuple, list] = {}
        self.taken: list[tuple[tuple, Any]] = []

    def take(self, **options):
        """One that nobody else has, until `give_all_back`."""
        key = tuple(sorted(options.items()))
        if self.free.get(key):
            context = self.free[key].pop()
        else:
            context = self.browser.new_context(**options)
            context.set_default_timeout(1000 * SECONDS)
            context.new_page()
        self.taken.append((key, context))
        return context

    def pages(self) -> list:
        """The pages that were opened in those that are taken."""
        return [page for _, context in self.taken for page in context.pages[1:]]

    def give_all_back(self) -> None:
        """Close the pages, after they forgot what the theme's button keeps."""
        for page in self.pages():
            if page.url.startswith(("http:", "file:")):
                page.evaluate("localStorage.clear()")
            page.close()
        while self.taken:
            key, context = self.taken.pop()
            self.free.setdefault(key, []).append(context)


@pytest.fixture(scope="session")
def contexts(browser) -> Contexts:
    return Contexts(browser)


class Tabs:
    """Opens pages, and remembers what they complained of and whom they asked."""

    def __init__(self, contexts: Contexts) -> None:
        self.contexts = contexts
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.allowed = 0
        """Complaints that a test provokes, such as a refused request."""

    def open(self, address: str, *, width=1280, height=860, color_scheme="light", **options):
        page = self.contexts.take(**options).new_page()
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme=color_scheme)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(address)
        if options.get("java_script_enabled", True):
            settle(page)
        return page


def settle(page) -> None:
    """Wait until the view is there."""
    page.wait_for_selector('main[aria-busy="false"] h1')


def listed(page) -> None:
    """Wait until the list of atoms shows what was asked for, with the texts of the rows in sight."""
    page.wait_for_selector('.list-view > div[aria-busy="false"]', state="attached")
    page.wait_for_selector('.rows:not([aria-busy="true"])', state="attached")


def until(page, script: str, timeout_s: float = SECONDS) -> None:
    """Wait until an expression is true. Playwright's own way is an eval(), which the pages' policy forbids."""
    end = time.monotonic() + timeout_s
    # While a view is being made, what the expression looks for may not be there.
    tried = f"() => {{ try {{ return {script}; }} catch (e) {{ if (e instanceof TypeError) return false; throw e; }} }}"
    while not page.evaluate(tried):
        assert time.monotonic() < end, f"never became true: {script}"
        page.wait_for_timeout(20)


@pytest.fixture
def tabs(contexts):
    opened = Tabs(contexts)
    yield opened
    pwned = [page.evaluate("window.pwned") for page in contexts.pages() if opened.allowed == 0]
    contexts.give_all_back()
    assert not any(pwned), "text of the corpus ran as a script"
    if opened.allowed == 0:
        assert opened.complaints == []


@pytest.fixture
def visit(tabs, served):
    """Open a view of the served runs; all that it asks for must come from that server."""

    def opened(address: str = "", **options):
        return tabs.open(served.address + address, **options)

    yield opened
    foreign = [url for url in tabs.requests if not url.startswith((served.address, "data:"))]
    assert foreign == []
