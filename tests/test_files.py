"""Durable files: the old one or the new one, whatever fails; and nobody else writes them."""

import ast
import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import itda
from itda import files
from itda.errors import StoreError
from itda.files import (
    damage_of,
    empty_folder,
    explained,
    finish_replacing,
    hidden,
    locked,
    new_folder,
    remove_folder,
    replace_folder,
    replaced_folder,
    sha256_of,
    whole_file,
    whole_folder,
    write_json,
    write_whole,
)

PACKAGE = Path(itda.__file__).parent
OLD, NEW = b"the old one", b"the new one, which is longer"


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def failing(monkeypatch: pytest.MonkeyPatch, at: int) -> list[str]:
    """Let call number `at` to the system fail as on a full disk; returns the names of the calls so far."""
    calls: list[str] = []

    def wrapped(owner: object, name: str) -> None:
        real = getattr(owner, name)

        def call(*arguments: object, **options: object) -> object:
            calls.append(name)
            if len(calls) - 1 == at:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*arguments, **options)

        monkeypatch.setattr(owner, name, call)

    for name in ("fsync", "replace", "rename", "stat", "chmod", "mkdir"):
        wrapped(os, name)
    for name in ("write_bytes", "open"):
        wrapped(Path, name)
    return calls


def write_with(path: Path, content: bytes) -> None:
    with whole_file(path, synced=True) as partial:
        partial.write_bytes(content)


WAYS = {
    "bytes": lambda path: write_whole(path, NEW, synced=True),
    "alone": lambda path: write_whole(path, NEW, alone=True, synced=True),
    "not synced": lambda path: write_whole(path, NEW),
    "with": lambda path: write_with(path, NEW),
}


@pytest.mark.parametrize("write", WAYS.values(), ids=WAYS)
def test_whatever_call_fails_the_old_file_or_the_new_one_is_there_and_nothing_else(tmp_path, write):
    for at in range(100):
        (tmp_path / "file").write_bytes(OLD)
        with pytest.MonkeyPatch.context() as patch, suppress(OSError):
            calls = failing(patch, at)
            write(tmp_path / "file")
        found = contents(tmp_path)
        if len(calls) <= at:  # it made fewer calls than that: all of them failed in turn
            assert found == {"file": NEW}
            break
        assert list(found) == ["file"]
        # The name may not be on the disk yet where syncing the folder failed.
        assert found["file"] == (NEW if calls[-1] == "fsync" and calls.count("fsync") == 2 else OLD), calls
    assert 4 <= at < 100


@given(old=st.none() | st.binary(max_size=30), new=st.binary(max_size=30), written=st.integers(0, 30))
@settings(max_examples=40)
def test_an_exception_within_the_block_leaves_what_was_there(tmp_path_factory, old, new, written):
    folder = tmp_path_factory.mktemp("file")
    if old is not None:
        (folder / "file").write_bytes(old)
    before = contents(folder)
    for kind in (KeyboardInterrupt, ValueError):
        with pytest.raises(kind), whole_file(folder / "file") as partial:  # noqa: PT012
            partial.write_bytes(new[:written])
            raise kind
        assert contents(folder) == before
    write_whole(folder / "file", new)
    assert contents(folder) == {"file": new}


def killed_at(tmp_path: Path, number: int, code: str) -> bool:
    """Run code in a child that dies by SIGKILL before its call `number` to the system; False if it made fewer."""
    child = os.fork()
    if child == 0:
        try:
            calls = iter(range(10**6))

            def deadly(real):
                def call(*arguments, **options):
                    if next(calls) == number:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return real(*arguments, **options)

                return call

            for name in ("fsync", "replace", "rename", "rmdir", "unlink", "mkdir"):
                setattr(os, name, deadly(getattr(os, name)))
            exec(code, {**vars(files), "folder": tmp_path, "NEW": NEW})
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("alone", [True, False])
def test_a_process_killed_anywhere_leaves_the_old_file_or_the_new_one(tmp_path, alone):
    for number in range(20):
        (tmp_path / "file").write_bytes(OLD)
        died = killed_at(tmp_path, number, f"write_whole(folder / 'file', NEW, alone={alone}, synced=True)")
        assert (tmp_path / "file").read_bytes() in ((OLD, NEW) if died else (NEW,))
        if not died:
            break
    assert number > 3
    left = [name for name in contents(tmp_path) if name != "file"]
    assert all(name.startswith(".file.") for name in left)
    if alone:  # what the killed ones left was written over and renamed
        assert left == []


def test_a_process_killed_anywhere_leaves_the_old_folder_or_the_new_one(tmp_path):
    code = """
        with replaced_folder(folder / "run") as partial:
            (partial / "file").write_bytes(NEW)
    """
    for number in range(40):
        empty_folder(tmp_path / "run")
        (tmp_path / "run" / "file").write_bytes(OLD)
        died = killed_at(tmp_path, number, textwrap.dedent(code))
        finish_replacing(tmp_path / "run")
        assert contents(tmp_path / "run") in (({"file": OLD}, {"file": NEW}) if died else ({"file": NEW},))
        if not died:
            break
    assert number > 5
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_process_killed_anywhere_leaves_a_new_folder_whole_or_not_at_all(tmp_path):
    code = """
        with new_folder(folder / "run") as partial:
            (partial / "one").write_bytes(NEW)
            (partial / "two").write_bytes(NEW)
    """
    for number in range(40):
        if (tmp_path / "run").exists():
            remove_folder(tmp_path / "run")
        if not killed_at(tmp_path, number, textwrap.dedent(code)):
            break
        assert not (tmp_path / "run").exists() or contents(tmp_path / "run") == {"one": NEW, "two": NEW}
    assert number > 1
    assert contents(tmp_path / "run") == {"one": NEW, "two": NEW}


def test_a_failure_leaves_neither_a_new_folder_nor_a_hidden_one(tmp_path):
    empty_folder(tmp_path / "old")
    for make in (new_folder, whole_folder, replaced_folder):
        with pytest.raises(ValueError, match="mine"), make(tmp_path / "run") as partial:  # noqa: PT012
            (partial / "file").touch()
            raise ValueError("mine")
        assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_a_folder_that_appears_meanwhile_is_kept(tmp_path):
    with pytest.raises(StoreError, match="appeared while this ran"), new_folder(tmp_path / "run"):  # noqa: PT012
        empty_folder(tmp_path / "run")
        (tmp_path / "run" / "file").write_bytes(OLD)
    assert contents(tmp_path) == {"run/file": OLD}


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(StoreError, match=r"cannot write beside .*file/run \(.*\): name a folder that can be"),
        new_folder(tmp_path / "file" / "run"),
    ):
        pass


def test_replacing_puts_the_new_folder_in_place_and_removing_leaves_nothing(tmp_path):
    for content in (OLD, NEW):
        empty_folder(tmp_path / "whole")
        (tmp_path / "whole" / "file").write_bytes(content)
        replace_folder(tmp_path / "whole", tmp_path / "run")
        assert contents(tmp_path) == {"run/file": content}
    (tmp_path / ".run.old").mkdir()  # from a process that was killed
    (tmp_path / ".run.old" / "file").touch()
    remove_folder(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_have_the_mode_that_open_gives_them_whatever_library_wrote_them(tmp_path, umask):
    before = os.umask(umask)
    try:
        (tmp_path / "plain").touch()
        (tmp_path / "folder").mkdir()
        write_whole(tmp_path / "bytes", NEW)
        write_json(tmp_path / "json", {})
        with whole_file(tmp_path / "tensors") as partial:
            save_file({"x": torch.ones(3)}, partial)
        with new_folder(tmp_path / "new"):
            pass
    finally:
        os.umask(before)
    for name in ("bytes", "json", "tensors"):
        assert (tmp_path / name).stat().st_mode == (tmp_path / "plain").stat().st_mode, name
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "folder").stat().st_mode


def test_many_writers_at_once_leave_the_whole_file_of_one(tmp_path):
    path, errors = tmp_path / "file", []
    possible = [bytes([number]) * 5000 for number in range(8)]

    def write(content: bytes) -> None:
        try:
            for _ in range(30):
                write_whole(path, content)
                assert path.read_bytes() in possible
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(content,)) for content in possible]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert list(contents(tmp_path)) == ["file"]


def test_processes_that_write_at_once_leave_a_whole_file(tmp_path):
    code = """
        import sys
        from pathlib import Path
        from itda.files import write_json
        for _ in range(200):
            write_json(Path(sys.argv[1]), {"written by": sys.argv[2] * 2000})
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "file")]
    writers = [subprocess.Popen([*command, name]) for name in "ab"]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert (tmp_path / "file").read_text() in ['{\n  "written by": "' + name * 2000 + '"\n}\n' for name in "ab"]
    assert list(contents(tmp_path)) == ["file"]


def test_a_lock_keeps_others_out_until_it_is_left_or_its_process_is_gone(tmp_path):
    with locked(tmp_path, "made"):
        with pytest.raises(StoreError, match="is being made by another process"), locked(tmp_path, "made"):
            pass
        with pytest.raises(StoreError), locked(tmp_path, "made"):  # who was refused took nothing away
            pass
    code = "import os, sys; from pathlib import Path; from itda.files import locked; "
    code += "stack = locked(Path(sys.argv[1]), 'made'); stack.__enter__(); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == -9
    with locked(tmp_path, "made"):
        pass


def test_an_error_of_the_system_is_one_line_and_others_pass():
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(StoreError, match=r"^cannot write x \(No space left on device\): free some$"):
        raise_within(full)
    with pytest.raises(StoreError, match="it is full"):
        raise_within(full, full="it is full")
    with pytest.raises(StoreError, match="Permission denied"):
        raise_within(PermissionError(errno.EACCES, "Permission denied"), full="it is full")
    for error in (ValueError("mine"), StoreError("known already"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught:
            raise_within(error)
        assert caught.value is error


def raise_within(error: BaseException, full: str | None = None) -> None:
    with explained("write x", "free some", full=full):
        raise error


@given(content=st.binary(min_size=1, max_size=40), place=st.integers(0, 39), bit=st.integers(0, 7))
@settings(max_examples=40)
def test_any_damage_is_told(tmp_path_factory, content, place, bit):
    path = tmp_path_factory.mktemp("check") / "file"
    path.write_bytes(content)
    size, sha256 = len(content), sha256_of(path)
    assert damage_of(path, size, sha256) is None
    damaged = bytearray(content)
    damaged[place % size] ^= 1 << bit
    path.write_bytes(damaged)
    assert damage_of(path, size) is None
    assert damage_of(path, size, sha256) == "has changed since it was written (its SHA-256)"
    path.write_bytes(content[:-1])
    assert damage_of(path, size, sha256) == f"has {size - 1} bytes, not {size}"
    path.unlink()
    assert damage_of(path, size, sha256) == "is missing"
    path.mkdir()
    assert damage_of(path, path.stat().st_size, sha256) == "cannot be read (Is a directory)"


# Nobody else does any of this.

# Not `mkstemp`: hidden states go to a scratch file that has no name once it is open.
BANNED = {"rename", "renames", "fsync", "mkdtemp", "flock", "lockf", "NamedTemporaryFile"}
WRITERS = {"write_text", "write_bytes"}
OPENED_TO_WRITE = {
    "bridges/neuronpedia.py": "files of an export are packed as they grow, in a folder that nobody reads yet",
    "bridges/tables.py": "tables of an export grow block by block, in a folder that nobody reads yet",
    "recipes/run_in_progress.py": "the log grows line by line",
    "sources/shards/files.py": "a shard grows under its hidden name, for as long as a range is read",
    "store/checkpoints.py": "a state is hashed on its way into a folder that nobody reads yet",
}
"""Modules that open files to write them as they go, and why that cannot be `whole_file`."""


def by_hand(source: str) -> set[str]:
    """What a module calls that is for `files` alone; "open" where it opens a file to write it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        of_ours = isinstance(node, ast.ImportFrom) and node.module == "itda.files"
        if isinstance(node, ast.ImportFrom | ast.Import) and not of_ours:
            found |= {alias.name for alias in node.names if alias.name in BANNED | {"fcntl"}}
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if isinstance(node.func, ast.Attribute) and name in BANNED | WRITERS:
            found.add(name)
        # str.replace takes two strings, dataclasses.replace and datetime.replace take names, Path.replace one path.
        if isinstance(node.func, ast.Attribute) and name == "replace":
            of_os = isinstance(node.func.value, ast.Name) and node.func.value.id in ("os", "shutil")
            if of_os or (len(node.args) == 1 and not node.keywords):
                found.add(name)
        if isinstance(node.func, ast.Attribute) and name == "move" and getattr(node.func.value, "id", "") == "shutil":
            found.add(name)
        if name == "open" and any(mode[0] in "wax" or "+" in mode for mode in _modes(node)):
            found.add(name)
    return found


def _modes(call: ast.Call) -> Iterator[str]:
    for value in (*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "mode")):
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            if value.value and set(value.value) <= set("rwaxbt+"):
                yield value.value


def test_the_walk_sees_what_is_done_by_hand():
    for code in ("path.replace(other)", "os.replace(a, b)", "path.rename(b)", "tempfile.mkdtemp()", "os.fsync(3)"):
        assert by_hand(code) == {code.split(".")[1].partition("(")[0]}
    assert by_hand("import fcntl") == {"fcntl"}
    assert by_hand("from os import rename") == {"rename"}
    assert by_hand("path.open('wb', buffering=0)\nopen(path, mode='r+b')") == {"open"}
    assert by_hand("text.replace('a', 'b')\nreplace(made, k=3)\nopen(path)\npath.open('rb')") == set()


def test_nobody_but_files_renames_syncs_locks_or_writes_whole_files():
    for module in sorted(PACKAGE.rglob("*.py")):
        name = module.relative_to(PACKAGE).as_posix()
        found = by_hand(module.read_text()) if name != "files.py" else set()
        assert found == ({"open"} if name in OPENED_TO_WRITE else set()), name


def test_hidden_names_are_hidden(tmp_path):
    assert hidden(tmp_path / "a.b").name == ".a.b.tmp"
    assert hidden(tmp_path / "run", "old").name == ".run.old"
