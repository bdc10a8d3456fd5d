"""Who calls: an account of the dutserver's own, or an operator of puppetmaster that may act as an admin."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from puppetmaster.accounts.registry import TOKEN_PREFIX, Account, Accounts, Role
from puppetmaster.dut import credentials
from puppetmaster.dut.accounts import SESSION, DutAccounts, Kind
from puppetmaster.dut.credentials import Pair, Token
from puppetmaster.errors import Forbidden, TooManyAttempts, Unauthorized

HASHERS, MAX_HASHING = 2, 200
"""Threads that hash passwords, and calls that are hashed or wait for it: ten seconds' worth. A fleet that comes back
after a restart is hashed once, each agent in its turn."""

BUSY_SECONDS = 5.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls."""

    name: str
    kind: Kind
    source: str
    """The network address that the call came from."""
    token: str | None = field(default=None, repr=False)


class Callers:
    """Finds out who calls; on the loop.

    :param own: puppetmaster's own accounts, of which operators and admins get in too.
    """

    def __init__(self, accounts: DutAccounts, own: Accounts | None, now: Callable[[], float]) -> None:
        self._accounts = accounts
        self._own = own
        self._now = now
        self._hashers = ThreadPoolExecutor(HASHERS, "dut-hashing")
        self._hashing = 0

    async def identify(self, header: str | None, source: str, kind: Kind) -> Caller:
        """Who calls, by the ``Authorization`` header; they have to be of this kind.

        :raises Unauthorized: when the credentials are nobody's.
        :raises Forbidden: when they are somebody else's.
        :raises TooManyAttempts: when they are not even looked at.
        """
        given = credentials.read(header)
        if isinstance(given, Pair):
            caller = await self._by_password(given, source)
        elif isinstance(given, Token):
            caller = self._by_token(given, source)
        else:
            raise Unauthorized("this needs an account: name:password, or a token of /login, in Authorization")
        if caller.kind is not kind:
            raise Forbidden(f"{caller.name} is {caller.kind.value}, and this is for {kind.value} accounts")
        return caller

    async def login(self, name: str, password: str, source: str) -> tuple[str, str]:
        """A session's token for an admin, and whose it is.

        :raises Unauthorized: when the name or the password is wrong.
        :raises Forbidden: when they are an agent's, or of somebody who may only look on.
        """
        if self._own is not None and not self._accounts.any(name):
            return await self.hash(self._login_as_own, self._own, name, password, source), name
        account = await self.hash(self._accounts.verify, name, password, source)
        if account.kind is not Kind.ADMIN:
            raise Forbidden(f"{name} is {account.kind.value}, and only admins log in; agents send name:password")
        return await asyncio.to_thread(self._accounts.start_session, account), name

    async def logout(self, header: str | None) -> None:
        """End the session in the header. Raises Unauthorized when there is none in it."""
        given = credentials.read(header)
        if not isinstance(given, Token):
            raise Unauthorized("the token that is to end has to be in Authorization")
        if self._own is not None and given.text.startswith(TOKEN_PREFIX):
            await asyncio.to_thread(self._own.logout, given.text)
        else:
            await asyncio.to_thread(self._accounts.end_session, given.text)

    async def hash(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do work on passwords, which is slow on purpose, and must keep nobody else waiting.

        :raises TooManyAttempts: when too many wait for it already.
        """
        if self._hashing >= MAX_HASHING:
            raise TooManyAttempts(BUSY_SECONDS)
        self._hashing += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._hashers, partial(work, *arguments))
        finally:
            self._hashing -= 1

    def close(self) -> None:
        """Let go of the threads."""
        self._hashers.shutdown(wait=False, cancel_futures=True)

    async def _by_password(self, given: Pair, source: str) -> Caller:
        account = self._accounts.known(given.name, given.password, source)
        if account is None:
            account = await self.hash(self._accounts.verify, given.name, given.password, source)
        return Caller(account.name, account.kind, source)

    def _by_token(self, given: Token, source: str) -> Caller:
        account = self._accounts.authenticate(given.text)
        if account is not None:
            return Caller(account.name, account.kind, source, given.text)
        own = self._own.authenticate(given.text, self._now()) if self._own is not None else None
        if own is None:
            raise Unauthorized("the token is not valid, or its time is over: POST /login")
        _check_operator(own)
        return Caller(own.name, Kind.ADMIN, source, given.text)

    def _login_as_own(self, own: Accounts, name: str, password: str, source: str) -> str:
        issued = own.login(name, password, source, SESSION, self._now())
        try:
            _check_operator(issued.account)
        except Forbidden:
            own.logout(issued.token)
            raise
        return issued.token


def _check_operator(account: Account) -> None:
    if not account.role.allows(Role.OPERATOR):
        raise Forbidden(f"{account.name} is {account.role.value}, and this needs {Role.OPERATOR.value}")
