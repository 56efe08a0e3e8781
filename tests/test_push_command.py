"""`itda push` and runs on the Hub, with huggingface_hub's own client and a server on this machine."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from hub_server import point_to, serving
from test_at_once import run  # noqa: F401 - the fixture

import itda
from itda import ITDA
from itda.cli import main
from itda.files import read_json, write_json

REPO = "someone/atoms"
# The client sends commits in a way that its HTTP library calls old.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr("itda.bridges.hub.has_matplotlib", lambda: False)  # a second for each picture
    with serving() as made:
        point_to(made, tmp_path / "cache", monkeypatch)
        yield made


def printed(capsys, *arguments: str) -> str:
    main(list(arguments))
    return capsys.readouterr().out


def refused(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    output, error = capsys.readouterr()
    assert (stop.value.code, output, error.count("\n"), error[:6]) == (2, "", 1, "itda: ")
    return error


def test_a_run_that_was_pushed_is_read_by_its_name(run, hub, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setattr("itda.bridges.hub.has_matplotlib", lambda: True)
    said = printed(capsys, "push", str(run), REPO, "--private", "--quiet")
    assert f"{hub.address}/{REPO}/commit/" in said
    assert hub.private[REPO]
    assert {"run.json", "layer_2/config.json", "layer_4/labels.parquet", "figures.png"} <= set(hub.files(REPO))
    here, there = (json.loads(printed(capsys, "info", name, "--json")) for name in (str(run), REPO))
    assert here["dictionaries"] == there["dictionaries"]
    before, after = ITDA.from_pretrained(run / "layer_4"), ITDA.from_pretrained(f"{REPO}/layer_4")
    assert torch.equal(before.atoms, after.atoms)
    assert before.labels.keys() == after.labels.keys()
    assert list(itda.open_run(REPO).sites) == list(itda.open_run(run).sites)
    with pytest.raises(itda.ItdaError, match=r"several dictionaries \(layer_2, layer_4\): name one"):
        ITDA.from_pretrained(REPO)


def test_the_environment_names_the_hub_for_a_command_too(run, hub, tmp_path):  # noqa: F811
    itda.push(run, REPO, progress=False)
    made = subprocess.run(
        [sys.executable, "-m", "itda.cli", "info", REPO],
        env={**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"},
        capture_output=True,
        text=True,
    )
    assert (made.returncode, made.stderr) == (0, "")
    assert "layer_4" in made.stdout


def test_a_dry_run_lists_all_that_would_go_and_asks_nobody(run, hub, capsys):  # noqa: F811
    said = printed(capsys, "push", str(run), REPO, "--dry-run", "--quiet")
    assert "Nothing was sent" in said
    assert not hub.commits
    pushed = itda.push(run, REPO, progress=False)
    assert [line.split()[0] for line in said.splitlines()[2:-2]] == [each.name for each in pushed.files]
    assert {each.name: each.size for each in pushed.files} == {n: len(c) for n, c in hub.files(REPO).items()}


def test_no_path_of_this_machine_is_pushed(run, hub, tmp_path):  # noqa: F811
    import shutil

    copy = shutil.copytree(run, tmp_path / "copy")
    record = json.loads((copy / "run.json").read_text())
    record |= {"model": str(tmp_path / 'möd"el'), "corpus": str(tmp_path / "texts")}
    record["settings"]["out"] = str(copy)
    write_json(copy / "run.json", record)
    itda.push(copy, REPO, progress=False)
    for name, content in hub.files(REPO).items():
        assert str(tmp_path).encode() not in content, name
    pushed = json.loads(hub.files(REPO)["run.json"])
    assert (pushed["model"], pushed["corpus"], pushed["settings"]["out"]) == ('möd"el', "texts", "copy")
    assert record["model"] == read_json(copy / "run.json", "itda-run")["model"]


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (401, "log in with `hf auth login`"),
        (403, "check the name"),
        (413, "too large for the Hub"),
        (429, "wait some minutes, and the same command goes on"),
        (500, "wait a little, and the same command goes on"),
        (0, "check the name, the network and `hf auth whoami`, and the same command goes on"),
    ],
)
@pytest.mark.parametrize("where", ["create", "commit"])
def test_a_hub_that_refuses_is_one_line_and_nothing_is_lost(run, hub, capsys, status, remedy, where):  # noqa: F811
    hub.fault = lambda _method, path: status if where in path else None
    error = refused(capsys, "push", str(run), REPO, "--quiet")
    assert f"cannot push to {REPO} (" in error
    assert remedy in error
    assert not status or str(status) in error
    hub.fault = lambda _method, _path: None
    sent = dict(hub.puts)
    printed(capsys, "push", str(run), REPO, "--quiet")
    assert "run.json" in hub.files(REPO)
    assert {each: hub.puts[each] for each in sent} == sent  # nothing was sent again
    assert where == "create" or sent


def test_a_push_in_parts_goes_on_where_it_was_stopped(run, hub, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr("itda.bridges.hub.GROUP", 1000)
    commits = 0

    def third(_method: str, path: str) -> int | None:
        nonlocal commits
        commits += "/commit/" in path
        return 500 if commits > 2 else None

    hub.fault = third
    refused(capsys, "push", str(run), REPO, "--quiet")
    assert len(hub.commits[REPO]) == 3  # the empty one and two parts
    assert "run.json" not in hub.files(REPO)
    hub.fault = lambda _method, _path: None
    sent = dict(hub.puts)
    assert "holds no run" in refused(capsys, "info", REPO)
    printed(capsys, "push", str(run), REPO, "--quiet")
    assert {each: hub.puts[each] for each in sent} == sent
    assert "layer_2" in (text := printed(capsys, "info", REPO))
    assert text.startswith(f"{REPO}: ")  # and not by the folder of the copy


def test_pushed_again_only_what_changed_is_sent_and_what_is_gone_is_removed(run, hub, tmp_path):  # noqa: F811
    import shutil

    copy = shutil.copytree(run, tmp_path / "copy")
    itda.push(copy, REPO, progress=False)
    first = len(hub.commits[REPO])
    itda.push(copy, REPO, progress=False)
    assert len(hub.commits[REPO]) == first  # no empty commit
    hub.files(REPO)["notes.md"] = b"mine"
    record = json.loads((copy / "run.json").read_text())
    write_json(copy / "run.json", {**record, "sites": ["layer_4"]})
    itda.push(copy, REPO, progress=False)
    assert "notes.md" in hub.files(REPO)
    assert not [name for name in hub.files(REPO) if name.startswith("layer_2/")]
    assert len(ITDA.from_pretrained(REPO)) == 4  # of one site, the name of the repository is enough


@pytest.mark.parametrize("status", [401, 404, 429, 500, 0])
def test_a_hub_that_does_not_give_a_run_is_one_line(hub, capsys, status):
    hub.fault = lambda _method, _path: status
    error = refused(capsys, "info", REPO)
    assert f"no run folder {REPO} here, and it cannot be read from the Hub (" in error
    assert not status or str(status) in error


def test_a_repository_without_a_run_says_so(hub, capsys):
    hub.commits[REPO] = [{}]
    assert "holds no run (no run.json)" in refused(capsys, "info", REPO)


class StubApi:
    """`HfApi` as far as a push calls it."""

    calls: ClassVar[list[tuple[str, dict]]] = []

    def create_repo(self, repo_id, *, private, exist_ok):
        self.calls.append(("create_repo", {"repo_id": repo_id, "private": private, "exist_ok": exist_ok}))

    def list_repo_files(self, repo_id):
        return ["layer_9/config.json", "layer_9/mine.txt", "index/index.json"]

    def create_commit(self, repo_id, operations, *, commit_message):
        self.calls.append((commit_message, {operation.path_in_repo: type(operation) for operation in operations}))
        return SimpleNamespace(commit_url="https://hub.example/commit/1")


def test_what_the_api_is_asked_for(run, monkeypatch):  # noqa: F811
    monkeypatch.setattr("huggingface_hub.HfApi", StubApi)
    pushed = itda.push(run, REPO, private=True, progress=False)
    (kind, created), (message, operations) = StubApi.calls
    assert pushed.address == "https://hub.example/commit/1"
    assert (kind, created) == ("create_repo", {"repo_id": REPO, "private": True, "exist_ok": True})
    assert message == "Upload an ITDA run"
    added = [name for name, operation in operations.items() if operation.__name__ == "CommitOperationAdd"]
    assert added == [each.name for each in pushed.files]
    assert added[-2:] == ["run.json", "README.md"]
    assert set(operations) - set(added) == {"layer_9/config.json"}


def test_slips_are_refused_before_the_hub_is_asked(run, hub, capsys, tmp_path):  # noqa: F811
    assert "name one as user/name" in refused(capsys, "push", str(run))
    assert "name one as user/name" in refused(capsys, "push", str(run), "../x")
    assert "no run folder" in refused(capsys, "push", str(tmp_path / "none"), REPO)
    assert "has no index: make one with itda index" in refused(capsys, "push", str(run), REPO, "--index", "--quiet")
    assert not hub.asked
