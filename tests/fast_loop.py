"""An event loop on which waiting takes no time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

TURN = 1e-4  # seconds that a turn of the loop takes here


class FastLoop(asyncio.SelectorEventLoop):
    """A loop on a clock of its own, that jumps to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0

    def time(self) -> float:
        """Our clock."""
        return self._now

    def _run_once(self) -> None:
        self._now += TURN
        if not self._ready and self._scheduled:
            self._now = max(self._now, self._scheduled[0].when())
        super()._run_once()


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run to the end on a loop that is made for it."""
    loop = FastLoop()
    try:
        loop.run_until_complete(main)
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left))
        loop.close()
