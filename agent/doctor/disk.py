"""The state folder and the disk under it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from agent.doctor.finding import Device, Finding, advice, ok, problem, unknown
from agent.spool.sqlite import FILE_NAME, SCHEMA_VERSION

SPARE_MB = 100
"""Beside the spool: marks, settings, SQLite's log, and what the system needs."""

WORN_TENTHS = 8
"""eMMC tells its age in tenths of its life: at 8 it should be replaced before it is due."""

_SCHEMA_AT = 60  # Of an SQLite file: user_version, 4 bytes, big endian (the file format's header).


def state(device: Device) -> list[Finding]:
    """Say whether the state folder can hold what it must."""
    if device.settings is None:
        return []
    folder, max_mb = device.settings.state.dir, device.settings.spool.max_mb
    if not folder.is_dir():
        advised = f"make {folder} (the service does), or set state.dir"
        text = f"{folder} does not exist: messages wait in memory only, and marks are lost at the end"
        return [advice("state", text, advised)]
    if not os.access(folder, os.W_OK | os.X_OK):
        advised = (
            "look at its owner and at whether the disk is mounted read-only (a worn SD card does that by itself)"
        )
        return [problem("state", f"{folder} cannot be written", advised)]
    free_mb, needed_mb = shutil.disk_usage(folder).free >> 20, max_mb + SPARE_MB
    text = f"{folder}: {free_mb} MB are free, spool.max_mb is {max_mb}"
    if free_mb < needed_mb:
        return [advice("state", text, f"free {needed_mb - free_mb} MB or lower spool.max_mb"), *_format(folder)]
    return [ok("state", text), *_format(folder)]


def _format(folder: Path) -> list[Finding]:
    try:
        with (folder / FILE_NAME).open("rb") as stream:
            header = stream.read(_SCHEMA_AT + 4)
    except FileNotFoundError:
        return []
    except OSError as error:
        return [problem("spool", f"{folder / FILE_NAME}: {error.strerror}", "look at the file's owner and the disk")]
    version = int.from_bytes(header[_SCHEMA_AT:], "big")
    if version in (0, SCHEMA_VERSION):
        return []
    text = f"{FILE_NAME} has the format {version}, and this version writes {SCHEMA_VERSION}"
    return [problem("spool", text, "a newer edgebeat wrote it: use that one, or the agent sets the file aside")]


def wear(device: Device) -> list[Finding]:
    """Say how worn eMMC is, and that SD cards do not tell."""
    found = []
    for block in sorted((device.root / "sys/block").glob("mmcblk*[0-9]")):
        place = f"sys/block/{block.name}/device"
        kind = device.text(f"{place}/type").strip()
        if kind == "SD":
            advised = "keep spool.max_mb low, mount with noatime, and have a spare"
            found.append(advice("wear", f"{block.name} is an SD card, which does not tell its wear", advised))
        tenths = [int(word, 16) for word in device.text(f"{place}/life_time").split() if word.startswith("0x")]
        if not tenths:
            continue
        text = f"{block.name}: at most {max(tenths) * 10}% of its life used"
        is_urgent = device.text(f"{place}/pre_eol_info").strip() in ("0x02", "0x03")
        if is_urgent or max(tenths) >= WORN_TENTHS:
            found.append(problem("wear", text, "replace it before it turns read-only"))
        else:
            found.append(ok("wear", text))
    return found or [unknown("wear", "no eMMC or SD card; smartctl tells of other disks")]
