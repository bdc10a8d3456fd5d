"""The ports of the channels: what the service asks of a way out, and what a way out tells the service."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from puppetmaster.effects import Verdict
from puppetmaster.models import Request
from puppetmaster.wire import Answer


class Channel(Protocol):
    """A way to some destinations. All on the loop; no method blocks or raises.

    A destination may have several requests of different jobs at once.
    """

    def serves(self, request: Request) -> bool:
        """Whether a request goes this way. Asked several times for each request, so it is quick."""
        ...

    def send(self, request: Request, attempt: int) -> None:
        """Carry a request; idempotent, for it may be called again with the same attempt.

        When it is on its way :meth:`Post.accepted` is to be told, when it is answered :meth:`Post.answer`. A request
        that is no longer out (``request.is_out``) or has another ``request.attempt`` by then is not wanted any more.
        """
        ...

    def abort(self, request: Request) -> None:
        """A request that was out is called off, or its time is over: whoever works on it may stop."""
        ...


class Post(Protocol):
    """What a channel tells: the service."""

    def accepted(self, request: Request, attempt: int) -> None:
        """The request is on its way."""
        ...

    async def answer(self, answer: Answer) -> Verdict:
        """The request was answered; returns when that is on disk."""
        ...

    def resend(self, only: Callable[[Request], bool] | None = None) -> int:
        """Have :meth:`Channel.send` called once more for what is out."""
        ...
