"""``puppetmaster agent``: the device's side, in a process of its own that has loaded no more than it needs."""

from __future__ import annotations

import os
import sys

import typer

from puppetmaster.agent.options import read_options
from puppetmaster.cli.outcome import reported

PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
"""What typer has to be told so that all flags, ``--help`` too, come to the agent's own parser."""


def agent(context: typer.Context) -> None:
    """Run the agent on a device: it runs commands, where that is allowed, and speaks for the device's controller."""
    with reported():
        read_options(context.args)  # what is wrong is said before anything is loaded
    # This process has the command line's libraries in its memory; an agent is to be small.
    os.execv(sys.executable, [sys.executable, "-m", "puppetmaster.agent", *context.args])
