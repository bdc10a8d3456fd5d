"""The dutserver alone, as a process: its document, old agents, kills, and callers who mean no good."""

from __future__ import annotations

import base64
import json
import socket
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from puppetmaster.errors import InvalidDocument
from tests.system.dut import ADMIN, SECRET, DutProcess, PollingAgent, add_account, command, password_of, wait_for
from tests.system.stand import TRUST


@pytest.fixture(scope="module")
def dut(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DutProcess]:
    with DutProcess(tmp_path_factory.mktemp("dut"), ["agent1", "agent2", "squarer"]) as running:
        yield running


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def is_error(answer: httpx.Response, code: int) -> None:
    """See that an answer is an error as the document has it."""
    assert answer.status_code == code, answer.text
    assert answer.headers["content-type"] == "application/json"
    document = answer.json()
    assert document["error"] is True
    assert isinstance(document["msg"], str)
    assert document["msg"]


def is_empty(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.content) == (200, b"")


# The document, from its beginning to its end


def test_every_request_and_answer_of_the_document_in_its_order(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    db = str(tmp_path / "test.db")
    # Command-line utility
    assert command("addaccount", db, "agent1", "agent", password="secret").returncode == 0
    assert command("addaccount", db, "agent2", "agent", password="secret").returncode == 0
    assert command("addaccount", db, "gone", "agent", password="secret").returncode == 0
    assert command("remove", db, "gone").returncode == 0
    with DutProcess(tmp_path) as dut:
        # Session management
        login = dut.call("POST", "/login", user=ADMIN, password=SECRET)
        assert login.status_code == 200
        assert login.json()["error"] is False
        token = login.json()["token"]
        other = dut.call("GET", "/login", user=ADMIN, password=SECRET).json()["token"]
        assert dut.call("POST", "/logout", auth=other).status_code == 200
        is_error(dut.call("GET", "/agents", auth=other), 403)
        # Admin-level
        agents = dut.call("GET", "/agents", auth=token).json()
        assert agents == {"error": False, "agents": ["agent1", "agent2"], "online": {"agent1": False, "agent2": False}}
        assert dut.call("GET", "/events", auth=token, agent="agent1").json() == {
            "error": False,
            "events": [],
            "max_size": 512,
        }
        waiting = pool.submit(dut.call, "POST", "/tasks", {"type": "echo"}, auth=token, target="agent1")
        now = dut.call("POST", "/tasks", {"type": "now"}, auth=token, target="agent2", noWait="1").json()
        assert (now["error"], now["result"]) == (False, None)
        # Agents self-registration
        is_error(dut.call("POST", "/agents", user="agent3", password="mine"), 403)
        assert dut.call("GET", "/agent_selfreg").text == "0"
        is_empty(dut.call("POST", "/agent_selfreg", auth=token, enabled="1"))
        assert dut.call("GET", "/agents_selfreg").text == "1"
        is_empty(dut.call("POST", "/agents", user="agent3", password="mine"))
        is_empty(dut.call("POST", "/agents_selfreg", auth=token, enabled="0"))
        assert dut.call("GET", "/agent_selfreg", auth=token).text == "0"
        is_error(dut.call("POST", "/agents", user="agent4", password="mine"), 403)
        # Agent-level
        tasks = dut.call("GET", "/tasks", auth="agent1:secret").json()
        (ident,) = tasks["events"]
        assert tasks["events"] == {ident: {"type": "echo"}}
        assert dut.call("GET", "/tasks", auth="agent2:secret").json()["events"] == {str(now["id"]): {"type": "now"}}
        event = dut.call("POST", "/events", {"what": "booted"}, auth="agent1:secret")
        assert event.json() == {"error": False, "msg": "Event logged"}
        is_empty(dut.call("POST", "/tasks_result", {"said": "hello"}, auth="agent1:secret", id=ident))
        # And what they had to wait for
        answer = waiting.result().json()
        assert (answer["error"], answer["result"]) == (False, {"said": "hello"})
        assert dut.call("GET", "/events", auth=token, agent="agent1").json()["events"] == [{"what": "booted"}]
        assert dut.call("GET", "/agents", auth=token).json()["online"]["agent1"] is True


def test_a_long_poll_lasts_26_seconds_and_the_task_outlives_it(dut: DutProcess, pool: ThreadPoolExecutor) -> None:
    dut.add("sleeper", password_of("sleeper"))

    def timed(*arguments: Any, **more: Any) -> tuple[httpx.Response, float]:
        begun = time.monotonic()
        return dut.call(*arguments, **more), time.monotonic() - begun

    poll = pool.submit(timed, "GET", "/tasks", auth=f"agent2:{password_of('agent2')}")
    task = pool.submit(timed, "POST", "/tasks", {"n": 1}, auth=dut.token, target="sleeper")
    answer, seconds = poll.result()
    assert answer.json() == {"error": False, "events": {}}
    assert 25.5 < seconds < 40
    answer, seconds = task.result()
    is_error(answer, 504)
    assert 25.5 < seconds < 40
    (content,) = dut.as_agent("sleeper", "GET", "/tasks").json()["events"].values()
    assert content == {"n": 1}


# Agents


def _square(task: Any) -> Any:
    return {"n": task["n"], "square": task["n"] ** 2}


def test_an_agent_of_the_old_kind_does_two_hundred_tasks(dut: DutProcess, pool: ThreadPoolExecutor) -> None:
    agent = PollingAgent(dut.port, "squarer", password_of("squarer"), _square)
    agent.start()
    calls = [pool.submit(dut.as_admin, "POST", "/tasks", {"n": n}, target="squarer") for n in range(200)]
    answers = [call.result().json() for call in calls]
    assert [answer.get("result") for answer in answers] == [{"n": n, "square": n * n} for n in range(200)]
    wait_for(lambda: len(agent.done) >= 200)  # it notes a task after the answer to it has come
    agent.stop()
    assert agent.troubles == []
    assert len(set(agent.done)) == len(agent.done) == 200


CONTENTS = [
    "null", "true", "0", "-0.0", "1.0", "1", "1e300", "9223372036854775807", "18446744073709551615", '""', "[]", "{}",
    '"\\u0000 \\u2028 \\ud83d\\ude00"', '{"z": 1, "a": {"y": [null, [], {}]}, "m": "x"}', '{"content": 1}',
    '{"": {"id": 5}}', "[" * 99 + "]" * 99,
    '{"__request": {"destination": "x"}, "method": "get", "tunnel": 3}', '{"error": true, "msg": "no"}',
]  # fmt: skip


@pytest.mark.parametrize("text", CONTENTS)
def test_any_json_goes_there_and_back_untouched(dut: DutProcess, pool: ThreadPoolExecutor, text: str) -> None:
    waiting = pool.submit(dut.as_admin, "POST", "/tasks", content=text.encode(), target="agent2")
    given = dut.as_agent("agent2", "GET", "/tasks")
    ((ident, content),) = given.json()["events"].items()
    expected = json.loads(text)
    assert repr(content) == repr(expected)  # repr: 1 and 1.0 and True are equal, and the order of keys counts
    is_empty(dut.as_agent("agent2", "POST", "/tasks_result", content=text.encode(), id=ident))
    assert repr(waiting.result().json()["result"]) == repr(expected)
    is_empty_event = dut.as_agent("agent2", "POST", "/events", content=text.encode())
    assert is_empty_event.status_code == 200
    assert repr(dut.as_admin("GET", "/events", agent="agent2").json()["events"][-1]) == repr(expected)


def test_a_task_is_given_again_when_its_agent_left_before_it_came(dut: DutProcess) -> None:
    with socket.create_connection(("127.0.0.1", dut.port)) as leaving:
        head = f"GET /tasks HTTP/1.1\r\nHost: x\r\nAuthorization: agent2:{password_of('agent2')}\r\n\r\n"
        leaving.sendall(head.encode())
        wait_for(lambda: dut.as_admin("GET", "/agents").json()["online"]["agent2"])
    task = dut.as_admin("POST", "/tasks", {"n": 1}, target="agent2", noWait="1").json()
    given = dut.as_agent("agent2", "GET", "/tasks").json()["events"]
    assert given == {str(task["id"]): {"n": 1}}
    is_empty(dut.as_agent("agent2", "POST", "/tasks_result", None, id=task["id"]))


def test_what_was_given_and_not_answered_is_given_again_after_a_kill(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    names = [f"agent{n}" for n in range(1, 4)]
    with DutProcess(tmp_path, names) as dut:
        ids = {
            name: [dut.as_admin("POST", "/tasks", {"n": n}, target=name, noWait="1").json()["id"] for n in range(3)]
            for name in names
        }
        for name in names:
            assert list(dut.as_agent(name, "GET", "/tasks").json()["events"]) == [str(ids[name][0])]
        is_empty(dut.as_agent("agent1", "POST", "/tasks_result", "done", id=ids["agent1"][0]))
        assert dut.as_agent("agent1", "POST", "/events", "before the kill").status_code == 200
        dut.kill()
        token = dut.token
        dut.start()
        # The session, the event and the answer are still there.
        assert dut.call("GET", "/events", auth=token, agent="agent1").json()["events"] == ["before the kill"]
        is_error(dut.as_agent("agent1", "POST", "/tasks_result", "again", id=ids["agent1"][0]), 409)
        agents = [PollingAgent(dut.port, name, password_of(name), lambda task: task) for name in names]
        for agent in agents:
            agent.start()
        wait_for(lambda: [len(agent.done) for agent in agents] == [2, 3, 3])
        for agent in agents:
            agent.stop()
        assert [sorted(agent.done) for agent in agents] == [
            [str(ident) for ident in ids["agent1"][1:]],
            [str(ident) for ident in ids["agent2"]],
            [str(ident) for ident in ids["agent3"]],
        ]


def test_a_stop_ends_the_polls_at_once_and_answers_them(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    with DutProcess(tmp_path, ["agent1"]) as dut:
        poll = pool.submit(dut.as_agent, "agent1", "GET", "/tasks")
        wait_for(lambda: dut.as_admin("GET", "/agents").json()["online"]["agent1"])
        begun = time.monotonic()
        assert dut.stop() == 0
        assert time.monotonic() - begun < 20  # the polls were to last 26
        assert poll.result().json() == {"error": False, "events": {}}


def test_the_server_sees_what_the_command_line_changes(dut: DutProcess, pool: ThreadPoolExecutor) -> None:
    dut.add("late", password_of("late"))
    task = dut.as_admin("POST", "/tasks", 1, target="late", noWait="1").json()
    assert dut.as_agent("late", "GET", "/tasks").json()["events"] == {str(task["id"]): 1}
    assert dut.as_agent("late", "POST", "/events", 1).status_code == 200
    poll = pool.submit(dut.as_agent, "late", "GET", "/tasks")
    wait_for(lambda: dut.as_admin("GET", "/agents").json()["online"].get("late"))
    dut.remove("late")
    assert poll.result(10).json()["events"] == {}
    is_error(dut.as_agent("late", "GET", "/tasks"), 403)
    is_error(dut.as_admin("POST", "/tasks", 1, target="late"), 404)
    is_error(dut.as_admin("GET", "/events", agent="late"), 404)
    dut.add("late", password_of("late"))
    assert dut.as_admin("GET", "/events", agent="late").json()["events"] == []


def test_events_are_kept_to_the_newest_512(dut: DutProcess) -> None:
    dut.add("chatty", password_of("chatty"))
    headers = {"Authorization": f"chatty:{password_of('chatty')}"}
    with httpx.Client(base_url=dut.url, headers=headers, trust_env=False, verify=TRUST) as client:
        for number in range(530):
            assert client.post("/events", json={"n": number}).status_code == 200
    events = dut.as_admin("GET", "/events", agent="chatty").json()["events"]
    assert events == [{"n": number} for number in range(18, 530)]


# Who gets in


@pytest.mark.parametrize(
    "header",
    ["agent1:{password}", "Basic {basic}", "basic {basic}"],
)
def test_an_agent_says_who_it_is(dut: DutProcess, header: str) -> None:
    password = password_of("agent1")
    basic = base64.b64encode(f"agent1:{password}".encode()).decode()
    auth = header.format(password=password, basic=basic)
    assert dut.call("POST", "/events", 1, auth=auth).status_code == 200


def test_an_admin_says_who_they_are(dut: DutProcess) -> None:
    for auth in (dut.token, f"Bearer {dut.token}", f"bearer {dut.token}", f"{ADMIN}:{SECRET}"):
        assert dut.call("GET", "/agents", auth=auth).status_code == 200, auth


STRANGERS = ["", "x", ":", "agent1", "agent1:", ":secret", "nobody:secret", "Bearer", "Bearer x", "Basic", "Basic !!",
             "Basic eDp5", "dut_" + "a" * 43, "agent1:" + "x" * 5000, "Bearer a:b"]  # fmt: skip

ADMIN_CALLS = [("GET", "/agents"), ("GET", "/events?agent=agent1"), ("POST", "/tasks?target=agent1"),
               ("POST", "/agent_selfreg?enabled=1"), ("POST", "/agents_selfreg?enabled=1")]  # fmt: skip
AGENT_CALLS = [("GET", "/tasks"), ("POST", "/events"), ("POST", "/tasks_result?id=1000001")]


@pytest.fixture(scope="module")
def besieged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DutProcess]:
    """One of its own: whoever fails has to wait."""
    with DutProcess(tmp_path_factory.mktemp("besieged"), ["agent1", "agent2"]) as running:
        yield running


def test_strangers_get_nothing(besieged: DutProcess) -> None:
    for auth in [None, *STRANGERS]:
        for method, path in (*ADMIN_CALLS, *AGENT_CALLS):
            answer = besieged.call(method, path, {}, auth=auth)
            assert answer.status_code in (403, 429), (auth, method, path)
            is_error(answer, answer.status_code)
    assert besieged.call("GET", "/agent_selfreg").text == "0"


def test_who_guesses_has_to_wait_and_keeps_nobody_out_who_is_in(tmp_path: Path) -> None:
    with DutProcess(tmp_path, ["agent1", "agent2"]) as dut:
        assert dut.as_agent("agent2", "POST", "/events", 1).status_code == 200
        codes = [dut.call("POST", "/events", 1, auth=f"agent1:guess{n}").status_code for n in range(8)]
        assert codes == [403] * 5 + [429] * 3
        is_error(dut.as_agent("agent1", "POST", "/events", 1), 429)  # not even with the right one
        assert dut.as_agent("agent2", "POST", "/events", 1).status_code == 200
        codes = [dut.call("POST", "/login", user=ADMIN, password=f"guess{n}").status_code for n in range(8)]
        assert 429 in codes
        answer = dut.call("POST", "/login", user=ADMIN, password="guess")
        assert int(answer.headers["retry-after"]) >= 1


def test_each_kind_of_account_does_its_own_things(dut: DutProcess) -> None:
    for method, path in ADMIN_CALLS:
        is_error(dut.as_agent("agent1", method, path, {}), 403)
    for method, path in AGENT_CALLS:
        is_error(dut.as_admin(method, path, {}), 403)
    is_error(dut.call("POST", "/login", user="agent1", password=password_of("agent1")), 403)


def test_a_result_counts_only_from_its_agent_and_once(dut: DutProcess) -> None:
    task = dut.as_admin("POST", "/tasks", 1, target="agent1", noWait="1").json()["id"]
    assert dut.as_agent("agent1", "GET", "/tasks").json()["events"] == {str(task): 1}
    is_error(dut.as_agent("agent2", "POST", "/tasks_result", 1, id=task), 404)
    is_empty(dut.as_agent("agent1", "POST", "/tasks_result", {"error": True, "msg": "a result like any"}, id=task))
    is_error(dut.as_agent("agent1", "POST", "/tasks_result", 2, id=task), 409)
    for ident in ("0", "-1", "1e6", "x", "999999999", "9" * 18, "9" * 19, "٣", "1000001 ", "1000001,1000002"):
        answer = dut.as_agent("agent1", "POST", "/tasks_result", 1, id=ident)
        assert answer.status_code in (400, 404), ident
        is_error(answer, answer.status_code)


NO_NAMES = ["", "+", "#", "a/b", "/", "$SYS", "a+", "a b", "a:b", "a\nb", "a\x00", "\u200b", "localhost",
            "x" * 129, "\ufeff"]  # fmt: skip


@pytest.mark.parametrize("name", NO_NAMES)
def test_nobody_is_called_what_is_no_destination(dut: DutProcess, name: str) -> None:
    assert dut.as_admin("POST", "/agent_selfreg", enabled="1").status_code == 200
    is_error(dut.call("POST", "/agents", user=name, password="long enough"), 400)
    answer = dut.as_admin("POST", "/tasks", 1, target=name)
    assert answer.status_code in (400, 404)
    with pytest.raises(InvalidDocument):
        add_account(dut.db, name, "long enough")
    assert dut.as_admin("POST", "/agent_selfreg", enabled="0").status_code == 200


def test_names_of_all_kinds_are_kept_as_they_are(dut: DutProcess, pool: ThreadPoolExecutor) -> None:
    assert dut.as_admin("POST", "/agent_selfreg", enabled="1").status_code == 200
    for name in ("LAB-PC1", "305-12", "a.b_c@d", "кабинет-1", "x" * 128):
        is_empty(dut.call("POST", "/agents", user=name, password="p:a s'ß"))
        is_error(dut.call("POST", "/agents", user=name, password="another"), 409)
        assert name in dut.as_admin("GET", "/agents").json()["agents"]
        waiting = pool.submit(dut.as_admin, "POST", "/tasks", name, target=name)
        connection = httpx.get(
            f"{dut.url}/tasks",
            headers={"Authorization": f"{name}:p:a s'ß".encode()},
            timeout=60,
            trust_env=False,
            verify=TRUST,
        )
        ((ident, content),) = connection.json()["events"].items()
        assert content == name
        auth = f"{name}:p:a s'ß".encode()
        url = f"{dut.url}/tasks_result?id={ident}"
        is_empty(httpx.post(url, headers={"Authorization": auth}, json=1, trust_env=False, verify=TRUST))
        assert waiting.result().json()["result"] == 1
    assert dut.as_admin("POST", "/agent_selfreg", enabled="0").status_code == 200


BAD_BODIES = [b"", b" ", b"{", b"nul", b"NaN", b"[Infinity]", b"-Infinity", b'{"a": 1, "a": 2}', b"1e400",
              b"36893488147419103232", b'"\xff"',
              b"[" * 50_000, b"[" * 100 + b"]" * 100, b'"\\ud800"', b"{} {}", b"'x'", b"\xff\xfe1\x00"]  # fmt: skip


@pytest.mark.parametrize("body", BAD_BODIES, ids=range(len(BAD_BODIES)))
def test_what_is_no_json_or_could_not_travel_is_refused_and_changes_nothing(dut: DutProcess, body: bytes) -> None:
    is_error(dut.as_admin("POST", "/tasks", content=body, target="agent1"), 400)
    is_error(dut.as_agent("agent1", "POST", "/events", content=body), 400)
    task = dut.as_admin("POST", "/tasks", 1, target="agent1", noWait="1").json()["id"]
    assert dut.as_agent("agent1", "GET", "/tasks").json()["events"] == {str(task): 1}
    is_error(dut.as_agent("agent1", "POST", "/tasks_result", content=body, id=task), 400)
    is_empty(dut.as_agent("agent1", "POST", "/tasks_result", 1, id=task))


def test_huge_bodies_are_refused_without_being_kept(dut: DutProcess) -> None:
    huge = b'"' + b"x" * (20 << 20) + b'"'
    for call in (
        lambda: dut.as_admin("POST", "/tasks", content=huge, target="agent1"),
        lambda: dut.as_agent("agent1", "POST", "/events", content=huge),
        lambda: dut.as_agent("agent1", "POST", "/tasks_result", content=huge, id="1000001"),
        lambda: dut.as_agent("agent1", "POST", "/events", content=b'"' + b"x" * (64 << 10) + b'"'),
    ):
        is_error(call(), 413)
    assert dut.as_agent("agent1", "POST", "/events", "x" * 60_000).status_code == 200


BAD_QUERIES = [
    ("POST", "/login"), ("POST", "/login?user=root"), ("POST", "/login?pass=x"), ("POST", "/login?user=&pass="),
    ("GET", f"/login?user=root&user=root&pass={SECRET}"), ("POST", "/agents"), ("POST", "/agents?user=x"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), BAD_QUERIES)
def test_what_is_missing_is_said(dut: DutProcess, method: str, path: str) -> None:
    is_error(dut.call(method, path), 400)


def test_a_switch_is_0_or_1(dut: DutProcess) -> None:
    for value in ("", "2", "true", "01", "enabled"):
        is_error(dut.as_admin("POST", "/agent_selfreg", enabled=value), 400)
        is_error(dut.as_admin("POST", "/tasks", 1, target="agent1", noWait=value), 400)
    is_error(dut.as_admin("POST", "/agent_selfreg"), 400)


def test_other_paths_and_methods_are_errors_too(dut: DutProcess) -> None:
    for path in ("/", "/nothing", "/tasks/", "/login/", "/jobs", "/../etc/passwd", "//tasks"):
        is_error(dut.call("GET", path, auth=dut.token), 404)
    for method, path in (("PUT", "/tasks"), ("DELETE", "/agents"), ("GET", "/logout"), ("PATCH", "/login")):
        answer = dut.call(method, path, auth=dut.token)
        is_error(answer, 405)
        assert "Allow" in answer.headers
    task = dut.as_admin("POST", "/tasks", 1, target="agent1", noWait="1").json()["id"]
    assert dut.as_agent("agent1", "HEAD", "/tasks").status_code == 405  # it would have taken the task away
    assert dut.as_agent("agent1", "GET", "/tasks").json()["events"] == {str(task): 1}
    is_empty(dut.as_agent("agent1", "POST", "/tasks_result", 1, id=task))


def test_one_agent_can_not_fill_the_server_with_polls(tmp_path: Path) -> None:
    with DutProcess(tmp_path, ["agent1"]) as dut:
        assert dut.as_agent("agent1", "POST", "/events", 1).status_code == 200
        codes: list[int] = []

        def poll() -> None:
            codes.append(dut.as_agent("agent1", "GET", "/tasks").status_code)

        threads = [threading.Thread(target=poll) for _ in range(20)]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(codes) == 4)
        assert codes == [429] * 4
        dut.stop()
        for thread in threads:
            thread.join()
        assert sorted(codes) == [200] * 16 + [429] * 4


def test_a_damaged_file_of_accounts_opens_nothing_and_can_be_put_right(tmp_path: Path) -> None:
    with DutProcess(tmp_path, ["agent1"]) as dut:
        assert dut.as_agent("agent1", "POST", "/events", 1).status_code == 200
        good = dut.db.read_bytes()
        for content in (b"", b"{}", good[: len(good) // 2]):
            dut.db.write_bytes(content)
            is_error(dut.as_agent("agent1", "POST", "/events", 1), 500)
            is_error(dut.as_admin("GET", "/agents"), 500)
            is_error(dut.call("GET", "/agent_selfreg"), 500)
        dut.db.write_bytes(good)
        assert dut.as_agent("agent1", "POST", "/events", 2).status_code == 200
        assert dut.as_admin("GET", "/events", agent="agent1").json()["events"] == [1, 2]


def test_no_answer_may_be_kept_by_a_proxy(dut: DutProcess) -> None:
    for answer in (dut.as_admin("GET", "/agents"), dut.call("GET", "/agent_selfreg"), dut.call("GET", "/tasks")):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_no_secret_is_in_any_file_or_log(dut: DutProcess) -> None:
    dut.call("POST", "/login", user=ADMIN, password="Wrong-Password-1")
    dut.call("POST", "/nothing", user=ADMIN, password="Wrong-Password-2")
    dut.call("PUT", "/login", user=ADMIN, password="Wrong-Password-3")
    dut.call("POST", "/agents", user="a/b", password="Wrong-Password-4")
    folder = dut.db.parent
    for path in (path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes().decode("utf-8", "replace")
        for secret in (SECRET, "Wrong-Password", password_of("agent1"), dut.token):
            assert secret not in content, path
    assert stat.S_IMODE(dut.db.stat().st_mode) == 0o600


def test_a_database_of_the_original_is_told_apart(tmp_path: Path) -> None:
    old = tmp_path / "old.db"
    old.write_bytes(b"SQLite format 3\0" + bytes(100))
    done = command("addaccount", str(old), "agent1", "agent", password="secret")
    assert done.returncode == 1
    assert "SQLite" in done.stderr
    assert old.read_bytes().startswith(b"SQLite format 3\0")


def test_the_command_line_says_what_is_wrong(tmp_path: Path) -> None:
    db = str(tmp_path / "test.db")
    assert command("addaccount", db, "agent1", "agent", password="secret").returncode == 0
    again = command("addaccount", db, "agent1", "admin", password="secret")
    assert (again.returncode, "agent1" in again.stderr) == (1, True)
    assert command("addaccount", db, "agent2", "king", password="secret").returncode == 2
    assert command("addaccount", db, "agent2", "agent").returncode == 2
    assert command("remove", db, "agent2").returncode == 1
    assert command("server", "70000", db).returncode == 2
