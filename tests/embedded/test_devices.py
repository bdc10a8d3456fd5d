"""Simulated devices: what they decide, and what they do on a real broker."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import orjson
import pytest

from puppetmaster.address import BrokerAddress
from puppetmaster.bus import Bus
from puppetmaster.embedded.devices import Behaviour, Fleet, Latency, firmware, names, read_log
from puppetmaster.errors import BusError

PATIENCE = 5.0
MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
SLOW = Behaviour(latency=Latency.constant(0.15))

OWN_PROCESS = """
import asyncio, sys
from pathlib import Path
from puppetmaster.address import BrokerAddress
from puppetmaster.embedded.devices import Fleet, names

async def main():
    fleet = Fleet(BrokerAddress(port=int(sys.argv[1])), names(20, sys.argv[2]), log_path=Path(sys.argv[3]))
    await fleet.start(5)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise AssertionError("mosquitto did not start")


class Broker:
    """A mosquitto of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.address = BrokerAddress(host="127.0.0.1", port=free_port())
        self._config = folder / "mosquitto.conf"
        self._config.write_text(f"listener {self.address.port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n")
        self.start()

    def start(self) -> None:
        assert MOSQUITTO is not None
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen([MOSQUITTO, "-c", str(self._config)], stdout=quiet, stderr=quiet)
        wait_for_port(self.address.port)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    if MOSQUITTO is None:
        pytest.skip("there is no mosquitto here")
    running = Broker(tmp_path_factory.mktemp("broker"))
    yield running
    running.kill()


class Asker:
    """Sends requests and hands out what comes back, in the order in which it came."""

    def __init__(self, address: BrokerAddress, instance: str, topics: tuple[str, ...]) -> None:
        self.instance = instance
        self.inbox: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        watched = (f"/remote/+/answer/{instance}", *topics)
        self.bus = Bus(address, f"asker-{instance}", self._received, topics=watched)

    def _received(self, topic: str, payload: bytes) -> None:
        self.inbox.put_nowait((topic, orjson.loads(payload)))

    def send(self, destination: str, payload: bytes) -> None:
        self.bus.publish(f"/remote/{destination}", payload)

    def ask(self, destination: str, ident: int, method: str = "post", data: Any = None, topic: str = "") -> None:
        message = {"id": ident, "method": method, "resource": "/system/name", "tunnel": self.tunnel(destination)}
        if data is not None:
            message["data"] = data
        self.bus.publish(topic or f"/remote/{destination}", orjson.dumps(message))

    def tunnel(self, destination: str) -> str:
        return f"/remote/{destination}/answer/{self.instance}"

    async def next(self) -> tuple[str, Any]:
        return await asyncio.wait_for(self.inbox.get(), PATIENCE)

    async def answer(self) -> Any:
        return (await self.next())[1]

    async def codes(self, count: int) -> list[tuple[int, int]]:
        return [(answer["id"], answer["code"]) for answer in [await self.answer() for _ in range(count)]]


@asynccontextmanager
async def asking(broker: Broker, *topics: str) -> AsyncIterator[Asker]:
    asker = Asker(broker.address, uuid.uuid4().hex[:8], topics)
    await asker.bus.start(PATIENCE)
    try:
        yield asker
    finally:
        await asker.bus.close()


@asynccontextmanager
async def running(fleet: Fleet) -> AsyncIterator[Fleet]:
    await fleet.start(PATIENCE)
    try:
        yield fleet
    finally:
        await fleet.close()


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 15))


def one(broker: Broker, behaviour: Behaviour | None = None, **options: Any) -> tuple[str, Fleet]:
    """A fleet of one device whose name no other test has."""
    name = f"device-{uuid.uuid4().hex[:8]}"
    return name, Fleet(broker.address, [name], behaviour, **options)


# Names


def test_names_count_up_with_four_digits_or_as_many_as_are_needed() -> None:
    assert names(3) == ["device-0001", "device-0002", "device-0003"]
    assert names(2, "cam", width=1, first=9) == ["cam9", "cam10"]
    assert names(10000)[-1] == "device-10000" and names(10000)[0] == "device-00001"


@pytest.mark.parametrize(
    "name", ["", "a/b", "a+", "#", "$SYS", "a\n", "a\0", "x" * 129, "\x85", "\uffff", "\ud800", "\U0001fffe"]
)
def test_what_would_take_the_sender_off_the_bus_can_not_be_a_name(name: str) -> None:
    with pytest.raises(ValueError, match="destination"):
        Fleet(BrokerAddress(), [name])


def test_a_mac_address_and_a_name_in_another_script_can_be_names() -> None:
    assert Fleet(BrokerAddress(), ["00:0c:29:1c:e8:01", "pumpe-größe-😀"]).destinations[1] == "pumpe-größe-😀"


def test_a_fleet_of_none_or_of_two_with_one_name_is_refused() -> None:
    for destinations in ([], ["a", "a"]):
        with pytest.raises(ValueError):
            Fleet(BrokerAddress(), destinations)
    with pytest.raises(ValueError):
        names(0)


@pytest.mark.parametrize(
    "template", ["/remote", "/{destination}/{destination}", "/{destination}/+", "/{destination}\n"]
)
def test_a_topic_without_one_place_for_the_name_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match="destination"):
        Fleet(BrokerAddress(), ["a"], template=template)


def test_most_devices_have_the_newest_firmware_and_each_always_the_same() -> None:
    versions = [firmware(name) for name in names(2000)]
    assert {"1.4.2", "1.4.1", "1.3.9"} == set(versions)
    assert [versions.count(version) / 2000 for version in ("1.4.2", "1.4.1")] == pytest.approx([0.85, 0.1], abs=0.03)
    assert versions == [firmware(name) for name in names(2000)]


# Behaviour


@pytest.mark.parametrize(
    ("text", "latency"),
    [
        ("0", Latency.constant(0)),
        (" 0.1 ", Latency.constant(0.1)),
        ("1e-3", Latency.constant(0.001)),
        ("0.05-0.5", Latency.uniform(0.05, 0.5)),
        ("1e-3-2e-3", Latency.uniform(0.001, 0.002)),
        ("exp:0.2", Latency.exponential(0.2)),
        ("normal:0.2,0.05", Latency.normal(0.2, 0.05)),
    ],
)
def test_a_latency_is_read_from_text_and_written_as_text(text: str, latency: Latency) -> None:
    assert Latency.parse(text) == latency
    assert Latency.parse(str(latency)) == latency


@pytest.mark.parametrize(
    "text",
    ["", "fast", "-1", "0.5-0.1", "exp:", "exp:-1", "normal:0.2", "normal:1,2,3", "1e999", "nan", "10ms", "1-2-3"],
)
def test_a_latency_that_makes_no_sense_is_refused_with_a_reason(text: str) -> None:
    with pytest.raises(ValueError, match="latency"):
        Latency.parse(text)


@pytest.mark.parametrize(
    ("text", "mean", "low", "high"),
    [("0.2", 0.2, 0.2, 0.2), ("0.1-0.3", 0.2, 0.1, 0.3), ("exp:0.2", 0.2, 0, 8), ("normal:0.2,0.05", 0.2, 0, 0.7)],
)
def test_latencies_are_spread_as_their_distribution_says(text: str, mean: float, low: float, high: float) -> None:
    behaviour = Behaviour(latency=Latency.parse(text))
    drawn = [behaviour.decide("device", ident).latency for ident in range(1, 4001)]
    assert fmean(drawn) == pytest.approx(mean, rel=0.06)
    assert low - 1e-9 <= min(drawn) and max(drawn) <= high + 1e-9


@pytest.mark.parametrize(
    "values",
    [{"errors": 1.1}, {"silence": -0.1}, {"locked": float("nan")}, {"lost": "1"}, {"copies": 1}, {"reports": 0}],
)
def test_a_behaviour_checks_itself_and_names_what_is_wrong(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        Behaviour(**values)


def test_the_same_seed_device_and_request_give_the_same_decision_in_any_order() -> None:
    first, second = (Behaviour(errors=0.5, silence=0.3, latency=Latency.exponential(1), seed=7) for _ in range(2))
    idents = list(range(1, 200))
    forwards = [first.decide("a", ident) for ident in idents]
    backwards = [second.decide("a", ident) for ident in reversed(idents)]
    assert forwards == backwards[::-1]
    assert forwards != [first.decide("b", ident) for ident in idents]
    assert forwards != [first.decide("a", ident, attempt=2) for ident in idents]
    other = Behaviour(errors=0.5, silence=0.3, latency=Latency.exponential(1), seed=8)
    assert forwards != [other.decide("a", ident) for ident in idents]


def test_each_share_is_met_and_does_not_depend_on_the_others() -> None:
    behaviour = Behaviour(errors=0.1, silence=0.2, lost=0.3, duplicates=0.4, progress=0.5, copies=3, reports=4)
    drawn = [behaviour.decide("device", ident) for ident in range(1, 5001)]
    shares = [
        fmean(decision.error for decision in drawn),
        fmean(decision.silent for decision in drawn),
        fmean(decision.lost for decision in drawn),
        fmean(decision.copies == 3 for decision in drawn),
        fmean(decision.reports == 4 for decision in drawn),
        fmean(decision.error and decision.silent for decision in drawn),
    ]
    assert shares == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.02], abs=0.03)


def test_after_a_423_the_next_attempt_does_the_work_even_among_silent_devices() -> None:
    behaviour = Behaviour(locked=0.5, silence=1)
    for ident in range(1, 100):
        first, second = behaviour.decide("device", ident), behaviour.decide("device", ident, attempt=2)
        assert first.locked is not first.silent
        assert not second.locked
        assert second.silent is not first.locked


# On the bus


def test_a_post_is_answered_with_its_data_and_a_get_with_the_firmware(broker: Broker) -> None:
    async def scenario() -> None:
        name, fleet = one(broker)
        async with running(fleet), asking(broker) as asker:
            asker.ask(name, 1_000_000, data={"name": "pump"})
            topic, answer = await asker.next()
            assert topic == asker.tunnel(name)
            assert answer == {
                "id": 1_000_000,
                "code": 200,
                "method": "post",
                "resource": "/system/name",
                "sign": [name],
                "data": {"name": "pump"},
            }
            asker.ask(name, 1_000_001, "get")
            assert (await asker.answer())["data"] == {"firmware": firmware(name)}
            asker.ask(name, 1_000_002, data="x" * 5000)
            assert (await asker.answer())["data"]["receivedBytes"] > 5000

    run(scenario())


def test_every_device_of_a_fleet_answers_for_itself_and_strangers_are_not_answered(broker: Broker) -> None:
    async def scenario() -> None:
        fleet = Fleet(broker.address, names(200, "each-"))
        async with running(fleet), asking(broker) as asker:
            asker.ask("a-stranger", 1)
            for ident, name in enumerate(fleet.destinations, 2):
                asker.ask(name, ident)
            answers = [await asker.next() for _ in fleet.destinations]
            assert {answer["sign"][0] for _, answer in answers} == set(fleet.destinations)
            assert all(topic == asker.tunnel(answer["sign"][0]) for topic, answer in answers)
            assert fleet.counts()["received"] == fleet.counts()["answered"] == 200

    run(scenario())


def test_with_another_topic_the_devices_listen_there_only(broker: Broker) -> None:
    async def scenario() -> None:
        fleet = Fleet(broker.address, names(300, "cg-"), template="/{destination}/controller")
        async with running(fleet), asking(broker) as asker:
            asker.ask("cg-0001", 1)
            asker.ask("cg-0300", 2, topic="/cg-0300/controller")
            assert (await asker.answer())["id"] == 2
            assert fleet.counts()["received"] == 1

    run(scenario())


def test_a_repeated_request_is_answered_from_memory_without_doing_the_work_twice(
    broker: Broker, tmp_path: Path
) -> None:
    async def scenario() -> None:
        name, fleet = one(broker, log_path=tmp_path / "work.log")
        async with running(fleet), asking(broker) as asker:
            for _ in range(3):
                asker.ask(name, 1, data={"n": 1})
            answers = [await asker.answer() for _ in range(3)]
            assert answers[0] == answers[1] == answers[2]
            counts = fleet.counts()
            assert (counts["worked"], counts["repeated"], counts["answered"]) == (1, 2, 3)
        assert len(read_log(tmp_path / "work.log")) == 1

    run(scenario())


def test_the_same_id_of_another_asker_is_another_request(broker: Broker) -> None:
    async def scenario() -> None:
        name, fleet = one(broker)
        async with running(fleet), asking(broker) as asker, asking(broker) as other:
            asker.ask(name, 1, data="mine")
            other.ask(name, 1, data="theirs")
            assert [(await asker.answer())["data"], (await other.answer())["data"]] == ["mine", "theirs"]
            assert fleet.counts()["worked"] == 2

    run(scenario())


def test_a_device_forgets_its_oldest_answers_when_its_memory_is_full(broker: Broker) -> None:
    async def scenario() -> None:
        name, fleet = one(broker, memory=2)
        async with running(fleet), asking(broker) as asker:
            for ident in (1, 2, 3, 3, 2, 1):
                asker.ask(name, ident)
            await asker.codes(6)
            assert (fleet.counts()["worked"], fleet.counts()["repeated"]) == (4, 2)

    run(scenario())


def test_work_that_is_asked_for_again_is_not_started_again_and_answered_once(broker: Broker) -> None:
    async def scenario() -> None:
        name, fleet = one(broker, SLOW)
        async with running(fleet), asking(broker) as asker:
            asker.ask(name, 1)
            asker.ask(name, 1)
            assert await asker.codes(1) == [(1, 200)]
            asker.ask(name, 2)
            assert await asker.codes(1) == [(2, 200)]
            counts = fleet.counts()
            assert (counts["worked"], counts["repeated"], counts["overlaps"]) == (2, 1, 0)

    run(scenario())


def test_a_second_write_during_work_is_an_overlap_and_answered_423_but_a_get_is_not(broker: Broker) -> None:
    async def scenario() -> None:
        name, fleet = one(broker, SLOW)
        async with running(fleet), asking(broker) as asker:
            asker.ask(name, 1)
            asker.ask(name, 2, "put")
            asker.ask(name, 3, "get")
            assert await asker.codes(3) == [(2, 423), (1, 200), (3, 200)]
            asker.ask(name, 2, "put")
            assert await asker.codes(1) == [(2, 200)]
            assert (fleet.counts()["overlaps"], fleet.counts()["worked"]) == (1, 3)

    run(scenario())


def test_overlaps_can_be_allowed_and_are_counted_all_the_same(broker: Broker) -> None:
    async def scenario() -> None:
        name, fleet = one(broker, Behaviour(latency=SLOW.latency, allow_overlap=True))
        async with running(fleet), asking(broker) as asker:
            asker.ask(name, 1)
            asker.ask(name, 2)
            assert await asker.codes(2) == [(1, 200), (2, 200)]
            assert fleet.counts()["overlaps"] == 1

    run(scenario())


def test_a_locked_device_answers_423_once_and_does_the_work_at_the_next_attempt(broker: Broker) -> None:
    async def scenario() -> None:
        name, fleet = one(broker, Behaviour(locked=1))
        async with running(fleet), asking(broker) as asker:
            for _ in range(3):
                asker.ask(name, 1)
            assert await asker.codes(3) == [(1, 423), (1, 200), (1, 200)]
            counts = fleet.counts()
            assert (counts["locked"], counts["worked"], counts["repeated"]) == (1, 1, 1)

    run(scenario())


def test_failed_work_is_answered_500_and_that_answer_is_remembered(broker: Broker) -> None:
    async def scenario() -> None:
        name, fleet = one(broker, Behaviour(errors=1))
        async with running(fleet), asking(broker) as asker:
            asker.ask(name, 1)
            asker.ask(name, 1)
            assert await asker.codes(2) == [(1, 500), (1, 500)]
            assert (fleet.counts()["errors"], fleet.counts()["worked"]) == (1, 1)

    run(scenario())


def test_a_silent_device_does_and_says_nothing_until_an_attempt_gets_through(broker: Broker) -> None:
    async def scenario() -> None:
        behaviour = Behaviour(silence=0.5, seed=3)
        name, fleet = one(broker, behaviour)
        ident = next(
            ident
            for ident in range(1, 100)
            if [behaviour.decide(name, ident, attempt).silent for attempt in (1, 2, 3)] == [True, True, False]
        )
        async with running(fleet), asking(broker) as asker:
            for _ in range(3):
                asker.ask(name, ident)
            assert await asker.codes(1) == [(ident, 200)]
            assert (fleet.counts()["silent"], fleet.counts()["worked"]) == (2, 1)
            assert asker.inbox.empty()

    run(scenario())


def test_a_lost_answer_comes_from_memory_at_the_next_attempt(broker: Broker) -> None:
    async def scenario() -> None:
        name, fleet = one(broker, Behaviour(lost=1))
        async with running(fleet), asking(broker) as asker:
            asker.ask(name, 1)
            asker.ask(name, 1)
            assert await asker.codes(1) == [(1, 200)]
            counts = fleet.counts()
            assert (counts["lost"], counts["worked"], counts["answered"]) == (1, 1, 1)

    run(scenario())


def test_an_answer_can_be_published_several_times(broker: Broker) -> None:
    async def scenario() -> None:
        name, fleet = one(broker, Behaviour(duplicates=1, copies=3))
        async with running(fleet), asking(broker) as asker:
            asker.ask(name, 1)
            assert await asker.codes(3) == [(1, 200)] * 3
            assert (fleet.counts()["answered"], fleet.counts()["duplicates"]) == (1, 2)

    run(scenario())


@pytest.mark.parametrize("latency", [0.0, 0.08])
def test_progress_rises_before_the_answer(broker: Broker, latency: float) -> None:
    async def scenario() -> None:
        name, fleet = one(broker, Behaviour(latency=Latency.constant(latency), progress=1, reports=3))
        async with running(fleet), asking(broker) as asker:
            asker.ask(name, 1)
            answers = [await asker.answer() for _ in range(4)]
            assert [answer["code"] for answer in answers] == [102, 102, 102, 200]
            assert [answer["data"]["progress"] for answer in answers[:3]] == [25, 50, 75]
            assert (fleet.counts()["progress"], fleet.counts()["answered"]) == (3, 1)

    run(scenario())


BAD_MESSAGES = [
    b"",
    b"\xff\x00",
    b"{",
    b"[1]",
    b"5",
    b"null",
    b"{}",
    b'{"id": "1", "method": "get", "resource": "/", "tunnel": "/t"}',
    b'{"id": true, "method": "get", "resource": "/", "tunnel": "/t"}',
    b'{"id": 0, "method": "get", "resource": "/", "tunnel": "/t"}',
    b'{"id": 1e30, "method": "get", "resource": "/", "tunnel": "/t"}',
    b'{"id": 1, "method": 5, "resource": "/", "tunnel": "/t"}',
    b'{"id": 1, "method": "get", "resource": [], "tunnel": "/t"}',
    b'{"id": 1, "method": "get", "resource": "/"}',
    b'{"id": 1, "method": "get", "resource": "/", "tunnel": ""}',
    b'{"id": 1, "method": "get", "resource": "/", "tunnel": {}}',
    b'{"id": 1, "method": "get", "resource": "/", "tunnel": "/a/+"}',
    b'{"id": 1, "method": "get", "resource": "/", "tunnel": "/a\\u0000"}',
    b'{"id": 1, "method": "get", "resource": "/", "tunnel": "' + b"/" * 300 + b'"}',
    b'{"id": 1, "method": "get", "resource": "/", "tunnel": "' + b"x" * 70000 + b'"}',
    b"[" * 100000,
]


def test_bad_messages_are_counted_and_never_stop_a_device(broker: Broker) -> None:
    async def scenario() -> None:
        name, fleet = one(broker)
        async with running(fleet), asking(broker) as asker:
            for payload in BAD_MESSAGES:
                asker.send(name, payload)
            asker.ask(name, 1)
            assert await asker.codes(1) == [(1, 200)]
            assert fleet.counts()["malformed"] == len(BAD_MESSAGES)

    run(scenario())


def test_data_too_deep_to_be_written_again_is_left_out_of_the_answer(broker: Broker, tmp_path: Path) -> None:
    async def scenario() -> None:
        name, fleet = one(broker, log_path=tmp_path / "work.log")
        async with running(fleet), asking(broker) as asker:
            head = f'{{"id": 1, "method": "post", "resource": "/", "tunnel": "{asker.tunnel(name)}", "data": '.encode()
            asker.send(name, head + b"[" * 400 + b"]" * 400 + b"}")
            answer = await asker.answer()
            assert (answer["code"], answer["data"]) == (200, None)
        assert read_log(tmp_path / "work.log")[0]["id"] == 1

    run(scenario())


def test_the_log_tells_of_all_work_in_order_and_never_of_two_at_once(broker: Broker, tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "work.log"
        name, fleet = one(broker, Behaviour(latency=Latency.constant(0.01), errors=0.5), log_path=path)
        async with running(fleet), asking(broker) as asker:
            for ident in range(1, 11):
                asker.ask(name, ident, data={"n": ident})
                await asker.answer()
                # The line is there before the answer is.
                assert read_log(path)[-1]["id"] == ident
        records = read_log(path)
        assert [record["data"]["n"] for record in records] == list(range(1, 11))
        assert {record["device"] for record in records} == {name}
        assert {record["outcome"] for record in records} == {"resolved", "error"}
        times = [record[key] for record in records for key in ("startedAt", "finishedAt")]
        assert times == sorted(times) and all(moment.endswith("Z") for moment in times)

    run(scenario())


def test_presence_is_online_while_the_fleet_is_there_and_offline_after_a_clean_stop(broker: Broker) -> None:
    async def scenario() -> None:
        name, fleet = one(broker)
        topic = f"/remote/{name}/presence"
        async with running(fleet), asking(broker, topic) as late:
            assert await late.next() == (topic, {"connection": "online"})
            await fleet.close()
            assert await late.next() == (topic, {"connection": "offline"})

    run(scenario())


def test_a_large_fleet_says_nothing_of_its_presence_unless_told_to(broker: Broker) -> None:
    async def scenario() -> None:
        many, few = Fleet(broker.address, names(1001, "many-")), Fleet(broker.address, names(2, "few-"), presence=True)
        async with asking(broker, "/remote/+/presence") as asker, running(many), running(few):
            seen = {(await asker.next())[0]}
            while "/remote/few-0002/presence" not in seen:
                seen.add((await asker.next())[0])
            assert not [topic for topic in seen if "many-" in topic]

    run(scenario())


def test_the_counts_are_published_retained_and_are_right_after_the_stop(broker: Broker) -> None:
    async def scenario() -> None:
        name, fleet = one(broker, instance="lab")
        async with asking(broker, "/simulate/lab") as asker:
            async with running(fleet):
                assert (await asker.next())[1]["received"] == 0
                asker.ask(name, 1)
                assert (await asker.next())[0] == asker.tunnel(name)
            topic, counts = await asker.next()
            assert topic == "/simulate/lab"
            assert counts == {"devices": 1, **fleet.counts()} and counts["worked"] == 1

    run(scenario())


def test_work_in_progress_is_dropped_at_a_stop(broker: Broker, tmp_path: Path) -> None:
    async def scenario() -> None:
        faults: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context))
        behaviour = Behaviour(latency=Latency.constant(1.0), progress=1, reports=1)
        name, fleet = one(broker, behaviour, log_path=tmp_path / "work.log")
        async with asking(broker) as asker:
            async with running(fleet):
                asker.ask(name, 1)
                assert (await asker.answer())["code"] == 102
            await fleet.close()
            await asyncio.sleep(1.0)  # past the moment at which the work would have been done
        assert read_log(tmp_path / "work.log") == []
        assert fleet.counts()["worked"] == 0
        assert faults == []

    run(scenario())


def test_a_fleet_comes_back_with_its_memory_when_the_broker_was_killed(tmp_path: Path) -> None:
    if MOSQUITTO is None:
        pytest.skip("there is no mosquitto here")
    mortal = Broker(tmp_path)

    async def scenario() -> None:
        name, fleet = one(mortal)
        presence = f"/remote/{name}/presence"
        async with asking(mortal, presence) as asker, running(fleet):
            assert (await asker.next())[0] == presence
            asker.ask(name, 1)
            assert await asker.codes(1) == [(1, 200)]
            mortal.kill()
            mortal.start()
            assert await asker.next() == (presence, {"connection": "online"})
            asker.ask(name, 1)
            assert await asker.codes(1) == [(1, 200)]
            assert (fleet.counts()["worked"], fleet.counts()["repeated"]) == (1, 1)

    try:
        run(scenario())
    finally:
        mortal.kill()


def test_without_a_broker_the_start_fails_in_time() -> None:
    async def scenario() -> None:
        fleet = Fleet(BrokerAddress(host="127.0.0.1", port=free_port()), ["lonely"])
        with pytest.raises(BusError):
            await fleet.start(0.2)
        await fleet.close()

    run(scenario())


def test_a_fleet_in_a_process_of_its_own_leaves_a_whole_log_when_it_is_killed(broker: Broker, tmp_path: Path) -> None:
    path = tmp_path / "work.log"
    command = [sys.executable, "-c", OWN_PROCESS, str(broker.address.port), "own-", str(path)]
    process = subprocess.Popen(command)

    async def scenario() -> None:
        async with asking(broker, "/remote/own-0020/presence") as asker:
            assert await asker.answer() == {"connection": "online"}
            wanted = {(name, ident) for name in names(20, "own-") for ident in range(1, 11)}
            for name, ident in sorted(wanted, key=lambda pair: pair[1]):
                asker.ask(name, ident)
            answered = {(answer["sign"][0], answer["id"]) for answer in [await asker.answer() for _ in wanted]}
            assert answered == wanted
            process.send_signal(signal.SIGKILL)
            process.wait()
            records = read_log(path)
            assert len(records) == len(wanted)
            for name in names(20, "own-"):
                assert [record["id"] for record in records if record["device"] == name] == list(range(1, 11))

    try:
        run(scenario())
    finally:
        process.kill()
        process.wait()
