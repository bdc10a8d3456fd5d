"""Runs: each plays its traffic and its faults, waits until all works again, and has the invariants checked.

All of a run follows from the campaign's seed, its number and the names of the faults it was given: ``plan`` makes it.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import time
import traceback
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx

from tests.faults import invariants
from tests.faults.kinds import ALL, FAULTS, MIXED, Fault
from tests.faults.records import Posted, Records
from tests.faults.site import NotRecovered, Site, chance, read_stock
from tests.faults.workload import PATIENT, Step, Traffic, draw
from tests.system.stand import PATIENCE

RENEW = 150
"""Runs after which a site is stopped, looked at and made anew."""

# What the store says of copies that are opened here is for nobody.
logging.getLogger("puppetmaster").addHandler(logging.NullHandler())

OVERDUE = 15.0
"""Seconds after which a fault begins although its moment has not come: another one may keep it from coming."""


@dataclass
class Plan:
    """What a run is going to do."""

    number: int
    seed: str
    faults: list[Fault]
    steps: list[Step]

    @property
    def label(self) -> str:
        """Of its jobs."""
        return f"r{self.number}"


@dataclass
class Result:
    """A line of the results file."""

    number: int
    seed: str
    faults: list[str]
    moments: list[str]
    kind: str
    requests: int = 0
    recovery: float | None = None
    """Seconds from the last lifting (of a killed part: its new start) until a new job to a device of each fleet, posted
    over HTTP, was accepted, sent and answered; where the controller was away, until it carries calls again as well."""
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)
    skipped: str = ""
    """Why it was not played."""
    kept: str = ""
    """The folder with all logs, after a violation."""

    def line(self) -> str:
        if self.skipped:
            return f"run {self.number} seed {self.seed} {', '.join(self.faults)} SKIPPED: {self.skipped}"
        recovery = "-" if self.recovery is None else f"{self.recovery:.2f}s"
        return (
            f"run {self.number} seed {self.seed} {', '.join(self.moments)}; {self.requests} requests, "
            f"recovered in {recovery}, {len(self.violations)} violations"
        )


def plan(seed: str, number: int, kinds: Sequence[str], names: Sequence[str]) -> Plan:
    """Draw a run.

    :param kinds: names of faults, and ``mixed``; the runs take them in turn.
    :param names: the devices that take traffic.
    """
    own = f"{seed}:{number}"
    kind = kinds[number % len(kinds)]
    chosen = [FAULTS[kind]] if kind != MIXED else list(_mix(own))
    faults = [fault(chance(own, fault.name)) for fault in chosen]
    patient = any(fault.patient for fault in faults)
    steps = draw(chance(own, "traffic"), f"r{number}", list(names), patient=patient)
    for fault in faults:
        fault.shape(steps)
    return Plan(number, own, faults, steps)


def _mix(seed: str) -> Iterator[type[Fault]]:
    draws = chance(seed, MIXED)
    kinds = [fault for fault in FAULTS.values() if fault.mixes]
    draws.shuffle(kinds)
    parts: set[str] = set()
    for fault in kinds:
        if fault.part not in parts and len(parts) < 2 + (draws.random() < 0.3):
            parts.add(fault.part)
            yield fault


class Run:
    """Plays a plan on a site.

    :param is_last: whether the bundle is stopped in the end, and what it leaves looked at.
    """

    def __init__(self, site: Site, plan: Plan, kind: str, *, is_last: bool = False) -> None:
        self.site, self.plan, self.is_last = site, plan, is_last
        self.traffic = Traffic(site, plan.steps)
        self.records = Records(posted=self.traffic.posted)
        self.result = Result(
            plan.number,
            plan.seed,
            [fault.name for fault in plan.faults],
            [str(fault) for fault in plan.faults],
            kind,
            self.traffic.requests,
        )

    def play(self) -> Result:
        """All of it; what goes wrong becomes a violation."""
        begun = time.monotonic()
        self.result.skipped = "; ".join(filter(None, (fault.skipped(self.site) for fault in self.plan.faults)))
        if self.result.skipped:
            return self.result
        try:
            self._play()
        except Exception as error:
            what = str(error) if isinstance(error, NotRecovered) else traceback.format_exc()
            self.result.violations.append(f"{type(error).__name__}: {what}")
        self.result.moments = [str(fault) for fault in self.plan.faults]  # by now they know what they did
        self.result.seconds = round(time.monotonic() - begun, 3)
        return self.result

    def _play(self) -> None:
        site, stand, result = self.site, self.site.stand, self.result
        self.marks, told = site.marks(), len(stand.job_changes.messages)
        logged = len(stand.bundle.log())
        site.base = {"seed": self.plan.seed}
        for fault in self.plan.faults:
            site.base |= fault.control()
            fault.label = self.plan.label
        site.steer()
        self.traffic.start()
        lifted = self._fault()
        site.base = {"seed": self.plan.seed}
        site.steer()
        for fault in self.plan.faults:
            self.records.posted += fault.posted
        self._recover(lifted)
        self.traffic.join()
        site.collect(self.plan.label, self.records)
        self.records.work = site.worked(self.marks)
        ids = {job["id"] for job in self.records.jobs}
        heard = [each for each in list(stand.job_changes.messages[told:]) if each.payload and not each.retained]
        self.records.told = [state for state in (each.data for each in heard) if state["id"] in ids]
        expected = [text for fault in self.plan.faults for text in fault.logs]
        lines = stand.bundle.log()[logged:].splitlines()
        self.records.log = "\n".join(line for line in lines if not any(text in line for text in expected))
        result.violations += self.traffic.violations
        result.violations += invariants.check(self.records)
        for fault in self.plan.faults:
            result.violations += [*fault.violations, *fault.check(site, self.records)]
        if self.is_last:
            self._stop()
        site.remove(self.records)

    def _stop(self) -> None:
        """Compare what a bundle that was stopped leaves, with nothing in between, to what the API has shown."""
        bundle = self.site.stand.bundle
        bundle.stop()
        if bundle.returncode != 0:
            self.result.violations.append(f"the bundle, told to stop, ended with {bundle.returncode}")
        self.records.stored = read_stock(self.site.data / "puppetmaster.json")
        self.result.violations += invariants.check(self.records, [invariants.store_equals_api])

    def _fault(self) -> float:
        """Begin and lift every fault at its moment; when the last one was lifted."""
        begun = time.monotonic()
        waiting = list(self.plan.faults)
        come: dict[Fault, float] = {}
        on: list[tuple[float, Fault]] = []
        while waiting or on:
            now = time.monotonic()
            for fault in list(waiting):
                if fault not in come and (self._has_come(fault) or now - begun > OVERDUE):
                    come[fault] = now + fault.moment.after
                if come.get(fault, now + 1) <= now:
                    waiting.remove(fault)
                    fault.begin(self.site)
                    on.append((time.monotonic() + fault.hold, fault))
            for until, fault in list(on):
                if until <= now:
                    on.remove((until, fault))
                    fault.end(self.site)
            time.sleep(0.002)
        return time.monotonic()

    def _has_come(self, fault: Fault) -> bool:
        moment = fault.moment
        if moment.what == "worked":
            return self.site.count_work(self.marks) >= moment.count * self.traffic.requests
        return bool(getattr(self.traffic, moment.what) >= moment.count)

    def _recover(self, lifted: float) -> None:
        """Wait until all works again: see ``Result.recovery``."""
        site = self.site
        name = f"{self.plan.label}-probe"
        document = {
            "name": name,
            "key": f"key-{name}-{uuid.uuid4().hex[:8]}",
            "labels": {"run": self.plan.label},
            "batch": [{"method": "put", "resource": "/probe", "__request": {"destination": site.probes}}],
            "priority": 100,
            "requestTimeout": 2,
            "retry": PATIENT,
        }
        step = Step(Posted(document), "http", 0.0)
        self.records.posted.append(step.posted)
        with httpx.Client(base_url=site.stand.site, timeout=1.0, trust_env=False) as client:
            deadline = lifted + PATIENCE
            while not step.posted.ids:
                self._see_parts()
                self.traffic.post(client, step) if site.health() else time.sleep(0.01)
                if time.monotonic() > deadline:
                    raise NotRecovered(f"no job is accepted {PATIENCE:g} s after the fault was lifted")
        [job_id] = step.posted.ids
        site.wait(lambda: site.get(f"/jobs/{job_id}?limit=0")["status"] == "resolved", "the probe is not answered")
        if any(fault.through_controller for fault in self.plan.faults):
            site.stand.until_answered(site.stand.bundle, "/jobs?limit=0", lambda code: code == 200)
        self.result.recovery = round(time.monotonic() - lifted, 3)

    def _see_parts(self) -> None:
        for name, part in self.site.parts.items():
            if not part.running:
                if name == "bundle" and len(self.plan.faults) > 1 and any(f.part == "disk" for f in self.plan.faults):
                    self.site.start(part)  # it was killed, and could not start on a disk that fails
                    continue
                violation = f"the {name} ended by itself: {part.log()[-300:]}"
                if any(violation.startswith(f"the {name} ended") for violation in self.result.violations):
                    raise NotRecovered(f"the {name} ended by itself again: {part.log()[-300:]}")
                self.result.violations.append(violation)
                self.site.start(part)


class Campaign:
    """Plays runs on one site after the other.

    :param folder: where sites live; one with a violation stays there.
    """

    def __init__(
        self,
        seed: str,
        kinds: Sequence[str] | None = None,
        *,
        folder: Path | None = None,
        bugs: Sequence[str] = (),
        results: Path | None = None,
    ) -> None:
        self.seed, self.kinds, self.bugs, self.results = seed, list(kinds or ALL), bugs, results
        self.folder = folder or Path(tempfile.mkdtemp(prefix="faults-"))

    def play(self, numbers: Iterator[int]) -> Iterator[Result]:
        """Play these runs."""
        following: int | None = next(numbers, None)
        while following is not None:
            folder = self.folder / f"site-{following}"
            with Site(folder, bugs=self.bugs) as site:
                for left in reversed(range(RENEW)):
                    number, following = following, next(numbers, None)
                    is_last = left == 0 or following is None
                    kind = self.kinds[number % len(self.kinds)]
                    drawn = plan(self.seed, number, self.kinds, site.names)
                    result = Run(site, drawn, kind, is_last=is_last).play()
                    if result.violations:
                        self._keep(site, result)
                    self._note(result)
                    yield result
                    if is_last or result.violations or following is None:
                        break
            if not result.violations:
                shutil.rmtree(folder, ignore_errors=True)

    def _keep(self, site: Site, result: Result) -> None:
        result.kept = str(site.folder)
        shutil.copytree(site.data, site.folder / "data-kept", dirs_exist_ok=True)
        (site.folder / "run.json").write_text(json.dumps(asdict(result), indent=2))

    def _note(self, result: Result) -> None:
        if self.results is not None:
            with self.results.open("a") as file:
                file.write(json.dumps(asdict(result)) + "\n")
