"""The client over HTTP for programs on an asyncio loop: the twin of :class:`puppetmaster.client.sync.Client`."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx
from typing_extensions import Self, Unpack

from puppetmaster.client import calls
from puppetmaster.client.attempts import PATIENCE, Attempts
from puppetmaster.client.calls import Call, JobOptions, Limits, RerunOptions, Texts
from puppetmaster.client.documents import Document, Told
from puppetmaster.client.pages import Listed, Pages
from puppetmaster.client.server import Server
from puppetmaster.client.watching import Watching
from puppetmaster.errors import JobNotFound, PuppetmasterError, TooLarge
from puppetmaster.schemas import Account, AnswerGroup, Device, DryRun, FactValue, Health, Job, Request, Token

logger = logging.getLogger(__name__)

T = TypeVar("T")
N = TypeVar("N", bound=Listed)


class AsyncClient:
    """A puppetmaster that is reached over HTTP, on the running asyncio loop.

    A call is made again by itself, for ``patience`` seconds, while the server is away or can't write, and when its
    answer was lost and making it twice does no harm: what creates something carries a key, so that it is made once.

    :param url: ``http://host:port`` or ``https://host:port``.
    :param token: of an account; none means ``PUPPETMASTER_TOKEN`` in the environment, if that is set.
    :param ca_file: the certificates to trust with ``https``; none means those of the system.
    :param patience: seconds for which a call is made again; 2 s at most while the server has never answered.
    :raises SettingsError: when one of them can't be used.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        ca_file: str | Path | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self._server = Server(url, token, ca_file)
        self._patience = patience
        self._http = httpx.AsyncClient(**self._server.options())

    @property
    def url(self) -> str:
        """Where the server is."""
        return self._server.url

    async def close(self) -> None:
        """Let the connections go."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # Jobs

    async def submit(
        self,
        method: str,
        resource: str,
        destinations: str | Iterable[str],
        data: Any = None,
        **options: Unpack[JobOptions],
    ) -> Job:
        """Create a job that sends one message to many destinations.

        :param method: get, post, put or delete.
        :param data: what to send along, any JSON value.
        :raises InvalidDocument: when a part of it breaks a rule.
        """
        return await self.submit_document(calls.job_document(method, resource, destinations, data, options))

    async def submit_document(self, document: Mapping[str, Any]) -> Job:
        """Create a job from a job document, in any of its three spellings; ``requests`` holds their ids."""
        return await self._run(calls.create_job(document))

    async def dry_run(
        self,
        method: str,
        resource: str,
        destinations: str | Iterable[str],
        data: Any = None,
        **options: Unpack[JobOptions],
    ) -> DryRun:
        """How many requests :meth:`submit` would make; nothing is made."""
        return await self.dry_run_document(calls.job_document(method, resource, destinations, data, options))

    async def dry_run_document(self, document: Mapping[str, Any]) -> DryRun:
        """How many requests :meth:`submit_document` would make; nothing is made."""
        return await self._run(calls.preview_job(document))

    def jobs(
        self,
        *,
        status: Texts | None = None,
        label: Texts | None = None,
        since: datetime | str | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[Job]:
        """The jobs, newest first, asked for in pages as they are needed.

        :param status: only jobs in this status, or any of these.
        :param label: only jobs with this label, or all of these.
        :param since: only jobs made at this time or later.
        :param limit: how many at most; none means all.
        """
        return self._pages(
            lambda size, offset: calls.list_jobs(status=status, label=label, since=since, limit=size, offset=offset),
            limit,
        )

    async def job(self, job_id: int) -> Job:
        """One job, without its requests.

        :raises JobNotFound: when there is none.
        """
        return await self._run(calls.show_job(job_id))

    def watch(self, job_id: int, *, timeout: float | None = None, told: Told | None = None) -> AsyncIterator[Job]:
        """A job now and at every change, each state once, until it has ended or was removed.

        When the stream breaks it is opened again by itself.

        :param timeout: seconds until the job has to have ended, to a second; none waits for ever.
        :param told: is told with the reason when there is no word any more, and with none when there is again.
        :raises JobNotFound: when there is no such job.
        :raises NotEnded: when the time is over.
        :raises NoAnswer: when there was no word on it for a minute.
        """
        return self._states(self._watching(calls.watch_job(job_id), job_id, timeout, told))

    async def wait(self, job_id: int, timeout: float | None = None) -> Job:
        """Wait for a job to end; the job.

        :param timeout: seconds, to a second; none waits for ever.
        :raises JobNotFound: when there is no such job, or it was removed before it ended.
        :raises NotEnded: when the time is over, a :class:`TimeoutError`; the job goes on.
        :raises NoAnswer: when there was no word on it for a minute.
        """
        watching = self._watching(calls.watch_job(job_id), job_id, timeout, None)
        async for job in self._states(watching):
            if watching.is_over and not watching.was_removed:
                return job
        raise JobNotFound(job_id)

    async def pause(self, job_id: int) -> Job:
        """Send no more requests of a job; what is out is still answered."""
        return await self.update(job_id, status="paused")

    async def resume(self, job_id: int) -> Job:
        """Go on with a paused job, or begin a pending one before its time."""
        return await self.update(job_id, status="dispatching")

    async def cancel(self, job_id: int) -> Job:
        """Call off what is unfinished of a job.

        :raises Conflict: when it has ended in another way.
        """
        return await self.update(job_id, status="canceled")

    async def update(self, job_id: int, *, status: str | None = None, **limits: Unpack[Limits]) -> Job:
        """Change a job's status or its limits; a limit that is none goes back to its default.

        :raises Conflict: when the job has ended.
        """
        return await self._run(calls.update_job(job_id, status, limits))

    async def remove(self, job_id: int) -> Job:
        """Call off what is unfinished of a job, and remove it with its requests; its last state."""
        return await self._run(calls.remove_job(job_id))

    async def rerun(self, job_id: int, *, status: Texts | None = None, **options: Unpack[RerunOptions]) -> Job:
        """Make a new job of the requests of a job that failed.

        :param status: of the requests; none means error and timeout.
        :raises Conflict: when no request of it has such a status.
        """
        return await self._run(calls.rerun_job(job_id, status, options))

    async def dry_rerun(self, job_id: int, *, status: Texts | None = None, **options: Unpack[RerunOptions]) -> DryRun:
        """How many requests :meth:`rerun` would make; nothing is made."""
        return await self._run(calls.preview_rerun(job_id, status, options))

    async def answers(self, job_id: int, *, status: Texts | None = None, limit: int | None = None) -> list[AnswerGroup]:
        """The equal answers of a job's devices, counted, the most frequent first.

        :param limit: how many groups at most; none means 100.
        """
        return await self._run(calls.list_answers(job_id, status=status, limit=limit))

    # Requests

    def requests(
        self,
        *,
        job: int | None = None,
        status: Texts | None = None,
        destination: Texts | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[Request]:
        """The requests of all jobs or of one, newest first, asked for in pages as they are needed.

        :param status: only requests in this status, or any of these.
        :param destination: only those to this destination, or any of these; ``*`` stands for any characters.
        :param limit: how many at most; none means all.
        """
        return self._pages(
            lambda size, offset: calls.list_requests(
                job=job, status=status, destination=destination, limit=size, offset=offset
            ),
            limit,
        )

    async def request(self, request_id: int) -> Request:
        """One request.

        :raises RequestNotFound: when there is none.
        """
        return await self._run(calls.show_request(request_id))

    async def send(
        self,
        method: str,
        resource: str,
        destination: str = "localhost",
        data: Any = None,
        *,
        timeout: float | None = None,
        key: str | None = None,
    ) -> Request:
        """Send one message to one destination, as a job of its own; the request.

        :param timeout: seconds that the device may take to answer.
        """
        return await self._run(calls.create_request(method, resource, destination, data, timeout, key))

    async def cancel_request(self, request_id: int) -> Request:
        """Call a request off.

        :raises Conflict: when it has ended.
        """
        return await self._run(calls.cancel_request(request_id))

    # Devices

    def devices(
        self,
        *,
        connection: Texts | None = None,
        label: Texts | None = None,
        fact: Texts | None = None,
        device: Texts | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[Device]:
        """The devices in the order of their ids, asked for in pages as they are needed.

        :param connection: only devices with this connection, or any of these: online, offline, unknown.
        :param label: only devices with this label (``site=berlin``, or ``site`` for any value), or all of these.
        :param fact: only devices that say this of themselves (``system=Linux``), or all of these.
        :param device: only the device with this id, or any of these; ``*`` stands for any characters.
        :param limit: how many at most; none means all.
        """
        return self._pages(
            lambda size, offset: calls.list_devices(
                connection=connection, label=label, fact=fact, id=device, limit=size, offset=offset
            ),
            limit,
            ascending=True,
        )

    async def device(self, device_id: str) -> Device:
        """One device.

        :raises DeviceNotFound: when there is none.
        """
        return await self._run(calls.show_device(device_id))

    async def label_device(self, device_id: str, labels: Mapping[str, str | None] | None) -> Device:
        """Give a device labels; it need not have been heard of yet.

        :param labels: those that change. One that is none is taken away; none in place of all leaves the device with
            those that it says it has.
        """
        return await self._run(calls.label_device(device_id, labels))

    async def remove_device(self, device_id: str) -> Device:
        """Forget a device, until it is heard of again; what was known of it in the end.

        :raises DeviceNotFound: when there is none.
        """
        return await self._run(calls.remove_device(device_id))

    async def fact_values(
        self,
        fact: str,
        *,
        connection: Texts | None = None,
        label: Texts | None = None,
        limit: int | None = None,
    ) -> list[FactValue]:
        """What devices say of a fact, counted, the most frequent first.

        :param limit: how many values at most; none means 100.
        """
        return await self._run(calls.list_fact_values(fact, connection=connection, label=label, limit=limit))

    # The server

    async def login(self, name: str, password: str) -> Token:
        """Log in; from now on the client speaks for this account.

        :raises Unauthorized: when the name or the password is wrong.
        :raises TooManyAttempts: when logins failed too often.
        """
        token = await self._run(calls.log_in(name, password))
        self._server.token = token.token
        return token

    async def logout(self) -> None:
        """End the token, and forget it."""
        await self._run(calls.log_out())
        self._server.token = None

    async def account(self) -> Account:
        """Who the client is there."""
        return await self._run(calls.show_account())

    async def health(self) -> Health:
        """How the server is; one that is not ready is no error here."""
        return await self._run(calls.show_health())

    async def call(self, method: str, resource: str, data: Any = None, *, timeout: float | None = None) -> Any:
        """Any call of the API; the JSON of the answer.

        :param resource: a path, with its query string.
        """
        return await self._run(calls.anything(method, resource, data, timeout))

    def watch_documents(self, job_id: int, *, told: Told | None = None) -> AsyncIterator[Document]:
        """Watch a job as :meth:`watch` does; its states as documents."""
        return self._states(self._watching(calls.watch_document(job_id), job_id, None, told))

    # Inside

    async def _run(self, call: Call[T]) -> T:
        attempts = Attempts(call, patience=self._patience, now=time.monotonic())
        while True:
            try:
                return await self._exchange(call)
            except PuppetmasterError as error:
                delay = attempts.next_delay(
                    error, reached=self._server.reached, now=time.monotonic(), random=random.random()
                )
                if delay is None:
                    raise
                logger.info("%s %s again in %.1f s: %s", call.method, call.path, delay, error,
                            extra={"event": "call_repeated", "seconds": delay})
            await asyncio.sleep(delay)

    async def _exchange(self, call: Call[T]) -> T:
        try:
            response = await self._http.request(**self._server.question(call))
        except httpx.RequestError as error:
            raise self._server.no_answer(call, error) from error
        return self._server.read(call, response)

    async def _pages(
        self, call: Callable[[int, int], Call[list[N]]], limit: int | None, *, ascending: bool = False
    ) -> AsyncIterator[N]:
        pages = Pages(call, limit, ascending=ascending)
        while (next_call := pages.next_call()) is not None:
            try:
                page = await self._run(next_call)
            except TooLarge:
                if not pages.shrink():
                    raise
            else:
                for entry in pages.take(page):
                    yield entry

    def _watching(self, call: Call[T], job_id: int, timeout: float | None, told: Told | None) -> Watching[T]:
        return Watching(
            self._server,
            call,
            job_id,
            timeout=timeout,
            patience=self._patience,
            told=told,
            now=time.monotonic(),
        )

    async def _states(self, watching: Watching[T]) -> AsyncIterator[T]:
        while not watching.is_over:
            try:
                async with aclosing(self._stream(watching)) as states:
                    async for state in states:
                        yield state
            except PuppetmasterError as error:
                await asyncio.sleep(watching.failed(error, now=time.monotonic(), random=random.random()))

    async def _stream(self, watching: Watching[T]) -> AsyncGenerator[T, None]:
        """The states that one stream brings."""
        try:
            async with self._http.stream(**watching.open(time.monotonic())) as response:
                if response.status_code != httpx.codes.OK:
                    await response.aread()
                    self._server.read(watching.call, response)
                self._server.check_stream(watching.call, response)
                async for chunk in response.aiter_bytes():
                    for state in watching.hear(chunk, time.monotonic()):
                        yield state
                    if watching.is_over or watching.is_stale(time.monotonic()):
                        return
        except httpx.RequestError as error:
            raise self._server.no_answer(watching.call, error) from error
        raise watching.ended()
