"""An agent of a stand, and what stands beside it on its device: a broker, a controller and a bundle of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from puppetmaster.embedded.broker import BrokerProcess
from tests.system.stand import Document, Heard, Part, Stand, Wire

NOBODY = 65534


class Agent(Part):
    """``python -m puppetmaster agent``; ready when its presence says online.

    :param python: another interpreter, which has our packages on its path.
    :param user: whose process it is; none means ours.
    """

    def __init__(
        self,
        stand: Stand,
        ident: str,
        *options: str,
        folder: Path | None = None,
        python: str = sys.executable,
        user: int | None = None,
        start: bool = True,
        env: dict[str, str] | None = None,
    ) -> None:
        self.id = ident
        self.folder = folder or stand.folder / f"{ident}.state"
        self.presence = stand.listen(f"/remote/{ident}/presence")
        self.events = stand.listen(f"/remote/{ident}/event")
        command = [python, "-m", "puppetmaster", "agent", "--id", ident, "--folder", str(self.folder), *options]
        if user is not None:
            # setpriv keeps the environment, and is the process that becomes the agent.
            command = ["setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups", *command]
        super().__init__(stand, ident, command, {**stand.environment(), **(env or {})})
        stand.programs[ident] = self
        if start:
            self.start()

    def rss_kib(self, *, peak: bool = False) -> int:
        """What it has in memory, or the most that it ever had."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        name = "VmHWM" if peak else "VmRSS"
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(name))

    def ticks(self) -> int:
        """The processor time that it has used, user and system, in 1/100 s."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    def event(self, name: str, mark: int = 0) -> Document:
        """The next event of this name."""
        found: Document = self.events.wait(lambda heard: heard.data["event"] == name, mark=mark).data
        return found

    def _mark(self) -> int:
        return len(self.presence.messages)

    def _wait_until_ready(self, mark: int) -> None:
        # What is retained is from an earlier life.
        self.stand.until_heard(self, self.presence, _is_online, mark)


def _is_online(heard: Heard) -> bool:
    return not heard.retained and bool(heard.data["connection"] == "online")


DEVICE_BUNDLE = '''
"""A bundle on a device, as anybody would write it: what it does it writes to a file, and says on the device's bus."""

import json, os, time
from sanji.bundle import Bundle
from sanji.connection.mqtt import Mqtt
from sanji.core import Route, Sanji

from puppetmaster.edges import repairs

repairs.apply()


class System(Sanji):
    def init(self, *args, **kwargs):
        self.reg_delay = 0

    def run(self):
        self.say("ready", None)

    def say(self, what, data):
        self._conn.client.publish("/said", json.dumps({"what": what, "data": data}), qos=1)

    @Route(resource="/system/:what")
    def system(self, message, response):
        data = getattr(message, "data", None) or {}
        with open(os.environ["DONE"], "a") as done:
            done.write(message.method + " " + message.param["what"] + "\\n")
        self.say(message.param["what"], data)
        time.sleep(data.get("seconds", 0))
        if "size" in data:
            data = {"text": "x" * data["size"]}
        response(code=data.get("code", 200), data={"did": message.param["what"], "method": message.method, **data})


profile = {"name": "system", "version": "1.0.0", "author": "a test", "description": "on a device", "license": "MIT",
           "main": "bundle.py", "role": "model", "priority": 50, "hook": [], "ttl": 20,
           "resources": [{"resource": "/system/:what"}]}
bundle = Bundle(bundle_dir="", load=False)
bundle.profile = profile
System(bundle=bundle, connection=Mqtt("127.0.0.1", int(os.environ["DEVICE_PORT"]))).start()
'''


class Device:
    """The inside of a device: a broker, a Sanji controller and a bundle, none of which the server can reach."""

    def __init__(self, stand: Stand) -> None:
        self._broker = BrokerProcess(defaults=True)
        self._broker.start()
        self.url = f"mqtt://127.0.0.1:{self._broker.port}"
        self.wire = Wire(self._broker.port)
        self.wire.start()
        self.said = self.wire.listen("/said")
        self.done_path = stand.folder / "device.done"
        self.controller = stand.program(
            "device-controller",
            [sys.executable, "-m", "puppetmaster", "controller"],
            {"PUPPETMASTER_BROKER": self.url},
        )
        script = stand.folder / "device_bundle.py"
        script.write_text(DEVICE_BUNDLE)
        env = {"DEVICE_PORT": str(self._broker.port), "DONE": str(self.done_path)}
        self.bundle = stand.program("device-bundle", [sys.executable, str(script)], env)
        self.wait_said("ready")

    def wait_said(self, what: str, mark: int = 0) -> Heard:
        """What the bundle says when it is asked for something."""
        return self.said.wait(lambda heard: heard.data["what"] == what, mark=mark)

    def done(self) -> list[str]:
        """What the bundle did, a line each: ``post reboot``."""
        return self.done_path.read_text().splitlines() if self.done_path.exists() else []

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bundle.kill()
        self.controller.stop()
        self.wire.close()
        self._broker.stop()


def nobodys_python() -> tuple[str, dict[str, str]] | None:
    """An interpreter that the user nobody may run, of our version, and what makes our packages known to it."""
    repository = Path(__file__).resolve().parents[2]
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    places = [str(repository), *(path for path in sys.path if path.endswith("site-packages"))]
    env = {"PYTHONPATH": os.pathsep.join(places), "HOME": "/nonexistent"}
    for python in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        if _can_run(python, env):
            return python, env
    return None


def _can_run(python: str, env: dict[str, str]) -> bool:
    command: Sequence[str] = [python, "-c", "import gmqtt, orjson, psutil"]
    try:
        done = subprocess.run(
            command, env={**os.environ, **env}, user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True,
            cwd="/", check=False,
        )  # fmt: skip
    except OSError:
        return False
    return done.returncode == 0


def run_command(destination: str | list[str], **data: Any) -> Document:
    """A job that runs a command."""
    message = {"method": "post", "resource": "/agent/commands", "data": data}
    return {"destinations": destination, "message": message}
