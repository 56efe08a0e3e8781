"""What the commands show a person: plain text, 80 columns wide. Pure functions from results to strings."""

import statistics
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from itda.core.batch import Site
from itda.core.labels import Label
from itda.core.model import ITDA
from itda.evaluation import Evaluation
from itda.probing import ProbeResult
from itda.recipes import AtomUse, Run, TokenDecomposition
from itda.recipes.compare import Overlap, Pair, noise_floors
from itda.recipes.harvest import Harvest
from itda.recipes.index import Indexing
from itda.recipes.plan import GPU, Estimate, Planned

WIDTH = 80


def visible(text: str) -> str:
    """Text on one line: newlines, tabs and other control characters as signs."""
    signs = {"\n": "⏎", "\t": "⇥", "\r": "␍"}
    return "".join(signs.get(c, c if c.isprintable() else "·") for c in text)


def prompt(label: Label, width: int) -> str:
    """The end of a label's prompt with its token marked: ...before«token»after, in `width` characters."""
    token = visible(label.token)
    if len(token) > width // 2:
        token = token[: width // 2 - 1] + "…"
    room = width - len(token) - 2
    after = visible(label.after[: room // 4])
    before = visible(label.before[-(room + 1) :])
    room -= len(after)
    if len(before) > room:
        before = "…" + before[len(before) - room + 1 :]
    return f"{before}«{token}»{after}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns set flush right, but for the first; each as wide as its widest cell."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in [header, *rows]
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def run_summary(run: Run, loaded: Mapping[Site, ITDA], metrics: Mapping[Site, Mapping[str, Any]]) -> str:
    """What is in a run folder."""
    record = run.record
    lines = [
        f"{run.folder}: {record['model']} on {record['corpus']} ({record['corpus_part']} part)",
        f"{record['tokens']:,} tokens in windows of {record['window']}, mode {record['settings']['mode']}, "
        f"in {record['seconds']:.0f} s",
        "",
    ]
    if record["settings"].get("atoms") is not None:
        found = ", ".join(f"{site} {number:,}" for site, number in record.get("found", {}).items())
        shown = f"found before the crop to {record['settings']['atoms']} atoms: {found}"
        lines[-1:] = [*textwrap.wrap(shown, WIDTH), ""]
    rows = []
    for site, dictionary in loaded.items():
        measured = metrics.get(site, {})
        cells = [str(site), f"{len(dictionary):,}", str(dictionary.d_model), str(dictionary.k), dictionary.pursuit]
        cells += [f"{dictionary.threshold:.3g}", _number(measured.get("fvu")), _number(measured.get("ce_loss_score"))]
        rows.append(cells)
    header = ["site", "atoms", "d_model", "k", "pursuit", "threshold", "fvu", "CE score"]
    lines.append(table(header, rows))
    refined = {site: loaded[site].fidelity for site in loaded}
    if any(fidelity is not None for fidelity in refined.values()):
        lines += ["", "Refined: each atom was moved from the activation that its label names to where"]
        lines += ["it reconstructs better. Fidelity is the cosine between the two.", ""]
        lines.append(
            table(
                ["site", "fidelity: median", "a tenth below", "least"],
                [
                    [str(site), *(f"{f.quantile(q):.3f}" for q in (0.5, 0.1, 0.0))]
                    for site, f in refined.items()
                    if f is not None
                ],
            )
        )
    if not metrics:
        lines += ["", f"Not evaluated yet: itda evaluate {run.folder}"]
    return "\n".join(lines)


def evaluation(results: Mapping[Site, Evaluation]) -> str:
    """The measures of each dictionary, with a line on what they mean."""
    rows = [
        ["tokens", *(f"{r.tokens:,}" for r in results.values())],
        ["atoms", *(f"{r.atoms:,}" for r in results.values())],
        ["  of them never used", *(f"{r.unused_atoms:,}" for r in results.values())],
        ["l0 (atoms per token)", *(f"{r.l0:.1f}" for r in results.values())],
        ["fvu (variance unexplained)", *(_number(r.fvu) for r in results.values())],
        *_interval_row("fvu", results.values()),
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
            rows.append([title, *(_number(asdict(r)[name]) for r in results.values())])
            rows += _interval_row(name, results.values())
    rows.append(["encoded per second", *(f"{r.encode_per_second:,.0f}" for r in results.values())])
    return table(["", *(str(site) for site in results)], rows)


def _interval_row(name: str, results: Iterable[Evaluation]) -> list[list[str]]:
    found = [result.intervals.get(name) for result in results]
    if all(each is None for each in found):
        return []
    return [["  95% interval", *("-" if each is None else f"{each[0]:.4f}-{each[1]:.4f}" for each in found)]]


def probes(
    names: Sequence[str], sizes: Sequence[int | None], results: Mapping[Site, Mapping[str, Sequence[ProbeResult]]]
) -> str:
    """Balanced accuracy of each readout, the mean over the classes, with 95% intervals under it."""
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
        blocks.append(table([str(site), *("all" if size is None else str(size) for size in sizes)], rows))
    return "\n\n".join(blocks)


def decomposition(tokens: Sequence[TokenDecomposition], top: int) -> str:
    """Each token with the share explained and its atoms: coefficient, id, and the atom's prompt."""
    blocks = []
    for token in tokens:
        head = f"{prompt(token.label, WIDTH - 20)}"
        blocks.append(f"{head:<{WIDTH - 18}}  explained {token.explained:5.1%}")
        for use in token.atoms[:top]:
            faithful = f"  {use.fidelity:4.2f}" if use.fidelity is not None else ""
            start = f"  {use.coefficient:+9.3f}  {use.atom:>6}{faithful}  "
            blocks.append(start + prompt(use.label, WIDTH - len(start)))
        if len(token.atoms) > top:
            blocks.append(f"  {'':9}  and {len(token.atoms) - top} more atoms")
    return "\n".join(blocks)


def uses(atom: int, label: Label, found: Sequence[AtomUse]) -> str:
    """An atom's own prompt, and the tokens that use it most."""
    lines = [f"atom {atom}: {prompt(label, WIDTH - 8 - len(str(atom)))}"]
    lines += [f"  {use.coefficient:+9.3f}  {prompt(use.label, WIDTH - 13)}" for use in found]
    if not found:
        lines.append("  used by no token here")
    return "\n".join(lines)


def index_summary(run: Path, made: Indexing) -> str:
    """What was indexed, how fast, and how its atoms are used."""
    record, tokens = made.record, made.record["tokens"]
    lines = [f"{made.folder}: {record['corpus']} ({record['corpus_part']} part), window {record['window']}"]
    if made.new:
        lines.append(f"{tokens:,} tokens in {record['seconds']:.1f} s, {tokens / record['seconds']:,.0f} per second")
    else:
        lines.append(f"{tokens:,} tokens. It was there already: nothing to do.")
    rows = [
        [str(site), f"{s.atoms:,}", f"{s.unused:,}", f"{s.codes / tokens:.1f}", f"{s.explained:.1%}"]
        for site, s in made.sites.items()
    ]
    lines += ["", table(["site", "atoms", "never used", "atoms per token", "explained"], rows)]
    return "\n".join([*lines, "", f"See it: itda explore {run}"])


def harvest_summary(made: Harvest) -> str:
    """What activations are there, how fast they came, and what they take on the disk."""
    about = made.about
    lines = textwrap.wrap(
        f"{made.folder}: {about['model']} on {about['corpus']} ({about['corpus_part']} part), window "
        f"{about['window']}, {about['order']} order",
        WIDTH,
        break_long_words=False,
    )
    lines.append(f"{made.tokens:,} tokens, {made.dtype} of width {made.d_model}, {made.bytes / 1e6:,.1f} MB")
    if made.new:
        speed = f"{made.new:,} in {made.seconds:.1f} s, {made.new / made.seconds:,.0f} per second"
        rest = f"; {made.tokens - made.new:,} from before" if made.new < made.tokens else ""
        lines.append(speed + rest)
    else:
        lines.append("It was there already: nothing to do.")
    rows = [[str(site), f"{size / 1e6:,.1f}"] for site, size in made.sites.items()]
    lines += ["", table(["site", "MB"], rows)]
    return "\n".join([*lines, "", f"Train from it: itda train --activations {made.folder}"])


def plan_summary(made: Planned) -> str:
    """What a model takes, on a machine with a GPU and on one without, with what was assumed."""
    options, shape = made.options, made.shape
    size = shape.bytes // max(1, shape.parameters)
    block, outside = size * max(shape.blocks), size * shape.embeddings
    dtype = str(shape.dtype).removeprefix("torch.")
    head = f"{_gb(size * shape.head)} head" if shape.head else "no head of its own"
    layers = max(site.layer for site in made.sites) + 1
    about = [
        f"{_end(shape.name, 40)}: {shape.parameters / 1e9:,.1f} billion parameters, {len(shape.blocks)} blocks of "
        f"width {shape.d_model:,}, {dtype}.",
        f"On disk {_gb(shape.bytes)}: {_gb(block)} a block, {_gb(outside)} embeddings, {head}.",
        f"{made.tokens:,} tokens in windows of {options.window}, {options.batch_size} at once; "
        f"{len(made.sites)} site{'s, the last' * (len(made.sites) > 1)} in block {layers} of {len(shape.blocks)}; "
        f"{made.atoms:,} atoms each.",
    ]
    if shape.quantized:
        about.append(f"Its weights are quantized: less is read, and held, than said here for {dtype}.")
    both = list(made.training)

    def row(title: str, cell: Any, found: Mapping[str, Any] = made.training) -> list[str]:
        return [title, *(cell(found[name]) for name in both)]

    gpu = f"GPU of {options.gpu_memory}, RAM of {options.ram}"
    rows = [
        row("weights computed in", lambda e: e.dtype),
        row("two blocks and embeddings", lambda e: _gb(e.weights)),
        row("a group of windows", lambda e: _gb(e.working)),
        row("tokens in flight", lambda e: f"{e.in_flight:,}"),
        row("  their hidden states", lambda e: _gb(e.states) + (", disk" if e.states_on_disk else "")),
        row("dictionaries, Gram matrices", lambda e: _gb(e.dictionaries)),
        row("GPU memory, peak", lambda e: _gb(e.gpu) if e.gpu else "-"),
        row("RAM, peak", lambda e: _gb(e.ram)),
        row("times the blocks are read", lambda e: f"{e.flights:,}"),
        row("read from disk", lambda e: _gb(e.bytes_read)),
        row("  takes", lambda e: _time(e.reading_s)),
        row("operations of the model, 10^12", lambda e: f"{e.operations / 1e12:,.0f}"),
        row("  take", lambda e: _time(e.computing_s)),
        row("dictionaries take, at least", lambda e: _time(e.pursuit_s)),
        row("what takes longest", lambda e: e.limit),
        row("all, at least", lambda e: _time(e.seconds)),
        row("fits", _fits),
        row(f"evaluation, {made.evaluated:,} tokens", lambda _: "", made.evaluation),
        row("  GPU memory, peak", lambda e: _gb(e.gpu) if e.gpu else "-", made.evaluation),
        row("  RAM, peak", lambda e: _gb(e.ram), made.evaluation),
        row("  read from disk", lambda e: _gb(e.bytes_read), made.evaluation),
        row("  takes", lambda e: _time(e.seconds), made.evaluation),
        row("  fits", _fits, made.evaluation),
    ]
    assumed = (
        f"Assumed, not measured: {options.tflops:g} TFLOP/s on the GPU (--tflops), {options.cpu_tflops:g} on a CPU "
        f"(--cpu-tflops), {options.disk_gbps:g} GB/s from disk (--disk-gbps), 1.1 GB for CUDA. GB are 10^9 bytes, "
        f"G are 2^30: {options.gpu_memory} is {_gb(made.machines[GPU].gpu or 0)}. Nothing else uses the machine."
    )
    paragraphs = ["\n".join("\n".join(textwrap.wrap(line, WIDTH)) for line in about)]
    paragraphs.append(table(["", gpu, f"laptop of {options.laptop}"], rows))
    paragraphs.append("\n".join("\n".join(textwrap.wrap(line, WIDTH)) for line in _verdicts(made)))
    return "\n\n".join([*paragraphs, "\n".join(textwrap.wrap(assumed, WIDTH))])


def _fits(found: Estimate) -> str:
    if not found.fits:
        return "NO"
    return "yes" if found.flights == 1 else f"yes, read {found.flights:,} times"


def _verdicts(made: Planned) -> list[str]:
    lines = []
    for name, found in made.training.items():
        machine, of = made.machines[name], f"{name}: "
        if machine.gpu is not None and found.gpu > machine.gpu:
            lines.append(of + f"does not fit, it takes a GPU of {_gb(found.gpu)}, or a lower --batch-size.")
        elif found.ram > machine.ram:
            what = "--dtype bfloat16, " if found.dtype == "float32" and made.shape.dtype.itemsize == 2 else ""
            lines.append(of + f"does not fit, it takes {_gb(found.ram)} of RAM: {what}fewer --atoms or layers may do.")
        elif made.whole[name]:
            lines.append(of + f"fits, and need not be streamed: all weights are {_gb(found.whole_model)}.")
        elif found.flights == 1:
            lines.append(of + f"fits, streamed; all weights at once would be {_gb(found.whole_model)}.")
        if found.flights > 1 and not made.whole[name]:
            # Said of what does not fit too: fewer atoms would not change it.
            one_group = found.in_flight <= made.options.window * made.options.batch_size
            said = f"{'barely ' * one_group}fits, streamed: " * found.fits
            lines.append(
                of + f"{said}hidden states of only {found.in_flight:,} tokens fit at once, so the blocks are read "
                f"{found.flights:,} times, {_gb(found.bytes_read)}: more --model-memory, or a --scratch folder, makes "
                "it fewer."
            )
    return lines


def _gb(size: int) -> str:
    if size < 1e8:
        return f"{size / 1e6:,.1f} MB"
    if size >= 1e13:
        return f"{size / 1e12:,.0f} TB"
    return f"{size / 1e9:,.{0 if size >= 1e11 else 1 if size >= 1e10 else 2}f} GB"


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:,.{1 if seconds < 10 else 0}f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:,.0f} min"
    return f"{seconds / 3600:,.0f} h" if seconds >= 36000 else f"{seconds / 3600:,.1f} h"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def comparison(pairs: Sequence[Pair]) -> str:
    """The overlap of runs: a table for each pair, if they are few, and one line for each if they are many."""
    parts = [_pair(pair, noise_floors(pairs, (pair.a, pair.b))) for pair in pairs[:MOST_PAIRS]]
    if len(pairs) > MOST_PAIRS:
        parts = []
    if len(pairs) > 1:
        parts.append(_pairs(pairs))
    parts.append(
        "\n".join(
            [
                "weighted: Jaccard of the atoms weighted by how much each was needed, 1 for equal",
                "dictionaries. adjusted: Jaccard with what sets of these sizes share by chance",
                "taken out. [ ]: 95%, by resampling documents. docs/comparing.md tells more.",
            ]
        )
    )
    return "\n\n".join(parts)


MOST_PAIRS = 3
"""More than these are not told site by site."""


def _pair(pair: Pair, floors: Mapping[Site, Overlap]) -> str:
    lines = [f"a: {pair.a}", f"b: {pair.b}"]
    if pair.kind == "noise floor":
        lines.append("One model: what differs is noise, the floor for every other comparison.")
    a, b = (f"{share:.1%}" for share in pair.shares)
    how = "the end of the token in its document, as tokenizers differ" if pair.by_end else "position"
    lines += textwrap.wrap(f"{pair.tokens:,} tokens in both, {a} of those of a and {b} of b, matched by {how}.", WIDTH)
    for note in pair.notes:
        lines += textwrap.wrap(f"They differ in {note}.", WIDTH)
    if pair.same:
        with_floor = bool(floors) and pair.kind == "models"
        header = ["site", "atoms a", "atoms b", "Jaccard", "adjusted", "weighted"]
        rows = []
        for site, found in pair.same.items():
            cells = [str(site), *(f"{n:,}" for n in found.atoms)]
            cells += [_with_interval(found, "jaccard"), f"{found.values['adjusted']:.3f}"]
            cells.append(_with_interval(found, "weighted"))
            if with_floor:
                cells.append(f"{floors[site].values['weighted']:.3f}" if site in floors else "-")
            rows.append(cells)
        lines += ["", table([*header, *(["floor"] if with_floor else [])], rows)]
        if with_floor:
            lines.append("floor: the weighted index of a run with itself, made at another batch size.")
    names = {"weighted": "weighted", "adjusted": "adjusted", "jaccard": "Jaccard"}
    names |= {"matched": "equal sizes", "size_only": "sizes alone"}
    rows = [
        [site.short, *(",".join(best.short for best in pair.matches[name].best[site][:3]) for name in names)]
        for site in pair.sites[0]
    ]
    if pair.same:
        rows.append(["same site", *(f"{pair.matches[name].accuracy:.0%}" for name in names)])
    lines += ["", "The site of b most similar to each of a, by index and by the controls:", ""]
    lines.append(table(["a", *names.values()], rows))
    if pair.same:
        lines.append(f"same site: by chance it would be {1 / len(pair.sites[1]):.0%}.")
    union = pair.union
    lines += ["", f"All sites together: {union.both:,} labels of {union.atoms[0]:,} and {union.atoms[1]:,} in both,"]
    lines.append(f"Jaccard {_with_interval(union, 'jaccard')}, adjusted {union.values['adjusted']:.3f}.")
    return "\n".join(lines)


def _pairs(pairs: Sequence[Pair]) -> str:
    rows = []
    for pair in pairs:
        found = list(pair.same.values())
        mean = {
            name: statistics.fmean(each.values[name] for each in found) if found else None
            for name in ("jaccard", "adjusted", "weighted")
        }
        match = f"{pair.matches['weighted'].accuracy:.0%}" if found else "-"
        names = f"{_end(pair.a, 14)} {_end(pair.b, 14)}" + (" *" if pair.kind == "noise floor" else "")
        cells = [names, *(_number(value) for value in mean.values())]
        rows.append([*cells, _number(pair.union.values["jaccard"]), match])
    text = table(["runs", "Jaccard", "adjusted", "weighted", "union", "match"], rows)
    text += "\nJaccard to weighted: means over the sites that both have. union: Jaccard of all"
    text += "\nsites together. match: sites whose best match by the weighted index is the same."
    return text + ("\n* one model: noise." if any(pair.kind == "noise floor" for pair in pairs) else "")


def _with_interval(overlap: Overlap, name: str) -> str:
    low, high = overlap.intervals[name]
    return f"{overlap.values[name]:.3f}" + (f" [{low:.2f},{high:.2f}]" if low == low else "")


def _end(text: str, width: int) -> str:
    return text if len(text) <= width else "…" + text[-width + 1 :]
