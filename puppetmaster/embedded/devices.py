"""Simulated devices: a fleet of them on one broker, over a single connection.

A device gets a DIRECT message on its topic, does its "work" for as long as its :class:`Behaviour` says, and publishes
the RESPONSE to the message's ``tunnel``. It keeps the promises that a real agent has to keep:

- A final answer is remembered, and a request that is repeated gets it again without doing the work twice. A transient
  answer (423) is never remembered.
- Work in progress that is asked for again is not started again; its answer comes when it is done.
- Write-like requests (all but ``get``) are worked on one at a time; one that comes meanwhile is an *overlap*.

A request is known by its id and its tunnel together: two puppetmasters count their ids from the same number.
"""

from __future__ import annotations

import asyncio
import enum
import hashlib
import logging
import math
import re
import struct
import time
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import orjson

from puppetmaster.address import BrokerAddress
from puppetmaster.bus import Bus
from puppetmaster.logs import Seldom

__all__ = ["DEFAULT_TEMPLATE", "Behaviour", "Decision", "Fleet", "Latency", "firmware", "names", "read_log"]

logger = logging.getLogger(__name__)

DEFAULT_TEMPLATE = "/remote/{destination}"
"""The topic on which a device gets its requests."""

DEFAULT_MEMORY = 1000
"""Final answers that each device remembers. Far more than a window of requests that may be repeated (at most 1,000
are out to *all* devices), and at 200 bytes an answer still only 200 kB for a device."""

PRESENCE_LIMIT = 1000
"""Devices up to which a fleet tells of its presence unless told otherwise: each is a retained message to keep."""

ECHO_LIMIT = 1024
"""Bytes of the largest message whose data is sent back: answers stay small whatever is asked."""

COUNTS_PERIOD = 1.0
"""Seconds between two publications of the counts."""

CLOSE_DRAIN = 5.0
"""Seconds at most for what is still on its way to the broker at a clean stop."""

FIRMWARES = (*["1.4.2"] * 17, *["1.4.1"] * 2, "1.3.9")
"""The versions that devices have, each as often as it stands here: most of a fleet are up to date."""

OK, PROGRESS, LOCKED, FAILED = 200, 102, 423, 500

_PLACEHOLDER = "{destination}"
_MAX_NAME = 128
_MAX_TOPIC_BYTES = 65535
_MAX_LEVELS = 200
_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})-({_NUMBER})")
_DRAWS = struct.Struct("<8Q")
_LAST_OF_PLANES = "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
_POISON = re.compile(rf"[+#\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{_LAST_OF_PLANES}]")
"""Wildcards, control characters, and code points that are no characters."""

_COUNTERS = (
    "received",
    "worked",
    "answered",
    "repeated",
    "errors",
    "silent",
    "lost",
    "locked",
    "duplicates",
    "overlaps",
    "progress",
    "malformed",
)


# Behaviour


class _Shape(enum.Enum):
    CONSTANT = "constant"
    UNIFORM = "uniform"
    EXPONENTIAL = "exp"
    NORMAL = "normal"


@dataclass(frozen=True, slots=True)
class Latency:
    """How long work takes, in seconds, as a distribution; made by one of the class methods.

    ``first`` and ``second`` are the parameters of the ``shape``: the value; the lowest and the highest; the mean; the
    mean and the standard deviation.
    """

    shape: _Shape
    first: float
    second: float = 0.0

    def __post_init__(self) -> None:
        for value in (self.first, self.second):
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"a latency must be a finite number of seconds from 0 up, not {value:g}")
        if self.shape is _Shape.UNIFORM and self.second < self.first:
            raise ValueError(f"a latency's range must rise, not go from {self.first:g} to {self.second:g}")

    @classmethod
    def constant(cls, seconds: float) -> Latency:
        """Make one that is always the same."""
        return cls(_Shape.CONSTANT, seconds)

    @classmethod
    def uniform(cls, low: float, high: float) -> Latency:
        """Make one that lies anywhere between two values, in seconds."""
        return cls(_Shape.UNIFORM, low, high)

    @classmethod
    def exponential(cls, mean: float) -> Latency:
        """Make one with many short times and a few long ones, around a mean in seconds."""
        return cls(_Shape.EXPONENTIAL, mean)

    @classmethod
    def normal(cls, mean: float, deviation: float) -> Latency:
        """Make a bell curve (seconds); what would be below 0 is 0."""
        return cls(_Shape.NORMAL, mean, deviation)

    @classmethod
    def parse(cls, text: str) -> Latency:
        """Read ``0.1``, ``0.05-0.5``, ``exp:0.2`` or ``normal:0.2,0.05`` (seconds).

        :raises ValueError: when it is none of these; the message says what was expected.
        """
        stripped = text.strip()
        kind, colon, rest = stripped.partition(":")
        if colon and kind == _Shape.EXPONENTIAL.value:
            return cls.exponential(_number(rest, text))
        if colon and kind == _Shape.NORMAL.value:
            mean, _, deviation = rest.partition(",")
            return cls.normal(_number(mean, text), _number(deviation, text))
        if bounds := _RANGE.fullmatch(stripped):
            return cls.uniform(float(bounds[1]), float(bounds[2]))
        return cls.constant(_number(stripped, text))

    @property
    def is_zero(self) -> bool:
        """Whether it is always 0."""
        return self.first == 0 and self.second == 0

    def seconds(self, u: float, v: float) -> float:
        """Give the value for two independent draws from [0, 1)."""
        if self.shape is _Shape.UNIFORM:
            return self.first + (self.second - self.first) * u
        if self.shape is _Shape.EXPONENTIAL:
            return -self.first * math.log(1.0 - u)
        if self.shape is _Shape.NORMAL:
            standard = math.sqrt(-2.0 * math.log(1.0 - u)) * math.cos(2.0 * math.pi * v)
            return max(0.0, self.first + self.second * standard)
        return self.first

    def __str__(self) -> str:
        if self.shape is _Shape.UNIFORM:
            return f"{self.first:g}-{self.second:g}"
        if self.shape is _Shape.EXPONENTIAL:
            return f"exp:{self.first:g}"
        if self.shape is _Shape.NORMAL:
            return f"normal:{self.first:g},{self.second:g}"
        return f"{self.first:g}"


def _number(text: str, whole: str) -> float:
    if not re.fullmatch(_NUMBER, text.strip()):
        raise ValueError(
            f"a latency is written 0.1, 0.05-0.5, exp:0.2 or normal:0.2,0.05 (seconds from 0 up), not {whole!r}"
        )
    return float(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a device does with one attempt of a request."""

    # Seconds of work.
    latency: float = 0.0
    # The message is ignored as if it had never come: no work, no answer.
    silent: bool = False
    # Answered 423 at once, without work.
    locked: bool = False
    # The work fails: the answer is 500.
    error: bool = False
    # The work is done, but its answer gets lost; the next attempt gets it from memory.
    lost: bool = False
    # How often the answer is published.
    copies: int = 1
    # How many reports of progress (102) come before the answer.
    reports: int = 0


_PLAIN = Decision()


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How the devices of a fleet behave; shares are from 0 (never) to 1 (always) and drawn independently.

    The same seed, destination, request id and attempt always give the same :class:`Decision`, whatever came before.

    :raises ValueError: when a value can't be used; the message names it.
    """

    # Seconds of work.
    latency: Latency = field(default_factory=lambda: Latency.constant(0.0))
    # Share of requests that fail with code 500.
    errors: float = 0.0
    # Share of attempts that are ignored: neither work nor answer.
    silence: float = 0.0
    # Share of requests that are done but whose answer gets lost.
    lost: float = 0.0
    # Share of answers that are published more than once, and how often then.
    duplicates: float = 0.0
    copies: int = 2
    # Share of requests that report progress, and how often then; spread evenly over the latency.
    progress: float = 0.0
    reports: int = 3
    # Share of requests whose first attempt is answered 423; the next one does the work.
    locked: float = 0.0
    # Whether a write-like request that comes during another is done beside it; else it is answered 423.
    allow_overlap: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("errors", "silence", "lost", "duplicates", "progress", "locked"):
            share = getattr(self, name)
            if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
                raise ValueError(f"{name} must be a share from 0 to 1, not {share!r}")
        for name, low in (("copies", 2), ("reports", 1)):
            number = getattr(self, name)
            if type(number) is not int or not low <= number <= 100:
                raise ValueError(f"{name} must be a number from {low} to 100, not {number!r}")
        if type(self.seed) is not int:
            raise ValueError(f"seed must be an integer, not {self.seed!r}")

    @property
    def is_plain(self) -> bool:
        """Whether every request is simply done at once."""
        shares = (self.errors, self.silence, self.lost, self.duplicates, self.progress, self.locked)
        return self.latency.is_zero and not any(shares)

    def decide(self, destination: str, request_id: int, attempt: int = 1) -> Decision:
        """Decide on an attempt (from 1 up) of a request: pure, the same for the same arguments.

        The attempt after a 423 does the work, so it is never ignored.
        """
        errors, silence, lost, duplicates, progress, locks, u, v = self._draws(destination, request_id, attempt)
        locked = attempt == 1 and locks < self.locked
        after_lock = attempt == 2 and self._draws(destination, request_id, 1)[5] < self.locked
        return Decision(
            latency=self.latency.seconds(u, v),
            silent=silence < self.silence and not locked and not after_lock,
            locked=locked,
            error=errors < self.errors,
            lost=lost < self.lost,
            copies=self.copies if duplicates < self.duplicates else 1,
            reports=self.reports if progress < self.progress else 0,
        )

    def _draws(self, destination: str, request_id: int, attempt: int) -> list[float]:
        """Eight numbers from [0, 1)."""
        text = f"{self.seed}\0{destination}\0{request_id}\0{attempt}"
        digest = hashlib.blake2b(text.encode(), digest_size=_DRAWS.size).digest()
        return [(draw >> 11) * 2.0**-53 for draw in _DRAWS.unpack(digest)]


# Names and topics


def names(count: int, prefix: str = "device-", *, width: int | None = None, first: int = 1) -> list[str]:
    """Make destinations ``device-0001``, ``device-0002`` ...

    :param width: digits of the number, at least; none means as many as the last one has, and at least 4.
    :raises ValueError: when one of them can't be a destination, or there is none.
    """
    if count < 1:
        raise ValueError(f"a fleet has at least one device, not {count}")
    last = first + count - 1
    digits = max(4, len(str(last))) if width is None else width
    made = [f"{prefix}{number:0{digits}d}" for number in range(first, last + 1)]
    _check_names(made)
    return made


def firmware(device: str) -> str:
    """The version that a device has: the same one whenever and wherever it is simulated."""
    return FIRMWARES[zlib.crc32(device.encode()) % len(FIRMWARES)]


def _check_names(destinations: Sequence[str]) -> None:
    if not destinations:
        raise ValueError("a fleet has at least one device")
    if len(set(destinations)) != len(destinations):
        raise ValueError("two devices of a fleet can't have the same name")
    for name in destinations:
        if not _is_destination(name):
            rule = "1-128 characters, no / + #, no control characters, no $ in front"
            raise ValueError(f"{name!r:.140} can't be a destination: {rule}")


def _is_destination(name: str) -> bool:
    return len(name) <= _MAX_NAME and "/" not in name and _is_publishable(name)


def _is_publishable(topic: str) -> bool:
    """Whether the broker takes a message on this topic; on others it would drop the connection of the whole fleet."""
    if not topic or topic[0] == "$" or topic.count("/") >= _MAX_LEVELS or _is_poisoned(topic):
        return False
    return len(topic.encode()) <= _MAX_TOPIC_BYTES


def _is_poisoned(topic: str) -> bool:
    if topic.isascii():  # asked for every message, and the pattern takes ten times as long
        return "+" in topic or "#" in topic or not topic.isprintable()
    return _POISON.search(topic) is not None


def _check_template(template: str) -> None:
    if template.count(_PLACEHOLDER) != 1 or not _is_publishable(template):
        raise ValueError(f"the topic {template!r} must hold {_PLACEHOLDER} once, no + #, no control characters")


def _presence_topic(destination: str) -> str:
    return f"/remote/{destination}/presence"


# Messages


@dataclass(slots=True, eq=False)  # not frozen: that would make it five times as slow to make
class _Request:
    id: int
    method: str
    resource: str
    tunnel: str
    data: Any
    size_bytes: int
    key: tuple[int, str] = field(init=False)
    writes: bool = field(init=False)

    def __post_init__(self) -> None:
        self.key = (self.id, self.tunnel)
        self.writes = self.method.lower() != "get"


def _read_request(payload: bytes) -> _Request:
    """Read a DIRECT message.

    :raises ValueError: when it is none; the message says why.
    """
    message = orjson.loads(payload)
    if not isinstance(message, dict):
        raise ValueError("not an object")
    ident, method, resource = message.get("id"), message.get("method"), message.get("resource")
    tunnel = message.get("tunnel")
    if type(ident) is not int or ident < 1:
        raise ValueError("its id is no positive integer")
    if not isinstance(method, str) or not isinstance(resource, str):
        raise ValueError("its method or its resource is no text")
    if not isinstance(tunnel, str) or not _is_publishable(tunnel):
        raise ValueError("its tunnel is no topic to publish to")
    return _Request(ident, method, resource, tunnel, message.get("data"), len(payload))


def _encode_answer(device: str, request: _Request, code: int, data: Any) -> bytes:
    answer = {
        "id": request.id,
        "code": code,
        "method": request.method,
        "resource": request.resource,
        "sign": [device],
    }
    if data is not None:
        answer["data"] = data
    return _encode(answer)


def _encode(document: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(document)
    except orjson.JSONEncodeError:  # it reads 1024 levels, and writes 254
        return orjson.dumps({**document, "data": None})


def _result(device: str, request: _Request) -> Any:
    if not request.writes:
        # Not its name: devices that have the same to say say the same, and can be counted together.
        return {"firmware": firmware(device)}
    if request.data is not None and request.size_bytes > ECHO_LIMIT:
        return {"receivedBytes": request.size_bytes}
    return request.data


# The log of work


class _Clock:
    """Wall time that never goes back while the process lives, so that the log's times can be compared."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        return self._offset + time.monotonic()


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")[:-6] + "Z"


class _WorkLog:
    """JSON lines, each given to the system with one call at once: a kill of the process loses none."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def add(self, device: str, request: _Request, started: float, finished: float, outcome: str) -> None:
        record = {
            "device": device,
            "id": request.id,
            "method": request.method,
            "resource": request.resource,
            "data": request.data,
            "startedAt": _timestamp(started),
            "finishedAt": _timestamp(finished),
            "outcome": outcome,
        }
        try:
            self._file.write(_encode(record) + b"\n")
        except OSError as error:
            logger.error("the log of work can't be written: %s", error, extra={"event": "work_log_failed"})

    def close(self) -> None:
        self._file.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read the records of a fleet's log of work, in the order in which the work was done.

    A last line that is still being written is left out.
    """
    lines = path.read_bytes().split(b"\n")
    return [orjson.loads(line) for line in lines[:-1]]


# The devices


@dataclass(slots=True, eq=False)
class _Work:
    request: _Request
    decision: Decision
    started: float
    # Seconds between two steps: each report of progress is one, the end is the last.
    pause: float
    reported: int = 0
    timer: asyncio.TimerHandle | None = None


@dataclass(slots=True, eq=False)
class _Device:
    name: str
    # Final answers, oldest first.
    answers: dict[tuple[int, str], bytes] = field(default_factory=dict)
    # Attempts of requests that have no final answer yet.
    attempts: dict[tuple[int, str], int] = field(default_factory=dict)
    at_work: dict[tuple[int, str], _Work] = field(default_factory=dict)

    @property
    def is_writing(self) -> bool:
        return any(work.request.writes for work in self.at_work.values())

    def next_attempt(self, request: _Request, limit: int) -> int:
        attempt = self.attempts.pop(request.key, 0) + 1
        _remember(self.attempts, request.key, attempt, limit)
        return attempt


def _remember(memory: dict[tuple[int, str], Any], key: tuple[int, str], value: Any, limit: int) -> None:
    memory[key] = value
    if len(memory) > limit:
        del memory[next(iter(memory))]


class Fleet:
    """Simulated devices on a broker, over one connection; lives on the running asyncio loop.

    :param destinations: their names, as from :func:`names`, or any others (MAC addresses).
    :param template: the topic of a device's requests, with ``{destination}`` in it.
    :param memory: final answers that each device remembers.
    :param log_path: a file to which a JSON line is added for all work that is done, before its answer goes out:
        ``device id method resource data startedAt finishedAt outcome`` (``resolved`` or ``error``).
    :param presence: publish retained ``/remote/<destination>/presence``; none means for up to 1,000 devices.
    :param instance: publish the counts, retained and at most every second, on ``/simulate/<instance>``.
    :param client_id: none means one of its own for every fleet.
    :param persistent: let the broker keep what comes while the fleet is away (needs a ``client_id``).
    :raises ValueError: when one of them can't be used; the message says which.
    """

    def __init__(
        self,
        address: BrokerAddress,
        destinations: Sequence[str],
        behaviour: Behaviour | None = None,
        *,
        template: str = DEFAULT_TEMPLATE,
        memory: int = DEFAULT_MEMORY,
        log_path: Path | None = None,
        presence: bool | None = None,
        instance: str | None = None,
        client_id: str | None = None,
        persistent: bool = False,
    ) -> None:
        _check_names(destinations)
        _check_template(template)
        if memory < 1:
            raise ValueError(f"memory must be at least 1 answer, not {memory}")
        if instance is not None and not _is_destination(instance):
            raise ValueError(f"the instance {instance!r:.140} can't be part of a topic")
        if persistent and not client_id:
            raise ValueError("a persistent session needs a client_id")
        self.destinations = tuple(destinations)
        self.behaviour = behaviour or Behaviour()
        self._plain = self.behaviour.is_plain
        self._memory = memory
        self._log_path = log_path
        self._log: _WorkLog | None = None
        self._presence = len(destinations) <= PRESENCE_LIMIT if presence is None else presence
        self._counts_topic = f"/simulate/{instance}" if instance is not None else None
        self._counts_timer: asyncio.TimerHandle | None = None
        self._counts_told: dict[str, int] = {}
        self._counts = dict.fromkeys(_COUNTERS, 0)
        self._clock = _Clock()
        self._seldom = Seldom()
        self._devices = {template.replace(_PLACEHOLDER, name): _Device(name) for name in destinations}
        self._bus = Bus(
            address,
            client_id or f"simulate-{uuid.uuid4().hex[:12]}",
            self._received,
            topics=["/remote/+"] if template == DEFAULT_TEMPLATE else list(self._devices),
            persistent=persistent,
            on_connect=self._connected,
        )

    async def start(self, timeout: float | None = None) -> None:
        """Open the log, connect and subscribe: afterwards every message to a device is answered.

        :param timeout: seconds to wait for the broker; none waits for ever.
        :raises BusError: when there is no connection by then.
        :raises OSError: when the log can't be opened.
        """
        if self._log_path is not None and self._log is None:
            self._log = _WorkLog(self._log_path)
        try:
            await self._bus.start(timeout)
        except BaseException:
            self._close_log()
            raise
        if self._counts_topic is not None and self._counts_timer is None:
            self._tell_counts()
        logger.info("%d simulated devices on the broker at %s", len(self._devices), self._bus.address,
                    extra={"event": "devices_listening", "count": len(self._devices)})

    async def close(self) -> None:
        """Drop the work in progress, say that the devices are offline, and leave the broker."""
        for device in self._devices.values():
            self._drop_work(device)
        if self._counts_timer is not None:
            self._counts_timer.cancel()
            self._tell_changed_counts()
            self._counts_timer = None
        if self._bus.connected:
            self._tell_presence("offline")
        await self._bus.close(drain=CLOSE_DRAIN)
        self._close_log()

    def counts(self) -> dict[str, int]:
        """Count what happened since the fleet was made.

        ========== ==============================================================================
        received   messages to a device of the fleet, of any kind
        worked     requests that were done, well or not
        answered   answers but those of progress; one that is published several times counts once
        repeated   requests that were done or at work already
        errors     work that failed (500)
        silent     attempts that were ignored
        lost       answers that were not sent though the work was done
        locked     attempts that were answered 423 as the behaviour said
        duplicates publications of an answer beyond its first
        overlaps   write-like requests that came while the device was at work on another
        progress   answers of progress (102)
        malformed  messages that were no request
        ========== ==============================================================================
        """
        return dict(self._counts)

    # What comes in

    def _received(self, topic: str, payload: bytes) -> None:
        device = self._devices.get(topic)
        if device is None:
            return
        counts = self._counts
        counts["received"] += 1
        try:
            request = _read_request(payload)
        except ValueError as error:
            counts["malformed"] += 1
            if count := self._seldom.due("malformed"):
                logger.warning("messages can't be used: %d, the last one to %s: %.200s", count, device.name, error,
                               extra={"event": "device_message_unusable", "destination": device.name, "count": count})
            return
        known = device.answers.get(request.key)
        if known is not None:
            counts["repeated"] += 1
            self._publish(request, known)
        elif request.key in device.at_work:
            counts["repeated"] += 1
        elif not self._is_refused_overlap(device, request):
            self._begin(device, request)

    def _is_refused_overlap(self, device: _Device, request: _Request) -> bool:
        if not device.at_work or not request.writes or not device.is_writing:
            return False
        self._counts["overlaps"] += 1
        if self.behaviour.allow_overlap:
            return False
        # Not an attempt: whether it comes now or after the other work is a matter of timing.
        self._refuse(device, request)
        return True

    def _refuse(self, device: _Device, request: _Request) -> None:
        self._publish(request, _encode_answer(device.name, request, LOCKED, {"message": "resource is locked"}))

    # Work

    def _begin(self, device: _Device, request: _Request) -> None:
        started = self._clock.now()
        if self._plain:
            self._complete(device, request, _PLAIN, started)
            return
        attempt = device.next_attempt(request, self._memory)
        decision = self.behaviour.decide(device.name, request.id, attempt)
        if decision.locked:
            self._counts["locked"] += 1
            self._refuse(device, request)
        elif decision.silent:
            self._counts["silent"] += 1
        else:
            work = _Work(request, decision, started, decision.latency / (decision.reports + 1))
            device.at_work[request.key] = work
            self._wait(device, work)

    def _wait(self, device: _Device, work: _Work) -> None:
        if work.pause > 0:
            work.timer = asyncio.get_running_loop().call_later(work.pause, self._step, device, work)
        else:
            self._step(device, work)

    def _step(self, device: _Device, work: _Work) -> None:
        if work.reported == work.decision.reports:
            del device.at_work[work.request.key]
            self._complete(device, work.request, work.decision, work.started)
            return
        work.reported += 1
        self._counts["progress"] += 1
        data = {"progress": 100 * work.reported // (work.decision.reports + 1)}
        self._bus.publish(work.request.tunnel, _encode_answer(device.name, work.request, PROGRESS, data))
        self._wait(device, work)

    def _complete(self, device: _Device, request: _Request, decision: Decision, started: float) -> None:
        if decision.error:
            self._counts["errors"] += 1
            answer = _encode_answer(device.name, request, FAILED, {"message": "the simulated work failed"})
        else:
            answer = _encode_answer(device.name, request, OK, _result(device.name, request))
        self._counts["worked"] += 1
        device.attempts.pop(request.key, None)
        _remember(device.answers, request.key, answer, self._memory)
        if self._log is not None:
            outcome = "error" if decision.error else "resolved"
            self._log.add(device.name, request, started, self._clock.now(), outcome)
        if decision.lost:
            self._counts["lost"] += 1
        else:
            self._publish(request, answer, decision.copies)

    def _publish(self, request: _Request, answer: bytes, copies: int = 1) -> None:
        self._counts["answered"] += 1
        self._counts["duplicates"] += copies - 1
        for _ in range(copies):
            self._bus.publish(request.tunnel, answer)

    def _drop_work(self, device: _Device) -> None:
        for work in device.at_work.values():
            if work.timer is not None:
                work.timer.cancel()
        device.at_work.clear()

    # What is told unasked

    def _connected(self, session_present: bool) -> None:
        # After every connect: a broker that was killed has forgotten its retained messages.
        self._tell_presence("online")

    def _tell_presence(self, connection: str) -> None:
        if not self._presence:
            return
        payload = orjson.dumps({"connection": connection})
        for destination in self.destinations:
            self._bus.publish(_presence_topic(destination), payload, retain=True)

    def _tell_counts(self) -> None:
        self._tell_changed_counts()
        self._counts_timer = asyncio.get_running_loop().call_later(COUNTS_PERIOD, self._tell_counts)

    def _tell_changed_counts(self) -> None:
        if self._counts_topic is None or self._counts == self._counts_told or not self._bus.connected:
            return
        self._counts_told = dict(self._counts)
        document = {"devices": len(self._devices), **self._counts}
        self._bus.publish(self._counts_topic, orjson.dumps(document), retain=True)

    def _close_log(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None
