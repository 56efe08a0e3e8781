"""`itda push`: a run folder on the Hugging Face Hub, with a card of its figures, and a picture.

What goes there is the run as it is, but for absolute paths, which are cut to their last names: nobody else has them.
Files are sent in groups, and run.json with the last of them: a push that is stopped leaves no run that looks whole.
What the Hub has already is not sent again, so that the same command goes on where it was stopped.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from itda import config as settings
from itda.bridges.hub_card import draw, has_matplotlib, run_card
from itda.errors import StoreError
from itda.recipes.runs import Bar, Say, no_bar, unsaid
from itda.store.hub import AGAIN, RUN_FILES, SITE_FILES, hub_error
from itda.store.records import RunRecord, open_record

GROUP = 256 * 2**20
"""Bytes of files that go into one commit, at least, if there are so many."""
PICTURE = "figures.png"


@dataclass(frozen=True)
class SharedFile:
    """A file that goes to the Hub."""

    name: str
    """Its path in the repository."""
    content: Path | bytes
    """Where it is, or what is in it."""

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size


@dataclass(frozen=True)
class Pushed:
    """What was sent, or with `--dry-run` would be."""

    to: str
    """The repository, or other place."""
    files: Sequence[SharedFile]
    address: str | None
    """The address of the last commit; None of a dry run."""


def push_run(options: settings.Push, bar: Bar = no_bar, say: Say = unsaid) -> Pushed:
    """`itda push RUN user/name`: upload a run to the Hub, in a repository that is made if there is none.

    `say` is told what the user should know. Raises an `ItdaError` for bad input and for whatever the Hub refuses.
    """
    run = open_record(options.run)
    with TemporaryDirectory() as temporary:
        picture = _picture(run, Path(temporary) / PICTURE, say)
        files = shared_files(run, options.repository, picture=picture, index=options.index)
        pushed = Pushed(options.repository, files, None)
        if options.dry_run:
            return pushed
        return replace(pushed, address=_uploaded(options, files, bar))


def _picture(run: RunRecord, path: Path, say: Say) -> bytes | None:
    """Return the picture of the card, if matplotlib is there."""
    if not has_matplotlib():
        say("the card has no picture, because matplotlib is not installed: pip install 'itda[plots]'")
        return None
    if not any(summary.metrics for summary in run.summaries().values()):
        say(f"the run was not evaluated, so the card has few figures: run itda evaluate {run.folder}, and push again")
    draw(run, path)
    return path.read_bytes()


def shared_files(run: RunRecord, repository: str, *, picture: bytes | None, index: bool) -> list[SharedFile]:
    """Return the files of a run that go to a repository: dictionaries first, run.json and the card last.

    Raises `StoreError` if the code index is asked for and is not there.
    """
    names = _private_names(run)
    found = [
        SharedFile(f"{folder.name}/{name}", _public(folder / name, names))
        for folder in run.sites.values()
        for name in SITE_FILES
        if (folder / name).exists()
    ]
    if index:
        folder = run.folder / "index"
        if not (folder / "index.json").exists():
            raise StoreError(f"{run.folder} has no index: make one with itda index {run.folder}, or leave out --index")
        inside = sorted(path for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")
        found += [SharedFile(path.relative_to(run.folder).as_posix(), _public(path, names)) for path in inside]
    card = run_card(run, repository, picture=PICTURE if picture is not None else None)
    if picture is not None:
        found.append(SharedFile(PICTURE, picture))
    found += [
        SharedFile(name, _public(run.folder / name, names))
        for name in reversed(RUN_FILES)
        if name != "README.md" and (run.folder / name).exists()
    ]
    return [*found, SharedFile("README.md", _cut(card, names).encode())]


def _private_names(run: RunRecord) -> dict[str, str]:
    """Return the absolute paths that the run's records name, and what stands for each: its last name."""
    found: dict[str, str] = {}

    def look(value: Any) -> None:
        if isinstance(value, dict):
            for each in value.values():
                look(each)
        elif isinstance(value, list):
            for each in value:
                look(each)
        elif isinstance(value, str) and Path(value).is_absolute() and Path(value).name:
            found[value] = Path(value).name

    look(dict(run.record))
    for summary in run.summaries().values():
        look(dict(summary.config))
        look(dict(summary.metrics or {}))
    return dict(sorted(found.items(), key=lambda item: -len(item[0])))  # the longest first: one may begin another


def _public(path: Path, names: dict[str, str]) -> Path | bytes:
    """Return a file as it is, or, of text that names private paths, its text without them."""
    if path.suffix not in (".json", ".md"):
        return path
    text = path.read_text(encoding="utf-8")
    cut = _cut_json(text, names) if path.suffix == ".json" else _cut(text, names)
    return path if cut == text else cut.encode()


def _cut(text: str, names: dict[str, str]) -> str:
    for private, name in names.items():
        text = text.replace(private, name)
    return text


def _cut_json(text: str, names: dict[str, str]) -> str:
    """Cut paths in JSON, in which they may be written otherwise (\\u00e9)."""

    def cut(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: cut(each) for key, each in value.items()}
        if isinstance(value, list):
            return [cut(each) for each in value]
        return names.get(value, value) if isinstance(value, str) else value

    value = json.loads(text)
    public = cut(value)
    return text if public == value else json.dumps(public, indent=2, allow_nan=False) + "\n"


def _uploaded(options: settings.Push, files: Sequence[SharedFile], bar: Bar) -> str:
    """Send the files, group by group; return the address of the last commit. Raises `StoreError`."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    api, repo_id, address = HfApi(), options.repository, ""
    try:
        api.create_repo(repo_id, private=options.private or None, exist_ok=True)
        old = stale(api.list_repo_files(repo_id), files)
        with bar("push", sum(each.size for each in files)) as progress, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*commit a data file.*")  # labels are tables in any repository
            groups = list(_groups(files))
            for number, group in enumerate(groups):
                last = number == len(groups) - 1
                operations: list[Any] = [
                    CommitOperationAdd(path_in_repo=each.name, path_or_fileobj=each.content) for each in group
                ]
                operations += [CommitOperationDelete(path_in_repo=name) for name in old if last]
                message = "Upload an ITDA run" + ("" if last else f", part {number + 1} of {len(groups)}")
                address = str(api.create_commit(repo_id, operations, commit_message=message).commit_url)
                progress.update(sum(each.size for each in group))
    except Exception as error:  # the HTTP library's own errors, which change from release to release
        raise hub_error(error, f"cannot push to {repo_id}", again=AGAIN) from error
    return address


def _groups(files: Sequence[SharedFile]) -> Iterator[list[SharedFile]]:
    """Yield files in groups of `GROUP` bytes or more, in their order; what is left joins the last one."""
    group: list[SharedFile] = []
    left = sum(each.size for each in files)
    for each in files:
        group.append(each)
        left -= each.size
        if sum(one.size for one in group) >= GROUP and left >= GROUP:
            yield group
            group = []
    yield group


def stale(there: Sequence[str], files: Sequence[SharedFile]) -> list[str]:
    """Return the files of an earlier run in a repository that this one does not replace; files of others stay.

    >>> new = [SharedFile("layer_2/config.json", b""), SharedFile("run.json", b"")]
    >>> stale(["run.json", "layer_2/config.json", "layer_4/config.json", "layer_4/mine.txt", "notes.md"], new)
    ['layer_4/config.json']
    """
    kept = {each.name for each in files}
    ours = (
        name
        for name in there
        if (PurePosixPath(name).match("layer_*/*") and PurePosixPath(name).name in SITE_FILES)
        or name in (*RUN_FILES, PICTURE)
        # An index that this push does not bring may still be that of these dictionaries: it says itself of which.
        or (name.startswith("index/") and any(new.startswith("index/") for new in kept))
    )
    return [name for name in ours if name not in kept]
