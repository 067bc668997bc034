"""Operator libraries: code, so only what nobody else may change."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

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
        (lambda file: file.parent.parent.chmod(0o777), "may be written by others: chmod go-w"),
        (lambda file: file.unlink(), "there is no such file"),
        (lambda file: file.rename(file.parent / "a") and file.symlink_to(file.parent / "a"), "is a symbolic link"),
    ],
)
def test_one_that_others_could_change_is_refused(library: Path, change: Callable[[Path], object], said: str) -> None:
    """The file, the folders above it, any of which could be exchanged as a whole, and links that lead elsewhere."""
    change(library)
    with pytest.raises(ConfigError, match=said):
        check_custom_ops([str(library)])


def test_the_folders_behind_a_link_are_looked_at_too(library: Path, tmp_path: Path) -> None:
    """A link to a folder, behind another link: whoever may write where one of them lies leads it elsewhere."""
    between = tmp_path / "between"
    between.mkdir(mode=0o755)
    (between / "second").symlink_to("../ops")
    (tmp_path / "first").symlink_to(between / "second")
    named = str(tmp_path / "first" / library.name)
    check_custom_ops([named])
    between.chmod(0o777)
    with pytest.raises(ConfigError, match="between may be written by others"):
        check_custom_ops([named])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
@pytest.mark.parametrize("is_link", [False, True])
def test_an_entry_of_another_user_in_a_sticky_folder_is_refused(
    library: Path, tmp_path: Path, *, is_link: bool
) -> None:
    """The sticky bit keeps everybody from what is not theirs, and the owner from nothing."""
    tmp_path.chmod(0o1777)
    named = library
    check_custom_ops([str(named)])
    if is_link:
        (tmp_path / "link").symlink_to(library.parent)
        named = tmp_path / "link" / library.name
        os.chown(tmp_path / "link", 12345, 12345, follow_symlinks=False)
    else:
        os.chown(library.parent, 12345, 12345)
    with pytest.raises(ConfigError, match="belongs to user 12345"):
        check_custom_ops([str(named)])


def test_names_that_are_no_paths_are_refused() -> None:
    """A relative path would depend on the working folder; the package must be there."""
    with pytest.raises(ConfigError) as caught:
        check_custom_ops(["libops.so", "onnxruntime_extensions"])
    relative, package = caught.value.problems
    assert "must be an absolute path" in relative
    assert "pip install onnxruntime-extensions" in package


def package(said: Callable[[], str]) -> ModuleType:
    """Return what stands for onnxruntime_extensions, which says where its library is."""
    module = ModuleType("onnxruntime_extensions")
    module.__spec__ = ModuleSpec(module.__name__, None)
    module.get_library_path = said  # type: ignore[attr-defined]
    return module


def test_the_packages_library_is_checked_as_any_other(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is code as well: what others may write is refused, and so is one that is not there."""
    monkeypatch.setitem(sys.modules, "onnxruntime_extensions", package(lambda: str(library)))
    check_custom_ops(["onnxruntime_extensions"])
    library.parent.chmod(0o777)
    with pytest.raises(
        ConfigError, match=r"engine.custom_ops: onnxruntime_extensions: .*ops may be written by others"
    ):
        check_custom_ops(["onnxruntime_extensions"])
    library.parent.chmod(0o755)
    library.chmod(0o666)
    with pytest.raises(ConfigError, match=rf"onnxruntime_extensions: {library} may be written by others: chmod go-w"):
        check_custom_ops(["onnxruntime_extensions"])
    library.unlink()
    with pytest.raises(ConfigError, match=rf"onnxruntime_extensions: its library {library} is not there"):
        check_custom_ops(["onnxruntime_extensions"])


def test_a_package_that_fails_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Built for another Python, for example."""

    def broken() -> str:
        raise ImportError("undefined symbol:\n PyFrob")

    monkeypatch.setitem(sys.modules, "onnxruntime_extensions", package(broken))
    with pytest.raises(ConfigError, match="onnxruntime_extensions: cannot be imported: undefined symbol: PyFrob"):
        check_custom_ops(["onnxruntime_extensions"])


def test_a_file_that_is_no_library_is_one_clear_error(library: Path) -> None:
    """The loader's own reason, with the setting that names it."""
    with pytest.raises(ConfigError, match=rf"engine.custom_ops: {library}: cannot be loaded"):
        OrtEngine(MODELS / "tiny/model.onnx", sha256=None, setup=SessionSetup(custom_ops=(str(library),)))
