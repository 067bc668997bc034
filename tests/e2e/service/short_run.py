"""One run of the agent against a real broker, for a machine that is too slow for the end-to-end tests.

python -m tests.e2e.service.short_run
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from pathlib import Path

from tests.agent_process import AgentProcess
from tests.broker import Broker, Subscriber
from tests.paths import COCO_SSD, REPOSITORY

PATIENCE_S = 600


def main() -> int:
    """Publish results of the default model on the demo's clip, then stop in order; print what came of it."""
    settings = (REPOSITORY / "config/demo/agent.toml").read_text()
    settings = settings.replace("deadline_ms = 250", "deadline_ms = 60000").replace("annotated_image", "# ")
    with (
        tempfile.TemporaryDirectory() as name,
        Broker(Path(name)) as broker,
        Subscriber(broker.port) as subscriber,
        AgentProcess(Path(name), settings, "--mqtt", broker.url) as agent,
    ):
        agent.wait_for_log("ready", PATIENCE_S)
        results = [subscriber.wait_for("results/clip", PATIENCE_S).body for _ in range(5)]
        summary = agent.terminate(PATIENCE_S)
    labels = sorted({found["label"] for result in results for found in result["detections"]})
    stream = summary["streams"]["clip"]
    told = {"machine": platform.machine(), "model": COCO_SSD.name, "labels": labels, "ledger": stream["ledger"]}
    json.dump({**told, "stage_ms": stream["stage_ms"], "versions": summary["versions"]}, sys.stdout, indent=1)
    return 0 if labels else 1


if __name__ == "__main__":
    sys.exit(main())
