"""``puppetmaster jobrunner``, as a process with nothing around it: its variables, who may call, and a kill."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from puppetmaster.embedded.broker import free_port
from tests.system.leftovers import end_commands
from tests.system.stand import PATIENCE, REPOSITORY


class Runner:
    """The process, and an HTTP client for it."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        self.port = free_port()
        ours = ("PUPPETMASTER_", "JOBRUNNER_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        self.env = {**kept, "PYTHONPATH": str(REPOSITORY), "JOBRUNNER_PORT": str(self.port), **variables}
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=PATIENCE, trust_env=False)

    def command(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Any command of puppetmaster, in the same folder."""
        return subprocess.run(
            [sys.executable, "-m", "puppetmaster", *arguments],
            input=stdin, capture_output=True, text=True, env=self.env, cwd=self.folder, timeout=PATIENCE, check=False,
        )  # fmt: skip

    def start(self, *arguments: str) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "puppetmaster", "jobrunner", *arguments],
                stdout=log, stderr=log, env=self.env, cwd=self.folder,
            )  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.http.get("/")
            except httpx.TransportError:
                assert self.process.poll() is None and time.monotonic() < deadline, self.log()
                time.sleep(0.02)
            else:
                return

    def stop(self, number: signal.Signals = signal.SIGTERM) -> float:
        """End it; how many seconds that took."""
        began = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(PATIENCE)
        return time.monotonic() - began

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def until_logged(self, pattern: str) -> None:
        """What is logged about an answer may come a moment after it."""
        deadline = time.monotonic() + PATIENCE
        while not re.search(pattern, self.log()):
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def submit(self, **body: object) -> str:
        answer = self.http.post("/", json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["ID"])

    def running(self) -> list[str]:
        return list(self.http.get("/").json()["IDs"])


@contextmanager
def runner(folder: Path, *arguments: str, start: bool = True, **variables: str) -> Iterator[Runner]:
    found = Runner(folder, **variables)
    try:
        if start:
            found.start(*arguments)
        yield found
    finally:
        found.http.close()
        if start and found.process.poll() is None:
            found.stop(signal.SIGKILL)
        end_commands(folder)


def test_commands_of_the_document_work_with_nothing_around(tmp_path: Path) -> None:
    with runner(tmp_path) as it:
        assert it.http.get("/").json() == {"IDs": []}
        ident = it.submit(CommandLine="echo $GREETING; pwd; echo oh >&2", Environment={"GREETING": "hi"})
        said = it.http.get(f"/{ident}/attach").text.splitlines()
        assert sorted(said) == sorted(["hi", str(Path.home()), "oh"])
        missing = it.submit(CommandLine="true", WorkingDirectory="/nowhere/at/all")
        assert "/nowhere/at/all" in it.http.get(f"/{missing}/attach").text
        assert it.http.delete("/nothing").status_code == 200


def test_a_kill_takes_nothing_from_what_runs(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with runner(tmp_path) as it:
        ident = it.submit(CommandLine=f"echo first; until [ -e {gate} ]; do sleep 0.05; done; echo second; sleep 1000")
        with it.http.stream("GET", f"/{ident}/attach") as attached:
            assert next(attached.iter_lines()) == "first"
            it.stop(signal.SIGKILL)
        it.start()
        assert it.running() == [ident]
        gate.touch()
        with it.http.stream("GET", f"/{ident}/attach") as attached:
            lines = attached.iter_lines()
            assert [next(lines), next(lines)] == ["first", "second"]
            assert it.http.delete(f"/{ident}").status_code == 200
            assert list(lines) == []
        assert it.running() == []
        assert it.stop() < 10


def test_it_stops_at_once_though_somebody_reads(tmp_path: Path) -> None:
    with runner(tmp_path) as it:
        ident = it.submit(CommandLine="echo first; sleep 1000")
        with it.http.stream("GET", f"/{ident}/attach") as attached:
            next(attached.iter_lines())
            assert it.stop() < 2.5
        it.start()
        it.http.delete(f"/{ident}")


def test_a_port_that_is_taken_says_which_variable_names_another(tmp_path: Path) -> None:
    with runner(tmp_path) as it:
        done = it.command("jobrunner", "--data", "other")
        assert done.returncode == 1 and "JOBRUNNER_PORT=" in done.stderr and "--http" not in done.stderr
        done = it.command("dutserver", "server", str(it.port), "x.db")
        assert done.returncode == 1 and "name another PORT" in done.stderr and "--http" not in done.stderr


# Who may call


def test_an_address_that_others_reach_needs_an_account(tmp_path: Path) -> None:
    with runner(tmp_path, start=False, JOBRUNNER_HOSTNAME="0.0.0.0") as it:
        done = it.command("jobrunner")
        assert done.returncode == 1 and "there is no account" in done.stderr
        assert "JOBRUNNER_HOSTNAME" in done.stderr and "accounts add NAME --data data/jobrunner)" in done.stderr
    with runner(tmp_path, "--insecure", JOBRUNNER_HOSTNAME="0.0.0.0") as it:
        assert it.running() == []


def test_with_an_account_everybody_has_to_log_in(tmp_path: Path) -> None:
    with runner(tmp_path, start=False) as it:
        made = it.command("accounts", "add", "ana", "--data", "data/jobrunner", stdin="correct horse battery\n")
        assert made.returncode == 0, made.stderr
        token = it.command("accounts", "token", "ana", "--data", "data/jobrunner").stdout.strip()
    with runner(tmp_path) as it:
        it.until_logged(r"HTTP on http://0\.0\.0\.0:\d+")  # as the original, but with a login
        for method, path in (("GET", "/"), ("POST", "/"), ("GET", "/x/attach"), ("DELETE", "/x")):
            assert it.http.request(method, path, json={"CommandLine": "id"}).status_code == 401, (method, path)
        it.http.headers["Authorization"] = f"Bearer {token}"
        ident = it.submit(CommandLine="echo hello")
        assert it.http.get(f"/{ident}/attach").text == "hello\n"


@pytest.mark.parametrize(("name", "value"), [("PORT", "x"), ("PORT", "70000"), ("HOSTNAME", "a b")])
def test_variables_that_can_not_be_used_end_it(tmp_path: Path, name: str, value: str) -> None:
    with runner(tmp_path, start=False, **{f"JOBRUNNER_{name}": value}) as it:
        done = it.command("jobrunner")
        assert done.returncode == 2 and f"JOBRUNNER_{name}" in done.stderr


def test_commands_can_be_off_or_few(tmp_path: Path) -> None:
    with runner(tmp_path, "--commands", "off") as it:
        answer = it.http.post("/", json={"CommandLine": "id"})
        assert answer.status_code == 403 and "--commands" in answer.json()["message"]
        it.stop()
    with runner(tmp_path, "--commands", "echo *") as it:
        good, bad = it.submit(CommandLine="echo hi"), it.submit(CommandLine="id")
        assert it.http.get(f"/{good}/attach").text == "hi\n"
        assert "runs commands from a list" in it.http.get(f"/{bad}/attach").text


# Containers


FAKE_PODMAN = """#!/bin/bash
cd "$(dirname "$0")"
echo "$@" >> asked
[ "$1" = rm ] && { kill "$(cat pid)"; exit; }
[ "$1" = run ] || exit 1
trap '' TERM; trap 'exit 137' USR1
echo $$ > pid
/bin/bash -c "${@: -1}"
"""


def test_a_container_is_run_by_what_is_installed(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "podman").write_text(FAKE_PODMAN)
    (programs / "podman").chmod(0o755)
    with runner(tmp_path, PATH=f"{programs}{os.pathsep}{os.environ['PATH']}") as it:
        ident = it.submit(
            Commands=[
                {"CommandLine": "echo outside"},
                {"CommandLine": "echo inside", "Container": {"Image": "debian:12"}, "Environment": {"A": "b"}},
            ]
        )
        assert it.http.get(f"/{ident}/attach").text == "outside\ninside\n"
        asked = (programs / "asked").read_text()
        assert asked.startswith("run --rm --name ") and "debian:12" in asked


def test_where_there_is_no_podman_and_no_docker_it_says_so(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "sh", "env"):
        found = shutil.which(name)
        assert found is not None
        (programs / name).symlink_to(found)
    with runner(tmp_path, PATH=str(programs)) as it:
        answer = it.http.post("/", json={"CommandLine": "id", "Container": {"Image": "debian:12"}})
        assert answer.status_code == 501 and "podman or docker" in answer.json()["message"]
