"""Serves ``/agent/commands`` and ``/agent/info``: begins each order once, whatever happens to the process it lives in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from puppetmaster.agent.memory import Memory
from puppetmaster.agent.order import Order, Reply
from puppetmaster.agent.output import OutputLimits
from puppetmaster.agent.rights import Rights
from puppetmaster.chunks import Chunk

__all__ = ["Order", "Reply", "Worker"]


class Worker:
    """Runs the commands of a device. All methods belong to one loop.

    :param memory: what was begun and done; its folder holds the runs too. The worker neither opens nor closes it.
    :param emit: gets each chunk of output, in order, and must not wait.
    :param info: the facts of ``/agent/info``.
    :param max_running: how many orders run at once; more wait, up to ten times as many, and what is above that is
        answered 503.
    :param kill_after: seconds from TERM to KILL.
    :param is_clear: whether ``emit`` can take more now. While it says no, output stays in its file.
    """

    def __init__(
        self,
        *,
        memory: Memory,
        rights: Rights,
        limits: OutputLimits,
        emit: Callable[[Order, Chunk], None],
        info: Callable[[], dict[str, Any]],
        max_running: int = 100,
        kill_after: float = 5.0,
        is_clear: Callable[[], bool] = lambda: True,
    ) -> None:
        raise NotImplementedError

    @property
    def running(self) -> list[Order]:
        """The orders that are being worked on, oldest first, those that wait for a place among them."""
        raise NotImplementedError

    def serves(self, resource: str) -> bool:
        """Whether a resource is answered here: all of ``/agent``, though what is unknown below it is answered 404."""
        raise NotImplementedError

    async def start(self, reply_to: Callable[[Order], Reply]) -> None:
        """Take over what an earlier life began.

        Commands that still run are adopted, those that never started are started, those cut off are answered, and
        final answers that nobody got are given. Returns when all of that is under way.

        :param reply_to: the way back for an order that was remembered; its ``data`` is not filled in.
        """
        raise NotImplementedError

    async def handle(self, order: Order, reply: Reply) -> None:
        """Take an order; returns when it is on disk (or answered for good), so that it can be acknowledged.

        The work goes on by itself, and ``reply`` is called as there is something to say: 102 when it begins, then the
        final answer. An order that is known is not done again: its remembered answer is given, or 102 while it is at
        work. Nothing that an order holds makes this raise.
        """
        raise NotImplementedError

    async def close(self, kill: bool = False) -> None:
        """Stop looking. Commands that run go on and are adopted by the next life.

        :param kill: end them first, and answer for them.
        """
        raise NotImplementedError
