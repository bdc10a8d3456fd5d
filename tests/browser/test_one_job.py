"""One job: watched, filtered, steered, run again and removed."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.complaints import Complaints
from tests.browser.views import (
    DASH,
    act,
    actions,
    bar,
    chip,
    dialog,
    field,
    groups,
    job_id,
    job_row,
    mixed_job,
    mute_job,
    mute_names,
    open_job,
    open_view,
    requests_shown,
    status,
)
from tests.system.stand import Document, Fleet, Stand

WATCH_BARS = """
window.told = [];
new MutationObserver((changes) => {
  for (const { target } of changes) {
    const told = [Number(target.ariaValueNow), target.ariaValueText];
    if (target.role === 'progressbar') window.told.push(told);
  }
}).observe(document, { subtree: true, attributes: true, attributeFilter: ['aria-valuetext'] });
"""
"""Remembers all values that a progress bar ever had; they are lost when the page is loaded again."""


@pytest.fixture(scope="module")
def mixed(stand: Stand, fleet: Fleet, broken: Fleet) -> Document:
    """A job in which 60 devices did well and 20 failed."""
    return mixed_job(stand, fleet.names, broken.names, name="led on, everywhere", labels=["kind=led"])


# Watching


def test_a_job_fills_up_to_the_end_without_a_reload(page: Page, stand: Stand, fleet: Fleet, broken: Fleet) -> None:
    page.add_init_script(WATCH_BARS)
    open_view(page)
    made = stand.create_job(
        {
            "name": "watched",
            "destinations": [*fleet.names, *broken.names],
            "message": {"method": "put", "resource": "/led"},
            "concurrency": 20,
        }
    )
    job_row(page, made).get_by_role("link", name="watched").click()
    expect(bar(page)).to_have_attribute("aria-label", "Progress of watched")
    expect(bar(page)).to_have_attribute("aria-valuemin", "0")
    expect(bar(page)).to_have_attribute("aria-valuemax", "100")
    expect(bar(page)).to_have_attribute("aria-valuetext", "100 %, 60 resolved, 20 error")
    expect(status(page)).to_have_text("resolved")
    expect(page).to_have_title(f"resolved · watched {DASH} puppetmaster")
    values = [value for value, _ in page.evaluate("told")]
    assert values == sorted(values) and values[-1] == 100
    assert any(0 < value < 100 for value in values)


def test_the_counts_are_a_stacked_bar_and_a_legend(page: Page, mixed: Document) -> None:
    open_job(page, mixed)
    parts = bar(page).locator(".bar-part:visible")
    assert [part.get_attribute("data-tone") for part in parts.all()] == ["resolved", "error"]
    wide, narrow = ((part.bounding_box() or {})["width"] for part in parts.all())
    assert wide / narrow == pytest.approx(3, rel=0.1)
    expect(page.locator(".legend-item[data-tone=error]")).to_have_text("error2025 %")
    expect(page.get_by_test_id("job-progress")).to_have_text("100 %")


# Requests


def test_requests_are_filtered_by_status_and_by_a_destination_with_a_star(page: Page, mixed: Document) -> None:
    open_job(page, mixed)
    expect(requests_shown(page)).to_have_count(80)
    chip(page, "error").click()
    expect(requests_shown(page)).to_have_count(20)
    expect(page).to_have_url(re.compile(r"\?status=error$"))
    field(page, "Destination").fill("bad-*1*")
    expect(requests_shown(page)).to_have_count(11)  # 1, 10 to 19
    field(page, "Destination").fill("dev-*")
    expect(page.get_by_text("No request matches.")).to_be_visible()
    chip(page, "all").click()
    expect(requests_shown(page)).to_have_count(60)
    field(page, "Destination").fill("0007")
    expect(requests_shown(page).locator(".opener")).to_have_text(["dev-0007", "bad-0007"])


def test_a_row_opens_and_shows_what_was_sent_and_what_was_answered(page: Page, mixed: Document) -> None:
    open_job(page, mixed, "?destination=bad-0003")
    opener = page.get_by_role("button", name="bad-0003")
    opener.click()
    expect(opener).to_have_attribute("aria-expanded", "true")
    expect(page.get_by_role("group", name="What is sent as JSON")).to_have_text('{"enable": true}')
    expect(page.get_by_role("group", name="The answer as JSON")).to_contain_text("the simulated work failed")
    opener.click()
    expect(page.get_by_role("group", name="The answer as JSON")).to_have_count(0)


def test_a_request_that_is_out_can_be_canceled_by_itself(page: Page, stand: Stand) -> None:
    made = mute_job(stand)
    open_job(page, made)
    row = requests_shown(page).nth(1)
    row.get_by_role("button").click()
    page.get_by_role("button", name="Cancel this request").click()
    expect(row.locator(".badge")).to_have_text("canceled")
    expect(page.get_by_role("button", name="Cancel this request")).to_have_count(0)
    expect(page.locator(".legend-item[data-tone=canceled] .legend-count")).to_have_text("1")
    assert [request["id"] for request in stand.job(made["id"], "status=canceled")["requests"]] == [made["id"] + 2]


def test_an_address_with_a_filter_shows_that_filter_and_back_leads_through_them(page: Page, mixed: Document) -> None:
    open_job(page, mixed, "?status=error&destination=bad-001*")
    expect(requests_shown(page)).to_have_count(10)
    expect(field(page, "Destination")).to_have_value("bad-001*")
    expect(chip(page, "error")).to_have_attribute("aria-pressed", "true")
    chip(page, "resolved").click()
    chip(page, "error").click()
    expect(page.get_by_text("No request matches.")).to_be_visible()
    page.go_back()
    page.go_back()
    expect(requests_shown(page)).to_have_count(10)
    expect(chip(page, "resolved")).to_have_attribute("aria-pressed", "false")


# Answers


def test_equal_answers_are_counted_and_lead_to_their_requests(page: Page, mixed: Document) -> None:
    open_job(page, mixed)
    expect(groups(page)).to_have_count(2)
    expect(groups(page).first.locator("summary")).to_have_text(re.compile(r"60\s*said 200\s*enable true\s*75 %"))
    failed = groups(page).nth(1)
    expect(failed.locator("summary")).to_have_text(re.compile(r"20\s*said 500\s*the simulated work failed\s*25 %"))
    failed.locator("summary").click()
    expect(failed.get_by_role("group", name="The answer as JSON")).to_contain_text('"message"')
    failed.get_by_role("link", name="Show the requests that are error").click()
    expect(requests_shown(page)).to_have_count(20)
    expect(page.get_by_role("heading", name="Requests")).to_be_in_viewport()
    failed.get_by_role("link", name="bad-0001").click()
    expect(requests_shown(page)).to_have_count(1)
    expect(page.get_by_role("button", name="bad-0001")).to_be_visible()


def test_silence_is_a_group_of_its_own(page: Page, stand: Stand, fleet: Fleet) -> None:
    message = {"method": "get", "resource": "/system/firmware"}
    there = {"destination": fleet.names[:3]}
    silent = {"destination": mute_names(1), "timeout": 0.5}
    batch = [{**message, "__request": to} for to in (there, silent)]
    open_job(page, stand.create_job({"batch": batch, "retry": {"limit": 0}}))
    group = page.locator("li.answer[data-status=timeout] summary")
    expect(group).to_have_text(re.compile(r"1\s*did not answer in time\s*25 %"))


# Steering


def test_a_job_is_paused_resumed_and_canceled(page: Page, stand: Stand) -> None:
    made = mute_job(stand, name="steered by hand")
    open_job(page, made)
    act(page, "Pause")
    expect(status(page)).to_have_text("paused")
    assert stand.job(made["id"], "limit=0")["status"] == "paused"
    act(page, "Resume")
    expect(status(page)).to_have_text("dispatching")
    act(page, "Cancel job")
    expect(dialog(page)).to_contain_text("Cancel steered by hand?")
    expect(dialog(page)).to_contain_text("3 requests have not ended")
    dialog(page).get_by_role("button", name="Let it run").click()
    expect(dialog(page)).to_have_count(0)
    expect(status(page)).to_have_text("dispatching")
    act(page, "Cancel job")
    dialog(page).get_by_role("button", name="Cancel the job").click()
    expect(status(page)).to_have_text("canceled")
    expect(actions(page).get_by_role("button", name="Pause")).to_be_hidden()
    assert stand.job(made["id"], "limit=0")["counts"]["canceled"] == 3


def test_limits_are_changed_while_it_runs_and_faults_stand_at_their_fields(
    page: Page, stand: Stand, complaints: Complaints
) -> None:
    made = mute_job(stand)
    complaints.allow(f"status of 400 .* /jobs/{made['id']}$")
    open_job(page, made)
    act(page, "Change limits")
    field(page, "Priority").fill("101")
    field(page, "Concurrency").fill("7")
    dialog(page).get_by_role("button", name="Change", exact=True).click()
    expect(dialog(page).locator(".fault").first).to_contain_text("100")
    expect(field(page, "Priority")).to_be_focused()
    field(page, "Priority").fill("90")
    dialog(page).get_by_role("button", name="Change", exact=True).click()
    expect(page.locator(".details").get_by_text("7 at once")).to_be_visible()
    changed = stand.job(made["id"], "limit=0")
    assert (changed["priority"], changed["concurrency"]) == (90, 7)


def test_a_job_that_waits_for_its_time_can_be_started_now(page: Page, stand: Stand, fleet: Fleet) -> None:
    made = stand.create_job(
        {
            "destinations": fleet.names[:2],
            "message": {"method": "get", "resource": "/a"},
            "startAt": "2038-01-01T00:00:00Z",
        }
    )
    open_job(page, made)
    expect(status(page)).to_have_text("pending")
    act(page, "Start now")
    expect(status(page)).to_have_text("resolved")


def test_the_failed_requests_are_run_again_as_a_new_job(page: Page, stand: Stand, mixed: Document) -> None:
    open_job(page, mixed)
    act(page, "Run the failed again")
    expect(page.get_by_test_id("rerun-preview")).to_have_text("This makes 20 requests to 20 destinations.")
    dialog(page).get_by_role("button", name="Run again").dblclick()
    expect(page).not_to_have_url(re.compile(rf"/{mixed['id']}"))
    expect(status(page)).to_have_text("resolved")
    again = stand.job(job_id(page))
    assert (again["name"], again["labels"], again["totalCount"]) == (mixed["name"], mixed["labels"], 20)
    assert again["counts"]["error"] == 20
    assert len([job for job in stand.http("get", "/jobs?label=kind=led").json() if job["totalCount"] == 20]) == 1


def test_a_job_is_removed_after_a_question(page: Page, stand: Stand, fleet: Fleet, complaints: Complaints) -> None:
    made = mixed_job(stand, fleet.names[:3], [], name="no longer needed")
    open_job(page, made)
    act(page, "Remove")
    expect(dialog(page)).to_contain_text("The job and its 3 requests with all answers will be gone.")
    page.keyboard.press("Escape")
    expect(dialog(page)).to_have_count(0)
    act(page, "Remove")
    dialog(page).get_by_role("button", name="Remove the job").click()
    expect(page.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()
    expect(job_row(page, made)).to_have_count(0)
    complaints.allow(f"status of 404 .* /jobs/{made['id']}", f"WebSocket .*/jobs/{made['id']}/ws.* 404")
    page.go_back()
    expect(page.get_by_role("heading", name=f"There is no job {made['id']}")).to_be_visible()


def test_a_job_that_is_removed_by_others_while_it_is_open_says_so(
    page: Page, stand: Stand, complaints: Complaints
) -> None:
    made = mute_job(stand, name="gone in a moment")
    complaints.allow(f"status of 404 .* /jobs/{made['id']}")  # a page of requests may be on its way
    open_job(page, made)
    act(page, "Cancel job")
    expect(dialog(page)).to_be_visible()
    stand.remove_job(made["id"])
    expect(page.get_by_role("heading", name="This job was removed")).to_be_focused()
    expect(dialog(page)).to_have_count(0)  # before the next line: the dialog has the name too
    expect(page.get_by_text("gone in a moment")).to_be_visible()
    page.get_by_role("link", name="To the jobs").click()
    expect(page.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()


def test_what_others_did_meanwhile_is_no_error(page: Page, stand: Stand) -> None:
    made = mute_job(stand)
    open_job(page, made)
    act(page, "Cancel job")
    stand.update_job(made["id"], status="canceled")
    expect(page.locator(".job-sub .badge")).to_have_text("canceled")
    dialog(page).get_by_role("button", name="Cancel the job").click()
    expect(dialog(page)).to_have_count(0)
    expect(actions(page).get_by_role("button", name="Remove")).to_be_visible()


def test_the_address_of_an_unknown_job_says_that_there_is_none(page: Page, complaints: Complaints) -> None:
    complaints.allow("status of 404 .* /jobs/7$", "WebSocket .*/jobs/7/ws.* 404")
    open_view(page, "/jobs/7")
    expect(page.get_by_role("heading", name="There is no job 7")).to_be_visible()
