"""The list of jobs: live, filtered, paged, and with addresses that can be kept."""

from __future__ import annotations

import re

import httpx
from playwright.sync_api import Page, expect

from tests.browser.views import DASH, chip, job_row, jobs_shown, mute_job, mute_names, open_view, stream
from tests.system.stand import Fleet, Stand

STEERED = "a job that is steered from elsewhere"


def test_without_a_job_the_list_says_what_a_job_is_and_leads_to_the_form(page: Page) -> None:
    page.goto("/")
    expect(page.get_by_role("heading", name="No jobs yet")).to_be_visible()
    page.get_by_role("main").get_by_role("link", name="New job").last.click()
    expect(page.get_by_role("heading", name="New job")).to_be_focused()


def test_jobs_appear_fill_up_and_disappear_by_themselves(page: Page, stand: Stand, fleet: Fleet) -> None:
    open_view(page)
    expect(stream(page)).to_have_text("Live")
    made = stand.create_job(
        {"name": "led on", "destinations": fleet.names, "message": {"method": "put", "resource": "/led"}}
    )
    row = job_row(page, made)
    expect(row.get_by_role("link", name="led on")).to_be_visible()
    expect(row.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "100")
    expect(row.locator(".badge")).to_have_text("resolved")
    expect(row.locator(".col-done")).to_have_text("60 of 60")
    stand.remove_job(made["id"])
    expect(row).to_have_count(0)


def test_the_list_shows_what_others_do_with_a_job(page: Page, stand: Stand) -> None:
    open_view(page)
    made = mute_job(stand, name=STEERED)
    badge = job_row(page, made).locator(".badge")
    expect(badge).to_have_text("dispatching")
    stand.update_job(made["id"], status="paused")
    expect(badge).to_have_text("paused")
    expect(page.get_by_test_id("jobs-summary")).to_contain_text("1 paused")
    stand.update_job(made["id"], status="canceled")
    expect(badge).to_have_text("canceled")


def test_the_newest_stands_first_and_a_press_on_its_row_opens_it(page: Page, stand: Stand) -> None:
    older, newer = (mute_job(stand, name=f"one of two, {word}") for word in ("older", "newer"))
    open_view(page)
    expect(jobs_shown(page).first).to_have_attribute("data-job-id", str(newer["id"]))
    expect(jobs_shown(page).nth(1)).to_have_attribute("data-job-id", str(older["id"]))
    job_row(page, older).locator(".col-progress").click()
    expect(page.get_by_role("heading", name="one of two, older")).to_be_focused()


def test_a_text_a_label_and_statuses_filter_the_list_and_stand_in_the_address(page: Page, stand: Stand) -> None:
    lamps = mute_job(stand, name="lamps in Rome", labels=["site=rome", "kind=lamp"])
    pumps = mute_job(stand, name="pumps in Rome", labels=["site=rome", "kind=pump"])
    stand.update_job(pumps["id"], status="paused")
    open_view(page)
    job_row(page, pumps).get_by_role("button", name="site=rome").click()
    expect(jobs_shown(page)).to_have_count(2)
    chip(page, "paused").click()
    expect(jobs_shown(page)).to_have_count(1)
    expect(chip(page, "paused")).to_have_attribute("aria-pressed", "true")
    expect(page).to_have_url(re.compile(r"#/jobs\?status=paused&label=site%3Drome$"))
    page.go_back()
    expect(job_row(page, lamps)).to_be_visible()
    page.get_by_label("Find").fill("LAMPS")
    expect(jobs_shown(page)).to_have_count(1)
    expect(page.get_by_test_id("jobs-summary")).to_have_text("1 of 2 jobs")
    page.get_by_role("button", name="No longer filter by the label site=rome").click()
    expect(page).to_have_url(re.compile(r"#/jobs\?text=LAMPS$"))
    expect(job_row(page, lamps)).to_be_visible()


def test_a_filter_is_live_too(page: Page, stand: Stand) -> None:
    open_view(page, "/jobs?status=paused&label=ring%3Dcanary")
    expect(page.get_by_role("heading", name="No job matches")).to_be_visible()
    made = mute_job(stand, labels=["ring=canary"])
    mute_job(stand, labels=["ring=wide"])
    stand.update_job(made["id"], status="paused")
    expect(job_row(page, made)).to_be_visible()
    expect(jobs_shown(page)).to_have_count(1)
    stand.update_job(made["id"], status="dispatching")
    expect(page.get_by_role("heading", name="No job matches")).to_be_visible()


def test_a_label_that_is_typed_filters_as_well(page: Page, stand: Stand) -> None:
    made = mute_job(stand, labels=["site=oslo"])
    open_view(page)
    page.get_by_label("Label", exact=True).fill("site=oslo")
    page.get_by_label("Label", exact=True).press("Enter")
    expect(jobs_shown(page)).to_have_count(1)
    expect(job_row(page, made)).to_be_visible()


def test_of_many_jobs_a_hundred_are_shown_and_the_older_ones_on_further_pages(page: Page, stand: Stand) -> None:
    message = {"method": "get", "resource": "/a"}
    with httpx.Client(base_url=stand.site, trust_env=False) as client:  # one connection for all of them
        jobs = [{"name": f"small {number}", "labels": ["many"], "message": message} for number in range(105)]
        made = [client.post("/jobs", json={**job, "destinations": mute_names(1)}) for job in jobs]
    ids = [answer.json()["id"] for answer in made]
    open_view(page, "/jobs?label=many")
    expect(jobs_shown(page)).to_have_count(100)
    page.get_by_role("link", name="Older").click()
    expect(jobs_shown(page)).to_have_count(5)
    expect(jobs_shown(page).last).to_have_attribute("data-job-id", str(ids[0]))
    expect(page.get_by_role("navigation", name="Pages of jobs")).to_contain_text(f"101 {DASH} 105")
    page.get_by_role("link", name="Newer").click()
    expect(jobs_shown(page).first).to_have_attribute("data-job-id", str(ids[-1]))
    page.get_by_label("Find").fill("small 7")
    expect(jobs_shown(page)).to_have_count(11)  # 7 and 70 to 79
    newest = mute_job(stand, 1, name="small 7 again", labels=["many"])
    expect(job_row(page, newest)).to_be_visible()


def test_back_shows_the_list_as_it_was_left(page: Page, stand: Stand) -> None:
    for number in range(30):
        mute_job(stand, 1, name=f"tall {number}", labels=["tall"])
    open_view(page, "/jobs?label=tall")
    expect(jobs_shown(page)).to_have_count(30)
    jobs_shown(page).last.get_by_role("link").click()
    expect(page.get_by_role("heading", name="tall 0")).to_be_visible()
    page.go_back()
    expect(jobs_shown(page).last).to_be_in_viewport()
    expect(page).to_have_url(re.compile(r"#/jobs\?label=tall$"))


def test_an_address_that_leads_nowhere_says_so(page: Page) -> None:
    open_view(page, "/nothing")
    expect(page.get_by_role("heading", name="There is nothing here")).to_be_visible()
    page.get_by_role("link", name="To the jobs").click()
    expect(page.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()
