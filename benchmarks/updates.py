"""Releases of a model under a live stream, good and harmful: how long no result came while each was dealt with."""

from __future__ import annotations

import itertools
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.clock import NS_PER_S
from agent.updates.file_server import file_server
from agent.updates.signature import generate_key
from benchmarks import harness
from benchmarks.operator_client import OperatorClient
from benchmarks.remote import TINY, agent
from tests import hostile
from tests.broker import Publisher
from tests.operator_site import ENDS, CuttingServer, Site

FPS = 10.0
PERIOD_MS = 1000 / FPS
GAP_PERIODS_MAX = 2.0
QUIET_S = 20.0
QUALIFICATION_S = 40
SETTLE_S = 2.0
"""Before and after each release."""

Make = Callable[[Site, int], Path]
REFUSED = {"wrong key": "bad_signature", "older version": "downgrade"}


def main() -> int:
    """Offer each and print the longest gap between two results."""
    parser = harness.parser("Model updates under a live stream of 10 frames a second.")
    args = parser.parse_args()
    harness.end_with_us()
    with tempfile.TemporaryDirectory() as name, harness.broker() as port:
        rows = _measure(Path(name), port)
    quiet = float(rows[0]["longest gap, periods"])
    worst = max(float(row["longest gap, periods"]) for row in rows[1:])
    verdicts = [
        harness.Verdict("frame periods without a result", worst, f"<= {GAP_PERIODS_MAX:g}", worst <= GAP_PERIODS_MAX)
    ]
    return harness.conclude("updates", rows, verdicts, as_json=args.json, quiet=quiet)


def _measure(folder: Path, port: int) -> list[dict[str, Any]]:
    root = folder / "served"
    root.mkdir()
    with (
        file_server(root, "127.0.0.1", 0, None, None) as server,
        CuttingServer(root, "LICENSE") as cutting,
        Publisher(port) as publisher,
        OperatorClient(port, "bench") as operator,
    ):
        for each in (server, cutting):
            threading.Thread(target=each.serve_forever, daemon=True).start()
        site = Site(folder, publisher, server, root, device="bench", model="model")
        more = (
            f'deadline_ms = 80\n[updates]\nkeys_file = "{site.keys}"\nhosts = ["127.0.0.1"]\nprobation_s = 5\n'
            f"qualification_s = {QUALIFICATION_S}\n[limits]\nmemory_mb = 300\n"
            # Work of others on this machine must not make the agent skip frames.
            "[degradation]\nsteps = []\n"
        )
        with agent(port, folder, probation_s=2.0, fps=FPS, more=more):
            operator.wait_for("results/bench", lambda _: True)
            harness.pause(SETTLE_S)
            since = operator.count()
            harness.pause(QUIET_S)
            rows = [{"release": "none", "ends": "", "s": QUIET_S, **_gap(operator, since)}]
            for seq, (name, make) in enumerate(_cases(site, cutting).items(), 10):
                rows.append(_offer(operator, name, seq, make))
                harness.note(f"{name}: {rows[-1]}")
    return rows


def _cases(site: Site, cutting: CuttingServer) -> dict[str, Callable[[int], None]]:
    def push(make: Make, **more: Any) -> Callable[[int], None]:
        return lambda seq: site.push(seq, make(site, seq), **more)

    def hostile_one(make: Callable[[], Any]) -> Callable[[int], None]:
        return push(lambda operator, seq: hostile.folder_of(make, operator.root / str(seq)))

    def corrupted(seq: int) -> None:
        folder = site.model(seq, TINY)
        manifest = site.manifest(seq, folder)
        content = bytearray((folder / "model.toml").read_bytes())
        content[9] ^= 1
        (folder / "model.toml").write_bytes(content)
        site.push(seq, folder, model=manifest)

    def cut(seq: int) -> None:
        folder = site.model(seq, TINY)
        (folder / "LICENSE").write_bytes(bytes(range(256)) * 4096)
        site.push(seq, folder, url=f"http://127.0.0.1:{cutting.server_address[1]}/{seq}")

    def older(seq: int) -> None:
        site.push(1, site.model(seq, TINY))

    def stranger(seq: int) -> None:
        site.push(seq, site.model(seq, TINY), secret=generate_key("ours")[0])

    good = push(lambda operator, seq: operator.model(seq, TINY))
    return {
        "good": good,
        "good, cut at half": cut,
        "slower than allowed": push(lambda operator, seq: operator.model(seq, harness.SLOW100)),
        "wrong on its golden frame": push(lambda o, seq: hostile.wrong_golden(o.root / str(seq))),
        "too big: gigabytes": hostile_one(hostile.gigabytes),
        "too big: 250 MiB of 300": hostile_one(hostile.hundreds_of_megabytes),
        "crashes the child": hostile_one(hostile.fatal),
        "hangs the child": hostile_one(hostile.endless),
        "wrong key": stranger,
        "older version": older,
        "one bit corrupted": corrupted,
    }


def _offer(operator: OperatorClient, name: str, seq: int, offer: Callable[[int], None]) -> dict[str, Any]:
    """Offer a release and wait for its end; return what became of it and the longest gap meanwhile."""
    harness.pause(SETTLE_S)
    since = operator.count()
    operator.wait_for("results/bench", lambda _: True, since=since)
    offer(seq)
    if name in REFUSED:
        at_ns, _, report = operator.wait_for("settings/reported", lambda body: bool(body["errors"]), since=since)
        end = str(report["errors"]["model"]["code"])
    else:
        at_ns, _, state = operator.wait_for(
            "model/state", lambda body: body["seq"] == seq and body["phase"] in ENDS, since=since, timeout_s=120
        )
        end = str(state.get("code", state["phase"]))
    harness.pause(SETTLE_S)
    took_s = (at_ns - operator.heard("", since=since)[0][0]) / NS_PER_S
    return {"release": name, "ends": end, "s": round(took_s, 1), **_gap(operator, since)}


def _gap(operator: OperatorClient, since: int) -> dict[str, Any]:
    """Return the longest time between two results, and how many frames were not published."""
    heard = operator.heard("results/bench", since=since)
    gaps_ms = [(later[0] - earlier[0]) / 1e6 for earlier, later in itertools.pairwise(heard)]
    frames = heard[-1][2]["frame"] - heard[0][2]["frame"] + 1
    longest_ms = max(gaps_ms)
    return {
        "results": len(heard),
        "frames without": frames - len(heard),
        "longest gap, ms": round(longest_ms, 1),
        "longest gap, periods": round(longest_ms / PERIOD_MS, 2),
    }


if __name__ == "__main__":
    sys.exit(main())
