"""What is sent again after a connection was lost, on a service that only notes it and timers that go off when told."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from puppetmaster.address import BrokerAddress
from puppetmaster.models import Job, Message, Request
from puppetmaster.tunnels import DOUBT_TIME, LARGE, Tunnels
from puppetmaster.wire import Codec, DeviceTunnel


class Notes:
    """Of the service only what a connection needs: what is out, and what is sent again."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.resent: list[list[int]] = []
        self.dropped: Counter[str] = Counter()

    def out_to(self, destination: str) -> int | None:
        return next((request.id for request in self.requests if request.destination == destination), None)

    def out(self) -> list[Any]:
        return self.requests

    def resend(self, only: Callable[[Any], bool]) -> int:
        self.resent.append([request.id for request in self.requests if only(request)])
        return len(self.resent[-1])

    def link(self, up: bool) -> None: ...

    def accepted(self, request: Any, attempt: int) -> None: ...

    def is_out(self, *idents: int) -> None:
        self.requests = [SimpleNamespace(id=ident, destination=f"dev-{ident}") for ident in idents]


class Timers:
    """Stands for the running loop."""

    def __init__(self) -> None:
        self.set: list[tuple[float, Callable[[], object]]] = []

    def call_later(self, delay: float, call: Callable[..., object], *args: object) -> None:
        self.set.append((delay, lambda: call(*args)))

    def go_off(self) -> None:
        delay, call = self.set.pop(0)
        assert delay == DOUBT_TIME
        call()


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> Timers:
    made = Timers()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: made)
    return made


def connected(*idents: int, session_present: bool, reconnects: int = 1) -> tuple[Tunnels, Notes]:
    """Tunnels whose connection has just been made again, while these requests were out."""
    made, notes = Tunnels(BrokerAddress.parse("localhost"), Codec("i", DeviceTunnel())), Notes()
    made._service = notes  # type: ignore[assignment]
    made.teller.online = lambda up: None  # type: ignore[method-assign]
    made._bus.reconnects, made._bus.connected = reconnects, True
    made._bus.publish = lambda *args, **rest: None  # type: ignore[method-assign]
    notes.is_out(*idents)
    made._connected(session_present)
    return made, notes


def test_what_was_out_at_a_reconnect_with_a_session_is_sent_again_when_it_stays_unanswered(timers: Timers) -> None:
    _, notes = connected(1, 2, session_present=True)
    assert notes.resent == []
    notes.is_out(2, 3)  # 1 was answered, 3 is new, and the broker has it
    timers.go_off()
    assert notes.resent == [[2]]


def test_a_broker_that_forgot_all_is_sent_again_what_went_out_before_the_devices_were_back(timers: Timers) -> None:
    _, notes = connected(1, 2, session_present=False)
    assert notes.resent == [[1, 2]]
    notes.is_out(2, 3)  # 3 was published when its device had not subscribed yet
    timers.go_off()
    assert notes.resent[1:] == [[2, 3]]


def test_a_first_connection_leaves_nothing_in_doubt(timers: Timers) -> None:
    _, notes = connected(session_present=False, reconnects=0)
    assert notes.resent == [[]] and timers.set == []


def test_a_device_that_comes_online_is_sent_once_what_was_out_to_it_at_the_reconnect(timers: Timers) -> None:
    made, notes = connected(1, 2, session_present=True)
    made.present("dev-1")
    made.present("dev-1")
    made.present("dev-7")
    assert notes.resent == [[1]]


def test_a_device_that_comes_back_to_a_broker_that_forgot_it_is_sent_one_copy(timers: Timers) -> None:
    made, notes = connected(1, 2, session_present=False)
    made.present("dev-1")  # it came online, and said so
    made.heard_online("dev-1")
    assert notes.resent[1:] == [[1]]


def test_a_device_that_a_broker_forgot_is_sent_once_what_went_out_before_it_was_back(timers: Timers) -> None:
    made, notes = connected(1, session_present=False)
    timers.go_off()
    notes.is_out(3, 4)  # published when their devices had no session
    for name in ("dev-3", "dev-3", "dev-7"):
        made.heard_online(name)
    notes.is_out(4, 5)
    made.heard_online("dev-3")
    assert notes.resent[2:] == [[3]]


def test_a_broker_that_forgot_all_while_we_were_away_too_counts_when_something_is_out(timers: Timers) -> None:
    made, notes = connected(1, session_present=False, reconnects=0)
    notes.is_out(2)
    made.heard_online("dev-2")
    assert notes.resent == [[1], [2]]


@pytest.mark.parametrize(("session_present", "reconnects"), [(True, 1), (False, 0)])
def test_a_device_that_no_broker_forgot_is_sent_nothing_again_for_being_there(
    timers: Timers, session_present: bool, reconnects: int
) -> None:
    made, notes = connected(session_present=session_present, reconnects=reconnects)
    before = list(notes.resent)
    notes.is_out(1)
    made.heard_online("dev-1")
    assert notes.resent == before


def test_the_next_reconnect_has_a_look_of_its_own(timers: Timers) -> None:
    made, notes = connected(1, session_present=True)
    notes.is_out(1, 2)
    made._connected(True)
    timers.go_off()
    assert notes.resent == []
    timers.go_off()
    assert notes.resent == [[1, 2]]


@pytest.mark.parametrize(("size", "is_made_later"), [(10, False), (LARGE, True)])
def test_a_large_request_is_written_when_its_turn_comes(timers: Timers, size: int, is_made_later: bool) -> None:
    made, _ = connected(session_present=True)
    published: list[Any] = []
    made._bus.publish = lambda topic, payload, **rest: published.append(payload)  # type: ignore[method-assign]
    message = Message(method="put", resource="/r", data="x" * size, timeout=5.0)
    job = Job(id=1, messages=(message,), first_request=2, total_count=1, created_at=0.0)
    request = Request(id=2, job=job, message_number=0, destination="dev")
    made.send(request, 1)
    [payload] = published
    assert callable(payload) == is_made_later
    assert (payload() if is_made_later else payload) == made._codec.write(request)[1]
