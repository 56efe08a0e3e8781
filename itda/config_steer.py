"""Settings of `itda steer`, a part of `itda.config`."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from itda.options import Output, PursuitOptions, RunOptions
from itda.parsing import AtomNumbers, Names, OneSite, Strengths

Positional = tyro.conf.Positional


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
    at: Names = ("all",)
    """Where: all, prompt, reply, or numbers of tokens of the prompt, 0 the first, -1 the last; several with commas."""
    tokens: int = 40
    """Tokens to write."""
    seed: int | None = None
    """Draw tokens by this seed, the same one each time; default: the most likely token."""
    temperature: float | None = None
    """Draw tokens at this temperature."""
    chat: bool = False
    """Give the prompt as a user's message, in the model's own chat template."""
    controls: int = 8
    """Random atoms to compare with, used as often and added as far; the text of the first one is shown."""
    top: int = 5
    """Tokens promoted and suppressed to show; with --find atoms to propose."""
