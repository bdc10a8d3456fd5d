"""TinyDB on the journal does what TinyDB does."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tinydb import Query, TinyDB, where
from tinydb.operations import increment
from tinydb.storages import MemoryStorage
from tinydb.table import Document

from puppetmaster.errors import StoreUnavailable
from puppetmaster.store import TinyStore
from puppetmaster.store import table as table_module
from tests.store.faulty import QuickFileSystem
from tests.store.workload import copy_files

TABLES = st.sampled_from(["_default", "jobs", 'odd "name"'])
IDS = st.integers(-1, 8)
KEYS = st.sampled_from(["a", "b"])
NUMBERS = st.integers(0, 3)
DOCUMENTS = st.fixed_dictionaries({"n": NUMBERS}, optional={"a": NUMBERS, "b": st.lists(NUMBERS, max_size=2)})
# A document with an id, and without.
EITHER = st.one_of(DOCUMENTS, st.builds(Document, DOCUMENTS, IDS))


def append_to_b(document):
    """Change a document in place, also below its top level."""
    document.setdefault("b", []).append(1)
    document["n"] += 1


OPERATIONS = st.one_of(
    st.tuples(st.just("insert"), EITHER),
    st.tuples(st.just("insert_multiple"), st.lists(EITHER, max_size=3)),
    st.tuples(st.just("upsert"), EITHER, NUMBERS),
    st.tuples(st.just("update"), DOCUMENTS, NUMBERS),
    st.tuples(st.just("update_ids"), DOCUMENTS, st.lists(IDS, max_size=3, unique=True)),
    st.tuples(st.just("update_all")),
    st.tuples(st.just("call"), NUMBERS),
    st.tuples(st.just("update_multiple"), NUMBERS, NUMBERS),
    st.tuples(st.just("remove"), NUMBERS),
    st.tuples(st.just("remove_ids"), st.lists(IDS, max_size=3, unique=True)),
    st.tuples(st.just("search"), NUMBERS),
    st.tuples(st.just("get"), IDS),
    st.tuples(st.just("get_ids"), st.lists(IDS, max_size=3)),
    st.tuples(st.just("get_by"), NUMBERS),
    st.tuples(st.just("contains"), IDS, NUMBERS),
    st.tuples(st.just("truncate")),
    st.tuples(st.just("drop")),
    st.tuples(st.just("drop_all")),
)

ACTIONS = {
    "insert": lambda t, document: t.insert(document),
    "insert_multiple": lambda t, documents: t.insert_multiple(documents),
    "upsert": lambda t, document, n: t.upsert(document, None if isinstance(document, Document) else where("n") == n),
    "update": lambda t, fields, n: t.update(fields, where("n") == n),
    "update_ids": lambda t, fields, ids: t.update(fields, doc_ids=ids),
    "update_all": lambda t: t.update(increment("n")),
    "call": lambda t, n: t.update(append_to_b, Query().b.any([n])),
    "update_multiple": lambda t, n, m: t.update_multiple([({"a": m}, where("n") == n), (append_to_b, where("a") == m)]),
    "remove": lambda t, n: t.remove(where("n") == n),
    "remove_ids": lambda t, ids: t.remove(doc_ids=ids),
    "search": lambda t, n: t.search(where("n") >= n),
    "get": lambda t, doc_id: t.get(doc_id=doc_id),
    "get_ids": lambda t, ids: t.get(doc_ids=ids),
    "get_by": lambda t, n: t.get(where("a") == n),
    "contains": lambda t, doc_id, n: (t.contains(doc_id=doc_id), t.contains(where("n") == n), t.count(where("n") == n)),
    "truncate": lambda t: t.truncate(),
}


def act(db: TinyDB, table: str, name: str, arguments: tuple) -> object:
    if name == "drop":
        return db.drop_table(table)
    if name == "drop_all":
        return db.drop_tables()
    try:
        return ACTIONS[name](db.table(table), *arguments)
    except (ValueError, KeyError) as error:
        return type(error), str(error)


def content(db: TinyDB) -> dict:
    return {name: [(document.doc_id, document) for document in db.table(name)] for name in db.tables()}


async def play(store: TinyStore, steps: list) -> TinyDB:
    """Do the same in both, with a commit here and there; return the model."""
    model = TinyDB(storage=MemoryStorage)
    for (table, (name, *arguments)), committing in steps:
        # The stock storage keeps what it is given, so each gets its own.
        expected = repr(act(model, table, name, pickled(arguments)))
        assert repr(act(store.db, table, name, pickled(arguments))) == expected
        assert content(store.db) == content(model)
        if committing:
            await store.commit()
    await store.commit()
    return model


def pickled(arguments: list) -> tuple:
    return tuple(copy_of(argument) for argument in arguments)


def copy_of(value):
    if isinstance(value, Document):
        return Document({key: copy_of(member) for key, member in value.items()}, value.doc_id)
    if isinstance(value, dict):
        return {key: copy_of(member) for key, member in value.items()}
    return [copy_of(member) for member in value] if isinstance(value, list) else value


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=st.lists(st.tuples(st.tuples(TABLES, OPERATIONS), st.booleans()), max_size=25))
def test_any_sequence_of_operations_gives_what_stock_tinydb_gives_and_survives(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("store")

    async def scenario() -> None:
        store = TinyStore.open(folder, files=QuickFileSystem())
        expected = content(await play(store, steps))
        killed = copy_files(store, folder, folder.with_name(f"{folder.name}-killed"))
        await store.close()
        for place in (killed, folder):
            reopened = TinyStore.open(place, files=QuickFileSystem())
            assert content(reopened.db) == expected
            await reopened.close()
            shutil.rmtree(place)

    asyncio.run(scenario())


@pytest.fixture
def store(tmp_path):
    store = TinyStore.open(tmp_path)
    yield store
    asyncio.run(store.close())


def test_both_doors_lead_to_the_same_documents(store):
    jobs = store.db.table("jobs")
    assert jobs.insert({"a": 1}) == 1
    store.put("jobs", {7: {"a": 7}})
    assert jobs.search(where("a") > 1) == [{"a": 7}]
    assert jobs.insert({"a": 8}) == 8
    assert [doc_id for doc_id, _ in store.scan("jobs")] == [1, 7, 8]
    store.remove("jobs", [7])
    assert not jobs.contains(doc_id=7)


def test_what_a_query_returned_is_a_copy_every_time(store):
    jobs = store.db.table("jobs", cache_size=10)
    jobs.insert({"list": []})
    for _ in range(2):
        (found,) = jobs.search(where("list") == [])
        found["list"].append(1)
    next(iter(jobs))["list"].append(1)
    jobs.get(doc_id=1)["list"].append(1)
    assert store.get("jobs", 1) == {"list": []}


def test_an_update_of_many_documents_keeps_few_of_them_open(store, monkeypatch):
    monkeypatch.setattr(table_module, "OPEN_DOCUMENTS", 3)
    store.put("jobs", {number: {"n": number} for number in range(20)})
    updated = store.db.table("jobs").update(append_to_b, where("n") > 9)
    assert updated == list(range(10, 20))
    assert [document for _, document in store.scan("jobs")] == [
        {"n": n} if n < 10 else {"n": n + 1, "b": [1]} for n in range(20)
    ]


def test_an_update_writes_what_changed_and_nothing_else(store):
    store.put("jobs", {number: {"n": number} for number in range(100)})
    store._ledger.take()
    store.db.table("jobs").update({"n": 5}, where("n") < 6)
    assert set(store._ledger.take()["jobs"].puts) == {0, 1, 2, 3, 4}


def test_an_update_that_fails_changes_nothing(store):
    store.put("jobs", {1: {"n": 1}, 2: {"n": 2}})
    with pytest.raises(ValueError):
        store.db.table("jobs").update({"n": float("inf")})
    with pytest.raises(ValueError):
        store.db.table("jobs").insert_multiple([{"n": 3}, {"n": 2**64}])
    assert [document for _, document in store.scan("jobs")] == [{"n": 1}, {"n": 2}]


def test_writing_the_storage_itself_changes_what_differs(store):
    store.put("jobs", {1: {"n": 1}, 2: {"n": 2}})
    store.put("gone", {1: {}})
    store._ledger.take()
    store.db.storage.write({"jobs": {"2": {"n": 2}, "3": {"n": 3}}, "new": {}})
    assert content(store.db) == {"jobs": [(2, {"n": 2}), (3, {"n": 3})], "new": []}
    changes = store._ledger.take()
    assert changes["jobs"].removed == {1}
    assert changes["jobs"].puts == {3: b'{"n":3}'}
    with pytest.raises(ValueError):
        store.db.storage.write({"jobs": {}, "_journal": {}})
    assert store.count("jobs") == 2


def test_an_id_that_is_spelled_otherwise_is_no_id(store):
    store.put("jobs", {1: {}})
    jobs = store.db.table("jobs")
    assert [jobs.get(doc_id=key) for key in ("01", " 1", "x", "1_0")] == [None] * 4


def test_a_database_that_was_closed_with_the_store_takes_no_changes(tmp_path: Path):
    store = TinyStore.open(tmp_path)
    asyncio.run(store.close())
    with pytest.raises(StoreUnavailable):
        store.db.insert({"a": 1})
    store.db.close()
