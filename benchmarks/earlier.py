"""The bundle of an earlier commit, to be measured in turn with today's."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

from benchmarks.options import REPOSITORY, Failed

COMMIT = "c3121bd"
"""The last one before it was made fast."""


def unpack(folder: Path, commit: str = COMMIT) -> Path:
    """Put a commit's files into a folder.

    :raises Failed: when git does not have it, as in an archive of the sources or a clone without its history.
    """
    command = ["git", "-C", str(REPOSITORY), "archive", "--format=tar", commit]
    try:
        found = subprocess.run(command, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Failed(f"commit {commit} is not in git's history here") from error
    with tarfile.open(fileobj=io.BytesIO(found.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def current() -> str:
    """The commit that is checked out, and whether anything was changed since; empty where git does not know."""
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty=, changed", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
