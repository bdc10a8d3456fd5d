"""The dutserver over HTTP: what its clients and agents ask, in their words.

Every error is ``{"error": true, "msg": ...}`` with a status that is never 200. Credentials that are nobody's are
answered with 403, as the original did: its clients ask for the password again at this status and no other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from puppetmaster.dut.accounts import Kind
from puppetmaster.dut.callers import Caller
from puppetmaster.dut.events import MAX_EVENT_BYTES, MAX_EVENTS
from puppetmaster.dut.server import DutServer
from puppetmaster.dut.tasks import content_of
from puppetmaster.edges.http.access import address_of
from puppetmaster.edges.http.replies import error_headers, reply
from puppetmaster.edges.http.requests import make_parsers, read_value
from puppetmaster.errors import Fault, InvalidDocument, NotFound, PuppetmasterError, Unauthorized
from puppetmaster.operations import MAX_ID_DIGITS
from puppetmaster.wire import MAX_DATA_BYTES

logger = logging.getLogger(__name__)

FORBIDDEN, WRONG_METHOD = 403, 405

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""What a path may be asked to before we say that it can't be."""

HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
"""On every answer: a task that a proxy keeps would be given twice, and what agents tell is no page."""

SWITCH = {"0": False, "1": True}

T = TypeVar("T")

Endpoint = Callable[[Request], Awaitable[Response]]


def make_app(server: DutServer) -> ASGIApp:
    """The ASGI application; its paths are relative to wherever it is mounted."""
    app = Starlette(
        routes=Api(server).routes(),
        exception_handlers={HTTPException: _not_here, Exception: _broken},  # type: ignore[dict-item]
    )
    # A redirect to the same path without its slash would repeat the query, and the password in it.
    app.router.redirect_slashes = False
    app.state.parsers = make_parsers()
    return app


class Api:
    """What can be asked."""

    def __init__(self, server: DutServer) -> None:
        self._server = server

    def routes(self) -> list[Route]:
        """All of it, by path."""
        switch = {"GET": self.show_registration, "POST": self.switch_registration}
        return [
            _route("/login", {"GET": self.login, "POST": self.login}),
            _route("/logout", {"POST": self.logout}),
            _route("/agents", {"GET": self.list_agents, "POST": self.register}),
            _route("/agent_selfreg", switch),
            _route("/agents_selfreg", switch),
            _route("/events", {"GET": self.list_events, "POST": self.add_event}),
            _route("/tasks", {"GET": self.next_task, "POST": self.create_task}),
            _route("/tasks_result", {"POST": self.finish_task}),
        ]

    # Sessions

    async def login(self, request: Request) -> Response:
        """POST /login, and GET as the original's successor had it: a token for an admin's name and password."""
        user, password = _parameter(request, "user"), _parameter(request, "pass")
        token, name = await self._server.callers.login(user, password, address_of(request))
        self._note(request, Caller(name, Kind.ADMIN, address_of(request)))
        return reply(200, {"error": False, "token": token})

    async def logout(self, request: Request) -> Response:
        """POST /logout: the session ends."""
        await self._server.callers.logout(request.headers.get("authorization"))
        return reply(200, {"error": False})

    # Agents

    async def list_agents(self, request: Request) -> Response:
        """GET /agents: their names, and who of them is there."""
        await self._admin(request)
        agents = self._server.accounts.agents()
        is_online = self._server.presence.is_online
        return reply(200, {"error": False, "agents": agents, "online": {name: is_online(name) for name in agents}})

    async def register(self, request: Request) -> Response:
        """POST /agents: an agent makes its account."""
        user, password = _parameter(request, "user"), _parameter(request, "pass")
        await self._server.register(user, password)
        self._note(request, Caller(user, Kind.AGENT, address_of(request)))
        return Response()

    async def show_registration(self, request: Request) -> Response:
        """GET /agent_selfreg: whether agents may; they ask before they have an account, so nobody has to be known."""
        return PlainTextResponse(str(int(self._server.accounts.self_registration)))

    async def switch_registration(self, request: Request) -> Response:
        """POST /agent_selfreg: let them, or no longer."""
        caller = await self._admin(request)
        enabled = _switch(request, "enabled")
        if enabled is None:
            raise _missing("enabled")
        await asyncio.to_thread(self._server.accounts.allow_self_registration, enabled)
        self._note(request, caller, enabled=enabled)
        return Response()

    # Events

    async def list_events(self, request: Request) -> Response:
        """GET /events: what an agent told, the oldest first."""
        await self._admin(request)
        agent = _parameter(request, "agent")
        self._server.check_agent(agent)
        return reply(200, {"error": False, "events": self._server.events.of(agent), "max_size": MAX_EVENTS})

    async def add_event(self, request: Request) -> Response:
        """POST /events: an agent tells something."""
        agent = await self._agent(request)
        await self._server.events.add(agent, await read_value(request, MAX_EVENT_BYTES))
        return reply(200, {"error": False, "msg": "Event logged"})

    # Tasks

    async def create_task(self, request: Request) -> Response:
        """POST /tasks: give a task to an agent, and wait for its result."""
        caller = await self._admin(request)
        target, no_wait = _parameter(request, "target"), _switch(request, "noWait")
        self._server.check_agent(target)
        tasks = self._server.tasks
        task = await tasks.create(target, await read_value(request, MAX_DATA_BYTES))
        self._note(request, caller, target=target, request=task.id)
        if no_wait:
            return reply(200, {"error": False, "result": None, "id": task.id})
        result = await _while_there(request, tasks.result(task))
        return reply(200, {"error": False, "result": result, "id": task.id})

    async def next_task(self, request: Request) -> Response:
        """GET /tasks: what the agent is to do, as soon as there is something."""
        agent = await self._agent(request)
        tasks = self._server.tasks
        with self._server.presence.polling(agent):
            task = await _while_there(request, tasks.next(agent), tasks.give_back)
        events = {} if task is None else {str(task.id): content_of(task.message)}
        return reply(200, {"error": False, "events": events})

    async def finish_task(self, request: Request) -> Response:
        """POST /tasks_result: what became of a task."""
        agent = await self._agent(request)
        task_id = _parameter(request, "id")
        if not (task_id.isascii() and task_id.isdigit() and len(task_id) <= MAX_ID_DIGITS):
            raise InvalidDocument([Fault("id", "it has to be the number that the task came with")])
        await self._server.tasks.finish(agent, int(task_id), await read_value(request, MAX_DATA_BYTES))
        return Response()

    # Inside

    async def _admin(self, request: Request) -> Caller:
        return await self._caller(request, Kind.ADMIN)

    async def _agent(self, request: Request) -> str:
        caller = await self._caller(request, Kind.AGENT)
        self._server.seen(caller.name)
        return caller.name

    async def _caller(self, request: Request, kind: Kind) -> Caller:
        header = request.headers.get("authorization")
        return await self._server.callers.identify(header, address_of(request), kind)

    def _note(self, asked: Request, caller: Caller, /, **details: Any) -> None:
        """Write what somebody did into the audit log; the query stays out of it, for there may be a password in it."""
        if self._server.audit is not None:
            self._server.audit.record(
                at=self._server.now(),
                who=caller.name,
                role=caller.kind.value,
                source=caller.source,
                method=asked.method.lower(),
                resource=asked.scope["path"],
                code=200,
                **details,
            )


# Parameters


def _parameter(request: Request, name: str) -> str:
    """A parameter of the query string, which has to be there, once."""
    values = request.query_params.getlist(name)
    if len(values) > 1:
        raise InvalidDocument([Fault(name, "it stands more than once in the query string")])
    if not values or not values[0]:
        raise _missing(name)
    return values[0]


def _switch(request: Request, name: str) -> bool | None:
    """A parameter that is 0 or 1; none when it is not given."""
    if name not in request.query_params:
        return None
    value = SWITCH.get(_parameter(request, name))
    if value is None:
        raise InvalidDocument([Fault(name, "it has to be 0 or 1")])
    return value


def _missing(name: str) -> InvalidDocument:
    return InvalidDocument([Fault(name, "it is missing in the query string")])


# Waiting


async def _while_there(
    request: Request, work: Coroutine[Any, Any, T], undo: Callable[[T], None] | None = None
) -> T:
    """Do work for a client as long as it is there.

    :param undo: is given what the work came to when the client had gone by then.
    :raises ClientDisconnect: when it has gone before the end.
    """
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_until_gone(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if leaving.done():
            raise ClientDisconnect
        return working.result()
    except BaseException:
        working.cancel()
        await asyncio.wait({working})
        if not working.cancelled() and working.exception() is None and undo is not None:
            undo(working.result())
        raise
    finally:
        leaving.cancel()


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


# Answers


def _route(path: str, endpoints: Mapping[str, Endpoint]) -> Route:
    allowed = ", ".join(endpoints)

    async def endpoint(request: Request) -> Response:
        chosen = endpoints.get(request.method)
        if chosen is None:
            # HEAD too: to look at GET /tasks would take a task away.
            message = f"{path} can't be asked to {request.method}, only to {allowed}"
            return _refusal(WRONG_METHOD, message, {"Allow": allowed})
        answer = await _told(chosen, request)
        answer.headers.update(HEADERS)
        return answer

    return Route(path, endpoint, methods=list(METHODS))


async def _told(endpoint: Endpoint, request: Request) -> Response:
    """Ask an endpoint, and tell its errors as clients know them."""
    try:
        return await endpoint(request)
    except Unauthorized as error:
        return _refusal(FORBIDDEN, str(error))
    except PuppetmasterError as error:
        return _refusal(error.code, str(error), error_headers(error))
    except ClientDisconnect:
        logger.debug("a client left before its call was answered: %s", request.scope["path"],
                     extra={"event": "caller_left"})
        return Response(status_code=499)


def _refusal(code: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return reply(code, {"error": True, "msg": message}, headers)


async def _not_here(request: Request, error: HTTPException) -> Response:
    if error.status_code == NotFound.code:
        return _refusal(error.status_code, f"there is nothing at {request.url.path[:100]}")
    return _refusal(error.status_code, str(error.detail), dict(error.headers or {}))


async def _broken(request: Request, error: Exception) -> Response:
    return _refusal(500, "the server failed; its log says why")
