"""The command line. It talks to a running puppetmaster over the bus, like any other client."""

import sys
from collections.abc import Sequence
from typing import NoReturn

__all__ = ["main"]


def main() -> None:
    """Run the command line; the process ends with its exit status."""
    try:
        if sys.argv[1:2] == ["agent"] and not {"-h", "--help"} & set(sys.argv):
            _run_agent(sys.argv[2:])
        # Imported here so that a Ctrl-C while it loads is no traceback either.
        from puppetmaster.cli.app import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


def _run_agent(words: Sequence[str]) -> NoReturn:
    """Run the agent in this process: an agent is to be small and to start soon, and needs no library of ours."""
    from puppetmaster.agent.__main__ import main as run
    from puppetmaster.cli.processes import end_with_parent

    end_with_parent()
    sys.exit(run(words))
