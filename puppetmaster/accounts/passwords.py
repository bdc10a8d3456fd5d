"""Passwords: what one may be, and argon2id, which makes guessing them slow."""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import unicodedata
from base64 import b64encode
from collections.abc import Iterator

from argon2 import PasswordHasher
from argon2.exceptions import HashingError, VerificationError, VerifyMismatchError

from puppetmaster.errors import TooManyAttempts

logger = logging.getLogger(__name__)

MIN_CHARACTERS = 8
"""What NIST SP 800-63B asks for; rules about digits and signs make passwords no better."""

MAX_BYTES = 1024
"""As UTF-8: enough for any sentence, and nobody makes us hash megabytes."""

SLOTS = 2
"""Hashes at once. Each takes 64 MiB and, with four threads of its own, all that two cores have."""

MAX_WAITING = 16
"""Callers who wait for a slot, about a second's worth; the threads that wait serve other calls too."""

BUSY_SECONDS = 1.0


def password_fault(password: str, shortest: int = MIN_CHARACTERS) -> str | None:
    """Why this can't be a password, or none when it can; ``shortest`` is the number of characters it needs."""
    if len(password) > MAX_BYTES or len(password.encode("utf-8", "replace")) > MAX_BYTES:
        return f"a password has at most {MAX_BYTES} bytes"
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in password):
        return "a password has no control characters: nobody could type it again"
    if len(_normal(password)) < shortest:
        return f"a password has at least {shortest} character{'s' if shortest > 1 else ''}"
    return None


def _normal(password: str) -> str:
    # The same key gives one character on some systems and two on others.
    return unicodedata.normalize("NFC", password)


class Passwords:
    """Makes and checks hashes, a few at once. For any thread but the loop's: a hash takes a tenth of a second.

    It is computed without the interpreter's lock, so the loop goes on meanwhile.

    :param shortest: the number of characters that a password needs.
    """

    def __init__(self, hasher: PasswordHasher | None = None, *, shortest: int = MIN_CHARACTERS) -> None:
        self._hasher = hasher or PasswordHasher()
        self._shortest = shortest
        self._decoy = _decoy(self._hasher)
        self._slots = threading.BoundedSemaphore(SLOTS)
        self._places = threading.BoundedSemaphore(SLOTS + MAX_WAITING)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a slot, and hold it. Raises TooManyAttempts when too many wait already, or memory is short."""
        if not self._places.acquire(blocking=False):
            raise TooManyAttempts(BUSY_SECONDS)
        try:
            with self._slots:
                yield
        except (HashingError, VerificationError) as error:
            # A wrong password is neither: these two mean that the 64 MiB could not be had.
            logger.error("can't hash a password: %s", error, extra={"event": "hash_failed"})
            raise TooManyAttempts(BUSY_SECONDS) from error
        finally:
            self._places.release()

    def hash(self, password: str) -> str:
        """Hash a password that has no fault. To be called in a :meth:`turn`."""
        return self._hasher.hash(_normal(password))

    def fits(self, hashed: str | None, password: str) -> bool:
        """Is it this password? To be called in a :meth:`turn`.

        Without a hash (there is no such account) the work is the same, and the answer is no.

        :raises ValueError: when this is no hash.
        """
        fault = password_fault(password, self._shortest)
        try:
            # A password that can't be one is not worth its hash, but the time must not tell.
            self._hasher.verify(hashed or self._decoy, "" if fault else _normal(password))
        except VerifyMismatchError:
            return False
        return hashed is not None and fault is None

    def outdated(self, hashed: str) -> bool:
        """Was this made with other parameters than those of today?"""
        return self._hasher.check_needs_rehash(hashed)


def _decoy(hasher: PasswordHasher) -> str:
    """A hash of nothing known that takes as long to check as a real one."""

    def chance(size: int) -> str:
        return b64encode(secrets.token_bytes(size)).decode().rstrip("=")

    cost = f"m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}"
    return f"$argon2id$v=19${cost}${chance(hasher.salt_len)}${chance(hasher.hash_len)}"
