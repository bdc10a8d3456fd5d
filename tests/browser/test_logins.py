"""Who gets in, what a viewer may not do, and a login that ends while somebody works."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from puppetmaster.embedded.broker import find_mosquitto
from tests.browser.complaints import Complaints
from tests.browser.views import (
    act,
    actions,
    create,
    field,
    job_id,
    job_row,
    mute_job,
    mute_names,
    open_view,
    preview,
    stream,
)
from tests.system.logins import PASSWORD, accounts, bearer, login
from tests.system.stand import Stand

NAMES = {"ana": "admin", "oskar": "operator", "vera": "viewer"}

ADMIN = "root"
"""Who makes and changes the accounts of the others."""

NEW_PASSWORD = "staple battery horse"


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """An installation with an account of each role."""
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    with Stand(tmp_path_factory.mktemp("stand"), http=True) as running:
        accounts(running, "add", ADMIN, password=PASSWORD)
        for name, role in NAMES.items():
            administer(running, "post", "/accounts", name=name, role=role, password=PASSWORD)
        yield running


@pytest.fixture
def complaints(complaints: Complaints) -> Complaints:
    """The browser writes a line for what is refused without a login, and those are what this is about."""
    complaints.allow("status of 401 ", "WebSocket connection to .* HTTP Authentication failed")
    return complaints


def administer(stand: Stand, method: str, path: str, **document: str) -> None:
    answer = stand.http(method, path, json=document, headers=bearer(login(stand, ADMIN)))
    assert answer.status_code == 200, answer.text


def fill_in(page: Page, name: str, password: str = PASSWORD) -> None:
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()


def logged_in(page: Page, name: str, path: str = "/jobs") -> Page:
    open_view(page, path)
    fill_in(page, name)
    expect(page.get_by_title(f"Logged in as {name}, {NAMES[name]}")).to_be_visible()
    return page


def token_of(page: Page) -> str:
    """The token of the login, which only its cookie has."""
    found = [cookie for cookie in page.context.cookies() if cookie["name"] == "puppetmaster_token"]
    assert [cookie["httpOnly"] for cookie in found] == [True]
    return found[0]["value"]


def test_an_address_leads_to_the_login_and_from_there_to_where_it_pointed(page: Page, stand: Stand) -> None:
    made = mute_job(stand, name="linked to")
    open_view(page, f"/jobs/{made['id']}?status=sent")
    expect(page.get_by_role("heading", name="Log in to puppetmaster")).to_be_visible()
    expect(page.get_by_label("Name")).to_be_focused()
    expect(page.get_by_role("link", name="New job")).to_be_hidden()
    fill_in(page, "ana")
    expect(page.get_by_role("heading", name="linked to")).to_be_visible()
    expect(page).to_have_url(re.compile(rf"#/jobs/{made['id']}\?status=sent$"))
    expect(stream(page)).to_have_text("Live")


def test_a_wrong_password_is_told_and_the_right_one_gets_in(page: Page) -> None:
    open_view(page)
    fill_in(page, "oskar", "not this one")
    expect(page.get_by_role("alert").filter(has_text="password")).to_be_visible()
    expect(page.get_by_label("Password")).to_be_focused()
    expect(page.get_by_label("Password")).to_have_value("")
    expect(page.get_by_label("Name")).to_have_value("oskar")
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()


def test_a_link_to_the_login_can_not_lead_out_of_the_page(page: Page) -> None:
    for target in ("https://elsewhere.example/", "//elsewhere.example/", "javascript:document.title='x'"):
        page.context.clear_cookies()
        page.goto("about:blank")  # or else only the hash would change
        page.goto(f"/#/login?next={target}")
        fill_in(page, "ana")
        expect(page.get_by_role("link", name="Jobs", exact=True)).to_be_visible()
        expect(page.get_by_role("main").get_by_role("heading")).to_be_visible()


def test_the_token_is_nowhere_where_a_script_could_read_it(page: Page) -> None:
    token = token_of(logged_in(page, "ana"))
    everything = page.evaluate("document.cookie + JSON.stringify({...localStorage, ...sessionStorage}) + location.href")
    assert token not in everything and PASSWORD not in everything


def test_a_viewer_sees_all_and_can_change_nothing(page: Page, stand: Stand) -> None:
    made = mute_job(stand, name="only to be seen")
    logged_in(page, "vera")
    expect(page.get_by_role("link", name="New job")).to_have_count(0)
    job_row(page, made).get_by_role("link").click()
    expect(actions(page)).to_have_text("You are logged in as a viewer: you can look, but not steer.")
    expect(actions(page).get_by_role("button")).to_have_count(0)
    page.locator(".opener").first.click()
    expect(page.get_by_text("for each attempt")).to_be_visible()
    expect(page.get_by_role("button", name="Cancel this request")).to_have_count(0)
    open_view(page, "/new")
    expect(page.get_by_text("you can look, but not start jobs")).to_be_visible()
    expect(page.get_by_role("button", name="Create job")).to_have_count(0)


def test_an_operator_who_became_a_viewer_is_told_so(page: Page, stand: Stand, complaints: Complaints) -> None:
    complaints.allow("status of 403 .* /jobs/")
    made = mute_job(stand)
    logged_in(page, "oskar", f"/jobs/{made['id']}")
    administer(stand, "put", "/accounts/oskar", role="viewer")
    act(page, "Pause")
    expect(page.get_by_role("alert").filter(has_text="operator")).to_be_visible()
    administer(stand, "put", "/accounts/oskar", role="operator")
    act(page, "Pause")
    expect(page.locator(".job-sub .badge")).to_have_text("paused")


def test_log_out_leads_to_the_login_and_back_does_not_lead_in_again(page: Page, stand: Stand) -> None:
    made = mute_job(stand)
    token = token_of(logged_in(page, "ana"))
    job_row(page, made).get_by_role("link").click()
    expect(actions(page)).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", name="Log in to puppetmaster")).to_be_visible()
    expect(page.get_by_role("button", name="Log out")).to_have_count(0)
    assert stand.http("get", "/jobs", headers=bearer(token)).status_code == 401
    page.go_back()
    expect(page).to_have_url(re.compile(r"#/login\?next=%2Fjobs$"))
    page.reload()
    expect(page.get_by_role("heading", name="Log in to puppetmaster")).to_be_visible()


@pytest.mark.parametrize("path", ["/jobs", "/jobs/{id}"])
def test_a_login_that_ends_meanwhile_leads_to_the_login_and_back(page: Page, stand: Stand, path: str) -> None:
    made = mute_job(stand)
    logged_in(page, "ana", path.format(**made))
    expect(stream(page)).to_have_text("Live")
    administer(stand, "put", "/accounts/ana", password=NEW_PASSWORD)
    expect(page.get_by_role("heading", name="Log in to puppetmaster")).to_be_visible()
    fill_in(page, "ana", NEW_PASSWORD)
    expect(page).to_have_url(re.compile(f"#{path.format(**made)}$"))
    expect(stream(page)).to_have_text("Live")
    administer(stand, "put", "/accounts/ana", password=PASSWORD)


def test_a_login_that_ends_costs_nobody_what_was_typed(page: Page, stand: Stand) -> None:
    logged_in(page, "oskar", "/new")
    field(page, "Resource").fill("/system/reboot")
    field(page, "Destinations").fill(mute_names(1)[0])
    expect(preview(page)).to_contain_text("This makes 1 request")  # else the preview may find the login ended first
    stand.http("post", "/logout", headers=bearer(token_of(page)))
    create(page)
    expect(page.get_by_role("heading", name="Log in to puppetmaster")).to_be_visible()
    fill_in(page, "oskar")
    expect(field(page, "Resource")).to_have_value("/system/reboot")
    create(page)
    assert stand.job(job_id(page))["totalCount"] == 1


def test_who_guesses_passwords_has_to_wait(page: Page, complaints: Complaints) -> None:
    complaints.allow("status of 429 .* /login$")
    open_view(page)
    for _ in range(6):
        fill_in(page, "nobody", "a guess")
        expect(page.get_by_label("Password")).to_have_value("")  # it was refused
    expect(page.get_by_role("alert").filter(has_text=re.compile(r"Try again in \d+ s"))).to_be_visible()
