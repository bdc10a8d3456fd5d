"""A worker of a farm: asks a manager for tasks, runs their commands, and reports."""

from puppetmaster.worker.program import Pace, WorkerProgram

__all__ = ["Pace", "WorkerProgram"]
