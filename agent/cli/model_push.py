"""`edgebeat model push`: a signed release to one device, and what becomes of it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.cli import exit_codes
from agent.cli.arguments import positive
from agent.cli.operator import Operator
from agent.cli.reports import has_hidden, problems
from agent.cli.rollout import Ask
from agent.cli.settings import say, who
from agent.cli.watch import add_broker_arguments, broker_settings
from agent.clock import SystemClock
from agent.core.release import ReleaseRefusedError, parse_release
from agent.errors import ConfigError
from agent.updates.signature import read_envelope

ENDS = ("committed", "rejected", "rolled_back")
WAIT_S = 900.0
"""For the end: a download over a mobile link, and the probation."""


def add_arguments(commands: Any) -> None:
    """Add the command's arguments."""
    push = commands.add_parser("push", help="a signed release to a device; waits for its commit or its way back")
    push.add_argument("manifest", type=Path, metavar="FILE", help="what `sign` wrote")
    push.add_argument("--device", required=True, metavar="ID", help="the device's id")
    push.add_argument("--timeout", type=positive, default=WAIT_S, metavar="S", help="(default: %(default)g)")
    push.add_argument("--json", action="store_true", help="print the last state as JSON")
    add_broker_arguments(push)


def push(args: argparse.Namespace) -> int:
    """Ask for it and wait; 0 committed, 1 refused, taken back or no answer, 78 for what cannot be asked."""
    try:
        envelope = json.loads(args.manifest.read_bytes())
        release = parse_release(read_envelope(args.manifest.read_bytes()).payload)
    except (OSError, ValueError, ReleaseRefusedError) as error:
        raise ConfigError(f"{args.manifest}: is no signed manifest: {error}") from error
    states: list[Mapping[str, Any]] = []
    with Operator(broker_settings(args), args.device, SystemClock(), asked_by=who(), say=say) as operator:
        if not operator.wait(lambda: args.device in operator.devices, min(30.0, args.timeout)):
            say(f"{args.device}: no settings/reported: is the device id right?")
            return exit_codes.FAILED
        device = operator.devices[args.device]
        if has_hidden(device.report.accepted):
            raise ConfigError(
                f"{args.device}: its accepted settings hold a password that is not reported: set them again with "
                "`edgebeat settings set --file`, with the manifest as the key model of the document"
            )
        version = max(device.report.seen_version, device.report.version, device.desired_version) + 1
        document = {"schema": 1, "version": version, "values": device.report.accepted, "model": envelope}

        def hear(_name: str, state: Mapping[str, Any]) -> None:
            if state.get("name") == release.name and state.get("seq") == release.seq:
                if not states or _line(states[-1]) != _line(state):
                    say(_line(state))
                states.append(state)

        def is_over() -> bool:
            is_refused = device.report.seen_version == version and device.report.state in ("rejected", "stale")
            return is_refused or (bool(states) and states[-1].get("phase") in ENDS)

        operator.on_model = hear
        operator.send([Ask(args.device, json.dumps(document, separators=(",", ":")).encode())])
        operator.wait(is_over, args.timeout)
        report = device.report
    if args.json:
        print(json.dumps(states[-1] if states else report.body))
    if report.seen_version == version and report.state in ("rejected", "stale"):
        for line in problems(report):
            say(line)
        return exit_codes.FAILED
    if not states or states[-1].get("phase") not in ENDS:
        say(f"{args.device}: not over within {args.timeout:g} s; it goes on there: edgebeat watch")
        return exit_codes.FAILED
    return exit_codes.DONE if states[-1]["phase"] == "committed" else exit_codes.FAILED


def _line(state: Mapping[str, Any]) -> str:
    progress = state.get("progress")
    share = f" {progress:.0%}" if isinstance(progress, float) else ""
    reason = f": {state['reason']}" if state.get("reason") else ""
    return f"{state.get('name')} {state.get('seq')}: {state.get('phase')}{share}{reason}"
