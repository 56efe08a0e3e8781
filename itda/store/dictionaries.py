"""The run folder: dictionaries, labels and settings on disk, and on the Hub.

A folder is written under a temporary name beside its own and renamed when it is whole, so a killed process leaves
either all of it or nothing that could be taken for it. Nothing is ever unpickled. `itda.files` writes and
renames, `itda.store.records` reads what needs no tensors.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from itda.core.arithmetic import FIRST
from itda.core.batch import Site
from itda.core.dictionary import ITDA
from itda.core.labels import Label, Labels
from itda.core.tokens import Tokens
from itda.errors import SettingError, StoreError
from itda.files import (
    DICTIONARY_FORMAT,
    FORMAT_VERSION,
    TOKENS_FORMAT,
    first_line,
    new_folder,
    read_json,
    whole_file,
    write_json,
    write_whole,
)
from itda.store.effects import read_effects, write_effects
from itda.store.features import read_features, write_features
from itda.store.hub import download_dictionary
from itda.store.nearest import read_nearest, write_nearest
from itda.store.replication import read_replication, write_replication
from itda.store.uploads import upload


def save_dictionary(dictionary: ITDA, folder: Path) -> None:
    """Write one dictionary to a new folder. Raises `StoreError` if it exists."""
    with new_folder(folder) as partial:
        write_dictionary(dictionary, partial)


def write_dictionary(dictionary: ITDA, folder: Path) -> None:
    """Write one dictionary's files into a folder that nobody reads yet."""
    config = {
        "format": DICTIONARY_FORMAT,
        "format_version": FORMAT_VERSION,
        "d_model": dictionary.d_model,
        "atoms": len(dictionary),
        "k": dictionary.k,
        "pursuit": dictionary.pursuit,
        "offset": dictionary.offset is not None,
        "threshold": dictionary.threshold,
        "mode": dictionary.mode,
        "refined": dictionary.fidelity is not None,
        "massive_norm": dictionary.massive_norm,
        "arithmetic": list(dictionary.arithmetic),
        "site": str(dictionary.site) if dictionary.site is not None else None,
        "provenance": dict(dictionary.provenance),
    }
    tensors = {"atoms": dictionary.atoms.cpu().contiguous()}
    if dictionary.offset is not None:
        tensors["offset"] = dictionary.offset.cpu().contiguous()
    if dictionary.fidelity is not None:
        tensors["fidelity"] = dictionary.fidelity.cpu().contiguous()
    if dictionary.novelty is not None:
        tensors["novelty"] = dictionary.novelty.cpu().contiguous()
    with whole_file(folder / "atoms.safetensors", alone=True) as partial:
        save_file(tensors, partial, {"format": DICTIONARY_FORMAT})
    if dictionary.feature_encoder is not None:
        write_features(dictionary.feature_encoder, folder)
    pyarrow.parquet.write_table(_table_of(dictionary.labels), folder / "labels.parquet")
    if dictionary.replication is not None:
        write_replication(dictionary.replication, folder)
    if dictionary.effects is not None:
        write_effects(dictionary.effects, folder)
    if dictionary.nearest is not None:
        write_nearest(dictionary.nearest, folder)
    write_whole(folder / "README.md", model_card(dictionary))
    write_json(folder / "config.json", config)


def load_dictionary(source: str | Path, *, revision: str | None = None) -> ITDA:
    """Read a dictionary from a folder, or the Hub (user/name, user/name/layer_3 of a run). Raises `StoreError`."""
    folder = Path(source).expanduser()
    if not folder.is_dir():
        folder = download_dictionary(str(source), revision)
    config = read_json(folder / "config.json", DICTIONARY_FORMAT)
    try:
        tensors = load_file(folder / "atoms.safetensors")
        labels = _labels_of(pyarrow.parquet.read_table(folder / "labels.parquet"))
        atoms, offset = tensors["atoms"], tensors["offset"] if config["offset"] else None
        if atoms.shape != (config["atoms"], config["d_model"]):
            raise StoreError(
                f"{folder} holds atoms of shape {tuple(atoms.shape)}, not those of its config: download it again"
            )
        return ITDA(
            atoms=atoms,
            labels=labels,
            k=config["k"],
            pursuit=config["pursuit"],
            offset=offset,
            threshold=config["threshold"],
            mode=config["mode"],
            # Absent from what was written before there was refinement.
            fidelity=tensors["fidelity"] if config.get("refined", False) else None,
            # Absent from older dictionaries, and from those of mode reference.
            novelty=tensors.get("novelty"),
            # Absent from what was written before there was the rule.
            massive_norm=config.get("massive_norm"),
            replication=read_replication(folder, len(atoms)),
            effects=read_effects(folder, len(atoms)),
            feature_encoder=read_features(folder),
            nearest=read_nearest(folder, len(atoms)),
            arithmetic=tuple(config.get("arithmetic", [FIRST])),
            site=Site.parse(config["site"]) if config["site"] is not None else None,
            provenance=config["provenance"],
        )
    except (OSError, SafetensorError, pyarrow.ArrowException, KeyError, TypeError, SettingError) as error:
        raise StoreError(
            f"{folder} is damaged or incomplete ({first_line(error)}): write or download it again"
        ) from error


def push_dictionary(dictionary: ITDA, repo_id: str, *, private: bool | None = None, token: str | None = None) -> str:
    """Upload a dictionary to the Hub; returns the address of the commit. Raises `StoreError` if that fails."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_dictionary(_without_paths(dictionary), folder)
        return upload(folder, repo_id, "Upload an ITDA dictionary", private=private, token=token)


def _without_paths(dictionary: ITDA) -> ITDA:
    """Return the dictionary with the names alone of its model's and corpus's folders: nobody else has their paths."""
    made = dict(dictionary.provenance)
    for name in ("model", "corpus"):
        if isinstance(made.get(name), str) and Path(made[name]).is_absolute():
            made[name] = Path(made[name]).name
    return replace(dictionary, provenance=made)


def write_tokens(tokens: Tokens, path: Path) -> None:
    """Write the tokens that a run read to the file `path`: about a byte for each."""
    names = pyarrow.array(tokens.documents, pyarrow.string())
    columns = {
        "document": pyarrow.DictionaryArray.from_arrays(pyarrow.array(tokens.document), names),
        "position": pyarrow.array(tokens.position),
        "char_end": pyarrow.array(tokens.char_end),
    }
    # Both columns grow by little from token to token, so differences take less space.
    packed = {"position": "DELTA_BINARY_PACKED", "char_end": "DELTA_BINARY_PACKED"}
    table = pyarrow.table(columns).replace_schema_metadata({"format": TOKENS_FORMAT})
    pyarrow.parquet.write_table(
        table,
        path,
        compression="zstd",
        use_dictionary=["document"],  # pyright: ignore[reportArgumentType] - its stub knows bool alone
        column_encoding=packed,
        row_group_size=len(table) or 1,
    )


def read_tokens(run: Path) -> Tokens:
    """Return the tokens that a run read. Raises `StoreError` if its folder has none, or the file is damaged."""
    path = run / "tokens.parquet"
    if not path.exists():
        raise StoreError(f"{run} does not say which tokens it read (an older itda made it): train it anew")
    try:
        table = pyarrow.parquet.read_table(path).combine_chunks()
        document = table["document"].combine_chunks()
        names = document.dictionary.to_pylist()
        columns = (document.indices, table["position"].combine_chunks(), table["char_end"].combine_chunks())
        return Tokens(names, *(np.asarray(column).astype(np.int32) for column in columns))
    except (OSError, pyarrow.ArrowException, KeyError, AttributeError) as error:
        raise StoreError(f"{path} cannot be read, it may be cut short: train the run anew") from error


def model_card(dictionary: ITDA) -> str:
    """Return the README of a dictionary's folder, with the metadata that the Hub reads."""
    made = dictionary.provenance
    base, count = made.get("model"), f"{len(dictionary):,}"
    repository = base.partition(":")[0] if isinstance(base, str) else ""
    tag = f"base_model: {repository}\n" if repository.count("/") == 1 and repository[0] not in "./~" else ""
    return f"""---
library_name: itda
tags: [itda, interpretability, sparse-coding]
{tag}---

# ITDA dictionary: {base or "a model"}, {dictionary.site or "one site"}

{count} atoms of width {dictionary.d_model}. Each is {_kind(dictionary)} (`labels.parquet`).
An activation is decomposed into at most {dictionary.k} of them by the pursuit
`{dictionary.pursuit}`.{_on_refinement(dictionary)}

| setting | value |
|---|---|
{_on_quantisation(made)}| mode | {dictionary.mode} |
{_on_threshold(dictionary)}| corpus | {made.get("corpus", "-")} |
| tokens | {made.get("tokens", "-")} |
| window | {made.get("window", "-")}{_on_front(made)} |
| order of summation | {_on_arithmetic(dictionary)} |
{_on_massive(dictionary)}{_on_replication(dictionary)}{_on_effects(dictionary)}
```python
import itda
model = itda.ITDA.from_pretrained("path or repository")
code = model.encode(activations)      # activations [batch, {dictionary.d_model}]
model.labels[code.indices]            # the labels of the atoms
```

Method: Leask, Nanda, Al Moubayed, "Inference-Time Decomposition of Activations (ITDA)", ICML 2025, arXiv 2505.17769.
"""


def _on_front(made: Mapping[str, Any]) -> str:
    if "prefix" not in made:
        return ""
    return f", each begins with {' '.join(made['prefix'])}" if made["prefix"] else ", without a BOS"


def _on_arithmetic(dictionary: ITDA) -> str:
    orders = " and ".join(map(str, dictionary.arithmetic))
    return f"{orders}: it decides the last bits of codes; that of the itda that encodes may be another"


def _on_massive(dictionary: ITDA) -> str:
    if dictionary.massive_norm is None:
        return ""
    found = dictionary.provenance.get("massive", {})
    said = f", as had {found['tokens']:,} of {found['seen']:,} tokens of training" if "seen" in found else ""
    return f"""
Activations of a norm above {dictionary.massive_norm:.6g}{said}, are massive: outliers that no measure here counts
(`model.is_massive`).
"""


def _on_replication(dictionary: ITDA) -> str:
    if dictionary.replication is None or not len(dictionary):
        return ""
    found = dictionary.replication.summary()
    draws = "once" if found["draws"] == 1 else f"{found['draws']} times"
    return f"""
Replication: the documents were split into two halves at random {draws}, and dictionaries were made of each half with
the same settings. {found["mean"]:.0%} of the time an atom has one within a cosine of {found["cosine"]:g} in the half
without its document; {found["in_half"]:.0%} of the atoms do in half of the draws or more, {found["in_none"]:.0%} in
none. Of activations as they come {found["chance"]:.0%} have one. Atoms that do not come back are no findings
(`model.replication`).
"""


def _on_effects(dictionary: ITDA) -> str:
    if dictionary.effects is None or not len(dictionary):
        return ""
    found = dictionary.effects.summary()
    added = found["measures"]["added"]
    if added["beyond_control"] is None:
        return ""
    return f"""
Effects: each atom was added at the last token of {found["contexts"]} texts, {found["strength"]:g} typical
coefficients. For {added["beyond_control"]:.0%} of the atoms with {found["least_uses"]} uses or more in
{found["sample"]:,} tokens, the next token moved towards what follows the atom's own in its label, or towards what its
direction promotes, further than by random atoms, pushed as far; with another atom's targets for
{added["false_positives"] or 0:.1%} (`model.effects`).
"""


def _on_quantisation(made: Mapping[str, Any]) -> str:
    return f"| the model is stored as | {made['quantisation']} |\n" if made.get("quantisation") else ""


def _on_threshold(dictionary: ITDA) -> str:
    return f"| threshold | {dictionary.threshold} |\n" if dictionary.threshold is not None else ""


def _has_centres(dictionary: ITDA) -> bool:
    return dictionary.provenance.get("refinement", {}).get("recipe") == 2


def _kind(dictionary: ITDA) -> str:
    """Say what an atom and its label are."""
    if _has_centres(dictionary):
        return """the centre of a group of activations of the model, divided by its norm, and
labelled with the document and the token at which the one nearest to it was read"""
    return """an activation of the model, divided by its norm, and labelled
with the document and the token at which it was read"""


def _on_refinement(dictionary: ITDA) -> str:
    if dictionary.fidelity is None:
        return ""
    made = "The atoms are refined: each was moved from its activation to where it reconstructs better."
    if _has_centres(dictionary):
        made = "Centres of groups are found again in other text more often than single activations."
    return f"""

{made} Their cosine to the
activation that the label names (`fidelity`) is {dictionary.fidelity.median():.3f} in the median and
{dictionary.fidelity.min():.3f} at least."""


def _table_of(labels: Labels) -> pyarrow.Table:
    rows = list(labels)
    text = pyarrow.string()
    columns = {
        "document": pyarrow.array([label.document for label in rows], text),
        "position": pyarrow.array(labels.position),
        "char_start": pyarrow.array(labels.char_start),
        "char_end": pyarrow.array(labels.char_end),
        "token_id": pyarrow.array(labels.token_id),
        "token": pyarrow.array([label.token for label in rows], text),
        "before": pyarrow.array([label.before for label in rows], text),
        "after": pyarrow.array([label.after for label in rows], text),
    }
    return pyarrow.table(columns)


def _labels_of(table: pyarrow.Table) -> Labels:
    columns = {name: table[name].to_pylist() for name in table.column_names}
    names = ("document", "position", "char_start", "char_end", "token_id", "before", "token", "after")
    return Labels.of(*(Label(*row) for row in zip(*(columns[name] for name in names), strict=True)))
