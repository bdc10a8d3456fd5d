"""The query strings: what is read, what is refused, and which destinations a filter means."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puppetmaster.errors import InvalidDocument
from puppetmaster.fields import MAX_FAULTS
from puppetmaster.queries import (
    MAX_LIMIT,
    MAX_PATTERN,
    MAX_PATTERNS,
    MAX_STARS,
    MAX_TEXTS,
    AnswersQuery,
    DestinationFilter,
    JobQuery,
    JobsQuery,
    Query,
    RequestsQuery,
    parse,
)
from puppetmaster.states import REQUEST_FINAL, JobStatus, RequestStatus
from puppetmaster.times import to_text

QUERIES = (JobsQuery, JobQuery, AnswersQuery, RequestsQuery)


def faults(model: type[Query], query: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(InvalidDocument) as caught:
        parse(model, query)
    return {fault.path: fault.message for fault in caught.value.faults}


@pytest.mark.parametrize("model", QUERIES)
def test_a_query_is_for_100_at_first_unless_it_says_otherwise(model: type[Query]) -> None:
    assert parse(model, {}).model_dump()["limit"] == 100
    assert parse(model, {"limit": str(MAX_LIMIT)}).model_dump()["limit"] == MAX_LIMIT
    assert parse(model, {"limit": 5}).model_dump()["limit"] == 5


@pytest.mark.parametrize("model", QUERIES)
def test_parameters_that_nobody_knows_are_ignored(model: type[Query]) -> None:
    assert parse(model, {"colour": "red", "_": ["1", "2"]}) == parse(model, {})


@pytest.mark.parametrize(
    "text", ["-1", "10001", "abc", "1.5", "1.0", "1e2", "", " 5", "5 ", "+5", "1_0", "\u0663", "0x1"]
)
@pytest.mark.parametrize("model", QUERIES)
def test_a_number_is_written_in_digits_and_within_its_bounds(model: type[Query], text: str) -> None:
    assert list(faults(model, {"limit": text})) == ["limit"]
    assert list(faults(model, {"limit": ["1", "2"]})) == ["limit"]


@pytest.mark.parametrize(
    ("text", "read"), [("true", True), ("True", True), ("false", False), (True, True), (False, False)]
)
def test_collection_is_true_or_false(text: object, read: bool) -> None:
    assert parse(JobQuery, {"collection": text}).collection is read


@pytest.mark.parametrize("text", ["1", "0", "on", "yes", "t", "", "null", 1, ["true", "false"]])
def test_collection_is_nothing_else(text: object) -> None:
    assert faults(JobQuery, {"collection": text}) == {"collection": "it has to be true or false"}


def test_one_value_stands_for_a_list_of_it() -> None:
    assert parse(JobsQuery, {"status": "paused"}).status == [JobStatus.PAUSED]
    assert parse(JobsQuery, {"label": "a"}).label == parse(JobsQuery, {"label": ["a"]}).label == ["a"]
    assert parse(RequestsQuery, {"status": ["sent", "error"]}).status == [RequestStatus.SENT, RequestStatus.ERROR]


def test_only_answers_of_requests_that_have_ended_can_be_asked_for() -> None:
    for status in RequestStatus:
        if status in REQUEST_FINAL:
            assert parse(AnswersQuery, {"status": status.value}).status == [status]
        else:
            assert list(faults(AnswersQuery, {"status": status.value})) == ["status"]


def test_a_time_may_have_lost_its_plus_on_the_way() -> None:
    assert to_text(parse(JobsQuery, {"since": "2026-01-31T12:00:00 02:00"}).since) == "2026-01-31T10:00:00.000Z"


def test_all_faults_are_named() -> None:
    query = {"limit": "x", "offset": "-1", "status": "nope", "since": "now"}
    assert set(faults(JobsQuery, query)) == {"limit", "offset", "status", "since"}


def test_no_more_texts_are_compared_than_a_caller_needs() -> None:
    many = [f"device-{number}" for number in range(MAX_TEXTS + 1)]
    assert parse(RequestsQuery, {"destination": many[:-1]}).destination is not None
    assert list(faults(RequestsQuery, {"destination": many})) == ["destination"]
    assert list(faults(JobsQuery, {"label": many})) == ["label"]


@pytest.mark.parametrize("model", [JobsQuery, JobQuery, AnswersQuery, RequestsQuery])
def test_a_status_that_is_repeated_without_end_is_one_fault(model: type[Query]) -> None:
    for status in ("a", "timeout", "paused"):
        with pytest.raises(InvalidDocument) as caught:
            parse(model, {"status": [status] * 6500})
        assert 1 <= len(caught.value.faults) <= MAX_FAULTS
        assert {fault.path for fault in caught.value.faults} == {"status"}


# Destinations


@pytest.mark.parametrize(
    ("few", "many", "message"),
    [
        (["a*"] * MAX_PATTERNS, ["a*"] * (MAX_PATTERNS + 1), "at most 10 destinations may hold a *"),
        (
            "a" * (MAX_PATTERN - 1) + "*",
            "a" * MAX_PATTERN + "*",
            "a destination with a * has at most 128 characters",
        ),
        ("a*" * MAX_STARS, "a*" * MAX_STARS + "*", "a destination may hold at most 8 *"),
    ],
)
@pytest.mark.parametrize("model", [JobQuery, RequestsQuery])
def test_no_more_is_searched_for_than_a_caller_needs(model: Any, few: object, many: object, message: str) -> None:
    assert parse(model, {"destination": few}).destination is not None
    assert faults(model, {"destination": many}) == {"destination": message}


def test_the_bounds_of_filters_with_a_star_are_not_those_of_names() -> None:
    names = [f"device-{number}" for number in range(MAX_TEXTS - MAX_PATTERNS)]
    found = parse(RequestsQuery, {"destination": [*names, *(f"gate-{number}*" for number in range(MAX_PATTERNS))]})
    assert found.destination is not None
    assert [name for name in ("device-89", "device-90", "gate-12", "gate-") if found.destination.matches(name)] == [
        "device-89", "gate-12",
    ]  # fmt: skip


@pytest.mark.parametrize("model", [JobQuery, RequestsQuery])
def test_a_query_has_a_filter_of_destinations(model: Any) -> None:
    assert parse(model, {}).destination is None
    found = parse(model, {"destination": ["device-0001", "gate-*"]}).destination
    assert [name for name in ("device-0001", "device-00012", "gate-", "gate-7", "a-gate-7") if found.matches(name)] == [
        "device-0001", "gate-", "gate-7",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "fitting", "others"),
    [
        ("a", ["a"], ["", "A", "aa"]),
        ("*", ["", "a", "a\nb", "*"], []),
        ("**", ["", "a"], []),
        ("a*", ["a", "ab", "a*"], ["", "ba"]),
        ("*a", ["a", "ba", "aa"], ["", "ab"]),
        ("a*a", ["aa", "aba", "aaa"], ["a", "", "ab"]),
        ("ab*bc", ["abbc", "abcbc"], ["abc", "ab", "bc"]),
        ("*ab*ab*", ["abab", "xabxabx"], ["ab", "aba"]),
        ("a*b*c", ["abc", "axbxc", "abcc"], ["ac", "acb", "abcb"]),
        ("*aab", ["aab", "aaaab"], ["aaba"]),
        ("a.c", ["a.c"], ["abc"]),
        ("[ab]*?", ["[ab]?", "[ab]x?"], ["a?", "[ab]x"]),
    ],
)
def test_a_star_stands_for_any_run_of_characters(pattern: str, fitting: list[str], others: list[str]) -> None:
    found = DestinationFilter([pattern])
    assert [text for text in (*fitting, *others) if found.matches(text)] == fitting


@given(st.lists(st.text("ab*", max_size=7), max_size=3), st.text("ab*", max_size=9))
@settings(max_examples=500, derandomize=True, database=None, deadline=None)
def test_a_filter_means_what_a_regular_expression_would(patterns: list[str], text: str) -> None:
    expected = any(re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text) for pattern in patterns)
    assert DestinationFilter(patterns).matches(text) is expected


def test_a_filter_with_many_stars_takes_no_longer() -> None:
    # A regular expression would not come to an end here.
    assert not DestinationFilter(["*a" * 60 + "*b"]).matches("a" * 128)
