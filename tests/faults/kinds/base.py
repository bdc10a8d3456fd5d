"""What a fault is.

A fault is a small class: a ``name``, the ``promise`` that is kept while it happens (a sentence, for
docs/reliability.md), the ``part`` that it breaks (two faults of one part are never mixed), and a few methods:

- ``__init__(chance)`` draws all choices from the run's seed, never from the clock; call ``super().__init__`` first,
  which draws ``self.moment`` (when it begins) and ``self.hold`` (seconds until it is lifted).
- ``begin(site)`` breaks something, ``end(site)`` lifts it. Both return soon, in the main thread, which alone may start
  parts. What they find wrong they add to ``self.violations``, as texts.
- ``shape(steps)``, optional: changes the traffic that was drawn.
- ``control()``, optional: what the bundle's control file (:mod:`tests.faults.power`) says during the run.
- ``check(site, records)``, optional: more violations, after the run, beside the invariants.

``patient = True`` makes every job of the run try again what timed out: for faults that make somebody forget a request
that was taken. ``through_controller = True``: it is over when the controller carries calls to the bundle again. A new
fault goes into the ``FAULTS`` of a module of this package, and a new module into ``tests.faults.kinds``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from tests.faults.records import Posted, Records
from tests.faults.site import Site
from tests.faults.workload import Step


@dataclass(frozen=True)
class Moment:
    """When a fault begins: so many seconds after what is counted has come that far.

    ``sent`` counts POSTs that have left, ``answered`` documents that were answered, ``worked`` is the share of the
    traffic's requests that devices have done.
    """

    what: str
    count: float
    after: float

    @classmethod
    def draw(cls, chance: random.Random) -> Moment:
        what = chance.choice(["sent", "answered", "answered", "worked", "worked", "worked"])
        count = chance.uniform(0.02, 0.9) if what == "worked" else 1
        after = chance.choice([0.0, chance.uniform(0, 0.05), chance.uniform(0, 0.4)])
        return cls(what, round(count, 3), round(after, 3))

    def __str__(self) -> str:
        return f"{self.what} {self.count:g}" + (f" +{self.after:g}s" if self.after else "")


class Fault:
    """See the top of this module."""

    name: ClassVar[str]
    promise: ClassVar[str]
    part: ClassVar[str]
    patient: ClassVar[bool] = False
    through_controller: ClassVar[bool] = False
    logs: ClassVar[tuple[str, ...]] = ()
    """Parts of lines at critical, or of tracebacks, that the bundle logs as it should."""
    mixes: ClassVar[bool] = True
    """Whether it may happen beside others."""
    skipped: ClassVar[Callable[[Site], str]] = staticmethod(lambda site: "")
    """Why it can't be played on this machine; empty when it can."""

    def __init__(self, chance: random.Random) -> None:
        self.moment = Moment.draw(chance)
        self.hold = round(chance.choice([0.0, chance.uniform(0, 1)]), 3)
        self.violations: list[str] = []
        self.label = ""
        """Of the run's jobs."""
        self.posted: list[Posted] = []
        """What it posted itself, for the invariants; named ``<label>-...`` and with the label ``run``."""

    def begin(self, site: Site) -> None:
        """Break something."""
        raise NotImplementedError

    def end(self, site: Site) -> None:
        """Lift it."""

    def shape(self, steps: list[Step]) -> None:
        """Change the run's traffic."""

    def control(self) -> dict[str, Any]:
        """What the control file says while the run lasts, beside what ``begin`` and ``end`` write."""
        return {}

    def check(self, site: Site, records: Records) -> Iterable[str]:
        """More violations, after the end of the run."""
        return ()

    def __str__(self) -> str:
        return f"{self.name} at {self.moment} for {self.hold:g}s"
