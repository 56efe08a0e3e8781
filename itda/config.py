"""Settings of the commands: the only source of their flags and defaults. The string under a field is its help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from itda.config_prompts import Decompose as Decompose
from itda.config_prompts import Effects as Effects
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
    """Make dictionaries of layers of a model, in one pass over a corpus."""

    model: Positional[str] = ""
    """An id on the Hugging Face Hub, a folder, a GGUF file (owner/name:file.gguf on the Hub), or tiny, the bundled
    model."""
    layers: LayerNumbers = ()
    """Layers to read, such as 3 or 3,4-6. 0 is the first."""
    corpus: str = ""
    """The text: python-docs, a file or folder (.txt .md .py .jsonl .json .csv .parquet, or .gz of one), or a data set
    of the Hub."""
    tokens: Count | None = None
    """Activations to read, one for each token: 50000, 50k or 1M. Default: 1M, or all that --activations has."""
    atoms: Count | None = None
    """Atoms that each dictionary ends with, such as 4096 or 4k. Default: 8 for each dimension of the model, but at most
    one for every 10 tokens."""
    k: int = 40
    """Atoms that an activation is taken apart into, at most."""
    out: Path | None = None
    """The run folder to make. Default: runs/ with the model's name and the first free number."""
    streams: SomeStreams = ("resid_post",)
    """Which activations of each layer: resid_post (its output), mlp_out, attn_out, or several with commas."""
    activations: Path | None = None
    """A folder that `itda harvest` made, in place of a model and a corpus. Without --layers all of its layers are
    used."""
    resume: Path | None = None
    """An unfinished run folder to go on with, by its own settings. The dictionaries are the same to the bit as without
    a break."""
    mode: Advanced[Mode] = "best"
    """best: reconstructs best. paper: as the paper describes it. reference: as the paper's released script does it."""
    threshold: Advanced[float | None] = None
    """In place of --atoms: an activation becomes an atom if more than this share of its energy stays unexplained. Mode
    reference measures 2(1-cos)/d_model instead, and takes 0.2 unless it is given."""
    pursuit: Advanced[Literal["mp", "mp_refit", "omp"] | None] = None
    """How atoms are picked. mp: matching pursuit. mp_refit: the same, then a least-squares fit. omp: a least-squares
    fit at every step. Default: mp_refit; in mode paper mp."""
    checkpoint_every: Advanced[float] = 60.0
    """The least number of seconds between checkpoints. There are fewer if they took more than 2% of the time."""
    offset: Advanced[int | None] = None
    """Subtract the mean of this many first activations. 0: subtract nothing. Default: 4096 in mode best, else 0."""
    grow_on: Advanced[Literal["auto", "cpu", "gpu"]] = "auto"
    """Where dictionaries are made, with the same bits. auto: on the GPU, if the model runs there and they fit beside
    it."""
    order: Advanced[Literal["corpus", "shuffled"] | None] = None
    """The order of the documents. Default: shuffled; in mode reference corpus."""
    seed: Advanced[int] = 0
    """The seed of the shuffled order."""
    recipe: Advanced[int | None] = None
    """How mode best makes atoms. 2: as centres of groups of activations, which are found again in other text. 1: as
    single activations, then refined. Default: 2."""
    refine: Advanced[int | None] = None
    """Recipe 2: rounds of k-means (default: 12). Recipe 1: passes of refinement, over up to 20,000 tokens each
    (default: 8; 0 in mode paper)."""
    steps: Advanced[int | None] = None
    """Recipe 2: steps of refinement after the rounds. More steps lower the error, and atoms are found again less often.
    Default: 3, or 8 where 35 activations or more are kept for each atom."""
    min_fidelity: Advanced[float | None] = None
    """Recipe 1: the least cosine of a refined atom to the activation that its label names. Default: 0.9."""
    massive: Advanced[Literal["skip", "atoms", "off"] | None] = None
    """What to do with massive activations: those above 10 times the median norm, such as each window's first. skip:
    leave them out. atoms: let them be atoms. off: no such rule. Default: skip; in mode reference off."""
    window: Advanced[int] = 128
    """Tokens that the model reads at once, special ones included."""
    bos: Advanced[Literal["auto", "always", "never"]] = "auto"
    """The start token of each window. auto: as the tokenizer does it. always: one in any case. never: none."""
    revision: Advanced[str | None] = None
    """The commit, tag or branch of a model on the Hub."""
    part: Advanced[Literal["train", "all"]] = "train"
    """train: leave out one document in ten, for `itda evaluate`. all: read all."""


@dataclass(frozen=True, kw_only=True)
class Harvest(CorpusOptions, ModelOptions, LargeOptions, ElsewhereOptions, Output):
    """Keep activations on disk, to train many dictionaries from one pass over a model. Started again, it goes on."""

    model: Positional[str]
    """An id on the Hugging Face Hub, a folder, a GGUF file (owner/name:file.gguf on the Hub), or tiny, the bundled
    model."""
    layers: LayerNumbers
    """Layers to read, such as 3 or 3,4-6. 0 is the first."""
    corpus: str
    """The text: python-docs, a file or folder (.txt .md .py .jsonl .json .csv .parquet, or .gz of one), or a data set
    of the Hub."""
    out: Path
    """The folder to make, or to go on with."""
    tokens: Count = 1_000_000
    """Activations to read, one for each token: 50000, 50k or 1M."""
    streams: SomeStreams = ("resid_post",)
    """Which activations of each layer: resid_post (its output), mlp_out, attn_out, or several with commas."""
    order: Advanced[Literal["corpus", "shuffled"]] = "shuffled"
    """The order of the documents. The dictionaries of `itda train` depend on it."""
    seed: Advanced[int] = 0
    """The seed of the shuffled order."""
    window: Advanced[int] = 128
    """Tokens that the model reads at once, special ones included."""
    bos: Advanced[Literal["auto", "always", "never"]] = "auto"
    """The start token of each window. auto: as the tokenizer does it. always: one in any case. never: none."""
    revision: Advanced[str | None] = None
    """The commit, tag or branch of a model on the Hub."""
    part: Advanced[Literal["train", "heldout", "all"]] = "train"
    """train: leave out one document in ten, for `itda evaluate`. heldout: read only those. all: read all."""


@dataclass(frozen=True, kw_only=True)
class Plan(Output):
    """Estimate the time, memory and disk that a model larger than memory would take, from its config.json alone."""

    model: Positional[str]
    """An id on the Hugging Face Hub, a folder, a config.json, or tiny, the bundled model."""
    layers: LayerNumbers
    """Layers to read, such as 3 or 3,4-6. 0 is the first."""
    tokens: Count = 1_000_000
    """Activations to read, one for each token: 50000, 50k or 1M."""
    atoms: Count = 16_000
    """Atoms that each dictionary will have."""
    k: int = 40
    """Atoms that an activation is taken apart into, at most."""
    streams: SomeStreams = ("resid_post",)
    """Which activations of each layer: resid_post (its output), mlp_out, attn_out, or several with commas."""
    gpu_memory: Bytes = 24 * 2**30
    """Memory of the GPU."""
    ram: Bytes = 64 * 2**30
    """Memory of the machine that has the GPU."""
    laptop: Bytes = 16 * 2**30
    """Memory of a machine without a GPU."""
    evaluate: Advanced[Count] = 50_000
    """Activations that `itda evaluate` would read."""
    window: Advanced[int] = 128
    """Tokens that the model reads at once."""
    batch_size: Advanced[int] = 8
    """Windows per forward pass."""
    dtype: Advanced[Literal["auto", "float32", "bfloat16", "float16"]] = "auto"
    """The type of the weights. auto: float32 on a CPU, on a GPU the type in which the model is stored."""
    model_memory: Bytes | None = None
    """As for `itda train`: memory for hidden states, and without a GPU for weights too. Default: half of the RAM."""
    scratch: FreeBytes | None = None
    """A folder for hidden states that do not fit into --model-memory, or how much is free there, such as 500G."""
    recipe: Advanced[int | None] = None
    """How dictionaries are made, as for `itda train`: 1 or 2."""
    refine: Advanced[int | None] = None
    """As for `itda train`: rounds of recipe 2 or passes of recipe 1. 0: no refinement."""
    grow_on: Advanced[Literal["auto", "cpu", "gpu"]] = "auto"
    """Where dictionaries are made. auto: on the GPU if they fit there beside the model, else on the CPU."""
    measure: Advanced[bool] = False
    """Measure how fast this machine runs the model, in some seconds. The rates are kept for later plans."""
    assumed: Advanced[bool] = False
    """Use assumed rates, even where this machine's were measured."""
    tflops: Advanced[float | None] = None
    """Operations of the model on the GPU, in 10^12 per second. Default: as measured, else 50."""
    cpu_tflops: Advanced[float | None] = None
    """Operations of the model on a CPU, in 10^12 per second. Default: as measured, else 0.5."""
    disk_gbps: Advanced[float | None] = None
    """Bytes read from disk, in 10^9 per second. Default: as measured, else 3."""
    revision: Advanced[str | None] = None
    """The commit, tag or branch of a model on the Hub."""
    trust_remote_code: Advanced[bool] = False
    """Run code from the model's repository."""


@dataclass(frozen=True, kw_only=True)
class Info(Output):
    """Show what is in a run folder, a diff or a fingerprint."""

    run: Positional[Path]
    """The folder of a run or a diff, the file of a fingerprint, or user/name on the Hub."""


@dataclass(frozen=True, kw_only=True)
class Evaluate(RunCorpusOptions, RunOptions, LargeOptions, PursuitOptions, Output):
    """Measure dictionaries on held-out documents: how much worse the model predicts with reconstructions."""

    run: Positional[Path]
    """The folder of the run, or user/name on the Hub."""
    corpus: str | None = None
    """Read this corpus, all of it, instead of the held-out documents of the run's own corpus."""
    tokens: Count | None = None
    """Activations to evaluate on. Default: 5,000 to 100,000, such that it takes about as much work of the model as
    training did."""
    massive: Advanced[Literal["clean", "splice"]] = "clean"
    """What to do with massive activations, above 10 times the median norm. clean: keep them. splice: replace them."""


@dataclass(frozen=True, kw_only=True)
class Probe(RunCorpusOptions, RunOptions, PursuitOptions, Output):
    """Measure how well a few atoms tell classes of tokens apart: comments, strings, names and others.

    With --sets sae-probes the classes are those of the 113 data sets of sae-probes, measured by its protocol.
    """

    run: Positional[Path]
    """The folder of the run, or user/name on the Hub."""
    corpus: str | None = None
    """Python source to probe on, instead of the held-out documents of the run's corpus."""
    tokens: Count = 20_000
    """Activations to probe, from the first 4,000 characters of each file."""
    sets: Literal["python", "sae-probes"] = "python"
    """python: classes of Python's syntax, at each token. sae-probes: its data sets, at the last token of each
    prompt."""
    data: Advanced[Path | None] = None
    """sae-probes: its wheel or folder. Default: the package that is installed."""
    only: Advanced[Names] = ()
    """sae-probes: the data sets to take, such as 100_news_fake, several with commas. Default: all."""
    rows: Advanced[Count | None] = None
    """sae-probes: prompts of each set, half of them of each class. Default: as in sae-probes, up to 5,000."""
    prompt_tokens: Advanced[int] = 1024
    """sae-probes: how many tokens of a prompt are read, the last ones."""
    latents: Advanced[Numbers] = (1, 2, 4, 8, 16)
    """sae-probes: how many latents (numbers of a readout) the regressions read."""


@dataclass(frozen=True, kw_only=True)
class Compare(PursuitOptions, Output):
    """Compare the layers of a run with each other, or models by their runs or fingerprints.

    Each comparison comes with controls, which show what the same number would be for unrelated layers.
    """

    runs: Positional[tuple[Path, ...]]
    """Folders of runs, or fingerprints (a.itda, or user/name on the Hub), made on one corpus with one window. One alone
    is compared with itself, layer by layer."""
    noise_floor: bool = False
    """Make the first one again with another batch size: what differs then is noise. Takes as long as making it did."""
    all: bool = False
    """Of fingerprints: show every similarity index and control, not only shared novelty and its parts."""
    out: Path | None = None
    """A folder to make, with compare.json and a heat map as PNG and SVG."""


@dataclass(frozen=True, kw_only=True)
class Fingerprint(DocumentOptions, CorpusOptions, ModelOptions, LargeOptions, ElsewhereOptions, Output):
    """Find which tokens are new to each layer of a model, to compare models by. Started again, it goes on."""

    model: Positional[str] = ""
    """An id on the Hugging Face Hub, a folder, a GGUF file (owner/name:file.gguf on the Hub), or tiny, the bundled
    model."""
    corpus: str = ""
    """The text: python-docs, a file or folder (.txt .md .py .jsonl .json .csv .parquet, or .gz of one), or a data set
    of the Hub."""
    out: File | None = None
    """The file to make, such as a.itda. Needed unless --push is given."""
    layers: AnyLayers = ()
    """Layers to read, such as 3 or 3,4-6. 0 is the first. Default: all."""
    tokens: Count = 10_000
    """Activations to read, one for each token: 50000, 50k or 1M."""
    streams: SomeStreams = ("resid_post",)
    """Which activations of each layer: resid_post (its output), mlp_out, attn_out, or several with commas."""
    activations: Path | None = None
    """A folder that `itda harvest` made, in place of a model and a corpus."""
    push: str | None = None
    """A repository of the Hub, user/name, to upload it to."""
    segment: Advanced[Count | None] = None
    """Length of the segments of text within which a token is new or not. Shorter ones take less time. Default: 8192.
    Only fingerprints with the same length can be compared."""
    checkpoint_every: Advanced[float] = 60.0
    """The least number of seconds between checkpoints. There are fewer if they took more than 2% of the time."""


@dataclass(frozen=True, kw_only=True)
class Diff(PairOptions, DocumentOptions, CorpusOptions, ModelOptions, LargeOptions, Output):
    """Find what a changed model has that its base has not, as labelled differences of their activations."""

    base: Positional[str] = ""
    """The base: an id on the Hugging Face Hub, a folder, a GGUF file, or tiny, the bundled model."""
    changed: Positional[str] = ""
    """The changed model, named in the same way, or a PEFT adapter on the base, by its folder or id."""
    layers: LayerNumbers = ()
    """Layers to read, such as 3 or 3,4-6. 0 is the first."""
    corpus: str = ""
    """The text: python-docs, a file or folder (.txt .md .py .jsonl .json .csv .parquet, or .gz of one), or a data set
    of the Hub."""


@dataclass(frozen=True, kw_only=True)
class Index(RunCorpusOptions, RunOptions, LargeOptions, ElsewhereOptions, PursuitOptions, Output):
    """Keep which atoms each token of a corpus uses, for the explorer and for exports. Started again, it goes on.

    The nearest activations of each atom in other documents are kept too.
    """

    run: Positional[Path]
    """The folder of the run, or user/name on the Hub."""
    corpus: str | None = None
    """Another corpus than that of the run; all of it is read. Default: the documents that the run was made from."""
    tokens: Count | None = None
    """Activations to index: 50000, 50k or 1M. Default: as many as the run read."""
    layer: SomeSites = ()
    """Layers (3) or sites (3.mlp_out) of the run, several with commas. Default: all."""
    batch_size: int = 0
    """Windows per forward pass. 0: as many as when the run was made, which gives the same activations to the bit."""


@dataclass(frozen=True, kw_only=True)
class Replicate(RunCorpusOptions, RunOptions, LargeOptions, ElsewhereOptions, PursuitOptions, Output):
    """Find which atoms come back when dictionaries are made from other documents.

    The run's documents are split at random into two halves, and a dictionary is made from each, with the run's
    settings. An atom has come back if the half without its own document has an atom like it. This is done several
    times. Each time takes about as long as training did, without the model. The nearest activations of each atom are
    kept too, if `itda index` has not found them yet. Started again, it goes on.
    """

    run: Positional[Path]
    """The folder of the run, or user/name on the Hub."""
    draws: int = 5
    """How often the documents are split."""
    cosine: float = 0.8
    """Two atoms are alike if their cosine is at least this, of either sign."""
    seed: Advanced[int] = 0
    """The seed of the splits."""
    batch_size: int = 0
    """Windows per forward pass. 0: as many as when the run was made, which gives the same activations to the bit."""


@dataclass(frozen=True, kw_only=True)
class Features(RunCorpusOptions, RunOptions, Output):
    """Fit a detector for each atom in one pass, for `itda decompose --readout features`.

    A detector says how much an atom stands out in an activation. A code says which atoms add up to it.
    """

    run: Positional[Path]
    """The folder of the run, or user/name on the Hub."""
    corpus: str | None = None
    """Another corpus than that of the run; all of it is read. Default: the documents that the run was made from."""
    tokens: Count | None = None
    """Activations to fit on: 50000, 50k or 1M. Default: as many as the run read."""
    layer: SomeSites = ()
    """Layers (3) or sites (3.mlp_out) of the run, several with commas. Default: all."""
    batch_size: int = 0
    """Windows per forward pass. 0: as many as when the run was made, which gives the same activations to the bit."""


@dataclass(frozen=True, kw_only=True)
class Explore(RunOptions, PursuitOptions, Output):
    """See a run in a browser: its atoms, where they are used, prompts taken apart. Or write it as one file.

    Fingerprints show which layers are alike and which tokens are new to one of them alone; diffs show what changed.
    """

    runs: Positional[tuple[Path, ...]]
    """Folders of runs or diffs, or fingerprints (a.itda, or user/name on the Hub). One fingerprint alone is compared
    with itself."""
    open: bool = False
    """Open the page in the browser."""
    export: File | None = None
    """Write one HTML file that needs no server."""
    prompts: tuple[str, ...] = ()
    """With --export: texts to take apart, each in quotes."""
    top: int = 200
    """With --export: atoms in the page. Those that come first in codes of its prompts, then the most used."""
    atoms: AtomNumbers | None = None
    """With --export: these atoms instead, such as 3,17,25."""
    layer: OneSite | None = None
    """With --export: the layer (3) or site (3.mlp_out). Default: the middle one."""
    model: bool = True
    """Do not load the language model: no prompts, no steering, and no next tokens of atoms."""
    port: int | None = None
    """The port on 127.0.0.1; 0 takes any free one. Default: 8642, or a free one if that is taken."""
    corpus_path: str | None = None
    """Where the corpus of the fingerprints is now, if it has moved."""
    memory: Bytes | None = 128 * 2**20
    """Memory for the products of pairs of atoms. A prompt needs few of them."""


@dataclass(frozen=True, kw_only=True)
class Export(Output):
    """Write a run's dictionaries for other tools. All formats but saelens need `itda index` first."""

    run: Positional[Path]
    """The folder of the run, or user/name on the Hub."""
    out: Positional[Path | None] = None
    """The folder to make. Default: one beside the run, with the run's name and that of the format."""
    to: str = ""
    """The format: json, parquet, delphi, neuronpedia or saelens."""
    layer: SomeSites = ()
    """Layers (3) or sites (3.mlp_out) of the run, several with commas. Default: all."""
    both_signs: Advanced[bool] = False
    """delphi: give each atom a second latent, for its negative part."""
    model: Advanced[str | None] = None
    """neuronpedia: the model's id there, such as gpt2-small."""
    set: Advanced[str | None] = None
    """neuronpedia: the name of the source set. Default: made of itda, the stream and the number of atoms."""
    model_path: Advanced[str | None] = None
    """delphi: where the model of the run is now, if it has moved. Its tokenizer is read."""


@dataclass(frozen=True, kw_only=True)
class Push(Output):
    """Share a run: upload its dictionaries, labels and records to the Hugging Face Hub, with a card.

    Started again, it uploads what has changed or is missing. Every command can read the run there, as in
    `itda info user/name`. With --to neuronpedia the atoms are sent to Neuronpedia, each with its label and with
    examples from what `itda index` keeps.
    """

    run: Positional[Path]
    """The folder of the run."""
    repository: Positional[str] = ""
    """The repository, user/name. It is made if there is none."""
    to: Literal["hub", "neuronpedia"] = "hub"
    """Where to. neuronpedia needs your key in NEURONPEDIA_API_KEY."""
    private: bool = False
    """If the repository is new, make it private."""
    index: bool = False
    """Upload what `itda index` keeps too, so that others can explore the run at once. It may be large."""
    dry_run: bool = False
    """List what would be uploaded, and upload nothing."""
    model: Advanced[str | None] = None
    """neuronpedia: the model's id there, such as gpt2-small."""
    set: Advanced[str | None] = None
    """neuronpedia: the name of the source set. Default: made of itda, the stream and the number of atoms."""
    layer: Advanced[SomeSites] = ()
    """neuronpedia: layers (3) or sites (3.mlp_out) of the run, several with commas. Default: all."""
    vectors: Advanced[AtomNumbers | None] = None
    """neuronpedia: atoms of one layer, such as 3,17,25, that become vectors to steer by there."""
    new_model: Advanced[int | None] = None
    """neuronpedia: if it has no model with that id, make one first, with this many layers."""
    server: Advanced[str | None] = None
    """neuronpedia: the address of another Neuronpedia server, such as http://localhost:3000/api."""


@dataclass(frozen=True, kw_only=True)
class Import(CorpusOptions, Output):
    """Make a run of dictionaries that the paper's released scripts (pleask/itda) wrote."""

    path: Positional[Path]
    """The folder with atoms.pt, atom_indices.pt and metadata.yaml, or a folder of such folders, one for each layer."""
    out: Path | None = None
    """The run folder to make. Default: runs/imported- with the folder's name."""
    corpus: str | None = None
    """The corpus that the scripts read, from which the labels come. Without it labels are numbers."""
    tokenizer: str | None = None
    """The model's tokenizer, an id on the Hub or a folder. Default: that of the model that metadata.yaml names."""


@dataclass(frozen=True, kw_only=True)
class Demo(PursuitOptions, Output):
    """Train, evaluate, decompose and explore with the bundled model, offline, in a minute or two."""

    out: Path = Path("runs/demo")
    """The run folder to make. runs/demo is replaced each time."""
