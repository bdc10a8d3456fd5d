"""The examples of the reference documents and of the published predecessor, sent with mosquitto_pub as anybody would,
and a view bundle written with the stock SDK."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from puppetmaster.embedded.devices import firmware
from tests.system.stand import Fleet, Heard, Listener, Stand, assert_adds_up

pytestmark = pytest.mark.skipif(
    not (shutil.which("mosquitto_pub") and shutil.which("mosquitto_sub")), reason="mosquitto-clients is not installed"
)

MACS = ["00:0c:29:1c:e8:01", "00:0c:29:1c:e8:02", "00:0c:29:1c:e8:03"]

_ids = count(700_001)


class Shell:
    """mosquitto_pub to ``/controller`` with a ``tunnel``, and mosquitto_sub on the tunnel."""

    def __init__(self, stand: Stand) -> None:
        self._broker = ["-h", "127.0.0.1", "-p", str(stand.port)]

    def call(self, method: str, resource: str, data: Any = None) -> tuple[int, Any]:
        ident = next(_ids)
        message = {"id": ident, "method": method, "resource": resource, "tunnel": f"/shell/{ident}"}
        if data is not None:
            message["data"] = data
        only_one = ["-d", "-q", "1", "-C", "1", "-W", "120", "-t", message["tunnel"], "-F", "answer %p"]
        command = ["stdbuf", "-oL", "mosquitto_sub", *self._broker, *only_one]
        sub = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        with sub:
            assert sub.stdout is not None
            assert any("SUBACK" in line for line in sub.stdout)
            self.publish(message)
            answers = [line.removeprefix("answer ") for line in sub.stdout if line.startswith("answer ")]
        assert answers, f"no answer to {message}"
        answer = json.loads(answers[0])
        assert {"id": ident, "method": method, "resource": resource, "sign": ["puppetmaster"]}.items() <= answer.items()
        assert "tunnel" not in answer
        return answer["code"], answer.get("data")

    def good(self, method: str, resource: str, data: Any = None) -> Any:
        code, answered = self.call(method, resource, data)
        assert code == 200, answered
        return answered

    def publish(self, message: dict[str, Any]) -> None:
        command = ["mosquitto_pub", *self._broker, "-q", "1", "-t", "/controller", "-s"]
        subprocess.run(command, input=json.dumps(message), text=True, check=True, timeout=60)


@pytest.fixture(scope="module")
def shell(stand: Stand) -> Shell:
    return Shell(stand)


@pytest.fixture(scope="module")
def macs(stand: Stand) -> Fleet:
    return stand.fleet("macs", names=MACS, latency="0.3")


@pytest.fixture(scope="module")
def said(stand: Stand) -> Iterator[Listener]:
    """What the view says, from its first word; it has done all that it does by itself."""
    stand.fleet("seen", names=["seen-1", "seen-2"])
    listener = stand.listen("/view/said")
    env = {"VIEW_HOST": "127.0.0.1", "VIEW_PORT": str(stand.port)}
    program = stand.program("view", [sys.executable, str(Path(__file__).with_name("view.py"))], env)
    listener.wait(is_said("ready"))
    yield listener
    program.kill()


def is_said(what: str) -> Any:
    return lambda heard: heard.data["what"] == what


def assert_time(text: object) -> None:
    assert isinstance(text, str)
    assert len(text) == len("2011-12-19T15:28:46.493Z")
    assert text[10] == "T" and text[19] == "." and text.endswith("Z")


# The reference documents


def test_the_batch_example_reboots_three_devices(stand: Stand, shell: Shell, macs: Fleet) -> None:
    message = {"method": "post", "resource": "/system/reboot", "data": {}, "__request": {"destination": MACS}}
    job = shell.good("post", "/jobs", {"timeout": 36000, "batch": [message]})

    assert_time(job["createdAt"])
    assert job["finishedAt"] is None
    assert job["timeout"] == 36000
    assert job["status"] == "dispatching"
    assert (job["progress"], job["totalCount"], job["finishCount"], job["errorCount"]) == (0, 3, 0, 0)
    assert len(set(job["requests"])) == 3
    assert all(isinstance(ident, int) and ident >= 1_000_000 for ident in [job["id"], *job["requests"]])

    ended = stand.wait_job(job["id"])
    assert ended["status"] == "resolved"
    assert (ended["progress"], ended["totalCount"], ended["finishCount"], ended["errorCount"]) == (100, 3, 3, 0)
    assert ended["doneCount"] == 3
    assert_time(ended["finishedAt"])
    assert_adds_up(ended)
    assert sorted(record["device"] for record in stand.work(job)) == MACS

    shown = shell.good("get", f"/jobs/{job['id']}")
    assert [request["id"] for request in shown["requests"]] == job["requests"]
    for request, mac in zip(shown["requests"], MACS, strict=True):
        assert (request["method"], request["resource"], request["data"]) == ("post", "/system/reboot", {})
        inner = request["__request"]
        assert (inner["destination"], inner["job"], inner["status"]) == (mac, job["id"], "resolved")
        assert (inner["progress"], inner["code"], inner["result"], inner["attempt"]) == (100, 200, {}, 1)
        for name in ("createdAt", "sentAt", "finishedAt"):
            assert_time(inner[name])


def test_every_way_to_write_the_destination_of_a_batch_is_understood(stand: Stand, shell: Shell, macs: Fleet) -> None:
    plain = {"method": "get", "resource": "/system/status"}
    batch = [
        {**plain, "__request": {"__destination": MACS[0]}},
        {**plain, "__request": {"destination": MACS[1], "timeout": 77}},
        {**plain, "__destination": [MACS[2]]},
    ]
    job = shell.good("post", "/jobs", {"batch": batch})
    ended = stand.wait_job(job["id"])
    assert (ended["finishCount"], ended["totalCount"], ended["timeout"]) == (3, 3, None)
    requests = shell.good("get", f"/jobs/{job['id']}")["requests"]
    assert [request["__request"]["destination"] for request in requests] == MACS
    assert [request["__request"]["timeout"] for request in requests] == [3600, 77, 3600]
    assert requests[0]["__request"]["result"] == {"firmware": firmware(MACS[0])}


def test_the_collection_example_reboots_three_devices(stand: Stand, shell: Shell, macs: Fleet) -> None:
    message = {"id": 5648943, "method": "post", "resource": "/system/reboot", "tunnel": "/remote", "data": {}}
    job = shell.good("post", "/jobs", {"collection": [{**message, "__destination": mac} for mac in MACS]})

    assert job["status"] == "dispatching"
    assert (job["progress"], job["totalCount"], job["finishCount"], job["errorCount"]) == (0, 3, 0, 0)
    assert 5648943 not in job["requests"]
    assert len(set(job["requests"])) == 3

    ended = stand.wait_job(job["id"])
    assert (ended["progress"], ended["finishCount"], ended["errorCount"]) == (100, 3, 0)

    with_requests = shell.good("get", f"/jobs/{job['id']}?collection=true")
    assert with_requests["requests"] == job["requests"]
    assert [request["id"] for request in with_requests["collection"]] == job["requests"]
    assert [request["__request"]["destination"] for request in with_requests["collection"]] == MACS
    assert with_requests["collection"] == shell.good("get", f"/jobs/{job['id']}")["requests"]

    bare = shell.good("get", f"/jobs/{job['id']}?collection=false")
    assert bare["requests"] == job["requests"]
    assert "collection" not in bare


def test_the_jobs_come_newest_first_and_without_their_requests(stand: Stand, shell: Shell, macs: Fleet) -> None:
    message = {"method": "post", "resource": "/system/reboot"}
    made = [shell.good("post", "/jobs", {"destinations": MACS[0], "message": message})["id"] for _ in range(2)]
    jobs = shell.good("get", "/jobs")
    assert [job["id"] for job in jobs] == sorted((job["id"] for job in jobs), reverse=True)
    assert set(made) <= {job["id"] for job in jobs}
    assert all("requests" not in job and "collection" not in job for job in jobs)
    for job_id in made:
        stand.wait_job(job_id)


def test_a_request_is_shown_under_both_of_its_resources(stand: Stand, shell: Shell, macs: Fleet) -> None:
    message = {"method": "put", "resource": "/system/time", "data": {"zone": "UTC"}}
    job = shell.good("post", "/jobs", {"batch": [{**message, "__request": {"destination": MACS[0]}}]})
    stand.wait_job(job["id"])
    ident = job["requests"][0]
    shown = shell.good("get", f"/requests/{ident}")
    assert shown == shell.good("get", f"/request/{ident}")
    assert (shown["id"], shown["method"], shown["resource"]) == (ident, "put", "/system/time")
    assert shown["data"] == {"zone": "UTC"}
    assert shown["__request"]["destination"] == MACS[0]
    assert shown["__request"]["result"] == {"zone": "UTC"}


def test_an_unknown_id_is_404_and_says_so(shell: Shell) -> None:
    for resource in ("/jobs/999", "/jobs/abc", "/requests/999", "/request/999"):
        code, data = shell.call("get", resource)
        assert code == 404, resource
        assert resource.rpartition("/")[2] in data["message"]


def test_ids_count_up_and_never_come_twice(stand: Stand, shell: Shell, macs: Fleet) -> None:
    document = {"destinations": MACS, "message": {"method": "get", "resource": "/x"}}
    first = shell.good("post", "/jobs", document)
    second = shell.good("post", "/jobs", document)
    ids = [first["id"], *first["requests"], second["id"], *second["requests"]]
    assert ids == sorted(set(ids))
    for job in (first, second):
        stand.wait_job(job["id"])


# The published predecessor


def test_the_predecessors_broadcast_is_understood(stand: Stand, shell: Shell, macs: Fleet) -> None:
    message = {"method": "post", "resource": "/system/reboot", "data": {"delay": 1}}
    job = shell.good("post", "/jobs", {"destinations": MACS, "message": message, "options": {"timeout": 60_500}})
    assert (job["status"], job["totalCount"], len(job["requests"])) == ("dispatching", 3, 3)
    ended = stand.wait_job(job["id"])
    assert (ended["status"], ended["finishCount"], ended["errorCount"]) == ("resolved", 3, 0)
    requests = shell.good("get", f"/jobs/{job['id']}")["requests"]
    assert [request["__request"]["timeout"] for request in requests] == [60.5] * 3
    assert [request["__request"]["result"] for request in requests] == [{"delay": 1}] * 3


def test_one_request_is_made_with_a_post_to_requests(stand: Stand, shell: Shell, macs: Fleet) -> None:
    message = {"method": "post", "resource": "/system/reboot", "data": {"x": 1}}
    body = {"destination": MACS[1], "message": message, "options": {"timeout": 30_000}}
    request = shell.good("post", "/requests", body)
    assert (request["method"], request["resource"], request["data"]) == ("post", "/system/reboot", {"x": 1})
    assert (request["__request"]["destination"], request["__request"]["timeout"]) == (MACS[1], 30)
    ended = stand.wait_job(request["__request"]["job"])
    assert (ended["status"], ended["totalCount"], ended["finishCount"]) == ("resolved", 1, 1)
    assert shell.good("get", f"/requests/{request['id']}")["__request"]["result"] == {"x": 1}
    listed = shell.good("get", f"/requests?destination={MACS[1]}&limit=3")
    assert listed[0]["id"] == request["id"]


def test_a_request_without_a_destination_goes_to_the_bundle_beside_us(stand: Stand, shell: Shell) -> None:
    request = shell.good("post", "/requests", {"message": {"method": "get", "resource": "/jobs?limit=1"}})
    assert request["__request"]["destination"] == "localhost"
    ended = stand.wait_job(request["__request"]["job"])
    assert ended["finishCount"] == 1
    result = shell.good("get", f"/requests/{request['id']}")["__request"]["result"]
    assert [job["id"] for job in result] == [ended["id"]]


def test_a_request_to_a_resource_that_nobody_serves_ends_in_an_error(stand: Stand, shell: Shell) -> None:
    request = shell.good("post", "/requests", {"message": {"method": "post", "resource": "/nobody"}})
    ended = stand.wait_job(request["__request"]["job"])
    assert (ended["status"], ended["finishCount"], ended["errorCount"]) == ("resolved", 0, 1)
    inner = shell.good("get", f"/requests/{request['id']}")["__request"]
    assert (inner["status"], inner["code"]) == ("error", 404)
    assert inner["result"] == {"code": 404, "resource": "/nobody", "data": None}


def test_a_request_is_called_off_with_delete(stand: Stand, shell: Shell) -> None:
    message = {"method": "post", "resource": "/system/reboot"}
    request = shell.good("post", "/requests", {"destination": "nobody-there", "message": message})
    canceled = shell.good("delete", f"/requests/{request['id']}")
    assert canceled["__request"]["status"] == "canceled"
    assert shell.good("delete", f"/requests/{request['id']}")["__request"]["status"] == "canceled"
    ended = stand.wait_job(request["__request"]["job"])
    assert (ended["errorCount"], ended["counts"]["canceled"]) == (1, 1)
    assert_adds_up(ended)


# A view, on the stock SDK


def test_a_view_asks_for_the_jobs_directly_and_plainly(said: Listener) -> None:
    for what in ("direct", "plain"):
        answer = said.wait(is_said(what)).data
        assert answer["code"] == 200
        assert isinstance(answer["data"], list)


def test_a_view_makes_a_job_and_hears_of_its_life(stand: Stand, said: Listener) -> None:
    created = said.wait(is_said("created")).data
    assert created["code"] == 200
    job = created["data"]
    stand.wait_job(job["id"])
    said.wait(is_said(f"event post /jobs/{job['id']}"))

    def is_final(heard: Heard) -> bool:
        told = heard.data
        return told["what"].endswith(f"/jobs/{job['id']}") and told["data"]["status"] == "resolved"

    final = said.wait(is_final).data["data"]
    assert (final["id"], final["finishCount"], final["progress"]) == (job["id"], 2, 100)
    stand.remove_job(job["id"])
    removed = said.wait(is_said(f"event delete /jobs/{job['id']}")).data
    assert removed["data"] == {"id": job["id"]}


def test_the_events_of_a_job_come_in_the_order_of_its_life(stand: Stand, said: Listener, macs: Fleet) -> None:
    document = {"destinations": MACS * 3, "message": {"method": "post", "resource": "/x"}}
    job = stand.run_job(document)
    stand.remove_job(job["id"])
    said.wait(is_said(f"event delete /jobs/{job['id']}"))
    events = [heard.data for heard in said.messages if heard.data["what"].endswith(f"/jobs/{job['id']}")]
    methods = [event["what"].split()[1] for event in events]
    assert methods[0] == "post" and methods[-1] == "delete"
    assert set(methods[1:-1]) == {"put"}
    told = [event["data"] for event in events[:-1]]
    for state in told:
        assert_adds_up(state)
        assert "requests" not in state
    # The SDK hands events to three threads, so neighbours may change places.
    assert max(state["doneCount"] for state in told) == 9
    assert all(event["code"] == 200 for event in events)


def test_a_plain_request_is_answered_to_the_view(stand: Stand, shell: Shell, said: Listener) -> None:
    mark = len(said.messages)
    shell.publish({"id": next(_ids), "method": "get", "resource": "/jobs"})
    told = said.wait(is_said("event get /jobs"), mark=mark).data
    assert told["code"] == 200
    assert isinstance(told["data"], list)


# The retained topics


def test_the_last_state_of_a_job_is_retained_until_it_is_removed(stand: Stand, macs: Fleet) -> None:
    job = stand.run_job({"destinations": MACS, "message": {"method": "post", "resource": "/x"}, "name": "kept"})
    topic = f"/puppetmaster/{stand.instance}/jobs/{job['id']}"
    # The topic follows the disk by a moment: when it has the last state, that is retained.
    told = stand.job_changes.wait(lambda heard: heard.topic == topic and heard.data["status"] == "resolved")
    assert told.data == job

    late = stand.listen(f"{topic}/#").wait()  # another subscription than the stand's own, to the same topic
    assert late.retained
    assert late.data == job

    stand.remove_job(job["id"])
    stand.job_changes.wait(lambda heard: heard.topic == topic and not heard.payload)
    nothing, marker = stand.listen(f"{topic}/#"), stand.listen("/marker")
    stand.publish("/marker", b"{}")
    marker.wait()
    assert not [heard for heard in nothing.messages if heard.retained and heard.payload]


def test_a_job_that_changes_often_is_told_about_ten_times_a_second(stand: Stand) -> None:
    fleet = stand.fleet("often", 300, latency="0-3")
    job = stand.run_job({"destinations": fleet.names, "message": {"method": "post", "resource": "/x"}})
    topic = f"/puppetmaster/{stand.instance}/jobs/{job['id']}"
    stand.job_changes.wait(lambda heard: heard.topic == topic and heard.data["status"] == "resolved")
    told = [heard for heard in stand.job_changes.messages if heard.topic == topic]
    seconds = told[-1].at - told[0].at
    assert len(told) <= 5 + 15 * seconds, f"{len(told)} messages in {seconds:.1f} s"
    assert len(told) >= 3
    done = [heard.data["doneCount"] for heard in told]
    assert done == sorted(done)
    for heard in told:
        assert_adds_up(heard.data)
    assert told[-1].data == job
