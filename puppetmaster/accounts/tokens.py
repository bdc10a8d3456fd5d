"""Tokens: 32 random bytes that stand for an account for a while. Only their sha256 is kept."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Container
from dataclasses import dataclass

from puppetmaster.accounts.rows import Row, number, text

TOKENS = "tokens"
"""The name of their table."""

MAX_TOKENS = 1000
"""Of one account, some 200 KB in the file; a further one takes the place of the one that would end first."""

MAX_LIFETIME = 100 * 366 * 86400.0

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a token gives: to be somebody, until then."""

    name: str
    expires_at: float


Grants = dict[str, Grant]
"""All that were given, by the digest of the token."""


def digest(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def grant(
    grants: Grants, name: str, *, prefix: str, lifetime: float, now: float, most: int = MAX_TOKENS
) -> tuple[str, Grant]:
    """A new token for an account, noted among those that there are; ``most`` is how many of them it may have."""
    if not 0 < lifetime <= MAX_LIFETIME:
        raise ValueError(f"a token can't be good for {lifetime} s")
    token = prefix + secrets.token_urlsafe(32)
    own = [known for known, given in grants.items() if given.name == name]
    if len(own) >= most:
        del grants[min(own, key=lambda known: grants[known].expires_at)]
    given = grants[digest(token)] = Grant(name=name, expires_at=now + lifetime)
    return token, given


def living(grants: Grants, names: Container[str], now: float) -> Grants:
    """Those that have not ended, and whose account is there."""
    return {known: given for known, given in grants.items() if given.expires_at > now and given.name in names}


def others(grants: Grants, name: str) -> Grants:
    """Those of other accounts."""
    return {known: given for known, given in grants.items() if given.name != name}


def to_rows(grants: Grants) -> list[Row]:
    """As they lie in the file."""
    return [
        {"digest": known, "account": given.name, "expiresAt": given.expires_at} for known, given in grants.items()
    ]


def from_row(place: str, row: Row) -> tuple[str, Grant]:
    """One of them with its digest. Raises ValueError when it makes no sense."""
    known = text(place, row, "digest")
    if not _DIGEST.fullmatch(known):
        raise ValueError(f"{place}.digest is no sha256")
    return known, Grant(name=text(place, row, "account"), expires_at=number(place, row, "expiresAt"))
