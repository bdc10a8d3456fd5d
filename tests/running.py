"""Which programs the tests of one process have started, and still run."""

from __future__ import annotations

from contextlib import suppress

import psutil


def running(what: str) -> list[psutil.Process]:
    """Those that have this in their command line; what has ended and waits to be asked for its end is none."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if what in " ".join(child.cmdline()):
                found.append(child)
    return found
