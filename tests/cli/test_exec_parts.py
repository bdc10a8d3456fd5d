"""What ``puppetmaster exec`` is made of: folded names, live lines, groups, the document that it sends."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from puppetmaster.chunks import Chunk, Stream
from puppetmaster.cli import waiting
from puppetmaster.cli.app import make_app
from puppetmaster.cli.destinations import expand
from puppetmaster.cli.exec import Shown, _Execution, _is_fine_without, _order, _where
from puppetmaster.cli.folding import fold
from puppetmaster.cli.groups import Groups, print_groups, print_verdicts
from puppetmaster.cli.live import Lines, Raw, clean
from puppetmaster.cli.outcome import BadUsage, Interrupted
from puppetmaster.cli.waiting import Waiting
from puppetmaster.client.documents import DocumentClient, Told
from puppetmaster.client.output import Output, Piece
from puppetmaster.errors import PuppetmasterError
from tests.cli.conftest import make_job

app = make_app()

TIME = "2026-01-31T12:00:00.000Z"


def piece(number: int, data: bytes = b"", stream: Stream = Stream.STDOUT, device: str = "a", **fields: Any) -> Piece:
    chunk = Chunk(number=number, stream=stream, time=TIME, data=data, **fields)
    return Piece(sum(map(ord, device)), device, chunk)


# Names


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["device-0001", "device-0003", "device-0002"], "device-[0001-0003]"),
        ([f"d{number}" for number in range(8, 13)], "d[8-12]"),
        (["a", "b", "a"], "a,b"),
        (["d1", "d2", "d4", "gateway"], "d[1-2],d4,gateway"),
        (["10.0.0.1", "10.0.0.2"], "10.0.0.[1-2]"),
        (["rack-1-a", "rack-2-a", "rack-2-b"], "rack-[1-2]-a,rack-2-b"),
        (["d1", "d01", "d02"], "d1,d[01-02]"),
    ],
)
def test_names_are_folded(names: list[str], text: str) -> None:
    assert fold(names) == text


def test_many_names_are_cut_and_counted() -> None:
    assert fold([f"device-{letter}" for letter in "abcdefgh"], width=30) == "device-a,device-b,device-c and 5 more"


NAME = st.from_regex(r"\A[a-z.-]{0,3}[0-9]{0,3}[a-z]{0,2}\Z").filter(lambda name: name not in ("", "-"))


@given(st.sets(NAME, min_size=1, max_size=30))
def test_what_is_folded_is_expanded_again(names: set[str]) -> None:
    assert set(expand([fold(names)], io.StringIO())) == names


# Live lines


def test_lines_never_break_in_the_middle(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    lines.show(piece(0, b"one\ntw", device="a"))
    lines.show(piece(0, b"other\n", device="b"))
    lines.show(piece(1, b"bad", Stream.STDERR, device="a"))
    lines.show(piece(2, b"o\nthree", device="a"))
    lines.show(piece(3, stream=Stream.END, device="a", code=200))
    lines.show(piece(1, b"rest", device="b"))
    lines.close()
    shown = capsys.readouterr().out.splitlines()
    assert shown[:3] == ["a | one", "b | other", "a | two"]
    assert sorted(shown[3:5]) == ["a ! bad", "a | three"]
    assert shown[5:] == ["b | rest"]


def test_characters_that_are_cut_by_chunks_are_whole(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    text = "grün 😀\n".encode()
    for number in range(len(text)):
        lines.show(piece(number, text[number : number + 1]))
    assert capsys.readouterr().out == "a | grün 😀\n"


def test_names_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines(width=6)
    lines.show(piece(0, b"x\n", device="abc"))
    lines.show(piece(0, b"x\n", device="d" * 50))
    assert capsys.readouterr().out.splitlines() == ["abc    | x", f"{'d' * 31}… | x"]


def test_what_is_missing_or_left_out_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    for found in (piece(0, b"x\n"), piece(3, b"y\n"), piece(7, stream=Stream.CUT, size=1000), piece(8, b"z\n")):
        lines.show(found)
    assert capsys.readouterr().err.splitlines() == [
        "a: 2 pieces of the output got lost here",
        "a: 1000 bytes of the output are left out here",
    ]


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("a\tb", "a       b"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07x", "x"),
        ("10 %\r20 %\r", "20 %"),
        ("bell\a\x9b2J", "bell\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}2J"),
    ],
)
def test_nothing_drives_the_terminal(line: str, shown: str) -> None:
    assert clean(line) == shown


def test_a_line_without_an_end_is_shown_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    for number in range(10):
        lines.show(piece(number, b"x" * 32_000))
    assert len(capsys.readouterr().out) > 300_000


def test_raw_bytes_of_several_devices_come_in_whole_lines(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    raw = Raw(alone=False)
    raw.show(piece(0, b"\xffon", device="a"))
    raw.show(piece(0, b"two\n", device="b"))
    raw.show(piece(1, b"e\n", device="a"))
    raw.show(piece(2, b"rest", device="a"))
    raw.close()
    assert capsysbinary.readouterr().out == b"two\n\xffone\nrest"


# Groups


def request(device: str, status: str = "resolved", code: int | None = 200, **data: Any) -> dict[str, Any]:
    answer: Any = data if status == "resolved" else {"code": code, "resource": "/agent/commands", "data": data}
    about = {"destination": device, "status": status, "code": code, "result": answer, "reason": "so it is"}
    return {"id": 1, "__request": about}


def test_equal_outputs_are_one_group_whatever_time_they_took(capsys: pytest.CaptureFixture[str]) -> None:
    groups = Groups()
    for number in range(48):
        groups.add(request(f"d{number:02d}", stdout="up\n", duration=number, exitCode=0))
    groups.add(request("e1", stdout="down\n", stderr="oh\n", exitCode=0))
    groups.add(request("e2", "error", 500, stdout="", exitCode=2, outcome="failed"))
    groups.add(request("e3", "error", 500, stdout="", exitCode=3, outcome="failed"))
    groups.add(request("e4", "error", 500, signal=9, exitCode=None, outcome="failed"))
    groups.add(request("e5", "error", 403, outcome="not allowed", message="commands are off"))
    groups.add(request("e6", "error", 500, outcome="timeout"))
    groups.add({"id": 1, "__request": {"destination": "e7", "status": "timeout", "code": None, "result": None}})
    groups.add(request("e8", "canceled", 499, outcome="killed"))
    groups.add(request("e9", "error", 404))
    print_groups(groups, 10)
    assert capsys.readouterr().out.splitlines() == [
        "48 devices: d[00-47]",
        "    up",
        "1 device: e1",
        "    down",
        "  ! oh",
        "1 device, exit code 2: e2",
        "1 device, exit code 3: e3",
        "1 device, ended by signal 9: e4",
        "1 device, error 403, commands are off: e5",
        "1 device, took too long and was ended: e6",
        "1 device, error 404, so it is: e9",
        "1 device, no answer in time: e7",
        "1 device, canceled, killed: e8",
    ]


def test_a_long_output_is_cut_in_the_summary(capsys: pytest.CaptureFixture[str]) -> None:
    groups = Groups()
    groups.add(request("a", stdout="".join(f"{number}\n" for number in range(100)), cutBytes=7))
    print_groups(groups, 4)
    assert capsys.readouterr().out.splitlines()[1:] == [
        "    0", "    1", "    2", "    ... and 97 more lines", "    [7 bytes of it not shown]",
    ]  # fmt: skip


@pytest.mark.parametrize("result", [None, [], "text", {"stdout": 5, "stderr": None, "exitCode": "x"}, {"data": 1}])
def test_answers_of_other_agents_are_taken_as_they_are(result: Any, capsys: pytest.CaptureFixture[str]) -> None:
    groups = Groups()
    for status in ("resolved", "error", "canceled"):
        groups.add({"id": 1, "__request": {"destination": "a", "status": status, "code": 500, "result": result}})
    print_groups(groups, 10)
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_of_one_device_whose_output_was_seen_only_a_failure_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    for device, exit_code in (("a", 0), ("b", 3)):
        groups = Groups()
        groups.add(request(device, "error" if exit_code else "resolved", 500, stdout="seen\n", exitCode=exit_code))
        print_verdicts(groups)
    assert capsys.readouterr().out == "1 device, exit code 3: b\n"


def test_devices_that_are_left_out_are_no_failure_of_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    groups = Groups()
    away = {"destination": "b", "status": "canceled", "code": None, "result": None, "reason": "its device is offline"}
    groups.add({"id": 1, "__request": away})
    print_groups(groups, 10)
    assert capsys.readouterr().out == "1 device, left out, offline: b\n"
    assert _is_fine_without(make_job(1, "resolved", resolved=1, canceled=1), groups.left_out)
    assert not _is_fine_without(make_job(1, "canceled", canceled=1), groups.left_out)
    assert not _is_fine_without(make_job(1, "resolved", resolved=1, canceled=2), groups.left_out)


# The document


def test_devices_are_named_or_chosen() -> None:
    assert _where(["a,b"], None, None, False, False, None) == {"destinations": ["a", "b"]}
    chosen = _where(["a"], ["site=berlin", "site=bonn", "x="], ["system=Linux"], False, True, "10%")
    assert chosen == {
        "destinations": ["a"],
        "targets": {
            "labels": {"site": ["berlin", "bonn"], "x": [""]},
            "facts": {"system": ["Linux"]},
            "connection": "online",
            "sample": "10%",
        },
    }
    assert _where(None, None, None, True, False, "5") == {"targets": {"sample": 5}}
    assert _where(None, None, None, True, False, None) == {"targets": {}}


@pytest.mark.parametrize(
    "arguments",
    [
        (None, None, None, False, False, None),
        (["a"], None, None, False, True, None),
        (["a"], None, None, False, False, "10%"),
        (None, ["site"], None, False, False, None),
        (None, ["=berlin"], None, False, False, None),
        (["a[1-"], None, None, False, False, None),
    ],
)
def test_devices_that_can_not_be_meant(arguments: Any) -> None:
    with pytest.raises(BadUsage):
        _where(*arguments)


def test_words_are_joined_with_blanks() -> None:
    assert _order(["ls", "-l", "a b"], None, None, None, None) == {"commandLine": "ls -l a b"}
    assert _order(["id"], 5.0, "ana", "/srv", ["A=b=c"]) == {
        "commandLine": "id",
        "timeout": 5.0,
        "user": "ana",
        "workingDirectory": "/srv",
        "environment": {"A": "b=c"},
    }


def test_the_value_of_a_variable_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A", "hunter2")
    assert _order(["id"], None, None, None, ["A", "B="])["environment"] == {"A": "hunter2", "B": ""}
    monkeypatch.delenv("A")
    for text in ("A", "=hunter2"):
        with pytest.raises(BadUsage) as caught:
            _order(["id"], None, None, None, [text])
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-d", "a"], "Missing argument"),
        (["uptime"], "name the devices"),
        (["-d", "a", "--timeout", "0", "uptime"], "above 0"),
        (["-d", "a", "--offline", "maybe", "uptime"], "'--offline': 'maybe' is not one of"),
    ],
)
def test_bad_usage_ends_with_2(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["exec", *arguments], env={"COLUMNS": "200"})
    assert done.exit_code == 2 and said in done.output


def test_raw_bytes_are_nothing_else() -> None:
    for other in ("--json", "--quiet"):
        done = CliRunner().invoke(app, ["exec", "-d", "a", "--raw", other, "uptime"])
        assert done.exit_code == 2 and f"give it without {other}" in done.output


# The conversation


class Fleet(DocumentClient):
    """A puppetmaster with one job, whose end comes before the answer to who called it off."""

    def __init__(self, devices: dict[str, str] | None = None) -> None:
        self.known = devices or {}
        self.sent = ["a"]
        self._called_off = asyncio.Event()

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def request(self, method: str, resource: str, data: Any = None, timeout: float | None = None) -> Any:
        if method == "put":
            self._called_off.set()
            await asyncio.wait([task for task in asyncio.all_tasks() if task.get_name() == "job"])
            for _ in range(20):
                await asyncio.sleep(0)  # whoever heard of the end goes on
            return self.job_as("canceled", canceled=1)
        if resource.startswith("/devices"):
            return [{"id": name, "connection": connection} for name, connection in self.known.items()]
        if resource.startswith("/requests"):
            return [request(name, "sent", None) for name in self.sent]
        return {**self.job_as("canceled", canceled=1), "requests": [request("a", "canceled", 499, outcome="killed")]}

    async def watch(self, job_id: int, *, told: Told | None = None) -> AsyncIterator[dict[str, Any]]:
        yield self.job_as("dispatching", sent=1)
        await self._called_off.wait()
        yield self.job_as("canceled", canceled=1)

    def unreadable(self, text: str) -> PuppetmasterError:
        return PuppetmasterError(text)

    def job_as(self, status: str, **counts: int) -> dict[str, Any]:
        return make_job(1, status, **counts)


class NoOutput(Output):
    """Nobody says anything."""

    def __init__(self) -> None:
        self._finished = asyncio.Event()

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def finish(self) -> None:
        self._finished.set()

    async def pieces(self, job_id: int, request_ids: Collection[int]) -> AsyncGenerator[Piece, None]:
        await self._finished.wait()
        for found in ():
            yield found


def test_a_job_is_called_off_though_its_end_comes_before_the_answer() -> None:
    async def call_off() -> None:
        fleet = Fleet()
        created = {**fleet.job_as("dispatching", sent=1), "requests": [1]}
        shown = Shown(json=False, raw=False, quiet=True, summary=True)
        execution = _Execution(fleet, NoOutput(), created, shown, True)
        execution._press()
        await execution.run(Groups())

    with pytest.raises(Interrupted) as caught:
        asyncio.run(call_off())
    assert caught.value.exit_code == 130 and "was called off" in caught.value.note


def test_who_is_waited_for_is_told_once_and_when_it_changes(capsys: pytest.CaptureFixture[str]) -> None:
    async def look() -> None:
        fleet = Fleet({"p1": "online", "p2": "offline", "p3": "offline"})
        whom = Waiting(fleet, lambda: make_job(1, resolved=46, sent=4))
        for fleet.sent in (["p1"], ["p1", "p2", "p3", "q"], ["p3", "p2", "q", "p1"], ["p2"], []):
            await whom.look()

    asyncio.run(look())
    assert capsys.readouterr().err.splitlines() == [
        "waiting for 3 of 50: p[2-3] (offline); q (never heard of)",
        "waiting for 1 of 50: p2 (offline)",
    ]


class Queue(Fleet):
    """The same with one job that has sent nothing, for which its first request says why."""

    def __init__(self, reason: str) -> None:
        super().__init__({"a": "online"})
        self.reason = reason

    async def request(self, method: str, resource: str, data: Any = None, timeout: float | None = None) -> Any:
        if not resource.startswith("/requests"):
            return await super().request(method, resource, data, timeout)
        found = request("a", "created", None)
        found["__request"]["reason"] = self.reason
        return [found]


STANDS_STILL = (
    "waiting: 0 of 3 are sent; the window may be full, or the devices busy (docs/operations.md, Jobs stand still)"
)


@pytest.mark.parametrize(
    ("job", "reason", "said"),
    [
        (make_job(created=3), "created", STANDS_STILL),
        (make_job(created=3), "waits for its device to come online",
         "waiting: 0 of 3 are sent; request 1 waits for its device to come online"),
        (make_job(1, "paused", created=3), "created", "waiting: 0 of 3 are sent; the job is paused: for the test"),
        (make_job(created=2, sent=1), "created", ""),
        (make_job(1, "resolved", resolved=3), "created", ""),
        ({}, "created", ""),
    ],
)  # fmt: skip
def test_why_a_job_has_sent_nothing_is_told(
    job: dict[str, Any], reason: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(waiting.tell_turn(Queue(reason), job))
    assert capsys.readouterr().err.rstrip("\n") == said


def test_a_job_that_waits_for_its_turn_is_told_of_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "FIRST_LOOK", 0.001)
    monkeypatch.setattr(waiting, "TURN", 0.0)
    looks = 0

    async def look() -> None:
        enough = asyncio.Event()

        def job() -> dict[str, Any]:
            nonlocal looks
            looks += 1
            if looks == 50:
                enough.set()
            return make_job(created=3)

        telling = asyncio.create_task(Waiting(Queue("created"), job).run())
        await enough.wait()
        telling.cancel()

    asyncio.run(look())
    assert capsys.readouterr().err == STANDS_STILL + "\n"
