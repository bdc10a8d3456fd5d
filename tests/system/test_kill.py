"""Bundle, controller and broker are killed, stopped, starved and frozen: nothing is lost, nothing is done twice."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tinydb import TinyDB

from puppetmaster.embedded.broker import find_mosquitto
from tests.system.stand import PATIENCE, REPOSITORY, STOP_TIMEOUT, Document, Fleet, NoAnswer, Stand, assert_adds_up

pytestmark = pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")

QUICK = ["set_tcp_nodelay true"]
"""Lines for a broker that answers at once; all else is at its defaults."""

PATIENT = {"limit": 50, "delay": 0.2, "maxDelay": 1, "on": [408, 423, 429, 503, "timeout"]}
"""Tries again what a part that is away has lost. The devices remember what they did."""

MESSAGE = {"method": "post", "resource": "/system/reboot", "data": {"delay": 1}}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with Stand(tmp_path_factory.mktemp("stand"), broker_extra=QUICK) as running:
        yield running


@pytest.fixture
def stand(shared: Stand) -> Stand:
    """One for many tests, well again whatever the one before has left."""
    for part in (shared.broker, shared.controller, shared.bundle):
        if not part.running:
            part.start()
    shared.ready()
    return shared


@pytest.fixture
def fleet(stand: Stand) -> Fleet:
    return stand.fleets.get("dev") or stand.fleet("dev", 400, latency="0.05-0.3")


def job_for(fleet: Fleet, **more: Any) -> Document:
    return {"destinations": fleet.names, "message": MESSAGE, **more}


def done(stand: Stand, job: Document) -> int:
    """How far a job is by the last that was told of it."""
    topic = f"/puppetmaster/{stand.instance}/jobs/{job['id']}"
    told = [heard for heard in list(stand.job_changes.messages) if heard.topic == topic and heard.payload]
    return int(told[-1].data["doneCount"]) if told else 0


def wait_done(stand: Stand, job: Document, count: int) -> int:
    """Wait until so many of a job's requests have ended; how many it were then."""
    topic = f"/puppetmaster/{stand.instance}/jobs/{job['id']}"
    mark = len(stand.job_changes.messages)
    if done(stand, job) < count:
        stand.job_changes.wait(
            lambda heard: heard.topic == topic and heard.payload and heard.data["doneCount"] >= count, mark=mark
        )
    return done(stand, job)


def assert_nothing_lost(stand: Stand, job: Document) -> None:
    """All of a job's requests resolved, and each device worked once for each of them."""
    ended = stand.wait_job(job["id"])
    assert ended["counts"]["resolved"] == ended["totalCount"] == job["totalCount"], ended
    assert ended["status"] == "resolved"
    assert_adds_up(ended)
    requests = stand.requests(job["id"])
    assert [request["id"] for request in requests] == job["requests"]
    assert {request["__request"]["status"] for request in requests} == {"resolved"}
    worked = Counter(record["id"] for record in stand.work(job))
    assert worked == Counter(dict.fromkeys(job["requests"], 1)), worked.most_common(5)
    by_id = {request["id"]: request["__request"]["destination"] for request in requests}
    assert all(by_id[record["id"]] == record["device"] for record in stand.work(job))


def restart_broker(stand: Stand, *, kill: bool = False) -> None:
    """Restart it, and wait until the bundle has registered again: it does so after each new connection."""
    registered = stand.bundle.log().count("registered at the controller")
    stand.broker.restart(kill=kill)
    until(lambda: stand.bundle.log().count("registered at the controller") > registered)


def until(predicate: Any, timeout: float = PATIENCE) -> None:
    """Look again and again: for what no message tells of."""
    deadline = time.monotonic() + timeout
    while not predicate():
        if time.monotonic() > deadline:
            raise NoAnswer(f"it did not come about within {timeout:g} s")
        time.sleep(0.02)


# kill -9


def test_a_bundle_that_is_killed_ten_times_loses_no_request_and_does_none_twice(tmp_path: Path) -> None:
    chance = random.Random(19)
    with Stand(tmp_path, broker_extra=QUICK, window=200) as stand:
        fleet = stand.fleet("dev", 2000, latency="0.01-0.2")
        job = stand.create_job(job_for(fleet, rate={"perMinute": 36_000}))
        moments = sorted(chance.sample(range(20, 1900), 10))
        alive = []
        for moment in moments:
            wait_done(stand, job, moment)
            stand.bundle.kill()
            alive.append(len(stand.work(job)))
            stand.bundle.start()
            now = stand.job(job["id"], "limit=0")
            assert sum(now["counts"].values()) == 2000 and now["doneCount"] >= moment
        assert alive[0] < 2000, "the job was over before the first kill"
        assert_nothing_lost(stand, job)
        assert stand.bundle.log().count("jobs in the store") == 11
        assert "damaged" not in stand.bundle.log() and "Traceback" not in stand.bundle.log()


def test_a_bundle_that_is_killed_at_any_moment_of_its_first_second_opens_its_store_again(
    stand: Stand, fleet: Fleet
) -> None:
    chance = random.Random(7)
    job = stand.create_job(job_for(fleet))
    for _ in range(5):
        stand.bundle.kill()
        lines = stand.bundle.log().count("\n") + chance.randrange(1, 8)
        stand.bundle.start(wait=False)
        with contextlib.suppress(NoAnswer):  # its log tells how far it is
            until(lambda lines=lines: stand.bundle.log().count("\n") >= lines, 3.0)
    stand.bundle.kill()
    stand.bundle.start()
    assert_nothing_lost(stand, job)


def test_answers_that_were_taken_while_the_bundle_dies_and_while_it_is_away_are_applied_once(stand: Stand) -> None:
    tunnels = stand.listen("/remote/+")
    names = [f"hand-{number}" for number in range(60)]
    job = stand.create_job({"destinations": names, "message": MESSAGE})
    asked = [heard.data for heard in tunnels.wait_until(lambda heard: len(heard) == 60)]
    stand.wait_job(job["id"], lambda job: job["counts"]["sent"] == 60)

    def answer(request: Document) -> None:
        message = {
            "id": request["id"],
            "code": 200,
            "method": "post",
            "resource": "/x",
            "sign": ["d"],
            "data": request["id"],
        }
        stand.publish(request["tunnel"], message, wait=False)

    for request in asked[:30]:
        answer(request)
    stand.bundle.kill()
    for request in asked[20:50]:
        answer(request)
    stand.publish("/remote/nobody", b"")  # the broker has them all
    stand.bundle.start()
    stand.wait_job(job["id"], lambda job: job["counts"]["resolved"] >= 50)
    for request in asked[50:]:
        answer(request)
    ended = stand.wait_job(job["id"])
    assert ended["finishCount"] == 60
    assert_adds_up(ended)
    results = {request["id"]: request["__request"]["result"] for request in stand.requests(job["id"])}
    assert results == {ident: ident for ident in job["requests"]}


def test_what_was_answered_to_a_caller_is_there_after_a_kill(stand: Stand) -> None:
    for number in range(5):
        job = stand.create_job(
            {"destinations": ["a", "b"], "message": MESSAGE, "name": f"job {number}", "key": f"k{number}"}
        )
        stand.update_job(job["id"], status="paused", priority=number)
        stand.bundle.kill()
        stand.bundle.start()
        again = stand.job(job["id"])
        assert (again["status"], again["priority"], again["name"]) == ("paused", number, f"job {number}")
        same = {"destinations": ["a", "b"], "message": MESSAGE, "name": f"job {number}", "key": f"k{number}"}
        assert stand.create_job(same)["id"] == job["id"]


def test_ids_of_removed_jobs_never_come_back(stand: Stand) -> None:
    seen: list[int] = []
    for restart in (stand.bundle.kill, stand.bundle.stop, stand.bundle.kill):
        job = stand.create_job({"destinations": ["a", "b", "c"], "message": MESSAGE})
        stand.remove_job(job["id"])
        mine = [job["id"], *job["requests"]]
        assert min(mine) > max(seen, default=0)
        seen += mine
        restart()
        stand.bundle.start()
        assert job["id"] not in [found["id"] for found in stand.ask("get", "/jobs?limit=1000")[1]]
        assert stand.ask("get", f"/jobs/{job['id']}")[0] == 404
    last = stand.create_job({"destinations": "a", "message": MESSAGE})
    assert last["id"] > max(seen)
    retained = stand.listen(f"/puppetmaster/{stand.instance}/jobs/+")
    retained.wait(lambda heard: heard.topic.endswith(str(last["id"])))
    kept = {int(heard.topic.rpartition("/")[2]) for heard in retained.messages if heard.payload}
    assert last["id"] in kept and not kept & set(seen)


def test_stock_tinydb_opens_what_a_killed_and_a_stopped_bundle_leave(stand: Stand) -> None:
    job = stand.create_job({"destinations": ["a", "b"], "message": MESSAGE})
    stand.bundle.kill()
    TinyDB(stand.data / "puppetmaster.json", access_mode="r").close()
    stand.bundle.start()
    stand.bundle.stop()
    with TinyDB(stand.data / "puppetmaster.json", access_mode="r") as stored:
        assert stored.table("jobs").get(doc_id=job["id"])["totalCount"] == 2
        assert all(stored.table("requests").get(doc_id=ident)["job"] == job["id"] for ident in job["requests"])


# Restarts in the middle of a job


@pytest.mark.parametrize("end", ["TERM", "KILL"])
def test_a_bundle_that_is_restarted_in_the_middle_of_a_job_ends_it(stand: Stand, fleet: Fleet, end: str) -> None:
    job = stand.create_job(job_for(fleet, concurrency=50))
    wait_done(stand, job, 100)
    stand.bundle.restart(kill=end == "KILL")
    assert_nothing_lost(stand, job)


@pytest.mark.parametrize("end", ["TERM", "KILL"])
def test_a_controller_that_is_restarted_in_the_middle_of_a_job_disturbs_nothing(
    stand: Stand, fleet: Fleet, end: str
) -> None:
    job = stand.create_job(job_for(fleet, concurrency=50))
    wait_done(stand, job, 100)
    assert_registers_again(stand, kill=end == "KILL")
    assert_nothing_lost(stand, job)


def assert_registers_again(stand: Stand, *, kill: bool) -> None:
    """The controller restarts; the bundle notices by itself."""
    registered, begun = stand.bundle.log().count("registered at the controller"), time.monotonic()
    stand.controller.restart(kill=kill)
    stand.until_answered(stand.bundle, "/jobs?limit=0", lambda code: code == 200)
    assert time.monotonic() - begun < 30, "it took longer than what is promised"
    assert stand.bundle.log().count("registered at the controller") == registered + 1


def test_a_view_that_registers_again_hears_of_jobs_again_after_the_controller_restarted(stand: Stand) -> None:
    for life in range(2):
        # Registering again is the view's own duty: the stock SDK does it when it connects.
        view = {"name": "watcher", "role": "view", "tunnel": "x", "resources": ["/jobs", "/jobs/+"], "ttl": 10}
        code, answer = stand.ask("post", "/controller/registration", view)
        assert code == 200
        events = stand.listen(answer["tunnel"])
        job = stand.create_job({"destinations": f"dev-{life}", "message": MESSAGE})
        stand.remove_job(job["id"])
        resource = f"/jobs/{job['id']}"
        is_end = {"code": 200, "method": "delete", "resource": resource, "data": {"id": job["id"]}}
        events.wait(lambda heard, is_end=is_end: heard.data == is_end)
        methods = [heard.data["method"] for heard in events.messages if heard.data["resource"] == resource]
        assert methods[-1] == "delete"
        if life == 0:
            assert_registers_again(stand, kill=True)


def test_a_broker_that_is_stopped_in_the_middle_of_a_job_loses_nothing(tmp_path: Path) -> None:
    with Stand(tmp_path, broker_extra=QUICK, persistence=True) as stand:
        fleet = stand.fleet("dev", 400, latency="0.05-0.3")
        job = stand.create_job(job_for(fleet, concurrency=50, requestTimeout=4, retry=PATIENT))
        wait_done(stand, job, 100)
        restart_broker(stand)
        assert_nothing_lost(stand, job)
        stand.ready()


def test_a_broker_that_is_killed_in_the_middle_of_a_job_and_forgets_all_loses_nothing(
    stand: Stand, fleet: Fleet
) -> None:
    job = stand.create_job(job_for(fleet, concurrency=50, requestTimeout=4, retry=PATIENT))
    for count in (80, 200):
        wait_done(stand, job, count)
        restart_broker(stand, kill=True)
    assert_nothing_lost(stand, job)
    assert "lost our session" in stand.bundle.log()
    assert json.loads(stand.presence.messages[-1].payload)["connection"] == "online"


def test_all_three_die_at_once_and_the_job_ends(stand: Stand, fleet: Fleet) -> None:
    job = stand.create_job(job_for(fleet, concurrency=50, requestTimeout=4, retry=PATIENT))
    wait_done(stand, job, 60)
    for part in (stand.bundle, stand.broker, stand.controller):
        part.kill()
    # In the wrong order, too: each waits for the others.
    stand.bundle.start(wait=False)
    stand.controller.start(wait=False)
    stand.broker.start()
    stand.ready()
    assert_nothing_lost(stand, job)


# Starting and stopping


def test_a_bundle_waits_for_a_broker_and_a_controller_that_are_not_there_yet(tmp_path: Path) -> None:
    with Stand(tmp_path, broker_extra=QUICK, start=False) as stand:
        stand.start_broker()
        stand.broker.kill()
        stand.bundle.start(wait=False)
        until(lambda: "no connection to the broker" in stand.bundle.log() and "broker at" in stand.bundle.log())
        stand.broker.start()
        stand.presence.wait(lambda heard: heard.data["connection"] == "online")
        stand.controller.start()
        stand.ready()
        fleet = stand.fleet("dev", 10)
        assert_nothing_lost(stand, stand.create_job(job_for(fleet)))


def test_a_job_that_was_stored_goes_on_when_the_broker_comes_after_the_bundle(stand: Stand) -> None:
    fleet = stand.fleet("late", 20, start=False)
    job = stand.create_job(job_for(fleet, requestTimeout=5, retry=PATIENT))
    stand.update_job(job["id"], status="paused")
    stand.bundle.kill()
    stand.broker.kill()
    loaded = stand.bundle.log().count("jobs in the store")
    stand.bundle.start(wait=False)
    until(lambda: stand.bundle.log().count("jobs in the store") > loaded)
    stand.broker.start()
    stand.ready()
    # Before the devices are there: what is out to them is sent again as they come, and may be all that was left.
    stand.update_job(job["id"], status="dispatching")
    fleet.start()
    assert_nothing_lost(stand, job)


def test_sigterm_is_a_clean_goodbye(stand: Stand) -> None:
    job = stand.create_job({"destinations": "absent", "message": MESSAGE})
    stand.wait_job(job["id"], lambda job: job["counts"]["sent"] == 1)
    mark, begun = len(stand.presence.messages), time.monotonic()
    stand.bundle.stop()
    assert time.monotonic() - begun < STOP_TIMEOUT
    assert stand.bundle.returncode == 0
    assert stand.presence.wait(mark=mark).data["connection"] == "offline"
    assert stand.ask("get", "/jobs", timeout=5)[0] == 404  # at once, not after the ttl
    stand.bundle.start()
    assert stand.job(job["id"])["counts"]["sent"] == 1


def test_a_kill_is_told_by_the_broker(stand: Stand) -> None:
    mark = len(stand.presence.messages)
    stand.bundle.kill()
    assert stand.presence.wait(mark=mark).data["connection"] == "offline"


@pytest.mark.parametrize(("absent", "number"), [("broker", signal.SIGTERM), ("controller", signal.SIGINT)])
def test_a_bundle_whose_broker_or_controller_is_away_stops_when_told(
    stand: Stand, absent: str, number: signal.Signals
) -> None:
    getattr(stand, absent).kill()
    begun = time.monotonic()
    stand.bundle.signal(number)
    until(lambda: not stand.bundle.running, STOP_TIMEOUT)
    assert time.monotonic() - begun < STOP_TIMEOUT
    assert stand.bundle.returncode == 0


def test_a_second_bundle_on_the_same_data_is_refused(stand: Stand) -> None:
    second = subprocess.run(
        [sys.executable, str(REPOSITORY / "index.py")], env=stand.bundle.env, capture_output=True, text=True, timeout=60
    )
    assert second.returncode == 1
    assert f"is in use by process {stand.bundle.pid}; one puppetmaster per data folder" in second.stderr
    assert "Traceback" not in second.stderr
    assert stand.ask("get", "/jobs")[0] == 200
    stand.bundle.kill()
    stand.bundle.start()  # the lock of who was killed holds nobody up


# Frozen


def test_a_bundle_that_is_frozen_for_longer_than_its_deadlines_goes_on(stand: Stand, fleet: Fleet) -> None:
    job = stand.create_job(job_for(fleet, concurrency=40, requestTimeout=2, retry=PATIENT))
    wait_done(stand, job, 60)
    for _ in range(2):
        stand.bundle.signal(signal.SIGSTOP)
        frozen = time.monotonic()
        until(lambda frozen=frozen: time.monotonic() - frozen > 3.0)
        stand.bundle.signal(signal.SIGCONT)
        assert stand.ask("get", "/jobs?limit=0", timeout=30)[0] == 200
    assert_nothing_lost(stand, job)


# Disk full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of 2 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small file system can't be mounted: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all the space that is left."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (65536, 4096, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size) == size:
                    pass
    return filler


def test_a_full_disk_refuses_new_jobs_and_serves_reads_until_there_is_space(tmp_path: Path, small_disk: Path) -> None:
    with Stand(tmp_path / "stand", broker_extra=QUICK, data=small_disk) as stand:
        fleet = stand.fleet("dev", 100, latency="0.01")
        done_before = stand.run_job(job_for(fleet))
        out = stand.create_job({"destinations": ["late-1", "late-2"], "message": MESSAGE})
        tunnels = stand.listen("/remote/+")
        stand.wait_job(out["id"], lambda job: job["counts"]["sent"] == 2)
        before = [job["id"] for job in stand.ask("get", "/jobs")[1]]
        filler = fill(small_disk)
        for _ in range(5):
            code, refusal = stand.ask("post", "/jobs", {**job_for(fleet), "name": "x" * 128})
            assert code == 503, refusal
            assert "No space left" in refusal["message"]
            code, refusal = stand.ask("post", "/requests", {"destination": "dev-0001", "message": MESSAGE})
            assert (code, "No space left" in refusal["message"]) == (503, True)
            assert stand.ask("get", "/jobs")[0] == 200
            assert stand.job(done_before["id"])["finishCount"] == 100
            assert [job["id"] for job in stand.ask("get", "/jobs")[1]] == before
        assert stand.bundle.log().count("the store can't write") <= 3, "it says so at every attempt"
        assert "No space left" in stand.bundle.log()
        # An answer that comes meanwhile waits at the broker, or in memory; it is not lost.
        ident = out["requests"][0]
        answer = {"id": ident, "code": 200, "method": "post", "resource": "/x", "sign": ["late-1"], "data": "late"}
        stand.publish(f"/remote/late-1/answer/{stand.instance}", answer)
        filler.unlink()
        stand.wait_job(out["id"], lambda job: job["counts"]["resolved"] == 1)
        until(lambda: "the store can write again" in stand.bundle.log())
        assert {heard.data["id"] for heard in tunnels.messages} == set()  # nothing that was refused was sent
        new = stand.create_job(job_for(fleet))
        assert_nothing_lost(stand, new)
        stand.bundle.restart(kill=True)
        assert [job["id"] for job in stand.ask("get", "/jobs")[1]] == [new["id"], *before]
        assert stand.ask("get", f"/requests/{ident}")[1]["__request"]["result"] == "late"


def test_a_data_folder_that_is_removed_takes_no_job_along_and_is_filled_again(tmp_path: Path) -> None:
    with Stand(tmp_path, broker_extra=QUICK) as stand:
        fleet = stand.fleet("dev", 10)
        job = stand.run_job(job_for(fleet))
        shutil.rmtree(stand.data)
        for _ in range(2):
            code, refusal = stand.ask("post", "/jobs", job_for(fleet))
            assert (code, "the data folder was removed" in refusal["message"]) == (503, True), refusal
        assert stand.job(job["id"])["finishCount"] == 10
        stand.data.mkdir()
        until(lambda: "the store can write again" in stand.bundle.log())
        new = stand.run_job(job_for(fleet))
        stand.bundle.restart(kill=True)
        assert [found["id"] for found in stand.ask("get", "/jobs")[1]] == [new["id"], job["id"]]
        assert stand.job(new["id"])["finishCount"] == 10


def test_a_bundle_on_a_folder_that_can_not_be_written_says_so_and_ends(tmp_path: Path, small_disk: Path) -> None:
    env = {**os.environ, "PUPPETMASTER_BROKER": "mqtt://127.0.0.1:1", "PUPPETMASTER_DATA": str(small_disk / "data")}
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    command = [sys.executable, str(REPOSITORY / "index.py")]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 1
    assert "can't run: the store can't write: Read-only file system" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_bundle_starts_on_a_full_disk_and_serves_what_it_has(tmp_path: Path, small_disk: Path) -> None:
    with Stand(tmp_path / "stand", broker_extra=QUICK, data=small_disk) as stand:
        fleet = stand.fleet("dev", 10)
        job = stand.run_job(job_for(fleet))
        stand.bundle.kill()
        filler = fill(small_disk)
        stand.bundle.start()
        assert stand.job(job["id"])["finishCount"] == 10
        # A full disk has room in the last page of a file: a job of 10 requests (2 KB) may fit what is left of the
        # journal's, and is on disk then, and rightly answered 200. This one is larger than any page.
        large = {**job_for(fleet), "message": {**MESSAGE, "data": "x" * 2 * os.sysconf("SC_PAGE_SIZE")}}
        code, refusal = stand.ask("post", "/jobs", large)
        assert (code, "No space left" in refusal["message"]) == (503, True), refusal
        # From now on it is known, and nothing is tried any more, whatever its size.
        assert stand.ask("post", "/jobs", job_for(fleet))[0] == 503
        assert stand.ask("delete", f"/jobs/{job['id']}")[0] == 503
        assert stand.job(job["id"])["finishCount"] == 10
        filler.unlink()
        until(lambda: stand.ask("post", "/jobs", job_for(fleet))[0] == 200)
        assert os.listdir(small_disk)
