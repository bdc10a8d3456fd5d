"""Tells everybody who watches what became of a job, once it is on disk.

Two ways: a Sanji event through the controller to every view, and the job's state retained on a topic of its own. Of a
job that changes often, at most ten changes a second are told, and the last one always.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from puppetmaster import wire
from puppetmaster.effects import Change
from puppetmaster.views import job_view

INTERVAL = 0.1
"""Seconds between two changes of one job that are told."""

Publish = Callable[[str, bytes, bool], None]
"""Publishes a payload on a topic, retained or not."""


class Teller:
    """Keeps the newest untold change of every job until it may be told.

    :param publish: must keep what it is given until the broker has it.
    """

    def __init__(self, instance: str, publish: Publish) -> None:
        self._instance = instance
        self._publish = publish
        self._untold: dict[int, tuple[Change, dict[str, Any] | None]] = {}
        self._told_at: dict[int, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._online = True

    def tell(self, change: Change, job_id: int, document: dict[str, Any] | None) -> None:
        """A job changed, and the document of it is on disk; none when it was removed."""
        earlier = self._untold.get(job_id)
        if earlier is not None and earlier[0] is Change.CREATED and change is Change.CHANGED:
            change = Change.CREATED  # nobody has heard of it yet
        self._untold[job_id] = (change, document)
        self._schedule()

    def online(self, online: bool) -> None:
        """Tell whether there is a broker; what changes while there is none is told when it is back."""
        self._online = online
        self._schedule()

    def flush(self) -> None:
        """Tell all that is untold now."""
        untold, self._untold = self._untold, {}
        now = asyncio.get_running_loop().time()
        for job_id, (change, document) in untold.items():
            self._say(change, job_id, document)
            self._told_at[job_id] = now

    def retain(self, job_id: int, document: dict[str, Any]) -> None:
        """Retain a job's state without an event: after a start, for whoever comes to watch."""
        self._publish(wire.job_topic(self._instance, job_id), wire.encode(job_view(job_id, document)), True)

    def forget(self, job_id: int | str) -> None:
        """Take the retained state of a job away."""
        self._publish(wire.job_topic(self._instance, job_id), b"", True)

    def _schedule(self) -> None:
        if self._timer is None and self._untold and self._online:
            self._timer = asyncio.get_running_loop().call_later(0, self._tell_due)

    def _tell_due(self) -> None:
        self._timer = None
        if not self._online:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._told_at = {job_id: at for job_id, at in self._told_at.items() if now - at < INTERVAL}
        for job_id in [job_id for job_id in self._untold if job_id not in self._told_at]:
            change, document = self._untold.pop(job_id)
            self._say(change, job_id, document)
            self._told_at[job_id] = now
        if self._untold:
            self._timer = loop.call_later(min(self._told_at.values()) + INTERVAL - now, self._tell_due)

    def _say(self, change: Change, job_id: int, document: dict[str, Any] | None) -> None:
        resource = f"/jobs/{job_id}"
        if document is None:
            self._publish(wire.CONTROLLER_TOPIC, wire.event(change.value, resource, {"id": job_id}), False)
            self.forget(job_id)
            return
        view = job_view(job_id, document)
        self._publish(wire.CONTROLLER_TOPIC, wire.event(change.value, resource, view), False)
        self._publish(wire.job_topic(self._instance, job_id), wire.encode(view), True)
