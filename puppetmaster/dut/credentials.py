"""What stands in ``Authorization``: a session's token, or a name with its password.

==================== ==============================================
``TOKEN``            as the original's clients send it
``Bearer TOKEN``
``NAME:PASSWORD``    as the original's agents send it
``Basic ...``        the same as HTTP has it
==================== ==============================================
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from dataclasses import dataclass, field

MAX_LENGTH = 4096
"""Characters of the header; a password has 1024 bytes at the most."""


@dataclass(frozen=True, slots=True)
class Token:
    """A session."""

    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Pair:
    """A name with its password."""

    name: str
    password: str = field(repr=False)


def read(header: str | None) -> Token | Pair | None:
    """The credentials in a header, or none when there are none that could be good."""
    if not header or len(header) > MAX_LENGTH:
        return None
    text = _as_utf8(header).strip()
    scheme, _, rest = text.partition(" ")
    if scheme.lower() == "bearer":
        return Token(rest.strip()) if rest.strip() else None
    if scheme.lower() == "basic":
        return _pair(_basic(rest))
    return _pair(text) if ":" in text else Token(text)


def _pair(text: str) -> Pair | None:
    name, colon, password = text.partition(":")
    return Pair(name, password) if name and colon else None


def _basic(text: str) -> str:
    try:
        return b64decode(text.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        return ""


def _as_utf8(header: str) -> str:
    """Clients write headers in UTF-8 or in latin-1; ASGI's have one character for each byte."""
    try:
        return header.encode("latin-1").decode()
    except UnicodeError:
        return header
