"""Tiny language models that differ in their seed alone, to compare with each other: trained once, kept in a cache.

    python benchmarks/family.py [--cache DIR] [--only gpt2-0 llama-1] [--steps 500]

Two architectures of 8 blocks: GPT-2 of width 64 (8 seeds) and Llama of width 96 (2 seeds). A seed sets the initial
weights and the order of the data: 2M tokens of the Python standard library and its documentation, cut by a tokenizer
of 1,024 pieces that all share. A run that was ended goes on where it was. gpt2-0 leaves checkpoints for convergence.py.
"""

import argparse
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
from families_text import CONTEXT, VOCABULARY, trained_tokenizer
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from itda.sources.corpora.corpus import Document, python_docs

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "itda-family"
BATCH, BLOCKS, STEPS = 32, 8, 500
MEMBERS = (*(f"gpt2-{seed}" for seed in range(8)), *(f"llama-{seed}" for seed in range(2)))
WITH_CHECKPOINTS = "gpt2-0"
SAVE_EVERY = 50
CHECKPOINTS = (0, 5, 10, 20, 30, 50, 75, 100, 150, 200, 250, 300, 350, 400, 450)
"""Steps after which the model is kept; the last one is the member itself."""


def documents() -> list[Document]:
    """What the family learns from: the train part, the standard library's tests included where there are any."""
    found = python_docs(tests=True).split("train")
    return [d for d in found if sum(not c.isascii() for c in d.text) < 0.02 * len(d.text)]


def shared_tokenizer(cache: Path) -> PreTrainedTokenizerFast:
    """A byte-level BPE, trained once."""
    return trained_tokenizer(cache / "tokenizer", (document.text for document in python_docs().split("train")))


def new_model(member: str) -> PreTrainedModel:
    """The untrained model of a member."""
    architecture, _, seed = member.partition("-")
    torch.manual_seed(int(seed))
    ids: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
    if architecture == "gpt2":
        off: dict[str, Any] = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        return GPT2LMHeadModel(
            GPT2Config(vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=64, n_layer=BLOCKS, n_head=4, **off, **ids)
        )
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=96,
            intermediate_size=256,
            num_hidden_layers=BLOCKS,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            **ids,
        )
    )


def rows_for(seed: int, cache: Path, steps: int) -> torch.Tensor:
    """The windows [steps * BATCH, CONTEXT] that a seed sees, in its order; each starts with the BOS token."""
    kept = cache / "tokens.pt"
    if not kept.exists():
        texts = [document.text for document in documents()]
        ids = shared_tokenizer(cache)(texts, add_special_tokens=False, verbose=False)["input_ids"]
        flat = torch.tensor([i for row in ids for i in row], dtype=torch.int16)
        torch.save(flat, temporary := kept.with_suffix(f".{os.getpid()}"))
        temporary.replace(kept)
    flat = torch.load(kept, weights_only=True)
    random = torch.Generator().manual_seed(1000 + seed)
    content = CONTEXT - 1
    rows = flat[int(torch.randint(content, (1,), generator=random)) :]
    rows = rows[: len(rows) // content * content].view(-1, content)
    order = torch.cat([torch.randperm(len(rows), generator=random) for _ in range(steps * BATCH // len(rows) + 1)])
    rows = rows[order[: steps * BATCH]].long()
    return torch.cat([torch.zeros(len(rows), 1, dtype=torch.long), rows], dim=1)


def trained(member: str, cache: Path = CACHE, steps: int = STEPS) -> Path:
    """The folder of a member, which is trained if it has not been."""
    folder = cache / f"{member}-{steps}"
    if (folder / "config.json").exists():
        return folder
    partial = cache / f"{member}-{steps}.partial"
    partial.mkdir(parents=True, exist_ok=True)
    tokenizer, model = shared_tokenizer(cache), new_model(member)
    rows = rows_for(int(member.partition("-")[2]), cache, steps)
    named = dict(model.named_parameters())
    inside = [n for n, p in named.items() if p.ndim == 2 and not any(e in n for e in ("wte", "wpe", "embed"))]
    body, others = [named[n] for n in inside], [p for n, p in named.items() if n not in inside]
    muon = torch.optim.Muon(body, lr=0.01, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(others, lr=0.006, betas=(0.9, 0.95), weight_decay=0.0)
    optimizers, peaks = (muon, adam), (0.01, 0.006)

    def keep(path: Path) -> None:
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)

    first, state_file = 0, partial / "state.pt"
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first = state["step"]
    started = time.monotonic()
    for step in range(first, steps):
        if member == WITH_CHECKPOINTS and step in CHECKPOINTS:
            keep(partial / f"step-{step}")
        factor = min(1.0, (step + 1) / (0.1 * steps), (steps - step) / (0.5 * steps))
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * factor
        batch = rows[step * BATCH : (step + 1) * BATCH]
        loss = torch.nn.functional.cross_entropy(
            model(input_ids=batch).logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten()
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if not math.isfinite(loss.item()):
            raise SystemExit(f"{member}: the loss is {loss.item()} at step {step}")
        if (step + 1) % SAVE_EVERY == 0:
            speed = (step + 1 - first) * BATCH * CONTEXT / (time.monotonic() - started)
            print(f"{member} step {step + 1} loss {loss.item():.3f} {speed:,.0f} tokens/s", flush=True)
            state = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "step": step + 1}
            torch.save(state, state_file.with_suffix(".tmp"))
            state_file.with_suffix(".tmp").replace(state_file)
    keep(partial)
    state_file.unlink(missing_ok=True)
    partial.rename(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder for models and tokens")
    parser.add_argument("--only", nargs="+", choices=MEMBERS, default=MEMBERS)
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of {BATCH * CONTEXT:,} tokens each")
    parser.add_argument("--threads", type=int, help="of this process")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    for member in arguments.only:
        print(trained(member, arguments.cache, arguments.steps), flush=True)


if __name__ == "__main__":
    main()
