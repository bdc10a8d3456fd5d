"""Ways in: each parses what comes, calls the service and renders what it answers."""
