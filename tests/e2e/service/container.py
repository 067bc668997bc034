"""A Debian with a systemd of its own, booted by systemd-nspawn on a copy of a root made by debootstrap."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.broker import wait_until

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

MISSING = [
    *([] if os.geteuid() == 0 else ["root"]),
    *(name for name in ("systemd-nspawn", "nsenter", "mount") if shutil.which(name, path=PATH) is None),
]
"""What keeps a container from being started here."""


class Container:
    """Boots in a second; network, processes and files are its own, and gone at its end.

    The root stays as it is: what the container writes goes into a layer above it.

    Args:
        root: made by debootstrap, with systemd and dbus.
        folder: for that layer; on a real disk, since versions take 350 MB each.
        shared: a folder that stands as /shared inside.
    """

    def __init__(self, root: Path, folder: Path, shared: Path) -> None:
        self.root = folder / "merged"
        for name in ("upper", "work", "merged"):
            (folder / name).mkdir(parents=True)
        layers = f"lowerdir={root},upperdir={folder / 'upper'},workdir={folder / 'work'}"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, self.root], check=True)
        self._log = (folder / "console.log").open("wb")
        self._process = subprocess.Popen(
            [
                *("systemd-nspawn", "--quiet", "--directory", str(self.root), "--private-network"),
                *("--register=no", "--keep-unit", "--console=pipe", f"--bind-ro={shared}:/shared", "--boot"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        wait_until(lambda: self._leader() is not None, "the container's first process")
        wait_until(lambda: self.call("systemctl", "is-system-running").strip() == "running", "its systemd", 60)

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *exc: object) -> None:
        self.call("systemctl", "poweroff")
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        subprocess.run(["umount", self.root], check=False)

    def _leader(self) -> str | None:
        process = self._process.pid
        assert self._process.poll() is None, "systemd-nspawn ended"
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        return children[0] if children else None

    def command(self, *words: str) -> list[str]:
        """Return what runs a program inside."""
        leader = self._leader()
        assert leader is not None
        inside = ["nsenter", "--target", leader, "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"]
        return ["env", "-i", f"PATH={PATH}", "LANG=C.UTF-8", *inside, *words]

    def run(self, *words: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a program inside to its end."""
        return subprocess.run(
            self.command(*words), capture_output=True, text=True, timeout=timeout_s, check=False, errors="replace"
        )

    def call(self, *words: str, timeout_s: float = 120) -> str:
        """Run a program inside and return what it printed, on both outputs."""
        done = self.run(*words, timeout_s=timeout_s)
        return done.stdout + done.stderr

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a program inside."""
        return subprocess.Popen(
            self.command(*words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def property(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.call("systemctl", "show", f"--property={name}", "--value", unit).strip()

    def journal(self, unit: str = "edgebeat") -> str:
        """Return what a unit wrote, and systemd about it."""
        return self.call("journalctl", "--no-pager", "--output=cat", f"--unit={unit}")

    def receive(self, topic: str, count: int = 1, options: Sequence[str] = ()) -> list[str]:
        """Return so many payloads of a topic, from a mosquitto inside."""
        done = self.run("mosquitto_sub", "-h", "127.0.0.1", "-t", topic, "-C", str(count), "-W", "60", *options)
        assert done.returncode == 0, (topic, done.stdout[-300:], done.stderr, self.journal()[-2000:])
        return done.stdout.splitlines()
