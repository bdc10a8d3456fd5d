"""The data of ``post /agent/commands``, checked by hand: what is run, and how.

::

    {"commandLine": "uptime", "timeout": 10}
    {"argv": ["ls", "-l"], "workingDirectory": "/tmp", "user": "www", "environment": {"LANG": "C"}}
    {"commands": [{"commandLine": "make"}, {"commandLine": "make install", "user": "root"}], "timeout": 600}
    {"argv": ["id"], "container": {"image": "alpine", "mounts": [{"source": "/srv", "target": "/srv"}]}}

What stands beside ``commands`` holds for each of them that says nothing else; its ``timeout`` is for all together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from puppetmaster.errors import Fault, InvalidDocument

MAX_COMMANDS = 1000
MAX_WORDS = 10_000
MAX_VARIABLES = 1000
MAX_MOUNTS = 100
MAX_FAULTS = 20
MAX_TIMEOUT = 10 * 366 * 86400.0
"""Ten years, in seconds: what is longer is a mistake, and may be too much for a clock."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,63}\$?")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./:@\-]{0,511}")
_NETWORK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:\-]{0,127}")
_UNMOUNTABLE = re.compile(r'[,"\n\r]')
_SHARED = ("environment", "workingDirectory", "user", "container")
_OWN = ("commandLine", "argv", "timeout")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A folder or file of this machine inside a container."""

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """What a command is run in."""

    image: str
    mounts: tuple[Mount, ...] = ()
    network: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command."""

    line: str | None = None
    """What a shell runs, or else ``argv``."""
    argv: tuple[str, ...] = ()
    """The words; none at all in a container means what its image does by itself."""
    environment: Mapping[str, str] = field(default_factory=dict)
    directory: str | None = None
    user: str | None = None
    timeout: float | None = None
    """Seconds."""
    container: Container | None = None

    def asks_for(self, name: str) -> bool:
        """Whether a field is set, by its name on the wire."""
        value = {"workingDirectory": self.directory, "user": self.user, "container": self.container}.get(name)
        return bool(self.environment) if name == "environment" else value is not None

    def without_shell(self) -> Command:
        """The same as words that no shell looks at; for lines without quotes."""
        return self if self.line is None else replace(self, line=None, argv=tuple(self.line.split()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What an order asks for."""

    commands: tuple[Command, ...]
    is_sequence: bool = False
    timeout: float | None = None
    """Seconds for all together."""


def read_plan(data: Any) -> Plan:
    """The plan that an order's data describe.

    :raises InvalidDocument: with every fault, when they describe none.
    """
    reader = _Reader()
    plan = reader.plan(data)
    if reader.faults or plan is None:
        raise InvalidDocument(reader.faults[:MAX_FAULTS])
    return plan


class _Bad(Exception):
    """Raised when a field can't be read."""

    def __init__(self, path: str, message: str) -> None:
        self.fault = Fault(path, message)


class _Reader:
    """Reads a document and gathers what is wrong with it: the first fault of each field."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def plan(self, data: Any) -> Plan | None:
        if not isinstance(data, dict):
            self._fault("", "it must be an object with commandLine, argv or commands")
            return None
        if "commands" not in data:
            command = self._command(data, "", {})
            return Plan(commands=(command,))
        self._know(data, "", ("commands", "timeout", *_SHARED))
        shared = self._shared(data, "")
        return Plan(commands=self._sequence(data, shared), is_sequence=True, timeout=self._timeout(data, ""))

    def _sequence(self, data: dict[str, Any], shared: dict[str, Any]) -> tuple[Command, ...]:
        listed = data["commands"]
        if not isinstance(listed, list) or not 1 <= len(listed) <= MAX_COMMANDS:
            self._fault("commands", f"it must be a list of 1 to {MAX_COMMANDS} commands")
            return ()
        found = []
        for number, item in enumerate(listed):
            if len(self.faults) >= MAX_FAULTS:
                break
            if isinstance(item, dict):
                found.append(self._command(item, f"commands.{number}", shared))
            else:
                self._fault(f"commands.{number}", "it must be an object with commandLine or argv")
        return tuple(found)

    def _command(self, data: dict[str, Any], path: str, shared: dict[str, Any]) -> Command:
        self._know(data, path, (*_OWN, *_SHARED))
        own = self._shared(data, path)
        fields = {**shared, **own}
        fields["environment"] = {**shared.get("environment", {}), **own.get("environment", {})}
        line = self._field(data, path, "commandLine", _line)
        argv = self._field(data, path, "argv", _argv)
        if "commandLine" in data and "argv" in data:
            self._fault(_join(path, "argv"), "there can be a commandLine or an argv, not both")
        elif not {"commandLine", "argv"} & data.keys() and fields.get("container") is None:
            self._fault(path, "a commandLine or an argv is missing")
        return Command(line=line, argv=argv or (), timeout=self._timeout(data, path), **fields)

    def _shared(self, data: dict[str, Any], path: str) -> dict[str, Any]:
        found = {
            "environment": self._field(data, path, "environment", _environment),
            "directory": self._field(data, path, "workingDirectory", _directory),
            "user": self._field(data, path, "user", _user),
            "container": self._field(data, path, "container", _container),
        }
        return {name: value for name, value in found.items() if value is not None}

    def _timeout(self, data: dict[str, Any], path: str) -> float | None:
        return self._field(data, path, "timeout", _seconds)

    def _field(self, data: dict[str, Any], path: str, name: str, read: Callable[[Any, str], T]) -> T | None:
        if name not in data:
            return None
        try:
            return read(data[name], _join(path, name))
        except _Bad as bad:
            self.faults.append(bad.fault)
            return None

    def _know(self, data: dict[str, Any], path: str, names: tuple[str, ...]) -> None:
        try:
            _know(data, path, names)
        except _Bad as bad:
            self.faults.append(bad.fault)

    def _fault(self, path: str, message: str) -> None:
        self.faults.append(Fault(path, message))


def _line(value: Any, path: str) -> str:
    text = _text(value, path)
    if not text.strip():
        raise _Bad(path, "it is empty")
    return text


def _argv(value: Any, path: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_WORDS:
        raise _Bad(path, f"it must be a list of 1 to {MAX_WORDS} words")
    words = tuple(_text(word, f"{path}.{number}") for number, word in enumerate(value))
    if not words[0] or "=" in words[0]:
        raise _Bad(f"{path}.0", "it must be the name of a program, without =")
    return words


def _environment(value: Any, path: str) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > MAX_VARIABLES:
        raise _Bad(path, f"it must be an object with at most {MAX_VARIABLES} variables")
    for name, text in value.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise _Bad(f"{path}.{name:.80}", "a variable's name has letters, digits and _ and begins with no digit")
        _text(text, f"{path}.{name:.80}")
    return value


def _directory(value: Any, path: str) -> str:
    text = _text(value, path)
    if not text.startswith("/") or len(text) > 4096:
        raise _Bad(path, "it must be an absolute path")
    return text


def _user(value: Any, path: str) -> str:
    if not isinstance(value, str) or not _USER.fullmatch(value):
        raise _Bad(path, "it must be the name of a user")
    return value


def _container(value: Any, path: str) -> Container:
    if not isinstance(value, dict):
        raise _Bad(path, "it must be an object with an image")
    _know(value, path, ("image", "mounts", "network"))
    image, network, mounts = value.get("image"), value.get("network"), value.get("mounts", [])
    if not isinstance(image, str) or not _IMAGE.fullmatch(image):
        raise _Bad(_join(path, "image"), "it must be the name of an image")
    if network is not None and (not isinstance(network, str) or not _NETWORK.fullmatch(network)):
        raise _Bad(_join(path, "network"), "it must be the name of a network, host or none")
    if not isinstance(mounts, list) or len(mounts) > MAX_MOUNTS:
        raise _Bad(_join(path, "mounts"), f"it must be a list of at most {MAX_MOUNTS} mounts")
    found = tuple(_mount(mount, f"{path}.mounts.{number}") for number, mount in enumerate(mounts))
    return Container(image=image, network=network, mounts=found)


def _mount(value: Any, path: str) -> Mount:
    if not isinstance(value, dict):
        raise _Bad(path, "it must be an object with source and target")
    _know(value, path, ("source", "target", "readOnly"))
    read_only = value.get("readOnly", False)
    if not isinstance(read_only, bool):
        raise _Bad(_join(path, "readOnly"), "it must be true or false")
    source, target = (_mountable(value.get(name), _join(path, name)) for name in ("source", "target"))
    return Mount(source=source, target=target, read_only=read_only)


def _mountable(value: Any, path: str) -> str:
    text = _directory(value, path)
    if _UNMOUNTABLE.search(text):
        raise _Bad(path, "a path with a comma, a quote or a line break can't be mounted")
    return text


def _seconds(value: Any, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= MAX_TIMEOUT:
        raise _Bad(path, "it must be a number of seconds above 0")
    return float(value)


def _text(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise _Bad(path, "it must be a text")
    if "\0" in value:
        raise _Bad(path, "it holds a NUL character")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise _Bad(path, "it holds half a character") from None
    return value


def _know(data: dict[str, Any], path: str, names: tuple[str, ...]) -> None:
    for name in data:
        if name not in names:
            raise _Bad(_join(path, f"{name:.80}"), "there is no such field")


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
