"""The three repairs that the Sanji SDK (1.1.2, the newest there is) needs; two of them for Python 3.10 to 3.13.

1. ``sanji.router.compile_resource`` gives ``re.sub`` the replacement ``(?P<\\1>[\\w-]+?)``. Since Python 3.7 an unknown
   escape in a replacement (its ``\\w``) is an error, so that no route can be registered.
2. ``sanji.core`` calls ``inspect.getargspec`` for every message. Python 3.11 has removed it: every request is answered
   with code 500.

3. A thread that answers waits until its answer is published, and for ever when a response with the same id comes
   meanwhile: ``sanji.session.Session.resolve`` then forgets the answer, with nobody left to wake the thread. Three such
   responses end all of its three threads.

The names are replaced from outside, where the SDK looks them up; the standard library stays as it is.
"""

from __future__ import annotations

import inspect
import re
from types import SimpleNamespace
from typing import Any

import sanji.core
import sanji.router
import sanji.session
from sanji.message import MessageType, trim_resource

_resolve = sanji.session.Session.resolve


def compile_resource(resource: str) -> re.Pattern[str]:
    """What the SDK's own function means: ``/jobs/:id`` becomes an expression with a group ``id``.

    There an id is letters, digits, _ and -. A device's may hold anything but the ends of a level and of the path: the
    colons of a MAC address, dots, and %-escapes for the rest.
    """
    pattern = re.sub(r":(\w+)", lambda found: f"(?P<{found.group(1)}>[^/?]+)", resource)
    return re.compile(f"^{trim_resource(pattern)}" + r"(\?(?P<querystring>.*))?\Z", re.DOTALL)


def resolve(
    session: sanji.session.Session, ident: Any, message: Any = None, status: int = sanji.session.Status.RESOLVED
) -> Any:
    """What the SDK's own function does, but a response that came is none to a response of ours."""
    with session.session_lock:
        waiting = session.session_list.get(ident)
        if message is not None and waiting is not None and waiting["message"].type() == MessageType.RESPONSE:
            return None
        return _resolve(session, ident, message, status)


def apply() -> None:
    """Make the repairs; more than once does no harm."""
    sanji.router.compile_resource = compile_resource
    sanji.session.Session.resolve = resolve
    sanji.core.inspect = SimpleNamespace(
        getargspec=inspect.getfullargspec,
        getfile=inspect.getfile,
        getmembers=inspect.getmembers,
        ismethod=inspect.ismethod,
    )
