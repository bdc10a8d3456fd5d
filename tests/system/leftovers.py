"""Commands outlive the agent that started them, as they should; but not the tests."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path


def end_commands(folder: Path) -> None:
    """End what still runs of the commands whose files are somewhere below a folder; its agents have ended."""
    for group in _groups(f"{folder}/".encode()):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def _groups(place: bytes) -> set[int]:
    groups = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            # The shell of a command has the path of its files among its words, and is the leader of a group.
            words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            if any(word.startswith(place) and b"/runs/" in word for word in words):
                groups.add(os.getpgid(int(name)))
    return groups - {os.getpgid(0)}
