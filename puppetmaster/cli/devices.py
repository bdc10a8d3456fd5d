"""``puppetmaster devices``: who there is, what they say of themselves, and what they are called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from puppetmaster.cli import render
from puppetmaster.cli.options import REACH, Json, Limit, Offset, with_settings
from puppetmaster.cli.outcome import BadUsage, say, say_if_page
from puppetmaster.cli.running import talk
from puppetmaster.settings import Settings

if TYPE_CHECKING:
    from puppetmaster.client import Document, DocumentClient

app = typer.Typer(no_args_is_help=True, help="List, show, label and remove devices.")

DeviceId = Annotated[str, typer.Argument(metavar="ID", help="The device's name.", show_default=False)]
DeviceIds = Annotated[list[str], typer.Argument(metavar="ID...", help="The devices' names.", show_default=False)]
Connections = Annotated[
    list[str] | None,
    typer.Option(
        "--connection", "-c", metavar="WORD", help="Only those that are online, offline or unknown. May be repeated."
    ),
]
Labels = Annotated[
    list[str] | None,
    typer.Option("--label", "-l", metavar="K=V", help="Only those with this label, or with K alone. May be repeated."),
]
Facts = Annotated[
    list[str] | None,
    typer.Option("--fact", "-f", metavar="K=V", help="Only those that say this of themselves. May be repeated."),
]
Ids = Annotated[
    list[str] | None,
    typer.Option("--id", metavar="DEV", help="Only this one; * stands for any characters. May be repeated."),
]


@app.command("list")
@with_settings(*REACH)
def list_devices(
    settings: Settings,
    connection: Connections = None,
    label: Labels = None,
    fact: Facts = None,
    device: Ids = None,
    limit: Limit = 100,
    offset: Offset = 0,
    json: Json = False,
) -> None:
    """List devices.

    \b
    Examples:
      puppetmaster devices list --connection offline
      puppetmaster devices list --label site=berlin --fact version=1.2
    """
    query = {"connection": connection, "label": label, "fact": fact, "id": device, "limit": limit, "offset": offset}
    devices = talk(settings, lambda client: client.devices(**query))
    if json:
        render.print_json(devices)
    elif devices:
        render.print_devices(devices)
        say_if_page(len(devices), limit, offset)
    else:
        typer.echo("no devices")


@app.command("show")
@with_settings(*REACH)
def show_device(settings: Settings, device_id: DeviceId, json: Json = False) -> None:
    """Show a device and what it says of itself.

    \b
    Example:
      puppetmaster devices show device-0001
    """
    device = talk(settings, lambda client: client.device(device_id))
    if json:
        render.print_json(device)
    else:
        render.print_device(device)


@app.command("count")
@with_settings(*REACH)
def count_devices(
    settings: Settings,
    fact: Annotated[str, typer.Argument(metavar="FACT", help="Such as version.", show_default=False)],
    connection: Connections = None,
    label: Labels = None,
    limit: Limit = 100,
    json: Json = False,
) -> None:
    """Count devices by what they say of a fact: who still runs the old version?

    \b
    Example:
      puppetmaster devices count version --label site=berlin
    """
    query = {"connection": connection, "label": label, "limit": limit}
    values = talk(settings, lambda client: client.fact_values(fact, **query))
    if json:
        render.print_json(values)
    elif values:
        render.print_values(values)
    else:
        typer.echo("no devices")


@app.command("label")
@with_settings(*REACH)
def label_device(
    settings: Settings,
    device_id: DeviceId,
    labels: Annotated[
        list[str],
        typer.Argument(metavar="K=V|K-...", help="K=V sets a label, K- takes one away.", show_default=False),
    ],
    json: Json = False,
) -> None:
    """Give a device labels, or take some away; others stay.

    \b
    Examples:
      puppetmaster devices label device-0001 site=berlin rack=7
      puppetmaster devices label device-0001 rack-
    """
    changes = dict(_read_label(text) for text in labels)
    device = talk(settings, lambda client: client.label_device(device_id, changes))
    if json:
        render.print_json(device)
        return
    if device.get("firstSeenAt") is None:
        say(f"nobody has heard of {device_id} yet")
    found = ", ".join(f"{name}={value}" for name, value in sorted(device.get("labels", {}).items()))
    typer.echo(render.plain(f"{device_id}: {found or 'no labels'}"))


def _read_label(text: str) -> tuple[str, str | None]:
    name, sign, value = text.partition("=")
    if sign and name:
        return name, value
    if not sign and len(text) > 1 and text.endswith("-"):
        return text[:-1], None
    raise BadUsage("K=V", f"it sets a label as in site=berlin, or takes one away as in site-; this is {text!r:.80}")


@app.command("remove")
@with_settings(*REACH)
def remove_devices(settings: Settings, device_ids: DeviceIds) -> None:
    """Forget devices. One that is heard of again is known again.

    \b
    Example:
      puppetmaster devices remove device-0001
    """

    async def conversation(client: DocumentClient) -> None:
        for device_id in device_ids:
            removed: Document = await client.remove_device(device_id)
            typer.echo(render.plain(f"device {removed.get('id')} removed"))

    talk(settings, conversation)
