"""Corpora: ordered documents with stable ids, from `python-docs`, files and folders, or the Hugging Face Hub.

The labels of atoms name documents, so an id must mean the same text on any machine: paths are relative to the
corpus, rows of a table are numbered, and the fingerprint (a hash of all ids and texts, or of a Hub data set's
revision) tells whether two corpora are the same.
"""

import hashlib
import itertools
import json
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

from itda.errors import CorpusError

Part = Literal["train", "heldout", "all"]

HELD_OUT_ONE_IN = 10
SHUFFLED_AT_ONCE = 20_000
"""Documents in memory while they are shuffled: a corpus may be larger than memory."""
TEXT_SUFFIXES = (".txt", ".md", ".py")
TABLE_SUFFIXES = (".jsonl", ".parquet")


@dataclass(frozen=True)
class Document:
    """One text with an id that is stable across machines."""

    id: str
    text: str


@dataclass(frozen=True)
class Corpus:
    """An ordered list of documents, read again from the start at each iteration.

    Raises `CorpusError` while iterating if a file cannot be read.

    >>> corpus = Corpus.from_texts(["to be", "or not to be"])
    >>> [document.id for document in corpus]
    ['text:0', 'text:1']
    """

    name: str
    read: Callable[[], Iterator[Document]]
    part: Part = "all"
    identity: str | None = None
    """What the fingerprint hashes instead of the texts, where reading them all is out of the question."""
    revision: str | None = None
    """The commit of a Hub data set."""
    holds_out: bool = True
    """False for a corpus of too few documents to keep some apart."""
    seed: int | None = None
    """Documents come in the order of a hash of it and their id; None for the corpus's own order."""

    def __iter__(self) -> Iterator[Document]:
        for document in self.read() if self.seed is None else _shuffled(self.read(), self.seed):
            if self.part == "all" or not self.holds_out or is_held_out(document.id) == (self.part == "heldout"):
                if document.text:
                    yield document

    def split(self, part: Part) -> "Corpus":
        """The documents to train on, those held out (one in ten, by a hash of the id), or all.

        Raises `CorpusError` for `heldout` where the corpus has fewer than ten documents: nothing is held out then.
        """
        if part == "heldout" and not self.holds_out:
            raise CorpusError(
                f"{self.name} has fewer than {HELD_OUT_ONE_IN} documents, so none is held out: "
                "name another corpus with --corpus"
            )
        return replace(self, part=part)

    def shuffled(self, seed: int) -> "Corpus":
        """The documents in another order, the same on every machine: `SHUFFLED_AT_ONCE` at a time by a hash of the id.

        >>> corpus = Corpus.from_texts(["to be", "or not", "to be"])
        >>> [document.id for document in corpus.shuffled(4)]
        ['text:1', 'text:2', 'text:0']
        """
        return replace(self, seed=seed)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of every id and text of the whole corpus, whichever part of it this is."""
        digest = hashlib.sha256()
        if self.identity is not None:
            digest.update(self.identity.encode())
        else:
            for document in self.read():
                digest.update(hashlib.sha256(document.id.encode()).digest())
                digest.update(hashlib.sha256(document.text.encode(errors="surrogatepass")).digest())
        return digest.hexdigest()

    @staticmethod
    def from_texts(texts: list[str], name: str = "text") -> "Corpus":
        """Texts given by the caller: document `i` has the id `name:i`."""
        documents = [Document(f"{name}:{i}", text) for i, text in enumerate(texts)]
        return Corpus(name, partial(iter, documents), holds_out=len(documents) >= HELD_OUT_ONE_IN)


def _shuffled(documents: Iterator[Document], seed: int) -> Iterator[Document]:
    while several := list(itertools.islice(documents, SHUFFLED_AT_ONCE)):
        yield from sorted(several, key=lambda d: hashlib.sha256(f"{seed}:{d.id}".encode(errors="replace")).digest())


def is_held_out(document_id: str) -> bool:
    """Whether a document is kept from training: a hash of its id, so the answer is the same everywhere."""
    return int.from_bytes(hashlib.sha256(document_id.encode()).digest()[:8], "big") % HELD_OUT_ONE_IN == 0


def open_corpus(
    spec: str, *, text_field: str = "text", config: str | None = None, split: str = "train", revision: str | None = None
) -> Corpus:
    """The corpus that `spec` names: `python-docs`, a file or folder, or else a Hub data set id.

    `text_field` is the column or key that holds the text of .jsonl, .parquet and Hub rows; `config`, `split` and
    `revision` choose within a Hub data set. Raises `CorpusError` if there is nothing to read.
    """
    if spec == "python-docs":
        return python_docs()
    path = Path(spec).expanduser()
    if spec and path.exists():
        return _from_files(path, text_field)
    looks_local = path.is_absolute() or spec.startswith((".", "~")) or path.suffix in TEXT_SUFFIXES + TABLE_SUFFIXES
    if looks_local or spec.count("/") > 1 or not spec:
        raise CorpusError(f"no file or folder {spec!r}: check the path, or use --corpus python-docs")
    return _from_hub(spec, text_field, config, split, revision)


def python_docs(*, tests: bool = False) -> Corpus:
    """The language reference's topics (`pydoc_data`) and the standard library's source, of the running Python.

    `tests` adds the standard library's own test suite, which not every installation has.
    """
    return Corpus("python-docs", partial(_read_python_docs, tests))


def _read_python_docs(tests: bool) -> Iterator[Document]:
    from pydoc_data.topics import topics

    for topic, text in sorted(topics.items()):
        yield Document(f"python-docs/topics/{topic}", text)
    library = Path(sysconfig.get_path("stdlib"))
    # Left out: other people's packages, generated tables, and what some distributions ship and others do not.
    left_out = {"site-packages", "dist-packages", "__pycache__", "pydoc_data", "encodings", "lib2to3", "idlelib"}
    left_out |= {"turtledemo", "ensurepip", "config", "__phello__", "_sysconfigdata"}
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).parts
        in_tests = "test" in parts or "tests" in parts
        if left_out.intersection(parts) or parts[0].startswith(("config-", "_sysconfigdata")) or in_tests > tests:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):  # a few test files are broken on purpose
            continue
        yield Document("python-docs/" + "/".join(parts), text)


def _from_files(path: Path, text_field: str) -> Corpus:
    root = path if path.is_dir() else path.parent
    known = TEXT_SUFFIXES + TABLE_SUFFIXES
    candidates = sorted(path.rglob("*")) if path.is_dir() else [path]
    hidden = {file for file in candidates if any(part.startswith(".") for part in file.relative_to(root).parts)}
    files = [file for file in candidates if file.suffix in known and file.is_file() and file not in hidden]
    if not files:
        raise CorpusError(f"{path} holds no {', '.join(known)} file: name one, or a folder with some")
    read = partial(_read_files, root, files, text_field)
    few = all(file.suffix in TEXT_SUFFIXES for file in files) and len(files) < HELD_OUT_ONE_IN
    if not few and len(files) < HELD_OUT_ONE_IN:  # tables: count rows, but no more than are needed
        few = sum(1 for _ in zip(read(), range(HELD_OUT_ONE_IN), strict=False)) < HELD_OUT_ONE_IN
    return Corpus(str(path), read, holds_out=not few)


def _read_files(root: Path, files: list[Path], text_field: str) -> Iterator[Document]:
    for file in files:
        name = file.relative_to(root).as_posix()
        try:
            if file.suffix == ".jsonl":
                rows: Iterator[object] = _jsonl_rows(file)
            elif file.suffix == ".parquet":
                rows = _parquet_rows(file)
            else:
                yield Document(name, file.read_text(encoding="utf-8"))
                continue
            for number, row in enumerate(rows):
                yield Document(f"{name}:{number}", _text_of(row, text_field, f"{file}, row {number}"))
        except (OSError, ValueError) as error:  # pyarrow's and json's errors are ValueErrors or OSErrors
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CorpusError(f"cannot read {file} ({reason}): mend it or leave it out") from error


def _jsonl_rows(file: Path) -> Iterator[object]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            if line.strip():
                yield json.loads(line)


def _parquet_rows(file: Path) -> Iterator[object]:
    import pyarrow.parquet as parquet

    with parquet.ParquetFile(file) as table:
        for batch in table.iter_batches(batch_size=256):
            yield from batch.to_pylist()


def _text_of(row: object, text_field: str, where: str) -> str:
    if not isinstance(row, dict) or not isinstance(row.get(text_field), str):
        found = ", ".join(map(repr, row)) if isinstance(row, dict) else type(row).__name__
        raise CorpusError(f"{where} has no text under {text_field!r} (found: {found}): name the key with --text-field")
    text = row[text_field]
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise CorpusError(f"{where} holds half a surrogate pair: mend it or leave it out") from error
    return text


def _from_hub(spec: str, text_field: str, config: str | None, split: str, revision: str | None) -> Corpus:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        commit = HfApi().dataset_info(spec, revision=revision).sha
    except RepositoryNotFoundError as error:
        raise CorpusError(
            f"no file, folder or Hub data set {spec!r}: check the spelling, or `hf auth login`"
        ) from error
    except Exception as error:  # the HTTP library's own errors, which change from release to release
        raise CorpusError(
            f"no file or folder {spec!r}, and the Hub cannot be reached: check the network, or use python-docs"
        ) from error
    read = partial(read_hub_rows, spec, text_field, config, split, commit)
    # The revision pins every row, so the texts need not be read to know what they are.
    return Corpus(spec, read, identity=f"hub:{spec}@{commit}/{config}/{split}/{text_field}", revision=commit)


def read_hub_rows(
    path: str, text_field: str, config: str | None, split: str, revision: str | None
) -> Iterator[Document]:
    """Stream the rows of a data set that `datasets.load_dataset` knows: document `path/split:row`."""
    from datasets import load_dataset

    try:
        rows = load_dataset(path, config, split=split, revision=revision, streaming=True)
        for number, row in enumerate(rows):
            yield Document(f"{path}/{split}:{number}", _text_of(row, text_field, f"{path}, row {number}"))
    except CorpusError:
        raise
    except Exception as error:  # the HTTP library's own errors too
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CorpusError(f"cannot read the data set {path} ({reason}): check its name, config and split") from error
