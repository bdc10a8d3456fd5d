"""``puppetmaster dutserver``: the dutserver alone, and its accounts, with the arguments of the original."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from puppetmaster.cli.options import with_settings
from puppetmaster.cli.outcome import BadUsage, reported, say
from puppetmaster.cli.password import read_password
from puppetmaster.dut.book import Kind
from puppetmaster.settings import Settings

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from puppetmaster.address import ListenAddress
    from puppetmaster.core import Core
    from puppetmaster.dut.accounts import DutAccounts
    from puppetmaster.edges.http.access import App

app = typer.Typer(
    no_args_is_help=True, help="Give tasks to agents that poll over HTTP, and keep their events, as dutserver does."
)

GOOD_PASSWORD = 8
"""Characters below which a password is worth a word; the original took any, and its agents may have such."""

EVERYWHERE = "0.0.0.0"

SETTINGS = (
    "request_timeout", "keep_days", "keep_jobs", "keep_requests", "max_memory", "http_cert", "http_key",
    "trusted_proxies", "log",
)  # fmt: skip

Database = Annotated[
    Path, typer.Argument(metavar="DB", help="The file with the accounts; made when it is missing.", show_default=False)
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The account.", show_default=False)]


@app.command("server")
@with_settings(*SETTINGS)
def server(
    settings: Settings,
    port: Annotated[int, typer.Argument(metavar="PORT", min=0, max=65535, help="The TCP port.", show_default=False)],
    db: Database,
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="The address to listen on.")] = EVERYWHERE,
) -> None:
    """Serve the API on a port, with the accounts in a file; tasks and events are in a folder beside it.

    \b
    Example:
      puppetmaster dutserver server 8000 test.db
    """
    from puppetmaster.address import ListenAddress

    try:
        listen = ListenAddress.parse(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    except ValueError:
        raise BadUsage("--host", f"{host!r:.80} is no address") from None
    if not _open(db).agents():
        say(f"{db} has no agents yet: puppetmaster dutserver addaccount {db} NAME agent")
    raise typer.Exit(_run(settings, listen, db))


@app.command("addaccount")
def add_account(
    db: Database,
    name: Name,
    kind: Annotated[Kind, typer.Argument(metavar="KIND", help="What it is for.", show_default=False)],
) -> None:
    """Make an account. The password is asked for, or is the first line of standard input.

    agent: gets tasks and tells events. admin: gives tasks and reads events. A server that runs sees it at once.

    \b
    Examples:
      puppetmaster dutserver addaccount test.db agent1 agent
      puppetmaster dutserver addaccount test.db root admin < password.txt
    """
    with reported():
        accounts = _open(db)
        accounts.check_new(name)
        password = read_password()
        accounts.add(name, kind, password)
    typer.echo(f"account {name} made: {kind.value}")
    if len(password) < GOOD_PASSWORD:
        say(f"its password is easy to guess: take one of at least {GOOD_PASSWORD} characters where you can")


@app.command("remove")
def remove_account(db: Database, name: Name) -> None:
    """Remove an account with its sessions. What waits for an agent waits for its timeout.

    \b
    Example:
      puppetmaster dutserver remove test.db agent1
    """
    with reported():
        account = _open(db).remove(name)
    typer.echo(f"account {account.name} removed")


def _open(db: Path) -> DutAccounts:
    from puppetmaster.dut.accounts import DutAccounts  # with argon2, which --help does without

    return DutAccounts(db)


def _run(settings: Settings, listen: ListenAddress, db: Path) -> int:
    from puppetmaster.alone import run_alone
    from puppetmaster.edges.http.dut import make_app
    from puppetmaster.systems import make_dut

    def make(core: Core, ending: AsyncExitStack) -> App:
        dut = make_dut(core, _open(db))
        ending.push_async_callback(dut.close)
        return make_app(dut)

    folder = db.with_name(f"{db.name}.d")
    advice = "name another PORT, or another address (--host)"
    return run_alone(replace(settings, data=folder), listen, make, advice=advice, own_access=True)
