"""Corpora: ordered documents with stable ids, from `python-docs`, files and folders, or the Hugging Face Hub.

The labels of atoms name documents, so an id must mean the same text on any machine: paths are relative to the
corpus, rows of a table are numbered, and the fingerprint (a hash of all ids and texts, or of a Hub data set's
revision) tells whether two corpora are the same.
"""

import hashlib
import itertools
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

from itda.errors import CorpusError
from itda.sources.corpora.document import Document
from itda.sources.corpora.text_files import NEWEST, Rules, find, kind_of

Part = Literal["train", "heldout", "all"]
"""The documents to train on, those kept apart from training, or both."""

HELD_OUT_ONE_IN = 10
"""One document in so many is held out; corpora of fewer documents hold out none."""
SHUFFLED_AT_ONCE = 20_000
"""Number of documents that are shuffled together, in memory: a corpus may be larger than memory."""


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
    """A text that the fingerprint hashes instead of the documents, where these are too many to read."""
    revision: str | None = None
    """The commit of a Hub data set."""
    holds_out: bool = True
    """False for a corpus of too few documents to keep some apart."""
    seed: int | None = None
    """Sorts documents by a hash of the seed and their id; None for the corpus's own order."""
    rules: Rules = NEWEST
    """The rules by which files were found and read."""
    notes: tuple[str, ...] = ()
    """Messages for the user: about files that are left out, or a folder that has the name of something else."""

    def __iter__(self) -> Iterator[Document]:
        for document in self.read() if self.seed is None else _shuffled(self.read(), self.seed):
            if self.part == "all" or not self.holds_out or is_held_out(document.id) == (self.part == "heldout"):
                if not document.is_empty:
                    yield document

    def __repr__(self) -> str:
        # A dataclass's own would have every file.
        return f"<Corpus {self.name}, {'all of it' if self.part == 'all' else f'{self.part} part'}>"

    def split(self, part: Part) -> "Corpus":
        """Return the documents to train on, those held out (one in ten, by a hash of the id), or all.

        Raises `CorpusError` for `heldout` where the corpus has fewer than ten documents: nothing is held out then.
        """
        if part == "heldout" and not self.holds_out:
            raise CorpusError(
                f"{self.name} has fewer than {HELD_OUT_ONE_IN} documents, so none is held out: "
                "name another corpus with --corpus"
            )
        return replace(self, part=part)

    def shuffled(self, seed: int) -> "Corpus":
        """Return the documents in the order of a hash of the id, `SHUFFLED_AT_ONCE` at a time; the same everywhere.

        >>> corpus = Corpus.from_texts(["to be", "or not", "to be"])
        >>> [document.id for document in corpus.shuffled(4)]
        ['text:1', 'text:2', 'text:0']
        """
        return replace(self, seed=seed)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of every id and text of the whole corpus, whichever part of it this is.

        Reads all of it once, part by part, unless it has an `identity`.
        """
        digest = hashlib.sha256()
        if self.identity is not None:
            digest.update(self.identity.encode())
        else:
            for document in self.read():
                digest.update(hashlib.sha256(document.id.encode()).digest())
                text = hashlib.sha256()
                for part in document.parts():
                    text.update(part.encode(errors="surrogatepass"))
                digest.update(text.digest())
        return digest.hexdigest()

    @staticmethod
    def from_texts(texts: list[str], name: str = "text") -> "Corpus":
        """Make a corpus of texts: document `i` has the id `name:i`."""
        documents = [Document(f"{name}:{i}", text) for i, text in enumerate(texts)]
        return Corpus(name, partial(iter, documents), holds_out=len(documents) >= HELD_OUT_ONE_IN)


def _shuffled(documents: Iterator[Document], seed: int) -> Iterator[Document]:
    while several := list(itertools.islice(documents, SHUFFLED_AT_ONCE)):
        yield from sorted(several, key=lambda d: hashlib.sha256(f"{seed}:{d.id}".encode(errors="replace")).digest())


def is_held_out(document_id: str) -> bool:
    """Return True if a document is kept from training, by a hash of its id: the same on every machine."""
    return int.from_bytes(hashlib.sha256(document_id.encode()).digest()[:8], "big") % HELD_OUT_ONE_IN == 0


def open_corpus(
    spec: str,
    *,
    text_field: str = "text",
    config: str | None = None,
    split: str = "train",
    revision: str | None = None,
    rules: Rules = NEWEST,
) -> Corpus:
    """Open the corpus that `spec` names: `python-docs`, a file or folder, or else a Hub data set id.

    `text_field` is the column or key that holds the text of tables (.jsonl, .json, .csv, .parquet) and Hub rows;
    `config`, `split` and `revision` choose within a Hub data set; `rules` are those of an earlier itda, for the corpora
    of its runs. Raises `CorpusError` if there is nothing to read.
    """
    path = Path(spec).expanduser()
    if spec == "python-docs":
        note = "python-docs is the documentation of this Python; the folder of that name here is ./python-docs"
        return replace(python_docs(), notes=(note,) if path.exists() else ())
    if spec and path.exists():
        return _from_files(path, text_field, rules)
    looks_local = path.is_absolute() or spec.startswith((".", "~")) or kind_of(path) is not None
    if looks_local or spec.count("/") > 1 or not spec:
        raise CorpusError(f"no file or folder {spec!r}: check the path, or use --corpus python-docs")
    return _from_hub(spec, text_field, config, split, revision)


def python_docs(*, tests: bool = False) -> Corpus:
    """Open the language reference's topics (`pydoc_data`) and the standard library's source, of the running Python.

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


def _from_files(path: Path, text_field: str, rules: Rules) -> Corpus:
    found = find(path, text_field, rules)
    read = partial(found.documents, text_field)
    few = found.are_texts and len(found.files) < HELD_OUT_ONE_IN
    if not few and len(found.files) < HELD_OUT_ONE_IN:  # tables: count rows, but no more than are needed
        few = sum(1 for _ in zip(read(), range(HELD_OUT_ONE_IN), strict=False)) < HELD_OUT_ONE_IN
    return Corpus(str(path), read, holds_out=not few, rules=rules, notes=tuple(found.notes))


def _from_hub(spec: str, text_field: str, config: str | None, split: str, revision: str | None) -> Corpus:
    from itda.sources.corpora.hub_rows import find_set

    found = find_set(spec, text_field, config, split, revision)
    # The revision pins every row, so the texts need not be read to know what they are.
    identity = f"hub:{spec}@{found.commit}/{config}/{split}/{text_field}"
    note = f"the Hub cannot be reached: {spec} is read as it was kept on this machine, at {found.commit[:8]}"
    return Corpus(spec, found.read, identity=identity, revision=found.commit, notes=(note,) if found.cached else ())
