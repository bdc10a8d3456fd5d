"""What clients of jobrunner post, as an order for the agent of this machine.

::

    {"CommandLine": "make", "Environment": {"CC": "clang"}, "WorkingDirectory": "/src"}
    {"Commands": [{"CommandLine": "make"}, {"CommandLine": "make test", "Container": {"Image": "debian:12"}}]}

What stands beside ``Commands`` holds for each of them that does not say otherwise. Names count in any case, as they did
for the original, whose library did not look at it.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from puppetmaster.errors import Fault, InvalidDocument, PuppetmasterError

Document = dict[str, Any]

FIELDS = {name.lower(): name for name in ("CommandLine", "Environment", "WorkingDirectory", "Container", "Commands")}

ENGINES = ("podman", "docker")
"""What can run a container, the better one first: it needs no service that runs as root."""

MAX_COMMANDS = 1000


class NoContainers(PuppetmasterError):
    """Raised when a command wants a container, and there is nothing here that runs any."""

    code = 501

    def __init__(self) -> None:
        super().__init__(f"containers need {' or '.join(ENGINES)} on this machine, and neither is installed")


def find_engine() -> str | None:
    """The program that runs containers here."""
    return next((path for name in ENGINES if (path := shutil.which(name))), None)


@dataclass(slots=True)
class _Command:
    """One command, or what holds for all of them."""

    line: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    folder: str = ""
    image: str = ""
    commands: list[_Command] | None = None


def read(body: object, name: str, engine: Callable[[], str | None] = find_engine) -> Document:
    """The data of the order, from the body of the call.

    :param name: of the containers, if there are any; it is nobody else's.
    :param engine: finds what runs containers.
    :raises InvalidDocument: with every fault of the body.
    :raises NoContainers: when there is nothing that runs them.
    """
    faults: list[Fault] = []
    whole = _read(body, "", faults)
    if not faults:
        _check(whole, faults)
    if faults:
        raise InvalidDocument(faults)
    if whole.commands is None:
        return _order(whole, name, engine)
    return {
        "commands": [
            _order(_with_defaults(command, whole), f"{name}-{number}", engine)
            for number, command in enumerate(whole.commands)
        ]
    }


def title(body: object) -> str:
    """A body that was read, in a few words for people."""
    whole = _read(body, "", [])
    commands = [whole] if whole.commands is None else whole.commands
    return "; ".join(command.line or command.image for command in commands)


# Reading


def _read(body: object, path: str, faults: list[Fault]) -> _Command:
    command = _Command()
    for name, at, value in _fields(body, path, FIELDS, faults):
        if name == "CommandLine":
            command.line = _text(value, at, faults)
        elif name == "WorkingDirectory":
            command.folder = _text(value, at, faults)
        elif name == "Environment":
            command.environment = _environment(value, at, faults)
        elif name == "Container":
            found = _fields(value, at, {"image": "Image"}, faults)
            command.image = _text(found[0][2], found[0][1], faults) if found else ""
            if not command.image:
                faults.append(Fault(f"{at}.Image", "it is missing"))
        elif path:
            faults.append(Fault(at, "a command of a sequence can't be a sequence"))
        elif not isinstance(value, list) or not 0 < len(value) <= MAX_COMMANDS:
            faults.append(Fault(at, f"it has to be a list of 1 to {MAX_COMMANDS} commands"))
        else:
            command.commands = [_read(part, f"{at}.{number}", faults) for number, part in enumerate(value)]
    return command


def _fields(body: object, path: str, known: Mapping[str, str], faults: list[Fault]) -> list[tuple[str, str, Any]]:
    """The fields of an object: name, path and value. Those that are null count as not given."""
    if not isinstance(body, dict):
        faults.append(Fault(path, "it has to be a JSON object"))
        return []
    found: dict[str, tuple[str, str, Any]] = {}
    for key, value in body.items():
        name, at = known.get(key.lower()), f"{path}.{key:.100}".lstrip(".")
        if name is None:
            faults.append(Fault(at, f"there is no such field; there are {', '.join(known.values())}"))
        elif name in found:
            faults.append(Fault(at, "the field stands twice, in another case"))
        elif value is not None:
            found[name] = (name, at, value)
    return list(found.values())


def _text(value: object, path: str, faults: list[Fault]) -> str:
    if not isinstance(value, str) or "\0" in value:
        faults.append(Fault(path, "it has to be a text without NUL characters"))
        return ""
    return value


def _environment(value: object, path: str, faults: list[Fault]) -> dict[str, str]:
    if not isinstance(value, dict):
        faults.append(Fault(path, "it has to be an object of texts"))
        return {}
    for name in value:
        if not name or "=" in name or "\0" in name:
            faults.append(Fault(f"{path}.{name:.100}", "the name of a variable has no = and no NUL, and is not empty"))
    return {name: _text(text, f"{path}.{name:.100}", faults) for name, text in value.items()}


def _check(whole: _Command, faults: list[Fault]) -> None:
    if whole.commands is not None:
        if whole.line:
            faults.append(Fault("CommandLine", "it can't stand beside Commands"))
        for number, command in enumerate(whole.commands):
            if not (command.line or command.image or whole.image):
                faults.append(Fault(f"Commands.{number}.CommandLine", "it is missing"))
    elif not (whole.line or whole.image):
        faults.append(Fault("CommandLine", "it is missing"))


# Writing


def _with_defaults(command: _Command, whole: _Command) -> _Command:
    return _Command(
        line=command.line,
        environment={**whole.environment, **command.environment},
        folder=command.folder or whole.folder,
        image=command.image or whole.image,
    )


def _order(command: _Command, name: str, engine: Callable[[], str | None]) -> Document:
    if command.image:
        program = engine()
        if program is None:
            raise NoContainers
        return {"commandLine": _in_container(program, name, command)}
    order: Document = {"commandLine": command.line}
    if command.environment:
        order["environment"] = command.environment
    if command.folder:
        order["workingDirectory"] = command.folder
    return order


def _in_container(engine: str, name: str, command: _Command) -> str:
    """A shell line that runs a command in a container, and ends the container when it is told to end.

    The engine's program passes the signal on, but the first process of a container ignores what it has no handler for,
    and the container would outlive the program.
    """
    words = [engine, "run", "--rm", "--name", name]
    words += [f"--env={variable}={value}" for variable, value in command.environment.items()]
    words += [f"--workdir={command.folder}"] if command.folder else []
    words += ["--entrypoint=/bin/sh", command.image, "-c", command.line] if command.line else [command.image]
    kill = shlex.join([engine, "kill", name])
    return (
        f"trap {shlex.quote(f'{kill} >/dev/null 2>&1')} TERM\n"
        f"{shlex.join(words)} &\n"
        # The trap interrupts the first wait; the second one tells how the container ended.
        'wait "$!"; status=$?\n'
        '[ "$status" -le 128 ] || { wait "$!"; status=$?; }\n'
        'exit "$status"'
    )
