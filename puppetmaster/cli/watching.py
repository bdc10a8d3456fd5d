"""Watching a job: a live bar on a terminal, lines elsewhere, JSON lines for scripts."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from puppetmaster.cli import render
from puppetmaster.cli.outcome import FAILED, Interrupted, say
from puppetmaster.cli.waiting import TURN, tell_turn

if TYPE_CHECKING:
    from puppetmaster.client import Document, DocumentClient
    from puppetmaster.errors import PuppetmasterError

LINE_PERIOD = 1.0
"""Seconds at least between two lines where there is no terminal."""

NAME_WIDTH = 20
"""Characters of a job's name beside its bar: the bar is what one looks at."""


class View(Protocol):
    """Shows a job while it runs."""

    def show(self, job: Document) -> None:
        """Show the job as it is now; the last time when it has ended."""
        ...


async def watch(client: DocumentClient, job_id: int, *, json: bool) -> Document:
    """Show a job until it has ended or was removed; its last state. Says when there is no word on it for a while."""
    last: Document = {}
    is_known = asyncio.Event()

    async def tell() -> None:
        await asyncio.sleep(TURN)
        await is_known.wait()  # a slow answer is no reason to be silent for good
        await tell_turn(client, last)

    telling = None if json else asyncio.create_task(tell(), name="turn")
    try:
        with _view(json) as view:
            async for job in client.watch(job_id, told=_tell):
                view.show(job)
                last = job
                is_known.set()
    finally:
        if telling is not None:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
    return last


def _tell(reason: PuppetmasterError | None) -> None:
    say("there is word on the job again" if reason is None else f"no word on the job for now: {reason}")


def conclude(job: Document, *, json: bool) -> None:
    """Say how a job ended; the command ends with 1 when not all of it resolved."""
    if not job["finishedAt"]:
        say(f"job {job['id']} was removed while it was watched")
        raise typer.Exit(FAILED)
    if not json:
        typer.echo(render.summary(job))
    if is_success(job):
        return
    if not json and job["reason"]:
        say(f"reason: {render.plain(job['reason'])}")
    failed = [f"--status {status}" for status in ("error", "timeout") if job["counts"].get(status)]
    if not json and failed:
        say(f"the failed requests: puppetmaster requests list --job {job['id']} {' '.join(failed)}")
        say(f"to run them again: puppetmaster jobs rerun {job['id']}")
    raise typer.Exit(FAILED)


def is_success(job: Document) -> bool:
    """Whether every request of a job resolved."""
    return bool(job["status"] == "resolved" and job["errorCount"] == 0)


def goes_on(interrupted: Interrupted, job_id: int) -> Interrupted:
    """What is raised when watching was interrupted: it says that the job goes on."""
    note = f"job {job_id} goes on without this command; see it again: puppetmaster jobs watch {job_id}"
    return Interrupted(interrupted.number, note)


@contextlib.contextmanager
def _view(json: bool) -> Iterator[View]:
    if json:
        yield _JsonLines()
    elif sys.stdout.isatty():
        with _Bar(render.console()) as bar:
            yield bar
    else:
        yield _Lines()


class _JsonLines:
    def show(self, job: Document) -> None:
        render.print_json_line(job)


class _Lines:
    def __init__(self) -> None:
        self._next_at = 0.0

    def show(self, job: Document) -> None:
        now = time.monotonic()
        if now < self._next_at and not job["finishedAt"]:
            return
        self._next_at = now + LINE_PERIOD
        print(f"job {job['id']} {job['status']} {job['progress']} %: {render.counts(job)}", flush=True)


class _Bar(Progress):
    """A bar, and the counts by status in a line below it."""

    def __init__(self, console: Console) -> None:
        self._counts = Text("")
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[done]}/{task.fields[of]}"),
            TimeElapsedColumn(),
            console=console,
            expand=True,
            # What is said beside the bar goes above it, but not where it is meant for a file.
            redirect_stderr=sys.stderr.isatty(),
        )
        self._task = self.add_task("waiting for the job", total=100, done=0, of="?")

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield self._counts

    def show(self, job: Document) -> None:
        name = render.shortened(job["name"] or "", NAME_WIDTH)
        self._counts = Text.assemble(*_coloured(job))
        self.update(
            self._task,
            description=f"job {job['id']} {name}".strip(),
            completed=job["progress"],
            done=job["doneCount"],
            of=job["totalCount"],
        )


def _coloured(job: Document) -> Iterator[tuple[str, str]]:
    yield job["status"], f"bold {render.STYLES.get(job['status'], '')}".strip()
    for status, number in (job["counts"] or {}).items():
        if number:
            yield f"  {number} {status}", render.STYLES.get(status, "")
