"""A chunk of a task on its way through the farm: who has it, who failed at it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from puppetmaster.farm.parsers import Parser
from puppetmaster.models import Request
from puppetmaster.store.port import Document

WORK = "farm_work"
"""The table: a document for each chunk that a worker ever had, by its request's id."""

FARM_DESTINATION = "workers"
"""The pool of all workers as a destination."""

_DESTINATION = re.compile(rf"{FARM_DESTINATION}(-\d{{1,9}})?")

MAX_LOG = 16 * 1024
"""Characters of a chunk's output that are kept: its end."""


def destination_of(number: int) -> str:
    """Where the chunk with this number of its task goes.

    A destination gets the requests of a job one at a time, so each chunk has one of its own: several workers do the
    chunks of one task at once.
    """
    return f"{FARM_DESTINATION}-{number}"


def is_farm_destination(destination: str) -> bool:
    """Whether a destination is the farm."""
    return destination.startswith(FARM_DESTINATION) and _DESTINATION.fullmatch(destination) is not None


@dataclass(frozen=True, slots=True)
class Given:
    """What a request asks a worker to do, read from its message's data.

    :raises ValueError: by :meth:`read`, when it is nothing that a worker can do.
    """

    type: str
    parser: str
    commands: list[list[str]]
    frame_start: int
    frame_end: int
    number: int
    """1 for the task's first chunk."""
    task: Mapping[str, Any]
    """What all chunks of the task have in common: its frames and its format."""

    @classmethod
    def read(cls, data: Any) -> Given:
        """Read the data of a message."""
        if not isinstance(data, Mapping):
            raise ValueError("it is no chunk of a task: make tasks with POST /manager/tasks")
        commands, task = data.get("commands"), data.get("task")
        if not isinstance(commands, list) or not commands or not all(map(_is_command, commands)):
            raise ValueError("commands has to be a list of lists of texts: make tasks with POST /manager/tasks")
        return cls(
            type=_text(data.get("type")),
            parser=_text(data.get("parser")),
            commands=commands,
            frame_start=_number(data.get("frame_start")),
            frame_end=_number(data.get("frame_end")),
            number=_number(data.get("chunk")) or 1,
            task=task if isinstance(task, Mapping) else {},
        )


@dataclass(slots=True, kw_only=True, eq=False)
class Work:
    """A chunk, from when a worker could have it until its task is removed."""

    id: int
    """The id of its request, which is the id of the task for the worker that has it."""
    task: int
    """The id of its job, which is the id of the task for everybody else."""
    destination: str
    attempt: int = 0
    """The attempt of the request that it was given or offered with."""
    worker: int | None = None
    """Who has it, or had it when it ended."""
    is_held: bool = False
    """Whether its worker is at it."""
    failures: list[int] = field(default_factory=list)
    """The workers that failed at it, one for each time."""
    losses: int = 0
    """How often it was begun and came to no end."""
    frame_current: int | None = None
    taken: dict[str, str] = field(default_factory=dict)
    """Why workers lost it, by their ids."""

    # What is not stored.
    request: Request | None = None
    """None after a restart, until the engine sends it again."""
    parser: Parser | None = None
    files: tuple[str, ...] = ()
    log: str = ""
    progress: int = 0
    is_begun: bool = False
    """Whether the engine was told that a worker is at it."""

    @property
    def is_wanted(self) -> bool:
        """Whether the engine still waits for an answer to this attempt."""
        request = self.request
        return request is None or (request.is_out and request.attempt == self.attempt)

    def give(self, worker: int) -> None:
        """A worker gets it."""
        self.worker, self.is_held = worker, True
        self.taken.pop(str(worker), None)
        self.parser, self.files, self.log, self.progress, self.is_begun = None, (), "", 0, False
        self.frame_current = None

    def lose(self, why: str) -> None:
        """Its worker loses it."""
        if self.worker is not None:
            self.taken[str(self.worker)] = why
        self.end()

    def end(self) -> None:
        """Nobody is at it any more; what only its worker's reports need is let go of."""
        self.is_held = False
        self.parser, self.files, self.log = None, (), ""


def to_document(work: Work) -> Document:
    """What is stored of it."""
    return {
        "task": work.task,
        "destination": work.destination,
        "attempt": work.attempt,
        "worker": work.worker,
        "held": work.is_held,
        "failures": work.failures,
        "losses": work.losses,
        "frame": work.frame_current,
        "taken": work.taken,
    }


def from_document(work_id: int, document: Document) -> Work:
    """The chunk as it was stored."""
    return Work(
        id=work_id,
        task=document["task"],
        destination=document["destination"],
        attempt=document["attempt"],
        worker=document["worker"],
        is_held=document["held"],
        failures=document["failures"],
        losses=document["losses"],
        frame_current=document["frame"],
        taken=document["taken"],
    )


def _is_command(command: object) -> bool:
    return isinstance(command, list) and bool(command) and all(isinstance(text, str) for text in command)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object) -> int:
    return value if type(value) is int else 0
