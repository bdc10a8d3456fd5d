"""Others on the bus: liars, floods, poison, a crowd that answers at once, watchers that don't watch."""

from __future__ import annotations

import contextlib
import random
import re
import resource
import socket
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

import httpx

from tests.faults import invariants
from tests.faults.crowd import Crowd
from tests.faults.kinds.base import Fault, Moment
from tests.faults.liars import POISON, Liar, junk
from tests.faults.raw import RawClient, blast, publish
from tests.faults.records import Document, Posted, Records
from tests.faults.site import Site
from tests.system.stand import PATIENCE

MAX_MEMORY = 600
"""MiB that the bundle may ever have; it has 80 at the beginning."""

FLAPPING = 100
"""Devices that nobody knows, and that come and go."""

NO_DESCRIPTOR = 5
"""No new descriptor is below this: there are the standard ones, and what a process opens first and for good."""


class Lies(Fault):
    """A liar is there from the first POST until the fault is lifted."""

    part = "answers"
    kinds: ClassVar[Sequence[str]]

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.chance = random.Random(chance.random())
        self.moment = Moment("sent", 1, 0.0)
        self.hold = round(chance.uniform(0.5, 2), 3)
        self.liar: Liar | None = None

    def begin(self, site: Site) -> None:
        self.liar = Liar(site.stand.port, site.stand.instance, site.names, self.kinds, self.chance, site.heard)
        self.liar.start()

    def end(self, site: Site) -> None:
        assert self.liar is not None
        self.liar.stop()

    def check(self, site: Site, records: Records) -> Iterable[str]:
        yield from memory(site)

    def __str__(self) -> str:
        told = ", ".join(f"{count} {kind}" for kind, count in self.liar.told.items()) if self.liar else ""
        return super().__str__() + (f" ({told})" if told else "")


class Copies(Lies):
    name = "lie_copies"
    promise = "Answers that come twice, late, in another order, or after their job was removed change nothing."
    kinds = ("copies",)


class Contradict(Lies):
    name = "lie_contradict"
    promise = "An answer to what was answered already changes nothing, whatever it says."
    kinds = ("contradict",)
    mixes = False  # where the first answer is lost the second one is the answer


class Foreign(Lies):
    name = "lie_foreign"
    promise = "An answer on the topic of another device changes nothing, although its id is right."
    kinds = ("foreign",)


class Unknown(Lies):
    name = "lie_unknown"
    promise = "Answers with ids that nobody has, or nobody yet, change nothing."
    kinds = ("unknown",)


class Malformed(Lies):
    name = "lie_malformed"
    promise = "What is no answer (no JSON, wrong types, NaN, too deep, truncated, empty) changes nothing."
    kinds = ("malformed",)


class Huge(Lies):
    name = "lie_huge"
    promise = "Messages of 1 to 20 MiB that answer nothing change nothing, and cost bounded memory."
    kinds = ("huge",)


class Retained(Lies):
    """The bundle's connections are reset, so that it subscribes again and gets all that is retained."""

    name = "lie_retained"
    promise = "Answers that are retained, and come again with each connection, change nothing."
    kinds = ("retained", "copies")
    mixes = False

    def end(self, site: Site) -> None:
        before = site.proxy.accepted
        site.proxy.reset()
        site.wait(lambda: site.proxy.accepted > before, "it does not connect again")
        site.wait(lambda: site.health().get("broker") == "connected", "it does not come to the broker again")
        super().end(site)


class Everything(Lies):
    name = "lie_all"
    promise = "All of these at once."
    kinds = ("copies", "foreign", "unknown", "malformed", "huge", "retained")


class Flood(Fault):
    """As fast as the broker takes it, at QoS 0 and 1, for as long as it lasts."""

    name = "flood"
    promise = (
        "Junk on every topic that the bundle or its controller listens to, at full speed, loses no job and no answer."
    )
    part = "answers"
    through_controller = True

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.chance = random.Random(chance.random())
        self.hold = round(chance.uniform(0.2, 1.0), 3)
        self.qos = chance.choice([0, 1])
        self.sent = 0
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, site: Site) -> None:
        # Not the controller itself without end: it carries a few hundred messages a second, and all callers wait.
        lies = junk(site.stand.instance, site.names, tunnels(site), self.chance)
        blob = b"".join(publish(topic, payload, qos=self.qos, mid=1) for topic, payload in lies)
        few = b"".join(publish("/controller", payload) for payload in POISON)
        self._thread = threading.Thread(target=self._flood, args=(site.stand.port, blob, few, len(lies)), daemon=True)
        self._thread.start()

    def end(self, site: Site) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _flood(self, port: int, blob: bytes, few: bytes, size: int) -> None:
        with contextlib.suppress(OSError), RawClient(port) as client:
            client.send(few)
            while not self._over.is_set():
                self.sent += size * blast(client, blob, 0.05)

    def check(self, site: Site, records: Records) -> Iterable[str]:
        yield from memory(site)

    def __str__(self) -> str:
        return f"{super().__str__()} ({self.sent} at QoS {self.qos})"


class Poison(Fault):
    """Through the controller, and straight to the tunnels that it gave to the bundle."""

    name = "poison"
    promise = "Messages that end the SDK's threads (three of them, and a dozen more) reach none of it; calls go on."
    part = "controller"
    through_controller = True

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.chosen = [*POISON[:3], *chance.choices(POISON, k=chance.randint(0, 20))]
        chance.shuffle(self.chosen)

    def begin(self, site: Site) -> None:
        with contextlib.suppress(OSError), RawClient(site.stand.port) as client:
            topics = ["/controller", *tunnels(site)]
            if len(topics) == 1:
                self.violations.append("the bundle's tunnel at the controller is not known")
            for topic in topics:
                for payload in self.chosen:
                    client.publish(topic, payload)
            client.wait_acknowledged(len(topics) * len(self.chosen), 10.0)


class Burst(Fault):
    """10,000 devices of which 500 never answered in time, 8,500 answered, and the last 1,000 hold their answers back
    until all of them are out, as many as the window allows. Then all 10,000 publish at once: 1,000 first answers, 500
    late ones and 8,500 repeated ones, in any order."""

    name = "burst"
    promise = (
        "10,000 answers that are published in one go (1,000 first ones, 500 late, 8,500 again) are taken."
    )
    part = "answers"
    mixes = False

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.chance = random.Random(chance.random())
        self.moment = Moment("sent", 0, 0.0)
        self.hold = 0.0
        self.crowd: Crowd | None = None
        self._spread: float = 0.0

    def begin(self, site: Site) -> None:
        before = dropped(site)
        crowd = self.crowd = Crowd(site.stand.port, site.stand.instance, 10_000, self.chance)
        crowd.start()
        try:
            late = self._run(site, crowd.names[:500], {"requestTimeout": 0.3, "retry": {"limit": 0}})
            crowd.answering = True
            main = self._run(site, crowd.names[500:], {"requestTimeout": 600}, hold=1000)
            for job_id, wanted in ((late, "timeout"), (main, "resolved")):
                self._look(site, job_id, wanted)
            site.wait(lambda: dropped(site) >= before + 9000, "late and repeated answers are missed")
        finally:
            crowd.stop()

    def _run(self, site: Site, names: list[str], more: Document, hold: int = 0) -> int:
        assert self.crowd is not None
        message = {"method": "put", "resource": "/burst"}
        self.crowd.hold_last(hold, names if hold else ())
        document = {"destinations": names, "message": message, "key": f"{self.label}-{hold}-{names[0]}", **more}
        job_id = 0
        deadline = time.monotonic() + PATIENCE
        while not job_id:
            with contextlib.suppress(httpx.HTTPError):
                reply = site.http.post("/jobs", json=document)
                job_id = reply.json()["id"] if reply.status_code == 200 else 0
            assert time.monotonic() < deadline, "the job of the crowd is not accepted"
        if hold:
            site.wait(lambda: self.crowd and self.crowd.held >= hold, "not all of the window is out")
            self._spread = self.crowd.burst()
        site.wait(lambda: site.get(f"/jobs/{job_id}?limit=0")["status"] == "resolved", "the crowd's job does not end")
        return job_id

    def _look(self, site: Site, job_id: int, wanted: str) -> None:
        assert self.crowd is not None
        job = site.get(f"/jobs/{job_id}?limit=0")
        if job["counts"][wanted] != job["totalCount"]:
            self.violations.append(f"the crowd's job {job_id} counts {job['counts']}, not all {wanted}")
        requests: list[Document] = []
        while len(requests) < job["totalCount"]:
            requests += site.get(f"/jobs/{job_id}?limit=1000&offset={len(requests)}")["requests"]
        posted = Posted({"name": job["name"], "batch": []}, ids={job_id}, codes=[200], ends="any")
        records = Records(posted=[posted], jobs=[job], requests={job_id: requests}, work=self.crowd.work)
        checks = (invariants.counters_add_up, invariants.resolved_was_done, invariants.done_once)
        self.violations += [text for check in checks for text in check(records)][:20]
        with contextlib.suppress(httpx.HTTPError):
            site.http.delete(f"/jobs/{job_id}")

    def check(self, site: Site, records: Records) -> Iterable[str]:
        yield from memory(site)

    def __str__(self) -> str:
        return f"{super().__str__()} (the broker took 10,000 answers in {self._spread:.3f} s)"


class SlowWatchers(Fault):
    """WebSockets, event streams and a client on the bus that ask for everything and read nothing."""

    name = "slow_watchers"
    promise = "Watchers that never read what they asked for slow nobody else down, and cost bounded memory."
    part = "watchers"

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.moment = Moment("sent", 0, 0.0)
        self.hold = round(chance.uniform(0.5, 2), 3)
        self.count = chance.randint(5, 50)
        self.sockets: list[socket.socket] = []
        self.clients: list[RawClient] = []

    def begin(self, site: Site) -> None:
        host, port = site.stand.site.removeprefix("http://").split(":")
        upgrade = (
            f"GET /jobs/ws HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        stream = f"GET /jobs/events HTTP/1.1\r\nHost: {host}\r\n\r\n"
        with contextlib.suppress(OSError):
            for number in range(self.count):
                watcher = socket.socket()
                watcher.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                watcher.connect((host, int(port)))
                watcher.sendall((stream if number % 2 else upgrade).encode())
                self.sockets.append(watcher)
            topics = [f"/puppetmaster/{site.stand.instance}/jobs/+"]
            self.clients.append(RawClient(site.stand.port, topics=topics, acknowledge=False))

    def end(self, site: Site) -> None:
        for watcher in self.sockets:
            watcher.close()
        for client in self.clients:
            client.close()

    def check(self, site: Site, records: Records) -> Iterable[str]:
        yield from memory(site)


class FlappingDevices(Fault):
    """Devices that take the traffic, and others, say ten times a second that they are there and that they are not."""

    name = "flapping_devices"
    promise = "Devices that come and go ten times a second disturb no job that does not ask who is there."
    part = "watchers"

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.moment = Moment("sent", 1, 0.0)
        self.hold = round(chance.uniform(0.5, 2), 3)
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, site: Site) -> None:
        names = [*site.names, *(f"flapping-{number}" for number in range(FLAPPING))]
        self._thread = threading.Thread(target=self._flap, args=(site.stand.port, names), name=self.name, daemon=True)
        self._thread.start()

    def end(self, site: Site) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _flap(self, port: int, names: list[str]) -> None:
        with contextlib.suppress(OSError), RawClient(port) as client:
            while not self._over.is_set():
                for connection in ("online", "offline"):
                    self._say(client, names, b'{"connection":"%b"}' % connection.encode())
                    self._over.wait(0.05)
            self._say(client, names, b"")
            client.wait_acknowledged(client.published, 10.0)

    def _say(self, client: RawClient, names: list[str], payload: bytes) -> None:
        for name in names:
            client.publish(f"/remote/{name}/presence", payload, retain=True)


class Leftovers(Fault):
    """A half of a snapshot, the empty journal that was to follow, and old journals that were to be removed."""

    name = "leftovers"
    promise = "Files that a killed compaction or an old life left in the data folder change nothing."
    part = "bundle"

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.names = chance.sample(["json.tmp", "journal.next", "journal.old"], chance.randint(1, 3))
        self.stores = chance.choice([["puppetmaster"], ["registry"], ["puppetmaster", "registry"]])
        self.hold = 0.0
        self._left: list[Path] = []

    def begin(self, site: Site) -> None:
        site.stand.bundle.kill()
        for store in self.stores:
            # Of the snapshot: a journal with a higher number may itself be left over.
            snapshot = site.data / f"{store}.json"
            found = re.findall(r'"generation":(\d+)', snapshot.read_text() if snapshot.exists() else "")
            generation = int(found[-1]) if found else 0
            for name in self.names:
                number = {"journal.next": generation + 1, "journal.old": generation - 1}.get(name)
                file = site.data / f"{store}.{name if number is None else f'journal.{number}'}"
                if number is None or number > 0:
                    with contextlib.suppress(OSError):  # in a mix the disk may be full: then nothing is left over
                        file.write_bytes(b"" if name == "journal.next" else b'{"jobs":{"1":{"half of it')
                        self._left.append(file)

    def end(self, site: Site) -> None:
        site.start(site.stand.bundle)

    def __str__(self) -> str:
        return f"{super().__str__()} ({' '.join(path.name for path in self._left)})"


class NoFiles(Fault):
    """RLIMIT_NOFILE of the running bundle is set so low that it gets no descriptor any more, not even in the place of
    one that it closes; mostly its connections are reset, so that it needs some."""

    name = "no_files"
    promise = "A bundle that may open no more files or connections loses nothing, and goes on when it may again."
    part = "bundle"
    mixes = False

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.hold = round(chance.uniform(0.2, 2), 3)
        self.reset = chance.random() < 0.7
        self.limits = (0, 0)

    def begin(self, site: Site) -> None:
        pid = site.stand.bundle.pid
        assert pid is not None
        self.limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (NO_DESCRIPTOR, self.limits[1]))
        if self.reset:
            site.proxy.reset()
        with contextlib.suppress(httpx.HTTPError):
            httpx.get(f"{site.stand.site}/health", timeout=0.3, trust_env=False)

    def end(self, site: Site) -> None:
        pid = site.stand.bundle.pid
        if pid is not None:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, self.limits)


def dropped(site: Site) -> int:
    """How many answers of known requests changed nothing, as the bundle told last."""
    told = [heard.data for heard in list(site.stand.presence.messages) if heard.payload]
    counts = told[-1].get("dropped", {}) if told else {}
    return int(counts.get("duplicate", 0) + counts.get("late", 0))


def tunnels(site: Site) -> list[str]:
    """The topics on which the controller hands calls to the bundle: the last of its log."""
    return re.findall(r"registered at the controller, tunnel (\d+)", site.stand.bundle.log())[-1:]


def memory(site: Site) -> Iterable[str]:
    """A violation when the bundle ever had too much."""
    with contextlib.suppress(OSError, AttributeError, IndexError):
        status = Path(f"/proc/{site.stand.bundle.pid}/status").read_text()
        most = int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) // 1024
        if most > MAX_MEMORY:
            yield f"the bundle had {most} MiB of memory, more than {MAX_MEMORY}"


FAULTS: list[type[Fault]] = [
    Copies, Contradict, Foreign, Unknown, Malformed, Huge, Retained, Everything, Flood, Poison, Burst, SlowWatchers,
    FlappingDevices, Leftovers, NoFiles,
]  # fmt: skip
