"""What the benchmarks measure with: tables, packets, devices, profiles. What they measure is never tested."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import devices, mqtt
from benchmarks.latency import p99
from benchmarks.profiling import OTHER, Frame, read_raw
from benchmarks.results import NOTHING, Results
from puppetmaster.embedded.devices import firmware
from tests.faults import raw

# Results


def results() -> Results:
    made = Results("2 cores")
    made.add("race", "theirs", [10.0, 30.0, 20.0], "/s", baseline=True, note="alone")
    made.add("race", "ours to theirs", [0.7, 0.9, 0.8], form=".2f", target=">= 0.8")
    made.add("wait", "longest", [12.0, 12.0], "ms", target="< 10")
    made.add("wait", "of a quick run", [12.0], "ms", target="< 10")
    made.add("wait", "by the spy", [], "ms", target="< 10", note="it is not installed")
    return made


def test_a_table_shows_median_spread_and_target() -> None:
    assert results().table().splitlines()[2:] == [
        "| *theirs* | 20 /s | 10 to 30 | 3 |  | alone |",
        "| ours to theirs | 0.80 | 0.70 to 0.90 | 3 | >= 0.8: met |  |",
        "| longest | 12 ms | 12 to 12 | 2 | < 10 ms: **missed** |  |",
        "| of a quick run | 12 ms |  | 1 | < 10 ms: not judged, one round |  |",
        f"| by the spy | {NOTHING} |  | 0 | < 10 ms | it is not installed |",
    ]


def test_a_table_of_some_parts_has_no_rows_of_the_others() -> None:
    assert len(results().table("race").splitlines()) == 4
    assert "theirs" not in results().table("wait")
    assert results().parts == ["race", "wait"]


@pytest.mark.parametrize(
    ("target", "value", "is_met"),
    [
        (">= 0.8", 0.8, True), (">= 0.8", 0.79, False),
        ("<= 1.15", 1.15, True), ("<= 1.15", 1.16, False),
        ("< 1,500", 1499, True), ("< 1500", 1500, False),
        ("> 2", 2, False), ("> 2", 3, True),
        ("as fast as it can", 1, None), ("", 1, None),
    ],
)  # fmt: skip
def test_a_target_is_met_by_the_median_alone(target: str, value: float, is_met: bool | None) -> None:
    row = Results().add("part", "what", [value, -1e9, 1e9], target=target)
    assert row.is_met is is_met


def test_all_values_come_back_from_the_file(tmp_path: Path) -> None:
    results().save(tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json") == results()


def test_a_row_is_found_by_its_name_and_there_is_one_of_each() -> None:
    made = results()
    assert made.row("race", "theirs").median == 20.0
    with pytest.raises(LookupError):
        made.row("race", "longest")
    with pytest.raises(ValueError, match="theirs"):
        made.add("race", "theirs", [1.0])


def test_one_in_a_hundred_is_above_the_99th() -> None:
    values = [float(value) for value in range(1, 1001)]
    assert sum(value > p99(values) for value in values) == 10


# Packets


def packets() -> bytes:
    """What a broker sends: one message of each length of the length, an acknowledgement, one at QoS 0, another kind."""
    return b"".join([
        raw.publish("/remote/a", b"x" * 10, qos=1, mid=7),
        raw.packet(0x40, b"\0\1"),
        raw.publish("/remote/b", b"y" * 300, qos=1, mid=65_535),
        raw.packet(0xD0, b""),
        raw.publish("/remote/ü", b"", qos=0),
        raw.publish("/remote/c", b"z" * 20_000, qos=1, mid=1),
    ])


MESSAGES = [
    (b"/remote/a", b"x" * 10), (b"/remote/b", b"y" * 300), ("/remote/ü".encode(), b""), (b"/remote/c", b"z" * 20_000),
]  # fmt: skip


def test_a_chunk_is_taken_apart_in_one_go() -> None:
    messages, acknowledgements, others, taken = mqtt.split(packets())
    assert messages == MESSAGES
    assert acknowledgements == [b"\x40\x02\x00\x07", b"\x40\x02\xff\xff", b"\x40\x02\x00\x01"]
    assert others == [(13, b"")]
    assert taken == len(packets())


def test_a_packet_that_is_not_whole_waits_for_the_rest() -> None:
    data = packets()
    for cut in [*range(400), len(data) - 1]:
        first = mqtt.split(data[:cut])
        second = mqtt.split(data[first[3] :])
        assert first[0] + second[0] == MESSAGES
        assert first[3] + second[3] == len(data)


@pytest.mark.parametrize("size", [0, 100, 116, 117, 16_000, 16_372, 16_373, 100_000])
def test_a_message_is_written_as_others_write_it(size: int) -> None:
    payload = b"x" * size
    assert mqtt.publish(b"/remote/a", payload, 513) == raw.publish("/remote/a", payload, qos=1, mid=513)
    assert mqtt.subscribe(["/a", "/b/+"]) == raw.subscribe(["/a", "/b/+"])
    assert mqtt.connect("me") == raw.connect("me")


# Devices

texts = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ['","tunnel":"', '["0"]', '"}', "\\", '\\"', ',"tunnel":"/x"}', "get"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts | st.just("tunnel"), inner, max_size=3),
    max_leaves=6,
)
names = texts.filter(lambda text: text and "/" not in text) | st.just("device-000001")


def request(name: str, method: str = "post", resource: str = "/echo", **more: Any) -> tuple[bytes, bytes]:
    """The topic and the payload of a request as puppetmaster writes it."""
    document = {"id": 1_000_001, "method": method, "resource": resource, **more,
                "tunnel": f"/remote/{name}/answer/race"}
    return f"/remote/{name}".encode(), orjson.dumps(document)


@given(names, st.sampled_from(["post", "put", "delete"]), texts, values)
def test_a_request_is_answered_with_its_own_data_however_often_it_comes(
    name: str, method: str, resource: str, data: Any
) -> None:
    expected = {"id": 1_000_001, "code": 200, "method": method, "resource": resource, "sign": [name]}
    if data is not None:
        expected["data"] = data
    # At first the shape of the answer is not known, then it is; a parsed request needs no shape.
    sent = request(name, method, resource, **({} if data is None else {"data": data}))
    for _ in range(3):
        topic, payload = devices.answer(*sent)
        assert topic == f"/remote/{name}/answer/race".encode()
        assert orjson.loads(payload) == expected


def test_a_shape_that_is_known_answers_each_device_and_id_for_itself() -> None:
    for name in ("a", "b"):
        topic, payload = devices.answer(*request(name))
        assert topic == f"/remote/{name}/answer/race".encode()
        assert payload == b'{"id":1000001,"code":200,"method":"post","resource":"/echo","sign":["%b"]}' % name.encode()


def test_a_device_that_is_asked_for_its_state_tells_its_own() -> None:
    told = {name: orjson.loads(devices.answer(*request(name, "get"))[1])["data"] for name in map(str, range(20))}
    assert told == {name: {"firmware": firmware(name)} for name in told}
    assert len({data["firmware"] for data in told.values()}) > 1


def test_a_request_in_another_spelling_is_answered_too() -> None:
    payload = b' { "tunnel" : "/t", "resource":"/echo", "method":"post", "data":{"tunnel":"/u"}, "id":5 } '
    topic, answer = devices.answer(b"/remote/a", payload)
    assert topic == b"/t"
    assert orjson.loads(answer) == {
        "id": 5, "code": 200, "method": "post", "resource": "/echo", "sign": ["a"], "data": {"tunnel": "/u"},
    }  # fmt: skip


def test_the_devices_count_what_they_are_asked() -> None:
    fleet, asked = devices.Fleet(), [request("a"), request("b")]
    assert len(fleet.take(asked)) == 2
    assert (fleet.requests, fleet.bytes) == (2, sum(len(payload) for _, payload in asked))


# Profiles

SAMPLES = [
    "thread (1): MainThread;run (/x/puppetmaster/loop.py:2);Bus._pump (/x/puppetmaster/bus.py:9);dumps (/json.py:1) 3",
    "thread (1): MainThread;run (/x/puppetmaster/loop.py:2) 1",
    "thread (2): puppetmaster-store_0;run (/y/threading.py:2) 10",
    "thread (3): puppetmaster-store_0;run (/y/threading.py:2) 5",
]


def test_the_samples_of_a_thread_share_out_its_cpu() -> None:
    parts = read_raw(SAMPLES, {1: 4.0, 2: 5.0, 4: 1.0}).parts()
    assert parts["publish"] == pytest.approx(0.3)  # json was called by the bus
    assert parts["journal"] == pytest.approx(0.5)  # by the name of its thread
    assert parts[OTHER] == pytest.approx(0.2)  # the loop, and the thread without a sample
    assert sum(parts.values()) == pytest.approx(1.0)


def test_the_functions_that_take_the_most_come_first() -> None:
    lines = read_raw(SAMPLES, {1: 4.0, 2: 5.0, 3: 0.0, 4: 1.0}).table(2).splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [["50.0%", "50.0%", "run"], ["30.0%", "30.0%", "dumps"]]


@pytest.mark.parametrize(
    ("name", "path", "part"),
    [
        ("Bus.publish", "puppetmaster/bus.py", "publish"),
        ("Tunnels.send", "puppetmaster/tunnels.py", "publish"),
        ("Codec.read", "puppetmaster/wire.py", "receive"),
        ("Engine.answer", "puppetmaster/engine.py", "engine"),
        ("Service.take", "puppetmaster/service.py", "engine"),
        ("Service._stage", "puppetmaster/service.py", "journal"),
        ("encode", "puppetmaster/store/codec.py", "journal"),
        ("Feeds.tell", "puppetmaster/feeds.py", "events"),
        ("run", "uvicorn/server.py", "call"),
        ("RollCall._ask", "puppetmaster/rollcall.py", OTHER),
        ("Bus.unsubscribe", "puppetmaster/bus.py", OTHER),
        ("SubscriptionsHandlerMixin._remove_subscriptions", "gmqtt/subscription.py", OTHER),
        ("run", "asyncio/events.py", None),
    ],
)
def test_a_function_is_known_by_its_module_and_its_name(name: str, path: str, part: str | None) -> None:
    assert Frame.parse(f"{name} (/somewhere/{path}:12)").part == part
