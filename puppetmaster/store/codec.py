"""Documents to bytes and back, once each: the same bytes lie in memory, in the journal and in the snapshot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any

import orjson

from puppetmaster.store.port import Document

# Dates and dataclasses would come back as something else, so they are refused like any other foreign type.
_OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_APPEND_NEWLINE
_HARMLESS = frozenset({str, int, bool, type(None)})
_LOWEST_ID, _HIGHEST_ID = -(2**63), 2**63 - 1


def encode(document: Mapping[str, Any]) -> bytes:
    """Return the document as JSON without a line break.

    Raises ValueError when it is no JSON object, or would not come back as it is.
    """
    try:
        body = orjson.dumps(document, option=_OPTIONS)
    except TypeError as error:
        raise ValueError(f"the document can't be stored: {error}") from error
    if body[0] != 0x7B:  # {
        raise ValueError(f"a document is a JSON object, not {type(document).__name__}")
    # orjson turns NaN and infinities into null. Where every null is a None of the document itself, there are none.
    nulls = body.count(b"null")
    if nulls and nulls != [*document.values()].count(None):
        _refuse_non_finite(document.values())
    # orjson hands out its whole buffer of 4 KiB, however small the document: what is kept is a copy, and cutting off
    # the line break makes the cheapest.
    return body[:-1]


def decode(body: bytes) -> Document:
    """Return a fresh copy of what was encoded."""
    document: Document = orjson.loads(body)
    return document


def encode_all(documents: Mapping[int, Mapping[str, Any]]) -> dict[int, bytes]:
    """Encode documents by id.

    Raises ValueError when an id is no 64-bit integer or a document can't be encoded.
    """
    encoded = {}
    for doc_id, document in documents.items():
        if type(doc_id) is not int or not _LOWEST_ID <= doc_id <= _HIGHEST_ID:
            check_id(doc_id)
        encoded[doc_id] = encode(document)
    return encoded


def check_id(doc_id: int) -> None:
    """Raise ValueError unless this is a 64-bit integer, the largest that every JSON reader keeps exact."""
    if type(doc_id) is not int or not _LOWEST_ID <= doc_id <= _HIGHEST_ID:
        raise ValueError(f"a document's id is a 64-bit integer, not {doc_id!r:.60}")


def _refuse_non_finite(members: Iterable[Any]) -> None:
    """Look through plain containers; by exact type first, because this runs for many documents with a null."""
    for member in members:
        kind = type(member)
        if kind in _HARMLESS:
            continue
        if kind is dict or isinstance(member, dict):
            _refuse_non_finite(member.values())
        elif isinstance(member, (list, tuple)):
            _refuse_non_finite(member)
        elif isinstance(member, float) and not isfinite(member):
            raise ValueError(f"the document can't be stored: {member} is no JSON number")
