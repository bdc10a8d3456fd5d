"""One job as it is watched over HTTP: what was heard of it, and what to do when nothing is.

Like everything that both clients share it neither waits nor sends; they hand in bytes and times.
"""

from __future__ import annotations

import logging
from typing import Any, Generic, TypeVar

import orjson

from puppetmaster.client.attempts import Attempts
from puppetmaster.client.calls import Call
from puppetmaster.client.documents import Absence, Document, Told, follows, is_final, is_same, without_requests
from puppetmaster.client.errors import NoAnswer, NotEnded, UnknownJob
from puppetmaster.client.events import Event, EventReader
from puppetmaster.client.server import Server
from puppetmaster.errors import PuppetmasterError

logger = logging.getLogger(__name__)

SILENCE = 45.0
"""Seconds of silence after which a stream counts as broken: the server sends something every 15 s."""

LOST_AFTER = 60.0
"""Seconds without any word on a job after which watching it is given up: restarts take less."""

SLACK = 1.0
"""Seconds by which a stream's patience may pass the caller's."""

T = TypeVar("T")


class Watching(Generic[T]):
    """A job's states in their order, each once, over as many streams as it takes.

    :param call: opens a stream; reads a state.
    :param timeout: seconds until the job has to have ended; none waits for ever.
    :param patience: seconds for the first word.
    :param told: is told when there is no word any more, and when there is again.
    """

    def __init__(
        self,
        server: Server,
        call: Call[T],
        job_id: int,
        *,
        timeout: float | None,
        patience: float,
        told: Told | None,
        now: float,
    ) -> None:
        self.call = call
        self.is_over = False
        self.was_removed = False
        self._server = server
        self._job_id = job_id
        self._timeout = timeout
        self._deadline = None if timeout is None else now + timeout
        self._attempts = Attempts(call, patience=patience, now=now)
        self._absence = Absence(told)
        self._last: Document | None = None
        self._reader = EventReader()
        self._silence = SILENCE

    def open(self, now: float) -> dict[str, Any]:
        """The question that opens the next stream, in the words of httpx.

        :raises NotEnded: when the caller's time is over.
        """
        self._check_time(now)
        self._reader = EventReader()
        self._silence = min(SILENCE, self._left(now))
        return self._server.question(self.call, self._silence)

    def hear(self, chunk: bytes, now: float) -> list[T]:
        """The states in a piece of the stream."""
        self._attempts = Attempts(self.call, patience=LOST_AFTER, now=now)
        self._absence.ends()
        return [self._server.take(self.call, job) for event in self._read(chunk) if (job := self._new(event))]

    def is_stale(self, now: float) -> bool:
        """Whether the caller's time is over, or silence on this stream would outlast it: another has to be opened."""
        left = self._left(now)
        return left <= 0 or self._silence > left + SLACK

    def ended(self) -> NoAnswer:
        """What it means that the stream ended before the job did."""
        return NoAnswer(f"{self._server.url} ended the stream of job {self._job_id}", maybe_done=True)

    def failed(self, error: PuppetmasterError, *, now: float, random: float) -> float:
        """Seconds until the next stream is opened after this one failed.

        :raises PuppetmasterError: when it is no use.
        :raises NotEnded: when the caller's time is over.
        """
        if isinstance(error, NotEnded):
            raise error
        if isinstance(error, UnknownJob) and self._last is not None:
            self.is_over = self.was_removed = True
            return 0.0
        self._check_time(now)
        logger.info("no word on job %s: %s", self._job_id, error, extra={"event": "job_silent", "job": self._job_id})
        delay = self._attempts.next_delay(error, reached=self._server.reached, now=now, random=random)
        if delay is None:
            raise self._given_up(error)
        # A stream that only broke off is nobody's absence: the next one comes at once.
        if self._attempts.number > 1 and self._last is not None:
            self._absence.begins(error)
        return min(delay, self._left(now))

    def _given_up(self, error: PuppetmasterError) -> PuppetmasterError:
        if self._last is None or not isinstance(error, NoAnswer):
            return error
        given_up = NoAnswer(f"no word on job {self._job_id} for {LOST_AFTER:.0f} s: {error}", maybe_done=True)
        given_up.__cause__ = error
        return given_up

    def _read(self, chunk: bytes) -> list[Event]:
        try:
            return self._reader.feed(chunk)
        except ValueError as error:
            raise NoAnswer(f"{self._server.url}: {error}", lasting=True) from error

    def _new(self, event: Event) -> Document | None:
        """The job, when the event brings a state that was not known."""
        if self.is_over or event.name not in ("job", "removed"):
            return None
        if event.name == "removed":
            self.is_over = self.was_removed = True
            return None
        job = _document(event)
        if job is None:
            logger.warning("an event can't be read: %.200r", event.data, extra={"event": "stream_event_unreadable"})
            return None
        if self._last is not None and not is_same(job, self._last):
            # Another job has its number: the store was made anew.
            self.is_over = self.was_removed = True
            return None
        if self._last is not None and (job == self._last or not follows(job, self._last)):
            return None
        self._last = job
        self.is_over = is_final(job)
        return job

    def _left(self, now: float) -> float:
        return max(0.0, self._deadline - now) if self._deadline is not None else float("inf")

    def _check_time(self, now: float) -> None:
        if self._timeout is not None and self._left(now) <= 0:
            state = f": it is {self._last.get('status')}, {self._last.get('progress')} % done" if self._last else ""
            raise NotEnded(self._job_id, self._timeout, state)


def _document(event: Event) -> Document | None:
    try:
        document = orjson.loads(event.data)
    except orjson.JSONDecodeError:
        return None
    return without_requests(document) if isinstance(document, dict) else None
