"""The unit of puppetmaster against systemd and against the program."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command

from puppetmaster.cli.app import make_app
from puppetmaster.process_memory import SHARE
from puppetmaster.settings import options

UNIT = Path(__file__).resolve().parents[1] / "packaging" / "puppetmaster.service"
LINES = UNIT.read_text().splitlines()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_has_nothing_to_say_against_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/puppetmaster/bin/puppetmaster", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    unit.write_text(unit.read_text() + "NoSuchLine=1\n")
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert "NoSuchLine" in done.stderr, "systemd-analyze does not look"


@pytest.mark.parametrize(
    "line",
    ["NoNewPrivileges=yes", "ProtectSystem=strict", "StateDirectory=puppetmaster", "PrivateTmp=yes",
     "Restart=on-failure", "User=puppetmaster", "SystemCallFilter=@system-service"],
)  # fmt: skip
def test_the_unit_keeps_it_confined(line: str) -> None:
    assert line in LINES


def test_what_the_unit_starts_is_a_command_with_flags_that_there_are() -> None:
    program, name, *words = shlex.split(next(line for line in LINES if line.startswith("ExecStart=")).partition("=")[2])
    assert program.endswith("/puppetmaster")
    command = get_command(make_app()).commands[name]  # type: ignore[attr-defined]
    flags = {flag for parameter in command.params for flag in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= flags


def test_the_variables_that_the_unit_names_are_settings() -> None:
    named = set(re.findall(r"PUPPETMASTER_[A-Z_]+", UNIT.read_text()))
    assert len(named) > 3
    assert named <= {option.env for option in options()}


def test_the_unit_says_where_the_guard_of_the_memory_is() -> None:
    assert "MemoryMax=1G" in LINES
    assert f"# puppetmaster refuses new jobs at {SHARE:.0%}".replace("%", " %") in UNIT.read_text()
