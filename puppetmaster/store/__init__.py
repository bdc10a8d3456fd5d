"""The store: tables of documents that outlive the process. It knows nothing of jobs and requests."""

from puppetmaster.store.memory import MemoryStore
from puppetmaster.store.port import Document, Store
from puppetmaster.store.tiny import TinyStore

__all__ = ["Document", "MemoryStore", "Store", "TinyStore"]
