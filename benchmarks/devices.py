"""The devices of the benchmarks: a fleet of any names that answers at once, in one process on one connection.

``python -m benchmarks.devices PORT`` says ``ready`` when it is there. To every line on its input it says how many
requests it has answered so far and how many bytes those had; it ends with its input. What it costs is shown beside
whatever is measured with it: it is not to be what a measurement waits for.

It does no work and remembers nothing: a request that comes again gets the same answer.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import orjson
import uvloop

from benchmarks.mqtt import Message, open_connection
from puppetmaster.embedded.devices import firmware

_TUNNEL = b',"tunnel":"'

_SHAPES: dict[bytes, tuple[bytes, bytes]] = {}
"""What answers have around the name of their device, by what their requests have between id and tunnel: the devices
are asked the same thing thousands of times."""

MAX_SHAPES = 1_000


def answer(topic: bytes, payload: bytes) -> Message:
    """The answer to a request: topic and payload, as ``puppetmaster simulate`` answers.

    :raises LookupError, ValueError: when it is no request.
    """
    # As wire.py and bare_loop.py write it: id first, tunnel last. A quote inside of a text has a backslash before it,
    # and an object inside of the message would end with a second brace. What is written in another way is parsed.
    tunnel = payload.rfind(_TUNNEL)
    if tunnel > 0 and payload.startswith(b'{"id":') and payload.endswith(b'"}') and b"\\" not in payload:
        comma = payload.index(b",")
        asked = payload[comma:tunnel]
        shape = _SHAPES.get(asked)
        if shape is not None:
            name = topic[topic.rfind(b"/") + 1 :]
            return payload[tunnel + len(_TUNNEL) : -2], b"%b%b%b" % (payload[:comma], shape[0], name) + shape[1]
        if len(_SHAPES) < MAX_SHAPES:
            _learn(asked)
    return _parsed(topic, payload)


def _learn(asked: bytes) -> None:
    request = orjson.loads(b"{" + asked[1:] + b"}")
    if request["method"] == "get":
        return  # what a device says of itself is another thing for each
    before, _, after = orjson.dumps(_document("0", {"id": 0, **request})).partition(b'["0"]')
    _SHAPES[asked] = before.removeprefix(b'{"id":0') + b'["', b'"]' + after


def _parsed(topic: bytes, payload: bytes) -> Message:
    request = orjson.loads(payload)
    name = topic.decode().rpartition("/")[2]
    return request["tunnel"].encode(), orjson.dumps(_document(name, request))


def _document(name: str, request: dict[str, Any]) -> dict[str, Any]:
    asked = {key: request[key] for key in ("method", "resource")}
    data = {"firmware": firmware(name)} if request["method"] == "get" else request.get("data")
    document = {"id": request["id"], "code": 200, **asked, "sign": [name]}
    return document if data is None else {**document, "data": data}


class Fleet:
    """All devices."""

    def __init__(self) -> None:
        self.requests = 0
        self.bytes = 0

    def take(self, messages: list[Message]) -> list[Message]:
        """Answer all requests of a chunk."""
        self.requests += len(messages)
        self.bytes += sum(len(payload) for _, payload in messages)
        return [answer(topic, payload) for topic, payload in messages]


async def main(port: int) -> None:
    """Answer until the input ends."""
    fleet = Fleet()
    connection = await open_connection(port, "benchmark-devices", ["/remote/+"], fleet.take)
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    connection.lost.add_done_callback(lambda lost: reader.feed_eof())
    print("ready", flush=True)
    while await reader.readline():
        print(json.dumps({"requests": fleet.requests, "bytes": fleet.bytes}), flush=True)
    if connection.lost.done():
        sys.exit("the devices have lost the broker")


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(main(int(sys.argv[1])))
