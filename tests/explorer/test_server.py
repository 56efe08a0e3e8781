"""The explorer's server over real sockets: what it answers, and above all what it refuses."""

import asyncio
import gzip
import http.client
import importlib
import json
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from itda.errors import MissingError, SettingError
from itda.explorer import server
from itda.explorer.server import BODY_LIMIT, HEADERS, QUERY_LIMIT, app, running

SECONDS = 10  # no single wait is longer


class Echo:
    """Answers of every kind; those of the model wait until `go` is set."""

    needs_model = frozenset({"decompose"})

    def __init__(self):
        self.go, self.started, self.asked = threading.Event(), threading.Semaphore(0), []

    def answer(self, name, query):
        assert name.isalpha()  # nothing stranger gets here
        match name:
            case "echo":
                return {"query": dict(query), "thread": threading.current_thread().name}
            case "decompose":
                self.asked.append(dict(query))
                self.started.release()
                assert self.go.wait(SECONDS)
                return {"query": dict(query)}
            case "large":
                return {"text": "token " * 20_000}
            case "half":
                return {"text": "\ud83d"}
            case "bad":
                raise SettingError("top is 0: show at least 1")
            case "nan":
                return {"value": float("nan")}
            case "broken":
                return {"value": 1 / 0}
            case "exit":
                sys.exit(3)
        raise MissingError(f"no page {name!r}: there is echo")


@pytest.fixture(scope="module")
def static(tmp_path_factory):
    root = tmp_path_factory.mktemp("package")
    folder = root / "static"
    folder.mkdir()
    (root / "server.py").write_text("SECRET")
    (folder / "index.html").write_text("<!doctype html><title>itda</title>")
    (folder / "main.js").write_text("'use strict';")
    (folder / "style.css").write_text("a { color: red }\n" * 1000)
    (folder / "logo.svg").write_text("<svg/>")
    (folder / "Secret.js").write_text("SECRET")
    (folder / "notes.txt").write_text("SECRET")
    return folder


@pytest.fixture(scope="module")
def shared(static):
    """(port, answers) of one server for the tests that leave it as it is: each asks whether it still answers."""
    answers = Echo()
    answers.go.set()
    with running(answers, static=static) as address:
        yield port_of(address), answers


@pytest.fixture
def port(shared):
    yield shared[0]
    assert get(shared[0], "/api/echo?a=b").json["query"] == {"a": "b"}


@pytest.fixture
def own(static):
    """(port, answers) of a server for this test alone, whose model waits."""
    answers = Echo()
    with running(answers, static=static) as address:
        yield port_of(address), answers
        answers.go.set()


def port_of(address):
    assert address.startswith("http://127.0.0.1:")
    assert address.endswith("/")
    return int(address[len("http://127.0.0.1:") : -1])


class Reply:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)


def get(port, path, method="GET", headers=None, body=None, **options):
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)) as connection:
        connection.request(method, path, body=body, headers=headers or {}, **options)
        response = connection.getresponse()
        return Reply(response.status, response.headers, response.read())


def post(port, path, values, **headers):
    return get(port, path, "POST", {"Content-Type": "application/json", **headers}, json.dumps(values))


def raw(port, data):
    """What comes back for these bytes, whatever they are."""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connection:
        connection.sendall(data)
        response = http.client.HTTPResponse(connection)
        try:
            response.begin()
            return Reply(response.status, response.headers, response.read())
        finally:
            response.close()


def check_headers(reply, cache="no-store"):
    for name, value in HEADERS.items():
        assert reply.headers.get_all(name) == [value], name
    assert reply.headers.get_all("Cache-Control") == [cache]
    assert not [name for name in reply.headers if name.lower().startswith("access-control-")]
    assert reply.headers["Server"] is None


def check_refusal(reply, status):
    assert reply.status == status
    assert reply.headers["Content-Type"] == "application/json"
    assert list(reply.json) == ["error"]
    sentence = reply.json["error"]
    assert len(sentence) > 20
    assert "\n" not in sentence
    assert ": " in sentence  # and after it, what to do
    check_headers(reply)


def test_the_security_policy_is_what_was_decided():
    assert HEADERS["Content-Security-Policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "font-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


# ---- what it serves


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


# ---- what it refuses

JSON = {"Content-Type": "application/json"}
LONG = "a=" + "b" * QUERY_LIMIT

HOSTILE = {
    "traversal": (404, "GET", "/static/../server.py", {}, None),
    "traversal, encoded dots": (404, "GET", "/static/%2e%2e/server.py", {}, None),
    "traversal, encoded slash": (404, "GET", "/static/..%2fserver.py", {}, None),
    "traversal, encoded twice": (404, "GET", "/static/%252e%252e%252fserver.py", {}, None),
    "traversal, backslash": (404, "GET", "/static/..%5cserver.py", {}, None),
    "traversal from the root": (404, "GET", "/../../etc/passwd", {}, None),
    "absolute": (404, "GET", "/static//etc/passwd", {}, None),
    "absolute, encoded": (404, "GET", "/static/%2fetc%2fpasswd", {}, None),
    "absolute form": (404, "GET", "http://evil.example/static/main.js", {"Host": "127.0.0.1:{port}"}, None),
    "absolute form of another host": (421, "GET", "http://evil.example/static/main.js", {}, None),
    "NUL, encoded": (404, "GET", "/static/main.js%00.html", {}, None),
    "line feed, encoded": (404, "GET", "/static/main.js%0a", {}, None),
    "a name not of the listing's form": (404, "GET", "/static/Secret.js", {}, None),
    "a file of another kind": (404, "GET", "/static/notes.txt", {}, None),
    "the folder": (404, "GET", "/static/", {}, None),
    "a file that is not there": (404, "GET", "/static/none.js", {}, None),
    "no such page": (404, "GET", "/favicon.ico", {}, None),
    "no such answer": (404, "GET", "/api/none", {}, None),
    "no name": (404, "GET", "/api/", {}, None),
    "an answer with a path": (404, "GET", "/api/echo/more", {}, None),
    "a slash too many": (404, "GET", "/api/echo/", {}, None),
    "a private name": (404, "GET", "/api/__class__", {}, None),
    "another host": (421, "GET", "/", {"Host": "evil.example"}, None),
    "another host with the port": (421, "GET", "/api/echo", {"Host": "evil.example:{port}"}, None),
    "localhost of another port": (421, "GET", "/", {"Host": "localhost:1"}, None),
    "localhost without port": (421, "GET", "/", {"Host": "localhost"}, None),
    "a host that ends like ours": (421, "GET", "/", {"Host": "evil.localhost:{port}"}, None),
    "user and host": (421, "GET", "/", {"Host": "localhost:{port}@evil.example"}, None),
    "no host": (421, "GET", "/", {"Host": ""}, None),
    "any address": (421, "GET", "/", {"Host": "0.0.0.0:{port}"}, None),
    "foreign origin": (403, "GET", "/api/echo", {"Origin": "http://evil.example"}, None),
    "foreign origin, POST": (403, "POST", "/api/echo", JSON | {"Origin": "https://evil.example"}, b"{}"),
    "foreign origin, static": (403, "GET", "/static/main.js", {"Origin": "http://evil.example"}, None),
    "origin null": (403, "GET", "/api/echo", {"Origin": "null"}, None),
    "https origin": (403, "GET", "/api/echo", {"Origin": "https://localhost:{port}"}, None),
    "origin without scheme": (403, "GET", "/api/echo", {"Origin": "localhost:{port}"}, None),
    "origin of another port": (403, "GET", "/api/echo", {"Origin": "http://localhost:1"}, None),
    "cross-site": (403, "GET", "/api/echo", {"Sec-Fetch-Site": "cross-site"}, None),
    "cross-site page": (403, "GET", "/", {"Sec-Fetch-Site": "cross-site"}, None),
    "preflight": (403, "OPTIONS", "/api/echo", {"Origin": "http://evil.example"}, None),
    "OPTIONS": (405, "OPTIONS", "/api/echo", {}, None),
    "PUT": (405, "PUT", "/api/echo", JSON, b"{}"),
    "DELETE": (405, "DELETE", "/", {}, None),
    "TRACE": (405, "TRACE", "/none", {}, None),
    "an unknown method": (405, "BREW", "/api/echo", {}, None),
    "POST of a page": (405, "POST", "/", JSON, b"{}"),
    "POST of a file": (405, "POST", "/static/main.js", JSON, b"{}"),
    "long query": (414, "GET", f"/api/echo?{LONG}", {}, None),
    "very long query": (414, "GET", f"/api/echo?{LONG * 50}", {}, None),
    "long query, POST": (414, "POST", f"/api/echo?{LONG}", JSON, b"{}"),
    "a query that is not UTF-8": (400, "GET", "/api/echo?a=%ff%fe", {}, None),
    "form": (415, "POST", "/api/echo", {"Content-Type": "application/x-www-form-urlencoded"}, b"a=b"),
    "text": (415, "POST", "/api/echo", {"Content-Type": "text/plain"}, b"{}"),
    "no content type": (415, "POST", "/api/echo", {"Content-Type": ""}, b"{}"),
    "almost the content type": (415, "POST", "/api/echo", {"Content-Type": "application/json5"}, b"{}"),
    "body over the limit": (413, "POST", "/api/echo", JSON, b'{"a": "' + b"b" * BODY_LIMIT + b'"}'),
    "empty": (400, "POST", "/api/echo", JSON, b""),
    "array": (400, "POST", "/api/echo", JSON, b'["a"]'),
    "number": (400, "POST", "/api/echo", JSON, b"1"),
    "string": (400, "POST", "/api/echo", JSON, b'"a"'),
    "null": (400, "POST", "/api/echo", JSON, b"null"),
    "number in it": (400, "POST", "/api/echo", JSON, b'{"a": 1}'),
    "null in it": (400, "POST", "/api/echo", JSON, b'{"a": null}'),
    "NaN in it": (400, "POST", "/api/echo", JSON, b'{"a": NaN}'),
    "object in it": (400, "POST", "/api/echo", JSON, b'{"a": {"b": "c"}}'),
    "deep": (400, "POST", "/api/echo", JSON, b"[" * 100_000),
    "deep object": (400, "POST", "/api/echo", JSON, b'{"a":' * 50_000),
    "a huge number": (400, "POST", "/api/echo", JSON, b'{"a":' + b"1" * 10_000 + b"}"),
    "not JSON": (400, "POST", "/api/echo", JSON, b"{a: b}"),
    "more than JSON": (400, "POST", "/api/echo", JSON, b"{} {}"),
    "not UTF-8": (400, "POST", "/api/echo", JSON, b'{"a": "\xff\xfe"}'),
    "UTF-16": (400, "POST", "/api/echo", JSON, '{"a": "b"}'.encode("utf-16")),
    "half a surrogate pair": (400, "POST", "/api/echo", JSON, b'{"a": "\\ud800"}'),
    "half a surrogate pair in a name": (400, "POST", "/api/echo", JSON, b'{"\\udc00": "b"}'),
    "an answer's own error": (400, "GET", "/api/bad", {}, None),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_requests_are_refused_with_a_sentence(port, name):
    status, method, path, headers, body = HOSTILE[name]
    filled = {key: value.replace("{port}", str(port)) for key, value in headers.items()}
    reply = get(port, path, method, filled, body)
    check_refusal(reply, status)
    assert b"SECRET" not in reply.body
    if status == 405:
        assert reply.headers["Allow"]


def test_a_client_that_shows_paths_as_they_are_gets_no_further(port):
    for path in (b"/static/../server.py", b"/static/./../server.py", b"//static/../../server.py"):
        check_refusal(raw(port, b"GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % (path, port)), 404)


@pytest.mark.parametrize(
    "data",
    [
        b"GET /static/main.js\x00 HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n",
        b"GET /static/\xff.js HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nHost: evil.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nX: a\x00b\r\n\r\n",
        b"POST /api/echo HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: -1\r\n\r\n",
        b"POST /api/echo HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"\r\n\r\nnonsense\r\n\r\n",
    ],
    ids=["NUL", "byte", "no host", "two hosts", "NUL in a header", "length", "two lengths", "TLS", "nonsense"],
)
def test_what_is_not_http_is_refused_with_the_same_headers(port, data):
    check_refusal(raw(port, data.replace(b"%d", str(port).encode())), 400)


def test_a_head_without_end_is_cut_off(port):
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connection, pytest.raises(ConnectionError):
        connection.sendall(b"b" * 64 * 2**20)


def test_http_1_0_without_host_is_refused(port):
    check_refusal(raw(port, b"GET / HTTP/1.0\r\n\r\n"), 421)


def test_two_origins_of_which_one_is_ours_are_refused(port):
    ours = b"http://127.0.0.1:%d" % port
    head = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nOrigin: %s\r\nOrigin: http://evil.example\r\n\r\n" % (port, ours)
    check_refusal(raw(port, head), 403)


def test_a_body_is_counted_as_it_comes(port):
    def chunks(total):
        yield b'{"a": "'
        for _ in range(total // 1024):
            yield b"b" * 1024
        yield b'"}'

    for total, status in ((BODY_LIMIT - 1024, 200), (BODY_LIMIT, 413), (8 * BODY_LIMIT, 413)):
        reply = get(port, "/api/echo", "POST", JSON, chunks(total), encode_chunked=True)
        assert reply.status == status, total
        if status == 413:
            check_refusal(reply, 413)


def test_a_body_at_the_limit_is_read(port):
    text = "b" * (BODY_LIMIT - len('{"a": ""}'))
    assert post(port, "/api/echo", {"a": text}).json["query"] == {"a": text}


def test_a_query_at_the_limit_is_read(port):
    text = "b" * (QUERY_LIMIT - len("a="))
    assert get(port, f"/api/echo?a={text}").json["query"] == {"a": text}


def test_bad_chunks_after_a_refusal_do_no_harm(port, caplog):
    # The refusal is sent before the body has come; what follows is then not HTTP any more.
    head = b"POST /api/echo HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nTransfer-Encoding: chunked\r\n\r\n" % port
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connection:
        connection.sendall(head)
        assert connection.recv(65536).startswith(b"HTTP/1.1 415")
        connection.sendall(b"nonsense\r\n")
        while connection.recv(65536):
            pass
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_client_that_leaves_in_the_middle_does_no_harm(port, caplog):
    head = b"POST /api/echo HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n" % port
    for rest in (b"", b"Content-Length: 100\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n5\r\n{"):
        with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connection:
            connection.sendall(head + rest)
    get(port, "/")
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


# ---- errors of the answers


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
    assert record.name == "itda.explorer.server"
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


# ---- the model, one at a time


def ask_model(port, number):
    """A connection that asks the model and has not read the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    connection.request("POST", "/api/decompose", json.dumps({"text": str(number)}), JSON)
    return connection


def wait_for(condition):
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def busy_sentence(port):
    reply = get(port, "/api/decompose?text=more")
    check_refusal(reply, 429)
    assert reply.headers["Retry-After"] == "1"
    return reply.json["error"]


def test_the_model_is_asked_one_at_a_time_and_everything_else_goes_on(own):
    port, answers = own
    first = ask_model(port, 0)
    assert answers.started.acquire(timeout=SECONDS)
    waiting = [ask_model(port, number) for number in range(1, 5)]
    begun = time.monotonic()
    for _ in range(20):
        assert get(port, "/api/echo?a=b").status == 200
        assert get(port, "/").status == 200
        check_refusal(get(port, "/api/bad"), 400)
    assert time.monotonic() - begun < 2
    assert busy_sentence(port) == "the model is busy with 5 other requests: try again in a moment"
    assert len(answers.asked) == 1
    answers.go.set()
    for number, connection in enumerate([first, *waiting]):
        with closing(connection):
            assert json.loads(connection.getresponse().read()) == {"query": {"text": str(number)}}
    assert [asked["text"] for asked in answers.asked] == list("01234")
    assert get(port, "/api/decompose?text=more").status == 200


def test_a_client_that_leaves_gives_its_place_away(own):
    port, answers = own
    first = ask_model(port, 0)
    assert answers.started.acquire(timeout=SECONDS)
    left = [ask_model(port, number) for number in range(1, 5)]
    busy_sentence(port)
    for connection in left:
        connection.close()
    stayed = []

    def asked_again():  # the server hears of those that left a moment later
        reply = ask_model(port, 9)
        reply.sock.settimeout(0.2)
        try:
            assert reply.getresponse().status == 429
        except TimeoutError:
            stayed.append(reply)
        reply.close()
        return stayed

    wait_for(asked_again)
    answers.go.set()
    with closing(first):
        assert first.getresponse().status == 200
    assert get(port, "/api/decompose?text=last").status == 200
    assert not {"1", "2", "3", "4"} & {asked["text"] for asked in answers.asked}


def test_stopping_does_not_wait_for_the_model(static, caplog):
    answers = Echo()
    with running(answers, static=static) as address:
        connections = [ask_model(port_of(address), number) for number in range(3)]
        idle = http.client.HTTPConnection("127.0.0.1", port_of(address), timeout=SECONDS)
        idle.request("GET", "/")
        idle.getresponse().read()
        half = socket.create_connection(("127.0.0.1", port_of(address)), timeout=SECONDS)
        half.sendall(b"POST /api/echo HTTP/1.1\r\n")
        assert answers.started.acquire(timeout=SECONDS)
        begun = time.monotonic()
    assert time.monotonic() - begun < 1
    for connection in (*connections, idle, half):
        connection.close()
    answers.go.set()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_threads_and_ports_are_given_back(static):
    before = {thread.ident for thread in threading.enumerate()}
    with running(Echo(), static=static) as address:
        get(port_of(address), "/")
    wait_for(lambda: {thread.ident for thread in threading.enumerate()} <= before)
    with pytest.raises(ConnectionRefusedError):
        get(port_of(address), "/")
    with running(Echo(), port=port_of(address), static=static) as again:
        assert again == address


# ---- ports, and stopping a process


def test_a_port_that_is_taken_is_one_line(shared, static):
    taken = shared[0]
    with pytest.raises(SettingError) as error, running(Echo(), port=taken, static=static):
        pass
    assert str(error.value) == f"port {taken} is in use: give another --port, or leave it out"


def test_without_a_port_it_is_the_usual_one_or_any(shared, static, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as free:
        usual = free.getsockname()[1]
    monkeypatch.setattr(server, "PORT", usual)
    with running(Echo(), port=None, static=static) as first, running(Echo(), port=None, static=static) as second:
        assert port_of(first) == usual
        assert port_of(second) not in (usual, 0)
        assert get(port_of(second), "/").status == 200


@pytest.mark.parametrize("port", [-1, 65536, 10**12])
def test_a_port_that_cannot_be_is_one_line(static, port):
    with pytest.raises(SettingError, match="from 0 to 65535"), running(Echo(), port=port, static=static):
        pass


SERVE = """
import sys, threading, time
from pathlib import Path
from itda.explorer.server import serve

class Answers:
    needs_model = {"forever"}
    def answer(self, name, query):
        import torch
        print("asked", flush=True)
        a = torch.eye(64)
        while True:
            a = torch.nn.functional.softmax(a @ a, -1)

def ready(address):
    import http.client
    connection = http.client.HTTPConnection(address[7:-1], timeout=10)
    connection.request("GET", "/")
    print(address, connection.getresponse().status, flush=True)
    connection.close()

serve(Answers(), port=0, on_ready=ready, static=Path(sys.argv[1]))
print("after", flush=True)
"""


@pytest.mark.parametrize(
    ("number", "asked"),
    [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGTERM, True)],
    ids=["Ctrl-C", "SIGTERM", "SIGTERM, in the model"],
)
def test_a_signal_ends_the_process_quietly(static, number, asked):
    # Less than uvicorn's own wait. Another try is for a machine with other work.
    assert any(seconds_to_return(static, number, asked) < 1 for _ in range(3))


def seconds_to_return(static, number, asked):
    """From the signal to the end of `serve`; then the interpreter takes down torch, in seconds on a busy machine."""
    command = [sys.executable, "-c", SERVE, str(static)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        try:
            address, status = process.stdout.readline().split()
            assert status == "200"
            with closing(http.client.HTTPConnection(address[7:-1], timeout=SECONDS)) as connection:
                if asked:
                    connection.request("GET", "/api/forever")
                    assert process.stdout.readline() == "asked\n"
                begun = time.monotonic()
                process.send_signal(number)
                assert process.stdout.readline() == "after\n"
                took = time.monotonic() - begun
                rest, errors = process.communicate(timeout=SECONDS)
        finally:
            process.kill()
    assert (process.returncode, rest, errors) == (0, "", "")
    return took


def test_without_the_extra_importing_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "itda.explorer.server")
    with pytest.raises(SettingError) as error:
        importlib.import_module("itda.explorer.server")
    assert str(error.value) == "the explorer needs starlette and uvicorn: pip install 'itda[explorer]'"
