"""The job document: three spellings of one thing, and a path to every fault."""

from __future__ import annotations

import copy
import json
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from puppetmaster.errors import InvalidDocument, TooLarge
from puppetmaster.job_document import JobReader
from puppetmaster.models import JobSpec, Limits, Message
from puppetmaster.policies import TRANSIENT_CODES, AbortThreshold, Rate, RetryPolicy
from puppetmaster.states import RequestStatus
from puppetmaster.times import to_text

MESSAGE: dict[str, Any] = {"method": "put", "resource": "/network/ethernets/1", "data": {"enable": 1}}
BROADCAST: dict[str, Any] = {"destinations": ["a", "b"], "message": MESSAGE}

reader = JobReader(request_timeout=3600.0, max_requests=1_000)


def batch(*items: object, **more: object) -> dict[str, Any]:
    return {"batch": [{**MESSAGE, **item} if isinstance(item, dict) else item for item in items], **more}


def where(spec: JobSpec) -> list[tuple[str, Message]]:
    """Every request that comes of it, in order."""
    return [(destination, spec.messages[number]) for number, places in spec.batch for destination in places]


def faults(document: object, read: Any = reader.job) -> dict[str, str]:
    with pytest.raises(InvalidDocument) as caught:
        read(document)
    found = {fault.path: fault.message for fault in caught.value.faults}
    assert caught.value.code == 400
    assert all(found.values())
    json.dumps(found).encode()
    return found


# Spellings

SPELLINGS: dict[str, dict[str, Any]] = {
    "batch, __request.destination": batch({"__request": {"destination": ["a", "b"]}}),
    "batch, __request.__destination": batch({"__request": {"__destination": ["a", "b"]}}),
    "batch, __destination": batch({"__destination": ["a", "b"]}),
    "collection": {"collection": [{**MESSAGE, "__destination": ["a", "b"]}]},
    "collection, a whole Sanji message": {
        "collection": [{**MESSAGE, "__destination": ["a", "b"], "id": 5, "tunnel": "t", "__task": {"x": 1}}]
    },
    "broadcast": BROADCAST,
    "broadcast, a method in capitals": {"destinations": ["a", "b"], "message": {**MESSAGE, "method": "PUT"}},
}


@pytest.mark.parametrize("document", SPELLINGS.values(), ids=SPELLINGS)
def test_all_spellings_come_to_the_same_job(document: dict[str, Any]) -> None:
    expected = Message(method="put", resource="/network/ethernets/1", data={"enable": 1}, timeout=3600.0)
    before = copy.deepcopy(document)
    spec = reader.job(document)
    assert where(spec) == [("a", expected), ("b", expected)]
    assert spec == reader.job(BROADCAST)
    assert spec.total == 2
    assert document == before


def test_a_batch_of_different_messages_is_expanded_in_its_order() -> None:
    shown = {
        "batch": [
            {"method": "put", "resource": "/network/cellulars/1", "data": {"enable": 1},
             "__request": {"destination": "AA:BB:CC:DD:EE:01"}},
            {"method": "post", "resource": "/system/reboot",
             "__request": {"destination": ["AA:BB:CC:DD:EE:01", "AA:BB:CC:DD:EE:02"]}},
        ]
    }  # fmt: skip
    assert [(destination, message.resource) for destination, message in where(reader.job(shown))] == [
        ("AA:BB:CC:DD:EE:01", "/network/cellulars/1"),
        ("AA:BB:CC:DD:EE:01", "/system/reboot"),
        ("AA:BB:CC:DD:EE:02", "/system/reboot"),
    ]


def test_one_destination_may_be_written_without_a_list() -> None:
    assert where(reader.job({"destinations": "a", "message": MESSAGE})) == where(
        reader.job({"destinations": ["a"], "message": MESSAGE})
    )
    assert where(reader.job(batch({"__request": {"destination": "a"}})))[0][0] == "a"


def test_the_order_of_the_batch_and_repeated_destinations_are_kept() -> None:
    document = {
        "batch": [
            {"method": "get", "resource": "/1", "__request": {"destination": ["a", "b", "a"]}},
            {"method": "get", "resource": "/2", "__request": {"destination": "a"}},
            {"method": "get", "resource": "/1", "__request": {"destination": "c"}},
        ]
    }
    spec = reader.job(document)
    assert [(destination, message.resource) for destination, message in where(spec)] == [
        ("a", "/1"), ("b", "/1"), ("a", "/1"), ("a", "/2"), ("c", "/1"),
    ]  # fmt: skip
    assert len(spec.messages) == 2  # equal messages are kept once


def test_messages_that_differ_in_anything_are_kept_apart() -> None:
    document = {
        "batch": [
            {"method": "get", "resource": "/1", "__request": {"destination": "a"}},
            {"method": "put", "resource": "/1", "__request": {"destination": "a"}},
            {"method": "get", "resource": "/1", "data": None, "__request": {"destination": "a"}},
            {"method": "get", "resource": "/1", "data": 0, "__request": {"destination": "a"}},
            {"method": "get", "resource": "/1", "data": False, "__request": {"destination": "a"}},
            {"method": "get", "resource": "/1", "__request": {"destination": "a", "timeout": 5}},
        ]
    }
    assert len(reader.job(document).messages) == 5


@pytest.mark.parametrize("data", [None, 0, False, "", [], {}, [1, [2, {"a": None}]], "ü😀", 1.5, 2**63])
def test_data_of_any_kind_is_carried_unchanged(data: object) -> None:
    spec = reader.job({"destinations": "a", "message": {"method": "get", "resource": "/", "data": data}})
    assert spec.messages[0].data == data


# Timeouts


def test_a_request_gets_its_own_timeout_or_the_jobs_or_the_default() -> None:
    document = batch({"__request": {"destination": "a", "timeout": 5}}, {"__destination": "b"})
    assert [message.timeout for _, message in where(reader.job(document))] == [5.0, 3600.0]
    assert [message.timeout for _, message in where(reader.job({**document, "requestTimeout": 7.5}))] == [5.0, 7.5]


def test_the_timeout_of_the_predecessors_options_is_in_milliseconds() -> None:
    document = {**BROADCAST, "options": {"timeout": 2_500, "anything": "else"}}
    assert where(reader.job(document))[0][1].timeout == 2.5
    assert where(reader.job({**document, "requestTimeout": 9}))[0][1].timeout == 9.0
    assert reader.job(document).limits.timeout is None


def test_the_timeout_of_the_job_is_in_seconds() -> None:
    assert reader.job({**BROADCAST, "timeout": 90}).limits.timeout == 90.0


@pytest.mark.parametrize("bad", [0, -1, "5", True, [], 1e300, float("nan"), float("inf"), 10**400])
@pytest.mark.parametrize("field", ["timeout", "requestTimeout"])
def test_a_timeout_is_a_number_of_seconds_over_0(field: str, bad: object) -> None:
    assert list(faults({**BROADCAST, field: bad})) == [field]


# What stands beside the messages


def test_what_is_not_given_has_its_default() -> None:
    spec = reader.job(BROADCAST)
    assert (spec.limits, spec.start_at, spec.name, spec.labels, spec.key) == (Limits(), None, None, (), None)


def test_everything_that_can_be_given_is_read() -> None:
    spec = reader.job(
        {
            **BROADCAST,
            "timeout": 60,
            "concurrency": 5,
            "retry": {"limit": 2, "delay": 3, "factor": 1.5, "maxDelay": 30, "jitter": 0, "on": [503, "timeout"]},
            "rate": {"perMinute": 30, "factor": 2, "every": 10, "max": 600},
            "abort": {"errorPercent": 12.5, "minimum": 8},
            "priority": 99,
            "startAt": "2026-01-31T12:00:00.250Z",
            "name": "Reboot Berlin",
            "labels": ["site=berlin", "nightly"],
            "key": "order-7",
        }
    )
    assert spec.limits == Limits(
        timeout=60.0,
        concurrency=5,
        retry=RetryPolicy(
            limit=2, delay=3.0, factor=1.5, max_delay=30.0, jitter=0.0, on=frozenset({503, "timeout"})
        ),
        rate=Rate(per_minute=30.0, factor=2.0, every=10, maximum=600.0),
        abort=AbortThreshold(error_percent=12.5, minimum=8),
        priority=99,
    )
    assert to_text(spec.start_at) == "2026-01-31T12:00:00.250Z"
    assert (spec.name, spec.labels, spec.key) == ("Reboot Berlin", ("site=berlin", "nightly"), "order-7")


def test_whoever_asks_for_retries_asks_for_those_of_silence_too() -> None:
    assert "timeout" not in reader.job(BROADCAST).limits.retry.on
    assert "timeout" in reader.job({**BROADCAST, "retry": {}}).limits.retry.on


def test_transient_codes_are_among_what_is_tried_again_by_default() -> None:
    assert reader.job(BROADCAST).limits.retry.on == TRANSIENT_CODES - {408}


def test_a_whole_number_may_be_written_with_a_point() -> None:
    spec = reader.job({**BROADCAST, "concurrency": 2.0, "priority": 9.0, "retry": {"limit": 1.0, "on": [503.0]}})
    assert orjson.dumps(spec.limits.retry.limit) == b"1"
    assert (spec.limits.concurrency, spec.limits.priority, spec.limits.retry.on) == (2, 9, frozenset({503}))


def test_labels_may_be_written_as_an_object() -> None:
    assert reader.job({**BROADCAST, "labels": {"site": "berlin"}}).labels == ("site=berlin",)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00.000Z"),
        ("2026-01-31T12:00:00z", "2026-01-31T12:00:00.000Z"),
        ("2026-01-31T12:00:00", "2026-01-31T12:00:00.000Z"),
        ("2026-01-31T12:00:00+02:00", "2026-01-31T10:00:00.000Z"),
        ("2026-01-31T12:00:00.500-01:00", "2026-01-31T13:00:00.500Z"),
        ("2026-01-31", "2026-01-31T00:00:00.000Z"),
    ],
)
def test_a_start_time_is_an_iso_time_and_utc_without_an_offset(text: str, read: str) -> None:
    assert to_text(reader.job({**BROADCAST, "startAt": text}).start_at) == read


@pytest.mark.parametrize(
    "text", ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59.999900Z"]
)
def test_a_start_time_that_utc_can_not_say_is_a_fault(text: str) -> None:
    # It would be stored, and from then on no list of jobs could be shown.
    assert list(faults({**BROADCAST, "startAt": text})) == ["startAt"]


# Faults

DEEP: Any = []
for _ in range(150):
    DEEP = [DEEP]

FAULTS: list[tuple[Any, str]] = [
    (None, ""),
    ([], ""),
    ("text", ""),
    (5, ""),
    ({}, ""),
    ({"name": "nothing to do"}, ""),
    ({**BROADCAST, "batch": []}, "batch"),
    ({"batch": [], "collection": []}, "batch"),
    ({"batch": []}, "batch"),
    ({"batch": {}}, "batch"),
    ({"batch": "x"}, "batch"),
    ({"collection": []}, "collection"),
    (batch(5), "batch.0"),
    (batch(None), "batch.0"),
    (batch({}), "batch.0.__request.destination"),
    (batch({"__request": {}}), "batch.0.__request.destination"),
    (batch({"__request": {"destination": None}}), "batch.0.__request.destination"),
    ({"collection": [MESSAGE]}, "collection.0.__destination"),
    (batch({"__destination": "a"}, {}), "batch.1.__request.destination"),
    (batch({"__request": 5}), "batch.0.__request"),
    (batch({"__destination": []}), "batch.0.__destination"),
    (batch({"__destination": ["a", ""]}), "batch.0.__destination.1"),
    (batch({"__destination": ["a", 5]}), "batch.0.__destination.1"),
    (batch({"__request": {"destination": ["a", "b/c"]}}), "batch.0.__request.destination.1"),
    (batch({"__request": {"__destination": ["#"]}}), "batch.0.__request.__destination.0"),
    (batch({"__request": {"destination": "a", "timeout": "5"}}), "batch.0.__request.timeout"),
    (batch({"__destination": "a", "method": "patch"}), "batch.0.method"),
    (batch({"__destination": "a", "method": None}), "batch.0.method"),
    (batch({"__destination": "a", "resource": "network"}), "batch.0.resource"),
    (batch({"__destination": "a", "resource": 5}), "batch.0.resource"),
    (batch({"__destination": "a", "resource": "/a\nb"}), "batch.0.resource"),
    (batch({"__destination": "a", "resource": "/\ud800"}), "batch.0.resource"),
    (batch({"__destination": "a", "resource": "/" + "x" * 1_023}), "batch.0.resource"),
    (batch({"__destination": "a", "resource": "/" + "ü" * 512}), "batch.0.resource"),
    (batch({"__destination": "a", "data": float("nan")}), "batch.0.data"),
    (batch({"__destination": "a", "data": [{"x": float("-inf")}]}), "batch.0.data"),
    (batch({"__destination": "a", "data": 2**64}), "batch.0.data"),
    (batch({"__destination": "a", "data": "\ud800"}), "batch.0.data"),
    (batch({"__destination": "a", "data": {"\ud800": 1}}), "batch.0.data"),
    (batch({"__destination": "a", "data": DEEP}), "batch.0.data"),
    ({"batch": [{"resource": "/", "__destination": "a"}]}, "batch.0.method"),
    ({"batch": [{"method": "get", "__destination": "a"}]}, "batch.0.resource"),
    ({"destinations": ["a"]}, "message"),
    ({"message": MESSAGE}, "destinations"),
    ({"destinations": [], "message": MESSAGE}, "destinations"),
    ({"destinations": ["x" * 129], "message": MESSAGE}, "destinations.0"),
    ({"destinations": ["ok", "$SYS"], "message": MESSAGE}, "destinations.1"),
    ({"destinations": "a\0", "message": MESSAGE}, "destinations.0"),
    ({"destinations": "a", "message": []}, "message"),
    ({"destinations": "a", "message": {"method": "get"}}, "message.resource"),
    ({**BROADCAST, "options": 5}, "options"),
    ({**BROADCAST, "options": {"timeout": 0}}, "options.timeout"),
    ({**BROADCAST, "concurrency": 0}, "concurrency"),
    ({**BROADCAST, "concurrency": 2.5}, "concurrency"),
    ({**BROADCAST, "concurrency": "2"}, "concurrency"),
    ({**BROADCAST, "concurrency": 10**30}, "concurrency"),
    ({**BROADCAST, "priority": 101}, "priority"),
    ({**BROADCAST, "priority": -1}, "priority"),
    ({**BROADCAST, "priority": True}, "priority"),
    ({**BROADCAST, "retry": 3}, "retry"),
    ({**BROADCAST, "retry": {"limit": -1}}, "retry.limit"),
    ({**BROADCAST, "retry": {"limit": 1_001}}, "retry.limit"),
    ({**BROADCAST, "retry": {"delay": 0}}, "retry.delay"),
    ({**BROADCAST, "retry": {"factor": 0.5}}, "retry.factor"),
    ({**BROADCAST, "retry": {"maxDelay": "x"}}, "retry.maxDelay"),
    ({**BROADCAST, "retry": {"jitter": 1.5}}, "retry.jitter"),
    ({**BROADCAST, "retry": {"on": []}}, "retry.on"),
    ({**BROADCAST, "retry": {"on": "timeout"}}, "retry.on"),
    ({**BROADCAST, "retry": {"on": [503, "silence"]}}, "retry.on.1"),
    ({**BROADCAST, "retry": {"on": [99]}}, "retry.on.0"),
    ({**BROADCAST, "retry": {"max_delay": 5}}, "retry.max_delay"),
    ({**BROADCAST, "rate": {}}, "rate.perMinute"),
    ({**BROADCAST, "rate": {"perMinute": 0}}, "rate.perMinute"),
    ({**BROADCAST, "rate": {"perMinute": 1, "factor": 0.9}}, "rate.factor"),
    ({**BROADCAST, "rate": {"perMinute": 1, "every": 0}}, "rate.every"),
    ({**BROADCAST, "rate": {"perMinute": 1, "max": -1}}, "rate.max"),
    ({**BROADCAST, "abort": {}}, "abort.errorPercent"),
    ({**BROADCAST, "abort": {"errorPercent": 101}}, "abort.errorPercent"),
    ({**BROADCAST, "abort": {"errorPercent": 10, "minimum": 0}}, "abort.minimum"),
    ({**BROADCAST, "startAt": "tomorrow"}, "startAt"),
    ({**BROADCAST, "startAt": 1_700_000_000}, "startAt"),
    ({**BROADCAST, "startAt": "2026-02-30T00:00:00Z"}, "startAt"),
    ({**BROADCAST, "name": ""}, "name"),
    ({**BROADCAST, "name": "x" * 129}, "name"),
    ({**BROADCAST, "name": "a\tb"}, "name"),
    ({**BROADCAST, "name": "\ud800"}, "name"),
    ({**BROADCAST, "name": 5}, "name"),
    ({**BROADCAST, "key": ""}, "key"),
    ({**BROADCAST, "key": ["k"]}, "key"),
    ({**BROADCAST, "labels": "x"}, "labels"),
    ({**BROADCAST, "labels": [""]}, "labels.0"),
    ({**BROADCAST, "labels": ["a"] * 65}, "labels"),
    ({**BROADCAST, "labels": {"a": 5}}, "labels"),
    ({**BROADCAST, "unheard": 1}, "unheard"),
    ({**BROADCAST, "interval": 1}, "interval"),
    ({**BROADCAST, "strategy": "rolling"}, "strategy"),
    ({**BROADCAST, "Timeout": 5}, "Timeout"),
    (batch({"__destination": "a"}, status="paused"), "status"),
]


@pytest.mark.parametrize(("document", "path"), FAULTS, ids=lambda value: value if isinstance(value, str) else "")
def test_each_fault_is_named_with_its_path(document: object, path: str) -> None:
    assert path in faults(document)


def test_all_faults_are_named_and_not_only_the_first() -> None:
    document = batch({"method": "x", "resource": "y", "__destination": ["a/"]}, priority=500)
    assert set(faults(document)) == {"batch.0.method", "batch.0.resource", "batch.0.__destination.0", "priority"}


def test_a_value_of_another_kind_is_told_in_the_words_of_json() -> None:
    assert faults([]) == faults("x", reader.update) == {"": "the body has to be a JSON object"}
    assert faults({**BROADCAST, "retry": 3}) == {"retry": "it has to be a JSON object"}


def test_a_list_full_of_faults_is_not_answered_with_all_of_them() -> None:
    with pytest.raises(InvalidDocument) as caught:
        reader.job({"destinations": ["#"] * 900, "message": MESSAGE})
    assert 1 <= len(caught.value.faults) <= 20


MANY_FAULTS: list[tuple[dict[str, Any], str]] = [
    ({**BROADCAST, "destinations": [0] * 900}, "destinations.0"),
    (batch(*[{"__destination": "#"}] * 900), "batch.0.__destination.0"),
    ({"collection": [0] * 900}, "collection.0"),
    (batch({"__request": {"destination": [0] * 100_000}}), "batch.0.__request.destination.0"),
    ({**BROADCAST, "retry": {"on": [0] * 100_000}}, "retry.on"),
    ({**BROADCAST, "retry": {"on": [500] * 101}}, "retry.on"),
    ({**BROADCAST, **{f"field-{number}": 0 for number in range(1_000)}}, ""),
    ({**BROADCAST, "retry": {f"field-{number}": 0 for number in range(1_001)}}, "retry"),
]


@pytest.mark.parametrize(("document", "path"), MANY_FAULTS, ids=[path for _, path in MANY_FAULTS])
def test_a_million_faults_are_not_looked_for(document: dict[str, Any], path: str) -> None:
    assert list(faults(document)) == [path]


def test_the_faults_of_a_short_list_are_named_and_of_a_long_one_those_of_its_first_bad_item() -> None:
    bad = {"method": "x", "resource": "y", "__destination": "a"}
    good = {"__destination": "a"}
    assert set(faults(batch(good, bad, good, bad))) == {
        f"batch.{number}.{field}" for number in (1, 3) for field in ("method", "resource")
    }
    assert set(faults(batch(*[good] * 60, bad, good, bad))) == {"batch.60.method", "batch.60.resource"}
    assert where(reader.job(batch(*[good] * 60))) == where(reader.job(batch(good))) * 60


def test_a_status_that_is_repeated_without_end_is_one_fault() -> None:
    for status in (0, "nope", "error"):
        assert list(faults({"status": [status] * 100_000}, reader.rerun)) == ["status"]


def test_a_faults_path_and_message_can_be_sent_whatever_the_field_is_called() -> None:
    found = faults({**BROADCAST, "\ud800": 1, "x" * 10_000: 2})
    assert all(len(path) <= 200 for path in found)


def test_a_job_of_too_many_requests_is_too_large() -> None:
    document = {"destinations": [f"d{n}" for n in range(1_001)], "message": MESSAGE}
    with pytest.raises(TooLarge, match="1001"):
        reader.job(document)
    assert reader.job({**document, "destinations": document["destinations"][1:]}).total == 1_000


# Keys


def test_the_same_body_has_the_same_fingerprint_in_any_order_of_fields() -> None:
    one = reader.job({**BROADCAST, "key": "k", "name": "n"})
    two = reader.job({"name": "n", "key": "k", "message": dict(reversed(MESSAGE.items())), "destinations": ["a", "b"]})
    assert one.fingerprint == two.fingerprint != ""
    assert reader.job({**BROADCAST, "key": "k", "name": "m"}).fingerprint != one.fingerprint


def test_the_fingerprint_is_that_of_earlier_versions() -> None:
    # Stores hold them: with others, a client that sends its body again after an update would be refused.
    document = {**BROADCAST, "key": "k", "labels": {"z": "1"}, "retry": {}, "startAt": "2030-01-01"}
    assert reader.job(document).fingerprint == "f5ef2121fe5780255ff70b8988ea2d896ed157c95efa43b6b26870573fbf0ae0"


# Dry runs


@pytest.mark.parametrize("document", SPELLINGS.values(), ids=SPELLINGS)
def test_a_dry_run_can_be_asked_for_in_every_spelling(document: dict[str, Any]) -> None:
    spec = reader.job({**document, "dryRun": True})
    assert spec.dry_run
    assert spec.total == 2
    for no in (False, None):
        assert not reader.job({**document, "dryRun": no}).dry_run
    assert not reader.job(document).dry_run


@pytest.mark.parametrize("bad", [1, 0, "true", "", [], {}])
def test_a_dry_run_is_true_or_false(bad: object) -> None:
    assert list(faults({**BROADCAST, "dryRun": bad})) == ["dryRun"]
    assert list(faults({"dryRun": bad}, reader.rerun)) == ["dryRun"]


def test_a_dry_run_has_the_fingerprint_of_the_job_that_it_tries_out() -> None:
    keyed = {**BROADCAST, "key": "k"}
    assert reader.job({**keyed, "dryRun": True}).fingerprint == reader.job(keyed).fingerprint


# Running again


def test_without_a_body_what_failed_is_run_again_as_it_was() -> None:
    for document in (None, {}):
        rerun = reader.rerun(document)
        base = Limits(timeout=60.0, concurrency=5, rate=Rate(per_minute=10), priority=7)
        assert rerun.statuses == {RequestStatus.ERROR, RequestStatus.TIMEOUT}
        assert rerun.to_limits(base) == base
        assert rerun.to_name("reboot") == "reboot"
        assert rerun.to_labels(("a", "b")) == ("a", "b")
        assert (rerun.key, rerun.start_at, rerun.dry_run) == (None, None, None)
        assert rerun.fingerprint(1_000_000) == ""


def test_what_is_named_takes_the_place_of_what_the_job_had() -> None:
    rerun = reader.rerun(
        {
            "status": "canceled", "name": "again", "labels": {"site": "berlin"}, "key": "k", "dryRun": True,
            "startAt": "2038-01-01T00:00:00Z", "timeout": 5, "retry": {"limit": 0}, "rate": None,
        }
    )  # fmt: skip
    base = Limits(timeout=60.0, concurrency=5, rate=Rate(per_minute=10), priority=7)
    assert rerun.statuses == {RequestStatus.CANCELED}
    assert rerun.to_name("reboot") == "again"
    assert rerun.to_labels(("a",)) == ("site=berlin",)
    assert (rerun.key, to_text(rerun.start_at), rerun.dry_run) == ("k", "2038-01-01T00:00:00.000Z", True)
    limits = rerun.to_limits(base)
    assert (limits.timeout, limits.concurrency, limits.rate, limits.priority) == (5.0, 5, None, 7)
    assert limits.retry.limit == 0


def test_a_name_and_labels_that_are_null_are_taken_away() -> None:
    rerun = reader.rerun({"name": None, "labels": None})
    assert (rerun.to_name("reboot"), rerun.to_labels(("a",))) == (None, ())


def test_requests_that_ended_in_any_of_several_ways_may_be_run_again() -> None:
    assert reader.rerun({"status": ["resolved", "error", "error"]}).statuses == {
        RequestStatus.RESOLVED, RequestStatus.ERROR,
    }  # fmt: skip
    assert reader.rerun({"status": None}).statuses == reader.rerun({}).statuses


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ([], ""), ("text", ""), (5, ""), (False, ""), ({"status": []}, "status"), ({"status": ""}, "status.0"),
        ({"status": "created"}, "status.0"), ({"status": ["error", "running"]}, "status.1"),
        ({"status": 5}, "status.0"),
        ({"status": ["error", ["error"]]}, "status.1"), ({"status": {}}, "status.0"), ({"statuses": []}, "statuses"),
        ({"name": ""}, "name"), ({"labels": "x"}, "labels"), ({"key": 5}, "key"), ({"startAt": "now"}, "startAt"),
        ({"priority": 101}, "priority"), ({"rate": {}}, "rate.perMinute"), ({"requestTimeout": 5}, "requestTimeout"),
        ({"destinations": "a", "message": MESSAGE}, "destinations"),
    ],
)  # fmt: skip
def test_the_faults_of_a_rerun_are_named(document: object, path: str) -> None:
    assert path in faults(document, reader.rerun)


def test_the_same_rerun_of_the_same_job_has_the_same_fingerprint() -> None:
    def fingerprint(job_id: int = 5, **document: Any) -> str:
        return reader.rerun({"key": "k", **document}).fingerprint(job_id)

    assert fingerprint() == fingerprint(status=["timeout", "error"]) == fingerprint(dryRun=True) != ""
    assert fingerprint(labels={"a": "b"}) == fingerprint(labels=["a=b"])
    assert fingerprint(retry={"on": [423, 503]}) == fingerprint(retry={"on": [503, 423], "limit": 3})
    others = [
        fingerprint(), fingerprint(6), fingerprint(status="error"), fingerprint(rate=None), fingerprint(name="n"),
        fingerprint(name=None), fingerprint(rate={"perMinute": 1}), fingerprint(key="l"), fingerprint(timeout=5),
    ]  # fmt: skip
    assert len(set(others)) == len(others)


# One request


def test_a_single_request_is_a_job_of_one() -> None:
    spec = reader.request({"destination": "a", "message": MESSAGE, "options": {"timeout": 1_500}})
    [(destination, message)] = where(spec)
    assert (destination, message.resource, message.timeout) == ("a", "/network/ethernets/1", 1.5)


def test_a_single_request_may_have_a_key() -> None:
    spec = reader.request({"message": MESSAGE, "key": "k"})
    assert spec.key == "k"
    assert spec.fingerprint == reader.request({"key": "k", "message": MESSAGE}).fingerprint != ""
    assert spec.fingerprint != reader.request({"destination": "a", "message": MESSAGE, "key": "k"}).fingerprint
    assert reader.request({"message": MESSAGE, "key": None}).key is None


def test_a_single_request_without_a_destination_is_for_this_machine() -> None:
    assert where(reader.request({"message": MESSAGE}))[0][0] == "localhost"


@pytest.mark.parametrize(
    ("document", "path"),
    [
        (None, ""), ([], ""), ({}, "message"), ({"message": 5}, "message"), ({"message": {}}, "message.method"),
        ({"message": MESSAGE, "destination": ["a"]}, "destination"),
        ({"message": MESSAGE, "destination": "a/b"}, "destination"),
        ({"message": MESSAGE, "destinations": ["a"]}, "destinations"),
        ({"message": MESSAGE, "options": {"timeout": -1}}, "options.timeout"),
        ({"message": MESSAGE, "key": ""}, "key"), ({"message": MESSAGE, "dryRun": True}, "dryRun"),
    ],
)  # fmt: skip
def test_the_faults_of_a_single_request_are_named(document: object, path: str) -> None:
    assert path in faults(document, reader.request)


# Updates


def test_an_update_changes_what_it_names_and_keeps_the_rest() -> None:
    base = Limits(timeout=60.0, concurrency=5, rate=Rate(per_minute=10), priority=7)
    limits = reader.update({"concurrency": 9, "rate": None, "priority": None}).to_limits(base)
    assert limits == Limits(timeout=60.0, concurrency=9, rate=None, priority=50)


@pytest.mark.parametrize("status", ["paused", "dispatching", "canceled"])
def test_an_update_may_set_a_status(status: str) -> None:
    update = reader.update({"status": status})
    assert update.status == status
    assert update.to_limits(Limits(priority=3)) == Limits(priority=3)


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({}, ""), (None, ""), ([], ""), ({"status": "resolved"}, "status"), ({"status": 5}, "status"),
        ({"priority": 101}, "priority"), ({"name": "new"}, "name"), ({"retry": {"limit": "x"}}, "retry.limit"),
        ({"abort": {"errorPercent": 0}}, "abort.errorPercent"),
    ],
)  # fmt: skip
def test_the_faults_of_an_update_are_named(document: object, path: str) -> None:
    assert path in faults(document, reader.update)


# Anything at all

characters = st.characters(codec=None)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**400), 10**400)
    | st.floats()
    | st.text(characters, max_size=10)
    | st.sampled_from(["a", "get", "/x", "timeout", "paused", "2026-01-31T12:00:00Z", "9999-12-31T23:59:59-23:59"])
)
names = st.sampled_from(
    [
        "batch", "collection", "destinations", "destination", "message", "options", "method", "resource", "data",
        "__request", "__destination", "timeout", "requestTimeout", "concurrency", "retry", "limit", "delay", "factor",
        "maxDelay", "jitter", "on", "rate", "perMinute", "every", "max", "abort", "errorPercent", "minimum",
        "priority", "startAt", "name", "labels", "key", "status",
    ]
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names | st.text(characters, max_size=5), inner),
    max_leaves=12,
)
almost = st.fixed_dictionaries(
    {"destinations": st.just("a") | values, "message": st.just(MESSAGE) | values},
    optional=dict.fromkeys(
        ("timeout", "requestTimeout", "concurrency", "retry", "rate", "abort", "priority", "startAt", "name", "labels",
         "key", "options", "batch"),
        values,
    ),
)  # fmt: skip
items = st.fixed_dictionaries(
    {"method": st.just("get") | values, "resource": st.just("/x") | values},
    optional={"data": values, "__request": values, "__destination": st.just("a") | values, "id": values},
)
batches = st.fixed_dictionaries({"batch": st.lists(items | values, max_size=3)}, optional={"key": st.just("k")})


@given(values | almost | batches)
@settings(max_examples=300, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_a_body_holds_it_is_read_or_refused(document: object) -> None:
    for read in (reader.job, reader.request, reader.update, reader.rerun):
        try:
            spec = read(document)
        except (InvalidDocument, TooLarge) as error:
            str(error).encode()
            continue
        if isinstance(spec, JobSpec):
            assert 1 <= spec.total <= 1_000
            to_text(spec.start_at)


def test_a_body_that_nests_without_end_in_a_field_that_is_ignored_is_read_or_refused() -> None:
    deep: Any = []
    for _ in range(5_000):
        deep = [deep]
    for document in ({**BROADCAST, "key": "k", "message": {**MESSAGE, "id": deep}}, {**BROADCAST, "name": deep}):
        try:
            reader.job(document)
        except (InvalidDocument, TooLarge):
            continue
