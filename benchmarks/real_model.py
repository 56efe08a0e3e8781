"""The commands on a real language model: what they print, how long they take, and what orders of documents change.

    python scripts/fetch_smollm2.py models/smollm2
    python benchmarks/real_model.py models/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf --text wikitext2-valid.txt

The model is SmolLM2-135M-Instruct with 4-bit weights; the text is the validation split of WikiText-2 (raw), cut at its
headings. Sections are taken in the order of a hash until they have 40,000 tokens: those are the corpus, all of it is
read in each order of documents (`--orders`), and 12,000 tokens of others are for evaluation. Every row is of a
command in a process of its own, as a user types it; rows are kept, and a run that is there is not made again. The
commands evaluate on 3,000 tokens; "fvu, all held out" is computed here, for dictionaries of either side, on the
ordinary ones of all 12,000.

`--before CHECKOUT` runs the same with another checkout of the package, on the same weights in safetensors: what the
commands printed before.
"""

import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from common import Results, arguments_for, number, paragraph, results_for, share, table

from itda import ITDA, Unexplained, jaccard

HERE = Path(__file__).parent.parent
WORK = HERE / "runs" / "real_model"
LAYERS, TOKENS, HELD_OUT, EVALUATED, ATOMS, K = "10,20", 40_000, 12_000, 3_000, 2048, 20
MASSIVE = 10
"""Held-out activations above so many median norms are left out of the fvu that is computed here."""
PROMPT = "The capital of France is"
VARIANTS = {
    "best": ["--mode", "best", "--recipe", "1"],
    "best, no offset": ["--mode", "best", "--recipe", "1", "--offset", "0"],  # of this side and one order only
}


def sections(text: str) -> list[str]:
    """The text cut at its headings, in the order of a hash."""
    parts = [part.strip() for part in re.split(r"^(?= = .* = *$)", text, flags=re.MULTILINE)]
    return sorted((p for p in parts if p), key=lambda part: hashlib.sha256(part.encode()).digest())


def corpora(text: Path, model: str, folder: Path) -> tuple[Path, Path, int]:
    """Files to train and to evaluate on, and the tokens of the first: cut anew if they are not there."""
    train, heldout, about = folder / "train.jsonl", folder / "heldout.jsonl", folder / "corpora.json"
    if not about.exists():
        from itda.sources.models.transformers import LanguageModel

        tokenizer = LanguageModel.load(model).tokenizer
        folder.mkdir(parents=True, exist_ok=True)
        parts = iter(sections(text.read_text(encoding="utf-8")))
        counts = {}
        for file, wanted in ((train, TOKENS), (heldout, HELD_OUT)):
            taken, seen = [], 0
            while seen < wanted:
                part = next(parts)
                length = len(tokenizer(part, add_special_tokens=False)["input_ids"])
                if file is train and seen + length > wanted:
                    break  # all of it is to be read in every order
                taken.append(part)
                seen += length
            file.write_text("".join(json.dumps({"text": part}) + "\n" for part in taken), encoding="utf-8")
            counts[file.name] = {"documents": len(taken), "tokens": seen}
        about.write_text(json.dumps(counts))
    return train, heldout, json.loads(about.read_text())["train.jsonl"]["tokens"]


def kept(task: str, shown: dict[str, Any]) -> dict[str, Any]:
    """The figures of what a command shows: no paths, and no text of the corpus."""
    if task == "train":
        return {name: shown.get(name) for name in ("tokens", "seconds", "found", "massive")}
    if task == "evaluate":
        return {"sites": shown["sites"]}
    if task == "decompose":
        return {"explained": [token["explained"] for token in shown["tokens"]]}
    if task == "index":
        return {"explained": {site: values["explained"] for site, values in shown["sites"].items()}}
    return {"bytes": shown["bytes"]}


class Side:
    """A checkout whose commands are run; rows are kept as they come."""

    def __init__(self, name: str, checkout: Path, model: str, results: Results, orders: int) -> None:
        self.name, self.checkout, self.model, self.results, self.orders = name, checkout, model, results, orders
        self.runs = WORK / name

    def command(self, *arguments: str) -> tuple[str, float]:
        """What a command prints, and its seconds."""
        env = {**os.environ, "PYTHONPATH": str(self.checkout), "HF_HUB_OFFLINE": "1"}
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "itda.cli", *arguments], cwd=self.runs, env=env, stdout=subprocess.PIPE, text=True
        )
        if done.returncode:
            raise SystemExit(f"itda {' '.join(arguments)}: exit status {done.returncode}")
        return done.stdout, time.monotonic() - started

    def row(self, task: dict[str, Any], *arguments: str) -> dict[str, Any]:
        """The row of a task, made by a command if there is none."""
        key = {"side": self.name, **task}
        if (found := self.results.find(key)) is not None:
            return found
        self.runs.mkdir(parents=True, exist_ok=True)
        print("itda", *arguments, flush=True)
        printed, seconds = self.command(*arguments, "--json")
        return self.results.add(key, {"command_seconds": seconds, **kept(task["task"], json.loads(printed))})

    def folder(self, variant: str, seed: int) -> Path:
        return self.runs / f"{variant.replace(', ', '_').replace(' ', '_')}_{seed}"

    def measure(self, train: Path, heldout: Path, tokens: int) -> None:
        """All commands."""
        for variant, seed in itertools.product(VARIANTS, range(self.orders)):
            if variant != "best" and (seed or self.name != "now"):
                continue
            out = str(self.folder(variant, seed))
            training = ["train", self.model, "--layers", LAYERS, "--corpus", str(train), "--part", "all"]
            training += ["--tokens", str(tokens), "--k", str(K), "--atoms", str(ATOMS)]
            self.row(
                {"task": "train", "variant": variant, "seed": seed},
                *training,
                *VARIANTS[variant],
                *["--seed", str(seed), "--out", out],
            )
            if self.name == "now" or not seed:  # before, it took longer than the training
                self.row(
                    {"task": "evaluate", "variant": variant, "seed": seed},
                    *["evaluate", out, "--corpus", str(heldout), "--tokens", str(EVALUATED)],
                )
        run = str(self.folder("best", 0))
        layer = LAYERS.split(",")[-1]
        self.row({"task": "decompose"}, "decompose", run, PROMPT, "--layer", layer)
        self.row({"task": "index"}, "index", run, "--corpus", str(heldout), "--tokens", str(EVALUATED))
        self.row({"task": "export"}, "explore", run, "--export", str(self.runs / "page.html"), "--layer", layer)

    def jaccard(self, variant: str, layer: str) -> list[float]:
        """Overlap of labels of each pair of orders."""
        folders = [self.folder(variant, seed) / f"layer_{layer}" for seed in range(self.orders)]
        labels = [ITDA.from_pretrained(folder).labels for folder in folders]
        return [jaccard(a, b) for a, b in itertools.combinations(labels, 2)]


def held_out_activations(model: str, heldout: Path) -> dict[str, torch.Tensor]:
    """The ordinary activations of each layer, [tokens, d_model]."""
    file = WORK / "heldout.pt"
    if not file.exists():
        from itda.core.batch import Site
        from itda.sources.corpora.corpus import open_corpus
        from itda.sources.models.transformers import LanguageModel
        from itda.sources.source import ModelSource

        sites = [Site(int(layer)) for layer in LAYERS.split(",")]
        source = ModelSource(LanguageModel.load(model), open_corpus(str(heldout)), sites, window=128, tokens=HELD_OUT)
        parts = [{site: batch.activations for site, batch in batches.items()} for batches in source]
        found = {str(site.layer): torch.cat([part[site] for part in parts]) for site in sites}
        torch.save({layer: ordinary(x) for layer, x in found.items()}, file)
    return torch.load(file)


def ordinary(x: torch.Tensor) -> torch.Tensor:
    """Those activations that are not massive."""
    norms = x.norm(dim=1)
    return x[norms <= MASSIVE * norms.median()]


def fvu(dictionary: ITDA, x: torch.Tensor) -> float:
    """Of a dictionary on activations."""
    measure = Unexplained(x.shape[1])
    for part in x.split(1024):
        measure.update(part, dictionary(part))
    return measure.value()


def figures(side: Side, activations: dict[str, torch.Tensor]) -> Iterator[list[str]]:
    """Rows of the table of dictionaries."""
    for variant, layer in itertools.product(VARIANTS, LAYERS.split(",")):
        trained, measured, exact = [], [], []
        for seed in range(side.orders):
            t = side.results.find({"side": side.name, "task": "train", "variant": variant, "seed": seed})
            e = side.results.find({"side": side.name, "task": "evaluate", "variant": variant, "seed": seed})
            if e is not None:
                measured.append(e["sites"][f"layer_{layer}"])
            if t is not None:
                trained.append(t)
                folder = side.folder(variant, seed) / f"layer_{layer}"
                exact.append(fvu(ITDA.from_pretrained(folder), activations[layer]))
        if not trained:
            continue
        overlap = side.jaccard(variant, layer) if len(trained) > 1 else []
        found = [t["found"][f"layer_{layer}"] for t in trained]
        yield [
            side.name,
            variant,
            layer,
            " ".join(number(value) for value in exact),
            " ".join(number(m["fvu"]) for m in measured),
            " ".join(number(m["ce_loss_score"]) for m in measured),
            " ".join(f"{n:,}" for n in found),
            number(sum(overlap) / len(overlap)) if overlap else "-",
        ]


def seconds_of(side: Side) -> Iterator[list[str]]:
    """Rows of the table of times."""
    for row in side.results.rows:
        key = row["key"]
        if key["side"] == side.name and key.get("seed", 0) == 0:
            yield [side.name, key["task"], key.get("variant", ""), number(row["command_seconds"])]


def main() -> None:
    parser = arguments_for(__doc__, "real_model")
    parser.add_argument("model", help="the GGUF file")
    parser.add_argument("--text", type=Path, required=True, help="the validation split of WikiText-2, raw")
    parser.add_argument("--before", type=Path, help="another checkout of the package")
    parser.add_argument("--orders", type=int, default=1, help="orders of documents: whole_stream.py has more")
    parser.add_argument("--sides", default="before,now", help="whose commands to run; none: only write the tables")
    arguments = parser.parse_args()
    results = results_for(arguments, "real_model")
    model = str(Path(arguments.model).resolve())
    train, heldout, tokens = corpora(arguments.text, model, WORK)
    sides = [Side("now", HERE, model, results, arguments.orders)]
    if arguments.before is not None:
        before = arguments.before.resolve()
        sides.insert(0, Side("before", before, str(safetensors(model)), results, arguments.orders))
    for side in sides:
        if side.name in arguments.sides:
            side.measure(train, heldout, tokens)
    counts = json.loads((WORK / "corpora.json").read_text())
    about = paragraph(
        f"SmolLM2-135M-Instruct, 4-bit weights (Q4_1), layers {LAYERS}; {tokens:,} tokens of "
        f"{counts['train.jsonl']['documents']} sections of WikiText-2, k {K}, {ATOMS:,} atoms; evaluated on "
        f"{EVALUATED:,} tokens of {counts['heldout.jsonl']['documents']} other sections; all held out: on the "
        f"ordinary of {HELD_OUT:,} tokens. Several figures: one for each order of the same documents. Found: atoms "
        "before the crop. Jaccard: of the labels of two orders, mean of pairs."
    )
    header = ["side", "variant", "layer", "fvu, all held out", "fvu, printed", "CE score", "found", "Jaccard"]
    activations = held_out_activations(model, heldout)
    dictionaries = table(header, (row for side in sides for row in figures(side, activations)))
    times = table(["side", "command", "variant", "s"], seconds_of(sides[-1]))
    shown = []
    for side in sides:
        text = results.find({"side": side.name, "task": "decompose"})
        index = results.find({"side": side.name, "task": "index"})
        if text is not None and index is not None:
            tokens = ", ".join("massive" if value is None else share(value) for value in text["explained"])
            sites = ", ".join(f"{site} {share(value)}" for site, value in index["explained"].items())
            shown.append(paragraph(f"{side.name}: decompose {PROMPT!r} explains {tokens}; index explains {sites}."))
    print(
        results.write(
            [about, dictionaries, paragraph("Seconds of each command, start and model included."), times, *shown]
        )
    )


def safetensors(model: str) -> Path:
    """The same weights as transformers saves them, for a checkout that reads no GGUF."""
    folder = WORK / "safetensors"
    if not (folder / "config.json").exists():
        from transformers import LlamaForCausalLM

        from itda.sources.models.transformers import LanguageModel

        loaded = LanguageModel.load(model)
        loaded.tokenizer.save_pretrained(folder)
        config: Any = loaded.model.config
        del config.quantization_config  # transformers saves nothing that it takes for quantised
        plain = LlamaForCausalLM(config)
        plain.model.load_state_dict(loaded.model.base_model.state_dict())
        plain.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
