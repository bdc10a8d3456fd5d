"""A server that goes away under an open page: it says so, comes back by itself and shows what is new."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.browser.complaints import Complaints
from tests.browser.views import (
    act,
    bar,
    chip,
    dialog,
    job_row,
    mute_job,
    mute_names,
    open_job,
    open_view,
    requests_shown,
    status,
    stream,
)
from tests.system.stand import Fleet, Stand

UNREACHABLE = "The server can\N{RIGHT SINGLE QUOTATION MARK}t be reached."

NEVER_LOADED_AGAIN = "window.stayed = true"

LOOK = "document.dispatchEvent(new Event('visibilitychange'))"
"""What happens when somebody comes back to the tab: the page looks after the server's health at once."""


@pytest.fixture
def complaints(complaints: Complaints) -> Complaints:
    """The browser writes a line for every call that nobody took."""
    complaints.allow("net::ERR_", "WebSocket connection to .*", "status of 503 ")
    return complaints


@pytest.fixture(autouse=True)
def _whole_again(stand: Stand) -> Iterator[None]:
    """What a test left stopped must not fail the others."""
    yield
    for part in (stand.broker, stand.bundle):
        if not part.running:
            part.start()


def stay(page: Page) -> None:
    page.evaluate(NEVER_LOADED_AGAIN)


def expect_away(page: Page) -> None:
    expect(stream(page)).to_have_text("Away")
    expect(page.get_by_test_id("away")).to_contain_text("The connection is away, and what you see may be old.")


def expect_back(page: Page) -> None:
    """It came back, and was not loaded again for that."""
    expect(stream(page)).to_have_text("Live")
    expect(page.get_by_test_id("away")).to_be_hidden()
    assert page.evaluate("window.stayed") is True


def test_the_list_says_that_the_server_is_away_and_shows_the_newest_when_it_is_back(page: Page, stand: Stand) -> None:
    before = mute_job(stand, name="from before")
    open_view(page)
    expect(job_row(page, before)).to_be_visible()
    stay(page)
    stand.bundle.stop()
    expect_away(page)
    expect(job_row(page, before)).to_be_visible()
    stand.bundle.start()
    after = mute_job(stand, name="from after")
    stand.update_job(before["id"], status="paused")
    expect(job_row(page, after)).to_be_visible()
    expect(job_row(page, before).locator(".badge")).to_have_text("paused")
    expect_back(page)


def test_a_job_goes_on_under_an_open_page_though_the_bundle_was_killed(page: Page, stand: Stand, fleet: Fleet) -> None:
    made = stand.create_job(
        {
            "destinations": [*fleet.names, *mute_names(1)],
            "message": {"method": "put", "resource": "/led"},
            "concurrency": 5,
        }
    )
    open_job(page, made)
    stay(page)
    stand.bundle.kill()
    expect(stream(page)).to_have_text("Away")
    stand.bundle.start()
    expect(bar(page)).to_have_attribute("aria-valuetext", "98 %, 60 resolved, 1 sent")
    expect(requests_shown(page).locator(".badge", has_text="resolved")).to_have_count(60)
    expect_back(page)
    act(page, "Cancel job")
    dialog(page).get_by_role("button", name="Cancel the job").click()
    expect(status(page)).to_have_text("canceled")


def test_what_could_not_be_asked_for_is_asked_for_again_when_the_server_is_back(page: Page, stand: Stand) -> None:
    made = mute_job(stand)
    open_job(page, made)
    stay(page)
    stand.bundle.stop()
    act(page, "Pause")
    expect(page.get_by_role("alert").get_by_text(UNREACHABLE).first).to_be_visible()
    chip(page, "sent").click()
    expect(page.locator("#requests").get_by_role("alert")).to_have_text(UNREACHABLE)
    stand.bundle.start()
    expect_back(page)
    expect(page.locator("#requests").get_by_role("alert")).to_have_count(0)
    act(page, "Pause")
    expect(status(page)).to_have_text("paused")
    expect(page.get_by_text(UNREACHABLE)).to_have_count(0)


def test_a_browser_without_its_network_says_so_and_catches_up(page: Page, stand: Stand) -> None:
    made = mute_job(stand, name="caught up with")
    open_job(page, made)
    stay(page)
    page.context.set_offline(True)
    expect_away(page)
    stand.update_job(made["id"], status="canceled")
    expect(status(page)).to_have_text("dispatching")
    page.context.set_offline(False)
    expect(status(page)).to_have_text("canceled")
    expect_back(page)


def test_a_job_that_was_removed_meanwhile_is_told_as_removed(page: Page, stand: Stand, complaints: Complaints) -> None:
    made = mute_job(stand, name="gone meanwhile")
    complaints.allow(f"status of 404 .* /jobs/{made['id']}")
    open_job(page, made)
    page.context.set_offline(True)
    expect_away(page)
    stand.remove_job(made["id"])
    page.context.set_offline(False)
    expect(page.get_by_role("heading", name="This job was removed")).to_be_visible()
    expect(page.get_by_text("gone meanwhile")).to_be_visible()
    expect(page.get_by_test_id("away")).to_be_hidden()


def test_a_page_that_finds_nobody_at_first_comes_about_by_itself(page: Page, stand: Stand) -> None:
    page.route("**/account", lambda route: route.abort())
    open_view(page)
    expect(page.get_by_role("heading", name="Not connected")).to_be_visible()
    page.unroute("**/account")
    expect(page.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()


def test_a_broker_that_is_away_is_told_while_the_page_goes_on(page: Page, stand: Stand) -> None:
    open_view(page)
    expect(stream(page)).to_have_text("Live")
    told = page.get_by_role("status").get_by_text("The broker is not connected")
    stand.broker.kill()
    with page.expect_response(lambda response: response.url.endswith("/health") and response.status == 503):
        page.evaluate(LOOK)
    expect(told).to_be_visible()
    expect(stream(page)).to_have_text("Live")
    stand.broker.start()
    stand.ready()
    page.evaluate(LOOK)
    expect(told).to_have_count(0)
