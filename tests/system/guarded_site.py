"""An installation whose broker knows who may do what: Mosquitto with the files of ``puppetmaster acl``, over TLS.

::

    with Site(folder, devices=["a", "b"]) as site:     # Mosquitto, with the files as they were printed
        user = site.user("a")                          # a connection as this user: a Client of paho
        site.serve()                                   # controller and bundle, each as a user of its own
        site.program("a", "agent", "--id", "a")        # any of our programs as a user
        site.cli("jobs", "list")                       # the command line as the user "tool"
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from paho.mqtt import client as paho

from puppetmaster.cli.processes import PARENT_ENV
from puppetmaster.embedded.broker import find_mosquitto, free_port
from tests.certificates import CURVE
from tests.system.stand import PATIENCE, REPOSITORY, STOP_TIMEOUT

INSTANCE = "site-1"
COLON, MAC = "00:0c:29:1c:e8:01", "00:0c:29:1c:e8:02"
"""Devices whose names no password file can hold."""

NEEDED = ("mosquitto_passwd", "openssl")


def is_possible() -> bool:
    """Whether there is all that it takes."""
    return find_mosquitto() is not None and all(shutil.which(program) for program in NEEDED)


def until(condition: Callable[[], object], what: str) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE:g} s: {what}"
        time.sleep(0.02)


class User:
    """A connection to the broker, over TLS, and all that came on it."""

    def __init__(self, name: str, client_id: str, context: ssl.SSLContext | None, password: str | None) -> None:
        self.name = name
        self.client_id = client_id
        self.code: int | None = None
        """Of the broker's answer to the connection."""
        self.ends = 0
        """How often the connection ended."""
        self._heard: list[tuple[str, bytes]] = []
        self._news = threading.Condition()
        self._subscribed: set[int] = set()
        self._client = client = paho.Client(client_id)
        if context is not None:
            client.tls_set_context(context)
        if password is not None:
            client.username_pw_set(name, password)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = lambda client, data, mid, granted: self._noted(self._subscribed.add, mid)
        client.on_message = lambda client, data, message: self._noted(
            self._heard.append, (message.topic, bytes(message.payload))
        )

    def connect(self, port: int) -> User:
        """Try it; :attr:`code` and :attr:`ends` say what came of it."""
        self._client.connect("localhost", port)
        self._client.loop_start()
        self._wait(lambda: self.code is not None or self.ends, "an answer of the broker")
        if self.code != 0:
            self.close()
        return self

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def subscribe(self, *topics: str) -> None:
        """Return when the broker has confirmed it, which Mosquitto does in any case."""
        for topic in topics:
            mid = self._client.subscribe(topic, qos=1)[1]
            self._wait(lambda mid=mid: mid in self._subscribed, f"a subscription to {topic}")

    def publish(self, topic: str, payload: str, *, retain: bool = False) -> None:
        """Return when the broker has acknowledged it, which Mosquitto does in any case."""
        info = self._client.publish(topic, payload, qos=1, retain=retain)
        until(info.is_published, f"a message on {topic}")

    def wait_ended(self) -> None:
        """Return when somebody else has ended the connection."""
        self._wait(lambda: self.ends, "its end")

    def wait(self, payload: str) -> str:
        """The topic on which this payload comes."""
        return self.wait_for(lambda topic, data: data == payload.encode())[0]

    def wait_for(self, fits: Callable[[str, bytes], object]) -> tuple[str, bytes]:
        """The first message that fits."""
        self._wait(lambda: any(fits(*heard) for heard in self._heard), "what was to come")
        return next(heard for heard in self._heard if fits(*heard))

    def has(self, payload: str) -> bool:
        """Whether this payload has come."""
        with self._news:
            return any(data == payload.encode() for _, data in self._heard)

    def topics(self) -> set[str]:
        """All topics on which something came."""
        with self._news:
            return {topic for topic, _ in self._heard}

    def text(self) -> str:
        """All that came."""
        with self._news:
            return "\n".join(f"{topic} {data.decode(errors='replace')}" for topic, data in self._heard)

    def _noted(self, note: Callable[[Any], None], what: Any) -> None:
        with self._news:
            note(what)
            self._news.notify_all()

    def _on_connect(self, client: object, data: object, flags: object, code: int) -> None:
        with self._news:
            self.code = code
            self._news.notify_all()

    def _on_disconnect(self, client: object, data: object, code: int) -> None:
        self._client.disconnect()  # paho would connect again and again
        with self._news:
            self.ends += 1
            self._news.notify_all()

    def _wait(self, condition: Callable[[], object], what: str) -> None:
        with self._news:
            assert self._news.wait_for(condition, PATIENCE), f"{self.name} waits for {what}; it heard {self._heard}"


class Process:
    """One of our programs, with a log; it ends with this process."""

    def __init__(self, name: str, command: Sequence[str], env: dict[str, str], folder: Path) -> None:
        self.name = name
        self._command = command
        self._env = env
        self._folder = folder
        self._path = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, **env: str) -> None:
        """Start it, from now on with these variables too."""
        self._env.update(env)
        with self._path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env={**self._env, PARENT_ENV: str(os.getpid())}, cwd=self._folder,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it; its exit status."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(number)
        try:
            return self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def wait(self) -> int:
        """Its exit status, when it has ended by itself."""
        assert self._process is not None
        return self._process.wait(PATIENCE)

    def log(self) -> str:
        return self._path.read_text(errors="replace")

    def wait_log(self, text: str, times: int = 1) -> None:
        """Wait until it has logged this."""
        assert self._process is not None
        process = self._process

        def said() -> bool:
            running = process.poll() is None
            found = self.log().count(text) >= times
            assert found or running, f"the {self.name} ended:\n{self.log()[-3000:]}"
            return found

        until(said, f"{text!r} in the log of the {self.name}:\n{self.log()[-3000:]}")


class Site:
    """See the top of this module.

    :param devices: names of devices that get a password.
    """

    def __init__(self, folder: Path, devices: Sequence[str]) -> None:
        self.folder = folder
        self.files = folder / "mosquitto"
        self.device_port, self.part_port = free_port(), free_port()
        self.certificate_port, self.part_certificate_port = free_port(), free_port()
        self.data = folder / "data"
        self.processes: dict[str, Process] = {}
        self.url = self.token = ""
        self._users: list[User] = []
        self._devices = devices

    # Making it

    def __enter__(self) -> Site:
        self._print_files()
        self._make_certificates()
        self._draw_passwords()
        self._listen_for_certificates()
        conf = self.folder / "outer.conf"
        # All that the files leave to whoever runs the broker; root is who tests run as.
        conf.write_text(
            f"user root\npersistence_location {self.folder}/\nlog_type all\nlog_dest stderr\ninclude_dir {self.files}\n"
        )
        broker = Process("broker", [str(find_mosquitto()), "-c", str(conf)], dict(os.environ), self.folder)
        self.processes["broker"] = broker
        broker.wait_log("running")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for user in self._users:
            user.close()
        for process in reversed(self.processes.values()):
            process.stop()
        if error is not None:
            print(self.logs())

    def logs(self) -> str:
        """The ends of all logs."""
        return "\n".join(f"----- {name}\n{process.log()[-4000:]}" for name, process in self.processes.items())

    def _print_files(self) -> None:
        made = self.run(
            "acl", "mosquitto", "--instance", INSTANCE, "--output", str(self.files), "--folder", str(self.files),
            "--devices-listener", f"{self.device_port} 127.0.0.1", "--parts-listener", f"{self.part_port} 127.0.0.1",
        )  # fmt: skip
        assert made.returncode == 0, made.stderr

    def _make_certificates(self) -> None:
        folder = self.files / "certs"
        folder.mkdir()
        (folder / "server.ext").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        self._openssl("req", "-x509", *CURVE, "-keyout", "ca.key", "-out", "ca.crt", "-days", "2", "-subj", "/CN=a CA")
        for name, more in (
            ("localhost", ["-extfile", "server.ext"]), (COLON, []), (MAC, []), ("puppetmaster", []),
        ):  # fmt: skip
            self._openssl("req", *CURVE, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
            self._openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                          "-out", f"{name}.crt", "-days", "2", *more)  # fmt: skip
        for end in ("crt", "key"):
            (folder / f"localhost.{end}").rename(folder / f"server.{end}")

    def _openssl(self, *words: str) -> None:
        subprocess.run(["openssl", *words], cwd=self.files / "certs", check=True, capture_output=True)

    def _draw_passwords(self) -> None:
        names = "".join(f"{name}\n" for name in self._devices)
        subprocess.run(["sh", "passwords.sh"], cwd=self.files, input=names.encode(), check=True, capture_output=True)

    def run_script(self, names: str) -> subprocess.CompletedProcess[str]:
        """Give names to the script that draws passwords."""
        return subprocess.run(
            ["sh", "passwords.sh"], cwd=self.files, input=names, capture_output=True, text=True, check=False
        )

    def add_user(self, name: str, password: str) -> None:
        """Add one that the script refuses, and tell the broker."""
        subprocess.run(["mosquitto_passwd", "-b", "passwd", name, password], cwd=self.files, check=True)
        self._reload()

    def remove_user(self, name: str) -> None:
        """Take one out, and tell the broker."""
        subprocess.run(["mosquitto_passwd", "-D", "passwd", name], cwd=self.files, check=True)
        self._reload()

    def _reload(self) -> None:
        broker = self.processes["broker"]
        reloads = broker.log().count("Reloading config")
        os.kill(broker.pid, signal.SIGHUP)
        broker.wait_log("Reloading config", reloads + 1)

    def _listen_for_certificates(self) -> None:
        """The listener for certificates that stands in the file as comments; and one for parts, as the file says it."""
        commented = (self.files / "mosquitto.conf").read_text().partition("# listener 8885\n")[2].partition("\n\n")[0]
        lines = [line.removeprefix("# ") for line in commented.splitlines()]
        assert lines.count("require_certificate true") == lines.count("use_username_as_clientid true") == 1
        of_parts = [line for line in lines if line != "use_username_as_clientid true"]
        listeners = [f"listener {self.certificate_port} 127.0.0.1", *lines]
        listeners += [f"listener {self.part_certificate_port} 127.0.0.1", *of_parts, ""]
        (self.files / "z.conf").write_text("\n".join(listeners))

    # Who uses it

    @property
    def ca_file(self) -> Path:
        return self.files / "certs" / "ca.crt"

    def password(self, user: str) -> str:
        return (self.files / "secrets" / user).read_text().strip()

    def certificate(self, name: str) -> tuple[Path, Path]:
        """The certificate in which this name stands, and its key."""
        return self.files / "certs" / f"{name}.crt", self.files / "certs" / f"{name}.key"

    def by_certificate(self, name: str, port: int) -> dict[str, str]:
        """The settings of a program that comes in with a certificate, and has no password."""
        cert, key = self.certificate(name)
        return {
            "PUPPETMASTER_BROKER": f"mqtts://localhost:{port}",
            "PUPPETMASTER_BROKER_PASSWORD_FILE": "",
            "PUPPETMASTER_BROKER_CERT": str(cert),
            "PUPPETMASTER_BROKER_KEY": str(key),
            "PUPPETMASTER_CA_FILE": str(self.ca_file),
        }

    def context(self, *, certificate: bool = False) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca_file))
        if certificate:
            context.load_cert_chain(*self.certificate(COLON))
        return context

    def user(self, name: str, client_id: str = "") -> User:
        """A connection as this user, where such users come in."""
        port = self.device_port if name in self._devices else self.part_port
        user = self.try_user(name, self.password(name), port, client_id)
        assert user.code == 0, f"{name} was answered {user.code}"
        return user

    def names(self) -> set[str]:
        """The client ids of all connections that were made here: where devices come in, their names."""
        return {name for user in self._users for name in (user.name, user.client_id)}

    def try_user(
        self, name: str, password: str | None, port: int, client_id: str = "", *, tls: bool = True,
        certificate: bool = False,
    ) -> User:  # fmt: skip
        """A connection that may be refused."""
        context = self.context(certificate=certificate) if tls else None
        user = User(name, client_id or f"test-{len(self._users)}", context, password)
        self._users.append(user)
        return user.connect(port)

    # Our programs

    def environment(self, user: str | None, port: int = 0) -> dict[str, str]:
        foreign = ("PUPPETMASTER_", "BROKER_PORT_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        path = os.pathsep.join(filter(None, [str(REPOSITORY), kept.get("PYTHONPATH")]))
        env = {**kept, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
        if user is None:
            return env
        return {
            **env,
            "PUPPETMASTER_BROKER": f"mqtts://{user}@localhost:{port or self.part_port}",
            "PUPPETMASTER_BROKER_PASSWORD_FILE": str(self.files / "secrets" / user),
            "PUPPETMASTER_CA_FILE": str(self.ca_file),
        }

    def program(self, name: str, *words: str, user: str | None = "", **env: str) -> Process:
        """Start one of our programs; a device's comes in where devices do.

        :param user: none for an environment without settings; the default is that of the name.
        """
        user = name if user == "" else user
        port = self.device_port if user in self._devices else self.part_port
        command = [sys.executable, "-m", "puppetmaster", *words]
        self.processes[name] = Process(name, command, {**self.environment(user, port), **env}, self.folder)
        return self.processes[name]

    def serve(self, **env: str) -> Process:
        """Start controller and bundle; returns when the bundle is registered."""
        self.program("controller", "controller", **env)
        bundle = self.program(
            "puppetmaster", "serve", "--instance", INSTANCE, "--data", str(self.data), "--commands", "all", **env
        )
        bundle.wait_log("registered at the controller")
        bundle.wait_log(f"as puppetmaster-{INSTANCE}-rollcall")
        return bundle

    def cli(self, *words: str, user: str | None = "tool", stdin: str = "", **env: str) -> Any:
        """Run a command, which has to succeed; what it prints, as JSON where it is."""
        text = self.cli_text(*words, user=user, stdin=stdin, **env)
        return json.loads(text) if "--json" in words else text

    def cli_text(self, *words: str, user: str | None = "tool", stdin: str = "", **env: str) -> str:
        """The same as a text."""
        done = self.run(*words, user=user, stdin=stdin, **env)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def run(
        self, *words: str, user: str | None = None, stdin: str = "", **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "puppetmaster", *words], env={**self.environment(user), **env}, cwd=self.folder,
            input=stdin, capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
