"""The manager of a render farm over HTTP: tasks for users, work for workers. Paths are relative to where it is mounted.

The document that it follows shows ``Content-Type: text/javascript``, and ``Vary: Accept``: JSON is answered under that
type, and as ``application/json`` to whoever asks for it. A 204 has no body in HTTP, so what the document shows with one
is answered without, and the worker is told where it is by ``Location``.

What users do to tasks and workers is for the audit log. What workers report is not: it would fill the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import zipfile
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import orjson
from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from puppetmaster.accounts.roles import Role
from puppetmaster.edges.http.forms import Form, read_form
from puppetmaster.edges.http.replies import JSON, error_headers
from puppetmaster.edges.http.requests import make_parsers, read_query
from puppetmaster.errors import Fault, FileUnavailable, Forbidden, InvalidDocument, NotFound, PuppetmasterError
from puppetmaster.farm import Farm, Plugins, Tasks, Worker
from puppetmaster.farm.documents import (
    read_identity,
    read_new_task,
    read_registration,
    read_task_change,
    read_worker_change,
)
from puppetmaster.farm.files import MAX_FILE_BYTES, Files, Upload
from puppetmaster.farm.tasks import TaskNotFound
from puppetmaster.farm.workers import whole
from puppetmaster.queries import Page, parse
from puppetmaster.views import error_view

DOCUMENTED = "text/javascript"

NO_TASK = 400
"""What the original answers a worker for which there is no task."""

WRONG_METHOD = 405

MAX_AUDITED = 1000
"""Characters of a refusal that the audit log has."""

T = TypeVar("T")


class _Number(Convertor[int]):
    """A number in a path. That of the library takes any digits, and raises at those that Python does not convert."""

    regex = "[0-9]{1,18}"

    def convert(self, value: str) -> int:
        return int(value)

    def to_string(self, value: int) -> str:
        return str(value)


register_url_convertor("farm_number", _Number())


def make_app(*, farm: Farm, tasks: Tasks, plugins: Plugins, files: Files) -> ASGIApp:
    """The application; the farm has to be started."""
    files.keep_only(tasks.needs)
    manager = _Manager(farm, tasks, plugins, files)
    app = Starlette(routes=manager.routes())
    app.state.parsers = make_parsers()
    app.add_exception_handler(PuppetmasterError, _refuse)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, _not_here)  # type: ignore[arg-type]
    return app


class _Manager:
    def __init__(self, farm: Farm, tasks: Tasks, plugins: Plugins, files: Files) -> None:
        self._farm = farm
        self._tasks = tasks
        self._plugins = plugins
        self._files = files

    def routes(self) -> list[Route]:
        return [
            Route("/", self._index),
            Route("/info", self._index),
            Route("/tasks", self._task_list, methods=["GET", "POST", "DELETE"]),
            Route("/tasks/compiled/{task_id:farm_number}", self._compiled),
            Route("/tasks/file/{job_id:farm_number}", self._has_file),
            Route("/tasks/{task_id:farm_number}", self._task, methods=["GET", "PATCH", "DELETE"]),
            Route("/workers", self._worker_list, methods=["GET", "POST"]),
            Route("/workers/status/{worker_id:farm_number}", self._worker, methods=["PATCH"]),
            Route("/workers/{worker_id:farm_number}", self._worker, methods=["GET", "PATCH", "DELETE"]),
            Route("/job-types", self._job_types),
            Route("/job-types/{name}", self._job_type),
            Route("/static/storage/{job_id:farm_number}/{name}", self._job_file),
        ]

    async def _index(self, request: Request) -> Response:
        return _reply(request, 200, {"message": "the manager of a farm: /tasks and /workers"})

    # Tasks

    async def _task_list(self, request: Request) -> Response:
        if request.method == "POST":
            _note(request, "create_task")
            async with self._form(request, "jobfile") as form:
                return await self._create_task(request, form)
        if request.method == "DELETE":
            return await self._remove_tasks(request)
        identity = read_identity(request.query_params)
        if not identity.is_given:
            return await self._list_tasks(request)
        _check_may_work(request)
        task = await self._next_task(self._farm.identify(identity, _address(request)))
        return _reply(request, 200, [] if task is None else [task])

    async def _create_task(self, request: Request, form: Form) -> Response:
        new = read_new_task(form.fields)
        _note(request, "create_task", type=new.type, name=new.name)
        upload = form.files.get("jobfile")
        if upload is not None:
            if new.job_id is None:
                raise InvalidDocument([Fault("job_id", "it is missing: a file belongs to a job")])
            target = self._files.job_file(new.job_id)
            task = await self._tasks.create(new, lambda: self._keep(request, upload, target))
        else:
            task = await self._tasks.create(new)
        _note(request, "create_task", task=task["id"])
        return _reply(request, 202, task)

    async def _list_tasks(self, request: Request) -> Response:
        page = parse(Page, read_query(request))
        found = []
        for task_id in self._tasks.ids[page.offset : page.offset + page.limit]:
            with contextlib.suppress(NotFound):  # it may be removed meanwhile
                found.append(await self._tasks.show(task_id))
            await asyncio.sleep(0)  # a task may have 10,000 chunks
        return _reply(request, 200, found)

    async def _remove_tasks(self, request: Request) -> Response:
        """The original's way to delete several: a form in which ``tasks`` stands once for each."""
        _note(request, "remove_tasks")
        given = request.query_params.getlist("tasks") or (await read_form(request)).every("tasks")
        ids = list(dict.fromkeys(map(_task_number, given or [None])))
        _note(request, "remove_tasks", tasks=ids)
        for task_id in ids:
            if task_id not in self._tasks:
                raise TaskNotFound(task_id)
        return _reply(request, 202, [await self._tasks.remove(task_id) for task_id in ids])

    async def _compiled(self, request: Request) -> Response:
        """A task for a worker, in the form of the original's; its number says nothing there."""
        _check_may_work(request)
        worker = self._farm.identify(read_identity(request.query_params), _address(request))
        task = await self._next_task(worker)
        if task is None:
            return _reply(request, NO_TASK, {"message": f"there is no task for {worker.hostname} now"})
        return _reply(request, 200, {"options": task, "files": {"jobfiles": []}})

    async def _next_task(self, worker: Worker) -> dict[str, Any] | None:
        found = await self._farm.give(worker)
        return None if found is None else self._tasks.compiled(*found)

    async def _task(self, request: Request) -> Response:
        task_id = request.path_params["task_id"]
        if request.method == "PATCH":
            async with self._form(request, "taskfile") as form:
                await self._change_task(request, task_id, form)
            return Response(None, 204)
        if request.method == "DELETE":
            _note(request, "remove_task", task=task_id)
            return _reply(request, 202, await self._tasks.remove(task_id))
        if task_id not in self._tasks:
            return _reply(request, 200, await self._tasks.show_chunk(task_id))
        return _reply(request, 200, await self._tasks.show_all(task_id))

    async def _change_task(self, request: Request, task_id: int, form: Form) -> None:
        """The id of a chunk is what its worker has, so that is its report; the id of a task may be anybody's."""
        change = read_task_change(form.fields)
        identity = read_identity(request.query_params, form.fields)
        if task_id in self._tasks:
            if change.is_report:
                await self._tasks.report(self._farm.identify(identity, _address(request)), task_id, change)
            else:
                _note(request, "change_task", task=task_id, change=change.model_dump(mode="json", exclude_none=True))
                await self._tasks.change(task_id, change)
            return
        if not (self._farm.has_work(task_id) or change.is_report):
            raise TaskNotFound(task_id)
        worker = self._reporter(request, identity, task_id)
        upload, work = form.files.get("taskfile"), self._farm.work(task_id)
        if upload is not None and work is not None and work.is_held and work.worker == worker.id:
            await self._keep_output(request, upload, work.task, task_id)
        await self._farm.report(worker, task_id, change)

    async def _keep_output(self, request: Request, upload: Upload, task_id: int, work_id: int) -> None:
        storage = self._tasks.storage_of(task_id)
        await self._keep(request, upload, self._files.output(storage, work_id))
        if not self._tasks.needs(storage):
            self._files.remove(storage)  # the task was removed meanwhile

    def _reporter(self, request: Request, identity: Any, work_id: int) -> Worker:
        """Who reports of a chunk: an old worker says only where it calls from, and several may call from there."""
        work, address = self._farm.work(work_id), _address(request)
        if work is not None and not identity.is_given:
            holder = self._farm.workers.find(work.worker)
            if holder is not None and holder.ip_address == address:
                return holder
        return self._farm.identify(identity, address)

    # Workers

    async def _worker_list(self, request: Request) -> Response:
        if request.method == "POST":
            registration = read_registration((await read_form(request)).fields)
            is_known = self._farm.knows(registration)
            worker = await self._farm.register(registration, _address(request))
            if not is_known:
                _note(request, "register_worker", worker=worker.id, hostname=worker.hostname)
            return Response(None, 204, {"Location": f"{request.scope.get('root_path', '')}/workers/{worker.id}"})
        return _reply(request, 200, self._workers())

    def _workers(self) -> dict[str, Any]:
        """All workers by their names; of several on one machine the later ones have their ports in theirs."""
        found: dict[str, Any] = {}
        for worker in self._farm.workers:
            name = f"{worker.hostname}:{worker.port}" if worker.hostname in found else worker.hostname
            found[name] = self._worker_view(worker)
        return found

    def _worker_view(self, worker: Worker) -> dict[str, Any]:
        return {
            "activity": worker.activity,
            "connection": "online" if self._farm.is_online(worker) else "offline",
            "current_task": worker.work,
            "hostname": worker.hostname,
            "id": worker.id,
            "ip_address": worker.ip_address,
            "log": worker.log,
            "port": worker.port,
            "status": "enabled" if worker.is_enabled else "disabled",
            "system": worker.system,
            "time_cost": whole(worker.time_cost),
        }

    async def _worker(self, request: Request) -> Response:
        worker = self._farm.workers.get(request.path_params["worker_id"])
        if request.method == "PATCH":
            change = read_worker_change((await read_form(request)).fields)
            if change.is_order:
                _note(request, "change_worker", worker=worker.id, hostname=worker.hostname, status=change.status)
            return _reply(request, 200, {"task_id": await self._farm.change_worker(worker, change)})
        if request.method == "DELETE":
            _note(request, "remove_worker", worker=worker.id, hostname=worker.hostname)
            await self._farm.remove_worker(worker)
            return Response(None, 204)
        return _reply(request, 200, _machine(worker))

    # What old workers ask for beside their tasks

    async def _has_file(self, request: Request) -> Response:
        job = request.path_params["job_id"]
        found = await self._in_thread(request, lambda: self._files.job_file(job).is_file())
        return _reply(request, 200, {"file": found})

    async def _job_types(self, request: Request) -> Response:
        return _reply(request, 200, {name: _job_type(name) for name in self._plugins.compilers})

    async def _job_type(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._plugins.compilers:
            raise HTTPException(404)
        return _reply(request, 200, _job_type(name))

    async def _job_file(self, request: Request) -> Response:
        """An archive of a job; one with nothing in it where there is none: an old worker has to unpack some."""
        job, name = request.path_params["job_id"], request.path_params["name"]
        try:
            found = await self._in_thread(request, lambda: self._files.find(job, name))
        except LookupError:
            raise HTTPException(404) from None
        if found is None:
            return Response(EMPTY_ZIP, media_type="application/zip")
        return FileResponse(found, media_type="application/zip")

    @contextlib.asynccontextmanager
    async def _form(self, request: Request, file: str) -> AsyncIterator[Form]:
        """A form, with the file of this name in it; what becomes of that is decided before it is thrown away."""
        opened: list[Upload] = []

        def open_file(name: str) -> Upload | None:
            if name != file:
                return None
            opened.append(self._files.upload())
            return opened[0]

        try:
            yield await read_form(request, open_file, max_file_bytes=MAX_FILE_BYTES)
        except PuppetmasterError:
            raise  # some of them are OSErrors too
        except OSError as error:
            raise FileUnavailable("the folder of the farm", "write to", str(error)) from error
        finally:
            for upload in opened:
                await self._in_thread(request, upload.drop)

    async def _keep(self, request: Request, upload: Upload, target: Path) -> None:
        await self._in_thread(request, lambda: upload.finish(target))

    async def _in_thread(self, request: Request, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(request.app.state.parsers, call)


def _empty_zip() -> bytes:
    file = io.BytesIO()
    zipfile.ZipFile(file, "w").close()
    return file.getvalue()


EMPTY_ZIP = _empty_zip()


def _job_type(name: str) -> dict[str, Any]:
    """What an old worker fills into the commands of a type; ours are complete."""
    return {"name": name, "commands": {"default": {"Linux": "blender", "Darwin": "blender", "Windows": "blender"}}}


def _machine(worker: Worker) -> dict[str, Any]:
    """What a worker told of its machine last; all names are there, whatever it told."""
    load = worker.frequent.get("load_average") or {}
    names = ("worker_architecture", "worker_disk_percent", "worker_mem_percent", "worker_num_cpus")
    return {
        "hostname": worker.hostname,
        "mac_address": worker.mac_address,
        "system": worker.system,
        "update_frequent": {
            "load_average": {span: load.get(span) for span in ("1min", "5min", "15min")},
            "worker_cpu_percent": worker.frequent.get("worker_cpu_percent"),
        },
        "update_less_frequent": {name: worker.seldom.get(name) for name in names},
    }


def _note(request: Request, operation: str, **facts: Any) -> None:
    """Say what this call is about, for the audit log: without a word nothing is written there."""
    audit = request.scope.setdefault("state", {}).setdefault("audit", {})
    audit.update({"operation": operation, **{name: fact for name, fact in facts.items() if fact is not None}})


def _check_may_work(request: Request) -> None:
    """See that a caller who takes a task by a GET may do more than read, where callers have to log in.

    No worker is a browser: a page from elsewhere can have one ask, and would take a task with it.
    """
    if request.headers.get("sec-fetch-site") == "cross-site":
        raise Forbidden("a page from elsewhere may not take tasks")
    caller = request.scope.get("state", {}).get("caller")
    if caller is not None and not caller.role.allows(Role.OPERATOR):
        raise Forbidden(f"{caller.name} is {caller.role.value}, and to take a task needs {Role.OPERATOR.value}")


def _task_number(value: object) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 18:
        return int(value)
    if type(value) is int:
        return value
    raise InvalidDocument([Fault("tasks", "give the ids of the tasks to delete")])


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else ""


def _reply(request: Request, code: int, data: Any, headers: Mapping[str, str] | None = None) -> Response:
    accepted = request.headers.get("accept", "")
    kind = JSON if JSON in accepted else DOCUMENTED
    return Response(orjson.dumps(data), code, {"Vary": "Accept", **(headers or {})}, kind)


async def _refuse(request: Request, error: PuppetmasterError) -> Response:
    audit = request.scope.get("state", {}).get("audit")
    if audit:
        audit["message"] = str(error)[:MAX_AUDITED]
    return _reply(request, error.code, error_view(error), error_headers(error))


async def _not_here(request: Request, error: HTTPException) -> Response:
    path = request.scope["path"][:100]
    message = f"there is nothing at {path}"
    if error.status_code == WRONG_METHOD:
        message = f"{path} can't be asked to {request.method:.20}"
    return _reply(request, error.status_code, {"message": message}, error.headers)
