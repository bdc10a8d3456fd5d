"""Many destinations in few words: what :mod:`puppetmaster.cli.destinations` expands, folded again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_NUMBERED = re.compile(r"(.*?)([0-9]{1,12})([^0-9]*)", re.DOTALL)


def fold(names: Iterable[str], width: int = 0) -> str:
    """Names in their order, with ranges for the last number in them: ``device-[0001-0048],gateway``.

    :param width: how many characters there may be, about; what is cut is counted then. 0 means all.
    """
    parts = list(_ranges(sorted(set(names), key=_order)))
    shown: list[str] = []
    size = 0
    for text, _ in parts:
        if width and shown and size + len(text) > width:
            break
        shown.append(text)
        size += len(text) + 1
    rest = sum(count for _, count in parts[len(shown) :])
    return ",".join(shown) + (f" and {rest} more" if rest else "")


def _order(name: str) -> tuple[str, str, int, int, str]:
    found = _NUMBERED.fullmatch(name)
    if found is None:
        return name, "", -1, 0, name
    return found[1], found[3], int(found[2]), len(found[2]), name


def _ranges(names: list[str]) -> Iterator[tuple[str, int]]:
    """Texts, and how many names each stands for."""
    run: list[str] = []
    for name in names:
        if run and not _follows(run, name):
            yield _text(run), len(run)
            run = []
        run.append(name)
    if run:
        yield _text(run), len(run)


def _follows(run: list[str], name: str) -> bool:
    """Whether a name is the next one of a range, as that is expanded again."""
    start, end, number, _, _ = _order(run[-1])
    width = _order(run[0])[3]
    return number >= 0 and name == f"{start}{number + 1:0{width}d}{end}"


def _text(run: list[str]) -> str:
    first, last = _NUMBERED.fullmatch(run[0]), _NUMBERED.fullmatch(run[-1])
    if len(run) == 1 or first is None or last is None:
        return run[0]
    return f"{first[1]}[{first[2]}-{last[2]}]{first[3]}"
