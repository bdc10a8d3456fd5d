"""The two repairs that make the Sanji SDK (1.1.2, the newest there is) run on Python 3.10 to 3.13.

1. ``sanji.router.compile_resource`` gives ``re.sub`` the replacement ``(?P<\\1>[\\w-]+?)``. Since Python 3.7 an unknown
   escape in a replacement (its ``\\w``) is an error, so that no route can be registered.
2. ``sanji.core`` calls ``inspect.getargspec`` for every message. Python 3.11 has removed it: every request is answered
   with code 500.

Both names are replaced from outside, where the SDK looks them up; the standard library stays as it is.
"""

from __future__ import annotations

import inspect
import re
from types import SimpleNamespace

import sanji.core
import sanji.router
from sanji.message import trim_resource


def compile_resource(resource: str) -> re.Pattern[str]:
    """What the SDK's own function means: ``/jobs/:id`` becomes an expression with a group ``id``."""
    pattern = re.sub(r":(\w+)", lambda found: f"(?P<{found.group(1)}>[\\w-]+?)", resource)
    return re.compile("^" + trim_resource(pattern) + r"(\?(?P<querystring>.*))?$")


def apply() -> None:
    """Make the repairs; more than once does no harm."""
    sanji.router.compile_resource = compile_resource
    sanji.core.inspect = SimpleNamespace(
        getargspec=inspect.getfullargspec,
        getfile=inspect.getfile,
        getmembers=inspect.getmembers,
        ismethod=inspect.ismethod,
    )
