"""The command line: each command calls a module of `itda.recipes`. Models and tensors are imported when needed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from itda import config as settings
from itda.checks import are_fingerprints, check
from itda.errors import ItdaError
from itda.parsing import RefusedError
from itda.progress import bars, remarks
from itda.terminal import check_arguments, json_line, prepare_output


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
        command = _fetched(_parsed(_spelled(given)))
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


def _fetched(command: Any) -> Any:
    """Return the command with folders for runs that it names on the Hub. Raises `StoreError` for what is not there."""
    from itda.store.hub import is_repository, local_run

    several = isinstance(command, settings.Explore | settings.Compare)
    named = command.runs if several else [command.run] if hasattr(command, "run") else []
    if isinstance(command, settings.Push) or not any(is_repository(str(run)) and not run.exists() for run in named):
        return command
    if command.quiet or not sys.stderr.isatty():  # the Hub's own bars, of what may be many megabytes
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
    if several:
        index = isinstance(command, settings.Explore)
        return replace(command, runs=tuple(local_run(run, index=index, or_fingerprint=True) for run in named))
    return replace(command, run=local_run(command.run))


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
        case settings.Steer():
            _steer(command)
        case settings.Evaluate():
            _evaluate(command)
        case settings.Probe():
            _probe(command)
        case settings.Fingerprint():
            _fingerprint(command)
        case settings.Diff():
            _diff(command)
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
        case settings.Export():
            _export(command)
        case settings.Push():
            _push(command)
        case settings.Import():
            _import(command)
        case settings.Demo():
            from itda.demo import demo

            demo(command)


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
    from itda.store.diff_records import is_diff, read_diff_values

    if is_diff(options.run):
        _show_diff(read_diff_values(options.run), options.run, options)
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

    if options.why:
        _why(options)
        return
    site, tokens = recipes.decompose(options, remarks(options.quiet))
    if options.json:
        _print_json({"run": str(options.run), "site": str(site), "tokens": [asdict(token) for token in tokens]})
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


def _why(options: settings.Decompose) -> None:
    from itda import report
    from itda.recipes import finite
    from itda.recipes.steer import why_next, why_values

    site, found = why_next(options, remarks(options.quiet))
    if options.json:
        _print_json(finite({"run": str(options.run), "site": str(site), **why_values(found, options.top)}))
    else:
        print(f"{site} of {options.run}\n{report.reasons(found, options.top)}")


def _steer(options: settings.Steer) -> None:
    from itda import report
    from itda.recipes import finite
    from itda.recipes.steer import proposed_values, steer_run, steered_values

    site, found = steer_run(options, remarks(options.quiet))
    if options.json:
        values = {"proposed": proposed_values(found)} if isinstance(found, list) else steered_values(found)
        _print_json(finite({"run": str(options.run), "site": str(site), **values}))
    elif isinstance(found, list):
        print(report.proposed(found, options.run, options.find or ""))
    else:
        print(report.steered(found))


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

    if options.sets == "sae-probes":
        from itda.bridges.sae_probes import probe_sets

        with _resumable():
            made = probe_sets(options, bars(options.quiet), remarks(options.quiet))
        if options.json:
            _print_json({"run": str(options.run), "sites": {str(site): each for site, each in made.sites.items()}})
        else:
            print(report.set_scores(made))
        return
    from itda.recipes import finite
    from itda.recipes.probe import LATENT_COUNTS, probe_run, probe_values

    names, results = probe_run(options, bars(options.quiet), remarks(options.quiet))
    if not options.json:
        print(report.probes(names, LATENT_COUNTS, results))
        return
    _print_json({"run": str(options.run), "classes": names, "sites": finite(probe_values(names, results))})


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


def _diff(options: settings.Diff) -> None:
    from itda.recipes.diff import diff

    made = diff(options, bars(options.quiet), remarks(options.quiet))
    _show_diff(made.values, options.out, options)


def _show_diff(values: Mapping[str, Any], out: Path | None, options: settings.Diff | settings.Info) -> None:
    if options.json:
        _print_json({"out": str(out) if out else None, **values})
    else:
        from itda import report

        print(report.diff_summary(values, out))


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


def _export(options: settings.Export) -> None:
    from itda import report
    from itda.bridges.export import export_run

    made = export_run(options, bars(options.quiet), remarks(options.quiet))
    if options.json:
        sites = [str(site) for site in made.sites]
        _print_json(
            {"run": str(options.run), "to": made.to, "folder": str(made.folder), "sites": sites, "bytes": made.bytes}
        )
    else:
        print(report.export_summary(made))


def _push(options: settings.Push) -> None:
    from itda import report

    if options.to == "neuronpedia":
        from itda.bridges.neuronpedia_push import push_run as push_atoms

        with _resumable():
            sources = push_atoms(options, bars(options.quiet), remarks(options.quiet))
        if options.json:
            values = {"run": str(options.run), "to": options.to, "sent": not options.dry_run}
            _print_json({**values, "sources": [asdict(each) for each in sources]})
        else:
            print(report.atoms_summary(sources, sent=not options.dry_run))
        return
    from itda.bridges.hub import push_run

    with _resumable():
        pushed = push_run(options, bars(options.quiet), remarks(options.quiet))
    if options.json:
        files = {each.name: each.size for each in pushed.files}
        _print_json({"run": str(options.run), "to": pushed.to, "address": pushed.address, "bytes": files})
    else:
        print(report.push_summary(pushed))


def _import(options: settings.Import) -> None:
    from itda import report
    from itda.bridges.released import import_released

    run = import_released(options, remarks(options.quiet))
    if options.json:
        _print_json({"run": str(run.folder), **run.values(run.summaries())})
    else:
        print(report.run_summary(run, run.summaries()))


MANY_LAYERS = ("train", "harvest", "plan", "fingerprint", "diff")
"""Commands whose option is called --layers."""


def _spelled(arguments: list[str]) -> list[str]:
    """Return the arguments with --layer or --layers spelled as the command has it: users may give either."""
    named = "--layers" if arguments[:1] and arguments[0] in MANY_LAYERS else "--layer"

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


def _print_json(values: dict[str, Any]) -> None:
    print(json_line(values))


if __name__ == "__main__":
    main()
