"""The baseline: gmqtt alone, a window of requests out, each answer sends the next.

``python -m benchmarks.bare_loop PORT COUNT WINDOW DEVICES`` prints the seconds and its CPU seconds.

It writes no disk, keeps no state and tells nobody: what is left is the cost of MQTT itself in Python.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from typing import Any

import gmqtt
import uvloop
from gmqtt.mqtt.constants import MQTTv311

from puppetmaster.embedded.devices import names as fleet

FIRST_ID = 1_000_000
"""Ids have as many digits as those of puppetmaster."""

TIMEOUT = 120.0
"""Seconds for all answers."""


async def main(port: int, count: int, window: int, names: list[str]) -> None:
    """Send ``count`` requests, ``window`` at once, and wait for their answers."""
    logging.getLogger("gmqtt").setLevel(logging.CRITICAL)
    loop = asyncio.get_running_loop()
    done, subscribed = loop.create_future(), loop.create_future()
    sent = answered = 0

    def send(client: gmqtt.Client) -> None:
        nonlocal sent
        name = names[sent % len(names)]
        payload = b'{"id":%d,"method":"post","resource":"/echo","tunnel":"/remote/%b/answer/bare"}' % (
            FIRST_ID + sent,
            name.encode(),
        )
        sent += 1
        client.publish(f"/remote/{name}", payload, qos=1)

    def on_message(client: gmqtt.Client, topic: str, payload: bytes, qos: int, properties: dict[str, Any]) -> int:
        nonlocal answered
        answered += 1
        if sent < count:
            send(client)
        if answered == count:
            done.set_result(None)
        return 0

    client = gmqtt.Client("bare-loop")
    client.on_message = on_message
    client.on_subscribe = lambda *args: subscribed.set_result(None)
    await client.connect("127.0.0.1", port, version=MQTTv311)
    client.subscribe("/remote/+/answer/bare", qos=1)
    await subscribed
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(min(window, count)):
        send(client)
    await asyncio.wait_for(done, TIMEOUT)
    print(time.perf_counter() - start, time.process_time() - cpu)
    await client.disconnect()


if __name__ == "__main__":
    uvloop.install()
    port, count, window, devices = map(int, sys.argv[1:5])
    asyncio.run(main(port, count, window, fleet(devices)))
