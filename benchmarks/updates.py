"""Releases of a model under a live stream, good and harmful: how long no result came while each was dealt with."""

from __future__ import annotations

import datetime
import itertools
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import ModelProto

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
QUALIFICATION_S = 100
SETTLE_S = 2.0
"""Before and after each release."""
ENDS_AS = {
    "good": "committed",
    "good, cut at half": "committed",
    "slower than allowed": "too_slow",
    "wrong on its golden frame": "not_verified",
    "too big: gigabytes": "too_big",
    "too big: 250 MiB of 300": "too_big",
    "crashes the child": "crashes",
    "hangs the child": "hangs",
    "wrong key": "bad_signature",
    "older version": "downgrade",
    "one bit corrupted": "corrupt",
}
"""What must become of each."""


def main() -> int:
    """Offer each and print the longest gap between two results."""
    parser = harness.parser("Model updates under a live stream of 10 frames a second.")
    args = parser.parse_args()
    harness.end_with_us()
    with tempfile.TemporaryDirectory() as name, harness.broker() as port:
        rows = _measure(Path(name), port)
    quiet = float(rows[0]["longest gap, periods"])
    worst = max(float(row["longest gap, periods"]) for row in rows[1:])
    surprises = [f"{row['release']}: {row['ends']}" for row in rows[1:] if row["ends"] != ENDS_AS[row["release"]]]
    verdicts = [
        harness.Verdict("frame periods without a result", worst, f"<= {GAP_PERIODS_MAX:g}", worst <= GAP_PERIODS_MAX),
        harness.Verdict("releases that ended otherwise", len(surprises), "= 0", not surprises),
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
        offers = _offers(site, f"http://127.0.0.1:{cutting.server_address[1]}")
        with agent(port, folder, probation_s=2.0, fps=FPS, more=more):
            operator.wait_for("results/bench", lambda _: True)
            harness.pause(SETTLE_S)
            since = operator.count()
            harness.pause(QUIET_S)
            rows = [{"release": "none", "ends": "", "s": QUIET_S, **_gap(operator, since)}]
            for offer in offers:
                rows.append(_measured(operator, site, offer))
                harness.note(f"{offer.name}: {rows[-1]}")
    return rows


@dataclass(frozen=True, slots=True)
class Offer:
    """One release, ready at the server: making it must not take the agent's CPU while it is measured."""

    name: str
    seq: int
    manifest: Any
    is_refused_at_once: bool = False


def _offers(site: Site, cutting_url: str) -> list[Offer]:
    def made(name: str, seq: int, folder: Path, **more: Any) -> Offer:
        return Offer(name, seq, site.manifest(seq, folder, **more))

    def hostile_one(name: str, seq: int, network: Callable[[], ModelProto]) -> Offer:
        return made(name, seq, hostile.folder_of(network, site.root / str(seq)))

    cut = site.model(12, TINY)
    (cut / "LICENSE").write_bytes(bytes(range(256)) * 4096)
    corrupted = made("one bit corrupted", 21, folder := site.model(21, TINY))
    content = bytearray((folder / "model.toml").read_bytes())
    content[9] ^= 1
    (folder / "model.toml").write_bytes(content)
    stranger = site.manifest(19, site.model(19, TINY), secret=generate_key("ours")[0])
    older = site.manifest(1, site.model(20, TINY))
    return [
        made("good", 11, site.model(11, TINY)),
        made("good, cut at half", 12, cut, url=f"{cutting_url}/12"),
        made("slower than allowed", 13, site.model(13, harness.SLOW100)),
        made("wrong on its golden frame", 14, hostile.wrong_golden(site.root / "14")),
        hostile_one("too big: gigabytes", 15, hostile.gigabytes),
        hostile_one("too big: 250 MiB of 300", 16, hostile.hundreds_of_megabytes),
        hostile_one("crashes the child", 17, hostile.fatal),
        hostile_one("hangs the child", 18, hostile.endless),
        Offer("wrong key", 19, stranger, is_refused_at_once=True),
        Offer("older version", 1, older, is_refused_at_once=True),
        corrupted,
    ]


def _measured(operator: OperatorClient, site: Site, offer: Offer) -> dict[str, Any]:
    """Offer a release and wait for its end; return what became of it and the longest gap meanwhile."""
    harness.pause(SETTLE_S)
    since = operator.count()
    begun_ns = operator.wait_for("results/bench", lambda _: True, since=since)[0]
    site.push(offer.seq, site.root, model=offer.manifest)
    if offer.is_refused_at_once:
        at_ns, _, report = operator.wait_for("settings/reported", lambda body: bool(body["errors"]), since=since)
        end = str(report["errors"]["model"]["code"])
    else:
        at_ns, _, state = operator.wait_for(
            "model/state", lambda body: body["seq"] == offer.seq and body["phase"] in ENDS, since=since, timeout_s=200
        )
        end = str(state.get("code") or state["phase"])
    harness.pause(SETTLE_S)
    return {"release": offer.name, "ends": end, "s": round((at_ns - begun_ns) / NS_PER_S, 1), **_gap(operator, since)}


def _gap(operator: OperatorClient, since: int) -> dict[str, Any]:
    """Return the longest time between two results as they were sent, and how many frames were not published."""
    heard = [body for _, _, body in operator.heard("results/bench", since=since)]
    sent_ms = [_captured_ms(body) + body["age_ms"] for body in heard]
    longest_ms = max(later - earlier for earlier, later in itertools.pairwise(sent_ms))
    return {
        "results": len(heard),
        "frames without": heard[-1]["frame"] - heard[0]["frame"] + 1 - len(heard),
        "longest gap, ms": round(longest_ms, 1),
        "longest gap, periods": round(longest_ms / PERIOD_MS, 2),
    }


def _captured_ms(body: dict[str, Any]) -> float:
    return datetime.datetime.fromisoformat(body["captured_at"]).timestamp() * 1e3


if __name__ == "__main__":
    sys.exit(main())
