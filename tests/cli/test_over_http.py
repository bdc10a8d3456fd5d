"""The client and the commands over HTTP, with real parts: Mosquitto, a controller, the bundle and devices."""

from __future__ import annotations

import asyncio
import json
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from typer.testing import CliRunner, Result

from puppetmaster.accounts.registry import Accounts
from puppetmaster.accounts.roles import Role
from puppetmaster.address import BrokerAddress
from puppetmaster.cli.app import make_app
from puppetmaster.client import AsyncClient, BusClient, Client, LoginNeeded, NoAnswer, NotAllowed
from puppetmaster.embedded.broker import find_mosquitto
from puppetmaster.errors import BusError, Conflict, InvalidDocument, JobNotFound, Unauthorized
from puppetmaster.schemas import Job
from tests.cli.scripted import CUT, Answer, Asked, Scripted, reply
from tests.system.stand import PATIENCE, TRUST, Stand
from tests.system.test_channels import certificates

app = make_app()

pytestmark = pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with Stand(tmp_path_factory.mktemp("stand"), http=True) as running:
        running.fleet("good", 5, latency="0.01-0.2")
        running.fleet("bad", names=["bad-1", "bad-2", "bad-3"], errors=1)
        yield running


@pytest.fixture
def client(stand: Stand) -> Iterator[Client]:
    with Client(stand.site) as client:
        yield client


GOOD = [f"good-{number:04d}" for number in range(1, 6)]
BAD = ["bad-1", "bad-2", "bad-3"]
ONCE = {"limit": 0}
"""No retry: what fails has failed."""


# The client


def test_the_ten_lines_of_the_readme_work(stand, capsys):
    with Client(stand.site) as client:
        job = client.submit("post", "/system/reboot", ["good-0001", "bad-1"], timeout=600)
        for job in client.watch(job.id):  # noqa: B020 - as it stands there
            print(job.status, job.progress, job.counts)
        job = client.wait(job.id)
        for request in client.requests(job=job.id, status="error"):
            print(request.destination, request.code, request.result["data"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "bad-1 500 {'message': 'the simulated work failed'}"
    assert " 100 created=0 sent=0 running=0 resolved=1 error=1 " in lines[-2]


def test_the_same_works_on_a_loop(stand):
    async def main() -> list[int]:
        async with AsyncClient(stand.site) as client:
            job = await client.submit("get", "/x", [*GOOD, *BAD], retry=ONCE)
            seen = [state.done_count async for state in client.watch(job.id)]
            assert seen == sorted(seen)
            assert (await client.wait(job.id)).counts.error == 3
            return [request.id async for request in client.requests(job=job.id)]

    found = asyncio.run(main())
    assert (len(found), found) == (8, sorted(found, reverse=True))


def test_equal_answers_are_counted_and_the_failed_ones_are_run_again(client):
    job = client.wait(client.submit("post", "/x", [*GOOD, *BAD], name="first", retry=ONCE).id)
    groups = client.answers(job.id)
    assert [(group.status.value, group.code, group.count) for group in groups] == [
        ("resolved", 200, 5), ("error", 500, 3),
    ]  # fmt: skip
    assert client.dry_rerun(job.id).destination_count == 3
    again = client.wait(client.rerun(job.id).id)
    assert (again.name, again.counts.error, again.total_count) == ("first", 3, 3)
    with pytest.raises(Conflict, match="has no request that is"):
        client.rerun(again.id, status=["resolved", "canceled"])


def test_a_job_is_steered_and_removed(client):
    job = client.submit("get", "/x", ["nobody"], labels={"test": "steered"})
    assert client.pause(job.id).status == "paused"
    assert client.update(job.id, priority=80, timeout=50).priority == 80
    assert client.resume(job.id).status == "dispatching"
    assert client.cancel(job.id).counts.canceled == 1
    assert client.cancel(job.id).status == "canceled"
    assert [found.id for found in client.jobs(label="test=steered")] == [job.id]
    assert client.remove(job.id).id == job.id
    with pytest.raises(JobNotFound):
        client.wait(job.id)


def test_one_request_is_sent_and_canceled(client):
    request = client.send("get", "/x", "nobody", {"a": 1}, timeout=5)
    assert (request.destination, request.info.timeout, request.data) == ("nobody", 5, {"a": 1})
    assert client.cancel_request(request.id).status == "canceled"
    assert client.request(request.id).status == "canceled"
    assert [found.id for found in client.requests(destination="nob*", limit=1)] == [request.id]


def test_a_refused_document_names_its_faults(client):
    with pytest.raises(InvalidDocument) as caught:
        client.submit("fetch", "x", ["a/b"])
    assert {fault.path for fault in caught.value.faults} == {
        "batch.0.method", "batch.0.resource", "batch.0.__request.destination.0",
    }  # fmt: skip


def test_a_job_is_made_once_when_its_answer_is_lost(stand):
    lost: list[Asked] = []

    def pass_on(asked: Asked) -> Answer:
        url, body = stand.site + asked.resource, asked.body
        answer = httpx.request(asked.method, url, content=body, trust_env=False, verify=TRUST)
        if not lost:
            lost.append(asked)
            return [CUT]
        return reply(answer.status_code, answer.content)

    proxy = Scripted()
    proxy.answer = pass_on
    with Client(proxy.url) as client:
        job = client.submit("get", "/x", "nobody", labels=["lost answer"])
        assert len(proxy.seen) == 2
        assert [found.id for found in client.jobs(label="lost answer")] == [job.id]
        client.remove(job.id)
    proxy.close()


def test_a_job_is_submitted_and_watched_over_restarts(stand, client):
    assert client.health().ready
    stand.bundle.kill()
    told: list[object] = []
    states: list[Job] = []
    started = threading.Event()

    def work() -> None:
        job = client.submit("get", "/x", "nobody", labels=["restart"])
        for state in client.watch(job.id, told=told.append):
            states.append(state)
            started.set()

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        stand.bundle.start()
        assert started.wait(PATIENCE)
        stand.bundle.restart(kill=True)
        [job] = client.jobs(label="restart")
        client.cancel(job.id)
        working.result(PATIENCE)
    assert (states[0].status, states[-1].status) == ("dispatching", "canceled")
    assert len({state.model_dump_json() for state in states}) == len(states)
    assert told[-1:] in ([], [None])


# The commands


@pytest.fixture(params=["bus", "http"])
def invoke(request: pytest.FixtureRequest, stand: Stand) -> Callable[..., Result]:
    """Runs a command over either way."""
    way = {"bus": ("--broker", stand.url), "http": ("--url", stand.site)}[request.param]

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, [*arguments, *way], env={"COLUMNS": "200"})

    return run


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def created(result: Result) -> str:
    assert result.exit_code == 0, result.stderr
    return result.stdout.split()[1]


def test_run_and_watch_prints_how_it_ends(invoke):
    result = invoke("run", "-d", ",".join([*GOOD, *BAD]), "get", "/x", "--retry", "0", "--watch")
    assert result.exit_code == 1
    assert "5 of 8 resolved, 3 errors, in " in result.stdout.splitlines()[-1]
    assert "puppetmaster requests list --job" in result.stderr


def test_watching_as_json_is_a_line_for_each_state_once(invoke):
    job_id = created(invoke("run", "-d", ",".join(GOOD), "get", "/x"))
    result = invoke("jobs", "watch", job_id, "--json")
    states = [json.loads(line) for line in result.stdout.splitlines()]
    assert (result.exit_code, states[-1]["status"]) == (0, "resolved")
    assert len({json.dumps(state) for state in states}) == len(states)
    assert all("requests" not in state for state in states)


def test_a_job_is_listed_shown_counted_and_run_again(invoke):
    invoke("run", "-d", ",".join([*GOOD, *BAD]), "post", "/x", "--retry", "0", "--name", "listed", "--watch")
    [job] = json.loads(invoke("jobs", "list", "--limit", "1", "--json").stdout)
    job_id = str(job["id"])
    assert rows(invoke("jobs", "list", "--limit", "1").stdout)[1][:9] == [
        job_id, "listed", "resolved", "100", "%", "5", "3", "0", "8",
    ]  # fmt: skip
    assert invoke("jobs", "show", job_id, "--status", "error").stdout.count("the simulated work failed") == 3
    assert len(json.loads(invoke("requests", "list", "--job", job_id, "-d", "good-*", "--json").stdout)) == 5
    assert rows(invoke("jobs", "answers", job_id).stdout)[1:] == [
        ["5", "resolved", "200", "-", *", ".join(GOOD).split()],
        ["3", "error", "500", "the", "simulated", "work", "failed", "bad-1,", "bad-2,", "bad-3"],
    ]
    preview = invoke("jobs", "rerun", job_id, "--dry-run").stdout
    assert preview == "this would make 3 requests to 3 destinations; nothing was made\n"
    again = invoke("jobs", "rerun", job_id, "--status", "resolved", "--watch")
    assert (again.exit_code, "5 of 5 resolved" in again.stdout) == (0, True)


def test_jobs_and_requests_are_steered(invoke):
    job_id = created(invoke("run", "-d", "nobody,noone", "get", "/x"))
    assert invoke("jobs", "pause", job_id).stdout.startswith(f"job {job_id} paused: ")
    assert invoke("jobs", "resume", job_id).stdout.startswith(f"job {job_id} dispatching: ")
    request = str(int(job_id) + 1)
    assert invoke("requests", "cancel", request).stdout == f"request {request} canceled\n"
    assert ["status", "canceled"] in rows(invoke("requests", "show", request).stdout)
    assert invoke("jobs", "cancel", job_id).stdout == f"job {job_id} canceled: 2 canceled\n"
    assert invoke("jobs", "remove", job_id).stdout == f"job {job_id} removed\n"


def test_a_dry_run_says_what_there_would_be(invoke):
    result = invoke("run", "-d", "dev-[1-300]", "get", "/x", "--dry-run")
    assert result.stdout == "this would make 300 requests to 300 destinations; nothing was made\n"


def test_a_key_makes_one_job_and_the_second_run_says_so(invoke):
    arguments = ("run", "-d", "good-0001", "get", "/x", "--key", f"key-{time.time_ns()}")
    job_id = created(invoke(*arguments, "--watch"))
    again = invoke(*arguments)
    assert again.stdout.startswith(f"job {job_id} is there already, its key made it ")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("jobs", "show", "5"), 1, "no job has the id 5 (code 404)"),
        (("jobs", "watch", "5"), 1, "no job has the id 5 (code 404)"),
        (("jobs", "rerun", "5"), 1, "no job has the id 5 (code 404)"),
        (("requests", "list", "--job", "5"), 1, "no job has the id 5 (code 404)"),
        (("requests", "show", "5"), 1, "no request has the id 5 (code 404)"),
        (("jobs", "list", "--status", "lost"), 2, "status: "),
        (("run", "-d", "a", "get", "/x", "--label", "x" * 200), 2, "labels.0: "),
    ],
)
def test_errors_are_the_same_over_either_way(invoke, arguments, code, message):
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith(f"Error: {message}")


def test_watching_over_the_bus_tells_once_that_the_broker_is_away_and_once_that_it_is_back(stand, client):
    heard: queue.Queue[object] = queue.Queue()
    job = client.submit("get", "/x", "nobody")

    async def watch() -> None:
        async with BusClient(BrokerAddress.parse(stand.url)) as bus:
            async for state in bus.watch(job.id, told=heard.put):
                heard.put(state["status"])

    def next_of(kind: type) -> object:
        while not isinstance(found := heard.get(timeout=PATIENCE), kind):
            assert isinstance(found, str)
        return found

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(asyncio.run, watch())
        next_of(str)
        stand.broker.stop()
        next_of(BusError)
        stand.broker.start()
        next_of(type(None))
        client.cancel(job.id)
        while next_of(str) != "canceled":
            pass
        watching.result(PATIENCE)
    assert heard.empty()
    stand.ready()


# Which way, and who


def command(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200", **environ})


def test_the_url_may_come_from_the_environment_and_a_broker_on_the_command_line_goes_before_it(stand, free_address):
    assert command("jobs", "list", PUPPETMASTER_URL=stand.site).exit_code == 0
    url = f"http://127.0.0.1:{free_address.port}"
    assert command("jobs", "list", "--broker", stand.url, PUPPETMASTER_URL=url).exit_code == 0
    assert command("jobs", "list", "--url", stand.site, PUPPETMASTER_BROKER=free_address.url()).exit_code == 0


def test_both_ways_at_once_are_bad_usage(stand):
    result = command("jobs", "list", "--broker", stand.url, "--url", stand.site)
    assert (result.exit_code, "--url: it is another way than --broker" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("make", "code", "message"),
    [
        (lambda stand, free: f"http://127.0.0.1:{free.port}", 1, "(Connection refused): is puppetmaster running there"),
        (lambda stand, free: stand.site.replace("http", "https"), 1, "does not speak TLS"),
        (lambda stand, free: f"http://127.0.0.1:{stand.port}", 1, "does it speak HTTP there?"),
        (lambda stand, free: f"{stand.site}/fleet", 1, "nothing at /fleet/jobs"),
        (lambda stand, free: stand.url, 2, "url (from flag --url): it must be http://host:port"),
    ],
    ids=["nobody", "https", "broker", "path", "mqtt"],
)
def test_a_wrong_url_is_one_line_that_says_what_to_look_at(stand, free_address, make, code, message):
    result = command("jobs", "list", "--url", make(stand, free_address))
    assert (result.exit_code, len(result.stderr.splitlines())) == (code, 1)
    assert message in result.stderr


def test_a_login_is_asked_for_and_a_token_is_one(tmp_path):
    with Stand(tmp_path / "stand", http=True) as stand:
        accounts = Accounts(stand.data)
        accounts.add("ana", Role.ADMIN, "correct horse battery")
        accounts.add("wall", Role.VIEWER, "correct horse battery")
        refused = command("jobs", "list", "--url", stand.site)
        assert refused.exit_code == 1
        assert "a token belongs in PUPPETMASTER_TOKEN (puppetmaster accounts token makes one)" in refused.stderr
        token = accounts.issue("ana", 60.0, time.time()).token
        assert command("jobs", "list", "--url", stand.site, PUPPETMASTER_TOKEN=token).exit_code == 0
        with Client(stand.site) as client:
            with pytest.raises(LoginNeeded):
                client.account()
            with pytest.raises(Unauthorized, match=r"^(?!.*PUPPETMASTER_TOKEN)"):
                client.login("ana", "wrong")
            assert client.login("wall", "correct horse battery").role == "viewer"
            assert list(client.jobs()) == []
            with pytest.raises(NotAllowed):
                client.submit("get", "/x", "a")
            client.logout()
            with pytest.raises(LoginNeeded):
                client.account()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_https_wants_a_certificate_that_is_trusted(tmp_path):
    certificates(tmp_path)
    files = {"http_cert": tmp_path / "server.crt", "http_key": tmp_path / "server.key"}
    with Stand(tmp_path / "stand", http=True, **files) as stand:
        with Client(stand.site) as client, pytest.raises(NoAnswer, match=r"is not trusted .*--ca-file"):
            client.account()
        with Client(stand.site, ca_file=tmp_path / "ca.crt") as client:
            assert client.health().ready
            with pytest.raises(NoAnswer, match="does it speak HTTP there"):
                Client(stand.site.replace("https", "http")).account()
        assert command("jobs", "list", "--url", stand.site, "--ca-file", str(tmp_path / "ca.crt")).exit_code == 0
