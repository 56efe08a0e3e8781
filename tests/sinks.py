"""A tiny random GPT-2 with sinks: the first token of each window, and one word anywhere, are far longer than others."""

from functools import cache
from pathlib import Path

import torch
import transformers

from itda.sources.models.transformers import LanguageModel

WIDTH, LAYERS, CONTEXT = 24, 3, 64
TIMES = 2000.0
WORD = " sink"


@cache
def sink_model(kind: str = "sinks") -> LanguageModel:
    """`sinks`, or `dimension`: one dimension that is huge in every token, which makes no token a sink."""
    tokenizer = LanguageModel.load("tiny", device="cpu").tokenizer
    config = transformers.GPT2Config(
        vocab_size=4096,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=2,
        n_positions=CONTEXT,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        # Random weights of this size are what makes a splice cost something.
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(20)
        words, places = model.transformer.wte.weight, model.transformer.wpe.weight
        places.mul_(0.2)
        length = float(words.norm(dim=1).median())
        if kind == "dimension":
            places[:, 5] += TIMES * length
        else:
            places[1, 3] += TIMES * length  # 0 is that of the BOS token, which is no activation
            words[word_id(tokenizer), 7] += TIMES * length
    return LanguageModel(model, tokenizer, kind)


def word_id(tokenizer) -> int:
    """The last token of the word that is a sink wherever it stands."""
    return tokenizer(WORD, add_special_tokens=False)["input_ids"][-1]


def save(folder: Path, kind: str = "sinks") -> Path:
    """A folder that `itda train` takes."""
    model = sink_model(kind)
    model.model.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


def texts(number: int = 24) -> list[str]:
    """Documents of several windows each."""
    words = ("the", "path", "value", "of", "a", "list", "and", "return", "self", "name", "in", "key", "for", "str")
    random = torch.Generator().manual_seed(3)
    made = []
    for _ in range(number):
        picks = torch.randint(len(words), (90,), generator=random).tolist()
        made.append(" ".join(words[i] + (WORD if i == 3 and at % 3 == 0 else "") for at, i in enumerate(picks)))
    return made
