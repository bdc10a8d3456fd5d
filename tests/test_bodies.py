"""A JSON text from outside is read as it stands, or refused with what is wrong with it."""

from __future__ import annotations

import json
import math
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from puppetmaster import bodies
from puppetmaster.errors import Fault, InvalidDocument, TooLarge
from puppetmaster.wire import MAX_DEPTH


def refused(payload: bytes) -> list[Fault]:
    with pytest.raises(InvalidDocument) as caught:
        bodies.read(payload)
    return list(caught.value.faults)


@pytest.mark.parametrize("payload", [b"", b" ", b"\r\n\t \n"])
def test_no_text_is_no_value(payload: bytes) -> None:
    assert bodies.read(payload) is None


@pytest.mark.parametrize(
    "value",
    [
        None, True, 0, -1.5, 10**400, "", "text", "é☂💥\u2028", "[[[{{{", [], {}, [1, [2, {"a": None}]],
        {"a": {"b": [{"a": 1}, {"a": 1}]}, "b": "\0"},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_value_is_read_as_it_stands(value: Any, ascii_only: bool) -> None:
    assert bodies.read(f" {json.dumps(value, ensure_ascii=ascii_only)}\n".encode()) == value


def test_what_only_pythons_json_has_is_left_to_who_knows_the_field() -> None:
    found = bodies.read(b'[NaN, Infinity, -Infinity, 1e999, "\\ud800"]')
    assert math.isnan(found[0])
    assert found[1:] == [math.inf, -math.inf, math.inf, "\ud800"]


@pytest.mark.parametrize(
    "payload",
    [
        b"{", b"}", b"nothing", b"'a'", b'{"a":1}{"b":2}', b'{"a":1,}', b"[1 2]", b'"', b'"\n"', b'"\\x"', b"01", b"+1",
        b"\xff", b'"\xc3"', b'"\xed\xa0\x80"', b"\xef\xbb\xbf{}", b"{}\0", b"\0\0\0{", b"9" * 5_000, b"[" * 99,
        b"]" * 5_000, b"/* */ {}", b"\x1f\x8b\x08\x00",
    ],
)  # fmt: skip
def test_what_is_no_json_is_refused(payload: bytes) -> None:
    [fault] = refused(payload)
    assert fault.path == ""
    assert fault.message.startswith("the body is not JSON: ")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_another_encoding_is_refused_and_hides_nothing(encoding: str) -> None:
    # U+2241 has the byte of a quotation mark, which makes brackets look like part of a text.
    text = '{"a": "\u2241", "b": %s}' % ("[" * 500 + "]" * 500)
    for value in ('{"a": "b"}', text):
        assert [fault.path for fault in refused(value.encode(encoding))] == [""]


@pytest.mark.parametrize("opening, closing", [(b"[", b"]"), (b'{"a":', b"}")])
def test_a_body_may_nest_as_deep_as_the_bus_can_carry_it(opening: bytes, closing: bytes) -> None:
    # Around it is the message.
    most = MAX_DEPTH - 1
    value = bodies.read(opening * most + b"1" + closing * most)
    for _ in range(most):
        value = value[0] if isinstance(value, list) else value["a"]
    assert value == 1
    for levels in (most + 1, 1_000, 100_000):
        assert refused(opening * levels + b"1" + closing * levels) == [bodies.DEEP]
        assert refused(opening * levels) == [bodies.DEEP]


def test_brackets_beside_each_other_and_in_texts_are_not_deep() -> None:
    assert bodies.read(b"[" + b"[]," * 5_000 + b"{}]") == [[]] * 5_000 + [{}]
    text = "[{" * 5_000 + '"\\'
    assert bodies.read(json.dumps([text, {text: text}]).encode()) == [text, {text: text}]


def test_a_key_that_stands_twice_in_one_object_is_named() -> None:
    told = "the key stands twice in one object"
    assert refused(b'{"a":1,"b":{"c":1,"c":1,"c":2},"a":1}') == [Fault("c", told), Fault("a", told)]
    assert refused(b'[{"\\u0061":1,"a":2}]') == [Fault("a", told)]
    assert bodies.read(b'{"a":{"a":1},"b":[{"a":1},{"a":2}]}') == {"a": {"a": 1}, "b": [{"a": 1}, {"a": 2}]}


def test_of_many_keys_that_stand_twice_some_are_named_in_a_form_that_can_be_sent() -> None:
    pairs = ",".join(f'"{name}":1,"{name}":2' for name in ["\\ud800", "x" * 500, *range(50)])
    faults = refused(b"{%s}" % pairs.encode())
    assert len(faults) == bodies.MAX_DUPLICATES
    assert faults[0].path == "?"
    assert faults[1].path == "x" * 100
    orjson.dumps([fault.path for fault in faults])


@pytest.mark.parametrize("item", [b"1,", b"[],", b"{},", b'"",', b'"[[[[,,,,",'])
def test_a_body_of_too_many_values_is_refused_by_its_commas_and_brackets(item: bytes) -> None:
    weight = sum(map(item.count, (b",", b"[", b"{")))
    fitting = (bodies.MAX_VALUES - 1) // weight
    assert len(bodies.read(b"[" + item * fitting + b"1]")) == fitting + 1
    with pytest.raises(TooLarge) as caught:
        bodies.read(b"[" + item * (fitting + 1) + b"1]")
    assert str(bodies.MAX_VALUES) in str(caught.value)


def test_brackets_without_an_end_are_refused_at_the_first_look() -> None:
    for payload in (b"[" * (bodies.MAX_VALUES + 1), b"{" * 16_000_000):
        with pytest.raises(TooLarge):
            bodies.read(payload)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=10,
)


@given(values, st.booleans())
@settings(max_examples=200, derandomize=True, database=None, deadline=None)
def test_any_value_comes_out_as_it_went_in(value: Any, ascii_only: bool) -> None:
    assert bodies.read(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


payloads = st.binary(max_size=60) | values.map(json.dumps).map(str.encode) | st.text('[]{}",:1\\ ', max_size=40).map(
    str.encode
)


@given(payloads, st.binary(max_size=3), st.integers(0, 60))
@settings(max_examples=300, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_bytes_are_read_or_refused_in_words_that_can_be_sent(payload: bytes, noise: bytes, at: int) -> None:
    try:
        bodies.read(payload[:at] + noise + payload[at:])
    except InvalidDocument as error:
        orjson.dumps([str(error), [(fault.path, fault.message) for fault in error.faults]])
