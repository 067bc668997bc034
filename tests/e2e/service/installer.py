"""The installer itself, in a tree of its own, with programs of ours in the place of Python, pip and systemd."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.paths import REPOSITORY

PYTHON = """#!/bin/bash
# Stands for python3: makes an environment whose pip places the files of a version.
top="$(dirname "$(dirname "$0")")"
case "$*" in
    -c*print*) echo "$0" ;;
    --version) echo Python 3.11.2 ;;
    "-m venv "*)
        mkdir -p "$3/bin"
        cp "$0" "$3/bin/python"
        ;;
    "-m pip install"*)
        [[ ! -e "$(dirname "$top")/offline" ]] || { echo "ERROR: No matching distribution found" >&2; exit 1; }
        mkdir -p "$top/share/edgebeat/systemd"
        for unit in edgebeat.service edgebeat@.service 60-edgebeat.rules; do
            echo "$unit of $(basename "$top")" >"$top/share/edgebeat/systemd/$unit"
        done
        printf '#!/bin/sh\\necho edgebeat\\n' >"$top/bin/edgebeat"
        chmod +x "$top/bin/edgebeat"
        ;;
esac
"""
SYSTEMCTL = """#!/bin/bash
case "$1" in
    --version) echo "systemd 252 (252)" ;;
    show) echo 0 ;;
esac
"""
DATE = """#!/bin/bash
echo x >>"$(dirname "$0")/calls"
printf '%06d\\n' "$(wc -l <"$(dirname "$0")/calls")"
"""
NOTHING = "#!/bin/sh\n"
HARNESS = """
set -euo pipefail
source "$0"
check_device() { mkdir -p "$TOP/versions"; }
step=0
cut() { ((step++ != $1)) || kill -KILL -- -$$; }
set -T
trap "cut $1" DEBUG
main "${@:2}"
"""


class Tree:
    """A root folder with an installed version, and the installer changed to work in it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.scripts = folder / "scripts"
        self.programs = folder / "programs"
        (folder / "wheels").mkdir()
        (folder / "wheels/edgebeat-1.0-py3-none-any.whl").touch()
        self._wheels = folder / "wheels"
        (folder / "constraints.txt").touch()
        shutil.copytree(REPOSITORY / "scripts/lib", self.scripts / "lib")
        for name in ("install", "lib/service.sh"):
            text = (REPOSITORY / "scripts" / name).read_text()
            for place in ("/opt/", "/etc/", "/usr/local/"):
                text = text.replace(place, f"{self.root}{place}")
            (self.scripts / name).write_text(text.removesuffix('main "$@"\nexit\n'))
        for place in ("opt", "etc/systemd/system", "etc/udev/rules.d", "etc/edgebeat", "usr/local/bin"):
            (self.root / place).mkdir(parents=True)
        (self.root / "etc/edgebeat/agent.toml").write_text("settings")
        self.programs.mkdir()
        for name, body in {
            "python3": PYTHON,
            "systemctl": SYSTEMCTL,
            "date": DATE,
            "udevadm": NOTHING,
            "sync": NOTHING,
        }.items():
            (self.programs / name).write_text(body)
            (self.programs / name).chmod(0o755)

    def call(self, *words: str, cut_at: int = -1) -> subprocess.CompletedProcess[str]:
        """Run the installer; the power fails before a command with this number."""
        environ = {"PATH": f"{self.programs}:{os.environ['PATH']}", "SETTLE_S": "0"}
        command = ["bash", "-c", HARNESS, str(self.scripts / "install"), str(cut_at), *words]
        return subprocess.run(
            [*command, "--wheels", str(self._wheels)],
            env=environ,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def check(self) -> str:
        """Check that a version is in use, whole, with whole units; return its name."""
        current = (self.root / "opt/edgebeat/current").resolve(strict=True)
        assert (current / ".complete").exists()
        command = self.root / "usr/local/bin/edgebeat"
        assert subprocess.run([command], capture_output=True, text=True, check=True).stdout == "edgebeat\n"
        versions = {path.name for path in self.versions()}
        for unit in ("edgebeat.service", "edgebeat@.service"):
            name, _, version = (self.root / "etc/systemd/system" / unit).read_text().strip().partition(" of ")
            assert name == unit
            assert version in versions
        assert (self.root / "etc/edgebeat/agent.toml").read_text() == "settings"
        return current.name

    def versions(self) -> list[Path]:
        """Return the folders of all versions, the newest last."""
        return sorted((self.root / "opt/edgebeat/versions").iterdir())
