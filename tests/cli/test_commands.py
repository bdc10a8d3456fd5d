"""Commands that talk to a bundle: what they send, what they print, how they end."""

import itertools
import json
import logging
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from rich.console import Console
from typer.testing import CliRunner

from puppetmaster.bus import DENIED
from puppetmaster.cli import render, watching
from puppetmaster.cli.app import make_app
from puppetmaster.client import bus as bus_client
from puppetmaster.errors import BusError
from puppetmaster.times import from_text, to_text
from tests.cli.conftest import make_job

app = make_app()

REQUEST = {
    "id": 1_000_001,
    "method": "post",
    "resource": "/system/reboot",
    "data": {"delay": 5},
    "__request": {
        "job": 1_000_000,
        "destination": "device-0001",
        "createdAt": "2026-01-31T12:00:00.000Z",
        "sentAt": None,
        "finishedAt": None,
        "timeout": 3600.0,
        "attempt": 1,
        "status": "error",
        "progress": 100,
        "code": 500,
        "result": {"code": 500, "data": {"message": "no \x1b[31mpower"}},
    },
}


@pytest.fixture
def invoke(stub):
    def run(*arguments, stdin=""):
        command = [*arguments, "--broker", stub.address.url()]
        return CliRunner().invoke(app, command, input=stdin, env={"COLUMNS": "200"})

    return run


def answers(stub, *made):
    """Let the stub give these answers, the last one again and again."""
    stub.answer = lambda message: made[min(len(stub.seen), len(made)) - 1]


def rows(text):
    return [line.split() for line in text.splitlines()]


# Lists and single things


def test_jobs_are_listed_in_a_table(stub, invoke):
    answers(stub, (200, [{**make_job(resolved=48, error=1, timeout=1, canceled=3), "name": "night\x1b[31mly"}]))
    result = invoke("jobs", "list")
    assert result.exit_code == 0
    header, row = rows(result.stdout)
    assert header == ["id", "name", "status", "progress", "resolved", "errors", "canceled", "total", "age"]
    assert row[:5] == ["1000000", "night\N{REPLACEMENT CHARACTER}[31mly", "dispatching", "100", "%"]
    assert row[5:9] == ["48", "2", "3", "53"]


def test_a_list_is_asked_for_with_all_filters(stub, invoke):
    answers(stub, (200, []))
    filters = ("--status", "paused", "--status", "pending", "--label", "a=b", "--since", "2026-01-01T00:00:00+01:00")
    result = invoke("jobs", "list", *filters, "--limit", "5", "--offset", "10")
    assert result.stdout == "no jobs\n"
    assert stub.seen[0]["resource"] == (
        "/jobs?status=paused&status=pending&label=a%3Db&since=2026-01-01T00%3A00%3A00%2B01%3A00&limit=5&offset=10"
    )


def test_a_list_as_json_is_one_document(stub, invoke):
    answers(stub, (200, [make_job()]), (200, []))
    assert json.loads(invoke("jobs", "list", "--json").stdout) == [make_job()]
    assert json.loads(invoke("requests", "list", "--json").stdout) == []


def test_a_job_is_shown_with_its_requests(stub, invoke):
    answers(stub, (200, {**make_job(resolved=1, error=1), "requests": [REQUEST]}))
    result = invoke("jobs", "show", "1000000", "--status", "error")
    assert stub.seen[0]["resource"] == "/jobs/1000000?status=error&limit=100&offset=0"
    assert ["counts", "1", "resolved,", "1", "error"] in rows(result.stdout)
    assert "device-0001" in result.stdout


def test_a_job_as_json_is_what_came(stub, invoke):
    job = {**make_job(resolved=1), "requests": [REQUEST]}
    answers(stub, (200, job))
    assert json.loads(invoke("jobs", "show", "1000000", "--json").stdout) == job


def test_requests_are_listed_in_a_table(stub, invoke):
    answers(stub, (200, [REQUEST]))
    result = invoke("requests", "list", "--job", "1000000", "-d", "device-0001", "--status", "error")
    assert stub.seen[0]["resource"] == "/requests?status=error&destination=device-0001&job=1000000&limit=100&offset=0"
    assert rows(result.stdout)[1][-3:] == ["500", "no", "\N{REPLACEMENT CHARACTER}[31mpower"]


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        ({"version": 2, "message": "too hot"}, 'too hot {"version":2}'),
        ({"message": "too hot"}, "too hot"),
        ({"code": 500, "resource": "/x", "data": {"message": "too hot"}}, "too hot"),
        ({"code": 500, "resource": "/x", "data": "no"}, "no"),
        ({"code": 500, "resource": "/x", "data": None}, "-"),
        ({"message": 5}, '{"message":5}'),
        ([1], "[1]"),
    ],
)
def test_a_message_comes_first_in_a_narrow_column(stub, invoke, result, shown):
    answers(stub, (200, [{**REQUEST, "__request": {**REQUEST["__request"], "result": result}}]))
    assert invoke("requests", "list").stdout.splitlines()[1].endswith(f" {shown}")


COMMAND = {"outcome": "done", "exitCode": 0, "signal": None, "duration": 0.01, "stdout": "hello\n\n\tworld\n",
           "stderr": "", "outputBytes": 14, "cutBytes": 0, "message": "done"}  # fmt: skip
FAILED = {**COMMAND, "outcome": "failed", "exitCode": 3, "stderr": "\n no \x1b[31mdisk\x1b[0m\nat all\n",
          "message": "exit code 3"}  # fmt: skip
SIGNAL = {**FAILED, "exitCode": 137, "signal": 9, "message": "killed by signal 9 (SIGKILL)", "stderr": ""}
KILLED = {**COMMAND, "outcome": "killed", "exitCode": None, "stdout": "", "message": "killed after 3.2 s"}


def failure(data):
    return {"code": 500, "resource": "/agent/commands", "data": data}


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        (COMMAND, "exit 0: hello"),
        ({**COMMAND, "stdout": "", "stderr": "told\nmore"}, "exit 0: told"),
        ({**COMMAND, "stdout": ""}, "exit 0"),
        (failure(FAILED), "exit 3: no \N{REPLACEMENT CHARACTER}[31mdisk\N{REPLACEMENT CHARACTER}[0m"),
        (failure(SIGNAL), "killed by signal 9 (SIGKILL): hello"),
        (failure(KILLED), "killed after 3.2 s"),
        (failure({**KILLED, "message": None}), "killed"),
        (failure({"message": "commandLine is missing"}), "commandLine is missing"),
    ],
)
def test_of_a_command_its_exit_code_and_first_line_are_listed(stub, invoke, result, shown):
    answers(stub, (200, [{**REQUEST, "__request": {**REQUEST["__request"], "result": result}}]))
    assert invoke("requests", "list").stdout.splitlines()[1].endswith(f" 500   {shown}")
    group = {"status": "resolved", "code": 200, "result": result, "cut": False, "count": 2, "destinations": ["a"]}
    answers(stub, (200, [group]))
    assert f" {shown} " in invoke("jobs", "answers", "1000000").stdout


@pytest.mark.parametrize("result", [COMMAND, failure(COMMAND)])
@pytest.mark.parametrize("more", ["x", '\N{SNOWMAN}"', "\x00", '\\"'])
def test_of_a_long_output_that_was_cut_the_first_line_is_listed(stub, invoke, result, more):
    data = {**COMMAND, "stdout": "hello\n" + more * 5000}
    whole = json.dumps(failure(data) if "data" in result else data)
    for size in range(1000, 1007):
        group = {"status": "resolved", "code": 200, "result": whole[:size], "cut": True, "count": 2, "destinations": []}
        answers(stub, (200, [group]))
        assert rows(invoke("jobs", "answers", "1000000").stdout)[1][3:] == ["exit", "0:", "hello", "-"]


def test_requests_are_found_by_a_pattern_of_destinations(stub, invoke):
    answers(stub, (200, [REQUEST]))
    invoke("requests", "list", "-d", "dev-*", "-d", "x")
    assert stub.seen[0]["resource"] == "/requests?destination=dev-%2A&destination=x&limit=100&offset=0"


def test_the_requests_of_an_unknown_job_are_an_error(stub, invoke):
    answers(stub, (200, []), (404, {"message": "no job has the id 77"}))
    result = invoke("requests", "list", "--job", "77")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "Error: no job has the id 77 (code 404)\n")


def test_a_job_without_such_requests_is_no_error(stub, invoke):
    answers(stub, (200, []), (200, make_job()))
    result = invoke("requests", "list", "--job", "77", "--status", "error")
    assert (result.exit_code, result.stdout) == (0, "no requests\n")


def test_equal_answers_are_listed_in_a_table(stub, invoke):
    groups = [
        {"status": "resolved", "code": 200, "result": {"v": "2.1"}, "cut": False, "count": 4912,
         "destinations": ["a", "b"]},
        {"status": "timeout", "code": None, "result": None, "cut": False, "count": 3, "destinations": ["c"]},
    ]  # fmt: skip
    answers(stub, (200, groups), (200, groups), (200, []))
    result = invoke("jobs", "answers", "1000000", "--status", "resolved", "--limit", "2")
    assert stub.seen[0]["resource"] == "/jobs/1000000/answers?status=resolved&limit=2"
    assert rows(result.stdout) == [
        ["count", "status", "code", "result", "examples"],
        ["4912", "resolved", "200", '{"v":"2.1"}', "a,", "b"],
        ["3", "timeout", "-", "-", "c"],
    ]
    assert "a larger --limit" in result.stderr
    assert json.loads(invoke("jobs", "answers", "1000000", "--json").stdout) == groups
    assert invoke("jobs", "answers", "1000000").stdout == "no answers\n"


def test_a_request_is_shown(stub, invoke):
    answers(stub, (200, REQUEST))
    result = invoke("requests", "show", "1000001")
    assert ["result", '{"code":500,"data":{"message":"no', '\\u001b[31mpower"}}'] in rows(result.stdout)
    assert json.loads(invoke("requests", "show", "1000001", "--json").stdout) == REQUEST


def test_what_a_command_printed_is_shown_as_it_is(stub, invoke):
    answers(stub, (200, {**REQUEST, "__request": {**REQUEST["__request"], "result": failure(FAILED)}}))
    shown = invoke("requests", "show", "1000001").stdout
    fields, _, output = shown.partition("\n\nstdout:\n")
    assert ["exitCode", "3"] in rows(fields) and ["signal", "-"] not in rows(fields)
    assert output == "hello\n\n        world\n\nstderr:\n\n no disk\nat all\n"
    assert "stdout" not in fields


def test_a_request_is_canceled(stub, invoke):
    answers(stub, (200, REQUEST))
    assert invoke("requests", "cancel", "1000001").stdout == "request 1000001 canceled\n"
    assert (stub.seen[0]["method"], stub.seen[0]["resource"]) == ("delete", "/requests/1000001")


# Doing something to jobs


@pytest.mark.parametrize(
    ("command", "status"), [("pause", "paused"), ("resume", "dispatching"), ("cancel", "canceled")]
)
def test_jobs_are_paused_resumed_and_canceled(stub, invoke, command, status):
    answers(stub, (200, make_job(status=status, canceled=1)))
    result = invoke("jobs", command, "1000000")
    assert (result.exit_code, result.stdout) == (0, f"job 1000000 {status}: 1 canceled\n")
    assert (stub.seen[0]["method"], stub.seen[0]["data"]) == ("put", {"status": status})


def test_several_jobs_are_removed_one_after_the_other_until_one_fails(stub, invoke):
    answers(stub, (200, make_job(5)), (404, {"message": "no job has the id 6"}))
    result = invoke("jobs", "remove", "5", "6", "7")
    assert result.exit_code == 1
    assert result.stdout == "job 5 removed\n"
    assert result.stderr == "Error: no job has the id 6 (code 404)\n"
    assert [message["resource"] for message in stub.seen] == ["/jobs/5", "/jobs/6"]


def test_changes_as_json_are_a_line_for_each_job(stub, invoke):
    answers(stub, (200, make_job(5)), (200, make_job(6)))
    lines = invoke("jobs", "pause", "5", "6", "--json").stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == [5, 6]


# Running a command


def test_run_makes_a_job(stub, invoke):
    answers(stub, (200, {**make_job(created=3), "requests": [1, 2, 3]}))
    result = invoke("run", "-d", "a,b", "-d", "-", "POST", "/system/reboot", "--data", '{"delay": 5}', stdin="c\n")
    assert result.exit_code == 0
    assert result.stdout.startswith("job 1000000 created: 3 requests\n")
    assert stub.seen[0]["data"] == {
        "batch": [
            {
                "method": "post",
                "resource": "/system/reboot",
                "data": {"delay": 5},
                "__request": {"destination": ["a", "b", "c"]},
            }
        ]
    }


def test_every_option_of_run_has_its_place_in_the_document(stub, invoke, tmp_path):
    (tmp_path / "data.json").write_text("[1, 2]")
    answers(stub, (200, make_job(created=1)))
    options = (
        f"--data @{tmp_path}/data.json --name nightly --label a --label b=c --key k1 "
        "--timeout 60 --request-timeout 5.5 "
        "--priority 90 --start-at 2026-01-31T12:00:00+02:00 --abort 10 --abort-minimum 20 --concurrency 7 "
        "--rate 60 --rate-factor 2 --rate-every 10 --rate-max 600 "
        "--retry 4 --retry-on 423,503,timeout --retry-delay 2 --retry-factor 3 --retry-max-delay 30"
    )
    assert invoke("run", "-d", "a", "put", "/x", *options.split()).exit_code == 0
    document = stub.seen[0]["data"]
    assert document.pop("batch")[0]["data"] == [1, 2]
    assert document == {
        "name": "nightly",
        "labels": ["a", "b=c"],
        "key": "k1",
        "timeout": 60,
        "requestTimeout": 5.5,
        "priority": 90,
        "startAt": "2026-01-31T10:00:00.000Z",
        "abort": {"errorPercent": 10, "minimum": 20},
        "concurrency": 7,
        "rate": {"perMinute": 60, "factor": 2, "every": 10, "max": 600},
        "retry": {"limit": 4, "on": [423, 503, "timeout"], "delay": 2, "factor": 3, "maxDelay": 30},
    }


def test_the_document_of_run_is_one_that_the_bundle_takes(stub, invoke):
    from puppetmaster.job_document import JobReader

    answers(stub, (200, make_job(created=1)))
    options = "--rate 60 --rate-max 90 --retry 0 --retry-on timeout --abort 5 --label x --start-at +1d --priority 0"
    invoke("run", "-d", "[1-3]", "delete", "/x", *options.split())
    assert JobReader().job(stub.seen[0]["data"]).total == 3


@pytest.mark.parametrize(("text", "seconds"), [("+90s", 90), ("+10m", 600), ("+2h", 7200), ("+1d", 86400)])
def test_a_start_may_be_given_as_a_delay(stub, invoke, text, seconds):
    answers(stub, (200, make_job(created=1)))
    invoke("run", "-d", "a", "get", "/x", "--start-at", text)
    assert from_text(stub.seen[0]["data"]["startAt"]) == pytest.approx(time.time() + seconds, abs=30)


def test_run_as_json_prints_the_job(stub, invoke):
    job = {**make_job(created=1), "requests": [1_000_001]}
    answers(stub, (200, job))
    assert json.loads(invoke("run", "-d", "a", "get", "/x", "--json").stdout) == job


def test_a_dry_run_makes_nothing_and_says_what_there_would_be(stub, invoke):
    preview = {"dryRun": True, "totalCount": 1, "destinationCount": 1, "messageCount": 1}
    answers(stub, (200, preview))
    result = invoke("run", "-d", "a", "get", "/x", "--dry-run")
    assert (result.exit_code, result.stdout) == (
        0,
        "this would make 1 request to 1 destination; nothing was made\n",
    )
    assert stub.seen[0]["data"]["dryRun"] is True
    assert json.loads(invoke("run", "-d", "a", "get", "/x", "--dry-run", "--json").stdout) == preview


def test_a_dry_run_can_not_be_watched(stub, invoke):
    result = invoke("run", "-d", "a", "get", "/x", "--dry-run", "--watch")
    assert result.exit_code == 2
    assert stub.seen == []


def test_a_job_is_run_again(stub, invoke):
    answers(stub, (200, make_job(1_000_009, created=2)))
    result = invoke("jobs", "rerun", "1000000")
    assert result.stdout.startswith("job 1000009 created: 2 requests\n")
    invoke("jobs", "rerun", "1000000", "--status", "canceled", "--status", "error", "--json")
    assert [(message["method"], message["resource"], message["data"]) for message in stub.seen] == [
        ("post", "/jobs/1000000/rerun", {}),
        ("post", "/jobs/1000000/rerun", {"status": ["canceled", "error"]}),
    ]


def test_a_rerun_may_be_previewed_and_watched(stub, invoke):
    preview = {"dryRun": True, "totalCount": 6, "destinationCount": 3, "messageCount": 2}
    answers(stub, (200, preview), (200, make_job(created=1)), (200, make_job(status="resolved", resolved=1)))
    assert "6 requests to 3 destinations" in invoke("jobs", "rerun", "1000000", "--dry-run").stdout
    assert "1 of 1 resolved" in invoke("jobs", "rerun", "1000000", "--watch").stdout


@pytest.mark.parametrize(
    "job", [make_job(resolved=1), {**make_job(created=1), "createdAt": "2026-01-31T12:00:00.000Z"}]
)
def test_a_job_that_the_key_made_before_is_said_to_be_there_already(stub, invoke, job):
    answers(stub, (200, job))
    result = invoke("run", "-d", "a", "get", "/x", "--key", "k")
    assert result.stdout.startswith("job 1000000 is there already, its key made it ")
    assert "created" in invoke("run", "-d", "a", "get", "/x").stdout


def test_a_job_that_the_key_makes_now_is_said_to_be_created(stub, invoke):
    answers(stub, (200, {**make_job(created=1), "createdAt": to_text(time.time())}))
    result = invoke("run", "-d", "a", "get", "/x", "--key", "k")
    assert result.stdout.startswith("job 1000000 created: 1 request\n")


def test_watching_a_job_that_the_key_made_before_says_so(stub, invoke):
    answers(stub, (200, make_job(sent=1)), (200, make_job(status="resolved", resolved=1)))
    result = invoke("run", "-d", "a", "get", "/x", "--key", "k", "--watch")
    assert "is there already" in result.stderr
    assert result.exit_code == 0


@pytest.mark.parametrize("data", ["null", "0", "false", '""'])
def test_data_that_is_empty_is_still_data(stub, invoke, data):
    answers(stub, (200, make_job(created=1)))
    invoke("run", "-d", "a", "post", "/x", "--data", data)
    message = stub.seen[0]["data"]["batch"][0]
    assert message.get("data") == json.loads(data)


# Watching


def test_run_and_watch_ends_with_0_when_all_resolved(stub, invoke):
    answers(stub, (200, make_job(created=2)), (200, make_job(status="resolved", resolved=2)))
    result = invoke("run", "-d", "a,b", "get", "/x", "--watch")
    assert result.exit_code == 0
    assert result.stdout == (
        "job 1000000 resolved 100 %: 2 resolved\njob 1000000 resolved: 2 of 2 resolved, 0 errors, in 2.50 s\n"
    )


@pytest.mark.parametrize(
    ("status", "counts", "failed"),
    [
        ("resolved", {"resolved": 1, "error": 1}, "--status error"),
        ("timeout", {"timeout": 1, "error": 1}, "--status error --status timeout"),
        ("canceled", {"canceled": 2}, None),
        ("aborted", {"error": 1, "canceled": 1}, "--status error"),
    ],
)
def test_watching_ends_with_1_when_something_failed(stub, invoke, status, counts, failed):
    answers(stub, (200, make_job(status=status, **counts)))
    result = invoke("jobs", "watch", "1000000")
    assert result.exit_code == 1
    assert "reason: for the test\n" in result.stderr
    hints = result.stderr.splitlines()[1:]
    assert hints == ([] if failed is None else [
        f"the failed requests: puppetmaster requests list --job 1000000 {failed}",
        "to run them again: puppetmaster jobs rerun 1000000",
    ])  # fmt: skip
    result = invoke("jobs", "watch", "1000000", "--json")
    assert (result.exit_code, result.stderr) == (1, "")
    assert json.loads(result.stdout)["status"] == status


def test_watching_as_json_is_a_line_for_each_change(stub, invoke, monkeypatch):
    monkeypatch.setattr(bus_client, "POLL_PERIOD", 0.05)
    jobs = [make_job(sent=2), make_job(sent=1, resolved=1), make_job(status="resolved", resolved=2)]
    answers(stub, *((200, job) for job in jobs))
    lines = invoke("jobs", "watch", "1000000", "--json").stdout.splitlines()
    assert [json.loads(line) for line in lines] == jobs


def test_without_a_terminal_there_is_a_line_a_second_at_most_and_one_at_the_end(stub, invoke, monkeypatch):
    monkeypatch.setattr(bus_client, "POLL_PERIOD", 0.01)
    clock = itertools.count(100.0, 0.3)  # of its own: a busy machine may take seconds for these states
    monkeypatch.setattr(watching, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    states = [make_job(sent=10 - done, resolved=done) for done in range(10)]
    answers(stub, *((200, job) for job in states), (200, make_job(status="resolved", resolved=10)))
    lines = invoke("jobs", "watch", "1000000").stdout.splitlines()
    assert lines == [
        "job 1000000 dispatching 0 %: 10 sent",
        "job 1000000 dispatching 40 %: 6 sent, 4 resolved",
        "job 1000000 dispatching 80 %: 2 sent, 8 resolved",
        "job 1000000 resolved 100 %: 10 resolved",
        "job 1000000 resolved: 10 of 10 resolved, 0 errors, in 2.50 s",
    ]


def test_watching_says_what_a_job_waits_for_that_has_sent_nothing(stub, invoke, monkeypatch):
    monkeypatch.setattr(bus_client, "POLL_PERIOD", 0.05)
    monkeypatch.setattr(watching, "TURN", 0.1)
    seen = []

    def answer(message):
        seen.append(message["resource"])
        if message["resource"].startswith("/requests"):
            return 200, []
        told = any(resource.startswith("/requests") for resource in seen)
        return 200, make_job(status="resolved", resolved=2) if told else make_job(created=2)

    stub.answer = answer
    result = invoke("jobs", "watch", "1000000")
    assert result.exit_code == 0
    (said,) = result.stderr.splitlines()
    assert said.startswith("waiting: 0 of 2 are sent; the window may be full")


def test_a_job_that_is_removed_while_it_is_watched_is_no_success(stub, invoke, monkeypatch):
    monkeypatch.setattr(bus_client, "POLL_PERIOD", 0.05)
    answers(stub, (200, make_job(sent=1)), (404, {"message": "no job has the id 1000000"}))
    result = invoke("jobs", "watch", "1000000")
    assert result.exit_code == 1
    assert result.stderr == "job 1000000 was removed while it was watched\n"


def test_the_summary_tells_errors_timeouts_and_cancellations_apart(stub, invoke):
    answers(stub, (200, make_job(status="canceled", resolved=4, error=1, timeout=2, canceled=3)))
    result = invoke("jobs", "watch", "1000000")
    assert "4 of 10 resolved, 1 error, 2 timeouts, 3 canceled, in 2.50 s\n" in result.stdout


def test_watching_says_once_that_the_bundle_is_away_and_once_that_it_is_back(stub, invoke, monkeypatch):
    monkeypatch.setattr(bus_client, "POLL_PERIOD", 0.05)
    away = (404, None)
    answers(stub, (200, make_job(sent=1)), away, away, (200, make_job(status="resolved", resolved=1)))
    result = invoke("jobs", "watch", "1000000")
    assert result.exit_code == 0
    said = result.stderr.splitlines()
    assert len(said) == 2
    assert said[0].startswith("no word on the job for now: nobody serves /jobs/1000000 at the controller")
    assert said[1] == "there is word on the job again"


def test_a_long_name_leaves_room_for_the_bar():
    console = Console(force_terminal=True, width=80, record=True)
    with watching._Bar(console) as bar:
        bar.show({**make_job(sent=5000, resolved=4000), "name": "firmware of all boxes in the north of the country"})
    text = console.export_text()
    assert "job 1000000 firmware of all box\N{HORIZONTAL ELLIPSIS} " in text
    assert text.count("\N{BOX DRAWINGS HEAVY HORIZONTAL}") > 10


def test_the_bar_shows_progress_and_counts():
    console = Console(force_terminal=True, width=100, record=True)
    with watching._Bar(console) as bar:
        bar.show({**make_job(sent=5, resolved=4, error=1), "name": "night\x1b[2Jly"})
    text = console.export_text()
    assert "job 1000000 night\N{REPLACEMENT CHARACTER}[2Jly" in text
    assert "50 %" in text
    assert "5/10" in text
    assert "dispatching  5 sent  4 resolved  1 error" in text


# Errors and interruptions


def test_a_refused_job_is_an_error_with_every_fault(stub, invoke):
    faults = [{"path": f"batch.{number}.method", "message": "it is bad"} for number in range(12)]
    answers(stub, (400, {"message": "12 faults", "errors": faults}))
    result = invoke("run", "-d", "a", "get", "/x")
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert lines[:2] == ["Error: 12 faults (code 400)", "  batch.0.method: it is bad"]
    assert lines[-1] == "  and 2 more"
    assert len(lines) == 12


def test_a_bundle_that_is_not_there_is_an_error_that_says_what_to_do(stub, invoke):
    result = invoke("jobs", "list")
    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: nobody serves /jobs at the controller behind {stub.address}: "
        "is puppetmaster running (puppetmaster serve)?\n"
    )


def test_a_broker_that_is_not_there_is_an_error_that_says_why(free_address, monkeypatch):
    monkeypatch.setattr(bus_client, "CONNECT_TIMEOUT", 0.3)
    monkeypatch.setattr(bus_client.BusClient.start, "__defaults__", (0.3,))
    result = CliRunner().invoke(app, ["jobs", "list", "--broker", free_address.url()])
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert f"no connection to the broker at {free_address}" in result.stderr
    assert "Connection refused" in result.stderr
    assert "(--broker)" in result.stderr


def test_a_broker_that_does_not_take_the_password_is_told_apart_from_one_that_is_not_there(monkeypatch):
    async def start(self):
        reason = f"{DENIED}: code 135 (Connection Refused: Not authorized)"
        logging.getLogger("puppetmaster.bus").warning("broker at %s: %s; trying again", self.address, reason)
        raise BusError("no connection")

    monkeypatch.setattr(bus_client.BusClient, "start", start)
    result = CliRunner().invoke(app, ["jobs", "list", "--broker", "mqtt://me@host"])
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: no connection (it does not take the user or the password: code 135 (Connection Refused: Not "
        "authorized)); the user stands in --broker (mqtt://user@host), the password in the file of "
        "--broker-password-file\n"
    )


def test_a_name_that_is_no_text_is_bad_usage(stub, invoke):
    result = invoke("run", "-d", "a", "get", "/x", "--name", "\udcff")
    assert result.exit_code == 2
    assert stub.seen == []


@pytest.mark.parametrize(
    ("arguments", "note"),
    [
        (("jobs", "watch", "1000000"), "job 1000000 goes on without this command"),
        (("run", "-d", "a", "get", "/x", "--watch"), "job 1000000 goes on without this command"),
    ],
)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_ends_watching_and_leaves_the_job(stub, arguments, note, number, status):
    answers(stub, (200, make_job(sent=1)))
    with start(*arguments, "--broker", stub.address.url()) as process:
        assert process.stdout.readline() == "job 1000000 dispatching 0 %: 1 sent\n"
        process.send_signal(number)
        output, errors = process.communicate(timeout=20)
    assert (process.returncode, output) == (status, "")
    assert errors == f"{note}; see it again: puppetmaster jobs watch 1000000\n"


def test_ctrl_c_before_the_answer_says_that_there_may_be_a_job(stub):
    asked = []
    stub.answer = lambda message: asked[0].send_signal(signal.SIGINT)
    with start("run", "-d", "a", "get", "/x", "--broker", stub.address.url()) as process:
        asked.append(process)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "may have been created" in errors


def test_a_reader_that_goes_away_is_no_traceback(stub):
    answers(stub, (200, [make_job(number) for number in range(1500)]))
    with start("jobs", "list", "--broker", stub.address.url()) as process:
        process.stdout.close()
        process.stdout = None
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert errors == ""


def start(*arguments):
    command = [sys.executable, "-m", "puppetmaster", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0.00 s"), (2.5, "2.50 s"), (59, "59 s"), (60, "1 min"), (7200, "2 h"), (86400 * 9, "9 d")],
)
def test_durations_are_said_as_people_say_them(seconds, text):
    assert render.duration(seconds) == text
