"""A whole installation for one test: Mosquitto, a controller, the bundle and simulated devices, each a process.

::

    with Stand(tmp_path) as stand:                        # broker (default limits), controller, bundle: all ready
        fleet = stand.fleet("dev", 200, latency="0.1")    # devices dev-0001 ... dev-0200, listening
        job = stand.create_job({"destinations": fleet.names, "message": {"method": "post", "resource": "/reboot"}})
        job = stand.wait_job(job["id"])                   # the job when it has ended
        assert stand.work()[0]["device"] == "dev-0001"    # what the devices did

What there is, and stays as it is:

=================================== ====================================================================================
``Stand(folder, ...)``              ``settings`` as keywords become ``PUPPETMASTER_*`` of the bundle (``window=100``);
                                    ``persistence=True``, ``broker_extra=[lines]`` for Mosquitto; ``start=False`` and
                                    then ``stand.start()`` or part by part
``stand.broker|controller|bundle``  parts: ``start() stop() kill() restart() running pid``; ``start`` and ``restart``
                                    return when the part is ready, with ``wait=False`` at once; ``bundle.log()`` its log
``stand.fleet(name, n, ...)``       a fleet, a part as well: ``names``, ``work()``, ``counts()``; ``stop()`` counts too;
                                    ``names=[...]`` instead of a number; options as of ``puppetmaster simulate``
``stand.ready()``                   returns when the bundle answers through the controller and is on the data plane
``stand.ask(method, resource, data, timeout)``  ``(code, data)``; 423 and an id in flight are tried again, a GET without
                                    an answer too; ``NoAnswer`` when there is none in time
``stand.exchange(...)``             the same with all of the answer: ``code data message payload``
``stand.create_job job update_job remove_job requests run_job wait_job``  see each; they assert that the answer is 200
``stand.create_request request cancel_request``  the same for one request
``stand.edge``                      ``"bus"``; as ``"http"`` all of the calls above go over HTTP (with ``http=True``)
``stand.http(method, path, ...)``   one HTTP call, as of httpx; ``stand.site`` is the address (with ``http=True``)
``stand.publish(topic, payload, retain)``  on the bus, QoS 1; returns when the broker has it
``stand.listen(topic)``             a :class:`Listener`: everything on a topic (wildcards allowed) from now on
``stand.work(job)``                 all fleets' journals of work, or of one job only
``stand.logs()``                    the tails of all logs; printed when a test fails
=================================== ====================================================================================

Only processes that were started here are ended here, and they end with this process, however it ends. Start parts from
the main thread: for Linux the end of the thread that forked is the end of the parent. ``ask`` and all that is built on
it may be called from any thread.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from json import dumps
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import httpx
from paho.mqtt import client as paho

from puppetmaster.cli.processes import PARENT_ENV
from puppetmaster.embedded.broker import BrokerProcess, free_port
from puppetmaster.embedded.devices import read_log

REPOSITORY = Path(__file__).resolve().parents[2]

PATIENCE = 120.0
"""Seconds for anything to happen: nothing is expected to take that long, on the slowest machine."""

STOP_TIMEOUT = 20.0
"""Seconds from TERM to KILL."""

ASK_AGAIN = 3.0
"""Seconds without an answer after which a GET is asked once more."""

TRUST = ssl.create_default_context()
"""Made once: the certificates of the system take their time to be read."""

FINAL = frozenset({"resolved", "canceled", "aborted", "timeout"})
"""The statuses of a job that has ended."""

Document = dict[str, Any]


class NoAnswer(AssertionError):
    """Raised when nobody answered in time."""


# The bus


@dataclass(frozen=True)
class Heard:
    """A message from the bus."""

    topic: str
    payload: bytes
    retained: bool
    """Whether it lay at the broker before we subscribed."""
    at: float
    """When it came, on the monotonic clock."""

    @cached_property
    def data(self) -> Any:
        """The payload, which is JSON; read once, however often a wait looks through all that came."""
        return json.loads(self.payload)


class Listener:
    """Everything that came on a topic since :meth:`Stand.listen`."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.messages: list[Heard] = []
        self._news = threading.Condition()

    def put(self, heard: Heard) -> None:
        with self._news:
            self.messages.append(heard)
            self._news.notify_all()

    def since(self, mark: int) -> list[Heard]:
        """The messages after the first ``mark``."""
        with self._news:
            return self.messages[mark:]

    def wait(self, predicate: Callable[[Heard], object] = bool, timeout: float = PATIENCE, *, mark: int = 0) -> Heard:
        """The first message after the first ``mark`` for which ``predicate`` holds."""
        found: list[Heard] = []

        def look() -> bool:
            nonlocal mark
            fresh = self.messages[mark:]
            mark += len(fresh)
            found.extend(heard for heard in fresh if predicate(heard))
            return bool(found)

        with self._news:
            if not self._news.wait_for(look, timeout):
                last = self.messages[-1] if self.messages else None
                raise NoAnswer(f"not heard on {self.topic} within {timeout:g} s; the last message: {last!r:.2000}")
        return found[0]

    def wait_until(self, predicate: Callable[[list[Heard]], object], timeout: float = PATIENCE) -> list[Heard]:
        """All messages, once ``predicate`` holds for the list of them."""
        with self._news:
            if not self._news.wait_for(lambda: predicate(self.messages), timeout):
                last = self.messages[-1] if self.messages else None
                raise NoAnswer(
                    f"{len(self.messages)} messages on {self.topic} in {timeout:g} s; the last: {last!r:.2000}"
                )
            return list(self.messages)


@dataclass(frozen=True)
class Answer:
    """An answer through the controller."""

    code: int
    data: Any
    message: Document
    payload: bytes


class Wire:
    """One long-lived connection to the broker: paho, so that nothing of the product tests itself."""

    def __init__(self, port: int) -> None:
        name = secrets.token_hex(4)
        self.tunnel = f"/stand/{name}"
        self.connected = threading.Event()
        self._port = port
        self._listeners: list[Listener] = []
        self._subscribed: set[int] = set()
        self._asked: dict[int, list[Answer]] = {}
        self._news = threading.Condition()
        self._ids = count(800_000)
        self._client = paho.Client(f"stand-{name}")
        self._client.max_inflight_messages_set(1000)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_socket_open = lambda client, data, sock: sock.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
        )
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = lambda client, data, code: self.connected.clear()
        self._client.on_subscribe = lambda client, data, mid, qos: self._on_subscribe(mid)
        self._client.on_message = self._on_message

    def start(self) -> None:
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        assert self.connected.wait(PATIENCE), "no connection to the broker"

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def publish(
        self, topic: str, payload: bytes | str, *, retain: bool = False, qos: int = 1, wait: bool = True
    ) -> None:
        info = self._client.publish(topic, payload, qos=qos, retain=retain)
        if wait:
            deadline = time.monotonic() + PATIENCE
            while not info.is_published():  # paho 1.5 has no timeout for its own wait
                assert time.monotonic() < deadline, f"the broker did not take the message on {topic}"
                time.sleep(0.001)

    def listen(self, topic: str) -> Listener:
        listener = Listener(topic)
        self._listeners.append(listener)
        result, mid = self._client.subscribe(topic, qos=1)
        if result == paho.MQTT_ERR_SUCCESS:
            with self._news:
                confirmed = self._news.wait_for(lambda: mid in self._subscribed, PATIENCE)
            assert confirmed or not self.connected.is_set(), f"no subscription to {topic}"
        return listener

    def exchange(self, method: str, resource: str, data: Any, timeout: float) -> Answer:
        deadline = time.monotonic() + timeout
        answers: list[Answer] = []
        idents: list[int] = []
        try:
            while True:
                idents.append(self._send(method, resource, data, answers))
                left = deadline - time.monotonic()
                with self._news:
                    self._news.wait_for(lambda: answers, min(left, ASK_AGAIN) if method == "get" else left)
                if answers:
                    return answers[0]
                if time.monotonic() >= deadline:
                    raise NoAnswer(f"no answer to {method} {resource} within {timeout:g} s")
        finally:
            for ident in idents:
                self._asked.pop(ident, None)

    def _send(self, method: str, resource: str, data: Any, answers: list[Answer]) -> int:
        ident = next(self._ids)
        message = {"id": ident, "method": method, "resource": resource, "tunnel": self.tunnel}
        if data is not None:
            message["data"] = data
        self._asked[ident] = answers
        self._client.publish("/controller", json.dumps(message), qos=1)
        return ident

    # What paho calls, in its thread

    def _on_connect(self, client: object, userdata: object, flags: object, code: int) -> None:
        if code != 0:
            return
        for topic in {self.tunnel, *(listener.topic for listener in self._listeners)}:
            self._client.subscribe(topic, qos=1)
        self.connected.set()

    def _on_subscribe(self, mid: int) -> None:
        with self._news:
            self._subscribed.add(mid)
            self._news.notify_all()

    def _on_message(self, client: object, userdata: object, message: Any) -> None:
        heard = Heard(message.topic, bytes(message.payload), bool(message.retain), time.monotonic())
        if heard.topic == self.tunnel:
            self._on_answer(heard)
        for listener in self._listeners:
            if paho.topic_matches_sub(listener.topic, heard.topic):
                listener.put(heard)

    def _on_answer(self, heard: Heard) -> None:
        message = heard.data
        with self._news:
            answers = self._asked.get(message.get("id"))
            if answers is not None:
                answers.append(Answer(message["code"], message.get("data"), message, heard.payload))
                self._news.notify_all()


# The parts


class Part:
    """A process. ``ready`` is called with a mark of :meth:`_mark` after the start, and returns when it works."""

    def __init__(
        self, stand: Stand, name: str, command: Sequence[str], env: dict[str, str], *, cwd: Path | None = None
    ) -> None:
        self.stand, self.name = stand, name
        self.command, self.env = list(command), env
        self.log_path = stand.folder / f"{name}.log"
        self.out_path = stand.folder / f"{name}.out"
        self._cwd = cwd or stand.folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self.running else None

    @property
    def returncode(self) -> int | None:
        """The exit code of the last process; none while it runs."""
        return self._process.poll() if self._process is not None else None

    def start(self, *, wait: bool = True) -> None:
        assert not self.running, f"the {self.name} runs already"
        mark = self._mark()
        with self.log_path.open("ab") as log, self.out_path.open("ab") as out:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                cwd=self._cwd,
                env={**self.env, PARENT_ENV: str(os.getpid())},
                start_new_session=True,
            )
        if wait:
            self._wait_until_ready(mark)

    def stop(self) -> None:
        """End it with TERM; it is given 20 s for its goodbyes."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it with KILL."""
        self._end(signal.SIGKILL)

    def restart(self, *, wait: bool = True, kill: bool = False) -> None:
        self._end(signal.SIGKILL if kill else signal.SIGTERM)
        self.start(wait=wait)

    def signal(self, number: signal.Signals) -> None:
        """Send it any signal (SIGSTOP, SIGCONT)."""
        assert self._process is not None
        self._process.send_signal(number)

    def check(self) -> None:
        assert self.running, f"the {self.name} ended with status {self.returncode}:\n{self.log()[-3000:]}"

    def log(self) -> str:
        """All that it logged, in all its lives."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        if self.running:
            self._process.send_signal(number)
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _mark(self) -> int:
        return 0

    def _wait_until_ready(self, mark: int) -> None: ...


class Controller(Part):
    """``python -m puppetmaster controller``; ready when it answers."""

    def _wait_until_ready(self, mark: int) -> None:
        self.stand.until_answered(self, "/controller/registration", lambda code: True)


class BundleProcess(Part):
    """``python index.py``; ready when it answers through the controller, and its data plane is online."""

    def _mark(self) -> int:
        return len(self.stand.presence.messages)

    def _wait_until_ready(self, mark: int) -> None:
        self.stand.until_heard(self, self.stand.presence, lambda heard: heard.data["connection"] == "online", mark)
        self.stand.until_answered(self, "/jobs?limit=0", lambda code: code == 200)


class Fleet(Part):
    """``python -m puppetmaster simulate``; ready when its devices listen."""

    names: list[str]
    work_path: Path
    told: Listener

    def work(self) -> list[Document]:
        """The devices' journal of work: ``device id method resource data startedAt finishedAt outcome``."""
        return read_log(self.work_path) if self.work_path.exists() else []

    def counts(self) -> dict[str, int]:
        """What happened so far, as of its last word (it speaks every second); after ``stop`` all of it.

        The names are those of :meth:`puppetmaster.embedded.devices.Fleet.counts`.
        """
        if not self.running and self.out_path.stat().st_size:
            return json.loads(self.out_path.read_text())  # type: ignore[no-any-return]
        return dict(self.told.messages[-1].data)

    def wait_counts(self, predicate: Callable[[dict[str, int]], object], timeout: float = PATIENCE) -> dict[str, int]:
        """The counts, once the predicate holds for them."""
        return dict(self.told.wait(lambda heard: predicate(heard.data), timeout).data)

    def _mark(self) -> int:
        self.out_path.unlink(missing_ok=True)
        return len(self.told.messages)

    def _wait_until_ready(self, mark: int) -> None:
        # What is retained is from an earlier life.
        self.stand.until_heard(self, self.told, lambda heard: not heard.retained, mark)


class Broker:
    """Mosquitto, with its own limits."""

    def __init__(self, stand: Stand, persistence: bool, extra: Sequence[str]) -> None:
        self.name = "broker"
        self.log_path = stand.folder / "broker.log"
        folder = stand.folder / "broker"
        folder.mkdir(exist_ok=True)
        lines = ["log_timestamp_format %H:%M:%S", *extra]
        self._earlier = ""
        self._stand = stand
        self._process = BrokerProcess(defaults=True, persistence=folder if persistence else None, extra=lines)
        assert self._process.kind == "mosquitto", "the system tests need mosquitto"
        self.port = self._process.port

    @property
    def running(self) -> bool:
        return self._process.running

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def start(self, *, wait: bool = True) -> None:
        self._process.start()
        if wait and self._stand.wire is not None:
            assert self._stand.wire.connected.wait(PATIENCE), "no connection to the broker"

    def stop(self) -> None:
        """End it with TERM: with ``persistence`` it saves its queues and sessions."""
        self._keep_log()
        self._process.stop()

    def kill(self) -> None:
        self._keep_log()
        self._process.kill()

    def restart(self, *, wait: bool = True, kill: bool = False) -> None:
        if kill:
            self.kill()
        self.stop()
        if self._stand.wire is not None:
            self._stand.wire.connected.clear()
        self.start(wait=wait)

    def log(self) -> str:
        """What it logged in all its lives, but for the goodbyes."""
        return self._earlier + self._process.log()

    def _keep_log(self) -> None:
        self._earlier = self.log()
        self.log_path.write_text(self._earlier, encoding="utf-8")


# All of it


class Stand:
    """See the top of this module.

    :param folder: an empty folder for the logs, the store and the journals of work.
    :param persistence: let the broker keep its queues over a clean restart.
    :param broker_extra: lines for mosquitto.conf.
    :param start: start broker, controller and bundle with the ``with`` block.
    :param http: serve HTTP, on a free port.
    :param settings: of the bundle, named as in ``puppetmaster settings``.
    """

    live: ClassVar[list[Stand]] = []
    """The ones that run, for the report of a failed test."""

    def __init__(
        self,
        folder: Path,
        *,
        persistence: bool = False,
        broker_extra: Sequence[str] = (),
        start: bool = True,
        instance: str = "stand",
        http: bool = False,
        **settings: object,
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.instance = instance
        self.data = folder / "data"
        self._start = start
        self.wire: Wire | None = None
        self.broker = Broker(self, persistence, broker_extra)
        self.port = self.broker.port
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self.fleets: dict[str, Fleet] = {}
        self.programs: dict[str, Part] = {}
        python = sys.executable
        self.controller = Controller(
            self, "controller", [python, "-m", "puppetmaster", "controller"], self.environment()
        )
        self.edge = "bus"
        self.site = ""
        if http:
            settings.setdefault("http", f"127.0.0.1:{free_port('127.0.0.1')}")
            self.site = f"{'https' if settings.get('http_cert') else 'http'}://{settings['http']}"
        own = {f"PUPPETMASTER_{name.upper()}": str(value) for name, value in settings.items()}
        env = {"PUPPETMASTER_DATA": str(self.data), "PUPPETMASTER_INSTANCE": instance, **own}
        self.bundle = BundleProcess(
            self, "bundle", [python, str(REPOSITORY / "index.py")], {**self.environment(), **env}
        )

    def environment(self) -> dict[str, str]:
        """What a part of this stand is started with: ours without its settings, and the broker."""
        foreign = ("PUPPETMASTER_", "BROKER_PORT_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        path = os.pathsep.join(filter(None, [str(REPOSITORY), kept.get("PYTHONPATH")]))
        return {**kept, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "PUPPETMASTER_BROKER": self.url}

    # Life

    def start(self) -> Stand:
        """Start broker, controller and bundle."""
        self.start_broker()
        self.controller.start()
        self.bundle.start()
        return self

    def start_broker(self) -> None:
        """Start the broker and connect to it: what ``start`` does first."""
        self.broker.start()
        self.wire = Wire(self.port)
        self.wire.start()
        self.presence = self.listen(f"/puppetmaster/{self.instance}/presence")
        self.job_changes = self.listen(f"/puppetmaster/{self.instance}/jobs/+")

    def stop(self) -> None:
        """End everything that was started here, whatever state it is in."""
        for part in [*self.programs.values(), self.bundle, self.controller, *self.fleets.values()]:
            part.signal(signal.SIGCONT) if part.running else None
            part.stop()
        if self.wire is not None:
            self.wire.close()
        self.broker.stop()

    def __enter__(self) -> Stand:
        Stand.live.append(self)
        if self._start:
            try:
                self.start()
            except BaseException as error:
                self.__exit__(type(error), error, error.__traceback__)
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        Stand.live.remove(self)
        self.stop()
        if error is not None:
            print(self.logs())

    def logs(self, lines: int = 40) -> str:
        """The last lines of every log."""
        parts: Iterable[Any] = [
            self.broker,
            self.controller,
            self.bundle,
            *self.fleets.values(),
            *self.programs.values(),
        ]
        return "\n".join("\n".join([f"----- {part.name} -----", *part.log().splitlines()[-lines:]]) for part in parts)

    # Parts

    def fleet(
        self,
        name: str,
        devices: int | None = None,
        *,
        names: Sequence[str] | None = None,
        start: bool = True,
        **behaviour: object,
    ) -> Fleet:
        """Start devices ``name-0001`` and so on, or those named; returns when they listen.

        :param behaviour: ``latency="0.1-0.5"``, shares from 0 to 1 as ``errors=0.1`` (also ``silence lost duplicates
            progress locked``), ``seed=7``.
        """
        assert name not in self.fleets, f"there is a fleet {name} already"
        if names is None:
            assert devices is not None
            width = max(4, len(str(devices)))
            names = [f"{name}-{number:0{width}d}" for number in range(1, devices + 1)]
        listed = self.folder / f"{name}.names"
        listed.write_text("".join(f"{device}\n" for device in names), encoding="utf-8")
        work = self.folder / f"{name}.work"
        command = [sys.executable, "-m", "puppetmaster", "simulate", "--names", f"@{listed}", "--work-log", str(work)]
        command += ["--counts-as", name, "--json"]
        for option, value in behaviour.items():
            command += [f"--{option}", str(value)]
        fleet = Fleet(self, name, command, self.environment())
        fleet.names, fleet.work_path, fleet.told = list(names), work, self.listen(f"/simulate/{name}")
        self.fleets[name] = fleet
        if start:
            fleet.start()
        return fleet

    def program(self, name: str, command: Sequence[str], env: dict[str, str] | None = None) -> Part:
        """Any other process, with a log, that ends with the stand. It is not waited for."""
        part = Part(self, name, command, {**self.environment(), **(env or {})})
        self.programs[name] = part
        part.start()
        return part

    def ready(self, timeout: float = PATIENCE) -> None:
        """Wait until the bundle answers through the controller, and has told that its data plane is online."""
        self.until_heard(self.bundle, self.presence, lambda heard: heard.data["connection"] == "online", 0, timeout)
        self.until_answered(self.bundle, "/jobs?limit=0", lambda code: code == 200, timeout)

    def until_answered(
        self, part: Part, resource: str, accept: Callable[[int], bool], timeout: float = PATIENCE
    ) -> None:
        """Ask until an answer with an accepted code comes, as long as the part runs."""
        assert self.wire is not None
        deadline = time.monotonic() + timeout
        while True:
            part.check()
            try:
                if accept(self.wire.exchange("get", resource, None, 0.5).code):
                    return
            except NoAnswer:
                pass
            else:
                time.sleep(0.02)  # it was answered at once
            assert time.monotonic() < deadline, f"the {part.name} was not ready within {timeout:g} s"

    def until_heard(
        self, part: Part, listener: Listener, accept: Callable[[Heard], object], mark: int, timeout: float = PATIENCE
    ) -> None:
        """Wait for a message, as long as the part runs."""
        deadline = time.monotonic() + timeout
        while True:
            part.check()
            try:
                listener.wait(accept, 0.5, mark=mark)
            except NoAnswer:
                if time.monotonic() > deadline:
                    raise
            else:
                return

    # The bus

    def ask(self, method: str, resource: str, data: Any = None, timeout: float = PATIENCE) -> tuple[int, Any]:
        """Send a DIRECT request through the controller; code and data of the answer.

        :raises NoAnswer: when there is none in time.
        """
        if self.edge == "http":
            reply = self.http(method, resource, json=data, timeout=timeout)
            return reply.status_code, reply.json() if reply.content else None
        answer = self.exchange(method, resource, data, timeout)
        return answer.code, answer.data

    def http(
        self, method: str, path: str, *, json: Any = None, timeout: float = PATIENCE, **rest: Any
    ) -> httpx.Response:
        """One HTTP call; ``rest`` as of httpx (``content``, ``headers``)."""
        if json is not None:
            rest.setdefault("content", dumps(json))
        rest.setdefault("verify", TRUST)
        return httpx.request(method.upper(), self.site + path, timeout=timeout, trust_env=False, **rest)

    def exchange(self, method: str, resource: str, data: Any = None, timeout: float = PATIENCE) -> Answer:
        """The same, with all of the answer."""
        assert self.wire is not None
        deadline = time.monotonic() + timeout
        while True:
            answer = self.wire.exchange(method, resource, data, max(deadline - time.monotonic(), 0.01))
            locked = answer.code == 423 or (answer.code == 403 and "was used" in str(answer.data))
            if not locked or time.monotonic() > deadline:
                return answer
            time.sleep(0.01)  # somebody else's write is being answered

    def publish(
        self, topic: str, payload: bytes | str | Document, *, retain: bool = False, qos: int = 1, wait: bool = True
    ) -> None:
        """Publish anything; returns when the broker has it (``wait=False``: at once)."""
        assert self.wire is not None
        encoded = json.dumps(payload) if isinstance(payload, dict) else payload
        self.wire.publish(topic, encoded, retain=retain, qos=qos, wait=wait)

    def listen(self, topic: str) -> Listener:
        """Gather what comes on a topic from now on, with what is retained there."""
        assert self.wire is not None
        return self.wire.listen(topic)

    # Jobs

    def create_job(self, document: Document, timeout: float = PATIENCE) -> Document:
        """POST /jobs; the job, ``requests`` are the ids."""
        return self._good("post", "/jobs", document, timeout)

    def update_job(self, job_id: int, **fields: Any) -> Document:
        """PUT /jobs/:id."""
        return self._good("put", f"/jobs/{job_id}", fields)

    def remove_job(self, job_id: int) -> Document:
        """DELETE /jobs/:id."""
        return self._good("delete", f"/jobs/{job_id}")

    def job(self, job_id: int, query: str = "") -> Document:
        """GET /jobs/:id, ``query`` as ``limit=10&offset=20``."""
        return self._good("get", f"/jobs/{job_id}" + (f"?{query}" if query else ""))

    def create_request(self, document: Document) -> Document:
        """POST /requests; the request."""
        return self._good("post", "/requests", document)

    def request(self, request_id: int) -> Document:
        """GET /requests/:id."""
        return self._good("get", f"/requests/{request_id}")

    def cancel_request(self, request_id: int) -> Document:
        """DELETE /requests/:id."""
        return self._good("delete", f"/requests/{request_id}")

    def requests(self, job_id: int, page: int = 500) -> list[Document]:
        """All requests of a job, page by page, in the order of their ids."""
        found: list[Document] = []
        while True:
            fresh = self.job(job_id, f"limit={page}&offset={len(found)}")["requests"]
            found += fresh
            if len(fresh) < page:
                return found

    def wait_job(
        self,
        job_id: int,
        until: Callable[[Document], object] | Iterable[str] = FINAL,
        timeout: float = PATIENCE,
    ) -> Document:
        """The job without its requests, once it has one of the statuses ``until``, or the predicate holds for it.

        It waits for the job's retained topic, and looks by itself now and then, for a message may be lost in a test
        that kills the broker.
        """
        accept = until if callable(until) else (lambda job, wanted=frozenset(until): job["status"] in wanted)
        topic, deadline = f"/puppetmaster/{self.instance}/jobs/{job_id}", time.monotonic() + timeout
        while True:
            mark = len(self.job_changes.messages)
            try:
                job = self.job(job_id, "limit=0")
                if accept(job):
                    return {name: value for name, value in job.items() if name != "requests"}
            except NoAnswer:
                job = {}
            if time.monotonic() > deadline:
                raise NoAnswer(f"the job was not as expected within {timeout:g} s: {job}")
            try:
                self.job_changes.wait(
                    lambda heard: heard.topic == topic and heard.payload and accept(heard.data), 2.0, mark=mark
                )
            except NoAnswer:
                continue

    def run_job(self, document: Document, timeout: float = PATIENCE) -> Document:
        """Create a job and wait for its end."""
        return self.wait_job(self.create_job(document)["id"], timeout=timeout)

    def _good(self, method: str, resource: str, data: Any = None, timeout: float = PATIENCE) -> Any:
        code, answered = self.ask(method, resource, data, timeout)
        assert code == 200, f"{method} {resource} was answered {code}: {answered!r:.2000}"
        return answered

    # The devices

    def work(self, job: Document | None = None) -> list[Document]:
        """What all devices did, in the order of the starts; of one job (as ``create_job`` answers it) only."""
        found = [record for fleet in self.fleets.values() for record in fleet.work()]
        if job is not None:
            ids = range(job["id"] + 1, job["id"] + 1 + job["totalCount"])  # they follow the job's own
            found = [record for record in found if record["id"] in ids]
        return sorted(found, key=lambda record: (record["startedAt"], record["id"]))


def assert_adds_up(job: Document) -> None:
    """The counters of a job tell the same story."""
    counts = job["counts"]
    assert sum(counts.values()) == job["totalCount"], job
    assert job["finishCount"] == counts["resolved"], job
    assert job["errorCount"] == counts["error"] + counts["timeout"] + counts["canceled"], job
    assert job["doneCount"] == job["finishCount"] + job["errorCount"], job
    assert 0 <= job["progress"] <= 100, job
    assert (job["finishedAt"] is not None) == (job["status"] in FINAL), job
    if job["status"] in FINAL:
        assert job["progress"] == 100 and job["doneCount"] == job["totalCount"], job
