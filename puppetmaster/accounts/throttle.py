"""Who failed too often has to wait, each time longer."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from puppetmaster.logs import Seldom

logger = logging.getLogger(__name__)

FREE_FAILURES = 5
"""Failures within :data:`WINDOW` after which one has to wait."""

WINDOW = 60.0

FIRST_WAIT = 5.0
"""Seconds; every further failure doubles them."""

FORGIVEN_AFTER = 600.0
"""Seconds after the end of the last wait until one begins anew."""

MAX_KEYS = 10_000
"""Remembered at once, about 3 MB; who failed longest ago is forgotten for a new one."""


@dataclass(slots=True)
class _Record:
    failures: list[float] = field(default_factory=list)
    waits: int = 0
    until: float = 0.0


class Throttle:
    """Counts the failures of each key (a name, an address). For any thread."""

    def __init__(self, *, longest: float) -> None:
        """``longest`` is the wait in seconds beyond which it does not grow."""
        self._longest = longest
        self._records: OrderedDict[str, _Record] = OrderedDict()
        self._lock = threading.Lock()
        self._seldom = Seldom()

    def wait(self, key: str, now: float) -> float:
        """Seconds for which this key is not to be tried; 0 when it may."""
        with self._lock:
            record = self._records.get(key)
            return max(0.0, record.until - now) if record else 0.0

    def failed(self, key: str, now: float) -> None:
        """Count a failure."""
        with self._lock:
            record = self._records.get(key)
            if record is None or (record.waits and now > record.until + FORGIVEN_AFTER):
                record = self._records[key] = _Record()
            self._records.move_to_end(key)
            if len(self._records) > MAX_KEYS:
                self._records.popitem(last=False)
            self._count(record, key, now)

    def succeeded(self, key: str) -> None:
        """Forget the failures of a key."""
        with self._lock:
            self._records.pop(key, None)

    def _count(self, record: _Record, key: str, now: float) -> None:
        recent = [at for at in record.failures if at > now - WINDOW]
        record.failures = [*recent[1 - FREE_FAILURES :], now]
        # Who has waited once has no more free failures.
        if record.waits or len(record.failures) >= FREE_FAILURES:
            seconds = min(self._longest, FIRST_WAIT * 2.0 ** min(record.waits, 30))
            record.waits += 1
            record.until = now + seconds
            if count := self._seldom.due("throttled"):
                logger.warning("logins failed again and again: %s waits for %.0f s", key, seconds,
                               extra={"event": "login_throttled", "source": key, "seconds": seconds, "count": count})
