"""Files of /proc and /sys."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.kernel_file import read_kernel_file, read_number, read_pressure


def test_what_cannot_be_read_is_an_empty_text(tmp_path: Path) -> None:
    """A file that is missing, a folder, and one that opens and does not read (EIO, EINVAL)."""
    assert read_kernel_file(tmp_path / "missing") == ""
    assert read_kernel_file(tmp_path) == ""
    assert read_kernel_file("/proc/self/mem") == ""


def test_a_file_longer_than_one_read_comes_whole(tmp_path: Path) -> None:
    """A cgroup of many devices, a device with many CPUs."""
    text = "".join(f"line {number}\n" for number in range(5000))
    (tmp_path / "long").write_text(text, encoding="ascii")
    assert read_kernel_file(tmp_path / "long") == text


@pytest.mark.parametrize(("text", "number"), [("42\n", 42), ("-3", -3), ("max\n", None), ("", None), ("1.5", None)])
def test_a_number_or_none(tmp_path: Path, text: str, number: int | None) -> None:
    """What a driver writes is not always a number."""
    (tmp_path / "file").write_text(text, encoding="ascii")
    assert read_number(tmp_path / "file") == number


@pytest.mark.parametrize(
    ("text", "percent"),
    [
        ("some avg10=1.25 avg60=0.50 avg300=0.10 total=7\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n", 1.25),
        ("some avg10=0.00", 0.0),
        ("some avg10=much", None),
        ("full avg10=9.00", None),
        ("some", None),
        ("", None),
    ],
)
def test_pressure_is_the_share_in_which_some_task_waited(tmp_path: Path, text: str, percent: float | None) -> None:
    """Not the share in which all did, and none where the kernel was built without."""
    (tmp_path / "file").write_text(text, encoding="ascii")
    assert read_pressure(tmp_path / "file") == percent
