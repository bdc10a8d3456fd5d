"""A command that outlives the agent: it runs under a small shell that writes down that it began, and how it ended.

Each command of an order has a few files in the order's folder, here of its first one:

=============  ======================================================================================================
``0.started``  made by the shell before anything else, and by one shell only (O_EXCL): process id, boot id, and the
               shell's line of ``/proc``, by which it is told from a later process with its number
``0.stdout``   what the command says; files, so that nobody has to read them for it to go on
``0.stderr``
``0.exit``     the exit status and a dot, when it has ended; without the dot it is not there yet. Its place on the disk
               is taken at the start, so that a disk that fills up does not hide how the command ended
``0.lost``     is there when a part of the output could not be written
``0.keepers``  the processes that write the output
=============  ======================================================================================================

So whoever comes later knows: no marker, it never began. Marker and a live process: it runs. Marker and exit status:
it ended. Marker alone: it was cut off. The shell itself ends when all that was said is in the files.

What a command leaves in the background holds nobody up: the command has ended when its own process has. What that says
later goes nowhere. What leaves the process group (``setsid``, a daemon) is not reached by a cancel either.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

SHELL = "/bin/sh"
NOT_BEGUN = 75
"""The shell's own status when it could not make the marker: another one had, or the disk is full."""

_SCRIPT = """\
trap 'exit 143' HUP INT TERM
base=$1
shift
{ read -r stat <"/proc/$$/stat"; read -r boot </proc/sys/kernel/random/boot_id; } 2>/dev/null
{ set -C; echo "$$ ${boot:--} ${stat:--} ." >"$base.started"; } 2>/dev/null || exit 75
set +C
trap : HUP INT TERM
{ echo '        ' >"$base.exit"; } 2>/dev/null
keep() {
    trap '' HUP INT TERM
    PATH=/usr/bin:/bin:$PATH
    { cat <&7 & } 7<&0
    echo "$!" >>"$base.keepers"
    wait "$!"
    [ "$?" -ne 1 ] || : >"$base.lost"
    exec cat >/dev/null 3>&- 4>&-
}
run() {
    trap : HUP INT TERM
    exec 6>&2 2>/dev/null
    ( exec "$@" 2>&6 3>&- 4>&- 6>&- )
    echo "$? ." 1<>"$base.exit"
}
exec 3>&1 4>&2 2>/dev/null
{ trap : HUP INT TERM; run "$@" 2>&1 >&5 5>&- | keep >&4 3>&- 5>&-; } 5>&1 | keep >&3 4>&-
"""
# Signals for the command reach the whole group. They are trapped, not ignored, where it would be ignored by the command
# too; what the shell has to say of a command that was killed ("Terminated") is not the command's output.
#
# The output goes through a pipe and a cat to its file. The command could open the file itself otherwise, by
# "echo x >/dev/stderr", which empties it. And cat reads on whatever happens to the agent. When it can't write, or is
# ended because the command is over, another one reads on: nobody is to be killed by a pipe that nobody reads.

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_GONE = frozenset({"Z", "X", "x"})
"""States of a process that has ended: it may wait for its parent to notice."""


def boot_id() -> str:
    """What is different after each start of the machine; ``-`` where nobody knows."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip() or "-"
    except OSError:
        return "-"


class _Stat(NamedTuple):
    state: str
    group: int
    # In ticks since the machine started.
    start: str


def _parse_stat(text: str) -> _Stat | None:
    # The name in brackets may hold anything, brackets too.
    fields = text.rpartition(")")[2].split()
    return _Stat(fields[0], int(fields[2]), fields[19]) if len(fields) > 19 else None


def _read_stat(pid: int | str) -> _Stat | None:
    try:
        return _parse_stat(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class Shim:
    """The shell of a command: the leader of its session and its process group."""

    pid: int
    boot: str
    start: str
    """Empty where ``/proc`` tells nothing: then only the number counts."""

    def is_alive(self) -> bool:
        """Whether it still runs."""
        if self.boot != boot_id():
            return False
        if self.start:
            stat = _read_stat(self.pid)
            return stat is not None and stat.start == self.start and stat.state not in _GONE
        try:
            os.kill(self.pid, 0)
        except OSError as error:
            return error.errno == errno.EPERM
        return True

    def age(self) -> float:
        """Seconds since it began, by a clock that nobody sets; 0 where nobody knows."""
        if not self.start or self.boot != boot_id():
            return 0.0
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - int(self.start) / os.sysconf("SC_CLK_TCK"))

    def has_group(self) -> bool:
        """Whether anybody is left in its group, itself included."""
        if not self.start:
            return self.is_alive()
        stats = (_read_stat(name) for name in os.listdir("/proc") if name.isdigit())
        return any(stat and stat.group == self.pid and stat.state not in _GONE for stat in stats)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to its group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What a shell runs, and as what."""

    words: Sequence[str]
    directory: str
    environment: Mapping[str, str]
    """Not among the words: everybody on a machine can read those of a process, and a variable may be a secret."""


class Run:
    """The files of one command."""

    def __init__(self, folder: Path, number: int) -> None:
        self._base = folder / str(number)
        self.stdout, self.stderr = folder / f"{number}.stdout", folder / f"{number}.stderr"
        self._started, self._exit = folder / f"{number}.started", folder / f"{number}.exit"
        self._lost, self._keepers = folder / f"{number}.lost", folder / f"{number}.keepers"

    def has_begun(self) -> bool:
        """Whether a shell has begun the command: it must not be begun again."""
        return self._started.exists()

    def shim(self) -> Shim | None:
        """The shell that has begun it; None while that is not written down, which takes it a moment."""
        try:
            text = self._started.read_text(encoding="utf-8", errors="replace")
            pid, boot, stat = text.split(" ", 2)
        except (OSError, ValueError):
            return None
        if not text.endswith(".\n"):
            return None
        parsed = _parse_stat(stat)
        return Shim(int(pid), boot, parsed.start if parsed else "")

    def status(self) -> int | None:
        """The exit status as a shell counts it (128 and more: a signal), once it has ended."""
        try:
            line, end, _ = self._exit.read_text(encoding="ascii").partition("\n")
            return int(line[:-1]) if end and line.endswith(".") else None
        except (OSError, ValueError):
            return None

    def has_lost_output(self) -> bool:
        """Whether a part of what it said could not be written."""
        return self._lost.exists()

    def let_go(self, shim: Shim) -> None:
        """Write no more of its output: what it has left in the background may go on for years."""
        try:
            keepers = [int(line) for line in self._keepers.read_text(encoding="ascii").split()]
        except (OSError, ValueError):
            return
        for pid in keepers:
            stat = _read_stat(pid)
            if stat is not None and stat.group == shim.pid:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)

    def began_at(self) -> float | None:
        """When it began, seconds since 1970."""
        return _changed_at(self._started)

    def ended_at(self) -> float | None:
        """When it ended, or was last heard of."""
        if self.status() is not None:
            return _changed_at(self._exit)
        return max((time for time in map(_changed_at, (self._started, self.stdout, self.stderr)) if time), default=None)

    def launch(self, launch: Launch) -> Shim:
        """Start the shell, which becomes a child that the caller has to reap.

        :raises OSError: when it can't be started; the command has not begun then.
        """
        out = err = -1
        try:
            out, err = self._open(self.stdout), self._open(self.stderr)
            process = subprocess.Popen(
                [SHELL, "-c", _SCRIPT, SHELL, str(self._base), *launch.words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=launch.directory,
                env=launch.environment,
                start_new_session=True,
                umask=0o022,
            )
        finally:
            for descriptor in (out, err):
                if descriptor >= 0:
                    os.close(descriptor)
        # We reap it ourselves, and may leave it to the next life: the object must not warn of that.
        process.returncode = 0
        stat = _read_stat(process.pid)
        return Shim(process.pid, boot_id(), stat.start if stat else "")

    @staticmethod
    def _open(path: Path) -> int:
        # Never emptied: a shell of an earlier life may have begun already.
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def reap(pid: int) -> int | None:
    """The exit status of a child that has ended; None when it still runs. One that is no child of ours has ended."""
    try:
        found, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return 0
    return os.waitstatus_to_exitcode(status) if found else None


def _changed_at(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None
