"""What `itda train`, `harvest`, `plan` and `import` do with their settings, and print."""

from __future__ import annotations

from itda import config as settings
from itda.commands.output import print_json, resumable
from itda.progress import bars, remarks


def train_command(options: settings.Train) -> None:
    """Train dictionaries, and show the run."""
    from itda import recipes, report

    run = recipes.train(options, bars(options.quiet), remarks(options.quiet))
    if options.json:
        print_json({"run": str(run.folder), **run.values(run.summaries())})
    else:
        print(report.run_summary(run, run.summaries()))


def harvest_command(options: settings.Harvest) -> None:
    """Keep activations on disk, and say where and how many."""
    from itda import report
    from itda.recipes.harvest import harvest

    with resumable():
        made = harvest(options, bars(options.quiet), remarks(options.quiet))
    if options.json:
        values = {name: value for name, value in vars(made).items() if name not in ("folder", "about", "sites")}
        sites = {str(site): {"bytes": size} for site, size in made.sites.items()}
        print_json({"activations": str(made.folder), **made.about, **values, "sites": sites})
    else:
        print(report.harvest_summary(made))


def plan_command(options: settings.Plan) -> None:
    """Show what a model that is larger than memory would take."""
    from itda import report
    from itda.recipes.plan import plan, plan_values

    made = plan(options, bars(options.quiet))
    if options.json:
        print_json(plan_values(made))
    else:
        print(report.plan_summary(made))


def import_command(options: settings.Import) -> None:
    """Make a run of dictionaries that the released scripts wrote, and show it."""
    from itda import report
    from itda.bridges.released import import_released

    run = import_released(options, remarks(options.quiet))
    if options.json:
        print_json({"run": str(run.folder), **run.values(run.summaries())})
    else:
        print(report.run_summary(run, run.summaries()))
