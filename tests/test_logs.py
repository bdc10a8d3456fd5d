"""What the log looks like: one line for each event whatever stands in it, and an event for each line."""

from __future__ import annotations

import ast
import json
import logging
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puppetmaster.logs import LEVELS, MAX_LINE_BYTES, JsonForm, Seldom, TextForm, checked_log, form_of, level_of

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
SECTION = PAGE[PAGE.index("\n## The log\n") : PAGE.index("\n## What to do when\n")]

HOSTILE = "a\nb\r\x1b[31m\x00\u2028\u202e\udc80\x7f\x9b31mü"


class Unprintable:
    """Raises at every attempt to make it a text."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")


def record(message: object = "told", *args: object, error: BaseException | None = None, **fields: Any) -> Any:
    made = logging.makeLogRecord(
        {"name": "puppetmaster.test", "levelname": "WARNING", "levelno": 30, "msg": message, "args": args,
         "created": 1765432109.876, "msecs": 876.0, **fields}
    )  # fmt: skip
    made.exc_info = (type(error), error, error.__traceback__) if error is not None else None
    return made


def in_json(made: logging.LogRecord) -> dict[str, Any]:
    line = JsonForm().format(made)
    assert line.isascii() and line.isprintable()
    assert len(line) <= MAX_LINE_BYTES
    # Stricter than the json of the standard library: it takes no lone surrogates.
    document: dict[str, Any] = orjson.loads(line)
    return document


def in_text(made: logging.LogRecord) -> str:
    line = TextForm().format(made)
    assert line.isprintable()
    assert len(line.encode()) <= MAX_LINE_BYTES
    return line


def raised(message: str, depth: int = 0) -> BaseException:
    try:
        if depth:
            raise raised(message, depth - 1)
        raise ValueError(message)
    except ValueError as error:
        return error


# The forms


def test_json_has_the_time_in_utc_the_event_and_its_fields():
    document = in_json(record("job %d is removed", 7, event="job_expired", job=7))
    assert document == {
        "time": "2025-12-11T05:48:29.876Z", "level": "warning", "logger": "puppetmaster.test", "event": "job_expired",
        "message": "job 7 is removed", "job": 7,
    }  # fmt: skip


def test_text_has_the_event_in_brackets():
    line = in_text(record("job %d is removed", 7, event="job_expired", job=7))
    assert re.fullmatch(
        r"2025-12-1\d \d\d:\d\d:29\.876 WARNING puppetmaster\.test: job 7 is removed \[job_expired\]", line
    )


def test_a_traceback_is_one_field_or_the_rest_of_the_line():
    made = record("it failed", error=raised(HOSTILE), event="failed")
    document = in_json(made)
    assert document["message"] == "it failed"
    assert document["exception"].startswith("Traceback (most recent call last):\n") and "ValueError" in in_text(made)
    assert "it failed [failed] | Traceback (most recent call last): | File " in in_text(made)


def test_names_that_others_chose_break_no_line_and_reach_no_terminal():
    made = record("from %s", HOSTILE, event="heard", destination=HOSTILE)
    document = in_json(made)
    assert document["message"].startswith("from a\nb\r\x1b[31m\x00")
    assert document["destination"] == HOSTILE.replace("\udc80", "\\udc80")
    assert r"from a\nb\r\x1b[31m\x00\u2028\u202e\udc80\x7f\x9b31mü [heard]" in in_text(made)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (7, 7), (True, True), (None, None), (1.5, 1.5), ("ü", "ü"), (float("nan"), "nan"), (2**53, str(2**53)),
        (-(2**70), str(-(2**70))), (b"\xff", r"b'\xff'"), (Path("/a"), "/a"), ([1], "[1]"),
        (Unprintable(), "<Unprintable, RuntimeError at its text>"),
        pytest.param(10**5000, "<int, ValueError at its text>", id="huge"),
    ],
)  # fmt: skip
def test_a_field_is_a_number_or_a_text_and_never_an_error(value: object, shown: object) -> None:
    if not hasattr(sys, "set_int_max_str_digits") and isinstance(value, int) and value > 2**100:
        pytest.skip("this Python writes any number")
    assert in_json(record(event="e", value=value))["value"] == shown


@pytest.mark.parametrize(("message", "args"), [("%d", ("x",)), ("%s", (Unprintable(),)), ("%s %s", (1,))])
def test_a_message_that_can_not_be_made_is_said_to_be_one(message: str, args: tuple[object, ...]) -> None:
    assert f"{message} (" in in_json(record(message, *args))["message"]
    assert "at its arguments)" in in_text(record(message, *args))


@pytest.mark.parametrize("char", ["x", "ü", "\n", "\U000e0001", "\U0001f600"])
def test_a_line_is_never_longer_than_journald_takes(char: str) -> None:
    made = record(char * 100_000, error=raised(char * 100_000, depth=20), event="e", reason=char * 100_000)
    assert in_json(made)["event"] == "e"
    assert "[e]" in in_text(made)


TEXTS = st.text(st.characters(codec=None, exclude_categories=()), max_size=80)


@given(message=TEXTS, name=TEXTS, value=TEXTS, said=TEXTS)
def test_whatever_stands_in_it_an_event_is_one_line(message: str, name: str, value: str, said: str) -> None:
    made = record(message, error=raised(said), event="e", destination=value, name=name)
    document = in_json(made)
    assert (document["event"], set(document)) == (
        "e", {"time", "level", "logger", "event", "message", "destination", "exception"},
    )  # fmt: skip
    in_text(made)


def test_what_libraries_attach_stays_out_and_their_event_is_library():
    document = in_json(record("hi", name="uvicorn.error", color_message="\x1b[31mhi"))
    assert (document["event"], document["logger"], "color_message" in document) == ("library", "uvicorn.error", False)
    assert in_text(record("hi", name="uvicorn.error")).endswith("uvicorn.error: hi [library]")


# A process


PROGRAM = """
import asyncio, gc, logging, sys, threading, warnings
from puppetmaster.logs import start_logging
start_logging(sys.argv[1])
logger = logging.getLogger("puppetmaster.test")
logger.debug("debugged", extra={"event": "debugged"})
logger.info("a\\nb\\udc80", extra={"event": "told"})
for _ in range(1000):
    logging.getLogger("sanji.sdk").info("Route %r\\n not found.", "/jobs")
    try:
        raise ValueError("a\\nb")
    except ValueError:
        logger.exception("it failed", extra={"event": "failed"})
    warnings.warn("old\\nway", stacklevel=1)
thread = threading.Thread(target=lambda: 1 / 0, name="t\\n1")
thread.start()
thread.join()
class Bad:
    def __del__(self): raise RuntimeError("in the end")
Bad()
async def fail(): raise ValueError("in a task")
async def main():
    asyncio.ensure_future(fail())
    asyncio.get_running_loop().call_soon(lambda: [][0])
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gc.collect()
asyncio.run(main())
raise KeyError("the end")
"""

EXPECTED = {
    ("info", "told"), ("info", "library"), ("error", "failed"), ("warning", "python_warning"),
    ("error", "thread_failed"), ("error", "unraisable"), ("error", "library"), ("critical", "uncaught"),
}  # fmt: skip


def run(log: str, *, encoding: str = "utf-8") -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", PROGRAM, log], capture_output=True, timeout=120, cwd=ROOT,
        env={"PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT), "PATH": ""},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, b"")
    return done.stderr.decode(encoding).splitlines()


def test_a_process_writes_nothing_but_lines_of_json_whatever_goes_wrong_and_none_of_it_floods():
    lines = [json.loads(line) for line in run("json", encoding="ascii")]
    assert {(line["level"], line["event"]) for line in lines} == EXPECTED
    failed = [line for line in lines if line["event"] == "library" and line["level"] == "error"]
    assert {line["logger"] for line in failed} == {"asyncio"}
    assert {line["exception"].splitlines()[-1] for line in failed} == {
        "ValueError: in a task", "IndexError: list index out of range",
    }  # fmt: skip
    # Of three thousand; there would be room for four minutes.
    assert len(lines) < 100


def test_the_same_in_text_from_the_level_that_is_asked_for():
    lines = run("text:debug")
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} [A-Z]+ +[a-z._]+: ", line) for line in lines)
    events = {line.partition(" | ")[0].rpartition(" ")[2] for line in lines}
    assert events == {f"[{event}]" for _, event in EXPECTED} | {"[debugged]", "[library]"}


# What is asked for


@pytest.mark.parametrize(
    ("log", "form", "level"),
    [("info", "text", "info"), ("DEBUG", "text", "debug"), ("json", "json", "info"), ("text", "text", "info"),
     (" Json:Error ", "json", "error"), ("text:warning", "text", "warning")],
)  # fmt: skip
def test_a_level_a_form_or_both(log: str, form: str, level: str) -> None:
    assert (form_of(log), level_of(log), checked_log(log)) == (form, level, log.strip().lower())


@pytest.mark.parametrize(
    "log", ["", "loud", "debug:json", "json:", ":debug", "json:loud", "json,debug", "a:b:c", 3, None]
)
def test_anything_else_is_refused_with_what_there_is(log: object) -> None:
    with pytest.raises(ValueError, match=r"a level \(debug, .*\), a form \(text, json\), or both as in json:debug"):
        checked_log(log)


# Floods


def test_a_kind_is_told_once_in_ten_seconds_with_all_that_came_meanwhile():
    now = 0.0
    seldom = Seldom(lambda: now)
    assert [seldom.due("a") for _ in range(5)] == [1, 0, 0, 0, 0]
    assert seldom.due("b") == 1
    now = 9.9
    assert seldom.due("a") == 0
    now = 10.0
    assert (seldom.due("a"), seldom.due("a"), seldom.due("b")) == (6, 0, 1)


# The events


@cache
def calls() -> list[tuple[str, ast.Call]]:
    """Every call that logs, with where it stands."""
    return list(found_calls())


def found_calls() -> Iterator[tuple[str, ast.Call]]:
    for path in sorted((ROOT / "puppetmaster").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in (*LEVELS, "exception", "log", "warn", "fatal")
                and isinstance(node.func.value, (ast.Name, ast.Attribute, ast.Call))
                and re.search(r"log(ger|ging)?\b", ast.unparse(node.func.value), re.IGNORECASE)
            ):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def extra(call: ast.Call) -> dict[str, ast.expr]:
    [found] = [keyword.value for keyword in call.keywords if keyword.arg == "extra"] or [None]
    if not isinstance(found, ast.Dict) or not all(isinstance(key, ast.Constant) for key in found.keys):
        return {}
    return {key.value: value for key, value in zip(found.keys, found.values, strict=True)}  # type: ignore[union-attr]


def events() -> dict[str, set[str]]:
    """The levels of each event."""
    found: dict[str, set[str]] = defaultdict(set)
    for _, call in calls():
        assert isinstance(call.func, ast.Attribute)
        level = {"exception": "error", "log": "any"}.get(call.func.attr, call.func.attr)
        event = extra(call)["event"]
        assert isinstance(event, ast.Constant)
        found[event.value].add(level)
    return found


def test_every_call_that_logs_names_its_event_first_and_literally():
    assert len(calls()) > 100
    faulty = []
    for place, call in calls():
        fields = extra(call)
        event = fields.get("event")
        named = isinstance(event, ast.Constant) and re.fullmatch(r"[a-z]+(_[a-z]+)*", str(event.value))
        if not named or next(iter(fields)) != "event":
            faulty.append(place)
    assert faulty == []


def test_the_page_has_all_events_with_their_levels_and_no_others():
    rows = re.findall(r"^\| `([a-z_]+)` \| ([a-z, ]+) \| [^|]+ \|[^|]*\|$", SECTION, re.MULTILINE)
    told = {event: set(levels.split(", ")) for event, levels in rows}
    assert len(told) == len(rows), "an event has one row"
    expected = {**events(), "library": {"any"}}
    assert set(told) == set(expected)
    wrong = {event for event, levels in expected.items() if "any" not in levels and told[event] != levels}
    assert wrong == set()


def test_the_page_has_all_fields_and_none_has_a_name_that_logging_or_the_line_has():
    names = {name for _, call in calls() for name in extra(call)} - {"event"}
    taken = {*vars(record()), "message", "asctime", "taskName", "time", "level", "logger", "exception", "times"}
    assert names & taken == set()
    told = SECTION[SECTION.index("then what the event is about:") : SECTION.index("`exception` is the")]
    assert set(re.findall(r"`([a-z_]+)`", told)) == names
