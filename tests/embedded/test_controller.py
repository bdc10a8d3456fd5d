"""The controller: its rules one by one without a broker, then all of it over Mosquitto with the stock SDK."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puppetmaster.address import BrokerAddress
from puppetmaster.embedded.broker import BrokerProcess, find_mosquitto
from puppetmaster.embedded.controller import MAX_MESSAGE, Controller, ControllerCore, decode, split_resource
from puppetmaster.errors import BusError

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 10.0  # seconds that a test waits for what must come


VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.lists(st.text(max_size=2))
) | st.sampled_from(["/echo", "get", "post", 1, 2, "/controller/registration", 200, ["echo"], {"name": "a"}, "t" * 64])
MESSAGES = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("id", "code", "method", "resource", "sign", "tunnel", "data"), VALUES),
)


class Desk:
    """A core, a clock and short words for what goes in and out."""

    def __init__(self) -> None:
        numbers = iter(range(100, 100_000))
        self.core = ControllerCore(draw=lambda: next(numbers))
        self.now = 1000.0

    def send_bytes(self, payload: bytes) -> list[tuple[str, bytes]]:
        return self.core.receive("/controller", payload, self.now)

    def send(self, **message: Any) -> list[tuple[str, dict[str, Any]]]:
        return self.decoded(self.send_bytes(json.dumps(message).encode()))

    def tick(self, seconds: float) -> list[tuple[str, dict[str, Any]]]:
        self.now += seconds
        return self.decoded(self.core.tick(self.now))

    @staticmethod
    def decoded(out: list[tuple[str, bytes]]) -> list[tuple[str, dict[str, Any]]]:
        return [(topic, json.loads(payload)) for topic, payload in out]

    def ask(self, method: str, resource: str, ident: int = 1, tunnel: str | None = "caller", **more: Any) -> Any:
        direct = {} if tunnel is None else {"tunnel": tunnel}
        return self.send(id=ident, method=method, resource=resource, **direct, **more)

    def answer(self, ident: int = 1, code: int = 200, name: str = "echo", **more: Any) -> Any:
        fields = {"method": "get", "resource": "/echo", **more}
        return self.send(id=ident, code=code, sign=[name], **fields)

    def register(self, name: str, *resources: str, role: str = "model", **more: Any) -> Any:
        data = {"name": name, "role": role, "tunnel": "internal", "resources": list(resources), "ttl": 10, **more}
        [(tunnel, answer)] = self.ask("post", "/controller/registration", 999, "registrar", data=data)
        assert tunnel == "registrar"
        return answer

    def join(self, name: str, *resources: str, role: str = "model", **more: Any) -> str:
        answer = self.register(name, *resources, role=role, **more)
        assert answer["code"] == 200, answer
        tunnel: str = answer["data"]["tunnel"]
        return tunnel


@pytest.fixture
def desk() -> Desk:
    return Desk()


class TestRegistration:
    def test_a_registration_is_answered_with_a_number_as_tunnel(self, desk: Desk) -> None:
        answer = desk.register("echo", "/echo")
        assert answer == {
            "id": 999,
            "code": 200,
            "method": "post",
            "resource": "/controller/registration",
            "sign": ["controller"],
            "data": {"tunnel": "100"},
        }

    def test_the_tunnel_is_drawn_again_while_somebody_has_it(self) -> None:
        desk = Desk()
        numbers = iter([7, 7, 7, 8])
        desk.core = ControllerCore(draw=lambda: next(numbers))
        assert desk.join("a", "/a") == "7"
        assert desk.join("b", "/b") == "8"

    def test_a_name_that_is_registered_gets_403(self, desk: Desk) -> None:
        desk.join("echo", "/echo")
        assert desk.register("echo", "/other")["code"] == 403

    def test_delete_frees_the_name_and_the_resources(self, desk: Desk) -> None:
        desk.join("echo", "/echo")
        [(_, answer)] = desk.ask("delete", "/controller/registration", data={"name": "echo"})
        assert answer["code"] == 200
        assert desk.ask("get", "/echo")[0][1]["code"] == 404
        assert desk.register("echo", "/echo")["code"] == 200

    def test_delete_may_name_the_component_in_the_resource(self, desk: Desk) -> None:
        desk.join("echo", "/echo")
        [(_, answer)] = desk.ask("delete", "/controller/registration/echo")
        assert answer["code"] == 200 and desk.core.components == []

    @pytest.mark.parametrize("name", ["nobody", "n" * 40])
    def test_delete_of_an_unknown_name_gets_200(self, desk: Desk, name: str) -> None:
        assert desk.ask("delete", "/controller/registration", data={"name": name})[0][1]["code"] == 200

    def test_delete_without_a_name_gets_400(self, desk: Desk) -> None:
        assert desk.ask("delete", "/controller/registration")[0][1]["code"] == 400

    def test_get_lists_what_is_registered(self, desk: Desk) -> None:
        desk.join("echo", "/echo", "/echo/+")
        desk.join("screen", "/echo", role="view")
        [(_, answer)] = desk.ask("get", "/controller/registration")
        assert [each["name"] for each in answer["data"]] == ["echo", "screen"]
        assert answer["data"][0]["resources"] == ["/echo", "/echo/+"]

    def test_get_shows_one_or_404(self, desk: Desk) -> None:
        desk.join("echo", "/echo")
        assert desk.ask("get", "/controller/registration/echo")[0][1]["data"]["role"] == "model"
        assert desk.ask("get", "/controller/registration/nobody")[0][1]["code"] == 404

    def test_put_is_405(self, desk: Desk) -> None:
        assert desk.ask("put", "/controller/registration", data={"name": "x"})[0][1]["code"] == 405

    @pytest.mark.parametrize(
        ("change", "word"),
        [
            ({"name": "n" * 32}, "name"),
            ({"name": "é" * 16}, "name"),
            ({"tunnel": "t" * 64}, "tunnel"),
            ({"resources": ["/" + "r" * 1023]}, "resources"),
            ({"resources": []}, "resources"),
            ({"resources": [5]}, "resources"),
            ({"resources": None}, "resources"),
            ({"role": "controller"}, "role"),
            ({"ttl": 0}, "ttl"),
            ({"ttl": "10"}, "ttl"),
            ({"ttl": True}, "ttl"),
            ({"name": 5}, "name"),
        ],
    )
    def test_what_breaks_a_rule_gets_400(self, desk: Desk, change: dict[str, Any], word: str) -> None:
        data = {"name": "echo", "role": "model", "tunnel": "t", "resources": ["/echo"], **change}
        [(_, answer)] = desk.ask("post", "/controller/registration", data=data)
        assert answer["code"] == 400 and word in answer["data"]["message"]
        assert desk.core.components == []

    def test_what_just_fits_the_buffers_is_registered(self, desk: Desk) -> None:
        desk.join("n" * 31, "/" + "r" * 1022, tunnel="t" * 63)

    @pytest.mark.parametrize("data", [None, [], "text", 5])
    def test_data_that_is_no_object_gets_400(self, desk: Desk, data: Any) -> None:
        assert desk.ask("post", "/controller/registration", data=data)[0][1]["code"] == 400

    def test_the_dependency_model_names_what_a_write_locks(self, desk: Desk) -> None:
        desk.join("echo", "/echo", "/other")
        desk.join("third", "/third")
        resource = "/controller/resource/dependency"
        assert desk.ask("get", resource)[0][1]["data"] == {"resources": ["/echo", "/other", "/third"]}
        assert desk.ask("get", f"{resource}?resource=/echo")[0][1]["data"] == {"resources": ["/echo", "/other"]}
        assert desk.ask("get", f"{resource}?resource=/none")[0][1]["code"] == 404
        assert desk.ask("post", resource)[0][1]["code"] == 405

    def test_a_plain_request_to_a_built_in_model_is_answered_to_the_views_of_it(self, desk: Desk) -> None:
        view = desk.join("screen", "/controller/registration", role="view")
        [(topic, answer)] = desk.ask("get", "/controller/registration", tunnel=None)
        assert topic == view and answer["code"] == 200


class TestRouting:
    def test_a_request_reaches_the_model_as_it_came(self, desk: Desk) -> None:
        tunnel = desk.join("echo", "/echo")
        payload = b' {"extra" : [1,2.50], "tunnel":"caller","id":5, "resource":"/echo","method":"get"} '
        assert desk.send_bytes(payload) == [(tunnel, payload)]

    def test_the_answer_reaches_the_tunnel_as_it_came(self, desk: Desk) -> None:
        desk.join("echo", "/echo")
        desk.join("screen", "/echo", role="view")
        desk.ask("get", "/echo", 5)
        payload = b'{"sign":["echo"],  "code":200,"id":5,"method":"get","resource":"/echo","data":{"a":1.50}}'
        assert desk.send_bytes(payload) == [("caller", payload)]

    def test_the_answer_to_a_plain_request_reaches_every_view_of_the_resource(self, desk: Desk) -> None:
        desk.join("echo", "/echo")
        views = [desk.join("one", "/echo", role="view"), desk.join("two", "/+", role="view")]
        desk.join("three", "/other", role="view")
        desk.ask("get", "/echo", tunnel=None)
        assert [topic for topic, _ in desk.answer()] == views

    @pytest.mark.parametrize(
        ("pattern", "resource", "fits"),
        [
            ("/echo", "/echo", True),
            ("/echo", "echo", True),
            ("echo/", "/echo/", True),
            ("/echo", "/echo?a=1&b=/2", True),
            ("/echo", "/echo/?a=b?c", True),
            ("/echo", "/ECHO", False),
            ("/echo", "/echo/1", False),
            ("/echo/+", "/echo/1", True),
            ("/echo/+", "/echo", False),
            ("/echo/+", "/echo/1/2", False),
            ("/+/state", "/echo/state", True),
            ("/echo", "/+", False),
        ],
    )
    def test_a_resource_is_matched_level_by_level(self, desk: Desk, pattern: str, resource: str, fits: bool) -> None:
        tunnel = desk.join("echo", pattern)
        [(topic, _)] = desk.ask("get", resource)
        assert topic == (tunnel if fits else "caller")

    def test_a_query_and_the_slashes_around_are_cut(self) -> None:
        assert split_resource(" /a/b/?x=/y") == ("a", "b")

    def test_a_resource_without_a_model_is_404(self, desk: Desk) -> None:
        desk.join("screen", "/echo", role="view")
        [(topic, answer)] = desk.ask("get", "/echo?x=1", 7)
        assert topic == "caller"
        expected = {"id": 7, "code": 404, "method": "get", "resource": "/echo?x=1", "sign": ["controller"]}
        assert answer == expected

    def test_the_404_of_a_plain_request_reaches_the_views_of_the_resource(self, desk: Desk) -> None:
        view = desk.join("screen", "/echo", role="view")
        assert [(topic, answer["code"]) for topic, answer in desk.ask("get", "/echo", tunnel=None)] == [(view, 404)]
        assert desk.ask("get", "/other", tunnel=None) == []

    def test_every_model_of_the_resource_gets_the_request_and_the_last_answer_ends_it(self, desk: Desk) -> None:
        tunnels = [desk.join("one", "/echo"), desk.join("two", "/+")]
        assert [topic for topic, _ in desk.ask("get", "/echo")] == tunnels
        assert desk.answer(name="one", data={"n": 1}) == []
        [(topic, answer)] = desk.answer(name="two", data={"n": 2})
        assert topic == "caller"
        assert (answer["code"], answer["sign"], answer["data"]) == (200, ["one", "two"], {"n": 2})

    def test_of_several_answers_the_failed_one_decides(self, desk: Desk) -> None:
        desk.join("one", "/echo")
        desk.join("two", "/echo")
        desk.ask("put", "/echo")
        desk.answer(code=500, name="one", data={"message": "broken"})
        [(_, answer)] = desk.answer(name="two")
        assert answer["code"] == 500 and answer["data"] == {"message": "broken"}

    def test_an_answer_nobody_waits_for_is_dropped(self, desk: Desk) -> None:
        desk.join("echo", "/echo")
        assert desk.answer(77) == []
        desk.ask("get", "/echo", 77)
        assert len(desk.answer(77)) == 1
        assert desk.answer(77) == []

    def test_a_resource_over_1023_bytes_gets_400(self, desk: Desk) -> None:
        desk.join("echo", "/echo")
        assert desk.ask("get", "/" + "r" * 1023)[0][1]["code"] == 400
        assert desk.ask("get", "/" + "r" * 1022)[0][1]["code"] == 404

    def test_a_method_is_compared_in_lower_case(self, desk: Desk) -> None:
        desk.join("echo", "/echo")
        desk.ask("PUT", "/echo", 1)
        assert desk.ask("get", "/echo", 2)[0][1]["code"] == 423


class TestIds:
    def test_an_id_in_flight_gets_403(self, desk: Desk) -> None:
        desk.join("echo", "/echo")
        desk.ask("get", "/echo", 5)
        [(topic, answer)] = desk.ask("get", "/echo", 5, tunnel="second")
        assert (topic, answer["code"], answer["data"]) == ("second", 403, {"message": "'id' was used"})

    def test_an_id_is_free_again_when_its_request_is_answered(self, desk: Desk) -> None:
        tunnel = desk.join("echo", "/echo")
        desk.ask("get", "/echo", 5)
        desk.answer(5)
        assert desk.ask("get", "/echo", 5)[0][0] == tunnel

    def test_an_id_is_cut_to_32_bits(self, desk: Desk) -> None:
        desk.join("echo", "/echo")
        desk.ask("get", "/echo", 2**32 + 5)
        assert desk.ask("get", "/echo", 5)[0][1]["code"] == 403
        desk.ask("get", "/echo", -1)
        assert desk.answer(2**32 - 1)[0][0] == "caller"

    @pytest.mark.parametrize("ident", [0, "5", None, False, True, [], 2**32, 0.5, 1e300])
    def test_any_other_id_means_event(self, desk: Desk, ident: Any) -> None:
        desk.join("echo", "/echo")
        view = desk.join("screen", "/echo", role="view")
        message = {"id": ident, "code": 200, "method": "put", "resource": "/echo"}
        assert desk.send(**message) == [(view, message)]


class TestEvents:
    def test_an_event_reaches_every_view_of_its_resource_and_nobody_else(self, desk: Desk) -> None:
        desk.join("echo", "/echo/+")
        views = [desk.join("one", "/echo/+", role="view"), desk.join("two", "/echo/1", "/+/1", role="view")]
        desk.join("three", "/echo", role="view")
        payload = b'{ "code":200,"method":"post","resource":"/echo/1","data":{"z":1,"a":2} }'
        assert desk.send_bytes(payload) == [(view, payload) for view in views]

    def test_an_event_waits_for_no_lock(self, desk: Desk) -> None:
        desk.join("echo", "/echo")
        desk.join("screen", "/echo", role="view")
        desk.ask("put", "/echo")
        assert len(desk.send(code=200, method="put", resource="/echo")) == 1


class TestLocks:
    @pytest.mark.parametrize("method", ["post", "put", "delete"])
    def test_a_write_locks_the_model_with_all_its_resources(self, desk: Desk, method: str) -> None:
        desk.join("echo", "/echo", "/other/+")
        desk.ask(method, "/echo", 1)
        for ident, (each, resource) in enumerate([("get", "/echo"), ("put", "/other/1"), ("get", "/other/2")], 2):
            [(topic, answer)] = desk.ask(each, resource, ident)
            assert (topic, answer["code"], answer["data"]) == ("caller", 423, {"message": "resource is locked"})

    def test_a_read_locks_nothing(self, desk: Desk) -> None:
        tunnel = desk.join("echo", "/echo")
        for ident, method in enumerate(("get", "get", "put"), 1):
            assert desk.ask(method, "/echo", ident)[0][0] == tunnel

    def test_the_answer_releases_the_lock(self, desk: Desk) -> None:
        tunnel = desk.join("echo", "/echo")
        desk.ask("put", "/echo", 1)
        desk.answer(1)
        assert desk.ask("put", "/echo", 2)[0][0] == tunnel

    def test_other_models_are_not_locked(self, desk: Desk) -> None:
        desk.join("echo", "/echo")
        other = desk.join("other", "/other")
        desk.ask("put", "/echo", 1)
        assert desk.ask("put", "/other", 2)[0][0] == other

    def test_a_request_to_several_models_meets_the_lock_of_one(self, desk: Desk) -> None:
        desk.join("one", "/one", "/both")
        desk.join("two", "/both")
        desk.ask("put", "/one", 1)
        assert desk.ask("get", "/both", 2)[0][1]["code"] == 423

    def test_a_refused_request_is_not_in_flight(self, desk: Desk) -> None:
        tunnel = desk.join("echo", "/echo")
        desk.ask("put", "/echo", 1)
        desk.ask("put", "/echo", 2)
        desk.answer(1)
        assert desk.ask("put", "/echo", 2)[0][0] == tunnel

    def test_the_423_of_a_plain_request_reaches_the_views(self, desk: Desk) -> None:
        desk.join("echo", "/echo")
        view = desk.join("screen", "/echo", role="view")
        desk.ask("put", "/echo", 1)
        assert [(topic, answer["code"]) for topic, answer in desk.ask("get", "/echo", 2, None)] == [(view, 423)]

    def test_the_built_in_models_are_never_locked(self, desk: Desk) -> None:
        desk.join("echo", "/echo")
        desk.ask("put", "/echo", 1)
        assert desk.register("other", "/echo")["code"] == 200
        assert desk.ask("delete", "/controller/registration/echo", 2)[0][1]["code"] == 200


class TestTimeToLive:
    def test_a_model_that_does_not_answer_is_408_for_the_caller(self, desk: Desk) -> None:
        desk.join("echo", "/echo", ttl=10)
        desk.ask("get", "/echo", 5)
        assert desk.core.deadline == desk.now + 10
        assert desk.tick(9.9) == []
        [(topic, answer)] = desk.tick(0.1)
        assert (topic, answer["id"], answer["code"], answer["sign"]) == ("caller", 5, 408, ["controller"])
        assert desk.core.deadline is None and desk.core.in_flight == 0

    def test_the_end_of_the_ttl_releases_the_lock_and_the_late_answer_is_dropped(self, desk: Desk) -> None:
        tunnel = desk.join("echo", "/echo", ttl=10)
        desk.ask("put", "/echo", 1)
        desk.tick(10)
        assert desk.answer(1) == []
        assert desk.ask("put", "/echo", 2)[0][0] == tunnel

    def test_the_408_of_a_plain_request_reaches_the_views(self, desk: Desk) -> None:
        desk.join("echo", "/echo", ttl=10)
        view = desk.join("screen", "/echo", role="view")
        desk.ask("get", "/echo", tunnel=None)
        assert [(topic, answer["code"]) for topic, answer in desk.tick(10)] == [(view, 408)]

    def test_without_a_ttl_a_model_has_60_seconds(self, desk: Desk) -> None:
        desk.ask("post", "/controller/registration", data={"name": "echo", "role": "model", "resources": "/echo"})
        desk.ask("get", "/echo", 2)
        assert desk.core.deadline == desk.now + 60

    def test_the_shortest_ttl_of_several_models_counts(self, desk: Desk) -> None:
        desk.join("one", "/echo", ttl=20)
        desk.join("two", "/echo", ttl=5)
        desk.ask("get", "/echo")
        desk.answer(name="two")
        assert desk.tick(5)[0][1]["code"] == 408

    def test_each_request_has_its_own_deadline(self, desk: Desk) -> None:
        desk.join("echo", "/echo", ttl=10)
        desk.ask("get", "/echo", 1)
        desk.tick(4)
        desk.ask("get", "/echo", 2)
        assert [answer["id"] for _, answer in desk.tick(6)] == [1]
        assert desk.core.deadline == desk.now + 4

    def test_an_answered_request_never_times_out(self, desk: Desk) -> None:
        desk.join("echo", "/echo", ttl=10)
        desk.ask("get", "/echo", 1)
        desk.answer(1)
        assert desk.tick(60) == []


class TestWhatIsDropped:
    @pytest.mark.parametrize(
        "payload",
        [
            b"",
            b"\x00\xff",
            b"not json",
            b"[]",
            b"5",
            b'"text"',
            b"null",
            b"[" * 100_000,
            b'{"id":NaN,"method":"get","resource":"/echo"}',
            b'{"id":1,"method":5,"resource":"/echo","tunnel":"t"}',
            b'{"id":1,"method":"get","resource":{},"tunnel":"t"}',
            b'{"id":1,"method":"get","resource":"\\ud800","tunnel":"t"}',
            b'{"id":1,"method":"get","tunnel":"t"}',
            b'{"id":1}',
        ],
    )
    def test_what_is_no_message_is_dropped(self, desk: Desk, payload: bytes) -> None:
        desk.join("echo", "/echo")
        desk.join("screen", "/echo", role="view")
        assert desk.send_bytes(payload) == []

    def test_a_message_of_1_mib_is_dropped_and_one_byte_less_is_carried(self, desk: Desk) -> None:
        tunnel = desk.join("echo", "/echo")
        head, tail = b'{"id":1,"method":"get","resource":"/echo","tunnel":"caller","data":"', b'"}'
        filling = MAX_MESSAGE - len(head) - len(tail)
        assert desk.send_bytes(head + b"x" * filling + tail) == []
        assert desk.send_bytes(head + b"x" * (filling - 1) + tail)[0][0] == tunnel

    @pytest.mark.parametrize("tunnel", ["t" * 64, "é" * 32, "", "a/+", "#", "a\x00", "a\n", "\x7f", "\ufffe", 5, []])
    def test_a_request_with_an_unusable_tunnel_is_dropped(self, desk: Desk, tunnel: Any) -> None:
        desk.join("echo", "/echo")
        assert desk.ask("get", "/echo", 1, tunnel) == []
        assert desk.ask("get", "/none", 1, tunnel) == []

    def test_a_tunnel_of_63_bytes_is_used(self, desk: Desk) -> None:
        assert desk.ask("get", "/none", 1, "t" * 63)[0][0] == "t" * 63

    @pytest.mark.parametrize(
        "more",
        [
            {"sign": ["x"]},  # a HOOK
            {"sign": ["x"], "tunnel": "t"},
            {"code": 200},
            {"code": 200, "tunnel": "t"},
            {"code": 200, "sign": ["echo"], "tunnel": "t"},
        ],
    )
    def test_mixtures_that_are_no_type_are_dropped(self, desk: Desk, more: dict[str, Any]) -> None:
        desk.join("echo", "/echo")
        desk.ask("get", "/echo", 1)
        assert desk.send(id=1, method="get", resource="/echo", **more) == []
        assert desk.core.in_flight == 1

    def test_false_and_null_count_as_absent(self, desk: Desk) -> None:
        tunnel = desk.join("echo", "/echo")
        out = desk.send(id=1, method="get", resource="/echo", code=False, sign=None, tunnel="caller")
        assert out[0][0] == tunnel

    @settings(deadline=None, max_examples=300)
    @given(st.binary(max_size=200))
    def test_no_bytes_can_raise(self, payload: bytes) -> None:
        Desk().send_bytes(payload)

    @settings(deadline=None, max_examples=150)
    @given(st.lists(MESSAGES, max_size=3))
    def test_no_message_can_raise_or_name_an_impossible_topic(self, messages: list[dict[str, Any]]) -> None:
        desk = Desk()
        desk.join("echo", "/echo", ttl=1)
        for message in messages:
            for topic, payload in desk.send_bytes(json.dumps(message).encode()):
                assert topic and not set("+#\x00\n") & set(topic)
                assert len(topic.encode()) <= 63 and json.loads(payload)
        desk.tick(1000)

    def test_the_reason_is_told(self) -> None:
        with pytest.raises(ValueError, match="tunnel has more than 63 bytes"):
            decode(json.dumps({"id": 1, "method": "get", "resource": "/", "tunnel": "t" * 64}).encode())


# Over a broker


class Client:
    """An MQTT client that collects what arrives on its topic."""

    def __init__(self, port: int, topic: str) -> None:
        self.topic = topic
        self.inbox: queue.Queue[dict[str, Any]] = queue.Queue()
        subscribed = threading.Event()
        self._client = paho.Client()
        self._client.on_connect = lambda client, *_: client.subscribe(self.topic, qos=1)
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.on_message = lambda _, __, message: self.inbox.put(json.loads(message.payload))
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert subscribed.wait(TIMEOUT)

    def publish(self, message: dict[str, Any] | bytes, topic: str = "/controller") -> None:
        payload = message if isinstance(message, bytes) else json.dumps(message).encode()
        self._client.publish(topic, payload, qos=1)

    def get(self) -> dict[str, Any]:
        return self.inbox.get(timeout=TIMEOUT)

    def ask(self, method: str, resource: str, ident: int, topic: str = "/controller", **more: Any) -> dict[str, Any]:
        self.publish({"id": ident, "method": method, "resource": resource, "tunnel": self.topic, **more}, topic)
        answer = self.get()
        assert answer["id"] == ident
        return answer

    def listen(self, name: str, role: str, *resources: str, ident: int, ttl: float = 10) -> str:
        """Register a component; what its tunnel gets comes into the same inbox."""
        data = {"name": name, "role": role, "tunnel": self.topic, "resources": resources, "ttl": ttl}
        answer = self.ask("post", "/controller/registration", ident, data=data)
        assert answer["code"] == 200, answer
        subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.subscribe(answer["data"]["tunnel"], qos=1)
        assert subscribed.wait(TIMEOUT)
        tunnel: str = answer["data"]["tunnel"]
        return tunnel

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@contextlib.contextmanager
def controller_on(broker: BrokerProcess, local_id: str | None = None) -> Iterator[Controller]:
    """A controller on a loop in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="controller-loop")
    thread.start()
    try:
        controller = Controller(broker.address, local_id=local_id)
        asyncio.run_coroutine_threadsafe(controller.start(TIMEOUT), loop).result(TIMEOUT)
        yield controller
        asyncio.run_coroutine_threadsafe(controller.close(), loop).result(TIMEOUT)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


BUNDLE = """
import inspect, re, sys, threading
import sanji.core, sanji.router

def compile_resource(resource):  # the SDK's own has a bad escape
    named = re.sub(r":(\\w+)", lambda match: "(?P<%s>[\\\\w-]+?)" % match.group(1), resource)
    return re.compile("^" + sanji.router.trim_resource(named) + r"(\\?(?P<querystring>.*))?$")

sanji.router.compile_resource = compile_resource
inspect.getargspec = inspect.getfullargspec  # gone since Python 3.11

from sanji.bundle import Bundle
from sanji.connection.mqtt import Mqtt
from sanji.core import Route, Sanji

class Echo(Sanji):
    def init(self, *args, **kwargs):
        self.reg_delay = 0
        self.go_on = threading.Event()

    def run(self):
        print("ready", flush=True)

    @Route(methods="get", resource="/echo/:name")
    def get(self, message, response):
        response(code=200, data={"name": message.param["name"], "query": message.query})

    @Route(methods="post", resource="/echo")
    def post(self, message, response):
        print("working", flush=True)
        self.go_on.wait(10)
        response(code=201, data=message.data)

    @Route(methods="get", resource="/silent")
    def silent(self, message, response):
        print("silent", flush=True)

    @Route(methods="put", resource="/notify")
    def notify(self, message, response):
        self.publish.event.put("/alarms/1", data={"level": 3})
        response(code=200)

    @Route(methods="put", resource="/alarms/:id")
    def alarm(self, message):
        print("alarm", message.param["id"], message.data["level"], flush=True)

def listen():
    for line in sys.stdin:
        echo.go_on.set()
    echo.stop_event.set()

connection = Mqtt(broker_host="127.0.0.1", broker_port=int(sys.argv[1]))
echo = Echo(connection=connection, bundle=Bundle(bundle_dir=sys.argv[2]))
threading.Thread(target=listen, daemon=True).start()
echo.start()
"""

PROFILE = {
    "name": "echo",
    "version": "1.0.0",
    "description": "answers",
    "role": "model",
    "ttl": 2,
    "resources": [
        {"resource": "/echo", "methods": ["post"]},
        {"resource": "/echo/:name", "methods": ["get"]},
        {"resource": "/silent", "methods": ["get"]},
        {"resource": "/notify", "methods": ["put"]},
        {"resource": "/alarms/:id", "role": "view", "methods": ["put"]},
    ],
}


class BundleProcess:
    """A bundle of the stock SDK in a process of its own, which tells what it does line by line."""

    def __init__(self, folder: Path, port: int) -> None:
        (folder / "bundle.json").write_text(json.dumps(PROFILE), encoding="utf-8")
        script = folder / "echo.py"
        script.write_text(BUNDLE, encoding="utf-8")
        command = [sys.executable, str(script), str(port), str(folder)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True)
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, name="bundle-output", daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.strip())

    def expect(self, line: str) -> None:
        assert self._lines.get(timeout=TIMEOUT) == line

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def broker() -> Iterator[BrokerProcess]:
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    with BrokerProcess() as broker:
        yield broker


@pytest.fixture(scope="module")
def controller(broker: BrokerProcess) -> Iterator[Controller]:
    with controller_on(broker, local_id="cg-1") as controller:
        yield controller


@pytest.fixture(scope="module")
def bundle(controller: Controller, broker: BrokerProcess, tmp_path_factory: Any) -> Iterator[BundleProcess]:
    bundle = BundleProcess(tmp_path_factory.mktemp("bundle"), broker.port)
    bundle.expect("ready")
    yield bundle
    bundle.kill()


@pytest.fixture
def client(controller: Controller, broker: BrokerProcess, request: pytest.FixtureRequest) -> Iterator[Client]:
    client = Client(broker.port, f"caller-{os.getpid()}-{abs(hash(request.node.name)) % 10_000}")
    yield client
    client.close()


class TestOverABroker:
    def test_a_bundle_of_the_stock_sdk_registers_and_answers(self, bundle: BundleProcess, client: Client) -> None:
        answer = client.ask("get", "/echo/bob?loud=yes&quiet", 1_000_001)
        assert answer["code"] == 200 and answer["sign"] == ["echo"]
        assert answer["data"] == {"name": "bob", "query": {"loud": "yes", "quiet": True}}
        shown = client.ask("get", "/controller/registration/echo", 1_000_002)["data"]
        assert shown["ttl"] == 2 and "/echo/+" in shown["resources"]

    def test_the_local_topic_is_served_too(self, bundle: BundleProcess, client: Client) -> None:
        answer = client.ask("get", "/echo/bob", 1_000_003, topic="/cg-1/controller")
        assert answer["data"]["name"] == "bob"

    def test_a_post_locks_until_the_bundle_answers(self, bundle: BundleProcess, client: Client) -> None:
        post = {"id": 1_000_010, "method": "post", "resource": "/echo", "data": {"a": 1}, "tunnel": client.topic}
        client.publish(post)
        bundle.expect("working")
        assert client.ask("get", "/silent", 1_000_011)["data"] == {"message": "resource is locked"}
        assert client.ask("post", "/echo", 1_000_012)["code"] == 423
        assert client.ask("get", "/echo/x", 1_000_014)["code"] == 423
        bundle.go_on()
        answer = client.get()
        assert (answer["id"], answer["code"], answer["data"]) == (1_000_010, 201, {"a": 1})
        assert client.ask("get", "/echo/x", 1_000_013)["code"] == 200

    def test_an_id_in_flight_is_refused_and_the_silent_model_times_out(
        self, bundle: BundleProcess, client: Client
    ) -> None:
        client.publish({"id": 1_000_020, "method": "get", "resource": "/silent", "tunnel": client.topic})
        bundle.expect("silent")
        assert client.ask("get", "/echo/x", 1_000_020)["data"] == {"message": "'id' was used"}
        assert client.get()["code"] == 408

    def test_an_event_reaches_the_views_of_sdk_and_client(self, bundle: BundleProcess, client: Client) -> None:
        client.listen("screen", "view", "/alarms/+", ident=1_000_030)
        client.publish({"id": 1_000_031, "method": "put", "resource": "/notify", "tunnel": client.topic})
        got = {message.get("id", "event"): message for message in (client.get(), client.get())}
        assert got[1_000_031]["code"] == 200
        assert got["event"] == {"code": 200, "method": "put", "resource": "/alarms/1", "data": {"level": 3}}
        bundle.expect("alarm 1 3")

    def test_a_plain_request_is_answered_to_the_views(self, bundle: BundleProcess, client: Client) -> None:
        client.listen("terminal", "view", "/echo/+", ident=1_000_040)
        client.publish({"id": 1_000_041, "method": "get", "resource": "/echo/ann"})
        assert client.get()["data"]["name"] == "ann"

    def test_a_second_bundle_of_the_name_is_refused(self, bundle: BundleProcess, client: Client) -> None:
        data = {"name": "echo", "role": "model", "tunnel": "t", "resources": ["/x"], "ttl": 1}
        assert client.ask("post", "/controller/registration", 1_000_050, data=data)["code"] == 403

    def test_an_answer_of_900_kb_arrives_and_a_request_of_1_mib_never_does(self, client: Client) -> None:
        model = client.listen("big", "model", "/big", ident=1_000_060)
        assert model.isdigit()
        request = {"id": 1_000_061, "method": "get", "resource": "/big", "tunnel": client.topic}
        client.publish({**request, "data": "x" * MAX_MESSAGE})
        client.publish(request)
        assert client.get() == request
        answer = {"id": 1_000_061, "code": 200, "method": "get", "resource": "/big", "sign": ["big"]}
        client.publish({**answer, "data": "y" * 900_000})
        assert len(client.get()["data"]) == 900_000

    def test_200_pieces_of_garbage_do_not_stop_it(self, bundle: BundleProcess, client: Client) -> None:
        for payload in garbage(seed=20240611, count=200):
            client.publish(payload)
        assert client.ask("get", "/echo/still", 1_000_070)["data"]["name"] == "still"

    def test_parallel_posts_to_one_model_get_423_but_for_one(self, client: Client) -> None:
        client.listen("slow", "model", "/slow", ident=1_000_080)
        for ident in range(1_000_081, 1_000_091):
            client.publish({"id": ident, "method": "post", "resource": "/slow", "tunnel": client.topic})
        got = [client.get() for _ in range(10)]
        assert [message.get("code") for message in got].count(423) == 9
        assert [message["id"] for message in got if "code" not in message] == [1_000_081]

    def test_registrations_outlive_the_broker(self, tmp_path: Path) -> None:
        with BrokerProcess() as broker, controller_on(broker) as controller:
            first = Client(broker.port, "first")
            first.listen("early", "model", "/early", ident=1)
            first.close()
            broker.restart()
            second = Client(broker.port, "second")
            shown = ask_until_served(second, "/controller/registration/early")
            second.close()
            assert shown["code"] == 200 and controller.core.components[0].name == "early"

    def test_without_a_broker_start_says_so(self) -> None:
        async def scene() -> None:
            await Controller(BrokerAddress(host="127.0.0.1", port=1)).start(timeout=0.3)

        with pytest.raises(BusError, match="no connection to the broker"):
            asyncio.run(scene())

    @pytest.mark.parametrize("local_id", ["", "a/b", "+", "a\n"])
    def test_a_local_id_that_is_no_level_of_a_topic_is_refused(self, local_id: str) -> None:
        with pytest.raises(ValueError, match="level of a topic"):
            Controller(BrokerAddress(), local_id=local_id)


def garbage(seed: int, count: int) -> Iterator[bytes]:
    """Random bytes, broken JSON and JSON of every wrong shape."""
    chance = random.Random(seed)
    values: list[Any] = [None, True, -1, 0, 5, 1e300, "", "x" * 2000, "\x00", [], {}, [[]], {"id": 1}, "/echo", "post"]
    names = ["id", "code", "method", "resource", "sign", "tunnel", "data", "match", "_type"]
    for _ in range(count):
        shape = {name: chance.choice(values) for name in chance.sample(names, chance.randrange(len(names)))}
        text = json.dumps(chance.choice([shape, [shape], {**shape, "id": 7, "method": "get", "resource": "/echo/x"}]))
        yield chance.choice(
            [
                text.encode(),
                text[: chance.randrange(len(text))].encode(),
                chance.randbytes(chance.randrange(300)),
                b"[" * chance.randrange(5000),
            ]
        )


def ask_until_served(client: Client, resource: str) -> dict[str, Any]:
    """Ask again and again: after a broken connection the controller comes back when it has connected."""
    for ident in range(1_100_000, 1_100_000 + int(TIMEOUT / 0.1)):
        client.publish({"id": ident, "method": "get", "resource": resource, "tunnel": client.topic})
        with contextlib.suppress(queue.Empty):
            return client.inbox.get(timeout=0.1)
    raise AssertionError("the controller did not come back")
