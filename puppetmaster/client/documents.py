"""The calls of a running puppetmaster with documents as they travel, whichever way leads to it.

:class:`DocumentClient` is what the command line needs of a client; the bus and HTTP each have one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote, urlencode

from puppetmaster.errors import PuppetmasterError
from puppetmaster.states import JOB_FINAL

Document: TypeAlias = dict[str, Any]

Told: TypeAlias = Callable[[PuppetmasterError | None], None]
"""Is told while a job is watched: once with the reason when there is no word on it any more, and once with none when
there is again."""

CREATE_TIMEOUT = 60.0
"""Seconds for the answer to a new job: one of 100,000 requests is on disk before it is answered."""

_FINAL = frozenset(status.value for status in JOB_FINAL)

_Client = TypeVar("_Client", bound="DocumentClient")


class Absence:
    """Whether there is word on a watched job; who watches is told when that changes."""

    def __init__(self, told: Told | None) -> None:
        self._told = told
        self._away = False

    def begins(self, reason: PuppetmasterError) -> None:
        """There is no word, for this reason."""
        if not self._away:
            self._away = True
            if self._told is not None:
                self._told(reason)

    def ends(self) -> None:
        """There was word just now."""
        if self._away:
            self._away = False
            if self._told is not None:
                self._told(None)


class DocumentClient(ABC):
    """A client whose calls take and give documents: dicts, as JSON has them.

    All calls raise :class:`~puppetmaster.client.errors.AnswerError` when they are refused, and an error that is a
    :class:`ConnectionError` when nobody answers.
    """

    @abstractmethod
    async def start(self) -> None:
        """Be ready for calls."""

    @abstractmethod
    async def close(self) -> None:
        """Let the connection go."""

    @abstractmethod
    async def request(self, method: str, resource: str, data: Any = None, timeout: float | None = None) -> Any:
        """Do something with a resource; the data of the answer.

        :param method: get, post, put or delete.
        :param resource: a path, with its query string.
        :param timeout: seconds for an answer.
        """

    @abstractmethod
    def watch(self, job_id: int, *, told: Told | None = None) -> AsyncIterator[Document]:
        """A job without its requests, now and at every change, until it has ended or was removed."""

    @abstractmethod
    def unreadable(self, text: str) -> PuppetmasterError:
        """The error for an answer that is not what a puppetmaster answers."""

    async def __aenter__(self: _Client) -> _Client:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # Jobs

    async def create_job(self, document: Mapping[str, Any]) -> Document:
        """Create a job from a document in any of its three spellings; the job, its ``requests`` as ids.

        With ``dryRun`` in the document nothing is made; the answer is what there would be.
        """
        return self._document(await self.request("post", "/jobs", dict(document), CREATE_TIMEOUT))

    async def jobs(self, **query: Any) -> list[Document]:
        """A page of the jobs, newest first; by ``limit``, ``offset``, ``status``, ``label``, ``since``."""
        return self._documents(await self.request("get", with_query("/jobs", query)))

    async def job(self, job_id: int, **query: Any) -> Document:
        """One job and a page of its requests; by ``limit offset status destination collection``."""
        return self._document(await self.request("get", with_query(f"/jobs/{job_id}", query)))

    async def update_job(self, job_id: int, document: Mapping[str, Any]) -> Document:
        """Pause a job, resume it or call it off (``{"status": "paused"}``), or change its limits; the job."""
        return self._document(await self.request("put", f"/jobs/{job_id}", dict(document)))

    async def remove_job(self, job_id: int) -> Document:
        """Call off what is unfinished of a job, and remove it; the job as it was in the end."""
        return self._document(await self.request("delete", f"/jobs/{job_id}"))

    async def rerun_job(self, job_id: int, document: Mapping[str, Any] | None = None) -> Document:
        """Make a new job of the requests of a job that failed; the new job, its ``requests`` as ids."""
        data = dict(document or {})
        return self._document(await self.request("post", f"/jobs/{job_id}/rerun", data, CREATE_TIMEOUT))

    async def answers(self, job_id: int, **query: Any) -> list[Document]:
        """The equal answers of a job's devices, counted, the most frequent first; by ``limit``, ``status``."""
        return self._documents(await self.request("get", with_query(f"/jobs/{job_id}/answers", query)))

    # Requests

    async def create_request(self, document: Mapping[str, Any]) -> Document:
        """Send one message to one destination: ``destination``, ``message``, ``options``."""
        return self._document(await self.request("post", "/requests", dict(document)))

    async def requests(self, **query: Any) -> list[Document]:
        """A page of the requests; by ``limit``, ``offset``, ``status``, ``destination``, ``job``."""
        return self._documents(await self.request("get", with_query("/requests", query)))

    async def get_request(self, request_id: int) -> Document:
        """One request."""
        return self._document(await self.request("get", f"/requests/{request_id}"))

    async def cancel_request(self, request_id: int) -> Document:
        """Call a request off; the request."""
        return self._document(await self.request("delete", f"/requests/{request_id}"))

    # Devices

    async def devices(self, **query: Any) -> list[Document]:
        """A page of the devices, in the order of their ids; by ``limit offset connection label fact id``."""
        return self._documents(await self.request("get", with_query("/devices", query)))

    async def device(self, device_id: str) -> Document:
        """One device."""
        return self._document(await self.request("get", device_path(device_id)))

    async def label_device(self, device_id: str, labels: Mapping[str, str | None] | None) -> Document:
        """Give a device labels; one that is none is taken away, none for all leaves those of its own; the device."""
        body = {"labels": None if labels is None else dict(labels)}
        return self._document(await self.request("put", device_path(device_id), body))

    async def remove_device(self, device_id: str) -> Document:
        """Forget a device; what was known of it in the end."""
        return self._document(await self.request("delete", device_path(device_id)))

    async def fact_values(self, fact: str, **query: Any) -> list[Document]:
        """What devices say of a fact, counted, the most frequent first; by ``limit connection label fact id``."""
        return self._documents(await self.request("get", with_query(fact_path(fact), query)))

    def _document(self, data: Any) -> Document:
        if not isinstance(data, dict):
            raise self.unreadable(f"the answer is no document: {data!r:.100}")
        return data

    def _documents(self, data: Any) -> list[Document]:
        if not isinstance(data, list) or not all(isinstance(entry, dict) for entry in data):
            raise self.unreadable(f"the answer is no list of documents: {data!r:.100}")
        return data


def is_final(job: Document) -> bool:
    """Whether a job, as it travels, has ended."""
    return job.get("status") in _FINAL


def is_same(change: Document, job: Document) -> bool:
    """Whether both are the same job: one of its number that was made at another time is not."""
    return change.get("createdAt") == job.get("createdAt")


def follows(change: Document, job: Document) -> bool:
    """Whether a change is of this very job, and no older than what is known of it."""
    return is_same(change, job) and change.get("doneCount", 0) >= job.get("doneCount", 0)


def without_requests(job: Document) -> Document:
    """A job as lists and changes have it."""
    return {key: value for key, value in job.items() if key not in ("requests", "collection")}


def device_path(device_id: str) -> str:
    """The resource of a device, whatever characters its id has."""
    return f"/devices/{_in_path(device_id)}"


def fact_path(fact: str) -> str:
    """The resource that counts what devices say of a fact."""
    return f"/devices/facts/{_in_path(fact)}"


def _in_path(text: str) -> str:
    quoted = quote(text, safe=":@", errors="replace")
    # These two would be steps to another path.
    return quoted.replace(".", "%2E") if text in (".", "..") else quoted


def with_query(path: str, query: Mapping[str, Any]) -> str:
    """A resource with a query string; what is none is left out, and a list stands for a name that is repeated."""
    given = {key: _query_value(value) for key, value in query.items() if value is not None}
    if not given:
        return path
    return f"{path}?{urlencode(given, doseq=True, errors='replace', quote_via=quote)}"


def _query_value(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value
