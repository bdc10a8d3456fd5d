"""What the engine says: what is to be done, what happened to a job, what became of an answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from puppetmaster.models import Job, Request


class Change(str, Enum):
    """What happened to a job, as the method of the event that tells of it."""

    CREATED = "post"
    CHANGED = "put"
    REMOVED = "delete"


class Verdict(str, Enum):
    """What became of an answer. All but the first change nothing."""

    APPLIED = "applied"
    LATE = "late"
    """Its request, or the whole job, had ended without it."""
    DUPLICATE = "duplicate"
    """Its request was answered before."""
    UNKNOWN = "unknown"
    """No request has its id, or the request was never sent."""
    FOREIGN = "foreign"
    """It came from another device than the request went to."""


@dataclass(slots=True)
class Effects:
    """What the service has to do, in this order: save and remove; send; tell."""

    jobs: dict[int, Job] = field(default_factory=dict)
    """Jobs to save."""
    requests: dict[int, Request] = field(default_factory=dict)
    """Requests to save."""
    removed: list[Job] = field(default_factory=list)
    """Jobs to remove with all their requests."""
    sends: list[tuple[Request, int]] = field(default_factory=list)
    """Requests to publish, each with the attempt that this is: no longer wanted when the request has moved on."""
    aborts: list[Request] = field(default_factory=list)
    """Requests that were out and have been called off: whoever works on them may stop."""
    changes: dict[int, tuple[Change, Job]] = field(default_factory=dict)
    """Jobs to tell of, by id."""

    def __bool__(self) -> bool:
        return bool(self.jobs or self.requests or self.removed or self.sends or self.aborts or self.changes)
