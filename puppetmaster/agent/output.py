"""The output of a command, read from its files into chunks."""

from __future__ import annotations

from dataclasses import dataclass

KIB, MIB = 1024, 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputLimits:
    """How much of an order's output is kept."""

    keep_bytes: int = MIB
    """That much is told in chunks: half of it from the beginning while it comes, half of it from the end."""
    answer_bytes: int = 64 * KIB
    """That much is in the answer, beginning and end, stdout and stderr together."""
    disk_bytes: int = 64 * MIB
    """That much may lie in a file that can't be given back in part; only file systems without holes need it."""
