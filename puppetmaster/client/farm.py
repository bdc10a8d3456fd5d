"""The manager of a farm as its workers see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import httpx
import orjson

from puppetmaster.client.errors import NoAnswer, refusal
from puppetmaster.client.server import Server
from puppetmaster.errors import SettingsError

TIMEOUT = 30.0
"""Seconds for an answer; the manager answers when what it was told is on its disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FarmTask:
    """A chunk of a task that this worker is to do."""

    id: int
    """What its reports name."""
    job: int
    """The task that it is a part of."""
    commands: tuple[tuple[str, ...], ...]
    """Programs with their arguments, to be run one after the other."""


class FarmClient:
    """Talks to a manager.

    :param url: ``http://host:port/manager``; with a name and a token of an account, ``http://name:token@host...``.
    :param token: the token, where the URL holds none; none means ``PUPPETMASTER_TOKEN``, if that is set.
    :param ca_file: the certificates to trust with ``https``; none means those of the system.
    :raises SettingsError: when one of them can't be used.
    """

    def __init__(self, url: str, *, token: str | None = None, ca_file: Any = None) -> None:
        address, credentials = _split(url)
        server = Server(address, token, ca_file)
        self.url = server.url
        """Where it is, without the token."""
        headers: dict[str, str] = {}
        if credentials is None and server.token is not None:
            headers["Authorization"] = f"Bearer {server.token}"
        options = server.options()
        options["headers"] = {**options["headers"], **headers}
        self._http = httpx.AsyncClient(**options, auth=credentials, timeout=TIMEOUT)

    async def close(self) -> None:
        """Let go of the connection."""
        await self._http.aclose()

    async def register(self, hostname: str, port: int, system: str) -> int:
        """Become one of its workers; returns the number that it has for us.

        What a worker of this name was at is taken from it: it has started anew.
        """
        told = {"hostname": hostname, "port": port, "system": system}
        response = await self._send("POST", "/workers", told)
        number = response.headers.get("location", "").rpartition("/")[2]
        if not number.isdigit():
            raise NoAnswer(f"{self.url} is not the manager of a farm: is /manager in the URL?", lasting=True)
        return int(number)

    async def next_task(self, worker: int) -> FarmTask | None:
        """What a worker is to do, if there is anything. It is the worker's then.

        :raises NotAllowed: when the worker is disabled.
        """
        tasks = _json(await self._send("GET", "/tasks", query={"worker_id": worker}))
        try:
            return _task(tasks[0]) if tasks else None
        except (TypeError, LookupError, ValueError):
            raise NoAnswer(f"what {self.url} answers is no task: is it a manager of this version?") from None

    async def report(self, worker: int, task: int, fields: Mapping[str, Any], timeout: float = TIMEOUT) -> None:
        """Tell how far a task is, or how it ended.

        :raises NotAllowed: when the worker is to stop, for the reason that it holds.
        """
        await self._send("PATCH", f"/tasks/{task}", {**fields, "worker_id": worker}, timeout=timeout)

    async def tell(self, worker: int, fields: Mapping[str, Any]) -> None:
        """Tell of the machine."""
        await self._send("PATCH", f"/workers/{worker}", fields)

    async def _send(
        self,
        method: str,
        path: str,
        fields: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        timeout: float = TIMEOUT,
    ) -> httpx.Response:
        content = None if fields is None else orjson.dumps(fields)
        headers = {} if content is None else {"Content-Type": "application/json"}
        try:
            response = await self._http.request(
                method, path, content=content, headers=headers, params=query, timeout=timeout
            )
        except httpx.RequestError as error:
            raise NoAnswer(f"no answer from {self.url} ({error or type(error).__name__})", maybe_done=True) from error
        if not response.is_success:
            raise refusal(response.status_code, _json(response), path)
        return response


def _split(url: str) -> tuple[str, tuple[str, str] | None]:
    """A URL without name and token, and these two."""
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        raise SettingsError("manager", "code", f"{url!r:.100} is no URL") from None
    if parts.username is None:
        return url, None
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return bare, (unquote(parts.username), unquote(parts.password or ""))


def _task(document: Any) -> FarmTask:
    commands = tuple(tuple(command) for command in document["commands"])
    if not commands or not all(command and all(isinstance(text, str) for text in command) for command in commands):
        raise ValueError("commands are lists of texts")
    return FarmTask(id=int(document["id"]), job=int(document["job_id"]), commands=commands)


def _json(response: httpx.Response) -> Any:
    try:
        return orjson.loads(response.content)
    except orjson.JSONDecodeError:
        return None
