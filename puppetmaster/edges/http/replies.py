"""What goes back over HTTP: JSON answers, and errors as every edge tells them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from puppetmaster.errors import PuppetmasterError, TooManyAttempts
from puppetmaster.operations import Outcome, refusal
from puppetmaster.service import STORE_RETRY

JSON = "application/json"

NOT_MODIFIED, UNAUTHORIZED, TOO_SLOW, TOO_LARGE, UNAVAILABLE = 304, 401, 408, 413, 503


def reply(code: int, data: Any, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with a document."""
    return Response(orjson.dumps(data), code, headers, JSON)


def reply_outcome(outcome: Outcome) -> Response:
    """Answer with what became of a call."""
    return reply(outcome.code, outcome.data, error_headers(outcome.error))


def reply_error(error: PuppetmasterError) -> Response:
    """Answer with an error."""
    return reply_outcome(refusal(error))


def reply_tagged(request: Request, outcome: Outcome) -> Response:
    """Answer with a document and its ETag, or with 304 when the caller has this very document."""
    if outcome.error is not None:
        return reply_outcome(outcome)
    answer = reply_outcome(outcome)
    tag = f'"{hashlib.blake2b(answer.body, digest_size=12).hexdigest()}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    if _matches(",".join(request.headers.getlist("if-none-match")), tag):
        return Response(None, NOT_MODIFIED, headers)
    answer.headers.update(headers)
    return answer


def error_headers(error: PuppetmasterError | None) -> dict[str, str]:
    """What an HTTP client is told of an error beside its body."""
    if isinstance(error, TooManyAttempts):
        return {"Retry-After": str(math.ceil(error.retry_after))}
    if error is None:
        return {}
    if error.code == UNAVAILABLE:
        return {"Retry-After": str(math.ceil(getattr(error, "retry_after", STORE_RETRY)))}
    if error.code == UNAUTHORIZED:
        return {"WWW-Authenticate": "Bearer"}
    # The rest of such a body may not have been read, so nothing can follow it on this connection.
    return {"Connection": "close"} if error.code in (TOO_LARGE, TOO_SLOW) else {}


def _matches(condition: str, tag: str) -> bool:
    tags = [entry.strip().removeprefix("W/") for entry in condition.split(",")]
    return "*" in tags or tag in tags
