"""Accounts: who gets in, on a real disk and with real processes; only the hashes are cheap."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import queue
import random
import re
import signal
import stat
import subprocess
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from tinydb import TinyDB, where

from puppetmaster.accounts import file as account_file
from puppetmaster.accounts import throttle
from puppetmaster.accounts.passwords import MAX_WAITING, SLOTS, Passwords
from puppetmaster.accounts.registry import (
    LONGEST_WAIT_OF_NAME,
    LONGEST_WAIT_OF_SOURCE,
    MAX_TOKENS,
    Account,
    Accounts,
    Issued,
    Role,
    network,
)
from puppetmaster.accounts.throttle import FREE_FAILURES, Throttle
from puppetmaster.errors import (
    AccountExists,
    AccountNotFound,
    FileUnavailable,
    InvalidDocument,
    LastAdmin,
    StoreCorrupt,
    TooManyAttempts,
    Unauthorized,
)
from puppetmaster.store.files import FileSystem, Lock
from tests.store.faulty import FaultyFileSystem, always, kill

ROOT = Path(__file__).resolve().parents[1]

NOW = 1_767_225_600.0
HOUR = 3600.0
PASSWORD = "correct horse"


class CountingHasher(PasswordHasher):
    """Cheap, and knows how often it was asked, and how many were at it at once."""

    def __init__(self, time_cost: int = 1) -> None:
        super().__init__(time_cost=time_cost, memory_cost=8, parallelism=1)
        self.checks = self.at_once = self.most_at_once = 0
        self.go_on = threading.Event()
        self.go_on.set()
        self._lock = threading.Lock()

    def verify(self, hash: str | bytes, password: str | bytes) -> bool:  # type: ignore[override]
        with self._lock:
            self.checks += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            assert self.go_on.wait(30)
            return super().verify(hash, password)
        finally:
            with self._lock:
                self.at_once -= 1


@pytest.fixture
def hasher() -> CountingHasher:
    return CountingHasher()


@pytest.fixture
def make(tmp_path: Path, hasher: CountingHasher) -> Callable[[], Accounts]:
    """Another object each time on the same folder, as other processes have."""
    return lambda: Accounts(tmp_path, now=lambda: NOW, passwords=Passwords(hasher))


@pytest.fixture
def accounts(make: Callable[[], Accounts]) -> Accounts:
    found = make()
    found.add("ana", Role.ADMIN, PASSWORD)
    found.add("bob", Role.OPERATOR, PASSWORD)
    return found


def login(
    accounts: Accounts, name: str = "ana", password: str = PASSWORD, now: float = NOW, source: str = "10.0.0.1"
) -> Issued:
    return accounts.login(name, password, source, HOUR, now)


def fail(accounts: Accounts, name: str = "ana", now: float = NOW, source: str = "10.0.0.1") -> None:
    with pytest.raises(Unauthorized):
        login(accounts, name, "wrong horse", now, source)


def rows(folder: Path, table: str) -> list[dict]:
    with TinyDB(folder / "accounts.json", access_mode="r") as db:
        return [dict(row) for row in db.table(table)]


# Roles


def test_a_role_may_do_what_those_before_it_may() -> None:
    assert [[role.allows(needed) for needed in Role] for role in Role] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]


# Making, changing, removing


def test_without_a_file_there_are_no_accounts_and_nothing_is_made(make, tmp_path: Path) -> None:
    assert not make().any()
    assert make().list() == ()
    assert make().authenticate("pm_x", NOW) is None
    assert list(tmp_path.iterdir()) == []


def test_accounts_are_listed_by_name(accounts: Accounts) -> None:
    accounts.add("aaron", Role.VIEWER, PASSWORD)
    assert accounts.any()
    assert accounts.list() == (
        Account(name="aaron", role=Role.VIEWER, changed=NOW),
        Account(name="ana", role=Role.ADMIN, changed=NOW),
        Account(name="bob", role=Role.OPERATOR, changed=NOW),
    )


def test_the_first_account_is_an_admin_and_others_are_operators_unless_a_role_is_given(make) -> None:
    assert make().add("first", None, PASSWORD).role is Role.ADMIN
    assert make().add("second", None, PASSWORD).role is Role.OPERATOR
    assert make().add("third", Role.VIEWER, PASSWORD).role is Role.VIEWER


def test_a_name_that_is_taken_is_refused(accounts: Accounts) -> None:
    with pytest.raises(AccountExists, match="there is an account 'ana' already"):
        accounts.add("Ana", Role.VIEWER, PASSWORD)
    assert accounts.get("ana").role is Role.ADMIN


def test_capitals_in_a_name_count_as_small_letters(accounts: Accounts) -> None:
    assert accounts.add("Eva@Example.com", None, PASSWORD).name == "eva@example.com"
    assert login(accounts, "EVA@example.com").account.name == "eva@example.com"
    assert accounts.change("EVA@EXAMPLE.COM", Role.VIEWER).role is Role.VIEWER
    assert accounts.remove("Eva@example.com").name == "eva@example.com"


@pytest.mark.parametrize("name", ["", "-x", ".x", "a b", "a/b", "a\nb", "ä", "x" * 65, "a\0", "\ud800", "a\n"])
def test_a_name_is_letters_digits_and_a_few_signs(make, name: str) -> None:
    with pytest.raises(InvalidDocument, match="a name has 1 to 64 characters") as caught:
        make().add(name, None, PASSWORD)
    assert [fault.path for fault in caught.value.faults] == ["name"]
    with pytest.raises(InvalidDocument):
        make().check_new(name)
    assert not make().any()


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("seven77", "at least 8 characters"),
        ("", "at least 8 characters"),
        ("a\u0308" * 7, "at least 8 characters"),
        ("x" * 1025, "at most 1024 bytes"),
        ("ä" * 513, "at most 1024 bytes"),
        ("12345678\n", "no control characters"),
        ("\ud800" + PASSWORD, "no control characters"),
    ],
)
def test_what_can_not_be_a_password_is_refused(accounts: Accounts, password: str, reason: str) -> None:
    for refused in (lambda: accounts.add("eva", None, password), lambda: accounts.change("bob", password=password)):
        with pytest.raises(InvalidDocument, match=reason) as caught:
            refused()
        assert [fault.path for fault in caught.value.faults] == ["password"]
        assert not password or password not in str(caught.value)
    fail(accounts, "eva")
    with pytest.raises(Unauthorized):
        login(accounts, "bob", password)
    assert login(accounts, "bob")


@pytest.mark.parametrize("password", ["12345678", "x" * 1024, "ä" * 512, "  with blanks  ", "🐎🐎🐎🐎🐎🐎🐎🐎"])
def test_any_other_text_is_a_password(accounts: Accounts, password: str) -> None:
    accounts.add("eva", None, password)
    assert login(accounts, "eva", password)


def test_a_password_is_the_same_however_the_keyboard_composes_it(accounts: Accounts) -> None:
    accounts.add("eva", None, unicodedata.normalize("NFD", "Käsekräcker"))
    assert login(accounts, "eva", unicodedata.normalize("NFC", "Käsekräcker"))


def test_all_that_is_wrong_is_told_at_once(make) -> None:
    with pytest.raises(InvalidDocument) as caught:
        make().add("a b", None, "short")
    assert [fault.path for fault in caught.value.faults] == ["name", "password"]


def test_what_is_not_there_can_not_be_changed(accounts: Accounts) -> None:
    for call in (
        lambda: accounts.get("eva"),
        lambda: accounts.remove("eva"),
        lambda: accounts.change("eva", Role.ADMIN),
        lambda: accounts.issue("eva", HOUR, NOW),
        lambda: accounts.logout_all("eva"),
    ):
        with pytest.raises(AccountNotFound, match="no account is called 'eva'"):
            call()


def test_the_last_admin_stays_unless_it_is_forced(accounts: Accounts) -> None:
    with pytest.raises(LastAdmin, match="ana is the last admin"):
        accounts.remove("ana")
    with pytest.raises(LastAdmin):
        accounts.change("ana", Role.OPERATOR)
    accounts.change("ana", Role.ADMIN, "another password")
    assert accounts.change("ana", Role.OPERATOR, force=True).role is Role.OPERATOR
    accounts.change("bob", Role.ADMIN)
    assert accounts.remove("bob", force=True).name == "bob"
    assert accounts.remove("ana").name == "ana"
    assert not accounts.any()


def test_one_of_two_admins_may_go(accounts: Accounts) -> None:
    accounts.change("bob", Role.ADMIN)
    accounts.remove("ana")
    assert [account.name for account in accounts.list()] == ["bob"]


def test_a_change_of_nothing_writes_nothing(accounts: Accounts) -> None:
    before = os.stat(accounts.path)
    assert accounts.change("ana") == accounts.get("ana")
    assert accounts.change("bob", Role.OPERATOR) == accounts.get("bob")
    accounts.logout("pm_nobodys")
    assert accounts.logout_all("bob") == 0
    assert os.path.samestat(before, os.stat(accounts.path))


# Tokens


def test_a_login_gives_a_token_that_is_the_account_until_it_ends(accounts: Accounts) -> None:
    issued = login(accounts)
    assert re.fullmatch(r"pm_[A-Za-z0-9_-]{43}", issued.token)
    assert issued.expires_at == NOW + HOUR
    assert accounts.authenticate(issued.token, NOW) == issued.account == accounts.get("ana")
    assert accounts.authenticate(issued.token, NOW + HOUR - 1) == issued.account
    assert accounts.authenticate(issued.token, NOW + HOUR) is None


@pytest.mark.parametrize("token", ["", "pm_", "pm_" + "A" * 43, "x" * 100_000, "\ud800", "pm_\0"])
def test_what_is_no_token_is_nobody(accounts: Accounts, token: str) -> None:
    assert accounts.authenticate(token, NOW) is None
    accounts.logout(token)


def test_the_digest_in_the_file_is_no_token(accounts: Accounts, tmp_path: Path) -> None:
    issued = login(accounts)
    (row,) = rows(tmp_path, "tokens")
    assert accounts.authenticate(row["digest"], NOW) is None
    assert issued.token not in (tmp_path / "accounts.json").read_text()
    assert issued.token not in repr(issued)


def test_tokens_that_have_ended_go_with_the_next_write(accounts: Accounts, tmp_path: Path) -> None:
    accounts.issue("bob", HOUR, NOW)
    later = accounts.issue("bob", HOUR, NOW + 2 * HOUR)
    assert [row["expiresAt"] for row in rows(tmp_path, "tokens")] == [later.expires_at]


def test_logout_ends_one_token(accounts: Accounts) -> None:
    one, other = login(accounts), login(accounts)
    accounts.logout(one.token)
    accounts.logout(one.token)
    assert accounts.authenticate(one.token, NOW) is None
    assert accounts.authenticate(other.token, NOW)


def test_all_tokens_of_an_account_can_be_ended(accounts: Accounts) -> None:
    mine, others = [login(accounts), accounts.issue("ana", HOUR, NOW)], login(accounts, "bob")
    assert accounts.logout_all("ana") == 2
    assert [accounts.authenticate(issued.token, NOW) for issued in mine] == [None, None]
    assert accounts.authenticate(others.token, NOW)


def test_the_token_of_a_removed_account_is_refused_at_once_whoever_removed_it(accounts: Accounts, make) -> None:
    issued = login(accounts, "bob")
    assert accounts.authenticate(issued.token, NOW)
    make().remove("bob")
    assert accounts.authenticate(issued.token, NOW) is None
    assert rows(accounts.path.parent, "tokens") == []
    make().add("bob", Role.ADMIN, PASSWORD)
    assert accounts.authenticate(issued.token, NOW) is None


def test_a_new_password_ends_the_tokens_and_the_old_password(accounts: Accounts, make) -> None:
    issued = login(accounts)
    make().change("ana", password="another horse")
    assert accounts.authenticate(issued.token, NOW) is None
    fail(accounts)
    with pytest.raises(Unauthorized):
        login(accounts)
    assert login(accounts, password="another horse")


def test_a_new_role_counts_at_once_and_ends_no_token(accounts: Accounts, make) -> None:
    issued = login(accounts, "bob")
    make().change("bob", Role.VIEWER)
    found = accounts.authenticate(issued.token, NOW)
    assert found is not None
    assert found.role is Role.VIEWER


def test_an_account_has_a_bounded_number_of_tokens(accounts: Accounts, tmp_path: Path, monkeypatch) -> None:
    assert MAX_TOKENS >= 100
    monkeypatch.setattr("puppetmaster.accounts.registry.MAX_TOKENS", 5)
    program = accounts.issue("bob", 1000 * HOUR, NOW)
    logins = [accounts.issue("bob", HOUR, NOW + number) for number in range(6)]
    assert [accounts.authenticate(issued.token, NOW) is not None for issued in logins] == [False] * 2 + [True] * 4
    assert accounts.authenticate(program.token, NOW)


@pytest.mark.parametrize("lifetime", [0, -1, float("nan"), float("inf")])
def test_a_token_lives_for_a_while_and_not_for_ever(accounts: Accounts, lifetime: float) -> None:
    with pytest.raises(ValueError, match="can't be good for"):
        accounts.issue("ana", lifetime, NOW)
    assert accounts.list()


# Passwords


def test_a_wrong_password_and_an_unknown_name_are_told_alike_and_cost_the_same(
    accounts: Accounts, hasher: CountingHasher
) -> None:
    told = set()
    for name, password in (("ana", "wrong horse"), ("eva", PASSWORD), ("a b", PASSWORD), ("ana", "x" * 5000)):
        before = hasher.checks
        with pytest.raises(Unauthorized) as caught:
            login(accounts, name, password)
        told.add(str(caught.value))
        assert hasher.checks == before + 1
    assert told == {"the name or the password is wrong"}


def test_the_decoy_costs_what_a_real_hash_costs() -> None:
    passwords = Passwords()
    real = PasswordHasher().hash(PASSWORD)
    assert passwords._decoy.split("$")[:4] == real.split("$")[:4]
    assert [len(part) for part in passwords._decoy.split("$")] == [len(part) for part in real.split("$")]
    assert not passwords.outdated(passwords._decoy)


def test_hashes_are_argon2id_and_the_file_holds_no_password(accounts: Accounts, tmp_path: Path) -> None:
    assert all(row["password"].startswith("$argon2id$") for row in rows(tmp_path, "accounts"))
    assert PASSWORD not in (tmp_path / "accounts.json").read_text()


def test_a_hash_of_other_parameters_is_renewed_by_a_login(accounts: Accounts, tmp_path: Path) -> None:
    stronger = Accounts(tmp_path, passwords=Passwords(CountingHasher(time_cost=2)))
    token = login(accounts).token
    login(stronger)
    hashed = {row["name"]: row["password"] for row in rows(tmp_path, "accounts")}
    assert ",t=2," in hashed["ana"]
    assert ",t=1," in hashed["bob"]
    assert login(stronger)
    assert accounts.authenticate(token, NOW)


def test_a_password_that_is_changed_while_it_is_checked_gives_no_token(
    accounts: Accounts, hasher: CountingHasher, make, monkeypatch, tmp_path: Path
) -> None:
    verify, todo = hasher.verify, [lambda: make().change("ana", password="another horse")]

    def verify_and_change(*arguments: str) -> bool:
        answer = verify(*arguments)
        while todo:
            todo.pop()()
        return answer

    monkeypatch.setattr(hasher, "verify", verify_and_change)
    with pytest.raises(Unauthorized):
        login(accounts)
    assert hasher.checks == 2
    assert rows(tmp_path, "tokens") == []
    assert login(accounts, password="another horse")


def _collect(call: Callable[[], Issued], results: queue.Queue) -> None:
    try:
        results.put(call())
    except BaseException as error:
        results.put(error)


def test_a_few_hashes_are_made_at_once_and_who_would_wait_long_is_sent_away(hasher: CountingHasher) -> None:
    passwords = Passwords(hasher)
    hashed = passwords.hash(PASSWORD)
    results: queue.Queue[object] = queue.Queue()

    def attempt() -> None:
        try:
            with passwords.turn():
                results.put(passwords.fits(hashed, PASSWORD))
        except TooManyAttempts as error:
            results.put(error)

    hasher.go_on.clear()
    threads = [threading.Thread(target=attempt) for _ in range(SLOTS + MAX_WAITING + 1)]
    for thread in threads:
        thread.start()
    refused = results.get(timeout=30)
    assert isinstance(refused, TooManyAttempts)
    assert refused.retry_after > 0
    hasher.go_on.set()
    for thread in threads:
        thread.join()
    assert [results.get_nowait() for _ in range(SLOTS + MAX_WAITING)] == [True] * (SLOTS + MAX_WAITING)
    assert hasher.most_at_once == SLOTS
    with passwords.turn():
        assert passwords.fits(hashed, PASSWORD)


# Too many failures


def test_five_failures_within_a_minute_make_a_name_wait_even_with_the_right_password(accounts: Accounts) -> None:
    for number in range(FREE_FAILURES):
        fail(accounts, now=NOW + number, source=f"10.0.0.{number}")
    with pytest.raises(TooManyAttempts) as caught:
        login(accounts, now=NOW + 5, source="10.0.1.1")
    assert caught.value.retry_after == 4.0
    assert caught.value.code == 429
    assert str(caught.value) == "too many attempts to log in: try again in 4 s"
    assert login(accounts, now=NOW + 9, source="10.0.1.1")


def test_a_source_that_tries_many_names_waits_and_others_do_not(accounts: Accounts) -> None:
    for number in range(FREE_FAILURES):
        fail(accounts, f"name{number}", source="10.0.0.9")
    with pytest.raises(TooManyAttempts):
        login(accounts, source="10.0.0.9")
    assert login(accounts, source="10.0.0.10")


def test_who_waits_costs_no_hash_and_waits_no_longer_for_it(accounts: Accounts, hasher: CountingHasher) -> None:
    for _ in range(FREE_FAILURES):
        fail(accounts)
    checks = hasher.checks
    for seconds in (0.0, 1.0, 2.0):
        with pytest.raises(TooManyAttempts) as caught:
            login(accounts, now=NOW + seconds)
        assert caught.value.retry_after == 5.0 - seconds
    assert hasher.checks == checks


def test_capitals_and_another_address_of_the_same_host_give_no_further_attempts(accounts: Accounts) -> None:
    for name in ("ana", "Ana", "aNa", "anA", "ANA"):
        fail(accounts, name, source=f"10.0.0.{len(name)}")
    with pytest.raises(TooManyAttempts):
        login(accounts, "AnA", source="10.0.9.9")
    for number in range(FREE_FAILURES):
        fail(accounts, f"name{number}", source=f"2001:db8::{number}")
    with pytest.raises(TooManyAttempts):
        login(accounts, "bob", source="2001:db8::ffff")
    assert login(accounts, "bob", source="2001:db8:0:1::1")


def test_a_good_login_forgives_the_name_but_not_the_source(accounts: Accounts) -> None:
    for _ in range(FREE_FAILURES - 1):
        fail(accounts)
    assert login(accounts)
    fail(accounts, source="10.0.0.2")
    assert login(accounts, source="10.0.0.2")
    fail(accounts, "bob")
    with pytest.raises(TooManyAttempts):
        login(accounts)


def test_parallel_attempts_are_no_way_around(accounts: Accounts, hasher: CountingHasher) -> None:
    results: queue.Queue[BaseException | Issued] = queue.Queue()
    attempt = (lambda: login(accounts, "bob", "wrong horse"), results)
    threads = [threading.Thread(target=_collect, args=attempt) for _ in range(SLOTS + MAX_WAITING)]
    checks = hasher.checks
    hasher.go_on.clear()
    for thread in threads:
        thread.start()
    hasher.go_on.set()
    for thread in threads:
        thread.join()
    assert FREE_FAILURES <= hasher.checks - checks <= FREE_FAILURES + SLOTS - 1


@pytest.mark.parametrize(
    ("source", "same"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("cli", "cli"),
        ("x" * 1000, "x" * 64),
    ],
)
def test_a_source_is_an_address_or_the_network_of_one_host(source: str, same: str) -> None:
    assert network(source) == same


def waits(throttle: Throttle, failures: int) -> list[float]:
    """Fail as soon as one may, and tell how long each wait was."""
    now, found = NOW, []
    for _ in range(failures):
        throttle.failed("ana", now)
        found.append(throttle.wait("ana", now))
        now += found[-1]
    return found


def test_the_wait_doubles_up_to_a_limit() -> None:
    assert waits(Throttle(longest=60.0), 10) == [0, 0, 0, 0, 5, 10, 20, 40, 60, 60]
    assert max(waits(Throttle(longest=LONGEST_WAIT_OF_SOURCE), 2000)) == LONGEST_WAIT_OF_SOURCE > LONGEST_WAIT_OF_NAME


def test_failures_that_are_far_apart_make_nobody_wait() -> None:
    throttle = Throttle(longest=60.0)
    for number in range(100):
        throttle.failed("ana", NOW + 15.1 * number)
        assert throttle.wait("ana", NOW + 15.1 * number) == 0


def test_after_a_long_quiet_time_one_begins_anew() -> None:
    throttle = Throttle(longest=60.0)
    for _ in range(FREE_FAILURES + 1):
        throttle.failed("ana", NOW)
    throttle.failed("ana", NOW + 200)
    assert throttle.wait("ana", NOW + 200) == 20
    throttle.failed("ana", NOW + 900)
    assert throttle.wait("ana", NOW + 900) == 0


def test_a_flood_of_names_does_not_grow_the_memory(monkeypatch) -> None:
    monkeypatch.setattr(throttle, "MAX_KEYS", 100)
    flooded = Throttle(longest=60.0)
    for number in range(1000):
        flooded.failed(f"name{number}", NOW)
    for _ in range(100):
        flooded.failed("ana", NOW)
    assert len(flooded._records) == 100
    assert len(flooded._records["ana"].failures) == FREE_FAILURES


def test_in_a_flood_those_who_failed_lately_are_remembered(monkeypatch) -> None:
    monkeypatch.setattr(throttle, "MAX_KEYS", 100)
    flooded = Throttle(longest=60.0)
    for number in range(FREE_FAILURES):
        flooded.failed("ana", NOW)
        for other in range(99):
            flooded.failed(f"name{number}-{other}", NOW)
    assert flooded.wait("ana", NOW) > 0


# The file


def test_stock_tinydb_opens_the_file_and_what_it_changes_counts(accounts: Accounts, tmp_path: Path) -> None:
    issued = login(accounts, "bob")
    with TinyDB(tmp_path / "accounts.json") as db:
        assert db.tables() == {"accounts", "tokens"}
        assert [row["name"] for row in db.table("accounts")] == ["ana", "bob"]
        assert db.table("tokens").get(where("account") == "bob")["expiresAt"] == issued.expires_at
        db.table("accounts").update({"role": "viewer"}, where("name") == "bob")
        db.table("notes").insert({"text": "bob is on leave"})
    found = accounts.authenticate(issued.token, NOW)
    assert found is not None
    assert found.role is Role.VIEWER
    with TinyDB(tmp_path / "accounts.json") as db:
        db.table("accounts").remove(where("name") == "bob")
    assert accounts.authenticate(issued.token, NOW) is None
    accounts.add("bob", Role.ADMIN, PASSWORD)
    assert accounts.authenticate(issued.token, NOW) is None
    assert rows(tmp_path, "notes") == [{"text": "bob is on leave"}]


def test_nobody_else_may_read_the_files(make, tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        make().add("ana", None, PASSWORD)
        make().add("bob", None, PASSWORD)
    finally:
        os.umask(previous)
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {
        "accounts.json": 0o600,
        "accounts.lock": 0o600,
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_writes_belongs_to_the_owner_of_the_folder(make, tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12346)
    make().add("ana", None, PASSWORD)
    assert {(path.stat().st_uid, path.stat().st_gid) for path in tmp_path.iterdir()} == {(12345, 12346)}


@pytest.mark.parametrize("name", ["accounts.lock", "accounts.json.tmp"])
def test_no_link_that_somebody_has_laid_is_followed(accounts: Accounts, make, tmp_path: Path, name: str) -> None:
    """The service's user may write to the folder, and must not have root write elsewhere."""
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).symlink_to(precious)
    with contextlib.suppress(FileUnavailable):
        make().issue("ana", HOUR, NOW)
    assert precious.read_text() == "precious"
    assert not (tmp_path / "accounts.json").is_symlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_no_file_that_was_there_is_given_away(make, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.touch()
    (tmp_path / "accounts.lock").hardlink_to(precious)
    os.chown(tmp_path, 12345, 12346)
    make().add("ana", None, PASSWORD)
    assert precious.stat().st_uid == 0


GOOD_ROW = {"name": "ana", "role": "admin", "changed": NOW, "password": "$argon2id$"}
GOOD_TOKEN = {"digest": "0" * 64, "account": "ana", "expiresAt": NOW}


def document(row: object = GOOD_ROW, token: object = GOOD_TOKEN) -> str:
    return json.dumps({"accounts": {"1": row}, "tokens": {"1": token}})


DAMAGED = [
    "",
    "{}",
    "[]",
    "null",
    "nonsense",
    document()[:-5],
    '{"accounts": {}}',
    '{"accounts": [], "tokens": {}}',
    '{"accounts": {"1": null}, "tokens": {}}',
    '{"accounts": {"1": ' + json.dumps(GOOD_ROW) + ', "2": ' + json.dumps(GOOD_ROW) + '}, "tokens": {}}',
    document({**GOOD_ROW, "role": "god"}),
    document({**GOOD_ROW, "role": None}),
    document({**GOOD_ROW, "role": ["admin"]}),
    document({**GOOD_ROW, "name": "Ana"}),
    document({**GOOD_ROW, "name": 5}),
    document({**GOOD_ROW, "password": None}),
    document({**GOOD_ROW, "changed": "today"}),
    document({**GOOD_ROW, "changed": True}),
    document(token={**GOOD_TOKEN, "digest": "short"}),
    document(token={**GOOD_TOKEN, "account": None}),
    document(token={**GOOD_TOKEN, "expiresAt": None}),
]


def test_the_file_that_the_damaged_ones_are_made_from_is_good(make, tmp_path: Path) -> None:
    (tmp_path / "accounts.json").write_text(document())
    assert make().get("ana").role is Role.ADMIN


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_file_is_an_error_that_says_what_to_do_and_never_an_open_door(
    make, tmp_path: Path, content: str
) -> None:
    path = tmp_path / "accounts.json"
    path.write_text(content)
    accounts = make()
    for call in (
        accounts.any,
        accounts.list,
        lambda: accounts.authenticate("pm_x", NOW),
        lambda: login(accounts),
        lambda: accounts.add("eva", None, PASSWORD),
        lambda: accounts.remove("ana", force=True),
    ):
        with pytest.raises(StoreCorrupt, match=r"accounts\.json is damaged.*puppetmaster accounts add"):
            call()
    assert path.read_text() == content


def test_a_file_that_is_damaged_while_it_is_in_use_is_found_out_and_a_good_copy_mends_it(
    accounts: Accounts, tmp_path: Path
) -> None:
    issued = login(accounts)
    path = tmp_path / "accounts.json"
    good = path.read_bytes()
    path.write_bytes(good[:-9])
    with pytest.raises(StoreCorrupt):
        accounts.authenticate(issued.token, NOW)
    path.write_bytes(good)
    assert accounts.authenticate(issued.token, NOW)


def test_a_file_that_goes_away_does_not_mean_that_nobody_has_an_account(accounts: Accounts, tmp_path: Path) -> None:
    assert accounts.any()
    (tmp_path / "accounts.json").unlink()
    for call in (accounts.any, accounts.list, lambda: accounts.add("eva", None, PASSWORD)):
        with pytest.raises(StoreCorrupt, match=r"accounts\.json .*it was here and is gone"):
            call()


def test_a_hash_that_is_none_is_an_error_of_the_file(make, tmp_path: Path) -> None:
    (tmp_path / "accounts.json").write_text(document({**GOOD_ROW, "password": "plain text"}))
    with pytest.raises(StoreCorrupt, match="the password of ana is no hash"):
        login(make())


def test_a_file_that_can_not_be_read_is_an_error_and_no_empty_one(make, tmp_path: Path) -> None:
    (tmp_path / "accounts.json").mkdir()
    with pytest.raises(FileUnavailable, match=r"can't read .*accounts\.json: Is a directory"):
        make().any()


@pytest.mark.parametrize("operation", ["write", "sync", "replace", "sync_folder"])
def test_a_disk_that_refuses_is_an_error_and_the_file_stays_whole(
    accounts: Accounts, make, tmp_path: Path, operation: str
) -> None:
    refused = Accounts(tmp_path, files=FaultyFileSystem(before=always(operation, code=errno.ENOSPC)))
    with pytest.raises(FileUnavailable, match=r"can't write .*accounts\.json: No space left"):
        refused.issue("ana", HOUR, NOW)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["accounts.json", "accounts.lock"]
    assert len(refused.list()) == 2
    assert make().issue("ana", HOUR, NOW)


def test_a_folder_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(FileUnavailable, match=r"can't (read|write) .*data/accounts"):
        Accounts(tmp_path / "data").issue("ana", HOUR, NOW)


def test_a_lock_that_is_kept_is_an_error_for_who_changes_and_none_for_who_reads(
    accounts: Accounts, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(account_file, "LOCK_TIMEOUT", 0.0)
    lock = Lock(tmp_path / "accounts.lock")
    with pytest.raises(FileUnavailable, match=r"can't change .*accounts\.json: another process is at it all the time"):
        accounts.issue("ana", HOUR, NOW)
    assert accounts.list()
    lock.release()
    assert accounts.issue("ana", HOUR, NOW)


def test_every_change_is_seen_however_quickly_they_follow(accounts: Accounts, make) -> None:
    """Files of one size, inodes that are used again, several within one tick of the file system's clock."""
    reader = make()
    tokens = [accounts.issue("ana", HOUR, NOW).token for _ in range(2)]
    for _ in range(300):
        tokens.append(accounts.issue("ana", HOUR, NOW).token)
        assert reader.authenticate(tokens[-1], NOW)
        accounts.logout(tokens[0])
        accounts.issue("bob", HOUR, NOW)
        accounts.logout_all("bob")
        assert reader.authenticate(tokens.pop(0), NOW) is None


class StandingClock(FileSystem):
    """Dates what is written as if no time passed."""

    def write(self, descriptor: int, data: memoryview) -> int:
        taken = super().write(descriptor, data)
        os.utime(descriptor, (NOW, NOW))
        return taken


def test_each_content_is_younger_than_the_one_before_though_the_clock_stands_still(tmp_path: Path) -> None:
    dates = []
    for number in range(3):
        accounts = Accounts(tmp_path, files=StandingClock(), passwords=Passwords(CountingHasher()))
        accounts.add(f"name{number}", None, PASSWORD)
        accounts.issue(f"name{number}", HOUR, NOW)
        dates.append(accounts.path.stat().st_mtime_ns)
    assert dates == sorted(set(dates))


# Processes


ADDER = """
import sys
from argon2 import PasswordHasher
from puppetmaster.accounts.registry import Accounts
from puppetmaster.accounts.passwords import Passwords
from pathlib import Path
accounts = Accounts(Path(sys.argv[1]), passwords=Passwords(PasswordHasher(1, 8, 1)))
print("ready", flush=True)
sys.stdin.readline()
for number in range(40):
    accounts.add(f"{sys.argv[2]}{number}", None, "correct horse")
"""

ISSUER = """
import sys
from puppetmaster.accounts.registry import Accounts
from pathlib import Path
accounts = Accounts(Path(sys.argv[1]))
while True:
    print(accounts.issue("ana", 3600.0, 1767225600.0).token, flush=True)
"""


@contextlib.contextmanager
def process(script: str, *arguments: object) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    child = subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def test_processes_that_add_at_once_lose_nothing(make, tmp_path: Path) -> None:
    with process(ADDER, tmp_path, "one-") as one, process(ADDER, tmp_path, "two-") as two:
        for child in (one, two):
            assert child.stdout.readline() == "ready\n"
        for child in (one, two):
            child.stdin.write("\n")
            child.stdin.flush()
        assert [child.wait(60) for child in (one, two)] == [0, 0]
    names = {account.name for account in make().list()}
    assert names == {f"{who}-{number}" for who in ("one", "two") for number in range(40)}
    assert [account.role for account in make().list()].count(Role.ADMIN) == 1


def test_threads_that_change_at_once_lose_nothing(accounts: Accounts) -> None:
    results: queue.Queue[BaseException | Issued] = queue.Queue()

    def issue() -> Issued:
        return accounts.issue("bob", HOUR, NOW)

    threads = [threading.Thread(target=_collect, args=(issue, results)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    issued = [results.get_nowait() for _ in threads]
    assert all(isinstance(each, Issued) and accounts.authenticate(each.token, NOW) for each in issued)


@pytest.mark.parametrize("attempt", range(8))
def test_a_kill_in_the_middle_of_writes_leaves_a_readable_file_with_all_that_was_told(
    accounts: Accounts, make, attempt: int
) -> None:
    chance = random.Random(attempt)
    with process(ISSUER, accounts.path.parent) as child:
        told = [child.stdout.readline().strip() for _ in range(chance.randint(1, 60))]
        child.send_signal(signal.SIGKILL)
        told += child.communicate()[0].split()
        assert child.returncode == -signal.SIGKILL
    assert len(make().list()) == 2
    # The last line may be cut off; a whole token has 46 characters.
    assert all(accounts.authenticate(token, NOW) for token in told if len(token) == 46)
    assert login(accounts)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_at_any_step_of_a_write_leaves_the_old_content_or_the_new(
    accounts: Accounts, make, tmp_path: Path, when: str
) -> None:
    seen = set()
    for number in range(1, 20):
        (tmp_path / "accounts.json.tmp").write_bytes(b"left by another kill")
        before = len(rows(tmp_path, "tokens"))
        if not _dies_at(number, when, tmp_path):
            break
        after = len(rows(tmp_path, "tokens"))
        assert after in (before, before + 1)
        seen.add(after - before)
        assert len(make().list()) == 2
        assert make().issue("bob", HOUR, NOW)
    else:
        pytest.fail("it was killed again and again")
    assert seen == {0, 1}
    assert not (tmp_path / "accounts.json.tmp").exists()


def _dies_at(number: int, when: str, folder: Path) -> bool:
    """Issue a token in a process that is killed at its Nth call to the file system, if it comes so far."""
    child = os.fork()
    if child == 0:
        Accounts(folder, files=FaultyFileSystem(**{when: kill(number)})).issue("ana", HOUR, NOW)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])
