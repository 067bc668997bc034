"""What a command's exit code says."""

DONE = 0
FAILED = 1
USAGE = 2
BAD_SETTINGS = 78
"""EX_CONFIG of sysexits(3): a service manager must not restart what cannot start (RestartPreventExitStatus)."""
