"""Child processes that are all gone when their parent is, and whose log tells why one did not start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from puppetmaster.errors import PuppetmasterError

PARENT_ENV = "PUPPETMASTER_PARENT"
"""Tells a child the process that it is not to outlive."""

STOP_TIMEOUT = 8.0
"""Seconds from TERM to KILL; longer than the parts take for their goodbyes."""

TAIL = 15
"""Lines of a child's log that are shown when it failed."""

_POLL = 0.02
_PR_SET_PDEATHSIG = 1


class ChildFailed(PuppetmasterError):
    """Raised when a child ended by itself."""

    def __init__(self, name: str, status: int, tail: str) -> None:
        what = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        super().__init__(f"the {name} {what}" + (f"; the end of its log:\n{tail}" if tail else ""))


@dataclass(slots=True)
class _Child:
    name: str
    process: subprocess.Popen[bytes]
    log: Path | None


class Children:
    """Processes of ``python -m puppetmaster``, each in a group of its own so that Ctrl-C is for us alone.

    :param folder: where they run, away from our settings, and where their logs go; none lets them run where we do,
        with our settings, and write to our stdout and stderr.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._children: list[_Child] = []

    def start(self, name: str, arguments: Sequence[str]) -> None:
        """Start one; ``name`` is what the user is told it is."""
        log = self._folder / f"{name}.log" if self._folder is not None else None
        stream: IO[bytes] | None = log.open("wb") if log is not None else None
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "puppetmaster", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                cwd=self._folder,
                env=_environment(own_settings=self._folder is None),
                start_new_session=True,
            )
        finally:
            if stream is not None:
                stream.close()
        self._children.append(_Child(name, process, log))

    def check(self) -> None:
        """See that all are running.

        :raises ChildFailed: when one is not.
        """
        for child in self._children:
            status = child.process.poll()
            if status is not None:
                raise ChildFailed(child.name, status, self.tail(child.name))

    def tail(self, name: str) -> str:
        """The last lines of a child's log."""
        log = next(child.log for child in self._children if child.name == name)
        if log is None:
            return ""
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-TAIL:])

    def stop(self) -> None:
        """End all, those first that were started last, and return when they are gone."""
        deadline = time.monotonic() + STOP_TIMEOUT
        while self._children:
            child = self._children.pop()
            _signal(child.process, signal.SIGTERM)
            while child.process.poll() is None and time.monotonic() < deadline:
                time.sleep(_POLL)
            _signal_group(child.process, signal.SIGKILL)
            child.process.wait()

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _environment(*, own_settings: bool) -> dict[str, str]:
    """Ours, with this package's place, so that ``python -m`` finds it where it is not installed."""
    place = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [place, os.environ.get("PYTHONPATH")]))
    foreign: tuple[str, ...] = () if own_settings else ("PUPPETMASTER_", "BROKER_PORT_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**kept, "PYTHONPATH": path, PARENT_ENV: str(os.getpid())}


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    if process.poll() is None:
        process.send_signal(number)


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Signal what is left of the child's group, which has its number as long as one of it lives."""
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return


def end_with_parent() -> None:
    """Ask Linux for a TERM when the process that started us as a child ends, however it ends."""
    parent = os.environ.pop(PARENT_ENV, None)
    if parent is None or sys.platform != "linux":
        return
    import ctypes  # here, for who has no such parent needs none of it

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if str(os.getppid()) != parent:
        sys.exit(1)  # it ended before we could ask
