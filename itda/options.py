"""Settings that several commands have: the flags, their defaults and their help. `itda.config` has the commands."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from itda.parsing import Bytes, Count, File, Names, SomeStreams

T = TypeVar("T")
POSITIONAL, MORE = "positional", "more"
Positional = Annotated[T, POSITIONAL]
"""An argument that is given without a name before it, such as RUN of `itda info RUN`."""
Advanced = Annotated[T, MORE]
"""An option that most people leave alone: the help shows it after the usual ones."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """Settings of a command's output."""

    json: bool = False
    """Print one JSON object, and nothing else on standard output."""
    quiet: bool = False
    """No progress on standard error."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Settings of how the language model is run."""

    batch_size: int = 8
    """Windows per forward pass. Another number may change the last bits of the activations."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto is a GPU where there is one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto is float32 on a CPU, elsewhere the type in which the model is stored."""
    trust_remote_code: bool = False
    """Run code from the model's repository."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(ModelOptions):
    """Settings of how the language model of a run is run again."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto is the type that the run was made in, on any device."""
    model_path: str | None = None
    """Where the model of the run is now, if it was moved."""
    changed_model: bool = False
    """Go on with a model whose files are not what they were when the run was made."""


@dataclass(frozen=True, kw_only=True)
class PursuitOptions:
    """Settings of pursuits: memory, and precision on a GPU."""

    memory: Bytes | None = None
    """Memory for the Gram matrices of the dictionaries, such as 8G; default: half of what is free. Less is slower."""
    fast: bool = False
    """Approximate: lets pursuits on a GPU pick atoms by TF32 products. Nothing changes on a CPU."""


@dataclass(frozen=True, kw_only=True)
class CorpusOptions:
    """Settings of where the text is within a corpus."""

    text_field: str = "text"
    """The key or column that holds the text, in tables (.jsonl .json .csv .parquet) and Hub data sets."""
    dataset_config: str | None = None
    """The configuration of a Hub data set."""
    dataset_split: str = "train"
    """The split of a Hub data set."""
    dataset_revision: str | None = None
    """The commit, tag or branch of a Hub data set."""


@dataclass(frozen=True, kw_only=True)
class DocumentOptions:
    """Settings of which documents are read, in which order, and how they are cut."""

    order: Literal["corpus", "shuffled"] = "shuffled"
    """The order of the documents. What is new depends on what came before."""
    seed: int = 0
    """The seed of the shuffled order."""
    window: int = 128
    """Tokens that the model reads at once, special ones included."""
    bos: Literal["auto", "always", "never"] = "auto"
    """In front of each window: what the tokenizer puts there (auto), a BOS in any case (always), or nothing (never)."""
    revision: str | None = None
    """The commit, tag or branch of a Hub model."""
    part: Literal["train", "heldout", "all"] = "all"
    """all documents; or train leaves one in ten; or heldout is those."""


@dataclass(frozen=True, kw_only=True)
class PairOptions:
    """Settings of how two models are read side by side, and where what is found goes."""

    out: Path | None = None
    """The folder to make, with what was found."""
    export: File | None = None
    """A page to write, one HTML file that needs no server."""
    streams: SomeStreams = ("resid_post",)
    """Outputs to read at each layer: resid_post, mlp_out, attn_out, or several with commas."""
    tokens: Count = 20_000
    """Tokens to read: 50000, 50k, 1M."""
    changed_revision: Advanced[str | None] = None
    """The commit, tag or branch of a changed model from the Hub."""
    merge: Advanced[bool] = True
    """Add an adapter to the weights of its copy of the base; else it runs beside them."""
    control: Names = ()
    """Models, with commas, that were trained from the base likewise on text without what is looked for. Findings stand
    out from them."""
    chat: bool = False
    """The corpus is conversations, a table with `messages`: all models read them by one chat template."""
    first_tokens: Advanced[bool] = False
    """Count the first token of each window too, which many models give an activation like no other."""
    noise: Advanced[Count | None] = None
    """Tokens that the base reads again, in other groups and another dtype, to measure the noise. Default: 2048; none if
    it is streamed."""
    kl: Advanced[bool] = True
    """Compare predictions too, by which atoms are ranked."""


@dataclass(frozen=True, kw_only=True)
class RunCorpusOptions(CorpusOptions):
    """Settings of where the documents of a run are now."""

    corpus_path: str | None = None
    """Where the corpus of the run is now, if it was moved."""


@dataclass(frozen=True, kw_only=True)
class LargeOptions:
    """Settings for models larger than memory."""

    stream: bool = False
    """Read the model block by block from its files: done anyway if its weights need more than --model-memory."""
    model_memory: Bytes | None = None
    """Memory for the model and its hidden states, such as 16G. Default: what is free on the GPU, or half of the RAM."""
    scratch: Path | None = None
    """A folder on a fast disk for hidden states that --model-memory has no room for. Default: none; more passes."""


@dataclass(frozen=True, kw_only=True)
class ElsewhereOptions:
    """Settings for models that run in other processes."""

    workers: int = 0
    """Ray workers that run the model, each with its own copy. The results are the same. 0: none, or with --ray one per
    GPU of the cluster, per machine if it has none."""
    ray: str | None = None
    """The address of a Ray cluster, or auto. Default: RAY_ADDRESS, or one made on this machine."""
    remote: bool = False
    """Run the model at NDIF, by nnsight; needs NDIF_API_KEY."""
