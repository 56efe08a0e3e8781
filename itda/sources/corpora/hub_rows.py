"""Data sets of the Hugging Face Hub, and copies of them that `datasets` has kept on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from itda.errors import CorpusError
from itda.sources.corpora.document import Document
from itda.sources.corpora.text_files import text_of


@dataclass(frozen=True)
class HubSet:
    """A data set at one commit."""

    commit: str
    """The commit on the Hub."""
    read: Callable[[], Iterator[Document]]
    """Reads the documents from the first row on."""
    cached: bool = False
    """True if a copy on this machine is read, since the Hub cannot be reached."""


def find_set(spec: str, text_field: str, config: str | None, split: str, revision: str | None) -> HubSet:
    """Find the data set of an id. Raises `CorpusError` if there is none on the Hub, nor a copy here."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        commit = HfApi().dataset_info(spec, revision=revision).sha
    except RepositoryNotFoundError as error:
        raise CorpusError(
            f"no file, folder or Hub data set {spec!r}: check the spelling, or `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise CorpusError(f"{spec} has no revision {revision!r}: check --dataset-revision") from error
    except Exception as error:  # the HTTP library's own errors, which change from release to release
        kept = _kept(spec, config, revision)
        if kept is None:
            raise CorpusError(
                f"no file or folder {spec!r}, and the Hub cannot be reached: check the network, or use python-docs"
            ) from error
        read = partial(_documents, partial(kept.as_streaming_dataset, split=split), spec, text_field, split)
        return HubSet(str(kept.hash), read, cached=True)
    return HubSet(str(commit), partial(read_hub_rows, spec, text_field, config, split, commit))


def read_hub_rows(
    path: str, text_field: str, config: str | None, split: str, revision: str | None
) -> Iterator[Document]:
    """Stream the rows of a data set that `datasets.load_dataset` knows: document `path/split:row`."""
    from datasets import load_dataset

    load = partial(load_dataset, path, config, split=split, revision=revision, streaming=True)
    return _documents(load, path, text_field, split)


def _documents(load: Callable[[], Any], path: str, text_field: str, split: str) -> Iterator[Document]:
    try:
        for number, row in enumerate(load()):
            yield Document(f"{path}/{split}:{number}", text_of(row, text_field, f"{path}, row {number}"))
    except CorpusError:
        raise
    except Exception as error:  # the HTTP library's own errors too
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CorpusError(f"cannot read the data set {path} ({reason}): check its name, config and split") from error


def _kept(spec: str, config: str | None, revision: str | None) -> Any:
    """Find the copy that `datasets` keeps of a data set that was loaded before; None if there is none.

    A copy is known by its commit alone, so of revisions only a commit, or the newest, can be found.
    """
    try:
        from datasets import logging
        from datasets.packaged_modules.cache.cache import Cache

        before = logging.get_verbosity()
        logging.set_verbosity_error()  # it warns that the copy is used, which a note of ours says too
        try:
            name = spec.rpartition("/")[2]
            kept = Cache(repo_id=spec, dataset_name=name, config_name=config, version="auto", hash="auto")
        finally:
            logging.set_verbosity(before)
    except Exception:  # there is no copy, or another release keeps copies in another way
        return None
    return kept if revision in (None, "main", kept.hash) else None
