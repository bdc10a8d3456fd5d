"""The manager inside of the bundle: its tasks are jobs like others, its accounts and its audit log are the bundle's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from puppetmaster.cli.processes import PARENT_ENV
from tests.system.logins import PASSWORD, accounts, bearer, start_alone
from tests.system.stand import PATIENCE, REPOSITORY, Document, Stand

Json = Any


class Farm:
    """The manager as plain clients see it: an address, with name and token in it where these are needed."""

    def __init__(self, stand: Stand, token: str | None = None, name: str = "worker") -> None:
        login = "" if token is None else f"{name}:{token}@"
        self.url = stand.site.replace("://", f"://{login}") + "/manager"
        self._http = httpx.Client(timeout=60, transport=httpx.HTTPTransport(retries=5))

    def ask(self, method: str, path: str, **given: Any) -> httpx.Response:
        return self._http.request(method, self.url + path, **given)

    def make(self, command: str = "true", **given: Any) -> int:
        answer = self.ask("POST", "/tasks", json={"type": "shell", "settings": {"command": command}, **given})
        assert answer.status_code == 202, answer.text
        return int(answer.json()["id"])

    def register(self, name: str) -> None:
        assert self.ask("POST", "/workers", data={"hostname": name, "system": "Linux 3.13"}).status_code == 204

    def take(self, name: str) -> Json:
        """What a worker gets, as soon as there is something."""
        deadline = time.monotonic() + PATIENCE
        while (answer := self.ask("GET", "/tasks/compiled/0", params={"worker": name})).status_code != 200:
            assert answer.status_code == 400, answer.text
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return answer.json()["options"]

    def report(self, name: str, task: int, status: str, **given: Any) -> httpx.Response:
        return self.ask("PATCH", f"/tasks/{task}", data={"status": status, "worker": name, **given})

    def wait(self, task: int, status: str) -> Json:
        deadline = time.monotonic() + PATIENCE
        while (shown := self.ask("GET", f"/tasks/{task}").json())["status"] != status:
            assert time.monotonic() < deadline, shown
            time.sleep(0.02)
        return shown


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with Stand(tmp_path_factory.mktemp("farm"), http=True) as running:
        running.edge = "http"
        yield running


@pytest.fixture
def farm(stand: Stand) -> Farm:
    return Farm(stand)


def audited(stand: Stand) -> list[Document]:
    """The lines of the audit log, the oldest first."""
    path = stand.data / "audit.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def of_farm(entries: list[Document]) -> list[tuple[str, int]]:
    return [(entry["operation"], entry["code"]) for entry in entries if entry["resource"].startswith("/manager")]


@pytest.mark.parametrize("way", ["json", "form"])
def test_a_task_is_a_job_and_its_chunk_a_request(stand: Stand, farm: Farm, way: str) -> None:
    fields = {"type": "shell", "settings": json.dumps({"command": "echo hi"}), "priority": "7", "name": f"by {way}"}
    made = farm.ask("POST", "/tasks", **{"json" if way == "json" else "data": fields})
    assert made.status_code == 202
    task = made.json()["id"]
    farm.register(way)
    given = farm.take(way)
    assert given["job_id"] == task
    job = stand.job(task)
    assert (job["name"], job["priority"], job["status"]) == (f"by {way}", 7, "dispatching")
    assert farm.report(way, given["task_id"], "active", activity=json.dumps({"current_frame": 0})).status_code == 204
    request = stand.request(given["task_id"])
    assert (request["resource"], request["__request"]["status"]) == ("/farm/shell", "running")
    assert farm.report(way, given["task_id"], "finished", log="hi\n").status_code == 204
    ended = stand.request(given["task_id"])["__request"]
    assert (ended["status"], ended["code"], ended["result"]["log"]) == ("resolved", 200, "hi\n")
    assert stand.job(task)["status"] == "resolved"
    assert farm.ask("GET", f"/tasks/{task}").json()["status"] == "finished"
    on_bus = stand.listen(f"/puppetmaster/{stand.instance}/jobs/{task}")
    assert on_bus.wait(lambda heard: heard.data["status"] == "resolved")
    removed = stand.http("delete", f"/jobs/{task}")
    assert removed.status_code == 200
    assert farm.ask("GET", f"/tasks/{task}").status_code == 404


@pytest.mark.parametrize("how", ["cancel", "request", "delete"])
def test_what_is_called_off_as_a_job_is_told_to_its_worker(stand: Stand, farm: Farm, how: str) -> None:
    task, name = farm.make(), f"called-off-{how}"
    farm.register(name)
    given = farm.take(name)
    assert farm.report(name, given["task_id"], "rendering").status_code == 204
    if how == "cancel":
        stand.update_job(task, status="canceled")
    elif how == "request":
        stand.cancel_request(given["task_id"])
    else:
        stand.remove_job(task)
    refused = farm.report(name, given["task_id"], "rendering")
    assert refused.status_code == 403
    assert ("deleted" if how == "delete" else "canceled") in refused.json()["message"]
    assert farm.ask("GET", "/tasks/compiled/0", params={"worker": name}).status_code == 400


def test_a_kill_of_the_bundle_keeps_who_has_what(stand: Stand, farm: Farm) -> None:
    fleet = stand.fleet("dev", 3)
    first, second = farm.make(priority=2), farm.make(priority=1)
    for name in ("kept", "later"):
        farm.register(name)
    given = farm.take("kept")
    assert given["job_id"] == first
    assert farm.report("kept", given["task_id"], "rendering", time_cost="3").status_code == 204
    stand.bundle.restart(kill=True)
    assert farm.report("kept", given["task_id"], "rendering", time_cost="4").status_code == 204
    workers = farm.ask("GET", "/workers").json()
    assert (workers["kept"]["current_task"], workers["later"]["current_task"]) == (given["task_id"], None)
    other = farm.take("later")
    assert other["job_id"] == second
    assert farm.report("kept", given["task_id"], "finished").status_code == 204
    assert farm.report("later", other["task_id"], "finished").status_code == 204
    for task in (first, second):
        job = stand.wait_job(task)
        assert (job["status"], job["finishCount"]) == ("resolved", 1)
    assert stand.request(given["task_id"])["__request"]["attempt"] == 1
    # Devices on the broker go on beside it.
    job = {"destinations": fleet.names, "message": {"method": "post", "resource": "/x"}}
    assert stand.run_job(job)["finishCount"] == 3
    fleet.stop()


def test_reports_are_not_in_the_audit_log_and_what_users_do_is(stand: Stand, farm: Farm) -> None:
    begun = len(audited(stand))
    name = "audited"
    for _ in range(3):
        farm.register(name)
    worker = farm.ask("GET", "/workers").json()[name]["id"]
    task = farm.make(name="a task")
    given = farm.take(name)
    for _ in range(20):
        assert farm.report(name, given["task_id"], "rendering", log="x").status_code == 204
        assert farm.ask("PATCH", f"/workers/{worker}", data={"status": "rendering"}).status_code == 200
    assert farm.report("nobody", given["task_id"], "rendering").status_code == 403
    assert farm.report(name, given["task_id"], "sleeping").status_code == 400
    assert farm.report(name, 12, "rendering").status_code == 403
    assert farm.report(name, 12, "aborted").status_code == 404
    assert farm.report(name, task, "finished").status_code == 204
    second = farm.make()
    assert farm.ask("PATCH", f"/tasks/{second}", data={"priority": "9"}).status_code == 204
    assert farm.ask("PATCH", f"/tasks/{second}", data={"status": "canceled"}).status_code == 204
    assert farm.ask("PATCH", f"/tasks/{second}", data={"priority": "8"}).status_code == 409
    assert farm.ask("POST", "/tasks", json={"type": "nope"}).status_code == 400
    assert farm.ask("DELETE", f"/tasks/{second}").status_code == 202
    assert farm.ask("DELETE", "/tasks", params={"tasks": task}).status_code == 202
    assert farm.ask("PATCH", f"/workers/{worker}", data={"status": "disabled"}).status_code == 200
    assert farm.ask("PATCH", f"/workers/{worker}", data={"status": "enabled"}).status_code == 200
    assert farm.ask("DELETE", f"/workers/{worker}").status_code == 409
    assert farm.ask("PATCH", f"/workers/{worker}", data={"status": "disabled"}).status_code == 200
    assert farm.ask("DELETE", f"/workers/{worker}").status_code == 204
    entries = audited(stand)[begun:]
    assert of_farm(entries) == [
        ("register_worker", 204), ("create_task", 202), ("create_task", 202),
        ("change_task", 204), ("change_task", 204), ("change_task", 409), ("create_task", 400),
        ("remove_task", 202), ("remove_tasks", 202),
        ("change_worker", 200), ("change_worker", 200), ("remove_worker", 409), ("change_worker", 200),
        ("remove_worker", 204),
    ]  # fmt: skip
    assert (entries[1]["task"], entries[1]["type"], entries[1]["name"]) == (task, "shell", "a task")
    assert (entries[3]["task"], entries[3]["change"]) == (second, {"priority": 9})
    assert entries[4]["change"] == {"status": "given up"}
    assert "nope" in entries[6]["message"]
    assert entries[8]["tasks"] == [task]
    assert (entries[9]["worker"], entries[9]["hostname"], entries[9]["status"]) == (worker, name, "disabled")


def start_worker(stand: Stand, url: str, name: str) -> subprocess.Popen[bytes]:
    """``puppetmaster worker``, which ends when there is nothing to do; it logs into the stand's folder."""
    command = [sys.executable, "-m", "puppetmaster", "worker", "--manager", url, "--name", name, "--once"]
    with (stand.folder / f"{name}.log").open("ab") as log:
        environment = {**stand.environment(), PARENT_ENV: str(os.getpid())}
        return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)


def test_with_accounts_a_worker_shows_a_token_in_its_url(tmp_path: Path) -> None:
    with Stand(tmp_path, http=True, start=False) as stand:
        roles = {"ana": "admin", "render": "operator", "eyes": "viewer"}
        for name, role in roles.items():
            accounts(stand, "add", name, "--role", role, password=PASSWORD)
        tokens = {name: accounts(stand, "token", name).split()[-1] for name in roles}
        start_alone(stand)
        nobody, render, eyes = Farm(stand), Farm(stand, tokens["render"]), Farm(stand, tokens["eyes"])
        wrong = Farm(stand, "pm_" + "x" * 40)

        for stranger in (nobody, wrong):
            calls = ("GET", "/tasks"), ("POST", "/workers"), ("GET", "/tasks/compiled/0"), ("PATCH", "/tasks/1")
            for method, path in calls:
                assert stranger.ask(method, path, params={"worker": "x"}).status_code == 401
        task = render.make("echo $PUPPETMASTER_TASK")
        render.register("old")
        given = render.take("old")

        assert eyes.ask("GET", "/tasks").json()[0]["id"] == task
        assert eyes.ask("GET", "/workers").json()["old"]["current_task"] == given["task_id"]
        assert eyes.ask("GET", f"/tasks/{given['task_id']}").status_code == 200
        for path in ("/tasks/compiled/0", "/tasks?worker=old", "/tasks?worker_id=1"):
            assert eyes.ask("GET", path).status_code == 403
        for method, path in (("POST", "/tasks"), ("PATCH", f"/tasks/{given['task_id']}"), ("PATCH", "/workers/1")):
            assert eyes.ask(method, path, data={"status": "finished"}).status_code == 403
        assert render.report("old", given["task_id"], "aborted").status_code == 204

        worker = start_worker(stand, render.url, "runner")
        assert worker.wait(PATIENCE) == 0
        job = stand.http("get", f"/jobs/{task}", headers=bearer(tokens["eyes"])).json()
        assert job["requests"][0]["__request"]["result"]["log"] == f"{task}\n"
        log = (stand.folder / "runner.log").read_text()
        assert tokens["render"] not in log
        for refused in (start_worker(stand, nobody.url, "nobody"), start_worker(stand, eyes.url, "eyes")):
            assert refused.wait(PATIENCE) == 1
        assert "login" in (stand.folder / "nobody.log").read_text()

        entries = [entry for entry in audited(stand) if "operation" in entry]
        assert of_farm(entries) == [("create_task", 202), ("register_worker", 204), ("register_worker", 204)]
        assert {(entry["who"], entry["role"]) for entry in entries} == {("render", "operator")}
        assert tokens["render"] not in (stand.data / "audit.jsonl").read_text()

