"""Simulated devices that outlive a kill, as real agents do.

Their session stays at the broker, and the log of work is their memory: what was done is answered from it, and never
done again, whatever happens to the process. ``python -m tests.faults.devices BROKER NAME INSTANCE NAMES LOG LATENCY
ERRORS``.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from puppetmaster.address import BrokerAddress
from puppetmaster.cli.processes import end_with_parent
from puppetmaster.embedded.devices import (
    FAILED,
    OK,
    Behaviour,
    Fleet,
    Latency,
    _encode_answer,
    _Request,
    _result,
    read_log,
)
from puppetmaster.logs import start_logging
from puppetmaster.loop import run
from puppetmaster.wire import answer_topic


def remember(fleet: Fleet, path: Path, instance: str) -> None:
    """Fill the devices' memories with what their log says they did."""
    devices = {device.name: device for device in fleet._devices.values()}
    for record in read_log(path) if path.exists() else ():
        device, tunnel = devices[record["device"]], answer_topic(record["device"], instance)
        request = _Request(record["id"], record["method"], record["resource"], tunnel, record["data"], 0)
        failed = record["outcome"] == "error"
        data = {"message": "the simulated work failed"} if failed else _result(device.name, request)
        device.answers[request.key] = _encode_answer(device.name, request, FAILED if failed else OK, data)


async def live(broker: str, name: str, instance: str, names: list[str], log: Path, latency: str, errors: str) -> None:
    fleet = Fleet(
        BrokerAddress.parse(broker),
        names,
        Behaviour(latency=Latency.parse(latency), errors=float(errors)),
        log_path=log,
        instance=name,
        client_id=f"fleet-{name}",
        persistent=True,
    )
    remember(fleet, log, instance)
    await fleet.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    end_with_parent()
    start_logging("info")
    run(live(*sys.argv[1:4], Path(sys.argv[4]).read_text().split(), Path(sys.argv[5]), *sys.argv[6:8]))
