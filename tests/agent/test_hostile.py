"""What an order, a disk, a clock or a bad moment can do to a worker: each of these has broken it once."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from puppetmaster.agent.commands import read_plan
from puppetmaster.agent.order import Order
from puppetmaster.agent.rights import NotAllowed, Rights
from puppetmaster.agent.shim import Launch, Run, boot_id
from puppetmaster.agent.worker import BATCH
from puppetmaster.chunks import Chunk
from tests.agent.desk import Desk, with_desk
from tests.agent.test_worker import childless, children, pids

MIB = 1024 * 1024

# ------------------------------------------------------------------------------------------------------- secrets


@pytest.mark.parametrize("user", [None, "nobody"])
def test_nobody_reads_a_variable_in_the_list_of_processes(tmp_path: Path, user: str | None) -> None:
    if user and os.geteuid() != 0:
        pytest.skip("only root can become somebody else")

    async def main() -> None:
        desk = await Desk(tmp_path / "orders").open()
        who = {} if user is None else {"user": user}
        code, data = await desk.run({"argv": ["printenv", "TOKEN"], "environment": {"TOKEN": "hunter2-secret"}, **who})
        assert (code, data["stdout"]) == (200, "hunter2-secret\n")
        order = await desk.give(
            {"commandLine": "echo up; sleep 71.25", "environment": {"TOKEN": "hunter2-secret"}, **who}
        )
        await desk.said(order, b"up")
        assert pids("71.25") and pids("hunter2-secret") == []
        await desk.close(kill=True)

    asyncio.run(main())


@with_desk
async def test_what_is_written_for_a_command_is_its_owners_alone(desk: Desk) -> None:
    order = await desk.give({"commandLine": "echo up; sleep 60"})
    await desk.said(order, b"up")
    for folder in (desk.folder, desk.folder / "runs", desk.worker._folder(order.key)):
        assert folder.stat().st_mode & 0o077 == 0


# --------------------------------------------------------------------------------------------------------- rights


@pytest.mark.parametrize("line", ["\x1cuptime", "uptime\u00a0", "uptime\u2003", "\x0buptime", "uptime\x85", "uptime\r"])
def test_a_blank_that_is_none_to_a_shell_makes_another_command(line: str) -> None:
    with pytest.raises(NotAllowed):
        Rights.parse("uptime").examine(read_plan({"commandLine": line}).commands[0])


@pytest.mark.parametrize(
    "line",
    [
        "systemctl restart a\u2028b", "systemctl restart a\tb", "systemctl restart ..", "systemctl restart a/b",
        "systemctl restart -f", "systemctl restart a;id", "systemctl restart a\nid", "systemctl restart 'a b'",
        "systemctl restart a b", "ѕystemctl restart a", "systemctl\u00a0restart a", "systemctl restart",
        "./systemctl restart a", "X=1 systemctl restart a", "systemctl restart a\\", "systemctl restart *",
        "systemctl restart ~root", "systemctl restart {a,b}", "systemctl restart $HOME", "systemctl restart a&",
    ],
)  # fmt: skip
def test_a_star_is_a_part_of_one_word(line: str) -> None:
    with pytest.raises(NotAllowed):
        Rights.parse("systemctl restart *").examine(read_plan({"commandLine": line}).commands[0])


def test_what_has_not_begun_of_a_sequence_is_not_begun_when_the_right_is_gone(tmp_path: Path) -> None:
    async def main() -> None:
        desk = await Desk(tmp_path / "orders").open()
        os.mkfifo(tmp_path / "fifo")
        first = {"commandLine": f"echo up; read x <{tmp_path}/fifo"}
        order = await desk.give({"commands": [first, {"argv": ["touch", f"{tmp_path}/x"]}]})
        await desk.said(order, b"up")
        desk.rights = "off"
        await desk.reopen()
        await asyncio.to_thread((tmp_path / "fifo").write_text, "go\n")
        code, data = await desk.answer(order)
        assert (code, data["outcome"], data["command"], data["stdout"]) == (403, "not allowed", 0, "up\n")
        assert data["message"].startswith("command 2 was not begun: ")
        await desk.close()

    asyncio.run(main())
    assert not (tmp_path / "x").exists()


@with_desk
async def test_what_only_looks_like_the_resource_runs_nothing(desk: Desk) -> None:
    # The cancel of a request is sent for the resource itself.
    for resource in ("/agent/commands/", "/agent//commands", "/agent/commands?x"):
        code, _ = await desk.run({"argv": ["touch", f"{desk.folder}/x"]}, resource=resource)
        assert code in (404, 405), resource
    assert not (desk.folder / "x").exists()


# ----------------------------------------------------------------------------------------------------------- disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_fills_up_with_its_output_kills_no_command(tmp_path: Path, small_disk: Path) -> None:
    async def main() -> None:
        desk = await Desk(small_disk / "orders").open()
        line = f"head -c 8000000 /dev/zero | tr '\\0' x && echo survived >{tmp_path}/out; exit 7"
        code, data = await desk.run({"commandLine": line})
        assert (code, data["outcome"], data["exitCode"]) == (500, "failed", 7), "it is known how it ended"
        assert data["message"].startswith("exit code 7; a part of its output is lost")
        assert 0 < data["outputBytes"] < 8_000_000
        await desk.close()

    asyncio.run(main())
    assert (tmp_path / "out").read_text() == "survived\n"


@with_desk
async def test_what_a_command_leaves_in_the_background_fills_no_disk(desk: Desk) -> None:
    before = children()
    pace = desk.folder / "pace"
    os.mkfifo(pace)
    # It says a MiB for each line that it gets.
    line = f"exec 9<>{pace}; (while read x <&9; do head -c {MIB} /dev/zero; echo >>{desk.folder}/said; done) & echo $!"
    code, data = await desk.run({"commandLine": line})
    assert code == 200
    await desk.quiet()
    group = os.getpgid(int(data["stdout"]))
    try:
        await asyncio.to_thread(pace.write_text, "x\n" * 20)
        said = desk.folder / "said"
        while not said.exists() or said.stat().st_size < 20:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)
        assert _open_bytes(group) < MIB
    finally:
        os.killpg(group, signal.SIGKILL)
    await childless(before)


def _open_bytes(group: int) -> int:
    """Bytes of deleted files that the processes of a group hold open."""
    sizes = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.getpgid(int(name)) != group:
                continue
            for link in Path(f"/proc/{name}/fd").iterdir():
                if os.readlink(link).endswith(" (deleted)"):
                    sizes[link.stat().st_ino] = link.stat().st_size
        except OSError:
            continue
    return sum(sizes.values())


# --------------------------------------------------------------------------------------------------------- memory


def test_a_hundred_commands_that_all_speak_stay_below_what_may_be_out(tmp_path: Path) -> None:
    out, most, limit = 0, 0, 16

    def taken() -> None:
        nonlocal out
        out -= 1

    async def main() -> None:
        desk = Desk(tmp_path / "orders", is_clear=lambda: out < limit)
        await desk.open()

        def emit(order: Order, chunk: Chunk) -> None:
            nonlocal out, most
            if not chunk.data:  # an end, or a cut: a few words
                return
            out += 1
            most = max(most, out)
            asyncio.get_running_loop().call_later(0.01, taken)

        desk.worker._emit = emit
        line = f"until [ -e {tmp_path}/gate ]; do sleep 0.1; done; head -c 300000 /dev/zero | tr '\\0' x"
        orders = [await desk.give({"commandLine": line}) for _ in range(50)]
        (tmp_path / "gate").touch()
        for order in orders:
            await desk.answer(order)
        await desk.close()

    asyncio.run(main())
    assert 0 < most < limit + BATCH


def test_answers_that_nobody_takes_are_not_kept_in_memory(tmp_path: Path) -> None:
    count, size = 100, 60_000
    is_online = True

    async def main() -> None:
        nonlocal is_online
        desk = await Desk(tmp_path / "orders", is_clear=lambda: is_online).open()
        line = f"head -c {size} /dev/zero | tr '\\0' x"
        await desk.run({"commandLine": line})
        await desk.quiet()
        desk.answers.clear()
        desk.is_online = is_online = False
        gc.collect()
        tracemalloc.start()
        orders = [await desk.give({"commandLine": line}) for _ in range(count)]
        while desk.worker.running:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
        found = tracemalloc.take_snapshot().statistics("lineno")[:5]
        tracemalloc.stop()
        assert held < count * size / 3, f"{held} bytes: {found}"
        is_online = True
        await desk.go_online()
        for order in orders:
            code, data = await desk.answer(order)
            assert (code, len(data["stdout"])) == (200, size)
        await desk.close()

    asyncio.run(main())


# ------------------------------------------------------------------------------------------------- time and order


@with_desk
async def test_a_clock_that_is_set_while_a_command_runs_does_not_end_it(desk: Desk) -> None:
    os.mkfifo(desk.folder / "fifo")
    order = await desk.give({"commandLine": f"echo up; read x <{desk.folder}/fifo", "timeout": 3600})
    await desk.said(order, b"up")
    await desk.close()
    (marker,) = (desk.folder / "runs").glob("*/0.started")
    os.utime(marker, (1000, 1000))  # it began in 1970, before the machine had asked for the time
    await desk.open()
    await asyncio.to_thread((desk.folder / "fifo").write_text, "go\n")
    assert (await desk.answer(order))[1]["outcome"] == "done"


def test_a_shell_of_the_life_before_that_begins_late_is_not_overlooked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = tmp_path / "lines"
    words = ["/bin/sh", "-c", f"echo x >>{lines}"]

    async def main() -> None:
        desk = await Desk(tmp_path / "orders").open()
        order = desk.order({"argv": words})
        await desk.memory.begin(order, boot=boot_id(), waiting=False, bare=[])
        folder = desk.worker._folder(order.key)
        folder.mkdir()
        real_look = Run.has_begun

        def look(run: Run) -> bool:
            found = real_look(run)
            if not found:  # the next moment it does
                shim = run.launch(Launch(words=words, directory="/", environment={"PATH": "/bin:/usr/bin"}))
                os.waitpid(shim.pid, 0)
            return found

        monkeypatch.setattr(Run, "has_begun", look)
        await desk.reopen()
        assert (await desk.answer(order))[1]["outcome"] == "done"
        await desk.close()

    asyncio.run(main())
    assert lines.read_text() == "x\n"


@with_desk
async def test_a_program_with_the_name_of_an_option_is_a_program(desk: Desk) -> None:
    for name in ("-c", "-i", "--help", "exec"):
        code, data = await desk.run({"argv": [name, "echo", "x"]})
        assert (code, data["exitCode"], data["stdout"]) == (500, 127, ""), name
