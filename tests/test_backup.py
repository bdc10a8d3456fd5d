"""Copies of a data folder that is in use, whole or not there at all; the way back, with ids that never come again."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from puppetmaster import backup as backups
from puppetmaster.backup import FACTORY, ID_GAP, MANIFEST, back_up, restore
from puppetmaster.documents import JOBS, META, META_ID, REQUESTS
from puppetmaster.errors import BackupFailed
from puppetmaster.store import TinyStore, journal, replica
from tests.store.workload import wait_for_threads

NOW = 1_700_000_000.0


def quiet(text: str) -> None:
    pass


def put(store: TinyStore, number: int) -> None:
    store.put(JOBS, {number: {"n": number}})
    store.put(REQUESTS, {number + 1: {"job": number}})
    store.put(META, {META_ID: {"instance": "me", "nextId": number + 2}})


class Site:
    """A data folder that is open, with a bit of everything in it."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.backup = folder / "backup"
        self.store = TinyStore.open(self.data)
        self.registry = TinyStore.open(self.data, name="registry")
        for name, content in {
            "accounts.json": "{}",
            "dut.json": "{}",
            "audit.jsonl": '{"at":1}\n',
            "output/1000001": "x",
            "agent/memory.jsonl": "",
            "farm/7/scene.zip": "zip",
            "accounts.json.tmp": "half",
            "puppetmaster.json.factory": "{}",
            "puppetmaster.json.tmp": "half",
        }.items():
            path = self.data / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        os.mkfifo(self.data / "agent" / "pipe")
        (self.data / "link").symlink_to("/etc/passwd")

    async def fill(self, count: int) -> None:
        for number in range(count):
            put(self.store, 1_000_000 + 2 * number)
            await self.store.commit()
        self.registry.put("devices", {1: {"id": "a"}})
        await self.registry.commit()

    async def close(self) -> None:
        await self.store.close()
        await self.registry.close()


def with_site(tmp_path: Path, main: Callable[[Site], Any]) -> None:
    async def run() -> None:
        site = Site(tmp_path)
        await site.fill(5)
        try:
            outcome = main(site)
            if asyncio.iscoroutine(outcome):
                await outcome
        finally:
            await site.close()

    asyncio.run(run())


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def state(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_size) for path in folder.rglob("*")}


def test_a_backup_holds_all_that_was_committed_and_all_files_but_locks_and_halves(tmp_path: Path) -> None:
    def main(site: Site) -> None:
        before = state(site.data)
        summary = back_up(site.data, site.backup, now=NOW, say=quiet)
        assert state(site.data) == before, "it wrote to the data folder"
        assert (summary.jobs, summary.requests, summary.devices, summary.instance) == (5, 5, 1, "me")
        assert (summary.next_id, summary.made_at) == (1_000_010, "2023-11-14T22:13:20.000Z")
        assert names(site.backup) == {
            "puppetmaster.json", "puppetmaster.journal.1", "registry.json", "registry.journal.1", "accounts.json",
            "dut.json", "audit.jsonl", "output/1000001", "agent/memory.jsonl", "farm/7/scene.zip",
            "puppetmaster.json.factory", MANIFEST,
        }  # fmt: skip
        assert all(path.stat().st_mode & 0o077 == 0 for path in (site.backup, *site.backup.rglob("*")))
        assert list(replica.load(site.backup, "puppetmaster").tables[JOBS]) == [1_000_000 + 2 * n for n in range(5)]
        assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []

    with_site(tmp_path, main)


def test_a_compaction_between_the_snapshot_and_its_journal_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generations: list[int | None] = []
    plain = replica.snapshot.generation_of

    async def main(site: Site) -> None:
        loop = asyncio.get_running_loop()

        def compact_then(file: Any) -> int | None:
            generations.append(plain(file))
            if len(generations) <= 3:
                put(site.store, 2_000_000 + len(generations))
                asyncio.run_coroutine_threadsafe(site.store.commit(), loop).result(30)
                wait_for_threads(site.store)
            return generations[-1]

        monkeypatch.setattr(journal.Journal, "is_oversized", lambda self: True)
        monkeypatch.setattr(replica.snapshot, "generation_of", compact_then)
        summary = await asyncio.to_thread(back_up, site.data, site.backup, now=NOW, say=quiet)
        assert sorted({number for number in generations if number}) == [1, 2, 3, 4], "no compaction came between"
        assert summary.jobs == 8

    with_site(tmp_path, main)


def test_an_unfinished_commit_is_left_out(tmp_path: Path) -> None:
    def main(site: Site) -> None:
        path = next(site.data.glob("puppetmaster.journal.*"))
        whole = path.read_bytes()
        with path.open("ab") as file:
            file.write(whole[:60])
        back_up(site.data, site.backup, now=NOW, say=quiet)
        assert (site.backup / path.name).read_bytes() == whole

    with_site(tmp_path, main)


def test_a_backup_of_a_damaged_store_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    def main(site: Site) -> None:
        path = next(site.data.glob("puppetmaster.journal.*"))
        content = bytearray(path.read_bytes())
        content[60] ^= 1
        path.write_bytes(content)
        with pytest.raises(BackupFailed, match="is damaged at byte"):
            back_up(site.data, site.backup, now=NOW, say=quiet)
        assert [entry.name for entry in tmp_path.iterdir()] == ["data"]

    with_site(tmp_path, main)


def test_a_backup_goes_to_a_new_folder_only(tmp_path: Path) -> None:
    def main(site: Site) -> None:
        site.backup.mkdir()
        for folder, reason in (
            (site.backup, "is there already"),
            (site.data / "backup", "is in .* itself"),
        ):
            with pytest.raises(BackupFailed, match=reason):
                back_up(site.data, folder, now=NOW, say=quiet)
        with pytest.raises(BackupFailed, match="is no data folder of puppetmaster"):
            back_up(tmp_path / "elsewhere", tmp_path / "new", now=NOW, say=quiet)
        assert {entry.name for entry in tmp_path.iterdir()} == {"data", "backup"}

    with_site(tmp_path, main)


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "there")

    def main(site: Site) -> None:
        monkeypatch.setattr(backups, "_sync", full)
        with pytest.raises(BackupFailed, match="can't write there: No space left on device"):
            back_up(site.data, site.backup, now=NOW, say=quiet)
        assert [entry.name for entry in tmp_path.iterdir()] == ["data"]

    with_site(tmp_path, main)


# The way back


@pytest.fixture
def made(tmp_path: Path) -> Path:
    with_site(tmp_path, lambda site: back_up(site.data, site.backup, now=NOW, say=quiet))
    return tmp_path / "backup"


def test_a_restored_folder_holds_all_of_it_and_skips_ids(tmp_path: Path, made: Path) -> None:
    data = tmp_path / "new" / "data"
    summary = restore(made, data, say=quiet)
    assert summary.next_id == 1_000_010 + ID_GAP
    assert names(data) == {
        "puppetmaster.json", "puppetmaster.journal.2", "registry.json", "registry.journal.1", "accounts.json",
        "dut.json", "audit.jsonl", "output/1000001", "agent/memory.jsonl", "farm/7/scene.zip",
        "puppetmaster.json.factory",
    }  # fmt: skip

    async def look() -> None:
        store = TinyStore.open(data)
        assert store.count(JOBS) == store.count(REQUESTS) == 5
        assert store.get(META, META_ID) == {"instance": "me", "nextId": 1_000_010 + ID_GAP}
        await store.close()

    asyncio.run(look())


def test_an_empty_folder_may_be_there(tmp_path: Path, made: Path) -> None:
    (tmp_path / "new").mkdir()
    restore(made, tmp_path / "new", gap=5, say=quiet)
    assert (tmp_path / "new" / "puppetmaster.json").exists()


def test_a_link_to_an_empty_folder_stays_one(tmp_path: Path, made: Path) -> None:
    (tmp_path / "large").mkdir()
    (tmp_path / "new").symlink_to("large")
    restore(made, tmp_path / "new", say=quiet)
    assert (tmp_path / "new").is_symlink() and (tmp_path / "large" / "puppetmaster.json").exists()


def test_a_name_that_is_no_text_is_a_name(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xfe")

    def main(site: Site) -> None:
        (site.data / "farm" / name).write_text("x")
        back_up(site.data, site.backup, now=NOW, say=quiet)
        restore(site.backup, tmp_path / "new", say=quiet)
        assert (tmp_path / "new" / "farm" / name).read_text() == "x"

    with_site(tmp_path, main)


def test_a_folder_as_it_comes_with_the_program_may_be_there_and_stays_when_it_fails(tmp_path: Path, made: Path) -> None:
    data = tmp_path / "clone" / "data"
    data.mkdir(parents=True)
    (data / FACTORY).write_text("of the clone")
    with pytest.raises(BackupFailed, match="the ids would reach"):
        restore(made, data, gap=2**32 - 1_000_010, say=quiet)
    assert names(data) == {FACTORY} and (data / FACTORY).read_text() == "of the clone"
    restore(made, data, say=quiet)
    assert names(data) == names(made) - {MANIFEST, "puppetmaster.journal.1"} | {"puppetmaster.journal.2"}
    assert (data / FACTORY).read_text() == "of the clone"


def test_nothing_is_restored_into_the_backup_itself(tmp_path: Path, made: Path) -> None:
    before = state(made)
    (tmp_path / "link").symlink_to(made)
    for data in (made / "data", made / "output" / "x", tmp_path / "link" / "data"):
        with pytest.raises(BackupFailed, match=r"is in .* itself"):
            restore(made, data, say=quiet)
    assert state(made) == before


def test_it_says_what_it_copies_in_plain_words(tmp_path: Path) -> None:
    said: list[str] = []
    with_site(tmp_path, lambda site: back_up(site.data, site.backup, now=NOW, say=said.append))
    assert said == ["puppetmaster: 5 jobs, 5 requests", "registry: 1 device", "7 other files"]


def test_nothing_is_restored_over_something(tmp_path: Path, made: Path) -> None:
    before = state(tmp_path / "data")
    with pytest.raises(BackupFailed, match="is not empty"):
        restore(made, tmp_path / "data", say=quiet)
    assert state(tmp_path / "data") == before


@pytest.mark.parametrize("name", ["puppetmaster.json", "puppetmaster.journal.1", "accounts.json", "output/1000001"])
def test_a_damaged_backup_is_refused(tmp_path: Path, made: Path, name: str) -> None:
    content = (made / name).read_bytes()
    for damaged in (content[:-1], content + b"x"):
        (made / name).write_bytes(damaged)
        with pytest.raises(BackupFailed, match=f"{name} is damaged"):
            restore(made, tmp_path / "new", say=quiet)
    (made / name).unlink()
    with pytest.raises(BackupFailed, match="No such file"):
        restore(made, tmp_path / "new", say=quiet)
    assert not (tmp_path / "new").exists()


def test_what_is_no_backup_is_refused(tmp_path: Path, made: Path) -> None:
    for folder, reason in (
        (tmp_path / "data", "/data is no backup: there is no backup.json in it"),
        (tmp_path / "nope", "^there is no folder .*/nope"),
        (made / "dut.json", "is no backup: Not a directory"),
    ):
        with pytest.raises(BackupFailed, match=reason):
            restore(folder, tmp_path / "new", say=quiet)
    manifest = json.loads((made / MANIFEST).read_text())
    for document, reason in (
        ({**manifest, "version": 2}, "a newer release made"),
        ({**manifest, "files": {"../data/dut.json": {}}}, "is damaged"),
        ({"version": 1}, "is damaged"),
        ({**manifest, "version": None}, "is damaged"),
        ({**manifest, "files": None}, "is damaged"),
        ([], "is damaged"),
    ):
        (made / MANIFEST).write_text(json.dumps(document))
        with pytest.raises(BackupFailed, match=reason):
            restore(made, tmp_path / "new", say=quiet)


def test_ids_do_not_pass_what_a_controller_reads(tmp_path: Path, made: Path) -> None:
    with pytest.raises(BackupFailed, match="the ids would reach"):
        restore(made, tmp_path / "new", gap=2**32 - 1_000_010, say=quiet)
