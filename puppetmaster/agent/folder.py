"""The folder that an agent remembers in: one agent at a time, and how the last one ended."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from enum import Enum
from pathlib import Path

from puppetmaster.errors import FileUnavailable, PuppetmasterError

_LOCK = "lock"
_LIFE = "life"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class LastEnd(str, Enum):
    """How the agent before this one ended; the value is the word in the event."""

    NONE = "none"
    """There was none."""
    STOPPED = "stopped"
    """It was told to."""
    DIED = "died"
    """It was killed, or failed."""
    REBOOT = "reboot"
    """The machine went down and came back."""

    def __str__(self) -> str:
        return str(self.value)


class FolderInUse(PuppetmasterError):
    """Raised when another agent works in the folder."""

    def __init__(self, path: Path, owner: str) -> None:
        self.path, self.owner = path, owner
        super().__init__(f"{path} is in use by {owner}; each agent needs a folder of its own (--folder)")


class Folder:
    """A folder that is ours until :meth:`close`.

    :raises FolderInUse: when another agent has it.
    :raises FileUnavailable: when it can't be made or written.
    """

    def __init__(self, path: Path, ident: str) -> None:
        self.path = path = path.absolute()  # commands run in other folders
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise FileUnavailable(path, "use the folder", error.strerror or str(error)) from error
        try:
            self._take(ident)
        except BaseException:
            os.close(self._lock)
            raise

    def _take(self, ident: str) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise FolderInUse(self.path, self._owner()) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, json.dumps({"pid": os.getpid(), "id": ident}).encode(), 0)

    def _owner(self) -> str:
        try:
            owner = json.loads(os.pread(self._lock, 4096, 0))
            return f"the agent {owner['id']} (process {owner['pid']})"
        except (OSError, ValueError, KeyError, TypeError):
            return "another agent"

    def begin(self) -> LastEnd:
        """Say that an agent lives here from now on; how the last one ended."""
        last = self._last_end()
        self._write("running")
        return last

    def end(self) -> None:
        """Say that it ended as it was told to."""
        self._write("stopped")

    def close(self) -> None:
        """Let others have it."""
        os.close(self._lock)

    def _last_end(self) -> LastEnd:
        try:
            life = json.loads((self.path / _LIFE).read_bytes())
            if life["state"] == "stopped":
                return LastEnd.STOPPED
            return LastEnd.DIED if life["boot"] == _boot_id() else LastEnd.REBOOT
        except FileNotFoundError:
            return LastEnd.NONE
        except (OSError, ValueError, KeyError, TypeError):
            return LastEnd.DIED

    def _write(self, state: str) -> None:
        # It only informs, so a full disk must not keep the agent from its work.
        with contextlib.suppress(OSError):
            (self.path / _LIFE).write_text(json.dumps({"state": state, "boot": _boot_id()}), encoding="utf-8")


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""
