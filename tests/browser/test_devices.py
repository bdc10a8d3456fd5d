"""The devices on the page: who there is, looked for, and given a job; and the form that names them so."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.complaints import Complaints
from tests.browser.views import create, fault, field, job_id, open_view, preview
from tests.system.stand import Fleet, Stand

MESSAGE = {"method": "post", "resource": "/system/reboot"}


@pytest.fixture(scope="module")
def known(stand: Stand) -> Stand:
    """An installation that knows 130 devices."""
    for number in range(130):
        say(
            stand,
            f"box-{number:03d}",
            connection="online" if number % 10 else "offline",
            labels={"site": "berlin" if number < 30 else "bonn", "rack": str(number % 3)},
            facts={"hostname": f"host{number}", "system": "Linux", "version": "1.5.0"},
        )
    stand.listen("/remote/box-129/presence").wait()
    return stand


def say(stand: Stand, device: str, **presence: object) -> None:
    """A device says how it is."""
    stand.publish(f"/remote/{device}/presence", json.dumps(presence), retain=True)


def rows(page: Page) -> Locator:
    """The devices that are shown."""
    return page.locator("tr[data-device]")


def row(page: Page, device: str) -> Locator:
    """The row of a device."""
    return page.locator(f"tr[data-device='{device}']")


def chip(page: Page, connection: str) -> Locator:
    """The button that filters by a connection."""
    return page.locator(f".chip[data-connection='{connection}']")


# The list


def test_devices_are_listed_a_hundred_at_a_time(page: Page, known: Stand) -> None:
    open_view(page)
    page.get_by_role("link", name="Devices", exact=True).click()
    expect(page.get_by_role("heading", name="Devices", exact=True)).to_be_focused()
    expect(rows(page)).to_have_count(100)
    expect(page.get_by_role("link", name="Devices", exact=True)).to_have_attribute("aria-current", "page")
    expect(row(page, "box-001")).to_have_text(re.compile(r"box-001\s*online.*site=berlin\s*rack=1.*host1Linux1\.5\.0"))
    expect(row(page, "box-000").locator(".badge")).to_have_text("offline")
    page.get_by_role("link", name="Next").click()
    expect(rows(page)).to_have_count(31)  # and localhost
    expect(row(page, "localhost").locator(".col-seen")).to_have_text("here")
    page.go_back()
    expect(row(page, "box-000")).to_be_visible()


def test_devices_are_filtered_by_name_connection_and_label(page: Page, known: Stand) -> None:
    open_view(page, "/devices")
    field(page, "Name").fill("box-0*")
    expect(rows(page)).to_have_count(100)
    field(page, "Labels").fill("site=berlin, rack=0")
    expect(rows(page)).to_have_count(10)
    chip(page, "offline").click()
    expect(rows(page)).to_have_count(1)  # 0, but neither 10 nor 20
    expect(page).to_have_url(re.compile(r"#/devices\?id=box-0\*&connection=offline&label=site%3Dberlin&label=rack%3D0"))
    page.reload()
    expect(rows(page)).to_have_count(1)
    expect(field(page, "Labels")).to_have_value("site=berlin, rack=0")
    field(page, "Name").fill("nobody")
    expect(page.get_by_role("heading", name="No device matches")).to_be_visible()
    page.get_by_role("link", name="Show all devices").click()
    expect(field(page, "Name")).to_have_value("")
    row(page, "box-001").get_by_role("button", name="rack=1").click()
    expect(field(page, "Labels")).to_have_value("rack=1")
    expect(row(page, "box-002")).to_have_count(0)


def test_what_changes_is_seen_without_a_reload(page: Page, known: Stand) -> None:
    open_view(page, "/devices?id=visitor-*")
    expect(page.get_by_role("heading", name="No device matches")).to_be_visible()
    say(known, "visitor-1", connection="online", labels={"x": "<b>y</b>"}, facts={"version": "<i>2</i>"})
    expect(row(page, "visitor-1").locator(".badge")).to_have_text("online")
    expect(row(page, "visitor-1")).to_contain_text("x=<b>y</b>")
    expect(row(page, "visitor-1")).to_contain_text("<i>2</i>")
    say(known, "visitor-1", connection="offline")
    expect(row(page, "visitor-1").locator(".badge")).to_have_text("offline")


def test_the_request_that_is_out_leads_to_its_job(page: Page, known: Stand) -> None:
    made = known.create_job({"destinations": "box-001", "message": MESSAGE})
    open_view(page, "/devices?id=box-001")
    row(page, "box-001").get_by_role("link", name=str(made["requests"][0])).click()
    expect(page).to_have_url(re.compile(rf"#/jobs/{made['id']}\?destination=box-001$"))
    page.go_back()
    expect(rows(page)).to_have_count(1)
    known.update_job(made["id"], status="canceled")
    expect(row(page, "box-001").locator(".col-request")).to_have_text("\N{EN DASH}")


def test_a_request_that_is_not_there_is_told(page: Page, known: Stand, complaints: Complaints) -> None:
    complaints.allow(r"status of 404 .* /requests/5$")
    open_view(page, "/requests/5")
    expect(page.get_by_role("heading", name="There is no request 5")).to_be_visible()


def test_on_a_narrow_screen_nothing_is_cut_off(new_window: Callable[..., Page], known: Stand) -> None:
    page = new_window(viewport={"width": 390, "height": 800})
    open_view(page, "/devices")
    expect(row(page, "box-001")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


# A job for them


def test_a_job_is_made_for_those_that_are_shown(page: Page, known: Stand) -> None:
    open_view(page, "/devices")
    field(page, "Labels").fill("site=berlin")
    chip(page, "online").click()
    expect(rows(page)).to_have_count(27)
    page.get_by_role("link", name="New job for these").click()
    expect(field(page, "Labels of devices")).to_have_value("site=berlin")
    expect(field(page, "Connection")).to_have_value("online")
    field(page, "Resource").fill("/system/reboot")
    expect(preview(page)).to_have_text("This makes 27 requests to 27 destinations.")
    field(page, "Sample of them").fill("3")
    field(page, "Devices that are away").select_option("skip")
    expect(preview(page)).to_have_text("This makes 3 requests to 3 destinations.")
    create(page)
    made = known.job(job_id(page))
    targets = {"labels": {"site": ["berlin"]}, "connection": ["online"], "sample": 3}
    assert (made["targets"], made["offline"], made["totalCount"]) == (targets, "skip", 3)
    known.update_job(made["id"], status="canceled")


def test_a_command_is_a_kind_of_message(page: Page, fleet: Fleet) -> None:
    open_view(page, "/new")
    field(page, "What is sent").select_option("command")
    expect(field(page, "Resource")).to_be_hidden()
    expect(preview(page)).to_have_text("Give a command line and destinations to see how many requests this makes.")
    field(page, "Command line").fill("df -h /\nuptime")
    field(page, "Destinations").fill("dev-[0001-0002]")
    expect(preview(page)).to_have_text("This makes 2 requests to 2 destinations.")
    page.get_by_role("button", name="JSON", exact=True).click()
    document = json.loads(field(page, "Job document").input_value())
    [message] = document["batch"]
    assert message["data"] == {"commandLine": "df -h /\nuptime"}
    assert (message["method"], message["resource"]) == ("post", "/agent/commands")
    page.get_by_role("button", name="Form", exact=True).click()
    expect(field(page, "Command line")).to_have_value("df -h /\nuptime")
    create(page)
    job_id(page)


def test_targets_go_from_json_to_the_form_or_it_is_said_that_they_do_not(
    page: Page, stand: Stand, complaints: Complaints
) -> None:
    complaints.allow("status of 409 .* /jobs$")  # the preview, when it has the time: no device fits these targets
    open_view(page, "/new")
    to_json, to_form = (page.get_by_role("button", name=name, exact=True) for name in ("JSON", "Form"))
    for targets, shown in (
        ({"labels": {"site": ["berlin", "bonn"], "rack": ["7"]}}, ["site=berlin, site=bonn, rack=7", "", ""]),
        ({"connection": "online", "sample": "10%"}, ["", "online", "10%"]),
        ({}, ["", "any", ""]),
    ):
        to_json.click()
        field(page, "Job document").fill(json.dumps({"targets": targets, "message": MESSAGE}))
        to_form.click()
        for name, value in zip(("Labels of devices", "Connection", "Sample of them"), shown, strict=True):
            expect(field(page, name)).to_have_value(value)
    to_json.click()
    refused = page.get_by_text("The form can\u2019t show this document")
    for targets in ({"facts": {"v": "1"}}, {"connection": ["online", "unknown"]}, {"labels": {"site": "a,b"}}):
        field(page, "Job document").fill(json.dumps({"targets": targets, "message": MESSAGE}))
        expect(refused).to_have_count(0)
        to_form.click()
        expect(refused).to_be_visible()


def test_targets_that_can_not_be_read_are_marked(page: Page, stand: Stand) -> None:
    open_view(page, "/new")
    field(page, "Resource").fill("/x")
    field(page, "Labels of devices").fill("=berlin")
    field(page, "Sample of them").fill("many")
    expect(fault(page, "Labels of devices")).to_contain_text("is no label")
    expect(fault(page, "Sample of them")).to_contain_text("how many, or a share")
    field(page, "Labels of devices").fill("")
    field(page, "Sample of them").fill("5")
    expect(fault(page, "Connection")).to_contain_text("a sample of which devices")
