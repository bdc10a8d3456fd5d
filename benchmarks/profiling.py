"""Where the bundle spends its CPU: samples of py-spy, weighed by what the kernel says of each thread.

py-spy tells who held the interpreter's lock. What a thread spends without it, in system calls, is not sampled, but
counted by the kernel: so each thread's samples share out all of that thread's CPU, and the store's threads are charged
with their writes.
"""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import psutil

from benchmarks.options import REPOSITORY, Failed

RATE = 400
"""Samples a second."""

ATTACH_TIMEOUT = 20.0
"""Seconds for py-spy to find its way in, and to write what it has found."""

OTHER = "other"

PARTS = ("publish", "receive", "engine", "journal", "events", "call", OTHER)

THREAD = "thread"
"""The path of the frame that stands for a thread, outside of all its functions."""

PLACES = (
    (r"store/|documents\.py$", r"", "journal"),
    (r"service\.py$", r"_stage|_saved|durable|_take_batch|_new_batch|_settle", "journal"),
    (r"puppetmaster/(engine|window|pacing|policies|states|models|directory|effects|core|service|times)\.py$", r"",
     "engine"),
    (r"puppetmaster/(channels|devices)/", r"", "engine"),
    (r"puppetmaster/(teller|feeds|views|answers)\.py$|edges/http/streams\.py$|websockets", r"", "events"),
    (r"puppetmaster/bus\.py$", r"subscribe", OTHER),
    (r"puppetmaster/(tunnels|bus|wire|packets)\.py$",
     r"read|receive|arriv|hand_over|handle|begin|_take$|_take_publish|puback|depth|destination_of|_Stream|length_at"
     r"|acknowledge$", "receive"),
    (r"puppetmaster/(tunnels|bus|wire|packets)\.py$", r"", "publish"),
    (r"puppetmaster/(rollcall|observer)\.py$|gmqtt/subscription\.py$", r"", OTHER),
    (r"gmqtt/", r"suback|subscri", OTHER),
    (r"gmqtt/", r"receive|read|parse|_handle_publish|_handler|on_message", "receive"),
    (r"gmqtt/", r"", "publish"),
    (r"puppetmaster/(edges|accounts)/|puppetmaster/(web|bodies|job_document|fields|queries|schemas|operations)\.py$"
     r"|uvicorn|fastapi|starlette", r"", "call"),
    (THREAD, r"puppetmaster-(store|compaction)", "journal"),
)
"""What a function works for: a pattern for its file, one for its name, the part. The first that fits counts, and of a
stack the innermost function that any fits: what asyncio or orjson do is charged to who had it done."""


@dataclass(frozen=True)
class Frame:
    """A function on a stack."""

    name: str
    path: str

    @classmethod
    def parse(cls, text: str) -> Frame:
        """Read ``name (path:line)``."""
        name, _, place = text.rpartition(" (")
        return cls(name, place.rstrip(")").rpartition(":")[0]) if name else cls(text, "")

    @property
    def part(self) -> str | None:
        """What it works for, if that is known."""
        return next((part for path, name, part in PLACES if re.search(path, self.path) and re.search(name, self.name)),
                    None)

    def __str__(self) -> str:
        levels = self.path.replace(f"{REPOSITORY}/", "").rpartition("site-packages/")[2].split("/")
        return f"{self.name} ({'/'.join(levels[-3:])})"


Stack: TypeAlias = tuple[Frame, ...]
"""From the thread to the innermost function."""


@dataclass
class Profile:
    """Where CPU was spent."""

    stacks: dict[Stack, float] = field(default_factory=dict)
    """Seconds, by stack."""
    unsampled: float = 0.0
    """Seconds of threads of which there is no sample."""

    @property
    def total(self) -> float:
        """Seconds in all."""
        return sum(self.stacks.values()) + self.unsampled

    def add(self, other: Profile) -> None:
        """Add what was found another time."""
        self.unsampled += other.unsampled
        for stack, seconds in other.stacks.items():
            self.stacks[stack] = self.stacks.get(stack, 0.0) + seconds

    def parts(self) -> dict[str, float]:
        """The share of each part."""
        spent = dict.fromkeys(PARTS, 0.0)
        spent[OTHER] += self.unsampled
        for stack, seconds in self.stacks.items():
            spent[next((part for frame in reversed(stack) if (part := frame.part)), OTHER)] += seconds
        return {part: seconds / self.total for part, seconds in spent.items()}

    def table(self, count: int) -> str:
        """The functions that take the most by themselves, with the shares of themselves and of all that they call."""
        own: defaultdict[Frame, float] = defaultdict(float)
        inclusive: defaultdict[Frame, float] = defaultdict(float)
        for stack, seconds in self.stacks.items():
            own[stack[-1]] += seconds
            for frame in set(stack):
                inclusive[frame] += seconds
        lines = ["  self  with callees  function"]
        for frame in sorted(own, key=own.__getitem__, reverse=True)[:count]:
            lines.append(f"{own[frame] / self.total:6.1%}  {inclusive[frame] / self.total:12.1%}  {frame}")
        return "\n".join(lines) + "\n"


def read_raw(lines: Iterable[str], cpu: dict[int, float]) -> Profile:
    """Take py-spy's raw format apart.

    :param lines: ``thread (ID): NAME;outermost (path:line);...;innermost (path:line) SAMPLES``.
    :param cpu: seconds of CPU of each thread, by its id.
    """
    samples: dict[int, Counter[Stack]] = defaultdict(Counter)
    for line in lines:
        text, _, count = line.rpartition(" ")
        thread, *frames = text.split(";")
        found = re.fullmatch(r"thread \((\d+)\)(?:: (.*))?", thread)
        if found and frames:
            stack = (Frame(found[2] or "", THREAD), *map(Frame.parse, frames))
            samples[int(found[1])][stack] += int(count)
    profile = Profile(unsampled=sum(seconds for ident, seconds in cpu.items() if ident not in samples))
    for ident, stacks in samples.items():
        total = sum(stacks.values())
        shares = {stack: cpu.get(ident, 0.0) * number / total for stack, number in stacks.items()}
        profile.add(Profile(shares))
    return profile


class Spy:
    """py-spy on a process, for the time of a block; :attr:`profile` holds what it found.

    :raises Failed: when it is not there, or may not look into the process.
    """

    def __init__(self, process: psutil.Process, folder: Path) -> None:
        self.profile = Profile()
        self._process = process
        self._file = folder / "samples.txt"

    async def __aenter__(self) -> Spy:
        command = Path(sys.executable).with_name("py-spy")
        if not command.exists():
            raise Failed("py-spy is not installed (requirements-bench.txt)")
        arguments = ["record", "--format", "raw", "--rate", str(RATE), "--function", "--threads", "--gil",
                     "--full-filenames", "--output", str(self._file), "--pid", str(self._process.pid)]
        self._child = await asyncio.create_subprocess_exec(
            str(command), *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            await asyncio.wait_for(self._attached(), ATTACH_TIMEOUT)
        except BaseException:
            await self._end()
            raise
        self._before = self._cpu()
        return self

    async def __aexit__(self, *_: object) -> None:
        after = self._cpu()
        await self._end()
        if self._file.exists():
            spent = {thread: seconds - self._before.get(thread, 0.0) for thread, seconds in after.items()}
            self.profile = read_raw(self._file.read_text().splitlines(), spent)

    async def _attached(self) -> None:
        assert self._child.stdout is not None
        said: Sequence[str] = []
        async for line in self._child.stdout:
            said = [*said, line.decode().strip()]
            if "Sampling process" in said[-1]:
                return
        raise Failed(f"py-spy can't look into the bundle: {' '.join(said)}")

    async def _end(self) -> None:
        if self._child.returncode is None:
            self._child.send_signal(signal.SIGINT)
        try:
            await asyncio.wait_for(self._child.communicate(), ATTACH_TIMEOUT)
        except asyncio.TimeoutError:
            self._child.kill()
            await self._child.wait()

    def _cpu(self) -> dict[int, float]:
        return {thread.id: thread.user_time + thread.system_time for thread in self._process.threads()}
