"""Finds compilers and parsers: ours, and those that installed packages bring along by entry point.

::

    [project.entry-points."puppetmaster.compilers"]
    nuke = "my_package.nuke:NukeCompiler"

A compiler is a class without parameters, or an object, that fits :class:`~puppetmaster.farm.compilers.Compiler`; a
parser is a :class:`~puppetmaster.farm.parsers.MakeParser`. Nothing is loaded before it is asked for, and whatever goes
wrong in one of them harms only the tasks that want it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from puppetmaster.errors import Fault, InvalidDocument, PuppetmasterError
from puppetmaster.farm.compilers import MAX_CHUNKS, BlenderRender, Chunk, Compiler, Shell
from puppetmaster.farm.parsers import BlenderOutput, MakeParser, Parser, Reading
from puppetmaster.fields import encodable

logger = logging.getLogger(__name__)

COMPILERS, PARSERS = "puppetmaster.compilers", "puppetmaster.parsers"
"""The groups of entry points."""

COMPILE_TIMEOUT = 30.0
"""Seconds for a compiler."""

PARSE_TIMEOUT = 5.0
"""Seconds for a parser and one report; then it is not asked again for that chunk."""

THREADS = 4

_OWN_COMPILERS: dict[str, Callable[[], Compiler]] = {"shell": Shell, "blender_render": BlenderRender}
_OWN_PARSERS: dict[str, MakeParser] = {"blender_render": BlenderOutput}

_T = TypeVar("_T")


class PluginFailed(PuppetmasterError):
    """Raised when a compiler can't be loaded, takes too long, or makes something else than chunks."""

    code = 500

    def __init__(self, kind: str, name: str, reason: object) -> None:
        super().__init__(encodable(f"the {kind} {name} failed: {reason}", 500))


class Plugins:
    """The compilers and parsers that there are, by name. Ours go before others of the same name."""

    def __init__(
        self,
        compilers: Mapping[str, Callable[[], Compiler]] | None = None,
        parsers: Mapping[str, MakeParser] | None = None,
    ) -> None:
        self._compilers = {**_found(COMPILERS), **(compilers or {}), **_OWN_COMPILERS}
        self._parsers = {**_found(PARSERS), **(parsers or {}), **_OWN_PARSERS}
        self._threads = ThreadPoolExecutor(THREADS, "farm-plugins")

    @property
    def compilers(self) -> list[str]:
        """The types of tasks that there can be."""
        return sorted(self._compilers)

    @property
    def parsers(self) -> list[str]:
        """The parsers that a task may name."""
        return sorted(self._parsers)

    def compiler(self, name: str) -> Compiler:
        """A compiler.

        :raises PluginFailed: when it can't be loaded.
        """
        entry = self._compilers[name]
        try:
            made = entry.load() if isinstance(entry, EntryPoint) else entry
            compiler: Compiler = made() if isinstance(made, type) else made
            if not callable(compiler.compile):
                raise TypeError("its compile can't be called")
        except (Exception, SystemExit) as error:
            logger.exception("the compiler %s can't be loaded", name, extra={"event": "plugin_failed", "plugin": name})
            raise PluginFailed("compiler", name, f"{type(error).__name__}: {error}") from error
        return compiler

    async def compile(self, name: str, settings: Mapping[str, Any]) -> tuple[str, Sequence[Chunk]]:
        """What a compiler makes of settings, and the parser that it wants.

        :raises InvalidDocument: when the settings have faults.
        :raises PluginFailed: when the fault is the compiler's.
        """
        try:
            return await self._in_thread(lambda: self._compile(name, settings), COMPILE_TIMEOUT)
        except asyncio.TimeoutError:
            raise PluginFailed("compiler", name, f"it took more than {COMPILE_TIMEOUT:g} s") from None

    def parser(self, name: str, frame_start: int, frame_end: int) -> Parser | None:
        """A parser for one chunk; none where there is no such parser, or it can't be loaded."""
        entry = self._parsers.get(name)
        if entry is None:
            return None
        try:
            make = entry.load() if isinstance(entry, EntryPoint) else entry
            made: Parser = make(frame_start, frame_end)
        except (Exception, SystemExit):
            logger.exception("the parser %s can't be made", name, extra={"event": "plugin_failed", "plugin": name})
            return None
        return made

    async def feed(self, parser: Parser, text: str) -> Reading | None:
        """What a parser reads; none when it fails, and it should not be asked again then."""
        try:
            reading = await self._in_thread(lambda: _checked_reading(parser.feed(text)), PARSE_TIMEOUT)
        except asyncio.TimeoutError:
            logger.error("the parser %s took more than %g s", type(parser).__name__, PARSE_TIMEOUT,
                         extra={"event": "plugin_failed", "plugin": type(parser).__name__})
            return None
        except (Exception, SystemExit):
            logger.exception("the parser %s failed", type(parser).__name__,
                             extra={"event": "plugin_failed", "plugin": type(parser).__name__})
            return None
        return reading

    async def _in_thread(self, call: Callable[[], _T], timeout: float) -> _T:
        return await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(self._threads, call), timeout)

    def _compile(self, name: str, settings: Mapping[str, Any]) -> tuple[str, Sequence[Chunk]]:
        compiler = self.compiler(name)
        try:
            chunks = list(compiler.compile(settings))
        except InvalidDocument as error:
            raise InvalidDocument([_below(fault) for fault in error.faults]) from None
        except (ValueError, KeyError, TypeError, LookupError) as error:
            raise InvalidDocument([Fault("settings", _said(error))]) from error
        except (Exception, SystemExit) as error:
            logger.exception("the compiler %s failed", name, extra={"event": "plugin_failed", "plugin": name})
            raise PluginFailed("compiler", name, f"{type(error).__name__}: {error}") from error
        strange = [type(chunk).__name__ for chunk in chunks if not isinstance(chunk, Chunk)]
        if strange:
            raise PluginFailed("compiler", name, f"it made {strange[0]}, and not a Chunk")
        if not 1 <= len(chunks) <= MAX_CHUNKS:
            raise InvalidDocument([Fault("settings", f"a task has 1 to {MAX_CHUNKS} chunks, this one {len(chunks)}")])
        parser = getattr(compiler, "parser", "")
        return parser if isinstance(parser, str) else "", chunks


def _found(group: str) -> dict[str, Any]:
    """The entry points of a group by name; what is broken about the installed packages is no matter of ours."""
    try:
        return {entry.name: entry for entry in entry_points(group=group)}
    except Exception:
        logger.exception("the entry points %s can't be read", group, extra={"event": "plugins_unreadable"})
        return {}


def _checked_reading(reading: object) -> Reading:
    if not isinstance(reading, Reading):
        raise TypeError(f"a parser reads a Reading, not {type(reading).__name__}")
    return reading


def _below(fault: Fault) -> Fault:
    return Fault(f"settings.{fault.path}" if fault.path else "settings", fault.message)


def _said(error: Exception) -> str:
    text = f"{error} is missing" if isinstance(error, KeyError) else str(error) or type(error).__name__
    return encodable(text, 500)
