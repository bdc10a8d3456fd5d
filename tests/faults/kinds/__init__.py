"""All faults of the campaign, in the order of the table in docs/reliability.md."""

from __future__ import annotations

from tests.faults.kinds import disk, hostile, network, parts
from tests.faults.kinds.base import Fault

FAULTS: dict[str, type[Fault]] = {
    fault.name: fault for module in (parts, disk, network, hostile) for fault in module.FAULTS
}

MIXED = "mixed"
"""Stands for two or three faults at once."""

ALL = [*FAULTS, *[MIXED] * 10]
"""What the runs of a campaign take in turn: mixtures are many, and each is played by few runs."""

__all__ = ["ALL", "FAULTS", "MIXED", "Fault"]
