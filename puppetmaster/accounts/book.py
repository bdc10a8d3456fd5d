"""What the file of accounts holds, and its form: JSON that stock TinyDB opens.

::

    {"accounts": {"1": {"name": "ana", "role": "admin", "changed": 1767225600.0, "password": "$argon2id$..."}},
     "tokens":   {"1": {"digest": "<sha256 of the token>", "account": "ana", "expiresAt": 1767268800.0}}}

Tables of others are kept as they are. A row that makes no sense is an error, never left out: an account that is
overlooked could be the one that keeps the door shut.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

import orjson

from puppetmaster.accounts.roles import Role

ACCOUNTS, TOKENS = "accounts", "tokens"

NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")
"""The name of an account; capitals become small letters before."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Somebody who may log in."""

    name: str
    role: Role
    # When the account, its role or its password was made or changed; seconds since 1970.
    changed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """An account with the hash of its password."""

    account: Account
    hashed: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a token gives: to be somebody, until then."""

    name: str
    expires_at: float


@dataclass(slots=True)
class Book:
    """All accounts by name, in the order in which they were made, and all tokens by their digest."""

    holders: dict[str, Holder] = field(default_factory=dict)
    grants: dict[str, Grant] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)

    def copy(self) -> Book:
        """A book that can be changed without changing this one."""
        return Book(dict(self.holders), dict(self.grants), self.others)

    def sweep(self, now: float) -> None:
        """Drop the tokens that have ended, and those of accounts that somebody removed by hand."""
        self.grants = {
            digest: grant
            for digest, grant in self.grants.items()
            if grant.expires_at > now and grant.name in self.holders
        }

    def end_tokens(self, name: str) -> int:
        """Drop the tokens of an account; returns how many there were."""
        before = len(self.grants)
        self.grants = {digest: grant for digest, grant in self.grants.items() if grant.name != name}
        return before - len(self.grants)

    def is_last_admin(self, name: str) -> bool:
        """Is this the only account that may administrate?"""
        return [holder.account.name for holder in self.holders.values() if holder.account.role is Role.ADMIN] == [name]


def encode(book: Book) -> bytes:
    """The content of the file, readable for people too."""
    accounts = [
        {
            "name": holder.account.name,
            "role": holder.account.role.value,
            "changed": holder.account.changed,
            "password": holder.hashed,
        }
        for holder in book.holders.values()
    ]
    tokens = [
        {"digest": digest, "account": grant.name, "expiresAt": grant.expires_at}
        for digest, grant in book.grants.items()
    ]
    return orjson.dumps(
        {**book.others, ACCOUNTS: _table(accounts), TOKENS: _table(tokens)},
        option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE,
    )


def _table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {str(number): row for number, row in enumerate(rows, 1)}


def decode(content: bytes) -> Book:
    """Read the content of the file.

    :raises ValueError: when any of it is not as it has to be; also for an empty file, which is none of ours.
    """
    document = orjson.loads(content)
    if not isinstance(document, dict):
        raise ValueError("it holds no tables")
    book = Book(others={name: table for name, table in document.items() if name not in (ACCOUNTS, TOKENS)})
    for place, row in _rows(document, ACCOUNTS):
        holder = _holder(place, row)
        if holder.account.name in book.holders:
            raise ValueError(f"{place}: the name is there twice")
        book.holders[holder.account.name] = holder
    for place, row in _rows(document, TOKENS):
        digest, grant = _grant(place, row)
        book.grants[digest] = grant
    return book


def _rows(document: dict[str, Any], name: str) -> list[tuple[str, dict[str, Any]]]:
    table = document.get(name)
    if not isinstance(table, dict):
        raise ValueError(f"it has no table {name!r}")
    rows = [(f"{name}.{key:.20}", row) for key, row in table.items()]
    for place, row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"{place} is no document")
    return rows


def _holder(place: str, row: dict[str, Any]) -> Holder:
    name, hashed = _text(place, row, "name"), _text(place, row, "password")
    if not NAME.fullmatch(name):
        raise ValueError(f"{place}.name is none that an account can have")
    try:
        role = Role(row.get("role"))
    except ValueError:
        raise ValueError(f"{place}.role is none of {', '.join(role.value for role in Role)}") from None
    account = Account(name=name, role=role, changed=_number(place, row, "changed"))
    return Holder(account=account, hashed=hashed)


def _grant(place: str, row: dict[str, Any]) -> tuple[str, Grant]:
    digest = _text(place, row, "digest")
    if not _DIGEST.fullmatch(digest):
        raise ValueError(f"{place}.digest is no sha256")
    return digest, Grant(name=_text(place, row, "account"), expires_at=_number(place, row, "expiresAt"))


def _text(place: str, row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{place}.{name} is no text")
    return value


def _number(place: str, row: dict[str, Any], name: str) -> float:
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{place}.{name} is no number")
    return float(value)
