"""Where things are on the page, by what a person or a screen reader knows them by; and jobs to look at."""

from __future__ import annotations

import re
from itertools import count

from playwright.sync_api import Locator, Page, expect

from tests.system.stand import Document, Stand

DASH = "\N{EN DASH}"


def open_view(page: Page, path: str = "/jobs") -> None:
    """Open a view as from a bookmark."""
    page.goto(f"/#{path}")


def open_job(page: Page, job: Document, query: str = "") -> None:
    """Open a job, and wait until it is shown and live."""
    open_view(page, f"/jobs/{job['id']}{query}")
    expect(actions(page)).to_be_visible()
    expect(stream(page)).to_have_text("Live")


def job_id(page: Page) -> int:
    """The id of the job that is shown."""
    page.wait_for_url(re.compile(r"#/jobs/\d+"))
    return int(page.url.partition("#/jobs/")[2].partition("?")[0])


def stream(page: Page) -> Locator:
    """Whether the page is live."""
    return page.get_by_test_id("stream")


# The list


def job_row(page: Page, job: Document) -> Locator:
    """The row of a job in the list."""
    return page.locator(f"tr[data-job-id='{job['id']}']")


def jobs_shown(page: Page) -> Locator:
    """All rows of the list."""
    return page.locator("tr[data-job-id]")


# One job


def actions(page: Page) -> Locator:
    """What can be done with a job."""
    return page.get_by_role("group", name="What to do with this job")


def act(page: Page, name: str) -> None:
    """Press the button of an action."""
    actions(page).get_by_role("button", name=name, exact=True).click()


def status(page: Page) -> Locator:
    """The badge beside the title."""
    return page.locator(".job-sub .badge")


def bar(page: Page) -> Locator:
    """The progress bar of the job."""
    return page.get_by_role("progressbar")


def requests_shown(page: Page) -> Locator:
    """The rows of requests."""
    return page.locator("tr[data-request-id]")


def shown_range(page: Page) -> Locator:
    """Which of the requests are shown."""
    return page.get_by_test_id("requests-range")


def chip(page: Page, word: str) -> Locator:
    """The button that filters by a status."""
    return page.locator(f".chip[data-status='{word}']")


def groups(page: Page) -> Locator:
    """The answers, grouped."""
    return page.get_by_test_id("answers").locator("li.answer")


def dialog(page: Page) -> Locator:
    """The dialog that is open."""
    return page.get_by_role("dialog")


# The form


def preview(page: Page) -> Locator:
    """What the form says that it makes."""
    return page.get_by_test_id("preview")


def field(page: Page, name: str) -> Locator:
    """A field by its label."""
    return page.get_by_label(name, exact=True)


def fault(page: Page, name: str) -> Locator:
    """What is wrong with a field."""
    described = field(page, name).get_attribute("aria-describedby") or ""
    return page.locator(f"#{described.split()[-1]}")


def create(page: Page) -> None:
    """Press the button that makes the job."""
    page.get_by_role("button", name="Create job").click()


# Jobs


def mute_names(number: int) -> list[str]:
    """Devices that are not there, and that no other job waits for."""
    return [f"mute-{next(_mute):04d}" for _ in range(number)]


def mute_job(stand: Stand, devices: int = 3, **rest: object) -> Document:
    """A job to devices that are not there: it goes on until somebody ends it."""
    message = {"method": "post", "resource": "/system/reboot"}
    return stand.create_job({"destinations": mute_names(devices), "message": message, **rest})


def mixed_job(stand: Stand, good: list[str], bad: list[str], **rest: object) -> Document:
    """A job that has ended, in which all the bad ones failed."""
    message = {"method": "put", "resource": "/system/led", "data": {"enable": True}}
    made = stand.create_job({"destinations": [*good, *bad], "message": message, **rest})
    stand.wait_job(made["id"])
    return made


_mute = count(1)
