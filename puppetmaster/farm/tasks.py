"""Tasks: each is a job whose requests are the chunks that a compiler made of it."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from puppetmaster.effects import Change
from puppetmaster.errors import Conflict, Fault, Forbidden, InvalidDocument, NotFound
from puppetmaster.farm.compilers import Chunk
from puppetmaster.farm.documents import NewTask, TaskChange, Word, clean
from puppetmaster.farm.farm import RETRY, Farm
from puppetmaster.farm.offers import bounded_priority
from puppetmaster.farm.plugins import Plugins
from puppetmaster.farm.work import Given, Work, destination_of
from puppetmaster.farm.workers import Worker
from puppetmaster.fields import data_fault
from puppetmaster.models import Request
from puppetmaster.service import Service
from puppetmaster.states import JobStatus
from puppetmaster.store.port import Document, Store

TASKS = "farm_tasks"
"""The table: what a task was made with, by its job's id."""

LABEL = "farm"

MAX_WAITING = 1_000_000
"""Chunks that may wait for workers: each is in memory."""

PRIORITY = 50
"""The priority of a task that names none."""

REQUEST_TIMEOUT = 365 * 86400.0
"""Seconds for a chunk, from when a worker could have it: a farm may be busy for weeks. Silence is looked after here."""

_STATUSES = {
    JobStatus.PENDING.value: "ready",
    JobStatus.DISPATCHING.value: "ready",
    JobStatus.PAUSED.value: "paused",
    JobStatus.CANCELED.value: "canceled",
    JobStatus.ABORTED.value: "failed",
    JobStatus.TIMEOUT.value: "failed",
    JobStatus.RESOLVED.value: "finished",
}
_JOB_STATUSES = {Word.GIVEN_UP: "canceled", Word.PAUSED: "paused", Word.READY: "dispatching"}


class TaskNotFound(NotFound):
    """Raised when no task has the id."""

    noun = "task"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a task was made with."""

    type: str
    parser: str = ""
    priority: int = PRIORITY
    settings: dict[str, Any] | None = None
    task_id: int | None = None
    """The number that its maker has for it."""
    job_id: int | None = None
    """The number that its maker has for what it is a part of; files that came along are kept under it."""
    frame_start: int = 0
    frame_end: int = 0
    format: str = ""
    chunks: int = 1


class Tasks:
    """The tasks that there are. All of it is for the loop.

    :param unneeded: is told of the number whose files no task needs any more.
    """

    def __init__(
        self,
        *,
        service: Service,
        farm: Farm,
        store: Store,
        plugins: Plugins,
        unneeded: Callable[[int], None] = lambda storage: None,
    ) -> None:
        self._service = service
        self._farm = farm
        self._store = store
        self._plugins = plugins
        self._unneeded = unneeded
        self._tasks = {task_id: Task(**document) for task_id, document in store.scan(TASKS)}
        self._storages = Counter(map(self.storage_of, self._tasks))
        # Numbers whose files came for a task that is just being made.
        self._expected: Counter[int] = Counter()
        for task_id, task in self._tasks.items():
            farm.offers.prioritize(task_id, task.priority)
        for task_id in [task_id for task_id in self._tasks if not service.has_job(task_id)]:
            self._forget(task_id)
        farm.keep_tasks(service.has_job)
        farm.offered = self._adopt
        service.listen(self._heard)

    @property
    def ids(self) -> list[int]:
        """The ids of all tasks, the newest first."""
        return sorted(self._tasks, reverse=True)

    def __contains__(self, task_id: int) -> bool:
        return task_id in self._tasks

    async def create(self, new: NewTask, keep_files: Callable[[], Awaitable[None]] | None = None) -> Document:
        """Make a task; it is on disk then.

        :param keep_files: puts its files where they belong, before a worker may have it; called when nothing is wrong
            with it.
        :raises InvalidDocument: when its type, its parser or its settings are none that there are.
        :raises PluginFailed: when the compiler can't be used.
        :raises Conflict: when too much waits already.
        """
        self._check_names(new)
        if len(self._farm.offers) >= MAX_WAITING:
            raise Conflict(f"{len(self._farm.offers)} chunks of tasks wait for workers already: that is too many")
        settings = _checked_settings(new.settings or {})
        parser, chunks = await self._plugins.compile(new.type, settings)
        task = _task(new, settings, new.parser or parser, chunks)
        if keep_files is None or task.job_id is None:
            return await self._create(task, new, chunks)
        self._expected[task.job_id] += 1
        try:
            await keep_files()
            return await self._create(task, new, chunks)
        finally:
            self._expected[task.job_id] -= 1
            self._let_go(task.job_id)

    async def _create(self, task: Task, new: NewTask, chunks: Sequence[Chunk]) -> Document:
        job = await self._service.create_job(_job(task, new, chunks))
        self._keep(job["id"], task)
        await self._store.commit()
        return self._view(job["id"], task, job)

    async def show(self, task_id: int) -> Document:
        """A task as the document has it.

        :raises TaskNotFound: when there is none.
        """
        task = self._task(task_id)
        return self._view(task_id, task, await self._service.show_job(task_id, {"collection": "false"}))

    async def show_all(self, task_id: int) -> Document:
        """A task with all that is known of it."""
        task = self._task(task_id)
        job = await self._service.show_job(task_id, {"collection": "false"})
        return {
            **self._view(task_id, task, job),
            "task_id": task.task_id,
            "type": task.type,
            "parser": task.parser,
            "settings": task.settings,
            "name": job["name"],
            "progress": job["progress"],
            "reason": job["reason"],
            "chunks": job["counts"],
            "requests": job["requests"],
        }

    async def show_chunk(self, work_id: int) -> Document:
        """A chunk that a worker has or had, in the form of a task.

        :raises TaskNotFound: when there is none.
        """
        work = self._farm.work(work_id)
        if work is None or work.task not in self._tasks:
            raise TaskNotFound(work_id)
        task = self._tasks[work.task]
        request = await self._service.show_request(work_id)
        return _chunk_view(task, work, request["data"], request["__request"])

    async def change(self, task_id: int, change: TaskChange) -> None:
        """A user changes a task.

        :raises TaskNotFound: when there is none.
        :raises Conflict: when it has ended.
        """
        task = self._task(task_id)
        update: Document = {}
        if change.priority is not None:
            update["priority"] = bounded_priority(change.priority)
        if change.status is not None:
            update["status"] = _JOB_STATUSES[change.status]
        await self._service.update_job(task_id, update)
        if change.priority is not None:
            self._keep(task_id, Task(**{**asdict(task), "priority": change.priority}))
            await self._store.commit()

    async def report(self, worker: Worker, task_id: int, change: TaskChange) -> None:
        """A worker reports of a task and not of its chunk: it is the one that it has.

        :raises Forbidden: when it has none of it.
        """
        self._task(task_id)
        work = self._farm.held_by(worker, task_id)
        if work is None:
            raise Forbidden(f"nothing of task {task_id} is with the worker {worker.hostname}")
        await self._farm.report(worker, work.id, change)

    async def remove(self, task_id: int) -> Document:
        """Cancel what is unfinished of a task, and remove it; answers its last state.

        :raises TaskNotFound: when there is none.
        """
        task = self._task(task_id)
        job = await self._service.remove_job(task_id)
        return self._view(task_id, task, job)

    def needs(self, storage: int) -> bool:
        """Whether a task needs the files that are kept under this number."""
        return self._storages[storage] > 0 or self._expected[storage] > 0

    def storage_of(self, task_id: int) -> int:
        """The number that a task's files are kept under."""
        task = self._tasks.get(task_id)
        return task_id if task is None or task.job_id is None else task.job_id

    def compiled(self, work: Work, given: Given, request: Request) -> Document:
        """A chunk as a worker gets it."""
        task = self._tasks.get(work.task) or Task(type=given.type)
        return {
            **_chunk_view(task, work, request.message.data, {"status": "running", "progress": 0}),
            "task_id": work.id,
            "job_id": work.task if task.job_id is None else task.job_id,
            "type": given.type,
            "parser": given.parser,
            "task_parser": given.parser,
            "settings": task.settings or {},
            "commands": given.commands,
            "task_command": json.dumps(_one_command(given.commands)),
        }

    # Inside

    def _adopt(self, request: Request) -> None:
        """See that a chunk's job is known as a task: it may have been made elsewhere, or run again."""
        if request.job.id in self._tasks:
            return
        try:
            given = Given.read(request.message.data)
        except ValueError:
            return
        self._keep(
            request.job.id,
            Task(
                type=given.type,
                parser=given.parser,
                priority=request.job.limits.priority,
                frame_start=_number(given.task.get("frame_start")),
                frame_end=_number(given.task.get("frame_end")),
                format=clean(str(given.task.get("format", ""))),
                chunks=request.job.total_count,
            ),
        )

    def _task(self, task_id: int) -> Task:
        task = self._tasks.get(task_id)
        if task is None or not self._service.has_job(task_id):
            raise TaskNotFound(task_id)
        return task

    def _check_names(self, new: NewTask) -> None:
        faults = []
        if new.type not in self._plugins.compilers:
            known = ", ".join(self._plugins.compilers)
            faults.append(Fault("type", f"there is no compiler {clean(new.type, 80)!r}; there are {known}"))
        if new.parser and new.parser not in self._plugins.parsers:
            known = ", ".join(self._plugins.parsers)
            faults.append(Fault("parser", f"there is no parser {clean(new.parser, 80)!r}; there are {known}"))
        if faults:
            raise InvalidDocument(faults)

    def _keep(self, task_id: int, task: Task) -> None:
        if not self._service.has_job(task_id):
            return
        if task_id in self._tasks:
            self._storages[self.storage_of(task_id)] -= 1
        self._tasks[task_id] = task
        self._storages[self.storage_of(task_id)] += 1
        self._farm.offers.prioritize(task_id, task.priority)
        self._store.put(TASKS, {task_id: asdict(task)})

    def _forget(self, task_id: int) -> None:
        storage = self.storage_of(task_id)
        del self._tasks[task_id]
        self._storages[storage] -= 1
        self._let_go(storage)
        self._farm.offers.forget(task_id)
        self._store.remove(TASKS, [task_id])

    def _let_go(self, storage: int) -> None:
        """See what becomes of files that one task less needs."""
        if not self.needs(storage):
            del self._storages[storage], self._expected[storage]
            self._unneeded(storage)

    def _heard(self, change: Change, job_id: int, document: Document | None) -> None:
        if job_id not in self._tasks:
            return
        if change is Change.REMOVED:
            self._farm.forget_task(job_id)
            self._forget(job_id)
        else:
            self._farm.offers.rank(job_id)

    def _view(self, task_id: int, task: Task, job: Document) -> Document:
        work = self._farm.work_of_task(task_id)
        held = [one for one in work if one.is_held]
        status = _STATUSES[job["status"]]
        if status == "finished" and job["errorCount"]:
            status = "failed"
        elif status == "ready" and held:
            status = "rendering"
        frames = [one.frame_current for one in work if one.frame_current is not None]
        current = task.frame_end if status == "finished" else max(frames, default=task.frame_start)
        return {
            "id": task_id,
            "worker_id": _worker_of(held or work),
            "priority": task.priority
            if bounded_priority(task.priority) == job["priority"]
            else job["priority"],
            "frame_start": task.frame_start,
            "frame_end": task.frame_end,
            "frame_current": current,
            "status": status,
            "format": task.format,
        }


_CHUNK_STATUSES = {
    "resolved": "finished",
    "error": "failed",
    "timeout": "failed",
    "canceled": "canceled",
}


def _chunk_view(task: Task, work: Work, data: Any, state: Document) -> Document:
    given = Given.read(data)
    frame = given.frame_start if work.frame_current is None else work.frame_current
    return {
        "id": work.id,
        "worker_id": work.worker or 0,
        "priority": task.priority,
        "frame_start": given.frame_start,
        "frame_end": given.frame_end,
        "frame_current": frame,
        "status": _CHUNK_STATUSES.get(state["status"], "rendering" if work.is_held else "ready"),
        "format": task.format,
    }


def _worker_of(work: list[Work]) -> int:
    """Whose number a task shows: that of the chunk that comes first; 0 where nobody had any."""
    return next((one.worker for one in work if one.worker is not None), 0)


def _checked_settings(settings: Document) -> Document:
    fault = data_fault(settings)
    if fault is not None:
        raise InvalidDocument([Fault("settings", clean(fault, 200))])
    return settings


def _task(new: NewTask, settings: Document, parser: str, chunks: Sequence[Chunk]) -> Task:
    given = settings.get("format")
    return Task(
        type=new.type,
        parser=parser,
        priority=PRIORITY if new.priority is None else new.priority,
        settings=settings,
        task_id=new.task_id,
        job_id=new.job_id,
        frame_start=min(chunk.frame_start for chunk in chunks),
        frame_end=max(chunk.frame_end for chunk in chunks),
        format=clean(given) if isinstance(given, str) else "",
        chunks=len(chunks),
    )


def _job(task: Task, new: NewTask, chunks: Sequence[Chunk]) -> Document:
    """The document of a task's job."""
    common = {"frame_start": task.frame_start, "frame_end": task.frame_end, "format": task.format}
    batch = [
        {
            "method": "post",
            "resource": f"/farm/{task.type}",
            "data": {
                "type": task.type,
                "parser": task.parser,
                "chunk": number,
                "frame_start": chunk.frame_start,
                "frame_end": chunk.frame_end,
                "commands": [list(command) for command in chunk.commands],
                "task": common,
            },
            "__request": {"destination": destination_of(number)},
        }
        for number, chunk in enumerate(chunks, 1)
    ]
    name = clean(new.name) or (f"task {new.task_id}" if new.task_id is not None else task.type)
    return {
        "batch": batch,
        "name": name if name.isprintable() else None,
        "labels": [LABEL, f"type={task.type}"],
        "priority": bounded_priority(task.priority),
        "requestTimeout": REQUEST_TIMEOUT,
        "retry": RETRY,
    }


def _one_command(commands: list[list[str]]) -> list[str]:
    """Commands as one, for workers that run no more: a shell runs them in order, up to the first that fails."""
    if len(commands) == 1:
        return commands[0]
    return ["/bin/sh", "-c", " && ".join(shlex.join(command) for command in commands)]


def _number(value: object) -> int:
    return value if type(value) is int else 0
