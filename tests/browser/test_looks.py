"""For everybody: without a mouse, in light and in the dark, on a phone, and read aloud."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.contrast import faint_texts
from tests.browser.views import (
    act,
    actions,
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
    preview,
    requests_shown,
    status,
)
from tests.system.stand import Document, Fleet, Stand

MOST_STOPS = 80
"""Tab stops to anything on a page."""

FOCUS = """() => {
  const node = document.activeElement;
  const { outlineStyle, outlineWidth } = getComputedStyle(node);
  const { width, height } = node.getBoundingClientRect();
  const name = `${node.tagName} ${node.ariaLabel ?? node.textContent.trim() ?? ''}`.slice(0, 60);
  return { name, seen: outlineStyle !== 'none' && parseFloat(outlineWidth) >= 2 && width > 0 && height > 0 };
}"""


def tab_to(page: Page, target: Locator, key: str = "Tab") -> None:
    """Press Tab until it has the focus, which is to be seen at every stop."""
    for _ in range(MOST_STOPS):
        page.keyboard.press(key)
        stop = page.evaluate(FOCUS)
        assert stop["seen"], f"the focus is not to be seen on {stop['name']}"
        if target.evaluate("node => node === document.activeElement"):
            return
    raise AssertionError(f"the Tab key does not lead to {target}")


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


@pytest.fixture(scope="module")
def mixed(stand: Stand, fleet: Fleet, broken: Fleet) -> Document:
    """A job with answers of several kinds."""
    return mixed_job(stand, fleet.names, broken.names, name="led on", labels=["kind=led", "site=berlin"])


# The keyboard


def test_a_job_is_made_and_canceled_without_a_mouse(page: Page, stand: Stand) -> None:
    page.goto("/")
    expect(page.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()
    tab_to(page, page.get_by_role("banner").get_by_role("link", name="New job"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="New job")).to_be_focused()
    tab_to(page, field(page, "Method"))
    page.keyboard.type("put")
    page.keyboard.press("Tab")
    page.keyboard.type("/system/led")
    tab_to(page, field(page, "Destinations"))
    page.keyboard.type(", ".join(mute_names(2)))
    expect(preview(page)).to_have_text("This makes 2 requests to 2 destinations.")
    tab_to(page, button(page, "Create job"))
    page.keyboard.press("Enter")
    made = stand.job(job_id(page), "limit=1")
    assert (made["totalCount"], made["requests"][0]["method"]) == (2, "put")
    expect(page.get_by_role("heading", name=f"Job {made['id']}")).to_be_focused()
    expect(button(page, "Cancel job")).to_be_visible()  # what is shown while it loads is taken away, focus and all

    tab_to(page, button(page, "Cancel job"))
    page.keyboard.press("Enter")
    expect(button(page, "Let it run")).to_be_focused()
    page.keyboard.press("Escape")
    expect(button(page, "Cancel job")).to_be_focused()
    page.keyboard.press("Enter")
    tab_to(page, button(page, "Cancel the job"))
    page.keyboard.press("Enter")
    expect(status(page)).to_have_text("canceled")
    expect(button(page, "Run the failed again")).to_be_focused()
    tab_to(page, button(page, "Remove"))
    page.keyboard.press("Enter")
    tab_to(page, button(page, "Remove the job"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Jobs", exact=True)).to_be_focused()


def test_the_focus_stays_in_a_dialog_while_it_is_open(page: Page, stand: Stand) -> None:
    open_job(page, mute_job(stand))
    act(page, "Change limits")
    for _ in range(20):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement === document.body || !!document.activeElement.closest('dialog')")
    page.keyboard.press("Escape")
    expect(button(page, "Change limits")).to_be_focused()


def test_pause_and_resume_keep_the_focus_where_it_is(page: Page, stand: Stand) -> None:
    open_job(page, mute_job(stand))
    tab_to(page, button(page, "Pause"))
    page.keyboard.press("Enter")
    expect(button(page, "Resume")).to_be_focused()
    page.keyboard.press("Enter")
    expect(button(page, "Pause")).to_be_focused()


def test_requests_are_filtered_opened_and_paged_without_a_mouse(page: Page, mixed: Document) -> None:
    open_job(page, mixed)
    tab_to(page, groups(page).nth(1).locator("summary"))
    page.keyboard.press("Enter")
    tab_to(page, groups(page).nth(1).get_by_role("link", name="Show the requests that are error"))
    page.keyboard.press("Enter")
    expect(requests_shown(page)).to_have_count(20)
    opener = requests_shown(page).first.get_by_role("button")
    tab_to(page, opener)
    page.keyboard.press("Space")
    expect(page.get_by_role("group", name="The answer as JSON")).to_have_count(2)
    expect(opener).to_be_focused()


def test_the_first_stop_skips_to_the_content(page: Page, mixed: Document) -> None:
    open_view(page)
    expect(job_row(page, mixed)).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("main").get_by_role("link", name="New job")).to_be_focused()


def test_the_top_that_stays_never_covers_what_has_the_focus(page: Page) -> None:
    page.set_viewport_size({"width": 700, "height": 420})
    open_view(page, "/new")
    button(page, "Clear the form").focus()
    top = page.get_by_role("banner").evaluate("node => node.getBoundingClientRect().bottom")
    for _ in range(MOST_STOPS):
        page.keyboard.press("Shift+Tab")
        stop = page.evaluate("document.activeElement.getBoundingClientRect().top")
        if page.evaluate("!!document.activeElement.closest('header')"):
            break
        assert stop >= top, page.evaluate(FOCUS)
    assert page.evaluate("!!document.activeElement.closest('header')")


# Read aloud


def test_what_changes_is_said_aloud(page: Page, stand: Stand) -> None:
    made = mute_job(stand, name="listened to")
    open_job(page, made)
    aloud = page.locator("#announcer")
    stand.update_job(made["id"], status="canceled")
    expect(aloud).to_contain_text("listened to is canceled")


def test_the_page_can_be_read_without_seeing_it(page: Page, mixed: Document) -> None:
    open_job(page, mixed)
    expect(page.get_by_role("banner")).to_be_visible()
    expect(page.get_by_role("navigation", name="Main")).to_be_visible()
    expect(page.get_by_role("region", name="Progress")).to_be_visible()
    expect(page.get_by_role("region", name="Answers")).to_be_visible()
    expect(page.get_by_role("region", name="Requests")).to_be_visible()
    table = page.get_by_role("table", name="Requests of this job")
    expect(table.get_by_role("columnheader")).to_have_text(
        ["Destination", "Status", "Code", "Answer", "Attempts", "Took"]
    )
    row = table.get_by_role("row", name="dev-0001 resolved 200 enable true")
    expect(row.get_by_role("rowheader")).to_have_text("dev-0001")


# Colours


def brightness(page: Page) -> float:
    red, green, blue = page.evaluate("getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/g)")[:3]
    return (int(red) + int(green) + int(blue)) / 3 / 255


def assert_readable(page: Page) -> None:
    for colours in ("light", "dark"):
        page.emulate_media(color_scheme=colours)  # type: ignore[arg-type]
        assert faint_texts(page) == [], colours


def test_every_text_can_be_read_in_light_and_dark(page: Page, stand: Stand, mixed: Document) -> None:
    paused = mute_job(stand, name="held back")
    stand.update_job(paused["id"], status="paused")
    open_view(page)
    expect(job_row(page, paused).locator(".badge")).to_have_text("paused")
    assert_readable(page)
    open_job(page, mixed, "?destination=bad-0001")
    requests_shown(page).first.get_by_role("button").click()
    groups(page).first.locator("summary").click()
    expect(page.get_by_role("group", name="The answer as JSON")).to_have_count(2)
    assert_readable(page)
    act(page, "Remove")
    assert_readable(page)
    open_view(page, "/new")
    page.get_by_text("Limits, start time, retry").click()
    field(page, "Destinations").fill("a-[9-1]")
    expect(preview(page)).to_have_text("1 field needs mending.")
    assert_readable(page)


def test_the_colours_are_those_of_the_system_until_others_are_chosen(new_window: Callable[..., Page]) -> None:
    page = new_window(color_scheme="dark")
    page.goto("/")
    button(page, "Colours: as the system").click()
    assert brightness(page) > 0.9
    button(page, "Colours: light").click()
    assert brightness(page) < 0.1
    page.emulate_media(color_scheme="light")
    page.reload()
    expect(button(page, "Colours: dark")).to_be_visible()
    assert brightness(page) < 0.1
    button(page, "Colours: dark").click()
    assert brightness(page) > 0.9


# A phone


PHONES = [390, 320]
"""Widths in pixels: a usual phone, and the narrowest that WCAG 2 speaks of."""

TOO_WIDE = """() => [...document.querySelectorAll('*')]
  .filter((node) => node.checkVisibility() && node.getBoundingClientRect().right > innerWidth + 1)
  .map((node) => node.outerHTML.slice(0, 100))"""


def assert_fits(page: Page) -> None:
    for width in PHONES:
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), page.evaluate(TOO_WIDE)[:5]


def test_nothing_has_to_be_scrolled_sideways_on_a_phone(new_window: Callable[..., Page], mixed: Document) -> None:
    phone = new_window(viewport={"width": PHONES[0], "height": 844}, has_touch=True, is_mobile=True)
    open_view(phone)
    expect(job_row(phone, mixed)).to_be_visible()
    assert_fits(phone)
    job_row(phone, mixed).get_by_role("link").tap()
    expect(actions(phone)).to_be_visible()
    requests_shown(phone).first.get_by_role("button").tap()
    expect(phone.get_by_role("group", name="The answer as JSON")).to_be_visible()
    groups(phone).first.locator("summary").tap()
    assert_fits(phone)
    act(phone, "Run the failed again")
    expect(phone.get_by_test_id("rerun-preview")).to_contain_text("20 requests")
    assert_fits(phone)
    expect(button(phone, "Run again")).to_be_in_viewport()
    button(phone, "Go back").tap()
    expect(dialog(phone)).to_have_count(0)
    open_view(phone, "/new")
    phone.get_by_text("Limits, start time, retry").tap()
    assert_fits(phone)
    button(phone, "JSON").tap()
    assert_fits(phone)
    open_view(phone, "/login")
    expect(phone.get_by_role("heading")).to_be_visible()
    assert_fits(phone)
