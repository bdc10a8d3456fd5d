"""Our connection against a real Mosquitto that comes, goes, stalls and says no."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from gmqtt.mqtt.constants import MQTTv50, MQTTv311

from puppetmaster.address import BrokerAddress
from puppetmaster.bus import DENIED, MAX_BATCH, MAX_BATCHES, MAX_OVERHEAD, MAX_UNACKNOWLEDGED_BYTES, Bus, Will
from puppetmaster.embedded.broker import BrokerProcess, find_mosquitto, free_port
from puppetmaster.errors import BusError
from puppetmaster.loop import run as run_fast
from puppetmaster.packets import publish_packet

pytestmark = pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")

TIMEOUT = 15.0  # seconds that a test waits for what must come


@pytest.fixture
def broker() -> Iterator[BrokerProcess]:
    with BrokerProcess() as process:
        yield process


class Inbox:
    """What a connection heard, and how often it came up and broke."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        self.ups: asyncio.Queue[bool] = asyncio.Queue()
        self.downs: asyncio.Queue[None] = asyncio.Queue()

    def hear(self, topic: str, payload: bytes) -> None:
        self.messages.put_nowait((topic, payload))

    async def next(self) -> bytes:
        return (await within(self.messages.get()))[1]

    async def up(self) -> bool:
        """Wait until it is up; tells whether the broker had our session."""
        return await within(self.ups.get())

    def make(self, broker: BrokerProcess, client_id: str, **options: Any) -> Bus:
        options.setdefault("on_message", self.hear)
        return Bus(
            broker.address,
            client_id,
            on_connect=self.ups.put_nowait,
            on_disconnect=lambda: self.downs.put_nowait(None),
            **options,
        )


async def within(work: Any) -> Any:
    return await asyncio.wait_for(work, TIMEOUT)


@contextlib.asynccontextmanager
async def connected(
    broker: BrokerProcess, client_id: str, inbox: Inbox | None = None, **options: Any
) -> AsyncIterator[tuple[Bus, Inbox]]:
    inbox = inbox or Inbox()
    bus = inbox.make(broker, client_id, **options)
    await bus.start(TIMEOUT)
    try:
        yield bus, inbox
    finally:
        await bus.close(drain=0)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main())


async def published(bus: Bus, topic: str, *payloads: bytes, **options: Any) -> None:
    """Publish, and wait until the broker has it."""
    for payload in payloads:
        bus.publish(topic, payload, **options)
    assert await bus.flush(TIMEOUT)


def payloads(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def open_sockets() -> set[str]:
    """Those of this process, where the system tells."""
    found = set()
    for descriptor in Path("/proc/self/fd").glob("*"):
        with contextlib.suppress(OSError):
            found.add(str(descriptor.readlink()))
    return {name for name in found if name.startswith("socket:")}


# Coming and going


def test_it_connects_again_and_subscribes_again_when_the_broker_restarts(broker: BrokerProcess) -> None:
    async def main() -> None:
        async with connected(broker, "there", topics=["/t"]) as (bus, inbox):
            await inbox.up()
            await bus.subscribe("/later")
            await asyncio.to_thread(broker.restart)
            await within(inbox.downs.get())
            await inbox.up()
            assert bus.connected
            await published(bus, "/t", b"one")
            await published(bus, "/later", b"two")
            assert [await inbox.next(), await inbox.next()] == [b"one", b"two"]

    run(main)


def test_names_that_are_not_ascii_do_not_break_the_connection(broker: BrokerProcess) -> None:
    async def main() -> None:
        async with connected(broker, "gerät-\N{COLLISION SYMBOL}", topics=["/t"]) as (bus, inbox):
            await inbox.up()
            await bus.subscribe("/\N{COLLISION SYMBOL}/é")
            await bus.unsubscribe("/\N{COLLISION SYMBOL}/é")
            await published(bus, "/\N{COLLISION SYMBOL}/é", b"unheard")
            await published(bus, "/t", b"heard")
            assert await inbox.next() == b"heard"
            assert bus.reconnects == 0

    run(main)


def test_it_comes_back_as_often_as_the_broker_goes(broker: BrokerProcess) -> None:
    async def main() -> None:
        async with connected(broker, "patient", topics=["/t"]) as (bus, inbox):
            await inbox.up()
            for number in range(3):
                await asyncio.to_thread(broker.kill)
                await within(inbox.downs.get())
                await asyncio.to_thread(broker.start)
                await inbox.up()
                assert bus.reconnects == number + 1
                await published(bus, "/t", b"%d" % number)
                assert await inbox.next() == b"%d" % number

    run(main)


def test_a_connection_without_limits_has_none_again_after_one_with_them(broker: BrokerProcess) -> None:
    async def main() -> None:
        inbox = Inbox()
        bus = inbox.make(broker, "overflow", version=MQTTv311)
        bus._other_version()  # as after an attempt that the broker ended in the midst of its start
        await bus.start(TIMEOUT)
        try:
            await inbox.up()
            assert bus._client is not None and bus._client.has_properties
            await asyncio.to_thread(broker.restart)
            await inbox.up()
            assert not bus._client.has_properties
        finally:
            await bus.close(drain=0)

    run(main)


def test_it_waits_for_a_broker_that_is_not_there_yet() -> None:
    async def main() -> None:
        broker = BrokerProcess()
        inbox = Inbox()
        bus = inbox.make(broker, "early", topics=["/t"])
        starting = asyncio.create_task(bus.start())
        bus.publish("/t", b"kept until there is a broker")
        try:
            await asyncio.to_thread(broker.start)
            await within(starting)
            assert await inbox.next() == b"kept until there is a broker"
        finally:
            await bus.close(drain=0)
            await asyncio.to_thread(broker.stop)

    run(main)


def test_a_connection_that_ends_before_its_subscription_is_confirmed_is_made_anew_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("puppetmaster.bus.CONNECT_TIMEOUT", 3600.0)

    async def main() -> None:
        accepted: asyncio.Queue[None] = asyncio.Queue()

        async def greet_and_leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(4096)
            writer.write(b"\x20\x03\x00\x00\x00")  # CONNACK of MQTT 5
            await reader.read(4096)  # SUBSCRIBE
            writer.close()
            accepted.put_nowait(None)

        async with await asyncio.start_server(greet_and_leave, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            address = BrokerAddress.parse(f"mqtt://127.0.0.1:{port}")
            bus = Bus(address, "left", lambda topic, payload: None, topics=["/t"])
            starting = asyncio.create_task(bus.start())
            for _ in range(2):
                await within(accepted.get())
            starting.cancel()
            await bus.close(drain=0)

    run(main)


def test_a_broker_that_reads_no_more_is_left_and_nothing_is_kept_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puppetmaster.bus.KEEPALIVE", 1)
    monkeypatch.setattr("puppetmaster.bus.CLOSE_TIMEOUT", 0.1)

    async def main(broker: BrokerProcess) -> None:
        before = open_sockets()
        async with connected(broker, "sender", topics=["/t"]) as (bus, inbox):
            await inbox.up()
            pid = broker.pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            try:
                for _ in range(8):  # more than the system takes for a program that does not read
                    bus.publish("/t", bytes(MAX_UNACKNOWLEDGED_BYTES // 8))
                await within(inbox.downs.get())
            finally:
                os.kill(pid, signal.SIGCONT)
            await inbox.up()
            assert await bus.flush(TIMEOUT)
        await asyncio.sleep(0)  # uvloop closes in the next turn
        assert open_sockets() == before

    with BrokerProcess() as broker:
        asyncio.run(main(broker))
        run_fast(main(broker))


def test_an_acknowledgement_counts_only_for_what_was_sent_on_its_connection() -> None:
    async def main() -> None:
        sent: asyncio.Queue[int] = asyncio.Queue()
        has_lost = False

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal has_lost
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    kind, length = await reader.readexactly(2)
                    packet = await reader.readexactly(length)
                    if kind >> 4 == 1:  # CONNECT
                        writer.write(b"\x20\x03\x01\x00\x00")
                    elif kind >> 4 == 8:  # SUBSCRIBE; before it is confirmed all that could be meant is from before
                        writer.write(b"".join(b"\x40\x02" + bytes([0, ident]) for ident in range(10)) * has_lost)
                        writer.write(bytes([0x90, 4, *packet[:2], 0, 1]))
                    elif kind >> 4 == 3:  # PUBLISH
                        sent.put_nowait(kind)
                        if not has_lost:
                            has_lost = True
                            writer.transport.abort()
                        else:
                            writer.write(b"\x40\x02" + packet[3:5])

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            address = BrokerAddress(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
            bus = Bus(address, "sender", topics=["/t"], persistent=True)
            await bus.start(TIMEOUT)
            try:
                bus.publish("a", b"word")
                assert await bus.flush(TIMEOUT)
                assert sent.qsize() == 2
            finally:
                await bus.close(drain=0)

    run(main)


def test_a_start_with_a_limit_of_time_says_why_there_is_no_connection() -> None:
    async def main() -> None:
        bus = Inbox().make(BrokerProcess(port=free_port()), "alone")
        with pytest.raises(BusError, match=r"no connection to the broker at mqtt://127\.0\.0\.1"):
            await bus.start(0.3)
        assert not bus.connected
        await bus.close()

    run(main)


def test_why_there_is_no_connection_is_logged_once_and_not_at_each_attempt(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        with pytest.raises(BusError):
            await Inbox().make(BrokerProcess(port=free_port()), "alone").start(0.6)

    with caplog.at_level(logging.WARNING, "puppetmaster.bus"):
        run(main)
    assert len(caplog.records) == 1
    assert "trying again" in caplog.records[0].getMessage()


@pytest.mark.parametrize("version", [MQTTv50, MQTTv311])
def test_a_wrong_password_is_logged_as_what_it_is(
    version: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    passwords = tmp_path / "passwords"
    passwords.touch()

    async def main(broker: BrokerProcess) -> None:
        address = replace(broker.address, username="me", password="wrong")
        bus = Bus(address, "stranger", lambda topic, payload: None)
        bus._version = version
        starting = asyncio.create_task(bus.start())
        for _ in range(int(TIMEOUT * 100)):
            if caplog.records:
                break
            await asyncio.sleep(0.01)
        starting.cancel()
        await bus.close(drain=0)

    with BrokerProcess(password_file=passwords) as broker, caplog.at_level(logging.WARNING, "puppetmaster.bus"):
        asyncio.run(main(broker))
    said = " ".join(record.getMessage() for record in caplog.records)
    assert f"{DENIED}: code {135 if version == MQTTv50 else 5} " in said
    assert "wrong" not in said


def test_a_publication_that_the_broker_refuses_is_logged_with_its_topic(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite allowed\n")

    async def main() -> None:
        with BrokerProcess(acl_file=acl) as broker:
            async with connected(broker, "talker", topics=["allowed"]) as (bus, inbox):
                for topic in ("forbidden/1", "forbidden/2", "allowed"):
                    bus.publish(topic, b"word", qos=2 if topic == "forbidden/2" else 1)
                await inbox.next()
                assert await bus.flush(TIMEOUT), "what is refused is over, too"

    with caplog.at_level(logging.WARNING):
        run(main)
    refusals = [record for record in caplog.records if getattr(record, "event", "") == "publish_refused"]
    assert len(refusals) == 1, "not one for each"
    assert "forbidden/1 (reason 135)" in refusals[0].getMessage()


def test_a_message_that_is_too_large_for_the_broker_is_refused_and_holds_up_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        with BrokerProcess(defaults=True, extra=["max_packet_size 20000"]) as broker:
            async with connected(broker, "both", topics=["/t"]) as (bus, inbox):
                done: list[str] = []
                bus.publish("/t", bytes(20_000), done=lambda: done.append("too large"))
                bus.publish("/t", bytes(20_000 - MAX_OVERHEAD - len("/t")), done=lambda: done.append("just not"))
                assert await bus.flush(TIMEOUT)
                assert done == ["too large", "just not"]
                assert len(await inbox.next()) == 20_000 - MAX_OVERHEAD - len("/t")
                assert bus.reconnects == 0

    with caplog.at_level(logging.WARNING):
        run(main)
    assert "refuses what is published on /t (reason 149)" in caplog.text


def test_a_subscription_that_the_broker_refuses_is_logged_with_its_topic(caplog: pytest.LogCaptureFixture) -> None:
    # With a list of access rights Mosquitto 2.0 never does, other brokers do.
    asked = asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                kind, length = await reader.readexactly(2)
                packet = await reader.readexactly(length)
                if kind >> 4 == 1:  # CONNECT
                    writer.write(bytes([0x20, 3, 0, 0, 0]))
                elif kind >> 4 == 8:  # SUBSCRIBE to two topics
                    writer.write(bytes([0x90, 5, *packet[:2], 0, 1, 0x87]))
                    asked.set()

    async def main() -> None:
        server = await asyncio.start_server(refuse, "127.0.0.1", 0)
        address = BrokerAddress(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
        bus = Bus(address, "listener", lambda topic, payload: None, topics=["yes", "no"])
        with pytest.raises(BusError):
            await bus.start(1.0)
        await within(asked.wait())
        server.close()

    with caplog.at_level(logging.WARNING):
        run(main)
    assert "it refuses the subscription to no; see its access rights" in caplog.text


def test_closing_leaves_nothing_running_and_may_be_done_twice(broker: BrokerProcess) -> None:
    async def main() -> None:
        bus = Inbox().make(broker, "brief", topics=["/t"])
        await bus.start(TIMEOUT)
        await bus.close()
        await bus.close()
        assert not bus.connected
        assert [task for task in asyncio.all_tasks() if task.get_name().startswith("bus-")] == []

    run(main)


def test_the_will_is_published_when_the_connection_breaks_and_not_after_a_goodbye(broker: BrokerProcess) -> None:
    async def main() -> None:
        async with connected(broker, "mourner", topics=["/will/+"]) as (_, inbox):
            for name, goodbye in (("kind", True), ("broken", False)):
                bus = Inbox().make(broker, name, will=Will(f"/will/{name}", name.encode(), retain=False))
                await bus.start(TIMEOUT)
                if goodbye:
                    await bus.close()
                else:
                    assert bus._client is not None
                    bus._client._connection._transport.abort()
                    assert await inbox.next() == b"broken"
                    await bus.close()
            assert inbox.messages.empty()

    run(main)


# The session


def test_the_broker_tells_whether_it_had_our_session(broker: BrokerProcess) -> None:
    async def main() -> None:
        inbox = Inbox()
        for present in (False, True, True):
            async with connected(broker, "keeper", inbox, topics=["/t"], persistent=True):
                assert await inbox.up() is present
        await asyncio.to_thread(broker.kill)
        await asyncio.to_thread(broker.start)
        async with connected(broker, "keeper", inbox, topics=["/t"], persistent=True):
            assert await inbox.up() is False
        async with connected(broker, "passer-by", inbox, topics=["/t"]):
            assert await inbox.up() is False

    run(main)


def test_what_came_while_we_were_away_is_kept_for_us(broker: BrokerProcess) -> None:
    async def main() -> None:
        inbox = Inbox()
        async with connected(broker, "keeper", inbox, topics=["/t"], persistent=True):
            pass
        async with connected(broker, "other") as (other, _):
            await published(other, "/t", *payloads(5))
        async with connected(broker, "keeper", inbox, topics=["/t"], persistent=True):
            assert [await inbox.next() for _ in range(5)] == payloads(5)

    run(main)


# What is published


def test_what_the_broker_has_not_acknowledged_survives_its_death_in_order(broker: BrokerProcess) -> None:
    async def main() -> None:
        async with connected(broker, "sender") as (bus, inbox):
            await inbox.up()
            pid = broker.pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)  # it takes what is sent, and says nothing
            done: list[int] = []
            for number in range(50):
                bus.publish("/r", b"%d" % number, retain=True, done=lambda number=number: done.append(number))
            assert done == []
            await asyncio.to_thread(broker.kill)
            async with connected(await asyncio.to_thread(broker.start), "listener", topics=["/r"]) as (_, heard):
                await inbox.up()
                assert await bus.flush(TIMEOUT)
                assert done == list(range(50))
                found = [await heard.next()]
                while found[-1] != b"49":
                    found.append(await heard.next())
                # The listener may have come after the first ones; those that it heard are in order.
                assert found == payloads(50)[50 - len(found) :]

    run(main)


def test_what_is_published_without_a_connection_is_sent_when_there_is_one(broker: BrokerProcess) -> None:
    async def main() -> None:
        async with connected(broker, "sender") as (bus, inbox):
            await inbox.up()
            await asyncio.to_thread(broker.kill)
            await within(inbox.downs.get())
            for number in range(20):
                bus.publish(f"/r/{number}", b"%d" % number, retain=True)
            assert not await bus.flush(0.05)
            await asyncio.to_thread(broker.start)
            assert await bus.flush(TIMEOUT)
            async with connected(broker, "listener", topics=["/r/+"]) as (_, heard):
                assert sorted([await heard.next() for _ in range(20)], key=int) == payloads(20)

    run(main)


def test_what_is_no_longer_wanted_when_its_turn_comes_is_dropped(broker: BrokerProcess) -> None:
    async def main() -> None:
        async with connected(broker, "sender", topics=["/t"]) as (bus, inbox):
            await inbox.up()
            await asyncio.to_thread(broker.kill)
            await within(inbox.downs.get())
            wanted = {b"0": True, b"1": True, b"2": True}
            done: list[bytes] = []
            for payload in wanted:
                bus.publish(
                    "/t",
                    payload,
                    wanted=lambda payload=payload: wanted[payload],
                    done=lambda payload=payload: done.append(payload),
                )
            wanted[b"1"] = False
            await asyncio.to_thread(broker.start)
            assert await bus.flush(TIMEOUT)
            assert done == [b"0", b"2"]
            assert [await inbox.next(), await inbox.next()] == [b"0", b"2"]

    run(main)


def test_a_connection_is_idle_when_all_that_was_left_is_not_wanted(broker: BrokerProcess) -> None:
    async def main() -> None:
        async with connected(broker, "sender") as (bus, inbox):
            await inbox.up()
            await asyncio.to_thread(broker.kill)
            await within(inbox.downs.get())
            bus.publish("/t", b"x", wanted=lambda: False)
            await asyncio.to_thread(broker.start)
            assert await bus.flush(TIMEOUT)

    run(main)


def test_what_was_out_and_is_no_longer_wanted_is_not_sent_again(broker: BrokerProcess) -> None:
    async def main() -> None:
        async with connected(broker, "sender", topics=["/t"]) as (bus, inbox):
            await inbox.up()
            pid = broker.pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            wanted = [True]
            bus.publish("/t", b"late", wanted=lambda: wanted[0])
            wanted[0] = False
            await asyncio.to_thread(broker.kill)
            await within(inbox.downs.get())
            await asyncio.to_thread(broker.start)
            await inbox.up()
            await published(bus, "/t", b"next")
            assert await inbox.next() == b"next"

    run(main)


@pytest.mark.parametrize("limit", [1, 2, 20])
def test_no_more_is_on_its_way_than_the_broker_takes_at_a_time(limit: int) -> None:
    async def main(broker: BrokerProcess) -> None:
        async with (
            connected(broker, "sender") as (bus, _),
            connected(broker, "listener", topics=["/t"]) as (_, heard),
        ):
            pid = broker.pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            try:
                done: list[int] = []
                for number in range(300):
                    bus.publish("/t", b"%d" % number, done=lambda number=number: done.append(number))
                assert len(bus._unacknowledged) == limit
            finally:
                os.kill(pid, signal.SIGCONT)
            most = 0
            while not await bus.flush(0.001):
                most = max(most, len(bus._unacknowledged))
            assert most <= limit
            assert sorted(done) == list(range(300))
            assert [await heard.next() for _ in range(300)] == payloads(300)

    with BrokerProcess(defaults=True, extra=[f"max_inflight_messages {limit}"]) as broker:
        asyncio.run(main(broker))


def test_subscriptions_that_come_and_go_leave_the_messages_their_room() -> None:
    async def main(broker: BrokerProcess) -> None:
        async with connected(broker, "both", topics=["/t"]) as (bus, inbox):
            topics = [f"/other/{number}" for number in range(30)]
            await bus.subscribe(*topics)
            for topic in topics:  # each a packet with an id
                await bus.unsubscribe(topic)
            bus.publish("/t", b"first")
            assert await inbox.next() == b"first"
            for topic in topics:
                pending = asyncio.ensure_future(bus.subscribe(topic))
                await asyncio.sleep(0)
                bus.publish("/t", topic.encode())
                await within(pending)
            assert [await inbox.next() for _ in topics] == [topic.encode() for topic in topics]

    with BrokerProcess(defaults=True, extra=["max_inflight_messages 2"]) as broker:
        asyncio.run(main(broker))


def test_large_messages_are_made_when_their_turn_comes_and_few_are_on_their_way(broker: BrokerProcess) -> None:
    made: list[int] = []

    def make(number: int) -> bytes:
        made.append(number)
        return b"%d" % number + bytes(MAX_UNACKNOWLEDGED_BYTES // 8)

    async def main() -> None:
        async with connected(broker, "both", topics=["/t"]) as (bus, inbox):
            pid = broker.pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            try:
                for number in range(20):
                    bus.publish("/t", partial(make, number))
                assert made == list(range(8))
            finally:
                os.kill(pid, signal.SIGCONT)
            assert [int((await inbox.next()).rstrip(b"\0")) for _ in range(20)] == list(range(20))
            assert await bus.flush(TIMEOUT)
            assert bus._unacknowledged_bytes == 0

    run(main)


def test_many_messages_at_once_all_arrive_in_order(broker: BrokerProcess) -> None:
    async def main() -> None:
        async with connected(broker, "both", topics=["/t"]) as (bus, inbox):
            await published(bus, "/t", *payloads(3_000))
            assert [await inbox.next() for _ in range(3_000)] == payloads(3_000)

    run(main)


def test_a_message_without_a_promise_is_dropped_without_a_connection(broker: BrokerProcess) -> None:
    async def main() -> None:
        async with connected(broker, "sender", topics=["/t"]) as (bus, inbox):
            await inbox.up()
            done: list[str] = []
            bus.publish("/t", b"now", qos=0, done=lambda: done.append("now"))
            assert await inbox.next() == b"now"
            await asyncio.to_thread(broker.kill)
            await within(inbox.downs.get())
            bus.publish("/t", b"never", qos=0, done=lambda: done.append("never"))
            await asyncio.to_thread(broker.start)
            await inbox.up()
            await published(bus, "/t", b"then")
            assert await inbox.next() == b"then"
            assert done == ["now"]

    run(main)


@pytest.mark.parametrize("qos", [1, 2])
def test_done_is_told_once_for_each_message(broker: BrokerProcess, qos: int) -> None:
    async def main() -> None:
        async with connected(broker, "sender", topics=["/t"]) as (bus, inbox):
            done: list[int] = []
            for number in range(100):
                bus.publish("/t", b"%d" % number, qos=qos, done=lambda number=number: done.append(number))
            assert await bus.flush(TIMEOUT)
            assert done == list(range(100))
            assert [await inbox.next() for _ in range(100)] == payloads(100)

    run(main)


# What is received


def test_a_message_is_acknowledged_when_its_handler_returns_and_not_before(broker: BrokerProcess) -> None:
    async def main() -> None:
        inbox = Inbox()
        gate = asyncio.Event()

        async def hold(topic: str, payload: bytes) -> None:
            inbox.hear(topic, payload)
            await gate.wait()

        options: dict[str, Any] = {"topics": ["/t"], "persistent": True, "on_message": hold}
        async with connected(broker, "sender") as (sender, _):
            async with connected(broker, "keeper", inbox, **options):
                await published(sender, "/t", *payloads(3))
                assert [await inbox.next() for _ in range(3)] == payloads(3)
            # It left without having acknowledged any of them.
            gate.set()
            async with connected(broker, "keeper", inbox, **options) as (keeper, _):
                assert [await inbox.next() for _ in range(3)] == payloads(3)
                await published(sender, "/t", b"last")
                assert await inbox.next() == b"last"
                # Behind its acknowledgement, so that the broker has had that before we leave.
                await published(keeper, "/elsewhere", b"")
            async with connected(broker, "keeper", inbox, **options):
                await published(sender, "/t", b"news")
                assert await inbox.next() == b"news"

    run(main)


def test_a_message_whose_handler_fails_comes_again_and_others_are_not_held_up(broker: BrokerProcess) -> None:
    async def main() -> None:
        inbox = Inbox()
        failing = True

        async def fail(topic: str, payload: bytes) -> None:
            inbox.hear(topic, payload)
            if failing and payload == b"1":
                raise RuntimeError("no")

        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        options: dict[str, Any] = {"topics": ["/t"], "persistent": True, "on_message": fail}
        async with connected(broker, "sender") as (sender, _):
            async with connected(broker, "keeper", inbox, **options) as (keeper, _):
                await published(sender, "/t", *payloads(3))
                assert [await inbox.next() for _ in range(3)] == payloads(3)
                await published(keeper, "/elsewhere", b"a round trip, so that the acknowledgements are there")
            failing = False
            async with connected(broker, "keeper", inbox, **options):
                await published(sender, "/t", b"last")
                found = [await inbox.next()]
                while found[-1] != b"last":
                    found.append(await inbox.next())
                assert found == [b"1", b"last"]

    run(main)


def test_messages_are_handled_side_by_side_and_many_may_wait_to_be_acknowledged(broker: BrokerProcess) -> None:
    async def main() -> None:
        inbox = Inbox()
        gate = asyncio.Event()

        async def hold(topic: str, payload: bytes) -> None:
            inbox.hear(topic, payload)
            await gate.wait()

        async with (
            connected(broker, "sender") as (sender, _),
            connected(broker, "keeper", inbox, topics=["/t"], on_message=hold),
        ):
            await published(sender, "/t", *payloads(500))
            # The broker's own default would stop at 20.
            assert [await inbox.next() for _ in range(500)] == payloads(500)
            gate.set()

    run(main)


@pytest.mark.parametrize("run_on", [asyncio.run, run_fast])
def test_what_comes_faster_than_it_is_handled_stays_with_the_broker(broker: BrokerProcess, run_on: Any) -> None:
    count, size, read = 30_000, 100, 256 * 1024
    packet = publish_packet("/t", bytes(size), 0, qos=0, has_properties=False)

    def flood() -> None:
        with socket.create_connection((broker.address.host, broker.address.port)) as sender:
            sender.sendall(b"\x10\x11\x00\x04MQTT\x04\x02\x00\x3c\x00\x05flood")
            assert sender.recv(4) == b"\x20\x02\x00\x00"
            sender.sendall(packet * count + b"\xc0\x00")
            assert sender.recv(2) == b"\xd0\x00", "it has all when it answers the ping"

    async def main() -> None:
        taken = most = 0
        has_all = asyncio.Event()
        be_busy = partial(time.sleep, 0.004)  # the loop has a thousand other things to do

        async def take(messages: Sequence[tuple[str, bytes]]) -> None:
            nonlocal taken, most
            be_busy()
            taken += len(messages)
            most = max(most, sum(len(waiting) for _, waiting, _ in listener._batches))
            if taken == count:
                has_all.set()

        options: dict[str, Any] = {"on_message": None, "on_messages": take, "topics": ["/t"]}
        async with connected(broker, "listener", **options) as (listener, _):
            await asyncio.to_thread(flood)
            await within(has_all.wait())
            assert most <= MAX_BATCHES * MAX_BATCH + read / size
            assert listener.connected and listener.reconnects == 0

    run_on(main())


def test_nothing_is_kept_of_subscriptions_that_were_taken_back(broker: BrokerProcess) -> None:
    async def main() -> None:
        async with connected(broker, "fickle", topics=["/t"]) as (bus, inbox):
            await inbox.up()
            for number in range(5):
                topics = [f"/{number}/{place}" for place in range(100)]
                await bus.subscribe(*topics)
                await bus.unsubscribe(*topics)
            assert bus._client is not None
            assert [kept.topic for kept in bus._client.subscriptions] == ["/t"]

    run(main)


def test_a_subscription_can_be_taken_back(broker: BrokerProcess) -> None:
    async def main() -> None:
        async with connected(broker, "fickle", topics=["/kept"]) as (bus, inbox):
            await bus.subscribe("/dropped")
            await bus.subscribe("/dropped")
            await published(bus, "/dropped", b"1")
            assert await inbox.next() == b"1"
            await bus.unsubscribe("/dropped")
            await bus.unsubscribe("/unknown")
            await published(bus, "/dropped", b"2")
            await published(bus, "/kept", b"3")
            assert await inbox.next() == b"3"

    run(main)
