"""Train the bundled model `tiny`: a 3.4M-parameter Llama on the Python standard library and language reference.

    python scripts/train_tiny.py --work DIR [--steps 2600]

Whole files are held out (one in ten, by `itda.sources.corpora.corpus.is_held_out`). DIR receives the tokenizer, a
checkpoint every 100 steps (running the script again goes on from it) and, at the end, the model in half precision.
`scripts/tiny_card.py` measures it against n-gram models; `--steps` can be cut for a trial.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from itda.sources.corpora.corpus import Document, python_docs

VOCABULARY, CONTEXT, BATCH, SEED = 4096, 256, 32, 0
BOS, PAD = "<|bos|>", "<|pad|>"


def training_documents() -> list[Document]:
    """Train-part files, tests included; the documents that `python-docs` has count twice."""
    documents = [*python_docs(tests=True).split("train"), *python_docs().split("train")]
    return [d for d in documents if sum(not c.isascii() for c in d.text) < 0.02 * len(d.text)]


def train_tokenizer(documents: list[Document]) -> PreTrainedTokenizerFast:
    """A byte-level BPE whose pieces keep their leading space and their offsets."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[BOS, PAD], initial_alphabet=alphabet)
    tokenizer.train_from_iterator((document.text for document in documents), trainer)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=BOS, pad_token=PAD, model_max_length=CONTEXT
    )


def new_model() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=6,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
    )
    torch.manual_seed(SEED)
    return LlamaForCausalLM(config)


def token_stream(tokenizer: PreTrainedTokenizerFast, documents: list[Document]) -> list[torch.Tensor]:
    rows = tokenizer([d.text for d in documents], add_special_tokens=False, verbose=False)["input_ids"]
    return [torch.tensor([0, *row]) for row in rows]


def batch_at(streams: list[torch.Tensor], step: int) -> torch.Tensor:
    """The batch of a step: a function of the step alone, so that a resumed run sees the same batches."""
    content = CONTEXT - 1
    tokens_per_epoch = sum(map(len, streams)) // content - 1
    batches_per_epoch = tokens_per_epoch // BATCH
    epoch, number = divmod(step, batches_per_epoch)
    if batch_at.epoch != epoch:  # type: ignore[attr-defined]
        random = torch.Generator().manual_seed(SEED + epoch)
        order = torch.randperm(len(streams), generator=random).tolist()
        flat = torch.cat([streams[i] for i in order])
        start = int(torch.randint(content, (1,), generator=random))
        rows = flat[start : start + tokens_per_epoch * content].view(-1, content)
        batch_at.rows = rows[torch.randperm(len(rows), generator=random)]  # type: ignore[attr-defined]
        batch_at.epoch = epoch  # type: ignore[attr-defined]
    rows = batch_at.rows[number * BATCH : (number + 1) * BATCH]  # type: ignore[attr-defined]
    return torch.cat([torch.zeros(len(rows), 1, dtype=torch.long), rows], dim=1)


batch_at.epoch = -1  # type: ignore[attr-defined]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--stop-after", type=int, help="stop at this step, for a trial")
    arguments = parser.parse_args()
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)

    documents = training_documents()
    if not (work / "tokenizer.json").exists():
        train_tokenizer(documents).save_pretrained(work)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(work)
    streams = token_stream(tokenizer, documents)
    print(f"{len(documents)} documents, {sum(map(len, streams)):,} tokens an epoch", flush=True)

    model = new_model()
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim < 2 or "embed" in n]
    muon = torch.optim.Muon(matrices, lr=0.01, weight_decay=0.01, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(others, lr=0.006, betas=(0.9, 0.95), weight_decay=0.0)
    optimizers, peaks = [muon, adam], [0.01, 0.006]

    step, checkpoint = 0, work / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        step = state["step"]

    compiled = torch.compile(model)
    started, first = time.monotonic(), step
    for step in range(first, min(arguments.steps, arguments.stop_after or arguments.steps)):
        warm_up, left = (step + 1) / 100, (arguments.steps - step) / (0.5 * arguments.steps)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * min(1.0, warm_up, left)
        batch = batch_at(streams, step)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = compiled(input_ids=batch).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if not math.isfinite(loss.item()):
            raise SystemExit(f"the loss is {loss.item()} at step {step}")
        if step % 20 == 0:
            speed = (step + 1 - first) * BATCH * CONTEXT / (time.monotonic() - started)
            line = {"step": step, "loss": round(loss.item(), 4), "tokens_per_s": round(speed)}
            print(json.dumps(line), flush=True)
        if (step + 1) % 100 == 0:
            state = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "step": step + 1}
            torch.save(state, checkpoint.with_suffix(".tmp"))
            checkpoint.with_suffix(".tmp").replace(checkpoint)
    model.half().save_pretrained(work)
    tokenizer.save_pretrained(work)


if __name__ == "__main__":
    main()
