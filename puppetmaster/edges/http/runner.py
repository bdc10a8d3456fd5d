"""The API of jobrunner: commands on this machine, and their output as it comes.

A job of it is a job like any other, of one request to ``localhost``. Its UUID stands in the labels of the job, so that
it is known after a restart as well. Who may call is the gate's business, not this module's.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from puppetmaster import runner_job
from puppetmaster.edges.http.access import Access
from puppetmaster.edges.http.output import BYTES, ByteStream, raw_output
from puppetmaster.edges.http.replies import reply, reply_error
from puppetmaster.edges.http.requests import make_parsers, read_document
from puppetmaster.errors import Forbidden, JobNotFound, PuppetmasterError
from puppetmaster.fields import MAX_NAME
from puppetmaster.outputs import Outputs
from puppetmaster.policies import LOCALHOST, MAX_SECONDS
from puppetmaster.service import Service
from puppetmaster.states import JOB_FINAL, REQUEST_FINAL, JobStatus, RequestStatus
from puppetmaster.wire import COMMANDS

LABEL = "jobrunner"
"""What all jobs of this API have."""

PAGE = 1000
"""Jobs that are looked at in one go."""

ANSWER_TIME, LOOK = 5.0, 0.02
"""Seconds for the answer of a command that has ended, and between two looks for it."""

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

_RUNNING = [status.value for status in JobStatus if status not in JOB_FINAL]


def make_app(
    *,
    service: Service,
    outputs: Outputs,
    access: Access | None = None,
    commands: bool = True,
    has_engine: Callable[[], bool] = runner_job.has_engine,
) -> Starlette:
    """The application, to be mounted somewhere behind the gate.

    :param access: ends the streams of those whose login is over.
    :param commands: whether commands on this machine are allowed at all.
    :param has_engine: tells whether there is something that runs containers.
    """
    runner = Runner(service, outputs, access, commands, has_engine)
    app = Starlette(
        routes=[
            Route("/", runner.list_running, methods=["GET"]),
            Route("/", runner.submit, methods=["POST"]),
            Route("/{id}/attach", runner.attach, methods=["GET"]),
            Route("/{id}", runner.kill, methods=["DELETE"]),
        ],
        exception_handlers={HTTPException: _not_here, PuppetmasterError: _refuse},
    )
    app.state.parsers = make_parsers()
    return app


class Runner:
    """What is served."""

    def __init__(
        self,
        service: Service,
        outputs: Outputs,
        access: Access | None,
        commands: bool,
        has_engine: Callable[[], bool],
    ) -> None:
        self._service = service
        self._outputs = outputs
        self._access = access
        self._commands = commands
        self._has_engine = has_engine

    async def list_running(self, request: Request) -> Response:
        """``GET /``: the ids of the jobs that run."""
        found: list[str] = []
        while len(found) % PAGE == 0:
            query = {"label": LABEL, "status": _RUNNING, "limit": PAGE, "offset": len(found)}
            page = await self._service.list_jobs(query)
            found += [_id_of(job) for job in page]
            if not page:
                break
        return reply(200, {"IDs": [ident for ident in found if ident]})

    async def submit(self, request: Request) -> Response:
        """``POST /``: run commands."""
        if not self._commands:
            raise Forbidden(
                "commands on this machine are off; the setting commands allows them (--commands, PUPPETMASTER_COMMANDS)"
            )
        body = await read_document(request)
        ident = str(uuid.uuid4())
        data = runner_job.read(body, self._has_engine)
        job = await self._service.create_job(
            {
                "destinations": LOCALHOST,
                "message": {"method": "post", "resource": COMMANDS, "data": data},
                "name": _name(runner_job.title(data)),
                "labels": [LABEL, _label(ident)],
                # A command may take as long as it likes.
                "requestTimeout": MAX_SECONDS,
            }
        )
        _note(request, operation="run_command", job=job["id"], name=job["name"])
        return reply(200, {"ID": ident})

    async def attach(self, request: Request) -> Response:
        """``GET /:ID/attach``: the output from the beginning and on to the end."""
        job_id = await self._job_id(request.path_params["id"])
        if job_id is None:
            raise JobNotFound(request.path_params["id"])
        if request.method == "HEAD":
            return Response(media_type=BYTES)
        job = await self._service.show_job(job_id, {"collection": "false", "limit": "1"})
        return ByteStream(self._output(job["requests"][0], request), BYTES)

    async def kill(self, request: Request) -> Response:
        """``DELETE /:ID``: kill a job; that there is none is no error."""
        job_id = await self._job_id(request.path_params["id"])
        if job_id is not None:
            _note(request, operation="kill_command", job=job_id)
            try:
                await self._service.update_job(job_id, {"status": JobStatus.CANCELED.value})
            except PuppetmasterError as error:
                # It has ended already, or that it is called off will be on disk later.
                _note(request, message=str(error))
        return Response()

    # Inside

    async def _job_id(self, ident: str) -> int | None:
        ident = ident.lower()
        if not _UUID.fullmatch(ident):
            return None
        found = await self._service.list_jobs({"label": [LABEL, _label(ident)], "limit": 1})
        return found[0]["id"] if found else None

    async def _output(self, request_id: int, request: Request) -> AsyncGenerator[bytes, None]:
        said = False
        async with aclosing(raw_output(self._outputs, request_id, lambda: self._is_valid(request))) as found:
            async for data in found:
                said = True
                yield data
        if not said and (message := await self._fault(request_id)):
            yield f"{message}\n".encode(errors="replace")

    async def _fault(self, request_id: int) -> str | None:
        """Why a command could not be run: its client has no other way to learn it."""
        try:
            about = await self._ended(request_id)
        except PuppetmasterError:
            return None
        result = about["result"]
        data = result.get("data") if isinstance(result, dict) else None
        message = data.get("message") if isinstance(data, dict) else None
        return message if about["status"] == RequestStatus.ERROR.value and isinstance(message, str) else None

    async def _ended(self, request_id: int) -> dict[str, Any]:
        """A request whose output is at its end: its answer comes a moment later."""
        deadline = time.monotonic() + ANSWER_TIME
        while True:
            about: dict[str, Any] = (await self._service.show_request(request_id))["__request"]
            if about["status"] in REQUEST_FINAL or time.monotonic() > deadline:
                return about
            await asyncio.sleep(LOOK)

    def _is_valid(self, request: Request) -> bool:
        return self._access is None or self._access.is_valid(request.state.caller)


async def _not_here(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.scope["path"][:100]
    message = f"{request.method[:20]} {path} is none of GET /, POST /, GET /ID/attach, DELETE /ID"
    return reply(error.status_code, {"message": message}, error.headers)


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, PuppetmasterError)
    return reply_error(error)


def _note(request: Request, **about: object) -> None:
    """Say for the audit log what a call was about, where there is one."""
    getattr(request.state, "audit", {}).update(about)


def _label(ident: str) -> str:
    return f"runner={ident}"


def _id_of(job: dict[str, object]) -> str:
    labels = job["labels"]
    assert isinstance(labels, list)
    prefix = _label("")
    return next((label.removeprefix(prefix) for label in labels if label.startswith(prefix)), "")


def _name(title: str) -> str:
    plain = "".join(char if char.isprintable() else " " for char in title).strip()
    return plain[:MAX_NAME] or LABEL
