"""Output, from the files of a command into chunks and the answer."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from puppetmaster.agent import output as module
from puppetmaster.agent.output import Output, OutputLimits, continued, shares, unfinished
from puppetmaster.chunks import MAX_CHUNK_BYTES, Chunk, Stream, decode, encode
from tests.agent.desk import Desk, with_desk

KIB = 1024


class Says:
    """A command that says what the test wants."""

    def __init__(self, folder: Path, number: int = 0) -> None:
        self.paths = [folder / f"{number}.{name}" for name in ("stdout", "stderr")]

    def say(self, data: bytes, which: int = 0) -> None:
        with open(self.paths[which], "ab") as file:
            file.write(data)


def drain(output: Output) -> list[Chunk]:
    found = []
    while chunks := output.next(3):
        found += chunks
    return found


def text(chunks: list[Chunk], stream: Stream = Stream.STDOUT) -> bytes:
    return b"".join(chunk.data for chunk in chunks if chunk.stream is stream)


def brief(chunks: list[Chunk]) -> list[tuple[Any, ...]]:
    return [(chunk.number, str(chunk.stream), chunk.offset, chunk.size or chunk.data or chunk.code) for chunk in chunks]


def test_both_streams_have_one_numbering_and_offsets_of_their_own(tmp_path: Path) -> None:
    says, output = Says(tmp_path), Output(tmp_path, 1, OutputLimits())
    output.begin(0)
    said = []
    for which, data in ((0, b"one\n"), (1, b"oops\n"), (0, b"two\n")):
        says.say(data, which)
        assert not output.is_quiet()
        output.look()
        assert output.is_quiet()
        said += drain(output)
    output.end(0)
    said += drain(output) + output.close(200)
    assert brief(said) == [
        (0, "stdout", 0, b"one\n"),
        (1, "stderr", 0, b"oops\n"),
        (2, "stdout", 4, b"two\n"),
        (3, "end", 0, 200),
    ]
    assert output.next(5) == [] and output.close(200) == []
    assert all(decode(encode(chunk)) == chunk for chunk in said)


def test_characters_stay_whole(tmp_path: Path) -> None:
    says, output = Says(tmp_path), Output(tmp_path, 1, OutputLimits())
    output.begin(0)
    whole = "aé€😀".encode()
    said = []
    for place in range(len(whole)):
        says.say(whole[place : place + 1])
        output.look()
        said += drain(output)
    assert [chunk.data.decode() for chunk in said] == ["a", "é", "€", "😀"]
    says.say("€".encode() * 20_000)
    output.look()
    said = drain(output)
    assert "".join(chunk.data.decode() for chunk in said) == "€" * 20_000
    assert max(len(chunk.data) for chunk in said) <= MAX_CHUNK_BYTES


def test_bytes_that_are_no_text_come_as_they_are(tmp_path: Path) -> None:
    says, output = Says(tmp_path), Output(tmp_path, 1, OutputLimits())
    output.begin(0)
    data = bytes(range(256)) * 400 + b"\xe2\x82"
    says.say(data)
    output.look()
    said = drain(output)
    output.end(0)
    said += drain(output)
    assert text(said) == data
    assert output.answer()["outputBytes"] == len(data)


@pytest.mark.parametrize("sizes", [(5000, 0), (0, 5000), (5000, 5000), (700, 5000), (2000, 10), (999, 1), (1000, 1)])
def test_head_and_tail_are_kept_and_what_is_between_is_counted(tmp_path: Path, sizes: tuple[int, int]) -> None:
    says, output = Says(tmp_path), Output(tmp_path, 1, OutputLimits(keep_bytes=1000, answer_bytes=100))
    output.begin(0)
    whole = [bytes(65 + place % 26 for place in range(size)) for size in sizes]
    for which in (0, 1):
        says.say(whole[which], which)
    output.look()
    said = drain(output)
    output.end(0)
    said += drain(output)
    cut = sum(chunk.size for chunk in said)
    kept = len(text(said)) + len(text(said, Stream.STDERR))
    assert kept + cut == sum(sizes)
    assert kept == min(sum(sizes), 1000) or (sum(sizes) > 1000 and kept <= 1000)
    assert [chunk.number for chunk in said] == list(range(len(said)))
    for chunk in said:
        if chunk.data:
            which = 0 if chunk.stream is Stream.STDOUT else 1
            assert whole[which][chunk.offset : chunk.offset + len(chunk.data)] == chunk.data
    answer = output.answer()
    assert answer["outputBytes"] == sum(sizes) and answer["cutBytes"] == max(0, sum(sizes) - 100)
    if sizes[0] > 100:
        assert answer["stdout"].startswith("ABC") and answer["stdout"].endswith(whole[0][-10:].decode())
        assert "bytes left out" in answer["stdout"]


def test_commands_of_a_sequence_share_what_is_kept(tmp_path: Path) -> None:
    output = Output(tmp_path, 3, OutputLimits(keep_bytes=1000, answer_bytes=60))
    said = []
    for number, size in enumerate((10, 5000, 5000)):
        output.begin(number)
        Says(tmp_path, number).say(b"%d" % number * size)
        output.look()
        output.end(number)
        said += drain(output)
    kept = [sum(len(chunk.data) for chunk in said if chunk.command == number) for number in range(3)]
    assert kept[0] == 10 and sum(kept) <= 1000 and min(kept[1:]) > 400
    answer = output.answer()
    assert answer["outputBytes"] == 10_010
    assert answer["stdout"].startswith("0" * 10 + "1" * 20 + "\n[") and answer["stdout"].endswith("]\n" + "2" * 30)


def lives(folder: Path, steps: list[bytes], restarts: set[int], most: int) -> list[Chunk]:
    """All that is told when the agent is killed after some of the steps; each chunk as it was told first."""
    limits = OutputLimits(keep_bytes=4000)
    says = Says(folder)
    told: dict[int, Chunk] = {}

    def hear(chunks: list[Chunk]) -> None:
        for chunk in chunks:
            assert told.setdefault(chunk.number, chunk) == chunk

    output = Output(folder, 1, limits)
    output.begin(0)
    for step, data in enumerate(steps):
        says.say(data, step % 2)
        output.look()
        hear(output.next(most))
        if step in restarts:
            output = Output(folder, 1, limits)
            output.begin(0)
    output.end(0)
    hear(output.next(1))
    output = Output(folder, 1, limits)
    hear(drain(output))
    hear(output.close(200))
    hear(drain(Output(folder, 1, limits)))
    return [told[number] for number in sorted(told)]


@pytest.mark.parametrize("most", [1, 2, 100])
def test_the_next_life_tells_the_same_by_the_same_numbers(tmp_path: Path, most: int) -> None:
    steps = [b"%d:" % number * 50 for number in range(60)]
    for number, restarts in enumerate([set(), {0}, {3, 4, 30}, set(range(60))]):
        folder = tmp_path / str(number)
        folder.mkdir()
        told = lives(folder, steps, restarts, most)
        assert [chunk.number for chunk in told] == list(range(len(told)))
        assert told[-1].stream is Stream.END
        for which, stream in enumerate((Stream.STDOUT, Stream.STDERR)):
            whole = b"".join(steps[which::2])
            spoken = [chunk for chunk in told if chunk.stream is stream]
            assert whole.endswith(spoken[-1].data)
            assert all(whole[chunk.offset : chunk.offset + len(chunk.data)] == chunk.data for chunk in spoken)
        total = sum(len(chunk.data) + chunk.size for chunk in told)
        assert total == sum(map(len, steps))


def test_a_torn_log_is_cut(tmp_path: Path) -> None:
    says, output = Says(tmp_path), Output(tmp_path, 1, OutputLimits())
    output.begin(0)
    says.say(b"one")
    output.look()
    drain(output)
    log = (tmp_path / "chunks").read_bytes()
    for size in range(len(log)):
        (tmp_path / "chunks").write_bytes(log[:size])
        output = Output(tmp_path, 1, OutputLimits())
        output.begin(0)
        output.look()
        output.end(0)
        assert text(drain(output)) == b"one", size


@with_desk
async def test_a_command_that_opens_its_output_again_does_not_empty_it(desk: Desk) -> None:
    line = "for i in 1 2 3; do echo out$i >/dev/stdout; echo err$i >/dev/stderr; done"
    _, data = await desk.run({"commandLine": line})
    assert (data["stdout"], data["stderr"]) == ("out1\nout2\nout3\n", "err1\nerr2\nerr3\n")


@with_desk
async def test_what_is_left_in_the_background_holds_nobody_up_and_goes_on(desk: Desk) -> None:
    os.mkfifo(desk.folder / "fifo")
    line = f"(read x <{desk.folder}/fifo; echo late; echo alive >{desk.folder}/fifo2) & echo up"
    os.mkfifo(desk.folder / "fifo2")
    code, data = await desk.run({"commandLine": line, "timeout": 20})
    assert (code, data["stdout"]) == (200, "up\n")
    await asyncio.to_thread((desk.folder / "fifo").write_text, "go\n")
    assert await asyncio.to_thread((desk.folder / "fifo2").read_text) == "alive\n"


def test_the_disk_gets_back_what_is_not_kept(tmp_path: Path) -> None:
    says, output = Says(tmp_path), Output(tmp_path, 1, OutputLimits(keep_bytes=256 * KIB))
    output.begin(0)
    for _ in range(40):
        says.say(os.urandom(KIB) * KIB)
        output.look()
        drain(output)
        assert says.paths[0].stat().st_blocks * 512 < 8 * KIB * KIB
    end = os.urandom(100 * KIB)
    says.say(end)
    output.end(0)
    assert text(drain(output)).endswith(end)


def test_where_no_holes_can_be_made_there_is_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(module, "_punch", refuse)

    async def main() -> None:
        limits = OutputLimits(keep_bytes=1000, disk_bytes=20 * KIB * KIB)
        desk = await Desk(tmp_path / "orders", limits=limits).open()
        code, data = await desk.run({"commandLine": "yes; sleep 60"})
        assert (code, data["outcome"]) == (500, "failed")
        assert "more than 20 MiB" in data["message"]
        assert data["outputBytes"] > 20 * KIB * KIB
        await desk.close()

    asyncio.run(main())


@with_desk
async def test_output_is_told_while_the_command_runs(desk: Desk) -> None:
    os.mkfifo(desk.folder / "fifo")
    order = await desk.give({"commandLine": f"echo one; read x <{desk.folder}/fifo; echo two"})
    await desk.said(order, b"one\n")
    assert not desk.final(order)
    await asyncio.to_thread((desk.folder / "fifo").write_text, "go\n")
    await desk.answer(order)
    *spoken, end = desk.chunks[order.id]
    assert text(spoken) == b"one\ntwo\n"
    assert (end.stream, end.code) == (Stream.END, 200)


def test_output_waits_in_its_file_while_nobody_takes_it(tmp_path: Path) -> None:
    async def main() -> None:
        is_clear = False
        desk = await Desk(tmp_path / "orders", is_clear=lambda: is_clear).open()
        order = await desk.give({"commandLine": "for i in 1 2 3; do echo $i; sleep 0.05; done"})
        while desk.memory.find(order.key).code is None:  # type: ignore[union-attr]  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert not desk.chunks
        is_clear = True
        await desk.answer(order)
        assert text(desk.chunks[order.id]) == b"1\n2\n3\n"
        await desk.close()

    asyncio.run(main())


def test_shares() -> None:
    assert shares((10, 10), 100) == (10, 10)
    assert shares((1000, 1000), 100) == (50, 50)
    assert shares((1000, 10), 100) == (90, 10)
    assert shares((0, 1000), 100) == (0, 100)


def test_ends_of_characters() -> None:
    euro = "€".encode()
    assert [unfinished(b"a" + euro[:count]) for count in range(4)] == [0, 1, 2, 0]
    assert [continued(euro[count:] + b"a") for count in range(3)] == [0, 2, 1]
    assert unfinished(b"\x80\x80\x80\x80") == 0 and continued(b"\x80\x80\x80\x80") == 0
