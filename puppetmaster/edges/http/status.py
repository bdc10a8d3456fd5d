"""How the bundle is: ``/health`` for whoever starts and stops it, ``/metrics`` for whoever watches it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from puppetmaster.edges.http import openapi
from puppetmaster.edges.http.replies import reply
from puppetmaster.metrics import Metrics
from puppetmaster.version import __version__

RETRY_AFTER = {"Retry-After": "5"}
"""Seconds: connections heal by themselves in less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the bundle can't work without."""

    instance: str
    broker: Callable[[], bool]
    """Whether the data plane is connected."""
    controller: Callable[[], bool]
    """Whether the controller knows us."""
    store: Callable[[], str]
    """Why the store can't write; empty while it can."""
    registry: Callable[[], str] = str
    """The same for the registry of devices."""
    memory: Callable[[], str] = str
    """Why no job is taken for want of memory; empty while there is enough."""


def add_status(app: FastAPI, parts: Parts, metrics: Metrics) -> None:
    """Serve both."""

    async def health(request: Request) -> Response:
        broker, controller = parts.broker(), parts.controller()
        store, registry, memory = parts.store(), parts.registry(), parts.memory()
        ready = broker and controller and not (store or registry or memory)
        document = {
            "live": True,
            "ready": ready,
            "broker": "connected" if broker else "disconnected",
            "controller": "registered" if controller else "unregistered",
            "store": store or "ok",
            "registry": registry or "ok",
            "memory": memory or "ok",
            "version": __version__,
            "instance": parts.instance,
        }
        return reply(200 if ready else 503, document, {"Cache-Control": "no-store", **({} if ready else RETRY_AFTER)})

    async def scrape(request: Request) -> Response:
        return Response(metrics.render(), media_type=metrics.content_type)

    for path, endpoint, about in (("/health", health, openapi.HEALTH), ("/metrics", scrape, openapi.METRICS)):
        app.add_api_route(path, endpoint, methods=["GET"], response_model=None, **about)
        app.add_api_route(path, endpoint, methods=["HEAD"], response_model=None, include_in_schema=False)
