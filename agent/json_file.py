"""Small JSON files that outlive the agent: read with distrust, replaced as a whole."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.durable import replace_file

log = logging.getLogger(__name__)


def read_json(file: Path) -> dict[str, Any]:
    """Return the object of a file; one that is missing or damaged holds nothing."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        log.warning("%s: cannot be read and is ignored: %s", file, error)
        return {}
    return values if isinstance(values, dict) else {}


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    """Replace the file as a whole, so that a power cut leaves the old or the new one.

    Raises:
        OSError: nothing was replaced.
    """
    replace_file(file, json.dumps(values).encode())
