"""Takes the pictures of the page in docs/images, of a real installation with simulated devices.

    python docs/make_screenshots.py             # all of them
    python docs/make_screenshots.py command     # those that need no day of an installation: command, devices, form

It needs the development requirements, Mosquitto and Chromium; ``make test`` installs them. It takes about a minute.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from datetime import datetime, time, timedelta, timezone
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"

sys.path.insert(0, str(ROOT))

from tests.system.stand import Document, Fleet, Stand  # noqa: E402 - found by the line above

WIDTH, HEIGHT = 1360, 850

PATIENCE_MS = 60_000

AGO = """
import runpy, sys, time
ago, path, wall = float(sys.argv[1]), sys.argv[2], time.time
time.time, sys.argv = lambda: wall() - ago, [path]
runpy.run_path(path, run_name="__main__")
"""
"""Runs the bundle with a clock that is slow by so many seconds: what it does then lies in the past later on."""

HOUR, MINUTE = 3600.0, 60.0

PAUSED_AT = 1_150
"""Requests after which the job half way is held for the pictures. Some are out by then, and some follow before them."""

REBOOT = {"method": "post", "resource": "/system/reboot", "data": {"delay": 5}}
SURVEY = {"method": "get", "resource": "/system/firmware"}
UPDATE = {"method": "put", "resource": "/system/firmware", "data": {"version": "1.5.0"}}
LED = {"method": "put", "resource": "/system/led", "data": {"enable": True}}

CHECK = """df -h / | tail -n 1
for service in mosquitto modem-manager; do
  echo "checking $service"
done
echo 'modem-manager: not running' >&2
sleep 60"""
"""A command that is at work while its picture is taken."""

IMPATIENT = {"requestTimeout": 2, "retry": {"limit": 0}}
"""Limits with which silence is noticed soon."""


def main() -> int:
    """Take all pictures; returns the exit code."""
    executable = shutil.which("chromium")
    if executable is None:
        sys.stderr.write("there is no chromium; make test installs it\n")
        return 1
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        if not sys.argv[1:]:
            with Stand(Path(folder) / "day", http=True, instance="berlin") as stand:
                stand.edge = "http"
                take_day(browser, stand, live(stand))
        with Stand(Path(folder) / "now", http=True, instance="berlin", commands="all") as stand:
            stand.edge = "http"
            take_now(browser, stand)
        browser.close()
    return 0


# What happened there


def live(stand: Stand) -> Document:
    """A day of an installation; gives the jobs that pictures are about."""
    gateways = stand.fleet("gateway", 3_000, latency="0.1-1.2", errors=0.012, seed=5)
    cameras = stand.fleet("cam", 240, latency="0.1-1.5")
    presses = stand.fleet("press", 60, latency="0.2-0.8", errors=0.45, seed=2)
    live_on(stand, 26 * HOUR)
    run(stand, "reboot after the power cut", gateways.names[:820], REBOOT, ["site=hamburg"])
    live_on(stand, 22.4 * HOUR)
    run(stand, "lights on", cameras.names, LED, ["site=berlin", "kind=camera"])
    live_on(stand, 6.2 * HOUR)
    run(stand, "firmware 1.5", presses.names, UPDATE, ["kind=press"], abort={"errorPercent": 30, "minimum": 20})
    live_on(stand, 3.1 * HOUR)
    run(stand, "lights off", with_silent(cameras, 12), LED, ["kind=camera"], **IMPATIENT)
    canceled(stand, gateways)
    live_on(stand, 48 * MINUTE)
    survey = run(stand, "firmware survey", with_silent(gateways, 27), SURVEY, ["site=all"], **IMPATIENT)
    live_on(stand, 19 * MINUTE)
    paused(stand, gateways)
    live_on(stand, 2.4 * MINUTE)
    half = half_way(stand, gateways)
    live_on(stand)
    pending(stand, gateways)
    stand.update_job(half["id"], status="dispatching", rate={"perMinute": 600})
    return {"half": half, "survey": survey}


def live_on(stand: Stand, ago: float = 0.0) -> None:
    """Start the bundle again, with a clock that says what it was so many seconds ago."""
    stand.bundle.stop()
    stand.bundle.command = [sys.executable, "-c", AGO, str(ago), str(ROOT / "index.py")]
    stand.bundle.start()


def run(stand: Stand, name: str, names: list[str], message: Document, labels: list[str], **limits: object) -> Document:
    """A job that has ended."""
    job = {"name": name, "labels": labels, "destinations": names, "message": message, **limits}
    return stand.run_job(job)


def with_silent(fleet: Fleet, silent: int) -> list[str]:
    """The devices of a fleet, and some that are not there."""
    first = len(fleet.names) + 1
    return [*fleet.names, *(f"{fleet.name}-{number:04d}" for number in range(first, first + silent))]


def canceled(stand: Stand, gateways: Fleet) -> None:
    """A job that was called off, for it was the wrong one."""
    job = {"name": "reboot", "labels": ["site=berlin"], "destinations": gateways.names[:600], "message": REBOOT}
    made = stand.create_job({**job, "rate": {"perMinute": 12_000}})
    stand.wait_job(made["id"], lambda state: state["doneCount"] >= 200)
    stand.update_job(made["id"], status="canceled")


def paused(stand: Stand, gateways: Fleet) -> None:
    """A roll-out that somebody looks at before it goes on."""
    job = {"name": "firmware 1.5", "labels": ["site=berlin", "ring=canary"], "message": UPDATE, "concurrency": 40}
    made = stand.create_job({**job, "destinations": gateways.names[1000:1300], "rate": {"perMinute": 6_000}})
    stand.wait_job(made["id"], lambda state: state["doneCount"] >= 120)
    stand.update_job(made["id"], status="paused")
    stand.wait_job(made["id"], lambda state: state["counts"]["sent"] == 0)


def half_way(stand: Stand, gateways: Fleet) -> Document:
    """The job that is running in the pictures: half of it is done, and the rest goes on slowly."""
    job = {"name": "reboot of all gateways", "labels": ["site=all", "ticket=OPS-4711"], "message": REBOOT}
    made = stand.create_job(
        {**job, "destinations": gateways.names, "concurrency": 200, "abort": {"errorPercent": 10, "minimum": 100}}
    )
    stand.wait_job(made["id"], lambda state: state["doneCount"] >= PAUSED_AT)
    stand.update_job(made["id"], status="paused")
    return stand.wait_job(made["id"], lambda state: state["counts"]["sent"] == 0)


def pending(stand: Stand, gateways: Fleet) -> None:
    """A job for the night."""
    tomorrow = datetime.now(timezone.utc).date() + timedelta(days=1)
    night = datetime.combine(tomorrow, time(2, 30), timezone.utc)
    job = {"name": "nightly reboot", "labels": ["site=hamburg"], "message": REBOOT, "startAt": night.isoformat()}
    stand.create_job({**job, "destinations": gateways.names[:820]})


# What is to be seen of it


def take_day(browser: Browser, stand: Stand, jobs: Document) -> None:
    """Take the pictures of jobs."""
    light, dark = (window(browser, stand, colours) for colours in ("light", "dark"))
    for page, suffix in ((light, ""), (dark, "-dark")):
        page.goto("/")
        expect(page.locator(f"tr[data-job-id='{jobs['half']['id']}']")).to_be_visible()
        expect(page.get_by_test_id("stream")).to_have_text("Live")
        take(page, f"list{suffix}")
    show_job(light, jobs["half"])
    take(light, "job")
    show_job(light, jobs["survey"])
    take(light, "answers")


def take_now(browser: Browser, stand: Stand) -> None:
    """Take the pictures of the form, of devices and of a command."""
    page = window(browser, stand, "light")
    show_form(page)
    take(page, "form")
    show_devices(page, stand)
    take(page, "devices")
    show_command(page, stand)
    take(page, "command")


def window(browser: Browser, stand: Stand, colours: str) -> Page:
    """A window of the size of the pictures."""
    size = {"width": WIDTH, "height": HEIGHT}
    context = browser.new_context(base_url=stand.site, viewport=size, color_scheme=colours)  # type: ignore[arg-type]
    context.set_default_timeout(PATIENCE_MS)
    return context.new_page()


def show_job(page: Page, job: Document) -> None:
    """A job, with its answers counted and its pace known."""
    page.goto(f"/#/jobs/{job['id']}")
    expect(page.get_by_test_id("answers").locator("li").first).to_be_visible()
    expect(page.locator("tr[data-request-id]").first).to_be_visible()
    expect(page.locator(".figure").first).to_contain_text("second")


def show_form(page: Page) -> None:
    """The form, filled in."""
    page.goto("/#/new")
    page.get_by_label("Method").select_option("put")
    page.get_by_label("Resource").fill("/system/firmware")
    page.get_by_label("Data").fill('{"version": "1.5.0", "reboot": true}')
    page.get_by_label("Destinations").fill("gateway-[0001-0400]\ngateway-0815, gateway-1200\ncam-[0001-0098]")
    page.get_by_label("Name").fill("firmware 1.5, second ring")
    page.get_by_label("Labels", exact=True).fill("site=berlin, ring=second")
    expect(page.get_by_test_id("preview")).to_contain_text("500 requests")
    page.evaluate("scrollTo(0, 0)")


def show_devices(page: Page, stand: Stand) -> None:
    """Some devices, one of them at work and some away."""
    for number in range(1, 61):
        site = "berlin" if number % 3 else "hamburg"
        presence = {
            "connection": "online" if number % 7 != 2 else "offline",
            "labels": {"site": site, "line": str(number % 4 + 1)},
            "facts": {"hostname": f"press-{number:03d}", "system": "Linux", "version": f"1.{5 - (number % 5 == 0)}.0"},
        }
        stand.publish(f"/remote/press-{number:03d}/presence", json.dumps(presence), retain=True)
    stand.create_job({"destinations": "press-004", "message": UPDATE})
    page.goto("/#/devices?id=press-*")
    expect(page.locator("tr[data-device]")).to_have_count(60)
    expect(page.locator(".col-request a")).to_be_visible()


def show_command(page: Page, stand: Stand) -> None:
    """What a command prints, while it runs."""
    message = {"method": "post", "resource": "/agent/commands", "data": {"commandLine": CHECK}}
    made = stand.create_job({"name": "health check", "destinations": "localhost", "message": message})
    page.goto(f"/#/jobs/{made['id']}")
    row = page.locator("tr[data-request-id]")
    row.get_by_role("button").click()
    expect(row).to_contain_text("running")
    expect(page.get_by_test_id("live-output")).to_contain_text("not running")
    page.locator("#requests").evaluate("node => node.scrollIntoView()")


def take(page: Page, name: str) -> None:
    """Take one picture, without a pointer or a caret in it."""
    page.mouse.move(WIDTH - 1, HEIGHT - 1)
    page.evaluate("document.activeElement?.blur()")
    page.screenshot(path=IMAGES / f"{name}.png", caret="hide", animations="disabled")


if __name__ == "__main__":
    sys.exit(main())
