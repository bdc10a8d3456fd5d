"""The network between the bundle and the broker. Everything of the bundle goes through ``site.proxy``: data plane,
control plane, and what it hears of devices."""

from __future__ import annotations

import contextlib
import random
import threading

import httpx

from tests.faults.kinds.base import Fault
from tests.faults.proxy import DOWN, UP, WAYS
from tests.faults.raw import RawClient
from tests.faults.records import Posted
from tests.faults.site import Site
from tests.faults.workload import PATIENT


class Network(Fault):
    """Something is set at the proxy and taken back."""

    part = "network"

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.hold = round(chance.uniform(0.1, 2), 3)

    def end(self, site: Site) -> None:
        site.proxy.clear()


class Delay(Network):
    name = "net_delay"
    promise = "A slow network (up to 0.5 s each way) makes jobs slow, and nothing else."

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.seconds = round(chance.uniform(0.02, 0.5), 3)

    def begin(self, site: Site) -> None:
        site.proxy.delay(self.seconds)


class Trickle(Network):
    name = "net_trickle"
    promise = "The same of a narrow one (2 to 50 kB a second)."

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.rate = chance.randint(2_000, 50_000)

    def begin(self, site: Site) -> None:
        site.proxy.trickle(self.rate)


class OneWay(Network):
    """To the broker, from it, or both."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.ways = chance.choice([(UP,), (DOWN,), WAYS])

    def __str__(self) -> str:
        return f"{super().__str__()} ({' '.join(self.ways)})"


class Stall(OneWay):
    name = "net_stall"
    promise = "A cable that is out for seconds, one way or both: what was on its way arrives, nothing is done twice."

    def begin(self, site: Site) -> None:
        site.proxy.stall(*self.ways)


class BlackHole(OneWay):
    name = "net_black_hole"
    promise = "A network that swallows everything, one way or both, until its connections are reset: nothing is lost."

    def begin(self, site: Site) -> None:
        site.proxy.black_hole(*self.ways)


class Dead(OneWay):
    """The campaign's bundles have a keepalive of 5 s, so that many runs can be played; the default is 30 s."""

    name = "net_dead"
    promise = "Connections that died without a word are given up within two and a half keepalives and made anew."
    through_controller = True
    mixes = False

    def begin(self, site: Site) -> None:
        site.proxy.black_hole(*self.ways)

    def end(self, site: Site) -> None:
        site.proxy.clear(reset=False)


class Cut(Network):
    """Of each connection that is there or comes, after a few bytes or many."""

    name = "net_cut"
    promise = "Connections that end in the middle of a packet, again and again: nothing is lost, nothing is done twice."

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.after = int(10 ** chance.uniform(0, 4.3))
        self.way = chance.choice(WAYS)

    def begin(self, site: Site) -> None:
        site.proxy.cut(self.after, self.way)

    def __str__(self) -> str:
        return f"{super().__str__()} (after {self.after} bytes {self.way})"


class Reset(Network):
    name = "net_reset"
    promise = "Connections that are reset (RST), once or several times: the same."

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.again = chance.random() < 0.5

    def begin(self, site: Site) -> None:
        site.proxy.reset()

    def end(self, site: Site) -> None:
        if self.again:
            site.proxy.reset()


class Refuse(Network):
    name = "net_refuse"
    promise = "A broker that can't be reached for a while: jobs are accepted and wait, and it goes on by itself."
    accepted = False

    def begin(self, site: Site) -> None:
        site.proxy.refuse()

    def end(self, site: Site) -> None:
        self.try_a_job(site)
        super().end(site)

    def try_a_job(self, site: Site) -> None:
        """Post one that must be accepted, unless the disk fails as well."""
        batch = [{"method": "put", "resource": "/meanwhile", "__request": {"destination": site.probes}}]
        name = f"{self.label}-meanwhile"
        posted = Posted({"name": name, "batch": batch, "key": f"key-{name}", "labels": {"run": self.label}})
        posted.ends = "any"  # devices may be killed at it as well
        posted.document |= {"requestTimeout": 2, "retry": PATIENT}
        self.posted.append(posted)
        with contextlib.suppress(httpx.HTTPError):
            reply = site.http.post("/jobs", json=posted.document)
            posted.codes.append(reply.status_code)
            if reply.status_code == 200:
                posted.ids.add(reply.json()["id"])
                self.accepted = True
            elif reply.status_code != 503 or "the store can't write" not in reply.text:
                self.violations.append(f"while the broker is away a job is answered {reply.status_code}: {reply.text}")

    def __str__(self) -> str:
        return super().__str__() + (" (a job was accepted meanwhile)" if self.accepted else "")


class Repeated(Network):
    """Something that is done again and again, by a thread of its own, while the fault lasts."""

    every: float

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def once(self, site: Site) -> None:
        raise NotImplementedError

    def begin(self, site: Site) -> None:
        self._thread = threading.Thread(target=self._repeat, args=(site,), name=self.name, daemon=True)
        self._thread.start()

    def end(self, site: Site) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        super().end(site)

    def _repeat(self, site: Site) -> None:
        while not self._over.is_set():
            self.once(site)
            self._over.wait(self.every)


class Flap(Repeated):
    name = "net_flap"
    promise = "A network that breaks all connections ten times a second: jobs wait, and go on when it has calmed down."
    every = 0.1

    def once(self, site: Site) -> None:
        site.proxy.reset()


class Rival(Repeated):
    """It takes what is sent to it and acknowledges nothing; now and then it throws the session away."""

    name = "rival"
    promise = "Another client that connects under the bundle's own client ids is outlived; nothing is lost to it."
    every = 0.3

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.chance = random.Random(chance.random())
        self.clean = chance.random() < 0.5

    def once(self, site: Site) -> None:
        own = f"puppetmaster-{site.stand.instance}"
        client_id = self.chance.choice([own, own, f"{own}-devices", f"{own}-rollcall"])
        try:
            RawClient(site.stand.port, client_id, clean=self.clean, acknowledge=False).close()
        except OSError:
            return  # the broker is away, or the bundle was there first


FAULTS: list[type[Fault]] = [Delay, Trickle, Stall, BlackHole, Dead, Cut, Reset, Refuse, Flap, Rival]
