"""Sends each request its way: by the first channel that serves it, else over the broker."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from puppetmaster.channels.port import Channel
from puppetmaster.devices import Devices
from puppetmaster.documents import Document
from puppetmaster.effects import Change
from puppetmaster.models import Request
from puppetmaster.policies import Targets
from puppetmaster.service import Outlet


class Router:
    """The service's outlet: the broker's tunnels, and the channels beside them."""

    def __init__(self, tunnels: Outlet) -> None:
        self._tunnels = tunnels
        self._channels: list[tuple[Channel, Callable[[Request], bool]]] = []
        """Each with its word on whether it serves a request, which every request is asked about twice."""

    def add(self, channel: Channel) -> None:
        """Ask one more channel; those that were added before it go first."""
        self._channels.append((channel, channel.serves))

    def channel(self, request: Request) -> Channel | None:
        """The channel that a request takes; none when it goes over the broker."""
        for channel, serves in self._channels:
            if serves(request):
                return channel
        return None

    def is_by_broker(self, request: Request) -> bool:
        """Whether a request goes over the broker."""
        return self.channel(request) is None

    def send(self, request: Request, attempt: int) -> None:
        """See Outlet."""
        (self.channel(request) or self._tunnels).send(request, attempt)

    def abort(self, request: Request) -> None:
        """See Outlet."""
        (self.channel(request) or self._tunnels).abort(request)

    def tell(self, change: Change, job_id: int, document: Document | None) -> None:
        """See Outlet."""
        self._tunnels.tell(change, job_id, document)

    def retain(self, job_id: int, document: Document) -> None:
        """See Outlet."""
        self._tunnels.retain(job_id, document)


class NoTunnels:
    """In place of the broker where there is none: what no channel serves waits for its timeout."""

    def send(self, request: Request, attempt: int) -> None:
        """Send nothing."""

    def abort(self, request: Request) -> None:
        """Nobody works on it."""

    def tell(self, change: Change, job_id: int, document: Document | None) -> None:
        """Tell nobody."""

    def retain(self, job_id: int, document: Document) -> None:
        """Retain nothing."""


class Destinations:
    """What the engine asks about destinations (a Directory): the registry knows who they are, the router how to go."""

    def __init__(self, devices: Devices, router: Router) -> None:
        self.find: Callable[[Targets, float], Sequence[str]] = devices.find
        self.is_offline: Callable[[str], bool] = devices.is_offline
        self.is_bounded: Callable[[Request], bool] = router.is_by_broker
