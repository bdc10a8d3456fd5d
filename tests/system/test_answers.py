"""Everything that a device can do with a request but answer it well at once: each over the real broker.

Where the moment matters, the test itself is the device; elsewhere it is the simulator.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from tests.system.stand import FINAL, PATIENCE, Document, Heard, Listener, Stand, assert_adds_up

RETRY = {"limit": 3, "delay": 0.05, "factor": 1, "jitter": 0}

_numbers = count(1)


class Device:
    """A device that does what the test says."""

    def __init__(self, stand: Stand, name: str = "") -> None:
        self.name = name or f"scripted-{next(_numbers)}"
        self._stand = stand
        self._requests = stand.listen(f"/remote/{self.name}")
        self._taken = 0

    @property
    def received(self) -> list[Document]:
        return [heard.data for heard in self._requests.messages]

    def next(self) -> Document:
        """The next request, in the order in which they came."""
        request: Document = self._requests.wait(mark=self._taken).data
        self._taken += 1
        return request

    def answer(self, request: Document, code: int, data: Any = None, *, topic: str | None = None) -> None:
        answer = {"id": request["id"], "code": code, "method": request["method"], "resource": request["resource"]}
        answer["sign"] = [self.name]
        if data is not None:
            answer["data"] = data
        self._stand.publish(topic or request["tunnel"], answer)


class Dropped:
    """The counts of dropped answers, as the bundle retains them on its presence topic."""

    def __init__(self, stand: Stand) -> None:
        self._stand = stand
        self._before = self.now()

    def now(self) -> Counter[str]:
        return Counter(self._stand.presence.messages[-1].data["dropped"])

    def wait(self, **expected: int) -> None:
        """Wait until as many were dropped since this was made, and see that no others were."""
        wanted = +Counter(expected)

        def reached(heard: Heard) -> bool:
            return Counter(heard.data["dropped"]) - self._before >= wanted

        told = self._stand.presence.wait(reached)
        assert Counter(told.data["dropped"]) - self._before == wanted
        assert told.data["connection"] == "online"


@pytest.fixture
def device(stand: Stand) -> Device:
    return Device(stand)


@pytest.fixture
def dropped(stand: Stand) -> Dropped:
    return Dropped(stand)


@pytest.fixture(scope="module", autouse=True)
def view(stand: Stand) -> Iterator[Listener]:
    """What a view hears of all jobs of this file; at the end every word of it has to add up."""
    name = {"name": "listening-view", "role": "view", "resources": ["/jobs/+"], "tunnel": "/listening-view"}
    code, data = stand.ask("post", "/controller/registration", name)
    assert code == 200
    listener = stand.listen(data["tunnel"])
    yield listener
    assert len(listener.messages) > 50
    for heard in listener.messages:
        assert heard.data["code"] == 200
        if heard.data["method"] != "delete":
            assert_adds_up(heard.data["data"])
    for heard in stand.job_changes.messages:
        if heard.payload:
            assert_adds_up(heard.data)


def simple(destinations: list[str] | str, **more: Any) -> Document:
    return {"destinations": destinations, "message": {"method": "post", "resource": "/system/reboot"}, **more}


def shown(stand: Stand, job: Document, number: int = 0) -> Document:
    """``__request`` of one request of a job, as GET shows it now."""
    inner: Document = stand.request(job["requests"][number])["__request"]
    return inner


def assert_recount(stand: Stand, job_id: int) -> Document:
    """The counters are what counting the requests gives."""
    job = stand.job(job_id, "limit=1000")
    assert_adds_up(job)
    found = Counter(request["__request"]["status"] for request in job["requests"])
    assert found == +Counter(job["counts"])
    assert job["progress"] == sum(request["__request"]["progress"] for request in job["requests"]) // job["totalCount"]
    return job


# On the wire


def test_a_device_gets_a_direct_message_with_the_tunnel_for_its_answer(stand: Stand, device: Device) -> None:
    data = {"delay": [1, None, "é", {"deep": True}]}
    message = {"method": "PUT", "resource": "/system/reboot?now=1", "data": data}
    job = stand.create_job({"destinations": device.name, "message": message})
    request = device.next()
    assert request == {
        "id": job["requests"][0],
        "method": "put",
        "resource": "/system/reboot?now=1",
        "data": data,
        "tunnel": f"/remote/{device.name}/answer/{stand.instance}",
    }
    device.answer(request, 200, {"answered": [1.5, "ü", None]})
    stand.wait_job(job["id"])
    assert shown(stand, job)["result"] == {"answered": [1.5, "ü", None]}


def test_a_message_without_data_has_none_on_the_wire(stand: Stand, device: Device) -> None:
    job = stand.create_job(simple(device.name))
    request = device.next()
    assert "data" not in request
    device.answer(request, 204)
    assert stand.wait_job(job["id"])["finishCount"] == 1
    assert (shown(stand, job)["code"], shown(stand, job)["result"]) == (204, None)


# Errors


def test_an_error_is_kept_with_its_code_resource_and_data(stand: Stand) -> None:
    fleet = stand.fleet("failing", 20, errors=1)
    job = stand.create_job(simple(fleet.names))
    ended = stand.wait_job(job["id"])
    assert (ended["status"], ended["errorCount"], ended["counts"]["error"]) == ("resolved", 20, 20)
    assert "20 of them" in ended["reason"]
    data = {"message": "the simulated work failed"}
    inner = shown(stand, job)
    assert (inner["status"], inner["code"], inner["attempt"]) == ("error", 500, 1)
    assert inner["result"] == {"code": 500, "resource": "/system/reboot", "data": data}
    assert_recount(stand, job["id"])
    assert len(stand.work(job)) == 20


@pytest.mark.parametrize("code", [100, 101, 199, 300, 302, 400, 403, 404, 500, 502, 999])
def test_a_code_that_is_neither_good_nor_transient_ends_a_request(stand: Stand, device: Device, code: int) -> None:
    job = stand.create_job(simple(device.name, retry=RETRY))
    device.answer(device.next(), code, {"message": "no"})
    ended = stand.wait_job(job["id"])
    assert (ended["counts"]["error"], len(device.received)) == (1, 1)
    assert shown(stand, job)["result"]["code"] == code


# Silence


def test_silence_ends_in_a_timeout(stand: Stand) -> None:
    fleet = stand.fleet("silent", 20, silence=1)
    job = stand.create_job({**simple(fleet.names), "requestTimeout": 0.5})
    ended = stand.wait_job(job["id"])
    assert (ended["status"], ended["counts"]["timeout"], ended["errorCount"]) == ("resolved", 20, 20)
    inner = shown(stand, job)
    assert (inner["status"], inner["code"], inner["result"]) == ("timeout", None, None)
    assert inner["sentAt"] < inner["finishedAt"]
    assert "0.5 s" in inner["reason"]
    assert_recount(stand, job["id"])
    assert stand.work(job) == []


def test_the_answer_to_an_earlier_attempt_is_as_good_as_any(stand: Stand, device: Device) -> None:
    retry = {"limit": 5, "delay": 60, "maxDelay": 60, "jitter": 0, "on": ["timeout"]}
    job = stand.create_job({**simple(device.name, retry=retry), "requestTimeout": 0.3})
    request = device.next()
    stand.wait_job(job["id"], lambda job: job["counts"]["created"] == 1)  # the first attempt is over
    device.answer(request, 200, {"late": "but good"})
    ended = stand.wait_job(job["id"])
    assert ended["finishCount"] == 1
    assert (shown(stand, job)["attempt"], shown(stand, job)["result"]) == (1, {"late": "but good"})


# Transient answers


def test_a_locked_device_is_tried_again_and_works_once(stand: Stand) -> None:
    fleet = stand.fleet("locked", 30, locked=1)
    job = stand.create_job(simple(fleet.names, retry=RETRY))
    ended = stand.wait_job(job["id"])
    assert (ended["finishCount"], ended["errorCount"]) == (30, 0)
    for request in assert_recount(stand, job["id"])["requests"]:
        assert (request["__request"]["attempt"], request["__request"]["code"]) == (2, 200)
    assert Counter(record["device"] for record in stand.work(job)) == dict.fromkeys(fleet.names, 1)


@pytest.mark.parametrize(
    ("code", "message"),
    [(408, ""), (423, "resource is locked"), (429, "slow down"), (503, "")],
)
def test_a_transient_answer_is_tried_again_with_the_same_id(
    stand: Stand, device: Device, code: int, message: str
) -> None:
    job = stand.create_job(simple(device.name, retry=RETRY))
    first = device.next()
    device.answer(first, code, {"message": message})
    second = device.next()
    assert second == first
    device.answer(second, 200)
    assert stand.wait_job(job["id"])["finishCount"] == 1
    assert shown(stand, job)["attempt"] == 2


def test_a_request_that_is_in_flight_already_is_asked_for_again_without_another_attempt(
    stand: Stand, device: Device
) -> None:
    job = stand.create_job(simple(device.name, retry={"limit": 0}))
    first = device.next()
    device.answer(first, 403, {"message": "'id' was used"})
    assert device.next() == first
    device.answer(first, 200)
    assert stand.wait_job(job["id"])["finishCount"] == 1
    assert shown(stand, job)["attempt"] == 1


def test_a_device_that_stays_locked_ends_in_an_error(stand: Stand, device: Device) -> None:
    job = stand.create_job(simple(device.name, retry={**RETRY, "limit": 2}))
    for _ in range(3):
        device.answer(device.next(), 423, {"message": "resource is locked"})
    ended = stand.wait_job(job["id"])
    assert ended["counts"]["error"] == 1
    inner = shown(stand, job)
    assert (inner["code"], inner["attempt"]) == (423, 3)
    assert len(device.received) == 3


# Progress


def test_progress_is_seen_in_the_request_and_in_the_job(stand: Stand, device: Device) -> None:
    other = Device(stand)
    job = stand.create_job(simple([device.name, other.name]))
    request = device.next()
    for reported, expected in ((30, 30), (80, 80), (None, 80), (250, 99), (-5, 0), (55.5, 55)):
        device.answer(request, 102, None if reported is None else {"progress": reported})
        stand.wait_job(
            job["id"], lambda job, half=expected // 2: job["counts"]["running"] == 1 and job["progress"] == half
        )
        inner = shown(stand, job)
        assert (inner["status"], inner["progress"], inner["finishedAt"]) == ("running", expected, None)
        assert_recount(stand, job["id"])
    device.answer(request, 200, {"done": True})
    half = stand.wait_job(job["id"], lambda job: job["finishCount"] == 1)
    assert (half["status"], half["progress"], half["counts"]["running"]) == ("dispatching", 50, 0)
    other.answer(other.next(), 200)
    assert stand.wait_job(job["id"])["progress"] == 100


def test_progress_of_simulated_devices_is_told_as_it_comes(stand: Stand) -> None:
    fleet = stand.fleet("reporting", 20, progress=1, latency="1")
    job = stand.create_job(simple(fleet.names))
    stand.wait_job(job["id"], lambda job: job["counts"]["running"] > 0 and job["progress"] > 0)
    ended = stand.wait_job(job["id"])
    assert ended["finishCount"] == 20
    topic = f"/puppetmaster/{stand.instance}/jobs/{job['id']}"
    told = [heard.data["progress"] for heard in stand.job_changes.messages if heard.topic == topic]
    assert told == sorted(told)
    assert any(0 < progress < 100 for progress in told)


def test_progress_does_not_hold_up_a_timeout_for_ever(stand: Stand, device: Device) -> None:
    job = stand.create_job({**simple(device.name), "requestTimeout": 1})
    request = device.next()
    device.answer(request, 102, {"progress": 50})
    assert stand.wait_job(job["id"])["counts"]["timeout"] == 1
    assert shown(stand, job)["progress"] == 100


# Answers that change nothing


def test_answers_that_come_twice_are_counted_and_change_nothing(stand: Stand) -> None:
    before = Dropped(stand).now()
    fleet = stand.fleet("twice", 40, duplicates=1)
    job = stand.create_job(simple(fleet.names))
    ended = stand.wait_job(job["id"])
    assert (ended["finishCount"], ended["doneCount"]) == (40, 40)

    def all_counted(heard: Heard) -> bool:
        new = Counter(heard.data["dropped"]) - before
        return new["duplicate"] + new["late"] == 40  # late, when its job has ended with the first of the two

    stand.presence.wait(all_counted)
    assert assert_recount(stand, job["id"])["finishCount"] == 40


def test_a_second_answer_never_replaces_the_first(stand: Stand, device: Device, dropped: Dropped) -> None:
    other = Device(stand)
    job = stand.create_job(simple([device.name, other.name]))
    request = device.next()
    device.answer(request, 200, {"answer": 1})
    for code in (200, 500, 423, 102):
        device.answer(request, code, {"answer": 2, "progress": 10})
    dropped.wait(duplicate=4)
    inner = shown(stand, job)
    assert (inner["status"], inner["result"], inner["progress"]) == ("resolved", {"answer": 1}, 100)
    assert len(device.received) == 1
    other.answer(other.next(), 200)
    assert stand.wait_job(job["id"])["finishCount"] == 2


def test_an_answer_after_the_timeout_is_late(stand: Stand, device: Device, dropped: Dropped) -> None:
    batch = [
        {"method": "post", "resource": "/x", "__request": {"destination": device.name, "timeout": 0.3}},
        {"method": "post", "resource": "/x", "__request": {"destination": "nobody"}},
    ]
    job = stand.create_job({"batch": batch})
    request = device.next()
    stand.wait_job(job["id"], lambda job: job["counts"]["timeout"] == 1)
    device.answer(request, 200, {"too": "late"})
    dropped.wait(late=1)
    assert (shown(stand, job)["status"], shown(stand, job)["result"]) == ("timeout", None)
    stand.update_job(job["id"], status="canceled")
    device.answer(request, 200, {"even": "later"})
    dropped.wait(late=2)
    assert_recount(stand, job["id"])


def test_an_answer_after_a_cancel_is_late_and_after_a_removal_unknown(
    stand: Stand, device: Device, dropped: Dropped
) -> None:
    job = stand.create_job(simple(device.name))
    request = device.next()
    stand.cancel_request(job["requests"][0])
    device.answer(request, 200)
    dropped.wait(late=1)
    assert assert_recount(stand, job["id"])["counts"]["canceled"] == 1
    stand.remove_job(job["id"])
    device.answer(request, 200)
    dropped.wait(late=1, unknown=1)
    assert stand.ask("get", f"/jobs/{job['id']}")[0] == 404


def test_an_answer_from_another_device_counts_for_nothing(stand: Stand, device: Device, dropped: Dropped) -> None:
    liar = Device(stand)
    job = stand.create_job(simple([device.name, liar.name]))
    request, own = device.next(), liar.next()
    liar.answer(request, 200, {"a": "lie"}, topic=own["tunnel"])
    liar.answer(request, 500, {"a": "lie"}, topic=own["tunnel"])
    liar.answer(request, 102, {"progress": 90}, topic=own["tunnel"])
    liar.answer(request, 200, {"a": "lie"}, topic=f"/remote/not-even-asked/answer/{stand.instance}")
    dropped.wait(foreign=4)
    assert (shown(stand, job)["status"], shown(stand, job)["progress"]) == ("sent", 0)
    device.answer(request, 200, {"the": "truth"})
    liar.answer(own, 200)
    stand.wait_job(job["id"])
    assert shown(stand, job)["result"] == {"the": "truth"}


def test_an_answer_to_an_id_that_nobody_has_is_unknown(stand: Stand, device: Device, dropped: Dropped) -> None:
    job = stand.create_job(simple(device.name))
    request = device.next()
    idents = [0, -1, 1, 999_999, 2**31, 2**63, 10**18, job["requests"][0] + 1_000_000, job["id"]]
    for ident in idents:
        device.answer({**request, "id": ident}, 200)
    dropped.wait(unknown=len(idents))
    assert shown(stand, job)["status"] == "sent"
    device.answer(request, 200)
    assert stand.wait_job(job["id"])["finishCount"] == 1


def test_an_answer_to_a_request_that_was_not_sent_yet_is_unknown(
    stand: Stand, device: Device, dropped: Dropped
) -> None:
    waiting = Device(stand)
    job = stand.create_job(simple([device.name, waiting.name], concurrency=1))
    request = device.next()
    tunnel = f"/remote/{waiting.name}/answer/{stand.instance}"
    waiting.answer({**request, "id": job["requests"][1]}, 200, {"guessed": True}, topic=tunnel)
    dropped.wait(unknown=1)
    assert shown(stand, job, 1)["status"] == "created"
    device.answer(request, 200)
    waiting.answer(waiting.next(), 200)
    assert stand.wait_job(job["id"])["finishCount"] == 2
    assert shown(stand, job, 1)["result"] is None


def test_what_is_no_answer_is_malformed(stand: Stand, device: Device, dropped: Dropped) -> None:
    job = stand.create_job(simple(device.name))
    request = device.next()
    good = {"id": request["id"], "code": 200, "method": "post", "resource": "/system/reboot", "sign": ["x"]}
    documents: list[Any] = [
        *({name: value for name, value in good.items() if name != missing} for missing in ("id", "code")),
        *(
            {**good, "id": ident}
            for ident in (None, "1", str(request["id"]), True, float(request["id"]), [], {}, 1e300)
        ),
        *({**good, "code": code} for code in (None, "200", True, 200.0, 0, 99, 1000, -200, 10**30, [200], {})),
        *([], [good], "text", 5, None, True),
        {**good, "data": json.loads("[" * 120 + "]" * 120)},
    ]
    raw = [b"", b"\xff\xfe", b"{", b"nonsense", b'{"id": 1, "code": NaN}', b"\x00" * 50, b"[" * 5000]
    payloads = [*(json.dumps(document).encode() for document in documents), *raw]
    for payload in payloads:
        stand.publish(request["tunnel"], payload)
    dropped.wait(malformed=len(payloads))
    assert shown(stand, job)["status"] == "sent"
    device.answer(request, 200)
    assert stand.wait_job(job["id"])["finishCount"] == 1


def test_a_retained_answer_is_no_second_one_after_a_restart(tmp_path_factory: pytest.TempPathFactory) -> None:
    with Stand(tmp_path_factory.mktemp("retained")) as stand:
        device = Device(stand)
        job = stand.create_job(simple([device.name, "nobody"]))
        request = device.next()
        answer = {"id": request["id"], "code": 200, "method": "post", "resource": "/x", "sign": ["x"], "data": 1}
        stand.publish(request["tunnel"], answer, retain=True)
        stand.wait_job(job["id"], lambda job: job["finishCount"] == 1)
        stand.bundle.restart(kill=True)
        stand.presence.wait(lambda heard: heard.data.get("dropped", {}).get("duplicate") == 1)
        assert assert_recount(stand, job["id"])["finishCount"] == 1


# Large answers


def test_an_answer_that_is_too_large_is_an_error_and_stops_nothing(stand: Stand, device: Device) -> None:
    job = stand.create_job(simple(device.name))
    device.answer(device.next(), 200, "x" * 600_000)
    ended = stand.wait_job(job["id"])
    assert ended["counts"]["error"] == 1
    inner = shown(stand, job)
    assert (inner["code"], inner["result"]["code"]) == (413, 413)
    assert "600" in inner["result"]["data"]["message"]


def test_large_answers_are_read_page_by_page(stand: Stand) -> None:
    devices = [Device(stand) for _ in range(3)]
    job = stand.create_job(simple([device.name for device in devices]))
    for device in devices:
        device.answer(device.next(), 200, device.name[-1] * 400_000)
    assert stand.wait_job(job["id"])["finishCount"] == 3
    code, data = stand.ask("get", f"/jobs/{job['id']}")
    assert code == 413 and "limit=" in data["message"]
    for number, device in enumerate(devices):
        page = stand.job(job["id"], f"limit=1&offset={number}")["requests"]
        assert page[0]["__request"]["result"] == device.name[-1] * 400_000


# All of it at once


def test_the_counters_add_up_at_every_moment(stand: Stand) -> None:
    fleet = stand.fleet(
        "mixed", 150, latency="0-0.5", errors=0.2, silence=0.2, locked=0.3, progress=0.5, duplicates=0.3, lost=0.1,
        seed=11,
    )  # fmt: skip
    retry = {"limit": 4, "delay": 0.1, "on": ["timeout", 423]}
    message = {"method": "post", "resource": "/x"}
    batch = [{**message, "__request": {"destination": fleet.names}} for _ in range(2)]
    job_id = stand.create_job({"batch": batch, "requestTimeout": 0.7, "retry": retry, "concurrency": 60})["id"]
    seen, done = 0, 0
    while True:
        job = assert_recount(stand, job_id)
        assert job["doneCount"] >= done
        assert job["counts"]["sent"] + job["counts"]["running"] <= 60
        done, seen = job["doneCount"], seen + 1
        if job["status"] in FINAL:
            break
    assert seen > 3
    assert job["status"] == "resolved"
    assert job["totalCount"] == job["doneCount"] == 300
    assert min(job["finishCount"], job["counts"]["error"]) > 0
    work = Counter(record["id"] for record in fleet.work())
    assert set(work.values()) == {1}
    for request in job["requests"]:
        if request["__request"]["status"] in ("resolved", "error"):
            assert work[request["id"]] == 1
    fleet.stop()
    counts = fleet.counts()
    for name in ("silent", "locked", "progress", "duplicates", "lost", "errors", "repeated"):
        assert counts[name] > 0, name


def test_presence_tells_of_the_bundle_and_of_what_it_dropped(stand: Stand) -> None:
    told = stand.listen(f"/puppetmaster/{stand.instance}/presence/#").wait(timeout=PATIENCE)
    assert told.retained
    assert told.data["connection"] == "online"
    assert {"late", "duplicate", "unknown", "foreign", "malformed"} == set(told.data["dropped"])
    assert all(number > 0 for number in told.data["dropped"].values())
