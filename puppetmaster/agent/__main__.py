"""``python -m puppetmaster.agent``: what ``puppetmaster agent`` runs, without the command line's libraries."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from puppetmaster.agent.options import read_options
from puppetmaster.errors import PuppetmasterError, SettingsError


def main(words: Sequence[str]) -> int:
    """Run the agent with its flags; returns the exit code of the process."""
    try:
        settings = read_options(words)
        # Imported here so that --help and what is wrong come at once.
        from puppetmaster.agent.process import run

        return run(settings)
    except SettingsError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 2
    except PuppetmasterError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
