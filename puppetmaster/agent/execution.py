"""One order's commands, one after the other, from wherever an earlier life left them."""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from puppetmaster.agent.commands import Command, Plan
from puppetmaster.agent.ending import Ending
from puppetmaster.agent.launch import prepare, removal
from puppetmaster.agent.output import MIB, Output, OutputLimits, TooMuchOutput
from puppetmaster.agent.shim import NOT_BEGUN, Run, Shim

logger = logging.getLogger(__name__)

FASTEST, SLOWEST = 0.02, 0.25
"""Seconds between two looks at the output: soon after there was some, seldom when a command is silent."""

MARKER_TIME = 5.0
"""Seconds for a shell to write down who it is, once it has made its marker: it does both at once."""

DRAIN_TIME = 0.5
"""Seconds for the last of the output to come into its file, when a command has ended but others hold its pipes."""

REMOVAL_TIME = 30.0
"""Seconds for podman or docker to remove a container."""

DONE, NOT_ALLOWED, FAILED, CANCELED = 200, 403, 500, 499

T = TypeVar("T")


class Outcome(str, Enum):
    """How an order ended; the value is the word on the wire."""

    DONE = "done"
    """All exit codes were 0."""
    FAILED = "failed"
    """A command failed, or could not be started."""
    TIMEOUT = "timeout"
    """It took too long and was killed."""
    KILLED = "killed"
    """It was killed because somebody wanted that."""
    NEVER_STARTED = "never started"
    """It was canceled before its first command began."""
    CUT_OFF = "cut off"
    """It was running when the machine went down, or its shell was killed."""
    NOT_ALLOWED = "not allowed"
    """The agent's setting forbids it."""

    def __str__(self) -> str:
        return str(self.value)


class Stop(str, Enum):
    """Why an order is stopped; the value is what is noted."""

    CANCEL = "cancel"
    """Somebody asked for it."""
    TIMEOUT = "timeout"
    OUTPUT = "output"
    """It fills the disk with its output."""
    CLOSE = "close"
    """The process that looks after it is told to end its commands."""

    def __str__(self) -> str:
        return str(self.value)


@dataclass(slots=True)
class _Result:
    """How one command ended."""

    status: int | None = None
    outcome: Outcome = Outcome.DONE
    message: str = ""
    # The signal that ended it without a status.
    signal: int | None = None

    @property
    def is_good(self) -> bool:
        return self.outcome is Outcome.DONE and self.status == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all executions of a worker share."""

    files: Executor
    """Where files are read and written, and shells started."""
    limits: OutputLimits
    kill_after: float
    """Seconds from TERM to KILL."""
    lingering: set[Ending] = field(default_factory=set)
    """Of shells that go on because of what a command has left in the background; they have to be reaped some day."""

    def linger(self, ending: Ending) -> None:
        """See to it that a child is reaped when it ends."""
        self.lingering.add(ending)
        ending.on_end = self.reap

    def reap(self) -> None:
        """Reap what has ended since."""
        for ending in [each for each in self.lingering if each.look()]:
            ending.reap()
            self.lingering.discard(ending)

    def close(self) -> None:
        """Notice no ends any more."""
        for ending in self.lingering:
            ending.close()


class Execution:
    """Carries out a plan in a folder.

    :param tell: tells what output there is to tell, and whether that was all; called often.
    :param note: makes it durable that the order is stopped, before anything is killed.
    :param progress: hears of each command that begins.
    :param stop: why an earlier life has stopped it.
    :param forbidden: why a command may not be begun any more, by its number.
    :param is_doubtful: whether a command that has not left a marker may have begun all the same, because the machine
        went down since: it is not begun then.
    """

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        around: Surroundings,
        *,
        tell: Callable[[Output], Awaitable[bool]],
        note: Callable[[Stop], Awaitable[None]],
        progress: Callable[[int], None],
        stop: Stop | None = None,
        forbidden: Mapping[int, str] = MappingProxyType({}),
        is_doubtful: bool = False,
    ) -> None:
        self._plan, self._folder, self._around = plan, folder, around
        self._tell, self._note, self._progress = tell, note, progress
        self._stop, self._forbidden, self._is_doubtful = stop, forbidden, is_doubtful
        self._was_killed = stop is not None
        self._wake = asyncio.Event()
        self._deadline = math.inf
        self._command = 0
        self._result = _Result(None, Outcome.NEVER_STARTED)
        self._is_told = False

    def stop(self, why: Stop) -> None:
        """End it; idempotent, the first reason counts."""
        if self._stop is None:
            self._stop = why
            self._wake.set()

    async def run(self) -> Output:
        """Carry it out; the output, which may not all be told."""
        output = await self._in_thread(self._open)
        for number, command in enumerate(self._plan.commands):
            self._result = await self._run(number, command, output)
            if not self._result.is_good:
                break
        return output

    async def answer(self, output: Output) -> tuple[int, dict[str, Any]]:
        """Code and data of the final answer, once it has run."""
        return await self._in_thread(self._answer, self._result, output)

    def _open(self) -> Output:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Output(self._folder, len(self._plan.commands), self._around.limits)

    # ------------------------------------------------------------------------------------------- one command

    async def _run(self, number: int, command: Command, output: Output) -> _Result:
        run = Run(self._folder, number)
        shim = None
        if not await self._in_thread(run.has_begun):
            if (reason := self._reason_against(number)) is not None:
                return reason
            self._around.reap()
            try:
                shim = await self._in_thread(lambda: run.launch(prepare(command, self._container(number))))
            except (OSError, ValueError) as error:
                self._command = number
                return _Result(None, Outcome.FAILED, f"it could not be started: {_reason(error)}")
        self._command = number
        self._progress(number)
        await self._in_thread(output.begin, number)
        self._is_told = False
        result = await self._follow(number, command, run, output, shim)
        await self._in_thread(output.end, number)
        await self._tell(output)
        return result

    def _reason_against(self, number: int) -> _Result | None:
        """Why a command is not begun."""
        if number and time.monotonic() >= self._deadline:
            self.stop(Stop.TIMEOUT)
        if self._stop is not None:
            self._was_killed = number > 0
            return _Result(None, Outcome.KILLED if number else Outcome.NEVER_STARTED)
        if number in self._forbidden:
            return _Result(None, Outcome.NOT_ALLOWED, f"command {number + 1} was not begun: {self._forbidden[number]}")
        if self._is_doubtful:
            return _Result(None, Outcome.CUT_OFF, "the machine went down about when this was to begin")
        return None

    def _container(self, number: int) -> str:
        return f"puppetmaster-{self._folder.name}-{number}"

    async def _follow(self, number: int, command: Command, run: Run, output: Output, shim: Shim | None) -> _Result:
        """Wait for a command: its shell is our child, or None and an earlier life has begun it."""
        is_child = shim is not None
        shim = shim or await self._shim(run)
        status = None
        if shim is not None:
            status = await self._wait(number, command, run, output, shim, is_child)
        if status == NOT_BEGUN and shim is not None:
            winner = await self._in_thread(run.shim)
            if winner is None:
                return _Result(None, Outcome.FAILED, "it could not be started: the agent's folder can't be written")
            if winner.pid != shim.pid:
                return await self._follow(number, command, run, output, None)
        return await self._in_thread(self._result_of, run)

    async def _shim(self, run: Run) -> Shim | None:
        for _ in range(int(MARKER_TIME / FASTEST)):
            shim = await self._in_thread(run.shim)
            if shim is not None:
                return shim
            await asyncio.sleep(FASTEST)
        return None

    def _result_of(self, run: Run) -> _Result:
        found = run.status()
        if self._stop is not None and self._was_killed:
            return _Result(found, Outcome.KILLED, signal=signal.SIGKILL.value if found is None else None)
        if found is None:
            return _Result(None, Outcome.CUT_OFF, "it was cut off: nobody saw its end")
        return _Result(found, Outcome.FAILED if found else Outcome.DONE)

    # ----------------------------------------------------------------------------------------------- waiting

    async def _wait(
        self, number: int, command: Command, run: Run, output: Output, shim: Shim, is_child: bool
    ) -> int | None:
        """Wait for a shell's end, tell its output, end it when it is time; its own status if it is our child."""
        ending = Ending(shim, is_child, self._wake.set)
        killer = _Killer(shim, self._around.kill_after)
        deadline = await self._in_thread(self._deadline_of, command, run, is_child)
        delay = FASTEST
        drained_at = math.inf
        try:
            while not ending.look() and time.monotonic() < drained_at:
                await self._pause(min(delay, killer.patience, max(0.0, deadline - time.monotonic())))
                delay = FASTEST if await self._look(output) else min(SLOWEST, delay * 1.5)
                if drained_at == math.inf and self._stop is None and run.status() is not None:
                    # Only what it left in the background holds the shell up.
                    deadline, drained_at = math.inf, time.monotonic() + DRAIN_TIME
                if time.monotonic() >= deadline:
                    self.stop(Stop.TIMEOUT)
                    deadline = math.inf
                if self._stop is not None and not ending.look():
                    await self._kill(killer)
            await self._clear_away(killer, command, number, run, is_child)
            if ending.look():
                return ending.reap()
            await self._in_thread(run.let_go, shim)
            if is_child:
                self._around.linger(ending)
            return None
        finally:
            if ending not in self._around.lingering:
                ending.close()

    def _deadline_of(self, command: Command, run: Run, is_child: bool) -> float:
        """When a command has to be done, on the monotonic clock."""
        now = time.monotonic()
        if self._plan.timeout is not None and self._deadline == math.inf:
            self._deadline = now + self._plan.timeout - _age(Run(self._folder, 0))
        age = 0.0 if is_child else _age(run)
        return min(self._deadline, math.inf if command.timeout is None else now + command.timeout - age)

    async def _pause(self, seconds: float) -> None:
        # Not wait_for: a cancellation that meets the event gets lost in it before Python 3.12.
        timer = asyncio.get_running_loop().call_later(seconds, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()
        self._wake.clear()

    async def _look(self, output: Output) -> bool:
        """Tell what there is; whether there was anything new."""
        is_quiet = output.is_quiet()
        if is_quiet and self._is_told:
            return False
        try:
            await self._in_thread(output.look)
        except TooMuchOutput:
            self.stop(Stop.OUTPUT)
        self._is_told = await self._tell(output)
        return not is_quiet

    async def _kill(self, killer: _Killer) -> None:
        if not killer.is_at_work:
            assert self._stop is not None
            self._was_killed = True
            await self._note(self._stop)
        killer.go_on()

    async def _clear_away(self, killer: _Killer, command: Command, number: int, run: Run, is_child: bool) -> None:
        """End what a shell has left behind that did not end well."""
        if killer.is_at_work:
            # Nothing tells when a group has ended.
            while killer.patience > 0 and await self._in_thread(killer.shim.has_group):  # noqa: ASYNC110
                await asyncio.sleep(min(SLOWEST, killer.patience))
            if await self._in_thread(killer.shim.has_group):
                killer.shim.send(signal.SIGKILL)
        elif is_child and run.status() is None:
            # Somebody killed the shell. It is not reaped, so its number is still its own.
            killer.shim.send(signal.SIGKILL)
        else:
            return
        if command.container is not None:
            # Not among the files: a tool that hangs must not keep other commands waiting.
            await asyncio.to_thread(_remove, self._container(number))

    # ------------------------------------------------------------------------------------------------ answer

    def _answer(self, result: _Result, output: Output) -> tuple[int, dict[str, Any]]:
        outcome, code, message = self._judge(result)
        duration = self._duration(result)
        data: dict[str, Any] = {
            "outcome": outcome.value,
            "exitCode": result.status,
            "signal": result.signal or _signal(result.status),
            "duration": duration,
        }
        if self._plan.is_sequence:
            data["command"] = self._command
        if self._stop is Stop.CANCEL:
            data["after"] = duration
        data.update(output.answer())
        data["message"] = message or _message(outcome, result.status, duration)
        if any(Run(self._folder, number).has_lost_output() for number in range(self._command + 1)):
            data["message"] += "; a part of its output is lost: it could not be written to the disk"
        return code, data

    def _judge(self, result: _Result) -> tuple[Outcome, int, str]:
        if self._stop is Stop.CANCEL:
            killed = result.outcome in (Outcome.KILLED, Outcome.NEVER_STARTED)
            return result.outcome if killed else Outcome.DONE, CANCELED, ""
        if not self._was_killed or self._stop is None:
            if result.outcome is Outcome.NEVER_STARTED:
                return result.outcome, FAILED, "the agent was told to end its commands before this one began"
            return result.outcome, _CODES.get(result.outcome, FAILED), result.message
        outcome = _OUTCOMES[self._stop]
        return outcome, FAILED, "" if outcome is Outcome.TIMEOUT else self._excuse()

    def _excuse(self) -> str:
        if self._stop is Stop.OUTPUT:
            size = self._around.limits.disk_bytes / MIB
            return f"it said more than {size:g} MiB, and this file system can't give back what was read: it was killed"
        return "the agent was told to end its commands"

    def _duration(self, result: _Result) -> float:
        began, last = Run(self._folder, 0).began_at(), Run(self._folder, self._command)
        if began is None:
            return 0.0
        ended = last.ended_at() if last.status() is not None or result.outcome is Outcome.CUT_OFF else time.time()
        return round(max(0.0, (ended or began) - began), 3)

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._around.files, function, *arguments)


_CODES = {Outcome.DONE: DONE, Outcome.NOT_ALLOWED: NOT_ALLOWED}
_OUTCOMES = {Stop.TIMEOUT: Outcome.TIMEOUT, Stop.OUTPUT: Outcome.FAILED, Stop.CLOSE: Outcome.KILLED}


class _Killer:
    """TERM to a group, and KILL when that does not help."""

    def __init__(self, shim: Shim, kill_after: float) -> None:
        self.shim, self._kill_after = shim, kill_after
        self._kill_at = math.inf
        self.is_at_work = False

    @property
    def patience(self) -> float:
        """Seconds until :meth:`go_on` has something to do."""
        return max(0.0, self._kill_at - time.monotonic())

    def go_on(self) -> None:
        """Do what it is time for."""
        if not self.is_at_work:
            self.is_at_work = True
            self._kill_at = time.monotonic() + self._kill_after
            self.shim.send(signal.SIGTERM)
        elif self.patience == 0:
            self._kill_at = time.monotonic() + self._kill_after  # again, if need be
            self.shim.send(signal.SIGKILL)


def _age(run: Run) -> float:
    shim = run.shim()
    return shim.age() if shim else 0.0


def _remove(container: str) -> None:
    words = removal(container)
    if words is None:
        return
    try:
        subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=REMOVAL_TIME, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.warning("the container %s can't be removed: %s", container, error,
                       extra={"event": "agent_container_left"})


def _signal(status: int | None) -> int | None:
    """The signal that ended a command, as far as a shell's status tells: a program may exit with such a number too."""
    number = (status or 0) - 128
    return number if 0 < number < signal.SIGRTMIN else None


def _message(outcome: Outcome, status: int | None, duration: float) -> str:
    if outcome is Outcome.NEVER_STARTED:
        return "it was canceled before it began"
    if outcome is Outcome.KILLED:
        return f"killed after {duration:.1f} s"
    if outcome is Outcome.TIMEOUT:
        return f"it took too long and was killed after {duration:.1f} s"
    number = _signal(status)
    if number is not None:
        return f"killed by signal {number} ({signal.Signals(number).name})"
    return f"exit code {status}" if status else "done"


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.E2BIG:
        return "its words and its environment are too long for this system (a word may have 128 KiB)"
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error)
