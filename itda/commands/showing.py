"""What `itda info` and `explore` do with their settings, and print."""

from __future__ import annotations

import sys

from itda import config as settings
from itda.commands.output import print_json, show_diff
from itda.progress import bars, remarks


def info_command(options: settings.Info) -> None:
    """Show a run, a diff or a fingerprint."""
    if options.run.is_file():
        from itda.recipes.fingerprint import fingerprint_values
        from itda.recipes.runs import finite
        from itda.report.fingerprints import fingerprint_summary
        from itda.store.fingerprints import read_fingerprint

        made = read_fingerprint(options.run)
        if options.json:
            print_json({"fingerprint": str(options.run), **finite(fingerprint_values(made))})
        else:
            print(fingerprint_summary(made, options.run))
        return
    from itda.store.diff_records import is_diff, read_diff_values

    if is_diff(options.run):
        show_diff(read_diff_values(options.run), options.run, options)
        return
    from itda.report.runs import run_summary
    from itda.store.records import open_record

    run = open_record(options.run)
    summaries = run.summaries()
    if options.json:
        print_json({"run": str(options.run), **run.values(summaries)})
    else:
        print(run_summary(run, summaries))


def explore_command(options: settings.Explore) -> None:
    """Serve the explorer until it is stopped, or write its page to a file."""
    from itda.recipes.explore import explore, export

    if options.export is not None:
        size = export(options, bars(options.quiet), remarks(options.quiet))
        address = options.export.resolve().as_uri()
        if options.json:
            print_json({"page": str(options.export), "address": address, "bytes": size})
        else:
            print(f"Written: {options.export}, {size / 1e6:.1f} MB. Open it in a browser: {address}")
        return

    def ready(address: str) -> None:
        if options.json:
            print_json({"address": address})
            sys.stdout.flush()
        else:
            print(f"Exploring {', '.join(map(str, options.runs))} at {address}   (Ctrl-C stops)", flush=True)
        if options.open:
            import webbrowser

            webbrowser.open(address)

    explore(options, ready, remarks(options.quiet))
