"""The SDK's MQTT connection with what it lacks: user, password, TLS, TCP_NODELAY, QoS, and a clean goodbye."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import orjson
from sanji.connection.mqtt import Mqtt

from puppetmaster.address import BrokerAddress
from puppetmaster.bus import QUICK_ACK

logger = logging.getLogger(__name__)

MAX_RECONNECT_DELAY = 5
"""Seconds between two attempts to reach a broker that is away, at the most."""


class Connection(Mqtt):  # type: ignore[misc]
    """A connection to a broker for a Sanji bundle.

    :param qos: of everything that the bundle publishes and of its tunnels.
    """

    def __init__(self, address: BrokerAddress, *, qos: int = 1) -> None:
        super().__init__(broker_host=address.host, broker_port=address.port, broker_keepalive=30)
        self._qos = qos
        self._leaving = threading.Event()
        self.client.reconnect_delay_set(min_delay=1, max_delay=MAX_RECONNECT_DELAY)
        # Nagle's algorithm against delayed acknowledgements costs 44 ms a message, in both directions.
        self.client.on_socket_open = _no_delay
        if QUICK_ACK is not None:
            self.client._sock_recv = partial(_receive, self.client, self.client._sock_recv, QUICK_ACK)
        if address.username is not None:
            self.client.username_pw_set(address.username, address.password)
        context = address.ssl_context()
        if context is not None:
            self.client.tls_set_context(context)

    def connect(self) -> None:
        """Connect and carry messages, until :meth:`disconnect`; a broker that is away is waited for."""
        warned = False
        while not self._leaving.is_set():
            try:
                self.client.connect(self.broker_host, self.broker_port, self.broker_keepalive)
                warned = False
                self.client.loop_forever()
            except Exception as error:  # whatever it was, a bundle without a connection is none
                if not warned:
                    logger.warning("no connection to the broker for the control plane: %s; trying again", error,
                                   extra={"event": "control_unreachable", "reason": str(error)})
                    warned = True
            self._leaving.wait(1.0)

    def disconnect(self) -> None:
        """Say goodbye to the broker; what was published before goes out first."""
        self._leaving.set()
        self.client.disconnect()

    def set_on_disconnect(self, func: Callable[..., None]) -> None:
        """Have ``func(client, userdata, rc)`` called when the connection ends."""
        self.client.on_disconnect = func

    def set_tunnel(self, tunnel_type: str, tunnel: str, callback: Callable[..., None] | None = None) -> None:
        """Subscribe to a tunnel, in the place of the one of this type."""
        earlier = self.tunnels.get(tunnel_type, (None, None))[0]
        if earlier is not None and earlier != tunnel:
            self.client.unsubscribe(str(earlier))
            self.client.message_callback_remove(str(earlier))
        self.tunnels[tunnel_type] = (tunnel, callback)
        if callback is not None:
            self.client.message_callback_add(str(tunnel), callback)
        self.client.subscribe(str(tunnel), qos=self._qos)

    def publish(self, topic: str = "/controller", qos: int = 2, payload: Any = None) -> int:
        """Publish a message; without a connection it is kept until there is one (the SDK would end its thread)."""
        mid: int = self.client.publish(topic, payload=orjson.dumps(payload), qos=self._qos)[1]
        return mid


def _no_delay(client: object, userdata: object, sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _receive(client: Any, receive: Callable[[int], bytes], option: int, size: int) -> bytes:
    """Read from the broker, and have the system confirm it at once: Mosquitto, which does not set TCP_NODELAY, sends
    what comes next only then. The option holds for one time."""
    data = receive(size)
    client._sock.setsockopt(socket.IPPROTO_TCP, option, 1)
    return data
