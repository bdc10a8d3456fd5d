"""A copy of the data folder, taken while puppetmaster runs, and the way back.

A backup is a folder of the same kind as the data folder, without locks and unfinished files, and with ``backup.json``:
when it was made, and the size and SHA-256 of every file. The stores come first, both at one moment; what lies beside
them may be some moments younger. That is what a kill leaves, too, and what the next start knows how to take: output of
requests that the store does not know is removed, and a command that is known as done is not done again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puppetmaster.documents import JOBS, META, META_ID, REQUESTS
from puppetmaster.errors import BackupFailed, PuppetmasterError
from puppetmaster.store import codec, replica
from puppetmaster.store.replica import Content, Held
from puppetmaster.store.rows import Rows
from puppetmaster.times import to_text
from puppetmaster.version import __version__

MANIFEST = "backup.json"

MAIN, REGISTRY = "puppetmaster", "registry"
STORES = (MAIN, REGISTRY)

ID_GAP = 10_000_000
"""Ids that are skipped by a restore: more than were given since the backup, and few enough for 400 restores."""

MAX_ID = 2**32 - 1
"""A Sanji controller reads ids as unsigned 32-bit integers."""

FACTORY = f"{MAIN}.json.factory"
"""The empty store that comes with the program, for Sanji's tools."""

DEVICES = "devices"
"""The table of the registry."""

_VERSION = 1
_UNFINISHED = (".lock", ".tmp")
_PARTIAL = ".partial"
_FOLDER_FLAGS = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)

Say = Callable[[str], None]
"""Is told how far it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a backup holds."""

    made_at: str
    instance: str | None
    jobs: int
    requests: int
    devices: int
    next_id: int
    files: int
    size_bytes: int


def back_up(data: Path, folder: Path, *, now: float, say: Say) -> Summary:
    """Copy a data folder, whether or not puppetmaster runs on it. Nothing in it is changed or locked.

    The copy has its name when it is whole, on disk, and was read again.

    :param folder: must not be there yet.
    :param now: seconds since 1970.
    :raises BackupFailed: with the reason; there is no folder then.
    """
    if os.path.lexists(folder):
        raise BackupFailed(f"{folder} is there already: name a new folder")
    if data.resolve() in folder.resolve().parents:
        raise BackupFailed(f"{folder} is in {data} itself: name a folder elsewhere")
    with _new_folder(folder) as partial:
        contents = _copy_stores(data, partial)
        for name, content in contents.items():
            say(f"{name}: {_told(name, content)}")
        others = _copy_others(data, partial)
        say(count(others, "other file"))
        summary = _seal(partial, contents, now)
        _check(partial)
    return summary


def restore(backup: Path, data: Path, *, gap: int = ID_GAP, say: Say) -> Summary:
    """Make a data folder of a backup, with the next id moved on by ``gap``.

    Ids that were given since the backup must never come again: a device that remembers its answer to one would give it
    again, and do no work.

    :param data: must be empty but for what comes with the program, or not be there.
    :raises BackupFailed: with the reason; the data folder is as it was then.
    """
    with _explained("read", data):
        if os.path.lexists(data) and not (data.is_dir() and not {*os.listdir(data)} - {FACTORY}):
            raise BackupFailed(f"{data} is not empty: name a new folder, or move what is there away")
    manifest = _check(backup)
    if backup.resolve() in data.resolve().parents:
        raise BackupFailed(f"{data} is in {backup} itself, and the backup stays as it is: name a folder elsewhere")
    say(f"{backup}: {count(manifest['summary']['files'], 'file')} as when written")
    with _set_aside(data / FACTORY) as factory, _new_folder(data) as partial:
        for name in manifest["files"]:
            target = partial / name
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            shutil.copyfile(backup / name, target)
        if factory is not None:
            (partial / FACTORY).write_bytes(factory)
        summary = _move_ids_on(partial, manifest, gap)
        say(f"the next id is {summary.next_id}")
        _give_to_owner(partial, data)
    return summary


# Stores


def _copy_stores(data: Path, folder: Path) -> dict[str, Content]:
    with _explained("read", data), ExitStack() as held:
        # Both are opened before either is copied: they are of one moment.
        opened = {name: held.enter_context(contextlib.closing(Held(data, name))) for name in _stores_in(data)}
        return {name: store.copy_to(folder) for name, store in opened.items()}


def _stores_in(data: Path) -> list[str]:
    if not (data / f"{MAIN}.json").exists():
        raise BackupFailed(f"{data} is no data folder of puppetmaster: there is no {MAIN}.json in it")
    return [name for name in STORES if (data / f"{name}.json").exists()]


def _told(name: str, content: Content) -> str:
    tables = {MAIN: (JOBS, REQUESTS), REGISTRY: (DEVICES,)}[name]
    return ", ".join(count(len(content.tables.get(table, {})), table[:-1]) for table in tables)


def count(number: int, what: str) -> str:
    """As many of something, in words."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _move_ids_on(folder: Path, manifest: dict[str, Any], gap: int) -> Summary:
    with _explained("read", folder):
        content = replica.load(folder, MAIN)
        row = content.tables.get(META, Rows()).get(META_ID)
        meta = codec.decode(row) if row is not None else {}
        next_id = int(meta.get("nextId", 0)) + gap
        if next_id > MAX_ID - gap:
            raise BackupFailed(f"the ids would reach {next_id}, and end at {MAX_ID}: begin with a new data folder")
        content.tables.setdefault(META, Rows())[META_ID] = codec.encode({**meta, "nextId": next_id})
        (folder / f"{MAIN}.json").unlink()
        (folder / f"{MAIN}.journal.{content.generation}").unlink()
        replica.write(folder, MAIN, content.tables, content.generation + 1)
    return Summary(**{**manifest["summary"], "next_id": next_id})


# Other files


def _copy_others(data: Path, folder: Path) -> int:
    count = 0
    with _explained("copy", data):
        for path in _files_in(data):
            name = path.relative_to(data)
            if name.parts[0].startswith(tuple(f"{store}.json" for store in STORES)) and name.suffix != ".factory":
                continue
            if name.parts[0].startswith(tuple(f"{store}.journal." for store in STORES)):
                continue
            if path.name.endswith(_UNFINISHED) or name.parts == (MANIFEST,):
                continue
            (folder / name).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            count += _copy(path, folder / name)
    return count


def _files_in(folder: Path) -> Iterator[Path]:
    """All regular files, those below included; what is no file and no folder is left out."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(parent, name)
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISREG(path.lstat().st_mode):
                    yield path


def _copy(source: Path, target: Path) -> bool:
    """Copy as much as there is now: it may grow. False when it is gone, as output of old requests may be."""
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0))
    except FileNotFoundError:
        return False
    with os.fdopen(descriptor, "rb") as file, target.open("xb") as copy:
        replica.copy_bytes(file, copy, os.fstat(file.fileno()).st_size)
    return True


# The manifest


def _seal(folder: Path, contents: dict[str, Content], now: float) -> Summary:
    """Write down what there is."""
    tables = contents[MAIN].tables
    row = tables.get(META, Rows()).get(META_ID)
    meta = codec.decode(row) if row is not None else {}
    with _explained("read", folder):
        files = {str(path.relative_to(folder)): _fingerprint(path) for path in _files_in(folder)}
    summary = Summary(
        made_at=to_text(now) or "",
        instance=meta.get("instance"),
        jobs=len(tables.get(JOBS, {})),
        requests=len(tables.get(REQUESTS, {})),
        devices=len(contents[REGISTRY].tables.get(DEVICES, {})) if REGISTRY in contents else 0,
        next_id=int(meta.get("nextId", 0)),
        files=len(files),
        size_bytes=sum(found["bytes"] for found in files.values()),
    )
    document = {"version": _VERSION, "program": __version__, "summary": _document(summary), "files": files}
    with _explained("write", folder):
        # Not orjson: names of files need not be UTF-8.
        (folder / MANIFEST).write_text(json.dumps(document, indent=2))
    return summary


def _document(summary: Summary) -> dict[str, Any]:
    return {name: getattr(summary, name) for name in Summary.__dataclass_fields__}


def _check(folder: Path) -> dict[str, Any]:
    """See that a backup is as it was written, and that its stores can be read; returns its manifest."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
        version, files, summary = int(manifest["version"]), dict(manifest["files"]), Summary(**manifest["summary"])
    except FileNotFoundError as error:
        reason = f"{folder} is no backup: there is no {MANIFEST} in it"
        raise BackupFailed(reason if folder.exists() else f"there is no folder {folder}") from error
    except OSError as error:
        raise BackupFailed(f"{folder} is no backup: {error.strerror or error} ({folder / MANIFEST})") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BackupFailed(f"{folder / MANIFEST} is damaged") from error
    if version > _VERSION:
        raise BackupFailed(f"a newer release made {folder} (format {version})")
    with _explained("read", folder):
        for name, expected in files.items():
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise BackupFailed(f"{folder / MANIFEST} is damaged")
            if _fingerprint(folder / name) != expected:
                raise BackupFailed(f"{folder / name} is damaged: it is not what was backed up")
        tables = replica.load(folder, MAIN).tables
        if f"{REGISTRY}.json" in files:
            replica.load(folder, REGISTRY)
    if len(tables.get(JOBS, {})) != summary.jobs:
        raise BackupFailed(f"{folder} holds {len(tables.get(JOBS, {}))} jobs, and should hold {summary.jobs}")
    return manifest


def _fingerprint(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
        return {"bytes": file.tell(), "sha256": digest.hexdigest()}


# Folders


@contextlib.contextmanager
def _set_aside(file: Path) -> Iterator[bytes | None]:
    """Have a small file out of the way; its content, or none where there is no such file. It is back when it fails."""
    if not file.exists():
        yield None
        return
    with _explained("write", file):
        content = file.read_bytes()
        file.unlink()
    try:
        yield content
    except BaseException:
        file.write_bytes(content)
        raise


@contextlib.contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, for its owner alone, that gets its name when all of it is on disk; removed when it fails."""
    folder = folder.resolve()  # beside what is meant by a link, it can be given that name
    partial = folder.with_name(f".{folder.name}{_PARTIAL}.{os.getpid()}")
    with _explained("write", folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir(mode=0o700)
    try:
        mask = os.umask(0o077)
        try:
            yield partial
        finally:
            os.umask(mask)
        with _explained("write", folder):
            _sync(partial)
            _name(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _name(partial: Path, folder: Path) -> None:
    try:
        # An empty folder of that name is replaced; one that is not, never.
        os.rename(partial, folder)
    except OSError as error:
        if error.errno == errno.EBUSY:
            reason = "a file system is mounted there: name a folder in it"
            raise BackupFailed(f"can't write {folder}: {reason}") from error
        raise
    _sync_folder(folder.parent)


def _sync(folder: Path) -> None:
    for parent, _, names in os.walk(folder):
        for name in names:
            descriptor = os.open(Path(parent, name), os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        _sync_folder(Path(parent))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, _FOLDER_FLAGS)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _give_to_owner(partial: Path, data: Path) -> None:
    """What root restores belongs to whom the data folder belongs to, or the folder around it: the service's user."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return
    with _explained("write", data):
        owner = (data if data.exists() else data.absolute().parent).stat()
        for parent, _, names in os.walk(partial):
            for path in (Path(parent), *(Path(parent, name) for name in names)):
                os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


@contextlib.contextmanager
def _explained(doing: str, folder: Path) -> Iterator[None]:
    """Turn errors of the system and of a store into ours."""
    try:
        yield
    except BackupFailed:
        raise
    except PuppetmasterError as error:
        raise BackupFailed(str(error)) from error
    except OSError as error:
        where = error.filename or folder
        raise BackupFailed(f"can't {doing} {where}: {error.strerror or error}") from error
