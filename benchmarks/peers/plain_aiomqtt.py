"""One message to every device, with aiomqtt: ``python plain_aiomqtt.py PORT < devices.txt``.

What somebody writes in an afternoon who needs it once. Nothing is stored, nothing is tried again.
"""

import asyncio
import itertools
import json
import sys
import time

import aiomqtt
import uvloop

WINDOW = 500
ANSWERS = "/remote/+/answer/script"


async def main(port: int, devices: list[str]) -> None:
    """Ask all devices, at most a window of them at once."""
    ids, window, waiting = itertools.count(1_000_000), asyncio.Semaphore(WINDOW), {}

    async def listen(client: aiomqtt.Client) -> None:
        async for message in client.messages:
            answer = json.loads(message.payload)
            waiting.pop(answer["id"]).set_result(answer)

    async def ask(client: aiomqtt.Client, device: str) -> dict:
        async with window:
            number, answer = next(ids), asyncio.get_running_loop().create_future()
            waiting[number] = answer
            tunnel = f"/remote/{device}/answer/script"
            request = {"id": number, "method": "post", "resource": "/echo", "tunnel": tunnel}
            await client.publish(f"/remote/{device}", json.dumps(request), qos=1)
            return await answer

    async with aiomqtt.Client("127.0.0.1", port, max_inflight_messages=WINDOW) as client:
        client.pending_calls_threshold = WINDOW  # else it logs each call over ten
        await client.subscribe(ANSWERS, qos=1)
        listener = asyncio.create_task(listen(client))
        start = time.perf_counter()
        answers = await asyncio.gather(*(ask(client, device) for device in devices))
        seconds = time.perf_counter() - start
        listener.cancel()
    print(sum(answer["code"] == 200 for answer in answers), seconds)


uvloop.run(main(int(sys.argv[1]), sys.stdin.read().split()))
