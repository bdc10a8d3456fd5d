"""An installation and a browser for each file, and a fresh window for each test, in which nothing may go wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from puppetmaster.embedded.broker import find_mosquitto
from tests.browser.complaints import Complaints
from tests.system.stand import Fleet, Stand

PATIENCE_MS = 60_000
"""For anything to appear: nothing is expected to take that long, on the slowest machine."""

ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-site-isolation-trials",  # one process for a window in place of two
]

expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """Broker, controller and bundle with the page, where no login is needed."""
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    with Stand(tmp_path_factory.mktemp("stand"), http=True) as running:
        running.edge = "http"
        yield running


@pytest.fixture(scope="module")
def fleet(stand: Stand) -> Fleet:
    """Sixty devices that take a moment, and do what they are told."""
    return stand.fleet("dev", 60, latency="0.2-0.4")


@pytest.fixture(scope="module")
def broken(stand: Stand) -> Fleet:
    """Twenty devices whose work always fails."""
    return stand.fleet("bad", 20, errors=1)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    executable = shutil.which("chromium")
    if executable is None:
        pytest.fail("there is no chromium for the tests of the page; make test installs it", pytrace=False)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture
def complaints(stand: Stand) -> Iterator[Complaints]:
    """What the browser complains of; what is not allowed fails the test at its end."""
    gathered = Complaints(stand.site)
    yield gathered
    assert gathered.left() == []


@pytest.fixture
def new_window(stand: Stand, browser: Browser, complaints: Complaints) -> Iterator[Callable[..., Page]]:
    """Opens a window of somebody who was never here; options as of ``Browser.new_context``."""
    contexts: list[BrowserContext] = []

    def open_one(**options: Any) -> Page:
        context = browser.new_context(base_url=stand.site, **{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        complaints.of(context)
        return context.new_page()

    yield open_one
    for context in contexts:
        context.close()


@pytest.fixture
def page(new_window: Callable[..., Page]) -> Page:
    """The window of the test."""
    return new_window()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    report = yield
    if report.failed:
        for running in Stand.live:
            report.sections.append((f"logs in {running.folder}", running.logs()))
        if call.when == "call":
            report.sections += [("windows", text) for text in _windows(item)]
    return report


def _windows(item: pytest.Item) -> Iterator[str]:
    """What is to be seen in the windows of a test that failed."""
    browser = getattr(item, "funcargs", {}).get("browser")
    for context in browser.contexts if browser else []:
        for number, page in enumerate(context.pages):
            path = Path(item.funcargs["stand"].folder) / f"{item.name[:60]}-{number}.png"  # type: ignore[attr-defined]
            page.screenshot(path=path)
            yield f"{page.url}\n{path}\n{page.locator('body').inner_text()[:3000]}"
