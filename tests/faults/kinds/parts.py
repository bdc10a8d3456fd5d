"""Parts that are killed, restarted and frozen."""

from __future__ import annotations

import random
from typing import Any

from tests.faults.kinds.base import Fault
from tests.faults.site import Site


class KillBundle(Fault):
    """Its disk loses what was not synced; often the disk is slow, so that the kill comes in the middle of a commit."""

    name = "kill_bundle"
    promise = "A bundle that is killed, with the power of its disk, loses no job that it accepted and no answer."
    part = "bundle"

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.delay = chance.choice([0.0, 0.02, 0.1])
        self.hold = round(chance.choice([0.0, chance.uniform(0, 0.5)]), 3)

    def control(self) -> dict[str, Any]:
        return {"delay": self.delay}

    def begin(self, site: Site) -> None:
        site.stand.bundle.kill()

    def end(self, site: Site) -> None:
        site.start(site.stand.bundle)


class KillController(Fault):
    name = "kill_controller"
    promise = "A controller that is killed disturbs no job; the bundle registers again by itself."
    part = "controller"
    through_controller = True

    def begin(self, site: Site) -> None:
        site.stand.controller.kill()

    def end(self, site: Site) -> None:
        site.start(site.stand.controller)


class FreezeBundle(Fault):
    """Longer than some of the deadlines."""

    name = "freeze_bundle"
    promise = "A bundle that is frozen for seconds (SIGSTOP) goes on where it was."
    part = "bundle"

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.hold = round(chance.uniform(0.2, 3), 3)

    def begin(self, site: Site) -> None:
        site.freeze(site.stand.bundle)

    def end(self, site: Site) -> None:
        site.thaw(site.stand.bundle)


FAULTS: list[type[Fault]] = [KillBundle, KillController, FreezeBundle]
