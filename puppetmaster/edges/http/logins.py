"""Logging in and out, and the accounts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from puppetmaster import schemas
from puppetmaster.accounts.audit import Audit
from puppetmaster.accounts.registry import Account, Accounts
from puppetmaster.edges.http import openapi
from puppetmaster.edges.http.access import COOKIE, Access, Caller, address_of
from puppetmaster.edges.http.replies import reply, reply_error
from puppetmaster.edges.http.requests import read_document, read_query
from puppetmaster.errors import Conflict, Forbidden, PuppetmasterError, TooManyAttempts
from puppetmaster.queries import Page, parse
from puppetmaster.times import to_text

MAX_BODY_BYTES = 16 * 1024
"""Names and passwords are short."""

HASHERS, MAX_HASHING = 2, 16
"""Threads that hash passwords, and calls that are hashed or wait for it: a tenth of a second each."""

T = TypeVar("T")

Endpoint = Callable[[Request], Awaitable[Response]]


class Logins:
    """Serves ``/login``, ``/logout``, ``/account``, and to admins ``/accounts`` and ``/audit``.

    :param lifetime: seconds that a login lasts.
    :param now: the time, in seconds since 1970.
    """

    def __init__(
        self, accounts: Accounts, access: Access, audit: Audit, *, lifetime: float, now: Callable[[], float]
    ) -> None:
        self._accounts = accounts
        self._access = access
        self._audit = audit
        self._lifetime = lifetime
        self._now = now
        self._hashers = ThreadPoolExecutor(HASHERS, "hashing")
        self._hashing = 0

    def add_to(self, app: FastAPI) -> None:
        """Serve them under their paths."""
        for method, path, endpoint, about in (
            ("POST", "/login", self.login, openapi.LOGIN),
            ("POST", "/logout", self.logout, openapi.LOGOUT),
            ("GET", "/account", self.account, openapi.ACCOUNT),
            ("GET", "/accounts", self.accounts, openapi.ACCOUNTS),
            ("POST", "/accounts", self.add_account, openapi.ADD_ACCOUNT),
            ("PUT", "/accounts/{name}", self.change_account, openapi.CHANGE_ACCOUNT),
            ("DELETE", "/accounts/{name}", self.remove_account, openapi.REMOVE_ACCOUNT),
            ("GET", "/audit", self.audit, openapi.AUDIT),
        ):
            app.add_api_route(path, _told(endpoint), methods=[method], response_model=None, **about)

    async def login(self, request: Request) -> Response:
        """POST /login: a token for a name and a password."""
        body = schemas.parse(schemas.Login, await read_document(request, MAX_BODY_BYTES))
        if self._access.is_open:
            raise Conflict("there is no account, and no login is needed")
        issued = await self._hash(
            self._accounts.login, body.name, body.password, address_of(request), self._lifetime, self._now()
        )
        request.state.audit["who"] = issued.account.name
        answer = reply(
            200,
            {
                "token": issued.token,
                "expiresAt": to_text(issued.expires_at),
                "name": issued.account.name,
                "role": issued.account.role.value,
            },
            {"Cache-Control": "no-store"},
        )
        answer.set_cookie(
            COOKIE,
            issued.token,
            max_age=int(self._lifetime),
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    async def logout(self, request: Request) -> Response:
        """POST /logout: the token that it is called with ends."""
        token: str | None = request.state.token
        if token is not None:
            await asyncio.to_thread(self._accounts.logout, token)
        answer = Response(status_code=204)
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return answer

    async def account(self, request: Request) -> Response:
        """GET /account: who the caller is."""
        caller: Caller = request.state.caller
        login_required = not self._access.is_open
        return reply(200, {"name": caller.name, "role": caller.role.value, "loginRequired": login_required})

    async def accounts(self, request: Request) -> Response:
        """GET /accounts: all of them."""
        return reply(200, [_view(account) for account in self._accounts.list()])

    async def add_account(self, request: Request) -> Response:
        """POST /accounts: make one."""
        body = schemas.parse(schemas.NewAccount, await read_document(request, MAX_BODY_BYTES))
        request.state.audit["account"] = body.name
        if self._access.is_open:
            # Or any page or program of this machine could lock its owner out.
            raise Forbidden("the first account is made on the machine itself: puppetmaster accounts add NAME")
        account = await self._hash(self._accounts.add, body.name, body.role, body.password)
        return reply(200, _view(account))

    async def change_account(self, request: Request) -> Response:
        """PUT /accounts/:name: another role or password."""
        name = request.path_params["name"]
        body = schemas.parse(schemas.AccountChange, await read_document(request, MAX_BODY_BYTES))
        request.state.audit["changed"] = sorted(body.model_fields_set)
        account = await self._hash(self._accounts.change, name, body.role, body.password)
        return reply(200, _view(account))

    async def remove_account(self, request: Request) -> Response:
        """DELETE /accounts/:name: it and its tokens are gone."""
        account = await asyncio.to_thread(self._accounts.remove, request.path_params["name"])
        return reply(200, _view(account))

    async def audit(self, request: Request) -> Response:
        """GET /audit: a page of the audit log, newest first."""
        page = parse(Page, read_query(request))
        entries = await asyncio.to_thread(self._audit.tail, page.limit, page.offset)
        return reply(200, entries, {"Cache-Control": "no-store"})

    async def _hash(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do what hashes a password, in threads of its own: it is slow on purpose, and must keep nobody else waiting.

        :raises TooManyAttempts: when too many wait for it already.
        """
        if self._hashing >= MAX_HASHING:
            raise TooManyAttempts(1.0)
        self._hashing += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._hashers, partial(work, *arguments))
        finally:
            self._hashing -= 1


def _view(account: Account) -> dict[str, Any]:
    return {"name": account.name, "role": account.role.value, "changedAt": to_text(account.changed)}


def _told(endpoint: Endpoint) -> Endpoint:
    """The endpoint, with its errors told as those of the operations are."""

    async def told(request: Request) -> Response:
        try:
            return await endpoint(request)
        except PuppetmasterError as error:
            request.state.audit["message"] = str(error)
            return reply_error(error)

    return told
