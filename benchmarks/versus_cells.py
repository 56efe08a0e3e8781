"""One cell of the comparison with SAEs: its activations, the methods on them, and what is measured of each.

Seconds are processor time of one thread: a machine shared with others would be unfair to whoever meets them.
"""

import fcntl
import hashlib
import json
import math
import os
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import saelens_sae
import torch
from common import BEST, RESULTS, batches, labels_for, machine
from torch import Tensor
from versus_data import Data, cross_entropy, heldout_groups, language_model

import itda
from itda.core.bootstrap import Interval, by_document, interval, ratio
from itda.core.metrics import atom_uses

LOG, L1 = RESULTS / "versus_sae.jsonl", RESULTS / "versus_l1.json"
BEST_PASSES = 4
OFFERED = 1024
TIMED_ROWS = 2000
L1_TRIALS = 4
OWN = ("best", "best_0.9", "paper", "random", "kmeans")
SAES = {"topk": 1.0, "batchtopk": 1.0, "relu": 1.0, "topk_10x": 10.0}
"""Their seconds, in those of `best`."""
METHODS = (*OWN, "topk", "topk_pursuit", "batchtopk", "relu", "topk_10x")


@dataclass(frozen=True)
class Cell:
    data: Data
    layer: int
    development: int  # the layer on which what is tuned was tuned
    size: int
    k: int
    order: int

    def key(self, method: str) -> dict[str, Any]:
        data = self.data
        key = {"model": data.model, "corpus": data.corpus, "tokens": data.tokens, "heldout": data.heldout}
        key |= {"layer": self.layer, "size": self.size, "k": self.k, "order": self.order, "method": method}
        return key | ({"passes": BEST_PASSES} if method in ("best", "best_0.9") else {})


class Log:
    """Rows of versus_sae.jsonl. Several processes add to it: a row is written by one call, at the end of the file."""

    def __init__(self, path: Path = LOG) -> None:
        self.path = path
        self.rows: dict[str, dict[str, Any]] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                row = json.loads(line)
            except json.JSONDecodeError:  # cut off
                continue
            self.rows[json.dumps(row["key"], sort_keys=True)] = row

    def find(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        row = self.rows.get(json.dumps(key, sort_keys=True))
        return row if row is not None and row["machine"]["cpu"] == _machine()["cpu"] else None

    def add(self, *rows: tuple[Mapping[str, Any], Mapping[str, Any]]) -> None:
        """Each a key and values."""
        made = []
        for key, values in rows:
            about = {"date": date.today().isoformat(), "commit": _commit(), "machine": machine()}
            row = {"key": dict(key), **values, **about}
            self.rows[json.dumps(row["key"], sort_keys=True)] = row
            made.append(json.dumps(row) + "\n")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(file, "".join(made).encode())
        os.close(file)


@cache
def _machine() -> dict[str, Any]:
    return machine()


@cache
def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    return done.stdout.strip()


# Measures


def measured(cell: Cell, model: "itda.ITDA | saelens_sae.TrainedSae") -> dict[str, Any]:
    """What is measured on the held-out tokens, with 95% intervals over documents."""
    held = torch.load(cell.data.heldout_file(cell.layer))
    x, documents, predicted = held["x"], held["documents"].numpy(), held["predicted"].numpy()
    with torch.no_grad():
        code = model.encode(x)
        reconstruction = (model.decode(code) if isinstance(model, itda.ITDA) else model.reconstruct(x)).float()
        uses = atom_uses(code, len(model.atoms))
        # An SAE's own codes, dense: what it does least.
        encode = model.encode if isinstance(model, itda.ITDA) else model.latents
        rows = x[:TIMED_ROWS]
        encode(rows)
        started = time.process_time()
        for _ in range(2):
            encode(rows)
        rate = 2 * len(rows) / (time.process_time() - started)
    exact = x.double()
    residual = (exact - reconstruction.double()).square().sum(dim=1).numpy()
    variance = (exact - exact.mean(dim=0)).square().sum(dim=1).numpy()
    language, site, start = language_model(cell.data.model), itda.Site(cell.layer), 0
    parts = []
    for group in heldout_groups(cell.data):
        size = int(group.is_activation.sum())
        parts.append(cross_entropy(language, group, site, reconstruction[start : start + size]))
        start += size
    assert start == len(x)
    clean, zero, spliced = held["clean"].numpy(), held["zero"].numpy(), torch.cat(parts).numpy()
    fvu = by_document(np.stack([residual, variance], axis=1), documents)
    ce = by_document(np.stack([zero - spliced, zero - clean], axis=1), predicted)
    found = {"fvu": interval(fvu, ratio), "ce_score": interval(ce, ratio)}
    values = {name: float(each.value) for name, each in found.items()}
    values |= {f"{name}_interval": _ends(each) for name, each in found.items()}
    fidelity = getattr(model, "fidelity", None)
    return values | {
        "l0": float(code.count.double().mean()),
        "ce_clean": float(clean.mean()),
        "ce_zero": float(zero.mean()),
        "ce_spliced": float(spliced.mean()),
        "encode_per_second": rate,
        "atoms": len(model.atoms),
        "unused": int((uses == 0).sum()),
        "fidelity": None if fidelity is None else float(fidelity.median()),
        "scored_tokens": len(x),
        "by_document": {"fvu": _short(fvu), "ce": _short(ce)},  # sums, for intervals of differences
    }


def _ends(found: Interval) -> list[float] | None:
    return None if math.isnan(found.low) else [float(found.low), float(found.high)]


def _short(sums: np.ndarray) -> list[list[float]]:
    return [[float(f"{value:.7g}") for value in row] for row in sums]


# Methods


def built(x: Tensor, **settings: Any) -> tuple[itda.ITDA, dict]:
    """A dictionary by `itda.Trainer` and what it cost."""
    parts, refined = list(batches(x, OFFERED)), []
    started, worked = time.perf_counter(), time.process_time()
    trainer = itda.Trainer(x.shape[1], tokens=len(x), **settings)
    for part in parts:
        trainer.offer(part)
    model = trainer.finish(refined.append)
    taken = {"seconds": time.process_time() - worked, "wall_seconds": time.perf_counter() - started}
    return model, taken | {"seen": len(x) + sum(refined), "found": trainer.found}


def own(method: str, x: Tensor, cell: Cell) -> tuple[itda.ITDA, dict[str, Any]]:
    best = {"k": cell.k, "atoms": cell.size, **BEST, "passes": BEST_PASSES}
    match method:
        case "best":
            return built(x, **best)
        case "best_0.9":
            return built(x, **best, min_fidelity=0.9)
        case "paper":
            return built(x, k=cell.k, atoms=cell.size, massive="skip")
        case "random":
            started = time.process_time()
            order = torch.randperm(len(x), generator=torch.Generator().manual_seed(cell.order))
            atoms = torch.nn.functional.normalize(x[order[: cell.size]])
            model = itda.ITDA(atoms, labels_for(len(atoms)), k=cell.k, pursuit="mp")
            return model, {"seconds": time.process_time() - started, "seen": len(atoms)}
        case "kmeans":
            return by_kmeans(x, cell)
    raise ValueError(method)


def by_kmeans(x: Tensor, cell: Cell) -> tuple[itda.ITDA, dict[str, Any]]:
    """Centres of the directions of activations as atoms."""
    from sklearn.cluster import MiniBatchKMeans  # pyright: ignore[reportMissingImports]

    started = time.process_time()
    offset = x[: BEST["offset_tokens"]].double().mean(dim=0).float()
    unit = torch.nn.functional.normalize(x - offset)
    once: Any = 1  # scikit-learn's stubs want a string
    means = MiniBatchKMeans(cell.size, batch_size=2048, n_init=once, max_iter=5, random_state=0).fit(unit.numpy())
    centres = torch.from_numpy(means.cluster_centers_).float()
    atoms = torch.nn.functional.normalize(centres)
    model = itda.ITDA(atoms, labels_for(len(atoms)), k=cell.k, pursuit="mp_refit", offset=offset)
    return model, {"seconds": time.process_time() - started, "seen": int(means.n_steps_) * 2048}


def sae(method: str, x: Tensor, cell: Cell, budget: float) -> tuple[saelens_sae.TrainedSae, dict[str, Any]]:
    architecture: Any = method.removesuffix("_10x")
    l1 = l1_for(cell, budget) if architecture == "relu" else None
    walls: list[float] = []

    def timed(fit: Callable[[], Any]) -> float:
        started, worked = time.perf_counter(), time.process_time()
        fit()
        walls.append(time.perf_counter() - started)
        return time.process_time() - worked

    clock = SimpleNamespace(perf_counter=time.process_time)
    with mock.patch.multiple(saelens_sae, time=clock, seconds_of=timed):
        made = saelens_sae.train(architecture, x, latents=cell.size, k=cell.k, seconds=budget, l1=l1)
    values = {"seconds": made.seconds, "wall_seconds": walls[-1], "budget": budget}
    values |= {"seen": made.tokens, "steps": made.steps, "l1": l1}
    return made, values | {"recipe": asdict(made.recipe)}


def with_pursuit(made: saelens_sae.TrainedSae, k: int) -> itda.ITDA:
    """The decoder of an SAE as a dictionary for our pursuit."""
    return itda.ITDA(made.atoms, labels_for(len(made.atoms)), k=k, pursuit="mp_refit", offset=made.b_dec)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def l1_for(cell: Cell, budget: float) -> float:
    """The L1 coefficient whose ReLU SAE ends near k latents: some trainings on the development layer, log by log."""
    data, near = cell.data, round(math.log2(max(budget, 0.1)))
    key = f"{data.model} {data.corpus} tokens {data.tokens} layer {cell.development} size {cell.size} k {cell.k}"
    key += f" seconds 2^{near}"
    RESULTS.mkdir(exist_ok=True)
    with _locked(Path(data.cache) / f"l1_{hashlib.sha256(key.encode()).hexdigest()[:12]}.lock"):
        known = _known_l1()
        if key not in known:
            alike = [row for row in known.values() if row["corpus"] == data.corpus and row["model"] == data.model]
            alike.sort(key=lambda row: abs(math.log(row["k"] / cell.k)) + abs(math.log(row["size"] / cell.size)))
            l1 = alike[0]["l1"] * alike[0]["k"] / cell.k if alike else 10.0
            x, trials, steps = torch.load(data.train_file(cell.order, cell.development)), [], None
            for _ in range(L1_TRIALS):
                length: dict[str, Any] = {"seconds": budget} if steps is None else {"steps": steps}
                made = saelens_sae.train("relu", x, latents=cell.size, k=cell.k, l1=l1, **length)
                steps = made.steps
                trials.append((l1, max(made.l0, 1e-2)))
                l1 = interpolated(trials, cell.k)
                if abs(trials[-1][1] / cell.k - 1) < 0.05:
                    break
            about = {"model": data.model, "corpus": data.corpus, "size": cell.size, "k": cell.k}
            with _locked(Path(data.cache) / "l1.lock"):
                known = _known_l1() | {key: about | {"steps": steps, "trials": trials, "l1": l1}}
                L1.write_text(json.dumps(known, indent=1) + "\n")
        return known[key]["l1"]


def _known_l1() -> dict[str, dict[str, Any]]:
    return json.loads(L1.read_text()) if L1.exists() else {}


def interpolated(trials: list[tuple[float, float]], k: float) -> float:
    """Where log L0 = log k on the line of the two nearest trials over log l1; a step of at most 8 from the nearest."""
    nearest = sorted(trials, key=lambda trial: abs(math.log(trial[1] / k)))
    (a, at_a), slope = nearest[0], -1.0
    above, below = [t for t in nearest if t[1] >= k], [t for t in nearest if t[1] < k]
    pair = (above[0], below[0]) if above and below else tuple(nearest[:2])
    if len(pair) == 2 and pair[0][0] != pair[1][0]:
        (p, at_p), (q, at_q) = pair
        slope = min(-0.2, math.log(at_p / at_q) / math.log(p / q))
    return a * math.exp(max(-2.1, min(2.1, math.log(k / at_a) / slope)))


# Jobs


@dataclass(frozen=True)
class Job:
    """Some methods of some cells, in turn, in one process: cells that share an L1 coefficient."""

    cells: tuple[Cell, ...]
    methods: tuple[str, ...]


def enough(log: Log, cell: Cell, method: str) -> bool:
    """Whether it is there, and an SAE had as long as `best`."""
    row = log.find(cell.key(method))
    if row is None or method not in SAES:
        return row is not None
    best = log.find(cell.key("best"))
    return best is not None and row["seconds"] >= 0.9 * SAES[method] * best["seconds"]


def missing(log: Log, cell: Cell, methods: tuple[str, ...]) -> list[str]:
    todo = [method for method in methods if not enough(log, cell, method)]
    if "topk_pursuit" in todo and "topk" not in todo:
        todo.append("topk")  # they are of one training
    if cell.order:
        todo = [method for method in todo if method != "kmeans"]
    return [method for method in METHODS if method in todo]


def prepare() -> None:
    """One thread, everything compiled, and memory as SAELens' training has it: before any clock runs."""
    torch.set_num_threads(1)
    saelens_sae.keep_memory()
    x = torch.randn(5000, 16, generator=torch.Generator().manual_seed(0))
    for pursuit, passes in (("mp_refit", 2), ("mp", 0)):
        built(x, k=3, atoms=64, pursuit=pursuit, passes=passes)[0].encode(x[:100])
    saelens_sae.train("topk", x, latents=32, k=3, steps=5)


def run_job(job: Job) -> list[str]:
    """What went wrong, if anything."""
    wrong = []
    for cell in job.cells:
        try:
            _run_cell(cell, job.methods)
        except Exception:
            wrong.append(f"{cell}\n{traceback.format_exc()}")
    return wrong


def _run_cell(cell: Cell, methods: tuple[str, ...]) -> None:
    log = Log()
    todo = missing(log, cell, methods)
    if not todo:
        return
    x = torch.load(cell.data.train_file(cell.order, cell.layer))
    for method in todo:
        if method == "topk_pursuit":
            continue
        if method in OWN:
            model, costs = own(method, x, cell)
            rows = [(cell.key(method), costs | measured(cell, model))]
        else:
            best = log.find(cell.key("best"))
            if best is None:
                raise RuntimeError("the time of `best` is not known: run it first")
            made, costs = sae(method, x, cell, SAES[method] * best["seconds"])
            rows = [(cell.key(method), costs | measured(cell, made))]
            if method == "topk" and "topk_pursuit" in methods:
                rows.append((cell.key("topk_pursuit"), costs | measured(cell, with_pursuit(made, cell.k))))
        log.add(*rows)
        for key, row in rows:
            place = " ".join(str(key[name]) for name in ("corpus", "layer", "size", "k", "order"))
            print(
                f"{place:28} {key['method']:12} fvu {row['fvu']:.4f} ce {row['ce_score']:.4f} l0 {row['l0']:5.1f}"
                f" {row['seconds']:7.1f} s",
                flush=True,
            )
