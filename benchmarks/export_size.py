"""How long does `itda export` take, and how much memory? 16,384 atoms and an index of a million tokens of 40 codes.

    python benchmarks/export_size.py [--quick]

The run is made up (`made_up_run.py`): 768 dimensions, windows of 127 tokens, all that a dictionary can have. Each
format is written by a process of its own, from a cold start, without the look at the model's tokenizer that Delphi's
wants. Then 8,000 atoms of an index of 200,000 tokens are pushed by Neuronpedia's client to a stub of its server, in a
process of its own, that checks each field (`tests/bridges/neuronpedia_stub.py`).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import RESULTS, Results, arguments_for, child, most_resident, number, paragraph, table

FORMATS = {"parquet": "Parquet", "delphi": "Delphi", "neuronpedia": "Neuronpedia's files", "json": "JSON"}


def exported(run_folder: Path, out: Path, to: str) -> dict[str, Any]:
    """Write one format; seconds from the import of the package on, and the most memory of this process."""
    start, load = time.perf_counter(), os.getloadavg()[0]
    from itda.bridges import delphi, neuronpedia, tables
    from itda.bridges.indexed import Indexed
    from itda.store.records import open_record

    run = open_record(run_folder)
    sources = [Indexed.open(run, site) for site in run.sites]
    if to == "delphi":
        delphi.export(sources, out, delphi.Dressing([1], 0), "tiny", ignored, ignored)
    elif to == "neuronpedia":
        places = neuronpedia.places(run, list(run.sites), "gpt2-small")
        neuronpedia.export(sources, out, places, ignored, ignored)
    else:
        tables.export(sources, out, {"json": ".jsonl", "parquet": ".parquet"}[to], ignored)
    used = os.times()
    processor = used.user + used.system
    taken = time.perf_counter() - start
    return {"seconds": taken, "processor_s": processor, "memory": most_resident(), "load": load}


def pushed(run_folder: Path, server: str) -> dict[str, Any]:
    """Push all atoms of a run to a server; seconds from the import of the package on."""
    start, load = time.perf_counter(), os.getloadavg()[0]
    from itda import config
    from itda.bridges.neuronpedia_push import push_run

    found = push_run(config.Push(run=run_folder, to="neuronpedia", model="gpt2-small", server=server))
    used = os.times()
    taken = {"seconds": time.perf_counter() - start, "processor_s": used.user + used.system}
    return {**taken, "atoms": found[0].atoms, "memory": most_resident(), "load": load}


@contextmanager
def stub() -> Iterator[str]:
    """Run the stub of Neuronpedia's server; give its address."""
    script = Path(__file__).parent.parent / "tests" / "bridges" / "neuronpedia_stub.py"
    process = subprocess.Popen([sys.executable, "-u", str(script)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def pushed_text(row: Mapping[str, Any]) -> str:
    """What the push took, as a paragraph."""
    return paragraph(
        f"{row['atoms']:,} atoms pushed to the stub of Neuronpedia in {number(row['seconds'])} s, "
        f"{number(row['processor_s'])} s of the processor, with {row['memory'] / 1e9:.2f} GB."
    )


def ignored(*_: object) -> None:
    """Take whatever there is to say."""


def main() -> None:
    parser = arguments_for(__doc__, "export_size")
    a = parser.parse_args()
    if a.child is not None:
        task = a.child
        run = Path(task["run"])
        push = task["to"] == "push"
        print(json.dumps(pushed(run, task["out"]) if push else exported(run, Path(task["out"]), task["to"])))
        return
    atoms, tokens = (2048, 50_000) if a.quick else (16_384, 1_000_000)
    results = Results(a.out or RESULTS / ("export_size_quick.md" if a.quick else "export_size.md"), fresh=a.fresh)
    with tempfile.TemporaryDirectory() as temporary:
        run, out = Path(temporary) / "run", Path(temporary) / "out"
        for name in FORMATS:
            key = {"to": name, "tokens": tokens}
            if results.find(key):
                continue
            if not run.exists():
                from made_up_run import make_run

                make_run(run, atoms=atoms, tokens=tokens, d_model=768, k=40, window=127)
            out.mkdir()
            found = child(__file__, {"run": str(run), "out": str(out), "to": name})
            size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
            results.add(key, {**found, "bytes": size})
            shutil.rmtree(out)
    push_row(results, 500 if a.quick else 8_000)
    print(results.write(parts_of(results, atoms, tokens)))


def push_row(results: Results, atoms: int) -> None:
    """Measure the push of a run of so many atoms, if that was not done."""
    if results.find({"push": atoms}) is not None:
        return
    from made_up_run import make_run

    os.environ["NEURONPEDIA_API_KEY"] = "a-key-of-the-stub"
    with tempfile.TemporaryDirectory() as temporary, stub() as server:
        run = Path(temporary) / "run"
        make_run(run, atoms=atoms, tokens=25 * atoms, d_model=768, k=40, window=127)
        results.add({"push": atoms}, child(__file__, {"run": str(run), "out": server, "to": "push"}))


def parts_of(results: Results, atoms: int, tokens: int) -> list[str]:
    """Paragraphs and the table of what was measured."""
    rows = []
    for name, title in FORMATS.items():
        row = results.find({"to": name, "tokens": tokens})
        if row is not None:
            size = [f"{row['memory'] / 1e9:.2f}", f"{row['bytes'] / 1e6:,.0f}"]
            rows.append([title, number(row["seconds"]), number(row["processor_s"]), *size])
    busiest = max(row["load"] for row in results.rows)
    return [
        paragraph(f"{atoms:,} atoms of 768 dimensions and {tokens:,} indexed tokens of up to 40 codes."),
        table(["format", "seconds", "of the processor", "most memory, GB", "written, MB"], rows),
        *[pushed_text(row) for row in results.rows if "push" in row["key"]],
        paragraph(
            "Memory counts the pages of the mapped index that were read; these give way to others. Seconds are of a "
            f"machine that had up to {busiest:.1f} processes waiting for its cores, beside these."
        ),
    ]


if __name__ == "__main__":
    main()
