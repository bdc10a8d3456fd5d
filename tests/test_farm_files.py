"""The archives of the farm: whole or not there, bounded, and gone when nobody needs them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from puppetmaster.errors import FileUnavailable
from puppetmaster.farm import Files, files


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def wait_for(folder: Path, expected: list[str]) -> None:
    deadline = time.monotonic() + 30
    while names(folder) != expected:
        assert time.monotonic() < deadline, names(folder)
        time.sleep(0.01)


def put(kept: Files, job: int, data: bytes = b"PK") -> None:
    upload = kept.upload()
    upload.write(data)
    upload.finish(kept.job_file(job))
    upload.drop()


def test_a_file_is_there_when_it_is_whole(tmp_path: Path) -> None:
    kept = Files(tmp_path)
    upload = kept.upload()
    upload.write(b"PK")
    assert kept.find(7, "jobfile_7.zip") is None
    upload.finish(kept.job_file(7))
    upload.drop()
    found = kept.find(7, "jobfile_7.zip")
    assert found is not None and found.read_bytes() == b"PK"
    dropped = kept.upload()
    dropped.write(b"xx")
    dropped.drop()
    assert names(tmp_path) == ["7/jobfile_7.zip"]


@pytest.mark.parametrize("name", ["", "..", "../jobfile_7.zip", "jobfile_7.zip\n", "jobfile_x.zip", "jobfile_٧.zip.",
                                  "jobfile_7.zip\0", "jobfile_" + "7" * 19 + ".zip"])  # fmt: skip
def test_other_names_are_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(LookupError):
        Files(tmp_path).find(7, name)


def test_so_many_files_come_in_at_once_and_no_more(tmp_path: Path) -> None:
    kept = Files(tmp_path)
    coming = [kept.upload() for _ in range(files.MAX_UPLOADS)]
    with pytest.raises(FileUnavailable):
        kept.upload()
    coming.pop().drop()
    kept.upload().drop()
    for upload in coming:
        upload.drop()
    assert names(tmp_path) == []


def test_a_disk_that_is_nearly_full_takes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, has_space = Files(tmp_path), [True, False]
    monkeypatch.setattr(files, "_has_space", lambda folder: has_space.pop(0) if has_space else False)
    upload = kept.upload()
    upload.write(b"x" * (files.LOOK_BYTES - 1))
    with pytest.raises(FileUnavailable):
        upload.write(b"xx")
    upload.drop()
    for _ in range(files.MAX_UPLOADS + 1):  # a refusal takes no place
        with pytest.raises(FileUnavailable, match="nearly full"):
            kept.upload()
    assert names(tmp_path) == []


def test_files_that_are_thrown_away_take_no_newer_ones_with_them(tmp_path: Path) -> None:
    kept = Files(tmp_path)
    for number in range(50):
        put(kept, 7, b"old")
        kept.remove(7)
        put(kept, 7, b"%d" % number)
        assert kept.job_file(7).read_bytes() == b"%d" % number
    kept.remove(8)  # there is nothing
    wait_for(tmp_path, ["7/jobfile_7.zip"])


def test_only_what_is_needed_stays(tmp_path: Path) -> None:
    kept = Files(tmp_path)
    for job in (7, 8):
        put(kept, job)
    (tmp_path / "mine").write_bytes(b"")
    kept.keep_only(lambda job: job == 7)
    wait_for(tmp_path, ["7/jobfile_7.zip", "mine"])
