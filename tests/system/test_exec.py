"""``puppetmaster exec`` on fifty agents, each a process, over HTTP and on the bus."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from puppetmaster.embedded.broker import find_mosquitto
from tests.system.leftovers import end_commands
from tests.system.stand import PATIENCE, REPOSITORY, Stand

pytestmark = pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")

COUNT = 50

NAMES = [f"agent-{number:02d}" for number in range(1, COUNT + 1)]

ALL = "agent-[01-50]"


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """All of it, with fifty agents that are online; forty of them in Berlin, ten in Bonn."""
    with Stand(tmp_path_factory.mktemp("stand"), http=True, commands="all") as running:
        heard = running.listen("/remote/+/presence")
        for number, name in enumerate(NAMES):
            site = "berlin" if number < 40 else "bonn"
            arguments = ["--id", name, "--broker", running.url, "--commands", "all", "--label", f"site={site}"]
            folder = ["--folder", str(running.folder / name)]
            running.program(name, [sys.executable, "-m", "puppetmaster", "agent", *arguments, *folder])
        heard.wait_until(lambda messages: sum(m.data.get("connection") == "online" for m in messages) >= COUNT)
        running.until_answered(running.bundle, "/devices/agent-50", lambda code: code == 200)
        yield running
    end_commands(running.folder)


@pytest.fixture(params=["http", "bus"])
def way(request: pytest.FixtureRequest, stand: Stand) -> dict[str, str]:
    """What says where puppetmaster is."""
    return {"PUPPETMASTER_URL": stand.site} if request.param == "http" else {}


@contextmanager
def executing(stand: Stand, way: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "puppetmaster", "exec", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**stand.environment(), **way},
        cwd=REPOSITORY,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def execute(stand: Stand, way: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    """Its exit code, and what it said on both streams."""
    with executing(stand, way, *arguments) as process:
        out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, out, err


def read(pipe: IO[str] | None, count: int) -> list[str]:
    assert pipe is not None
    return [pipe.readline().rstrip("\n") for _ in range(count)]


def waiting_for(path: Path) -> str:
    """A command that says something, and the rest when there is a file."""
    return f"echo first from $$; until [ -e {path} ]; do sleep 0.05; done; echo second"


def test_output_of_fifty_is_seen_before_their_commands_end(stand: Stand, way: dict[str, str], tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with executing(stand, way, "-d", ALL, "--timeout", "60", "--", waiting_for(gate)) as process:
        live = read(process.stdout, COUNT)
        assert {line.split(" | ")[0] for line in live} == set(NAMES)
        assert all(re.fullmatch(r"agent-\d\d \| first from \d+", line) for line in live)
        gate.touch()
        rest = read(process.stdout, COUNT)
        assert Counter(rest) == Counter(f"{name} | second" for name in NAMES)
        out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, err) == (0, "")
        assert out.splitlines()[-1].startswith("job ") and "50 of 50 resolved" in out.splitlines()[-1]


def test_what_another_device_says_of_a_request_is_none_of_its_output(
    stand: Stand, way: dict[str, str], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    with executing(stand, way, "-d", "agent-01", "--raw", "--timeout", "60", "--", waiting_for(gate)) as process:
        assert read(process.stdout, 1)[0].startswith("first from")
        ident = max(found["id"] for found in stand.ask("get", "/requests?destination=agent-01")[1])
        for number, said in ((10**6, {"stream": "stdout", "text": "forged"}), (10**7, {"stream": "end", "code": 200})):
            chunk = {"number": number, "offset": 0, "time": "2026-01-31T12:00:00.000Z", **said}
            stand.publish(f"/remote/agent-02/output/{ident}", chunk)
        gate.touch()
        out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, err) == (0, "")
        assert out.splitlines()[0] == "second" and "forged" not in out


def test_equal_outputs_are_told_together_those_that_failed_at_the_end(stand: Stand, way: dict[str, str]) -> None:
    code, out, err = execute(stand, way, "-t", "site=berlin", "--quiet", "--", "echo same")
    assert (code, err) == (0, "")
    assert out.splitlines()[:2] == ["40 devices: agent-[01-40]", "    same"]

    code, out, err = execute(stand, way, "-d", "agent-[01-03]", "--quiet", "--", "echo oh >&2; exit 3")
    assert (code, err) == (1, "")
    assert out.splitlines()[:2] == ["3 devices, exit code 3: agent-[01-03]", "  ! oh"]
    assert "0 of 3 resolved, 3 errors" in out


def test_where_and_how_it_runs(stand: Stand, way: dict[str, str]) -> None:
    arguments = ["-t", "site=bonn", "--sample", "1", "--online", "--cwd", "/usr", "--env", "A=b c", "--no-summary"]
    code, out, _ = execute(stand, way, *arguments, "--", "pwd;", "echo", '"$A"')
    assert code == 0
    assert [line.split(" | ")[1] for line in out.splitlines()] == ["/usr", "b c"]

    code, out, _ = execute(stand, way, "-d", "agent-01", "--timeout", "0.3", "--", "sleep 60")
    assert code == 1 and out.startswith("1 device, took too long and was ended: agent-01\n")

    code, out, _ = execute(stand, way, "-t", "site=berlin", "--dry-run", "--", "reboot")
    assert code == 0 and "40 requests to 40 destinations; nothing was made" in out


def test_a_large_output_comes_whole_as_far_as_the_agent_tells_it(stand: Stand, way: dict[str, str]) -> None:
    code, out, err = execute(stand, way, "-d", "agent-[01-05]", "--no-summary", "--", "seq 1 20000")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    for name in NAMES[:5]:
        numbers = [line.split(" | ")[1] for line in lines if line.startswith(name)]
        assert numbers == [str(number) for number in range(1, 20_001)]


def test_raw_bytes_come_as_they_are(stand: Stand, way: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "puppetmaster", "exec", "-d", "agent-01", "--raw", r"printf '\377\000\n'; printf x"],
        capture_output=True, env={**stand.environment(), **way}, cwd=REPOSITORY, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, b"\xff\x00\nx", b"")


def test_json_lines_are_for_scripts(stand: Stand, way: dict[str, str]) -> None:
    code, out, _ = execute(stand, way, "-d", "agent-[01-02]", "--json", "--", "echo hello")
    assert code == 0
    documents = [json.loads(line) for line in out.splitlines()]
    assert Counter(document["type"] for document in documents) == {"output": 4, "result": 2, "job": 1}
    said = {document["destination"]: document["text"] for document in documents if "text" in document}
    assert said == {"agent-01": "hello\n", "agent-02": "hello\n"}
    assert documents[-1]["status"] == "resolved"


# Ctrl-C


def job_of(stand: Stand, name: str) -> dict[str, object]:
    return next(job for job in stand.ask("get", "/jobs")[1] if job["name"] == name)


def test_after_one_ctrl_c_the_job_goes_on(stand: Stand, way: dict[str, str], tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with executing(stand, way, "-d", "agent-01", "--", waiting_for(gate)) as process:
        read(process.stdout, 1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "Ctrl-C once more within 3 s calls job" in err and "goes on without this command" in err
    found = re.search(r"job (\d+) goes on", err)
    assert found is not None
    assert stand.job(int(found[1]))["status"] == "dispatching"
    gate.touch()
    assert stand.wait_job(int(found[1]))["status"] == "resolved"


@pytest.mark.parametrize("presses", [1, 2])
def test_a_second_ctrl_c_or_a_flag_calls_the_job_off(
    stand: Stand, way: dict[str, str], tmp_path: Path, presses: int
) -> None:
    flag = ["--cancel-on-interrupt"] if presses == 1 else []
    started = tmp_path / "pid"
    line = f"echo $$ > {started}; echo begun; sleep 1000"
    with executing(stand, way, "-d", "agent-02", *flag, "--", line) as process:
        read(process.stdout, 1)
        process.send_signal(signal.SIGINT)
        if presses == 2:
            assert "once more" in read(process.stderr, 1)[0]
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "was called off" in err
    assert "1 device, canceled" in out
    with pytest.raises(ProcessLookupError):
        for _ in range(1000):
            os.kill(int(started.read_text()), 0)
            stand.ask("get", "/jobs?limit=0")  # takes its time


# A terminal


def test_on_a_terminal_names_have_colours_and_errors_are_red(stand: Stand) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "puppetmaster", "exec", "-d", "agent-01", "--", "echo out; echo bad >&2"],
        stdout=slave, stderr=slave, env={**stand.environment(), "PUPPETMASTER_URL": stand.site, "TERM": "xterm"},
        cwd=REPOSITORY,
    )  # fmt: skip
    os.close(slave)
    shown = b""
    try:
        while data := os.read(master, 65536):
            shown += data
    except OSError:
        pass  # the end of a terminal
    assert process.wait(PATIENCE) == 0
    assert re.search(rb"\x1b\[\d+magent-01\x1b\[0m \| out", shown)
    assert re.search(rb"! \x1b\[31mbad\x1b\[0m", shown)
