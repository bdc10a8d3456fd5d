"""``puppetmaster backup`` and ``restore``: a copy of the data folder, while it is in use, and the way back."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from puppetmaster.cli.options import with_settings
from puppetmaster.cli.outcome import say
from puppetmaster.settings import Settings

if TYPE_CHECKING:
    from puppetmaster.backup import Summary

MAX_GAP = 1_000_000_000


@with_settings("data")
def backup(
    settings: Settings,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where to; it must not be there yet.", show_default=False)
    ],
) -> None:
    """Copy the data folder, also while puppetmaster runs: jobs, devices, accounts, the audit log, output, all of it.

    The copy is read again before it gets its name. It is as secret as the data folder.

    \b
    Examples:
      puppetmaster backup /backup/monday --data /var/lib/puppetmaster/data
    """
    from puppetmaster.backup import back_up  # loads the store

    summary = back_up(settings.data, folder, now=time.time(), say=say)
    typer.echo(f"{folder}: {_told(summary)}")


@with_settings("data")
def restore(
    settings: Settings,
    folder: Annotated[Path, typer.Argument(metavar="BACKUP", help="The backup.", show_default=False)],
    skip_ids: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MAX_GAP,
            metavar="N",
            help="Ids to skip: more than jobs and requests made since the backup; 10000000 where it is not given.",
        ),
    ] = None,
) -> None:
    """Make a new data folder of a backup. Ids given since the backup are skipped, so that none comes a second time.

    \b
    Examples:
      puppetmaster restore /backup/monday --data /var/lib/puppetmaster/data
    """
    from puppetmaster.backup import ID_GAP
    from puppetmaster.backup import restore as restore_from

    summary = restore_from(folder, settings.data, gap=skip_ids or ID_GAP, say=say)
    typer.echo(f"{settings.data}: {_told(summary)}, as of {summary.made_at}")


def _told(summary: Summary) -> str:
    from puppetmaster.backup import count

    what = {"job": summary.jobs, "request": summary.requests, "device": summary.devices, "file": summary.files}
    size = max(1, round(summary.size_bytes / 1024))
    return f"{', '.join(count(number, name) for name, number in what.items())}, {size} KiB, checked"
