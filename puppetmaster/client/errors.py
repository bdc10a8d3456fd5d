"""What calls of a client raise. The tree is drawn in :mod:`puppetmaster.client`."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

from puppetmaster.errors import (
    Conflict,
    DeviceNotFound,
    Fault,
    Forbidden,
    InvalidDocument,
    JobNotFound,
    PuppetmasterError,
    RequestNotFound,
    StoreUnavailable,
    TooLarge,
    TooManyAttempts,
    Unauthorized,
)

LOGIN = "/login"
"""Where a wrong password is refused as well: a token is of no use there."""

_LOGIN_ADVICE = ": POST /login"
"""Begins what the server advises who speaks HTTP; who uses a client is told what to do with that."""


class AnswerError(PuppetmasterError):
    """Raised when puppetmaster answers that it will not do it; ``code`` and ``data`` are those of the answer.

    Where :mod:`puppetmaster.errors` has an error for the code, what is raised is one of that kind as well.

    :param resource: what was asked for.
    :param retry_after: seconds after which the server wants to be asked again, if it said so.
    """

    hint = ""

    def __init__(self, code: int, data: Any = None, *, resource: str = "", retry_after: float | None = None) -> None:
        self.code, self.data, self.resource = code, data, resource
        self.retry_after: Any = retry_after
        self.message = self.reason = _text(data, "message")
        self.ident = _ident(resource)
        self.faults = tuple(_faults(data))
        hint = f": {self.hint}" if self.hint and resource != LOGIN else ""
        said = self.message.partition(_LOGIN_ADVICE)[0] if hint else self.message
        # The other bases' constructors take facts and write the message; here it is written already.
        Exception.__init__(self, f"{said or 'the answer gives no reason'} (code {code}){hint}")


class DocumentRefused(AnswerError, InvalidDocument):
    """Raised when a body or a query breaks a rule (400); ``faults`` has every one with its path."""


class LoginNeeded(AnswerError, Unauthorized):
    """Raised when the server wants to know who asks (401): there is no token, or it is not valid any more."""

    hint = "a token belongs in PUPPETMASTER_TOKEN (puppetmaster accounts token makes one)"


class NotAllowed(AnswerError, Forbidden):
    """Raised when the account may not do that, or the server may not be called by this name (403)."""


class UnknownJob(AnswerError, JobNotFound):
    """Raised when there is no such job (404)."""


class UnknownRequest(AnswerError, RequestNotFound):
    """Raised when there is no such request (404)."""


class UnknownDevice(AnswerError, DeviceNotFound):
    """Raised when there is no such device (404)."""


class StateForbids(AnswerError, Conflict):
    """Raised when the state of a job or a request forbids it, or a key belongs to another body (409)."""


class SizeRefused(AnswerError, TooLarge):
    """Raised when the body, or what the answer would be, passes a limit of size (413)."""


class Throttled(AnswerError, TooManyAttempts):
    """Raised when logins failed too often (429); ``retry_after`` says for how many seconds none is looked at."""


class OutOfService(AnswerError, StoreUnavailable):
    """Raised when the store can't write now, or memory is short (503): nothing was created."""


class NoAnswer(PuppetmasterError, ConnectionError):
    """Raised when no puppetmaster answers over HTTP: nobody is there, it is silent, or somebody else is there.

    :param maybe_done: whether the call may have been carried out all the same.
    :param lasting: whether asking again is of no use.
    :param retry_after: seconds after which something on the way wants to be asked again, if it said so.
    """

    code = 502

    def __init__(
        self, message: str, *, maybe_done: bool = False, lasting: bool = False, retry_after: float | None = None
    ) -> None:
        self.maybe_done, self.lasting, self.retry_after = maybe_done, lasting, retry_after
        Exception.__init__(self, message)


class NotEnded(PuppetmasterError, TimeoutError):
    """Raised when a job has not ended in the time that the caller wanted to wait; the job goes on."""

    code = 408

    def __init__(self, job_id: int, timeout: float, last: str) -> None:
        self.job_id, self.timeout = job_id, timeout
        Exception.__init__(self, f"job {job_id} has not ended within {timeout:g} s{last}")


_BY_CODE: dict[int, type[AnswerError]] = {
    400: DocumentRefused,
    401: LoginNeeded,
    403: NotAllowed,
    409: StateForbids,
    413: SizeRefused,
    429: Throttled,
    503: OutOfService,
}

_JOB, _REQUEST = re.compile(r"/jobs/(\d+)\b"), re.compile(r"/requests?/(\d+)\b")
_DEVICE = re.compile(r"/devices/([^/?]+)")


_UNKNOWN: dict[re.Pattern[str], type[AnswerError]] = {
    _JOB: UnknownJob, _REQUEST: UnknownRequest, _DEVICE: UnknownDevice,
}  # fmt: skip


def refusal(code: int, data: Any, resource: str, retry_after: float | None = None) -> AnswerError:
    """The error for an answer that is no success."""
    found = _BY_CODE.get(code, AnswerError)
    if code == 404:
        found = next((error for pattern, error in _UNKNOWN.items() if pattern.match(resource)), AnswerError)
    return found(code, data, resource=resource, retry_after=retry_after)


def _ident(resource: str) -> object:
    """The number of the job or request that a call is about, or the name of the device, or none."""
    found = _JOB.match(resource) or _REQUEST.match(resource)
    if found is not None:
        return int(found[1])
    device = _DEVICE.match(resource)
    return unquote(device[1]) if device else None


def _text(data: Any, key: str) -> str:
    value = data.get(key) if isinstance(data, dict) else None
    return value if isinstance(value, str) else ""


def _faults(data: Any) -> list[Fault]:
    errors = data.get("errors") if isinstance(data, dict) else None
    listed = errors if isinstance(errors, list) else []
    return [Fault(_text(error, "path"), _text(error, "message")) for error in listed]
