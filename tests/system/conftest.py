"""One stand for each test file, and the logs of all that runs when a test fails."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from puppetmaster.embedded.broker import find_mosquitto
from tests.system.stand import Stand


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """Broker, controller and bundle, shared by the tests of a file."""
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    with Stand(tmp_path_factory.mktemp("stand")) as running:
        yield running


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    report = yield
    if report.failed:
        for running in Stand.live:
            report.sections.append((f"logs in {running.folder}", running.logs()))
    return report
