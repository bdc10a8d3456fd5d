"""A worker of a farm whose manager is not there."""

from __future__ import annotations

import asyncio
import logging

import pytest

from puppetmaster.client.errors import NoAnswer
from puppetmaster.client.farm import FarmClient
from puppetmaster.embedded.broker import free_port
from puppetmaster.worker import Pace, WorkerProgram, program


def test_a_worker_that_ends_by_itself_gives_a_manager_up_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(program, "ONCE_PATIENCE", 0.3)
    client = FarmClient(f"http://127.0.0.1:{free_port()}/manager")

    async def work() -> None:
        try:
            await WorkerProgram(client, name="w", pace=Pace(ask=0.1), once=True).run()
        finally:
            await client.close()

    with caplog.at_level(logging.INFO), pytest.raises(NoAnswer, match="no answer from"):
        asyncio.run(work())
    assert [record.levelname for record in caplog.records if record.name.startswith("puppetmaster")] == ["WARNING"]
