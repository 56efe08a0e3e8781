"""What `itda evaluate`, `probe`, `index`, `replicate`, `effects` and `features` do with their settings, and print."""

from __future__ import annotations

from dataclasses import asdict

from itda import config as settings
from itda.commands.output import print_json, resumable
from itda.progress import bars, remarks


def evaluate_command(options: settings.Evaluate) -> None:
    """Measure a run's dictionaries on held-out documents, and show the figures."""
    from itda import recipes, report

    results = recipes.evaluate_run(options, bars(options.quiet), remarks(options.quiet))
    if options.json:
        sites = {str(site): recipes.finite(asdict(result)) for site, result in results.items()}
        print_json({"run": str(options.run), "sites": sites})
    else:
        print(report.evaluation(results))


def probe_command(options: settings.Probe) -> None:
    """Probe a run's latents, and show how well each set of classes is told apart."""
    from itda import report

    if options.sets == "sae-probes":
        from itda.bridges.sae_probes import probe_sets

        with resumable():
            made = probe_sets(options, bars(options.quiet), remarks(options.quiet))
        if options.json:
            print_json({"run": str(options.run), "sites": {str(site): each for site, each in made.sites.items()}})
        else:
            print(report.set_scores(made))
        return
    from itda.recipes import finite
    from itda.recipes.probe import LATENT_COUNTS, probe_run, probe_values

    names, results = probe_run(options, bars(options.quiet), remarks(options.quiet))
    if not options.json:
        print(report.probes(names, LATENT_COUNTS, results))
        return
    print_json({"run": str(options.run), "classes": names, "sites": finite(probe_values(names, results))})


def index_command(options: settings.Index) -> None:
    """Keep the codes of a corpus in the run, and show what they are."""
    from itda import report
    from itda.recipes import finite
    from itda.recipes.index import index_run

    with resumable():
        made = index_run(options, bars(options.quiet), remarks(options.quiet))
    if options.json:
        sites = {str(site): finite(asdict(values)) for site, values in made.sites.items()}
        record = {name: value for name, value in made.record.items() if name != "pieces"}
        print_json({**record, "run": str(options.run), "index": str(made.folder), "new": made.new, "sites": sites})
    else:
        print(report.index_summary(options.run, made))


def replicate_command(options: settings.Replicate) -> None:
    """Find out which atoms come back in other documents, and show how many."""
    from itda import report
    from itda.recipes import finite
    from itda.recipes.replicate import replicate, replication_values

    with resumable():
        made = replicate(options, bars(options.quiet), remarks(options.quiet))
    if options.json:
        print_json(finite(replication_values(made)))
    else:
        print(report.replication_summary(made))


def effects_command(options: settings.Effects) -> None:
    """Measure what the atoms do to the next token, and show for how many it is more than controls do."""
    from itda import report
    from itda.recipes import finite
    from itda.recipes.effects import effect_values, measure_run

    with resumable():
        made = measure_run(options, bars(options.quiet), remarks(options.quiet))
    if options.json:
        print_json(finite(effect_values(made)))
    else:
        print(report.effects_summary(made))


def features_command(options: settings.Features) -> None:
    """Fit detectors of the atoms, and show how good they are."""
    from itda import report
    from itda.recipes.features import fit_run

    made = fit_run(options, bars(options.quiet), remarks(options.quiet))
    if options.json:
        sites = {str(site): dict(values) for site, values in made.sites.items()}
        print_json({"run": str(options.run), "tokens": made.tokens, "sites": sites})
    else:
        print(report.features_summary(options.run, made))
