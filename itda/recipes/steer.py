"""`itda steer`: a prompt gone on with untouched, steered by atoms of a run, and by controls; atoms found by a text."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from itda import config as settings
from itda.core.site import Site
from itda.core.typical import Typical
from itda.recipes.runs import Run, Say, limits_of, open_run, unsaid
from itda.recipes.typical import is_indexed, typical_of_run
from itda.sources.models.transformers import LanguageModel
from itda.steering.asking import Asked
from itda.steering.attribution import Attribution, Method, attribution
from itda.steering.beside import Settings, Steered, steer_beside
from itda.steering.finding import Proposed, proposed_atoms
from itda.steering.units import typical_of_labels
from itda.store.records import chosen_site


def steer_run(options: settings.Steer, say: Say = unsaid) -> tuple[Site, Steered | list[Proposed]]:
    """`itda steer`: go on with a prompt in several ways, or with `find` propose atoms; return the site too.

    `say` is told what the user should know. Raises an `ItdaError` for bad input.
    """
    run = open_run(options.run)
    site = chosen_site(run, options.layer)
    dictionary, lm = run.dictionary(site, limits_of(options)), run.model(options, say)
    if options.find is not None:
        return site, proposed_atoms(lm, dictionary, site, options.find, options.top)
    asked = Asked.of(atom=options.atom, ablate=options.ablate, at=_places(options.at))
    how = Settings(
        tokens=options.tokens,
        seed=options.seed,
        chat=options.chat,
        bos=run.bos,
        options={"temperature": options.temperature} if options.temperature is not None else {},
        controls=options.controls,
        top=options.top,
    )
    typical = run_typical(run, lm, site)
    return site, steer_beside(lm, dictionary, site, options.prompt, asked, options.strength, typical, how)


def run_typical(run: Run, lm: LanguageModel, site: Site) -> Typical:
    """Return typical coefficients by a run's index, if it has one, else by the windows of the atoms' labels."""
    if is_indexed(run, site):
        return typical_of_run(run, site)
    return typical_of_labels(lm, run.dictionary(site), site)


def why_next(options: settings.Decompose, say: Say = unsaid) -> tuple[Site, Attribution]:
    """`itda decompose --why`: find which atoms of a text's codes mattered for the next token; return the site too."""
    run = open_run(options.run)
    site = chosen_site(run, options.layer)
    dictionary, lm = run.dictionary(site, limits_of(options)), run.model(options, say)
    way: Method = "ablation" if options.exact else "gradient"
    return site, attribution(lm, dictionary, site, options.text, next_token=options.next_token, way=way)


def why_values(found: Attribution, top: int) -> dict[str, Any]:
    """Return the largest effects as JSON values, by token and atom, and summed by atom."""
    by_atom = list(found.by_atom().items())[:top]
    return {
        "next_token": found.next_token,
        "log_probability": found.log_probability,
        "way": found.way,
        "reasons": [asdict(each) for each in found.top(top)],
        "by_atom": [{"atom": atom, "effect": effect} for atom, effect in by_atom],
    }


def steered_values(found: Steered) -> dict[str, Any]:
    """Return what was found as JSON values."""
    made = {name: value for name, value in asdict(found).items() if name != "site"}
    for way, own in zip(made["ways"], found.ways, strict=True):
        way["beyond"] = own.beyond
    return {"site": str(found.site), **made}


def proposed_values(found: list[Proposed]) -> list[dict[str, Any]]:
    """Return proposed atoms as JSON values."""
    return [asdict(each) for each in found]


def _places(at: tuple[str, ...]) -> list[str | int]:
    return [int(each) if each.lstrip("-").isdecimal() else each for each in at]
