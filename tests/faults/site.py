"""The installation that many runs share: broker, controller, bundle and two fleets, each a process with its own log.

The bundle is the real one on the power layer (:mod:`tests.faults.bundle`), so ``site.stand.bundle.kill()`` is a power
cut for its disk. The devices remember (:mod:`tests.faults.devices`). The data folder is on a small tmpfs where one may
be mounted, else on the disk at hand; ``site.small`` tells.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
from tinydb import TinyDB

from puppetmaster.store import TinyStore
from tests.faults.power import Control
from tests.faults.proxy import Proxy
from tests.faults.records import FINAL_JOB, Document, Records
from tests.system.stand import PATIENCE, Fleet, Part, Stand

SIZE = "24m"
"""Of the tmpfs with the data: far more than a run needs, and quickly filled."""

DEVICES = {"near": 40, "far": 20}
"""The fleets. The last device of each takes no traffic; it is asked whether all works again."""

LATENCY, ERRORS = "0.002-0.05", "0.03"


class NotRecovered(AssertionError):
    """Raised when the installation does not work again after a fault was lifted."""


class Site:
    """See the top of this module.

    :param bugs: planted in the bundle, see there.
    """

    def __init__(self, folder: Path, *, bugs: Sequence[str] = (), settings: dict[str, Any] | None = None) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.data = folder / "data"
        self.data.mkdir(exist_ok=True)
        self.small = self._mount()
        """Whether the data folder is a small file system of its own."""
        self.stand = Stand(
            folder / "parts",
            start=False,
            http=True,
            persistence=True,
            broker_extra=["set_tcp_nodelay true", "max_inflight_messages 1000", "max_queued_messages 1000000"],
            data=self.data,
            **{"window": 1000, **(settings or {})},
        )
        self.proxy = Proxy(self.stand.port)
        """Between the bundle, all its connections, and the broker."""
        self.stand.bundle.env["PUPPETMASTER_BROKER"] = f"mqtt://127.0.0.1:{self.proxy.port}"
        self.heard: deque[tuple[str, bytes]] = deque(maxlen=400)
        """Answers of earlier runs, for liars: topic and payload."""
        self.control = Control(folder / "control.json")
        self.base: dict[str, Any] = {"seed": 0}
        """What the control file says all the time."""
        self.steer()
        self.stand.bundle.command = [sys.executable, "-m", "tests.faults.bundle", str(self.control.path), *bugs]
        self.names: list[str] = []
        """The devices that take traffic."""
        self.probes: list[str] = []
        """The devices that are asked whether all works again."""

    def _mount(self) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(self.data)]
        return subprocess.run(command, capture_output=True).returncode == 0

    # Life

    def __enter__(self) -> Site:
        self.stand.__enter__()
        try:
            self.stand.start_broker()
            self.proxy.start()
            for name, count in DEVICES.items():
                self._make_fleet(name, count)
            self.stand.controller.start(wait=False)
            self.stand.bundle.start(wait=False)
            self.http = httpx.Client(base_url=self.stand.site, timeout=5.0, trust_env=False)
            for fleet in self.stand.fleets.values():
                fleet.start()
            self.wait(self._is_up, "the installation does not come up")
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for part in self.parts.values():
            self.thaw(part)
        self.stand.__exit__(None, None, None)
        self.proxy.close()
        if self.small:
            subprocess.run(["umount", "-l", str(self.data)], capture_output=True)

    def _make_fleet(self, name: str, count: int) -> None:
        fleet = self.stand.fleet(name, count, start=False)
        fleet.command = [sys.executable, "-m", "tests.faults.devices", self.stand.url, name, self.stand.instance]
        fleet.command += [str(self.stand.folder / f"{name}.names"), str(fleet.work_path), LATENCY, ERRORS]
        self.names += fleet.names[:-1]
        self.probes.append(fleet.names[-1])

    def _is_up(self) -> bool:
        for part in self.parts.values():
            if not part.running:
                raise NotRecovered(f"the {part.name} did not start: {part.log()[-1000:]}")
        # Not for the controller, which takes seconds to be found: whoever calls through it tries again.
        return self.health().get("broker") == "connected"

    @property
    def parts(self) -> dict[str, Any]:
        """What may be killed and frozen: ``broker controller bundle near far``."""
        return {
            "broker": self.stand.broker,
            "controller": self.stand.controller,
            "bundle": self.stand.bundle,
            **self.stand.fleets,
        }

    # What faults do to it

    def steer(self, **content: Any) -> None:
        """Write the bundle's control file (see :mod:`tests.faults.power`): ``base``, and this."""
        self.control.write(**{**self.base, **content})

    def freeze(self, part: Part) -> None:
        """Stop a part's process in its tracks."""
        if part.pid is not None:
            os.kill(part.pid, signal.SIGSTOP)

    def thaw(self, part: Part) -> None:
        """Let a frozen part go on."""
        if part.pid is not None:
            os.kill(part.pid, signal.SIGCONT)

    def start(self, part: Part) -> None:
        """Start a part that does not run, without waiting for it."""
        if not part.running:
            part.start(wait=False)

    def forget_sessions(self) -> None:
        """Take away what the broker, which does not run, has saved."""
        for file in (self.stand.folder / "broker").iterdir():
            file.unlink()

    def save_sessions(self) -> None:
        """Have the broker save what it has now, as it does every half hour."""
        if self.stand.broker.pid is not None:
            os.kill(self.stand.broker.pid, signal.SIGUSR1)

    # How it is

    def health(self) -> Document:
        """``/health``; empty when there is no answer."""
        with contextlib.suppress(httpx.HTTPError, ValueError):
            found: Document = self.http.get("/health").json()
            return found
        return {}

    def worked(self, marks: dict[str, int]) -> list[Document]:
        """What the devices did since the marks, that is :meth:`marks` then."""
        found = []
        for name, fleet in self.stand.fleets.items():
            found += _read_from(fleet, marks[name])
        return found

    def count_work(self, marks: dict[str, int]) -> int:
        """How many requests the devices have done since."""
        return sum(_tail(fleet, marks[name]).count(b"\n") for name, fleet in self.stand.fleets.items())

    def marks(self) -> dict[str, int]:
        """How long the logs of work are."""
        return {name: _size(fleet.work_path) for name, fleet in self.stand.fleets.items()}

    def wait(self, predicate: Callable[[], object], what: str, timeout: float = PATIENCE) -> None:
        """Look again and again."""
        deadline = time.monotonic() + timeout
        while not predicate():
            if time.monotonic() > deadline:
                raise NotRecovered(f"{what} (waited {timeout:g} s)")
            time.sleep(0.01)

    def get(self, path: str) -> Any:
        """A GET that must be answered 200, however long that takes."""
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(httpx.HTTPError):
                reply = self.http.get(path)
                if reply.status_code == 200:
                    return reply.json()
            if time.monotonic() > deadline:
                raise NotRecovered(f"GET {path} was not answered")
            time.sleep(0.02)

    # What is known after a run

    def collect(self, label: str, records: Records) -> None:
        """Wait for the end of the run's jobs, and read all that there is to know of them."""
        deadline = time.monotonic() + PATIENCE
        while True:
            records.jobs = self.get(f"/jobs?label=run={label}&limit=1000")
            if all(job["status"] in FINAL_JOB for job in records.jobs) or time.monotonic() > deadline:
                break
            time.sleep(0.03)
        for job in records.jobs:
            records.requests[job["id"]] = self.get(f"/jobs/{job['id']}?limit=1000")["requests"]
        records.stored = self.read_store()

    def remove(self, records: Records) -> None:
        """Remove the run's jobs, so that the store stays small."""
        for job in records.jobs:
            with contextlib.suppress(httpx.HTTPError):
                self.http.delete(f"/jobs/{job['id']}")

    def read_store(self) -> dict[str, dict[int, Document]]:
        """The tables of a copy of the data folder, as stock TinyDB reads them."""
        copy = self.folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        before: list[str] = []
        while before != (before := sorted(path.name for path in self.data.glob("puppetmaster.j*"))):
            for name in before:
                with contextlib.suppress(FileNotFoundError):
                    shutil.copyfile(self.data / name, copy / name)
        asyncio.run(_open_and_close(copy))
        return read_stock(copy / "puppetmaster.json")


def read_stock(path: Path) -> dict[str, dict[int, Document]]:
    """What stock TinyDB finds in a file."""
    with TinyDB(path, access_mode="r") as found:
        return {name: {row.doc_id: dict(row) for row in found.table(name)} for name in found.tables()}


async def _open_and_close(folder: Path) -> None:
    await TinyStore.open(folder).close()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _read_from(fleet: Fleet, mark: int) -> list[Document]:
    return [json.loads(line) for line in _tail(fleet, mark).split(b"\n")[:-1]]


def _tail(fleet: Fleet, mark: int) -> bytes:
    if not fleet.work_path.exists():
        return b""
    with fleet.work_path.open("rb") as file:
        file.seek(mark)
        return file.read()


def chance(*parts: object) -> random.Random:
    """Draws that depend on these alone."""
    return random.Random(":".join(map(str, parts)))
