"""An installation to measure: broker, controller, bundle and devices, each a process, and the readings of them.

::

    async with Stand() as stand:
        run = await stand.run_job(20_000)
        print(run.rate, run.cpu_microseconds("bundle"))
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx
import psutil

from benchmarks.caller import Caller, Watcher
from benchmarks.options import REPOSITORY, Failed
from puppetmaster.address import BrokerAddress
from puppetmaster.embedded.broker import BrokerProcess, free_port
from puppetmaster.embedded.devices import names
from puppetmaster.store.tiny import QUIET

T = TypeVar("T")

INSTANCE = "race"
"""The bundle's name on the bus: as long as the bare loop's, so that their messages are of one length."""

WINDOW = 500
"""Requests that are out at once: puppetmaster's default."""

FLEET = 100_000
"""Devices; all names have one length, whatever part of the fleet a job has."""

MESSAGE = {"method": "post", "resource": "/echo"}

READY_TIMEOUT = 60.0
"""Seconds for a process to say that it is ready."""

JOB_TIMEOUT = 300.0
"""Seconds for a job to end."""

LOOK_PERIOD = 1.0
"""Seconds between two looks whether all processes run, while a job is waited for."""

RESTING = 0.06
"""Share of a core that the bundle takes at the most while it rests; the kernel counts in hundredths of a second."""

RESTLESS_LOOKS = 40

END_TIMEOUT = 30.0
"""Seconds from TERM to KILL."""


@dataclass(frozen=True)
class Timed:
    """Some requests, of one run or of several together."""

    count: int
    seconds: float
    """Of a job: from the call until the caller has seen its last state."""
    cpu: Mapping[str, float]
    """Seconds of CPU meanwhile, by process: bundle, broker, devices, controller."""

    @classmethod
    def together(cls, runs: Sequence[Timed]) -> Timed:
        """The sums of several runs."""
        cpu = {name: sum(run.cpu[name] for run in runs) for name in runs[0].cpu}
        return cls(sum(run.count for run in runs), sum(run.seconds for run in runs), cpu)

    @property
    def rate(self) -> float:
        """Requests a second, end to end."""
        return self.count / self.seconds

    def cpu_microseconds(self, process: str) -> float:
        """CPU of a process for each request."""
        return self.cpu[process] / self.count * 1e6


@dataclass(frozen=True)
class Run(Timed):
    """One job, or one run of what is measured in turn with it."""

    asked: tuple[int, int]
    """How many requests the devices had meanwhile, and how many bytes those had."""


class Stand:
    """An installation; ``async with`` starts it and ends all of it.

    :param data: the folder of the bundle's store; none makes one for the time being.
    :param settings: environment of the bundle beside its defaults: ``PUPPETMASTER_KEEP_REQUESTS="100"``.
    :param devices: whether there are devices.
    :param broker: lines of Mosquitto's configuration beside its defaults.
    :param program: the folder of the bundle's sources; this repository, or that of an earlier commit.
    """

    def __init__(
        self,
        *,
        data: Path | None = None,
        settings: Mapping[str, str] | None = None,
        devices: bool = True,
        broker: Sequence[str] = (),
        program: Path = REPOSITORY,
    ) -> None:
        self.data = data
        self.processes: dict[str, psutil.Process] = {}
        """Those that run, by name."""
        self.port = free_port()
        """Of HTTP."""
        self._settings = dict(settings or {})
        self._with_devices = devices
        self._broker_lines = tuple(broker)
        self._program = program
        self._fleet: list[str] = []
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._files = ExitStack()
        self._connections = AsyncExitStack()

    async def __aenter__(self) -> Stand:
        try:
            await self._start()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if isinstance(error, Exception):
                self.check()  # a process that has ended is the reason for whatever else went wrong
        finally:
            await self._end()

    async def _start(self) -> None:
        self.broker = self._files.enter_context(BrokerProcess(defaults=True, extra=self._broker_lines))
        pid = self.broker.pid
        assert pid is not None
        self.processes["broker"] = psutil.Process(pid)
        self._launch("controller", "-m", "puppetmaster", "controller")
        if self._with_devices:
            child = self._launch("devices", "-m", "benchmarks.devices", str(self.broker.port))
            await self._said(child, "ready")
        await self.start_bundle()

    async def _end(self) -> None:
        try:
            await self._disconnect()
        finally:  # whatever becomes of the connections, and however often somebody presses Ctrl-C
            for name in list(self._children):
                self._stop(name)
            self._files.close()

    # The bundle

    async def start_bundle(self, *, fresh: bool = False) -> float:
        """Start the bundle, after :meth:`stop_bundle` or for the first time; seconds until it was ready.

        :param fresh: with an empty store instead of the one that it had.
        :raises Failed: when it does not become ready.
        """
        if fresh or self.data is None:
            self.data = Path(self._files.enter_context(tempfile.TemporaryDirectory(prefix="benchmarks-")))
        start = time.perf_counter()
        self._launch("bundle", "index.py")
        await self._ready()
        seconds = time.perf_counter() - start
        self.caller = await self._connections.enter_async_context(Caller(self.port))
        self.watcher = await self._connections.enter_async_context(Watcher(self.port))
        return seconds

    async def stop_bundle(self) -> float:
        """End the bundle in an orderly way; the seconds that it took."""
        await self._disconnect()
        start = time.perf_counter()
        self._stop("bundle")
        return time.perf_counter() - start

    async def restart_bundle(self, *, fresh: bool = False) -> float:
        """Stop and start the bundle; the seconds that the start took."""
        await self.stop_bundle()
        return await self.start_bundle(fresh=fresh)

    async def _disconnect(self) -> None:
        await self._connections.aclose()

    async def _ready(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT
        async with httpx.AsyncClient() as client:
            while True:
                try:
                    if (await client.get(f"http://127.0.0.1:{self.port}/health")).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                self.check()
                if time.monotonic() > deadline:
                    raise Failed(f"the bundle was not ready within {READY_TIMEOUT:.0f} s")
                await asyncio.sleep(0.02)

    # Jobs

    def names(self, count: int, first: int = 0) -> list[str]:
        """So many devices of the fleet, from one on, which is counted from 0."""
        if not self._fleet:
            self._fleet = names(FLEET)
        return self._fleet[first : first + count]

    async def create_job(self, destinations: Sequence[str], **fields: Any) -> dict[str, Any]:
        """Create a job over HTTP, on the caller's connection.

        :param fields: of the job document: ``priority=80``.
        """
        made: dict[str, Any] = await self.caller.post(
            "/jobs", {"destinations": destinations, "message": MESSAGE, **fields}
        )
        return made

    async def ended(self, job_id: int, count: int) -> Mapping[str, Any]:
        """Wait until a job has ended; its last state.

        :raises Failed: when not all of its requests are resolved, or it takes too long.
        """
        job = await self._patiently(self.watcher.ended(job_id), f"job {job_id} of {count:,} requests has not ended")
        if job["counts"]["resolved"] != count:
            raise Failed(f"not all of {count:,} requests were resolved: {job['counts']}")
        return job

    async def _patiently(self, state: Coroutine[Any, Any, T], failure: str) -> T:
        """Wait for a state of a job, as long as all processes run."""
        task = asyncio.ensure_future(state)
        deadline = time.monotonic() + JOB_TIMEOUT
        try:
            while not (await asyncio.wait([task], timeout=LOOK_PERIOD))[0]:
                self.check()
                if time.monotonic() > deadline:
                    raise Failed(f"{failure} after {JOB_TIMEOUT:.0f} s")
        finally:
            task.cancel()
        return task.result()

    async def run_job(self, count: int, *, first: int = 0, **fields: Any) -> Run:
        """Run a job of one request to each of so many devices, created over HTTP and watched by a WebSocket.

        :param first: the first of the devices, counted from 0.
        :param fields: of the job document.
        :raises Failed: when not all of its requests are resolved, or the devices were not asked once each.
        """
        destinations, served = self.names(count, first), await self.served()
        before, start = self.cpu(), time.perf_counter()
        made = await self.create_job(destinations, **fields)
        await self.ended(made["id"], count)
        seconds, after = time.perf_counter() - start, self.cpu()
        requests, size = await self.served()
        if requests - served[0] != count:
            raise Failed(f"the devices were asked {requests - served[0]:,} times for {count:,} requests")
        cpu = {name: after[name] - before[name] for name in after}
        return Run(count, seconds, cpu, (requests - served[0], size - served[1]))

    async def at_rest(self) -> None:
        """Wait until the bundle has nothing left to do: it compacts its store when nobody has asked for anything for a
        while, which is not to be measured along with what comes next.

        :raises Failed: when it does not come to rest.
        """
        await asyncio.sleep(QUIET + LOOK_PERIOD / 2)
        for _ in range(RESTLESS_LOOKS):
            before = self.cpu()["bundle"]
            await asyncio.sleep(LOOK_PERIOD / 2)
            if self.cpu()["bundle"] - before <= RESTING * LOOK_PERIOD / 2:
                return
        raise Failed(f"the bundle has not come to rest after {QUIET + (RESTLESS_LOOKS + 1) * LOOK_PERIOD / 2:.0f} s")

    @asynccontextmanager
    async def load(self, count: int) -> AsyncIterator[int]:
        """Run a large job beside the block, which gets its id.

        The block begins when the job has answers. It may end before the block does, so ask :meth:`runs`; what is left
        of it at the end of the block is called off.
        """
        made = await self.create_job(self.names(count))
        has_answers = self.watcher.until(made["id"], lambda job: bool(job["doneCount"]))
        await self._patiently(has_answers, f"job {made['id']} of {count:,} requests has no answer")
        yield made["id"]
        await self.call_off(made["id"])

    def runs(self, job_id: int) -> bool:
        """Whether a job has not ended yet."""
        return job_id not in self.watcher.ended_at

    async def call_off(self, job_id: int) -> None:
        """Cancel a job, if it has not ended, and see it end."""
        if self.runs(job_id):
            with suppress(Failed):  # it may end meanwhile
                await self.caller.put(f"/jobs/{job_id}", {"status": "canceled"})
        await self._patiently(self.watcher.ended(job_id), f"job {job_id} was canceled and has not ended")

    # Readings

    @property
    def address(self) -> BrokerAddress:
        """Where the broker is."""
        return self.broker.address

    @property
    def bundle(self) -> psutil.Process:
        """The process of the bundle."""
        return self.processes["bundle"]

    def cpu(self) -> dict[str, float]:
        """Seconds of CPU so far, of user and kernel, of each process by its name."""
        times = {name: process.cpu_times() for name, process in self.processes.items()}
        return {name: spent.user + spent.system for name, spent in times.items()}

    def resident(self, process: str = "bundle") -> int:
        """Bytes of memory that a process has now."""
        return self._status(process, "VmRSS")

    def peak(self, process: str = "bundle") -> int:
        """Bytes of memory that a process had at the most, since its start or :meth:`forget_peak`."""
        return self._status(process, "VmHWM")

    def forget_peak(self, process: str = "bundle") -> None:
        """Let :meth:`peak` begin anew (proc(5), clear_refs)."""
        Path(f"/proc/{self.processes[process].pid}/clear_refs").write_text("5")

    def _status(self, process: str, what: str) -> int:
        for line in Path(f"/proc/{self.processes[process].pid}/status").read_text().splitlines():
            if line.startswith(f"{what}:"):
                return int(line.split()[1]) * 1024
        raise Failed(f"the kernel does not tell {what}")

    async def served(self) -> tuple[int, int]:
        """How many requests the devices have answered so far, and how many bytes those had."""
        child = self._children["devices"]
        assert child.stdin is not None
        child.stdin.write(b"?\n")
        child.stdin.flush()
        found = json.loads(await self._line(child))
        return found["requests"], found["bytes"]

    def check(self) -> None:
        """See that all processes run.

        :raises Failed: when one has ended.
        """
        if not self.broker.running:
            raise Failed(f"the broker has ended by itself: {self.broker.log()}")
        for name, child in self._children.items():
            if child.poll() is not None:
                raise Failed(f"the process {name!r} has ended by itself, with status {child.returncode}")

    # Processes

    def _launch(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        # Of this program's own environment only what is not a setting: the bundle is measured as it comes.
        env = {name: value for name, value in os.environ.items() if not name.startswith("PUPPETMASTER_")}
        env |= {"PUPPETMASTER_BROKER": self.broker.address.url(), "PUPPETMASTER_LOG": "warning"}
        if name == "bundle":
            env |= {"PUPPETMASTER_DATA": str(self.data), "PUPPETMASTER_INSTANCE": INSTANCE,
                    "PUPPETMASTER_WINDOW": str(WINDOW), "PUPPETMASTER_HTTP": f"127.0.0.1:{self.port}",
                    **self._settings}
        folder = self._program if name == "bundle" else REPOSITORY
        child = subprocess.Popen([sys.executable, *arguments], cwd=folder, env=env, stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE if name == "devices" else subprocess.DEVNULL)
        self._children[name] = child
        self.processes[name] = psutil.Process(child.pid)
        return child

    def _stop(self, name: str) -> None:
        child = self._children.pop(name)
        self.processes.pop(name)
        child.terminate()
        try:
            child.wait(END_TIMEOUT)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    async def _said(self, child: subprocess.Popen[bytes], word: str) -> None:
        line = await self._line(child)
        if line.strip() != word:
            raise Failed(f"a process said {line!r} instead of {word!r}")

    async def _line(self, child: subprocess.Popen[bytes]) -> str:
        assert child.stdout is not None
        try:
            return (await asyncio.wait_for(asyncio.to_thread(child.stdout.readline), READY_TIMEOUT)).decode()
        except asyncio.TimeoutError:
            raise Failed(f"a process said nothing for {READY_TIMEOUT:.0f} s") from None
