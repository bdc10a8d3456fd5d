"""MQTT by the byte, for the packets that come and go thousands of times a second: PUBLISH at QoS 0 and 1, and PUBACK.

A client library parses, logs and dispatches each packet by itself, which costs more than all that is done about it.
Here everything that came with one read of the socket is taken apart in one go. What is rare (CONNACK, SUBACK, QoS 2,
...) is left to the library. The numbers in parentheses are sections of MQTT 5; 3.1.1 differs in the properties alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_LENGTH = 268_435_455
"""Bytes of the largest packet after its fixed header (2.1.4)."""

_PUBLISH, _PUBACK = 0x30, 0x40
_KIND = 0xF0
_QOS = 0x06
_QOS_1 = 0x02
_NO_PROPERTIES = b"\0"
_ACKNOWLEDGE = b"\x40\x02"
"""A PUBACK of success, without its id (3.4: reason and properties may be left out)."""


class MalformedPacket(ValueError):
    """Raised when what came can't be MQTT; nothing that follows on the connection can be read."""


@dataclass(slots=True)
class Arrival:
    """What came with one read."""

    messages: list[tuple[str, bytes]] = field(default_factory=list)
    """Topic and payload of every PUBLISH at QoS 0 and 1; those without a topic that can be read are left out."""
    ids: list[bytes] = field(default_factory=list)
    """For each message the two bytes by which it is acknowledged; none at QoS 0."""
    unreadable: list[bytes] = field(default_factory=list)
    """The ids of those that are left out, and are to be acknowledged all the same."""
    acknowledged: list[tuple[int, int]] = field(default_factory=list)
    """Id and reason of every PUBACK; 0 is success."""
    rest: list[bytes] = field(default_factory=list)
    """All other packets, whole."""


class PacketReader:
    """Takes apart what a broker sends; keeps what is not whole yet.

    :param has_properties: whether the connection speaks MQTT 5.
    """

    def __init__(self, *, has_properties: bool) -> None:
        self._has_properties = has_properties
        self._unfinished = bytearray()
        self._needed = 0

    def read(self, data: bytes) -> Arrival:
        """Take in what came.

        :raises MalformedPacket: when it can't be MQTT.
        """
        arrival = Arrival()
        if self._unfinished:
            self._unfinished += data
            if len(self._unfinished) < self._needed:
                return arrival
            data = bytes(self._unfinished)
            self._unfinished.clear()
        start, end = 0, len(data)
        while start < end:
            body = start + 2
            if body <= end and data[start + 1] < 0x80:  # as good as always; the call would be a third of this
                length = data[start + 1]
            else:
                length, body = _length_at(data, start + 1, end)
            following = body + length
            if length < 0 or following > end:
                self._needed = following - start
                self._unfinished += data[start:] if start else data
                break
            head = data[start]
            kind = head & _KIND
            if kind == _PUBLISH and head & _QOS <= _QOS_1:
                self._take_publish(arrival, data, body, following, head & _QOS)
            elif kind == _PUBACK and length >= 2:
                reason = data[body + 2] if length > 2 else 0
                arrival.acknowledged.append((data[body] << 8 | data[body + 1], reason))
            else:
                arrival.rest.append(data[start:following])
            start = following
        return arrival

    def _take_publish(self, arrival: Arrival, data: bytes, start: int, end: int, qos: int) -> None:
        if end - start < 2:
            raise MalformedPacket("a PUBLISH has no topic")
        topic_end = start + 2 + (data[start] << 8 | data[start + 1])
        payload_start = topic_end + qos  # QoS 1 is 2 in the header, and its id has two bytes
        if payload_start > end - self._has_properties:
            raise MalformedPacket("a PUBLISH is too short for its topic")
        ident = data[topic_end:payload_start]
        if self._has_properties:
            # None of them matters here: aliases of topics come only to those who say that they take them (3.1.2.11.5).
            if data[payload_start] == 0:  # as good as always
                payload_start += 1
            else:
                length, payload_start = _length_at(data, payload_start, end)
                payload_start += length
            if payload_start > end:
                raise MalformedPacket("a PUBLISH is too short for its properties")
        try:
            topic = data[start + 2 : topic_end].decode()
        except UnicodeDecodeError:
            arrival.unreadable.append(ident)
            return
        arrival.messages.append((topic, data[payload_start:end]))
        arrival.ids.append(ident)


def publish_packet(
    topic: str, payload: bytes, ident: int, *, qos: int = 1, retain: bool = False, has_properties: bool
) -> bytes:
    """A PUBLISH at QoS 0 or 1, with no properties.

    :param ident: 1 to 65,535; not used at QoS 0.
    :raises ValueError: when it would be too long.
    """
    name = topic.encode()
    length = 2 + len(name) + (2 if qos else 0) + has_properties + len(payload)
    if len(name) > 0xFFFF or length > MAX_LENGTH:
        raise ValueError(f"a message of {len(payload)} bytes on a topic of {len(name)} is too long for MQTT")
    head = _PUBLISH | qos << 1 | retain
    parts = (
        bytes((head, length)) if length < 0x80 else bytes((head, *_length_digits(length))),
        len(name).to_bytes(2, "big"),
        name,
        ident.to_bytes(2, "big") if qos else b"",
        _NO_PROPERTIES if has_properties else b"",
        payload,
    )
    return b"".join(parts)


def puback_packets(ids: list[bytes]) -> bytes:
    """The PUBACKs for these ids, as they came; none for those of QoS 0."""
    return b"".join([_ACKNOWLEDGE + ident for ident in ids if ident])


def _length_at(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A variable byte integer (1.5.5) and where it ends; -1, and where it may end, when it is not all there."""
    length = shift = 0
    for place in range(at, min(at + 4, end)):
        digit = data[place]
        if digit < 0x80:
            return length | digit << shift, place + 1
        length |= (digit & 0x7F) << shift
        shift += 7
    if shift == 28:
        raise MalformedPacket("a length has more than four digits")
    return -1, end + 2


def _length_digits(length: int) -> list[int]:
    digits = []
    while length > 0x7F:
        digits.append(length & 0x7F | 0x80)
        length >>= 7
    digits.append(length)
    return digits
