"""What the user sees: tables for people, JSON for scripts."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from puppetmaster.cli import command, telemetry
from puppetmaster.times import from_text

Document = Mapping[str, Any]

WIDE = 240
"""Columns of a table that goes to a file or a pipe: nobody wants it cut to the width of a terminal."""

SHORT = 60
"""Characters of a result in a table; ``show`` prints all of it."""

ELASTIC = frozenset({"name", "resource", "result", "examples", "labels", "hostname", "value"})
"""Columns that are cut first where the terminal is narrow."""

STYLES = {
    "resolved": "green",
    "dispatching": "cyan",
    "running": "cyan",
    "sent": "cyan",
    "paused": "yellow",
    "canceled": "yellow",
    "error": "red",
    "timeout": "red",
    "aborted": "red",
}
"""The colour of a status, for jobs and requests."""

_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


def console() -> Console:
    """Standard output; made anew because tests and pipes replace it."""
    return Console(width=None if sys.stdout.isatty() else WIDE, highlight=False)


def show(table: Table) -> None:
    """Print a table; where nobody sees colours, without the blanks at the ends of its lines."""
    to = console()
    if to.is_terminal:
        to.print(table)
        return
    with to.capture() as capture:
        to.print(table)
    for line in capture.get().splitlines():
        print(line.rstrip())


def print_json(document: Any) -> None:
    """One JSON document, indented."""
    print(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())


def print_json_line(document: Any) -> None:
    """One JSON document on one line, at once."""
    print(orjson.dumps(document).decode(), flush=True)


def print_jobs(jobs: Iterable[Document]) -> None:
    """A table of jobs."""
    table = _table("id", "name", "status", "progress", "resolved", "errors", "canceled", "total", "age")
    for job in jobs:
        table.add_row(
            _cell(job.get("id")),
            _short(job.get("name")),
            _status(job),
            f"{job.get('progress', 0)} %",
            _cell(job.get("finishCount")),
            _cell(_failed(job)),
            _cell(_number_of(job, "canceled")),
            _cell(job.get("totalCount")),
            age(job.get("createdAt")),
        )
    show(table)


def print_requests(requests: Iterable[Document]) -> None:
    """A table of requests."""
    table = _table("id", "destination", "method", "resource", "status", "progress", "attempt", "code", "result")
    for request in requests:
        about = request.get("__request", {})
        table.add_row(
            _cell(request.get("id")),
            _cell(about.get("destination")),
            _cell(request.get("method")),
            _short(request.get("resource")),
            _status(about),
            f"{about.get('progress', 0)} %",
            _cell(about.get("attempt")),
            _cell(about.get("code")),
            _short(_said(about.get("result"))),
        )
    show(table)


def print_answers(groups: Iterable[Document]) -> None:
    """A table of equal answers, with some of the devices that gave each."""
    table = _table("count", "status", "code", "result", "examples")
    for group in groups:
        table.add_row(
            _cell(group.get("count")),
            _status(group),
            _cell(group.get("code")),
            _short(_said(group.get("result"), cut=bool(group.get("cut")))),
            _short(", ".join(group.get("destinations") or ())),
        )
    show(table)


def print_devices(devices: Iterable[Document]) -> None:
    """A table of devices."""
    table = _table("id", "connection", "seen", "request", "labels", "hostname", "system", "version")
    for device in devices:
        facts = device.get("facts") or {}
        table.add_row(
            _cell(device.get("id")),
            _connection(device),
            _seen(device),
            _cell(device.get("currentRequest")),
            _short(_pairs(device.get("labels"))),
            *(_short(facts.get(name)) for name in ("hostname", "system", "version")),
        )
    show(table)


def print_device(device: Document) -> None:
    """All of a device."""
    rest = {"labels": _pairs(device.get("labels")), "facts": _pairs(device.get("facts"))}
    told = telemetry.lines(device.get("telemetry"))
    if told:
        rest["telemetry"] = _ago((device.get("telemetry") or {}).get("at"))
    _print_fields({**(device if told else _without(device, "telemetry")), **rest, **told})


def print_values(values: Iterable[Document]) -> None:
    """A table of what devices say of a fact, with some of those that say it."""
    table = _table("count", "value", "examples")
    for group in values:
        examples = ", ".join(group.get("devices") or ())
        table.add_row(_cell(group.get("count")), _short(group.get("value")), _short(examples))
    show(table)


def print_job(job: Document) -> None:
    """All of a job but its requests."""
    _print_fields({**_without(job, "requests", "collection", "counts"), "counts": counts(job) or "-"})


def print_request(request: Document) -> None:
    """All of a request; data and result as JSON, and of a command's answer all but its output."""
    about = request.get("__request", {})
    answer = command.answer_of(about.get("result"))
    if answer is not None:
        about = {**_without(about, "result"), **command.facts(answer)}
    _print_fields({**_without(request, "__request"), **about})


def count(number: int, noun: str) -> str:
    """A number of things: ``1 request``, ``2 requests``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def counts(job: Document) -> str:
    """The number of requests in each status that has some: ``48 resolved, 2 running``."""
    found = job.get("counts") or {}
    return ", ".join(f"{number} {status}" for status, number in found.items() if number)


def summary(job: Document) -> str:
    """How a job ended, in a line: ``48 of 52 resolved, 1 error, 3 canceled, in 12 s``."""
    timeouts, canceled, took = _number_of(job, "timeout"), _number_of(job, "canceled"), seconds_of(job)
    parts = [f"{job['finishCount']} of {job['totalCount']} resolved", count(_number_of(job, "error"), "error")]
    parts += [count(timeouts, "timeout")] if timeouts else []
    parts += [f"{canceled} canceled"] if canceled else []
    parts += [] if took is None else [f"in {duration(took)}"]
    return f"job {job['id']} {job['status']}: {', '.join(parts)}"


def _number_of(job: Document, status: str) -> int:
    return int((job.get("counts") or {}).get(status, 0))


def _failed(job: Document) -> int:
    return _number_of(job, "error") + _number_of(job, "timeout")


def seconds_of(job: Document) -> float | None:
    """Seconds from the creation of a job to its end, or none while it has none."""
    created, finished = job.get("createdAt"), job.get("finishedAt")
    return from_text(finished) - from_text(created) if created and finished else None


def age(created: str | None) -> str:
    """How long ago a time on the wire is."""
    return duration(max(0.0, time.time() - from_text(created))) if created else "-"


def duration(seconds: float) -> str:
    """Seconds as people say them: ``0.42 s``, ``12 s``, ``3 min``, ``2 h``, ``9 d``."""
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"


def plain(text: str) -> str:
    """Text from the bus without what would drive the terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def shortened(text: str, width: int) -> str:
    """Text from the bus in at most so many characters, without what would drive the terminal."""
    shown = Text(plain(text))
    shown.truncate(width, overflow="ellipsis")
    return shown.plain


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="ellipsis", no_wrap=column not in ELASTIC)
    return table


def _print_fields(fields: Document) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields.items():
        table.add_row(name, _status(fields) if name == "status" else _cell(value))
    show(table)


def _cell(value: Any) -> Text:
    if value is None or value == "":
        return Text("-")
    return Text(plain(value if isinstance(value, str) else orjson.dumps(value).decode()))


def _said(result: Any, *, cut: bool = False) -> Any:
    """What a device said, its message first, for that is what is read in a narrow column.

    The code and the resource of a failure stand in columns of their own.
    """
    answer = command.answer_of(result, cut=cut)
    if answer is not None:
        return command.headline(answer)
    if isinstance(result, Mapping) and {"code", "data"} <= result.keys() <= {"code", "resource", "data"}:
        result = result["data"]
    if not isinstance(result, Mapping) or not isinstance(result.get("message"), str):
        return result
    rest = _without(result, "message")
    return f"{result['message']} {orjson.dumps(rest).decode()}" if rest else result["message"]


def _pairs(named: Document | None) -> str:
    return ", ".join(f"{name}={_cell(value).plain}" for name, value in sorted((named or {}).items()))


def _seen(device: Document) -> str:
    """When a device gave a sign of life; this machine gives none, for it is here."""
    return "here" if device.get("channel") == "local" else _ago(device.get("lastSeenAt"))


def _ago(time_of: str | None) -> str:
    return f"{age(time_of)} ago" if time_of else "-"


def _connection(device: Document) -> Text:
    word = str(device.get("connection", "-"))
    return Text(plain(word), style={"online": "green", "offline": "red"}.get(word, ""))


def _short(value: Any) -> Text:
    """A cell of one line."""
    text = _cell(value)
    text.truncate(SHORT, overflow="ellipsis")
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _status(document: Document) -> Text:
    status = str(document.get("status", "-"))
    return Text(plain(status), style=STYLES.get(status, ""))


def _without(document: Document, *names: str) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in names}
