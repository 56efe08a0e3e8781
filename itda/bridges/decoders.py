"""The decoder of a trained SAE as a dictionary, so that our pursuit, evaluation and probes work on it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from itda.core.dictionary import ITDA
from itda.core.labels import Labels
from itda.core.pursuit import Pursuit
from itda.core.site import Site
from itda.errors import SettingError


@torch.no_grad()
def from_sae(sae: Any, *, k: int | None = None, pursuit: Pursuit = "mp_refit") -> ITDA:
    """Make a dictionary of the decoder of an SAE of SAELens, or of any object with its `W_dec` and `b_dec`.

    Atom i is the direction of latent i, with its number for a label (`itda.bridges.saelens.label` finds better ones).
    It encodes by a pursuit of at most `k` atoms instead of the SAE's encoder; an SAE that has a k of its own lends it.
    Latents whose direction is zero are left out. Raises `SettingError` for an SAE that this cannot be made of.

    >>> from types import SimpleNamespace
    >>> sae = SimpleNamespace(W_dec=torch.tensor([[2.0, 0.0], [0.0, 0.5]]), b_dec=torch.zeros(2))
    >>> model = from_sae(sae, k=1)
    >>> model.labels, model.atoms.tolist()
    (<Labels of 2 texts: «latent 0», «latent 1»>, [[1.0, 0.0], [0.0, 1.0]])
    """
    directions, bias = _weights_of(sae)
    config = getattr(sae, "cfg", None)
    _check_scale(config)
    k = k or getattr(config, "k", None) or getattr(config, "max_iterations", None)
    if k is None:
        raise SettingError(f"{type(sae).__name__} has no k of its own: give k, such as its l0")
    norms = directions.double().norm(dim=1)
    kept = norms > 0
    atoms = (directions.double()[kept] / norms[kept, None]).float()
    numbers = kept.nonzero()[:, 0].tolist()
    about = getattr(config, "metadata", None)
    return ITDA(
        atoms,
        Labels.of_texts(f"latent {number}" for number in numbers),
        int(k),
        pursuit,
        offset=bias,
        mode="sae",
        site=_site_of(about),
        provenance=_provenance_of(config, about),
    )


def _weights_of(sae: Any) -> tuple[Tensor, Tensor | None]:
    """Return the decoder's rows, and the bias that it adds, unless that is zero."""
    directions, bias = getattr(sae, "W_dec", None), getattr(sae, "b_dec", None)
    if not isinstance(directions, Tensor) or directions.ndim != 2:
        raise SettingError(f"{type(sae).__name__} has no W_dec [latents, d_model]: give an SAE with one linear decoder")
    if not bool(torch.isfinite(directions).all()):
        raise SettingError("the decoder is not finite: train the SAE anew")
    config = getattr(sae, "cfg", None)
    tied = type(config).__name__.startswith("MatchingPursuit")  # it adds no bias that it has not subtracted
    unused = tied and not getattr(config, "apply_b_dec_to_input", True)
    bias = None if bias is None or unused else bias.detach().float()
    return directions.detach(), bias if bias is not None and bool((bias != 0).any()) else None


def _check_scale(config: Any) -> None:
    scaled = getattr(config, "normalize_activations", "none")
    if scaled != "none":
        raise SettingError(
            f"the SAE scales what it reads ({scaled}), which a pursuit does not: fold that into its weights first"
        )


def _site_of(about: Any) -> Site | None:
    """Return the site that the decoder writes to, if we can read it: a transcoder's is not the one that it reads."""
    hook = getattr(about, "hook_name_out", None) or getattr(about, "hook_name", None)
    with suppress(SettingError):
        return Site.parse(str(hook))
    return None


def _provenance_of(config: Any, about: Any) -> dict[str, Any]:
    """Return what is known of where the SAE comes from, under our names."""
    named = {"model": "model_name", "window": "context_size", "corpus": "dataset_path", "hook": "hook_name"}
    found = {ours: getattr(about, theirs, None) for ours, theirs in named.items()}
    kind = type(config).__name__.removesuffix("Config") if config is not None else None
    return {name: value for name, value in {**found, "decoder_of": kind}.items() if value is not None}
