"""The log of a whole installation in JSON: a life without faults has nothing at warning, and nobody floods it."""

from __future__ import annotations

import json
import os
import random
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from puppetmaster.embedded.broker import find_mosquitto, free_port
from tests.system.agent_part import Agent
from tests.system.dut import add_account
from tests.system.stand import PATIENCE, REPOSITORY, Document, Part, Stand

LOUD = {"warning", "error", "critical"}

INTERVAL = 10.0
"""Seconds between two lines of a kind that others can cause."""


class JsonStand(Stand):
    """One whose parts all log in JSON."""

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "PUPPETMASTER_LOG": "json"}


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JsonStand]:
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    with JsonStand(tmp_path_factory.mktemp("stand"), http=True) as running:
        yield running


def lines(part: Part, mark: int = 0) -> list[Document]:
    """What a part logged; all of it is JSON, a line each."""
    return [json.loads(line) for line in part.log().splitlines()[mark:]]


def known_events() -> set[str]:
    page = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\| `([a-z_]+)` \| [a-z, ]+ \|", page, re.MULTILINE))


def until(predicate: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not predicate():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def cli(stand: Stand, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "puppetmaster", *arguments], capture_output=True, text=True, timeout=PATIENCE,
        env=stand.environment(), cwd=stand.folder, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def job_of(names: list[str], **more: Any) -> Document:
    return {"destinations": names, "message": {"method": "post", "resource": "/reboot"}, **more}


def live(stand: JsonStand, names: list[str], agent: str) -> None:
    """What people do with it."""
    watched: list[Document] = []
    with connect(stand.site.replace("http", "ws", 1) + "/jobs/ws", proxy=None) as socket_:
        job = stand.http("post", "/jobs", json=job_of(names, concurrency=1)).json()
        stand.update_job(job["id"], status="paused")
        stand.wait_job(job["id"], ["paused"])
        stand.update_job(job["id"], status="dispatching")
        assert stand.wait_job(job["id"])["status"] == "resolved"
        while not watched or watched[-1].get("status") != "resolved":
            said = json.loads(socket_.recv(PATIENCE))
            watched.append(said.get("data", said))
    slow = stand.create_job(job_of(["nobody"]))
    stand.update_job(slow["id"], status="canceled")
    stand.wait_job(slow["id"], ["canceled"])
    again = stand.ask("post", f"/jobs/{slow['id']}/rerun", {"status": ["canceled"]})
    assert again[0] == 200, again
    stand.remove_job(again[1]["id"])
    stand.remove_job(slow["id"])
    shell = {"method": "post", "resource": "/agent/commands", "data": {"commandLine": "echo hello; echo oops >&2"}}
    done = stand.run_job({"destinations": agent, "message": shell})
    assert done["status"] == "resolved" and done["finishCount"] == 1, done
    assert str(job["id"]) in cli(stand, "jobs", "list", "--url", stand.site)
    assert "resolved" in cli(stand, "run", "-d", names[0], "post", "/reboot", "--watch")


def change_minds(stand: JsonStand, names: list[str]) -> None:
    """Call jobs off, remove them, and restart puppetmaster, while a device is at work that answers all the same."""

    def at_work() -> int:
        job: Document = stand.create_job(job_of(names))
        stand.wait_job(job["id"], lambda job: job["counts"]["sent"] or job["doneCount"])
        return int(job["id"])

    deadline = time.monotonic() + PATIENCE
    while not any(line["event"] == "answers_dropped" for line in lines(stand.bundle)):
        assert time.monotonic() < deadline
        stand.ask("put", f"/jobs/{at_work()}", {"status": "canceled"})  # 409 where the device was quicker
        stand.remove_job(at_work())
    job_id = at_work()
    stand.bundle.restart()
    assert stand.wait_job(job_id)["finishCount"] == len(names)


def other_systems(stand: JsonStand) -> list[Part]:
    """A jobrunner, a dutserver, and a worker of the farm: they start, answer a call, and end when they are told to."""
    ports = [free_port("127.0.0.1"), free_port("127.0.0.1")]
    python = [sys.executable, "-m", "puppetmaster"]
    add_account(stand.folder / "dut.db", "root", "correct horse", "admin")
    worker = stand.program("worker", [*python, "worker", "--manager", f"{stand.site}/manager", "--once"])
    servers = [
        stand.program("jobrunner", [*python, "jobrunner"], {"JOBRUNNER_PORT": str(ports[0])}),
        stand.program("dutserver", [*python, "dutserver", "server", str(ports[1]), "dut.db"]),
    ]
    for port, part in zip(ports, servers, strict=True):
        until_answered(part, f"http://127.0.0.1:{port}/")
        part.stop()
    until(lambda: not worker.running)
    assert [part.returncode for part in (*servers, worker)] == [0, 0, 0]
    return [*servers, worker]


def until_answered(part: Part, url: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        part.check()
        try:
            httpx.get(url, timeout=PATIENCE, trust_env=False)
        except httpx.TransportError:
            assert time.monotonic() < deadline, part.log()
            time.sleep(0.05)
        else:
            return


def test_a_life_without_faults_has_no_line_at_warning_and_an_event_in_each(stand: JsonStand) -> None:
    fleet = stand.fleet("dev", 3, latency="0.3")
    agent = Agent(stand, "press-1", "--commands", "all")
    live(stand, fleet.names, agent.id)
    change_minds(stand, fleet.names[:1])
    others = other_systems(stand)
    # Everything ends in order, and begins again; devices go and come while puppetmaster is there.
    parts: list[Part] = [fleet, agent, stand.bundle, stand.controller]
    for part in parts:
        part.stop()
        assert part.returncode == 0, (part.name, part.returncode, part.log()[-3000:])
    stand.broker.restart()
    for part in reversed(parts):
        part.start()
    assert stand.run_job(job_of([*fleet.names]))["finishCount"] == 3
    known, logged = known_events(), [(part.name, line) for part in [*parts, *others] for line in lines(part)]
    assert [told for told in logged if told[1]["level"] in LOUD] == []
    assert [told for told in logged if told[1]["event"] not in known] == []
    assert {name for name, _ in logged} == {part.name for part in [*parts, *others]}, "each has said something"
    events = Counter(line["event"] for _, line in logged)
    assert events["started"] == 7, "the bundle three times, the agent twice, jobrunner, dutserver"


# Floods


def hostile(chance: random.Random, number: int) -> bytes:
    """What anybody may publish."""
    name = chance.choice(["\x1b[31mred", "a\nb", "\u202eevil", "\udc80", "x" * 3000, "plain"])
    text = json.dumps(name)
    return chance.choice(
        [
            b"", b"\x00\xff\xfe", b"{", b"[]", b"null", b"[" * 500, text.encode(), b"1" * 5000,
            f'{{"id": {number}, "code": {text}}}'.encode(),
            f'{{"id": {number}, "code": 200, "method": "get", "resource": {text}, "sign": [], "data": {{}}}}'.encode(),
            f'{{"id": {text}, "method": "get", "resource": "/jobs"}}'.encode(),
            f'{{"id": {number}, "method": 5, "resource": "/jobs", "match": 1}}'.encode(),
            f'{{"id": {number}, "method": "get", "resource": "/jobs", "resource": "/jobs", "tunnel": "/me"}}'.encode(),
            f'{{"id": {number}, "method": "patch", "resource": "/jobs/1", "tunnel": "/me"}}'.encode(),
            f'{{"id": {number}, "method": "post", "resource": "/jobs", "tunnel": "/me", "data": {text}}}'.encode(),
            f'{{"connection": {text}, "labels": {{{text}: 5}}}}'.encode(),
        ]
    )  # fmt: skip


def topics(stand: JsonStand, chance: random.Random, tunnel: str) -> list[str]:
    device = f"dev-{chance.randrange(50)}\u202e{chance.choice(['', 'ü', ' ', '$'])}"
    return [
        f"/remote/{device}/answer/{stand.instance}",
        f"/remote/{device}/presence",
        f"/remote/{device}/telemetry",
        f"/remote/{device}/event",
        f"/remote/{device}/output/{chance.choice(['1000001', 'x', '-1', '9' * 40])}",
        f"/remote/{'d' * 200}/presence",
        f"/puppetmaster/{stand.instance}/jobs/{chance.choice(['1', 'x', '9' * 30])}",
        "/controller",
        tunnel,
        f"/{stand.instance}/controller",
    ]


def hostile_call(stand: JsonStand, chance: random.Random) -> None:
    """A call over HTTP that nobody should make."""
    host, port = stand.site.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), PATIENCE) as connection:
        connection.sendall(
            chance.choice(
                [
                    b"\x16\x03\x01\x00\x00", b"GET / HTTP/9.9\r\n\r\n", b"GET /\x1b[31m HTTP/1.1\r\nHost: x\r\n\r\n",
                    b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n{",
                    b"GET /jobs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer \x1b\r\nConnection: close\r\n\r\n",
                    b"GET /jobs/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
                    b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 33\r\nConnection: close\r\n"
                    b'Content-Type: application/json\r\n\r\n{"name": "ana", "password": "no"}',
                ]
            )
        )  # fmt: skip


def test_hostile_messages_on_every_topic_and_over_http_are_a_line_of_a_kind_in_ten_seconds(stand: JsonStand) -> None:
    seed = int(os.environ.get("SEED", "0")) or random.randrange(2**32)
    print(f"SEED={seed}")
    chance = random.Random(seed)
    for part in (stand.controller, stand.bundle):
        if not part.running:
            part.start()
    tunnel = [line["tunnel"] for line in lines(stand.bundle) if line["event"] == "registered"][-1]
    mark, begun = len(lines(stand.bundle)), time.monotonic()
    many = 3000
    for number in range(many):
        topic = chance.choice(topics(stand, chance, tunnel))
        stand.publish(topic, hostile(chance, number), qos=0 if number % 50 else 1, wait=number % 50 == 0)
    for _ in range(100):
        hostile_call(stand, chance)
    # One of each kind that is surely heard after all others of its connection.
    stand.publish(f"/remote/dev-1/answer/{stand.instance}", "{")
    stand.publish("/remote/dev-1/telemetry", "{")
    until(lambda: figure(stand, "puppetmaster_answers_dropped_total") > many / 50)
    told = {"answers_dropped", "device_messages_dropped"}
    until(lambda: told <= {line["event"] for line in lines(stand.bundle, mark)})
    assert stand.http("get", "/jobs?limit=0").status_code == 200
    stand.bundle.stop()
    took = time.monotonic() - begun
    fresh = lines(stand.bundle, mark)
    kinds = Counter((line["logger"], line["event"]) for line in fresh)
    assert [line for line in fresh if line["level"] in ("error", "critical")] == []
    # A library has several places that log.
    most = {kind: (took / INTERVAL + 2) * (4 if kind[1] == "library" else 1) for kind in kinds}
    assert {kind: count for kind, count in kinds.items() if count > most[kind]} == {}
    assert kinds["puppetmaster.observer", "device_messages_dropped"] >= 1
    assert sum(line["count"] for line in fresh if line["event"] == "bus_message_dropped") >= 1
    assert stand.bundle.returncode == 0


def figure(stand: JsonStand, name: str) -> float:
    """The sum of a figure over its labels."""
    text = stand.http("get", "/metrics").text
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(f"{name}{{"))
