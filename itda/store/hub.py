"""Run folders and dictionaries on the Hugging Face Hub: copies of what is there, and errors in one line."""

from __future__ import annotations

import json
from pathlib import Path

from itda.errors import StoreError
from itda.files import DICTIONARY_FILES, FILES_THAT_MAY_LACK, first_line

RUN_FILES = ("run.json", "tokens.parquet", "replication.json", "README.md")
"""Files of a run beside its dictionaries that go to the Hub and come back."""
SITE_FILES = (*DICTIONARY_FILES, *FILES_THAT_MAY_LACK, "metrics.json")
"""Files of each dictionary that do."""
AGAIN = "the same command goes on from here"


def is_repository(name: str) -> bool:
    """Return True for a name such as user/name or user/name@revision, unless a folder of that user's name is here.

    >>> is_repository("someone/atoms"), is_repository("someone/atoms@v1"), is_repository("./atoms"), is_repository("a")
    (True, True, False, False)
    """
    return name.count("/") == 1 and all(name.split("/")) and name[0] not in "./~" and not Path(name).parent.exists()


def local_run(path: Path, *, index: bool = False, or_fingerprint: bool = False) -> Path:
    """Return the folder of a run: the path itself, or a copy of the run that a name such as user/name has on the Hub.

    The copy is in the cache of huggingface_hub, and is not fetched twice; its code index comes with `index` alone. With
    `or_fingerprint` the name of a repository without a run is returned as it is. Raises `StoreError`.
    """
    if path.exists() or not is_repository(str(path)):
        return path
    found = _fetched_run(str(path), index)
    if found is None and not or_fingerprint:
        raise StoreError(f"{path} on the Hub holds no run (no run.json): name one that `itda push` made")
    return found if found is not None else path


def _fetched_run(name: str, index: bool) -> Path | None:
    """Return the folder of the copy of a run on the Hub; None if the repository has no run."""
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    repo_id, _, revision = name.partition("@")
    wanted = [*RUN_FILES, *(f"layer_*/{file}" for file in SITE_FILES), *(["index/*"] if index else [])]
    try:
        record = Path(hf_hub_download(repo_id, "run.json", revision=revision or None))
        # By the commit of run.json: all of one state, even while somebody pushes the next one.
        return Path(snapshot_download(repo_id, revision=record.parent.name, allow_patterns=wanted))
    except RemoteEntryNotFoundError:
        return None
    except Exception as error:  # the HTTP library's own errors, which change from release to release
        raise hub_error(error, f"no run folder {name} here, and it cannot be read from the Hub") from error


def download_dictionary(source: str, revision: str | None) -> Path:
    """Return a copy of a dictionary on the Hub: of user/name, or of one site of a run there, user/name/layer_4.

    Raises `StoreError` for a name that is none, a run of several sites, and what cannot be had.
    """
    parts = source.split("/")
    if len(parts) not in (2, 3) or source[0] in "./~" or not all(parts):
        raise StoreError(
            f"no folder {source}: check the path, or name a Hub repository as user/name, a run's site as "
            "user/name/layer_3"
        )
    repo_id, inside = "/".join(parts[:2]), "/".join(parts[2:])
    found = _snapshot(repo_id, inside, revision)
    if inside or (found / "config.json").exists() or not (found / "run.json").exists():
        return found / inside
    sites = json.loads((found / "run.json").read_text(encoding="utf-8")).get("sites", [])
    if len(sites) != 1:
        names = ", ".join(map(str, sites))
        raise StoreError(f"{repo_id} is a run of several dictionaries ({names}): name one, as {repo_id}/{sites[0]}")
    return _snapshot(repo_id, sites[0], revision) / sites[0]


def _snapshot(repo_id: str, inside: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    files = [*DICTIONARY_FILES, *FILES_THAT_MAY_LACK]
    wanted = [f"{inside}/{file}" for file in files] if inside else [*files, "run.json"]
    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=wanted))
    except Exception as error:  # the HTTP library's own errors, which change from release to release
        raise hub_error(error, f"no folder {repo_id}, and it cannot be read from the Hub") from error


def hub_error(error: BaseException, what: str, *, again: str = "try again later") -> StoreError:
    """Return a `StoreError` "WHAT (REASON): REMEDY", the remedy by what the Hub answered; `again` is for a busy one.

    >>> hub_error(TimeoutError("timed out"), "cannot push to a/b", again="run it again")
    StoreError('cannot push to a/b (timed out): check the name, the network and `hf auth whoami`, and run it again')
    """
    # Where nothing is in the cache, what the Hub answered is the cause of the error.
    while error.__cause__ is not None and getattr(error, "response", None) is None:
        error = error.__cause__
    status = getattr(getattr(error, "response", None), "status_code", None)
    reason = first_line(error).partition(" (Request ID")[0].partition(" for url")[0]
    if status is not None and str(status) not in reason:
        reason = f"{status}: {reason}"
    if type(error).__name__ == "OfflineModeIsEnabled":
        remedy = "unset HF_HUB_OFFLINE, or bring the folder"
    elif status == 401:
        remedy = "check the name, and log in with `hf auth login` or set HF_TOKEN"
    elif status == 413:
        remedy = "it is too large for the Hub, leave something out"
    elif status == 429:
        remedy = f"that was too often for the Hub, wait some minutes, and {again}"
    elif status is not None and status >= 500:
        remedy = f"the Hub is in trouble, wait a little, and {again}"
    elif status is not None:
        remedy = "check the name, the network and `hf auth whoami`"
    else:
        remedy = f"check the name, the network and `hf auth whoami`, and {again}"
    return StoreError(f"{what} ({reason}): {remedy}")
