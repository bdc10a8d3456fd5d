"""``python -m puppetmaster``."""

from puppetmaster.cli import main

if __name__ == "__main__":
    main()
