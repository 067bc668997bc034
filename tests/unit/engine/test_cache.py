"""Compiled networks on disk: used when every byte is as it was written, else made again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.engine.cache import ENTRY_NAME, NETWORK_NAME, WEIGHTS_NAME, CompiledCache, cpu_flags
from tests.paths import REPOSITORY
from tests.unit.engine.trees import tree

FACTS = {"model": "ab", "cpu": "x"}


def build(size: int = 100) -> Callable[[Path], None]:
    """Return what writes an entry of about so many bytes."""

    def write(folder: Path) -> None:
        (folder / NETWORK_NAME).write_bytes(b"n" * 10)
        (folder / WEIGHTS_NAME).write_bytes(b"w" * size)

    return write


def fail(folder: Path) -> None:
    """Write half of an entry, then fail."""
    (folder / NETWORK_NAME).write_bytes(b"n")
    raise OSError(28, "No space left on device")


def test_what_was_added_is_found_by_the_same_facts_alone(tmp_path: Path) -> None:
    """Another CPU, version or model is another entry."""
    cache = CompiledCache(tmp_path / "compiled", 10_000)
    assert cache.find(FACTS) is None
    network = cache.add(FACTS, build())
    assert cache.find(FACTS) == network
    assert network.read_bytes() == b"n" * 10
    assert cache.find({**FACTS, "cpu": "y"}) is None
    assert cache.snapshot() == {"entries": 1, "mb": 0.0, "max_mb": 0}


def write(entry: Path, name: str, content: bytes) -> None:
    """Change a file of an entry, as only its owner can."""
    (entry / name).chmod(0o600)
    (entry / name).write_bytes(content)


def restate(entry: Path) -> None:
    """Let an entry say that it was made from another network."""
    note = json.loads((entry / ENTRY_NAME).read_text())
    note["facts"]["model"] = "cd"
    write(entry, ENTRY_NAME, json.dumps(note).encode())


def link(entry: Path) -> None:
    """Put a link in the place of the weights."""
    (entry / WEIGHTS_NAME).rename(entry.parent / ".elsewhere")
    (entry / WEIGHTS_NAME).symlink_to(entry.parent / ".elsewhere")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda entry: write(entry, WEIGHTS_NAME, b"w" * 99 + b"x"), "weights.bin is damaged"),
        (lambda entry: write(entry, NETWORK_NAME, b""), "network.onnx is damaged"),
        (lambda entry: (entry / WEIGHTS_NAME).unlink(), "it holds entry.json, network.onnx"),
        (lambda entry: (entry / "more").write_bytes(b""), "it holds entry.json, more"),
        (lambda entry: write(entry, ENTRY_NAME, b"{"), "its entry.json is damaged"),
        (lambda entry: write(entry, ENTRY_NAME, b"[" * 4000), "its entry.json is damaged"),
        (lambda entry: write(entry, ENTRY_NAME, b" " * 5000), "has no entry.json"),
        (restate, "it was made from something else"),
        (link, "holds something that is no file"),
        (lambda entry: entry.chmod(0o770), "others may write to it"),
        (lambda entry: entry.parent.chmod(0o777), "others may write to it"),
    ],
)
def test_a_damaged_or_foreign_entry_is_removed_and_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: Callable[[Path], object], said: str
) -> None:
    """Never trusted, never repaired."""
    cache = CompiledCache(tmp_path / "compiled", 10_000)
    entry = cache.add(FACTS, build()).parent
    change(entry)
    assert cache.find(FACTS) is None
    assert said in caplog.text
    assert not entry.exists()
    entry.parent.chmod(0o700)
    assert cache.find(FACTS) is None
    assert cache.add(FACTS, build()) == cache.find(FACTS)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of another user")
def test_an_entry_of_another_user_is_not_trusted(tmp_path: Path) -> None:
    """Whoever may write it may put weights of their own there, with digests that fit."""
    cache = CompiledCache(tmp_path / "compiled", 10_000)
    os.chown(cache.add(FACTS, build()).parent, 12345, -1)
    assert cache.find(FACTS) is None


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    """A full disk, an error of the compiler, and what a killed run left."""
    folder = tmp_path / "compiled"
    cache = CompiledCache(folder, 10_000)
    with pytest.raises(OSError, match="No space left"):
        cache.add(FACTS, fail)
    assert list(folder.iterdir()) == []
    (folder / ".half.part").mkdir()
    cache.add(FACTS, build())
    assert [file.name for file in folder.iterdir() if file.name.startswith(".")] == []


def test_a_folder_that_others_may_write_is_not_used(tmp_path: Path) -> None:
    """The agent then runs without compiled networks."""
    folder = tmp_path / "compiled"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(OSError, match="others may write to it"):
        CompiledCache(folder, 10_000).add(FACTS, build())


def test_the_oldest_goes_when_there_is_no_room(tmp_path: Path) -> None:
    """By its last use; what this process has mapped stays, and what can never fit is said."""
    folder = tmp_path / "compiled"
    for age, name in enumerate(("old", "used", "new")):
        entry = CompiledCache(folder, 10_000).add({"model": name}, build(1000)).parent
        os.utime(entry, ns=(age, age))
    later = CompiledCache(folder, 4000)
    assert later.find({"model": "old"})
    later.add({"model": "another"}, build(1000))
    left = CompiledCache(folder, 4000)
    assert [name for name in ("old", "used", "new", "another") if left.find({"model": name})] == [
        "old",
        "new",
        "another",
    ]
    with pytest.raises(OSError, match=r"do not fit into engine.cache_mb = 0"):
        left.add({"model": "huge"}, build(5000))


def test_what_serves_no_longer_makes_room_and_a_lower_bound_holds_at_once(tmp_path: Path) -> None:
    """An agent that runs for months has its models replaced more than once."""
    folder = tmp_path / "compiled"
    cache = CompiledCache(folder, 3500)
    old, new = cache.add({"model": "old"}, build(1000)), cache.add({"model": "new"}, build(1000))
    with pytest.raises(OSError, match="do not fit"):
        cache.add({"model": "newer"}, build(1000))
    cache.keep_only([new])
    cache.add({"model": "newer"}, build(1000))
    assert (old.exists(), new.exists()) == (False, True)
    os.utime(new.parent, ns=(1, 1))
    assert CompiledCache(folder, 2000).snapshot()["entries"] == 1
    assert not new.exists()


def test_two_may_build_at_once(tmp_path: Path) -> None:
    """A release is tried in one thread and settings in another; an entry that came meanwhile is taken."""
    folder = tmp_path / "compiled"

    def beside(part: Path) -> None:
        CompiledCache(folder, 10_000).add({"model": "other"}, build())
        CompiledCache(folder, 10_000).add(FACTS, build())
        build()(part)

    cache = CompiledCache(folder, 10_000)
    assert cache.add(FACTS, beside) == cache.find(FACTS)
    assert cache.find({"model": "other"})
    assert [file.name for file in folder.iterdir() if file.name.startswith(".")] == []


def test_what_vanishes_while_it_is_built_is_no_fault_of_the_network(tmp_path: Path) -> None:
    """An OSError: the agent then runs without a compiled form."""

    def vanish(part: Path) -> None:
        build()(part)
        (part / NETWORK_NAME).unlink()
        (part / NETWORK_NAME).symlink_to("nowhere")
        (part / WEIGHTS_NAME).unlink()
        (part / WEIGHTS_NAME).mkdir()

    with pytest.raises(OSError, match="cannot be read"):
        CompiledCache(tmp_path / "compiled", 10_000).add(FACTS, vanish)


def test_links_in_the_folder_are_in_nobodys_way(tmp_path: Path) -> None:
    """Under the entry's name, and under another."""
    folder = tmp_path / "compiled"
    cache = CompiledCache(folder, 300)
    entry = cache.add(FACTS, build(10)).parent
    entry.rename(tmp_path / "elsewhere")
    entry.symlink_to("nowhere")
    (folder / "another").symlink_to("nowhere")
    assert cache.find(FACTS) is None
    assert cache.add(FACTS, build(10)) == cache.find(FACTS)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_folder_out_of_reach_is_an_error_of_the_disk(tmp_path: Path) -> None:
    """As after a run as root: the agent runs without compiled networks, and says why."""
    folder = tmp_path / "compiled"
    CompiledCache(folder, 10_000).add(FACTS, build())
    program = (
        "import os, sys; from pathlib import Path; from agent.engine.cache import CompiledCache\n"
        "os.chdir(sys.argv[1])  # The folders above it are root's too.\n"
        "os.setuid(65534)\n"
        "cache = CompiledCache(Path('compiled'), 10_000)\n"
        f"print(cache.find({FACTS!r}))\n"
        "try:\n    cache.add({'model': 'x'}, print)\nexcept OSError as error:\n    print('OSError', error)\n"
    )
    tmp_path.chmod(0o711)
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )
    assert done.stdout.startswith("None\nOSError "), done.stdout
    assert "belongs to user 0" in done.stdout


UNLINKED = """
import sys
from pathlib import Path
import numpy as np
from agent.engine.cache import CompiledCache
from agent.engine.session import OrtEngine, SessionSetup
from agent.engine.trial import TensorShape, Trial, compile_network

network = Path("config/models/coco-ssd/model.onnx")
trial = Trial(network, SessionSetup(), (TensorShape("images", "uint8", (1, 300, 300, 3)),))
cache = CompiledCache(Path(sys.argv[1]), 1 << 30)
file = cache.add({"a": "b"}, lambda folder: compile_network(trial, folder, limit_bytes=1 << 30))
engine = OrtEngine(network, sha256=None, compiled=file)
picture = {"images": np.full((1, 300, 300, 3), 90, np.uint8)}
before = engine.run(picture, engine.new_abort())
file.parent.joinpath("weights.bin").unlink()
file.unlink()
after = engine.run(picture, engine.new_abort())
print(all(np.array_equal(one, other) for one, other in zip(before, after)))
"""


def test_a_running_session_does_not_notice_that_its_entry_is_removed(tmp_path: Path) -> None:
    """Weights are mapped: truncating the file would end the process, unlinking it does not."""
    done = subprocess.run(
        [sys.executable, "-c", UNLINKED, str(tmp_path / "c")],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
    )
    assert done.stdout.split() == ["True"], done.stderr


REPLACED = """
import sys
from pathlib import Path
import numpy as np
from agent.engine.cache import CompiledCache
from agent.engine.session import OrtEngine, SessionSetup, verified_sha256
from agent.engine.trial import TensorShape, Trial, compile_network

network = Path("tests/assets/models/tiny/model.onnx")
trial = Trial(network, SessionSetup(), (TensorShape("images", "uint8", (1, 32, 32, 3)),))
cache = CompiledCache(Path(sys.argv[1]), 1 << 30)
file = cache.add({"a": "b"}, lambda folder: compile_network(trial, folder, limit_bytes=1 << 30))
engine = OrtEngine(network, sha256=verified_sha256(network, None), compiled=file)
picture = {"images": np.full((1, 32, 32, 3), 90, np.uint8)}
before = engine.run(picture, engine.new_abort())
engine.release()
file.chmod(0o600)
file.write_bytes(b"something else")
after = engine.run(picture, engine.new_abort())
print(all(np.array_equal(one, other) for one, other in zip(before, after)))
"""


def test_an_entry_that_changed_since_it_was_verified_is_not_loaded_again(tmp_path: Path) -> None:
    """A network that was released is then loaded from its own file, verified anew."""
    done = subprocess.run(
        [sys.executable, "-c", REPLACED, str(tmp_path / "c")],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
    )
    assert done.stdout.split() == ["True"], done.stderr


def test_cpu_flags_tell_cpus_apart_and_not_their_order(tmp_path: Path) -> None:
    """A compiled network is for one kind of CPU."""
    files = {"a": "flags : avx avx2\n", "b": "flags : avx2 avx\n", "c": "Features : asimd\n"}
    first, same, other = (cpu_flags(tree(tmp_path / name, {"proc/cpuinfo": text})) for name, text in files.items())
    assert first == same != other
