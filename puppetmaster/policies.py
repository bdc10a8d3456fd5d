"""What a job asks for beyond its messages: decisions as values that check themselves when made."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

LOCALHOST = "localhost"
"""The destination that stands for this machine: its requests go through the local controller."""

MAX_DESTINATION = 128

MAX_SECONDS = 10 * 365 * 86400.0
"""Ten years: no timeout is longer, and times stay within what a calendar can say."""

_PLANE_ENDS = "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
UNPUBLISHABLE = f"+#\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{_PLANE_ENDS}"
"""The characters, as of a class in a regular expression, for which a broker drops whoever publishes to a topic with
them: wildcards, control characters, surrogates and noncharacters (MQTT 1.5.4)."""

_POISON = re.compile(f"[/{UNPUBLISHABLE}]")

TRANSIENT_CODES = frozenset({408, 423, 429, 503})
"""Answers that speak of the moment, not of the request: too slow, locked, too many, out of service."""

REFUSALS = TRANSIENT_CODES - {408}
"""Those by which nothing was done, so that trying again does no harm. A controller's 408 is silence: the work may be
under way, and a bundle behind a controller does it a second time when asked again."""

TIMEOUT: Literal["timeout"] = "timeout"


def destination_fault(destination: str) -> str | None:
    """Why a text can't be a destination, or none when it can.

    A destination is one level of a topic. One that MQTT forbids makes the broker drop the connection of whoever
    publishes to it, again after every reconnect, so it is refused before anything is created.
    """
    if not destination:
        return "a destination can't be empty"
    if len(destination) > MAX_DESTINATION:
        return f"a destination has at most {MAX_DESTINATION} characters, this one has {len(destination)}"
    if destination.startswith("$"):
        return "a destination can't begin with $"
    found = _POISON.search(destination)
    return f"a destination can't contain {found.group()!a}" if found else None


def are_plain_destinations(texts: Sequence[str]) -> bool:
    """Whether many texts are plain enough for nothing to be wrong with any of them; of others it can't tell.

    They are looked at together, with a slash between them: 0.05 µs for each, by :func:`destination_fault` it is 0.6.
    """
    together = f"/{'/'.join(texts)}/"
    return (
        max(map(len, texts), default=0) <= MAX_DESTINATION
        and together.isascii()
        and together.isprintable()
        and together.count("/") == len(texts) + 1
        and not any(bad in together for bad in ("//", "/$", "+", "#"))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When a request is tried again.

    After attempt ``n`` came to nothing the next one follows in ``min(max_delay, delay * factor ** (n - 1))`` seconds,
    shortened at random by up to the share ``jitter`` of it, so that a fleet that failed together does not come back
    together. ``limit`` counts the attempts after the first; 0 means none.
    """

    limit: int = 3
    delay: float = 1.0
    factor: float = 2.0
    max_delay: float = 60.0
    jitter: float = 0.5
    on: frozenset[int | str] = field(default=REFUSALS)
    """Answer codes, and ``"timeout"`` for silence."""

    def next_delay(self, attempt: int, random: float) -> float | None:
        """Seconds until the attempt after ``attempt``, or none when that was the last; ``random`` is in [0, 1)."""
        if attempt > self.limit:
            return None
        # The exponent is bounded, for 2.0 ** 2000 is an OverflowError.
        grown = self.delay * self.factor ** min(attempt - 1, 64)
        return min(self.max_delay, grown) * (1.0 - self.jitter * random)


DEFAULT_RETRY = RetryPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """How many requests of a job may be sent in a minute.

    With a ``factor`` the rate grows: it is multiplied by it for every ``every`` requests that resolved, up to
    ``maximum``. It grows with what has worked, not with what was tried, so that a bad command stays slow.
    """

    per_minute: float
    factor: float = 1.0
    every: int = 1
    maximum: float | None = None

    def interval(self, resolved: int) -> float:
        """Seconds between two requests when ``resolved`` of the job's requests have resolved."""
        steps = min(resolved // self.every, 1000) if self.factor > 1.0 else 0
        ceiling = max(self.per_minute, self.maximum if self.maximum is not None else 1e9)
        try:
            rate = min(self.per_minute * self.factor**steps, ceiling)
        except OverflowError:
            rate = ceiling
        return 60.0 / rate


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortThreshold:
    """When a job gives up: ``error_percent`` of at least ``minimum`` ended requests failed."""

    error_percent: float
    minimum: int = 1

    def reached(self, failed: int, ended: int) -> bool:
        """Whether ``failed`` of ``ended`` requests are too many."""
        return ended >= self.minimum and failed > 0 and failed * 100.0 >= self.error_percent * ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long finished jobs are kept, in seconds, and how many of them and of their requests."""

    age: float = 30 * 86400.0
    jobs: int = 1000
    requests: int = 500_000


class Connection(str, Enum):
    """Whether a device is there; the value is the word on the wire."""

    ONLINE = "online"
    OFFLINE = "offline"
    UNKNOWN = "unknown"
    """It never said."""

    def __str__(self) -> str:
        return str(self.value)


class Offline(str, Enum):
    """What becomes of a request whose device is away when its turn comes; the value is the word in a document."""

    WAIT = "wait"
    """It is sent when the device says that it is online."""
    SKIP = "skip"
    """It ends as canceled."""
    FAIL = "fail"
    """It ends as an error with code 503."""

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Destinations by what is known of them: a device is meant when all that is given here fits it."""

    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For each label the values of which it has to have one."""
    facts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The same of what the device tells about itself (hostname, system, version and so on), compared as texts."""
    connection: frozenset[Connection] | None = None
    """None means that it does not matter."""
    sample_percent: float | None = None
    """A random choice of so many of those that fit, at least one of them."""
    sample_count: int | None = None
    """The same as a number of devices."""
