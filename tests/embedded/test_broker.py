"""The broker as a child process: Mosquitto with its settings, amqtt without any, and nobody left behind."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import paho.mqtt.client as paho
import psutil
import pytest

from puppetmaster.bus import Bus
from puppetmaster.embedded import broker as module
from puppetmaster.embedded.broker import BrokerProcess, Kind, find_mosquitto, free_port, mosquitto_config
from puppetmaster.errors import BusError

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 10.0  # seconds that a test waits for what must come

needs_mosquitto = pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="a parent's death is only told on Linux")
KINDS = [pytest.param("mosquitto", marks=needs_mosquitto), "amqtt"]


def accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def eventually(check: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + TIMEOUT
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def is_gone(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


async def round_trip(broker: BrokerProcess) -> bytes:
    """Publish and receive one message over our own connection."""
    arrived: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    bus = Bus(broker.address, "there-and-back", lambda _, payload: arrived.set_result(payload), topics=["/loop"])
    await bus.start(TIMEOUT)
    bus.publish("/loop", b"hello")
    try:
        return await asyncio.wait_for(arrived, TIMEOUT)
    finally:
        await bus.close()


class TestConfig:
    def test_a_puppetmaster_gets_the_limits_that_it_needs(self) -> None:
        lines = mosquitto_config(1883).splitlines()
        assert lines[:2] == ["listener 1883 127.0.0.1", "allow_anonymous true"]
        assert "set_tcp_nodelay true" in lines
        assert "max_inflight_messages 1000" in lines
        assert "max_queued_messages 1000000" in lines
        assert "message_size_limit 4194304" in lines

    def test_defaults_leave_the_limits_to_mosquitto(self) -> None:
        lines = mosquitto_config(1883, defaults=True).splitlines()
        assert [line for line in lines if line != "user root"] == ["listener 1883 127.0.0.1", "allow_anonymous true"]

    def test_files_and_extra_lines_are_taken_over(self, tmp_path: Path) -> None:
        text = mosquitto_config(
            1,
            "::1",
            persistence=tmp_path,
            password_file=tmp_path / "passwords",
            acl_file=tmp_path / "acl",
            extra=["max_connections 5"],
        )
        assert f"persistence_location {tmp_path}/\n" in text
        assert "allow_anonymous false" in text
        assert f"password_file {tmp_path}/passwords\n" in text and f"acl_file {tmp_path}/acl\n" in text
        assert text.startswith("listener 1 ::1\n") and text.endswith("max_connections 5\n")


class TestAnyBroker:
    @pytest.mark.parametrize("kind", KINDS)
    def test_it_carries_messages_of_our_own_bus(self, kind: Kind) -> None:
        with BrokerProcess(prefer=kind) as broker:
            assert broker.kind == kind and broker.running
            assert asyncio.run(round_trip(broker)) == b"hello"

    @pytest.mark.parametrize("kind", KINDS)
    def test_stop_ends_it_and_frees_the_port(self, kind: Kind) -> None:
        broker = BrokerProcess(prefer=kind).start()
        pid = broker.pid
        assert pid is not None and not is_gone(pid)
        broker.stop()
        assert is_gone(pid) and not accepts(broker.port)
        assert broker.pid is None and not broker.running
        broker.stop()

    @pytest.mark.parametrize("kind", KINDS)
    def test_it_leaves_no_file_even_while_it_runs(
        self, kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        with BrokerProcess(prefer=kind):
            assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("kind", KINDS)
    def test_it_comes_back_on_its_port_after_a_kill(self, kind: Kind) -> None:
        with BrokerProcess(prefer=kind) as broker:
            first = broker.pid
            broker.kill()
            assert not accepts(broker.port)
            broker.restart()
            assert broker.pid != first and accepts(broker.port)

    def test_amqtt_serves_where_mosquitto_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "find_mosquitto", lambda: None)
        with BrokerProcess() as broker:
            assert broker.kind == "amqtt"

    def test_amqtt_takes_no_settings_of_mosquitto(self, tmp_path: Path) -> None:
        with pytest.raises(BusError, match="need mosquitto"):
            BrokerProcess(prefer="amqtt", persistence=tmp_path).start()

    def test_mosquitto_is_found_beside_the_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fake = tmp_path / "mosquitto"
        fake.write_text("")
        fake.chmod(0o755)
        monkeypatch.setenv("PATH", "")
        monkeypatch.setattr(module, "_SBIN", (str(tmp_path),))
        assert find_mosquitto() == fake
        fake.unlink()
        assert find_mosquitto() is None

    def test_the_address_of_a_broker_on_every_interface_is_the_loopback(self) -> None:
        assert BrokerProcess(1883, "0.0.0.0").address.host == "127.0.0.1"
        assert BrokerProcess(1883, "::").address.host == "::1"


@needs_mosquitto
class TestMosquitto:
    def test_it_starts_within_half_a_second(self) -> None:
        # On a machine that has nothing else to do for a moment.
        fastest, deadline = math.inf, time.monotonic() + 60
        while fastest >= 0.5 and time.monotonic() < deadline:
            begun = time.monotonic()
            with BrokerProcess():
                fastest = min(fastest, time.monotonic() - begun)
        assert fastest < 0.5

    def test_its_log_can_be_read_while_it_runs(self) -> None:
        with BrokerProcess(defaults=True) as broker:
            with subscriber(broker.port, "somebody"):
                first = broker.log()
            assert "somebody" in first and broker.log().startswith(first)

    def test_starting_it_twice_starts_it_once(self) -> None:
        with BrokerProcess() as broker:
            pid = broker.pid
            assert broker.start().pid == pid

    def test_a_taken_port_is_an_error_although_somebody_answers_there(self) -> None:
        with BrokerProcess() as other:
            broker = BrokerProcess(other.port)
            with pytest.raises(BusError, match=f"can't listen on port {other.port}"):
                broker.start()
            assert other.running and not broker.running

    def test_a_broken_setting_is_told_in_the_words_of_the_broker(self) -> None:
        broker = BrokerProcess(extra=["no_such_setting 1"])
        with pytest.raises(BusError, match="no_such_setting"):
            broker.start()
        assert not broker.running

    def test_an_executable_that_can_not_run_is_an_error(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(module, "find_mosquitto", lambda: tmp_path / "none")
        with pytest.raises(BusError, match="mosquitto"):
            BrokerProcess().start()

    def test_what_was_queued_survives_a_stop_with_persistence(self, tmp_path: Path) -> None:
        with BrokerProcess(persistence=tmp_path) as broker:
            with subscriber(broker.port, "away"):
                pass
            publish(broker.port, "/mail", b"while you were out")
            broker.restart()
            with subscriber(broker.port, "away") as inbox:
                assert eventually(lambda: inbox == [b"while you were out"])

    def test_a_password_file_keeps_strangers_out(self, tmp_path: Path) -> None:
        passwords = tmp_path / "passwords"
        passwords.touch()
        with BrokerProcess(password_file=passwords) as broker:
            assert connect_code(broker.port) == 5

    def test_default_limits_drop_what_is_over_a_thousand(self) -> None:
        with BrokerProcess(defaults=True) as broker:
            with subscriber(broker.port, "away"):
                pass
            publish(broker.port, "/mail", *([b"x"] * 1_200))
            with subscriber(broker.port, "away") as inbox:
                publish(broker.port, "/mail", b"last")
                assert eventually(lambda: bool(inbox) and inbox[-1] == b"last")
                assert len(inbox) < 1_200

    def test_it_outlives_the_thread_that_started_it(self) -> None:
        broker = BrokerProcess()
        starter = threading.Thread(target=broker.start)
        starter.start()
        starter.join()
        with broker:
            assert not broker.wait(0.05) and accepts(broker.port)


@on_linux
@pytest.mark.parametrize("kind", KINDS)
def test_the_broker_dies_with_a_killed_parent(kind: Kind) -> None:
    script = (
        "import time\n"
        "from puppetmaster.embedded.broker import BrokerProcess\n"
        f"broker = BrokerProcess(prefer={kind!r}).start()\n"
        "print(broker.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with child("-c", script) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not is_gone(pid)
        parent.kill()
        try:
            assert eventually(lambda: is_gone(pid))
        finally:
            if not is_gone(pid):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("kind", KINDS)
def test_in_the_foreground_it_runs_until_a_signal(kind: Kind, number: signal.Signals) -> None:
    port = free_port()
    with foreground(port, kind) as runner:
        assert eventually(lambda: accepts(port))
        runner.send_signal(number)
        assert runner.wait(TIMEOUT) == 0
        assert not accepts(port)


@needs_mosquitto
def test_in_the_foreground_its_own_end_is_a_failure() -> None:
    port = free_port()
    with foreground(port, "mosquitto") as runner:
        assert eventually(lambda: accepts(port))
        [broker] = psutil.Process(runner.pid).children()
        broker.kill()
        assert runner.wait(TIMEOUT) == 1


def foreground(port: int, kind: Kind) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    call = f"run_foreground({port}, '127.0.0.1', {kind!r})"
    return child("-c", f"import sys\nfrom puppetmaster.embedded.broker import run_foreground\nsys.exit({call})")


@contextlib.contextmanager
def child(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def subscriber(port: int, client_id: str) -> Iterator[list[bytes]]:
    """What arrives on /mail for a client whose session the broker keeps."""
    inbox: list[bytes] = []
    subscribed = threading.Event()
    client = paho.Client(client_id, clean_session=False)
    client.on_connect = lambda client, *_: client.subscribe("/mail", qos=1)
    client.on_subscribe = lambda *_: subscribed.set()
    client.on_message = lambda _, __, message: inbox.append(message.payload)
    client.connect("127.0.0.1", port)
    client.loop_start()
    assert subscribed.wait(TIMEOUT)
    yield inbox
    client.disconnect()
    client.loop_stop()


def publish(port: int, topic: str, *payloads: bytes) -> None:
    client = paho.Client()
    client.max_inflight_messages_set(0)
    client.connect("127.0.0.1", port)
    client.loop_start()
    for published in [client.publish(topic, payload, qos=1) for payload in payloads]:
        published.wait_for_publish()
    client.disconnect()
    client.loop_stop()


def connect_code(port: int) -> int:
    codes: list[int] = []
    answered = threading.Event()
    client = paho.Client()
    client.on_connect = lambda _, __, ___, code: (codes.append(code), answered.set())
    client.connect("127.0.0.1", port)
    client.loop_start()
    assert answered.wait(TIMEOUT)
    client.loop_stop()
    return codes[0]
