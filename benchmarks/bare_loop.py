"""The baseline: gmqtt alone, a window of requests out, each answer sends the next. Prints its seconds.

It writes no disk, keeps no state and tells nobody: what is left is the cost of MQTT itself in Python.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time

import gmqtt
import uvloop
from gmqtt.mqtt.constants import MQTTv311


async def main(port: int, count: int, window: int, names: list[str]) -> None:
    """Send ``count`` requests, ``window`` at once, and wait for their answers."""
    logging.getLogger("gmqtt").setLevel(logging.CRITICAL)
    done = asyncio.get_running_loop().create_future()
    sent = answered = 0

    def send(client: gmqtt.Client) -> None:
        nonlocal sent
        name = names[sent % len(names)]
        payload = b'{"id":%d,"method":"post","resource":"/echo","tunnel":"/remote/%b/answer/bare"}' % (
            500_000_000 + time.time_ns() // 1000 % 1_000_000_000,
            name.encode(),
        )
        sent += 1
        client.publish(f"/remote/{name}", payload, qos=1)

    def on_message(client: gmqtt.Client, topic: str, payload: bytes, qos: int, properties: dict) -> int:
        nonlocal answered
        answered += 1
        if sent < count:
            send(client)
        if answered == count:
            done.set_result(None)
        return 0

    client = gmqtt.Client("bare-loop")
    client.on_message = on_message
    await client.connect("127.0.0.1", port, version=MQTTv311)
    client.subscribe("/remote/+/answer/bare", qos=1)
    await asyncio.sleep(0.5)
    start = time.perf_counter()
    for _ in range(min(window, count)):
        send(client)
    await asyncio.wait_for(done, 120)
    print(time.perf_counter() - start)
    await client.disconnect()


if __name__ == "__main__":
    uvloop.install()
    device_names = [f"device-{number:0{int(sys.argv[5])}d}" for number in range(1, int(sys.argv[4]) + 1)]
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), device_names))
