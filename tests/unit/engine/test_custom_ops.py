"""Operator libraries: code, so only what nobody else may change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.engine.custom_ops import check_custom_ops
from agent.engine.session import OrtEngine, SessionSetup
from agent.errors import ConfigError
from tests.paths import MODELS


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A file that only this user may write, in such a folder."""
    folder = tmp_path / "ops"
    folder.mkdir(mode=0o755)
    file = folder / "libops.so"
    file.write_bytes(b"no library")
    file.chmod(0o644)
    return file


def test_a_library_of_ones_own_passes(library: Path) -> None:
    """Readable by all, writable by its owner."""
    check_custom_ops([str(library)])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda file: file.chmod(0o664), "may be written by others: chmod go-w"),
        (lambda file: file.chmod(0o602), "may be written by others"),
        (lambda file: file.parent.chmod(0o777), "ops may be written by others"),
        (lambda file: file.unlink(), "there is no such file"),
        (lambda file: file.rename(file.parent / "a") and file.symlink_to(file.parent / "a"), "is a symbolic link"),
    ],
)
def test_one_that_others_could_change_is_refused(library: Path, change: Callable[[Path], object], said: str) -> None:
    """The file, the folder that it could be replaced in, and links that lead elsewhere."""
    change(library)
    with pytest.raises(ConfigError, match=said):
        check_custom_ops([str(library)])


def test_names_that_are_no_paths_are_refused() -> None:
    """A relative path would depend on the working folder; the package must be there."""
    with pytest.raises(ConfigError) as caught:
        check_custom_ops(["libops.so", "onnxruntime_extensions"])
    relative, package = caught.value.problems
    assert "must be an absolute path" in relative
    assert "pip install onnxruntime-extensions" in package


def test_a_file_that_is_no_library_is_one_clear_error(library: Path) -> None:
    """The loader's own reason, with the setting that names it."""
    with pytest.raises(ConfigError, match=rf"engine.custom_ops: {library}: cannot be loaded"):
        OrtEngine(MODELS / "tiny/model.onnx", sha256=None, setup=SessionSetup(custom_ops=(str(library),)))
