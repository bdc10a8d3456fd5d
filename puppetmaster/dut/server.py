"""Puts the dutserver's parts together, and keeps the channel's members those that have an account."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from puppetmaster.accounts.audit import Audit
from puppetmaster.accounts.registry import Accounts
from puppetmaster.dut.accounts import DutAccounts
from puppetmaster.dut.callers import Callers
from puppetmaster.dut.errors import AgentNotFound
from puppetmaster.dut.events import EventLog
from puppetmaster.dut.presence import Presence
from puppetmaster.dut.tasks import Pull, Tasks
from puppetmaster.errors import PuppetmasterError
from puppetmaster.service import Service
from puppetmaster.store import Store

logger = logging.getLogger(__name__)

LOOK_INTERVAL = 1.0
"""Seconds between two looks at the file of accounts: an agent that the command line made is a destination by then."""


class DutServer:
    """Accounts, events and tasks for agents that poll. ``edges/http/dut`` serves it.

    :param service: makes the tasks; :meth:`load` is to be called when it has loaded, and before it starts.
    :param pull: the channel that agents fetch their requests by.
    :param store: keeps the events; not the one of the jobs.
    :param own: puppetmaster's own accounts, of which operators and admins may do what an admin here may.
    :param audit: is told of what admins do.
    :param is_taken: whether a name belongs to a device that is reached in another way, so that no agent may register
        itself by it.
    :param on_seen: hears of every call of an agent.
    :param on_connection: hears when an agent comes and goes.
    """

    def __init__(
        self,
        *,
        service: Service,
        pull: Pull,
        accounts: DutAccounts,
        store: Store,
        now: Callable[[], float],
        own: Accounts | None = None,
        audit: Audit | None = None,
        is_taken: Callable[[str], bool] | None = None,
        on_seen: Callable[[str], None] | None = None,
        on_connection: Callable[[str, bool], None] | None = None,
    ) -> None:
        self.accounts = accounts
        self.callers = Callers(accounts, own, now)
        self.events = EventLog(store, now)
        self.presence = Presence(on_connection)
        self.tasks = Tasks(service, pull)
        self.audit = audit
        self.now = now
        self._seen = on_seen or _ignore
        self._service = service
        self._pull = pull
        self._is_taken = is_taken or _is_free
        self._members: frozenset[str] = frozenset()
        self._known: tuple[str, ...] = ()
        self._trouble = ""
        self._watch: asyncio.Task[None] | None = None

    def load(self) -> None:
        """Take over what is on disk: the agents become destinations of the channel.

        :raises StoreCorrupt: when the file of accounts is damaged.
        :raises FileUnavailable: when it can't be read.
        """
        self._follow(self.accounts.agents())
        self.events.load(self._members)
        self.tasks.start()

    def start(self) -> None:
        """Follow what the command line changes, from now on."""
        self._watch = asyncio.create_task(self._look(), name="dut-accounts")

    async def close(self) -> None:
        """End all polls and let go of everything."""
        self.tasks.close()
        self.presence.close()
        self.callers.close()
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)

    def check_agent(self, name: str) -> None:
        """See that there is an agent of this name, and that it is a destination. Raises AgentNotFound."""
        if not self.accounts.is_agent(name):
            raise AgentNotFound(name)
        self._follow(self.accounts.agents())

    def seen(self, agent: str) -> None:
        """An agent called."""
        self._follow(self.accounts.agents())
        self._seen(agent)

    async def register(self, name: str, password: str) -> None:
        """Make an agent's account for itself; it is a destination then.

        :raises Forbidden: when that is not allowed.
        :raises InvalidDocument: when the name or the password can't be one.
        :raises AccountExists: when the name is taken.
        """
        self.accounts.check_registration()
        self.accounts.check_new(name, self._is_taken(name))
        await self.callers.hash(self.accounts.register, name, password)
        self._follow(self.accounts.agents())

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_INTERVAL)
            try:
                self._follow(await asyncio.to_thread(self.accounts.agents))
            except PuppetmasterError as error:
                if str(error) != self._trouble:
                    logger.error("the agents stay as they were: %s", error,
                                 extra={"event": "dut_agents_unread", "reason": str(error)})
                self._trouble = str(error)
            else:
                self._trouble = ""

    def _follow(self, agents: tuple[str, ...]) -> None:
        """Let those join the channel that are new, and those leave that are gone."""
        if agents is self._known:
            return
        self._known, before = agents, self._members
        self._members = frozenset(agents)
        new = self._members - before
        for name in new:
            self._pull.join(name)
        if new:
            # What was sent to them another way, before anybody knew that they fetch.
            self._service.resend(lambda request: request.destination in new)
        for name in before - self._members:
            self._pull.leave(name)
            self.tasks.end_polls(name)
            self.presence.forget(name)
            self.events.forget(name)


def _ignore(agent: str) -> None:
    """Tell nobody."""


def _is_free(name: str) -> bool:
    """Know of no other devices."""
    return False
