"""Neuronpedia's own client (`pip install neuronpedia`) with what it lacks: timeouts, waits, a line for each failure.

The client prints what it does, waits for ever for a server that does not answer, and tells of a refusal what its status
is but not how long to wait. Each request goes through it all the same: its classes make the addresses and the fields.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib import import_module
from typing import Any, TypeVar

from itda.errors import SettingError, StoreError
from itda.files import first_line

T = TypeVar("T")

CONNECT_S, ANSWER_S = 10.0, 120.0
"""Seconds that a server may take to be reached, and to answer."""
RETRIES_S = (1.0, 4.0, 16.0)
"""Seconds before each further try where a server fails or does not answer."""
LONGEST_WAIT_S = 900.0
"""The most seconds that we wait, in all, when a server says that we ask too often."""
USUAL_WAIT_S = 60.0
"""Seconds that we wait where it does not say how long."""
KEY = "NEURONPEDIA_API_KEY"
"""The variable of the environment that holds the user's key."""
GO_ON = "nothing is lost, and the same command goes on from here"


class TooLargeError(StoreError):
    """A server does not take so large a request."""


class Client:
    """Requests to a server that speaks Neuronpedia's protocol."""

    def __init__(
        self, server: str | None, say: Callable[[str], object], sleep: Callable[[float], object] = time.sleep
    ) -> None:
        """`server` is the address of its API, None for neuronpedia.org. Raises `SettingError` without client or key."""
        self._requests = client_package("neuronpedia.requests.base_request")
        self.server, self._say, self._sleep = server, say, sleep
        self._answer: Any = None
        self._waited = 0.0

    @property
    def name(self) -> str:
        """The server, for messages."""
        return self.server or "Neuronpedia"

    def request(self, kind: str) -> Any:
        """Return one of the client's request objects by its name, such as `FeatureRequest`. Raises `SettingError`."""
        base = getattr(client_package("neuronpedia"), kind)

        def send(request: Any, uri: str = "", method: str = "POST", **given: Any) -> Any:
            self._answer = None
            with redirect_stdout(io.StringIO()):
                return base.send_request(
                    request, uri, method, timeout=(CONNECT_S, ANSWER_S), hooks={"response": self._keep}, **given
                )

        more = {"send_request": send} | ({"BASE_URL": self.server} if self.server is not None else {})
        try:
            return type(kind, (base,), more)()
        except self._requests.NPKeyMissingError:
            raise SettingError(f"no key for {self.name}: set {KEY} to yours (neuronpedia.org, Settings)") from None

    def _keep(self, answer: Any, *_: object, **__: object) -> None:
        self._answer = answer

    def ask(self, doing: str, call: Callable[[], T], done: Callable[[], T | None] = lambda: None) -> T:
        """Return what a call of a request object returns; wait and try again where that may help.

        Before another try, `done` may find that the server has done it all the same: what it returns is returned.
        Raises `StoreError`, in one line, where it does not: `TooLargeError` for too large a request, `NotFoundError`
        for what is not there.
        """
        tries = 0
        while True:
            self._answer = None
            try:
                return call()
            except Exception as error:
                status = self._answer.status_code if self._answer is not None else None
                if status is None and not isinstance(error, OSError):  # errors of requests are such
                    raise
                if status == 429:
                    self._wait(doing)
                    continue
                if status is not None and 400 <= status < 500:
                    raise self._refusal(status, doing, error) from error
                # It failed, did not answer, or answered with what is no JSON.
                if tries == len(RETRIES_S):
                    raise StoreError(f"cannot {doing}: {self.name} {_failure(status, error)}: {GO_ON}") from error
                self._sleep(RETRIES_S[tries])
                tries += 1
                found = done()
                if found is not None:
                    return found

    def _refusal(self, status: int, doing: str, error: Exception) -> StoreError:
        if status in (401, 403):
            return StoreError(f"cannot {doing}: {self.name} does not know the key ({status}): check {KEY}; {GO_ON}")
        if status == 413:
            return TooLargeError(f"cannot {doing}: it is too large for {self.name} (413): raise the server's limit")
        if status == 404:
            return NotFoundError(f"cannot {doing}: {self.name} has no such address (404): check --server")
        return RefusedError(
            f"cannot {doing}: {self.name} refuses it ({status}, {_said(self._answer) or _reason(error)})"
        )

    def _wait(self, doing: str) -> None:
        """Wait as long as the server says, or a minute; not more than `LONGEST_WAIT_S` in all."""
        seconds = _told_to_wait(self._answer.headers.get("Retry-After"))
        if self._waited + seconds > LONGEST_WAIT_S:
            raise StoreError(
                f"cannot {doing}: {self.name} takes no more for now (429), and asks for {seconds:,.0f} s: {GO_ON} later"
            )
        self._say(f"{self.name} asks to wait {seconds:,.0f} s (429)")
        self._waited += seconds
        self._sleep(seconds)


class NotFoundError(StoreError):
    """A server does not have what is asked for."""


class RefusedError(StoreError):
    """A server says what is wrong with a request."""


def client_package(name: str) -> Any:
    """Import a module of the client. Raises `SettingError` if it is not installed."""
    try:
        return import_module(name)
    except ImportError:
        raise SettingError("Neuronpedia's client is not installed: pip install 'itda[neuronpedia]'") from None


def _told_to_wait(header: str | None) -> float:
    """Return the seconds that a Retry-After header asks for: a number, or a date.

    >>> _told_to_wait("7"), _told_to_wait(None), _told_to_wait("Mon, 01 Jan 2001 00:00:00 GMT")
    (7.0, 60.0, 0.0)
    """
    if header is None:
        return USUAL_WAIT_S
    try:
        return max(0.0, float(header)) if header.strip().isdecimal() else _seconds_until(header)
    except ValueError:
        return USUAL_WAIT_S


def _seconds_until(date: str) -> float:
    then = parsedate_to_datetime(date)
    return max(0.0, (then.replace(tzinfo=then.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _said(answer: Any) -> str | None:
    """Return what a server's answer says is wrong, on one line."""
    try:
        found = answer.json()
        text = found.get("error") or found.get("message") if isinstance(found, dict) else None
    except ValueError:
        text = answer.text
    return " ".join(str(text).split())[:200] if text else None


def _failure(status: int | None, error: BaseException) -> str:
    if status is None:
        return f"does not answer ({_reason(error)})"
    return f"answers {status}" if status >= 400 else f"answers what its client cannot read ({first_line(error)})"


def _reason(error: BaseException) -> str:
    """Return the kind of a connection's failure: the text of requests' own errors is long."""
    name = type(error).__name__
    if "Timeout" in name:
        return f"no answer within {ANSWER_S:,.0f} s"
    return "no connection" if "Connection" in name else first_line(error)
