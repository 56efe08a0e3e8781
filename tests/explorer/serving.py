"""A server of plain answers, and what its tests ask it with. The fixtures are for conftest.py."""

import http.client
import json
import socket
import sys
import threading
from contextlib import closing

import pytest

from itda.errors import MissingError, SettingError
from itda.explorer.server import HEADERS, running

SECONDS = 60  # no single wait is longer: other work may have the processors
JSON = {"Content-Type": "application/json"}


class Echo:
    """Answers of every kind; those of the model wait until `go` is set."""

    needs_model = frozenset({"decompose"})
    writes = frozenset({"write"})

    def __init__(self):
        self.go, self.started, self.asked = threading.Event(), threading.Semaphore(0), []

    def answer(self, name, query):
        assert name.isalpha()  # nothing stranger gets here
        match name:
            case "echo":
                return {"query": dict(query), "thread": threading.current_thread().name}
            case "write":
                return {"written": dict(query)}
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
