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

Publish = Callable[[str, bytes, bool], None]
"""Publishes a payload on a topic, retained or not."""


class Teller:
    """Tells of jobs at their pace, and nothing while there is no broker.

    :param publish: must keep what it is given until the broker has it.
    """

    def __init__(self, instance: str, publish: Publish) -> None:
        self._instance = instance
        self._publish = publish
        self._pacing: Pacing[Document | None] = Pacing(self._say)

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
        self._publish(wire.job_topic(self._instance, job_id), wire.encode(job_view(job_id, document)), True)

    def forget(self, job_id: int | str) -> None:
        """Take the retained state of a job away."""
        self._publish(wire.job_topic(self._instance, job_id), b"", True)

    def _say(self, change: Change, job_id: int, document: Document | None) -> None:
        resource = f"/jobs/{job_id}"
        if document is None:
            self._publish(wire.CONTROLLER_TOPIC, wire.event(change.value, resource, {"id": job_id}), False)
            self.forget(job_id)
            return
        view = job_view(job_id, document)
        self._publish(wire.CONTROLLER_TOPIC, wire.event(change.value, resource, view), False)
        self._publish(wire.job_topic(self._instance, job_id), wire.encode(view), True)
