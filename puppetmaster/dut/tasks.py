"""Tasks: each is a request of a job, and reaches its agent by the channel ``pull``.

The content of a task is wrapped on its way, ``{"content": ...}``, because the engine does not send data that is null.
An agent is given what its admin wrote. What another job has for it comes as ``{method, resource, data}``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from puppetmaster.dut.errors import NoResult, TaskEnded, TaskNotFound
from puppetmaster.effects import Change, Verdict
from puppetmaster.errors import Conflict, Fault, InvalidDocument, RequestNotFound
from puppetmaster.fields import data_fault
from puppetmaster.models import Message, Request
from puppetmaster.service import Service
from puppetmaster.states import JOB_FINAL, RequestStatus
from puppetmaster.store import Document
from puppetmaster.wire import Answer

METHOD, RESOURCE, CONTENT = "post", "/dut/task", "content"

NAME, LABEL = "dut task", "dut"
"""What people see of a task among the jobs."""

PATIENCE = 26.0
"""Seconds of a long poll, as documented."""

ANSWERED = 200
"""The code of every result: what it says is the caller's business."""

_FINAL = frozenset(status.value for status in JOB_FINAL)


class Pull(Protocol):
    """What is asked of the channel that agents fetch their requests by."""

    def join(self, destination: str) -> None:
        """Let a destination fetch its requests."""
        ...

    def leave(self, destination: str) -> None:
        """Take that back."""
        ...

    async def next(self, destination: str, timeout: float) -> Request | None:
        """The next request that is to be given to a destination, or none when there is none in time."""
        ...

    def give_back(self, request: Request) -> None:
        """What :meth:`next` returned did not reach the destination: it is to be given again."""
        ...


@dataclass(frozen=True, slots=True)
class Task:
    """A task that is on disk."""

    id: int
    """The id of its request: what the agent answers with."""
    job_id: int


class Tasks:
    """Gives tasks to agents and waits for results; on the loop."""

    def __init__(self, service: Service, pull: Pull) -> None:
        self._service = service
        self._pull = pull
        self._waiting: dict[int, asyncio.Event] = {}
        self._polls: dict[asyncio.Task[Any], str] = {}
        self._closing = False

    def start(self) -> None:
        """Hear of the jobs that end, from now on."""
        self._service.listen(self._hear)

    def close(self) -> None:
        """End all polls: they come back empty."""
        self._closing = True
        self.end_polls()

    async def create(self, agent: str, content: Any) -> Task:
        """Make a task for an agent; it is on disk when this returns.

        :raises InvalidDocument: when the content can't travel as it is.
        :raises StoreUnavailable: when it could not be saved; it was not made then.
        """
        data = {CONTENT: content}
        fault = data_fault(data)
        if fault:
            raise InvalidDocument([Fault("", fault)])
        message = {"method": METHOD, "resource": RESOURCE, "data": data}
        job = await self._service.create_job(
            {"destinations": agent, "message": message, "name": NAME, "labels": [LABEL]}
        )
        return Task(job["requests"][0], job["id"])

    async def result(self, task: Task, timeout: float = PATIENCE) -> Any:
        """What the agent answers to a task, when it does.

        :raises NoResult: when it has not by then; the task goes on.
        :raises Conflict: when the task ended in another way.
        :raises TaskNotFound: when it was removed.
        """
        ended = self._waiting[task.job_id] = asyncio.Event()
        try:
            result = await self._result(task)
            if result is None:
                await asyncio.wait_for(ended.wait(), timeout)
                result = await self._result(task)
        except asyncio.TimeoutError:
            raise NoResult(task.id, timeout) from None
        finally:
            del self._waiting[task.job_id]
        assert result is not None
        return result[0]

    async def next(self, agent: str, timeout: float = PATIENCE) -> Request | None:
        """What an agent is to do next, or none when there is nothing in time, or no time any more."""
        if self._closing:
            return None
        poll = asyncio.ensure_future(self._pull.next(agent, timeout))
        self._polls[poll] = agent
        try:
            return await _outcome(poll)
        except asyncio.CancelledError:
            # Nobody waits for it any more: what it may have taken already is for the next who comes.
            poll.cancel()
            self.give_back(await _outcome(poll))
            raise
        finally:
            del self._polls[poll]

    def give_back(self, request: Request | None) -> None:
        """See that what :meth:`next` returned is given again, for it did not reach its agent."""
        if request is not None:
            self._pull.give_back(request)

    def end_polls(self, agent: str | None = None) -> None:
        """End the polls of an agent, or of all: they come back empty."""
        for poll, owner in list(self._polls.items()):
            if agent in (None, owner):
                poll.cancel()

    async def finish(self, agent: str, task_id: int, result: Any) -> None:
        """Take an agent's result; it is on disk when this returns.

        :raises InvalidDocument: when the result can't be kept as it is; the task goes on.
        :raises TaskNotFound: when the agent was not given such a task.
        :raises TaskEnded: when the task has ended before.
        """
        fault = data_fault(result)
        if fault:
            raise InvalidDocument([Fault("", fault)])
        verdict = await self._service.answer(Answer(agent, task_id, ANSWERED, result))
        if verdict in (Verdict.LATE, Verdict.DUPLICATE):
            view = await self._request(task_id)
            if view["destination"] == agent:
                raise TaskEnded(f"task {task_id} has ended before: {view['status']}, {view['reason']}")
        if verdict is not Verdict.APPLIED:
            raise TaskNotFound(task_id)

    async def _result(self, task: Task) -> tuple[Any] | None:
        """The result of a task that has ended well; none while it has not ended."""
        view = await self._request(task.id)
        status = RequestStatus(view["status"])
        if status is RequestStatus.RESOLVED:
            return (view["result"],)
        if view["finishedAt"] is not None:
            raise Conflict(f"task {task.id} ended without a result: {status.value}, {view['reason']}")
        return None

    async def _request(self, task_id: int) -> Mapping[str, Any]:
        """What there is to say of a task's request. Raises TaskNotFound when it was removed."""
        try:
            view: Mapping[str, Any] = (await self._service.show_request(task_id))["__request"]
        except RequestNotFound:
            raise TaskNotFound(task_id) from None
        return view

    def _hear(self, change: Change, job_id: int, document: Document | None) -> None:
        waiter = self._waiting.get(job_id)
        if waiter is not None and (document is None or document["status"] in _FINAL):
            waiter.set()


def content_of(message: Message) -> Any:
    """What an agent is given to do."""
    data = message.data
    is_task = (message.method, message.resource) == (METHOD, RESOURCE)
    if is_task and isinstance(data, dict) and data.keys() == {CONTENT}:
        return data[CONTENT]
    content = {"method": message.method, "resource": message.resource}
    return content if data is None else {**content, "data": data}


async def _outcome(poll: asyncio.Future[Request | None]) -> Request | None:
    """What a poll comes to; one that was ended comes to nothing."""
    await asyncio.wait({poll})
    return None if poll.cancelled() else poll.result()
