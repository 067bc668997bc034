"""Cameras: whether the agent may open them, and what they offer."""

from __future__ import annotations

import ctypes
import fcntl
import grp
import os
import stat
from collections.abc import Callable
from pathlib import Path

from agent.doctor.finding import Device, Finding, advice, ok, problem, unknown

FORMATS_MAX = 64
"""No camera has more; a driver that never ends its list is broken."""

_ENUM_FMT = 0xC0405602  # VIDIOC_ENUM_FMT of linux/videodev2.h: _IOWR('V', 2, struct v4l2_fmtdesc), 64 bytes.
_VIDEO_CAPTURE = 1
_DESCRIPTION, _FOURCC = slice(12, 44), slice(44, 48)

Formats = Callable[[Path], list[str]]


def v4l2_formats(device: Path) -> list[str]:
    """Return the formats of a V4L2 device such as `MJPG` and `YUYV`; empty for one that captures no pictures.

    Raises:
        OSError: it cannot be opened.
    """
    descriptor = os.open(device, os.O_RDWR | os.O_NONBLOCK)
    try:
        found = []
        for index in range(FORMATS_MAX):
            description = bytearray(64)
            description[0:4] = index.to_bytes(4, "little")
            description[4:8] = _VIDEO_CAPTURE.to_bytes(4, "little")
            try:
                fcntl.ioctl(descriptor, _ENUM_FMT, (ctypes.c_char * 64).from_buffer(description))
            except OSError:  # EINVAL ends the list.
                break
            found.append(description[_FOURCC].decode("ascii", "replace").strip())
        return found
    finally:
        os.close(descriptor)


def cameras(formats: Formats) -> Callable[[Device], list[Finding]]:
    """Return the check of the cameras that streams name, or of all where none is named.

    Args:
        formats: see `v4l2_formats`.
    """

    def check(device: Device) -> list[Finding]:
        named = [] if device.settings is None else _named(device)
        if named:
            return [finding for place in named for finding in _camera(device, place, formats)]
        found = sorted((device.root / "dev").glob("video[0-9]*"))
        if not found:
            return [unknown("camera", "none is named in the settings, and there is no /dev/video*")]
        return [finding for place in found for finding in _camera(device, place, formats)]

    return check


def _named(device: Device) -> list[Path]:
    assert device.settings is not None
    sources = [stream.source for stream in device.settings.streams]
    names = [f"/dev/video{source}" if source.isdigit() else source for source in sources]
    return [device.root / name.lstrip("/") for name in dict.fromkeys(names) if name.startswith("/dev/")]


def _camera(device: Device, place: Path, formats: Formats) -> list[Finding]:
    name = "/" + str(place.relative_to(device.root))
    if not place.exists():
        return [problem("camera", f"{name} does not exist", "plug it in, and name it by /dev/v4l/by-id/...")]
    found = _access(place, name)
    try:
        offered = formats(place)
    except OSError as error:
        return [*found, problem("camera", f"{name}: {error.strerror}", "run edgebeat doctor as root, or see above")]
    if not offered:
        advised = "take another /dev/video*: a camera often has a second one for metadata"
        return [*found, problem("camera", f"{name} captures no pictures", advised)]
    return [*found, ok("camera", f"{name}: {', '.join(offered)}")]


def _access(place: Path, name: str) -> list[Finding]:
    """Say whether the service, which is in the group of cameras, may open it."""
    status = place.stat()
    try:
        group = grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        group = str(status.st_gid)
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o006 == 0o006 or (group == "video" and mode & 0o060 == 0o060):
        return []
    advised = "the service is in the group video: chgrp video, chmod g+rw, or a udev rule"
    return [advice("camera", f"{name} belongs to the group {group} with mode {mode:03o}", advised)]
