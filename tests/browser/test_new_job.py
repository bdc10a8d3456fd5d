"""The form: what it makes, what it says before, and what it does not lose."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.complaints import Complaints
from tests.browser.views import create, fault, field, job_id, mute_names, open_view, preview
from tests.system.stand import Fleet, Stand

FULL = {
    "Resource": "/system/firmware",
    "Data": '{"version": "1.5.0", "serial": 12345678901234567890}',
    "Name": "firmware 1.5",
    "Labels": "site=berlin, ring=canary",
    "Priority": "70",
    "Request timeout": "30",
    "Job timeout": "3600",
    "Concurrency": "20",
    "Requests a minute": "600",
    "Multiply the rate by": "2",
    "After so many resolved": "100",
    "Up to so many a minute": "6000",
    "Give up at % failed": "10",
    "Of at least so many ended": "50",
    "Attempts after the first": "2",
    "Try again on": "423, 503, timeout",
    "First delay": "0.5",
    "Each delay times": "3",
    "Longest delay": "30",
    "Jitter": "0.25",
}


@pytest.fixture
def form(page: Page) -> Page:
    """The form, empty."""
    open_view(page, "/new")
    expect(page.get_by_role("heading", name="New job")).to_be_visible()
    return page


def write(page: Page, values: dict[str, str]) -> None:
    page.get_by_text("Limits, start time, retry").click()
    for name, value in values.items():
        field(page, name).fill(value)


def document(page: Page) -> dict[str, object]:
    """The job document of the JSON view."""
    page.get_by_role("button", name="JSON", exact=True).click()
    return json.loads(field(page, "Job document").input_value())  # type: ignore[no-any-return]


def jobs_called(stand: Stand, name: str) -> list[int]:
    return [job["id"] for job in stand.http("get", "/jobs").json() if job["name"] == name]


def test_the_form_says_how_many_requests_it_will_make_and_a_double_click_makes_one_job(
    form: Page, stand: Stand, fleet: Fleet
) -> None:
    expect(preview(form)).to_have_text("Give a resource and destinations to see how many requests this makes.")
    field(form, "Method").select_option("put")
    field(form, "Resource").fill("/system/led")
    field(form, "Data").fill('{"enable": true}')
    field(form, "Destinations").fill("dev-[0001-0009]\ndev-0001, dev-0010")
    expect(form.get_by_test_id("destination-count")).to_have_text("10 destinations, 1 repetition left out")
    expect(preview(form)).to_have_text("This makes 10 requests to 10 destinations.")
    field(form, "Name").fill("pressed twice")
    form.get_by_role("button", name="Create job").dblclick()
    made = job_id(form)
    expect(form.get_by_role("heading", name="pressed twice")).to_be_visible()
    stand.wait_job(made)
    assert jobs_called(stand, "pressed twice") == [made]
    done = [(record["method"], record["data"]) for record in stand.work(stand.job(made))]
    assert done == 10 * [("put", {"enable": True})]


def test_an_answer_that_gets_lost_on_its_way_does_not_make_a_second_job(
    form: Page, stand: Stand, complaints: Complaints
) -> None:
    complaints.allow("net::ERR_FAILED .*/jobs$")
    lost: list[int] = []

    def lose(route: Route) -> None:
        made = route.fetch().json()
        if "dryRun" in made or lost:
            route.fallback()
            return
        lost.append(made["id"])
        route.abort()

    field(form, "Resource").fill("/system/reboot")
    field(form, "Destinations").fill(mute_names(1)[0])
    field(form, "Name").fill("made once")
    form.route("**/jobs", lose)
    create(form)
    expect(form.get_by_role("alert").get_by_text("it does not make a second one")).to_be_visible()
    create(form)
    assert job_id(form) == lost[0]
    assert jobs_called(stand, "made once") == lost


def test_faults_that_the_server_finds_stand_at_their_fields(form: Page) -> None:
    field(form, "Resource").fill("/system/reboot")
    field(form, "Destinations").fill("dev-0001\ndev/0002")
    field(form, "Labels").fill("site=berlin, " + 129 * "x")
    write(form, {"Priority": "101", "Concurrency": "1.5", "Attempts after the first": "-1"})
    expect(preview(form)).to_have_text("5 fields need mending.")
    expect(fault(form, "Destinations")).to_contain_text("“dev/0002”: ")
    expect(fault(form, "Labels")).to_contain_text("128")
    expect(fault(form, "Priority")).to_contain_text("100")
    expect(fault(form, "Concurrency")).to_be_visible()
    expect(fault(form, "Attempts after the first")).to_be_visible()
    expect(field(form, "Priority")).to_have_attribute("aria-invalid", "true")
    create(form)
    expect(field(form, "Destinations")).to_be_focused()
    field(form, "Destinations").fill("dev-0001")
    expect(fault(form, "Destinations")).to_be_hidden()
    expect(preview(form)).to_have_text("4 fields need mending.")


def test_faults_that_the_page_finds_itself_need_no_server(form: Page) -> None:
    create(form)
    expect(fault(form, "Resource")).to_have_text("A resource is needed, such as /system/reboot")
    expect(fault(form, "Destinations")).to_have_text("At least one destination is needed")
    expect(field(form, "Resource")).to_be_focused()
    field(form, "Data").fill('{"a": 1,}')
    expect(fault(form, "Data")).to_have_text("Line 1, column 9: there is a comma too many before }")
    field(form, "Destinations").fill("dev-[9-1]")
    expect(fault(form, "Destinations")).to_have_text("The range [9-1] runs backwards")
    expect(preview(form)).to_have_text("2 fields need mending.")


def test_the_json_view_shows_the_same_job_and_leads_back_to_the_same_fields(form: Page) -> None:
    field(form, "Method").select_option("post")
    field(form, "Destinations").fill("dev-[01-03]")
    write(form, FULL)
    field(form, "Start time").fill("2038-01-01T12:30:15")
    expect(preview(form)).to_have_text("This makes 3 requests to 3 destinations.")
    written = document(form)
    batch = written["batch"]
    assert batch == [
        {
            "method": "post",
            "resource": "/system/firmware",
            "data": {"version": "1.5.0", "serial": 12345678901234567890},
            "__request": {"destination": ["dev-01", "dev-02", "dev-03"]},
        }
    ]
    assert written["rate"] == {"perMinute": 600, "factor": 2, "every": 100, "max": 6000}
    expect(preview(form)).to_have_text("This makes 3 requests to 3 destinations.")
    form.get_by_role("button", name="Form", exact=True).click()
    shown = {name: field(form, name).input_value() for name in FULL}
    assert json.loads(shown.pop("Data")) == json.loads(FULL["Data"])
    assert shown == {name: value for name, value in FULL.items() if name != "Data"}
    assert field(form, "Start time").input_value() == "2038-01-01T12:30:15"
    assert field(form, "Destinations").input_value().split() == ["dev-01", "dev-02", "dev-03"]
    assert document(form) == written


def test_a_document_that_the_form_has_no_fields_for_is_submitted_as_json(form: Page, stand: Stand) -> None:
    form.get_by_role("button", name="JSON", exact=True).click()
    text = field(form, "Job document")
    text.fill('{"batch": [')
    expect(preview(form)).to_have_text("The document needs mending.")
    to = {"destination": mute_names(2)}
    batch = [{"method": method, "resource": "/a", "__request": to} for method in ("get", "delete")]
    text.fill(json.dumps({"name": "two messages", "batch": batch}))
    expect(preview(form)).to_have_text("This makes 4 requests to 2 destinations, with 2 messages.")
    form.get_by_role("button", name="Form", exact=True).click()
    expect(form.get_by_role("alert")).to_contain_text("show this document")
    create(form)
    assert stand.job(job_id(form))["totalCount"] == 4


def test_what_is_wrong_in_the_json_is_told_with_its_path(form: Page) -> None:
    form.get_by_role("button", name="JSON", exact=True).click()
    field(form, "Job document").fill('{"destinations": ["a"], "message": {"method": "get"}, "colour": "red"}')
    faults = form.locator(".preview-faults li")
    expect(faults).to_have_count(2)
    expect(faults.filter(has_text="colour")).to_be_visible()
    expect(faults.filter(has_text="message.resource")).to_be_visible()


def test_a_file_names_destinations(form: Page, tmp_path: Path) -> None:
    listed = tmp_path / "cameras.txt"
    listed.write_text("# the hall\n00:0c:29:1c:e8:01\n00:0c:29:1c:e8:02\n", encoding="utf-8")
    field(form, "Resource").fill("/system/reboot")
    with form.expect_file_chooser() as choosing:
        form.get_by_role("button", name="Add a file").click()
    choosing.value.set_files(listed)
    expect(form.get_by_role("button", name="Leave out the file cameras.txt")).to_contain_text("2 lines")
    expect(preview(form)).to_have_text("This makes 2 requests to 2 destinations.")
    form.get_by_role("button", name="Leave out the file cameras.txt").click()
    expect(preview(form)).to_have_text("Give destinations to see how many requests this makes.")


def test_what_was_typed_outlives_a_reload_and_another_view(form: Page) -> None:
    field(form, "Resource").fill("/system/reboot")
    field(form, "Destinations").fill("dev-[0001-0003]")
    expect(preview(form)).to_have_text("This makes 3 requests to 3 destinations.")
    form.get_by_role("link", name="Jobs").click()
    expect(form.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()
    form.go_back()
    expect(preview(form)).to_have_text("This makes 3 requests to 3 destinations.")
    form.reload()
    expect(field(form, "Destinations")).to_have_value("dev-[0001-0003]")
    form.get_by_role("button", name="Clear the form").click()
    expect(field(form, "Destinations")).to_have_value("")


def test_the_same_can_be_taken_as_a_curl_command(form: Page, stand: Stand) -> None:
    field(form, "Resource").fill("/it's")
    field(form, "Destinations").fill("dev-0001")
    form.get_by_role("button", name="As curl").click()
    command = form.get_by_role("group", name="The command")
    expect(command).to_contain_text(f"curl -X POST '{stand.site}/jobs'")
    expect(command).to_contain_text("/it'\\''s")
    form.get_by_role("button", name="Close").click()
    expect(form.get_by_role("dialog")).to_have_count(0)
    expect(form.get_by_role("button", name="As curl")).to_be_focused()


def test_a_new_form_is_a_new_job_though_it_says_the_same(new_window: Callable[..., Page], stand: Stand) -> None:
    ids = set()
    page = new_window()
    for _ in range(2):
        open_view(page, "/new")
        field(page, "Resource").fill("/system/reboot")
        field(page, "Destinations").fill(mute_names(1)[0])
        create(page)
        expect(page).to_have_url(re.compile(r"#/jobs/\d+$"))
        ids.add(job_id(page))
    assert len(ids) == 2
