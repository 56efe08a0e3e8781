"""Families of tiny language models to compare indices of similarity on: three to develop with, three held out.

    python benchmarks/model_families.py --prepare                    tokenizer and tokens into the cache (needs no GPU)
    python benchmarks/model_families.py --seconds 100 --device cuda  all families at once, then packed files
    python benchmarks/model_families.py --only d-gpt2 --device cpu   one family, resumable, hours on one core
    python benchmarks/model_families.py --unpack FOLDER              model folders in the cache from packed files

A family has five members of one shape, which differ in seed (initial weights and order of data), in some families in
length too. Families differ in architecture, width, depth, text, optimizer and length; held-out ones (h-) are for one
look at the end, so --unpack leaves them packed but with --held-out. All members of a family are trained as one stacked
model, the families in processes of their own. Training needs torch, numpy and safetensors, and no network.

On a machine without the package: prepare elsewhere and carry the cache. All weights are 61 MiB. On an H100 with 16
cores the six families trained for 88 seconds side by side, stopped by --seconds after 1,090 to 1,580 steps.

Small form: --small trains families of two blocks for seconds, which tests/test_tiny_families.py does.
"""

import argparse
import json
import multiprocessing
import os
import time
from pathlib import Path

import torch
from families_model import Shape, member_state
from families_text import prepare, tokenizer
from families_train import Family, train
from safetensors import safe_open
from safetensors.torch import save_file

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "itda-families"
STEPWISE = (1.0, 0.85, 0.7, 0.55, 0.4)
FAMILIES = (
    Family("d-gpt2", Shape("gpt2", width=96, blocks=8, heads=4, inner=384), "code", 2500, (11, 12, 13, 14, 15)),
    Family("d-llama", Shape("llama", width=64, blocks=12, heads=4, inner=176), "prose", 2500, (21, 22, 23, 24, 25)),
    Family(
        "d-neox",
        Shape("neox", width=128, blocks=6, heads=4, inner=384),
        "code",
        3000,
        (31, 32, 33, 34, 35),
        STEPWISE,
        muon=False,
    ),
    Family("h-neox", Shape("neox", width=80, blocks=10, heads=5, inner=320), "prose", 2000, (41, 42, 43, 44, 45)),
    Family(
        "h-gpt2",
        Shape("gpt2", width=64, blocks=12, heads=4, inner=256),
        "prose",
        3000,
        (51, 52, 53, 54, 55),
        STEPWISE,
        muon=False,
    ),
    Family("h-llama", Shape("llama", width=192, blocks=6, heads=6, inner=288), "code", 1500, (61, 62, 63, 64, 65)),
)
SMALL = tuple(
    Family(
        f"{part}-{name}-small", Shape(name, width=32, blocks=2, heads=2, inner=48), kind, 4, (1, 2, 3), muon=part == "d"
    )
    for name in ("gpt2", "llama", "neox")
    for part, kind in (("d", "code"), ("h", "prose"))
)
PART = 15 * 2**20
"""Bytes of weights in a packed file, at most."""
SPARE = 8.0
"""Seconds at the end that training leaves for packing."""


def development(families: tuple[Family, ...] = FAMILIES) -> list[Family]:
    """The families that settings may be chosen on."""
    return [family for family in families if family.name.startswith("d-")]


def held_out(families: tuple[Family, ...] = FAMILIES) -> list[Family]:
    """The families for one look, after everything is chosen."""
    return [family for family in families if family.name.startswith("h-")]


def members(family: Family, cache: Path = CACHE) -> list[Path]:
    """The folders of the members. Ends with a line that says how they are made where there are none."""
    folders = [cache / family.name / f"member-{number}" for number in range(len(family.seeds))]
    if not all((folder / "config.json").exists() for folder in folders):
        raise SystemExit(f"no models of {family.name} in {cache}: python benchmarks/model_families.py makes them")
    return folders


def _train_one(family: Family, cache: Path, device: str, deadline: float, threads: int) -> None:
    torch.set_num_threads(threads)
    about = train(family, cache, device, deadline)
    print(json.dumps({"family": family.name, "device": device, **about}), flush=True)


def train_all(families: list[Family], cache: Path, device: str, deadline: float, threads: int) -> None:
    """Train each family in a process of its own, all at once on a GPU, one after the other on a CPU."""
    several = multiprocessing.get_context("spawn")
    started = []
    for family in families:
        if (cache / f"{family.name}.pt").exists():
            continue
        process = several.Process(target=_train_one, args=(family, cache, device, deadline, threads))
        process.start()
        started.append(process)
        if device == "cpu":
            process.join()
    for process in started:
        # One that hangs must not keep the others from being packed.
        process.join(None if deadline == float("inf") else max(1.0, deadline + SPARE / 2 - time.monotonic()))
        if process.is_alive():
            process.terminate()
            process.join()


def pack(families: list[Family], cache: Path, out: Path) -> list[Path]:
    """Write the trained families to few files of float16 weights; parameters are named FAMILY/MEMBER/NAME."""
    out.mkdir(parents=True, exist_ok=True)
    parts: list[dict[str, torch.Tensor]] = [{}]
    about, room = {}, PART
    for family in families:
        path = cache / f"{family.name}.pt"
        if not path.exists():
            print(f"{family.name} is not trained", flush=True)
            continue
        kept = torch.load(path, weights_only=True)
        about[family.name] = kept["about"]
        for member in range(len(family.seeds)):
            for name, values in member_state(kept["parameters"], member).items():
                if values.nbytes > room:
                    parts.append({})
                    room = PART
                parts[-1][f"{family.name}/{member}/{name}"] = values.contiguous()
                room -= values.nbytes
    written = []
    for number, part in enumerate(parts):
        written.append(out / f"families-{number}.safetensors")
        save_file(part, written[-1], metadata={"about": json.dumps(about)})
    return written


def unpack(families: list[Family], packed: Path, cache: Path) -> None:
    """Make model folders, float32, from packed files."""
    from transformers import AutoModelForCausalLM

    shared = tokenizer(cache)
    for family in families:
        states: list[dict[str, torch.Tensor]] = [{} for _ in family.seeds]
        for path in sorted(packed.glob("families-*.safetensors")):
            with safe_open(path, "pt") as file:
                for key in file.keys():  # noqa: SIM118 (not a dictionary)
                    name, member, parameter = key.split("/")
                    if name == family.name:
                        states[int(member)][parameter] = file.get_tensor(key).float()
        if not all(states):
            print(f"{family.name} is not in {packed}")
            continue
        for member, state in enumerate(states):
            model = AutoModelForCausalLM.from_config(family.shape.config())
            missing, unknown = model.load_state_dict(state, strict=False)
            if unknown or any("lm_head" not in name and "embed_out" not in name for name in missing):
                raise SystemExit(f"{family.name}: {missing} are missing, {unknown} are too many")
            model.tie_weights()
            folder = cache / family.name / f"member-{member}"
            shared.save_pretrained(folder)
            model.save_pretrained(folder)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [family.name for family in (*FAMILIES, *SMALL)]
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder for tokens, states and models")
    parser.add_argument("--only", nargs="+", choices=names, help="families; all if left out")
    parser.add_argument("--small", action="store_true", help="the families of the test")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="end by then, with fewer steps")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--out", type=Path, help="folder for the packed files (default: packed in the cache)")
    parser.add_argument("--prepare", action="store_true", help="make tokenizer and tokens, and no more")
    parser.add_argument("--unpack", type=Path, metavar="FOLDER", help="make model folders of packed files, and no more")
    parser.add_argument("--held-out", action="store_true", help="unpack the held-out families too")
    a = parser.parse_args(argv)
    deadline = time.monotonic() + a.seconds - (SPARE if a.seconds < float("inf") else 0)
    families = [f for f in (SMALL if a.small else (*FAMILIES, *SMALL)) if f.name in (a.only or names)]
    families = families if a.small or a.only else list(FAMILIES)
    a.cache.mkdir(parents=True, exist_ok=True)
    prepare(a.cache)
    if a.unpack:
        unpack(families if a.held_out else development(tuple(families)), a.unpack, a.cache)
    elif not a.prepare:
        train_all(families, a.cache, a.device, deadline, a.threads)
        for path in pack(families, a.cache, a.out or a.cache / "packed"):
            print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB", flush=True)


if __name__ == "__main__":
    main()
