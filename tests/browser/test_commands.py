"""Commands on the page: what they print while they run, how they ended, and jobs for whoever fits."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect

from puppetmaster.embedded.broker import find_mosquitto
from tests.browser.views import act, dialog, groups, job_row, mute_names, open_job, open_view, requests_shown, status
from tests.system.stand import Document, Stand

RESOURCE = "/agent/commands"


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """An installation whose own machine runs commands."""
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    with Stand(tmp_path_factory.mktemp("stand"), http=True, commands="all") as running:
        running.edge = "http"
        yield running


def command(line: str, **more: object) -> Document:
    """A job of one command on the machine of the installation."""
    message = {"method": "post", "resource": RESOURCE, "data": {"commandLine": line, **more}}
    return {"destinations": "localhost", "message": message}


def opened(page: Page, job: Document) -> Locator:
    """What is below the request of a job, which is opened."""
    open_job(page, job)
    requests_shown(page).get_by_role("button", name="localhost").click()
    return page.locator("tr.more")


def live(page: Page) -> Locator:
    """The output as it comes."""
    return page.get_by_test_id("live-output")


class Gate:
    """A command that goes on when it is let: ``read word < PATH`` waits until a word is given."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path

    def give(self, word: str) -> None:
        with self.path.open("w") as pipe:
            pipe.write(f"{word}\n")


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate")


# Commands that ended


def test_what_a_command_printed_is_text_not_markup_nor_escapes(page: Page, stand: Stand) -> None:
    line = r"printf '<b>one</b>\n\ttwo \033[31mred\033[0m\n\n50%%\r100%%\n'; echo oops >&2; exit 3"
    made = stand.run_job(command(line))
    more = opened(page, made)
    stdout, stderr = more.locator("pre[data-stream=stdout]"), more.locator("pre[data-stream=stderr]")
    assert stdout.evaluate("node => node.textContent") == "<b>one</b>\n\ttwo red\n\n100%\n"
    assert stderr.evaluate("node => node.textContent") == "oops\n"
    assert stdout.locator("*").count() == 0
    expect(more.get_by_role("group", name="Command line")).to_have_text(line)
    expect(more.get_by_test_id("outcome")).to_have_text(re.compile(r"^OutcomefailedExit code3Ran for.*s$"))
    expect(requests_shown(page).locator(".col-answer")).to_have_text("exit 3: oops")
    expect(live(page)).to_have_count(0)
    href = more.get_by_role("link", name="All of it as a file").get_attribute("href") or ""
    assert httpx.get(href).content.count(b"\x1b") == 2


def test_equal_answers_of_commands_are_one_group_that_shows_the_output(page: Page, stand: Stand) -> None:
    batch = [command(f"sleep 0.0{number}; echo alike; echo same") for number in range(3)]
    messages = [{**one["message"], "__destination": "localhost"} for one in batch]
    made = stand.run_job({"batch": messages})
    open_job(page, made)
    expect(groups(page)).to_have_count(1)
    expect(groups(page).locator("summary")).to_have_text(re.compile(r"3.*exit 0.*alike.*100 %"))
    groups(page).locator("summary").click()
    assert groups(page).locator("pre").evaluate("node => node.textContent") == "alike\nsame\n"
    expect(groups(page).get_by_test_id("outcome")).to_contain_text("done")


def test_of_a_long_answer_the_beginning_is_shown_as_text(page: Page, stand: Stand) -> None:
    made = stand.run_job(command("echo first; seq 100000 | tr '\\n' '\"'"))
    open_job(page, made)
    groups(page).locator("summary").click()
    expect(groups(page).locator("pre")).to_have_text(re.compile(r'^first\s1"2"3"'))
    expect(groups(page).get_by_text("cut at 4 KiB")).to_be_visible()
    requests_shown(page).get_by_role("button", name="localhost").click()
    expect(page.locator("tr.more")).to_contain_text("bytes in the middle of it are not shown here")


# While they run


def test_output_is_shown_as_it_comes_and_then_the_answer(
    page: Page, stand: Stand, gate: Gate, tmp_path: Path
) -> None:
    # One that is opened again while who gave the first word still has it open is at its end at once.
    last = Gate(tmp_path / "last")
    line = f"echo one; echo two >&2; read word < {gate.path}; echo $word; read word < {last.path}"
    made = stand.create_job(command(line))
    more = opened(page, made)
    expect(live(page)).to_have_text(re.compile(r"^one\s+two\s*$"))
    expect(live(page).locator("[data-stream=stderr]")).to_have_text("two")
    gate.give("three")
    expect(live(page)).to_contain_text("three")
    last.give("end")
    expect(status(page)).to_have_text("resolved")
    expect(live(page)).to_have_count(0)
    expect(more.locator("pre[data-stream=stdout]")).to_have_text(re.compile(r"one\s+three"))


def test_who_closes_a_request_listens_no_more_and_who_opens_it_again_sees_all(
    page: Page, stand: Stand, gate: Gate
) -> None:
    made = stand.create_job(command(f"echo one; read word < {gate.path}"))
    with page.expect_request("**/output/events*"):
        opened(page, made)
    expect(live(page)).to_contain_text("one")
    opener = requests_shown(page).get_by_role("button", name="localhost")
    with page.expect_event("requestfailed", lambda request: request.url.endswith("/output/events")):
        opener.click()
    expect(live(page)).to_have_count(0)
    opener.click()
    expect(live(page)).to_contain_text("one")
    with page.expect_event("requestfailed", lambda request: request.url.endswith("/output/events")):
        open_view(page, "/jobs")
    gate.give("end")
    stand.wait_job(made["id"])


def test_a_flood_is_bounded_to_its_last_lines(page: Page, stand: Stand, gate: Gate) -> None:
    made = stand.create_job(command(f"seq 50000; read word < {gate.path}"))
    opened(page, made)
    expect(live(page)).to_have_text(re.compile(r"50000\s*$"))
    lines = live(page).evaluate("node => node.textContent.trimEnd().split('\\n')")
    assert lines == [str(number) for number in range(48_001, 50_001)]
    expect(page.get_by_text("48,000 stood above")).to_be_visible()
    assert live(page).evaluate("node => node.scrollTop + node.clientHeight > node.scrollHeight - 8")
    gate.give("end")
    stand.wait_job(made["id"])


def test_few_listen_at_once_however_many_are_open(page: Page, stand: Stand) -> None:
    names = mute_names(4)
    made = stand.create_job({**command("true"), "destinations": names})
    open_job(page, made)
    for name in names:
        requests_shown(page).get_by_role("button", name=name).click()
    again = page.get_by_role("button", name="Go on listening")
    rows = page.locator("tr.more")
    expect(again).to_have_count(1)
    expect(rows.nth(0)).to_contain_text("Other output is listened to meanwhile.")
    rows.nth(0).get_by_role("button", name="Go on listening").click()
    expect(rows.nth(1)).to_contain_text("Other output is listened to meanwhile.")
    expect(again).to_have_count(1)
    expect(rows.nth(0)).to_contain_text("Nothing printed yet.")
    stand.update_job(made["id"], status="canceled")
    expect(rows.nth(0)).to_contain_text("It printed nothing.")


# Jobs for whoever fits


def test_a_job_whose_requests_are_not_made_yet_says_so(page: Page, stand: Stand) -> None:
    targets = {"labels": {"site": ["berlin", "bonn"]}, "connection": "online", "sample": "10%"}
    message = {"method": "post", "resource": "/system/reboot"}
    made = stand.create_job(
        {"name": "later", "targets": targets, "offline": "wait", "message": message, "startAt": "2999-01-01T00:00:00Z"}
    )
    open_view(page)
    expect(job_row(page, made).locator(".col-done")).to_have_text("\N{EN DASH} ")
    open_job(page, made)
    expect(page.locator(".progress-words")).to_contain_text("no requests yet")
    expect(page.get_by_text("Its requests are made when it starts")).to_be_visible()
    details = page.locator(".details")
    expect(details).to_contain_text("10 % at random of: site = berlin or bonn, online")
    expect(details).to_contain_text("waits until the device is online")
    act(page, "Cancel job")
    expect(dialog(page)).to_contain_text("It has no requests yet")
    dialog(page).get_by_role("button", name="Cancel the job").click()
    expect(status(page)).to_have_text("canceled")
    expect(page.get_by_text("This job has no requests.")).to_be_visible()
