"""A puppetmaster with a farm and nothing else, as a process: ``python -m tests.system.farm_site DATA PORT PATIENCE``.

:class:`FarmSite` starts, kills and asks it. ``/manager`` is the farm's API, ``/jobs`` shows its tasks as jobs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from puppetmaster import loop
from puppetmaster.accounts.audit import Audit
from puppetmaster.accounts.registry import Accounts
from puppetmaster.address import ListenAddress
from puppetmaster.cli.processes import PARENT_ENV, end_with_parent
from puppetmaster.directory import EmptyDirectory
from puppetmaster.documents import Document
from puppetmaster.edges.http.access import Access, Gate
from puppetmaster.edges.http.manager import make_app
from puppetmaster.edges.http.requests import make_parsers
from puppetmaster.edges.http.routes import add_operations
from puppetmaster.edges.http.server import HttpServer, bind
from puppetmaster.effects import Change
from puppetmaster.embedded.broker import free_port
from puppetmaster.engine import Engine
from puppetmaster.farm import Farm, Files, Plugins, Tasks
from puppetmaster.job_document import JobReader
from puppetmaster.logs import start_logging
from puppetmaster.models import Request
from puppetmaster.service import Service
from puppetmaster.store import TinyStore
from puppetmaster.times import Clock

REPOSITORY = Path(__file__).resolve().parents[2]

PATIENCE = 60.0

Json = Any


class _Failing:
    """A compiler and a parser of somebody's, both broken."""

    parser = "broken"

    def compile(self, settings: Any) -> Any:
        if settings.get("exit"):
            sys.exit(3)
        if settings.get("wrong"):
            return [["not", "chunks"]]
        return settings["number"] / 0

    def feed(self, text: str) -> Any:
        raise RuntimeError("this parser is broken")


class _Outlet:
    def __init__(self) -> None:
        self.farm: Farm

    def send(self, request: Request, attempt: int) -> None:
        self.farm.send(request, attempt)

    def abort(self, request: Request) -> None:
        self.farm.abort(request)

    def tell(self, change: Change, job_id: int, document: Document | None) -> None:
        pass

    def retain(self, job_id: int, document: Document) -> None:
        pass


class _Directory(EmptyDirectory):
    def is_bounded(self, request: Request) -> bool:
        return False


async def serve(data: Path, port: int, patience: float) -> None:
    store, registry, clock = TinyStore.open(data), TinyStore.open(data, name="registry"), Clock()
    outlet = _Outlet()
    service = Service(
        store=store, engine=Engine(directory=_Directory()), reader=JobReader(), outlet=outlet, now=clock.now
    )
    plugins = Plugins({"broken": _Failing}, {"broken": lambda first, last: _Failing()})
    farm = outlet.farm = Farm(store=registry, now=clock.now, plugins=plugins, patience=patience)
    service.load("farm")
    files = Files(data / "farm")
    tasks = Tasks(service=service, farm=farm, store=registry, plugins=plugins, unneeded=files.remove)
    service.link(True)
    service.start()
    farm.start(service)
    app = FastAPI(docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.parsers = make_parsers()
    add_operations(app, service)
    app.mount("/manager", make_app(farm=farm, tasks=tasks, plugins=plugins, files=files))
    address = ListenAddress("127.0.0.1", port)
    gate = Gate(app, Access(Accounts(data), address, clock.now), Audit(data / "audit.log"), clock.now)
    http = HttpServer(gate, bind(address))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)  # before anybody can know that it runs
    await http.start()
    await stop.wait()
    await http.close()
    await farm.close()
    await service.close()
    await registry.close()
    await store.close()


class FarmSite:
    """The process, from outside."""

    def __init__(self, folder: Path, *, patience: float = PATIENCE) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/manager"
        self.patience = patience
        self._process: subprocess.Popen[bytes] | None = None
        self._workers: list[subprocess.Popen[bytes]] = []
        self._http = httpx.Client(timeout=60, transport=httpx.HTTPTransport(retries=3))

    def __enter__(self) -> FarmSite:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait(20)
        self.stop()
        if error[0] is not None:
            print(self.log())

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        arguments = [str(self.folder / "data"), str(self.port), str(self.patience)]
        self._process = self._spawn(["-m", "tests.system.farm_site", *arguments], "site")
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(httpx.TransportError):
                if self.ask("GET", "/").status_code == 200:
                    return
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            assert self._process.wait(30) == 0, self.log()

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(30)

    def worker(self, name: str, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start ``puppetmaster worker``."""
        pace = ["--ask", "0.1", "--report", "0.1", "--heartbeat", "0.5"]
        command = ["-m", "puppetmaster", "worker", "--manager", self.url, "--name", name, *pace, *arguments]
        self._workers.append(self._spawn(command, name, environment))
        return self._workers[-1]

    def ask(self, method: str, path: str, **given: Any) -> httpx.Response:
        return self._http.request(method, self.url + path, **given)

    def job(self, job_id: int) -> Json:
        return self._http.get(f"http://127.0.0.1:{self.port}/jobs/{job_id}").json()

    def wait(self, path: str, is_so: Any, seconds: float = 60.0) -> Json:
        """Ask until an answer is as it should be."""
        deadline = time.monotonic() + seconds
        while True:
            answer = self.ask("GET", path).json()
            if is_so(answer):
                return answer
            for worker in self._workers:
                assert worker.poll() in (None, 0), self.log()
            assert time.monotonic() < deadline, f"{path} stays {answer}\n{self.log()}"
            time.sleep(0.02)

    def log(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text()[-6000:]}" for path in sorted(self.folder.glob("*.log")))

    def _spawn(
        self, arguments: Sequence[str], name: str, environment: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PUPPETMASTER_")}
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *arguments],
                cwd=REPOSITORY,
                env={**kept, PARENT_ENV: str(os.getpid()), **(environment or {})},
                stdout=log,
                stderr=log,
            )


if __name__ == "__main__":
    end_with_parent()
    start_logging("info")
    loop.run(serve(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
