"""A process that hosts a worker, to be killed: orders come in as lines of JSON, what comes of them goes out so.

``{"ack": id}``, ``{"answer": id, "code": 200, "data": {...}}``, ``{"chunk": id, "number": 0, ...}``, and at the end of
the input ``{"peak": <kB of memory at the most>}``.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from puppetmaster import chunks
from puppetmaster.agent.memory import Memory
from puppetmaster.agent.order import Order, Reply
from puppetmaster.agent.output import OutputLimits
from puppetmaster.agent.rights import Rights
from puppetmaster.agent.worker import Worker


def say(**document: Any) -> None:
    os.write(1, json.dumps(document).encode() + b"\n")


def reply_to(order: Order) -> Reply:
    async def reply(code: int, data: Any) -> None:
        say(answer=order.id, code=code, data=data)

    return reply


def emit(order: Order, chunk: chunks.Chunk) -> None:
    say(chunk=order.id, **chunks.to_document(chunk))


async def serve(folder: Path) -> None:
    reader = asyncio.StreamReader(limit=2**22)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    memory = Memory(folder)
    worker = Worker(memory=memory, rights=Rights.parse("all"), limits=OutputLimits(), emit=emit, info=dict)
    await worker.start(reply_to)

    async def take(order: Order) -> None:
        await worker.handle(order, reply_to(order))
        say(ack=order.id)

    taking = []
    while line := await reader.readline():
        order = Order(method="post", resource="/agent/commands", tunnel="/t", **json.loads(line))
        taking.append(asyncio.create_task(take(order)))
    await asyncio.gather(*taking)
    await worker.close()
    await memory.close()
    say(peak=peak())


def peak() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
