"""Every command that README and docs show is run, as it stands there, at a desk with a broker and an agent.

What cannot run here stands in `ELSEWHERE` with where it does, or why nowhere. A command that is new in a page fails
until it is in one of the tables.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.clock import NS_PER_MS, SystemClock
from tests.agent_process import AgentProcess, settings_text
from tests.broker import MOSQUITTO, Broker, Subscriber
from tests.certificates import issue, make_authority
from tests.paths import CLIP, REPOSITORY

pytestmark = [
    pytest.mark.skipif(MOSQUITTO is None, reason="needs mosquitto: sudo apt-get install mosquitto"),
    pytest.mark.timeout(240),
]

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
PROGRAMS = ("edgebeat ", ".venv/bin/edgebeat", "scripts/", "mosquitto_", "sudo", "systemctl", "python")

ENDS = {
    "edgebeat check --load --config /etc/edgebeat/agent.toml": "settings are valid",
    "edgebeat check --config /etc/edgebeat/agent.toml": "settings are valid",
    ".venv/bin/edgebeat check --config agent.toml": "settings are valid",
    ".venv/bin/edgebeat run --model config/models/coco-ssd --source clip.mp4 --output stdout": '"label":"cat"',
    "edgebeat model verify config/models/coco-ssd --threads 1": "the golden sample comes out right",
    "edgebeat model verify models/coco-ssd": "the golden sample comes out right",
    "edgebeat run --config agent.toml --duration 60 --record-trace trace.ndjson": '"stop_reason":"duration reached"',
    "edgebeat simulate --trace trace.ndjson --speed 0.5 --plot half.svg": "goodput",
    "EDGEBEAT_STATE__DIR=state edgebeat model tune coco-ssd --fps 3 --deadline-ms 400": "ms",
    "edgebeat simulate --synthetic --bursts 0.1 --priority s0=9 --min-share 0.4": "goodput",
    "edgebeat simulate --synthetic --streams 6 --fps 15 --service-ms 40 --drops 1": "goodput",
    "edgebeat settings show --device porch --mqtt mqtt://broker:1883": "streams.door.max_fps",
    "edgebeat settings set --device porch --mqtt mqtt://broker:1883 streams.door.max_fps=5 "
    "streams.door.deadline_ms=400": "v1 applied, proven",
    "edgebeat settings set --fleet 'edgebeat/v1/+' --mqtt mqtt://broker:1883 --shares 1,10%,50%,100% "
    "--rollback-failed-share limits.memory_mb=300": "share 1 of 1: 1 done",
    "edgebeat settings schema > values.schema.json": "",
    "edgebeat model keygen fleet-2026": "wrote fleet-2026.secret",
    "edgebeat model sign models/coco-ssd --key fleet-2026.secret --seq 7 --url https://models.example/coco-ssd/7": (
        "seq 7"
    ),
    # Both say what would hurt here, and exit 1 for it.
    "sudo edgebeat doctor": "cpu ",
    "sudo edgebeat doctor --bundle edgebeat-bundle.tar.gz": "look into it before you send it on",
}
"""Commands that end by themselves, in the order in which they run, and what they print."""

ENDLESS = {
    ".venv/bin/edgebeat run --model config/models/coco-ssd --source 0 --mqtt mqtt://127.0.0.1:1883": "ready: ",
    ".venv/bin/edgebeat run --config agent.toml": "ready: door",
    ".venv/bin/edgebeat watch --mqtt mqtt://127.0.0.1:1883": "porch",
    "edgebeat watch --mqtt mqtt://127.0.0.1:1883": "porch",
    "edgebeat model serve models --cert cert.pem --key key.pem --host 0.0.0.0": "serving models at https://",
    "mosquitto_sub -t 'edgebeat/v1/porch/responses/desk' &\n"
    "mosquitto_pub -q 1 -t edgebeat/v1/porch/commands/rollback -m "
    '\'{"id":"2","reply":"desk","what":"settings","version":42}\'': '"state":"error"',
    "mosquitto_sub -t 'edgebeat/v1/porch/responses/desk' &\n"
    'mosquitto_pub -q 1 -t \'edgebeat/v1/porch/commands/ping\' -m \'{"id":"1","reply":"desk"}\'': '"state":"ok"',
}
"""Commands that go on until somebody ends them, and what they print first."""

CLIENT = """
# Stands for Mosquitto's clients, which a package of its own brings. What is published is sent again and again: an
# answer may come before the one beside it listens, and a command that is repeated is answered again.
import sys, time
import paho.mqtt.client as mqtt
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
client.on_message = lambda _client, _nothing, message: print(message.payload.decode(), flush=True)
client.on_connect = lambda *_: "-m" in words or client.subscribe(words["-t"])
client.connect("127.0.0.1", int(words["-p"]))
client.loop_start()
while "-m" in words:
    client.publish(words["-t"], words["-m"], int(words["-q"])).wait_for_publish(10)
    time.sleep(0.2)
time.sleep(1000)
"""

IN_A_CONTAINER = "needs root and systemd: e2e/service/test_life runs it in a Debian of its own (scripts/test_service)"
ELSEWHERE = {
    "scripts/demo --seconds 25": "e2e/test_demo runs the demo; the script around it installs packages",
    "scripts/test": "this is what it runs",
    "scripts/bundle --arch aarch64 --python 3.11": "fetches 110 MB; scripts/test_service runs it for its machine",
    "tar -xzf edgebeat-*.tar.gz": IN_A_CONTAINER,
    "sudo edgebeat-*/install": IN_A_CONTAINER,
    "sudo scripts/install": IN_A_CONTAINER,
    "sudo scripts/install --upgrade": IN_A_CONTAINER,
    "sudo scripts/install --uninstall": IN_A_CONTAINER,
    "sudo scripts/install --uninstall --purge": "removes /etc/edgebeat; e2e/service/test_refusals parses it",
    "sudo systemctl restart edgebeat": IN_A_CONTAINER,
    "sudo systemctl reload edgebeat": IN_A_CONTAINER,
    "systemctl status edgebeat": IN_A_CONTAINER,
    "journalctl -u edgebeat -f": IN_A_CONTAINER + ", without -f",
    "systemd-analyze security --offline=true systemd/edgebeat.service": "unit/test_docs_commands runs it",
    "sudo sh -c 'umask 077; cat > /etc/edgebeat/mqtt-password'": "writes what somebody types below /etc",
}


def commands() -> list[str]:
    """Return each command of a block, as it is typed; two that belong together stay together."""
    found: list[str] = []
    for page in PAGES:
        blocks = re.findall(r"^ *```(\w*)\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE)
        for block in [text for language, text in blocks if language in ("sh", "console", "")]:
            lines = [re.sub(r" +# .*", "", line.strip()) for line in block.splitlines()]
            if any(line.startswith("$ ") for line in lines):
                lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
            else:
                lines = [line for line in lines if line.startswith(PROGRAMS)]
            # One that runs beside the next belongs to it.
            found += re.findall(r"(?:[^\n]* &\n)*[^\n]+", "\n".join(lines))
    return found


class Desk:
    """A folder with what the pages speak of, an agent on it, and programs by the names that people type."""

    def __init__(self, folder: Path, broker: Broker) -> None:
        self.folder = folder
        self._replaced = {
            "mqtt://broker:1883": broker.url,
            "mqtt://127.0.0.1:1883": broker.url,
            "/etc/edgebeat/agent.toml": "agent.toml",
            "--source 0": f"--source {CLIP}",  # No test has a camera.
            "--duration 60": "--duration 3",
            "tune coco-ssd --fps 3 --deadline-ms 400": "tune "
            "models/coco-ssd --fps 0.1 --deadline-ms 9000 --seconds 3",
            "--host 0.0.0.0": "--host 127.0.0.1 --port 0",  # Nobody else is to come in meanwhile.
            ".venv/bin/": "",
            "mosquitto_sub": f"mosquitto_sub -p {broker.port}",
            "mosquitto_pub": f"mosquitto_pub -p {broker.port}",
        }
        programs = folder / "programs"
        programs.mkdir()
        bodies = {"edgebeat": f'#!/bin/sh\nexec {sys.executable} -m agent "$@"\n', "sudo": '#!/bin/sh\nexec "$@"\n'}
        bodies |= dict.fromkeys(("mosquitto_sub", "mosquitto_pub"), f"#!{sys.executable}\n{CLIENT}")
        for name, body in bodies.items():
            (programs / name).write_text(body)
            (programs / name).chmod(0o755)
        environ = {name: value for name, value in os.environ.items() if not name.startswith("EDGEBEAT_")}
        self._environ = environ | {"PATH": f"{programs}:{environ['PATH']}", "PYTHONPATH": str(REPOSITORY)}

    def start(self, command: str) -> subprocess.Popen[bytes]:
        """Begin a command in a session of its own; what it prints goes to `printed`."""
        for typed, here in self._replaced.items():
            command = command.replace(typed, here)
        with (self.folder / "printed").open("wb") as printed:
            return subprocess.Popen(
                ["bash", "-c", command],
                cwd=self.folder,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def printed(self) -> str:
        """What the last command has printed."""
        return (self.folder / "printed").read_text()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder, site = tmp_path_factory.mktemp("desk"), tmp_path_factory.mktemp("site")
    (folder / "config").symlink_to(REPOSITORY / "config")
    shutil.copytree(REPOSITORY / "config/models/coco-ssd", folder / "models/coco-ssd")
    shutil.copy(CLIP, folder / "clip.mp4")
    make_authority(folder)
    certificate, key = issue(folder, "server", "localhost")
    certificate.rename(folder / "cert.pem")
    key.rename(folder / "key.pem")
    with Broker(site) as broker, Subscriber(broker.port) as subscriber:
        (folder / "agent.toml").write_text(settings_text(url=broker.url).replace("porch", "desk"))
        more = "[remote]\nprobation_s = 2\non_time_loss_max = 1.0"
        text = settings_text(url=broker.url, stream="repeat = true\nfps = 10", more=more, state=site / "state")
        with AgentProcess(site, text) as agent:
            subscriber.wait_for("porch/settings/reported")
            yield Desk(folder, broker)
            agent.terminate()


def test_every_command_is_in_a_table() -> None:
    """And no table speaks of one that no page shows."""
    assert set(commands()) == {*ENDS, *ENDLESS, *ELSEWHERE}
    assert len(commands()) > 35


@pytest.mark.parametrize("command", ENDS)
def test_a_command_that_ends(desk: Desk, command: str) -> None:
    """It prints what the page is about, and no traceback."""
    code = desk.start(command).wait(180)
    assert code in ((0, 1) if "doctor" in command else (0,)), desk.printed
    assert ENDS[command] in desk.printed
    assert "Traceback" not in desk.printed


@pytest.mark.parametrize("command", ENDLESS)
def test_a_command_that_goes_on(desk: Desk, command: str) -> None:
    """It prints what the page is about, and ends when it is told to."""
    process, clock, never = desk.start(command), SystemClock(), threading.Event()
    try:
        for _ in range(1200):
            if ENDLESS[command] in desk.printed:
                break
            clock.wait(never, 50 * NS_PER_MS)
        assert ENDLESS[command] in desk.printed, desk.printed
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert "Traceback" not in desk.printed
