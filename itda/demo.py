"""`itda demo`: train, evaluate, decompose and explore with the bundled model, told step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from itda import config as settings
from itda.parsing import listed
from itda.progress import bars
from itda.terminal import json_line

if TYPE_CHECKING:
    from pathlib import Path

    from itda.core.site import Site
    from itda.recipes import AtomUse, Run, TokenDecomposition

DEMO_HELD_OUT, DEMO_USES, DEMO_INDEXED = 10_000, 20_000, 50_000
DEMO_STEPS = 3
"""Steps of refinement at the end. So many tokens would have 8 by default; the demo is to be quick."""
DEMO_LAYERS, DEMO_TOKENS, DEMO_K = (2, 4), 200_000, 16
DEMO_PROMPTS = ("import os\n\ndef read_file(path", 'raise ValueError(f"expected a', "The method returns a new list")


def demo(options: settings.Demo) -> None:
    """Train, evaluate, decompose, look atoms up and explore with the bundled model, saying what each step is."""
    from itda import recipes, report

    def say(text: str) -> None:
        if not options.json:
            print(text, flush=True)

    run = _demo_training(options, say)
    summaries = run.summaries()
    say(report.run_summary(run, summaries).partition("\n\nNot")[0])

    say("\n2. Evaluate: how well the model predicts held-out files with reconstructions.\n")
    checking = settings.Evaluate(run=options.out, tokens=DEMO_HELD_OUT, **_demo_common(options))
    results = recipes.evaluate_run(checking, bars(options.quiet))
    say(report.evaluation(results))

    site = list(run.sites)[-1]
    last, found = _demo_atoms(run, site, checking, say)
    page = _demo_page(options, site, say)
    if options.json:
        print(
            json_line(
                {
                    "run": str(options.out),
                    **run.values(summaries),
                    "evaluation": {str(s): recipes.finite(asdict(result)) for s, result in results.items()},
                    "prompts": [asdict(token) for token in last],
                    "uses": [[asdict(use) for use in uses] for uses in found],
                    "page": str(page),
                }
            )
        )


def _demo_common(options: settings.Demo) -> dict[str, Any]:
    """Return the demo's settings that its other commands have too."""
    return {"quiet": options.quiet, "memory": options.memory, "fast": options.fast}


def _demo_training(options: settings.Demo, say: Callable[[str], None]) -> Run:
    """Train the demo's dictionaries; a run that an earlier demo left is removed first."""
    from itda import recipes

    training = settings.Train(
        model="tiny",
        layers=DEMO_LAYERS,
        corpus="python-docs",
        out=options.out,
        tokens=DEMO_TOKENS,
        k=DEMO_K,
        steps=DEMO_STEPS,
        json=options.json,
        **_demo_common(options),
    )
    recipes.make_room(options.out, training)
    say("1. Train: each atom is the centre of a group of activations. Its label names")
    say("   the activation nearest to it. tiny is a 6-layer Llama trained on the Python")
    say("   library; the corpus is the documentation and source of your Python.")
    say(f"   {DEMO_TOKENS // 1000}k tokens, layers {listed(DEMO_LAYERS)}. --mode paper does as the paper describes.\n")
    return recipes.train(training, bars(options.quiet))


def _demo_atoms(
    run: Run, site: Site, checking: settings.Evaluate, say: Callable[[str], None]
) -> tuple[list[TokenDecomposition], list[list[AtomUse]]]:
    """Decompose the demo's prompts; return their last tokens, and the uses of the first atom of each."""
    from itda import recipes, report
    from itda.sources.corpora.corpus import open_corpus
    from itda.sources.source import ModelSource

    say(f"\n3. Decompose: the last token of three prompts, {site}. Each atom is named")
    say("   by a token of the corpus, marked « » in its own prompt; the number is its")
    say("   weight.\n")
    model, dictionary = run.model(checking), run.dictionary(site)
    last = [
        recipes.decompose_text(model, dictionary, site, text, run.record["window"], checking.batch_size)[-1]
        for text in DEMO_PROMPTS
    ]
    for token in last:
        say(report.decomposition([token], 4) + "\n")

    say("4. Atoms: three of them, each with the held-out tokens that use it most.\n")
    atoms = [token.atoms[0].atom for token in last]
    source = ModelSource(
        model,
        open_corpus("python-docs").split("heldout"),
        [site],
        window=run.record["window"],
        tokens=DEMO_USES,
    )
    found = recipes.top_uses(source, dictionary, site, atoms, 4)
    for atom, uses in zip(atoms, found, strict=True):
        say(report.uses(atom, dictionary.labels[atom], uses) + "\n")
    return last, found


def _demo_page(options: settings.Demo, site: Site, say: Callable[[str], None]) -> Path:
    """Index the demo's run and export the explorer as one file; return the file."""
    from itda.recipes.explore import export
    from itda.recipes.index import index_run

    say("5. Explore: codes of a part of the corpus are kept, for pages in a browser. Some")
    say("   of these pages are written as one file, to open or to send.\n")
    common, bar = _demo_common(options), bars(options.quiet)
    index = index_run(settings.Index(run=options.out, tokens=DEMO_INDEXED, **common), bar)
    page = options.out / "explorer.html"
    size = export(settings.Explore(runs=(options.out,), export=page, prompts=DEMO_PROMPTS, layer=site, **common), bar)
    say(f"{index.record['tokens']:,} tokens indexed. Written: {page}, {size / 1e6:.1f} MB.")
    say("\nNext:")
    say(f"  itda explore {options.out}      all of it, live, in a browser")
    say(f'  itda decompose {options.out} "for line in open(path):" --layer {site.layer}')
    say("  itda train MODEL --layers 3 --corpus FOLDER    (a Hub id or a folder each)")
    say(f"\nThe page: {page.resolve().as_uri()}")
    return page
