"""The README and the pages of docs/ against the program: settings, commands, links."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from puppetmaster.cli.app import make_app
from puppetmaster.settings import options
from puppetmaster.version import __version__

app = make_app()

ROOT = typer.main.get_command(app)

REPOSITORY = Path(__file__).resolve().parents[1]
README = REPOSITORY / "README.md"
PAGES = [README, REPOSITORY / "CHANGELOG.md", REPOSITORY / "SECURITY.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_COMMAND = re.compile(r"(?:\$ |ExecStart=\S*/)?puppetmaster ([a-z].*)")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def named(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


# Settings


def settings_table() -> Iterator[tuple[str, ...]]:
    for line in text_of(README).splitlines():
        if line.startswith("| `PUPPETMASTER_"):
            yield tuple(cell.strip() for cell in line.strip("|").split(" | "))


def test_the_settings_table_is_that_of_the_program():
    expected = [
        (
            f"`{option.env}`",
            f"`{option.flag} {option.metavar}".rstrip() + "`" if option.flag else "",
            "" if option.default in (None, (), False) else f"`{option.default}`",
            option.help,
        )
        for option in options()
    ]
    assert list(settings_table()) == expected


def test_the_readme_names_every_flag_of_serve_that_is_no_setting():
    serve = command_at(["serve"])
    shown = [parameter for parameter in serve.params if not getattr(parameter, "hidden", False)]
    own = {flag for parameter in shown for flag in parameter.opts} - {option.flag for option in options()}
    assert [flag for flag in own - {"--help", "-h"} if flag not in text_of(README)] == []


# The first run


def test_the_first_30_lines_show_what_it_is_and_how_to_install_and_run_it():
    top = "\n".join(text_of(README).splitlines()[:30])
    for needed in ("MQTT", "make demo", "pip install", "serve --embedded", "simulate", "run -d", "resolved"):
        assert needed in top


def test_the_targets_of_make_that_are_named_exist():
    targets = set(re.findall(r"^([a-z]+):", text_of(REPOSITORY / "Makefile"), re.MULTILINE))
    named_targets = {name for page in PAGES for name in re.findall(r"`make ([a-z]+)`|\$ make ([a-z]+)", text_of(page))}
    assert {first or second for first, second in named_targets} <= targets


# What is claimed


def test_every_test_that_security_names_is_there():
    named_tests = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text_of(REPOSITORY / "SECURITY.md"))
    assert len(named_tests) > 30
    for file, name in named_tests:
        assert re.search(rf"^(async )?def {name}\(", text_of(REPOSITORY / file), re.MULTILINE), f"{file}::{name}"


# Commands


def command_lines() -> Iterator[tuple[Path, str]]:
    """Every ``puppetmaster ...`` that is set as code, with its page; the output of commands is not among them."""
    for page in PAGES:
        text = text_of(page)
        rest = _FENCE.sub("", text)
        code = [*_FENCE.findall(text), *re.findall(r"^    .*$", rest, re.MULTILINE), *re.findall("`([^`\n]+)`", rest)]
        for line in "\n".join(code).splitlines():
            match = _COMMAND.fullmatch(line.strip())
            if match is not None:
                yield page, match[1]


def words_of(command: str) -> list[str]:
    return [word for word in shlex.split(command, comments=True) if word != "..."]


def command_at(words: Iterable[str]) -> Any:
    command: Any = ROOT
    for word in words:
        assert hasattr(command, "commands"), f"{command.name} has no command {word}"
        command = command.commands[word]
    return command


def existing_command(words: tuple[str, ...]) -> tuple[str, ...]:
    """The part of the words that names a command; the rest are arguments."""
    command: Any = ROOT
    path: list[str] = []
    for word in words:
        if not hasattr(command, "commands"):
            break
        if word not in command.commands:
            raise AssertionError(f"there is no command puppetmaster {' '.join([*path, word])}")
        command = command.commands[word]
        path.append(word)
    return tuple(path)


def test_the_commands_that_are_named_exist():
    paths = {existing_command(tuple(words_of(command))) for _, command in command_lines()}
    assert ("run",) in paths and ("jobs", "list") in paths
    for path in sorted(paths):
        help_of = CliRunner().invoke(app, [*path, "--help"])
        assert help_of.exit_code == 0, f"puppetmaster {' '.join(path)} --help: {help_of.output}"


def test_every_command_has_a_line_in_the_readme():
    root: Any = ROOT
    assert hasattr(root, "commands")
    assert [name for name in root.commands if f"| `puppetmaster {name}` |" not in text_of(README)] == []


def test_the_flags_of_the_commands_that_are_shown_exist():
    for page, command in command_lines():
        words = words_of(command)
        for end in ("--", "|"):  # what follows is the device's, or another program's
            words = words[: words.index(end)] if end in words else words
        path = existing_command(tuple(words))
        known = {flag for parameter in command_at(path).params for flag in parameter.opts} | {"--help"}
        flags = {word.partition("=")[0] for word in words if re.match("--?[a-z]", word)}
        assert flags <= known, f"{named(page)}: puppetmaster {command}"


# Links


def slugs(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = _HEADING.findall(_FENCE.sub("", text_of(page)))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_links_lead_somewhere(page):
    for link in _LINK.findall(_FENCE.sub("", text_of(page))):
        if re.match("[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{named(page)} links to {link}"
        assert not anchor or anchor in slugs(target), f"{named(page)} links to {link}, which has no such heading"


# Modules


def modules_by_line() -> dict[str, int]:
    """The modules and folders of the table in architecture.md, with the number of their line in it."""
    section = text_of(REPOSITORY / "docs" / "architecture.md").partition("\n## Modules\n")[2].partition("\n## ")[0]
    first_cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {name: number for number, cell in enumerate(first_cells) for name in re.findall(r"`(\w+)/?`", cell)}


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(text_of(path))):
        if isinstance(node, ast.ImportFrom) and node.module == "puppetmaster":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("puppetmaster."):
            yield str(node.module).split(".")[1]


def test_modules_import_only_what_stands_above_them_in_the_table():
    package, lines = REPOSITORY / "puppetmaster", modules_by_line()
    for path in package.rglob("*.py"):
        module = path.relative_to(package).parts[0].removesuffix(".py")
        if module.startswith("__"):
            continue
        assert module in lines, f"docs/architecture.md does not name {module}"
        below = [name for name in imports_of(path) if lines[name] > lines[module]]
        assert not below, f"{path.name} imports {below}"


# The rest


def test_the_pages_hold_no_leftovers():
    for page in PAGES:
        text = text_of(page)
        assert "@@" not in text and "TODO" not in text, named(page)
        assert not re.search(r"(/work|/tmp|/root|/home)/", text), f"{named(page)} names a place on some machine"


def test_the_changelog_tells_of_this_version():
    assert f"\n## {__version__}\n" in text_of(REPOSITORY / "CHANGELOG.md")
    assert json.loads(text_of(REPOSITORY / "bundle.json"))["version"] == __version__


def test_every_decision_has_its_three_parts():
    decisions = sorted((REPOSITORY / "docs" / "decisions").glob("*.md"))
    numbers = [int(page.name[:4]) for page in decisions]
    assert numbers == list(range(1, len(numbers) + 1))
    for page in decisions:
        text = text_of(page)
        assert text.startswith(f"# {page.name[:4]}: "), named(page)
        assert all(part in text for part in ("**Context.**", "**Decision.**", "**What it costs.**")), named(page)
