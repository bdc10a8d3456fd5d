"""Who gets in: accounts with a role and a password, and the tokens that stand for them.

Nobody's password is kept, but its argon2id hash; no token, but its sha256. A token is 32 random bytes, so it needs
no slow hash. It ends with its time, with its account, with a new password of it, or by :meth:`Accounts.logout`.
A new role counts at once for the tokens that are there, because a token only says who somebody is.
"""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from puppetmaster.accounts import tokens
from puppetmaster.accounts.book import NAME, Account, Book, Holder
from puppetmaster.accounts.file import ADVICE, AccountFile
from puppetmaster.accounts.passwords import Passwords, password_fault
from puppetmaster.accounts.roles import Role
from puppetmaster.accounts.throttle import Throttle
from puppetmaster.accounts.tokens import MAX_TOKENS, digest
from puppetmaster.errors import (
    AccountExists,
    AccountNotFound,
    Fault,
    InvalidDocument,
    LastAdmin,
    StoreCorrupt,
    TooManyAttempts,
    Unauthorized,
)
from puppetmaster.logs import Seldom
from puppetmaster.store.files import FileSystem

__all__ = ["MAX_TOKENS", "Account", "Accounts", "Issued", "Role"]

logger = logging.getLogger(__name__)

TOKEN_PREFIX = "pm_"
"""By which people and secret scanners recognise a token of ours."""

LONGEST_WAIT_OF_NAME = 60.0
"""Seconds. Short, for it also keeps out the one whose name somebody else is trying passwords on."""

LONGEST_WAIT_OF_SOURCE = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A new token; it is not to be had again."""

    token: str = field(repr=False)
    # Seconds since 1970.
    expires_at: float
    account: Account


class Accounts:
    """The accounts of a data folder, ``accounts.json`` in it.

    Another process may change them at any time: every call sees what is on disk now. For any thread. What checks
    or sets a password takes a tenth of a second, what changes something waits for the disk; the rest is quick
    enough for a loop.

    Any method may raise StoreCorrupt when the file is damaged, and FileUnavailable when it can't be read or
    written. Neither may be taken for "there are no accounts".
    """

    def __init__(
        self,
        folder: Path,
        *,
        now: Callable[[], float] = time.time,
        files: FileSystem | None = None,
        passwords: Passwords | None = None,
    ) -> None:
        """``now`` gives the time for what is not told it. Nothing is read or made yet."""
        self._file = AccountFile(Path(folder), files)
        self._now = now
        self._passwords = passwords or Passwords()
        self._names = Throttle(longest=LONGEST_WAIT_OF_NAME)
        self._sources = Throttle(longest=LONGEST_WAIT_OF_SOURCE)
        self._seldom = Seldom()

    @property
    def path(self) -> Path:
        """The file."""
        return self._file.path

    # -------------------------------------------------------------------------------------------- who there is

    def any(self) -> bool:
        """Is there any account, so that a login is needed? Quick."""
        return bool(self._file.read().holders)

    def list(self) -> tuple[Account, ...]:
        """All accounts by name. Quick."""
        return tuple(sorted((holder.account for holder in self._file.read().holders.values()), key=_name_of))

    def get(self, name: str) -> Account:
        """One account. Quick. Raises AccountNotFound."""
        return _holder(self._file.read(), name).account

    def check_new(self, name: str) -> None:
        """See that an account could be made by this name. Quick. Raises InvalidDocument and AccountExists."""
        _check(("name", _name_fault(name)))
        _check_free(self._file.read(), name.lower())

    # ------------------------------------------------------------------------------------------------ changing

    def add(self, name: str, role: Role | None, password: str) -> Account:
        """Make an account; without a role, the first one becomes an admin and others operators.

        :raises InvalidDocument: when the name or the password can't be one.
        :raises AccountExists: when the name is taken.
        """
        _check(("name", _name_fault(name)), ("password", password_fault(password)))
        name, now = name.lower(), self._now()
        _check_free(self._file.read(), name)
        hashed = self._hash(password)
        with self._file.changing(now) as book:
            _check_free(book, name)
            account = Account(name=name, role=role or _usual_role(book), changed=now)
            book.holders[name] = Holder(account=account, hashed=hashed)
        return account

    def change(
        self, name: str, role: Role | None = None, password: str | None = None, *, force: bool = False
    ) -> Account:
        """Give an account another role or password, or both; a password ends its tokens.

        :param force: take the role from the last admin too.
        :raises AccountNotFound: when there is no such account.
        :raises InvalidDocument: when the password can't be one.
        :raises LastAdmin: when nobody would be left to administrate.
        """
        name = self.get(name).name
        _check(("password", None if password is None else password_fault(password)))
        hashed = None if password is None else self._hash(password)
        now = self._now()
        with self._file.changing(now) as book:
            holder = _holder(book, name)
            if role not in (None, Role.ADMIN):
                _check_admin_left(book, name, force)
            account = replace(holder.account, role=role or holder.account.role, changed=now)
            if hashed is not None or account.role is not holder.account.role:
                book.holders[name] = Holder(account=account, hashed=hashed or holder.hashed)
            if hashed is not None:
                book.end_tokens(name)
            return book.holders[name].account

    def remove(self, name: str, *, force: bool = False) -> Account:
        """Remove an account with its tokens, and return what it was.

        :param force: remove the last admin too.
        :raises AccountNotFound: when there is no such account.
        :raises LastAdmin: when nobody would be left to administrate.
        """
        with self._file.changing(self._now()) as book:
            holder = _holder(book, name)
            _check_admin_left(book, holder.account.name, force)
            del book.holders[holder.account.name]
            book.end_tokens(holder.account.name)
            return holder.account

    # -------------------------------------------------------------------------------------------------- tokens

    def login(self, name: str, password: str, source: str, lifetime: float, now: float) -> Issued:
        """Give a token for a name and its password. Not for a loop: it takes a tenth of a second.

        :param source: the address that the call comes from.
        :param lifetime: seconds for which the token is good.
        :raises Unauthorized: when there is no such account or the password is another one; it takes as long as a
            good one.
        :raises TooManyAttempts: when the name or the source failed too often, or very many log in at once.
        """
        known, place = (name.lower() if NAME.fullmatch(name.lower()) else None), network(source)
        self._check_throttle(known, place, now)
        with self._passwords.turn():
            # Again, for while this one waited others with the same name may have failed.
            self._check_throttle(known, place, now)
            holder = self._file.read().holders.get(known) if known else None
            if not self._fits(holder, password):
                self._failed(known, place, now)
                raise Unauthorized("the name or the password is wrong")
            assert holder is not None
            renewed = self._passwords.hash(password) if self._passwords.outdated(holder.hashed) else None
        with self._file.changing(now) as book:
            current = book.holders.get(holder.account.name)
            if current is not None and current.hashed == holder.hashed:
                self._names.succeeded(holder.account.name)
                if renewed is not None:
                    book.holders[holder.account.name] = replace(current, hashed=renewed)
                return _issue(book, current.account, lifetime, now)
        # The password was changed while we looked at it, or its hash was renewed.
        return self.login(name, password, source, lifetime, now)

    def issue(self, name: str, lifetime: float, now: float) -> Issued:
        """Give a token for an account to a program. Raises AccountNotFound."""
        with self._file.changing(now) as book:
            return _issue(book, _holder(book, name).account, lifetime, now)

    def authenticate(self, token: str, now: float) -> Account | None:
        """Whose token this is, or none when it is nobody's or has ended. Quick."""
        book = self._file.read()
        grant = book.grants.get(digest(token))
        holder = book.holders.get(grant.name) if grant and grant.expires_at > now else None
        return holder.account if holder else None

    def logout(self, token: str) -> None:
        """End a token; nothing happens when it is nobody's."""
        known = digest(token)
        if known in self._file.read().grants:
            with self._file.changing(self._now()) as book:
                book.grants.pop(known, None)

    def logout_all(self, name: str) -> int:
        """End all tokens of an account, and return how many there were. Raises AccountNotFound."""
        with self._file.changing(self._now()) as book:
            return book.end_tokens(_holder(book, name).account.name)

    # ------------------------------------------------------------------------------------------------- details

    def _hash(self, password: str) -> str:
        with self._passwords.turn():
            return self._passwords.hash(password)

    def _fits(self, holder: Holder | None, password: str) -> bool:
        try:
            return self._passwords.fits(holder.hashed if holder else None, password)
        except ValueError as error:
            name = holder.account.name if holder else "nobody"
            raise StoreCorrupt(self.path, 0, f"the password of {name} is no hash of argon2; {ADVICE}") from error

    def _check_throttle(self, name: str | None, source: str, now: float) -> None:
        wait = max(self._names.wait(name, now) if name else 0.0, self._sources.wait(source, now))
        if wait:
            raise TooManyAttempts(wait)

    def _failed(self, name: str | None, source: str, now: float) -> None:
        if count := self._seldom.due("failed"):
            logger.info("logins failed: %d, the last one from %s", count, source,
                        extra={"event": "login_failed", "source": source, "count": count})
        # A source does not begin anew with a good login: it could have an account, and try others.
        self._sources.failed(source, now)
        if name:
            self._names.failed(name, now)


def network(source: str) -> str:
    """What stands for one caller: an address, or the /64 that a single host has with IPv6."""
    try:
        address = ipaddress.ip_address(source.partition("%")[0])
    except ValueError:
        return source[:64]
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or ipaddress.ip_network((int(address), 64), strict=False))


def _check(*found: tuple[str, str | None]) -> None:
    faults = [Fault(path, message) for path, message in found if message]
    if faults:
        raise InvalidDocument(faults)


def _name_fault(name: str) -> str | None:
    if NAME.fullmatch(name.lower()):
        return None
    return "a name has 1 to 64 characters of a-z 0-9 . _ @ - and begins with a letter or a digit"


def _name_of(account: Account) -> str:
    return account.name


def _holder(book: Book, name: str) -> Holder:
    try:
        return book.holders[name.lower()]
    except KeyError:
        raise AccountNotFound(name) from None


def _check_free(book: Book, name: str) -> None:
    if name in book.holders:
        raise AccountExists(name)


def _usual_role(book: Book) -> Role:
    return Role.OPERATOR if book.holders else Role.ADMIN


def _check_admin_left(book: Book, name: str, force: bool) -> None:
    if not force and book.is_last_admin(name):
        raise LastAdmin(name)


def _issue(book: Book, account: Account, lifetime: float, now: float) -> Issued:
    token, grant = tokens.grant(
        book.grants, account.name, prefix=TOKEN_PREFIX, lifetime=lifetime, now=now, most=MAX_TOKENS
    )
    return Issued(token=token, expires_at=grant.expires_at, account=account)
