"""Every error that puppetmaster raises on purpose.

::

    PuppetmasterError
    ├── InvalidDocument (ValueError)     400  a body that breaks a rule, with the path to every fault
    ├── Unauthorized                     401  nobody is known by this name and password, or this token
    ├── Forbidden                        403  who asks is known, and may not
    ├── NotFound (LookupError)           404
    │   ├── JobNotFound
    │   ├── RequestNotFound
    │   ├── DeviceNotFound
    │   └── AccountNotFound
    ├── Conflict                         409  the state of what it is about forbids it
    │   ├── IllegalTransition
    │   ├── KeyConflict
    │   ├── AccountExists
    │   └── LastAdmin
    ├── TooSlow (TimeoutError)           408  a body that does not come
    ├── TooLarge                         413  the body, or what the answer would be
    ├── TooManyAttempts                  429  logins failed too often: later
    ├── StoreUnavailable (OSError)       503  the store can't write now
    ├── MemoryShort (MemoryError)        503  a job would take more memory than there may be
    ├── FileUnavailable (OSError)        503  a file beside the store can't be read or written now
    ├── BackupFailed                     500  a backup or a restore came to no end: nothing was left behind
    ├── StoreCorrupt                     500  the files on disk are damaged: nothing was changed
    ├── StoreLocked                      500  another process has these files open
    ├── ListenError (OSError)            500  the address for HTTP can't be had
    ├── BusError (ConnectionError)       502  the broker or the controller did not do its part
    └── SettingsError (ValueError)       400  a flag, a variable or a file holds what can't be used

``code`` is what a caller is answered, on the bus and over HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from os import PathLike


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a document: ``path`` is dotted (``batch.0.method``), empty for the whole."""

    path: str
    message: str


class PuppetmasterError(Exception):
    """The root of all errors that are raised on purpose."""

    code = 500


class InvalidDocument(PuppetmasterError, ValueError):
    """Raised when a body or a query breaks a rule; nothing was created or changed."""

    code = 400

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        first = self.faults[0]
        where = f"{first.path}: " if first.path else ""
        more = f" (and {len(self.faults) - 1} more)" if len(self.faults) > 1 else ""
        super().__init__(f"{where}{first.message}{more}")


class Unauthorized(PuppetmasterError):
    """Raised when a name and password, or a token, are nobody's. It does not say which of them was wrong."""

    code = 401


class Forbidden(PuppetmasterError):
    """Raised when it is known who asks, or from where, and that may not be done from there."""

    code = 403


class NotFound(PuppetmasterError, LookupError):
    """Raised when an id names nothing."""

    code = 404
    noun = "object"

    def __init__(self, ident: object) -> None:
        self.ident = ident
        super().__init__(f"no {self.noun} has the id {ident!s:.40}")


class JobNotFound(NotFound):
    """Raised when no job has the id."""

    noun = "job"


class RequestNotFound(NotFound):
    """Raised when no request has the id."""

    noun = "request"


class DeviceNotFound(NotFound):
    """Raised when nobody has heard of such a device."""

    noun = "device"

    def __init__(self, ident: str) -> None:
        super().__init__(ident)
        self.args = (f"no device is called {ident!r:.140}",)


class AccountNotFound(NotFound):
    """Raised when no account has the name."""

    noun = "account"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.args = (f"no account is called {name!r:.80}",)


class Conflict(PuppetmasterError):
    """Raised when the state of a job, a request or an account forbids what was asked."""

    code = 409


class IllegalTransition(Conflict):
    """Raised when an event does not fit the status of a job or a request; nothing was changed."""

    def __init__(self, noun: str, status: str, event: str) -> None:
        self.status, self.event = status, event
        super().__init__(f"the {noun} is {status}: {event} is not possible any more")


class KeyConflict(Conflict):
    """Raised when a job's ``key`` is taken by a job with another body."""

    def __init__(self, key: str, job_id: int) -> None:
        self.key, self.job_id = key, job_id
        super().__init__(f"the key {key!r} belongs to job {job_id}, which was made from another body")


class AccountExists(Conflict):
    """Raised when the name of a new account is taken."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"there is an account {name!r} already")


class LastAdmin(Conflict):
    """Raised when a change would leave nobody who may administrate; nothing was changed."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"{name} is the last admin: make another account an admin first")


class TooSlow(PuppetmasterError, TimeoutError):
    """Raised when a body does not come within its time."""

    code = 408


class TooLarge(PuppetmasterError):
    """Raised when a body, or the answer to a query, would pass a limit of size."""

    code = 413


class TooManyAttempts(PuppetmasterError):
    """Raised when logins failed so often that none is looked at for ``retry_after`` seconds."""

    code = 429

    def __init__(self, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(f"too many attempts to log in: try again in {max(1, ceil(retry_after))} s")


class StoreUnavailable(PuppetmasterError, OSError):
    """Raised when the store can't write now (disk full, I/O error); it tries again by itself."""

    code = 503

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the store can't write: {reason}")


class MemoryShort(PuppetmasterError, MemoryError):
    """Raised when a job would take more memory than this process may have; nothing was created."""

    code = 503
    retry_after = 30.0
    """Seconds: jobs take that long to end."""


class FileUnavailable(PuppetmasterError, OSError):
    """Raised when a file beside the store can't be read or written now (rights, disk full, I/O error)."""

    code = 503

    def __init__(self, path: str | PathLike[str], doing: str, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"can't {doing} {path}: {reason}")


class StoreCorrupt(PuppetmasterError):
    """Raised when a file of the store is damaged in a way that is no torn tail."""

    def __init__(self, path: str | PathLike[str], offset: int, detail: str) -> None:
        self.path, self.offset, self.detail = path, offset, detail
        super().__init__(f"{path} is damaged at byte {offset}: {detail}")


class BackupFailed(PuppetmasterError):
    """Raised when a backup can't be made, or not be restored; what was there before is as it was."""


class StoreLocked(PuppetmasterError):
    """Raised when another process has the store open."""

    def __init__(self, path: str | PathLike[str], pid: int | None) -> None:
        self.path, self.pid = path, pid
        owner = f"process {pid}" if pid else "another process"
        super().__init__(f"{path} is in use by {owner}; one puppetmaster per data folder")


class ListenError(PuppetmasterError, OSError):
    """Raised when HTTP can't be served where the settings say; ``advice`` is what to do about it."""

    def __init__(
        self, address: str, reason: str, advice: str = "name another address (--http 127.0.0.1:8081), or --http off"
    ) -> None:
        self.address, self.reason = address, reason
        super().__init__(f"HTTP can't be served on {address} ({reason}): {advice}")


class BusError(PuppetmasterError, ConnectionError):
    """Raised when the broker or the controller can't be reached or does not answer."""

    code = 502


class SettingsError(PuppetmasterError, ValueError):
    """Raised when a flag, an environment variable or a settings file can't be used."""

    code = 400

    def __init__(self, name: str, source: str, message: str) -> None:
        self.name, self.source, self.reason = name, source, message
        where = "" if source == "default" else f" (from {source})"  # nobody gave what is wrong: it is missing
        super().__init__(f"{name}{where}: {message}")
