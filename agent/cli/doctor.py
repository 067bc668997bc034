"""`edgebeat doctor`: one page that says what would hurt on this device, and a bundle for whoever helps."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
from importlib import metadata
from pathlib import Path

from agent import __version__
from agent.cli import exit_codes
from agent.cli.load import load_settings
from agent.cli.run import config_file
from agent.cli.secrets import without_secrets
from agent.cli.viewer import Viewer
from agent.clock import NS_PER_MS, NS_PER_S, SystemClock
from agent.desired.audit import FILE as AUDIT_FILE
from agent.doctor import clock, disk, heat, machine
from agent.doctor.broker import Answer, broker
from agent.doctor.bundle import write_bundle
from agent.doctor.cameras import cameras, v4l2_formats
from agent.doctor.finding import Check, Device, Finding, advice, ok, problem
from agent.doctor.models import Trial, models
from agent.doctor.report import as_json, examine, has_problem, lines
from agent.engine.session import runtime_version
from agent.errors import ConfigError
from agent.history import FILE as HISTORY_FILE
from agent.history import read_history
from agent.settings import MqttSettings, Settings

SERVICE_SETTINGS = Path("/etc/edgebeat/agent.toml")

VISIT_NS = 8 * NS_PER_S
"""For the name look-up, the connection and the answer; somebody waits for the page."""

RETAINED_NS = NS_PER_S // 2
"""After the subscription: retained messages follow it at once."""

TRIAL_S = 120.0
"""For a model; the agent itself gives it five minutes, but nobody would look at this page for so long."""

JOURNAL_LINES = "5000"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help=f"settings (default: $EDGEBEAT_CONFIG, {SERVICE_SETTINGS})"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quick", action="store_true", help="load no model and visit no broker")
    parser.add_argument("--bundle", type=Path, metavar="FILE", help="also write a .tar.gz for whoever helps you")
    parser.add_argument("--root", type=Path, default=Path("/"), help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Print the page; 0 when nothing on it is a problem."""
    file = config_file(args) or (SERVICE_SETTINGS if SERVICE_SETTINGS.is_file() else None)
    settings, found = _settings(file)
    device = Device(args.root, platform.machine(), settings, SystemClock().wall_ns())
    found += examine(device, checks(is_quick=args.quick))
    print(json.dumps(as_json(found), indent=1) if args.json else "\n".join(lines(found)))
    if args.bundle is not None:
        try:
            size = write_bundle(args.bundle, _parts(file, settings, found))
        except OSError as error:
            raise ConfigError(f"--bundle {args.bundle}: cannot be written: {error.strerror}") from error
        print(f"{args.bundle}: {size >> 10} KiB; look into it before you send it on", file=sys.stderr)
    return exit_codes.FAILED if has_problem(found) else exit_codes.DONE


def checks(*, is_quick: bool) -> list[Check]:
    """Return the checks in the order of the page."""
    telemetry_is_off = os.environ.get("ORT_DISABLE_TELEMETRY") == "1"
    slow = [] if is_quick else [models(try_model), broker(visit)]
    return [
        machine.system(platform.release(), platform.libc_ver()),
        machine.cpu,
        machine.cores,
        machine.memory,
        machine.pressure,
        machine.runtime(runtime_version(), telemetry_is_off),
        clock.source,
        clock.wall(clock.kernel_is_synchronised),
        heat.temperature,
        disk.state,
        disk.wear,
        cameras(v4l2_formats),
        *slow,
    ]


def _settings(file: Path | None) -> tuple[Settings | None, list[Finding]]:
    if file is None:
        return None, [advice("settings", "no settings file is named", "--config FILE looks at its models and broker")]
    try:
        return load_settings(file, {}).settings, [ok("settings", str(file))]
    except ConfigError as error:
        return None, [problem("settings", text, "edgebeat check says it all") for text in error.problems[:10]]


def try_model(path: Path) -> Trial:
    """Verify a model folder in a process of its own, which tells what it takes."""
    with tempfile.TemporaryFile() as output:
        command = [sys.executable, "-m", "agent", "model", "verify", str(path), "--json"]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        timer = threading.Timer(TRIAL_S, process.kill)
        timer.start()
        _, _, usage = os.wait4(process.pid, 0)
        timer.cancel()
        process.returncode = 0  # Collected above; Popen must not look for it again.
        output.seek(0)
        text = output.read().decode("utf-8", "replace")
    rss_max_mb = usage.ru_maxrss >> 10
    try:
        verdict = json.loads(text.splitlines()[-1])
    except (ValueError, IndexError):
        return Trial("", (f"{path}: no verdict within {TRIAL_S:g} s",), rss_max_mb)
    speeds = [f"{variant['name']} {variant['fastest_ms']} ms" for variant in verdict["variants"] if variant["ok"]]
    proof = (
        "golden sample right" if verdict["proven"] else "no golden sample, so that nothing proves its results here"
    )
    return Trial(f"{', '.join(speeds)}, {proof}", tuple(verdict["problems"]), rss_max_mb)


def visit(settings: MqttSettings, device: str) -> Answer:
    """Connect as a reader and take the retained messages of a device."""
    clock_, retained, said = SystemClock(), {}, [f"{settings.url}: no answer within {VISIT_NS // NS_PER_S} s"]
    own = settings.model_copy(update={"topic_prefix": f"{settings.topic_prefix}/{device}"})
    viewer = Viewer(
        own,
        clock_,
        on_message=lambda topic, payload: retained.update({topic.removeprefix(f"{own.topic_prefix}/"): payload}),
        on_connection=lambda _, sentence: said.append(sentence),
    )
    try:
        by_ns = clock_.now_ns() + VISIT_NS
        while not viewer.is_subscribed and clock_.now_ns() < by_ns and len(said) == 1:
            viewer.pump(50 * NS_PER_MS)
        by_ns = clock_.now_ns() + RETAINED_NS
        while viewer.is_subscribed and clock_.now_ns() < by_ns:
            viewer.pump(50 * NS_PER_MS)
        return Answer(said[-1], viewer.is_subscribed, retained)
    finally:
        viewer.close()


def _parts(file: Path | None, settings: Settings | None, found: list[Finding]) -> dict[str, str]:
    """Return the files of a bundle. Of the settings file its values, not its text: comments may hold anything."""
    packages = sorted(f"{d.metadata['Name']} {d.version}" for d in metadata.distributions())
    parts = {
        "doctor.json": json.dumps(as_json(found), indent=1),
        "versions.txt": "\n".join([f"edgebeat {__version__}", platform.platform(), sys.version, *packages]),
        "settings.json": json.dumps(
            None if settings is None else without_secrets(settings.model_dump(mode="json")), indent=1
        ),
        "settings-file.txt": str(file),
        "journal.txt": _output("journalctl", "--unit=edgebeat*", f"--lines={JOURNAL_LINES}", "--no-pager"),
        "service.txt": _output("systemctl", "show", "edgebeat.service", "--no-pager"),
        "kernel.txt": _output("dmesg", "--level=emerg,alert,crit,err,warn"),
    }
    if settings is not None and settings.mqtt.url != "embedded":
        answer = visit(settings.mqtt, settings.device.id)
        for name in ("health", "status"):
            parts[f"{name}.json"] = answer.retained.get(name, b"").decode("utf-8", "replace")
    if settings is not None:
        folder = settings.state.dir
        parts[HISTORY_FILE] = read_history(folder)
        for name in ("marks.json", AUDIT_FILE):
            parts[name] = _text(folder / name)
    return {name: str(without_secrets(text)) for name, text in parts.items()}


def _text(file: Path) -> str:
    """Return a file's text, empty where there is none; why where it cannot be read."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{file}: {error.strerror}"


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]}: {error}"
    return done.stdout + done.stderr
