"""``puppetmaster accounts``: on a data folder, with real hashes, and once on a real terminal."""

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from tinydb import TinyDB
from typer.testing import CliRunner

from puppetmaster.accounts.audit import Audit
from puppetmaster.accounts.registry import Accounts, Role
from puppetmaster.cli import accounts as commands
from puppetmaster.errors import Unauthorized

ROOT = Path(__file__).resolve().parents[2]

PASSWORD = "correct horse"

APP = typer.Typer()
APP.add_typer(commands.app, name="accounts")

PROGRAM = """
import typer
from puppetmaster.cli.accounts import app
root = typer.Typer()
root.add_typer(app, name="accounts")
root(prog_name="puppetmaster")
"""


@pytest.fixture
def data(tmp_path):
    return tmp_path / "work" / "data"


def invoke(*arguments, stdin=None):
    """Run a command in the working folder, on ``./data``."""
    return CliRunner().invoke(APP, ["accounts", *arguments], input=stdin, env={"COLUMNS": "200"})


def add(name, *arguments, password=PASSWORD):
    result = invoke("add", name, *arguments, stdin=f"{password}\n")
    assert result.exit_code == 0, result.stderr
    return result


def logs_in(data, name, password):
    with contextlib.suppress(Unauthorized):
        return Accounts(data).login(name, password, "10.0.0.1", 3600.0, 1_767_225_600.0)


# Help


@pytest.mark.parametrize("command", ["add", "list", "remove", "passwd", "role", "token", "logout"])
def test_every_command_explains_itself_with_an_example(command):
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert f"puppetmaster accounts {command}" in result.stdout.partition("Example")[2]
    assert "--data" in result.stdout


def test_the_help_does_not_load_the_parts():
    script = (
        "import sys\n"
        "import puppetmaster.cli.accounts\n"
        "heavy = {'argon2', 'tinydb', 'pydantic', 'asyncio'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


# Adding


def test_the_first_account_is_an_admin_and_the_user_is_told(data):
    result = add("ana")
    assert result.stdout == "account ana made: admin\n"
    assert result.stderr == "it is the first one in data/accounts.json: from now on a login is asked for\n"
    assert logs_in(data, "ana", PASSWORD).account.role is Role.ADMIN


def test_further_accounts_are_operators_unless_a_role_is_given():
    add("ana")
    assert add("bob").stdout == "account bob made: operator\n"
    assert add("Eva", "--role", "viewer").stdout == "account eva made: viewer\n"
    assert add("eve", "--role", "admin").stdout == "account eve made: admin\n"


def test_who_makes_no_admin_is_told_so():
    assert (
        "no account is an admin: accounts are managed with this command alone" in add("wall", "--role", "viewer").stderr
    )


def test_the_folder_is_named_by_flag_or_variable(tmp_path, monkeypatch):
    add("ana", "--data", str(tmp_path / "north"))
    monkeypatch.setenv("PUPPETMASTER_DATA", str(tmp_path / "north"))
    assert "ana" in invoke("list").stdout
    assert sorted(path.name for path in (tmp_path / "north").iterdir()) == [
        "accounts.json",
        "accounts.lock",
        "audit.jsonl",
    ]


@pytest.mark.parametrize("stdin", [f"{PASSWORD}\n", f"{PASSWORD}\r\n", PASSWORD, f"{PASSWORD}\nanother line\n"])
def test_the_password_is_the_first_line_of_standard_input(data, stdin):
    assert invoke("add", "ana", stdin=stdin).exit_code == 0
    assert logs_in(data, "ana", PASSWORD)


def test_blanks_belong_to_the_password(data):
    add("ana", password=" correct  horse ")
    assert logs_in(data, "ana", " correct  horse ")
    assert not logs_in(data, "ana", "correct  horse")


@pytest.mark.parametrize(
    ("arguments", "stdin", "reason"),
    [
        (("add", "a b"), PASSWORD, "name: a name has 1 to 64 characters"),
        (("add", "eva"), "short", "password: a password has at least 8 characters"),
        (("add", "eva"), "", "standard input: its first line is the password, and there is none"),
        (("add", "eva"), "\n", "standard input: its first line is the password, and there is none"),
        (("add", "eva"), b"\xff" * 8, "standard input: the password is no UTF-8"),
        (("add", "eva", PASSWORD), "", "unexpected extra argument"),
        (("add", "eva", "--role", "god"), PASSWORD, "god"),
        (("add",), "", "Missing argument"),
        (("passwd", "ana"), "short", "password: a password has at least 8 characters"),
        (("role", "ana", "god"), "", "god"),
        (("token", "ana", "--days", "0"), "", "--days"),
        (("token", "ana", "--days", "nan"), "", "--days"),
    ],
)
def test_bad_usage_ends_with_2_and_changes_nothing(data, arguments, stdin, reason):
    add("ana")
    before = (data / "accounts.json").read_bytes()
    result = invoke(*arguments, stdin=stdin)
    assert result.exit_code == 2
    assert reason in result.stderr
    assert result.stdout == ""
    assert (data / "accounts.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("add", "Ana"), "Error: there is an account 'ana' already\n"),
        (("remove", "eva"), "Error: no account is called 'eva'\n"),
        (("passwd", "eva"), "Error: no account is called 'eva'\n"),
        (("role", "eva", "viewer"), "Error: no account is called 'eva'\n"),
        (("token", "eva"), "Error: no account is called 'eva'\n"),
        (("logout", "eva"), "Error: no account is called 'eva'\n"),
        (("remove", "ana"), "Error: ana is the last admin: make another account an admin first, or give --force\n"),
        (("role", "ana", "viewer"), "Error: ana is the last admin: make another account an admin first, or give --f"),
    ],
)
def test_what_can_not_be_done_ends_with_1_before_a_password_is_asked_for(data, arguments, reason):
    add("ana")
    result = invoke(*arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith(reason)
    assert [account.name for account in Accounts(data).list()] == ["ana"]


def test_a_damaged_file_is_named_with_what_to_do(data):
    data.mkdir()
    (data / "accounts.json").write_text("{")
    for command in (["list"], ["add", "ana"], ["remove", "ana", "--force"]):
        result = invoke(*command, stdin=PASSWORD)
        assert result.exit_code == 1
        assert result.stderr.startswith("Error: data/accounts.json is damaged at byte ")
        assert "put a good copy in its place, or move it away" in result.stderr


# Listing


def test_accounts_are_listed_in_a_table_and_as_json():
    assert invoke("list").stdout == "no accounts\n"
    assert json.loads(invoke("list", "--json").stdout) == []
    add("bob")
    add("ana")
    header, *rows = [line.split() for line in invoke("list").stdout.splitlines()]
    assert header == ["name", "role", "changed"]
    assert [row[:2] for row in rows] == [["ana", "operator"], ["bob", "admin"]]
    ana, bob = json.loads(invoke("list", "--json").stdout)
    assert ana.keys() == {"name", "role", "changedAt"}
    assert (ana["name"], bob["role"]) == ("ana", "admin")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", ana["changedAt"])


def test_listing_makes_no_folder(data):
    assert invoke("list").exit_code == 0
    assert not data.exists()


# Changing


def test_a_removed_account_is_gone_and_its_token_too(data):
    add("ana")
    add("bob")
    running = Accounts(data)
    token = invoke("token", "bob").stdout.strip()
    assert running.authenticate(token, 0.0)
    assert invoke("remove", "bob").stdout == "account bob removed\n"
    assert running.authenticate(token, 0.0) is None


def test_the_last_account_goes_by_force_and_the_user_is_told_what_that_means():
    add("ana")
    result = invoke("remove", "ana", "--force")
    assert result.stdout == "account ana removed\n"
    assert result.stderr.startswith("no account is left: ")


def test_a_new_password_replaces_the_old_one_and_ends_the_tokens(data):
    add("ana")
    token = invoke("token", "ana").stdout.strip()
    result = invoke("passwd", "ana", stdin="another horse\n")
    assert result.stdout == "account ana has a new password; its tokens have ended\n"
    assert not logs_in(data, "ana", PASSWORD)
    assert logs_in(data, "ana", "another horse")
    assert Accounts(data).authenticate(token, 0.0) is None


def test_a_role_is_changed(data):
    add("ana")
    add("bob")
    assert invoke("role", "bob", "admin").stdout == "account bob is admin\n"
    assert invoke("role", "ana", "viewer").stdout == "account ana is viewer\n"
    result = invoke("role", "bob", "operator", "--force")
    assert result.stderr == "no account is an admin: accounts are managed with this command alone\n"
    assert [account.role for account in Accounts(data).list()] == [Role.VIEWER, Role.OPERATOR]


def test_a_token_is_printed_alone_so_that_a_script_can_take_it(data, monkeypatch):
    monkeypatch.setattr(commands.time, "time", lambda: 1_767_225_600.0)
    add("nightly", "--role", "operator")
    result = invoke("token", "nightly", "--days", "90")
    token = result.stdout.removesuffix("\n")
    assert re.fullmatch(r"pm_[A-Za-z0-9_-]{43}", token)
    assert result.stderr == "good until 2026-04-01T00:00:00.000Z, as nightly (operator)\n"
    accounts = Accounts(data)
    assert accounts.authenticate(token, 1_767_225_600.0 + 90 * 86400 - 1).name == "nightly"
    assert accounts.authenticate(token, 1_767_225_600.0 + 90 * 86400) is None


def test_all_tokens_of_an_account_are_ended(data):
    add("ana")
    tokens = [invoke("token", "ana").stdout.strip() for _ in range(2)]
    assert invoke("logout", "Ana").stdout == "2 tokens of ana ended\n"
    assert [Accounts(data).authenticate(token, 0.0) for token in tokens] == [None, None]


def test_every_change_is_in_the_audit_log_without_passwords_and_tokens(data):
    add("ana")
    add("bob")
    token = invoke("token", "bob").stdout.strip()
    invoke("logout", "bob")
    invoke("passwd", "bob", stdin="another horse\n")
    invoke("role", "bob", "viewer")
    invoke("remove", "bob")
    invoke("remove", "ana")
    entries = Audit(data / "audit.jsonl").tail(100)
    assert [(entry["method"], entry["resource"]) for entry in reversed(entries)] == [
        ("post", "/accounts"),
        ("post", "/accounts"),
        ("post", "/accounts/bob/tokens"),
        ("delete", "/accounts/bob/tokens"),
        ("put", "/accounts/bob"),
        ("put", "/accounts/bob"),
        ("delete", "/accounts/bob"),
    ]
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    assert {(entry["who"], entry["from"], entry["code"]) for entry in entries} == {(user, "cli", 200)}
    assert entries[-1]["account"] == {"name": "ana", "role": "admin"}
    text = (data / "audit.jsonl").read_text()
    assert not any(secret in text for secret in (PASSWORD, "another horse", token, "argon2"))


def test_who_it_was_is_not_taken_from_a_variable(data, monkeypatch):
    for name in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(name, "somebody-else")
    add("ana")
    assert "somebody-else" not in (data / "audit.jsonl").read_text()


# Processes


def test_commands_that_run_at_once_lose_nothing(data):
    def start(name):
        command = [sys.executable, "-c", PROGRAM, "accounts", "add", name, "--data", str(data)]
        child = subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        child.stdin.write(f"{PASSWORD}\n")
        child.stdin.flush()
        return child

    children = [start(f"name{number}") for number in range(4)]
    assert sorted(child.communicate(timeout=60)[0].split(": ")[1] for child in children) == [
        "admin\n",
        "operator\n",
        "operator\n",
        "operator\n",
    ]
    with TinyDB(data / "accounts.json", access_mode="r") as db:
        assert {row["name"] for row in db.table("accounts")} == {f"name{number}" for number in range(4)}


class Terminal:
    """A program on a terminal of its own; ``shown`` is what came since the last line was typed."""

    def __init__(self, *arguments):
        self.shown = self.all = ""
        child, self._side = pty.fork()
        if child == 0:
            os.chdir(ROOT)
            os.environ["PYTHONPATH"] = str(ROOT)
            os.execv(sys.executable, [sys.executable, "-c", PROGRAM, "accounts", *arguments])
        self._child = child

    def type(self, text, after):
        """Wait until something is on the screen, and type a line."""
        while after not in self.shown:
            assert self._read(), self.shown
        self.shown = ""
        os.write(self._side, text)

    def ends(self):
        """Wait for the end; returns the exit status."""
        while self._read():
            pass
        os.close(self._side)
        return os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1])

    def _read(self):
        try:
            more = os.read(self._side, 4096).decode()
        except OSError:  # how Linux tells that the other side has gone
            return ""
        self.shown += more
        self.all += more
        return more


def test_on_a_terminal_the_password_is_asked_for_twice_and_not_shown(data):
    terminal = Terminal("add", "ana", "--data", str(data))
    terminal.type(b"correct horse\n", after="Password: ")
    terminal.type(b"wrong horse\n", after="The same again: ")
    terminal.type(b"correct horse\n", after="Password: ")
    terminal.type(b"correct horse\n", after="The same again: ")
    assert terminal.ends() == 0
    assert "account ana made: admin" in terminal.shown
    assert "horse" not in terminal.all
    assert logs_in(data, "ana", PASSWORD)


def test_ctrl_c_at_the_prompt_ends_with_130_and_changes_nothing(data):
    terminal = Terminal("add", "ana", "--data", str(data))
    terminal.type(b"\x03", after="Password: ")
    assert terminal.ends() == 130
    assert "nothing was changed" in terminal.shown
    assert "Traceback" not in terminal.shown
    assert not data.exists()
