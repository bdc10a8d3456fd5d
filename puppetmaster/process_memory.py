"""How much memory this process has, and how much it may have."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

SHARE = 0.8
"""Of what there is: the rest is for what grows while jobs run, above all the answers of devices, and for others."""

_PROC, _CGROUPS = Path("/proc/self"), Path("/sys/fs/cgroup")
_STATM = _PROC / "statm"
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """The memory that the process has; where the system does not tell, the most that it ever had. Takes some 10 µs."""
    try:
        with open(_STATM, "rb") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


def trim() -> None:
    """Have glibc give back what is free; other allocators do as they like."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def default_limit() -> int:
    """A share of what this process may have: its control group's limit, or the memory of the machine."""
    return int(available_bytes() * SHARE)


def available_bytes(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """The memory that is there for this process and those beside it in its control group."""
    machine = os.sysconf("SC_PHYS_PAGES") * _PAGE_BYTES
    return min([machine, *_group_limits(proc, cgroups)])


def _group_limits(proc: Path, cgroups: Path) -> Iterator[int]:
    """The limits of the control group (version 2 or 1) and of those above it."""
    try:
        lines = (proc / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            yield from _limits(cgroups, path, "memory.max")
        elif "memory" in controllers.split(","):
            yield from _limits(cgroups / "memory", path, "memory.limit_in_bytes")


def _limits(root: Path, path: str, name: str) -> Iterator[int]:
    group = Path(path.lstrip("/"))
    # In a container the path may be that outside of it: then only the root is there.
    for folder in (group, *group.parents):
        with contextlib.suppress(OSError, ValueError):  # "max" is none
            yield int((root / folder / name).read_text())
