"""The same work as others would do it: one echo from each device, in the same run and in turn with puppetmaster.

The scripts are files that anybody can run by hand. They have an environment of their own, ``.venv/peers``, which
``make bench`` makes of ``requirements.txt`` here.

- ``plain_aiomqtt.py`` and ``plain_paho.py`` ask the same devices over the same broker, with the same window and QoS.
  They store nothing and try nothing again.
- ``celery_app.py`` and ``celery_run.py`` give Celery a task for each device. No device is asked, so it does less; the
  results are kept in Redis. There are fewer tasks than requests, since each takes so much longer.

Each is timed from its first message until it has all answers. Of puppetmaster and gmqtt alone the one is first in one
round and the other in the next, both from rest.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from benchmarks.options import Failed, Options
from benchmarks.programs import output_of
from benchmarks.results import Results
from benchmarks.stand import WINDOW, Stand
from benchmarks.throughput import bare_run
from puppetmaster.embedded.broker import free_port

PART = "peers"
HERE = Path(__file__).resolve().parent
ENVIRONMENT = Path(sys.prefix) / "peers"

TIMEOUT = 300.0
"""Seconds for one script."""

START_TIMEOUT, END_TIMEOUT = 10.0, 30.0
"""Seconds for a server to listen, and from TERM to KILL."""

PUPPETMASTER, ALONE = "puppetmaster", "gmqtt alone"

PLAIN = {
    "a script over paho-mqtt": ("plain_paho.py", "paho-mqtt"),
    "a script over aiomqtt": ("plain_aiomqtt.py", "aiomqtt"),
}
"""Name of the row, script and library."""

MEMORY_ONLY = ("--save", "", "--appendonly", "no")
SYNCED = ("--save", "", "--appendonly", "yes", "--appendfsync", "always")


@dataclass(frozen=True)
class Workers:
    """A worker of Celery and its Redis."""

    processes: int
    redis: Sequence[str]
    """Arguments of redis-server."""
    note: str


CELERY = {
    "Celery, 1 process": Workers(1, MEMORY_ONLY, "no device is asked; Redis keeps the results in memory only"),
    "Celery, 2 processes": Workers(2, MEMORY_ONLY, "the same"),
    "Celery, 2 processes, Redis syncs": Workers(2, SYNCED, "the same; appendfsync always, as durable as puppetmaster"),
}


async def measure(options: Options, rounds: int, results: Results) -> None:
    """Run them in turn.

    :raises Failed: when the environment of the peers is not there.
    """
    if not _python().exists():
        raise Failed(f"there is no {_python()}: make bench installs it")
    count, tasks = options.count(10_000, 1_000), options.count(2_000, 200)
    redis = shutil.which("redis-server")
    rates: dict[str, list[float]] = {name: [] for name in (PUPPETMASTER, ALONE, *PLAIN, *CELERY)}
    async with Stand() as stand:
        await stand.run_job(count)  # what is loaded and made at the first use is not measured
        for number in range(rounds):
            for name in (PUPPETMASTER, ALONE)[:: -1 if number % 2 else 1]:
                await stand.at_rest()
                run = await (stand.run_job(count) if name == PUPPETMASTER else bare_run(stand, count))
                rates[name].append(run.rate)
            await stand.at_rest()
            for name, (script, _) in PLAIN.items():
                rates[name].append(await _rate(script, str(stand.broker.port), devices=stand.names(count)))
            for name, workers in CELERY.items() if redis else ():
                rates[name].append(await _celery_rate(str(redis), workers, stand.names(tasks)))
            told = ", ".join(f"{name} {values[-1]:,.0f}/s" for name, values in rates.items() if values)
            options.tell(PART, f"round {number + 1} of {rounds}: {told}")
    _add(results, rates, count, tasks)


def _add(results: Results, rates: Mapping[str, Sequence[float]], count: int, tasks: int) -> None:
    versions, missing = _versions(), "" if rates[next(iter(CELERY))] else "redis-server is not installed"
    notes = {ALONE: "the loop of the first table; nothing is stored"}
    notes |= {name: f"{library} {versions[library]}; nothing is stored" for name, (_, library) in PLAIN.items()}
    notes |= {name: missing or workers.note for name, workers in CELERY.items()}
    first = next(iter(CELERY))
    notes[first] = missing or f"Celery {versions['celery']}, {tasks:,} tasks; {CELERY[first].note}"
    results.add(PART, PUPPETMASTER, rates[PUPPETMASTER], "/s",
                note=f"{count:,} requests, durable, with HTTP and events; window {WINDOW}, QoS 1")
    for name, note in notes.items():
        results.add(PART, name, rates[name], "/s", baseline=True, note=note)
    for name in notes:
        pairs = zip(rates[PUPPETMASTER], rates[name], strict=True) if rates[name] else ()
        results.add(PART, f"puppetmaster to {name}", [ours / theirs for ours, theirs in pairs], form=".2f",
                    note=missing if name in CELERY else "")


def _python() -> Path:
    return ENVIRONMENT / "bin" / "python"


def _versions() -> dict[str, str]:
    """Of what is installed for the peers, by name."""
    folders = map(str, ENVIRONMENT.glob("lib/python*/site-packages"))
    return {found.metadata["Name"].lower(): found.version for found in distributions(path=list(folders))}


async def _rate(script: str, *arguments: str, devices: Sequence[str], env: Mapping[str, str] | None = None) -> float:
    """Answers a second, as a script tells that is given the devices.

    :raises Failed: when it does not get all answers.
    """
    output = await output_of(_python(), script, *arguments, given="\n".join(devices).encode(), timeout=TIMEOUT,
                             env=env, cwd=HERE)
    answers, seconds = output.split()
    if int(answers) != len(devices):
        raise Failed(f"{script} got {int(answers):,} good answers from {len(devices):,} devices")
    return len(devices) / float(seconds)


async def _celery_rate(redis: str, workers: Workers, devices: Sequence[str]) -> float:
    """Results a second of a fresh Redis and a fresh worker, which has done one task already."""
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        port = free_port()
        env = {"REDIS": f"redis://127.0.0.1:{port}"}
        server = (redis, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, *workers.redis)
        worker = (str(_python()), "-m", "celery", "--app", "celery_app", "worker", "--loglevel", "ERROR",
                  "--concurrency", str(workers.processes))
        async with _running(server, {}):
            await _listening(port)
            async with _running(worker, env):
                return await _rate("celery_run.py", devices=devices, env=env)


@asynccontextmanager
async def _running(command: Sequence[str], env: Mapping[str, str]) -> AsyncIterator[None]:
    """A server with all its children, ended with the block."""
    child = await asyncio.create_subprocess_exec(
        *command, cwd=HERE, env={**os.environ, **env}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        try:
            if child.returncode is None:
                child.terminate()
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(child.wait(), END_TIMEOUT)
        finally:  # the worker's processes too, and also when this is called off
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await child.wait()


async def _listening(port: int) -> None:
    for _ in range(int(START_TIMEOUT / 0.05)):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise Failed(f"redis-server does not listen after {START_TIMEOUT:.0f} s")
