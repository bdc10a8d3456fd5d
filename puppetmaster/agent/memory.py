"""What an agent has begun and done, on disk: so that nothing is done twice, and no answer is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from puppetmaster.agent.order import Key, Order
from puppetmaster.store.files import FileSystem


class Entry:
    """What is known of one order. Data lie on disk alone: :meth:`Memory.data`."""

    key: Key
    method: str
    resource: str
    at: float
    """When it was begun, seconds since 1970."""
    facts: dict[str, Any]
    """What was noted about it."""
    code: int | None
    """That of its final answer, once there is one."""
    delivered: bool
    """Whether somebody has got that answer."""

    @property
    def is_done(self) -> bool:
        """Whether its final answer is remembered."""
        raise NotImplementedError

    def order(self, data: Any = None) -> Order:
        """The order that it is about."""
        raise NotImplementedError


class Memory:
    """The orders that were begun and done. Opens (and makes) its folder at once; methods belong to one loop.

    :param folder: nobody else may use it.
    :param keep: how many delivered answers are kept at the most, the newest.
    :param keep_bytes: how much they may take together, in bytes.
    :raises StoreLocked: when another process has it.
    :raises FileUnavailable: when it can't be read or made.
    """

    def __init__(
        self, folder: Path, *, keep: int = 10_000, keep_bytes: int = 64 * 1024 * 1024, files: FileSystem | None = None
    ) -> None:
        self.folder = folder
        raise NotImplementedError

    def find(self, key: Key) -> Entry | None:
        """What is known of an order."""
        raise NotImplementedError

    def unfinished(self) -> list[Entry]:
        """Orders that were begun and have no final answer, oldest first."""
        raise NotImplementedError

    def undelivered(self) -> list[Entry]:
        """Orders whose final answer nobody has got, oldest first."""
        raise NotImplementedError

    async def data(self, entry: Entry) -> Any:
        """The answer's data when it is done, else the order's."""
        raise NotImplementedError

    async def begin(self, order: Order, **facts: Any) -> Entry:
        """Remember an order that is about to be worked on; returns when that is on disk.

        :raises FileUnavailable: when it can't be written: the order must not be begun.
        """
        raise NotImplementedError

    async def note(self, entry: Entry, **facts: Any) -> None:
        """Remember something about an order that is being worked on; returns when that is on disk.

        :raises FileUnavailable: when it can't be written. It is known until the process ends all the same.
        """
        raise NotImplementedError

    async def done(self, order: Order, code: int, data: Any) -> Entry:
        """Remember a final answer, to an order that was begun or not; returns when that is on disk.

        A transient answer is not remembered: the order is forgotten then, as if it had never come.

        :raises FileUnavailable: when it can't be written. It is known until the process ends all the same, and
            calling this again is the way to try again.
        """
        raise NotImplementedError

    def delivered(self, key: Key) -> None:
        """Remember that somebody has the final answer. Written with what is written next: it may be given again."""
        raise NotImplementedError

    async def forget(self, key: Key) -> None:
        """Forget an order that was begun, as if it had never come; returns when that is on disk.

        :raises FileUnavailable: when it can't be written.
        """
        raise NotImplementedError

    async def close(self) -> None:
        """Write what there is to write, and let go of the folder; idempotent."""
        raise NotImplementedError
