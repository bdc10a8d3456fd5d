"""The frequent packets of MQTT, taken apart however they come."""

from __future__ import annotations

from itertools import pairwise

import pytest
from gmqtt.mqtt.constants import MQTTv50, MQTTv311
from gmqtt.mqtt.package import PublishPacket
from gmqtt.mqtt.utils import IdGenerator
from hypothesis import given
from hypothesis import strategies as st

from puppetmaster.packets import Arrival, MalformedPacket, PacketReader, puback_packets, publish_packet

TOPICS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40)
PAYLOADS = st.one_of(st.binary(max_size=300), st.integers(16_000, 17_000).map(bytes))
SUBACK = b"\x90\x04\x00\x07\x00\x01"
PUBREC = b"\x50\x02\x00\x09"

Packet = tuple[bytes, tuple[str, object]]
"""The bytes, and what they are."""


@st.composite
def published(draw: st.DrawFn, has_properties: bool) -> Packet:
    topic, payload, qos = draw(TOPICS), draw(PAYLOADS), draw(st.sampled_from([0, 1]))
    ident = draw(st.integers(1, 65_535))
    packet = publish_packet(
        topic, payload, ident, qos=qos, retain=draw(st.booleans()), has_properties=has_properties
    )
    return packet, ("message", (topic, payload, ident.to_bytes(2, "big") if qos else b""))


@st.composite
def acknowledged(draw: st.DrawFn, has_properties: bool) -> Packet:
    ident, reason = draw(st.integers(1, 65_535)), draw(st.sampled_from([0, 0x10, 0x87])) if has_properties else 0
    if not reason:
        return puback_packets([ident.to_bytes(2, "big")]), ("puback", (ident, 0))
    return b"\x40\x04" + ident.to_bytes(2, "big") + bytes([reason, 0]), ("puback", (ident, reason))


def others() -> st.SearchStrategy[Packet]:
    return st.sampled_from([SUBACK, PUBREC, b"\xd0\x00"]).map(lambda packet: (packet, ("other", packet)))


@st.composite
def streams(draw: st.DrawFn) -> tuple[bool, list[Packet], list[int]]:
    has_properties = draw(st.booleans())
    kinds = st.one_of(published(has_properties), acknowledged(has_properties), others())
    packets = draw(st.lists(kinds, max_size=12))
    cuts = draw(st.lists(st.integers(0, sum(len(packet) for packet, _ in packets)), max_size=8))
    return has_properties, packets, sorted(cuts)


def read(reader: PacketReader, data: bytes, cuts: list[int]) -> list[Arrival]:
    edges = [0, *cuts, len(data)]
    return [reader.read(data[start:end]) for start, end in pairwise(edges)]


@given(streams())
def test_however_a_stream_is_cut_the_same_comes_out(stream: tuple[bool, list[Packet], list[int]]) -> None:
    has_properties, packets, cuts = stream
    arrivals = read(PacketReader(has_properties=has_properties), b"".join(packet for packet, _ in packets), cuts)
    messages = [
        (*message, ident)
        for arrival in arrivals
        for message, ident in zip(arrival.messages, arrival.ids, strict=True)
    ]
    assert messages == [what for _, (kind, what) in packets if kind == "message"]
    acknowledged = [entry for arrival in arrivals for entry in arrival.acknowledged]
    assert acknowledged == [what for _, (kind, what) in packets if kind == "puback"]
    rest = [packet for arrival in arrivals for packet in arrival.rest]
    assert rest == [what for _, (kind, what) in packets if kind == "other"]


@given(TOPICS, PAYLOADS, st.sampled_from([0, 1]), st.booleans(), st.booleans())
def test_a_message_is_written_as_gmqtt_writes_it(
    topic: str, payload: bytes, qos: int, retain: bool, has_properties: bool
) -> None:
    class Message:
        dup, properties, payload_size = 0, {}, len(payload)

    class Protocol:
        proto_ver = MQTTv50 if has_properties else MQTTv311
        id_generator = IdGenerator()

    message = Message()
    message.topic, message.payload, message.qos, message.retain = topic.encode(), payload, qos, retain  # type: ignore[attr-defined]
    ident, packet = PublishPacket.build_package(message, Protocol())
    assert publish_packet(
        topic, payload, ident or 0, qos=qos, retain=retain, has_properties=has_properties
    ) == bytes(packet)


def test_properties_of_a_message_are_passed_over() -> None:
    user_property = b"\x26\x00\x01a\x00\x01b"
    body = b"\x00\x02/t" + b"\x00\x05" + bytes([len(user_property)]) + user_property + b"payload"
    arrival = PacketReader(has_properties=True).read(b"\x32" + bytes([len(body)]) + body)
    assert (arrival.messages, arrival.ids) == ([("/t", b"payload")], [b"\x00\x05"])


def test_a_message_without_a_topic_that_can_be_read_is_only_acknowledged() -> None:
    arrival = PacketReader(has_properties=False).read(b"\x32\x07\x00\x02\xff\xfe\x00\x05x")
    assert (arrival.messages, arrival.unreadable) == ([], [b"\x00\x05"])


def test_a_message_that_we_did_not_ask_for_in_this_quality_goes_to_the_library() -> None:
    packet = b"\x34\x07\x00\x02/t\x00\x05x"
    arrival = PacketReader(has_properties=False).read(packet)
    assert (arrival.messages, arrival.rest) == ([], [packet])


@pytest.mark.parametrize(
    "packet",
    [
        b"\x32\x80\x80\x80\x80\x01",  # five digits of length
        b"\x32\x03\x00\x09x",  # a topic beyond the end
        b"\x32\x05\x00\x02/t\x00",  # half an id
        b"\x32\x06\x00\x02/t\x00\x05",  # no properties, not even none
        b"\x32\x07\x00\x02/t\x00\x05\x09",  # properties beyond the end
        b"\x32\x07\x00\x02/t\x00\x05\x80",  # a length of properties that does not end
        b"\x32\x00",
    ],
)
def test_what_can_not_be_mqtt_is_an_error(packet: bytes) -> None:
    with pytest.raises(MalformedPacket):
        PacketReader(has_properties=True).read(packet)


def test_what_is_too_long_for_a_packet_is_refused() -> None:
    with pytest.raises(ValueError, match="too long for MQTT"):
        publish_packet("t" * 65_536, b"", 1, has_properties=True)
    with pytest.raises(ValueError, match="too long for MQTT"):
        publish_packet("/t", bytes(268_435_455), 1, has_properties=True)


def test_nothing_is_acknowledged_that_needs_no_acknowledgement() -> None:
    assert puback_packets([b"", b"\x01\x02", b""]) == b"\x40\x02\x01\x02"
