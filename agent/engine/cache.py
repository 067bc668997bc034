"""Compiled networks in the state folder: what ONNX Runtime's optimiser made, loaded in a tenth of the time.

An entry is a folder, named by the digest of everything that it depends on, with three files: the optimised network,
its weights, which are mapped and not read, and `entry.json`, which holds those facts and the digests of both. An
entry is never changed: it is written beside its place, flushed, and moved there as a whole; it is unlinked as a
whole, which leaves a session that maps it undisturbed (overwriting it would change results, truncating it would end
the process).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import platform
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from agent.engine.digest import sha256_of
from agent.errors import ConfigError

log = logging.getLogger(__name__)

NETWORK_NAME, WEIGHTS_NAME, ENTRY_NAME = "network.onnx", "weights.bin", "entry.json"

FORMAT = "1"
"""Of an entry; another one makes every entry a stranger."""

ENTRY_BYTES_MAX = 4096
"""Of `entry.json`: eight facts of at most 100 bytes."""


def cpu_flags(root: Path = Path("/")) -> str:
    """Return what the optimiser's choice of layouts depends on: the machine and what its first CPU can do."""
    try:
        lines = (root / "proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        lines = []
    flags = next((line.partition(":")[2] for line in lines if line.lower().startswith(("flags", "features"))), "")
    words = " ".join(sorted(flags.split()))
    return f"{platform.machine()} {hashlib.sha256(words.encode()).hexdigest()[:16]}"


class CompiledCache:
    """Keeps compiled networks within a number of bytes. One thread.

    Args:
        folder: of the cache alone; made where it is absent, for this user only.
        max_bytes: of all entries.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._used: set[str] = set()
        """Entries that serve, or that were asked for since `keep_only`: never removed for want of room."""
        with contextlib.suppress(OSError):
            self._make_room(0)  # The bound may be less than it was. Whatever is in the way, `add` says it.

    def keep_only(self, networks: Iterable[Path]) -> None:
        """Let every entry go when there is no room, but for these networks and what is asked for from now on."""
        self._used = {network.parent.name for network in networks}

    def find(self, facts: Mapping[str, str]) -> Path | None:
        """Return the network of the entry with these facts, verified; None where there is none.

        An entry that is damaged, that others could have written or that says something else is removed.
        """
        entry = self._folder / _key(facts)
        try:
            entry.lstat()
        except OSError:
            return None  # Absent; or out of reach, and `add` says why.
        try:
            why = _distrust(self._folder) or _distrust(entry) or _difference(entry, facts)
        except (OSError, ConfigError) as error:
            why = f"cannot be read: {error}"
        if why is not None:
            log.warning("%s: is not used and will be made again: %s", entry, why)
            _remove(entry)
            return None
        self._used.add(entry.name)
        try:
            os.utime(entry)  # The oldest is the one that was not used for longest.
        except OSError:
            log.debug("%s: its time of use cannot be set", entry)
        return entry / NETWORK_NAME

    def add(self, facts: Mapping[str, str], build: Callable[[Path], None]) -> Path:
        """Make an entry and return its network.

        Args:
            facts: what the compiled network depends on.
            build: writes network and weights into the folder that it is given.

        Raises:
            OSError: the disk is full, read-only or absent; nothing is left behind.
            ConfigError: whatever `build` raises; likewise.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (why := _distrust(self._folder)) is not None:
            raise OSError(f"{self._folder}: {why}")
        entry = self._folder / _key(facts)
        with _part_of(entry) as partial:
            build(partial)
            _seal(partial, facts)
            self._make_room(_bytes_of(partial))
            try:
                partial.rename(entry)
            except OSError:
                # Another process may have made the same meanwhile.
                if self.find(facts) is None:
                    raise
            _flush(self._folder)
        self._used.add(entry.name)
        return entry / NETWORK_NAME

    def snapshot(self) -> dict[str, object]:
        """Return figures for health."""
        entries = self._entries()
        return {
            "entries": len(entries),
            "mb": round(sum(map(_bytes_of, entries)) / 2**20, 1),
            "max_mb": self._max_bytes >> 20,
        }

    def _make_room(self, wanted_bytes: int) -> None:
        """Remove the oldest entries until one more fits.

        Raises:
            OSError: it never will.
        """
        removable = [entry for entry in self._entries() if entry.name not in self._used]
        removable.sort(key=lambda entry: entry.lstat().st_mtime_ns)
        kept_bytes = sum(map(_bytes_of, self._entries()))
        while kept_bytes + wanted_bytes > self._max_bytes:
            if not removable:
                raise OSError(
                    f"{self._folder}: {wanted_bytes} bytes more do not fit into engine.cache_mb = "
                    f"{self._max_bytes >> 20}: raise it"
                )
            oldest = removable.pop(0)
            kept_bytes -= _bytes_of(oldest)
            _remove(oldest)

    def _entries(self) -> list[Path]:
        try:
            return [entry for entry in self._folder.iterdir() if not entry.name.startswith(".")]
        except OSError:
            return []


def _key(facts: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps([FORMAT, sorted(facts.items())]).encode()).hexdigest()[:32]


def _distrust(path: Path) -> str | None:
    """Return why nothing in a folder can be trusted, None where only this user writes there."""
    state = path.lstat()
    if not stat.S_ISDIR(state.st_mode):
        return "is no folder"
    if state.st_uid != os.geteuid():
        return f"belongs to user {state.st_uid}"
    return "others may write to it" if state.st_mode & 0o022 else None


def _difference(entry: Path, facts: Mapping[str, str]) -> str | None:
    """Return in what an entry differs from what it must be; None when every byte is as it was written."""
    names = sorted(file.name for file in entry.iterdir())
    if not all((entry / name).is_file() and not (entry / name).is_symlink() for name in names):
        return "holds something that is no file"
    note = entry / ENTRY_NAME
    if ENTRY_NAME not in names or note.stat().st_size > ENTRY_BYTES_MAX:
        return f"has no {ENTRY_NAME}"
    try:
        stated = json.loads(note.read_bytes())
        digests = dict(stated["digests"])
        is_ours = stated["facts"] == dict(facts)
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"its {ENTRY_NAME} is damaged"
    if not is_ours:
        return "it was made from something else"
    if sorted([*digests, ENTRY_NAME]) != names or NETWORK_NAME not in digests:
        return f"it holds {', '.join(names)}"
    damaged = [name for name, digest in digests.items() if sha256_of(entry / name) != digest]
    return f"{', '.join(damaged)} is damaged" if damaged else None


def _seal(folder: Path, facts: Mapping[str, str]) -> None:
    """Flush what was built, write down what it is, and close it to changes."""
    files = [file for file in (folder / NETWORK_NAME, folder / WEIGHTS_NAME) if file.exists()]
    note = folder / ENTRY_NAME
    try:
        digests = {file.name: sha256_of(file) for file in files}
    except ConfigError as error:  # Nothing is wrong with the network.
        raise OSError(str(error)) from error
    note.write_text(json.dumps({"facts": dict(facts), "digests": digests}, indent=1), encoding="utf-8")
    for file in (*files, note):
        _flush(file)
        file.chmod(0o400)
    _flush(folder)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _bytes_of(entry: Path) -> int:
    try:
        return sum(file.lstat().st_size for file in entry.iterdir())
    except OSError:
        return 0


@contextlib.contextmanager
def _part_of(entry: Path) -> Iterator[Path]:
    """Give a folder beside an entry, to build it in; what is left of it in the end goes, and what killed runs left.

    A part is locked while it is built, by whom ever: the agent tries a release in one thread and settings in another.
    """
    with _locked(entry.parent):
        for leftover in entry.parent.glob(".*.part"):
            with contextlib.suppress(OSError), _locked(leftover, is_patient=False):
                _remove(leftover)
        partial = Path(tempfile.mkdtemp(prefix=f".{entry.name}.", suffix=".part", dir=entry.parent))
        lock = contextlib.ExitStack()
        lock.enter_context(_locked(partial))
    with lock:
        try:
            yield partial
        finally:
            _remove(partial)


@contextlib.contextmanager
def _locked(folder: Path, *, is_patient: bool = True) -> Iterator[None]:
    """Hold a folder for oneself, also against other threads. Raises OSError: it is held, or there are no locks."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if is_patient else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            entry.unlink()
