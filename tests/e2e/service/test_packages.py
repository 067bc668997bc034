"""The source archive and the wheel that is made of it install and run without the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from agent import __version__
from tests.paths import CLIP_FRAMES, REPOSITORY

pytestmark = pytest.mark.timeout(600)

BUILD = """
import sys
from setuptools import build_meta
print(getattr(build_meta, "build_" + sys.argv[1])(sys.argv[2]))
"""


def call(*command: str | Path, cwd: Path) -> str:
    """Run a program to its end and return what it printed."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("EDGEBEAT_", "PYTHON"))}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environ,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Build the source archive from what git knows, and the wheel from what is in the archive alone."""
    folder = tmp_path_factory.mktemp("packages")
    source, builder = folder / "source", folder / "builder"
    source.mkdir()
    files = call("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=REPOSITORY).split("\0")
    with tarfile.open(folder / "checkout.tar", "w") as tar:
        for name in filter(None, files):
            if (REPOSITORY / name).is_file():
                tar.add(REPOSITORY / name, name)
    with tarfile.open(folder / "checkout.tar") as tar:
        tar.extractall(source, filter="data")
    call(sys.executable, "-m", "venv", builder, cwd=folder)
    python = builder / "bin/python"
    try:
        call(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "setuptools>=77", cwd=folder)
    except AssertionError as error:
        pytest.skip(f"setuptools cannot be installed without a network: {str(error)[-200:]}")
    sdist = folder / call(python, "-c", BUILD, "sdist", folder, cwd=source).splitlines()[-1]
    with tarfile.open(sdist) as tar:
        tar.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return sdist, folder / call(python, "-c", BUILD, "wheel", folder, cwd=unpacked).splitlines()[-1]


def test_the_wheel_holds_what_runs_need_and_nothing_else(archives: tuple[Path, Path]) -> None:
    """Model, clip, example settings, units and installer; no tests, no tools."""
    with zipfile.ZipFile(archives[1]) as wheel:
        names = {name.partition("/data/")[2] or name for name in wheel.namelist()}
    shared = "share/edgebeat/"
    assert names >= {
        f"{shared}config/agent.toml",
        f"{shared}config/demo/clip.mp4",
        f"{shared}config/models/coco-ssd/model.onnx",
        f"{shared}config/models/coco-ssd/golden.json",
        f"{shared}config/mosquitto/edgebeat.acl",
        f"{shared}constraints.txt",
        f"{shared}scripts/install",
        f"{shared}scripts/lib/service.sh",
        f"{shared}systemd/edgebeat.service",
        f"{shared}systemd/edgebeat@.service",
        f"{shared}systemd/60-edgebeat.rules",
        f"{shared}systemd/drop-ins/notify-reload.conf",
        "agent/py.typed",
    }
    folders = {name.partition("/")[0] for name in names}
    assert folders == {"agent", "share", f"edgebeat-{__version__}.dist-info"}


def test_it_runs_without_the_checkout(archives: tuple[Path, Path], tmp_path: Path) -> None:
    """Installed into an environment of its own, which borrows the dependencies of this one: it predicts."""
    call(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv/bin/python"
    place = call(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])", cwd=tmp_path).strip()
    (Path(place) / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "-q", "--disable-pip-version-check")
    call(*pip, "--no-deps", "--no-index", "--ignore-installed", archives[1], cwd=tmp_path)
    where = call(python, "-c", "import agent; print(agent.__file__)", cwd=tmp_path)
    assert where.startswith(place)
    command, shared = tmp_path / "venv/bin/edgebeat", tmp_path / "venv/share/edgebeat"
    # Every frame of the clip, however slow the machine is.
    model, clip = shared / "config/models/coco-ssd", shared / "config/demo/clip.mp4"
    printed = call(command, "run", "--model", model, "--source", clip, "--output", "stdout", cwd=tmp_path)
    ledger = json.loads(printed.splitlines()[-1])["streams"]["stream"]["ledger"]
    assert ledger["published"] == ledger["captured"] == CLIP_FRAMES
    demo = call(
        python,
        "-c",
        "from agent.cli.demo import DEMO as d; f = d / 'agent.toml'; print(f, f.is_file())",
        cwd=tmp_path,
    )
    assert demo.split() == [str(shared / "config/demo/agent.toml"), "True"]
    call(command, "check", "--load", "--config", shared / "config/demo/agent.toml", cwd=shared)
