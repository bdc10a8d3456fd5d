"""One agent in a folder at a time, and what it knows of the last one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from puppetmaster.agent.folder import Folder, FolderInUse, LastEnd
from puppetmaster.errors import FileUnavailable


def test_the_second_is_told_who_the_first_is(tmp_path: Path) -> None:
    first = Folder(tmp_path / "new" / "one", "first")
    with pytest.raises(FolderInUse, match=rf"the agent first \(process {os.getpid()}\)"):
        Folder(first.path, "second")
    first.close()
    Folder(first.path, "second").close()


def test_a_folder_is_for_nobody_elses_eyes(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "one", "first")
    assert folder.path.stat().st_mode & 0o077 == 0
    folder.close()


def test_a_folder_that_can_not_be_made_is_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileUnavailable):
        Folder(tmp_path / "file" / "x", "first")


def test_the_next_one_knows_how_the_last_one_ended(tmp_path: Path) -> None:
    def live(stop: bool = False) -> LastEnd:
        folder = Folder(tmp_path, "a")
        last = folder.begin()
        if stop:
            folder.end()
        folder.close()
        return last

    assert live(stop=True) is LastEnd.NONE
    assert live() is LastEnd.STOPPED
    assert live() is LastEnd.DIED
    (tmp_path / "life").write_text(json.dumps({"state": "running", "boot": "another"}))
    assert live() is LastEnd.REBOOT
    for rubbish in ("", "[]", "{}", "nonsense", '{"state": 5}'):
        (tmp_path / "life").write_text(rubbish)
        assert live() is LastEnd.DIED
