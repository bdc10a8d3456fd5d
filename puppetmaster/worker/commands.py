"""Runs the commands of a task, one after the other, each in a process group of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil

from puppetmaster.worker.output import Output

logger = logging.getLogger(__name__)

READ_BYTES = 64 * 1024

GRACE = 5.0
"""Seconds from TERM to KILL."""

DRAIN = 1.0
"""Seconds for the rest of the output after the end of a command: a process that it left behind may hold the pipe."""

_POLL = 0.05


@dataclass(frozen=True, slots=True)
class Ending:
    """How the commands ended."""

    message: str
    """Why they failed; empty when they did not."""

    @property
    def is_success(self) -> bool:
        """Whether all of them did what they should."""
        return not self.message


class Commands:
    """The commands of one task, running.

    :param environment: all of the environment that they get.
    """

    def __init__(self, commands: Sequence[Sequence[str]], environment: Mapping[str, str]) -> None:
        self.output = Output()
        self.news = asyncio.Event()
        """Is set when there is new output."""
        self._commands = commands
        self._environment = dict(environment)
        self._started = time.monotonic()
        self._process: asyncio.subprocess.Process | None = None
        self._task = asyncio.create_task(self._run_all(), name="commands")

    @property
    def task(self) -> asyncio.Task[Ending]:
        """Ends with them."""
        return self._task

    @property
    def seconds(self) -> float:
        """Since when they run."""
        return time.monotonic() - self._started

    async def stop(self) -> None:
        """End them: the group that runs now gets TERM, and what is left of it after the grace KILL."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._process is not None:
            await _end_group(self._process.pid)

    async def _run_all(self) -> Ending:
        for number, command in enumerate(self._commands, 1):
            failure = await self._run(command)
            if failure:
                where = f"command {number} of {len(self._commands)} " if len(self._commands) > 1 else ""
                return Ending(f"{where}{failure}: {' '.join(command)[:200]}")
        return Ending("")

    async def _run(self, command: Sequence[str]) -> str:
        """Run one; returns why it failed, or nothing."""
        starting = asyncio.create_task(self._start(command), name="commands-start")
        try:
            process = await asyncio.shield(starting)
        except asyncio.CancelledError:
            # It is being born: only who knows it can end it.
            with contextlib.suppress(OSError, ValueError):
                self._process = await starting
            raise
        except (OSError, ValueError) as error:
            reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
            return f"could not be started ({reason})"
        self._process = process
        assert process.stdout is not None
        reading = asyncio.create_task(self._read(process.stdout), name="commands-output")
        try:
            code = await process.wait()
            await asyncio.wait({reading}, timeout=DRAIN)
        finally:
            reading.cancel()
        self._process = None
        self.output.add(b"", final=True)
        if code < 0:
            return f"was killed by {_signal(-code)}"
        return f"ended with exit code {code}" if code else ""

    async def _start(self, command: Sequence[str]) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=self._environment,
            start_new_session=True,
        )

    async def _read(self, stream: asyncio.StreamReader) -> None:
        while data := await stream.read(READ_BYTES):
            self.output.add(data)
            self.news.set()


async def _end_group(group: int) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline:
            if not _is_alive(group):
                return
            await asyncio.sleep(_POLL)
    logger.error("process group %d does not end", group, extra={"event": "process_left"})


def _is_alive(group: int) -> bool:
    """Whether somebody of a group is left; those count as ended that only wait to be buried."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return any(_is_member(pid, group) for pid in psutil.pids())


def _is_member(pid: int, group: int) -> bool:
    try:
        return os.getpgid(pid) == group and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except (OSError, psutil.Error):
        return False


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
