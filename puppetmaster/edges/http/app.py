"""Puts the HTTP edge together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import fastapi_offline
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Match, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from puppetmaster.accounts.audit import Audit
from puppetmaster.accounts.registry import Accounts
from puppetmaster.address import ListenAddress
from puppetmaster.edges.http import openapi
from puppetmaster.edges.http.access import Access, Gate
from puppetmaster.edges.http.logins import Logins
from puppetmaster.edges.http.output import add_output
from puppetmaster.edges.http.replies import reply
from puppetmaster.edges.http.requests import IDEMPOTENCY_KEY, make_parsers
from puppetmaster.edges.http.routes import add_operations
from puppetmaster.edges.http.status import Parts, add_status
from puppetmaster.edges.http.streams import Streams
from puppetmaster.feeds import Feeds
from puppetmaster.metrics import Metrics
from puppetmaster.outputs import Outputs
from puppetmaster.service import Service

PAGE = Path(__file__).parent / "page"

SWAGGER = Path(fastapi_offline.__file__).parent / "static"
"""Swagger's files from a package: nothing is asked of other hosts."""

WRONG_METHOD = 405

MESSAGES = {
    404: "there is nothing at {path}; /docs lists what there is",
    WRONG_METHOD: "{path} can't be asked to {method}",
}


def _no_mounts(access: Access) -> Mapping[str, ASGIApp]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What the HTTP edge is made of.

    :param lifetime: seconds that a login lasts.
    :param now: the time, in seconds since 1970.
    """

    service: Service
    feeds: Feeds
    outputs: Outputs
    metrics: Metrics
    parts: Parts
    accounts: Accounts
    audit: Audit
    listen: ListenAddress
    now: Callable[[], float]
    lifetime: float
    insecure: bool = False
    origins: Sequence[str] = ()
    mounts: Callable[[Access], Mapping[str, ASGIApp]] = _no_mounts
    """Makes the applications that speak the languages of other systems, by the path that they are under."""


def make_app(site: Site) -> ASGIApp:
    """The ASGI application, its gate in front."""
    access = Access(site.accounts, site.listen, site.now, insecure=site.insecure, origins=site.origins)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url="/openapi.json", redirect_slashes=False, **openapi.ABOUT)
    app.state.parsers = make_parsers()
    Streams(site.service, site.feeds, access).add_to(app)
    add_output(app, site.service, site.outputs, access)
    add_operations(app, site.service)
    Logins(site.accounts, access, site.audit, lifetime=site.lifetime, now=site.now).add_to(app)
    add_status(app, site.parts, site.metrics)
    _add_pages(app)
    mounts = site.mounts(access)
    for prefix, mounted in mounts.items():
        app.mount(prefix, mounted)
    app.add_exception_handler(HTTPException, _not_here)  # type: ignore[arg-type]
    app.openapi = lambda: openapi.complete(app)  # type: ignore[method-assign]
    gate: ASGIApp = Gate(_with_slash(app, frozenset(mounts)), access, site.audit, site.now)
    if not site.origins:
        return gate
    return CORSMiddleware(
        gate,
        allow_origins=site.origins,
        allow_methods=["GET", "HEAD", "POST", "PUT", "DELETE"],
        allow_headers=["Authorization", "Content-Type", "If-None-Match", "Last-Event-ID", IDEMPOTENCY_KEY],
        expose_headers=["ETag", "Retry-After"],
    )


def _with_slash(app: ASGIApp, prefixes: frozenset[str]) -> ASGIApp:
    """Serve the root of a mounted application without its slash, too; a client need not follow a redirect."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in prefixes:
            scope["path"] += "/"
        await app(scope, receive, send)

    return serve


def _add_pages(app: FastAPI) -> None:
    async def page(request: Request) -> Response:
        return FileResponse(PAGE / "index.html")

    async def docs(request: Request) -> Response:
        return FileResponse(PAGE / "docs.html")

    async def icon(request: Request) -> Response:
        return FileResponse(PAGE / "favicon.svg")

    app.add_route("/", page, methods=["GET"])
    app.add_route("/favicon.ico", icon, methods=["GET"])
    app.add_route("/docs", docs, methods=["GET"])
    app.mount("/static", StaticFiles(directory=PAGE))
    app.mount("/docs/swagger", StaticFiles(directory=SWAGGER))


async def _not_here(request: Request, error: HTTPException) -> Response:
    message = MESSAGES.get(error.status_code, str(error.detail))
    message = message.format(path=request.url.path[:100], method=request.method[:20])
    headers = {"Allow": _methods(request)} if error.status_code == WRONG_METHOD else error.headers
    return reply(error.status_code, {"message": message}, headers)


def _methods(request: Request) -> str:
    """What a path can be asked to; each method of it is a route of its own."""
    near = [
        route
        for route in request.app.routes
        if isinstance(route, Route) and route.matches(request.scope)[0] is Match.PARTIAL
    ]
    # Of other routes that would match, such as /jobs/:id for /jobs/events, the first one goes before.
    found = {method for route in near if route.path == near[0].path for method in route.methods or ()}
    return ", ".join(sorted(found or {"GET", "HEAD"}))
