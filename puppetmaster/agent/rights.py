"""What an agent may run."""

from __future__ import annotations


class Rights:
    """What may be run: nothing, what a list of patterns allows, or everything."""

    @classmethod
    def parse(cls, text: str) -> Rights:
        """Read a setting: ``off``, ``all``, ``@FILE`` with a pattern a line, or patterns between commas or newlines.

        :raises SettingsError: when the file can't be read, or a pattern can't be meant.
        """
        raise NotImplementedError

    def describe(self) -> str | list[str]:
        """What is allowed, for ``/agent/info``: ``off``, ``all`` or the patterns."""
        raise NotImplementedError
