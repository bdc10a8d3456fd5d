"""The traffic of a run: jobs, refused documents and cancellations, drawn from its seed, and what became of each."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field

import httpx

from tests.faults.records import Document, Posted
from tests.faults.site import Site
from tests.system.stand import PATIENCE, NoAnswer

PATIENT = {"limit": 100, "delay": 0.1, "factor": 1, "maxDelay": 0.2, "on": [408, 423, 429, 503, "timeout"]}
"""Tries again what a part that was killed has forgotten. The devices remember what they did."""

CALL_TIMEOUT = 5.0
"""Seconds after which a call counts as not answered, and is made again where its key allows it."""


@dataclass
class Step:
    """A document to post."""

    posted: Posted
    edge: str
    """``http`` or ``bus``."""
    pause: float
    """Seconds before it."""
    cancel_after: float | None = None
    """Seconds from its answer to its cancellation."""


def draw(chance: random.Random, run: str, names: list[str], *, patient: bool, requests: int = 60) -> list[Step]:
    """The traffic of a run.

    :param run: its label; names and keys begin with it.
    :param patient: whether every job tries again what timed out: for faults that make a device forget a request.
    """
    steps = []
    for number in range(chance.randint(1, 3)):
        document = _job(chance, f"{run}-{number}", names, requests)
        if patient or chance.random() < 0.4:
            document |= {"requestTimeout": 2, "retry": PATIENT}
        else:
            document["requestTimeout"] = 600
            document["retry"] = {**PATIENT, "on": [408, 423, 429, 503]}
        step = Step(Posted(document), chance.choice(["http", "http", "bus"]), chance.choice([0.0, 0.0, 0.1, 0.3]))
        if chance.random() < 0.7 or step.edge == "bus":
            document["key"] = f"key-{document['name']}"
        roll = chance.random()
        if roll < 0.1:
            step.cancel_after, step.posted.ends = chance.uniform(0, 0.3), "any"
        elif roll < 0.2:
            # Times out under load or while somebody is away: no matter, as long as it ends.
            document |= {"requestTimeout": 1, "retry": {"limit": 1, "delay": 0.1, "on": [423, "timeout"]}}
            step.posted.ends = "any"
        steps.append(step)
    if chance.random() < 0.5:
        bad = _job(chance, f"{run}-bad", names, requests)
        bad["batch"][-1] = chance.choice([{**bad["batch"][-1], "method": "jump"}, {"method": "get"}])
        steps.insert(chance.randint(0, len(steps)), Step(Posted(bad, is_bad=True), "http", 0.0))
    return steps


def _job(chance: random.Random, name: str, names: list[str], requests: int) -> Document:
    devices = chance.sample(names, chance.randint(min(8, len(names)), len(names)))
    messages = chance.randint(1, 3)
    devices = devices[: max(1, requests // messages)]
    document: Document = {
        "name": name,
        "labels": {"run": name.partition("-")[0]},
        "batch": [
            {
                "method": "put",
                "resource": f"/step/{number}",
                "data": {"job": name, "step": number},
                "__request": {"destination": devices if chance.random() < 0.7 else devices[: len(devices) // 2 + 1]},
            }
            for number in range(messages)
        ],
    }
    if chance.random() < 0.5:
        document["concurrency"] = chance.randint(5, 30)
    if chance.random() < 0.2:
        document["rate"] = {"perMinute": chance.choice([3000, 6000])}
    if chance.random() < 0.3:
        document["priority"] = chance.randint(0, 100)
    return document


@dataclass
class Traffic:
    """Plays the steps in a thread of its own."""

    site: Site
    steps: list[Step]
    sent: int = 0
    """How many POSTs have left."""
    answered: int = 0
    """How many documents were answered with 200 or 400."""
    violations: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._play, name="traffic", daemon=True)

    @property
    def posted(self) -> list[Posted]:
        return [step.posted for step in self.steps]

    @property
    def requests(self) -> int:
        """How many requests the good documents have."""
        return sum(
            len(entry["__request"]["destination"])
            for posted in self.posted
            if not posted.is_bad
            for entry in posted.document["batch"]
        )

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join(2 * PATIENCE)
        if self._thread.is_alive():
            self.violations.append("a POST was not answered: the traffic did not come to its end")

    def _play(self) -> None:
        with httpx.Client(base_url=self.site.stand.site, timeout=CALL_TIMEOUT, trust_env=False) as client:
            for step in self.steps:
                time.sleep(step.pause)
                self.post(client, step)
                if step.cancel_after is not None and step.posted.ids:
                    time.sleep(step.cancel_after)
                    self._cancel(client, min(step.posted.ids))

    def post(self, client: httpx.Client, step: Step) -> None:
        """Post a document until it is answered; one without a key is posted once."""
        posted, deadline = step.posted, time.monotonic() + PATIENCE
        while True:
            self.sent += 1
            code, job_id = self._call(client, step.edge, posted.document)
            posted.codes.append(code)
            if code == 200 and job_id is not None:
                posted.ids.add(job_id)
            if code in (200, 400):
                self.answered += 1
                return
            if code not in UNSURE:
                self.violations.append(f"{posted.name} was answered {code}")
            if not posted.is_bad and ("key" not in posted.document or time.monotonic() > deadline):
                return
            time.sleep(0.05)

    def _call(self, client: httpx.Client, edge: str, document: Document) -> tuple[int, int | None]:
        try:
            if edge == "bus":
                answer = self.site.stand.exchange("post", "/jobs", document, CALL_TIMEOUT)
                return answer.code, answer.data.get("id") if answer.code == 200 else None
            reply = client.post("/jobs", json=document)
            return reply.status_code, reply.json().get("id") if reply.status_code == 200 else None
        except (NoAnswer, httpx.HTTPError):
            return 0, None

    def _cancel(self, client: httpx.Client, job_id: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                if client.put(f"/jobs/{job_id}", json={"status": "canceled"}).status_code in (200, 409):
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
        self.violations.append(f"job {job_id} could not be canceled")


UNSURE = frozenset({0, 404, 408, 423, 503})
"""No answer; no bundle at the controller; none in its time; somebody else's write; a disk that fails."""
