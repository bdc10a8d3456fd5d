"""The examples of docs/api.md, run as they stand there: a page of examples that nobody runs is wrong after a while.

A ``sh`` block is a call with mosquitto_pub, and the ``json`` block behind it what mosquitto_sub prints; times may
differ. The ``python`` blocks are one session, in which ``# ->`` shows what an expression gives. A ``json job`` block is
a job document that has to be accepted.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.system.stand import PATIENCE, REPOSITORY, Fleet, Part, Stand

PAGE = REPOSITORY / "docs" / "api.md"
BROKER_ON_THE_PAGE = "mqtt://localhost:1883"
TUNNEL = "/me"

_BLOCK = re.compile(r"^```([a-z ]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z")
_ID = re.compile(r'"id": (\d+)')


@dataclass(frozen=True)
class Block:
    """A block of the page: the words behind its fence, its text, and the line of its fence."""

    kind: str
    text: str
    line: int


def blocks() -> list[Block]:
    page = PAGE.read_text(encoding="utf-8")
    return [Block(m[1], m[2], page.count("\n", 0, m.start()) + 1) for m in _BLOCK.finditer(page)]


def calls() -> Iterator[tuple[Block, Any]]:
    """The shell blocks, each with the answer that the page shows."""
    listed = blocks()
    for block, following in zip(listed, [*listed[1:], None], strict=True):
        if block.kind == "sh":
            assert following is not None and following.kind == "json", f"line {block.line}: it has no answer"
            yield block, json.loads(following.text)


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_times(part) for name, part in value.items()}
    if isinstance(value, list):
        return [without_times(part) for part in value]
    return "TIME" if isinstance(value, str) and _TIME.fullmatch(value) else value


@pytest.fixture(scope="module")
def devices(stand: Stand) -> Fleet:
    """What the page starts with ``puppetmaster simulate --devices 50``."""
    return stand.fleet("device", 50)


@pytest.fixture(scope="module")
def clients(stand: Stand, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the mosquitto clients talk to the stand's broker without being told so."""
    if shutil.which("mosquitto_pub") is None:
        pytest.skip("the mosquitto clients are not installed")
    folder = tmp_path_factory.mktemp("config")
    for name in ("mosquitto_pub", "mosquitto_sub", "mosquitto_rr"):
        (folder / name).write_text(f"-p {stand.port}\n", encoding="utf-8")
    return {"XDG_CONFIG_HOME": str(folder)}


@pytest.fixture(scope="module")
def terminal(stand: Stand, clients: dict[str, str]) -> Part:
    """``mosquitto_sub -t /me``, once it prints what comes."""
    printer = stand.program("mosquitto_sub", ["mosquitto_sub", "-t", TUNNEL], clients)
    deadline = time.monotonic() + PATIENCE
    while not printed(printer):
        printer.check()
        assert time.monotonic() < deadline, "mosquitto_sub prints nothing"
        stand.publish(TUNNEL, "{}")
        time.sleep(0.05)
    return printer


def printed(terminal: Part) -> list[dict[str, Any]]:
    """The whole lines that mosquitto_sub has printed."""
    return [json.loads(line) for line in terminal.out_path.read_text().split("\n")[:-1]]


def answer_to(terminal: Part, ident: int) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE
    while True:
        found = [message for message in printed(terminal) if message.get("id") == ident]
        if found:
            return found[0]
        assert time.monotonic() < deadline, f"no answer to message {ident}"
        time.sleep(0.02)


def settle(stand: Stand, devices: Fleet) -> None:
    """Wait until the devices have done what they were told; the reader of the page takes longer to type."""
    for job in stand.ask("get", "/jobs?status=dispatching")[1]:
        if all(request["__request"]["destination"] in devices.names for request in stand.requests(job["id"])):
            stand.wait_job(job["id"])


def run_call(block: Block, stand: Stand, devices: Fleet, clients: dict[str, str], terminal: Part) -> dict[str, Any]:
    ident = _ID.search(block.text)
    assert ident is not None, f"line {block.line}: the call has no id"
    subprocess.run(["sh", "-ec", block.text], env={**os.environ, **clients}, check=True, timeout=PATIENCE)
    answer = answer_to(terminal, int(ident[1]))
    settle(stand, devices)
    return answer


# This one comes first: the ids on the page are those of a new installation.
def test_the_calls_with_mosquitto_pub_are_answered_as_the_page_shows(stand, devices, clients, terminal):
    for block, expected in calls():
        answer = run_call(block, stand, devices, clients, terminal)
        assert without_times(answer) == without_times(expected), f"the call in line {block.line}"


def test_the_python_session_gives_what_the_page_shows(stand, devices):
    asyncio.run(asyncio.wait_for(run_session([block for block in blocks() if block.kind == "python"], stand.url), 120))


async def run_session(session: list[Block], url: str) -> None:
    names: dict[str, Any] = {}
    checked = 0
    for block in session:
        text = block.text.replace(BROKER_ON_THE_PAGE, url)
        lines = text.splitlines()
        for statement in ast.parse(text).body:
            value = await run_statement(statement, names)
            shown = lines[(statement.end_lineno or 1) - 1].partition("# -> ")[2]
            if shown:
                assert repr(value) == shown, f"line {block.line + (statement.end_lineno or 1)}"
                checked += 1
    assert checked, "the page shows no value"


async def run_statement(statement: ast.stmt, names: dict[str, Any]) -> Any:
    """Run one statement as ``python -m asyncio`` does; the value when it is an expression."""
    tree = ast.Expression(statement.value) if isinstance(statement, ast.Expr) else ast.Module([statement], [])
    mode = "eval" if isinstance(tree, ast.Expression) else "exec"
    value = eval(compile(tree, str(PAGE), mode, flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    return await value if inspect.iscoroutine(value) else value


@pytest.mark.parametrize(
    "block", [pytest.param(block, id=f"line {block.line}") for block in blocks() if block.kind == "json job"]
)
def test_every_job_document_of_the_page_is_accepted(block, stand, devices):
    job = stand.create_job(json.loads(block.text))
    stand.remove_job(job["id"])


def test_every_call_of_the_table_has_an_example_of_both_kinds():
    profile = json.loads((REPOSITORY / "bundle.json").read_text(encoding="utf-8"))
    called = {
        (message["method"], re.sub(r"/\d+", "/:id", message["resource"].partition("?")[0]))
        for message in (json.loads(block.text.partition("-m '")[2].rpartition("'")[0]) for block, _ in calls())
    }
    wanted = {(method, entry["resource"]) for entry in profile["resources"] for method in entry["methods"]}
    assert wanted <= called
    session = "".join(block.text for block in blocks() if block.kind == "python")
    methods = ("create_job", "jobs", "job", "update_job", "remove_job", "create_request", "requests", "get_request",
               "cancel_request", "watch", "request")  # fmt: skip
    assert [name for name in methods if f"client.{name}(" not in session] == []


def test_the_page_is_where_it_is_looked_for():
    assert Path(PAGE).is_file()
