"""``puppetmaster demo``: all parts as separate processes, one job, a bar, the counters."""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.table import Table

from puppetmaster.address import BrokerAddress, ListenAddress
from puppetmaster.cli import render
from puppetmaster.cli.options import Json
from puppetmaster.cli.outcome import FAILED, Interrupted, reported, say
from puppetmaster.cli.parts import LISTENING, BrokerKind
from puppetmaster.cli.processes import Children
from puppetmaster.cli.running import run_until_signal
from puppetmaster.cli.watching import is_success, watch
from puppetmaster.errors import BusError, PuppetmasterError

if TYPE_CHECKING:
    from puppetmaster.client import BusClient

START_TIMEOUT = 60.0
"""Seconds for all parts to be ready: a slow machine, and amqtt, which costs every connection 2 s."""

REQUEST_TIMEOUT = 60.0
"""Seconds for a device to answer: the demo ends, whatever goes wrong."""

ANSWER_TIMEOUT = 3.0
"""Seconds for an answer; while the parts start many a question is lost."""

POLL = 0.2
"""Seconds between two looks at whether a part is ready."""

HOST = "127.0.0.1"

Document = dict[str, Any]
T = TypeVar("T")


def demo(
    devices: Annotated[int, typer.Option(min=1, max=10_000, metavar="N", help="How many devices.")] = 50,
    latency: Annotated[
        str, typer.Option(metavar="SECONDS", help="How long a device takes, as for simulate.")
    ] = "0.3-3",
    errors: Annotated[float, typer.Option(min=0, max=1, metavar="SHARE", help="Share of devices that fail.")] = 0.0,
    kind: Annotated[
        BrokerKind, typer.Option("--broker", help="auto: Mosquitto where it is installed, else amqtt.")
    ] = BrokerKind.AUTO,
    keep: Annotated[
        bool, typer.Option("--keep", help="Go on after the job, until Ctrl-C: there is a page to see.")
    ] = False,
    json: Json = False,
) -> None:
    """Start a broker, a controller, puppetmaster and 50 simulated devices, and reboot them all with one job.

    They run as separate processes, on free ports and in a temporary folder, and are gone at the end.

    \b
    Examples:
      puppetmaster demo --devices 200
      puppetmaster demo --keep
    """
    outcome: Document = {}
    with reported():
        try:
            run_until_signal(_demo(outcome, devices, latency, errors, kind, keep, json))
        except Interrupted as interrupted:
            if not (keep and outcome):
                raise Interrupted(interrupted.number, "stopped; all that the demo had started has ended") from None
            say("stopped; all that the demo had started has ended")
        if not is_success(outcome):
            raise typer.Exit(FAILED)


async def _demo(
    outcome: Document, devices: int, latency: str, errors: float, kind: BrokerKind, keep: bool, json: bool
) -> None:
    """Run the demo; the job as it ended goes to ``outcome``."""
    from puppetmaster.client import BusClient
    from puppetmaster.embedded.broker import free_port
    from puppetmaster.embedded.devices import names

    # What our own connection has to say of parts that are still starting is of no use to anybody.
    logging.getLogger("puppetmaster").addHandler(logging.NullHandler())
    address = BrokerAddress(host=HOST, port=free_port(HOST))
    with tempfile.TemporaryDirectory(prefix="puppetmaster-demo-") as folder, Children(Path(folder)) as children:
        say(f"Starting a broker on port {address.port}, a controller, puppetmaster and {devices} devices ...")
        http = ListenAddress(HOST, free_port(HOST))
        parts = _Parts(children, address, http)
        await parts.start(devices, latency, errors, kind)
        client = BusClient(address, answer_timeout=ANSWER_TIMEOUT)
        await parts.ready("broker", client.start(timeout=None))
        try:
            await parts.ready("puppetmaster", _answers(client))
            await parts.ready("devices", _listening(children))
            say(f"The page: http://{http}/")
            job = await client.create_job(_job(names(devices)))
            outcome.update(await parts.alive(_follow(client, job["id"], json)))
            _show(outcome, json)
            if keep:
                say(f"All of it goes on until Ctrl-C; the page: http://{http}/ (the broker: {address})")
                await parts.alive(asyncio.Event().wait())
        finally:
            await client.close()


class _Parts:
    """The processes of the demo: started in order, waited for, and watched."""

    def __init__(self, children: Children, address: BrokerAddress, http: ListenAddress) -> None:
        self._children = children
        self._address = address
        self._http = http
        self._deadline = time.monotonic() + START_TIMEOUT

    async def start(self, devices: int, latency: str, errors: float, kind: BrokerKind) -> None:
        url = self._address.url()
        self._children.start("broker", ["broker", "--port", str(self._address.port), "--kind", kind.value])
        await self.ready("broker", self._accepts())
        self._children.start("controller", ["controller", "--broker", url])
        self._children.start("puppetmaster", ["serve", "--broker", url, "--http", str(self._http)])
        behaviour = ["--latency", latency, "--errors", str(errors)]
        self._children.start("devices", ["simulate", "--broker", url, "--devices", str(devices), *behaviour])

    async def ready(self, name: str, waiting: Coroutine[Any, Any, T]) -> T:
        """Wait for a sign of a part, as long as all parts live.

        :raises ChildFailed: when one ended.
        :raises BusError: when there was no sign in time.
        """
        try:
            return await asyncio.wait_for(self.alive(waiting), self._deadline - time.monotonic())
        except asyncio.TimeoutError:
            tail = self._children.tail(name)
            raise BusError(f"the {name} is not ready after {START_TIMEOUT:.0f} s; its log:\n{tail}") from None

    async def alive(self, waiting: Coroutine[Any, Any, T]) -> T:
        """Wait for something, as long as all parts live."""
        task = asyncio.ensure_future(waiting)
        try:
            while not task.done():
                self._children.check()
                await asyncio.wait({task}, timeout=POLL)
            return task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _accepts(self) -> None:
        while True:
            try:
                _, writer = await asyncio.open_connection(self._address.host, self._address.port)
            except OSError:
                await asyncio.sleep(POLL)
            else:
                writer.close()
                return


async def _answers(client: BusClient) -> None:
    """Wait until puppetmaster answers through the controller."""
    while True:
        try:
            await client.jobs(limit=1)
        except PuppetmasterError:
            await asyncio.sleep(POLL)
        else:
            return


async def _listening(children: Children) -> None:
    """Wait until the devices say that they have subscribed."""
    while LISTENING not in children.tail("devices"):  # noqa: ASYNC110 - another process has no event of ours
        await asyncio.sleep(POLL)


async def _follow(client: BusClient, job_id: int, json: bool) -> Document:
    if not json:
        return await watch(client, job_id, json=False)
    job: Document = {}
    async for job in client.watch(job_id):  # noqa: B007 - the last one counts
        pass
    return job


def _job(destinations: list[str]) -> Document:
    message = {"method": "post", "resource": "/system/reboot", "__request": {"destination": destinations}}
    return {"batch": [message], "name": "reboot", "requestTimeout": REQUEST_TIMEOUT}


def _show(job: Document, json: bool) -> None:
    if json:
        render.print_json(job)
    else:
        _print_counters(job)


def _print_counters(job: Document) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_row("total", str(job["totalCount"]))
    table.add_row("resolved", str(job["finishCount"]))
    table.add_row("errors", str(job["errorCount"]))
    table.add_row("time", render.duration(render.seconds_of(job) or 0.0))
    render.show(table)
