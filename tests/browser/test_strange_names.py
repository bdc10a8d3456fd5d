"""Whatever a job, a label, a device or an answer is called: it is text, and leaves the page as it is."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.views import (
    act,
    dialog,
    field,
    groups,
    job_row,
    mixed_job,
    open_job,
    open_view,
    preview,
    requests_shown,
    stream,
)
from tests.system.stand import Document, Stand

MARKUP = "<img src=x onerror=window.broken=1>"
SCRIPT = "</script><script>window.broken=1</script>"
TURNED = "\N{RIGHT-TO-LEFT OVERRIDE}gnp.erawmrif"
ARABIC = "مضخة المياه"
LONG = "W" * 128
EMOJI = "pump 😀 \N{COMBINING ACUTE ACCENT} &amp; {{7*7}}"

NAMES = [MARKUP, TURNED, ARABIC, LONG, EMOJI]

CHARACTERS = """(node, char) => {
  const place = (found) => {
    const range = document.createRange();
    range.setStart(node.firstChild, found);
    range.setEnd(node.firstChild, found + 1);
    return range.getBoundingClientRect().left;
  };
  return [place(0), place(node.textContent.lastIndexOf(char))];
}"""
"""Where the first character of a text is, and the last of these."""


@pytest.fixture(scope="module")
def devices(stand: Stand) -> list[str]:
    return stand.fleet("strange", names=NAMES).names


@pytest.fixture(scope="module")
def jobs(stand: Stand, devices: list[str]) -> list[Document]:
    """A job of each of the names, to all devices of such names, which answer such texts."""
    made = [stand.create_job(strange(name, devices)) for name in NAMES]
    for job in made:
        stand.wait_job(job["id"])
    return made


def strange(name: str, devices: list[str]) -> Document:
    message = {"method": "post", "resource": f"/{MARKUP}?{TURNED}", "data": {name: [SCRIPT, MARKUP]}}
    return {"name": name, "labels": [name, SCRIPT, TURNED], "destinations": devices, "message": message}


def assert_nothing_came_of_it(page: Page) -> None:
    assert page.evaluate("window.broken") is None
    assert page.locator("img, body script").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it can be scrolled sideways"


def text_of(locator: Locator) -> str:
    return locator.evaluate("node => node.textContent")  # type: ignore[no-any-return]


def test_in_the_list(page: Page, jobs: list[Document]) -> None:
    open_view(page)
    for job in jobs:
        row = job_row(page, job)
        expect(row).to_be_visible()
        assert text_of(row.locator(".job-name")) == job["name"]
        assert [text_of(label) for label in row.locator(".label").all()] == job["labels"]
    assert_nothing_came_of_it(page)


def test_in_the_filters_of_the_list(page: Page, jobs: list[Document]) -> None:
    for job in jobs:
        open_view(page)
        job_row(page, job).locator(".label").first.click()
        expect(page.locator(".tokens .token")).to_have_count(1)
        assert text_of(page.locator(".tokens .token span")) == job["name"]
        page.get_by_label("Find").fill(job["name"])
        expect(page).to_have_url(re.compile("[?&]text="))  # what is typed comes into force a moment later
        expect(job_row(page, job)).to_be_visible()
        assert_nothing_came_of_it(page)
    page.reload()
    assert text_of(page.locator(".tokens .token span")) == jobs[-1]["name"]
    expect(job_row(page, jobs[-1])).to_be_visible()


def test_in_a_job(page: Page, jobs: list[Document]) -> None:
    for job in jobs:
        page.set_viewport_size({"width": 1280, "height": 900})
        open_job(page, job)
        assert text_of(page.locator("h1")) == job["name"]
        expect(requests_shown(page)).to_have_count(len(NAMES))
        assert [text_of(name) for name in requests_shown(page).locator(".opener .mono").all()] == NAMES
        requests_shown(page).locator(".opener").first.click()
        answer = page.get_by_role("group", name="The answer as JSON").last
        assert json.loads(text_of(answer)) == {job["name"]: [SCRIPT, MARKUP]}
        expect(page.locator(".message")).to_contain_text(MARKUP)
        groups(page).first.locator("summary").click()
        assert [text_of(name) for name in groups(page).first.locator(".examples a").all()] == NAMES
        assert_nothing_came_of_it(page)
        page.set_viewport_size({"width": 390, "height": 844})
        assert_nothing_came_of_it(page)


def test_in_a_filter_by_destination(page: Page, jobs: list[Document]) -> None:
    open_job(page, jobs[0])
    groups(page).first.locator("summary").click()
    for name in NAMES:
        groups(page).first.get_by_role("link", name=name, exact=True).click()
        expect(field(page, "Destination")).to_have_value(name)
        expect(page.get_by_role("button", name=name, exact=True)).to_be_visible()
        expect(requests_shown(page)).to_have_count(1)
        assert text_of(requests_shown(page).locator(".opener .mono")) == name
        assert_nothing_came_of_it(page)


def test_in_a_question_and_what_follows_stands_to_the_right_of_it(page: Page, jobs: list[Document]) -> None:
    for job in jobs:
        open_job(page, job)
        act(page, "Remove")
        title = dialog(page).locator("h2")
        assert job["name"] in text_of(title)
        if job["name"] != LONG:  # that one has several lines
            first, last = title.evaluate(CHARACTERS, "?")
            assert first < last
        assert_nothing_came_of_it(page)
        dialog(page).get_by_role("button", name="Keep it").click()


def test_in_the_form(page: Page, stand: Stand) -> None:
    open_view(page, "/new")
    field(page, "Resource").fill(f"/{MARKUP}")
    field(page, "Data").fill(json.dumps({TURNED: SCRIPT}))
    field(page, "Destinations").fill("\n".join([MARKUP, TURNED, ARABIC, LONG, f"bad/{MARKUP}"]))
    field(page, "Name").fill(MARKUP)
    field(page, "Labels").fill(f"{SCRIPT}, {ARABIC}")
    expect(page.get_by_text(f"“bad/{MARKUP}”:")).to_be_visible()
    field(page, "Destinations").fill("\n".join([MARKUP, TURNED, ARABIC, LONG]))
    expect(preview(page)).to_have_text("This makes 4 requests to 4 destinations.")
    page.get_by_role("button", name="JSON", exact=True).click()
    written = json.loads(field(page, "Job document").input_value())
    assert written["batch"][0]["__request"]["destination"] == [MARKUP, TURNED, ARABIC, LONG]
    assert written["batch"][0]["data"] == {TURNED: SCRIPT}
    expect(preview(page)).to_have_text("This makes 4 requests to 4 destinations.")
    page.get_by_role("button", name="Form", exact=True).click()
    assert field(page, "Destinations").input_value().split("\n") == [MARKUP, TURNED, ARABIC, LONG]
    assert_nothing_came_of_it(page)


def test_when_it_is_removed_under_the_page(page: Page, stand: Stand, devices: list[str]) -> None:
    made = mixed_job(stand, devices, [], name=TURNED)
    open_job(page, made)
    stand.remove_job(made["id"])
    words = page.locator(".empty p").first
    expect(words).to_contain_text(TURNED)
    first, last = words.evaluate(CHARACTERS, ".")
    assert first < last
    expect(stream(page)).to_be_hidden()
    assert_nothing_came_of_it(page)
