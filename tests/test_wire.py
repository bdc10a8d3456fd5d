"""Every topic and every JSON shape that travels."""

from __future__ import annotations

import json
import time
import tracemalloc
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puppetmaster import wire
from puppetmaster.models import Job, Message, Request
from puppetmaster.wire import Codec, DeviceTunnel, MalformedAnswer, RemoteBundle

TUNNEL = Codec("me", DeviceTunnel())
REMOTE = Codec("me", RemoteBundle())

texts = st.text(st.characters(codec="utf-8"), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
destinations = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Cn"), exclude_characters="/+#$"),
    min_size=1,
    max_size=20,
)


def request_to(destination: str, data: Any = None, number: int = 0) -> Request:
    messages = (
        Message(method="put", resource="/led", data=data, timeout=5.0),
        Message(method="get", resource="/other", data=None, timeout=5.0),
    )
    job = Job(id=1_000_000, messages=messages, first_request=1_000_001, total_count=1, created_at=0.0)
    return Request(id=1_000_001, job=job, message_number=number, destination=destination)


def answer_on(destination: str, **fields: Any) -> tuple[str, bytes]:
    return wire.answer_topic(destination, "me"), orjson.dumps({"id": 1_000_001, "code": 200, **fields})


# Requests


def test_a_request_goes_to_its_destinations_topic_and_names_where_to_answer() -> None:
    topic, payload = TUNNEL.write(request_to("gw-1", {"on": True}))
    assert topic == "/remote/gw-1"
    assert json.loads(payload) == {
        "id": 1_000_001,
        "method": "put",
        "resource": "/led",
        "data": {"on": True},
        "tunnel": "/remote/gw-1/answer/me",
    }


def test_a_request_without_data_has_no_data() -> None:
    assert "data" not in json.loads(TUNNEL.write(request_to("a"))[1])


def test_a_template_can_reach_a_devices_own_controller() -> None:
    topic, payload = Codec("me", DeviceTunnel("/{destination}/controller")).write(request_to("a"))
    assert topic == "/a/controller"
    assert json.loads(payload)["tunnel"] == "/remote/a/answer/me"


@pytest.mark.parametrize("codec", [TUNNEL, REMOTE])
def test_what_is_for_this_machine_goes_to_the_local_controller_as_it_is(codec: Codec) -> None:
    topic, payload = codec.write(request_to("localhost", 5))
    assert topic == "/controller"
    assert json.loads(payload) == {
        "id": 1_000_001, "method": "put", "resource": "/led", "data": 5, "tunnel": "/remote/localhost/answer/me",
    }  # fmt: skip


def test_through_a_remote_bundle_the_message_travels_in_an_envelope() -> None:
    topic, payload = REMOTE.write(request_to("gw-1", {"on": True}))
    assert topic == "/controller"
    assert json.loads(payload) == {
        "id": 1_000_001,
        "method": "put",
        "resource": "/remote/gw-1",
        "data": {"method": "put", "resource": "/led", "data": {"on": True}},
        "tunnel": "/remote/gw-1/answer/me",
    }


def test_only_what_goes_through_the_controller_is_lost_with_it() -> None:
    assert TUNNEL.through_controller(request_to("localhost", None))
    assert not TUNNEL.through_controller(request_to("gw-1", None))
    assert REMOTE.through_controller(request_to("gw-1", None))


@given(destination=destinations, data=values)
def test_any_request_can_be_read_by_its_device(destination: str, data: Any) -> None:
    for codec in (TUNNEL, REMOTE):
        document = orjson.loads(codec.write(request_to(destination, data))[1])
        inner = document["data"] if codec is REMOTE and destination != "localhost" else document
        assert inner.get("data") == data
        assert document["tunnel"] == wire.answer_topic(destination, "me")
        assert codec.destination_of(document["tunnel"]) == destination


def test_requests_with_different_messages_do_not_get_each_others() -> None:
    codec = Codec("me", DeviceTunnel())
    one, other = request_to("a", 1), request_to("a", 1, number=1)
    for request, resource in [(one, "/led"), (one, "/led"), (other, "/other"), (one, "/led")]:
        assert json.loads(codec.write(request)[1])["resource"] == resource
    local = request_to("localhost", 7)
    assert json.loads(codec.write(local)[1])["data"] == 7


# Answers


def test_an_answer_is_read() -> None:
    topic, payload = answer_on("gw-1", code=200, method="put", resource="/led", sign=["led"], data={"on": 1})
    answer = TUNNEL.read(topic, payload)
    assert (answer.destination, answer.request_id, answer.code, answer.data) == ("gw-1", 1_000_001, 200, {"on": 1})


def test_an_answer_needs_no_more_than_id_and_code() -> None:
    assert TUNNEL.read(*answer_on("a")).data is None


@given(destination=destinations, code=st.integers(100, 999), data=values)
def test_any_answer_comes_through_as_it_was_sent(destination: str, code: int, data: Any) -> None:
    answer = TUNNEL.read(*answer_on(destination, code=code, data=data))
    assert (answer.destination, answer.code, answer.data) == (destination, code, data)


MALFORMED = [
    b"", b" ", b"null", b"[]", b"5", b'"x"', b"{", b"{}", b'{"id":1}', b'{"code":200}', b"\xff\xfe", b"\0",
    b'{"id":"1","code":200}', b'{"id":1.0,"code":200}', b'{"id":true,"code":200}', b'{"id":null,"code":200}',
    b'{"id":1,"code":"200"}', b'{"id":1,"code":200.0}', b'{"id":1,"code":true}', b'{"id":1,"code":null}',
    b'{"id":1,"code":99}', b'{"id":1,"code":1000}', b'{"id":1,"code":-1}', b'{"id":1,"code":1e99}',
    b'{"id":123456789012345678901234567890,"code":200}', b'{"id":1,"code":200,"data":NaN}',
    b'{"id":1,"code":102,"data":{"progress":1e999}}', b'{"id":1,"code":200,"data":"\xed\xa0\x80"}',
    b'{"id":1,"code":200,"data":"\\ud800"}', b'{"id":1,"code":200}{"id":2,"code":200}', b"[" * 100_000,
    b'{"id":1,"code":200,"data":' + b"[" * 101 + b"]" * 101 + b"}",
    b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
]  # fmt: skip


@pytest.mark.parametrize("payload", MALFORMED, ids=range(len(MALFORMED)))
def test_what_is_no_answer_is_malformed_and_says_why(payload: bytes) -> None:
    with pytest.raises(MalformedAnswer) as caught:
        TUNNEL.read(wire.answer_topic("a", "me"), payload)
    assert str(caught.value)


@given(st.binary(max_size=60))
def test_any_bytes_are_an_answer_or_malformed(payload: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        TUNNEL.read("/remote/a/answer/me", payload)


@pytest.mark.parametrize(
    "topic",
    [
        "", "/", "/remote/a", "/remote/a/answer", "/remote/a/answer/you", "/remote/a/answer/me/more", "/remote/a/event",
        "remote/a/answer/me", "/other/a/answer/me", "/remote/a/b/answer/me", "/remote/a/output/1",
    ],
)  # fmt: skip
def test_another_topic_is_no_answer_topic(topic: str) -> None:
    with pytest.raises(MalformedAnswer):
        TUNNEL.read(topic, b'{"id":1,"code":200}')


def test_an_answer_through_a_remote_bundle_has_two_envelopes() -> None:
    inner = {"id": 9, "code": 404, "data": {"message": "no"}}
    answer = REMOTE.read(*answer_on("gw-1", code=200, data=inner))
    assert (answer.code, answer.data) == (404, {"message": "no"})
    assert REMOTE.read(*answer_on("gw-1", data={"code": 200})).data is None


@pytest.mark.parametrize(
    ("code", "data"),
    [(408, None), (404, {"message": "no remote bundle"}), (423, {"code": 200}), (200, None), (200, {"code": "200"}),
     (200, {"code": True}), (200, [1])],
)  # fmt: skip
def test_an_outer_answer_stands_for_itself_when_there_is_none_inside(code: int, data: Any) -> None:
    answer = REMOTE.read(*answer_on("gw-1", code=code, data=data))
    assert (answer.code, answer.data) == (code, data)


@pytest.mark.parametrize("inner", [5, 0, -1, 99, 1_000, 2**63])
def test_a_code_inside_the_envelope_is_checked_like_one_outside(inner: int) -> None:
    with pytest.raises(MalformedAnswer):
        REMOTE.read(*answer_on("gw-1", data={"code": inner}))


def test_an_answer_from_this_machine_has_one_envelope_on_every_channel() -> None:
    assert REMOTE.read(*answer_on("localhost", data={"code": 404})).data == {"code": 404}


# Depth


@pytest.mark.parametrize(
    ("payload", "depth"),
    [
        (b"", 0),
        (b"1", 0),
        (b"[" * 101 + b"]" * 101, 101),
        (b"[]" * 200, 1),
        (b"[" + b"[]," * 200 + b"1]", 2),
        (b'{"a":' * 150 + b"1" + b"}" * 150, 150),
        (b'["' + b"[" * 500 + b'"]', 1),
        (b'["\\"' + b"[" * 500 + b'"]', 1),
        (b'["\\\\",' + b"[" * 120 + b"]" * 121, 121),
        (b'["\\\\\\"' + b"[" * 120 + b'"]', 1),
        (b'["a' + b"[" * 120, 1),
        (b'["a\\"' + b"[" * 120, 1),
        (b'["a' + b"[" * 120 + b"\\", 1),
    ],
)
def test_the_depth_of_a_text_is_told_without_parsing_it(payload: bytes, depth: int) -> None:
    assert wire.depth_of(payload) == depth


@given(values, st.integers(0, 140))
@settings(max_examples=60, deadline=None)
def test_a_text_is_told_to_be_too_deep_exactly_when_it_is(value: Any, more: int) -> None:
    for _ in range(more):
        value = [value]
    assert (wire.depth_of(orjson.dumps(value)) > wire.MAX_DEPTH) == (_depth(value) > wire.MAX_DEPTH)


def test_a_look_at_a_long_text_takes_no_more_memory_than_a_few_copies_of_it() -> None:
    for text in (b"a" * 1_000_000, b"\\n" * 500_000, b'\\"' * 500_000):
        payload = b"[]" * 101 + b'"' + text + b'"'
        tracemalloc.start()
        try:
            wire.depth_of(payload)
            assert tracemalloc.get_traced_memory()[1] < 10 * len(payload)
        finally:
            tracemalloc.stop()


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return 0
    return 1 + max(map(_depth, value), default=0)


@pytest.mark.parametrize("unit", [b'\\"', b'"', b"\\", b'"\\', b"a", b'",'])
def test_the_cost_of_a_look_grows_with_the_length_of_the_text_and_not_with_its_square(unit: bytes) -> None:
    def cost(count: int) -> float:
        payload = b"[" * 101 + b'"' + unit * count
        started = time.process_time()
        wire.depth_of(payload)
        return time.process_time() - started

    # An answer may have 512 KB, and while one is looked at nothing else happens.
    assert min(cost(12_000) for _ in range(2)) < 0.5


# The rest


def test_topics_are_those_of_the_protocol() -> None:
    assert wire.answer_topic("gw", "me") == "/remote/gw/answer/me"
    assert wire.job_topic("me", 7) == "/puppetmaster/me/jobs/7"
    assert wire.presence_topic("me") == "/puppetmaster/me/presence"


def test_an_event_is_one_that_the_controller_carries_on() -> None:
    assert json.loads(wire.event("put", "/jobs/7", {"id": 7})) == {
        "code": 200, "method": "put", "resource": "/jobs/7", "data": {"id": 7},
    }  # fmt: skip
