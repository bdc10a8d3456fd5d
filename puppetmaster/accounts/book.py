"""What the file of accounts holds, and its form: JSON that stock TinyDB opens.

::

    {"accounts": {"1": {"name": "ana", "role": "admin", "changed": 1767225600.0, "password": "$argon2id$..."}},
     "tokens":   {"1": {"digest": "<sha256 of the token>", "account": "ana", "expiresAt": 1767268800.0}}}

Tables of others are kept as they are. A row that makes no sense is an error, never left out: an account that is
overlooked could be the one that keeps the door shut.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import orjson

from puppetmaster.accounts import tokens
from puppetmaster.accounts.roles import Role
from puppetmaster.accounts.rows import Row, number, rows, table, text
from puppetmaster.accounts.tokens import TOKENS, Grants

ACCOUNTS = "accounts"

NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")
"""The name of an account; capitals become small letters before."""


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


@dataclass(slots=True)
class Book:
    """All accounts by name, in the order in which they were made, and all tokens by their digest."""

    holders: dict[str, Holder] = field(default_factory=dict)
    grants: Grants = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)

    def copy(self) -> Book:
        """A book that can be changed without changing this one."""
        return Book(dict(self.holders), dict(self.grants), self.others)

    def sweep(self, now: float) -> None:
        """Drop the tokens that have ended, and those of accounts that somebody removed by hand."""
        self.grants = tokens.living(self.grants, self.holders, now)

    def end_tokens(self, name: str) -> int:
        """Drop the tokens of an account; returns how many there were."""
        before = len(self.grants)
        self.grants = tokens.others(self.grants, name)
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
    return orjson.dumps(
        {**book.others, ACCOUNTS: table(accounts), TOKENS: table(tokens.to_rows(book.grants))},
        option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE,
    )


def decode(content: bytes) -> Book:
    """Read the content of the file.

    :raises ValueError: when any of it is not as it has to be; also for an empty file, which is none of ours.
    """
    document = orjson.loads(content)
    if not isinstance(document, dict):
        raise ValueError("it holds no tables")
    book = Book(others={name: table for name, table in document.items() if name not in (ACCOUNTS, TOKENS)})
    for place, row in rows(document, ACCOUNTS):
        holder = _holder(place, row)
        if holder.account.name in book.holders:
            raise ValueError(f"{place}: the name is there twice")
        book.holders[holder.account.name] = holder
    for place, row in rows(document, TOKENS):
        digest, grant = tokens.from_row(place, row)
        book.grants[digest] = grant
    return book


def _holder(place: str, row: Row) -> Holder:
    name, hashed = text(place, row, "name"), text(place, row, "password")
    if not NAME.fullmatch(name):
        raise ValueError(f"{place}.name is none that an account can have")
    try:
        role = Role(row.get("role"))
    except ValueError:
        raise ValueError(f"{place}.role is none of {', '.join(role.value for role in Role)}") from None
    account = Account(name=name, role=role, changed=number(place, row, "changed"))
    return Holder(account=account, hashed=hashed)
