"""Tells everybody on the bus what became of a job, once it is on disk.

Two ways: a Sanji event through the controller to every view, and the job's state retained on a topic of its own. Of a
job that changes often, at most ten changes a second are told, and the last one always and at once.
"""

from __future__ import annotations

from collections.abc import Callable

from puppetmaster import wire
from puppetmaster.documents import Document
from puppetmaster.effects import Change
from puppetmaster.pacing import Pacing
from puppetmaster.states import JOB_FINAL
from puppetmaster.views import job_view

Publish = Callable[[str, bytes, bool, Callable[[], bool] | None], None]
"""Publishes a payload on a topic, retained or not; what is not wanted any more is not published a second time."""


class Teller:
    """Tells of jobs at their pace, and nothing while there is no broker.

    :param publish: must keep what it is given until the broker has it.
    """

    def __init__(self, instance: str, publish: Publish) -> None:
        self._instance = instance
        self._publish = publish
        self._pacing: Pacing[Document | None] = Pacing(self._say)
        self._said: dict[int, int] = {}
        """How many states of a job were retained."""

    def tell(self, change: Change, job_id: int, document: Document | None) -> None:
        """A job changed, and the document of it is on disk; none when it was removed."""
        ended = document is None or document["status"] in JOB_FINAL
        self._pacing.tell(change, job_id, document, ended=ended)

    def online(self, online: bool) -> None:
        """Tell whether there is a broker; what changes while there is none is told when it is back."""
        self._pacing.hold(not online)

    def flush(self) -> None:
        """Tell all that is untold now."""
        self._pacing.flush()

    def retain(self, job_id: int, document: Document) -> None:
        """Retain a job's state without an event: after a start, for whoever comes to watch."""
        self._retain(job_id, wire.encode(job_view(job_id, document)))

    def forget(self, job_id: int | str) -> None:
        """Take the retained state of a job away."""
        self._publish(wire.job_topic(self._instance, job_id), b"", True, None)

    def _say(self, change: Change, job_id: int, document: Document | None) -> None:
        resource = f"/jobs/{job_id}"
        if document is None:
            self._publish(wire.CONTROLLER_TOPIC, wire.event(change.value, resource, {"id": job_id}), False, None)
            self._said.pop(job_id, None)
            self.forget(job_id)
            return
        view = job_view(job_id, document)
        self._publish(wire.CONTROLLER_TOPIC, wire.event(change.value, resource, view), False, None)
        self._retain(job_id, wire.encode(view))

    def _retain(self, job_id: int, payload: bytes) -> None:
        # Where a connection breaks, the broker may have this one and those after it, and nobody knows. What is
        # published again then is the newest alone: a watcher must not see an older one behind it.
        self._said[job_id] = number = self._said.get(job_id, 0) + 1
        self._publish(wire.job_topic(self._instance, job_id), payload, True,
                      lambda: self._said.get(job_id) == number)
