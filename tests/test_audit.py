"""The audit log: one line a write, whatever the values, the disk and logrotate do."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import shutil
import stat
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puppetmaster.accounts import audit as audit_module
from puppetmaster.accounts.audit import MAX_LINE, Audit
from puppetmaster.errors import FileUnavailable

ROOT = Path(__file__).resolve().parents[1]

NOW = 1_767_225_600.0
ENTRY: dict[str, Any] = {
    "at": NOW,
    "who": "ana",
    "role": "operator",
    "source": "192.0.2.7",
    "method": "post",
    "resource": "/jobs",
    "code": 200,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def audit(path: Path) -> Audit:
    return Audit(path)


def note(audit: Audit, **values: Any) -> None:
    audit.record(**{**ENTRY, **values})


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def resources(entries: list[dict]) -> list[str]:
    return [entry["resource"] for entry in entries]


# A line


def test_a_write_is_one_line_that_says_who_what_when_and_from_where(audit: Audit, path: Path) -> None:
    note(audit, job=1_000_000)
    note(audit, who=None, role="admin", code=409)
    assert path.read_text() == (
        '{"at": "2026-01-01T00:00:00.000Z", "who": "ana", "role": "operator", "from": "192.0.2.7", '
        '"method": "post", "resource": "/jobs", "code": 200, "job": 1000000}\n'
        '{"at": "2026-01-01T00:00:00.000Z", "who": null, "role": "admin", "from": "192.0.2.7", '
        '"method": "post", "resource": "/jobs", "code": 409}\n'
    )


def test_nothing_is_made_before_the_first_line(audit: Audit, path: Path) -> None:
    assert audit.tail(10) == []
    audit.close()
    assert not path.exists()


def test_nobody_else_may_read_the_log(audit: Audit, path: Path) -> None:
    previous = os.umask(0)
    try:
        note(audit)
    finally:
        os.umask(previous)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_makes_belongs_to_the_owner_of_the_folder(audit: Audit, path: Path) -> None:
    os.chown(path.parent, 12345, 12346)
    note(audit)
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 12346)


@pytest.mark.parametrize("breaker", ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029", "\0"])
def test_no_value_can_begin_a_line_of_its_own(audit: Audit, path: Path, breaker: str) -> None:
    forged = f'x{breaker}{{"who": "eve"}}{breaker}'
    note(audit, who=forged, role=forged, source=forged, method=forged, resource=forged, name=forged, **{forged: forged})
    assert len(path.read_text().splitlines()) == 1
    (entry,) = lines(path)
    assert entry["who"] == entry["resource"] == entry["from"] == entry["name"] == entry[forged] == forged


def test_no_value_can_drive_the_terminal_of_who_reads_the_log(audit: Audit, path: Path) -> None:
    note(audit, resource="\x1b[31m\x9b31m\x7f\u202e\ud800")
    assert all(0x20 <= byte < 0x7F for byte in path.read_bytes().rstrip(b"\n"))


def test_no_detail_can_take_the_place_of_what_is_known(audit: Audit, path: Path) -> None:
    note(audit, **{"from": "10.0.0.1"})
    assert lines(path)[0]["from"] == "192.0.2.7"


def test_passwords_and_tokens_never_get_in(audit: Audit, path: Path) -> None:
    note(
        audit,
        password="hunter2",
        newPassword=["hunter2"],
        API_TOKEN={"value": "hunter2"},
        body={"name": "ana", "data": [{"Password": "hunter2", "secret_key": "hunter2", "delay": 5}]},
        headers={"Authorization": "hunter2", "Cookie": "hunter2"},
    )
    assert "hunter2" not in path.read_text()
    (entry,) = lines(path)
    assert entry["password"] == "***"
    assert entry["body"] == {"name": "ana", "data": [{"Password": "***", "secret_key": "***", "delay": 5}]}


class Colour(str, Enum):
    RED = "red"


def endless() -> list:
    found: list = []
    found.append(found)
    return found


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (Colour.RED, "red"),
        (True, True),
        (1.5, 1.5),
        (float("nan"), "a number beyond all"),
        (10**5000, "a number beyond all"),
        (b"raw", "a bytes"),
        ({1: 2}, {"a int": 2}),
        ((1, None), [1, None]),
        ("x" * 5000, "x" * 1024),
        (list(range(1000)), list(range(100))),
    ],
    ids=range(10),
)
def test_any_value_is_written_as_json_of_bounded_size(audit: Audit, path: Path, value: object, written: object) -> None:
    note(audit, value=value)
    assert lines(path)[0]["value"] == written


@pytest.mark.parametrize("value", [[["x" * 1024] * 100] * 100, {str(n): "\0" * 1000 for n in range(100)}, endless()])
def test_details_that_are_too_large_are_left_out(audit: Audit, path: Path, value: object) -> None:
    note(audit, value=value)
    note(audit)
    assert all(len(line) <= MAX_LINE for line in path.read_bytes().splitlines())
    assert len(lines(path)) == 2


@pytest.mark.parametrize("at", [float("nan"), float("inf"), 1e300])
def test_a_time_that_is_none_is_no_reason_to_fail(audit: Audit, path: Path, at: float) -> None:
    note(audit, at=at)
    assert lines(path)[0]["at"] is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
)


@settings(max_examples=50, deadline=None)
@given(who=st.text(st.characters()), details=st.dictionaries(st.text(st.characters()), JSON))
def test_whatever_is_noted_comes_back_as_one_entry(tmp_path_factory, who: str, details: dict) -> None:
    path = tmp_path_factory.mktemp("audit") / "audit.jsonl"
    audit = Audit(path)
    taken = {*ENTRY, "self", "audit"}
    note(audit, **{"who": who, **{name: value for name, value in details.items() if name not in taken}})
    audit.close()
    (entry,) = audit.tail(10)
    assert entry["code"] == 200
    assert path.read_bytes().count(b"\n") == 1


# The file changes under us


def test_after_a_rotation_the_new_file_is_written(audit: Audit, path: Path) -> None:
    note(audit, resource="/old")
    path.rename(path.with_suffix(".1"))
    note(audit, resource="/new")
    assert resources(lines(path)) == ["/new"]
    assert resources(lines(path.with_suffix(".1"))) == ["/old"]
    path.rename(path.with_suffix(".2"))
    path.touch(mode=0o640)
    note(audit, resource="/newer")
    assert resources(lines(path)) == ["/newer"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_after_it_was_copied_and_cut_the_file_goes_on_from_its_beginning(audit: Audit, path: Path) -> None:
    note(audit, resource="/old")
    shutil.copy(path, path.with_suffix(".1"))
    os.truncate(path, 0)
    note(audit, resource="/new")
    assert resources(lines(path)) == ["/new"]


def test_a_file_that_is_there_is_gone_on_with(audit: Audit, path: Path) -> None:
    note(audit, resource="/one")
    note(Audit(path), resource="/two")
    audit.close()
    note(audit, resource="/three")
    assert resources(lines(path)) == ["/one", "/two", "/three"]


def test_a_line_that_was_torn_is_left_out_and_takes_no_other_with_it(audit: Audit, path: Path) -> None:
    note(audit, resource="/one")
    with path.open("ab") as file:
        file.write(b'{"at": "2026-01-01T00')
    note(audit, resource="/two")
    note(audit, resource="/three")
    assert resources(audit.tail(10)) == ["/three", "/two", "/one"]


WRITER = """
import sys
from pathlib import Path
from puppetmaster.accounts.audit import Audit
audit = Audit(Path(sys.argv[1]))
for number in range(500):
    audit.record(at=0.0, who=sys.argv[2], role=None, source="x" * 500, method="post", resource=str(number), code=200)
"""


def test_processes_and_threads_that_write_at_once_mix_up_nothing(audit: Audit, path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(path)]
    children = [subprocess.Popen([*command, str(number)], cwd=ROOT) for number in range(2)]
    threads = [threading.Thread(target=lambda: [note(audit, who="thread") for _ in range(250)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [child.wait(60) for child in children] == [0, 0]
    found = lines(path)
    assert len(found) == 2000
    for who in ("0", "1"):
        assert [entry["resource"] for entry in found if entry["who"] == who] == [str(number) for number in range(500)]


# The disk refuses


@contextlib.contextmanager
def no_file_may_grow() -> Iterator[None]:
    """What a full disk does to all that is appended."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_told_once_and_again_when_it_works(audit: Audit, path: Path, caplog) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(2):
        with no_file_may_grow():
            for _ in range(3):
                note(audit, resource="/lost")
        note(audit, resource="/kept")
        note(audit, resource="/kept")
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert told == 2 * [
        ("ERROR", f"can't write {path}: File too large; work goes on"),
        ("WARNING", f"{path} is written again, 3 lines are missing"),
    ]
    assert resources(lines(path)) == ["/kept"] * 4


def test_no_link_that_somebody_has_laid_is_followed(audit: Audit, path: Path, caplog) -> None:
    path.with_name("precious").write_text("precious")
    path.symlink_to("precious")
    note(audit)
    assert path.with_name("precious").read_text() == "precious"
    assert "can't write" in caplog.text


@pytest.mark.parametrize("make", ["folder", "nothing"])
def test_a_file_that_can_not_be_opened_fails_no_request(tmp_path: Path, caplog, make: str) -> None:
    path = tmp_path / "not" / "there" / "audit.jsonl"
    if make == "folder":
        path.mkdir(parents=True)
    audit = Audit(path)
    note(audit)
    note(audit)
    assert len(caplog.records) == 1


FILLER = """
import resource, sys
from pathlib import Path
from puppetmaster.accounts.audit import Audit
audit = Audit(Path(sys.argv[1]))
def note(resource):
    audit.record(at=0.0, who="ana", role=None, source="x", method="post", resource=resource, code=200)
note("/one")
size = Path(sys.argv[1]).stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, resource.RLIM_INFINITY))
note("/two")
note("/three")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
note("/four")
"""


def test_a_disk_that_takes_half_a_line_spoils_no_other(audit: Audit, path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FILLER, str(path)], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert "can't write" in done.stderr
    assert "2 lines are missing" in done.stderr
    assert path.read_bytes().count(b"\n") == 3
    assert resources(audit.tail(10)) == ["/four", "/one"]


# Reading


def test_the_newest_come_first_page_by_page(audit: Audit) -> None:
    for number in range(10):
        note(audit, resource=str(number))
    assert resources(audit.tail(3)) == ["9", "8", "7"]
    assert resources(audit.tail(3, 3)) == ["6", "5", "4"]
    assert resources(audit.tail(100, 8)) == ["1", "0"]
    assert audit.tail(3, 10) == []
    assert audit.tail(0) == []


@pytest.mark.parametrize("block", [1, 2, 7, 64, 1000])
def test_where_a_block_ends_makes_no_difference(audit: Audit, monkeypatch, block: int) -> None:
    for number in range(20):
        note(audit, resource=f"/{number}" + "x" * number)
    expected = audit.tail(20)
    assert len(expected) == 20
    monkeypatch.setattr(audit_module, "_BLOCK", block)
    assert audit.tail(20) == expected
    assert audit.tail(5, 7) == expected[7:12]


def test_what_is_no_entry_is_left_out(audit: Audit, path: Path) -> None:
    note(audit, resource="/one")
    with path.open("ab") as file:
        file.write(b'\n\nnonsense\n[1]\n"text"\n5\n\xff\xfe\n' + b"x" * (3 << 20) + b"\n")
    note(audit, resource="/two")
    assert resources(audit.tail(10)) == ["/two", "/one"]


def test_the_end_of_a_huge_file_is_read_without_the_rest_of_it(audit: Audit, path: Path, monkeypatch) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)
        file.seek(0, os.SEEK_END)
        file.write(b"\n")
    for number in range(5):
        note(audit, resource=str(number))
    assert resources(audit.tail(4)) == ["4", "3", "2", "1"]


def test_a_line_without_end_does_not_fill_the_memory(audit: Audit, path: Path) -> None:
    note(audit, resource="/one")
    with path.open("ab") as file:
        file.truncate(32 << 20)
    note(audit, resource="/two")
    tracemalloc.start()
    try:
        assert resources(audit.tail(10)) == ["/two", "/one"]
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_log_that_can_not_be_read_is_an_error(path: Path) -> None:
    path.mkdir()
    with pytest.raises(FileUnavailable, match=r"can't read .*audit\.jsonl: Is a directory"):
        Audit(path).tail(5)
