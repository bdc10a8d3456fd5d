"""What the file of the dutserver's accounts holds, and its form: JSON that stock TinyDB opens.

::

    {"accounts": {"1": {"name": "agent1", "kind": "agent", "changed": 1767225600.0, "password": "$argon2id$..."}},
     "tokens":   {"1": {"digest": "<sha256 of the token>", "account": "root", "expiresAt": 1767268800.0}},
     "settings": {"1": {"selfRegistration": false}}}
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any

import orjson

from puppetmaster.accounts import tokens
from puppetmaster.accounts.rows import Row, number, rows, table, text
from puppetmaster.accounts.tokens import TOKENS, Grants
from puppetmaster.policies import LOCALHOST, destination_fault

ACCOUNTS, SETTINGS = "accounts", "settings"

_SQLITE = b"SQLite format 3\0"

_SPLITS = re.compile(r"[:\s]")


class Kind(str, Enum):
    """What an account is for; the value is the word on the command line and in the file."""

    AGENT = "agent"
    """Gets tasks, answers them, tells events."""
    ADMIN = "admin"
    """Gives tasks and reads events."""

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class DutAccount:
    """Somebody who may talk to the dutserver."""

    name: str
    kind: Kind
    # When it was made; seconds since 1970.
    changed: float
    hashed: str = field(repr=False)


@dataclass
class DutBook:
    """All accounts by name, all tokens by their digest, and whether agents may register themselves."""

    holders: dict[str, DutAccount] = field(default_factory=dict)
    grants: Grants = field(default_factory=dict)
    self_registration: bool = False

    def copy(self) -> DutBook:
        """A book that can be changed without changing this one."""
        return DutBook(dict(self.holders), dict(self.grants), self.self_registration)

    def sweep(self, now: float) -> None:
        """Drop the tokens that have ended."""
        self.grants = tokens.living(self.grants, self.holders, now)

    def count_agents(self) -> int:
        """How many agents there are."""
        return sum(account.kind is Kind.AGENT for account in self.holders.values())

    @cached_property
    def agents(self) -> tuple[str, ...]:
        """The names of the agents, sorted; of a book that is not changed any more."""
        return tuple(sorted(name for name, account in self.holders.items() if account.kind is Kind.AGENT))


def name_fault(name: str) -> str | None:
    """Why nobody can be called this, or none when somebody can.

    An agent is a destination, so its name has to be good for one. Capitals stay: clients compare the names that they
    gave with those that they get. With a colon in it nobody could tell the name from the password behind it.
    """
    if name == LOCALHOST:
        return f"{LOCALHOST} is the machine that puppetmaster runs on"
    if _SPLITS.search(name) or not name.isprintable():
        return "a name has no spaces, no colons, and nothing that can't be printed"
    fault = destination_fault(name)
    return fault.replace("a destination", "a name") if fault else None


def encode(book: DutBook) -> bytes:
    """The content of the file, readable for people too."""
    accounts: list[Row] = [
        {
            "name": account.name,
            "kind": account.kind.value,
            "changed": account.changed,
            "password": account.hashed,
        }
        for account in book.holders.values()
    ]
    return orjson.dumps(
        {
            ACCOUNTS: table(accounts),
            TOKENS: table(tokens.to_rows(book.grants)),
            SETTINGS: table([{"selfRegistration": book.self_registration}]),
        },
        option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE,
    )


def decode(content: bytes) -> DutBook:
    """Read the content of the file.

    :raises ValueError: when any of it is not as it has to be.
    """
    if content.startswith(_SQLITE):
        raise ValueError("it is an SQLite database, as of the original dutserver, whose accounts have to be made anew")
    document: Any = orjson.loads(content)
    if not isinstance(document, dict):
        raise ValueError("it holds no tables")
    book = DutBook()
    for place, row in rows(document, ACCOUNTS):
        account = _account(place, row)
        if account.name in book.holders:
            raise ValueError(f"{place}: the name is there twice")
        book.holders[account.name] = account
    for place, row in rows(document, TOKENS):
        digest, grant = tokens.from_row(place, row)
        book.grants[digest] = grant
    for _, row in rows(document, SETTINGS):
        book.self_registration = row.get("selfRegistration") is True
    return book


def _account(place: str, row: Row) -> DutAccount:
    name = text(place, row, "name")
    fault = name_fault(name)
    if fault:
        raise ValueError(f"{place}.name: {fault}")
    try:
        kind = Kind(row.get("kind"))
    except ValueError:
        raise ValueError(f"{place}.kind is none of {', '.join(Kind)}") from None
    return DutAccount(
        name=name, kind=kind, changed=number(place, row, "changed"), hashed=text(place, row, "password")
    )
