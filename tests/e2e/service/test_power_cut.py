"""The power fails before each command of an upgrade in turn: what is left always works, and the next call ends it."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from tests.e2e.service.installer import Tree

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(tmp_path)
    done = tree.call()
    assert done.returncode == 0, done.stderr
    return tree


def test_the_harness_installs_and_upgrades(tree: Tree) -> None:
    """Without a power cut: the new version is in use, the one before is kept."""
    old = tree.check()
    done = tree.call("--upgrade")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tree.versions()] == [old, tree.check()]
    assert tree.check() != old


@pytest.mark.parametrize("first", range(4))
def test_a_power_cut_before_any_command_leaves_a_version_that_works(tree: Tree, first: int) -> None:
    """The old one or the new one; the call that follows removes what is half, and ends what was begun."""
    kept = tree.root.with_name("kept")
    shutil.copytree(tree.root, kept, symlinks=True)
    old, seen = tree.check(), set()
    for cut_at in range(first, 1000, 4):
        shutil.rmtree(tree.root)
        shutil.copytree(kept, tree.root, symlinks=True)
        done = tree.call("--upgrade", cut_at=cut_at)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        seen.add("old" if tree.check() == old else "new")
        if cut_at % 5 == 0:  # Twice the time for each; a fifth of the places is enough.
            done = tree.call("--upgrade")
            assert done.returncode == 0, done.stderr
            assert tree.check() == tree.versions()[-1].name != old
            assert all((path / ".complete").exists() for path in tree.versions())
    assert cut_at > 50  # Commands, not the end of the loop.
    assert seen == {"old", "new"}


def test_a_version_in_use_is_never_taken_for_a_half(tree: Tree) -> None:
    """Though its mark did not reach the disk."""
    in_use = tree.root / "opt/edgebeat/versions" / tree.check()
    (in_use / ".complete").unlink()
    (in_use.parent / "half").mkdir()
    done = tree.call("--upgrade")
    assert done.returncode == 0, done.stderr
    assert in_use.exists()
    assert not (in_use.parent / "half").exists()
