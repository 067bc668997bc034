"""The agent as a service: the fast part here, the whole life under a real systemd in `scripts/test_service`."""
