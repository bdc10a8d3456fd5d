"""Who gets in: what stands in front of every route.

- With an account made, everybody needs a token, in ``Authorization: Bearer`` or in the cookie of a login.
- With none, whoever can reach the server may do everything. It is so on a loopback address, and with ``insecure``.
- A browser sends along where its page came from: writes and WebSockets of pages from elsewhere are refused. While no
  login is needed, only names of this machine are served, so that no page elsewhere can take one of its own for ours.
- Every write of somebody who was let in is in the audit log before it is answered, as far as that can be written.
"""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from puppetmaster.accounts.audit import Audit
from puppetmaster.accounts.registry import Accounts, Role
from puppetmaster.address import ListenAddress
from puppetmaster.edges.http.replies import reply_error
from puppetmaster.errors import Forbidden, PuppetmasterError, Unauthorized

logger = logging.getLogger(__name__)

App = ASGIApp
"""What can stand behind a :class:`Gate`."""

COOKIE = "puppetmaster_token"

_COOKIE = re.compile(rb"(?:^|;) ?" + COOKIE.encode() + rb"=([A-Za-z0-9_-]{1,200})")

MAX_RESOURCE = 200
"""Characters of a path that the audit log has."""

LOGIN_PATH = "/login"

NOTED_LOGINS = frozenset({200, 401})
"""What may come of a login that is worth a line: others cost a caller nothing, and would fill the disk."""

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})

OPEN_PATHS = frozenset({"/", "/login", "/health", "/docs", "/openapi.json", "/favicon.ico"})
"""What needs no login: nothing there tells of a job. The page asks for what it shows."""

OPEN_FOLDERS = ("/static/", "/docs/")

OWN_PATHS = frozenset({"/logout"})
"""Writes that change nothing but the caller's own login."""

ADMIN_PATHS = ("/accounts", "/audit")

OWN_ACCESS = ("/dut/",)
"""Applications that know their own callers, by accounts that are no business of ours."""

WORKERS_PREFIX = "/manager/"
"""Where workers tell how far they are, many times a minute: no line of the audit log for each."""

READING = frozenset({"GET", "HEAD", "OPTIONS"})

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
}
"""On every answer that does not say otherwise. Swagger's style sheet has pictures in it, hence ``data:``."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls."""

    name: str | None
    """The account; none where no login is needed."""
    role: Role
    address: str
    """The network address that the call came from."""
    token: str | None = None


class Access:
    """Knows who calls, and what they may do.

    :param now: the time, in seconds since 1970.
    :param insecure: whether callers need no account on any address.
    :param has_pages: whether the page is served, which everybody may have; another application has nothing like it.
    """

    def __init__(
        self,
        accounts: Accounts,
        listen: ListenAddress,
        now: Callable[[], float],
        *,
        insecure: bool = False,
        origins: Iterable[str] = (),
        has_pages: bool = True,
    ) -> None:
        self.accounts = accounts
        self._now = now
        self._origins = frozenset(origins)
        self._names = LOOPBACK_NAMES | {listen.host}
        self._is_loopback = listen.is_loopback
        self._insecure = insecure
        self._has_pages = has_pages

    @property
    def is_open(self) -> bool:
        """Whether nobody has to log in."""
        return (self._insecure or self._is_loopback) and not self.accounts.any()

    def identify(self, connection: HTTPConnection) -> Caller:
        """Who calls; where that does not matter, nobody who may no more than read.

        :raises Unauthorized: when they have to log in.
        :raises Forbidden: when nobody may do that from where they are.
        """
        if is_write(connection.scope) or connection.scope["type"] == "websocket":
            self._check_origin(connection.headers)
        is_public = self._is_public(connection.scope["path"])
        if self._is_open_to(is_public):
            self._check_host(connection.headers)
            return Caller(None, Role.ADMIN, address_of(connection))
        if is_public:
            return Caller(None, Role.VIEWER, address_of(connection))
        return self._authenticate(connection)

    def check(self, caller: Caller, scope: Scope) -> None:
        """See that a caller may do that.

        :raises Forbidden: when their role does not allow it.
        """
        path, writes = scope["path"], is_write(scope)
        needed = _needed(path, writes and not self._is_public(path))
        if not caller.role.allows(needed):
            raise Forbidden(f"{caller.name} is {caller.role.value}, and this needs {needed.value}")

    def is_valid(self, caller: Caller) -> bool:
        """Whether somebody who was admitted still would be."""
        try:
            if caller.token is None:
                return self.is_open
            return self.accounts.authenticate(caller.token, self._now()) is not None
        except PuppetmasterError:
            return False  # a file of accounts that can't be read opens nothing

    def _is_public(self, path: str) -> bool:
        return self._has_pages and (path in OPEN_PATHS or path.startswith(OPEN_FOLDERS))

    def _is_open_to(self, is_public: bool) -> bool:
        try:
            return self.is_open
        except PuppetmasterError:
            # The accounts can't be read. The page can tell that, and /health is for who would restart us.
            if is_public:
                return False
            raise

    def _authenticate(self, connection: HTTPConnection) -> Caller:
        token: str | None = connection.state.token
        account = self.accounts.authenticate(token, self._now()) if token else None
        if account is None:
            what = "the token is not valid, or its time is over" if token else "this needs a login"
            raise Unauthorized(f"{what}: POST /login, or a token from puppetmaster accounts token")
        return Caller(account.name, account.role, address_of(connection), token)

    def _check_origin(self, headers: Headers) -> None:
        origin = headers.get("origin")
        if origin is None or origin in self._origins or _host_of(origin) == headers.get("host", ""):
            return
        raise Forbidden(f"pages from {origin:.100} may not do that; the setting cors names those that may")

    def _check_host(self, headers: Headers) -> None:
        if not self._is_loopback:
            return
        try:
            name = urlsplit(f"//{headers.get('host', '')}").hostname
        except ValueError:
            name = None
        if name not in self._names:
            raise Forbidden(f"{name!r:.100} is no name of this machine; to be reached by it, make an account")


class Gate:
    """The ASGI application in front of all others."""

    def __init__(self, app: ASGIApp, access: Access, audit: Audit, now: Callable[[], float]) -> None:
        self._app = app
        self._access = access
        self._audit = audit
        self._now = now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a call through, or refuse it."""
        state = scope.setdefault("state", {})
        state["audit"] = {}
        if scope["path"].startswith(OWN_ACCESS):
            await self._app(scope, receive, _with_headers(send))
            return
        state["token"] = token_of(scope)
        scope["headers"] = [header for header in scope["headers"] if header[0] != b"cookie"]
        secured = _with_headers(send)
        try:
            state["caller"] = caller = self._access.identify(HTTPConnection(scope))
            if is_write(scope):
                secured = self._audited(scope, secured)
            self._access.check(caller, scope)
        except PuppetmasterError as error:
            state["audit"]["message"] = str(error)
            await _refuse(error, scope, receive, secured)
            return
        try:
            await self._app(scope, receive, secured)
        except ClientDisconnect:
            logger.debug("a client left before its call was read: %s", scope["path"], extra={"event": "caller_left"})

    def _audited(self, scope: Scope, send: Send) -> Send:
        async def send_when_noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._note(scope, message["status"])
            await send(message)

        return send_when_noted

    def _note(self, scope: Scope, code: int) -> None:
        caller: Caller = scope["state"]["caller"]
        details: dict[str, Any] = dict(scope["state"]["audit"])
        if not _is_worth_noting(caller, scope["path"], code, details):
            return
        self._audit.record(
            at=self._now(),
            who=details.pop("who", caller.name),
            role=caller.role.value if caller.name else None,
            source=caller.address,
            method=scope["method"].lower(),
            resource=scope["path"][:MAX_RESOURCE],
            code=code,
            **details,
        )


def _is_worth_noting(caller: Caller, path: str, code: int, details: dict[str, Any]) -> bool:
    """Leave out what nobody in particular asked of nothing: anybody could fill the disk with it."""
    if path.startswith(WORKERS_PREFIX):
        return bool(details)
    if caller.name is None and caller.role is not Role.ADMIN:
        return path == LOGIN_PATH and code in NOTED_LOGINS
    return bool(details) or code not in (404, 405)


def address_of(connection: HTTPConnection) -> str:
    """The network address of a caller."""
    return connection.client.host if connection.client else "unknown"


def token_of(scope: Scope) -> str | None:
    """The token that a caller shows.

    Its cookie is looked for here, and all cookies are taken away from what follows: the library unquotes them in a time
    that grows with the square of their length (CVE-2024-7592), and a header of 60 KB would stop the loop for seconds.
    """
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    for name, value in headers:
        if name == b"authorization":
            scheme, _, given = value.decode("latin-1").partition(" ")
            if scheme.lower() == "bearer":
                return given.strip() or None
            if scheme.lower() == "basic":
                return _password_of(given.strip())
    found = (_COOKIE.search(value) for name, value in headers if name == b"cookie")
    return next((match[1].decode() for match in found if match), None)


def _password_of(credentials: str) -> str | None:
    """The token that stands in place of a password: of clients that know no more than a URL, ``http://me:pm_...@host``."""
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2] or None
    except ValueError:
        return None


def _host_of(origin: str) -> str | None:
    """Host and port of a page's origin, none when it has none: a browser says ``null`` of a file or a sandbox."""
    try:
        return urlsplit(origin).netloc or None
    except ValueError:
        return None


def is_write(scope: Scope) -> bool:
    """Whether a call may change something; a WebSocket changes nothing."""
    return scope["type"] == "http" and scope["method"] not in READING


def _needed(path: str, writes: bool) -> Role:
    if path.startswith(ADMIN_PATHS):
        return Role.ADMIN
    return Role.OPERATOR if writes and path not in OWN_PATHS else Role.VIEWER


async def _refuse(error: PuppetmasterError, scope: Scope, receive: Receive, send: Send) -> None:
    answer = reply_error(error)
    if scope["type"] == "websocket":
        await WebSocket(scope, receive, send).send_denial_response(answer)
    else:
        await answer(scope, receive, send)


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            headers: Any = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return send_with_headers
