"""Delphi (eai-delphi 0.1.3) explains and scores the latents of a sparse coder: its cache, written from our index.

    OUT/latents/layers.3/0_818.safetensors   the activations of a range of latents, both ends included, and all tokens
                         config.json
    OUT/delphi.json                          what is what, and which latents Delphi will drop

`LatentDataset(OUT / "latents", sampler_cfg, constructor_cfg, tokenizer)` reads it. Delphi wants contexts of one length
and cuts them into examples of 32 tokens. So each of our windows begins with a new example, with the special tokens that
stood in front of it, and is filled up at its end: no example shows text that the model did not read at once.

A latent is the positive part of an atom: Delphi takes the largest value of an example, and clips what is negative. With
both signs, latent `atoms + i` is the negative part of atom i.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64
from safetensors.numpy import save_file

from itda.bridges.indexed import Done, Indexed, Say
from itda.core.site import Site
from itda.explorer.code_index import CodeIndex
from itda.files import FORMAT_VERSION, write_json

CONTEXT, EXAMPLE = 256, 32
"""Tokens of a context and of an example: Delphi's own defaults."""
LEAST_WINDOWS = 200
"""Examples that a latent must be active in, or Delphi drops it: its default `min_examples`."""
LEAST_ACTIVATION = 1e-5
"""Delphi takes what is not above this for no activation."""
SHARDS, ENTRIES = 5, 2**21
"""Files at least, and about the most activations in one of them."""
MODULES = {"resid_post": "layers.{}", "mlp_out": "layers.{}.mlp", "attn_out": "layers.{}.self_attn"}
"""The name of the module whose output a site is, as the transformers library calls it in most models."""
FORMAT = "itda-delphi"


@dataclass(frozen=True)
class Dressing:
    """The special tokens of Delphi's contexts."""

    prefix: Sequence[int]
    """Ids of the tokens in front of each window, as when the model read it."""
    filler: int
    """Id of the token that fills up a window at its end."""


@dataclass(frozen=True, eq=False)
class _Contexts:
    """Where each indexed token is in contexts of one length."""

    tokens: Int64[np.ndarray, "contexts length"]
    """The token ids of each context."""
    place: Int64[np.ndarray, " tokens"]
    """For each indexed token its place in `tokens`, counted row by row."""


def module_of(site: Site) -> str:
    """Return the name under which Delphi has a site.

    >>> module_of(Site(3)), module_of(Site(3, "mlp_out"))
    ('layers.3', 'layers.3.mlp')
    """
    return MODULES[site.stream].format(site.layer)


def export(
    sources: Sequence[Indexed],
    folder: Path,
    dressing: Dressing,
    model_name: str,
    done: Done,
    say: Say,
    *,
    both_signs: bool = False,
) -> None:
    """Write the cache of each dictionary into a folder. `model_name` is where Delphi finds the tokenizer.

    `say` is told how many latents Delphi will drop, and where they are listed. Raises `OSError`.
    """
    dropped: dict[str, list[int]] = {}
    for source in sources:
        name = module_of(source.site)
        own = folder / "latents" / name
        own.mkdir(parents=True)
        contexts = _contexts(source.index, dressing)
        windows = np.zeros(len(source.dictionary) * (2 if both_signs else 1), np.int64)
        for first, last, sign in _shards(source.index, both_signs):
            windows[first:last] = _write_shard(source.index, own, contexts, first, last, sign)
            done(last - first)
        write_json(own / "config.json", _config(source, contexts, model_name))
        dropped[name] = np.flatnonzero(windows < LEAST_WINDOWS).tolist()
        if dropped[name]:
            say(
                f"Delphi drops {len(dropped[name]):,} of {len(windows):,} latents of {name}, active in fewer than "
                f"{LEAST_WINDOWS} examples, unless its min_examples is lower: they are listed in delphi.json; index "
                "more tokens for fewer"
            )
    about: dict[str, Any] = {"format": FORMAT, "format_version": FORMAT_VERSION}
    about |= {"signs": "both" if both_signs else "positive", "least_windows": LEAST_WINDOWS, "dropped": dropped}
    write_json(folder / "delphi.json", about)


def _contexts(index: CodeIndex, dressing: Dressing) -> _Contexts:
    """Lay the windows out, each from the beginning of an example on."""
    prefix, starts = np.array(dressing.prefix, np.int64), index.text.window_starts
    lengths = -(-(np.diff(starts) + len(prefix)) // EXAMPLE) * EXAMPLE
    ends = lengths.cumsum()
    begins = ends - lengths
    tokens = np.full(-(-int(ends[-1]) // CONTEXT) * CONTEXT, dressing.filler, np.int64)
    for place, token in enumerate(prefix):
        tokens[begins + place] = token
    place = np.arange(index.tokens) + np.repeat(begins + len(prefix) - starts[:-1], np.diff(starts))
    tokens[place] = index.text.token_id
    return _Contexts(tokens.reshape(-1, CONTEXT), place)


def _shards(index: CodeIndex, both_signs: bool) -> Iterator[tuple[int, int, int]]:
    """Yield ranges of latents of about as many uses, the second end excluded, and the sign of their coefficients."""
    before = np.concatenate([[0], index.counts.cumsum()])
    number = max(SHARDS, -(-int(before[-1]) // ENTRIES))
    cuts = np.searchsorted(before, before[-1] * np.arange(1, number) / number)
    edges = np.unique([0, *cuts.clip(0, index.atoms), index.atoms]).tolist()
    for offset, sign in ((0, 1), (index.atoms, -1))[: 2 if both_signs else 1]:
        for first, last in itertools.pairwise(edges):
            yield offset + first, offset + last, sign


def _write_shard(
    index: CodeIndex, folder: Path, contexts: _Contexts, first: int, last: int, sign: int
) -> Int64[np.ndarray, " latents"]:
    """Write the activations of some latents; return in how many examples each is active."""
    atom, length = first % index.atoms, contexts.tokens.size
    starts, tokens, coefficients = index.uses_between(atom, atom + last - first)
    active = np.flatnonzero(sign * coefficients > LEAST_ACTIVATION)
    latent = np.repeat(np.arange(last - first), np.diff(starts))[active]
    keys = latent * length + contexts.place[tokens[active]]
    order = np.argsort(keys, kind="stable")
    keys, values = keys[order], np.abs(coefficients[active[order]])
    small = max(len(contexts.tokens), last - first) < 2**16
    locations = np.empty((len(keys), 3), np.uint16 if small else np.uint32)
    for column, found in enumerate((keys % length // CONTEXT, keys % CONTEXT, keys // length)):
        locations[:, column] = found
    half = len(values) == 0 or float(values.max()) <= float(np.finfo(np.float16).max)
    tensors = {
        "locations": locations,
        "activations": values.astype(np.float16 if half else np.float32),
        "tokens": contexts.tokens,
    }
    save_file(tensors, folder / f"{first}_{last - 1}.safetensors")
    new = np.diff(keys // EXAMPLE, prepend=-1) != 0  # an example is of one latent: its keys are a multiple of 32 apart
    return np.bincount(locations[new, 2], minlength=last - first)


def _config(source: Indexed, contexts: _Contexts, model_name: str) -> dict[str, Any]:
    """Return Delphi's `CacheConfig` with the name of the model. No data set is read again: the tokens are here."""
    settings = source.record["settings"]
    return {
        "dataset_repo": source.corpus or "",
        "dataset_split": settings.get("dataset_split") or "",
        "dataset_name": settings.get("dataset_config") or "",
        "dataset_column": settings.get("text_field") or "",
        "batch_size": int(source.index.record["batch_size"]),
        "cache_ctx_len": CONTEXT,
        "n_tokens": int(contexts.tokens.size),
        "n_splits": SHARDS,
        "model_name": model_name,
    }
