"""An MQTT broker as a child process: Mosquitto where it is installed, else amqtt.

Mosquitto gets the settings that a puppetmaster needs (see :func:`mosquitto_config`). amqtt is good for a first run:
it speaks MQTT 3.1.1 only and keeps nothing for a client that is away.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any, Literal, TypeAlias

from puppetmaster.address import BrokerAddress
from puppetmaster.errors import BusError

logger = logging.getLogger(__name__)

Kind: TypeAlias = Literal["mosquitto", "amqtt"]

START_TIMEOUT = 10.0
"""Seconds for a broker to accept connections."""

STOP_TIMEOUT = 5.0
"""Seconds from TERM, on which Mosquitto saves what it has queued, to KILL."""

MESSAGE_LIMIT = 4 * 1024 * 1024
"""Bytes of the largest message: an answer of 100 MB would cost every receiver 338 MB of memory."""

_POLL = 0.005  # seconds between looks at the port; Mosquitto opens it after about 10 ms
_NAP = 0.5  # seconds that a broker which does not heed a signal is waited for before stop() takes over
_TAIL = 10  # lines of a broker's log that tell why it did not start
_MODULE = "puppetmaster.embedded.broker"
_SBIN = ("/usr/sbin", "/usr/local/sbin")
_ANY_HOST = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}

# Runs between the fork and the broker, in a process of its own: Linux then ends the broker when the thread that
# started it ends, by whatever signal. A preexec_fn would do the same, but is not safe beside other threads.
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


def find_mosquitto() -> Path | None:
    """The Mosquitto broker on the PATH, or where Debian and Homebrew put it beside the PATH of plain users."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *_SBIN])
    found = shutil.which("mosquitto", path=path)
    return Path(found) if found else None


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that nobody listens on right now."""
    with socket.create_server((host, 0), family=_family(host)) as server:
        port: int = server.getsockname()[1]
    return port


def mosquitto_config(
    port: int,
    host: str = "127.0.0.1",
    *,
    defaults: bool = False,
    persistence: Path | None = None,
    password_file: Path | None = None,
    acl_file: Path | None = None,
    extra: Sequence[str] = (),
) -> str:
    """The text of a mosquitto.conf.

    :param defaults: leave Mosquitto's own limits as they are (20 messages in flight, 1,000 queued for each client).
    :param persistence: the folder that a stopped broker keeps sessions and queues in.
    :param password_file: who may connect; without one everybody may.
    :param extra: lines to add at the end.
    """
    lines = [f"listener {port} {host}", f"allow_anonymous {'false' if password_file else 'true'}"]
    if not defaults:
        # 0 queued messages, for no limit, had bugs up to 2.0.22. The log goes to a file that nobody empties.
        lines += [
            "set_tcp_nodelay true",
            "max_inflight_messages 1000",
            "max_queued_messages 1000000",
            f"message_size_limit {MESSAGE_LIMIT}",
            "connection_messages false",
        ]
    if persistence:
        lines += ["persistence true", f"persistence_location {persistence.absolute()}{os.sep}"]
    if password_file:
        lines.append(f"password_file {password_file.absolute()}")
    if acl_file:
        lines.append(f"acl_file {acl_file.absolute()}")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        # Started by root it becomes the user mosquitto, who can't read and write root's files; and whoever changes
        # the user is no longer told of the parent's death.
        lines.append("user root")
    return "\n".join([*lines, *extra, ""])


class BrokerProcess:
    """A broker that runs until :meth:`stop`, the end of a ``with`` block, or the end of this process.

    :param port: the TCP port; none takes a free one, and keeps it over :meth:`restart`.
    :param host: the address to listen on.
    :param prefer: amqtt to run that although Mosquitto is installed.

    The others are those of :func:`mosquitto_config`; amqtt takes none of them. It ends no process but its own.
    On systems other than Linux a broker outlives a parent that was killed.
    """

    def __init__(
        self,
        port: int | None = None,
        host: str = "127.0.0.1",
        *,
        prefer: Kind = "mosquitto",
        defaults: bool = False,
        persistence: Path | None = None,
        password_file: Path | None = None,
        acl_file: Path | None = None,
        extra: Sequence[str] = (),
    ) -> None:
        self.host = host
        self.port = port if port is not None else free_port(host)
        self.executable = find_mosquitto() if prefer == "mosquitto" else None
        self.kind: Kind = "mosquitto" if self.executable else "amqtt"
        self._options: dict[str, Any] = {
            "defaults": defaults,
            "persistence": persistence,
            "password_file": password_file,
            "acl_file": acl_file,
            "extra": extra,
        }
        self._log: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: threading.Thread | None = None

    @property
    def address(self) -> BrokerAddress:
        """Where to connect to from this machine; the loopback when the broker listens on every address."""
        return BrokerAddress(host=_ANY_HOST.get(self.host, self.host), port=self.port)

    @property
    def pid(self) -> int | None:
        """The process id of the broker that runs; none when none does."""
        return self._process.pid if self._process is not None and self.running else None

    @property
    def running(self) -> bool:
        """Whether the broker runs."""
        return self._keeper is not None and self._keeper.is_alive()

    def start(self) -> BrokerProcess:
        """Start the broker and wait, up to 10 s, until it accepts connections. Nothing happens when it runs.

        :raises BusError: when it does not; the message ends with the last lines of its log.
        """
        if self.running:
            return self
        self._clean_up()
        self._require_free_port()
        # Neither has a name once the broker is up, so a parent that is killed leaves no file behind.
        self._log = tempfile.TemporaryFile(prefix="puppetmaster-broker-")  # noqa: SIM115 - until the broker ends
        atexit.register(self.stop)
        try:
            with tempfile.TemporaryDirectory(prefix="puppetmaster-broker-") as folder:
                self._launch(self._command(Path(folder)))
                self._wait_until_ready()
        except BaseException:
            self.kill()
            raise
        logger.info("%s listens at %s (process %s)", self.kind, self.address, self.pid,
                    extra={"event": "broker_listening", "broker": str(self.address)})
        return self

    def stop(self) -> None:
        """End the broker with TERM, after 5 s with KILL. Mosquitto saves its queues first."""
        self._signal(signal.SIGTERM)
        if not self.wait(STOP_TIMEOUT):
            logger.warning("%s did not stop within %g s; killing it", self.kind, STOP_TIMEOUT,
                           extra={"event": "broker_killed"})
        self.kill()

    def kill(self) -> None:
        """End the broker with KILL: what it had queued is lost."""
        self._signal(signal.SIGKILL)
        self.wait()
        self._clean_up()

    def restart(self) -> None:
        """Stop the broker if it runs, and start it on the same port.

        :raises BusError: when it does not start again.
        """
        self.stop()
        self.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the broker has ended; false when it has not after ``timeout`` seconds."""
        if self._keeper is not None:
            self._keeper.join(timeout)
        return not self.running

    def log(self) -> str:
        """What the broker that runs has said so far."""
        if self._log is None:
            return ""
        # The broker writes at the offset that it shares with us: read without moving it.
        number = self._log.fileno()
        return os.pread(number, os.fstat(number).st_size, 0).decode(errors="replace")

    def __enter__(self) -> BrokerProcess:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # Starting

    def _require_free_port(self) -> None:
        # Somebody else's broker on this port would look like ours once it accepts a connection.
        try:
            socket.create_server((self.host, self.port), family=_family(self.host)).close()
        except OSError as error:
            raise BusError(f"can't listen on port {self.port} of {self.host or 'any address'}: {error}") from error

    def _command(self, folder: Path) -> list[str]:
        if self.executable is None:
            if any(self._options.values()):
                raise BusError("these settings need mosquitto, and it is not the broker in use")
            return [sys.executable, "-m", _MODULE, self.host, str(self.port)]
        config = folder / "mosquitto.conf"
        config.write_text(mosquitto_config(self.port, self.host, **self._options), encoding="utf-8")
        return [str(self.executable), "-c", str(config)]

    def _launch(self, command: list[str]) -> None:
        launched: list[subprocess.Popen[bytes] | Exception] = []
        ready = threading.Event()
        # A thread that lives as long as the broker: Linux takes the end of the thread that forked for the parent's.
        args = (command, launched, ready)
        self._keeper = threading.Thread(target=self._keep, args=args, name=f"broker-{self.port}", daemon=True)
        self._keeper.start()
        ready.wait()
        [outcome] = launched
        if isinstance(outcome, Exception):
            raise BusError(f"can't run {self.kind}: {outcome}") from outcome
        self._process = outcome

    def _keep(self, command: list[str], launched: list[object], ready: threading.Event) -> None:
        try:
            process = subprocess.Popen(
                _tied(command),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for us: we need the broker for our goodbyes
            )
        except Exception as error:  # for the thread that waits for it
            launched.append(error)
            return
        else:
            launched.append(process)
        finally:
            ready.set()
        process.wait()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while self.running:
            if self._accepts() and not self.wait(_POLL):
                return
            if time.monotonic() > deadline:
                raise BusError(f"{self.kind} accepts no connection after {START_TIMEOUT:g} s: {self._last_words()}")
            self.wait(_POLL)
        raise BusError(f"{self.kind} ended while it started: {self._last_words()}")

    def _accepts(self) -> bool:
        address = self.address
        try:
            with socket.create_connection((address.host, address.port), timeout=1.0) as connection:
                # Without a listener TCP may connect a socket to itself when it draws this very port.
                return bool(connection.getsockname() != connection.getpeername())
        except OSError:
            return False

    def _last_words(self) -> str:
        lines = [line for line in self.log().splitlines() if line.strip()]
        return "\n".join(lines[-_TAIL:]) or "it said nothing"

    # Ending

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.running:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def _clean_up(self) -> None:
        atexit.unregister(self.stop)
        self._process = self._keeper = None
        if self._log is not None:
            self._log.close()
            self._log = None


def run_foreground(port: int, host: str = "127.0.0.1", prefer: Kind = "mosquitto") -> int:
    """Run a broker until SIGINT or SIGTERM, for the command line; only from the main thread.

    :returns: the exit status: 0 after a signal, 1 when the broker ended by itself.
    :raises BusError: when it does not start.
    """
    asked = threading.Event()
    broker = BrokerProcess(port, host, prefer=prefer)

    def on_signal(number: int, frame: FrameType | None) -> None:
        asked.set()
        broker._signal(signal.SIGTERM)

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with broker:
            while not asked.is_set() and not broker.wait(_NAP):
                pass
            if asked.is_set():
                return 0
            logger.error("%s ended by itself: %s", broker.kind, broker._last_words(), extra={"event": "broker_ended"})
            return 1
    except BusError:
        if asked.is_set():
            return 0
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _tied(command: list[str]) -> list[str]:
    if sys.platform != "linux":
        return command
    return [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command]


def _environment() -> dict[str, str]:
    """Ours, with this package's place, so that ``python -m`` finds it where it is not installed."""
    here = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))}


# The child process that is an amqtt broker: python -m puppetmaster.embedded.broker HOST PORT


async def _serve_amqtt(host: str, port: int) -> None:
    from amqtt.broker import Broker

    for name in ("amqtt", "transitions"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # it reports every scan of its port
    bind = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    plugins = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
    broker = Broker({"listeners": {"default": {"type": "tcp", "bind": bind}}, "plugins": plugins})
    asked = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    await broker.start()
    await asked.wait()
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(_serve_amqtt(sys.argv[1], int(sys.argv[2])))
