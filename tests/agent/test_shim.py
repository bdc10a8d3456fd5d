"""The shell that a command runs under: once, whoever starts it, and however it ends."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from puppetmaster.agent.commands import Command
from puppetmaster.agent.launch import prepare
from puppetmaster.agent.shim import NOT_BEGUN, SHELL, Launch, Run, Shim, boot_id

WORDS = ["/bin/sh", "-c"]


def launch(run: Run, line: str) -> Shim:
    return run.launch(Launch(words=[*WORDS, line], directory="/", environment={"PATH": "/usr/bin:/bin"}))


def wait(shim: Shim) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(shim.pid, 0)[1])


def test_of_shells_that_start_at_once_one_begins(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        for number in range(30):
            run = Run(tmp_path, number)
            shims = list(threads.map(lambda _, run=run: launch(run, f"echo x >>{tmp_path}/lines"), range(4)))  # type: ignore[misc]
            statuses = sorted(map(wait, shims))
            assert statuses == [0, NOT_BEGUN, NOT_BEGUN, NOT_BEGUN]
            assert run.status() == 0
            winner = run.shim()
            assert winner in shims
    assert (tmp_path / "lines").read_text() == "x\n" * 30


@pytest.mark.parametrize(("line", "status"), [("exit 7", 7), ("kill -KILL $$", 137), ("kill -TERM $$", 143), ("", 0)])
def test_the_status_is_written_down(tmp_path: Path, line: str, status: int) -> None:
    run = Run(tmp_path, 0)
    assert not run.has_begun() and run.status() is None and run.shim() is None
    shim = launch(run, line)
    assert wait(shim) == 0
    assert run.has_begun() and run.status() == status
    assert not shim.is_alive() and not shim.has_group()
    assert run.stderr.read_bytes() == b""


def test_every_shell_here_can_do_it(tmp_path: Path) -> None:
    from puppetmaster.agent.shim import _SCRIPT

    for number, shell in enumerate(filter(os.path.exists, ("/bin/sh", "/bin/dash", "/bin/bash", "/bin/busybox"))):
        words = [shell, "sh"] if shell.endswith("busybox") else [shell]
        run = Run(tmp_path, number)
        base = str(tmp_path / str(number))
        for expected in (0, NOT_BEGUN):
            done = subprocess.run([*words, "-c", _SCRIPT, SHELL, base, *WORDS, "echo a b; exit 3"], capture_output=True)
            assert done.returncode == expected, shell
            assert done.stderr == b""
        assert run.status() == 3
        shim = run.shim()
        assert shim is not None and shim.boot == boot_id() and shim.start.isdigit()


def test_a_torn_marker_and_a_torn_status_say_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path, 0)
    wait(launch(run, "exit 12"))
    for path, read in ((tmp_path / "0.started", run.shim), (tmp_path / "0.exit", run.status)):
        whole = path.read_bytes()
        # What is behind the line of the status is the rest of the place that was kept for it.
        for size in range(whole.index(b"\n")):
            path.write_bytes(whole[:size])
            assert read() is None
        path.write_bytes(whole)
        assert read() is not None


def test_a_command_is_found_on_the_path_that_it_was_given(tmp_path: Path) -> None:
    program = tmp_path / "my program"
    program.write_text("#!/bin/sh\necho found $1\n")
    program.chmod(0o755)
    run = Run(tmp_path, 0)
    command = Command(argv=("my program", "-i"), environment={"PATH": f"{tmp_path}:/bin:/usr/bin"})
    assert wait(run.launch(prepare(command, "x"))) == 0
    assert run.stdout.read_bytes() == b"found -i\n"
