"""MQTT 3.1.1 at QoS 1 with as little around it as there can be: a chunk's packets in one go, one write for a chunk.

The devices of the benchmarks speak it, so that what they cost is small beside what is measured. It knows what a broker
sends to a client that subscribes at QoS 1, and no more; nothing is sent again.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias, cast

CONNACK, PUBLISH, PUBACK, SUBACK = 2, 3, 4, 9

LAST_ID = 65_535
"""The largest id of a packet."""

Message: TypeAlias = tuple[bytes, bytes]
"""A topic and a payload."""

OnMessages: TypeAlias = "Callable[[list[Message]], Sequence[Message]]"
"""Gets the messages of a chunk; what it returns is published, with their acknowledgements in one write."""


def split(data: bytes) -> tuple[list[Message], list[bytes], list[tuple[int, bytes]], int]:
    """Take the whole packets out of a chunk.

    :returns: the messages, the acknowledgements to send for them, the kind and the body of all other packets but
        PUBACK, and how many bytes all these packets had.
    """
    messages: list[Message] = []
    acknowledgements: list[bytes] = []
    others: list[tuple[int, bytes]] = []
    size, start = len(data), 0
    while start + 1 < size:
        head, length, begin, shift = data[start], data[start + 1], start + 2, 0
        while length >> shift > 127:  # one more digit of the length follows (2.2.3 of the standard)
            if begin == size:
                return messages, acknowledgements, others, start
            shift += 7
            length += (data[begin] - 1 << shift)
            begin += 1
        end = begin + length
        if end > size:
            break
        kind = head >> 4
        if kind == PUBLISH:
            payload = begin + 2 + (data[begin] << 8 | data[begin + 1])
            topic = data[begin + 2 : payload]
            if head & 6:
                acknowledgements.append(b"\x40\x02" + data[payload : payload + 2])
                payload += 2
            messages.append((topic, data[payload:end]))
        elif kind != PUBACK:
            others.append((kind, data[begin:end]))
        start = end
    return messages, acknowledgements, others, start


def packet(head: int, body: bytes) -> bytes:
    """A packet: its first byte, the length of its body, its body."""
    left, length = len(body), bytearray()
    while left > 127:
        length.append(left & 127 | 128)
        left >>= 7
    length.append(left)
    return b"%c%b%b" % (head, bytes(length), body)


def publish(topic: bytes, payload: bytes, packet_id: int) -> bytes:
    """PUBLISH at QoS 1."""
    return packet(0x32, b"%b%b%b%b" % (_NUMBER.pack(len(topic)), topic, _NUMBER.pack(packet_id), payload))


def connect(client_id: str) -> bytes:
    """CONNECT with a clean session and without a keepalive."""
    return packet(0x10, _text("MQTT") + bytes([4, 2, 0, 0]) + _text(client_id))


def subscribe(topics: Iterable[str]) -> bytes:
    """SUBSCRIBE at QoS 1."""
    return packet(0x82, _NUMBER.pack(1) + b"".join(_text(topic) + b"\1" for topic in topics))


_NUMBER = struct.Struct("!H")


def _text(value: str) -> bytes:
    encoded = value.encode()
    return _NUMBER.pack(len(encoded)) + encoded


class Connection(asyncio.Protocol):
    """A connection that subscribes and hands over what comes."""

    def __init__(self, client_id: str, topics: Sequence[str], on_messages: OnMessages) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        """Done when the broker has confirmed the subscriptions."""
        self.lost: asyncio.Future[None] = loop.create_future()
        """Done when the connection has ended."""
        self._client_id, self._topics, self._on_messages = client_id, topics, on_messages
        self._rest = b""
        self._last_id = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with CONNECT."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by its type
        self.transport.write(connect(self._client_id))

    def connection_lost(self, reason: Exception | None) -> None:
        """Tell those who wait."""
        self.lost.set_result(None)
        if not self.ready.done():
            self.ready.set_exception(ConnectionError("the broker has closed the connection"))

    def data_received(self, data: bytes) -> None:
        """Acknowledge what came and send what is to be said to it, all at once.

        The broker queues 1,000 messages for a client beyond the 20 that it has not acknowledged, and drops the rest.
        """
        data = self._rest + data
        messages, out, others, taken = split(data)
        self._rest = data[taken:]
        for kind, body in others:
            self._confirmed(kind, body)
        for topic, payload in self._on_messages(messages) if messages else ():
            self._last_id = self._last_id % LAST_ID + 1
            out.append(publish(topic, payload, self._last_id))
        if out:
            self.transport.write(b"".join(out))

    def _confirmed(self, kind: int, body: bytes) -> None:
        if kind == CONNACK and body[1] == 0:
            self.transport.write(subscribe(self._topics))
        elif kind == SUBACK and all(code < 0x80 for code in body[2:]):
            self.ready.set_result(None)
        else:
            self.ready.set_exception(ConnectionError(f"the broker refuses: packet of kind {kind}, {body!r}"))


async def open_connection(port: int, client_id: str, topics: Sequence[str], on_messages: OnMessages) -> Connection:
    """Connect to the broker on this machine, and subscribe.

    :raises OSError: when that can't be done.
    """
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection(client_id, topics, on_messages), "127.0.0.1", port)
    await connection.ready
    return connection
