"""One stand for each test file, the two edges that it is asked over, and the logs of all when a test fails."""

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


@pytest.fixture(params=["bus", "http"])
def either(request: pytest.FixtureRequest, stand: Stand) -> Iterator[Stand]:
    """The stand of the file, asked over each edge in turn; it has to serve HTTP."""
    stand.edge = request.param
    yield stand
    stand.edge = "bus"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    report = yield
    if report.failed:
        for running in Stand.live:
            report.sections.append((f"logs in {running.folder}", running.logs()))
    return report
