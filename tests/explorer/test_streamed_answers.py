"""Answers in pieces over real sockets: as they come, one for each page, ended with it, refused in a sentence."""

import http.client
import json
import threading
import time
from contextlib import closing

import pytest
from serving import JSON, SECONDS, check_headers, check_refusal, get, port_of

from itda.errors import MissingError, SettingError
from itda.explorer.server import running
from itda.explorer.streaming import THREADS, WAITING


class Pieces:
    """Answers in pieces: `slow` sends two and waits until it may send a third, or until its page is left."""

    needs_model = frozenset()
    writes = frozenset()
    streams = frozenset({"slow", "bad", "half", "nan"})

    def __init__(self):
        self.go = threading.Event()
        self.began, self.left = threading.Semaphore(0), threading.Semaphore(0)

    def answer(self, name, query):
        raise MissingError(f"no page {name!r}: ask for one that streams, {dict(query)}")

    def stream(self, name, query, send, left):
        if name == "bad":
            raise SettingError("the strength is much: give a number")
        send({"said": query.get("text", ""), "n": 1})
        if name == "half":
            raise SettingError("the text is too long: shorten it")
        if name == "nan":
            send({"value": float("nan")})
        send({"n": 2})
        self.began.release()
        end = time.monotonic() + SECONDS
        while not self.go.is_set() and time.monotonic() < end:
            if left.wait(0.01):
                self.left.release()
                return
        send({"n": 3})


@pytest.fixture
def pieces(static):
    answers = Pieces()
    with running(answers, static=static) as address:
        yield port_of(address), answers
        answers.go.set()


def asked(port, name="slow", **query):
    """An open connection, and its response once the first piece is there."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    connection.request("POST", f"/api/{name}", json.dumps(query), {**JSON, "Accept-Encoding": "gzip"})
    return connection, connection.getresponse()


def piece(response):
    line, blank = response.readline(), response.readline()
    assert blank == b"\n"
    return json.loads(line.removeprefix(b"data: "))


def test_pieces_come_one_by_one_before_the_answer_is_whole(pieces):
    port, answers = pieces
    connection, response = asked(port, text="a\n\nb ü")
    with closing(connection):
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/event-stream")
        assert response.headers["Content-Encoding"] is None
        check_headers(response)
        assert [piece(response), piece(response)] == [{"said": "a\n\nb ü", "n": 1}, {"n": 2}]
        answers.go.set()
        assert piece(response) == {"n": 3}
        assert response.read() == b""


def test_failures_are_sentences_before_the_first_piece_and_after_it(pieces, caplog):
    port, _ = pieces
    check_refusal(get(port, "/api/bad"), 400)
    assert get(port, "/api/bad").json == {"error": "the strength is much: give a number"}
    connection, response = asked(port, "half")
    with closing(connection):
        assert [piece(response), piece(response)] == [
            {"said": "", "n": 1},
            {"error": "the text is too long: shorten it"},
        ]
        assert response.read() == b""
    assert not caplog.records
    connection, response = asked(port, "nan")
    with closing(connection):
        piece(response)
        assert "a fault of the explorer's own (ValueError)" in piece(response)["error"]


def test_an_answer_ends_when_its_page_is_left(pieces):
    port, answers = pieces
    connection, response = asked(port)
    piece(response)
    assert answers.began.acquire(timeout=SECONDS)
    response.close()
    connection.close()
    assert answers.left.acquire(timeout=SECONDS)


def test_a_page_that_asks_again_ends_its_last_answer_and_no_other(pieces):
    port, answers = pieces
    other, other_response = asked(port, client="other")
    first, first_response = asked(port, client="page")
    second, second_response = asked(port, client="page")
    with closing(first), closing(second), closing(other):
        assert answers.left.acquire(timeout=SECONDS)
        assert first_response.read().count(b"data: ") == 2
        answers.go.set()
        assert second_response.read().count(b"data: ") == 3
        assert other_response.read().count(b"data: ") == 3


def test_more_pages_than_there_is_room_for_are_refused(pieces):
    port, answers = pieces
    most = THREADS + WAITING
    connections = []
    for number in range(most):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
        connection.request("POST", "/api/slow", json.dumps({"client": str(number)}), JSON)
        connections.append(connection)
        if number < THREADS:
            assert answers.began.acquire(timeout=SECONDS)
        get(port, "/")  # by then the server has read what came before
    reply = get(port, "/api/bad")
    check_refusal(reply, 429)
    assert reply.json["error"] == f"the model is writing for {most} other pages: try again in a moment"
    answers.go.set()
    for connection in connections:
        with closing(connection):
            assert connection.getresponse().read().count(b"data: ") == 3


def test_stopping_the_server_ends_what_is_being_sent(static):
    answers = Pieces()
    with running(answers, static=static) as address:
        connection, _ = asked(port_of(address))
        assert answers.began.acquire(timeout=SECONDS)
    assert answers.left.acquire(timeout=SECONDS)
    connection.close()
