"""What a program uses to talk to a running puppetmaster, over HTTP or over the bus.

::

    with Client("http://127.0.0.1:8080") as client:
        job = client.submit("post", "/system/reboot", ["device-0001", "device-0002"], timeout=600)
        for job in client.watch(job.id):
            print(job.status, job.progress, job.counts)

==================== ===========================================================================================
:class:`Client`      over HTTP; jobs and requests are the models of :mod:`puppetmaster.schemas`
:class:`AsyncClient` the same on an asyncio loop
:class:`BusClient`   over the bus, on an asyncio loop; jobs and requests are documents, dicts as they travel
==================== ===========================================================================================

All of them raise the same errors, which are those of :mod:`puppetmaster.errors` wherever they can be::

    PuppetmasterError
    ├── AnswerError                       puppetmaster answered that it will not: code, message, faults, data
    │   ├── DocumentRefused          400  an InvalidDocument (ValueError): faults, each with its path
    │   ├── LoginNeeded              401  an Unauthorized: no token, or one that is not valid any more
    │   ├── NotAllowed               403  a Forbidden: the account's role is not enough
    │   ├── UnknownJob               404  a JobNotFound (LookupError)
    │   ├── UnknownRequest           404  a RequestNotFound (LookupError)
    │   ├── UnknownDevice            404  a DeviceNotFound (LookupError)
    │   ├── StateForbids             409  a Conflict: it has ended, or its key belongs to another body
    │   ├── SizeRefused              413  a TooLarge
    │   ├── Throttled                429  a TooManyAttempts: retry_after
    │   └── OutOfService             503  a StoreUnavailable (OSError)
    ├── InvalidDocument (ValueError)      what can't be written as JSON: it was not sent
    ├── TooLarge                          what would not fit a message on the bus: it was not sent
    ├── NoAnswer (ConnectionError)        nobody answers over HTTP, or somebody else: the message says what to look at
    ├── BusError (ConnectionError)        nobody answers over the bus
    ├── NotEnded (TimeoutError)           the job that was waited for has not ended in time; it goes on
    └── SettingsError (ValueError)        a URL or a token that can't be used

So ``except JobNotFound`` and ``except AnswerError`` both work, and ``except PuppetmasterError`` catches all of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from puppetmaster.client.asynchronous import AsyncClient
    from puppetmaster.client.bus import BusClient
    from puppetmaster.client.documents import Document, DocumentClient, is_final
    from puppetmaster.client.errors import (
        AnswerError,
        DocumentRefused,
        LoginNeeded,
        NoAnswer,
        NotAllowed,
        NotEnded,
        OutOfService,
        SizeRefused,
        StateForbids,
        Throttled,
        UnknownDevice,
        UnknownJob,
        UnknownRequest,
    )
    from puppetmaster.client.http_documents import HttpDocuments
    from puppetmaster.client.sync import Client

__all__ = [
    "AnswerError",
    "AsyncClient",
    "BusClient",
    "Client",
    "Document",
    "DocumentClient",
    "DocumentRefused",
    "HttpDocuments",
    "LoginNeeded",
    "NoAnswer",
    "NotAllowed",
    "NotEnded",
    "OutOfService",
    "SizeRefused",
    "StateForbids",
    "Throttled",
    "UnknownDevice",
    "UnknownJob",
    "UnknownRequest",
    "is_final",
]

_HOMES = {
    "AsyncClient": "asynchronous",
    "BusClient": "bus",
    "Client": "sync",
    "Document": "documents",
    "DocumentClient": "documents",
    "HttpDocuments": "http_documents",
    "is_final": "documents",
}
"""Where each name is defined, where that is not ``errors``."""


def __getattr__(name: str) -> Any:
    """Load what is asked for, when it is: neither way has to wait for the libraries of the other."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = found
    return found
