"""The compiler ``shell``: commands as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from puppetmaster.farm.compilers.port import MAX_ARGUMENTS, MAX_CHUNKS, Chunk
from puppetmaster.job_document import parse

SHELL = "/bin/sh"

_Text = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]*$")]
_Argument = Annotated[str, Field(pattern=r"^[^\x00]*$")]
_Arguments = Annotated[list[_Argument], Field(min_length=1, max_length=MAX_ARGUMENTS)]
_Command = _Text | _Arguments


class _Settings(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    command: _Command | None = None
    commands: Annotated[list[_Command], Field(min_length=1, max_length=MAX_CHUNKS)] | None = None
    parallel: bool = False

    @model_validator(mode="after")
    def _one_of_them(self) -> _Settings:
        if (self.command is None) == (self.commands is None):
            raise ValueError("give command or commands")
        return self


class Shell:
    """Runs commands: a text by a shell, a list of texts as a program with its arguments.

    ``command`` is one, ``commands`` several: one after the other on one worker, or with ``parallel`` each of them as a
    chunk of its own.
    """

    parser = ""

    def compile(self, settings: Mapping[str, Any]) -> Sequence[Chunk]:
        """The chunks of a task."""
        wanted = parse(_Settings, dict(settings))
        commands = [_argv(command) for command in wanted.commands or [wanted.command or ""]]
        return [Chunk(commands=[command]) for command in commands] if wanted.parallel else [Chunk(commands=commands)]


def _argv(command: str | list[str]) -> list[str]:
    return [SHELL, "-c", command] if isinstance(command, str) else command
