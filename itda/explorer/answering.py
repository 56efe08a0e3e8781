"""What the explorer's server does with every answer: values as JSON, errors as a status and a sentence.

Needs the extra `explorer`, as the server does.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from starlette.types import Receive

from itda.errors import ItdaError, MissingError

logger = logging.getLogger(__name__)


def json_bytes(values: Mapping[str, Any]) -> bytes:
    """Return values as JSON, in ASCII, because a token that is half a character may have no UTF-8 form.

    >>> json_bytes({"text": chr(0xd83d)})
    b'{"text":"\\\\ud83d"}'
    """
    return json.dumps(values, allow_nan=False, separators=(",", ":")).encode("ascii")


def failure_of(name: str, error: BaseException) -> tuple[int, str]:
    """Return the status and the sentence of an answer that failed. What is our own fault is logged.

    >>> failure_of("atom", MissingError("no atom 9: there are 3"))
    (404, 'no atom 9: there are 3')
    """
    if isinstance(error, ItdaError):
        return 404 if isinstance(error, MissingError) else 400, str(error)
    logger.error("the answer %r failed", name, exc_info=error)
    kind = type(error).__name__
    return 500, f"a fault of the explorer's own ({kind}): its terminal has the details to report"


async def disconnected(receive: Receive) -> None:
    """Return when the client of a request, whose body was read, has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
