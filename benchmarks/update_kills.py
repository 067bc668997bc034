"""SIGKILL at random moments while models and settings change: each start is on an accepted, verified pair."""

from __future__ import annotations

import contextlib
import hashlib
import random
import shutil
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.cli.model_release import signed_release
from agent.updates.file_server import file_server
from agent.updates.signature import generate_key
from benchmarks import harness, kills
from benchmarks.operator_client import OperatorClient
from benchmarks.remote import TINY, agent

OWN_VERSION = "1.0.0"
ENDS = ("committed", "rejected", "rolled_back")
PADDING_BYTES = 300_000
"""In each release a file of its own: some chunks to be fetched and hashed, of which a kill may hit any."""
BAD_SHARE = 0.25
"""Of the releases: half of them do not reproduce their golden sample, half have a byte that is not as signed."""

PUSH_SHARE = 0.6
"""Of the runs in which a new release comes; in the others the one before goes on from where the kill left it."""


class Releases:
    """A key, and a folder of releases behind a server.

    Args:
        folder: for them.
        draw: decides what they are.
    """

    def __init__(self, folder: Path, draw: random.Random) -> None:
        self.folder = folder / "served"
        self.folder.mkdir()
        self._draw = draw
        self._secret, public = generate_key("bench")
        self.keys = folder / "trusted"
        self.keys.write_text(public)
        self.keys.chmod(0o644)
        self.port = 0
        self.good: set[int] = set()

    def make(self, seq: int) -> dict[str, str]:
        """Put a release at the server, one in four bad, and return its manifest."""
        folder = Path(shutil.copytree(TINY, self.folder / str(seq)))
        manifest = folder / "model.toml"
        manifest.write_text(manifest.read_text().replace(f'version = "{OWN_VERSION}"', f'version = "release {seq}"'))
        padding = folder / "LICENSE"
        padding.write_bytes(self._draw.randbytes(PADDING_BYTES))
        is_bad, is_corrupt = self._draw.random() < BAD_SHARE, self._draw.random() < 0.5
        if is_bad and not is_corrupt:
            golden = folder / "golden.json"
            golden.write_text(golden.read_text().replace("0.8", "0.1"))
        elif not is_bad:
            self.good.add(seq)
        envelope, _ = signed_release(folder, "model", seq, f"http://127.0.0.1:{self.port}/{seq}", self._secret)
        if is_bad and is_corrupt:
            content = bytearray(padding.read_bytes())
            content[self._draw.randrange(len(content))] ^= 1
            padding.write_bytes(content)
        return envelope

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Serve them."""
        with file_server(self.folder, "127.0.0.1", 0, None, None) as server:
            self.port = server.server_address[1]
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            try:
                yield
            finally:
                server.shutdown()
                thread.join()

    def is_whole(self, folder: Path, seq: int) -> bool:
        """Return whether a release on the device holds what was signed, byte for byte."""
        signed = {file.name: _sha256(file) for file in (self.folder / str(seq)).iterdir()}
        return signed == {file.name: _sha256(file) for file in folder.iterdir()}


def kill_often(folder: Path, port: int, kills: int, draw: random.Random) -> Counter[str]:
    """Kill an agent so many times while releases and values come, and look at what each run started on.

    Returns:
        `starts`; of them `release` (a release serves) and `own`; kills by the phase of the last release; `wrong`: a
        model that was not verified, files that are not as signed, or values of another version of the settings;
        `at rest`: the last run brought the last release to its end.
    """
    counts = Counter(starts=0, release=0, own=0, wrong=0, pushed=0, rolled_back=0)
    releases, asked, boots = Releases(folder, draw), dict[int, float](), set[str]()
    more = f'[updates]\nkeys_file = "{releases.keys}"\nhosts = ["127.0.0.1"]\nprobation_s = 2\ncanary_frames = 1\n'
    with releases.serving(), OperatorClient(port, "bench") as operator:
        for number in range(1, kills + 2):
            since = operator.count()
            with agent(port, folder, probation_s=2.0, fps=20.0, more=more) as process:
                report = operator.wait_for("settings/reported", lambda b: b["boot"] not in boots, since=since)[2]
                boots.add(report["boot"])
                is_its = lambda body, boot=report["boot"]: body["boot"] == boot  # noqa: E731
                result = operator.wait_for("results/bench", is_its, since=since)[2]
                counts.update(_judged(report, result, asked, releases, folder / "state/updates"))
                if number > kills:
                    operator.wait_for("model/state", lambda body: body["phase"] in ENDS, since=since, timeout_s=120)
                    counts["at rest"] += 1
                    break
                if number == 1 or draw.random() < PUSH_SHARE:
                    asked[number] = 100.0 + number % 100
                    values = {"streams": {"bench": {"max_fps": asked[number]}}}
                    operator.ask(number, values, model=releases.make(number))
                    counts["pushed"] += 1
                harness.pause(draw.choice([draw.uniform(0.0, 0.3), draw.uniform(0.0, 7.0), draw.uniform(2.0, 7.0)]))
                if draw.random() < 0.15:
                    operator.command("rollback", {"what": "model", "id": str(number), "reply": "bench"})
                    counts["rolled_back"] += 1
                    harness.pause(draw.uniform(0.0, 0.3))
                counts[f"killed while {_phase(operator, since)}"] += 1
                process.send_signal(signal.SIGKILL)
                process.wait()
    return counts


def _phase(operator: OperatorClient, since: int) -> str:
    states = operator.heard("model/state", since=since)
    return str(states[-1][2]["phase"]) if states else "not begun"


def _judged(
    report: dict[str, Any], result: dict[str, Any], asked: dict[int, float], releases: Releases, updates: Path
) -> Counter[str]:
    """Judge one start: the settings by their version, the model by its release, whose files are read back."""
    version, fps = report["version"], report["values"]["streams"]["bench"]["max_fps"]
    is_right = fps == asked.get(version)
    served = str(result["model_version"])
    if served == OWN_VERSION:
        return Counter(starts=1, own=1, wrong=not is_right)
    seq = int(served.removeprefix("release "))
    (folder,) = (updates / "releases").glob(f"model-{seq}-*")
    is_right = is_right and seq in releases.good and releases.is_whole(folder, seq)
    return Counter(starts=1, release=1, wrong=not is_right)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(kills.main("update_kills", "SIGKILL at random moments while models and settings change.", kill_often))
