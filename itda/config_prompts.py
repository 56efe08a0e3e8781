"""Settings of the commands that take a text, `itda decompose` and `itda steer`: a part of `itda.config`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from itda.options import Advanced, Output, Positional, PursuitOptions, RunOptions
from itda.parsing import AtomNumbers, Names, OneSite, Strengths


@dataclass(frozen=True, kw_only=True)
class Decompose(RunOptions, PursuitOptions, Output):
    """Take the activations of a text apart: for each token its atoms, with the prompts that they came from."""

    run: Positional[Path]
    """The run folder."""
    text: Positional[str]
    """The text to decompose."""
    layer: OneSite | None = None
    """A layer (3) or a site (3.mlp_out) of the run; default: the middle one."""
    token: int | None = None
    """Only this token: 0 is the first, -1 the last; default: all."""
    top: int = 5
    """Atoms to show per token."""
    readout: Literal["code", "levels", "similarity", "features"] = "code"
    """code: atoms whose sum the activation is. levels: broad ones first. similarity: those closest to it, by cosine.
    features: those whose detectors stand out most, once `itda features` has fitted them."""
    why: bool = False
    """Show instead which atoms mattered for the token after the text: by how much they raise its log-probability."""
    exact: Advanced[bool] = False
    """With --why: remove each atom in turn, one pass for each, instead of one backward pass for all."""
    next_token: Advanced[str | None] = None
    """With --why: the token to explain, such as " is"; default: the most likely one."""


@dataclass(frozen=True, kw_only=True)
class Steer(RunOptions, PursuitOptions, Output):
    """Let a model write with more or less of some atoms, beside itself and beside random atoms as a control."""

    run: Positional[Path]
    """The run folder."""
    prompt: Positional[str] = ""
    """The text that the model goes on with."""
    layer: OneSite | None = None
    """A layer (3) or a site (3.mlp_out) of the run; default: the middle one."""
    atom: AtomNumbers = ()
    """The atom to add, or several with commas, which are added together."""
    strength: Strengths = (2.0, 4.0, 8.0)
    """How much is added, in typical coefficients of the atom; several with commas are tried one after the other."""
    ablate: AtomNumbers = ()
    """Atoms whose share of each activation's code is removed."""
    find: str | None = None
    """Propose atoms instead: those that the activations of this text are most like."""
    at: Advanced[Names] = ("all",)
    """Where: all, prompt, reply, or numbers of tokens of the prompt, 0 the first, -1 the last; several with commas."""
    tokens: int = 40
    """Tokens to write."""
    seed: Advanced[int | None] = None
    """Draw tokens by this seed, the same one each time; default: the most likely token."""
    temperature: Advanced[float | None] = None
    """Draw tokens at this temperature."""
    chat: Advanced[bool] = False
    """Give the prompt as a user's message, in the model's own chat template."""
    controls: Advanced[int] = 8
    """Random atoms to compare with, used as often and added as far; the text of the first one is shown."""
    top: int = 5
    """Tokens promoted and suppressed to show; with --find atoms to propose."""
