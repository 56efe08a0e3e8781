"""Answers that come in pieces, as server-sent events: each is a line of JSON, sent when it is known.

An answer ends when it is whole, when its page is left, and when the same page asks for another.

Needs the extra `explorer`, as the server does.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Container, Mapping
from contextlib import suppress
from typing import Any, Protocol, runtime_checkable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from itda.explorer.answering import disconnected, failure_of, json_bytes
from itda.explorer.threads import AnswerThreads

THREADS, WAITING = 2, 4
"""Answers that come at the same time, and requests that may wait for one of these to end."""

SendValues = Callable[[Mapping[str, Any]], None]
"""Takes the next piece of an answer: values for JSON. What is sent after the end goes nowhere."""


@runtime_checkable
class StreamedAnswers(Protocol):
    """An object whose answers come in pieces; the server calls it from several threads at once."""

    @property
    def streams(self) -> Container[str]:
        """Names of the answers that come in pieces."""
        ...

    def stream(self, name: str, query: Mapping[str, str], send: SendValues, left: threading.Event) -> None:
        """Send an answer; return when it is whole, or soon after `left` is set. Raises `ItdaError`."""
        ...


class Streams:
    """The answers that are coming now. A page, which calls itself by a name in `client`, has one at a time."""

    def __init__(self, answers: StreamedAnswers) -> None:
        self._answers = answers
        self._threads = AnswerThreads(THREADS, WAITING)
        self._of_client: dict[str, threading.Event] = {}

    @property
    def names(self) -> Container[str]:
        """Names of the answers that come in pieces."""
        return self._answers.streams

    @property
    def busy(self) -> bool:
        """True if an answer is coming or waits to begin."""
        return self._threads.taken > 0

    def close(self) -> None:
        """End the threads, each once it has sent its answer, and let the answers that are coming end soon."""
        for left in list(self._of_client.values()):
            left.set()
        self._threads.close()

    async def respond(self, name: str, query: Mapping[str, str], request: Request) -> Response:
        """Return the response to a request, once the first piece is known. Raises `HTTPException` if too many wait."""
        coming = _Coming(asyncio.get_running_loop())
        client = query.get("client") or str(id(coming))
        self._end(client)
        future = self._threads.submit(lambda: coming.compute(self._answers, name, query))
        if future is None:
            busy = f"the model is writing for {self._threads.taken} other pages: try again in a moment"
            raise HTTPException(429, busy, headers={"Retry-After": "1"})
        self._of_client[client] = coming.left
        gone = asyncio.ensure_future(disconnected(request.receive))

        def ended() -> None:
            coming.left.set()
            future.cancel()
            gone.cancel()
            if self._of_client.get(client) is coming.left:
                del self._of_client[client]

        try:
            first = await coming.next(gone)
        except BaseException:
            ended()
            raise
        if isinstance(first, _Refused):
            ended()
            return Response(json_bytes({"error": first.sentence}), first.status, media_type="application/json")
        return _Events(first, lambda: coming.next(gone), ended)

    def _end(self, client: str) -> None:
        """Let the answer that a page waits for end, as it asks for another."""
        if client in self._of_client:
            self._of_client.pop(client).set()


class _Refused:
    """The end of an answer that failed: a status and a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        self.status, self.sentence = status, sentence


Piece = bytes | _Refused | None
"""A piece of an answer, as JSON; None at its end."""


class _Coming:
    """One answer: it is computed in a thread, and its pieces are waited for in the server's loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.left = threading.Event()
        self._loop, self._pieces = loop, asyncio.Queue[Piece]()

    def compute(self, answers: StreamedAnswers, name: str, query: Mapping[str, str]) -> None:
        """Send the pieces of an answer, and the end. Raises nothing."""
        try:
            if not self.left.is_set():
                answers.stream(name, query, lambda values: self._put(json_bytes(values)), self.left)
            self._put(None)
        except BaseException as error:  # an exit() too: it would end the server
            self._put(_Refused(*failure_of(name, error)))

    def _put(self, piece: Piece) -> None:
        with suppress(RuntimeError):  # the loop is closed, as the server has ended
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)

    async def next(self, gone: asyncio.Future[None]) -> Piece:
        """Wait for the next piece; None at the end, and when the client is `gone`."""
        piece = asyncio.ensure_future(self._pieces.get())
        await asyncio.wait({piece, gone}, return_when=asyncio.FIRST_COMPLETED)
        if gone.done():
            piece.cancel()
            return None
        return piece.result()


class _Events(Response):
    """A response of server-sent events. They are not compressed, as that would hold pieces back."""

    media_type = "text/event-stream"

    def __init__(self, first: Piece, more: Callable[[], Any], ended: Callable[[], None]) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._first, self._more, self._ended = first, more, ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            piece = self._first
            while piece is not None:
                values = json_bytes({"error": piece.sentence}) if isinstance(piece, _Refused) else piece
                await send({"type": "http.response.body", "body": b"data: %s\n\n" % values, "more_body": True})
                piece = None if isinstance(piece, _Refused) else await self._more()
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._ended()
