"""How long does `itda export` take, and how much memory? 16,384 atoms and an index of a million tokens of 40 codes.

    python benchmarks/export_size.py [--quick]

The run is made up (`made_up_run.py`): 768 dimensions, windows of 127 tokens, all that a dictionary can have. Each
format is written by a process of its own, from a cold start, without the look at the model's tokenizer that Delphi's
wants.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from common import RESULTS, Results, arguments_for, child, most_resident, number, paragraph, table

FORMATS = {"json": "JSON", "parquet": "Parquet", "delphi": "Delphi", "neuronpedia": "Neuronpedia's files"}


def exported(run_folder: Path, out: Path, to: str) -> dict[str, Any]:
    """Write one format; seconds from the import of the package on, and the most memory of this process."""
    start = time.perf_counter()
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
    return {"seconds": time.perf_counter() - start, "processor_s": processor, "memory": most_resident()}


def ignored(*_: object) -> None:
    """Take whatever there is to say."""


def main() -> None:
    parser = arguments_for(__doc__, "export_size")
    a = parser.parse_args()
    if a.child is not None:
        task = a.child
        print(json.dumps(exported(Path(task["run"]), Path(task["out"]), task["to"])))
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
    rows = [
        [
            title,
            number(row["seconds"]),
            number(row["processor_s"]),
            f"{row['memory'] / 1e9:.2f}",
            f"{row['bytes'] / 1e6:,.0f}",
        ]
        for name, title in FORMATS.items()
        if (row := results.find({"to": name, "tokens": tokens}))
    ]
    parts = [
        paragraph(f"{atoms:,} atoms of 768 dimensions and {tokens:,} indexed tokens of up to 40 codes."),
        table(["format", "seconds", "of the processor", "most memory, GB", "written, MB"], rows),
        paragraph("Memory counts the pages of the mapped index that were read; these give way to others."),
    ]
    print(results.write(parts))


if __name__ == "__main__":
    main()
