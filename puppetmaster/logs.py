"""What all our processes log like: on stderr, with the date, for a bundle runs for months."""

from __future__ import annotations

import logging


def start_logging(level: str) -> None:
    """Log to stderr from this level on; ``level`` is the name of one."""
    logging.basicConfig(
        level=level.upper(),
        format="%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s: %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
    )
