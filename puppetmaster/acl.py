"""Who may do what on the bus, in the words of Mosquitto: an access list, the lines of its configuration, and a script
that makes its passwords.

Each device is a user that is named as its destination, and has exactly its own topics. The other users are the parts of
an installation. What they may do follows from what the program subscribes to and publishes, and no more.

Mosquitto's rules, of which these files make use (2.0.11, seen; mosquitto.conf(5)):

- What a file names is all there is; ``deny`` goes before what allows, also before a pattern.
- A pattern holds for every user, the parts too. ``%u`` has to be a whole level. To a user whose name holds ``+`` or
  ``#`` no pattern applies. A name with ``/`` reaches over two levels before 2.1 and nothing from then on.
- A subscription is never refused: what its user may not read does not come.
- Client ids are not checked. Whoever takes that of another one ends its connection, so the devices have a listener on
  which the user's name is the client id.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

from puppetmaster import wire
from puppetmaster.errors import PuppetmasterError
from puppetmaster.observer import EVENT, OUTPUT, PRESENCE, TELEMETRY, TOPICS
from puppetmaster.policies import LOCALHOST

PLACEHOLDER = "{destination}"

TUNNELS = "+"
"""The topics on which bundles hear from the controller: one level, a number that it draws."""

CLIENTS = "/puppetmaster/client/+"
"""The topics on which the command line hears from the controller."""

USED = (
    wire.CONTROLLER_TOPIC, TUNNELS, CLIENTS, wire.answer_topic("+", "+"), *TOPICS,
    wire.job_topic("+", "+"), wire.presence_topic("+"), "/puppetmaster/+/rollcall/+",
)  # fmt: skip
"""All topics but those that devices get their requests on."""

_USER = re.compile(r"[A-Za-z0-9_.@-]{1,64}")

_WRITE, _READ, _BOTH, _DENY = "write", "read", "readwrite", "deny"

Line = tuple[str, str]
"""What is allowed, and the topic."""


class UnusableName(PuppetmasterError, ValueError):
    """Raised when a user or a topic can't be told to Mosquitto; ``what`` is the thing to change."""

    def __init__(self, what: str, message: str) -> None:
        self.what = what
        super().__init__(f"{what}: {message}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Users:
    """The users that are no devices, by what they do; several of a kind have commas between them, none is empty.

    :raises UnusableName: when a name can't be one, or is there twice.
    """

    puppetmaster: str = "puppetmaster"
    controller: str = "controller"
    # Bundles that watch jobs; they may ask the controller, and so make jobs.
    view: str = "view"
    # The command line, and programs of the same kind.
    tool: str = "tool"
    # May see the states of the jobs, and say nothing.
    reader: str = "reader"

    def __post_init__(self) -> None:
        named: set[str] = set()
        for field in fields(self):
            for name in self.of(field.name):
                if not _USER.fullmatch(name) or name == LOCALHOST:
                    fault = f"it may have A-Z a-z 0-9 _ . @ - and not be {LOCALHOST}: not {name!r:.80}"
                    raise UnusableName(f"{field.name} user", fault)
                if name in named:
                    raise UnusableName(f"{field.name} user", f"{name} is named twice: each part has a user of its own")
                named.add(name)
        for part in ("puppetmaster", "controller"):
            if len(self.of(part)) != 1:
                raise UnusableName(f"{part} user", "there is one, and it needs a name")

    def of(self, part: str) -> list[str]:
        """The names of a part."""
        return [name for name in (name.strip() for name in getattr(self, part).split(",")) if name]

    def all(self) -> list[str]:
        """All names."""
        return [name for field in fields(self) for name in self.of(field.name)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the broker has its files, and where it listens."""

    folder: str = "/etc/mosquitto"
    # For the devices: a port, or a port and an address.
    devices: str = "8883"
    # For all others, best where no device can reach it.
    parts: str = "8884 127.0.0.1"


class MosquittoAcl:
    """The three files for one puppetmaster.

    :param template: where a device listens for requests, with ``{destination}`` in it.
    :param through_controller: requests reach devices over a remote bundle, which answers for them.
    :raises UnusableName: when the template can't be told apart, or can't stand in such a file.
    """

    def __init__(
        self, instance: str, template: str, users: Users, place: Place, *, through_controller: bool = False
    ) -> None:
        check_template(template)
        self._instance = instance
        self._template = template
        self._users = users
        self._place = place
        self._through_controller = through_controller

    def files(self) -> dict[str, str]:
        """The files by their names."""
        return {"mosquitto.conf": self.configuration(), "acl": self.access_list(), "passwords.sh": self.passwords()}

    # The access list

    def access_list(self) -> str:
        """The text of the ``acl_file``."""
        users = self._users
        taken = ", ".join([*users.all(), LOCALHOST])
        blocks: list[tuple[str, str, Iterable[Line]]] = [
            (f"the bundle, instance {self._instance}", users.puppetmaster, self._bundle()),
            ("the Sanji controller: it answers bundles, tools and puppetmaster, and nobody else", users.controller,
             self._controller()),
            *(("a view: whoever may ask the controller may also make jobs", name, self._view())
              for name in users.of("view")),
            *(("the command line over the bus; it may make jobs", name, self._tool()) for name in users.of("tool")),
            *(("sees the states of the jobs, and can do nothing", name, self._reader()) for name in users.of("reader")),
        ]  # fmt: skip
        text = [
            f"# Access rights for Mosquitto 2.0.11 and newer; puppetmaster acl mosquitto, instance {self._instance}.",
            "# Each device is a user with the name of its destination. No device may be called:",
            f"# {taken}",
            "",
            "# every device, under its own topics only",
            *_lines("pattern", self._device()),
            "",
            "# requests to it stay on this machine: nobody may answer for it",
            f"user {LOCALHOST}",
            *_lines("topic", [(_DENY, "#")]),
        ]
        for comment, name, lines in blocks:
            text += ["", f"# {comment}", f"user {name}", *_lines("topic", lines), *_lines("topic", _no_device(name))]
        return "\n".join([*text, ""])

    def _device(self) -> Iterator[Line]:
        yield _READ, self._template.replace(PLACEHOLDER, "%u")
        yield _WRITE, wire.answer_topic("%u", "+")
        for kind in (PRESENCE, TELEMETRY, EVENT, f"{OUTPUT}/+"):
            yield _WRITE, f"/remote/%u/{kind}"

    def _bundle(self) -> Iterator[Line]:
        base = f"/puppetmaster/{self._instance}"
        if not self._through_controller:
            yield _WRITE, self._template.replace(PLACEHOLDER, "+")
        yield _READ, wire.answer_topic("+", self._instance)
        for topic in TOPICS:
            # The presence of a device goes when the device is removed.
            yield (_BOTH if topic.endswith(f"/{PRESENCE}") else _READ), topic
        yield _WRITE, f"/remote/{LOCALHOST}/{OUTPUT}/+"
        yield _BOTH, wire.job_topic(self._instance, "+")
        yield _WRITE, wire.presence_topic(self._instance)
        yield _BOTH, f"{base}/rollcall/+"
        yield _WRITE, wire.CONTROLLER_TOPIC
        yield _READ, TUNNELS

    def _controller(self) -> Iterator[Line]:
        # It answers on whatever topic a caller names: what it may not write, nobody can have it write.
        yield _READ, wire.CONTROLLER_TOPIC
        yield _WRITE, TUNNELS
        yield _WRITE, CLIENTS
        yield _WRITE, wire.answer_topic("+" if self._through_controller else LOCALHOST, self._instance)

    def _view(self) -> Iterator[Line]:
        yield from self._reader()
        yield _WRITE, wire.CONTROLLER_TOPIC
        yield _READ, TUNNELS

    def _tool(self) -> Iterator[Line]:
        # It does not know the instance.
        yield _READ, wire.job_topic("+", "+")
        yield _READ, f"/remote/+/{OUTPUT}/+"
        yield _WRITE, wire.CONTROLLER_TOPIC
        yield _READ, CLIENTS

    def _reader(self) -> Iterator[Line]:
        yield _READ, wire.job_topic(self._instance, "+")
        yield _READ, wire.presence_topic(self._instance)

    # The other two

    def configuration(self) -> str:
        """The lines of a ``mosquitto.conf``."""
        folder = self._place.folder
        tls = f"certfile {folder}/certs/server.crt\nkeyfile {folder}/certs/server.key"
        commented = "\n".join(f"# {line}" for line in tls.splitlines())
        return f"""\
# Lines for Mosquitto 2.0.11 and newer, made by puppetmaster acl mosquitto.

# The devices. The user's name is the client id: else a device could take the id of another one, or of puppetmaster,
# and end its connection again and again.
listener {self._place.devices}
{tls}
use_username_as_clientid true

# Devices whose names hold a colon (MAC addresses) can't have a password. They come in here, with a certificate whose CN
# is their name. Its CA must sign for users alone: whoever has a certificate of it is the user that stands in it.
# listener 8885
{commented}
# use_username_as_clientid true
# cafile {folder}/certs/ca.crt
# require_certificate true
# use_identity_as_username true

# puppetmaster, the controller, views and tools. Best on an address that no device can reach. For certificates they
# need a listener with the lines above, but without use_username_as_clientid: a program has several connections.
listener {self._place.parts}
{tls}

allow_anonymous false
password_file {folder}/passwd
acl_file {folder}/acl

persistence true
max_inflight_messages 1000
max_queued_messages 1000000
message_size_limit 4194304
set_tcp_nodelay true
"""

    def passwords(self) -> str:
        """The text of a script that makes passwords for the parts, and for devices whose names it is given."""
        folder, names = self._place.folder, "\n".join(self._users.all())
        return f"""\
#!/bin/sh
# Draws a password for each user that has none yet (mosquitto_passwd -D passwd NAME takes one away). No password is
# ever an argument, where everybody could see it.
#
#   sh passwords.sh                     the parts of the installation
#   sh passwords.sh < devices.txt       and devices, a name a line
#
# It makes or extends two things in the working folder:
#   passwd      for Mosquitto, hashed:  install -m 600 -o mosquitto passwd {folder}/passwd
#   secrets/    a file for each user with its password: the PUPPETMASTER_BROKER_PASSWORD_FILE of that user's program.
#               Bring each to its machine, and remove the folder.
# Mosquitto reads a changed file when it is told to: systemctl reload mosquitto
set -eu
umask 077
for path in . passwd secrets; do
    if [ -e "$path" ] && [ ! -w "$path" ]; then
        echo "this user may not write $path in $PWD: run this with sudo, or in another folder" >&2
        exit 1
    fi
done
if ! command -v mosquitto_passwd >/dev/null; then
    echo "there is no mosquitto_passwd here: install the package mosquitto, which has it" >&2
    exit 1
fi
parts=$(mktemp names.XXXXXX)
names=$(mktemp names.XXXXXX)
missing=$(mktemp names.XXXXXX)
new=$(mktemp passwd.XXXXXX)
trap 'rm -f "$parts" "$names" "$missing" "$new"' EXIT
cat >"$parts" <<'PARTS'
{names}
PARTS
[ -t 0 ] || tr -d '\\r' >"$names"
if grep -Fxf "$parts" "$names" >&2; then
    echo "is a part of the installation: no device may be called that, it would have the rights of the part" >&2
    exit 1
fi
while IFS= read -r name || [ -n "$name" ]; do
    case $name in
    . | .. | *[:/+]* | *'#'*)
        echo "$name can't be a user: there may be no : / + # in its name. With a certificate it may have a colon." >&2
        exit 1
        ;;
    esac
done <"$names"
mkdir -p secrets
touch passwd
awk -F: 'FILENAME == "passwd" {{ have[$1]; next }} $0 != "" && !($0 in have) && !seen[$0]++' \\
    passwd "$parts" "$names" >"$missing"
while IFS= read -r name; do
    password=$(head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \\n')
    printf '%s:%s\\n' "$name" "$password" >>"$new"
    printf '%s\\n' "$password" >"secrets/$name"
done <"$missing"
[ ! -s "$new" ] || mosquitto_passwd -U "$new"
cat "$new" >>passwd
"""


def check_template(template: str) -> None:
    """See that a template gives each device a topic of its own that Mosquitto can tell from all others.

    :raises UnusableName: when it does not.
    """
    levels = template.split("/")
    if PLACEHOLDER not in levels:
        raise UnusableName("topic", f"{PLACEHOLDER} has to be a whole level of it: Mosquitto puts names nowhere else")
    if "%" in template or template != template.strip():
        raise UnusableName("topic", "it can't hold % or begin or end with a space")
    for used in USED:
        if _meet(levels, used.split("/")):
            raise UnusableName("topic", f"it can't be told from {used}, which is used for something else")


def _meet(template: list[str], used: list[str]) -> bool:
    """Whether a topic of the template may be one that is used: each level is the same, or free in one of them."""
    free = (PLACEHOLDER, "+")
    return len(template) == len(used) and all(
        one == other or one in free or other in free for one, other in zip(template, used, strict=True)
    )


def _no_device(name: str) -> Iterator[Line]:
    """The patterns hold for every user, and a part is not to pass for a device."""
    yield _DENY, f"/remote/{name}/#"


def _lines(keyword: str, lines: Iterable[Line]) -> list[str]:
    return [f"{keyword} {access} {topic}" for access, topic in lines]
