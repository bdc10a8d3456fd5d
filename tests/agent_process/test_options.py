"""The agent's settings: where they come from, and what they may be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from puppetmaster.agent.options import default_folder, options, read_options
from puppetmaster.errors import SettingsError
from tests.certificates import make_certificate


def test_what_is_not_said_is_the_default() -> None:
    settings = read_options(["--id", "a"], {})
    assert (settings.id, str(settings.broker), settings.controller) == ("a", "mqtt://localhost:1883", None)
    assert (settings.commands, settings.telemetry, settings.controller_timeout) == ("off", 30.0, 60.0)
    assert (settings.labels, settings.facts, settings.kill_on_stop) == ({}, {}, False)
    assert settings.output_limit == 1024 * 1024


def test_a_flag_wins_over_its_variable_and_that_over_the_common_one() -> None:
    environ = {"PUPPETMASTER_BROKER": "common", "PUPPETMASTER_AGENT_BROKER": "own", "PUPPETMASTER_AGENT_ID": "b"}
    assert read_options(["--broker", "flag"], environ).broker.host == "flag"
    assert read_options([], environ).broker.host == "own"
    assert read_options([], {**environ, "PUPPETMASTER_AGENT_BROKER": ""}).broker.host == "common"
    assert read_options([], environ).id == "b"


def test_every_setting_can_come_from_the_environment(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("hunter2\n")
    cert, key = make_certificate(tmp_path, "me")
    pem = tmp_path / "ca.pem"
    pem.write_text(cert.read_text())
    environ = {
        "ID": "a", "BROKER": "mqtts://me@b", "BROKER_PASSWORD_FILE": str(password), "CA_FILE": str(pem),
        "BROKER_CERT": str(cert), "BROKER_KEY": str(key),
        "LABEL": "x=1,y=2", "FACT": "z=3", "COMMANDS": "all", "OUTPUT_LIMIT": "64k",
        "CONTROLLER": "c:99", "CONTROLLER_TIMEOUT": "5", "TELEMETRY": "0",
        "FOLDER": str(tmp_path), "TOPIC": "/{destination}/in", "KILL_ON_STOP": "yes", "LOG": "DEBUG",
    }  # fmt: skip
    assert {option.env for option in options()} == {f"PUPPETMASTER_AGENT_{name}" for name in environ}
    settings = read_options([], {f"PUPPETMASTER_AGENT_{name}": value for name, value in environ.items()})
    assert settings.broker.tls and settings.broker.ca_file == pem
    assert (settings.broker.cert, settings.broker.key) == (cert, key)
    assert (settings.broker.username, settings.broker.password) == ("me", "hunter2")
    assert (settings.labels, settings.facts) == ({"x": "1", "y": "2"}, {"z": "3"})
    assert (settings.output_limit, settings.telemetry, settings.kill_on_stop) == (65536, 0.0, True)
    assert settings.controller is not None and settings.controller.port == 99
    assert settings.controller.cert is None, "the certificate is for the broker"
    assert (settings.folder, settings.topic, settings.log) == (tmp_path, "/{destination}/in", "debug")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ([], "id"), (["--id", "a/b"], "id"), (["--id", "#"], "id"), (["--id="], "id"),
        (["--broker", "http://x"], "broker"), (["--controller", "x:99999"], "controller"),
        (["--ca-file", "/nowhere"], "ca_file"), (["--label", "x"], "label"), (["--label", "=x"], "label"),
        (["--label", "a b=c"], "label"), (["--label", "a=\x01"], "label"), (["--label", "a=" + "x" * 300], "label"),
        (["--label", ",".join(f"l{n}=1" for n in range(65))], "label"), (["--fact", "y"], "fact"),
        (["--output-limit", "-1"], "output_limit"), (["--output-limit", "1t"], "output_limit"),
        (["--output-limit", "9999m"], "output_limit"), (["--telemetry", "nan"], "telemetry"),
        (["--telemetry", "-1"], "telemetry"), (["--controller-timeout", "0"], "controller_timeout"),
        (["--topic", "/x"], "topic"), (["--topic", "/{destination}/#"], "topic"), (["--log", "loud"], "log"),
        (["--folder", "\0"], "folder"),
    ],
    ids=str,
)  # fmt: skip
def test_what_can_not_be_used_is_named_with_its_source(words: list[str], name: str) -> None:
    named = words if not words or words[0].startswith("--id") else ["--id", "a", *words]
    with pytest.raises(SettingsError) as raised:
        read_options(named, {})
    assert raised.value.name == name
    assert raised.value.source == ("default" if not words else f"flag --{name.replace('_', '-')}")


def test_each_id_has_a_folder_of_its_own_with_a_name_that_a_file_system_takes() -> None:
    names = ["press-7", "..", ".", ".hidden", "a b", "ä" * 128, "ä" * 127 + "b", "%2E", "x" * 128]
    folders = [default_folder(name, {"XDG_STATE_HOME": "/state"}) for name in names]
    assert len(set(folders)) == len(names)
    for folder in folders:
        assert folder.parent.name == "puppetmaster-agent"
        assert not folder.name.startswith(".") and "/" not in folder.name and len(folder.name.encode()) <= 255


def test_the_agent_loads_nothing_that_it_does_not_need() -> None:
    script = (
        "import sys\n"
        "import puppetmaster.agent.process\n"
        "heavy = {'typer', 'rich', 'pydantic', 'sanji', 'paho', 'fastapi', 'httpx'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=os.environ)
    assert (done.returncode, done.stderr) == (0, "")
