"""``puppetmaster accounts``: who may log in, kept in the data folder, whether or not the bundle runs."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from puppetmaster.accounts.roles import Role
from puppetmaster.cli import render
from puppetmaster.cli.options import Json, with_settings
from puppetmaster.cli.outcome import say
from puppetmaster.cli.password import read_password
from puppetmaster.errors import LastAdmin
from puppetmaster.settings import Settings
from puppetmaster.times import to_text

if TYPE_CHECKING:
    from puppetmaster.accounts.registry import Accounts

app = typer.Typer(no_args_is_help=True, help="Say who may log in over HTTP, and what each of them may do.")

DAY = 86400.0

MAX_DAYS = 3650

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="The account; capitals count as small letters.", show_default=False)
]
Force = Annotated[bool, typer.Option("--force", help="Also when no admin is left after it.")]


@app.command("add")
@with_settings("data")
def add_account(
    settings: Settings,
    name: Name,
    role: Annotated[
        Role | None,
        typer.Option("--role", help="What it may do; the first account is an admin, others are operators."),
    ] = None,
) -> None:
    """Make an account. The password is asked for, or is the first line of standard input.

    viewer: reads and watches. operator: also makes, changes and removes jobs. admin: also manages accounts.

    \b
    Examples:
      puppetmaster accounts add ana
      puppetmaster accounts add wall-display --role viewer < password.txt
    """
    accounts = _open(settings)
    accounts.check_new(name)
    first = not accounts.any()
    account = accounts.add(name, role, read_password())
    _record(settings, "post", "/accounts", account={"name": account.name, "role": account.role.value})
    typer.echo(f"account {account.name} made: {account.role.value}")
    if first:
        say(f"it is the first one in {accounts.path}: from now on a login is asked for")
    _say_if_no_admin(accounts)


@app.command("list")
@with_settings("data")
def list_accounts(settings: Settings, json: Json = False) -> None:
    """List the accounts by name.

    \b
    Example:
      puppetmaster accounts list --data /var/lib/puppetmaster/data
    """
    found = _open(settings).list()
    rows = [
        {"name": account.name, "role": account.role.value, "changedAt": to_text(account.changed)} for account in found
    ]
    if json:
        render.print_json(rows)
    elif rows:
        table = Table("name", "role", "changed", box=None, pad_edge=False, header_style="bold")
        for row in rows:
            table.add_row(row["name"], row["role"], row["changedAt"])
        render.show(table)
    else:
        typer.echo("no accounts")


@app.command("remove")
@with_settings("data")
def remove_account(settings: Settings, name: Name, force: Force = False) -> None:
    """Remove an account; its tokens end at once.

    \b
    Example:
      puppetmaster accounts remove ana
    """
    accounts = _open(settings)
    try:
        account = accounts.remove(name, force=force)
    except LastAdmin as error:
        raise _forcible(error) from None
    _record(settings, "delete", f"/accounts/{account.name}", account={"name": account.name, "role": account.role.value})
    typer.echo(f"account {account.name} removed")
    _say_if_no_admin(accounts)


@app.command("passwd")
@with_settings("data")
def change_password(settings: Settings, name: Name) -> None:
    """Set an account's password; its tokens end at once.

    \b
    Example:
      puppetmaster accounts passwd ana
    """
    accounts = _open(settings)
    account = accounts.get(name)
    accounts.change(account.name, password=read_password())
    _record(settings, "put", f"/accounts/{account.name}", changed=["password"])
    typer.echo(f"account {account.name} has a new password; its tokens have ended")


@app.command("role")
@with_settings("data")
def change_role(
    settings: Settings,
    name: Name,
    role: Annotated[
        Role, typer.Argument(metavar="ROLE", help="What it may do from now on.", show_default=False)
    ],
    force: Force = False,
) -> None:
    """Give an account another role; it counts at once.

    \b
    Example:
      puppetmaster accounts role ana viewer
    """
    accounts = _open(settings)
    try:
        account = accounts.change(name, role, force=force)
    except LastAdmin as error:
        raise _forcible(error) from None
    _record(
        settings,
        "put",
        f"/accounts/{account.name}",
        changed=["role"],
        account={"name": account.name, "role": account.role.value},
    )
    typer.echo(f"account {account.name} is {account.role.value}")
    _say_if_no_admin(accounts)


@app.command("token")
@with_settings("data")
def make_token(
    settings: Settings,
    name: Name,
    days: Annotated[
        int, typer.Option("--days", min=1, max=MAX_DAYS, metavar="N", help="For how many days it is good.")
    ] = 30,
) -> None:
    """Print a token with which a program is this account (PUPPETMASTER_TOKEN, or Authorization: Bearer).

    It can't be shown again. It ends with its time, the account, or a new password of it.

    \b
    Example:
      puppetmaster accounts token nightly --days 90
    """
    accounts = _open(settings)
    issued = accounts.issue(name, days * DAY, time.time())
    end = to_text(issued.expires_at)
    _record(settings, "post", f"/accounts/{issued.account.name}/tokens", expiresAt=end)
    say(f"good until {end}, as {issued.account.name} ({issued.account.role.value})")
    typer.echo(issued.token)


@app.command("logout")
@with_settings("data")
def end_tokens(settings: Settings, name: Name) -> None:
    """End all tokens of an account: everybody who is logged in with it, and its programs.

    \b
    Example:
      puppetmaster accounts logout ana
    """
    accounts = _open(settings)
    account = accounts.get(name)
    count = accounts.logout_all(account.name)
    _record(settings, "delete", f"/accounts/{account.name}/tokens", ended=count)
    typer.echo(f"{render.count(count, 'token')} of {account.name} ended")


def _open(settings: Settings) -> Accounts:
    from puppetmaster.accounts.registry import Accounts  # with argon2 and TinyDB, which --help does without

    return Accounts(settings.data)


def _forcible(error: LastAdmin) -> LastAdmin:
    error.args = (f"{error}, or give --force",)
    return error


def _say_if_no_admin(accounts: Accounts) -> None:
    found = accounts.list()
    if not found:
        say("no account is left: on this machine's own address no login is asked for, on others nothing is served")
    elif not any(account.role is Role.ADMIN for account in found):
        say("no account is an admin: accounts are managed with this command alone")


def _record(settings: Settings, method: str, resource: str, **details: Any) -> None:
    from puppetmaster.accounts.audit import FILE_NAME, Audit

    audit = Audit(settings.data / FILE_NAME)
    audit.record(
        at=time.time(),
        who=_system_user(),
        role=None,
        source="cli",
        method=method,
        resource=resource,
        code=200,
        **details,
    )
    audit.close()


def _system_user() -> str:
    """Who runs this, by the system and not by a variable that anybody can set."""
    try:
        import pwd

        return pwd.getpwuid(os.getuid()).pw_name
    except (ImportError, KeyError):
        return str(os.getuid()) if hasattr(os, "getuid") else "unknown"
