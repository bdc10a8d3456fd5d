"""Serves ``/agent/commands`` and ``/agent/info``: carries out each order once, whatever happens to its process.

===========================  =========================================================================================
``post /agent/commands``     run commands (:mod:`puppetmaster.agent.commands`)
``delete /agent/commands``   with the id of such an order: end it. Its answer is 499 then, and says what came of it; one
                             that has not come yet will never be started
``get /agent/commands``      what is being worked on
``get /agent/info``          facts of the device, and what it may run
===========================  =========================================================================================
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import shlex
import shutil
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from puppetmaster.agent import launch
from puppetmaster.agent.commands import Plan, read_plan
from puppetmaster.agent.execution import CANCELED, FAILED, Execution, Outcome, Stop, Surroundings
from puppetmaster.agent.memory import Entry, Memory
from puppetmaster.agent.order import PROGRESS, Key, Order, Reply
from puppetmaster.agent.output import Output, OutputLimits
from puppetmaster.agent.places import Places
from puppetmaster.agent.rights import NotAllowed, Rights
from puppetmaster.agent.shim import Run, boot_id
from puppetmaster.chunks import Chunk
from puppetmaster.errors import FileUnavailable, InvalidDocument
from puppetmaster.wire import COMMANDS

__all__ = ["Order", "Reply", "Worker"]

logger = logging.getLogger(__name__)

INFO = "/agent/info"

WAITING = 10
"""How many orders may be at hand for each that may run: what is above is answered 503."""

BATCH = 4
"""Chunks that are read at once: an eighth of a MiB at the most."""

ANSWERS = 4
"""Answers that are in memory at once on their way to the disk, and on their way out; each may take half a MiB."""

RETRY, MAX_RETRY = 1.0, 60.0
"""Seconds to the next attempt at what could not be written or published, doubled each time."""

CLOSE_TIME = 2.0
"""Seconds for what has to be said after the last command was killed at a close."""

CLEAR_TIME, MAX_CLEAR_TIME = 0.02, 0.5
"""Seconds between two questions whether output may be told again, at first and after a while."""

MAX_SUMMARY = 200
"""Characters of a command line in the list of what runs."""

T = TypeVar("T")

_Answer = tuple[int, dict[str, Any]]


class _Work:
    """An order that is being worked on."""

    def __init__(self, order: Order, reply: Reply) -> None:
        self.order, self.reply = order, reply
        self.entry: Entry | None = None
        self.plan: Plan | None = None
        self.execution: Execution | None = None
        # Set once it is on disk, or will not be.
        self.is_begun = asyncio.Event()
        # The wait for a place, when there was none.
        self.turn: asyncio.Future[bool] | None = None
        # The last report of progress; the final answer waits until it is out.
        self.report: asyncio.Task[None] | None = None
        self.stop: Stop | None = None
        # Why a command may not be begun any more, by its number.
        self.forbidden: dict[int, str] = {}
        self.command = 0

    def end(self, why: Stop) -> None:
        self.stop = self.stop or why
        if self.turn is not None and not self.turn.done():
            self.turn.set_result(False)
        if self.execution is not None:
            self.execution.stop(self.stop)

    @property
    def progress(self) -> dict[str, Any]:
        count = len(self.plan.commands) if self.plan else 1
        if self.execution is None:
            return {"progress": 0, "message": "waiting for its turn"}
        if count == 1:
            return {"progress": 0, "message": "started"}
        return {"progress": 100 * self.command // count, "message": f"command {self.command + 1} of {count} started"}

    @property
    def summary(self) -> dict[str, Any]:
        first = self.plan.commands[0] if self.plan else None
        line = (first.line or shlex.join(first.argv)) if first else ""
        return {"id": self.order.id, "commandLine": line[:MAX_SUMMARY], **self.progress}


class Worker:
    """Runs the commands of a device. All methods belong to one loop.

    :param memory: what was begun and done; its folder holds the runs too. The worker neither opens nor closes it.
    :param emit: gets each chunk of output, in order, and must not wait.
    :param info: the facts of ``/agent/info``.
    :param max_running: how many orders run at once; more wait, up to ten times as many, and what is above that is
        answered 503.
    :param kill_after: seconds from TERM to KILL.
    :param is_clear: whether ``emit`` can take more now. While it says no, output stays in its file.
    """

    def __init__(
        self,
        *,
        memory: Memory,
        rights: Rights,
        limits: OutputLimits,
        emit: Callable[[Order, Chunk], None],
        info: Callable[[], dict[str, Any]],
        max_running: int = 100,
        kill_after: float = 5.0,
        is_clear: Callable[[], bool] = lambda: True,
    ) -> None:
        self._memory, self._rights, self._emit, self._info = memory, rights, emit, info
        self._runs = memory.folder / "runs"
        self._files = ThreadPoolExecutor(2, "agent-files")
        self._around = Surroundings(files=self._files, limits=limits, kill_after=kill_after)
        self._is_clear = is_clear
        self._works: dict[Key, _Work] = {}
        self._max_running, self._places = max_running, Places(max_running)
        self._tasks: set[asyncio.Task[None]] = set()
        # One at a time: a hundred that all found the way clear would be far more than it takes.
        self._telling = asyncio.Lock()
        self._saving, self._giving = asyncio.Semaphore(ANSWERS), asyncio.Semaphore(ANSWERS)
        self._is_closed = False

    @property
    def running(self) -> list[Order]:
        """The orders that are being worked on, oldest first, those that wait for a place among them."""
        return [work.order for work in self._works.values()]

    @staticmethod
    def serves(resource: str) -> bool:
        """Whether a resource is answered here: all of ``/agent``, though what is unknown below it is answered 404."""
        path = resource.partition("?")[0]
        return path == "/agent" or path.startswith("/agent/")

    async def start(self, reply_to: Callable[[Order], Reply]) -> None:
        """Take over what an earlier life began; comes before the first :meth:`handle`.

        Commands that still run are adopted, those that never started are started, those cut off are answered, and
        final answers that nobody got are given. Returns when all of that is under way.

        :param reply_to: the way back for an order that was remembered; its ``data`` is not filled in.
        """
        unfinished = [entry for entry in self._memory.unfinished() if _path(entry.resource) == COMMANDS]
        undelivered = [entry for entry in self._memory.undelivered() if _path(entry.resource) == COMMANDS]
        await self._in_thread(_tidy, self._runs, {_name(entry.key) for entry in (*unfinished, *undelivered)})
        for entry in unfinished:
            await self._take_over(entry, reply_to(entry.order()))
        for entry in undelivered:
            self._spawn(self._deliver_late(entry, reply_to(entry.order())), f"answer {entry.key[0]}")

    async def handle(self, order: Order, reply: Reply) -> None:
        """Take an order; returns when it is on disk (or answered for good), so that it can be acknowledged.

        The work goes on by itself, and ``reply`` is called as there is something to say: 102 when it begins, then the
        final answer. An order that is known is not done again: its remembered answer is given, or 102 while it is at
        work. Nothing that an order holds makes this raise.
        """
        try:
            await self._handle(order, reply)
        except FileUnavailable as error:
            self._say(order, reply, 503, {"message": str(error)})
        except Exception as error:
            logger.exception("order %s failed", order.id, extra={"event": "agent_order_failed", "request": order.id})
            self._say(order, reply, FAILED, _refusal(Outcome.FAILED, f"the agent failed: {error!r:.500}"))

    async def close(self, kill: bool = False) -> None:
        """Stop looking; idempotent. Commands that run go on and are adopted by the next life.

        :param kill: end them first, and answer for them.
        """
        self._is_closed = True
        if kill:
            works = [work for work in self._works.values() if work.execution is not None]
            for work in works:
                await self._stop(work, Stop.CLOSE)
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=self._around.kill_after + CLOSE_TIME if works else CLOSE_TIME)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._around.close()
        self._files.shutdown()

    # ------------------------------------------------------------------------------------------------ orders

    async def _handle(self, order: Order, reply: Reply) -> None:
        method, path = order.method.lower(), _path(order.resource)
        if self._is_closed:
            self._say(order, reply, 503, {"message": "the agent is stopping"})
        elif path == INFO and method == "get":
            self._say(order, reply, 200, self._facts())
        elif path == COMMANDS and method == "get":
            self._say(order, reply, 200, {"running": [work.summary for work in self._works.values()]})
        elif order.resource == COMMANDS and method == "post":  # without a query: a cancel would not have it
            await self._post(order, reply)
        elif path == COMMANDS and method == "delete":
            await self._delete(order, reply)
        elif order.resource in (COMMANDS, INFO):
            self._say(order, reply, 405, {"message": f"{path} has no {method:.20}"})
        else:
            self._say(order, reply, 404, {"message": f"there is no {order.resource:.200} here"})

    def _facts(self) -> dict[str, Any]:
        return {**self._info(), "running": len(self._works), "rights": self._rights.describe()}

    async def _post(self, order: Order, reply: Reply) -> None:
        entry, work = self._memory.find(order.key), self._works.get(order.key)
        if work is not None:
            self._say(order, reply, PROGRESS, work.progress)
        elif entry is not None and not entry.is_done:
            self._say(order, reply, 409, {"message": f"{order.id} is the id of {entry.method} {entry.resource}"})
        elif entry is not None:
            self._spawn(self._give(entry, reply), f"answer {order.id}")
        elif len(self._works) >= self._max_running * WAITING:
            self._say(order, reply, 503, {"message": f"{len(self._works)} orders are at work or wait already"})
        else:
            await self._begin(order, reply)

    async def _begin(self, order: Order, reply: Reply) -> None:
        # From here on it is known, so that it is not begun twice while it is being written down.
        work = self._works[order.key] = _Work(order, reply)
        has_place = False
        try:
            refused = await self._in_thread(self._examine_first, work)
            if refused is not None:
                await self._refuse(work, refused)
                return
            has_place = self._places.take()
            facts = {"boot": boot_id(), "waiting": not has_place, "bare": _bare(work)}
            work.entry = await self._memory.begin(order, **facts)
        except BaseException:
            self._works.pop(order.key, None)
            if has_place:
                self._places.leave()
            raise
        finally:
            work.is_begun.set()
        if not has_place:
            work.turn = self._places.line_up()
        self._spawn(self._work(work), f"order {order.id}")

    async def _refuse(self, work: _Work, answer: _Answer) -> None:
        entry = await self._memory.done(work.order, *answer)
        self._works.pop(work.order.key, None)
        assert entry is not None, "a refusal is no transient answer"
        self._spawn(self._give(entry, work.reply), f"answer {work.order.id}")

    def _examine(self, work: _Work) -> _Answer | None:
        """Read an order's plan; or the answer that it gets at once."""
        try:
            plan = read_plan(work.order.data)
            commands = tuple(self._rights.examine(command) for command in plan.commands)
            for number, command in enumerate(commands):
                launch.examine(command, f"commands.{number}" if plan.is_sequence else "")
        except InvalidDocument as error:
            errors = [{"path": fault.path, "message": fault.message} for fault in error.faults]
            return 400, {"message": str(error), "errors": errors}
        except NotAllowed as error:
            return 403, _refusal(Outcome.NOT_ALLOWED, str(error))
        work.plan = Plan(commands=commands, is_sequence=plan.is_sequence, timeout=plan.timeout)
        return None

    def _examine_first(self, work: _Work) -> _Answer | None:
        """As :meth:`_examine`, for an order that nobody has begun."""
        refused = self._examine(work)
        if refused is None:
            # An order of its name may have left something when it was forgotten.
            shutil.rmtree(self._folder(work.order.key), ignore_errors=True)
        return refused

    async def _delete(self, order: Order, reply: Reply) -> None:
        if (work := self._works.get(order.key)) is not None:
            await work.is_begun.wait()
        if (work := self._works.get(order.key)) is not None:
            await self._stop(work, Stop.CANCEL)
        elif (entry := self._memory.find(order.key)) is not None and not entry.is_done:
            self._say(order, reply, 409, {"message": f"{order.id} is the id of {entry.method} {entry.resource}"})
        elif entry is not None:
            self._spawn(self._give_canceled(entry, reply), f"answer {order.id}")
        else:
            entry = await self._memory.done(order, *_never_started("it was canceled before it came"))
            assert entry is not None, "it is no transient answer"
            self._spawn(self._give(entry, reply), f"answer {order.id}")

    # -------------------------------------------------------------------------------------------------- work

    async def _take_over(self, entry: Entry, reply: Reply) -> None:
        work = _Work(entry.order(await self._recall(entry)), reply)
        work.entry = entry
        work.is_begun.set()
        self._works[entry.key] = work
        refused = await self._in_thread(self._examine_again, work)
        if refused is not None:
            self._spawn(self._conclude(work, refused, None), f"answer {entry.key[0]}")
            return
        if entry.facts.get("waiting"):
            if not self._places.take():
                work.turn = self._places.line_up()
        else:
            self._places.squeeze_in()
        if (stop := entry.facts.get("stop")) is not None:
            work.end(Stop(stop))
        self._spawn(self._work(work), f"order {entry.key[0]}")

    async def _recall(self, entry: Entry) -> Any:
        try:
            return await self._memory.data(entry)
        except FileUnavailable as error:
            # One order that can't be read must not keep the agent from its work; it is answered as malformed.
            logger.error("order %s can't be read any more: %s", entry.key[0], error,
                         extra={"event": "agent_order_unreadable", "request": entry.key[0]})
            return None

    def _examine_again(self, work: _Work) -> _Answer | None:
        """As :meth:`_examine`, but what has begun already was allowed when it did.

        Nothing is cleared away: a shell that the last life has started may be about to begin.
        """
        assert work.entry is not None
        folder = self._folder(work.order.key)
        if not Run(folder, 0).has_begun():
            return self._examine(work)
        try:
            plan = read_plan(work.order.data)
        except InvalidDocument as error:  # its line is damaged, or a newer version has begun it
            return FAILED, _refusal(Outcome.FAILED, f"it can't be read any more: {error}")
        bare = set(work.entry.facts.get("bare", ()))
        commands = [each.without_shell() if number in bare else each for number, each in enumerate(plan.commands)]
        for number, command in enumerate(plan.commands):
            if not Run(folder, number).has_begun():
                try:
                    commands[number] = self._rights.examine(command)
                except NotAllowed as error:
                    work.forbidden[number] = str(error)
        work.plan = Plan(commands=tuple(commands), is_sequence=plan.is_sequence, timeout=plan.timeout)
        return None

    async def _work(self, work: _Work) -> None:
        if work.turn is not None and not await work.turn:
            await self._conclude(work, _never_started("it was canceled before it began"), None)
        else:
            answer, output = await self._carry_out(work)
            await self._conclude(work, answer, output)

    async def _carry_out(self, work: _Work) -> tuple[_Answer | None, Output | None]:
        """The output of what could be carried out, else the answer at once."""
        try:
            return None, await self._execute(work)
        except Exception as error:
            return self._failure(work.order, error), None
        finally:
            self._places.leave()

    def _failure(self, order: Order, error: Exception) -> _Answer:
        logger.error("order %s failed", order.id, exc_info=error,
                     extra={"event": "agent_order_failed", "request": order.id})
        return FAILED, _refusal(Outcome.FAILED, f"the agent failed: {error!r:.500}")

    async def _execute(self, work: _Work) -> Output:
        entry, plan = work.entry, work.plan
        assert entry is not None and plan is not None
        is_doubtful = entry.facts.get("boot") != boot_id() and not entry.facts.get("waiting")
        if entry.facts.get("waiting"):
            # From here on it may have begun, whatever comes.
            await _insist(lambda: self._memory.note(entry, boot=boot_id(), waiting=False))
        work.execution = Execution(
            plan,
            self._folder(work.order.key),
            self._around,
            tell=lambda output: self._tell(work.order, output),
            note=lambda why: self._note(work, why),
            progress=lambda command: self._report(work, command),
            stop=work.stop,
            forbidden=work.forbidden,
            is_doubtful=is_doubtful,
        )
        return await work.execution.run()

    async def _stop(self, work: _Work, why: Stop) -> None:
        # Durable before it is acknowledged: the next life has to go on with it.
        await self._note(work, why)
        work.end(why)

    async def _note(self, work: _Work, why: Stop) -> None:
        if work.entry is None or "stop" in work.entry.facts or why is Stop.CLOSE:
            return
        try:
            await self._memory.note(work.entry, stop=why.value)
        except FileUnavailable as error:
            logger.warning("order %s: its stop can't be noted: %s", work.order.id, error,
                           extra={"event": "agent_stop_not_noted", "request": work.order.id})

    # ------------------------------------------------------------------------------------------------- saying

    async def _conclude(self, work: _Work, answer: _Answer | None, output: Output | None) -> None:
        """Remember the answer and give it, and tell the rest of the output before.

        :param answer: that of the execution, when there is none.
        """
        order = work.order
        async with self._saving:
            answer = answer or await self._answer(work, output)
            entry, code = await self._save(order, answer), answer[0]
        if entry is not None:
            # It is read again when somebody takes it: many may wait for a broker that is away.
            del answer
            self._works.pop(order.key, None)
        if output is not None:
            await self._tell_all(order, output, code)
        if work.report is not None:
            await asyncio.wait([work.report])
        if entry is not None:
            await self._give(entry, work.reply)
            return
        await self._publish(order, work.reply, *answer)
        await _insist(lambda: self._memory.done(order, *answer))
        self._works.pop(order.key, None)
        await self._leave_behind(order.key)

    async def _answer(self, work: _Work, output: Output | None) -> _Answer:
        assert work.execution is not None and output is not None
        try:
            return await work.execution.answer(output)
        except Exception as error:
            return self._failure(work.order, error)

    async def _save(self, order: Order, answer: _Answer) -> Entry | None:
        try:
            return await self._memory.done(order, *answer)
        except FileUnavailable as error:
            # It is given all the same: the command has run, and who waits should know.
            logger.warning("order %s: its answer can't be noted: %s", order.id, error,
                           extra={"event": "agent_answer_not_saved", "request": order.id})
            return None

    async def _give(self, entry: Entry, reply: Reply) -> None:
        """Give a remembered answer."""
        assert entry.code is not None
        async with self._giving:
            await self._publish(entry.order(), reply, entry.code, await self._memory.data(entry))
        await self._leave_behind(entry.key)

    async def _give_canceled(self, entry: Entry, reply: Reply) -> None:
        """Answer a cancel that came too late."""
        data = await self._memory.data(entry)
        data = data if isinstance(data, dict) else {}
        kept = {Outcome.KILLED.value, Outcome.NEVER_STARTED.value}
        outcome = data.get("outcome", Outcome.NOT_ALLOWED.value)
        if outcome == Outcome.NOT_ALLOWED.value:
            outcome = Outcome.NEVER_STARTED.value
        outcome = outcome if outcome in kept else Outcome.DONE.value
        answer = {**data, "outcome": outcome, "after": data.get("duration", 0.0)}
        await self._publish(entry.order(), reply, CANCELED, answer)

    async def _deliver_late(self, entry: Entry, reply: Reply) -> None:
        """Give an answer that an earlier life could not, and the output before it."""
        folder = self._folder(entry.key)
        if await self._in_thread(folder.exists):
            output = await self._in_thread(Output, folder, 1, self._around.limits)
            await self._tell_all(entry.order(), output, entry.code or FAILED)
        await self._give(entry, reply)

    async def _leave_behind(self, key: Key) -> None:
        self._memory.delivered(key)
        await self._in_thread(_clear_away, self._folder(key))

    async def _publish(self, order: Order, reply: Reply, code: int, data: Any) -> None:
        delay = RETRY
        while True:
            try:
                await reply(code, data)
                return
            except Exception as error:
                logger.warning("order %s: its answer can't be sent: %r", order.id, error,
                               extra={"event": "agent_answer_not_published", "request": order.id})
            await asyncio.sleep(delay)
            delay = min(MAX_RETRY, 2 * delay)

    def _report(self, work: _Work, command: int) -> None:
        work.command = command
        # A report that is not out yet is enough: more of them would only gather.
        if work.report is None or work.report.done():
            work.report = self._say(work.order, work.reply, PROGRESS, work.progress)

    def _say(self, order: Order, reply: Reply, code: int, data: Any) -> asyncio.Task[None]:
        """Say what need not be remembered, once."""

        async def say() -> None:
            await reply(code, data)

        return self._spawn(say(), f"answer {order.id}")

    async def _tell(self, order: Order, output: Output) -> bool:
        """Tell what output there is; whether that is all for now."""
        while True:
            async with self._telling:
                if not self._is_clear():
                    return False
                # No name holds them: a hundred orders wait here for their next ones.
                if self._emit_all(order, await self._in_thread(output.next, BATCH)) < BATCH:
                    return True

    async def _tell_all(self, order: Order, output: Output, code: int) -> None:
        delay = CLEAR_TIME
        while not await self._tell(order, output):
            delay = min(MAX_CLEAR_TIME, delay * 1.5) if not self._is_clear() else CLEAR_TIME
            await asyncio.sleep(delay)
        self._emit_all(order, await self._in_thread(output.close, code))

    def _emit_all(self, order: Order, chunks: list[Chunk]) -> int:
        for chunk in chunks:
            try:
                self._emit(order, chunk)
            except Exception:
                logger.exception("order %s: its output can't be told", order.id,
                                 extra={"event": "agent_output_failed", "request": order.id})
        return len(chunks)

    # ------------------------------------------------------------------------------------------------- basics

    def _folder(self, key: Key) -> Path:
        return self._runs / _name(key)

    def _spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine, name=f"agent {name}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("%s failed: %r", task.get_name(), error, exc_info=error, extra={"event": "agent_task_failed"})

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._files, function, *arguments)


async def _insist(write: Callable[[], Awaitable[Any]]) -> None:
    """Try again until it is on disk."""
    delay = RETRY
    while True:
        try:
            await write()
            return
        except FileUnavailable as error:
            logger.warning("the memory of orders can't be written: %s", error,
                           extra={"event": "agent_memory_unavailable"})
        await asyncio.sleep(delay)
        delay = min(MAX_RETRY, 2 * delay)


def _refusal(outcome: Outcome, message: str) -> dict[str, Any]:
    """The answer of an order of which nothing has run."""
    return {
        "outcome": outcome.value,
        "exitCode": None,
        "signal": None,
        "duration": 0.0,
        "stdout": "",
        "stderr": "",
        "outputBytes": 0,
        "cutBytes": 0,
        "message": message,
    }


def _never_started(message: str) -> _Answer:
    return CANCELED, {**_refusal(Outcome.NEVER_STARTED, message), "after": 0.0}


def _bare(work: _Work) -> list[int]:
    """Which commands a list of patterns lets run without a shell alone."""
    if work.plan is None:
        return []
    asked = read_plan(work.order.data).commands
    return [number for number, command in enumerate(work.plan.commands) if command.line != asked[number].line]


def _path(resource: str) -> str:
    return resource.partition("?")[0]


def _name(key: Key) -> str:
    return f"{key[0]}-{hashlib.sha256(key[1].encode('utf-8', 'replace')).hexdigest()[:16]}"


def _clear_away(folder: Path) -> None:
    gone = folder.with_name(folder.name + ".gone")
    try:
        # At once, or the next life may find a half of it, and tell something else by the same numbers.
        folder.rename(gone)
    except FileNotFoundError:
        return
    except OSError:
        gone = folder
    for path in gone.glob("*.std*"):
        # The shell of a command that has left something in the background keeps it open.
        with suppress(OSError):
            os.truncate(path, 0)
    shutil.rmtree(gone, ignore_errors=True)


def _tidy(runs: Path, needed: set[str]) -> None:
    runs.mkdir(mode=0o700, parents=True, exist_ok=True)
    for folder in runs.iterdir():
        if folder.name not in needed:
            shutil.rmtree(folder, ignore_errors=True)
