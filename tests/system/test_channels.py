"""The other ways to a device, and brokers that ask who is there: each with the stock SDK at the far end."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from puppetmaster.embedded.broker import BrokerProcess, find_mosquitto
from tests.system.stand import Document, Heard, Stand, Wire, assert_adds_up

pytestmark = pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")

QUICK = ["set_tcp_nodelay true"]

PROFILE = {
    "version": "1.0.0",
    "author": "a test",
    "description": "at the far end",
    "license": "MIT",
    "main": "bundle.py",
    "role": "model",
    "priority": 50,
    "hook": [],
    "ttl": 20,
}

BUNDLE = '''
"""A bundle as anybody would write it, on the stock SDK after our two repairs."""

import json, os, sys, time
from sanji.bundle import Bundle
from sanji.connection.mqtt import Mqtt
from sanji.core import Route, Sanji

from puppetmaster.edges import repairs

repairs.apply()
profile = json.loads(os.environ["BUNDLE"])


class Remote(Sanji):
    at_work = 0

    def init(self, *args, **kwargs):
        self.reg_delay = 0

    def run(self):
        self.say("ready")

    def say(self, what, **more):
        told = json.dumps({"what": what, "pid": os.getpid(), **more})
        self._conn.client.publish("/said/" + profile["name"], told, qos=1)

    @Route(resource="/remote/:destination")
    def carry(self, message, response):
        """What the published "remote" bundle does: the device's code and data inside its own."""
        Remote.at_work += 1
        destination, inner = message.param["destination"], message.data
        self.say("begin", destination=destination, method=message.method, data=inner, id=message.id, out=Remote.at_work)
        if destination.startswith("slow"):
            time.sleep(0.2)
        if destination.startswith("outer-error"):
            answer = {"code": 500, "data": {"message": "no way to the device"}}
        elif destination.startswith("inner-error"):
            answer = {"code": 200, "data": {"code": 418, "data": {"message": "a teapot"}}}
        elif destination.startswith("plain"):
            answer = {"code": 200, "data": {"no": "second envelope"}}
        elif destination.startswith("empty"):
            answer = {"code": 200, "data": None}
        elif destination.startswith("locked") and destination not in seen:
            answer = {"code": 200, "data": {"code": 423, "data": {"message": "resource is locked"}}}
        elif destination.startswith("outer-locked") and destination not in seen:
            answer = {"code": 423, "data": {"message": "resource is locked"}}
        elif destination.startswith("odd"):
            answer = {"code": 200, "data": {"code": "200", "data": 5}}
        else:
            answer = {"code": 200, "data": {"code": 200, "data": {"echo": inner, "from": destination}}}
        seen.add(destination)
        Remote.at_work -= 1
        response(**answer)

    @Route(resource="/echo/:name")
    def echo(self, message, response):
        data = getattr(message, "data", None)
        self.say("echo", method=message.method, data=data, id=message.id)
        response(code=200, data={"name": message.param["name"], "method": message.method, "data": data})

    @Route(resource="/broken")
    def broken(self, message, response):
        response(code=507, data={"message": "it is broken"})


seen = set()
host, port = os.environ["REMOTE_BROKER"].split(":")
bundle = Bundle(bundle_dir="", load=False)
bundle.profile = profile
Remote(bundle=bundle, connection=Mqtt(host, int(port))).start()
'''


class SdkBundle:
    """A bundle of the stock SDK in a process of its own."""

    def __init__(
        self, stand: Stand, name: str, resources: list[str], port: int | None = None, wire: Wire | None = None
    ) -> None:
        script = stand.folder / "bundle.py"
        script.write_text(BUNDLE)
        listen = wire.listen if wire is not None else stand.listen
        self.said = listen(f"/said/{name}")
        profile = {"name": name, **PROFILE, "resources": [{"resource": resource} for resource in resources]}
        env = {"BUNDLE": json.dumps(profile), "REMOTE_BROKER": f"127.0.0.1:{port or stand.port}"}
        self.part = stand.program(name, [sys.executable, str(script)], env)
        self.said.wait(is_ready)

    def restart(self) -> None:
        """Register again, as the stock SDK does only when it connects."""
        mark = len(self.said.messages)
        self.part.restart(kill=True)
        self.said.wait(is_ready, mark=mark)

    def begun(self) -> list[Document]:
        return [heard.data for heard in self.said.messages if heard.data["what"] == "begin"]


def is_ready(heard: Heard) -> bool:
    return bool(heard.data["what"] == "ready")


def outcomes(stand: Stand, job: Document) -> dict[str, tuple[str, Any, Any]]:
    """Status, code and result of each request, by destination."""
    return {
        request["__request"]["destination"]: tuple(request["__request"][name] for name in ("status", "code", "result"))
        for request in stand.requests(job["id"])
    }


def message(resource: str = "/system/reboot", **more: Any) -> Document:
    return {"method": "post", "resource": resource, **more}


# Over a remote bundle


@pytest.fixture(scope="module")
def over_controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with Stand(tmp_path_factory.mktemp("controller"), broker_extra=QUICK, channel="controller") as stand:
        yield stand


@pytest.fixture(scope="module")
def remote(over_controller: Stand) -> SdkBundle:
    return SdkBundle(over_controller, "remote", ["/remote/:destination"])


def test_requests_go_one_at_a_time_over_the_remote_bundle_and_both_envelopes_come_off(
    over_controller: Stand, remote: SdkBundle
) -> None:
    stand, mark = over_controller, len(remote.begun())
    names = [f"slow-{number}" for number in range(8)]
    job = stand.create_job({"destinations": names, "message": message(data={"delay": 1})})
    ended = stand.wait_job(job["id"])
    assert ended["finishCount"] == 8
    assert_adds_up(ended)
    begun = remote.begun()[mark:]
    assert [record["destination"] for record in begun] == names
    assert {record["out"] for record in begun} == {1}, "two were out at once"
    assert begun[0]["method"] == "post"
    assert begun[0]["data"] == {"method": "post", "resource": "/system/reboot", "data": {"delay": 1}}
    assert [record["id"] for record in begun] == job["requests"]
    inner = {"method": "post", "resource": "/system/reboot", "data": {"delay": 1}}
    assert outcomes(stand, job)["slow-3"] == ("resolved", 200, {"echo": inner, "from": "slow-3"})


def test_an_error_of_either_envelope_is_the_requests_own(over_controller: Stand, remote: SdkBundle) -> None:
    names = ["outer-error", "inner-error", "plain", "empty", "odd", "fine"]
    document = {"destinations": names, "message": message("/x")}
    job = over_controller.create_job(document)
    ended = over_controller.wait_job(job["id"])
    assert (ended["finishCount"], ended["errorCount"]) == (4, 2)
    assert_adds_up(ended)
    found = outcomes(over_controller, job)
    assert found["outer-error"] == (
        "error",
        500,
        {"code": 500, "resource": "/x", "data": {"message": "no way to the device"}},
    )
    assert found["inner-error"] == ("error", 418, {"code": 418, "resource": "/x", "data": {"message": "a teapot"}})
    assert found["plain"] == ("resolved", 200, {"no": "second envelope"})
    assert found["empty"] == ("resolved", 200, None)
    assert found["odd"] == ("resolved", 200, {"code": "200", "data": 5})
    assert found["fine"][:2] == ("resolved", 200)


def test_423_of_either_envelope_or_of_the_controller_is_tried_again(over_controller: Stand, remote: SdkBundle) -> None:
    stand = over_controller
    retry = {"limit": 20, "delay": 0.1, "factor": 1.2}
    job = stand.create_job({"destinations": ["locked-1", "outer-locked-1"], "message": message("/x"), "retry": retry})
    ended = stand.wait_job(job["id"])
    assert ended["finishCount"] == 2
    assert [request["__request"]["attempt"] for request in stand.requests(job["id"])] == [2, 2]
    # The controller's own lock, while somebody else's write is at work there.
    begun = len(remote.begun())
    stand.publish(
        "/controller",
        {"id": 960_001, "method": "post", "resource": "/remote/slow-other", "data": {}, "tunnel": "/other"},
    )
    remote.said.wait(lambda heard: heard.data.get("destination") == "slow-other")
    job = stand.create_job({"destinations": "after-1", "message": message("/x"), "retry": retry})
    assert stand.wait_job(job["id"])["finishCount"] == 1
    assert [record["destination"] for record in remote.begun()[begun:]] == ["slow-other", "after-1"]


def test_a_controller_that_restarts_in_the_middle_loses_no_request_to_the_remote_bundle(
    over_controller: Stand, remote: SdkBundle
) -> None:
    stand, mark = over_controller, len(remote.begun())
    names = [f"slow-r{number}" for number in range(25)]
    # 404: until the remote bundle has registered again nobody serves its resource.
    retry = {"limit": 100, "delay": 0.2, "maxDelay": 0.5, "on": [404, 408, 423, 503, "timeout"]}
    job = stand.create_job({"destinations": names, "message": message("/x"), "requestTimeout": 10, "retry": retry})
    remote.said.wait(lambda heard: heard.data.get("destination") == "slow-r5")
    stand.controller.restart(kill=True)
    remote.restart()
    stand.until_answered(stand.bundle, "/jobs?limit=0", lambda code: code == 200)
    ended = stand.wait_job(job["id"])
    assert ended["finishCount"] == 25, ended
    assert_adds_up(ended)
    assert {record["destination"] for record in remote.begun()[mark:]} == set(names)


def test_a_request_without_a_remote_bundle_fails_with_the_controllers_404(
    over_controller: Stand, remote: SdkBundle
) -> None:
    remote.part.stop()
    code, _ = over_controller.ask("delete", "/controller/registration", {"name": "remote"})
    assert code == 200
    job = over_controller.create_job({"destinations": "fine", "message": message("/x")})
    over_controller.wait_job(job["id"])
    assert outcomes(over_controller, job)["fine"] == ("error", 404, {"code": 404, "resource": "/x", "data": None})
    mark = len(remote.said.messages)
    remote.part.start()
    remote.said.wait(is_ready, mark=mark)


# This machine


def test_localhost_is_a_bundle_beside_us_whatever_the_channel(
    over_controller: Stand, remote: SdkBundle, tmp_path: Path
) -> None:
    with Stand(tmp_path, broker_extra=QUICK) as direct:
        for stand in (over_controller, direct):
            echo = SdkBundle(stand, "echo", ["/echo/:name", "/broken"])
            code, request = stand.ask("post", "/requests", {"message": message("/echo/bob", data={"a": [1]})})
            assert code == 200
            assert request["__request"]["destination"] == "localhost"
            job = stand.wait_job(request["__request"]["job"])
            assert job["finishCount"] == 1
            got = stand.ask("get", f"/requests/{request['id']}")[1]["__request"]
            assert (got["code"], got["result"]) == (200, {"name": "bob", "method": "post", "data": {"a": [1]}})
            batch = [
                {"method": "get", "resource": "/echo/ann", "__destination": "localhost"},
                {"method": "put", "resource": "/broken", "__destination": "localhost"},
                {"method": "delete", "resource": "/nobody/serves/this", "__destination": "localhost"},
                {"method": "post", "resource": "/echo/last", "data": None, "__destination": "localhost"},
            ]
            job = stand.create_job({"batch": batch})
            ended = stand.wait_job(job["id"])
            assert (ended["finishCount"], ended["errorCount"]) == (2, 2)
            codes = [request["__request"]["code"] for request in stand.requests(job["id"])]
            assert codes == [200, 507, 404, 200]
            assert [heard.data["method"] for heard in echo.said.messages if heard.data["what"] == "echo"] == [
                "post",
                "get",
                "post",
            ]


# A device with a controller of its own


def test_a_topic_template_reaches_a_devices_own_controller_over_a_bridge(tmp_path: Path) -> None:
    # Both controllers listen on /controller, so each needs a broker of its own; the device's is bridged to ours.
    with Stand(tmp_path, broker_extra=QUICK, topic="/{destination}/controller") as stand:
        bridge = [
            *QUICK,
            "connection up",
            f"address 127.0.0.1:{stand.port}",
            "remote_clientid cg-1",
            "topic /cg-1/controller in 1",
            "topic /remote/cg-1/answer/# out 1",
        ]
        with BrokerProcess(extra=bridge) as device:
            wire = Wire(device.port)
            wire.start()
            env = {"PUPPETMASTER_BROKER": f"mqtt://127.0.0.1:{device.port}"}
            controller = [sys.executable, "-m", "puppetmaster", "controller", "--local-id", "cg-1"]
            stand.program("device-controller", controller, env)
            echo = SdkBundle(stand, "echo", ["/echo/:name", "/broken"], device.port, wire)
            document = {
                "batch": [
                    {**message("/echo/bob", data={"a": 1}), "__destination": "cg-1"},
                    {**message("/broken"), "__destination": "cg-1"},
                    {"method": "get", "resource": "/echo/ann", "__destination": "cg-1"},
                ],
                "requestTimeout": 3,
                "retry": {"limit": 20, "delay": 0.2, "factor": 1},  # the bridge may come up a little later
            }
            job = stand.create_job(document)
            ended = stand.wait_job(job["id"])
            assert (ended["finishCount"], ended["errorCount"]) == (2, 1)
            assert_adds_up(ended)
            got = [request["__request"] for request in stand.requests(job["id"])]
            assert [request["code"] for request in got] == [200, 507, 200]
            assert got[0]["result"] == {"name": "bob", "method": "post", "data": {"a": 1}}
            assert {heard.data["id"] for heard in echo.said.messages if "id" in heard.data} <= set(job["requests"])
            # Parallel posts meet the lock of the device's controller, and are tried again.
            jobs = [
                stand.create_job({"destinations": "cg-1", "message": message(f"/echo/{n}"), "retry": {"limit": 20}})
                for n in range(5)
            ]
            assert [stand.wait_job(job["id"])["finishCount"] for job in jobs] == [1] * 5
            wire.close()


# Brokers that ask who is there


def certificates(folder: Path) -> None:
    """A CA of our own and a server certificate of it for this machine."""
    (folder / "ext").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
    key = ["-newkey", "rsa:2048", "-nodes"]
    for command in (
        ["req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-days", "2", "-subj", "/CN=test ca",
         "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"],
        ["req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost"],
        ["x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-out",
        "server.crt",
         "-days", "2", "-extfile", "ext"],
    ):  # fmt: skip
        subprocess.run(["openssl", *command], cwd=folder, check=True, capture_output=True)


class Guarded:
    """A broker with a password file, and with TLS if wanted; controller, bundle and devices on it; asked by the CLI."""

    def __init__(self, folder: Path, *, tls: bool) -> None:
        self.folder = folder
        passwords = folder / "passwords"
        passwords.touch(mode=0o600)
        subprocess.run(["mosquitto_passwd", "-b", str(passwords), "boss", "p@ss:w/rd"], check=True, capture_output=True)
        extra = [*QUICK]
        if tls:
            certificates(folder)
            extra += [f"cafile {folder}/ca.crt", f"certfile {folder}/server.crt", f"keyfile {folder}/server.key"]
        self.broker = BrokerProcess(password_file=passwords, defaults=True, extra=extra)
        scheme = "mqtts" if tls else "mqtt"
        self.url = f"{scheme}://boss:p%40ss%3Aw%2Frd@localhost:{self.broker.port}"
        self.env = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("PUPPETMASTER_", "BROKER_PORT_"))
            },
            "PUPPETMASTER_BROKER": self.url,
            "PUPPETMASTER_DATA": str(folder / "data"),
            "PUPPETMASTER_HTTP": "off",
            "PYTHONPATH": os.pathsep.join(sys.path),
            **({"PUPPETMASTER_CA_FILE": str(folder / "ca.crt")} if tls else {}),
        }
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, *arguments: str, **env: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "puppetmaster", *arguments], env={**self.env, **env}, cwd=self.folder,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._processes.append(process)
        return process

    def cli(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "puppetmaster", *arguments], env={**self.env, **env}, cwd=self.folder,
            capture_output=True,
            text=True, timeout=100,
        )  # fmt: skip

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
        self.broker.stop()


@pytest.mark.parametrize("tls", [False, True], ids=["password", "tls"])
def test_everything_works_with_a_user_a_password_and_tls(tmp_path: Path, tls: bool) -> None:
    needed = ["mosquitto_passwd", *(["openssl"] if tls else [])]
    for program in needed:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    guarded = Guarded(tmp_path, tls=tls)
    try:
        guarded.broker.start()
        guarded.start("controller", "controller")
        bundle = guarded.start("bundle", "serve")
        guarded.start("devices", "simulate", "--devices", "20")
        until_served(guarded)
        ran = guarded.cli("run", "-d", "device-[0001-0020]", "post", "/x", "--watch", "--json", "--request-timeout",
            "5",
                          "--retry-on", "timeout", "--retry", "10")  # fmt: skip
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert '"finishCount":20' in ran.stdout.replace(" ", "")
        assert "registered at the controller" in guarded.log("bundle")
        # Neither a log nor an answer tells the password.
        told = "".join(guarded.log(name) for name in ("bundle", "controller", "devices")) + ran.stdout + ran.stderr
        assert "w/rd" not in told and "w%2Frd" not in told
        if not tls:
            wrong = guarded.cli("jobs", "list", PUPPETMASTER_BROKER=guarded.url.replace("p%40ss", "guess"))
            assert wrong.returncode == 1
            assert "Traceback" not in wrong.stderr and "guess" not in wrong.stderr
        else:
            distrusted = guarded.cli("jobs", "list", PUPPETMASTER_CA_FILE="")
            assert distrusted.returncode == 1 and "certificate" in distrusted.stderr.lower(), distrusted.stderr
        bundle.terminate()
        assert bundle.wait(20) == 0
    finally:
        guarded.stop()


def until_served(guarded: Guarded) -> None:
    """Wait until the bundle answers; the CLI itself waits for answers, not for bundles."""
    for _ in range(40):
        listed = guarded.cli("jobs", "list", "--json")
        if listed.returncode == 0:
            return
    raise AssertionError(f"{listed.stderr}\n{guarded.log('bundle')}")


def test_a_bundle_with_a_wrong_password_says_so_and_goes_on_trying(tmp_path: Path) -> None:
    if shutil.which("mosquitto_passwd") is None:
        pytest.skip("mosquitto_passwd is not installed")
    guarded = Guarded(tmp_path, tls=False)
    try:
        guarded.broker.start()
        url = guarded.url.replace("p%40ss", "guess")
        bundle = guarded.start("bundle", "serve", PUPPETMASTER_BROKER=url)
        for _ in range(1200):
            if "trying again" in guarded.log("bundle") and "refuses" in guarded.log("bundle"):
                break
            assert bundle.poll() is None
            with contextlib.suppress(subprocess.TimeoutExpired):
                bundle.wait(0.05)
        log = guarded.log("bundle")
        assert "trying again" in log and "refuses" in log, log
        assert "guess" not in log and "Traceback" not in log
        assert log.count("\n") < 60, "it fills the disk"
        bundle.terminate()
        assert bundle.wait(20) == 0
    finally:
        guarded.stop()


# Quality of service


@pytest.mark.parametrize("qos", [0, 2])
def test_requests_at_another_quality_of_service_are_answered_as_well(tmp_path: Path, qos: int) -> None:
    roomy = [*QUICK, "max_inflight_messages 1000", "max_queued_messages 10000"]
    with Stand(tmp_path, broker_extra=roomy, qos=qos, window=50) as stand:
        fleet = stand.fleet("dev", 200, latency="0-0.05")
        tunnels = stand.listen("/remote/+")
        # At QoS 0 one may get lost: the devices remember what they did.
        retry = {"limit": 20, "delay": 0.2, "on": [423, 503, "timeout"]}
        job = stand.create_job({"destinations": fleet.names, "message": message(), "requestTimeout": 4, "retry": retry})
        ended = stand.wait_job(job["id"])
        assert ended["finishCount"] == 200
        assert_adds_up(ended)
        assert len({record["id"] for record in stand.work(job)}) == len(stand.work(job)) == 200
        assert len(tunnels.messages) >= 200
        stand.bundle.restart(kill=True)
        second = stand.run_job(
            {"destinations": fleet.names[:20], "message": message(), "requestTimeout": 4, "retry": retry}
        )
        assert second["finishCount"] == 20
        stand.controller.restart()
        stand.until_answered(stand.bundle, "/jobs?limit=0", lambda code: code == 200)
