"""``python -m puppetmaster.agent``: what ``puppetmaster agent`` runs, without the command line's libraries."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from puppetmaster.address import EXPOSED
from puppetmaster.agent.options import read_options, shows_password
from puppetmaster.errors import PuppetmasterError, SettingsError
from puppetmaster.logs import is_json, start_logging

logger = logging.getLogger(__name__)


def main(words: Sequence[str]) -> int:
    """Run the agent with its flags; returns the exit code of the process."""
    try:
        settings = read_options(words)
        start_logging(settings.log)
        if shows_password(words):
            _say(EXPOSED)
        # Imported here so that --help and what is wrong come at once.
        from puppetmaster.agent.process import run

        return run(settings)
    except SettingsError as error:
        return _fail(error, 2)
    except PuppetmasterError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return 130


def _say(text: str) -> None:
    if is_json():
        logger.info("%s", text, extra={"event": "said"})
    else:
        sys.stderr.write(f"{text}\n")


def _fail(error: PuppetmasterError, code: int) -> int:
    if is_json():
        logger.critical("can't run: %s", error, extra={"event": "cannot_run"})
    else:
        sys.stderr.write(f"Error: {error}\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
