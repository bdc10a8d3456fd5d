"""The state tables of requests and jobs.

Rules of both machines:

- A status changes by an event, and only along a row below. What stands nowhere is an error that changes nothing.
- A final status has no exits: its row is ``{}``. Counters rely on that.
- A request goes back to ``created`` when it is to be tried again; its attempt number tells how often it was out.
- An answer may overtake the broker's acknowledgement of the request, so ``created`` has the exits of ``sent``.
- A job ends by itself when all its requests have ended; the other endings end its requests with it.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, TypeVar

from puppetmaster.errors import IllegalTransition


class _Status(str, Enum):
    """A status, shown to people as the word on the wire."""

    def __str__(self) -> str:
        return str(self.value)


class RequestStatus(_Status):
    """Where a request stands; the value is the word on the wire."""

    CREATED = "created"
    """Waits for its turn, or for its next attempt."""
    SENT = "sent"
    """The broker has it."""
    RUNNING = "running"
    """The device reported progress."""
    RESOLVED = "resolved"
    """The device answered with a code of 200 to 299."""
    ERROR = "error"
    """The device answered with another final code."""
    TIMEOUT = "timeout"
    """No answer came in time, for the request or for its job."""
    CANCELED = "canceled"
    """It was called off, alone or with its job."""


class RequestEvent(str, Enum):
    """What can happen to a request."""

    ACCEPT = "accept"
    """The broker acknowledged it."""
    PROGRESS = "progress"
    """The device answered 102."""
    RESOLVE = "resolve"
    """The device answered 200 to 299."""
    FAIL = "fail"
    """The device answered another code, and no attempt follows."""
    RETRY = "retry"
    """An attempt came to nothing and another one follows."""
    EXPIRE = "expire"
    """No answer came in time, and no attempt follows; or its job ran out of time."""
    CANCEL = "cancel"
    """Somebody called it off, or its job ended without it."""


_ENDINGS: dict[RequestEvent, RequestStatus] = {
    RequestEvent.RESOLVE: RequestStatus.RESOLVED,
    RequestEvent.FAIL: RequestStatus.ERROR,
    RequestEvent.EXPIRE: RequestStatus.TIMEOUT,
    RequestEvent.CANCEL: RequestStatus.CANCELED,
}

REQUEST_TRANSITIONS: dict[RequestStatus, dict[RequestEvent, RequestStatus]] = {
    RequestStatus.CREATED: {
        RequestEvent.ACCEPT: RequestStatus.SENT,
        RequestEvent.PROGRESS: RequestStatus.RUNNING,
        RequestEvent.RETRY: RequestStatus.CREATED,
        **_ENDINGS,
    },
    RequestStatus.SENT: {
        RequestEvent.PROGRESS: RequestStatus.RUNNING,
        RequestEvent.RETRY: RequestStatus.CREATED,
        **_ENDINGS,
    },
    RequestStatus.RUNNING: {
        RequestEvent.PROGRESS: RequestStatus.RUNNING,
        RequestEvent.RETRY: RequestStatus.CREATED,
        **_ENDINGS,
    },
    RequestStatus.RESOLVED: {},
    RequestStatus.ERROR: {},
    RequestStatus.TIMEOUT: {},
    RequestStatus.CANCELED: {},
}

REQUEST_FINAL = frozenset(status for status, exits in REQUEST_TRANSITIONS.items() if not exits)
REQUEST_OUT = frozenset({RequestStatus.SENT, RequestStatus.RUNNING})
"""The statuses of a request that the broker has and that waits for its answer."""
REQUEST_FAILED = frozenset({RequestStatus.ERROR, RequestStatus.TIMEOUT})
"""The endings that count towards a job's abort threshold; a canceled request says nothing about its device."""


class JobStatus(_Status):
    """Where a job stands; the value is the word on the wire."""

    PENDING = "pending"
    """Waits for its start time."""
    DISPATCHING = "dispatching"
    """Sends its requests and takes their answers."""
    PAUSED = "paused"
    """Sends nothing; what is out is still answered."""
    RESOLVED = "resolved"
    """All its requests ended, whichever way; the counters tell how."""
    CANCELED = "canceled"
    """It was called off."""
    ABORTED = "aborted"
    """Too many of its requests failed."""
    TIMEOUT = "timeout"
    """Its deadline came first."""


class JobEvent(str, Enum):
    """What can happen to a job."""

    START = "start"
    """Its time has come, or somebody resumed it."""
    WAIT = "wait"
    """Somebody resumed it before its start time."""
    PAUSE = "pause"
    """Somebody paused it."""
    FINISH = "finish"
    """The last of its requests ended."""
    CANCEL = "cancel"
    """Somebody called it off."""
    ABORT = "abort"
    """Its abort threshold was reached."""
    EXPIRE = "expire"
    """Its deadline came."""


JOB_TRANSITIONS: dict[JobStatus, dict[JobEvent, JobStatus]] = {
    JobStatus.PENDING: {
        JobEvent.START: JobStatus.DISPATCHING,
        JobEvent.PAUSE: JobStatus.PAUSED,
        JobEvent.FINISH: JobStatus.RESOLVED,
        JobEvent.CANCEL: JobStatus.CANCELED,
    },
    JobStatus.DISPATCHING: {
        JobEvent.PAUSE: JobStatus.PAUSED,
        JobEvent.FINISH: JobStatus.RESOLVED,
        JobEvent.CANCEL: JobStatus.CANCELED,
        JobEvent.ABORT: JobStatus.ABORTED,
        JobEvent.EXPIRE: JobStatus.TIMEOUT,
    },
    JobStatus.PAUSED: {
        JobEvent.START: JobStatus.DISPATCHING,
        JobEvent.WAIT: JobStatus.PENDING,
        JobEvent.FINISH: JobStatus.RESOLVED,
        JobEvent.CANCEL: JobStatus.CANCELED,
        JobEvent.ABORT: JobStatus.ABORTED,
        JobEvent.EXPIRE: JobStatus.TIMEOUT,
    },
    JobStatus.RESOLVED: {},
    JobStatus.CANCELED: {},
    JobStatus.ABORTED: {},
    JobStatus.TIMEOUT: {},
}

JOB_FINAL = frozenset(status for status, exits in JOB_TRANSITIONS.items() if not exits)

REQUEST_WORDS = {status: status.value for status in RequestStatus}
"""The words on the wire: looking one up takes a fifth of what ``status.value`` does, a property written in Python."""

_S = TypeVar("_S", RequestStatus, JobStatus)


def next_status(noun: str, table: dict[_S, dict[Any, _S]], status: _S, event: Enum) -> _S:
    """Where ``event`` leads from ``status``.

    :raises IllegalTransition: when the table has no such exit.
    """
    following = table[status].get(event)
    if following is None:
        raise IllegalTransition(noun, status.value, event.value)
    return following
