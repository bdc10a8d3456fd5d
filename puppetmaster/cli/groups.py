"""Equal outputs of many devices, told once: 48 of them say the same, two something else, one did not answer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.text import Text

from puppetmaster.cli import render
from puppetmaster.cli.folding import fold
from puppetmaster.cli.live import ERR, clean

Document = Mapping[str, Any]

MANY = 1000
"""From so many groups on only a beginning of each output is kept."""

BEGINNING = 1024
"""Characters of it."""

SHORT, ALL = 12, 1_000_000
"""Lines of an output in a summary, after the live lines and without them."""

NAMES_WIDTH = 200
"""Characters of the names of a group, about."""

OFFLINE = "its device is offline"
"""The reason of a request that was left out because its device is away."""

_RANKS = {"resolved": 0, "error": 1, "timeout": 2, "canceled": 3}


@dataclass(slots=True)
class Group:
    """Requests that ended alike."""

    status: str
    verdict: str
    """How they ended, for people; empty when all is well."""
    stdout: str
    stderr: str
    cut_bytes: int
    destinations: list[str] = field(default_factory=list)


class Groups:
    """Counts equal outputs."""

    def __init__(self) -> None:
        self._groups: dict[bytes, Group] = {}
        self.left_out = 0
        """Devices that were to be left out because they are away."""

    def add(self, request: Document) -> None:
        """Take a request that has ended, as it travels."""
        about = request["__request"]
        data = said(about)
        self.left_out += is_left_out(about)
        group = Group(
            status=about["status"],
            verdict=verdict(about, data),
            stdout=_text(data, "stdout"),
            stderr=_text(data, "stderr"),
            cut_bytes=_whole(data.get("cutBytes")),
        )
        key = _key(group)
        found = self._groups.get(key)
        if found is None:
            if len(self._groups) >= MANY:
                group.stdout, group.stderr = group.stdout[:BEGINNING], group.stderr[:BEGINNING]
            found = self._groups[key] = group
        found.destinations.append(about["destination"])

    def __iter__(self) -> Iterator[Group]:
        """The groups, those that failed at the end, where one looks first."""
        return iter(
            sorted(self._groups.values(), key=lambda group: (_RANKS.get(group.status, 1), -len(group.destinations)))
        )


def print_groups(groups: Groups, lines: int) -> None:
    """Each group: how many, who, how it ended and what was said, in so many lines at most."""
    to = render.console()
    for group in groups:
        to.print(_head(group), soft_wrap=True)
        for line in _lines(group, lines):
            to.print(Text(line), soft_wrap=True)


def print_verdicts(groups: Groups) -> None:
    """How the groups ended in which not all is well, without what was said."""
    to = render.console()
    for group in groups:
        if group.verdict:
            to.print(_head(group), soft_wrap=True)


def _head(group: Group) -> Text:
    style = render.STYLES.get(group.status, "")
    head = Text(render.count(len(group.destinations), "device"), style=f"bold {style}".strip())
    head.append(f"{', ' if group.verdict else ''}{group.verdict}: ", style=style)
    head.append(render.plain(fold(group.destinations, NAMES_WIDTH)))
    return head


def is_left_out(about: Document) -> bool:
    """Whether a request was called off because its device is away."""
    return bool(about["status"] == "canceled" and about.get("reason") == OFFLINE)


def said(about: Document) -> Document:
    """What the agent said in the end, of a request that ended in any way."""
    result = about.get("result")
    if isinstance(result, Mapping) and about["status"] != "resolved" and "data" in result:
        result = result["data"]
    return result if isinstance(result, Mapping) else {}


def verdict(about: Document, data: Document) -> str:
    """How a request ended, in a few words; nothing when all is well."""
    status, outcome = about["status"], data.get("outcome")
    if status == "resolved":
        return ""
    if status == "timeout":
        return "no answer in time"
    if is_left_out(about):
        return "left out, offline"
    if status == "canceled":
        return f"canceled, {_word(outcome)}" if outcome else "canceled"
    if outcome == "timeout":
        return "took too long and was ended"
    if isinstance(data.get("signal"), int):
        return f"ended by signal {data['signal']}"
    if isinstance(data.get("exitCode"), int):
        return f"exit code {data['exitCode']}"
    message = data.get("message") or outcome or about.get("reason")
    return f"error {about.get('code')}" + (f", {_word(message)}" if message else "")


def _lines(group: Group, most: int) -> list[str]:
    lines = [f"    {clean(line)}".rstrip() for line in _split(group.stdout)]
    lines += [f"  {ERR} {clean(line)}".rstrip() for line in _split(group.stderr)]
    if len(lines) > most:
        rest = len(lines) - most + 1
        lines = [*lines[: most - 1], f"    ... and {rest} more lines"]
    if group.cut_bytes:
        lines.append(f"    [{render.count(group.cut_bytes, 'byte')} of it not shown]")
    return lines


def _split(text: str) -> list[str]:
    lines = text.split("\n")
    return lines if lines[-1] else lines[:-1]


def _key(group: Group) -> bytes:
    parts = (group.status, group.verdict, group.stdout, group.stderr, str(group.cut_bytes))
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode(errors="replace")
        found.update(b"%d:%b" % (len(data), data))
    return found.digest()


def _text(data: Document, name: str) -> str:
    value = data.get(name)
    return value if isinstance(value, str) else ""


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


def _word(value: object) -> str:
    return render.shortened(str(value), 100)
