"""Kills, power cuts, full and broken disks: what was acknowledged is there, and units are whole."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from puppetmaster.errors import StoreLocked, StoreUnavailable
from puppetmaster.store import TinyStore, journal
from puppetmaster.store.files import SystemFiles
from tests.store.faulty import FaultyFileSystem, PowerlessFileSystem, QuickFileSystem, always, once
from tests.store.workload import (
    ROUNDS,
    content_after,
    content_of,
    copy_files,
    live,
    make_template,
    put_round,
    rounds_in,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _compact_often(monkeypatch):
    monkeypatch.setattr(journal, "MIN_COMPACTION_SIZE", 600)


def look(folder: Path) -> int:
    store = TinyStore.open(folder, files=QuickFileSystem())
    try:
        return rounds_in(store)
    finally:
        store._journal.close()


def last_acknowledged(folder: Path) -> int:
    acks = folder / "acks"
    return int((acks.read_text().split() or ["0"])[-1]) if acks.exists() else 0


@pytest.mark.parametrize("when", ["before", "within", "after", "beside"])
@pytest.mark.parametrize("rounds", [0, 3])
def test_a_kill_at_any_step_loses_nothing_that_was_acknowledged(tmp_path, when, rounds):
    if rounds:
        make_template(tmp_path / "scratch", tmp_path / "template", rounds)
    else:
        (tmp_path / "template").mkdir()
    subprocess.run([sys.executable, "-m", "tests.store.workload", str(tmp_path), when], cwd=ROOT, check=True)
    lives = [folder for folder in tmp_path.iterdir() if folder.name.isdigit()]
    assert len(lives) > 40
    for folder in lives:
        acknowledged = max(rounds, last_acknowledged(folder))
        assert acknowledged <= look(folder) <= acknowledged + 1
        # What an opening repaired stays repaired.
        assert acknowledged <= look(folder) <= acknowledged + 1


@pytest.mark.parametrize("call", ["fdatasync", "fsync", "rename", "pwritev2"])
def test_a_kill_at_the_system_call_itself_loses_nothing(tmp_path, call):
    """The same with the real thing: no code of ours decides where it dies."""
    if not shutil.which("strace"):
        pytest.skip("strace is not installed")
    number, survived = 0, False
    while not survived:
        number += 1
        folder = tmp_path / str(number)
        folder.mkdir()
        result = run_under_strace(folder, f"inject={call}:signal=KILL:when={number}")
        if b"ptrace" in result.stderr.lower():
            pytest.skip("tracing is not allowed here")
        assert result.returncode in (0, -signal.SIGKILL), result.stderr.decode()
        survived = result.returncode == 0
        acknowledged = last_acknowledged(folder)
        assert acknowledged <= look(folder) <= acknowledged + 1
    assert number > 2


def run_under_strace(folder: Path, inject: str) -> subprocess.CompletedProcess[bytes]:
    program = "import sys, pathlib, tests.store.workload as w; w.main_once(pathlib.Path(sys.argv[1]))"
    strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", inject]
    command = [*strace, sys.executable, "-c", program, str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False)


def test_a_power_cut_at_any_step_loses_nothing_that_was_acknowledged(tmp_path):
    """Whatever was not synced is lost, torn or reordered, and names come and go."""
    chance, cuts = random.Random(7), 0
    acknowledged = 0

    def cut() -> None:
        nonlocal cuts
        for _ in range(3):
            cuts += 1
            before = acknowledged  # another thread of the store may go on meanwhile
            files.cut(tmp_path / str(cuts), chance)
            assert before <= look(tmp_path / str(cuts)) <= acknowledged + 1
            shutil.rmtree(tmp_path / str(cuts))

    def acknowledge(number: int) -> None:
        nonlocal acknowledged
        acknowledged = number

    files = PowerlessFileSystem()
    files.on_call = cut
    asyncio.run(live(TinyStore.open(tmp_path / "live", files=files), acknowledge))
    assert acknowledged == ROUNDS
    assert cuts > 150


async def live_stubbornly(folder: Path, files: FaultyFileSystem) -> int:
    """Play the workload, trying again whatever was refused; return how often that was."""
    refused = checked = 0
    store = None
    while store is None:
        try:
            store = TinyStore.open(folder, files=files)
        except StoreUnavailable:
            refused += 1
    for number in range(1, ROUNDS + 1):
        put_round(store, number)
        try:
            await store.commit()
        except StoreUnavailable:
            refused += 1
            await store.commit()
        if refused > checked or number % 5 == 0:
            checked = refused
            copy = copy_files(store, folder, folder.parent / "copy")
            assert look(copy) == number
            shutil.rmtree(copy)
    await store.close()
    return refused


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_one_failure_at_any_step_is_told_or_harmless(tmp_path, code, when):
    """``after`` is the call that did it and says it failed."""
    number, refused = 0, 0
    while True:
        number += 1
        files = FaultyFileSystem(**{when: once(number, code)})
        refused += asyncio.run(live_stubbornly(tmp_path / str(number) / "store", files))
        assert look(tmp_path / str(number) / "store") == ROUNDS
        if len(files.calls) < number:
            break
    assert number > 50
    assert refused > 20


@pytest.mark.parametrize("operations", [["sync"], ["write"], ["write", "open"], ["replace"], ["sync_folder"]], ids=str)
def test_a_disk_that_fails_for_ever_is_told_every_time_and_heals(tmp_path, operations):
    async def scenario() -> None:
        files = FaultyFileSystem()
        store = TinyStore.open(tmp_path / "store", files=files)
        put_round(store, 1)
        await store.commit()
        # From here on the journal has to be given up, so that every operation is needed.
        files.before = always("sync")
        put_round(store, 2)
        with pytest.raises(StoreUnavailable, match="Input/output error"):
            await store.commit()
        files.before = always(*operations)
        for number in range(3, 6):
            put_round(store, number)
            with pytest.raises(StoreUnavailable, match="Input/output error"):
                await store.commit()
            assert content_of(store) == content_after(number)
            copy_files(store, tmp_path / "store", tmp_path / str(number))
            # Nothing later is promised, and nothing acknowledged is gone.
            assert 1 <= look(tmp_path / str(number)) <= number
        files.before = None
        await store.commit()
        copy_files(store, tmp_path / "store", tmp_path / "healed")
        assert look(tmp_path / "healed") == 5
        put_round(store, 6)
        await store.close()

    asyncio.run(scenario())
    assert look(tmp_path / "store") == 6


def test_a_journal_is_never_appended_to_after_a_failed_sync(tmp_path):
    async def scenario() -> None:
        files = FaultyFileSystem()
        store = TinyStore.open(tmp_path, files=files)
        put_round(store, 1)
        files.before = always("sync")
        with pytest.raises(StoreUnavailable):
            await store.commit()
        old = tmp_path / "puppetmaster.journal.1"
        before = old.read_bytes()
        put_round(store, 2)
        with pytest.raises(StoreUnavailable):
            await store.commit()
        assert old.read_bytes() == before
        files.before = None
        await store.commit()
        assert not old.exists()
        await store.close()

    asyncio.run(scenario())


def test_a_compaction_that_fails_harms_no_commit_and_is_not_tried_at_once(tmp_path, caplog):
    async def scenario() -> None:
        files = FaultyFileSystem()
        store = TinyStore.open(tmp_path, files=files)
        files.before = always("open", code=errno.ENOSPC)
        for number in range(1, ROUNDS + 1):
            put_round(store, number)
            await store.commit()
        await store.close()

    asyncio.run(scenario())
    failures = [message for message in caplog.messages if "can't compact" in message]
    assert 1 < len(failures) < ROUNDS
    assert "No space left" in failures[0]
    assert look(tmp_path) == ROUNDS


def test_a_failed_last_commit_is_told_and_the_lock_is_free(tmp_path):
    files = FaultyFileSystem()
    store = TinyStore.open(tmp_path, files=files)
    put_round(store, 1)
    files.before = always("sync")
    with pytest.raises(StoreUnavailable):
        asyncio.run(store.close())
    asyncio.run(store.close())
    assert look(tmp_path) in (0, 1)


@pytest.mark.parametrize("most", [1, 7, 100])
def test_short_writes_are_continued(tmp_path, most):
    files = FaultyFileSystem(most=most)
    asyncio.run(live(TinyStore.open(tmp_path, files=files), lambda number: None))
    assert look(tmp_path) == ROUNDS


def test_a_write_that_takes_nothing_is_an_error_and_no_endless_loop(tmp_path):
    class Stuck(QuickFileSystem):
        def write(self, descriptor: int, data: memoryview) -> int:
            return 0

    with pytest.raises(StoreUnavailable):
        TinyStore.open(tmp_path, files=Stuck())


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a mebibyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_refuses_commits_serves_reads_and_recovers(small_disk, tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "MIN_COMPACTION_SIZE", 8 << 20)
    blob = {"text": "x" * 20_000}

    async def scenario() -> None:
        store = TinyStore.open(small_disk / "store")
        (small_disk / "ballast").write_bytes(bytes(600_000))
        committed = 0
        with pytest.raises(StoreUnavailable, match="No space left"):
            for number in range(100):
                store.put("blobs", {number: blob})
                await store.commit()
                committed += 1
        assert committed > 5
        copy_files(store, small_disk / "store", tmp_path / "full")
        assert store.get("blobs", 0) == blob
        with pytest.raises(StoreUnavailable, match="No space left"):
            await store.commit()
        assert not (small_disk / "store" / "puppetmaster.json.tmp").exists()
        (small_disk / "ballast").unlink()
        await store.commit()
        copy_files(store, small_disk / "store", tmp_path / "recovered")
        await store.close()
        check_blobs(tmp_path / "full", committed, committed)
        check_blobs(tmp_path / "recovered", committed + 1, committed + 1)

    def check_blobs(folder: Path, least: int, most: int) -> None:
        store = TinyStore.open(folder)
        assert least <= store.count("blobs") <= most
        assert all(document == blob for _, document in store.scan("blobs"))
        store._journal.close()

    asyncio.run(scenario())


def test_a_store_on_a_full_disk_opens(small_disk):
    async def live_shortly() -> None:
        store = TinyStore.open(small_disk / "store")
        put_round(store, 1)
        await store.close()

    asyncio.run(live_shortly())
    with pytest.raises(OSError), (small_disk / "ballast").open("wb") as ballast:
        while True:
            ballast.write(bytes(4096))
            ballast.flush()
    store = TinyStore.open(small_disk / "store")
    assert rounds_in(store) == 1
    store._journal.close()


async def _commit(store: TinyStore, number: int) -> None:
    store.put("jobs", {number: {"n": number}})
    await store.commit()


def test_a_folder_that_is_removed_is_noticed_at_once_and_all_of_it_goes_to_a_new_one(tmp_path):
    async def main() -> None:
        folder = tmp_path / "data"
        store = TinyStore.open(folder)
        await _commit(store, 1)
        shutil.rmtree(folder)
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="the data folder was removed"):
                await _commit(store, 2)
            assert store.unavailable
        folder.mkdir()
        await _commit(store, 3)
        assert store.unavailable == ""
        with pytest.raises(StoreLocked):
            TinyStore.open(folder)
        store._journal.close()
        again = TinyStore.open(folder)
        assert [number for number, _ in again.scan("jobs")] == [1, 2, 3]
        await again.close()

    asyncio.run(main())


def test_a_folder_that_is_away_for_a_while_is_used_again(tmp_path):
    async def main() -> None:
        folder = tmp_path / "data"
        store = TinyStore.open(folder)
        await _commit(store, 1)
        folder.rename(tmp_path / "elsewhere")
        with pytest.raises(StoreUnavailable):
            await _commit(store, 2)
        (tmp_path / "elsewhere").rename(folder)
        await _commit(store, 3)
        store._journal.close()
        again = TinyStore.open(folder)
        assert again.count("jobs") == 3
        await again.close()

    asyncio.run(main())


def test_another_store_in_the_place_of_the_folder_is_not_overwritten(tmp_path):
    async def main() -> None:
        folder = tmp_path / "data"
        store = TinyStore.open(folder)
        await _commit(store, 1)
        folder.rename(tmp_path / "elsewhere")
        other = TinyStore.open(folder)
        await _commit(other, 7)
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match=r"removed|another store was put in its place, restart"):
                await _commit(store, 2)
        await other.close()
        with pytest.raises(StoreUnavailable, match="another store was put in its place, restart"):
            await _commit(store, 2)
        with pytest.raises(StoreUnavailable):
            await store.close()
        again = TinyStore.open(folder)
        assert [number for number, _ in again.scan("jobs")] == [7]
        await again.close()

    asyncio.run(main())


def test_a_commit_is_one_call_and_two_where_the_system_has_no_such_call(tmp_path, monkeypatch):
    offsets = []

    def written(files: SystemFiles) -> bytes:
        descriptor = files.open(tmp_path / "file", os.O_RDWR | os.O_CREAT | os.O_APPEND)
        offset = os.fstat(descriptor).st_size
        files.write_synced(descriptor, b"one two ", offset)
        files.close(descriptor)
        return (tmp_path / "file").read_bytes()

    def stutter(descriptor: int, buffers: list[memoryview], offset: int, flags: int) -> int:
        assert flags == os.RWF_DSYNC
        offsets.append(offset)
        return os.write(descriptor, buffers[0][:5])

    def refuse(*_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, "no")

    assert written(SystemFiles()) == b"one two "
    monkeypatch.setattr(os, "pwritev", stutter)
    assert written(SystemFiles()) == b"one two " * 2
    assert offsets == [8, 13]
    monkeypatch.setattr(os, "pwritev", refuse)
    assert written(SystemFiles()) == b"one two " * 3
