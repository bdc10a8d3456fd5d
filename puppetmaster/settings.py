"""The settings, in one place: what there is to set, where a value may come from, and what it may be.

A value comes from a flag, else from the environment, else from a TOML file, else it is the default. The broker has
one more source before its default: the variables that the Sanji SDK reads. Empty variables count as not set.
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from puppetmaster.address import BrokerAddress, ListenAddress, check_certificates
from puppetmaster.agent.rights import OFF, Rights
from puppetmaster.errors import SettingsError
from puppetmaster.logs import checked_log
from puppetmaster.policies import MAX_SECONDS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

CONFIG_ENV = "PUPPETMASTER_CONFIG"
CONFIG_FLAG = "--config"
DEFAULT_FILE = Path("puppetmaster.toml")
"""The file that is read from the working folder when none is named."""

SDK_HOST_ENV, SDK_PORT_ENV = "BROKER_PORT_1883_TCP_ADDR", "BROKER_PORT_1883_TCP_PORT"
"""Where the Sanji SDK looks for the broker."""

DESTINATION = "{destination}"

MAX_TOPIC = 128
"""Characters of the topic template: with a destination it stays far below the 200 levels that Mosquitto takes."""

CHANNELS = ("mqtt", "controller")

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_INSTANCE = re.compile(r"[A-Za-z0-9_-]{1,16}")

Flags = Mapping[str, object]
Parser = Callable[[Any], object]


# What a value may be. Each parser takes a text or the value itself and raises ValueError with the reason.


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"it must be a text, not a {type(value).__name__}")  # its value may be a secret
    return value


def _integer(lowest: int, highest: int) -> Parser:
    def parse(value: object) -> int:
        if isinstance(value, str) and _INTEGER.fullmatch(value.strip()):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
            raise ValueError(f"it must be a whole number from {lowest} to {highest}, not {value!r:.40}")
        return value

    return parse


MAX_MEBIBYTES = 16_777_216

_mebibytes = _integer(1, MAX_MEBIBYTES)


def _memory(value: object) -> object:
    if value is None:
        return None
    if (value.strip().lower() if isinstance(value, str) else value) in ("off", "0", 0):
        return 0
    try:
        return _mebibytes(value)
    except ValueError:
        reason = f"it must be off, or a whole number of MiB from 1 to {MAX_MEBIBYTES}, not {value!r:.40}"
        raise ValueError(reason) from None


def _number(highest: float) -> Parser:
    def parse(value: object) -> float:
        number = _float(value)
        if not 0 < number <= highest:  # NaN fails every comparison
            raise ValueError(f"it must be a number above 0 and at most {highest:.0f}, not {value!r:.40}")
        return number

    return parse


def _float(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def _one_of(words: tuple[str, ...]) -> Parser:
    def parse(value: object) -> str:
        word = value.strip().lower() if isinstance(value, str) else value
        if word not in words:
            raise ValueError(f"it must be one of {', '.join(words)}, not {value!r:.40}")
        return str(word)

    return parse


def _broker(value: object) -> BrokerAddress:
    return value if isinstance(value, BrokerAddress) else BrokerAddress.parse(_text(value).strip())


def _path(value: object) -> Path:
    text = str(value) if isinstance(value, Path) else _text(value)
    if not text or "\0" in text:
        raise ValueError("it must be a path")
    return Path(text).expanduser()


def _existing_file(value: object) -> Path | None:
    if value is None:
        return None
    path = _path(value)
    try:
        there = path.is_file()
    except OSError as error:  # the folder around it can't be entered
        raise ValueError(f"can't read {path}: {error.strerror}") from None
    if not there:
        raise ValueError(f"there is no file {path}")
    return path


def _certificates(value: object) -> Path | None:
    path = _existing_file(value)
    if path is not None:
        check_certificates(path)
    return path


def _instance(value: object) -> str | None:
    if value is None:
        return None
    if not _INSTANCE.fullmatch(_text(value)):
        raise ValueError(f"it must be 1 to 16 characters of A-Z a-z 0-9 _ -, not {value!r:.40}")
    return str(value)


def _topic(value: object) -> str:
    topic = _text(value)
    rest = topic.replace(DESTINATION, "", 1)
    if rest == topic or "{" in rest or "}" in rest:
        raise ValueError(f"it must hold {DESTINATION} exactly once, and no other braces")
    if any(char in "+#" or not char.isprintable() for char in topic):
        raise ValueError("it can't hold +, # or characters that can't be printed")
    if topic.startswith("$"):
        raise ValueError("it can't begin with $: those topics belong to the broker")
    if len(topic) > MAX_TOPIC:
        raise ValueError(f"it has at most {MAX_TOPIC} characters, not {len(topic)}")
    return topic


def _listen(value: object) -> ListenAddress | None:
    if value is None or isinstance(value, ListenAddress):
        return value
    text = _text(value).strip()
    return None if text.lower() == "off" else ListenAddress.parse(text)


def _origins(value: object) -> tuple[str, ...]:
    listed = value.split(",") if isinstance(value, str) else value
    if not isinstance(listed, (list, tuple)):
        raise ValueError("it must be a list of origins, such as https://fleet.example.com")
    origins = tuple(_text(origin).strip() for origin in listed)
    for origin in origins:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path or parts.query or parts.fragment:
            raise ValueError(f"an origin is a scheme and a host, such as https://fleet.example.com, not {origin!r:.80}")
    return origins


def _networks(value: object) -> tuple[str, ...]:
    listed = value.split(",") if isinstance(value, str) else value
    if not isinstance(listed, (list, tuple)):
        raise ValueError("it must be a list of addresses, such as 127.0.0.1")
    try:
        return tuple(str(ipaddress.ip_network(_text(entry).strip())) for entry in listed)
    except ValueError as error:
        raise ValueError(f"it must be addresses or networks with commas between them: {error}") from None


def _truth(value: object) -> bool:
    words = {"true": True, "yes": True, "1": True, "on": True, "false": False, "no": False, "0": False, "off": False}
    found = words.get(value.strip().lower()) if isinstance(value, str) else value
    if not isinstance(found, bool):
        raise ValueError(f"it must be true or false, not {value!r:.40}")
    return found


def _url(value: object) -> str | None:
    if value is None:
        return None
    url = _text(value).strip().rstrip("/")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # what it says may hold a password
        raise ValueError("it must be http://host:port or https://host:port") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("it must be http://host:port or https://host:port")
    if parts.username is not None:
        raise ValueError("it can't hold a name or a password: give a token in PUPPETMASTER_TOKEN")
    return url


def _secret(value: object) -> str | None:
    if value is None:
        return None
    text = _text(value).strip()
    if not text or not text.isascii() or not text.isprintable():
        raise ValueError("it must be a text of printable ASCII characters")
    return text


def _commands(value: object) -> str:
    text = _text(value)
    try:
        Rights.parse(text)
    except SettingsError as error:
        raise ValueError(str(error).partition(": ")[2]) from None
    return text


def _about(parse: Parser, *, env: str, flag: str, help: str, metavar: str) -> dict[str, Any]:
    return {"parse": parse, "env": env, "flag": flag, "help": help, "metavar": metavar}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set. It checks itself when made; times are in seconds unless the name says otherwise.

    :raises SettingsError: when a value can't be used; it names the setting and where the value came from.
    """

    broker: BrokerAddress = field(
        default=BrokerAddress(),
        metadata=_about(
            _broker,
            env="PUPPETMASTER_BROKER",
            flag="--broker",
            help="The broker: mqtt://user:password@host:port, mqtts:// for TLS.",
            metavar="URL",
        ),
    )
    broker_password_file: Path | None = field(
        default=None,
        metadata=_about(
            _existing_file,
            env="PUPPETMASTER_BROKER_PASSWORD_FILE",
            flag="--broker-password-file",
            help="The password for the broker: the first line of this file. The user stands in the broker's URL.",
            metavar="FILE",
        ),
    )
    broker_cert: Path | None = field(
        default=None,
        metadata=_about(
            _existing_file,
            env="PUPPETMASTER_BROKER_CERT",
            flag="--broker-cert",
            help="The certificate that tells the broker who this is, in place of a password: a PEM file, for mqtts://.",
            metavar="FILE",
        ),
    )
    broker_key: Path | None = field(
        default=None,
        metadata=_about(
            _existing_file,
            env="PUPPETMASTER_BROKER_KEY",
            flag="--broker-key",
            help="The key of that certificate, a PEM file without a password.",
            metavar="FILE",
        ),
    )
    ca_file: Path | None = field(
        default=None,
        metadata=_about(
            _certificates,
            env="PUPPETMASTER_CA_FILE",
            flag="--ca-file",
            help="The certificates to trust with mqtts:// and https://, a PEM file; none means those of the system.",
            metavar="FILE",
        ),
    )
    data: Path = field(
        default=Path("data"),
        metadata=_about(
            _path,
            env="PUPPETMASTER_DATA",
            flag="--data",
            help="The folder of the store.",
            metavar="FOLDER",
        ),
    )
    instance: str | None = field(
        default=None,
        metadata=_about(
            _instance,
            env="PUPPETMASTER_INSTANCE",
            flag="--instance",
            help="The name of this puppetmaster on the bus; none means one that is made once and kept in the store.",
            metavar="NAME",
        ),
    )
    topic: str = field(
        default="/remote/{destination}",
        metadata=_about(
            _topic,
            env="PUPPETMASTER_TOPIC",
            flag="--topic",
            help="Where a device listens for requests.",
            metavar="TEMPLATE",
        ),
    )
    channel: Literal["mqtt", "controller"] = field(
        default="mqtt",
        metadata=_about(
            _one_of(CHANNELS),
            env="PUPPETMASTER_CHANNEL",
            flag="--channel",
            help="How requests reach devices: mqtt (straight), controller (over a remote bundle, one at a time).",
            metavar="NAME",
        ),
    )
    window: int = field(
        default=500,
        metadata=_about(
            _integer(1, 1000),
            env="PUPPETMASTER_WINDOW",
            flag="--window",
            help="How many requests are out at once, 1 to 1000: more would overflow the broker's queue.",
            metavar="N",
        ),
    )
    qos: int = field(
        default=1,
        metadata=_about(
            _integer(0, 2),
            env="PUPPETMASTER_QOS",
            flag="--qos",
            help="The MQTT quality of service of requests, 0 to 2.",
            metavar="N",
        ),
    )
    request_timeout: float = field(
        default=3600.0,
        metadata=_about(
            _number(MAX_SECONDS),
            env="PUPPETMASTER_REQUEST_TIMEOUT",
            flag="--request-timeout",
            help="How long a device may take to answer, where the job does not say.",
            metavar="SECONDS",
        ),
    )
    log: str = field(
        default="info",
        metadata=_about(
            checked_log,
            env="PUPPETMASTER_LOG",
            flag="--log",
            help="What is logged: debug, info, warning, error or critical; json for lines of JSON; json:debug is both.",
            metavar="WHAT",
        ),
    )
    keep_days: float = field(
        default=30.0,
        metadata=_about(
            _number(36_500),
            env="PUPPETMASTER_KEEP_DAYS",
            flag="--keep-days",
            help="How many days a finished job is kept.",
            metavar="DAYS",
        ),
    )
    keep_jobs: int = field(
        default=1000,
        metadata=_about(
            _integer(1, 1_000_000),
            env="PUPPETMASTER_KEEP_JOBS",
            flag="--keep-jobs",
            help="How many finished jobs are kept.",
            metavar="N",
        ),
    )
    keep_requests: int = field(
        default=500_000,
        metadata=_about(
            _integer(1, 100_000_000),
            env="PUPPETMASTER_KEEP_REQUESTS",
            flag="--keep-requests",
            help="How many requests of finished jobs are kept.",
            metavar="N",
        ),
    )
    max_requests: int = field(
        default=100_000,
        metadata=_about(
            _integer(1, 10_000_000),
            env="PUPPETMASTER_MAX_REQUESTS",
            flag="--max-requests",
            help="How many requests one job may expand to.",
            metavar="N",
        ),
    )
    http: ListenAddress | None = field(
        default=None,
        metadata=_about(
            _listen,
            env="PUPPETMASTER_HTTP",
            flag="--http",
            help="Where HTTP, WebSockets and the page are served: host:port, or off. serve: 127.0.0.1:8080.",
            metavar="ADDRESS",
        ),
    )
    http_cert: Path | None = field(
        default=None,
        metadata=_about(
            _existing_file,
            env="PUPPETMASTER_HTTP_CERT",
            flag="--http-cert",
            help="The certificate to serve HTTPS with, a PEM file.",
            metavar="FILE",
        ),
    )
    http_key: Path | None = field(
        default=None,
        metadata=_about(
            _existing_file,
            env="PUPPETMASTER_HTTP_KEY",
            flag="--http-key",
            help="The key of that certificate, a PEM file.",
            metavar="FILE",
        ),
    )
    cors: tuple[str, ...] = field(
        default=(),
        metadata=_about(
            _origins,
            env="PUPPETMASTER_CORS",
            flag="--cors",
            help="Other origins whose pages may use the API, with commas between them; none means no other.",
            metavar="ORIGINS",
        ),
    )
    trusted_proxies: tuple[str, ...] = field(
        default=(),
        metadata=_about(
            _networks,
            env="PUPPETMASTER_TRUSTED_PROXIES",
            flag="--trusted-proxies",
            help="Addresses of reverse proxies whose X-Forwarded-For and -Proto are believed; commas between them.",
            metavar="ADDRESSES",
        ),
    )
    insecure: bool = field(
        default=False,
        metadata=_about(
            _truth,
            env="PUPPETMASTER_INSECURE",
            flag="--insecure",
            help="Serve HTTP to other machines although there is no account: everybody may do everything.",
            metavar="",
        ),
    )
    login_hours: float = field(
        default=12.0,
        metadata=_about(
            _number(8760),
            env="PUPPETMASTER_LOGIN_HOURS",
            flag="--login-hours",
            help="How many hours a login lasts.",
            metavar="HOURS",
        ),
    )
    commands: str = field(
        default=OFF,
        metadata=_about(
            _commands,
            env="PUPPETMASTER_COMMANDS",
            flag="--commands",
            help="What may be run on this machine, destination localhost: off, all, patterns with commas, or @FILE.",
            metavar="LIST",
        ),
    )
    keep_output: int = field(
        default=256,
        metadata=_about(
            _integer(1, 1_000_000),
            env="PUPPETMASTER_KEEP_OUTPUT",
            flag="--keep-output",
            help="How many MiB of the output of commands are kept.",
            metavar="MIB",
        ),
    )
    max_memory: int | None = field(
        default=None,
        metadata=_about(
            _memory,
            env="PUPPETMASTER_MAX_MEMORY",
            flag="--max-memory",
            help="MiB of memory above which new jobs are refused, or off; none means 80 % of what there is.",
            metavar="MIB",
        ),
    )
    worker_patience: float = field(
        default=60.0,
        metadata=_about(
            _number(MAX_SECONDS),
            env="PUPPETMASTER_WORKER_PATIENCE",
            flag="--worker-patience",
            help="How long a worker of the farm may be silent before its work goes to another.",
            metavar="SECONDS",
        ),
    )
    url: str | None = field(
        default=None,
        metadata=_about(
            _url,
            env="PUPPETMASTER_URL",
            flag="--url",
            help="For run, exec, jobs, requests and devices: the HTTP address of puppetmaster, in place of the bus.",
            metavar="URL",
        ),
    )
    token: str | None = field(
        default=None,
        repr=False,
        metadata=_about(
            _secret,
            env="PUPPETMASTER_TOKEN",
            flag="",
            help="For the same with a URL, and for worker: the token of an account.",
            metavar="",
        ),
    )
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    """Where each value that is no default came from, by name: ``flag --window``."""

    def __post_init__(self) -> None:
        for option in options():
            try:
                value = option.parse(getattr(self, option.name))
            except ValueError as error:
                raise SettingsError(option.name, self.sources.get(option.name, "code"), str(error)) from None
            object.__setattr__(self, option.name, value)
        if (self.http_cert is None) != (self.http_key is None):
            missing = "http_key" if self.http_key is None else "http_cert"
            raise SettingsError(missing, self.sources.get(missing, "default"), "HTTPS needs a certificate and its key")
        if self.broker_password_file is not None:
            try:
                broker = self.broker.with_password(self.broker_password_file)
            except ValueError as error:
                source = self.source("broker_password_file")
                raise SettingsError("broker_password_file", source, str(error)) from None
            object.__setattr__(self, "broker", broker)
        if self.broker_cert is not None or self.broker_key is not None:
            try:
                broker = self.broker.with_certificate(self.broker_cert, self.broker_key)
            except ValueError as error:
                name = "broker_cert" if self.broker_cert is not None else "broker_key"
                raise SettingsError(name, self.source(name), str(error)) from None
            object.__setattr__(self, "broker", broker)
        if self.ca_file is not None:
            object.__setattr__(self, "broker", replace(self.broker, ca_file=self.ca_file))

    @classmethod
    def load(
        cls, flags: Flags | None = None, environ: Mapping[str, str] = os.environ, file: Path | None = None
    ) -> Settings:
        """Gather the settings from all their sources.

        :param flags: by name; a value of none means that the flag was not given.
        :param file: the settings file, or none to look for it (``PUPPETMASTER_CONFIG``, ``./puppetmaster.toml``).
        :raises SettingsError: when a source holds an unknown key or a value that can't be used.
        """
        values: dict[str, Any] = {}
        sources: dict[str, str] = {}
        # From the weakest source to the strongest: each overwrites what the ones before it said.
        for name, value, source in (
            *_from_sdk(environ),
            *_from_file(environ, file),
            *_from_environment(environ),
            *_from_flags(flags or {}),
        ):
            values[name], sources[name] = value, source
        return cls(**values, sources=sources)

    def shown(self, name: str) -> str | int | float | None:
        """A value as it may be shown to anybody: the broker's password and the token are hidden."""
        value = getattr(self, name)
        if name == "token":
            return "***" if value else value
        if name == "max_memory" and value == 0:
            return "off"
        if isinstance(value, tuple):
            return ",".join(value) or None
        return str(value) if isinstance(value, (BrokerAddress, ListenAddress, Path)) else value

    def source(self, name: str) -> str:
        """Where a value came from: ``flag ...``, ``environment ...``, ``file ...`` or ``default``."""
        return self.sources.get(name, "default")


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """What is known of a setting beside its value: its names and what it means.

    ``flag`` is empty for what must not stand on a command line, and so in the list of processes. A setting without a
    ``metavar`` is a switch: its flag takes no value.
    """

    name: str
    default: object
    parse: Parser
    env: str
    flag: str
    help: str
    metavar: str


def options() -> tuple[Option, ...]:
    """All settings in the order in which they are shown."""
    return _OPTIONS


_OPTIONS = tuple(
    Option(name=entry.name, default=entry.default, **entry.metadata) for entry in fields(Settings) if entry.metadata
)
_NAMES = frozenset(option.name for option in _OPTIONS)

_Found = list[tuple[str, object, str]]


def _from_sdk(environ: Mapping[str, str]) -> _Found:
    present = [name for name in (SDK_HOST_ENV, SDK_PORT_ENV) if environ.get(name)]
    if not present:
        return []
    host, port = environ.get(SDK_HOST_ENV) or "localhost", environ.get(SDK_PORT_ENV) or "1883"
    host = f"[{host}]" if ":" in host else host
    return [("broker", f"mqtt://{host}:{port}", f"environment {' and '.join(present)}")]


def _from_file(environ: Mapping[str, str], file: Path | None) -> _Found:
    path, source = _which_file(environ, file)
    if path is None:
        return []
    try:
        with path.open("rb") as stream:
            document = tomllib.load(stream)
    except PermissionError as error:
        what = f"can't read {path}: {error.strerror}; name a file that you may read ({CONFIG_FLAG})"
        raise SettingsError("config", source, what) from error
    except OSError as error:
        raise SettingsError("config", source, f"can't read {path}: {error.strerror or error}") from error
    except ValueError as error:  # broken TOML, or no UTF-8
        raise SettingsError("config", source, f"{path} is no valid TOML: {error}") from error
    return [_known(name, value, f"file {path}") for name, value in document.items()]


def _which_file(environ: Mapping[str, str], file: Path | None) -> tuple[Path | None, str]:
    if file is not None:
        return file.expanduser(), f"flag {CONFIG_FLAG}"
    if environ.get(CONFIG_ENV):
        return Path(environ[CONFIG_ENV]).expanduser(), f"environment {CONFIG_ENV}"
    # Unlike Path.exists() it is false, and raises nothing, in a folder that can't be entered.
    return (DEFAULT_FILE if os.path.exists(DEFAULT_FILE) else None), "the working folder"


def _from_environment(environ: Mapping[str, str]) -> _Found:
    return [
        (option.name, environ[option.env], f"environment {option.env}")
        for option in _OPTIONS
        if environ.get(option.env)
    ]


def _from_flags(flags: Flags) -> _Found:
    return [
        _known(name, value, f"flag --{name.replace('_', '-')}") for name, value in flags.items() if value is not None
    ]


def _known(name: str, value: object, source: str) -> tuple[str, object, str]:
    if name not in _NAMES:
        raise SettingsError(name, source, f"there is no such setting; there are {', '.join(sorted(_NAMES))}")
    return name, value, source
