"""A service that runs commands in a shell of its own, with their output and the API of jobrunner over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from puppetmaster.accounts.audit import Audit
from puppetmaster.accounts.registry import Accounts
from puppetmaster.address import ListenAddress
from puppetmaster.chunks import Chunk, Stream
from puppetmaster.directory import EmptyDirectory
from puppetmaster.documents import Document
from puppetmaster.edges.http.access import Access, Gate
from puppetmaster.edges.http.output import add_output
from puppetmaster.edges.http.requests import make_parsers
from puppetmaster.edges.http.routes import add_operations
from puppetmaster.edges.http.runner import make_app
from puppetmaster.edges.http.server import HttpServer, bind
from puppetmaster.effects import Change
from puppetmaster.engine import Engine
from puppetmaster.job_document import JobReader
from puppetmaster.models import Request
from puppetmaster.outputs import Outputs
from puppetmaster.service import Service
from puppetmaster.store import TinyStore
from puppetmaster.times import Clock, to_text
from puppetmaster.wire import Answer


class Shared(EmptyDirectory):
    def is_bounded(self, request: Request) -> bool:
        return False


class Shell:
    """Carries every request to a shell: forty lines in place of an agent."""

    def __init__(self) -> None:
        self.service: Service
        self.outputs: Outputs
        self.orders: dict[int, Any] = {}
        self._running: dict[int, Process] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, request: Request, attempt: int) -> None:
        self.service.accepted(request, attempt)
        task = asyncio.create_task(self._run(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def abort(self, request: Request) -> None:
        with contextlib.suppress(ProcessLookupError, KeyError):
            os.killpg(self._running[request.id].pid, signal.SIGTERM)

    def tell(self, change: Change, job_id: int, document: Document | None) -> None: ...

    def retain(self, job_id: int, document: Document) -> None: ...

    async def close(self) -> None:
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        await asyncio.gather(*self._tasks)

    async def _run(self, request: Request) -> None:
        data = self.orders[request.id] = request.message.data
        numbers = iter(range(10_000_000))
        code, result = 200, {"outcome": "done", "exitCode": 0}
        for index, command in enumerate(data.get("commands") or [data]):
            environment = {**data.get("environment", {}), **command.get("environment", {})}
            whole = {**data, **command, "environment": environment}
            status = await self._command(request.id, index, whole, numbers)
            if status:
                code, result = 500, {"outcome": "failed", "exitCode": status}
                break
        self._put(request.id, Stream.END, next(numbers), code=code)
        await self.service.answer(Answer(request.destination, request.id, code, result))

    async def _command(self, request_id: int, index: int, command: Any, numbers: Any) -> int:
        process = await asyncio.create_subprocess_exec(
            "/bin/bash", "-c", command["commandLine"], stdout=PIPE, stderr=PIPE, start_new_session=True,
            cwd=command.get("workingDirectory"), env={**os.environ, **command["environment"]},
        )  # fmt: skip
        self._running[request_id] = process

        async def read(stream: Stream, pipe: asyncio.StreamReader) -> None:
            while data := await pipe.read(32 * 1024):
                self._put(request_id, stream, next(numbers), data=data, command=index)

        assert process.stdout is not None and process.stderr is not None
        await asyncio.gather(read(Stream.STDOUT, process.stdout), read(Stream.STDERR, process.stderr))
        return await process.wait()

    def _put(self, request_id: int, stream: Stream, number: int, **fields: Any) -> None:
        time = to_text(Clock().now())
        assert time is not None
        self.outputs.append(request_id, Chunk(number=number, stream=stream, time=time, **fields))


class ShellSite:
    """What a test talks to."""

    def __init__(self, http: httpx.AsyncClient, service: Service, outputs: Outputs, shell: Shell, url: str) -> None:
        self.http, self.service, self.outputs, self.shell, self.url = http, service, outputs, shell, url

    async def submit(self, **body: Any) -> str:
        answer = await self.http.post("/runner/", json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["ID"])

    async def attach(self, ident: str) -> bytes:
        answer = await self.http.get(f"/runner/{ident}/attach")
        assert answer.status_code == 200, answer.text
        return answer.content

    async def running(self) -> list[str]:
        answer = await self.http.get("/runner/")
        assert answer.status_code == 200 and set(answer.json()) == {"IDs"}
        return list(answer.json()["IDs"])

    async def run(self, line: str) -> int:
        """Run a command; the id of its request."""
        message = {"method": "post", "resource": "/agent/commands", "data": {"commandLine": line}}
        job = await self.service.create_job({"destinations": "localhost", "message": message})
        return int(job["requests"][0])


@asynccontextmanager
async def shell_site(
    folder: Path, *, commands: bool = True, has_engine: Callable[[], bool] = lambda: True
) -> AsyncIterator[ShellSite]:
    """All of it, in this process and on this loop."""
    store = TinyStore.open(folder)
    shell, clock = Shell(), Clock()
    service = Service(
        store=store, engine=Engine(directory=Shared()), reader=JobReader(), outlet=shell, now=clock.now
    )
    outputs = Outputs(folder / "output", is_final=service.is_final)
    shell.service, shell.outputs = service, outputs
    service.load("shell")
    service.listen(outputs.tell)
    service.start()
    service.link(True)
    listen = ListenAddress("127.0.0.1", 0)
    access = Access(Accounts(folder), listen, clock.now)
    app = FastAPI()
    app.state.parsers = make_parsers()
    add_output(app, service, outputs, access)
    add_operations(app, service)
    runner = make_app(service=service, outputs=outputs, access=access, commands=commands, has_engine=has_engine)
    app.mount("/runner", runner)
    server = HttpServer(Gate(app, access, Audit(folder / "audit.log"), clock.now), bind(listen))
    await server.start()
    try:
        async with httpx.AsyncClient(base_url=server.url, timeout=30, trust_env=False) as http:
            yield ShellSite(http, service, outputs, shell, server.url)
    finally:
        outputs.close()
        await server.close()
        await shell.close()
        await service.close()
        await store.close()
