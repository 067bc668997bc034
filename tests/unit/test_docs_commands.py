"""The commands of the operator's pages, and their table of events."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from agent.__main__ import parser_for, run_command
from tests.paths import REPOSITORY

PAGES = [REPOSITORY / "docs" / name for name in ("install.md", "operations.md", "security.md")]


def commands() -> list[tuple[str, list[str]]]:
    """Return each `$ command` of a console block, without sudo, and its page."""
    found = []
    for page in PAGES:
        for block in re.findall(r"^ *```console\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE):
            for line in re.findall(r"^ *\$ (?:sudo )?(.*)$", block, re.MULTILINE):
                found.append((page.name, shlex.split(line)))  # noqa: PERF401  Two loops read better.
    return found


def test_there_are_commands() -> None:
    """The pattern finds what people would copy."""
    assert len(commands()) > 15
    assert {words[0] for _, words in commands()} >= {"edgebeat", "scripts/install", "scripts/bundle", "systemctl"}


@pytest.mark.parametrize("words", [words for _, words in commands() if words[0] == "edgebeat"], ids=shlex.join)
def test_every_edgebeat_command_is_one(words: list[str]) -> None:
    """Its arguments are known."""
    assert parser_for(words[1:]).parse_args(words[1:]).command == words[1]


def test_the_commands_that_look_at_settings_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the example in the place of the service's file."""
    here = {"/etc/edgebeat/agent.toml": str(REPOSITORY / "config/agent.toml")}
    ran = 0
    for _, words in commands():
        if words[:2] == ["edgebeat", "check"] and "--load" not in words:
            assert run_command([here.get(word, word) for word in words[1:]]) == 0
            ran += 1
    assert ran
    assert "settings are valid" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [words for _, words in commands() if words[0].startswith("scripts/")], ids=shlex.join
)
def test_every_option_of_a_script_is_in_its_head(words: list[str]) -> None:
    """Scripts explain themselves in their first lines."""
    head = (REPOSITORY / words[0]).read_text().partition("set -euo pipefail")[0]
    assert all(word in head for word in words[1:] if word.startswith("--"))


def test_every_path_that_a_page_names_exists() -> None:
    """Of those in the checkout."""
    for page in PAGES:
        for name in re.findall(r"`((?:config|systemd|scripts|docs)/[\w./@-]+)`", page.read_text()):
            assert (REPOSITORY / name).exists(), f"{page.name}: {name}"


def test_systemd_says_what_the_page_says() -> None:
    """The figure in docs/security.md is that of the unit."""
    command = next(words for _, words in commands() if words[0] == "systemd-analyze")
    try:
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        pytest.skip("systemd-analyze is not installed: Debian's systemd")
    found = re.search(r"exposure level for edgebeat.service: ([\d.]+)", done.stdout)
    if found is None:
        pytest.skip(f"this systemd-analyze has no --offline: {done.stderr[:200]}")
    assert f"**{found[1]}**" in (REPOSITORY / "docs/security.md").read_text()


def test_the_failure_table_has_every_event_of_the_wire_contract() -> None:
    """An event that is added to docs/mqtt.md needs a line that says what to do: docs/operations.md, Events."""
    contract = (REPOSITORY / "docs/mqtt.md").read_text().partition("\n## events\n")[2].partition("\n## ")[0]
    table = (REPOSITORY / "docs/operations.md").read_text().partition("\n## Events\n")[2].partition("\nNo event,")[0]
    events, explained = (set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) for text in (contract, table))
    assert len(events) > 10
    assert explained == events
