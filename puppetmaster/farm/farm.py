"""The farm: a channel whose requests are chunks of tasks, done by workers that ask for them.

The engine's requests to the farm are on offer here until a worker asks; it gets the one of the highest priority, and of
those the oldest. What is given is on disk before the worker hears of it, so a kill loses no assignment: a worker that
goes on reporting is not cut off by a restart.

- A worker that is silent for ``patience`` seconds loses its chunk to another. So does one that is disabled, registers
  anew, or gives up.
- A chunk that failed is not given to that worker again while there is another one. At the third failure it has failed.
- A chunk that came to no end ten times is taken for one that ends its workers: it has failed too.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable
from itertools import islice
from typing import Any, Protocol

import orjson

from puppetmaster.channels.port import Post
from puppetmaster.errors import Conflict, Forbidden, PuppetmasterError, StoreUnavailable
from puppetmaster.farm.documents import MAX_ACTIVITY, Identity, Registration, TaskChange, Word, WorkerChange, clean
from puppetmaster.farm.offers import Offer, Offers
from puppetmaster.farm.plugins import Plugins
from puppetmaster.farm.work import MAX_LOG, WORK, Given, Work, from_document, is_farm_destination, to_document
from puppetmaster.farm.workers import DEFAULT_PORT, Worker, Workers, whole
from puppetmaster.models import Request
from puppetmaster.states import JobStatus
from puppetmaster.store.port import Store
from puppetmaster.wire import Answer

logger = logging.getLogger(__name__)

PATIENCE = 60.0
"""Seconds without a call of a worker until its chunk goes to another."""

MAX_FAILURES = 3

MAX_LOSSES = 10
"""A chunk that was begun so often and came to no end may be what ends its workers (out of memory)."""

AGAIN, RESOLVED, FAILED, REFUSED, AT_WORK = 503, 200, 500, 400, 102
"""Codes of our answers: AGAIN is the transient one, after which the engine sends the chunk once more."""

RETRY = {"limit": 1000, "delay": 0.05, "factor": 1, "maxDelay": 0.05, "jitter": 0, "on": [AGAIN]}
"""The retry of a task's job: who may try again is decided here."""

MAX_SHOWN_LOG = 2048
"""Characters of what a worker sent last that are shown with it: all workers are in one list."""

MAX_GONE = 10_000
"""Chunks of removed tasks whose workers are told so."""


class FarmPost(Post, Protocol):
    """What the farm tells and asks: the service."""

    unavailable: str
    """Why nothing can be stored; empty while it can."""

    def out(self) -> list[Request]:
        """The requests that are out."""
        ...


class Farm:
    """The workers, and what they do. All of it is for the loop.

    :param now: the time, in seconds since 1970.
    :param patience: seconds without a call of a worker until its chunk goes to another.
    """

    def __init__(
        self, *, store: Store, now: Callable[[], float], plugins: Plugins, patience: float = PATIENCE
    ) -> None:
        self.workers = Workers(store)
        self.patience = patience
        self._store = store
        self._now = now
        self._plugins = plugins
        self.offers = Offers()
        """The chunks that nobody has."""
        self.offered: Callable[[Request], None] = lambda request: None
        """Is told of every chunk that is on offer."""
        self._post: FarmPost | None = None
        self._work = {work_id: from_document(work_id, document) for work_id, document in store.scan(WORK)}
        self._of_task: dict[int, set[int]] = {}
        for work in self._work.values():
            self._of_task.setdefault(work.task, set()).add(work.id)
        self._gone: OrderedDict[int, None] = OrderedDict()
        self._loaded_at = now()
        self._tasks: set[asyncio.Task[None]] = set()
        self._watch: asyncio.Task[None] | None = None

    # Life

    def start(self, post: FarmPost) -> None:
        """Take over what is out, and look for silent workers from now on. The service has to be loaded.

        What nobody has is on offer again when the engine has sent it once more.
        """
        self._post = post
        for request in filter(self.serves, post.out()):
            if request.id in self._work:
                self._work[request.id].request = request
        for work in self._work.values():
            if work.is_held and work.request is None:
                self._take_away(work, f"task {work.id} ended while the manager was not there to hear of it")
        post.resend(self.serves)
        self._watch = asyncio.create_task(self._watch_workers(), name="farm-watch")

    async def close(self) -> None:
        """Stop looking."""
        running = [task for task in (self._watch, *self._tasks) if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    # The channel

    def serves(self, request: Request) -> bool:
        """Whether a request is for the farm."""
        return is_farm_destination(request.destination)

    def send(self, request: Request, attempt: int) -> None:
        """Put a chunk on offer, unless a worker has this very attempt."""
        work = self._work.get(request.id)
        if work is not None:
            work.request = request
            if work.is_held and work.attempt == attempt:
                self._told_accepted(work)
                return
        try:
            given = Given.read(request.message.data)
        except ValueError as error:
            self._answer_later(request.destination, request.id, REFUSED, {"message": str(error)})
            return
        self.offered(request)
        self.offers.put(Offer(request, attempt, given))

    def abort(self, request: Request) -> None:
        """Take a chunk back from whoever has it."""
        self.offers.withdraw(request)
        work = self._work.get(request.id)
        if work is not None and work.is_held:
            self._take_away(work, f"task {work.id} was called off: {request.reason}")

    # Workers

    def knows(self, registration: Registration) -> bool:
        """Whether this worker was here before."""
        return self.workers.named(clean(registration.hostname), _port(registration)) is not None

    async def register(self, registration: Registration, address: str) -> Worker:
        """A worker comes, or comes again: then it has lost what it was at, and another may have it."""
        hostname, port = clean(registration.hostname), _port(registration)
        worker = self.workers.register(hostname, port, clean(registration.system), address)
        self._heard(worker)
        work = self._work_of(worker)
        if work is not None:
            await self._lose(work, f"task {work.id} was taken away: {worker.hostname} registered again")
        self.workers.save(worker)
        await self._store.commit()
        return worker

    def identify(self, identity: Identity, address: str) -> Worker:
        """The worker that calls: by what it says, else by its address.

        :raises Forbidden: when it is nobody that is known.
        """
        if identity.worker_id is not None:
            worker = self.workers.find(identity.worker_id)
        elif identity.name is not None:
            worker = self.workers.named(identity.name, identity.port) or self.workers.find(identity.maybe_id)
        else:
            worker = self.workers.at(address)
        if worker is None:
            who = identity.worker_id or identity.name or address
            raise Forbidden(f"the worker {who!s:.80} is not registered: POST /workers with its hostname and system")
        return worker

    async def change_worker(self, worker: Worker, change: WorkerChange) -> int | None:
        """A worker tells of itself, or somebody enables or disables it; returns the chunk that it has."""
        if not change.is_order:
            self._heard(worker)
        _note(worker, change.activity, change.log, change.time_cost)
        if change.mac_address is not None:
            worker.mac_address = change.mac_address
        if change.system is not None:
            worker.system = clean(change.system)
        if change.update_frequent is not None:
            worker.frequent = change.update_frequent.model_dump(by_alias=True)
        if change.update_less_frequent is not None:
            seldom = change.update_less_frequent
            worker.seldom = {**seldom.model_dump(), "worker_architecture": clean(seldom.worker_architecture) or None}
        if change.status == "enabled":
            worker.is_enabled = True
        elif change.status == "disabled" and worker.is_enabled:
            worker.is_enabled = False
            work = self._work_of(worker)
            if work is not None:
                await self._lose(work, f"task {work.id} was taken away: the worker {worker.hostname} was disabled")
        self.workers.save(worker)
        await self._store.commit()
        return worker.work

    async def remove_worker(self, worker: Worker) -> None:
        """Forget a worker that is away.

        :raises Conflict: when it is there.
        """
        if self.is_online(worker) and worker.is_enabled:
            raise Conflict(f"the worker {worker.hostname} is there: end it, or disable it first")
        work = self._work_of(worker)
        if work is not None:
            await self._lose(work, f"task {work.id} was taken away: the worker {worker.hostname} was removed")
        self.workers.remove(worker)
        await self._store.commit()

    def is_online(self, worker: Worker) -> bool:
        """Whether a worker called not long ago."""
        return self._now() - worker.seen_at <= self.patience

    # What workers ask for and report

    async def give(self, worker: Worker) -> tuple[Work, Given, Request] | None:
        """The chunk that a worker is to do, which is its alone from now on; none when there is none for it.

        One that has a chunk gets it once more: the answer may have been lost.

        :raises Forbidden: when it is disabled.
        :raises StoreUnavailable: when that can't be stored: it has nothing then.
        """
        self._heard(worker)
        self._check_enabled(worker)
        self._check_store()
        work = self._work_of(worker)
        if work is None:
            offer = self._best_offer(worker)
            if offer is None:
                return None
            work = self._hand_over(offer, worker)
        await self._store.commit()
        if not (work.is_held and work.is_wanted and work.worker == worker.id) or work.request is None:
            return None  # it was called off meanwhile
        self._told_accepted(work)
        return work, Given.read(work.request.message.data), work.request

    async def report(self, worker: Worker, work_id: int, change: TaskChange) -> None:
        """A worker tells how far it is with a chunk, or how it ended; returns when that is on disk.

        :raises Forbidden: when the worker is to stop, and why: it is disabled, or the chunk is not its any more.
        :raises StoreUnavailable: when that can't be stored: it has to tell it again.
        """
        self._heard(worker)
        work = self._work.get(work_id)
        if work is not None and work.worker == worker.id and not work.is_held and self._ended(work, change):
            return  # the answer to the same report was lost
        self._check_enabled(worker)
        if work is None or work.worker != worker.id or not work.is_held:
            raise Forbidden(self._why_not(worker, work_id, work))
        if not work.is_wanted:
            why = f"task {work_id} was called off"
            self._take_away(work, f"{why}: {work.request.reason}" if work.request is not None else why)
            raise Forbidden(self._why_not(worker, work_id, work))
        self._check_store()
        _note(worker, change.activity, change.log, change.time_cost)
        await self._read_output(work, change)
        if not work.is_held or work.worker != worker.id:
            raise Forbidden(self._why_not(worker, work_id, work))
        if change.status in (None, Word.RUNNING):
            await self._progress(worker, work)
        elif change.status is Word.FINISHED:
            await self._finish(work, RESOLVED, self._outcome(worker, work, "finished"))
        elif change.status is Word.FAILED:
            await self._fail(worker, work, change.message)
        else:
            await self._lose(work, f"{worker.hostname} gave task {work_id} up")

    # What is known of tasks

    def has_work(self, work_id: int) -> bool:
        """Whether a worker ever had this chunk."""
        return work_id in self._work

    def work(self, work_id: int) -> Work | None:
        """A chunk that a worker has or had."""
        return self._work.get(work_id)

    def work_of_task(self, task_id: int) -> list[Work]:
        """The chunks of a task that workers have or had, in their order."""
        return [self._work[work_id] for work_id in sorted(self._of_task.get(task_id, ()))]

    def held_by(self, worker: Worker, task_id: int) -> Work | None:
        """The chunk of a task that a worker has."""
        work = self._work_of(worker)
        return work if work is not None and work.task == task_id else None

    def forget_task(self, task_id: int) -> None:
        """A task was removed: whoever is at a chunk of it is told so when it calls."""
        self.offers.forget(task_id)
        gone = self._of_task.pop(task_id, set())
        for work_id in gone:
            work = self._work.pop(work_id)
            self._release(work)
            self._gone[work_id] = None
        while len(self._gone) > MAX_GONE:
            self._gone.popitem(last=False)
        self._store.remove(WORK, gone)

    def keep_tasks(self, kept: Callable[[int], bool]) -> None:
        """Forget the tasks that were removed while we were not told."""
        for task_id in [task_id for task_id in self._of_task if not kept(task_id)]:
            self.forget_task(task_id)

    # Inside: giving

    def _best_offer(self, worker: Worker) -> Offer | None:
        """The first of the most urgent task that has one for this worker."""
        others = self._others(worker)
        for job, offers in self.offers:
            if job.status is not JobStatus.DISPATCHING:
                continue
            for offer in offers:
                request = offer.request
                if not request.is_out or request.attempt != offer.attempt:
                    self.offers.withdraw(request)
                elif self._may_have(worker, request.id, others):
                    return offer
        return None

    def _others(self, worker: Worker) -> list[int]:
        """Workers that could do what this one failed at; no more of them than may have failed as well."""
        found = (other for other in self.workers if other.is_enabled and other is not worker and self.is_online(other))
        return [other.id for other in islice(found, MAX_FAILURES)]

    def _may_have(self, worker: Worker, work_id: int, others: list[int]) -> bool:
        work = self._work.get(work_id)
        if work is None or worker.id not in work.failures:
            return True
        return all(other in work.failures for other in others)

    def _hand_over(self, offer: Offer, worker: Worker) -> Work:
        request = offer.request
        self.offers.withdraw(request)
        work = self._work.get(request.id)
        if work is None:
            work = Work(id=request.id, task=request.job.id, destination=request.destination)
            self._work[work.id] = work
            self._of_task.setdefault(work.task, set()).add(work.id)
        work.request, work.attempt = request, offer.attempt
        work.give(worker.id)
        given = offer.given
        work.parser = self._plugins.parser(given.parser, given.frame_start, given.frame_end)
        worker.work, worker.activity, worker.log, worker.time_cost = work.id, None, None, None
        self.workers.save(worker)
        self._save(work)
        return work

    def _told_accepted(self, work: Work) -> None:
        if self._post is not None and work.request is not None:
            self._post.accepted(work.request, work.attempt)

    # Inside: reports

    def _ended(self, work: Work, change: TaskChange) -> bool:
        """Whether a chunk has ended by its worker's own report of this kind."""
        return change.status is Word.FINISHED and work.request is not None and work.request.code == RESOLVED

    async def _read_output(self, work: Work, change: TaskChange) -> None:
        """Let the parser read what the worker sent, and keep the end of it."""
        text = change.output
        if change.output is not None:
            work.log = (work.log + change.output)[-MAX_LOG:]
        elif change.log is not None:
            work.log = change.log[-MAX_LOG:]
            text = change.log + "\n"  # the next one does not go on where it ends
        self._read_activity(work, change.activity)
        if text and work.parser is None and work.request is not None and not work.is_begun:
            # Its parser did not outlive a restart.
            given = Given.read(work.request.message.data)
            work.parser = self._plugins.parser(given.parser, given.frame_start, given.frame_end)
        if text and work.parser is not None:
            reading = await self._plugins.feed(work.parser, text)
            if reading is None:
                work.parser = None
            else:
                work.progress = max(work.progress, reading.progress or 0)
                work.files = tuple(clean(name, 4096) for name in reading.files) or work.files
                self._set_frame(work, reading.frame_current)
        if change.progress is not None:
            work.progress = min(99, int(change.progress))
        self._set_frame(work, change.frame_current)

    def _read_activity(self, work: Work, activity: str | None) -> None:
        """Old workers parse by themselves, and tell what they read as a JSON text."""
        if activity is None or not activity.startswith("{"):
            return
        try:
            told = orjson.loads(activity)
        except ValueError:
            return
        frame = told.get("current_frame")
        self._set_frame(work, frame if type(frame) is int and abs(frame) < 1 << 53 else None)

    def _set_frame(self, work: Work, frame: int | None) -> None:
        if frame is None or frame == work.frame_current:
            return
        work.frame_current = frame
        if work.request is not None and not work.progress:
            given = Given.read(work.request.message.data)
            count = given.frame_end - given.frame_start + 1
            if 0 <= frame - given.frame_start < count:
                work.progress = 100 * (frame - given.frame_start) // count
        self._save(work)

    async def _progress(self, worker: Worker, work: Work) -> None:
        self.workers.save(worker)
        request = work.request
        if work.is_begun and request is not None and request.progress == min(work.progress, 99):
            return
        work.is_begun = True
        data: dict[str, Any] = {"progress": work.progress, "worker": worker.hostname}
        if work.frame_current is not None:
            data["frame_current"] = work.frame_current
        await self._answer(work.destination, work.id, AT_WORK, data)

    async def _fail(self, worker: Worker, work: Work, message: str | None) -> None:
        work.failures.append(worker.id)
        outcome = self._outcome(worker, work, message or "failed")
        if len(work.failures) >= MAX_FAILURES:
            outcome["failures"] = self._names(work.failures)
            await self._finish(work, FAILED, outcome)
        else:
            logger.info("task %d failed on %s, %d of %d times", work.id, worker.hostname, len(work.failures),
                        MAX_FAILURES, extra={"event": "task_failed", "task": work.id, "worker": worker.hostname})
            await self._again(work, f"task {work.id} failed here", outcome)

    async def _lose(self, work: Work, why: str) -> None:
        """A chunk came to no end, and another worker may have it."""
        work.losses += 1
        logger.info("%s", why, extra={"event": "task_lost", "task": work.id})
        if work.losses >= MAX_LOSSES:
            await self._finish(work, FAILED, {"message": f"it was begun {MAX_LOSSES} times and came to no end: {why}"})
        else:
            await self._again(work, why, {"message": why})

    async def _again(self, work: Work, why: str, data: dict[str, Any]) -> None:
        # On disk before the engine hears of it: a kill in between leaves a chunk on offer, and what is known of it.
        self._take_away(work, why)
        try:
            await self._store.commit()
        except StoreUnavailable:
            self._resend(work.id)
            raise
        await self._answer(work.destination, work.id, AGAIN, data)

    async def _finish(self, work: Work, code: int, data: dict[str, Any]) -> None:
        # The other way round: after a kill in between, its worker tells it again, and nothing was lost.
        await self._answer(work.destination, work.id, code, data)
        work.end()
        self._release(work)
        self._save(work)
        await self._store.commit()

    def _outcome(self, worker: Worker, work: Work, message: str) -> dict[str, Any]:
        outcome = {
            "message": message,
            "worker": worker.hostname,
            "worker_id": worker.id,
            "time_cost": whole(worker.time_cost),
            "activity": worker.activity,
            "log": work.log,
        }
        return {**outcome, "files": list(work.files)} if work.files else outcome

    def _names(self, worker_ids: Iterable[int]) -> list[str]:
        found = (self.workers.find(worker_id) for worker_id in worker_ids)
        return [worker.hostname if worker is not None else "a worker that was removed" for worker in found]

    def _why_not(self, worker: Worker, work_id: int, work: Work | None) -> str:
        if work is not None:
            why = work.taken.get(str(worker.id))
            if why is None and work.worker == worker.id:
                why = f"task {work_id} has ended"
        else:
            why = f"task {work_id} was deleted" if work_id in self._gone else None
        return why or f"task {work_id} was not given to the worker {worker.hostname}"

    # Inside: who has what

    def _heard(self, worker: Worker) -> None:
        self.workers.heard(worker, self._now())

    def _check_enabled(self, worker: Worker) -> None:
        if not worker.is_enabled:
            raise Forbidden(f"the worker {worker.hostname} is disabled: it gets no tasks until somebody enables it")

    def _check_store(self) -> None:
        """See that the engine can store: an answer to it waits until it can, and so would whoever asks again."""
        if self._post is not None and self._post.unavailable:
            raise StoreUnavailable(self._post.unavailable)

    def _work_of(self, worker: Worker) -> Work | None:
        """What a worker has; what has ended since is taken off it."""
        work = None if worker.work is None else self._work.get(worker.work)
        if work is None or not work.is_held or work.worker != worker.id:
            worker.work = None
            return None
        if not work.is_wanted:
            self._take_away(work, f"task {work.id} was called off")
            return None
        return work

    def _take_away(self, work: Work, why: str) -> None:
        work.lose(why)
        self._release(work)
        self._save(work)

    def _release(self, work: Work) -> None:
        worker = self.workers.find(work.worker)
        if worker is not None and worker.work == work.id:
            worker.work = None
            self.workers.save(worker)

    def _save(self, work: Work) -> None:
        if work.id in self._work:
            self._store.put(WORK, {work.id: to_document(work)})

    # Inside: the engine

    def _resend(self, work_id: int) -> None:
        assert self._post is not None
        self._post.resend(lambda request: request.id == work_id)

    async def _answer(self, destination: str, request_id: int, code: int, data: dict[str, Any]) -> None:
        assert self._post is not None
        await self._post.answer(Answer(destination, request_id, code, data))

    def _answer_later(self, destination: str, request_id: int, code: int, data: dict[str, Any]) -> None:
        self._spawn(self._answer(destination, request_id, code, data))

    def _spawn(self, call: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(call, name="farm-answer")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Inside: silence

    async def _watch_workers(self) -> None:
        while True:
            await asyncio.sleep(min(self.patience / 4, 5.0))
            try:
                await self._look_for_silent()
            except PuppetmasterError as error:
                logger.error("silent workers keep their tasks for now: %s", error,
                             extra={"event": "worker_watch_failed"})
            except Exception:
                logger.exception("looking for silent workers failed", extra={"event": "worker_watch_failed"})

    async def _look_for_silent(self) -> None:
        now = self._now()
        for worker in self.workers:
            # Nobody could call while we were not there.
            silent = now - max(worker.seen_at, self._loaded_at)
            work = self._work_of(worker) if silent > self.patience else None
            if work is not None:
                logger.warning("the worker %s is silent, task %d goes to another", worker.hostname, work.id,
                               extra={"event": "worker_silent", "task": work.id, "worker": worker.hostname})
                await self._lose(
                    work, f"task {work.id} was taken away: nothing was heard of {worker.hostname} for {silent:.0f} s"
                )


def _port(registration: Registration) -> int:
    return DEFAULT_PORT if registration.port is None else registration.port


def _note(worker: Worker, activity: str | None, log: str | None, time_cost: float | None) -> None:
    """Keep what a worker told last."""
    if activity is not None:
        worker.activity = clean(activity, MAX_ACTIVITY)
    if log is not None:
        worker.log = log[-MAX_SHOWN_LOG:]
    if time_cost is not None:
        worker.time_cost = time_cost
