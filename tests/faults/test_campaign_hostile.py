"""Lies, floods and poison: each fault once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.campaign import Campaign
from tests.faults.kinds import Fault, hostile
from tests.faults.share import Share


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Share]:
    with Share(tmp_path_factory.mktemp("faults")) as made:
        yield made


@pytest.mark.parametrize("fault", hostile.FAULTS, ids=lambda fault: fault.name)
def test_nothing_is_lost_and_nothing_is_done_twice(share: Share, fault: type[Fault]) -> None:
    result = share.play(fault.name, is_last=fault is hostile.FAULTS[-1])
    if result.skipped:
        pytest.skip(result.skipped)
    assert result.violations == [], result.line()


def test_a_bundle_that_believes_anyone_is_found_out(tmp_path: Path) -> None:
    campaign = Campaign("believer", ["lie_foreign"], folder=tmp_path, bugs=["believe_anyone"])
    [result] = campaign.play(iter([0]))
    assert any(violation.startswith("resolved_was_done: ") for violation in result.violations)
