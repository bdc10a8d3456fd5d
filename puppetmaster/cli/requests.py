"""``puppetmaster requests``: single requests, of all jobs or of one."""

from __future__ import annotations

from typing import Annotated

import typer

from puppetmaster.cli import render
from puppetmaster.cli.options import BROKER, Json, Limit, Offset, with_settings
from puppetmaster.cli.outcome import say_if_page
from puppetmaster.cli.running import talk
from puppetmaster.settings import Settings

app = typer.Typer(no_args_is_help=True, help="List, show and cancel requests.")

RequestId = Annotated[int, typer.Argument(metavar="ID", min=0, help="The request's number.", show_default=False)]


@app.command("list")
@with_settings(*BROKER)
def list_requests(
    settings: Settings,
    status: Annotated[
        list[str] | None,
        typer.Option("--status", metavar="STATUS", help="Only those in this status, such as error. May be repeated."),
    ] = None,
    destination: Annotated[
        str | None, typer.Option("--destination", "-d", metavar="DEV", help="Only those to this destination.")
    ] = None,
    job: Annotated[int | None, typer.Option("--job", metavar="ID", min=0, help="Only those of this job.")] = None,
    limit: Limit = 100,
    offset: Offset = 0,
    json: Json = False,
) -> None:
    """List requests.

    \b
    Example:
      puppetmaster requests list --job 1000000 --status error
    """
    query = {"status": status, "destination": destination, "job": job, "limit": limit, "offset": offset}
    requests = talk(settings, lambda client: client.requests(**query))
    if json:
        render.print_json(requests)
    elif requests:
        render.print_requests(requests)
        say_if_page(len(requests), limit, offset)
    else:
        typer.echo("no requests")


@app.command("show")
@with_settings(*BROKER)
def show_request(settings: Settings, request_id: RequestId, json: Json = False) -> None:
    """Show a request and what came of it.

    \b
    Example:
      puppetmaster requests show 1000001
    """
    request = talk(settings, lambda client: client.get_request(request_id))
    if json:
        render.print_json(request)
    else:
        render.print_request(request)


@app.command("cancel")
@with_settings(*BROKER)
def cancel_request(settings: Settings, request_id: RequestId, json: Json = False) -> None:
    """Call a request off; an answer that still comes changes nothing.

    \b
    Example:
      puppetmaster requests cancel 1000001
    """
    answer = talk(settings, lambda client: client.cancel_request(request_id))
    if json:
        render.print_json(answer)
    else:
        typer.echo(f"request {request_id} canceled")
