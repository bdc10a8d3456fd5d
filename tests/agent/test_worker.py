"""Orders, from the request to the answer, with real processes."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import time
from pathlib import Path

import pytest

from puppetmaster.agent.worker import Worker
from puppetmaster.chunks import Stream
from puppetmaster.store.files import FileSystem
from tests.agent.desk import Desk, with_desk

MIB = 1024 * 1024


def pids(text: str) -> list[int]:
    """Live processes whose command line holds a text."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path(f"/proc/{name}/cmdline").read_bytes()
            state = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if text.encode() in line and state != "Z":
            found.append(int(name))
    return found


async def gone(text: str) -> None:
    """Return when no such process is left: a signal to a group is not carried out at once."""
    deadline = time.monotonic() + 5
    while pids(text):
        assert time.monotonic() < deadline
        await asyncio.sleep(0)


def children() -> list[int]:
    """Children of this process, zombies too."""
    return [int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()]


async def childless(before: list[int]) -> None:
    """Return when no other child is left: the shell of a command ends a moment after it on a busy machine."""
    deadline = time.monotonic() + 5
    while set(children()) - set(before):
        assert time.monotonic() < deadline
        await asyncio.sleep(0)


# ------------------------------------------------------------------------------------------------------ answers


@with_desk
async def test_a_command_that_succeeds_is_answered_200_with_its_output(desk: Desk) -> None:
    order = await desk.give({"commandLine": "echo hello; echo oops >&2"})
    code, data = await desk.answer(order)
    assert code == 200
    assert data["outcome"] == "done" and data["exitCode"] == 0 and data["signal"] is None
    assert data["stdout"] == "hello\n" and data["stderr"] == "oops\n"
    assert data["outputBytes"] == 11 and data["cutBytes"] == 0
    assert desk.answers[order.key][0] == (102, {"progress": 0, "message": "started"})


@with_desk
async def test_the_exit_code_decides(desk: Desk) -> None:
    code, data = await desk.run({"commandLine": "exit 3"})
    assert (code, data["outcome"], data["exitCode"], data["message"]) == (500, "failed", 3, "exit code 3")


@with_desk
async def test_a_signal_is_named_and_the_shell_says_nothing_of_its_own(desk: Desk) -> None:
    code, data = await desk.run({"commandLine": "kill -SEGV $$"})
    assert code == 500
    assert data["signal"] == signal.SIGSEGV and "SIGSEGV" in data["message"]
    assert data["stderr"] == ""


@with_desk
async def test_words_are_run_without_a_shell(desk: Desk) -> None:
    _, data = await desk.run({"argv": ["printf", "%s|", "$HOME", "a b", "", "*", "-n"]})
    assert data["stdout"] == "$HOME|a b||*|-n|"


@with_desk
async def test_a_program_that_is_not_there_is_a_failure_of_its_own(desk: Desk) -> None:
    code, data = await desk.run({"argv": ["no-such-program"]})
    assert (code, data["outcome"], data["exitCode"]) == (500, "failed", 127)


@with_desk
async def test_the_environment_is_clean_but_for_what_is_asked_for(desk: Desk) -> None:
    os.environ["PUPPETMASTER_SECRET"] = "x"
    try:
        _, data = await desk.run({"argv": ["env"], "environment": {"COLOR": "blue", "EMPTY": "", "UID": "7"}})
    finally:
        del os.environ["PUPPETMASTER_SECRET"]
    variables = dict(line.split("=", 1) for line in data["stdout"].splitlines())
    assert variables["COLOR"] == "blue" and variables["EMPTY"] == "" and variables["UID"] == "7"
    assert {"PATH", "HOME", "LANG"} <= variables.keys()
    assert "PUPPETMASTER_SECRET" not in variables


@with_desk
async def test_it_has_no_input_and_a_session_of_its_own(desk: Desk) -> None:
    line = "cat; umask; ps -o sid= -p $$; for n in 3 4 5 6 7 8 9; do [ ! -e /proc/$$/fd/$n ] || echo $n; done"
    _, data = await desk.run({"commandLine": line})
    umask, session, *descriptors = data["stdout"].split()
    assert umask == "0022"
    assert int(session) != os.getsid(0)
    assert descriptors == []


@with_desk
async def test_the_working_directory(desk: Desk) -> None:
    assert (await desk.run({"argv": ["pwd"], "workingDirectory": "/usr/bin"}))[1]["stdout"] == "/usr/bin\n"
    code, data = await desk.run({"argv": ["pwd"], "workingDirectory": "/nowhere"})
    assert (code, data["outcome"], data["exitCode"]) == (500, "failed", None)
    assert data["message"] == "it could not be started: there is no folder /nowhere"


@with_desk
async def test_words_that_are_too_long_are_a_clear_failure(desk: Desk) -> None:
    code, data = await desk.run({"argv": ["echo", "x" * 200_000]})
    assert (code, data["outcome"]) == (500, "failed")
    assert "too long" in data["message"]


@with_desk
async def test_a_sequence_stops_at_the_first_failure(desk: Desk) -> None:
    second = {"commandLine": "echo $A; exit 4", "environment": {"A": "two"}}
    commands = [{"commandLine": "echo $A"}, second, {"argv": ["ls"]}]
    order = await desk.give({"commands": commands, "environment": {"A": "one"}})
    code, data = await desk.answer(order)
    assert (code, data["exitCode"], data["command"]) == (500, 4, 1)
    assert data["stdout"] == "one\ntwo\n"
    spoken = [(chunk.number, chunk.command, chunk.data) for chunk in desk.stream(order, Stream.STDOUT)]
    assert spoken == [(0, 0, b"one\n"), (1, 1, b"two\n")]


@with_desk
async def test_a_sequence_that_succeeds(desk: Desk) -> None:
    code, data = await desk.run({"commands": [{"argv": ["true"]}, {"argv": ["echo", "x"]}]})
    assert (code, data["command"], data["stdout"]) == (200, 1, "x\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@with_desk
async def test_another_user(desk: Desk) -> None:
    line = "id -un; id -Gn; echo $HOME; echo bad >/dev/stderr; yes | head -1"
    code, data = await desk.run({"commandLine": line, "user": "nobody", "environment": {"LD_PRELOAD": "/no/such.so"}})
    assert data["stdout"].splitlines()[0] == "nobody"
    assert "bad" in data["stderr"] and code == 200
    assert (await desk.run({"argv": ["id"], "user": "nobody", "workingDirectory": "/root"}))[1]["exitCode"] in (0, 126)


@with_desk
async def test_a_user_who_is_not_there(desk: Desk) -> None:
    code, data = await desk.run({"commands": [{"argv": ["id"], "user": "no-such-user"}]})
    assert code == 400
    assert data["errors"] == [{"path": "commands.0.user", "message": "this machine has no user no-such-user"}]


@with_desk
async def test_a_malformed_order_is_answered_400_and_the_worker_lives(desk: Desk) -> None:
    bad = [None, 5, [], "x", {}, {"argv": []}, {"argv": [1]}, {"commandLine": "\ud800"}, {"commands": [{}] * 2000},
           {"commandLine": "x", "timeout": "5"}, {"commandLine": "a\0b"}, {"commandLine": "ls", "typo": 1}]  # fmt: skip
    for data in bad:
        code, answer = await desk.run(data)
        assert code == 400 and answer["errors"], data
    assert not list((desk.folder / "runs").iterdir())
    assert (await desk.run({"argv": ["true"]}))[0] == 200


@with_desk
async def test_info_and_what_is_not_there(desk: Desk) -> None:
    assert await desk.run(method="get", resource="/agent/info") == (
        200,
        {"hostname": "box", "running": 0, "rights": "all"},
    )
    assert (await desk.run(method="get", resource="/agent/other"))[0] == 404
    assert (await desk.run(method="put"))[0] == 405
    assert Worker.serves("/agent/commands") and Worker.serves("/agent/x?y") and not Worker.serves("/agents")


@with_desk
async def test_what_runs_is_listed(desk: Desk) -> None:
    order = await desk.give({"commandLine": "echo up; sleep 60"})
    await desk.said(order, b"up")
    assert [each.id for each in desk.worker.running] == [order.id]
    _, data = await desk.run(method="get")
    assert data["running"] == [
        {"id": order.id, "commandLine": "echo up; sleep 60", "progress": 0, "message": "started"}
    ]


def test_nothing_is_run_when_it_is_off(tmp_path: Path) -> None:
    async def main() -> None:
        desk = await Desk(tmp_path, rights="off").open()
        code, data = await desk.run({"argv": ["touch", str(tmp_path / "x")]})
        assert (code, data["outcome"]) == (403, "not allowed")
        await desk.close()

    asyncio.run(main())
    assert not (tmp_path / "x").exists()


def test_a_list_is_for_whole_commands_and_stars_see_no_shell(tmp_path: Path) -> None:
    async def main() -> None:
        desk = await Desk(tmp_path / "orders", rights="echo *,echo $((1+1))").open()
        assert (await desk.run({"commandLine": "echo hi"}))[1]["stdout"] == "hi\n"
        assert (await desk.run({"commandLine": "echo $((1+1))"}))[1]["stdout"] == "2\n"
        for line in (f"echo a; touch {tmp_path}/x", "echo $HOME", "echo a b", "echo `id`", "echo -e", "echo a\nid"):
            assert (await desk.run({"commandLine": line}))[0] == 403, line
        assert (await desk.run({"commandLine": "echo hi", "environment": {"LD_PRELOAD": "x"}}))[0] == 403
        sequence = {"commands": [{"commandLine": "echo hi"}, {"argv": ["id"]}]}
        assert (await desk.run(sequence))[0] == 403
        await desk.close()

    asyncio.run(main())
    assert not (tmp_path / "x").exists()


# ---------------------------------------------------------------------------------------------------- containers


def fake_podman(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "podman").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "podman").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_a_container_is_run_by_podman(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_podman(tmp_path / "bin", monkeypatch, 'printf "%s\\n" "$A" "$@"')

    async def main() -> None:
        desk = await Desk(tmp_path / "orders").open()
        mount = {"source": "/srv", "target": "/data", "readOnly": True}
        order = await desk.give(
            {
                "commandLine": "ls; id",
                "environment": {"A": "b c", "HOME": "/data"},
                "workingDirectory": "/data",
                "user": "www",
                "container": {"image": "alpine:3", "mounts": [mount], "network": "none"},
            }
        )
        code, data = await desk.answer(order)
        secret, *words = data["stdout"].splitlines()
        assert code == 200
        assert secret == "b c", "not among the words, which everybody can read"
        assert words[:3] == ["run", "--rm", "--name"]
        assert words[3].startswith(f"puppetmaster-{order.id}-")
        assert words[4:] == [
            "--network", "none", "--user", "www", "--workdir", "/data", "--mount",
            "type=bind,source=/srv,target=/data,readonly", "--env", "A", "--env", "HOME=/data",
            "alpine:3", "/bin/sh", "-c", "ls; id",
        ]  # fmt: skip
        await desk.close()

    asyncio.run(main())


def test_a_canceled_container_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    fake_podman(tmp_path / "bin", monkeypatch, f'echo "$@" >>{log}; [ "$1" = rm ] || {{ echo up; exec sleep 60; }}')

    async def main() -> None:
        desk = await Desk(tmp_path / "orders").open()
        order = await desk.give({"container": {"image": "x"}})
        await desk.said(order, b"up")
        await desk.cancel(order)
        assert (await desk.answer(order))[1]["outcome"] == "killed"
        await desk.close()

    asyncio.run(main())
    run, removed = log.read_text().splitlines()
    assert removed == f"rm --force {run.split()[3]}"


def test_no_podman_and_no_docker_is_a_clear_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    async def main() -> None:
        desk = await Desk(tmp_path / "orders").open()
        code, data = await desk.run({"container": {"image": "x"}})
        assert (code, data["outcome"]) == (500, "failed")
        assert "no podman or docker on this machine" in data["message"]
        await desk.close()

    asyncio.run(main())


# ------------------------------------------------------------------------------------------- ending what runs


@with_desk
async def test_a_cancel_reaches_the_whole_group(desk: Desk) -> None:
    order = await desk.give({"commandLine": "sleep 61.25 & sleep 61.25 & echo up; wait"})
    await desk.said(order, b"up")
    await desk.cancel(order)
    code, data = await desk.answer(order)
    assert (code, data["outcome"], data["signal"]) == (499, "killed", signal.SIGTERM)
    assert data["stdout"] == "up\n" and 0 <= data["after"] < 60
    assert data["message"].startswith("killed after ")
    await gone("61.25")
    await desk.cancel(order)
    assert (await desk.answer(order, 2)) == (499, data)


@with_desk
async def test_who_ignores_term_is_killed(desk: Desk) -> None:
    order = await desk.give({"commandLine": "trap '' TERM; echo up; sleep 62.25; sleep 62.25"})
    await desk.said(order, b"up")
    start = time.monotonic()
    await desk.cancel(order)
    code, data = await desk.answer(order)
    assert (code, data["outcome"], data["exitCode"], data["signal"]) == (499, "killed", None, signal.SIGKILL)
    assert 0.5 <= time.monotonic() - start < 60  # its sleeps were longer
    await gone("62.25")


@with_desk
async def test_a_grandchild_that_ignores_term_is_killed_too(desk: Desk) -> None:
    order = await desk.give({"commandLine": "(trap '' TERM; sleep 63.25) & echo up; exec sleep 63.25"})
    await desk.said(order, b"up")
    await desk.cancel(order)
    assert (await desk.answer(order))[1]["outcome"] == "killed"
    await gone("63.25")


@with_desk
async def test_a_cancel_before_the_order_keeps_it_from_starting(desk: Desk) -> None:
    order = desk.order({"commandLine": f"touch {desk.folder}/x"})
    await desk.cancel(order)
    code, data = await desk.answer(order)
    assert (code, data["outcome"], data["after"]) == (499, "never started", 0.0)
    await desk.reopen()
    await desk.again(order)
    assert (await desk.answer(order))[1]["outcome"] == "never started"
    assert not (desk.folder / "x").exists()


@with_desk
async def test_a_cancel_after_the_end_says_done(desk: Desk) -> None:
    order = await desk.give({"commandLine": "echo x; exit 2"})
    await desk.answer(order)
    await desk.cancel(order)
    code, data = await desk.answer(order, 2)
    assert (code, data["outcome"], data["exitCode"], data["stdout"]) == (499, "done", 2, "x\n")
    await desk.again(order)
    assert (await desk.answer(order, 3))[0] == 500


@with_desk
async def test_an_order_and_its_cancel_at_once(desk: Desk) -> None:
    order = desk.order({"commandLine": "sleep 64.25"})
    await asyncio.gather(desk.again(order), desk.cancel(order))
    code, data = await desk.answer(order)
    assert code == 499 and data["outcome"] in ("never started", "killed")
    await gone("64.25")


@with_desk
async def test_a_cancel_ends_a_sequence(desk: Desk) -> None:
    commands = [{"argv": ["echo", "one"]}, {"commandLine": "echo up; sleep 60"}, {"argv": ["id"]}]
    order = await desk.give({"commands": commands})
    await desk.said(order, b"up")
    await desk.cancel(order)
    code, data = await desk.answer(order)
    assert (code, data["outcome"], data["command"], data["stdout"]) == (499, "killed", 1, "one\nup\n")


@with_desk
async def test_a_timeout_is_a_failure(desk: Desk) -> None:
    code, data = await desk.run({"commandLine": "echo up; sleep 60", "timeout": 0.2})
    assert (code, data["outcome"], data["stdout"]) == (500, "timeout", "up\n")
    assert 0.1 < data["duration"] < 5


@with_desk
async def test_a_timeout_of_a_sequence_is_for_all_of_it(desk: Desk) -> None:
    code, data = await desk.run({"commands": [{"argv": ["sleep", "0.2"]}] * 50, "timeout": 0.5})
    assert (code, data["outcome"]) == (500, "timeout")
    assert 0 < data["command"] < 5


@with_desk
async def test_who_was_killed_by_somebody_else_was_cut_off(desk: Desk) -> None:
    order = await desk.give({"commandLine": "echo up; sleep 65.25; echo never"})
    await desk.said(order, b"up")
    (marker,) = (desk.folder / "runs").glob("*/0.started")
    os.kill(int(marker.read_text().split()[0]), signal.SIGKILL)
    code, data = await desk.answer(order)
    assert (code, data["outcome"], data["exitCode"], data["stdout"]) == (500, "cut off", None, "up\n")
    await gone("65.25")


@with_desk
async def test_nothing_is_left_of_what_has_ended(desk: Desk) -> None:
    before = children()  # what tests of a next life have left: that life is in the same process there
    for _ in range(5):
        await desk.run({"argv": ["true"]})
    await desk.quiet()
    assert not list((desk.folder / "runs").iterdir())
    await childless(before)


# ---------------------------------------------------------------------------------------------- once, and again


@with_desk
async def test_a_known_order_is_answered_from_memory(desk: Desk) -> None:
    order = await desk.give({"commandLine": f"echo x >>{desk.folder}/lines"})
    first = await desk.answer(order)
    await desk.again(order)
    assert await desk.answer(order, 2) == first
    await desk.reopen()
    await desk.again(order)
    assert await desk.answer(order) == first
    assert (desk.folder / "lines").read_text() == "x\n"


@with_desk
async def test_an_order_at_work_is_not_begun_again(desk: Desk) -> None:
    order = desk.order({"commandLine": f"echo x >>{desk.folder}/lines; read x <{desk.folder}/fifo"})
    os.mkfifo(desk.folder / "fifo")
    await asyncio.gather(*(desk.again(order) for _ in range(5)))
    await desk.wait(lambda: len(desk.answers.get(order.key, [])) == 5)
    assert {code for code, _ in desk.answers[order.key]} == {102}
    with open(desk.folder / "fifo", "w") as fifo:  # noqa: ASYNC230 - the command has it open already
        fifo.write("go\n")
    assert (await desk.answer(order))[0] == 200
    assert (desk.folder / "lines").read_text() == "x\n"


@with_desk
async def test_two_servers_may_use_one_id(desk: Desk) -> None:
    one = await desk.give({"argv": ["echo", "one"]}, id=7, tunnel="/a")
    two = await desk.give({"argv": ["echo", "two"]}, id=7, tunnel="/b")
    assert (await desk.answer(one))[1]["stdout"] == "one\n"
    assert (await desk.answer(two))[1]["stdout"] == "two\n"


@with_desk
async def test_a_running_command_is_adopted_by_the_next_life(desk: Desk) -> None:
    os.mkfifo(desk.folder / "fifo")
    order = await desk.give({"commandLine": f"echo up; cat {desk.folder}/fifo; exit 5"})
    await desk.said(order, b"up")
    await desk.reopen()
    assert [each.id for each in desk.worker.running] == [order.id]
    await asyncio.to_thread((desk.folder / "fifo").write_text, "more\n")
    code, data = await desk.answer(order)
    assert (code, data["exitCode"], data["stdout"]) == (500, 5, "up\nmore\n")
    assert [(chunk.number, chunk.data) for chunk in desk.chunks[order.id]] == [(0, b"up\n"), (1, b"more\n"), (2, b"")]


@with_desk
async def test_what_ended_meanwhile_is_answered_by_the_next_life(desk: Desk) -> None:
    order = await desk.give({"commandLine": f"echo up; while [ ! -e {desk.folder}/go ]; do sleep 0.01; done; exit 6"})
    await desk.said(order, b"up")
    await desk.close()
    (marker,) = (desk.folder / "runs").glob("*/0.started")
    (desk.folder / "go").touch()
    await asyncio.to_thread(os.waitpid, int(marker.read_text().split()[0]), 0)
    await desk.open()
    code, data = await desk.answer(order)
    assert (code, data["exitCode"]) == (500, 6)


@with_desk
async def test_a_cancel_is_carried_on_by_the_next_life(desk: Desk) -> None:
    desk.options["kill_after"] = 60.0
    await desk.reopen()
    order = await desk.give({"commandLine": "trap '' TERM; echo up; sleep 66.25; sleep 66.25"})
    await desk.said(order, b"up")
    await desk.cancel(order)
    desk.options["kill_after"] = 0.2
    await desk.reopen()
    code, data = await desk.answer(order)
    assert (code, data["outcome"]) == (499, "killed")
    await gone("66.25")


@with_desk
async def test_a_timeout_goes_on_counting_in_the_next_life(desk: Desk) -> None:
    order = await desk.give({"commandLine": "echo up; sleep 60", "timeout": 1})
    await desk.said(order, b"up")
    await desk.reopen()
    code, data = await desk.answer(order)
    assert (code, data["outcome"]) == (500, "timeout")
    assert 0.9 < data["duration"] < 5


@with_desk
async def test_an_answer_that_nobody_got_is_given_by_the_next_life_with_the_output(desk: Desk) -> None:
    desk.is_online = False
    order = await desk.give({"commandLine": "echo a; sleep 0.1; echo b"})
    await desk.wait(lambda: desk.stream(order, Stream.END))
    chunks = desk.chunks[order.id]
    await desk.reopen()
    await desk.go_online()
    code, data = await desk.answer(order)
    assert (code, data["stdout"]) == (200, "a\nb\n")
    assert desk.chunks[order.id] == chunks


@with_desk
async def test_an_order_that_was_begun_and_never_started_is_started(desk: Desk) -> None:
    order = desk.order({"commandLine": f"echo x >>{desk.folder}/lines"})
    await desk.close()
    await desk.open()
    # As a kill between the two leaves it.
    await desk.memory.begin(order, boot=_boot(), waiting=False, bare=[])
    await desk.reopen()
    assert (await desk.answer(order))[0] == 200
    assert (desk.folder / "lines").read_text() == "x\n"


@with_desk
async def test_after_a_start_of_the_machine_nothing_is_begun_that_may_have_been(desk: Desk) -> None:
    order = desk.order({"commandLine": f"echo x >>{desk.folder}/lines"})
    waiting = desk.order({"argv": ["echo", "waited"]})
    await desk.memory.begin(order, boot="another boot", waiting=False, bare=[])
    await desk.memory.begin(waiting, boot="another boot", waiting=True, bare=[])
    await desk.reopen()
    code, data = await desk.answer(order)
    assert (code, data["outcome"]) == (500, "cut off")
    assert not (desk.folder / "lines").exists()
    assert (await desk.answer(waiting))[1]["stdout"] == "waited\n"


@with_desk
async def test_a_command_that_the_machine_took_down_was_cut_off(desk: Desk) -> None:
    order = await desk.give({"commandLine": "echo up; sleep 67.25"})
    await desk.said(order, b"up")
    await desk.close()
    (marker,) = (desk.folder / "runs").glob("*/0.started")
    pid, _, rest = marker.read_text().split(" ", 2)
    os.killpg(int(pid), signal.SIGKILL)
    marker.write_text(f"{pid} another-boot {rest}")
    await desk.open()
    code, data = await desk.answer(order)
    assert (code, data["outcome"], data["stdout"]) == (500, "cut off", "up\n")


@with_desk
async def test_a_pid_that_was_given_to_another_process_is_not_taken_for_ours(desk: Desk) -> None:
    order = await desk.give({"commandLine": "echo up; sleep 60"})
    await desk.said(order, b"up")
    await desk.close()
    (marker,) = (desk.folder / "runs").glob("*/0.started")
    ours = marker.read_text()
    os.killpg(int(ours.split()[0]), signal.SIGKILL)
    # Our own line, with the number of a process that lives: this one.
    marker.write_text(f"{os.getpid()} " + ours.split(" ", 1)[1])
    await desk.open()
    assert (await desk.answer(order))[1]["outcome"] == "cut off"


@with_desk
async def test_a_right_that_was_taken_away_counts_for_what_has_not_begun(desk: Desk) -> None:
    order = desk.order({"argv": ["echo", "x"]})
    await desk.memory.begin(order, boot=_boot(), waiting=False, bare=[])
    desk.rights = "off"
    await desk.reopen()
    assert (await desk.answer(order))[0] == 403


def test_more_than_may_run_wait_and_more_than_may_wait_are_refused(tmp_path: Path) -> None:
    async def main() -> None:
        desk = await Desk(tmp_path / "orders", max_running=2).open()
        os.mkfifo(desk.folder / "fifo")
        orders = [await desk.give({"commandLine": f"echo up; read x <{desk.folder}/fifo"}) for _ in range(20)]
        late = await desk.give({"argv": ["true"]})
        assert (await desk.answer(late))[0] == 503
        await desk.said(orders[0], b"up")
        await desk.cancel(orders[5])
        assert (await desk.answer(orders[5]))[1]["outcome"] == "never started"
        assert orders[6].id not in desk.chunks
        await desk.reopen()
        for order in orders[:5] + orders[6:]:
            await desk.cancel(order)
        outcomes = [(await desk.answer(order))[1]["outcome"] for order in orders[:5] + orders[6:]]
        assert outcomes.count("killed") >= 2 and set(outcomes) <= {"killed", "never started"}
        await desk.again(late)
        assert (await desk.answer(late))[0] == 200, "a transient answer is not remembered"
        await desk.close()

    asyncio.run(main())


@with_desk
async def test_a_close_that_kills_answers_for_what_ran(desk: Desk) -> None:
    order = await desk.give({"commandLine": "echo up; sleep 68.25"})
    await desk.said(order, b"up")
    await desk.worker.close(kill=True)
    code, data = await desk.answer(order)
    assert (code, data["outcome"]) == (500, "killed")
    await gone("68.25")


class FullDisk(FileSystem):
    """A disk without room, when it is told to be."""

    is_full = False

    def write(self, descriptor: int, data: memoryview) -> int:
        if self.is_full:
            raise OSError(28, "No space left on device")
        return super().write(descriptor, data)


def test_a_full_disk_refuses_orders_for_now_and_gives_answers_all_the_same(tmp_path: Path) -> None:
    async def main() -> None:
        disk = FullDisk()
        desk = await Desk(tmp_path / "orders", files=disk).open()
        os.mkfifo(desk.folder / "fifo")
        running = await desk.give({"commandLine": f"echo up; read x <{desk.folder}/fifo"})
        await desk.said(running, b"up")
        disk.is_full = True
        refused = await desk.give({"commandLine": f"echo x >>{desk.folder}/lines"})
        code, data = await desk.answer(refused)
        assert code == 503 and "No space left" in data["message"]
        await asyncio.to_thread((desk.folder / "fifo").write_text, "go\n")
        assert (await desk.answer(running))[0] == 200
        disk.is_full = False
        await desk.again(refused)
        assert (await desk.answer(refused, 2))[0] == 200
        await desk.quiet()
        await desk.reopen()
        await desk.again(running)
        assert (await desk.answer(running))[0] == 200
        assert (desk.folder / "lines").read_text() == "x\n"
        await desk.close()

    asyncio.run(main())


@with_desk
async def test_a_command_takes_some_milliseconds(desk: Desk) -> None:
    # On a machine that has nothing else to do for a moment.
    fastest, deadline = math.inf, time.monotonic() + 60
    while fastest >= 0.03 and time.monotonic() < deadline:
        start = time.monotonic()
        await desk.run({"argv": ["true"]})
        fastest = min(fastest, time.monotonic() - start)
    assert fastest < 0.03


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()




@with_desk
async def test_a_folder_that_can_not_be_written_is_a_failure_to_start(desk: Desk) -> None:
    # The shell finds its marker there, and nobody in it: as when the disk had room for a name and for no more.
    order = desk.order({"argv": ["touch", f"{desk.folder}/x"]})
    await desk.memory.begin(order, boot=_boot(), waiting=False, bare=[])
    folder = desk.worker._folder(order.key)
    folder.mkdir()
    (folder / "0.started").symlink_to("/no/such/folder/x")
    await desk.reopen()
    code, data = await desk.answer(order)
    assert (code, data["outcome"]) == (500, "failed")
    assert data["message"] == "it could not be started: the agent's folder can't be written"
    assert not (desk.folder / "x").exists()


@with_desk
async def test_only_root_may_become_somebody_else(desk: Desk) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("puppetmaster.agent.launch.os.geteuid", lambda: 54321)
        code, data = await desk.run({"argv": ["id"], "user": "nobody"})
    assert (code, data["outcome"]) == (403, "not allowed")
    assert "does not run as root" in data["message"]
