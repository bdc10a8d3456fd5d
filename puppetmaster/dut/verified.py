"""Passwords that were found good, so that an agent that polls all day is not hashed all day.

What is kept is an HMAC of the password under a key that dies with the process. A password from another network than
the one that was found good there counts for nothing, and a wrong one drops what is kept: who guesses gets no quicker
answer here than from the throttle.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections import OrderedDict

MAX_VERIFIED = 50_000
"""Remembered at once, about 20 MB; who was not seen longest is forgotten for a new one, and is hashed again."""


class Verified:
    """For any thread."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._known: OrderedDict[tuple[str, str], tuple[bytes, str]] = OrderedDict()
        self._lock = threading.Lock()

    def holds(self, name: str, network: str, password: str, hashed: str) -> bool:
        """Was this password found good for this hash, from there? A wrong one has to be found good again."""
        with self._lock:
            mac, of = self._known.get((name, network), (b"", ""))
            good = of == hashed and hmac.compare_digest(mac, self._mac(password))
            if good:
                self._known.move_to_end((name, network))
            else:
                self._known.pop((name, network), None)
            return good

    def note(self, name: str, network: str, password: str, hashed: str) -> None:
        """Remember that this password fits this hash."""
        with self._lock:
            self._known[name, network] = (self._mac(password), hashed)
            if len(self._known) > MAX_VERIFIED:
                self._known.popitem(last=False)

    def _mac(self, password: str) -> bytes:
        return hmac.digest(self._key, password.encode("utf-8", "replace"), hashlib.sha256)
