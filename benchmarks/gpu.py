"""How fast is itda on a GPU, beside the textbook on the same card? All of it by one command, in under eight minutes.

    python benchmarks/gpu.py [--parts encode,train,...] [--minutes 7.5] [--fresh] [--out FILE.md]
    python benchmarks/gpu.py --device cpu --quick        # small sizes on a CPU: does the script run?

Parts, what matters most first:

- encode: 4,096 activations by 16,384 and 65,536 atoms, beside the textbook's loop and one product;
- train: growth to about 16,000 atoms, raw and centred activations, beside the textbook's batches, to equal size and
  over equal tokens; its first atoms beside the CPU's, bit by bit;
- model: `itda train` for the 12 layers of a model of GPT-2 small's shape at once, 1.28 million tokens, mode paper;
- profile: where the time of both goes, by part and by kernel;
- streaming: blocks of Llama-3.1-405B's shape on 24 GB of the card, by benchmarks/streaming.py;
- commands: `itda` commands on the card and on the CPU, by benchmarks/gpu_commands.py;
- saelens: SAELens' matching pursuit, where it is installed;
- best: as model, in mode best.

Each part runs in a process of its own and has so many seconds; whatever was measured is in FILE.jsonl at once, and the
tables in FILE.md are written anew. A run that is cut off at any time loses nothing; the next one goes on with what was
not begun, then with what failed or was cut off. Figures are of the card and the day that stand beside them. The targets
of the first table are for an H100 or H200.

It needs torch with CUDA, numba, NumPy, psutil, tqdm and jaxtyping; model, best, streaming and commands also need
transformers, safetensors, pyarrow and tyro. It asks no network. On a machine that has not all of these, whoever runs
it brings the wheels of what is missing, and names the folder that they are installed in, with this checkout, in
PYTHONPATH:

    pip download --only-binary=:all: --no-deps -d wheels tyro docstring-parser typeguard
    pip install --no-index --no-deps --target site wheels/*.whl
    PYTHONPATH=$PWD:site python benchmarks/gpu.py

A part that cannot import what it needs is a line of the tables, and the others run.

With TRITON_INTERPRET=1, `--device cpu --sizes minute` takes the kernels through Triton's interpreter.
"""

import argparse
import contextlib
import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gpu_tasks
import torch
from common import Results, arguments_for, results_for
from gpu_clock import card_of
from gpu_report import CUT_OFF, DONE, FAILED, report

Task = dict[str, Any]
Tell = Callable[[Task, dict[str, Any], str], None]
"""Takes a task, what is measured of it so far, and the state that it is in."""


class Part(NamedTuple):
    """Tasks, and the function that measures one, `module:function`."""

    tasks: gpu_tasks.Tasks
    measured_by: str
    seconds: int
    """The most that it may take in the full size."""

    def measurement(self) -> Callable[..., None]:
        """Import what measures it."""
        module, _, name = self.measured_by.partition(":")
        return getattr(importlib.import_module(module), name)


PARTS = {
    "encode": Part(gpu_tasks.ENCODE, "gpu_encode:measure", 90),
    "train": Part(gpu_tasks.TRAIN, "gpu_train:measure", 150),
    "model": Part(gpu_tasks.MODEL, "gpu_model:measure", 300),
    "profile": Part(gpu_tasks.PROFILE, "gpu_profile:measure", 60),
    "streaming": Part(gpu_tasks.STREAMING, "gpu_others:streaming", 150),
    "commands": Part(gpu_tasks.COMMANDS, "gpu_others:commands", 120),
    "saelens": Part(gpu_tasks.LENS, "gpu_encode:measure_lens", 40),
    "best": Part(gpu_tasks.BEST, "gpu_model:measure", 300),
}
MEASURING = "measuring"


def measure_here(order: dict[str, Any], tell: Tell) -> bool:
    """Measure tasks of one part in this process; False if one failed, and with it perhaps the GPU's state."""
    device, part = torch.device(order["device"]), PARTS[order["part"]]
    for task in order["tasks"]:
        values: dict[str, Any] = {}
        tell(task, values, MEASURING)

        def emit(task: Task = task, values: dict[str, Any] = values, **found: Any) -> None:
            values |= found
            tell(task, values, MEASURING)

        try:
            part.measurement()(task, device, emit)
        except Exception as error:
            traceback.print_exc()
            line = (str(error).strip() or repr(error)).splitlines()[0]
            tell(task, values, f"{FAILED}: {type(error).__name__}: {line[:150]}")
            return False
        tell(task, values, DONE)
    return True


def measure_in_a_child(order: dict[str, Any], seconds: float, tell: Tell) -> None:
    """Measure tasks of one part in a process of their own, another one after each that failed, for so many seconds."""
    deadline, left = time.monotonic() + seconds, list(order["tasks"])
    while left and time.monotonic() < deadline:
        begun: dict[str, Any] | None = None
        for begun in _lines({**order, "tasks": left}, deadline):
            tell(begun["task"], begun["values"], begun["state"])
            if begun["task"] in left:
                left.remove(begun["task"])
        late = time.monotonic() >= deadline
        state = f"{CUT_OFF} after {seconds:.0f} s" if late else f"{FAILED}: its process ended"
        if begun is None:  # it never came to the first task
            begun = {"task": left.pop(0), "values": {}, "state": MEASURING}
        if begun["state"] == MEASURING:
            tell(begun["task"], begun["values"], state)


def _lines(order: dict[str, Any], deadline: float) -> Iterator[dict[str, Any]]:
    """What a child says, until it ends or time is out; it is ended in any case, with all processes that it started."""
    command = [sys.executable, __file__, "--child", json.dumps(order)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0)
    said: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            said.put(line)
        said.put(None)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        while True:
            try:
                line = said.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return
            if line is None:
                return
            yield json.loads(line)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        reader.join()
        assert process.stdout is not None
        process.stdout.close()


def be_child(order: dict[str, Any]) -> int:
    """Measure, and say on the standard output what was found; what others print goes to the standard error."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    if order["device"] == "cpu":  # so small that a second thread only waits for the first
        torch.set_num_threads(1)

    def tell(task: Task, values: dict[str, Any], state: str) -> None:
        out.write(json.dumps({"task": task, "values": values, "state": state}) + "\n")
        out.flush()

    return 0 if measure_here(order, tell) else 1


def _end_with(parent: int) -> None:
    """End this process and all that it started as soon as the parent has ended."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.killpg(0, signal.SIGKILL)


def run(arguments: argparse.Namespace, results: Results) -> None:
    """All parts that were asked for: first what was never begun, then what failed or was cut off."""
    card = card_of(torch.device(arguments.device))
    wanted = {name: PARTS[name].tasks[arguments.sizes] for name in arguments.parts}
    ends = time.monotonic() + 60 * arguments.minutes

    def write() -> None:
        results.write(report(results, wanted, card))

    def state_of(name: str, task: Task) -> str | None:
        row = results.find({"part": name, "card": card, **task})
        return row["state"] if row else None

    write()
    begun = {name: [(task, state_of(name, task)) for task in tasks] for name, tasks in wanted.items()}
    for again in (False, True):
        for name, tasks in begun.items():
            todo = [task for task, state in tasks if (state not in (None, DONE) if again else state is None)]
            seconds = min(PARTS[name].seconds, ends - time.monotonic())
            if not todo or seconds <= 0:
                continue
            print(f"{name}: {len(todo)} to measure, {seconds:.0f} s at most", flush=True)

            def tell(task: Task, values: dict[str, Any], state: str, name: str = name) -> None:
                results.add({"part": name, "card": card, **task}, {**values, "state": state})
                write()

            order = {"part": name, "tasks": todo, "device": arguments.device}
            if arguments.here:
                measure_here(order, tell)
            else:
                measure_in_a_child(order, seconds, tell)
    results.compact()
    print(results.write(report(results, wanted, card)))


def parts_of(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        raise argparse.ArgumentTypeError(f"no part {unknown[0]!r}: {', '.join(PARTS)}")
    return names


def main(given: list[str] | None = None) -> int:
    parser = arguments_for(__doc__, "gpu")
    parser.add_argument("--parts", type=parts_of, default=list(PARTS), help=f"default: {','.join(PARTS)}")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--sizes", choices=("full", "quick", "minute"), help="default: full; --quick: quick")
    parser.add_argument("--minutes", type=float, default=7.5, help="for all parts together; default 7.5")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # without child processes
    arguments = parser.parse_args(given)
    if arguments.child:
        return be_child(arguments.child)
    arguments.sizes = arguments.sizes or ("quick" if arguments.quick else "full")
    arguments.quick = arguments.sizes != "full"
    if arguments.device == "cuda" and not torch.cuda.is_available():
        remedy = "run it where there is an NVIDIA GPU and a CUDA torch, or try its small form: --device cpu --quick"
        print(f"benchmarks/gpu.py: this torch finds no CUDA device; {remedy}", file=sys.stderr)
        return 2
    if arguments.device == "cpu" and arguments.sizes == "full":
        print("benchmarks/gpu.py: the full sizes are for a GPU; add --quick", file=sys.stderr)
        return 2
    run(arguments, results_for(arguments, "gpu"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
