"""Disks that fail, fill up and lie, and files that were damaged while nobody looked."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import random
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import httpx

from puppetmaster.errors import StoreUnavailable
from puppetmaster.store import TinyStore
from puppetmaster.store.files import FileSystem
from puppetmaster.store.frames import Replay, encode_frame
from puppetmaster.store.ledger import Changes
from tests.faults.kinds.base import Fault
from tests.faults.power import after_a_cut
from tests.faults.records import Posted, Records
from tests.faults.site import NotRecovered, Site
from tests.faults.workload import PATIENT
from tests.system.stand import PATIENCE

JOURNAL = "puppetmaster.journal.*"

LONG = 200_000
"""Bytes of a journal that is not opened a hundred times."""


class FailingDisk(Fault):
    """Some calls fail until it is lifted; meanwhile a new job is refused, and never appears."""

    part = "disk"
    # A bundle that another fault has killed does not start on such a disk; it is started again.
    logs = ("can't run: the store can't write",)
    refuses: ClassVar[bool] = True
    """Whether no job at all may be accepted while it lasts."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.hold = round(chance.uniform(0.3, 2.5), 3)

    def faults(self) -> list[dict[str, Any]]:
        """For the control file."""
        return []

    def begin(self, site: Site) -> None:
        site.base["faults"] = self.faults()
        site.steer()

    def end(self, site: Site) -> None:
        if self.refuses:
            self.try_a_job(site)
        else:
            self.post_a_job(site)
        site.base.pop("faults", None)
        site.steer()

    def try_a_job(self, site: Site) -> None:
        """Post one that must be refused. One without an answer (another fault slows the bundle) may be taken later."""
        # Large: the last page of a file on a full disk may have room for a small one, which is saved then.
        each = {"method": "put", "resource": "/probe", "data": "x" * 800, "__request": {"destination": site.probes}}
        document = {"name": f"{self.label}-on-a-bad-disk", "labels": {"run": self.label}, "batch": [each] * 25}
        pid = site.stand.bundle.pid
        try:
            reply = site.http.post("/jobs", json=document)
        except httpx.HTTPError:
            self.posted.append(Posted(document, ends="any", codes=[0]))
            return
        if reply.status_code != 503:
            self.violations.append(f"a job was answered {reply.status_code}, not 503: {reply.text:.200}")
        with contextlib.suppress(httpx.HTTPError):
            if site.stand.bundle.running and site.http.get("/jobs?limit=1").status_code != 200:
                self.violations.append("jobs can't be read while the disk fails")
            said = site.http.get("/health").json()["store"]
            if said == "ok" and site.stand.bundle.pid == pid:
                self.violations.append("/health does not say that the disk fails")

    def post_a_job(self, site: Site) -> None:
        """Post one that must be accepted in the end, so that the fault meets at least this."""
        batch = [{"method": "put", "resource": "/during", "__request": {"destination": site.probes}}]
        name = f"{self.label}-during"
        more = {"key": f"key-{name}", "labels": {"run": self.label}, "requestTimeout": 2, "retry": PATIENT}
        posted = Posted({"name": name, "batch": batch, **more})
        self.posted.append(posted)
        deadline = time.monotonic() + PATIENCE
        # Not for a bundle that another fault has killed: it may be this very thread that has to start it again.
        while not posted.ids and site.stand.bundle.running and time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError):
                reply = site.http.post("/jobs", json=posted.document)
                posted.codes.append(reply.status_code)
                if reply.status_code == 200:
                    posted.ids.add(reply.json()["id"])
            time.sleep(0.02)

    def check(self, site: Site, records: Records) -> Iterable[str]:
        # Also found by nothing_refused_exists, as a job that nobody asked for.
        unanswered = {posted.name for posted in self.posted}
        return [
            f"job {job['id']} was refused with 503, and exists"
            for job in records.jobs
            if job["name"] == f"{self.label}-on-a-bad-disk" and job["name"] not in unanswered
        ]


class WriteFails(FailingDisk):
    name = "write_fails"
    promise = "Writes fail (EIO): new jobs are answered 503, reads go on, nothing is lost, and it goes on by itself."

    def faults(self) -> list[dict[str, Any]]:
        return [{"id": self.label, "call": "write", "error": "EIO"}]


class SyncFails(FailingDisk):
    name = "sync_fails"
    promise = "Syncs fail (EIO) until the disk is back: the same; a file whose sync failed is not trusted again."

    def faults(self) -> list[dict[str, Any]]:
        return [{"id": self.label, "call": call, "error": "EIO"} for call in ("sync", "sync_folder")]


class SyncFailsOnce(FailingDisk):
    name = "sync_fails_once"
    promise = "One sync fails (EIO), and the next would succeed: what was written is written anew."
    refuses = False

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        # What fails next is a call of the new snapshot that the first failure makes necessary.
        self.calls = chance.choice(
            [["sync"], ["write"], ["sync", "replace"], ["sync", "sync_folder"], ["sync", "open"]]
        )

    def faults(self) -> list[dict[str, Any]]:
        return [{"id": f"{self.label}-{call}", "call": call, "error": "EIO", "times": 1} for call in self.calls]


class DoneButFailed(FailingDisk):
    """A caller may be told 503 of a job that exists; under its key it is one job nevertheless."""

    name = "done_but_failed"
    promise = "Calls do their work and say that they failed: what is tried again is there once."
    refuses = False

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.times = chance.randint(1, 3)

    def faults(self) -> list[dict[str, Any]]:
        calls = ("write", "sync", "replace", "sync_folder")
        return [
            {"id": f"{self.label}-{call}", "call": call, "error": "EIO", "after": True, "times": self.times}
            for call in calls
        ]


class ShortWrites(FailingDisk):
    name = "short_writes"
    promise = "The system takes a few bytes of each write at a time: all is written."
    refuses = False

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.short = chance.choice([1, 7, 40])

    def faults(self) -> list[dict[str, Any]]:
        return [{"id": self.label, "call": "write", "short": self.short}]


class ReadOnly(FailingDisk):
    name = "read_only"
    promise = "The data folder becomes read-only: as with writes that fail."

    def faults(self) -> list[dict[str, Any]]:
        calls = ("open", "write", "sync", "replace", "remove", "truncate", "sync_folder")
        return [{"id": self.label, "call": call, "error": "EROFS"} for call in calls]


class DiskFull(FailingDisk):
    """On a small tmpfs, with a file that takes all the rest."""

    name = "disk_full"
    promise = "The disk is full: as with writes that fail."
    skipped = staticmethod(lambda site: "" if site.small else "a small file system can't be mounted here")

    def begin(self, site: Site) -> None:
        ballast = site.data / "ballast"
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            for size in (1 << 20, 4096, 64, 1):
                with contextlib.suppress(OSError):
                    while file.write(b"x" * size) == size:
                        pass

    def end(self, site: Site) -> None:
        self.try_a_job(site)
        (site.data / "ballast").unlink()

    def try_a_job(self, site: Site) -> None:
        self.begin(site)  # the store gave up some space at its first failure
        super().try_a_job(site)


class Damaged(Fault):
    """The bundle is killed, and something happens to its files before it starts again."""

    part = "bundle"
    mixes = False

    def begin(self, site: Site) -> None:
        site.stand.bundle.kill()
        after_a_cut(site.data)
        self.damage(site)

    def end(self, site: Site) -> None:
        site.start(site.stand.bundle)

    def damage(self, site: Site) -> None:
        raise NotImplementedError


class TornTail(Damaged):
    """Every prefix of a real next frame is tried in process; the bundle starts with one of them."""

    name = "torn_tail"
    promise = "A journal whose last frame is torn, at any byte, opens with all that was committed before it."

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.share = chance.random()

    def damage(self, site: Site) -> None:
        journal = _journal(site.data)
        if journal is not None and journal.stat().st_size > LONG:
            asyncio.run(_compact(site.data))
            [journal] = site.data.glob(JOURNAL)
        if journal is None:
            return
        frames = _frames(journal)
        good = b"".join(frames)
        generation, sequence = int(journal.suffix[1:]), len(frames) + 1
        changes = Changes()
        changes.puts[1 << 40] = b'{"torn":"' + b"x" * 60 + b'"}'
        frame = encode_frame({"requests": changes}, generation, sequence)
        self.try_all(site, journal, good, frame)
        journal.write_bytes(good + frame[: 1 + int(self.share * (len(frame) - 1))])

    def try_all(self, site: Site, journal: Path, good: bytes, frame: bytes) -> None:
        copy = site.folder / "torn"
        for length in range(len(frame)):
            shutil.rmtree(copy, ignore_errors=True)
            copy.mkdir()
            if (site.data / "puppetmaster.json").exists():
                shutil.copyfile(site.data / "puppetmaster.json", copy / "puppetmaster.json")
            (copy / journal.name).write_bytes(good + frame[:length])
            try:
                found = asyncio.run(_requests_of(copy))
            except Exception as error:
                self.violations.append(f"a tail of {length} bytes: {error}")
                continue
            if length == 0:
                expected = found
            if found != expected:
                self.violations.append(f"a tail of {length} bytes: {len(found)} requests, not {len(expected)}")


class FlippedBits(Damaged):
    """In a frame that has another one behind it, or in the snapshot; the last frame's damage looks like a torn tail."""

    name = "flipped_bits"
    promise = "A damaged record: the bundle refuses to start, names file and place, and changes nothing on disk."

    logs = ("is damaged at byte",)

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.place, self.bit = chance.random(), chance.randrange(8)
        self.in_snapshot = chance.random() < 0.3

    def damage(self, site: Site) -> None:
        path, sizes = self.target(site)
        if path is None:
            return
        whole = path.read_bytes()
        place = int(self.place * sizes)
        bad = bytearray(whole)
        bad[place] ^= 1 << self.bit
        path.write_bytes(bad)
        before, logged = _hashes(site.data), len(site.stand.bundle.log())
        site.start(site.stand.bundle)
        with contextlib.suppress(AssertionError):
            site.wait(lambda: not site.stand.bundle.running, "it runs", 60)
        said = site.stand.bundle.log()[logged:]
        where = f"byte {place} of {path.name}, bit {self.bit}"
        # One in the snapshot's last line makes a foreign file of it, which a journal does not belong to.
        named = path.name if b"\n" in whole[place:-1] else "puppetmaster."
        ended = site.stand.bundle.returncode
        if site.stand.bundle.running or ended != 1 or named not in said or "at byte" not in said:
            self.violations.append(f"{where}: it was not refused as it should: {said[-400:]}")
            site.stand.bundle.kill()
        if _hashes(site.data) != before:
            self.violations.append(f"{where}: something was changed on disk")
        path.write_bytes(whole)

    def target(self, site: Site) -> tuple[Path | None, int]:
        snapshot, journal = site.data / "puppetmaster.json", _journal(site.data)
        frames = _frames(journal) if journal is not None else []
        if self.in_snapshot and snapshot.exists():
            return snapshot, snapshot.stat().st_size
        if len(frames) > 1:
            return journal, sum(map(len, frames[:-1]))
        return (snapshot, snapshot.stat().st_size) if snapshot.exists() else (None, 0)


class HalfCompaction(Fault):
    """The bundle compacts all the time, and dies at a call of a compaction, with the power of its disk."""

    name = "half_compaction"
    promise = "A kill at any call of a compaction: the old files are whole, or the new ones."
    part = "bundle"
    mixes = False

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.die, self.keep = chance.randint(2, 16), chance.choice([0.0, 0.4, 0.9])
        self.has_died = False
        self.hold = 0.0

    def control(self) -> dict[str, Any]:
        return {"compact": 1000, "keep": self.keep}

    def begin(self, site: Site) -> None:
        site.stand.bundle.kill()
        site.steer(die=self.die)
        site.start(site.stand.bundle)

    def end(self, site: Site) -> None:
        with contextlib.suppress(NotRecovered):
            site.wait(lambda: not site.stand.bundle.running, "it compacts nothing", 15)
        self.has_died = not site.stand.bundle.running
        site.stand.bundle.kill()
        site.steer()
        site.start(site.stand.bundle)

    def __str__(self) -> str:
        return f"{super().__str__()} at call {self.die}" + (" (died there)" if self.has_died else "")


class Clock(Fault):
    name = "clock_step"
    promise = "The wall clock is stepped by an hour, forward or back, and again: no deadline notices."
    part = "clock"

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.step = chance.choice([3600.0, -3600.0])

    def begin(self, site: Site) -> None:
        site.base["clock"] = self.step
        site.steer()

    def end(self, site: Site) -> None:
        site.base.pop("clock", None)
        site.steer()

    def check(self, site: Site, records: Records) -> Iterable[str]:
        for requests in records.requests.values():
            for request in requests:
                own = request["__request"]
                times = [own[name] for name in ("createdAt", "sentAt", "finishedAt") if own[name]]
                if times != sorted(times):
                    yield f"request {request['id']} went back in time: {times}"


FAULTS: list[type[Fault]] = [
    TornTail,
    FlippedBits,
    HalfCompaction,
    DiskFull,
    WriteFails,
    SyncFails,
    SyncFailsOnce,
    DoneButFailed,
    ShortWrites,
    ReadOnly,
    Clock,
]


class _Quick(FileSystem):
    """Syncs nothing, for copies."""

    def sync(self, descriptor: int) -> None:
        return

    def sync_folder(self, folder: Path) -> None:
        return


async def _requests_of(folder: Path) -> list[int]:
    store = TinyStore.open(folder, files=_Quick())
    try:
        return [ident for ident, _ in store.scan("requests")]
    finally:
        with contextlib.suppress(StoreUnavailable):
            await store.close()


async def _compact(folder: Path) -> None:
    await TinyStore.open(folder).close()


def _journal(folder: Path) -> Path | None:
    """The journal in use: the newest that is not empty."""
    found = [path for path in folder.glob(JOURNAL) if path.stat().st_size]
    return max(found, key=lambda path: int(path.suffix[1:]), default=None)


def _frames(path: Path) -> list[bytes]:
    """The good frames of a journal."""
    content, ends = path.read_bytes(), [0]
    with path.open("rb") as file:
        replay = Replay(file, path, len(content), int(path.suffix[1:]))
        while replay._read_body() is not None:
            ends.append(file.tell())
    return [content[start:end] for start, end in itertools.pairwise(ends)]


def _hashes(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.glob("puppetmaster.j*")
        if path.is_file()
    }
