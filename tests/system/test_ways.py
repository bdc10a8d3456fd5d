"""One job over every way that there is, and jobs whose destinations are found in the registry: all on real parts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from puppetmaster.embedded.broker import find_mosquitto
from tests.system.dut import PollingAgent, add_account, password_of, wait_for
from tests.system.stand import Document, Stand, assert_adds_up

pytestmark = pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")

POLLERS = [f"poller-{number}" for number in range(10)]
REBOOT = {"method": "post", "resource": "/system/reboot"}


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """One for all; each test has devices of its own."""
    with Stand(tmp_path_factory.mktemp("stand"), http=True, commands="all") as stand:
        yield stand


def say(stand: Stand, device: str, connection: str, **more: object) -> None:
    """A device says whether it is there."""
    stand.publish(f"/remote/{device}/presence", json.dumps({"connection": connection, **more}), retain=True)
    wait_for(lambda: connection_of(stand, device) == connection)


def connection_of(stand: Stand, device: str) -> str:
    code, data = stand.ask("get", f"/devices/{device}")
    return data["connection"] if code == 200 else ""


def destinations(requests: list[Document]) -> dict[str, Document]:
    return {request["__request"]["destination"]: request["__request"] for request in requests}


def test_one_job_over_devices_on_the_broker_agents_that_poll_and_this_machine(stand: Stand) -> None:
    for name in POLLERS:
        add_account(stand.data / "dut.json", name, password_of(name))
    port = int(stand.site.rpartition(":")[2])
    agents = [PollingAgent(port, name, password_of(name), lambda task: task, prefix="/dut") for name in POLLERS]
    for agent in agents:
        agent.start()
    fleet = stand.fleet("many", 10)
    # The command line made the accounts while the bundle ran; it has seen them when they can poll.
    wait_for(lambda: all(connection_of(stand, name) == "online" for name in POLLERS))
    run = {"method": "post", "resource": "/agent/commands", "data": {"commandLine": "echo $((6 * 7))"}}
    job = stand.run_job(
        {
            "batch": [
                {**REBOOT, "__request": {"destination": [*fleet.names, *POLLERS]}},
                {**run, "__request": {"destination": "localhost"}},
                {"method": "get", "resource": "/jobs?limit=0", "__request": {"destination": "localhost"}},
            ]
        }
    )
    assert_adds_up(job)
    assert (job["status"], job["finishCount"], job["totalCount"]) == ("resolved", 22, 22)
    requests = stand.requests(job["id"])
    found = destinations(requests)
    assert {found[name]["result"]["resource"] for name in POLLERS} == {"/system/reboot"}
    (ran,) = [request for request in requests if request["resource"] == "/agent/commands"]
    assert ran["__request"]["result"]["stdout"] == "42\n"
    assert len(fleet.work()) == 10
    for agent in agents:
        agent.stop()
        assert agent.troubles == []


def test_targets_mean_who_fits_when_the_job_starts(stand: Stand) -> None:
    fleet = stand.fleet("meant", 3)
    for name, site in zip(fleet.names, ("berlin", "berlin", "bonn"), strict=True):
        say(stand, name, "online", labels={"site": site}, facts={"firmware": "1.4.2"})
    say(stand, "away", "offline", labels={"site": "berlin"})
    preview = stand.create_job({"message": REBOOT, "targets": {"labels": {"site": "berlin"}}, "dryRun": True})
    assert preview["destinations"] == ["away", "meant-0001", "meant-0002"]
    assert (preview["offline"], preview["offlineCount"], preview["totalCount"]) == (["away"], 1, 3)
    assert fleet.work() == []
    targets = {"labels": {"site": "berlin"}, "facts": {"firmware": "1.4.2"}, "connection": "online"}
    job = stand.run_job({"message": REBOOT, "targets": targets})
    assert (job["finishCount"], job["totalCount"]) == (2, 2)
    assert {entry["device"] for entry in fleet.work()} == {"meant-0001", "meant-0002"}
    code, data = stand.ask("post", "/jobs", {"message": REBOOT, "targets": {"labels": {"site": "nowhere"}}})
    assert (code, "no device" in data["message"]) == (409, True)


@pytest.mark.parametrize("killed", [False, True])
def test_what_waits_for_a_device_is_sent_when_it_comes_online(stand: Stand, killed: bool) -> None:
    fleet = stand.fleet(f"waited-for-{killed}", 2)
    away = fleet.names[0]
    say(stand, away, "offline")
    job = stand.create_job({"destinations": fleet.names, "message": REBOOT, "offline": "wait"})
    first, second = job["requests"]
    wait_for(lambda: stand.request(second)["__request"]["status"] == "resolved")
    if killed:
        stand.bundle.restart(kill=True)
    waiting = stand.request(first)["__request"]
    assert (waiting["status"], waiting["attempt"]) == ("created", 0)
    assert waiting["reason"] == "waits for its device to come online"
    say(stand, away, "online")
    assert stand.wait_job(job["id"])["finishCount"] == 2
    assert len(fleet.work()) == 2


def test_who_is_away_can_be_skipped_or_fail(stand: Stand) -> None:
    fleet = stand.fleet("there", 1)
    say(stand, "gone", "offline")
    job = stand.run_job({"destinations": [*fleet.names, "gone"], "message": REBOOT, "offline": "skip"})
    assert (job["status"], job["counts"]["canceled"], job["counts"]["resolved"]) == ("resolved", 1, 1)
    job = stand.run_job({"destinations": [*fleet.names, "gone"], "message": REBOOT, "offline": "fail"})
    assert job["counts"]["error"] == 1
    failed = destinations(stand.requests(job["id"]))["gone"]
    assert (failed["code"], failed["result"]["data"]) == (503, {"message": "the device is offline"})


def test_a_command_on_this_machine_outlives_a_kill_of_the_bundle_and_is_run_once(stand: Stand, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    line = f"echo begun >> {trace}; for n in 1 2 3 4 5 6 7 8; do echo $n; sleep 0.5; done; echo ended >> {trace}"
    data = {"method": "post", "resource": "/agent/commands", "data": {"commandLine": line}}
    job = stand.create_job({"destinations": "localhost", "message": data})
    wait_for(trace.exists)
    stand.bundle.restart(kill=True)
    job = stand.wait_job(job["id"])
    assert job["finishCount"] == 1
    result = stand.requests(job["id"])[0]["__request"]["result"]
    assert result["stdout"].split() == [str(n) for n in range(1, 9)]
    assert trace.read_text().split() == ["begun", "ended"]


def test_a_cancel_reaches_a_command_on_this_machine(stand: Stand) -> None:
    data = {"method": "post", "resource": "/agent/commands", "data": {"commandLine": "echo up; exec sleep 300"}}
    job = stand.create_job({"destinations": "localhost", "message": data})
    (ident,) = job["requests"]
    wait_for(lambda: stand.request(ident)["__request"]["status"] == "running")
    assert stand.cancel_request(ident)["__request"]["status"] == "canceled"
    wait_for(lambda: stand.request(ident)["__request"]["code"] == 499)
    ended = stand.request(ident)["__request"]
    assert (ended["status"], ended["result"]["data"]["outcome"]) == ("canceled", "killed")
    assert ended["result"]["data"]["stdout"] == "up\n"


def test_commands_on_this_machine_need_no_broker(stand: Stand) -> None:
    """The last one: it takes the broker away."""
    stand.broker.kill()
    wait_for(lambda: stand.http("GET", "/health").status_code == 503)
    message = {"method": "post", "resource": "/agent/commands", "data": {"commandLine": "echo $((6 * 7))"}}
    made = stand.http("POST", "/jobs", json={"destinations": ["localhost", "dev-0001"], "message": message})
    here, there = made.json()["requests"]

    def status(ident: int) -> str:
        return str(stand.http("GET", f"/requests/{ident}").json()["__request"]["status"])

    wait_for(lambda: status(here) == "resolved")
    assert status(there) == "created"
