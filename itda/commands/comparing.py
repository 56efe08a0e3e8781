"""What `itda fingerprint`, `compare` and `diff` do with their settings, and print."""

from __future__ import annotations

from itda import config as settings
from itda.checks import are_fingerprints
from itda.commands.output import print_json, show_diff
from itda.progress import bars, remarks


def fingerprint_command(options: settings.Fingerprint) -> None:
    """Make the fingerprint of a model, and show it."""
    from itda import report
    from itda.recipes import finite
    from itda.recipes.fingerprint import fingerprint, fingerprint_values

    made = fingerprint(options, bars(options.quiet), remarks(options.quiet))
    address = made.push_to_hub(options.push) if options.push is not None else None
    if options.json:
        said = {"out": str(options.out) if options.out else None, "pushed": address}
        print_json({**said, **finite(fingerprint_values(made))})
    else:
        print(report.fingerprint_summary(made, options.out))
        if address is not None:
            print(f"Pushed: {address}")


def diff_command(options: settings.Diff) -> None:
    """Find out what a changed model has that its base has not, and show it."""
    from itda.recipes.diff import diff

    made = diff(options, bars(options.quiet), remarks(options.quiet))
    show_diff(made.values, options.out, options)


def compare_command(options: settings.Compare) -> None:
    """Compare fingerprints or runs, show the indices, and keep them in a folder if one is named."""
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
        print_json(values)
    else:
        print(shown)
        if options.out is not None:
            print(f"\nWritten: {options.out}/compare.json, overlap.png, overlap.svg")
