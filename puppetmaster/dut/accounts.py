"""Who may talk to the dutserver: agents and admins by name and password, and the sessions of admins.

The file may be changed by another process (the command line) at any time: every call sees what is on disk now.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from puppetmaster.accounts import tokens
from puppetmaster.accounts.file import SharedFile
from puppetmaster.accounts.passwords import Passwords, password_fault
from puppetmaster.accounts.registry import LONGEST_WAIT_OF_NAME, LONGEST_WAIT_OF_SOURCE, network
from puppetmaster.accounts.throttle import Throttle
from puppetmaster.dut.book import DutAccount, DutBook, Kind, decode, encode, name_fault
from puppetmaster.dut.errors import TooManyAgents
from puppetmaster.dut.verified import Verified
from puppetmaster.errors import (
    AccountExists,
    AccountNotFound,
    Fault,
    Forbidden,
    InvalidDocument,
    StoreCorrupt,
    TooManyAttempts,
    Unauthorized,
)
from puppetmaster.logs import Seldom
from puppetmaster.store.files import FileSystem

__all__ = ["DutAccount", "DutAccounts", "Kind"]

logger = logging.getLogger(__name__)

FILE_NAME = "dut.json"
"""In the data folder of a bundle."""

TOKEN_PREFIX = "dut_"

SESSION = 12 * 3600.0
"""Seconds that a login lasts."""

MAX_AGENTS = 10_000

SHORTEST_PASSWORD = 1
"""The original knew no rule, and its agents have the passwords that they have; the throttle keeps guessing slow."""

MAX_TRIED = 10_000
"""Pairs of a name and a network that failed, remembered at once."""

ADVICE = "put a good copy in its place, or move it away to begin without accounts"

GONE = "it was here and is gone; put a copy in its place, or restart to begin without accounts"


class DutAccounts:
    """The accounts in a file; for any thread.

    What checks or sets a password takes a tenth of a second, what changes something waits for the disk; the rest is
    quick enough for a loop. Any method may raise StoreCorrupt when the file is damaged, and FileUnavailable when it
    can't be read or written. Neither may be taken for "there are no accounts".
    """

    def __init__(
        self,
        path: Path,
        *,
        now: Callable[[], float] = time.time,
        files: FileSystem | None = None,
        passwords: Passwords | None = None,
    ) -> None:
        """Nothing is read or made yet."""
        self._file: SharedFile[DutBook] = SharedFile(
            path,
            path.with_name(f"{path.name}.lock"),
            empty=DutBook,
            decode=decode,
            encode=encode,
            advice=ADVICE,
            gone=GONE,
            files=files,
        )
        self._now = now
        self._passwords = passwords or Passwords(shortest=SHORTEST_PASSWORD)
        self._verified = Verified()
        self._names = Throttle(longest=LONGEST_WAIT_OF_NAME)
        self._sources = Throttle(longest=LONGEST_WAIT_OF_SOURCE)
        self._seldom = Seldom()
        self._tried: OrderedDict[tuple[str, str], None] = OrderedDict()

    @property
    def path(self) -> Path:
        """The file."""
        return self._file.path

    # -------------------------------------------------------------------------------------------- who there is

    def agents(self) -> tuple[str, ...]:
        """The names of all agents, sorted: the same object until they change. Quick."""
        return self._file.read().agents

    def is_agent(self, name: str) -> bool:
        """Is there an agent of this name? Quick."""
        account = self._file.read().holders.get(name)
        return account is not None and account.kind is Kind.AGENT

    def any(self, name: str) -> bool:
        """Is there an account of this name? Quick."""
        return name in self._file.read().holders

    def check_new(self, name: str, is_taken: bool = False) -> None:
        """See that an account could be made by this name. Quick. Raises InvalidDocument and AccountExists."""
        _check("user", name_fault(name))
        if is_taken:
            raise AccountExists(name)
        _check_free(self._file.read(), name)

    # ------------------------------------------------------------------------------------------------ changing

    def add(self, name: str, kind: Kind, password: str) -> DutAccount:
        """Make an account.

        :raises InvalidDocument: when the name or the password can't be one.
        :raises AccountExists: when the name is taken.
        :raises TooManyAgents: when there are enough of them.
        """
        self.check_new(name)
        _check("pass", password_fault(password, SHORTEST_PASSWORD))
        with self._passwords.turn():
            hashed = self._passwords.hash(password)
        now = self._now()
        with self._file.changing(now) as book:
            _check_free(book, name)
            if kind is Kind.AGENT and book.count_agents() >= MAX_AGENTS:
                raise TooManyAgents(MAX_AGENTS)
            account = DutAccount(name=name, kind=kind, changed=now, hashed=hashed)
            book.holders[name] = account
        return account

    def remove(self, name: str) -> DutAccount:
        """Remove an account with its sessions, and return what it was. Raises AccountNotFound."""
        with self._file.changing(self._now()) as book:
            account = book.holders.pop(name, None)
            if account is None:
                raise AccountNotFound(name)
            book.grants = tokens.others(book.grants, name)
            return account

    @property
    def self_registration(self) -> bool:
        """Whether agents may make accounts for themselves. Quick."""
        return self._file.read().self_registration

    def allow_self_registration(self, enabled: bool) -> None:
        """Let agents make accounts for themselves, or no longer."""
        with self._file.changing(self._now()) as book:
            book.self_registration = enabled

    def check_registration(self) -> None:
        """See that agents may make accounts for themselves. Quick. Raises Forbidden."""
        if not self.self_registration:
            raise Forbidden("agents may not register themselves now")

    def register(self, name: str, password: str) -> DutAccount:
        """Make an agent's account for itself; else as :meth:`add`.

        :raises Forbidden: when that is not allowed.
        """
        self.check_registration()
        return self.add(name, Kind.AGENT, password)

    # ------------------------------------------------------------------------------------------------- callers

    def known(self, name: str, password: str, source: str) -> DutAccount | None:
        """The account when this password was found good from there before, and nothing changed since. Quick."""
        account = self._file.read().holders.get(name)
        if account is None or not self._verified.holds(name, network(source), password, account.hashed):
            return None
        return account

    def verify(self, name: str, password: str, source: str) -> DutAccount:
        """The account with this name and password. Not for a loop: it takes a tenth of a second.

        :param source: the address that the call comes from.
        :raises Unauthorized: when there is no such account or the password is another one; it takes as long.
        :raises TooManyAttempts: when the name or the source failed too often, or very many are checked at once.
        """
        place = network(source)
        self._check_throttle(name, place)
        with self._passwords.turn():
            # Again, for while this one waited others with the same name may have failed.
            self._check_throttle(name, place)
            account = self._file.read().holders.get(name)
            if not self._fits(account, password):
                self._failed(name, place)
                raise Unauthorized("the name or the password is wrong")
        assert account is not None
        self._names.succeeded(name)
        self._verified.note(name, place, password, account.hashed)
        return account

    def start_session(self, account: DutAccount) -> str:
        """A token for an account that was verified. Raises Unauthorized when it has changed since."""
        now = self._now()
        with self._file.changing(now) as book:
            if book.holders.get(account.name) != account:
                raise Unauthorized("the account has changed meanwhile")
            token, _ = tokens.grant(book.grants, account.name, prefix=TOKEN_PREFIX, lifetime=SESSION, now=now)
            return token

    def authenticate(self, token: str) -> DutAccount | None:
        """Whose session this is, or none when it is nobody's or has ended. Quick."""
        book = self._file.read()
        grant = book.grants.get(tokens.digest(token))
        return book.holders.get(grant.name) if grant and grant.expires_at > self._now() else None

    def end_session(self, token: str) -> None:
        """End a session; nothing happens when it is nobody's."""
        known = tokens.digest(token)
        if known in self._file.read().grants:
            with self._file.changing(self._now()) as book:
                book.grants.pop(known, None)

    # ------------------------------------------------------------------------------------------------- details

    def _fits(self, account: DutAccount | None, password: str) -> bool:
        try:
            return self._passwords.fits(account.hashed if account else None, password)
        except ValueError as error:
            name = account.name if account else "nobody"
            raise StoreCorrupt(self.path, 0, f"the password of {name} is no hash of argon2; {ADVICE}") from error

    def _check_throttle(self, name: str, place: str) -> None:
        now = self._now()
        wait = max(self._names.wait(name, now), self._sources.wait(place, now))
        if wait:
            raise TooManyAttempts(wait)

    def _failed(self, name: str, place: str) -> None:
        if count := self._seldom.due("failed"):
            logger.info("logins at dutserver failed: %d, the last one from %s", count, place,
                        extra={"event": "login_failed", "source": place, "count": count})
        now = self._now()
        self._names.failed(name, now)
        # An agent whose account was removed goes on polling for ever, and must not keep its neighbours out: a network
        # is counted by how many names it tries.
        if (name, place) not in self._tried:
            self._tried[name, place] = None
            self._sources.failed(place, now)
        if len(self._tried) > MAX_TRIED:
            self._tried.popitem(last=False)


def _check(path: str, fault: str | None) -> None:
    if fault:
        raise InvalidDocument([Fault(path, fault)])


def _check_free(book: DutBook, name: str) -> None:
    if name in book.holders:
        raise AccountExists(name)
