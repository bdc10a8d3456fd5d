"""Jobs as they change, over WebSockets and as server-sent events: whoever watches gets the newest state, however slow,
rude or many watchers are."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import secrets
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil
import pytest
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from puppetmaster.embedded.broker import find_mosquitto
from puppetmaster.times import from_text
from tests.system.stand import (
    FINAL,
    PATIENCE,
    STOP_TIMEOUT,
    TRUST,
    Document,
    Fleet,
    Heard,
    Listener,
    Stand,
    assert_adds_up,
)

MESSAGE = {"method": "post", "resource": "/system/reboot"}

MEGABYTE = 1 << 20

BIG_LABELS = [f"{number:02d}" + 126 * "\N{ROCKET}" for number in range(64)]
"""The longest ones there are: every state of a job that has them is 33 KB, and ten of them fill any small buffer."""


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    with Stand(tmp_path_factory.mktemp("stand"), http=True) as running:
        running.edge = "http"
        yield running


@pytest.fixture(scope="module")
def fleet(stand: Stand) -> Fleet:
    """A hundred devices that take a tenth of a second."""
    return stand.fleet("dev", 100, latency="0.1")


# Watchers


class Watcher(Listener):
    """A WebSocket, and all that came on it, read by a thread of its own."""

    def __init__(self, stand: Stand, path: str, **options: Any) -> None:
        super().__init__(path)
        self.closed = threading.Event()
        self.socket = open_socket(stand, path, **options)
        self._thread = threading.Thread(target=self._read, name=f"watcher {path}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *exception: object) -> None:
        self.socket.close()
        self._thread.join(PATIENCE)

    @property
    def states(self) -> list[Document]:
        """All that was told so far."""
        return [heard.data for heard in self.since(0)]

    def first(self, count: int) -> list[Document]:
        """What was told first, once there is so much of it."""
        return [heard.data for heard in self.wait_until(lambda heard: len(heard) >= count)[:count]]

    def until(self, accept: Callable[[Document], object], mark: int = 0) -> Document:
        """The first state that is accepted."""
        found: Document = self.wait(lambda heard: accept(heard.data), mark=mark).data
        return found

    def close_of_server(self) -> tuple[int | None, str | None]:
        """Code and reason with which the server closed it."""
        assert self.closed.wait(PATIENCE), "it was not closed"
        return self.socket.close_code, self.socket.close_reason

    def _read(self) -> None:
        try:
            for message in self.socket:
                assert isinstance(message, str)
                self.put(Heard(self.topic, message.encode(), False, time.monotonic()))
        except ConnectionClosed:
            pass
        finally:
            self.closed.set()


def open_socket(stand: Stand, path: str, **options: Any) -> ClientConnection:
    return connect(stand.site.replace("http", "ws", 1) + path, proxy=None, compression=None, **options)


def refused(stand: Stand, path: str, **options: Any) -> tuple[int, Any]:
    """Code and body of the answer to a handshake that is refused."""
    with pytest.raises(InvalidStatus) as caught:
        open_socket(stand, path, **options)
    response = caught.value.response
    return response.status_code, json.loads(response.body or b"null")


def slow_job(fleet: Fleet, seconds: float, **more: Any) -> Document:
    """A job document of a job that takes so long: each of its requests takes a tenth of a second, ten at once."""
    rounds = int(seconds * 10)
    batch = [{**MESSAGE, "data": number, "__request": {"destination": fleet.names[:10]}} for number in range(rounds)]
    return {"batch": batch, "concurrency": 10, **more}


def paused_job(stand: Stand, fleet: Fleet, **more: Any) -> Document:
    """A job that does nothing until it is told to."""
    document = {"destinations": fleet.names[:5], "message": MESSAGE, "startAt": "2100-01-01T00:00:00Z", **more}
    return stand.create_job(document)


def assert_only_forwards(states: list[Document]) -> None:
    """The counters add up in every state, and nothing that was done is undone."""
    for state in states:
        assert_adds_up(state)
    for name in ("doneCount", "finishCount", "errorCount", "progress"):
        values = [state[name] for state in states]
        assert values == sorted(values), name


def assert_paced(states: list[Document]) -> None:
    """At most ten states a second, on the server's own clock: a client may be held up and read many at once."""
    last = states[-1]
    took = from_text(last["finishedAt"]) - from_text(last["createdAt"])
    # The state on connecting, and the last one, which waits for nothing.
    assert len(states) <= 10 * took + 2


def job_of(stand: Stand, job_id: int) -> Document:
    """A job as the streams have it."""
    job = stand.job(job_id, "limit=0")
    del job["requests"]
    return job


# WebSockets of one job


@pytest.mark.parametrize("path", ["/jobs/{}/ws", "/jobs/ws/{}"])
def test_a_job_is_told_at_once_and_at_its_changes_up_to_the_last_one(stand: Stand, fleet: Fleet, path: str) -> None:
    job = stand.create_job(slow_job(fleet, 2.0, name="watched"))
    with Watcher(stand, path.format(job["id"])) as watcher:
        watcher.until(lambda state: state["status"] in FINAL)
        ended = stand.wait_job(job["id"])

        states = watcher.states
        assert {state["id"] for state in states} == {job["id"]}
        assert states[0]["doneCount"] < job["totalCount"]
        assert states[-1] == ended == job_of(stand, job["id"])
        assert not any("requests" in state or "collection" in state for state in states)
        assert len(states) >= 5, "it moves"
        assert_only_forwards(states)
        assert_paced(states)


def test_what_is_told_first_is_the_job_as_it_is_now(stand: Stand, fleet: Fleet) -> None:
    job = paused_job(stand, fleet, name="quiet", labels=["a", "b"])
    with Watcher(stand, f"/jobs/{job['id']}/ws") as watcher:
        assert watcher.first(1) == [job_of(stand, job["id"])]

        assert stand.update_job(job["id"], priority=70)["priority"] == 70
        watcher.until(lambda state: state["priority"] == 70)
        stand.update_job(job["id"], status="canceled")
        assert watcher.until(lambda state: state["status"] == "canceled") == job_of(stand, job["id"])


def test_a_removed_job_is_told_and_its_socket_closed(stand: Stand, fleet: Fleet) -> None:
    job = paused_job(stand, fleet)
    with Watcher(stand, f"/jobs/{job['id']}/ws") as watcher:
        watcher.first(1)
        stand.remove_job(job["id"])
        assert watcher.close_of_server() == (1000, "removed")
        assert watcher.states[-1] == {"id": job["id"], "removed": True}
    assert refused(stand, f"/jobs/{job['id']}/ws")[0] == 404


def test_the_socket_of_a_job_that_has_ended_stays_open_until_it_is_removed(stand: Stand, fleet: Fleet) -> None:
    job = stand.run_job({"destinations": fleet.names[:3], "message": MESSAGE})
    with Watcher(stand, f"/jobs/{job['id']}/ws") as watcher:
        assert watcher.first(1) == [job]
        watcher.socket.ping().wait(PATIENCE)
        assert not watcher.closed.is_set()
        stand.remove_job(job["id"])
        assert watcher.close_of_server() == (1000, "removed")
        assert watcher.states == [job, {"id": job["id"], "removed": True}]


@pytest.mark.parametrize("ident", ["999", "0", "abc", "-1", "1e6", "%F0%9F%9A%80", "9" * 400, "ws"])
def test_an_unknown_job_is_404_at_the_handshake(stand: Stand, ident: str) -> None:
    for path in (f"/jobs/{ident}/ws", f"/jobs/ws/{ident}"):
        code, body = refused(stand, path)
        assert code == 404
        assert set(body) == {"message"}


# WebSockets of all jobs


def test_the_newest_jobs_are_told_at_once_the_oldest_of_them_first(stand: Stand, fleet: Fleet) -> None:
    jobs = [paused_job(stand, fleet, labels=["first"], name=str(number)) for number in range(4)]
    with Watcher(stand, "/jobs/ws?label=first&limit=3") as watcher:
        assert [state["id"] for state in watcher.first(3)] == [job["id"] for job in jobs[1:]]
        assert watcher.states[:3] == [job_of(stand, job["id"]) for job in jobs[1:]]

        new = paused_job(stand, fleet, labels=["other", "first"])
        assert [state["id"] for state in watcher.first(4)][3:] == [new["id"]]
    with Watcher(stand, "/jobs/ws?limit=0") as watcher:
        stand.update_job(jobs[0]["id"], priority=1)
        assert watcher.first(1) == [job_of(stand, jobs[0]["id"])], "no job was told before"


def test_a_job_made_after_the_connect_is_told_from_its_beginning_to_its_end(stand: Stand, fleet: Fleet) -> None:
    with Watcher(stand, "/jobs/ws?limit=0") as watcher:
        job = stand.create_job(slow_job(fleet, 1.0, name="new"))
        watcher.until(lambda state: state["id"] == job["id"] and state["status"] in FINAL)
        stand.remove_job(job["id"])
        watcher.until(lambda state: state == {"id": job["id"], "removed": True})
        states = [state for state in watcher.states if state["id"] == job["id"]]
        assert states[0]["doneCount"] < job["totalCount"]
        assert_only_forwards(states[:-1])
        assert_paced(states[:-1])
        assert not watcher.closed.is_set(), "the socket of all jobs stays open"


def test_only_jobs_with_the_label_are_told(stand: Stand, fleet: Fleet) -> None:
    with Watcher(stand, "/jobs/ws?label=night&label=site%3Da&limit=0") as watcher:
        for labels in (["night"], ["site=a"], []):
            paused_job(stand, fleet, labels=labels)
        both = paused_job(stand, fleet, labels=["x", "site=a", "night"])
        assert [state["id"] for state in watcher.first(1)] == [both["id"]]


def test_a_job_that_leaves_the_filter_is_told_once_more(stand: Stand, fleet: Fleet) -> None:
    job, marker = (paused_job(stand, fleet, labels=["leaves"]) for _ in range(2))
    with Watcher(stand, "/jobs/ws?label=leaves&status=pending") as watcher:
        assert [state["id"] for state in watcher.first(2)] == [job["id"], marker["id"]]
        stand.update_job(job["id"], status="paused")
        left = watcher.until(lambda state: state["status"] == "paused")
        assert left["id"] == job["id"]

        stand.update_job(job["id"], priority=3)
        stand.update_job(job["id"], status="canceled")
        stand.remove_job(job["id"])
        stand.update_job(marker["id"], priority=4)
        watcher.until(lambda state: state.get("priority") == 4)
        assert [(state["id"], state["status"]) for state in watcher.states] == [
            (job["id"], "pending"), (marker["id"], "pending"), (job["id"], "paused"), (marker["id"], "pending"),
        ]  # fmt: skip


def test_a_job_that_comes_into_the_filter_is_told(stand: Stand, fleet: Fleet) -> None:
    job = paused_job(stand, fleet)
    with Watcher(stand, "/jobs/ws?status=canceled&status=paused&limit=0") as watcher:
        stand.update_job(job["id"], status="paused")
        stand.update_job(job["id"], status="canceled")
        watcher.until(lambda state: state["status"] == "canceled")
        assert {state["id"] for state in watcher.states} == {job["id"]}


@pytest.mark.parametrize("query", ["status=nonsense", "limit=-1", "limit=x", "limit=10001", "since=yesterday"])
def test_a_bad_query_is_400_at_the_handshake(stand: Stand, query: str) -> None:
    code, body = refused(stand, f"/jobs/ws?{query}")
    assert code == 400
    assert body["errors"][0]["path"] == query.partition("=")[0]


# Watchers that are slow, rude or many


def call_raw(stand: Stand, path: str, headers: str = "") -> socket.socket:
    """A GET by a socket that has room for little of the answer, and reads nothing of it yet."""
    url = httpx.URL(stand.site)
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    raw.settimeout(PATIENCE)
    raw.connect((url.host, url.port))
    raw.sendall(f"GET {path} HTTP/1.1\r\nHost: {url.netloc.decode()}\r\n{headers}\r\n".encode())
    return raw


class Sleeper:
    """A raw socket that shakes hands and reads nothing until it is told to."""

    def __init__(self, stand: Stand, path: str) -> None:
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        headers = "Upgrade: websocket\r\nConnection: Upgrade\r\n"
        headers += f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
        self.raw = call_raw(stand, path, headers)
        self._rest = b""
        head = self._read_until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101"), head

    def __enter__(self) -> Sleeper:
        return self

    def __exit__(self, *exception: object) -> None:
        self.raw.close()

    def frame(self) -> tuple[int, bytes] | None:
        """The next frame: its opcode and what is in it; none at the end."""
        try:
            opcode, length = self._read(2)
            if length == 126:
                (length,) = struct.unpack("!H", self._read(2))
            elif length == 127:
                (length,) = struct.unpack("!Q", self._read(8))
            return opcode & 0x0F, self._read(length)
        except (EOFError, ConnectionError):
            return None

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """All frames, until the server ends it."""
        while (frame := self.frame()) is not None:
            yield frame

    def states_to_the_end(self) -> list[Document]:
        """All that it is told, until its job has ended."""
        states: list[Document] = []
        for opcode, payload in self.frames():
            if opcode == TEXT:
                states.append(json.loads(payload))
                if states[-1]["status"] in FINAL:
                    break
        return states

    def _read(self, size: int) -> bytes:
        while len(self._rest) < size:
            more = self.raw.recv(65536)
            if not more:
                raise EOFError
            self._rest += more
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    def _read_until(self, mark: bytes) -> bytes:
        while mark not in self._rest:
            self._rest += self.raw.recv(65536)
        return self._read(self._rest.index(mark) + len(mark))


TEXT, CLOSE, PING = 1, 8, 9


@pytest.fixture(scope="module", autouse=True)
def drowsy(stand: Stand, fleet: Fleet) -> Iterator[list[Sleeper]]:
    """Two that answer no ping, from the beginning of this file: what waits for the first one fills all buffers."""
    job = paused_job(stand, fleet)
    with Sleeper(stand, "/jobs/ws?limit=0") as full, Sleeper(stand, f"/jobs/{job['id']}/ws") as empty:
        yield [full, empty]


def crowd_job(fleet: Fleet, **more: Any) -> Document:
    """3,000 requests: 30 rounds over a hundred devices, each of which takes a tenth of a second."""
    batch = [{**MESSAGE, "data": number, "__request": {"destination": fleet.names}} for number in range(30)]
    return {"batch": batch, **more}


def seconds_of(job: Document) -> float:
    return from_text(job["finishedAt"]) - from_text(job["startedAt"])


def memory(stand: Stand) -> int:
    return int(psutil.Process(stand.bundle.pid).memory_info().rss)


def test_readers_that_sleep_harm_nobody_and_wake_to_the_newest_state(stand: Stand, fleet: Fleet) -> None:
    sizes = [memory(stand)]
    alone = stand.run_job(crowd_job(fleet, labels=BIG_LABELS))
    sizes.append(memory(stand))

    job = stand.create_job(crowd_job(fleet, labels=BIG_LABELS))
    path = f"/jobs/{job['id']}/ws"
    with contextlib.ExitStack() as stack:
        sleepers = [stack.enter_context(Sleeper(stand, path)) for _ in range(30)]
        awake = stack.enter_context(Watcher(stand, path, max_size=MEGABYTE))
        awake.until(lambda state: state["status"] in FINAL)
        sizes.append(memory(stand))
        beside = stand.wait_job(job["id"])
        told = len(awake.states)
        assert told >= 20

        assert seconds_of(beside) < 2 * seconds_of(alone) + 1
        # What waited for the sleepers would be more than 30 MB.
        assert sizes[2] - sizes[1] < sizes[1] - sizes[0] + 16 * MEGABYTE

        for sleeper in sleepers[:5]:
            states = sleeper.states_to_the_end()
            assert states[-1] == beside, "the newest one comes last"
            assert_only_forwards(states)
            found = len(states)
            assert found <= told / 3, "most of them were skipped"
    for made in (alone, beside):
        stand.remove_job(made["id"])


def test_three_hundred_watchers_all_get_the_last_state(stand: Stand, fleet: Fleet) -> None:
    job = stand.create_job(slow_job(fleet, 4.0))
    url = f"{stand.site.replace('http', 'ws', 1)}/jobs/{job['id']}/ws"

    async def watch() -> list[Document]:
        states: list[Document] = []
        async with connect_async(url, proxy=None, compression=None, open_timeout=PATIENCE) as watcher:
            async for message in watcher:
                states.append(json.loads(message))
                if states[-1]["status"] in FINAL:
                    return states
        raise AssertionError(f"it was closed after {states[-1:]}")

    async def watch_all() -> list[list[Document]]:
        return await asyncio.wait_for(asyncio.gather(*(watch() for _ in range(300))), PATIENCE)

    seen = asyncio.run(watch_all())
    ended = stand.wait_job(job["id"])
    assert [states[-1] for states in seen] == [ended] * 300
    for states in seen:
        assert_only_forwards(states)
        assert_paced(states)


def close_code(sleeper: Sleeper) -> int | None:
    """The code with which the server closed it; none when it just went."""
    for opcode, payload in sleeper.frames():
        if opcode == CLOSE:
            return int(struct.unpack("!H", payload[:2])[0])
    return None


def test_what_watchers_send_means_nothing(stand: Stand, fleet: Fleet) -> None:
    job = paused_job(stand, fleet)
    with Watcher(stand, f"/jobs/{job['id']}/ws") as watcher:
        for junk in ("", "hello", '{"status": "canceled"}', b"\0\xff" * 1000, "x" * 60_000, b""):
            watcher.socket.send(junk)
        watcher.socket.ping().wait(PATIENCE)
        stand.update_job(job["id"], priority=9)
        watcher.until(lambda state: state["priority"] == 9)
        assert {state["status"] for state in watcher.states} == {"pending"}


@pytest.mark.parametrize(
    ("junk", "code"),
    [
        (bytes([0x81, 0xFF]) + struct.pack("!Q", MEGABYTE) + bytes(4 + MEGABYTE), 1009),
        (bytes([0x82, 0xFF]) + struct.pack("!Q", 2**62) + bytes(4), 1009),
        (bytes([0x83, 0x80]) + bytes(4), 1002),
        (bytes([0x81, 0x05]) + b"plain", 1002),
        (bytes([0xF1, 0x80]) + bytes(4), 1002),
        (bytes([0x80, 0x80]) + bytes(4), 1002),
        (bytes([0x81, 0x82]) + bytes(4) + b"\xff\xfe", 1007),
        (b"GET / HTTP/1.1\r\n\r\n" * 10, 1002),
    ],
    ids=["1 MB", "4 EB", "opcode 3", "not masked", "reserved bits", "continues nothing", "not UTF-8", "HTTP"],
)
def test_broken_frames_close_their_own_socket_alone(stand: Stand, fleet: Fleet, junk: bytes, code: int) -> None:
    job = paused_job(stand, fleet)
    with Watcher(stand, f"/jobs/{job['id']}/ws") as other, Sleeper(stand, f"/jobs/{job['id']}/ws") as rude:
        with contextlib.suppress(ConnectionError):
            rude.raw.sendall(junk)
        # A megabyte that nobody reads breaks the connection before the goodbye is read.
        assert close_code(rude) in (code, None)
        stand.update_job(job["id"], priority=9)
        other.until(lambda state: state["priority"] == 9)
        assert not other.closed.is_set()


@pytest.mark.parametrize(
    "head",
    [
        "Upgrade: websocket\r\nConnection: Upgrade\r\n",
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: short\r\nSec-WebSocket-Version: 13\r\n",
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
        "Sec-WebSocket-Version: 8\r\n",
        "",
    ],
    ids=["no key", "bad key", "old version", "no upgrade"],
)
def test_a_handshake_that_is_none_is_refused(stand: Stand, head: str) -> None:
    with call_raw(stand, "/jobs/ws", head) as raw:
        assert re.match(rb"HTTP/1.1 4\d\d ", raw.recv(4096))


# Server-sent events


@dataclass
class Event:
    """What the stream tells."""

    name: str
    data: Document
    ident: str | None = None


GOOD_END = Event("end", {})
"""Stands for the end of a stream that was not cut off."""


@dataclass
class EventStream:
    """A stream of events that is read as it comes."""

    response: httpx.Response
    comments: int = 0
    lines: Iterator[str] = field(init=False)

    def __post_init__(self) -> None:
        self.lines = self.response.iter_lines()

    def __iter__(self) -> Iterator[Event]:
        fields: dict[str, str] = {}
        for line in self.lines:
            name, _, value = line.partition(": ")
            if line.startswith(":"):
                self.comments += 1
            elif line:
                fields[name] = value
            elif fields:
                yield Event(fields["event"], json.loads(fields["data"]), fields.get("id"))
                fields = {}
        assert not fields, "the last event is a whole one"


@contextlib.contextmanager
def events(stand: Stand, path: str, **headers: str) -> Iterator[EventStream]:
    options: Any = {"timeout": PATIENCE, "trust_env": False, "verify": TRUST}
    with httpx.stream("GET", stand.site + path, headers=headers, **options) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].partition(";")[0] == "text/event-stream"
        assert response.headers["cache-control"] == "no-cache"
        yield EventStream(response)


@pytest.fixture(scope="module", autouse=True)
def idle(stand: Stand, fleet: Fleet) -> Iterator[EventStream]:
    """A stream on which nothing happens, from the beginning of this file."""
    job = paused_job(stand, fleet)
    with events(stand, f"/jobs/{job['id']}/events") as stream:
        yield stream


def test_the_events_of_a_job_end_with_the_state_in_which_it_has_ended(stand: Stand, fleet: Fleet) -> None:
    job = stand.create_job(slow_job(fleet, 1.0))
    with events(stand, f"/jobs/{job['id']}/events") as stream:
        found = list(stream)
    states = [event.data for event in found]
    assert {event.name for event in found} == {"job"}
    assert states[0]["doneCount"] < job["totalCount"]
    assert states[-1] == stand.wait_job(job["id"])
    assert [event.ident for event in found] == [None] * (len(found) - 1) + ["final"]
    assert_only_forwards(states)
    assert_paced(states)


def test_who_has_had_the_last_event_is_told_to_stop(stand: Stand, fleet: Fleet) -> None:
    job = stand.run_job({"destinations": fleet.names[:3], "message": MESSAGE})
    path = f"/jobs/{job['id']}/events"
    answer = stand.http("get", path, headers={"Last-Event-ID": "final"})
    assert (answer.status_code, answer.content) == (204, b"")
    for headers in ({}, {"Last-Event-ID": "7"}):
        answer = stand.http("get", path, headers=headers)
        assert answer.status_code == 200
        assert answer.text.splitlines()[:2] == ["event: job", "id: final"]
        assert answer.text.count("event:") == 1

    running = paused_job(stand, fleet)
    with events(stand, f"/jobs/{running['id']}/events", **{"Last-Event-ID": "final"}) as stream:
        assert next(iter(stream)).data == job_of(stand, running["id"])


def test_a_removed_job_ends_its_events(stand: Stand, fleet: Fleet) -> None:
    job = paused_job(stand, fleet)
    with events(stand, f"/jobs/{job['id']}/events") as stream:
        found = iter(stream)
        assert next(found).name == "job"
        stand.remove_job(job["id"])
        rest = list(found)
    assert (rest[-1].name, rest[-1].data) == ("removed", {"id": job["id"], "removed": True})


def test_the_events_of_all_jobs_go_on(stand: Stand, fleet: Fleet) -> None:
    old = paused_job(stand, fleet, labels=["events"])
    with events(stand, "/jobs/events?label=events&status=pending&status=paused") as stream:
        found = iter(stream)
        assert next(found).data == job_of(stand, old["id"])
        paused_job(stand, fleet)
        new = paused_job(stand, fleet, labels=["events"])
        assert next(found).data["id"] == new["id"]
        stand.update_job(new["id"], status="canceled")
        assert next(found).data == job_of(stand, new["id"]), "it has left the filter"
        stand.remove_job(new["id"])
        stand.remove_job(old["id"])
        last = next(found)
        assert (last.name, last.data) == ("removed", {"id": old["id"], "removed": True})


@pytest.mark.parametrize(
    ("path", "code"), [("/jobs/999/events", 404), ("/jobs/x/events", 404), ("/jobs/events?limit=x", 400)]
)
def test_events_of_nothing_are_refused(stand: Stand, path: str, code: int) -> None:
    answer = stand.http("get", path)
    assert answer.status_code == code
    assert "message" in answer.json()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_watches_a_job_to_its_end(stand: Stand, fleet: Fleet) -> None:
    job = stand.create_job(slow_job(fleet, 0.5))
    command = ["curl", "-sN", f"{stand.site}/jobs/{job['id']}/events"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    blocks = done.stdout.strip().split("\n\n")
    assert all(block.startswith("event: job\n") for block in blocks)
    last = blocks[-1].splitlines()
    assert last[1] == "id: final"
    assert json.loads(last[2].removeprefix("data: ")) == stand.wait_job(job["id"])


# What takes its time: begun at the beginning of this file


def test_a_quiet_stream_is_kept_alive_with_comments(idle: EventStream) -> None:
    found = iter(idle)
    next(found)
    line = next(line for line in idle.lines if line)
    assert line.startswith(":")


def test_a_watcher_that_answers_no_pings_is_dropped(drowsy: list[Sleeper]) -> None:
    full, empty = drowsy
    frames = list(empty.frames())
    opcodes = [opcode for opcode, _ in frames]
    assert opcodes[0] == TEXT
    assert PING in opcodes
    assert opcodes[-1] in (CLOSE, PING)
    # This one was not even sent its ping: what waited before it filled the buffers.
    assert CLOSE not in [opcode for opcode, _ in full.frames()]


def watchers(stand: Stand) -> float:
    found = re.search(r"^puppetmaster_watchers (\S+)$", stand.http("get", "/metrics").text, re.MULTILINE)
    assert found
    return float(found[1])


def until(accept: Callable[[], object]) -> None:
    """Wait until something holds that nobody tells of."""
    deadline = time.monotonic() + PATIENCE
    while not accept():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_who_leaves_is_forgotten(stand: Stand, fleet: Fleet, idle: EventStream, drowsy: list[Sleeper]) -> None:
    idle.response.close()
    until(lambda: watchers(stand) == 0)
    job = paused_job(stand, fleet)
    with contextlib.ExitStack() as stack:
        for path in (f"/jobs/{job['id']}/ws", "/jobs/ws"):
            stack.enter_context(Watcher(stand, path)).first(1)
            stack.enter_context(Sleeper(stand, path))
        streams = [stack.enter_context(events(stand, path)) for path in (f"/jobs/{job['id']}/events", "/jobs/events")]
        for stream in streams:
            next(iter(stream))
        until(lambda: watchers(stand) == 6)
    until(lambda: watchers(stand) == 0)


# The end of the bundle. The last tests of this file: they stop and start it.


def test_a_watcher_that_comes_back_after_a_kill_finds_all_that_it_was_told(stand: Stand, fleet: Fleet) -> None:
    job = stand.create_job(slow_job(fleet, 3.0))
    with Watcher(stand, f"/jobs/{job['id']}/ws") as watcher:
        watcher.until(lambda state: state["doneCount"] >= 50)
        stand.bundle.kill()
        assert watcher.close_of_server()[0] == 1006
        seen = watcher.states
    stand.bundle.start()
    with Watcher(stand, f"/jobs/{job['id']}/ws") as watcher:
        watcher.until(lambda state: state["status"] in FINAL)
        assert_only_forwards(seen + watcher.states)
        assert watcher.states[-1] == job_of(stand, job["id"])


def test_a_stop_says_goodbye_to_all_and_waits_for_none(stand: Stand, fleet: Fleet) -> None:
    job = stand.create_job(crowd_job(fleet, labels=BIG_LABELS))
    path = f"/jobs/{job['id']}"
    with contextlib.ExitStack() as stack:
        asleep = [stack.enter_context(Sleeper(stand, path + "/ws")) for _ in range(5)]
        asleep.append(stack.enter_context(Sleeper(stand, "/jobs/ws?limit=0&label=none")))
        stack.enter_context(call_raw(stand, path + "/events"))
        following = stack.enter_context(events(stand, "/jobs/events?limit=1"))
        awake = stack.enter_context(Watcher(stand, path + "/ws", max_size=MEGABYTE))
        quiet = stack.enter_context(Watcher(stand, "/jobs/ws?limit=0&label=none"))
        found = iter(following)
        next(found)
        awake.until(lambda state: state["doneCount"] >= 1500)

        rest: list[Event] = []
        reader = threading.Thread(target=lambda: rest.extend([*found, GOOD_END]), name="events", daemon=True)
        reader.start()
        begun = time.monotonic()
        stand.bundle.stop()
        took = time.monotonic() - begun
        assert stand.bundle.returncode == 0
        assert took < STOP_TIMEOUT
        assert awake.close_of_server()[0] in (1001, 1012)
        assert quiet.close_of_server()[0] in (1001, 1012)
        assert close_code(asleep[-1]) in (1001, 1012)
        reader.join(PATIENCE)
        assert rest[-1:] == [GOOD_END]

    stand.bundle.start()
    with Watcher(stand, path + "/ws", max_size=MEGABYTE) as watcher:
        assert watcher.until(lambda state: state["status"] in FINAL)["doneCount"] == job["totalCount"]


def test_none_of_it_was_a_fault_to_the_bundle(stand: Stand) -> None:
    log = stand.bundle.log()
    assert "Traceback" not in log
    assert not re.search(r"\b(ERROR|CRITICAL)\b", log)
