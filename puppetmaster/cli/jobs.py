"""``puppetmaster jobs``: what there is, how far it is, and what to do with it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from puppetmaster.cli import render
from puppetmaster.cli.new_job import DryRun, Watching, make
from puppetmaster.cli.options import REACH, JobId, JobIds, Json, Limit, Offset, with_settings
from puppetmaster.cli.outcome import Interrupted, say, say_if_page
from puppetmaster.cli.running import talk
from puppetmaster.cli.watching import conclude, goes_on, watch
from puppetmaster.settings import Settings

if TYPE_CHECKING:
    from puppetmaster.client import Document, DocumentClient

app = typer.Typer(no_args_is_help=True, help="List, show, watch, steer, run again and remove jobs.")

JobFilter = Annotated[
    list[str] | None,
    typer.Option("--status", metavar="STATUS", help="Only jobs in this status, such as paused. May be repeated."),
]
RequestFilter = Annotated[
    list[str] | None,
    typer.Option("--status", metavar="STATUS", help="Only requests in this status, such as error. May be repeated."),
]
Label = Annotated[
    list[str] | None, typer.Option("--label", metavar="LABEL", help="Only jobs with this label. May be repeated.")
]
Since = Annotated[
    str | None, typer.Option("--since", metavar="TIME", help="Only jobs made since then (2026-01-31T12:00:00Z).")
]


@app.command("list")
@with_settings(*REACH)
def list_jobs(
    settings: Settings,
    status: JobFilter = None,
    label: Label = None,
    since: Since = None,
    limit: Limit = 100,
    offset: Offset = 0,
    json: Json = False,
) -> None:
    """List jobs, the newest first.

    \b
    Example:
      puppetmaster jobs list --status dispatching
    """
    query = {"status": status, "label": label, "since": since, "limit": limit, "offset": offset}
    jobs = talk(settings, lambda client: client.jobs(**query))
    if json:
        render.print_json(jobs)
    elif jobs:
        render.print_jobs(jobs)
        say_if_page(len(jobs), limit, offset)
    else:
        typer.echo("no jobs")


@app.command("show")
@with_settings(*REACH)
def show_job(
    settings: Settings,
    job_id: JobId,
    status: RequestFilter = None,
    limit: Limit = 100,
    offset: Offset = 0,
    json: Json = False,
) -> None:
    """Show a job and a page of its requests.

    \b
    Example:
      puppetmaster jobs show 1000000 --status error
    """
    job = talk(settings, lambda client: client.job(job_id, status=status, limit=limit, offset=offset))
    if json:
        render.print_json(job)
        return
    render.print_job(job)
    if job.get("requests"):
        typer.echo()
        render.print_requests(job["requests"])
        say_if_page(len(job["requests"]), limit, offset)


@app.command("watch")
@with_settings(*REACH)
def watch_job(settings: Settings, job_id: JobId, json: Json = False) -> None:
    """Show how far a job is, until it has ended. Ends with 1 when not all of it resolved.

    \b
    Example:
      puppetmaster jobs watch 1000000
    """
    try:
        job = talk(settings, lambda client: watch(client, job_id, json=json))
    except Interrupted as interrupted:
        raise goes_on(interrupted, job_id) from None
    conclude(job, json=json)


@app.command("answers")
@with_settings(*REACH)
def list_answers(
    settings: Settings,
    job_id: JobId,
    status: RequestFilter = None,
    limit: Limit = 100,
    json: Json = False,
) -> None:
    """Count the equal answers of a job's devices, the most frequent first.

    \b
    Example:
      puppetmaster jobs answers 1000000 --status error
    """
    groups = talk(settings, lambda client: client.answers(job_id, status=status, limit=limit))
    if json:
        render.print_json(groups)
    elif groups:
        render.print_answers(groups)
        if len(groups) == limit:
            say(f"these are the {limit} most frequent, there may be more: a larger --limit")
    else:
        typer.echo("no answers")


@app.command("rerun")
@with_settings(*REACH)
def rerun_job(
    settings: Settings,
    job_id: JobId,
    status: Annotated[
        list[str] | None,
        typer.Option(
            "--status", metavar="STATUS", help="Which requests: error and timeout, if not given. May be repeated."
        ),
    ] = None,
    watching: Watching = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Make a new job of the requests of a job that failed.

    \b
    Examples:
      puppetmaster jobs rerun 1000000 --watch
      puppetmaster jobs rerun 1000000 --status canceled --dry-run
    """

    async def rerun(client: DocumentClient, document: Document) -> Document:
        return await client.rerun_job(job_id, document)

    document: Document = {"status": status} if status else {}
    make(settings, document, rerun, watching=watching, dry_run=dry_run, json=json)


@app.command("pause")
@with_settings(*REACH)
def pause_jobs(settings: Settings, job_ids: JobIds, json: Json = False) -> None:
    """Stop sending requests of a job; what is out is still answered.

    \b
    Example:
      puppetmaster jobs pause 1000000
    """
    _update(settings, job_ids, "paused", json)


@app.command("resume")
@with_settings(*REACH)
def resume_jobs(settings: Settings, job_ids: JobIds, json: Json = False) -> None:
    """Go on with a paused job.

    \b
    Example:
      puppetmaster jobs resume 1000000
    """
    _update(settings, job_ids, "dispatching", json)


@app.command("cancel")
@with_settings(*REACH)
def cancel_jobs(settings: Settings, job_ids: JobIds, json: Json = False) -> None:
    """Call off what is unfinished of a job; the job stays to be looked at.

    \b
    Example:
      puppetmaster jobs cancel 1000000
    """
    _update(settings, job_ids, "canceled", json)


@app.command("remove")
@with_settings(*REACH)
def remove_jobs(settings: Settings, job_ids: JobIds, json: Json = False) -> None:
    """Call off what is unfinished of a job, and remove it with its requests.

    \b
    Example:
      puppetmaster jobs remove 1000000 1000007
    """

    def tell(job: Document) -> str:
        return f"job {job['id']} removed"

    _for_each(settings, job_ids, lambda client, job_id: client.remove_job(job_id), tell, json)


def _update(settings: Settings, job_ids: Sequence[int], status: str, json: bool) -> None:
    def tell(job: Document) -> str:
        return f"job {job['id']} {job['status']}: {render.counts(job)}"

    _for_each(settings, job_ids, lambda client, job_id: client.update_job(job_id, {"status": status}), tell, json)


def _for_each(
    settings: Settings,
    job_ids: Sequence[int],
    call: Callable[[DocumentClient, int], Awaitable[Document]],
    tell: Callable[[Document], str],
    json: bool,
) -> None:
    """Do something to jobs, one after the other, for the controller locks the bundle while it answers a write."""

    async def conversation(client: DocumentClient) -> None:
        for job_id in job_ids:
            job = await call(client, job_id)
            if json:
                render.print_json_line(job)
            else:
                typer.echo(tell(job))

    talk(settings, conversation)
