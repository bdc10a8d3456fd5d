"""``puppetmaster exec``: a command line on many devices, with their output as it comes and a summary in the end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from puppetmaster.cli import render
from puppetmaster.cli.destinations import expand
from puppetmaster.cli.new_job import DryRun, make
from puppetmaster.cli.options import REACH, Json, positive, with_settings
from puppetmaster.cli.outcome import FAILED, BadUsage, Interrupted, say
from puppetmaster.cli.running import is_over_http, talk
from puppetmaster.cli.waiting import Waiting
from puppetmaster.cli.watching import goes_on, is_success
from puppetmaster.errors import Conflict, PuppetmasterError, TooLarge
from puppetmaster.settings import Settings

if TYPE_CHECKING:
    from puppetmaster.cli.groups import Groups
    from puppetmaster.cli.live import View
    from puppetmaster.client import DocumentClient
    from puppetmaster.client.output import Output

Document = dict[str, Any]

RESOURCE = "/agent/commands"

ANSWER_TIME = 30.0
"""Seconds beyond the command's own time in which the answer has to come: the agent ends it, and tells."""

SECOND_TIME = 3.0
"""Seconds for a second Ctrl-C, which calls the job off."""

REST_TIME = 10.0
"""Seconds for the rest of the output when the job has ended."""

PAGE = 200
"""Requests that are asked for at once in the end; fewer where their answers are long."""

FIRST_PAGE = 1000
"""The same in the beginning, when there are no answers yet."""

_WHERE, _HOW, _SHOWN = "Where", "The command", "What is shown"


class Offline(str, Enum):
    """What becomes of devices that are away."""

    WAIT = "wait"
    SKIP = "skip"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What is to be seen."""

    json: bool
    raw: bool
    quiet: bool
    summary: bool


def _many(flags: Sequence[str], metavar: str, help: str, panel: str) -> Any:
    return typer.Option(*flags, metavar=metavar, help=f"{help} May be repeated.", rich_help_panel=panel)


def _flag(flag: str, help: str, panel: str) -> Any:
    return typer.Option(flag, help=help, rich_help_panel=panel)


@with_settings(*REACH)
def execute(
    settings: Settings,
    words: Annotated[list[str], typer.Argument(metavar="COMMAND", help="The command line.", show_default=False)],
    destinations: Annotated[
        list[str] | None, _many(["--destination", "-d"], "DEV", "Devices: a,b or dev-[01-50], @file or -.", _WHERE)
    ] = None,
    labels: Annotated[
        list[str] | None, _many(["--target", "-t"], "KEY=VALUE", "Devices with this label.", _WHERE)
    ] = None,
    facts: Annotated[
        list[str] | None, _many(["--fact"], "KEY=VALUE", "Devices that tell this of themselves.", _WHERE)
    ] = None,
    everywhere: Annotated[bool, _flag("--all", "All devices that are known.", _WHERE)] = False,
    online: Annotated[bool, _flag("--online", "Of those with -t, --fact, --all, only who is online.", _WHERE)] = False,
    sample: Annotated[
        str | None,
        typer.Option(metavar="N|N%", help="Of the same, some at random: 5, or 10%.", rich_help_panel=_WHERE),
    ] = None,
    offline: Annotated[
        Offline | None,
        typer.Option(
            help="Devices that are away: wait for them, leave them out, or count them as failed.",
            rich_help_panel=_WHERE,
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            parser=positive, metavar="SECONDS", help="How long the command may take on a device.", rich_help_panel=_HOW
        ),
    ] = None,
    user: Annotated[str | None, typer.Option(metavar="NAME", help="Run it as this user.", rich_help_panel=_HOW)] = None,
    cwd: Annotated[str | None, typer.Option(metavar="FOLDER", help="Run it there.", rich_help_panel=_HOW)] = None,
    env: Annotated[
        list[str] | None,
        _many(["--env"], "NAME[=VALUE]", "Set a variable; without a value it gets the one that it has here.", _HOW),
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="How many devices at once.", rich_help_panel=_HOW)
    ] = None,
    cancel: Annotated[
        bool, _flag("--cancel-on-interrupt", "Let the first Ctrl-C call the job off, not the second one.", _HOW)
    ] = False,
    dry_run: DryRun = False,
    json: Json = False,
    raw: Annotated[bool, _flag("--raw", "The bytes as they come, without names.", _SHOWN)] = False,
    quiet: Annotated[bool, _flag("--quiet", "Only the summary.", _SHOWN)] = False,
    no_summary: Annotated[bool, _flag("--no-summary", "No summary.", _SHOWN)] = False,
) -> None:
    """Run a command line on many devices; show what they put out as it comes, and equal outputs together in the end.

    The words behind the options, or behind --, are joined with blanks and run by the shell of each device, as ssh does.
    Quote what your own shell is not to touch: exec -t site=berlin -- 'df -h / | tail -1'

    "name | text" is a line of stdout, "name ! text" one of stderr. It ends with 0 when the command ended with 0
    everywhere, else with 1. At Ctrl-C it asks: a second one within 3 s calls the job off, else it goes on without this
    command, and the exit code is 130 in both cases.

    \b
    Examples:
      puppetmaster exec -t site=berlin -- uptime
      puppetmaster exec -d 'device-[01-50]' --quiet --timeout 30 -- uname -r
      puppetmaster exec --all --online --sample 10% -- systemctl is-active sshd
    """
    if raw and (json or quiet):
        other = "--json" if json else "--quiet"
        raise BadUsage("--raw", f"it prints the bytes of the commands and nothing else: give it without {other}")
    document = {
        **_where(destinations, labels, facts, everywhere, online, sample),
        "message": {"method": "post", "resource": RESOURCE, "data": _order(words, timeout, user, cwd, env)},
        "requestTimeout": timeout and timeout + ANSWER_TIME,
        "concurrency": concurrency,
        "offline": offline and offline.value,
        "name": _name(words),
    }
    document = {name: value for name, value in document.items() if value is not None}
    if dry_run:
        make(settings, document, _create, dry_run=True, json=json)
        return
    shown = Shown(json=json, raw=raw, quiet=quiet, summary=not (no_summary or raw))
    _run(settings, document, shown, cancel)


async def _create(client: DocumentClient, document: Document) -> Document:
    return await client.create_job(document)


# The document


def _where(
    destinations: list[str] | None,
    labels: list[str] | None,
    facts: list[str] | None,
    everywhere: bool,
    online: bool,
    sample: str | None,
) -> Document:
    where: Document = {}
    if destinations:
        try:
            where["destinations"] = expand(destinations, sys.stdin)
        except ValueError as error:
            raise BadUsage("-d", str(error)) from None
    if labels or facts or everywhere:
        chosen: Document = {"labels": _choices("-t", labels), "facts": _choices("--fact", facts)}
        chosen |= {"connection": "online" if online else None, "sample": _sample(sample)}
        where["targets"] = {name: value for name, value in chosen.items() if value}
    elif online or sample is not None:
        raise BadUsage("--online" if online else "--sample", "it chooses among those of -t, --fact or --all")
    if not where:
        raise BadUsage("exec", "name the devices: -d NAMES, -t KEY=VALUE, or --all for all that are known")
    return where


def _choices(flag: str, texts: list[str] | None) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise BadUsage(flag, f"it is KEY=VALUE, such as site=berlin, not {text!r:.80}")
        found.setdefault(name, []).append(value)
    return found


def _sample(text: str | None) -> str | int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 10 else text


def _order(
    words: list[str], timeout: float | None, user: str | None, cwd: str | None, env: list[str] | None
) -> Document:
    variables = {}
    for text in env or ():
        name, equals, value = text.partition("=")
        if not name:
            raise BadUsage("--env", "it is NAME=VALUE or NAME")
        if not equals and name not in os.environ:
            raise BadUsage("--env", f"there is no variable {name!r:.80} here: set it, or say {name:.80}=VALUE")
        variables[name] = value if equals else os.environ[name]
    order = {
        "commandLine": " ".join(words),
        "timeout": timeout,
        "user": user,
        "workingDirectory": cwd,
        "environment": variables or None,
    }
    return {name: value for name, value in order.items() if value is not None}


def _name(words: list[str]) -> str | None:
    return render.shortened(" ".join(words), 60).strip() or None


# The conversation


def _run(settings: Settings, document: Document, shown: Shown, cancel: bool) -> None:
    from puppetmaster.cli.groups import ALL, SHORT, Groups, print_groups, print_verdicts

    created: Document = {}
    groups = Groups()
    was_seen = False

    async def conversation(client: DocumentClient) -> Document:
        nonlocal was_seen
        async with _output(settings) as output:
            created.update(await client.create_job(document))
            execution = _Execution(client, output, created, shown, cancel)
            try:
                return await execution.run(groups)
            finally:
                was_seen = execution.was_seen

    interrupted = None
    try:
        job = talk(settings, conversation)
    except _CalledOff as called_off:
        job, interrupted = called_off.job, called_off
    except Interrupted as caught:
        if not created:
            note = "stopped before the answer came: the job may have been created (puppetmaster jobs list)"
            raise Interrupted(caught.number, note) from None
        if caught.note:
            raise
        raise goes_on(caught, created["id"]) from None
    if shown.json and shown.summary:
        render.print_json_line({"type": "job", **job})
    elif shown.summary:
        if was_seen and job["totalCount"] == 1 and not shown.quiet:
            print_verdicts(groups)  # its output stands above
        else:
            print_groups(groups, ALL if shown.quiet else SHORT)
        typer.echo(render.summary(job))
    if interrupted is not None:
        raise interrupted
    if not (is_success(job) or _is_fine_without(job, groups.left_out)):
        if groups.left_out == job["totalCount"] and not shown.json:
            say("the command ran nowhere: no device is online")
        if not shown.json and job["reason"] and job["status"] != "resolved":
            say(f"reason: {render.plain(job['reason'])}")
        raise typer.Exit(FAILED)


def _is_fine_without(job: Document, left_out: int) -> bool:
    """Whether every device resolved but those that were to be left out; at least one did."""
    return bool(left_out and job["finishCount"] and job["finishCount"] + left_out == job["totalCount"])


@asynccontextmanager
async def _output(settings: Settings) -> AsyncIterator[Output]:
    """Where the output comes from: the same way as the answers."""
    from puppetmaster.client.output import BusOutput, HttpOutput

    output: Output
    if is_over_http(settings):
        assert settings.url is not None
        output = HttpOutput(settings.url, token=settings.token, ca_file=settings.ca_file)
    else:
        output = BusOutput(settings.broker)
    try:
        await output.open()
        yield output
    finally:
        await output.close()


class _CalledOff(Interrupted):
    """Raised when the user called the job off; it has ended."""

    def __init__(self, job: Document) -> None:
        super().__init__(signal.SIGINT, f"job {job['id']} was called off")
        self.job = job


class _Execution:
    """One job on its way, and its user."""

    def __init__(
        self, client: DocumentClient, output: Output, created: Document, shown: Shown, cancel: bool
    ) -> None:
        self._client, self._output, self._shown = client, output, shown
        self._id: int = created["id"]
        self._job = created
        self._request_ids: list[int] = created["requests"]
        self._presses = 1 if cancel else 0
        self._pressed = asyncio.Event()
        self._called_off = False
        """Whether the user wants the job to end: its end may come before the answer to that."""
        self._was_seen = False

    @property
    def was_seen(self) -> bool:
        """Whether there was any output to be seen as it came."""
        return self._was_seen

    async def run(self, groups: Groups) -> Document:
        """Show the output and wait for the end; the job.

        :raises Interrupted: when the user wants to leave.
        """
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._press)
        speaking = asyncio.create_task(self._speak(_view(self._shown, len(self._request_ids))), name="output")
        watching = asyncio.create_task(self._watch(), name="job")
        deciding = asyncio.create_task(self._decide(), name="interrupts")
        tasks = {speaking, watching, deciding}
        if not (self._shown.quiet or self._shown.json):
            waiting = Waiting(self._client, lambda: self._job)
            tasks.add(asyncio.create_task(waiting.run(), name="waiting"))
        try:
            await asyncio.wait({watching, deciding}, return_when=asyncio.FIRST_COMPLETED)
            if self._called_off or deciding.done():
                await deciding
            await watching
            self._output.finish()
            await asyncio.wait({speaking}, timeout=REST_TIME)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self._shown.summary or self._job["counts"].get("canceled"):
            await self._gather(groups)
        if self._called_off:
            raise _CalledOff(self._job)
        return self._job

    async def _speak(self, view: View) -> None:
        try:
            async with aclosing(self._output.pieces(self._id, self._request_ids, self._destinations)) as pieces:
                async for piece in pieces:
                    self._was_seen = True
                    view.show(piece)
        except PuppetmasterError as error:
            say(f"no more output: {error}")
        finally:
            view.close()

    async def _watch(self) -> None:
        async for job in self._client.watch(self._id, told=_tell):
            self._job = job
        if not self._job["finishedAt"]:
            raise _Removed(self._id)

    def _press(self) -> None:
        self._presses += 1
        self._pressed.set()

    async def _decide(self) -> None:
        """Call the job off when the user insists.

        :raises Interrupted: when they do not: the job goes on.
        """
        await self._pressed.wait()
        if self._presses < 2:
            self._pressed.clear()
            say(f"Ctrl-C once more within {SECOND_TIME:g} s calls job {self._id} off; it goes on otherwise")
            try:
                await asyncio.wait_for(self._pressed.wait(), SECOND_TIME)
            except asyncio.TimeoutError:
                raise goes_on(Interrupted(signal.SIGINT), self._id) from None
        say(f"calling job {self._id} off")
        self._called_off = True
        try:
            await self._client.update_job(self._id, {"status": "canceled"})
        except Conflict:
            self._called_off = False  # it has just ended by itself

    async def _gather(self, groups: Groups) -> None:
        """Read what every request came to."""
        async for request in self._requests(PAGE):
            groups.add(request)
            if self._shown.json and self._shown.summary:
                _print_result(request)

    async def _destinations(self) -> dict[int, str]:
        return {request["id"]: request["__request"]["destination"] async for request in self._requests(FIRST_PAGE)}

    async def _requests(self, limit: int) -> AsyncIterator[Document]:
        """All requests of the job, in pages that fit the way."""
        offset = 0
        while offset < self._job["totalCount"]:
            try:
                page = (await self._client.job(self._id, limit=limit, offset=offset))["requests"]
            except TooLarge:
                if limit == 1:
                    offset += 1
                limit = max(1, limit // 2)
                continue
            for request in page:
                yield request
            if not page:
                return
            offset += len(page)


class _Removed(PuppetmasterError):
    """Raised when the job was removed while it was watched."""

    def __init__(self, job_id: int) -> None:
        super().__init__(f"job {job_id} was removed while it was watched")


def _view(shown: Shown, count: int) -> View:
    from puppetmaster.cli.live import JsonLines, Lines, Nothing, Raw

    if shown.quiet:
        return Nothing()
    if shown.json:
        return JsonLines()
    return Raw(alone=count == 1) if shown.raw else Lines()


def _print_result(request: Document) -> None:
    about = request["__request"]
    fields = {name: about[name] for name in ("destination", "status", "code", "result")}
    render.print_json_line({"type": "result", "request": request["id"], **fields})


def _tell(reason: PuppetmasterError | None) -> None:
    say("there is word on the job again" if reason is None else f"no word on the job for now: {reason}")
