"""Does it save time to run the model in a thread, ahead of growth? Both ways in turn, on one device.

    python benchmarks/ahead.py [--device cuda] [--tokens 20000] [--width 768] [--blocks 6] [--repeats 3]

A Llama of random weights reads made-up text; one dictionary grows at a quarter of the depth and one at three quarters.
Printed are the seconds of the model alone, of growth alone, of one after the other and of one ahead of the other: the
last cannot be less than the larger of the first two.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from itda.core.batch import Site
from itda.core.training.trainer import Trainer
from itda.sources.ahead import ReadAhead
from itda.sources.corpora.corpus import Corpus
from itda.sources.models.transformers import LanguageModel
from itda.sources.source import ModelSource

THRESHOLD, K = 0.3, 16


def model_of(width: int, blocks: int, device: str) -> LanguageModel:
    """Make a Llama of random weights with the tokenizer of `tiny`."""
    tokenizer = LanguageModel.load("tiny").tokenizer
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=blocks,
        num_attention_heads=max(1, width // 64),
        vocab_size=len(tokenizer),
    )
    model = LlamaForCausalLM(config).eval()
    torch.nn.Module.to(model, device)
    return LanguageModel(model, tokenizer)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("tokens", 20_000), ("width", 768), ("blocks", 6), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    model = model_of(given.width, given.blocks, given.device)
    random = torch.Generator().manual_seed(0)
    words = ["import", "def", "return", "self", "print", "value", "for", "in", "x", "=", "1", "(", ")", ":"]
    picks = torch.randint(len(words), (given.tokens // 500 + 2, 600), generator=random).tolist()
    corpus = Corpus.from_texts([" ".join(words[i] for i in row) for row in picks])
    sites = [Site(given.blocks // 4), Site(3 * given.blocks // 4)]
    source = ModelSource(model, corpus, sites, window=128, batch_size=8, tokens=given.tokens)
    held = list(source)
    device = torch.device(given.device)

    def grow(batches: object) -> None:
        trainers = {site: Trainer(given.width, k=K, threshold=THRESHOLD) for site in sites}
        for found in batches:  # pyright: ignore[reportGeneralTypeIssues]
            for site, batch in found.items():
                trainers[site].offer(batch)
        print("   ", [len(trainer) for trainer in trainers.values()], "atoms", flush=True)

    def ahead() -> None:
        with ReadAhead(source, device=device, own_stream=True) as reading:
            grow(reading)

    ways: dict[str, Callable[[], object]] = {
        "model alone": lambda: sum(1 for _ in source),
        "growth alone": lambda: grow(held),
        "one after the other": lambda: grow(source),
        "one ahead of the other": ahead,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(given.repeats):
        for name, way in ways.items():
            if device.type == "cuda":
                torch.cuda.synchronize()
            started = time.perf_counter()
            way()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - started)
            print(f"{name}: {seconds[name][-1]:.2f} s", flush=True)
    card = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"\n{card}; {given.tokens:,} tokens, width {given.width}; medians of {given.repeats}, in turn")
    for name, each in seconds.items():
        print(f"{name}: {statistics.median(each):.2f} s ({min(each):.2f} to {max(each):.2f})")
    pairs = zip(seconds["one ahead of the other"], seconds["one after the other"], strict=True)
    ratios = sorted(a / b for a, b in pairs)
    print(f"ahead / after: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}, paired)")


if __name__ == "__main__":
    main()
