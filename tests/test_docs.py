"""The pages that are made from the program are those that this program makes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from puppetmaster.states import JOB_TRANSITIONS, REQUEST_TRANSITIONS

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "states.md"


def make_states(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(root / "docs" / "make_states.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The parts of the repository that the script reads and writes."""
    for name in ("docs/make_states.py", "docs/states.md", "puppetmaster/states.py", "puppetmaster/errors.py"):
        target = tmp_path / name
        target.parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, target)
    (tmp_path / "puppetmaster" / "__init__.py").touch()
    return tmp_path


def test_the_page_of_states_is_up_to_date() -> None:
    checked = make_states(ROOT, "--check")
    assert checked.returncode == 0, checked.stderr


def test_a_page_that_is_out_of_date_is_found_out_and_mended(copy: Path) -> None:
    source = copy / "puppetmaster" / "states.py"
    source.write_text(source.read_text().replace('"""The broker has it."""', '"""The broker took it."""'))
    checked = make_states(copy, "--check")
    assert checked.returncode == 1
    assert "docs/states.md is out of date" in checked.stderr
    assert make_states(copy).returncode == 0
    assert make_states(copy, "--check").returncode == 0
    assert "The broker took it." in (copy / "docs" / "states.md").read_text()


def test_a_page_that_is_not_there_is_out_of_date(copy: Path) -> None:
    (copy / "docs" / "states.md").unlink()
    assert make_states(copy, "--check").returncode == 1


def test_another_argument_is_bad_usage(copy: Path) -> None:
    assert make_states(copy, "--help").returncode == 2


def test_the_diagrams_have_every_exit_of_the_tables() -> None:
    text = PAGE.read_text(encoding="utf-8")
    requests, jobs = re.findall(r"```mermaid\n(.*?)```", text, re.DOTALL)
    for drawn, table in ((requests, REQUEST_TRANSITIONS), (jobs, JOB_TRANSITIONS)):
        arrows = {
            (start, event, end)
            for start, end, events in re.findall(r"^ +(\w+) --> (\w+): (.+)$", drawn, re.MULTILINE)
            for event in events.split(", ")
        }
        assert arrows == {
            (status.value, event.value, target.value) for status, row in table.items() for event, target in row.items()
        }
        ends = set(re.findall(r"^ +(\w+) --> \[\*\]$", drawn, re.MULTILINE))
        assert ends == {status.value for status, row in table.items() if not row}
