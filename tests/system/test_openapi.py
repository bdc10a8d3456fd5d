"""What the server says of itself, at ``/openapi.json`` and ``/docs``, is complete and true: examples work, and
schemathesis finds nothing that is not as it says."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from playwright.sync_api import Page, sync_playwright

from puppetmaster.embedded.broker import find_mosquitto
from tests.system.logins import PASSWORD, accounts, bearer
from tests.system.stand import FINAL, PATIENCE, TRUST, Document, Stand

pytestmark = pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")

KEEPER = "keeper-of-the-keys"
"""The account that the calls are made with."""


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with Stand(tmp_path_factory.mktemp("stand"), http=True) as running:
        accounts(running, "add", KEEPER, password=PASSWORD)
        yield running


@pytest.fixture(scope="module")
def token(stand: Stand) -> str:
    return accounts(stand, "token", KEEPER)


@pytest.fixture(scope="module")
def document(stand: Stand) -> Document:
    answer = stand.http("get", "/openapi.json")
    assert answer.status_code == 200
    found: Document = answer.json()
    return found


def operations(document: Document) -> dict[str, tuple[str, str, Document]]:
    """Method, path and description of every operation, by its name."""
    return {
        operation["operationId"]: (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def resolved(document: Document, schema: Document) -> Document:
    """A schema, without the reference to it."""
    while "$ref" in schema:
        found = document["components"]["schemas"][schema["$ref"].removeprefix("#/components/schemas/")]
        schema = {**found, **{name: value for name, value in schema.items() if name != "$ref"}}
    return schema


# Complete


def test_it_says_what_it_is_and_how_to_get_in(document: Document) -> None:
    assert document["openapi"].startswith("3.1.")
    assert document["info"]["title"] == "puppetmaster"
    assert "/jobs/ws" in document["info"]["description"], "OpenAPI has no place for WebSockets"
    assert document["components"]["securitySchemes"] == {"bearer": {"type": "http", "scheme": "bearer"}}


def test_every_operation_has_a_name_a_summary_and_all_its_answers(document: Document) -> None:
    found = operations(document)
    assert len(found) == sum(map(len, document["paths"].values())), "the names differ"
    for name, (_, path, operation) in found.items():
        assert operation["summary"].endswith((".", ")")) and len(operation["summary"]) > 10, name
        assert operation["tags"], name
        codes = set(operation["responses"])
        assert codes & {"200", "204"}, name
        if path not in ("/login", "/health"):
            assert {"401", "403"} <= codes, name
        for code, answer in operation["responses"].items():
            assert answer["description"].endswith("."), (name, code)
            if code != "204":
                (content,) = answer["content"].values()
                assert content["schema"], (name, code)


def test_every_parameter_has_a_description(document: Document) -> None:
    for name, (_, path, operation) in operations(document).items():
        parameters = operation.get("parameters", [])
        for parameter in parameters:
            assert len(parameter["description"]) > 10, (name, parameter["name"])
            assert parameter["schema"], (name, parameter["name"])
        in_path = {parameter["name"] for parameter in parameters if parameter["in"] == "path"}
        assert in_path == {part[1:-1] for part in path.split("/") if part.startswith("{")}, name


def test_every_property_has_a_description(document: Document) -> None:
    for name, schema in document["components"]["schemas"].items():
        assert schema.get("description"), name
        for path, found in properties(document, name, schema):
            assert len(found.get("description", "")) > 3, path


def properties(document: Document, path: str, schema: Document) -> Iterator[tuple[str, Document]]:
    """All properties of a schema and of what it is made of."""
    for name, found in schema.get("properties", {}).items():
        yield f"{path}.{name}", resolved(document, found)
        yield from properties(document, f"{path}.{name}", found)
    for part in [*schema.get("anyOf", []), *schema.get("oneOf", []), *schema.get("allOf", []), schema.get("items")]:
        # A rule such as "this one has to be there" names properties that are described elsewhere.
        if part and "required" not in part:
            yield from properties(document, path, part)


def test_every_body_has_an_example(document: Document) -> None:
    with_body = {
        "create_job", "update_job", "rerun_job", "create_request", "login", "add_account", "change_account",
        "update_device",
    }  # fmt: skip
    assert {name for name, (_, _, operation) in operations(document).items() if "requestBody" in operation} == with_body
    for name in with_body:
        assert bodies(document, name), name


def bodies(document: Document, name: str) -> list[Any]:
    """All examples of an operation's body: its own, and those of the schemas that it may have."""
    (content,) = operations(document)[name][2]["requestBody"]["content"].values()
    found = [content["example"]]
    schema = resolved(document, content["schema"])
    for part in [schema, *schema.get("anyOf", []), *schema.get("oneOf", [])]:
        found += resolved(document, part).get("examples", [])
    return [example for number, example in enumerate(found) if example not in found[:number]]


# True


ORDER = [
    "create_job", "update_job", "cancel_request", "create_request",
    # Here the devices wake, and the job ends.
    "show_job", "list_jobs", "list_answers", "rerun_job", "list_requests", "show_request", "show_request_too",
    "list_output", "watch_output", "read_output", "watch_job_output",
    "update_device", "show_device", "list_devices", "list_fact_values", "remove_device",
    "watch_job", "watch_jobs", "show_account", "login", "change_account", "add_account", "list_accounts",
    "remove_account", "list_audit", "show_health", "show_metrics", "remove_job", "logout",
]  # fmt: skip
"""All operations, in an order in which the examples are good ones."""


def test_every_example_is_accepted(tmp_path: Path) -> None:
    with Stand(tmp_path, http=True) as stand:
        # The devices of the examples sleep at first, so that there is something to change, and fail when they wake.
        fleet = stand.fleet("examples", names=["device-0001", "device-0002", "device-0007"], errors=1.0)
        fleet.signal(signal.SIGSTOP)
        accounts(stand, "add", KEEPER, password=PASSWORD)
        headers = bearer(accounts(stand, "token", KEEPER))
        document = stand.http("get", "/openapi.json").json()
        found = operations(document)
        assert sorted(ORDER) == sorted(found), "no operation is left out"
        for name in ORDER:
            method, path, operation = found[name]
            if name == "show_job":
                fleet.signal(signal.SIGCONT)
                until_ended(stand, headers)
            if name == "login":
                accounts(stand, "add", "ana", password=bodies(document, "login")[0]["password"])
            for call in calls(document, name, path):
                url, body, extra = call
                with stream(stand, method, url, body, {**headers, **extra}) as answer:
                    assert answer.status_code in (200, 204), (name, call, answer.read())
                    assert answer.headers.get("content-type", "").partition(";")[0] in media_types(operation, answer)


def calls(document: Document, name: str, path: str) -> Iterator[tuple[str, Any, dict[str, str]]]:
    """Path, body and headers of calls that together have each example once."""
    operation = operations(document)[name][2]
    parameters = operation.get("parameters", [])
    for parameter in parameters:
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", str(parameter["example"]))
    for body in bodies(document, name) if "requestBody" in operation else [None]:
        yield path, body, {}
    for parameter in parameters:
        if "example" not in parameter:
            continue
        if parameter["in"] == "query":
            yield f"{path}?{urlencode({parameter['name']: parameter['example']}, doseq=True)}", None, {}
        elif parameter["in"] == "header":
            yield path, bodies(document, name)[0], {parameter["name"]: parameter["example"]}


@contextmanager
def stream(stand: Stand, method: str, url: str, body: Any, headers: dict[str, str]) -> Iterator[httpx.Response]:
    """An answer that need not have an end."""
    address = stand.site + url
    options: Any = {"timeout": PATIENCE, "trust_env": False, "verify": TRUST}
    with httpx.stream(method, address, json=body, headers=headers, **options) as answer:
        yield answer


def media_types(operation: Document, answer: httpx.Response) -> list[str]:
    return list(operation["responses"][str(answer.status_code)].get("content", {"": {}}))


def until_ended(stand: Stand, headers: dict[str, str]) -> None:
    """Wait for the end of the first job, which is that of the examples."""
    with httpx.stream(
        "GET", f"{stand.site}/jobs/1000000/events", headers=headers, timeout=PATIENCE, trust_env=False, verify=TRUST
    ) as events:
        assert events.status_code == 200
        assert "id: final" in list(events.iter_lines())


def test_event_streams_are_as_they_are_described(stand: Stand, document: Document, token: str) -> None:
    """Schemathesis reads answers to their end, and these have none."""
    job = {"destinations": "a", "message": {"method": "get", "resource": "/"}, "startAt": "2100-01-01T00:00:00Z"}
    ident = stand.http("post", "/jobs", json=job, headers=bearer(token)).json()["id"]
    good = [f"/jobs/{ident}/events", "/jobs/events", "/jobs/events?limit=0&offset=3&label=a&label=b&status=paused"]
    good += ["/jobs/events?since=2026-01-31T12:00:00Z", "/jobs/events?unknown=1"]
    for path in good:
        with stream(stand, "get", path, None, bearer(token)) as answer:
            assert answer.status_code == 200, path
            assert answer.headers["content-type"].startswith("text/event-stream")
    bad = {"limit": ["-1", "x", "", "10001", "1.5"], "offset": ["-1", "1e3"], "status": ["no", ""], "since": ["x", ""]}
    for name, values in bad.items():
        for value in values:
            answer = stand.http("get", f"/jobs/events?{name}={value}", headers=bearer(token))
            assert (answer.status_code, answer.json()["errors"][0]["path"]) == (400, name)
    for ident in ("999", "x", "-1", "1.0"):
        answer = stand.http("get", f"/jobs/{ident}/events", headers=bearer(token))
        assert (answer.status_code, set(answer.json())) == (404, {"message"})
    for path in ("/jobs/events", f"/jobs/{ident}/events"):
        answer = stand.http("post", path, headers=bearer(token))
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    assert {"watch_jobs", "watch_job"} <= set(operations(document))


def test_the_key_of_a_call_stands_in_one_place(stand: Stand, token: str) -> None:
    """What no schema can say, and schemathesis is kept from."""
    job = {"destinations": "a", "message": {"method": "get", "resource": "/"}, "dryRun": True}
    for key, code in [("same", 200), ("other", 400)]:
        headers = {**bearer(token), "Idempotency-Key": key}
        assert stand.http("post", "/jobs", json={**job, "key": "same"}, headers=headers).status_code == code
    rate = {"perMinute": 10, "max": 5}
    assert stand.http("post", "/jobs", json={**job, "rate": rate}, headers=bearer(token)).status_code == 400


# The page


CHROMIUM = "/usr/bin/chromium"

ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture
def page() -> Iterator[Page]:
    if not Path(CHROMIUM).exists():
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield browser.new_page()
        finally:
            browser.close()


def test_the_documentation_shows_every_operation_and_asks_no_other_host(
    stand: Stand, document: Document, page: Page
) -> None:
    asked: list[str] = []
    told: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: told.append(f"{message.type}: {message.text} at {message.location}"))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.goto(f"{stand.site}/docs", wait_until="networkidle")
    page.wait_for_selector(".opblock")

    shown = page.locator(".opblock")
    assert shown.count() == len(operations(document))
    texts = " ".join(shown.all_inner_texts())
    for name, (_, _, operation) in operations(document).items():
        assert operation["summary"] in texts, name
    shown.filter(has_text="Create a job.").first.click()
    page.get_by_text("device-0001").first.wait_for()

    hosts = {httpx.URL(url).netloc.decode() for url in asked if not url.startswith("data:")}
    assert hosts == {httpx.URL(stand.site).netloc.decode()}
    assert told == [], "nothing of it is against the content security policy"


# Schemathesis


CONFIG = """
# DELETE cancels a request. It stays, for the sake of the job that it belongs to, and can be shown.
[[operations]]
include-path = "/requests/{id}"
checks.use_after_free.enabled = false
# And so does its output.
[[operations]]
include-path = "/requests/{id}/output"
checks.use_after_free.enabled = false
"""


def schemathesis(stand: Stand, token: str, *options: str) -> None:
    """Run it with all its checks, which is the default."""
    config = stand.folder / "schemathesis.toml"
    config.write_text(CONFIG)
    program = Path(sys.executable).with_name("schemathesis")
    if not program.exists():
        found = shutil.which("schemathesis")
        assert found is not None, "it is among the requirements"
        program = Path(found)
    command = [str(program), "--config-file", str(config), "run", f"{stand.site}/openapi.json"]
    command += ["--header", f"Authorization: Bearer {token}", "--seed", "1", "--max-examples", "10", "--no-color"]
    command += ["--generation-database", "none", "--request-timeout", "30", *options]
    hooks = Path(__file__).with_name("schemathesis_hooks.py")
    done = subprocess.run(
        command,
        cwd=stand.folder,
        env={**stand.environment(), "SCHEMATHESIS_HOOKS": str(hooks), "KEEPER": KEEPER},
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_schemathesis_finds_nothing(stand: Stand, token: str) -> None:
    accounts(stand, "add", "ana", password=PASSWORD)
    job: Document = {"destinations": ["nobody"], "message": {"method": "get", "resource": "/"}}
    silent = {**job, "retry": {"limit": 0}, "requestTimeout": 0.05}
    made = [stand.http("post", "/jobs", json=body, headers=bearer(token)).json() for body in (silent, job)]
    stand.wait_job(made[0]["id"], FINAL)
    # The streams have a test of their own, and so has the call that ends the token.
    schemathesis(stand, token, "--exclude-path-regex", "/events$|/raw$|^/logout$")

    answer = stand.http("get", "/account", headers=bearer(token))
    assert answer.json()["name"] == KEEPER, "all of it was done with the token"
    assert "Traceback" not in stand.bundle.log()


def test_schemathesis_finds_nothing_in_logging_out(stand: Stand) -> None:
    schemathesis(stand, accounts(stand, "token", KEEPER), "--include-path", "/logout")
