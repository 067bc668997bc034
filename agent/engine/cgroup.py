"""Where this process's cgroup is: folders of one controller, for versions 1 and 2."""

from __future__ import annotations

from pathlib import Path

from agent.kernel_file import read_kernel_file


def cgroup_folders(root: Path, controller: str) -> list[Path]:
    """Return the folders of this process's cgroup, from its own up to the mount, for v1 and v2.

    Args:
        root: where /proc and /sys are.
        controller: `cpu` or `memory`; version 2 has one tree for all.
    """
    folders = []
    for line in read_kernel_file(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        mounts = ["sys/fs/cgroup"]
        if controllers:
            mounts = list(dict.fromkeys(f"sys/fs/cgroup/{name}" for name in (controller, controllers)))
        for mount in mounts:
            folder = root / mount / path.lstrip("/")
            # In a container the path may name the host's tree while the mount starts at ours.
            folders += [folder, *(parent for parent in folder.parents if parent.is_relative_to(root / mount))]
    return list(dict.fromkeys(folders))


def read_words(file: Path, count: int) -> list[int | None]:
    """Return the first integers of a file; None for each that is absent or not a number ("max")."""
    words = read_kernel_file(file).split()[:count]
    numbers = [int(word) if word.lstrip("-").isdigit() else None for word in words]
    return numbers + [None] * (count - len(numbers))
