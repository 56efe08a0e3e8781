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
    """code: atoms whose sum the activation is. levels: the same, the broad ones first. similarity: the atoms closest to
    it, by cosine. features: the atoms whose detectors stand out most, once `itda features` has fitted them."""
    why: bool = False
    """Show which atoms mattered for the token after the text instead: by how much they raise its log-probability."""
    exact: Advanced[bool] = False
    """With --why: remove each atom in turn, in a pass for each, in place of one backward pass for all."""
    next_token: Advanced[str | None] = None
    """With --why: the token to explain, such as " is". Default: the most likely one."""


@dataclass(frozen=True, kw_only=True)
class Steer(RunOptions, PursuitOptions, Output):
    """Let a model write with more or less of some atoms, beside itself and beside random atoms as a control."""

    run: Positional[Path]
    """The folder of the run, or user/name on the Hub."""
    prompt: Positional[str] = ""
    """The text that the model goes on with, in quotes."""
    layer: OneSite | None = None
    """The layer (3) or site (3.mlp_out) of the run. Default: the middle one."""
    atom: AtomNumbers = ()
    """The atom to add; several with commas are added together."""
    strength: Strengths = (2.0, 4.0, 8.0)
    """How much is added, in typical coefficients of the atom; several with commas are tried one after the other."""
    ablate: AtomNumbers = ()
    """Atoms to take away: their part of each activation's code is removed."""
    find: str | None = None
    """Propose atoms instead: those that the activations of this text are most like."""
    at: Advanced[Names] = ("all",)
    """Where: all, prompt, reply, or numbers of tokens of the prompt (0 the first, -1 the last), several with commas."""
    tokens: int = 40
    """Tokens to write."""
    seed: Advanced[int | None] = None
    """Draw tokens at random with this seed. Default: take the most likely token."""
    temperature: Advanced[float | None] = None
    """Draw tokens at random at this temperature."""
    chat: Advanced[bool] = False
    """Give the prompt as a user's message, in the model's own chat template."""
    controls: Advanced[int] = 8
    """Random atoms to compare with, used as often and added as far. The text with the first one is shown."""
    top: int = 5
    """Tokens to show that are promoted, and as many that are suppressed. With --find: atoms to propose."""


@dataclass(frozen=True, kw_only=True)
class Effects(RunCorpusOptions, RunOptions, PursuitOptions, Output):
    """Measure what adding and ablating each atom does to the next token, beside controls. Started again, it goes on.

    In texts of the run's corpus, of other documents than the atom's label: the change in the log-probability of what
    follows the atom's own token, and of the tokens that its direction promotes. Kept with the dictionary.
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
    """Tokens to draw contexts from: 50000, 50k. With more, rare atoms have more of them."""
    layer: SomeSites = ()
    """Layers (3) or sites (3.mlp_out) of the run, several with commas. Default: all."""
    seed: int = 0
    """The seed by which contexts are drawn."""
