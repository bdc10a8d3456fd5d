"""Pages of a list: made one by one, within a size, with turns for the loop in between."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from puppetmaster.errors import TooLarge
from puppetmaster.views import View
from puppetmaster.wire import encode

MAX_PAGE_BYTES = 16 * 1024 * 1024
"""The longest page as JSON. One of 10,000 entries could ask for gigabytes."""

MAKE_CHUNK = 250
"""Entries that are made before the loop gets a turn: about a millisecond, unless they are long."""


async def gather(found: Iterable[View]) -> list[View]:
    """A page.

    :raises TooLarge: when it would pass MAX_PAGE_BYTES as JSON.
    """
    page: list[View] = []
    size = 0
    for view in found:
        size += len(encode(view)) + 1
        if size > MAX_PAGE_BYTES:
            raise TooLarge(
                f"the page would have more than {MAX_PAGE_BYTES} bytes: ask for a smaller one (?limit={len(page) or 1})"
            )
        page.append(view)
        if len(page) % MAKE_CHUNK == 0:
            await asyncio.sleep(0)
    return page
