"""Liars lie as they say: what must not count does not, and they find those whom they lie about."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator

import pytest

from puppetmaster import wire
from puppetmaster.embedded.broker import BrokerProcess, find_mosquitto
from puppetmaster.observer import TOPICS
from tests.faults.crowd import Crowd
from tests.faults.liars import FAR, HUGE, Liar, junk, malformations
from tests.faults.raw import RawClient, blast, connect, packet, publish

pytestmark = pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")

CODEC = wire.Codec("stand", wire.DeviceTunnel())

DEVICES = ["dev-1", "dev-2", "dev-3"]

ASKED = range(1_000_001, 1_000_041)
"""Ids of the requests that the devices get."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with BrokerProcess(defaults=True) as broker:
        yield broker.port


def until(met: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Ear:
    """Gathers everything."""

    def __init__(self, port: int) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.client = RawClient(
            port, topics=["#"], on_message=lambda topic, payload: self.heard.append((topic, payload))
        )

    def lies(self) -> list[tuple[str, bytes]]:
        return [(topic, payload) for topic, payload in self.heard if topic.count("/") == 4]


@pytest.fixture
def ear(port: int) -> Iterator[Ear]:
    listening = Ear(port)
    yield listening
    listening.client.close()


def request(client: RawClient, ident: int) -> str:
    device = DEVICES[ident % len(DEVICES)]
    body = {"id": ident, "method": "get", "resource": "/x", "tunnel": wire.answer_topic(device, "stand")}
    client.publish(f"/remote/{device}", json.dumps(body).encode())
    return device


def lie_about_all(port: int, ear: Ear, kind: str, *, answer: bool = False) -> list[tuple[str, bytes]]:
    """What was said on answer topics while the requests were asked, and answered."""
    with Liar(port, "stand", DEVICES, [kind], random.Random(5)) as liar:
        assert liar.listening.wait(60)
        for ident in ASKED:
            device = request(ear.client, ident)
            if answer:
                ear.client.publish(wire.answer_topic(device, "stand"), b'{"id":%d,"code":200}' % ident)
        until(lambda: liar.told[kind] >= (3 if kind in ("huge", "retained") else len(ASKED)))
    until(lambda: len(ear.lies()) >= liar.told[kind] + answer * len(ASKED) or kind == "huge")
    return ear.lies()


@pytest.mark.parametrize("payload", malformations(1_000_001), ids=lambda payload: repr(payload[:40]))
def test_what_is_malformed_is_no_answer(payload: bytes) -> None:
    with pytest.raises(wire.MalformedAnswer):
        CODEC.read(wire.answer_topic("dev-1", "stand"), payload)


def test_malformed_lies_are_told_on_the_topics_of_the_devices(port: int, ear: Ear) -> None:
    for topic, payload in lie_about_all(port, ear, "malformed"):
        assert topic.split("/")[2] in DEVICES
        with pytest.raises(wire.MalformedAnswer):
            CODEC.read(topic, payload)


def test_foreign_lies_name_the_request_of_another(port: int, ear: Ear) -> None:
    said = set()
    for topic, payload in lie_about_all(port, ear, "foreign"):
        found = json.loads(payload)
        levels = topic.split("/")
        assert found["id"] in ASKED
        assert levels[2] != DEVICES[found["id"] % len(DEVICES)] or levels[4] != "stand"
        said.add(found["id"])
    assert said == set(ASKED)


def test_unknown_lies_name_nobodys_request(port: int, ear: Ear) -> None:
    idents = {json.loads(payload)["id"] for _, payload in lie_about_all(port, ear, "unknown")}
    assert not idents & set(ASKED)
    assert any(ident > FAR for ident in idents)


def test_copies_are_the_same_and_contradictions_come_after_what_they_contradict(port: int, ear: Ear) -> None:
    copies = lie_about_all(port, ear, "copies", answer=True)
    assert {payload for _, payload in copies} == {b'{"id":%d,"code":200}' % ident for ident in ASKED}
    ear.heard.clear()
    first: dict[int, int] = {}
    for _, payload in lie_about_all(port, ear, "contradict", answer=True):
        found = json.loads(payload)
        assert first.setdefault(found["id"], found["code"]) == 200
        assert found["code"] == 200 or found["id"] in first
    assert any(json.loads(payload)["code"] != 200 for _, payload in ear.lies())


def test_what_was_retained_is_taken_back(port: int, ear: Ear) -> None:
    lie_about_all(port, ear, "retained", answer=True)
    late = Ear(port)
    fence = f"/fence/{random.random()}"
    late.client.publish(fence, b"")
    until(lambda: (fence, b"") in late.heard)
    assert late.lies() == []
    late.client.close()


def test_huge_lies_have_no_id_or_the_wrong_topic(port: int, ear: Ear) -> None:
    lies = lie_about_all(port, ear, "huge")
    assert lies and all(len(payload) >= min(HUGE) for _, payload in lies)
    for topic, payload in lies:
        ident = wire.glean_id(payload)
        levels = topic.split("/")
        assert ident is None or levels[2] != DEVICES[ident % len(DEVICES)] or levels[4] != "stand"


def test_junk_is_there_for_each_topic_that_the_bundle_listens_to() -> None:
    topics = {topic for topic, _ in junk("stand", DEVICES, ["123456"], random.Random(1))}
    for pattern in [*TOPICS, wire.answer_topic("+", "stand"), "123456"]:
        assert any(matches(pattern, topic) for topic in topics), pattern


def matches(pattern: str, topic: str) -> bool:
    wanted, levels = pattern.split("/"), topic.split("/")
    return len(wanted) == len(levels) and all(each in ("+", level) for each, level in zip(wanted, levels, strict=True))


def test_a_crowd_holds_back_the_last_answers_and_then_all_answer_at_once(port: int, ear: Ear) -> None:
    crowd = Crowd(port, "stand", 300, random.Random(2))
    crowd.start()
    try:
        crowd.answering = True
        crowd.hold_last(100, crowd.names)
        for number, device in enumerate(crowd.names):
            body = {"id": number, "tunnel": f"/remote/{device}/answer/stand"}
            ear.client.publish(f"/remote/{device}", json.dumps(body).encode())
        until(lambda: crowd.held == 100 and len(ear.lies()) == 200)
        assert crowd.burst() > 0
        until(lambda: len(ear.lies()) == 500)
        assert len({topic for topic, _ in ear.lies()}) == 300
        assert len(crowd.work) == 300
    finally:
        crowd.stop()


def test_a_raw_client_that_acknowledges_nothing_gets_it_again(port: int, ear: Ear) -> None:
    got: list[bytes] = []
    for clean in (True, False):  # away with what was there, then a session that stays
        RawClient(port, "mute", clean=clean, topics=["/mute"]).close()
    ear.client.publish("/mute", b"once")
    for count in (1, 2):
        silent = RawClient(
            port, "mute", clean=False, acknowledge=False, on_message=lambda topic, payload: got.append(payload)
        )
        until(lambda count=count: len(got) == count)
        assert silent.session_present
        silent.close()
    assert got == [b"once", b"once"]


def test_a_blast_reaches_its_listeners(port: int, ear: Ear) -> None:
    with RawClient(port) as client:
        assert blast(client, publish("/blast", b"1") + publish("/blast", b"2", qos=1, mid=7), 60, times=50) == 50
        until(lambda: sum(topic == "/blast" for topic, _ in ear.heard) == 100)
        assert client.wait_acknowledged(50)


def test_packets_have_their_length_in_front() -> None:
    assert packet(0x30, b"") == b"\x30\x00"
    assert packet(0x30, bytes(127))[:2] == b"\x30\x7f"
    assert packet(0x30, bytes(128))[:3] == b"\x30\x80\x01"
    assert packet(0x30, bytes(20 * 1024 * 1024))[:5] == b"\x30\x80\x80\x80\x0a"
    assert connect("me") == b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x00\x00\x02me"


def test_there_is_no_client_without_a_broker() -> None:
    with pytest.raises(OSError):
        RawClient(1)
