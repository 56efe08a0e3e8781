"""The text of measures of dictionaries: evaluations and probes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from itda.core.batch import Site
from itda.evaluation.measures import Evaluation
from itda.evaluation.probing import ProbeResult
from itda.report.text import WIDTH, number, table


def evaluation(results: Mapping[Site, Evaluation]) -> str:
    """Return the measures of each dictionary as a table, with a verdict on each."""
    some = any(result.massive_tokens for result in results.values())
    apart = [
        ["  of them massive", *(f"{r.massive_tokens:,}" for r in results.values())],
        ["  their share of all energy", *(f"{r.massive_energy:.1%}" for r in results.values())],
    ]
    rows = [
        ["tokens", *(f"{r.tokens:,}" for r in results.values())],
        *(apart if some else []),
        ["atoms", *(f"{r.atoms:,}" for r in results.values())],
        ["  of them never used", *(f"{r.unused_atoms:,}" for r in results.values())],
        ["l0 (atoms per token)", *(f"{r.l0:.1f}" for r in results.values())],
        ["fvu (variance unexplained)", *(number(r.fvu) for r in results.values())],
        *_interval_row("fvu", results.values()),
        *([["  of all tokens, massive too", *(number(r.fvu_all) for r in results.values())]] if some else []),
    ]
    if all(result.ce_clean is not None for result in results.values()):
        names = {
            "CE of the model": "ce_clean",
            "CE, dictionary spliced in": "ce_spliced",
            "CE, mean activation": "ce_mean",
            "CE, zeros": "ce_zero",
            "CE loss score (1 is perfect)": "ce_loss_score",
            "KL from the model, nats": "kl",
        }
        for title, name in names.items():
            rows.append([title, *(number(asdict(r)[name]) for r in results.values())])
            rows += _interval_row(name, results.values())
    if any(result.encode_per_second for result in results.values()):
        timed = (f"{r.encode_per_second:,.0f}" if r.encode_per_second else "-" for r in results.values())
        rows.append(["encoded per second", *timed])
    shown = table(["", *(str(site) for site in results)], rows)
    parts = [shown, *([_on_massive(next(iter(results.values())).massive)] if some else [])]
    for site, result in results.items():
        told = "\n".join(textwrap.fill(line, WIDTH, subsequent_indent="  ") for line in result.verdict)
        parts += [f"{site}\n{told}"] if told else []
    return "\n\n".join(parts)


def _on_massive(massive: str) -> str:
    stay = "when reconstructions replace activations, they stay (--massive splice replaces them too)."
    gone = "when reconstructions replace activations, they are replaced too (--massive splice)."
    said = (
        "Massive tokens have a norm over 10 times the median. l0, fvu and the mean do not count them; "
        f"{gone if massive == 'splice' else stay}"
    )
    return "\n".join(textwrap.wrap(said, WIDTH))


def _interval_row(name: str, results: Iterable[Evaluation]) -> list[list[str]]:
    found = [result.intervals.get(name) for result in results]
    if all(each is None for each in found):
        return []
    return [["  95% interval", *("-" if each is None else f"{each[0]:.4f}-{each[1]:.4f}" for each in found)]]


def probes(
    names: Sequence[str],
    latent_counts: Sequence[int | None],
    results: Mapping[Site, Mapping[str, Sequence[ProbeResult]]],
) -> str:
    """Return a table of the balanced accuracy of each readout, the mean over classes, with 95% intervals below."""
    blocks = [
        "Balanced accuracy of probes that read the best 1, 2 ... latents: the mean over\n"
        + "\n".join(textwrap.wrap(", ".join(names) + ". 0.5 is chance. 95% intervals over documents.", WIDTH))
    ]
    for site, readouts in results.items():
        rows = []
        for name, found in readouts.items():
            rows.append([name, *(f"{probe.mean.value:.3f}" for probe in found)])
            ends = [f"{probe.mean.low:.2f}-{probe.mean.high:.2f}".replace("0.", ".") for probe in found]
            if "nan" not in ends[0]:  # as it is where one document is all there is to judge on
                rows.append(["", *ends])
        blocks.append(table([str(site), *("all" if count is None else str(count) for count in latent_counts)], rows))
    return "\n\n".join(blocks)
