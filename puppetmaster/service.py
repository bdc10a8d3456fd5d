"""Carries out what the engine decides, on one asyncio loop, in the order save, publish, tell.

Everything that touches state runs on this loop. Inputs go into the engine at once; a cycle then takes all that has
gathered, saves it in one commit, publishes what is to be sent and tells what has changed, while the inputs of the next
cycle gather. Whoever must not go on before the disk has it waits for the end of the cycle.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Protocol, TypeVar

from puppetmaster import queries, views
from puppetmaster.answers import Answers
from puppetmaster.devices import Devices
from puppetmaster.documents import (
    JOBS,
    MESSAGES,
    META,
    META_ID,
    REQUESTS,
    Document,
    job_from_document,
    job_to_document,
    messages_to_document,
    request_from_document,
    request_to_document,
)
from puppetmaster.draft import Draft
from puppetmaster.effects import Change, Effects, Verdict
from puppetmaster.engine import Engine
from puppetmaster.errors import (
    Conflict,
    IllegalTransition,
    KeyConflict,
    RequestNotFound,
    StoreUnavailable,
    TooLarge,
)
from puppetmaster.job_document import JobReader, Rerun
from puppetmaster.memory_guard import MemoryGuard
from puppetmaster.models import Job, JobSpec, Request
from puppetmaster.paging import gather
from puppetmaster.states import REQUEST_FINAL, RequestStatus
from puppetmaster.store import Store
from puppetmaster.views import View
from puppetmaster.wire import MAX_BUS_BYTES, Answer, encode

logger = logging.getLogger(__name__)

STORE_RETRY = 1.0
"""Seconds between two attempts to write, while the store can't."""

RETIRE_INTERVAL = 60.0
"""Seconds between two looks for finished jobs that are too old."""

ACCEPTED_DELAY = 0.05
"""Seconds that the broker's word on a request may wait for the device's: most answer sooner. Then the request is
written once in place of twice, and its answer waits for no commit that is about the broker alone. Reads don't wait."""

SCAN_CHUNK = 250
"""Documents that are looked at before the loop gets a turn: about a millisecond, unless the answers are long."""

SLICE = 1000
"""Requests that are put into the store, or removed, before the loop gets a turn: 2 to 3 ms, 5 where they are made."""

CALLED_OFF = 499
"""The code by which a device says what became of a request that was called off."""

_APPLIED = Verdict.APPLIED  # a name of the module is found sooner than a member of an enum

_CALLED_OFF = frozenset({RequestStatus.CANCELED.value, RequestStatus.TIMEOUT.value})

ANSWER_MARGIN = 8192
"""Bytes of an answer that are neither its list nor a caller's texts: the job's fields and the message around it."""


_T = TypeVar("_T")

Listener = Callable[[Change, int, Document | None], None]
"""Hears of a job's change when it is on disk: what :meth:`Outlet.tell` is told. It must not change the document."""


class Outlet(Protocol):
    """Where the service's doings go. No method blocks or raises."""

    def send(self, request: Request, attempt: int) -> None:
        """Publish a request; may be called again with the same attempt."""

    def tell(self, change: Change, job_id: int, document: Document | None) -> None:
        """Tell that a job changed; its document is on disk, none when it was removed."""

    def abort(self, request: Request) -> None:
        """Tell whoever works on a request that was out that it is called off."""

    def retain(self, job_id: int, document: Document) -> None:
        """Retain the state of a job for whoever comes to watch."""


@dataclass(slots=True)
class _Batch:
    """What one cycle saves, and what follows when it is saved."""

    saved: asyncio.Future[None]
    """Fails when the first attempt to save does."""
    durable: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it is on disk, however long that takes."""
    filled: bool = False
    """Whether there is anything in it."""
    sends: list[tuple[Request, int]] = field(default_factory=list)
    aborts: list[Request] = field(default_factory=list)
    removed: list[range] = field(default_factory=list)
    changes: list[tuple[Change, int, Document | None]] = field(default_factory=list)


class Service:
    """The bundle's one way to everything: callers ask it, devices answer it.

    :param now: the time, in seconds since 1970, never going backwards.
    :param memory: refuses jobs that would take too much; none takes all.
    """

    def __init__(
        self,
        *,
        store: Store,
        engine: Engine,
        reader: JobReader,
        outlet: Outlet,
        now: Callable[[], float],
        devices: Devices | None = None,
        memory: MemoryGuard | None = None,
    ) -> None:
        self.devices = Devices(store, now) if devices is None else devices
        """The registry of devices; unless one is given it has no store of its own."""
        self.dropped: Counter[str] = Counter()
        """Answers that changed nothing, by the reason."""
        self.unavailable = ""
        """Why the store can't write; empty while it can."""
        self.memory = memory
        """What refuses jobs that would take too much memory, if anything does."""
        self.on_removed: list[Callable[[range], None]] = []
        """Called with the ids of the requests of a job that is removed, when that is on disk. They must not raise."""
        self._store = store
        self._engine = engine
        self._reader = reader
        self._outlet = outlet
        self._now = now
        self._work = asyncio.Event()
        self._saved_next_id = 0
        self._next_retire = 0.0
        self._was_killed = False
        self._listeners: list[Listener] = []
        self._drafting = asyncio.Lock()
        self._unstaged: Iterator[None] = iter(())
        """The steps of a staging that stands still."""
        self._closing = False
        self._committing = False
        self._accepted: dict[int, tuple[int, float]] = {}
        """What the broker has and the engine does not know of, with the attempt and the time, by the request's id."""
        self._noting: asyncio.TimerHandle | None = None
        self._batch = self._new_batch()
        self._cycle: asyncio.Task[None] | None = None

    # Life

    def load(self, instance: str) -> None:
        """Take over what the store holds, and note the instance in it."""
        meta = self._store.get(META, META_ID) or {}
        jobs = {job_id: self._load_job(job_id, document) for job_id, document in self._store.scan(JOBS)}
        live = [job for job in jobs.values() if not job.is_final]
        self._drop_drafts(jobs)
        requests = [
            _without_result(request_from_document(request_id, document, job))
            for job in live
            for request_id, document in self._store.scan(REQUESTS, job.request_ids)
        ]
        self._engine.restore(jobs.values(), requests, meta.get("nextId", 0), self._now())
        self._was_killed = not meta.get("stopped", True)
        self._store.put(
            META, {META_ID: {**meta, "instance": instance, "nextId": self._engine.next_id, "stopped": False}}
        )
        self._saved_next_id = self._engine.next_id
        # Written by the first cycle, so that a disk that can't be written is known before the first caller comes.
        self._batch.filled = True
        logger.info("%d jobs in the store, %d of them unfinished, %d requests out", len(jobs), len(live),
                    self._engine.out_count, extra={"event": "jobs_loaded", "count": len(jobs)})

    def listen(self, listener: Listener) -> None:
        """Have changes told to one more, after the outlet; one that raises does no harm to others."""
        self._listeners.append(listener)

    def start(self) -> None:
        """Begin to work."""
        for job_id, document in self._store.scan(JOBS):
            # After a kill nobody knows what was still told; after a stop everything was.
            if self._was_killed or not self._engine.jobs[job_id].is_final:
                self._tell(Change.CHANGED, job_id, document)
            else:
                self._outlet.retain(job_id, document)
        self._cycle = asyncio.create_task(self._run(), name="service-cycle")
        self._work.set()

    async def close(self) -> None:
        """Save what has gathered and stop."""
        if self._cycle is None:
            return
        self._note_accepted()
        self._closing = True
        self._engine.hold(True)
        self._work.set()
        try:
            await asyncio.wait_for(self._cycle, 10.0)
        except asyncio.TimeoutError:
            logger.error("stopped with changes that the store could not write: %s", self.unavailable,
                         extra={"event": "stopped_unsaved", "reason": self.unavailable})
        self._cycle = None
        self._store.put(META, {META_ID: {**(self._store.get(META, META_ID) or {}), "stopped": True}})

    @property
    def cycle(self) -> asyncio.Task[None] | None:
        """The task that does the work; it ends only with :meth:`close`, or by an error in the program."""
        return self._cycle

    # The bus

    def link(self, up: bool) -> None:
        """The data plane's connection came or went."""
        self._engine.link(up)
        self._work.set()

    def resend(self, only: Callable[[Request], bool] | None = None) -> int:
        """Send what is out once more: the broker, or the controller, may have lost it. Returns how many."""
        count = self._engine.resend(only)
        self._work.set()
        return count

    def out(self) -> list[Request]:
        """The requests that are out."""
        return self._engine.out()

    def out_to(self, destination: str) -> int | None:
        """The id of the request that a destination has alone, if it has one."""
        return self._engine.out_to(destination)

    def accepted(self, request: Request, attempt: int) -> None:
        """The broker has a request; see ACCEPTED_DELAY."""
        if attempt != request.attempt:
            return  # of two connections one may be late, and its word must not take the place of that on the newest
        self._accepted[request.id] = attempt, self._now()
        if self._noting is None:
            self._noting = asyncio.get_running_loop().call_later(ACCEPTED_DELAY, self._note_accepted)

    def _note_accepted(self) -> None:
        """Have the engine know what the broker has."""
        if self._noting is not None:
            self._noting.cancel()
            self._noting = None
        if self._accepted:
            accepted, self._accepted = self._accepted, {}
            for request_id, (attempt, at) in accepted.items():
                self._engine.accepted(request_id, attempt, at)
            self._work.set()

    def know_who_is_away(self, known: bool) -> None:
        """Tell whether the devices have had the time to say whether they are there."""
        self._engine.know_who_is_away(known)
        self._work.set()

    def present(self, destination: str) -> None:
        """A device is not known to be away any more; it gets what waited for that."""
        self._engine.present(destination, self._now())
        self._work.set()

    def take(self, answer: Answer) -> Verdict:
        """A device answered; what that changes is on disk when :meth:`durable` returns."""
        accepted = self._accepted.pop(answer.request_id, None)
        if answer.code >= 300:
            self._note_accepted()  # it may end its whole job
        verdict = self._engine.answer(
            answer.destination, answer.request_id, answer.code, answer.data, self._now(), accepted
        )
        if verdict is Verdict.LATE and answer.code == CALLED_OFF and self._note_end(answer):
            verdict = Verdict.APPLIED
        if verdict is not _APPLIED:
            self._note_dropped(verdict, answer.destination, answer.request_id)
        return verdict

    def refuse(self, destination: str, request_id: int, reason: str) -> Verdict:
        """A device answered with more than can be taken; durable as in :meth:`take`."""
        self._note_accepted()
        verdict = self._engine.refuse_answer(destination, request_id, reason, self._now())
        if verdict is not _APPLIED:
            self._note_dropped(verdict, destination, request_id)
        return verdict

    async def durable(self) -> None:
        """Wait until all that was taken so far is on disk, however long that takes."""
        # Also for what changed nothing: the broker may have sent it again before the first of the two is on disk.
        self._work.set()
        await self._batch.durable.wait()

    async def answer(self, answer: Answer) -> Verdict:
        """A device answered; returns when that is on disk, or when it changed nothing."""
        verdict = self.take(answer)
        await self.durable()
        return verdict

    def _note_end(self, answer: Answer) -> bool:
        """Write down what its device says became of a request that was called off; false when it is none of these.

        Its status stays: it was final when its caller was told.
        """
        self._stage()
        document = self._store.get(REQUESTS, answer.request_id)
        if (
            document is None
            or document["status"] not in _CALLED_OFF
            or document["destination"] != answer.destination
            or document.get("code") is not None
        ):
            return False
        job = self._engine.jobs[document["job"]]
        resource = job.messages[document["message"]].resource
        outcome = answer.data.get("outcome") if isinstance(answer.data, dict) else None
        document["code"] = CALLED_OFF
        document["result"] = {"code": CALLED_OFF, "resource": resource, "data": answer.data}
        if isinstance(outcome, str):
            document["reason"] = f"{document['reason']}; its device says: {outcome:.100}"
        self._store.put(REQUESTS, {answer.request_id: document})
        self._batch.filled = True
        return True

    def _note_dropped(self, verdict: Verdict, destination: str, request_id: int) -> None:
        self.dropped[verdict.value] += 1
        logger.debug("answer dropped: %s", verdict.value,
                     extra={"event": "answer_dropped", "destination": destination, "request": request_id})

    # Jobs

    def has_job(self, job_id: int) -> bool:
        """Whether there is such a job."""
        return job_id in self._engine.jobs

    @property
    def is_idle(self) -> bool:
        """Whether no job has requests that have not ended."""
        return not self._engine.requests

    def is_final(self, request_id: int) -> bool:
        """Whether a request has ended, or is none at all."""
        request = self._engine.requests.get(request_id)
        return request is None or request.is_final

    def destination_of(self, request_id: int) -> str | None:
        """Where a request goes, or went; none when there is no such request."""
        request = self._engine.requests.get(request_id)
        if request is not None:
            return request.destination
        document = self._store.get(REQUESTS, request_id)
        return None if document is None else str(document["destination"])

    async def create_job(self, document: object) -> View:
        """Make a job and answer it with the ids of its requests; it is on disk then. A dry run tells how many.

        :raises InvalidDocument: with every fault in the document.
        :raises TooLarge: when it has too many requests.
        :raises KeyConflict: when its key belongs to a job with another body.
        :raises StoreUnavailable: when it could not be saved; it was not made then.
        :raises MemoryShort: when it would take too much memory.
        """
        if self._reader.is_large(document):
            # It takes a tenth of a second, of which the loop gets its share.
            return await self._make(await asyncio.to_thread(self._reader.job, document))
        return await self._make(self._reader.job(document))

    async def rerun_job(self, job_id: int, document: object) -> View:
        """Make a job of those requests of another that failed, or ended as the caller says; answers as for a new job.

        The order stays, and what the caller does not name is taken over, but for the key and the start time.

        :raises Conflict: when no request ended like that.
        """
        rerun = self._reader.rerun(document)
        if not rerun.dry_run:
            self._check_store()
        return await self._make(await self._again(self._engine.job(job_id), rerun))

    async def list_jobs(self, query: Mapping[str, Any]) -> list[View]:
        """A page of the jobs, newest first."""
        wanted = queries.parse(queries.JobsQuery, query)
        found = [
            job_id
            for job_id, job in reversed(self._engine.jobs.items())
            if (wanted.status is None or job.status in wanted.status)
            and (wanted.label is None or set(wanted.label) <= set(job.labels))
            and (wanted.since is None or _milliseconds(job.created_at) >= _milliseconds(wanted.since))
        ]
        self._stage()
        page = self._store.scan(JOBS, found[wanted.offset : wanted.offset + wanted.limit])
        return await self._when_saved(await gather(views.job_view(job_id, document) for job_id, document in page))

    async def show_job(self, job_id: int, query: Mapping[str, Any]) -> View:
        """One job and a page of its requests."""
        wanted = queries.parse(queries.JobQuery, query)
        job = self._engine.job(job_id)
        self._stage()
        view = await self._job_with_requests(job, wanted)
        self._engine.job(job_id)  # it may have been removed meanwhile
        return await self._when_saved(view)

    async def list_answers(self, job_id: int, query: Mapping[str, Any]) -> list[View]:
        """The answers to a job's requests, equal ones counted together, the most frequent first."""
        wanted = queries.parse(queries.AnswersQuery, query)
        job = self._engine.job(job_id)
        self._stage()
        answers, statuses = Answers(job.messages), _names(wanted.status or REQUEST_FINAL)

        def look(request_id: int, document: Document) -> None:
            if document["status"] in statuses:
                answers.add(request_id, document)

        await self._look_through(job.request_ids, look)
        self._engine.job(job_id)  # it may have been removed meanwhile
        groups = answers.largest(wanted.limit)
        documents = self._store.scan(REQUESTS, [group.request_id for group in groups])
        found = (views.answer_view(group, document) for group, (_, document) in zip(groups, documents, strict=True))
        return await self._when_saved(await gather(found))

    async def update_job(self, job_id: int, document: object) -> View:
        """Pause, resume or cancel a job, or give it other limits.

        :raises StoreUnavailable: see :meth:`_changed`.
        """
        update = self._reader.update(document)
        job = self._engine.job(job_id)
        self._check_store()
        self._note_accepted()
        now = self._now()
        limits = update.to_limits(job.limits)
        if limits != job.limits:
            self._engine.limit(job_id, limits, now)
        if update.status == "paused":
            self._engine.pause(job_id)
        elif update.status == "dispatching":
            self._engine.resume(job_id, now)
        elif update.status == "canceled":
            self._engine.cancel(job_id, now)
        await self._changed()
        return self._job_view(job)

    async def remove_job(self, job_id: int) -> View:
        """Cancel what is unfinished of a job, and remove it; answers its last state.

        :raises StoreUnavailable: see :meth:`_changed`.
        """
        self._engine.job(job_id)
        self._check_store()
        self._note_accepted()
        job = self._engine.remove(job_id, self._now())
        view = views.job_view(job_id, job_to_document(job))
        await self._changed()
        return view

    # Requests

    async def create_request(self, document: object) -> View:
        """Make a job of one request, and answer the request."""
        job = await self._submit(self._reader.request(document))
        return self._request_view(job.first_request)

    async def list_requests(self, query: Mapping[str, Any]) -> list[View]:
        """A page of the requests, newest first."""
        wanted = queries.parse(queries.RequestsQuery, query)
        jobs = [self._engine.jobs[wanted.job]] if wanted.job in self._engine.jobs else []
        if wanted.job is None:
            jobs = list(reversed(self._engine.jobs.values()))
        self._stage()
        ids = (request_id for job in jobs for request_id in reversed(job.request_ids))
        page = await self._matching(ids, wanted, wanted.status, wanted.destination)
        return await self._when_saved(await self._request_views(page))

    async def show_request(self, request_id: int) -> View:
        """One request."""
        self._stage()
        return await self._when_saved(self._request_view(request_id))

    async def cancel_request(self, request_id: int) -> View:
        """Cancel a request that has not ended.

        :raises StoreUnavailable: see :meth:`_changed`.
        """
        self._check_store()
        self._note_accepted()
        try:
            self._engine.cancel_request(request_id, self._now())
        except RequestNotFound:
            self._stage()
            document = self._store.get(REQUESTS, request_id)
            if document is None or document["job"] not in self._engine.jobs:
                raise
            if document["status"] != RequestStatus.CANCELED.value:
                raise IllegalTransition("request", document["status"], "cancel") from None
        await self._changed()
        return self._request_view(request_id)

    # Inside: callers

    async def _make(self, spec: JobSpec) -> View:
        if spec.dry_run:
            self._engine.job_of_key(spec.key, spec.fingerprint)
            spec = self._engine.resolve(replace(spec, start_at=None), self._now())
            self._check_size(spec)
            return views.dry_run_view(spec, self._engine.is_offline)
        job = await self._submit(spec)
        return {**self._job_view(job), "requests": list(job.request_ids)}

    async def _submit(self, spec: JobSpec) -> Job:
        self._check_store()
        draft, now = None, self._now()
        if self._engine.job_of_key(spec.key, spec.fingerprint) is None:
            spec = self._engine.resolve(spec, now)
            self._check_size(spec)
            if spec.total > SLICE:
                draft = await self._draft(spec, now)
                now = self._now()
            else:
                self._check_memory(spec)
        try:
            job, created = self._engine.submit(spec, now, draft)
        except KeyConflict:
            self._discard(draft)
            raise
        if not created:
            self._discard(draft)
        await self._saved()
        if not created and job.id not in self._engine.jobs:
            raise StoreUnavailable("the job that this key stood for could not be saved; send it again")
        return job

    async def _draft(self, spec: JobSpec, resolved_at: float) -> Draft | None:
        """Make the requests of a large job, and put them into the store, with turns for the loop in between.

        As long as there is no document of their job they are nobody's: a kill leaves all of the job or nothing. None
        when another caller has made the job meanwhile. Its start time may come while it waits for its turn here: its
        targets are looked up then if they were not at ``resolved_at``.
        """
        async with self._drafting:
            if self._engine.job_of_key(spec.key, spec.fingerprint) is not None:
                return None
            self._check_memory(spec)
            draft = self._engine.draft(spec, resolved_at)
            try:
                while made := draft.make(SLICE):
                    self._put_requests(made.values())
                    await asyncio.sleep(0)
                    self._check_store()
            except BaseException:
                self._discard(draft)
                raise
            return draft

    def _discard(self, draft: Draft | None) -> None:
        """Take a large job back that nobody has heard of."""
        if draft is not None:
            draft.job.lines = ()  # they hold its requests in a cycle, and the collector comes late
            self._store.remove(REQUESTS, draft.requests)
            self._work.set()

    def _drop_drafts(self, jobs: Mapping[int, Job]) -> None:
        """Remove what a kill left of jobs that were being made."""
        if self._store.count(REQUESTS) == sum(job.total_count for job in jobs.values()):
            return
        strays = [ident for ident, document in self._store.scan(REQUESTS) if document["job"] not in jobs]
        self._store.remove(REQUESTS, strays)
        logger.info("%d requests of jobs that were not made to their end are dropped", len(strays),
                    extra={"event": "drafts_dropped", "count": len(strays)})

    def _check_store(self) -> None:
        """See that the store can write, as far as is known: what is refused here was not begun."""
        if self.unavailable:
            raise StoreUnavailable(self.unavailable)

    def _check_size(self, spec: JobSpec) -> None:
        ids_bytes = spec.total * (len(str(self._engine.next_id + spec.total)) + 1)
        if ids_bytes + len(encode([spec.name, spec.labels])) > MAX_BUS_BYTES - ANSWER_MARGIN:
            raise TooLarge(f"the ids of its {spec.total} requests would not fit one answer on the bus; split the job")

    def _check_memory(self, spec: JobSpec) -> None:
        if self.memory is not None:
            messages = sum(len(encode(message.data)) for message in spec.messages)
            self.memory.admit(spec.total, messages, **self._amounts())

    def _amounts(self) -> dict[str, int]:
        """What takes memory, for the guard: the requests of jobs that run, and of all."""
        return {"live": len(self._engine.requests), "kept": self._store.count(REQUESTS)}

    async def _again(self, job: Job, rerun: Rerun) -> JobSpec:
        """The requests of a job that are to be run again, as a job of their own."""
        statuses = _names(rerun.statuses)
        numbers: dict[int, int] = {}  # of the messages that are needed again
        batch: list[tuple[int, list[str]]] = []

        def look(_: int, document: Document) -> None:
            if document["status"] in statuses:
                number = numbers.setdefault(document["message"], len(numbers))
                if not batch or batch[-1][0] != number:
                    batch.append((number, []))
                batch[-1][1].append(document["destination"])

        self._stage()
        await self._look_through(job.request_ids, look)
        self._engine.job(job.id)  # it may have been removed meanwhile
        if not batch:
            named = " or ".join(status.value for status in RequestStatus if status in rerun.statuses)
            raise Conflict(f"job {job.id} has no request that is {named}")
        return JobSpec(
            messages=tuple(job.messages[number] for number in numbers),
            batch=batch,
            limits=rerun.to_limits(job.limits),
            start_at=rerun.start_at,
            name=rerun.to_name(job.name),
            labels=rerun.to_labels(job.labels),
            key=rerun.key,
            fingerprint=rerun.fingerprint(job.id),
            dry_run=bool(rerun.dry_run),
        )

    async def _saved(self) -> None:
        """Wait until all that has happened so far is on disk.

        :raises StoreUnavailable: when the attempt failed; what happened is saved as soon as the store can write.
        """
        self._work.set()
        await asyncio.shield(self._batch.saved)

    async def _changed(self) -> None:
        """Wait until a change that a caller made is on disk.

        :raises StoreUnavailable: when the attempt failed. The change is made and is saved as soon as the store can
            write; only a kill before that undoes it. Whoever asks while it is known that the store can't write is
            refused before anything changes.
        """
        try:
            await self._saved()
        except StoreUnavailable as error:
            raise StoreUnavailable(f"{error.reason}; this change is made, and saved as soon as it can") from error

    async def _when_saved(self, rendered: _T) -> _T:
        """Hand out what was read when it is on disk; while the store can't write, at once."""
        if not self.unavailable and (self._committing or self._batch.filled):
            with contextlib.suppress(StoreUnavailable):
                await self._saved()
        return rendered

    def _job_view(self, job: Job) -> View:
        return views.job_view(job.id, job_to_document(job))

    async def _job_with_requests(self, job: Job, wanted: queries.JobQuery) -> View:
        view = self._job_view(job)
        if wanted.collection is False and wanted.status is None and wanted.destination is None:
            ids = job.request_ids[wanted.offset :]
            return {**view, "requests": list(ids[: wanted.limit] if "limit" in wanted.model_fields_set else ids)}
        found = await self._matching(job.request_ids, wanted, wanted.status, wanted.destination)
        if wanted.collection is False:
            return {**view, "requests": found}
        page = await self._request_views(found)
        if wanted.collection:
            return {**view, "requests": [request["id"] for request in page], "collection": page}
        return {**view, "requests": page}

    async def _matching(
        self,
        ids: Iterable[int],
        page: queries.Page,
        statuses: list[RequestStatus] | None,
        destinations: queries.DestinationFilter | None,
    ) -> list[int]:
        """The ids of a page of those requests that are meant."""
        end = page.offset + page.limit
        if page.limit == 0 or (statuses is None and destinations is None):
            return list(islice(ids, page.offset, end))
        wanted = None if statuses is None else _names(statuses)
        found: list[int] = []

        def look(request_id: int, document: Document) -> bool:
            if (wanted is None or document["status"] in wanted) and (
                destinations is None or destinations.matches(document["destination"])
            ):
                found.append(request_id)
            return len(found) == end

        await self._look_through(ids, look)
        return found[page.offset :]

    async def _look_through(self, ids: Iterable[int], look: Callable[[int, Document], bool | None]) -> None:
        """Show requests to ``look`` until it has seen enough, with turns for the loop in between."""
        rest = iter(ids)
        while chunk := list(islice(rest, SCAN_CHUNK)):
            if any(look(request_id, document) for request_id, document in self._store.scan(REQUESTS, chunk)):
                return
            await asyncio.sleep(0)

    async def _request_views(self, ids: Iterable[int]) -> list[View]:
        return await gather(
            views.request_view(request_id, document, self._engine.jobs[document["job"]])
            for request_id, document in self._store.scan(REQUESTS, ids)
            if document["job"] in self._engine.jobs
        )

    def _request_view(self, request_id: int) -> View:
        document = self._store.get(REQUESTS, request_id)
        job = self._engine.jobs.get(document["job"]) if document else None
        if document is None or job is None:
            raise RequestNotFound(request_id)
        return views.request_view(request_id, document, job)

    # Inside: the cycle

    async def _run(self) -> None:
        unsaved: list[_Batch] = []
        while not (self._closing and not self._batch.filled and not unsaved and not self._work.is_set()):
            await self._wait_for_work()
            self._advance()
            for _ in self._staging():
                await asyncio.sleep(0)  # nothing is committed meanwhile: it becomes durable together
            if self._batch.filled:
                unsaved.append(self._take_batch())
            if not unsaved:
                _settle(self._take_batch())
                continue
            try:
                self._committing = True
                await self._store.commit()
            except StoreUnavailable as error:
                self._store_failed(unsaved, error.reason)
                await asyncio.sleep(STORE_RETRY)
                self._work.set()
                continue
            finally:
                self._committing = False
            self._store_works()
            for batch in unsaved:
                self._carry_out(batch)
            unsaved.clear()

    async def _wait_for_work(self) -> None:
        wake = self._engine.next_wake()
        wake = self._next_retire if wake is None else min(wake, self._next_retire)
        delay = wake - self._now()
        if delay > 0 and not self._work.is_set():
            timer = asyncio.get_running_loop().call_later(delay, self._work.set)
            try:
                await self._work.wait()
            finally:
                timer.cancel()
        self._work.clear()

    def _advance(self) -> None:
        """Let the engine do what is due."""
        now = self._now()
        if now >= self._next_retire:
            self._next_retire = now + RETIRE_INTERVAL
            if self.memory is not None:
                self.memory.look(**self._amounts())
            for job in self._engine.retire(now):
                logger.info("job %d is removed: it ended long ago, or too many did since", job.id,
                            extra={"event": "job_expired", "job": job.id})
        due = self._engine.next_wake()
        if due is not None and due <= now:
            self._note_accepted()  # what ends now tells for good whether the broker had it
        self._engine.tick(now)

    def _take_batch(self) -> _Batch:
        batch, self._batch = self._batch, self._new_batch()
        return batch

    def _stage(self) -> None:
        """Bring the store's documents up to date with all that is known, and note what follows."""
        self._note_accepted()
        for _ in self._staging():
            pass

    def _staging(self) -> Iterator[None]:
        """The same with a stop after each slice. Whoever begins it while another one stands still does the rest of
        that first: what is read from the store is up to date, and changes are staged in their order."""
        while True:
            yield from self._unstaged
            effects = self._engine.drain()
            if not effects:
                return
            self._unstaged = self._steps(effects)

    def _steps(self, effects: Effects) -> Iterator[None]:
        batch, put = self._batch, self._store.put
        batch.filled = True
        rest = iter(effects.requests.values())
        for _ in range(len(effects.requests) // SLICE):
            self._put_requests(islice(rest, SLICE))
            yield
        self._put_requests(rest)
        documents = {job.id: job_to_document(job) for job in effects.jobs.values()}
        put(JOBS, documents)
        for job in effects.removed:
            self._store.remove(JOBS, [job.id])
            self._store.remove(MESSAGES, [job.id])
            for first in range(0, job.total_count, SLICE):
                if first:
                    yield
                self._store.remove(REQUESTS, job.request_ids[first : first + SLICE])
            batch.removed.append(job.request_ids)
        for job_id, (change, job) in effects.changes.items():
            if change is Change.CREATED:
                put(MESSAGES, {job_id: messages_to_document(job)})
            batch.changes.append((change, job_id, documents.get(job_id)))
        batch.sends += effects.sends
        batch.aborts += effects.aborts
        self._stage_next_id()

    def _put_requests(self, requests: Iterable[Request]) -> None:
        documents, unsaved = {}, self._engine.unsaved
        for request in requests:
            documents[request.id] = request_to_document(request)
            # The store has the answer, which is not kept twice, however large it is. What has changed again since its
            # slice was begun is put a second time, and must not be without its answer then.
            if request.result is not None and request.id not in unsaved:
                request.result = None
        self._store.put(REQUESTS, documents)

    def _stage_next_id(self) -> None:
        if self._engine.next_id != self._saved_next_id:
            # An id that was given away must not come back with the next start, even if its job is removed by then.
            self._saved_next_id = self._engine.next_id
            meta = self._store.get(META, META_ID) or {}
            self._store.put(META, {META_ID: {**meta, "nextId": self._engine.next_id}})

    def _carry_out(self, batch: _Batch) -> None:
        _settle(batch)
        for request, attempt in batch.sends:
            if request.is_out and request.attempt == attempt:
                self._outlet.send(request, attempt)
        for request in batch.aborts:
            self._outlet.abort(request)
        for request_ids in batch.removed:
            for forget in self.on_removed:
                forget(request_ids)
        for change, job_id, document in batch.changes:
            self._tell(change, job_id, document)

    def _tell(self, change: Change, job_id: int, document: Document | None) -> None:
        self._outlet.tell(change, job_id, document)
        for listener in self._listeners:
            try:
                listener(change, job_id, document)
            except Exception:
                logger.exception("a listener failed at a change of job %d", job_id,
                                 extra={"event": "listener_failed", "job": job_id})

    def _store_failed(self, unsaved: list[_Batch], reason: str) -> None:
        if reason != self.unavailable:
            logger.error("the store can't write: %s; new jobs are refused until it can", reason,
                         extra={"event": "store_unavailable", "reason": reason})
        self.unavailable = reason
        self._engine.hold(True)
        for batch in unsaved:
            if not batch.saved.done():
                self._revoke_created(batch)
                batch.saved.set_exception(StoreUnavailable(reason))
                batch.saved.exception()  # it is no fault when nobody waits for it

    def _revoke_created(self, batch: _Batch) -> None:
        """Take back the jobs of callers who are told now that it failed; nobody else has heard of them."""
        created = {job_id for change, job_id, _ in batch.changes if change is Change.CREATED}
        for job_id in created & self._engine.jobs.keys():
            self._engine.revoke(job_id, self._now())
        batch.changes = [entry for entry in batch.changes if entry[1] not in created]

    def _store_works(self) -> None:
        if self.unavailable:
            logger.warning("the store can write again", extra={"event": "store_available"})
            self.unavailable = ""
            self._engine.hold(self._closing)
            self._work.set()

    def _new_batch(self) -> _Batch:
        return _Batch(saved=asyncio.get_running_loop().create_future())

    def _load_job(self, job_id: int, document: Document) -> Job:
        return job_from_document(job_id, document, self._store.get(MESSAGES, job_id) or {"messages": []})


def _without_result(request: Request) -> Request:
    """A request that the engine holds: its result lies in the store, and is read from there."""
    request.result = None
    return request


def _names(statuses: Iterable[RequestStatus]) -> frozenset[str]:
    return frozenset(status.value for status in statuses)


def _milliseconds(seconds: float) -> int:
    """A time as callers see it: they ask for what came since the last one that they saw."""
    return round(seconds * 1000)


def _settle(batch: _Batch) -> None:
    batch.durable.set()
    if not batch.saved.done():
        batch.saved.set_result(None)
