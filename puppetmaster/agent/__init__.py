"""The agent on a device: it takes requests, runs commands, and hands the rest to the Sanji controller there."""
