"""The dutserver in the bundle: agents that poll are destinations beside devices on the broker."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from puppetmaster.embedded.broker import find_mosquitto
from tests.system.dut import ADMIN, COMMAND, SECRET, PollingAgent, add_account, password_of, wait_for
from tests.system.stand import TRUST, Stand

AGENTS = [f"poller-{number}" for number in range(10)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    with Stand(tmp_path_factory.mktemp("site"), http=True) as stand:
        add(stand, ADMIN, SECRET, "admin")
        for name in AGENTS:
            add(stand, name, password_of(name), "agent")
        yield stand


def add(stand: Stand, name: str, password: str, kind: str) -> None:
    add_account(stand.data / "dut.json", name, password, kind)


def call(stand: Stand, method: str, path: str, body: Any = ..., auth: str = "", **query: Any) -> httpx.Response:
    content = None if body is ... else json.dumps(body).encode()
    return httpx.request(
        method,
        f"{stand.site}/dut{path}",
        params=query,
        content=content,
        headers={"Authorization": auth} if auth else {},
        timeout=60,
        trust_env=False,
        verify=TRUST,
    )


def login(stand: Stand, user: str = ADMIN, password: str = SECRET) -> str:
    answer = call(stand, "POST", "/login", user=user, **{"pass": password})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["token"])


def port(stand: Stand) -> int:
    return int(stand.site.rpartition(":")[2])


def start_agents(stand: Stand) -> list[PollingAgent]:
    work = {name: (lambda task, name=name: {"did": task["resource"], "by": name}) for name in AGENTS}
    agents = [PollingAgent(port(stand), name, password_of(name), work[name], prefix="/dut") for name in AGENTS]
    for agent in agents:
        agent.start()
    return agents


def test_one_job_reaches_ten_devices_on_the_broker_and_ten_agents_that_poll(site: Stand) -> None:
    fleet = site.fleet("dev", 10)
    agents = start_agents(site)
    token = login(site)
    # Who has polled is online; the command line made them while the bundle ran.
    wait_for(lambda: all(call(site, "GET", "/agents", auth=token).json()["online"].values()))
    message = {"method": "post", "resource": "/system/reboot", "data": {"soon": True}}
    job = site.create_job({"destinations": [*fleet.names, *AGENTS], "message": message})
    job = site.wait_job(job["id"])
    assert (job["status"], job["finishCount"], job["errorCount"]) == ("resolved", 20, 0)
    found = {request["__request"]["destination"]: request for request in site.requests(job["id"])}
    assert {name: found[name]["__request"]["result"] for name in AGENTS} == {
        name: {"did": "/system/reboot", "by": name} for name in AGENTS
    }
    assert len(site.work()) == 10
    devices = site.http("GET", "/devices?limit=100").json()
    by_name = {device["id"]: device for device in devices}
    assert {by_name[name]["channel"] for name in AGENTS} == {"pull"}
    assert {by_name[name]["connection"] for name in AGENTS} == {"online"}
    for agent in agents:
        agent.stop()
        assert agent.troubles == []


def test_a_task_is_a_request_like_any_other(site: Stand) -> None:
    add(site, "quiet", password_of("quiet"), "agent")
    token = login(site)
    task = call(site, "POST", "/tasks", {"type": "x"}, token, target="quiet", noWait="1").json()["id"]
    request = site.request(task)
    assert request["data"] == {"content": {"type": "x"}}
    assert request["__request"]["destination"] == "quiet"
    job = site.job(request["__request"]["job"])
    assert (job["name"], job["labels"]) == ("dut task", ["dut"])
    site.cancel_request(task)
    auth = f"quiet:{password_of('quiet')}"
    answer = call(site, "POST", "/tasks_result", 1, auth, id=task)
    assert (answer.status_code, answer.json()["error"]) == (409, True)
    # What another job has for an agent comes whole.
    site.create_request({"destination": "quiet", "message": {"method": "put", "resource": "/a", "data": [1]}})
    (content,) = call(site, "GET", "/tasks", auth=auth).json()["events"].values()
    assert content == {"method": "put", "resource": "/a", "data": [1]}


def test_a_task_that_is_called_off_ends_its_callers_wait(site: Stand) -> None:
    add(site, "called-off", password_of("called-off"), "agent")
    token = login(site)
    answers: list[httpx.Response] = []
    caller = threading.Thread(
        target=lambda: answers.append(call(site, "POST", "/tasks", 1, token, target="called-off"))
    )
    caller.start()
    found = wait_for(lambda: site.http("GET", "/requests?destination=called-off").json())
    site.cancel_request(found[0]["id"])
    caller.join(20)
    assert (answers[0].status_code, answers[0].json()["error"]) == (409, True)
    assert "canceled" in answers[0].json()["msg"]


def test_an_operator_of_puppetmaster_is_an_admin_here_and_a_viewer_is_not(tmp_path: Path) -> None:
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    with Stand(tmp_path, http=True, start=False) as stand:
        for name, role in (("ana", "admin"), ("op", "operator"), ("eve", "viewer")):
            subprocess.run(
                [*COMMAND[:-1], "accounts", "add", name, "--role", role, "--data", str(stand.data)],
                input="correct horse\n", text=True, check=True, capture_output=True, timeout=60,
            )  # fmt: skip
        stand.start_broker()
        stand.controller.start()
        stand.bundle.start()
        for name in ("ana", "op"):
            token = login(stand, name, "correct horse")
            assert call(stand, "GET", "/agents", auth=token).status_code == 200
            assert call(stand, "GET", "/agents", auth=f"Bearer {token}").status_code == 200
            assert call(stand, "POST", "/logout", auth=token).status_code == 200
            assert call(stand, "GET", "/agents", auth=token).status_code == 403
        assert call(stand, "POST", "/login", user="eve", **{"pass": "correct horse"}).status_code == 403
        assert call(stand, "GET", "/agents").status_code == 403
        # Registration, and what the audit log says of it all.
        token = login(stand, "op", "correct horse")
        assert call(stand, "POST", "/agent_selfreg", auth=token, enabled="1").status_code == 200
        assert call(stand, "POST", "/agents", user="new", **{"pass": "Mellon-77"}).status_code == 200
        audit = (stand.data / "audit.jsonl").read_text()
        lines = [json.loads(line) for line in audit.splitlines()]
        assert [(line["who"], line["resource"]) for line in lines if line["resource"] == "/dut/agents"] == [
            ("new", "/dut/agents")
        ]
        assert any(line["who"] == "op" and line["resource"] == "/dut/agent_selfreg" for line in lines)
        for secret in ("Mellon-77", "correct horse"):
            assert secret not in audit
            assert secret not in stand.bundle.log()
