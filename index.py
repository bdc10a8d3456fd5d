"""The bundle's entry point, as the controller's bootstrap starts it: ``python index.py``."""

import os
import sys
from pathlib import Path

from puppetmaster.cli import main

if __name__ == "__main__":
    # The bootstrap starts a bundle in its own folder; by hand it may be started from anywhere.
    os.chdir(Path(__file__).resolve().parent)
    sys.argv[1:1] = ["serve", "--plain"]
    main()
