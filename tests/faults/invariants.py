"""What must hold after every run, whatever was broken in it: pure functions of the records, each returns violations."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

from tests.faults.records import FINAL_JOB, FINAL_REQUEST, Document, Records


def accepted_jobs_exist_and_end(records: Records) -> Iterator[str]:
    """Every job whose POST was answered exists, and has ended, and so have all of its requests."""
    jobs = {job["id"]: job for job in records.jobs}
    for posted in records.posted:
        for job_id in posted.ids:
            if job_id not in jobs:
                yield f"job {job_id} ({posted.name}) was accepted and does not exist"
            elif jobs[job_id]["name"] != posted.name:
                yield f"job {job_id} ({posted.name}) was accepted, and {jobs[job_id]['name']} has its id"
    for job in records.jobs:
        if job["status"] not in FINAL_JOB:
            yield f"job {job['id']} has not ended: it is {job['status']}"
        requests = records.requests.get(job["id"], [])
        if [request["id"] for request in requests] != list(range(job["id"] + 1, job["id"] + 1 + job["totalCount"])):
            yield f"job {job['id']} has {len(requests)} requests, not {job['totalCount']} with the ids after its own"
        for request in requests:
            if request["__request"]["status"] not in FINAL_REQUEST:
                yield f"request {request['id']} has not ended: it is {request['__request']['status']}"


def jobs_are_those_that_were_asked_for(records: Records) -> Iterator[str]:
    """A job has the destinations and the messages of its document, in the order of the batch."""
    documents = {posted.name: posted.document for posted in records.posted}
    for job in records.jobs:
        document = documents.get(job["name"])
        if document is None:
            continue
        asked = [(entry["resource"], name) for entry in document["batch"] for name in entry["__request"]["destination"]]
        made = [(made["resource"], made["__request"]["destination"]) for made in records.requests.get(job["id"], [])]
        if asked != made:
            yield f"job {job['id']} is not what was posted: {len(made)} requests, {len(asked)} were asked for"


def counters_add_up(records: Records) -> Iterator[str]:
    """The counters of a job are the numbers of its requests."""
    for job in records.jobs:
        counted = Counter(request["__request"]["status"] for request in records.requests.get(job["id"], []))
        counts = {status: count for status, count in job["counts"].items() if count}
        if counts != dict(counted):
            yield f"job {job['id']} counts {counts}, its requests are {dict(counted)}"
        ended = sum(counts.get(status, 0) for status in FINAL_REQUEST)
        told = (job["doneCount"], job["finishCount"], job["errorCount"])
        if told != (ended, counts.get("resolved", 0), ended - counts.get("resolved", 0)):
            yield f"job {job['id']}: doneCount, finishCount and errorCount are {told}, its counts {counts}"


def nothing_refused_exists(records: Records) -> Iterator[str]:
    """A document with a fault is answered 400, and no job came of it; there is no job that nobody asked for."""
    bad = {posted.name for posted in records.posted if posted.is_bad}
    names = {posted.name for posted in records.posted}
    for posted in records.posted:
        if posted.is_bad and posted.is_accepted:
            yield f"the bad document {posted.name} was accepted"
        if not posted.is_bad and 400 in posted.codes:
            yield f"the good document {posted.name} was answered 400"
    for job in records.jobs:
        if job["name"] in bad:
            yield f"job {job['id']} came of the refused document {job['name']}"
        elif job["name"] not in names:
            yield f"job {job['id']} ({job['name']}) was asked for by nobody"


def keyed_jobs_exist_once(records: Records) -> Iterator[str]:
    """However often a document with a key was sent, there is one job, and every answer named it."""
    made = Counter(job["name"] for job in records.jobs)
    for posted in records.posted:
        if "key" in posted.document and (made[posted.name] > 1 or len(posted.ids) > 1):
            yield f"key {posted.document['key']}: {made[posted.name]} jobs, answered with {sorted(posted.ids)}"
        if "key" not in posted.document and made[posted.name] > len(posted.codes):
            yield f"{posted.name} was posted {len(posted.codes)} times, and there are {made[posted.name]} jobs"


def resolved_was_done(records: Records) -> Iterator[str]:
    """A request that is resolved was done by its device, and one that failed failed there."""
    done = {(record["device"], record["id"]): record["outcome"] for record in records.work}
    for request in _requests(records):
        status, destination = request["__request"]["status"], request["__request"]["destination"]
        outcome = done.get((destination, request["id"]))
        if status == "resolved" and outcome != "resolved":
            yield f"request {request['id']} is resolved, and {destination} has {outcome or 'never done it'}"
        if status == "error" and request["__request"]["code"] == 500 and outcome != "error":
            yield f"request {request['id']} failed with 500, and at {destination} it is {outcome or 'not done'}"


def results_are_the_devices_own(records: Records) -> Iterator[str]:
    """The result of a resolved request is what its device answered, and no other's word; devices echo the data."""
    echoed = {(record["device"], record["id"]): record["data"] for record in records.work}
    for request in _requests(records):
        own = request["__request"]
        key = (own["destination"], request["id"])
        if own["status"] == "resolved" and key in echoed and (own["code"], own["result"]) != (200, echoed[key]):
            said = f"{key[0]} said {echoed[key]!r:.100}"
            yield f"request {request['id']} has {own['code']} {own['result']!r:.100}, {said}"


def done_once(records: Records) -> Iterator[str]:
    """No device did one id twice, or the work of another."""
    for (device, ident), count in Counter((record["device"], record["id"]) for record in records.work).items():
        if count > 1:
            yield f"{device} did request {ident} {count} times"
    destinations = {request["id"]: request["__request"]["destination"] for request in _requests(records)}
    for record in records.work:
        if destinations.get(record["id"], record["device"]) != record["device"]:
            yield f"{record['device']} did request {record['id']} of {destinations[record['id']]}"


def order_held(records: Records) -> Iterator[str]:
    """A device did the messages of a job in the order of its batch."""
    did: dict[tuple[str, int], list[int]] = defaultdict(list)
    job_of = {request["id"]: request["__request"]["job"] for request in _requests(records)}
    for record in records.work:
        if record["id"] in job_of:
            did[record["device"], job_of[record["id"]]].append(record["id"])
    for (device, job), ids in did.items():
        if ids != sorted(ids):
            yield f"{device} did the requests of job {job} in the order {ids}"


def answers_are_not_lost(records: Records) -> Iterator[str]:
    """Where nothing was called off, every request is answered, with what its device did."""
    patient = {posted.name for posted in records.posted if posted.ends == "all"}
    for job in records.jobs:
        if job["name"] not in patient:
            continue
        if job["status"] != "resolved":
            yield f"job {job['id']} is {job['status']}: {job['reason']}"
        for request in records.requests.get(job["id"], []):
            own = request["__request"]
            if own["status"] not in ("resolved", "error") or (own["status"] == "error" and own["code"] != 500):
                yield f"request {request['id']} is {own['status']} ({own['code']}): {own['reason']}"


def what_was_told_holds(records: Records) -> Iterator[str]:
    """Of what was told of a job nothing is taken back: its counters never fall, and an end is the end."""
    ended = {job["id"]: job["status"] for job in records.jobs}
    most: dict[int, int] = {}
    for job in records.told:
        ident = job["id"]
        if job["status"] in FINAL_JOB and ended.get(ident, job["status"]) != job["status"]:
            yield f"job {ident} was told to be {job['status']}, and is {ended[ident]}"
        if job["doneCount"] < most.get(ident, 0):
            yield f"job {ident} was told to have {most[ident]} requests done, and then {job['doneCount']}"
        most[ident] = max(most.get(ident, 0), job["doneCount"])


def store_equals_api(records: Records) -> Iterator[str]:
    """Stock TinyDB reads the same jobs and requests from the disk that the API shows."""
    if records.stored is None:
        return
    jobs, requests = records.stored.get("jobs", {}), records.stored.get("requests", {})
    for job in records.jobs:
        stored = jobs.get(job["id"])
        if stored is None:
            yield f"job {job['id']} is not on disk"
        elif {name: stored[name] for name in _OF_JOB} != {name: job[name] for name in _OF_JOB}:
            yield f"job {job['id']} on disk is not what the API shows: {stored}"
    for request in _requests(records):
        stored, own = requests.get(request["id"]), request["__request"]
        if stored is None:
            yield f"request {request['id']} is not on disk"
        elif {name: stored.get(name) for name in _OF_REQUEST} != {name: own[name] for name in _OF_REQUEST}:
            yield f"request {request['id']} on disk is not what the API shows: {stored}"


def nothing_broke(records: Records) -> Iterator[str]:
    """The bundle logs no error of its own making."""
    for line in records.log.splitlines():
        if line.startswith("Traceback") or "could not be taken" in line or "CRITICAL" in line:
            yield f"the bundle's log: {line:.300}"


_OF_JOB = ("name", "status", "counts", "totalCount", "reason")
_OF_REQUEST = ("job", "destination", "status", "code", "result")

Invariant = Callable[[Records], Iterator[str]]

ALL: tuple[Invariant, ...] = (
    accepted_jobs_exist_and_end,
    jobs_are_those_that_were_asked_for,
    counters_add_up,
    nothing_refused_exists,
    keyed_jobs_exist_once,
    resolved_was_done,
    results_are_the_devices_own,
    done_once,
    order_held,
    answers_are_not_lost,
    what_was_told_holds,
    store_equals_api,
    nothing_broke,
)


def check(records: Records, chosen: Sequence[Invariant] = ALL) -> list[str]:
    """All violations, each with the name of its invariant."""
    return [f"{invariant.__name__}: {text}" for invariant in chosen for text in invariant(records)]


def _requests(records: Records) -> Iterator[Document]:
    for requests in records.requests.values():
        yield from requests
