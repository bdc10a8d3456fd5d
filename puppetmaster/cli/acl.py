"""``puppetmaster acl``: who may do what on the bus, for the broker that is to see to it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from puppetmaster.cli.options import with_settings
from puppetmaster.cli.outcome import BadUsage, say
from puppetmaster.errors import SettingsError
from puppetmaster.settings import Settings

if TYPE_CHECKING:
    from puppetmaster.acl import MosquittoAcl

app = typer.Typer(no_args_is_help=True, help="Say to a broker who may do what on the bus.")

_USERS = "Users, several of a kind with commas between them; '' leaves a kind out"
_PLACE = "The broker"


def _user(flag: str, help: str) -> Any:
    return typer.Option(flag, metavar="NAME", help=help, rich_help_panel=_USERS)


@app.command("mosquitto")
@with_settings("instance", "topic", "channel", "data")
def mosquitto(
    settings: Settings,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FOLDER", help="Write the files here, in place of printing them.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")] = False,
    puppetmaster_user: Annotated[str, _user("--puppetmaster-user", "The bundle.")] = "puppetmaster",
    controller_user: Annotated[str, _user("--controller-user", "The Sanji controller.")] = "controller",
    view_user: Annotated[str, _user("--view-user", "Bundles that watch jobs; they may make jobs, too.")] = "view",
    tool_user: Annotated[str, _user("--tool-user", "The command line over the bus.")] = "tool",
    reader_user: Annotated[str, _user("--reader-user", "Sees the states of the jobs, and can do nothing.")] = "reader",
    folder: Annotated[
        str, typer.Option("--folder", metavar="FOLDER", help="Where its files will lie.", rich_help_panel=_PLACE)
    ] = "/etc/mosquitto",
    devices: Annotated[
        str,
        typer.Option("--devices-listener", metavar="PORT", help="For devices.", rich_help_panel=_PLACE),
    ] = "8883",
    parts: Annotated[
        str,
        typer.Option(
            "--parts-listener", metavar="'PORT ADDRESS'", help="For everybody else.", rich_help_panel=_PLACE
        ),
    ] = "8884 127.0.0.1",
) -> None:
    """Print what Mosquitto (2.0.11 or newer) needs so that each device has exactly its own topics.

    There are three files: lines for mosquitto.conf, with TLS; the access list; and a script that makes the passwords.
    Each device is a user with the name of its destination. The instance is the one that is set, else the one that the
    data folder holds.

    A name with a colon in it (a MAC address) can't have a password in Mosquitto's file: such devices need certificates
    (--broker-cert); mosquitto.conf says how. A user with + or # in its name may do nothing. Give none a / in its name:
    no destination has one, and up to 2.0 Mosquitto reads it as two levels of a topic.

    \b
    Examples:
      puppetmaster acl mosquitto --instance site-1
      puppetmaster acl mosquitto --data /var/lib/puppetmaster/data --output files
      puppetmaster acl mosquitto --tool-user ana,ben --view-user ''
    """
    from puppetmaster.acl import MosquittoAcl, Place, UnusableName, Users

    try:
        acl = MosquittoAcl(
            _instance(settings),
            settings.topic,
            Users(
                puppetmaster=puppetmaster_user,
                controller=controller_user,
                view=view_user,
                tool=tool_user,
                reader=reader_user,
            ),
            Place(folder=folder.rstrip("/") or "/", devices=_line(devices), parts=_line(parts)),
            through_controller=settings.channel == "controller",
        )
    except UnusableName as error:
        raise BadUsage("--" + error.what.replace(" ", "-"), str(error).partition(": ")[2]) from None
    if output is None:
        _print(acl)
    else:
        _write(acl, output, force=force)


def _instance(settings: Settings) -> str:
    from puppetmaster.documents import META, META_ID
    from puppetmaster.store.peek import peek

    try:
        found = settings.instance or (peek(settings.data, META, META_ID) or {}).get("instance")
    except PermissionError as error:
        raise SettingsError(
            "data",
            settings.source("data"),
            f"can't read {error.filename or settings.data}: name the instance (--instance), or run this with sudo",
        ) from None
    if not found:
        raise SettingsError(
            "instance",
            settings.source("instance"),
            f"no puppetmaster has run on {settings.data}, so name its instance (--instance) or its folder (--data)",
        )
    return str(found)


def _line(text: str) -> str:
    if not text.isprintable() or not text.strip():
        raise BadUsage("listener", "it is a port, or a port and an address")
    return text.strip()


def _print(acl: MosquittoAcl) -> None:
    for name, text in acl.files().items():
        typer.echo(f"# ---------- {name} ----------\n{text}")


def _write(acl: MosquittoAcl, folder: Path, *, force: bool) -> None:
    files = acl.files()
    there = [name for name in files if (folder / name).exists()]
    if there and not force:
        raise BadUsage("--output", f"{', '.join(there)} in {folder}: there already; --force overwrites")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    say(f"{', '.join(files)} in {folder}; next, there: sh passwords.sh < the names of your devices")
