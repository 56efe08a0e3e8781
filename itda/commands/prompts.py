"""What `itda decompose` and `steer` do with their settings, and print."""

from __future__ import annotations

from dataclasses import asdict

from itda import config as settings
from itda.commands.output import print_json
from itda.progress import remarks


def decompose_command(options: settings.Decompose) -> None:
    """Show the atoms of each token of a text, or with --why those that mattered for the next token."""
    from itda import recipes, report
    from itda.recipes.decompose import NUMBERS
    from itda.recipes.explore import prompt_address

    if options.why:
        _why(options)
        return
    site, tokens = recipes.decompose(options, remarks(options.quiet))
    if options.json:
        print_json({"run": str(options.run), "site": str(site), "tokens": [asdict(token) for token in tokens]})
    else:
        number = NUMBERS.get(options.readout, "coefficient")
        refined = ", fidelity" if any(use.fidelity is not None for token in tokens for use in token.atoms) else ""
        near = (
            ",\n≈ the tokens nearest to it in other documents"
            if any(use.nearest for token in tokens for use in token.atoms)
            else ""
        )
        by_size = options.readout == "code"
        order = ";\nthe largest first (--json has the order in which they were picked)" if by_size else ""
        print(f"{site} of {options.run}")
        print(f"{number}, atom{refined}, the atom's own prompt with its «token»{near}{order}\n")
        print(report.decomposition(tokens, options.top, by_size=by_size))
        print(f"\nWhere an atom is from: --json names its document. In a browser: itda explore {options.run}")
        address = prompt_address(options.run, site, options.text, options.token)
        if len(address) <= report.WIDTH:
            print(f"and then {address}")


def _why(options: settings.Decompose) -> None:
    from itda import report
    from itda.recipes import finite
    from itda.recipes.steer import why_next, why_values

    site, found = why_next(options, remarks(options.quiet))
    if options.json:
        print_json(finite({"run": str(options.run), "site": str(site), **why_values(found, options.top)}))
    else:
        print(f"{site} of {options.run}\n{report.reasons(found, options.top)}")


def steer_command(options: settings.Steer) -> None:
    """Show what a model writes with more or less of some atoms, or with --find which atoms a text is like."""
    from itda import report
    from itda.recipes import finite
    from itda.recipes.steer import proposed_values, steer_run, steered_values

    site, found = steer_run(options, remarks(options.quiet))
    if options.json:
        values = {"proposed": proposed_values(found)} if isinstance(found, list) else steered_values(found)
        print_json(finite({"run": str(options.run), "site": str(site), **values}))
    elif isinstance(found, list):
        print(report.proposed(found, options.run, options.find or ""))
    else:
        print(report.steered(found))
