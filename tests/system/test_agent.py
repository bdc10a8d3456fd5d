"""The agent: real processes on a real broker, beside a real bundle, with a controller of their own behind them."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from puppetmaster.agent.memory import Memory
from puppetmaster.agent.order import Order
from puppetmaster.embedded.broker import find_mosquitto
from puppetmaster.version import __version__
from tests.system.agent_part import NOBODY, Agent, Device, nobodys_python, run_command
from tests.system.leftovers import end_commands
from tests.system.stand import PATIENCE, REPOSITORY, STOP_TIMEOUT, Document, Heard, Listener, Stand

pytestmark = pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")

QUICK = ["set_tcp_nodelay true"]

UNIT = REPOSITORY / "packaging" / "puppetmaster-agent.service"

_ids = count(3_000_000)


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with Stand(tmp_path_factory.mktemp("agents"), broker_extra=QUICK) as running:
        yield running
    end_commands(running.folder)


@pytest.fixture(scope="module")
def device(stand: Stand) -> Iterator[Device]:
    with Device(stand) as inside:
        yield inside


@pytest.fixture
def agents(stand: Stand) -> Iterator[Callable[..., Agent]]:
    """Starts agents that end with the test."""
    started: list[Agent] = []

    def start(ident: str, *options: str, **more: Any) -> Agent:
        started.append(Agent(stand, ident, "--telemetry", "0", *options, **more))
        return started[-1]

    yield start
    for agent in started:
        agent.stop()


def outcome(stand: Stand, job: Document) -> Document:
    """How the one request of a job ended."""
    stand.wait_job(job["id"])
    inner: Document = stand.request(job["requests"][0])["__request"]
    return inner


def ask(resource: str, method: str = "get", data: Any = None, destination: str = "") -> Document:
    return {"destinations": destination, "message": {"method": method, "resource": resource, "data": data}}


def order(stand: Stand, agent: Agent, tunnel: str, method: str, resource: str, **more: Any) -> Document:
    """Publish a request as a puppetmaster would."""
    message = {"id": next(_ids), "method": method, "resource": resource, "tunnel": tunnel, **more}
    stand.publish(f"/remote/{agent.id}", message)
    return message


def answer_to(answers: Listener, message: Document, number: int = 1) -> Document:
    """The answer with the number, counted from 1, to a message; those of progress don't count."""

    def final(heard: list[Heard]) -> list[Document]:
        found = [each.data for each in heard]
        return [each for each in found if each["id"] == message["id"] and each["code"] != 102]

    return final(answers.wait_until(lambda heard: len(final(heard)) >= number))[number - 1]


def wait_for(what: Callable[[], object]) -> None:
    """Wait for what tells nobody when it happens: a line in a log, the end of a process."""
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# What it tells of itself


def test_its_presence_tells_what_it_is_and_its_will_that_it_is_gone(
    stand: Stand, agents: Callable[..., Agent]
) -> None:
    agent = agents("present", "--label", "site=berlin,line=3", "--label", "line=4", "--fact", "firmware=2.1")
    told = agent.presence.messages[-1].data
    assert told["connection"] == "online"
    assert told["labels"] == {"site": "berlin", "line": "4"}
    assert told["agent"] == {"commands": "off"}
    assert told["facts"]["hostname"] == os.uname().nodename
    assert told["facts"]["system"] == "Linux"
    assert told["facts"]["version"] == __version__
    assert told["facts"]["firmware"] == "2.1"
    assert set(told["facts"]) >= {"release", "architecture", "python"}
    late = stand.listen(f"/remote/{agent.id}/presence").wait()
    assert late.data == told

    agent.kill()
    agent.presence.wait(lambda heard: heard.data == {"connection": "offline"})
    mark = len(agent.presence.messages)
    agent.start()
    agent.stop()
    assert agent.returncode == 0
    agent.presence.wait(lambda heard: heard.data == {"connection": "offline"}, mark=mark)


def test_its_events_tell_of_its_life_and_how_the_last_one_ended(agents: Callable[..., Agent]) -> None:
    agent = agents("lively")
    started = agent.event("started")
    assert (started["lastEnd"], started["running"], started["version"]) == ("none", 0, __version__)
    assert started["at"].endswith("Z")
    agent.stop()
    agent.event("stopping")
    mark = len(agent.events.messages)
    agent.start()
    assert agent.event("started", mark)["lastEnd"] == "stopped"
    mark = len(agent.events.messages)
    agent.restart(kill=True)
    assert agent.event("started", mark)["lastEnd"] == "died"


def test_telemetry_comes_often_and_what_hardly_changes_only_at_first(
    stand: Stand, agents: Callable[..., Agent]
) -> None:
    heard = stand.listen("/remote/measured/telemetry")
    agents("measured", "--telemetry", "0.2")
    messages = [each.data for each in heard.wait_until(lambda found: len(found) >= 4)]
    assert set(messages[0]) == {"frequent", "seldom"}
    assert all(set(message) == {"frequent"} for message in messages[1:])
    for message in messages:
        frequent = message["frequent"]
        assert len(frequent["load"]) == 3
        assert 0 <= frequent["cpu"] <= 100 and 0 < frequent["memory"] <= 100
    seldom = messages[0]["seldom"]
    assert seldom["cores"] == os.cpu_count()
    assert 0 < seldom["disk"] <= 100
    assert seldom["memoryBytes"] > 2**20
    assert (seldom["architecture"], seldom["system"]) == (os.uname().machine, "Linux")
    assert not any(each.retained for each in heard.messages)


async def remember_much(folder: Path) -> None:
    """As many answers as an agent ever keeps, and the orders to them."""
    memory = Memory(folder)
    orders = [
        Order(id=each, tunnel="/remote/small/answer/abcdefgh", method="post", resource="/agent/commands")
        for each in range(1, 10_001)
    ]
    await asyncio.gather(*(memory.begin(each, boot="x" * 36, waiting=False, bare=[]) for each in orders))
    await asyncio.gather(*(memory.done(each, 200, {"outcome": "done", "stdout": "x" * 200}) for each in orders))
    for each in orders:
        memory.delivered(each.key)
    await memory.close()


def test_it_is_small_and_does_nothing_while_there_is_nothing_to_do(
    stand: Stand, agents: Callable[..., Agent]
) -> None:
    folder = stand.folder / "small"
    asyncio.run(remember_much(folder / "orders"))
    heard = stand.listen("/remote/small/telemetry")
    agent = agents("small", "--telemetry", "2", "--controller", stand.url, folder=folder)
    heard.wait()
    before, since = agent.ticks(), time.monotonic()
    mark = len(heard.messages)
    heard.wait_until(lambda found: len(found) >= mark + 3)
    seconds = time.monotonic() - since
    rss, ticks = agent.rss_kib(), agent.ticks() - before
    assert rss < 40 * 1024, f"{rss} KiB"
    # With fifteen times the telemetry of the default: less than half a percent.
    assert ticks <= 0.5 * seconds, f"{ticks} ticks of 10 ms in {seconds:.1f} s"


# Its settings, its folder, its user


def test_two_agents_do_not_share_a_folder(stand: Stand, agents: Callable[..., Agent]) -> None:
    first = agents("first")
    command = [sys.executable, "-m", "puppetmaster", "agent", "--id", "second", "--folder", str(first.folder)]
    refused = subprocess.run(command, env=stand.environment(), capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert f"is in use by the agent first (process {first.pid})" in refused.stderr
    assert "Traceback" not in refused.stderr
    first.check()


def test_two_agents_with_one_id_are_told_so(stand: Stand, agents: Callable[..., Agent]) -> None:
    agents("twin")
    agents("twin", folder=stand.folder / "other", start=False).start(wait=False)
    log = stand.folder / "twin.log"
    wait_for(lambda: "is there another agent with the id twin?" in log.read_text())


def test_what_is_wrong_with_a_setting_is_said_in_a_line(stand: Stand) -> None:
    for options, said in (
        ([], "say what this device is called: --id"),
        (["--id", "a/b"], "can't contain"),
        (["--id", "a", "--broker", "http://x"], "scheme must be mqtt or mqtts"),
        (["--id", "a", "--label", "site"], "must be name=value"),
        (["--id", "a", "--telemetry", "-1"], "must be a number from 0"),
        (["--id", "a", "--commands", "@/nowhere"], "/nowhere"),
        (["--id", "a", "--folder", "/proc/nowhere"], "/proc/nowhere"),
    ):
        command = [sys.executable, "-m", "puppetmaster", "agent", *options]
        done = subprocess.run(command, env=stand.environment(), capture_output=True, text=True, check=False)
        assert done.returncode in (1, 2), (options, done)
        assert said in done.stderr.splitlines()[-1], (options, done)
        assert "Traceback" not in done.stderr, (options, done)


def test_settings_come_from_the_environment_too(stand: Stand, agents: Callable[..., Agent]) -> None:
    env = {"PUPPETMASTER_AGENT_LABEL": "site=berlin,line=3", "PUPPETMASTER_AGENT_FACT": "firmware=1"}
    agent = agents("environs", "--label", "line=9", env=env)
    told = agent.presence.messages[-1].data
    assert told["labels"] == {"site": "berlin", "line": "9"}
    assert told["facts"]["firmware"] == "1"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_it_runs_as_a_normal_user(stand: Stand, agents: Callable[..., Agent]) -> None:
    found = nobodys_python()
    if found is None or shutil.which("setpriv") is None:
        pytest.skip("nobody can't run our Python")
    python, env = found
    folder = Path("/tmp") / f"puppetmaster-nobody-{os.getpid()}"
    folder.mkdir()
    os.chown(folder, NOBODY, NOBODY)
    try:
        agent = agents("nobodys", "--commands", "all", folder=folder, python=python, user=NOBODY, env=env)
        ended = outcome(stand, stand.create_job(run_command("nobodys", commandLine="id -u; pwd")))
        assert ended["status"] == "resolved", ended
        assert ended["result"]["stdout"].split()[0] == str(NOBODY)
        agent.stop()
    finally:
        shutil.rmtree(folder)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_has_nothing_to_say_against_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/puppetmaster/bin/python", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for line in ("Restart=always", "KillMode=process", "NoNewPrivileges=yes", "User=puppetmaster-agent"):
        assert line in unit.read_text().splitlines()


def test_it_ends_within_seconds_without_a_broker_too(stand: Stand, tmp_path: Path) -> None:
    agent = Agent(stand, "lonely", "--broker", "mqtt://127.0.0.1:1", start=False)
    agent.start(wait=False)
    wait_for(lambda: "trying again" in agent.log())
    since = time.monotonic()
    agent.stop()
    assert agent.returncode == 0
    assert time.monotonic() - since < STOP_TIMEOUT


# The device's controller


def test_what_is_not_the_agents_own_is_done_by_the_devices_controller(
    stand: Stand, device: Device, agents: Callable[..., Agent]
) -> None:
    agents("boxed", "--controller", device.url)
    read = outcome(stand, stand.create_job(ask("/system/status", destination="boxed")))
    assert (read["status"], read["code"]) == ("resolved", 200)
    assert read["result"] == {"did": "status", "method": "get"}
    written = outcome(stand, stand.create_job(ask("/system/time", "put", {"zone": "UTC"}, "boxed")))
    assert written["result"] == {"did": "time", "method": "put", "zone": "UTC"}
    failed = outcome(stand, stand.create_job(ask("/system/time", "put", {"code": 507}, "boxed")))
    assert (failed["status"], failed["code"]) == ("error", 507)
    unknown = outcome(stand, stand.create_job(ask("/nobody", destination="boxed")))
    assert (unknown["status"], unknown["code"]) == ("error", 404)


def test_an_answer_that_is_too_large_is_refused_and_a_large_one_is_not(
    stand: Stand, device: Device, agents: Callable[..., Agent]
) -> None:
    agents("large", "--controller", device.url)
    fits = outcome(stand, stand.create_job(ask("/system/log", "post", {"size": 400_000}, "large")))
    assert (fits["status"], len(fits["result"]["text"])) == ("resolved", 400_000)
    over = outcome(stand, stand.create_job(ask("/system/log", "post", {"size": 600_000}, "large")))
    assert (over["status"], over["code"]) == ("error", 413)
    assert "over the limit" in over["result"]["data"]["message"]


def test_a_lock_of_the_controller_passes_and_the_request_is_tried_again(
    stand: Stand, device: Device, agents: Callable[..., Agent]
) -> None:
    agents("locked", "--controller", device.url)
    answers, mark = stand.listen("/remote/locked/answer/#"), len(device.said.messages)
    slow = {"id": 77, "method": "post", "resource": "/system/slow", "tunnel": "/t", "data": {"seconds": 1}}
    device.wire.publish("/controller", json.dumps(slow))
    device.wait_said("slow", mark)
    ended = outcome(stand, stand.create_job(ask("/system/quick", "post", {}, "locked")))
    assert ended["status"] == "resolved" and ended["attempt"] > 1
    codes = [heard.data["code"] for heard in answers.messages]
    assert codes == [423] * (len(codes) - 1) + [200]


def test_a_controller_that_is_silent_is_408_and_its_late_answer_is_remembered(
    stand: Stand, device: Device, agents: Callable[..., Agent]
) -> None:
    agent = agents("patient", "--controller", device.url, "--controller-timeout", "0.3")
    answers = stand.listen("/test/late")
    message = order(stand, agent, "/test/late", "post", "/system/late", data={"seconds": 1})
    assert answer_to(answers, message)["code"] == 408
    late = answer_to(answers, message, 2)
    assert (late["code"], late["data"]["did"]) == (200, "late")
    stand.publish(f"/remote/{agent.id}", message)
    assert answer_to(answers, message, 3) == late
    assert device.done().count("post late") == 1


def test_a_controller_that_cannot_be_reached_is_503(stand: Stand, agents: Callable[..., Agent]) -> None:
    agents("unreachable", "--controller", "mqtt://127.0.0.1:1")
    job = {**ask("/system/x", "post", {}, "unreachable"), "retry": {"limit": 0}}
    ended = outcome(stand, stand.create_job(job))
    assert (ended["status"], ended["code"]) == ("error", 503)


def test_without_a_controller_it_is_501(stand: Stand, agents: Callable[..., Agent]) -> None:
    agents("bare")
    ended = outcome(stand, stand.create_job(ask("/system/x", "post", {}, "bare")))
    assert (ended["status"], ended["code"]) == ("error", 501)
    assert "--controller" in ended["result"]["data"]["message"]


# What happens once


def test_a_request_that_comes_again_is_answered_from_memory_over_a_restart_too(
    stand: Stand, device: Device, agents: Callable[..., Agent]
) -> None:
    agent = agents("mindful", "--controller", device.url)
    answers, others = stand.listen("/test/again"), stand.listen("/test/other")
    message = order(stand, agent, "/test/again", "post", "/system/once", data={})
    first = answer_to(answers, message)
    assert (first["code"], first["sign"], first["resource"]) == (200, ["mindful"], "/system/once")
    stand.publish(f"/remote/{agent.id}", message)
    assert answer_to(answers, message, 2) == first
    agent.restart(kill=True)
    stand.publish(f"/remote/{agent.id}", message)
    assert answer_to(answers, message, 3) == first
    # It may come once more: whether the broker has it is written a little later.
    assert device.done().count("post once") == 1
    # The same id of another puppetmaster is another request.
    stand.publish(f"/remote/{agent.id}", {**message, "tunnel": "/test/other"})
    assert answer_to(others, message) == first
    assert device.done().count("post once") == 2


def test_a_reboot_that_cuts_the_agent_off_is_not_done_twice(
    stand: Stand, device: Device, agents: Callable[..., Agent]
) -> None:
    agent = agents("rebooted", "--controller", device.url)
    mark = len(device.said.messages)
    job = stand.create_job(ask("/system/reboot", "post", {"seconds": 3}, "rebooted"))
    device.wait_said("reboot", mark)
    agent.kill()
    marks = len(agent.events.messages)
    agent.start()
    ended = outcome(stand, job)
    assert (ended["status"], ended["code"]) == ("error", 500)
    assert ended["result"]["data"] == {
        "message": "cut off: it was handed to the controller before the agent ended, and may have been done"
    }
    assert device.done().count("post reboot") == 1
    event = agent.event("cut off", marks)
    assert (event["id"], event["resource"]) == (job["requests"][0], "/system/reboot")


def test_a_question_that_was_cut_off_is_asked_again(
    stand: Stand, device: Device, agents: Callable[..., Agent]
) -> None:
    agent = agents("curious", "--controller", device.url)
    mark = len(device.said.messages)
    job = stand.create_job(ask("/system/question", "get", {"seconds": 1}, "curious"))
    device.wait_said("question", mark)
    agent.restart(kill=True)
    ended = outcome(stand, job)
    assert (ended["status"], ended["result"]["did"]) == ("resolved", "question")
    assert device.done().count("get question") == 2


def test_requests_wait_at_the_broker_while_it_is_away(
    stand: Stand, device: Device, agents: Callable[..., Agent]
) -> None:
    agent = agents("absent", "--controller", device.url)
    agent.stop()
    jobs = [stand.create_job(ask(f"/system/away{number}", "post", {}, "absent")) for number in range(3)]
    stand.wait_job(jobs[0]["id"], lambda job: job["counts"]["sent"] == 1)
    agent.start()
    assert [outcome(stand, job)["status"] for job in jobs] == ["resolved"] * 3
    assert [device.done().count(f"post away{number}") for number in range(3)] == [1, 1, 1]


def test_what_it_is_sent_can_not_hurt_it(stand: Stand, device: Device, agents: Callable[..., Agent]) -> None:
    agent = agents("hardened", "--controller", device.url)
    good = {"id": 5, "method": "get", "resource": "/system/x", "tunnel": "/test/hard"}
    bad: list[bytes] = [
        b"", b"\x00\xff", b"nonsense", b"[]", b"5", b"null", b"[" * 100_000, b'{"a":' * 50_000,
        b'{"id": 1e400}', b'{"id": ' + b"9" * 5000 + b"}", b'"' + b"x" * 2_000_000 + b'"',
    ]  # fmt: skip
    bad += [
        json.dumps({**good, **change}).encode()
        for change in (
            {"id": "5"}, {"id": True}, {"id": None}, {"id": -1}, {"id": 0}, {"id": 1.5}, {"id": []}, {"id": 2**70},
            {"method": 5}, {"method": ""}, {"method": None}, {"method": "x" * 100}, {"resource": 5},
            {"resource": {}}, {"resource": ""}, {"resource": "/" * 5000}, {"tunnel": None}, {"tunnel": 5},
            {"tunnel": ""}, {"tunnel": "/a/#"}, {"tunnel": "/+/b"}, {"tunnel": "$SYS/x"}, {"tunnel": "/a\x00b"},
            {"tunnel": "/a\nb"}, {"tunnel": "/" * 300}, {"tunnel": "x" * 70_000}, {"tunnel": "/\ufffe"},
            {"code": 200}, {"sign": ["x"]},
        )
    ]  # fmt: skip
    for payload in bad:
        stand.publish(f"/remote/{agent.id}", payload)
    answers, pid = stand.listen("/test/hard"), agent.pid
    message = order(stand, agent, "/test/hard", "get", "/system/well", match=1, __init__=5)
    assert answer_to(answers, message)["code"] == 200
    assert agent.pid == pid
    assert agent.log().count("messages that are no requests") <= 2
    assert "Traceback" not in agent.log()
    assert agent.log().count("connected to the broker") == 2  # the one of the controller too


def test_what_only_looks_strange_is_answered(stand: Stand, device: Device, agents: Callable[..., Agent]) -> None:
    agent = agents("polite", "--controller", device.url)
    answers = stand.listen("/test/polite")
    for method, resource, data in (
        ("get", "no slash", None), ("GET", "/system/x", None), ("frobnicate", "/x", {}), ("post", "/agent/x", [1]),
        ("get", "/agent/", "text"), ("post", "/system/\u00e9", {"\u00e9": "\u2028"}), ("delete", "/agent/commands", 5),
    ):  # fmt: skip
        message = order(stand, agent, "/test/polite", method, resource, data=data)
        if method != "delete":
            assert answer_to(answers, message)["code"] in (200, 400, 404, 405), (method, resource)
    agent.check()
    assert "Traceback" not in agent.log()


def test_an_answer_that_the_broker_lost_with_its_sessions_is_published_again(
    tmp_path: Path,
) -> None:
    with Stand(tmp_path, broker_extra=QUICK, http=True) as stand, Device(stand) as device:
        stand.edge = "http"  # over the bus the SDK is away for a while
        agent = Agent(stand, "survivor", "--telemetry", "0", "--controller", device.url)
        job = stand.create_job(ask("/system/slow", "post", {"seconds": 1}, "survivor"))
        device.wait_said("slow")
        stand.broker.kill()
        wait_for(lambda: "the connection broke" in agent.log())
        stand.broker.restart()
        stand.ready()
        ended = outcome(stand, job)
        assert (ended["status"], ended["result"]["did"]) == ("resolved", "slow")
        assert device.done() == ["post slow"]
        agent.stop()


# Commands


def test_a_command_resolves_with_what_it_said(stand: Stand, agents: Callable[..., Agent]) -> None:
    agents("runner", "--commands", "all")
    ended = outcome(stand, stand.create_job(run_command(["runner"], commandLine="echo hi; echo there >&2")))
    assert (ended["status"], ended["code"]) == ("resolved", 200), ended
    result = ended["result"]
    assert (result["outcome"], result["exitCode"], result["stdout"], result["stderr"]) == ("done", 0, "hi\n", "there\n")


def test_an_exit_code_that_is_not_0_is_an_error(stand: Stand, agents: Callable[..., Agent]) -> None:
    agents("failing", "--commands", "all")
    ended = outcome(stand, stand.create_job(run_command("failing", commandLine="echo so far; exit 3")))
    assert (ended["status"], ended["code"]) == ("error", 500)
    data = ended["result"]["data"]
    assert (data["outcome"], data["exitCode"], data["stdout"]) == ("failed", 3, "so far\n")


def test_nothing_is_run_where_that_was_not_allowed(stand: Stand, agents: Callable[..., Agent]) -> None:
    agents("shut")
    ended = outcome(stand, stand.create_job(run_command("shut", commandLine="true")))
    assert (ended["status"], ended["code"]) == ("error", 403)
    agents("picky", "--commands", "echo *,id -u")
    for line, status in (("echo hi", "resolved"), ("id -u", "resolved"), ("id", "error"), ("echo hi; id", "error")):
        ended = outcome(stand, stand.create_job(run_command("picky", commandLine=line)))
        assert ended["status"] == status, (line, ended)


def test_the_output_comes_while_the_command_runs_and_its_end_before_the_answer(
    stand: Stand, agents: Callable[..., Agent]
) -> None:
    agents("live", "--commands", "all")
    heard = stand.listen("/remote/live/#")
    fifo = stand.folder / "go"
    os.mkfifo(fifo)
    job = stand.create_job(run_command("live", commandLine=f"echo one; cat {fifo}"))
    topic = f"/remote/live/output/{job['requests'][0]}"
    heard.wait(lambda each: each.topic == topic and each.data.get("text") == "one\n")
    stand.wait_job(job["id"], lambda shown: shown["counts"]["running"] == 1)
    fifo.write_text("two\n")
    assert outcome(stand, job)["result"]["stdout"] == "one\ntwo\n"
    chunks = [each.data for each in heard.messages if each.topic == topic]
    assert [chunk["number"] for chunk in chunks] == list(range(len(chunks)))
    assert "".join(chunk.get("text", "") for chunk in chunks) == "one\ntwo\n"
    assert (chunks[-1]["stream"], chunks[-1]["code"]) == ("end", 200)
    told = [each.topic for each in heard.messages if "/answer/" in each.topic or each.topic == topic]
    assert "/answer/" in told[-1] and told[-2] == topic


def test_it_says_what_it_is_when_it_is_asked(stand: Stand, agents: Callable[..., Agent]) -> None:
    agents("asked", "--commands", "true", "--label", "site=berlin")
    told = outcome(stand, stand.create_job(ask("/agent/info", destination="asked")))["result"]
    assert (told["id"], told["labels"], told["facts"]["version"]) == ("asked", {"site": "berlin"}, __version__)
    assert (told["rights"], told["running"]) == (["true"], 0)
    assert told["cores"] == os.cpu_count() and len(told["load"]) == 3


def test_100_mb_of_output_leave_its_memory_as_it_is(stand: Stand, agents: Callable[..., Agent]) -> None:
    agent = agents("flooded", "--commands", "all")
    outcome(stand, stand.create_job(run_command("flooded", commandLine="echo hi")))
    before = agent.rss_kib()
    line = "yes 0123456789 | head -c 100000000; echo; echo the end"
    ended = outcome(stand, stand.create_job(run_command("flooded", commandLine=line)))
    assert ended["status"] == "resolved", ended
    result = ended["result"]
    assert result["stdout"].startswith("0123456789\n") and result["stdout"].endswith("\nthe end\n")
    assert result["outputBytes"] == 100_000_009
    assert result["cutBytes"] == result["outputBytes"] - 64 * 1024
    peak = agent.rss_kib(peak=True)
    assert peak < before + 4096 and peak < 40 * 1024, f"from {before} to {peak} KiB"


def test_commands_outlive_the_agent_and_the_next_one_takes_them_over(
    stand: Stand, agents: Callable[..., Agent]
) -> None:
    agent = agents("heir", "--commands", "all")
    fifo = stand.folder / "inheritance"
    os.mkfifo(fifo)
    job = stand.create_job(run_command("heir", commandLine=f"echo before; cat {fifo}; exit 4"))
    stand.wait_job(job["id"], lambda shown: shown["counts"]["running"] == 1)
    agent.stop()
    assert agent.returncode == 0
    mark = len(agent.events.messages)
    agent.start()
    assert agent.event("started", mark)["running"] == 1
    fifo.write_text("after\n")
    ended = outcome(stand, job)
    assert (ended["status"], ended["result"]["data"]["exitCode"]) == ("error", 4)
    assert ended["result"]["data"]["stdout"] == "before\nafter\n"


def test_commands_end_with_an_agent_that_is_told_so(stand: Stand, agents: Callable[..., Agent]) -> None:
    agent = agents("reaper", "--commands", "all", "--kill-on-stop")
    pids = stand.folder / "reaper.pid"
    job = stand.create_job(run_command("reaper", commandLine=f"echo $$ > {pids}; exec sleep 300"))
    wait_for(lambda: pids.exists() and pids.read_text().strip())
    agent.stop()
    assert not Path(f"/proc/{pids.read_text().strip()}").exists()
    ended = outcome(stand, job)
    assert ended["status"] == "error"
    assert ended["result"]["data"]["outcome"] == "killed"


def test_a_request_that_is_called_off_kills_its_command_and_says_so(
    stand: Stand, agents: Callable[..., Agent]
) -> None:
    agents("canceled", "--commands", "all")
    pids = stand.folder / "canceled.pid"
    job = stand.create_job(run_command("canceled", commandLine=f"echo $$ > {pids}; exec sleep 300"))
    wait_for(lambda: pids.exists() and pids.read_text().strip())
    request_id = job["requests"][0]
    assert stand.cancel_request(request_id)["__request"]["status"] == "canceled"
    wait_for(lambda: not Path(f"/proc/{pids.read_text().strip()}").exists())
    wait_for(lambda: stand.request(request_id)["__request"]["code"] == 499)
    ended = stand.request(request_id)["__request"]
    assert ended["status"] == "canceled"
    assert "killed" in json.dumps(ended["result"])


def test_a_command_that_is_called_off_before_it_comes_is_never_started(
    stand: Stand, agents: Callable[..., Agent]
) -> None:
    agent = agents("early", "--commands", "all")
    answers, path = stand.listen("/test/early"), stand.folder / "never"
    message = order(stand, agent, "/test/early", "delete", "/agent/commands")
    called_off = {**message, "method": "post", "data": {"commandLine": f"touch {path}"}}
    stand.publish(f"/remote/{agent.id}", called_off)
    answer = answer_to(answers, message)
    assert (answer["code"], answer["data"]["outcome"]) == (499, "never started")
    assert not path.exists()


def test_killed_ten_times_in_500_commands_it_runs_each_of_them_once(
    stand: Stand, agents: Callable[..., Agent]
) -> None:
    agent, path = agents("mortal", "--commands", "all"), stand.folder / "lines"
    answers = stand.listen("/remote/mortal/answer/#")
    rng = random.Random(4)
    moments = sorted(rng.sample(range(5, 490), 10))
    job = stand.create_job(
        {
            "batch": [
                {
                    "method": "post",
                    "resource": "/agent/commands",
                    "data": {"commandLine": f"echo {number} >> {path}"},
                    "__request": {"destination": "mortal"},
                }
                for number in range(500)
            ]
        }
    )
    for moment in moments:
        answers.wait_until(lambda heard, moment=moment: sum(each.data["code"] == 200 for each in heard) >= moment)
        # Anywhere between an answer and the next ones, not right behind it only.
        threading.Event().wait(rng.uniform(0, 0.1))
        agent.check()
        agent.restart(kill=True)
    ended = stand.wait_job(job["id"])
    assert ended["counts"]["resolved"] == 500, ended["counts"]
    assert sorted(map(int, path.read_text().split())) == list(range(500))
