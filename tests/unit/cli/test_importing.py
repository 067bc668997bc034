"""Imports in a thread beside the start."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest

from agent.cli.importing import import_meanwhile


def test_the_module_is_there_when_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And Python is as it was: how often threads take turns, and the collector."""
    (tmp_path / "slow_one.py").write_text("import time\ntime.sleep(0.05)\nVALUE = 5\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    switch_s = sys.getswitchinterval()
    imported = import_meanwhile("slow_one")
    assert imported().VALUE == 5
    assert sys.getswitchinterval() == switch_s
    assert gc.isenabled()


def test_an_import_that_fails_says_so_to_who_asks() -> None:
    """The thread has nobody to tell."""
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        import_meanwhile("no_such_module")()
