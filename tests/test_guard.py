"""Nothing from the bus reaches the SDK unchecked."""

from __future__ import annotations

import json
import time
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from puppetmaster.edges import guard
from puppetmaster.edges.guard import BadMessage, NotAMessage
from puppetmaster.errors import InvalidDocument, TooLarge
from puppetmaster.wire import MAX_BUS_BYTES

GOOD: dict[str, Any] = {"id": 7, "method": "get", "resource": "/jobs"}


def raw(**fields: Any) -> bytes:
    return json.dumps({**GOOD, **fields}).encode()


def refused(payload: bytes) -> BadMessage:
    with pytest.raises(BadMessage) as caught:
        guard.check(payload)
    return caught.value


@pytest.mark.parametrize(
    "fields",
    [
        {}, {"data": {"any": ["thing"]}}, {"tunnel": "t"}, {"sign": ["a"], "code": 200, "data": None},
        {"data": "ü😀"}, {"data": {"match": 1, "__class__": "x"}},
    ],
)  # fmt: skip
def test_a_message_is_handed_on_as_it_is(fields: dict[str, Any]) -> None:
    assert guard.check(raw(**fields)) == {**GOOD, **fields}


@pytest.mark.parametrize("name", ["match", "to_json", "param", "query", "__class__", "to_response", "_id", "type"])
def test_a_key_that_would_take_the_place_of_a_method_is_left_out(name: str) -> None:
    assert guard.check(raw(**{name: "poison"})) == GOOD


@pytest.mark.parametrize("name", ["id", "code", "method", "resource", "tunnel", "sign"])
@pytest.mark.parametrize("value", [True, {"a": 1}, float("inf")])
def test_a_field_of_a_wrong_type_is_not_let_through(name: str, value: object) -> None:
    with pytest.raises(NotAMessage):
        guard.check(raw(**{name: value}))


@pytest.mark.parametrize("name", ["code", "tunnel", "sign"])
@pytest.mark.parametrize("value", [None, False])
def test_a_field_that_stands_for_nothing_is_left_out_as_at_the_controller(name: str, value: object) -> None:
    assert guard.check(raw(**{name: value})) == {field: given for field, given in GOOD.items() if field != name}


def test_any_number_is_an_id_as_at_the_controller() -> None:
    assert guard.check(raw(id=5.5))["id"] == 5.5


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"{", b"null", b"[]", b"5", b'"text"', b"\xff\xfe\xfd", b"\0" * 10, b"{}", b'{"id":1}',
        b'{"method":"get"}', b'{"resource":"/"}', b'{"method":5,"resource":"/"}', b'{"method":"get","resource":["/"]}',
        b'{"method":"get","resource":"/","id":"1"}', b'{"method":"get","resource":"/","id":1e999}',
        b'{"method":"get","resource":"/","id":' + b"9" * 5_000 + b"}",
    ],
)  # fmt: skip
def test_what_is_no_message_is_dropped(payload: bytes) -> None:
    with pytest.raises(NotAMessage) as caught:
        guard.check(payload)
    assert str(caught.value)


def test_a_key_that_stands_twice_is_refused_with_its_name() -> None:
    bad = refused(b'{"id":7,"method":"get","resource":"/jobs","data":{"a":1,"b":2,"a":3}}')
    assert {name: bad.envelope[name] for name in GOOD} == GOOD
    assert isinstance(bad.error, InvalidDocument)
    assert [(fault.path, fault.message) for fault in bad.error.faults] == [("a", "the key stands twice in one object")]


def test_many_keys_that_stand_twice_are_named_up_to_a_limit_and_in_a_form_that_can_be_sent() -> None:
    pairs = ",".join(f'"{name}":1,"{name}":2' for name in [*map(str, range(50)), "\\ud800", "x" * 500])
    bad = refused(b'{"id":7,"method":"get","resource":"/jobs","data":{%s}}' % pairs.encode())
    assert isinstance(bad.error, InvalidDocument)
    assert len(bad.error.faults) == 20
    assert all(len(fault.path.encode()) <= 400 for fault in bad.error.faults)


def test_one_key_that_stands_twice_among_very_many_is_found_in_no_time() -> None:
    pairs = b",".join(b'"k%d":0' % number for number in range(16_000))
    payload = b'{"id":7,"method":"get","resource":"/jobs","data":{%s,"k0":1}}' % pairs
    assert len(payload) < MAX_BUS_BYTES
    started = time.process_time()
    refused(payload)
    assert time.process_time() - started < 1.0


def test_a_message_that_is_too_large_is_refused_with_413_and_whom_to_answer() -> None:
    bad = refused(raw(data="x" * MAX_BUS_BYTES))
    assert isinstance(bad.error, TooLarge)
    assert bad.envelope == GOOD
    assert guard.check(raw(data="x" * (MAX_BUS_BYTES - 200)))["id"] == 7


def test_a_message_of_any_size_that_does_not_say_whose_it_is_is_dropped() -> None:
    for payload in (b"x" * MAX_BUS_BYTES, b"x" * (guard.READABLE_BYTES + 1), raw(data="x" * guard.READABLE_BYTES)):
        with pytest.raises(NotAMessage):
            guard.check(payload)


@pytest.mark.parametrize("levels", [101, 5_000, 100_000])
def test_a_message_that_nests_too_deep_is_refused_with_whom_to_answer(levels: int) -> None:
    bad = refused(b'{"id":7,"method":"get","resource":"/jobs","data":%b%b}' % (b"[" * levels, b"]" * levels))
    assert isinstance(bad.error, InvalidDocument)
    assert bad.envelope == GOOD


def test_a_message_that_nests_as_deep_as_may_be_is_let_through() -> None:
    assert guard.check(b'{"id":7,"method":"get","resource":"/jobs","data":%b%b}' % (b"[" * 99, b"]" * 99))["id"] == 7


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_another_encoding_does_not_hide_how_deep_a_message_nests(encoding: str) -> None:
    # U+2241 has the byte of a quotation mark, which makes brackets look like part of a text.
    nested = "[" * 500 + "]" * 500
    text = f'{{"id":7,"method":"get","resource":"/\u2241","data":{nested},"x":"y"}}'
    with pytest.raises((NotAMessage, BadMessage)):
        guard.check(text.encode(encoding))


UNSENDABLE: list[dict[str, Any]] = [
    {"resource": "/jobs/\ud800"}, {"method": "\udfff"}, {"tunnel": "\ud800"}, {"sign": ["\ud800"]}, {"id": 10**30},
    {"id": -(2**64)}, {"code": 2**64}, {"sign": [2**70]},
]  # fmt: skip


@pytest.mark.parametrize("fields", UNSENDABLE, ids=range(len(UNSENDABLE)))
def test_an_envelope_that_no_answer_could_carry_is_not_let_through_and_not_answered(fields: dict[str, Any]) -> None:
    # An answer echoes it, and the failure to write the answer would end the connection of the control plane.
    with pytest.raises(NotAMessage):
        guard.check(raw(**fields))
    twice = raw(**fields)[:-1] + b',"data":{"a":1,"a":2}}'
    with pytest.raises(NotAMessage):
        guard.check(twice)


def test_a_text_that_never_ends_is_looked_at_in_no_time() -> None:
    started = time.process_time()
    with pytest.raises(NotAMessage):
        guard.check(b"[" * 101 + b'"' + b'\\"' * 12_000)
    assert time.process_time() - started < 1.0


characters = st.characters(codec=None)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(characters, max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(characters, max_size=4), inner, max_size=4),
    max_leaves=8,
)
envelopes = st.fixed_dictionaries(
    {"method": st.just("get") | values, "resource": st.just("/jobs") | values},
    optional=dict.fromkeys(("id", "code", "tunnel", "sign", "data", "match", "param"), values),
)
payloads = st.binary(max_size=80) | values.map(json.dumps).map(str.encode) | envelopes.map(json.dumps).map(str.encode)


@given(payloads)
@settings(max_examples=300, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_bytes_are_a_message_or_dropped_or_refused(payload: bytes) -> None:
    try:
        message = guard.check(payload)
    except NotAMessage:
        return
    except BadMessage as bad:
        message = bad.envelope
    assert set(message) <= {"id", "code", "method", "resource", "tunnel", "sign", "data"}
    assert isinstance(message["method"], str)
    assert isinstance(message["resource"], str)
    assert type(message.get("id", 0)) is int
    assert isinstance(message.get("sign", []), list)
    orjson.dumps({name: value for name, value in message.items() if name != "data"})


@given(st.data(), st.binary(min_size=1, max_size=4))
@settings(max_examples=300, derandomize=True, database=None, deadline=None)
def test_a_message_with_some_bytes_changed_is_let_through_dropped_or_refused(data: st.DataObject, noise: bytes) -> None:
    payload = bytearray(raw(data={"a": [1, {"b": "c"}]}, tunnel="t", sign=["s"]))
    at = data.draw(st.integers(0, len(payload) - 1))
    payload[at : at + len(noise)] = noise
    try:
        guard.check(bytes(payload))
    except (NotAMessage, BadMessage):
        return
