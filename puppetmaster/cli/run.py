"""``puppetmaster run``: one command on many devices."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from puppetmaster.cli.destinations import expand
from puppetmaster.cli.new_job import DryRun, Watching, make
from puppetmaster.cli.options import REACH, Json, positive, with_settings
from puppetmaster.cli.outcome import BadUsage
from puppetmaster.settings import Settings
from puppetmaster.times import from_text, to_text

if TYPE_CHECKING:
    from puppetmaster.client import DocumentClient

Document = dict[str, Any]

_DELAY = re.compile(r"\+([0-9]{1,9})(s|m|h|d)")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

_JOB, _RETRY, _PACE = "The job", "Retry", "Pace"


class Method(str, Enum):
    """The methods of the Sanji protocol."""

    GET = "get"
    POST = "post"
    PUT = "put"
    DELETE = "delete"


def _seconds(flag: str, help: str, panel: str) -> Any:
    return typer.Option(flag, parser=positive, metavar="SECONDS", help=help, rich_help_panel=panel)


@with_settings(*REACH)
def run(
    settings: Settings,
    method: Annotated[
        Method, typer.Argument(metavar="METHOD", case_sensitive=False, help="What to do with the resource.")
    ],
    resource: Annotated[
        str, typer.Argument(metavar="RESOURCE", help="The resource on the device, such as /system/reboot.")
    ],
    destinations: Annotated[
        list[str],
        typer.Option(
            "--destination",
            "-d",
            metavar="DEV",
            help="Where to: a,b or device-[0001-0050], @file or - with one on each line. May be repeated.",
        ),
    ],
    data: Annotated[
        str | None, typer.Option(metavar="JSON", help="What to send along: JSON, or @file with JSON.")
    ] = None,
    watching: Watching = False,
    dry_run: DryRun = False,
    json: Json = False,
    name: Annotated[str | None, typer.Option(metavar="TEXT", help="A name for the job.", rich_help_panel=_JOB)] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="A label to find it by. May be repeated.", rich_help_panel=_JOB),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="The same key never makes a second job of the same content.", rich_help_panel=_JOB
        ),
    ] = None,
    timeout: Annotated[float | None, _seconds("--timeout", "How long the whole job may take.", _JOB)] = None,
    request_timeout: Annotated[
        float | None, _seconds("--request-timeout", "How long a device may take to answer.", _JOB)
    ] = None,
    priority: Annotated[
        int | None,
        typer.Option(metavar="0-100", min=0, max=100, help="A higher one goes first.", rich_help_panel=_JOB),
    ] = None,
    start_at: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="When to begin: 2026-01-31T12:00:00Z (or +02:00), or +90s, +10m, +2h, +1d.",
            rich_help_panel=_JOB,
        ),
    ] = None,
    abort: Annotated[
        float | None,
        typer.Option(
            parser=positive, metavar="PERCENT", help="Give up when so many of what ended failed.", rich_help_panel=_JOB
        ),
    ] = None,
    abort_minimum: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="... but not before so many ended.", rich_help_panel=_JOB),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="How many devices at once.", rich_help_panel=_PACE),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(parser=positive, metavar="N", help="How many requests a minute.", rich_help_panel=_PACE),
    ] = None,
    rate_factor: Annotated[
        float | None,
        typer.Option(
            parser=positive, metavar="X", help="Multiply the rate by it, again and again.", rich_help_panel=_PACE
        ),
    ] = None,
    rate_every: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="... each time so many resolved.", rich_help_panel=_PACE),
    ] = None,
    rate_max: Annotated[
        float | None,
        typer.Option(parser=positive, metavar="N", help="... up to so many a minute.", rich_help_panel=_PACE),
    ] = None,
    retry: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, help="How often to try again what failed for the moment.", rich_help_panel=_RETRY
        ),
    ] = None,
    retry_on: Annotated[
        str | None,
        typer.Option(metavar="CODES", help="What is tried again, such as 423,503,timeout.", rich_help_panel=_RETRY),
    ] = None,
    retry_delay: Annotated[float | None, _seconds("--retry-delay", "Before the second attempt.", _RETRY)] = None,
    retry_factor: Annotated[
        float | None,
        typer.Option(
            parser=positive, metavar="X", help="Each delay is so many times the last.", rich_help_panel=_RETRY
        ),
    ] = None,
    retry_max_delay: Annotated[float | None, _seconds("--retry-max-delay", "The longest delay.", _RETRY)] = None,
) -> None:
    """Run one command on many devices.

    \b
    Examples:
      puppetmaster run -d 'device-[0001-0050]' post /system/reboot --watch
      puppetmaster run -d @names.txt put /net --data '{"dhcp": true}' --rate 60
      puppetmaster run -d 'device-[0001-0050]' post /system/reboot --dry-run
    """
    document = _given(
        batch=[_message(method, resource, data, destinations)],
        name=name,
        labels=label or None,
        key=key,
        timeout=timeout,
        requestTimeout=request_timeout,
        priority=priority,
        startAt=_start_at(start_at),
        concurrency=concurrency,
        abort=_part("--abort-minimum", "--abort", errorPercent=abort, minimum=abort_minimum),
        rate=_part("--rate-...", "--rate", perMinute=rate, factor=rate_factor, every=rate_every, max=rate_max),
        retry=_given(
            limit=retry,
            on=_retry_on(retry_on),
            delay=retry_delay,
            factor=retry_factor,
            maxDelay=retry_max_delay,
        )
        or None,
    )
    make(settings, document, _create, watching=watching, dry_run=dry_run, json=json)


async def _create(client: DocumentClient, document: Document) -> Document:
    return await client.create_job(document)


def _message(method: Method, resource: str, data: str | None, destinations: Sequence[str]) -> Document:
    if not resource.startswith("/"):
        raise BadUsage("RESOURCE", f"it begins with /, as in /system/reboot, not {resource!r:.80}")
    try:
        expanded = expand(destinations, sys.stdin)
    except ValueError as error:
        raise BadUsage("-d", str(error)) from None
    return _given(method=method.value, resource=resource, data=_read_data(data), __request={"destination": expanded})


def _read_data(text: str | None) -> Any:
    if text is None:
        return None
    content: str | bytes = text
    if text.startswith("@"):
        try:
            content = Path(text[1:]).read_bytes()
        except OSError as error:
            raise BadUsage("--data", f"can't read {text[1:]}: {error.strerror or error}") from None
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise BadUsage("--data", f"it is no valid JSON ({error}); quote it: --data '{{\"a\": 1}}'") from None


def _start_at(text: str | None) -> str | None:
    if text is None:
        return None
    delay = _DELAY.fullmatch(text)
    try:
        return to_text(time.time() + int(delay[1]) * _SECONDS[delay[2]] if delay else from_text(text))
    except (ValueError, OverflowError):
        example = "2026-01-31T12:00:00Z or +10m"
        raise BadUsage("--start-at", f"it is a time such as {example}, not {text!r:.40}") from None


def _retry_on(text: str | None) -> list[int | str] | None:
    if text is None:
        return None
    reasons = [part.strip() for part in text.split(",")]
    for reason in reasons:
        if reason != "timeout" and not re.fullmatch("[1-9][0-9]{2}", reason):
            raise BadUsage(
                "--retry-on", f"it is a list of codes and timeout, such as 423,503,timeout, not {text!r:.80}"
            )
    return [reason if reason == "timeout" else int(reason) for reason in reasons]


def _part(flags: str, needed: str, **fields: Any) -> Document | None:
    """A part of the document whose first field is what the others refine."""
    given = _given(**fields)
    if given and next(iter(fields)) not in given:
        raise BadUsage(flags, f"it needs {needed} too")
    return given or None


def _given(**fields: Any) -> Document:
    return {name: value for name, value in fields.items() if value is not None}
