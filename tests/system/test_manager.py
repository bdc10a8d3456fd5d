"""The manager's API, request by request in the order of its document, and what workers can rely on."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests

from tests.system.farm_site import FarmSite

TASK = {"id", "worker_id", "priority", "frame_start", "frame_end", "frame_current", "status", "format"}
WORKER = {
    "activity", "connection", "current_task", "hostname", "id", "ip_address", "log", "port", "status", "system",
    "time_cost",
}  # fmt: skip

NAMES = (f"node-{number}" for number in count())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FarmSite]:
    with FarmSite(tmp_path_factory.mktemp("farm")) as running:
        yield running


@pytest.fixture(scope="module")
def impatient_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FarmSite]:
    with FarmSite(tmp_path_factory.mktemp("impatient"), patience=2.0) as running:
        yield running


@pytest.fixture
def empty_site(impatient_site: FarmSite) -> FarmSite:
    """One with nothing in it, whose workers lose their tasks after 2 s of silence."""
    drain(impatient_site)
    for worker in impatient_site.ask("GET", "/workers").json().values():
        assert impatient_site.ask("PATCH", f"/workers/{worker['id']}", data={"status": "disabled"}).status_code == 200
        assert impatient_site.ask("DELETE", f"/workers/{worker['id']}").status_code == 204
    return impatient_site


@pytest.fixture
def own_site(tmp_path: Path) -> Iterator[FarmSite]:
    """One that may be killed, and where everything has its first number."""
    with FarmSite(tmp_path, patience=2.0) as running:
        yield running


def shell(site: FarmSite, command: str = "true", **given: Any) -> int:
    """Make a task; its number."""
    answer = site.ask("POST", "/tasks", json={"type": "shell", "settings": json.dumps({"command": command}), **given})
    assert answer.status_code == 202, answer.text
    return int(answer.json()["id"])


def register(site: FarmSite, name: str) -> int:
    answer = site.ask("POST", "/workers", data={"hostname": name, "system": "Linux 6.1"})
    assert answer.status_code == 204
    return int(site.ask("GET", "/workers").json()[name]["id"])


def take(site: FarmSite, worker: str | int) -> dict[str, Any] | None:
    """What a worker gets when it asks."""
    answer = site.ask("GET", "/tasks/compiled/0", params={"worker": worker})
    assert answer.status_code in (200, 400), answer.text
    return answer.json()["options"] if answer.status_code == 200 else None


def take_soon(site: FarmSite, worker: str | int, seconds: float = 30.0) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while (task := take(site, worker)) is None:
        assert time.monotonic() < deadline, site.log()
        time.sleep(0.02)
    return task


def report(site: FarmSite, worker: str | int, task: int, status: str, **given: Any) -> httpx.Response:
    return site.ask("PATCH", f"/tasks/{task}", data={"status": status, **given}, params={"worker": worker})


def drain(site: FarmSite) -> None:
    """Delete what other tests left."""
    for task in site.ask("GET", "/tasks", params={"limit": 1000}).json():
        assert site.ask("DELETE", f"/tasks/{task['id']}").status_code == 202


# The document, in its order


def test_the_document_in_its_order(own_site: FarmSite) -> None:
    base = own_site.url

    settings = {"filepath": "/shots/a.blend", "frame_start": 5, "frame_end": 10, "format": ""}
    body = {"priority": 10, "settings": json.dumps(settings), "task_id": 12, "type": "blender_render",
            "parser": "blender_render"}  # fmt: skip
    made = requests.post(f"{base}/tasks", json=body, timeout=30)
    assert made.status_code == 202
    assert made.headers["content-type"].startswith("text/javascript")
    assert made.headers["vary"] == "Accept"
    task = made.json()
    assert task == {
        "id": task["id"], "worker_id": 0, "priority": 10, "frame_start": 5, "frame_end": 10, "frame_current": 5,
        "status": "ready", "format": "",
    }  # fmt: skip
    assert all(type(task[name]) is int for name in TASK - {"status", "format"})

    changed = requests.patch(f"{base}/tasks/{task['id']}", json={"priority": 20}, timeout=30)
    assert (changed.status_code, changed.content) == (204, b"")
    assert requests.get(f"{base}/tasks/{task['id']}", timeout=30).json()["priority"] == 20

    deleted = requests.delete(f"{base}/tasks/{task['id']}", timeout=30)
    assert deleted.status_code == 202
    assert deleted.json()["status"] == "canceled"
    assert requests.get(f"{base}/tasks/{task['id']}", timeout=30).status_code == 404

    assert requests.get(f"{base}/workers", timeout=30).json() == {}

    told = {"hostname": "fsiddi-macpro.local", "system": "Darwin 14.1.0"}
    for _ in range(2):
        registered = requests.post(f"{base}/workers", data=told, timeout=30)
        assert (registered.status_code, registered.content) == (204, b"")
        assert registered.headers["location"] == "/manager/workers/1"

    listed = requests.get(f"{base}/workers", timeout=30)
    assert listed.status_code == 200
    assert listed.json() == {
        "fsiddi-macpro.local": {
            "activity": None, "connection": "online", "current_task": None, "hostname": "fsiddi-macpro.local", "id": 1,
            "ip_address": "127.0.0.1", "log": None, "port": 5000, "status": "enabled", "system": "Darwin 14.1.0",
            "time_cost": None,
        }
    }  # fmt: skip

    machine = {
        "mac_address": 158929712651,
        "update_frequent": {
            "load_average": {"15min": 2.18, "1min": 2.18, "5min": 2.11},
            "worker_cpu_percent": 7.0,
        },
        "update_less_frequent": {
            "worker_architecture": "x86_64",
            "worker_disk_percent": 90.7,
            "worker_mem_percent": 56.7,
            "worker_num_cpus": 16,
        },
    }
    assert requests.patch(f"{base}/workers/1", json=machine, timeout=30).status_code == 200
    shown = requests.get(f"{base}/workers/1", timeout=30)
    assert shown.status_code == 200
    assert shown.json() == {"hostname": "fsiddi-macpro.local", "system": "Darwin 14.1.0", **machine}

    status = requests.patch(f"{base}/workers/1", data={"status": "rendering"}, timeout=30)
    assert (status.status_code, status.json()) == (200, {"task_id": None})
    shell(own_site)
    given = take(own_site, "fsiddi-macpro.local")
    assert given is not None
    status = requests.patch(f"{base}/workers/1", data={"status": "available"}, timeout=30)
    assert (status.status_code, status.json()) == (200, {"task_id": given["task_id"]})


def test_a_task_may_come_as_json_as_a_form_or_with_files(site: FarmSite) -> None:
    settings = json.dumps({"command": "echo über"})
    fields = {"type": "shell", "settings": settings, "priority": "7", "task_id": "3"}
    ways: list[dict[str, Any]] = [
        {"json": {"type": "shell", "settings": {"command": "echo über"}, "priority": 7, "task_id": 3}},
        {"json": {"type": "shell", "settings": settings, "priority": "7"}},
        {"data": fields},
        {"data": {**fields, "job_id": 9}, "files": {"jobfile": ("jobfile.zip", b"PK...", "application/zip")}},
        {"content": json.dumps(fields), "headers": {"Content-Type": "application/x-www-form-urlencoded"}},
    ]
    for way in ways:
        made = site.ask("POST", "/tasks", **way)
        assert made.status_code == 202, made.text
        assert made.json().keys() == TASK
        job = site.job(made.json()["id"])
        assert job["priority"] == 7
        assert job["requests"][0]["data"]["commands"] == [["/bin/sh", "-c", "echo über"]]
    drain(site)


def test_json_clients_are_answered_as_json(site: FarmSite) -> None:
    answer = site.ask("GET", "/workers", headers={"Accept": "application/json"})
    assert answer.headers["content-type"] == "application/json"


# Old workers


class OldWorker(threading.Thread):
    """A render worker of the old kind: forms, an address as its name, a JSON text as its activity."""

    def __init__(self, base: str, port: int, name: str) -> None:
        super().__init__()
        self.base, self.told, self.done = base, {"port": port, "hostname": name, "system": "Linux 3.13"}, []

    def run(self) -> None:
        idle = 0
        while idle < 3:
            requests.get(f"{self.base}/", timeout=30).json()
            requests.post(f"{self.base}/workers", data=self.told, timeout=30)
            answer = requests.get(f"{self.base}/tasks/compiled/0", params={"worker": self.told["hostname"]}, timeout=30)
            if answer.status_code != 200:
                assert answer.status_code == 400
                idle += 1
                continue
            self.render(answer.json()["options"])

    def render(self, task: dict[str, Any]) -> None:
        url, job = f"{self.base}/tasks/{task['task_id']}", task["job_id"]
        begun = {"status": "active", "log": None, "activity": None, "time_cost": 0, "job_id": job}
        if requests.patch(url, data=begun, timeout=30).status_code != 204:
            return
        archive = requests.get(f"{self.base}/static/storage/{job}/jobfile_{job}.zip", timeout=30)
        assert archive.content[:2] == b"PK"
        assert requests.get(f"{self.base}/job-types/{task['type']}", timeout=30).json()["commands"]["default"]["Linux"]
        log, (program, *arguments) = "", json.loads(task["task_command"])
        assert program == "blender"
        first, last = (int(arguments[arguments.index(f"--frame-{end}") + 1]) for end in ("start", "end"))
        for frame in range(first, last + 1):
            log += f"Fra:{frame} Mem:8.32M | Time:00:01.23 | Remaining:00:00.50 | Scene | Rendered 1/2 Tiles\n"
            told = {"status": "active", "log": log[-256:], "activity": json.dumps({"current_frame": frame}),
                    "time_cost": frame - first, "job_id": job, "task_id": task["task_id"]}  # fmt: skip
            if requests.patch(url, data=told, timeout=30).status_code != 204:
                return
        ended = {"status": "finished", "log": log[-256:], "activity": "{}", "time_cost": 2, "job_id": job}
        files = [("taskfile", ("taskfile.zip", b"PK", "application/zip"))]
        assert requests.patch(url, data=ended, files=files, timeout=30).status_code == 204
        self.done.append(task["task_id"])


def test_old_workers_do_200_tasks(empty_site: FarmSite) -> None:
    settings = json.dumps({"filepath": "/shots/a.blend", "frame_start": 1, "frame_end": 4, "chunk_size": 2})
    url, fields = f"{empty_site.url}/tasks", {"type": "blender_render", "settings": settings}
    tasks = [requests.post(url, data={**fields, "task_id": n}, timeout=30).json()["id"] for n in range(100)]
    workers = [OldWorker(empty_site.url, 5000 + number, f"old-{number}") for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    done = [task for worker in workers for task in worker.done]
    assert len(done) == len(set(done)) == 200
    for task in tasks:
        assert empty_site.ask("GET", f"/tasks/{task}").json()["status"] == "finished"
        job = empty_site.job(task)
        assert (job["status"], job["finishCount"]) == ("resolved", 2)
        assert [request["__request"]["attempt"] for request in job["requests"]] == [1, 1]


def test_the_files_of_a_job_reach_its_workers_and_what_they_made_comes_back(site: FarmSite) -> None:
    scenes, pictures = b"PK" + b"scene\r\n--" * 3_000_000, b"PK" + b"picture" * 3_000_000  # more than other bodies have
    assert site.ask("GET", "/tasks/file/77").json() == {"file": False}
    fields = {"type": "shell", "settings": json.dumps({"command": "true"}), "job_id": "77", "task_id": "1"}
    made = site.ask("POST", "/tasks", data=fields, files={"jobfile": ("jobfile.zip", scenes, "application/zip")})
    assert made.status_code == 202
    assert site.ask("GET", "/tasks/file/77").json() == {"file": True}
    second = site.ask("POST", "/tasks", data={**fields, "task_id": "2"}).json()["id"]
    name = next(NAMES)
    register(site, name)
    given = take_soon(site, name)
    assert (given["job_id"], given["settings"]) == (77, {"command": "true"})
    assert site.ask("GET", "/static/storage/77/jobfile_77.zip").content == scenes
    assert site.ask("GET", "/static/storage/77/jobsupportfile_77.zip").content[:2] == b"PK"
    assert site.ask("GET", "/static/storage/77/..%2f..%2fpuppetmaster.json").status_code == 404
    path = f"/static/storage/77/taskfileout_77_{given['task_id']}.zip"
    files = {"taskfile": ("taskfile.zip", pictures, "application/zip")}
    ended = site.ask("PATCH", f"/tasks/{given['task_id']}", data={"status": "completed", "worker": name}, files=files)
    assert ended.status_code == 204
    assert site.ask("GET", path).content == pictures
    late = site.ask("PATCH", f"/tasks/{given['task_id']}", data={"status": "failed", "worker": name},
                    files={"taskfile": ("taskfile.zip", b"late", "application/zip")})  # fmt: skip
    assert late.status_code == 403
    assert site.ask("GET", path).content == pictures
    assert not list((site.folder / "data" / "farm").glob(".upload-*"))
    site.ask("DELETE", f"/tasks/{made.json()['id']}")
    assert site.ask("GET", "/tasks/file/77").json() == {"file": True}
    site.ask("DELETE", f"/tasks/{second}")
    site.wait("/tasks/file/77", lambda found: found == {"file": False})


def test_a_worker_that_says_only_where_it_calls_from_gets_its_task_and_reports(empty_site: FarmSite) -> None:
    task = shell(empty_site)
    empty_site.ask("POST", "/workers", data={"hostname": "first", "system": "Linux", "port": 5000})
    empty_site.ask("POST", "/workers", data={"hostname": "second", "system": "Linux", "port": 5001})
    given = empty_site.ask("GET", "/tasks/compiled/0").json()["options"]
    assert empty_site.ask("GET", "/workers").json()["second"]["current_task"] == given["task_id"]
    assert empty_site.ask("PATCH", f"/tasks/{given['task_id']}", data={"status": "running"}).status_code == 204
    assert empty_site.ask("PATCH", f"/tasks/{given['task_id']}", data={"status": "finished"}).status_code == 204
    assert empty_site.job(task)["status"] == "resolved"


# What is given to whom


def test_the_most_urgent_task_goes_first_and_a_new_priority_counts_at_once(site: FarmSite) -> None:
    name = next(NAMES)
    register(site, name)
    low, high, highest, equal = (shell(site, priority=priority) for priority in (5, 80, 400, 80))
    lowest = shell(site, priority=-3)
    assert site.ask("PATCH", f"/tasks/{low}", data={"priority": "300"}).status_code == 204
    order = []
    for _ in range(5):
        given = take_soon(site, name)
        order.append(given["job_id"])
        assert report(site, name, given["task_id"], "finished").status_code == 204
    assert order == [highest, low, high, equal, lowest]
    assert take(site, name) is None


def test_the_list_of_a_worker_has_its_task_and_the_answer_may_be_asked_for_again(site: FarmSite) -> None:
    name, task = next(NAMES), shell(site)
    worker = register(site, name)
    first = site.ask("GET", "/tasks", params={"worker_id": worker}).json()
    assert [found["job_id"] for found in first] == [task]
    assert site.ask("GET", "/tasks", params={"hostname": name}).json() == first
    assert first[0]["commands"] == [["/bin/sh", "-c", "true"]]
    assert report(site, name, first[0]["task_id"], "finished").status_code == 204
    assert site.ask("GET", "/tasks", params={"worker_id": worker}).json() == []


def test_the_chunks_of_a_task_are_done_by_several_workers_at_once(site: FarmSite) -> None:
    names = [next(NAMES) for _ in range(3)]
    for name in names:
        register(site, name)
    settings = {"filepath": "/a.blend", "frame_start": 1, "frame_end": 30, "chunk_size": 10}
    task = site.ask("POST", "/tasks", json={"type": "blender_render", "settings": settings}).json()["id"]
    given = [take_soon(site, name) for name in names]
    assert [(chunk["frame_start"], chunk["frame_end"]) for chunk in given] == [(1, 10), (11, 20), (21, 30)]
    assert site.ask("GET", f"/tasks/{task}").json()["status"] == "rendering"
    for name, chunk in zip(names, given, strict=True):
        assert report(site, name, chunk["task_id"], "completed", time_cost="3").status_code == 204
    assert site.ask("GET", f"/tasks/{task}").json()["status"] == "finished"
    results = [request["__request"]["result"] for request in site.job(task)["requests"]]
    assert [(result["worker"], result["time_cost"]) for result in results] == [(name, 3) for name in names]


def test_a_paused_task_is_given_to_nobody_until_it_goes_on(site: FarmSite) -> None:
    name, task = next(NAMES), shell(site)
    register(site, name)
    assert site.ask("PATCH", f"/tasks/{task}", data={"status": "paused"}).status_code == 204
    assert site.ask("GET", f"/tasks/{task}").json()["status"] == "paused"
    assert take(site, name) is None
    assert site.ask("PATCH", f"/tasks/{task}", data={"status": "ready"}).status_code == 204
    assert report(site, name, take_soon(site, name)["task_id"], "finished").status_code == 204


# What workers tell


def test_what_a_worker_reports_is_seen_at_once(site: FarmSite) -> None:
    name = next(NAMES)
    worker = register(site, name)
    settings = {"filepath": "/a.blend", "frame_start": 11, "frame_end": 20, "format": "PNG"}
    task = site.ask("POST", "/tasks", json={"type": "blender_render", "settings": settings}).json()["id"]
    given = take_soon(site, name)
    log = (
        "Fra:12 Mem:8.32M (0.00M, Peak 9.10M) | Time:00:01.23 | Remaining:00:10.50 | Scene | Rendered 3/64 Tiles\n"
        "Saved: '/tmp/0012.png'\n"
    )
    assert report(site, name, given["task_id"], "rendering", log=log, activity="half", time_cost="4").status_code == 204
    shown = site.ask("GET", f"/tasks/{task}").json()
    assert {key: shown[key] for key in TASK} == {
        "id": task, "worker_id": worker, "priority": 50, "frame_start": 11, "frame_end": 20, "frame_current": 12,
        "status": "rendering", "format": "PNG",
    }  # fmt: skip
    assert site.job(task)["progress"] == 10
    listed = site.ask("GET", "/workers").json()[name]
    assert listed.keys() == WORKER
    assert (listed["activity"], listed["log"], listed["time_cost"]) == ("half", log, 4)
    assert listed["current_task"] == given["task_id"]
    assert report(site, name, task, "finished").status_code == 204  # by the number of the task as well
    result = site.job(task)["requests"][0]["__request"]["result"]
    assert (result["files"], result["log"]) == (["/tmp/0012.png"], log)


def test_a_task_that_fails_on_three_workers_has_failed(empty_site: FarmSite) -> None:
    names = [next(NAMES) for _ in range(4)]
    for name in names:
        register(empty_site, name)
    task = shell(empty_site, "exit 1")
    for name in names[:3]:
        given = take_soon(empty_site, name)
        told = {"log": f"no such file on {name}", "message": "exit code 1"}
        assert report(empty_site, name, given["task_id"], "failed", **told).status_code == 204
        assert take(empty_site, name) is None  # there are others that have not tried it
    assert take(empty_site, names[3]) is None
    assert empty_site.ask("GET", f"/tasks/{task}").json()["status"] == "failed"
    request = empty_site.job(task)["requests"][0]["__request"]
    assert (request["status"], request["code"]) == ("error", 500)
    assert request["result"]["data"]["failures"] == names[:3]
    assert request["result"]["data"]["log"] == f"no such file on {names[2]}"


def test_a_worker_that_is_alone_may_try_again(empty_site: FarmSite) -> None:
    name, task = next(NAMES), shell(empty_site, "exit 1")
    register(empty_site, name)
    for _ in range(3):
        given = take_soon(empty_site, name)
        assert report(empty_site, name, given["task_id"], "failed").status_code == 204
    assert empty_site.ask("GET", f"/tasks/{task}").json()["status"] == "failed"


def test_a_worker_that_gives_up_leaves_its_task_to_others_and_it_has_not_failed(site: FarmSite) -> None:
    first, second = next(NAMES), next(NAMES)
    register(site, first), register(site, second)
    for status in ("aborted", "canceled", "aborted", "aborted"):
        shell(site)
        given = take_soon(site, first)
        assert report(site, first, given["task_id"], status).status_code == 204
        again = take_soon(site, second)
        assert again["task_id"] == given["task_id"]
        assert report(site, second, again["task_id"], "finished").status_code == 204


# Who loses a task, and hears of it


def test_a_silent_worker_loses_its_task_to_another(empty_site: FarmSite) -> None:
    silent, other = next(NAMES), next(NAMES)
    register(empty_site, silent), register(empty_site, other)
    task = shell(empty_site)
    given = take_soon(empty_site, silent)
    again = take_soon(empty_site, other)
    assert again["task_id"] == given["task_id"]
    refused = report(empty_site, silent, given["task_id"], "rendering")
    assert refused.status_code == 403
    assert "nothing was heard" in refused.json()["message"]
    assert report(empty_site, other, again["task_id"], "finished").status_code == 204
    assert empty_site.job(task)["requests"][0]["__request"]["attempt"] == 2
    workers = empty_site.ask("GET", "/workers").json()
    assert workers[other]["connection"] == "online"


def test_any_call_is_a_sign_of_life(empty_site: FarmSite) -> None:
    name, other = next(NAMES), next(NAMES)
    worker = register(empty_site, name)
    register(empty_site, other)
    shell(empty_site)
    given = take_soon(empty_site, name)
    until = time.monotonic() + 2.5 * empty_site.patience
    while time.monotonic() < until:
        assert empty_site.ask("PATCH", f"/workers/{worker}", data={"status": "rendering"}).json()["task_id"]
        assert take(empty_site, other) is None
        time.sleep(0.1)
    assert report(empty_site, name, given["task_id"], "finished").status_code == 204


def test_a_disabled_worker_gets_403_and_why(site: FarmSite) -> None:
    name, other = next(NAMES), next(NAMES)
    worker = register(site, name)
    register(site, other)
    shell(site)
    given = take_soon(site, name)
    assert site.ask("PATCH", f"/workers/{worker}", json={"status": "disabled"}).json() == {"task_id": None}
    for refused in (
        report(site, name, given["task_id"], "rendering"),
        site.ask("GET", "/tasks/compiled/0", params={"worker": name}),
        site.ask("GET", "/tasks", params={"worker_id": worker}),
    ):
        assert refused.status_code == 403
        assert "disabled" in refused.json()["message"]
    assert site.ask("GET", "/workers").json()[name]["status"] == "disabled"
    register(site, name)
    assert site.ask("PATCH", f"/workers/{worker}", json={"status": "rendering"}).status_code == 200
    assert site.ask("GET", "/workers").json()[name]["status"] == "disabled"
    assert take_soon(site, other)["task_id"] == given["task_id"]
    assert site.ask("PATCH", f"/workers/{worker}", json={"status": "enabled"}).status_code == 200
    assert take(site, name) is None
    assert report(site, other, given["task_id"], "finished").status_code == 204


@pytest.mark.parametrize("how", ["cancel", "delete", "job", "register"])
def test_a_worker_whose_task_was_taken_away_gets_403_and_why(site: FarmSite, how: str) -> None:
    name, task = next(NAMES), shell(site)
    register(site, name)
    given = take_soon(site, name)
    if how == "cancel":
        assert site.ask("PATCH", f"/tasks/{task}", data={"status": "canceled"}).status_code == 204
        assert site.ask("GET", f"/tasks/{task}").json()["status"] == "canceled"
    elif how == "delete":
        assert site.ask("DELETE", "/tasks", params={"tasks": task}).status_code == 202
    elif how == "job":
        address = f"http://127.0.0.1:{site.port}/requests/{given['task_id']}"
        assert httpx.delete(address).status_code == 200
    else:
        register(site, name)
    refused = report(site, name, given["task_id"], "rendering")
    assert refused.status_code == 403
    word = {"cancel": "canceled", "delete": "deleted", "job": "canceled", "register": "registered again"}[how]
    assert word in refused.json()["message"]
    assert site.ask("GET", "/workers").json()[name]["current_task"] is None
    if how != "delete":
        drain(site)


def test_who_is_not_registered_gets_403(site: FarmSite) -> None:
    for answer in (
        site.ask("GET", "/tasks/compiled/0", params={"worker": "nobody"}),
        site.ask("GET", "/tasks", params={"worker_id": 4711}),
        report(site, "nobody", 1, "rendering"),
    ):
        assert answer.status_code == 403
        assert "not registered" in answer.json()["message"]


# Kills


def test_a_kill_of_the_manager_loses_no_assignment_no_failure_and_no_task(own_site: FarmSite) -> None:
    first, second, third = next(NAMES), next(NAMES), next(NAMES)
    for name in (first, second, third):
        register(own_site, name)
    held, failed, offered = shell(own_site, priority=3), shell(own_site, priority=2), shell(own_site, priority=1)
    at_work = take_soon(own_site, first)
    other = take_soon(own_site, second)
    assert (at_work["job_id"], other["job_id"]) == (held, failed)
    assert report(own_site, first, at_work["task_id"], "rendering").status_code == 204
    assert report(own_site, second, other["task_id"], "failed").status_code == 204
    own_site.kill()
    own_site.start()
    assert report(own_site, first, at_work["task_id"], "rendering", time_cost="9").status_code == 204
    assert own_site.ask("GET", f"/tasks/{held}").json()["status"] == "rendering"
    given = take_soon(own_site, second)
    assert given["job_id"] == offered, "it failed on the other one"
    assert take_soon(own_site, third)["job_id"] == failed
    for name, task in ((first, at_work), (second, given), (third, other)):
        assert report(own_site, name, task["task_id"], "finished").status_code == 204
    for task_id in (held, failed, offered):
        assert own_site.ask("GET", f"/tasks/{task_id}").json()["status"] == "finished"
    assert own_site.job(held)["requests"][0]["__request"]["attempt"] == 1


def test_100_chunks_are_done_once_each_while_the_manager_is_killed(tmp_path: Path) -> None:
    with FarmSite(tmp_path, patience=30.0) as site:
        journal = tmp_path / "done"
        commands = [f"echo {number} >> {journal}" for number in range(100)]
        settings = {"commands": commands, "parallel": True}
        task = site.ask("POST", "/tasks", json={"type": "shell", "settings": settings}).json()["id"]
        for name in ("a", "b"):
            site.worker(name)
        for least in (15, 45, 75):
            site.wait(f"/tasks/{task}", lambda shown, least=least: shown["chunks"]["resolved"] >= least)
            site.kill()
            site.start()
        site.wait(f"/tasks/{task}", lambda shown: shown["status"] == "finished")
        assert sorted(map(int, journal.read_text().split())) == list(range(100))


# puppetmaster worker


def test_a_worker_runs_commands_and_tells_what_came_of_them(empty_site: FarmSite, tmp_path: Path) -> None:
    process = empty_site.worker("runner")
    commands = ["echo $PUPPETMASTER_TASK; echo two >&2", ["printf", "%s", "a b"]]
    task = empty_site.ask("POST", "/tasks", json={"type": "shell", "settings": {"commands": commands}}).json()["id"]
    empty_site.wait(f"/tasks/{task}", lambda shown: shown["status"] == "finished")
    result = empty_site.job(task)["requests"][0]["__request"]["result"]
    assert result["log"] == f"{task}\ntwo\na b"
    failing = shell(empty_site, "echo before; exit 7; echo after")
    empty_site.wait(f"/tasks/{failing}", lambda shown: shown["status"] == "failed")
    data = empty_site.job(failing)["requests"][0]["__request"]["result"]["data"]
    assert "exit code 7" in data["message"]
    assert data["log"] == "before\n"
    body = {"type": "shell", "settings": {"command": ["/no/such"]}}
    missing = empty_site.ask("POST", "/tasks", json=body).json()["id"]
    empty_site.wait(f"/tasks/{missing}", lambda shown: shown["status"] == "failed")
    assert "No such file" in empty_site.job(missing)["requests"][0]["__request"]["result"]["data"]["message"]
    machine = empty_site.ask("GET", f"/workers/{empty_site.ask('GET', '/workers').json()['runner']['id']}").json()
    assert machine["hostname"] == "runner"
    assert machine["update_frequent"]["load_average"].keys() == {"1min", "5min", "15min"}
    assert machine["update_less_frequent"]["worker_num_cpus"] >= 1
    assert machine["mac_address"] > 0
    process.terminate()
    assert process.wait(20) == 0


BLENDER = """#!/usr/bin/env python3
import sys
first, last = (int(sys.argv[sys.argv.index(name) + 1]) for name in ("--frame-start", "--frame-end"))
for frame in range(first, last + 1):
    print(f"Fra:{frame} Mem:8.32M (0.00M, Peak 9.10M) | Time:00:01.23 | Remaining:00:10.50 | Scene", flush=True)
    input_file = open(sys.argv[2]).read() if frame == last else ""
    print(f"Saved: '/tmp/{frame:04}.png'", flush=True)
"""


def test_a_worker_renders_with_blender_and_its_output_is_read(site: FarmSite, tmp_path: Path) -> None:
    blender, scene = tmp_path / "blender", tmp_path / "scene.blend"
    blender.write_text(BLENDER)
    blender.chmod(0o755)
    # The last frame of each chunk waits until somebody writes into the file.
    os.mkfifo(scene)
    process = site.worker("renderer", environment={"PATH": f"{tmp_path}:/usr/bin:/bin:{os.environ['PATH']}"})
    settings = {"filepath": str(scene), "frame_start": 1, "frame_end": 10, "chunk_size": 5, "format": "PNG"}
    task = site.ask("POST", "/tasks", json={"type": "blender_render", "settings": settings}).json()["id"]
    shown = site.wait(f"/tasks/{task}", lambda shown: shown["frame_current"] == 5)
    assert (shown["status"], shown["progress"]) == ("rendering", 40)
    scene.write_text("go")
    site.wait(f"/tasks/{task}", lambda shown: shown["frame_current"] == 10)
    scene.write_text("go")
    shown = site.wait(f"/tasks/{task}", lambda shown: shown["status"] == "finished")
    assert shown["frame_current"] == 10
    files = [request["__request"]["result"]["files"] for request in site.job(task)["requests"]]
    assert files == [[f"/tmp/{frame:04}.png" for frame in frames] for frames in (range(1, 6), range(6, 11))]
    process.terminate()
    assert process.wait(20) == 0


def _is_running(mark: str) -> bool:
    for found in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark in found.read_bytes().decode("utf-8", "replace").split("\0"):
                return True
        except OSError:
            continue
    return False


def _wait_running(mark: str, *, running: bool) -> None:
    deadline = time.monotonic() + 30
    while _is_running(mark) is not running:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("how", ["cancel", "disable", "terminate"])
def test_a_worker_kills_what_it_runs_when_it_has_to_stop(site: FarmSite, how: str) -> None:
    name, mark = next(NAMES), f"7{time.monotonic_ns() % 10**9}"
    process = site.worker(name)
    task = shell(site, f"trap '' TERM; sleep {mark} & sleep {mark}" if how == "cancel" else f"sleep {mark}; true")
    _wait_running(mark, running=True)
    site.wait(f"/tasks/{task}", lambda shown: shown["status"] == "rendering")
    worker = site.ask("GET", "/workers").json()[name]["id"]
    if how == "cancel":
        site.ask("PATCH", f"/tasks/{task}", data={"status": "canceled"})
    elif how == "disable":
        site.ask("PATCH", f"/workers/{worker}", data={"status": "disabled"})
    else:
        process.send_signal(signal.SIGTERM)
    _wait_running(mark, running=False)
    if how == "terminate":
        assert process.wait(20) == 0
        assert site.ask("GET", f"/tasks/{task}").json()["status"] == "ready"
    else:
        assert process.poll() is None
        process.terminate()
        assert process.wait(20) == 0
    drain(site)


def test_a_worker_outlives_the_absence_of_its_manager(own_site: FarmSite, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    own_site.worker("patient")
    task = shell(own_site, f"while [ ! -e {gate} ]; do sleep 0.1; done; echo through")
    own_site.wait(f"/tasks/{task}", lambda shown: shown["status"] == "rendering")
    own_site.kill()
    gate.touch()
    own_site.start()
    own_site.wait(f"/tasks/{task}", lambda shown: shown["status"] == "finished")
    assert own_site.job(task)["requests"][0]["__request"]["result"]["log"] == "through\n"


def test_the_output_of_a_task_is_bounded_and_its_end_is_kept(site: FarmSite) -> None:
    process = site.worker("loud")
    task = shell(site, "yes line | head -c 30000000; echo the end")
    site.wait(f"/tasks/{task}", lambda shown: shown["status"] == "finished")
    log = site.job(task)["requests"][0]["__request"]["result"]["log"]
    assert log.endswith("line\nthe end\n")
    assert len(log) == 16 * 1024
    process.terminate()
    assert process.wait(20) == 0


def test_a_worker_says_what_is_wrong_with_its_manager(tmp_path: Path, site: FarmSite) -> None:
    process = site.worker("lost", "--manager", site.url + "/nowhere")
    assert process.wait(30) == 1
    assert "404" in (site.folder / "lost.log").read_text()


# Bad input


BAD_TASKS: list[tuple[Any, str]] = [
    ({}, "type"),
    ({"type": "nope"}, "type"),
    ({"type": 3}, "type"),
    ({"type": "shell"}, "settings"),
    ({"type": "shell", "settings": "{"}, "settings"),
    ({"type": "shell", "settings": "[]"}, "settings"),
    ({"type": "shell", "settings": {"command": 3}}, "settings.command"),
    ({"type": "shell", "settings": {"command": "a\0b"}}, "settings.command"),
    ({"type": "shell", "settings": {"command": "true", "x": "\ud800"}}, "settings"),
    ({"type": "shell", "settings": {"command": "true"}, "priority": "high"}, "priority"),
    ({"type": "shell", "settings": {"command": "true"}, "priority": 1 << 70}, "priority"),
    ({"type": "shell", "settings": {"command": "true"}, "priority": True}, "priority"),
    ({"type": "shell", "settings": {"command": "true"}, "parser": "nope"}, "parser"),
    ({"type": "shell", "settings": {"command": "true"}, "parser": {}}, "parser"),
    ({"type": "blender_render", "settings": {"frame_start": 1, "frame_end": 2}}, "settings.filepath"),
    ({"type": "blender_render", "settings": {"filepath": "a", "frame_start": 2, "frame_end": 1}}, "settings"),
    ({"type": "blender_render", "settings": {"filepath": "-a", "frames": "1"}}, "settings.filepath"),
    ({"type": "blender_render", "settings": {"filepath": "a", "frames": "1-1000000", "chunk_size": 1}}, "settings"),
    ({"type": "blender_render", "settings": {"filepath": "a", "frames": "x"}}, "settings"),
    ({"type": "shell", "settings": {"command": "x" * 500_000}}, "settings"),
    ({"type": "broken", "settings": {}}, "settings"),
]


@pytest.mark.parametrize(("body", "path"), BAD_TASKS, ids=range(len(BAD_TASKS)))
def test_a_faulty_task_is_refused_with_the_path_to_the_fault(site: FarmSite, body: Any, path: str) -> None:
    answer = site.ask("POST", "/tasks", content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert path in [fault["path"] for fault in answer.json()["errors"]]
    if body.get("type") == "nope":
        assert "blender_render, broken, shell" in answer.json()["message"]


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe", b"{" * 5000, b'{"type": "shell", "type": "shell"}'])
def test_what_is_no_document_is_refused(site: FarmSite, content: bytes) -> None:
    for method, path in (("POST", "/tasks"), ("PATCH", "/tasks/1"), ("POST", "/workers")):
        answer = site.ask(method, path, content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400, (method, path, answer.text)
        assert site.ask(method, path, content=content).status_code == 400


def test_a_broken_compiler_harms_nobody_else(site: FarmSite) -> None:
    for settings in ({"number": 1}, {"exit": True}, {"wrong": True}):
        answer = site.ask("POST", "/tasks", json={"type": "broken", "settings": settings})
        assert answer.status_code == 500
        assert "the compiler broken failed" in answer.json()["message"]
    name, task = next(NAMES), shell(site, parser="broken")
    register(site, name)
    given = take_soon(site, name)
    assert report(site, name, given["task_id"], "rendering", log="Fra:1").status_code == 204
    assert report(site, name, given["task_id"], "finished", log="Fra:2").status_code == 204
    assert site.ask("GET", f"/tasks/{task}").json()["status"] == "finished"


def test_strange_reports_are_refused_and_change_nothing(site: FarmSite) -> None:
    name = next(NAMES)
    worker = register(site, name)
    shell(site)
    given = take_soon(site, name)
    for body in (
        {},
        {"status": "sleeping"},
        {"status": 3},
        {"status": "rendering", "time_cost": "long"},
        {"status": "rendering", "time_cost": -1},
        {"status": "rendering", "time_cost": "nan"},
        {"status": "rendering", "frame_current": 1 << 80},
        {"status": "rendering", "log": ["a"]},
    ):
        answer = site.ask("PATCH", f"/tasks/{given['task_id']}", json=body, params={"worker": name})
        assert answer.status_code == 400, body
    for body in ({"status": "asleep"}, {"update_frequent": 3}, {"update_frequent": {"worker_cpu_percent": "x"}}):
        assert site.ask("PATCH", f"/workers/{worker}", json=body).status_code == 400
    for body in ({}, {"hostname": ""}, {"hostname": "a\nb"}, {"hostname": "x" * 200}, {"hostname": "a", "port": 70000}):
        assert site.ask("POST", "/workers", json=body).status_code == 400
    odd = json.dumps({"status": "rendering", "log": "\ud800", "activity": '{"current_frame": "x"}', "worker": name})
    assert site.ask("PATCH", f"/tasks/{given['task_id']}", content=odd).status_code == 204
    assert report(site, name, given["task_id"], "finished").status_code == 204


def test_what_is_not_there_is_404_and_what_has_ended_409(site: FarmSite) -> None:
    task = shell(site)
    assert site.ask("PATCH", f"/tasks/{task}", data={"status": "canceled"}).status_code == 204
    assert site.ask("PATCH", f"/tasks/{task}", data={"priority": 3}).status_code == 409
    drain(site)
    for method, path in (
        ("GET", f"/tasks/{task}"), ("DELETE", f"/tasks/{task}"), ("GET", "/workers/99"), ("GET", "/nothing"),
    ):  # fmt: skip
        assert site.ask(method, path).status_code == 404
    assert site.ask("PATCH", f"/tasks/{task}", data={"priority": 3}).status_code == 404
    assert site.ask("PUT", "/tasks").status_code == 405


def test_a_huge_body_is_refused_with_413(site: FarmSite) -> None:
    body = b'{"type": "shell", "settings": "' + b"x" * (17 << 20) + b'"}'
    assert site.ask("POST", "/tasks", content=body).status_code == 413
    assert site.ask("GET", "/workers").status_code == 200


def test_a_job_that_is_no_task_is_refused_by_the_farm(site: FarmSite) -> None:
    base = f"http://127.0.0.1:{site.port}"
    body = {"destinations": "workers", "message": {"method": "post", "resource": "/x", "data": {"commands": "rm"}}}
    job = httpx.post(f"{base}/jobs", json=body).json()["id"]
    shown = site.wait("/tasks", lambda _: site.job(job)["status"] == "resolved")
    assert job not in [task["id"] for task in shown]
    assert site.job(job)["requests"][0]["__request"]["code"] == 400


def test_a_failed_task_can_be_run_again_as_a_job(empty_site: FarmSite) -> None:
    name, task = next(NAMES), shell(empty_site, "exit 1", priority=60)
    register(empty_site, name)
    for _ in range(3):
        assert report(empty_site, name, take_soon(empty_site, name)["task_id"], "failed").status_code == 204
    again = httpx.post(f"http://127.0.0.1:{empty_site.port}/jobs/{task}/rerun").json()["id"]
    assert take_soon(empty_site, name)["job_id"] == again
    assert empty_site.ask("GET", f"/tasks/{again}").json()["priority"] == 60


def test_ten_workers_ask_at_once_and_nobody_gets_what_another_has(site: FarmSite) -> None:
    names = [next(NAMES) for _ in range(10)]
    for name in names:
        register(site, name)
    settings = {"commands": ["true"] * 100, "parallel": True}
    task = site.ask("POST", "/tasks", json={"type": "shell", "settings": settings}).json()["id"]

    def work(name: str) -> list[int]:
        done = []
        with httpx.Client(base_url=site.url, timeout=60) as client:
            while (answer := client.get("/tasks/compiled/0", params={"worker": name})).status_code == 200:
                done.append(answer.json()["options"]["task_id"])
                fields = {"status": "finished", "worker": name}
                assert client.patch(f"/tasks/{done[-1]}", data=fields).status_code == 204
        return done

    take_first = time.monotonic() + 10
    while site.ask("GET", f"/tasks/{task}").json()["chunks"]["created"] < 100:
        assert time.monotonic() < take_first
    with ThreadPoolExecutor(10) as pool:
        done = [chunk for chunks in pool.map(work, names) for chunk in chunks]
    assert len(done) == len(set(done)) == 100
    assert site.ask("GET", f"/tasks/{task}").json()["status"] == "finished"


def test_an_old_worker_is_known_by_its_connection_alone_over_a_raw_socket(site: FarmSite) -> None:
    with socket.create_connection(("127.0.0.1", site.port), timeout=30) as connection:
        for _ in range(2):  # on one connection: a 204 with a body would spoil the second answer
            body = b"hostname=raw.local&system=Darwin+14.1.0"
            head = f"POST /manager/workers HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            answer = connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 204"), answer
            assert answer.endswith(b"\r\n\r\n")
