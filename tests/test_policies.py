"""What a job asks for beyond its messages: retries, rates, thresholds, destinations."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puppetmaster.policies import (
    DEFAULT_RETRY,
    MAX_DESTINATION,
    REFUSALS,
    AbortThreshold,
    Rate,
    RetryPolicy,
    are_plain_destinations,
    destination_fault,
)

shares = st.floats(0, 1, exclude_max=True)


# Destinations


@pytest.mark.parametrize(
    "destination", ["a", "localhost", "AA:BB:CC:DD:EE:FF", "gateway 7", "..", "a$b", "ü", "設備", "😀", "x" * 128]
)
def test_a_text_that_is_one_level_of_a_topic_is_a_destination(destination: str) -> None:
    assert destination_fault(destination) is None


@pytest.mark.parametrize(
    "destination",
    [
        "", "a/b", "/", "+", "a+", "#", "$SYS", "$", "a\0", "\n", "a\tb", "\x7f", "\x85", "\ud800", "a\udfff",
        "\ufffe", "\uffff", "\ufdd0", "\U0001ffff", "\U0010fffe", "x" * (MAX_DESTINATION + 1),
    ],
)  # fmt: skip
def test_what_makes_a_broker_drop_its_publisher_is_no_destination(destination: str) -> None:
    fault = destination_fault(destination)
    assert fault is not None
    assert fault.startswith("a destination")
    fault.encode()  # the fault itself can be sent


@given(st.text(max_size=140))
def test_a_destination_that_passes_can_be_written_as_one_level_of_a_topic(destination: str) -> None:
    if destination_fault(destination) is None:
        assert 0 < len(destination.encode()) <= 4 * MAX_DESTINATION
        assert len(f"/remote/{destination}/answer/x".split("/")) == 5


NEARLY_PLAIN = st.text(st.sampled_from("ab1-:. $/+#\0\n\x7fü\ud800"), max_size=3)


@given(st.lists(st.text(max_size=3) | NEARLY_PLAIN, min_size=1, max_size=4))
def test_what_passes_together_passes_one_by_one(destinations: list[str]) -> None:
    if are_plain_destinations(destinations):
        assert [destination_fault(destination) for destination in destinations] == [None] * len(destinations)


def test_names_as_devices_have_them_pass_together() -> None:
    assert are_plain_destinations(["device-000001", "AA:BB:CC:DD:EE:FF", "gateway 7", "..", "a$b", "x" * 128])
    assert not are_plain_destinations(["x" * 129])


# Retries


def test_delays_of_retries_grow_by_the_factor_up_to_the_longest() -> None:
    policy = RetryPolicy(limit=6, delay=1.0, factor=2.0, max_delay=10.0, jitter=0.0)
    assert [policy.next_delay(attempt, 0.5) for attempt in range(1, 8)] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0, None]


def test_a_limit_of_zero_means_no_second_attempt() -> None:
    assert RetryPolicy(limit=0).next_delay(1, 0.0) is None


def test_jitter_shortens_a_delay_by_at_most_its_share() -> None:
    policy = RetryPolicy(delay=10.0, jitter=0.5)
    assert policy.next_delay(1, 0.0) == 10.0
    assert policy.next_delay(1, 0.5) == 7.5
    assert policy.next_delay(1, 0.999999) == pytest.approx(5.0, abs=0.001)


@given(
    attempt=st.integers(1, 5000), random=shares, jitter=st.floats(0, 1), factor=st.floats(1, 100),
    delay=st.floats(0.001, 1e6), longest=st.floats(0.001, 1e6),
)  # fmt: skip
@settings(max_examples=200)
def test_a_delay_is_never_negative_nor_over_the_longest(
    attempt: int, random: float, jitter: float, factor: float, delay: float, longest: float
) -> None:
    policy = RetryPolicy(limit=5000, delay=delay, factor=factor, max_delay=longest, jitter=jitter)
    found = policy.next_delay(attempt, random)
    assert found is not None
    assert 0.0 <= found <= longest


@pytest.mark.parametrize("code", sorted(REFUSALS))
def test_transient_codes_are_tried_again_by_default(code: int) -> None:
    assert code in DEFAULT_RETRY.on


@pytest.mark.parametrize("code", [400, 401, 404, 409, 500, 502, 504])
def test_other_codes_are_not_tried_again_by_default(code: int) -> None:
    assert code not in DEFAULT_RETRY.on


def test_a_controllers_408_is_silence_and_not_tried_again_by_default() -> None:
    assert 408 not in DEFAULT_RETRY.on


# Rates


def test_a_constant_rate_spaces_requests_evenly() -> None:
    assert Rate(per_minute=30).interval(0) == 2.0
    assert Rate(per_minute=30).interval(10_000) == 2.0


def test_a_growing_rate_is_multiplied_for_every_so_many_that_resolved() -> None:
    rate = Rate(per_minute=60, factor=2.0, every=10)
    assert [rate.interval(resolved) for resolved in (0, 9, 10, 19, 20, 30)] == [1.0, 1.0, 0.5, 0.5, 0.25, 0.125]


def test_a_growing_rate_stops_at_its_maximum() -> None:
    rate = Rate(per_minute=60, factor=2.0, every=1, maximum=240)
    assert rate.interval(2) == 0.25
    assert rate.interval(100_000) == 0.25


@given(
    per_minute=st.floats(0.001, 1e6), factor=st.floats(1, 1000), every=st.integers(1, 1000),
    maximum=st.none() | st.floats(0.001, 1e6), resolved=st.integers(0, 10_000_000),
)  # fmt: skip
@settings(max_examples=200)
def test_no_number_of_resolved_requests_makes_an_interval_useless(
    per_minute: float, factor: float, every: int, maximum: float | None, resolved: int
) -> None:
    interval = Rate(per_minute=per_minute, factor=factor, every=every, maximum=maximum).interval(resolved)
    assert math.isfinite(interval)
    assert 0 < interval <= 60.0 / per_minute * 1.000001


# Thresholds


@pytest.mark.parametrize(
    ("failed", "ended", "reached"),
    [(0, 0, False), (0, 100, False), (1, 9, False), (1, 10, True), (4, 40, True), (3, 40, False), (10, 10, True)],
)
def test_a_job_gives_up_at_its_percentage_of_at_least_so_many(failed: int, ended: int, reached: bool) -> None:
    assert AbortThreshold(error_percent=10, minimum=10).reached(failed, ended) is reached


def test_a_threshold_without_a_minimum_takes_the_first_failure_seriously() -> None:
    assert AbortThreshold(error_percent=100).reached(1, 1)
    assert not AbortThreshold(error_percent=100).reached(1, 2)
