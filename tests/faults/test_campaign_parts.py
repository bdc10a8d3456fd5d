"""Parts that are killed, restarted and frozen: each fault once, and mixed ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.kinds import Fault, parts
from tests.faults.share import Share


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Share]:
    with Share(tmp_path_factory.mktemp("faults")) as made:
        yield made


@pytest.mark.parametrize("fault", parts.FAULTS, ids=lambda fault: fault.name)
def test_nothing_is_lost_and_nothing_is_done_twice(share: Share, fault: type[Fault]) -> None:
    result = share.play(fault.name, is_last=fault is parts.FAULTS[-1])
    if result.skipped:
        pytest.skip(result.skipped)
    assert result.violations == [], result.line()
    # Whoever compares nothing finds nothing.
    seen = share.records
    assert seen.posted and seen.jobs and seen.requests and seen.work and seen.told
    assert seen.stored is not None and seen.stored["jobs"] and seen.stored["requests"]
