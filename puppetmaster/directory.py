"""What the engine asks about destinations: who there is, who is away, and how a request gets there.

The engine decides by it and never changes it. Everything here is a question to memory: no method blocks or raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from puppetmaster.models import Request
from puppetmaster.policies import Targets


class Directory(Protocol):
    """Knows the destinations and the ways to them."""

    def find(self, targets: Targets, draw: float) -> Sequence[str]:
        """The destinations that are meant, in their order; ``draw`` from [0, 1) seeds the choice of a sample."""
        ...

    def is_offline(self, destination: str) -> bool:
        """Whether it is known to be away; what nobody has ever heard of may be there."""
        ...

    def is_bounded(self, request: Request) -> bool:
        """Whether a request takes a place in the window, which keeps the broker's queues from overflowing, and has its
        destination alone. The others may be out in any number, several to one destination too."""
        ...


class EmptyDirectory:
    """One that knows nobody: every destination is reached over the broker, one request at a time."""

    def find(self, targets: Targets, draw: float) -> Sequence[str]:
        """Find nobody."""
        return ()

    def is_offline(self, destination: str) -> bool:
        """Think of everybody as there."""
        return False

    def is_bounded(self, request: Request) -> bool:
        """Count every request."""
        return True
