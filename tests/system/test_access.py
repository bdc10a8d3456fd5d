"""Who gets in over HTTP: nobody who should not, by no way, whatever becomes of the accounts meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.cookies import SimpleCookie
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIWebSocketRoute
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from puppetmaster.edges.http.access import COOKIE
from puppetmaster.edges.http.streams import Streams
from puppetmaster.embedded.broker import find_mosquitto, free_port
from puppetmaster.times import from_text
from tests.system.logins import PASSWORD, accounts, bearer, bundle_alone, login, start_alone
from tests.system.stand import PATIENCE, REPOSITORY, Document, Stand

pytestmark = pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")

JOB = {"destinations": ["dev-0001"], "message": {"method": "get", "resource": "/system/time"}}

LATER = {**JOB, "startAt": "2100-01-01T00:00:00Z"}
"""A job that does nothing yet."""

EVERYWHERE = "0.0.0.0"


def until(accept: Callable[[], object]) -> None:
    """Wait for what nobody tells of."""
    deadline = time.monotonic() + PATIENCE
    while not accept():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.05)


def open_socket(stand: Stand, path: str, headers: dict[str, str] | None = None, **options: Any) -> ClientConnection:
    url = stand.site.replace("http", "ws", 1) + path
    return connect(url, proxy=None, additional_headers=headers, open_timeout=PATIENCE, **options)


def socket_code(stand: Stand, path: str, headers: dict[str, str] | None = None) -> int:
    """The code with which a handshake is answered."""
    try:
        with open_socket(stand, path, headers):
            return 101
    except InvalidStatus as refusal:
        return refusal.response.status_code


def raw_code(stand: Stand, head: str) -> int:
    """The code of the answer to a head that no client would send."""
    url = httpx.URL(stand.site)
    with socket.create_connection((url.host, url.port), timeout=PATIENCE) as raw:
        raw.sendall(f"{head}\r\n\r\n".encode())
        found = re.match(rb"HTTP/1.1 (\d+)", raw.recv(4096))
        assert found
        return int(found[1])


# On loopback, without an account


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """Nothing is set: whoever is on this machine may do everything."""
    with bundle_alone(tmp_path_factory.mktemp("local")) as running:
        yield running


def test_on_loopback_everybody_may_do_everything(local: Stand) -> None:
    assert local.http("get", "/account").json() == {"name": None, "role": "admin", "loginRequired": False}
    job = local.http("post", "/jobs", json=LATER).json()
    assert local.http("put", f"/jobs/{job['id']}", json={"priority": 1}).status_code == 200
    assert local.http("delete", f"/jobs/{job['id']}").status_code == 200
    assert local.http("get", "/accounts").json() == []
    assert [entry["who"] for entry in local.http("get", "/audit").json()] == [None] * 3
    assert socket_code(local, "/jobs/ws") == 101
    assert local.http("post", "/login", json={"name": "ana", "password": PASSWORD}).status_code == 409
    assert local.http("post", "/logout").status_code == 204


@pytest.mark.parametrize("host", ["localhost:{}", "127.0.0.1:{}", "[::1]:{}", "LocalHost", "127.0.0.1", "[::1]"])
def test_names_of_this_machine_are_served(local: Stand, host: str) -> None:
    headers = {"Host": host.format(httpx.URL(local.site).port)}
    assert local.http("get", "/jobs", headers=headers).status_code == 200
    assert local.http("get", "/", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:{}", "localhost.evil.example:{}", "127.0.0.1.evil.example", "127.0.0.2",
        "localhost:{}@evil.example", "evil.example#localhost", "[::1", "[::2]:{}", "2130706433", "0.0.0.0:{}", "",
    ],
)  # fmt: skip
def test_other_names_are_refused_so_that_no_page_can_take_one_of_its_own_for_ours(local: Stand, host: str) -> None:
    headers = {"Host": host.format(httpx.URL(local.site).port)}
    for call in ("GET /", "GET /health", "GET /jobs", "POST /jobs", "GET /jobs/events"):
        answer = local.http(*call.split(), headers=headers)
        assert (answer.status_code, set(answer.json())) == (403, {"message"}), call
    handshake = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
    handshake += "Sec-WebSocket-Version: 13"
    assert raw_code(local, f"GET /jobs/ws HTTP/1.1\r\nHost: {headers['Host']}\r\n{handshake}") == 403


def test_a_call_without_a_host_is_refused(local: Stand) -> None:
    assert raw_code(local, "GET /jobs HTTP/1.0") in (400, 403)
    assert raw_code(local, "POST /jobs HTTP/1.0\r\nOrigin: null") in (400, 403)


FOREIGN = [
    "https://evil.example", "null", "", "http://127.0.0.1", "http://localhost:1", "http://localhost:{}.evil.example",
    "http://[", "http://[::1", "://", "file://", "127.0.0.1:{}", "http://evil.example:{}", "http://127.0.0.1:{}@evil",
]  # fmt: skip


@pytest.mark.parametrize("origin", FOREIGN)
def test_writes_and_sockets_of_foreign_pages_are_refused(local: Stand, origin: str) -> None:
    headers = {"Origin": origin.format(httpx.URL(local.site).port)}
    before = local.http("get", "/jobs").json()
    for method, path in [("post", "/jobs"), ("put", "/jobs/1000000"), ("delete", "/jobs/1000000"), ("post", "/login")]:
        assert local.http(method, path, json=JOB, headers=headers).status_code == 403
    assert socket_code(local, "/jobs/ws", headers) == 403
    assert local.http("get", "/jobs").json() == before
    answer = local.http("get", "/jobs", headers=headers)
    assert answer.status_code == 200, "a link may lead here"
    assert not [name for name in answer.headers if name.startswith("access-control")], "nothing may be read of it"


def test_our_own_page_may_write_and_watch(local: Stand) -> None:
    for name in ("127.0.0.1", "localhost"):
        host = f"{name}:{httpx.URL(local.site).port}"
        headers = {"Host": host, "Origin": f"http://{host}"}
        assert local.http("post", "/jobs", json=LATER, headers=headers).status_code == 200
    assert socket_code(local, "/jobs/ws", {"Origin": local.site}) == 101


def test_no_other_origin_is_let_in_by_default(local: Stand) -> None:
    asks = {"Origin": "https://fleet.example", "Access-Control-Request-Method": "POST"}
    answer = local.http("options", "/jobs", headers=asks)
    assert answer.status_code == 405
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_every_answer_tells_browsers_to_keep_to_this_server(local: Stand) -> None:
    for path in ("/", "/docs", "/jobs", "/nowhere", "/static/nowhere"):
        headers = local.http("get", path).headers
        assert headers["content-security-policy"].startswith("default-src 'self';")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
    with pytest.raises(InvalidStatus) as caught:
        open_socket(local, "/jobs/1/ws")
    assert caught.value.response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "/static/../../../access.py", "/static/%2e%2e/%2e%2e/access.py", "/static/..%2f..%2faccess.py",
        "/static//etc/passwd", "/docs/swagger/../../../../etc/passwd", "/docs/swagger/%2e%2e/%2e%2e/__init__.py",
        "/static/\\..\\access.py",
    ],
)  # fmt: skip
def test_only_the_files_of_the_page_are_served(local: Stand, path: str) -> None:
    host = httpx.URL(local.site).netloc.decode()
    assert raw_code(local, f"GET {path} HTTP/1.1\r\nHost: {host}") == 404


# Other addresses


def run_to_its_end(folder: Path, *command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """A bundle that is expected not to start."""
    env = {f"PUPPETMASTER_{name.upper()}": value for name, value in settings.items()}
    stand = Stand(folder, start=False)
    return subprocess.run(
        [sys.executable, *command],
        env={**stand.environment(), "PUPPETMASTER_DATA": str(stand.data), **env},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


INDEX = str(REPOSITORY / "index.py")


@pytest.mark.parametrize("host", [EVERYWHERE, "[::]"])
@pytest.mark.parametrize("command", [(INDEX,), ("-m", "puppetmaster", "serve")], ids=["index.py", "serve"])
def test_no_other_address_is_served_without_an_account(tmp_path: Path, host: str, command: tuple[str, ...]) -> None:
    done = run_to_its_end(tmp_path, *command, http=f"{host}:{free_port('127.0.0.1')}")
    assert done.returncode == 1
    assert "puppetmaster accounts add" in done.stderr
    assert "--insecure" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data").exists(), "nothing was begun"


def test_insecure_serves_everybody_on_any_address(tmp_path: Path) -> None:
    address = f"{EVERYWHERE}:{free_port('127.0.0.1')}"
    with bundle_alone(tmp_path, address, insecure="true") as stand:
        headers = {"Host": "fleet.example"}
        assert stand.http("post", "/jobs", json=LATER, headers=headers).status_code == 200
        assert stand.http("get", "/account", headers=headers).json()["loginRequired"] is False
        foreign = {**headers, "Origin": "https://evil.example"}
        assert stand.http("post", "/jobs", json=LATER, headers=foreign).status_code == 403

        accounts(stand, "add", "ana", password=PASSWORD)
        assert stand.http("get", "/jobs").status_code == 401, "with an account made, it is asked for"
        assert stand.http("get", "/jobs", headers=bearer(login(stand, "ana"))).status_code == 200


# With accounts: all that follows is on an address that others can reach, up to the next heading

ROLES = ("viewer", "operator", "admin")

PASSWORDS = {role: f"sesame-open-for-{role}" for role in ROLES}


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """Broker, controller and a bundle that writes down all that it can; the other accounts are made while it runs."""
    running = Stand(tmp_path_factory.mktemp("stand"), http=True, start=False, log="debug")
    address = f"{EVERYWHERE}:{httpx.URL(running.site).port}"
    running.bundle.env["PUPPETMASTER_HTTP"], running.site = address, f"http://{address}"
    accounts(running, "add", "admin", password=PASSWORDS["admin"])
    with running:
        running.start()
        for role in ("viewer", "operator"):
            accounts(running, "add", role, "--role", role, password=PASSWORDS[role])
        yield running


@pytest.fixture(scope="module")
def secrets_() -> list[str]:
    """What must not be found in any log."""
    return [*PASSWORDS.values()]


@pytest.fixture(scope="module")
def tokens(stand: Stand, secrets_: list[str]) -> dict[str, str]:
    """A token for each role."""
    found = {role: login(stand, role, PASSWORDS[role]) for role in ROLES}
    secrets_ += found.values()
    return found


EXPECTED = {
    "nobody": ["GET /health", "POST /login"],
    "viewer": [
        "GET /account", "POST /logout", "GET /metrics",
        "GET /jobs", "GET /jobs/{id}", "GET /jobs/{id}/answers", "GET /jobs/events", "GET /jobs/{id}/events",
        "GET /requests", "GET /requests/{id}", "GET /request/{id}",
        "GET /devices", "GET /devices/{id}", "GET /devices/facts/{id}",
        "GET /requests/{id}/output", "GET /requests/{id}/output/events", "GET /requests/{id}/output/raw",
        "GET /jobs/{id}/output/events",
    ],
    "operator": [
        "POST /jobs", "PUT /jobs/{id}", "DELETE /jobs/{id}", "POST /jobs/{id}/rerun",
        "POST /requests", "DELETE /requests/{id}",
        "PUT /devices/{id}", "DELETE /devices/{id}",
    ],
    "admin": ["GET /accounts", "POST /accounts", "PUT /accounts/{name}", "DELETE /accounts/{name}", "GET /audit"],
}  # fmt: skip
"""The least that one has to be for a call."""

SOCKETS = ["/jobs/ws", "/jobs/ws/{id}", "/jobs/{id}/ws"]

PAGES = [
    "/", "/favicon.ico", "/static/main.js", "/static/base.css", "/docs", "/docs/swagger/swagger-ui-bundle.js",
    "/openapi.json",
]  # fmt: skip

RANKS = ["nobody", *ROLES]


def filled(path: str) -> str:
    """A path to what is not there: the answer to who is let in is 404, or 400 for the missing body."""
    return path.replace("{id}", "999").replace("{name}", "somebody-else")


def ways_in(tokens: dict[str, str]) -> dict[str, tuple[str, dict[str, str]]]:
    """Callers: what they are, and the headers of their calls."""
    found = {role: (role, bearer(token)) for role, token in tokens.items()}
    found |= {f"{role} by cookie": (role, {"Cookie": f"{COOKIE}={token}"}) for role, token in tokens.items()}
    token = tokens["admin"]
    nobody = [
        {}, bearer("pm_nobodys"), bearer(token + "x"), bearer(token[:-1]), bearer(token.swapcase()),
        {"Authorization": token}, {"Authorization": f"Basic {token}"}, {"Cookie": f"{COOKIE}=x"},
        {"Cookie": f"token={token}"}, bearer(f"{token} {token}"), bearer("%00"), {"X-Token": token},
    ]  # fmt: skip
    return found | {f"nobody {number}": ("nobody", headers) for number, headers in enumerate(nobody)}


def test_there_is_a_rule_for_every_route(stand: Stand) -> None:
    paths = stand.http("get", "/openapi.json").json()["paths"]
    found = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert found == {call for calls in EXPECTED.values() for call in calls}
    app = FastAPI()
    Streams(None, None, None).add_to(app)  # type: ignore[arg-type]
    assert sorted(route.path for route in app.routes if isinstance(route, APIWebSocketRoute)) == sorted(SOCKETS)


@pytest.mark.parametrize("needed", EXPECTED)
def test_each_call_lets_in_who_may_and_nobody_else(stand: Stand, tokens: dict[str, str], needed: str) -> None:
    with httpx.Client(base_url=stand.site, timeout=PATIENCE, trust_env=False) as client:
        for (who, (role, headers)), call in product(ways_in(tokens).items(), EXPECTED[needed]):
            method, path = call.split()
            if path == "/logout":
                continue  # it would end the token; it has a test of its own
            with client.stream(method, filled(path), headers=headers) as answer:
                assert answer.status_code < 500, (who, call)
                assert verdict(answer.status_code) == wanted(role, needed), (who, call)
                if answer.status_code == 401 and path != "/login":
                    assert answer.headers["www-authenticate"] == "Bearer"
                    assert set(json.loads(answer.read())) == {"message"}


def verdict(code: int) -> str:
    return {401: "log in", 403: "no"}.get(code, "yes")


def wanted(role: str, needed: str) -> str:
    if RANKS.index(role) >= RANKS.index(needed):
        return "yes"
    return "log in" if role == "nobody" else "no"


def test_each_socket_lets_in_who_may_and_nobody_else(stand: Stand, tokens: dict[str, str]) -> None:
    for (who, (role, headers)), path in product(ways_in(tokens).items(), SOCKETS):
        assert verdict(socket_code(stand, filled(path), headers)) == wanted(role, "viewer"), (who, path)


@pytest.mark.parametrize(
    "path",
    [
        "//jobs", "/jobs/", "/./jobs", "/x/../jobs", "/JOBS", "/%6aobs", "/jobs?x=/static/", "/jobs;/static/",
        "/static/../jobs",
        "/docs/../jobs", "/docs/..%2fjobs", "/%61ccounts", "/accounts/", "//audit", "/metrics/", "/jobs/%2e%2e/audit",
    ],
)  # fmt: skip
def test_no_spelling_of_a_path_gets_around_the_login(stand: Stand, tokens: dict[str, str], path: str) -> None:
    host = httpx.URL(stand.site).netloc.decode()
    assert raw_code(stand, f"GET {path} HTTP/1.1\r\nHost: {host}") in (401, 404)
    token = f"\r\nAuthorization: Bearer {tokens['viewer']}"
    if "ccounts" in path or "audit" in path:
        assert raw_code(stand, f"GET {path} HTTP/1.1\r\nHost: {host}{token}") in (403, 404)


def test_the_page_and_its_files_need_no_login(stand: Stand) -> None:
    for path in PAGES:
        assert stand.http("get", path).status_code == 200, path
        assert stand.http("head", path).status_code in (200, 405), path


def test_every_method_that_there_is_not_is_asked_for_a_login_too(stand: Stand, tokens: dict[str, str]) -> None:
    for method in ("PATCH", "TRACE", "OPTIONS", "PROPFIND", "DELETE"):
        assert stand.http(method, "/jobs").status_code == 401
        answer = stand.http(method, "/jobs", headers=bearer(tokens["operator"]))
        assert answer.status_code == 405
        assert answer.headers["allow"] == "GET, HEAD, POST"


# Logging in and out


def test_a_login_gives_a_token_and_a_cookie(stand: Stand, secrets_: list[str]) -> None:
    begun = time.time()
    answer = stand.http("post", "/login", json={"name": "Viewer", "password": PASSWORDS["viewer"]})
    assert answer.status_code == 200
    body = answer.json()
    secrets_.append(body["token"])
    assert set(body) == {"token", "expiresAt", "name", "role"}
    assert (body["name"], body["role"]) == ("viewer", "viewer")
    assert abs(from_text(body["expiresAt"]) - begun - 12 * 3600) < PATIENCE
    assert answer.headers["cache-control"] == "no-store"

    (cookie,) = answer.headers.get_list("set-cookie")
    found = SimpleCookie(cookie)[COOKIE]
    assert found.value == body["token"]
    assert found["httponly"] is True
    assert (found["samesite"].lower(), found["path"], found["domain"]) == ("strict", "/", "")
    assert int(found["max-age"]) == 12 * 3600
    assert not found["secure"], "it would not come back over HTTP"
    for headers in (bearer(body["token"]), {"Cookie": f"{COOKIE}={body['token']}"}):
        who = {"name": "viewer", "role": "viewer", "loginRequired": True}
        assert stand.http("get", "/account", headers=headers).json() == who
        assert socket_code(stand, "/jobs/ws", headers) == 101


def test_a_cookie_is_of_no_use_to_foreign_pages(stand: Stand, tokens: dict[str, str]) -> None:
    headers = {"Cookie": f"{COOKIE}={tokens['operator']}", "Origin": "https://evil.example"}
    assert stand.http("post", "/jobs", json=LATER, headers=headers).status_code == 403
    assert socket_code(stand, "/jobs/ws", headers) == 403
    headers["Origin"] = stand.site
    assert socket_code(stand, "/jobs/ws", headers) == 101


class Watch:
    """A WebSocket and a stream of events of one login, both open."""

    def __init__(self, stand: Stand, stack: contextlib.ExitStack, headers: dict[str, str]) -> None:
        self.socket = stack.enter_context(open_socket(stand, "/jobs/ws?limit=0", headers))
        self._events = stack.enter_context(
            httpx.stream("GET", f"{stand.site}/jobs/events?limit=0", headers=headers, timeout=PATIENCE, trust_env=False)
        )
        assert self._events.status_code == 200

    def closed(self) -> int:
        """The code with which the server closes the socket; the stream ends too."""
        with pytest.raises(ConnectionClosed) as caught:
            while True:
                self.socket.recv(timeout=PATIENCE)
        for _ in self._events.iter_lines():
            pass
        assert caught.value.rcvd is not None
        return caught.value.rcvd.code


def test_an_end_of_a_login_counts_at_once_and_for_open_streams(stand: Stand, secrets_: list[str]) -> None:
    for name in ("guest", "temp", "renewed"):
        accounts(stand, "add", name, "--role", "viewer", password=f"{PASSWORD} {name}")
    found = {name: login(stand, name, f"{PASSWORD} {name}") for name in ("guest", "temp", "renewed")}
    other = login(stand, "guest", f"{PASSWORD} guest")
    secrets_ += [*found.values(), other, PASSWORD, "another long one"]
    with contextlib.ExitStack() as stack:
        watches = [Watch(stand, stack, bearer(token)) for token in found.values()]
        stays = Watch(stand, stack, bearer(other))

        answer = stand.http("post", "/logout", headers=bearer(found["guest"]))
        assert answer.status_code == 204
        assert "Max-Age=0" in answer.headers["set-cookie"]
        accounts(stand, "remove", "temp")
        accounts(stand, "passwd", "renewed", password="another long one")
        for name, token in found.items():
            refused = stand.http("get", "/jobs", headers=bearer(token))
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer"), name
            assert socket_code(stand, "/jobs/ws", bearer(token)) == 401
        assert stand.http("post", "/logout", headers=bearer(found["guest"])).status_code == 401
        assert [watch.closed() for watch in watches] == [1008, 1008, 1008]

        assert stand.http("get", "/jobs", headers=bearer(other)).status_code == 200, "another login of the same account"
        stays.socket.ping().wait(PATIENCE)


def test_another_role_counts_at_once(stand: Stand, secrets_: list[str]) -> None:
    accounts(stand, "add", "rising", "--role", "viewer", password=f"{PASSWORD} rising")
    token = login(stand, "rising", f"{PASSWORD} rising")
    secrets_.append(token)
    assert stand.http("post", "/jobs", json=LATER, headers=bearer(token)).status_code == 403
    accounts(stand, "role", "rising", "operator")
    assert stand.http("post", "/jobs", json=LATER, headers=bearer(token)).status_code == 200
    assert stand.http("get", "/accounts", headers=bearer(token)).status_code == 403


def test_a_token_of_the_command_line_works(stand: Stand, secrets_: list[str]) -> None:
    token = accounts(stand, "token", "viewer", "--days", "1")
    secrets_.append(token)
    assert stand.http("get", "/account", headers=bearer(token)).json()["name"] == "viewer"


def test_an_admin_manages_accounts_over_http(stand: Stand, tokens: dict[str, str], secrets_: list[str]) -> None:
    headers = bearer(tokens["admin"])
    body = {"name": "Carla", "password": "carlas own secret", "role": "viewer"}
    secrets_ += ["carlas own secret", "carlas next secret"]
    made = stand.http("post", "/accounts", json=body, headers=headers)
    assert made.status_code == 200
    assert {"name": "carla", "role": "viewer"}.items() <= made.json().items()
    assert "password" not in made.text
    assert stand.http("post", "/accounts", json=body, headers=headers).status_code == 409
    token = login(stand, "carla", "carlas own secret")
    secrets_.append(token)
    change = {"password": "carlas next secret", "role": "operator"}
    assert stand.http("put", "/accounts/carla", json=change, headers=headers).json()["role"] == "operator"
    assert stand.http("get", "/jobs", headers=bearer(token)).status_code == 401
    assert "carla" in [account["name"] for account in stand.http("get", "/accounts", headers=headers).json()]
    assert stand.http("delete", "/accounts/carla", headers=headers).status_code == 200
    assert stand.http("delete", "/accounts/carla", headers=headers).status_code == 404
    assert stand.http("delete", "/accounts/admin", headers=headers).status_code == 409, "the last admin"
    assert stand.http("put", "/accounts/admin", json={"role": "viewer"}, headers=headers).status_code == 409


# The audit log


def audit_lines(stand: Stand) -> list[Document]:
    return [json.loads(line) for line in (stand.data / "audit.jsonl").read_text().splitlines()]


def test_every_write_is_in_the_audit_log_before_it_is_answered(
    stand: Stand, tokens: dict[str, str], secrets_: list[str]
) -> None:
    operator, admin = bearer(tokens["operator"]), bearer(tokens["admin"])
    own = login(stand, "operator", PASSWORDS["operator"])
    secrets_ += [own, "wrong and long", "doras own secret"]
    dora = {"name": "dora", "password": "doras own secret"}
    job = stand.http("post", "/jobs", json=LATER, headers=operator).json()
    path, requests = f"/jobs/{job['id']}", job["requests"]
    calls: list[tuple[str, str, Any, dict[str, str], str | None, int]] = [
        ("post", "/jobs", LATER, operator, "operator", 200),
        ("post", "/jobs", {"batch": []}, operator, "operator", 400),
        ("post", "/jobs", {**JOB, "dryRun": True}, operator, "operator", 200),
        ("post", "/jobs", LATER, bearer(tokens["viewer"]), "viewer", 403),
        ("put", path, {"priority": 7}, operator, "operator", 200),
        ("put", path, {"status": "resolved"}, operator, "operator", 400),
        ("post", f"{path}/rerun", None, operator, "operator", 409),
        ("delete", f"/requests/{requests[0]}", None, operator, "operator", 200),
        ("delete", "/requests/999", None, operator, "operator", 404),
        ("delete", path, None, operator, "operator", 200),
        ("delete", path, None, operator, "operator", 404),
        ("post", "/requests", {"destination": "dev", "message": JOB["message"]}, operator, "operator", 200),
        ("post", "/requests", {}, operator, "operator", 400),
        ("post", "/accounts", dora, operator, "operator", 403),
        ("post", "/accounts", dora, admin, "admin", 200),
        ("put", "/accounts/dora", {"password": "doras own secret"}, admin, "admin", 200),
        ("delete", "/accounts/dora", None, admin, "admin", 200),
        ("post", "/login", {"name": "operator", "password": PASSWORDS["operator"]}, {}, "operator", 200),
        ("post", "/login", {"name": "viewer", "password": "wrong and long"}, {}, None, 401),
        ("post", "/logout", None, bearer(own), "operator", 204),
    ]
    for method, resource, body, headers, who, code in calls:
        before, begun = len(audit_lines(stand)), time.time()
        answer = stand.http(method, resource, json=body, headers=headers)
        assert answer.status_code == code, answer.text
        (line,) = audit_lines(stand)[before:]
        assert (line["who"], line["from"], line["method"], line["resource"], line["code"]) == (
            who, "127.0.0.1", method, resource, code
        )  # fmt: skip
        assert line["role"] == (None if resource == "/login" else who)
        assert abs(from_text(line["at"]) - begun) < PATIENCE
        if code >= 400:
            assert line["message"]
        if resource == "/jobs" and code == 200:
            assert line["totalCount"] == 1
            assert line.get("job") == answer.json().get("id")


def test_reads_are_not_in_the_audit_log(stand: Stand, tokens: dict[str, str]) -> None:
    before = len(audit_lines(stand))
    for path in ("/jobs", "/audit", "/accounts", "/health", "/"):
        assert stand.http("get", path, headers=bearer(tokens["admin"])).status_code == 200
    assert stand.http("post", "/jobs", json=LATER).status_code == 401, "anybody could fill it with such lines"
    assert len(audit_lines(stand)) == before


def test_an_admin_reads_the_audit_log_newest_first(stand: Stand, tokens: dict[str, str]) -> None:
    lines = audit_lines(stand)
    found = stand.http("get", "/audit?limit=10000", headers=bearer(tokens["admin"])).json()
    assert found == lines[::-1]
    assert found[-1]["from"] == "cli", "the first account was made by hand"
    page = stand.http("get", "/audit?limit=2&offset=1", headers=bearer(tokens["admin"])).json()
    assert page == lines[-2:-4:-1]


# The end of these accounts


def test_a_token_survives_a_restart(stand: Stand, tokens: dict[str, str]) -> None:
    stand.bundle.restart()
    for role, token in tokens.items():
        assert stand.http("get", "/account", headers=bearer(token)).json()["role"] == role
    stand.bundle.restart(kill=True)
    assert stand.http("get", "/account", headers=bearer(tokens["viewer"])).status_code == 200


def test_without_its_last_account_the_server_lets_nobody_in(stand: Stand, tokens: dict[str, str]) -> None:
    names = [account["name"] for account in stand.http("get", "/accounts", headers=bearer(tokens["admin"])).json()]
    for name in names:
        accounts(stand, "remove", name, "--force")
    assert json.loads(accounts(stand, "list", "--json")) == []
    for headers in ({}, bearer(tokens["admin"])):
        for method, path in (("get", "/jobs"), ("post", "/jobs"), ("get", "/accounts"), ("get", "/account")):
            assert stand.http(method, path, headers=headers).status_code == 401
    assert socket_code(stand, "/jobs/ws") == 401
    stand.bundle.stop()
    assert stand.bundle.returncode == 0
    stand.bundle.start(wait=False)
    until(lambda: not stand.bundle.running)
    assert stand.bundle.returncode == 1


def test_no_password_and_no_token_is_in_any_log(stand: Stand, tokens: dict[str, str], secrets_: list[str]) -> None:
    bundle = stand.bundle.log()
    assert " DEBUG " in bundle
    texts = [bundle, stand.bundle.out_path.read_text(), (stand.data / "audit.jsonl").read_text()]
    for secret in [*secrets_, *tokens.values()]:
        assert not any(secret in text for text in texts), secret
    assert "Traceback" not in bundle


# Each with a bundle of its own


def test_wrong_passwords_and_too_many_of_them(tmp_path: Path) -> None:
    with bundle_alone(tmp_path, None, "ana") as stand:

        def tried(name: str, password: str) -> httpx.Response:
            return stand.http("post", "/login", json={"name": name, "password": password})

        wrong, unknown = tried("ana", "not hers at all"), tried("nobody", "not hers at all")
        assert (wrong.status_code, unknown.status_code) == (401, 401)
        assert wrong.json() == unknown.json(), "it does not tell which names there are"
        assert wrong.headers["www-authenticate"] == "Bearer"
        assert "set-cookie" not in wrong.headers
        for body in (None, [], {"name": "ana"}, {"name": 5, "password": []}, {"name": "ana", "password": ""}):
            assert stand.http("post", "/login", json=body).status_code == 400
        assert stand.http("post", "/login", content=b"x" * 20_000).status_code == 413

        codes = [tried("ana", "not hers, 0").status_code]
        while codes[-1] != 429 and len(codes) < 20:  # on a slow machine the first waits are over before the next call
            codes.append(tried("ana", f"not hers, {len(codes)}").status_code)
        assert codes[0] == 401
        assert codes[-1] == 429
        late = tried("ana", PASSWORD)
        assert late.status_code == 429, "nor is the right one looked at"
        assert 1 <= int(late.headers["retry-after"]) <= 10


def test_a_token_ends_with_its_time(tmp_path: Path) -> None:
    seconds = 8.0
    with bundle_alone(tmp_path, None, "ana", login_hours=seconds / 3600) as stand:
        begun = time.time()
        answer = stand.http("post", "/login", json={"name": "ana", "password": PASSWORD}).json()
        headers = bearer(answer["token"])
        assert stand.http("get", "/jobs", headers=headers).status_code == 200
        assert seconds <= from_text(answer["expiresAt"]) - begun + 0.01 < seconds + PATIENCE
        until(lambda: stand.http("get", "/jobs", headers=headers).status_code == 401)
        assert time.time() >= begun + seconds
        assert socket_code(stand, "/jobs/ws", headers) == 401


def test_damaged_accounts_let_nobody_in(tmp_path: Path) -> None:
    with bundle_alone(tmp_path, None, "ana") as stand, contextlib.ExitStack() as stack:
        token = login(stand, "ana")
        watch = Watch(stand, stack, bearer(token))
        file = stand.data / "accounts.json"
        content = file.read_bytes()
        for damage in (content[:-20], b"", b"{}", b'{"accounts": {}}', None):
            if damage is None:
                file.unlink()
            else:
                file.write_bytes(damage)
            assert_nobody_gets_in(stand, token)
        assert stand.http("get", "/").status_code == 200, "the page can tell what is wrong"
        assert stand.http("get", "/health").json()["live"] is True
        assert watch.closed() == 1008

        file.write_bytes(content)
        assert stand.http("get", "/jobs", headers=bearer(token)).status_code == 200
        assert stand.http("get", "/jobs").status_code == 401
        assert "Traceback" not in stand.bundle.log()


def assert_nobody_gets_in(stand: Stand, token: str) -> None:
    for headers in ({}, bearer(token), bearer("pm_x")):
        for method, path in (("get", "/jobs"), ("post", "/jobs"), ("get", "/accounts"), ("get", "/jobs/events")):
            answer = stand.http(method, path, json=None if method == "get" else LATER, headers=headers)
            assert answer.status_code in (500, 503), (method, path)
            assert set(answer.json()) == {"message"}
        assert socket_code(stand, "/jobs/ws", headers) in (500, 503)
    assert stand.http("post", "/login", json={"name": "ana", "password": PASSWORD}).status_code in (500, 503)


def test_damaged_accounts_are_no_reason_to_open_another_address(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "accounts.json").write_text("{")
    done = run_to_its_end(tmp_path, INDEX, http=f"{EVERYWHERE}:{free_port('127.0.0.1')}")
    assert done.returncode == 1
    assert "accounts.json is damaged" in done.stderr
    assert "Traceback" not in done.stderr


ORIGIN = "https://fleet.example.com"


def test_only_the_origins_that_are_named_may_use_the_api(tmp_path: Path) -> None:
    with bundle_alone(tmp_path, None, "ana", cors=f"{ORIGIN},http://localhost:3000") as stand:
        headers = {**bearer(login(stand, "ana")), "Origin": ORIGIN}
        asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
        preflight = stand.http("options", "/jobs", headers={"Origin": ORIGIN, **asks})
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == ORIGIN
        assert "POST" in preflight.headers["access-control-allow-methods"]
        made = stand.http("post", "/jobs", json=LATER, headers=headers)
        assert (made.status_code, made.headers["access-control-allow-origin"]) == (200, ORIGIN)
        read = stand.http("get", "/jobs", headers=headers)
        assert (read.status_code, read.headers["access-control-allow-origin"]) == (200, ORIGIN)
        assert "access-control-allow-credentials" not in read.headers, "no cookie of ours is for another page"
        refused = stand.http("get", "/jobs", headers={"Origin": ORIGIN})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, ORIGIN)
        assert socket_code(stand, "/jobs/ws", headers) == 101

        for origin in ("https://evil.example", f"{ORIGIN}.evil.example", "null", ORIGIN.replace("https", "http")):
            foreign = {**headers, "Origin": origin}
            assert stand.http("options", "/jobs", headers={"Origin": origin, **asks}).status_code == 400
            assert stand.http("post", "/jobs", json=LATER, headers=foreign).status_code == 403
            assert "access-control-allow-origin" not in stand.http("get", "/jobs", headers=foreign).headers
            assert socket_code(stand, "/jobs/ws", foreign) == 403


# HTTPS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for this machine, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("certificate")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE)
    return cert, key


def test_https_serves_all_of_it(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    trust = ssl.create_default_context(cafile=str(cert))
    with Stand(tmp_path, http=True, start=False, http_cert=cert, http_key=key) as stand:
        accounts(stand, "add", "ana", password=PASSWORD)
        start_alone(stand, verify=trust)
        assert stand.site.startswith("https://")
        answer = stand.http("post", "/login", json={"name": "ana", "password": PASSWORD}, verify=trust)
        assert answer.status_code == 200
        assert SimpleCookie(answer.headers["set-cookie"])[COOKIE]["secure"] is True
        headers = {**bearer(answer.json()["token"]), "Origin": stand.site}
        job = stand.http("post", "/jobs", json=LATER, headers=headers, verify=trust).json()
        url = f"{stand.site.replace('http', 'ws', 1)}/jobs/{job['id']}/ws"

        async def first_state() -> Any:
            # Not the client with threads: before Python 3.13 it writes and reads TLS at once, which breaks it at times.
            async with connect_async(url, proxy=None, additional_headers=headers, ssl=trust) as watcher:
                return json.loads(await asyncio.wait_for(watcher.recv(), PATIENCE))

        assert asyncio.run(first_state())["id"] == job["id"]
        # Nothing else is spoken there.
        with pytest.raises(httpx.TransportError):
            httpx.get(stand.site.replace("https", "http"), timeout=PATIENCE, trust_env=False)
        with pytest.raises(httpx.ConnectError):
            stand.http("get", "/health")


@pytest.mark.parametrize("fault", ["no certificate", "another key"])
def test_a_certificate_that_does_not_fit_is_told(tmp_path: Path, certificate: tuple[Path, Path], fault: str) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    shutil.copyfile(certificate[0], cert)
    shutil.copyfile(certificate[1], key)
    if fault == "no certificate":
        cert.write_text("this is none\n")
    else:
        command = ["openssl", "ecparam", "-genkey", "-name", "prime256v1", "-out", str(key)]
        subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE)
    done = run_to_its_end(
        tmp_path, INDEX, http=f"127.0.0.1:{free_port('127.0.0.1')}", http_cert=str(cert), http_key=str(key)
    )
    assert done.returncode == 1
    assert str(cert) in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("settings", "source"), [({}, "127.0.0.1"), ({"trusted_proxies": "127.0.0.1"}, "192.0.2.7")])
def test_where_a_caller_is_from_is_believed_of_proxies_that_are_named(
    tmp_path: Path, settings: dict[str, str], source: str
) -> None:
    with bundle_alone(tmp_path, None, **settings) as stand:
        headers = {"X-Forwarded-For": "192.0.2.7"}
        assert stand.http("post", "/jobs", json={}, headers=headers).status_code == 400
        (line,) = (stand.data / "audit.jsonl").read_text().splitlines()
        assert json.loads(line)["from"] == source
