"""Upload a folder to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from itda.store.hub import hub_error


def upload(folder: Path, repo_id: str, message: str, *, private: bool | None, token: str | None) -> str:
    """Upload a folder, in a repository that is made if there is none; return the address of the commit.

    `message` is the commit's. Raises `StoreError` if that fails.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message)
    except Exception as error:  # the HTTP library's own errors, which change from release to release
        raise hub_error(error, f"cannot push to {repo_id}") from error
    return str(commit.commit_url)
