"""`itda import PATH`: dictionaries of the paper's released scripts (pleask/itda) as a run of ours.

They write a folder for each layer: atoms.pt [atoms, d_model], atom_indices.pt [atoms, 2] and metadata.yaml. The first
two are pickles; they are read as tensors alone (`weights_only`), and anything else in them is refused, not run. A row
of atom_indices is the number of a text in the corpus and the number of a token in it, padding and special
tokens counted; (-1, -1) is a row that the script had lost. With the corpus and the model's tokenizer they become
labels; without, a label's document is `sequence N` and its token unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from itda import config as settings
from itda.core.dictionary import ITDA
from itda.core.labels import NO_TOKEN_ID, Label, Labels
from itda.core.site import Site
from itda.errors import CorpusError, ModelError, StoreError
from itda.files import FORMAT_VERSION, RUN_FORMAT, first_line, new_folder, write_json
from itda.recipes.runs import Run, Say, open_run, open_spec, unsaid
from itda.sources.corpora.corpus import Corpus
from itda.store.dictionaries import write_dictionary
from itda.version import __version__

ATOMS, INDICES, ABOUT = "atoms.pt", "atom_indices.pt", "metadata.yaml"
LOST = "lost"
"""The document of an atom of which the script lost where it came from."""


@dataclass(frozen=True)
class Released:
    """What one folder of the released scripts holds."""

    folder: Path
    atoms: Float[Tensor, "atoms d_model"]
    indices: Int64[Tensor, "atoms 2"]
    about: Mapping[str, Any]

    @property
    def site(self) -> Site:
        """The layer that it was made at: the scripts read what a block returns."""
        return Site(int(self.about["layer"]))


def import_released(options: settings.Import, say: Say = unsaid) -> Run:
    """`itda import PATH --out RUN`: write a run of the dictionaries in a folder, or in the folders in it.

    `say` is told what the user should know. Raises an `ItdaError` for what is damaged, foreign, or no plain tensor.
    """
    found = [read_released(folder) for folder in folders_of(options.path)]
    sites = [each.site for each in found]
    if len(set(sites)) < len(sites):
        twice = next(site for site in sites if sites.count(site) > 1)
        raise StoreError(f"{options.path} has {twice} more than once: name the folder of one run of the scripts")
    models = sorted({str(each.about.get("lm_name")) for each in found})
    if len(models) > 1:
        raise StoreError(f"{options.path} has dictionaries of {models[0]} and {models[1]}: name a folder of one model")
    labels = _labels(found, options, say)
    out = options.out if options.out is not None else Path("runs") / f"imported-{options.path.resolve().name}"
    with new_folder(out) as partial:
        for each, own in zip(found, labels, strict=True):
            (partial / str(each.site)).mkdir()
            write_dictionary(_dictionary(each, own, options), partial / str(each.site))
        write_json(partial / "run.json", _record(found, options))
    return open_run(out)


def folders_of(path: Path) -> list[Path]:
    """Return the folder itself if it holds a dictionary of the scripts, or those in it that do. Raises `StoreError`."""
    if (path / ATOMS).exists():
        return [path]
    found = sorted(each.parent for each in path.glob(f"*/{ATOMS}")) if path.is_dir() else []
    if not found:
        raise StoreError(f"{path} holds no {ATOMS} of the released scripts: name the folder that they wrote")
    return found


def read_released(folder: Path) -> Released:
    """Read one dictionary of the scripts; nothing is run that is in its files. Raises `StoreError`."""
    atoms, indices = (_tensor(folder / name) for name in (ATOMS, INDICES))
    about = _about(folder / ABOUT)
    if atoms.ndim != 2 or not atoms.is_floating_point() or indices.shape != (len(atoms), 2):
        shapes = tuple(atoms.shape), tuple(indices.shape)
        raise StoreError(f"{folder} has atoms {shapes[0]} and indices {shapes[1]}: they are not of one dictionary")
    atoms = atoms.float()
    norms = atoms.norm(dim=1, keepdim=True)
    if not bool(torch.isfinite(norms).all()) or not bool((norms > 0).all()):
        raise StoreError(f"{folder}/{ATOMS} has atoms that are zero or not finite: leave them out with the scripts")
    return Released(folder, (atoms.double() / norms.double()).float(), indices.to(torch.int64), about)


def _tensor(path: Path) -> Tensor:
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise StoreError(f"no {path}: name a folder that the released scripts wrote, whole") from error
    except Exception as error:  # torch's and pickle's own, of many kinds
        raise StoreError(
            f"{path} is damaged, or holds more than a tensor, which might be a program ({first_line(error)[:60]}): "
            "have it written anew by torch.save of a tensor"
        ) from error
    if not isinstance(value, Tensor):
        raise StoreError(f"{path} holds a {type(value).__name__}, not a tensor: have torch.save write the tensor alone")
    return value.detach()


def _about(path: Path) -> dict[str, Any]:
    import yaml

    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise StoreError(f"{path} cannot be read ({first_line(error)}): bring the scripts' {ABOUT}") from error
    if not isinstance(value, dict) or not isinstance(value.get("layer"), int) or value["layer"] < 0:
        raise StoreError(f"{path} names no layer: add the line `layer: 3`, counted from 0")
    if not isinstance(value.get("k", 40), int) or value.get("k", 40) < 1:
        raise StoreError(f"{path} has k {value.get('k')!r}: write a number of atoms, such as `k: 40`")
    return value


# Labels.


def _labels(found: Sequence[Released], options: settings.Import, say: Say) -> list[Labels]:
    """Return the labels of each dictionary: of the corpus, if it is given, or numbers."""
    if options.corpus is None:
        say("without --corpus the labels are numbers: of the text in the corpus, and of the token in the text")
        return [Labels.of(*(_numbers(*map(int, row)) for row in each.indices)) for each in found]
    corpus = open_spec(options.corpus, options, say)
    wanted = {int(row[0]) for each in found for row in each.indices} - {-1}
    texts = _texts(corpus, wanted)
    tokens: dict[int, list[Label | None]] = {}
    tokenizer = _tokenizer(options.tokenizer or str(found[0].about.get("lm_name")))
    length = min(int(each.about.get("seq_len") or 0) or 10**9 for each in found)
    for number, (document, text) in texts.items():
        tokens[number] = list(_tokens(tokenizer, document, text, length))
    return [Labels.of(*(_label(tokens, *map(int, row)) for row in each.indices)) for each in found]


def _numbers(sequence: int, token: int) -> Label:
    document = f"sequence {sequence}" if sequence >= 0 else LOST
    return Label(document, token, token, token, NO_TOKEN_ID, "", "", "")


def _label(tokens: Mapping[int, Sequence[Label | None]], sequence: int, token: int) -> Label:
    """Return the label of a row; one of numbers for what is no token of a text: padding, special tokens, lost rows."""
    if sequence < 0:
        return _numbers(sequence, token)
    known = tokens[sequence]
    found = known[token] if token < len(known) else None
    if found is not None:
        return found
    kind = "[special]" if token < len(known) else "[padding]"
    return Label(f"sequence {sequence}", token, token, token + len(kind), NO_TOKEN_ID, "", kind, "")


def _texts(corpus: Corpus, wanted: set[int]) -> dict[int, tuple[str, str]]:
    """Return id and text of documents by their number in the stream, empty ones counted. Raises `CorpusError`."""
    last = max(wanted, default=-1)
    found = {n: (d.id, d.text) for n, d in enumerate(islice(corpus.read(), last + 1)) if n in wanted}
    if len(found) < len(wanted):
        raise CorpusError(
            f"{corpus.name} has no document {max(wanted - set(found))}, of which an atom comes: name the corpus that "
            "the scripts read, in its own order"
        )
    return found


def _tokens(tokenizer: Any, document: str, text: str, length: int) -> Iterator[Label | None]:
    """Yield the label of each token of a text as the scripts cut it; None for a special token."""
    cut = tokenizer(
        text, truncation=True, max_length=length, return_offsets_mapping=True, return_special_tokens_mask=True
    )
    end = max((after for _, after in cut["offset_mapping"]), default=0)
    position = 0
    for token, (start, after), special in zip(
        cut["input_ids"], cut["offset_mapping"], cut["special_tokens_mask"], strict=True
    ):
        if special:
            yield None
            continue
        around = text[:start][-200:], text[start:after], text[after:end][:50]
        yield Label(document, position, start, after, token, around[0], around[1], around[2])
        position += 1


def _tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    from itda.sources.models.names import TINY

    try:
        found = AutoTokenizer.from_pretrained(TINY if name == "tiny" else name)
    except Exception as error:  # the libraries' own, of many kinds
        raise ModelError(
            f"no tokenizer {name} ({first_line(error)}): name its folder or Hub id with --tokenizer"
        ) from error
    if not found.is_fast:
        raise ModelError(f"the tokenizer of {name} does not say where its tokens are: leave --corpus out")
    return found


# The run.


def _dictionary(each: Released, labels: Labels, options: settings.Import) -> ITDA:
    made = {"model": each.about.get("lm_name"), "corpus": options.corpus or each.about.get("dataset")}
    made |= {"window": each.about.get("seq_len"), "released": {key: _plain(v) for key, v in each.about.items()}}
    threshold = each.about.get("loss_threshold")
    return ITDA(
        each.atoms,
        labels,
        k=int(each.about.get("k", 40)),
        pursuit="mp",
        threshold=float(threshold) if isinstance(threshold, int | float) else None,
        mode="reference",
        site=each.site,
        provenance=made,
    )


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _record(found: Sequence[Released], options: settings.Import) -> dict[str, Any]:
    about = found[0].about
    window, batch = (int(about.get(key) or default) for key, default in (("seq_len", 128), ("batch_size", 8)))
    corpus = options.corpus or str(about.get("dataset") or "an unknown corpus")
    stored = {"mode": "reference", "part": "all", "order": "corpus", "seed": None, "revision": None, "atoms": None}
    stored |= {"text_field": options.text_field, "dataset_config": options.dataset_config}
    stored |= {"dataset_split": options.dataset_split, "dataset_revision": options.dataset_revision, "bos": "auto"}
    return {
        "format": RUN_FORMAT,
        "format_version": FORMAT_VERSION,
        "sites": [str(each.site) for each in found],
        "model": str(about.get("lm_name")),
        "corpus": corpus,
        "corpus_part": "all",
        "corpus_revision": None,
        "fingerprint": None,
        "order": "corpus",
        "window": window,
        "batch_size": batch,
        "bos": "auto",
        "revision": None,
        "dtype": "float32",
        "tokens": int(about.get("steps") or 0) * batch * window,
        "seconds": 0.0,
        "settings": stored,
        "imported": str(re.sub(r"[^\w./-]", "_", options.path.resolve().name)),
        "versions": {"itda": __version__},
    }
