"""What a cut leaves: everything that was synced, and of the rest anything from all to nothing."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path
from typing import Any

import pytest

from tests.faults.power import HELD, Control, PowerFiles, after_a_cut

NEW, APPEND = os.O_WRONLY | os.O_CREAT | os.O_TRUNC, os.O_WRONLY | os.O_CREAT | os.O_APPEND


@pytest.fixture
def control(tmp_path: Path) -> Control:
    return steer(Control(tmp_path / "control.json"))


def steer(control: Control, **content: Any) -> Control:
    control.write(**{"seed": 1, **content})
    return control


def left(folder: Path) -> dict[str, bytes]:
    """What is there after a cut."""
    after_a_cut(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "control.json"}


@pytest.mark.parametrize("keep", [0.0, 1.0])
def test_what_is_synced_survives_and_what_is_not_survives_as_the_seed_says(
    tmp_path: Path, control: Control, keep: float
) -> None:
    files = PowerFiles(steer(control, keep=keep))
    descriptor = files.open(tmp_path / "a", NEW)
    files.write_all(descriptor, b"one")
    files.sync(descriptor)
    files.sync_folder(tmp_path)
    files.write_all(descriptor, b"two")
    files.close(descriptor)
    content = left(tmp_path)["a"]
    assert content == b"onetwo" if keep else content.startswith(b"one") and content != b"onetwo"


def test_a_name_is_lost_until_its_folder_is_synced(tmp_path: Path, control: Control) -> None:
    files = PowerFiles(steer(control, keep=0.0))
    (tmp_path / "b").write_bytes(b"old")
    descriptor = files.open(tmp_path / "a", NEW)
    files.write_all(descriptor, b"new")
    files.sync(descriptor)
    assert left(tmp_path) == {"b": b"old"}
    descriptor = files.open(tmp_path / "c", NEW)
    files.write_all(descriptor, b"new")
    files.sync(descriptor)
    files.replace(tmp_path / "c", tmp_path / "b")
    files.sync_folder(tmp_path)
    assert left(tmp_path) == {"b": b"new"}
    files.remove(tmp_path / "b")
    assert left(tmp_path) == {"b": b"new"}
    files.sync_folder(tmp_path)
    assert left(tmp_path) == {}


def test_cuts_of_many_seeds_lose_keep_tear_and_reorder(tmp_path: Path, control: Control) -> None:
    seen = set()
    for seed in range(60):
        folder = tmp_path / str(seed)
        folder.mkdir()
        files = PowerFiles(steer(control, seed=seed))
        descriptor = files.open(folder / "a", NEW)
        files.sync_folder(folder)
        files.write_all(descriptor, b"first")
        files.write_all(descriptor, b"second")
        content = left(folder)["a"]
        seen.add(content)
        assert len(content) <= 11
        assert all(byte in (0, whole) for byte, whole in zip(content, b"firstsecond", strict=False))
    assert {b"", b"first", b"firstsecond", b"\0\0\0\0\0second"} <= seen  # lost, kept in part and whole, reordered
    assert any(content[:4] == b"firs" and len(content) == 4 for content in seen) or b"fir" in seen  # torn


def test_a_file_is_appended_to_whatever_was_lost_of_it_and_cut(tmp_path: Path, control: Control) -> None:
    for seed in range(20):
        path = tmp_path / f"file-{seed}"
        path.write_bytes(b"good tail")
        files = PowerFiles(steer(control, seed=seed))
        descriptor = files.open(path, APPEND)
        files.truncate(descriptor, 4)
        files.write_all(descriptor, b" more")
        files.sync(descriptor)
        assert path.read_bytes() == b"good more"


def test_calls_fail_as_often_as_they_should_before_or_after_they_are_done(tmp_path: Path, control: Control) -> None:
    files = PowerFiles(control)
    descriptor = files.open(tmp_path / "a", NEW)
    files.sync_folder(tmp_path)
    steer(control, faults=[{"id": "x", "call": "sync", "error": "EIO", "times": 1}])
    with pytest.raises(OSError) as raised:
        files.sync(descriptor)
    assert raised.value.errno == errno.EIO
    files.sync(descriptor)
    files.write_all(descriptor, b"done")
    steer(control, faults=[{"id": "y", "call": "sync", "error": "EROFS", "after": True}])
    for _ in range(3):
        with pytest.raises(OSError):
            files.sync(descriptor)
    assert (tmp_path / "a").read_bytes() == b"done"
    steer(control, faults=[{"id": "z", "call": "write", "short": 2}])
    assert files.write(descriptor, memoryview(b"12345")) == 2
    files.write_all(descriptor, b"345")
    files.sync(descriptor)
    assert (tmp_path / "a").read_bytes() == b"done12345"


def test_the_same_seed_leaves_the_same(tmp_path: Path, control: Control) -> None:
    outcomes = []
    for life in range(2):
        folder = tmp_path / str(life)
        folder.mkdir()
        files = PowerFiles(steer(control, seed="again"))
        descriptor = files.open(folder / "a", NEW)
        files.sync_folder(folder)
        chance = random.Random(3)
        for _ in range(30):
            files.write_all(descriptor, chance.randbytes(9))
        outcomes.append(left(folder)["a"])
        assert not (folder / HELD).exists()
    assert outcomes[0] == outcomes[1]
