"""Says which devices a job waits for, or that it waits for its turn, so that waiting does not look like hanging."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from puppetmaster.cli import render
from puppetmaster.cli.folding import fold
from puppetmaster.cli.outcome import say
from puppetmaster.errors import PuppetmasterError

if TYPE_CHECKING:
    from puppetmaster.client import DocumentClient

Document = dict[str, Any]

FIRST_LOOK = 3.0
"""Seconds after which nobody asks why nothing happens any more; and at least between two looks."""

NEXT_LOOK = 30.0
"""Seconds after which a look is worth it though nothing has changed: a device that comes or goes may do nothing."""

TURN = 10.0
"""Seconds after which a job that has sent nothing seems to hang."""

MOST = 100
"""Requests that are looked at, and devices that one question may name."""

NAMES_WIDTH = 100
"""Characters of the names in each state, about."""

NOT_BEGUN = ["created", "sent"]
"""What a request is in as long as its device has not said a word."""

NEVER_HEARD_OF = "never heard of"


class Waiting:
    """Looks whom a job waits for.

    :param job: gives the job as it was last seen.
    """

    def __init__(self, client: DocumentClient, job: Callable[[], Document]) -> None:
        self._client = client
        self._job = job
        self._told = ""
        self._turn_told = False

    async def run(self) -> None:
        """Tell the user, and again when it is others; until cancelled."""
        seen, next_look, now = None, 0.0, asyncio.get_running_loop().time
        begun = now()
        while True:
            await asyncio.sleep(FIRST_LOOK)
            counts = self._job().get("counts")
            if counts != seen or now() >= next_look:
                seen, next_look = counts, now() + NEXT_LOOK
                await self.look()
            if not self._told and not self._turn_told and now() - begun >= TURN:
                self._turn_told = True
                await tell_turn(self._client, self._job())

    async def look(self) -> None:
        """Tell who is away, unless that was told. What can't be known now is told another time."""
        try:
            text = await self._text()
        except PuppetmasterError:
            return
        if text and text != self._told:
            say(text)
        self._told = text

    async def _text(self) -> str:
        job = self._job()
        names = await self._not_begun(job["id"])
        away = await self._away(names) if names else {}
        count = sum(map(len, away.values()))
        if not count:
            return ""
        number = f"{count} or more" if len(names) == MOST else str(count)
        who = "; ".join(f"{render.plain(fold(found, NAMES_WIDTH))} ({state})" for state, found in away.items())
        return f"waiting for {number} of {job['totalCount']}: {who}"

    async def _not_begun(self, job_id: int) -> list[str]:
        found = await self._client.requests(job=job_id, status=NOT_BEGUN, limit=MOST)
        return list(dict.fromkeys(request["__request"]["destination"] for request in found))

    async def _away(self, names: list[str]) -> dict[str, list[str]]:
        """Those of whom it is not known that they are there, by what is known of them."""
        known = {device["id"]: device["connection"] for device in await self._client.devices(id=names, limit=MOST)}
        away = defaultdict(list)
        for name in names:
            away[known.get(name, NEVER_HEARD_OF)].append(name)
        away.pop("online", None)
        return dict(sorted(away.items(), reverse=True))


async def tell_turn(client: DocumentClient, job: Document) -> None:
    """Say what a job waits for that has sent nothing yet, as far as it can be known."""
    count = job.get("totalCount")
    if not count or (job["counts"] or {}).get("created") != count:
        return
    try:
        why = await _turn(client, job)
    except PuppetmasterError:
        return
    say(f"waiting: 0 of {count} are sent; {why}")


async def _turn(client: DocumentClient, job: Document) -> str:
    if job["status"] != "dispatching":
        return f"the job is {job['status']}: {render.plain(job['reason'])}"
    for request in await client.requests(job=job["id"], status=["created"], limit=1):
        if (reason := request["__request"]["reason"]) != "created":
            return f"request {request['id']} {render.plain(reason)}"
    return "the window may be full, or the devices busy (docs/operations.md, Jobs stand still)"
