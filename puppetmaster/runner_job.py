"""What clients of jobrunner post, as an order for the agent of this machine.

::

    {"CommandLine": "make", "Environment": {"CC": "clang"}, "WorkingDirectory": "/src"}
    {"Commands": [{"CommandLine": "make"}, {"CommandLine": "make test", "Container": {"Image": "debian:12"}}]}

It is the agent's own document with other names. These count in any case, and what is null counts as not given, as it
was for the original, whose library did not look at it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from typing import Any

from puppetmaster.agent.commands import read_plan
from puppetmaster.agent.launch import TOOLS
from puppetmaster.errors import Fault, InvalidDocument, PuppetmasterError

Document = dict[str, Any]

MOUNT = ("Source", "Target", "ReadOnly")
CONTAINER = ("Image", "Network", "Mounts")
COMMAND = ("CommandLine", "Environment", "WorkingDirectory", "Container")


class NoContainers(PuppetmasterError):
    """Raised when a command wants a container, and there is nothing here that runs any."""

    code = 501

    def __init__(self) -> None:
        super().__init__(f"containers need {' or '.join(TOOLS)} on this machine, and neither is installed")


def has_engine() -> bool:
    """Whether there is a program here that runs containers."""
    return any(shutil.which(name) for name in TOOLS)


def read(body: object, has_engine: Callable[[], bool] = has_engine) -> Document:
    """The data of the order, from the body of the call.

    :raises InvalidDocument: with every fault of the body, in its own names.
    :raises NoContainers: when there is nothing that runs them.
    """
    faults: list[Fault] = []
    order = _command(body, "", faults, (*COMMAND, "Commands"))
    if "commandLine" in order and "commands" in order:
        faults.append(Fault("CommandLine", "it can't stand beside Commands"))
    if not faults:
        faults += _faults(order)
    if faults:
        raise InvalidDocument(faults)
    if any("container" in command for command in (order, *order.get("commands", ()))) and not has_engine():
        raise NoContainers
    return order


def title(order: Document) -> str:
    """An order in a few words, for people."""
    commands = order.get("commands") or [order]
    shared = order.get("container", {})
    return "; ".join(
        command.get("commandLine") or command.get("container", shared).get("image", "") for command in commands
    )


def _command(body: object, path: str, faults: list[Fault], known: tuple[str, ...] = COMMAND) -> Document:
    """A command in the agent's names."""
    order = _renamed(body, path, known, faults)
    if order.get("commandLine") == "":
        del order["commandLine"]  # what was not given was the empty text there
    if "container" in order:
        container = order["container"] = _renamed(order["container"], _join(path, "Container"), CONTAINER, faults)
        if isinstance(container.get("mounts"), list):
            at = _join(path, "Container.Mounts")
            container["mounts"] = [
                _renamed(mount, f"{at}.{number}", MOUNT, faults) for number, mount in enumerate(container["mounts"])
            ]
    if isinstance(order.get("commands"), list):
        order["commands"] = [
            _command(part, f"Commands.{number}", faults) for number, part in enumerate(order["commands"])
        ]
    return order


def _renamed(body: object, path: str, known: tuple[str, ...], faults: list[Fault]) -> Document:
    if not isinstance(body, dict):
        faults.append(Fault(path, "it has to be a JSON object"))
        return {}
    names: Mapping[str, str] = {name.lower(): name[0].lower() + name[1:] for name in known}
    found: Document = {}
    for key, value in body.items():
        name = names.get(key.lower())
        if name is None:
            faults.append(Fault(_join(path, f"{key:.100}"), f"there is no such field; there are {', '.join(known)}"))
        elif name in found:
            faults.append(Fault(_join(path, f"{key:.100}"), "the field stands twice, in another case"))
        elif value is not None:
            found[name] = value
    return found


def _faults(order: Document) -> list[Fault]:
    """What the agent has against it, in the names of the body."""
    try:
        read_plan(order)
    except InvalidDocument as error:
        return [Fault(_own(fault.path), fault.message.replace("commandLine or an argv", "CommandLine"))
                for fault in error.faults]  # fmt: skip
    return []


def _own(path: str) -> str:
    """A path in the names of the body; those of variables stay as they are."""
    before, found, variable = path.partition("environment.")
    text = ".".join(f"{part[:1].upper()}{part[1:]}" for part in f"{before}{found}".split("."))
    return text + variable


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
