"""The command line. It talks to a running puppetmaster over the bus, like any other client."""

from puppetmaster.cli.app import main

__all__ = ["main"]
