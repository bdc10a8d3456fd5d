"""What is a request to a device, and what its answers become when they don't fit the way back."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puppetmaster import wire
from puppetmaster.agent.inbox import Dropped, MalformedOrder, read_order, write_answer
from puppetmaster.agent.order import Order

GOOD = {"id": 1_000_001, "method": "POST", "resource": "/x", "tunnel": "/remote/a/answer/b", "data": {"y": [1]}}

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def read(**change: Any) -> Order:
    return read_order(json.dumps({**GOOD, **change}).encode())


def test_a_request_is_read_and_what_is_beside_it_is_ignored() -> None:
    order = read(match=1, __init__=2)
    assert order == Order(id=1_000_001, method="post", resource="/x", tunnel="/remote/a/answer/b", data={"y": [1]})
    bare = {name: value for name, value in GOOD.items() if name != "data"}
    assert read_order(json.dumps(bare).encode()).data is None


@pytest.mark.parametrize(
    "change",
    [
        {"id": "1"}, {"id": True}, {"id": None}, {"id": 0}, {"id": -1}, {"id": 1.0}, {"id": 2**53 + 1},
        {"method": 5}, {"method": ""}, {"method": "x" * 17},
        {"resource": None}, {"resource": ""}, {"resource": "x" * 1024},
        {"tunnel": None}, {"tunnel": 5}, {"tunnel": ""}, {"tunnel": "/a/#"}, {"tunnel": "/+"}, {"tunnel": "$SYS"},
        {"tunnel": "/\x00"}, {"tunnel": "/\x7f"}, {"tunnel": "/" * 100}, {"tunnel": "x" * 513},
        {"code": 200}, {"sign": []}, {"data": [[[[]]]] * 3, "code": None},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_request_is_malformed(change: dict[str, Any]) -> None:
    with pytest.raises(MalformedOrder):
        read(**change)


@pytest.mark.parametrize(
    "payload",
    [b"", b"x", b"[]", b"\xff", b"[" * 10_000, b'{"a":' * 10_000, b" " * (wire.MAX_BUS_BYTES + 1)],
    ids=lambda payload: f"{payload[:5]!r}-{len(payload)}",
)
def test_what_is_no_object_is_malformed(payload: bytes) -> None:
    with pytest.raises(MalformedOrder):
        read_order(payload)


@given(st.binary() | st.builds(lambda document: json.dumps(document).encode(), ANY_JSON))
def test_nothing_else_is_ever_raised(payload: bytes) -> None:
    with pytest.raises(MalformedOrder):
        read_order(payload)


@given(st.dictionaries(st.sampled_from(sorted(GOOD)), ANY_JSON))
def test_nothing_else_is_ever_raised_for_what_is_nearly_a_request(change: dict[str, Any]) -> None:
    try:
        order = read(**change)
    except MalformedOrder:
        return
    assert type(order.id) is int and order.method and order.resource and order.tunnel


def test_an_answer_has_what_a_response_has() -> None:
    order = read()
    assert json.loads(write_answer("press-7", order, 200, {"x": 1})) == {
        "id": 1_000_001, "code": 200, "method": "post", "resource": "/x", "sign": ["press-7"], "data": {"x": 1},
    }  # fmt: skip
    assert "data" not in json.loads(write_answer("press-7", order, 200, None))


def test_an_answer_that_would_not_be_taken_becomes_one_that_says_so() -> None:
    order, deep = read(), None
    for _ in range(150):
        deep = [deep]
    for data, code in (("x" * wire.MAX_ANSWER_BYTES, 413), (deep, 502), ("\ud800", 502), (2**70, 502), (object(), 502)):
        answer = json.loads(write_answer("a", order, 200, data))
        assert (answer["id"], answer["code"]) == (order.id, code)
        assert answer["data"]["message"]


def test_floods_of_rubbish_are_logged_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    async def flood() -> int:
        dropped = Dropped()
        for number in range(1000):
            dropped.add(f"bad {number}")
        dropped.close()
        return dropped.count

    with caplog.at_level(logging.WARNING):
        assert asyncio.run(flood()) == 1000
    assert len(caplog.records) == 1
