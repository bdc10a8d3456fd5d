"""The commands on devices: what they ask, and what people see of the answers."""

import json

import pytest
from typer.testing import CliRunner

from puppetmaster.cli.app import make_app

app = make_app()

DEVICE = {
    "id": "device-0001",
    "channel": "mqtt",
    "connection": "online",
    "connectionChangedAt": "2026-01-31T12:00:00.000Z",
    "firstSeenAt": "2026-01-31T12:00:00.000Z",
    "lastSeenAt": "2026-01-31T12:00:00.000Z",
    "labels": {"site": "berlin", "rack": "7"},
    "facts": {"hostname": "box", "system": "Linux", "version": "1.5.0", "cores": 4, "edge": True},
    "telemetry": {"at": None, "frequent": {"load": 0.5}, "seldom": None},
    "currentRequest": 1_000_001,
}
SILENT = {**DEVICE, "id": "silent\x1b[2J", "connection": "unknown", "firstSeenAt": None, "lastSeenAt": None,
          "labels": {}, "facts": {}, "currentRequest": None}  # fmt: skip


@pytest.fixture
def invoke(stub):
    def run(*arguments):
        command = ["devices", *arguments, "--broker", stub.address.url()]
        return CliRunner().invoke(app, command, env={"COLUMNS": "200"})

    return run


def test_a_list_is_a_table(stub, invoke):
    stub.answer = lambda message: (200, [DEVICE, SILENT])
    result = invoke("list")
    assert result.exit_code == 0
    header, first, second = (line.split() for line in result.stdout.splitlines())
    assert header == ["id", "connection", "seen", "request", "labels", "hostname", "system", "version"]
    assert [first[0], first[1], first[-4:]] == ["device-0001", "online", ["site=berlin", "box", "Linux", "1.5.0"]]
    assert "1000001" in first
    assert second[1:] == ["unknown", "-", "-", "-", "-", "-", "-"]
    assert "\x1b" not in result.stdout
    assert stub.seen[0]["resource"] == "/devices?limit=100&offset=0"


def test_filters_are_asked_for(stub, invoke):
    stub.answer = lambda message: (200, [])
    result = invoke("list", "-c", "offline", "-l", "site=köln", "-f", "version", "--id", "dev-*", "--limit", "5")
    assert (result.exit_code, result.stdout) == (0, "no devices\n")
    assert stub.seen[0]["resource"] == (
        "/devices?connection=offline&label=site%3Dk%C3%B6ln&fact=version&id=dev-%2A&limit=5&offset=0"
    )


def test_json_is_what_was_answered(stub, invoke):
    stub.answer = lambda message: (200, [DEVICE] if message["resource"].startswith("/devices?") else DEVICE)
    assert json.loads(invoke("list", "--json").stdout) == [DEVICE]
    assert json.loads(invoke("show", "device-0001", "--json").stdout) == DEVICE
    assert json.loads(invoke("label", "device-0001", "a=b", "--json").stdout) == DEVICE


def test_a_device_is_shown_with_all_that_is_known(stub, invoke):
    stub.answer = lambda message: (200, DEVICE)
    shown = invoke("show", "a/b?c").stdout
    assert stub.seen[0]["resource"] == "/devices/a%2Fb%3Fc"
    for text in ("rack=7, site=berlin", "cores=4, edge=true", "1000001", "online"):
        assert text in shown, text


def test_how_a_device_is_stands_in_lines(stub, invoke):
    seldom = {"cores": 4, "memoryBytes": 16 * 2**30, "disk": 61.7, "diskBytes": 2**38, "system": "Linux"}
    frequent = {"load": [0.1, 0.25, 2], "cpu": 3.4, "memory": 42, "fan": "on\x1b[2J", "rpm": 900}
    stub.answer = lambda message: (200, {**DEVICE, "telemetry": {"at": None, "frequent": frequent, "seldom": seldom}})
    shown = dict(line.split(maxsplit=1) for line in invoke("show", "device-0001").stdout.splitlines())
    assert shown["load"] == "0.10  0.25  2.00"
    assert (shown["cpu"], shown["memory"], shown["disk"]) == ("3 % of 4 cores", "42 % of 16 GiB", "62 % of 256 GiB")
    assert (shown["rpm"], shown["fan"], shown["telemetry"]) == ("900", "on\N{REPLACEMENT CHARACTER}[2J", "-")
    assert "system" not in shown


@pytest.mark.parametrize(
    ("told", "lines"),
    [
        (None, []),
        ({"at": None, "frequent": None, "seldom": None}, []),
        ({"at": None, "frequent": {"load": 0.5}, "seldom": None}, [["telemetry", "-"], ["load", "0.50"]]),
        ({"at": None, "frequent": {"load": ["x"], "cpu": "y"}}, [["telemetry", "-"], ["load", "x"], ["cpu", "y"]]),
    ],
)
def test_what_a_device_does_not_tell_is_not_shown(stub, invoke, told, lines):
    stub.answer = lambda message: (200, {**DEVICE, "telemetry": told})
    shown = [line.split() for line in invoke("show", "device-0001").stdout.splitlines()]
    assert [line for line in shown if line[0] in ("telemetry", "load", "cpu", "memory", "disk")] == lines


def test_this_machine_is_here(stub, invoke):
    stub.answer = lambda message: (200, [{**DEVICE, "id": "localhost", "channel": "local"}])
    assert invoke("list").stdout.splitlines()[1].split()[:3] == ["localhost", "online", "here"]


def test_labels_are_set_and_taken_away(stub, invoke):
    stub.answer = lambda message: (200, DEVICE)
    result = invoke("label", "..", "site=berlin", "rack=", "old-", "a=b=c")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "..: rack=7, site=berlin\n", "")
    [asked] = stub.seen
    assert (asked["method"], asked["resource"]) == ("put", "/devices/%2E%2E")
    assert asked["data"] == {"labels": {"site": "berlin", "rack": "", "old": None, "a": "b=c"}}


def test_a_label_for_a_device_that_was_never_heard_of_says_so(stub, invoke):
    stub.answer = lambda message: (200, SILENT)
    result = invoke("label", "pump", "x-")
    assert (result.exit_code, result.stdout) == (0, "pump: no labels\n")
    assert result.stderr == "nobody has heard of pump yet\n"


@pytest.mark.parametrize("text", ["site", "=x", "-", ""])
def test_what_is_no_label_is_bad_usage(stub, invoke, text):
    result = invoke("label", "device-0001", "--", text)
    assert result.exit_code == 2
    assert stub.seen == []


def test_devices_are_removed_one_after_the_other_until_one_is_not_there(stub, invoke):
    def answer(message):
        name = message["resource"].rpartition("/")[2]
        return (404, {"message": f"no device is called '{name}'"}) if name == "b" else (200, {**DEVICE, "id": name})

    stub.answer = answer
    result = invoke("remove", "a", "b", "c")
    assert (result.exit_code, result.stdout) == (1, "device a removed\n")
    assert result.stderr == "Error: no device is called 'b' (code 404)\n"
    assert [(asked["method"], asked["resource"]) for asked in stub.seen] == [
        ("delete", "/devices/a"), ("delete", "/devices/b"),
    ]  # fmt: skip


def test_values_of_a_fact_are_a_table(stub, invoke):
    stub.answer = lambda message: (200, [
        {"value": "1.4", "count": 12, "devices": ["a", "b"]}, {"value": None, "count": 1, "devices": ["c"]},
    ])  # fmt: skip
    result = invoke("count", "version", "-l", "site=berlin", "-c", "online")
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["count", "value", "examples"], ["12", "1.4", "a,", "b"], ["1", "-", "c"],
    ]  # fmt: skip
    assert stub.seen[0]["resource"] == "/devices/facts/version?connection=online&label=site%3Dberlin&limit=100"
    stub.answer = lambda message: (200, [])
    assert invoke("count", "version").stdout == "no devices\n"
