"""Settings that several commands have: the flags, their defaults and their help. `itda.config` has the commands."""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from itda.parsing import Bytes, Count, File, Names, SomeStreams

T = TypeVar("T")


class Place(Enum):
    """Where an option stands in the usage and the help of its command, unless it stands where its class says."""

    POSITIONAL = "positional"
    MORE = "more"


Positional = Annotated[T, Place.POSITIONAL]
"""An argument that is given without a name before it, such as RUN of `itda info RUN`."""
Advanced = Annotated[T, Place.MORE]
"""An option that most people leave alone: the help shows it after the usual ones."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """Settings of a command's output."""

    json: bool = False
    """Print one JSON object, and nothing else on standard output."""
    quiet: bool = False
    """Show no progress."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Settings of how the language model is run."""

    batch_size: int = 8
    """Windows per forward pass. Another number can change the last bits of the activations."""
    device: str = "auto"
    """cpu, cuda, cuda:1 or mps. auto: a GPU where there is one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """The type of the weights. auto: float32 on a CPU, elsewhere the type in which the model is stored."""
    trust_remote_code: bool = False
    """Run code that comes with the model."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(ModelOptions):
    """Settings of how the language model of a run is run again."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """The type of the weights. auto: the type that the run was made in, on any device."""
    model_path: str | None = None
    """Where the model of the run is now, if it has moved."""
    changed_model: bool = False
    """Go on although the model's files have changed since the run was made."""


@dataclass(frozen=True, kw_only=True)
class PursuitOptions:
    """Settings of pursuits: memory, and precision on a GPU."""

    memory: Bytes | None = None
    """Memory for the products of pairs of atoms, such as 8G. Less is slower. Default: half of the free memory."""
    fast: bool = False
    """On a GPU, pick atoms by TF32 products, which are faster and approximate. Changes nothing on a CPU."""


@dataclass(frozen=True, kw_only=True)
class CorpusOptions:
    """Settings of where the text is within a corpus."""

    text_field: str = "text"
    """The key or column that holds the text, in tables (.jsonl .json .csv .parquet) and in data sets of the Hub."""
    dataset_config: str | None = None
    """The configuration of a data set of the Hub."""
    dataset_split: str = "train"
    """The split of a data set of the Hub."""
    dataset_revision: str | None = None
    """The commit, tag or branch of a data set of the Hub."""


@dataclass(frozen=True, kw_only=True)
class DocumentOptions:
    """Settings of which documents are read, in which order, and how they are cut."""

    order: Literal["corpus", "shuffled"] = "shuffled"
    """The order of the documents."""
    seed: int = 0
    """The seed of the shuffled order."""
    window: int = 128
    """Tokens that the model reads at once, special ones included."""
    bos: Literal["auto", "always", "never"] = "auto"
    """The start token of each window. auto: as the tokenizer adds it. always: one in any case. never: none."""
    revision: str | None = None
    """The commit, tag or branch of a model on the Hub."""
    part: Literal["train", "heldout", "all"] = "all"
    """all: read all documents. train: leave out one in ten. heldout: read only those."""


@dataclass(frozen=True, kw_only=True)
class PairOptions:
    """Settings of how two models are read side by side, and where what is found goes."""

    tokens: Count = 20_000
    """Tokens to read: 50000, 50k or 1M."""
    out: Path | None = None
    """The folder to make, with what was found."""
    export: File | None = None
    """The page to write, one HTML file that needs no server."""
    control: Names = ()
    """Models trained from the base in the same way, but without what you look for; several with commas. A finding is
    what stands out from them."""
    chat: bool = False
    """The corpus is conversations: a table with `messages`. All models read them by one chat template."""
    streams: SomeStreams = ("resid_post",)
    """Which activations of each layer: resid_post (its output), mlp_out, attn_out, or several with commas."""
    changed_revision: Advanced[str | None] = None
    """The commit, tag or branch of a changed model on the Hub."""
    merge: Advanced[bool] = True
    """Run an adapter beside the base's weights. Without this option it is added to a copy of them."""
    first_tokens: Advanced[bool] = False
    """Count the first token of each window too. Many models give it an activation unlike all others."""
    noise: Advanced[Count | None] = None
    """Tokens that the base reads again, in other groups and another dtype, to measure the noise. Default: 2048, or 0 if
    the model is read block by block."""
    kl: Advanced[bool] = True
    """Rank atoms by energy alone. Without this option they are ranked by what they do to the predictions."""


@dataclass(frozen=True, kw_only=True)
class RunCorpusOptions(CorpusOptions):
    """Settings of where the documents of a run are now."""

    corpus_path: str | None = None
    """Where the corpus of the run is now, if it has moved."""


@dataclass(frozen=True, kw_only=True)
class LargeOptions:
    """Settings for models larger than memory."""

    stream: bool = False
    """Read the model block by block from its files. This is done anyway if its weights need more than
    --model-memory."""
    model_memory: Bytes | None = None
    """Memory for the model and its hidden states, such as 16G. Default: what is free on the GPU, or half of the free
    RAM."""
    scratch: Path | None = None
    """A folder on a fast disk for hidden states that do not fit into --model-memory. Without it the model is read more
    often instead."""


@dataclass(frozen=True, kw_only=True)
class ElsewhereOptions:
    """Settings for models that run in other processes."""

    workers: int = 0
    """Processes of Ray that run the model, each with its own copy. The results are the same. 0: none, or with --ray one
    for each GPU of the cluster, or each machine if it has no GPU."""
    ray: str | None = None
    """The address of a Ray cluster, or auto. Default: RAY_ADDRESS if it is set, else a cluster made on this machine."""
    remote: bool = False
    """Run the model at NDIF, a public service, by nnsight. Needs a key in NDIF_API_KEY."""
