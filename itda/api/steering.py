"""Steering from Python: `with itda.steer(lm, dictionary, atom=17, strength=4): lm.generate("...")`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from itda.api.results import preformatted
from itda.api.settings import path_of
from itda.core.dictionary import ITDA
from itda.core.site import Site
from itda.core.steering import Number, check_number
from itda.core.typical import Typical
from itda.errors import SettingError
from itda.recipes.runs import Run, open_run
from itda.recipes.typical import typical_of_run
from itda.sources.models.base import ActivationModel
from itda.sources.models.generation import Prompt
from itda.sources.models.pass_tokens import At
from itda.sources.models.transformers import LanguageModel
from itda.steering.asking import Asked
from itda.steering.attribution import Attribution, Method, attribution
from itda.steering.beside import Settings, Steered, steer_beside
from itda.steering.steering import Steering, check_steerable, site_to_steer, steerable
from itda.steering.units import typical_of_activations, typical_of_labels, typical_of_texts

Sample = Typical | Run | str | Path | Sequence[str] | Tensor | np.ndarray
"""What typical coefficients are found in: a run with an index, or its folder; texts; activations; or themselves."""


def steer(
    model: ActivationModel,
    dictionary: ITDA | None = None,
    *,
    atom: int | Sequence[int] | None = None,
    strength: Number | Sequence[Number] = 1.0,
    ablate: int | Sequence[int] | None = None,
    keep: Sequence[int] | None = None,
    set: Mapping[int, Number] | None = None,  # noqa: A002 - what it does
    direction: Tensor | np.ndarray | None = None,
    site: Site | str | int | None = None,
    at: At = "all",
    residual: bool = True,
    sample: Sample | None = None,
) -> Steering:
    """Steer a model within a `with` block: `with itda.steer(lm, dictionary, atom=17, strength=4): lm.generate("...")`.

    Whatever runs the model in the block is steered, in this thread alone: `lm.generate`, `lm.logits`, your own calls of
    `lm.model`. Weights are not copied; afterwards, and after an error, the model is what it was. Blocks may be nested.

    - `atom`, or several, is added `strength` times; give one strength for all or one for each. Strength is in typical
      coefficients: 1 adds as much of the atom as the activations that use it have, the median of |coefficient| over
      them. A negative strength subtracts it.
    - `ablate` removes the share of atoms from each activation's code; `keep` removes that of all other atoms.
    - `set` holds atoms at coefficients, in typical ones too: {17: 2.0}. {17: 0} ablates it.
    - The residual, what the code leaves over, stays. With `residual=False` it is dropped.
    - `direction` is any vector [d_model], such as a difference of means (`itda.steering.difference_of_means`). It is
      added as it is, times `strength`, at a `site`.

    `at` says where: "all" tokens, those of the "prompt" or of the "reply", or numbers of tokens of the prompt, as
    `itda decompose` counts them, -1 for the last; or several of these. Padding, special tokens in front of the text and
    massive activations stay as they are. The first token of a reply is chosen at the prompt's last token, -1.

    `sample` is what typical coefficients are measured in: a run that has an index (`itda index`), or its folder; texts;
    or activations [tokens, d_model]. By default 16 windows of text that the atoms' labels are from. Raises
    `SettingError` for atoms, numbers and tokens that are not there, `ModelError` for a model that does not fit, or that
    is not in memory: streamed, on NDIF or on Ray.

    >>> import itda
    >>> lm = itda.load_model("tiny")
    >>> run = itda.train(lm, ["import os", "def f(x): return x"] * 8, layers=3, k=2, atoms=8, progress=False)
    >>> with itda.steer(lm, run["layer_3"], atom=3, strength=8):
    ...     steered = lm.generate("import os", max_new_tokens=4)
    >>> with itda.steer(lm, run["layer_3"], atom=3, strength=0):
    ...     lm.generate("import os", max_new_tokens=4) == steered
    False
    """
    lm, where = steerable(model), site_to_steer(dictionary, site)
    asked = Asked.of(
        atom=atom,
        strength=strength,
        ablate=ablate,
        keep=keep,
        held=set,
        direction=direction,
        residual=residual,
        at=at,
    )
    return asked.steering(lm, dictionary, where, lambda: typical_of(lm, dictionary, where, sample))


@dataclass(frozen=True, repr=False)
class SideBySide(Steered):
    """A prompt gone on with in several ways, which shows itself as `itda steer` does."""

    def __repr__(self) -> str:
        from itda.report import steered

        return steered(self)

    def _repr_html_(self) -> str:
        return preformatted(repr(self))


def steered(
    model: ActivationModel,
    dictionary: ITDA,
    prompt: Prompt,
    *,
    atom: int | Sequence[int] | None = None,
    strength: Number | Sequence[Number] = (2, 4, 8),
    ablate: int | Sequence[int] | None = None,
    at: At = "all",
    tokens: int = 40,
    seed: int | None = None,
    chat: bool = False,
    controls: int = 8,
    top: int = 5,
    sample: Sample | None = None,
    **options: Any,
) -> SideBySide:
    """Let a model continue a prompt: untouched, with an atom added at each `strength`, with controls: `itda steer`.

    Controls are random atoms of the same dictionary, used equally often and added with the same length. If atoms are
    ablated, controls are others that are equally strong in the prompt. The result has the texts, the changes of the
    next token (`promoted`, `suppressed`, `kl`) and, in `beyond`, how many of the `controls` change it less; printed, it
    has 80 columns. `tokens` is how many to write, `top` how many promoted and suppressed ones to list; `atom`,
    `ablate`, `at` and `sample` are those of `itda.steer`, `seed`, `chat` and all `options` those of `lm.generate`.
    Raises an `ItdaError`.

    >>> import itda
    >>> lm = itda.load_model("tiny")
    >>> run = itda.train(lm, ["import os", "def f(x): return x"] * 8, layers=3, k=2, atoms=8, progress=False)
    >>> found = itda.steered(lm, run["layer_3"], "import", atom=3, strength=[4], tokens=2, controls=2)
    >>> found.ways[0].strength, len(found.ways[0].control_kl)
    (4.0, 2)
    """
    lm, where = steerable(model), site_to_steer(dictionary, None)
    asked = Asked.of(atom=atom, ablate=ablate, at=at)
    several = list(strength) if isinstance(strength, Sequence) else [strength]
    for each in several:
        check_number("strength", each)
    how = Settings(
        tokens=tokens,
        seed=seed,
        chat=chat,
        bos=dictionary.provenance.get("bos", "auto"),
        options=options,
        controls=controls,
        top=top,
    )
    check_steerable(lm, dictionary)
    typical = typical_of(lm, dictionary, where, sample)
    made = steer_beside(lm, dictionary, where, prompt, asked, [float(each) for each in several], typical, how)
    return SideBySide(**vars(made))


@dataclass(frozen=True, eq=False, repr=False)
class Why(Attribution):
    """The effects of atoms on the next token, which show themselves as `itda decompose --why` does."""

    def __repr__(self) -> str:
        from itda.report import reasons

        return reasons(self, 10)

    def _repr_html_(self) -> str:
        return preformatted(repr(self))


def attribute(
    model: ActivationModel,
    dictionary: ITDA,
    text: str,
    *,
    next_token: str | None = None,
    exact: bool = False,
    site: Site | str | int | None = None,
) -> Why:
    """Find which atoms of a text's codes mattered for the next token: `itda decompose --why`.

    The effect of an atom at a token is how much lower the log-probability of the `next_token` (default: the most likely
    one) would be without the atom. By default it is estimated to first order, by one backward pass; with `exact` it is
    measured, by one pass for each atom. The result has
    `effects` [tokens, k] beside the `code`, `top(10)` and `by_atom()`. Raises an `ItdaError`.

    >>> import itda
    >>> lm = itda.load_model("tiny")
    >>> run = itda.train(lm, ["import os", "def f(x): return x"] * 8, layers=3, k=2, atoms=8, progress=False)
    >>> found = itda.attribute(lm, run["layer_3"], "import os", exact=True)
    >>> found.effects.shape
    torch.Size([2, 2])
    """
    lm, where = steerable(model), site_to_steer(dictionary, site)
    check_steerable(lm, dictionary)
    way: Method = "ablation" if exact else "gradient"
    return Why(**vars(attribution(lm, dictionary, where, text, next_token=next_token, way=way)))


def typical_of(lm: LanguageModel, dictionary: ITDA | None, site: Site, sample: Sample | None) -> Typical:
    """Return typical coefficients in what the user gives, by default in the windows of the labels."""
    if dictionary is None:
        raise SettingError("there are atoms to steer by and no dictionary: give the dictionary that has them")
    if isinstance(sample, Run | str | Path):
        found = typical_of_run(sample if isinstance(sample, Run) else open_run(path_of(sample)), site)
    elif isinstance(sample, Typical):
        found = sample
    elif isinstance(sample, Tensor | np.ndarray):
        found = typical_of_activations(dictionary, sample)
    elif sample is not None:
        found = typical_of_texts(lm, dictionary, site, sample)
    else:
        found = typical_of_labels(lm, dictionary, site)
    if len(found.uses) != len(dictionary):
        raise SettingError(
            f"typical coefficients of {len(found.uses)} atoms for a dictionary of {len(dictionary)}: give its own"
        )
    return found
