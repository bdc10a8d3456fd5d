"""The engine under random jobs, answers, times, callers and restarts: what must hold always, whatever happens.

The machine saves only what the effects tell it to, and restarts from that: a change that is not told is found out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from puppetmaster import documents
from puppetmaster.effects import Change, Verdict
from puppetmaster.engine import Engine
from puppetmaster.errors import Conflict, KeyConflict, RequestNotFound, TooLarge
from puppetmaster.models import Job, JobSpec, Limits, Message, Request
from puppetmaster.policies import AbortThreshold, Offline, Rate, Retention, RetryPolicy, Targets
from puppetmaster.states import REQUEST_FINAL, REQUEST_OUT, JobStatus, RequestStatus
from tests.test_engine import Disk

DESTINATIONS = ("a", "b", "c", "d", "localhost")
MAX_REQUESTS = 14
FINAL = {status.value for status in REQUEST_FINAL}
WAITS = (0.0, 0.0, 0.1, 1.0, 2.5, 10.0, 100.0)
CODES = (200, 200, 200, 204, 400, 403, 404, 408, 423, 429, 500, 503)

destinations = st.lists(st.sampled_from(DESTINATIONS), min_size=1, max_size=5)
batches = st.lists(destinations, min_size=1, max_size=3)
retries = st.builds(
    RetryPolicy,
    limit=st.integers(0, 2),
    delay=st.sampled_from([0.5, 3.0]),
    on=st.sampled_from([frozenset({423, 503}), frozenset({423, "timeout"}), frozenset({"timeout"})]),
)
rates = st.builds(Rate, per_minute=st.sampled_from([30.0, 120.0]), factor=st.sampled_from([1.0, 2.0]))
aborts = st.builds(AbortThreshold, error_percent=st.sampled_from([20.0, 60.0]), minimum=st.integers(1, 4))
limits = st.builds(
    Limits,
    timeout=st.none() | st.sampled_from([5.0, 60.0]),
    concurrency=st.none() | st.integers(1, 3),
    retry=retries,
    rate=st.none() | rates,
    abort=st.none() | aborts,
    priority=st.sampled_from([10, 50, 90]),
    offline=st.sampled_from([None, None, *Offline]),
)
named = st.lists(st.sampled_from(DESTINATIONS), max_size=2)
picks = st.integers(0, 1_000)


class Fleet:
    """Who there is, who is away, and who is reached beside the broker."""

    def __init__(self) -> None:
        self.offline: set[str] = set()
        self.beside: set[str] = set()

    def find(self, targets: Targets, draw: float) -> Sequence[str]:
        return [name for name in DESTINATIONS if name not in self.offline]

    def is_offline(self, destination: str) -> bool:
        return destination in self.offline

    def is_bounded(self, request: Request) -> bool:
        return request.destination not in self.beside


class EngineMachine(RuleBasedStateMachine):
    """Drives an engine as a service, a broker, devices and callers would, and worse."""

    @initialize(
        window=st.integers(1, 5),
        jobs_kept=st.integers(1, 5),
        jobs=st.lists(st.tuples(batches, limits, st.sampled_from([None, None, 40.0])), min_size=1, max_size=3),
    )
    def begin(self, window: int, jobs_kept: int, jobs: list[tuple[list[list[str]], Limits, float | None]]) -> None:
        """Make an engine, with something to do."""
        self.window = self.most_out = window
        self.retention = Retention(age=300.0, jobs=jobs_kept)
        self.now = 1_000.0
        self.link = True
        self.known = True
        self.held = False
        self.disk = Disk()
        self.fleet = Fleet()
        self.engine = self.make(1)
        self.published: list[tuple[int, int, str]] = []
        self.ended: dict[int, bytes] = {}
        self.removed: set[int] = set()
        for batch, wanted, start in jobs:
            self.submit(batch, wanted, start, None)
        self.tick(0.0)

    def make(self, seed: int) -> Engine:
        """A new engine."""
        return Engine(
            window=self.window,
            retention=self.retention,
            random=Random(seed),
            directory=self.fleet,
            max_requests=MAX_REQUESTS,
        )

    # Callers

    @rule(
        batch=st.lists(named, min_size=1, max_size=3),
        wanted=limits,
        start=st.sampled_from([None, 4.0, 40.0]),
        key=st.sampled_from([None, None, "x"]),
    )
    def submit_targeted(self, batch: list[list[str]], wanted: Limits, start: float | None, key: str | None) -> None:
        """Make a job for whoever is there when it starts."""
        self.submit(batch, wanted, start, key, Targets())

    @rule(
        batch=batches,
        wanted=limits,
        start=st.sampled_from([None, None, 0.0, 4.0, 40.0]),
        key=st.sampled_from([None, None, "x", "y"]),
    )
    def submit(
        self,
        batch: list[list[str]],
        wanted: Limits,
        start: float | None,
        key: str | None,
        targets: Targets | None = None,
    ) -> None:
        """Make a job, or name one that exists by its key."""
        messages = [Message(method="get", resource="/", timeout=float(2 + 5 * n)) for n in range(len(batch))]
        spec = JobSpec(
            messages=messages,
            batch=list(enumerate(batch)),
            limits=wanted,
            start_at=None if start is None else self.now + start,
            key=key,
            fingerprint=f"{batch} {targets}",
            targets=targets,
        )
        before = dict(self.engine.jobs)
        try:
            if self.engine.job_of_key(key, spec.fingerprint) is None:
                spec = self.engine.resolve(spec, self.now)
            job, created = self.engine.submit(spec, self.now)
        except KeyConflict as conflict:
            assert before[conflict.job_id].key == key
            assert self.engine.jobs == before
            return
        except (Conflict, TooLarge):
            assert targets is not None
            assert self.engine.jobs == before
            return
        assert created is (job.id not in before)
        assert targets is not None or job.total_count == sum(map(len, batch))
        if not created:
            assert (job.key, job.fingerprint) == (key, spec.fingerprint)
        elif job.plan is not None:
            assert job.total_count == 0
        self.settle()

    @precondition(lambda self: self.engine.jobs)
    @rule(pick=picks, acts=st.lists(st.sampled_from(["pause", "resume", "resume"]), min_size=1, max_size=3))
    def pause_and_resume(self, pick: int, acts: list[str]) -> None:
        """Callers pause and resume a job, back and forth."""
        job = self.job(pick)
        for act in acts:
            self.order(job, act)

    @precondition(lambda self: self.engine.jobs)
    @rule(pick=picks, act=st.sampled_from(["cancel", "remove"]))
    def end(self, pick: int, act: str) -> None:
        """A caller cancels a job or removes it."""
        job = self.job(pick)
        self.order(job, act)
        assert job.is_final
        assert act != "remove" or job.id not in self.engine.jobs

    def order(self, job: Job, act: str) -> None:
        """A caller orders something; what the job's status forbids must change nothing."""
        before = documents.job_to_document(job)
        try:
            self.engine.pause(job.id) if act == "pause" else getattr(self.engine, act)(job.id, self.now)
        except Conflict:
            assert job.is_final
            assert documents.job_to_document(job) == before
        self.settle()

    @precondition(lambda self: self.engine.jobs)
    @rule(pick=picks, wanted=limits)
    def limit(self, pick: int, wanted: Limits) -> None:
        """A caller changes a job's limits."""
        job = self.job(pick)
        try:
            self.engine.limit(job.id, wanted, self.now)
        except Conflict:
            assert job.is_final
        else:
            assert job.limits == wanted
        self.settle()

    @precondition(lambda self: self.engine.jobs)
    @rule(pick=picks, number=picks)
    def cancel_request(self, pick: int, number: int) -> None:
        """A caller cancels one request, also one that has ended."""
        job = self.job(pick)
        request_id = job.first_request + number % max(job.total_count, 1)
        request = self.engine.requests.get(request_id)
        before = documents.request_to_document(request) if request else None
        try:
            assert self.engine.cancel_request(request_id, self.now).status is RequestStatus.CANCELED
        except RequestNotFound:
            assert job.is_final or not job.total_count
        except Conflict:
            assert request is not None
            assert documents.request_to_document(request) == before
        self.settle()

    # The bus

    @precondition(lambda self: self.published)
    @rule(pick=picks)
    def accept(self, pick: int) -> None:
        """The broker acknowledges something, perhaps of long ago."""
        request_id, attempt, _ = self.one_published(pick)
        self.engine.accepted(request_id, attempt, self.now)
        self.settle()

    @precondition(lambda self: self.engine.out_count)
    @rule(
        steps=st.lists(
            st.tuples(st.integers(0, 2), st.sampled_from((*CODES, 102, 102, 0, 1))), min_size=1, max_size=8
        ),
        seconds=st.sampled_from(WAITS),
    )
    def work(self, steps: list[tuple[int, int]], seconds: float) -> None:
        """The broker and the devices do their part: 0 is silence, 1 a mere acknowledgement."""
        for which, code in steps:
            out = list(self.engine._window.out.values())
            if not out:
                break
            request = out[which % len(out)]
            if code:
                self.engine.accepted(request.id, request.attempt, self.now)
            if code > 1:
                self.say(request.destination, request.id, code, {"progress": 40})
            self.tick(0.0)
        self.tick(seconds)

    @precondition(lambda self: self.engine.requests)
    @rule(pick=picks, code=st.sampled_from((*CODES, 102)))
    def answer_what_may_not_have_been_sent(self, pick: int, code: int) -> None:
        """A device answers what it can't know of, or knows of from before a restart."""
        requests = list(self.engine.requests.values())
        request = requests[pick % len(requests)]
        self.say(request.destination, request.id, code, None)

    @precondition(lambda self: self.published)
    @rule(pick=picks, code=st.sampled_from(CODES), text=st.sampled_from(["", "'id' was used."]))
    def answer(self, pick: int, code: int, text: str) -> None:
        """A device answers what it got, perhaps long ago, perhaps again."""
        request_id, _, destination = self.one_published(pick)
        self.say(destination, request_id, code, {"message": text})

    @precondition(lambda self: self.published)
    @rule(pick=picks, progress=st.integers(-10, 200) | st.none() | st.text(max_size=1))
    def report(self, pick: int, progress: object) -> None:
        """A device reports progress."""
        request_id, _, destination = self.one_published(pick)
        self.say(destination, request_id, 102, {"progress": progress})

    @rule(destination=st.sampled_from(DESTINATIONS), offset=st.integers(-3, 40), code=st.sampled_from((*CODES, 102)))
    def answer_something_else(self, destination: str, offset: int, code: int) -> None:
        """Somebody answers with an id out of thin air."""
        request_id = 1_000_000 + offset
        request = self.engine.requests.get(request_id)
        verdict = self.say(destination, request_id, code, None)
        if request is None or request.destination != destination:
            assert verdict is not Verdict.APPLIED

    @rule(destination=st.sampled_from(DESTINATIONS))
    def answer_too_much(self, destination: str) -> None:
        """A device answers with more than can be taken."""
        busy = self.engine._window.busy.get(destination)
        self.engine.refuse_answer(destination, busy.id if busy else 1, "it is too large", self.now)
        self.settle()

    @rule(up=st.booleans(), resend=st.booleans())
    def link_changes(self, up: bool, resend: bool) -> None:
        """The broker comes or goes, perhaps without our session."""
        self.link = up
        self.engine.link(up)
        if up and resend:
            self.engine.resend(self.fleet.is_bounded)
        self.settle()

    @rule(held=st.booleans())
    def store_changes(self, held: bool) -> None:
        """The store can't write, or can again."""
        self.held = held
        self.engine.hold(held)
        self.settle()

    # Devices

    @rule(destination=st.sampled_from(DESTINATIONS), said=st.sampled_from(["online", "offline", "nothing"]))
    def device_says(self, destination: str, said: str) -> None:
        """A device comes or goes, or what it said is forgotten."""
        if said == "offline":
            self.fleet.offline.add(destination)
        else:
            self.fleet.offline.discard(destination)
        if said == "online":
            self.engine.present(destination, self.now)
        self.settle()

    @rule(known=st.booleans())
    def know(self, known: bool) -> None:
        """The connection on which devices speak comes or goes."""
        self.known = known
        self.engine.know_who_is_away(known)
        self.settle()

    @rule(destination=st.sampled_from(DESTINATIONS), beside=st.booleans())
    def way_changes(self, destination: str, beside: bool) -> None:
        """A destination gets another channel, whatever is out to it or waits for it."""
        if beside:
            self.fleet.beside.add(destination)
        else:
            self.fleet.beside.discard(destination)
        self.engine.resend(lambda request: request.destination == destination)
        self.settle()

    # Time

    @rule(seconds=st.sampled_from(WAITS))
    def tick(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds
        self.engine.tick(self.now)
        self.settle()
        self.nothing_waits_without_a_reason()

    @rule()
    def retire(self) -> None:
        """The service looks for jobs that are too old."""
        for job in self.engine.retire(self.now):
            assert job.is_final
        self.settle()

    @rule(down=st.sampled_from([0.0, 3.0, 100.0]))
    def restart(self, down: float) -> None:
        """The bundle is killed, and comes back after a while."""
        next_id = self.engine.next_id
        self.now += down
        self.held = False
        self.engine = self.make(2)
        self.disk.restore(self.engine, next_id, self.now)
        self.engine.link(self.link)
        self.engine.know_who_is_away(self.known)
        # What was out beside the broker may go over it now.
        self.most_out = max(self.window, self.engine._window.used)
        self.settle()

    # What the service does

    def settle(self) -> None:
        """Save what the effects say, and publish what is still wanted."""
        effects = self.engine.drain()
        self.disk.save(effects)
        self.removed |= {job.id for job in effects.removed}
        for job_id, (change, job) in effects.changes.items():
            assert (change is Change.REMOVED) is (job_id not in self.engine.jobs)
            assert change is Change.REMOVED or job_id in effects.jobs
            assert job.reason
        for request, attempt in effects.sends:
            if request.is_out and request.attempt == attempt:
                self.publish(request)

    def publish(self, request: Request) -> None:
        """Look at a request on its way out."""
        job = request.job
        assert not request.is_final
        is_new = (request.id, request.attempt, request.destination) not in self.published
        if is_new and request.status is RequestStatus.CREATED:
            assert not self.held
            assert self.link or not request.is_bounded
            if job.limits.offline is not None:
                assert request.destination not in self.fleet.offline
                assert self.known or not request.is_bounded
        assert self.engine.requests[request.id] is request
        earlier = [self.engine.requests[request_id] for request_id in range(job.first_request, request.id)]
        assert all(other.is_final for other in earlier if other.destination == request.destination)
        self.published.append((request.id, request.attempt, request.destination))

    def say(self, destination: str, request_id: int, code: int, data: object) -> Verdict:
        """Answer, and see that only what is applied changes anything."""
        request = self.engine.requests.get(request_id)
        before = documents.request_to_document(request) if request else None
        verdict = self.engine.answer(destination, request_id, code, data, self.now)
        if verdict is Verdict.APPLIED:
            assert request is not None
            assert request.destination == destination
            assert request.job.started_at is not None
        else:
            assert not self.engine.drain()
            assert (documents.request_to_document(request) if request else None) == before
        self.settle()
        return verdict

    def job(self, pick: int) -> Job:
        """One of the jobs."""
        jobs = list(self.engine.jobs.values())
        return jobs[pick % len(jobs)]

    def one_published(self, pick: int) -> tuple[int, int, str]:
        """Something that was sent, the last ones first."""
        return self.published[-1 - pick % len(self.published)]

    # What must hold

    def nothing_waits_without_a_reason(self) -> None:
        """After a tick, whatever could be sent has been sent."""
        engine = self.engine
        assert not engine._window.absent
        if self.held:
            return
        closed = not self.link or engine._window.used >= self.window
        absent = {request.id for waiting in engine._absent.values() for request in waiting}
        undecided = {request.id for request in engine._undecided}
        # What waits for a destination that something is out to over the broker waits on, if it has another way by now.
        parked = {request.id for waiting in engine._window._parked.values() for request in waiting}
        for request in engine.requests.values():
            job = request.job
            if job.status is not JobStatus.DISPATCHING or request.status is not RequestStatus.CREATED:
                continue
            held_back = (
                request.is_out
                or not request.is_head
                or (request.destination in engine._window.busy and request.id in parked)
                or (closed and request.is_bounded)
                or request.id in absent
                or (request.id in undecided and not self.known)
                or request.retry_at > self.now
                or (job.limits.concurrency is not None and job.out_count >= job.limits.concurrency)
                or (job.limits.rate is not None and job.next_send_at > self.now)
            )
            assert held_back, f"{request.id} could have been sent"

    @invariant()
    def counters_are_those_of_a_recount(self) -> None:
        """Counts, progress and statuses agree with the requests, in memory and on the disk."""
        for job in self.engine.jobs.values():
            found = dict.fromkeys(RequestStatus, 0)
            progress = 0
            for request_id in job.request_ids:
                document = self.disk.request(request_id)
                found[RequestStatus(document["status"])] += 1
                progress += document.get("progress", 0)
            assert job.counts == found
            assert sum(found.values()) == job.total_count
            assert job.total_count == 0 or job.progress == progress // job.total_count
            assert job.plan is None or job.total_count == 0
            ended = job.is_final if job.total_count == 0 else job.done_count == job.total_count
            assert job.total_count or job.is_final or job.plan is not None
            assert 0 <= job.progress <= 100
            assert job.is_final is ended is (job.progress == 100) is (job.finished_at is not None)
            assert (job.started_at is None) or job.status is not JobStatus.PENDING

    @invariant()
    def the_disk_has_what_the_engine_knows(self) -> None:
        """Every change of a job or a request was among the effects."""
        engine = self.engine
        assert set(self.disk.jobs) == set(self.disk.messages) == set(engine.jobs)
        for job in engine.jobs.values():
            assert self.disk.job(job.id) == documents.job_to_document(job)
        kept = {request_id for job in engine.jobs.values() for request_id in job.request_ids}
        assert set(self.disk.requests) == kept
        live = {request_id for job in engine.jobs.values() if not job.is_final for request_id in job.request_ids}
        assert set(engine.requests) == live
        for request in engine.requests.values():
            stored, known = self.disk.request(request.id), documents.request_to_document(request)
            if request.status is RequestStatus.CREATED:
                # The end of a wait is not saved by itself.
                stored.pop("retryAt", None)
                known.pop("retryAt", None)
            assert stored == known

    @invariant()
    def what_has_ended_never_changes(self) -> None:
        """A final status, its code, its result and its time stay as they are."""
        for request_id, body in self.disk.requests.items():
            if self.disk.request(request_id)["status"] in FINAL:
                assert self.ended.setdefault(request_id, body) == body
            else:
                assert request_id not in self.ended
        for job_id, body in self.disk.jobs.items():
            if self.engine.jobs[job_id].is_final:
                assert self.ended.setdefault(job_id, body) == body
            else:
                assert job_id not in self.ended
        assert not self.removed & set(self.engine.jobs)

    @invariant()
    def the_window_and_the_destinations_are_kept(self) -> None:
        """At most the window is out, one for each destination, and the books say the same."""
        engine = self.engine
        out = [request for request in engine.requests.values() if request.is_out]
        assert len(out) == engine.out_count
        assert {request.id: request for request in out} == engine._window.out
        bounded, alone = [sum(getattr(one, what) for one in out) for what in ("is_bounded", "is_alone")]
        assert bounded == engine._window.used <= self.most_out
        assert {one.destination: one for one in out if one.is_alone} == engine._window.busy
        assert alone == len(engine._window.busy)
        for request in engine.requests.values():
            assert request.is_out or request.status not in REQUEST_OUT
            assert not (request.is_out and request.is_final)
            assert request.progress == 0 or request.status is not RequestStatus.CREATED
        for job in engine.jobs.values():
            assert job.out_count == sum(request.job is job for request in out)

    @invariant()
    def the_scheduler_keeps_its_books(self) -> None:
        """A job stands in a ring exactly when it is runnable; one head for each chain; nothing waits twice."""
        engine = self.engine
        rings = [
            (kind, priority, line)
            for kind, rings in enumerate(engine._window._rings)
            for priority, ring in rings.items()
            for line in ring
        ]
        lines = {id(line) for job in engine.jobs.values() for line in job.lines if line.runnable}
        assert len({id(line) for _, _, line in rings}) == len(rings)
        assert {id(line) for _, _, line in rings} == lines
        for kind, priority, line in rings:
            assert line is line.job.lines[kind]
            assert priority == line.job.limits.priority
        parked = [request.id for waiting in engine._window._parked.values() for request in waiting]
        parked += [request.id for waiting in engine._absent.values() for request in waiting if not request.is_final]
        parked += [request.id for request in engine._undecided if not request.is_final]
        for job in engine.jobs.values():
            if job.is_final:
                assert not any(line.ready for line in job.lines)
                continue
            assert all(one.is_bounded is bool(kind) for kind, line in enumerate(job.lines) for one in line.ready)
            waiting = [request.id for line in job.lines for request in line.ready]
            waiting += [request_id for request_id in parked if request_id in job.request_ids]
            assert len(set(waiting)) == len(waiting)
            if job.status is JobStatus.DISPATCHING and job.limits.rate is None:
                full = job.limits.concurrency is not None and job.out_count >= job.limits.concurrency
                assert all(line.runnable or not line.ready or full for line in job.lines)
            heads: set[str] = set()
            for request_id in job.request_ids:
                request = engine.requests[request_id]
                if not request.is_final:
                    assert request.is_head is (request.destination not in heads)
                    heads.add(request.destination)

    @invariant()
    def no_destination_is_waited_for_while_nobody_has_the_turn_at_it(self) -> None:
        """Where something waits and nothing is out, a job that has its turn was offered the destination."""
        window = self.engine._window
        turns = {job.id for job in self.engine.jobs.values() if any(line.runnable for line in job.lines)}
        offered = {destination for job_id in turns for destination in window._offers.get(job_id, ())}
        for destination, waiting in window._parked.items():
            assert destination in window.busy or destination in offered or all(one.is_final for one in waiting)

    def teardown(self) -> None:
        """When all devices answer, every job ends, and the engine alone tells when to wake it."""
        if not hasattr(self, "engine"):
            return
        engine = self.engine
        self.link, self.known, self.held = True, True, False
        engine.link(True)
        engine.hold(False)
        engine.know_who_is_away(True)
        for destination in DESTINATIONS:
            self.device_says(destination, "online")
        for job in list(engine.jobs.values()):
            if not job.is_final:
                engine.resume(job.id, self.now)
        for _ in range(2_000):
            engine.tick(self.now)
            self.settle()
            if all(job.is_final for job in engine.jobs.values()):
                break
            for request in list(engine._window.out.values()):
                self.say(request.destination, request.id, 200, None)
            wake = engine.next_wake()
            assert wake is not None or not engine.requests or engine.out_count == 0
            if wake is not None:
                self.now = max(self.now, wake)
        assert all(job.is_final for job in engine.jobs.values())
        assert (engine.requests, engine._window.out, engine._window.busy, engine._window._parked) == ({}, {}, {}, {})
        assert engine._window._offers == {}
        assert (engine._window.used, engine._absent, engine._undecided, engine._returning) == (0, {}, [], {})
        self.counters_are_those_of_a_recount()
        self.the_disk_has_what_the_engine_knows()
        self.what_has_ended_never_changes()


TestEngine = EngineMachine.TestCase
TestEngine.settings = settings(
    max_examples=120,
    stateful_step_count=40,
    derandomize=True,
    database=None,
    report_multiple_bugs=False,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


# The same machine with dice: no shrinking, but lives that are longer and busier than Hypothesis makes them.


class Dice:
    """Draws what the rules want."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)

    def limits(self) -> Limits:
        """Limits, mostly none."""
        pick, rare = self.random.choice, lambda thing: thing if self.random.random() < 0.2 else None
        return Limits(
            timeout=rare(pick([5.0, 60.0])),
            concurrency=rare(self.random.randint(1, 3)),
            retry=RetryPolicy(
                limit=self.random.randint(0, 2),
                delay=pick([0.5, 3.0]),
                on=pick([frozenset({423, 503}), frozenset({423, "timeout"}), frozenset({"timeout"})]),
            ),
            rate=rare(Rate(per_minute=pick([30.0, 120.0]), factor=pick([1.0, 2.0]))),
            abort=rare(AbortThreshold(error_percent=pick([20.0, 60.0]), minimum=self.random.randint(1, 4))),
            priority=pick([10, 50, 90]),
            offline=pick([None, None, None, *Offline]),
        )

    def batch(self) -> list[list[str]]:
        """Destinations of one to three messages."""
        dice = self.random.randint
        return [self.random.choices(DESTINATIONS, k=dice(1, 4)) for _ in range(dice(1, 3))]

    def steps(self) -> list[tuple[int, int]]:
        """What devices do."""
        codes = (*CODES, 102, 102, 0, 1)
        return [(self.random.randint(0, 2), self.random.choice(codes)) for _ in range(self.random.randint(1, 4))]

    def turn(self, life: EngineMachine) -> None:
        """Let one thing happen."""
        pick, number = self.random.choice, self.random.randrange(1_000)
        rules: list[tuple[int, Callable[[], None]]] = [
            (6, lambda: life.submit(self.batch(), self.limits(), pick([None, None, 0.0, 4.0, 40.0]), None)),
            (1, lambda: life.submit(self.batch(), self.limits(), None, pick(["x", "y"]))),
            (8, lambda: life.tick(pick(WAITS[:-1]))),
            (2, life.retire),
            (2, lambda: life.restart(pick([0.0, 3.0]))),
            (1, lambda: life.link_changes(pick([True, True, False]), pick([True, False]))),
            (1, lambda: life.store_changes(pick([True, False, False, False]))),
            (4, lambda: life.device_says(pick(DESTINATIONS), pick(["online", "online", "offline", "nothing"]))),
            (1, lambda: life.know(pick([True, True, False]))),
            (1, lambda: life.way_changes(pick(DESTINATIONS), pick([True, False]))),
            (2, lambda: life.submit_targeted([[], []], self.limits(), pick([None, 4.0, 40.0]), pick([None, "x"]))),
            (1, lambda: life.answer_too_much(pick(DESTINATIONS))),
            (1, lambda: life.answer_something_else(pick(DESTINATIONS), number % 40, pick(CODES))),
        ]
        if life.engine.jobs:
            acts = self.random.choices(["pause", "resume"], k=self.random.randint(1, 3))
            rules += [
                (5, lambda: life.pause_and_resume(number, acts)),
                (1, lambda: life.end(number, pick(["cancel", "remove"]))),
                (3, lambda: life.limit(number, self.limits())),
                (3, lambda: life.cancel_request(number, self.random.randrange(20))),
            ]
        if life.engine.out_count:
            rules.append((25, lambda: life.work(self.steps(), pick(WAITS[:-1]))))
        if life.engine.requests:
            rules.append((2, lambda: life.answer_what_may_not_have_been_sent(number, pick(CODES))))
        if life.published:
            recent = number % 5
            rules += [
                (3, lambda: life.answer(recent, pick(CODES), pick(["", "'id' was used."]))),
                (2, lambda: life.report(recent, number % 150)),
                (2, lambda: life.accept(recent)),
            ]
        [happens] = self.random.choices([act for _, act in rules], [weight for weight, _ in rules])
        happens()


@pytest.mark.parametrize("seed", range(50))
def test_the_same_holds_over_a_long_and_busy_life(seed: int) -> None:
    dice = Dice(seed)
    life = EngineMachine()
    jobs = [(dice.batch(), dice.limits(), dice.random.choice([None, 40.0])) for _ in range(3)]
    life.begin(window=dice.random.randint(1, 5), jobs_kept=dice.random.randint(1, 5), jobs=jobs)
    for _ in range(150):
        dice.turn(life)
        life.counters_are_those_of_a_recount()
        life.the_disk_has_what_the_engine_knows()
        life.what_has_ended_never_changes()
        life.the_window_and_the_destinations_are_kept()
        life.the_scheduler_keeps_its_books()
        life.no_destination_is_waited_for_while_nobody_has_the_turn_at_it()
    life.teardown()
