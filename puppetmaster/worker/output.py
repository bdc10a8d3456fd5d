"""The output of commands on its way to the manager."""

from __future__ import annotations

import codecs

MAX_UNSENT = 128 * 1024
"""Characters that wait for the next report; of more than that the oldest are left out."""

MAX_TAIL = 2000
"""Characters that are told as the reason of a failure, at most."""


class Output:
    """What was printed and is not sent yet, and the end of all that was."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._unsent = ""
        self._dropped = 0
        self.tail = ""
        """The end of it, for the reason of a failure."""

    def add(self, data: bytes, *, final: bool = False) -> None:
        """More was printed."""
        text = self._decoder.decode(data, final)
        self.tail = (self.tail + text)[-MAX_TAIL:]
        self._unsent += text
        over = len(self._unsent) - MAX_UNSENT
        if over > 0:
            self._unsent = self._unsent[over:]
            self._dropped += over

    @property
    def unsent(self) -> str:
        """What the next report is to hold."""
        if not self._dropped:
            return self._unsent
        return f"\n[{self._dropped} characters left out]\n{self._unsent}"

    @property
    def mark(self) -> int:
        """How much :attr:`unsent` stands for, for :meth:`sent`."""
        return self._dropped + len(self._unsent)

    def sent(self, mark: int) -> None:
        """What was unsent at the time of this mark has arrived."""
        over = mark - self._dropped
        self._dropped = max(0, -over)
        self._unsent = self._unsent[max(0, over) :]
