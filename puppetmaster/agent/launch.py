"""From a command to the words that its shell runs: environment, user, container."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import sys
from collections.abc import Iterator
from functools import cache

from puppetmaster.agent.commands import Command, Container
from puppetmaster.agent.rights import NotAllowed
from puppetmaster.agent.shim import SHELL, Launch
from puppetmaster.errors import Fault, InvalidDocument

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TOOLS = ("podman", "docker")

_BECOME = """\
import os, signal, sys
name, uid, gid, directory, *words = sys.argv[1:]
try:
    for descriptor in (1, 2):
        os.fchown(descriptor, int(uid), -1)
    os.initgroups(name, int(gid))
    os.setgid(int(gid))
    os.setuid(int(uid))
    os.chdir(directory)
    own = {name[len("own_"):]: value for name, value in os.environ.items() if name.startswith("own_")}
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    os.execve(words[0], words, own)
except OSError as error:
    print(f"as {name}: {error}", file=sys.stderr)
    sys.exit(126)
"""
# The pipes of the output become the user's: he may open them again, as /dev/stderr.
# Neither su nor setpriv is on every machine; Python is, where this runs. The variables of a request get their own names
# here, so that none of them means something to a program that still is root.

_OURS = "PUPPETMASTER_"

_OF_TOOLS = re.compile("PATH|HOME|TMPDIR|(LC_|LD_|XDG_|DOCKER_|CONTAINER|PODMAN|BUILDAH|STORAGE_|GO).*|.*_proxy", re.I)
"""Variables that podman and docker look at themselves."""


class NoTool(OSError):
    """Raised when a container is asked for, and there is nothing to run it with."""

    def __init__(self) -> None:
        super().__init__(f"no {' or '.join(TOOLS)} on this machine")


def examine(command: Command, path: str = "") -> None:
    """Check what only this machine knows: whether the user is there, and may be had.

    :param path: of the command in the order, for the fault.
    :raises InvalidDocument: when there is no such user.
    :raises NotAllowed: when commands can't be run as that user.
    """
    if command.user is None or command.container is not None:
        return
    account = _account(command.user)
    if account is None:
        where = f"{path}.user" if path else "user"
        raise InvalidDocument([Fault(where, f"this machine has no user {command.user}")])
    if os.geteuid() not in (0, account.pw_uid):
        raise NotAllowed("this agent does not run as root, so it can't run commands as somebody else")


def prepare(command: Command, container_name: str) -> Launch:
    """Say how a command is run.

    :param container_name: the name that its container gets, if it runs in one.
    :raises OSError: when it can't be run, with the reason.
    """
    if command.container is not None:
        words = list(_container_words(command, command.container, container_name))
        # The tool needs what the agent has (HOME, XDG_RUNTIME_DIR, DOCKER_HOST and the like), but not our passwords.
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        hidden = {name: value for name, value in command.environment.items() if _can_hide(name)}
        return Launch(words=words, directory="/", environment={**kept, **hidden})
    account = _account(command.user) if command.user is not None else None
    if command.user is not None and account is None:
        raise OSError(f"this machine has no user {command.user}")
    if command.directory is not None and not os.path.isdir(command.directory):
        raise OSError(f"there is no folder {command.directory}")
    base = _base_environment(account)
    own = {**base, **command.environment}
    words = _words(command)
    directory = command.directory or (base["HOME"] if os.path.isdir(base["HOME"]) else "/")
    if account is None or account.pw_uid == os.geteuid():
        return Launch(words=words, directory=directory, environment=own)
    become = [sys.executable, "-ISc", _BECOME, account.pw_name, str(account.pw_uid), str(account.pw_gid), directory]
    renamed = {f"own_{name}": value for name, value in own.items()}
    return Launch(words=[*become, *words], directory="/", environment={**base, **renamed})


def removal(container_name: str) -> list[str] | None:
    """The words that end a container, if there is a tool for it."""
    tool = _tool()
    return [tool, "rm", "--force", container_name] if tool else None


def _account(user: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        return None


def _base_environment(account: pwd.struct_passwd | None) -> dict[str, str]:
    account = account or _account(str(os.geteuid()))
    name, home = (account.pw_name, account.pw_dir) if account else (str(os.geteuid()), "/")
    return {
        "PATH": os.environ.get("PATH") or PATH,
        "HOME": home,
        "USER": name,
        "LOGNAME": name,
        "LANG": os.environ.get("LANG") or "C.UTF-8",
        "SHELL": _shell(),
    }


@cache
def _shell() -> str:
    return shutil.which("bash", path=PATH) or SHELL


@cache
def _env() -> str:
    return shutil.which("env", path=PATH) or "/usr/bin/env"


def _words(command: Command) -> list[str]:
    if command.line is not None:
        return [_shell(), "-c", command.line]
    # It looks a program up, whatever that is called: "-c" is an option of the exec of some shells.
    return [_env(), "--", *command.argv]


def _can_hide(name: str) -> bool:
    """Whether a variable for a container can go through the environment of the tool, where nobody else sees it."""
    return (name not in os.environ or name.startswith(_OURS)) and not _OF_TOOLS.fullmatch(name)


def _tool() -> str | None:
    path = os.environ.get("PATH") or PATH
    return next(filter(None, (shutil.which(name, path=path) for name in TOOLS)), None)


def _container_words(command: Command, container: Container, name: str) -> Iterator[str]:
    tool = _tool()
    if tool is None:
        raise NoTool
    yield from (tool, "run", "--rm", "--name", name)
    if container.network is not None:
        yield from ("--network", container.network)
    if command.user is not None:
        yield from ("--user", command.user)
    if command.directory is not None:
        yield from ("--workdir", command.directory)
    for mount in container.mounts:
        kind = f"type=bind,source={mount.source},target={mount.target}"
        yield from ("--mount", f"{kind},readonly" if mount.read_only else kind)
    for variable, value in command.environment.items():
        yield from ("--env", variable if _can_hide(variable) else f"{variable}={value}")
    yield container.image
    yield from command.argv if command.line is None else (SHELL, "-c", command.line)
