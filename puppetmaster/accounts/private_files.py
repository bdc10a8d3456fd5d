"""Files beside the store that nobody but the service's user may read: the accounts and the audit log."""

from __future__ import annotations

import os
from pathlib import Path

PRIVATE = 0o600

_SAFE = os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)


def open_private(path: Path, flags: int) -> int:
    """Open a file, or make one that its owner alone may read, and return its descriptor.

    What root makes is given to the owner of the folder: an account that was added with sudo would else be out of
    reach for a service that runs under a user of its own. That user could in turn have root write to any file, or
    be given it, so no symbolic link is followed and nothing but a new file is given away.

    Raises OSError.
    """
    while True:
        try:
            return os.open(path, flags | _SAFE)
        except FileNotFoundError:
            pass
        try:
            return make_private(path, flags)
        except FileExistsError:
            continue  # somebody was quicker


def make_private(path: Path, flags: int) -> int:
    """As :func:`open_private`, for a file that must not be there yet."""
    descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL | _SAFE, PRIVATE)
    try:
        owner = os.stat(path.parent)
        if hasattr(os, "geteuid") and os.geteuid() == 0 and owner.st_uid != 0:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
