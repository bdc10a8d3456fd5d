"""What an agent answered to ``post /agent/commands``, in the words of people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

Document = Mapping[str, Any]

OUTPUTS = ("stdout", "stderr")

_ENDS = ('"}', '"}}')
_ESCAPE = 6  # characters of the longest escape in a JSON text, which may have been cut in two


def answer_of(result: Any, *, cut: bool = False) -> Document | None:
    """The data of the answer, of a request that ended in any way; none when it is no command's.

    :param result: as it travels.
    :param cut: it is the beginning of the result's JSON text only.
    """
    if cut:
        result = _mended(result) if isinstance(result, str) else None
    if isinstance(result, Mapping) and {"code", "resource", "data"} == result.keys():
        result = result["data"]
    if not isinstance(result, Mapping) or not isinstance(result.get("outcome"), str) or "exitCode" not in result:
        return None
    return result


def headline(data: Document) -> str:
    """How it ended, and the first line of what it said: ``exit 0: hello``."""
    ending = _ending(data)
    line = _first_line(data)
    return f"{ending}: {line}" if line else ending


def facts(data: Document) -> dict[str, Any]:
    """All but its output, as far as there is something to say."""
    return {name: value for name, value in data.items() if name not in OUTPUTS and value is not None}


def _ending(data: Document) -> str:
    exit_code, message = data["exitCode"], data.get("message")
    is_over = data["outcome"] in ("done", "failed")
    if is_over and isinstance(exit_code, int) and not data.get("signal"):
        return f"exit {exit_code}"
    return message if isinstance(message, str) and message else str(data["outcome"])


def _first_line(data: Document) -> str:
    # Of what went wrong stderr tells more.
    names = OUTPUTS if data["exitCode"] == 0 else reversed(OUTPUTS)
    for name in names:
        text = data.get(name)
        lines = text.strip().splitlines() if isinstance(text, str) else []
        if lines:
            return lines[0].rstrip()
    return ""


def _mended(text: str) -> Any:
    """What a JSON text began to say that was cut, as it is nearly always, within the output."""
    for left_out in range(_ESCAPE + 1):
        for end in _ENDS:
            try:
                return orjson.loads(text[: len(text) - left_out] + end)
            except orjson.JSONDecodeError:
                continue
    return None
