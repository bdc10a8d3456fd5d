"""The worker: registers, asks for a task, runs it, reports, and asks again."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from puppetmaster.client.errors import AnswerError, NoAnswer, NotAllowed
from puppetmaster.client.farm import FarmClient, FarmTask
from puppetmaster.errors import PuppetmasterError
from puppetmaster.policies import RetryPolicy
from puppetmaster.worker import machine
from puppetmaster.worker.commands import Commands

logger = logging.getLogger(__name__)

SECRETS = (
    "PUPPETMASTER_TOKEN",
    "PUPPETMASTER_MANAGER",
    "PUPPETMASTER_BROKER",
    "PUPPETMASTER_AGENT_BROKER",
    "PUPPETMASTER_AGENT_CONTROLLER",
)
"""What of our environment is not for the commands."""

GOODBYE_TIMEOUT = 3.0
"""Seconds to give a task back when we are told to end."""

ONCE_PATIENCE = 30.0
"""Seconds without a manager after which a worker that is to end by itself gives up."""

LATER = frozenset({408, 413, 429})
"""Refusals that are no judgement on what was asked, beside those of 500 and up."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often a worker speaks, in seconds."""

    ask: float = 2.0
    """Between two questions for a task."""
    report: float = 1.0
    """Between two reports of new output, at least."""
    heartbeat: float = 10.0
    """Between two reports, at most; the manager takes one that is silent for 60 s for gone."""

    @property
    def backoff(self) -> RetryPolicy:
        """The pauses while the manager is away: half a second at first and 15 in the end, less for who asks often."""
        first, last = min(0.5, self.ask / 4), min(15.0, self.ask * 7.5)
        return RetryPolicy(limit=1_000_000_000, delay=first, factor=2.0, max_delay=last, jitter=0.5)


class WorkerProgram:
    """A worker.

    :param once: whether it ends when there is no task for it.
    """

    def __init__(self, client: FarmClient, *, name: str, port: int = 0, pace: Pace | None = None, once: bool = False
                 ) -> None:
        self._client = client
        self._name = name
        self._port = port
        self._pace = pace or Pace()
        self._once = once
        self._patience = ONCE_PATIENCE if once else math.inf
        self._id = 0
        self._is_disabled = False
        self._told_at = float("-inf")

    async def run(self) -> None:
        """Work until cancelled; the task that is running is given back then.

        :raises PuppetmasterError: when the manager refuses us: a token that is not valid, a wrong address.
        """
        try:
            await self._run()
        except asyncio.CancelledError:
            logger.info("the worker %s has ended", self._name, extra={"event": "worker_ended", "worker": self._name})
            raise

    async def _run(self) -> None:
        await self._register()
        while True:
            task = await self._patiently(self._next_task, self._patience)
            if task is not None:
                await self._work(task)
            elif self._once:
                return
            else:
                await asyncio.sleep(self._pace.ask)

    # Asking

    async def _register(self) -> None:
        self._id = await self._patiently(
            lambda: self._client.register(self._name, self._port, machine.system()), self._patience
        )
        logger.info("worker %d of %s is %s", self._id, self._client.url, self._name,
                    extra={"event": "worker_registered", "worker": self._name})
        self._told_at = float("-inf")

    async def _next_task(self) -> FarmTask | None:
        try:
            await self._tell_of_machine()
            task = await self._client.next_task(self._id)
        except NotAllowed as error:
            if "not registered" in error.message:
                await self._register()
            elif not self._is_disabled:
                logger.info("no tasks for us: %s", error.message, extra={"event": "tasks_refused"})
                self._is_disabled = True
            return None
        if self._is_disabled:
            logger.info("there may be tasks for us again", extra={"event": "tasks_allowed"})
            self._is_disabled = False
        return task

    async def _tell_of_machine(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._told_at + 3 * self._pace.heartbeat:
            return
        try:
            await self._client.tell(self._id, machine.describe())
        except AnswerError as error:
            if error.code != 404:
                raise
            await self._register()
        self._told_at = now

    # Working

    async def _work(self, task: FarmTask) -> None:
        logger.info("task %d of %d: %s", task.id, task.job, " ".join(task.commands[0])[:200],
                    extra={"event": "task_begun", "task": task.id, "job": task.job})
        commands = Commands(task.commands, _environment(task))
        try:
            why = await self._report_until_end(task, commands)
            if why is not None:
                await commands.stop()
                logger.info("stopped task %d: %s", task.id, why, extra={"event": "task_stopped", "task": task.id})
                return
            await self._report_end(task, commands)
        except asyncio.CancelledError:
            await commands.stop()
            await self._give_back(task, commands)
            raise

    async def _report_until_end(self, task: FarmTask, commands: Commands) -> str | None:
        """Report while they run; returns why they have to stop, if they have to."""
        while True:
            try:
                await self._report(task, commands, status="rendering")
            except NotAllowed as error:
                return error.message
            except PuppetmasterError as error:
                if _is_final(error):
                    return str(error)
                logger.warning("task %d goes on, nobody takes its reports: %s", task.id, error,
                               extra={"event": "task_unreported", "task": task.id})
            if await self._wait(commands):
                return None

    async def _wait(self, commands: Commands) -> bool:
        """Wait until there is something to report; whether it is the end."""
        await asyncio.wait({commands.task}, timeout=self._pace.report)
        if not commands.task.done():
            news = asyncio.create_task(commands.news.wait(), name="commands-news")
            rest = max(0.0, self._pace.heartbeat - self._pace.report)
            await asyncio.wait({commands.task, news}, timeout=rest, return_when=asyncio.FIRST_COMPLETED)
            news.cancel()
        commands.news.clear()
        return commands.task.done()

    async def _report_end(self, task: FarmTask, commands: Commands) -> None:
        ending = commands.task.result()
        if ending.is_success:
            logger.info("task %d is done, in %.1f s", task.id, commands.seconds,
                        extra={"event": "task_done", "task": task.id, "seconds": commands.seconds})
            fields: dict[str, Any] = {"status": "finished"}
        else:
            logger.info("task %d failed: it %s", task.id, ending.message,
                        extra={"event": "task_failed", "task": task.id})
            fields = {"status": "failed", "message": ending.message}
        try:
            await self._patiently(lambda: self._report(task, commands, **fields))
        except NotAllowed as error:
            logger.info("nobody waited for task %d: %s", task.id, error.message,
                        extra={"event": "task_unwanted", "task": task.id})
        except AnswerError as error:
            logger.error("what task %d came to was refused: %s", task.id, error,
                         extra={"event": "task_refused", "task": task.id})

    async def _give_back(self, task: FarmTask, commands: Commands) -> None:
        try:
            await self._report(task, commands, timeout=GOODBYE_TIMEOUT, status="aborted")
            logger.info("gave task %d back", task.id, extra={"event": "task_returned", "task": task.id})
        except PuppetmasterError as error:
            logger.warning("task %d could not be given back: %s", task.id, error,
                           extra={"event": "task_not_returned", "task": task.id})

    async def _report(
        self, task: FarmTask, commands: Commands, *, timeout: float = 30.0, **fields: Any
    ) -> None:
        output, mark = commands.output.unsent, commands.output.mark
        told = {**fields, "time_cost": int(commands.seconds), "output": output}
        await self._client.report(self._id, task.id, told, timeout)
        commands.output.sent(mark)

    # Patience

    async def _patiently(self, ask: Callable[[], Awaitable[T]], patience: float = math.inf) -> T:
        """Ask until there is an answer, however long the manager is away; it is said once that it is.

        :param patience: seconds after which it is given up all the same.
        """
        attempt, now = 0, asyncio.get_running_loop().time
        give_up = now() + patience
        while True:
            try:
                answer = await ask()
            except PuppetmasterError as error:
                if _is_final(error) or now() >= give_up:
                    raise
                level = logging.DEBUG if attempt else logging.WARNING
                logger.log(level, "%s; asking again until there is one", error, extra={"event": "manager_away"})
                attempt += 1
                delay = self._pace.backoff.next_delay(attempt, random.random()) or 0.0
                await asyncio.sleep(min(delay, max(0.0, give_up - now())))
            else:
                if attempt:
                    logger.info("%s answers again", self._client.url, extra={"event": "manager_back"})
                return answer


def _is_final(error: PuppetmasterError) -> bool:
    """Whether asking again is of no use."""
    if isinstance(error, AnswerError):
        return error.code < 500 and error.code not in LATER
    return not isinstance(error, NoAnswer) or error.lasting


def _environment(task: FarmTask) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in SECRETS}
    return {**kept, "PUPPETMASTER_TASK": str(task.job), "PUPPETMASTER_CHUNK": str(task.id)}
