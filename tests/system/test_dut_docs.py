"""docs/dutserver.md is run: every command in its order, and the agent in it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from puppetmaster.embedded.broker import free_port

PAGE = Path(__file__).resolve().parents[2] / "docs" / "dutserver.md"

PATIENCE = 60


class Session:
    """A shell that goes through the page."""

    def __init__(self, folder: Path) -> None:
        self.port = str(free_port("127.0.0.1"))
        tools = folder / "bin"
        tools.mkdir()
        program = tools / "puppetmaster"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m puppetmaster "$@"\n')
        program.chmod(0o755)
        self._shell = subprocess.Popen(
            ["/bin/bash"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "stderr").open("wb"),
            cwd=folder,
            text=True,
            env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(PAGE.parents[1])},
        )
        self._folder = folder

    def run(self, line: str) -> str:
        """What a line prints."""
        line = line.replace("8000", self.port)
        if line.endswith("&"):
            ready = f"until curl -s -o /dev/null http://127.0.0.1:{self.port}/agent_selfreg; do sleep 0.05; done"
            line = f"{line.removesuffix('&')} --host 127.0.0.1 >/dev/null 2>server.log & SERVER=$!; {ready}"
        return self._ask(line)

    def start_agent(self, program: str) -> None:
        path = self._folder / "agent.py"
        path.write_text(program.replace("8000", self.port))
        self._ask(f'"{sys.executable}" agent.py >/dev/null 2>agent.log & AGENT=$!')

    def close(self) -> None:
        self._ask("kill $AGENT $SERVER; wait $AGENT $SERVER")
        assert self._shell.stdin is not None
        self._shell.stdin.close()
        self._shell.wait(PATIENCE)

    def _ask(self, line: str) -> str:
        shell = self._shell
        assert shell.stdin is not None and shell.stdout is not None
        shell.stdin.write(f"{line}\necho; echo '<end>'\n")
        shell.stdin.flush()
        lines = []
        while (found := shell.stdout.readline()) != "<end>\n":
            assert found, (self._folder / "stderr").read_text()
            lines.append(found)
        return "".join(lines).strip("\n")


def steps() -> list[tuple[str, str]]:
    """The commands of the page with what they print, and its agent, in their order."""
    found = []
    pattern = re.compile(r"^    \$ (.+)\n((?:    (?!\$ ).*\n)*)|^```python\n([\s\S]*?)^```", re.MULTILINE)
    for match in pattern.finditer(PAGE.read_text(encoding="utf-8")):
        if match[3]:
            found.append(("", match[3]))
        else:
            found.append((match[1], re.sub("^    ", "", match[2], flags=re.MULTILINE).strip("\n")))
    return found


@pytest.mark.timeout(180)
def test_the_page_does_what_it_says(tmp_path: Path) -> None:
    session = Session(tmp_path)
    try:
        assert len(steps()) > 15
        for line, expected in steps():
            if line:
                assert (line, session.run(line)) == (line, expected)
            else:
                session.start_agent(expected)
    finally:
        session.close()
