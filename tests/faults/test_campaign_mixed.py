"""Two or three faults at once, and bugs that were planted: a campaign that finds none of these would prove nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.bundle import ack_before_commit, no_fsync
from tests.faults.campaign import Campaign, plan
from tests.faults.kinds import MIXED
from tests.faults.kinds.parts import KillBundle
from tests.faults.share import Share

SEED, KINDS = "planted", [KillBundle.name]

RUNS = 2
"""In which a bug must be found; without one they must be green."""


def test_mixed_faults_lose_nothing_and_do_nothing_twice(tmp_path: Path) -> None:
    with Share(tmp_path) as share:
        for number in range(2):
            result = share.play(MIXED, number, is_last=number == 1)
            assert result.violations == [], result.line()


def telling_runs() -> Iterator[int]:
    """Runs that must tell: the kill comes as soon as a job was answered over HTTP, on a disk that syncs slowly, and
    what is not synced is lost. They are drawn like all others; these are the first of that kind."""
    names = [f"device-{number}" for number in range(58)]
    number = -1
    for _ in range(RUNS):
        while True:
            number += 1
            drawn = plan(SEED, number, KINDS, names)
            [fault] = drawn.faults
            assert isinstance(fault, KillBundle)
            first = drawn.steps[: int(fault.moment.count)]
            at_once = fault.moment.what == "answered" and fault.moment.after == 0
            slow = fault.delay >= 0.1 and fault.keep == 0
            if at_once and slow and all(step.edge == "http" and not step.posted.is_bad for step in first):
                break
        yield number


@pytest.mark.parametrize("bug", [ack_before_commit.__name__, no_fsync.__name__])
def test_a_planted_bug_is_found(tmp_path: Path, bug: str) -> None:
    found = []
    for result in Campaign(SEED, KINDS, folder=tmp_path, bugs=[bug]).play(telling_runs()):
        found = result.violations
        if found:
            break
    assert found, f"{RUNS} runs have not found {bug}"
    kept = Path(result.kept)
    assert (kept / "run.json").exists() and (kept / "parts" / "bundle.log").stat().st_size


def test_without_a_planted_bug_the_same_runs_are_green(tmp_path: Path) -> None:
    results = list(Campaign(SEED, KINDS, folder=tmp_path).play(telling_runs()))
    assert [result.violations for result in results] == [[]] * RUNS
