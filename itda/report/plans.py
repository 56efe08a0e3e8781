"""The text of a plan for a model larger than memory."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from itda.parsing import shown_bytes
from itda.recipes.plan import GPU, LAPTOP, Estimate, Planned
from itda.report.text import WIDTH, end, table
from itda.sources.streamed.rates import CPU_TFLOPS, DISK_GBPS, SHARE, TFLOPS


def plan_summary(made: Planned) -> str:
    """Return the plan as text: the model, a table for a machine with a GPU and one without, the rates it goes by."""
    options = made.options
    gpu = f"GPU of {shown_bytes(options.gpu_memory)}, RAM of {shown_bytes(options.ram)}"
    parts = [_wrapped(*_about(made))]
    parts.append(table(["", gpu, f"laptop of {shown_bytes(options.laptop)}"], _rows(made)))
    parts.append(_wrapped(*_verdicts(made)))
    if made.measured is not None:
        parts.append(table(["this machine", "measured", "assumed"], _rates(made)))
    return "\n\n".join([*parts, _wrapped(_how_known(made))])


def _wrapped(*lines: str) -> str:
    return "\n".join("\n".join(textwrap.wrap(line, WIDTH, break_on_hyphens=False)) for line in lines)


def _rates(made: Planned) -> list[list[str]]:
    """Return the rows of what was measured, beside what would be assumed."""
    measured, usual = made.measured, made.assumed
    assert measured is not None
    rows = [["read from disk, GB/s", f"{measured.disk / 1e9:.2f}", f"{usual[GPU].disk / 1e9:.2f}"]]
    for name, device, here in ((GPU, "cuda", "GPU"), (LAPTOP, "cpu", "CPU")):
        if device not in measured.flops:
            continue
        assumed = usual[name].on_gpu if name == GPU else usual[name].on_cpu
        pair = (measured.flops[device], usual[name].flops)
        rows.append([f"model on the {here}, TFLOP/s", *(f"{flops / 1e12:.3g}" for flops in pair)])
        both = [costs for costs in (measured.costs[device], assumed) if costs is not None]
        growth = (made.tokens / costs.training(made.tokens, made.atoms) for costs in both)
        rows.append([f"growth on the {here}, tokens/s", *(f"{rate:,.0f}" for rate in growth)])
        encoding = (1 / costs.encode.of(made.atoms) for costs in both)
        rows.append([f"encoding on the {here}, tokens/s", *(f"{rate:,.0f}" for rate in encoding)])
    return rows


def _how_known(made: Planned) -> str:
    """Say which rates were measured and which assumed."""
    options, measured = made.options, made.measured
    assumed = []
    if measured is None or "cuda" not in measured.flops:
        assumed.append(f"{options.tflops or TFLOPS:g} TFLOP/s on the GPU (--tflops)")
    if measured is None:
        assumed.append(f"{options.cpu_tflops or CPU_TFLOPS:g} on a CPU (--cpu-tflops)")
        assumed.append(f"{options.disk_gbps or DISK_GBPS:g} GB/s from disk (--disk-gbps)")
    if assumed:
        assumed.append(f"{SHARE:g} of the operations for making dictionaries")
    said = ""
    if measured is not None:
        sizes = "; ".join(
            f"{', '.join(f'{size:,}' for size in found)} atoms on the {'GPU' if device == 'cuda' else 'CPU'}"
            for device, found in measured.atoms.items()
        )
        said = (
            f"Measured on this machine on {measured.date} in {measured.seconds:.0f} s: --measure does so again, "
            f"--assumed ignores it. Dictionaries were timed at {sizes}. The cost of a token is taken to be a + b x "
            "atoms, and the number of atoms to grow as the tokens' square root, or closer to a straight line the more "
            "tokens become atoms. Rates that were given are used instead. "
        )
    said += f"Assumed, not measured: {', '.join([*assumed, '1.1 GB for CUDA'])}. "
    if made.measured_for_others:
        said += "This machine was measured for another model, dtype, k or batch size: --measure measures it for these. "
    elif measured is None and not options.assumed:
        said += "--measure measures this machine, in some seconds. "
    return said + (
        f"GB are 10^9 bytes, G are 2^30: {shown_bytes(options.gpu_memory)} is {_gb(made.machines[GPU].gpu or 0)}. "
        "Nothing else uses the machine."
    )


def _about(made: Planned) -> list[str]:
    """Return lines on the model, its files, and the work that is planned."""
    options, shape = made.options, made.shape
    size = shape.bytes // max(1, shape.parameters)
    block, outside = size * max(shape.blocks), size * shape.embeddings
    dtype = str(shape.dtype).removeprefix("torch.")
    head = f"{_gb(size * shape.head)} head" if shape.head else "no head of its own"
    where = f"in block {max(site.layer for site in made.sites)} of blocks 0 to {len(shape.blocks) - 1}"
    about = [
        f"{end(shape.name, 40)}: {_parameters(shape.parameters)} parameters, {len(shape.blocks)} blocks of "
        f"width {shape.d_model:,}, {dtype}.",
        f"On disk {_gb(shape.bytes)}: {_gb(block)} a block, {_gb(outside)} embeddings, {head}.",
        f"{made.tokens:,} tokens in windows of {options.window}, {options.batch_size} at once; "
        f"{len(made.sites)} site{'s, the last' * (len(made.sites) > 1)} {where}; "
        f"{made.atoms:,} atoms each.",
    ]
    if shape.quantized:
        about.append(f"Its weights are quantized, so less is read and kept than said here for {dtype}.")
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
        row("  they are made on", lambda e: "the GPU" if e.on_gpu else "the CPU"),
        row("activations kept for the end", lambda e: _gb(e.kept)),
        row("GPU memory, peak", lambda e: _gb(e.gpu) if e.gpu else "-"),
        row("RAM, peak", lambda e: _gb(e.ram)),
        row("times the blocks are read", lambda e: f"{e.flights:,}"),
        row("read from disk", lambda e: _gb(e.bytes_read)),
        row("  takes", lambda e: _time(e.reading_s)),
        row("operations of the model, 10^12", lambda e: f"{e.operations / 1e12:,.0f}"),
        row("  take", lambda e: _time(e.computing_s)),
        row("hidden states, to the GPU and back", lambda e: _time(e.moving_s) if e.gpu else "-"),
        row("dictionaries take", lambda e: _time(e.pursuit_s)),
        row("what takes longest", lambda e: e.limit),
        row("all, at least", lambda e: _time(e.seconds)),
        row("fits", _fits),
        row(f"evaluation, {made.evaluated:,} tokens", lambda _: "", made.evaluation),
        row("  GPU memory, peak", lambda e: _gb(e.gpu) if e.gpu else "-", made.evaluation),
        row("  RAM, peak", lambda e: _gb(e.ram), made.evaluation),
        row("  read from disk", lambda e: _gb(e.bytes_read), made.evaluation),
        row("  all, at least", lambda e: _time(e.seconds), made.evaluation),
        row("  fits", _fits, made.evaluation),
    ]


def _fits(found: Estimate) -> str:
    if not found.fits:
        return "NO"
    return "yes" if found.flights == 1 else f"yes, read {found.flights:,} times"


def _verdicts(made: Planned) -> list[str]:
    lines = []
    for name, found in made.training.items():
        said = (*_fitting(made, name, found), *_growing(made, name, found), *_evaluating(made, name))
        lines += [f"{name}: {line}" for line in said]
    return lines


def _fitting(made: Planned, name: str, found: Estimate) -> list[str]:
    """Say whether training fits a machine, and what would help."""
    machine, lines = made.machines[name], []
    if machine.gpu is not None and found.gpu > machine.gpu:
        less = "--grow-on cpu" if found.on_gpu else "a lower --batch-size"
        lines.append(f"does not fit: it needs a GPU of {_gb(found.gpu)}, or {less}.")
    elif found.ram > machine.ram:
        what = "--dtype bfloat16, " if found.dtype == "float32" and made.shape.dtype.itemsize == 2 else ""
        lines.append(f"does not fit: it needs {_gb(found.ram)} of RAM; {what}fewer --atoms or layers may help.")
    elif made.whole[name]:
        lines.append(f"fits as a whole: all weights are {_gb(found.whole_model)}.")
    elif found.flights == 1:
        lines.append(f"fits, read block by block; all weights at once would be {_gb(found.whole_model)}.")
    if found.flights > 1 and not made.whole[name]:
        # Said of what does not fit too: fewer atoms would not change it.
        one_group = found.in_flight <= made.options.window * made.options.batch_size
        said = f"{'barely ' * one_group}fits, read block by block: " * found.fits
        lines.append(
            f"{said}hidden states of only {found.in_flight:,} tokens fit at once, so the blocks are read "
            f"{found.flights:,} times, {_gb(found.bytes_read)}: give more --model-memory, or a "
            "--scratch folder."
        )
    return lines


def _growing(made: Planned, name: str, found: Estimate) -> list[str]:
    """Say why dictionaries grow on the CPU of a machine that has a GPU, unless that was asked for."""
    machine = made.machines[name]
    if machine.gpu is None or found.on_gpu or made.options.grow_on != "auto":
        return []
    there = found.gpu + found.dictionaries + found.growing
    return [
        f"dictionaries grow on the CPU: with the model they would need {_gb(there)} of the GPU's "
        f"{_gb(machine.gpu)}; fewer --atoms or layers fit."
    ]


def _evaluating(made: Planned, name: str) -> list[str]:
    """Say that evaluation leaves dictionaries on the CPU because the GPU has no room for all, if that is so."""
    machine, found = made.machines[name], made.evaluation[name]
    if machine.gpu is None or found.on_gpu:
        return []
    size = _gb(found.dictionaries)
    return [
        f"evaluation keeps some dictionaries on the CPU, which is slower: all are {size}; fewer layers or --atoms fit."
    ]


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
