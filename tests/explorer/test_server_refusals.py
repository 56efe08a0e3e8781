"""The explorer's server over real sockets: what it refuses."""

import logging
import socket

import pytest
from serving import JSON, SECONDS, check_refusal, get, post, raw

from itda.explorer.server import BODY_LIMIT, HEADERS, QUERY_LIMIT

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
    "a change by an address": (405, "GET", "/api/write?a=b", {}, None),
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


def test_the_security_policy_is_what_was_decided():
    assert HEADERS["Content-Security-Policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "font-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
