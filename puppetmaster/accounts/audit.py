"""The audit log: who changed what, when and from where; a file with one JSON object a line.

::

    {"at": "2026-01-31T12:00:00.000Z", "who": "ana", "role": "operator", "from": "192.0.2.7",
     "method": "post", "resource": "/jobs", "code": 200, "job": 1000000}

A line is one ``write`` to a file that is open for appending, so several processes may write at once. All but plain
ASCII is escaped: no value can begin a line of its own, or drive the terminal of who reads it. The file may be
rotated at any time, by renaming or by copying and cutting it.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from puppetmaster.accounts.private_files import open_private
from puppetmaster.errors import FileUnavailable
from puppetmaster.times import to_text

logger = logging.getLogger(__name__)

FILE_NAME = "audit.jsonl"
"""In the data folder."""

SECRET_WORDS = ("password", "passwd", "passphrase", "secret", "token", "authorization", "cookie")
"""What the name of a value holds whose value is not written."""

HIDDEN = "***"

MAX_TEXT = 1024
"""Characters of one value."""

MAX_LINE = 16 << 10
"""Bytes; a line that would be longer goes without its details."""

MAX_ITEMS, MAX_LEVELS = 100, 8

_BLOCK = 64 << 10
_MAX_FOREIGN_LINE = 1 << 20
_FLAGS = os.O_RDWR | os.O_APPEND


class Audit:
    """Appends to the log, for any thread, and reads its end."""

    def __init__(self, path: Path) -> None:
        """Nothing is made or opened before the first line."""
        self._path = Path(path)
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        # Lines that could not be written since the last one that could.
        self._lost = 0

    def record(
        self,
        *,
        at: float,
        who: str | None,
        role: str | None,
        source: str,
        method: str,
        resource: str,
        code: int,
        **details: Any,
    ) -> None:
        """Note one write. Never raises: what can't be written is counted, and told in the program's log.

        :param at: seconds since 1970.
        :param who: the account; none when no login was asked for.
        :param source: where it came from, an address or ``cli``; in the line it is called ``from``.
        :param details: what else there is to say, as JSON; of what is called a password or a token it says nothing.
        """
        entry = {"at": at, "who": who, "role": role, "from": source, "method": method, "resource": resource}
        line = _line({**entry, "code": code}, details)
        with self._lock:
            try:
                self._append(line)
            except OSError as error:
                self._tell_lost(error)
            else:
                self._tell_found()

    def tail(self, limit: int, offset: int = 0) -> list[dict[str, Any]]:
        """The newest entries, the newest first; a line that is no entry is left out.

        Reads from the end, and no more than it has to.

        :raises FileUnavailable: when the file is there and can't be read.
        """
        found: list[dict[str, Any]] = []
        try:
            with self._path.open("rb") as file:
                for number, entry in enumerate(_entries_backwards(file)):
                    if number >= offset + limit:
                        break
                    if number >= offset:
                        found.append(entry)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise FileUnavailable(self._path, "read", error.strerror or str(error)) from error
        return found

    def close(self) -> None:
        """Let go of the file; idempotent. A further line opens it again."""
        with self._lock:
            self._close()

    def _append(self, line: bytes) -> None:
        descriptor = self._open()
        data = b"\n" + line if _is_torn(descriptor) else line
        if os.write(descriptor, data) < len(data):
            # Others may have appended since, so it is not cut off. Whoever reads the log leaves it out.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _open(self) -> int:
        """The file that has the name now."""
        if self._descriptor is not None and not self._is_replaced(self._descriptor):
            return self._descriptor
        self._close()
        descriptor = self._descriptor = open_private(self._path, _FLAGS)
        return descriptor

    def _is_replaced(self, descriptor: int) -> bool:
        try:
            return not os.path.samestat(os.stat(self._path), os.fstat(descriptor))
        except FileNotFoundError:
            return True

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _tell_lost(self, error: OSError) -> None:
        self._lost += 1
        if self._lost == 1:
            reason = error.strerror or error
            logger.error("can't write %s: %s; work goes on", self._path, reason,
                         extra={"event": "audit_failed", "path": str(self._path), "reason": reason})

    def _tell_found(self) -> None:
        if self._lost:
            logger.warning(
                "%s is written again, %d lines are missing", self._path, self._lost,
                extra={"event": "audit_works", "path": str(self._path), "count": self._lost},
            )
            self._lost = 0


def _is_torn(descriptor: int) -> bool:
    """Is the last line not whole? A full disk leaves such a one."""
    size = os.fstat(descriptor).st_size
    return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"


def _line(entry: dict[str, Any], details: dict[str, Any]) -> bytes:
    """One line, whatever the values are."""
    known = {name: _plain(value, 1) for name, value in entry.items()}
    known["at"] = _time(entry["at"])
    more = {name: value for name, value in _plain(details, 0).items() if name not in known}
    line = _encode({**known, **more})
    return line if len(line) <= MAX_LINE else _encode({**known, "cut": True})


def _encode(entry: dict[str, Any]) -> bytes:
    # orjson would leave characters such as U+2028 and U+009B as they are.
    return json.dumps(entry).encode("ascii") + b"\n"


def _time(at: float) -> str | None:
    try:
        return to_text(at)
    except (ValueError, OverflowError):
        return None


def _plain(value: Any, level: int) -> Any:
    """A value as JSON of bounded size, without secrets."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        # NaN fails the comparison.
        return value if abs(value) < 2**63 else "a number beyond all"
    if isinstance(value, dict) and level < MAX_LEVELS:
        some = list(value.items())[:MAX_ITEMS]
        return {_text(name): HIDDEN if _is_secret(name) else _plain(item, level + 1) for name, item in some}
    if isinstance(value, (list, tuple)) and level < MAX_LEVELS:
        return [_plain(item, level + 1) for item in value[:MAX_ITEMS]]
    return _text(value)


def _text(value: object) -> str:
    if isinstance(value, str):
        # Half a surrogate pair would be JSON that many readers refuse, and the entry would be hidden from them.
        return value[:MAX_TEXT].encode("utf-8", "replace").decode()
    return f"a {type(value).__name__}"


def _is_secret(name: object) -> bool:
    return isinstance(name, str) and any(word in name.lower() for word in SECRET_WORDS)


def _entries_backwards(file: BinaryIO) -> Iterator[dict[str, Any]]:
    for line in _lines_backwards(file):
        try:
            entry = orjson.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            yield entry


def _lines_backwards(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file, the last one first, a block in memory at a time."""
    end = file.seek(0, os.SEEK_END)
    begun = b""
    while end > 0:
        start = max(0, end - _BLOCK)
        file.seek(start)
        begun, *lines = (file.read(end - start) + begun).split(b"\n")
        yield from reversed(lines)
        # None of ours is as long; it must not fill the memory.
        begun = begun if len(begun) <= _MAX_FOREIGN_LINE else b""
        end = start
    yield begun
