"""``python -m puppetmaster.agent``: what ``puppetmaster agent`` becomes, without the command line's libraries."""

from __future__ import annotations

import sys

from puppetmaster.agent.options import read_options
from puppetmaster.errors import PuppetmasterError, SettingsError


def main() -> int:
    """Run the agent; returns the exit code of the process."""
    try:
        settings = read_options(sys.argv[1:])
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
    sys.exit(main())
