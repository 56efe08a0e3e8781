"""Settings of `itda decompose`, which takes a text, and of `itda steer` and `effects`: a part of `itda.config`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from itda.options import Advanced, Output, Positional, PursuitOptions, RunCorpusOptions, RunOptions
from itda.parsing import AtomNumbers, Count, Names, OneSite, SomeSites, Strengths


@dataclass(frozen=True, kw_only=True)
class Decompose(RunOptions, PursuitOptions, Output):
    """Take a text apart: for each token the atoms of its activation, each with the prompt that it came from."""

    run: Positional[Path]
    """The folder of the run, or user/name on the Hub."""
    text: Positional[str]
    """The text, in quotes."""
    layer: OneSite | None = None
    """The layer (3) or site (3.mlp_out) of the run. Default: the middle one."""
    token: int | None = None
    """Only this token: 0 is the first, -1 the last. Default: all."""
    top: int = 5
    """Atoms to show for each token."""
    readout: Literal["code", "levels", "similarity", "features"] = "code"
    """code: atoms that add up to the activation. levels: the same, broad atoms first. similarity: the atoms nearest to
    it, by cosine. features: the atoms whose detectors fire most; needs `itda features`."""
    why: bool = False
    """Instead, show which atoms mattered for the token after the text: by how much they raise its log-probability."""
    exact: Advanced[bool] = False
    """With --why: remove each atom in turn, with a pass for each. Default: estimate all by one backward pass."""
    next_token: Advanced[str | None] = None
    """With --why: the token to explain, such as " is". Default: the most likely one."""


@dataclass(frozen=True, kw_only=True)
class Steer(RunOptions, PursuitOptions, Output):
    """Let a model write with more or less of some atoms, beside its own text and one with random atoms."""

    run: Positional[Path]
    """The folder of the run, or user/name on the Hub."""
    prompt: Positional[str] = ""
    """The text that the model continues, in quotes."""
    layer: OneSite | None = None
    """The layer (3) or site (3.mlp_out) of the run. Default: the middle one."""
    atom: AtomNumbers = ()
    """The atom to add; several with commas are added together."""
    strength: Strengths = (2.0, 4.0, 8.0)
    """How much is added, in typical coefficients of the atom; several with commas are tried one after the other."""
    ablate: AtomNumbers = ()
    """Atoms to remove: their part of each activation's code is taken out."""
    find: str | None = None
    """Instead, propose atoms: those nearest to the activations of this text."""
    at: Advanced[Names] = ("all",)
    """Tokens to steer at: all, prompt, reply, or numbers of the prompt's tokens (0 the first, -1 the last), with
    commas."""
    tokens: int = 40
    """Tokens to write."""
    seed: Advanced[int | None] = None
    """Draw tokens at random with this seed. Default: take the most likely token."""
    temperature: Advanced[float | None] = None
    """Draw tokens at random at this temperature."""
    chat: Advanced[bool] = False
    """Give the prompt as a user's message, in the model's own chat template."""
    controls: Advanced[int] = 8
    """Random atoms to compare with, used equally often and added with the same length. The text of the first is
    shown."""
    top: int = 5
    """Promoted tokens to show, and as many suppressed ones. With --find: atoms to propose."""


@dataclass(frozen=True, kw_only=True)
class Effects(RunCorpusOptions, RunOptions, PursuitOptions, Output):
    """Measure what adding and ablating each atom does to the next token, beside controls. Started again, it goes on.

    Measured is the change in the log-probability of two things: what follows the atom's own token in its label, and the
    tokens that its direction promotes. The texts are of the run's corpus, of other documents than the atom's label. The
    results are kept with the dictionary.
    """

    run: Positional[Path]
    """The folder of the run, or user/name on the Hub."""
    corpus: str | None = None
    """Another corpus than that of the run. Default: the documents that the run was made from."""
    contexts: int = 50
    """Texts in which each atom is added, and tokens at which it is ablated, at most."""
    strength: float = 4.0
    """How much is added, in typical coefficients of the dictionary."""
    tokens: Count = 20_000
    """Tokens to draw contexts from: 50000 or 50k. With more tokens, rare atoms get more contexts."""
    layer: SomeSites = ()
    """Layers (3) or sites (3.mlp_out) of the run, several with commas. Default: all."""
    seed: int = 0
    """The seed for drawing contexts."""
