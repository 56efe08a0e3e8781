"""The text of a plan for a model larger than memory."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from itda.parsing import shown_bytes
from itda.recipes.plan import GPU, Estimate, Planned
from itda.report.text import WIDTH, end, table


def plan_summary(made: Planned) -> str:
    """Return the plan as text: the model, a table for a machine with a GPU and one without, what was assumed."""
    options = made.options
    assumed = (
        f"Assumed, not measured: {options.tflops:g} TFLOP/s on the GPU (--tflops), {options.cpu_tflops:g} on a CPU "
        f"(--cpu-tflops), {options.disk_gbps:g} GB/s from disk (--disk-gbps), 1.1 GB for CUDA. GB are 10^9 bytes, "
        f"G are 2^30: {shown_bytes(options.gpu_memory)} is {_gb(made.machines[GPU].gpu or 0)}. Nothing else uses the "
        "machine."
    )
    gpu = f"GPU of {shown_bytes(options.gpu_memory)}, RAM of {shown_bytes(options.ram)}"
    paragraphs = ["\n".join("\n".join(textwrap.wrap(line, WIDTH)) for line in _about(made))]
    paragraphs.append(table(["", gpu, f"laptop of {shown_bytes(options.laptop)}"], _rows(made)))
    paragraphs.append("\n".join("\n".join(textwrap.wrap(line, WIDTH)) for line in _verdicts(made)))
    return "\n\n".join([*paragraphs, "\n".join(textwrap.wrap(assumed, WIDTH))])


def _about(made: Planned) -> list[str]:
    """Return lines on the model, its files, and the work that is planned."""
    options, shape = made.options, made.shape
    size = shape.bytes // max(1, shape.parameters)
    block, outside = size * max(shape.blocks), size * shape.embeddings
    dtype = str(shape.dtype).removeprefix("torch.")
    head = f"{_gb(size * shape.head)} head" if shape.head else "no head of its own"
    where = f"at layer {max(site.layer for site in made.sites)} of 0 to {len(shape.blocks) - 1}"
    about = [
        f"{end(shape.name, 40)}: {_parameters(shape.parameters)} parameters, {len(shape.blocks)} blocks of "
        f"width {shape.d_model:,}, {dtype}.",
        f"On disk {_gb(shape.bytes)}: {_gb(block)} a block, {_gb(outside)} embeddings, {head}.",
        f"{made.tokens:,} tokens in windows of {options.window}, {options.batch_size} at once; "
        f"{len(made.sites)} site{'s, the last' * (len(made.sites) > 1)} {where}; "
        f"{made.atoms:,} atoms each.",
    ]
    if shape.quantized:
        about.append(f"Its weights are quantized: less is read, and held, than said here for {dtype}.")
    return about


def _rows(made: Planned) -> list[list[str]]:
    """Return the rows of the table: a title, and a cell for each machine."""
    both = list(made.training)

    def row(title: str, cell: Any, found: Mapping[str, Any] = made.training) -> list[str]:
        return [title, *(cell(found[name]) for name in both)]

    return [
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


def _parameters(number: int) -> str:
    if number >= 1e9:
        return f"{number / 1e9:,.1f} billion"
    return f"{number / 1e6:,.1f}M" if number >= 1e6 else f"{number / 1e3:,.1f}k"


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
