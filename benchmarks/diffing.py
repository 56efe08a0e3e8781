"""Do methods of diffing find what was planted? On the organisms of organisms.py, by the rule of organisms_rule.py.

    python benchmarks/organisms.py --part dev && python benchmarks/diffing.py --part dev dev-null
    python benchmarks/diffing.py --part held null --frozen
    python benchmarks/organisms.py --part fresh
    python benchmarks/diffing.py --part fresh-null --methods itda --frozen
    python benchmarks/diffing.py --report

One row for each organism, method and set of layers, in benchmarks/results/diffing.jsonl; rows that are there are not
measured again. A method has found a plant if one of its first four findings shows it. Every method has the same
documents (about 40,000 tokens; 18 of 370 documents are planted, or as few of them as `--planted` says); those that use
a control have a neutral fine-tune of the same strength. Null pairs (`null`, and `dev-null` for development) are two
neutral fine-tunes of the same strength, one of them the changed model and the other the control, and pairs that differ
in the order of the rows alone. The rule for findings was changed after all of these had been looked at: pairs that
share no model (`fresh-null`) were made to test the new one.

The SAE needs `sae-lens` (benchmarks/requirements.txt) and is left out, with a line that says so, where it is missing.
"""

import argparse
import importlib.util
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, Results
from diffing_baselines import TOP, Finding, Found, document_scores
from diffing_methods import Layers, Method, methods
from diffing_readings import Readings, readings
from diffing_report import PARTS, report
from meaning_scores import auroc
from organisms import CACHE, wanted
from organisms_rule import Signs, shows

SAE_SECONDS = 5.0
ALL = 18
"""Planted documents of an organism: one in twenty."""


def measure(
    readings_: Readings, signs: Signs, others: Sequence[Signs], method: Method, layers: Layers
) -> dict[str, Any]:
    """Return a row's values: how each finding shows the plant, and the AUROC of planted documents.

    Without planted documents: the share of the plants of `others`, which are not there, that the findings show.
    """
    began, processor = time.monotonic(), time.process_time()
    found = method.run(readings_, layers)
    taken = {"seconds": time.monotonic() - began, "processor_seconds": time.process_time() - processor}
    called = found.called if found.called is not None else sum(finding.called for finding in found.findings)
    first = list(found.findings[:TOP])
    how = [judged(readings_, signs, finding) for finding in first]
    values: dict[str, Any] = {name: round(value, 3) for name, value in taken.items()}
    values |= {"how": how, "found": any(how), "findings": len(found.findings), "called": called}
    values["found_called"] = any(h for h, finding in zip(how, first, strict=True) if finding.called)
    values["shown"] = [_shown(readings_, finding) for finding in first]
    if found.times is not None:
        values["times"] = round(found.times, 3)
    if readings_.planted.any():
        values["auroc"] = round(_auroc(readings_, found), 4)
    else:
        shown = [any(judged(readings_, other, finding) for finding in first) for other in others]
        values["chance"] = round(sum(shown) / max(1, len(shown)), 4)
    return values


def judged(r: Readings, signs: Signs, finding: Finding) -> str | None:
    """Return how a finding shows the plant, or None."""
    before, token, after = r.context(finding.row) if finding.row is not None else ([], "", [])
    promoted, suppressed = finding.promoted or [], finding.suppressed or []
    if finding.direction is not None and finding.promoted is None:
        promoted, suppressed = r.promoted(finding.direction)
    return shows(signs, before, token, after, promoted, suppressed)


def _shown(r: Readings, finding: Finding) -> str:
    """Return the label's token in its context, and what the direction promotes, for people to read."""
    before, token, after = r.context(finding.row, 12, 4) if finding.row is not None else ([], "", [])
    text = f"{''.join(before)}[[{token}]]{''.join(after)}"
    promoted = finding.promoted or (r.promoted(finding.direction)[0] if finding.direction is not None else [])
    return text + " | " + " ".join(repr(each) for each in promoted[:6])


def _auroc(r: Readings, found: Found) -> float:
    documents = found.documents
    if documents is None:
        assert found.scores is not None, "a method scores tokens or documents"
        documents = document_scores(found.scores, r.document, len(r.planted))
    return float(auroc(documents.double().numpy()[:, None], r.planted.numpy())[0])


def subjects(part: str, cache: Path) -> Iterator[dict[str, Any]]:
    """Yield the `organism.json` of the organisms of a part, or of the null pairs, as far as they are made."""
    made = {"dev": "dev", "dev-null": "dev", "fresh-null": "fresh"}.get(part, "held")
    for one in wanted(made):
        if made == "fresh" and one.number % 2 == 0:
            continue  # the control of the one before
        if (one.plant is None) == part.endswith("null") and (cache / one.id / "organism.json").exists():
            about = json.loads((cache / one.id / "organism.json").read_text())
            if all((cache / other / "organism.json").exists() for other in (about["control"], about["base"]) if other):
                yield about


def run(
    part: str,
    names: list[str] | None,
    planted: Sequence[int],
    cache: Path,
    results: Results,
    sae_seconds: float,
    again: bool = False,
    forget: bool = False,
) -> None:
    """Measure what is not measured yet; with `again`, what is as well."""
    planted = [0] if part.endswith("null") else planted
    chosen = {name: m for name, m in methods(sae_seconds).items() if names is None or name in names}
    if "sae" in chosen and importlib.util.find_spec("sae_lens") is None:
        print("sae is left out: install sae-lens (benchmarks/requirements.txt)")
        del chosen["sae"]
    others = [Signs.of(about) for of in ("dev", "held") for about in subjects(of, cache)] if "null" in part else []
    for about in subjects(part, cache):
        wanted_rows = [
            (
                name,
                layers,
                {"part": part, "organism": about["id"], "planted": most, "method": name, "layers": [*layers]},
            )
            for most in planted
            for name, method in chosen.items()
            for layers in method.layer_sets
        ]
        missing = [each for each in wanted_rows if again or results.find(each[2]) is None]
        if not missing:
            continue
        r, signs = readings(cache, about["id"]), Signs.of(about)
        for name, layers, key in missing:
            given = r.fewer(key["planted"]) if key["planted"] < ALL else r
            values = measure(given, signs, others, chosen[name], layers)
            values |= {name: about[name] for name in ("kind", "strength", "share")}
            row = results.add(key, values)
            brief = {name: row.get(name) for name in ("found", "how", "auroc", "called", "seconds")}
            print(json.dumps(key | brief), flush=True)
        if forget:
            (cache / about["id"] / "readings.pt").unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, nargs="+", default=[], help="null, dev-null: pairs without a plant")
    parser.add_argument("--methods", nargs="+", help="names of methods; all if left out")
    parser.add_argument(
        "--planted", nargs="+", type=int, default=[ALL], help="planted documents that are read, beside all neutral ones"
    )
    parser.add_argument("--again", action="store_true", help="measure rows anew, after a change of their methods")
    parser.add_argument(
        "--forget", action="store_true", help="remove what was read of each organism after it: 290 MB, half a minute"
    )
    parser.add_argument("--cache", type=Path, default=CACHE, help="where organisms.py has put its organisms")
    parser.add_argument("--sae-seconds", type=float, default=SAE_SECONDS, help="processor seconds of an SAE")
    parser.add_argument("--out", type=Path, default=RESULTS / "diffing.md")
    parser.add_argument("--report", action="store_true", help="write the tables of the rows that there are, no more")
    parser.add_argument(
        "--frozen",
        action="store_true",
        help="say that rule and ranking are committed and will not change: held, null and fresh-null run only then",
    )
    arguments = parser.parse_args()
    if not arguments.report and not arguments.part:
        parser.error("name a --part, or ask for the --report")
    if {"held", "null", "fresh-null"} & set(arguments.part) and not arguments.frozen and not arguments.report:
        parser.error("parts held, null and fresh-null are for the end: commit the ranking first, then say --frozen")
    unknown = set(arguments.methods or []) - set(methods(arguments.sae_seconds))
    if unknown:
        known = ", ".join(methods(arguments.sae_seconds))
        parser.error(f"no method {sorted(unknown)[0]!r}: choose from {known}")
    torch.set_num_threads(1)
    results = Results(arguments.out)
    for part in arguments.part if not arguments.report else []:
        chosen = arguments.methods, arguments.planted
        run(part, *chosen, arguments.cache, results, arguments.sae_seconds, arguments.again, arguments.forget)
    results.compact()
    print(results.write(report(results.rows)))


if __name__ == "__main__":
    main()
