"""What the installer says where it cannot work. It changes nothing there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.e2e.service.installer import Tree
from tests.paths import REPOSITORY


def call(command: str, stubs: Path, **programs: str) -> subprocess.CompletedProcess[str]:
    """Run a shell command in the checkout with programs of ours before the system's."""
    stubs.mkdir(exist_ok=True)
    for name, body in programs.items():
        (stubs / name).write_text(f"#!/bin/sh\n{body}\n")
        (stubs / name).chmod(0o755)
    environ = {"PATH": f"{stubs}:{os.environ['PATH']}", "HOME": str(stubs)}
    return subprocess.run(
        ["bash", "-c", command], cwd=REPOSITORY, env=environ, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("programs", "words"),
    [
        ({"uname": "echo armv7l"}, "armv7l is not supported: there are wheels for x86_64 and aarch64 alone"),
        ({"getconf": "exit 1"}, "this system has no glibc"),
        ({"getconf": "echo glibc 2.27"}, "glibc 2.27 is too old"),
    ],
)
def test_a_device_that_the_wheels_are_not_for(tmp_path: Path, programs: dict[str, str], words: str) -> None:
    """Before root is asked for."""
    done = call("scripts/install", tmp_path / "stubs", **programs)
    assert done.returncode == 1
    assert words in done.stderr


@pytest.mark.skipif(Path("/run/systemd/system").is_dir(), reason="systemd runs here: the installer would install")
@pytest.mark.skipif(os.geteuid() != 0, reason="the installer asks for root first")
def test_without_systemd(tmp_path: Path) -> None:
    """It says how to run the agent by hand."""
    done = call("scripts/install", tmp_path / "stubs")
    assert done.returncode == 1
    assert "systemd does not run here" in done.stderr
    assert not Path("/opt/edgebeat").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root is who may")
def test_without_root(tmp_path: Path) -> None:
    """It says sudo."""
    assert "needs root: sudo" in call("scripts/install", tmp_path / "stubs").stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--wheels", "--wheels needs a folder"),
        ("--sideways", "--sideways is unknown"),
        ("--purge", "--purge goes with --uninstall"),
    ],
)
def test_a_wrong_command_line(tmp_path: Path, words: str, told: str) -> None:
    """Named, before anything else."""
    done = call(f"scripts/install {words}", tmp_path / "stubs")
    assert done.returncode == 1
    assert told in done.stderr


def test_the_help_is_the_head_of_the_script(tmp_path: Path) -> None:
    """Every option is in it."""
    text = call("scripts/install --help", tmp_path / "stubs").stdout
    assert all(option in text for option in ("--wheels", "--no-start", "--upgrade", "--uninstall", "--purge"))


OLD = 'case "$*" in *version_info*) exit 1;; --version) echo Python 3.9.2;; esac'
BARE = 'case "$*" in *ensurepip*) exit 1;; esac'


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (OLD, "needs Python 3.11 or later, and python3.14 is Python 3.9.2"),
        (
            BARE,
            "cannot make virtual environments. On Debian and Ubuntu:\nedgebeat:     sudo apt-get install python3-v",
        ),
    ],
    ids=["old", "without venv"],
)
def test_a_python_that_will_not_do(tmp_path: Path, body: str, told: str) -> None:
    """With the cure."""
    names = dict.fromkeys(("python3", "python3.11", "python3.12", "python3.13", "python3.14"), body)
    done = call("source scripts/lib/setup.sh; find_python", tmp_path / "stubs", **names)
    assert done.returncode == 1
    assert told in done.stderr


@pytest.mark.parametrize("words", ["", "--arch mips", "--arch x86_64 --python three"])
def test_a_bundle_for_what_there_is_not(tmp_path: Path, words: str) -> None:
    """Its usage."""
    done = call(f"scripts/bundle {words}", tmp_path / "stubs")
    assert done.returncode == 1
    assert "usage: scripts/bundle --arch aarch64|x86_64" in done.stderr


def test_without_a_network_the_version_that_runs_goes_on(tmp_path: Path) -> None:
    """What pip said, what would help, and nothing half-made is left."""
    tree = Tree(tmp_path)
    assert tree.call().returncode == 0
    (tree.root / "opt/edgebeat/versions/offline").touch()
    done = tree.call("--upgrade")
    assert done.returncode == 1
    assert "No matching distribution found" in done.stderr
    assert "this needs the network, or a bundle: scripts/bundle makes one on another machine" in done.stderr
    (tree.root / "opt/edgebeat/versions/offline").unlink()
    assert [path.name for path in tree.versions()] == [tree.check()]


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("source scripts/lib/build.sh; build_wheel", "it needs the network, or a bundle in its place"),
        ('cd "$HOME"; cp "$OLDPWD"/{pyproject.toml,constraints.txt} .; ensure_venv', "is it there?"),
    ],
    ids=["wheel", "checkout"],
)
def test_a_checkout_without_a_network(tmp_path: Path, command: str, told: str) -> None:
    """What failed, and what would help."""
    body = """case "$*" in
        -c*print*) echo "$0" ;;
        "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
        "-m pip "*) echo no route to host >&2; exit 1 ;;
    esac"""
    done = call(f"source scripts/lib/setup.sh; {command} {tmp_path}/out", tmp_path / "stubs", python3=body)
    assert done.returncode == 1
    assert "no route to host" in done.stderr
    assert told in done.stderr
