"""JSON texts from outside, read once and strictly: what can't be stored or answered does not come in."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from puppetmaster.errors import Fault, InvalidDocument, TooLarge
from puppetmaster.fields import encodable
from puppetmaster.wire import MAX_DEPTH, depth_of

MAX_DUPLICATES = 20
"""How many keys that stand twice are named."""

MAX_VALUES = 2_000_000
"""How many values a text may hold, by its commas and brackets, those inside of texts included. It is read in one go, in
which nothing else is done: half a microsecond for each. A job of 100,000 requests has a dozen of them a request."""

DEEP = Fault("", f"it is nested more than {MAX_DEPTH} levels deep")


def read(payload: bytes) -> Any:
    """The value of a JSON text; none when it is empty.

    :raises InvalidDocument: when it is no JSON, nests too deep, or holds a key twice in one object.
    :raises TooLarge: when it holds too many values.
    """
    if not payload.strip():
        return None
    if sum(map(payload.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise TooLarge(f"a body has at most {MAX_VALUES} values; make several calls of it")
    # On the bus the message is one more level around it.
    if depth_of(b"[%b]" % payload) > MAX_DEPTH:
        raise InvalidDocument([DEEP])
    duplicates: list[str] = []
    try:
        value = parse(payload, duplicates)
    except (ValueError, RecursionError) as error:
        raise InvalidDocument([Fault("", f"the body is not JSON: {error}")]) from None
    if duplicates:
        raise InvalidDocument(twice(duplicates))
    return value


def parse(payload: bytes, duplicates: list[str]) -> Any:
    """The value of a JSON text in UTF-8; the names of keys that stand twice go to ``duplicates``.

    :raises ValueError: when it is no JSON.
    :raises RecursionError: when it nests too deep for the library.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) != len(items):
            names = Counter(name for name, _ in items)
            duplicates.extend(encodable(name) for name, count in names.items() if count > 1)
        return found

    # JSON here is UTF-8; the library would guess at other encodings, behind which brackets hide.
    return json.loads(payload.decode(), object_pairs_hook=pairs)


def twice(duplicates: list[str]) -> list[Fault]:
    """What is said of keys that stand twice."""
    return [Fault(name[:100], "the key stands twice in one object") for name in duplicates[:MAX_DUPLICATES]]
