"""The parser ``blender_render``: what Blender prints while it renders.

Its lines, as of the versions 2.6 to 4: ``Fra:12 Mem:8.32M (Peak 9.1M) | Time:00:01.23 | Remaining:00:10.50 | Mem:...,
Scene | Rendered 3/64 Tiles`` and ``Saved: '/tmp/0012.png'``, the path without quotes in older ones.
"""

from __future__ import annotations

import re

from puppetmaster.farm.parsers.port import Reading

MAX_LINE = 4096
"""Characters of a line that are kept until its end comes."""

MAX_FILES = 100
"""The names of so many files are kept, the last ones."""

_FRAME = re.compile(r"^Fra:(-?\d{1,9})\b")
_REMAINING = re.compile(r"\bRemaining:(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2}(?:\.\d{1,6})?)")
_SAVED = re.compile(r"^Saved: ?(?:'([^']{1,4096})'|(\S{1,4096}))")


class BlenderOutput:
    """Reads the output of one run of Blender, or of several."""

    def __init__(self, frame_start: int, frame_end: int) -> None:
        self._first = frame_start
        self._count = max(1, frame_end - frame_start + 1)
        self._rest = ""
        self._frame: int | None = None
        self._remaining: float | None = None
        self._files: dict[str, None] = {}
        self._saved: set[int] = set()
        self._activity = ""

    def feed(self, text: str) -> Reading:
        """Take more of the output and tell all that is known."""
        *lines, rest = (self._rest + text).replace("\r", "\n").split("\n")
        self._rest = rest[-MAX_LINE:]
        for line in lines:
            self._take(line)
        return Reading(
            progress=self._progress(),
            frame_current=self._frame,
            remaining=self._remaining,
            files=tuple(self._files),
            activity=self._activity,
        )

    def _take(self, line: str) -> None:
        if (frame := _FRAME.match(line)) is not None:
            self._frame = int(frame[1])
            remaining = _REMAINING.search(line)
            self._remaining = _seconds(remaining) if remaining else None
            if " | " in line:
                self._activity = line.rsplit(" | ", 1)[1].strip()[:200]
        elif (saved := _SAVED.match(line)) is not None:
            self._files[saved[1] or saved[2]] = None
            if len(self._files) > MAX_FILES:
                del self._files[next(iter(self._files))]
            if self._frame is not None:
                self._saved.add(self._frame)

    def _progress(self) -> int | None:
        """The share of frames that are done: those that were saved, or those before the one that is rendered."""
        if self._frame is None:
            return None
        done = max(len(self._saved), min(self._frame - self._first, self._count))
        return max(0, min(100, 100 * done // self._count))


def _seconds(found: re.Match[str]) -> float:
    return int(found[1] or 0) * 3600 + int(found[2]) * 60 + float(found[3])
