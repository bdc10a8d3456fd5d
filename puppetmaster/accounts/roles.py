"""What somebody may do: three roles, each of which may do all that those before it may."""

from __future__ import annotations

from enum import Enum


class Role(str, Enum):
    """What an account may do, in rising order; the value is the word on the wire."""

    VIEWER = "viewer"
    """Reads, and watches."""
    OPERATOR = "operator"
    """Makes, changes and removes jobs and requests too."""
    ADMIN = "admin"
    """Makes, changes and removes accounts too, and reads the audit log."""

    def __str__(self) -> str:
        return self.value

    def allows(self, needed: Role) -> bool:
        """May this role do what that one may?"""
        return _RANK[self] >= _RANK[needed]


_RANK = {role: rank for rank, role in enumerate(Role)}
