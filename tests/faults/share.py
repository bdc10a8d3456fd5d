"""The campaign's share of the test suite: each fault once, with a fixed seed, a file for each module of faults.

A run that fails prints its number; ``python -m tests.faults --seed suite --run NUMBER --only FAULT`` plays it again.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from types import TracebackType

from tests.faults.campaign import Result, Run, plan
from tests.faults.records import Records
from tests.faults.site import Site

SEED = "suite"


class Share:
    """Plays runs on one site, and on a new one after a violation, so that every test has a site that is well."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._lives = folder, 0
        self._site: Site | None = None
        self.records = Records()
        """Of the last run."""

    def play(self, kind: str, number: int = 0, *, is_last: bool = False) -> Result:
        """Play a run; the kind takes part in its number."""
        if self._site is None:
            self._lives += 1
            self._site = Site(self._folder / f"site-{self._lives}").__enter__()
        number += zlib.crc32(kind.encode()) % 100_000 * 10  # whatever other faults there are
        run = Run(self._site, plan(SEED, number, [kind], self._site.names), kind, is_last=is_last)
        result, self.records = run.play(), run.records
        if result.violations or is_last:
            self.__exit__(None, None, None)
        return result

    def __enter__(self) -> Share:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._site is not None:
            self._site.__exit__(kind, error, trace)
            self._site = None
