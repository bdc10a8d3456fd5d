"""The dutserver's accounts: on a real disk; only the hashes are cheap."""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from tinydb import TinyDB

from puppetmaster.accounts.passwords import Passwords
from puppetmaster.accounts.throttle import FREE_FAILURES
from puppetmaster.dut import accounts as module
from puppetmaster.dut import credentials
from puppetmaster.dut.accounts import SESSION, DutAccounts, Kind
from puppetmaster.dut.book import decode, encode, name_fault
from puppetmaster.dut.credentials import Pair, Token
from puppetmaster.dut.errors import TooManyAgents
from puppetmaster.dut.verified import Verified
from puppetmaster.errors import (
    AccountExists,
    AccountNotFound,
    Forbidden,
    InvalidDocument,
    StoreCorrupt,
    TooManyAttempts,
    Unauthorized,
)

NOW = 1_767_225_600.0

HOME, AWAY = "192.0.2.7", "198.51.100.9"


class Hasher(PasswordHasher):
    """Cheap, and counts."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.checks = 0

    def verify(self, hash: str | bytes, password: str | bytes) -> bool:  # type: ignore[override]
        self.checks += 1
        return super().verify(hash, password)


class Site:
    """Accounts on a clock that is set by hand; ``other`` is another process on the same file."""

    def __init__(self, path: Path) -> None:
        self.now = NOW
        self.hasher = Hasher()
        self.path = path
        self.accounts, self.other = self.make(), self.make()

    def make(self) -> DutAccounts:
        return DutAccounts(self.path, now=lambda: self.now, passwords=Passwords(self.hasher, shortest=1))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    found = Site(tmp_path / "test.db")
    found.accounts.add("agent1", Kind.AGENT, "secret")
    found.accounts.add("root", Kind.ADMIN, "open sesame")
    return found


def failing(call: Callable[[], object], error: type[Exception]) -> None:
    with pytest.raises(error):
        call()


def test_accounts_are_in_a_file_of_their_own_that_tinydb_opens(site: Site) -> None:
    rows = TinyDB(site.path).table("accounts").all()
    assert [(row["name"], row["kind"]) for row in rows] == [("agent1", "agent"), ("root", "admin")]
    assert all(row["password"].startswith("$argon2id$") for row in rows)
    assert stat.S_IMODE(site.path.stat().st_mode) == 0o600


def test_another_process_sees_each_change_at_once(site: Site) -> None:
    assert site.other.agents() == ("agent1",)
    site.accounts.add("agent2", Kind.AGENT, "x")
    assert site.other.agents() == ("agent1", "agent2")
    site.other.remove("agent1")
    assert site.accounts.agents() == ("agent2",)
    site.other.allow_self_registration(True)
    assert site.accounts.register("agent3", "y").kind is Kind.AGENT
    failing(lambda: site.accounts.remove("agent1"), AccountNotFound)


def test_the_same_names_are_the_same_object_until_the_file_changes(site: Site) -> None:
    assert site.accounts.agents() is site.accounts.agents()


def test_a_name_belongs_to_one_account(site: Site) -> None:
    failing(lambda: site.accounts.add("root", Kind.AGENT, "x"), AccountExists)
    assert site.accounts.add("ROOT", Kind.AGENT, "x").name == "ROOT"


def test_there_is_a_bounded_number_of_agents(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_AGENTS", 2)
    site.accounts.add("agent2", Kind.AGENT, "x")
    failing(lambda: site.accounts.add("agent3", Kind.AGENT, "x"), TooManyAgents)
    site.accounts.add("root2", Kind.ADMIN, "x")


def test_nobody_registers_while_it_is_not_allowed(site: Site) -> None:
    failing(lambda: site.accounts.register("agent2", "x"), Forbidden)
    assert site.accounts.agents() == ("agent1",)


@pytest.mark.parametrize("name", ["", "a:b", "a b", "a/b", "+", "#", "$a", "localhost", "a\x1f", "\u2028", "x" * 129])
def test_some_names_can_not_be(site: Site, name: str) -> None:
    assert name_fault(name)
    failing(lambda: site.accounts.add(name, Kind.AGENT, "x"), InvalidDocument)


@pytest.mark.parametrize("password", ["", "a\nb", "\ud800", "x" * 1025])
def test_some_passwords_can_not_be(site: Site, password: str) -> None:
    failing(lambda: site.accounts.add("agent2", Kind.AGENT, password), InvalidDocument)


def test_a_password_is_hashed_once_for_many_polls(site: Site) -> None:
    assert site.accounts.known("agent1", "secret", HOME) is None
    assert site.accounts.verify("agent1", "secret", HOME).name == "agent1"
    checks = site.hasher.checks
    for _ in range(100):
        assert site.accounts.known("agent1", "secret", HOME) is not None
    assert site.hasher.checks == checks


def test_what_is_remembered_is_forgotten_with_the_account_and_with_a_new_password(site: Site) -> None:
    site.accounts.verify("agent1", "secret", HOME)
    site.other.remove("agent1")
    assert site.accounts.known("agent1", "secret", HOME) is None
    site.other.add("agent1", Kind.AGENT, "secret")
    assert site.accounts.known("agent1", "secret", HOME) is None  # it is another hash


def test_what_is_remembered_helps_nobody_who_guesses(site: Site) -> None:
    site.accounts.verify("agent1", "secret", HOME)
    # From elsewhere the right one is no quicker than a wrong one.
    assert site.accounts.known("agent1", "secret", AWAY) is None
    assert site.accounts.known("agent1", "secret", HOME) is not None
    # And from there a wrong one ends it for all.
    assert site.accounts.known("agent1", "guess", HOME) is None
    assert site.accounts.known("agent1", "secret", HOME) is None


def test_who_fails_too_often_has_to_wait_and_the_others_have_not(site: Site) -> None:
    site.accounts.verify("root", "open sesame", HOME)
    for _ in range(FREE_FAILURES):
        failing(lambda: site.accounts.verify("agent1", "guess", HOME), Unauthorized)
    failing(lambda: site.accounts.verify("agent1", "secret", HOME), TooManyAttempts)
    failing(lambda: site.accounts.verify("agent1", "secret", AWAY), TooManyAttempts)
    assert site.accounts.verify("root", "open sesame", HOME).kind is Kind.ADMIN
    site.now += 6.0
    assert site.accounts.verify("agent1", "secret", HOME).name == "agent1"


def test_a_removed_agent_that_polls_for_ever_keeps_no_neighbour_out(site: Site) -> None:
    for _ in range(200):
        site.now += 61.0
        with pytest.raises((Unauthorized, TooManyAttempts)):
            site.accounts.verify("removed", "secret", HOME)
        assert site.accounts.verify("agent1", "secret", HOME).name == "agent1"


def test_a_network_that_tries_many_names_has_to_wait(site: Site) -> None:
    for number in range(FREE_FAILURES):
        failing(lambda number=number: site.accounts.verify(f"x{number}", "guess", HOME), Unauthorized)  # type: ignore[misc]
    failing(lambda: site.accounts.verify("root", "open sesame", HOME), TooManyAttempts)
    assert site.accounts.verify("root", "open sesame", AWAY).name == "root"


def test_a_session_lasts_over_restarts_and_ends_with_its_time_its_account_or_a_logout(site: Site) -> None:
    root = site.accounts.verify("root", "open sesame", HOME)
    first, second, third = (site.accounts.start_session(root) for _ in range(3))
    again = site.make()
    assert all(again.authenticate(token) == root for token in (first, second, third))
    again.end_session(first)
    assert site.accounts.authenticate(first) is None
    site.now += SESSION
    assert site.accounts.authenticate(second) is None
    site.now -= 1.0
    assert site.accounts.authenticate(third) == root
    site.accounts.remove("root")
    assert site.accounts.authenticate(third) is None
    failing(lambda: site.accounts.start_session(root), Unauthorized)
    assert first not in site.path.read_text()


def file_with(**wrong: object) -> bytes:
    row = {"name": "a", "kind": "agent", "changed": 1, "password": "x", **wrong}
    return json.dumps({"accounts": {"1": row}, "tokens": {}, "settings": {}}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"accounts": {}, "tokens": {}}',
        file_with(name="a/b"),
        file_with(kind="king"),
        file_with(changed=None),
        file_with(password=5),
        b"SQLite format 3\0" + bytes(100),
    ],
)
def test_a_file_that_makes_no_sense_opens_nothing_and_stays_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "test.db"
    path.write_bytes(content)
    accounts = DutAccounts(path)
    failing(lambda: accounts.authenticate("x"), StoreCorrupt)
    failing(lambda: accounts.known("a", "b", HOME), StoreCorrupt)
    failing(lambda: accounts.add("a", Kind.AGENT, "b"), StoreCorrupt)
    assert path.read_bytes() == content


def test_a_book_comes_back_as_it_was(site: Site) -> None:
    site.accounts.start_session(site.accounts.verify("root", "open sesame", HOME))
    site.accounts.allow_self_registration(True)
    content = site.path.read_bytes()
    assert encode(decode(content)) == content
    assert decode(content).self_registration is True


def test_a_file_that_went_away_is_no_file_without_accounts(site: Site) -> None:
    assert site.accounts.agents()
    site.path.unlink()
    failing(site.accounts.agents, StoreCorrupt)


# Credentials


def basic(text: str) -> str:
    return f"Basic {base64.b64encode(text.encode()).decode()}"


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("agent1:secret", Pair("agent1", "secret")),
        ("agent1:se:cr et", Pair("agent1", "se:cr et")),
        (" agent1:secret ", Pair("agent1", "secret")),
        ("agent1:", Pair("agent1", "")),
        (basic("agent1:secret"), Pair("agent1", "secret")),
        (basic("agent1:s:e").replace("Basic", "bAsIc"), Pair("agent1", "s:e")),
        ("abc", Token("abc")),
        ("Bearer abc", Token("abc")),
        ("BEARER  abc", Token("abc")),
        ("ключ:пароль".encode().decode("latin-1"), Pair("ключ", "пароль")),
        ("\xe9:x", Pair("\xe9", "x")),
        ("", None),
        (None, None),
        (":x", None),
        ("Bearer ", None),
        ("Basic !!", None),
        (basic("nocolon"), None),
        ("x" * 5000, None),
    ],
)
def test_what_stands_in_authorization_is_read(header: str | None, found: object) -> None:
    assert credentials.read(header) == found


def test_no_secret_is_in_a_repr() -> None:
    assert "secret" not in repr(Pair("agent1", "secret"))
    assert "secret" not in repr(Token("secret"))


def test_only_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puppetmaster.dut.verified.MAX_VERIFIED", 2)
    verified = Verified()
    for name in ("a", "b"):
        verified.note(name, HOME, "x", "hash")
    assert verified.holds("a", HOME, "x", "hash")
    verified.note("c", HOME, "x", "hash")
    assert [verified.holds(name, HOME, "x", "hash") for name in "abc"] == [True, False, True]
