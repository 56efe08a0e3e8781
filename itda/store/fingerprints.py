"""Fingerprints on disk and on the Hub: one parquet file, with what made it as JSON in its header.

Parquet, since a fingerprint is a table: a row for each token, in reading order, and for each site a column of novelty,
one of atoms (a bit for each rung) and one of norms. Any tool reads it. It is compressed, has a
checksum of all, and takes about a byte to say what a token is: its document, and where it ends.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from itda.core.arithmetic import ARITHMETIC
from itda.core.display.summaries import facts_html
from itda.core.similarity.fingerprint import FingerprintSettings, TokenNovelty
from itda.core.site import Site
from itda.core.tokens import Tokens
from itda.errors import SettingError, StoreError
from itda.files import (
    FINGERPRINT_FORMAT,
    FORMAT_VERSION,
    check_format_version,
    explained,
    first_line,
    whole_file,
    write_whole,
)
from itda.store.uploads import upload

KEY = b"itda"
"""The name of the JSON in the header of the file."""

ON_HUB = "fingerprint.itda"
"""The name of the file in a repository of the Hub."""

COLUMNS = {"novelty": np.uint16, "bits": np.uint8, "norm": np.uint8}
"""What is kept of each token at a site, and in which type: 4 bytes."""


@dataclass(frozen=True, eq=False, repr=False)
class Fingerprint:
    """Which tokens are new to each site of a model: what `itda fingerprint` makes and `itda compare` takes.

    >>> import itda
    >>> found = itda.fingerprint("tiny", ["import os", "def f(x): return x"] * 3, layers=[2, 4], progress=False)
    >>> found
    <Fingerprint of tiny on text: 27 tokens, layer_2, layer_4>
    >>> found["layer_2"].novelty.shape, round(float(found["layer_2"].is_atom(0).mean()), 2)
    ((27,), 0.33)
    """

    tokens: Tokens
    """The tokens that were read, one row for each, in reading order."""
    sites: Mapping[Site, TokenNovelty]
    settings: FingerprintSettings
    about: Mapping[str, Any] = field(default_factory=dict)
    """What made it, as JSON values: model, corpus, window, ..."""
    arithmetic: int = ARITHMETIC
    """The version of the order of summation: see `itda.core.arithmetic`."""

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, site: Site | str | int) -> TokenNovelty:
        """Return the tokens of a site, by its name or layer too. Raises `SettingError` if there is none such."""
        wanted = Site.of(site)
        if wanted not in self.sites:
            raise SettingError(f"no layer {wanted.short}: use one of {', '.join(each.short for each in self.sites)}")
        return self.sites[wanted]

    def first(self, tokens: int) -> Fingerprint:
        """Return the fingerprint of the first tokens. If they are whole segments, it is that of a pass over them."""
        sites = {site: found[:tokens] for site, found in self.sites.items()}
        return Fingerprint(self.tokens.first(tokens), sites, self.settings, self.about, self.arithmetic)

    def save(self, path: str | Path) -> None:
        """Write it to a file. Raises `StoreError`."""
        write_fingerprint(self, Path(path).expanduser())

    @staticmethod
    def load(source: str | Path, *, revision: str | None = None) -> Fingerprint:
        """Read one from a file, or from a Hub repository `user/name`. Raises `StoreError`."""
        return load_fingerprint(source, revision=revision)

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None) -> str:
        """Upload it to the Hub; returns the address of the commit. Raises `StoreError` if that fails."""
        return push_fingerprint(self, repo_id, private=private, token=token)

    @property
    def _facts(self) -> dict[str, str]:
        of = f"{self.about.get('model')} on {self.about.get('corpus')}"
        return {"of": of, "tokens": f"{len(self):,} tokens, " + ", ".join(map(str, self.sites))}

    def __repr__(self) -> str:
        return f"<Fingerprint of {': '.join(self._facts.values())}>"

    def _repr_html_(self) -> str:
        return facts_html("Fingerprint", self._facts)


def write_fingerprint(fingerprint: Fingerprint, path: Path) -> None:
    """Write a fingerprint to the file `path`, in full or not at all. Raises `StoreError`."""
    tokens = fingerprint.tokens
    names = pyarrow.array(tokens.documents, pyarrow.string())
    columns = {
        "document": pyarrow.DictionaryArray.from_arrays(pyarrow.array(tokens.document), names),
        "position": pyarrow.array(tokens.position),
        "char_end": pyarrow.array(tokens.char_end),
    }
    for site, found in fingerprint.sites.items():
        columns |= {f"{site}.{name}": pyarrow.array(getattr(found, name)) for name in COLUMNS}
    header = json.loads(json.dumps(_header(fingerprint)))
    header["sha256"] = _digest(header, fingerprint)
    table = pyarrow.table(columns).replace_schema_metadata({KEY: json.dumps(header)})
    with explained(f"write {path}", "name a file in a folder that can be written"), whole_file(path) as partial:
        pyarrow.parquet.write_table(
            table,
            partial,
            compression="zstd",
            use_dictionary=["document"],  # pyright: ignore[reportArgumentType] - its stub knows bool alone
            # Both grow by little from token to token, so differences take less space. Numbers of one or two bytes are
            # stored as four, of which the zeros take no space where each byte has a stream of its own.
            column_encoding={
                "position": "DELTA_BINARY_PACKED",
                "char_end": "DELTA_BINARY_PACKED",
                **{name: "BYTE_STREAM_SPLIT" for name in columns if "." in name},
            },
        )


def _header(fingerprint: Fingerprint) -> dict[str, Any]:
    settings = fingerprint.settings
    return {
        "format": FINGERPRINT_FORMAT,
        "format_version": FORMAT_VERSION,
        "sites": [str(site) for site in fingerprint.sites],
        "tokens": len(fingerprint),
        "rungs": list(settings.rungs),
        "segment": settings.segment,
        "offset": "the mean of each segment" if settings.centred else "none",
        "massive": "left out" if settings.massive else "kept",
        "arithmetic": fingerprint.arithmetic,
        "about": dict(fingerprint.about),
    }


def _digest(header: Mapping[str, Any], fingerprint: Fingerprint) -> str:
    """Hash the header, but for its hash, and all columns: parquet's own checksums leave out what describes a page."""
    said = {name: value for name, value in header.items() if name != "sha256"}
    hasher = hashlib.sha256(json.dumps([said, fingerprint.tokens.documents], sort_keys=True).encode())
    tokens = fingerprint.tokens
    for column in (tokens.document, tokens.position, tokens.char_end):
        hasher.update(column.astype("<i4").tobytes())
    for found in fingerprint.sites.values():
        for name, kind in COLUMNS.items():
            hasher.update(getattr(found, name).astype(np.dtype(kind).newbyteorder("<")).tobytes())
    return hasher.hexdigest()


def read_fingerprint(path: Path) -> Fingerprint:
    """Read a fingerprint from a file. Raises `StoreError` if it is missing, damaged, foreign or of another version."""
    header = read_header(path)
    try:
        table = pyarrow.parquet.read_table(path, memory_map=False)
        document = table["document"].combine_chunks()
        places = (document.indices, table["position"].combine_chunks(), table["char_end"].combine_chunks())
        tokens = Tokens(document.dictionary.to_pylist(), *(np.asarray(each).astype(np.int32) for each in places))
        sites = {
            Site.parse(site): TokenNovelty(
                *(np.asarray(table[f"{site}.{name}"].combine_chunks()).astype(kind) for name, kind in COLUMNS.items())
            )
            for site in header["sites"]
        }
        centred, massive = header["offset"] != "none", header["massive"] == "left out"
        settings = FingerprintSettings(tuple(header["rungs"]), header["segment"], centred, massive)
        found = Fingerprint(tokens, sites, settings, header["about"], header["arithmetic"])
        if header["sha256"] != _digest(header, found):
            raise ValueError("its SHA-256 has changed")
        return found
    except (OSError, pyarrow.ArrowException, SettingError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise StoreError(f"{path} is damaged ({first_line(error)}): make or copy it again") from error


def read_header(path: Path) -> dict[str, Any]:
    """Return the JSON in the header of a fingerprint. Raises `StoreError`, as `read_fingerprint`."""
    try:
        with path.open("rb") as file:
            foreign = file.read(4) != b"PAR1"
    except OSError as error:
        raise StoreError(
            f"no fingerprint {path} ({error.strerror}): check the path, or make one with `itda fingerprint`"
        ) from error
    if foreign:
        raise StoreError(f"{path} is no fingerprint: name a file made by `itda fingerprint`")
    try:
        found = (pyarrow.parquet.read_schema(path).metadata or {}).get(KEY)
        header = json.loads(found) if found is not None else {}
    except (OSError, pyarrow.ArrowException, ValueError) as error:
        raise StoreError(f"{path} cannot be read, it may be cut short: make or copy it again") from error
    if not isinstance(header, dict) or header.get("format") != FINGERPRINT_FORMAT:
        raise StoreError(f"{path} is no fingerprint: name a file made by `itda fingerprint`")
    check_format_version(path, header)
    return header


def load_fingerprint(source: str | Path, *, revision: str | None = None) -> Fingerprint:
    """Read a fingerprint from a file, or from a Hub repository. Raises `StoreError`."""
    path, name = Path(source).expanduser(), str(source)
    if path.exists() or name.count("/") != 1 or name[0] in "./~":
        return read_fingerprint(path)
    from huggingface_hub import hf_hub_download

    try:
        path = Path(hf_hub_download(name, ON_HUB, revision=revision))
    except Exception as error:  # the HTTP library's own errors, which change from release to release
        raise StoreError(
            f"no file {name}, and it cannot be read from the Hub: check the name, the network and `hf auth whoami`"
        ) from error
    return read_fingerprint(path)


def push_fingerprint(
    fingerprint: Fingerprint, repo_id: str, *, private: bool | None = None, token: str | None = None
) -> str:
    """Upload a fingerprint to the Hub; returns the address of the commit. Raises `StoreError` if that fails."""
    about = {name: _without_path(name, value) for name, value in fingerprint.about.items()}
    shared = Fingerprint(fingerprint.tokens, fingerprint.sites, fingerprint.settings, about, fingerprint.arithmetic)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_fingerprint(shared, folder / ON_HUB)
        write_whole(folder / "README.md", _card(shared, repo_id))
        return upload(folder, repo_id, "Upload an ITDA fingerprint", private=private, token=token)


def _without_path(name: str, value: Any) -> Any:
    """Return the name alone of a model's or corpus's folder: nobody else has its path."""
    return Path(value).name if name in ("model", "corpus") and isinstance(value, str) and value[:1] == "/" else value


def _card(fingerprint: Fingerprint, repo_id: str) -> str:
    about = fingerprint.about
    base = str(about.get("model", ""))
    tag = f"base_model: {base}\n" if base.count("/") == 1 and base[0] not in "./~" else ""
    return f"""---
library_name: itda
tags: [itda, interpretability, fingerprint]
{tag}---

# ITDA fingerprint: {base or "a model"} on {about.get("corpus", "a corpus")}

Which of {len(fingerprint):,} tokens are new to each of {len(fingerprint.sites)} sites of the model, at thresholds
{", ".join(map(str, fingerprint.settings.rungs))}, and how new: what models are compared by, layer with layer.

```
itda compare {repo_id} other.itda
```
"""
