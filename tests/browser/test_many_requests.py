"""A job of 20,000 requests: the document stays small, the server is asked seldom, and the browser has time to spare."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, Request, expect

from tests.browser.views import (
    DASH,
    bar,
    chip,
    field,
    groups,
    open_job,
    open_view,
    preview,
    requests_shown,
    shown_range,
    status,
    stream,
)
from tests.system.stand import Document, Fleet, Stand

MANY = 20_000

MOST_ROWS = 200
"""Rows of tables that the document ever has."""

MOST_NODES = 5_000
"""Elements that the document ever has: a hundred rows of ten to twenty, and the rest of the page."""

MOST_CALLS_A_SECOND = 3.0
"""GETs: one page of requests each second, the answers now and then, and the health."""

LONG_MS = 200
"""From here on a task of the browser's is felt; a machine that does much else is given four times the usual 50 ms."""

MOST_LONG_SHARE = 0.2
"""Of the time that is looked on, what all long tasks together may take."""

WATCH = """
window.seen = { rows: 0, nodes: 0, states: 0, long: [], since: performance.now() };
const count = () => {
  seen.rows = Math.max(seen.rows, document.getElementsByTagName('tr').length);
  seen.nodes = Math.max(seen.nodes, document.getElementsByTagName('*').length);
  seen.states += 1;
};
new MutationObserver(count).observe(document, { subtree: true, childList: true });
new PerformanceObserver((list) => seen.long.push(...list.getEntries().map(({ duration }) => duration)))
  .observe({ type: 'longtask', buffered: true });
"""


@pytest.fixture(scope="module")
def fleet(stand: Stand) -> Fleet:
    """Twenty thousand devices that answer at once."""
    return stand.fleet("many", MANY)


@pytest.fixture(scope="module")
def big(stand: Stand, fleet: Fleet) -> Document:
    """A job to all of them, as slow as it takes to look on; it is to be started."""
    message = {"method": "put", "resource": "/led"}
    job = {"name": "all of them", "destinations": fleet.names, "message": message, "rate": {"perMinute": 120_000}}
    return stand.create_job({**job, "startAt": "2038-01-01T00:00:00Z"})


@pytest.fixture
def calls(page: Page) -> Iterator[list[str]]:
    """The GETs of the page to the API."""
    made: list[str] = []

    def note(request: Request) -> None:
        if request.method == "GET" and request.resource_type == "fetch":
            made.append(request.url)

    page.on("request", note)
    yield made


def seen(page: Page) -> dict[str, Any]:
    return page.evaluate("({...seen, seconds: (performance.now() - seen.since) / 1000})")  # type: ignore[no-any-return]


def assert_quick(found: dict[str, Any], calls: list[str]) -> None:
    assert found["rows"] <= MOST_ROWS
    assert found["nodes"] <= MOST_NODES
    assert len(calls) / found["seconds"] <= MOST_CALLS_A_SECOND, calls
    long = [duration for duration in found["long"] if duration > LONG_MS]
    assert sum(long) / 1000 <= MOST_LONG_SHARE * found["seconds"], long


def test_the_page_of_the_job_stays_quick_while_it_runs(
    page: Page, stand: Stand, big: Document, calls: list[str]
) -> None:
    open_job(page, big)
    expect(requests_shown(page)).to_have_count(100)
    page.evaluate(WATCH)
    calls.clear()
    stand.update_job(big["id"], status="dispatching")
    expect(bar(page)).to_have_attribute("aria-valuetext", f"100 %, {MANY:,} resolved")
    assert_quick(seen(page), calls)
    expect(status(page)).to_have_text("resolved")
    expect(groups(page).locator("summary")).to_have_text([re.compile(r"20,000\s*said 200\s*100 %")])
    expect(requests_shown(page).locator(".badge")).to_have_text(["resolved"] * 100)


def test_its_pages_can_be_turned_to_the_last_one(page: Page, big: Document) -> None:
    open_job(page, big)
    shown = shown_range(page)
    pages = page.get_by_role("navigation", name="Pages of requests")
    expect(shown).to_have_text(f"1 {DASH} 100 of 20,000")
    pages.get_by_text("Next").click()
    expect(shown).to_have_text(f"101 {DASH} 200 of 20,000")
    expect(requests_shown(page).locator(".opener").first).to_have_text("many-00101")
    pages.get_by_text("Last").click()
    expect(shown).to_have_text(f"19,901 {DASH} 20,000 of 20,000")
    expect(requests_shown(page).locator(".opener").last).to_have_text("many-20000")
    expect(requests_shown(page)).to_have_count(100)
    expect(pages.get_by_text("Next")).to_have_attribute("aria-disabled", "true")
    page.go_back()
    expect(shown).to_have_text(f"101 {DASH} 200 of 20,000")
    pages.get_by_text("First").click()
    expect(shown).to_have_text(f"1 {DASH} 100 of 20,000")


def test_it_is_filtered_on_the_server(page: Page, big: Document) -> None:
    open_job(page, big)
    field(page, "Destination").fill("many-0*99")
    expect(requests_shown(page).locator(".opener").first).to_have_text("many-00099")
    expect(shown_range(page)).to_have_text(f"1 {DASH} 100 of 100")
    chip(page, "resolved").click()
    expect(page).to_have_url(re.compile(r"status=resolved"))
    expect(shown_range(page)).to_have_text(f"1 {DASH} 100 of 100")


def test_however_many_rows_are_opened_the_document_stays_small(page: Page, big: Document) -> None:
    open_job(page, big)
    expect(requests_shown(page)).to_have_count(100)
    page.evaluate(WATCH)
    page.evaluate("document.querySelectorAll('.opener').forEach((opener) => opener.click())")
    expect(page.locator(".opener[aria-expanded=true]")).to_have_count(20)
    found = seen(page)
    assert found["rows"] <= MOST_ROWS and found["nodes"] <= MOST_NODES


def test_the_list_stays_quick_while_many_jobs_run(page: Page, stand: Stand, fleet: Fleet, calls: list[str]) -> None:
    open_view(page)
    expect(stream(page)).to_have_text("Live")
    page.evaluate(WATCH)
    calls.clear()
    message, rate = {"method": "get", "resource": "/a"}, {"perMinute": 3_000}
    for number in range(30):
        some = fleet.names[number * 100 : number * 100 + 100]
        stand.create_job({"name": f"side {number}", "destinations": some, "message": message, "rate": rate})
    expect(page.locator("tr[data-job-id] .badge").filter(has_text="resolved")).to_have_count(31)
    assert_quick(seen(page), calls)


def test_the_form_takes_them_as_a_range(page: Page) -> None:
    open_view(page, "/new")
    page.evaluate(WATCH)
    field(page, "Resource").fill("/system/reboot")
    field(page, "Destinations").fill(f"many-[00001-{MANY}]")
    expect(preview(page)).to_have_text("This makes 20,000 requests to 20,000 destinations.")
    assert seen(page)["nodes"] <= MOST_NODES
