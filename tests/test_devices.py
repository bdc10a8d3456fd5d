"""The registry of devices: what is heard of them, what callers call them, and how it gets to the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puppetmaster.devices import Devices
from puppetmaster.devices.device import from_document, to_document
from puppetmaster.devices.reading import MAX_FACTS, MAX_LABELS, MAX_TELEMETRY_BYTES
from puppetmaster.devices.writing import SEEN_INTERVAL, TABLE, WRITE_INTERVAL
from puppetmaster.errors import Conflict, DeviceNotFound, InvalidDocument, StoreUnavailable
from puppetmaster.policies import Connection, Targets
from puppetmaster.store import TinyStore
from puppetmaster.store.memory import MemoryStore
from tests import fast_loop

ONLINE = {"connection": "online"}
OFFLINE = {"connection": "offline"}
BERLIN = {**ONLINE, "labels": {"site": "berlin"}, "facts": {"hostname": "box", "version": "1.2", "cores": 4}}


class Bench:
    """A registry on a store in memory, and a clock that stands still."""

    def __init__(self, store: MemoryStore | None = None, **options: Any) -> None:
        self.store = store or MemoryStore()
        self.time = 1000.0
        self.devices = Devices(self.store, lambda: self.time, **options)
        self.devices.load()

    def say(self, destination: str, document: object) -> None:
        self.devices.presence(destination, document, self.time)

    async def view(self, ident: str) -> dict[str, Any]:
        return await self.devices.show(ident)

    async def ids(self, **query: Any) -> list[str]:
        return [view["id"] for view in await self.devices.page(query)]

    def reopened(self) -> Bench:
        """What there is after a kill now."""
        return Bench(self.store.reopen())


def run(main: Callable[[Bench], Awaitable[None]], **options: Any) -> None:
    async def inside() -> None:
        await main(Bench(**options))

    asyncio.run(inside())


def run_fast(main: Callable[[Bench], Awaitable[None]]) -> None:
    """On a loop on which waiting takes no time."""

    async def inside() -> None:
        await main(Bench())

    fast_loop.run(inside())


# What is heard


def test_a_device_appears_by_whatever_is_heard_of_it() -> None:
    async def main(bench: Bench) -> None:
        devices = bench.devices
        devices.seen("answers", 1.0)
        devices.telemetry("measures", {"frequent": {"load": 0.5}}, 2.0)
        devices.presence("says", ONLINE, 3.0)
        devices.connection("polls", Connection.ONLINE, 4.0)
        devices.seen("localhost", 5.0)
        assert await bench.ids() == ["answers", "localhost", "measures", "polls", "says"]
        views = {view["id"]: view for view in await devices.page({})}
        assert {name: view["channel"] for name, view in views.items()} == {
            "answers": "mqtt", "localhost": "local", "measures": "mqtt", "polls": "pull", "says": "mqtt",
        }  # fmt: skip
        assert {name: view["connection"] for name, view in views.items()} == {
            "answers": "unknown", "localhost": "unknown", "measures": "unknown", "polls": "online", "says": "online",
        }  # fmt: skip
        assert views["says"]["firstSeenAt"] == views["says"]["lastSeenAt"] == "1970-01-01T00:00:03.000Z"
        assert views["says"]["connectionChangedAt"] == "1970-01-01T00:00:03.000Z"
        assert views["answers"]["connectionChangedAt"] is None
        assert dict(devices.counts()) == {Connection.UNKNOWN: 3, Connection.ONLINE: 2}
        assert (len(devices), "says" in devices, "nobody" in devices) == (5, True, False)

    run(main)


def test_a_view_has_all_that_is_known() -> None:
    async def main(bench: Bench) -> None:
        bench.devices.current = {"a": 1_000_001}.get
        bench.say("a", BERLIN)
        bench.time = 1001.5
        bench.devices.telemetry("a", {"frequent": {"load": [0.5, 0.4, 0.3]}}, bench.time)
        bench.devices.telemetry("a", {"seldom": {"cores": 4}}, bench.time)
        assert await bench.view("a") == {
            "id": "a",
            "channel": "mqtt",
            "connection": "online",
            "connectionChangedAt": "1970-01-01T00:16:40.000Z",
            "firstSeenAt": "1970-01-01T00:16:40.000Z",
            "lastSeenAt": "1970-01-01T00:16:41.500Z",
            "labels": {"site": "berlin"},
            "facts": {"hostname": "box", "version": "1.2", "cores": 4},
            "telemetry": {
                "at": "1970-01-01T00:16:41.500Z",
                "frequent": {"load": [0.5, 0.4, 0.3]},
                "seldom": {"cores": 4},
            },
            "currentRequest": 1_000_001,
        }

    run(main)


def test_what_a_device_does_not_repeat_stays() -> None:
    async def main(bench: Bench) -> None:
        bench.say("a", BERLIN)
        bench.say("a", OFFLINE)  # its last will
        view = await bench.view("a")
        assert (view["connection"], view["labels"], view["facts"]["cores"]) == ("offline", {"site": "berlin"}, 4)
        bench.say("a", {**ONLINE, "labels": {}, "facts": {"cores": 8}})
        view = await bench.view("a")
        assert (view["connection"], view["labels"], view["facts"]) == ("online", {}, {"cores": 8})

    run(main)


def test_only_word_of_a_device_itself_is_a_sign_of_life() -> None:
    async def main(bench: Bench) -> None:
        bench.say("a", ONLINE)
        for bench.time, document in ((1010.0, ONLINE), (1020.0, OFFLINE)):
            bench.say("a", document)  # the broker repeats what it retains, and speaks for those that are gone
            assert (await bench.view("a"))["lastSeenAt"] == "1970-01-01T00:16:40.000Z"
        bench.time = 1030.0
        bench.say("a", ONLINE)
        assert (await bench.view("a"))["lastSeenAt"] == "1970-01-01T00:17:10.000Z"

    run(main)


def test_who_comes_online_is_told_of() -> None:
    async def main(bench: Bench) -> None:
        came: list[str] = []
        bench.devices.on_present += [came.append, lambda name: 1 / 0, came.append]  # type: ignore[list-item]
        bench.say("a", OFFLINE)
        assert came == []
        bench.say("a", ONLINE)
        assert came == ["a", "a"]
        bench.say("a", ONLINE)  # nothing new
        bench.devices.connection("a", Connection.ONLINE, 5.0, "mqtt")
        assert came == ["a", "a"]
        for session, count in (("s1", 4), ("s1", 4), ("s2", 6)):
            bench.say("a", {**ONLINE, "session": session})
            assert len(came) == count, session
        bench.devices.connection("b", Connection.ONLINE, 5.0)
        assert came[6:] == ["b", "b"]

    run(main)


def test_who_says_that_it_is_online_is_told_of_each_time() -> None:
    async def main(bench: Bench) -> None:
        heard: list[str] = []
        bench.devices.on_online.append(heard.append)
        for said in (ONLINE, ONLINE, OFFLINE, "junk"):
            bench.say("a", said)
        assert heard == ["a", "a"]

    run(main)


def test_a_presence_that_was_taken_back_leaves_it_open_whether_the_device_is_there() -> None:
    async def main(bench: Bench) -> None:
        bench.say("a", ONLINE)
        bench.devices.absence("a", 5.0)
        bench.devices.absence("nobody", 5.0)
        assert (await bench.view("a"))["connection"] == "unknown"
        assert await bench.ids() == ["a"]
        assert not bench.devices.has_said("a")

    run(main)


GARBAGE: list[Any] = [
    None, 1, "online", [], {}, {"connection": None}, {"connection": "ONLINE"}, {"connection": ["online"]},
    {"connection": {"a": 1}}, {"labels": {}}, {"connection": "unknown"},
]  # fmt: skip


@pytest.mark.parametrize("document", GARBAGE, ids=repr)
def test_a_presence_that_is_none_is_counted_and_makes_no_device(document: object) -> None:
    async def main(bench: Bench) -> None:
        bench.say("a", document)
        assert (len(bench.devices), bench.devices.dropped) == (0, {"malformed": 1})

    run(main)


@pytest.mark.parametrize("document", [None, 1, [], "x", {}, {"frequent": 1}, {"other": {}}], ids=repr)
def test_telemetry_that_is_none_is_counted(document: object) -> None:
    async def main(bench: Bench) -> None:
        bench.devices.telemetry("a", document, 1.0)
        assert bench.devices.dropped == {"malformed": 1}
        assert (await bench.view("a"))["telemetry"] == {"at": None, "frequent": None, "seldom": None}

    run(main)


@pytest.mark.parametrize(
    "name", ["", "a/b", "a+", "#", "$SYS", "a\nb", "a\0", "x" * 129, "\ud800", "\uffff"], ids=ascii
)
def test_what_can_be_no_destination_is_no_device(name: str) -> None:
    async def main(bench: Bench) -> None:
        bench.devices.seen(name, 1.0)
        bench.say(name, ONLINE)
        bench.devices.telemetry(name, {"frequent": {}}, 1.0)
        bench.devices.connection(name, Connection.ONLINE, 1.0)
        assert (len(bench.devices), bench.devices.dropped) == (0, {"destination": 4})

    run(main)


def test_what_is_too_much_is_left_out_and_counted() -> None:
    async def main(bench: Bench) -> None:
        labels: dict[str, Any] = {f"label-{number}": "x" for number in range(MAX_LABELS + 5)}
        facts: dict[str, Any] = {f"fact-{number}": number for number in range(MAX_FACTS + 7)}
        bench.say("a", {**ONLINE, "labels": labels, "facts": facts})
        view = await bench.view("a")
        assert (len(view["labels"]), len(view["facts"])) == (MAX_LABELS, MAX_FACTS)
        assert bench.devices.dropped == {"label": 5, "fact": 7}

        bad_labels = {"": "x", "a=b": "x", "long" * 20: "x", "n": 1, "o": None, "p": "x" * 129, "q": "a\nb", "ok": "x"}
        bad_facts = {"": 1, "a=b": 1, "n": None, "l": [1], "o": {}, "big": 2**63, "long": "x" * 257, "ok": True}
        bench.devices.dropped.clear()
        bench.say("b", {**ONLINE, "labels": bad_labels, "facts": bad_facts})
        view = await bench.view("b")
        assert (view["labels"], view["facts"]) == ({"ok": "x"}, {"ok": True})
        assert bench.devices.dropped == {"label": 7, "fact": 7}

        bench.devices.dropped.clear()
        bench.say("c", {**ONLINE, "labels": ["site=berlin"], "facts": "none", "session": "x" * 500})
        assert ((await bench.view("c"))["labels"], bench.devices.dropped) == ({}, {"label": 1, "fact": 1})

    run(main)


def test_telemetry_is_kept_up_to_a_size_and_its_parts_apart() -> None:
    async def main(bench: Bench) -> None:
        half = {"x": "y" * (MAX_TELEMETRY_BYTES // 2)}
        bench.devices.telemetry("a", {"frequent": half}, 1.0)
        bench.devices.telemetry("a", {"seldom": half}, 2.0)  # both together are too large
        told = (await bench.view("a"))["telemetry"]
        assert (told["frequent"], told["seldom"]) == (half, None)
        assert bench.devices.dropped == {"telemetry": 1}
        bench.devices.telemetry("a", {"frequent": {"x": 1}, "seldom": {"y": 2}}, 3.0)
        told = (await bench.view("a"))["telemetry"]
        assert told == {"at": "1970-01-01T00:00:03.000Z", "frequent": {"x": 1}, "seldom": {"y": 2}}
        bench.devices.telemetry("a", {"frequent": {"x": {1, 2}}}, 4.0)
        assert bench.devices.dropped == {"telemetry": 2}

    run(main)


def test_no_more_devices_are_kept_than_there_is_room_for(caplog: pytest.LogCaptureFixture) -> None:
    async def main(bench: Bench) -> None:
        for number in range(5):
            bench.devices.seen(f"device-{number}", 1.0)
        assert await bench.ids() == ["device-0", "device-1", "device-2"]
        assert bench.devices.dropped == {"full": 2}
        assert len([record for record in caplog.records if "others are not noted" in record.getMessage()]) == 1
        with pytest.raises(Conflict, match="remove some"):
            await bench.devices.update("device-9", {"labels": {}})
        await bench.devices.update("device-0", {"labels": {"a": "b"}})
        await bench.devices.remove("device-0")
        bench.devices.seen("device-4", 1.0)
        assert await bench.ids() == ["device-1", "device-2", "device-4"]

    run(main, limit=3)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=70), inner, max_size=4),
    max_leaves=10,
)
spoken = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("labels", "facts", "session", "frequent", "seldom"), anything)
)


@given(name=st.text(max_size=3), said=spoken, connection=st.sampled_from(["online", "offline", "?"]))
def test_nothing_that_is_said_does_harm(name: str, said: dict[str, Any], connection: str) -> None:
    async def main(bench: Bench) -> None:
        bench.say(name, {**said, "connection": connection})
        bench.devices.telemetry(name, said, 1.0)
        bench.devices.seen(name, 1.0)
        await bench.devices.close()
        for view in await bench.devices.page({}):
            orjson.dumps(view)
            assert await bench.reopened().view(view["id"]) == view

    run(main)


# Labels


async def labels(bench: Bench, given: Any) -> dict[str, str]:
    found: dict[str, str] = (await bench.devices.update("a", {"labels": given}))["labels"]
    return found


def test_labels_of_callers_lie_over_those_of_the_device() -> None:
    async def main(bench: Bench) -> None:
        bench.say("a", {**ONLINE, "labels": {"site": "berlin", "old": "yes"}})
        assert await labels(bench, {"site": "hamburg", "new": "1"}) == {"site": "hamburg", "old": "yes", "new": "1"}
        assert await labels(bench, {"old": None}) == {"site": "hamburg", "new": "1"}
        assert await labels(bench, {}) == {"site": "hamburg", "new": "1"}
        bench.say("a", {**ONLINE, "labels": {"site": "bonn", "old": "again", "own": "x"}})
        assert (await bench.view("a"))["labels"] == {"site": "hamburg", "own": "x", "new": "1"}
        assert await labels(bench, {"site": None, "new": None, "never": None}) == {"own": "x"}
        assert await labels(bench, None) == {"site": "bonn", "old": "again", "own": "x"}

    run(main)


def test_a_device_can_be_given_labels_before_it_was_ever_heard_of() -> None:
    async def main(bench: Bench) -> None:
        view = await bench.devices.update("a", {"labels": {"site": "berlin"}})
        assert (view["labels"], view["connection"]) == ({"site": "berlin"}, "unknown")
        assert (view["firstSeenAt"], view["lastSeenAt"]) == (None, None)
        bench.devices.seen("a", 1000.0)
        view = await bench.view("a")
        assert view["firstSeenAt"] == view["lastSeenAt"] == "1970-01-01T00:16:40.000Z"
        assert view["labels"] == {"site": "berlin"}

    run(main)


def test_a_label_that_is_taken_away_takes_no_room() -> None:
    async def main(bench: Bench) -> None:
        for number in range(3 * MAX_LABELS):
            await labels(bench, {f"label-{number}": "x"})
            assert await labels(bench, {f"label-{number}": None}) == {}
        await labels(bench, {f"label-{number}": "x" for number in range(MAX_LABELS)})
        with pytest.raises(InvalidDocument, match="at most 64 labels"):
            await labels(bench, {"one": "more"})
        assert len(await labels(bench, {"label-0": "changed"})) == MAX_LABELS

    run(main)


BAD_UPDATES: list[Any] = [
    None, [], "x", {}, {"labels": 1}, {"labels": ["a=b"]}, {"labels": {"a": 1}}, {"labels": {"": "x"}},
    {"labels": {"a=b": "x"}}, {"labels": {"a": "x" * 129}}, {"labels": {"a": "x\ny"}}, {"labels": {"n" * 65: "x"}},
    {"labels": {}, "connection": "online"}, {"labels": {f"{number}": "x" for number in range(65)}},
    {"labels": {"a": True}}, {"labels": {"a\0": None}},
]  # fmt: skip


@pytest.mark.parametrize("document", BAD_UPDATES, ids=lambda document: repr(document)[:40])
def test_labels_that_are_none_are_refused_and_make_no_device(document: Any) -> None:
    async def main(bench: Bench) -> None:
        with pytest.raises(InvalidDocument):
            await bench.devices.update("a", document)
        assert await bench.ids() == []

    run(main)


HOSTILE = ["", "a/b", "+", "#", "$x", "\0", "a\nb", "x" * 200, "\ud800", "\ufffd"]


@pytest.mark.parametrize("ident", HOSTILE, ids=ascii)
def test_a_hostile_id_is_none(ident: str) -> None:
    async def main(bench: Bench) -> None:
        with pytest.raises(InvalidDocument) as caught:
            await bench.devices.update(ident, {"labels": {}})
        assert caught.value.faults[0].path == "id"
        for ask in (bench.devices.show, bench.devices.remove):
            with pytest.raises(DeviceNotFound):
                await ask(ident)

    run(main)


# Removal


def test_a_removed_device_is_forgotten_until_it_is_heard_of_again() -> None:
    async def main(bench: Bench) -> None:
        removed: list[str] = []
        bench.devices.on_removed.append(removed.append)
        bench.say("a", BERLIN)
        bench.say("b", ONLINE)
        view = await bench.view("a")
        assert await bench.devices.remove("a") == view
        assert (removed, await bench.ids()) == (["a"], ["b"])
        for ask in (bench.devices.show, bench.devices.remove):
            with pytest.raises(DeviceNotFound):
                await ask("a")
        assert (removed, dict(bench.devices.counts())[Connection.ONLINE]) == (["a"], 1)
        await bench.devices.close()
        assert await bench.reopened().ids() == ["b"]
        bench.devices.seen("a", 1.0)
        assert (await bench.view("a"))["labels"] == {}
        assert await bench.ids() == ["a", "b"]

    run(main)


# Lists


async def fleet(bench: Bench) -> None:
    for number in range(30):
        site = ("berlin", "bonn", "ulm")[number % 3]
        facts = {"version": f"1.{number % 2}", "cores": number % 5, "edge": number % 2 == 0}
        document = {"connection": ("online", "offline")[number % 2], "labels": {"site": site}, "facts": facts}
        bench.say(f"device-{number:02d}", document)
    await bench.devices.update("device-00", {"labels": {"spare": ""}})
    bench.devices.seen("silent", 1.0)


QUERIES: list[tuple[dict[str, Any], int]] = [
    ({}, 31),
    ({"connection": "online"}, 15),
    ({"connection": ["online", "unknown"]}, 16),
    ({"connection": "unknown"}, 1),
    ({"label": "site=berlin"}, 10),
    ({"label": "site"}, 30),
    ({"label": "site="}, 0),
    ({"label": "spare="}, 1),
    ({"label": ["site=berlin", "site=bonn"]}, 0),
    ({"label": ["site=berlin", "spare"]}, 1),
    ({"fact": "version=1.0"}, 15),
    ({"fact": "cores=3"}, 6),
    ({"fact": "edge=true"}, 15),
    ({"fact": ["edge=true", "cores=3", "version"]}, 3),
    ({"fact": "cores=x"}, 0),
    ({"id": "device-03"}, 1),
    ({"id": ["device-0*", "silent"]}, 11),
    ({"id": "*", "label": "site=ulm", "connection": "offline"}, 5),
    ({"unknown": "parameter"}, 31),
]


@pytest.mark.parametrize(("query", "count"), QUERIES, ids=lambda value: str(value)[:60])
def test_filters_have_to_hold_all_of_them(query: dict[str, Any], count: int) -> None:
    async def main(bench: Bench) -> None:
        await fleet(bench)
        found = await bench.ids(**query)
        assert (len(found), found) == (count, sorted(found))
        whole = [name for start in range(0, 40, 7) for name in await bench.ids(**query, limit="7", offset=str(start))]
        assert whole == found

    run(main)


@pytest.mark.parametrize(
    "query",
    [{"connection": "away"}, {"limit": "-1"}, {"limit": "10001"}, {"offset": "x"}, {"id": "*a" * 9},
     {"label": ["x"] * 101}, {"fact": ["x"] * 101}],
    ids=lambda query: str(query)[:40],
)  # fmt: skip
def test_a_bad_filter_is_refused(query: dict[str, Any]) -> None:
    async def main(bench: Bench) -> None:
        with pytest.raises(InvalidDocument) as caught:
            await bench.devices.page(query)
        assert {fault.path for fault in caught.value.faults} == set(query)

    run(main)


def test_devices_are_counted_by_what_they_say() -> None:
    async def main(bench: Bench) -> None:
        await fleet(bench)
        assert await bench.devices.values("version", {"label": "site=berlin"}) == [
            {"value": "1.0", "count": 5, "devices": [f"device-{number:02d}" for number in range(0, 30, 6)]},
            {"value": "1.1", "count": 5, "devices": [f"device-{number:02d}" for number in range(3, 30, 6)]},
        ]
        counted = await bench.devices.values("cores", {})
        assert [(group["value"], group["count"]) for group in counted] == [
            ("0", 6), ("1", 6), ("2", 6), ("3", 6), ("4", 6), (None, 1),
        ]  # fmt: skip
        assert len(await bench.devices.values("cores", {"limit": "2"})) == 2
        assert [group["value"] for group in await bench.devices.values("nothing", {})] == [None]

    run(main)


# What the engine asks


def test_targets_are_found_in_the_order_of_their_names() -> None:
    async def main(bench: Bench) -> None:
        await fleet(bench)
        devices = bench.devices

        def found(**targets: Any) -> list[str]:
            return list(devices.find(Targets(**targets), 0.5))

        assert found() == await bench.ids()
        assert found(labels={"site": ("berlin",)}) == await bench.ids(label="site=berlin")
        assert len(found(labels={"site": ("berlin", "bonn")})) == 20
        assert found(labels={"site": ("berlin",)}, facts={"cores": ("3",), "edge": ("true",)}) == ["device-18"]
        assert len(found(connection=frozenset({Connection.ONLINE}))) == 15
        assert found(connection=frozenset({Connection.UNKNOWN})) == ["silent"]
        assert found(labels={"no": ("body",)}) == found(labels={"no": ("body",)}, sample_percent=10.0) == []
        assert found(labels={"no": ("body",)}, sample_count=3) == []

    run(main)


@pytest.mark.parametrize(
    ("sample", "size"),
    [({"sample_percent": 10.0}, 7), ({"sample_percent": 10.1}, 8), ({"sample_percent": 0.001}, 1),
     ({"sample_percent": 100.0}, 70), ({"sample_count": 5}, 5), ({"sample_count": 500}, 70)],
)  # fmt: skip
def test_a_sample_is_a_choice_by_the_draw_in_their_order(sample: dict[str, Any], size: int) -> None:
    async def main(bench: Bench) -> None:
        for number in range(70):
            bench.devices.seen(f"device-{number:02d}", 1.0)
        first = bench.devices.find(Targets(**sample), 0.25)
        assert len(first) == size
        assert list(first) == sorted(first)
        assert bench.devices.find(Targets(**sample), 0.25) == first
        if 1 < size < 70:
            assert bench.devices.find(Targets(**sample), 0.75) != first

    run(main)


def test_a_list_that_is_walked_does_not_change_by_what_comes() -> None:
    async def main(bench: Bench) -> None:
        for name in ("b", "d", "a"):
            bench.devices.seen(name, 1.0)
        walked = bench.devices.find(Targets(), 0.0)
        order = bench.devices._ordered()
        bench.devices.seen("c", 1.0)
        await bench.devices.remove("a")
        bench.devices.seen("a", 2.0)
        await bench.devices.remove("d")
        assert list(walked) == order == ["a", "b", "d"]
        assert await bench.ids() == ["a", "b", "c"]

    run(main)


def test_only_who_said_so_is_offline() -> None:
    async def main(bench: Bench) -> None:
        bench.say("away", OFFLINE)
        bench.say("here", ONLINE)
        bench.devices.seen("answers", 1.0)
        names = ("away", "here", "answers", "nobody")
        assert [name for name in names if bench.devices.is_offline(name)] == ["away"]

    run(main)


def test_a_hundred_thousand_devices_are_looked_through() -> None:
    devices = Devices(MemoryStore(), lambda: 0.0)
    for number in range(100_000):
        devices.presence(f"device-{number:06d}", {**BERLIN, "labels": {"site": str(number % 100)}}, 1.0)
    targets = Targets(labels={"site": ("7",)}, facts={"version": ("1.2",)}, connection=frozenset({Connection.ONLINE}))
    found = devices.find(targets, 0.0)
    assert (len(found), found[0], found[-1]) == (1000, "device-000007", "device-099907")


# On disk


def test_a_document_holds_all_of_a_device() -> None:
    devices = Devices(MemoryStore(), lambda: 0.0)
    devices.presence("a", {**BERLIN, "session": "s"}, 1.0, "mqtt")
    devices.telemetry("a", {"frequent": {"load": 1.5}, "seldom": {}}, 2.0)
    device = devices._devices["a"]
    device.given = {"site": None, "new": "1"}
    device.relabel()
    document = to_document(device)
    again = from_document(device.number, orjson.loads(orjson.dumps(document)))
    assert to_document(again) == document
    assert (again.labels, again.facts, again.session) == (device.labels, device.facts, "s")
    assert to_document(from_document(5, {"destination": "b", "channel": "pull", "connection": "unknown"})) == {
        "destination": "b", "channel": "pull", "connection": "unknown",
    }  # fmt: skip


def test_all_is_there_after_a_stop() -> None:
    async def main(bench: Bench) -> None:
        await fleet(bench)
        bench.devices.telemetry("device-05", {"frequent": {"load": 1}}, 1234.0)
        bench.devices.seen("device-06", 2345.0)
        before = await bench.devices.page({"limit": "100"})
        await bench.devices.close()
        again = bench.reopened()
        assert await again.devices.page({"limit": "100"}) == before
        assert dict(again.devices.counts()) == dict(bench.devices.counts())
        again.devices.seen("another", 1.0)
        assert again.devices._devices["another"].number == 32

    run(main)


def test_what_callers_change_is_on_disk_when_they_are_answered() -> None:
    async def main(bench: Bench) -> None:
        bench.say("b", BERLIN)
        await bench.devices.update("a", {"labels": {"site": "berlin"}})
        await bench.devices.update("b", {"labels": {"site": None}})
        again = bench.reopened()
        assert [(view["id"], view["labels"]) for view in await again.devices.page({})] == [
            ("a", {"site": "berlin"}), ("b", {}),
        ]  # fmt: skip
        await bench.devices.remove("b")
        assert await bench.reopened().ids() == ["a"]

    run(main)


def test_what_devices_say_is_written_when_there_is_time() -> None:
    async def main(bench: Bench) -> None:
        bench.devices.start()
        for number in range(250):
            bench.say(f"device-{number}", ONLINE)
        assert bench.store.count(TABLE) == 0
        await asyncio.sleep(WRITE_INTERVAL + 1)
        assert len(await bench.reopened().ids(limit="1000")) == 250
        commits = bench.store.commits
        for number in range(250):
            bench.devices.seen(f"device-{number}", 2000.0)
        await asyncio.sleep(WRITE_INTERVAL * 5)
        assert bench.store.commits == commits, "that a device was seen again is not worth a write of its own"
        await asyncio.sleep(SEEN_INTERVAL)
        assert bench.store.commits == commits + 1
        assert (await bench.reopened().view("device-9"))["lastSeenAt"] == "1970-01-01T00:33:20.000Z"
        bench.devices.seen("device-9", 3000.0)
        await bench.devices.close()
        assert (await bench.reopened().view("device-9"))["lastSeenAt"] == "1970-01-01T00:50:00.000Z"

    run_fast(main)


def test_a_store_that_fails_does_no_harm_and_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async def main(bench: Bench) -> None:
        bench.say("a", BERLIN)
        await bench.devices.update("a", {"labels": {"own": "1"}})
        before = await bench.view("a")
        bench.store.failing = "the disk is full"
        for call in (
            bench.devices.update("a", {"labels": {"own": "2"}}),
            bench.devices.update("b", {"labels": {"own": "2"}}),
            bench.devices.remove("a"),
        ):
            with pytest.raises(StoreUnavailable, match="the disk is full"):
                await call
        assert (await bench.view("a"), await bench.ids()) == (before, ["a"]), "nothing has changed"
        bench.devices.start()
        bench.say("c", ONLINE)
        await asyncio.sleep(3 * WRITE_INTERVAL)
        assert bench.devices.unavailable == "the disk is full"
        assert await bench.ids() == ["a", "c"]
        bench.store.failing = None
        await asyncio.sleep(2 * WRITE_INTERVAL)
        assert bench.devices.unavailable == ""
        assert await bench.reopened().ids() == ["a", "c"]
        assert (await bench.reopened().view("a"))["labels"] == {"site": "berlin", "own": "1"}
        told = [record.getMessage() for record in caplog.records if "registry of devices" in record.getMessage()]
        assert len(told) == 2, told
        await bench.devices.close()

    run_fast(main)


class SlowStore(MemoryStore):
    """One whose commits wait until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = asyncio.Event()
        self.release = asyncio.Event()

    async def commit(self) -> None:
        self.entered.set()
        await self.release.wait()
        await super().commit()


def test_a_device_that_appears_while_it_is_given_labels_is_one_device() -> None:
    async def main(bench: Bench) -> None:
        store = SlowStore()
        bench = Bench(store)
        giving = asyncio.create_task(bench.devices.update("a", {"labels": {"site": "berlin"}}))
        await store.entered.wait()
        assert await bench.ids() == [], "it is not on disk yet"
        bench.say("a", {**ONLINE, "labels": {"own": "1"}})
        store.release.set()
        assert (await giving)["labels"] == {"own": "1", "site": "berlin"}
        await bench.devices.close()
        assert store.count(TABLE) == 1
        assert (await bench.reopened().view("a"))["labels"] == {"own": "1", "site": "berlin"}

    run(main)


def test_what_a_device_says_while_it_is_removed_does_not_bring_it_back() -> None:
    async def main(bench: Bench) -> None:
        store = SlowStore()
        bench = Bench(store)
        bench.say("a", ONLINE)
        removing = asyncio.create_task(bench.devices.remove("a"))
        await store.entered.wait()
        bench.say("a", OFFLINE)
        writing_too = asyncio.create_task(bench.devices.close())
        store.release.set()
        assert (await removing)["connection"] == "offline"
        await writing_too
        await bench.devices.close()
        assert (await bench.ids(), store.count(TABLE)) == ([], 0)

    run(main)


def test_a_call_that_is_given_up_changes_nothing() -> None:
    async def main(bench: Bench) -> None:
        store = SlowStore()
        bench = Bench(store)
        giving = asyncio.create_task(bench.devices.update("a", {"labels": {"site": "berlin"}}))
        await store.entered.wait()
        giving.cancel()
        await asyncio.gather(giving, return_exceptions=True)
        store.release.set()
        assert await bench.ids() == []
        await bench.devices.close()
        assert await bench.reopened().ids() == []

    run(main)


def test_a_real_store_keeps_them(tmp_path: Path) -> None:
    async def main(bench: Bench) -> None:
        store = TinyStore.open(tmp_path, name="registry")
        devices = Devices(store, lambda: 5.0)
        devices.load()
        devices.presence("00:11:22", BERLIN, 5.0)
        await devices.update("ü😀", {"labels": {"site": "köln"}})
        await devices.close()
        await store.close()
        store = TinyStore.open(tmp_path, name="registry")
        devices = Devices(store, lambda: 6.0)
        devices.load()
        assert [view["id"] for view in await devices.page({})] == ["00:11:22", "ü😀"]
        await store.close()

    run(main)
