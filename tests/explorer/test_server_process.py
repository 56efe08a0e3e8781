"""The explorer's server as a process: its one model, its ports, its end."""

import http.client
import json
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing

import pytest
from serving import JSON, SECONDS, Echo, check_refusal, get, port_of

from itda.errors import SettingError
from itda.explorer import server
from itda.explorer.server import running


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
    assert time.monotonic() - begun < SECONDS / 2  # the model never answers
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
    assert time.monotonic() - begun < SECONDS / 2  # the model never answers
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
    writes = ()
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
