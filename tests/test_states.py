"""The state tables: closed, literal, and strict."""

from __future__ import annotations

from enum import Enum
from typing import Any

import pytest

from puppetmaster.errors import IllegalTransition
from puppetmaster.states import (
    JOB_FINAL,
    JOB_TRANSITIONS,
    REQUEST_FAILED,
    REQUEST_FINAL,
    REQUEST_OUT,
    REQUEST_TRANSITIONS,
    JobEvent,
    JobStatus,
    RequestEvent,
    RequestStatus,
    next_status,
)

MACHINES = [
    pytest.param("request", RequestStatus, RequestEvent, REQUEST_TRANSITIONS, REQUEST_FINAL, id="request"),
    pytest.param("job", JobStatus, JobEvent, JOB_TRANSITIONS, JOB_FINAL, id="job"),
]
all_machines = pytest.mark.parametrize(("noun", "statuses", "events", "table", "final"), MACHINES)


@all_machines
def test_every_status_has_a_row_and_rows_name_known_events_and_statuses(
    noun: str, statuses: type[Enum], events: type[Enum], table: dict[Any, Any], final: frozenset[Any]
) -> None:
    assert set(table) == set(statuses)
    for row in table.values():
        assert set(row) <= set(events)
        assert set(row.values()) <= set(statuses)


@all_machines
def test_final_statuses_are_the_ones_without_exits(
    noun: str, statuses: type[Enum], events: type[Enum], table: dict[Any, Any], final: frozenset[Any]
) -> None:
    assert final == {status for status in statuses if table[status] == {}}
    assert final


@all_machines
def test_every_status_can_be_reached_and_every_one_leads_to_an_end(
    noun: str, statuses: type[Enum], events: type[Enum], table: dict[Any, Any], final: frozenset[Any]
) -> None:
    assert _reachable(table, next(iter(statuses))) == set(statuses)
    for status in statuses:
        assert _reachable(table, status) & final


@all_machines
def test_every_event_is_of_use_somewhere(
    noun: str, statuses: type[Enum], events: type[Enum], table: dict[Any, Any], final: frozenset[Any]
) -> None:
    assert {event for row in table.values() for event in row} == set(events)


@all_machines
def test_each_pair_of_status_and_event_leads_where_the_table_says_or_raises(
    noun: str, statuses: type[Enum], events: type[Enum], table: dict[Any, Any], final: frozenset[Any]
) -> None:
    for status in statuses:
        for event in events:
            if event in table[status]:
                assert next_status(noun, table, status, event) is table[status][event]
                continue
            with pytest.raises(IllegalTransition) as caught:
                next_status(noun, table, status, event)
            assert (caught.value.status, caught.value.event) == (status.value, event.value)
            assert noun in str(caught.value)
            assert caught.value.code == 409


def test_an_illegal_event_leaves_the_tables_as_they_are() -> None:
    before = {status: dict(row) for status, row in JOB_TRANSITIONS.items()}
    with pytest.raises(IllegalTransition):
        next_status("job", JOB_TRANSITIONS, JobStatus.RESOLVED, JobEvent.CANCEL)
    assert before == JOB_TRANSITIONS


@pytest.mark.parametrize("status", [status for status in RequestStatus if status not in REQUEST_FINAL])
def test_a_request_that_has_not_ended_can_end_in_every_way_and_be_tried_again(status: RequestStatus) -> None:
    assert set(REQUEST_TRANSITIONS[status].values()) >= REQUEST_FINAL
    assert REQUEST_TRANSITIONS[status][RequestEvent.RETRY] is RequestStatus.CREATED


@pytest.mark.parametrize("status", [status for status in JobStatus if status not in JOB_FINAL])
def test_a_job_that_has_not_ended_can_be_canceled_and_can_finish(status: JobStatus) -> None:
    assert JOB_TRANSITIONS[status][JobEvent.CANCEL] is JobStatus.CANCELED
    assert JOB_TRANSITIONS[status][JobEvent.FINISH] is JobStatus.RESOLVED


def test_created_has_the_exits_of_sent_because_an_answer_may_overtake_the_acknowledgement() -> None:
    assert REQUEST_TRANSITIONS[RequestStatus.SENT].items() <= REQUEST_TRANSITIONS[RequestStatus.CREATED].items()


def test_the_named_sets_hold_what_their_names_say() -> None:
    assert {RequestStatus.SENT, RequestStatus.RUNNING} == REQUEST_OUT
    assert {RequestStatus.ERROR, RequestStatus.TIMEOUT} == REQUEST_FAILED
    assert REQUEST_FAILED < REQUEST_FINAL
    assert not REQUEST_OUT & REQUEST_FINAL


def test_the_words_on_the_wire_are_those_of_the_design() -> None:
    assert [status.value for status in RequestStatus] == [
        "created", "sent", "running", "resolved", "error", "timeout", "canceled",
    ]  # fmt: skip
    assert [status.value for status in JobStatus] == [
        "pending", "dispatching", "paused", "resolved", "canceled", "aborted", "timeout",
    ]  # fmt: skip


def _reachable(table: dict[Any, dict[Any, Any]], start: Any) -> set[Any]:
    found, pending = {start}, [start]
    while pending:
        for following in table[pending.pop()].values():
            if following not in found:
                found.add(following)
                pending.append(following)
    return found
