"""The explorer's web server: static files and JSON answers, for the browser of this machine and for nothing else.

It knows nothing of dictionaries: it is given an object that answers. It refuses what a page of another site could try
before it asks for an answer: a foreign Host (DNS rebinding) or Origin, a request that another site started.

Needs the extra `explorer`: importing this module raises `SettingError` without it.
"""

from __future__ import annotations

import asyncio
import atexit
import errno
import json
import logging
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from urllib.parse import parse_qsl

from itda.errors import SettingError
from itda.explorer import PORT
from itda.explorer.threads import AnswerThreads

try:
    import h11
    import uvicorn
    from starlette.applications import Starlette
    from starlette.datastructures import Headers, MutableHeaders
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.middleware.gzip import GZipMiddleware
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route
    from starlette.types import Message, Receive, Scope, Send
    from uvicorn.protocols.http.h11_impl import H11Protocol

    from itda.explorer.answering import disconnected, failure_of, json_bytes
    from itda.explorer.streaming import StreamedAnswers, Streams
except ImportError as absent:
    raise SettingError("the explorer needs starlette and uvicorn: pip install 'itda[explorer]'") from absent

STATIC = Path(__file__).parent / "static"
"""The folder of the pages' HTML, CSS and JavaScript."""
BODY_LIMIT, QUERY_LIMIT, HEAD_LIMIT = 256 * 1024, 8 * 1024, 1024 * 1024
"""Bytes of a request's body, of its query and of all before its body, at most."""
MODEL_WAITING, QUICK_THREADS, QUICK_WAITING = 4, 4, 100
"""Requests that may wait for the model; threads for answers without it, and requests that may wait for those."""
COMPRESSED_FROM = 4 * 1024
"""Bytes of a response from which it is compressed."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; font-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
METHODS = ("GET", "HEAD", "POST")
ANSWER_NAME = re.compile(r"[a-z][a-z_]*")
FILE_NAME = re.compile(r"[a-z_]+\.(js|css|html|svg)")
MEDIA_TYPES = {"js": "text/javascript", "css": "text/css", "html": "text/html", "svg": "image/svg+xml"}
NO_PAGE = "there is no such page: start at /"


@runtime_checkable
class Answers(Protocol):
    """An object that answers requests; the server calls it from several threads at once."""

    @property
    def needs_model(self) -> Container[str]:
        """Names of the answers that run the language model; the server asks for one of these at a time."""
        ...

    @property
    def writes(self) -> Container[str]:
        """Names of the answers that change something: they are asked for by POST alone."""
        ...

    def answer(self, name: str, query: Mapping[str, str]) -> dict[str, Any]:
        """Return values for JSON, without NaN or infinity. Raises `ItdaError`: `MissingError` for what is not there."""
        ...


class App:
    """The ASGI application: refuses what is not this server's own page, and puts the headers on every response.

    Raises `SettingError` where the static folder cannot be read.
    """

    def __init__(self, answers: Answers, static: Path) -> None:
        self._answers = answers
        # A fixed listing: whatever a request names, only these files are ever opened.
        try:
            self._files = {file.name: file for file in static.iterdir() if FILE_NAME.fullmatch(file.name)}
        except OSError as error:
            raise SettingError(f"{static} cannot be read ({error.strerror}): install itda again") from error
        self._model, self._quick = AnswerThreads(1, MODEL_WAITING), AnswerThreads(QUICK_THREADS, QUICK_WAITING)
        self._streams = Streams(answers) if isinstance(answers, StreamedAnswers) else None
        self._inner = Starlette(
            routes=[
                Route("/", self._index),
                Route("/static/{file}", self._file),
                Route("/api/{name}", self._answer, methods=["GET", "POST"]),
            ],
            middleware=[Middleware(GZipMiddleware, minimum_size=COMPRESSED_FROM, compresslevel=1)],
            exception_handlers={HTTPException: _refused},
        )
        self._inner.router.redirect_slashes = False

    @property
    def busy(self) -> bool:
        """True if an answer is being computed or waits to be."""
        streaming = self._streams is not None and self._streams.busy
        return streaming or self._model.taken + self._quick.taken > 0

    def close(self) -> None:
        """End the threads that compute answers."""
        self._model.close()
        self._quick.close()
        if self._streams is not None:
            self._streams.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, by the ASGI protocol."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = _refusal(scope) if scope["type"] == "http" else None
        await (refusal or self._inner)(scope, receive, send_with_headers)

    async def _index(self, _: Request) -> Response:
        return self._read("index.html")

    async def _file(self, request: Request) -> Response:
        return self._read(request.path_params["file"])

    def _read(self, name: str) -> Response:
        try:
            content = self._files[name].read_bytes()
        except (KeyError, OSError):
            raise HTTPException(404, NO_PAGE) from None
        media_type = MEDIA_TYPES[name.rpartition(".")[2]]
        return Response(content, media_type=f"{media_type}; charset=utf-8", headers={"Cache-Control": "no-cache"})

    async def _answer(self, request: Request) -> Response:
        name = request.path_params["name"]
        if not ANSWER_NAME.fullmatch(name):
            raise HTTPException(404, NO_PAGE)
        if name in self._answers.writes and request.method != "POST":
            raise HTTPException(
                405, "this changes something: send it by POST, as the page does", headers={"Allow": "POST"}
            )
        query = await _from_body(request) if request.method == "POST" else _from_address(request)
        if self._streams is not None and name in self._streams.names:
            return await self._streams.respond(name, query, request)
        needs_model = name in self._answers.needs_model
        threads = self._model if needs_model else self._quick
        future = threads.submit(partial(_make, self._answers, name, query))
        if future is None:
            who = "the model" if needs_model else "the explorer"
            busy = f"{who} is busy with {threads.taken} other requests: try again in a moment"
            raise HTTPException(429, busy, headers={"Retry-After": "1"})
        answer, gone = asyncio.wrap_future(future), asyncio.ensure_future(disconnected(request.receive))
        try:
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                status, content = answer.result()
                return Response(content, status, media_type="application/json")
            return Response()  # the client has gone
        finally:
            # An answer that nobody waits for any more, as its page was left, gives its place to the next.
            answer.cancel()
            gone.cancel()


def app(answers: Answers, static: Path = STATIC) -> App:
    """Make the ASGI application, for a server or for Starlette's test client. Raises `SettingError`."""
    return App(answers, static)


def _make(answers: Answers, name: str, query: Mapping[str, str]) -> tuple[int, bytes]:
    """Compute an answer; return its status and body. Runs in one of the `AnswerThreads` and raises nothing."""
    try:
        return 200, json_bytes(answers.answer(name, query))
    except BaseException as error:  # an exit() too: it would end the server
        status, sentence = failure_of(name, error)
        return status, json_bytes({"error": sentence})


def _error(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(json_bytes({"error": sentence}), status, headers, "application/json")


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405 and error.detail == "Method Not Allowed":
        return _error(405, "this page is not there for this method: use GET", error.headers)
    return _error(error.status_code, NO_PAGE if error.detail == "Not Found" else error.detail, error.headers)


def _refusal(scope: Scope) -> Response | None:
    headers, port = Headers(scope=scope), scope["server"][1]
    hosts = {f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}"}
    if port == 80:  # which browsers leave out
        hosts |= {"127.0.0.1", "localhost", "[::1]"}
    given = headers.getlist("host")
    if len(given) != 1 or given[0].lower() not in hosts:
        return _error(421, f"this server goes by other names only: open http://127.0.0.1:{port}/")
    if not {f"http://{host}" for host in hosts}.issuperset(headers.getlist("origin")):
        return _error(403, f"only this server's own pages may ask it: open http://127.0.0.1:{port}/")
    if "cross-site" in headers.getlist("sec-fetch-site"):
        return _error(403, f"another site may not ask this server: type http://127.0.0.1:{port}/ into a new tab")
    if scope["method"] not in METHODS:
        return _error(405, "this server only shows: use GET, HEAD or POST", {"Allow": ", ".join(METHODS)})
    if len(scope["query_string"]) > QUERY_LIMIT:
        return _error(414, f"the address has over {QUERY_LIMIT} bytes after its '?': send them by POST")
    return None


def _from_address(request: Request) -> dict[str, str]:
    try:
        text = request.scope["query_string"].decode("ascii")
        return dict(parse_qsl(text, keep_blank_values=True, errors="strict"))
    except ValueError:
        raise HTTPException(400, "the address is not UTF-8: percent-encode it as a browser does") from None


async def _from_body(request: Request) -> dict[str, str]:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "the body is not said to be JSON: send Content-Type: application/json")
    body, more = bytearray(), True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise HTTPException(400, "the request ended early: send it again")
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > BODY_LIMIT:  # counted as it comes: Content-Length may lie
            raise HTTPException(413, f"the request is over {BODY_LIMIT // 1024} KB: send less text")
    try:
        values = json.loads(body.decode("utf-8"))
        if isinstance(values, dict) and all(isinstance(value, str) for value in values.values()):
            json.dumps(values, ensure_ascii=False).encode("utf-8")  # fails for half a surrogate pair
            return values
    except (ValueError, RecursionError):
        pass
    raise HTTPException(400, 'the body is not what is asked for: send a JSON object of strings, like {"text": "a"}')


class _Protocol(H11Protocol):
    """uvicorn's protocol with our message and headers for bytes that are not HTTP, which the application never sees."""

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        content = json_bytes(
            {"error": "this is not a request that HTTP allows, or a too long one: open the page in a browser"}
        )
        headers = {**HEADERS, "Cache-Control": "no-store", "Content-Type": "application/json", "Connection": "close"}
        response = h11.Response(status_code=400, headers=list(headers.items()), reason=b"Bad Request")
        try:
            for event in (response, h11.Data(data=content), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        except h11.LocalProtocolError:
            pass  # a response is on its way already
        self.transport.close()


class _Server(uvicorn.Server):
    """uvicorn's server that tells when it is ready, and that stops without waiting for answers being computed."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready, self.ended = threading.Event(), threading.Event()

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            super().run(sockets)
        finally:
            self.ended.set()
            self.ready.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()  # each request sees its client gone, and ends
        await super().shutdown(sockets)


def _listen(port: int | None) -> socket.socket:
    """Return a socket that listens on 127.0.0.1. Raises `SettingError` for a port that cannot be had."""
    # It listens before anybody is told of it, so that nobody can take the port in between.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere the option would share a port that is taken
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", PORT if port is None else port))
        listener.listen()
    except (OSError, OverflowError) as error:
        listener.close()
        if isinstance(error, OverflowError):
            raise SettingError(f"--port is {port}: it must be from 0 to 65535, 0 for any free one") from error
        if port is None:
            return _listen(0)
        if error.errno == errno.EADDRINUSE:
            raise SettingError(f"port {port} is in use: give another --port, or leave it out") from error
        why = error.strerror
        raise SettingError(f"port {port} cannot be used ({why}): give another --port, or leave it out") from error
    return listener


@contextmanager
def _serving(answers: Answers, port: int | None, static: Path) -> Iterator[tuple[str, _Server, App]]:
    served = app(answers, static)
    try:
        listener = _listen(port)
        with listener:
            address = f"http://127.0.0.1:{listener.getsockname()[1]}/"
            config = uvicorn.Config(
                served,
                http=_Protocol,
                ws="none",
                loop="asyncio",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                log_level="warning",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=1,
                # Too long a request must fit here, so that it can be answered with the reason.
                h11_max_incomplete_event_size=HEAD_LIMIT,
            )
            server = _Server(config)
            thread = threading.Thread(target=server.run, args=([listener],), name="itda explorer", daemon=True)
            thread.start()
            try:
                server.ready.wait()
                if not server.started:
                    raise RuntimeError("the explorer's server did not start")
                yield address, server, served
            finally:
                server.should_exit = True
                thread.join()
    finally:
        served.close()


@contextmanager
def running(answers: Answers, *, port: int | None = 0, static: Path = STATIC) -> Iterator[str]:
    """Serve in a background thread; the context is the address. Raises `SettingError` for a port that cannot be had."""
    with _serving(answers, port, static) as (address, _, _):
        yield address


def serve(answers: Answers, *, port: int | None, on_ready: Callable[[str], None], static: Path = STATIC) -> None:
    """Serve until Ctrl-C or SIGTERM, from the main thread; `on_ready` is called with the address once it answers.

    Port None is 8642, or any free one where that is taken; 0 is any free one. Raises `SettingError` for a port that
    cannot be had.
    """

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    served = None
    try:
        with _serving(answers, port, static) as (address, server, served):
            on_ready(address)
            while not server.ended.wait(0.2):  # with a time, for Windows, where nothing interrupts a wait
                pass
    except KeyboardInterrupt:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if served is not None and served.busy:
            atexit.register(_leave, served)


def _leave(served: App) -> None:
    # A thread within torch, taken down with the interpreter, aborts the process: https://bugs.python.org/issue42969
    if served.busy:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
