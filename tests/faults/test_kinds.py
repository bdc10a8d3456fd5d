"""Faults that look at an answer themselves are shown a wrong one."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from tests.faults.kinds import FAULTS
from tests.faults.records import Posted
from tests.faults.workload import Step, Traffic


def site(code: int, text: str = "{}", store: str = "ok") -> Any:
    """An installation whose bundle gives this answer to every POST."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(code, text=text)
        return httpx.Response(200, json={"store": store})

    http = httpx.Client(base_url="http://bundle", transport=httpx.MockTransport(answer))
    return SimpleNamespace(http=http, probes=["a"], stand=SimpleNamespace(bundle=SimpleNamespace(running=True, pid=1)))


@pytest.mark.parametrize(
    ("name", "code", "text", "store", "expected"),
    [
        ("write_fails", 503, "{}", "Input/output error", 0),
        ("write_fails", 503, "{}", "ok", 1),
        ("write_fails", 200, "{}", "Input/output error", 1),
        ("net_refuse", 200, '{"id": 1}', "ok", 0),
        ("net_refuse", 503, '{"message": "the broker is away"}', "ok", 1),
        ("net_refuse", 503, '{"message": "the store can\'t write: EIO"}', "EIO", 0),
    ],
)
def test_a_wrong_answer_is_a_violation(name: str, code: int, text: str, store: str, expected: int) -> None:
    fault: Any = FAULTS[name](random.Random(1))
    fault.try_a_job(site(code, text, store))
    assert len(fault.violations) == expected, fault.violations


def test_an_answer_that_nobody_promises_is_a_violation_though_a_good_one_follows() -> None:
    step = Step(Posted({"name": "r0-0", "key": "k"}), "http", 0.0)
    traffic = Traffic(site(200), [step])
    codes = iter([500, 503, 200])
    traffic._call = lambda *args: (next(codes), 1)  # type: ignore[method-assign, assignment]
    traffic.post(httpx.Client(), step)
    assert step.posted.codes == [500, 503, 200]
    assert traffic.violations == ["r0-0 was answered 500"]
