"""How long does a dictionary take, by the size of the model? Training and evaluation, on a GPU or a CPU.

    python benchmarks/model_sizes.py [--quick] [--models 124M,135M,410M,1B,2B,8B] [--checkpoint FOLDER_OR_GGUF]
        [--tokens 100000] [--device auto]

Models have the shapes of published ones (GPT-2 small, SmolLM2-135M, Pythia-410M, Llama-3.2-1B, Gemma-2-2B,
Llama-3.1-8B) and random weights: their times are right, their figures mean nothing. `--checkpoint` adds a real one.
One layer in the middle is read; the text is `python-docs` in the tokens of the bundled model (a real one has its own).
The model runs in float32 on a CPU and in bfloat16 on a GPU. The dictionary is what `itda train --recipe 1` makes:
mode `best`, 8 atoms for each dimension but at most one for 10 tokens, k = 40.

Seconds: of the model alone up to its layer; of all of `itda train` but the loading (the model, growth, refinement); and
of `itda evaluate` on a tenth of the tokens. One run each, after a short one that compiles.
"""

import gc
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from common import BEST, arguments_for, gib, most_resident, number, paragraph, results_for, table
from transformers import (
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from itda import Trainer
from itda.core.batch import Site
from itda.recipes.evaluate import evaluate_on
from itda.sources.corpora.corpus import open_corpus
from itda.sources.models.names import TINY
from itda.sources.models.transformers import LanguageModel
from itda.sources.source import ModelSource

K, ATOMS_PER_WIDTH, TOKENS_PER_ATOM, WINDOW, BATCH = 40, 8, 10, 128, 8


def _llama(width: int, layers: int, inner: int, heads: int, kv: int, words: int) -> tuple[type, Any]:
    config = LlamaConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        intermediate_size=inner,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        vocab_size=words,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM, config


SHAPES: dict[str, tuple[str, Any]] = {
    "tiny": ("a toy", lambda: _llama(64, 4, 128, 4, 4, 4096)),
    "124M": ("GPT-2 small", lambda: (GPT2LMHeadModel, GPT2Config())),
    "135M": ("SmolLM2-135M", lambda: _llama(576, 30, 1536, 9, 3, 49_152)),
    "410M": (
        "Pythia-410M",
        lambda: (
            GPTNeoXForCausalLM,
            GPTNeoXConfig(
                hidden_size=1024,
                num_hidden_layers=24,
                num_attention_heads=16,
                intermediate_size=4096,
                vocab_size=50_304,
            ),
        ),
    ),
    "1B": ("Llama-3.2-1B", lambda: _llama(2048, 16, 8192, 32, 8, 128_256)),
    "2B": ("Gemma-2-2B", lambda: (Gemma2ForCausalLM, Gemma2Config())),
    "8B": ("Llama-3.1-8B", lambda: _llama(4096, 32, 14_336, 32, 8, 128_256)),
}


def random_model(name: str, device: str) -> LanguageModel:
    """A model of random weights, made where it is to run."""
    kind, config = SHAPES[name][1]()
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if device.startswith("cuda") else torch.float32)
    try:
        with torch.device(device):
            model: PreTrainedModel = kind(config)
    finally:
        torch.set_default_dtype(before)
    return LanguageModel(model.eval(), AutoTokenizer.from_pretrained(TINY), name)


@contextmanager
def clock(device: str, seconds: dict[str, float], name: str) -> Iterator[None]:
    """Adds what is spent within to `seconds`, the device's work included."""
    started = time.perf_counter()
    yield
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started


def measure(model: LanguageModel, tokens: int, evaluated: int) -> dict[str, Any]:
    """Seconds of each part, and figures that are right for a real model only."""
    site, device = Site(model.layers // 2), model.device
    corpus = open_corpus("python-docs").shuffled(0)
    seconds: dict[str, float] = {}
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()

    def source(number: int) -> ModelSource:
        return ModelSource(model, corpus.split("train"), [site], window=WINDOW, batch_size=BATCH, tokens=number)

    with clock(device, seconds, "alone"):
        for _ in source(tokens):
            pass
    atoms = min(ATOMS_PER_WIDTH * model.d_model, tokens // TOKENS_PER_ATOM)  # the command's own default
    trainer = Trainer(model.d_model, tokens=tokens, k=K, atoms=atoms, **BEST, passes=8, min_fidelity=0.9)
    with clock(device, seconds, "train"):
        for batches in source(tokens):
            trainer.offer(batches[site])
        with clock(device, seconds, "refine"):
            dictionary = trainer.finish()
    with clock(device, seconds, "evaluate"):
        corpus, dictionaries = corpus.split("heldout"), {site: dictionary}
        found = evaluate_on(model, corpus, dictionaries, tokens=evaluated, window=WINDOW, batch_size=BATCH)[site]
    peak = torch.cuda.max_memory_allocated() if device.startswith("cuda") else most_resident()
    figures = {"fvu": found.fvu, "ce_loss_score": found.ce_loss_score, "l0": found.l0}
    shape = {"d_model": model.d_model, "layers": model.layers, "layer": site.layer}
    return {"seconds": seconds, "atoms": len(dictionary), "found": trainer.found, "peak": peak, **figures, **shape}


def main() -> None:
    parser = arguments_for(__doc__, "model_sizes")
    parser.add_argument("--models", default="124M,135M,410M,1B,2B,8B")
    parser.add_argument("--checkpoint", help="a real model to add: what `itda train` takes")
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    results = results_for(arguments, "model_sizes")
    device = arguments.device if arguments.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    card = torch.cuda.get_device_name() if device.startswith("cuda") else "CPU"
    names = ["tiny"] if arguments.quick else arguments.models.split(",")
    tokens = 4000 if arguments.quick else arguments.tokens
    measure(random_model("tiny", device), 2000, 500)  # compiles
    for name in [*(["checkpoint"] if arguments.checkpoint else []), *names]:
        key = {"model": Path(arguments.checkpoint).name if name == "checkpoint" else name, "tokens": tokens, "on": card}
        if results.find(key) is None:
            real = name == "checkpoint"
            model = LanguageModel.load(arguments.checkpoint, device=device) if real else random_model(name, device)
            row = results.add(key, measure(model, tokens, tokens // 10))
            print(json.dumps({**key, **row["seconds"]}), flush=True)
            del model
            gc.collect()
            if device.startswith("cuda"):
                torch.cuda.empty_cache()
    rows = []
    for row in results.rows:
        key, spent = row["key"], row["seconds"]
        shape = SHAPES[key["model"]][0] if key["model"] in SHAPES else "real weights"
        rows.append(
            [
                f"{key['model']} ({shape})",
                key["on"],
                f"{row['layer']} of {row['layers']}",
                f"{row['atoms']:,}",
                f"{key['tokens']:,}",
                *(number(spent[name]) for name in ("alone", "train", "refine", "evaluate")),
                gib(row["peak"]),
            ]
        )
    header = ["model", "on", "layer", "atoms", "tokens", "model alone, s", "train, s", "of it refinement, s"]
    about = paragraph(
        "Random weights in published shapes unless said otherwise. k 40, mode best, python-docs; evaluated on a "
        "tenth of the tokens. Peak: of the card's memory, or of the process's on a CPU. One run each."
    )
    print(results.write([about, table([*header, "evaluate, s", "peak GiB"], rows)]))


if __name__ == "__main__":
    main()
