"""Which jobs are refused before the memory runs out, and what is read of the memory."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from puppetmaster.errors import MemoryShort
from puppetmaster.logs import LOG_INTERVAL, Seldom
from puppetmaster.memory_guard import KEPT_BYTES, LIVE_BYTES, MIB, MemoryGuard
from puppetmaster.process_memory import available_bytes, default_limit, resident_bytes, trim


class Process:
    """A process whose memory is what a test says, of which ``loose`` goes back when it is asked for."""

    def __init__(self, used: int, loose: int = 0) -> None:
        self.used, self.loose, self.trims = used, loose, 0

    def trim(self) -> None:
        self.used, self.loose, self.trims = self.used - self.loose, 0, self.trims + 1

    def guard(self, limit: int) -> MemoryGuard:
        return MemoryGuard(limit, lambda: self.used, self.trim)


def admit(guard: MemoryGuard, cost: int, *, live: int = 0, kept: int = 0) -> None:
    guard.admit(cost // LIVE_BYTES, 0, live=live, kept=kept)


def test_a_job_that_fits_is_taken_and_one_that_does_not_is_refused() -> None:
    process = Process(60 * MIB)
    guard = process.guard(100 * MIB)
    admit(guard, 40 * MIB)
    with pytest.raises(MemoryShort) as caught:
        admit(guard, 41 * MIB)
    assert caught.value.code == 503
    assert str(caught.value) == (
        "memory is short: a job of 33070 requests takes about 41 MiB, and 60 of 100 MiB are in use; remove jobs, wait "
        "until some have ended, or raise max_memory"
    )
    assert guard.refused == 1


def test_the_messages_count_too() -> None:
    guard = Process(60 * MIB).guard(64 * MIB)
    guard.admit(1, 400_000, live=0, kept=0)
    with pytest.raises(MemoryShort):
        guard.admit(1, 450_000, live=0, kept=0)


def test_what_the_allocator_can_give_back_is_asked_for_before_a_job_is_refused() -> None:
    process = Process(60 * MIB)
    guard = process.guard(100 * MIB)
    process.used, process.loose = 90 * MIB, 20 * MIB
    admit(guard, 5 * MIB)
    assert process.trims == 0
    admit(guard, 25 * MIB)
    assert (process.trims, guard.refused) == (1, 0)


def test_what_jobs_that_are_gone_have_left_behind_is_used_first() -> None:
    process = Process(60 * MIB)
    guard = process.guard(100 * MIB)
    requests = 30 * MIB // LIVE_BYTES
    admit(guard, 30 * MIB)
    process.used = 90 * MIB
    with pytest.raises(MemoryShort):
        admit(guard, 30 * MIB, live=requests, kept=requests)
    admit(guard, 30 * MIB)  # the first is removed, and the process still has its 30 MiB
    with pytest.raises(MemoryShort):  # more than it left does not fit
        admit(guard, 41 * MIB)


def test_memory_that_no_job_has_left_counts_as_used() -> None:
    process = Process(60 * MIB)
    guard = process.guard(100 * MIB)
    process.used = 90 * MIB  # something else took 30 MiB
    with pytest.raises(MemoryShort):
        admit(guard, 30 * MIB)


def test_what_jobs_left_is_not_subtracted_when_the_system_has_got_it_back() -> None:
    process = Process(60 * MIB)
    guard = process.guard(100 * MIB)
    process.used = 90 * MIB
    guard.admit(1, 0, live=30 * MIB // LIVE_BYTES, kept=30 * MIB // KEPT_BYTES // 4)
    process.used = 61 * MIB
    with pytest.raises(MemoryShort):
        admit(guard, 42 * MIB)


def test_what_the_system_got_back_and_others_took_since_counts_as_used() -> None:
    process = Process(60 * MIB)
    guard = process.guard(200 * MIB)
    process.used = 160 * MIB
    admit(guard, MIB, live=100 * MIB // LIVE_BYTES, kept=100 * MIB // LIVE_BYTES)
    process.used = 65 * MIB  # the jobs are removed
    guard.look(0, 0)
    process.used = 160 * MIB
    with pytest.raises(MemoryShort):
        admit(guard, 60 * MIB)


def test_it_is_said_once_that_memory_is_short_and_once_that_it_is_not(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    process = Process(91 * MIB)
    guard = process.guard(100 * MIB)
    for _ in range(3):
        with pytest.raises(MemoryShort):
            admit(guard, 20 * MIB)
        admit(guard, MIB)  # a small one fits, which ends nothing
        guard.look(0, 0)
    process.used = 80 * MIB
    guard.look(0, 0)
    guard.look(0, 0)
    assert [record.__dict__["event"] for record in caplog.records] == ["memory_short", "memory_available"]
    assert caplog.messages == [
        "memory is short: 91 of 100 MiB are in use; jobs that would take more are refused",
        "there is memory again: 80 of 100 MiB are in use",
    ]


def test_who_has_it_short_and_not_short_in_turn_gets_few_lines_and_what_lasts_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 0.0
    guard = Process(60 * MIB).guard(100 * MIB)
    guard._seldom = Seldom(lambda: now)

    def refuse() -> None:
        with pytest.raises(MemoryShort):
            admit(guard, 50 * MIB)

    for _ in range(100):
        refuse()
        admit(guard, 20 * MIB)
    assert [record.__dict__["event"] for record in caplog.records] == ["memory_short", "memory_available"]
    refuse()
    assert len(caplog.records) == 2
    now = LOG_INTERVAL
    refuse()
    refuse()
    assert [record.__dict__["event"] for record in caplog.records[2:]] == ["memory_short"]
    assert caplog.records[2].__dict__["count"] == 101
    admit(guard, 20 * MIB)
    assert [record.__dict__["event"] for record in caplog.records[3:]] == ["memory_available"]


def test_health_says_that_memory_is_short_when_hardly_any_job_fits() -> None:
    process = Process(90 * MIB)
    guard = process.guard(100 * MIB)
    assert guard.shortage == ""
    process.used = 99 * MIB + 1
    assert guard.shortage == "99 of 100 MiB are in use"


def test_health_says_nothing_while_jobs_fit_into_what_others_left_behind() -> None:
    process = Process(60 * MIB)
    guard = process.guard(100 * MIB)
    process.used = 100 * MIB - 1
    guard.look(live=39 * MIB // LIVE_BYTES, kept=39 * MIB // LIVE_BYTES)
    assert guard.shortage != ""
    admit(guard, 30 * MIB)  # they are removed
    assert guard.shortage == ""


def test_what_the_allocator_can_give_back_is_asked_for_before_health_says_that_memory_is_short_for_long() -> None:
    process = Process(60 * MIB)
    guard = process.guard(100 * MIB)
    process.used, process.loose = 100 * MIB, 20 * MIB
    guard.look(0, 0)
    assert (process.trims, guard.shortage) == (1, "")


# What is read


def test_the_memory_of_this_process_is_read() -> None:
    before = resident_bytes()
    assert 5 * MIB < before < 100_000 * MIB
    filler = b"x" * (64 * MIB)
    assert resident_bytes() - before > 48 * MIB
    del filler
    trim()


def group(tmp_path: Path, lines: str, **limits: str) -> int:
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    proc.mkdir()
    (proc / "cgroup").write_text(lines)
    for name, limit in limits.items():
        path = cgroups / name.replace("__", "/").replace("_max", ".max").replace("_limit", ".limit")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(limit)
    return available_bytes(proc, cgroups)


MACHINE = available_bytes(Path("/nonexistent"), Path("/nonexistent"))


def test_the_limit_of_the_control_group_counts(tmp_path: Path) -> None:
    found = group(tmp_path, "0::/system/own\n", system__own__memory_max=f"{50 * MIB}\n", system__memory_max="max\n")
    assert found == 50 * MIB


def test_a_limit_above_counts_too(tmp_path: Path) -> None:
    found = group(tmp_path, "0::/system/own\n", system__own__memory_max="max\n", system__memory_max=f"{40 * MIB}\n")
    assert found == 40 * MIB


def test_in_a_container_the_limit_is_at_the_root(tmp_path: Path) -> None:
    assert group(tmp_path, "0::/../../out/there\n", memory_max=f"{30 * MIB}\n") == 30 * MIB


def test_the_limit_of_the_older_control_groups_counts(tmp_path: Path) -> None:
    lines = "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n"
    found = group(tmp_path, lines, memory__docker__abc__memory_limit_in_bytes=f"{20 * MIB}\n")
    assert found == 20 * MIB


def test_without_a_limit_it_is_the_memory_of_the_machine(tmp_path: Path) -> None:
    assert group(tmp_path, "0::/\n", memory_max="max\n") == MACHINE
    assert 0 < default_limit() <= MACHINE * 0.8
