"""What is known of a run from outside: what was asked, what the API shows, what the devices did, what lies on disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Document = dict[str, Any]

FINAL_JOB = frozenset({"resolved", "canceled", "aborted", "timeout"})
FINAL_REQUEST = frozenset({"resolved", "error", "timeout", "canceled"})


@dataclass
class Posted:
    """One document that was posted, as often as it took."""

    document: Document
    is_bad: bool = False
    """Whether it has a fault, so that it must be answered 400."""
    ends: str = "all"
    """``all``: every request is done by its device; ``any``: it may be called off or time out."""
    codes: list[int] = field(default_factory=list)
    """What it was answered; 0 stands for no answer."""
    ids: set[int] = field(default_factory=set)
    """The jobs that it was answered with."""

    @property
    def name(self) -> str:
        return str(self.document["name"])

    @property
    def is_accepted(self) -> bool:
        return 200 in self.codes


@dataclass
class Records:
    """All of a run, after its end."""

    posted: list[Posted] = field(default_factory=list)
    jobs: list[Document] = field(default_factory=list)
    """The run's jobs, as the API lists them."""
    requests: dict[int, list[Document]] = field(default_factory=dict)
    """Their requests, by the job's id."""
    work: list[Document] = field(default_factory=list)
    """What the devices did, in the order in which each device did it."""
    told: list[Document] = field(default_factory=list)
    """The states of jobs that were told on the bus, in the order in which they came."""
    stored: dict[str, dict[int, Document]] | None = None
    """The tables of the store, as stock TinyDB reads them; none where that was not looked at."""
    log: str = ""
    """What the bundle logged."""
