"""The three other systems whose languages we speak, put together on one core: jobrunner, dutserver, a render farm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from puppetmaster.accounts.audit import Audit
from puppetmaster.accounts.registry import Accounts
from puppetmaster.agent.rights import OFF
from puppetmaster.core import Core
from puppetmaster.devices.device import PULL
from puppetmaster.dut.accounts import DutAccounts
from puppetmaster.dut.server import DutServer
from puppetmaster.farm import Farm, Files, Plugins, Tasks
from puppetmaster.policies import Connection
from puppetmaster.settings import Settings

if TYPE_CHECKING:
    from puppetmaster.edges.http.access import Access, App

DUT_FILE, FARM_FOLDER = "dut.json", "farm"
"""The accounts of the dutserver, and the files of the farm's tasks, in the data folder."""


class Systems:
    """Made before the core is loaded, for it has to know the ways to its destinations then."""

    def __init__(self, core: Core, settings: Settings) -> None:
        self._core = core
        self._has_commands = settings.commands.strip().lower() != OFF
        self._plugins = Plugins()
        self._farm = Farm(
            store=core.registry,
            now=core.clock.now,
            plugins=self._plugins,
            patience=settings.worker_patience,
        )
        core.router.add(self._farm)
        self._files = Files(settings.data / FARM_FOLDER)
        self._tasks: Tasks | None = None
        self._dut_accounts = DutAccounts(settings.data / DUT_FILE)
        self._dut: DutServer | None = None
        for agent in self._dut_accounts.agents():
            core.pull.join(agent)

    def start(self, accounts: Accounts, audit: Audit) -> None:
        """Take over what is out; the core is loaded by now."""
        self._tasks = Tasks(
            service=self._core.service,
            farm=self._farm,
            store=self._core.registry,
            plugins=self._plugins,
            unneeded=self._files.remove,
        )
        self._farm.start(self._core.service)
        self._dut = make_dut(self._core, self._dut_accounts, own=accounts, audit=audit)

    async def close(self) -> None:
        """End all polls, and let go of everything."""
        if self._dut is not None:
            await self._dut.close()
        await self._farm.close()

    def apps(self, access: Access) -> Mapping[str, App]:
        """The applications by the path that they are under; to be called when they are started."""
        # Imported here, as by the bundle: who serves no HTTP loads nothing of it.
        from puppetmaster.edges.http import dut, manager, runner

        assert self._dut is not None and self._tasks is not None
        core = self._core
        return {
            "/runner": runner.make_app(
                service=core.service, outputs=core.outputs, access=access, commands=self._has_commands
            ),
            "/dut": dut.make_app(self._dut),
            "/manager": manager.make_app(
                farm=self._farm, tasks=self._tasks, plugins=self._plugins, files=self._files
            ),
        }


def make_dut(
    core: Core, accounts: DutAccounts, *, own: Accounts | None = None, audit: Audit | None = None
) -> DutServer:
    """A dutserver on a core that is loaded, begun."""

    def connected(agent: str, online: bool) -> None:
        connection = Connection.ONLINE if online else Connection.OFFLINE
        core.devices.connection(agent, connection, core.clock.now())

    server = DutServer(
        service=core.service,
        pull=core.pull,
        accounts=accounts,
        store=core.registry,
        now=core.clock.now,
        own=own,
        audit=audit,
        is_taken=core.devices.is_on_broker,
        on_seen=lambda agent: core.devices.seen(agent, core.clock.now(), PULL),
        on_connection=connected,
    )
    server.load()
    server.start()
    return server
