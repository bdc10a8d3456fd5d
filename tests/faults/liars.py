"""Clients on the bus that say what is not so: every kind of answer that must not count.

::

    with Liar(port, "stand", devices, ["foreign", "malformed"], random.Random(7)) as liar:
        ...                                     # a job runs, and the liar lies about each of its requests
    assert liar.told["foreign"]

A liar listens to ``/remote/+`` and to the answers, and publishes beside them. Who publishes on a device's own topic
*is* the device, as far as anybody can see, so there it says only what must change nothing whoever says it:

=============== ========================================================================================================
``copies``      answers that were given, again: at once, later, in another order, after their request has ended, after
                their job was removed
``contradict``  after the answer the opposite of it, of the same id, on the same topic
``foreign``     a request's id and any code, on topics of other devices, real ones and none, of ``localhost``, and of
                another instance
``unknown``     on the device's own topic ids that are nobody's: those of jobs, of requests to come, negative, huge
``malformed``   on the device's own topic what is no answer, around an id that is: see :func:`malformed`
``huge``        1 MiB and more (seldom 20 MiB), on the device's own topic without an id, on others with one
``retained``    copies and malformed ones that lie at the broker, and come again with every subscription
=============== ========================================================================================================
"""

from __future__ import annotations

import contextlib
import heapq
import json
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from tests.faults.raw import RawClient

KINDS = ("copies", "contradict", "foreign", "unknown", "malformed", "huge", "retained")

CODES = (100, 102, 199, 200, 204, 299, 300, 403, 404, 408, 413, 423, 429, 499, 500, 503, 999)

MIB = 1024 * 1024

HUGE = (MIB, MIB, MIB + 1, 4 * MIB + 100, 20 * MIB)

MEMORY = 400
"""Answers that were heard and may be given again much later."""

FAR = 50_000_000
"""From a request's id to one that nobody has yet."""

Lie = tuple[str, bytes]


def malformed(ident: int, chance: random.Random) -> bytes:
    """What is no answer, although it names a request."""
    return chance.choice(malformations(ident))


def malformations(ident: int) -> list[bytes]:
    """All that :func:`malformed` chooses from."""
    number = str(ident)
    return [
        b"",
        b"\x00",
        b"null",
        b"[]",
        b'"200"',
        b"[" * 200_000,
        b'{"id":' * 50_000,
        b"\xff\xfe" + json.dumps({"id": ident, "code": 200}).encode("utf-16-le"),
        f'{{"id":{number},"code":200'.encode(),
        f'{{"id":{number},"code":200}}}}'.encode(),
        f'{{"id":{number},"code":200,"data":NaN}}'.encode(),
        f'{{"id":{number},"code":200,"data":Infinity}}'.encode(),
        f'{{"id":{number},"code":200,"data":"'.encode() + b"\xff\xc0" + b'"}',
        f'{{"id":{number},"code":200,"data":"\\ud800"}}'.encode(),
        f"{{'id':{number},'code':200}}".encode(),
        f'{{"id":{number},"code":200,"data":{"[" * 101}{"]" * 101}}}'.encode(),
        f'{{"id":"{number}","code":200}}'.encode(),
        f'{{"id":{number}.0,"code":200}}'.encode(),
        f'{{"id":{number}.5,"code":200}}'.encode(),
        f'{{"id":{number}e0,"code":200}}'.encode(),
        f'{{"id":[{number}],"code":200}}'.encode(),
        b'{"id":true,"code":200}',
        b'{"id":null,"code":200}',
        b'{"code":200}',
        b'{"id":%d,"code":200}' % (1 << 64),
        b'{"id":' + b"9" * 5000 + b',"code":200}',
        f'{{"id":{number}}}'.encode(),
        f'{{"id":{number},"code":true}}'.encode(),
        f'{{"id":{number},"code":null}}'.encode(),
        f'{{"id":{number},"code":"200"}}'.encode(),
        f'{{"id":{number},"code":200.0}}'.encode(),
        f'{{"id":{number},"code":[200]}}'.encode(),
        *[f'{{"id":{number},"code":{code}}}'.encode() for code in (-200, 0, 2, 99, 1000, 20000, 1 << 70)],
    ]


@dataclass(order=True)
class _Due:
    at: float
    number: int
    kind: str = field(compare=False)
    lie: Lie = field(compare=False)


class Liar:
    """See the top of this module.

    :param port: of the broker.
    :param devices: real ones, on whose topics it lies.
    :param kinds: of lies.
    :param old: answers of earlier runs, which it gives again; it adds those that it hears.
    """

    def __init__(
        self,
        port: int,
        instance: str,
        devices: Sequence[str],
        kinds: Sequence[str],
        chance: random.Random,
        old: deque[Lie] | None = None,
    ) -> None:
        self.told: Counter[str] = Counter()
        """How many lies were published, by their kind."""
        self.retained: set[str] = set()
        """Topics on which something lies."""
        self._port, self._instance, self._devices, self._kinds = port, instance, list(devices), kinds
        self._chance = chance
        self._old: deque[Lie] = old if old is not None else deque(maxlen=MEMORY)
        self._said: set[int] = set()
        """Hashes of what we said ourselves: it is not lied about again."""
        self._due: list[_Due] = []
        self._numbers = count()
        self._news = threading.Condition()
        self._stopping = False
        self.listening = threading.Event()
        """Set when it hears everything from now on."""
        self._thread = threading.Thread(target=self._speak, name="liar", daemon=True)

    def __enter__(self) -> Liar:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Lie from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Say what was still to be said, and take back what lies at the broker."""
        with self._news:
            self._stopping = True
            self._news.notify_all()
        self._thread.join(60)

    # What it hears

    def _heard(self, topic: str, payload: bytes) -> None:
        levels = topic.split("/")
        if len(levels) == 3:
            self._on_request(levels[2], payload)
        elif hash(payload) not in self._said:
            self._on_answer(topic, payload)

    def _on_request(self, device: str, payload: bytes) -> None:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            ident = int(json.loads(payload)["id"])
            for kind in self._kinds:
                for lie in self._about_request(kind, device, ident):
                    self._say(kind, lie)

    def _on_answer(self, topic: str, payload: bytes) -> None:
        self._old.append((topic, payload))
        for kind in self._kinds:
            for lie in self._about_answer(kind, topic, payload):
                self._say(kind, lie)

    # What it says

    def _about_request(self, kind: str, device: str, ident: int) -> Iterator[Lie]:
        chance, own = self._chance, self._topic(device)
        if kind == "foreign":
            for _ in range(chance.randint(1, 3)):
                yield self._elsewhere(device), self._answer(ident)
        elif kind == "unknown":
            nobody = [ident + FAR, 0, -1, -ident, 1, 999_999, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
            yield own, self._answer(chance.choice(nobody))
        elif kind == "malformed":
            for _ in range(chance.randint(1, 3)):
                yield own, malformed(ident, chance)
        elif kind == "huge" and chance.random() < 0.15:
            filling = b"x" * chance.choice(HUGE)
            if chance.random() < 0.5:
                yield own, b'{"code":200,"data":"' + filling + b'"}'
            else:
                yield self._elsewhere(device), b'{"id":%d,"code":200,"data":"%b"}' % (ident, filling)

    def _about_answer(self, kind: str, topic: str, payload: bytes) -> Iterator[Lie]:
        chance = self._chance
        if kind == "copies":
            for _ in range(chance.randint(1, 2)):
                yield topic, payload
            if chance.random() < 0.3:
                yield chance.choice(self._old)
        elif kind == "contradict":
            with contextlib.suppress(ValueError, KeyError, TypeError):
                ident, code = json.loads(payload)["id"], json.loads(payload)["code"]
                if not (code == 102 or code in (408, 423, 429, 503)):
                    opposite = chance.choice([code for code in CODES if code != 200])
                    yield topic, self._answer(ident, opposite if 200 <= code < 300 else 200)
        elif kind == "retained" and chance.random() < 0.2:
            yield topic, payload if chance.random() < 0.5 else malformed(0, chance)

    def _answer(self, ident: int, code: int | None = None) -> bytes:
        data = self._chance.choice([None, {"progress": 50}, {"message": "'id' was used"}, "liar", {"outcome": "done"}])
        return json.dumps({"id": ident, "code": code or self._chance.choice(CODES), "data": data}).encode()

    def _topic(self, device: str) -> str:
        return f"/remote/{device}/answer/{self._instance}"

    def _elsewhere(self, device: str) -> str:
        others = [other for other in self._chance.sample(self._devices, min(2, len(self._devices))) if other != device]
        nobody = ["stranger", "", "localhost", "$SYS", "💥", "x" * 300, f"{device} "]
        other = self._chance.choice([*others, *others, *nobody])
        if self._chance.random() < 0.1:
            return f"/remote/{device}/answer/{self._instance}x"
        return self._topic(other)

    def _say(self, kind: str, lie: Lie) -> None:
        delay = self._chance.choice([0.0, 0.0, self._chance.uniform(0, 0.05), self._chance.uniform(0, 0.6)])
        self._said.add(hash(lie[1]))
        with self._news:
            heapq.heappush(self._due, _Due(time.monotonic() + delay, next(self._numbers), kind, lie))
            self._news.notify_all()

    # The speaking thread

    def _speak(self) -> None:
        while not self._stopping:
            with contextlib.suppress(OSError):
                topics = ["/remote/+", f"/remote/+/answer/{self._instance}"]
                with RawClient(self._port, topics=topics, on_message=self._heard) as client:
                    self.listening.set()
                    self._publish_due(client)
                    self._take_back(client)
                    return
            time.sleep(0.05)  # the broker is away

    def _publish_due(self, client: RawClient) -> None:
        while not client.closed:
            with self._news:
                left = self._due[0].at - time.monotonic() if self._due else 0.2
                if left > 0 and not self._stopping:
                    self._news.wait(left)
                    continue
                if not self._due:
                    return
                due = heapq.heappop(self._due)
            topic, payload = due.lie
            retain = due.kind == "retained"
            client.publish(topic, payload, qos=1, retain=retain)
            self.told[due.kind] += 1
            self.retained |= {topic} if retain and payload else set()
        raise OSError("the broker is away")

    def _take_back(self, client: RawClient) -> None:
        for topic in self.retained:
            client.publish(topic, b"", retain=True)
        client.wait_acknowledged(client.published, 10.0)
        self.retained.clear()


def junk(instance: str, devices: Sequence[str], tunnels: Sequence[str], chance: random.Random) -> list[Lie]:
    """Junk for each topic that the bundle and the controller listen to, a few of each kind.

    :param tunnels: of the bundle at the controller.
    """
    found: list[Lie] = []
    for device in [*chance.sample(list(devices), min(5, len(devices))), "stranger-1", "", "$x", "💥", "localhost"]:
        about: Any = {"connection": "online", "labels": {"a": 1, "b" * 300: "c"}, "facts": [], "session": 7}
        for _ in range(4):
            output = chance.choice(["", "x", "1", "-1", "9" * 30, "1000001"])
            found += [
                (f"/remote/{device}/answer/{instance}", malformed(0, chance)[:2000]),
                (f"/remote/{device}/answer/{instance}", b'{"id":%d,"code":200}' % chance.randrange(1 << 40, 1 << 62)),
                (f"/remote/{device}/telemetry", malformed(1, chance)[:2000]),
                (f"/remote/{device}/telemetry", json.dumps(about).encode()),
                (f"/remote/{device}/event", malformed(2, chance)[:2000]),
                (f"/remote/{device}/output/{output}", b'{"number":-1}'),
                (f"/remote/{device}/presence", malformed(3, chance)[:2000] or b"x"),
            ]
    for tunnel in tunnels:
        found += [(tunnel, malformed(4, chance)[:2000]) for _ in range(20)]
    return found


POISON: tuple[bytes, ...] = (
    b'{"id":1,"method":"get","resource":"/jobs","match":1}',
    b'{"id":2,"method":5,"resource":"/jobs"}',
    b'{"id":3,"method":"get","resource":5}',
    b'{"id":4,"method":"get","resource":"/jobs","to_dict":1,"to_json":2,"to_event":3,"get_id":4,"type":5}',
    b'{"id":5,"method":"get","resource":"/jobs","data":null,"query":{"limit":{}},"param":1}',
    b'{"id":6,"method":"post","resource":"/jobs","tunnel":[],"sign":{}}',
    b'{"id":true,"method":"get","resource":"/jobs"}',
    b'{"id":1e999,"method":"get","resource":"/jobs"}',
    b'{"id":7,"method":"get","resource":"/jobs","code":"200"}',
    b'{"id":8,"method":"get","resource":"/jobs?limit=' + b"9" * 5000 + b'"}',
    b'{"id":9,"method":"__class__","resource":"/jobs"}',
    b'{"id":10,"method":"get","resource":"/jobs/%00%ff/../x"}',
    b'{"id":11,"code":200,"method":"post","resource":"/controller/registration","data":{"tunnel":5},"sign":["x"]}',
    b"[" * 100_000,
    b"\xff\xfe\x00",
    b"",
)
"""The first three each end a thread of the SDK that takes what comes on trust: it has three."""
