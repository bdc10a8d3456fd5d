"""What runs the peers of the benchmarks: their word is checked, and none of them is left behind."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks import peers
from benchmarks.options import Failed
from benchmarks.results import Results
from tests.running import running

DEVICES = ["device-1", "device-2"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the scripts are; they are run by this Python."""
    monkeypatch.setattr(peers, "HERE", tmp_path)
    monkeypatch.setattr(peers, "_python", lambda: Path(sys.executable))
    return tmp_path


def test_a_script_is_given_the_devices_and_tells_answers_and_seconds(folder: Path) -> None:
    (folder / "peer.py").write_text("import sys; print(len(sys.stdin.read().split()), 0.5)")
    assert asyncio.run(peers._rate("peer.py", devices=DEVICES)) == 4.0


@pytest.mark.parametrize(
    ("script", "why"),
    [("print(1, 0.5)", "got 1 good answers from 2 devices"), ("raise SystemExit(3)", "ended with status 3")],
)
def test_a_script_that_does_not_get_all_answers_has_no_rate(folder: Path, script: str, why: str) -> None:
    (folder / "peer.py").write_text(script)
    with pytest.raises(Failed, match=why):
        asyncio.run(peers._rate("peer.py", devices=DEVICES))


def test_a_script_that_does_not_end_is_ended(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "TIMEOUT", 0.3)
    (folder / "peer.py").write_text("import signal; signal.pause()")
    with pytest.raises(Failed, match="has not ended"):
        asyncio.run(peers._rate("peer.py", devices=DEVICES))
    assert not running("peer.py")


STUBBORN = """
import os, signal
with open("pids", "w") as pipe:
    os.fork()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(os.getpid(), file=pipe)
signal.pause()
"""
"""Two processes; what reads the pipe has its end when both have written."""


def test_a_server_that_does_not_heed_term_is_killed_with_its_children(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "END_TIMEOUT", 0.1)
    os.mkfifo(folder / "pids")

    async def run() -> str:
        async with peers._running((sys.executable, "-c", STUBBORN), {}):
            return await asyncio.to_thread((folder / "pids").read_text)

    pids = [int(line) for line in asyncio.run(run()).split()]
    assert len(pids) == 2
    for pid in pids:
        if psutil.pid_exists(pid):  # whoever inherits an orphan has yet to bury it
            assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of libraries that need not be installed for the tests."""
    monkeypatch.setattr(peers, "_versions", lambda: dict.fromkeys(("aiomqtt", "paho-mqtt", "celery"), "1.0"))


@pytest.mark.usefixtures("versions")
def test_what_is_not_installed_is_said_in_its_row() -> None:
    rates = {name: [100.0, 200.0] for name in (peers.PUPPETMASTER, peers.ALONE, *peers.PLAIN)}
    rates |= {name: [] for name in peers.CELERY}
    results = Results()
    peers._add(results, rates, 10, 5)
    for name in peers.CELERY:
        row = results.row(peers.PART, name)
        assert (row.values, row.note) == ((), "redis-server is not installed")


@pytest.mark.usefixtures("versions")
def test_ratios_are_made_round_by_round() -> None:
    others = (peers.ALONE, *peers.PLAIN, *peers.CELERY)
    rates = {name: [100.0, 200.0] for name in others} | {peers.PUPPETMASTER: [100.0, 800.0]}
    results = Results()
    peers._add(results, rates, 10, 5)
    for name in others:
        assert results.row(peers.PART, f"puppetmaster to {name}").values == (1.0, 4.0)
