"""Backups are taken while the bundle works and compacts all the time; one is restored, and its jobs go on and end."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from puppetmaster.backup import ID_GAP, back_up
from puppetmaster.documents import JOBS, META, META_ID
from puppetmaster.embedded.broker import find_mosquitto
from puppetmaster.store import codec, replica
from tests.system.stand import PATIENCE, REPOSITORY, Document, Stand

pytestmark = pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")

COMPACTS_OFTEN = """
import runpy, sys
from puppetmaster.store import journal
journal.Journal.is_oversized = lambda self: self.size > 4096
sys.argv = [sys.argv[1]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""The bundle, but for when it writes a new snapshot: with every few commits."""

MESSAGE = {"method": "post", "resource": "/system/reboot"}
BACKUPS = 6


def puppetmaster(stand: Stand, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "puppetmaster", *words]
    return subprocess.run(command, env=stand.environment(), capture_output=True, text=True, timeout=PATIENCE)


class Traffic:
    """One job after the other, from a thread, and the ids of those that were answered."""

    def __init__(self, stand: Stand, names: list[str]) -> None:
        self.answered: list[Document] = []
        self._stand, self._names = stand, names
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join(PATIENCE)

    def wait(self, count: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while len(self.answered) < count:
            assert self._thread.is_alive() and time.monotonic() < deadline, "no jobs are made"
            time.sleep(0.01)

    def _run(self) -> None:
        while not self._over.is_set():
            document = {"destinations": self._names, "message": MESSAGE}
            self.answered.append(self._stand.create_job(document))


def test_backups_under_load_hold_all_that_was_answered_and_one_of_them_goes_on(tmp_path: Path) -> None:
    with Stand(tmp_path / "stand", broker_extra=["set_tcp_nodelay true"], start=False) as stand:
        wrapper = tmp_path / "compacts_often.py"
        wrapper.write_text(COMPACTS_OFTEN)
        stand.bundle.command = [sys.executable, str(wrapper), str(REPOSITORY / "index.py")]
        stand.start()
        fleet = stand.fleet("dev", 20)
        silent = stand.create_job({"destinations": ["silent-1", "silent-2"], "message": MESSAGE})
        generations = set()
        with Traffic(stand, fleet.names) as traffic:
            for number in range(BACKUPS):
                traffic.wait(3 * (number + 1))
                answered = {job["id"] for job in list(traffic.answered)}
                folder = tmp_path / f"backup-{number}"
                back_up(stand.data, folder, now=time.time(), say=lambda text: None)
                content = replica.load(folder, "puppetmaster")
                assert answered | {silent["id"]} <= content.tables[JOBS].keys()
                generations.add(content.generation)
            folder = tmp_path / "by-hand"
            done = puppetmaster(stand, "backup", str(folder), "--data", str(stand.data))
            assert done.returncode == 0, done.stderr
            content = replica.load(folder, "puppetmaster")
            assert f"{folder}: {len(content.tables[JOBS])} jobs, " in done.stdout
        assert len(generations) > 1, "nothing was compacted meanwhile"
        later = [job["id"] for job in traffic.answered if job["id"] not in content.tables[JOBS]]
        later.append(stand.create_job({"destinations": fleet.names, "message": MESSAGE})["id"])
        for ident in later:
            stand.wait_job(ident)
        given = {record["id"] for record in stand.work()}
        next_id = codec.decode(content.tables[META][META_ID])["nextId"]

        # The machine is lost, and the last backup restored under the same instance. The devices remember all.
        stand.bundle.kill()
        refused = puppetmaster(stand, "restore", str(folder), "--data", str(stand.data))
        assert (refused.returncode, "is not empty" in refused.stderr) == (1, True)
        stand.data.rename(tmp_path / "lost")
        restored = puppetmaster(stand, "restore", str(folder), "--data", str(stand.data))
        assert restored.returncode == 0, restored.stderr
        assert f"the next id is {next_id + ID_GAP}" in restored.stderr
        stand.bundle.start()
        assert {job["id"] for job in stand.ask("get", "/jobs?limit=1000")[1]} == content.tables[JOBS].keys()
        assert stand.ask("get", f"/jobs/{later[-1]}")[0] == 404
        for ident in content.tables[JOBS]:
            if ident != silent["id"]:
                assert stand.wait_job(ident)["status"] == "resolved"
        new = stand.create_job({"destinations": fleet.names, "message": MESSAGE})
        assert new["id"] == next_id + ID_GAP
        assert stand.wait_job(new["id"])["counts"]["resolved"] == len(fleet.names)
        # Each device did the new work, instead of remembering another's, and no id twice.
        assert not given & set(new["requests"])
        assert {record["id"] for record in stand.work(new)} == set(new["requests"])
        assert set(Counter(record["id"] for record in stand.work()).values()) == {1}
        # What was out at the backup is out still.
        assert stand.job(silent["id"])["counts"]["sent"] == 2
