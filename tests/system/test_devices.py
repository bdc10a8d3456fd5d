"""The registry of devices on a real broker: who appears by what, what both edges show, and what a kill leaves."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from paho.mqtt import client as paho

from puppetmaster.address import BrokerAddress
from puppetmaster.bus import Bus
from puppetmaster.client import AsyncClient, BusClient, Client, UnknownDevice
from puppetmaster.client.documents import device_path
from puppetmaster.devices import Devices
from puppetmaster.embedded.broker import BrokerProcess, find_mosquitto
from puppetmaster.observer import MAX_SAID_BYTES, Observer
from puppetmaster.policies import Connection
from puppetmaster.rollcall import RollCall
from puppetmaster.store import MemoryStore
from tests.system.stand import Document, Stand

pytestmark = pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")

TIMEOUT = 30.0

MESSAGE = {"method": "get", "resource": "/system/status"}

STRANGE = ["00:11:22:AA:bb:cc", "a.b", "..", ".", "ü ü", "100%", "a?b", "a%2Fb", "a&b=c", "😀", "a\\b\"c'", "x" * 128]
"""Names that a destination may have, and a path not as they are."""


def announce(stand: Stand, device: str, **said: Any) -> None:
    """Say what a device says when it connects."""
    stand.publish(f"/remote/{device}/presence", {"connection": "online", **said}, retain=True)


def path(device: str) -> str:
    """The resource of a device."""
    return device_path(device)


def until_device(stand: Stand, device: str, **fields: Any) -> Document:
    """A device, once these fields of it are so."""
    found: list[Document] = []

    def accept(code: int, data: Any) -> bool:
        found[:] = [data]
        return code == 200 and all(data[name] == value for name, value in fields.items())

    until_asked(stand, path(device), accept)
    return found[0]


def until_asked(stand: Stand, resource: str, accept: Any) -> Any:
    """The answer, once it is accepted. Nothing tells of devices, so that they are asked for."""
    deadline, last = time.monotonic() + TIMEOUT, None
    while time.monotonic() < deadline:
        last = stand.ask("get", resource)
        if accept(*last):
            return last[1]
    raise AssertionError(f"{resource} was not as expected: {last!r:.1000}")


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with Stand(tmp_path_factory.mktemp("stand"), http=True) as running:
        yield running


@pytest.fixture(params=["bus", "http"])
def either(request: pytest.FixtureRequest, stand: Stand) -> Iterator[Stand]:
    """The stand, its calls over one of the ways."""
    stand.edge = request.param
    yield stand
    stand.edge = "bus"


def good(stand: Stand, method: str, resource: str, data: Any = None) -> Any:
    code, answered = stand.ask(method, resource, data)
    assert code == 200, answered
    return answered


# Who appears


def test_this_machine_is_a_device(either: Stand) -> None:
    shown = good(either, "get", "/devices/localhost")
    assert (shown["channel"], shown["connection"]) == ("local", "online")


def test_a_device_appears_by_its_presence_and_goes_by_its_last_will(stand: Stand) -> None:
    client = paho.Client(f"will-{secrets.token_hex(4)}")
    topic = "/remote/will-1/presence"
    client.will_set(topic, json.dumps({"connection": "offline"}), qos=1, retain=True)
    client.connect("127.0.0.1", stand.port)
    client.loop_start()
    said = {"connection": "online", "labels": {"site": "berlin"}, "facts": {"hostname": "box", "version": "1.5"}}
    client.publish(topic, json.dumps(said), qos=1, retain=True)
    shown = until_device(stand, "will-1", connection="online")
    assert (shown["labels"], shown["facts"]) == (said["labels"], said["facts"])
    assert shown["firstSeenAt"] == shown["lastSeenAt"] == shown["connectionChangedAt"]
    client._sock.close()  # it dies without a goodbye
    client.loop_stop()
    gone = until_device(stand, "will-1", connection="offline")
    assert (gone["labels"], gone["lastSeenAt"]) == (said["labels"], shown["lastSeenAt"])


def test_devices_appear_by_their_answers_and_are_busy_meanwhile(stand: Stand) -> None:
    asked = stand.listen("/remote/answers-1")
    job = stand.create_job({"destinations": ["answers-1", "silent-1"], "message": MESSAGE})
    request = asked.wait().data
    stand.publish(request["tunnel"], {**request, "code": 200, "sign": ["answers-1"]})
    shown = until_device(stand, "answers-1", connection="unknown")
    assert (shown["channel"], shown["currentRequest"], shown["firstSeenAt"]) == ("mqtt", None, shown["lastSeenAt"])
    assert stand.ask("get", "/devices/silent-1")[0] == 404
    good(stand, "put", "/devices/silent-1", {"labels": {}})
    until_device(stand, "silent-1", currentRequest=job["requests"][1], lastSeenAt=None)
    stand.remove_job(job["id"])
    until_device(stand, "silent-1", currentRequest=None)


def test_a_device_appears_by_its_telemetry_and_its_events(stand: Stand) -> None:
    stand.publish("/remote/tells-1/telemetry", {"frequent": {"load": [0.5, 0.4, 0.3], "cpu": 12.5}})
    stand.publish("/remote/tells-1/telemetry", {"seldom": {"cores": 4}})
    shown = until_asked(stand, "/devices/tells-1", lambda code, data: code == 200 and data["telemetry"]["seldom"])
    assert shown["telemetry"]["frequent"] == {"load": [0.5, 0.4, 0.3], "cpu": 12.5}
    assert shown["telemetry"]["seldom"] == {"cores": 4}
    assert shown["telemetry"]["at"] == shown["lastSeenAt"]
    stand.publish("/remote/tells-2/event", {"code": 200, "method": "post", "resource": "/alarm"})
    until_device(stand, "tells-2", connection="unknown")


def test_a_job_goes_to_targets_by_labels_and_facts(stand: Stand) -> None:
    fleet = stand.fleet("aimed", 6)
    for number, name in enumerate(fleet.names):
        announce(stand, name, labels={"aim": "yes" if number % 2 else "no"}, facts={"version": f"1.{number % 3}"})
    until_device(stand, fleet.names[-1], connection="online")
    job = stand.create_job({"targets": {"labels": {"aim": "yes"}, "facts": {"version": "1.1"}}, "message": MESSAGE})
    ended = stand.wait_job(job["id"])
    assert (ended["totalCount"], ended["finishCount"]) == (1, 1)
    assert [record["device"] for record in stand.work(job)] == ["aimed-0002"]


def test_what_waits_for_a_device_is_sent_when_it_comes_online(stand: Stand) -> None:
    stand.publish("/remote/late-1/presence", {"connection": "offline"}, retain=True)
    until_device(stand, "late-1", connection="offline")
    job = stand.create_job({"destinations": "late-1", "message": MESSAGE, "offline": "wait"})
    asked = stand.listen("/remote/late-1")
    announce(stand, "late-1")
    assert asked.wait().data["id"] == job["requests"][0]
    stand.remove_job(job["id"])


GARBAGE = [
    b"", b"{", b"null", b"[]", b"\xff\xfe", b'{"connection": "gone"}', b'{"connection": 5}', b"[" * 5000,
    b'{"connection": "online", "x": ' + b'{"a": ' * 200 + b"1" + b"}" * 201, b"x" * (MAX_SAID_BYTES + 1),
    b'{"connection": NaN}', b'{"connection": "online", "labels": "\xed\xa0\x80"}', b'{"connection": "\\ud800"}',
]  # fmt: skip


def test_garbage_makes_no_device_and_does_no_harm(stand: Stand) -> None:
    before = {device["id"] for device in good(stand, "get", "/devices?limit=1000")}
    for number, payload in enumerate(GARBAGE):
        stand.publish(f"/remote/bad-{number}/presence", payload)
    for topic in ("/remote//presence", "/remote/$SYS/presence", f"/remote/{'x' * 500}/presence"):
        stand.publish(topic, {"connection": "online"})
    for topic in ("/remote/bad-x/output/none", "/remote/bad-x/output/1e9", "/remote/bad-x/output/" + "9" * 30):
        stand.publish(topic, b"x")
    announce(stand, "marker-1")
    until_device(stand, "marker-1", connection="online")
    after = {device["id"] for device in good(stand, "get", "/devices?limit=1000")}
    assert after - before == {"marker-1"}
    assert "Traceback" not in stand.bundle.log()
    assert "were not taken" in stand.bundle.log()


# Both edges


def test_labels_are_given_taken_and_found(either: Stand) -> None:
    name = f"named-{either.edge}"
    announce(either, name, labels={"site": "berlin", "old": "yes"})
    until_device(either, name, connection="online")
    shown = good(either, "put", f"/devices/{name}", {"labels": {"site": "bonn", "rack": "7", "old": None}})
    assert shown["labels"] == {"site": "bonn", "rack": "7"}
    assert good(either, "get", f"/devices/{name}") == shown
    query = f"label=rack=7&label=site=bonn&connection=online&id=named-{either.edge[0]}*"
    assert good(either, "get", f"/devices?{query}") == [shown]
    assert good(either, "get", f"/devices?{query}&label=old") == []
    assert good(either, "put", f"/devices/{name}", {"labels": None})["labels"] == {"site": "berlin", "old": "yes"}
    for body in ({}, {"labels": {"a=b": "c"}}, {"labels": {"a": 1}}, {"label": {}}, None, []):
        code, data = either.ask("put", f"/devices/{name}", body)
        assert (code, set(data)) == (400, {"message", "errors"}), body


def test_devices_come_in_pages_in_the_order_of_their_ids(either: Stand) -> None:
    names = [f"page-{either.edge}-{number:02d}" for number in range(25)]
    for name in reversed(names):
        announce(either, name, facts={"version": f"1.{int(name[-1]) % 2}", "cores": int(name[-1])})
    until_device(either, names[0], connection="online")
    mine = f"id=page-{either.edge}-*"
    pages = [good(either, "get", f"/devices?{mine}&limit=10&offset={offset}") for offset in (0, 10, 20)]
    assert [device["id"] for page in pages for device in page] == names
    odd = good(either, "get", f"/devices?{mine}&fact=version=1.1&fact=cores=3")
    assert [device["id"] for device in odd] == [names[3], names[13], names[23]]
    counted = good(either, "get", f"/devices/facts/version?{mine}")
    assert [(group["value"], group["count"]) for group in counted] == [("1.0", 13), ("1.1", 12)]
    for query in ("limit=x", "connection=away", "offset=-1", "id=" + "*" * 9):
        code, data = either.ask("get", f"/devices?{query}")
        assert (code, data["errors"][0]["path"]) == (400, query.partition("=")[0])


@pytest.mark.parametrize("name", STRANGE, ids=ascii)
def test_a_strange_name_is_a_name(either: Stand, name: str) -> None:
    announce(either, name, labels={"strange": "yes"})
    shown = until_device(either, name, connection="online")
    assert shown["id"] == name
    assert good(either, "put", path(name), {"labels": {"more": "1"}})["labels"] == {"strange": "yes", "more": "1"}
    assert good(either, "delete", path(name))["id"] == name
    assert either.ask("get", path(name))[0] == 404


@pytest.mark.parametrize(
    "resource",
    ["/devices/nobody", "/devices/%2F", "/devices/%00", "/devices/%ff", "/devices/a%2Bb", "/devices/%23",
     "/devices/$SYS", f"/devices/{'x' * 300}", "/devices/%F0%9F", "/devices/a%0Ab"],
)  # fmt: skip
def test_a_hostile_or_unknown_id_is_not_found(either: Stand, resource: str) -> None:
    for method in ("get", "delete"):
        code, data = either.ask(method, resource)
        assert (code, "message" in data) == (404, True), method
    if resource != "/devices/nobody":
        code, data = either.ask("put", resource, {"labels": {}})
        assert code in (400, 404), data
        assert either.ask("get", resource)[0] == 404


def test_a_page_that_would_not_fit_the_bus_is_refused_and_says_what_to_do(stand: Stand) -> None:
    facts = {f"fact-{number:02d}": "x" * 250 for number in range(60)}
    for number in range(70):
        announce(stand, f"large-{number:02d}", facts=facts)
    until_device(stand, "large-69", connection="online")
    code, data = stand.ask("get", "/devices?id=large-*")
    assert code == 413
    assert "limit" in data["message"]
    assert len(good(stand, "get", "/devices?id=large-*&limit=50")) == 50
    stand.edge = "http"
    try:
        assert len(good(stand, "get", "/devices?id=large-*")) == 70
    finally:
        stand.edge = "bus"


def test_a_removed_device_is_gone_from_the_broker_too(stand: Stand) -> None:
    announce(stand, "removed-1")
    until_device(stand, "removed-1", connection="online")
    presence = stand.listen("/remote/removed-1/presence")
    presence.wait(lambda heard: heard.retained)
    good(stand, "delete", "/devices/removed-1")
    presence.wait(lambda heard: not heard.payload)
    late = stand.listen("/remote/removed-1/#")
    marker = stand.listen("/marker-of-removal")
    stand.publish("/marker-of-removal", b"{}")
    marker.wait()
    assert not [heard for heard in late.messages if heard.payload]
    assert stand.ask("get", "/devices/removed-1")[0] == 404
    announce(stand, "removed-1")
    until_device(stand, "removed-1", connection="online")


def test_a_removal_is_written_into_the_audit_log(stand: Stand) -> None:
    assert stand.http("put", "/devices/audited-1", json={"labels": {"site": "ulm"}}).status_code == 200
    assert stand.http("delete", "/devices/audited-1").status_code == 200
    entries = stand.http("get", "/audit?limit=2").json()
    assert [(entry["method"], entry["device"], entry["operation"]) for entry in entries] == [
        ("delete", "audited-1", "remove_device"), ("put", "audited-1", "update_device"),
    ]  # fmt: skip
    assert entries[1]["change"] == {"labels": {"site": "ulm"}}


# The clients


def test_the_clients_know_devices(stand: Stand) -> None:
    names = [f"client-{number:03d}" for number in range(7)]
    with Client(stand.site) as client:
        for name in names:
            client.label_device(name, {"by": "client", "n": name[-1]})
        found = list(client.devices(label="by=client", device="client-*"))
        assert [device.id for device in found] == names
        assert (found[3].labels, found[3].connection) == ({"by": "client", "n": "3"}, Connection.UNKNOWN)
        assert [device.id for device in client.devices(label=["by=client", "n=5"], limit=3)] == [names[5]]
        assert client.label_device(names[0], {"n": None}).labels == {"by": "client"}
        assert client.label_device("..", {"by": "client"}).id == ".."
        assert client.remove_device("..").id == ".."
        [group] = client.fact_values("nothing", label="by=client")
        assert (group.value, group.count) == (None, 7)
        with pytest.raises(UnknownDevice, match="no device is called 'nobody'") as caught:
            client.device("nobody")
        assert caught.value.ident == "nobody"

    async def others() -> None:
        async with AsyncClient(stand.site) as http:
            assert [device.id async for device in http.devices(device="client-*")] == names
            assert (await http.device(names[1])).labels["n"] == "1"
            assert (await http.fact_values("x", label="by=client"))[0].count == 7
        async with BusClient(BrokerAddress.parse(stand.url)) as bus:
            assert [device["id"] for device in await bus.devices(id="client-*", limit=3)] == names[:3]
            assert (await bus.label_device(names[1], {"n": "x"}))["labels"]["n"] == "x"
            assert (await bus.device(names[1]))["labels"]["n"] == "x"
            assert (await bus.fact_values("x", label="by=client"))[0]["count"] == 7
            assert (await bus.remove_device(names[1]))["id"] == names[1]
            with pytest.raises(UnknownDevice):
                await bus.device(names[1])

    asyncio.run(others())


# Restarts and kills


def test_a_restart_keeps_them_and_a_kill_loses_no_label(tmp_path: Path) -> None:
    with Stand(tmp_path, http=True) as stand:
        announce(stand, "kept-1", labels={"site": "berlin"}, facts={"version": "1.0"})
        stand.publish("/remote/kept-1/telemetry", {"seldom": {"cores": 4}})
        until_asked(stand, "/devices/kept-1", lambda code, data: code == 200 and data["telemetry"]["seldom"])
        before = good(stand, "get", "/devices/kept-1")
        stand.bundle.restart()
        assert good(stand, "get", "/devices/kept-1") == before

        # What a device said may be missing after a kill; what was answered to a caller is not.
        for number in range(50):
            good(stand, "put", f"/devices/labelled-{number:02d}", {"labels": {"number": str(number)}})
        good(stand, "delete", "/devices/labelled-49")
        stand.bundle.restart(kill=True)
        found = good(stand, "get", "/devices?id=labelled-*")
        assert [device["labels"] for device in found] == [{"number": str(number)} for number in range(49)]
        assert good(stand, "get", "/devices/kept-1")["labels"] == {"site": "berlin"}

        # The broker has forgotten everything, and nobody comes back: the roll call finds that out.
        stand.broker.restart(kill=True)
        until_device(stand, "kept-1", connection="unknown")
        announce(stand, "kept-1")
        until_device(stand, "kept-1", connection="online")


def test_twenty_thousand_presences_leave_the_way_of_the_jobs_alone(tmp_path: Path) -> None:
    with Stand(tmp_path, http=True) as stand:
        fleet = stand.fleet("working", 20)
        stand.run_job({"destinations": fleet.names, "message": MESSAGE})
        before = written(stand)
        count = 20_000

        async def say_all() -> None:
            bus = Bus(BrokerAddress.parse(stand.url), "crowd", lambda topic, payload: None)
            await bus.start(TIMEOUT)
            for number in range(count):
                said = {"connection": "online", "labels": {"site": str(number % 7)}, "facts": {"version": "1.0"}}
                bus.publish(f"/remote/crowd-{number:05d}/presence", orjson.dumps(said), retain=True)
                if number % 500 == 499:
                    assert await bus.flush(TIMEOUT)
                    # Mosquitto drops what a client is more than some thousand behind, and this one is quick.
                    await asyncio.to_thread(until_known, number - 499)
            await bus.close()

        def until_known(least: int) -> None:
            until_asked(stand, "/devices/facts/version?connection=online&id=crowd-*",
                        lambda code, data: not least or (data and data[0]["count"] >= least))  # fmt: skip

        asyncio.run(say_all())
        until_asked(stand, "/devices/facts/version?connection=online&id=crowd-*",
                    lambda code, data: data and data[0]["count"] == count)  # fmt: skip
        assert written(stand) == before, "nothing of it is in the journal of the jobs"
        job = stand.run_job({"destinations": fleet.names, "message": MESSAGE})
        assert job["finishCount"] == 20
        found = good(stand, "get", "/devices?label=site=3&fact=version=1.0&limit=3&offset=2000")
        assert [device["id"] for device in found] == [f"crowd-{number:05d}" for number in (14003, 14010, 14017)]


def written(stand: Stand) -> float:
    """Bytes that went to the files of the jobs."""
    lines = stand.http("get", "/metrics").text.splitlines()
    [value] = [line.split()[1] for line in lines if line.startswith("puppetmaster_journal_written_bytes_total ")]
    return float(value)


# The observer and the roll call by themselves


@contextmanager
def broker() -> Iterator[BrokerAddress]:
    with BrokerProcess(defaults=True) as process:
        yield BrokerAddress.parse(f"mqtt://127.0.0.1:{process.port}")


def test_output_and_events_are_handed_on_in_their_order_and_kept_while_nobody_is_there() -> None:
    async def main(address: BrokerAddress) -> None:
        heard: list[Any] = []
        news = asyncio.Event()

        def note(*what: Any) -> None:
            heard.append(what)
            news.set()
            if what[-1] == b"poison":
                raise RuntimeError("it does not like it")

        def make() -> Observer:
            devices = Devices(MemoryStore(), lambda: 0.0)
            return Observer(address, "me", devices, lambda: 0.0, on_output=note, on_event=note)

        async def until(count: int) -> None:
            while len(heard) < count:
                news.clear()
                await asyncio.wait_for(news.wait(), TIMEOUT)

        device = Bus(address, "device", lambda topic, payload: None)
        await device.start(TIMEOUT)
        observer = make()
        await observer.start()
        device.publish("/remote/a/output/1000001", b"poison")
        for number in range(1500):
            device.publish("/remote/a/output/1000001", b"%d" % number)
        device.publish("/remote/a/event", b"\xff")
        await until(1502)
        assert heard[0] == ("a", 1_000_001, b"poison")
        assert [payload for _, _, payload in heard[1:-1]] == [b"%d" % number for number in range(1500)]
        assert heard[-1] == ("a", b"\xff")
        assert (observer.received, observer.dropped) == (1502, {"output": 1})
        await observer.close()
        device.publish("/remote/a/event", b"while you were out")
        assert await device.flush(TIMEOUT)
        observer = make()
        await observer.start()
        await until(1503)
        assert heard[-1] == ("a", b"while you were out")
        await observer.close()
        await device.close()

    with broker() as address:
        asyncio.run(main(address))


def test_the_roll_call_finds_what_a_broker_did_not_hand_out() -> None:
    async def main(address: BrokerAddress) -> None:
        devices = Devices(MemoryStore(), lambda: 5.0)
        speaker = Bus(address, "speaker", lambda topic, payload: None)
        await speaker.start(TIMEOUT)
        for number in range(5000):
            devices.connection(f"device-{number:04d}", Connection.OFFLINE, 1.0, "mqtt")
            if number % 100:
                speaker.publish(f"/remote/device-{number:04d}/presence", b'{"connection": "online"}', retain=True)
        devices.connection("polls", Connection.ONLINE, 1.0, "pull")
        assert await speaker.flush(TIMEOUT)
        taken: dict[str, bytes] = {}
        done = asyncio.Event()

        def take(topic: str, payload: bytes) -> None:
            taken[topic] = payload
            if len(taken) == 5000:
                done.set()

        call = RollCall(address, "me", devices, take, settle=0.0)
        await call.start()
        await asyncio.wait_for(done.wait(), TIMEOUT)
        await call.close()
        await speaker.close()
        assert sum(1 for payload in taken.values() if payload) == 4950
        assert {topic for topic, payload in taken.items() if not payload} == {
            f"/remote/device-{number:04d}/presence" for number in range(0, 5000, 100)
        }
        assert "/remote/polls/presence" not in taken

    with broker() as address:
        asyncio.run(main(address))
