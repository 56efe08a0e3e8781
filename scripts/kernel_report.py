"""What the Triton kernels of a pursuit compile to, for an H100: no GPU is needed.

    python scripts/kernel_report.py [--atoms 4096,16384,32768,65536] [--widths 768,4096,16384] [--warps N]
                                    [--registers N] [--growing] [--ncu]

One line per kernel, as `triton_limits.launch_of` would start it: registers per thread, bytes spilled from them, shared
memory, programs that an SM holds at once; and what the step loop has of barriers, shuffles, loads by width, float64
operations, and float64 products fused with a sum, of which there must be none. The loop is counted as it stands:
branches that few steps take are in it, such as those for more than one candidate.

`--ncu` needs a GPU and NVIDIA's profiler `ncu`: it profiles one launch of each kernel instead. Not run so far.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from itda.core.pursuit.triton_limits import Launch, kernel_for, launch_of

REGISTERS, SHARED, PROGRAMS = 65536, 227 * 2**10, 32
"""What an SM of an H100 has for all its programs: registers, bytes of shared memory, places."""

LOADS = {"16": r"LDG\.E\S*\.128", "8": r"LDG\.E\S*\.64", "4": r"LDG\.E(?!\S*\.(?:64|128|[US]16|[US]8)\b)"}
"""Loads from memory by the bytes that each thread gets."""


class Loop(NamedTuple):
    """Machine code of a kernel, and of its step loop."""

    whole: str
    step: str


def types_of(names: list[str]) -> dict[str, str]:
    """Types of a kernel's arguments, in the words of Triton."""
    known = dict.fromkeys(["c", "table"], "*fp32") | dict.fromkeys(["growth", "coarse", "unit"], "fp32")
    known |= dict.fromkeys(["z", "energy", "least", "faint", "coefficients", "left_over", "bound"], "*fp64")
    known |= dict.fromkeys(["which", "place", "picks", "steps", "status", "applied", "slots", "born"], "*i32")
    known |= {"gram": "*i16"}
    return {name: known.get(name, "i32") for name in names}


def compiled(launch: Launch, m: int, growing: bool) -> Any:
    """The kernel for m atoms and GPUs like an H100, as Triton's compiler returns it."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler import compile as build

    from itda.core.pursuit.gram_triton import KERNELS, constants_of

    kernel = KERNELS[launch.kernel]
    constants = constants_of(launch, m) | {"COMPILED": True, "FAST": False, "SLOTS": False, "GROWING": growing}
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    types = types_of(kernel.arg_names) | dict.fromkeys(constants, "constexpr")
    if launch.kernel == "packed":
        types |= {"c": "*i64", "gram": "*i32"}
    whole = {"c_stride", "gram_stride", "reach", "width"}  # multiples of 16, as tensors' addresses are
    aligned = [i for i, name in enumerate(kernel.arg_names) if types[name].startswith("*") or name in whole]
    source = ASTSource(kernel, types, constants, {(i,): [["tt.divisibility", 16]] for i in aligned})
    options = {"num_warps": launch.warps, "enable_fp_fusion": False}
    if launch.registers is not None:
        options["maxnreg"] = launch.registers
    return build(source, GPUTarget("cuda", 90, 32), options)


def tool(name: str, *arguments: str) -> str:
    """What one of the tools says that come with Triton."""
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    return subprocess.run([str(path), *arguments], capture_output=True, text=True, check=True).stdout


def code_of(cubin: Path) -> Loop:
    """Disassemble a kernel; its step loop is the longest one."""
    lines = tool("nvdisasm", "-c", str(cubin)).splitlines()
    labels = {line.rstrip(":"): i for i, line in enumerate(lines) if re.fullmatch(r"\.L_x_\d+:", line)}
    jumps = ((i, re.search(r"BRA.*`\((\.L_x_\d+)\)", line)) for i, line in enumerate(lines))
    loops = [(labels[jump[1]], i) for i, jump in jumps if jump and labels.get(jump[1], i) < i]
    start, stop = max(loops, key=lambda loop: loop[1] - loop[0], default=(0, 0))
    return Loop("\n".join(lines), "\n".join(lines[start:stop]))


def line_of(m: int, d: int, launch: Launch, growing: bool) -> str:
    """The line of the table for one kernel."""
    kernel = compiled(launch, m, growing)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(kernel.asm["cubin"])
        usage = re.search(r"REG:(\d+) STACK:(\d+)", tool("cuobjdump", "-res-usage", str(cubin)))
        code = code_of(cubin)
    assert usage is not None
    registers, shared = int(usage[1]), kernel.metadata.shared
    # Registers are given out to warps by 8 per thread.
    programs = min(PROGRAMS, 64 // launch.warps, REGISTERS // (32 * launch.warps * -(-registers // 8) * 8))
    programs = min(programs, SHARED // (shared + 1024))
    spills = len(re.findall(r"\b(?:STL|LDL)\b", code.step))
    loads = " / ".join(str(len(re.findall(pattern, code.step))) for pattern in LOADS.values())
    count = {name: len(re.findall(name, code.step)) for name in (r"BAR\.SYNC", "SHFL", "DADD", "DMUL", "F2F", "I2F")}
    fused = len(re.findall(r"\bDFMA\b", code.whole)), kernel.asm["ptx"].count("fma.rn.f64")
    cells = [
        *(f"{m:,}", f"{d:,}", launch.kernel, launch.warps, registers),
        *(f"{usage[2]} ({spills})", shared, programs, count[r"BAR\.SYNC"], count["SHFL"], loads),
        *(f"{count['DADD']} + {count['DMUL']}", f"{count['F2F']} + {count['I2F']}", code.step.count("\n")),
        f"{fused[0]}, {fused[1]}",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


HEADER = (
    "| atoms | width | kernel | warps | registers | stack, bytes (spills in the loop) | shared, bytes "
    "| programs per SM | barriers | shuffles | loads of 16 / 8 / 4 bytes | float64 sums + products "
    "| conversions to float64 + from whole numbers | instructions | fused: machine code, PTX |"
)


def profile(m: int, d: int) -> int:
    """Profile one launch by `ncu`, which is started anew around this script."""
    if shutil.which("ncu") is None:
        print("scripts/kernel_report.py: no ncu here; install NVIDIA Nsight Compute.", file=sys.stderr)
        return 2
    command = ["ncu", "--set", "full", "--kernel-name", "regex:on_chip|packed|streaming", "--launch-count", "2"]
    return subprocess.run([*command, sys.executable, __file__, "--once", f"{m},{d}"], check=False).returncode


def once(m: int, d: int) -> None:
    """Decompose some random activations on the GPU."""
    import torch

    from itda.core.pursuit.gram_gpu import GpuPursuit

    atoms = torch.nn.functional.normalize(torch.randn(m, d, device="cuda"), dim=1)
    GpuPursuit(atoms, 40)(torch.randn(4096, d, device="cuda"))
    torch.cuda.synchronize()


def main() -> int:
    def numbers(text: str) -> list[int]:
        return [int(number) for number in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atoms", type=numbers, default=[4096, 16384, 32768, 65536])
    parser.add_argument("--widths", type=numbers, default=[768, 4096, 16384])
    parser.add_argument("--warps", type=int)
    parser.add_argument("--registers", type=int)
    parser.add_argument("--growing", action="store_true", help="the form in which rows see only some atoms")
    parser.add_argument("--ncu", action="store_true")
    parser.add_argument("--once", type=numbers, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once:
        once(*arguments.once)
        return 0
    cases = [(m, d) for d in arguments.widths for m in arguments.atoms]
    if arguments.ncu:
        return max(profile(m, d) for m, d in cases)
    print(HEADER + "\n" + "|---" * (HEADER.count("|") - 1) + "|")
    for m, d in cases:
        launch = launch_of(m, d, None if arguments.growing else kernel_for(m, d))
        launch = launch._replace(warps=arguments.warps or launch.warps)
        launch = launch._replace(registers=arguments.registers or launch.registers)
        print(line_of(m, d, launch, arguments.growing), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
