"""A real broker, and a stub that plays controller and bundle on it."""

import json
import os
import threading

import paho.mqtt.client as paho
import pytest

from puppetmaster.address import BrokerAddress
from puppetmaster.embedded.broker import BrokerProcess


class Stub:
    """Answers DIRECT messages on /controller with what ``answer`` says; remembers them in ``seen``.

    ``answer(message)`` gives a code and data (none: no data), or nothing for silence.
    """

    def __init__(self, address):
        self.address = address
        self.seen = []
        self.answer = lambda message: (404, None)
        self._ready = threading.Event()
        self._retained = set()
        self._client = paho.Client("stub-bundle")
        self._client.on_subscribe = lambda *args: self._ready.set()
        self._client.on_message = self._received
        self._client.connect(address.host, address.port)
        self._client.subscribe("/controller", 1)
        self._client.loop_start()
        assert self._ready.wait(10)

    def _received(self, client, userdata, packet):
        message = json.loads(packet.payload)
        self.seen.append(message)
        answer = self.answer(message)
        if answer is not None:
            self.respond(message, *answer)

    def respond(self, message, code, data=None, **fields):
        answer = {key: message[key] for key in ("id", "method", "resource")}
        answer.update(code=code, sign=["stub"], **({} if data is None else {"data": data}), **fields)
        self.publish(message["tunnel"], answer)

    def publish(self, topic, document, retain=False):
        payload = document if isinstance(document, bytes) else json.dumps(document).encode()
        if retain:
            self._retained.add(topic)
        return self._client.publish(topic, payload, qos=1, retain=retain)

    def job_changes(self, job, instance="main"):
        """Publish a job as its bundle does."""
        self.publish(f"/puppetmaster/{instance}/jobs/{job['id']}", job, retain=True)

    def close(self):
        for topic in self._retained:
            self._client.publish(topic, b"", qos=1, retain=True).wait_for_publish()
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture(autouse=True)
def no_settings_of_ours(tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.startswith(("PUPPETMASTER_", "BROKER_PORT_")):
            monkeypatch.delenv(name)
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)


@pytest.fixture(scope="module")
def broker():
    with BrokerProcess() as process:
        yield process.address


@pytest.fixture
def stub(broker):
    stub = Stub(broker)
    yield stub
    stub.close()


@pytest.fixture
def free_address():
    """The address of a broker that is not there."""
    from puppetmaster.embedded.broker import free_port

    return BrokerAddress(host="127.0.0.1", port=free_port())


def make_job(job_id=1_000_000, status="dispatching", **counts):
    """A job as it comes over the bus, with so many requests in each status."""
    every = dict.fromkeys(("created", "sent", "running", "resolved", "error", "timeout", "canceled"), 0) | counts
    total = sum(every.values())
    finished = every["resolved"]
    errors = every["error"] + every["timeout"] + every["canceled"]
    ended = status in ("resolved", "canceled", "aborted", "timeout")
    return {
        "id": job_id,
        "name": None,
        "labels": [],
        "createdAt": "2026-01-31T12:00:00.000Z",
        "startAt": None,
        "startedAt": "2026-01-31T12:00:00.000Z",
        "finishedAt": "2026-01-31T12:00:02.500Z" if ended else None,
        "timeout": None,
        "priority": 50,
        "concurrency": None,
        "retry": {"limit": 3, "delay": 1, "factor": 2, "maxDelay": 60, "jitter": 0.5, "on": [423, 429, 503]},
        "rate": None,
        "abort": None,
        "status": status,
        "reason": "for the test",
        "progress": 100 * (finished + errors) // total if total else 0,
        "totalCount": total,
        "finishCount": finished,
        "errorCount": errors,
        "doneCount": finished + errors,
        "counts": every,
    }
