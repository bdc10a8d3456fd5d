"""The examples of docs/api.md, run as they stand there: a page of examples that nobody runs is wrong after a while.

Only the addresses are replaced. The page is read in four ways, each on a new installation: by somebody who uses HTTP,
by one who uses the bus, by one who does both in turn, and by one who uses Python. Each of them does the examples that
are for them in the order of the page, and finds what it shows:

======== ===============================================================================================================
sh       one session of a shell. The ``json`` or ``text`` block behind it is what is answered; ``...`` in it stands for
         anything, or for the rest of an object or a list. ``^C`` shows where the reader ends the command.
python   one session of ``python -m asyncio``, in which ``# ->`` shows what an expression gives
json job a job document that has to be accepted
======== ===============================================================================================================
"""

from __future__ import annotations

import ast
import asyncio
import doctest
import inspect
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from puppetmaster.client import BusClient, Client
from puppetmaster.operations import OPERATIONS
from tests.system.stand import PATIENCE, REPOSITORY, Fleet, Part, Stand

PAGE = REPOSITORY / "docs" / "api.md"
BROKER, SITE = "mqtt://localhost:1883", "localhost:8080"
"""As the page has them."""

TUNNEL = "/me"

BY_FIXTURES = ("puppetmaster serve --embedded", "puppetmaster simulate --devices 50", f"mosquitto_sub -t {TUNNEL}")
"""What the page starts in terminals of their own, and the fixtures in its place."""

WAYS = {"over HTTP": {"http"}, "on the bus": {"bus"}, "both in turn": {"http", "bus"}, "in Python": {"python"}}

SOCKETS = ("/jobs/ws", "/jobs/:id/ws", "/jobs/ws/:id")
"""The WebSockets, which OpenAPI knows nothing of."""

_BLOCK = re.compile(r"^```([a-z ]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^\s*(?:\$ )?((?:curl|mosquitto_\w+|puppetmaster|python -m)\b.*)", re.MULTILINE)
_REST = re.compile(r"(?<=[{\[,\s])\.\.\.(?=\s*([,}\]]))")
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z")
_VALUE = re.compile(r"/\d+|(?<=/accounts)/\w+|(?<=/devices)/(?!facts/)[\w-]+|(?<=/devices/facts)/\w+")
_CALL_ID = re.compile(r'"id": (\d+)')
# What a terminal does not show: movements of the cursor, and the prompt of the WebSocket client.
_UNSEEN = re.compile(r"\x1b(?:[78]|\[[A-Z])|\r|(?m:^> \n?)")


@dataclass(frozen=True)
class Block:
    """A block of the page: the words behind its fence, its text, and the line of its fence."""

    kind: str
    text: str
    line: int

    @property
    def way(self) -> str:
        """Whom it is for; empty: for everybody."""
        if self.kind == "python":
            return "python"
        if re.search(r"\b(curl|websockets)\b", self.text):
            return "http"
        return "bus" if re.search(r"\bmosquitto_\w+", self.text) else ""


@dataclass(frozen=True)
class Example:
    """A block that is run, and the one that shows what comes of it."""

    block: Block
    shown: Block | None


def blocks() -> list[Block]:
    page = PAGE.read_text(encoding="utf-8")
    return [Block(m[1], m[2], page.count("\n", 0, m.start()) + 1) for m in _BLOCK.finditer(page)]


def examples() -> Iterator[Example]:
    listed = blocks()
    for block, following in zip(listed, [*listed[1:], None], strict=True):
        if block.kind in ("sh", "python", "json job"):
            is_shown = block.kind == "sh" and following is not None and following.kind in ("json", "text")
            yield Example(block, following if is_shown else None)


def examples_for(way: str) -> list[Example]:
    return [example for example in examples() if not example.block.way or example.block.way in WAYS[way]]


# What is shown, and what came


def assert_shown(example: Example, came: str) -> None:
    where = f"what comes of the example in line {example.block.line}"
    assert example.shown is not None
    if example.shown.kind == "json":
        shown = json.loads(_REST.sub(_rest, example.shown.text))
        assert_like(json.loads(came), shown, where)
    else:
        assert_like_text(came, example.shown.text.replace("^C\n", ""), where)


def assert_like(came: Any, shown: Any, where: str) -> None:
    """See that JSON is what is shown; any time will do."""
    if shown == "...":
        return
    if isinstance(shown, dict) and isinstance(came, dict):
        missing = shown.keys() - came.keys() - {"..."}
        more = came.keys() - shown.keys() if "..." not in shown else set()
        assert not missing and not more, f"{where}: {sorted(missing)} is missing, {sorted(more)} is not shown: {came}"
        assert "..." not in shown or came.keys() - shown.keys(), f"{where}: nothing is left out"
        for name in shown.keys() - {"..."}:
            assert_like(came[name], shown[name], f"{where}.{name}")
    elif isinstance(shown, list) and isinstance(came, list):
        whole = shown[-1:] != ["..."]
        assert len(came) == len(shown) if whole else len(came) >= len(shown), f"{where}: {came}"
        for number, part in enumerate(shown if whole else shown[:-1]):
            assert_like(came[number], part, f"{where}.{number}")
    else:
        # JSON tells true from 1.
        assert (type(came), without_time(came)) == (type(shown), without_time(shown)), where


def assert_like_text(came: str, shown: str, where: str) -> None:
    assert is_like(came, shown), f"{where}:\n{shown}\nis shown, and this came:\n{came}"


def is_like(came: str, shown: str) -> bool:
    return doctest.OutputChecker().check_output(_line(without_time(shown)), _line(without_time(came)), doctest.ELLIPSIS)


def without_time(value: Any) -> Any:
    return _TIME.sub("TIME", value) if isinstance(value, str) else value


def _line(text: str) -> str:
    return text.rstrip("\n") + "\n"


def _rest(found: re.Match[str]) -> str:
    # In an object it is a name, at the end of a list a value.
    return '"..."' if found[1] == "]" else '"...": "..."'


# Those who read the page


class Shell:
    """A shell session in the folder in which puppetmaster was started."""

    def __init__(self, stand: Stand, folder: Path) -> None:
        self._stand = stand
        self._address = stand.site.removeprefix("http://")
        self._printer: Part | None = None
        self._home = folder
        folder.mkdir()
        for name in ("mosquitto_pub", "mosquitto_sub", "mosquitto_rr"):
            (folder / name).write_text(f"-p {stand.port}\n", encoding="utf-8")
        # On a terminal there is no progress to be seen either.
        (folder / ".curlrc").write_text("silent\nshow-error\n", encoding="utf-8")
        self._variables = folder / "variables"
        self._variables.touch()
        self.env = {
            **stand.environment(),
            "XDG_CONFIG_HOME": str(folder),
            "CURL_HOME": str(folder),
            "NO_PROXY": "*",
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        }

    def follow(self, example: Example) -> None:
        """Do what a block says, and see that the page shows what comes of it."""
        block, shown = example.block, example.shown
        text = block.text.replace(SITE, self._address)
        if shown is not None and "^C" in shown.text:
            came = self._run_until(text, shown.text.partition("^C")[0], block)
        else:
            came = self._run(text, block)
        if "mosquitto_pub -t /controller" in text:
            ident = _CALL_ID.search(text)
            assert ident is not None, f"line {block.line}: the call has no id"
            came = self._answer_to(int(ident[1]))
        if shown is None:
            assert not came.strip(), f"line {block.line} prints what the page does not show: {came}"
        else:
            assert_shown(example, came)

    def listen(self) -> None:
        """``mosquitto_sub -t /me``, once it prints what comes."""
        self._printer = self._stand.program("mosquitto_sub", ["mosquitto_sub", "-t", TUNNEL], self.env)
        wait_until(self._heard, lambda: self._stand.publish(TUNNEL, "{}"))

    def _run(self, text: str, block: Block) -> str:
        done = subprocess.run(self._command(text), **self._options(subprocess.PIPE), timeout=PATIENCE, check=False)
        came = done.stdout.decode()
        assert done.returncode == 0, f"line {block.line} ends with {done.returncode}: {came}"
        return self._seen(came)

    def _run_until(self, text: str, shown: str, block: Block) -> str:
        """Run a command that does not end by itself, and end it when it has printed what is shown."""
        path = self._home / "printed"
        with path.open("wb") as printed:
            process = subprocess.Popen(
                self._command(text), **self._options(printed), stdin=subprocess.PIPE, start_new_session=True
            )
        try:
            wait_until(
                lambda: is_like(self._seen(path.read_text()), shown),
                what=lambda: f"the example in line {block.line} prints {path.read_text()}",
            )
        finally:
            os.killpg(process.pid, signal.SIGINT)
            process.communicate(timeout=PATIENCE)
        return self._seen(path.read_text())

    def _seen(self, printed: str) -> str:
        """What the reader of the page sees of what is printed."""
        text = _UNSEEN.sub("", printed).replace(self._address, SITE)
        return re.sub(r"\n{2,}(?=< |Connection closed)", "\n", text)

    def _command(self, text: str) -> list[str]:
        # What is set in one block is there in the next ones.
        return ["sh", "-ec", f"set -a; . {self._variables}\n{text}\nexport -p > {self._variables}\n"]

    def _options(self, output: Any) -> dict[str, Any]:
        return {"cwd": self._stand.folder, "env": self.env, "stdout": output, "stderr": subprocess.STDOUT}

    def _heard(self) -> list[str]:
        """The whole lines that mosquitto_sub has printed."""
        assert self._printer is not None
        self._printer.check()
        return self._printer.out_path.read_text().split("\n")[:-1]

    def _answer_to(self, ident: int) -> str:
        def answers() -> list[str]:
            return [line for line in self._heard() if json.loads(line).get("id") == ident]

        wait_until(answers, what=lambda: f"no answer to message {ident}")
        return answers()[0]


def wait_until(
    found: Callable[[], object], again: Callable[[], object] = lambda: None, *, what: Callable[[], str] = lambda: ""
) -> None:
    deadline = time.monotonic() + PATIENCE
    while not found():
        assert time.monotonic() < deadline, what()
        again()
        time.sleep(0.02)


class PythonSession:
    """``python -m asyncio``."""

    def __init__(self, stand: Stand) -> None:
        self._addresses = {BROKER: stand.url, SITE: stand.site.removeprefix("http://")}
        self._names: dict[str, Any] = {}

    async def follow(self, block: Block) -> None:
        """Run a block, and see that its expressions give what the page shows."""
        text = block.text
        for shown, real in self._addresses.items():
            text = text.replace(shown, real)
        lines = text.splitlines()
        for statement in ast.parse(text).body:
            value = await self._run(statement)
            last = statement.end_lineno or 1
            shown = lines[last - 1].partition("# -> ")[2]
            if shown:
                assert_like_text(repr(value), shown, f"line {block.line + last}")

    async def _run(self, statement: ast.stmt) -> Any:
        tree = ast.Expression(statement.value) if isinstance(statement, ast.Expr) else ast.Module([statement], [])
        mode = "eval" if isinstance(tree, ast.Expression) else "exec"
        value = eval(compile(tree, str(PAGE), mode, flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), self._names)
        return await value if inspect.iscoroutine(value) else value


def settle(stand: Stand, devices: Fleet) -> None:
    """Wait until the devices have done what they were told; the reader of the page takes longer to type."""
    for job in stand.ask("get", "/jobs?status=dispatching")[1]:
        if all(
            request["__request"]["destination"] in devices.names or request["__request"]["timeout"] <= 5
            for request in stand.requests(job["id"])
        ):
            stand.wait_job(job["id"])


async def read_page(way: str, stand: Stand, folder: Path) -> None:
    devices = stand.fleet("device", 50)
    shell, session = Shell(stand, folder), PythonSession(stand)
    if "bus" in WAYS[way]:
        shell.listen()
    for block, shown in ((example.block, example.shown) for example in examples_for(way)):
        if block.kind == "python":
            await session.follow(block)
        elif block.kind == "sh":
            shell.follow(Example(block, shown))
        else:
            code, answer = stand.ask("post", "/jobs", {**json.loads(block.text), "dryRun": True})
            assert code == 200, f"the job document in line {block.line}: {answer}"
        settle(stand, devices)


@pytest.mark.parametrize("way", WAYS)
def test_who_does_what_the_page_says_sees_what_it_shows(way: str, tmp_path: Path) -> None:
    for program in ("mosquitto", "mosquitto_pub", "curl"):
        if shutil.which(program) is None and not Path("/usr/sbin", program).exists():
            pytest.fail(f"{program} is not installed; make test installs it")
    with Stand(tmp_path / "stand", http=True) as stand:
        asyncio.run(asyncio.wait_for(read_page(way, stand, tmp_path / "home"), 2 * PATIENCE))


# What has to be there


def test_every_command_on_the_page_is_run() -> None:
    run = {example.block for way in WAYS for example in examples_for(way)}
    for block in blocks():
        if block not in run:
            commands = {found.split(" #")[0].strip() for found in _COMMAND.findall(block.text)}
            assert commands <= set(BY_FIXTURES), f"what stands in line {block.line} is not run"


def test_every_answer_on_the_page_is_that_of_an_example() -> None:
    shown = {example.shown for example in examples()}
    assert [block.line for block in blocks() if block.kind in ("json", "text") and block not in shown] == []


def test_every_operation_has_an_example_over_http_and_one_on_the_bus() -> None:
    wanted = {(operation.method, operation.resource) for operation in OPERATIONS}
    assert wanted <= {(method.lower(), with_names(path, ":id")) for method, path in curl_calls()}
    assert wanted <= {(method, with_names(path, ":id")) for method, path in bus_calls()}


def test_every_route_of_the_openapi_document_has_an_example_with_curl(stand_with_http: Stand) -> None:
    document = stand_with_http.http("get", "/openapi.json").json()
    wanted = {
        (method.upper(), path.replace("{name}", "{id}"))
        for path, methods in document["paths"].items()
        for method in methods
    }
    called = {(method, with_names(path, "{id}")) for method, path in curl_calls()}
    assert wanted <= called


def test_every_websocket_has_an_example() -> None:
    text = "".join(example.block.text for example in examples())
    paths = {with_names(path, ":id") for path in re.findall(rf"ws://{SITE}(/[\w/]+)", text)}
    assert set(SOCKETS) <= paths


@pytest.mark.parametrize(("kind", "called"), [(Client, "client"), (BusClient, "bus")])
def test_every_method_of_the_clients_has_an_example(kind: type, called: str) -> None:
    session = "".join(block.text for block in blocks() if block.kind == "python")
    names = [name for name, found in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")]
    unused = [name for name in names if not re.search(rf"\b{called}\.{name}\(", session)]
    assert set(unused) <= {"unreadable"}  # for those who make a client


@pytest.fixture(scope="module")
def stand_with_http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with Stand(tmp_path_factory.mktemp("http"), http=True) as running:
        yield running


def curl_calls() -> Iterator[tuple[str, str]]:
    """The method and the path of every curl on the page."""
    for block in blocks():
        if block.kind == "sh":
            for words in commands_of(block.text, "curl"):
                yield method_of(words), next(word for word in words if SITE in word).partition(SITE)[2]


def bus_calls() -> Iterator[tuple[str, str]]:
    """The method and the resource of every mosquitto_pub on the page."""
    for block in blocks():
        for words in commands_of(block.text, "mosquitto_pub") if block.kind == "sh" else ():
            message = json.loads(words[words.index("-m") + 1])
            yield message["method"], message["resource"]


def commands_of(text: str, program: str) -> Iterator[list[str]]:
    """The commands of a shell text that run a program, as words."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = list(lexer)
    for start, word in enumerate(words):
        if word == program:
            rest = words[start + 1 :]
            end = next((place for place, word in enumerate(rest) if word == program or set(word) <= set("|&;()")), None)
            yield rest[:end]


def method_of(words: Iterable[str]) -> str:
    listed = list(words)
    if "-X" in listed:
        return listed[listed.index("-X") + 1]
    if any(re.fullmatch(r"-[a-zA-Z]*I[a-zA-Z]*", word) for word in listed):
        return "HEAD"
    return "POST" if any(word == "-d" or word.startswith("--data") for word in listed) else "GET"


def with_names(path: str, name: str) -> str:
    """A path without its query, with the name of its parameter in the place of a number, an account or a device."""
    return _VALUE.sub(f"/{name}", path.partition("?")[0]) or "/"
