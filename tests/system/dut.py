"""A dutserver as a process of its own, and an agent as those of the original are: both as a plain client sees them."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx

from puppetmaster.cli.processes import PARENT_ENV
from puppetmaster.dut.accounts import DutAccounts
from puppetmaster.dut.book import Kind
from tests.system.stand import TRUST

PATIENCE = 60.0

ADMIN, SECRET = "root", "correct horse"

COMMAND = (sys.executable, "-m", "puppetmaster", "dutserver")


def command(*arguments: str, password: str = "") -> subprocess.CompletedProcess[str]:
    """``puppetmaster dutserver ...``, the password on standard input."""
    return subprocess.run(
        [*COMMAND, *arguments], input=f"{password}\n", capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def add_account(db: Path, name: str, password: str, kind: str = "agent") -> None:
    """What ``addaccount`` does, without half a second for the start of a process; some tests make many."""
    DutAccounts(db).add(name, Kind(kind), password)


class DutProcess:
    """``puppetmaster dutserver server PORT test.db`` in a folder, with an admin."""

    def __init__(self, folder: Path, agents: Sequence[str] = ()) -> None:
        self.db = folder / "test.db"
        self.log_path = folder / "server.log"
        self.port = 0
        self.token = ""
        self._process: subprocess.Popen[bytes] | None = None
        self.add(ADMIN, SECRET, "admin")
        for agent in agents:
            self.add(agent, password_of(agent))

    def add(self, name: str, password: str, kind: str = "agent") -> None:
        add_account(self.db, name, password, kind)

    def remove(self, name: str) -> None:
        done = command("remove", str(self.db), name)
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        mark = len(self.log())
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*COMMAND, "server", str(self.port), str(self.db), "--host", "127.0.0.1", "--log", "debug"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, PARENT_ENV: str(os.getpid())},
            )
        found = wait_for(lambda: re.search(r"HTTP on http://127\.0\.0\.1:(\d+)", self.log()[mark:]))
        self.port = int(found[1])
        self.token = self.login()

    def login(self) -> str:
        answer = self.call("POST", "/login", user=ADMIN, password=SECRET)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["token"])

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        return self._end(signal.SIGTERM)

    def log(self) -> str:
        return self.log_path.read_text() if self.log_path.exists() else ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def call(
        self,
        method: str,
        path: str,
        body: Any = ...,
        *,
        auth: str | None = None,
        content: bytes | None = None,
        timeout: float = PATIENCE,
        **query: Any,
    ) -> httpx.Response:
        """One call; ``password`` in the query is called ``pass``."""
        if "password" in query:
            query["pass"] = query.pop("password")
        if body is not ...:
            content = json.dumps(body).encode()
        headers = {} if auth is None else {"Authorization": auth}
        return httpx.request(
            method, self.url + path, params=query, content=content, headers=headers, timeout=timeout, trust_env=False,
            verify=TRUST,
        )

    def as_admin(self, method: str, path: str, body: Any = ..., **more: Any) -> httpx.Response:
        return self.call(method, path, body, auth=self.token, **more)

    def as_agent(self, agent: str, method: str, path: str, body: Any = ..., **more: Any) -> httpx.Response:
        return self.call(method, path, body, auth=f"{agent}:{password_of(agent)}", **more)

    def _end(self, number: int) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(PATIENCE)

    def __enter__(self) -> DutProcess:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()


class PollingAgent(threading.Thread):
    """An agent of the original's kind: polls, works, answers, and polls again; nothing but the standard library."""

    def __init__(self, port: int, name: str, password: str, work: Callable[[Any], Any], prefix: str = "") -> None:
        super().__init__(name=f"agent-{name}", daemon=True)
        self.done: list[str] = []
        self.troubles: list[str] = []
        self._port, self._prefix, self._work = port, prefix, work
        self._headers = {"Authorization": f"{name}:{password}"}
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.is_set():
            try:
                for ident, content in self._ask("GET", "/tasks")["events"].items():
                    result = self._work(content)
                    self._ask("POST", f"/tasks_result?id={quote(ident)}", json.dumps(result))
                    self.done.append(ident)
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.troubles.append(repr(error))
                self._stopped.wait(0.2)

    def stop(self) -> None:
        self._stopped.set()

    def _ask(self, method: str, path: str, body: str | None = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=40)
        try:
            connection.request(method, self._prefix + path, body, self._headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise ValueError(f"{answer.status}: {text!r}")
        return json.loads(text) if text else None


def password_of(agent: str) -> str:
    return f"secret of {agent}"


def wait_for(look: Callable[[], Any], timeout: float = PATIENCE) -> Any:
    """What ``look`` finds, as soon as it finds something."""
    deadline = time.monotonic() + timeout
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
    return found
