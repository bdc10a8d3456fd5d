"""MQTT 3.1.1 by the byte, for those who misbehave: what no client library would send, and as fast as a socket takes it.

Nothing here is queued or sent again. It acknowledges what it gets, unless it is told not to.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType

PATIENCE = 60.0
"""Seconds for the broker's word."""

CONNACK, PUBLISH, PUBACK, SUBACK, PINGRESP = 2, 3, 4, 9, 13

OnMessage = Callable[[str, bytes], None]


def text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack("!H", len(encoded)) + encoded


def packet(head: int, body: bytes) -> bytes:
    """A packet: its first byte, its length, its body."""
    length, left = bytearray(), len(body)
    while True:
        left, digit = divmod(left, 128)
        length.append(digit | (128 if left else 0))
        if not left:
            return bytes([head]) + bytes(length) + body


def connect(client_id: str, *, clean: bool = True) -> bytes:
    """CONNECT, without a keepalive."""
    return packet(0x10, text("MQTT") + bytes([4, 2 if clean else 0]) + struct.pack("!H", 0) + text(client_id))


def subscribe(topics: Iterable[str], mid: int = 1) -> bytes:
    """SUBSCRIBE at QoS 1."""
    return packet(0x82, struct.pack("!H", mid) + b"".join(text(topic) + b"\1" for topic in topics))


def publish(topic: str, payload: bytes, *, qos: int = 0, mid: int = 1, retain: bool = False) -> bytes:
    """PUBLISH."""
    return packet(0x30 | qos << 1 | retain, text(topic) + (struct.pack("!H", mid) if qos else b"") + payload)


class RawClient:
    """A connection to the broker on 127.0.0.1, and a thread that reads from it.

    :param on_message: is called in that thread.
    :param acknowledge: whether what comes is acknowledged.
    :raises OSError: when there is no broker.
    """

    def __init__(
        self,
        port: int,
        client_id: str = "",
        *,
        topics: Iterable[str] = (),
        on_message: OnMessage | None = None,
        clean: bool = True,
        acknowledge: bool = True,
    ) -> None:
        self.acknowledged = 0
        """How many of our messages at QoS 1 the broker has taken."""
        self.published = 0
        """How many of them :meth:`publish` has sent."""
        self.session_present = False
        self._on_message, self._acknowledge = on_message, acknowledge
        self._mid = 0
        self._writing = threading.Lock()
        self._news = threading.Condition()
        self._confirmed: set[int] = set()
        self._socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self._socket.settimeout(None)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""
        self.closed = False
        """Whether the connection has ended."""
        self._thread = threading.Thread(target=self._read, name="raw", daemon=True)
        self._thread.start()
        self.send(connect(client_id or f"raw-{secrets.token_hex(4)}", clean=clean))
        self._await(CONNACK)
        topics = list(topics)
        if topics:
            self.send(subscribe(topics))
            self._await(SUBACK)

    def __enter__(self) -> RawClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave without a word; what the broker has not taken yet may be lost."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE) if threading.current_thread() is not self._thread else None
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Any bytes.

        :raises OSError: when the connection has ended.
        """
        with self._writing:
            self._socket.sendall(data)

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """One message; it is not waited for."""
        with self._writing:
            self._mid = self._mid % 60_000 + 1
            self.published += qos > 0
            self._socket.sendall(publish(topic, payload, qos=qos, mid=self._mid, retain=retain))

    def wait_acknowledged(self, count: int, timeout: float = PATIENCE) -> bool:
        """Wait until the broker has taken so many messages in all."""
        with self._news:
            return self._news.wait_for(lambda: self.acknowledged >= count or self.closed, timeout) and not self.closed

    def _await(self, kind: int) -> None:
        with self._news:
            self._news.wait_for(lambda: kind in self._confirmed or self.closed, PATIENCE)
            if kind not in self._confirmed:
                raise OSError("the broker did not answer")

    # The reading thread

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._socket.recv(256 * 1024):
                self._rest += data
                self._take_packets()
        with self._news:
            self.closed = True
            self._news.notify_all()

    def _take_packets(self) -> None:
        data, start, acknowledgements, taken = self._rest, 0, [], 0
        while (found := _body(data, start)) is not None:
            begin, end = found
            head = data[start]
            kind = head >> 4
            if kind == PUBLISH:
                acknowledgements.append(self._message(head, data[begin:end]))
            elif kind == PUBACK:
                taken += 1
            else:
                with self._news:
                    self.session_present |= kind == CONNACK and data[begin] == 1
                    self._confirmed.add(kind)
                    self._news.notify_all()
            start = end
        self._rest = data[start:]
        if taken:
            with self._news:
                self.acknowledged += taken
                self._news.notify_all()
        if self._acknowledge and any(acknowledgements):
            self.send(b"".join(acknowledgements))

    def _message(self, head: int, body: bytes) -> bytes:
        length = int.from_bytes(body[:2], "big")
        topic, rest = body[2 : 2 + length].decode(errors="replace"), body[2 + length :]
        acknowledgement = b""
        if head & 6:
            acknowledgement, rest = b"\x40\x02" + rest[:2], rest[2:]
        if self._on_message is not None:
            self._on_message(topic, rest)
        return acknowledgement


def _body(data: bytes, start: int) -> tuple[int, int] | None:
    """Where the body of the packet at ``start`` begins and ends; none while it is not whole."""
    length = shift = 0
    for index in range(start + 1, min(start + 5, len(data))):
        length |= (data[index] & 127) << shift
        shift += 7
        if not data[index] & 128:
            begin = index + 1
            return (begin, begin + length) if begin + length <= len(data) else None
    return None


def blast(client: RawClient, blob: bytes, seconds: float, times: int | None = None) -> int:
    """Send the same bytes again and again for so long, or so many times; how often it was."""
    until, count = time.monotonic() + seconds, 0
    with contextlib.suppress(OSError):
        while time.monotonic() < until and (times is None or count < times):
            client.send(blob)
            count += 1
    return count
