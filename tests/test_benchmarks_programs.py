"""What benchmarks start: its output is taken, its failure is told, and it is gone when they are."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from benchmarks import __main__ as command
from benchmarks.options import Failed
from benchmarks.programs import TooSlow, output_of
from benchmarks.stand import Timed
from tests.running import running

FOREVER = "import signal; signal.pause()"

TELLS = "import signal, sys; open(sys.argv[1], 'w').write('up'); signal.pause()"
"""Tells a pipe that it is there."""


def run(script: str, **how: object) -> str:
    return asyncio.run(output_of(sys.executable, "-c", script, **how))  # type: ignore[arg-type]


def left() -> list[psutil.Process]:
    return running("signal.pause")


def test_a_program_is_given_its_input_and_tells_its_output() -> None:
    assert run("print(input()[::-1])", given=b"abc") == "cba\n"


def test_a_program_that_ends_in_another_way_is_no_result() -> None:
    with pytest.raises(Failed, match="status 3"):
        run("raise SystemExit(3)")
    assert run("import os; os.kill(os.getpid(), 9)", status=-9) == ""


def test_a_program_that_does_not_end_is_ended() -> None:
    with pytest.raises(TooSlow):
        run(FOREVER, timeout=0.3)
    assert left() == []


def test_a_program_ends_with_who_waits_for_it(tmp_path: Path) -> None:
    async def call_off() -> None:
        task = asyncio.create_task(output_of(sys.executable, "-c", TELLS, pipe))
        assert await asyncio.to_thread(pipe.read_text) == "up"
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    asyncio.run(call_off())
    assert left() == []


def test_runs_together_have_the_rate_of_their_sums() -> None:
    both = Timed.together([Timed(10, 1.0, {"bundle": 0.5}), Timed(30, 1.0, {"bundle": 1.5})])
    assert both == Timed(40, 2.0, {"bundle": 2.0})
    assert (both.rate, both.cpu_microseconds("bundle")) == (20.0, 50_000.0)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--quick", "--docs"], "its figures say nothing"),
        (["--rounds", "0"], "1 or more"),
        (["--docs"], "make bench installs it"),
        (["--only", "speed"], "invalid choice"),
    ],
)
def test_what_can_not_be_done_is_said_before_anything_is_measured(
    arguments: Sequence[str], why: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "_has_matplotlib", lambda: False)
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    assert why in capsys.readouterr().err
