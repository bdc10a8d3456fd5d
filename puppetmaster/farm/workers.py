"""The workers of the farm: who they are, and what they told last."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from puppetmaster.errors import Conflict, NotFound
from puppetmaster.store.port import Document, Store

WORKERS = "farm_workers"
"""The table: a document for each worker, by its id."""

META, META_ID = "farm_meta", 0
"""The table and the document of what is not of one worker: the number that the next one gets."""

MAX_WORKERS = 10_000

DEFAULT_PORT = 5000
"""The port of a worker that names none: the one that the original's workers listened on."""


class WorkerNotFound(NotFound):
    """Raised when no worker has the id."""

    noun = "worker"


@dataclass(slots=True, kw_only=True, eq=False)
class Worker:
    """A program on some machine that does chunks of tasks, one at a time."""

    id: int
    hostname: str
    port: int
    """Tells the workers of one machine apart."""
    ip_address: str
    system: str = ""
    is_enabled: bool = True
    work: int | None = None
    """The id of the chunk that it has."""
    activity: str | None = None
    time_cost: float | None = None
    mac_address: int | None = None
    frequent: dict[str, Any] = field(default_factory=dict)
    """Load and CPU, as it told them last."""
    seldom: dict[str, Any] = field(default_factory=dict)
    """Architecture, disk, memory and cores, as it told them last."""
    seen_at: float = 0.0
    """When it called last."""

    # What is not stored.
    log: str | None = None
    called: int = 0
    """The number of its last call among those of all workers."""


class Workers:
    """All workers. What changes is put into the store; whoever must not go on before the disk has it, commits."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._workers = {worker.id: worker for worker in map(_from_document, *_columns(store))}
        self._by_name = {(worker.hostname, worker.port): worker for worker in self._workers.values()}
        self._calls = 0
        # A number is not given twice: who was removed may go on calling by it.
        self._next = max((store.get(META, META_ID) or {}).get("next", 1), max(self._workers, default=0) + 1)

    def __iter__(self) -> Iterator[Worker]:
        return iter(list(self._workers.values()))

    def get(self, worker_id: int) -> Worker:
        """The worker with this id.

        :raises WorkerNotFound: when there is none.
        """
        worker = self._workers.get(worker_id)
        if worker is None:
            raise WorkerNotFound(worker_id)
        return worker

    def find(self, worker_id: int | None) -> Worker | None:
        """The worker with this id, if there is one."""
        return None if worker_id is None else self._workers.get(worker_id)

    def named(self, hostname: str, port: int | None = None) -> Worker | None:
        """The worker of this name; of several on one machine the one that called last."""
        if port is not None:
            return self._by_name.get((hostname, port))
        return max((w for w in self._workers.values() if w.hostname == hostname), key=_called, default=None)

    def at(self, address: str) -> Worker | None:
        """The worker that calls from this address; of several there the one that called last."""
        return max((w for w in self._workers.values() if w.ip_address == address), key=_called, default=None)

    def register(self, hostname: str, port: int, system: str, address: str) -> Worker:
        """The worker of this name, which is made when there is none.

        :raises Conflict: when there are too many.
        """
        worker = self._by_name.get((hostname, port))
        if worker is None:
            if len(self._workers) >= MAX_WORKERS:
                raise Conflict(f"there are {MAX_WORKERS} workers already: remove those that are gone")
            worker = Worker(id=self._next, hostname=hostname, port=port, ip_address=address)
            self._next += 1
            self._store.put(META, {META_ID: {"next": self._next}})
            self._workers[worker.id] = self._by_name[(hostname, port)] = worker
        worker.system, worker.ip_address = system, address
        self.save(worker)
        return worker

    def heard(self, worker: Worker, now: float) -> None:
        """A worker called."""
        self._calls += 1
        worker.called = self._calls
        worker.seen_at = now

    def remove(self, worker: Worker) -> None:
        """Forget a worker."""
        self._workers.pop(worker.id, None)
        self._by_name.pop((worker.hostname, worker.port), None)
        self._store.remove(WORKERS, [worker.id])

    def save(self, worker: Worker) -> None:
        """Put what is known of a worker into the store."""
        if worker.id in self._workers:
            self._store.put(WORKERS, {worker.id: _to_document(worker)})


def whole(number: float | None) -> float | int | None:
    """A number as people write it: 3, not 3.0."""
    return int(number) if number is not None and number.is_integer() else number


def _called(worker: Worker) -> tuple[int, float]:
    return worker.called, worker.seen_at


def _columns(store: Store) -> tuple[list[int], list[Document]]:
    found = list(store.scan(WORKERS))
    return [worker_id for worker_id, _ in found], [document for _, document in found]


def _to_document(worker: Worker) -> Document:
    return {
        "hostname": worker.hostname,
        "port": worker.port,
        "ipAddress": worker.ip_address,
        "system": worker.system,
        "enabled": worker.is_enabled,
        "work": worker.work,
        "activity": worker.activity,
        "timeCost": worker.time_cost,
        "macAddress": worker.mac_address,
        "frequent": worker.frequent,
        "seldom": worker.seldom,
        "seenAt": worker.seen_at,
    }


def _from_document(worker_id: int, document: Document) -> Worker:
    return Worker(
        id=worker_id,
        hostname=document["hostname"],
        port=document["port"],
        ip_address=document["ipAddress"],
        system=document["system"],
        is_enabled=document["enabled"],
        work=document["work"],
        activity=document["activity"],
        time_cost=document["timeCost"],
        mac_address=document["macAddress"],
        frequent=document["frequent"],
        seldom=document["seldom"],
        seen_at=document["seenAt"],
    )
