"""The files: what is accepted, what is refused, and what is never touched."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path

import pytest
from tinydb import TinyDB

from puppetmaster.errors import StoreCorrupt, StoreLocked, StoreUnavailable
from puppetmaster.store import TinyStore, journal
from puppetmaster.store.frames import HEADER_SIZE, seal
from tests.store.faulty import QuickFileSystem
from tests.store.workload import content_after, content_of, copy_files, put_round, rounds_in, wait_for_threads

FRAMES = 4


@pytest.fixture(scope="module")
def crashed(tmp_path_factory) -> Path:
    """A store that was killed with some frames in its journal."""
    folder, copy = tmp_path_factory.mktemp("live"), tmp_path_factory.mktemp("crashed") / "store"

    async def live() -> None:
        store = TinyStore.open(folder)
        for number in range(1, FRAMES + 1):
            put_round(store, number)
            await store.commit()
        copy_files(store, folder, copy)
        await store.close()

    asyncio.run(live())
    return copy


@pytest.fixture
def folder(crashed, tmp_path) -> Path:
    return Path(shutil.copytree(crashed, tmp_path / "store"))


def open_quickly(folder: Path) -> TinyStore:
    return TinyStore.open(folder, files=QuickFileSystem())


def look(folder: Path) -> int:
    """Open a store, return the units it holds, and let go of it as a kill would."""
    store = open_quickly(folder)
    try:
        return rounds_in(store)
    finally:
        store._journal.close()


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix != ".lock"}


def stock(folder: Path, name: str = "puppetmaster") -> TinyDB:
    return TinyDB(folder / f"{name}.json")


def frame_starts(data: bytes) -> list[int]:
    return [start for start in range(len(data)) if data.startswith(b"PMJ1 ", start)]


def test_a_journal_cut_at_any_byte_gives_the_frames_before_the_cut(crashed, folder, caplog):
    path = folder / "puppetmaster.journal.1"
    whole = path.read_bytes()
    ends = [*frame_starts(whole)[1:], len(whole)]
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        caplog.clear()
        kept = sum(1 for end in ends if end <= size)
        assert look(folder) == kept
        assert path.read_bytes() == whole[: [0, *ends][kept]]
        torn = size - [0, *ends][kept]
        assert ([f"cutting {torn} bytes" in message for message in caplog.messages] == [True]) is bool(torn)


@pytest.mark.parametrize("mask", [0x01, 0x20, 0xFF])
def test_a_flipped_byte_of_the_journal_is_refused_or_costs_the_last_frame(crashed, folder, mask):
    path = folder / "puppetmaster.journal.1"
    whole = path.read_bytes()
    last = frame_starts(whole)[-1]
    for offset in range(len(whole)):
        damaged = bytearray(whole)
        damaged[offset] ^= mask
        path.write_bytes(damaged)
        before = files_of(folder)
        try:
            assert look(folder) == FRAMES - 1
            assert offset >= last
        except StoreCorrupt as refused:
            assert files_of(folder) == before
            assert Path(refused.path) == path
            assert refused.offset <= offset


@pytest.mark.parametrize("mask", [0x01, 0x20, 0xFF])
def test_a_flipped_byte_of_the_snapshot_is_refused_or_does_no_harm(folder, tmp_path, mask):
    asyncio.run(TinyStore.open(folder).close())
    shutil.copy(folder / "puppetmaster.json", tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    for offset in range(len(whole)):
        damaged = bytearray(whole)
        damaged[offset] ^= mask
        shutil.rmtree(folder)
        folder.mkdir()
        (folder / "puppetmaster.json").write_bytes(damaged)
        try:
            assert look(folder) == FRAMES
        except StoreCorrupt:
            assert files_of(folder) == {"puppetmaster.json": bytes(damaged)}


def test_a_frame_that_is_missing_in_the_middle_is_refused(folder):
    path = folder / "puppetmaster.journal.1"
    whole = path.read_bytes()
    starts = frame_starts(whole)
    path.write_bytes(whole[: starts[1]] + whole[starts[2] :])
    with pytest.raises(StoreCorrupt, match="frame 3 follows frame 1"):
        look(folder)


def test_a_length_of_garbage_is_not_believed(folder, monkeypatch):
    path = folder / "puppetmaster.journal.1"
    with path.open("ab") as file:
        file.write(b"PMJ1 00000001 00000005 ffffffff 00000000\n[")
    assert look(folder) == FRAMES


def test_frames_of_another_generation_are_not_ours(folder):
    shutil.copy(folder / "puppetmaster.journal.1", folder / "puppetmaster.journal.2")
    before = files_of(folder)
    with pytest.raises(StoreCorrupt, match="generation 2"):
        look(folder)
    assert files_of(folder) == before


def test_leftovers_of_a_killed_compaction_are_removed(folder):
    (folder / "puppetmaster.json.tmp").write_bytes(b"half")
    (folder / "puppetmaster.journal.0").write_bytes(b"old")
    (folder / "puppetmaster.journal.2").write_bytes(b"")
    (folder / "puppetmaster.journal.copy").write_bytes(b"somebody else's")
    assert look(folder) == FRAMES
    names = {"puppetmaster.json", "puppetmaster.journal.1", "puppetmaster.journal.copy"}
    assert set(files_of(folder)) == names


def frames_of(folder: Path, generation: int) -> list[bytes]:
    """The frames of the journal, as those of another generation."""
    data = (folder / "puppetmaster.journal.1").read_bytes()
    bodies = [data[start + HEADER_SIZE : end] for start, end in pairwise([*frame_starts(data), len(data)])]
    return [seal(body, generation, number) for number, body in enumerate(bodies, 1)]


@pytest.mark.parametrize("cut", [0, 3, 60])
def test_what_a_killed_compaction_has_copied_is_removed(folder, cut):
    """It was killed before the new snapshot had its name; the end of a copy may be torn."""
    copied = b"".join(frames_of(folder, 2)[1:])
    (folder / "puppetmaster.journal.2").write_bytes(copied[: len(copied) - cut])
    assert look(folder) == FRAMES
    assert not (folder / "puppetmaster.journal.2").exists()


@pytest.mark.parametrize("what", ["another commit", "a newer release", "another generation", "another order"])
def test_a_later_journal_with_anything_else_in_it_is_refused(folder, what):
    """Its snapshot is gone: somebody put an older one in its place."""
    others = {
        "another commit": [*frames_of(folder, 2), seal(b'["jobs",1,{"round":99}]\n', 2, FRAMES + 1)],
        "a newer release": [b"PMJ2 who knows"],
        "another generation": frames_of(folder, 3),
        "another order": frames_of(folder, 2)[::-1],
    }
    (folder / "puppetmaster.journal.2").write_bytes(b"".join(others[what]))
    before = files_of(folder)
    with pytest.raises(StoreCorrupt, match="generation 2"):
        look(folder)
    assert files_of(folder) == before


def test_a_damaged_journal_without_its_snapshot_is_kept(folder):
    (folder / "puppetmaster.json").unlink()
    path = folder / "puppetmaster.journal.1"
    path.write_bytes(b"".join(frames_of(folder, 1)[:1])[:-3] + b"???")
    before = files_of(folder)
    with pytest.raises(StoreCorrupt):
        look(folder)
    assert files_of(folder) == before


def test_a_journal_of_a_newer_release_is_refused(folder):
    path = folder / "puppetmaster.journal.1"
    path.write_bytes(path.read_bytes().replace(b"PMJ1", b"PMJ2"))
    before = files_of(folder)
    with pytest.raises(StoreCorrupt, match="newer release"):
        look(folder)
    assert files_of(folder) == before


@pytest.mark.parametrize("writer", ["ours", "another"])
def test_a_snapshot_of_a_newer_release_is_refused(folder, writer):
    path = folder / "puppetmaster.json"
    text = path.read_text().replace('"version":1', '"version":2')
    path.write_text(text if writer == "ours" else json.dumps(json.loads(text)))
    with pytest.raises(StoreCorrupt, match="newer release"):
        look(folder)


@pytest.mark.parametrize(
    "content",
    [
        b'{"jobs": {',
        b"[]",
        b'{"jobs": []}',
        b'{"jobs": {"x": {}}}',
        b'{"jobs": {"1": 5}}',
        b'{"jobs": {"1": {"a": NaN}}}',
        b'{"_journal": {}}',
        b'{"_journal": {"1": {"version": 1, "generation": "x"}}}',
        b"\xff",
        b"[" * 100_000,
    ],
    ids=lambda content: repr(content[:40]),
)
def test_a_snapshot_that_holds_no_documents_is_refused(tmp_path, content):
    (tmp_path / "puppetmaster.json").write_bytes(content)
    with pytest.raises(StoreCorrupt):
        look(tmp_path)
    assert files_of(tmp_path) == {"puppetmaster.json": content}


def test_nobody_else_may_read_the_files(tmp_path):
    async def main():
        store = TinyStore.open(tmp_path)
        store.put("jobs", {1: {"environment": {"SECRET": "hunter2"}}})
        await store.commit()
        modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
        await store.close()
        return modes

    mask = os.umask(0)
    try:
        open_, closed = asyncio.run(main()), {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    finally:
        os.umask(mask)
    assert any(".journal." in name for name in open_) and "puppetmaster.json" in closed
    assert {*open_.values(), *closed.values()} == {0o600}


def test_a_closed_store_is_all_in_the_snapshot_and_stock_tinydb_reads_it(folder):
    asyncio.run(TinyStore.open(folder).close())
    with stock(folder) as db:
        assert db.tables() == {"jobs", "requests", "_journal"}
        for table, documents in content_after(FRAMES).items():
            assert [(document.doc_id, document) for document in db.table(table)] == documents
    assert [path.stat().st_size for path in folder.glob("*.journal.*")] == [0]


def test_what_stock_tinydb_wrote_is_accepted(tmp_path):
    with stock(tmp_path) as db:
        db.table("jobs").insert({"round": 0, "text": "é"})
        db.table("empty", persist_empty=True)
    store = TinyStore.open(tmp_path)
    assert list(store.scan("jobs")) == [(1, {"round": 0, "text": "é"})]
    assert store.db.tables() == {"jobs", "empty"}
    asyncio.run(store.close())


def test_what_stock_tinydb_changed_in_our_snapshot_is_accepted(folder):
    asyncio.run(TinyStore.open(folder).close())
    with stock(folder) as db:
        db.table("requests").insert({"text": "by hand"})
    store = TinyStore.open(folder)
    assert store.get("requests", FRAMES + 1) == {"text": "by hand"}
    asyncio.run(store.close())
    assert look_at_table(folder, "requests")[-1] == (FRAMES + 1, {"text": "by hand"})


def look_at_table(folder: Path, table: str) -> list[tuple[int, dict]]:
    store = TinyStore.open(folder)
    try:
        return list(store.scan(table))
    finally:
        asyncio.run(store.close())


def test_an_empty_file_is_an_empty_store(tmp_path):
    (tmp_path / "puppetmaster.json").touch()
    assert look_at_table(tmp_path, "jobs") == []


def test_the_factory_file_is_where_a_new_store_starts_once(tmp_path):
    factory = tmp_path / "puppetmaster.json.factory"
    factory.write_text('{"meta": {"1": {"made": "here"}}}')
    assert look_at_table(tmp_path, "meta") == [(1, {"made": "here"})]
    factory.write_text('{"meta": {"1": {"made": "later"}}}')
    assert look_at_table(tmp_path, "meta") == [(1, {"made": "here"})]


def test_a_lost_snapshot_with_changes_in_the_journal_is_refused(folder):
    (folder / "puppetmaster.json").unlink()
    with pytest.raises(StoreCorrupt):
        look(folder)


def test_a_lost_journal_is_told(folder, caplog):
    (folder / "puppetmaster.journal.1").unlink()
    assert look(folder) == 0
    assert "is missing" in caplog.text


def test_compaction_keeps_the_files_small_and_the_content(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "MIN_COMPACTION_SIZE", 5000)

    async def live() -> None:
        store = TinyStore.open(tmp_path / "live")
        for number in range(1, 501):
            put_round(store, number)
            await store.commit()
            if store._journal.size >= 6000:
                wait_for_threads(store)  # commits go on while it is compacted
                assert store._journal.size < 6000
        copy_files(store, tmp_path / "live", tmp_path / "killed")
        await store.close()

    asyncio.run(live())
    assert look(tmp_path / "killed") == look(tmp_path / "live") == 500


def test_several_stores_share_a_folder(tmp_path):
    one, two = TinyStore.open(tmp_path, "one"), TinyStore.open(tmp_path, "one.two")
    put_round(one, 1)
    put_round(two, 1)
    put_round(two, 2)
    asyncio.run(one.close())
    asyncio.run(two.close())
    store = TinyStore.open(tmp_path, "one")
    assert content_of(store) == content_after(1)
    asyncio.run(store.close())


def test_a_second_opening_is_refused_and_names_the_owner(folder):
    store = TinyStore.open(folder)
    before = files_of(folder)
    with pytest.raises(StoreLocked) as refused:
        TinyStore.open(folder)
    assert refused.value.pid == os.getpid()
    assert files_of(folder) == before
    asyncio.run(store.close())
    asyncio.run(TinyStore.open(folder).close())


def test_another_process_is_refused_until_the_owner_dies(folder):
    program = (
        "import sys; from pathlib import Path; from puppetmaster.store import TinyStore\n"
        "store = TinyStore.open(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert owner.stdout.readline() == b"open\n"
        with pytest.raises(StoreLocked) as refused:
            TinyStore.open(folder)
        assert refused.value.pid == owner.pid
    finally:
        owner.kill()
        owner.communicate()
    assert look(folder) == FRAMES


def test_a_refused_opening_lets_go_of_the_lock(folder):
    path = folder / "puppetmaster.json"
    whole = path.read_bytes()
    path.write_bytes(b"{")
    with pytest.raises(StoreCorrupt):
        look(folder)
    path.write_bytes(whole)
    assert look(folder) == FRAMES


def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable):
        TinyStore.open(tmp_path / "file" / "store")


def test_the_disk_is_touched_in_threads_of_the_store_alone(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(journal.Journal, "is_oversized", lambda self: True)
    threads = set()

    class Watched(QuickFileSystem):
        def write(self, descriptor: int, data: memoryview) -> int:
            threads.add(threading.current_thread().name)
            return super().write(descriptor, data)

    caplog.set_level(logging.DEBUG)
    store = TinyStore.open(tmp_path, files=Watched())
    threads.clear()
    put_round(store, 1)
    asyncio.run(store.commit())
    wait_for_threads(store)
    asyncio.run(store.close())
    assert threads == {"puppetmaster-store_0", "puppetmaster-compaction_0"}
