"""What every route has to refuse: lists by hand, and more of the same kind drawn by hypothesis.

A body is kept as the bytes of its JSON, for some of them are none, and others only Python would write that way.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import orjson
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

NAN, INFINITY = float("nan"), float("inf")
DEEP = 150
"""Levels that the controller still takes, and the bundle does not."""

MAX_SECONDS = 10 * 366 * 86400
MAX_BUS_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Bad:
    """A body that is refused."""

    raw: bytes
    """The JSON."""
    path: str | None = None
    """What one of the faults' paths has to begin with."""
    codes: tuple[int, ...] = (400,)

    def __str__(self) -> str:
        return repr(self.raw if len(self.raw) <= 300 else self.raw[:200] + b" ... " + self.raw[-60:])

    @property
    def is_json(self) -> bool:
        """Whether a strict reader takes it, so that it gets through the controller."""
        try:
            orjson.loads(self.raw)
        except ValueError:
            return False
        return len(self.raw) < MAX_BUS_BYTES - 500


def bad(document: object, path: str | None = None, *codes: int) -> Bad:
    return Bad(json.dumps(document).encode(), path, codes or (400,))


# What is no value of a kind

NO_OBJECT = [None, True, False, 0, 5, -1.5, "", "get", [], [5], [{}]]
NO_PART = [True, False, 0, 5, -1.5, "", "text", [], [5], [{}]]
NO_SECONDS = [
    0,
    -1,
    -0.001,
    1e300,
    10**30,
    MAX_SECONDS + 1,
    True,
    False,
    "5",
    "",
    [],
    [5],
    {},
    NAN,
    INFINITY,
    -INFINITY,
]
NO_COUNT = [0, -1, 1.5, True, False, "5", "", [], [5], {}, 10**30, -(10**30), NAN, INFINITY]
NO_PRIORITY = [-1, 101, 50.5, True, False, "50", "high", [], [5], {}, 10**30, NAN]
NO_NAME = ["", "x" * 129, 5, True, [], ["a"], {}, "a\nb", "a\0b", "\x1f", "\ud800", "a\udfffb"]
NO_TIME = [
    "", "tomorrow", "now", 0, 1700000000, True, [], {}, "2026-13-01T00:00:00Z", "2026-01-32T00:00:00Z",
    "2026-01-31T25:00:00Z", "2026-02-30T00:00:00Z", "99999-01-01T00:00:00Z", "2026-01-31T12:00:00+99:00",
    "2026-01-31T12:00:00Z\0", "\ud800", "-2026-01-31T12:00:00Z",
    # A time that no calendar can say in UTC.
    "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59",
]  # fmt: skip
NO_LABELS = [
    5, "a", True, [""], ["x" * 129], [5], [None], [["a"]], [{}], ["a\nb"], ["\ud800"], ["a"] * 65, {"a": 5},
    {"a": None}, {"a": {"b": "c"}}, {"a": "x" * 129}, {str(number): "x" for number in range(65)},
]  # fmt: skip
NO_METHOD = ["", "patch", "options", "get ", " get", "get\0", 5, True, None, [], ["get"], {}, "\ud800", "gét"]
NO_RESOURCE = [
    "", "x", "system/reboot", 5, True, None, [], ["/x"], {}, "/a\nb", "/a\0", "\0/", "/\ud800", "/" + "x" * 1023,
    "/" + "é" * 512,
]  # fmt: skip
NO_DATA = [
    NAN, INFINITY, [-INFINITY], {"a": {"b": [NAN]}}, "\ud800", {"\udfff": 1}, ["a", "\udead\udead"], 2**64,
    -(2**63) - 1, [10**30], {"a": -(10**40)},
]  # fmt: skip
NO_DESTINATION = [
    "", 5, True, False, 1.5, {}, {"a": 1}, "a/b", "/", "a+b", "+", "#", "a#", "$SYS", "$share", "$", "a\0", "\0",
    "a\nb", "a\tb", "a\r", "\x1b[31m", "\x7f", "\x85", "\x9f", "\ud800", "\udfff", "\ufdd0", "\ufdef", "\ufffe",
    "\uffff", "\U0001ffff", "\U0010fffe", "x" * 129, "x" * 70_000, "é" * 129, "../../etc", "a/../b", "+/#",
]  # fmt: skip
NO_DESTINATIONS = [
    [],
    [[]],
    [5],
    [None],
    [True],
    [""],
    ["good", ""],
    ["good", "$SYS"],
    ["good", "a+b", "good"],
    [["good"]],
    {"0": "a"},
]
NO_RETRY = [
    *NO_PART[:9], {"limit": -1}, {"limit": 1001}, {"limit": "3"}, {"limit": True}, {"limit": 1.5}, {"limit": None},
    {"delay": 0}, {"delay": -1}, {"delay": "1"}, {"delay": NAN}, {"delay": MAX_SECONDS + 1}, {"factor": 0.5},
    {"factor": 101}, {"factor": INFINITY}, {"maxDelay": 0}, {"maxDelay": -5}, {"max_delay": 5}, {"jitter": -0.1},
    {"jitter": 1.1}, {"jitter": "half"}, {"on": []}, {"on": "timeout"}, {"on": 423}, {"on": [99]}, {"on": [1000]},
    {"on": ["never"]}, {"on": ["423"]}, {"on": [True]}, {"on": [None]}, {"on": [423, [503]]}, {"retries": 3},
    {"": 1},
]  # fmt: skip
NO_RATE = [
    *NO_PART, {}, {"perMinute": 0}, {"perMinute": -1}, {"perMinute": 1e7}, {"perMinute": True}, {"perMinute": "60"},
    {"perMinute": None}, {"perMinute": NAN}, {"perMinute": INFINITY}, {"perMinute": 10**400}, {"per_minute": 60},
    {"factor": 2}, {"perMinute": 1, "factor": 0.5}, {"perMinute": 1, "factor": 1001}, {"perMinute": 1, "every": 0},
    {"perMinute": 1, "every": 1.5}, {"perMinute": 1, "max": 0}, {"perMinute": 1, "max": -1},
    {"perMinute": 1, "burst": 2},
]  # fmt: skip
NO_ABORT = [
    *NO_PART, {}, {"errorPercent": 0}, {"errorPercent": 101}, {"errorPercent": -1}, {"errorPercent": True},
    {"errorPercent": "5"}, {"errorPercent": NAN}, {"errorPercent": None}, {"minimum": 5}, {"error_percent": 5},
    {"errorPercent": 5, "minimum": 0}, {"errorPercent": 5, "minimum": 1.5}, {"errorPercent": 5, "maximum": 9},
]  # fmt: skip

LIMITS: dict[str, list[Any]] = {
    "timeout": NO_SECONDS,
    "concurrency": NO_COUNT,
    "priority": NO_PRIORITY,
    "retry": NO_RETRY,
    "rate": NO_RATE,
    "abort": NO_ABORT,
}
JOB_FIELDS = {
    **LIMITS,
    "requestTimeout": NO_SECONDS,
    "startAt": NO_TIME,
    "name": NO_NAME,
    "labels": NO_LABELS,
    "key": NO_NAME,
}
MESSAGE_FIELDS = {"method": NO_METHOD, "resource": NO_RESOURCE, "data": NO_DATA}
UNKNOWN = [
    "requesttimeout", "Timeout", "request_timeout", "start_at", "id", "tunnel", "__proto__", "__class__", "match",
    "", "\ud800", "\0", "x" * 5000, "batch ", "BATCH",
]  # fmt: skip

MESSAGE = {"method": "post", "resource": "/system/reboot"}


def batch_job(item: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"batch": [item], **more}


def item(**changes: Any) -> dict[str, Any]:
    return {**MESSAGE, "__request": {"destination": "dev-0001"}, **changes}


SPELLINGS: list[dict[str, Any]] = [
    {"batch": [item()]},
    {"collection": [{**MESSAGE, "__destination": ["dev-0001", "dev-0002"]}]},
    {"destinations": "dev-0001", "message": MESSAGE},
]
"""Good ones."""


def without(document: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in names}


# POST /jobs


def bad_jobs() -> Iterator[Bad]:
    """Jobs that are refused, by hand."""
    for body in NO_OBJECT:
        yield bad(body, "")
    for name, values in JOB_FIELDS.items():
        for number, value in enumerate(values):
            yield bad({**SPELLINGS[number % 3], name: value}, name)
    for name in UNKNOWN:
        yield bad({**SPELLINGS[0], name: 5})
    yield from _bad_spellings()
    yield from _bad_messages()
    yield from _bad_destinations()
    yield from _odd_json(SPELLINGS[0])
    yield bad({"destinations": [f"d{number:06d}" for number in range(100_001)], "message": MESSAGE}, None, 413)
    yield bad({"batch": [{**MESSAGE, "__destination": ["a"] * 50_001}] * 2}, None, 413)
    yield bad({"batch": [{}] * 5000}, "batch.0")


def _bad_spellings() -> Iterator[Bad]:
    batch, collection, cast = SPELLINGS
    for document in (
        {"jobs": []}, {"": []}, {"timeout": 5}, {"Batch": batch["batch"]}, {**batch, **collection},
        {**batch, **cast}, {**collection, **cast}, {**batch, "message": MESSAGE},
        {**collection, "destinations": "a"}, {**batch, "message": None}, {"destinations": "a"}, {"message": MESSAGE},
        {**batch, "options": {"timeout": 5}}, without(cast, "message"), without(cast, "destinations"),
        {"destination": "a", "message": MESSAGE},
    ):  # fmt: skip
        yield bad(document)
    for value in ([], {}, "x", "", 5, True, None, [None], [5], ["x"], [[]], [{}], {"0": item()}, [item(), None]):
        yield bad({"batch": value}, "batch")
        yield bad({"collection": value}, "collection")
    for value in (None, *NO_PART):
        yield bad({"destinations": "a", "message": value}, "message")
    for value in (*NO_PART, *({"timeout": seconds} for seconds in NO_SECONDS if seconds != MAX_SECONDS + 1)):
        yield bad({**cast, "options": value}, "options")


def _bad_messages() -> Iterator[Bad]:
    for name, values in MESSAGE_FIELDS.items():
        for value in values:
            yield bad(batch_job(item(**{name: value})), f"batch.0.{name}")
            yield bad({"destinations": "a", "message": {**MESSAGE, name: value}}, f"message.{name}")
    yield bad(batch_job(without(item(), "method")), "batch.0.method")
    yield bad(batch_job(without(item(), "resource")), "batch.0.resource")
    yield bad({"batch": [item(), item(method="patch")]}, "batch.1.method")
    for value in NO_PART:
        yield bad(batch_job(item(__request=value)), "batch.0.__request")
    for seconds in NO_SECONDS:
        yield bad(batch_job(item(__request={"destination": "a", "timeout": seconds})), "batch.0.__request.timeout")


def _bad_destinations() -> Iterator[Bad]:
    for value in (*NO_DESTINATION, *NO_DESTINATIONS):
        yield bad(batch_job(item(__request={"destination": value})), "batch.0.__request.destination")
        yield bad(batch_job(item(__request={"__destination": value})), "batch.0.__request.__destination")
        yield bad(batch_job({**MESSAGE, "__destination": value}), "batch.0.__destination")
        yield bad({"collection": [{**MESSAGE, "__destination": value}]}, "collection.0.__destination")
        yield bad({"destinations": value, "message": MESSAGE}, "destinations")
        if not isinstance(value, list):
            yield bad({"destinations": ["good", value], "message": MESSAGE}, "destinations.1")
    for request in ({}, {"destination": None}, {"timeout": 5}, None):
        yield bad(batch_job(item(__request=request)), "batch.0.__request.destination")
    yield bad({"collection": [MESSAGE]}, "collection.0.__destination")
    yield bad({"collection": [{**MESSAGE, "__destination": None}]}, "collection.0.__destination")
    yield bad({"destinations": None, "message": MESSAGE}, "destinations")


def _odd_json(good: dict[str, Any]) -> Iterator[Bad]:
    """The same text, a little wrong: keys that stand twice, too deep, too large."""
    text = json.dumps(good).encode()
    yield Bad(text[:-1] + b',"timeout":5,"timeout":6}', "timeout")
    if b'"method"' in text:
        yield Bad(text.replace(b'"method": ', b'"method": "get", "method": '), "method")
    yield Bad(text[:-1] + b',"junk":{"a":[{"b":1,"b":1}]}}', "b")
    yield Bad(text[:-1] + b',"\\ud800":1,"\\ud800":2}')
    for depth in (DEEP, 900):
        yield Bad(text[:-1] + b',"name":%b}' % (b"[" * depth + b"]" * depth))
        yield Bad(text[:-1] + b',"data":%b1%b}' % (b'{"a":' * depth, b"}" * depth))
    yield bad({**good, "name": "x" * 1_040_000}, "name")
    yield bad({**good, "name": "\0" * 150_000}, "name")


# PUT /jobs/:id


def bad_updates() -> Iterator[Bad]:
    """Changes of a job that are refused, by hand."""
    for body in (*NO_OBJECT, {}):
        yield bad(body, "")
    for name, values in LIMITS.items():
        for value in values:
            yield bad({name: value}, name)
            yield bad({name: value, "status": "canceled"}, name)
    statuses = [
        "", "resolved", "pending", "aborted", "timeout", "created", "error", "PAUSED", "paused ", 5, True, [],
        ["paused"], {}, "\ud800", "x" * 5000,
    ]  # fmt: skip
    for status in statuses:
        yield bad({"status": status}, "status")
    for name in (*UNKNOWN, "name", "labels", "key", "startAt", "requestTimeout", "batch", "requests", "counts"):
        yield bad({"status": "canceled", name: 5})
    yield from _odd_json({"status": "canceled"})


# POST /jobs/:id/rerun


def bad_reruns() -> Iterator[Bad]:
    """Wishes for another run that are refused, by hand; no body at all is none of them."""
    for body in NO_OBJECT:
        if body is not None:
            yield bad(body, "")
    for name, values in {**LIMITS, "startAt": NO_TIME, "name": NO_NAME, "labels": NO_LABELS, "key": NO_NAME}.items():
        for value in values:
            yield bad({name: value}, name)
    for status in (
        "", "failed", "created", "sent", "running", "ERROR", "error ", "error,timeout", 5, True, [], ["error", "sent"],
        [["error"]], [None], {}, "\ud800", "x" * 5000,
    ):  # fmt: skip
        yield bad({"status": status}, "status")
    for value in (0, 1, "true", "", [], {}):
        yield bad({"dryRun": value}, "dryRun")
    for name in (*UNKNOWN, "requestTimeout", "batch", "collection", "destinations", "message", "requests", "options"):
        yield bad({"status": "error", name: 5})
    yield from _odd_json({"status": "error"})


# POST /requests


def bad_requests() -> Iterator[Bad]:
    """Single requests that are refused, by hand."""
    good = {"destination": "dev-0001", "message": MESSAGE}
    for body in (*NO_OBJECT, {}, {"destination": "a"}, SPELLINGS[0], SPELLINGS[1], SPELLINGS[2]):
        yield bad(body)
    for value in (*NO_DESTINATION, None, *NO_DESTINATIONS):
        yield bad({**good, "destination": value}, "destination")
    for value in (None, *NO_PART, {}):
        yield bad({**good, "message": value}, "message")
    for name, values in MESSAGE_FIELDS.items():
        for value in values:
            yield bad({**good, "message": {**MESSAGE, name: value}}, f"message.{name}")
    for value in (*NO_PART, *({"timeout": seconds} for seconds in NO_SECONDS if seconds != MAX_SECONDS + 1)):
        yield bad({**good, "options": value}, "options")
    for name in (*UNKNOWN, "timeout", "priority", "retry", "name", "key", "requestTimeout"):
        yield bad({**good, name: 5})
    yield from _odd_json(good)


# Queries and ids

NO_LIMIT = [
    "-1", "10001", "99999999999999999999999", "abc", "1.5", "1e2", "0x10", "", "%00", "%D9%A3", "%F0%9F%92%A5",
    "true", "NaN", "1,2", "--1", "1%202", "%ff", "null", "[]",
]  # fmt: skip
NO_STATUS = [
    "nope",
    "",
    "RESOLVED",
    "Resolved",
    "resolved,error",
    "5",
    "%00",
    "*",
    "resolved%20",
    "%F0%9F%92%A5",
    "None",
]
NO_SINCE = [
    "yesterday",
    "",
    "%00",
    "2026-13-01",
    "2026-01-32T00:00:00Z",
    "1",
    "NaN",
    "2026-01-31T25:00:00Z",
    "99999-01-01",
    "[]",
]


def _page_queries() -> Iterator[str]:
    for name in ("limit", "offset"):
        for value in NO_LIMIT:
            if (name, value) != ("offset", "10001"):
                yield f"{name}={value}"
        yield f"{name}=1&{name}=2"


def bad_jobs_queries() -> Iterator[str]:
    """Queries of GET /jobs that are refused."""
    yield from _page_queries()
    for status in (*NO_STATUS, "created", "sent", "running", "error"):
        yield f"status={status}"
        yield f"status=resolved&status={status}"
    yield from (f"since={since}" for since in NO_SINCE)
    yield "since=2026-01-01&since=2026-01-02"


def bad_job_queries() -> Iterator[str]:
    """Queries of GET /jobs/:id that are refused."""
    yield from _page_queries()
    for status in (*NO_STATUS, "pending", "dispatching", "paused", "aborted"):
        yield f"status={status}"
        yield f"status=resolved&status={status}"
    yield from (f"collection={value}" for value in ("maybe", "", "2", "%00", "None", "truefalse", "[]"))
    yield "collection=true&collection=false"


def bad_answers_queries() -> Iterator[str]:
    """Queries of GET /jobs/:id/answers that are refused."""
    yield from (query for query in _page_queries() if query.startswith("limit"))
    for status in (*NO_STATUS, "created", "sent", "running", "pending", "dispatching", "paused", "aborted"):
        yield f"status={status}"
        yield f"status=error&status={status}"


def bad_requests_queries() -> Iterator[str]:
    """Queries of GET /requests that are refused."""
    yield from _page_queries()
    for status in (*NO_STATUS, "pending", "dispatching", "paused", "aborted"):
        yield f"status={status}"
        yield f"status=resolved&status={status}"
    yield from (f"job={value}" for value in ("abc", "", "1.5", "1e6", "%00", "null", "0x10", "1,2", "%D9%A3"))
    yield "job=1&job=2"


def bad_ids() -> Iterator[str]:
    """Ids that name nothing, as they stand in a resource: answered 404."""
    yield from (
        "0", "1", "-1", "999999999999999999", "9" * 19, "9" * 400, "9" * 900, "18446744073709551616", "1.5", "1e6",
        "+1000000", "0x10", "1_000_000", "abc", "ABC", "null", "true", "NaN", "Infinity", "None", "_", "-", "--",
        "*", "+", "#", "$SYS", "{id}", ":id", "id", "%31", "%00", "%2e%2e", "..", ".", "1000000,1000001", "1000000;",
        "1000000.0", "1000000 1", " 5", "5 ", "\u0661\u0662", "\u00b2", "\uff11", "\U0001f4a5", "\x001", "1\n2",
        "1\t2", "\x7f", "a" * 900, "é" * 400, "__class__", "match", "'; DROP TABLE jobs; --", "<script>", "[1]",
        "(1)", "1|2", "\\", '"', "'", "`", "~", "!", "@", "&", "=", "^", "%", "%%%",
    )  # fmt: skip


# The same kinds, drawn

_TEXT = st.text(max_size=12)
_SURROGATE = st.characters(categories=["Cs"])
_CONTROL = st.characters(max_codepoint=0x1F)


def _around(spoiler: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """A text with something in it that spoils it."""
    return st.builds(lambda before, spoiled, after: before + spoiled + after, _TEXT, spoiler, _TEXT)


_NO_NUMBER = st.one_of(
    _TEXT, st.booleans(), st.lists(st.integers(), max_size=2), st.dictionaries(_TEXT, st.integers(), max_size=2)
)
_NO_TEXT = st.one_of(st.booleans(), st.integers(), st.floats(), st.dictionaries(_TEXT, _TEXT, max_size=2))
_SECONDS = st.one_of(
    _NO_NUMBER, st.integers(max_value=0), st.floats(max_value=0), st.integers(min_value=MAX_SECONDS + 1),
    st.just(NAN), st.floats(min_value=MAX_SECONDS * 1000.0, exclude_min=True),
)  # fmt: skip
_COUNT = st.one_of(
    _NO_NUMBER,
    st.integers(max_value=0),
    st.integers(min_value=1_000_000_001),
    st.floats().filter(lambda x: x != x or x % 1),
)
_PRIORITY = st.one_of(_NO_NUMBER, st.integers(max_value=-1), st.integers(min_value=101))
_NAME = st.one_of(_NO_TEXT, _around(_CONTROL), _around(_SURROGATE), st.text(min_size=129, max_size=140))
_TIME = st.one_of(_NO_TEXT, st.text(alphabet=st.characters(exclude_categories=["Nd", "Cs"]), max_size=30))
_LABELS = st.one_of(_NO_TEXT.filter(lambda x: x != {} and not _is_labels(x)), st.lists(_NAME, min_size=1, max_size=3))
_UNKNOWN_FIELD = st.dictionaries(
    st.text(min_size=1).map(lambda name: name + "?"), st.integers(), min_size=1, max_size=2
)
_PART = st.one_of(_TEXT, st.booleans(), st.integers(), st.lists(st.integers(), max_size=2), _UNKNOWN_FIELD)
_METHOD = st.one_of(_NO_TEXT, _TEXT.filter(lambda text: text.lower() not in ("get", "post", "put", "delete")))
_RESOURCE = st.one_of(
    _NO_TEXT, _TEXT.filter(lambda text: not text.startswith("/")), _around(_CONTROL | _SURROGATE).map("/".__add__),
    st.text(min_size=1023, max_size=1100).map("/".__add__),
)  # fmt: skip
_DATA = st.recursive(
    st.one_of(
        st.just(NAN),
        st.just(INFINITY),
        st.integers(min_value=2**64),
        st.integers(max_value=-(2**63) - 1),
        _around(_SURROGATE),
    ),
    lambda inner: st.lists(inner, min_size=1, max_size=2) | st.dictionaries(_TEXT, inner, min_size=1, max_size=2),
    max_leaves=4,
)
_POISON = (
    st.sampled_from("/+#")
    | _CONTROL
    | _SURROGATE
    | st.characters(min_codepoint=0x7F, max_codepoint=0x9F)
    | st.sampled_from("\ufffe\uffff\ufdd0")
)
_DESTINATION = st.one_of(
    _NO_TEXT, _around(_POISON), _TEXT.map("$".__add__), st.text(min_size=129, max_size=200), st.just("")
)
_DESTINATIONS = st.one_of(
    _DESTINATION, st.just([]),
    st.builds(lambda good, poison: [*good, poison, *good], st.lists(st.just("good"), max_size=3), _DESTINATION),
)  # fmt: skip

_DRAWN_LIMITS = {
    "timeout": _SECONDS, "concurrency": _COUNT, "priority": _PRIORITY, "retry": _PART, "rate": _PART, "abort": _PART,
}  # fmt: skip
_DRAWN_JOB = {
    **_DRAWN_LIMITS, "requestTimeout": _SECONDS, "startAt": _TIME, "name": _NAME, "labels": _LABELS, "key": _NAME,
}  # fmt: skip
_DRAWN_MESSAGE = {"method": _METHOD, "resource": _RESOURCE, "data": _DATA}


def _is_labels(value: object) -> bool:
    return isinstance(value, dict) and all(1 <= len(f"{name}={text}") <= 128 for name, text in value.items())


def _fields(table: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[tuple[str, Any]]:
    return st.one_of(*(st.tuples(st.just(name), values) for name, values in table.items()))


def _job_with(field: tuple[str, Any], spelling: int) -> Bad:
    return bad({**SPELLINGS[spelling], field[0]: field[1]}, field[0])


def _job_with_message(field: tuple[str, Any], spelling: int) -> Bad:
    message = {**MESSAGE, field[0]: field[1]}
    return [
        bad({"batch": [{**message, "__request": {"destination": "a"}}]}, f"batch.0.{field[0]}"),
        bad({"collection": [{**message, "__destination": "a"}]}, f"collection.0.{field[0]}"),
        bad({"destinations": ["a"], "message": message}, f"message.{field[0]}"),
    ][spelling]


def _job_to(destinations: Any, spelling: int) -> Bad:
    return [
        bad({"batch": [item(__request={"destination": destinations})]}, "batch.0.__request.destination"),
        bad({"collection": [{**MESSAGE, "__destination": destinations}]}, "collection.0.__destination"),
        bad({"destinations": destinations, "message": MESSAGE}, "destinations"),
    ][spelling]


_SPELLING = st.integers(0, 2)
DRAWN_JOB = st.one_of(
    st.builds(_job_with, _fields(_DRAWN_JOB), _SPELLING),
    st.builds(_job_with_message, _fields(_DRAWN_MESSAGE), _SPELLING),
    st.builds(_job_to, _DESTINATIONS, _SPELLING),
    st.builds(lambda extra, spelling: bad({**SPELLINGS[spelling], **extra}), _UNKNOWN_FIELD, _SPELLING),
)
_DRAWN_STATUS = st.one_of(
    _NO_TEXT, _TEXT.filter(lambda text: text not in ("resolved", "error", "timeout", "canceled"))
)
DRAWN_UPDATE = st.one_of(
    st.builds(lambda field: bad(dict([field]), field[0]), _fields(_DRAWN_LIMITS)),
    st.builds(lambda field: bad({"status": "canceled", field[0]: field[1]}, field[0]), _fields(_DRAWN_LIMITS)),
    st.builds(
        lambda status: bad({"status": status}, "status"),
        st.one_of(_NO_TEXT, _TEXT.filter(lambda text: text not in ("paused", "dispatching", "canceled"))),
    ),
    st.builds(bad, _UNKNOWN_FIELD),
)
DRAWN_RERUN = st.one_of(
    st.builds(lambda field: bad(dict([field]), field[0]), _fields({**_DRAWN_JOB, "status": _DRAWN_STATUS})),
    st.builds(bad, _UNKNOWN_FIELD),
)
DRAWN_REQUEST = st.one_of(
    st.builds(lambda to: bad({"destination": to, "message": MESSAGE}, "destination"), _DESTINATION),
    st.builds(
        lambda field: bad({"message": {**MESSAGE, field[0]: field[1]}}, f"message.{field[0]}"), _fields(_DRAWN_MESSAGE)
    ),
    st.builds(lambda extra: bad({"message": MESSAGE, **extra}), _UNKNOWN_FIELD),
    st.builds(
        lambda timeout: bad({"message": MESSAGE, "options": {"timeout": timeout}}, "options"),
        st.one_of(_NO_NUMBER, st.integers(max_value=0), st.floats(max_value=0), st.just(NAN)),
    ),
)

_WORD = st.text(alphabet=st.characters(exclude_categories=["Nd", "No", "Nl", "Cs"]), max_size=10).map(
    lambda text: quote(text, safe="")
)
_NO_STATUS_WORD = _WORD.filter(lambda word: not word.isalpha() or len(word) < 4)


def _query(*names: str, words: st.SearchStrategy[str] = _WORD) -> st.SearchStrategy[str]:
    return st.builds(lambda name, word: f"{name}={word}", st.sampled_from(names), words)


_PAGE_QUERY = st.one_of(
    _query("limit", "offset"),
    st.builds("limit={}".format, st.integers(max_value=-1) | st.integers(min_value=10_001)),
    st.builds("offset={}".format, st.integers(max_value=-1) | st.integers(min_value=2**53 + 1)),
    _query("status", words=_NO_STATUS_WORD),
)
DRAWN_JOBS_QUERY = _PAGE_QUERY | _query("since")
DRAWN_JOB_QUERY = _PAGE_QUERY | _query("collection", words=_WORD.filter(lambda word: not word.isalpha()))
DRAWN_ANSWERS_QUERY = st.one_of(
    _query("limit"),
    st.builds("limit={}".format, st.integers(max_value=-1) | st.integers(min_value=10_001)),
    _query("status", words=_NO_STATUS_WORD),
)
DRAWN_REQUESTS_QUERY = _PAGE_QUERY | _query("job")
DRAWN_ID = st.one_of(
    st.integers(max_value=-1).map(str),
    st.integers(min_value=10**12).map(str),
    st.text(
        alphabet=st.characters(exclude_categories=["Nd", "Cs"], exclude_characters="/?"), min_size=1, max_size=40
    ).filter(lambda text: text.strip(" \t\n\r/")),
    st.text(alphabet="0123456789.,-_+e", min_size=1, max_size=20).filter(lambda text: not text.isdigit()),
)


def drawn(strategy: st.SearchStrategy[Any], count: int) -> list[Any]:
    """``count`` different examples, the same in every run."""
    found: dict[Any, None] = {}

    @settings(
        max_examples=3 * count, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def gather(example: Any) -> None:
        found[example] = None

    gather()
    assert len(found) >= count, f"only {len(found)} of {count} examples"
    return list(found)[-count:]


def no_constants(bodies: Iterable[Bad]) -> list[Bad]:
    """Those that get through a controller."""
    return [body for body in bodies if body.is_json]
