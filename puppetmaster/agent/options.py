"""The agent's settings: its flags, their variables in the environment, and what each may be.

A value comes from a flag, else from the environment, else it is the default. Empty variables count as not set. Labels
and facts are gathered from both, a flag wins over the variable for the same name.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from puppetmaster.address import BrokerAddress, check_certificates
from puppetmaster.errors import SettingsError
from puppetmaster.logs import checked_log
from puppetmaster.policies import UNPUBLISHABLE, destination_fault

DESTINATION = "{destination}"

MAX_PAIRS = 64
"""How many labels, and how many facts, a device may be given."""

MAX_PAIR = 256
"""Characters of a label or fact, its name and its value each."""

MAX_TELEMETRY = 86400.0
"""Seconds: who wants telemetry less often than daily turns it off."""

MAX_OUTPUT = 1024**3
"""Bytes: all of it lies on the disk while the command runs, and goes over the broker."""

MAX_FOLDER_NAME = 120
"""Bytes of the name of an agent's folder; longer ids are cut and told apart by a digest."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_SIZE = re.compile(r"([0-9]{1,12})([kKmM]?)")
_FACTORS = {"": 1, "k": 1024, "m": 1024 * 1024}
_POISON = re.compile(f"[{UNPUBLISHABLE}]")

EPILOG = """\
Each flag has a variable, PUPPETMASTER_AGENT_ID for --id and so on; lists have commas in
it. The broker may stand in PUPPETMASTER_BROKER too, the log in PUPPETMASTER_LOG. A password belongs into a file
(--broker-password-file), for everybody can read the command lines of this machine.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """Everything that can be set; times are in seconds."""

    id: str
    # The broker that puppetmaster speaks on.
    broker: BrokerAddress
    # The device's own broker, where its Sanji controller listens.
    controller: BrokerAddress | None
    controller_timeout: float
    labels: dict[str, str]
    facts: dict[str, str]
    # What may be run: off, all, or a list.
    commands: str
    folder: Path
    # Bytes of a command's output that are told.
    output_limit: int
    # Seconds between two messages; 0 is never.
    telemetry: float
    # Where requests come in, with {destination} in it.
    topic: str
    log: str
    kill_on_stop: bool


# What a value may be. Each takes a text and raises ValueError with the reason.


def _ident(text: str) -> str:
    fault = destination_fault(text)
    if fault:
        raise ValueError(fault)
    return text


def _seconds(lowest: float, highest: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not lowest <= number <= highest:
            raise ValueError(f"it must be a number from {lowest:g} to {highest:g}, not {text!r:.40}")
        return number

    return parse


def _size(text: str) -> int:
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"it must be a number of bytes, such as 65536 or 64k, not {text!r:.40}")
    size = int(found[1]) * _FACTORS[found[2].lower()]
    if size > MAX_OUTPUT:
        raise ValueError(f"it is at most {MAX_OUTPUT} bytes")
    return size


def _topic(text: str) -> str:
    rest = text.replace(DESTINATION, "", 1)
    if rest == text or "{" in rest or "}" in rest:
        raise ValueError(f"it must hold {DESTINATION} exactly once, and no other braces")
    if _POISON.search(rest) or text.startswith("$"):
        raise ValueError("it can't begin with $ or hold +, # or control characters")
    return text


def _truth(text: str) -> bool:
    if text.lower() not in ("1", "0", "true", "false", "yes", "no", "on", "off"):
        raise ValueError(f"it must be true or false, not {text!r:.40}")
    return text.lower() in ("1", "true", "yes", "on")


def _folder(text: str) -> Path:
    if "\0" in text:
        raise ValueError("it must be a path")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(str(error)) from None


def _existing_file(text: str) -> Path:
    path = _folder(text)
    try:
        there = path.is_file()
    except OSError as error:  # the folder around it can't be entered
        raise ValueError(f"can't read {path}: {error.strerror}") from None
    if not there:
        raise ValueError(f"there is no file {path}")
    return path


def _certificates(text: str) -> Path:
    path = _existing_file(text)
    check_certificates(path)
    return path


def _pairs(texts: Sequence[str]) -> dict[str, str]:
    """Read ``name=value``, each of which may hold several with commas between them."""
    pairs = {}
    for text in texts:
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, equals, value = part.partition("=")
            if not equals or not _NAME.fullmatch(name) or not value.isprintable():
                raise ValueError(f"it must be name=value with a name of letters, digits, _ - and ., not {part!r:.80}")
            if max(len(name), len(value)) > MAX_PAIR:
                raise ValueError(f"name and value have at most {MAX_PAIR} characters each")
            pairs[name] = value
    if len(pairs) > MAX_PAIRS:
        raise ValueError(f"there may be {MAX_PAIRS} of them, not {len(pairs)}")
    return pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """What is known of a setting beside its value."""

    name: str
    help: str
    # Takes a text; that of what may be repeated takes a list of them.
    parse: Callable[[Any], object] = str
    # Empty for a switch.
    metavar: str = ""
    default: object = None
    repeated: bool = False
    # Asked after the option's own variable.
    other_env: str = ""

    @property
    def flag(self) -> str:
        """Its name on a command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def env(self) -> str:
        """Its name in the environment."""
        return f"PUPPETMASTER_AGENT_{self.name.upper()}"


_OPTIONS = (
    Option(name="id", metavar="ID", parse=_ident, help="What this device is called: the destination of its requests."),
    Option(
        name="broker",
        metavar="URL",
        parse=BrokerAddress.parse,
        default=BrokerAddress(),
        other_env="PUPPETMASTER_BROKER",
        help="The broker: mqtt://user:password@host:port, mqtts:// for TLS. Default: mqtt://localhost:1883.",
    ),
    Option(
        name="broker_password_file",
        metavar="FILE",
        parse=_existing_file,
        other_env="PUPPETMASTER_BROKER_PASSWORD_FILE",
        help="The password for the broker: the first line of this file. The user stands in the broker's URL.",
    ),
    Option(
        name="broker_cert",
        metavar="FILE",
        parse=_existing_file,
        other_env="PUPPETMASTER_BROKER_CERT",
        help="The certificate that tells the broker who this is, in place of a password: a PEM file, for mqtts://.",
    ),
    Option(
        name="broker_key",
        metavar="FILE",
        parse=_existing_file,
        other_env="PUPPETMASTER_BROKER_KEY",
        help="The key of that certificate, a PEM file without a password.",
    ),
    Option(
        name="ca_file",
        metavar="FILE",
        parse=_certificates,
        other_env="PUPPETMASTER_CA_FILE",
        help="The certificates to trust with mqtts://, a PEM file. Default: those of the system.",
    ),
    Option(
        name="label",
        metavar="NAME=VALUE",
        parse=_pairs,
        repeated=True,
        help="Something to choose this device by (site=berlin). May be repeated.",
    ),
    Option(
        name="fact",
        metavar="NAME=VALUE",
        parse=_pairs,
        repeated=True,
        help="Something that is true of this device (firmware=2.1). May be repeated.",
    ),
    Option(
        name="commands",
        metavar="WHICH",
        default="off",
        help="What may be run here: off, all, or a list of commands, or @FILE with one a line. Default: off.",
    ),
    Option(
        name="output_limit",
        metavar="BYTES",
        parse=_size,
        default=1024 * 1024,
        help="How much of a command's output is told, half of it its beginning and half its end: 64k, 8m. Default: 1m.",
    ),
    Option(
        name="controller",
        metavar="URL",
        parse=BrokerAddress.parse,
        help="The broker of this device's own Sanji controller, which serves all but /agent. Default: none is there.",
    ),
    Option(
        name="controller_timeout",
        metavar="SECONDS",
        parse=_seconds(0.01, 86400),
        default=60.0,
        help="How long the controller may take to answer. Default: 60.",
    ),
    Option(
        name="telemetry",
        metavar="SECONDS",
        parse=_seconds(0, MAX_TELEMETRY),
        default=30.0,
        help="How often load, memory and so on are told; 0 is never. Default: 30.",
    ),
    Option(
        name="folder",
        metavar="FOLDER",
        parse=_folder,
        help="Where what was begun and done is remembered. Default: ~/.local/state/puppetmaster-agent/ID, for root "
        "/var/lib/puppetmaster-agent/ID.",
    ),
    Option(
        name="topic",
        metavar="TEMPLATE",
        parse=_topic,
        default="/remote/{destination}",
        other_env="PUPPETMASTER_TOPIC",
        help="Where requests come in, as puppetmaster's --topic. Default: /remote/{destination}.",
    ),
    Option(
        name="kill_on_stop",
        parse=_truth,
        default=False,
        help="End running commands with the agent. Else they go on, and the next agent takes them over.",
    ),
    Option(
        name="log",
        metavar="WHAT",
        other_env="PUPPETMASTER_LOG",
        parse=checked_log,
        default="info",
        help="What is logged: debug, info, warning, error or critical; json for lines of JSON; json:debug is both. "
        "Default: info.",
    ),
)


def options() -> tuple[Option, ...]:
    """All settings in the order in which they are shown."""
    return _OPTIONS


def read_options(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> AgentSettings:
    """The settings in force. ``--help`` and unknown flags end the process, as argparse has it.

    :raises SettingsError: when a value can't be used; it names the setting and where the value came from.
    """
    given = vars(_parser().parse_args(arguments))
    values = {option.name: _value(option, given[option.name], environ) for option in _OPTIONS}
    if values["id"] is None:
        raise SettingsError("id", "default", "say what this device is called: --id, or PUPPETMASTER_AGENT_ID")
    values["broker"] = _with_password(values["broker"], values.pop("broker_password_file"))
    values["broker"] = _with_certificate(values["broker"], values.pop("broker_cert"), values.pop("broker_key"))
    ca_file, ident = values.pop("ca_file"), values["id"]
    for name in ("broker", "controller"):
        if ca_file and values[name]:
            values[name] = replace(values[name], ca_file=ca_file)
    values["folder"] = values["folder"] or default_folder(ident, environ)
    return AgentSettings(labels=values.pop("label"), facts=values.pop("fact"), **values)


def shows_password(arguments: Sequence[str]) -> bool:
    """Whether a password stands among arguments that :func:`read_options` takes: everybody can read those."""
    given = _parser().parse_args(arguments)
    return any(BrokerAddress.parse(url).password for url in (given.broker, given.controller) if url)


def _with_password(broker: BrokerAddress, file: Path | None) -> BrokerAddress:
    try:
        return broker.with_password(file) if file is not None else broker
    except ValueError as error:
        raise SettingsError("broker_password_file", "the agent's settings", str(error)) from None


def _with_certificate(broker: BrokerAddress, cert: Path | None, key: Path | None) -> BrokerAddress:
    try:
        return broker.with_certificate(cert, key) if cert is not None or key is not None else broker
    except ValueError as error:
        name = "broker_cert" if cert is not None else "broker_key"
        raise SettingsError(name, "the agent's settings", str(error)) from None


def default_folder(ident: str, environ: Mapping[str, str] = os.environ) -> Path:
    """Where an agent keeps its state when nobody says where: one folder for each id.

    :raises SettingsError: when the user has no home.
    """
    return _state_folder(environ) / "puppetmaster-agent" / _folder_name(ident)


def _state_folder(environ: Mapping[str, str]) -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib")
    try:
        return Path(environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser()
    except RuntimeError:
        raise SettingsError("folder", "default", "this user has no home: name a folder (--folder)") from None


def _folder_name(ident: str) -> str:
    name = quote(ident, safe=" @:,;=!~")
    if name.startswith("."):
        name = "%2E" + name[1:]  # neither hidden, nor the folder above
    if len(name) > MAX_FOLDER_NAME:
        name = name[: MAX_FOLDER_NAME - 20] + "~" + hashlib.sha256(ident.encode()).hexdigest()[:16]
    return name


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="puppetmaster agent",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="puppetmaster agent --id ID [options]",
        description=textwrap.fill(
            "Run the agent: the device's side of puppetmaster. It takes the requests to this device from the broker, "
            "runs commands where that is allowed, hands everything else to the device's own Sanji controller, and "
            "tells how the device is, until Ctrl-C.",
            88,
        ),
        epilog=EPILOG,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="help", help="Show this, and exit.")
    for option in _OPTIONS:
        if not option.metavar:
            parser.add_argument(option.flag, dest=option.name, action="store_const", const="true", help=option.help)
        elif option.repeated:
            parser.add_argument(
                option.flag, dest=option.name, action="append", default=[], metavar=option.metavar, help=option.help
            )
        else:
            parser.add_argument(option.flag, dest=option.name, metavar=option.metavar, help=option.help)
    return parser


def _value(option: Option, flag: Any, environ: Mapping[str, str]) -> Any:
    if option.repeated:
        told = _parsed(option, [environ.get(option.env, "")], f"environment {option.env}")
        return {**told, **_parsed(option, flag, f"flag {option.flag}")}
    if flag is not None:
        return _parsed(option, flag, f"flag {option.flag}")
    for env in filter(None, (option.env, option.other_env)):
        if environ.get(env):
            return _parsed(option, environ[env], f"environment {env}")
    return option.default


def _parsed(option: Option, value: Any, source: str) -> Any:
    try:
        return option.parse(value)
    except ValueError as error:
        raise SettingsError(option.name, source, str(error)) from None
