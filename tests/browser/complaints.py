"""What a browser has to complain of: errors of the page, lines of its console, and requests to elsewhere."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Request, WebError, WebSocket

HERE = frozenset({"blob", "data"})
"""Schemes that ask no host."""


class Complaints:
    """Gathers them from all windows of a context; a test ends with none, but for those that it allows.

    The browser itself writes a line for each answer from 400 up. Two of them belong to the page's daily life: a dry run
    of what is not finished yet, and the question who this is, before the login.
    """

    def __init__(self, site: str) -> None:
        self._host = urlsplit(site).netloc
        self._allowed = [re.compile(r"status of 400 .* /jobs$"), re.compile(r"status of 401 .* /account$")]
        self._found: list[str] = []

    def allow(self, *patterns: str) -> None:
        """Expect lines that one of these patterns is found in: ``status of 404 .* /jobs/7``."""
        self._allowed += map(re.compile, patterns)

    def of(self, context: BrowserContext) -> None:
        """Listen to a context."""
        context.on("console", self._on_console)
        context.on("weberror", self._on_error)
        context.on("request", self._on_request)
        context.on("page", self._on_page)

    def left(self) -> list[str]:
        """Those that were not allowed."""
        return [line for line in self._found if not any(pattern.search(line) for pattern in self._allowed)]

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._found.append(f"{message.text} {urlsplit(message.location['url']).path}")

    def _on_error(self, error: WebError) -> None:
        self._found.append(f"uncaught: {error.error}")

    def _on_page(self, page: Page) -> None:
        page.on("websocket", self._on_socket)
        page.on("crash", lambda _: self._found.append("the window crashed"))

    def _on_request(self, request: Request) -> None:
        self._see(request.url)

    def _on_socket(self, socket: WebSocket) -> None:
        self._see(socket.url)

    def _see(self, url: str) -> None:
        scheme, host = urlsplit(url)[:2]
        if scheme not in HERE and host != self._host:
            self._found.append(f"a request to another host: {url}")
