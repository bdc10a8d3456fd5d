"""The client over the bus against a stub bundle on a real broker."""

import asyncio
import json
import math

import pytest

from puppetmaster import loop
from puppetmaster.client import AnswerError, BusClient
from puppetmaster.client import bus as bus_client
from puppetmaster.errors import BusError, Conflict, InvalidDocument, JobNotFound, StoreUnavailable, TooLarge
from tests.cli.conftest import make_job


def talk(address, conversation, **options):
    async def main():
        async with BusClient(address, **options) as client:
            return await conversation(client)

    return loop.run(main())


async def states(client, job_id, started=None):
    """What a watch yields, as (status, doneCount); sets ``started`` at the first."""
    found = []
    async for job in client.watch(job_id):
        found.append((job["status"], job["doneCount"]))
        if started is not None:
            started.set()
    return found


# One request


def test_a_request_is_a_direct_message_with_a_tunnel_of_its_own(stub):
    stub.answer = lambda message: (200, {"it": "works"})
    assert talk(stub.address, lambda client: client.request("put", "/some/thing", {"a": 1})) == {"it": "works"}
    [message] = stub.seen
    assert set(message) == {"id", "method", "resource", "data", "tunnel"}
    assert (message["method"], message["resource"], message["data"]) == ("put", "/some/thing", {"a": 1})
    assert 700_000 <= message["id"] <= 999_999
    assert message["tunnel"].startswith("/puppetmaster/client/")
    assert len(message["tunnel"]) == len("/puppetmaster/client/") + 8


def test_a_request_without_data_has_no_data_and_may_get_none(stub):
    stub.answer = lambda message: (204, None)
    assert talk(stub.address, lambda client: client.request("get", "/x")) is None
    assert "data" not in stub.seen[0]


@pytest.mark.parametrize("data", [0, False, [], {}, "", [1, "ä", None]])
def test_data_of_any_kind_goes_there_and_back(stub, data):
    stub.answer = lambda message: (200, message["data"])
    assert talk(stub.address, lambda client: client.request("post", "/x", data)) == data


def test_two_clients_have_two_tunnels(broker):
    assert BusClient(broker)._tunnel != BusClient(broker)._tunnel


def test_an_error_carries_code_message_and_faults(stub):
    faults = [{"path": "batch.0.method", "message": "it is missing"}, {"path": "name", "message": "too long"}]
    stub.answer = lambda message: (400, {"message": "two faults", "errors": faults})
    with pytest.raises(AnswerError, match=r"^two faults \(code 400\)$") as caught:
        talk(stub.address, lambda client: client.request("post", "/jobs", {}))
    assert caught.value.code == 400
    assert [(fault.path, fault.message) for fault in caught.value.faults] == [
        ("batch.0.method", "it is missing"),
        ("name", "too long"),
    ]


@pytest.mark.parametrize(
    ("code", "kind"),
    [(400, InvalidDocument), (404, JobNotFound), (409, Conflict), (413, TooLarge), (503, StoreUnavailable)],
)
def test_an_error_is_the_one_of_the_tree_as_well(stub, code, kind):
    stub.answer = lambda message: (code, {"message": "so it is"})
    with pytest.raises(AnswerError, match="so it is") as caught:
        talk(stub.address, lambda client: client.job(7))
    assert isinstance(caught.value, kind)


@pytest.mark.parametrize("data", [None, "no", [1], {"message": 5}, {"errors": 5}, {"errors": ["x", {"path": 1}]}])
def test_an_error_may_say_anything(stub, data):
    stub.answer = lambda message: (500, data)
    with pytest.raises(AnswerError, match="the answer gives no reason"):
        talk(stub.address, lambda client: client.request("get", "/x"))


def test_a_resource_that_nobody_serves_is_said_to_be_so(stub):
    stub.answer = lambda message: (404, None)
    with pytest.raises(BusError, match=r"nobody serves /jobs at .*puppetmaster serve"):
        talk(stub.address, lambda client: client.jobs(limit=3))


def test_silence_ends_in_an_error_that_says_what_to_look_at(stub):
    stub.answer = lambda message: None
    with pytest.raises(BusError, match=r"no answer to GET /jobs within 0.2 s .*controller.*puppetmaster serve"):
        talk(stub.address, lambda client: client.jobs(), answer_timeout=0.2)


def test_no_broker_is_an_error(free_address):
    async def main():
        await BusClient(free_address).start(timeout=0.3)

    with pytest.raises(BusError, match=f"no connection to the broker at {free_address}"):
        loop.run(main())


@pytest.mark.parametrize(("code", "data"), [(423, {"message": "locked"}), (403, {"message": "'id' was used"})])
def test_what_is_busy_is_tried_again_with_another_id(stub, code, data):
    stub.answer = lambda message: (code, data) if len(stub.seen) < 3 else (200, "done")
    assert talk(stub.address, lambda client: client.request("post", "/jobs")) == "done"
    assert len({message["id"] for message in stub.seen}) == 3


def test_what_stays_busy_is_an_error_in_the_end(stub, monkeypatch):
    monkeypatch.setattr(bus_client, "BUSY_PATIENCE", 3.0)
    stub.answer = lambda message: (423, {"message": "resource is locked"})
    with pytest.raises(AnswerError, match="resource is locked"):
        talk(stub.address, lambda client: client.request("post", "/jobs"))
    assert len(stub.seen) > 1


def test_another_403_is_not_tried_again(stub):
    stub.answer = lambda message: (403, {"message": "not for you"})
    with pytest.raises(AnswerError, match="not for you"):
        talk(stub.address, lambda client: client.request("post", "/jobs"))
    assert len(stub.seen) == 1


def test_answers_find_their_requests_in_any_order(stub):
    def in_reverse(message):
        if len(stub.seen) == 20:
            for seen in reversed(stub.seen):
                stub.respond(seen, 200, seen["resource"])

    async def conversation(client):
        return await asyncio.gather(*(client.request("get", f"/{number}") for number in range(20)))

    stub.answer = in_reverse
    assert talk(stub.address, conversation) == [f"/{number}" for number in range(20)]


def test_what_is_no_answer_of_ours_is_ignored(stub):
    def junk_first(message):
        for payload in (b"", b"junk", b"[]", b"5", b"{}", b"\xff", b'{"id": "x", "code": 200}', b'{"id": null}'):
            stub.publish(message["tunnel"], payload)
        stub.respond({**message, "id": 1}, 200, "somebody else's")
        stub.respond(message, "200", "no code")
        stub.respond(message, True, "no code")
        stub.respond(message, 200, "ours")
        stub.respond(message, 500, "a second one")

    stub.answer = junk_first
    assert talk(stub.address, lambda client: client.request("get", "/x")) == "ours"


def test_a_message_that_the_controller_would_drop_is_not_sent(stub):
    with pytest.raises(TooLarge, match="make several jobs of it"):
        talk(stub.address, lambda client: client.create_job({"x": "y" * 1024 * 1024}))
    assert stub.seen == []


@pytest.mark.parametrize("data", [{"a": {1, 2}}, {"a": 2**70}, {"a": "\udcff"}, {1: 2}])
def test_data_that_is_no_json_is_not_sent(stub, data):
    with pytest.raises(InvalidDocument, match="can't be written as JSON"):
        talk(stub.address, lambda client: client.request("post", "/x", data))
    assert stub.seen == []


# What there is to ask for


@pytest.mark.parametrize(
    ("call", "method", "resource", "data"),
    [
        (lambda client: client.create_job({"batch": []}), "post", "/jobs", {"batch": []}),
        (lambda client: client.job(7), "get", "/jobs/7", None),
        (lambda client: client.job(7, collection=True, limit=5), "get", "/jobs/7?collection=true&limit=5", None),
        (lambda client: client.update_job(7, {"status": "paused"}), "put", "/jobs/7", {"status": "paused"}),
        (lambda client: client.remove_job(7), "delete", "/jobs/7", None),
        (lambda client: client.rerun_job(7), "post", "/jobs/7/rerun", {}),
        (lambda client: client.rerun_job(7, {"status": "error"}), "post", "/jobs/7/rerun", {"status": "error"}),
        (lambda client: client.create_request({"message": {}}), "post", "/requests", {"message": {}}),
        (lambda client: client.get_request(8), "get", "/requests/8", None),
        (lambda client: client.cancel_request(8), "delete", "/requests/8", None),
    ],
)
def test_each_call_asks_for_its_resource(stub, call, method, resource, data):
    stub.answer = lambda message: (200, {"id": 7})
    assert talk(stub.address, call) == {"id": 7}
    assert (stub.seen[0]["method"], stub.seen[0]["resource"], stub.seen[0].get("data")) == (method, resource, data)


@pytest.mark.parametrize(
    ("call", "resource"),
    [
        (lambda client: client.jobs(), "/jobs"),
        (lambda client: client.jobs(limit=None, status=None), "/jobs"),
        (lambda client: client.jobs(label="a b&c=d/ä?"), "/jobs?label=a%20b%26c%3Dd%2F%C3%A4%3F"),
        (lambda client: client.jobs(status=["paused", "pending"]), "/jobs?status=paused&status=pending"),
        (lambda client: client.requests(job=7, offset=0), "/requests?job=7&offset=0"),
        (lambda client: client.answers(7, status="error", limit=5), "/jobs/7/answers?status=error&limit=5"),
    ],
)
def test_lists_are_asked_for_with_a_query(stub, call, resource):
    stub.answer = lambda message: (200, [{"id": 1}])
    assert talk(stub.address, call) == [{"id": 1}]
    assert stub.seen[0]["resource"] == resource


@pytest.mark.parametrize("call", [lambda client: client.jobs(), lambda client: client.job(1)])
@pytest.mark.parametrize("data", [None, 5, "x", [1]])
def test_an_answer_of_the_wrong_shape_is_an_error(stub, call, data):
    stub.answer = lambda message: (200, data)
    with pytest.raises(BusError, match="the answer is no"):
        talk(stub.address, call)


# Watching


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(bus_client, "POLL_PERIOD", 0.1)


def test_watching_ends_with_the_job(stub):
    stub.answer = lambda message: (200, {**make_job(sent=2), "requests": [1, 2]})

    async def conversation(client):
        seen = []
        async for job in client.watch(1_000_000):
            assert "requests" not in job
            seen.append((job["status"], job["doneCount"]))
            if job["doneCount"] == 0:
                stub.job_changes(make_job(sent=1, resolved=1))
            elif job["doneCount"] == 1:
                stub.job_changes(make_job(status="resolved", resolved=2))
        return seen

    assert talk(stub.address, conversation) == [("dispatching", 0), ("dispatching", 1), ("resolved", 2)]


@pytest.mark.parametrize("status", ["resolved", "canceled", "aborted", "timeout"])
def test_watching_a_job_that_has_ended_yields_it_once(stub, status):
    stub.answer = lambda message: (200, make_job(status=status, canceled=1))
    assert talk(stub.address, lambda client: states(client, 1_000_000)) == [(status, 1)]


def test_watching_an_unknown_job_is_an_error(stub):
    stub.answer = lambda message: (404, {"message": "no job has the id 5"})
    with pytest.raises(AnswerError, match="no job has the id 5"):
        talk(stub.address, lambda client: states(client, 5))


def test_lost_changes_are_made_good_by_asking(stub, quick):
    half = make_job(sent=1, resolved=1)
    jobs = [make_job(sent=2), half, half, make_job(status="resolved", resolved=2)]
    stub.answer = lambda message: (200, jobs[min(len(stub.seen), 4) - 1])
    assert talk(stub.address, lambda client: states(client, 1_000_000)) == [
        ("dispatching", 0),
        ("dispatching", 1),
        ("resolved", 2),
    ]


def test_a_job_of_the_same_number_of_another_time_is_not_taken_for_it(stub):
    old = {**make_job(status="resolved", resolved=2), "createdAt": "2020-01-01T00:00:00.000Z"}
    stub.job_changes(old, instance="other")
    stub.answer = lambda message: (200, make_job(sent=2))

    async def conversation(client):
        seen = []
        async for job in client.watch(1_000_000):
            seen.append(job["finishCount"])
            stub.job_changes(old, instance="other")
            stub.job_changes(make_job(status="resolved", resolved=1, error=1))
        return seen

    assert talk(stub.address, conversation) == [0, 1]


def test_a_change_that_is_older_than_what_is_known_is_left_out(stub):
    stub.job_changes(make_job(sent=2))
    stub.answer = lambda message: (200, make_job(sent=1, resolved=1))

    async def conversation(client):
        seen = []
        async for job in client.watch(1_000_000):
            seen.append(job["doneCount"])
            stub.job_changes(make_job(sent=2))
            stub.job_changes(make_job(sent=1, resolved=1))
            stub.job_changes(make_job(status="resolved", resolved=2))
        return seen

    assert talk(stub.address, conversation) == [1, 2]


def test_watching_ends_when_the_job_is_removed(stub):
    gone = []
    stub.answer = lambda message: (404, {"message": "no job"}) if gone else (200, make_job(sent=1))

    async def conversation(client):
        seen = []
        async for job in client.watch(1_000_000):
            seen.append(job["status"])
            gone.append(True)
            stub.publish("/puppetmaster/main/jobs/1000000", b"", retain=True)
        return seen

    assert talk(stub.address, conversation) == ["dispatching"]


def test_a_bundle_that_is_away_for_a_while_ends_no_watch(stub, quick):
    answers = [(200, make_job(sent=1)), (404, None), None, (503, {"message": "disk full"})]
    answers.append((200, make_job(status="resolved", resolved=1)))
    stub.answer = lambda message: answers[min(len(stub.seen), 5) - 1]
    found = talk(stub.address, lambda client: states(client, 1_000_000), answer_timeout=0.2)
    assert found == [("dispatching", 0), ("resolved", 1)]


def test_who_watches_is_told_once_that_there_is_no_word_and_once_that_there_is_again(stub, quick):
    answers = [(200, make_job(sent=1)), (404, None), (404, None), (503, {"message": "disk full"})]
    answers += [(200, make_job(sent=1)), (404, None), (200, make_job(status="resolved", resolved=1))]
    stub.answer = lambda message: answers[min(len(stub.seen), 7) - 1]
    told = []

    async def conversation(client):
        return [job["status"] async for job in client.watch(1_000_000, told=told.append)]

    assert talk(stub.address, conversation) == ["dispatching", "resolved"]
    assert [type(reason) for reason in told] == [BusError, type(None)] * 2


def test_a_bundle_that_stays_away_ends_the_watch_with_an_error(stub, quick, monkeypatch):
    monkeypatch.setattr(bus_client, "LOST_AFTER", 0.3)
    stub.answer = lambda message: (200, make_job(sent=1)) if len(stub.seen) == 1 else (404, None)
    with pytest.raises(BusError, match=r"no word on job 1000000 .*nobody serves"):
        talk(stub.address, lambda client: states(client, 1_000_000))


def test_two_watches_of_one_job_each_see_all_of_it(stub):
    stub.answer = lambda message: (200, make_job(sent=2))

    async def conversation(client):
        started = [asyncio.Event(), asyncio.Event()]
        both = asyncio.gather(*(states(client, 1_000_000, event) for event in started))
        for event in started:
            await event.wait()
        stub.job_changes(make_job(status="resolved", resolved=2))
        found = await both
        assert client._watches == {}
        return found

    expected = [("dispatching", 0), ("resolved", 2)]
    assert talk(stub.address, conversation) == [expected, expected]


def test_what_is_no_job_on_a_jobs_topic_only_makes_the_client_look(stub):
    stub.answer = lambda message: (
        200,
        make_job(sent=2) if len(stub.seen) < 3 else make_job(status="resolved", resolved=2),
    )

    async def conversation(client):
        seen = []
        async for job in client.watch(1_000_000):
            seen.append(job["status"])
            for payload in (b"junk", b"[]", b"\xff", json.dumps({"id": math.pi}).encode()):
                stub.publish("/puppetmaster/main/jobs/1000000", payload)
        return seen

    assert talk(stub.address, conversation) == ["dispatching", "resolved"]
