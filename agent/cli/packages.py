"""Packages that only some commands need."""

from __future__ import annotations

import importlib.util

from agent.errors import ConfigError


def need_packages(command: str, *packages: str) -> None:
    """Refuse a model command whose packages are not installed.

    Raises:
        ConfigError: names what is missing and how to install it.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"edgebeat model {command} needs {' and '.join(missing)}, which a device does not: "
            "pip install 'edgebeat[tools]'"
        )
