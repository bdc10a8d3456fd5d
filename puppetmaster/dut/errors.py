"""What can go wrong in the dutserver's part beyond the errors of all.

::

    NotFound
    ├── AgentNotFound     404
    └── TaskNotFound      404
    Conflict
    ├── TaskEnded         409
    ├── TooManyAgents     409
    └── TooManyPolls      429
    NoResult              504
"""

from __future__ import annotations

from puppetmaster.errors import Conflict, NotFound, PuppetmasterError


class AgentNotFound(NotFound):
    """Raised when no agent has the name."""

    noun = "agent"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.args = (f"no agent is called {name!r:.80}",)


class TaskNotFound(NotFound):
    """Raised when an agent was given no task with the id."""

    noun = "task"


class TaskEnded(Conflict):
    """Raised when a task has ended otherwise than by this result."""


class TooManyAgents(Conflict):
    """Raised when one more agent would be too many."""

    def __init__(self, most: int) -> None:
        super().__init__(f"there are {most} agents, and there can't be more")


class TooManyPolls(Conflict):
    """Raised when an agent waits for tasks over too many connections."""

    code = 429

    def __init__(self, most: int) -> None:
        super().__init__(f"an agent waits for tasks over at most {most} connections")


class NoResult(PuppetmasterError, TimeoutError):
    """Raised when no result came in the time that a caller waits; the task goes on without it."""

    code = 504

    def __init__(self, task_id: int, seconds: float) -> None:
        self.task_id = task_id
        super().__init__(
            f"no result within {seconds:g} s; task {task_id} goes on, and its result will be in /requests/{task_id}"
        )
