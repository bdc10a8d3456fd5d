"""Accounts made by the command line, logins over HTTP, and a bundle that serves HTTP with little around it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.system.stand import PATIENCE, Stand

PASSWORD = "correct horse battery"


def accounts(stand: Stand, *arguments: str, password: str | None = None) -> str:
    """``puppetmaster accounts``, whether or not the bundle runs; what it printed."""
    command = [sys.executable, "-m", "puppetmaster", "accounts", *arguments, "--data", str(stand.data)]
    stdin = "" if password is None else f"{password}\n"
    done = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        env=stand.environment(),
        cwd=stand.folder,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def login(stand: Stand, name: str, password: str = PASSWORD, **options: Any) -> str:
    """A token."""
    answer = stand.http("post", "/login", json={"name": name, "password": password}, **options)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["token"])


def bearer(token: str) -> dict[str, str]:
    """The headers of a call by whoever has this token."""
    return {"Authorization": f"Bearer {token}"}


@contextlib.contextmanager
def bundle_alone(folder: Path, address: str | None = None, *names: str, **settings: object) -> Iterator[Stand]:
    """A bundle with a broker and no controller, which serves HTTP all the same.

    :param address: where, in place of a free port on loopback.
    :param names: accounts that are made before the start; the first one is an admin.
    """
    with Stand(folder, http=True, start=False, **settings) as stand:
        if address is not None:
            scheme = stand.site.partition("://")[0]
            stand.bundle.env["PUPPETMASTER_HTTP"], stand.site = address, f"{scheme}://{address}"
        for name in names:
            accounts(stand, "add", name, password=PASSWORD)
        start_alone(stand)
        yield stand


def start_alone(stand: Stand, verify: Any = True) -> None:
    """Start broker and bundle of a stand, and wait until HTTP is served."""
    stand.start_broker()
    stand.bundle.start(wait=False)
    deadline = time.monotonic() + PATIENCE
    while True:
        stand.bundle.check()
        try:
            stand.http("get", "/health", verify=verify)
        except httpx.TransportError:
            assert time.monotonic() < deadline, stand.bundle.log()
            time.sleep(0.02)
        else:
            return
