"""The answers to a job's requests, counted: 4,912 said this and 87 said that."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import orjson

MAX_DESTINATIONS = 5
"""How many of those that gave an answer are named."""

DIGEST_BYTES = 16
"""With 100,000 different answers two of them share a digest once in 10^28 jobs."""


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
    its digest.
    """

    def __init__(self) -> None:
        self._groups: dict[bytes, Group] = {}

    def add(self, request_id: int, document: Mapping[str, Any]) -> None:
        """Count a request that has ended, from its document in the store."""
        digest = _digest(document)
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


def _digest(document: Mapping[str, Any]) -> bytes:
    # The order of an object's keys says nothing, and differs between devices.
    text = orjson.dumps(
        [document["status"], document.get("code"), document.get("result")], option=orjson.OPT_SORT_KEYS
    )
    return hashlib.blake2b(text, digest_size=DIGEST_BYTES).digest()
