"""What was asked for on the command line, as far as it concerns the parts."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent


class Failed(Exception):
    """Raised when something can't be measured, or what was measured is not what was meant to be."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How thoroughly the parts measure."""

    quick: bool = False
    """Only to try them out: small counts, whose figures say little."""
    started: float = field(default_factory=time.monotonic)

    def count(self, full: int, quick: int) -> int:
        """How many: the first number, or the second in a quick run."""
        return quick if self.quick else full

    def tell(self, part: str, text: str) -> None:
        """Tell whoever waits how far a part is."""
        print(f"{time.monotonic() - self.started:6.0f} s  {part}: {text}", flush=True)
