"""Times: the clock that the engine lives by, and their form on the wire (UTC ISO 8601 with milliseconds and Z)."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Clock:
    """Seconds since 1970 that never jump: the wall clock at the start, carried on by the monotonic one.

    A wall clock that is set while requests are out would otherwise end them early, or never.
    """

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        """The time now."""
        return time.monotonic() + self._offset


def to_text(seconds: float | None) -> str | None:
    """The form on the wire, ``2011-12-19T15:28:46.493Z``; none stays none."""
    if seconds is None:
        return None
    moment = _EPOCH + timedelta(milliseconds=round(seconds * 1000))
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def from_text(text: str) -> float:
    """Seconds since 1970 of an ISO 8601 time; one without an offset is taken as UTC.

    :raises ValueError: when it is no such time.
    """
    if not text.isprintable():
        raise ValueError("it holds characters that can't be printed")  # a NUL at the end would be overlooked
    # Python 3.10 does not know the Z.
    moment = datetime.fromisoformat(text[:-1] + "+00:00" if text[-1:] in ("Z", "z") else text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
