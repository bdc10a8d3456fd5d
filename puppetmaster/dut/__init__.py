"""dutserver: accounts, events, and tasks for agents that poll; what it says over HTTP is in ``edges/http/dut``."""
