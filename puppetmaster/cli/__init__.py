"""The command line. It talks to a running puppetmaster over the bus, like any other client."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; the process ends with its exit status."""
    try:
        # Imported here so that a Ctrl-C while it loads is no traceback either.
        from puppetmaster.cli.app import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)
