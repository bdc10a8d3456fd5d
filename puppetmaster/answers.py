"""The answers to a job's requests, counted: 4,912 said this and 87 said that."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import orjson

from puppetmaster.models import Message
from puppetmaster.wire import COMMANDS

MAX_DESTINATIONS = 5
"""How many of those that gave an answer are named."""

DIGEST_BYTES = 16
"""With 100,000 different answers two of them share a digest once in 10^28 jobs."""

FARM = "/farm/"

OF_ONE_RUN = frozenset({"duration", "after"})
"""What the answer of a command says of how long it took: no two are alike, though all printed the same."""

OF_ONE_WORKER = frozenset({"worker", "worker_id", "time_cost", "activity", "failures"})
"""What the answer of a chunk says of the workers that had it."""

_AFTER = re.compile(r" after [0-9.]+ s\b")


@dataclass(slots=True)
class Group:
    """Requests that ended in the same way."""

    request_id: int
    """The first of them, whose document stands for all."""
    count: int = 0
    destinations: tuple[str, ...] = ()
    """The first few destinations, each once."""


class Answers:
    """Groups requests by how they ended: the status, the code and the result.

    A hundred thousand devices may answer a hundred thousand things of any size, so of an answer no more is kept than
    its digest. What measures a single run of a command, or names the worker of a chunk, does not tell answers apart.

    :param messages: those of the job, which its requests name by number.
    """

    def __init__(self, messages: Sequence[Message] = ()) -> None:
        self._messages = messages
        self._groups: dict[bytes, Group] = {}

    def add(self, request_id: int, document: Mapping[str, Any]) -> None:
        """Count a request that has ended, from its document in the store."""
        digest = _digest(document, self._resource(document))
        group = self._groups.get(digest)
        if group is None:
            group = self._groups[digest] = Group(request_id)
        group.count += 1
        destination = document["destination"]
        if len(group.destinations) < MAX_DESTINATIONS and destination not in group.destinations:
            group.destinations += (destination,)

    def largest(self, limit: int) -> list[Group]:
        """The groups, the largest first; equal ones in the order in which they were begun."""
        return sorted(self._groups.values(), key=attrgetter("count"), reverse=True)[:limit]

    def _resource(self, document: Mapping[str, Any]) -> str:
        return self._messages[document["message"]].resource if self._messages else ""


def _digest(document: Mapping[str, Any], resource: str) -> bytes:
    # The order of an object's keys says nothing, and differs between devices.
    text = orjson.dumps(
        [document["status"], document.get("code"), _compared(document.get("result"), resource)],
        option=orjson.OPT_SORT_KEYS,
    )
    return hashlib.blake2b(text, digest_size=DIGEST_BYTES).digest()


def _compared(result: Any, resource: str) -> Any:
    """What of a result tells it from others."""
    if resource == COMMANDS:
        left_out = OF_ONE_RUN
    elif resource.startswith(FARM):
        left_out = OF_ONE_WORKER
    else:
        return result
    if not isinstance(result, dict):
        return result
    if result.keys() == {"code", "resource", "data"}:
        return {**result, "data": _without(result["data"], left_out)}
    return _without(result, left_out)


def _without(data: Any, left_out: frozenset[str]) -> Any:
    if not isinstance(data, dict):
        return data
    rest = {name: value for name, value in data.items() if name not in left_out}
    if data.get("outcome") in ("killed", "timeout") and isinstance(data.get("message"), str):
        rest["message"] = _AFTER.sub("", data["message"])  # "killed after 3.2 s"
    return rest
