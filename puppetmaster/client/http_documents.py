"""The calls over HTTP with documents as they travel: what the command line needs of a client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from puppetmaster.client import calls
from puppetmaster.client.asynchronous import AsyncClient
from puppetmaster.client.documents import Document, DocumentClient, Told
from puppetmaster.client.errors import NoAnswer
from puppetmaster.errors import PuppetmasterError


class HttpDocuments(DocumentClient):
    """A client over HTTP whose calls take and give documents.

    :param client: does the calls; it is closed with this one.
    """

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def start(self) -> None:
        """Do nothing: every call connects by itself."""

    async def close(self) -> None:
        """Let the connections go."""
        await self._client.close()

    async def request(self, method: str, resource: str, data: Any = None, timeout: float | None = None) -> Any:
        """Do something with a resource; the JSON of the answer."""
        return await self._client.call(method, resource, data, timeout=timeout)

    async def create_job(self, document: Mapping[str, Any]) -> Document:
        """Create a job; with a key of its own, so that it may be asked for again when the answer is lost."""
        return await super().create_job(calls.with_key(document))

    async def rerun_job(self, job_id: int, document: Mapping[str, Any] | None = None) -> Document:
        """Make a new job of the requests of a job that failed, with a key of its own."""
        return await super().rerun_job(job_id, calls.with_key(document or {}))

    async def create_request(self, document: Mapping[str, Any]) -> Document:
        """Send one message to one destination, with a key of its own."""
        return await super().create_request(calls.with_key(document))

    def watch(self, job_id: int, *, told: Told | None = None) -> AsyncIterator[Document]:
        """A job without its requests, now and at every change, until it has ended or was removed."""
        return self._client.watch_documents(job_id, told=told)

    def unreadable(self, text: str) -> PuppetmasterError:
        """The error for an answer that is not what a puppetmaster answers."""
        return NoAnswer(text, lasting=True)
