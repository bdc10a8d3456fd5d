"""Parts that are killed, restarted and frozen."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import time
from typing import Any, ClassVar

import httpx

from tests.faults.bundle import DOUBT_TIME
from tests.faults.kinds.base import Fault, Moment
from tests.faults.records import Posted
from tests.faults.site import Site
from tests.faults.workload import PATIENT, Step
from tests.system.stand import PATIENCE, REPOSITORY, NoAnswer


class Kill(Fault):
    """A part is killed, is away for a while, and is started again."""

    def victim(self, site: Site) -> Any:
        return site.parts[self.part]

    def begin(self, site: Site) -> None:
        self.victim(site).kill()

    def end(self, site: Site) -> None:
        site.start(self.victim(site))


class KillBundle(Kill):
    """Its disk loses what was not synced; often the disk is slow, so that the kill comes in the middle of a commit."""

    name = "kill_bundle"
    promise = "A bundle that is killed, its disk with it, loses no job that it accepted and no answer that it took."
    part = "bundle"

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        if chance.random() < 0.5:  # what was answered must be there, however soon the kill comes
            self.moment = Moment("answered", chance.randint(1, 2), 0.0)
        self.delay = chance.choice([0.0, 0.02, 0.1, 0.1])
        self.keep = chance.choice([0.0, 0.0, 0.4, 0.8])
        self.hold = round(chance.choice([0.0, chance.uniform(0, 0.5)]), 3)

    def control(self) -> dict[str, Any]:
        return {"delay": self.delay, "keep": self.keep}


class KillDevices(Kill):
    """A fleet forgets what it was at work on. What it has done it remembers, as agents do."""

    name = "kill_devices"
    promise = "Devices that are killed do nothing twice; what they had begun is asked for again after its timeout."
    part = "devices"
    patient = True

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.fleet = chance.choice(["near", "far"])

    def victim(self, site: Site) -> Any:
        return site.parts[self.fleet]


class KillController(Kill):
    name = "kill_controller"
    promise = "A controller that is killed disturbs no job; the bundle registers again by itself."
    part = "controller"
    through_controller = True


class ControllerInFlight(Kill):
    """The POST goes over the bus, and its caller sends it again with its key when no answer comes."""

    name = "controller_in_flight"
    promise = "A POST under a key that is sent again because its controller was killed meanwhile makes one job."
    part = "controller"
    through_controller = True

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        # The disk takes so long that the POST is not answered when the controller dies.
        self.delay = 0.15
        self.moment = Moment("sent", 1, round(chance.uniform(0, 0.12), 4))
        self.hold = 0.0

    def shape(self, steps: list[Step]) -> None:
        steps.sort(key=lambda step: step.posted.is_bad)
        for step in steps:
            if not step.posted.is_bad:
                step.edge, step.pause = "bus", 0.0
                step.posted.document["key"] = f"key-{step.posted.name}"

    def control(self) -> dict[str, Any]:
        return {"delay": self.delay}


class KillBroker(Kill):
    name = "kill_broker"
    promise = "A broker that is killed and forgets everything: what was out is sent again and answered, nothing twice."
    part = "broker"

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        # Now and then so long that bundle and devices come back at different times.
        self.hold = round(chance.choice([0.0, chance.uniform(0, 1), chance.uniform(1, 4)]), 3)

    def end(self, site: Site) -> None:
        site.forget_sessions()
        super().end(site)


class KillBrokerAndDevices(KillBroker):
    """The bundle sends everything again to a broker that knows nobody, for the devices come back later; half of the
    time so late that a job is posted to them when the bundle has looked after what may be lost."""

    name = "kill_broker_and_devices"
    promise = "The same while devices are away, which come back after the bundle: they get what was out to them."
    mixes = False

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.moment = Moment("sent", 0, 0.0)
        self.hold = round(chance.uniform(0.5, 2), 3)
        self.fleet = chance.choice(["near", "far"])
        self.late = chance.random() < 0.5

    def shape(self, steps: list[Step]) -> None:
        # Killed at work the devices would forget it, and that is another fault.
        steps[0].pause = 0.3
        for step in steps:  # nor is a timeout to help
            step.posted.document |= {"requestTimeout": 600, "retry": {**PATIENT, "on": [408, 423, 429, 503]}}

    def begin(self, site: Site) -> None:
        site.parts[self.fleet].kill()

    def end(self, site: Site) -> None:
        site.stand.broker.kill()
        mark = len(site.stand.presence.messages)
        super().end(site)
        with contextlib.suppress(NoAnswer):  # the bundle is back
            site.stand.presence.wait(lambda heard: heard.data["connection"] == "online", 15, mark=mark)
        if self.late:
            time.sleep(DOUBT_TIME + 0.5)
            self.post_a_job(site)
        site.start(site.parts[self.fleet])

    def post_a_job(self, site: Site) -> None:
        """To devices of which nobody knows that they are away, without a timeout that would help."""
        batch = [{"method": "put", "resource": "/late", "__request": {"destination": site.probes}}]
        name = f"{self.label}-late"
        more = {"key": f"key-{name}", "labels": {"run": self.label}, "requestTimeout": 600}
        posted = Posted({"name": name, "batch": batch, **more})
        self.posted.append(posted)
        site.wait(lambda: self._is_taken(site, posted), "a job is not accepted")
        [job_id] = posted.ids
        site.wait(lambda: site.get(f"/jobs/{job_id}?limit=0")["counts"]["sent"], "it is not sent")

    def _is_taken(self, site: Site, posted: Posted) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            reply = site.http.post("/jobs", json=posted.document)
            posted.codes.append(reply.status_code)
            if reply.status_code == 200:
                posted.ids.add(reply.json()["id"])
        return bool(posted.ids)

    def __str__(self) -> str:
        return super().__str__() + (" (late)" if self.late else "")


class KillBrokerSaved(Kill):
    """It comes back with the state that it saved some time before, as Mosquitto does every half hour."""

    name = "kill_broker_saved"
    promise = "A broker that is killed and comes back with an old state of our session: as above."
    part = "broker"

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.old = round(chance.uniform(0, 0.5), 3)

    def begin(self, site: Site) -> None:
        site.save_sessions()
        time.sleep(self.old)
        super().begin(site)


class RestartBroker(Kill):
    name = "restart_broker"
    promise = "A broker that is stopped and started (TERM, persistence true) loses nothing."
    part = "broker"

    def begin(self, site: Site) -> None:
        site.stand.broker.stop()


class Freeze(Fault):
    """SIGSTOP for seconds: longer than some of the deadlines."""

    victim: ClassVar[str]

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.hold = round(chance.uniform(0.2, 3), 3)

    def begin(self, site: Site) -> None:
        site.freeze(site.parts[self.victim])

    def end(self, site: Site) -> None:
        site.thaw(site.parts[self.victim])


class FreezeBundle(Freeze):
    name = "freeze_bundle"
    promise = "A bundle that is frozen for seconds (SIGSTOP) goes on where it was."
    part = victim = "bundle"


class FreezeBroker(Freeze):
    name = "freeze_broker"
    promise = "The same of a broker."
    part = victim = "broker"


class FreezeController(Freeze):
    name = "freeze_controller"
    promise = "The same of a controller."
    part = victim = "controller"


class FreezeDevices(Freeze):
    name = "freeze_devices"
    promise = "The same of devices."
    part, victim = "devices", "near"


class TwoBundles(Fault):
    name = "two_bundles"
    promise = "A second bundle on the same data folder refuses to start and names the first, which notices nothing."
    part = "bundle"

    def begin(self, site: Site) -> None:
        first = site.stand.bundle.pid
        env = {name: value for name, value in site.stand.bundle.env.items() if name != "PUPPETMASTER_HTTP"}
        second = subprocess.run(
            [sys.executable, str(REPOSITORY / "index.py")], env=env, capture_output=True, text=True, timeout=PATIENCE
        )
        if second.returncode != 1 or f"in use by process {first}" not in second.stderr:
            self.violations.append(f"the second bundle ended with {second.returncode}: {second.stderr[-300:]}")
        if site.stand.bundle.pid != first:
            self.violations.append("the first bundle ended when a second one was started")


FAULTS: list[type[Fault]] = [
    KillBundle,
    KillDevices,
    KillController,
    ControllerInFlight,
    KillBroker,
    KillBrokerAndDevices,
    KillBrokerSaved,
    RestartBroker,
    FreezeBundle,
    FreezeBroker,
    FreezeController,
    FreezeDevices,
    TwoBundles,
]
