"""Where the files are that come with the agent: the default model, the clip of the demo, example settings, units."""

from __future__ import annotations

import sys
from pathlib import Path

_CHECKOUT = Path(__file__).resolve().parents[2]


def shared_folder() -> Path:
    """Return the folder that holds `config/` and `systemd/`: the checkout, or what the wheel put beside Python."""
    if (_CHECKOUT / "config/demo").is_dir():
        return _CHECKOUT
    return Path(sys.prefix) / "share/edgebeat"
