"""The order of the files, for workers that take them one after the other."""

from __future__ import annotations

import pytest

OTHERS = 5
"""Files between two of the page's: a browser takes a core, most others wait; four at once starve each other."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread the files of the page among those that come before the many short ones; in a file nothing moves."""
    files: dict[str, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.nodeid.partition("::")[0], []).append(item)
    pages = [name for name in files if name.startswith("tests/browser/")]
    others = [name for name in files if name not in pages]
    order: list[str] = []
    while pages or others:
        order += [*pages[:1], *others[:OTHERS]]
        del pages[:1], others[:OTHERS]
    items[:] = [item for name in order for item in files[name]]
