"""The real bundle on a file layer and a clock that the campaign steers.

``python -m tests.faults.bundle CONTROL [BUG...]`` is ``index.py`` but for three things, all set from outside: its
stores are on :class:`~tests.faults.power.PowerFiles`, ``time.time`` is ``clock`` seconds off (of the control file), and
a planted bug may be turned on, for the tests that show that the campaign finds it. The settings come from the
environment.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from puppetmaster import bus, tunnels
from puppetmaster.cli import main
from puppetmaster.edges.connection import Connection
from puppetmaster.edges.sanji import Puppetmaster
from puppetmaster.effects import Verdict
from puppetmaster.engine import Engine
from puppetmaster.service import Service
from puppetmaster.store import journal
from puppetmaster.store.files import FileSystem
from tests.faults.power import Control, PowerFiles, after_a_cut


def steer_files(control: Control) -> None:
    """Put every store of this process on the power layer."""
    after_a_cut(Path(os.environ["PUPPETMASTER_DATA"]))
    journal.SystemFiles = lambda: PowerFiles(control)  # type: ignore[misc, assignment]
    least = control.read().get("compact")
    if least:
        # However large the snapshot is.
        journal.Journal.is_oversized = lambda self: self.size > least  # type: ignore[method-assign]


def shorten_waits() -> None:
    """Have a connection that died without a word noticed in seconds, calls that were lost with one given up by the
    controller, and what may have been lost at a reconnect looked at: the defaults are 30, 60 and 10 s."""
    bus.KEEPALIVE = KEEPALIVE
    tunnels.DOUBT_TIME = DOUBT_TIME
    make = Connection.__init__

    def made(self: Connection, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        self.broker_keepalive = KEEPALIVE

    Connection.__init__ = made  # type: ignore[method-assign]
    profile = Puppetmaster.get_profile
    Puppetmaster.get_profile = lambda self, role="model": {**profile(self, role), "ttl": TTL}


def steer_clock(control: Control) -> None:
    """Have the wall clock stepped by the control file."""
    real = time.time
    time.time = lambda: real() + control.read().get("clock", 0.0)


KEEPALIVE, TTL = 5, 6
"""Seconds: of the bundle's connections; for a call through the controller, which locks the bundle meanwhile."""

DOUBT_TIME = 4.0
"""Seconds after a reconnect until what is out is sent again."""

# Planted bugs


def ack_before_commit() -> None:
    """Callers and devices are told before it is on disk."""

    async def at_once(self: Service) -> None:
        self._work.set()

    assert Service._saved and Service.durable, "what is replaced has another name by now"
    Service._saved = at_once  # type: ignore[method-assign]
    Service.durable = at_once  # type: ignore[method-assign]


def no_fsync() -> None:
    """Nothing that is written is synced."""

    class Careless(PowerFiles):
        def sync(self, descriptor: int) -> None:
            return

    made = journal.SystemFiles

    def careless() -> FileSystem:
        files = made()
        files.__class__ = Careless
        return files

    journal.SystemFiles = careless  # type: ignore[misc, assignment]


def believe_anyone() -> None:
    """Whoever names a request is taken for its device."""
    answer = Engine.answer

    def believe(self: Engine, destination: str, request_id: int, *rest: Any) -> Verdict:
        request = self.requests.get(request_id)
        return answer(self, request.destination if request else destination, request_id, *rest)

    Engine.answer = believe  # type: ignore[method-assign]


BUGS = {bug.__name__: bug for bug in (ack_before_commit, no_fsync, believe_anyone)}

if __name__ == "__main__":
    steered = Control(Path(sys.argv[1]))
    steer_files(steered)
    steer_clock(steered)
    shorten_waits()
    for name in sys.argv[2:]:
        BUGS[name]()
    sys.argv[1:] = ["serve", "--plain"]
    main()
