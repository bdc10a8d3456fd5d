"""How this machine is: what an agent tells often, what it tells seldom, and its facts."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import random
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

import psutil

from puppetmaster.version import __version__

logger = logging.getLogger(__name__)

SELDOM = 3600.0
"""Seconds between two looks at what hardly changes."""

JITTER = 0.1
"""The share by which a pause is shortened or lengthened at random: agents that started together drift apart."""

Tell = Callable[[dict[str, Any]], None]
"""Gets a message of telemetry."""


def facts(extra: Mapping[str, str]) -> dict[str, str]:
    """What is true of this machine until it is installed anew; ``extra`` is what its owner says of it."""
    system = platform.uname()
    return {
        "hostname": socket.gethostname(),
        "system": system.system,
        "release": system.release,
        "architecture": system.machine,
        "python": platform.python_version(),
        "version": __version__,
        **extra,
    }


class Frequent:
    """What changes all the time. Each has a beginning of its own to count the processor's work from."""

    def __init__(self) -> None:
        self._busy, self._total = _processor()

    def read(self) -> dict[str, Any]:
        """Load over 1, 5 and 15 minutes, memory in percent, and the processor's work in percent since the last call."""
        busy, total = _processor()
        passed = total - self._total
        cpu = 100 * (busy - self._busy) / passed if passed > 0 else 0.0
        self._busy, self._total = busy, total
        return {
            "load": [round(value, 2) for value in os.getloadavg()],
            "cpu": round(min(100.0, max(0.0, cpu)), 1),
            "memory": psutil.virtual_memory().percent,
        }


def _processor() -> tuple[float, float]:
    """Seconds that the processors have worked, and seconds in all."""
    times = psutil.cpu_times()
    # Linux counts the time of guests twice.
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return total - times.idle - getattr(times, "iowait", 0.0), total


def seldom() -> dict[str, Any]:
    """What hardly changes: the machine, its memory and its disk."""
    system = platform.uname()
    return {
        "architecture": system.machine,
        "system": system.system,
        "release": system.release,
        "hostname": system.node,
        "cores": psutil.cpu_count() or 1,
        "memoryBytes": psutil.virtual_memory().total,
        "disk": psutil.disk_usage("/").percent,
        "diskBytes": psutil.disk_usage("/").total,
        "bootTime": round(psutil.boot_time()),
    }


class Telemetry:
    """Tells how this machine is, again and again.

    :param period: seconds between two messages.
    """

    def __init__(self, period: float, tell: Tell) -> None:
        self._period = period
        self._tell = tell
        self._frequent = Frequent()
        self._seldom_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self._failed = False

    def start(self) -> None:
        """Begin, at a random moment of the first period."""
        self._task = asyncio.create_task(self._run(), name="telemetry")

    async def close(self) -> None:
        """Tell no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def again(self) -> None:
        """Tell what is told seldom with the next message: a broker has come that may not know it."""
        self._seldom_at = 0.0

    async def _run(self) -> None:
        await asyncio.sleep(random.random() * self._period)
        while True:
            self._look()
            await asyncio.sleep(self._period * random.uniform(1 - JITTER, 1 + JITTER))

    def _look(self) -> None:
        try:
            message = {"frequent": self._frequent.read()}
            if time.monotonic() >= self._seldom_at:
                message["seldom"] = seldom()
                self._seldom_at = time.monotonic() + SELDOM
        except (OSError, psutil.Error, ValueError, RuntimeError) as error:
            if not self._failed:  # a /proc that can't be read stays so
                logger.warning("how this machine is can't be told: %s", error, extra={"event": "telemetry_failed"})
            self._failed = True
            return
        self._failed = False
        self._tell(message)
