"""Writes states.md beside it: the diagrams and tables of puppetmaster/states.py.

    python docs/make_states.py            write it
    python docs/make_states.py --check    exit 1 when it is out of date

It needs nothing but the repository.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "puppetmaster" / "states.py"
TARGET = ROOT / "docs" / "states.md"

sys.path.insert(0, str(ROOT))

from puppetmaster import states  # noqa: E402 - found by the line above

Table = Mapping[Enum, Mapping[Enum, Enum]]
Meanings = Mapping[str, Mapping[str, str]]


def main(arguments: list[str]) -> int:
    """Write the page, or check it; returns the exit code."""
    if arguments not in ([], ["--check"]):
        sys.stderr.write(f"{__doc__}\n")
        return 2
    text = render(SOURCE.read_text(encoding="utf-8"))
    if not arguments:
        TARGET.write_text(text, encoding="utf-8")
        return 0
    if TARGET.exists() and TARGET.read_text(encoding="utf-8") == text:
        return 0
    sys.stderr.write(f"{TARGET.relative_to(ROOT)} is out of date; run: python docs/make_states.py\n")
    return 1


def render(source: str) -> str:
    """The page, from the source of the tables for what they say of themselves."""
    tree = ast.parse(source)
    meanings = read_meanings(tree)
    lines = [
        "# States",
        "",
        "Made by `python docs/make_states.py` from `puppetmaster/states.py`. Don't edit it here.",
        "",
        *rules(ast.get_docstring(tree) or ""),
        *machine("Requests", states.REQUEST_TRANSITIONS, states.RequestStatus, states.RequestEvent, meanings),
        *machine("Jobs", states.JOB_TRANSITIONS, states.JobStatus, states.JobEvent, meanings),
    ]
    return "\n".join(lines).rstrip() + "\n"


def rules(docstring: str) -> Iterator[str]:
    """The list in the docstring of the module."""
    # One backtick in Markdown for the two of reStructuredText.
    yield from (line.replace("``", "`") for line in docstring.splitlines() if line.startswith(("- ", "  ")))
    yield ""


def machine(
    title: str, table: Table, statuses: type[Enum], events: type[Enum], meanings: Meanings
) -> Iterator[str]:
    """One machine: its diagram, what its statuses and events mean, and its table."""
    yield from (f"## {title}", "")
    yield from diagram(table)
    yield from meaning_table("Status", statuses, meanings)
    yield from meaning_table("Event", events, meanings)
    yield from exits(table, events)


def diagram(table: Table) -> Iterator[str]:
    """A Mermaid state diagram. Events between the same two statuses share an arrow."""
    yield from ("```mermaid", "stateDiagram-v2", f"    [*] --> {next(iter(table)).value}")
    for status, row in table.items():
        targets: dict[Enum, list[str]] = {}
        for event, target in row.items():
            targets.setdefault(target, []).append(event.value)
        for target, names in targets.items():
            yield f"    {status.value} --> {target.value}: {', '.join(names)}"
        if not row:
            yield f"    {status.value} --> [*]"
    yield from ("```", "")


def meaning_table(heading: str, members: type[Enum], meanings: Meanings) -> Iterator[str]:
    """What the members of an enumeration mean, as far as their docstrings tell."""
    yield from (f"| {heading} | Meaning |", "| --- | --- |")
    for member in members:
        yield f"| `{member.value}` | {meanings[members.__name__].get(member.name, '')} |".replace("|  |", "| |")
    yield ""


def exits(table: Table, events: type[Enum]) -> Iterator[str]:
    """The table itself: a row for each status, a column for each event."""
    yield "| In | " + " | ".join(event.value for event in events) + " |"
    yield "| --- |" + " --- |" * len(events)
    for status, row in table.items():
        cells = (f"`{row[event].value}`" if event in row else "-" for event in events)
        yield f"| `{status.value}` | " + " | ".join(cells) + " |"
    yield ""


def read_meanings(tree: ast.Module) -> dict[str, dict[str, str]]:
    """The docstrings of all members of all classes: ``{class: {member: sentence}}``."""
    return {node.name: dict(_documented(node)) for node in tree.body if isinstance(node, ast.ClassDef)}


def _documented(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for member, following in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(member, ast.Assign) or not isinstance(member.targets[0], ast.Name):
            continue
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            yield member.targets[0].id, " ".join(str(following.value.value).split())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
