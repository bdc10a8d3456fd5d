"""Notices the end of a process, whoever's child it is."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable

from puppetmaster.agent.shim import Shim, reap


class Ending:
    """Knows when a shim has ended: at once where the system can say so (pidfd), else when it is asked.

    A child is not reaped before :meth:`reap`, so that until then its number, and its group's, is nobody else's.

    :param on_end: called on the loop when the system has said so; may be replaced.
    """

    def __init__(self, shim: Shim, is_child: bool, on_end: Callable[[], None]) -> None:
        self._shim, self._is_child = shim, is_child
        self.on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._has_ended = False
        self._status: int | None = None
        self._descriptor = -1
        # Between this and the first look the number is held: it can't become another process's unnoticed.
        with contextlib.suppress(OSError, AttributeError):
            self._descriptor = os.pidfd_open(shim.pid)
            self._loop.add_reader(self._descriptor, self._end)

    def look(self) -> bool:
        """Whether it has ended."""
        if not self._has_ended:
            self._has_ended = not self._is_alive()
        return self._has_ended

    def _is_alive(self) -> bool:
        if self._is_child and not self._shim.start:
            # Nothing tells a dead child from a living one but reaping it.
            self._status = reap(self._shim.pid)
            return self._status is None
        return self._shim.is_alive()

    def reap(self) -> int | None:
        """The exit status of a child that has ended (below 0: a signal); None when it is not ours."""
        if self._is_child and self._status is None:
            self._status = reap(self._shim.pid)
        return self._status

    def close(self) -> None:
        """Notice no more; idempotent."""
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _end(self) -> None:
        self._has_ended = True
        self.close()
        self.on_end()
