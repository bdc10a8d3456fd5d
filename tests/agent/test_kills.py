"""The worker's process is killed, and fills its disk: every order is carried out once, and answered."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from puppetmaster import chunks

ORDERS, KILLS, AHEAD = 500, 10, 20
PATIENCE = 60.0
MIB = 1024 * 1024


class Host:
    """A process with a worker in it (:mod:`tests.agent.host`)."""

    def __init__(self, folder: Path, hear: Callable[[dict[str, Any]], None]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.agent.host", str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._hear = hear
        self.pid = self._process.pid
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            # The last line before a kill may be torn.
            if line.endswith(b"\n"):
                self._hear(json.loads(line))

    def give(self, ident: int, data: dict[str, Any]) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"id": ident, "data": data}).encode() + b"\n")
        self._process.stdin.flush()

    def end(self, number: int | None = None) -> None:
        if number is not None:
            self._process.send_signal(number)
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)


def test_killed_at_ten_moments_500_commands_append_500_lines(tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    chance = random.Random(int(os.environ.get("SEED", "20260131")))
    news: queue.Queue[dict[str, Any]] = queue.Queue()
    answers: dict[int, dict[str, Any]] = {}
    told: dict[int, dict[int, Any]] = {}
    unanswered = dict.fromkeys(range(1, ORDERS + 1))
    unacknowledged: dict[int, None] = {}
    kills = sorted(chance.sample(range(10, ORDERS - 10), KILLS))
    given = 0

    def order(ident: int) -> dict[str, Any]:
        # Some are over at once, some are at work when the kill comes.
        pause = f"sleep 0.0{chance.randint(1, 9)}; " if ident % 3 == 0 else ""
        return {"commandLine": f"{pause}echo {ident} >>{lines}; echo {ident}"}

    def take(document: dict[str, Any]) -> None:
        if "ack" in document:
            unacknowledged.pop(document["ack"], None)
        elif "answer" in document and document["code"] != 102:
            answers[document["answer"]] = document
            unanswered.pop(document["answer"], None)
            unacknowledged.pop(document["answer"], None)
        elif "chunk" in document:
            content = {name: document.get(name) for name in ("stream", "offset", "text", "code")}
            before = told.setdefault(document["chunk"], {}).setdefault(document["number"], content)
            assert before == content

    host = Host(tmp_path / "orders", news.put)
    deadline = time.monotonic() + 2 * PATIENCE
    while unanswered:
        assert time.monotonic() < deadline, f"{len(unanswered)} are not answered: {list(unanswered)[:10]}"
        while given < ORDERS and given - (ORDERS - len(unanswered)) < AHEAD:
            given += 1
            unacknowledged[given] = None
            host.give(given, order(given))
        if kills and given >= kills[0]:
            kills.pop(0)
            # Let some of what was given last begin.
            threading.Event().wait(chance.random() * 0.03)
            host.end(signal.SIGKILL)
            while not news.empty():
                take(news.get())
            host = Host(tmp_path / "orders", news.put)
            for ident in list(unacknowledged):
                host.give(ident, order(ident))
        try:
            take(news.get(timeout=0.2))
        except queue.Empty:
            continue
    host.end()
    written = sorted(int(line) for line in lines.read_text().split())
    assert written == list(range(1, ORDERS + 1))
    assert {document["code"] for document in answers.values()} == {200}
    assert all(document["data"]["stdout"] == f"{ident}\n" for ident, document in answers.items())
    for ident, spoken in told.items():
        assert sorted(spoken) == list(range(len(spoken))), ident
        assert "".join(chunk["text"] or "" for chunk in spoken.values()) == f"{ident}\n"


def disk_usage(folder: Path) -> int:
    """Bytes that the files take, without their holes."""
    total = 0
    for parent, _, names in os.walk(folder):  # which passes over a folder that is gone
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(parent, name)).st_blocks * 512
    return total


def test_100_mb_of_output_leave_memory_and_disk_flat(tmp_path: Path) -> None:
    total = 100 * MIB
    news: queue.Queue[dict[str, Any]] = queue.Queue()
    host = Host(tmp_path / "orders", news.put)
    host.give(1, {"commandLine": "echo small"})
    while news.get(timeout=PATIENCE).get("answer") != 1:
        continue
    before = peak(host.pid)
    # As fast as a disk of a small machine, not of the page cache: the agent has to keep up with that.
    line = f"i=0; while [ $i -lt 100 ]; do head -c {MIB} /dev/zero | tr '\\0' 'x'; i=$((i+1)); sleep 0.01; done"
    host.give(2, {"commandLine": line})
    spoken, answer, most = [], None, 0
    deadline = time.monotonic() + PATIENCE
    while answer is None:
        assert time.monotonic() < deadline
        most = max(most, disk_usage(tmp_path))
        try:
            document = news.get(timeout=0.02)
        except queue.Empty:
            continue
        if document.get("chunk") == 2:
            spoken.append(document)
        elif document.get("answer") == 2 and document["code"] != 102:
            answer = document
    after = peak(host.pid)
    host.end()
    assert answer["code"] == 200
    data = answer["data"]
    assert data["outputBytes"] == total
    assert len(data["stdout"]) < 65 * 1024 and data["cutBytes"] == total - 64 * 1024
    assert [chunk["number"] for chunk in spoken] == list(range(len(spoken)))
    (cut,) = (chunk for chunk in spoken if chunk["stream"] == "cut")
    kept = sum(len(chunk["text"]) for chunk in spoken if chunk["stream"] == "stdout")
    assert kept == MIB and cut["bytes"] == total - MIB
    assert max(len(chunk["text"]) for chunk in spoken if "text" in chunk) <= chunks.MAX_CHUNK_BYTES
    print(f"peak {before} kB before, {after} kB after; {most / MIB:.1f} MiB on disk at the most")
    assert after - before < 6 * 1024, f"from {before} kB to {after} kB"
    assert after < 40 * 1024
    assert most < 32 * MIB, f"{most / MIB:.0f} MiB on disk"


def peak(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


