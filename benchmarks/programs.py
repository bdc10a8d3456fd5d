"""Programs that a benchmark runs to their end. None of them outlives it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

from benchmarks.options import REPOSITORY, Failed

TIMEOUT = 600.0
"""Seconds for a program, where nothing else is said."""


class TooSlow(Failed):
    """Raised when a program has not ended in time."""


async def output_of(
    *command: str | Path,
    given: bytes = b"",
    timeout: float = TIMEOUT,
    status: int = 0,
    env: Mapping[str, str] | None = None,
    cwd: Path = REPOSITORY,
) -> str:
    """What a program prints that is run to its end.

    :param given: its input.
    :param timeout: seconds.
    :param status: with which it has to end; minus N is signal N.
    :raises Failed: when it ends in another way; TooSlow when not in time.
    """
    name = " ".join(map(str, command[1:4]))
    child = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, env={**os.environ, **(env or {})},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )
    try:
        output, _ = await asyncio.wait_for(child.communicate(given), timeout)
    except asyncio.TimeoutError:
        raise TooSlow(f"{name} has not ended after {timeout:.0f} s") from None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode != status:
        raise Failed(f"{name} ended with status {child.returncode}")
    return output.decode()
