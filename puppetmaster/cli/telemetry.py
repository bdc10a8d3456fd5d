"""How a device says that it is, in lines for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

Document = Mapping[str, Any]

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_TOLD_ELSEWHERE = frozenset({"architecture", "system", "release", "hostname", "memoryBytes", "diskBytes", "bootTime"})


def lines(telemetry: Any) -> dict[str, str]:
    """What is known by the names of puppetmaster's agent, then the rest under its own names; nothing where none is."""
    if not isinstance(telemetry, Mapping):
        return {}
    told = {**_mapping(telemetry.get("seldom")), **_mapping(telemetry.get("frequent"))}
    found = {
        "load": _load(told.pop("load", None)),
        "cpu": _share(told.pop("cpu", None), told.pop("cores", None), "core"),
        "memory": _part(told.pop("memory", None), told.get("memoryBytes")),
        "disk": _part(told.pop("disk", None), told.get("diskBytes")),
    }
    rest = {name: _plain(value) for name, value in told.items() if name not in _TOLD_ELSEWHERE}
    return {name: text for name, text in {**found, **rest}.items() if text}


def _mapping(value: Any) -> Document:
    return value if isinstance(value, Mapping) else {}


def _load(value: Any) -> str:
    values = value if isinstance(value, list) else [value]
    return "  ".join(f"{one:.2f}" if _is_number(one) else _plain(one) for one in values if one is not None)


def _share(percent: Any, number: Any, noun: str) -> str:
    text = _percent(percent)
    many = f"{number} {noun}{'' if number == 1 else 's'}" if _is_number(number) else ""
    return f"{text} of {many}" if text and many else text or many


def _part(percent: Any, size: Any) -> str:
    text, whole = _percent(percent), _size(size)
    return f"{text} of {whole}" if text and whole else text or whole


def _percent(value: Any) -> str:
    return f"{value:.0f} %" if _is_number(value) else "" if value is None else _plain(value)


def _size(value: Any) -> str:
    if not _is_number(value):
        return ""
    size = float(value)
    for unit in _UNITS:
        if size < 1000 or unit == _UNITS[-1]:
            break
        size /= 1024
    return f"{size:.3g} {unit}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()
