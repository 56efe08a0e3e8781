"""What SAELens' folders and configurations hold, without SAELens: where a dictionary belongs, and matching pursuit.

SAELens 6 has a matching pursuit of its own, which takes positive coefficients alone: over each atom and its negative it
gives the codes of the pursuit `mp`. So a dictionary can be used where this package is not installed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from itda.core.dictionary import ITDA
from itda.core.site import Site
from itda.files import write_whole
from itda.version import __version__

WRITTEN_FOR = "6.54.12"
"""The version of SAELens whose files these are. A folder that does not say 6.0 or later is taken for an older kind."""


def metadata_of(dictionary: ITDA) -> dict[str, Any]:
    """Return what SAELens keeps of where an SAE belongs: its model, its hook, how texts were cut into windows.

    >>> from itda import ITDA, Labels, Site
    >>> model = ITDA(torch.eye(2), Labels.of_rows(2), k=1, site=Site(3), provenance={"model": "gpt2", "window": 128})
    >>> about = metadata_of(model)
    >>> about["model_name"], about["hook_name"], about["context_size"], about["prepend_bos"]
    ('gpt2', 'blocks.3.hook_resid_post', 128, True)
    """
    made = dictionary.provenance
    return {
        "sae_lens_version": WRITTEN_FOR,
        "sae_lens_training_version": None,
        "training_architecture": "itda",
        "itda_version": __version__,
        "model_name": made.get("model"),
        "model_class_name": "HookedTransformer",
        "model_from_pretrained_kwargs": {},
        "hook_name": dictionary.site.hook_name if dictionary.site is not None else None,
        "hook_head_index": None,
        "context_size": made.get("window"),
        "prepend_bos": bool(made.get("prefix", True)),
        "exclude_special_tokens": True,
        "dataset_path": made.get("corpus"),
    }


def configuration(dictionary: ITDA, architecture: str, **own: Any) -> dict[str, Any]:
    """Return the contents of SAELens' cfg.json, with an architecture's own settings."""
    return {
        "architecture": architecture,
        "d_in": dictionary.d_model,
        "d_sae": len(dictionary),
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        **own,
        "metadata": metadata_of(dictionary),
    }


def bias_of(dictionary: ITDA) -> Tensor:
    """Return the offset, or zeros [d_model]: what SAELens subtracts before the pursuit and adds after it."""
    zeros = torch.zeros(dictionary.d_model, device=dictionary.atoms.device)
    return dictionary.offset.float() if dictionary.offset is not None else zeros


def export(
    dictionaries: Mapping[Site, ITDA],
    folder: Path,
    done: Callable[[int], Any] = lambda _atoms: None,
    say: Callable[[str], object] = lambda _text: None,
) -> None:
    """Write each dictionary as SAELens' own matching pursuit: `SAE.load_from_disk(folder / "layer_3")` opens it.

    Latent i is atom i with a positive coefficient, and latent i + n atom i with a negative one, of n atoms. Codes are
    those of the pursuit `mp`; `say` is told where the dictionary has another. `done` is told how many atoms are
    written. Raises `OSError`.
    """
    for site, dictionary in dictionaries.items():
        if dictionary.pursuit != "mp":
            say(f"{site}: SAELens' pursuit is mp, without the refit of {dictionary.pursuit}: codes differ somewhat")
        own = folder / str(site)
        own.mkdir(parents=True)
        write_matching_pursuit(dictionary, own)
        done(len(dictionary))


def write_matching_pursuit(dictionary: ITDA, folder: Path) -> None:
    """Write one dictionary into a folder that is there: cfg.json, sae_weights.safetensors, and the atoms' labels."""
    settings = {
        "d_sae": 2 * len(dictionary),
        "max_iterations": dictionary.k,
        "residual_threshold": 0.0,  # never: a code has k picks
        "stop_on_duplicate_support": False,  # an atom may be picked twice
    }
    config = configuration(dictionary, "matching_pursuit", **settings)
    about = config["metadata"]
    for name in ("model_name", "dataset_path"):  # nobody else has this machine's paths
        if isinstance(about[name], str) and Path(about[name]).is_absolute():
            about[name] = Path(about[name]).name
    atoms = dictionary.atoms.cpu()
    weights = {"W_dec": torch.cat([atoms, -atoms]), "b_dec": bias_of(dictionary).cpu()}
    save_file(weights, folder / "sae_weights.safetensors")
    write_whole(folder / "cfg.json", json.dumps(config, indent=2) + "\n")
    rows = [_label_of(dictionary, latent) for latent in range(2 * len(dictionary))]
    write_whole(folder / "labels.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _label_of(dictionary: ITDA, latent: int) -> dict[str, Any]:
    """Return what a latent's line in labels.jsonl says."""
    atom, negative = latent % len(dictionary), latent >= len(dictionary)
    label = dictionary.labels[atom]
    return {
        "latent": latent,
        "atom": atom,
        "negative": negative,
        "document": label.document,
        "position": label.position,
        "before": label.before,
        "token": label.token,
        "after": label.after,
    }
