"""Whatever comes over the bus or over HTTP: it is answered with what is wrong, creates nothing and stops nobody."""

from __future__ import annotations

import contextlib
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from http.client import HTTPConnection
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest

from puppetmaster.embedded.broker import find_mosquitto
from tests.system import bad_bodies
from tests.system.bad_bodies import Bad
from tests.system.stand import PATIENCE, Document, Heard, Listener, NoAnswer, Stand, assert_adds_up

pytestmark = pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")

DRAWN = 200
"""Generated bodies for every route, beside those by hand."""

CHUNK = 60
"""Messages that are out at once when the bundle is asked past the controller, which would lock it."""

MAX_BUS_BYTES = 1024 * 1024
SEED = 20240607


class Asker:
    """Sends messages of any kind, many at once: through the controller, or straight to the bundle's model tunnel.

    What the bundle answers it sends to the controller, so there everything can be heard.
    """

    def __init__(self, stand: Stand) -> None:
        self._stand = stand
        self._ids = count(900_000)
        self._heard = stand.listen("/controller")
        self._answers = stand.listen("/bad/answers")

    @property
    def tunnel(self) -> str:
        """Where the bundle takes its requests."""
        tunnel: str = self._stand.ask("get", "/controller/registration/puppetmaster")[1]["tunnel"]
        return tunnel

    def straight(self, asked: Sequence[tuple[str, str, bytes | None]], chunk: int = CHUNK) -> list[Document]:
        """The bundle's answers to requests (method, resource, JSON of the data) past the controller, in their order."""
        tunnel, found = self.tunnel, []
        for start in range(0, len(asked), chunk):
            found += self._ask(tunnel, asked[start : start + chunk], self._heard)
        return found

    def through(self, asked: Sequence[tuple[str, str, bytes | None]], chunk: int = 1) -> list[Document]:
        """The answers through the controller; it locks the bundle for each write, so those go one by one."""
        found: list[Document] = []
        for start in range(0, len(asked), chunk):
            found += self._ask("/controller", asked[start : start + chunk], self._answers)
        return found

    def _ask(self, topic: str, asked: Sequence[tuple[str, str, bytes | None]], on: Listener) -> list[Document]:
        mark = len(on.messages)
        waiting: dict[int, int] = {}
        found: dict[int, Document] = {}
        for place, (method, resource, raw) in enumerate(asked):
            ident = next(self._ids)
            waiting[ident] = place
            self._stand.publish(topic, envelope(ident, method, resource, raw), wait=False)

        def is_awaited(heard: Heard) -> bool:
            message = read(heard.payload)
            if isinstance(message, dict) and "code" in message and message.get("id") in waiting:
                found[waiting.pop(message["id"])] = message
            return not waiting

        try:
            on.wait(is_awaited, mark=mark)
        except NoAnswer:
            raise NoAnswer(f"no answer to {[asked[place] for place in waiting.values()]!r:.1000}") from None
        return [found[place] for place in range(len(asked))]


def envelope(ident: int, method: str, resource: str, raw: bytes | None) -> bytes:
    """A DIRECT message around JSON that may be none."""
    head = json.dumps({"id": ident, "method": method, "resource": resource, "tunnel": "/bad/answers"}).encode()
    return head if raw is None else head[:-1] + b',"data":' + raw + b"}"


def read(payload: bytes) -> Any:
    try:
        return json.loads(payload)
    except (ValueError, RecursionError):
        return None


class Caller:
    """Sends calls over HTTP, one after the other on one connection, as they are: nothing of them is put right first."""

    def __init__(self, stand: Stand) -> None:
        self._connection = HTTPConnection(stand.site.removeprefix("http://"), timeout=PATIENCE)

    def over_http(self, asked: Sequence[tuple[str, str, bytes | None]]) -> list[Document]:
        """The answers to requests (method, resource, body), in their order."""
        return [self._ask(*ask) for ask in asked]

    def close(self) -> None:
        self._connection.close()

    def _ask(self, method: str, resource: str, raw: bytes | None) -> Document:
        self._connection.request(method.upper(), resource, raw)
        reply = self._connection.getresponse()
        return {"code": reply.status, "data": json.loads(reply.read())}


class Witness:
    """Sees that nothing was created or changed, and that the bundle is as well as before."""

    def __init__(self, stand: Stand) -> None:
        self._stand = stand
        self._before = self._state()
        self._pid = stand.bundle.pid
        self._threads = self._count_threads()
        self._rss = rss(stand)

    def confirm(self) -> None:
        assert self._stand.bundle.pid == self._pid, "the bundle is another process"
        assert self._state() == self._before
        assert self._count_threads() >= self._threads, "threads of the bundle have ended"
        assert "Traceback" not in self._stand.bundle.log(), self._stand.bundle.log()[-3000:]

    def _state(self) -> Any:
        pages = ("/jobs?limit=1000", "/requests?limit=1000")
        return [[code, data] for code, data in (self._stand.ask("get", page) for page in pages)]

    def _count_threads(self) -> int:
        return len(os.listdir(f"/proc/{self._stand.bundle.pid}/task"))


def rss(stand: Stand) -> int:
    size: int = psutil.Process(stand.bundle.pid).memory_info().rss
    return size


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """One whose broker is quick: thousands of questions go through the controller one by one."""
    with Stand(tmp_path_factory.mktemp("stand"), broker_extra=["set_tcp_nodelay true"], http=True) as running:
        yield running


@pytest.fixture(scope="module")
def asker(stand: Stand) -> Asker:
    return Asker(stand)


@pytest.fixture
def caller(stand: Stand) -> Iterator[Caller]:
    with contextlib.closing(Caller(stand)) as made:
        yield made


@pytest.fixture(scope="module")
def job(stand: Stand) -> Document:
    """One that waits for its start time, in a hundred years."""
    document = {"destinations": ["idle-1", "idle-2"], "message": {"method": "post", "resource": "/x"}}
    return stand.create_job({**document, "startAt": "2125-01-01T00:00:00Z"})


@pytest.fixture
def witness(stand: Stand, asker: Asker, job: Document) -> Iterator[Witness]:
    """Looks on during a test, and lets it pass when nothing has happened but refusals."""
    found = Witness(stand)
    yield found
    found.confirm()
    # Its three SDK threads are alive when many are answered at once.
    answers = asker.through([("get", "/jobs?limit=1", None)] * 10, chunk=10)
    assert [answer["code"] for answer in answers] == [200] * 10


def assert_refused(bad: Bad, answer: Document) -> None:
    """The answer says what is wrong, and where."""
    told = f"{bad} was answered {str(answer)[:1000]}"
    assert answer["code"] in bad.codes, told
    data = answer["data"]
    assert isinstance(data["message"], str) and data["message"], told
    if answer["code"] != 400:
        return
    assert data["errors"] and len(data["errors"]) <= 20, told
    for error in data["errors"]:
        assert set(error) == {"path", "message"} and error["message"], told
        assert isinstance(error["path"], str) and isinstance(error["message"], str), told
    if bad.path is not None:
        assert any(error["path"].startswith(bad.path) for error in data["errors"]), told


def assert_all_refused(bodies: Iterable[Bad], answers: Iterable[Document]) -> None:
    for bad, answer in zip(bodies, answers, strict=True):
        assert_refused(bad, answer)


def at_least_200(found: Iterable[Any]) -> list[Any]:
    listed = list(found)
    assert len(listed) >= 200
    return listed


# Bodies

BODIES = {
    "POST /jobs": (bad_bodies.bad_jobs, bad_bodies.DRAWN_JOB),
    "PUT /jobs/:id": (bad_bodies.bad_updates, bad_bodies.DRAWN_UPDATE),
    "POST /jobs/:id/rerun": (bad_bodies.bad_reruns, bad_bodies.DRAWN_RERUN),
    "POST /requests": (bad_bodies.bad_requests, bad_bodies.DRAWN_REQUEST),
}


def route_of(name: str, job: Document) -> tuple[str, str]:
    method, resource = name.split()
    return method.lower(), resource.replace(":id", str(job["id"]))


def assert_same(bodies: Iterable[Bad], on_bus: Iterable[Document], over_http: Iterable[Document]) -> None:
    """Both edges answer the same; but what the bus can't carry it refuses in words of its own."""
    for bad, one, other in zip(bodies, on_bus, over_http, strict=True):
        told = f"{bad} was answered {one!r:.1000} and {other!r:.1000}"
        assert one["code"] == other["code"], told
        assert len(bad.raw) >= MAX_BUS_BYTES or one["data"] == other["data"], told


@pytest.mark.parametrize("route", BODIES)
def test_a_bad_body_is_refused_on_both_edges_with_the_path_to_each_fault(
    asker: Asker, caller: Caller, job: Document, witness: Witness, route: str
) -> None:
    by_hand, strategy = BODIES[route]
    bodies = at_least_200([*by_hand(), *bad_bodies.drawn(strategy, DRAWN)])
    asked = [(*route_of(route, job), bad.raw) for bad in bodies]
    on_bus, over_http = asker.straight(asked), caller.over_http(asked)
    assert_all_refused(bodies, on_bus)
    assert_all_refused(bodies, over_http)
    assert_same(bodies, on_bus, over_http)


@pytest.mark.parametrize("route", BODIES)
def test_a_bad_body_is_refused_through_the_controller_as_well(
    asker: Asker, job: Document, witness: Witness, route: str
) -> None:
    by_hand, strategy = BODIES[route]
    bodies = bad_bodies.no_constants([*by_hand(), *bad_bodies.drawn(strategy, DRAWN)])
    assert_all_refused(bodies, asker.through([(*route_of(route, job), bad.raw) for bad in bodies]))


@pytest.mark.parametrize("route", BODIES)
def test_a_body_that_is_nested_5000_deep_is_refused(
    asker: Asker, caller: Caller, job: Document, witness: Witness, route: str
) -> None:
    deep = [
        Bad(b"[" * 5000 + b"]" * 5000),
        Bad(b'{"batch":' * 5000 + b"1" + b"}" * 5000),
        Bad(b"[" * 5000),
    ]
    asked = [(*route_of(route, job), bad.raw) for bad in deep]
    on_bus, over_http = asker.straight(asked), caller.over_http(asked)
    assert_all_refused(deep, on_bus)
    assert_same(deep, on_bus, over_http)


@pytest.mark.parametrize("levels", [99, 100])
def test_both_edges_draw_the_line_at_the_same_depth(
    asker: Asker, caller: Caller, job: Document, witness: Witness, levels: int
) -> None:
    ask = ("post", "/jobs", b"[" * levels + b"]" * levels)
    [on_bus], [over_http] = asker.straight([ask]), caller.over_http([ask])
    assert (on_bus["code"], on_bus["data"]) == (over_http["code"], over_http["data"])
    assert ("levels deep" in on_bus["data"]["message"]) == (levels == 100)


@pytest.mark.parametrize("route", BODIES)
def test_a_message_of_a_mebibyte_is_refused_with_413(asker: Asker, job: Document, witness: Witness, route: str) -> None:
    good = {"method": "post", "resource": "/x"}
    for size in (MAX_BUS_BYTES - 300, MAX_BUS_BYTES, MAX_BUS_BYTES + 1, 2 * MAX_BUS_BYTES, 3 * MAX_BUS_BYTES):
        document = {
            "destinations": ["a"],
            "destination": "a",
            "message": {**good, "data": "x" * size},
            "name": "x" * 200,
        }
        bad = bad_bodies.bad(document, None, 400, 413)
        [answer] = asker.straight([(*route_of(route, job), bad.raw)])
        assert_refused(bad, answer)


@pytest.mark.parametrize("route", ["POST /jobs", "POST /requests"])
def test_data_with_which_a_request_could_not_be_read_is_refused(
    asker: Asker, stand: Stand, job: Document, witness: Witness, route: str
) -> None:
    for size in (400_000, 800_000, MAX_BUS_BYTES - 3500, MAX_BUS_BYTES - 2000, MAX_BUS_BYTES - 600):
        message = {"method": "post", "resource": "/x", "data": "x" * size}
        document = {"destinations": "nobody", "startAt": "2125-01-01T00:00:00Z", "message": message}
        single = {"destination": "nobody", "message": message}
        bad = bad_bodies.bad(document if route == "POST /jobs" else single, None, 400, 413)
        [answer] = asker.straight([(*route_of(route, job), bad.raw)])
        if answer["code"] != 200:
            assert_refused(bad, answer)
            continue
        created = answer["data"] if route == "POST /jobs" else {"id": answer["data"]["__request"]["job"]}
        for resource in (f"/jobs/{created['id']}?limit=1", f"/requests/{created['id'] + 1}", "/requests?limit=1"):
            assert stand.ask("get", resource)[0] == 200, (size, resource)
        stand.remove_job(created["id"])


def test_a_key_with_another_body_is_refused_with_409(asker: Asker, stand: Stand, job: Document) -> None:
    keyed = {
        "destinations": "idle",
        "message": {"method": "get", "resource": "/x"},
        "startAt": "2125-01-01T00:00:00Z",
        "key": "k",
    }
    first = stand.create_job(keyed)
    before = Witness(stand)
    assert stand.create_job(keyed)["id"] == first["id"]
    others = [
        bad_bodies.bad({**keyed, **change}, None, 409)
        for change in ({"name": "x"}, {"destinations": "b"}, {"priority": 1})
    ]
    assert_all_refused(others, asker.through([("post", "/jobs", bad.raw) for bad in others]))
    before.confirm()
    stand.remove_job(first["id"])


# Queries and ids


@pytest.mark.parametrize(
    ("route", "by_hand", "strategy"),
    [
        ("/jobs", bad_bodies.bad_jobs_queries, bad_bodies.DRAWN_JOBS_QUERY),
        ("/jobs/:id", bad_bodies.bad_job_queries, bad_bodies.DRAWN_JOB_QUERY),
        ("/jobs/:id/answers", bad_bodies.bad_answers_queries, bad_bodies.DRAWN_ANSWERS_QUERY),
        ("/requests", bad_bodies.bad_requests_queries, bad_bodies.DRAWN_REQUESTS_QUERY),
    ],
)
def test_a_bad_query_is_refused_on_both_edges_with_the_name_of_the_parameter(
    asker: Asker,
    caller: Caller,
    job: Document,
    witness: Witness,
    route: str,
    by_hand: Callable[[], Iterator[str]],
    strategy: Any,
) -> None:
    queries = at_least_200([*by_hand(), *bad_bodies.drawn(strategy, DRAWN)])
    bad = [Bad(query.encode(), query.partition("=")[0]) for query in queries]
    asked = [("get", f"{route.replace(':id', str(job['id']))}?{query}", None) for query in queries]
    on_bus, over_http = asker.straight(asked), caller.over_http(asked)
    for answers in (on_bus, asker.through(asked, chunk=10), over_http):
        assert_all_refused(bad, answers)
    assert_same(bad, on_bus, over_http)


@pytest.mark.parametrize("route", [
    "GET /jobs/:id", "PUT /jobs/:id", "DELETE /jobs/:id", "GET /jobs/:id/answers", "POST /jobs/:id/rerun",
    "GET /requests/:id", "GET /request/:id", "DELETE /requests/:id",
])  # fmt: skip
def test_an_id_that_names_nothing_gets_404(asker: Asker, caller: Caller, witness: Witness, route: str) -> None:
    method, pattern = route.split()
    idents = at_least_200([*bad_bodies.bad_ids(), *bad_bodies.drawn(bad_bodies.DRAWN_ID, DRAWN)])
    data = b'{"status": "canceled"}' if method in ("PUT", "POST") else None
    asked = [(method.lower(), pattern.replace(":id", ident), data) for ident in idents]
    bad = [Bad(ident.encode(), codes=(404,)) for ident in idents]
    assert_all_refused(bad, asker.straight(asked))
    # In the path of an URL they are quoted. On the bus some of them are of no resource that the SDK knows, so that it
    # refuses them, in other words.
    quoted = [pattern.replace(":id", quote(ident, safe="")) for ident in idents]
    over_http = caller.over_http([(method.lower(), resource, data) for resource in quoted])
    assert_all_refused(bad, over_http)
    noun = "job" if pattern.startswith("/jobs") else "request"
    for ident, answer in zip(idents, over_http, strict=True):
        assert answer["data"] == {"message": f"no {noun} has the id {ident:.40}"}
    # The controller knows no resource that is longer, and cuts at ? and /.
    short = [ask for ask in asked if len(ask[1].encode()) < 1000]
    for ask, answer in zip(short, asker.through(short, chunk=1 if data or method == "DELETE" else 10), strict=True):
        assert answer["code"] == 404, (ask, answer)


def test_the_ids_of_one_route_are_unknown_to_the_other(asker: Asker, job: Document, witness: Witness) -> None:
    request, own = job["requests"][0], job["id"]
    asked = [
        ("get", f"/requests/{own}", None),
        ("delete", f"/requests/{own}", None),
        ("get", f"/jobs/{request}", None),
        ("put", f"/jobs/{request}", b'{"status":"paused"}'),
        ("delete", f"/jobs/{request}", None),
    ]
    assert [answer["code"] for answer in asker.through(asked)] == [404] * 5


def test_what_has_ended_can_not_be_changed(asker: Asker, stand: Stand, job: Document) -> None:
    document = {
        "destinations": "idle",
        "message": {"method": "get", "resource": "/x"},
        "startAt": "2125-01-01T00:00:00Z",
    }
    done = stand.create_job(document)
    stand.update_job(done["id"], status="canceled")
    before = Witness(stand)
    bodies = [
        bad_bodies.bad(body, None, 409) for body in ({"status": "paused"}, {"status": "dispatching"}, {"priority": 3})
    ]
    assert_all_refused(bodies, asker.through([("put", f"/jobs/{done['id']}", bad.raw) for bad in bodies]))
    before.confirm()
    stand.remove_job(done["id"])


# Messages that break the SDK, or the controller's view of us

POISON = [
    {"id": 1, "method": "get", "resource": "/jobs", "match": 1},
    {"id": 1, "method": 5, "resource": "/jobs"},
    {"id": 1, "method": "get", "resource": 5},
]


def test_the_three_messages_that_kill_a_bundle_do_not(asker: Asker, stand: Stand, witness: Witness) -> None:
    tunnel = asker.tunnel
    for message in POISON * 10:
        stand.publish(tunnel, {**message, "tunnel": "/bad/answers"}, wait=False)
        stand.publish("/controller", {**message, "tunnel": "/bad/answers"}, wait=False)
    assert [answer["code"] for answer in asker.straight([("get", "/jobs", None)] * 30)] == [200] * 30


def test_responses_with_the_ids_of_what_is_being_answered_keep_no_thread_waiting(
    asker: Asker, stand: Stand, witness: Witness
) -> None:
    tunnel = asker.tunnel
    request = {"id": 5, "method": "get", "resource": "/jobs?limit=1"}
    for _ in range(1000):
        stand.publish(tunnel, request, wait=False)
        stand.publish(tunnel, {**request, "code": 200, "sign": ["nobody"]}, wait=False)
    assert [answer["code"] for answer in asker.straight([("get", "/jobs", None)] * 30)] == [200] * 30


def test_what_the_controller_forwards_is_always_answered_so_that_no_lock_remains(
    asker: Asker, stand: Stand, witness: Witness
) -> None:
    answers = stand.listen("/odd/answers")
    odd = [
        {"id": 950_000.5},
        {"id": 950_001.0},
        {"id": 950_002, "sign": None},
        {"id": 950_003, "code": None},
        {"id": 950_004, "code": False},
        {"id": 950_005, "sign": False},
        {"id": 2**32 + 950_006},
        {"id": -1},
        {"id": 950_007, "method": "PoSt"},
        {"id": 950_008, "match": 1, "__class__": "x", "query": 5, "param": 5, "to_response": 1, "_type": 3},
        {"id": 950_009, "resource": "/jobs/"},
        {"id": 950_010, "resource": "  //jobs?a=b&a=c&=&&"},
        {"id": 950_011, "data": None},
    ]
    for fields in odd:
        mark = len(answers.messages)
        message = {"method": "post", "resource": "/jobs", "tunnel": "/odd/answers", "data": {}, **fields}
        stand.publish("/controller", message)
        heard = answers.wait(timeout=20, mark=mark)
        assert (heard.data["id"], heard.data["code"]) == (fields["id"], 400), heard


def test_a_body_that_is_too_deep_is_answered_by_the_id_of_its_message_not_by_one_inside(
    asker: Asker, stand: Stand, witness: Witness
) -> None:
    answers = stand.listen("/odd/answers")
    inner = b'{"id":7,"method":"get","resource":"/inner","x":%b1%b}' % (b"[" * 150, b"]" * 150)
    stand.publish(
        "/controller", b'{"data":%b,"id":950100,"method":"post","resource":"/jobs","tunnel":"/odd/answers"}' % inner
    )
    heard = answers.wait(timeout=20)
    assert (heard.data["id"], heard.data["code"]) == (950_100, 400)


@pytest.mark.parametrize("route", ["model", "answer"])
def test_a_message_that_is_slow_to_look_through_stops_nobody(
    asker: Asker, stand: Stand, witness: Witness, route: str
) -> None:
    # Brackets enough for a closer look, and a text without an end in which any quote may begin another one.
    payload = b"[" * 200 + b'"' + b'\\"' * 200_000
    topic = asker.tunnel if route == "model" else f"/remote/idle-1/answer/{stand.instance}"
    mark = len(stand.presence.messages)
    stand.publish(topic, payload)
    assert stand.ask("get", "/jobs?limit=1", timeout=30)[0] == 200
    if route == "answer":
        stand.presence.wait(lambda heard: dropped(heard).get("malformed"), timeout=30, mark=mark)


def test_a_hundred_thousand_keys_of_which_two_are_the_same_are_refused_at_once(asker: Asker, witness: Witness) -> None:
    raw = b'{"a":0,"a":1' + b"".join(b',"%d":1' % number for number in range(95_000)) + b"}"
    assert_refused(Bad(raw, "a"), asker.through([("post", "/jobs", raw)])[0])


def test_what_can_not_be_encoded_in_an_answer_does_not_break_the_connection(
    asker: Asker, stand: Stand, witness: Witness
) -> None:
    tunnel, registrations = asker.tunnel, stand.bundle.log().count("registered at the controller")
    for text in (
        b'{"id":%d,"method":"get","resource":"/jobs","a":1,"a":2}' % 10**30,
        b'{"id":1,"method":"get","resource":"/jobs/\\ud800","a":1,"a":2}',
        b'{"id":1,"method":"\\ud800","resource":"/jobs","a":1,"a":2}',
        b'{"id":1,"method":"get","resource":"/jobs","code":%d,"a":1,"a":2}' % 10**30,
        b'{"id":1,"method":"get","resource":"/jobs","sign":["\\ud800"],"a":1,"a":2}',
        b'{"id":%d,"method":"get","resource":"/jobs","tunnel":"x"}' % 10**30,
        b'{"id":1,"method":"get","resource":"/jobs/\\ud800","tunnel":"x"}',
        b'{"id":1,"method":"get","resource":"/jobs","sign":["\\ud800",%d]}' % 10**30,
        b'{"id":%d,"method":"get","resource":"/jobs","code":200,"sign":[]}' % 10**30,
        b'{"id":1,"method":"get\\ud800","resource":"/jobs","tunnel":"x"}',
    ):
        stand.publish(tunnel, text)
        assert [answer["code"] for answer in asker.straight([("get", "/jobs?limit=1", None)] * 6)] == [200] * 6, text
    assert stand.bundle.log().count("registered at the controller") == registrations, "it had to connect again"
    assert asker.tunnel == tunnel


# Ten thousand of them


def dropped(heard: Heard) -> dict[str, int]:
    found: dict[str, int] = heard.data.get("dropped", {})
    return found


def garbage(chance: random.Random, number: int) -> list[bytes]:
    """Bytes, broken JSON, JSON of every shape, and envelopes with all that could be wrong in them."""
    values: list[Any] = [
        None, True, False, -1, 0, 5, 1e300, 2**31, 2**32, 2**63, 2**64, 10**40, -(2**63) - 1, 1.5, "", "x" * 3000,
        "\0", "\ud800", "é💥", "/jobs", "get", "post", [], {}, [[]], {"id": 1}, ["a", None],
        {"__class__": {"__init__": 1}}, 102, 200, 423, 500, 999, not_a_number := float("nan"), [not_a_number],
        {"progress": 50}, {"progress": float("inf")}, {"progress": "x"}, {"message": 5},
    ]  # fmt: skip
    names = [
        "id", "code", "method", "resource", "sign", "tunnel", "data", "match", "query", "param", "__class__",
        "__dict__", "_type", "to_response", "to_dict", "to_event", "type", "generate_id", "__init__", "__deepcopy__",
        "__reduce__", "progress", "",
    ]  # fmt: skip
    methods = ["get", "post", "put", "delete", "GET", "patch", "", "\0"]
    resources = [
        "/jobs", "/jobs/1", "/jobs/abc?limit=x", "/requests", "/requests/5", "/request/5", "/jobs?limit=-1",
        "/nowhere", "", "/", "/jobs/" + "9" * 300, "/jobs?" + "a=1&" * 200,
    ]  # fmt: skip
    made: list[bytes] = []
    while len(made) < number:
        fields = {name: chance.choice(values) for name in chance.sample(names, chance.randrange(1, 8))}
        ident = chance.choice([chance.randrange(1, 2**20), chance.randrange(2**70), 10**40, -5])
        whole = {
            "id": ident,
            "method": chance.choice(methods),
            "resource": chance.choice(resources),
            "tunnel": "/bad/answers",
            **fields,
        }
        response = {
            "id": ident, "code": chance.choice([200, 102, 423, 404, -1, 10**6]), "method": "get", "resource": "/x",
            "sign": ["x"], **fields,
        }  # fmt: skip
        shape = chance.choice([fields, [fields], whole, response, whole, response, chance.choice(values)])
        text = json.dumps(shape, ensure_ascii=chance.random() < 0.9).encode("utf-8", "surrogatepass")
        made.append(
            chance.choice(
                [
                    text,
                    text,
                    text[: chance.randrange(len(text))],
                    text + text[:1],
                    chance.randbytes(chance.randrange(300)),
                    b"",
                    b"\xff\xfe" + text,
                    text.decode("utf-8", "replace").encode("utf-16"),
                    text.replace(b'"', b"'"),
                    b"[" * chance.randrange(2000) + text,
                    text.replace(b"200", b'"\xc3\x28\xff"'),
                ]
            )
        )
    return made


def test_ten_thousand_random_messages_on_every_topic_stop_nobody(tmp_path: Path) -> None:
    roomy = ["max_queued_messages 200000", "max_inflight_messages 1000"]
    with Stand(tmp_path, broker_extra=roomy, start=False) as stand:
        stand.start_broker()
        stand.controller.start()
        registering = stand.listen("/controller")
        stand.bundle.start()
        asker, fleet = Asker(stand), stand.fleet("dev", 100)
        waiting = {
            "destinations": ["idle-1", "idle-2"],
            "message": {"method": "post", "resource": "/x"},
            "requestTimeout": 3600,
        }
        job = stand.create_job({**waiting, "retry": {"limit": 0}})
        stand.wait_job(job["id"], lambda job: job["counts"]["sent"] == 2)
        internal = next(
            heard.data["data"]["tunnel"]
            for heard in registering.messages
            if b"/controller/registration" in heard.payload
        )
        instance, chance = stand.instance, random.Random(SEED)
        assert internal
        topics = [
            asker.tunnel,
            internal,
            "/controller",
            f"/remote/idle-1/answer/{instance}",
            f"/remote/dev-0001/answer/{instance}",
            f"/remote/{'x' * 128}/answer/{instance}",
            f"/remote/ /answer/{instance}",
            f"/remote//answer/{instance}",
            f"/remote/é💥/answer/{instance}",
            f"/remote/localhost/answer/{instance}",
            f"/remote/$SYS/answer/{instance}",
            f"/puppetmaster/{instance}/jobs/{job['id']}",
            f"/puppetmaster/{instance}/jobs/nonsense",
            "/remote/idle-1",
            f"/remote/idle-1/answer/{instance}/more",
        ]
        pid, share = stand.bundle.pid, 10_000 // len(topics) + 1
        # A first round before the memory is measured: code and caches are in it then.
        for number in (share // 10, share):
            before = rss(stand)
            for topic in topics:
                flood(stand, topic, garbage(chance, number), chance)
            settle(stand, asker)
        assert stand.bundle.pid == pid
        grown = rss(stand) - before
        assert grown < 100 * 1024 * 1024, f"{grown / 2**20:.0f} MiB more"
        told = dropped(stand.presence.messages[-1])
        assert told["malformed"] > 1000 and told["unknown"] > 10, told
        after = stand.run_job({"destinations": fleet.names, "message": {"method": "post", "resource": "/y"}})
        assert after["finishCount"] == 100
        assert_adds_up(after)
        # What waited for its answer waits still, or was answered by what looked like one.
        assert_adds_up(stand.job(job["id"], "limit=0"))
        assert [answer["code"] for answer in asker.through([("get", "/jobs?limit=1", None)] * 10, chunk=10)] == [
            200
        ] * 10
        assert "Traceback" not in stand.bundle.log()


def flood(stand: Stand, topic: str, payloads: Iterable[bytes], chance: random.Random) -> None:
    for payload in payloads:
        stand.publish(topic, payload, retain=chance.random() < 0.05, wait=False)
    stand.publish(topic, b"", retain=True)  # the broker has them all


def settle(stand: Stand, asker: Asker) -> None:
    """Wait until the bundle has looked at all that was sent: nothing of it is dropped any more."""
    asker.straight([("get", "/jobs?limit=1", None)] * 10)
    marker = f"/remote/marker/answer/{stand.instance}"
    mark = len(stand.presence.messages)
    before = Counter(dropped(stand.presence.messages[-1])) if stand.presence.messages else Counter()
    stand.publish(marker, b"the last one")
    stand.presence.wait(lambda heard: dropped(heard).get("malformed", 0) > before.get("malformed", 0), mark=mark)


def test_dropped_answers_are_counted_by_their_reason_to_the_last_one(stand: Stand, job: Document) -> None:
    before = Counter(dropped(stand.presence.messages[-1]))
    document = {"destinations": ["mute-1"], "message": {"method": "post", "resource": "/x"}}
    out = stand.create_job(document)
    stand.wait_job(out["id"], lambda job: job["counts"]["sent"] == 1)
    request = out["requests"][0]
    topic = f"/remote/mute-1/answer/{stand.instance}"
    answer = {"id": request, "code": 200, "method": "post", "resource": "/x", "sign": ["mute-1"]}
    for _ in range(7):
        stand.publish(f"/remote/mute-2/answer/{stand.instance}", answer)  # another device
    for _ in range(5):
        stand.publish(topic, {**answer, "id": 999})
    for payload in (
        b"", b"{", b"[]", b"5", b"\xff", b'{"id":"1","code":200}', json.dumps({**answer, "code": True}).encode(),
        json.dumps({**answer, "id": float(request)}).encode(), json.dumps({**answer, "code": 99}).encode(),
    ):  # fmt: skip
        stand.publish(topic, payload)
    assert stand.job(out["id"], "limit=0")["counts"]["sent"] == 1
    stand.publish(topic, answer)
    stand.wait_job(out["id"])
    for _ in range(3):
        stand.publish(topic, answer)
    wanted = before + Counter(foreign=7, unknown=5, malformed=9, late=3)
    stand.presence.wait(lambda heard: Counter(dropped(heard)) == wanted)


# Large answers


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        ("x" * 500_000, "resolved", 200),
        ("x" * 600_000, "error", 413),
        # Its own id is not the first that stands in it.
        ({"id": 7, "log": [{"id": 8}, "x" * 600_000]}, "error", 413),
    ],
    ids=["500 KB", "600 KB", "600 KB with other ids"],
)
def test_a_large_answer_is_kept_or_refused_and_stops_nobody(
    stand: Stand, job: Document, data: Any, status: str, code: int
) -> None:
    tunnels = stand.listen("/remote/big-1")
    message = {"method": "get", "resource": "/log"}
    created = stand.create_job({"destinations": "big-1", "message": message, "requestTimeout": 30})
    asked = tunnels.wait(lambda heard: heard.data["id"] in created["requests"]).data
    answer = {"data": data, "id": asked["id"], "code": 200, **message, "sign": ["big-1"]}
    stand.publish(asked["tunnel"], answer)
    ended = stand.wait_job(created["id"])
    assert_adds_up(ended)
    found, request = stand.ask("get", f"/requests/{asked['id']}")
    assert (found, request["__request"]["status"], request["__request"]["code"]) == (200, status, code)
    assert code == 200 or "600" in request["__request"]["reason"]


def test_an_answer_of_5_mb_costs_one_request_and_no_more(stand: Stand, job: Document) -> None:
    tunnels = stand.listen("/remote/big-2")
    before, pid = rss(stand), stand.bundle.pid
    document = {
        "destinations": "big-2",
        "message": {"method": "get", "resource": "/log"},
        "requestTimeout": 8,
        "retry": {"limit": 0},
    }
    created = stand.create_job(document)
    asked = tunnels.wait().data
    answer = {
        "id": asked["id"],
        "code": 200,
        "method": "get",
        "resource": "/log",
        "sign": ["big-2"],
        "data": "x" * 5_000_000,
    }
    for _ in range(3):
        stand.publish(asked["tunnel"], answer)
    # The broker keeps from us what is larger than we take, or it is refused.
    ended = stand.wait_job(created["id"], timeout=PATIENCE)
    assert (ended["errorCount"], ended["status"]) == (1, "resolved")
    assert stand.bundle.pid == pid
    assert rss(stand) - before < 100 * 1024 * 1024
    second = stand.create_job({"destinations": "big-2", "message": {"method": "get", "resource": "/log"}})
    asked = tunnels.wait(lambda heard: heard.data["id"] == second["requests"][0]).data
    stand.publish(asked["tunnel"], {**answer, "id": asked["id"], "data": "small"})
    assert stand.wait_job(second["id"])["finishCount"] == 1
