"""Who may run, and who waits for a turn."""

from __future__ import annotations

import asyncio
from collections import deque


class Places:
    """So many may run at once; the others wait, in the order in which they came."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._line: deque[asyncio.Future[bool]] = deque()

    def take(self) -> bool:
        """Take a place if there is one."""
        if self._free <= 0:
            return False
        self._free -= 1
        return True

    def squeeze_in(self) -> None:
        """Take a place whether there is one or not: who runs already has to be looked after."""
        self._free -= 1

    def line_up(self) -> asyncio.Future[bool]:
        """Wait for a place: true when it is there. Who does not want it any more sets false, or cancels."""
        turn = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        return turn

    def leave(self) -> None:
        """Give a place back."""
        self._free += 1
        while self._free > 0 and self._line:
            turn = self._line.popleft()
            if not turn.done():
                self._free -= 1
                turn.set_result(True)
