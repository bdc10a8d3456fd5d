"""The output of commands in files, and those who read it."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import tracemalloc
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from puppetmaster import chunks, outputs
from puppetmaster.chunks import Chunk, Stream
from puppetmaster.effects import Change
from puppetmaster.errors import FileUnavailable
from puppetmaster.output_file import BLOCK, MAX_LINE, OutputFile, position_of, read_on
from puppetmaster.outputs import Outputs
from tests.fast_loop import run

TIME = "2026-01-31T12:00:00.000Z"
ONE, TWO = 1_000_001, 1_000_002


def stdout(number: int, data: bytes = b"hello\n", offset: int = 0) -> Chunk:
    return Chunk(number=number, stream=Stream.STDOUT, offset=offset, time=TIME, data=data)


def end(number: int, code: int = 200) -> Chunk:
    return Chunk(number=number, stream=Stream.END, time=TIME, code=code)


def numbers(found: list[Chunk]) -> list[int]:
    return [chunk.number for chunk in found]


@pytest.fixture
def final() -> set[int]:
    """The requests that have ended."""
    return set()


@pytest.fixture
def kept(tmp_path: Path, final: set[int]) -> Outputs:
    return Outputs(tmp_path / "output", is_final=final.__contains__, now=clock)


def again(kept: Outputs, **options: Any) -> Outputs:
    """The same after a restart."""
    kept.close()
    return Outputs(kept._folder, is_final=kept._is_final, now=clock, **options)


def clock() -> float:
    """The time of the loop, which may be a fast one; before there is one it is long ago."""
    try:
        return 1000.0 + asyncio.get_running_loop().time()
    except RuntimeError:
        return 1.0


# Chunks


def test_what_is_put_in_comes_out(kept: Outputs) -> None:
    put = [stdout(0), stdout(1, b"\xff\x00", 6), end(2)]
    for chunk in put:
        assert kept.append(ONE, chunk)
    assert kept.read(ONE) == put
    assert kept.read(ONE, start=1, limit=1) == put[1:2]
    assert kept.read(TWO) == []


def test_a_chunk_that_is_known_is_ignored_and_a_gap_stays_a_gap(kept: Outputs) -> None:
    for number in (0, 1, 1, 0, 4, 3, 4, 7):
        kept.append(ONE, stdout(number))
    assert numbers(kept.read(ONE)) == [0, 1, 4, 7]
    assert kept.ignored == 4


def test_nothing_comes_behind_the_end(kept: Outputs) -> None:
    kept.append(ONE, end(0))
    assert not kept.append(ONE, stdout(1))
    assert not again(kept).append(ONE, stdout(1))


def test_after_a_restart_it_goes_on_where_it_stopped(kept: Outputs) -> None:
    for number in range(3):
        kept.append(ONE, stdout(number))
    kept = again(kept)
    for number in range(5):
        kept.append(ONE, stdout(number))
    assert numbers(kept.read(ONE)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("torn", [1, 20, 60])
def test_a_torn_line_is_ignored_and_cut_off(kept: Outputs, torn: int) -> None:
    for number in range(3):
        kept.append(ONE, stdout(number))
    kept.close()
    path = kept._folder / str(ONE)
    os.truncate(path, path.stat().st_size - torn)
    assert numbers(kept.read(ONE)) == [0, 1]
    kept = again(kept)
    kept.append(ONE, stdout(2, b"again"))
    assert [chunk.data for chunk in kept.read(ONE)] == [b"hello\n", b"hello\n", b"again"]


def test_a_file_of_nothing_but_a_torn_line_begins_anew(kept: Outputs) -> None:
    kept.append(ONE, stdout(0))
    kept.close()
    os.truncate(kept._folder / str(ONE), 10)
    kept = again(kept)
    kept.append(ONE, stdout(0, b"whole"))
    assert kept.read(ONE) == [stdout(0, b"whole")]


def test_a_damaged_line_is_a_gap(kept: Outputs) -> None:
    for number in range(3):
        kept.append(ONE, stdout(number))
    path = kept._folder / str(ONE)
    content = bytearray(path.read_bytes())
    content[content.index(b'"number":1') + 3] = 0
    path.write_bytes(content)
    assert numbers(kept.read(ONE)) == [0, 2]


def test_other_files_in_the_folder_are_left_alone(kept: Outputs) -> None:
    (kept._folder / "notes.txt").write_text("mine")
    kept = again(kept)
    assert kept.used == 0 and (kept._folder / "notes.txt").exists()


def test_a_folder_that_can_not_be_used_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "output").write_text("a file")
    with pytest.raises(FileUnavailable):
        Outputs(tmp_path / "output")


@pytest.mark.parametrize("data", [b"\x00" * chunks.MAX_CHUNK_BYTES, b'"' * chunks.MAX_CHUNK_BYTES, os.urandom(32768)])
def test_the_largest_chunks_fit_a_line(kept: Outputs, data: bytes) -> None:
    kept.append(ONE, stdout(0, data))
    kept.append(ONE, stdout(1))
    assert kept.read(ONE) == [stdout(0, data), stdout(1)]


def test_few_files_are_open_at_once(kept: Outputs) -> None:
    for number in range(3):
        for request_id in range(1000):
            kept.append(request_id, stdout(number))
    assert sum(file.is_open for file in kept._files.values()) == outputs.OPEN_FILES
    assert all(numbers(kept.read(request_id)) == [0, 1, 2] for request_id in range(1000))


# Places in a file


def test_a_place_is_found_without_reading_what_is_before_it(tmp_path: Path) -> None:
    file = OutputFile(tmp_path, ONE)
    file.open()
    for number in range(0, 40_000, 2):
        file.append(number, chunks.encode(stdout(number)))
    file.close()
    for number in (0, 1, 2, 777, 20_000, 39_997, 39_998, 39_999, 2**53):
        lines, _ = read_on(file.path, position := position_of(file.path, number))
        if number:
            assert lines[0].number <= max(number, 0) and file.size - position > 0
        following = next((line.number for line in lines if line.number >= number), None)
        expected = number + number % 2
        assert following == (expected if expected < 40_000 else None)
    assert file.size > 20 * BLOCK


def test_a_line_without_an_end_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "1").write_bytes(b"x" * (BLOCK + MAX_LINE + 10))
    lines, position = read_on(tmp_path / "1", 0)
    assert lines == [] and position > 0
    assert position_of(tmp_path / "1", 5) == 0


# Limits


def test_what_is_too_much_of_one_request_is_left_out_and_said(kept: Outputs) -> None:
    kept = again(kept, max_request_bytes=10_000)
    for number in range(100):
        kept.append(ONE, stdout(number, b"x" * 1000))
    assert kept.used <= 12_288
    kept.append(ONE, end(100))
    found = kept.read(ONE)
    assert [chunk.stream for chunk in found[-3:]] == [Stream.CUT, Stream.CUT, Stream.END]
    whole = sum(len(chunk.data) for chunk in found)
    assert whole + sum(chunk.size for chunk in found) == 100_000
    assert found[-1].number == 100


def test_a_reader_hears_at_once_that_something_is_left_out(kept: Outputs) -> None:
    kept = again(kept, max_request_bytes=1000)
    for number in range(3):
        kept.append(ONE, stdout(number, b"x" * 800))
    assert [chunk.stream for chunk in kept.read(ONE)] == [Stream.STDOUT, Stream.CUT]


def test_the_oldest_that_ended_make_room_and_the_running_ones_stay(kept: Outputs, final: set[int]) -> None:
    kept = again(kept, max_bytes=100 * 4096)
    final.update(range(1, 200))
    kept.append(0, stdout(0))  # it runs
    for request_id in range(1, 200):
        kept.append(request_id, stdout(0))
        assert kept.used <= 100 * 4096
    assert kept.read(0) == kept.read(199) == [stdout(0)]
    assert kept.read(1) == []
    assert len(os.listdir(kept._folder)) * 4096 == kept.used


def test_when_all_are_running_the_rest_is_left_out(kept: Outputs, caplog: pytest.LogCaptureFixture) -> None:
    kept = again(kept, max_bytes=20 * 4096)
    for number in range(50):
        kept.append(ONE, stdout(number, b"x" * 4000))
    kept.append(ONE, end(50))
    assert kept.used <= 21 * 4096
    found = kept.read(ONE)
    assert found[-1].stream is Stream.END
    assert sum(len(chunk.data) + chunk.size for chunk in found) == 200_000
    assert len([record for record in caplog.records if "no more room" in record.message]) == 1


def test_the_files_of_an_earlier_life_count(kept: Outputs) -> None:
    kept.append(ONE, stdout(0))
    assert again(kept).used == kept.used == 4096


def test_what_is_removed_is_gone(kept: Outputs) -> None:
    async def main() -> None:
        for request_id in range(300):
            kept.append(request_id, stdout(0))
        kept.remove(range(1, 300))
        kept.remove([5_000_000])
        assert kept.used == 4096
        await asyncio.get_running_loop().shutdown_default_executor()
        assert os.listdir(kept._folder) == ["0"]

    asyncio.run(main())


# A disk that is full


def test_a_full_disk_is_counted_and_logged_once(
    kept: Outputs, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    kept.append(ONE, stdout(0))
    written = os.write

    def tear(fd: int, data: bytes) -> int:
        if not data.startswith(b'{"number'):
            return written(fd, data)
        written(fd, data[:20])
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "write", tear)
    for number in range(1, 5):
        assert not kept.append(ONE, stdout(number))
    assert kept.lost == 4
    assert numbers(kept.read(ONE)) == [0]
    monkeypatch.undo()
    assert kept.append(ONE, stdout(5))
    assert numbers(kept.read(ONE)) == [0, 5]
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def test_a_real_limit_of_the_system_tears_no_line(tmp_path: Path) -> None:
    """A file may not grow beyond RLIMIT_FSIZE: what a disk does that becomes full in the middle of a write."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            import signal

            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
            kept = Outputs(tmp_path)
            taken = [kept.append(ONE, stdout(number, b"x" * 700)) for number in range(20)]
            code = 0 if taken == [True] * 12 + [False] * 8 and len(kept.read(ONE)) == 12 and kept.lost == 8 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# Readers


def following(kept: Outputs, request_id: int = ONE, start: int = 0) -> tuple[list[Chunk], asyncio.Task[None]]:
    found: list[Chunk] = []

    async def read() -> None:
        async for chunk in kept.follow(request_id, start):
            found.append(chunk)

    return found, asyncio.create_task(read())


async def until(true: Callable[[], object]) -> None:
    """Give the loop turns until something is so."""
    for _ in range(10_000):
        if true():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not come to be")


Test = Callable[[], Coroutine[Any, Any, None]]


def test_a_reader_gets_all_from_the_beginning_and_on_to_the_end(kept: Outputs) -> None:
    async def main() -> None:
        kept.append(ONE, stdout(0))
        readers = [following(kept) for _ in range(20)]
        await until(lambda: all(found for found, _ in readers))
        kept.append(ONE, stdout(1))
        late = following(kept)
        await until(lambda: len(late[0]) == 2)
        assert not late[1].done()
        kept.append(ONE, end(2))
        for found, task in [*readers, late]:
            await task
            assert numbers(found) == [0, 1, 2]
        assert not kept._readers

    run(main())


def test_a_reader_resumes_at_a_number_after_a_restart(kept: Outputs) -> None:
    async def main() -> None:
        for number in range(5):
            kept.append(ONE, stdout(number))
        fresh = again(kept)
        found, task = following(fresh, start=3)
        await until(lambda: len(found) == 2)
        fresh.append(ONE, end(5))
        await task
        assert numbers(found) == [3, 4, 5]

    run(main())


def test_a_request_that_ended_without_an_end_ends_its_readers(kept: Outputs, final: set[int]) -> None:
    async def main() -> None:
        silent, waiting = following(kept), following(kept, TWO)
        kept.append(TWO, stdout(0))
        await until(lambda: waiting[0])
        final.update({ONE, TWO})
        kept.tell(Change.CHANGED, 1_000_000, {"firstRequest": ONE, "totalCount": 2, "finishedAt": 1.0})
        await silent[1]
        # Its device may still have something to say.
        kept.append(TWO, stdout(1, b"good-bye"))
        await until(lambda: len(waiting[0]) == 2)
        await waiting[1]
        assert asyncio.get_running_loop().time() < 10

    run(main())


@pytest.mark.parametrize("before", [0, 1])
def test_output_that_comes_a_little_later_than_the_answer_is_not_missed(
    kept: Outputs, final: set[int], before: int
) -> None:
    async def main() -> None:
        for number in range(before):
            kept.append(ONE, stdout(number))
        waiting = following(kept)
        await asyncio.sleep(100)
        final.add(ONE)
        kept.tell(Change.CHANGED, 1_000_000, {"firstRequest": ONE, "totalCount": 1, "finishedAt": 1.0})
        late = following(kept)
        await asyncio.sleep(0.2)
        kept.append(ONE, stdout(before))
        kept.append(ONE, end(before + 1))
        for found, task in (waiting, late):
            await task
            assert numbers(found) == list(range(before + 2))

    run(main())


def test_whoever_comes_after_a_restart_waits_for_nothing(kept: Outputs, final: set[int]) -> None:
    async def main() -> None:
        kept.append(ONE, stdout(0))
        final.add(ONE)
        found, task = following(again(kept))
        await asyncio.wait_for(task, 0.1)
        assert numbers(found) == [0]

    asyncio.run(main())


def test_a_reader_of_no_request_ends(kept: Outputs, final: set[int]) -> None:
    async def main() -> None:
        final.add(99)
        assert [chunk async for chunk in kept.follow(99)] == []

    run(main())


@pytest.mark.parametrize("how", ["end", "remove", "close", "stop"])
def test_other_ends_end_readers_too(kept: Outputs, final: set[int], how: str) -> None:
    async def main() -> None:
        found, task = following(kept)
        await until(lambda: kept._readers)
        if how == "stop":
            kept.end_readers()
            assert kept.append(TWO, stdout(0))
        elif how == "close":
            kept.close()
        else:
            final.add(ONE)
            if how == "end":
                kept.end(ONE)
            else:
                kept.remove([ONE])
                kept.tell(Change.REMOVED, 1_000_000, None)
        await task
        assert found == []

    run(main())


def test_the_output_of_a_job_comes_from_all_its_requests_in_turn(kept: Outputs, final: set[int]) -> None:
    async def main() -> None:
        ids = range(ONE, ONE + 50)
        for request_id in ids[:10]:
            kept.append(request_id, stdout(0))
        kept.append(ids.stop, stdout(0))  # another job's
        found: list[tuple[int, int]] = []

        async def read() -> None:
            async for request_id, lines in kept.blocks(ids):
                found.extend((request_id, line.number) for line in lines)

        task = asyncio.create_task(read())
        await until(lambda: len(found) == 10)
        for request_id in ids:
            kept.append(request_id, stdout(1))
        await until(lambda: len(found) == 60)
        for request_id in ids[:25]:
            kept.append(request_id, end(2))
        final.update(ids)
        kept.tell(Change.CHANGED, 1_000_000, {"firstRequest": ids.start, "totalCount": 50, "finishedAt": 1.0})
        await task
        assert sorted(found) == sorted(
            [(x, 0) for x in ids[:10]] + [(x, 1) for x in ids] + [(x, 2) for x in ids[:25]]
        )

    run(main())


def test_a_slow_reader_costs_no_memory(kept: Outputs) -> None:
    async def main() -> None:
        slow = [kept.follow(ONE) for _ in range(50)]
        kept.append(ONE, stdout(0))
        for reader in slow:
            assert (await anext(reader)).number == 0
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for number in range(1, 120):
            kept.append(ONE, stdout(number, b"x" * 32_000))
        kept.append(ONE, end(120))
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert grown < 200_000
        rest = [chunk.number async for chunk in slow[0]]
        assert rest == list(range(1, 121))

    run(main())


def test_a_reader_that_leaves_is_forgotten(kept: Outputs) -> None:
    async def main() -> None:
        kept.append(ONE, stdout(0))
        _, task = following(kept)
        await until(lambda: kept._readers)
        task.cancel()
        await asyncio.wait({task})
        await asyncio.get_running_loop().shutdown_asyncgens()
        assert not kept._readers

    run(main())
