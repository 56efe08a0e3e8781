"""Settings of the commands: the only source of their flags and defaults. The string under a field is its help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from itda.config_prompts import Decompose as Decompose
from itda.config_prompts import Steer as Steer
from itda.options import (
    Advanced,
    CorpusOptions,
    DocumentOptions,
    ElsewhereOptions,
    LargeOptions,
    ModelOptions,
    Output,
    PairOptions,
    Positional,
    PursuitOptions,
    RunCorpusOptions,
    RunOptions,
)
from itda.parsing import (
    AnyLayers,
    AtomNumbers,
    Bytes,
    Count,
    File,
    FreeBytes,
    LayerNumbers,
    Names,
    Numbers,
    OneSite,
    SomeSites,
    SomeStreams,
)

Mode = Literal["paper", "best", "reference"]


@dataclass(frozen=True, kw_only=True)
class Train(CorpusOptions, ModelOptions, LargeOptions, ElsewhereOptions, PursuitOptions, Output):
    """Build dictionaries for layers of a model, in one pass over a corpus."""

    model: Positional[str] = ""
    """A Hub id, a local folder, a GGUF file (owner/name:file.gguf on the Hub), or tiny (the bundled model)."""
    layers: LayerNumbers = ()
    """Layers to read, for example 3,4-6."""
    corpus: str = ""
    """python-docs, a file or folder (.txt .md .py .jsonl .json .csv .parquet, or .gz of one), or a Hub data set."""
    activations: Path | None = None
    """A folder made by `itda harvest`, instead of a model and a corpus. --layers then defaults to all in it."""
    resume: Path | None = None
    """An unfinished run folder to go on with, to the same dictionaries to the bit. It knows its own settings."""
    checkpoint_every: Advanced[float] = 60.0
    """Seconds between checkpoints at least; more if they would take over 2% of the time."""
    out: Path | None = None
    """The run folder to make; default: runs/ with the model's name and the first free number."""
    streams: SomeStreams = ("resid_post",)
    """Outputs to read at each layer: resid_post, mlp_out, attn_out, or several with commas."""
    k: int = 40
    """Atoms per activation."""
    threshold: Advanced[float | None] = None
    """The share of energy that may stay unexplained, instead of --atoms. Mode reference: 2(1-cos)/d_model, or 0.2."""
    atoms: Count | None = None
    """Atoms to end with, such as 4096 or 4k: the threshold is found from a sample. Default: 8 for each dimension of the
    model, but at most one for every 10 tokens."""
    tokens: Count | None = None
    """Activations to read: 50000, 50k, 1M. Default: 1M, or all that --activations has."""
    mode: Advanced[Mode] = "best"
    """best: what reconstructs best. paper: as in the paper. reference: the released script's, batch size and all."""
    pursuit: Advanced[Literal["mp", "mp_refit", "omp"] | None] = None
    """mp_refit (the default) with a final least-squares fit, mp without (of mode paper), omp with one at every step."""
    offset: Advanced[int | None] = None
    """Subtract the mean of so many first activations; 0 for no offset. Default: 4096 in mode best, else 0."""
    grow_on: Advanced[Literal["auto", "cpu", "gpu"]] = "auto"
    """Where dictionaries grow, to the same bits. auto: on the GPU, if the model runs there and they fit beside it."""
    order: Advanced[Literal["corpus", "shuffled"] | None] = None
    """The order of the documents. Default: shuffled, in mode reference corpus."""
    seed: Advanced[int] = 0
    """The seed of the shuffled order."""
    recipe: Advanced[int | None] = None
    """How mode best makes atoms. 2 (the default): they are centres of groups of activations, which come out again in
    other text. 1: activations as they come, then refined."""
    refine: Advanced[int | None] = None
    """Rounds of k-means in recipe 2, default 12. In recipe 1 passes of refinement, of up to 20,000 tokens each, that
    improve the atoms: 8 in mode best, else 0."""
    min_fidelity: Advanced[float | None] = None
    """Of recipe 1: refinement holds each atom's cosine to the activation that its label names at this or above; 0.9."""
    massive: Advanced[Literal["skip", "atoms", "off"] | None] = None
    """Activations of over 10 times the median norm, such as each window's first: skip (the default) leaves them out,
    atoms lets them be atoms, off (of mode reference) has no such rule."""
    window: Advanced[int] = 128
    """Tokens that the model reads at once, special ones included."""
    bos: Advanced[Literal["auto", "always", "never"]] = "auto"
    """In front of each window: what the tokenizer puts there (auto), a BOS in any case (always), or nothing (never)."""
    revision: Advanced[str | None] = None
    """The commit, tag or branch of a Hub model."""
    part: Advanced[Literal["train", "all"]] = "train"
    """train leaves one document in ten for `itda evaluate`."""


@dataclass(frozen=True, kw_only=True)
class Harvest(CorpusOptions, ModelOptions, LargeOptions, ElsewhereOptions, Output):
    """Keep activations on disk, to train many dictionaries from one pass over a model. Started again, it goes on."""

    model: Positional[str]
    """A Hub id, a local folder, a GGUF file (owner/name:file.gguf on the Hub), or tiny (the bundled model)."""
    layers: LayerNumbers
    """Layers to read, for example 3,4-6."""
    corpus: str
    """python-docs, a file or folder (.txt .md .py .jsonl .json .csv .parquet, or .gz of one), or a Hub data set."""
    out: Path
    """The folder to make, or to go on with."""
    streams: SomeStreams = ("resid_post",)
    """Outputs to read at each layer: resid_post, mlp_out, attn_out, or several with commas."""
    tokens: Count = 1_000_000
    """Activations to read: 50000, 50k, 1M."""
    order: Advanced[Literal["corpus", "shuffled"]] = "shuffled"
    """The order of the documents: what `itda train` makes of them depends on it."""
    seed: Advanced[int] = 0
    """The seed of the shuffled order."""
    window: Advanced[int] = 128
    """Tokens that the model reads at once, special ones included."""
    bos: Advanced[Literal["auto", "always", "never"]] = "auto"
    """In front of each window: what the tokenizer puts there (auto), a BOS in any case (always), or nothing (never)."""
    revision: Advanced[str | None] = None
    """The commit, tag or branch of a Hub model."""
    part: Advanced[Literal["train", "heldout", "all"]] = "train"
    """train leaves one document in ten for `itda evaluate`; heldout is those."""


@dataclass(frozen=True, kw_only=True)
class Plan(Output):
    """Estimate what a streamed model would read, hold in memory and compute, from its config.json alone."""

    model: Positional[str]
    """A Hub id, a folder, a config.json, or tiny (the bundled model)."""
    layers: LayerNumbers
    """Layers to read, for example 3,4-6."""
    streams: SomeStreams = ("resid_post",)
    """Outputs to read at each layer: resid_post, mlp_out, attn_out, or several with commas."""
    tokens: Count = 1_000_000
    """Activations to read: 50000, 50k, 1M."""
    evaluate: Advanced[Count] = 50_000
    """Activations to evaluate on."""
    window: Advanced[int] = 128
    """Tokens that the model reads at once."""
    batch_size: Advanced[int] = 8
    """Windows per forward pass."""
    k: int = 40
    """Atoms per activation."""
    atoms: Count = 16_000
    """Atoms that each dictionary will have."""
    dtype: Advanced[Literal["auto", "float32", "bfloat16", "float16"]] = "auto"
    """auto is float32 on a CPU, on a GPU the type in which the model is stored."""
    gpu_memory: Bytes = 24 * 2**30
    """Memory of the GPU."""
    ram: Bytes = 64 * 2**30
    """Memory of the machine that has the GPU."""
    laptop: Bytes = 16 * 2**30
    """Memory of a machine without a GPU."""
    model_memory: Bytes | None = None
    """As for `itda train`: for hidden states, and without a GPU for weights too. Default: half of the RAM."""
    scratch: FreeBytes | None = None
    """A folder for hidden states that --model-memory has no room for, or how much is free there, such as 500G."""
    recipe: Advanced[int | None] = None
    """How dictionaries are made, as for `itda train`: 1 or 2."""
    refine: Advanced[int | None] = None
    """Rounds of recipe 2, or passes of refinement of recipe 1, as for `itda train`; 0 for atoms as they grow."""
    grow_on: Advanced[Literal["auto", "cpu", "gpu"]] = "auto"
    """Where dictionaries grow: auto is the GPU if they fit there beside the model, else the CPU."""
    measure: Advanced[bool] = False
    """Measure this machine's rates for the model, in some seconds. They are kept for the plans to come."""
    assumed: Advanced[bool] = False
    """Go by assumed rates, not by those that were measured on this machine."""
    tflops: Advanced[float | None] = None
    """10^12 operations of the model per second on the GPU. Default: as measured, else 50 are assumed."""
    cpu_tflops: Advanced[float | None] = None
    """10^12 operations of the model per second on a CPU. Default: as measured, else 0.5 are assumed."""
    disk_gbps: Advanced[float | None] = None
    """10^9 bytes read from disk per second. Default: as measured, else 3 are assumed."""
    revision: Advanced[str | None] = None
    """The commit, tag or branch of a Hub model."""
    trust_remote_code: Advanced[bool] = False
    """Run code from the model's repository."""


@dataclass(frozen=True, kw_only=True)
class Info(Output):
    """Show what is in a run folder, a diff, or a fingerprint."""

    run: Positional[Path]
    """The folder of a run or a diff, or the file of a fingerprint."""


@dataclass(frozen=True, kw_only=True)
class Evaluate(RunCorpusOptions, RunOptions, LargeOptions, PursuitOptions, Output):
    """Measure each dictionary by splicing it into the model, on documents held out from training."""

    run: Positional[Path]
    """The run folder."""
    corpus: str | None = None
    """Another corpus than that of the run; all of it is used."""
    tokens: Count | None = None
    """Activations to evaluate on. Default: as many as take about as many passes through blocks as training took, from
    5,000 to 100,000."""
    massive: Advanced[Literal["clean", "splice"]] = "clean"
    """Massive activations, over 10 times the median norm, stay what they are in the splice, or are replaced too."""


@dataclass(frozen=True, kw_only=True)
class Probe(RunCorpusOptions, RunOptions, PursuitOptions, Output):
    """Measure how well a few latents of codes, similarities and neurons tell comments, strings, names ... apart.

    Or the classes of the 113 data sets of sae-probes, by its protocol: --sets sae-probes.
    """

    run: Positional[Path]
    """The run folder."""
    corpus: str | None = None
    """Python source to probe on, instead of the held-out documents of the run's corpus."""
    tokens: Count = 20_000
    """Activations to probe, of the first 4,000 characters of each file."""
    sets: Literal["python", "sae-probes"] = "python"
    """python: classes of Python's syntax, by token. sae-probes: its data sets, by the last token of each prompt."""
    data: Advanced[Path | None] = None
    """sae-probes: its wheel or folder. Default: the package that is installed."""
    only: Advanced[Names] = ()
    """sae-probes: the data sets to take, such as 100_news_fake, several with commas; default: all."""
    rows: Advanced[Count | None] = None
    """sae-probes: prompts of each set, as many of either class. Default: as many as it takes itself, up to 5,000."""
    prompt_tokens: Advanced[int] = 1024
    """sae-probes: tokens of a prompt, the last."""
    latents: Advanced[Numbers] = (1, 2, 4, 8, 16)
    """sae-probes: numbers of latents that regressions read."""


@dataclass(frozen=True, kw_only=True)
class Compare(PursuitOptions, Output):
    """Compare fingerprints of models, or runs, layer by layer, with the controls that such an index needs."""

    runs: Positional[tuple[Path, ...]]
    """Fingerprints (a.itda, or user/name on the Hub) or run folders, made on one corpus with one window; one alone is
    compared with itself."""
    noise_floor: bool = False
    """Make the first one again at another batch size: what differs then is noise. Takes as long as that did."""
    all: bool = False
    """Fingerprints: show every index, not one and what it is made of."""
    out: Path | None = None
    """A folder to make, for compare.json and a heat map as PNG and SVG."""


@dataclass(frozen=True, kw_only=True)
class Fingerprint(DocumentOptions, CorpusOptions, ModelOptions, LargeOptions, ElsewhereOptions, Output):
    """Find out which tokens are new to each layer of a model, to compare it with others by. Begun again, it goes on."""

    model: Positional[str] = ""
    """A Hub id, a local folder, a GGUF file (owner/name:file.gguf on the Hub), or tiny (the bundled model)."""
    corpus: str = ""
    """python-docs, a file or folder (.txt .md .py .jsonl .json .csv .parquet, or .gz of one), or a Hub data set."""
    out: File | None = None
    """The file to make, such as a.itda: Needed unless --push is given."""
    layers: AnyLayers = ()
    """Layers to read, for example 3,4-6."""
    streams: SomeStreams = ("resid_post",)
    """Outputs to read at each layer: resid_post, mlp_out, attn_out, or several with commas."""
    tokens: Count = 10_000
    """Activations to read: 50000, 50k, 1M."""
    segment: Advanced[Count | None] = None
    """Tokens whose novelty is found together: fewer take less time. Default: 8192. Compare those that have one."""
    activations: Path | None = None
    """A folder made by `itda harvest`, instead of a model and a corpus."""
    push: str | None = None
    """A repository of the Hub, user/name, to upload it to."""
    checkpoint_every: Advanced[float] = 60.0
    """Seconds between checkpoints at least; more if they would take over 2% of the time."""


@dataclass(frozen=True, kw_only=True)
class Diff(PairOptions, DocumentOptions, CorpusOptions, ModelOptions, LargeOptions, Output):
    """Find out what a changed model has that its base has not: labelled differences of their activations."""

    base: Positional[str] = ""
    """The base: a Hub id, a local folder, a GGUF file, or tiny (the bundled model)."""
    changed: Positional[str] = ""
    """What it was changed to: likewise, or a PEFT adapter on the base, by its folder or Hub id."""
    layers: LayerNumbers = ()
    """Layers to read, for example 3,4-6."""
    corpus: str = ""
    """python-docs, a file or folder (.txt .md .py .jsonl .json .csv .parquet, or .gz of one), or a Hub data set."""


@dataclass(frozen=True, kw_only=True)
class Index(RunCorpusOptions, RunOptions, LargeOptions, ElsewhereOptions, PursuitOptions, Output):
    """Keep the codes of a corpus in the run, by token and by atom, for the explorer. Started again, it goes on.

    The nearest activations of each atom in other documents are kept too.
    """

    run: Positional[Path]
    """The run folder."""
    corpus: str | None = None
    """Another corpus than that of the run; all of it is used. Default: the documents that the run was made from."""
    tokens: Count | None = None
    """Activations to index: 50000, 50k, 1M. Default: as many as the run read."""
    layer: SomeSites = ()
    """Layers (3) or sites (3.mlp_out) of the run, several with commas; default: all."""
    batch_size: int = 0
    """Windows per forward pass; 0 for as many as when the run was made, which gives the same activations to the bit."""


@dataclass(frozen=True, kw_only=True)
class Replicate(RunCorpusOptions, RunOptions, LargeOptions, ElsewhereOptions, PursuitOptions, Output):
    """Find out which atoms come back in dictionaries of other documents, in a few times the time of training.

    A draw splits the run's documents into two halves at random and makes a dictionary of each, with the run's settings.
    An atom is looked for in the one of the half without its own document. The nearest activations of each atom are kept
    too, if `itda index` has not found them yet. Started again, it goes on.
    """

    run: Positional[Path]
    """The run folder."""
    draws: int = 5
    """How often the documents are split. Each takes about as long as training did, without the model."""
    cosine: float = 0.8
    """Size of the cosine, of either sign, from which on two atoms count as the same."""
    seed: Advanced[int] = 0
    """The seed of the halves."""
    batch_size: int = 0
    """Windows per forward pass; 0 for as many as when the run was made, which gives the same activations to the bit."""


@dataclass(frozen=True, kw_only=True)
class Features(RunCorpusOptions, RunOptions, Output):
    """Fit detectors of the atoms in one pass, for `--readout features`: a few active features a token."""

    run: Positional[Path]
    """The run folder."""
    corpus: str | None = None
    """Another corpus than that of the run; all of it is used. Default: the documents that the run was made from."""
    tokens: Count | None = None
    """Activations to fit on: 50000, 50k, 1M. Default: as many as the run read."""
    layer: SomeSites = ()
    """Layers (3) or sites (3.mlp_out) of the run, several with commas; default: all."""
    batch_size: int = 0
    """Windows per forward pass; 0 for as many as when the run was made, which gives the same activations to the bit."""


@dataclass(frozen=True, kw_only=True)
class Explore(RunOptions, PursuitOptions, Output):
    """See a run in a browser: its atoms, where they are used, prompts taken apart, comparisons; or as one file.

    Of fingerprints, see which layers are alike and which tokens are new to one of them alone; of diffs, what changed.
    """

    runs: Positional[tuple[Path, ...]]
    """Folders of runs and of diffs; fingerprints (a.itda, or user/name on the Hub), compared, one alone with itself."""
    corpus_path: str | None = None
    """Where the corpus of the fingerprints is now, if it was moved."""
    memory: Bytes | None = 128 * 2**20
    """Memory for the Gram matrices of the dictionaries: rows that are used again and again fit into little."""
    port: int | None = None
    """The port on 127.0.0.1; 0 is any free one. Default: 8642, or any free one if that is taken."""
    model: bool = True
    """--no-model does without the language model: no prompts, and no next tokens of atoms."""
    open: bool = False
    """Open the page in the browser."""
    export: File | None = None
    """Write one self-contained HTML file instead of serving."""
    top: int = 200
    """Atoms to carry in an exported page: those that start the codes of its prompts, then the most used."""
    atoms: AtomNumbers | None = None
    """The atoms to carry instead, such as 3,17,25."""
    prompts: tuple[str, ...] = ()
    """Texts to take apart in an exported page."""
    layer: OneSite | None = None
    """The layer (3) or site (3.mlp_out) to export; default: the middle one."""


@dataclass(frozen=True, kw_only=True)
class Export(Output):
    """Write a run's dictionaries for other tools. All formats but saelens want the codes that `itda index` keeps."""

    run: Positional[Path]
    """The run folder."""
    out: Positional[Path | None] = None
    """The folder to make. Default: one beside the run, with the run's name and that of the format."""
    to: str = ""
    """The format: json, parquet, delphi, neuronpedia or saelens."""
    layer: SomeSites = ()
    """Layers (3) or sites (3.mlp_out) of the run, several with commas; default: all."""
    both_signs: Advanced[bool] = False
    """delphi: give each atom a second latent, for its negative part."""
    model: Advanced[str | None] = None
    """neuronpedia: the model's id there, such as gpt2-small."""
    set: Advanced[str | None] = None
    """neuronpedia: the name of the source set. Default: itda, the stream and the number of atoms."""
    model_path: Advanced[str | None] = None
    """delphi: where the model of the run is now, if it was moved: its tokenizer is read."""


@dataclass(frozen=True, kw_only=True)
class Push(Output):
    """Share a run: its dictionaries, labels and records in a repository of the Hugging Face Hub, with a card.

    Called again, it sends what has changed or was not sent. `itda info user/name`, or any command, reads it there. With
    --to neuronpedia the atoms go there, each with its label and examples from what `itda index` keeps.
    """

    run: Positional[Path]
    """The run folder."""
    repository: Positional[str] = ""
    """The repository, user/name; it is made if there is none."""
    to: Literal["hub", "neuronpedia"] = "hub"
    """Where to. neuronpedia wants your key in NEURONPEDIA_API_KEY."""
    private: bool = False
    """Make a repository that nobody else can read, if it has to be made."""
    index: bool = False
    """Send the code index of `itda index` too, so that others can explore the run at once. It may be large."""
    dry_run: bool = False
    """List what would be sent, and send nothing."""
    model: Advanced[str | None] = None
    """neuronpedia: the model's id there, such as gpt2-small."""
    set: Advanced[str | None] = None
    """neuronpedia: the name of the source set. Default: itda, the stream and the number of atoms."""
    layer: Advanced[SomeSites] = ()
    """neuronpedia: layers (3) or sites (3.mlp_out) of the run, several with commas; default: all."""
    vectors: Advanced[AtomNumbers | None] = None
    """neuronpedia: atoms, such as 3,17,25, of one layer, to make vectors of that one can steer by there."""
    new_model: Advanced[int | None] = None
    """neuronpedia: make the model there first, with so many layers, if there is none of that id."""
    server: Advanced[str | None] = None
    """neuronpedia: the API of another server that runs it, such as http://localhost:3000/api."""


@dataclass(frozen=True, kw_only=True)
class Import(CorpusOptions, Output):
    """Make a run of the dictionaries that the paper's released scripts (pleask/itda) wrote."""

    path: Positional[Path]
    """The folder with atoms.pt, atom_indices.pt and metadata.yaml, or one with such folders, a layer each."""
    out: Path | None = None
    """The run folder to make; default: runs/imported- with the folder's name."""
    corpus: str | None = None
    """The corpus that the scripts read, for labels; without it they are numbers."""
    tokenizer: str | None = None
    """The model's tokenizer, a Hub id or a folder; default: that of the model that metadata.yaml names."""


@dataclass(frozen=True, kw_only=True)
class Demo(PursuitOptions, Output):
    """Train, evaluate, decompose and explore with the bundled model, offline, in a minute or two."""

    out: Path = Path("runs/demo")
    """The run folder to make; runs/demo is made anew each time."""
