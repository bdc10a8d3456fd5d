"""The command line itself: help, versions, bad usage, settings. Nothing here needs a broker."""

import json
import subprocess
import sys

import pytest
import tomllib
import typer.main
from typer.testing import CliRunner

from puppetmaster.cli.app import make_app
from puppetmaster.settings import options
from puppetmaster.version import __version__

app = make_app()

COMMANDS = [
    "run",
    "serve",
    "controller",
    "broker",
    "simulate",
    "agent",
    "demo",
    "settings",
    "jobs list",
    "jobs show",
    "jobs watch",
    "jobs pause",
    "jobs resume",
    "jobs cancel",
    "jobs remove",
    "jobs rerun",
    "jobs answers",
    "requests list",
    "requests show",
    "requests cancel",
    "accounts add",
    "accounts list",
    "accounts remove",
    "accounts passwd",
    "accounts role",
    "accounts token",
    "accounts logout",
]


def invoke(*arguments, stdin="", **environ):
    return CliRunner().invoke(app, list(arguments), input=stdin, env={"COLUMNS": "200", **environ})


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command):
    result = invoke(*command.split(), "--help")
    assert result.exit_code == 0
    assert "Example" in result.stdout
    assert f"puppetmaster {command}" in result.stdout.partition("Example")[2]


def test_the_list_of_commands_in_this_test_is_complete():
    listed = invoke("--help").stdout
    assert all(command.split()[0] in listed for command in COMMANDS)


@pytest.mark.parametrize("group", [[], ["jobs"], ["requests"], ["accounts"]])
def test_a_group_alone_prints_its_help(group):
    assert "Commands" in invoke(*group).output


def test_the_version_is_printed():
    assert invoke("--version").stdout == f"puppetmaster {__version__}\n"


def test_the_help_does_not_load_the_parts():
    script = (
        "import sys\n"
        "from puppetmaster.cli.app import make_app; make_app()\n"
        "heavy = {'gmqtt', 'paho', 'sanji', 'amqtt', 'tinydb', 'pydantic', 'uvloop'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_python_m_puppetmaster_is_the_same_program():
    command = [sys.executable, "-m", "puppetmaster", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.startswith("puppetmaster ")


RUN = ("run", "-d", "a", "post", "/x")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("frob",), "No such command"),
        (("jobs", "frob"), "No such command"),
        (("jobs", "show"), "Missing argument"),
        (("jobs", "show", "five"), "ID"),
        (("jobs", "show", "-5"), ""),
        (("jobs", "list", "--limit", "0"), "--limit"),
        (("jobs", "list", "--offset", "-1"), "--offset"),
        (("requests", "list", "--job", "x"), "--job"),
        (("run", "post", "/x"), "--destination"),
        (("run", "-d", "a", "fly", "/x"), "fly"),
        (("run", "-d", "a", "post"), "resource"),
        (("run", "-d", "a", "post", "x"), "RESOURCE: it begins with /"),
        (("run", "-d", "a/b", "post", "/x"), "-d: 'a/b' can't be used"),
        (("run", "-d", "[3-1]", "post", "/x"), "-d: the range [3-1] runs backwards"),
        (("run", "-d", "@/none", "post", "/x"), "-d: can't read /none"),
        ((*RUN, "--data", "{bad"), "--data: it is no valid JSON"),
        ((*RUN, "--data", "NaN"), "--data: it is no valid JSON"),
        ((*RUN, "--data", ""), "--data: it is no valid JSON"),
        ((*RUN, "--data", "@/none"), "--data: can't read /none"),
        ((*RUN, "--timeout", "0"), "--timeout"),
        ((*RUN, "--timeout", "nan"), "--timeout"),
        ((*RUN, "--request-timeout", "inf"), "--request-timeout"),
        ((*RUN, "--priority", "101"), "--priority"),
        ((*RUN, "--concurrency", "0"), "--concurrency"),
        ((*RUN, "--rate", "-1"), "--rate"),
        ((*RUN, "--rate-max", "5"), "needs --rate too"),
        ((*RUN, "--abort-minimum", "5"), "needs --abort too"),
        ((*RUN, "--retry-on", "now"), "--retry-on: it is a list of codes"),
        ((*RUN, "--start-at", "soon"), "--start-at: it is a time"),
        ((*RUN, "--start-at", "+999999999d"), "--start-at: it is a time"),
        ((*RUN, "--broker", "http://x"), "broker (from flag --broker): the scheme must be mqtt or mqtts"),
        ((*RUN, "--ca-file", "/none"), "ca_file (from flag --ca-file): there is no file /none"),
        ((*RUN, "--broker-cert", __file__), "broker_cert (from flag --broker-cert): a certificate for the broker"),
        ((*RUN, "--window", "5"), "No such option"),
        (("settings", "--window", "0"), "window (from flag --window): it must be a whole number from 1 to 1000"),
        (("settings", "--config", "/none.toml"), "config (from flag --config): can't read /none.toml"),
        (("serve", "--qos", "3"), "qos (from flag --qos)"),
        (("serve", "--embedded", "--broker", "mqtt://far.example"), "--embedded: it starts a broker on this machine"),
        (("serve", "--embedded", "--broker", "mqtts://localhost"), "--embedded: its broker knows neither TLS"),
        (("controller", "--local-id", "a/b"), "--local-id"),
        (("broker", "--port", "0"), "--port"),
        (("broker", "--kind", "emqx"), "emqx"),
        (("simulate",), "either how many"),
        (("simulate", "--devices", "3", "--names", "a"), "either how many"),
        (("simulate", "--names", "a/b"), "--names: 'a/b' can't be used"),
        (("simulate", "--devices", "3", "--errors", "1.5"), "--errors"),
        (("simulate", "--devices", "3", "--errors", "nan"), "errors"),
        (("simulate", "--devices", "3", "--latency", "slow"), "a latency is written"),
        (("demo", "--devices", "0"), "--devices"),
    ],
)
def test_bad_usage_ends_with_2_and_says_what_is_wrong(arguments, reason):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert reason.lower() in result.stderr.lower()
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_a_variable_that_can_not_be_used_is_named():
    result = invoke("jobs", "list", PUPPETMASTER_BROKER="mqtt://")
    assert result.exit_code == 2
    assert result.stderr == "Error: broker (from environment PUPPETMASTER_BROKER): it names no host\n"


def test_an_unknown_setting_in_the_file_is_named(tmp_path):
    (tmp_path / "work" / "puppetmaster.toml").write_text("windwo = 1")
    result = invoke("settings")
    assert result.exit_code == 2
    assert "windwo (from file puppetmaster.toml): there is no such setting" in result.stderr


def test_a_port_that_is_taken_is_said_before_anything_is_started(free_address):
    import socket

    with socket.create_server((free_address.host, free_address.port)):
        result = invoke("serve", "--embedded", "--broker", free_address.url())
    assert result.exit_code == 2
    assert "(Address already in use): leave --embedded out" in result.stderr


# Settings


def test_settings_are_shown_with_their_sources_and_without_the_password(tmp_path):
    (tmp_path / "work" / "puppetmaster.toml").write_text('log = "debug"')
    result = invoke("settings", "--qos", "2", PUPPETMASTER_BROKER="mqtt://me:hunter2@example")
    assert result.exit_code == 0
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in result.stdout.splitlines()}
    assert rows["broker"] == ["mqtt://me:***@example:1883", "environment PUPPETMASTER_BROKER"]
    assert rows["qos"] == ["2", "flag --qos"]
    assert rows["log"] == ["debug", "file puppetmaster.toml"]
    assert [part.strip() for part in rows["window"]] == ["500", "default"]
    assert "hunter2" not in result.output


def test_a_password_on_the_command_line_is_warned_of(tmp_path):
    file = tmp_path / "password"
    file.write_text("hunter2\n")
    shown = invoke("settings", "--broker", "mqtt://me:hunter2@example")
    assert "everybody on this machine can read a password on the command line" in shown.stderr
    assert "hunter2" not in shown.output + shown.stderr
    told = invoke("settings", "--broker", "mqtt://me@example", "--broker-password-file", str(file))
    assert (told.exit_code, told.stderr) == (0, "")
    assert "mqtt://me:***@example:1883" in told.stdout and "hunter2" not in told.stdout


AT_ONCE = [["controller", "--local-id", "a/b"], ["agent", "--id", "a", "--folder", "/proc/nowhere"]]
"""What logs, and ends by itself."""


@pytest.mark.parametrize("words", AT_ONCE)
def test_what_has_a_log_warns_of_a_password_too_and_says_all_in_json_where_that_is_the_log(words):
    exposed = [sys.executable, "-m", "puppetmaster", *words, "--broker", "mqtt://me:hunter2@example"]
    text = subprocess.run(exposed, capture_output=True, text=True, timeout=60)
    warning, error = text.stderr.splitlines()
    assert warning.startswith("Warning: everybody on this machine can read a password")
    assert error.startswith("Error: ")
    lines = subprocess.run([*exposed, "--log", "json"], capture_output=True, text=True, timeout=60).stderr
    assert [json.loads(line)["event"] for line in lines.splitlines()] == ["said", "cannot_run"]
    assert "hunter2" not in lines + text.stderr


def test_settings_as_json_are_one_document():
    result = invoke("settings", "--json", "--window", "7")
    document = json.loads(result.stdout)
    assert document["window"] == {"value": 7, "source": "flag --window"}
    assert document["instance"] == {"value": None, "source": "default"}
    assert list(document) == [option.name for option in options()]


def test_the_shown_settings_make_a_file_that_gives_the_same(tmp_path):
    shown = json.loads(invoke("settings", "--json", "--window", "7", "--instance", "north").stdout)
    lines = [f"{name} = {json.dumps(entry['value'])}" for name, entry in shown.items() if entry["value"] is not None]
    file = tmp_path / "same.toml"
    file.write_text("\n".join(lines))
    assert tomllib.loads(file.read_text())["window"] == 7
    again = json.loads(invoke("settings", "--json", "--config", str(file)).stdout)
    assert {name: entry["value"] for name, entry in again.items()} == {
        name: entry["value"] for name, entry in shown.items()
    }


# Commands that run until they are told to stop


def test_serve_runs_the_bundle_with_the_settings_and_ends_with_its_status(monkeypatch):
    import puppetmaster.bundle

    seen = []
    monkeypatch.setattr(puppetmaster.bundle, "run", lambda settings: seen.append(settings) or 3)
    result = invoke("serve", "--window", "9", "--instance", "north", "--data", "/d")
    assert result.exit_code == 3
    assert (seen[0].window, seen[0].instance, str(seen[0].data)) == (9, "north", "/d")


def test_a_fault_in_the_program_is_one_line_too(monkeypatch, capsys):
    import puppetmaster.bundle
    from puppetmaster import cli

    def broken(settings):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(puppetmaster.bundle, "run", broken)
    monkeypatch.setattr(sys, "argv", ["puppetmaster", "serve"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    assert capsys.readouterr().err.startswith("Error: ZeroDivisionError: oops (a bug; ")


def commands(group=None, name="puppetmaster"):
    """Every command by its whole name."""
    group = group or typer.main.get_command(app)
    for word, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{name} {word}")
        else:
            yield f"{name} {word}", command


@pytest.mark.parametrize(("name", "command"), [pytest.param(*found, id=found[0]) for found in commands()])
def test_help_is_wrapped_by_the_terminal_alone(name, command):
    for paragraph in command.help.split("\n\n"):
        if paragraph.startswith("\b"):
            assert all(len(line) <= 77 for line in paragraph.splitlines()), paragraph
        else:
            assert "\n" not in paragraph


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("dutserver server abc x.db", "'PORT': it must be a whole number"),
        ("dutserver addaccount x.db bob boss", "'KIND': 'boss' is not one of"),
        ("jobs list --limit 0", "'--limit': it must be 1 or more"),
        ("simulate --errors 2", "'--errors': it must be 1 or less"),
        ("worker --manager foo", "Error: --manager: it must be http://host:port"),
        ("agent --commands all", "Error: id: say what this device is called: --id"),
    ],
)
def test_faults_are_told_in_plain_words(arguments, said):
    result = invoke(*arguments.split())
    assert result.exit_code == 2 and said in result.output
    assert "Input should" not in result.output


def test_jobrunner_tells_its_own_defaults():
    shown = " ".join(invoke("jobrunner", "--help").stdout.split())
    assert "default data/jobrunner" in shown and "PUPPETMASTER_COMMANDS, default all" in shown
