"""What an agent may run: nothing, what a list of patterns allows, or everything.

A pattern is a whole command line. Without a star it allows exactly that line, whatever it holds, and it is run by the
shell. With one it is run without a shell, word by word:

==========================  ==========================================================================================
``systemctl restart *``     ``*`` is a part of one word, at least a character, without ``/``; it begins no option
``tail /var/log/*``         so this stays in that folder; as in a shell, no name begins with a dot
``ping **``                 ``**`` is anything: several words, options, paths, or nothing at all
==========================  ==========================================================================================

What a star stands for never holds a character that means something to a shell (``;``, ``$``, quotes and so on): the
program that is run may hand it to one. An ``argv`` is matched as :func:`shlex.join` writes it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

from puppetmaster.agent.commands import Command
from puppetmaster.errors import SettingsError

OFF, ALL = "off", "all"

CALLED = "--commands, PUPPETMASTER_AGENT_COMMANDS"
"""What the agent's setting is set by."""

MAX_FILE_BYTES = 1024 * 1024
"""A file of patterns is no larger: it is read at the start, into memory."""

_STAR = re.compile(r"(\*+)")
_SHELL = re.compile(r"[^\w @%+=:,./\-]")
"""What a pattern with a star can't hold beside it: there is no shell that would understand it."""

MAX_LINE = 4096
"""Characters of the longest line that is compared with a pattern with a star: that takes a while."""

_BLANKS = " \t\n"
"""What a shell takes for nothing around a line; of the other blanks of Unicode it makes a part of a name."""

_PRIVATE = ("environment", "workingDirectory", "user", "container")
"""Any of these turns an allowed line into another one: a list does not speak of them."""


class _Star(Enum):
    """What a star in a pattern stands for, a character at a time; the value is what such a character looks like."""

    FIRST = re.compile(r"[\w@%+=:,]")
    """The first one of a word or a name: no hyphen, which would make it an option, and no dot, for ``..``."""
    MORE = re.compile(r"[\w@%+=:,.\-]")
    ANY = re.compile(r"[\w@%+=:,./\- ]")

    def fits(self, character: str) -> bool:
        return bool(self.value.match(character))


_Token = tuple[_Star | str, bool]
"""A character or a star, and whether it may come any number of times, or not at all."""


def _tokens(text: str) -> Iterator[_Token]:
    before = " "
    for part in _STAR.split(text):
        if part.startswith("**"):
            yield _Star.ANY, True
        elif part == "*":
            yield (_Star.FIRST if before in " /" else _Star.MORE), False
            yield _Star.MORE, True
        else:
            yield from ((character, False) for character in part)
        before = part[-1:] or before


class _Pattern:
    """One line of the list."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.has_star = "*" in text
        if self.has_star and (bad := _SHELL.search(text.replace("*", ""))):
            raise ValueError(f"{text!r:.100}: a pattern with * is run without a shell, which {bad[0]!r} needs")
        self._tokens = list(_tokens(text))

    def allows(self, command: Command) -> bool:
        line = shlex.join(command.argv) if command.line is None else command.line.strip(_BLANKS)
        if self.has_star:
            return self._fits(line)
        return line == self.text

    def _fits(self, line: str) -> bool:
        """Whether the whole line is one that is meant.

        All places in the pattern that the line may have reached are followed at once: an expression with several
        stars would try them one after the other, which takes for ever with a line that was made for it.
        """
        if len(line) > MAX_LINE:
            return False
        places = self._reachable({0})
        for character in line:
            places = self._reachable({after for place in places for after in self._after(place, character)})
            if not places:
                return False
        # "ping **" allows "ping" too.
        tail = len(self._tokens) - 2
        is_bare = tail in places and self._tokens[tail:] == [(" ", False), (_Star.ANY, True)]
        return len(self._tokens) in places or is_bare

    def _after(self, place: int, character: str) -> Iterator[int]:
        if place == len(self._tokens):
            return
        token, is_repeated = self._tokens[place]
        if token.fits(character) if isinstance(token, _Star) else token == character:
            yield place if is_repeated else place + 1

    def _reachable(self, places: set[int]) -> set[int]:
        found = set(places)
        for place in places:
            while place < len(self._tokens) and self._tokens[place][1]:
                place += 1
                found.add(place)
        return found


class Rights:
    """What may be run; made by :meth:`parse`."""

    def __init__(self, mode: str, patterns: list[str] | None = None, *, called: str = CALLED) -> None:
        self._mode = mode
        self._called = called
        self._patterns = [_Pattern(text) for text in patterns or ()]

    @classmethod
    def parse(
        cls, text: str, *, name: str = "commands", source: str = "the settings", called: str = CALLED
    ) -> Rights:
        """Read a setting: ``off``, ``all``, ``@FILE`` with a pattern a line, or patterns between commas or newlines.

        In a file, empty lines and those that begin with ``#`` say nothing.

        :param name: of the setting, for the error.
        :param source: of the setting, for the error.
        :param called: what the setting is set by, for who asks for a command while it is off.
        :raises SettingsError: when the file can't be read, or a pattern can't be meant.
        """
        word = text.strip()
        if word.lower() in ("", OFF):
            return cls(OFF, called=called)
        if word.lower() == ALL:
            return cls(ALL)
        try:
            patterns = _read(Path(word[1:])) if word.startswith("@") else re.split(r"[,\n]", word)
            return cls("list", [line.strip() for line in patterns if line.strip()])
        except OSError as error:
            raise SettingsError(name, source, f"{word[1:]} can't be read: {error.strerror or error}") from error
        except ValueError as error:
            raise SettingsError(name, source, str(error)) from error

    def describe(self) -> str | list[str]:
        """What is allowed, for ``/agent/info``: ``off``, ``all`` or the patterns."""
        return self._mode if self._mode in (OFF, ALL) else [pattern.text for pattern in self._patterns]

    def examine(self, command: Command) -> Command:
        """The command as it may be run.

        :raises NotAllowed: when it may not be run, with the reason.
        """
        if self._mode == ALL:
            return command
        if self._mode == OFF:
            raise NotAllowed(f"this agent runs no commands: its setting is off ({self._called})")
        for field in _PRIVATE:
            if command.asks_for(field):
                raise NotAllowed(f"this agent runs commands from a list, and {field} may not be set with these")
        for pattern in self._patterns:
            if pattern.allows(command):
                return command.without_shell() if pattern.has_star else command
        raise NotAllowed("this agent runs commands from a list, and this is none of them")


class NotAllowed(Exception):
    """Raised when the rights forbid a command."""


def _read(path: Path) -> list[str]:
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"{path} has more than {MAX_FILE_BYTES} bytes")
    lines = data.decode("utf-8").splitlines()
    return [line for line in lines if not line.lstrip().startswith("#")]
