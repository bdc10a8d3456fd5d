"""What commands that make a job have in common: preview it, make it, watch it, say how to go on."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from puppetmaster.cli import render
from puppetmaster.cli.outcome import BadUsage, Interrupted, say
from puppetmaster.cli.running import talk
from puppetmaster.cli.watching import conclude, goes_on, watch
from puppetmaster.settings import Settings
from puppetmaster.times import from_text

if TYPE_CHECKING:
    from puppetmaster.client import DocumentClient

Document = dict[str, Any]

Make = Callable[["DocumentClient", Document], Awaitable[Document]]
"""Makes a job of a document."""

CLOCK_TOLERANCE = 60.0
"""Seconds by which our clock may differ from the bundle's."""

Watching = Annotated[bool, typer.Option("--watch", "-w", help="Show how far it is; end with 1 when a request failed.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say how many requests it would make to how many destinations; make none.")
]


def make(
    settings: Settings, document: Document, call: Make, *, watching: bool = False, dry_run: bool = False, json: bool
) -> None:
    """Make a job, and watch it to its end when asked to."""
    if dry_run:
        _preview(settings, document, call, watching=watching, json=json)
        return
    asked_at = time.time()
    created: Document = {}

    async def conversation(client: DocumentClient) -> Document:
        created.update(await call(client, document))
        if not watching:
            return created
        if not json and _was_there(created, document, asked_at):
            say(_told_before(created))
        return await watch(client, created["id"], json=json)

    try:
        job = talk(settings, conversation)
    except Interrupted as interrupted:
        if created:
            raise goes_on(interrupted, created["id"]) from None
        note = "stopped before the answer came: the job may have been created (puppetmaster jobs list)"
        raise Interrupted(interrupted.number, note) from None
    if watching:
        conclude(job, json=json)
    elif json:
        render.print_json(job)
    else:
        fresh = f"job {job['id']} created: {render.count(job['totalCount'], 'request')}"
        typer.echo(_told_before(job) if _was_there(job, document, asked_at) else fresh)
        typer.echo(f"see how far it is: puppetmaster jobs watch {job['id']}")


def _preview(settings: Settings, document: Document, call: Make, *, watching: bool, json: bool) -> None:
    if watching:
        raise BadUsage("--dry-run", "it makes nothing that could be watched: leave --watch out")
    found = talk(settings, lambda client: call(client, {**document, "dryRun": True}))
    if json:
        render.print_json(found)
        return
    requests = render.count(found["totalCount"], "request")
    destinations = render.count(found["destinationCount"], "destination")
    typer.echo(f"this would make {requests} to {destinations}; nothing was made")


def _was_there(job: Document, document: Document, asked_at: float) -> bool:
    """Whether the key made this job before: it is older than the call, or further than a new one can be."""
    if not document.get("key"):
        return False
    moved = any(number for status, number in job["counts"].items() if status != "created")
    return moved or from_text(job["createdAt"]) < asked_at - CLOCK_TOLERANCE


def _told_before(job: Document) -> str:
    return f"job {job['id']} is there already, its key made it {render.age(job['createdAt'])} ago: {render.counts(job)}"
