"""The generated pages are current, and the repository keeps its own rules."""

from __future__ import annotations

import subprocess

from agent.cli.load import load_settings
from tests.paths import REPOSITORY
from tools.settings_reference import manifest_page, settings_page


def test_the_reference_pages_are_current() -> None:
    """`python -m tools.settings_reference` writes them anew."""
    assert (REPOSITORY / "docs/settings.md").read_text() == settings_page()
    assert (REPOSITORY / "docs/model-toml.md").read_text() == manifest_page()


def test_every_setting_is_explained() -> None:
    """No row without its text."""
    for page in (settings_page(), manifest_page()):
        assert "|  |" not in page


def test_the_example_settings_are_valid() -> None:
    """What people copy must work."""
    for name in ("config/agent.toml", "config/demo/agent.toml"):
        assert load_settings(REPOSITORY / name, {}, {}).settings.streams


def test_no_file_names_a_machine() -> None:
    """No path of somebody's machine and no registry's host in what is committed."""
    patterns = "/work" + "/|/home/[a-z]|pypi" + r"\.org|registry" + r"\.npmjs"
    command = ["git", "grep", "-nE", patterns, "--", ".", ":!*.onnx"]
    found = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode in (1, 128), found.stdout  # 1: nothing found; 128: not a git checkout.
