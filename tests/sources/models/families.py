"""A table of tiny models with random weights, one per family, and tiny tokenizers, all made in memory."""

from dataclasses import dataclass
from functools import cache

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from itda.core.batch import Site
from itda.sources.corpora.corpus import Document
from itda.sources.models.transformers import LanguageModel
from itda.sources.tokenizing.windows import Group

LAYERS, WIDTH, CONTEXT = 3, 32, 64
WORDS = ("the", "cat", "sat", "on", "mat", "a", "dog", "ran", "to", "be", "or", "not", "is", "it", "so", "and", "all")
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("a", "t"), ("c", "at"), ("Ġ", "cat"), ("Ġ", "a")]
VOCABULARY = 2 + len(BYTES) + len(MERGES)


def save_small_llama(folder) -> None:
    """Write a Llama of 4 layers, 32 wide, of random weights, with `byte_tokenizer`."""
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def byte_tokenizer(*, bos: bool = True) -> PreTrainedTokenizerFast:
    """Byte-level BPE. With `bos`, ids 0 and 1 are <bos> and <pad>, else there is no special token at all."""
    tokens = [*(["<bos>", "<pad>"] if bos else []), *BYTES, *("".join(pair) for pair in MERGES)]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if not bos:
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<bos>", pad_token="<pad>")


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word, between [CLS] and [SEP]; [PAD] is 0."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def end_of_text(**names) -> PreTrainedTokenizerFast:
    """As GPT-2's: byte-level, `<|endoftext|>` is the EOS, and nothing is put around a text."""
    tokens = ["<|endoftext|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    found.add_special_tokens({"additional_special_tokens": ["<|endoftext|>", "<|im_end|>"]})
    return found


TOKENIZERS = {"bos": byte_tokenizer, "plain": lambda: byte_tokenizer(bos=False), "words": word_tokenizer}


@dataclass(frozen=True)
class Family:
    """How to make a model of a family, and where its final norm is."""

    config: str
    model: str
    norm: str | None
    options: tuple[tuple[str, object], ...] = ()
    tokenizer: str = "bos"

    @property
    def is_causal(self) -> bool:
        return self.tokenizer != "words"


LLAMA_LIKE = (("intermediate_size", 48), ("num_key_value_heads", 2), ("head_dim", 8))
SLIDING = (("sliding_window", 8),)
PARALLEL = (("new_decoder_architecture", True), ("num_kv_heads", 2))
SERIAL = (("parallel_attn", False), ("alibi", True))
GEMMA3 = (*LLAMA_LIKE, *SLIDING, ("layer_types", ("sliding_attention", "full_attention", "sliding_attention")))

FAMILIES: dict[str, Family] = {
    "gpt2": Family("GPT2Config", "GPT2LMHeadModel", "ln_f", tokenizer="plain"),
    "gpt-j": Family("GPTJConfig", "GPTJForCausalLM", "ln_f", (("rotary_dim", 4),), "plain"),
    "gpt-neox": Family("GPTNeoXConfig", "GPTNeoXForCausalLM", "final_layer_norm", (("intermediate_size", 48),)),
    "llama": Family("LlamaConfig", "LlamaForCausalLM", "norm", LLAMA_LIKE),
    "mistral": Family("MistralConfig", "MistralForCausalLM", "norm", (*LLAMA_LIKE, *SLIDING)),
    "qwen2": Family("Qwen2Config", "Qwen2ForCausalLM", "norm", LLAMA_LIKE[:2], "plain"),
    "qwen3": Family("Qwen3Config", "Qwen3ForCausalLM", "norm", LLAMA_LIKE, "plain"),
    "gemma": Family("GemmaConfig", "GemmaForCausalLM", "norm", LLAMA_LIKE),
    "gemma-2": Family("Gemma2Config", "Gemma2ForCausalLM", "norm", (*LLAMA_LIKE, *SLIDING)),
    "gemma-3": Family("Gemma3TextConfig", "Gemma3ForCausalLM", "norm", GEMMA3),
    "olmo-2": Family("Olmo2Config", "Olmo2ForCausalLM", "norm", LLAMA_LIKE[:2]),
    "phi-3": Family("Phi3Config", "Phi3ForCausalLM", "norm", LLAMA_LIKE[:2]),
    "cohere": Family("CohereConfig", "CohereForCausalLM", "norm", LLAMA_LIKE[:2]),
    "opt": Family("OPTConfig", "OPTForCausalLM", "decoder.final_layer_norm", (("ffn_dim", 48),)),
    "falcon": Family("FalconConfig", "FalconForCausalLM", "ln_f"),
    "falcon-new": Family("FalconConfig", "FalconForCausalLM", "ln_f", PARALLEL),
    "falcon-serial": Family("FalconConfig", "FalconForCausalLM", "ln_f", SERIAL),
    "bert": Family("BertConfig", "BertModel", None, (("intermediate_size", 48),), "words"),
    "modernbert": Family(
        "ModernBertConfig",
        "ModernBertModel",
        "final_norm",
        (("intermediate_size", 48), ("local_attention", 8), ("cls_token_id", 2), ("sep_token_id", 3)),
        "words",
    ),
}
# OPT's first positions and Falcon's alibi apart, these sizes mean the same everywhere.
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 1,
}
CAUSAL = [name for name, family in FAMILIES.items() if family.is_causal]
STREAMS = ("resid_post", "attn_out", "mlp_out")
SITES = [Site(layer, stream) for layer in range(LAYERS) for stream in STREAMS]


def build(name: str) -> PreTrainedModel:
    """A new model of a family. Every weight has noise, norms included, so that no two parts look alike."""
    family = FAMILIES[name]
    options = {key: list(value) if isinstance(value, tuple) else value for key, value in family.options}
    config = getattr(transformers, family.config)(**COMMON, **options)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, family.model)(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def language_model(name: str) -> LanguageModel:
    """A new model with its tokenizer."""
    return LanguageModel(build(name), TOKENIZERS[FAMILIES[name].tokenizer](), name)


@cache
def shared(name: str) -> LanguageModel:
    """The same model for every test that leaves it as it is."""
    return language_model(name)


TEXTS = ("the cat sat on a dog", "a dog", "to be or it")


def ragged_group(model: LanguageModel, *, window: int = 24, size: int = 4, texts: tuple[str, ...] = TEXTS) -> Group:
    """The first windows of the texts in one group: rows of unequal length, and one row without a window."""
    windower = model.windower(window)
    return windower.group([windower.windows(Document(f"d{i}", text))[0] for i, text in enumerate(texts)], size)


def real(group: Group) -> torch.Tensor:
    """True at special and text tokens of the windows."""
    mask = group.attention_mask.bool().clone()
    mask[len(group.windows) :] = False
    return mask
