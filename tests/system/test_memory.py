"""When memory would run out, new jobs are refused first; what was taken goes on, and room that was made is used."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from puppetmaster.embedded.broker import find_mosquitto
from tests.system.stand import Document, Stand

pytestmark = pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")

MIB = 1024 * 1024
MESSAGE = {"method": "post", "resource": "/system/reboot"}
DEVICES = 100
BATCH = 15
"""Messages of a job: 1,500 requests, some 1.7 MiB."""


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    folder = tmp_path_factory.mktemp("stand")
    with Stand(folder, http=True, commands="all", broker_extra=["set_tcp_nodelay true"]) as running:
        yield running


def limit(stand: Stand, mebibytes: int) -> None:
    stand.bundle.env["PUPPETMASTER_MAX_MEMORY"] = str(mebibytes)
    stand.bundle.restart()


def resident(stand: Stand) -> int:
    return int(Path(f"/proc/{stand.bundle.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def figure(stand: Stand, name: str) -> float:
    lines = stand.http("get", "/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"puppetmaster_{name} "))


def large(names: list[str]) -> Document:
    return {"batch": [{**MESSAGE, "__request": {"destination": names}}] * BATCH}


def test_large_jobs_are_taken_until_they_would_not_fit_and_again_when_some_are_removed(stand: Stand) -> None:
    stand.http("get", "/jobs")
    limit(stand, resident(stand) // MIB + 7)
    fleet = stand.fleet("dev", DEVICES)
    fleet.signal(signal.SIGSTOP)  # what is sent meanwhile waits at the broker
    taken: list[Any] = []
    while (answer := stand.http("post", "/jobs", json=large(fleet.names))).status_code == 200:
        taken.append(answer.json())
        assert len(taken) < 50, "nothing is refused"
    assert taken, answer.text
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "30"
    assert answer.json()["message"].startswith("memory is short: a job of 1500 requests takes about 2 MiB, and ")
    for _ in range(3):
        assert stand.ask("post", "/jobs", large(fleet.names))[0] == 503
    assert stand.ask("post", f"/jobs/{taken[0]['id']}/rerun", {"status": ["created", "sent"]})[0] in (400, 409, 503)
    assert figure(stand, "jobs_refused_memory_total") >= 4
    assert figure(stand, "memory_bytes") > MIB
    assert stand.bundle.log().count("memory is short") == 1, "it says so at every attempt"
    # What was taken goes on to its end, and is read.
    fleet.signal(signal.SIGCONT)
    for job in taken:
        ended = stand.wait_job(job["id"])
        assert ended["counts"]["resolved"] == ended["totalCount"] == 1500
    for job in taken:
        stand.remove_job(job["id"])
    again = stand.create_job(large(fleet.names))
    assert stand.wait_job(again["id"])["counts"]["resolved"] == 1500
    assert stand.bundle.log().count("there is memory again") == 1


WAYS: list[tuple[str, Document]] = [
    ("/jobs", {"destinations": ["a"], "message": MESSAGE}),
    ("/requests", {"destination": "a", "message": MESSAGE}),
    ("/runner/", {"CommandLine": "true"}),
    ("/manager/tasks", {"name": "t", "type": "shell", "settings": {"commands": ["true"]}}),
]


def test_every_way_in_refuses_and_all_else_goes_on(stand: Stand) -> None:
    job = stand.create_job({"destinations": ["absent"], "message": MESSAGE})
    limit(stand, 1)
    health = stand.http("get", "/health")
    assert (health.status_code, health.json()["ready"]) == (503, False)
    assert health.json()["memory"].endswith(" of 1 MiB are in use")
    for path, document in WAYS:
        answer = stand.http("post", path, json=document)
        assert answer.status_code == 503, (path, answer.text)
        assert answer.headers["Retry-After"] == "30", path
        assert "memory is short" in answer.text, path
    assert stand.ask("post", "/jobs", WAYS[0][1])[0] == 503
    dry = {**WAYS[0][1], "dryRun": True}
    assert stand.http("post", "/jobs", json=dry).status_code == 200
    assert stand.job(job["id"])["totalCount"] == 1
    ident = job["requests"][0]
    answer = {"id": ident, "code": 200, "method": "post", "resource": "/x", "sign": ["absent"], "data": "well"}
    stand.publish(f"/remote/absent/answer/{stand.instance}", answer)
    assert stand.wait_job(job["id"])["finishCount"] == 1
    stand.remove_job(job["id"])
