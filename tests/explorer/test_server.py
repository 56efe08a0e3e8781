"""The explorer's server over real sockets: what it answers."""

import asyncio
import gzip
import importlib
import logging
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from serving import SECONDS, Echo, check_headers, check_refusal, get, port_of, post

from itda.errors import SettingError
from itda.explorer.server import app, running


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/static/index.html", "text/html"),
        ("/static/main.js", "text/javascript"),
        ("/static/style.css", "text/css"),
        ("/static/logo.svg", "image/svg+xml"),
    ],
)
def test_static_files(port, static, path, kind):
    reply = get(port, path)
    assert (reply.status, reply.headers["Content-Type"]) == (200, f"{kind}; charset=utf-8")
    assert reply.body == (static / (path.rpartition("/")[2] or "index.html")).read_bytes()
    check_headers(reply, "no-cache")
    head = get(port, path, "HEAD")
    assert (head.status, head.body) == (200, b"")
    check_headers(head, "no-cache")


def test_get_and_post_ask_the_same(port):
    asked = {"text": "für « a»\n\x00", "empty": "", "plus": "1+1"}
    posted = post(port, "/api/echo", asked)
    assert posted.json["query"] == asked
    assert post(port, "/api/echo", asked, **{"Content-Type": "Application/JSON; charset=utf-8"}).json == posted.json | {
        "thread": "itda answers"
    }
    got = get(port, "/api/echo?text=f%C3%BCr+%C2%AB%20a%C2%BB%0A%00&empty=&plus=1%2B1")
    assert got.json["query"] == asked
    for reply in (posted, got):
        assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json")
        check_headers(reply)
    assert get(port, "/api/echo").json["query"] == {}


def test_half_a_character_is_valid_json(port):
    assert get(port, "/api/half").json == {"text": "\ud83d"}


def test_large_responses_are_compressed_where_that_is_understood(port, static):
    for path, plain in (("/api/large", None), ("/static/style.css", (static / "style.css").read_bytes())):
        full = get(port, path)
        assert full.headers["Content-Encoding"] is None
        packed = get(port, path, headers={"Accept-Encoding": "gzip"})
        assert packed.headers["Content-Encoding"] == "gzip"
        assert packed.headers["Vary"] == "Accept-Encoding"
        assert len(packed.body) < len(full.body) / 10
        assert gzip.decompress(packed.body) == full.body
        assert plain is None or full.body == plain
    assert get(port, "/", headers={"Accept-Encoding": "gzip"}).headers["Content-Encoding"] is None


def test_every_name_of_this_machine_is_good(port):
    for name in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}", f"LOCALHOST:{port}"):
        assert get(port, "/", headers={"Host": name}).status == 200, name
        assert get(port, "/api/echo", headers={"Origin": f"http://{name.lower()}"}).status == 200, name
    for site in ("same-origin", "none"):
        assert get(port, "/api/echo", headers={"Sec-Fetch-Site": site}).status == 200


def test_only_this_machine_is_listened_to(port):
    # Every 127.x.y.z is this machine on Linux: a server bound to all addresses would answer there.
    if sys.platform == "linux":
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), timeout=SECONDS).close()


def test_an_answers_errors_are_its_sentences(port):
    assert get(port, "/api/bad").json == {"error": "top is 0: show at least 1"}
    missing = get(port, "/api/none")
    assert (missing.status, missing.json) == (404, {"error": "no page 'none': there is echo"})


@pytest.mark.parametrize(
    ("name", "kind"), [("broken", "ZeroDivisionError"), ("nan", "ValueError"), ("exit", "SystemExit")]
)
def test_a_fault_is_one_line_and_its_traceback_is_logged(port, caplog, name, kind):
    reply = get(port, f"/api/{name}")
    check_refusal(reply, 500)
    assert kind in reply.json["error"]
    assert b"Traceback" not in reply.body
    assert b".py" not in reply.body
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.name == "itda.explorer.answering"
    assert record.exc_info is not None
    assert record.exc_info[0].__name__ == kind


@pytest.mark.parametrize(("host", "status"), [("127.0.0.1", 200), ("localhost:80", 200), ("evil.example", 421)])
def test_port_80_may_be_left_out_of_the_host(static, host, status):
    # Called as ASGI has it: few may listen on port 80.
    sent, served = [], app(Echo(), static=static)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "server": ("127.0.0.1", 80)}
    call = served(scope | {"headers": [(b"host", host.encode())]}, receive, send)
    # In a thread: once a browser was started, the main thread has a running loop.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, call).result()
    assert sent[0]["status"] == status
    assert not served.busy
    served.close()


def test_a_folder_without_files_is_an_error_or_a_404(tmp_path):
    with pytest.raises(SettingError, match="cannot be read"):
        app(Echo(), static=tmp_path / "none")
    with running(Echo(), static=tmp_path) as address:
        check_refusal(get(port_of(address), "/"), 404)


def test_without_the_extra_importing_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "itda.explorer.server")
    with pytest.raises(SettingError) as error:
        importlib.import_module("itda.explorer.server")
    assert str(error.value) == "the explorer needs starlette and uvicorn: pip install 'itda[explorer]'"
