"""``puppetmaster settings``: what is in force, and where it came from."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from puppetmaster.cli import render
from puppetmaster.cli.options import ALL, CLIENT_ONLY, Json, with_settings
from puppetmaster.settings import Settings

NAMES = ALL + CLIENT_ONLY


@with_settings(*NAMES)
def show_settings(settings: Settings, json: Json = False) -> None:
    """Print the settings that are in force and where each came from.

    Flags win over the environment, which wins over the file, which wins over the defaults.

    \b
    Example:
      PUPPETMASTER_WINDOW=100 puppetmaster settings --qos 2
    """
    rows = [(name, settings.shown(name), settings.source(name)) for name in NAMES]
    if json:
        render.print_json({name: {"value": value, "source": source} for name, value, source in rows})
        return
    table = Table("name", "value", "source", box=None, pad_edge=False, header_style="bold")
    for name, value, source in rows:
        table.add_row(name, Text("-" if value is None else render.plain(str(value))), source)
    render.show(table)
