"""The command line: each command calls a module of `itda.recipes`. Models and tensors are imported when needed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from itda import config as settings
from itda.checks import are_fingerprints, check
from itda.errors import ItdaError
from itda.parsing import RefusedError, listed
from itda.progress import bars, remarks
from itda.terminal import check_arguments, json_line, prepare_output

if TYPE_CHECKING:
    from pathlib import Path

    from itda.core.site import Site
    from itda.recipes import AtomUse, Run, TokenDecomposition

DEMO_HELD_OUT, DEMO_USES, DEMO_INDEXED = 10_000, 20_000, 50_000
DEMO_LAYERS, DEMO_TOKENS, DEMO_K = (2, 4), 200_000, 16
DEMO_PROMPTS = ("import os\n\ndef read_file(path", 'raise ValueError(f"expected a', "The method returns a new list")


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `itda`. Exit status 0, or 2 with one line on standard error for bad usage or bad input."""
    given = sys.argv[1:] if arguments is None else arguments
    if "--version" in given:
        from itda.version import __version__

        print(f"itda {__version__}")
        return
    prepare_output()
    try:
        check_arguments(given)
        command = _parsed(_spelled(given))
        check(command)
        _dispatch(command)
    except ItdaError as error:
        print(f"itda: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt as stop:
        # A run that can be resumed says so in the exception.
        print(f"itda: {stop}" if str(stop) else "itda: stopped; nothing was written", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:  # the reader of our output, `head` for one, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        from itda.files import is_full

        if not is_full(error):
            raise
        print(f"itda: no space ({error}): free some, and run the command again", file=sys.stderr)
        raise SystemExit(2) from None


def _parsed(arguments: list[str]) -> Any:
    import tyro

    try:
        return tyro.cli(
            settings.Command,  # pyright: ignore[reportArgumentType] - a union of dataclasses
            prog="itda",
            args=arguments,
            description="Take a language model's activations apart into labelled ones.",
            config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes),
        )
    except RefusedError as refused:
        raise refused.args[0] from None


def _dispatch(command: Any) -> None:
    if isinstance(command, settings.Info):
        _info(command)
        return
    import transformers

    # Other libraries' bars and warnings would bury our one line per failure.
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    import logging

    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    logging.getLogger("httpx").setLevel(logging.CRITICAL)
    match command:
        case settings.Train():
            _train(command)
        case settings.Harvest():
            _harvest(command)
        case settings.Plan():
            _plan(command)
        case settings.Decompose():
            _decompose(command)
        case settings.Evaluate():
            _evaluate(command)
        case settings.Probe():
            _probe(command)
        case settings.Fingerprint():
            _fingerprint(command)
        case settings.Compare():
            _compare(command)
        case settings.Index():
            _index(command)
        case settings.Replicate():
            _replicate(command)
        case settings.Features():
            _features(command)
        case settings.Explore():
            _explore(command)
        case settings.Demo():
            _demo(command)


def _train(options: settings.Train) -> None:
    from itda import recipes, report

    run = recipes.train(options, bars(options.quiet), remarks(options.quiet))
    if options.json:
        _print_json({"run": str(run.folder), **run.values(run.summaries())})
    else:
        print(report.run_summary(run, run.summaries()))


def _harvest(options: settings.Harvest) -> None:
    from itda import report
    from itda.recipes.harvest import harvest

    with _resumable():
        made = harvest(options, bars(options.quiet), remarks(options.quiet))
    if options.json:
        values = {name: value for name, value in vars(made).items() if name not in ("folder", "about", "sites")}
        sites = {str(site): {"bytes": size} for site, size in made.sites.items()}
        _print_json({"activations": str(made.folder), **made.about, **values, "sites": sites})
    else:
        print(report.harvest_summary(made))


def _plan(options: settings.Plan) -> None:
    from itda import report
    from itda.recipes.plan import plan, plan_values

    made = plan(options, bars(options.quiet))
    if options.json:
        _print_json(plan_values(made))
    else:
        print(report.plan_summary(made))


def _info(options: settings.Info) -> None:
    if options.run.is_file():
        from itda.recipes.fingerprint import fingerprint_values
        from itda.recipes.runs import finite
        from itda.report.fingerprints import fingerprint_summary
        from itda.store.fingerprints import read_fingerprint

        made = read_fingerprint(options.run)
        if options.json:
            _print_json({"fingerprint": str(options.run), **finite(fingerprint_values(made))})
        else:
            print(fingerprint_summary(made, options.run))
        return
    from itda.report.runs import run_summary
    from itda.store.records import open_record

    run = open_record(options.run)
    summaries = run.summaries()
    if options.json:
        _print_json({"run": str(options.run), **run.values(summaries)})
    else:
        print(run_summary(run, summaries))


def _decompose(options: settings.Decompose) -> None:
    from itda import recipes, report
    from itda.recipes.decompose import NUMBERS
    from itda.recipes.explore import prompt_address

    site, tokens = recipes.decompose(options, remarks(options.quiet))
    if options.json:
        _print_json({"run": str(options.run), "site": str(site), "tokens": [_token_values(t) for t in tokens]})
    else:
        number = NUMBERS.get(options.readout, "coefficient")
        refined = ", fidelity" if any(use.fidelity is not None for token in tokens for use in token.atoms) else ""
        near = (
            ",\n≈ the tokens nearest to it in other documents"
            if any(use.nearest for token in tokens for use in token.atoms)
            else ""
        )
        print(f"{site} of {options.run}\n{number}, atom{refined}, the atom's own prompt with its «token»{near}\n")
        print(report.decomposition(tokens, options.top))
        print(f"\nIn a browser: itda explore {options.run}, then")
        print(prompt_address(options.run, site, options.text, options.token))


def _evaluate(options: settings.Evaluate) -> None:
    from itda import recipes, report

    results = recipes.evaluate_run(options, bars(options.quiet), remarks(options.quiet))
    if options.json:
        sites = {str(site): recipes.finite(asdict(result)) for site, result in results.items()}
        _print_json({"run": str(options.run), "sites": sites})
    else:
        print(report.evaluation(results))


def _probe(options: settings.Probe) -> None:
    from itda import report
    from itda.recipes import finite
    from itda.recipes.probe import LATENT_COUNTS, probe_run

    names, results = probe_run(options, bars(options.quiet), remarks(options.quiet))
    if not options.json:
        print(report.probes(names, LATENT_COUNTS, results))
        return
    sites = {
        str(site): {
            name: [
                {
                    "latents": probe.size,
                    "accuracy": float(probe.mean.value),
                    "interval": [float(probe.mean.low), float(probe.mean.high)],
                    "by_class": dict(zip(names, probe.accuracy.value.tolist(), strict=True)),
                }
                for probe in probes
            ]
            for name, probes in readouts.items()
        }
        for site, readouts in results.items()
    }
    _print_json({"run": str(options.run), "classes": names, "sites": finite(sites)})


def _fingerprint(options: settings.Fingerprint) -> None:
    from itda import report
    from itda.recipes import finite
    from itda.recipes.fingerprint import fingerprint, fingerprint_values

    made = fingerprint(options, bars(options.quiet), remarks(options.quiet))
    address = made.push_to_hub(options.push) if options.push is not None else None
    if options.json:
        said = {"out": str(options.out) if options.out else None, "pushed": address}
        _print_json({**said, **finite(fingerprint_values(made))})
    else:
        print(report.fingerprint_summary(made, options.out))
        if address is not None:
            print(f"Pushed: {address}")


def _compare(options: settings.Compare) -> None:
    from itda import report
    from itda.recipes import finite
    from itda.recipes.compare import compare_runs, comparison_values

    if options.out is not None:
        from itda.plots import check_plots

        check_plots()  # before the comparison, which may take long
    if are_fingerprints(options.runs):
        from itda.recipes.compare_fingerprints import compare_fingerprints, fingerprint_comparison_values

        pairs = compare_fingerprints(options, bars(options.quiet))
        values, shown = finite(fingerprint_comparison_values(pairs)), report.fingerprint_comparison(pairs, options.all)
    else:
        pairs = compare_runs(options, bars(options.quiet))
        values, shown = finite(comparison_values(pairs)), report.comparison(pairs)
    if options.out is not None:
        from itda.files import new_folder, write_json
        from itda.plots import heat_maps

        with new_folder(options.out) as folder:
            write_json(folder / "compare.json", values)
            heat_maps(pairs, folder)
    if options.json:
        _print_json(values)
    else:
        print(shown)
        if options.out is not None:
            print(f"\nWritten: {options.out}/compare.json, overlap.png, overlap.svg")


def _index(options: settings.Index) -> None:
    from itda import report
    from itda.recipes import finite
    from itda.recipes.index import index_run

    with _resumable():
        made = index_run(options, bars(options.quiet), remarks(options.quiet))
    if options.json:
        sites = {str(site): finite(asdict(values)) for site, values in made.sites.items()}
        record = {name: value for name, value in made.record.items() if name != "pieces"}
        _print_json({**record, "run": str(options.run), "index": str(made.folder), "new": made.new, "sites": sites})
    else:
        print(report.index_summary(options.run, made))


def _replicate(options: settings.Replicate) -> None:
    from itda import report
    from itda.recipes import finite
    from itda.recipes.replicate import replicate, replication_values

    with _resumable():
        made = replicate(options, bars(options.quiet), remarks(options.quiet))
    if options.json:
        _print_json(finite(replication_values(made)))
    else:
        print(report.replication_summary(made))


def _features(options: settings.Features) -> None:
    from itda import report
    from itda.recipes.features import fit_run

    made = fit_run(options, bars(options.quiet), remarks(options.quiet))
    if options.json:
        sites = {str(site): dict(values) for site, values in made.sites.items()}
        _print_json({"run": str(options.run), "tokens": made.tokens, "sites": sites})
    else:
        print(report.features_summary(options.run, made))


def _explore(options: settings.Explore) -> None:
    from itda.recipes.explore import explore, export

    if options.export is not None:
        size = export(options, bars(options.quiet), remarks(options.quiet))
        address = options.export.resolve().as_uri()
        if options.json:
            _print_json({"page": str(options.export), "address": address, "bytes": size})
        else:
            print(f"Written: {options.export}, {size / 1e6:.1f} MB. Open it in a browser: {address}")
        return

    def ready(address: str) -> None:
        if options.json:
            _print_json({"address": address})
            sys.stdout.flush()
        else:
            print(f"Exploring {', '.join(map(str, options.runs))} at {address}   (Ctrl-C stops)", flush=True)
        if options.open:
            import webbrowser

            webbrowser.open(address)

    explore(options, ready, remarks(options.quiet))


def _demo(options: settings.Demo) -> None:
    """Train, evaluate, decompose, look atoms up and explore with the bundled model, saying what each step is."""
    from itda import recipes, report

    def say(text: str) -> None:
        if not options.json:
            print(text, flush=True)

    run = _demo_training(options, say)
    summaries = run.summaries()
    say(report.run_summary(run, summaries).partition("\n\nNot")[0])

    say("\n2. Evaluate: the model on held-out files, with reconstructions for activations.\n")
    checking = settings.Evaluate(run=options.out, tokens=DEMO_HELD_OUT, **_demo_common(options))
    results = recipes.evaluate_run(checking, bars(options.quiet))
    say(report.evaluation(results))

    site = list(run.sites)[-1]
    last, found = _demo_atoms(run, site, checking, say)
    page = _demo_page(options, site, say)
    if options.json:
        _print_json(
            {
                "run": str(options.out),
                **run.values(summaries),
                "evaluation": {str(s): recipes.finite(asdict(result)) for s, result in results.items()},
                "prompts": [_token_values(token) for token in last],
                "uses": [[asdict(use) for use in uses] for uses in found],
                "page": str(page),
            }
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
        json=options.json,
        **_demo_common(options),
    )
    recipes.make_room(options.out, training)
    say("1. Train: an activation that the dictionary explains badly becomes an atom.")
    say("   tiny is a 6-layer Llama trained on the Python library; the corpus is this")
    say(
        f"   Python's own documentation and source. {DEMO_TOKENS // 1000}k tokens, layers {listed(DEMO_LAYERS)}. In the"
    )
    say("   end the atoms are refined; --mode paper does what the paper does and no more.\n")
    return recipes.train(training, bars(options.quiet))


def _demo_atoms(
    run: Run, site: Site, checking: settings.Evaluate, say: Callable[[str], None]
) -> tuple[list[TokenDecomposition], list[list[AtomUse]]]:
    """Decompose the demo's prompts; return their last tokens, and the uses of the first atom of each."""
    from itda import recipes, report
    from itda.sources.corpora.corpus import open_corpus
    from itda.sources.source import ModelSource

    say(f"\n3. Decompose: the last token of three prompts, {site}. Each atom is another")
    say("   token of the corpus, marked « » in its own prompt; the number is its weight.\n")
    model, dictionary = run.model(checking), run.dictionary(site)
    last = [
        recipes.decompose_text(model, dictionary, site, text, run.record["window"], checking.batch_size)[-1]
        for text in DEMO_PROMPTS
    ]
    for token in last:
        say(report.decomposition([token], 4) + "\n")

    say("4. Atoms: the held-out tokens that use three of them most.\n")
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

    say("5. Explore: the codes of a part of the corpus, kept by atom, make the pages of a")
    say("   browser; some of them as one file, to open or to send.\n")
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


def _spelled(arguments: list[str]) -> list[str]:
    """Return the arguments with --layer or --layers spelled as the command has it: users may give either."""
    named = "--layers" if arguments[:1] and arguments[0] in ("train", "harvest", "plan", "fingerprint") else "--layer"

    def one(argument: str) -> str:
        flag, equals, value = argument.partition("=")
        return named + equals + value if flag in ("--layer", "--layers") else argument

    return [one(argument) for argument in arguments]


@contextmanager
def _resumable() -> Iterator[None]:
    """Print how to go on with a command that is stopped by Ctrl-C in this context, and exit with status 130."""
    try:
        yield
    except KeyboardInterrupt:
        print("itda: stopped; the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None


def _token_values(token: TokenDecomposition) -> dict[str, Any]:
    return asdict(token)


def _print_json(values: dict[str, Any]) -> None:
    print(json_line(values))


if __name__ == "__main__":
    main()
