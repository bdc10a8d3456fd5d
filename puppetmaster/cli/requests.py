"""``puppetmaster requests``: single requests, of all jobs or of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from puppetmaster.cli import command, render
from puppetmaster.cli.live import clean
from puppetmaster.cli.options import REACH, Json, Limit, Offset, with_settings
from puppetmaster.cli.outcome import say_if_page
from puppetmaster.cli.running import talk
from puppetmaster.settings import Settings

if TYPE_CHECKING:
    from puppetmaster.client import Document, DocumentClient

app = typer.Typer(no_args_is_help=True, help="List, show and cancel requests.")

RequestId = Annotated[int, typer.Argument(metavar="ID", min=0, help="The request's number.", show_default=False)]


@app.command("list")
@with_settings(*REACH)
def list_requests(
    settings: Settings,
    status: Annotated[
        list[str] | None,
        typer.Option("--status", metavar="STATUS", help="Only those in this status, such as error. May be repeated."),
    ] = None,
    destination: Annotated[
        list[str] | None,
        typer.Option(
            "--destination",
            "-d",
            metavar="DEV",
            help="Only those to this destination; * stands for any characters ('dev-*'). May be repeated.",
        ),
    ] = None,
    job: Annotated[int | None, typer.Option("--job", metavar="ID", min=0, help="Only those of this job.")] = None,
    limit: Limit = 100,
    offset: Offset = 0,
    json: Json = False,
) -> None:
    """List requests.

    \b
    Examples:
      puppetmaster requests list --job 1000000 --status error
      puppetmaster requests list --destination 'device-00*'
    """
    query = {"status": status, "destination": destination, "job": job, "limit": limit, "offset": offset}

    async def conversation(client: DocumentClient) -> list[Document]:
        found = await client.requests(**query)
        if job is not None and not found:
            # A list of the requests of an unknown job is empty; here it is more likely a slip of the fingers.
            await client.job(job, collection=False, limit=0)
        return found

    requests = talk(settings, conversation)
    if json:
        render.print_json(requests)
    elif requests:
        render.print_requests(requests)
        say_if_page(len(requests), limit, offset)
    else:
        typer.echo("no requests")


@app.command("show")
@with_settings(*REACH)
def show_request(settings: Settings, request_id: RequestId, json: Json = False) -> None:
    """Show a request and what came of it, and what its command printed.

    \b
    Example:
      puppetmaster requests show 1000001
    """
    request = talk(settings, lambda client: client.get_request(request_id))
    if json:
        render.print_json(request)
    else:
        render.print_request(request)
        _print_output(request)


@app.command("cancel")
@with_settings(*REACH)
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


def _print_output(request: Document) -> None:
    """What a command printed, as it is: below what is known of its request."""
    answer = command.answer_of(request["__request"].get("result")) or {}
    for name in command.OUTPUTS:
        text = answer.get(name)
        if isinstance(text, str) and text:
            typer.echo(f"\n{name}:")
            for line in text.removesuffix("\n").split("\n"):
                typer.echo(clean(line).rstrip())
