"""What `itda export` and `push` do with their settings, and print."""

from __future__ import annotations

from dataclasses import asdict

from itda import config as settings
from itda.commands.output import print_json, resumable
from itda.progress import bars, remarks


def export_command(options: settings.Export) -> None:
    """Write a run for another tool, and say what was written."""
    from itda import report
    from itda.bridges.export import export_run

    made = export_run(options, bars(options.quiet), remarks(options.quiet))
    if options.json:
        sites = [str(site) for site in made.sites]
        print_json(
            {"run": str(options.run), "to": made.to, "folder": str(made.folder), "sites": sites, "bytes": made.bytes}
        )
    else:
        print(report.export_summary(made))


def push_command(options: settings.Push) -> None:
    """Send a run to the Hub or to Neuronpedia, and say what was sent."""
    from itda import report

    if options.to == "neuronpedia":
        from itda.bridges.neuronpedia_push import push_run as push_atoms

        with resumable():
            sources = push_atoms(options, bars(options.quiet), remarks(options.quiet))
        if options.json:
            values = {"run": str(options.run), "to": options.to, "sent": not options.dry_run}
            print_json({**values, "sources": [asdict(each) for each in sources]})
        else:
            print(report.atoms_summary(sources, sent=not options.dry_run))
        return
    from itda.bridges.hub import push_run

    with resumable():
        pushed = push_run(options, bars(options.quiet), remarks(options.quiet))
    if options.json:
        files = {each.name: each.size for each in pushed.files}
        print_json({"run": str(options.run), "to": pushed.to, "address": pushed.address, "bytes": files})
    else:
        print(report.push_summary(pushed))
