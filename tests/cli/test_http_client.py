"""The client over HTTP: against a server that misbehaves as it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import json
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any

import pytest

from puppetmaster.client import (
    AnswerError,
    AsyncClient,
    Client,
    DocumentRefused,
    LoginNeeded,
    NoAnswer,
    NotAllowed,
    NotEnded,
    OutOfService,
    SizeRefused,
    StateForbids,
    Throttled,
    UnknownJob,
    UnknownRequest,
    calls,
    watching,
)
from puppetmaster.client.attempts import Attempts
from puppetmaster.client.events import EventReader
from puppetmaster.embedded.broker import free_port
from puppetmaster.errors import (
    Conflict,
    Forbidden,
    InvalidDocument,
    JobNotFound,
    RequestNotFound,
    SettingsError,
    StoreUnavailable,
    TooLarge,
    TooManyAttempts,
    Unauthorized,
)
from tests.cli.conftest import make_job
from tests.cli.scripted import CUT, Asked, Scripted, event, reply, stream


class Blocking:
    """The async client behind the face of the sync one; what it iterates comes as a list."""

    def __init__(self, url: str, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = AsyncClient(url, **options)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._client, name)
        return lambda *args, **kwargs: self._loop.run_until_complete(_whole(attribute(*args, **kwargs)))

    def __enter__(self) -> Blocking:
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()


async def _whole(result: Any) -> Any:
    return [entry async for entry in result] if hasattr(result, "__aiter__") else await result


@pytest.fixture
def server() -> Iterator[Scripted]:
    scripted = Scripted()
    yield scripted
    scripted.close()


@pytest.fixture(params=[Client, Blocking], ids=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Makes clients of either kind, and closes them."""
    made: list[Any] = []

    def make(url: str, **options: Any) -> Any:
        made.append(request.param(url, **options))
        return made[-1]

    yield make
    for client in made:
        client.__exit__(None, None, None)


@pytest.fixture
def client(connect: Callable[..., Any], server: Scripted) -> Any:
    return connect(server.url)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """No pauses: they are noted instead."""
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("puppetmaster.client.sync.time.sleep", pauses.append)
    monkeypatch.setattr("puppetmaster.client.asynchronous.asyncio.sleep", pause)
    return pauses


RAN = {**make_job(status="resolved", resolved=2), "requests": []}

# One call


def public(kind: type) -> dict[str, tuple[str, str | None]]:
    """The public methods of a class: parameters and what is said of them."""
    return {
        name: (str(inspect.signature(found).replace(return_annotation=None)), found.__doc__)
        for name, found in vars(kind).items()
        if inspect.isfunction(found) and not name.startswith("_")
    }


def test_both_clients_have_the_same_calls():
    twin = public(AsyncClient)
    assert twin.pop("watch_documents")
    assert public(Client) == twin


def test_a_job_is_submitted_with_a_document(server, client):
    server.answers(reply(200, {**make_job(created=2), "requests": [1, 2]}))
    job = client.submit(
        "post",
        "/system/reboot",
        ["device-0001", "device-0002"],
        {"delay": 5},
        timeout=600,
        request_timeout=30,
        labels={"site": "berlin"},
        start_at=datetime(2026, 1, 31, 12, tzinfo=timezone.utc),
        rate=None,
        key="k1",
    )
    assert (job.id, job.status, job.counts.created) == (1_000_000, "dispatching", 2)
    assert (server.seen[0].method, server.seen[0].resource) == ("post", "/jobs")
    assert server.seen[0].headers["content-type"] == "application/json"
    assert server.seen[0].document == {
        "batch": [
            {
                "method": "post",
                "resource": "/system/reboot",
                "data": {"delay": 5},
                "__request": {"destination": ["device-0001", "device-0002"]},
            }
        ],
        "timeout": 600,
        "requestTimeout": 30,
        "labels": {"site": "berlin"},
        "startAt": "2026-01-31T12:00:00.000Z",
        "key": "k1",
    }


def test_one_destination_may_stand_for_a_list(server, client):
    server.answers(reply(200, make_job(created=1)))
    client.submit("get", "/x", "device-0001")
    assert server.seen[0].document["batch"][0]["__request"] == {"destination": ["device-0001"]}


def test_an_option_that_is_none_of_a_job_is_a_type_error(client, server):
    with pytest.raises(TypeError, match=r"no option 'timeot'; there are abort, .*timeout"):
        client.submit("get", "/x", "a", timeot=5)
    assert server.seen == []


def test_what_is_no_json_is_not_sent(client, server):
    with pytest.raises(InvalidDocument, match="can't be written as JSON"):
        client.submit("get", "/x", "a", {1, 2})
    assert server.seen == []


def test_a_dry_run_is_not_taken_for_a_job(client, server):
    with pytest.raises(InvalidDocument, match=r"dryRun: .*dry_run tells"):
        client.submit_document({"batch": [], "dryRun": True})
    assert server.seen == []


@pytest.mark.parametrize(
    ("call", "method", "resource", "body"),
    [
        (lambda client: client.job(7), "get", "/jobs/7?collection=false&limit=0", None),
        (lambda client: client.pause(7), "put", "/jobs/7", {"status": "paused"}),
        (lambda client: client.resume(7), "put", "/jobs/7", {"status": "dispatching"}),
        (lambda client: client.cancel(7), "put", "/jobs/7", {"status": "canceled"}),
        (lambda client: client.update(7, rate=None, priority=9), "put", "/jobs/7", {"rate": None, "priority": 9}),
        (lambda client: client.remove(7), "delete", "/jobs/7", None),
    ],
)
def test_each_call_of_a_job_asks_for_its_resource(server, client, call, method, resource, body):
    server.answers(reply(200, make_job(7)))
    assert call(client).id == 7
    asked = server.seen[0]
    assert (asked.method, asked.resource) == (method, resource)
    assert (asked.document if asked.body else None) == body


def test_a_job_is_run_again_with_a_key(server, client):
    server.answers(reply(200, make_job(8)))
    assert client.rerun(7, status="error", name="again").id == 8
    assert server.seen[0].resource == "/jobs/7/rerun"
    document = server.seen[0].document
    assert document.pop("key")
    assert document == {"status": ["error"], "name": "again"}


def test_previews_carry_no_key(server, client):
    server.answers(reply(200, {"dryRun": True, "totalCount": 6, "destinationCount": 3, "messageCount": 2}))
    assert client.dry_run("get", "/x", ["a"]).total_count == 6
    assert client.dry_rerun(7, status=["error", "canceled"]).destination_count == 3
    assert server.seen[1].document == {"status": ["error", "canceled"], "dryRun": True}
    assert all("key" not in asked.document for asked in server.seen)


def test_a_query_is_written_as_the_server_reads_it(server, client):
    server.answers(reply(200, []))
    assert list(client.jobs(label="a b&c=d/ä?+", status=["paused", "pending"])) == []
    assert server.seen[0].resource == (
        "/jobs?status=paused&status=pending&label=a%20b%26c%3Dd%2F%C3%A4%3F%2B&limit=500&offset=0"
    )


def test_a_path_behind_a_proxy_is_kept(server, connect):
    server.answers(reply(200, make_job(7)))
    assert connect(f"{server.url}/fleet/").job(7).id == 7
    assert server.seen[0].resource == "/fleet/jobs/7?collection=false&limit=0"


def test_any_other_call_gives_the_json_of_the_answer(server, client):
    server.answers(reply(200, [1, {"a": None}]), reply(204))
    assert client.call("get", "/accounts") == [1, {"a": None}]
    assert client.call("delete", "/accounts/ana") is None


# Refusals

MESSAGE = {"message": "so it is"}


@pytest.mark.parametrize(
    ("code", "kind", "base"),
    [
        (400, DocumentRefused, InvalidDocument),
        (401, LoginNeeded, Unauthorized),
        (403, NotAllowed, Forbidden),
        (404, UnknownJob, JobNotFound),
        (409, StateForbids, Conflict),
        (413, SizeRefused, TooLarge),
        (429, Throttled, TooManyAttempts),
        (503, OutOfService, StoreUnavailable),
        (500, AnswerError, AnswerError),
    ],
)
def test_every_code_is_an_answer_error_and_the_error_of_the_tree(server, connect, code, kind, base):
    server.answers(reply(code, MESSAGE))
    with pytest.raises(base, match=r"^so it is ") as caught:
        connect(server.url, patience=0).job(7)
    assert type(caught.value) is kind
    assert isinstance(caught.value, AnswerError)
    assert (caught.value.code, caught.value.message, caught.value.data) == (code, "so it is", MESSAGE)


def test_faults_come_with_their_paths(server, client):
    server.answers(reply(400, {"message": "two", "errors": [{"path": "batch.0", "message": "no"}, {"path": "x"}]}))
    with pytest.raises(InvalidDocument) as caught:
        client.submit("get", "/x", "a")
    assert [(fault.path, fault.message) for fault in caught.value.faults] == [("batch.0", "no"), ("x", "")]


def test_an_unknown_request_is_no_unknown_job(server, client):
    server.answers(reply(404, MESSAGE))
    with pytest.raises(RequestNotFound) as caught:
        client.request(9)
    assert (type(caught.value), caught.value.ident) == (UnknownRequest, 9)
    with pytest.raises(AnswerError) as caught:
        client.call("get", "/nowhere")
    assert type(caught.value) is AnswerError


def test_a_login_that_is_needed_says_what_to_do(server, client):
    server.answers(reply(401, {"message": "this needs a login: POST /login, or a token from somewhere"}))
    with pytest.raises(Unauthorized, match=r"this needs a login \(code 401\): .*_TOKEN.*accounts token") as e:
        client.job(7)
    assert "POST" not in str(e.value)


# Nobody there, or somebody else


def test_no_server_is_an_error_that_says_what_to_look_at(connect, at_once):
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ConnectionError, match=rf"{address} \(Connection refused\): .*puppetmaster serve") as caught:
        connect(address, patience=0).job(7)
    assert type(caught.value) is NoAnswer


def test_a_name_that_is_none_is_said_to_be_so(connect):
    with pytest.raises(NoAnswer, match=r"no connection to http://nowhere.invalid \(.+\): "):
        connect("http://nowhere.invalid", patience=0).job(7)


@pytest.fixture
def plain_port() -> Iterator[int]:
    """Where a server refuses at the first byte what is no HTTP; one that waits for the end of a line may wait long."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection:
                        connection.recv(65536)
                        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_server_without_tls_is_told_from_one_that_is_away(plain_port, connect):
    with pytest.raises(NoAnswer, match=r"does not speak TLS .*: try http://") as caught:
        connect(f"https://127.0.0.1:{plain_port}").job(7)
    assert caught.value.lasting


def test_what_breaks_the_connection_off_may_be_no_http_server(server, connect):
    server.answers([CUT])
    with pytest.raises(NoAnswer, match="does it speak HTTP there"):
        connect(server.url, patience=0).job(7)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (reply(200, b"<html>hello</html>", content_type="text/html"), "is 200 with text/html: that is no puppetmaster"),
        (reply(404, b"<html>not here</html>", content_type="text/html"), "is 404 with text/html"),
        (reply(404, {"detail": "Not Found"}), "is 404 with application/json"),
        (reply(200, {"id": "x"}), "can't be read"),
        (reply(200, [1]), "can't be read"),
        (reply(200, b'{"id": 7'), "that is no puppetmaster"),
        (reply(301, location="https://fleet.example/"), "points on to https://fleet.example/: is that the address"),
    ],
)
def test_an_answer_that_is_none_of_ours_is_not_asked_for_again(server, client, answer, reason):
    server.answers(answer)
    with pytest.raises(NoAnswer, match="(?s)" + reason):
        client.job(7)
    assert len(server.seen) == 1


@pytest.mark.parametrize("url", ["mqtt://localhost", "http://", "localhost:8080", "http://a:99999", "http://a?b", ""])
def test_a_url_that_can_not_be_used_is_refused_at_once(connect, url):
    with pytest.raises(SettingsError, match="it must be http://host:port"):
        connect(url)


def test_a_url_holds_no_secret(connect):
    with pytest.raises(SettingsError, match="give a token"):
        connect("http://ana:secret@localhost")


# Again


@pytest.mark.parametrize("failure", [[CUT], [reply(200, RAN)[:40], CUT], reply(502, b"<html>"), reply(503, b"")])
def test_a_lost_answer_is_asked_for_again(server, client, at_once, failure):
    server.answers(reply(200, RAN), failure, failure, reply(200, RAN))
    client.job(1)
    assert client.job(7).id == 1_000_000
    assert [asked.resource for asked in server.seen[1:]] == ["/jobs/7?collection=false&limit=0"] * 3


@pytest.mark.parametrize("call", ["submit", "rerun", "send"])
@pytest.mark.parametrize("failure", [[CUT], reply(504, b"")])
def test_what_creates_something_is_sent_again_with_the_same_key(server, client, at_once, call, failure):
    server.answers(failure, failure, reply(400, MESSAGE))
    arguments = {"submit": ("get", "/x", "a"), "rerun": (7,), "send": ("get", "/x", "a")}[call]
    with pytest.raises(InvalidDocument):
        getattr(client, call)(*arguments)
    keys = {asked.document["key"] for asked in server.seen}
    assert (len(server.seen), len(keys)) == (3, 1)
    with pytest.raises(InvalidDocument):
        getattr(client, call)(*arguments)
    assert server.seen[-1].document["key"] not in keys


def test_a_store_that_can_not_write_is_asked_again_when_it_wants_to_be(server, client, at_once):
    server.answers(reply(503, MESSAGE, retry_after="7"), reply(200, make_job(created=1)))
    client.submit("get", "/x", "a")
    assert at_once == [7.0]


def test_a_server_that_wants_to_be_asked_too_late_is_not_asked_again(server, client, at_once):
    server.answers(reply(503, MESSAGE, retry_after="3600"))
    with pytest.raises(StoreUnavailable) as caught:
        client.job(7)
    assert (len(server.seen), caught.value.retry_after) == (1, 3600.0)


def test_a_date_may_say_when_to_ask_again(server, client, at_once):
    server.answers(reply(503, MESSAGE, retry_after="Sat, 31 Jan 2026 12:00:00 GMT"), reply(200, RAN))
    client.job(7)
    assert len(at_once) == 1


def test_a_job_is_not_removed_twice(server, client, at_once):
    server.answers(reply(503, MESSAGE), [CUT])
    with pytest.raises(NoAnswer, match="it may have been done all the same") as caught:
        client.remove(7)
    assert (len(server.seen), caught.value.maybe_done) == (2, True)


@pytest.mark.parametrize("code", [400, 401, 403, 404, 409, 413, 500])
def test_a_refusal_is_not_asked_for_again(server, client, code):
    server.answers(reply(code, MESSAGE))
    with pytest.raises(AnswerError):
        client.job(7)
    assert len(server.seen) == 1


def test_patience_has_an_end_and_is_short_for_a_server_that_never_answered():
    attempts = Attempts(calls.show_job(7), patience=30.0, now=100.0)
    away = NoAnswer("away")
    assert attempts.next_delay(away, reached=False, now=101.0, random=0.0) == 0.1
    assert attempts.next_delay(away, reached=False, now=101.9, random=0.0) is None
    assert attempts.next_delay(away, reached=True, now=101.9, random=0.0) == 0.4
    assert [attempts.next_delay(away, reached=True, now=102.0, random=0.0) for _ in range(4)] == [0.8, 1.6, 2.0, 2.0]
    assert attempts.next_delay(away, reached=True, now=128.0, random=0.5) == 1.5
    assert attempts.next_delay(away, reached=True, now=128.1, random=0.0) is None


# Who we are


def test_a_token_goes_along_with_every_call(server, connect):
    server.answers(reply(200, RAN))
    connect(server.url, token="t0ken").job(7)
    assert server.seen[0].headers["authorization"] == "Bearer t0ken"


def test_a_token_may_come_from_the_environment(server, connect, monkeypatch):
    monkeypatch.setenv("PUPPETMASTER_TOKEN", "fr0m-env\n")
    server.answers(reply(200, RAN))
    connect(server.url).job(7)
    assert server.seen[0].headers["authorization"] == "Bearer fr0m-env"


@pytest.mark.parametrize("token", ["a\nb", "ä", "a b"])
def test_a_token_that_no_header_can_carry_is_refused_and_not_shown(connect, token):
    with pytest.raises(SettingsError) as caught:
        connect("http://localhost", token=token)
    assert token not in str(caught.value)


def test_logging_in_and_out_changes_who_calls(server, client):
    token = {"token": "t0ken", "expiresAt": "2026-01-31T12:00:00.000Z", "name": "ana", "role": "viewer"}
    cookie = "puppetmaster_token=t0ken; HttpOnly; SameSite=Strict; Path=/"
    server.answers(reply(200, token, set_cookie=cookie), reply(200, RAN), reply(204), reply(200, RAN))
    assert client.login("ana", "secret").role == "viewer"
    client.job(7)
    client.logout()
    client.job(7)
    assert server.seen[0].document == {"name": "ana", "password": "secret"}
    assert [asked.headers.get("authorization") for asked in server.seen] == [
        None, "Bearer t0ken", "Bearer t0ken", None,
    ]  # fmt: skip
    assert not any("cookie" in asked.headers for asked in server.seen)


def test_a_failed_login_is_not_tried_again(server, client):
    server.answers(reply(429, MESSAGE, retry_after="1"))
    with pytest.raises(TooManyAttempts) as caught:
        client.login("ana", "wrong")
    assert (len(server.seen), caught.value.retry_after) == (1, 1.0)


def test_a_server_that_is_not_ready_still_says_how_it_is(server, client):
    health = {"live": True, "ready": False, "broker": "disconnected", "controller": "registered", "store": "ok"}
    server.answers(reply(503, {**health, "version": "1", "instance": "main"}, retry_after="5"))
    assert client.health().ready is False


# Lists


def job_page(asked: Asked, ids: list[int]) -> bytes:
    query = dict(part.split("=") for part in asked.resource.partition("?")[2].split("&"))
    offset = int(query["offset"])
    return reply(200, [make_job(ident) for ident in ids[offset : offset + int(query["limit"])]])


def test_a_list_is_read_in_pages(server, client):
    server.answer = lambda asked: job_page(asked, list(range(1200, 0, -1)))
    assert [job.id for job in client.jobs()] == list(range(1200, 0, -1))
    assert [asked.resource for asked in server.seen] == [
        f"/jobs?limit=500&offset={offset}" for offset in (0, 500, 1000)
    ]


def test_a_list_ends_where_the_caller_wants(server, client):
    server.answer = lambda asked: job_page(asked, list(range(1200, 0, -1)))
    assert len(list(client.jobs(limit=501))) == 501
    assert list(client.jobs(limit=0)) == []
    assert [asked.resource for asked in server.seen] == ["/jobs?limit=500&offset=0", "/jobs?limit=1&offset=500"]


def test_jobs_that_are_made_meanwhile_bring_none_a_second_time(server, client):
    def answer(asked: Asked) -> bytes:
        made_since = 300 * (len(server.seen) - 1)
        return job_page(asked, list(range(1000 + made_since, 0, -1)))

    server.answer = answer
    assert [job.id for job in client.jobs()] == list(range(1000, 0, -1))


def test_a_page_that_is_too_large_is_asked_for_in_smaller_ones(server, client):
    server.answer = lambda asked: (
        job_page(asked, list(range(300, 0, -1))) if "limit=125&" in asked.resource else reply(413, MESSAGE)
    )
    assert [job.id for job in client.jobs()] == list(range(300, 0, -1))


def test_an_entry_that_is_too_large_alone_is_an_error(server, client):
    server.answers(reply(413, MESSAGE))
    with pytest.raises(TooLarge):
        list(client.jobs())
    assert server.seen[-1].resource == "/jobs?limit=1&offset=0"


# Watching


def watched(client: Any, **options: Any) -> list[tuple[str, int]]:
    return [(job.status, job.done_count) for job in client.watch(1_000_000, **options)]


ONE, TWO = make_job(sent=2), make_job(sent=1, resolved=1)
DONE = make_job(status="resolved", resolved=2)
ALL = [("dispatching", 0), ("dispatching", 1), ("resolved", 2)]


def test_a_job_is_watched_to_its_end(server, client):
    server.answers(
        stream(b": hello\n\n", ONE, ONE, b": still here\n\n", TWO, event(DONE).replace(b"data", b"id: final\ndata"))
    )
    assert watched(client) == ALL
    assert [asked.resource for asked in server.seen] == ["/jobs/1000000/events"]
    assert server.seen[0].headers["accept"] == "text/event-stream"


@pytest.mark.parametrize("cut", range(0, len(event(TWO)), 60))
def test_a_stream_that_is_cut_anywhere_is_opened_again(server, client, at_once, cut):
    server.answers(stream(ONE, event(TWO)[:cut]), stream(TWO), reply(503, MESSAGE), stream(TWO, DONE))
    assert watched(client) == ALL
    assert len(server.seen) == 4


def test_an_older_state_never_comes_after_a_newer_one(server, client, at_once):
    server.answers(stream(TWO), stream(ONE, DONE))
    assert watched(client) == ALL[1:]


def test_a_watch_ends_when_the_job_is_removed(server, client):
    server.answers(stream(ONE, event({"id": 1_000_000, "removed": True}, "removed"), DONE))
    assert watched(client) == ALL[:1]


def test_a_watch_ends_when_the_job_was_removed_while_nobody_listened(server, client, at_once):
    server.answers(stream(ONE), reply(404, MESSAGE))
    assert watched(client) == ALL[:1]


def test_a_watch_ends_when_another_job_has_the_number(server, client, at_once):
    server.answers(stream(ONE), stream({**DONE, "createdAt": "2027-01-01T00:00:00.000Z"}))
    assert watched(client) == ALL[:1]


def test_watching_an_unknown_job_is_an_error(server, client):
    server.answers(reply(404, MESSAGE))
    with pytest.raises(JobNotFound):
        watched(client)


def test_watching_somebody_else_is_an_error(server, client):
    server.answers(reply(200, b"<html>", content_type="text/html"))
    with pytest.raises(NoAnswer, match="that is no puppetmaster"):
        watched(client)
    assert len(server.seen) == 1


def test_events_that_mean_nothing_are_left_out(server, client):
    junk = [b"data: {bad\n\n", b"event: job\ndata: [1]\n\n", b"event: other\ndata: {}\n\n", b"\n\n", b"event: job\n\n"]
    server.answers(stream(ONE, *junk, b"event: job\ndata: {bad\n\n", TWO, DONE))
    assert watched(client) == ALL


def test_a_state_that_is_no_job_is_an_error(server, client, at_once):
    server.answers(stream({"id": "x"}))
    with pytest.raises(NoAnswer, match="can't be read"):
        watched(client)


def test_who_watches_is_told_once_that_there_is_no_word_and_once_that_there_is_again(server, client, at_once):
    server.answers(stream(ONE), [CUT], [CUT], [CUT], stream(TWO), stream(TWO, DONE))
    told: list[object] = []
    assert watched(client, told=told.append) == ALL
    assert [type(reason) for reason in told] == [NoAnswer, type(None)]


def test_a_job_without_word_is_given_up(server, client, at_once, monkeypatch):
    monkeypatch.setattr(watching, "LOST_AFTER", 0.05)
    server.answers(stream(ONE), [CUT])
    with pytest.raises(NoAnswer, match="no word on job 1000000 for 0 s: "):
        watched(client)


def test_waiting_gives_the_job_as_it_ended(server, client, at_once):
    server.answers(stream(ONE), stream(TWO), stream(DONE))
    assert client.wait(1_000_000).status == "resolved"


def test_waiting_for_a_job_that_is_removed_is_an_error(server, client):
    server.answers(stream(ONE, event({"id": 1_000_000, "removed": True}, "removed")))
    with pytest.raises(JobNotFound):
        client.wait(1_000_000)


def test_waiting_has_an_end_on_a_stream_that_is_silent(server, client):
    def silent() -> Iterator[bytes]:
        yield from stream(ONE)[:-1]
        server.over.wait()

    server.answer = lambda asked: silent()
    with pytest.raises(
        TimeoutError, match=r"1000000 has not ended within 0\.3 s: it is dispatching, 0 % done"
    ) as caught:
        client.wait(1_000_000, timeout=0.3)
    assert type(caught.value) is NotEnded


def test_waiting_has_an_end_on_a_stream_that_says_it_is_still_here(server, client):
    def chatty() -> Iterator[bytes]:
        yield from stream(ONE)[:-1]
        while not server.over.wait(0.02):
            yield b": still here\n\n"

    server.answer = lambda asked: chatty()
    with pytest.raises(NotEnded):
        client.wait(1_000_000, timeout=0.3)


def test_waiting_has_an_end_while_the_server_is_away(server, client):
    server.answers(stream(ONE), [CUT])
    with pytest.raises(NotEnded):
        client.wait(1_000_000, timeout=0.3)


def test_a_stream_is_opened_again_when_its_silence_would_outlast_the_caller(server, client, monkeypatch):
    monkeypatch.setattr(watching, "SLACK", 0.01)

    def late() -> Iterator[bytes]:
        yield from stream(ONE)[:-1]
        server.over.wait(0.1)
        yield b": still here\n\n"
        server.over.wait()

    server.answer = lambda asked: late()
    with pytest.raises(NotEnded):
        client.wait(1_000_000, timeout=0.5)
    assert len(server.seen) > 1


# Events


def lines(*pieces: bytes) -> list[tuple[str, bytes]]:
    reader = EventReader()
    return [(found.name, found.data) for piece in pieces for found in reader.feed(piece)]


def test_events_are_the_same_however_the_stream_is_cut():
    data = json.dumps({"a": "\u2028\x85\x1c ü"}, ensure_ascii=False).encode()
    whole = b"\xef: x\nevent: job\r\ndata: " + data + b"\r\n\r\ndata:a\rdata:b\r\r: c\nid: 5\nevent: removed\ndata\n\n"
    expected = [("job", data), ("message", b"a\nb"), ("removed", b"")]
    assert lines(whole) == expected
    assert lines(*(whole[i : i + 1] for i in range(len(whole)))) == expected
    for first, second in itertools.combinations(range(0, len(whole), 3), 2):
        assert lines(whole[:first], whole[first:second], whole[second:]) == expected


def test_an_event_without_end_does_not_fill_the_memory():
    reader = EventReader()
    with pytest.raises(ValueError, match="more than"):
        for _ in range(40):
            reader.feed(b"data: " + b"x" * 1024 * 1024)
